"""What datasheets and our measured machines say of links, where a dump is silent: each table once, with its source.

A fabric's profile was fitted to a machine of the catalog, so its link rates are what imported machines borrow: NVLink
and xGMI at their nominal rate, PCIe at the share of the wire that one hop was measured at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from thinwire.topologies.dumps.seen import Pcie

L40S_HOST = "8x L40S host of flashinfer-ai/flashinfer#4870"
PRO_6000_HOST = "8x RTX PRO 6000 host of flashinfer-ai/flashinfer#4870"
RTX_4090_HOST = "8x RTX 4090 host of the catalog (8xrtx4090-pcie)"

# ---- PCIe

# Giga-transfers a second a lane -> generation; share of them that carries data (8b/10b, 128b/130b, flits of 242/256).
GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}
ENCODING = {1: 0.8, 2: 0.8, 3: 128 / 130, 4: 128 / 130, 5: 128 / 130, 6: 242 / 256}
# One hop's measured rate over the wire's, by generation: the median of the hosts in validation/published/
# pcie_link_rates.csv (tests/topologies/dumps/test_hardware.py recomputes it). Others borrow from the nearest.
SHARES = {4: 0.834, 5: 0.857}
SHARE_SOURCES = {4: f"as measured on the {L40S_HOST}", 5: "the median of six Gen5 hosts (pcie_link_rates.csv)"}
# What a GPU sends plus what it receives, over one direction's rate: 50.9 / 26.26 and 104.7 / 54.1.
DUPLEX = {4: 1.938, 5: 1.935}
# Without peer-to-peer one flow's rate over the link's, 18.77 / 25.6.
STAGED_SHARE = 0.733


@dataclass(frozen=True, slots=True)
class Socket:
    """A link between sockets: both ways each, and what one flow reaches; in GB/s."""

    gb_per_s: float
    flow_gb_per_s: float
    source: str


SOCKETS = {
    4: Socket(38.8, 20.75, f"as measured on the {L40S_HOST}"),
    5: Socket(95.0, 49.64, f"as measured on the {PRO_6000_HOST}"),
}
STAGED_FLOW_GB_PER_S = 21.36  # one flow between the sockets of the 4090 host
HOST_MEMORY_GB_PER_S = 102.4  # 8 channels of DDR4-3200 a socket, each bounced byte written and read


def generation(gt_per_s: float | None) -> int | None:
    """The PCIe generation of a rate a lane; None where it is none of the known ones."""
    return None if gt_per_s is None else GENERATIONS.get(gt_per_s)


def wire_bytes_per_s(generation: int, lanes: int) -> float:
    """What a PCIe link carries each way after its encoding."""
    gt_per_s = next(rate for rate, number in GENERATIONS.items() if number == generation)
    return gt_per_s * 1e9 * lanes * ENCODING[generation] / 8


def nearest(generation: int) -> Literal[4, 5]:
    """The generation whose measured hosts stand in for this one."""
    return 4 if generation <= 4 else 5


# ---- GPUs, as far as links go


@dataclass(frozen=True, slots=True)
class Family:
    """Link facts of GPUs whose catalog name matches.

    lanes: PCIe lanes. nvlink: generation, 0 without; nvlinks: links of a GPU; nvlink_gb_per_s: a link, each way. peers:
    whether the stock driver copies from GPU to GPU over PCIe. sxm: on a board of eight with NVSwitches.
    """

    pattern: str
    pcie: int
    nvlink: int = 0
    nvlinks: int = 0
    nvlink_gb_per_s: float = 0.0
    peers: bool = True
    sxm: bool = False
    lanes: int = 16
    source: str = ""


_V2, _V3, _V4, _V5 = (
    f"{what}, NVIDIA's architecture papers" for what in ("NVLink 2", "NVLink 3", "NVLink 4", "NVLink 5")
)
_BRIDGE = "NVLink bridge, 112.5 GB/s both ways over four links, NVIDIA's product briefs"
FAMILIES = (
    Family(r"v100.*sxm\d?", 3, 2, 6, 25.0, source=_V2, sxm=True),
    Family(r"v100", 3, 2, 6, 25.0, source=_V2),
    Family(r"t4", 3),
    Family(r"a100.*sxm\d?", 4, 3, 12, 25.0, source=_V3, sxm=True),
    Family(r"a800(?!-pcie)(-.*)?", 4, 3, 8, 25.0, source=_V3, sxm=True),
    Family(r"a800", 4, 3, 8, 25.0, source=_V3),
    Family(r"a100", 4, 3, 12, 25.0, source=_V3),
    Family(r"a30", 4, 3, 4, 25.0, source=_V3),
    Family(r"a40|(rtx-)?a[56]000", 4, 3, 4, 14.0625, source=_BRIDGE),
    Family(r"rtx-3090", 4, 3, 4, 14.0625, peers=False, source=_BRIDGE),
    Family(r"h800(?!-pcie)(-.*)?", 5, 4, 8, 25.0, source=_V4, sxm=True),
    Family(r"h100-(pcie|nvl)|h800-pcie", 5, 4, 12, 25.0, source=_V4),
    Family(r"h200-nvl", 5, 4, 18, 25.0, source="NVIDIA H200 NVL: bridges of two or four GPUs, 900 GB/s a GPU"),
    Family(r"h100|h200|h20|gh200", 5, 4, 18, 25.0, source=_V4, sxm=True),
    Family(r"g?b[23]00", 5, 5, 18, 50.0, source=_V5, sxm=True),
    Family(r"rtx-pro|rtx-6000d", 5),
    Family(r"rtx-50\d0d?", 5, peers=False),
    Family(r"rtx-[2-4]0\d0d?", 4, peers=False),
    Family(r"rtx-6000-ada|a10|a10g|a16|a2|l4|l2|l20|l40s?", 4),
    Family(r"mi(50|60|100|210|250x?)", 4),
    Family(r"mi3\d\d[ax]", 5),
)


def family(gpu: str) -> Family | None:
    """The facts of a catalog GPU, None where no row knows it."""
    name = gpu.lower()
    return next((each for each in FAMILIES if re.match(rf"(?:{each.pattern})(?![a-z0-9])", name)), None)


# ---- xGMI


@dataclass(frozen=True, slots=True)
class Xgmi:
    """One link of AMD's, each way. pattern: matches an arch (`gfx942`), a PCI id, or a catalog name."""

    pattern: str
    gb_per_s: float
    source: str


