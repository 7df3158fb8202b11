"""Collectives in time: closed forms on an uncontended switch, pipelined chunks, and what a rank waits for.

The made-up fabric has another launch, hop and efficiency for every primitive and latencies that are not zero, so that
no term can stand for another or be left out.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.core.schedule import Interval, Lane, Op, Primitive, Schedule, Step, Transfer, Work, build
from thinwire.reference.core.scheme import Codec, Collective, GroupedInt, Raw, Scheme
from thinwire.sim.costs.cost import codec_traffic
from thinwire.sim.costs.profile import FabricProfile
from thinwire.sim.events.analytic import closed_form
from thinwire.sim.events.collective import CodecSeconds, CollectiveRun, CollectiveTime, bytes_per_rank, run_alone
from thinwire.sim.events.network import Floats, Ints, Network, Routes

from ..helpers import (
    KIND_S,
    LINK_LATENCY_S,
    PORT_BYTES_PER_S,
    PRIMITIVES,
    ROUTE_LATENCY_S,
    all_close,
    attach,
    close,
    fabric,
    no_codec,
    protocol,
    seconds_by_kind,
    switched,
)

RAW, INT4 = Raw(), GroupedInt(4)
RANKS = range(2, 10)


def scheme(collective: Collective, codec: Codec = RAW, gather: Codec | None = None, **given: int) -> Scheme:
    return Scheme("test", codec, gather or codec, collective, **given)  # type: ignore[arg-type]


def run(
    chosen: Scheme,
    ranks: int,
    numel: int,
    op: Op = "all_reduce",
    codec_s: CodecSeconds = no_codec,
    costs: FabricProfile | None = None,
    slowdown: Floats | None = None,
    islands: tuple[tuple[int, ...], ...] | None = None,
) -> CollectiveTime:
    cluster = switched(ranks, reduces=chosen.collective == "nvls")
    if islands:
        cluster = replace(cluster, islands=islands)
    routes = Routes(cluster)
    timed = attach(build(chosen, ranks, numel, islands, op), routes, costs, op, codec_s)
    return run_alone(timed, routes, slowdown)


def overhead(primitive: str, hops: int = 1, latency_s: float = ROUTE_LATENCY_S) -> float:
    """Of one call: launch once, software and wire latency every hop. Each direct exchange is a call."""
    known = protocol(primitive)
    return known.launch_s + hops * (known.hop_s + latency_s)


def wire(primitive: str, nbytes: float) -> float:
    """Seconds of so many bytes through one port."""
    return nbytes / (protocol(primitive).knots[0][1] * PORT_BYTES_PER_S)


# --- closed forms ---


@pytest.mark.parametrize("n", RANKS)
@pytest.mark.parametrize(("codec", "kernels"), [(RAW, 0.0), (INT4, 1.0)], ids=["raw", "int4"])
@pytest.mark.parametrize("collective", ["ring", "two_step", "all_gather"])
def test_all_reduce_equals_its_closed_form(collective: Collective, codec: Codec, kernels: float, n: int) -> None:
    chunk = 128 * 3000
    part, whole = codec.wire_bytes(chunk), codec.wire_bytes(n * chunk)
    encode, reduce, decode = (kernels * KIND_S[kind] for kind in ("encode", "reduce", "decode"))
    expected = {
        "ring": overhead("ring", 2 * (n - 1))
        + wire("ring", 2 * (n - 1) * part)
        + (n * encode + (n - 1) * reduce + decode),
        "two_step": overhead("all_to_all")
        + wire("all_to_all", (n - 1) * part)
        + overhead("all_gather")
        + wire("all_gather", (n - 1) * part)
        + (2 * encode + reduce + decode),
        "all_gather": overhead("all_gather") + wire("all_gather", (n - 1) * whole) + encode + reduce,
    }[collective]
    found = run(scheme(collective, codec), n, n * chunk, codec_s=seconds_by_kind)
    assert all_close(found.finish_s_R.tolist(), [expected] * n)
    assert found.peak_utilisation <= 1 + 1e-9


@pytest.mark.parametrize("n", RANKS)
def test_two_codecs_in_two_steps(n: int) -> None:
    chunk, gather = 128 * 500, GroupedInt(8)
    expected = (
        overhead("all_to_all")
        + wire("all_to_all", (n - 1) * INT4.wire_bytes(chunk))
        + overhead("all_gather")
        + wire("all_gather", (n - 1) * gather.wire_bytes(chunk))
    )
    assert close(run(scheme("two_step", INT4, gather), n, n * chunk).seconds, expected)


@pytest.mark.parametrize("n", RANKS)
def test_nvls_streams_both_ways_through_the_switch(n: int) -> None:
    """A rank sends all its values up and its own sum again, and gets its sum down and then everything."""
    nbytes = 2 * n * 70_000
    expected = overhead("nvls", latency_s=LINK_LATENCY_S) + wire("nvls", (1 + 1 / n) * nbytes)
    assert close(run(scheme("nvls"), n, n * 70_000).seconds, expected)


@pytest.mark.parametrize(("n", "levels"), [(2, 1), (3, 1), (7, 2), (15, 3)])
def test_tree_waits_for_both_children_at_every_level(n: int, levels: int) -> None:
    nbytes = 2 * 50_000
    expected = overhead("tree", 2 * levels) + wire("tree", 2 * levels * min(2, n - 1) * nbytes)
    assert close(run(scheme("tree"), n, 50_000).seconds, expected)


@pytest.mark.parametrize("g", [2, 3, 4])
def test_hierarchical_carries_each_value_once_across_islands(g: int) -> None:
    islands = (tuple(range(g)), tuple(range(g, 2 * g)))
    shard = 2 * 60_000  # bytes of an island's shard; half of it belongs to each island's owner
    expected = (
        overhead("reduce_scatter")
        + wire("reduce_scatter", (g - 1) * shard)
        + overhead("all_to_all")
        + wire("all_to_all", shard / 2)
        + 2 * overhead("all_gather")
        + wire("all_gather", shard / 2 + (g - 1) * shard)
    )
    assert close(run(scheme("hierarchical"), 2 * g, g * 60_000, islands=islands).seconds, expected)


@pytest.mark.parametrize("n", RANKS)
@pytest.mark.parametrize(
    ("collective", "op", "primitive", "hops_each"),
    [
        ("two_step", "reduce_scatter", "reduce_scatter", False),
        ("two_step", "all_gather", "all_gather", False),
        ("two_step", "all_to_all", "all_to_all", False),
        ("ring", "reduce_scatter", "ring", True),
        ("ring", "all_gather", "ring", True),
    ],
)
def test_other_ops_equal_their_closed_forms(
    collective: Collective, op: Op, primitive: Primitive, hops_each: bool, n: int
) -> None:
    part = 2 * 30_000
    expected = overhead(primitive, n - 1 if hops_each else 1) + wire(primitive, (n - 1) * part)
    assert close(run(scheme(collective), n, n * 30_000, op).seconds, expected)


@pytest.mark.parametrize("n", RANKS)
def test_efficiency_is_that_of_all_bytes_a_rank_sends_in_the_primitive(n: int) -> None:
    """Knots a factor of 8 apart: a look-up by one hop's bytes, or by the tensor's, gives another time."""
    knots = ((1e3, 0.05), (1e6, 0.4), (8e6, 0.8))
    costs = fabric(protocols=[replace(protocol(p), knots=knots) for p in PRIMITIVES])
    part = 2 * 100_000
    sent = (n - 1) * part
    for collective, expected in (
        ("ring", overhead("ring", 2 * (n - 1)) + _wire(costs, "ring", 2 * sent)),
        ("two_step", sum(overhead(p) + _wire(costs, p, sent) for p in ("all_to_all", "all_gather"))),
    ):
        assert close(run(scheme(collective), n, n * 100_000, costs=costs).seconds, expected)  # type: ignore[arg-type]


def _wire(costs: FabricProfile, primitive: str, sent: float) -> float:
    found, _ = costs.protocol("lib", "all_reduce", primitive, 8)
    return sent / found.efficiency(sent) / PORT_BYTES_PER_S


def test_bytes_per_rank_leaves_the_switch_out() -> None:
    steps = build(scheme("nvls"), 4, 4_000).lanes[0].steps
    assert bytes_per_rank(steps, 4, 1)["nvls"] == 2 * (4_000 + 1_000)


@pytest.mark.parametrize("sender", range(4))
def test_the_size_of_a_call_is_that_of_its_largest_sender(sender: int) -> None:
    sends = tuple(Transfer(sender, to, Interval(0, 100), RAW) for to in range(4) if to != sender)
    back = Transfer((sender + 1) % 4, sender, Interval(0, 10), RAW)
    step = Step("all_to_all", (), (*sends, back))
    assert bytes_per_rank((step, step), 4, 1) == {"all_to_all": 2 * 3 * 200}


@pytest.mark.parametrize("collective", ["ring", "two_step", "all_gather", "hierarchical", "tree"])
@pytest.mark.parametrize("numel", [0, 1, 3, 129])
def test_tiny_tensors_arrive(collective: Collective, numel: int) -> None:
    found = run(scheme(collective, INT4), 4, numel, codec_s=seconds_by_kind)
    assert (found.seconds > 0) == (numel > 0)


def test_one_rank_and_no_collective_take_no_time() -> None:
    assert run(scheme("ring"), 1, 1000).seconds == 0
    assert run(scheme("none"), 4, 1000).seconds == 0


# --- what a rank waits for ---


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("slow", [0, 2])
def test_a_straggler_delays_everyone_by_its_codec_kernels(slow: int, factor: float) -> None:
    n, chunk = 4, 128 * 1000
    slowdown = np.ones(n)
    slowdown[slow] = factor
    found = run(scheme("two_step", INT4), n, n * chunk, codec_s=seconds_by_kind, slowdown=slowdown)
    wires = sum(overhead(p) + wire(p, (n - 1) * INT4.wire_bytes(chunk)) for p in ("all_to_all", "all_gather"))
    slowest = max(factor, 1.0)
    before, last = 2 * KIND_S["encode"] + KIND_S["reduce"], KIND_S["decode"]
    assert close(found.seconds, wires + slowest * before + slowest * last)
    kernels = [(before + last) * slowdown[r] for r in range(n)]
    assert all_close(found.codec_s_R.tolist(), kernels)
    others = [found.finish_s_R[r] for r in range(n) if r != slow]
    assert all_close(others, [wires + slowest * before + last] * (n - 1))


@pytest.mark.parametrize("factor", [1.0, 500.0])
def test_a_rank_that_only_receives_leaves_a_step_after_its_own_kernels_too(factor: float) -> None:
    interval = Interval(0, 1280)
    work = (Work(0, "encode", interval, INT4, ()), Work(1, "encode", interval, INT4, ()))
    steps = (Step("ring", work, (Transfer(0, 1, interval, INT4),)), Step("none", work[1:], ()))
    routes = Routes(switched(2))
    timed = attach(Schedule("made up", 2, 1280, (Lane(interval, steps),), 1), routes, codec_s=seconds_by_kind)
    found = run_alone(timed, routes, np.array([1.0, factor]))
    known, encode = protocol("ring"), KIND_S["encode"]
    arrives = encode + overhead("ring") + wire("ring", INT4.wire_bytes(1280))
    ready = factor * encode + known.launch_s + known.hop_s
    assert all_close(found.finish_s_R.tolist(), [arrives, max(arrives, ready) + factor * encode])


def chain(steps: int, lanes: int, in_flight: int, values: int = 50_000) -> Schedule:
    """A value handed on from rank to rank: in step k, k sends to k + 1. No two stages share a link's direction."""
    found = []
    for lane in range(lanes):
        interval = Interval(lane * values, (lane + 1) * values)
        hops = tuple(Step("ring", (), (Transfer(k, k + 1, interval, RAW),)) for k in range(steps))
        found.append(Lane(interval, hops))
    return Schedule("ring", steps + 1, lanes * values, tuple(found), in_flight)


