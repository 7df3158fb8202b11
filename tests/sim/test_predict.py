"""Predictions: what adds up, what may not change them, what must change them and by how much."""

import json
import pickle
import re
from collections.abc import Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thinwire
from thinwire.reference.catalog import scheme, schemes
from thinwire.reference.core.schedule import build as build_schedule
from thinwire.reference.families.config import load_model
from thinwire.sim import api
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.layers import weight_bytes
from thinwire.sim.predict import WhatIf, predict, run
from thinwire.sim.report import Prediction
from thinwire.sim.workload import Prompt, build
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.load import load_cluster

from .helpers import CATALOG, PORT_BYTES_PER_S, close, exchanger, machine, made_up, protocol, small, switched

NAMES = tuple(schemes())
MACHINES = (("8xl40s-pcie", 4), ("8xh100-nvlink", 8), ("8xmi300x-xgmi", 8), ("8xrtx4090-pcie", 2))
PROMPT = Prompt(2, 400)


def seconds(cluster: Cluster, name: str, layers: int = 3, prompt: Prompt = PROMPT, model: str = "llama-2-7b") -> float:
    profile = machine(cluster.name)[1]
    return predict(small(model, layers), cluster, scheme(name), prompt, profile).ttft_s


# --- what adds up ---


@given(
    st.sampled_from(NAMES),
    st.sampled_from(MACHINES),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(2, 3000),
    st.sampled_from((None, 0, 1)),
)
@settings(max_examples=50)
def test_ttft_is_compute_and_idle_time_and_at_least_every_chain_of_dependencies(
    name: str, on: tuple[str, int], layers: int, batch: int, tokens: int, slow: int | None
) -> None:
    cluster, profile = machine(*on)
    slow_ranks = {} if slow is None else {slow: 1.4}
    model, prompt = small("llama-3-8b", layers), Prompt(batch, tokens)
    found = predict(model, cluster, scheme(name), prompt, profile, WhatIf(slow_ranks))
    b, spans = found.breakdown, list(found.timeline.spans())
    rows_add_up(found)
    mine = [s for s in spans if s.rank == found.timeline.last_rank]
    edges = sorted({0.0, found.ttft_s, *(t for s in mine for t in (s.start_s, s.end_s))})
    at_work = {"": 0.0, "communication": 0.0, "compute": 0.0}  # one moment after the other, nothing clever
    for begin_s, end_s in pairwise(edges):
        busy = {s.stream for s in mine if s.start_s < (begin_s + end_s) / 2 < s.end_s}
        at_work["compute" if "compute" in busy else min(busy, default="")] += end_s - begin_s
    assert abs(at_work["communication"] - b.exposed_communication_s) <= 1e-9 * found.ttft_s
    assert abs(at_work[""] - b.waiting_s) <= 1e-9 * found.ttft_s
    # Priced without the engine: each rank's kernels, each part's kernels and exchanges, all exchanges one by one.
    cost, times = CostModel(profile, cluster.gpu), exchanger(cluster, profile, slow_ranks)
    workload = build(model, scheme(name), prompt, found.tp)
    ops = [*workload.before, *(op for layer in workload.layers for op in layer), *workload.after]
    taken = [
        times.alone(times.timed(op.exchange)).seconds if op.exchange else sum(map(cost.kernel_s, op.kernels))
        for op in ops
    ]
    slowest = 1.0 if slow is None else 1.4
    kernels_s = sum(t for op, t in zip(ops, taken, strict=True) if not op.exchange)
    exchanges_s = sum(t for op, t in zip(ops, taken, strict=True) if op.exchange)
    assert found.ttft_s >= max(kernels_s * slowest, exchanges_s) * (1 - 1e-9)
    assert found.ttft_s <= (kernels_s * slowest + exchanges_s) * (1 + 1e-9)
    for part in {op.part for op in ops}:
        chain = sum(t if op.exchange else t * slowest for op, t in zip(ops, taken, strict=True) if op.part == part)
        assert found.ttft_s >= chain * (1 - 1e-9)


def rows_add_up(found: Prediction) -> None:
    b = found.breakdown
    assert min(b.compute_s, b.codec_s, b.communication_s, b.exposed_communication_s, b.waiting_s) >= 0
    assert close(found.ttft_s, b.compute_s + b.exposed_communication_s + b.waiting_s)
    assert b.exposed_communication_s <= (b.communication_s + b.codec_s) * (1 + 1e-9) + 1e-12 * found.ttft_s


