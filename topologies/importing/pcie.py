"""The rates of a host's PCIe tree: measured where a matrix says, else as measured on machines of its generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinwire.edge.words import cut
from thinwire.topologies.cluster import Gpu
from thinwire.topologies.dumps.rates import typical
from thinwire.topologies.dumps.seen import Pair, Pcie, pair
from thinwire.topologies.importing.hardware import (
    DUPLEX,
    HOST_MEMORY_GB_PER_S,
    RTX_4090_HOST,
    SHARE_SOURCES,
    SHARES,
    SOCKETS,
    STAGED_FLOW_GB_PER_S,
    STAGED_SHARE,
    Family,
    nearest,
    reported,
    wire_bytes_per_s,
)  # fmt: skip
from thinwire.topologies.importing.merge import Host
from thinwire.topologies.importing.tree import Tree
from thinwire.topologies.importing.unknown import LINKS, PEERS, ROCM_PEERS, Unknown
from thinwire.topologies.importing.written import Quantity, gb, us

_GPU_LATENCY = us(0.5, "assumed: as on the shipped PCIe machines, two of them below a published peer write of 1.2 us")
_SWITCH_LATENCY = us(0.1, "assumed: the order of a PCIe switch's cut-through delay")
_SOCKET_LATENCY = us(
    0.2, "assumed: crossing sockets adds 0.1 to 0.4 us to the peer-write latency of an 8x RTX 4090 host"
)

MOST_GENERATION, MOST_LANES = 6, 16
WIRE_SLACK = 1.05  # of rounding, and of GB that are GiB by name


@dataclass(frozen=True, slots=True)
class Pci:
    """A tree's numbers. links: each GPU's rate; generation: of the PCIe of most GPUs."""

    generation: int
    links: Mapping[int, Quantity]
    flow_cap: Quantity | None
    duplex: Quantity
    host_memory: Quantity | None
    socket_link: Mapping[str, Quantity]
    share_source: str

    def gpu_link(self, gpu: int) -> dict[str, Any]:
        """The table of a GPU's link."""
        return _wire(self.links[gpu], _GPU_LATENCY, self.flow_cap)

    def uplink(self, link: Pcie) -> Quantity:
        """The rate of a switch's link towards its bridge."""
        found = reported(link)
        if found is None:
            first = self.links[min(self.links)]
            return gb(first.value, "assumed: like a GPU's link, which those below the switch share")
        return _usable(*found, "as the file reports")

    def switch_link(self, link: Pcie) -> dict[str, Any]:
        """The table of a switch's link towards its bridge."""
        return _wire(self.uplink(link), _SWITCH_LATENCY, None)


def _wire(bandwidth: Quantity, latency: Quantity, cap: Quantity | None) -> dict[str, Any]:
    table = {"bandwidth": bandwidth, "flow_cap": cap, "latency": latency}
    return {key: value for key, value in table.items() if value is not None}


def _usable(generation: int, lanes: int, where: str) -> Quantity:
    """What one hop of a PCIe link carries: the wire's rate, times the share that was measured on others."""
    share, wire = SHARES[nearest(generation)], wire_bytes_per_s(generation, lanes) / 1e9
    source = SHARE_SOURCES[nearest(generation)]
    return gb(
        share * wire,
        f"assumed: {share:.3f} of the {wire:.1f} GB/s of PCIe Gen{generation} x{lanes} ({where}), {source}",
    )


def pci(host: Host, gpu: Gpu, kind: Family | None, shape: Tree, works: bool, unknown: list[Unknown]) -> Pci:
    """The numbers of a tree. `works`: peer-to-peer does."""
    product = (kind.pcie, kind.lanes) if kind is not None else (4, 16)
    found = {i: reported(link) for i, link in shape.links.items()}
    most = product if kind is not None else (MOST_GENERATION, MOST_LANES)
    beyond = {each for each in found.values() if each is not None and (each[0] > most[0] or each[1] > most[1])}
    for generation, lanes in sorted(beyond):
        unknown.append(Unknown(
            "the GPUs' PCIe generation and width",
            f"Gen{min(generation, most[0])} x{min(lanes, most[1])}: the file reports Gen{generation} x{lanes}, more "
            f"than {gpu.name if kind is not None else 'any GPU'} has", LINKS, "pcie",
        ))  # fmt: skip
    found = {i: each and (min(each[0], most[0]), min(each[1], most[1])) for i, each in found.items()}
    told = [each for each in found.values() if each is not None]
    if len(told) < len(found):
        why = f"Gen{product[0]} x{product[1]}" + ("" if kind is not None else ", for nothing is known of this GPU's")
        unknown.append(Unknown("the GPUs' PCIe generation and width", f"{why}, what the product has", LINKS, "pcie"))
    if slow := [i for i, each in found.items() if each is not None and each[0] <= product[0] - 2]:
        unknown.append(Unknown(
            "whether PCIe links run as reported",
            f"yes; {len(slow)} GPUs report two generations less than the product has",
            f"{LINKS}, under load", "slow",
        ))  # fmt: skip
    generation = max(told, key=told.count)[0] if told else product[0]
    near = one_way(host, unbonded(host), works)
    to_host = _measured(host, "to host", None, lambda two: True)
    wire = max(wire_bytes_per_s(*each) for each in (*told, product)) / 1e9
    if fastest := [rate for rate in (near, to_host) if rate is not None and rate.value > wire * WIRE_SLACK]:
        where = cut(fastest[0].source.removeprefix("measured: "))
        raise ValueError(
            f"copies of {fastest[0].value:.4g} GB/s ({where}) are more than {gpu.name}'s PCIe carries ({wire:.1f}), "
            "so they are of another machine, or of NVLink that the topology does not show"
        )
    links = {}
    for i, each in found.items():
        # A measured rate is of GPUs with equal links: what is narrower keeps its own.
        nominal = _usable(*(each or product), "as the file reports" if each else f"{gpu.name}'s")
        usual = each is None or not told or each == max(told, key=told.count)
        measured = (near or to_host) if works else to_host
        links[i] = measured if measured is not None and usual else nominal
    first = links[min(links)]
    share = DUPLEX[nearest(generation)]
    both = _measured(host, "both ways", works, unbonded(host)) if works else None
    if both is None or both.value < first.value:
        both = gb(share * first.value, f"assumed: {share:.3f} times one way, {SOCKETS[nearest(generation)].source}")
    return Pci(
        generation, links, None if works else _staged(host, first), both, None if works else _host_memory(),
        _socket(host, generation, works), SHARE_SOURCES[nearest(generation)],
    )  # fmt: skip


