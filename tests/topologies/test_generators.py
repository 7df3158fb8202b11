"""Each generator's invariants: counts of nodes and links, connection, symmetry, and independence of names."""

import random
from dataclasses import replace
from typing import Literal

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.topologies.cluster import Cluster, Gpu
from thinwire.topologies.generators import (
    Fabric,
    Wire,
    fat_tree,
    full_mesh,
    pcie_tree,
    rail_optimised,
    switched_node,
)

GPU = Gpu("any", {"bf16": 1e12}, 1e9, 1e9, 1, None, {})
PORT, SOCKET, UPLINK = Wire(10e9, 1e-6), Wire(8e9, 2e-6, 5e9), Wire(9e9, 3e-7)
NIC, NETWORK = Wire(6e9, 1e-6), Wire(4e9, 2e-6)


def cluster(fabric: Fabric) -> Cluster:
    return fabric.cluster(name="any", title="any", gpu=GPU, fabric="any")


def renamed(fabric: Fabric, names: dict[str, str]) -> Fabric:
    """The same graph under other node names, links in another order."""
    links = [replace(link, source=names[link.source], target=names[link.target]) for link in fabric.links]
    return replace(
        fabric,
        kinds={names[node]: kind for node, kind in reversed(list(fabric.kinds.items()))},
        links=tuple(reversed(links)),
        gpus=tuple(names[gpu] for gpu in fabric.gpus),
        reducing_switch=names[fabric.reducing_switch] if fabric.reducing_switch else None,
    )


one_node = st.one_of(
    st.builds(switched_node, st.integers(1, 9), st.just(PORT), reduces=st.booleans()),
    st.builds(full_mesh, st.integers(1, 9), st.just(PORT)),
    st.builds(
        lambda islands, per_switch, duplex, bridge, both, peer: pcie_tree(
            islands,
            PORT,
            socket_link=SOCKET,
            gpus_per_switch=per_switch,
            switch_link=UPLINK if per_switch else None,
            gpu_duplex_bytes_per_s=duplex,
            bridge_bytes_per_s=bridge,
            socket_both_ways_bytes_per_s=both,
            peer_to_peer=peer,
            host_memory_bytes_per_s=None if peer else 7e9,
        ),
        st.lists(st.integers(1, 5), min_size=1, max_size=4),
        st.none() | st.integers(1, 4),
        st.none() | st.just(15e9),
        st.none() | st.just(30e9),
        st.none() | st.just(12e9),
        st.booleans(),
    ),
)


@st.composite
def many_nodes(draw: st.DrawFn) -> Fabric:
    node = draw(one_node)
    nodes = draw(st.integers(1, 4))
    per_nic = draw(st.sampled_from([n for n in range(1, len(node.gpus) + 1) if len(node.gpus) % n == 0]))
    share = draw(st.sampled_from([1.0, 2.0]))
    if draw(st.booleans()):
        return fat_tree(
            node,
            nodes,
            nodes_per_leaf=draw(st.integers(1, 4)),
            nic_link=NIC,
            network_link=NETWORK,
            gpus_per_nic=per_nic,
            oversubscription=share,
        )
    cross: Literal["node", "spine"] = "spine"
    if node.crossbar and draw(st.booleans()):
        cross = "node"
    return rail_optimised(
        node,
        nodes,
        nic_link=NIC,
        network_link=NETWORK,
        gpus_per_nic=per_nic,
        cross_rail=cross,
        oversubscription=share,
    )


fabrics = st.one_of(one_node, many_nodes())


@given(fabrics)
def test_gpus_are_strongly_connected_and_islands_hold_each_rank_once(fabric: Fabric) -> None:
    machine = cluster(fabric)
    assert nx.is_strongly_connected(machine.graph) or any(".up" in node for node in fabric.kinds)
    assert sorted(rank for island in machine.islands for rank in island) == list(range(len(machine.gpus)))
    for a in range(len(machine.gpus)):
        for b in range(len(machine.gpus)):
            route = machine.route(a, b)
            nodes = [machine.gpus[a], *(link.target for link in route)]
            assert nodes[-1] == machine.gpus[b]
            assert all(link.source == node for link, node in zip(route, nodes, strict=False))
            assert len(set(nodes)) == len(nodes)
            assert not any(fabric.kinds[node] == "gpu" for node in nodes[1:-1])


