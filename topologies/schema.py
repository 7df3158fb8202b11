"""The shape of machine and GPU files: one pydantic model per file and per kind of topology."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StrictStr, field_validator

from thinwire.edge.limits import GPUS
from thinwire.topologies.cluster import NODE_KINDS, Domain, Link, Nic, NodeKind
from thinwire.topologies.generators import Fabric, Wire, fat_tree, full_mesh, pcie_tree, rail_optimised, switched_node
from thinwire.topologies.lines import KeyPath
from thinwire.topologies.units import Bandwidth, Bytes, Compute, Processors, Table, Time, si_or_none


class MisplacedError(ValueError):
    """A broken rule at a key of the file: `path` is relative to the table whose model raised it."""

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path


Text = Annotated[str, Field(strict=True, min_length=1)]
# What-if patterns give * ? [ and -> a meaning.
Name = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z0-9_.-]+$")]
Count = Annotated[int, Field(strict=True, ge=1)]
Rank = Annotated[int, Field(strict=True, ge=0, le=GPUS.most)]
# Vendor and device, as lspci prints them: 10de:26b9.
PciId = Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{4}:[0-9a-f]{4}$")]


class GpuFile(Table):
    """A file of gpus/: one GPU model."""

    name: Text
    title: Text
    architecture: Text | None = None
    chip: Text | None = None
    relative: Text | None = None
    matmul: Compute | None = None
    peak: dict[Literal["bf16", "fp8", "int8", "fp4"], Compute]
    memory: Bytes
    memory_bandwidth: Bandwidth
    sm_count: Processors
    l2: Bytes | None = None
    pci_ids: list[PciId] = Field(default_factory=list)
    product_names: list[Text] = Field(default_factory=list)

    @field_validator("peak")
    @classmethod
    def _has_bf16(cls, peak: dict[str, Compute]) -> dict[str, Compute]:
        if "bf16" not in peak:
            raise ValueError("peak must have bf16")
        return peak


class NicTable(Table):
    """A network interface of a host, and the ranks of the GPUs it is nearest to."""

    name: Text
    gpus: list[Rank] = Field(default_factory=list)
    rate: Bandwidth | None = None


class DomainTable(Table):
    """A NUMA domain of a host, for people: which GPUs share its PCIe switches, and its NICs. It carries no flow."""

    numa: Text
    gpus: list[Rank]
    switches: list[list[Rank]] = Field(default_factory=list)
    nics: list[NicTable] = Field(default_factory=list)

    def domain(self) -> Domain:
        """The cluster's value."""
        nics = tuple(Nic(nic.name, tuple(nic.gpus), si_or_none(nic.rate)) for nic in self.nics)
        return Domain(self.numa, tuple(self.gpus), tuple(map(tuple, self.switches)), nics)


class MachineFile(Table):
    """A file of machines/, or a user's own; `topology` is read by the model of its `kind`."""

    name: Text
    title: Text
    gpu: Text
    fabric: Text
    peer_to_peer: Text
    assumptions: list[Text] = Field(default_factory=list)
    domain: list[DomainTable] = Field(default_factory=list)
    topology: dict[str, Any]


class WireTable(Table):
    """What a link can do in each direction."""

    bandwidth: Bandwidth
    latency: Time
    flow_cap: Bandwidth | None = None

    def wire(self) -> Wire:
        """The generators' value."""
        return Wire(self.bandwidth.si, self.latency.si, si_or_none(self.flow_cap))


class OneNode(Table):
    """A topology that is complete in itself: one machine, or everything spelled out."""

    @abstractmethod
    def build(self) -> Fabric:
        """The graph this table asks for; ValueError as its generator raises it."""


class SwitchedNode(OneNode):
    """`generators.switched_node`."""

    kind: Literal["switched_node"]
    gpus: Count
    port: WireTable
    reduces: StrictBool
    switch: Name = "nvswitch"

    def build(self) -> Fabric:
        """The graph this table asks for; ValueError as its generator raises it."""
        return switched_node(self.gpus, self.port.wire(), reduces=self.reduces, switch=self.switch)


class FullMesh(OneNode):
    """`generators.full_mesh`."""

    kind: Literal["full_mesh"]
    gpus: Count
    link: WireTable

    def build(self) -> Fabric:
        """The graph this table asks for; ValueError as its generator raises it."""
        return full_mesh(self.gpus, self.link.wire())


class PcieTree(OneNode):
    """`generators.pcie_tree`."""

    kind: Literal["pcie_tree"]
    islands: Annotated[list[Count], Field(min_length=1)]
    gpu_link: WireTable
    socket_link: WireTable | None = None
    gpus_per_switch: Count | None = None
    switch_link: WireTable | None = None
    gpu_duplex: Bandwidth | None = None
    bridge: Bandwidth | None = None
    socket_both_ways: Bandwidth | None = None
    peer_to_peer: StrictBool = True
    host_memory: Bandwidth | None = None

    def build(self) -> Fabric:
        """The graph this table asks for; ValueError as its generator raises it."""
        return pcie_tree(
            self.islands,
            self.gpu_link.wire(),
            socket_link=None if self.socket_link is None else self.socket_link.wire(),
            gpus_per_switch=self.gpus_per_switch,
            switch_link=None if self.switch_link is None else self.switch_link.wire(),
            gpu_duplex_bytes_per_s=si_or_none(self.gpu_duplex),
            bridge_bytes_per_s=si_or_none(self.bridge),
            socket_both_ways_bytes_per_s=si_or_none(self.socket_both_ways),
            peer_to_peer=self.peer_to_peer,
            host_memory_bytes_per_s=si_or_none(self.host_memory),
        )


