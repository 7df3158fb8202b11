"""Schedules run on symbols: who holds whose contribution, and did everybody decode the same wire copy?

A value is a number in base 16 whose digit r counts how often rank r's contribution was added, so the full sum
is all ones: a missing or doubled contribution shows. A tag follows each value through its last encodings, so
equal tags mean that two ranks hold the same bits even where codecs round.
"""

import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from thinwire.reference.catalog import parse_codec, scheme, schemes
from thinwire.reference.core.schedule import (
    SWITCH,
    Interval,
    Islands,
    Op,
    Schedule,
    Step,
    Transfer,
    Work,
    build,
    partition,
)
from thinwire.reference.core.scheme import Codec, Collective, GroupedInt, Raw, Scheme

Array = NDArray[np.uint64]
Key = tuple[int, int]
Copy = tuple[Codec, Array, Array]  # format, values, tags


class Executor:
    """All ranks of one schedule, on symbolic values; asserts the rules of the schedule module's docstring."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.values = [np.full(schedule.numel, 16**rank, np.uint64) for rank in range(schedule.ranks)]
        self.tags = [np.full(schedule.numel, rank + 1, np.uint64) for rank in range(schedule.ranks)]
        self.received: list[dict[tuple[Key, int], Array]] = [{} for _ in range(schedule.ranks)]
        self.fresh = 1000

    def run(self) -> None:
        for lane in self.schedule.lanes:
            self.copies: dict[tuple[int, Key, int], Copy] = {}  # (rank, interval, source)
            self.latest: dict[tuple[int, Key], Copy] = {}
            for step in lane.steps:
                self.work(step)
                self.send(step)

    def work(self, step: Step) -> None:
        for work in step.work:
            assert 0 <= work.rank < self.schedule.ranks and len(work.interval) > 0
            key, part = self.key(work.interval), slice(work.interval.start, work.interval.stop)
            values, tags = self.values[work.rank], self.tags[work.rank]
            if work.kind == "encode":
                assert work.sources == ()
                self.fresh += 1
                tag = np.full(len(work.interval), self.fresh, np.uint64)
                copy = (work.codec, values[part].copy(), tags[part].copy() if work.codec.is_raw else tag)
                self.copies[work.rank, key, work.rank] = self.latest[work.rank, key] = copy
                continue
            assert work.sources == tuple(sorted(work.sources)) and len(set(work.sources)) == len(work.sources)
            entries = []
            for source in work.sources:
                found = self.copies.get((work.rank, key, source))
                if found is None:
                    assert source == work.rank and work.kind == "reduce", f"{work} reads what never came"
                    found = (work.codec, values[part].copy(), tags[part].copy())
                assert found[0] == work.codec
                entries.append(found)
            if work.kind == "decode" or len(entries) == 1:
                assert len(entries) == 1
                values[part], tags[part] = entries[0][1], entries[0][2]
            else:
                values[part], tags[part] = self.total(entries)
            if work.kind == "decode":
                self.received[work.rank][key, work.sources[0]] = values[part].copy()

    @staticmethod
    def total(entries: list[Copy]) -> tuple[Array, Array]:
        values = np.zeros_like(entries[0][1])
        tags = np.zeros_like(entries[0][2])
        for _, more, tag in entries:
            values = values + more
            tags = tags * np.uint64(1_000_003) + tag
        return values, tags

    def send(self, step: Step) -> None:
        inward: dict[Key, list[tuple[int, Copy]]] = defaultdict(list)
        arrivals = []
        assert (step.primitive == "none") == (not step.transfers)
        assert len({(t.source, t.destination, self.key(t.interval)) for t in step.transfers}) == len(step.transfers)
        for transfer in step.transfers:  # what leaves is what was there before anything of this step arrives
            key = self.key(transfer.interval)
            assert transfer.source != transfer.destination and len(transfer.interval) > 0
            if transfer.source == SWITCH:
                continue
            copy = self.latest[transfer.source, key]
            assert copy[0] == transfer.codec
            if transfer.destination == SWITCH:
                inward[key].append((transfer.source, copy))
            else:
                arrivals.append((transfer, copy))
        for transfer in step.transfers:
            if transfer.source == SWITCH:
                entries = [copy for _, copy in sorted(inward[self.key(transfer.interval)], key=lambda pair: pair[0])]
                total = self.total(entries) if len(entries) > 1 else entries[0][1:]
                arrivals.append((transfer, (transfer.codec, *total)))
        for transfer, copy in arrivals:
            key = self.key(transfer.interval)
            self.copies[transfer.destination, key, transfer.source] = copy
            self.latest[transfer.destination, key] = copy

    @staticmethod
    def key(interval: Interval) -> Key:
        return interval.start, interval.stop


def parts(step: Step) -> list[Work | Transfer]:
    return [*step.work, *step.transfers]


def full_sum(ranks: int) -> int:
    return sum(16**rank for rank in range(ranks))


def make(reduce: str, gather: str, collective: Collective, chunk: int | None = None) -> Scheme:
    return Scheme("test", parse_codec(reduce), parse_codec(gather), collective, chunk_values=chunk)


CODEC_PAIRS = [
    ("bf16", "bf16"),
    ("int4-g32-zp", "int8-g128-zp"),
    ("int5-g8-sym", "int5-g8-sym"),
    ("mx-e2m1-b32", "mx-e2m1-b32"),
    ("hybrid4-k64", "int3-g24-min-sr"),
    ("int4-g32-zp-h64", "bf16"),
]


@st.composite
def islands_of(draw: st.DrawFn, ranks: int) -> Islands:
    labels = draw(st.lists(st.integers(0, 3), min_size=ranks, max_size=ranks))
    groups = [tuple(rank for rank in range(ranks) if labels[rank] == label) for label in range(4)]
    return tuple(group for group in groups if group)


@st.composite
def all_reduces(draw: st.DrawFn) -> Schedule:
    ranks = draw(st.integers(1, 9))
    numel = draw(st.one_of(st.integers(0, 40), st.integers(0, 3000), st.sampled_from([64, 128 * 9, 2048])))
    collective: Collective = draw(
        st.sampled_from(["ring", "tree", "two_step", "all_gather", "hierarchical", "nvls", "none"])
    )
    reduce, gather = draw(st.sampled_from(CODEC_PAIRS))
    if collective in ("nvls", "none"):
        reduce = gather = "bf16"
    if collective == "all_gather":
        gather = reduce
    chunk = draw(st.one_of(st.none(), st.integers(1, 2000)))
    grouping = draw(st.one_of(st.none(), islands_of(ranks)))
    exact = draw(st.one_of(st.just(0), st.integers(0, numel)))
    return build(make(reduce, gather, collective, chunk), ranks, numel, grouping, exact=exact)


@settings(max_examples=400, deadline=None)
@given(all_reduces())
def test_every_rank_ends_with_the_same_full_sum(schedule: Schedule) -> None:
    run = Executor(schedule)
    run.run()
    for rank in range(schedule.ranks):
        want = 16**rank if schedule.collective == "none" else full_sum(schedule.ranks)
        assert (run.values[rank] == want).all(), f"rank {rank} of {schedule.ranks}, {schedule.collective}"
        if schedule.collective != "none":
            assert (run.tags[rank] == run.tags[0]).all(), "ranks decoded different wire copies"


@settings(max_examples=200, deadline=None)
@given(all_reduces())
def test_lanes_cover_the_tensor_once_and_in_order(schedule: Schedule) -> None:
    edges = [0] + [lane.interval.stop for lane in schedule.lanes]
    assert [lane.interval.start for lane in schedule.lanes] == edges[:-1]
    assert edges[-1] == schedule.numel
    for lane in schedule.lanes:
        assert len(lane.interval) > 0
        if schedule.ranks == 1:
            assert lane.steps == ()
        for step in lane.steps:
            for item in parts(step):
                assert lane.interval.start <= item.interval.start < item.interval.stop <= lane.interval.stop


@settings(max_examples=200, deadline=None)
@given(all_reduces())
def test_cuts_fall_on_whole_groups_of_both_codecs(schedule: Schedule) -> None:
    items = [item for lane in schedule.lanes for step in lane.steps for item in parts(step)]
    align = math.lcm(1, *(item.codec.align for item in items))
    coded = schedule.numel - schedule.exact
    for item in items:
        if item.interval.stop <= coded:
            assert item.interval.start % align == 0 and (item.interval.stop % align == 0 or item.interval.stop == coded)


@settings(max_examples=300, deadline=None)
@given(all_reduces())
def test_exact_values_ride_raw_in_the_last_lane(schedule: Schedule) -> None:
    """Behind what is coded, in the same messages, and the coded values are cut as if they were alone."""
    coded = schedule.numel - schedule.exact
    for lane in schedule.lanes:
        for step in lane.steps:
            for item in parts(step):
                assert item.rides == (item.interval.start >= coded > 0) and item.interval.stop <= (
                    coded if coded > 0 and not item.rides else schedule.numel
                )
                assert not item.rides or (item.codec == Raw() and lane is schedule.lanes[-1])
            behind = [item.rides for item in parts(step)]
            works, sent = behind[: len(step.work)], behind[len(step.work) :]
            assert works == sorted(works) and sent == sorted(sent)


@pytest.mark.parametrize("collective", ["ring", "tree", "two_step", "all_gather", "hierarchical"])
@pytest.mark.parametrize("ranks", [2, 3, 4, 5])
@pytest.mark.parametrize("chunk", [None, 600])
def test_a_schedule_with_exact_values_is_two_side_by_side(
    collective: Collective, ranks: int, chunk: int | None
) -> None:
    chosen, islands = make("int4-g32-zp", "int4-g32-zp", collective, chunk), (tuple(range(ranks // 2 + 1)),)
    islands = (*islands, *((r,) for r in range(ranks // 2 + 1, ranks)))
    alone, raw = build(chosen, ranks, 3000, islands), build(make("bf16", "bf16", collective), ranks, 77, islands)
    both = build(chosen, ranks, 3077, islands, exact=77)
    assert both.lanes[:-1] == alone.lanes[:-1] and len(both.lanes) == len(alone.lanes)
    for step, of_coded, of_raw in zip(both.lanes[-1].steps, alone.lanes[-1].steps, raw.lanes[0].steps, strict=True):
        assert step.primitive == of_coded.primitive == of_raw.primitive
        assert (step.work[: len(of_coded.work)], step.transfers[: len(of_coded.transfers)]) == (
            of_coded.work,
            of_coded.transfers,
        )
        assert [len(w.interval) for w in step.work[len(of_coded.work) :]] == [len(w.interval) for w in of_raw.work]
    assert both.sent_bytes() == {r: alone.sent_bytes()[r] + raw.sent_bytes()[r] for r in range(ranks)}


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("rows", [1, 4, 16])
def test_exact_rows_cost_their_raw_bytes(ranks: int, rows: int) -> None:
    """(tokens - N) rows at the codec's bits and N rows of bf16, each over the wire twice but for the own part."""
    width, tokens = 1024 * ranks, 64
    four = scheme("flash-int4")
    whole = build(four, ranks, tokens * width, exact=rows * width).sent_bytes()
    each = 2 * (ranks - 1) * (four.reduce.wire_bytes((tokens - rows) * width // ranks) + 2 * rows * width // ranks)
    assert whole == dict.fromkeys(range(ranks), each)


def test_exact_values_are_some_of_an_all_reduces() -> None:
    four = scheme("flash-int4")
    assert build(four, 4, 500, exact=0) is not None and build(four, 4, 500, exact=500).sent_bytes()[0] == 2 * 3 * 250
    for exact, op in ((501, "all_reduce"), (-1, "all_reduce"), (4, "all_gather")):
        with pytest.raises(ValueError, match=f"exact values are 0 or more of an all_reduce's: exact={exact}"):
            build(four, 4, 500, op=op, exact=exact)  # type: ignore[arg-type]
    assert build(four, 1, 500, exact=7).lanes[0].steps == ()
    assert build(scheme("none"), 3, 500, exact=7).sent_bytes() == dict.fromkeys(range(3), 0)


@pytest.mark.parametrize("ranks", range(1, 10))
@pytest.mark.parametrize("collective", ["ring", "two_step", "nvls", "hierarchical", "all_gather"])
@pytest.mark.parametrize("op", ["all_gather", "reduce_scatter", "all_to_all"])
def test_other_ops_deliver(ranks: int, collective: Collective, op: Op) -> None:
    numel = 1000
    chosen = make("bf16", "bf16", collective)
    if op == "all_to_all" and collective in ("ring", "nvls"):
        with pytest.raises(ValueError, match="cannot do op all_to_all"):
            build(chosen, 2, numel, op=op)
        return
    run = Executor(build(chosen, ranks, numel, op=op))
    owned = partition(Interval(0, numel), ranks, 1)
    if op == "all_gather":  # rank r's own part is what everybody wants of it
        run.values = [np.zeros(numel, np.uint64) for _ in range(ranks)]
        for rank, part in enumerate(owned):
            run.values[rank][part.start : part.stop] = 7 + rank
    run.run()
    for rank, part in enumerate(owned):
        if op == "reduce_scatter":
            assert (run.values[rank][part.start : part.stop] == full_sum(ranks)).all()
        elif op == "all_gather":
            for other in range(ranks):
                assert (run.values[other][part.start : part.stop] == 7 + rank).all()
        elif ranks > 1:
            for source in range(ranks):
                assert (run.received[rank][(part.start, part.stop), source] == 16**source).all()


def test_tree_has_no_other_op() -> None:
    with pytest.raises(ValueError, match="tree cannot do op reduce_scatter"):
        build(make("bf16", "bf16", "tree"), 4, 100, op="reduce_scatter")


# ---- volumes: notes/papers.md section 0.2, M bytes of bf16 over N ranks


ROUND = 128 * 16  # whole groups whose every section is a multiple of 16 bytes


def whole(entry: Scheme) -> int:
    """The same for groups of any size."""
    return math.lcm(ROUND, entry.align * 16)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("name", [name for name, entry in schemes().items() if entry.collective == "two_step"])
def test_two_step_volume(name: str, ranks: int) -> None:
    entry = scheme(name)
    numel = whole(entry) * ranks * 5
    bits = entry.reduce.bits_per_value + entry.gather.bits_per_value
    per_rank = bits / 16 * (2 * numel) * (ranks - 1) / ranks
    assert build(entry, ranks, numel).sent_bytes() == pytest.approx(dict.fromkeys(range(ranks), per_rank), rel=1e-12)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("name", [name for name, entry in schemes().items() if entry.collective == "all_gather"])
def test_all_gather_volume(name: str, ranks: int) -> None:
    entry = scheme(name)
    numel = whole(entry) * 5
    per_rank = entry.reduce.bits_per_value / 16 * (2 * numel) * (ranks - 1)
    assert build(entry, ranks, numel).sent_bytes() == pytest.approx(dict.fromkeys(range(ranks), per_rank), rel=1e-12)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("name", [n for n, s in schemes().items() if s.collective == "ring" and not s.is_raw])
def test_a_coded_ring_encodes_at_every_hop(name: str, ranks: int) -> None:
    """As many bytes as in two steps; a sum is encoded again before each hop of the reduce-scatter, and once more for
    the all-gather, in which it travels as it is.
    """
    entry = scheme(name)
    numel = whole(entry) * ranks
    found = build(entry, ranks, numel)
    bits = entry.reduce.bits_per_value + entry.gather.bits_per_value
    assert found.sent_bytes() == dict.fromkeys(range(ranks), bits / 8 * numel * (ranks - 1) / ranks)
    work = Counter((w.rank, w.kind, w.codec) for step in found.lanes[0].steps for w in step.work)
    for rank in range(ranks):
        assert work[rank, "reduce", entry.reduce] == ranks - 1
        if entry.reduce == entry.gather:
            assert work[rank, "encode", entry.reduce] == ranks
        else:
            assert work[rank, "encode", entry.reduce] == ranks - 1 and work[rank, "encode", entry.gather] == 1
        assert work[rank, "decode", entry.gather] == ranks


@pytest.mark.parametrize("ranks", range(2, 10))
def test_ring_tree_and_switch_volumes(ranks: int) -> None:
    numel = 1024 * ranks
    size = 2 * numel
    ring = build(scheme("bf16-ring"), ranks, numel)
    assert ring.sent_bytes() == dict.fromkeys(range(ranks), 2 * size * (ranks - 1) // ranks)
    assert len(ring.lanes[0].steps) == 2 * (ranks - 1) + 1
    assert all(t.destination == (t.source + 1) % ranks for s in ring.lanes[0].steps for t in s.transfers)
    tree = build(make("bf16", "bf16", "tree"), ranks, numel)
    assert sum(tree.sent_bytes().values()) == 2 * size * (ranks - 1)
    depth = ranks.bit_length() - 1  # levels below the root
    assert [step.primitive for step in tree.lanes[0].steps] == ["tree"] * (2 * depth) + ["none"]
    nvls = build(make("bf16", "bf16", "nvls"), ranks, numel).sent_bytes()
    assert nvls.pop(SWITCH) == size + ranks * size
    assert nvls == dict.fromkeys(range(ranks), size + size // ranks)


def test_mxfp4_at_tp8_sends_more_than_the_ring() -> None:
    """Section 0.2: the ratio is (b/16) N/2, 1.06 at N = 8 and 4.25 bits; at N = 4 it is 0.53."""
    numel = 8192 * 1024
    for ranks, ratio in ((2, 0.265625), (4, 0.53125), (8, 1.0625)):
        ring = build(scheme("bf16-ring"), ranks, numel).sent_bytes()[0]
        assert build(scheme("mxfp4"), ranks, numel).sent_bytes()[0] / ring == ratio


@pytest.mark.parametrize("islands", [2, 3, 4])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_hierarchical_crosses_islands_with_one_shard(islands: int, size: int) -> None:
    numel = ROUND * islands * size * 3
    grouping = tuple(tuple(range(k * size, (k + 1) * size)) for k in range(islands))
    entry = scheme("flash2-int4-hier")
    schedule = build(entry, islands * size, numel, grouping)
    home = {rank: k for k, island in enumerate(grouping) for rank in island}
    whole = entry.reduce.wire_bytes(numel)
    crossing: dict[int, int] = defaultdict(int)
    inside: dict[int, int] = defaultdict(int)
    for step in schedule.lanes[0].steps:
        for transfer in step.transfers:
            where = inside if home[transfer.source] == home[transfer.destination] else crossing
            where[transfer.source] += transfer.nbytes
    assert set(crossing.values()) == {2 * whole * (islands - 1) // (islands * size)}
    assert set(inside.values()) == {2 * whole * (size - 1) // size}
    assert [step.primitive for step in schedule.lanes[0].steps] == [
        "reduce_scatter",
        "all_to_all",
        "all_gather",
        "all_gather",
        "none",
    ]


def test_hierarchical_forwards_without_encoding_again() -> None:
    schedule = build(scheme("flash2-int4-hier"), 6, 128 * 6 * 4, ((0, 1, 2), (3, 4, 5)))
    assert schedule.lanes[0].steps[3].work == ()


@pytest.mark.parametrize("grouping", [None, ((0, 1, 2, 3),), ((0,), (1,), (2,), (3,))])
def test_hierarchical_without_real_islands_is_two_step(grouping: Islands | None) -> None:
    flat = build(scheme("flash-int4"), 4, 5000)
    assert build(scheme("flash2-int4-hier"), 4, 5000, grouping).lanes == flat.lanes


# ---- steps, chunks, partition


def test_two_step_spells_out_its_steps() -> None:
    four, eight = GroupedInt(4), GroupedInt(8)
    schedule = build(Scheme("x", four, eight, "two_step"), 2, 256)
    first, second, last = schedule.lanes[0].steps
    a, b = Interval(0, 128), Interval(128, 256)
    assert [(w.rank, w.kind, w.interval, w.codec, w.sources) for w in first.work] == [
        (0, "encode", a, four, ()),
        (0, "encode", b, four, ()),
        (1, "encode", a, four, ()),
        (1, "encode", b, four, ()),
    ]
    assert first.transfers == (Transfer(0, 1, b, four), Transfer(1, 0, a, four))
    assert [(w.rank, w.kind, w.interval, w.codec, w.sources) for w in second.work] == [
        (0, "reduce", a, four, (0, 1)),
        (0, "encode", a, eight, ()),
        (1, "reduce", b, four, (0, 1)),
        (1, "encode", b, eight, ()),
    ]
    assert second.transfers == (Transfer(0, 1, a, eight), Transfer(1, 0, b, eight))
    assert {(w.rank, w.kind, w.interval, w.sources) for w in last.work} == {
        (rank, "decode", part, (owner,)) for rank in (0, 1) for owner, part in ((0, a), (1, b))
    }
    assert [step.primitive for step in schedule.lanes[0].steps] == ["all_to_all", "all_gather", "none"]
    assert first.transfers[0].nbytes == four.wire_bytes(128)


def test_chunks_are_rounded_up_to_whole_groups_for_every_rank() -> None:
    chunked = scheme("two_step:int4-g32-min/int8-g128-sym@chunk=1100x3")
    schedule = build(chunked, 4, 5000)
    assert [lane.interval for lane in schedule.lanes] == [  # lcm(32, 128) x 4 ranks = 512, 1100 -> 1536
        Interval(0, 1536),
        Interval(1536, 3072),
        Interval(3072, 4608),
        Interval(4608, 5000),
    ]
    assert schedule.chunks_in_flight == 3
    assert len(build(chunked, 4, 5000, op="reduce_scatter").lanes) == 1


@given(st.integers(0, 3), st.integers(0, 5000), st.integers(1, 12), st.sampled_from([1, 8, 32, 128, 96]))
def test_partition_is_even_in_groups(start: int, length: int, parts: int, align: int) -> None:
    interval = Interval(start * align, start * align + length)
    cut = partition(interval, parts, align)
    assert len(cut) == parts and cut[0].start == interval.start and cut[-1].stop == interval.stop
    assert all(a.stop == b.start for a, b in pairwise(cut))
    groups = [-(-len(part) // align) for part in cut]
    assert max(groups) - min(groups) <= 1 and groups == sorted(groups, reverse=True)
    short = [index for index, part in enumerate(cut) if len(part) % align]
    filled = [index for index, part in enumerate(cut) if len(part)]
    assert short in ([], filled[-1:])


def test_a_value_too_few_leaves_ranks_idle() -> None:
    schedule = build(scheme("flash-int4"), 8, 1)
    assert [t.destination for t in schedule.lanes[0].steps[0].transfers] == [0] * 7
    assert [t.source for t in schedule.lanes[0].steps[1].transfers] == [0] * 7


def test_bad_requests_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="'bf16' leaves the collective open"):
        build(scheme("bf16"), 2, 100)
    with pytest.raises(ValueError, match=r"each rank 0\.\.3 once.*islands=\(\(0, 1\), \(1, 2, 3\)\)"):
        build(scheme("flash2-int4-hier"), 4, 100, ((0, 1), (1, 2, 3)))
    with pytest.raises(ValueError, match="none empty"):
        build(scheme("flash2-int4-hier"), 2, 100, ((0, 1), ()))
    with pytest.raises(ValueError, match="ranks=0"):
        build(scheme("flash-int4"), 0, 100)
    with pytest.raises(ValueError, match="numel=-1"):
        build(scheme("flash-int4"), 2, -1)
    with pytest.raises(ValueError, match="op='gather'"):
        build(scheme("flash-int4"), 2, 1, None, "gather")
    with pytest.raises(ValueError, match="align=0"):
        partition(Interval(0, 4), 2, 0)


def test_renaming_islands_changes_no_volume() -> None:
    sizes = [(0, 1, 2), (3, 4), (5,)]
    volumes = {
        tuple(sorted(build(scheme("flash2-int4-hier"), 6, 4096, tuple(order)).sent_bytes().values()))
        for order in (sizes, sizes[::-1], [sizes[1], sizes[2], sizes[0]])
    }
    assert len({sum(volume) for volume in volumes}) == 1


@pytest.mark.parametrize("collective", ["ring", "two_step"])
def test_building_for_64_ranks_is_cheap(collective: Collective) -> None:
    """A guard on growth, not a clock: objects made per rank stay linear in the ranks."""
    counts = []
    for ranks in (32, 64):
        schedule = build(Scheme("x", Raw(), Raw(), collective), ranks, 1 << 20)
        counts.append(sum(len(s.work) + len(s.transfers) for s in schedule.lanes[0].steps) / ranks)
    assert counts[1] <= 2.1 * counts[0]


def test_same_request_same_object() -> None:
    first, second = (build(scheme("flash-int4"), 4, 4096) for _ in range(2))
    assert first is second
    assert build(scheme("flash-int4"), 5, 4096) is not first
