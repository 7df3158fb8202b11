"""Which published rows time which collective on which machine: the one list that calibration and validation share."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from thinwire.reference.core.schedule import Op
from thinwire.reference.core.scheme import Collective
from thinwire.topologies.cluster import Cluster
from thinwire.validation.fits.fabric import Series, first
from thinwire.validation.fits.published_tables import Row, select

# NCCL runs at least two channels side by side on PCIe rings (NCCL_MIN_NCHANNELS and its logs: "2 coll channels"), so a
# cap on one flow does not hold for a whole hop: on the 8x L40S host NCCL's ring of 8 is as fast as one memcpy flow
# allows although it loses a fifth of the link inside one island, where no cap acts.
PCIE_CHANNELS = 2
# Not on 4090s with the peer-to-peer driver: there NCCL's ring over both sockets stops at 20.6 GB/s, one flow between
# them at 21.4, and a ring inside one socket (the tinybox of collectives_2026.csv) reaches 24.6 of its links' 25.05.
CHANNELS = {"rtx4090-p2p": 1}

# Across nodes NCCL pipelines a message through its stages inside one call; eight pieces come within 1/8 of a perfect
# pipeline.
NODE_CHUNKS = 8


NCCL_MACHINES = {
    "a100_sxm": "8xa100-nvlink",
    "h200_sxm": "8xh200-nvlink",
    "b200_sxm": "8xb200-nvlink",
    "rtx_pro_6000_server": "8xrtx-pro-6000-pcie",
}  # l40s is left out: the 8x L40S host of that table is sick (published/README.md)
ENGINE_MACHINES = {**NCCL_MACHINES, "l40s": "8xl40s-pcie"}
LIKE = {"h100-nvlink": "h200-nvlink"}  # whose smaller messages a series goes on with: the same chip and switch
FABRICS = {
    "8xa100-nvlink": "a100-nvlink",
    "8xh100-nvlink": "h100-nvlink",
    "8xh200-nvlink": "h200-nvlink",
    "8xb200-nvlink": "b200-nvlink",
    "8xl40s-pcie": "l40s-pcie",
    "8xrtx-pro-6000-pcie": "rtx-pro-6000-pcie",
    "8xrtx4090-pcie": "rtx4090-pcie",
    "8xrtx4090-p2p": "rtx4090-p2p",
    "8xrtx-pro-6000-2switch": "rtx-pro-6000-switch",
    "2xrtx5070ti-pcie": "rtx5070ti-pcie",
    "8xmi300x-xgmi": "mi300x-xgmi",
    "2x8xh100-ib": "h100-ib",
}


@dataclass(frozen=True, slots=True)
class Way:
    """How a library carries an op: the traffic's algorithm, connections between two ranks, pieces in the pipeline."""

    collective: Collective
    channels: int = 1
    chunks: int = 1


def way(cluster: Cluster, library: str, op: Op) -> Way:
    """The algorithm whose traffic the library's is modelled as, on exactly the group's GPUs.

    In-switch reduction where the switch has it and more than two ranks take part; direct exchange between ranks where
    each pair has its own path (the engines' own kernels and all of NVLink for all-gather and reduce-scatter, xGMI); by
    island across nodes, where every NIC carries its GPU's share; rings elsewhere.
    """
    nodes = cluster.hosts
    if len(nodes) > 1:
        chunks = NODE_CHUNKS
        if op == "all_to_all":
            return Way("two_step", chunks=chunks)
        return Way("hierarchical", chunks=chunks) if len(nodes) < len(cluster.gpus) else Way("ring", chunks=chunks)
    pcie = not cluster.fully_linked
    channels = CHANNELS.get(cluster.fabric, PCIE_CHANNELS) if pcie else 1
    if op == "all_to_all" or cluster.meshed:
        return Way("two_step", channels)
    if op == "all_reduce":
        if cluster.reducing_switch is not None and len(cluster.gpus) > 2:
            return Way("nvls", channels)
        return Way("two_step" if library.startswith("engine") and not pcie else "ring", channels)
    return Way("ring" if pcie else "two_step", channels)