@pytest.mark.parametrize("cluster", CATALOG)
def test_rows_add_up_with_stragglers_over_the_whole_catalog(cluster: str) -> None:
    gpus, profile = machine(cluster)
    for number, name in enumerate((*NAMES, "tree:bf16", "tree:int4-g32-min")):
        if gpus.reducing_switch is None and scheme(name).collective == "nvls":
            continue
        slow = {number % len(gpus.gpus): 1.2, 0: 1.05} if number % 3 else {}
        found = predict(small("llama-2-7b", 5), gpus, scheme(name), Prompt(1, 700), profile, WhatIf(slow))
        rows_add_up(found)
        if not slow and scheme(name).collective == "two_step":
            assert found.breakdown.waiting_s == 0, "ranks alike wait for nobody"
        if scheme(name).sequence_split is None:
            assert close(sum(found.timeline.by_name().values()) + found.breakdown.waiting_s, found.ttft_s)


def test_time_lost_to_a_straggler_has_a_row_of_its_own() -> None:
    """The issue that brought the row: 25 ms that were named nowhere."""
    found = api.predict("llama-3-70b", "8xl40s-pcie", "flash-int4", tp=4, slow_ranks={3: 1.2})
    alone = api.predict("llama-3-70b", "8xl40s-pcie", "flash-int4", tp=4)
    assert found.timeline.last_rank == 0 and alone.breakdown.waiting_s == 0
    assert 0.15 < found.breakdown.waiting_s / alone.breakdown.compute_s < 0.21  # codec kernels are slower too
    assert found.to_dict()["breakdown_ms"]["waiting"] == found.breakdown.waiting_s * 1e3


@pytest.mark.parametrize("name", ["bf16-ring", "flash-int4", "mxfp4", "flash-int4+spd-50", "iso-int8", "none"])
@pytest.mark.parametrize("on", [("8xl40s-pcie", 4), ("8xh100-nvlink", 8), ("8xa100-nvlink", 1)])
def test_traffic_is_the_bytes_of_the_schedules(name: str, on: tuple[str, int]) -> None:
    cluster, profile = machine(*on)
    model, chosen = small("llama-3-70b", 6), scheme(name)
    model = load_model("llama-3-8b") if on[1] == 1 else model
    found = predict(model, cluster, chosen, PROMPT, profile)
    workload = build(model, chosen, PROMPT, found.tp)
    sent = 0
    for op in (op for layer in workload.layers for op in layer):
        if op.exchange:
            by_rank = build_schedule(chosen, found.tp, op.exchange.numel, cluster.islands).sent_bytes()
            assert len({*by_rank.values()}) == 1
            sent += by_rank[0]
    assert found.traffic.layer_bytes_per_gpu == sent
    assert found.traffic.all_reduce_count == workload.all_reduce_count
    times = exchanger(cluster, profile)
    result, _ = run(workload, times, times.cost, folded=False)  # event by event
    assert all(found.traffic.link_bytes.get(link, 0) == nbytes for link, nbytes in result.link_bytes.items())
    assert result.peak_utilisation <= 1 + 1e-9


@pytest.mark.parametrize(("name", "count"), [("bf16", 160), ("flash-int4", 160), ("spd-30", 80 + 56), ("iso", 320)])
def test_how_often_llama_3_70b_reduces(name: str, count: int) -> None:
    cluster, profile = machine("8xh100-nvlink", 8)
    found = predict(load_model("llama-3-70b"), cluster, scheme(name), Prompt(1, 64), profile)
    assert found.to_dict()["all_reduce_count"] == count


@pytest.mark.parametrize("on", MACHINES)
def test_no_scheme_beats_having_no_all_reduces(on: tuple[str, int]) -> None:
    cluster = machine(on[0])[0].take(on[1])
    floor_s = seconds(cluster, "none")
    for name in NAMES:
        assert seconds(cluster, name) >= floor_s * (1 - 1e-9)


# --- what may not change it ---


@given(st.sampled_from(("8xh100-nvlink", "8xmi300x-xgmi", "8xa100-nvlink")), st.permutations(range(8)))
@settings(max_examples=15)
def test_ranks_may_be_renamed_where_all_are_alike(name: str, order: Sequence[int]) -> None:
    cluster = load_cluster(name)
    for chosen in ("bf16", "bf16-ring", "flash-int4", "mxfp4", "iso-int8"):
        assert close(seconds(cluster.reorder(order), chosen), seconds(cluster, chosen))


