"""What a machine's graph says of its kind: which GPUs share a node, and whether their traffic goes over PCIe."""

from itertools import permutations

import networkx as nx

from thinwire.topologies.cluster import Cluster


def nodes_of(cluster: Cluster) -> tuple[tuple[int, ...], ...]:
    """The ranks of each machine: what reaches each other without a NIC."""
    inside: nx.Graph[str] = nx.Graph()
    inside.add_nodes_from(node for node, kind in cluster.kinds.items() if kind != "nic")
    inside.add_edges_from(
        (link.source, link.target)
        for link in cluster.links
        if "nic" not in (cluster.kinds[link.source], cluster.kinds[link.target])
    )
    rank = {gpu: number for number, gpu in enumerate(cluster.gpus)}
    found = (tuple(sorted(rank[node] for node in part if node in rank)) for part in nx.connected_components(inside))
    return tuple(sorted(node for node in found if node))


def over_pcie(cluster: Cluster) -> bool:
    """Whether some traffic between its ranks passes a host bridge, or a switch below one."""
    tree: nx.Graph[str] = nx.Graph()
    tree.add_nodes_from(node for node, kind in cluster.kinds.items() if kind in ("host_bridge", "switch"))
    tree.add_edges_from((link.source, link.target) for link in cluster.links if {link.source, link.target} <= {*tree})
    pcie = {
        node
        for part in nx.connected_components(tree)
        if any(cluster.kinds[node] == "host_bridge" for node in part)
        for node in part
    }
    pairs = permutations(range(len(cluster.gpus)), 2)
    return any(link.target in pcie for pair in pairs for link in cluster.route(*pair)[:-1])


def meshed(cluster: Cluster) -> bool:
    """Whether every two of its ranks have a link of their own."""
    return all(len(cluster.route(a, b)) == 1 for a, b in permutations(range(len(cluster.gpus)), 2))
