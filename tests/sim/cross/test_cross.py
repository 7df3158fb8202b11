"""The cross-attention workload: what waits for what, closed forms at both ends, bytes on links, what grows with what.

The reference's own bytes and the closed form meet the simulated links in
tests/reference/decoder/test_cross_attention.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.edge.quantities import time_text
from thinwire.reference.catalog import parse_codec
from thinwire.reference.core.cross_schedule import CrossShape, Wire, lv_bytes, ring_bytes
from thinwire.reference.families.config import load_model
from thinwire.sim.api import compare_cross_attention
from thinwire.sim.costs.attention import SPLIT_LIMIT, TILE_ROWS, key_splits
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.profile import Profile
from thinwire.sim.cross.predict import BF16_WIRE, CrossPrediction, compare_cross, predict_cross
from thinwire.sim.cross.workload import METHODS, CrossModel, CrossPrompt, Method, build, memory_bytes
from thinwire.sim.events.timeline import Span
from thinwire.sim.shapes import CrossAttend, Elementwise
from thinwire.topologies.cluster import Cluster

from ...command import run
from ...commands.test_cli import document
from ..helpers import (
    CATALOG,
    IDEAL_ATTENTION,
    PORT_BYTES_PER_S,
    ROUTE_LATENCY_S,
    US,
    all_close,
    close,
    fabric,
    machine,
    made_up,
    protocol,
    switched,
)

LLAMA = CrossModel(load_model("llama-3-8b"), 8)
ONE = replace(LLAMA, layers=1)
EVEN_FAST = 1000.0  # factor on links that makes them next to free


def there(ranks: int, factor: float = 1.0) -> tuple[Cluster, Profile]:
    """So many made-up GPUs on a switch, links `factor` times as fast."""
    cluster = switched(ranks)
    return (cluster if factor == 1.0 else cluster.with_link_scaled("*->*", factor)), made_up(ranks)


def predicted(
    method: Method,
    text: int,
    visual: int,
    ranks: int = 4,
    factor: float = 1.0,
    model: CrossModel = ONE,
    wire: Wire = BF16_WIRE,
    batch: int = 1,
    folded: bool = True,
) -> CrossPrediction:
    cluster, profile = there(ranks, factor)
    return predict_cross(model, cluster, method, CrossPrompt(batch, text, visual), profile, wire, folded)


def seconds(prediction: CrossPrediction, name: str, rank: int = 0) -> float:
    """Of all spans of a name on a rank."""
    found = [s.seconds for s in prediction.timeline.spans() if s.rank == rank and s.name == name]
    assert found, name
    return sum(found)


# --- what waits for what


def spans_of(prediction: CrossPrediction, rank: int) -> dict[str, Span]:
    return {s.name: s for s in prediction.timeline.spans() if s.rank == rank}


@pytest.mark.parametrize("factor", [0.01, 0.3, 1.0, EVEN_FAST])
@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_lv_xattn_computes_on_what_has_arrived(ranks: int, factor: float) -> None:
    p = predicted("lv-xattn", 1024, 30_000, ranks, factor)
    for rank in range(ranks):
        spans = spans_of(p, rank)
        exchanges = {n: s for n in range(1, ranks + 2) if (s := spans.get(f"exchange {n}"))}
        assert set(exchanges) == set(range(1, ranks + 2)) - ({2} if ranks == 2 else set())
        assert exchanges[1].start_s >= spans["query"].end_s
        for n in range(1, ranks + 1):
            started = spans[f"round {n}"].start_s
            assert started >= spans["key_value"].end_s
            if n < ranks:
                assert started >= exchanges[n].end_s, "queries of a round must have come"
            if n > 1:
                merged = spans[f"merge {n}"].start_s
                assert merged >= max(exchanges[n + 1].end_s, spans[f"round {n}"].end_s)
            if n < ranks:  # what a round has made leaves with the next exchange but one
                made = spans[f"merge {n}" if n > 1 else "round 1"].end_s
                assert exchanges[n + 2].start_s >= made
        assert spans["output"].start_s >= spans[f"merge {ranks}"].end_s


@pytest.mark.parametrize("factor", [0.01, 0.3, 1.0, EVEN_FAST])
@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_ring_attention_has_two_buffers(ranks: int, factor: float) -> None:
    p = predicted("ring-attention", 1024, 30_000, ranks, factor)
    for rank in range(ranks):
        spans = spans_of(p, rank)
        assert spans["exchange 1"].start_s >= spans["key_value"].end_s
        assert spans["round 0"].start_s >= spans["query"].end_s
        for n in range(1, ranks):
            assert spans[f"round {n}"].start_s >= spans[f"exchange {n}"].end_s
            if n > 1:
                assert spans[f"exchange {n}"].start_s >= spans[f"round {n - 2}"].end_s, "its buffer was in use"
        assert spans["output"].start_s >= spans[f"round {ranks - 1}"].end_s


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [0.01, 1.0, EVEN_FAST])
def test_layers_follow_one_another(method: Method, factor: float) -> None:
    """The query of a layer waits for the output of the one before, whatever the links do; folding changes nothing."""
    model = replace(LLAMA, layers=9)
    folded = predicted(method, 512, 9000, 4, factor, model)
    whole = predicted(method, 512, 9000, 4, factor, model, folded=False)
    assert folded.timeline.folds and not whole.timeline.folds
    assert close(folded.time_s, whole.time_s)
    assert all_close([s.start_s for s in folded.timeline.spans()], [s.start_s for s in whole.timeline.spans()])
    first = {(s.layer, s.name): s for s in whole.timeline.spans() if s.rank == 0}
    for layer in range(1, 9):
        assert first[layer, "query"].start_s >= first[layer - 1, "output"].end_s


# --- closed forms


def kernels_s(prediction: CrossPrediction, *names: str) -> float:
    return sum(seconds(prediction, name) for name in names)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_where_compute_is_slow_nothing_is_exposed(ranks: int) -> None:
    """Time is the kernels' alone."""
    for method in METHODS:
        p = predicted(method, 64 * ranks, 20_000 * ranks, ranks, EVEN_FAST)
        assert close(p.time_s, p.breakdown.compute_s), method
        assert p.breakdown.exposed_communication_s <= 1e-9 * p.time_s