XGMI = (
    Xgmi(r"1002:74a0|mi300a", 128.0, "two 16-lane links of 64 GB/s between two APUs, AMD CDNA 3 white paper"),
    Xgmi(r"mi35\d.*|gfx950", 76.8, "153.6 GB/s both ways a link, AMD Instinct MI350 data sheet"),
    Xgmi(r"mi3(00|25)x.*|gfx94\d", 64.0, "16 lanes of 32 Gb/s, 128 GB/s both ways a link, AMD CDNA 3 white paper"),
    Xgmi(r"mi2[15]0x?.*|gfx9(10|0a)", 50.0, "100 GB/s both ways a link, AMD CDNA 2 white paper"),
    Xgmi(r"mi(50|60|100).*|gfx90[68]", 46.0, "92 GB/s both ways a link, AMD Instinct MI50 and MI100 data sheets"),
)


def xgmi(*names: str | None) -> Xgmi | None:
    """The link of the first of these names that a row knows."""
    for name in names:
        found = next((each for each in XGMI if name and re.fullmatch(each.pattern, name)), None)
        if found is not None:
            return found
    return None


# ---- fabrics: the profile with the software's costs

FABRICS = (
    # What carries a flow, a pattern of the GPU's name -> the shipped profile nearest in kind. First match counts.
    ("nvlink", r"h20|h200.*|gh200.*", "h200-nvlink"),
    ("nvlink", r"h.*", "h100-nvlink"),
    ("nvlink", r"g?b\d.*", "b200-nvlink"),
    ("nvlink", r".*", "a100-nvlink"),
    ("xgmi", r".*", "mi300x-xgmi"),
    ("pcie staged", r".*", "rtx4090-pcie"),
    ("pcie 4", r"l4|t4|l2", "l4-pcie"),
    ("pcie 4", r"rtx-[345]0.*", "rtx4090-p2p"),
    ("pcie 4", r".*", "l40s-pcie"),
    ("pcie 5 by switches", r".*", "rtx-pro-6000-switch"),  # three GPUs and more behind one
    ("pcie 5", r".*", "rtx-pro-6000-pcie"),
)
Carrier = Literal["nvlink", "xgmi", "pcie staged", "pcie 4", "pcie 5 by switches", "pcie 5"]


def fabric(carrier: Carrier, gpu: str) -> str:
    """The shipped fabric profile nearest in kind to what carries flows between these GPUs."""
    return next(name for kind, pattern, name in FABRICS if kind == carrier and re.fullmatch(pattern, gpu.lower()))


def reported(link: Pcie) -> tuple[int, int] | None:
    """Generation and lanes of a link, where both are told."""
    number = generation(link.gt_per_s)
    return None if number is None or not link.lanes else (number, link.lanes)
