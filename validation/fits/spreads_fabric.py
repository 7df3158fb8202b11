"""How far exchanges are off on rows that their fits did not see: `spreads` of the fabrics in `sim/profiles/`.

By library and size of the message. What nobody timed on a fabric takes the spread of stand-ins: timed series, predicted
as if nobody had timed them (docs/decisions/014-intervals.md).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from thinwire.reference.core.schedule import build
from thinwire.sim.costs.profile import FabricProfile, Protocol
from thinwire.sim.costs.spread import Spread
from thinwire.sim.events.collective import run_alone, time_schedule
from thinwire.sim.events.exchange import uncompressed
from thinwire.sim.events.network import Routes
from thinwire.validation.fits import fabric as fit_fabric
from thinwire.validation.fits.fabric import Series
from thinwire.validation.fits.series import calibration
from thinwire.validation.fits.spreads import ENOUGH, FEWEST, THIN, Regimes, by_regime, spread

MESSAGE_REGIMES: Regimes = (2**13, 2**16, 2**20, 2**24, None)  # bytes of a message, as validate groups them
LIKE = (  # fabrics that could stand in for each other
    ("a100-nvlink", "h200-nvlink", "b200-nvlink"),
    ("l40s-pcie", "rtx-pro-6000-pcie"),
)


@dataclass(frozen=True, slots=True)
class Timed:
    """A row of a series, its fabric fitted without it: log(measured / predicted)."""

    series: tuple[str, str, str, int]  # fabric, library, op, ranks
    nbytes: float
    log: float


def series_key(s: Series) -> tuple[str, str, str, int]:
    """Which series a row belongs to."""
    return s.fabric, s.library, s.op, s.ranks


@cache
def fabric_left_out() -> tuple[Timed, ...]:
    """Every row that calibrates a fabric but each series' ends."""
    return tuple(
        Timed(series_key(s), float(s.nbytes[i]), float(np.log(s.seconds[i] / seconds)))
        for group in fit_fabric.by_baseline(calibration())
        for s, i, seconds in fit_fabric.leave_one_out(group)
    )


def libraries(fabric: str, rows: Sequence[Timed], *names: str) -> Iterator[Spread]:
    """A fabric's libraries (or those named), regime by regime: its own rows; where they are few, those of all fabrics;
    then its own of all sizes.
    """
    for library in names or sorted({row.series[1] for row in rows if row.series[0] == fabric}):
        same = [row for row in rows if row.series[1] == library]
        mine = [row for row in same if row.series[0] == fabric]
        above = 0.0
        for up_to in MESSAGE_REGIMES:
            most = np.inf if up_to is None else up_to
            own, pooled = ([row.log for row in some if above < row.nbytes <= most] for some in (mine, same))
            above = most
            if len(own) >= FEWEST:
                yield spread(library, own, f"measured: {len(own)} rows of {library}, each fitted without it", up_to)
            elif len(pooled) >= ENOUGH:
                yield spread(library, pooled, f"assumed: as {library} on all fabrics, {len(pooled)} rows", up_to)
            elif len(mine) >= FEWEST:
                every = [row.log for row in mine]
                yield spread(library, every, f"measured: {len(mine)} rows of {library} of all sizes", up_to)


def lenders(s: Series, fabrics: Mapping[str, FabricProfile]) -> list[FabricProfile]:
    """Fabrics like a series' own, which could stand in for it."""
    return [fabrics[name] for like in LIKE if s.fabric in like for name in like if name != s.fabric]


def borrowed(s: Series, fabric: FabricProfile, thin: int = 1) -> Iterator[tuple[int, float, str]]:
    """(index, seconds, who carries it) of every `thin`-th row of a series on its own machine's links, by a fabric that
    never saw it; nothing where that holds nothing that could stand in.
    """
    cluster = s.group
    routes = Routes(cluster)
    for index in range(0, len(s.nbytes), thin):
        numel = max(1, round(s.nbytes[index] / 2))
        schedule = build(uncompressed(s.baseline, numel, s.ranks), s.ranks, numel, cluster.islands, s.op)
        try:
            timed = time_schedule(schedule, s.library, s.op, fabric, lambda _work, n: np.zeros(n), routes)
        except ValueError:
            return
        yield index, run_alone(timed, routes).seconds, timed.carried.carrier if timed.carried else "stand-in"


def without(fabric: FabricProfile, s: Series, ranks: int | None = None) -> FabricProfile:
    """The fabric as if nobody had timed a series' library and operation on it, or not on this number of ranks."""

    def left_out(p: Protocol) -> bool:
        return (p.library, p.op) == (s.library, s.op) and ranks in (None, p.ranks)

    return replace(fabric, protocols=tuple(p for p in fabric.protocols if not left_out(p)))


def stand_in_rows(fabrics: Mapping[str, FabricProfile]) -> Iterator[tuple[float, float]]:
    """(bytes, log) of series predicted as if nobody had timed them: by what stands in on their own fabric, and by the
    protocols of a fabric like theirs.
    """
    for s in calibration():
        for fabric in (without(fabrics[s.fabric], s), *lenders(s, fabrics)):
            for index, seconds, _ in borrowed(s, fabric, THIN):
                yield float(s.nbytes[index]), float(np.log(s.seconds[index] / seconds))


def stand_ins(fabrics: Mapping[str, FabricProfile]) -> list[Spread]:
    """The same for every fabric."""
    sizes, logs = zip(*stand_in_rows(fabrics), strict=True)
    source = "assumed: as timed series are off when their own fabric's others, or a fabric like it, stand in"
    return by_regime("stand-in", sizes, logs, MESSAGE_REGIMES, source, centred=True)


def with_fabric_spreads(fabrics: Mapping[str, FabricProfile]) -> dict[str, FabricProfile]:
    """The fabric profiles with their spreads."""
    assumed, rows = stand_ins(fabrics), fabric_left_out()
    return {name: replace(fabric, spreads=(*libraries(name, rows), *assumed)) for name, fabric in fabrics.items()}
