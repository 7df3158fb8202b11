"""The serving face and command: what a deployment is made of, what faults do to it, and what scripts read."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import thinwire
from thinwire.sim.layers import weight_bytes
from thinwire.sim.serving.arrivals import ClosedLoop, Drawn, Fixed, LogNormal, Trace
from thinwire.sim.serving.question import Deployment
from thinwire.sim.serving.serve import Fault, Paces, ServingResult, parse_fault, serve
from thinwire.sim.serving.statistics import Slo
from thinwire.sim.serving.workload import kv_bytes_per_token
from thinwire.sim.workload import Prompt, memory_bytes

from ...command import Capture, run
from ..helpers import CATALOG, machine
from .paces import Scripted

ENGINE = {"model": "llama-3-8b", "cluster": "8xl40s-pcie", "tp": 4}
LOAD = Drawn(6.0, LogNormal(400, 1.0, 4000), LogNormal(60, 1.0, 500))
SERVE = ("serve", "--model", "llama-3-8b", "--cluster", "8xl40s-pcie", "--tp", "4", "--duration", "40")
RATE = ("--rate", "5", "--input-tokens", "300", "--output-tokens", "40")


def deployment(**given: Any) -> Deployment:
    return Deployment(**{**ENGINE, **given})


@cache
def tables(scheme: str) -> Paces:
    return Paces(deployment(scheme=scheme))


def served(faults: tuple[Fault, ...] = (), **given: Any) -> ServingResult:
    paces = tables(given.get("scheme", "bf16"))
    return serve(deployment(**given), LOAD, 40, Slo(0.5, 0.05), faults, seed=3, paces=paces)


LONE = (
    # scheme, what-if
    ("bf16", {}),
    ("flash-int4+iso", {"slow_ranks": {1: 1.3}}),
    ("flash-int4+spd-50", {}),
    ("tree:bf16", {"slow_ranks": {1: 1.3}}),  # ranks leave it one after the other
    ("flash-int6+exempt-64", {"scaled_links": {"*->*": 0.5}}),
    ("mxfp4", {"slow_ranks": {0: 1.1, 1: 1.4}}),
    ("hybrid-4.2", {}),
    ("none", {"slow_ranks": {0: 1.3}}),
)
AWKWARD = (1, 63, 257, 513, 2048)  # tokens: beside tiles, waves, and what fp8 rows are padded to


@pytest.mark.parametrize("cluster", CATALOG)
@pytest.mark.parametrize("weights", ["bf16", "fp8"])
def test_a_lone_request_takes_what_predict_says(cluster: str, weights: str) -> None:
    """One engine, priced in two places: whatever they choose apart shows here."""
    gpus, profile = machine(cluster)
    if weights not in profile.gpu.gemm:
        pytest.skip(f"{gpus.gpu.name} has no {weights} products")
    first = CATALOG.index(cluster)
    for number, model in enumerate(("llama-3-8b", "gemma-2-27b", "mistral-7b")):
        tp = (len(gpus.gpus), 2, 1)[number] if model != "gemma-2-27b" else 4
        for scheme, what_if in LONE[(first + number) % 4 :: 4]:
            asked = {"model": model, "cluster": cluster, "tp": tp, "scheme": scheme, "weights": weights}
            asked |= what_if if tp > 1 else {}
            engine = Deployment(**asked, token_budget=2048)  # type: ignore[arg-type]
            try:
                paces = Paces(engine)
                bound = paces.bound + paces.pace().dip
            except ValueError as error:
                assert "no room" in str(error)
                continue
            for tokens in AWKWARD:
                if "iso" in scheme and tokens < 2:
                    continue
                alone = thinwire.predict(**asked, input_tokens=tokens)
                found = serve(engine, Scripted(((0.0, tokens, 1),)), 1, warm_up_s=0, paces=paces)  # type: ignore[arg-type]
                off = found.run.ttft.mean.value / alone.ttft_s - 1
                assert abs(off) <= bound + 1e-9, f"{asked}, {tokens} tokens: {off:+.2%}"
                if tokens in (1, 2048) and asked.keys().isdisjoint(("slow_ranks",)) and "+" not in scheme:
                    assert abs(off) <= 1e-9, f"a table's ends are the predictor's: {asked}, {tokens}: {off:+.2%}"


def test_fp8_rows_are_padded_in_prompts_and_serving_alike_and_both_say_so() -> None:
    """513 tokens took 28 % longer in `predict` than in `serve` on an H100 once, and 51 % longer than 512."""
    on = {"model": "llama-3-8b", "cluster": "8xh100-nvlink", "tp": 1, "weights": "fp8"}
    odd, even, padded = (thinwire.predict(**on, input_tokens=n) for n in (513, 512, 516))  # type: ignore[arg-type]
    assert even.ttft_s < odd.ttft_s < 1.25 * even.ttft_s and 0.999 * padded.ttft_s < odd.ttft_s <= padded.ttft_s
    found = serve(Deployment(**on), Scripted(((0.0, 513, 1),)), 1, warm_up_s=0)  # type: ignore[arg-type]
    for said in (odd.assumptions, found.assumptions):
        assert any("rows are padded to a multiple of 4" in sentence for sentence in said)


def test_a_scheme_that_sends_less_gains_more_under_load_than_alone() -> None:
    """Queueing amplifies what a kernel saves: the reason to simulate serving at all."""
    load = Drawn(14.0, LogNormal(700, 1.0, 4000), Fixed(30))
    busy = [serve(deployment(scheme=name), load, 60).run.ttft.mean.value for name in ("bf16", "flash-int4")]
    alone = [thinwire.predict(**ENGINE, scheme=name, input_tokens=700).ttft_s for name in ("bf16", "flash-int4")]  # type: ignore[arg-type]
    assert busy[0] / busy[1] > 1.2 * alone[0] / alone[1] > 1.2


def test_a_gate_takes_the_faster_of_scheme_and_none() -> None:
    """On NVLink compressing the few kilobytes of a decode step costs more than it saves; a long prompt gains."""
    on = {"model": "llama-3-8b", "cluster": "8xh100-nvlink", "tp": 8}
    plain, thin, gated = (
        Paces(Deployment(**on, **given)).pace()  # type: ignore[arg-type]
        for given in ({}, {"scheme": "flash-int4"}, {"scheme": "flash-int4", "gated": True})
    )
    lines = [pace.line(8, 4000).first_s for pace in (plain, thin, gated)]
    assert lines[1] > 1.1 * lines[0] and lines[2] == pytest.approx(lines[0], rel=0.01)
    prompts = [pace.mixed_s([(2048, 2048)], 1, 0, 0) for pace in (plain, thin, gated)]
    assert prompts[2] <= min(prompts[:2]) * 1.01
    assert any("uncompressed at sizes" in sentence for sentence in gated.sentences())


def test_memory_left_by_weights_is_the_kv_cache() -> None:
    paces = Paces(deployment(memory_share=0.8))
    model, gpu = paces.model, paces.cluster.gpu
    room = paces.limits.kv_tokens * kv_bytes_per_token(model, 4)
    assert room < 0.8 * gpu.memory_bytes - weight_bytes(model, "bf16", 4) < room + 3e9
    assert Paces(deployment(weights="fp8")).limits.kv_tokens > Paces(deployment()).limits.kv_tokens
    assert Paces(deployment(kv_tokens=5000)).limits.kv_tokens == 5000
    with pytest.raises(ValueError, match="no room for a KV cache"):
        serve(deployment(model="llama-3-70b", tp=2), LOAD, 10)


@pytest.mark.parametrize(
    "given", [{}, {"token_budget": 8192}, {"token_budget": 1 << 16}, {"weights": "fp8", "memory_share": 0.5}, {"tp": 2}]
)
def test_weights_activations_and_kv_cache_fill_the_memory(given: dict[str, Any]) -> None:
    """To less than a token: the widest activations are those of an iteration that is full."""
    asked = deployment(**given)
    paces = Paces(asked)
    tp = len(paces.cluster.gpus)
    held = memory_bytes(paces.model, Prompt(1, asked.token_budget, asked.weights), tp)
    token_bytes = kv_bytes_per_token(paces.model, tp)
    taken = held["weights"] + held["activations"] + paces.limits.kv_tokens * token_bytes
    room = asked.memory_share * paces.cluster.gpu.memory_bytes
    assert room - token_bytes < taken <= room


def test_what_leaves_no_room_is_said_in_gigabytes() -> None:
    paces = Paces(deployment(model="llama-3-70b", tp=2))
    held = memory_bytes(paces.model, Prompt(1, 2048, "bf16"), 2)
    with pytest.raises(ValueError, match="no room for a KV cache") as refused:
        _ = paces.limits
    said = [float(number) for number in re.findall(r"\d+\.\d", str(refused.value))]
    meant = (held["weights"], held["activations"], 0.9 * paces.cluster.gpu.memory_bytes)
    assert said == pytest.approx([nbytes / 1e9 for nbytes in meant], abs=0.051)


def test_faults_cost_time_in_the_order_of_their_weight() -> None:
    mild = Fault(10, 0, 20, links={"*": 0.5})
    down = Fault(12, 0, 20, down=True)
    means = [
        served(faults, replicas=2, scheme="flash-int4").run.latency.mean.value
        for faults in ((), (mild,), (mild, Fault(10, 1, links={"*": 0.5})))
    ]
    assert means == sorted(means) and means[0] < means[2]
    struck = served((down,), replicas=2, scheme="flash-int4").run
    assert struck.restarts > 0 and struck.finished == struck.arrived
    slow = served((Fault(0, 0, ranks={1: 3.0}),), scheme="flash-int4").run
    assert slow.tpot.mean.value > served(scheme="flash-int4").run.tpot.mean.value * 1.5


def test_faults_that_overlap_act_together() -> None:
    paces = Paces(deployment(slow_ranks={0: 1.5}))
    changes = paces.changes(
        (
            Fault(1, 0, 9, links={"*": 0.5}),
            Fault(3, 0, 5, ranks={0: 2.0}),
            Fault(4, 0, 6, down=True),
            Fault(2, 1, down=True),
        )
    )
    assert [(c.at_s, c.replica, c.pace is None) for c in changes] == [
        (1, 0, False), (3, 0, False), (4, 0, True), (5, 0, True), (6, 0, False), (9, 0, False), (2, 1, True),
    ]  # fmt: skip
    assert changes[1].pace is paces.pace({"*": 0.5}, {0: 2.0})
    assert changes[4].pace is changes[0].pace is paces.pace({"*": 0.5}, {})
    assert changes[5].pace is paces.pace()
    twice = paces.changes(
        (Fault(1, 0, links={"*": 0.5}, ranks={0: 3.0}), Fault(2, 0, links={"*": 0.4}, ranks={0: 2.0}))
    )
    assert twice[1].pace is paces.pace({"*": 0.2}, {0: 6.0})


def test_the_same_arguments_give_the_same_bytes_with_tables_shared_or_not() -> None:
    paces = tables("bf16")
    texts = [json.dumps(serve(deployment(), LOAD, 40, seed=3, paces=p).to_dict()) for p in (None, paces, paces)]
    assert len({json.dumps({k: v for k, v in json.loads(text).items() if k != "assumptions"}) for text in texts}) == 1
    with pytest.raises(ValueError, match="another engine"):
        serve(deployment(scheme="flash-int4"), LOAD, 40, paces=paces)


def test_a_trace_is_served_whole(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = "".join(f"{i * 0.5},{200 + 10 * i},{5 + i}\n" for i in range(40))
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    found = serve(deployment(), Trace(str(path)), warm_up_s=0)
    assert found.run.arrived == found.run.finished == found.run.ttft.count == 40
    assert found.to_dict()["load"]["requests"] == 40


def test_separate_pools_state_their_transfer() -> None:
    found = served(replicas=1, decode_replicas=1)
    assert found.gpus == 8
    assert any("GB/s" in sentence and "pool" in sentence for sentence in found.assumptions)
    slower = served(decode_replicas=1, transfer_bytes_per_s=1e7)
    assert slower.run.latency.mean.value > found.run.latency.mean.value + 0.3


def test_keys_and_values_take_their_bytes_over_the_rate() -> None:
    """Of a prompt and the token it gave. Nobody is about whom a request could wait for."""
    lone = Drawn(0.05, Fixed(700), Fixed(2))
    rates = (1e30, 1e9, 2e8)
    now_s, *later_s = (
        serve(
            deployment(decode_replicas=1, transfer_bytes_per_s=rate), lone, 200, paces=tables("bf16")
        ).run.latency.mean.value
        for rate in rates
    )
    nbytes = 701 * kv_bytes_per_token(tables("bf16").model, 4)
    assert [after - now_s for after in later_s] == pytest.approx([nbytes / rate for rate in rates[1:]], rel=1e-6)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("600:3:down", Fault(600, 3, down=True)),
        ("1.5-20:0:down", Fault(1.5, 0, 20, down=True)),
        ("5:1:link:gpu*->*=0.5", Fault(5, 1, links={"gpu*->*": 0.5})),
        ("5-9:1:slow:2=1.5", Fault(5, 1, 9, ranks={2: 1.5})),
    ],
)
def test_faults_are_read(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    "text", ["", "5:1", "x:1:down", "5:1:down:2", "5:1:slow", "5:1:slow:a=2", "5:1:link:x", "5:y:down"]
)
def test_what_is_no_fault_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a fault is AT"):
        parse_fault(text)


def test_wrong_deployments_and_faults_are_refused() -> None:
    for wrong in ({"memory_share": 1.5}, {"memory_share": 0}, {"host_s": -1}, {"transfer_bytes_per_s": 0}):
        with pytest.raises(ValueError):
            deployment(**wrong)
    for fault in ((5, 0, 4, True), (5, 0)):
        with pytest.raises(ValueError):
            Fault(*fault)
    with pytest.raises(ValueError, match="no such replica: 4"):
        served((Fault(1, 4, down=True),))
    with pytest.raises(ValueError, match="no link or pool"):
        served((Fault(1, 0, links={"nowhere->*": 0.5}),))


# --- the command ---


def document(capsys: Capture, *arguments: str) -> Any:
    status, out, err = run(capsys, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def test_the_document_has_what_scripts_read(capsys: Capture) -> None:
    struck = ("--replicas", "2", "--fault", "12-20:0:down", "--rate", "12")
    found = document(capsys, *SERVE, *RATE, *struck, "--slo-ttft-ms", "500")
    for name in ("ttft_ms", "tpot_ms", "latency_ms"):
        assert {"count", "mean", "p50", "p90", "p95", "p99"} == found[name].keys()
        assert found[name]["p50"]["value"] <= found[name]["p99"]["value"]
    assert found["requests"]["arrived"] == found["requests"]["finished"] and found["requests"]["restarts"]
    assert found["slo_ms"] == {"ttft": 500, "tpot": None}
    assert found["gpus"] == 8 and found["batching"]["kv_tokens"] > 0
    assert found["assumptions"] and found["little_error"] < 1e-9


@pytest.mark.parametrize(
    "options",
    [
        ("--users", "4", "--lengths", "fixed"),
        ("--rate", "3", "--burstiness", "4", "--lengths", "lognormal:2", "--whole-prompts"),
        ("--rate", "3", "--lengths", "geometric", "--decode-replicas", "1", "--policy", "shared-queue"),
    ],
)
def test_options_of_the_load(capsys: Capture, options: tuple[str, ...]) -> None:
    found = document(capsys, *SERVE, *options, "--input-tokens", "200", "--output-tokens", "20")
    assert found["ttft_ms"]["count"] > 20


def test_a_table_for_people(capsys: Capture) -> None:
    status, out, err = run(capsys, *SERVE, *RATE)
    assert (status, err) == (0, "")
    assert "TTFT" in out and "queue grows without end" in " ".join(out.split()) and "±" in out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "one of --rate, --users and --trace"),
        (("--rate", "1", "--users", "2"), "one of --rate, --users and --trace"),
        (("--rate", "0"), "rate must lie in (0, 1000000000]: rate=0"),
        (("--rate", "1", "--lengths", "normal"), "lognormal"),
        (("--rate", "1", "--lengths", "lognormal:x"), "lognormal:x"),
        (("--rate", "1", "--policy", "best"), "least-tokens"),
        (("--rate", "1", "--fault", "soon"), "a fault is AT"),
        (("--rate", "1", "--warm-up", "50"), "warm-up"),
        (("--trace", "nowhere.csv"), "cannot read trace"),
        (("--rate", "1", "--replicas", "0"), "replicas"),
        (("--rate", "nan"), "rate must lie in (0, 1000000000]: rate=nan"),
        (("--rate", "1", "--burstiness", "1e300"), "burstiness must lie in"),
        (("--rate", "1", "--input-tokens", "inf", "--lengths", "fixed"), "input_tokens must lie in 1..16777216"),
        (("--rate", "1", "--input-tokens", "1e30", "--lengths", "fixed"), "16777216"),
        (("--rate", "1", "--lengths", "lognormal:1e200"), "1000"),
        (("--rate", "1", "--speed", "2"), "--speed belongs to --trace, not to --rate"),
        (("--users", "1", "--burstiness", "2"), "--burstiness belongs to --rate, not to --users"),
        (("--trace", "nowhere.csv", "--input-tokens", "9"), "--input-tokens belongs to --rate or --users"),
        (("--rate", "1", "--host-ms", "inf"), "host_ms must lie in 0..3600000"),
        (("--rate", "1", "--token-budget", "99999999999"), "token_budget must lie in 1..1048576"),
        (("--rate", "1", "--max-sequences", "99999999999", "--whole-prompts"), "max_sequences must lie in"),
        (("--rate", "1", "--duration", "nan"), "duration must lie in 0.001..31622400"),
        (("--rate", "1", "--fault", "5-inf:0:down"), "at_s=inf"),
        (("--rate", "1", "--fault", "5:-1:down"), "no such replica: -1"),
        (("--rate", "1", "--fault", "5:0:slow:0=nan"), "slow-down"),
        (("--rate", "1", "--fault", "5:0:link:*=0"), "factor"),
        (("--rate", "1", "--scheme", "auto:+1%"), "measured"),
    ],
)
def test_bad_input_is_one_line(capsys: Capture, options: tuple[str, ...], said: str) -> None:
    status, out, err = run(capsys, *SERVE, *options)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1 and said in err


def test_a_run_of_nothing_is_a_table_of_dashes(capsys: Capture) -> None:
    status, out, err = run(capsys, *SERVE, "--rate", "1e-6")
    assert (status, err) == (0, "") and "no request was counted" in out.lower() and "nan" not in out
    found = document(capsys, *SERVE, "--rate", "1e-6")
    assert found["ttft_ms"]["p99"]["value"] is None and found["slo_attainment"] is None


def test_a_run_that_nobody_ends_says_so(capsys: Capture) -> None:
    status, out, _ = run(capsys, *SERVE, *RATE, "--fault", "20:0:down")
    assert status == 0 and "nobody served" in out


def test_a_chosen_scheme_is_served_and_says_for_what_it_was_chosen() -> None:
    on = {"model": "smollm2-135m", "cluster": "8xl40s-pcie", "tp": 3}
    found = serve(Deployment(**on, scheme="auto:+1%", token_budget=512), Drawn(2.0, Fixed(100), Fixed(5)), 10)  # type: ignore[arg-type]
    chosen = thinwire.sim.api.auto(0.01, **on, input_tokens=512, compress="all")  # type: ignore[arg-type]
    assert found.scheme == "auto:+1%"
    assert any("batch 1 x 512 tokens" in said and "decoding alone too" in said for said in found.assumptions)
    assert Paces(Deployment(**on, scheme="auto:+1%", token_budget=512)).scheme == chosen.scheme  # type: ignore[arg-type]
    slow = Deployment(**on, scheme="auto:+1%", token_budget=512, scaled_links={"*": 0.1})  # type: ignore[arg-type]
    scaled = thinwire.sim.api.auto(0.01, **on, input_tokens=512, compress="all", scaled_links={"*": 0.1})  # type: ignore[arg-type]
    assert Paces(slow).scheme == scaled.scheme
    gated = Deployment(**on, scheme="auto:+1%", token_budget=512, gated=True)  # type: ignore[arg-type]
    prompts = thinwire.sim.api.auto(0.01, **on, input_tokens=512)  # type: ignore[arg-type]
    assert Paces(gated).scheme == prompts.scheme != chosen.scheme  # decode's messages go uncompressed there


def test_the_face_has_it() -> None:
    assert thinwire.serve is serve and thinwire.Deployment is Deployment
    assert ClosedLoop(2, Fixed(1), Fixed(1)).mean_output == 1