@pytest.mark.parametrize("ranks", [3, 4, 8])
def test_where_links_are_slow_exchanges_follow_one_another(ranks: int) -> None:
    factor = 1e-3
    ring = predicted("ring-attention", 1024, 8192, ranks, factor)
    hops = sum(seconds(ring, f"exchange {n}") for n in range(1, ranks))
    assert close(ring.time_s, kernels_s(ring, "key_value", f"round {ranks - 1}", "output") + hops)
    lv = predicted("lv-xattn", 8192, 1024, ranks, factor)
    hops = sum(seconds(lv, f"exchange {n}") for n in range(1, ranks + 2))
    merges = [f"merge {n}" for n in range(2, ranks + 1)]
    assert close(lv.time_s, kernels_s(lv, "query", *merges, "output") + hops)


def test_without_exchange_the_rest_is_the_all_gathers() -> None:
    gather, none = predicted("all-gather", 1024, 8192, factor=0.01), predicted("none", 1024, 8192, factor=0.01)
    assert close(gather.breakdown.compute_s, none.time_s)
    sent = seconds(gather, "all-gather of keys and values")
    assert close(gather.time_s, kernels_s(gather, "key_value", "cross-attention", "output") + sent)


def test_one_gpu_sends_nothing_and_all_ways_are_one() -> None:
    found = [predicted(method, 512, 4096, 1) for method in METHODS]
    assert len({p.time_s for p in found}) == 1
    assert all(p.sent_bytes_R == (0,) and not any(p.link_bytes.values()) for p in found)
    assert all(p.memory_bytes["exchange"] == 0 for p in found)


# --- bytes


