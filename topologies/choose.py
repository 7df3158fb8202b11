"""Which GPUs of a machine a group of ranks takes: the first ones, those listed, or as many of each of several hosts.

GPUs are counted from 0 in the machine's rank order, the numbers that `thinwire cluster show` draws; an order given is
the order of the ranks. A *host* (`--nodes`) is what `Cluster.hosts` says: GPUs that reach each other without a NIC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import TYPE_CHECKING

from thinwire.edge.limits import GPUS
from thinwire.edge.words import cut, shown

if TYPE_CHECKING:
    from thinwire.topologies.cluster import Cluster

_PART = re.compile(r"(?P<first>[0-9]{1,6})(-(?P<last>[0-9]{1,6}))?", re.ASCII)
_FORM = "gpus lists each GPU once, by number, such as 0,1,6,7 or 0-3"


def numbers(gpus: str | Iterable[int]) -> tuple[int, ...]:
    """GPUs as written (`0,1,6,7`, `0-3,6`) or as a sequence of numbers, in the order given.

    Raises:
        ValueError: no list of numbers from 0 on, a range that counts down, a GPU named twice, none or too many.
    """
    try:
        found = _written(gpus) if isinstance(gpus, str) else tuple(gpus)
    except TypeError:
        raise ValueError(f"{_FORM}: gpus={shown(gpus)}") from None
    if not found or not all(map(_whole, found)):
        raise ValueError(f"{_FORM}: gpus={shown(gpus)}")
    GPUS.check("the count of gpus", len(found))
    plain = tuple(map(int, found))
    if min(plain) < 0 or len(set(plain)) < len(plain):
        raise ValueError(f"{_FORM}: gpus={shown(gpus)}")
    return plain


def _whole(value: object) -> bool:
    """Numpy's whole numbers are some, too."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _written(text: str) -> tuple[int, ...]:
    found: list[int] = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{_FORM}: gpus={shown(text)}")
        first, last = int(match["first"]), int(match["last"] or match["first"])
        if last < first:
            raise ValueError(f"a range of gpus counts up, as 0-3: {shown(part.strip())}")
        GPUS.check("the count of gpus", len(found) + last - first + 1)
        found += range(first, last + 1)
    return tuple(found)


def text_of(gpus: Sequence[int]) -> str:
    """GPUs as `numbers` reads them again: three neighbours or more as a range."""
    parts, at = [], 0
    while at < len(gpus):
        end = at + 1
        while end < len(gpus) and gpus[end] == gpus[end - 1] + 1:
            end += 1
        parts += [f"{gpus[at]}-{gpus[end - 1]}"] if end - at > 2 else [str(each) for each in gpus[at:end]]
        at = end
    return ",".join(parts)


def named(gpus: Sequence[int]) -> str:
    """`GPUs 0,1,6,7` of a group's numbers by rank where they are not the first ones in order, else nothing."""
    return "" if list(gpus) == list(range(len(gpus))) else f"GPU{'s' if len(gpus) > 1 else ''} {text_of(gpus)}"


def choose(
    machine: Cluster, tp: int | None = None, gpus: str | Sequence[int] | None = None, nodes: int | None = None
) -> Cluster:
    """The GPUs that a group of ranks takes, as a cluster of their own on the whole graph.

    Args:
        tp: how many: the first ones, of the machine or of each of `nodes` hosts.
        gpus: which ones, in the order of their ranks.
        nodes: of how many hosts, the first ones: tp / nodes of each, all of them without tp.

    Raises:
        ValueError: more than there are, ranks that do not divide over the hosts; with `gpus`, another tp or number of
            hosts than they are.
    """
    for name, value in (("tp", tp), ("nodes", nodes)):
        if value is not None and not _whole(value):
            raise ValueError(f"{name} must be a whole number: {name}={shown(value)}")
    if gpus is not None:
        return _listed(machine, tp, gpus, nodes)
    if tp is not None and not 1 <= tp <= len(machine.gpus):
        raise ValueError(f"tp must lie in 1..{len(machine.gpus)}, the GPUs of {machine.name}: tp={tp}")
    if nodes is None:
        return machine if tp is None else machine.take(tp)
    hosts = machine.hosts
    if not 1 <= nodes <= len(hosts):
        raise ValueError(f"nodes must lie in 1..{len(hosts)}, the nodes of {machine.name}: nodes={nodes}")
    if tp is not None and tp % nodes:
        raise ValueError(f"nodes must divide tp, each takes as many GPUs: tp={tp}, nodes={nodes}")
    each = None if tp is None else tp // nodes
    least = min(map(len, hosts[:nodes]))
    if each is not None and each > least:
        raise ValueError(f"tp={tp} takes {each} GPUs of each of {nodes} nodes, and one of {machine.name} has {least}")
    return _taken(machine, [rank for host in hosts[:nodes] for rank in host[:each]])


def _listed(machine: Cluster, tp: int | None, gpus: str | Sequence[int], nodes: int | None) -> Cluster:
    rank_of = {index: rank for rank, index in enumerate(machine.indices)}
    wanted = numbers(gpus)
    for index in wanted:
        if index not in rank_of:
            known = text_of(machine.indices)
            raise ValueError(f"no GPU {index} on {machine.name}, it has {cut(known)}: gpus={cut(text_of(wanted))}")
    if tp is not None and tp != len(wanted):
        raise ValueError(f"gpus names {len(wanted)} GPUs, tp says {tp}: gpus={cut(text_of(wanted))}, tp={tp}")
    found = _taken(machine, [rank_of[index] for index in wanted])
    if nodes is not None and nodes != len(found.hosts):
        have = len(found.hosts)
        raise ValueError(f"gpus lie on {have} nodes, nodes says {nodes}: gpus={cut(text_of(wanted))}, nodes={nodes}")
    return replace(found, assumptions=(*found.assumptions, WANDERING)) if _wanders(found) else found


SCATTERED = (
    "routes, links and islands are those of the GPUs taken; launches, hops and efficiencies are those of as many ranks "
    "where they were measured, which lie otherwise over islands"
)
WANDERING = (
    "rings go round the ranks in the order that gpus were given in, which leaves an island more often than need be; a "
    "library that looks at the machine orders its ring by it: name the GPUs of an island side by side"
)


def _wanders(cluster: Cluster) -> bool:
    """Whether a ring in rank order comes back to an island that it had left."""
    island_of = {rank: place for place, ranks in enumerate(cluster.islands) for rank in ranks}
    ranks = len(cluster.gpus)
    return sum(island_of[rank] != island_of[(rank + 1) % ranks] for rank in range(ranks)) > len(cluster.islands)


def _taken(machine: Cluster, ranks: Sequence[int]) -> Cluster:
    first = machine.take(len(ranks))
    if list(ranks) == list(range(len(ranks))):
        return first
    found = machine.reorder(ranks)
    alike = sorted(map(len, found.islands)) == sorted(map(len, first.islands))
    return found if alike else replace(found, assumptions=(*found.assumptions, SCATTERED))