def way_of(machine: str, library: str, op: Op, ranks: int) -> Way:
    """How a library carries an op between the first ranks of a catalog machine."""
    return way(first(machine, ranks), library, op)


def _series(
    machine: str,
    library: str,
    op: Op,
    ranks: int,
    table: str,
    found: list[tuple[int, float, float]],
    collective: Collective | None = None,
) -> Series:
    found.sort(key=lambda row: row[1])
    carried = way_of(machine, library, op, ranks)
    return Series(
        fabric=FABRICS[machine],
        machine=machine,
        library=library,
        op=op,
        collective=collective or carried.collective,
        ranks=ranks,
        table=table,
        row_numbers=tuple(number for number, _, _ in found),
        nbytes=np.array([nbytes for _, nbytes, _ in found]),
        seconds=np.array([seconds for _, _, seconds in found]),
        channels=carried.channels,
        chunks=carried.chunks,
    )


def _us(row: Row) -> float:
    return float(row["latency_us"]) * 1e-6


def nccl(dtype: str = "half") -> Iterator[Series]:
    """nccl-tests, eager, out of place (ai-dynamo/aiconfigurator). `half` calibrates; `int8` moves the same bytes and
    is held out.
    """
    table = "nccl_collectives"
    ops: dict[str, Op] = {
        "all_reduce": "all_reduce", "all_gather": "all_gather",
        "reduce_scatter": "reduce_scatter", "alltoall": "all_to_all",
    }  # fmt: skip
    for system, machine in NCCL_MACHINES.items():
        for op_name, op in ops.items():
            for ranks in (2, 4, 8):
                rows = select(table, system=system, op_name=op_name, num_gpus=ranks, dtype=dtype)
                found = [(number, float(row["message_bytes"]), _us(row)) for number, row in rows]
                if found:
                    yield _series(machine, "nccl", op, ranks, table, found)


def engines() -> Iterator[Series]:
    """All-reduce as vLLM and SGLang dispatch it, in a CUDA graph and eager (ai-dynamo/aiconfigurator)."""
    table = "engine_allreduce"
    for system, machine in ENGINE_MACHINES.items():
        for mode in ("graph", "eager"):
            for ranks in (2, 4, 8):
                rows = select(table, system=system, num_gpus=ranks)
                found = [(n, float(row["message_bytes"]), _us(row)) for n, row in rows if row["backend"].endswith(mode)]
                if found:
                    yield _series(machine, f"engine-{mode}", "all_reduce", ranks, table, found)


def tokenweave() -> Iterator[Series]:
    """8x H100: torch's (NCCL) and multimem all-reduce, multimem reduce-scatter and all-gather, bf16 at hidden 8192
    (microsoft/tokenweave).
    """
    table = "tokenweave_kernels_8xh100"
    columns: dict[str, tuple[str, Op]] = {
        "torch_all_reduce_us": ("nccl", "all_reduce"),
        "multimem_all_reduce_us": ("engine-graph", "all_reduce"),
        "multimem_rs_us": ("engine-graph", "reduce_scatter"),
        "multimem_ag_us": ("engine-graph", "all_gather"),
    }
    for column, (library, op) in columns.items():
        found = [
            (n, float(row["BL"]) * float(row["hidden_size"]) * 2, float(row[column]) * 1e-6) for n, row in select(table)
        ]
        yield _series("8xh100-nvlink", library, op, 8, table, found, "nvls")


def quickreduce() -> Iterator[Series]:
    """8x MI300X: RCCL and the uncompressed two-shot of QuickReduce (mk1-project/quickreduce)."""
    table = "quickreduce_mi300x"
    for implementation, library in (("RCCL", "nccl"), ("QuickReduce two-shot", "fused")):
        for ranks in (4, 8):
            rows = select(table, num_gpus=ranks, implementation=implementation, wire_format="fp16 (uncompressed)")
            found = [(n, float(row["message_bytes"]), _us(row)) for n, row in rows]
            yield _series("8xmi300x-xgmi", library, "all_reduce", ranks, table, found)