@pytest.mark.parametrize("name", CATALOG)
@pytest.mark.parametrize(("text", "visual", "partial"), [(1000, 5003, "bf16"), (37, 411, "int8")])
def test_links_carry_the_closed_form(name: str, text: int, visual: int, partial: str) -> None:
    """On every machine: what leaves a GPU is the formula's, times the layers; the all-gather's is ring attention's."""
    cluster, profile = machine(name)
    ranks, wire = len(cluster.gpus), Wire(partial=parse_codec(partial))
    shape = LLAMA.shape(CrossPrompt(2, text, visual), ranks)
    for method, per_layer in (("lv-xattn", lv_bytes(shape, wire)), ("ring-attention", ring_bytes(shape, wire))):
        p = predict_cross(LLAMA, cluster, method, CrossPrompt(2, text, visual), profile, wire)
        assert p.sent_bytes_R == tuple(8 * nbytes for nbytes in per_layer)
        for rank, gpu in enumerate(cluster.gpus):
            assert sum(b for (source, _), b in p.link_bytes.items() if source == gpu) == 8 * per_layer[rank]
        assert p.to_dict()["wire_bytes_per_gpu"] == 8 * max(per_layer)


def test_an_all_gather_sends_what_ring_attention_does() -> None:
    for ranks in (2, 4, 8):
        gather, ring = (predicted(m, 512, 800 * ranks, ranks) for m in ("all-gather", "ring-attention"))
        assert gather.sent_bytes_R == ring.sent_bytes_R
        assert set(predicted("none", 512, 800 * ranks, ranks).sent_bytes_R) == {0}


@pytest.mark.parametrize("batch", [1, 3])
def test_each_is_independent_of_what_does_not_travel(batch: int) -> None:
    """LV-XAttn's exchanges of the visual tokens, ring attention's of the text: in bytes and in seconds."""

    def exchanges(method: Method, text: int, visual: int) -> tuple[tuple[int, ...], list[float]]:
        p = predicted(method, text, visual, batch=batch)
        spans = (s for s in p.timeline.spans() if s.stream == "communication")
        return p.sent_bytes_R, sorted(s.seconds for s in spans)

    for method, one, other in (
        ("lv-xattn", (1024, 4096), (1024, 400_000)),
        ("ring-attention", (64, 32_768), (64_000, 32_768)),
    ):
        (bytes_1, times_1), (bytes_2, times_2) = exchanges(method, *one), exchanges(method, *other)
        assert bytes_1 == bytes_2 and all_close(times_1, times_2), method


def test_limits() -> None:
    """Visual tokens without end: LV-XAttn tends to the floor and ring attention to its bytes; text without end, the
    other way round.
    """
    slow = 0.02

    def share(method: Method, text: int, visual: int) -> float:
        p = predicted(method, text, visual, factor=slow)
        return p.breakdown.exposed_communication_s / p.time_s

    assert share("lv-xattn", 256, 2_000_000) < 1e-9 < 0.5 < share("ring-attention", 256, 2_000_000)
    assert share("ring-attention", 65_536, 64) < 0.05 < 0.5 < share("lv-xattn", 65_536, 64)


def test_a_codec_for_partial_outputs() -> None:
    plain, small, wide = (
        predicted("lv-xattn", 4096, 4096, factor=0.01, wire=Wire(partial=parse_codec(spec)))
        for spec in ("bf16", "int8", "fp32")
    )
    assert small.sent_bytes_R < plain.sent_bytes_R < wide.sent_bytes_R
    assert small.time_s < plain.time_s < wide.time_s
    assert plain.breakdown.codec_s == 0 < small.breakdown.codec_s
    assert any("codec kernels" in s for s in small.assumptions) and not any("codec" in s for s in plain.assumptions)
    assert predicted("ring-attention", 64, 64).to_dict()["partial"] is None


# --- growth and comparison

tokens = st.integers(1, 40_000)