@given(fabrics)
def test_routes_are_symmetric(fabric: Fabric) -> None:
    """There and back: the same number of hops, the same latency, the same narrowest link."""
    machine = cluster(fabric)
    for a in range(len(machine.gpus)):
        for b in range(a):
            there, back = machine.route(a, b), machine.route(b, a)
            assert len(there) == len(back)
            assert sum(link.latency_s for link in there) == pytest.approx(sum(link.latency_s for link in back))
            assert min(link.flow_limit_bytes_per_s for link in there) == min(
                link.flow_limit_bytes_per_s for link in back
            )


@given(fabrics, st.randoms(use_true_random=False))
def test_names_and_the_order_of_links_do_not_matter(fabric: Fabric, random_: random.Random) -> None:
    """Routes cross the same kinds of link under any names: no generator leaves a tie for names to break."""
    names = [f"x{index}" for index in range(len(fabric.kinds))]
    random_.shuffle(names)
    mapping = dict(zip(fabric.kinds, names, strict=True))
    plain, other, again = cluster(fabric), cluster(renamed(fabric, mapping)), cluster(fabric)
    for a in range(len(plain.gpus)):
        for b in range(len(plain.gpus)):
            assert plain.route(a, b) == again.route(a, b)
            assert [mapping[link.target] for link in plain.route(a, b)] == [link.target for link in other.route(a, b)]


@given(fabrics)
def test_no_route_loads_a_pool_twice(fabric: Fabric) -> None:
    """Pools sit where a flow meets them once, so counting per flow and counting per link agree."""
    machine = cluster(fabric)
    for a in range(len(machine.gpus)):
        for b in range(len(machine.gpus)):
            loads = [pool for link in machine.route(a, b) for pool in link.pools]
            assert len(loads) == len(set(loads))


@given(st.integers(1, 40), st.booleans())
def test_switched_node_counts(gpus: int, reduces: bool) -> None:
    fabric = switched_node(gpus, PORT, reduces=reduces)
    assert (len(fabric.kinds), len(fabric.links), len(fabric.gpus)) == (gpus + 1, 2 * gpus, gpus)
    machine = cluster(fabric)
    assert {len(machine.route(a, b)) for a in range(gpus) for b in range(gpus) if a != b} <= {2}
    assert machine.islands == (tuple(range(gpus)),)
    assert machine.reducing_switch == ("nvswitch" if reduces else None)


