"""Sweeps of serving runs and of plans: rows are what those commands say, and nothing of a sweep's promises is lost."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from thinwire.sim.costs.profile import Profile
from thinwire.sim.planning.file import read
from thinwire.sim.planning.plan import Planner
from thinwire.sim.question import options_of
from thinwire.sim.serving import serve as serving_face
from thinwire.sim.serving.arrivals import ClosedLoop, Drawn, Fixed, Geometric, LogNormal, Trace
from thinwire.sim.serving.question import Deployment
from thinwire.sim.serving.serve import Fault, serve
from thinwire.sim.serving.statistics import Slo
from thinwire.sim.sweeps import serving as sweep_serve
from thinwire.sim.sweeps import sweep as module
from thinwire.sim.sweeps.spec import KINDS, Sweep, read_sweep
from thinwire.sim.sweeps.sweep import Task, sweep, tasks_of, work

from ..planning.test_plan import FILE
from .sweeps import Killer, Stopped, kept, killed_half_way, rows, stop_at

pytest.importorskip("pyarrow.parquet", reason="pip install 'thinwire[sweep]'")

# 20 points in tasks of two, two of them refused: on two GPUs the 70B model leaves no room for a KV cache.
SERVE = """
what = "serve"
cluster = "8xl40s-pcie"
tp = 2
token_budget = 256
max_sequences = 16
input_tokens = 300
output_tokens = 20
duration = 30.0
slo_ttft_ms = 200.0
[[grid]]
model = "llama-3-8b"
scheme = ["bf16", "flash-int4", "mxfp4"]
replicas = [1, 2]
rate = [2.0, 6.0, 40.0]
[[grid]]
model = "llama-3-70b"
rate = [1, 2]
"""
POINTS, FAILING = 20, 2

# Six points, of which the tightest target is kept by nothing.
PLAN = """
what = "plan"
plan = "plan.toml"
[[grid]]
load = [1, 2.5]
links = [{}, { "bridge*->bridge*" = 0.5, "*" = 0.9 }]
[[grid]]
ttft = [{ percentile = 50, seconds = 0.001 }, { percentile = 99, seconds = 0.4 }]
tpot = { percentile = 50, seconds = 0.05 }
prices = { l40s = 3, 4xl4-pcie = 2 }
perplexity_ratio = 1.0
seed = 7
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(SERVE)
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The serving runs of one uninterrupted run in one process."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "spec.toml").write_text(SERVE)
    found = sweep(folder / "spec.toml", folder / "o.parquet", workers=1)
    assert (found.points, found.failed, found.computed) == (POINTS, FAILING, POINTS)
    return (folder / "o.parquet").read_bytes()


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    (tmp_path / "plan.toml").write_text(FILE)
    path = tmp_path / "plans.toml"
    path.write_text(PLAN)
    return path


def read_text(folder: Path, text: str) -> Sweep:
    path = folder / "s.toml"
    path.write_text(text)
    return read_sweep(path)


# --- kinds ---


def test_kinds_agree_with_themselves() -> None:
    """Axes, points, columns and defaults are the same names in the same order, whatever the kind."""
    for what, kind in KINDS.items():
        axes = [*kind.axes.model_fields]
        assert what == kind.what and {*kind.file.model_fields} - {"baseline"} == {*axes, "what", "grid"}
        asked = options_of(kind.point) if what != "plan" else [each.name for each in fields(kind.point)]
        assert {*asked} == {*axes} and {*kind.defaults, *kind.plain, *kind.loaders} <= {*axes}
        renamed = [name if what == "predict" or name != "gpus" else "replica_gpus" for name in axes]
        assert [*kind.columns][1 : 1 + len(axes)] == renamed or what == "plan"
        assert next(iter(kind.columns)) == "id" and [*kind.columns][-2:] == ["error_type", "error"]
    assert len({tuple(kind.columns) for kind in KINDS.values()}) == len(KINDS)
    # What changes slowest is what neighbours share: the machine, then what an iteration's duration depends on.
    assert [*KINDS["predict"].axes.model_fields][-3:] == ["batch", "input_tokens", "scheme"]
    serving = [*KINDS["serve"].axes.model_fields]
    assert serving.index("gate") < serving.index("scheme") < serving.index("replicas")


