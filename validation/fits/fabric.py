"""Fits fabric profiles: what each library makes of each fabric, from published timings of collectives.

One series is one library, op and rank count on one machine, timed over many sizes. Its time is read as

    T(bytes) = launch + steps * hop + wire latency + wire(bytes) / efficiency(bytes)

where `steps`, the wire latency and `wire` (the time at full efficiency) come from the same schedule and network the
simulator runs, on the machine's own topology. What a halved link then changes is the wire alone. launch and hop are
told apart by comparing rank counts; efficiency takes up the rest and is kept at as few sizes as reproduce the series
within TOLERANCE.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, nnls

from thinwire.edge.limits import EFFICIENCY
from thinwire.reference.core.schedule import Op, build
from thinwire.reference.core.scheme import Collective
from thinwire.sim.costs.profile import Baseline, FabricProfile, Protocol
from thinwire.sim.events.collective import bytes_per_rank, run_alone, time_schedule
from thinwire.sim.events.exchange import uncompressed
from thinwire.sim.events.network import Routes
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.load import load_cluster

Floats = NDArray[np.float64]

TOLERANCE = 0.02  # knots are added until the fit is this close to the smoothed series
FLOOR_SHARE = 0.95  # of the smallest time is software; the rest lets the wire matter at every size
REFERENCE_BYTES = 2**26


@dataclass(frozen=True)
class Series:
    """Timings of one collective: nbytes (S,) in nccl-tests' convention, seconds (S,), row numbers in the table."""

    fabric: str
    machine: str
    library: str
    op: Op
    collective: Collective
    ranks: int
    table: str
    row_numbers: tuple[int, ...]
    nbytes: Floats
    seconds: Floats
    channels: int = 1
    chunks: int = 1  # pieces of the message pipelined through the steps
    gpus: Cluster | None = None  # exactly the group, of a machine that is no catalog's or other than its first ranks
    smaller: "Series | None" = None  # the same on a fabric like it, below the smallest size timed here

    @property
    def group(self) -> Cluster:
        """The GPUs that took part."""
        return first(self.machine, self.ranks) if self.gpus is None else self.gpus

    @property
    def fitted_bytes(self) -> Floats:
        """Sizes that a fit goes through: of its own, below them those of a fabric like it."""
        return self.nbytes if self.smaller is None else np.concatenate([self.smaller.nbytes, self.nbytes])

    @property
    def fitted_seconds(self) -> Floats:
        """Their times."""
        return self.seconds if self.smaller is None else np.concatenate([self.smaller.seconds, self.seconds])

    def only(self, kept: NDArray[np.bool_]) -> "Series":
        """Some of the rows, by a mask."""
        numbers = tuple(n for n, keep in zip(self.row_numbers, kept.tolist(), strict=True) if keep)
        return replace(self, row_numbers=numbers, nbytes=self.nbytes[kept], seconds=self.seconds[kept])

    @property
    def baseline(self) -> Baseline:
        """How the simulator carries it."""
        return Baseline(self.library, self.collective, self.chunks)

    def without(self, index: int) -> "Series":
        """Leave one row out."""
        return self.only(np.arange(len(self.nbytes)) != index)


@dataclass(frozen=True)
class Wire:
    """A schedule's time with perfect software, and how it is counted."""

    steps: int
    calls: int  # primitives, each launched once
    latency_s: float
    seconds_per_byte: float
    sent_per_byte: dict[str, float]  # bytes a rank sends in each primitive of one piece, per byte of message


@cache
def first(machine: str, ranks: int) -> Cluster:
    """The first ranks of a catalog machine: one value, so that what is told from it is told once."""
    return load_cluster(machine).take(ranks)


