"""A recorded run as tracks, slices, arrows and counters: what a trace shows, before it is written in some format.

Every rank is a process with a track of what it computes, one of its exchanges, one of codec kernels, and its transfers,
sent and received, with an arrow from each to each; the links that carry anything are counters. Times are whole
nanoseconds, as Perfetto has them; slices of a track nest, and a transfer that would not gets a track beside it.

What repeats is drawn as often as it happens, and the first process says which layers were simulated and which are
copies. Transfers and codec kernels are drawn for the first layers, as many as have `MOST_TRANSFERS` in all, one at
least; from there on a link shows its mean over each exchange, and the first process says where that begins. A
counter times time is the link's bytes throughout.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np

from thinwire.sim.events.recording import Coded, Loaded, Moved, Recording
from thinwire.sim.events.timeline import Laid, Span

MOST_TRANSFERS = 20_000  # some 8 MB of JSON
ROUNDING_NS = 2  # two moments that are one may come out so far apart

RUN, RANKS = (
    1,
    2,
)  # processes: the run as a whole; of the first rank, the others after it, then the switch and the links


class Slice(NamedTuple):
    """Something that takes time. sends, receives: the arrow that starts here, or ends."""

    begin_ns: int
    end_ns: int
    name: str
    args: Mapping[str, Any]
    sends: int | None = None
    receives: int | None = None


@dataclass(frozen=True, slots=True)
class Track:
    """Slices that nest, in order of begin, those around others first. number: unique in a drawing."""

    process: int
    number: int
    name: str
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True)
class Counting:
    """GB/s on a link, each from its moment on."""

    name: str
    points: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """All of a trace. processes: number and name, in order; links: of which process the counters are.

    Of two tracks the one where arrows begin comes first.
    """

    processes: tuple[tuple[int, str], ...]
    tracks: tuple[Track, ...]
    links: int
    counters: tuple[Counting, ...]


def draw(seen: Recording, about: Mapping[str, Any]) -> Drawing:
    """The drawing of a recorded run. about: what it is a run of, by name."""
    indices = seen.routes.cluster.indices
    ranks = len(indices)
    moved = Counter(item.layer for item in seen.moved)
    until = _drawn_until(seen, moved)
    first: dict[int, list[Track]] = {}
    sends: dict[int, list[Slice]] = {}
    receives: dict[int, list[Slice]] = {}
    for arrow, item in enumerate(seen.unrolled(seen.moved, lambda layer: layer <= until), 1):
        out, into = _transfer(arrow, item, seen, ranks)
        sends.setdefault(item.source, []).append(out)
        receives.setdefault(item.destination, []).append(into)
    compute, exchanges = _spans(seen)
    codec = _codec(seen, until)
    processes = [(RUN, "the run"), *((RANKS + r, _rank(r, indices[r])) for r in range(ranks))]
    if ranks in sends or ranks in receives:
        processes.append((RANKS + ranks, "the switch"))
    links = RANKS + ranks + 1
    numbers = dict.fromkeys((number for number, _ in processes), 0)

    def add(process: int, name: str, lanes: Iterable[Sequence[Slice]]) -> None:
        for place, slices in enumerate(lanes):
            numbers[process] += 1
            number = 100 * process + numbers[process]
            said = name if not place else f"{name} ({place + 1})"
            first.setdefault(process, []).append(Track(process, number, said, tuple(slices)))

    add(RUN, "prediction", [[_whole(seen, about)]])
    add(RUN, "how it was simulated", [_layers(seen)])
    if until < max(moved, default=0) or any(
        at.layer > until and moved[at.simulated] for at in seen.timeline.laid_out()
    ):
        add(RUN, "what is drawn", [_cut(seen, until)])
    for rank in range(ranks):
        add(RANKS + rank, "compute", [_whole_ns(compute.get(rank, []))])
        add(RANKS + rank, "exchanges", [_whole_ns(exchanges.get(rank, []))])
        add(RANKS + rank, "codec", [_whole_ns(codec[rank])] if rank in codec else [])
    for rank in sorted(sends):
        add(RANKS + rank, "sends", _nested(sends[rank]))
    for rank in sorted(receives):
        add(RANKS + rank, "receives", _nested(receives[rank]))
    tracks = [track for found in first.values() for track in found]
    tracks.sort(key=lambda track: (track.name.startswith("receives"), track.number))
    counters = tuple(_counters(seen, until))
    if counters:
        processes.append((links, "links"))
    return Drawing(tuple(processes), tuple(tracks), links, counters)


def _rank(rank: int, index: int) -> str:
    return f"rank {rank}" if rank == index else f"rank {rank} (GPU {index})"


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _drawn_until(seen: Recording, moved: Mapping[int, int]) -> int:
    """The last layer whose transfers are drawn."""
    total, until, some = 0, -1, False
    for at in seen.timeline.laid_out():
        total += moved.get(at.simulated, 0)
        if some and total > MOST_TRANSFERS:
            break
        until, some = at.layer, some or total > 0
    return until


# --- slices


def _spans(seen: Recording) -> tuple[dict[int, list[Slice]], dict[int, list[Slice]]]:
    """By rank: ops with their kernels, and exchanges."""
    compute: dict[int, list[Slice]] = {}
    exchanges: dict[int, list[Slice]] = {}
    for span in seen.timeline.spans():
        args: dict[str, Any] = {"layer": span.layer, "part": span.part}
        begin_ns, end_ns = _ns(span.start_s), _ns(span.end_s)
        if span.stream == "communication":
            args |= {"codec_us": span.codec_s * 1e6, "waited_us": span.waited_s * 1e6}
            exchanges.setdefault(span.rank, []).append(Slice(begin_ns, end_ns, span.name, args))
            continue
        mine = compute.setdefault(span.rank, [])
        mine.append(Slice(begin_ns, end_ns, span.name, args))
        mine += _kernels(span, end_ns)
    return compute, exchanges


def _kernels(span: Span, end_ns: int) -> Iterator[Slice]:
    at = span.start_s
    for name, seconds in span.kernels:
        begin, at = at, at + seconds
        yield Slice(min(_ns(begin), end_ns), min(_ns(at), end_ns), name, {"layer": span.layer})


def _codec(seen: Recording, until: int) -> dict[int, list[Slice]]:
    found: dict[int, list[Slice]] = {}
    for item in seen.unrolled(seen.coded, lambda layer: layer <= until):
        timed = _timed(seen, item)
        args = {"layer": item.layer, "step": item.step, "lane": item.lane}
        name = " + ".join(timed.kinds) or "codec"
        found.setdefault(item.rank, []).append(Slice(_ns(item.begin_s), _ns(item.end_s), name, args))
    return found


def _timed(seen: Recording, item: Moved | Coded) -> Any:
    exchange = seen.program[item.exchange].exchange
    assert exchange is not None
    return exchange.lanes[item.lane][item.step]


def _transfer(arrow: int, item: Moved, seen: Recording, ranks: int) -> tuple[Slice, Slice]:
    """What the sender does and what the receiver does, a nanosecond at least: an arrow needs something to end on."""
    args = {
        "bytes": item.nbytes, "layer": item.layer, "lane": item.lane, "step": item.step,
        "primitive": _timed(seen, item).primitive,
    }  # fmt: skip
    begin_ns, end_ns = _ns(item.begin_s), _ns(item.end_s)
    there_ns, arrived_ns = _ns(item.begin_s + item.latency_s), _ns(item.end_s + item.latency_s)
    to, whose = ("switch" if rank == ranks else str(rank) for rank in (item.destination, item.source))
    return (
        Slice(begin_ns, max(end_ns, begin_ns + 1), f"to {to}", args, sends=arrow),
        Slice(there_ns, max(arrived_ns, there_ns + 1), f"from {whose}", args, receives=arrow),
    )


def _whole_ns(slices: Sequence[Slice]) -> list[Slice]:
    """In order, and such that they nest: one that begins a rounding before another ends begins with its end."""
    found: list[Slice] = []
    around: list[int] = []  # ends of those that are open
    for one in sorted(slices, key=lambda one: (one.begin_ns, -one.end_ns)):
        begin_ns = max(one.begin_ns, found[-1].begin_ns) if found else one.begin_ns
        while around and (around[-1] <= begin_ns or one.end_ns > around[-1]):
            begin_ns = max(begin_ns, around.pop())
        assert begin_ns - one.begin_ns <= ROUNDING_NS, (one, begin_ns)
        found.append(one._replace(begin_ns=begin_ns, end_ns=max(begin_ns, one.end_ns)))
        around.append(found[-1].end_ns)
    return found


def _nested(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Slices on as few tracks as they nest on."""
    lanes: list[tuple[list[Slice], list[int]]] = []
    for one in sorted(slices, key=lambda one: (one.begin_ns, -one.end_ns)):
        lane, around = next((each for each in lanes if _fits(one, each[1])), ([], []))
        if not lane:
            lanes.append((lane, around))
        lane.append(one)
        around.append(one.end_ns)
    return [lane for lane, _ in lanes]


