"""Exchanges on real machines: which algorithm and library carry them, and what holds for every one of them.

Where a property compares sizes, every rank's part of the tensor is whole groups: a part cut short is padded, and the
rank with the longest one sets the efficiency of all.
"""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme, schemes
from thinwire.reference.core.schedule import Interval, Lane, Op, Schedule, Step, Transfer, build
from thinwire.reference.core.scheme import Raw, Scheme
from thinwire.sim.costs.profile import Baseline, FabricProfile, Profile
from thinwire.sim.events.analytic import closed_form
from thinwire.sim.events.collective import run_alone
from thinwire.sim.events.exchange import UNCOMPRESSED, Exchanger, left_uncompressed, slowdown, uncompressed
from thinwire.sim.shapes import Exchange, Passing
from thinwire.topologies.generators import Wire, full_mesh

from ..helpers import CATALOG, US, all_close, attach, close, exchanger, fabric, gpu_profile, machine, protocol, switched

WIRE_SCHEMES = tuple(
    s.name
    for s in schemes().values()
    if s.drop_attention_percent == 0 and s.sequence_split is None and s.name != "none" and not s.compresses_experts
)
SIZES = st.sampled_from((1, 2, 3)) | st.integers(1, 40_000)


def on(cluster: str, tp: int | None = None) -> Exchanger:
    return exchanger(*machine(cluster, tp))


def seconds(of: Exchanger, name: str, numel: int, op: Op = "all_reduce") -> float:
    return of.alone(of.time(op, numel, scheme(name))).seconds


def test_a_hop_by_itself_is_as_efficient_as_one_of_a_call() -> None:
    """Efficiency is looked up by what a rank sends in the whole call: three hops of a ring take what its call takes."""
    sized = replace(protocol("ring", 4, op="all_gather"), knots=((1e3, 0.1), (1e6, 0.8)))
    of = exchanger(switched(4), Profile(gpu_profile(), fabric(4, [sized])))
    whole = Interval(0, 50_000)
    step = Step("ring", (), tuple(Transfer(rank, (rank + 1) % 4, whole, Raw()) for rank in range(4)))
    hop, call = (Schedule("hops", 4, len(whole), (Lane(whole, (step,) * hops),), 1) for hops in (1, 3))
    hop_s = of.alone(of.timed(Passing(hop))).seconds
    call_s = run_alone(attach(call, of.routes, of.cost.fabric, "all_gather"), of.routes).seconds
    assert close(3 * hop_s, call_s + 2 * sized.launch_s)


# --- what holds for every exchange ---


@given(st.sampled_from(CATALOG), st.integers(2, 8), st.sampled_from(WIRE_SCHEMES), SIZES | st.integers(1, 10**6))
@settings(max_examples=150)
def test_links_carry_the_schedules_bytes_along_its_routes(cluster: str, tp: int, name: str, numel: int) -> None:
    of = on(cluster, min(tp, 4 if cluster.startswith("4x") else 8))
    chosen = scheme(name)
    if chosen.collective == "auto":
        chosen = replace(chosen, collective="ring", carrier=None)
    timed = of.attach("all_reduce", numel, chosen, "nccl")
    schedule = build(chosen, of.ranks, numel, of.cluster.islands)
    expected: Counter[tuple[str, str]] = Counter()
    for lane in schedule.lanes:
        for step in lane.steps:
            for t in step.transfers:
                for link in of.cluster.route(t.source, t.destination):
                    expected[link.source, link.target] += t.nbytes
    found = run_alone(timed, of.routes)
    assert all(close(nbytes, expected[link]) for link, nbytes in found.link_bytes.items())
    assert set(expected) <= set(found.link_bytes)
    assert found.wire_bytes_R.tolist() == [schedule.sent_bytes()[rank] for rank in range(of.ranks)]
    assert 0 < found.peak_utilisation <= 1 + 1e-9
    assert (found.finish_s_R > 0).all()


@given(st.sampled_from(CATALOG), st.sampled_from((2, 4, 8)), st.sampled_from(WIRE_SCHEMES), SIZES, SIZES)
@settings(max_examples=200)
def test_more_bytes_are_never_faster(cluster: str, tp: int, name: str, a: int, b: int) -> None:
    of = on(cluster, min(tp, 4 if cluster.startswith("4x") else 8))
    unit = scheme(name).align * of.ranks
    small, large = (seconds(of, name, units * unit) for units in sorted((a, b)))
    assert small <= large * (1 + 1e-9)