NO_LAUNCH = fabric(protocols=[protocol("ring", launch_s=0.0)])
STAGE_S = protocol("ring").hop_s + ROUTE_LATENCY_S + wire("ring", 2 * 50_000)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("lanes", [1, 2, 4, 7])
def test_a_pipeline_of_equal_stages_takes_steps_plus_lanes_less_one(steps: int, lanes: int) -> None:
    routes = Routes(switched(steps + 1))
    timed = attach(chain(steps, lanes, in_flight=steps + lanes), routes, NO_LAUNCH)
    found = run_alone(timed, routes)
    assert close(found.seconds, (steps + lanes - 1) * STAGE_S)
    # a rank has its result when its last transfer has arrived: rank k in stage k + 1 of the last lane
    stages = [lanes - 1 + min(k + 1, steps) for k in range(steps + 1)]
    assert all_close(found.finish_s_R.tolist(), [stage * STAGE_S for stage in stages])


@pytest.mark.parametrize("collective", ["ring", "two_step", "all_gather", "hierarchical"])
@pytest.mark.parametrize("n", [2, 4])
def test_one_chunk_in_flight_is_one_after_the_other(collective: Collective, n: int) -> None:
    chunk = n * 128 * 40
    one = run(scheme(collective, INT4), n, chunk, codec_s=seconds_by_kind).seconds
    five = scheme(collective, INT4, chunk_values=chunk)
    assert close(run(five, n, 5 * chunk, codec_s=seconds_by_kind).seconds, 5 * one)


