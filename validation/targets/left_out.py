"""Hosts left out whole: each measured host by the figures of others of its kind, with intervals that never saw it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from thinwire.sim.costs.profile import FabricProfile, GpuProfile
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.costs.spread import Spread, another_host, sum_interval
from thinwire.topologies.load import cluster_names, load_cluster
from thinwire.validation.hosts import ceilings, measured
from thinwire.validation.hosts.between import FEWEST_HOSTS, Off, estimate, every_off, prefill_spread
from thinwire.validation.targets.fabric import regime, size
from thinwire.validation.targets.targets import Entry, Limits, Point, Section

LIMITS = Limits(inside=0.85)


@dataclass(frozen=True, slots=True)
class Judged:
    """A row with its interval, and the interval that rows of the very host measured alone would give."""

    off: Off
    interval: tuple[float, float]
    own: tuple[float, float]

    @property
    def share(self) -> float:
        """Of the width: what another host adds."""
        return 1 - (self.own[1] - self.own[0]) / (self.interval[1] - self.interval[0])


def shipped() -> tuple[dict[str, GpuProfile], dict[str, FabricProfile]]:
    """The shipped profiles of every catalog machine, GPUs and fabrics by name."""
    gpus, fabrics = dict[str, GpuProfile](), dict[str, FabricProfile]()
    for name in cluster_names():
        cluster = load_cluster(name)
        profile = load_profile(cluster)
        gpus[profile.gpu.name], fabrics[profile.fabric.name] = profile.gpu, profile.fabric
    return gpus, fabrics


def judged(some: Sequence[Off], kind: str) -> list[Judged]:
    """Every row of a kind, each host's by spreads from the other hosts alone."""
    found = []
    for host in dict.fromkeys(off.host for off in some if off.kind == kind):
        rest = [off for off in some if off.host != host]
        spreads = [prefill_spread(rest)] if kind == ceilings.KIND else estimate(kind, rest)
        found += [judge(off, spreads) for off in some if off.host == host]
    return found


def judge(off: Off, spreads: Sequence[Spread]) -> Judged:
    """One row."""
    more = another_host(spreads, off.nbytes)
    terms = [(off.predicted_s, off.own)]
    own = sum_interval(off.predicted_s, terms)
    return Judged(off, sum_interval(off.predicted_s, [*terms, (off.predicted_s, more)] if more else terms), own)


def point(row: Judged) -> Point:
    """For the report."""
    off = row.off
    label = f"{off.host}, {off.what}, {size(off.nbytes)} ({off.row})"
    detail = f"by the figures of {off.fabric}; another host is {row.share:.0%} of the width"
    where = off.kind, "all" if off.kind == ceilings.KIND else regime(off.nbytes)
    return Point(*where, label, off.seconds, off.predicted_s, detail, row.interval)


def inside(rows: Iterable[Judged], own: bool) -> float:
    """Share of the rows that their interval holds, or the one of the very host measured."""
    held = [low <= row.off.seconds <= high for row in rows for low, high in [row.own if own else row.interval]]
    return float(np.mean(held))


def cells(kind: str, rows: Sequence[Judged]) -> tuple[str, ...]:
    """One kind in a row of docs/trust.md: hosts, rows, inside, the same without the part between hosts, its share of
    the width.
    """
    share = float(np.mean([row.share for row in rows]))
    hosts = len({row.off.host for row in rows})
    return kind, str(hosts), str(len(rows)), f"{inside(rows, False):.0%}", f"{inside(rows, True):.0%}", f"{share:.0%}"


def told(kind: str, rows: Sequence[Judged]) -> str:
    """One kind in a sentence."""
    _, count, _, held, before, share = cells(kind, rows)
    by_host: dict[str, list[Judged]] = {}
    for row in rows:
        by_host.setdefault(row.off.host, []).append(row)
    worst = min(by_host, key=lambda host: inside(by_host[host], False))
    return (
        f"{kind}: {held} of {len(rows)} rows of {count} {'host' if count == '1' else 'hosts'} inside, "
        f"{before} without the part between hosts, which is {share} of the width; worst "
        f"{worst} with {inside(by_host[worst], False):.0%} of {len(by_host[worst])}."
    )


@cache
def kinds_judged() -> dict[str, list[Judged]]:
    """Every kind of host, and whole prefills, by the shipped profiles."""
    gpus, fabrics = shipped()
    some = [*every_off(fabrics), *ceilings.prefills(gpus, fabrics)]
    return {kind: judged(some, kind) for kind in (*measured.KINDS, ceilings.KIND)}


def hosts_left_out() -> Section:
    """Every kind of host, and whole prefills."""
    kinds = kinds_judged()
    entries = [
        Entry(f"hosts.{kind.replace(' ', '-')}", kind, "host left out whole", tuple(map(point, rows)), LIMITS)
        for kind, rows in kinds.items()
    ]
    lines = "\n\n".join(told(kind, rows) for kind, rows in kinds.items())
    hosts = measured.hosts()
    outliers = sum(host.outliers for host in hosts)
    return Section(
        "hosts",
        "Hosts left out",
        "intervals hold at least 85 % of the rows of hosts left out whole, of each kind",
        f"""
        Each host is predicted by the figures that a user with such a host would be answered with: the nearest fabric
        of its kind that others gave, on its own links (catalog machines, and files in validation/published/). Hosts
        that calibrate a fabric are predicted by another one. An interval's part between hosts is estimated from the
        other hosts (docs/decisions/028-hosts.md): of the same kind, or of all where fewer than {FEWEST_HOSTS} are
        left. Rows below 1 KiB are left out, and {outliers} that take more than twice as long as a larger message.

        {lines}

        Intervals of rows left out of the host that was measured stand in the sections before: those have no part
        between hosts.
        """,
        tuple(entries),
        tuple(f"{said}." for said in (*measured.LEFT_OUT, *ceilings.LEFT_OUT)),
    )