@pytest.mark.parametrize("cluster", CATALOG)
def test_more_rows_are_never_faster_though_groups_do_not_divide_over_the_ranks(cluster: str) -> None:
    """Where one rank had a group more than the others, all transfers of the call were taken to be as efficient as if
    they were as large: up to 2.2 % faster with more rows, below 32 KiB. Packets of 496 values and rows of 6,144 are
    coarser: until every rank has a group, more rows give more ranks something to do, and are left out; beyond, a part
    counts as the mean of its cut, which may be half of the largest (docs/decisions/026-presets.md).
    """
    everyone = len(machine(cluster)[0].gpus)
    for number, name in enumerate((*WIRE_SCHEMES, "tree:int4-g32-min", "ring:int8-g64-sym")):
        of = on(cluster, 2 if number % 4 == 3 else everyone)
        width = (4608, 2304, 5120, 3584)[number % 4 if number % 3 else 0]  # 36, 18, 40 and 28 groups of 128
        align = scheme(name).align
        fewest = 0 if align <= 256 else align * of.ranks
        some = [rows for rows in (*range(1, 9), 13, 29, 64, 200) if rows * width >= fewest]
        times = [seconds(of, name, rows * width) for rows in some]
        least = 1 - (1e-9 if align <= 256 else 0.03)
        dips = [(a, b) for a, b in pairwise(times) if b < a * least]
        assert not dips, f"{name} on {of.ranks} of {cluster}, {width} wide: {dips}"


@given(
    st.sampled_from(CATALOG),
    st.sampled_from((2, 4, 8)),
    st.sampled_from(WIRE_SCHEMES),
    SIZES,
    st.floats(1, 4),
    st.integers(0, 1000) | st.none(),
)
@settings(max_examples=150)
def test_more_bandwidth_is_never_slower(
    cluster: str, tp: int, name: str, units: int, factor: float, which: int | None
) -> None:
    """All links faster, or one of them, or one pool."""
    found, profile = machine(cluster, min(tp, 4 if cluster.startswith("4x") else 8))
    names = [*(link.name for link in found.links), *(f"pool:{pool}" for pool in found.pools)]
    faster = found.with_link_scaled("*" if which is None else names[which % len(names)], factor)
    numel = units * scheme(name).align * len(found.gpus)
    before, after = (seconds(exchanger(c, profile), name, numel) for c in (found, faster))
    assert after <= before * (1 + 1e-9)


@pytest.mark.parametrize("cluster", CATALOG)
def test_the_closed_form_equals_the_event_by_event_run(cluster: str) -> None:
    of = on(cluster)
    short_cuts = 0
    for name in WIRE_SCHEMES:
        for op in ("all_reduce", "all_gather"):
            for numel in (of.ranks * 128 * 7, 12_345):
                try:
                    timed = of.time(op, numel, scheme(name))
                except ValueError:
                    continue
                quick = closed_form(timed, of.routes, np.ones(of.ranks))
                if quick is None:
                    continue
                short_cuts += 1
                full = run_alone(timed, of.routes)
                assert all_close(quick.finish_s_R.tolist(), full.finish_s_R.tolist())
                assert all_close(quick.codec_s_R.tolist(), full.codec_s_R.tolist())
                assert quick.wire_bytes_R.tolist() == full.wire_bytes_R.tolist()
                assert all(close(nbytes, full.link_bytes[link]) for link, nbytes in quick.link_bytes.items())
                assert close(quick.peak_utilisation, full.peak_utilisation)
    assert short_cuts or cluster in ("8xl40s-pcie", "8xrtx4090-pcie", "8xrtx-pro-6000-pcie", "2x8xh100-ib")


def test_the_closed_form_is_refused_where_ranks_or_flows_differ() -> None:
    of, chosen, numel = on("8xh100-nvlink"), scheme("flash-int4"), 8 * 128 * 50
    timed = of.time("all_reduce", numel, chosen)
    assert closed_form(timed, of.routes, np.ones(8)) is not None
    assert closed_form(timed, of.routes, slowdown(8, {3: 1.5})) is None
    chunked = of.time("all_reduce", numel, replace(chosen, chunk_values=8 * 128 * 10))
    assert closed_form(chunked, of.routes, np.ones(8)) is None
    longer = of.time("all_reduce", numel + 5, chosen)  # one rank has a group more to send
    assert closed_form(longer, of.routes, np.ones(8)) is None
    shorter = of.time("reduce_scatter", numel - 5, chosen)  # as many groups, but one rank has fewer values to write
    assert closed_form(shorter, of.routes, np.ones(8)) is None
    crossing = on("8xl40s-pcie")
    assert closed_form(crossing.time("all_reduce", numel, chosen), crossing.routes, np.ones(8)) is None