@settings(max_examples=40)
@given(tokens, tokens, st.integers(2, 6), st.sampled_from(METHODS), st.sampled_from((0.01, 1.0)))
def test_more_tokens_never_take_less_time(text: int, visual: int, ranks: int, method: Method, factor: float) -> None:
    """On rooflines without corrections (a GEMM may fall by a few percent where its tiles fit better)."""
    base = predicted(method, text, visual, ranks, factor).time_s
    assert predicted(method, 2 * text, visual, ranks, factor).time_s >= 0.97 * base
    assert predicted(method, text, 2 * visual, ranks, factor).time_s >= 0.97 * base
    assert predicted(method, text, visual, ranks, factor / 2).time_s >= base * (1 - 1e-9)


@settings(max_examples=40)
@given(tokens, tokens, st.integers(1, 6), st.sampled_from((0.01, 1.0, EVEN_FAST)))
def test_nothing_beats_sending_nothing(text: int, visual: int, ranks: int, factor: float) -> None:
    """Up to what cutting a call in pieces saves, its tiles being balanced better: the model's doing, a few percent."""
    floor = predicted("none", text, visual, ranks, factor).time_s
    assert predicted("all-gather", text, visual, ranks, factor).time_s >= floor * (1 - 1e-9)
    for method in ("lv-xattn", "ring-attention"):
        assert predicted(method, text, visual, ranks, factor).time_s >= 0.95 * floor


def test_the_papers_direction() -> None:
    """arXiv 2502.02406: 16 GPUs on two machines, keys and values many times the queries: LV-XAttn is several times
    faster than ring attention (up to 10.62x end to end with layers that this leaves out), the more so the longer.
    """
    cluster, profile = machine("2x8xh100-ib")

    def gain(text: int, visual: int) -> float:
        found = compare_cross(LLAMA, cluster, CrossPrompt(1, text, visual), profile)
        return {row.method: found.speedup(row) for row in found.rows}["lv-xattn"]

    gains = [gain(1024, visual) for visual in (2048, 8192, 65_536, 262_144)]
    assert gains == sorted(gains) and gains[0] < 1 < 3 < gains[2] < gains[3]
    assert gain(65_536, 2048) < 1


def test_comparison() -> None:
    found = compare_cross_attention("8xl40s-pcie", 1024, 65_536)
    assert [row.method for row in found.rows] == ["none", "lv-xattn", "ring-attention", "all-gather"]
    assert found.baseline.method == "ring-attention"
    assert found.crossover_visual_tokens == 1024 * (4096 * 4 + 32 * 4) // 4096 + 1 == 4129
    assert {row.method: found.speedup(row) for row in found.rows}["ring-attention"] == 1
    at = {
        visual: [predicted(m, 1024, visual).sent_bytes_R for m in ("lv-xattn", "ring-attention")]
        for visual in (4124, 4136)  # multiples of 4 around it
    }
    assert at[4124][0] > at[4124][1] and at[4136][0] < at[4136][1]
    own = compare_cross_attention(
        "8xl40s-pcie", 64, 512, "llama-3-70b", ["none"], 2, cross_layers=3, heads=16, kv_heads=4, head_dim=64
    )
    asked = own.baseline.model
    assert (asked.heads, asked.kv_heads, asked.head_dim, asked.config.hidden_size) == (16, 4, 64, 8192)
    assert own.baseline.model.layers == 3 and [row.method for row in own.rows] == ["none"]
    assert compare_cross_attention("8xl40s-pcie", 64, 512, "llama-3-70b").baseline.model.layers == 20


def test_memory_is_what_is_held() -> None:
    prompt, ranks = CrossPrompt(1, 1024, 65_536), 8
    need = {method: memory_bytes(LLAMA, method, prompt, ranks, 16) for method in METHODS}
    layer = 4096 * (2 * 4096 + 2 * 1024 + 3 * 14_336)
    assert need["none"] == {
        "weights": 8 * layer * 2,
        "visual_features": 2 * 8192 * 4096,
        "keys_values": 8 * 2 * 2 * 8192 * 1024,
        "exchange": 0,
    }
    assert need["ring-attention"]["exchange"] == 2 * 2 * 2 * 8192 * 1024  # two blocks of keys and of values
    assert need["all-gather"]["exchange"] == 2 * 2 * 65_536 * 1024
    assert need["lv-xattn"]["exchange"] == 2 * 128 * (4096 * 4 + 32 * 4)
    assert memory_bytes(LLAMA, "none", replace(prompt, weights="fp8"), ranks, 16)["weights"] == 8 * layer


