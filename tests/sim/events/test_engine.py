"""The engine: streams in order, parts in order, meetings at collectives.

The oracle is the recurrence the engine's docstring states, evaluated op by op without events: an op starts when its
stream is free and the op before it in its part has ended on that rank, an exchange when the last rank has arrived. For
posted exchanges it goes transfer by transfer, on a machine with a link of its own between every two ranks.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.core.schedule import Work, build
from thinwire.reference.core.scheme import Collective, GroupedInt, Scheme
from thinwire.sim.events.collective import CollectiveTime, TimedSchedule, run_alone
from thinwire.sim.events.engine import Engine, Issue, Result
from thinwire.sim.events.network import Floats, Routes
from thinwire.sim.events.timeline import Span
from thinwire.topologies.generators import Wire, full_mesh

from ..helpers import (
    GB_PER_S,
    GPU,
    LINK_LATENCY_S,
    PRIMITIVES,
    US,
    attach,
    close,
    fabric,
    protocol,
    seconds_by_kind,
    switched,
)

RANKS = 4
INT4 = GroupedInt(4)


@cache
def exchanges() -> tuple[Routes, tuple[TimedSchedule, ...]]:
    """Exchanges that end together on all ranks (the first two), and rank by rank (the tree)."""
    routes = Routes(switched(RANKS))
    kinds: tuple[tuple[Collective, int], ...] = (("two_step", 25_600), ("ring", 204_800), ("tree", 10_000))
    schedules = (build(Scheme("test", INT4, INT4, collective), RANKS, numel) for collective, numel in kinds)
    return routes, tuple(attach(schedule, routes, codec_s=seconds_by_kind) for schedule in schedules)


def simulate(program: Sequence[Issue], slowdown: Floats, replay: bool = False) -> Result:
    routes, _ = exchanges()
    known: dict[TimedSchedule, CollectiveTime] = {}

    def alone(timed: TimedSchedule) -> CollectiveTime:
        if timed not in known:
            known[timed] = run_alone(timed, routes, slowdown)
        return known[timed]

    return Engine(routes, RANKS, slowdown, alone if replay else None).run(program)


Interval = tuple[float, float]


def oracle(program: Sequence[Issue], slowdown: Floats) -> dict[tuple[int, int], Interval]:
    """(op, rank) -> start and end."""
    routes, _ = exchanges()
    stream_free = np.zeros((2, RANKS))
    part_free = np.zeros((2, RANKS))
    found: dict[tuple[int, int], Interval] = {}
    for i, issue in enumerate(program):
        stream = 0 if issue.exchange is None else 1
        ready = np.maximum(stream_free[stream], part_free[issue.part])
        if issue.exchange is None:
            start, end = ready, ready + sum(seconds for _, seconds in issue.kernels) * slowdown
        else:
            start = np.full(RANKS, ready.max())
            end = start + run_alone(issue.exchange, routes, slowdown).finish_s_R
        stream_free[stream] = part_free[issue.part] = end
        found |= {(i, rank): (float(start[rank]), float(end[rank])) for rank in range(RANKS)}
    return found


@st.composite
def programs(draw: st.DrawFn) -> tuple[Issue, ...]:
    count = draw(st.integers(1, 14))
    kernel_s = st.sampled_from((10 * US, 40 * US)) | st.floats(1e-7, 3e-4)
    _, timed = exchanges()
    found = []
    for i in range(count):
        part = draw(st.integers(0, 1))
        if draw(st.booleans()):
            found.append(Issue(i, part, f"exchange {i}", exchange=draw(st.sampled_from(timed))))
        else:
            kernels = draw(st.lists(kernel_s, min_size=1, max_size=3))
            found.append(Issue(i, part, f"op {i}", tuple((f"kernel {k}", s) for k, s in enumerate(kernels))))
    return tuple(found)


slowdowns = st.lists(st.sampled_from((1.0, 1.0, 0.5, 2.0, 1.37)), min_size=RANKS, max_size=RANKS).map(np.array)


@given(programs(), slowdowns, st.booleans())
@settings(max_examples=80)
def test_every_op_starts_and_ends_when_the_recurrence_says(
    program: tuple[Issue, ...], slowdown: Floats, replay: bool
) -> None:
    result = simulate(program, slowdown, replay)
    expected = oracle(program, slowdown)
    assert len(result.spans) == len(expected)
    for span in result.spans:
        start, end = expected[span.layer, span.rank]  # the programs number their ops as layers
        assert close(span.start_s, start)
        assert close(span.end_s, end)
    assert close(result.end_s, max(end for _, end in expected.values()))
    # A lower bound that needs no engine: whatever a stream or a part does, it does one after the other.
    for keys in (lambda s: (s.rank, s.stream), lambda s: (s.rank, s.part)):
        busy: Counter[tuple[int, object]] = Counter()
        for span in result.spans:
            busy[keys(span)] += span.seconds  # type: ignore[assignment,no-untyped-call]
        assert max(busy.values()) <= result.end_s * (1 + 1e-9)


@given(programs(), slowdowns)
@settings(max_examples=40)
def test_a_run_counts_the_bytes_of_all_its_exchanges(program: tuple[Issue, ...], slowdown: Floats) -> None:
    routes, _ = exchanges()
    expected: Counter[tuple[str, str]] = Counter()
    for issue in program:
        if issue.exchange is not None:
            expected.update(run_alone(issue.exchange, routes).link_bytes)
    for replay in (False, True):
        result = simulate(program, slowdown, replay)
        assert all(close(nbytes, expected[link]) for link, nbytes in result.link_bytes.items())
        assert sum(result.link_bytes.values()) == pytest.approx(sum(expected.values()))
        assert result.peak_utilisation <= 1 + 1e-9
        assert (result.peak_utilisation > 0) == bool(expected)


MESH = full_mesh(RANKS, Wire(20 * GB_PER_S, LINK_LATENCY_S)).cluster(name="mesh", title="", gpu=GPU, fabric="made-up")
UNEVEN = MESH.with_link_scaled("gpu0->gpu1", 0.4).with_link_scaled("gpu3->gpu2", 0.7).with_link_scaled("*->gpu0", 1.3)


POSTED = fabric(protocols=[replace(protocol(p, RANKS), posted=True) for p in PRIMITIVES if p != "nvls"])


@cache
def posted() -> tuple[Routes, tuple[TimedSchedule, ...]]:
    """Exchanges of ranks that hand over what they send, over links of several speeds."""
    routes = Routes(UNEVEN)
    kinds: tuple[tuple[Collective, int], ...] = (("two_step", 256_000), ("ring", 2_048_000), ("tree", 400_000))
    schedules = (build(Scheme("test", INT4, INT4, collective), RANKS, numel) for collective, numel in kinds)
    return routes, tuple(attach(schedule, routes, POSTED, codec_s=seconds_by_kind) for schedule in schedules)


def recurrence(program: Sequence[Issue], slowdown: Floats) -> dict[tuple[int, int], Interval]:
    """(op, rank) -> end, and seconds of codec kernels after the last rank has come. Two ranks have a link of their
    own, and transfers are posted.

    A rank goes through the steps of an exchange from its own arrival: it works, pays the step's latency, hands over
    what it sends, and goes on when it has received. A message starts when those before it on its link have left.
    """
    bandwidth = {(int(a.source[3:]), int(a.target[3:])): a.bandwidth_bytes_per_s for a in UNEVEN.links}
    stream_free, part_free = np.zeros((2, RANKS)), np.zeros((2, RANKS))
    link_free = dict.fromkeys(bandwidth, 0.0)
    found: dict[tuple[int, int], Interval] = {}
    for i, issue in enumerate(program):
        stream, codec = 0 if issue.exchange is None else 1, np.zeros(RANKS)
        now = np.maximum(stream_free[stream], part_free[issue.part])
        if issue.exchange is None:
            now = now + sum(seconds for _, seconds in issue.kernels) * slowdown
        else:
            (lane,), last = issue.exchange.lanes, now.max()
            for step in lane:
                codec += np.maximum(0, now + step.codec_s_R * slowdown - np.maximum(now, last))
                now = now + step.codec_s_R * slowdown
                now = now + np.where(step.incident_R > 0, step.latency_s, 0.0)
                received = now.copy()
                for (source, destination), work_bytes in zip(step.ends_F2.tolist(), step.work_bytes_F, strict=True):
                    left = max(now[source], link_free[source, destination])
                    left += work_bytes / bandwidth[source, destination]
                    link_free[source, destination] = left
                    received[destination] = max(received[destination], left + LINK_LATENCY_S)
                now = received
        stream_free[stream] = part_free[issue.part] = now
        found |= {(i, rank): (float(now[rank]), float(codec[rank])) for rank in range(RANKS)}
    return found


@given(programs(), slowdowns)
@settings(max_examples=80)
def test_posted_exchanges_end_when_the_recurrence_over_transfers_says(
    program: tuple[Issue, ...], slowdown: Floats
) -> None:
    routes, timed = posted()
    own = dict(zip(exchanges()[1], timed, strict=True))
    program = tuple(replace(issue, exchange=own[issue.exchange]) if issue.exchange else issue for issue in program)
    result = Engine(routes, RANKS, slowdown).run(program)
    expected = recurrence(program, slowdown)
    assert len(result.spans) == len(expected)
    for span in result.spans:
        end_s, codec_s = expected[span.layer, span.rank]
        assert close(span.end_s, end_s) and span.waited_s >= 0
        assert abs(span.codec_s - codec_s) <= 1e-9 * end_s
        assert 0 <= span.codec_s <= span.seconds * (1 + 1e-12)
    sent: Counter[tuple[str, str]] = Counter()
    for issue in program:
        if issue.exchange:
            sent.update(run_alone(issue.exchange, routes).link_bytes)
    assert all(close(nbytes, sent[link]) for link, nbytes in result.link_bytes.items())


def test_a_posted_exchange_is_no_barrier() -> None:
    """The early ranks' bytes pass while the last computes: the ring ends before one that began with the last would."""
    slowdown = np.array([1.0, 1.0, 1.0, 20.0])
    routes = Routes(UNEVEN)
    timed = attach(build(Scheme("test", INT4, INT4, "ring"), RANKS, 2_048_000), routes, POSTED)
    ring = Issue(0, 0, "x", exchange=timed)
    alone = Engine(routes, RANKS, slowdown).run((ring,)).end_s
    after = Engine(routes, RANKS, slowdown).run((compute("a", 100 * US), ring)).end_s
    assert 20 * 100 * US < after < 20 * 100 * US + 0.95 * alone


