"""Which algorithm a library's traffic is modelled as, told from the group's own links: for catalog machines and others.

Nothing here goes by a machine's name, so a machine that nobody has listed is answered as its like is.
"""

from dataclasses import dataclass
from itertools import permutations

import networkx as nx

from thinwire.reference.core.schedule import Op
from thinwire.reference.core.scheme import Collective
from thinwire.topologies.cluster import Cluster

# NCCL runs at least two channels side by side on PCIe rings (NCCL_MIN_NCHANNELS and its logs: "2 coll channels"), so a
# cap on one flow does not hold for a whole hop: on the 8x L40S host NCCL's ring of 8 is as fast as one memcpy flow
# allows although it loses a fifth of the link inside one island, where no cap acts.
PCIE_CHANNELS = 2

# Across nodes NCCL pipelines a message through its stages inside one call; eight pieces come within 1/8 of a perfect
# pipeline.
NODE_CHUNKS = 8


@dataclass(frozen=True, slots=True)
class Way:
    """How a library carries an op: the traffic's algorithm, connections between two ranks, pieces in the pipeline."""

    collective: Collective
    channels: int = 1
    chunks: int = 1


def nodes_of(cluster: Cluster) -> tuple[tuple[int, ...], ...]:
    """The ranks of each machine: what reaches each other without a NIC."""
    inside = nx.Graph()
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
    tree = nx.Graph()
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


def way(cluster: Cluster, library: str, op: Op) -> Way:
    """The algorithm whose traffic the library's is modelled as, on exactly the group's GPUs.

    In-switch reduction where the switch has it and more than two ranks take part; direct exchange between ranks where
    each pair has its own path (the engines' own kernels and all of NVLink for all-gather and reduce-scatter, xGMI); by
    island across nodes, where every NIC carries its GPU's share; rings elsewhere.
    """
    nodes = nodes_of(cluster)
    if len(nodes) > 1:
        chunks = NODE_CHUNKS
        if op == "all_to_all":
            return Way("two_step", chunks=chunks)
        return Way("hierarchical", chunks=chunks) if len(nodes) < len(cluster.gpus) else Way("ring", chunks=chunks)
    pcie = over_pcie(cluster)
    channels = PCIE_CHANNELS if pcie else 1
    if op == "all_to_all" or meshed(cluster):
        return Way("two_step", channels)
    if op == "all_reduce":
        if cluster.reducing_switch is not None and len(cluster.gpus) > 2:
            return Way("nvls", channels)
        return Way("two_step" if library.startswith("engine") and not pcie else "ring", channels)
    return Way("ring" if pcie else "two_step", channels)