@cache
def wire(cluster: Cluster, baseline: Baseline, op: Op, channels: int) -> Wire:
    """Run the schedule with perfect software at two sizes, and once with a second of software a step to count those
    in a row.
    """
    routes, ranks = Routes(cluster), len(cluster.gpus)

    def run(numel: int, hop_s: float) -> tuple[float, Mapping[str, float]]:
        schedule = build(uncompressed(baseline, numel, ranks), ranks, numel, cluster.islands, op)
        sent = {
            p: nbytes for p, nbytes in bytes_per_rank(schedule.lanes[0].steps, ranks, schedule.align).items() if nbytes
        }
        perfect = tuple(
            Protocol("perfect", op, p, ranks, 0.0, hop_s, ((1.0, 1.0),), channels, "assumed: perfect") for p in sent
        )
        fabric = FabricProfile("perfect", perfect, {}, {})
        timed = time_schedule(schedule, "perfect", op, fabric, lambda _work, count: np.zeros(count), routes)
        return run_alone(timed, routes).seconds, sent

    whole, sent = run(REFERENCE_BYTES // 2, 0.0)
    half, _ = run(REFERENCE_BYTES // 4, 0.0)
    slow, _ = run(REFERENCE_BYTES // 2, 1.0)
    return Wire(
        steps=round(slow - whole),
        calls=len(sent),
        latency_s=max(0.0, 2 * half - whole),
        seconds_per_byte=2 * (whole - half) / REFERENCE_BYTES,
        sent_per_byte={p: nbytes / REFERENCE_BYTES for p, nbytes in sent.items()},
    )


def wire_of(series: Series) -> Wire:
    """The series' wire."""
    return wire(series.group, series.baseline, series.op, series.channels)


@dataclass(frozen=True)
class Fit:
    """A fitted series: seconds(nbytes) is the closed form the simulator reproduces."""

    series: Series
    launch_s: float  # of one primitive's call
    hop_s: float
    knot_bytes: Floats
    knot_efficiency: Floats

    def seconds(self, nbytes: Floats) -> Floats:
        """T at each size."""
        w = wire_of(self.series)
        efficiency = np.exp(np.interp(np.log(nbytes), np.log(self.knot_bytes), np.log(self.knot_efficiency)))
        software = w.calls * self.launch_s + w.steps * self.hop_s
        return np.asarray(software + w.latency_s + w.seconds_per_byte * nbytes / efficiency)

    def protocols(self, source: str) -> list[Protocol]:
        """The entries of the profile, one for each primitive of the schedule."""
        w, s = wire_of(self.series), self.series
        found = []
        for primitive, sent in w.sent_per_byte.items():
            knots = _rounded_knots(self.knot_bytes * sent, self.knot_efficiency)
            launch, hop = _round(self.launch_s), _round(self.hop_s)
            found.append(Protocol(s.library, s.op, primitive, s.ranks, launch, hop, knots, s.channels, source))
        return found


def _round(value: float) -> float:
    return float(f"{value:.5g}")


def _rounded_knots(nbytes: Floats, efficiency: Floats) -> tuple[tuple[float, float], ...]:
    """Knots to five digits, with bytes / efficiency still rising: more bytes are never faster."""
    knots: list[tuple[float, float]] = []
    for b, e in zip(map(_round, nbytes), map(_round, efficiency), strict=True):
        if knots and b / e < knots[-1][0] / knots[-1][1]:
            e = b * knots[-1][1] / knots[-1][0]
        knots.append((b, e))
    return tuple(knots)


def fit(group: Sequence[Series]) -> list[Fit]:
    """Fit series that differ in rank count only: they share a launch time."""
    floors = [_floor(s) for s in group]
    counts = np.array([[wire_of(s).calls, wire_of(s).steps] for s in group], dtype=float)
    launch_s = float(nnls(counts, np.array(floors))[0][0]) if len(group) > 1 else floors[0] / counts[0][0]
    if any(s.chunks > 1 for s in group):
        launch_s = 0.0  # the pieces are one call: its start is the first hop
    launch_s = min([launch_s, *(floor / row[0] for floor, row in zip(floors, counts, strict=True))])
    return [_fit_one(s, launch_s, floor) for s, floor in zip(group, floors, strict=True)]


def _smooth(series: Series) -> Floats:
    """The nearest times that never fall with size: a lone outlier is averaged away."""
    return np.exp(isotonic_regression(np.log(series.fitted_seconds)).x)


def _floor(series: Series) -> float:
    """Software time of one call: what is left at no bytes, and never so much that some size would need more than the
    whole wire.
    """
    w, smooth, nbytes = wire_of(series), _smooth(series), series.fitted_bytes
    if len(smooth) == 1:
        return 0.0  # one time says nothing of how it divides
    slope = (smooth[1] - smooth[0]) / (nbytes[1] - nbytes[0])
    at_no_bytes = min(FLOOR_SHARE * smooth[0], smooth[0] - slope * nbytes[0])
    beside_wire = float((smooth - w.seconds_per_byte * nbytes).min())
    return max(0.0, float(min(at_no_bytes, beside_wire)) - w.latency_s)


def _fit_one(series: Series, launch_s: float, floor_s: float) -> Fit:
    w = wire_of(series)
    hop_s = max(0.0, floor_s - w.calls * launch_s) / w.steps
    software = w.calls * launch_s + w.steps * hop_s + w.latency_s
    smooth, nbytes = _smooth(series), series.fitted_bytes
    on_wire = np.maximum(smooth - software, w.seconds_per_byte * nbytes / EFFICIENCY.most)
    efficiency = w.seconds_per_byte * nbytes / on_wire
    kept = [0, len(efficiency) - 1]
    while True:
        kept.sort()
        found = Fit(series, launch_s, hop_s, nbytes[kept], efficiency[kept])
        error = np.abs(found.seconds(nbytes) / smooth - 1)
        error[kept] = 0.0
        worst = int(np.argmax(error))
        if error[worst] <= TOLERANCE:
            return found
        kept.append(worst)


def leave_one_out(group: Sequence[Series]) -> Iterable[tuple[Series, int, float]]:
    """For every row but each series' ends: the series, the row's index, and what a fit without it predicts, seconds."""
    for number, series in enumerate(group):
        for index in range(1, len(series.nbytes) - 1):
            rest = [*group[:number], series.without(index), *group[number + 1 :]]
            yield series, index, float(fit(rest)[number].seconds(series.nbytes[[index]])[0])


def by_baseline(series: Iterable[Series]) -> list[list[Series]]:
    """Series of one host (a table is of one) grouped by everything but the rank count."""
    groups: dict[tuple[str, str, Op, Baseline], list[Series]] = {}
    for s in series:
        groups.setdefault((s.fabric, s.table, s.op, s.baseline), []).append(s)
    return list(groups.values())