def _fits(one: Slice, around: list[int]) -> bool:
    """Whether it nests in what is open on a track, by ends, once those that have ended are closed."""
    while around and around[-1] <= one.begin_ns:
        around.pop()
    return not around or one.end_ns <= around[-1]


# --- the run as a whole


def _whole(seen: Recording, about: Mapping[str, Any]) -> Slice:
    name = f"TTFT {seen.timeline.ttft_s * 1e3:.6g} ms"
    return Slice(0, _ns(seen.timeline.ttft_s), name, about)


def _layers(seen: Recording) -> list[Slice]:
    """Which layers were simulated, and which are copies of others."""
    laid = list(seen.timeline.laid_out())
    shift_s = {at.simulated: at.shift_s for at in laid if not at.copy}
    found = []
    for copy, group in groupby(laid, lambda at: at.copy):
        mine = list(group)
        name = f"simulated: {_range(seen, mine)}"
        if copy:
            of = dict.fromkeys(at.simulated for at in mine)
            start_s = [shift_s[layer] for layer in of]
            original = ", ".join(str(round(layer + _shifted(laid, layer))) for layer in of)
            period_s = (mine[-1].shift_s - start_s[0]) / (len(mine) / len(of))
            name = f"copies of layer {original}, {period_s * 1e3:.6g} ms apart: {_range(seen, mine)}"
        found.append((mine, name))
    return _side_by_side(seen, found)


