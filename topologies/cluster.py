"""A cluster: a directed graph of GPUs, switches, host bridges and NICs, with routes between ranks.

Bandwidths here are rates of the wire (datasheet or measured for one hop). What a protocol loses on top of
them, and the software latency of a step, belong to the fabric's profile.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import pairwise, permutations
from typing import TYPE_CHECKING, Final, Literal, get_args

from thinwire.edge.limits import FACTOR, GPUS, LINKS
from thinwire.edge.words import cut, shown
from thinwire.topologies.reach import loosest, reached

if TYPE_CHECKING:
    import networkx as nx

SWITCH: Final = -1
"""Pseudo rank of the reducing switch in `Cluster.route`; the same number as `reference.core.schedule.SWITCH`."""

NodeKind = Literal["gpu", "switch", "host_bridge", "nic"]
NODE_KINDS: Final[tuple[str, ...]] = get_args(NodeKind)


def _positive(what: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{what} must be a positive finite number: {value}")


class DisconnectedError(ValueError):
    """A GPU (or the reducing switch), `node`, that cannot reach or be reached by every other."""

    def __init__(self, node: str, message: str) -> None:
        super().__init__(message)
        self.node = node


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU model. Peaks are dense (no sparsity), by element format: `bf16`, and `fp8`, `int8` where known.

    `sources` has one entry per number, `"kind: where"`, kind being datasheet, measured or assumed. `pci_ids` (as
    `10de:26b9`) and `product_names` (as drivers print them) are what the model is told by in what machines print of
    themselves. `architecture` and `chip` (`Ampere`, `GA102`) say who is like whom; `relative` names the catalog GPU
    whose kernels stand in for this one's where nobody measured them; `matmul_flops_per_s` is the fastest large product
    in bf16, where that is known and the relative's share of the peak would mislead.
    """

    name: str
    peak_flops_per_s: Mapping[str, float]
    memory_bytes: float
    memory_bandwidth_bytes_per_s: float
    sm_count: int
    l2_bytes: float | None
    sources: Mapping[str, str]
    pci_ids: tuple[str, ...] = ()
    product_names: tuple[str, ...] = ()
    architecture: str | None = None
    chip: str | None = None
    relative: str | None = None
    matmul_flops_per_s: float | None = None
    title: str = ""

    def __hash__(self) -> int:  # what is derived from a GPU is kept by it; equality looks at every number
        return hash((self.name, self.memory_bandwidth_bytes_per_s, self.sm_count, self.relative))


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a wire from node `source` to node `target`.

    All flows on the link share `bandwidth_bytes_per_s`; one flow never exceeds `flow_cap_bytes_per_s`.
    `pools` names capacities shared with other links: a flow loads a pool once for each link of its route that
    names it.
    """

    source: str
    target: str
    bandwidth_bytes_per_s: float
    latency_s: float
    flow_cap_bytes_per_s: float | None = None
    pools: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        what = f"{self.source}->{self.target}"
        _positive(f"bandwidth_bytes_per_s of link {what}", self.bandwidth_bytes_per_s)
        _positive(f"latency_s of link {what}", self.latency_s)
        if self.flow_cap_bytes_per_s is not None:
            _positive(f"flow_cap_bytes_per_s of link {what}", self.flow_cap_bytes_per_s)
        if self.source == self.target:
            raise ValueError(f"a link must join two nodes: source={self.source}, target={self.target}")
        if len(set(self.pools)) != len(self.pools):
            raise ValueError(f"link {what} names a pool twice: pools={self.pools}")

    @property
    def name(self) -> str:
        """`source->target`, what `Cluster.with_link_scaled` matches its pattern against."""
        return f"{self.source}->{self.target}"

    @property
    def flow_limit_bytes_per_s(self) -> float:
        """The most one flow can reach on this link alone (pools aside)."""
        cap = self.flow_cap_bytes_per_s
        return self.bandwidth_bytes_per_s if cap is None else min(cap, self.bandwidth_bytes_per_s)


@dataclass(frozen=True, slots=True)
class Nic:
    """A network interface of a host: its name, the ranks it is nearest to, and its rate each way where it is known."""

    name: str
    ranks: tuple[int, ...] = ()
    bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Domain:
    """A NUMA domain of a host: its ranks, those that share a PCIe switch, and its NICs."""

    name: str
    ranks: tuple[int, ...]
    switches: tuple[tuple[int, ...], ...] = ()
    nics: tuple[Nic, ...] = ()

    def renumbered(self, new_rank: Mapping[int, int]) -> Domain:
        """The same with other ranks; those without a new one go."""

        def new(ranks: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(sorted(new_rank[rank] for rank in ranks if rank in new_rank))

        nics = tuple(replace(nic, ranks=new(nic.ranks)) for nic in self.nics)
        return Domain(self.name, new(self.ranks), tuple(filter(None, map(new, self.switches))), nics)


@dataclass(frozen=True)
class Cluster:
    """GPUs in rank order on a graph. Compared by all that it states; every what-if returns a new one.

    `kinds` names every node and what it is (gpu, switch, host_bridge, nic), `links` joins them (kept sorted by
    source, then target); `graph` is the same as a networkx graph. `gpus[r]` is rank r's node. `islands` groups ranks
    that are close to each other (a NUMA domain, a node). `indices[r]` is rank r's number on the machine that it was
    taken from: its rank, where nobody took a part. `pools` are capacities in bytes/s shared by several links.
    `reducing_switch` is the switch that can sum (NVLink SHARP), if any. `fabric` names the profile with the fabric's
    protocol costs. `peer_to_peer`: a GPU may write another's memory; without it all is staged in the host's. `domains`
    are what the machine has besides, for people: no flow takes it. ValueError where these disagree, for a kind or an
    end of a link that is unknown, or a link given twice; `DisconnectedError` when a GPU cannot reach another.
    """

    name: str
    title: str
    gpu: Gpu
    fabric: str
    gpus: tuple[str, ...]
    kinds: Mapping[str, str]
    links: tuple[Link, ...]
    pools: Mapping[str, float]
    reducing_switch: str | None
    islands: tuple[tuple[int, ...], ...]
    sources: Mapping[str, str] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    peer_to_peer: bool = True
    domains: tuple[Domain, ...] = ()
    _links: dict[tuple[str, str], Link] = field(default_factory=dict, init=False, repr=False, compare=False)
    _targets: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _paths: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _routes: dict[tuple[int, int], tuple[Link, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        LINKS.check("links", len(self.links))
        self._check_graph()
        GPUS.check("GPUs", len(self.gpus))
        if len(set(self.gpus)) != len(self.gpus):
            raise ValueError(f"each GPU is one rank: gpus={shown(self.gpus)}")
        if not self.indices:
            object.__setattr__(self, "indices", tuple(range(len(self.gpus))))
        if len(self.indices) != len(self.gpus):
            raise ValueError(f"indices must number each GPU: indices={shown(self.indices)}, GPUs={len(self.gpus)}")
        for node in self.gpus:
            if self.kinds.get(node) != "gpu":
                raise ValueError(f"rank {self.gpus.index(node)} must be a node of kind gpu: {node}")
        if sorted(rank for island in self.islands for rank in island) != list(range(len(self.gpus))):
            raise ValueError(
                f"islands must hold every rank once: islands={shown(self.islands)}, ranks={len(self.gpus)}"
            )
        if not all(self.islands):
            raise ValueError(f"an island must hold a GPU: islands={shown(self.islands)}")
        for pool, capacity in self.pools.items():
            _positive(f"capacity of pool {pool}", capacity)
        for link in self.links:
            for pool in link.pools:
                if pool not in self.pools:
                    raise ValueError(f"link {link.name} names a pool that is not given: {pool}")
        switch = self.reducing_switch
        if switch is not None and self.kinds.get(switch) != "switch":
            raise ValueError(f"reducing_switch must be a node of kind switch: {switch}")
        self._check_connected()

    def __hash__(self) -> int:  # cheap, and little is lost: machines of one name are mostly one machine
        return hash((self.name, self.gpus, self.indices, len(self.links)))

    def _check_graph(self) -> None:
        for node, kind in self.kinds.items():
            if kind not in NODE_KINDS:
                raise ValueError(f"kind of node {node} must be one of {', '.join(NODE_KINDS)}: {kind}")
        for link in self.links:
            for end in (link.source, link.target):
                if end not in self.kinds:
                    raise ValueError(f"link {link.name} ends at a node that is not listed: {end}")
            if (link.source, link.target) in self._links:
                raise ValueError(f"link {link.name} is given twice")
            self._links[link.source, link.target] = link
        object.__setattr__(self, "links", tuple(self._links[ends] for ends in sorted(self._links)))
        for link in self.links:
            self._targets.setdefault(link.source, []).append(link.target)

    def _check_connected(self) -> None:
        ends = self.gpus if self.reducing_switch is None else (*self.gpus, self.reducing_switch)
        forwards = [node for node, kind in self.kinds.items() if kind != "gpu"]
        broken = loosest(ends, reached(ends, self._targets, forwards))
        if broken is not None:
            loose, a, b = broken
            rule = f"{cut(loose)} is disconnected: no route {cut(a)}->{cut(b)} (GPUs forward no traffic)"
            raise DisconnectedError(loose, rule)

    @cached_property
    def graph(self) -> nx.DiGraph[str]:
        """A frozen networkx graph: nodes with their `kind`, edges with their `link`.

        Made when asked for: importing networkx takes longer than a prediction.
        """
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph()
        for node, kind in self.kinds.items():
            graph.add_node(node, kind=kind)
        for link in self.links:
            graph.add_edge(link.source, link.target, link=link)
        return nx.freeze(graph)  # type: ignore[no-any-return]

    @cached_property
    def hosts(self) -> tuple[tuple[int, ...], ...]:
        """Ranks by host, what `--nodes` counts: those that are joined without a NIC, whatever the direction of links.

        Islands need not be hosts: they may be NUMA domains of one. Racks on one NVLink switch are one host. In the
        order of each host's first rank; ranks in order.
        """
        parent = {node: node for node, kind in self.kinds.items() if kind != "nic"}

        def root(node: str) -> str:
            while parent[node] != node:
                parent[node] = node = parent[parent[node]]
            return node

        for link in self.links:
            if link.source in parent and link.target in parent:
                parent[root(link.source)] = root(link.target)
        found: dict[str, list[int]] = {}
        for rank, node in enumerate(self.gpus):
            found.setdefault(root(node), []).append(rank)
        return tuple(map(tuple, found.values()))

    @cached_property
    def fully_linked(self) -> bool:
        """Whether every two ranks are joined by NVLink or xGMI: no host bridge, NIC or PCIe switch on any route. A
        switch is a PCIe switch where a host bridge can be reached from it through switches alone.
        """
        pcie = {node for node, kind in self.kinds.items() if kind == "host_bridge"}
        waiting = list(pcie)
        before: dict[str, list[str]] = {}
        for link in self.links:
            before.setdefault(link.target, []).append(link.source)
        for node in waiting:
            found = [n for n in before.get(node, ()) if self.kinds[n] == "switch" and n not in pcie]
            pcie.update(found)
            waiting += found
        return not any(node in pcie or self.kinds[node] == "nic" for node in self._on_the_way)

    @property
    def meshed(self) -> bool:
        """Whether every two ranks have a link of their own."""
        return all(self.has_link(a, b) for a, b in permutations(self.gpus, 2))

    @cached_property
    def _on_the_way(self) -> frozenset[str]:
        """The nodes between every two ranks."""
        ranks = range(len(self.gpus))
        return frozenset(link.target for a in ranks for b in ranks if a != b for link in self.route(a, b)[:-1])

    def has_link(self, source: str, target: str) -> bool:
        """Whether a link leads from one node to the other."""
        return (source, target) in self._links

    def link(self, source: str, target: str) -> Link:
        """The link between two nodes; ValueError when there is none."""
        if not self.has_link(source, target):
            raise ValueError(f"no link {source}->{target} in {self.name}")
        return self._links[source, target]

    def _paths_from(self, source: str) -> dict[str, tuple[str, ...]]:
        """The path to every node that can be reached, `source` included.

        The network is entered only where there is no way without it: traffic inside a machine does not leave
        it, however few the hops outside.
        """
        found = self._paths.get(source)
        if found is None:
            found = self._search(source, through_nics=True) | self._search(source, through_nics=False)
            self._paths[source] = found
        return found

    def _search(self, source: str, through_nics: bool) -> dict[str, tuple[str, ...]]:
        """Breadth first over sorted neighbours: of the shortest paths, the lexicographically smallest.

        GPUs end paths: hardware does not forward through them.
        """
        kind = self.kinds
        paths: dict[str, tuple[str, ...]] = {source: (source,)}
        queue = [source]
        for node in queue:
            ends_here = kind[node] == "gpu" or (kind[node] == "nic" and not through_nics)
            if node == source or not ends_here:
                for target in self._targets.get(node, ()):
                    if target not in paths:
                        paths[target] = (*paths[node], target)
                        queue.append(target)
        return paths

    def _node(self, rank: int) -> str:
        if rank == SWITCH:
            if self.reducing_switch is None:
                raise ValueError(f"{self.name} has no reducing switch: rank {SWITCH} cannot be routed")
            return self.reducing_switch
        if not 0 <= rank < len(self.gpus):
            raise ValueError(f"rank must be 0..{len(self.gpus) - 1} in {self.name}: {rank}")
        return self.gpus[rank]

    def route(self, source: int, destination: int) -> tuple[Link, ...]:
        """The links a flow between two ranks takes: fewest hops, then lexicographic by node; () to itself.

        GPUs forward nothing, and NICs are used only where there is no way without them. `SWITCH` (-1) stands
        for the reducing switch. ValueError for a rank that does not exist.
        """
        key = (source, destination)
        found = self._routes.get(key)
        if found is None:
            path = self._paths_from(self._node(source))[self._node(destination)]
            found = self._routes[key] = tuple(self.link(a, b) for a, b in pairwise(path))
        return found

    def reorder(self, ranks: Sequence[int]) -> Cluster:
        """The cluster whose rank i is the old rank `ranks[i]`; ranks not named go, the graph stays whole."""
        if not ranks:
            raise ValueError("a cluster needs at least one GPU: ranks is empty")
        for rank in ranks:
            if not 0 <= rank < len(self.gpus):
                raise ValueError(f"rank must be 0..{len(self.gpus) - 1} in {self.name}: {rank}")
        new_rank = {old: new for new, old in enumerate(ranks)}
        islands = (tuple(sorted(new_rank[rank] for rank in island if rank in new_rank)) for island in self.islands)
        return replace(
            self,
            gpus=tuple(self.gpus[rank] for rank in ranks),
            islands=tuple(sorted(island for island in islands if island)),
            indices=tuple(self.indices[rank] for rank in ranks),
            domains=tuple(domain.renumbered(new_rank) for domain in self.domains),
        )

    def take(self, n: int) -> Cluster:
        """The first `n` GPUs on the whole graph, islands cut to them; ValueError unless 1 <= n <= GPUs."""
        if not 1 <= n <= len(self.gpus):
            raise ValueError(f"n must be 1..{len(self.gpus)}, the GPUs of {self.name}: {n}")
        return self if n == len(self.gpus) else self.reorder(range(n))

    def with_link_scaled(self, pattern: str, factor: float) -> Cluster:
        """What-if: the links (and pools) matching `pattern` at `factor` times their rate.

        `pattern` is a shell pattern (fnmatch) on `source->target` and on `pool:NAME`: `gpu0->*` slows what
        GPU 0 sends, `pool:*` every pool, `*` everything. A link's flow cap scales with it. A pool on the link
        does not scale unless matched, so a faster link may leave its pool in charge: then the assumptions say so.
        ValueError if nothing matches.
        """
        _positive("factor", factor)
        FACTOR.check("factor", factor)
        links: list[Link] = []
        matched = False
        shared: dict[str, None] = {}
        for link in self.links:
            if fnmatchcase(link.name, pattern):
                matched = True
                shared.update(dict.fromkeys(link.pools))
                cap = link.flow_cap_bytes_per_s
                link = replace(
                    link,
                    bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * factor,
                    flow_cap_bytes_per_s=None if cap is None else cap * factor,
                )
            links.append(link)
        pools = dict(self.pools)
        for pool in pools:
            if fnmatchcase(f"pool:{pool}", pattern):
                matched = True
                pools[pool] *= factor
                shared.pop(pool, None)
        if not matched:
            examples = ", ".join(link.name for link in self.links[:3])
            raise ValueError(f"no link or pool of {self.name} matches {shown(pattern)}; links are like {examples}")
        said = f"what-if: {pattern} at {factor:g} times its bandwidth"
        if factor > 1 and shared:
            said += f"; not the {len(shared)} pools that such links share, as pool:{next(iter(shared))}"
        return replace(self, links=tuple(links), pools=pools, assumptions=(*self.assumptions, said))
