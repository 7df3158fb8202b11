"""Flow-level network: concurrent transfers share links max-min fairly along their routes.

A flow is one transfer of one collective step; packets are never modelled. Whenever the set of active flows
changes, every flow's rate is set anew by progressive filling (Bertsekas and Gallager, *Data Networks*, 6.5.2):
no flow can go faster without slowing one that is not faster. Rates are kept per (source, destination) pair, since
two flows on one route always get the same rate, and solutions are remembered per multiset of active pairs.

Two sizes travel with a flow: `nbytes`, what a byte counter on the link would show, and `work_bytes`, the share of the
link's time it takes (nbytes / protocol efficiency). Capacity is shared by work; conservation is checked on bytes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import simpy
from numpy.typing import NDArray

from thinwire.topologies.cluster import Cluster, Link

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Flows that would end within this share of the time to the next completion end together: equal flows differ by rounding
# only.
SIMULTANEOUS = 1e-9


def max_min_rates(routes: Ints, counts: Ints, caps: Floats, capacities: Floats) -> Floats:
    """Max-min fair rate of each class of flows, bytes/s.

    Args:
        routes: (classes, hops) resource index of every hop, padded with the index of an infinite resource.
        counts: (classes,) flows in each class.
        caps: (classes,) most one flow of the class may get, bytes/s (inf where uncapped).
        capacities: (resources,) bytes/s.
    """
    rates = np.zeros(len(counts))
    residual = capacities.astype(float).copy()
    open_classes = counts > 0
    weights = np.repeat(counts[:, None], routes.shape[1], axis=1).astype(float)
    while open_classes.any():
        active = np.flatnonzero(open_classes)
        demand = np.bincount(routes[active].ravel(), weights[active].ravel(), minlength=len(residual))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.where(demand > 0, residual / demand, np.inf)
        per_class = np.minimum(share[routes[active]].min(axis=1), caps[active])
        level = per_class.min()
        frozen = active[per_class <= level * (1 + 1e-12)]
        rates[frozen] = level
        residual -= level * np.bincount(routes[frozen].ravel(), weights[frozen].ravel(), minlength=len(residual))
        np.maximum(residual, 0.0, out=residual)
        open_classes[frozen] = False
    return rates


class Routes:
    """The cluster's routes as arrays, one row per (source, destination) pair met so far.

    Resources are links first, then shared pools, then one of infinite capacity used as padding. A pool stands in a row
    once for each link of the route that lies in it.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.links: tuple[Link, ...] = cluster.links
        self._link_index = {(link.source, link.target): i for i, link in enumerate(self.links)}
        pools = sorted(cluster.pools)
        self._pool_index = {name: len(self.links) + i for i, name in enumerate(pools)}
        self.capacities: Floats = np.array(
            [link.bandwidth_bytes_per_s for link in self.links] + [cluster.pools[p] for p in pools] + [np.inf]
        )
        self._pairs: dict[tuple[int, int, int], int] = {}
        self._rows: list[list[int]] = []
        self._latencies: list[float] = []
        self._caps: list[float] = []
        self._arrays: tuple[Ints, Floats, Floats] | None = None

    def pair(self, source: int, destination: int, channels: int = 1) -> int:
        """Row of the pair in `table`, `latency_s` and `cap`.

        A library that runs `channels` connections side by side between two ranks gets so many times a link's per-flow
        cap.
        """
        key = (source, destination, channels)
        found = self._pairs.get(key)
        return self._add(key) if found is None else found

    def _add(self, key: tuple[int, int, int]) -> int:
        source, destination, channels = key
        route = self.cluster.route(source, destination)
        row: list[int] = []
        for link in route:
            row.append(self._link_index[link.source, link.target])
            row.extend(self._pool_index[name] for name in link.pools)
        self._rows.append(row)
        self._latencies.append(sum(link.latency_s for link in route))
        flow_caps = [c for link in route if (c := link.flow_cap_bytes_per_s) is not None]
        self._caps.append(channels * min(flow_caps, default=np.inf))
        self._arrays = None
        self._pairs[key] = len(self._pairs)
        return self._pairs[key]

    def _built(self) -> tuple[Ints, Floats, Floats]:
        if self._arrays is None:
            hops = max((len(row) for row in self._rows), default=1)
            table = np.full((len(self._rows), hops), len(self.capacities) - 1, dtype=np.int64)
            for i, row in enumerate(self._rows):
                table[i, : len(row)] = row
            self._arrays = table, np.array(self._latencies), np.array(self._caps)
        return self._arrays

    @property
    def table(self) -> Ints:
        """(pairs, hops) resource index of every hop, padded with the infinite resource."""
        return self._built()[0]

    @property
    def latency_s(self) -> Floats:
        """(pairs,) sum of the links' latencies."""
        return self._built()[1]

    @property
    def cap(self) -> Floats:
        """(pairs,) most one flow gets, bytes/s; inf where no link of the route limits it."""
        return self._built()[2]

    def rates(self, counts: Ints) -> Floats:
        """Max-min rates with `counts[p]` flows on pair p."""
        n = len(counts)
        return max_min_rates(self.table[:n], counts, self.cap[:n], self.capacities)

    def over(self, per_pair: Floats) -> Floats:
        """What lies on every resource when `per_pair[p]` lies on pair p's whole route."""
        table = self.table[: len(per_pair)]
        weights = np.repeat(per_pair[:, None], table.shape[1], axis=1)
        return np.bincount(table.ravel(), weights.ravel(), minlength=len(self.capacities)).astype(np.float64)

    def link_bytes(self, pair_bytes: Floats) -> Mapping[tuple[str, str], float]:
        """Bytes on each directed link when pair p carries `pair_bytes[p]`."""
        crossed = self.over(pair_bytes)
        return {(link.source, link.target): float(b) for link, b in zip(self.links, crossed, strict=False)}

    def utilisation(self, load: Floats) -> float:
        """Highest share of any resource's capacity, the load being bytes/s on each."""
        return float(np.max(load[:-1] / self.capacities[:-1], initial=0.0))


