"""A cluster for people and for scripts: `draw` gives a text tree, `describe` plain JSON-able data."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict

from thinwire.topologies.cluster import Cluster, Link


def describe(cluster: Cluster) -> dict[str, object]:
    """Everything the cluster states, as data `json.dumps` takes; rates in GB/s (1e9 B/s), latencies in us."""
    island_of = {rank: index for index, island in enumerate(cluster.islands) for rank in island}
    return {
        "name": cluster.name,
        "title": cluster.title,
        "fabric": cluster.fabric,
        "gpu": asdict(cluster.gpu),
        "gpus": [{"rank": rank, "node": node, "island": island_of[rank]} for rank, node in enumerate(cluster.gpus)],
        "nodes": [{"name": node, "kind": kind} for node, kind in cluster.kinds.items()],
        "links": [
            {
                "source": link.source,
                "target": link.target,
                "bandwidth_gb_per_s": link.bandwidth_bytes_per_s / 1e9,
                "latency_us": link.latency_s * 1e6,
                "flow_cap_gb_per_s": None if link.flow_cap_bytes_per_s is None else link.flow_cap_bytes_per_s / 1e9,
                "pools": list(link.pools),
            }
            for link in cluster.links
        ],
        "pools_gb_per_s": {pool: capacity / 1e9 for pool, capacity in cluster.pools.items()},
        "islands": [list(island) for island in cluster.islands],
        "hosts": [list(host) for host in cluster.hosts],
        "reducing_switch": cluster.reducing_switch,
        "sources": dict(cluster.sources),
        "assumptions": list(cluster.assumptions),
    }


def draw(cluster: Cluster) -> str:
    """A tree of the wires below each switch or bridge, then the links and pools it leaves out."""
    kinds = cluster.kinds
    rank_of = {node: rank for rank, node in enumerate(cluster.gpus)}
    wires = {
        (link.source, link.target): link
        for link in cluster.links
        if cluster.has_link(link.target, link.source) and _rate(link) == _rate(cluster.link(link.target, link.source))
    }
    degree = {node: sum(node == source for source, _ in wires) for node in kinds}
    drawn: set[str] = set()
    used: set[frozenset[str]] = set()
    lines = [f"{cluster.name}: {cluster.title}"]

    def label(node: str) -> str:
        if node in rank_of:
            return f"{node} (rank {rank_of[node]}, {cluster.gpu.name})"
        if node == cluster.reducing_switch:
            return f"{node} (switch, can reduce)"
        return f"{node} ({kinds[node].replace('_', ' ')})"

    def grow(root: str) -> None:
        """Breadth first below `root`, so every node hangs on its nearest; then print depth first."""
        children: dict[str, list[str]] = {root: []}
        queue = [root]
        drawn.add(root)
        for node in queue:
            if kinds[node] == "gpu" and node != root:
                continue
            for other in sorted((target for source, target in wires if source == node), key=_natural):
                if other not in drawn:
                    drawn.add(other)
                    used.add(frozenset((node, other)))
                    children[node].append(other)
                    children[other] = []
                    queue.append(other)

        def show(node: str, indent: str) -> None:
            for index, child in enumerate(children[node]):
                last = index == len(children[node]) - 1
                rate = _rate(wires[node, child])
                lines.append(f"{indent}{'└─' if last else '├─'} {label(child)}  {rate} each way")
                show(child, indent + ("   " if last else "│  "))

        lines.append(label(root))
        show(root, "")

    # Host bridges stand at the top, then the busiest switches; GPUs only where none joins them (a mesh).
    top = {"host_bridge": 0, "switch": 1}
    for node in sorted(kinds, key=lambda node: (top.get(kinds[node], 2), -degree[node], _natural(node))):
        if node not in drawn:
            grow(node)
    others = {f"{a} <-> {b}": link for (a, b), link in wires.items() if a < b and frozenset((a, b)) not in used}
    one_way = {link.name: link for link in cluster.links if (link.source, link.target) not in wires}
    lines += _grouped("also", others) + _grouped("one way", one_way)
    shared: dict[str, list[str]] = {}
    for pool in cluster.pools:
        shared.setdefault(_gb(cluster.pools[pool]), []).append(pool)
    lines += [f"shared by links, {rate}: {_list(pools)}" for rate, pools in shared.items()]
    lines += [f"island {index}: ranks {_list(map(str, ranks))}" for index, ranks in enumerate(cluster.islands)]
    if len(cluster.hosts) > 1:
        lines += [f"node {index}: ranks {_list(map(str, ranks))}" for index, ranks in enumerate(cluster.hosts)]
    return "\n".join(lines)


def _gb(bytes_per_s: float) -> str:
    return f"{bytes_per_s / 1e9:.4g} GB/s"


def _rate(link: Link) -> str:
    cap = link.flow_cap_bytes_per_s
    return _gb(link.bandwidth_bytes_per_s) + ("" if cap is None else f", at most {_gb(cap)} a flow")


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts gpu10 after gpu2."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _list(names: Iterable[str]) -> str:
    """The names in natural order, the middle of a long list left out."""
    ordered = sorted(names, key=_natural)
    if len(ordered) <= 8:
        return ", ".join(ordered)
    return f"{', '.join(ordered[:3])}, ... {ordered[-1]} ({len(ordered)} in all)"


def _grouped(what: str, links: dict[str, Link]) -> list[str]:
    """One line per rate, the links of that rate on it."""
    by_rate: dict[str, list[str]] = {}
    for name, link in links.items():
        by_rate.setdefault(_rate(link), []).append(name)
    return [f"{what}, {rate}: {_list(names)}" for rate, names in by_rate.items()]
