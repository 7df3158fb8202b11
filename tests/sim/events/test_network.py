"""Max-min fair sharing, and the network that applies it to flows that come and go.

A max-min allocation is the only one in which every flow has a bottleneck: its own cap, or a full resource on its route
where nobody is faster. So the bottleneck test below holds for the right rates and for no others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.sim.events.network import Batch, Floats, Ints, Network, Routes, groups, max_min_rates
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.load import load_cluster

from ..helpers import CATALOG, GB_PER_S, PORT_BYTES_PER_S, ROUTE_LATENCY_S, close, switched

INF = float("inf")


@dataclass(frozen=True)
class Sharing:
    """Arguments of `max_min_rates`; routes without their padding."""

    routes: tuple[tuple[int, ...], ...]
    counts: tuple[int, ...]
    caps: tuple[float, ...]
    capacities: tuple[float, ...]

    def rates(self) -> Floats:
        hops = max(map(len, self.routes))
        table = np.full((len(self.routes), hops), len(self.capacities), dtype=np.int64)
        for row, route in zip(table, self.routes, strict=True):
            row[: len(route)] = route
        capacities = np.array([*self.capacities, np.inf])
        return max_min_rates(table, np.array(self.counts), np.array(self.caps), capacities)

    def load(self, rates: Floats) -> list[float]:
        return [
            sum(
                n * rate * route.count(resource) for route, n, rate in zip(self.routes, self.counts, rates, strict=True)
            )
            for resource in range(len(self.capacities))
        ]


@st.composite
def sharings(draw: st.DrawFn) -> Sharing:
    resources = draw(st.integers(1, 6))
    classes = draw(st.integers(1, 8))
    # a pool stands in a route once for each link in it, so a resource may recur
    route = st.lists(st.integers(0, resources - 1), min_size=1, max_size=4).map(tuple)
    amount = st.sampled_from((1.0, 2.0, 3.0, 10.0)) | st.floats(0.01, 1000)
    return Sharing(
        tuple(draw(route) for _ in range(classes)),
        tuple(draw(st.integers(0, 4)) for _ in range(classes)),
        tuple(draw(st.just(INF) | amount) for _ in range(classes)),
        tuple(draw(amount) for _ in range(resources)),
    )


@given(sharings())
@settings(max_examples=300)
def test_rates_are_feasible_and_every_flow_has_a_bottleneck(s: Sharing) -> None:
    rates = s.rates()
    load = s.load(rates)
    for used, capacity in zip(load, s.capacities, strict=True):
        assert used <= capacity * (1 + 1e-9)
    for route, n, cap, rate in zip(s.routes, s.counts, s.caps, rates, strict=True):
        if not n:
            assert rate == 0
            continue
        assert 0 < rate <= cap * (1 + 1e-9)
        full_and_fastest = any(
            load[r] >= s.capacities[r] * (1 - 1e-9)
            and all(
                other <= rate * (1 + 1e-9)
                for path, m, other in zip(s.routes, s.counts, rates, strict=True)
                if m and r in path
            )
            for r in route
        )
        assert full_and_fastest or rate >= cap * (1 - 1e-9)


@given(sharings(), st.floats(1e-3, 1e9))
def test_rates_scale_with_capacities(s: Sharing, factor: float) -> None:
    scaled = Sharing(s.routes, s.counts, tuple(c * factor for c in s.caps), tuple(c * factor for c in s.capacities))
    np.testing.assert_allclose(scaled.rates(), s.rates() * factor, rtol=1e-9)


@given(sharings(), st.randoms(use_true_random=False))
def test_rates_do_not_depend_on_the_order_of_classes_or_on_how_flows_are_grouped(s: Sharing, random: Random) -> None:
    single = [i for i, n in enumerate(s.counts) for _ in range(n)]
    random.shuffle(single)
    if not single:
        return
    apart = Sharing(
        tuple(s.routes[i] for i in single),
        (1,) * len(single),
        tuple(s.caps[i] for i in single),
        s.capacities,
    )
    np.testing.assert_allclose(apart.rates(), s.rates()[single], rtol=1e-9)


def test_the_textbook_example() -> None:
    # Bertsekas and Gallager's line: one long flow over links of 1, 1 and 2, and one short flow on each.
    rates = Sharing(((0, 1, 2), (0,), (1,), (2,)), (1, 1, 1, 1), (INF,) * 4, (1.0, 1.0, 2.0)).rates()
    assert rates.tolist() == pytest.approx([0.5, 0.5, 0.5, 1.5], rel=1e-12)


def test_a_capped_flow_leaves_the_rest_to_others() -> None:
    rates = Sharing(((0,), (0,)), (1, 3), (1.0, INF), (10.0,)).rates()
    assert rates.tolist() == pytest.approx([1.0, 3.0], rel=1e-12)


# --- flows in time ---


def carry(
    cluster: Cluster,
    flows: Sequence[tuple[float, int, int, float]],
    channels: int = 1,
    work: float = 1.0,
    in_order: bool = False,
) -> tuple[list[float], Network]:
    """Arrival time of each flow (start_s, source, destination, bytes), and the network afterwards."""
    env, routes = simpy.Environment(), Routes(cluster)
    pairs = [routes.pair(source, destination, channels) for _, source, destination, _ in flows]
    network = Network(env, routes)
    arrived = [-1.0] * len(flows)

    def start(indices: list[int]) -> None:
        nbytes = np.array([flows[i][3] for i in indices])

        def on_arrival(which: Ints) -> None:
            for i in which:
                assert arrived[indices[i]] < 0, "a flow arrives once"
                arrived[indices[i]] = env.now

        network.start(Batch(np.array([pairs[i] for i in indices]), nbytes, nbytes * work, on_arrival, in_order))

    for moment in sorted({flow[0] for flow in flows}):
        together = [i for i, flow in enumerate(flows) if flow[0] == moment]
        env.timeout(moment).callbacks.append(lambda _event, together=together: start(together))  # type: ignore[misc]
    env.run()
    assert min(arrived) >= 0
    assert not network.busy
    return arrived, network


SECOND = PORT_BYTES_PER_S  # bytes a port carries in a second


def test_a_flow_alone_takes_its_bytes_over_the_bandwidth_and_the_latency() -> None:
    (end,), network = carry(switched(2), [(0.0, 0, 1, 3 * SECOND)])
    assert close(end, 3 + ROUTE_LATENCY_S)
    assert close(network.peak_utilisation(), 1.0)


def test_work_takes_time_but_bytes_are_counted() -> None:
    (end,), network = carry(switched(2), [(0.0, 0, 1, 3 * SECOND)], work=1.25)
    assert close(end, 3.75 + ROUTE_LATENCY_S)
    assert network.link_bytes()["gpu0", "nvswitch"] == 3 * SECOND
    assert network.link_bytes()["gpu1", "nvswitch"] == 0


def test_flows_share_a_port_and_the_longer_one_speeds_up_when_the_other_has_left() -> None:
    ends, _ = carry(switched(3), [(0.0, 0, 1, SECOND), (0.0, 0, 2, 3 * SECOND)])
    assert close(ends[0], 2 + ROUTE_LATENCY_S)
    assert close(ends[1], 4 + ROUTE_LATENCY_S)


def test_a_late_flow_slows_the_one_under_way_from_then_on() -> None:
    # alone for a second, then half the port each: 2 s of work left take 4 s, of which the newcomer's 1 s takes 2
    ends, _ = carry(switched(3), [(0.0, 0, 1, 3 * SECOND), (1.0, 0, 2, SECOND)])
    assert close(ends[1], 3 + ROUTE_LATENCY_S)
    assert close(ends[0], 4 + ROUTE_LATENCY_S)


def test_a_flow_may_start_at_the_instant_another_ends() -> None:
    flows = [(0.0, 0, 1, SECOND), (0.0, 0, 2, SECOND), (2.0, 0, 1, SECOND), (2.0, 3, 1, SECOND), (4.0, 0, 1, SECOND)]
    ends, network = carry(switched(4), flows)
    assert all(close(end, at + ROUTE_LATENCY_S) for end, at in zip(ends, (2, 2, 4, 4, 5), strict=True))
    assert network.link_bytes()["gpu0", "nvswitch"] == 4 * SECOND


def test_messages_in_order_follow_one_another_on_their_pair_alone() -> None:
    # 0 -> 1 sends its second message when the first has left, not when it has arrived; 0 -> 2 shares the port with it
    flows = [(0.0, 0, 1, SECOND), (0.0, 0, 1, SECOND), (0.5, 0, 1, SECOND), (5.0, 0, 1, SECOND)]
    ends, network = carry(switched(3), flows, in_order=True)
    assert all(close(end, at + ROUTE_LATENCY_S) for end, at in zip(ends, (1, 2, 3, 6), strict=True))
    ends, _ = carry(switched(3), [(0.0, 0, 1, SECOND), (0.0, 0, 1, SECOND), (0.0, 0, 2, 3 * SECOND)], in_order=True)
    assert all(close(end, at + ROUTE_LATENCY_S) for end, at in zip(ends, (2, 4, 5), strict=True))
    together, _ = carry(switched(3), flows[:2])
    assert all(close(end, 2 + ROUTE_LATENCY_S) for end in together)
    assert network.link_bytes()["gpu0", "nvswitch"] == 4 * SECOND


def test_directions_of_a_port_are_apart() -> None:
    ends, _ = carry(switched(2), [(0.0, 0, 1, SECOND), (0.0, 1, 0, SECOND)])
    assert all(close(end, 1 + ROUTE_LATENCY_S) for end in ends)


@pytest.mark.parametrize(("channels", "seconds"), [(1, 4.0), (3, 4 / 3), (8, 1.0)])
def test_a_flow_cap_counts_for_each_connection(channels: int, seconds: float) -> None:
    (end,), _ = carry(switched(2, flow_cap_bytes_per_s=SECOND / 4), [(0.0, 0, 1, SECOND)], channels)
    assert close(end, seconds + ROUTE_LATENCY_S)


def test_an_empty_network_is_idle_and_counts_nothing() -> None:
    network = Network(simpy.Environment(), Routes(switched(4)))
    assert not network.busy
    assert network.peak_utilisation() == 0
    assert set(network.link_bytes().values()) <= {0.0}


def test_a_pool_is_loaded_once_for_each_link_of_the_route_in_it() -> None:
    cluster = load_cluster("8xl40s-pcie")
    (row,) = _rows(cluster, [(0, 1)])
    names = [*(link.name for link in cluster.links), *sorted(cluster.pools)]
    assert [names[r] for r in row] == ["gpu0->bridge0", "gpu0.duplex", "bridge0->gpu1", "gpu1.duplex"]


@pytest.mark.parametrize("share", [0.5, 1.0, 1.5, 1.9, 2.0, 3.0])
def test_a_pool_that_two_links_of_a_route_name_is_crossed_twice(share: float) -> None:
    """Up to the switch and down again: two bytes pass the backplane for one of the flow's."""
    plain = switched(3)
    links = tuple(replace(link, pools=("backplane",)) for link in plain.links)
    cluster = replace(plain, links=links, pools={"backplane": share * PORT_BYTES_PER_S})
    for flows in ([(0.0, 0, 1, SECOND)], [(0.0, 0, 1, SECOND), (0.0, 1, 2, SECOND)]):
        arrived, network = carry(cluster, flows)
        seconds = max(1.0, 2 * len(flows) / share)
        assert all(close(at_s, ROUTE_LATENCY_S + seconds) for at_s in arrived)
        assert network.peak_utilisation() == pytest.approx(1.0)