@given(st.permutations(range(4)), st.permutations(range(4, 8)), st.booleans())
@settings(max_examples=15)
def test_ranks_may_be_renamed_within_islands_and_islands_among_themselves(
    first: Sequence[int], second: Sequence[int], swapped: bool
) -> None:
    cluster = load_cluster("8xl40s-pcie")
    renamed = cluster.reorder([*second, *first] if swapped else [*first, *second])
    for chosen in ("bf16-ring", "flash-int4", "flash2-int4-hier", "mxfp4"):
        assert close(seconds(renamed, chosen), seconds(cluster, chosen))


def test_ranks_that_alternate_between_islands_are_another_machine() -> None:
    """Every hop of the ring then crosses the sockets; what goes by islands does not mind."""
    cluster = load_cluster("8xl40s-pcie")
    alternating = cluster.reorder((0, 4, 1, 5, 2, 6, 3, 7))
    assert seconds(alternating, "bf16-ring") > 1.5 * seconds(cluster, "bf16-ring")
    assert close(seconds(alternating, "flash2-int4-hier"), seconds(cluster, "flash2-int4-hier"), 1e-6)


# --- what must change it ---


@pytest.mark.parametrize("factor", [1.5, 2.0])
@pytest.mark.parametrize("slow", [0, 3])
def test_a_straggler_scales_its_own_compute_and_delays_all(slow: int, factor: float) -> None:
    cluster, profile = machine("8xh100-nvlink", 4)
    model, prompt = small("llama-3-8b", 4), Prompt(4, 4000)
    before, after = (
        predict(model, cluster, scheme("bf16"), prompt, profile, WhatIf(slow_ranks))
        for slow_ranks in ({}, {slow: factor})
    )
    compute_s = before.breakdown.compute_s
    assert compute_s > 0.7 * before.ttft_s, "meant to be bound by compute"
    for rank in range(4):
        busy = sum(s.seconds for s in after.timeline.spans() if s.rank == rank and s.stream == "compute")
        assert close(busy, compute_s * (factor if rank == slow else 1.0))
    assert close(after.ttft_s - before.ttft_s, (factor - 1) * compute_s)
    waited = {s.rank for s in after.timeline.spans() if s.waited_s > 1e-6}
    assert waited == {rank for rank in range(4) if rank != slow}
    assert after.timeline.last_rank == (slow == 0), "a rank like most tells the story, whichever is slow"
    assert close(after.breakdown.compute_s, compute_s)
    assert close(after.breakdown.exposed_communication_s, before.breakdown.exposed_communication_s)
    assert close(after.breakdown.waiting_s, (factor - 1) * compute_s)
    said = f"what-if: kernels of rank {slow} take {factor:g} times as long"
    assert (said in after.assumptions, said in before.assumptions) == (True, False)


@pytest.mark.parametrize("link", ["gpu0->nvswitch", "nvswitch->gpu3"])
@pytest.mark.parametrize("factor", [0.5, 0.1])
def test_a_slower_link_costs_what_the_ring_closed_form_says(link: str, factor: float) -> None:
    """All-reduces and the gathering of the logits: on each the wire's part is divided by the factor, nothing else."""
    ranks, layers, prompt = 8, 5, Prompt(1, 1000)
    model, profile = small("llama-2-7b", layers), made_up(ranks)
    before, after = (
        predict(model, cluster, scheme("bf16-ring"), prompt, profile).ttft_s
        for cluster in (switched(ranks), switched(ranks).with_link_scaled(link, factor))
    )
    nbytes, logits_bytes = 2 * 1000 * 4096, 2 * 32000
    ring_s = 2 * 7 / 8 * nbytes / (protocol("ring").knots[0][1] * PORT_BYTES_PER_S)
    gather_s = 7 / 8 * logits_bytes / (protocol("all_gather").knots[0][1] * PORT_BYTES_PER_S)
    assert close(after - before, (2 * layers * ring_s + gather_s) * (1 / factor - 1))


def test_half_the_bandwidth_in_the_file_is_half_the_bandwidth(tmp_path: Path) -> None:
    text = (Path(thinwire.__file__).parent / "topologies" / "machines" / "8xa100-nvlink.toml").read_text()
    found = re.search(r"\[topology\.port\]\nbandwidth = \{ value = ([\d.]+),", text)
    assert found
    path = tmp_path / "halved.toml"
    path.write_text(text.replace(found[0], found[0].replace(found[1], str(float(found[1]) / 2))))
    for name in ("bf16-ring", "flash-int4"):
        from_file = api.predict("llama-3-8b", str(path), name).ttft_s
        what_if = api.predict("llama-3-8b", "8xa100-nvlink", name, scaled_links={"*": 0.5}).ttft_s
        assert from_file == what_if > api.predict("llama-3-8b", "8xa100-nvlink", name).ttft_s


