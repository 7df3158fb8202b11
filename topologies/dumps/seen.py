"""What one file says of a machine, whatever its format: values that parsers make and `merge` puts together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Pair = tuple[int, int]
"""Two GPUs by their place in `Seen.gpus`, the smaller first; where direction counts, from the first to the second."""

Format = Literal["nccl", "smi", "rocm", "rates", "names"]


@dataclass(frozen=True, slots=True)
class Pcie:
    """A PCIe link as reported: giga-transfers a second a lane, and lanes. None: not reported."""

    gt_per_s: float | None = None
    lanes: int | None = None


@dataclass(frozen=True, slots=True)
class SeenGpu:
    """A GPU. label: what the file calls it; pci_id: `10de:2330`; product: as drivers print it; arch: `sm90`, `gfx942`.

    way: the PCIe switches between it and its host bridge, from the bridge down. domain: its NUMA domain, None: unknown.
    """

    label: str
    pci_id: str | None = None
    product: str | None = None
    arch: str | None = None
    link: Pcie = Pcie()
    way: tuple[str, ...] = ()
    domain: str | None = None
    bus: str | None = None


@dataclass(frozen=True, slots=True)
class SeenNic:
    """A network interface, placed like a GPU. near: GPUs that share a switch with it, or are told to be nearest."""

    name: str
    rate_bits_per_s: float | None = None
    way: tuple[str, ...] = ()
    domain: str | None = None
    near: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Rates:
    """A measured matrix. what: one-way rate of a copy, or of a copy each way at once (both together), in bytes/s.

    peer: with peer-to-peer on (None: the tool does not say). values: from the first GPU to the second.
    """

    what: Literal["one way", "both ways", "to host"]
    peer: bool | None
    values: Mapping[Pair, float]
    title: str


@dataclass(frozen=True, slots=True)
class Seen:
    """All that one file says. `complete`: it places its GPUs, so that a machine can come of it.

    bonds: direct NVLink or xGMI wires between two GPUs. to_switch: NVLinks of each GPU that lead to NVSwitches.
    loose: pairs whose place in the PCIe tree no line tells. peers: whether peer-to-peer works, by pair. uplinks: the
    link of a switch towards its host bridge. static: a vendor's file, which knows no NVLinks and no GPUs by name.
    links_lost: it has NVLinks whose other ends it does not tell.
    """

    format: Format
    path: str
    gpus: tuple[SeenGpu, ...] = ()
    nics: tuple[SeenNic, ...] = ()
    uplinks: Mapping[str, Pcie] = field(default_factory=dict)
    bonds: Mapping[Pair, int] = field(default_factory=dict)
    wire: Literal["nvlink", "xgmi"] = "nvlink"
    to_switch: tuple[int, ...] = ()
    loose: frozenset[Pair] = frozenset()
    peers: Mapping[Pair, bool] = field(default_factory=dict)
    rates: tuple[Rates, ...] = ()
    notes: tuple[str, ...] = ()
    complete: bool = False
    static: bool = False
    links_lost: bool = False


def pair(a: int, b: int) -> Pair:
    """The two in order."""
    return (a, b) if a < b else (b, a)
