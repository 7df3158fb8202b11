"""exempt-last-N in predictions: what a prompt's last rows cost in bytes and seconds when they go uncompressed."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.reference.mixed import MixedScheme
from thinwire.sim import api
from thinwire.sim.quality.auto import Prices
from thinwire.sim.report import Prediction
from thinwire.sim.workload import Prompt

from ..command import run
from .helpers import machine

MODEL = load_model("llama-3-70b")
QUESTION: dict[str, Any] = {"model": "llama-3-70b", "cluster": "8xl40s-pcie", "tp": 4, "input_tokens": 1024}
PAGE = Path(__file__).parents[2] / "docs/decisions/021-prompt-accuracy.md"
CODECS = ("flash-int4", "flash-int8", "flash2-int5", "mxfp4", "quickreduce-int4", "ring:int4-g128-zp")


def asked(name: str, **given: Any) -> Prediction:
    return api.predict(scheme=name, **{**QUESTION, **given})


def exempt(name: str, count: int, **given: Any) -> Prediction:
    return asked(f"{name}+exempt-last-{count}" if count else name, **given)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("count", [1, 4, 16])
def test_bytes_are_the_coded_rows_and_the_raw_ones(count: int, batch: int) -> None:
    """Two steps of three quarters of (tokens - N) rows of codes and N of bf16, at 160 points, in as many exchanges."""
    codec, width = scheme("flash-int4").reduce, MODEL.hidden_size
    found, without = exempt("flash-int4", count, batch=batch), asked("flash-int4", batch=batch)
    rows = batch * (1024 - count)
    each = 2 * 3 * (codec.wire_bytes(rows * width // 4) + 2 * batch * count * width // 4)
    assert found.traffic.layer_bytes_per_gpu == 160 * each
    assert found.traffic.all_reduce_count == without.traffic.all_reduce_count == 160


@pytest.mark.parametrize("name", CODECS)
def test_one_row_of_1024_is_all_but_free(name: str) -> None:
    without, one, sixteen = (exempt(name, count).ttft_s for count in (0, 1, 16))
    assert without < one < 1.001 * without and one < sixteen < 1.02 * without


@pytest.mark.parametrize(
    ("cluster", "tp"), [("8xl40s-pcie", 8), ("8xh100-nvlink", 8), ("4xl4-pcie", 3), ("2x8xh100-ib", 16)]
)
def test_less_than_two_percent_on_other_machines(cluster: str, tp: int) -> None:
    for name in ("flash-int4", "flash2-int4-hier", "mxfp4"):
        given = {"cluster": cluster, "tp": tp, "model": "llama-3-8b" if tp != 3 else "smollm2-135m"}
        without, one = (exempt(name, count, **given).ttft_s for count in (0, 1))
        assert without * (1 - 1e-12) <= one < 1.02 * without, (name, cluster)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(CODECS),
    st.sampled_from(["8xl40s-pcie", "8xh100-nvlink"]),
    st.sampled_from([2, 4, 8]),
    st.integers(2, 600),
    st.integers(0, 599),
    st.integers(0, 599),
    st.integers(1, 3),
)
def test_more_rows_are_never_faster_and_none_cost_nothing(
    name: str, cluster: str, tp: int, tokens: int, some: int, more: int, batch: int
) -> None:
    """As long as a row is coded: where none is left the engine sends all its own way, which may be faster."""
    some, more = sorted((min(some, tokens - 1), min(more, tokens - 1)))
    given = {"model": "llama-3-8b", "cluster": cluster, "tp": tp, "input_tokens": tokens, "batch": batch}
    few, many = exempt(name, some, **given), exempt(name, more, **given)
    assert few.ttft_s <= many.ttft_s * (1 + 1e-12)
    assert few.traffic.layer_bytes_per_gpu <= many.traffic.layer_bytes_per_gpu
    if some == 0:
        assert few.ttft_s == asked(name, **given).ttft_s


def test_all_rows_exempt_is_uncompressed() -> None:
    for count in (64, 5000):
        found = exempt("flash-int4", count, input_tokens=64)
        plain = asked("bf16", input_tokens=64)
        assert found.ttft_s == plain.ttft_s and found.traffic == plain.traffic


def test_an_exchange_of_its_own_would_cost_more() -> None:
    """What the same messages save: the first row's own all-reduce takes 16 us a point, the last row's bytes 1 us."""
    without, last, first = (asked(name).ttft_s for name in ("flash-int4", EXAMPLES[0], "flash-int4+exempt-1"))
    assert (first - without) > 10 * (last - without) > 0
    assert f"takes {(first - without) * 1e6:,.0f} us" in " ".join(PAGE.read_text().split())
    assert f"{(last / without - 1):.2%}".replace("%", " %") in PAGE.read_text()


EXAMPLES = tuple(f"flash-int4+exempt-last-{count}" for count in (1, 4, 16))


def test_the_page_says_what_is_predicted() -> None:
    """Every row of the table in the decision, from the command beside it."""
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", PAGE.read_text(), re.MULTILINE)
    assert [int(row[0]) for row in rows] == [0, 1, 4, 16]
    without = asked("flash-int4")
    for count, mb, more_mb, ms, more_us in rows:
        found = exempt("flash-int4", int(count))
        sent, before = found.traffic.layer_bytes_per_gpu, without.traffic.layer_bytes_per_gpu
        assert (mb, more_mb) == (f"{sent / 1e6:.1f}", f"{(sent - before) / 1e6:.1f}")
        assert (ms, more_us) == (f"{found.ttft_s * 1e3:.2f}", f"{(found.ttft_s - without.ttft_s) * 1e6:.0f}")


# ---- the doors


def test_commands_take_it(capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--model", "llama-3-8b", "--cluster", "8xl40s-pcie", "--tp", "4", "--input-tokens", "512")
    status, out, _ = run(capsys, "compare", *where, "--schemes", "flash-int4,flash-int4+exempt-last-4", "--json")
    rows = {row["scheme"]: row for row in json.loads(out)["rows"]}
    assert status == 0 and rows["flash-int4+exempt-last-4"]["ttft_ms"] > rows["flash-int4"]["ttft_ms"]
    status, out, _ = run(capsys, "predict", *where, "--scheme", "flash-int4+exempt-last-4", "--explain", "-v")
    said = " ".join(out.split())
    assert status == 0 and "the last 4 tokens of each prompt travel uncompressed, in the same messages" in said
    assert "all-reduce of 2097152 values, the last 16384 uncompressed: two_step by" in said
    one = asked("mxfp4+exempt-last-1").assumptions
    assert "the last token of each prompt travels uncompressed, in the same messages as the others" in one
    given = ("--cluster", "8xl40s-pcie", "--tp", "4", "--bytes", "1048576", "--json")
    plain, last = (
        json.loads(run(capsys, "collective", *given, "--scheme", name)[1])["time_us"]
        for name in ("flash-int4", "flash-int4+exempt-last-4")
    )
    assert plain == last  # a collective alone has no tokens


def test_auto_prices_it() -> None:
    """One message a point, as in the prediction of a scheme for all points."""
    gpus, profile = machine("8xh100-nvlink", 4)
    model, prompt = load_model("llama-3-8b"), Prompt(2, 700)
    prices = Prices(model, gpus, prompt, profile)
    names = ("flash-int4", "flash-int4+exempt-last-4", "mxfp4+exempt-1+exempt-last-16")
    for name in names:
        ttft = [
            api.predict("llama-3-8b", "8xh100-nvlink", n, tp=4, batch=2, input_tokens=700).ttft_s
            for n in (name, "none")
        ]
        assert 2 * model.num_layers * prices[name] == pytest.approx(ttft[0] - ttft[1], rel=1e-9)
    assert 0 < prices[names[1]] - prices[names[0]] < 0.02 * prices[names[0]]


def test_points_may_differ_in_it() -> None:
    plain, last = scheme("flash-int4"), scheme("flash-int4+exempt-last-4")
    layers = load_model("llama-3-8b").num_layers
    given = {"model": "llama-3-8b", "cluster": "8xl40s-pcie", "tp": 4, "input_tokens": 512}
    half = api.predict(scheme=MixedScheme("half", (plain,) * layers, (last,) * layers), **given)
    ends = [asked(entry.name, **given).ttft_s for entry in (plain, last)]
    assert half.ttft_s == pytest.approx(sum(ends) / 2, rel=1e-9)