# --- refusals ---


def test_a_model_that_does_not_fit_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(
        ValueError, match=r"llama-3-70b \(bf16, batch=2, input_tokens=3000\) does not fit 4 x l4"
    ) as refused:
        api.predict("llama-3-70b", "4xl4-pcie", "bf16", batch=2, input_tokens=3000)
    sums = re.search(
        r"weights ([\d.]+) \+ kv_cache ([\d.]+) \+ activations ([\d.]+) = ([\d.]+) GB a GPU", str(refused.value)
    )
    assert sums
    weights, cache, activations, total = map(float, sums.groups())
    assert abs(weights + cache + activations - total) <= 0.2
    assert weights == round(weight_bytes(load_model("llama-3-70b"), "bf16", 4) / 1e9, 1)
    assert str(refused.value).endswith("memory 24.0 GB")
    assert api.predict("llama-3-8b", "4xl4-pcie", "bf16").ttft_s > 0


def test_a_precision_the_gpu_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a100-sxm has no fp8 arithmetic: weights=fp8, it runs bf16"):
        api.predict("llama-3-8b", "8xa100-nvlink", "bf16", weights="fp8")


def test_a_straggler_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank=4, ranks are 0\.\.3"):
        api.predict("llama-3-8b", "8xa100-nvlink", "bf16", tp=4, slow_ranks={4: 2.0})


# --- the Python face ---


def test_names_and_values_are_the_same() -> None:
    cluster, profile = machine("8xl40s-pcie", 4)
    by_name = thinwire.predict(
        model="llama-3-8b", cluster="8xl40s-pcie", scheme="flash-int4", tp=4, batch=8, input_tokens=1024, weights="fp8"
    )
    by_value = predict(load_model("llama-3-8b"), cluster, scheme("flash-int4"), Prompt(8, 1024, "fp8"), profile)
    assert (by_name.ttft_s, by_name.breakdown, by_name.timeline) == (
        by_value.ttft_s,
        by_value.breakdown,
        by_value.timeline,
    )
    assert by_name.assumptions == by_value.assumptions
    assert by_name.assumptions


def documented(found: Prediction) -> None:
    document = json.loads(json.dumps(found.to_dict()))
    b = document["breakdown_ms"]
    assert close(document["ttft_ms"], b["compute"] + b["exposed_communication"] + b["waiting"])
    assert document["assumptions"] == list(found.assumptions)
    assert len(set(found.assumptions)) == len(found.assumptions)


@pytest.mark.parametrize("name", NAMES)
def test_the_document_of_every_scheme(name: str) -> None:
    found = api.predict("llama-3-8b", "8xl40s-pcie", name, tp=2, input_tokens=128)
    documented(found)
    bits, chosen = found.to_dict()["bits_per_value"], scheme(name)
    silent = name == "none"
    assert bits["reduce"] == pytest.approx(0 if silent else chosen.reduce.bits_per_value)
    assert bits["gather"] == pytest.approx(0 if silent else chosen.gather.bits_per_value)
    said = " ".join(found.assumptions)
    assert ("codec kernels, " in said) != chosen.is_raw
    assert ("sync-point drop" in said) == (chosen.drop_attention_percent > 0)
    assert ("overlap without slowing each other" in said) == (chosen.sequence_split is not None)


def test_one_gpu_sends_nothing() -> None:
    found = api.predict("llama-3-8b", "8xh100-nvlink", "flash-int4", tp=1)
    document = found.to_dict()
    assert (document["wire_bytes_per_gpu"], document["all_reduce_count"]) == (0, 0)
    assert document["bits_per_value"] == {"reduce": 0, "gather": 0}
    assert found.breakdown.exposed_communication_s == pytest.approx(0, abs=1e-12)


def test_a_comparison_is_sorted_and_measured_against_bf16() -> None:
    found = api.compare(["none", "flash-int4", "bf16", "mxfp4"], "llama-3-8b", "8xl40s-pcie", tp=4)
    times = [row.ttft_s for row in found.rows]
    assert times == sorted(times)
    assert found.rows[0].scheme.name == "none"
    document = found.to_dict()
    assert document["baseline"]["scheme"] == "bf16"
    speedups = {row["scheme"]: row["speedup"] for row in document["rows"]}
    assert speedups["bf16"] == 1.0
    assert all(
        close(s, found.baseline.ttft_s / row.ttft_s) for s, row in zip(speedups.values(), found.rows, strict=True)
    )