def _rows(cluster: Cluster, pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    routes = Routes(cluster)
    for source, destination in pairs:
        routes.pair(source, destination)
    padding = len(routes.capacities) - 1
    assert routes.capacities[padding] == INF
    return [[int(r) for r in row if r != padding] for row in routes.table]


def test_pairs_are_found_again_and_keep_their_row() -> None:
    routes = Routes(switched(4, flow_cap_bytes_per_s=1.0))
    first = [routes.pair(0, 1), routes.pair(0, 2), routes.pair(0, 1, 2)]
    assert len(set(first)) == 3
    assert [routes.pair(0, 1), routes.pair(0, 2), routes.pair(0, 1, 2)] == first
    assert routes.cap.tolist() == [1.0, 1.0, 2.0]
    assert all(close(latency, ROUTE_LATENCY_S) for latency in routes.latency_s)


# --- the machine whose rates are published ---

RING_OF_8 = tuple((i, (i + 1) % 8) for i in range(8))
ISLAND = tuple((i, (i + 1) % 4) for i in range(4))
BOTH_ISLANDS = (*ISLAND, *((a + 4, b + 4) for a, b in ISLAND))
CROSSING = tuple((i, (i + 4) % 8) for i in range(8))


@pytest.mark.parametrize(
    ("pairs", "published_gb_per_s"),
    [
        (((0, 1),), 26.26),
        (ISLAND, 25.46),
        (BOTH_ISLANDS, 25.43),
        (RING_OF_8, 20.75),
        (CROSSING, 9.7),
    ],
    ids=["single hop", "ring in an island", "rings in both islands", "flat ring of 8", "all crossing"],
)
def test_the_rates_of_the_8x_l40s_host(pairs: Sequence[tuple[int, int]], published_gb_per_s: float) -> None:
    """flashinfer-ai/flashinfer#4870, from the topology alone. A ring is as fast as its slowest hop."""
    nbytes = 144 * 2**20 / 8
    cluster = load_cluster("8xl40s-pcie")
    ends, _ = carry(cluster, [(0.0, a, b, nbytes) for a, b in pairs])
    latencies = [sum(link.latency_s for link in cluster.route(a, b)) for a, b in pairs]
    slowest = min(nbytes / (end - latency) for end, latency in zip(ends, latencies, strict=True))
    assert slowest / GB_PER_S == pytest.approx(published_gb_per_s, rel=0.03)


# --- random traffic ---


@st.composite
def traffic(draw: st.DrawFn) -> tuple[str, list[tuple[float, int, int, float]]]:
    name = draw(st.sampled_from(CATALOG))
    ranks = len(load_cluster(name).gpus)
    count = draw(st.integers(1, 12))
    flows = []
    for _ in range(count):
        source = draw(st.integers(0, ranks - 1))
        destination = (source + draw(st.integers(1, ranks - 1))) % ranks
        start_s = draw(st.sampled_from((0.0, 1e-4, 2e-4)) | st.floats(0, 1e-3))
        flows.append((start_s, source, destination, draw(st.sampled_from((1e3, 1e6)) | st.floats(1, 1e8))))
    return name, flows


@given(traffic())
@settings(max_examples=60)
def test_bytes_are_conserved_and_no_link_exceeds_its_capacity(
    case: tuple[str, list[tuple[float, int, int, float]]],
) -> None:
    name, flows = case
    cluster = load_cluster(name)
    ends, network = carry(cluster, flows)
    expected = dict.fromkeys(((link.source, link.target) for link in cluster.links), 0.0)
    for _, source, destination, nbytes in flows:
        for link in cluster.route(source, destination):
            expected[link.source, link.target] += nbytes
    counted = network.link_bytes()
    assert counted.keys() == expected.keys()
    for link_name, nbytes in expected.items():
        assert close(counted[link_name], nbytes)
    assert 0 < network.peak_utilisation() <= 1 + 1e-9
    for (start_s, source, destination, nbytes), end in zip(flows, ends, strict=True):
        route = cluster.route(source, destination)
        at_best = nbytes / min(link.flow_limit_bytes_per_s for link in route) + sum(link.latency_s for link in route)
        assert end - start_s >= at_best * (1 - 1e-9)
    # A link is never idle while something waits for nothing else: the last arrival is bounded by all flows in a row.
    slowest = sum(nbytes / _alone_bytes_per_s(cluster, a, b) for _, a, b, nbytes in flows)
    latest_start = max(start_s for start_s, *_ in flows)
    assert max(ends) <= latest_start + slowest + 1e-4


def _alone_bytes_per_s(cluster: Cluster, source: int, destination: int) -> float:
    routes = Routes(cluster)
    routes.pair(source, destination)
    return float(routes.rates(np.array([1]))[0])


def test_equal_flows_from_equal_places_arrive_together() -> None:
    flows = [(0.0, a, b, 1e7 / 3) for a in range(8) for b in range(8) if a != b]
    ends, _ = carry(load_cluster("8xh100-nvlink"), flows)
    assert len(set(ends)) == 1


@given(st.lists(st.integers(0, 5), max_size=30))
def test_groups_hold_every_index_once_in_rising_order_of_value(values: list[int]) -> None:
    found = [(int(value), indices.tolist()) for value, indices in groups(np.array(values))]
    assert [value for value, _ in found] == sorted(set(values))
    assert all(values[i] == value for value, indices in found for i in indices)
    assert sorted(i for _, indices in found for i in indices) == list(range(len(values)))
