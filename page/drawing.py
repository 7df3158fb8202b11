"""The machine as points and lines, and how busy each line is over the whole prefill."""

import re
from collections import defaultdict
from collections.abc import Mapping

from thinwire.page.documents import Drawing, Node, Wire
from thinwire.sim.report import Prediction
from thinwire.topologies.cluster import Cluster

MOST_GPUS = 64
MOST_LINKS = 600


def drawing(p: Prediction) -> Drawing:
    """GPUs in use, what joins them, and the bytes of a prefill on each link. Nothing is drawn of a machine that a page
    has no room for.
    """
    cluster, sent = p.cluster, p.traffic.link_bytes
    places = layout(cluster)
    note = "utilisation: bytes of the whole prefill over what the link's busier direction carries in the TTFT"
    links = wires(cluster, sent, p.ttft_s)
    if len(cluster.gpus) > MOST_GPUS or len(links) > MOST_LINKS:
        return {
            "width": 1.0, "height": 1.0, "nodes": [], "links": [], "pools": pools(cluster, sent, p.ttft_s),
            "note": f"a drawing has room for {MOST_GPUS} GPUs and {MOST_LINKS} links: there are {len(cluster.gpus)} "
            f"and {len(links)}",
        }  # fmt: skip
    rank = {node: number for number, node in enumerate(cluster.gpus)}
    kinds = {whole(node): kind for node, kind in cluster.kinds.items()}
    nodes = [Node(name=name, kind=kinds[name], x=x, y=y, rank=rank.get(name)) for name, (x, y) in places.items()]
    return {
        "width": max((x for x, _ in places.values()), default=0.0) + 0.5,
        "height": max((y for _, y in places.values()), default=0.0) + 0.5,
        "nodes": nodes,
        "links": [wire for wire in links if wire["source"] in places and wire["target"] in places],
        "pools": pools(cluster, sent, p.ttft_s),
        "note": note,
    }


def whole(node: str) -> str:
    """A switch that is split into halves, up and down, is drawn as one."""
    return node.removesuffix(".up").removesuffix(".down")


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts gpu10 after gpu2."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def wires(cluster: Cluster, sent: Mapping[tuple[str, str], float], ttft_s: float) -> list[Wire]:
    """Links, both directions as one; between GPUs that are not in use none."""
    used = set(cluster.gpus)
    both: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for link in cluster.links:
        ends = whole(link.source), whole(link.target)
        gone = any(cluster.kinds[end] == "gpu" and end not in used for end in (link.source, link.target))
        if gone or ends[0] == ends[1]:
            continue
        low, high = sorted(ends, key=natural)
        both[low, high].append((link.bandwidth_bytes_per_s, sent.get((link.source, link.target), 0.0)))
    return [
        Wire(
            source=source,
            target=target,
            gb_per_s=max(rate for rate, _ in found) / 1e9,
            mb=sum(nbytes for _, nbytes in found) / 1e6,
            utilisation=min(1.0, max(nbytes / rate for rate, nbytes in found) / ttft_s),
        )
        for (source, target), found in both.items()
    ]


def pools(cluster: Cluster, sent: Mapping[tuple[str, str], float], ttft_s: float) -> list[Wire]:
    """Capacities that links share; those that nothing used are left out."""
    nbytes: dict[str, float] = defaultdict(float)
    for link in cluster.links:
        for pool in link.pools:
            nbytes[pool] += sent.get((link.source, link.target), 0.0)
    return [
        Wire(
            source=pool, target="", gb_per_s=capacity / 1e9, mb=nbytes[pool] / 1e6,
            utilisation=min(1.0, nbytes[pool] / capacity / ttft_s),
        )
        for pool, capacity in cluster.pools.items()
        if nbytes[pool]
    ]  # fmt: skip


def layout(cluster: Cluster) -> dict[str, tuple[float, float]]:
    """A place for each node: GPUs in a row in the order of ranks, what is between GPUs and hosts above them, NICs and
    the network below; one unit apart at least.
    """
    used = set(cluster.gpus)
    near: dict[str, set[str]] = defaultdict(set)
    for link in cluster.links:
        a, b = whole(link.source), whole(link.target)
        if a != b:
            near[a].add(b)
            near[b].add(a)
    kinds = {whole(node): kind for node, kind in cluster.kinds.items()}
    at = {gpu: number + 0.5 for number, gpu in enumerate(cluster.gpus)}
    level = dict.fromkeys(cluster.gpus, 0)
    queue = list(cluster.gpus)
    for node in queue:  # breadth first: how far each is from the nearest GPU in use
        for other in sorted(near[node], key=natural):
            if other not in level and not (kinds[other] == "gpu" and other not in used):
                level[other] = level[node] + 1
                queue.append(other)
    below: dict[str, bool] = {}
    for node in queue:
        if node not in used:
            mine = [other for other in near[node] if level.get(other, 1 << 20) < level[node]]
            at[node] = sum(at[other] for other in mine) / len(mine)
            below[node] = kinds[node] == "nic" or any(below.get(other, False) for other in mine)
    rows: dict[int, list[str]] = defaultdict(list)
    for node in level:
        rows[level[node] if below.get(node) else -level[node]].append(node)
    places, top = {}, -min(rows, default=0)
    for number, names in rows.items():
        names.sort(key=lambda name: (at[name], natural(name)))
        for name, x in zip(names, _apart([at[name] for name in names], len(cluster.gpus)), strict=True):
            places[name] = (x, number + top + 0.5)
    return places


def _apart(wanted: list[float], width: int) -> list[float]:
    """Places in order, a unit apart where there is room, each run centred on where it would be."""
    if len(wanted) > width:
        return [(i + 0.5) * width / len(wanted) for i in range(len(wanted))]
    found: list[list[float]] = []  # runs: [centre, members]
    for x in wanted:
        found.append([x, 1.0])
        while len(found) > 1 and found[-2][0] + found[-2][1] / 2 > found[-1][0] - found[-1][1] / 2:
            (a, m), (b, n) = found[-2:]
            found[-2:] = [[(a * m + b * n) / (m + n), m + n]]
        centre, members = found[-1]
        found[-1][0] = min(max(centre, members / 2), width - members / 2)
    return [centre - members / 2 + 0.5 + i for centre, members in found for i in range(int(members))]
