"""A host's PCIe tree without what makes no difference: GPUs, and the switches whose uplink several of them share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from thinwire.topologies.dumps.seen import Pcie
from thinwire.topologies.importing.hardware import reported, wire_bytes_per_s
from thinwire.topologies.importing.merge import Host


@dataclass(frozen=True, slots=True)
class Switch:
    """A PCIe switch with several GPUs below it, and its link towards the host bridge."""

    below: tuple[Item, ...]
    uplink: Pcie


Item = int | Switch


@dataclass(frozen=True, slots=True)
class Tree:
    """NUMA domains by their first GPU, each with what hangs on its host bridge; and every GPU's own link.

    A GPU's link is the narrowest on its way to the first node that it shares with another GPU.
    """

    names: tuple[str, ...]
    domains: tuple[tuple[Item, ...], ...]
    links: Mapping[int, Pcie]

    @property
    def ranks(self) -> list[int]:
        """GPUs in the order of the tree."""
        return [gpu for items in self.domains for gpu in leaves(items)]

    @property
    def switches(self) -> list[Switch]:
        """All of them, an outer one before those below it."""
        return [each for items in self.domains for each in _switches(items)]


def leaves(items: Sequence[Item]) -> Iterator[int]:
    """The GPUs below, in order."""
    for item in items:
        yield from leaves(item.below) if isinstance(item, Switch) else (item,)


def _switches(items: Sequence[Item]) -> Iterator[Switch]:
    for item in items:
        if isinstance(item, Switch):
            yield item
            yield from _switches(item.below)


def tree(host: Host) -> Tree:
    """The tree of a host's GPUs."""
    by_domain: dict[str, list[int]] = {}
    for i, gpu in enumerate(host.gpus):
        by_domain.setdefault(gpu.domain or "", []).append(i)
    links = {i: gpu.link for i, gpu in enumerate(host.gpus)}
    domains = tuple(tuple(_items(host, members, 0, links)) for members in by_domain.values())
    return Tree(tuple(by_domain), domains, links)


def _items(host: Host, members: Sequence[int], depth: int, links: dict[int, Pcie]) -> Iterator[Item]:
    groups: dict[str | int, list[int]] = {}
    for i in members:
        way = host.gpus[i].way
        groups.setdefault(way[depth] if depth < len(way) else i, []).append(i)
    for name, group in groups.items():
        if isinstance(name, int):
            yield name
            continue
        below = tuple(_items(host, group, depth + 1, links))
        uplink = host.uplinks.get(name, Pcie())
        if len(group) == 1:
            links[group[0]] = narrower(links[group[0]], uplink)
            yield from below
        elif len(below) == 1 and isinstance(below[0], Switch):  # ports of one switch, printed as two
            yield Switch(below[0].below, narrower(below[0].uplink, uplink))
        else:
            yield Switch(below, uplink)


def narrower(a: Pcie, b: Pcie) -> Pcie:
    """The link that carries less; the one that is known where the other is not."""
    one, two = reported(a), reported(b)
    if one is None or two is None:
        return a if two is None else b
    return a if wire_bytes_per_s(*one) <= wire_bytes_per_s(*two) else b
