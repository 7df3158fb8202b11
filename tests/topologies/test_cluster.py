"""The cluster graph: routes, what-ifs, drawing, and the published link rates of two PCIe hosts."""

import json
import math
import pickle
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest

from thinwire.topologies.cluster import SWITCH, Cluster, DisconnectedError, Gpu, Link
from thinwire.topologies.draw import describe, draw
from thinwire.topologies.generators import Wire, pcie_tree, rail_optimised, switched_node
from thinwire.topologies.load import cluster_names, load_cluster

GPU = Gpu("any", {"bf16": 1e12}, 1e9, 1e9, 1, None, {})
WIRE = Wire(1e9, 1e-6)


def cluster(kinds: dict[str, str], links: Sequence[Link], **more: object) -> Cluster:
    gpus = tuple(node for node, kind in kinds.items() if kind == "gpu")
    given: dict[str, object] = {"pools": {}, "reducing_switch": None, "islands": (tuple(range(len(gpus))),)}
    return Cluster("any", "any", GPU, "any", gpus, kinds, tuple(links), **(given | more))  # type: ignore[arg-type]


def both(a: str, b: str) -> list[Link]:
    return [Link(a, b, 1e9, 1e-6), Link(b, a, 1e9, 1e-6)]


def max_min(flows: Sequence[Sequence[Link]], pools: dict[str, float]) -> list[float]:
    """Max-min fair rates by progressive filling: all unfrozen flows rise until a resource is full."""
    uses: list[Counter[str]] = []
    capacity = {f"pool:{name}": rate for name, rate in pools.items()}
    for index, route in enumerate(flows):
        use: Counter[str] = Counter()
        for link in route:
            capacity[link.name] = link.bandwidth_bytes_per_s
            use[link.name] += 1
            use.update(f"pool:{pool}" for pool in link.pools)
            if link.flow_cap_bytes_per_s is not None:
                capacity[f"{link.name}#{index}"] = link.flow_cap_bytes_per_s
                use[f"{link.name}#{index}"] += 1
        uses.append(use)
    rate = [0.0] * len(flows)
    active = set(range(len(flows)))
    while active:
        load = Counter[str]()
        for index in active:
            load.update(uses[index])
        spent: dict[str, float] = defaultdict(float)
        for use, reached in zip(uses, rate, strict=True):
            for name, count in use.items():
                spent[name] += count * reached
        rise_of = {name: (capacity[name] - spent[name]) / load[name] for name in load}
        rise = min(rise_of.values())
        full = {name for name in load if rise_of[name] <= rise * (1 + 1e-9) + 1e-3}
        for index in active:
            rate[index] += rise
        active -= {index for index in active if full & uses[index].keys()}
    return rate


