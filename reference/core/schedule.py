"""A collective made explicit: lanes of steps, each step local work and then concurrent transfers.

What the words mean to whoever executes a schedule (on tensors or in time):
- A rank holds a current value of the whole tensor (fp32 once reduced) and wire copies, keyed by interval
  and source. `encode` makes its own wire copy from its current value; a transfer carries the sender's
  latest wire copy of that interval, made or received, byte for byte, and the receiver files it under the
  sender.
- `reduce` decodes the copies from `sources`, sums them in fp32 in that (rank) order, and the sum becomes
  the current value. A rank among its own sources enters with its own wire copy, or with its current value
  where it made none (ring and tree never encode the partial they add to). `decode` makes one copy the
  current value.
- The works of a rank in one step run in the order listed. Within an `nvls` step the switch passes on, to each
  destination, the fp32 sum over ranks of what it was sent for that interval: one copy in is a multicast.
- Intervals without values get no work and no transfer. A lane without steps leaves the tensor as it is.
- A schedule with `exact` values is two of one collective, step by step side by side: a coded one of the values before
  them, and one of them that sends them raw. Both have a part at every rank; what a rank sends another in one step is
  one message, the raw part behind the coded one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise, zip_longest
from typing import Literal, get_args

from thinwire.edge.limits import CHUNKS, TOGETHER, TRANSFERS
from thinwire.edge.words import shown
from thinwire.reference.core.scheme import Codec, Raw, Scheme

SWITCH = -1  # the reducing switch, as a pseudo rank
BF16 = Raw()

Primitive = Literal["ring", "tree", "nvls", "reduce_scatter", "all_gather", "all_to_all", "none"]
Op = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]
Islands = tuple[tuple[int, ...], ...]
_Owned = list[tuple[int, "Interval"]]  # who holds which part, empty parts left out


@dataclass(frozen=True, slots=True)
class Interval:
    """Values `start` up to, not including, `stop` of the flat tensor."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Transfer:
    """`source` sends its latest wire copy of `interval`, in `codec`'s format, to `destination`."""

    source: int
    destination: int
    interval: Interval
    codec: Codec
    rides: bool = False  # behind what else the source sends the destination in this step, in one message

    @property
    def nbytes(self) -> int:
        """Bytes on the wire."""
        return self.codec.wire_bytes(self.interval.stop - self.interval.start)


@dataclass(frozen=True, slots=True)
class Work:
    """One rank's local work on one interval; the module's docstring says what each kind does."""

    rank: int
    kind: Literal["encode", "reduce", "decode"]
    interval: Interval
    codec: Codec
    sources: tuple[int, ...]
    rides: bool = False  # raw values that the step's kernels move along with the coded ones


@dataclass(frozen=True, slots=True)
class Step:
    """A rank does its work, then its transfers leave. `primitive` names the fabric's cost entry."""

    primitive: Primitive
    work: tuple[Work, ...]
    transfers: tuple[Transfer, ...]


@dataclass(frozen=True, slots=True)
class Lane:
    """The steps of one pipeline chunk."""

    interval: Interval
    steps: tuple[Step, ...]


@dataclass(frozen=True, eq=False)
class Schedule:
    """What `ranks` ranks do to `numel` values. Compared by identity: `build` returns the same one again."""

    collective: str
    ranks: int
    numel: int
    lanes: tuple[Lane, ...]
    chunks_in_flight: int
    align: int = 1  # values: parts are cut at multiples of it, so parts of one cut differ by so many
    exact: int = 0  # values at the end of the tensor that travel raw

    def sent_bytes(self) -> dict[int, int]:
        """Bytes each rank puts on the wire, the switch (rank -1) included where there is one."""
        sent = dict.fromkeys(range(self.ranks), 0)
        for lane in self.lanes:
            for step in lane.steps:
                for transfer in step.transfers:
                    sent[transfer.source] = sent.get(transfer.source, 0) + transfer.nbytes
        return sent


