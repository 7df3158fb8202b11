"""Where a log has no row: the times of the fabric that the machine names, scaled as the log's own rows ask.

What a library takes on another host of a kind has the same shape over sizes, so the ratio of a log's row to the shipped
fabric's time on the same links holds beyond the rows and, less well, for other numbers of ranks and other operations.
Between the rows the middle is taken of that, of the fit to the rows alone, and of a straight line from one to the next.
docs/decisions/023-logs.md says what else was tried, and `validation/targets/logs.py` how far off it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from thinwire.reference.core.schedule import Op
from thinwire.sim.costs.profile import FabricProfile
from thinwire.topologies.cluster import Cluster
from thinwire.validation.fits import fabric as fit_fabric
from thinwire.validation.fits.fabric import Fit, Floats, Series
from thinwire.validation.fits.series import Way, way
from thinwire.validation.fits.spreads_fabric import borrowed

LIBRARY = "nccl"
GRID: Floats = np.exp2(np.arange(9, 35, 1.0))  # bytes of messages: 512 B to 16 GiB
GAP = 2.9  # a size farther from every row than this factor is filled in
MANY = 64  # ranks beyond which nothing is lent: forty sizes would be simulated for minutes
FULL = 2**26  # bytes from which on a log's last row tells about as much of larger messages as the lender does


def timed(
    cluster: Cluster, op: Op, nbytes: Floats, seconds: Floats, chosen: Way | None = None, table: str = "log"
) -> Series:
    """Rows of one operation on exactly a cluster's GPUs, carried as NCCL is modelled there."""
    carried = chosen or way(cluster, LIBRARY, op)
    return Series(
        fabric=cluster.fabric,
        machine=cluster.name,
        library=LIBRARY,
        op=op,
        collective=carried.collective,
        ranks=len(cluster.gpus),
        table=table,
        row_numbers=tuple(range(len(nbytes))),
        nbytes=nbytes,
        seconds=seconds,
        channels=carried.channels,
        chunks=carried.chunks,
        gpus=cluster,
    )


def lent(s: Series, fabric: FabricProfile, nbytes: Floats) -> Floats:
    """Seconds of a series' collective at some sizes by a fabric's figures on the series' own links; empty where that
    holds nothing that could stand in.
    """
    asked = replace(s, nbytes=nbytes, seconds=np.ones(len(nbytes)), row_numbers=tuple(range(len(nbytes))))
    return np.array([seconds for _, seconds, _ in borrowed(asked, fabric)])


@dataclass(frozen=True, eq=False)
class Curve:
    """A series beside what its lender says: seconds at any size."""

    series: Series
    fabric: FabricProfile

    @cached_property
    def lender_s(self) -> Floats:
        """Of the lender at the rows, then at the grid: (S + G,); empty where nothing could be lent."""
        if self.series.ranks > MANY:
            return np.array([])
        sizes, where = np.unique(np.concatenate([self.series.nbytes, GRID]), return_inverse=True)
        found = lent(self.series, self.fabric, sizes)
        return found[where] if len(found) else found

    def ratio(self, nbytes: Floats, out: int | None = None) -> Floats:
        """Own time over the lender's at some sizes; the row `out` left out."""
        keep = np.arange(len(self.series.nbytes)) != (-1 if out is None else out)
        logs = np.log(self.series.seconds / self.lender_s[: len(keep)])[keep]
        return np.asarray(np.exp(np.interp(np.log(nbytes), np.log(self.series.nbytes[keep]), logs)))

    def filled(self, out: int | None = None) -> Series:
        """The series with the sizes filled in that no row is near to; the row `out` left out."""
        own = self.series if out is None else self.series.without(out)
        if not len(self.lender_s):
            return own
        far = np.abs(np.log(GRID[:, None] / own.nbytes[None, :])).min(axis=1) > np.log(GAP)
        more = self.lender_s[len(self.series.nbytes) :] * self.ratio(GRID, out)
        if len(own.nbytes) > 1:
            alone, line = fit([own])[0].seconds(GRID), np.interp(GRID, own.nbytes, own.seconds)
            between = (own.nbytes[0] < GRID) & (own.nbytes[-1] > GRID)
            beyond = (own.nbytes[-1] < GRID) & (own.nbytes[-1] >= FULL)
            more = np.where(between, np.median([more, alone, line], axis=0), more)
            more = np.where(beyond, np.sqrt(more * alone), more)
        nbytes, seconds = np.concatenate([own.nbytes, GRID[far]]), np.concatenate([own.seconds, more[far]])
        order = np.argsort(nbytes)
        return replace(own, nbytes=nbytes[order], seconds=seconds[order], row_numbers=tuple(range(len(nbytes))))

    def carried_to(self, other: "Curve") -> Series:
        """Another operation, or on another number of ranks: its lender's times by this curve's ratio."""
        grid = GRID if len(other.lender_s) else GRID[:0]
        seconds = other.lender_s[len(other.series.nbytes) :] * self.ratio(grid) if len(grid) else grid
        return replace(other.series, nbytes=grid, seconds=seconds, row_numbers=tuple(range(len(grid))))


def fit(some: Sequence[Series]) -> list[Fit]:
    """The fits that the shipped fabrics get, in the series' order: those of one operation and algorithm together."""
    found: dict[int, Fit] = {}
    for group in fit_fabric.by_baseline(some):
        found.update({id(s): one for s, one in zip(group, fit_fabric.fit(group), strict=True)})
    return [found[id(s)] for s in some]