def rates(machine: Cluster, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """GB/s of flows between ranks, all at once."""
    return [rate / 1e9 for rate in max_min([machine.route(a, b) for a, b in pairs], dict(machine.pools))]


def ring(ranks: Sequence[int]) -> list[tuple[int, int]]:
    return [(rank, ranks[(index + 1) % len(ranks)]) for index, rank in enumerate(ranks)]


CROSSING = [(rank, (rank + 4) % 8) for rank in range(8)]
ISLANDS = ring(range(4)) + ring(range(4, 8))


# flashinfer-ai/flashinfer#4870, comment of 2026-09-08, GB/s one way per GPU. A ring is as fast as its slowest
@pytest.mark.parametrize(
    ("machine", "pairs", "published"),
    [
        ("8xl40s-pcie", [(0, 1)], 26.26),
        ("8xl40s-pcie", ring(range(4)), 25.46),
        ("8xl40s-pcie", ISLANDS, 25.43),
        ("8xl40s-pcie", ring(range(8)), 20.75),
        ("8xl40s-pcie", CROSSING, 9.7),
        ("8xrtx-pro-6000-pcie", [(0, 1)], 54.1),  # 53.2 to 55.0
        ("8xrtx-pro-6000-pcie", ring([0, 1]) + ring([2, 3]), 52.33),
        ("8xrtx-pro-6000-pcie", ring([0, 1]) + ring([2, 3]) + ring([4, 5]) + ring([6, 7]), 52.37),
        ("8xrtx-pro-6000-pcie", ring(range(4)), 52.32),
        ("8xrtx-pro-6000-pcie", ring(range(8)), 49.64),
        ("8xrtx-pro-6000-pcie", CROSSING, 23.75),
    ],
)
def test_max_min_sharing_reproduces_published_rates_within_3_percent(
    machine: str, pairs: list[tuple[int, int]], published: float
) -> None:
    assert min(rates(load_cluster(machine), pairs)) == pytest.approx(published, rel=0.03)


def test_one_flow_without_peer_to_peer_runs_at_the_bounce_rate() -> None:
    machine = load_cluster("8xrtx4090-pcie")
    assert rates(machine, [(0, 1)]) == pytest.approx([18.77])
    assert rates(machine, [(0, 4)]) == pytest.approx([18.77])
    assert min(rates(machine, ring(range(8)))) >= 15.04  # NCCL's bus bandwidth on that host: the wire allows it


def test_published_full_rates_of_switched_and_meshed_machines() -> None:
    everyone = [(a, b) for a in range(8) for b in range(8) if a != b]
    for name, out in [("8xa100-nvlink", 300), ("8xh100-nvlink", 450), ("8xb200-nvlink", 900)]:
        machine = load_cluster(name)
        assert rates(machine, ring(range(8))) == pytest.approx([out] * 8)
        assert rates(machine, everyone) == pytest.approx([out / 7] * 56)
    assert rates(load_cluster("8xmi300x-xgmi"), everyone) == pytest.approx([64] * 56)


def test_rail_traffic_uses_its_own_nic_and_cross_rail_traffic_the_receivers() -> None:
    machine = load_cluster("2x8xh100-ib")
    assert [link.name for link in machine.route(3, 11)] == [
        "n0.gpu3->n0.nic3",
        "n0.nic3->rail3",
        "rail3->n1.nic3",
        "n1.nic3->n1.gpu3",
    ]
    assert [link.name for link in machine.route(3, 8)][:2] == ["n0.gpu3->n0.nvswitch", "n0.nvswitch->n0.nic0"]
    same_rail = [(rank, rank + 8) for rank in range(8)]
    assert rates(machine, same_rail) == pytest.approx([50.0] * 8)
    assert rates(machine, [(0, 9), (1, 9)]) == pytest.approx([25.0] * 2)  # both through rail 1's NIC


def test_fewest_hops_then_lexicographic() -> None:
    kinds = {"a": "gpu", "b": "gpu", "s1": "switch", "s2": "switch", "s3": "switch"}
    links = [*both("a", "s2"), *both("s2", "b"), *both("a", "s1"), *both("s1", "b"), *both("a", "s3")]
    machine = cluster(kinds, links)
    assert [link.name for link in machine.route(0, 1)] == ["a->s1", "s1->b"]
    assert machine.route(0, 0) == ()
    assert machine.route(0, 1) is machine.route(0, 1)  # cached
    direct = cluster(kinds, [*links, *both("a", "b")])
    assert [link.name for link in direct.route(0, 1)] == ["a->b"]


def test_gpus_forward_nothing() -> None:
    kinds = {"a": "gpu", "b": "gpu", "c": "gpu", "s": "switch"}
    chain = [*both("a", "b"), *both("b", "c")]
    with pytest.raises(DisconnectedError, match=r"is disconnected: no route .*GPUs forward no traffic"):
        cluster(kinds, chain)
    longer = cluster(kinds, [*chain, *both("a", "s"), *both("s", "c")])
    assert [link.name for link in longer.route(0, 2)] == ["a->s", "s->c"]


def test_traffic_inside_a_machine_stays_inside() -> None:
    """Five hops over switches and sockets, though two NICs and a leaf switch would make it four."""
    kinds = {
        "g0": "gpu",
        "g1": "gpu",
        "leaf": "switch",
        **dict.fromkeys(("nic0", "nic1"), "nic"),
        **dict.fromkeys(("b0", "b1"), "host_bridge"),
        **dict.fromkeys(("p0", "p1"), "switch"),
    }
    outside = [*both("g0", "nic0"), *both("nic0", "leaf"), *both("leaf", "nic1"), *both("nic1", "g1")]
    inside = [*both("g0", "p0"), *both("p0", "b0"), *both("b0", "b1"), *both("b1", "p1"), *both("p1", "g1")]
    machine = cluster(kinds, outside + inside)
    assert [link.target for link in machine.route(0, 1)] == ["p0", "b0", "b1", "p1", "g1"]
    assert [link.target for link in cluster(kinds, outside).route(0, 1)] == ["nic0", "leaf", "nic1", "g1"]


def test_the_loose_gpu_is_the_one_named() -> None:
    kinds = {"g0": "gpu", "g1": "gpu", "g2": "gpu", "s": "switch"}
    for loose in ("g0", "g1", "g2"):
        links = [link for gpu in ("g0", "g1", "g2") if gpu != loose for link in both(gpu, "s")]
        with pytest.raises(DisconnectedError) as caught:
            cluster(kinds, links)
        assert caught.value.node == loose
        with pytest.raises(DisconnectedError) as caught:
            cluster(kinds, [*links, Link(loose, "s", 1e9, 1e-6)])  # it can send and never receive
        assert caught.value.node == loose


def test_the_reducing_switch_is_a_pseudo_rank() -> None:
    machine = load_cluster("8xh100-nvlink")
    assert [link.name for link in machine.route(2, SWITCH)] == ["gpu2->nvswitch"]
    assert [link.name for link in machine.route(SWITCH, 5)] == ["nvswitch->gpu5"]
    assert machine.take(2).reducing_switch == "nvswitch"
    with pytest.raises(ValueError, match="8xa100-nvlink has no reducing switch"):
        load_cluster("8xa100-nvlink").route(0, SWITCH)


@pytest.mark.parametrize("rank", [-2, 8])
def test_a_rank_that_does_not_exist_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"rank must be 0\.\.7 in 8xl40s-pcie: {rank}"):
        load_cluster("8xl40s-pcie").route(rank, 0)


