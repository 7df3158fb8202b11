"""Which GPUs a group takes: how they are written, what a node is, and what a part keeps of its machine."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.topologies.choose import SCATTERED, WANDERING, choose, named, numbers, text_of
from thinwire.topologies.cluster import Cluster, Gpu, Link
from thinwire.topologies.draw import describe, draw
from thinwire.topologies.generators import Fabric, Wire, fat_tree, full_mesh, pcie_tree, rail_optimised, switched_node
from thinwire.topologies.load import cluster_names, load_cluster

GPU = Gpu("any", {"bf16": 1e12}, 1e9, 1e9, 1, None, {})
WIRE = Wire(1e9, 1e-6)
SOCKETS = load_cluster("8xl40s-pcie")
NODES = load_cluster("2x8xh100-ib")
GROUPS = st.lists(st.integers(0, 7), min_size=1, max_size=8, unique=True)


def machine(fabric: Fabric) -> Cluster:
    return fabric.cluster(name="any", title="any", gpu=GPU, fabric="any")


# --- how they are written ---


@given(st.lists(st.integers(0, 4095), min_size=1, max_size=40, unique=True))
def test_what_is_written_reads_the_same_again(gpus: list[int]) -> None:
    assert numbers(text_of(gpus)) == numbers(gpus) == tuple(gpus)


@pytest.mark.parametrize(
    ("gpus", "text"),
    [((0, 1, 6, 7), "0,1,6,7"), (range(8), "0-7"), ((5, 0, 1, 2, 7), "5,0-2,7"), ((2, 1, 0), "2,1,0"), ((3,), "3")],
)
def test_neighbours_are_a_range(gpus: tuple[int, ...], text: str) -> None:
    assert text_of(tuple(gpus)) == text and numbers(text) == tuple(gpus)


def test_spaces_and_whole_numbers_of_any_kind_are_taken() -> None:
    assert numbers(" 0 , 2-3 ") == numbers(np.array([0, 2, 3])) == numbers(iter([0, 2, 3])) == (0, 2, 3)  # type: ignore[arg-type]
    assert all(type(each) is int for each in numbers(np.array([0, 2])))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "gpus",
    ["", " ", ",", "0,", "a", "-1", "0,0", "0-2,1", "1.0", "0-", "0--2", "٣", "0;1", "0-1-2", "9999999", (), (True,),
     (0, 0), (-1,), (0.0,), ("0",), 3, None, [[0]]],
)  # fmt: skip
def test_what_is_no_list_of_gpus_is_refused(gpus: object) -> None:
    with pytest.raises(ValueError, match=r"^gpus lists each GPU once, by number, such as 0,1,6,7 or 0-3: gpus="):
        numbers(gpus)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gpus", "said"), [("3-0", "counts up, as 0-3: '3-0'"), ("0-999999", "in 1..4096"), ("0-4095,5000", "in 1..4096")]
)
def test_ranges_count_up_and_are_not_endless(gpus: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        numbers(gpus)


def test_only_what_is_not_the_first_ones_is_named() -> None:
    assert [named(gpus) for gpus in ((0, 1, 2, 3), (0,), (1,), (1, 0), (0, 1, 6, 7))] == [
        "", "", "GPU 1", "GPUs 1,0", "GPUs 0,1,6,7",
    ]  # fmt: skip


# --- what a node is ---


@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(1, 4),
    st.sampled_from(["rail", "tree", "mesh", "switch"]),
)
def test_a_node_is_what_nics_join(sockets: list[int], nodes: int, kind: str) -> None:
    """Sockets of a node, its switches and its mesh are one node, whatever the network between nodes looks like."""
    of_node = {
        "mesh": full_mesh(sum(sockets), WIRE),
        "switch": switched_node(sum(sockets), WIRE, reduces=True),
    }.get(kind, pcie_tree(sockets, WIRE, socket_link=WIRE))
    if kind == "tree":
        fabric = fat_tree(of_node, nodes, nodes_per_leaf=2, nic_link=WIRE, network_link=WIRE)
    else:
        cross = "node" if kind == "switch" else "spine"
        fabric = rail_optimised(of_node, nodes, nic_link=WIRE, network_link=WIRE, cross_rail=cross)  # type: ignore[arg-type]
    each = sum(sockets)
    assert machine(fabric).hosts == tuple(tuple(range(i * each, (i + 1) * each)) for i in range(nodes))
    assert machine(of_node).hosts == (tuple(range(each)),)


def test_nodes_of_the_catalog() -> None:
    assert NODES.hosts == (tuple(range(8)), tuple(range(8, 16)))
    one = [name for name in cluster_names() if len(load_cluster(name).hosts) == 1]
    assert one == [name for name in cluster_names() if not name.startswith("2x")]
    assert len(SOCKETS.islands) == 2  # which are no nodes


def test_a_nic_of_its_own_makes_no_second_node() -> None:
    """As a machine's own dump has them: NICs below its switches, which lead to nobody."""
    ends = [("gpu0", "pcie0"), ("gpu1", "pcie0"), ("nic0", "pcie0"), ("nic1", "pcie0"), ("gpu0", "nic1")]
    links = [Link(*pair, 1e9, 1e-6) for a, b in ends for pair in ((a, b), (b, a))]
    kinds = {"gpu0": "gpu", "gpu1": "gpu", "pcie0": "switch", "nic0": "nic", "nic1": "nic"}
    found = Cluster("any", "any", GPU, "any", ("gpu0", "gpu1"), kinds, tuple(links), {}, None, ((0, 1),))
    assert found.hosts == ((0, 1),)