def test_what_an_early_rank_encodes_before_the_others_come_is_not_counted_in_its_span() -> None:
    """Else a breakdown would have less than no communication."""

    def slow_encoder(work: Iterable[Work], ranks: int) -> Floats:
        return np.array([500 * US, *[0.0] * (ranks - 1)]) if any(w.kind == "encode" for w in work) else np.zeros(ranks)

    routes = Routes(UNEVEN)
    timed = attach(build(Scheme("test", INT4, INT4, "two_step"), RANKS, 25_600), routes, POSTED, codec_s=slow_encoder)
    program = (compute("a", 100 * US), Issue(0, 0, "x", exchange=timed))
    spans = Engine(routes, RANKS, np.array([1.0, 20.0, 1.0, 1.0])).run(program).spans
    early = next(span for span in spans if span.rank == 0 and span.name == "x")
    assert close(early.start_s, 2000 * US) and close(early.waited_s, 1900 * US)
    assert close(timed.codec_s_R[0], 1000 * US), "before the exchange's first step and before its second"
    assert close(early.codec_s, 500 * US) and early.seconds < timed.codec_s_R[0]


ONES = np.ones(RANKS)


def compute(name: str, seconds: float, part: int = 0) -> Issue:
    return Issue(0, part, name, ((name, seconds),))