def test_take_cuts_islands_and_keeps_the_graph() -> None:
    machine = load_cluster("8xl40s-pcie")
    six = machine.take(6)
    assert six.islands == ((0, 1, 2, 3), (4, 5))
    assert machine.take(4).islands == ((0, 1, 2, 3),)
    assert six.gpus == machine.gpus[:6]
    assert six.links == machine.links
    assert six.route(0, 5) == machine.route(0, 5)
    assert machine.take(8) is machine
    for n in (0, 9):
        with pytest.raises(ValueError, match=rf"n must be 1\.\.8, the GPUs of 8xl40s-pcie: {n}"):
            machine.take(n)


def test_reorder_moves_ranks_and_islands_together() -> None:
    machine = load_cluster("8xl40s-pcie")
    order = [7, 0, 3, 4, 1, 2, 6, 5]
    moved = machine.reorder(order)
    assert moved.islands == ((0, 3, 6, 7), (1, 2, 4, 5))
    for a in range(8):
        for b in range(8):
            assert moved.route(a, b) == machine.route(order[a], order[b])
    with pytest.raises(ValueError, match="each GPU is one rank"):
        machine.reorder([0, 0])


def test_scaling_a_link_scales_its_cap_and_nothing_else() -> None:
    machine = load_cluster("8xl40s-pcie")
    slow = machine.with_link_scaled("bridge0->bridge1", 0.5)
    link = slow.link("bridge0", "bridge1")
    assert (link.bandwidth_bytes_per_s, link.flow_cap_bytes_per_s) == pytest.approx((19.4e9, 10.375e9))
    assert [old for old in machine.links if old.name != link.name] == [
        new for new in slow.links if new.name != link.name
    ]
    assert slow.pools == machine.pools
    assert slow.assumptions[-1] == "what-if: bridge0->bridge1 at 0.5 times its bandwidth"
    assert machine.link("bridge0", "bridge1").bandwidth_bytes_per_s == 38.8e9
    assert min(rates(slow, ring(range(8)))) == pytest.approx(10.375)


