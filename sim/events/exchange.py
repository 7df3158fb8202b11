"""From what a workload asks to be exchanged to a timed schedule: the algorithm, the library, the cost.

`auto` takes, size by size, the fastest of the algorithms the fabric's engines and libraries would choose from, or what
its carrier would take (`sim.costs.carriers`); every other scheme says itself which collective it uses.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import cast

import numpy as np

from thinwire.edge.limits import SLOWER
from thinwire.reference.core.schedule import Op as CollectiveOp
from thinwire.reference.core.schedule import Schedule, build
from thinwire.reference.core.scheme import Carrier, Collective, Raw, Scheme
from thinwire.reference.core.tokens import Counts, exchange_of_tokens, row_width
from thinwire.reference.mixed import AnyScheme, entries
from thinwire.sim.costs.carriers import carried
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.profile import Baseline
from thinwire.sim.events.analytic import closed_form
from thinwire.sim.events.collective import CollectiveTime, TimedSchedule, run_alone, time_schedule
from thinwire.sim.events.network import Floats, Routes
from thinwire.sim.shapes import Exchange, Passing
from thinwire.topologies.cluster import Cluster

UNCOMPRESSED = Scheme(name="bf16", reduce=Raw(), gather=Raw(), collective="auto")


@dataclass(eq=False)
class Exchanger:
    """Times exchanges of one group of ranks on one cluster; remembers what it has timed."""

    cluster: Cluster  # exactly the group's GPUs
    cost: CostModel
    slowdown_R: Floats
    uncompressed: Scheme = UNCOMPRESSED  # what an exchange without a scheme of its own runs
    _timed: dict[tuple[str, int, Scheme, int, Counts | None], TimedSchedule] = field(default_factory=dict)
    _passed: dict[Schedule, TimedSchedule] = field(default_factory=dict)
    _alone: dict[TimedSchedule, CollectiveTime] = field(default_factory=dict)
    _described: dict[TimedSchedule, str] = field(default_factory=dict)

    @property
    def ranks(self) -> int:
        """Size of the group."""
        return len(self.cluster.gpus)

    @cached_property
    def routes(self) -> Routes:
        """The cluster's routes, as arrays shared by all of the group's exchanges."""
        return Routes(self.cluster)

    @property
    def posted(self) -> bool:
        """Whether some library of the fabric lets ranks go on while what they send leaves."""
        return any(protocol.posted for protocol in self.cost.fabric.protocols)

    def timed(self, exchange: Exchange | Passing) -> TimedSchedule:
        """The schedule an exchange runs, with its seconds."""
        if isinstance(exchange, Passing):
            return self._passing(exchange.schedule)
        scheme = exchange.scheme or self.uncompressed
        return self.time(exchange.op, exchange.numel, scheme, exchange.exact, exchange.counts)

    def time(
        self, op: CollectiveOp, numel: int, scheme: Scheme, exact: int = 0, counts: Counts | None = None
    ) -> TimedSchedule:
        """One collective of `numel` values under `scheme`, the last `exact` of them raw; `auto` resolves to the fastest
        baseline, or its carrier's, which sends all of them so. counts: of an all_to_all, rows from each rank to each.
        """
        key = (op, numel, scheme, exact, counts)
        if key not in self._timed:
            if scheme.collective == "auto":
                self._timed[key] = self._uncompressed(op, numel, scheme.carrier, counts)
            else:
                self._timed[key] = self.attach(op, numel, scheme, self._library(op, scheme), exact, counts)
        return self._timed[key]

    def _passing(self, schedule: Schedule) -> TimedSchedule:
        """Hops round the ring: a call each, by the library that carries other encoded bytes."""
        if schedule not in self._passed:
            library = self.cost.fabric.libraries["separate"]
            codec_s = partial(self.cost.codec_s, fused=False)
            timed = time_schedule(schedule, library, "all_gather", self.cost.fabric, codec_s, self.routes, one_hop=True)
            self._passed[schedule] = timed
            self._described[timed] = f"{schedule.collective}: hops round the ring by {library}"
        return self._passed[schedule]

    def alone(self, timed: TimedSchedule) -> CollectiveTime:
        """What it takes on an idle network."""
        if timed not in self._alone:
            closed = closed_form(timed, self.routes, self.slowdown_R)
            self._alone[timed] = closed or run_alone(timed, self.routes, self.slowdown_R)
        return self._alone[timed]

    def attach(
        self,
        op: CollectiveOp,
        numel: int,
        scheme: Scheme,
        library: str,
        exact: int = 0,
        counts: Counts | None = None,
    ) -> TimedSchedule:
        """A schedule carried by a library named by the caller."""
        if scheme.collective == "nvls" and self.cluster.reducing_switch is None:
            raise ValueError(f"collective nvls needs a switch that reduces; cluster {self.cluster.name} has none")
        schedule = build(scheme, self.ranks, numel, self.cluster.islands, op, exact)
        if counts is not None and scheme.collective != "none":
            schedule = exchange_of_tokens(scheme.reduce, counts, row_width(counts, self.ranks, numel))
        codec_s = partial(self.cost.codec_s, fused=scheme.codec_launch == "fused")
        timed = time_schedule(schedule, library, op, self.cost.fabric, codec_s, self.routes)
        size = f"{numel} values" + (f", the last {exact} uncompressed" if exact else "")
        size += " at most a rank, in rows, unevenly" if counts is not None else ""
        self._described[timed] = f"{op.replace('_', '-')} of {size}: {scheme.collective} by {library}"
        return timed

    def describe(self, timed: TimedSchedule) -> str:
        """Size, algorithm and library, for people to read."""
        return self._described[timed]

    def what_ifs(self) -> list[str]:
        """Stragglers, for people to read."""
        return [
            f"what-if: kernels of rank {rank} take {factor:g} times as long"
            for rank, factor in enumerate(self.slowdown_R.tolist())
            if factor != 1
        ]

    def exchanged(self) -> list[TimedSchedule]:
        """What was timed so far."""
        return [*self._timed.values(), *self._passed.values()]

    def sentences(self) -> list[str]:
        """What the exchanges timed so far rest on."""
        said = self.what_ifs()
        for timed in self.exchanged():
            said += [self.describe(timed), *timed.notes]
        return said

    def _library(self, op: CollectiveOp, scheme: Scheme) -> str:
        """The baseline's library where the scheme runs one of its algorithms uncompressed, else the one that carries
        encoded bytes.
        """
        if scheme.is_raw:
            for baseline in self.cost.fabric.baseline.get(op, ()):
                if baseline.collective == scheme.collective:
                    return baseline.library
        return self.cost.fabric.libraries[scheme.codec_launch]

    def _uncompressed(
        self, op: CollectiveOp, numel: int, carrier: Carrier | None, counts: Counts | None = None
    ) -> TimedSchedule:
        """What a carrier would choose; without one, the best there is: where nobody timed this op on the fabric, a
        direct exchange.
        """
        fabric = self.cost.fabric
        if carrier is None:
            return self._fastest(
                op, numel, fabric.baseline.get(op) or (Baseline(fabric.libraries["separate"], "two_step"),), counts
            )
        nbytes = numel * Raw().bits_per_value / 8
        found = carried(carrier, op, nbytes, self.cluster, fabric)
        timed = self._fastest(op, numel, found.choices, counts)
        said = replace(timed, notes=(found.sentence, *timed.notes))
        self._described[said] = self._described[timed]
        return said

    def _fastest(
        self, op: CollectiveOp, numel: int, choices: tuple[Baseline, ...], counts: Counts | None = None
    ) -> TimedSchedule:
        """The fastest of some ways; a stand-in never beats what was measured."""
        if self.cluster.meshed and self.ranks > 2:  # rings along every link send as a direct exchange does
            direct = (replace(c, collective="two_step") if c.collective == "ring" else c for c in choices)
            choices = tuple(dict.fromkeys(direct))
        candidates = [
            self.attach(op, numel, uncompressed(choice, numel, self.ranks), choice.library, counts=counts)
            for choice in choices
            if choice.collective != "nvls" or self.cluster.reducing_switch is not None
        ]
        measured = [timed for timed in candidates if not timed.notes]
        return min(measured or candidates, key=lambda timed: self.alone(timed).seconds)


def left_uncompressed(scheme: AnyScheme) -> Scheme:
    """What a deployment of `scheme` sends uncompressed beside it: as its carrier would, or the best there is."""
    carriers = {entry.carrier for entry in entries(scheme)}
    return replace(UNCOMPRESSED, carrier=carriers.pop()) if len(carriers) == 1 else UNCOMPRESSED


def uncompressed(baseline: Baseline, numel: int, ranks: int) -> Scheme:
    """The scheme a baseline's algorithm is, for messages of `numel` values."""
    pieces = min(baseline.chunks, max(1, numel // ranks))
    chunk_values = -(-numel // pieces) if pieces > 1 else None
    return Scheme(
        "bf16",
        Raw(),
        Raw(),
        cast(Collective, baseline.collective),
        chunk_values=chunk_values,
        chunks_in_flight=pieces,
    )


def slowdown(ranks: int, slow_ranks: Mapping[int, float]) -> Floats:
    """(R,) factor on each rank's kernels; ValueError for a rank that does not exist or a factor that is not
    positive.
    """
    factors = np.ones(ranks)
    for rank, factor in slow_ranks.items():
        if not 0 <= rank < ranks:
            raise ValueError(f"no such rank to slow down: rank={rank}, ranks are 0..{ranks - 1}")
        if not SLOWER.holds(factor):
            raise ValueError(f"a slow-down factor must lie {SLOWER.range}: rank {rank}={factor}")
        factors[rank] = factor
    return factors