@given(
    st.sampled_from(("ring", "two_step", "all_gather")),
    st.integers(2, 5),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from((1, 30, 3000)),
    st.booleans(),
)
@settings(max_examples=60)
def test_chunks_in_flight_are_never_slower_than_one_by_one_nor_faster_than_the_wire(
    collective: Collective, n: int, lanes: int, in_flight: int, groups: int, kernels: bool
) -> None:
    chunk = n * 128 * groups
    codec_s = seconds_by_kind if kernels else no_codec
    chosen = scheme(collective, INT4, chunk_values=chunk, chunks_in_flight=in_flight)
    found = run(chosen, n, lanes * chunk, codec_s=codec_s)
    one = run(scheme(collective, INT4), n, chunk, codec_s=codec_s).seconds
    whole = run(scheme(collective, INT4), n, lanes * chunk, codec_s=codec_s)
    fixed = one - _wire_only(collective, n, INT4.wire_bytes(chunk // n), INT4.wire_bytes(chunk))
    assert found.seconds <= lanes * one * (1 + 1e-9)
    assert found.seconds <= (whole.seconds + (lanes - 1) * fixed + lanes * n * 16 / 1e9) * (1 + 1e-9)
    assert found.seconds >= lanes * (one - fixed) * (1 - 1e-9)
    assert found.peak_utilisation <= 1 + 1e-9


def _wire_only(collective: str, n: int, part: int, whole: int) -> float:
    return {
        "ring": wire("ring", 2 * (n - 1) * part),
        "two_step": wire("all_to_all", (n - 1) * part) + wire("all_gather", (n - 1) * part),
        "all_gather": wire("all_gather", (n - 1) * whole),
    }[collective]


def test_chunks_hide_codec_kernels_behind_the_wire() -> None:
    """With as much time in kernels as on the wire, chunks that overlap must beat both the whole and one by one."""
    n, chunk = 4, 4 * 128 * 20_000
    whole_s = run(scheme("two_step", INT4), n, 8 * chunk, codec_s=_by_values).seconds
    serial = scheme("two_step", INT4, chunk_values=chunk)
    overlapped = replace(serial, chunks_in_flight=3)
    serial_s, overlapped_s = (run(s, n, 8 * chunk, codec_s=_by_values).seconds for s in (serial, overlapped))
    assert overlapped_s < 0.75 * whole_s < 0.75 * serial_s


def _by_values(work: Iterable[Work], ranks: int) -> Floats:
    found = np.zeros(ranks)
    for w in work:
        found[w.rank] += len(w.interval) * 1e-11
    return found


def test_kernels_of_one_rank_run_one_after_the_other() -> None:
    """Lane 0's second step and lane 1's first may both run, but a rank has one codec stream: no two at a time."""
    lanes = []
    for lane in range(2):
        interval = Interval(lane * 128, (lane + 1) * 128)
        work = tuple(Work(rank, "encode", interval, INT4, ()) for rank in range(2))
        lanes.append(Lane(interval, (Step("none", work, ()), Step("none", work, ()), Step("none", work, ()))))
    routes = Routes(switched(2))
    timed = attach(Schedule("made up", 2, 256, tuple(lanes), 2), routes, codec_s=seconds_by_kind)
    assert all_close(run_alone(timed, routes).finish_s_R.tolist(), [6 * KIND_S["encode"]] * 2)
    assert timed.codec_s_R.tolist() == pytest.approx([6 * KIND_S["encode"]] * 2)


@given(
    st.sampled_from(("ring", "two_step", "all_gather", "hierarchical")),
    st.integers(2, 6),
    st.integers(1, 5000),
    st.integers(1, 8),
    st.integers(1, 4),
    st.floats(1e-6, 10),
)
@settings(max_examples=40)
def test_how_long_a_run_takes_does_not_depend_on_when_it_starts(
    collective: Collective, n: int, numel: int, lanes: int, in_flight: int, start_s: float
) -> None:
    chosen = scheme(collective, INT4, chunk_values=max(1, 50 * numel // lanes), chunks_in_flight=in_flight)
    routes = Routes(switched(n))
    timed = attach(build(chosen, n, 50 * numel), routes, codec_s=seconds_by_kind)
    env, slowdown = simpy.Environment(), np.linspace(1, 1.3, n)
    finish = np.zeros(n)

    def done(ranks: Ints) -> None:
        finish[ranks] = env.now

    collective_run = CollectiveRun(env, Network(env, routes), timed, slowdown, done)
    env.timeout(start_s).callbacks.append(lambda _event: collective_run.enter(np.arange(n)))
    env.run()
    np.testing.assert_allclose(finish - start_s, run_alone(timed, routes, slowdown).finish_s_R, rtol=0, atol=1e-13)


def test_lanes_in_flight_share_the_links() -> None:
    """Raw values have no kernels to hide: two chunks at a time save latency, never bytes."""
    n, chunk = 4, 400_000
    chosen = scheme("two_step", chunk_values=chunk, chunks_in_flight=2)
    wires = _wire_only("two_step", n, 2 * chunk // n, 2 * chunk)
    found = run(chosen, n, 6 * chunk)
    assert found.seconds >= 6 * wires
    assert found.seconds < 6 * (wires + overhead("all_to_all") + overhead("all_gather"))
    sent = [6 * 2 * (n - 1) * 2 * chunk // n] * n
    assert found.wire_bytes_R.tolist() == sent


def test_the_same_timed_schedule_runs_again_to_the_same_bits() -> None:
    routes = Routes(switched(8))
    timed = attach(build(scheme("ring", INT4), 8, 99_999), routes, codec_s=seconds_by_kind)
    first, second = run_alone(timed, routes), run_alone(timed, routes)
    assert first.finish_s_R.tobytes() == second.finish_s_R.tobytes()
    assert first.link_bytes == second.link_bytes


# --- exact values ride in the others' messages ---


@pytest.mark.parametrize("n", RANKS)
@pytest.mark.parametrize("collective", ["ring", "two_step", "all_gather"])
def test_exact_values_add_their_bytes_and_no_latency(collective: Collective, n: int) -> None:
    """One message a peer and step: launches, hops and wire latencies as often as without, and both parts' bytes."""
    chunk, tail = 128 * 300, 1700
    hops = 2 * (n - 1) if collective == "ring" else 1
    primitives = ["all_to_all", "all_gather"] if collective == "two_step" else [collective]
    whole = n if collective == "all_gather" else 1
    nbytes = INT4.wire_bytes(whole * chunk) + 2 * whole * tail
    times = (hops if collective == "ring" else n - 1) * nbytes
    routes = Routes(switched(n))
    timed = attach(build(scheme(collective, INT4), n, n * (chunk + tail), exact=n * tail), routes)
    found = run_alone(timed, routes)
    assert close(found.seconds, sum(overhead(p, hops) + wire(p, times) for p in primitives))
    closed = closed_form(timed, routes, np.ones(n))
    assert closed is not None and close(closed.seconds, found.seconds)
    for step in timed.lanes[0]:
        ends = [tuple(pair) for pair in step.ends_F2.tolist()]
        assert len(set(ends)) == len(ends)


@pytest.mark.parametrize("collective", ["two_step", "ring", "tree", "hierarchical"])
def test_posted_messages_are_not_more_either(collective: Collective) -> None:
    """Where each peer is sent one message after the other, a second one would wait for the first's latency."""
    islands, posted = (
        ((0, 1), (2, 3, 4)),
        fabric(protocols=[replace(protocol(p), posted=p != "nvls") for p in PRIMITIVES]),
    )
    routes = Routes(replace(switched(5), islands=islands))
    without, exact = (
        attach(build(scheme(collective, INT4), 5, 5 * 12_800 + tail, islands, exact=tail), routes, posted)
        for tail in (0, 5)
    )
    few = run_alone(exact, routes).seconds - run_alone(without, routes).seconds
    assert 0 <= few < LINK_LATENCY_S / 2
    for lane, other in zip(without.lanes, exact.lanes, strict=True):
        assert [len(step.pairs_F) for step in lane] == [len(step.pairs_F) for step in other]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["ring", "two_step", "all_gather", "tree"]),
    st.integers(2, 8),
    st.integers(1, 40),
    st.integers(0, 40),
    st.integers(0, 40),
)
def test_more_exact_values_are_never_faster(collective: Collective, n: int, rows: int, some: int, more: int) -> None:
    """Rows of whole groups for every rank, as a model's width has them."""
    some, more = sorted((min(some, rows - 1), min(more, rows - 1)))
    width, routes = 128 * n, Routes(switched(n))
    chosen = scheme(collective, INT4)
    times = [
        run_alone(attach(build(chosen, n, rows * width, exact=e * width), routes), routes).seconds for e in (some, more)
    ]
    assert times[0] <= times[1] * (1 + 1e-12)


def test_a_kernel_that_codes_moves_the_exact_values_too() -> None:
    """Read and written as they are, in no launch of their own, the sums in registers: every step, by hand."""
    schedule = build(scheme("two_step", INT4), 2, 2 * 1280 + 64, exact=64)
    first, second, last = (codec_traffic(step.work, 2) for step in schedule.lanes[0].steps)
    coded = INT4.wire_bytes(1280)
    assert first.local_bytes_R.tolist() == [2 * (2560 + 64)] * 2 and first.passes_R.tolist() == [1, 1]
    assert first.wire_bytes_R.tolist() == [2 * coded + 2 * 64] * 2
    assert second.local_bytes_R.tolist() == [0, 0] and second.passes_R.tolist() == [1, 1]
    assert second.wire_bytes_R.tolist() == [3 * coded + 3 * 2 * 32] * 2
    assert last.wire_bytes_R.tolist() == first.wire_bytes_R.tolist() and last.passes_R.tolist() == [1, 1]
    raw = build(scheme("two_step"), 2, 2560)
    assert not any(codec_traffic(step.work, 2).wire_bytes_R.any() for step in raw.lanes[0].steps)


def test_how_large_an_exchange_with_exact_values_is() -> None:
    routes = Routes(switched(2))
    timed = attach(build(scheme("two_step", INT4), 2, 2560 + 64, exact=64), routes)
    assert timed.carried is not None and timed.carried.nbytes == (2560 * INT4.bits_per_value + 64 * 16) / 8
