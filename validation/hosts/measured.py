"""Hosts that were measured whole, by kind: their exchanges in the published tables, and whose figures would be taken.

The figures are those of the nearest fabric that another host gave: what a user with such a host, and no log of it, is
answered with. The kinds are what such figures carry over within.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from thinwire.reference.core.schedule import Op
from thinwire.reference.core.scheme import Collective
from thinwire.validation.fits import series
from thinwire.validation.fits.fabric import Series
from thinwire.validation.fits.published_tables import PUBLISHED, Row, rows

KINDS = {  # kind -> the fabrics that its hosts are answered with
    "NVSwitch": ("a100-nvlink", "b200-nvlink", "h100-nvlink", "h200-nvlink"),
    "PCIe": ("l4-pcie", "l40s-pcie", "rtx-pro-6000-pcie", "rtx-pro-6000-switch", "rtx4090-p2p"),
    "PCIe through host memory": ("rtx4090-pcie", "rtx5070ti-pcie"),
    "xGMI": ("mi300x-xgmi",),
    "several nodes": ("h100-ib",),
}
SMALLEST = 2**10  # bytes: below, no exchange of a model lies, and a long log would count its floor many times
OUTLIER = 2.0  # no message takes more than twice as long as a larger one: such a row is a hiccup of its source

Timing = tuple[int, float, float]  # row number, bytes, seconds


@dataclass(frozen=True)
class Host:
    """One host, or several nodes, and its exchanges; `by`: the fabric that other hosts' figures stand in."""

    name: str
    kind: str
    by: str
    series: tuple[Series, ...]
    own: tuple[str, ...] = ()  # tables by which it calibrates `by` itself: figures of those are left out
    outliers: int = 0  # rows left out as such


@dataclass(frozen=True)
class _Where:
    """Which rows of a table are a host's."""

    table: str
    match: tuple[tuple[str, str], ...]  # column, part of its value
    ranks: int
    op: Op = "all_reduce"
    library: str = "nccl"


def _misc(topology: str, implementation: str, ranks: int, **more: Op) -> _Where:
    match = (("topology", topology), ("implementation", implementation))
    return _Where("pcie_and_misc_collectives", match, ranks, **more)


def _nccl(machine: str, ranks: int) -> _Where:
    return _Where("nccl_tests_tables", (("machine", machine),), ranks)


def _new(machine: str, ranks: int) -> _Where:
    return _Where("collectives_2026", (("machine", machine), ("gpus", str(ranks))), ranks)