def test_too_little_memory() -> None:
    """A row that does not fit says so; where none does, the comparison is refused."""
    cluster, profile = there(4)
    small = replace(cluster, gpu=replace(cluster.gpu, memory_bytes=7e9))
    found = compare_cross(LLAMA, small, CrossPrompt(1, 64, 262_144), profile)
    assert {row.method: row.fits for row in found.rows} == {
        "none": True, "lv-xattn": True, "ring-attention": True, "all-gather": False
    }  # fmt: skip
    with pytest.raises(
        ValueError, match=r"8 cross-attention layers .* do not fit 4 x made-up: weights .* memory 7.0 GB"
    ):
        compare_cross(LLAMA, small, CrossPrompt(1, 64, 2_000_000), profile)


def test_assumptions_say_what_is_not_measured() -> None:
    p = predicted("lv-xattn", 512, 4096)
    assert any("no cross-attention is among the measurements" in s for s in p.assumptions)
    assert any("cross-attention layers of one prefill alone" in s for s in p.assumptions)
    assert any("a hop round the ring" in s for s in p.assumptions)
    assert not any("overlap" in s for s in predicted("none", 512, 4096).assumptions)


def test_a_hop_has_the_efficiency_of_a_collective_with_hops_as_large() -> None:
    """An all-reduce of 4 ranks sends 6 messages; a single hop is as large as one of them and launched once."""
    cluster, profile = there(4)
    knots = ((6e5, 0.1), (6e8, 0.8))  # by what a rank sends in the whole all-reduce
    ring = replace(protocol("ring", 4), knots=knots)
    costs = replace(profile, fabric=fabric(4, [ring]))
    values = 4 * 2**16  # of a rank's queries: 512 kB
    p = predict_cross(ONE, cluster, "lv-xattn", CrossPrompt(1, 4 * values // 4096, 64), costs)
    sent_s = 2 * values / (ring.efficiency(6 * 2 * values) * PORT_BYTES_PER_S)
    assert close(seconds(p, "exchange 1"), ring.launch_s + ring.hop_s + sent_s + ROUTE_LATENCY_S)
    assert replace(ring, op="all_gather").hops == 3 and replace(ring, ranks=1).hops == 2


def test_uneven_tokens_compute_on_the_longest_part() -> None:
    workload = build(ONE, "lv-xattn", CrossPrompt(1, 10, 9, "bf16"), 4, Wire())
    found = {op.name: op.kernels for op in workload.layers[0]}
    assert found["round 1"] == (CrossAttend("cross-attention", 1, 3, 3, 32, 8, 128),)
    assert found["merge 4"] == (Elementwise("merge", "residual_add", 3, 2 * 4096),)


# --- the kernel's cost


def test_cross_attention_is_a_rectangle() -> None:
    """Compute-bound: 4 B H T S K operations at the model's rate, no diagonal, no cache write."""
    model = replace(IDEAL_ATTENTION, cold_passes=0.0)
    flops = 4 * 2 * 32 * 4096 * 100_000 * 128
    per_tile = 4 * 128 * TILE_ROWS * 100_000 / (0.5e15 / 100)
    assert close(model.cross_time_s(2, 4096, 100_000, 32, 8, 128), 1e-5 + flops / 0.5e15 + per_tile)
    square = replace(IDEAL_ATTENTION, cold_passes=0.0, floor_s=0.0)
    ratio = square.cross_time_s(1, 32_768, 32_768, 32, 8, 128) / square.time_s(1, 32_768, 32_768, 32, 8, 128)
    assert 1.9 < ratio < 2.0  # a causal triangle is half of it, and its diagonal


def test_keys_are_cut_where_tiles_are_few() -> None:
    assert [key_splits(tiles, 10**6, 132) for tiles in (1, 32, 66, 67, 132, 500)] == [SPLIT_LIMIT, 4, 2, 1, 1, 1]
    assert key_splits(1, 300, 132) == 3  # no shorter than a block
    model = replace(IDEAL_ATTENTION, floor_s=0.0, tail_speed=1.0)
    few, many = model.cross_time_s(1, 128, 100_000, 25, 5, 128), model.cross_time_s(4, 128, 100_000, 25, 5, 128)
    assert few < 0.3 * many, "a quarter of the tiles, cut in four, take a quarter of the time"


@given(st.integers(1, 5000), st.integers(1, 300_000), st.integers(1, 3), st.sampled_from(((4, 1), (32, 8), (64, 8))))
def test_cross_attention_grows(text: int, visual: int, batch: int, heads: tuple[int, int]) -> None:
    """Never below the bytes it must move, and with more of anything never quicker (but for how keys are cut)."""
    model = replace(IDEAL_ATTENTION, warm_passes=1.0)
    base = model.cross_time_s(batch, text, visual, *heads, 128)
    streamed = 2 * batch * 128 * 2 * (text * heads[0] + visual * heads[1])
    assert base >= 1e-5 + streamed / 1e12
    assert model.cross_time_s(batch, text, 2 * visual, *heads, 128) >= base * 0.999
    assert model.cross_time_s(batch, 2 * text, visual, *heads, 128) >= base * 0.999
    assert model.cross_time_s(2 * batch, text, visual, *heads, 128) >= base * 0.999


def test_nothing_to_see_takes_no_time() -> None:
    for sizes in ((0, 5, 5), (1, 0, 5), (1, 5, 0)):
        assert IDEAL_ATTENTION.cross_time_s(*sizes, 4, 2, 128) == 0
    for bad in ((-1, 5, 5, 4, 2), (1, 5, -5, 4, 2), (1, 5, 5, 4, 3), (1, 5, 5, 0, 1)):
        with pytest.raises(ValueError, match="heads a positive multiple of kv_heads"):
            IDEAL_ATTENTION.cross_time_s(*bad, 128)


def test_a_call_is_priced_with_its_gap() -> None:
    cluster, profile = there(2)
    kernel = CrossAttend("x", 1, 256, 4096, 32, 8, 128)
    cost = CostModel(profile, cluster.gpu)
    assert close(cost.kernel_s(kernel), profile.gpu.attention.cross_time_s(1, 256, 4096, 32, 8, 128) + 1.5 * US)


# --- the command line

COMMAND = (
    "compare", "--workload", "cross-attention", "--cluster", "8xa100-nvlink", "--text-tokens", "512",
    "--visual-tokens", "20000",
)  # fmt: skip
ROW_KEYS = {
    "scheme", "model", "cluster", "tp", "gpus", "batch", "text_tokens", "visual_tokens", "weights", "cross_layers",
    "heads", "kv_heads", "head_dim", "partial", "time_ms", "breakdown_ms", "wire_bytes_per_gpu", "memory_gb_per_gpu",
    "fits_memory", "profile", "assumptions", "speedup",
}  # fmt: skip


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *COMMAND, "--tp", "4", "--partial", "int8", "--batch", "2")
    assert found.keys() == {"version", "command", "workload", "baseline", "rows", "crossover_visual_tokens"}
    assert found["workload"] == "cross-attention" and found["baseline"]["scheme"] == "ring-attention"
    assert {row["scheme"] for row in found["rows"]} == set(METHODS)
    for row in found["rows"]:
        assert row.keys() == ROW_KEYS
        assert row["time_ms"] == pytest.approx(
            row["breakdown_ms"]["compute"] + row["breakdown_ms"]["exposed_communication"]
        )
        assert row["speedup"] == pytest.approx(found["baseline"]["time_ms"] / row["time_ms"])
        assert (row["partial"] == "int8-g128-zp") is (row["scheme"] == "lv-xattn")
    shape = CrossShape.even(2, 32, 8, 128, 512, 20_000, 4)
    sent = {row["scheme"]: row["wire_bytes_per_gpu"] for row in found["rows"]}
    assert sent["lv-xattn"] == 8 * max(lv_bytes(shape, Wire(partial=parse_codec("int8"))))
    assert sent["ring-attention"] == sent["all-gather"] == 8 * max(ring_bytes(shape, Wire()))
    assert json.loads(json.dumps(found)) == found


def test_table_and_python_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *COMMAND, "--schemes", "lv-xattn,ring-attention", "--model", "llama-3-70b")
    assert (status, err) == (0, "")
    table = out.split("Rests on")[0]
    assert "lv-xattn" in table and "all-gather" not in table and "20 cross-attention layers of llama-3-70b" in table
    found = compare_cross_attention("8xa100-nvlink", 512, 20_000, "llama-3-70b")
    assert f"({time_text(found.baseline.time_s)})" in table
    assert f"from {found.crossover_visual_tokens} visual tokens on" in " ".join(table.split())