def test_nodes_are_drawn_where_there_are_several() -> None:
    assert "node 1: ranks 8, 9" in draw(NODES) and "node 0" not in draw(SOCKETS)
    assert describe(NODES)["hosts"] == [list(range(8)), list(range(8, 16))]


# --- what is taken ---


@pytest.mark.parametrize("name", cluster_names())
def test_the_first_ones_are_the_first_ones_however_they_are_asked_for(name: str) -> None:
    whole = load_cluster(name)
    assert choose(whole) is whole and choose(whole, len(whole.gpus)) is whole
    for n in range(1, len(whole.gpus) + 1):
        wanted = whole.take(n)
        for found in (choose(whole, n), choose(whole, gpus=range(n)), choose(whole, n, f"0-{n - 1}" if n > 1 else "0")):
            assert (found.gpus, found.islands, found.indices) == (wanted.gpus, wanted.islands, tuple(range(n)))
            assert found.assumptions == whole.assumptions


@given(GROUPS)
def test_any_gpus_in_any_order(gpus: list[int]) -> None:
    """Ranks are as given; routes, islands and hosts are those that these GPUs have on the machine."""
    for whole in (SOCKETS, NODES):
        found = choose(whole, gpus=gpus)
        assert found.indices == tuple(gpus) and found.gpus == tuple(whole.gpus[index] for index in gpus)
        for a, b in permutations(range(len(gpus)), 2):
            assert found.route(a, b) == whole.route(gpus[a], gpus[b])
        islands = {frozenset(gpus) & frozenset(island) for island in whole.islands} - {frozenset()}
        assert {frozenset(gpus[rank] for rank in island) for island in found.islands} == islands
        hosts = {frozenset(gpus) & frozenset(host) for host in whole.hosts} - {frozenset()}
        assert {frozenset(gpus[rank] for rank in host) for host in found.hosts} == hosts


@given(GROUPS, st.data())
def test_a_part_of_a_part_keeps_the_machines_numbers(gpus: list[int], data: st.DataObject) -> None:
    again = data.draw(st.lists(st.sampled_from(gpus), min_size=1, unique=True))
    part = choose(choose(SOCKETS, gpus=gpus), gpus=again)
    assert (part.indices, part.gpus) == (tuple(again), choose(SOCKETS, gpus=again).gpus)
    assert choose(choose(SOCKETS, gpus=gpus), 1).indices == (gpus[0],)