def partition(interval: Interval, parts: int, align: int) -> tuple[Interval, ...]:
    """`interval` cut in `parts`, each cut a multiple of `align` from the start; larger parts first.

    Counted in groups of `align`, sizes differ by at most one; a group cut short ends the last part that is
    not empty. Raises ValueError unless parts and align are positive.
    """
    if parts < 1 or align < 1:
        raise ValueError(f"parts and align must be positive: parts={parts}, align={align}")
    whole, extra = divmod(-(-len(interval) // align), parts)
    found, start = [], interval.start
    for index in range(parts):
        stop = min(interval.stop, start + align * (whole + (index < extra)))
        found.append(Interval(start, stop))
        start = stop
    return tuple(found)


@lru_cache(maxsize=256)
def build(
    scheme: Scheme,
    ranks: int,
    numel: int,
    islands: Islands | None = None,
    op: Op = "all_reduce",
    exact: int = 0,
    raw: Raw = BF16,
) -> Schedule:
    """The schedule of one collective of `scheme` over `ranks` ranks on a tensor of `numel` values.

    islands: the ranks that sit close together, for `hierarchical`; None = one island. op: numel counts the
    full tensor, for all_to_all what one rank sends in all; rank i owns part i of `partition(tensor, ranks,
    align)`. Ops other than all_reduce run as one lane; two_step, all_gather and hierarchical do them in one
    direct exchange. exact: so many values at the tensor's end travel as `raw` in the messages of the last
    lane, cut over the ranks by themselves, so those before them are treated as if they were the tensor.
    Raises ValueError for collective `auto` (choose an algorithm first), for islands that do not hold each rank
    once, for an op the collective has no way to do, and for exact values that are no part of an all-reduce.
    """
    if ranks < 1 or numel < 0:
        raise ValueError(f"ranks must be positive and numel not negative: ranks={ranks}, numel={numel}")
    TOGETHER.check("ranks", ranks)
    if op not in get_args(Op):
        raise ValueError(f"op must be one of {', '.join(get_args(Op))}: op={shown(op)}")
    if not 0 <= exact <= numel or (exact and op != "all_reduce"):
        raise ValueError(f"exact values are 0 or more of an all_reduce's: exact={exact}, numel={numel}, op={op}")
    collective = scheme.collective
    if collective == "auto":
        raise ValueError(
            f"scheme {shown(scheme.name)} leaves the collective open (auto): replace it by one of "
            "ring, tree, two_step, all_gather, hierarchical, nvls before building a schedule"
        )
    grouping = _check_islands(islands or (tuple(range(ranks)),), ranks)
    works = ranks > 1 and collective != "none"
    lanes = []
    for interval in _lane_intervals(scheme, ranks, numel - exact, op):
        lanes.append(Lane(interval, _lane_steps(scheme, ranks, interval, grouping, op) if works else ()))
    if exact:
        tail = Interval(numel - exact, numel)
        uncoded = replace(scheme, reduce=raw, gather=raw, exempt_tokens=0, exempt_last_tokens=0)
        riding = _lane_steps(uncoded, ranks, tail, grouping, op) if works else ()
        before = lanes.pop() if lanes else Lane(Interval(tail.start, tail.start), ())
        lanes.append(Lane(Interval(before.interval.start, numel), _together(before.steps, riding)))
    return Schedule(collective, ranks, numel, tuple(lanes), scheme.chunks_in_flight, scheme.align, exact)


def _together(steps: tuple[Step, ...], riding: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps of two schedules of one collective, the second's messages riding in the first's."""
    found = []
    for one, other in zip_longest(steps, riding):
        if one is None:  # nothing is coded: nothing to ride in
            found.append(other)
            continue
        assert one.primitive == other.primitive, f"{one.primitive} beside {other.primitive}"
        work = (Work(w.rank, w.kind, w.interval, w.codec, w.sources, True) for w in other.work)
        sent = (Transfer(t.source, t.destination, t.interval, t.codec, True) for t in other.transfers)
        found.append(Step(one.primitive, (*one.work, *work), (*one.transfers, *sent)))
    return tuple(found)


def _check_islands(islands: Islands, ranks: int) -> Islands:
    if sorted(rank for island in islands for rank in island) != list(range(ranks)) or not all(islands):
        raise ValueError(f"islands must hold each rank 0..{ranks - 1} once, none empty: islands={islands}")
    return tuple(tuple(sorted(island)) for island in islands)


def _lane_intervals(scheme: Scheme, ranks: int, numel: int, op: Op) -> list[Interval]:
    if numel == 0:
        return []
    if scheme.chunk_values is None or op != "all_reduce":
        return [Interval(0, numel)]
    unit = scheme.align * ranks  # every rank's part of every chunk but the last is whole groups of one size
    chunk = -(-scheme.chunk_values // unit) * unit
    most = min(CHUNKS.most, TRANSFERS.most // ranks**2)
    if (count := -(-numel // chunk)) > most:
        raise ValueError(
            f"a message between {ranks} ranks is cut into at most {most} chunks: {numel} values in chunks of {chunk} "
            f"are {count}"
        )
    return [Interval(start, min(numel, start + chunk)) for start in range(0, numel, chunk)]


def _lane_steps(scheme: Scheme, ranks: int, interval: Interval, islands: Islands, op: Op) -> tuple[Step, ...]:
    reduce, gather = scheme.reduce, scheme.gather
    chunks = partition(interval, ranks, scheme.align)
    match scheme.collective, op:
        case "ring" | "nvls", "all_reduce" | "reduce_scatter" | "all_gather":
            hops = _ring if scheme.collective == "ring" else _nvls
            return hops(chunks, reduce, gather, scatters=op != "all_gather", gathers=op != "reduce_scatter")
        case "tree", "all_reduce":
            return _tree(interval, ranks, reduce, gather)
        case "all_gather", "all_reduce":
            return _gather_partials(interval, ranks, reduce)
        case "hierarchical", "all_reduce" if 1 < len(islands) < ranks:
            return _hierarchical(interval, islands, reduce, gather, scheme.align)
        case "two_step" | "hierarchical", "all_reduce":
            return _two_step(chunks, reduce, gather)
        case "two_step" | "all_gather" | "hierarchical", _:
            return _direct(chunks, reduce, gather, op)
    raise ValueError(f"collective {scheme.collective} cannot do op {op}; try two_step")


def _owned(chunks: Sequence[Interval]) -> _Owned:
    return [(rank, chunk) for rank, chunk in enumerate(chunks) if len(chunk)]


def _exchange(chunks: Sequence[Interval], codec: Codec, primitive: Primitive) -> Step:
    """Every rank encodes every chunk and sends chunk j to rank j."""
    everyone, owned = range(len(chunks)), _owned(chunks)
    return Step(
        primitive,
        tuple(Work(i, "encode", chunk, codec, ()) for i in everyone for _, chunk in owned),
        tuple(Transfer(i, j, chunk, codec) for i in everyone for j, chunk in owned if i != j),
    )


def _two_step(chunks: Sequence[Interval], reduce: Codec, gather: Codec) -> tuple[Step, ...]:
    everyone, owned = tuple(range(len(chunks))), _owned(chunks)
    work: list[Work] = []
    for j, chunk in owned:
        work += (Work(j, "reduce", chunk, reduce, everyone), Work(j, "encode", chunk, gather, ()))
    return (
        _exchange(chunks, reduce, "all_to_all"),
        Step("all_gather", tuple(work), _fan_out(owned, everyone, gather)),
        _decode_all(owned, everyone, gather),
    )


def _fan_out(owned: _Owned, everyone: Sequence[int], codec: Codec) -> tuple[Transfer, ...]:
    return tuple(Transfer(j, i, chunk, codec) for j, chunk in owned for i in everyone if i != j)


def _decode_all(owned: _Owned, everyone: Sequence[int], codec: Codec) -> Step:
    work = [Work(i, "decode", chunk, codec, (j,)) for j, chunk in owned for i in everyone]
    return Step("none", tuple(work), ())


def _direct(chunks: Sequence[Interval], reduce: Codec, gather: Codec, op: Op) -> tuple[Step, ...]:
    everyone, owned = tuple(range(len(chunks))), _owned(chunks)
    if op == "all_gather":
        encode = tuple(Work(j, "encode", chunk, gather, ()) for j, chunk in owned)
        spread = Step("all_gather", encode, _fan_out(owned, everyone, gather))
        return (spread, _decode_all(owned, everyone, gather))
    if op == "reduce_scatter":
        last = tuple(Work(j, "reduce", chunk, reduce, everyone) for j, chunk in owned)
        return (_exchange(chunks, reduce, "reduce_scatter"), Step("none", last, ()))
    last = tuple(Work(j, "decode", chunk, reduce, (i,)) for j, chunk in owned for i in everyone)
    return (_exchange(chunks, reduce, "all_to_all"), Step("none", last, ()))


def _gather_partials(interval: Interval, ranks: int, codec: Codec) -> tuple[Step, ...]:
    everyone = tuple(range(ranks))
    encode = tuple(Work(rank, "encode", interval, codec, ()) for rank in everyone)
    reduce = tuple(Work(rank, "reduce", interval, codec, everyone) for rank in everyone)
    sends = _fan_out([(rank, interval) for rank in everyone], everyone, codec)
    return (Step("all_gather", encode, sends), Step("none", reduce, ()))


def _ring(chunks: Sequence[Interval], reduce: Codec, gather: Codec, scatters: bool, gathers: bool) -> tuple[Step, ...]:
    """R-1 hops that add up chunk r at rank r, then R-1 hops that pass the encoded sums on unchanged."""
    ranks = len(chunks)
    steps = []
    for hop in range(ranks - 1) if scatters else ():
        work: list[Work] = []
        transfers = []
        for rank in range(ranks):
            chunk = chunks[(rank - 1 - hop) % ranks]
            if not len(chunk):
                continue
            if hop:
                work.append(Work(rank, "reduce", chunk, reduce, _pair(rank - 1, rank, ranks)))
            work.append(Work(rank, "encode", chunk, reduce, ()))
            transfers.append(Transfer(rank, (rank + 1) % ranks, chunk, reduce))
        steps.append(Step("ring", tuple(work), tuple(transfers)))
    owned = _owned(chunks)
    work = []
    for rank, chunk in owned:
        if scatters:
            work.append(Work(rank, "reduce", chunk, reduce, _pair(rank - 1, rank, ranks)))
        if gathers:
            work.append(Work(rank, "encode", chunk, gather, ()))
    if not gathers:
        return (*steps, Step("none", tuple(work), ()))
    for hop in range(ranks - 1):
        transfers = []
        for rank in range(ranks):
            chunk = chunks[(rank - hop) % ranks]
            if len(chunk):
                transfers.append(Transfer(rank, (rank + 1) % ranks, chunk, gather))
        steps.append(Step("ring", () if hop else tuple(work), tuple(transfers)))
    last = [
        Work(rank, "decode", chunk, gather, (rank if rank == owner else (rank - 1) % ranks,))
        for rank in range(ranks)
        for owner, chunk in owned
    ]
    return (*steps, Step("none", tuple(last), ()))


def _pair(first: int, second: int, ranks: int) -> tuple[int, ...]:
    return tuple(sorted((first % ranks, second % ranks)))


def _tree(interval: Interval, ranks: int, reduce: Codec, gather: Codec) -> tuple[Step, ...]:
    """Partial sums climb the tree whose node r has children 2r+1 and 2r+2; the encoded sum comes down."""
    children = [tuple(c for c in (2 * rank + 1, 2 * rank + 2) if c < ranks) for rank in range(ranks)]
    levels = [range(2**d - 1, min(2 ** (d + 1) - 1, ranks)) for d in range(ranks.bit_length())]
    levels = [level for level in levels if len(level)]
    steps = []
    for level in reversed(levels[1:]):
        work: list[Work] = []
        for rank in level:
            if children[rank]:
                work.append(Work(rank, "reduce", interval, reduce, (rank, *children[rank])))
            work.append(Work(rank, "encode", interval, reduce, ()))
        up = tuple(Transfer(rank, (rank - 1) // 2, interval, reduce) for rank in level)
        steps.append(Step("tree", tuple(work), up))
    work = [Work(0, "reduce", interval, reduce, (0, *children[0])), Work(0, "encode", interval, gather, ())]
    for depth, level in enumerate(levels[:-1]):
        down = tuple(Transfer(rank, child, interval, gather) for rank in level for child in children[rank])
        steps.append(Step("tree", () if depth else tuple(work), down))
    last = tuple(Work(r, "decode", interval, gather, ((r - 1) // 2 if r else 0,)) for r in range(ranks))
    return (*steps, Step("none", last, ()))


def _nvls(chunks: Sequence[Interval], reduce: Codec, gather: Codec, scatters: bool, gathers: bool) -> tuple[Step, ...]:
    """The switch adds up chunk j on its way to rank j, then hands rank j's copy to all, rank j included."""
    everyone, owned = range(len(chunks)), _owned(chunks)
    steps: list[Step] = []
    work: list[Work] = []
    if scatters:
        encode = tuple(Work(i, "encode", chunk, reduce, ()) for i in everyone for _, chunk in owned)
        inward = [Transfer(i, SWITCH, chunk, reduce) for i in everyone for _, chunk in owned]
        outward = [Transfer(SWITCH, j, chunk, reduce) for j, chunk in owned]
        steps.append(Step("nvls", encode, (*inward, *outward)))
    for j, chunk in owned:
        if scatters:
            work.append(Work(j, "reduce", chunk, reduce, (SWITCH,)))
        if gathers:
            work.append(Work(j, "encode", chunk, gather, ()))
    if not gathers:
        return (*steps, Step("none", tuple(work), ()))
    transfers = (
        *(Transfer(j, SWITCH, chunk, gather) for j, chunk in owned),
        *(Transfer(SWITCH, i, chunk, gather) for _, chunk in owned for i in everyone),
    )
    last = tuple(Work(i, "decode", chunk, gather, (SWITCH,)) for _, chunk in owned for i in everyone)
    return (*steps, Step("nvls", tuple(work), transfers), Step("none", last, ()))


def _hierarchical(interval: Interval, islands: Islands, reduce: Codec, gather: Codec, align: int) -> tuple[Step, ...]:
    """Sum within each island, across islands, then spread within: the slow path carries each value once per
    island.

    Every island cuts the interval into one shard a member. Where islands differ in size the cuts differ, so
    what crosses islands is cut at all of them: each cell has one owner per island, and those all-reduce it
    in two steps.
    """
    shards = [tuple(zip(isle, partition(interval, len(isle), align), strict=True)) for isle in islands]
    shards = [tuple((rank, shard) for rank, shard in row if len(shard)) for row in shards]
    cuts = sorted({cut for row in shards for _, shard in row for cut in (shard.start, shard.stop)})
    cells = []  # (owners in island order, the part of the cell that each of them reduces)
    for start, stop in pairwise(cuts):
        owners = tuple(next(r for r, s in row if s.start <= start < s.stop) for row in shards)
        cells.append((owners, partition(Interval(start, stop), len(owners), align)))

    work: list[Work] = []
    sends: list[Transfer] = []
    for island, row in zip(islands, shards, strict=True):
        if len(island) > 1:
            work += (Work(rank, "encode", shard, reduce, ()) for rank in island for _, shard in row)
            sends += (Transfer(a, b, shard, reduce) for a in island for b, shard in row if a != b)
    steps = [Step("reduce_scatter", tuple(work), tuple(sends))]

    work, sends = [], []
    for island, row in zip(islands, shards, strict=True):
        if len(island) > 1:
            work += (Work(rank, "reduce", shard, reduce, island) for rank, shard in row)
    for owners, parts in cells:
        pairs = [(k, part) for k, part in zip(owners, parts, strict=True) if len(part)]
        work += (Work(owner, "encode", part, reduce, ()) for owner in owners for _, part in pairs)
        sends += (Transfer(owner, k, part, reduce) for owner in owners for k, part in pairs if owner != k)
    steps.append(Step("all_to_all", tuple(work), tuple(sends)))

    work, sends = [], []
    spread: list[Transfer] = []
    decode: list[Work] = []
    for owners, parts in cells:
        for k, part in zip(owners, parts, strict=True):
            if not len(part):
                continue
            work.append(Work(k, "reduce", part, reduce, tuple(sorted(owners))))
            work.append(Work(k, "encode", part, gather, ()))
            sends += (Transfer(k, owner, part, gather) for owner in owners if owner != k)
            for owner, island in zip(owners, islands, strict=True):
                spread += (Transfer(owner, rank, part, gather) for rank in island if rank != owner)
                decode += (Work(r, "decode", part, gather, (k if r == owner else owner,)) for r in island)
    steps.append(Step("all_gather", tuple(work), tuple(sends)))
    steps.append(Step("all_gather", (), tuple(spread)))
    steps.append(Step("none", tuple(decode), ()))
    return tuple(steps)