def changed(option: str, value: str | None, command: tuple[str, ...] = COMMAND) -> tuple[str, ...]:
    if option not in command:
        assert value is not None
        return (*command, option, value)
    at = command.index(option)
    return (*command[:at], *(() if value is None else (option, value)), *command[at + 2 :])


DECODER = ("compare", "--model", "llama-3-8b", "--cluster", "8xl40s-pcie")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (changed("--text-tokens", None), "needs --text-tokens and --visual-tokens"),
        (changed("--visual-tokens", None), "needs --text-tokens and --visual-tokens"),
        (changed("--text-tokens", "0"), "text_tokens must be a whole number of at least 1: text_tokens=0"),
        (changed("--visual-tokens", "-1"), "visual_tokens must be a whole number of at least 1: visual_tokens=-1"),
        (changed("--visual-tokens", "1e6"), "--visual-tokens must be a whole number; given '1e6'"),
        (changed("--batch", "0"), "batch must lie in 1..1048576: batch=0"),
        (changed("--schemes", "flash-int4"), "unknown way to do cross-attention 'flash-int4'; allowed: lv-xattn"),
        (changed("--schemes", ","), "--schemes names no scheme"),
        (changed("--heads", "30"), "kv_heads must divide heads: kv_heads=8, heads=30"),
        (changed("--kv-heads", "0"), "kv_heads must be a positive whole number: kv_heads=0"),
        (changed("--head-dim", "-4"), "head_dim must be a positive whole number: head_dim=-4"),
        (changed("--cross-layers", "0"), "cross_layers must be a whole number of at least 1: cross_layers=0"),
        (changed("--partial", "int99"), "bits must lie in 2..8"),
        (changed("--partial", "hybrid4"), "no calibrated scales"),
        (changed("--weights", "fp8"), "a100-sxm has no fp8 arithmetic"),
        (changed("--input-tokens", "1024"), "--workload cross-attention takes --text-tokens"),
        (changed("--tp", "9"), "1..8, the GPUs of 8xa100-nvlink"),
        (changed("--model", "llama-9"), "unknown model 'llama-9'"),
        (changed("--visual-tokens", "90000000"), "do not fit 8 x a100-sxm"),
        (changed("--workload", "encoder"), "'--workload'"),
        ((*DECODER, "--visual-tokens", "5"), "--visual-tokens belongs to --workload cross-attention: given 5"),
        ((*DECODER, "--kv-heads", "5"), "--kv-heads belongs to --workload cross-attention"),
        (("compare", "--cluster", "8xl40s-pcie"), "Missing option '--model'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], command: tuple[str, ...], said: str) -> None:
    status, out, err = run(capsys, *command, "--json")
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert said in err


def test_python_refuses_the_same() -> None:
    bad: Any = 1.5
    with pytest.raises(ValueError, match=r"visual_tokens must be a whole number of at least 1: visual_tokens=1\.5"):
        compare_cross_attention("8xl40s-pcie", 4, bad)
    with pytest.raises(ValueError, match="weights must be one of bf16, fp8"):
        compare_cross_attention("8xl40s-pcie", 4, 4, weights=bad)