@given(st.integers(1, 20))
def test_full_mesh_counts(gpus: int) -> None:
    fabric = full_mesh(gpus, PORT)
    assert (len(fabric.kinds), len(fabric.links)) == (gpus, gpus * (gpus - 1))
    machine = cluster(fabric)
    assert all(len(machine.route(a, b)) == (a != b) for a in range(gpus) for b in range(gpus))


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.none() | st.integers(1, 6),
    st.booleans(),
)
def test_pcie_tree_counts(islands: list[int], per_switch: int | None, peer_to_peer: bool) -> None:
    fabric = pcie_tree(
        islands,
        PORT,
        socket_link=SOCKET,
        gpus_per_switch=per_switch,
        switch_link=UPLINK if per_switch else None,
        gpu_duplex_bytes_per_s=15e9,
        peer_to_peer=peer_to_peer,
    )
    gpus, bridges = sum(islands), len(islands)
    switches = sum(-(-size // per_switch) for size in islands) if per_switch else 0
    assert len(fabric.kinds) == gpus + bridges + switches * (1 if peer_to_peer else 2)
    assert len(fabric.links) == 2 * gpus + 2 * switches + bridges * (bridges - 1)
    assert len(fabric.pools) == gpus
    machine = cluster(fabric)
    for island in machine.islands:
        for a in island:
            for b in range(gpus):
                sockets = [link for link in machine.route(a, b) if link.flow_cap_bytes_per_s == 5e9]
                assert len(sockets) == (b not in island)  # only traffic between islands, and once


@pytest.mark.parametrize("per_switch", [None, 2])
def test_without_peer_to_peer_every_route_climbs_to_the_host(per_switch: int | None) -> None:
    tree = pcie_tree(
        [4],
        PORT,
        gpus_per_switch=per_switch,
        switch_link=UPLINK if per_switch else None,
        peer_to_peer=False,
        host_memory_bytes_per_s=7e9,
    )
    machine = cluster(tree)
    for a in range(4):
        for b in range(4):
            if a != b:
                route = machine.route(a, b)
                assert "bridge0" in [link.target for link in route]
                assert [pool for link in route for pool in link.pools] == ["bridge0.memory"]


@given(one_node, st.integers(1, 4), st.data())
def test_rail_optimised_counts(node: Fabric, nodes: int, data: st.DataObject) -> None:
    gpus = len(node.gpus)
    per_nic = data.draw(st.sampled_from([n for n in range(1, gpus + 1) if gpus % n == 0]))
    rails = gpus // per_nic
    kinds: tuple[Literal["node", "spine"], ...] = ("node", "spine")
    for cross in kinds if node.crossbar else kinds[1:]:
        fabric = rail_optimised(node, nodes, nic_link=NIC, network_link=NETWORK, gpus_per_nic=per_nic, cross_rail=cross)
        spine = cross == "spine"
        assert len(fabric.kinds) == nodes * (len(node.kinds) + rails) + rails + spine
        extra = 2 * rails if spine else nodes * rails
        assert len(fabric.links) == nodes * (len(node.links) + 2 * gpus + 2 * rails) + extra
        assert len(fabric.gpus) == nodes * gpus
        assert fabric.islands == tuple(tuple(range(n * gpus, (n + 1) * gpus)) for n in range(nodes))
        machine = cluster(fabric)
        for a in range(nodes * gpus):
            for b in range(nodes * gpus):
                used = {link.target for link in machine.route(a, b) if ".nic" in link.target}
                assert bool(used) == (a // gpus != b // gpus)  # the network joins nodes, and only nodes
                same_rail = (a % gpus) // per_nic == (b % gpus) // per_nic
                if used and same_rail:
                    assert len(machine.route(a, b)) == 4
                elif used:
                    assert len(machine.route(a, b)) == (6 if spine else 5)


@given(one_node, st.integers(1, 6), st.integers(1, 6), st.data())
def test_fat_tree_counts(node: Fabric, nodes: int, per_leaf: int, data: st.DataObject) -> None:
    gpus = len(node.gpus)
    per_nic = data.draw(st.sampled_from([n for n in range(1, gpus + 1) if gpus % n == 0]))
    nics = gpus // per_nic
    fabric = fat_tree(node, nodes, nodes_per_leaf=per_leaf, nic_link=NIC, network_link=NETWORK, gpus_per_nic=per_nic)
    leaves = -(-nodes // per_leaf)
    assert len(fabric.kinds) == nodes * (len(node.kinds) + nics) + leaves + (leaves > 1)
    wires = nodes * (len(node.links) + 2 * gpus + 2 * nics)
    assert len(fabric.links) == wires + (2 * leaves if leaves > 1 else 0)
    machine = cluster(fabric)
    for a in range(nodes * gpus):
        for b in range(nodes * gpus):
            if a // gpus != b // gpus:
                same_leaf = a // gpus // per_leaf == b // gpus // per_leaf
                assert len(machine.route(a, b)) == (4 if same_leaf else 6)


def test_the_spine_and_the_core_carry_their_share_and_one_flow_one_wire() -> None:
    node = switched_node(4, PORT, reduces=True)
    rail = cluster(
        rail_optimised(node, 3, nic_link=NIC, network_link=NETWORK, cross_rail="spine", oversubscription=2.0)
    )
    up = rail.link("rail0", "spine")
    assert (up.bandwidth_bytes_per_s, up.flow_cap_bytes_per_s) == (3 * 4e9 / 2, 4e9)
    tree = cluster(fat_tree(node, 4, nodes_per_leaf=2, nic_link=NIC, network_link=NETWORK))
    up = tree.link("leaf1", "core")
    assert (up.bandwidth_bytes_per_s, up.flow_cap_bytes_per_s) == (2 * 4 * 4e9, 4e9)


def test_a_relayed_flow_loads_the_port_and_the_lane_of_the_gpu_beside_the_nic() -> None:
    node = switched_node(4, PORT, reduces=True)
    machine = cluster(rail_optimised(node, 2, nic_link=NIC, network_link=NETWORK))
    relay = machine.link("n0.nvswitch", "n0.nic2")
    assert relay.pools == ("n0.gpu2.in", "n0.gpu2.lane")
    assert "n0.gpu2.in" in machine.link("n0.nvswitch", "n0.gpu2").pools
    assert "n0.gpu2.lane" in machine.link("n0.gpu2", "n0.nic2").pools
    assert (machine.pools["n0.gpu2.in"], machine.pools["n0.gpu2.lane"]) == (10e9, 6e9)


def test_a_pcie_gpu_shares_its_one_port_between_peers_and_nic() -> None:
    node = pcie_tree([2], PORT, gpu_duplex_bytes_per_s=15e9)
    machine = cluster(rail_optimised(node, 2, nic_link=NIC, network_link=NETWORK, cross_rail="spine"))
    assert set(machine.link("n0.gpu1", "n0.bridge0").pools) == {"n0.gpu1.out", "n0.gpu1.duplex"}
    assert set(machine.link("n0.gpu1", "n0.nic1").pools) == {"n0.gpu1.out", "n0.gpu1.duplex"}
    assert set(machine.link("n0.nic1", "n0.gpu1").pools) == {"n0.gpu1.in", "n0.gpu1.duplex"}


def test_the_reducing_switch_does_not_span_nodes() -> None:
    node = switched_node(4, PORT, reduces=True)
    assert rail_optimised(node, 2, nic_link=NIC, network_link=NETWORK).reducing_switch is None
    assert rail_optimised(node, 1, nic_link=NIC, network_link=NETWORK).reducing_switch == "n0.nvswitch"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: switched_node(0, PORT, reduces=False), "gpus must lie in 1..4096: gpus=0"),
        (lambda: full_mesh(-1, PORT), "gpus must lie in 1..4096: gpus=-1"),
        (lambda: pcie_tree([], PORT), "number of islands must be at least 1: 0"),
        (lambda: pcie_tree([4, 0], PORT, socket_link=SOCKET), "every island's GPUs must be at least 1: 0"),
        (lambda: pcie_tree([4, 4], PORT), r"several islands need a socket_link: islands=\[4, 4\]"),
        (lambda: pcie_tree([4], PORT, gpus_per_switch=2), "gpus_per_switch and switch_link come together"),
        (lambda: pcie_tree([4], PORT, switch_link=UPLINK), "gpus_per_switch and switch_link come together"),
        (
            lambda: pcie_tree([4], PORT, gpus_per_switch=0, switch_link=UPLINK),
            "gpus_per_switch must be at least 1: 0",
        ),
        (lambda: pcie_tree([4], PORT, host_memory_bytes_per_s=1e9), "GPUs without peer-to-peer"),
        (
            lambda: rail_optimised(full_mesh(4, PORT), 2, nic_link=NIC, network_link=NETWORK),
            'cross_rail="node" needs a switched node',
        ),
        (
            lambda: fat_tree(
                full_mesh(4, PORT), 2, nodes_per_leaf=1, nic_link=NIC, network_link=NETWORK, gpus_per_nic=3
            ),
            "gpus_per_nic must divide the node's GPUs: gpus_per_nic=3, GPUs=4",
        ),
        (
            lambda: fat_tree(
                full_mesh(4, PORT),
                2,
                nodes_per_leaf=1,
                nic_link=NIC,
                network_link=NETWORK,
                oversubscription=float("nan"),
            ),
            "oversubscription must be at least 1",
        ),
    ],
)
def test_generators_refuse_what_makes_no_machine(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=message):
        build()