def test_scaling_pools_and_everything() -> None:
    machine = load_cluster("8xl40s-pcie")
    pools = machine.with_link_scaled("pool:gpu0.*", 0.5)
    assert pools.pools["gpu0.duplex"] == 25.45e9
    assert pools.pools["gpu1.duplex"] == 50.9e9
    assert pools.links == machine.links
    half = machine.with_link_scaled("*", 0.5)
    for pairs in (ring(range(8)), CROSSING, ISLANDS):
        assert rates(half, pairs) == pytest.approx([rate / 2 for rate in rates(machine, pairs)])


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan, math.inf])
def test_a_factor_that_is_no_positive_number_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="factor must be a positive finite number"):
        load_cluster("8xl40s-pcie").with_link_scaled("*", factor)


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"matches 'gpu9->\*'; links are like bridge0->bridge1"):
        load_cluster("8xl40s-pcie").with_link_scaled("gpu9->*", 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"islands": ((0,),)}, "islands must hold every rank once"),
        ({"islands": ((0, 1), (1,))}, "islands must hold every rank once"),
        ({"islands": ((0, 1), ())}, "an island must hold a GPU"),
        ({"gpus": ("gpu0", "gpu0")}, "each GPU is one rank"),
        ({"gpus": ("gpu0", "nvswitch")}, "rank 1 must be a node of kind gpu: nvswitch"),
        ({"gpus": ()}, "GPUs must lie in 1..4096: GPUs=0"),
        ({"pools": {"p": math.nan}}, "capacity of pool p must be a positive finite number: nan"),
        ({"reducing_switch": "gpu0"}, "reducing_switch must be a node of kind switch: gpu0"),
        ({"reducing_switch": "none"}, "reducing_switch must be a node of kind switch: none"),
    ],
)
def test_parts_that_disagree_are_refused(change: dict[str, object], message: str) -> None:
    machine = switched_node(2, WIRE, reduces=True).cluster(name="any", title="any", gpu=GPU, fabric="any")
    with pytest.raises(ValueError, match=message):
        replace(machine, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [0.0, -1.0, math.nan, math.inf])
def test_a_link_refuses_numbers_that_are_not_positive(number: float) -> None:
    for position in range(3):
        bandwidth, latency, cap = (number if position == at else 1.0 for at in range(3))
        with pytest.raises(ValueError, match=f"of link a->b must be a positive finite number: {number}"):
            Link("a", "b", bandwidth, latency, cap)


def test_graphs_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="kind of node a must be one of gpu, switch, host_bridge, nic: cpu"):
        cluster({"a": "cpu"}, [])
    with pytest.raises(ValueError, match="link a->b is given twice"):
        cluster({"a": "gpu", "b": "gpu"}, [*both("a", "b"), Link("a", "b", 1.0, 1.0)])
    with pytest.raises(ValueError, match="link a->b ends at a node that is not listed: b"):
        cluster({"a": "gpu"}, both("a", "b"))
    with pytest.raises(ValueError, match="a link must join two nodes"):
        Link("a", "a", 1.0, 1.0)
    with pytest.raises(ValueError, match="names a pool twice"):
        Link("a", "b", 1.0, 1.0, None, ("p", "p"))
    with pytest.raises(ValueError, match="link a->b names a pool that is not given: p"):
        cluster({"a": "gpu", "b": "gpu"}, [Link("a", "b", 1.0, 1.0, None, ("p",)), Link("b", "a", 1.0, 1.0)])


def test_a_cluster_survives_pickling_and_its_graph_is_frozen() -> None:
    machine = load_cluster("2x8xh100-ib")
    copy = pickle.loads(pickle.dumps(machine))
    assert copy.links == machine.links
    assert copy.route(0, 15) == machine.route(0, 15)
    assert dict(machine.graph.nodes(data="kind")) == machine.kinds
    assert [data["link"] for _, _, data in sorted(machine.graph.edges(data=True))] == list(machine.links)
    with pytest.raises(Exception, match=r"[Ff]rozen"):
        machine.graph.remove_node("rail0")


def test_description_is_json_and_complete() -> None:
    for name in cluster_names():
        machine = load_cluster(name)
        data = json.loads(json.dumps(describe(machine), allow_nan=False))
        assert data["name"] == name
        assert len(data["links"]) == len(machine.links)
        assert [gpu["node"] for gpu in data["gpus"]] == list(machine.gpus)
        assert data["sources"] == dict(machine.sources)
        assert data["gpu"]["sources"]["peak.bf16"]