@dataclass(eq=False, slots=True)
class Tag:
    """What the flows of a batch are of, where somebody watches: an exchange by number, and F of its transfers."""

    exchange: int
    lane: int
    step: int
    ends_F2: Ints  # as `collective.TimedStep` has them
    begun_s: Floats  # (F,) filled in by the network


@dataclass(eq=False, slots=True)
class Batch:
    """Flows that start together. `on_arrival(indices)` is called with those that arrive together.

    in_order: a flow waits for those started before it on its pair, as messages on one connection do.
    """

    pairs: Ints
    nbytes: Floats
    work_bytes: Floats
    on_arrival: Callable[[Ints], None]
    in_order: bool = False
    tag: Tag | None = None


class Watch(Protocol):
    """Who is told what a network does, as it does it."""

    def sent(self, batch: Batch, indices: Ints, now_s: float) -> None:
        """The last bytes of these flows of a batch have left."""

    def flowing(self, now_s: float, batches: Sequence[Batch], owner: Ints, index: Ints, rates: Floats) -> None:
        """From now on flow `index[f]` of `batches[owner[f]]` does `rates[f]` bytes of work a second, and no other."""

    def coding(self, exchange: int, lane: int, step: int, ranks: Ints, begin_s: Floats, end_s: Floats) -> None:
        """These ranks run their codec kernels of a step then."""