@pytest.mark.parametrize(
    ("op", "factor"), [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1), ("all_to_all", 1)]
)
def test_bandwidths_of_a_collective_follow_nccl_tests(op: str, factor: int) -> None:
    row = api.collective("8xh100-nvlink", "two_step:bf16", 2**24, tp=4, op=op)  # type: ignore[arg-type]
    assert close(row["algbw_gb_per_s"], 2**24 / row["time_us"] / 1e3)
    assert close(row["busbw_gb_per_s"], row["algbw_gb_per_s"] * factor * 3 / 4)
    assert row["wire_bytes_per_gpu"] == factor * 2**24 * 3 // 4


def test_from_the_gate_on_a_scheme_is_no_slower_than_the_baseline() -> None:
    gate = api.size_gate("8xl40s-pcie", "flash-int4", tp=4)
    assert 2**10 <= gate <= 2**28
    times = {
        (power, name): api.collective("8xl40s-pcie", name, 2**power, tp=4)["time_us"]
        for power in range(10, 31)
        for name in ("flash-int4", "bf16")
    }
    faster = [2**power for power in range(10, 31) if times[power, "flash-int4"] <= times[power, "bf16"]]
    assert all(2**power in faster for power in range(10, 31) if 2**power >= gate)
    assert gate // 2 not in faster


def test_arrays_do_not_leak_into_documents() -> None:
    row = api.collective("8xh100-nvlink", "flash-int4", 2**20)
    assert not any(isinstance(value, np.generic) for value in row.values())


def test_a_graph_leaves_no_gaps_between_kernels() -> None:
    """The difference is one gap a kernel, and nothing else: communication stays."""
    eager = api.predict("llama-3-8b", "8xh100-nvlink", "bf16", 8, 1, 512)
    graph = api.predict("llama-3-8b", "8xh100-nvlink", "bf16", 8, 1, 512, launch="graph")
    gap_s = load_profile(load_cluster("8xh100-nvlink")).gpu.kernel_gap_s.value
    saved = eager.ttft_s - graph.ttft_s
    spans = [s for s in eager.timeline.spans() if s.rank == 0 and s.stream == "compute"]
    kernels = sum(len(s.kernels) for s in spans)
    assert (
        kernels == 32 * 9 + 3
    )  # norm, qkv, rope, attention, o; norm, gate_up, activation, down; embedding, norm, head
    assert close(saved, gap_s * kernels)
    assert graph.breakdown.communication_s == pytest.approx(eager.breakdown.communication_s)


def test_an_unknown_launch_is_refused() -> None:
    with pytest.raises(ValueError, match="launch must be one of eager, graph: launch='jit'"):
        api.predict("llama-3-8b", "8xh100-nvlink", "bf16", launch="jit")  # type: ignore[arg-type]


def test_a_group_inside_one_node_uses_the_nodes_fabric() -> None:
    """Eight of sixteen ranks never leave their node: what is fitted to two nodes says nothing of them."""
    inside = api.predict("llama-3-8b", "2x8xh100-ib", "flash-int4", 8, 1, 2048)
    node = api.predict("llama-3-8b", "8xh100-nvlink", "flash-int4", 8, 1, 2048)
    assert inside.profile == node.profile
    assert close(inside.ttft_s, node.ttft_s, 0.05)


def test_one_gpu_has_nothing_to_overlap() -> None:
    whole = api.predict("llama-3-8b", "8xh100-nvlink", "bf16", 1, 1, 512)
    assert api.predict("llama-3-8b", "8xh100-nvlink", "iso", 1, 1, 512).ttft_s == whole.ttft_s


@pytest.mark.parametrize("wrong", [{"tp": 2.0}, {"tp": True}, {"batch": "3"}, {"input_tokens": 1.5}])
def test_numbers_that_are_not_whole_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be a whole number"):
        api.predict("llama-3-8b", "8xl40s-pcie", "bf16", **wrong)  # type: ignore[arg-type]


def test_copies_are_equal_and_hash_alike() -> None:
    """What went to another process and came back: in a set it is the same prediction."""
    asked = ("llama-2-7b", "8xl40s-pcie")
    found = api.compare(["flash-int4", "bf16"], *asked, tp=2, slow_ranks={1: 1.5})
    one, other = found.rows
    for again in (pickle.loads(pickle.dumps(found)), deepcopy(found)):
        assert again == found and hash(again) == hash(found)
        assert again.rows[0] == one != other and {one: "seen"}[again.rows[0]] == "seen"
    assert api.predict(*asked, one.scheme.name, tp=2, slow_ranks={1: 1.5}) == one
    assert api.predict(*asked, one.scheme.name, tp=2, slow_ranks={1: 1.6}) != one