# name, machine (of the catalog, or a file in validation/published/), figures taken, algorithm, rows. Taken is what an
# import would (topologies/importing/hardware.py), but of the two hosts that `rtx-pro-6000-switch` and `rtx4090-p2p` are
# fitted to, and of the first one's board with its roots parted: there the figures of the healthiest other PCIe host.
HOSTS: tuple[tuple[str, str, str, Collective, tuple[_Where, ...]], ...] = (
    (
        "8x H200 (ml-engineering)", "8xh200-nvlink", "h200-nvlink", "nvls",
        (_nccl("8x H200 node (ml-engineering)", 8), _new("8x H200 NVSwitch", 6)),
    ),
    (
        "8x A100 (ml-engineering)", "8xa100-nvlink", "a100-nvlink", "two_step",
        (_nccl("single A100 node (ml-engineering)", 8),),
    ),
    ("8x B200 (AWS P6)", "8xb200-nvlink", "b200-nvlink", "nvls", (_nccl("1x AWS P6-B200", 8),)),
    ("8x B200 (GKE A4)", "8xb200-nvlink", "b200-nvlink", "nvls", (_nccl("GKE A4 1 node", 8),)),
    (
        "8x B200 (ml-engineering)", "8xb200-nvlink", "b200-nvlink", "nvls",
        tuple(_new("8x B200 NVSwitch", ranks) for ranks in (4, 5, 6, 7)),
    ),
    ("8x H100 (ByteDance)", "8xh100-nvlink", "h100-nvlink", "nvls", (_new("8x H100 NVSwitch", 8),)),
    (
        "8x H100 (Megatron-LM)", "8xh100-nvlink", "h100-nvlink", "two_step",
        (
            _misc("NVLink/NVSwitch", "NCCL ring", 8, op="all_gather"),
            _misc("NVLink/NVSwitch", "NCCL ring", 8, op="reduce_scatter"),
        ),
    ),
    (
        "4 of 8x RTX PRO 6000 (ASUS ESC8000A)", "8xrtx-pro-6000-pcie", "rtx-pro-6000-pcie", "ring",
        (_misc("Broadcom switches, same NUMA", "NCCL", 4),),
    ),
    (
        "8x RTX PRO 6000 (ASUS ESC8000A)", "8xrtx-pro-6000-pcie", "rtx-pro-6000-pcie", "ring",
        (_misc("Broadcom switches, dual socket", "NCCL", 8),),
    ),
    (
        "4x RTX PRO 6000 on one switch (WRX90)", "4xrtx-pro-6000-1switch.toml", "rtx-pro-6000-switch", "ring",
        (_misc("WRX90 + c-payne", "NCCL", 4),),
    ),
    (
        "8x RTX PRO 6000, three switches (luke)", "8xrtx-pro-6000-1root.toml", "rtx-pro-6000-switch", "ring",
        (_misc("3 PCIe Gen5 switches", "NCCL", 8),),
    ),
    (
        "8x RTX PRO 6000, no switch (Festr)", "8xrtx-pro-6000-direct.toml", "rtx-pro-6000-pcie", "ring",
        (_misc("direct attach", "NCCL default graph", 8),),
    ),
    (
        "8x RTX PRO 6000, two switches, two roots", "8xrtx-pro-6000-2roots.toml", "l40s-pcie", "ring",
        (_misc("group A", "NCCL ring", 8),),
    ),
    (
        "8x RTX PRO 6000, two switches, one root", "8xrtx-pro-6000-1root.toml", "l40s-pcie", "ring",
        (_misc("group B", "NCCL ring", 8),),
    ),
    (
        "8 of 16x RTX PRO 6000 (b12x)", "8of16xrtx-pro-6000.toml", "rtx-pro-6000-switch", "ring",
        (_misc("GPUs 0-7 adjacent", "NCCL", 8),),
    ),
    (
        "8x RTX 4090, peer-to-peer driver", "8xrtx4090-p2p.toml", "l40s-pcie", "ring",
        (_nccl("8x RTX 4090 (tinygrad P2P driver", 8),),
    ),
    (
        "6x RTX 4090, peer-to-peer driver", "6xrtx4090-p2p.toml", "rtx4090-p2p", "ring",
        (_new("6x RTX 4090", 6),),
    ),
    ("8x MI355X (vllm#39080)", "8xmi355x-xgmi.toml", "mi300x-xgmi", "two_step",
     (_Where("pcie_and_misc_collectives", (("gpu", "MI355X"), ("implementation", "before")), 8, "all_reduce",
             "engine-graph"),)),
    ("2 nodes of 8x H100, InfiniBand", "2x8xh100-ib", "h100-ib", "hierarchical", (_nccl("2 nodes x 8 H100 SXM", 16),)),
    ("2 nodes of 8x A100 (AWS p4de)", "2x8xa100-efa.toml", "h100-ib", "hierarchical",
     (_nccl("2x AWS p4de.24xlarge", 16),)),
    ("2 nodes of 8x A100 (OCI)", "2x8xa100-ib.toml", "h100-ib", "hierarchical", (_nccl("OCI 2x BM.GPU", 16),)),
    ("2 nodes of 8x B200 (GKE A4)", "2x8xb200-roce.toml", "h100-ib", "hierarchical", (_nccl("GKE A4 2 nodes", 16),)),
    ("4 nodes of 8x B200 (AWS P6)", "4x8xb200-efa.toml", "h100-ib", "hierarchical", (_nccl("4x AWS P6-B200", 32),)),
)  # fmt: skip
# Hosts that calibrate a fabric, by their all-reduces, and the fabric that would have been taken without them.
CALIBRATING = (
    ("8x H100 (TokenWeave)", "8xh100-nvlink", "h200-nvlink", ("tokenweave_kernels_8xh100",)),
    ("8x L40S (SGLang)", "8xl40s-pcie", "rtx4090-p2p", ("engine_allreduce",)),
    ("8x RTX PRO 6000 (aiconfigurator)", "8xrtx-pro-6000-pcie", "l40s-pcie", ("engine_allreduce",)),
    ("8x RTX 4090, stock driver", "8xrtx4090-pcie", "l40s-pcie", ("nccl_tests_tables",)),
    ("2x MI300X (aiter)", "8xmi300x-xgmi", "mi300x-xgmi", ("quickreduce_mi300x_tp2",)),
)
LEFT_OUT = (
    "NCCL on the 8x L40S host of nccl_collectives.csv: that host is sick (published/README.md)",
    "8x RTX PRO 6000 without a switch, with a hand-made graph: the same host as with NCCL's own",
    "even ones of sixteen RTX PRO 6000, and all sixteen: the same host as the eight adjacent ones",
    "RTX 6000D, one host and two nodes: two rows without a topology; peer-to-peer switched off by hand",
    "two nodes of L40S: the rate of the NIC is not said, or the transport not verified",
    "CoreWeave's 96 H100 and GB200 NVL72, and 1,024 H100: the source contradicts itself or no machine is known",
    "2x H100 PCIe with a bridge: no fabric of a kind",
    "kernels of other makers (one-shot, b12x, symmetric memory): no fabric has their like",
)