# --- who carries it ---

NUMEL = 4 * 50_000


def among(costs: FabricProfile, reduces: bool = False, ranks: int = 4) -> Exchanger:
    return exchanger(switched(ranks, reduces), Profile(gpu_profile(), costs))


def choice(*protocols: tuple[str, str, float, float], baseline: tuple[Baseline, ...]) -> FabricProfile:
    """(library, primitive, launch_s, efficiency) each, measured on 4 ranks."""
    known = [
        protocol(primitive, 4, library, launch_s=launch_s, hop_s=0.0, efficiency=efficiency)
        for library, primitive, launch_s, efficiency in protocols
    ]
    return replace(fabric(4, known), baseline={"all_reduce": baseline})


RING, TWO_STEP = Baseline("big", "ring"), Baseline("small", "two_step")


def test_auto_takes_the_fastest_for_the_size() -> None:
    costs = choice(
        ("big", "ring", 50 * US, 1.0),
        ("small", "all_to_all", 1 * US, 0.2),
        ("small", "all_gather", 1 * US, 0.2),
        baseline=(RING, TWO_STEP),
    )
    of = among(costs)
    tiny, huge = of.timed(Exchange("all_reduce", 64, None)), of.timed(Exchange("all_reduce", 10**7, None))
    assert of.describe(tiny) == "all-reduce of 64 values: two_step by small"
    assert of.describe(huge) == "all-reduce of 10000000 values: ring by big"
    for numel, timed in ((64, tiny), (10**7, huge)):
        each = (of.attach("all_reduce", numel, uncompressed(b, numel, 4), b.library) for b in (RING, TWO_STEP))
        assert of.alone(timed).seconds == min(of.alone(candidate).seconds for candidate in each)


def test_a_stand_in_never_beats_what_was_measured() -> None:
    fast_but_not_measured = choice(
        ("big", "ring", 50 * US, 0.1), ("big", "all_to_all", 0.0, 1.0), baseline=(RING, TWO_STEP)
    )
    of = among(fast_but_not_measured)
    timed = of.time("all_reduce", NUMEL, UNCOMPRESSED)
    assert of.describe(timed).endswith("ring by big")
    assert timed.notes == ()
    assert of.sentences() == ["all-reduce of 200000 values: ring by big"]


def test_a_stand_in_is_named_in_the_sentences() -> None:
    of = among(choice(("big", "ring", 50 * US, 0.1), baseline=(TWO_STEP,)))
    of.time("all_reduce", NUMEL, UNCOMPRESSED)
    described, *notes = of.sentences()
    assert described.endswith("two_step by small")
    assert len(notes) == 2
    assert "no measurement of all_to_all by small on 4 ranks" in notes[0]
    assert "those of ring by big on 4 ranks" in notes[0]


def test_an_op_nobody_timed_is_a_direct_exchange() -> None:
    of = among(replace(fabric(4), baseline={}))
    assert of.describe(of.time("all_gather", NUMEL, UNCOMPRESSED)).endswith("two_step by lib")


def test_in_switch_reduction_needs_a_switch_that_reduces() -> None:
    nvls = Scheme("nvls", Raw(), Raw(), "nvls")
    with pytest.raises(ValueError, match=r"nvls needs a switch that reduces; cluster switched-4 has none"):
        among(fabric(4)).time("all_reduce", NUMEL, nvls)
    assert among(fabric(4), reduces=True).time("all_reduce", NUMEL, nvls).ranks == 4
    costs = choice(
        ("big", "ring", 50 * US, 0.1),
        ("big", "nvls", 1 * US, 1.0),
        baseline=(RING, Baseline("big", "nvls")),
    )
    for reduces, name in ((False, "ring"), (True, "nvls")):
        of = among(costs, reduces)
        assert of.describe(of.time("all_reduce", NUMEL, UNCOMPRESSED)).endswith(f"{name} by big")


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("flash-int4", "encoded"),
        ("quickreduce-int4", "inside"),
        ("bf16-ring", "big"),
        ("tree:bf16", "encoded"),
        ("ring:int4", "encoded"),
    ],
)
def test_the_library_that_carries_a_scheme(name: str, library: str) -> None:
    costs = replace(fabric(4), baseline={"all_reduce": (RING,)}, libraries={"separate": "encoded", "fused": "inside"})
    of = among(costs)
    assert of.describe(of.time("all_reduce", NUMEL, scheme(name))).endswith(f" by {library}")