def nccl_tests() -> Iterator[Series]:
    """nccl-tests outputs pasted in public threads, for machines no other table has."""
    table = "nccl_tests_tables"
    for name, machine, ranks in (
        ("8x RTX 4090 (stock driver, no P2P)", "8xrtx4090-pcie", 8),
        ("8x RTX 4090 (tinygrad P2P driver 550.90.07)", "8xrtx4090-p2p", 8),
        ("2x AWS p5.48xlarge", "2x8xh100-ib", 16),
    ):
        found = [
            (n, float(row["message_bytes"]), float(row["latency_us_out_of_place"]) * 1e-6)
            for n, row in select(table, machine=name)
            if row["latency_us_out_of_place"]
        ]
        yield _series(machine, "nccl", "all_reduce", ranks, table, found)


def two_switches() -> Iterator[Series]:
    """8x RTX PRO 6000 behind two switches of one CPU, both on one root (group B of local-inference-lab/rtx6kpro's WRX90
    page): each size once, as first given. Group A, on two roots, and the sizes given again are held out.
    """
    table = "pcie_and_misc_collectives"
    found: dict[float, tuple[int, float, float]] = {}
    for n, row in select(table, implementation="NCCL ring", num_gpus=8):
        if "group B" in row["topology"]:
            nbytes = float(row["message_bytes"])
            found.setdefault(nbytes, (n, nbytes, _us(row)))
    yield _series("8xrtx-pro-6000-2switch", "nccl", "all_reduce", 8, table, list(found.values()))


def pcie_ipc() -> Iterator[Series]:
    """FlashInfer's PCIe-IPC all-reduce on an 8x SM120 host of two NUMA nodes, four sizes (SGLang's pcie_ipc_ar.py):
    pieces straight to their owners. NCCL's rows of that host are left out: it takes ten times what others do.
    """
    table = "pcie_ipc_allreduce"
    found = [
        (n, float(row["message_bytes"]), _us(row)) for n, row in select(table, implementation="FlashInfer PCIe-IPC")
    ]
    yield _series("8xrtx-pro-6000-pcie", "pcie-ipc", "all_reduce", 8, table, found, "two_step")


def host_staged() -> Iterator[Series]:
    """2x RTX 5070 Ti without peer-to-peer: NCCL as it comes, two sizes (sgl-project/sglang#39605)."""
    table = "host_staged_allreduce"
    found = [(n, float(row["message_bytes"]), _us(row)) for n, row in select(table, implementation="NCCL")]
    yield _series("2xrtx5070ti-pcie", "nccl", "all_reduce", 2, table, found)


def quickreduce_of_two() -> Iterator[Series]:
    """2x MI300X: vLLM's custom all-reduce and QuickReduce's uncompressed kernel (ROCm/aiter#801). Other kernels and
    compressed formats of that table calibrate nothing.
    """
    table = "quickreduce_mi300x_tp2"
    for implementation, library in (("vllm custom all-reduce", "engine-graph"), ("QuickReduce", "fused")):
        found = [
            (n, float(row["message_bytes"]), _us(row))
            for n, row in select(table, implementation=implementation, wire_format="fp16")
        ]
        yield _series("8xmi300x-xgmi", library, "all_reduce", 2, table, found)


def calibration() -> list[Series]:
    """Every series the fabric profiles are fitted to, with smaller messages of a fabric like theirs where that has
    timed some.
    """
    found = [
        *nccl(),
        *engines(),
        *tokenweave(),
        *quickreduce(),
        *quickreduce_of_two(),
        *nccl_tests(),
        *two_switches(),
        *host_staged(),
        *pcie_ipc(),
    ]
    timed = {(s.fabric, s.library, s.op, s.ranks, s.baseline): s for s in found}
    return [with_smaller(s, timed.get((LIKE.get(s.fabric, ""), s.library, s.op, s.ranks, s.baseline))) for s in found]


def with_smaller(s: Series, lender: Series | None) -> Series:
    """The series, going on below its smallest message as the lender does, if that has timed any there."""
    if lender is None or lender.nbytes[0] >= s.nbytes[0]:
        return s
    return replace(s, smaller=lender.only(lender.nbytes < s.nbytes[0]))