def _shifted(laid: Sequence[Laid], layer: int) -> int:
    return next(at.layer - at.simulated for at in laid if at.simulated == layer and not at.copy)


def _cut(seen: Recording, until: int) -> list[Slice]:
    """From which layer on transfers are not drawn."""
    laid = list(seen.timeline.laid_out())
    drawn = [at for at in laid if at.layer <= until]
    rest = [at for at in laid if at.layer > until]
    return _side_by_side(
        seen,
        [
            (drawn, f"every transfer: {_range(seen, drawn)}"),
            (rest, f"no transfers and codec kernels, links' mean over each exchange: {_range(seen, rest)}"),
        ],
    )


def _range(seen: Recording, laid: Sequence[Laid]) -> str:
    """Layers in words."""
    last = max(at.layer for at in seen.timeline.laid_out())
    said = {-1: "what comes before", last: "what comes after"}
    ends = list(dict.fromkeys((laid[0].layer, laid[-1].layer)))
    return " to ".join(said.get(layer, f"layer {layer}") for layer in ends)


def _side_by_side(seen: Recording, groups: Sequence[tuple[Sequence[Laid], str]]) -> list[Slice]:
    """A slice for each group of layers, to where the next one begins on the rank that gets there first."""
    begin_s: dict[int, float] = {}
    for span in seen.timeline.simulated:
        begin_s[span.layer] = min(span.start_s, begin_s.get(span.layer, span.start_s))
    starts = [begin_s[laid[0].simulated] + laid[0].shift_s for laid, _ in groups]
    ends = [*starts[1:], seen.timeline.ttft_s]
    return [Slice(_ns(a), _ns(b), name, {}) for a, b, (_, name) in zip(starts, ends, groups, strict=True)]


# --- counters


def _counters(seen: Recording, until: int) -> Iterator[Counting]:
    """Of every link that carries anything."""
    means = [_mean(list(group)) for _, group in groupby(seen.loaded, lambda item: (item.layer, item.exchange))]
    whole = [
        *seen.unrolled(seen.loaded, lambda layer: layer <= until),
        *seen.unrolled(means, lambda layer: layer > until),
    ]
    if not whole:
        return
    whole.sort(key=lambda item: item.begin_s)
    nbytes_EL = np.array([item.nbytes_L for item in whole])
    moments = [(_ns(item.begin_s), _ns(item.end_s)) for item in whole]
    for number, link in enumerate(seen.routes.links):
        if nbytes_EL[:, number].any():
            rate = link.bandwidth_bytes_per_s / 1e9
            name = f"{link.source} -> {link.target} (of {rate:.6g} GB/s)"
            yield Counting(name, tuple(_points(moments, nbytes_EL[:, number].tolist())))


def _mean(run: Sequence[Loaded]) -> Loaded:
    """Stretches of one exchange as one."""
    nbytes_L = np.sum([item.nbytes_L for item in run], axis=0)
    return run[0]._replace(end_s=run[-1].end_s, nbytes_L=nbytes_L)


def _points(moments: Sequence[tuple[int, int]], nbytes: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Changes of a rate whose product with time is the bytes: those of a stretch that rounding leaves no time go into
    the next.
    """
    steps: dict[int, float] = {0: 0.0}
    left, end_ns = 0.0, 0
    for (begin_ns, until_ns), size in zip(moments, nbytes, strict=True):
        left += size
        begin_ns = max(begin_ns, end_ns)
        if until_ns > begin_ns and left:
            steps[begin_ns], steps[until_ns] = float(f"{left / (until_ns - begin_ns):.9g}"), 0.0
            left, end_ns = 0.0, until_ns
    if left:
        steps[end_ns], steps[end_ns + 1] = float(f"{left:.9g}"), 0.0
    at = sorted(steps)
    yield at[0], steps[at[0]]
    for before, after in pairwise(at):
        if steps[after] != steps[before]:
            yield after, steps[after]
