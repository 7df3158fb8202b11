"""What a run did, transfer by transfer: who sent what to whom and when, codec kernels, and what lay on every link.

A recorder watches the network while the engine runs (`engine.Engine.watch`). It changes nothing and costs time, so
only who draws a trace asks for one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import numpy as np

from thinwire.sim.events.engine import Issue
from thinwire.sim.events.network import Batch, Floats, Ints, Routes
from thinwire.sim.events.timeline import Timeline


class Moved(NamedTuple):
    """A transfer. It leaves from `begin_s` to `end_s` and arrives `latency_s` later. exchange: its place in the
    program; source, destination: ranks, the number of ranks being the switch that reduces.
    """

    layer: int
    begin_s: float
    end_s: float
    exchange: int
    lane: int
    step: int
    source: int
    destination: int
    nbytes: int
    latency_s: float


class Coded(NamedTuple):
    """Codec kernels of one rank in one step of a lane."""

    layer: int
    begin_s: float
    end_s: float
    exchange: int
    lane: int
    step: int
    rank: int


class Loaded(NamedTuple):
    """A while in which the same transfers were under way. nbytes_L: that crossed each link. exchange: the first of
    theirs.
    """

    layer: int
    begin_s: float
    end_s: float
    exchange: int
    nbytes_L: Floats


Item = TypeVar("Item", Moved, Coded, Loaded)


@dataclass(frozen=True, eq=False)
class Recording:
    """A run: its spans, and all that crossed links. Of simulated layers, as `Timeline.simulated`."""

    timeline: Timeline
    program: tuple[Issue, ...]
    routes: Routes
    moved: tuple[Moved, ...]
    coded: tuple[Coded, ...]
    loaded: tuple[Loaded, ...]

    def unrolled(self, items: Sequence[Item], layers: Callable[[int], bool] = lambda layer: True) -> Iterator[Item]:
        """The items of the whole pass, of layers that are wanted, repeats shifted as their layers are; in order of
        layer.
        """
        by_layer: dict[int, list[Item]] = {}
        for item in items:
            by_layer.setdefault(item.layer, []).append(item)
        for at in filter(lambda at: layers(at.layer), self.timeline.laid_out()):
            for item in by_layer.get(at.simulated, ()):
                begin_s, end_s = item.begin_s + at.shift_s, item.end_s + at.shift_s
                yield item._replace(layer=at.layer, begin_s=begin_s, end_s=end_s)


@dataclass(eq=False)
class Recorder:
    """Watches one run; of several the last (`network.Watch`)."""

    routes: Routes
    _program: tuple[Issue, ...] = ()
    _moved: list[Moved] = field(default_factory=list)
    _coded: list[Coded] = field(default_factory=list)
    _loaded: list[Loaded] = field(default_factory=list)
    _since_s: float = 0.0
    _rate_L: Floats | None = None  # bytes a second on each link since then; None: nothing is under way
    _first: int = 0  # exchange under way then

    def begin(self, program: Sequence[Issue]) -> None:
        """A run of this program begins: forget the one before."""
        self._program, self._rate_L = tuple(program), None
        for of in (self._moved, self._coded, self._loaded):
            of.clear()

    def recording(self, timeline: Timeline) -> Recording:
        """What was seen of the run that gave this timeline."""
        seen = (tuple(self._moved), tuple(self._coded), tuple(self._loaded))
        return Recording(timeline, self._program, self.routes, *seen)

    def sent(self, batch: Batch, indices: Ints, now_s: float) -> None:
        """See `network.Watch`."""
        tag = batch.tag
        assert tag is not None
        layer = self._program[tag.exchange].layer
        latency_s = self.routes.latency_s[batch.pairs[indices]]
        for i, latency in zip(indices.tolist(), latency_s.tolist(), strict=True):
            source, destination = tag.ends_F2[i].tolist()
            self._moved.append(
                Moved(
                    layer, float(tag.begun_s[i]), float(now_s), tag.exchange, tag.lane, tag.step, source, destination,
                    int(batch.nbytes[i]), latency,
                )
            )  # fmt: skip

    def coding(self, exchange: int, lane: int, step: int, ranks: Ints, begin_s: Floats, end_s: Floats) -> None:
        """See `network.Watch`."""
        layer = self._program[exchange].layer
        for rank, begin, end in zip(ranks.tolist(), begin_s.tolist(), end_s.tolist(), strict=True):
            if end > begin:
                self._coded.append(Coded(layer, begin, end, exchange, lane, step, rank))

    def flowing(self, now_s: float, batches: Sequence[Batch], owner: Ints, index: Ints, rates: Floats) -> None:
        """See `network.Watch`."""
        if self._rate_L is not None and now_s > self._since_s:
            nbytes_L = self._rate_L * (now_s - self._since_s)
            layer = self._program[self._first].layer
            self._loaded.append(Loaded(layer, float(self._since_s), float(now_s), self._first, nbytes_L))
        self._since_s, self._rate_L = now_s, None
        if not len(owner):
            return
        per_pair = np.zeros(len(self.routes.table))
        exchanges = []
        for number in np.unique(owner):
            batch, mine = batches[number], owner == number
            at = index[mine]
            payload = rates[mine] * batch.nbytes[at] / batch.work_bytes[at]  # work is what a link's time is shared by
            per_pair += np.bincount(batch.pairs[at], payload, minlength=len(per_pair))
            exchanges.append(0 if batch.tag is None else batch.tag.exchange)
        self._rate_L, self._first = self.routes.over(per_pair)[: len(self.routes.links)], min(exchanges)
