"""How far figures of one host are off on another of its kind: a random-effects estimate from whole hosts left out.

Each measured host is predicted by the figures of others on its own links. With d = log(measured / predicted), w the
error that rows of the very host measured have (`spreads_fabric`; none where it is assumed itself), and every host
weighing the same,

    between^2 = mean over hosts of max(0, mean over the host's rows of d^2 - w^2)

The mean is taken as zero: a host is as likely to be slower than the one measured as faster, and the error of the one
measured is part of what the next user meets. So H hosts give H degrees of freedom, and the 90 % quantiles are
Student's. By size of the message; sizes that fewer than FEWEST_HOSTS hosts have timed join the next (`regimes`), and a
kind with fewer hosts takes those of all kinds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from thinwire.sim.costs.profile import FabricProfile
from thinwire.sim.costs.spread import ANOTHER_HOST, Spread, find
from thinwire.validation.fits.spreads import TAIL
from thinwire.validation.fits.spreads_fabric import MESSAGE_REGIMES, borrowed
from thinwire.validation.hosts.measured import KINDS, Host, hosts, kind_of

FEWEST_HOSTS = 3
LEAST = 0.02  # half-width of what hosts differ by: three alike do not show that a fourth is


@dataclass(frozen=True, slots=True)
class Off:
    """One row of a host, predicted by others' figures."""

    host: str
    kind: str
    fabric: str
    what: str  # library, operation, ranks
    row: str  # table and number
    nbytes: float
    seconds: float
    predicted_s: float
    own: Spread  # what rows of the very host measured are off by

    @property
    def log(self) -> float:
        """log(measured / predicted)."""
        return float(np.log(self.seconds / self.predicted_s))


def offs(host: Host, fabrics: Mapping[str, FabricProfile]) -> list[Off]:
    """All rows of a host."""
    fabric, found = without(fabrics[host.by], host.own), []
    for s in host.series:
        for i, predicted_s, carrier in borrowed(s, fabric):
            nbytes = float(s.nbytes[i])
            own = find(fabric.spreads, nbytes, carrier, "stand-in")
            what, row = f"{s.library} {s.op} x{s.ranks}", f"{s.table} row {s.row_numbers[i] + 1}"
            found.append(
                Off(host.name, host.kind, fabric.name, what, row, nbytes, float(s.seconds[i]), predicted_s, own)
            )
    return found


def without(fabric: FabricProfile, tables: Sequence[str]) -> FabricProfile:
    """The fabric without the figures fitted to some tables."""
    kept = tuple(p for p in fabric.protocols if not any(f"{table}.csv" in p.source for table in tables))
    return replace(fabric, protocols=kept)


def every_off(fabrics: Mapping[str, FabricProfile]) -> list[Off]:
    """Every row of every measured host."""
    return [off for host in hosts() for off in offs(host, fabrics)]


def between(some: Iterable[Off]) -> tuple[float, int]:
    """(half-width, hosts): the 95 % quantile of what hosts differ by, over rows of one kind and size."""
    squares: dict[str, list[float]] = {}
    for off in some:
        half = 0.0 if off.own.is_assumed else (off.own.high - off.own.low) / 2
        own = half / float(stdtrit(np.inf, TAIL))
        squares.setdefault(off.host, []).append(off.log**2 - own**2)
    if not squares:
        raise ValueError("between hosts: no row of any host")
    count = len(squares)
    variance = float(np.mean([max(0.0, float(np.mean(rows))) for rows in squares.values()]))
    return max(LEAST, float(stdtrit(count, TAIL)) * variance**0.5), count


def regimes(some: Sequence[Off]) -> list[tuple[float | None, list[Off]]]:
    """Rows by size; sizes that too few hosts have timed go with the next larger, at the end with the one before."""
    found: list[tuple[float | None, list[Off]]] = []
    above, waiting = 0.0, list[Off]()
    for up_to in MESSAGE_REGIMES:
        most = np.inf if up_to is None else up_to
        waiting += [off for off in some if above < off.nbytes <= most]
        above = most
        if len({off.host for off in waiting}) >= FEWEST_HOSTS:
            found.append((up_to, waiting))
            waiting = []
    if waiting and found:
        found[-1] = (None, [*found[-1][1], *waiting])
    elif found:
        found[-1] = (None, found[-1][1])
    return found or [(None, waiting)]


def estimate(kind: str, some: Sequence[Off]) -> list[Spread]:
    """What hosts of a kind differ by in exchanges, by size of the message, from the rows of such hosts; of all where
    they are few. ValueError without any row.
    """
    some = [off for off in some if off.kind in KINDS]
    mine = [off for off in some if off.kind == kind]
    enough = len({off.host for off in mine}) >= FEWEST_HOSTS
    found = []
    for up_to, rows in regimes(mine if enough else some):
        reach, count = between(rows)
        whose = f"hosts of the kind {kind}" if enough else "hosts of all kinds"
        source = f"{'measured' if enough else 'assumed'}: {count} {whose}, {len(rows)} rows by others' figures"
        found.append(Spread(ANOTHER_HOST, up_to, -round(reach, 4), 0.0, round(reach, 4), count, source))
    return found


def prefill_spread(some: Sequence[Off]) -> Spread:
    """What whole prefills of hosts differ by."""
    prefills = [off for off in some if off.kind not in KINDS]
    reach, count = between(prefills)
    source = f"measured: {count} hosts and engines that calibrated nothing, {len(prefills)} prefills"
    return Spread(ANOTHER_HOST, None, -round(reach, 4), 0.0, round(reach, 4), count, source)


def with_hosts(fabrics: Mapping[str, FabricProfile]) -> dict[str, FabricProfile]:
    """The fabric profiles, each with what hosts of its kind differ by among its spreads."""
    some = every_off(fabrics)
    parts = {kind: estimate(kind, some) for kind in KINDS}
    return {name: replace(f, spreads=(*f.spreads, *parts[kind_of(name)])) for name, f in fabrics.items()}