@pytest.mark.parametrize(
    ("tp", "nodes"), [(tp, nodes) for nodes in (1, 2) for tp in range(nodes, 8 * nodes + 1, nodes)]
)
def test_as_many_of_each_node(tp: int, nodes: int) -> None:
    found = choose(NODES, tp, nodes=nodes)
    assert found.indices == tuple(host * 8 + i for host in range(nodes) for i in range(tp // nodes))
    assert tuple(map(len, found.hosts)) == (tp // nodes,) * nodes == tuple(map(len, found.islands))
    assert found.indices == choose(NODES, tp, found.indices, nodes).indices  # what holds anyway


def test_nodes_alone_are_whole_nodes() -> None:
    assert choose(NODES, nodes=1).indices == tuple(range(8)) and choose(NODES, nodes=2) is NODES
    assert choose(SOCKETS, nodes=1) is SOCKETS and choose(SOCKETS, 4, nodes=1).indices == (0, 1, 2, 3)


def test_of_nodes_that_differ() -> None:
    ends = [("a", "s"), ("b", "s"), ("c", "t"), ("s", "n"), ("t", "m"), ("n", "m")]
    kinds = dict.fromkeys("abc", "gpu") | dict.fromkeys("st", "switch") | dict.fromkeys("nm", "nic")
    links = [Link(*pair, 1e9, 1e-6) for a, b in ends for pair in ((a, b), (b, a))]
    uneven = Cluster("any", "any", GPU, "any", ("a", "c", "b"), kinds, tuple(links), {}, None, ((0, 1, 2),))
    assert uneven.hosts == ((0, 2), (1,))
    assert choose(uneven, 2, nodes=2).gpus == ("a", "c") and choose(uneven, nodes=2).gpus == ("a", "b", "c")
    wide = Cluster("any", "any", GPU, "any", ("a", "b", "c"), kinds, tuple(links), {}, None, ((0, 1, 2),))
    with pytest.raises(ValueError, match=r"nodes must divide tp, .*: tp=3, nodes=2"):
        choose(wide, 3, nodes=2)
    assert choose(wide, 2, nodes=1).gpus == ("a", "b")


@pytest.mark.parametrize(
    ("tp", "gpus", "nodes", "said"),
    [
        (0, None, None, r"^tp must lie in 1\.\.16, the GPUs of 2x8xh100-ib: tp=0$"),
        (17, None, None, r"tp=17$"),
        (2.0, None, None, r"^tp must be a whole number: tp=2\.0$"),
        (True, None, None, r"^tp must be a whole number"),
        (None, None, 2.0, r"^nodes must be a whole number"),
        (None, None, 0, r"^nodes must lie in 1\.\.2, the nodes of 2x8xh100-ib: nodes=0$"),
        (6, None, 3, r"nodes=3$"),
        (3, None, 2, r"^nodes must divide tp, each takes as many GPUs: tp=3, nodes=2$"),
        (10, None, 1, r"^tp=10 takes 10 GPUs of each of 1 nodes, and one of 2x8xh100-ib has 8$"),
        (None, (0, 16), None, r"^no GPU 16 on 2x8xh100-ib, it has 0-15: gpus=0,16$"),
        (2, (0, 1, 8), None, r"^gpus names 3 GPUs, tp says 2: gpus=0,1,8, tp=2$"),
        (None, (0, 1), 2, r"^gpus lie on 1 nodes, nodes says 2: gpus=0,1, nodes=2$"),
        (None, "0,8", 1, r"^gpus lie on 2 nodes, nodes says 1: gpus=0,8, nodes=1$"),
    ],
)
def test_what_cannot_be_is_refused(tp: int | None, gpus: tuple[int, ...] | None, nodes: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        choose(NODES, tp, gpus, nodes)


def test_numbers_without_their_gpus_are_refused() -> None:
    kinds, links = {"a": "gpu", "b": "gpu"}, (Link("a", "b", 1e9, 1e-6), Link("b", "a", 1e9, 1e-6))
    with pytest.raises(ValueError, match="indices must number each GPU"):
        Cluster("any", "any", GPU, "any", ("a", "b"), kinds, links, {}, None, ((0, 1),), indices=(1,))


# --- what is said of them ---


@given(GROUPS)
def test_a_ring_that_wanders_is_told(gpus: list[int]) -> None:
    """Rings follow the order of ranks: one that returns to an island costs more than a library's own would."""
    socket = [index // 4 for index in gpus]
    crossings = sum(a != b for a, b in pairwise([*socket, socket[0]]))
    assert (WANDERING in choose(SOCKETS, gpus=gpus).assumptions) == (crossings > 2)


@pytest.mark.parametrize(
    ("gpus", "scattered"),
    [((4, 5, 6, 7), False), ((0, 1, 6, 7), True), ((0, 4), True), ((5, 7), False), ((1, 2, 3, 0, 4), False),
     ((0, 4, 5, 6, 7), False), ((0, 1, 2, 5, 6, 7), True)],
)  # fmt: skip
def test_gpus_that_lie_otherwise_than_those_measured_are_told(gpus: tuple[int, ...], scattered: bool) -> None:
    assert (SCATTERED in choose(SOCKETS, gpus=gpus).assumptions) == scattered


@pytest.mark.parametrize(
    ("pattern", "factor", "told"),
    [
        ("*->*", 2.0, True),
        ("*->*", 0.5, False),
        ("*", 2.0, False),
        ("pool:*", 2.0, False),
        ("bridge*->bridge*", 2, False),
    ],
)
def test_pools_that_a_faster_link_leaves_are_told(pattern: str, factor: float, told: bool) -> None:
    said = SOCKETS.with_link_scaled(pattern, factor).assumptions[-1]
    assert said.startswith(f"what-if: {pattern} at {factor:g} times its bandwidth")
    assert said.endswith("; not the 8 pools that such links share, as pool:gpu0.duplex") == told