class Network:
    """Shares the cluster's links between batches of flows; runs on a SimPy environment."""

    def __init__(self, env: simpy.Environment, routes: Routes, watch: Watch | None = None) -> None:
        self._env = env
        self.routes = routes
        self.watch = watch
        self._remembered: dict[bytes, tuple[Floats, Floats]] = {}
        self._batches: list[Batch] = []
        self._queues: dict[int, deque[tuple[int, int]]] = {}  # by pair on which one flows: (batch, index) of the next
        self._owner: Ints = np.zeros(0, dtype=np.int64)  # index into _batches
        self._index: Ints = np.zeros(0, dtype=np.int64)  # index into the batch
        self._pair: Ints = np.zeros(0, dtype=np.int64)
        self._left: Floats = np.zeros(0)  # work bytes still to send
        self._rate: Floats = np.zeros(0)
        self._since = 0.0
        self._version = 0
        self._resolve_planned = False
        self._pair_bytes: Floats = np.zeros(len(routes.table))
        self._peak: Floats = np.zeros(len(routes.capacities))

    @property
    def busy(self) -> bool:
        """Whether any flow is under way."""
        return len(self._left) > 0

    def start(self, batch: Batch) -> None:
        """Begin sending a batch now. Rates are set once for all batches that start at this instant."""
        self._advance()
        self._batches.append(batch)
        number, indices = len(self._batches) - 1, np.arange(len(batch.pairs))
        if batch.in_order:
            free = [not self._queued(int(pair), number, i) for i, pair in enumerate(batch.pairs)]
            indices = np.flatnonzero(free)
        self._begin(number, indices)
        self._pair_bytes += np.bincount(batch.pairs, batch.nbytes, minlength=len(self._pair_bytes))
        if not self._resolve_planned:
            self._resolve_planned = True
            self._after(0.0, self._resolve)

    def _begin(self, number: int, indices: Ints) -> None:
        batch, count = self._batches[number], len(indices)
        if batch.tag is not None:
            batch.tag.begun_s[indices] = self._env.now
        self._owner = np.concatenate([self._owner, np.full(count, number)])
        self._index = np.concatenate([self._index, indices])
        self._pair = np.concatenate([self._pair, batch.pairs[indices]])
        self._left = np.concatenate([self._left, batch.work_bytes[indices]])
        self._rate = np.concatenate([self._rate, np.zeros(count)])

    def _queued(self, pair: int, number: int, index: int) -> bool:
        """Whether this flow has to wait; if not, those after it on its pair will."""
        if pair in self._queues:
            self._queues[pair].append((number, index))
            return True
        self._queues[pair] = deque()
        return False

    def link_bytes(self) -> Mapping[tuple[str, str], float]:
        """Bytes that crossed each directed link so far, whole batches counted when they start."""
        return self.routes.link_bytes(self._pair_bytes)

    def peak_utilisation(self) -> float:
        """Highest share of any resource's capacity in use at one time."""
        return self.routes.utilisation(self._peak)

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        self._env.timeout(delay_s).callbacks.append(lambda _event: action())

    def _advance(self) -> None:
        now = self._env.now
        if now > self._since:
            self._left = self._left - self._rate * (now - self._since)
        self._since = now

    def _resolve(self) -> None:
        """Set the rates of all active flows and plan the next completion."""
        self._resolve_planned = False
        self._advance()
        self._version += 1
        if not len(self._left):
            self._batches.clear()
            if self.watch is not None:
                self.watch.flowing(self._env.now, (), self._owner, self._index, self._rate)
            return
        counts = np.bincount(self._pair, minlength=len(self.routes.table))
        key = counts.tobytes()
        if key not in self._remembered:
            rates = self.routes.rates(counts)
            self._remembered[key] = rates, self.routes.over(counts * rates)
        rates, load = self._remembered[key]
        np.maximum(self._peak, load, out=self._peak)
        self._rate = rates[self._pair]
        if self.watch is not None:
            self.watch.flowing(self._env.now, self._batches, self._owner, self._index, self._rate)
        to_go = self._left / self._rate
        soonest = max(0.0, float(to_go.min()))
        ends = np.flatnonzero(to_go <= soonest * (1 + SIMULTANEOUS))
        version = self._version
        self._after(soonest, lambda: self._complete(ends, version))

    def _complete(self, ends: Ints, version: int) -> None:
        if version != self._version:
            return  # the set of flows changed since: a later plan holds
        self._advance()
        owner, index, pair = self._owner[ends], self._index[ends], self._pair[ends]
        keep = np.ones(len(self._left), dtype=bool)  # flows that start at this very instant stand after those planned
        keep[ends] = False
        self._owner, self._index, self._pair = self._owner[keep], self._index[keep], self._pair[keep]
        self._left, self._rate = self._left[keep], self._rate[keep]
        latency = self.routes.latency_s[pair]
        for number, mine in groups(owner):
            batch = self._batches[number]
            if self.watch is not None:
                self.watch.sent(batch, index[mine], self._env.now)
            for delay, together in groups(latency[mine]):
                arrived = index[mine[together]]
                self._after(float(delay), partial(batch.on_arrival, arrived))
            if batch.in_order:
                for freed in batch.pairs[index[mine]]:
                    self._next(int(freed))
        self._resolve()

    def _next(self, pair: int) -> None:
        """The flow that has waited for this pair."""
        if self._queues[pair]:
            number, index = self._queues[pair].popleft()
            self._begin(number, np.array([index]))
        else:
            del self._queues[pair]


def groups(values: NDArray[Any]) -> Iterator[tuple[Any, Ints]]:
    """Each distinct value, in rising order, with the indices where it stands."""
    if len(values) == 1 or (len(values) and (values == values[0]).all()):  # nearly always, and quicker than sorting
        yield values[0], np.arange(len(values))
        return
    for value in np.unique(values):
        yield value, np.flatnonzero(values == value)
