"""`generators.host_tree`: trees of any shape, and `pcie_tree` as its regular case."""

from __future__ import annotations

import pytest

from thinwire.topologies.generators import Fabric, Wire, host_tree, pcie_tree
from thinwire.topologies.load import load_gpu

GPU_LINK, SWITCH, SOCKET = Wire(26e9, 5e-7), Wire(25e9, 1e-7), Wire(40e9, 2e-7, 20e9)


def hops(fabric: Fabric, a: int, b: int) -> list[str]:
    cluster = fabric.cluster(name="tree", title="tree", gpu=load_gpu("l40s"), fabric="none")
    return [link.name for link in cluster.route(a, b)]


def test_a_regular_tree_is_a_pcie_tree() -> None:
    """The same nodes, links and pools in the same order."""
    regular = pcie_tree([4, 4], GPU_LINK, socket_link=SOCKET, gpus_per_switch=2, switch_link=SWITCH,
                        gpu_duplex_bytes_per_s=50e9, peer_to_peer=False, host_memory_bytes_per_s=1e11)  # fmt: skip
    tree = host_tree([[[0, 1], [2, 3]], [[4, 5], [6, 7]]], GPU_LINK, socket_link=SOCKET, switch_link=SWITCH,
                     gpu_duplex_bytes_per_s=50e9, peer_to_peer=False, host_memory_bytes_per_s=1e11)  # fmt: skip
    assert regular == tree and list(regular.kinds) == list(tree.kinds) and list(regular.pools) == list(tree.pools)


def test_switches_below_switches_and_ranks_in_any_order() -> None:
    tree = host_tree([[[[3, 0], 2]], [1]], GPU_LINK, socket_link=SOCKET, switch_link=SWITCH)
    assert tree.gpus == ("gpu0", "gpu1", "gpu2", "gpu3") and tree.islands == ((0, 2, 3), (1,))
    assert hops(tree, 0, 3) == ["gpu0->pcie1", "pcie1->gpu3"]
    assert hops(tree, 0, 2) == ["gpu0->pcie1", "pcie1->pcie0", "pcie0->gpu2"]
    assert len(hops(tree, 0, 1)) == 5
    # What bounces climbs to its host bridge, however near the two are, and loads its memory once.
    bounced = host_tree([[[[0, 1]]]], GPU_LINK, switch_link=SWITCH, peer_to_peer=False, host_memory_bytes_per_s=1e11)
    assert hops(bounced, 0, 1) == [
        "gpu0->pcie1.up", "pcie1.up->pcie0.up", "pcie0.up->bridge0", "bridge0->pcie0.down", "pcie0.down->pcie1.down",
        "pcie1.down->gpu1",
    ]  # fmt: skip
    assert sum("bridge0.memory" in link.pools for link in bounced.links) == 2  # of the two GPUs' own links upwards


def test_a_bridges_pool_is_loaded_once_where_a_flow_enters_it() -> None:
    tree = host_tree([[[0, 1], 2]], GPU_LINK, switch_link=SWITCH, bridge_bytes_per_s=9e10)
    loaded = {link.name for link in tree.links if "bridge0" in link.pools}
    assert loaded == {"pcie0->bridge0", "gpu2->bridge0"}


@pytest.mark.parametrize(("domains", "why"), [
    ([[0, 0]], "each once"), ([[0, 2]], "each once"), ([], "number of islands"), ([[0], [1]], "need a socket_link"),
    ([[[0, 1]]], "a switch needs a switch_link"),
])  # fmt: skip
def test_what_is_no_tree(domains: list[list[int]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        host_tree(domains, GPU_LINK)