class MultiNode(Table):
    """`nodes` copies of `node`, itself the table of a `OneNode`."""

    nodes: Count
    node: dict[str, Any]
    nic_link: WireTable
    network_link: WireTable
    gpus_per_nic: Count = 1
    oversubscription: Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)] = 1.0

    @abstractmethod
    def build_around(self, node: Fabric) -> Fabric:
        """The graph of all nodes, each like `node`; ValueError as its generator raises it."""


class RailOptimised(MultiNode):
    """`generators.rail_optimised`."""

    kind: Literal["rail_optimised"]
    cross_rail: Literal["node", "spine"] = "node"

    def build_around(self, node: Fabric) -> Fabric:
        """The graph of all nodes, each like `node`; ValueError as its generator raises it."""
        return rail_optimised(
            node,
            self.nodes,
            nic_link=self.nic_link.wire(),
            network_link=self.network_link.wire(),
            gpus_per_nic=self.gpus_per_nic,
            cross_rail=self.cross_rail,
            oversubscription=self.oversubscription,
        )


class FatTree(MultiNode):
    """`generators.fat_tree`."""

    kind: Literal["fat_tree"]
    nodes_per_leaf: Count

    def build_around(self, node: Fabric) -> Fabric:
        """The graph of all nodes, each like `node`; ValueError as its generator raises it."""
        return fat_tree(
            node,
            self.nodes,
            nodes_per_leaf=self.nodes_per_leaf,
            nic_link=self.nic_link.wire(),
            network_link=self.network_link.wire(),
            gpus_per_nic=self.gpus_per_nic,
            oversubscription=self.oversubscription,
        )


class NodeTable(Table):
    """A node of an explicit topology."""

    name: Name
    kind: NodeKind


class LinkTable(Table):
    """A wire between two nodes: both directions unless `one_way`."""

    source: Text
    target: Text
    bandwidth: Bandwidth
    latency: Time
    flow_cap: Bandwidth | None = None
    pools: list[Text] = Field(default_factory=list)
    one_way: StrictBool = False


class Explicit(OneNode):
    """Nodes, links and pools one by one; ranks are the GPUs in the order they are listed."""

    kind: Literal["explicit"]
    nodes: Annotated[list[NodeTable], Field(min_length=1)]
    links: list[LinkTable] = Field(default_factory=list)
    pools: dict[Name, Bandwidth] = Field(default_factory=dict)
    islands: list[list[StrictStr]] | None = None
    reducing_switch: Text | None = None
    peer_to_peer: StrictBool = True

    def build(self) -> Fabric:
        """The graph this table asks for; ValueError as its generator raises it."""
        kinds: dict[str, str] = {}
        for index, node in enumerate(self.nodes):
            if node.name in kinds:
                raise MisplacedError(("nodes", index, "name"), f"node {node.name} is given twice")
            kinds[node.name] = node.kind
        gpus = tuple(name for name, kind in kinds.items() if kind == "gpu")
        if not gpus:
            raise MisplacedError(("nodes",), f"no node of kind gpu (kinds: {', '.join(NODE_KINDS)})")
        rank = {name: index for index, name in enumerate(gpus)}
        islands: tuple[tuple[int, ...], ...] = (tuple(range(len(gpus))),)
        if self.islands is not None:
            placed = [name for island in self.islands for name in island]
            for index, island in enumerate(self.islands):
                if not island:
                    raise MisplacedError(("islands", index), "an island must hold a GPU")
                for position, name in enumerate(island):
                    if name not in rank or placed.count(name) > 1:
                        why = "is in two islands" if name in rank else "is not a GPU of this file"
                        raise MisplacedError(("islands", index, position), f"{name} {why}")
            for name in gpus:
                if name not in placed:
                    raise MisplacedError(("islands",), f"GPU {name} is in no island")
            islands = tuple(tuple(rank[name] for name in island) for island in self.islands)
        switch = self.reducing_switch
        if switch is not None and kinds.get(switch) != "switch":
            raise MisplacedError(("reducing_switch",), f"{switch} is not a node of kind switch")
        links = self._links(kinds)
        return Fabric(
            kinds=kinds,
            links=links,
            gpus=gpus,
            islands=islands,
            pools={name: pool.si for name, pool in self.pools.items()},
            reducing_switch=switch,
            peer_to_peer=self.peer_to_peer,
        )

    def _links(self, kinds: dict[str, str]) -> tuple[Link, ...]:
        links: dict[tuple[str, str], Link] = {}
        for index, table in enumerate(self.links):
            for key, end in (("source", table.source), ("target", table.target)):
                if end not in kinds:
                    raise MisplacedError(("links", index, key), f"no node named {end}")
            for position, pool in enumerate(table.pools):
                if pool not in self.pools:
                    raise MisplacedError(("links", index, "pools", position), f"no pool named {pool}")
            ends = [(table.source, table.target)]
            if not table.one_way:
                ends.append((table.target, table.source))
            for source, target in ends:
                if (source, target) in links:
                    raise MisplacedError(
                        ("links", index), f"link {source}->{target} is given twice (a link means both ways)"
                    )
                try:
                    links[source, target] = Link(
                        source,
                        target,
                        table.bandwidth.si,
                        table.latency.si,
                        si_or_none(table.flow_cap),
                        tuple(table.pools),
                    )
                except ValueError as error:
                    raise MisplacedError(("links", index), str(error)) from None
        return tuple(links.values())


TOPOLOGIES: dict[str, type[OneNode] | type[MultiNode]] = {
    "switched_node": SwitchedNode,
    "pcie_tree": PcieTree,
    "full_mesh": FullMesh,
    "rail_optimised": RailOptimised,
    "fat_tree": FatTree,
    "explicit": Explicit,
}