def exchange(name: str, part: int = 0, which: int = 0) -> Issue:
    return Issue(0, part, name, exchange=exchanges()[1][which])


def exchange_s(which: int = 0) -> float:
    routes, timed = exchanges()
    return run_alone(timed[which], routes).seconds


def spans_of(result: Result, rank: int = 0) -> dict[str, Span]:
    return {span.name: span for span in result.spans if span.rank == rank}


def test_parts_overlap_but_each_stream_keeps_its_order() -> None:
    """ISO: part 1 computes while part 0 is on the wire, and part 0 goes on when its own exchange has ended."""
    program = (
        compute("a0", 100 * US, 0), exchange("x0", 0), compute("a1", 100 * US, 1), exchange("x1", 1),
        compute("b0", 100 * US, 0), compute("b1", 100 * US, 1),
    )  # fmt: skip
    spans = spans_of(simulate(program, ONES))
    wire = exchange_s()
    assert close(spans["x0"].start_s, 100 * US)
    assert close(spans["a1"].start_s, 100 * US)
    assert close(spans["x1"].start_s, max(200 * US, 100 * US + wire))
    assert close(spans["b0"].start_s, max(200 * US, 100 * US + wire))
    assert spans["b1"].start_s >= max(spans["x1"].end_s, spans["b0"].end_s) * (1 - 1e-12)