def test_rings_on_a_mesh_use_every_link() -> None:
    """Four A100 with a bridge between every two: NCCL lays rings along all of them, not one of three a GPU."""
    wire = Wire(100e9, 5e-7)
    nvlink, (one, profile) = full_mesh(4, wire), machine("8xa100-nvlink", 4)
    mesh = nvlink.cluster(name="mesh", title="mesh", gpu=one.gpu, fabric=one.fabric, sources={}, assumptions=())
    of, numel = exchanger(mesh, profile), 2**28
    busbw = 2 * numel * 1.5 / seconds(of, "nccl", numel)
    assert mesh.meshed and not one.meshed
    assert 100e9 < busbw <= 300e9
    assert seconds(of, "nccl", numel) == pytest.approx(seconds(of, "bf16", numel), rel=0.5)
    assert "two_step by nccl" in of.describe(of.time("all_reduce", numel, scheme("nccl")))


def test_islands_decide_what_crosses_the_sockets() -> None:
    """8x L40S, two sockets of four: flat, every rank's sums go to all four beyond the socket; by islands, once."""
    of, numel = on("8xl40s-pcie"), 8 * 128 * 8000
    flat, by_island = (
        of.alone(of.time("all_reduce", numel, scheme(f"{c}:int4"))) for c in ("two_step", "hierarchical")
    )
    codec = scheme("flash-int4").reduce
    part = codec.wire_bytes(numel // 8)
    for link in (("bridge0", "bridge1"), ("bridge1", "bridge0")):
        assert flat.link_bytes[link] == 2 * 4 * 4 * part
        assert by_island.link_bytes[link] == 2 * 4 * part
    assert by_island.seconds < flat.seconds


@pytest.mark.parametrize("name", ["two_step:int4", "all_gather:int4", "hierarchical:int8"])
def test_fused_codec_kernels_cost_what_fused_ones_do(name: str) -> None:
    of = among(fabric(4))
    apart, fused = (of.time("all_reduce", NUMEL, scheme(s)).codec_s_R for s in (name, f"{name}@fused"))
    passes = 2 if name.startswith("all_gather") else 3
    tensor_s = 2 * 2 * NUMEL / (1000e9 * 0.5)  # read once and written once: fused kernels leave that to the protocol
    np.testing.assert_allclose(apart - fused, passes * (5 * US + 1.5 * US - 2 * US) + tensor_s)


def test_an_exchange_is_timed_once() -> None:
    of = on("8xh100-nvlink", 4)
    first = of.timed(Exchange("all_reduce", NUMEL, scheme("flash-int4")))
    assert of.timed(Exchange("all_reduce", NUMEL, scheme("flash-int4"))) is first
    assert of.alone(first) is of.alone(first)
    assert of.timed(Exchange("all_reduce", NUMEL + 4, scheme("flash-int4"))) is not first


@pytest.mark.parametrize(("numel", "chunks", "lanes"), [(8000, 8, 8), (8000, 1, 1), (4, 8, 1), (9, 8, 2), (1, 8, 1)])
def test_a_baseline_is_cut_in_its_pieces_but_never_below_a_value_a_rank(numel: int, chunks: int, lanes: int) -> None:
    cut = uncompressed(Baseline("big", "ring", chunks), numel, 4)
    assert len(build(cut, 4, numel).lanes) == lanes
    assert cut.chunks_in_flight >= lanes
    assert (cut.reduce, cut.gather, cut.collective) == (Raw(), Raw(), "ring")


def test_stragglers() -> None:
    assert slowdown(4, {}).tolist() == [1, 1, 1, 1]
    assert slowdown(4, {2: 1.5, 0: 0.5}).tolist() == [0.5, 1, 1.5, 1]
    for rank in (-1, 4):
        with pytest.raises(ValueError, match=rf"rank={rank}, ranks are 0\.\.3"):
            slowdown(4, {rank: 2.0})
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"slow-down factor must lie in .* rank 1="):
            slowdown(4, {1: factor})


