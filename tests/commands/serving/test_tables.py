"""What serve, plan and sweep print: it fits 60, 80 and 160 columns, the answer comes first, nothing is cut."""

import json
from functools import cache
from pathlib import Path

import pytest

from thinwire.commands.serving import serve as command
from thinwire.commands.serving.planned import show
from thinwire.sim.planning.file import read
from thinwire.sim.planning.plan import Planner
from thinwire.sim.report import Prediction
from thinwire.sim.serving.question import Service
from thinwire.sim.serving.serve import ServingResult, answer
from thinwire.sim.serving.verdict import model_error, rests_on, verdict

from ...command import Capture, run

WIDTHS = (60, 80, 160)
ASKED = {"model": "llama-3-70b", "cluster": "8xl40s-pcie", "scheme": "flash-int4"}
SERVE = ("serve", "--model", "llama-3-8b", "--cluster", "8xl40s-pcie", "--tp", "4", "--duration", "40")
PLAN = """
model = "llama-3-8b"
load = { rate_per_s = 4.0, prompt = { mean = 512 }, output = { mean = "0.0625k", kind = "geometric" } }
targets = { ttft = { percentile = 90, seconds = 1.0 }, perplexity_ratio = 1.05 }
prices.8xl40s-pcie = { per_gpu_hour = 1.0, source = "test" }
prices.8xrtx-pro-6000-pcie = { per_gpu_hour = 1.6, source = "test" }
search = { tp = [2], schemes = ["bf16", "flash-int8", "flash-int4"], token_budgets = ["2k"], seconds = 20.0 }
"""


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    width: int = request.param
    monkeypatch.setenv("COLUMNS", str(width))
    return width


@cache
def served() -> tuple[ServingResult, Prediction | None]:
    found = answer(Service(**ASKED, rate=2.0, slo_ttft_ms=1000.0, duration=200.0), None, True)  # type: ignore[arg-type]
    return found, model_error(found)


@pytest.mark.parametrize("wide", WIDTHS, indirect=True)
def test_serve_fits(capsys: Capture, wide: int) -> None:
    found, alone = served()
    command._show(found, alone, rests_on(found, alone), False)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= wide
    assert squeezed(out).startswith(verdict(found)) and "…" not in out
    head = next(line for line in out.splitlines() if "p50" in line and "p99" in line)
    assert {"p50", "p90", "p99"} <= {*head.split()} and (wide < 80 or "mean" in head) and (wide < 160 or "p95" in head)
    assert "e+0" not in out and " ±" in out
    said = squeezed(out)
    assert "Each ± is the simulation's alone" in said and "busy" not in said
    assert "more (" in said and said.count(" of the interval of a prompt alone]") in (1, 2, 3)


@pytest.mark.parametrize("wide", WIDTHS, indirect=True)
def test_plan_fits(capsys: Capture, wide: int, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    asked = read(path)
    planner = Planner(asked.problem)
    plan = planner.solve()
    halved = planner.solve(asked.what_if("link x0.001"), frontier=False)
    show(asked, plan, planner.binding(plan), [halved], [], True)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= wide
    assert out.startswith("Cheapest: ") and "…" not in out
    at = [squeezed(out).index(words) for words in ("What binds", "Small changes", "Candidates: ", "What it rests on")]
    assert at == sorted(at)


def test_the_document_of_serve(capsys: Capture) -> None:
    """Version, command and answer first; ten assumptions, the others counted; -v has all."""
    given = (*SERVE, "--rate", "5", "--input-tokens", "0.5k", "--token-budget", "1k", "--slo-ttft-ms", "500", "--json")
    status, out, err = run(capsys, *given)
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert [*document][:3] == ["version", "command", "verdict"] and document["command"].startswith(
        "thinwire serve --model"
    )
    assert (document["load"]["prompt"]["mean_tokens"], document["batching"]["token_budget"]) == (512, 1024)
    assert document["headroom"]["value"] == pytest.approx(document["capacity_requests_per_s"]["value"] / 5)
    assert len(document["assumptions"]) == 10 and sum(document["assumptions_left_out"].values()) > 10
    every = json.loads(run(capsys, *given, "-v")[1])
    assert every["assumptions_left_out"] == {} and {*document["assumptions"]} < {*every["assumptions"]}
    assert len(every["assumptions"]) == 10 + sum(document["assumptions_left_out"].values())
    without = json.loads(run(capsys, *given, "--no-headroom")[1])
    assert "headroom" not in without and without["ttft_ms"] == document["ttft_ms"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--rate", "5"), "No SLO was given: TTFT is "),
        (("--rate", "5", "--slo-ttft-ms", "1e6"), "The SLO (TTFT 1000000 ms) is kept at p99, by 100.0% of requests; "),
        (
            ("--rate", "5", "--slo-ttft-ms", "0.001"),
            "The SLO (TTFT 0.001 ms) is kept at no percentile looked at, by",
        ),
        (("--rate", "500", "--slo-ttft-ms", "1000"), "Saturated: more arrives than is served"),
        (("--users", "4"), "requests/s are, of the "),
        (("--rate", "5", "--fault", "9-12:0:down"), "requests/s without the faults"),
    ],
)
def test_the_verdict(capsys: Capture, given: tuple[str, ...], said: str) -> None:
    short = (*given, "--duration", "10") if "500" in given else given
    assert said in json.loads(run(capsys, *SERVE, *short, "--json")[1])["verdict"]