def test_drawing_shows_every_node_once_and_every_link() -> None:
    for name in cluster_names():
        machine = load_cluster(name)
        tree = draw(machine).splitlines()
        shown = [line.lstrip("│├└─ ").split(" ")[0] for line in tree if " (" in line and ": " not in line]
        assert sorted(shown) == sorted(machine.graph), name
    text = draw(load_cluster("8xl40s-pcie"))
    assert "├─ bridge1 (host bridge)  38.8 GB/s, at most 20.75 GB/s a flow each way" in text
    assert "│  ├─ gpu4 (rank 4, l40s)  26.26 GB/s each way" in text
    assert "also, 64 GB/s: gpu1 <-> gpu2, gpu1 <-> gpu3, gpu1 <-> gpu4, ... gpu6 <-> gpu7 (21 in all)" in draw(
        load_cluster("8xmi300x-xgmi")
    )


def test_a_link_slowed_one_way_is_drawn_one_way() -> None:
    text = draw(load_cluster("8xl40s-pcie").with_link_scaled("gpu0->bridge0", 0.5))
    assert "one way, 13.13 GB/s: gpu0->bridge0" in text
    assert "one way, 26.26 GB/s: bridge0->gpu0" in text


def test_many_routes_are_cheap_and_cached() -> None:
    """All pairs of 64 GPUs: the graph is searched once per GPU, not once per pair (counted, not timed)."""
    node = switched_node(8, WIRE, reduces=True)
    machine = rail_optimised(node, 8, nic_link=WIRE, network_link=WIRE).cluster(
        name="8x8", title="any", gpu=GPU, fabric="any"
    )
    searches = 0
    original = Cluster._search

    def counted(self: Cluster, source: str, through_nics: bool) -> dict[str, tuple[str, ...]]:
        nonlocal searches
        searches += 1
        return original(self, source, through_nics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cluster, "_search", counted)
        fresh = replace(machine)
        hops = Counter(len(fresh.route(a, b)) for a in range(64) for b in range(64) if a != b)
    assert searches == 2 * 64
    assert hops == {2: 64 * 7, 4: 64 * 7, 5: 64 * 49}


def test_importing_topologies_loads_neither_torch_nor_pydantic_nor_networkx() -> None:
    """Fix: import pydantic from files.py and what it alone imports, networkx in `Cluster.graph`, and nowhere else."""
    code = "import sys, thinwire.topologies.load, thinwire.topologies.draw; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "thinwire.topologies.cluster" in loaded
    assert not {"torch", "pydantic", "networkx", "scipy", "pandas", "matplotlib"} & set(loaded)


def test_pcie_pools_bind_where_they_should() -> None:
    tree = pcie_tree(
        [2, 2],
        Wire(10e9, 1e-6),
        socket_link=Wire(100e9, 1e-6),
        bridge_bytes_per_s=6e9,
        socket_both_ways_bytes_per_s=4e9,
    ).cluster(name="any", title="any", gpu=GPU, fabric="any")
    assert rates(tree, [(0, 1), (1, 0)]) == pytest.approx([3.0, 3.0])  # both pass bridge 0
    assert rates(tree, [(0, 2), (2, 0)]) == pytest.approx([2.0, 2.0])  # both directions share the socket link
    assert rates(tree, [(0, 1), (2, 3)]) == pytest.approx([6.0, 6.0])


def test_equal_is_what_states_the_same() -> None:
    """Whether it came by pickle, from a file read again, or out of a what-if that left nothing as it was."""
    known = load_cluster("2x8xh100-ib")
    known.route(0, 9)
    again = pickle.loads(pickle.dumps(known))
    assert again is not known and known == again and hash(known) == hash(again)
    assert known.take(4) == again.take(4) != known and {known: 1}[again] == 1
    assert known != known.with_link_scaled("*", 0.5) and known != known.name
    for name, value in (("fabric", "other"), ("title", ""), ("peer_to_peer", False), ("assumptions", ("said",))):
        assert known != replace(known, **{name: value}), name