def _staged(host: Host, link: Quantity) -> Quantity:
    found = one_way(host, unbonded(host), peer=False) or one_way(host, lambda two: True, peer=False)
    return found or gb(
        STAGED_SHARE * link.value, f"assumed: {STAGED_SHARE} of the link, as measured on the {RTX_4090_HOST}"
    )


def _host_memory() -> Quantity:
    return gb(
        HOST_MEMORY_GB_PER_S,
        f"assumed: 8 channels of DDR4-3200 a NUMA domain, each byte written and read, as the {RTX_4090_HOST}",
    )


def _socket(host: Host, generation: int, works: bool) -> Mapping[str, Quantity]:
    usual = SOCKETS[nearest(generation)]
    cap = one_way(host, lambda two: two not in host.bonds and not host.together(two), works)
    if cap is None and works:
        cap = gb(usual.flow_gb_per_s, f"assumed: {usual.source}")
    elif cap is None:
        cap = gb(STAGED_FLOW_GB_PER_S, f"assumed: as measured on the {RTX_4090_HOST}")
    # All flows together are not measured by matrices, which copy between one pair at a time; one flow cannot pass them.
    whole = gb(max(usual.gb_per_s, cap.value), f"assumed: {usual.source}, all flows together")
    return _wire(whole, _SOCKET_LATENCY, cap)


# ---- measured matrices


def one_way(host: Host, wanted: Callable[[Pair], bool], peer: bool) -> Quantity | None:
    """The median of copies one way between the pairs wanted, with or without peer-to-peer; None: not measured."""
    return _measured(host, "one way", peer, wanted)


def unbonded(host: Host) -> Callable[[Pair], bool]:
    """Pairs of one NUMA domain that no NVLink or xGMI joins."""
    return lambda two: two not in host.bonds and host.together(two)


def _measured(host: Host, what: str, peer: bool | None, wanted: Callable[[Pair], bool]) -> Quantity | None:
    for path, each in host.rates:
        if each.what != what or (peer is not None and each.peer is not None and each.peer != peer):
            continue
        values = [value / 1e9 for (a, b), value in each.values.items() if what == "to host" or wanted(pair(a, b))]
        if values:
            spread = f"{min(values):.4g} to {max(values):.4g}, " if max(values) > 1.02 * min(values) else ""
            return gb(typical(values), f"measured: {Path(path).name}, {each.title}, {spread}{len(values)} pairs")
    return None


def peers(host: Host, gpu: Gpu, kind: Family | None, unknown: list[Unknown], notes: list[str]) -> tuple[bool, str]:
    """Whether peer-to-peer over PCIe works, and the file's sentence."""
    said = {two: works for two, works in host.peers.items() if two not in host.bonds}
    if said:
        inside = [works for two, works in said.items() if host.together(two)]
        where = f"({Path(host.peers_path).name})"
        if all(said.values()):
            return True, f"yes, over PCIe {where}"
        if inside and all(inside):
            notes.append("peer-to-peer works inside NUMA domains, not between them: it is taken to work everywhere")
            return True, f"inside a NUMA domain {where}"
        if any(said.values()):
            notes.append(
                f"peer-to-peer works between {sum(said.values())} of {len(said)} pairs: it is taken not to work"
            )
        return False, f"none {where}: transfers bounce through host memory"
    works = kind.peers if kind is not None else True
    if len(host.gpus) > 1:
        why = "the stock driver of this product allows it" if works else "none, with the stock driver of this product"
        command = ROCM_PEERS if gpu.name.startswith("mi") else PEERS
        unknown.append(Unknown("peer-to-peer over PCIe", why, command, "peer_to_peer"))
    return works, (
        "yes, over PCIe (assumed of the product)" if works
        else "none with the stock driver (assumed of the product): transfers bounce through host memory"
    )  # fmt: skip