def test_a_stream_does_not_overtake_an_op_that_waits() -> None:
    """As on a CUDA stream: b1 was issued after b0, so it waits with it although its part is ready."""
    program = (compute("a0", 10 * US, 0), exchange("x0", 0), compute("b0", 10 * US, 0), compute("b1", 10 * US, 1))
    spans = spans_of(simulate(program, ONES))
    assert close(spans["b0"].start_s, 10 * US + exchange_s())
    assert close(spans["b1"].start_s, spans["b0"].end_s)


@pytest.mark.parametrize("replay", [False, True])
def test_an_exchange_waits_for_the_last_rank_and_says_who_waited(replay: bool) -> None:
    slowdown = np.array([1.0, 3.0, 1.0, 1.0])
    result = simulate((compute("a", 100 * US), exchange("x")), slowdown, replay)
    spans = {span.rank: span for span in result.spans if span.name == "x"}
    assert all(close(span.start_s, 300 * US) for span in spans.values())
    assert [close(spans[r].waited_s, w) for r, w in enumerate((200 * US, 0.0, 200 * US, 200 * US))] == [True] * RANKS
    codec_s = exchanges()[1][0].codec_s_R
    assert [close(spans[r].codec_s, codec_s[r] * slowdown[r]) for r in range(RANKS)] == [True] * RANKS


def test_a_slow_rank_slows_its_own_kernels_only() -> None:
    result = simulate((compute("a", 100 * US),), np.array([1.0, 2.5, 1.0, 1.0]))
    assert [span.seconds for span in result.spans] == pytest.approx([100 * US, 250 * US, 100 * US, 100 * US])
    assert [span.kernels for span in result.spans][1] == (("a", 250 * US),)


def test_ranks_go_on_as_soon_as_they_hold_the_result() -> None:
    """In a tree the root has the sum first."""
    spans = [s for s in simulate((exchange("x", which=2), compute("a", 10 * US)), ONES).spans if s.name == "a"]
    routes, timed = exchanges()
    finish = run_alone(timed[2], routes).finish_s_R
    assert finish[0] < finish[1]
    assert [span.start_s for span in spans] == pytest.approx(finish.tolist())


def test_spans_stand_in_order_of_issue_then_rank() -> None:
    program = (compute("a", 10 * US, 0), exchange("x", 0), compute("b", 500 * US, 1), exchange("y", 1, which=2))
    result = simulate(program, np.array([2.0, 1.0, 3.0, 1.5]))
    assert [(s.name, s.rank) for s in result.spans] == [(i.name, r) for i in program for r in range(RANKS)]


def test_an_empty_program_ends_at_once() -> None:
    result = simulate((), ONES)
    assert (result.spans, result.end_s, result.peak_utilisation) == ((), 0.0, 0.0)


def test_the_same_program_gives_the_same_bits() -> None:
    program = (compute("a", 33 * US, 0), exchange("x", 0, 1), compute("b", 77 * US, 1), exchange("y", 1, 2))
    assert repr(simulate(program, ONES)) == repr(simulate(program, ONES))
