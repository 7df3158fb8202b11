"""A tree that no generator draws, spelled out: `generators.host_tree` makes the graph, here its numbers get sources."""

from __future__ import annotations

from typing import Any

from thinwire.topologies.generators import Branch, Wire, host_tree
from thinwire.topologies.importing.merge import Host
from thinwire.topologies.importing.pcie import Pci
from thinwire.topologies.importing.tree import Item, Switch, Tree
from thinwire.topologies.importing.written import Quantity, gb, us

_BONDED = us(0.5, "assumed: one hop without a switch; the measured floor of a step is the fabric profile's")


def explicit(host: Host, shape: Tree, costs: Pci, works: bool, each: Quantity | None) -> dict[str, Any]:
    """The table of a topology of kind explicit. each: one NVLink or xGMI link, where some pairs have them."""
    marker = Wire(1e9, 1e-6)
    graph = host_tree(
        [[_branch(item) for item in items] for items in shape.domains], marker, socket_link=marker, switch_link=marker,
        gpu_duplex_bytes_per_s=1e9, peer_to_peer=works,
        host_memory_bytes_per_s=None if costs.host_memory is None else 1e9,
    )  # fmt: skip
    ranks = {name: rank for rank, name in enumerate(graph.gpus)}
    switches = {f"pcie{number}": each.uplink for number, each in enumerate(shape.switches)}
    ends = {(link.source, link.target): link for link in graph.links}
    links: list[dict[str, Any]] = []
    done: set[tuple[str, str]] = set()
    for (source, target), link in ends.items():
        if (source, target) in done:
            continue
        back = ends.get((target, source))
        both = back is not None and back.pools == link.pools
        done |= {(source, target), *([(target, source)] if both else [])}
        gpu = ranks.get(source, ranks.get(target))
        below = source if source.startswith("pcie") else target
        if gpu is not None:
            wire = costs.gpu_link(gpu)
        elif below.startswith("pcie"):
            # Of two switches the inner one, which was numbered later, is the one whose uplink this is.
            inner = max((end for end in (source, target) if end.startswith("pcie")), key=_number)
            wire = costs.switch_link(switches[inner.partition(".")[0]])
        else:
            wire = dict(costs.socket_link)
        table = {"source": source, "target": target, **wire}
        if link.pools:
            table["pools"] = list(link.pools)
        if not both:
            table["one_way"] = True
        links.append(table)
    for (a, b), count in sorted(host.bonds.items()):
        assert each is not None
        kind, _, where = each.source.partition(": ")
        wires = f"{'NVLink' if host.wire == 'nvlink' else 'xGMI link'}{'' if count == 1 else 's'}"
        rate = gb(each.value * count, f"{kind}: {count} {wires} of {each.value:g} GB/s ({where})")
        links.append({"source": f"gpu{a}", "target": f"gpu{b}", "bandwidth": rate, "latency": _BONDED})
    pools = {
        name: costs.host_memory if name.endswith(".memory") else _duplex(costs, ranks[name.partition(".")[0]])
        for name in graph.pools
    }
    order = [*graph.gpus, *(name for name in graph.kinds if name not in ranks)]
    table = {
        "kind": "explicit",
        "nodes": [{"name": name, "kind": graph.kinds[name]} for name in order],
        "islands": [[graph.gpus[rank] for rank in island] for island in graph.islands],
        "pools": pools,
        "links": links,
    }
    if not works:
        table["peer_to_peer"] = False
    return table


def _branch(item: Item) -> Branch:
    return [_branch(each) for each in item.below] if isinstance(item, Switch) else item


def _number(name: str) -> int:
    return int(name.removeprefix("pcie").partition(".")[0])


def _duplex(costs: Pci, gpu: int) -> Quantity:
    """A GPU's both ways together: like the first one's, in proportion to its link."""
    first = costs.links[min(costs.links)]
    return gb(costs.duplex.value * costs.links[gpu].value / first.value, costs.duplex.source)
