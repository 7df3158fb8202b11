"""One function per kind of topology. Each returns a `Fabric`, the bare graph a `Cluster` is made of.

Rates come in as `Wire` values (SI units) and are per direction; every physical wire becomes two links.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, permutations
from typing import Literal

from thinwire.edge.limits import GPUS, LINKS
from thinwire.edge.words import shown
from thinwire.topologies.cluster import Cluster, Gpu, Link

Branch = int | Sequence["Branch"]
"""A rank, or a PCIe switch as what hangs below it."""


@dataclass(frozen=True, slots=True)
class Wire:
    """What a link of some kind can do, each way: see `Link` for the three numbers."""

    bandwidth_bytes_per_s: float
    latency_s: float
    flow_cap_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Fabric:
    """Nodes (name -> kind), links, pools and GPUs in rank order.

    `crossbar` is the switch every GPU of a switched node hangs on. `shares_port`: a GPU has one PCIe port for
    its peers and its NIC; false where the NIC has lanes of its own beside NVLink or xGMI.
    """

    kinds: Mapping[str, str]
    links: tuple[Link, ...]
    gpus: tuple[str, ...]
    islands: tuple[tuple[int, ...], ...]
    pools: Mapping[str, float] = field(default_factory=dict)
    reducing_switch: str | None = None
    crossbar: str | None = None
    shares_port: bool = False
    peer_to_peer: bool = True

    def cluster(
        self,
        *,
        name: str,
        title: str,
        gpu: Gpu,
        fabric: str,
        sources: Mapping[str, str] | None = None,
        assumptions: Sequence[str] = (),
    ) -> Cluster:
        """The `Cluster` of this graph; ValueError as `Cluster` raises it."""
        return Cluster(
            name=name,
            title=title,
            gpu=gpu,
            fabric=fabric,
            gpus=self.gpus,
            kinds=self.kinds,
            links=self.links,
            pools=dict(self.pools),
            reducing_switch=self.reducing_switch,
            islands=self.islands,
            sources=dict(sources or {}),
            assumptions=tuple(assumptions),
            peer_to_peer=self.peer_to_peer,
        )


def _at_least(what: str, value: int, least: int = 1) -> None:
    if value < least:
        raise ValueError(f"{what} must be at least {least}: {value}")


def _one_way(source: str, target: str, wire: Wire, pools: Sequence[str] = ()) -> Link:
    rate, cap = wire.bandwidth_bytes_per_s, wire.flow_cap_bytes_per_s
    return Link(source, target, rate, wire.latency_s, cap, tuple(pools))


def _both_ways(a: str, b: str, wire: Wire, pools: Sequence[str] = ()) -> tuple[Link, Link]:
    return _one_way(a, b, wire, pools), _one_way(b, a, wire, pools)


def switched_node(gpus: int, port: Wire, *, reduces: bool, switch: str = "nvswitch") -> Fabric:
    """GPUs on one non-blocking switch; `reduces` says whether it can sum (NVLink SHARP, Hopper and later).

    Invariant: gpus + 1 nodes, 2 * gpus links, every route has two hops, one island.
    """
    GPUS.check("gpus", gpus)
    names = tuple(f"gpu{rank}" for rank in range(gpus))
    return Fabric(
        kinds={**dict.fromkeys(names, "gpu"), switch: "switch"},
        links=tuple(link for name in names for link in _both_ways(name, switch, port)),
        gpus=names,
        islands=(tuple(range(gpus)),),
        reducing_switch=switch if reduces else None,
        crossbar=switch,
    )


def full_mesh(gpus: int, link: Wire) -> Fabric:
    """A wire between every two GPUs (AMD's xGMI).

    Invariant: gpus nodes, gpus * (gpus - 1) links, every route has one hop, one island.
    """
    GPUS.check("gpus", gpus)
    LINKS.check("links", gpus * (gpus - 1))
    names = tuple(f"gpu{rank}" for rank in range(gpus))
    return Fabric(
        kinds=dict.fromkeys(names, "gpu"),
        links=tuple(_one_way(a, b, link) for a, b in permutations(names, 2)),
        gpus=names,
        islands=(tuple(range(gpus)),),
    )


def pcie_tree(
    islands: Sequence[int],
    gpu_link: Wire,
    *,
    socket_link: Wire | None = None,
    gpus_per_switch: int | None = None,
    switch_link: Wire | None = None,
    gpu_duplex_bytes_per_s: float | None = None,
    bridge_bytes_per_s: float | None = None,
    socket_both_ways_bytes_per_s: float | None = None,
    peer_to_peer: bool = True,
    host_memory_bytes_per_s: float | None = None,
) -> Fabric:
    """`islands[i]` GPUs under host bridge i (a socket or NUMA domain), bridges joined pairwise.

    With `gpus_per_switch`, PCIe switches of that many GPUs hang below the bridge on `switch_link`. Pools:
    `gpuN.duplex` bounds what a GPU sends plus what it receives, `bridgeN` all that passes a host bridge,
    `socketA-B` both directions of a socket link, `bridgeN.memory` what an island's GPUs bounce through host
    memory. Without `peer_to_peer` every transfer climbs to its host bridge: a switch is split into an upward
    and a downward node, so that it turns no traffic round.

    Invariant, with G = sum(islands), B = len(islands) and S switches in all (0 without `gpus_per_switch`):
    G + B + S nodes (G + B + 2 S without peer-to-peer), 2 G + 2 S + B (B - 1) links; ranks in island order.
    """
    for size in islands:
        _at_least("every island's GPUs", size)
    GPUS.check("GPUs", sum(islands) if islands else 1)
    if gpus_per_switch is not None:
        _at_least("gpus_per_switch", gpus_per_switch)
    if (gpus_per_switch is None) != (switch_link is None):
        raise ValueError("gpus_per_switch and switch_link come together: one of them is missing")
    domains: list[list[Branch]] = []
    ranks = iter(range(sum(islands)))
    for size in islands:
        inside = [next(ranks) for _ in range(size)]
        step = gpus_per_switch or 1
        groups = [inside[at : at + step] for at in range(0, size, step)]
        domains.append([*groups] if gpus_per_switch is not None else [*inside])
    return host_tree(
        domains,
        gpu_link,
        socket_link=socket_link,
        switch_link=switch_link,
        gpu_duplex_bytes_per_s=gpu_duplex_bytes_per_s,
        bridge_bytes_per_s=bridge_bytes_per_s,
        socket_both_ways_bytes_per_s=socket_both_ways_bytes_per_s,
        peer_to_peer=peer_to_peer,
        host_memory_bytes_per_s=host_memory_bytes_per_s,
    )


def host_tree(
    domains: Sequence[Sequence[Branch]],
    gpu_link: Wire,
    *,
    socket_link: Wire | None = None,
    switch_link: Wire | None = None,
    gpu_duplex_bytes_per_s: float | None = None,
    bridge_bytes_per_s: float | None = None,
    socket_both_ways_bytes_per_s: float | None = None,
    peer_to_peer: bool = True,
    host_memory_bytes_per_s: float | None = None,
) -> Fabric:
    """`pcie_tree` for trees of any shape: `domains[i]` is what hangs on host bridge i, a rank or a switch of such.

    Ranks are 0, 1, ... in any order. Nodes, links and pools as `pcie_tree` says; a switch below a switch hangs on it
    by a `switch_link` as well.
    """
    ranked = sorted(rank for items in domains for rank in _ranks(items))
    if ranked != list(range(len(ranked))):
        raise ValueError(f"the ranks of a tree are 0, 1, ..., each once: {shown(ranked)}")
    _at_least("number of islands", len(domains))
    GPUS.check("GPUs", len(ranked))
    LINKS.check("links", len(domains) * (len(domains) - 1))
    if len(domains) > 1 and socket_link is None:
        sizes = [len(list(_ranks(items))) for items in domains]
        raise ValueError(f"several islands need a socket_link: islands={sizes}")
    if peer_to_peer and host_memory_bytes_per_s is not None:
        raise ValueError("host_memory is for GPUs without peer-to-peer: peer_to_peer=true")

    kinds: dict[str, str] = {}
    links: list[Link] = []
    pools: dict[str, float] = {}
    switches = 0

    def hang(items: Sequence[Branch], up: str, down: str, inward: Sequence[str], written: Sequence[str]) -> None:
        """GPUs and switches below `up` and `down`, one node or the two halves of a switch that turns nothing round.

        inward: pools of what enters the bridge, for links that lead into it. written: of what is bounced.
        """
        nonlocal switches
        for item in items:
            if isinstance(item, int):
                gpu = f"gpu{item}"
                kinds[gpu] = "gpu"
                duplex = []
                if gpu_duplex_bytes_per_s is not None:
                    pools[f"{gpu}.duplex"] = gpu_duplex_bytes_per_s
                    duplex.append(f"{gpu}.duplex")
                links.append(_one_way(gpu, up, gpu_link, [*duplex, *written, *inward]))
                links.append(_one_way(down, gpu, gpu_link, duplex))
                continue
            if switch_link is None:
                raise ValueError("a switch needs a switch_link: it is missing")
            upper = lower = f"pcie{switches}"
            if not peer_to_peer:
                upper, lower = f"pcie{switches}.up", f"pcie{switches}.down"
            switches += 1
            kinds[upper] = kinds[lower] = "switch"
            links.append(_one_way(upper, up, switch_link, inward))
            links.append(_one_way(down, lower, switch_link))
            hang(item, upper, lower, (), written)

    for number, items in enumerate(domains):
        bridge = f"bridge{number}"
        kinds[bridge] = "host_bridge"
        # A flow enters each bridge of its route exactly once: links into the bridge carry its pools.
        inward: list[str] = []
        if bridge_bytes_per_s is not None:
            pools[bridge] = bridge_bytes_per_s
            inward.append(bridge)
        written: list[str] = []
        if host_memory_bytes_per_s is not None:
            pools[f"{bridge}.memory"] = host_memory_bytes_per_s
            written.append(f"{bridge}.memory")
        hang(items, bridge, bridge, inward, written)
    for a, b in combinations(range(len(domains)), 2):
        assert socket_link is not None
        shared = []
        if socket_both_ways_bytes_per_s is not None:
            pools[f"socket{a}-{b}"] = socket_both_ways_bytes_per_s
            shared.append(f"socket{a}-{b}")
        for source, target in ((a, b), (b, a)):
            inward = [f"bridge{target}"] if bridge_bytes_per_s is not None else []
            links.append(_one_way(f"bridge{source}", f"bridge{target}", socket_link, [*shared, *inward]))
    gpus = tuple(f"gpu{rank}" for rank in ranked)
    members = tuple(tuple(sorted(_ranks(items))) for items in domains)
    return Fabric(kinds, tuple(links), gpus, members, pools, shares_port=True, peer_to_peer=peer_to_peer)


def _ranks(items: Sequence[Branch]) -> Iterator[int]:
    for item in items:
        yield from (item,) if isinstance(item, int) else _ranks(item)


def _with_ports(node: Fabric) -> Fabric:
    """`node` with a pool per GPU for what enters its port and one for what leaves it, as wide as the port."""
    pools = dict(node.pools)
    links = []
    for link in node.links:
        for gpu, end in ((link.source, "out"), (link.target, "in")):
            if node.kinds[gpu] == "gpu":
                pools[f"{gpu}.{end}"] = link.bandwidth_bytes_per_s
                link = replace(link, pools=(*link.pools, f"{gpu}.{end}"))
        links.append(link)
    return replace(node, links=tuple(links), pools=pools)


def _nodes_with_nics(
    node: Fabric, nodes: int, nic_link: Wire, gpus_per_nic: int, through_crossbar: bool
) -> tuple[Fabric, list[list[str]]]:
    """`nodes` copies of `node` side by side, NICs attached to their GPUs; and each copy's NICs in order.

    `through_crossbar` adds links from the crossbar to the NICs: a sender reaches a NIC beside another GPU by
    way of that GPU (NCCL's PXN), so such a link loads that GPU's NVLink input and its lane to the NIC.
    """
    _at_least("nodes", nodes)
    _at_least("gpus_per_nic", gpus_per_nic)
    if len(node.gpus) % gpus_per_nic:
        raise ValueError(
            f"gpus_per_nic must divide the node's GPUs: gpus_per_nic={gpus_per_nic}, GPUs={len(node.gpus)}"
        )
    if node.shares_port or through_crossbar:
        node = _with_ports(node)
    kinds: dict[str, str] = {}
    links: list[Link] = []
    pools: dict[str, float] = {}
    nics: list[list[str]] = []
    for index in range(nodes):
        at = f"n{index}."
        kinds |= {at + name: kind for name, kind in node.kinds.items()}
        pools |= {at + name: capacity for name, capacity in node.pools.items()}
        for link in node.links:
            named = tuple(at + pool for pool in link.pools)
            links.append(replace(link, source=at + link.source, target=at + link.target, pools=named))
        nics.append([f"{at}nic{nic}" for nic in range(len(node.gpus) // gpus_per_nic)])
        kinds |= dict.fromkeys(nics[-1], "nic")
        for rank, gpu in enumerate(node.gpus):
            nic = nics[-1][rank // gpus_per_nic]
            outward, inward = [], []
            if node.shares_port:
                both = [f"{at}{gpu}.duplex"] if f"{gpu}.duplex" in node.pools else []
                outward, inward = [f"{at}{gpu}.out", *both], [f"{at}{gpu}.in", *both]
            if through_crossbar:
                pools[f"{at}{gpu}.lane"] = nic_link.bandwidth_bytes_per_s
                outward.append(f"{at}{gpu}.lane")
                if rank % gpus_per_nic == 0:
                    relay = (f"{at}{gpu}.in", f"{at}{gpu}.lane")
                    links.append(_one_way(f"{at}{node.crossbar}", nic, nic_link, relay))
            links.append(_one_way(f"{at}{gpu}", nic, nic_link, outward))
            links.append(_one_way(nic, f"{at}{gpu}", nic_link, inward))
    per_node = len(node.gpus)
    everything = Fabric(
        kinds=kinds,
        links=tuple(links),
        gpus=tuple(f"n{index}.{gpu}" for index in range(nodes) for gpu in node.gpus),
        islands=tuple(tuple(range(index * per_node, (index + 1) * per_node)) for index in range(nodes)),
        pools=pools,
        # The reducing switch of one node cannot sum over another node's GPUs.
        reducing_switch=f"n0.{node.reducing_switch}" if nodes == 1 and node.reducing_switch else None,
        peer_to_peer=node.peer_to_peer,
    )
    return everything, nics


def rail_optimised(
    node: Fabric,
    nodes: int,
    *,
    nic_link: Wire,
    network_link: Wire,
    gpus_per_nic: int = 1,
    cross_rail: Literal["node", "spine"] = "node",
    oversubscription: float = 1.0,
) -> Fabric:
    """Nodes whose k-th NICs meet in rail switch k; each node is an island.

    Traffic between rails goes through the sender's node to the NIC on the receiver's rail
    (`cross_rail="node"`, what NCCL calls PXN; needs a switched node) or over a spine. The spine is one
    ideally balanced node: a rail's wire to it carries nodes * network_link / oversubscription, one flow at
    most network_link.

    Invariant, with N nodes and E links in a node, G GPUs and R = G / gpus_per_nic NICs: nodes * (N + R) + R
    nodes (1 more with a spine) and nodes * (E + 2 G + 2 R) links, to which cross_rail="node" adds nodes * R
    and a spine 2 R.
    """
    if cross_rail == "node" and node.crossbar is None:
        raise ValueError('cross_rail="node" needs a switched node: use cross_rail="spine"')
    fabric, nics = _nodes_with_nics(node, nodes, nic_link, gpus_per_nic, cross_rail == "node")
    kinds = dict(fabric.kinds)
    links = list(fabric.links)
    for rail in range(len(nics[0])):
        kinds[f"rail{rail}"] = "switch"
        for index in range(nodes):
            links += _both_ways(nics[index][rail], f"rail{rail}", network_link)
        if cross_rail == "spine":
            kinds["spine"] = "switch"
            links += _both_ways(f"rail{rail}", "spine", _trunk(network_link, nodes, oversubscription))
    return replace(fabric, kinds=kinds, links=tuple(links))


def fat_tree(
    node: Fabric,
    nodes: int,
    *,
    nodes_per_leaf: int,
    nic_link: Wire,
    network_link: Wire,
    gpus_per_nic: int = 1,
    oversubscription: float = 1.0,
) -> Fabric:
    """Two-level fat tree: all NICs of `nodes_per_leaf` nodes meet in one leaf, leaves meet in the core.

    The core is one ideally balanced node (adaptive routing): a leaf's wire to it carries what its NICs carry
    together, divided by `oversubscription`, one flow at most `network_link`. Each node is an island.

    Invariant, with N nodes and E links in a node, G GPUs, R = G / gpus_per_nic NICs and
    L = ceil(nodes / nodes_per_leaf) leaves: nodes * (N + R) + L nodes and nodes * (E + 2 G + 2 R) links, and
    for L > 1 one node and 2 L links more.
    """
    _at_least("nodes_per_leaf", nodes_per_leaf)
    fabric, nics = _nodes_with_nics(node, nodes, nic_link, gpus_per_nic, through_crossbar=False)
    kinds = dict(fabric.kinds)
    links = list(fabric.links)
    leaves = -(-nodes // nodes_per_leaf)
    for leaf in range(leaves):
        kinds[f"leaf{leaf}"] = "switch"
        for index in range(leaf * nodes_per_leaf, min(nodes, (leaf + 1) * nodes_per_leaf)):
            for nic in nics[index]:
                links += _both_ways(nic, f"leaf{leaf}", network_link)
        if leaves > 1:
            kinds["core"] = "switch"
            trunk = _trunk(network_link, nodes_per_leaf * len(nics[0]), oversubscription)
            links += _both_ways(f"leaf{leaf}", "core", trunk)
    return replace(fabric, kinds=kinds, links=tuple(links))


def _trunk(wire: Wire, wires: int, oversubscription: float) -> Wire:
    """A bundle of `wires` wires as one: their bandwidth together, one flow on one of them."""
    if not oversubscription >= 1:
        raise ValueError(f"oversubscription must be at least 1 (1 is non-blocking): {oversubscription}")
    one_flow = wire.bandwidth_bytes_per_s
    if wire.flow_cap_bytes_per_s is not None:
        one_flow = min(one_flow, wire.flow_cap_bytes_per_s)
    return Wire(wire.bandwidth_bytes_per_s * wires / oversubscription, wire.latency_s, one_flow)