def test_a_straggler_slows_codecs_and_nothing_else() -> None:
    cluster, profile = machine("8xh100-nvlink", 4)
    for name, slower in (("flash-int4", True), ("bf16-ring", False)):
        before, after = (seconds(exchanger(cluster, profile, slow), name, NUMEL) for slow in ({}, {2: 3.0}))
        assert (after > before * (1 + 1e-9)) == slower
        assert after >= before


@pytest.mark.parametrize("factor", [0.5, 0.25, 3.0])
def test_a_scaled_port_changes_a_ring_as_its_closed_form_says(factor: float) -> None:
    """Every hop of a ring goes through every port, so the wire's part is divided by the slowest one's factor."""
    profile = Profile(gpu_profile(), fabric(6))
    numel = 6 * 20_000
    known = protocol("ring")
    whole = seconds(exchanger(switched(6), profile), "bf16-ring", numel)
    wire = 10 / 6 * 2 * numel / (known.knots[0][1] * switched(6).links[0].bandwidth_bytes_per_s)
    for link in ("gpu2->nvswitch", "nvswitch->gpu5"):
        scaled = seconds(exchanger(switched(6).with_link_scaled(link, factor), profile), "bf16-ring", numel)
        assert close(scaled, whole - wire + wire / min(factor, 1.0))
    everywhere = seconds(exchanger(switched(6).with_link_scaled("*", factor), profile), "bf16-ring", numel)
    assert close(everywhere, whole - wire + wire / factor)


# --- carriers ---


@pytest.mark.parametrize("name", ["nccl", "vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("cluster", CATALOG)
def test_no_carrier_beats_the_best_there_is(name: str, cluster: str) -> None:
    """But where its kernel is a stand-in that `bf16` does not choose from."""
    of = on(cluster)
    for numel in (2**10, 2**17, 2**19, 2**21, 2**25):
        timed = of.time("all_reduce", numel, scheme(name))
        assert of.sentences() and any("uncompressed, and goes as" in note for note in timed.notes)
        if of.cost.fabric.name != "mi300x-xgmi":  # QuickReduce's kernel is no choice of bf16's
            assert of.alone(timed).seconds >= seconds(of, "bf16", numel) * (1 - 1e-9)
        assert timed.wire_bytes_R.sum() > 0


def test_what_nccl_alone_takes_on_eight_h100() -> None:
    """8 MiB takes 76 to 90 us with NCCL (ByteDance-Seed/Triton-distributed#57, vllm-project/vllm#42324), and 44 with
    multimem, which vLLM and `bf16` take.
    """
    of = on("8xh100-nvlink")
    nccl, vllm, best = (seconds(of, name, 2**22) / US for name in ("nccl", "vllm", "bf16"))
    assert 76 < nccl < 100 and 40 < vllm < 46 and vllm == best


def test_pcie_ipc_is_asked_for_by_name() -> None:
    """12 KiB on eight RTX PRO 6000: 5.3 us by FlashInfer's kernels (SGLang's pcie_ipc_ar.py); NCCL by default."""
    of = on("8xrtx-pro-6000-pcie")
    ipc, default = (seconds(of, name, 6144) / US for name in ("sglang-ipc", "sglang"))
    assert 5.2 < ipc < 5.4 and default > 20


def test_a_carrier_carries_what_has_no_scheme_too() -> None:
    """The logits of a prompt under `nccl` are gathered by NCCL, and not by the engine's multimem."""
    of = on("8xh100-nvlink")
    gather = Exchange("all_gather", 2**17, None)
    bare, carried = (replace(of, uncompressed=left_uncompressed(scheme(name))) for name in ("bf16", "nccl"))
    assert "by engine-graph" in bare.describe(bare.timed(gather))
    assert "by nccl" in carried.describe(carried.timed(gather))


def test_what_is_left_uncompressed() -> None:
    assert left_uncompressed(scheme("bf16")) == left_uncompressed(scheme("flash-int4")) == UNCOMPRESSED
    assert left_uncompressed(scheme("vllm+iso")) == replace(UNCOMPRESSED, carrier="vllm")
