"""How far off what logs do not hold is: published series taken for logs, each lent the figures of another host.

The lender never saw the series' host, as a shipped fabric never saw a user's. Left out are every second size; all
sizes below 16 MiB; the other numbers of ranks; the other operations.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from thinwire.reference.core.schedule import Op
from thinwire.sim.costs.profile import FabricProfile
from thinwire.sim.costs.shipped import shipped_fabric
from thinwire.validation.fits import series as published
from thinwire.validation.fits.fabric import Series
from thinwire.validation.fits.spreads_fabric import lenders
from thinwire.validation.logs.curves import Curve, fit

NOTHING = FabricProfile("nothing lent", (), {}, {})
BEYOND = 2**24  # bytes: a log of large messages alone


@dataclass(frozen=True, slots=True)
class Guess:
    """A row of a series that the log made of it did not hold. by: what the log held instead, or the lender's name."""

    series: Series
    index: int
    seconds: float
    by: str

    @property
    def log(self) -> float:
        """log(measured / predicted)."""
        return float(np.log(self.series.seconds[self.index] / self.seconds))


@cache
def curves() -> tuple[Curve, ...]:
    """Every published NCCL series with each fabric like its own; those whose lender has nothing to lend are left
    out.
    """
    fabrics = _fabrics()
    found = (Curve(s, lender) for s in published.nccl() for lender in lenders(s, fabrics))
    return tuple(curve for curve in found if len(curve.lender_s))


def _fabrics() -> Mapping[str, FabricProfile]:
    return {s.fabric: shipped_fabric(s.group) for s in published.calibration()}


def second_sizes(of: Sequence[Series] | None = None) -> Iterator[Guess]:
    """Every second size left out; each series once, by the first fabric like its own, or with nothing lent."""
    fabrics = _fabrics()
    for s in published.nccl() if of is None else of:
        like = [*lenders(s, fabrics), NOTHING]
        yield from _without(Curve(s, like[0]), np.arange(1, len(s.nbytes), 2))


def _without(curve: Curve, out: NDArray[np.int64]) -> Iterator[Guess]:
    s = curve.series
    keep = ~np.isin(np.arange(len(s.nbytes)), out)
    kept = replace(s, nbytes=s.nbytes[keep], seconds=s.seconds[keep], row_numbers=tuple(np.flatnonzero(keep).tolist()))
    seconds = fit([Curve(kept, curve.fabric).filled()])[0].seconds(s.nbytes[~keep])
    for index, value in zip(np.flatnonzero(~keep).tolist(), seconds.tolist(), strict=True):
        yield Guess(s, index, value, curve.fabric.name)


def small_sizes() -> Iterator[Guess]:
    """All sizes below `BEYOND` left out."""
    for curve in curves():
        yield from _without(curve, np.flatnonzero(curve.series.nbytes < BEYOND))


def other_ranks() -> Iterator[Guess]:
    """Of each operation, one number of ranks by the log of another."""
    groups: dict[tuple[str, Op, str], list[Curve]] = {}
    for curve in curves():
        groups.setdefault((curve.series.machine, curve.series.op, curve.fabric.name), []).append(curve)
    for some in groups.values():
        for known, asked in permutations(some, 2):
            yield from _carried(known, asked, f"{known.series.ranks} ranks")


def other_ops() -> Iterator[Guess]:
    """Of each number of ranks, the other operations by the log of its all-reduce."""
    groups: dict[tuple[str, int, str], list[Curve]] = {}
    for curve in curves():
        groups.setdefault((curve.series.machine, curve.series.ranks, curve.fabric.name), []).append(curve)
    for some in groups.values():
        for known, asked in permutations(some, 2):
            if known.series.op == "all_reduce":
                yield from _carried(known, asked, "all_reduce")


def _carried(known: Curve, asked: Curve, by: str) -> Iterator[Guess]:
    found, s = known.carried_to(asked), asked.series
    at = {float(size): seconds for size, seconds in zip(found.nbytes, found.seconds, strict=True)}
    for index, size in enumerate(s.nbytes.tolist()):
        yield Guess(s, index, at[size], by)


def kept_borrowed() -> Iterator[Guess]:
    """The lender's own times, which is what a log is held against: no log at all."""
    for curve in curves():
        for index, seconds in enumerate(curve.lender_s[: len(curve.series.nbytes)].tolist()):
            yield Guess(curve.series, index, seconds, curve.fabric.name)