def kind_of(fabric: str) -> str:
    """The kind of host that a fabric's figures are taken for."""
    return next(kind for kind, fabrics in KINDS.items() if fabric in fabrics)


def hosts() -> list[Host]:
    """Every host that was measured and is not the one whose figures it is answered with."""
    found = []
    for name, machine, by, collective, places in HOSTS:
        path = str(PUBLISHED / machine) if machine.endswith(".toml") else machine
        some = [_series(path, by, collective, place) for place in places]
        kept = tuple(s for s, _ in some)
        kind = kind_of(by)
        found.append(Host(name, kind, by, kept, outliers=sum(count for _, count in some)))
    for name, machine, by, tables in CALIBRATING:
        own = tuple(
            _large(replace(s, smaller=None))
            for s in series.calibration()
            if s.machine == machine and s.table in tables and s.op == "all_reduce"
        )
        fabric = series.FABRICS[machine]
        found.append(Host(name, kind_of(fabric), by, own, tables if fabric == by else ()))
    return found


def _large(s: Series) -> Series:
    return s.only(s.nbytes >= SMALLEST)


def _matching(place: _Where) -> Iterator[tuple[int, Row]]:
    for number, row in enumerate(rows(place.table)):
        if all(part in row[column] for column, part in place.match):
            yield number, row


def _series(machine: str, fabric: str, collective: Collective, place: _Where) -> tuple[Series, int]:
    """A host's rows of one operation, and how many outliers were left out."""
    found = sorted(_timings(place), key=lambda row: row[1:])
    if not found:
        raise ValueError(f"no row of {place.table} is of {dict(place.match)}")
    kept = without_outliers(found)
    numbers, nbytes, seconds = zip(*kept, strict=True)
    chunks = series.NODE_CHUNKS if collective == "hierarchical" else 1
    one = Series(
        fabric, machine, place.library, place.op, collective, place.ranks, place.table, numbers, np.array(nbytes),
        np.array(seconds), chunks=chunks,
    )  # fmt: skip
    return one, len(found) - len(kept)


def _timings(place: _Where) -> Iterator[Timing]:
    column = {"nccl_tests_tables": "latency_us_out_of_place", "collectives_2026": "time_us"}.get(
        place.table, "latency_us"
    )
    for number, row in _matching(place):
        if row["op"] == place.op if "op" in row else True:
            nbytes = float(row["message_bytes"])
            if nbytes >= SMALLEST and row[column]:
                yield number, nbytes, float(row[column]) * 1e-6


def without_outliers(found: Iterable[Timing]) -> list[Timing]:
    """Rows, by rising bytes, but those that take more than OUTLIER times as long as a larger message."""
    ordered = list(found)
    least_above = list(accumulate((seconds for _, _, seconds in reversed(ordered)), min))[::-1]
    return [row for row, least in zip(ordered, least_above, strict=True) if row[2] <= OUTLIER * least]