def test_ids_of_the_examples_do_not_change_between_releases(root: Path) -> None:
    """A result's ids are its users' keys: a change here, but for one of the example itself, goes to CHANGELOG.md."""
    first = {name: sorted(read_sweep(root / "examples" / f"{name}.toml").ids)[0] for name in EXAMPLES}
    assert first == EXAMPLES


EXAMPLES = {
    "sweep": "005bc8a82acfdce0762181fb",
    "sweep-serve": "01dd4906cdc6fbfe1f0df53f",
    "sweep-plan": "4a5175801549cd6047d61c82",
}


def test_tasks_suit_what_a_point_costs() -> None:
    sizes = {
        what: [kind.task_size(points) for points in (1, 36, 600, 10_000, 1_000_000)] for what, kind in KINDS.items()
    }
    assert sizes == {"predict": [1, 1, 15, 25, 250], "serve": [1, 3, 4, 4, 250], "plan": [1, 1, 1, 2, 250]}


def serve_toml(changes: Mapping[str, str]) -> str:
    base = {"model": '"llama-3-8b"', "cluster": '"8xl40s-pcie"', "rate": "2.0", "duration": "30.0"}
    return 'what = "serve"\n' + "".join(f"{key} = {value}\n" for key, value in {**base, **changes}.items() if value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('what = "plans"', 's.toml:1: what: must be "predict" or "serve" or "plan"; given \'plans\''),
        ("model = 'llama-3-8b'\nwhat = ['serve']", "s.toml:2: what: must be"),
        ("what = 'serve'\ngrid = [{ what = 'plan' }]", "grid.0.what: unknown key"),
        ("model = 'llama-3-8b'\nrate = 2.0", "s.toml:2: rate: unknown key"),
        (serve_toml({"rate": ""}), "s.toml:1: a table needs one of rate, users, trace; given none"),
        (serve_toml({"users": "3"}), "a table needs one of rate, users, trace; given rate and users"),
        (serve_toml({}) + "[[grid]]\n[[grid]]\nusers = 3", "s.toml:7: grid.1: a table needs one of rate, users, trace"),
        (serve_toml({"batch": "3"}), "s.toml:6: batch: unknown key"),
        (serve_toml({"launch": '"graph"'}), "s.toml:6: launch: unknown key"),
        (serve_toml({"replica": "3"}), "s.toml:6: replica: unknown key; did you mean replicas?"),
        (serve_toml({"replicas": "[1, 0]"}), "s.toml:6: replicas.1: Input should be greater than or equal to 1"),
        (serve_toml({"replicas": "1.5"}), "s.toml:6: replicas.0: Input should be a valid integer"),
        (serve_toml({"rate": '"2"'}), "s.toml:4: rate.0: Input should be a valid number; given '2'"),
        (serve_toml({"rate": "[1, -2]"}), "s.toml:4: rate.1: must be a positive finite number; given -2"),
        (serve_toml({"input_tokens": "0.5"}), "input_tokens.0: Input should be greater than or equal to 1"),
        (serve_toml({"policy": '"best"'}), "policy.0: Input should be 'round-robin', 'least-tokens' or 'shared-queue'"),
        (serve_toml({"lengths": '["fixed", "normal"]'}), "lengths.1: lengths 'normal' (fixed, lognormal[:VARIATION]"),
        (serve_toml({"lengths": '"lognormal:-1"'}), "lengths.0: lengths 'lognormal:-1' (fixed, lognormal[:VARIATION]"),
        (serve_toml({"fault": '"soon"'}), "s.toml:6: fault.0: a fault is AT[-UNTIL]"),
        (serve_toml({"fault": '[[], ["5:0:down", "9-8:0:down"]]'}), "fault.1: a fault ends after it begins"),
        (serve_toml({"gate": "1"}), "gate.0: Input should be a valid boolean"),
        (serve_toml({"scheme": '"auto:1%%"'}), "s.toml:6: scheme: "),
        (serve_toml({"tp": "9223372036854775808"}), "s.toml:6: tp.0: must be a positive whole number"),
        (serve_toml({"rate": "", "users": "4", "burstiness": "[1.0, 4.0]"}), "burstiness, which belongs to rate, not"),
        ("what = 'serve'\nrate = " + "[" * 3000, "malformed TOML"),
        (serve_toml({"cluster": '"8xl40"'}), "s.toml:3: cluster: unknown cluster '8xl40'; did you mean"),
        (serve_toml({"rate": "", "trace": '"no.csv"'}), "trace: cannot read trace "),
        (serve_toml({"rate": "", "trace": '"s.toml"'}), "trace: {}/s.toml:1: a trace has the columns TIMESTAMP"),
        ('what = "plan"\nload = 2', "s.toml:1: plan: missing key"),
        ('what = "plan"\nplan = "none.toml"', "s.toml:2: plan: cannot read the plan "),
        ('what = "plan"\nplan = ["plan.toml", "s.toml"]', "s.toml:2: plan: {}/s.toml:1: what: unknown key"),
        ('what = "plan"\nplan = "plan.toml"\nload = [1, 0]', "s.toml:3: load.1: Input should be greater than"),
        ('what = "plan"\nplan = "plan.toml"\nload = 2000', "s.toml:3: load.0: Input should be less than"),
        ('what = "plan"\nplan = "plan.toml"\nlinks = { "a->b" = 2 }', "s.toml:3: links: no machine of the search has"),
        ('what = "plan"\nplan = "plan.toml"\nprices = { h100 = 2 }', "s.toml:3: prices: price of what? 'h100' is none"),
        ('what = "plan"\nplan = "plan.toml"\nttft = { percentile = 80, seconds = 1 }', "ttft.0.percentile: Input"),
        ('what = "plan"\nplan = "plan.toml"\nperplexity_ratio = 0.9', "perplexity_ratio.0: Input should be greater"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "plan.toml").write_text(FILE)
    with pytest.raises(ValueError) as refused:
        read_text(tmp_path, text)
    assert said.replace("{}", str(tmp_path)) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_ids_do_not_change_between_releases(tmp_path: Path) -> None:
    """A result's ids are its users' keys: a change here goes to CHANGELOG.md."""
    (tmp_path / "plan.toml").write_text(FILE)
    served = read_text(tmp_path, serve_toml({"fault": '"5:0:down"', "tp": '["all", 2]'}))
    assert served.ids == ("bad4f1a8920b37e15502cdf6", "7b620cad8ed304747845059b")
    planned = read_text(tmp_path, 'what = "plan"\nplan = "plan.toml"\nload = [1, 2]\nlinks = { "*" = 0.5 }')
    assert planned.ids == ("56ac1b591acc2a1964df4896", "21c2140fbe84bf2943c0a86a")


@pytest.mark.parametrize("first", ["predict", "serve", "plan"])
@pytest.mark.parametrize("stopped", [False, True], ids=["whole", "parts"])
def test_a_file_holds_one_kind(
    tmp_path: Path, plans: Path, spec: Path, first: str, stopped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of another kind, whole or in parts, are neither mixed in nor written over."""
    predict = tmp_path / "predict.toml"
    predict.write_text('model = "llama-3-8b"\ncluster = "8xl40s-pcie"\nscheme = ["bf16", "none"]\ninput_tokens = 64')
    specs, out = {"predict": predict, "serve": spec, "plan": plans}, tmp_path / "o.parquet"
    refused = lambda point, name, kind, *_: {  # noqa: E731
        **dict.fromkeys(kind.columns), "id": name, "error_type": "ValueError", "error": "not computed here",
    }  # fmt: skip
    monkeypatch.setattr(module, "_row", refused)
    if stopped:
        with pytest.raises(Stopped):
            sweep(specs[first], out, workers=1, watch=stop_at(1))
    else:
        sweep(specs[first], out, workers=1)
    there = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    assert there
    for other in KINDS:
        if other == first:
            continue
        with pytest.raises(
            ValueError, match=f'holds rows of a sweep with what = "{first}", this one has what = "{other}"'
        ):
            sweep(specs[other], out, workers=1)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == there
    assert sweep(specs[first], out, workers=1).resumed >= 1


# --- serving runs ---


def test_rows_are_what_serve_says(spec: Path, expected: bytes, tmp_path: Path) -> None:
    out = tmp_path / "o.parquet"
    out.write_bytes(expected)
    found = rows(out)
    assert [row["id"] for row in found] == list(read_sweep(spec).ids)
    asked = [
        (scheme, replicas, rate)
        for scheme in ("bf16", "flash-int4", "mxfp4")
        for replicas in (1, 2)
        for rate in (2.0, 6.0, 40.0)
    ]
    assert [(row["scheme"], row["replicas"], row["rate"]) for row in found[:18]] == asked
    for row, (scheme, replicas, rate) in zip(found, asked, strict=False):
        if (replicas, rate) not in ((1, 40.0), (2, 6.0)):
            continue
        deployment = Deployment(
            model="llama-3-8b", cluster="8xl40s-pcie", scheme=scheme, tp=2, replicas=replicas, token_budget=256,
            max_sequences=16,
        )  # fmt: skip
        alone = serve(deployment, Drawn(rate, LogNormal(300), LogNormal(20)), 30.0, Slo(ttft_s=0.2))
        said = json.loads(json.dumps(alone.to_dict()))
        assert (row["error_type"], row["error"]) == (None, None)
        for name in ("ttft_ms", "tpot_ms", "latency_ms"):
            assert row[f"{name}_count"] == said[name]["count"] > 0
            for key in ("mean", "p50", "p90", "p95", "p99"):
                estimate = {"value": row[f"{name}_{key}"], "half_width": row[f"{name}_{key}_half_width"]}
                assert estimate == said[name][key]
        for name in ("goodput_requests_per_s", "output_tokens_per_s", "queue_length", "in_system"):
            assert {"value": row[name], "half_width": row[f"{name}_half_width"]}.items() <= said[name].items()
        plain = (
            "model", "cluster", "scheme", "tp", "replicas", "gpus", "policy", "seed", "utilisation",
            "slo_attainment", "saturated", "filling", "kv_cache_most", "end_s", "iterations", "events", "little_error",
        )  # fmt: skip
        assert {name: row[name] for name in plain} == {name: said[name] for name in plain}
        assert (row["weights"], said["weights"]) == ("auto", "bf16")
        assert (row["duration"], row["warm_up"]) == (said["duration_s"], said["warm_up_s"])
        assert {name: row[f"requests_{name}"] for name in said["requests"]} == said["requests"]
        assert (row["queue_length_most"], row["in_system_growth"]) == (
            said["queue_length"]["most"], said["in_system"]["growth"],
        )  # fmt: skip
        assert (row["kv_tokens"], row["profile_name"]) == (said["batching"]["kv_tokens"], said["profile"])
    assert any(row["saturated"] for row in found) and not all(row["saturated"] for row in found)
    for row in found[18:]:
        assert row["error_type"] == "ValueError" and "leaves no room for a KV cache on 2 x l40s" in row["error"]
        assert row["tp"] == 2 and row["ttft_ms_mean"] is None and row["saturated"] is None


def test_a_scheme_may_be_chosen_for_the_point(tmp_path: Path) -> None:
    spec = tmp_path / "s.toml"
    spec.write_text(
        serve_toml({"model": '"smollm2-135m"', "cluster": '"4xl4-pcie"', "tp": "3", "scheme": '"auto:+1%"'})
    )
    sweep(spec, tmp_path / "o.parquet", workers=1)
    (row,) = rows(tmp_path / "o.parquet")
    deployment = Deployment(model="smollm2-135m", cluster="4xl4-pcie", tp=3, scheme="auto:+1%")
    alone = serve(deployment, Drawn(2.0, LogNormal(1024), LogNormal(128)), 30.0).to_dict()
    assert row["error"] is None and row["ttft_ms_mean"] == alone["ttft_ms"]["mean"]["value"]


def test_every_scalar_of_the_document_is_a_column() -> None:
    deployment = Deployment(model="llama-3-8b", cluster="8xl40s-pcie", tp=2, token_budget=64, max_sequences=4)
    found = serve(deployment, Drawn(1.0, Fixed(64), Fixed(2)), 20.0)
    run = found.run.to_dict()
    del run["slo_ms"]
    flat = sweep_serve.flat(run)
    assert [*flat, "speedup", "perplexity_ratio"] == [*sweep_serve.RESULTS]
    kinds = {"int64": int, "float64": (float, int), "bool_": bool}
    assert all(isinstance(flat[name], kinds[column]) for name, column in sweep_serve.RESULTS.items() if name in flat)  # type: ignore[arg-type]


def test_every_axis_reaches_the_run(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = json.loads((root / "sim" / "profiles" / "gpu-l40s.json").read_text())
    (tmp_path / "p.json").write_text(json.dumps({"gpu": {**own, "name": "mine"}}))
    (tmp_path / "t.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,10,2\n4,20,3\n")
    given = {
        "tp": "4", "gpus": '"0,1,6-7"', "nodes": "1", "weights": '"fp8"', "profile": '"p.json"',
        "scaled_links": '{ "*" = 0.5 }',
        "slow_ranks": "{ 1 = 2 }", "ep": "2", "attention": '"dp"', "expert_exchange": '"all-to-all"',
        "expert_skew": "1.5", "kv": '"fp8"', "token_budget": "512", "max_sequences": "32", "whole_prompts": "true",
        "kv_tokens": "9000", "host_ms": "2", "gate": "true", "scheme": '"flash-int4"',
        "replicas": "3", "decode_replicas": "2", "transfer_gb_per_s": "7",
        "policy": '"round-robin"', "fault": '[["5:1:down", "6-9:0:slow:2=1.5"]]', "input_tokens": "77",
        "output_tokens": "33", "lengths": '"geometric"', "burstiness": "4", "speed": "2", "duration": "50",
        "warm_up": "3", "slo_ttft_ms": "250", "slo_tpot_ms": "40", "seed": "5",
    }  # fmt: skip
    assert {*given, "model", "cluster", "rate", "users", "trace"} == {*KINDS["serve"].axes.model_fields}
    calls: list[tuple[Any, ...]] = []

    def seen(deployment: Deployment, load: Any, duration_s: float, slo: Slo, faults: Any, **more: Any) -> Any:
        calls.append((deployment, load, duration_s, slo, tuple(faults), more["seed"], more["warm_up_s"]))
        raise ValueError("seen")

    monkeypatch.setattr(serving_face, "serve", seen)
    sources = {"rate": "9", "users": "4", "trace": '"t.csv"'}
    (tmp_path / "s.toml").write_text(
        serve_toml({"rate": "", **given}) + "".join(f"[[grid]]\n{name} = {value}\n" for name, value in sources.items())
    )
    sweep(tmp_path / "s.toml", tmp_path / "o.parquet", workers=1)
    deployments, loads = {repr(call[0]) for call in calls}, [call[1] for call in calls]
    assert len(calls) == 3 and len(deployments) == 1
    for deployment, _, duration_s, slo, faults, seed, warm_up_s in calls:
        assert isinstance(deployment.profile, Profile) and deployment.profile.gpu.name == "mine"
        assert deployment == Deployment(
            model="llama-3-8b", cluster="8xl40s-pcie", scheme="flash-int4", tp=4, replicas=3, weights="fp8",
            gpus=(0, 1, 6, 7), nodes=1,
            profile=deployment.profile, token_budget=512, max_sequences=32, chunked_prefill=False, kv_tokens=9000,
            policy="round-robin", decode_replicas=2, transfer_bytes_per_s=7e9, host_s=0.002, gated=True,
            scaled_links={"*": 0.5}, slow_ranks={1: 2.0}, ep=2, attention="dp", expert_exchange="all-to-all",
            expert_skew=1.5, kv="fp8",
        )  # fmt: skip
        assert (duration_s, slo, seed, warm_up_s) == (50, Slo(0.25, 0.04), 5, 3)
        assert faults == (Fault(5, 1, down=True), Fault(6, 0, 9, ranks={2: 1.5}))
    assert loads[0] == Drawn(9, Geometric(77), Geometric(33), 4)
    assert loads[1] == ClosedLoop(4, Geometric(77), Geometric(33))
    assert isinstance(loads[2], Trace) and (loads[2].requests, loads[2].speed, loads[2].seconds) == (2, 2, 2)
    # Each of them alone, in a worker that has kept what came before: none is taken for another.
    calls.clear()
    monkeypatch.setattr(module, "KEPT", 1000)
    alone = {name: value for name, value in given.items() if name != "speed"}  # that one is a trace's
    text = serve_toml({}) + "[[grid]]\n" + "".join(f"[[grid]]\n{name} = {value}\n" for name, value in alone.items())
    read_text(tmp_path, text)
    sweep(tmp_path / "s.toml", tmp_path / "alone.parquet", workers=1)
    assert len({repr(call) for call in calls}) == len(calls) == len(alone) + 1
    grown = json.dumps({"gpu": {**own, "name": "other"}})
    (tmp_path / "p.json").write_text(grown)
    sweep(tmp_path / "s.toml", tmp_path / "alone.parquet", workers=1)
    assert calls[-1][0].profile.gpu.name == "other" and len(calls) == len(alone) + 2


def test_a_trace_travels_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id holds what the trace holds, and the worker takes it from the task."""
    trace = tmp_path / "t.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n0,100,2\n1,50,5\n2,70,4\n")
    text = serve_toml({
        "rate": "", "trace": '"t.csv"', "duration": "", "warm_up": "0", "tp": "2", "token_budget": "64",
        "max_sequences": "4", "speed": "[1, 2]",
    })  # fmt: skip
    asked = read_text(tmp_path, text)
    assert read_text(tmp_path, text).ids == asked.ids
    task = next(tasks_of(asked, set()))
    changed = trace.read_text().replace("100", "101")
    trace.write_text(changed)
    assert not {*read_text(tmp_path, text).ids} & {*asked.ids}
    trace.unlink()
    (row,) = work(task).rows
    assert (row["error"], row["requests_finished"], row["duration"]) == (None, 3, pytest.approx(2))
    trace.write_text(changed)
    monkeypatch.setattr(sweep_serve, "MOST_TRACE_BYTES", 20)
    with pytest.raises(ValueError, match=r"trace: cannot read trace .*t.csv: it holds more than 20 bytes"):
        read_text(tmp_path, text)


def test_a_killed_run_goes_on_without_computing_twice(
    spec: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o.parquet"
    killed_half_way(spec, out)
    there = kept(out)
    assert POINTS // 2 <= len(there) < POINTS and not out.exists()
    computed, row = list[str](), module._row
    monkeypatch.setattr(module, "_row", lambda point, name, *more: computed.append(name) or row(point, name, *more))
    found = sweep(spec, out, workers=1)
    assert {*computed} == {*read_sweep(spec).ids} - there and len(computed) == POINTS - len(there)
    assert (found.resumed, found.left_out) == (len(there), 0)
    assert out.read_bytes() == expected


def test_what_a_worker_keeps_is_bounded_and_by_thread() -> None:
    kept_here, made = module._Kept(), list[int]()
    for key in (*range(module.KEPT), 0, module.KEPT, 0, 1):  # 1 was not asked for longest
        assert kept_here.once(key, lambda key=key: made.append(key) or str(key)) == str(key)
    assert made == [*range(module.KEPT + 1), 1]
    there = Thread(target=lambda: kept_here.once(0, lambda: made.append(-1) or "own"))
    there.start()
    there.join()
    assert made[-1] == -1 and kept_here.once(0, lambda: "new") == "0"


def test_a_killed_worker_of_two_loses_nothing(spec: Path, expected: bytes, tmp_path: Path) -> None:
    killer, out = Killer(), tmp_path / "o.parquet"
    found = sweep(spec, out, workers=2, watch=killer)
    assert killer.killed and found.restarts >= 1 and found.computed == POINTS
    assert out.read_bytes() == expected


# --- plans ---


def test_rows_are_what_plan_says(plans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "o.parquet"
    found = sweep(plans, out, workers=1)
    assert (found.points, found.failed) == (6, 0)
    links = "link bridge*->bridge* x0.5, link * x0.9"
    asked = [("", "load x1"), ("", "load x2.5"), ("", links), ("", f"{links}, load x2.5")]
    own = (
        FILE.replace("percentile = 90, seconds = 0.1 ", "percentile = 50, seconds = 0.05 ")
        .replace("perplexity_ratio = 1.02", "perplexity_ratio = 1.0")
        .replace("seconds = 40.0", "seconds = 40.0\nseed = 7")
    )
    for target in ("percentile = 50, seconds = 0.001", "percentile = 99, seconds = 0.4"):
        asked.append((own.replace("percentile = 90, seconds = 0.6", target), "price l40s x3, price 4xl4-pcie x2"))
    answers = set()
    for row, (text, what_if) in zip(rows(out), asked, strict=True):
        (tmp_path / "alone.toml").write_text(text or FILE)
        alone = read(tmp_path / "alone.toml")
        planner = Planner(alone.problem)
        plan = planner.solve(alone.what_if(what_if), frontier=False)
        best = {} if plan.cheapest is None else plan.cheapest.to_dict()
        for name in ("cluster", "tp", "scheme", "token_budget", "max_sequences", "replicas", "gpus", "cost_per_hour",
                     "perplexity_ratio", "utilisation"):  # fmt: skip
            assert row[name] == best.get(name), name
        assert row["replica_gpus"] == ("0,1" if best else None)
        for name in ("ttft_ms", "tpot_ms"):
            estimate = best.get(name) or {"value": None, "half_width": None}
            assert (row[name], row[f"{name}_half_width"]) == (estimate["value"], estimate["half_width"])
        assert row["binding"].split("\n") == planner.binding(plan)
        assert json.loads(row["counts"]) == plan.count() and row["candidates"] == len(plan.outcomes) == 4
        targets = alone.problem.targets
        assert (row["ttft_percentile"] / 100, row["ttft_target_ms"] / 1e3) == (targets.ttft_quantile, targets.ttft_s)
        assert (row["tpot_percentile"] / 100, row["tpot_target_ms"] / 1e3) == (targets.tpot_quantile, targets.tpot_s)
        assert (row["perplexity_target"], row["seed"]) == (targets.perplexity_ratio, alone.problem.seed)
        assert (row["rate_per_s"], row["currency"]) == (6.0 * plan.what_if.load, "USD")
        answers.add((row["cluster"], row["scheme"], row["replicas"]))
    assert (None, None, None) in answers and len(answers) >= 3
    # What a worker keeps from point to point changes nothing: the last one alone, in a worker that knows nothing.
    monkeypatch.setattr(module, "_kept", module._Kept())
    asked_again = read_sweep(plans)
    (task,) = tasks_of(asked_again, {*asked_again.ids[:-1]})
    assert work(task).rows[0] == rows(out)[-1]


def test_the_id_of_a_plan_holds_what_its_files_hold(
    plans: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in a plan's file are looked up as `thinwire plan` does; a worker elsewhere needs none of the files."""
    monkeypatch.chdir(tmp_path)
    machine, model, plan = tmp_path / "m.toml", tmp_path / "c.json", tmp_path / "plan.toml"
    machine.write_text((root / "examples" / "my-machine.toml").read_text())
    model.write_text((root / "reference" / "models" / "llama-3-8b.json").read_text())
    text = FILE.replace('"llama-3-8b"', '"c.json"').replace("4xl4-pcie =", '"m.toml" =')
    plan.write_text(text)
    (tmp_path / "one.toml").write_text('what = "plan"\nplan = "plan.toml"')

    def identity() -> str:
        (found,) = read_sweep(tmp_path / "one.toml").ids
        return found

    ids = [identity()]
    plan.write_text(f"# a remark changes nothing\n{text}")
    assert identity() == ids[0]
    plan.write_text(text.replace("rate_per_s = 6.0", "rate_per_s = 6.5"))
    ids.append(identity())
    plan.write_text(text)
    machine.write_text(machine.read_text().replace("six L40S", "6 L40S").replace("6x L40S", "Six L40S"))
    ids.append(identity())
    data = json.loads(model.read_text())
    model.write_text(json.dumps({**data, "num_hidden_layers": data["num_hidden_layers"] + 1}))
    ids.append(identity())
    assert len({*ids}) == 4
    asked = read_sweep(tmp_path / "one.toml")
    task = next(tasks_of(asked, set()))
    for path in (machine, model, plan):
        path.unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (row,) = work(task).rows
    assert row["error"] is None and row["cluster"] is not None


ON_MY_MACHINE = 'model = "llama-3-8b"\ncluster = "m.toml"\ntp = 2\nscheme = "bf16"\ninput_tokens = 512\n'


@pytest.mark.parametrize(
    ("text", "column"),
    [
        (ON_MY_MACHINE, "ttft_ms"),
        (
            f'what = "serve"\nrate = 1\nduration = 20\ntoken_budget = 64\nmax_sequences = 4\n{ON_MY_MACHINE}',
            "ttft_ms_mean",
        ),
        ('what = "plan"\nplan = "plan.toml"', "ttft_ms"),
    ],
    ids=[*KINDS],
)
def test_a_worker_does_not_take_one_file_for_another(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, text: str, column: str
) -> None:
    """Two sweeps may name different files alike, and a cluster's worker outlives both."""
    monkeypatch.chdir(tmp_path)
    machine = (root / "examples" / "my-machine.toml").read_text()
    priced = "[prices]\n"
    (tmp_path / "plan.toml").write_text(FILE.partition(priced)[0] + priced + '"m.toml" = { per_gpu_hour = 1.0, source'
                                        ' = "x" }\n[search]' + FILE.partition("[search]")[2])  # fmt: skip

    def task(bandwidth: str) -> Task:
        (tmp_path / "m.toml").write_text(machine.replace("26.26", bandwidth))
        return next(tasks_of(read_text(tmp_path, text), set()))

    first, second = task("26.26"), task("13.13")
    found = [work(each).rows[0][column] for each in (first, second, first, second)]
    assert found[:2] == found[2:] and found[0] < found[1]
    monkeypatch.setattr(module, "_kept", module._Kept())
    assert work(second).rows[0][column] == found[1]


@pytest.mark.parametrize(("name", "what", "points"), [("sweep-serve", "serve", 30), ("sweep-plan", "plan", 12)])
def test_the_examples_are_valid(root: Path, name: str, what: str, points: int) -> None:
    asked = read_sweep(root / "examples" / f"{name}.toml")
    assert (asked.kind.what, len(asked.points)) == (what, points)


def test_a_path_means_the_file_beside_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Whatever lies where one happens to be."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "sweeps"
    elsewhere.mkdir()
    folder.mkdir()
    shutil.copy(root / "examples" / "my-machine.toml", elsewhere / "m.toml")
    (elsewhere / "c.json").write_text("{}")
    monkeypatch.chdir(elsewhere)
    for changes in ({"cluster": '"m.toml"'}, {"model": '"c.json"'}):
        with pytest.raises(ValueError, match="relative to the sweep's file"):
            read_text(folder, serve_toml(changes))
    shutil.copy(elsewhere / "m.toml", folder / "m.toml")
    assert read_text(folder, serve_toml({"cluster": '"m.toml"'})).points[0].cluster == "m.toml"
