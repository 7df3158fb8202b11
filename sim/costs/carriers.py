"""Who carries an uncompressed exchange: NCCL alone, or an engine by its own switching, as published.

`RULES` is the one table: for each engine, in the order in which it asks, which of its kernels takes an all-reduce of so
many bytes on so many ranks, and what that kernel needs. What no rule takes is NCCL's, other operations too.
Seconds come from the fabric: `engine-graph` is what was timed of engines' kernels there, `nccl` of NCCL, which picks
ring, tree or NVLS and a protocol by its own tuning inside what was timed. Where either was not timed, the other stands
in and a sentence says so. docs/decisions/025-carriers.md says what is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Literal

from thinwire.reference.core.schedule import Op
from thinwire.reference.core.scheme import Carrier
from thinwire.sim.costs.profile import Baseline, FabricProfile
from thinwire.topologies.cluster import Cluster

Kernel = Literal["custom", "multimem", "ipc", "nccl"]
Need = Literal["links", "reach", "multicast", "pcie"]

KIB, MIB = 2**10, 2**20
NCCL, KERNELS = (
    "nccl",
    ("engine-graph", "fused"),
)  # libraries of a fabric, of engines' kernels the nearest in kind first
WORDS: Mapping[Kernel, str] = {
    "custom": "its one- and two-shot kernels",
    "multimem": "its kernel that has the switch sum",
    "ipc": "FlashInfer's PCIe-IPC kernels",
    "nccl": "NCCL",
}
TITLES: Mapping[Carrier, str] = {
    "nccl": "NCCL alone",
    "vllm": "vLLM",
    "sglang": "SGLang",
    "sglang-ipc": "SGLang with PCIe-IPC",
    "trtllm": "TensorRT-LLM",
}

# Compute capability by GPU, for the tables below that go by it. 10.3 is taken as 10.0: vLLM has a table of its own for
# it, which we have not read.
CHIPS = (("9.0", ("h100", "h200", "h800", "h20", "gh200")), ("10.0", ("b200", "gb200", "b300", "gb300")))
# Whose kernels a fabric's engine-graph is (validation/published/README.md); vLLM's on the others.
TIMED: Mapping[str, str] = {"l40s-pcie": "SGLang", "l4-pcie": "SGLang", "h100-nvlink": "torch's multimem"}


@dataclass(frozen=True, slots=True)
class Rule:
    """`kernel` takes messages of `from_bytes` and more, and fewer than `under` says for so many ranks.

    chip: a compute capability, None for any. needs, all of: `links`, every two ranks joined by NVLink or xGMI; `reach`,
    that or two ranks that may write each other's memory; `multicast`, a switch that sums; `pcie`, GPUs that may write
    each other's memory, but not over NVLink or xGMI.
    """

    kernel: Kernel
    under: Mapping[int, float]
    source: str
    chip: str | None = None
    needs: tuple[Need, ...] = ()
    from_bytes: int = 0


_VLLM = "vllm-project/vllm: vllm/distributed/device_communicators/"
_VLLM_CUSTOM = f"{_VLLM}custom_all_reduce.py@00d618a (below 8 MiB; >2 ranks need NVLink), all_reduce_utils.py"
_VLLM_SYMM = f"{_VLLM}all_reduce_utils.py and symm_mem.py (on by default: VLLM_ALLREDUCE_USE_SYMM_MEM)"
_SGLANG = "sgl-project/sglang@09e7d8e: device_communicators/configs/custom_all_reduce_v2.py, CUDA graphs"
_SGLANG_IPC = "sgl-project/sglang@08a72ba: device_communicators/pcie_ipc_ar.py, SGLANG_ENABLE_PCIE_IPC_ALLREDUCE=1"
_TRTLLM = "NVIDIA/TensorRT-LLM: cpp/tensorrt_llm/common/customAllReduceUtils.h, no fusion, 8192 features in bf16"

_SGLANG_RULES = (
    Rule("multimem", {8: 128 * MIB + 1}, _SGLANG, "9.0", ("multicast", "links"), from_bytes=512 * KIB),
    Rule("multimem", {8: 128 * MIB + 1}, _SGLANG, "10.0", ("multicast", "links"), from_bytes=8 * MIB),
    Rule(
        "custom",
        dict.fromkeys((2, 3, 4), 128 * MIB + 1) | dict.fromkeys((5, 6, 7, 8), 32 * MIB + 1),
        _SGLANG,
        "9.0",
        ("links",),
    ),
    Rule("custom", dict.fromkeys(range(2, 9), 128 * MIB + 1), _SGLANG, "10.0", ("links",)),
    Rule("custom", dict.fromkeys(range(2, 9), 16 * MIB + 1), _SGLANG, needs=("links",)),
)

RULES: Mapping[Carrier, tuple[Rule, ...]] = {
    "nccl": (),
    "vllm": (
        Rule(
            "custom", {2: 8 * MIB, 4: 8 * MIB, 6: 512 * KIB, 8: 256 * KIB}, _VLLM_CUSTOM, "9.0", ("multicast", "links")
        ),
        Rule("custom", {2: 2 * MIB, 4: 2 * MIB, 6: MIB, 8: MIB}, _VLLM_CUSTOM, "10.0", ("multicast", "links")),
        # Up to these, and not only below them.
        Rule(
            "multimem",
            {2: 64 * MIB + 1, 4: 32 * MIB + 1, 6: 64 * MIB + 1, 8: 64 * MIB + 1},
            _VLLM_SYMM,
            "9.0",
            ("multicast", "links"),
        ),
        Rule(
            "multimem",
            {2: 8 * MIB + 1, 4: 32 * MIB + 1, 6: 128 * MIB + 1, 8: 128 * MIB + 1},
            _VLLM_SYMM,
            "10.0",
            ("multicast", "links"),
        ),
        Rule("custom", dict.fromkeys((2, 4, 6, 8), 8 * MIB), _VLLM_CUSTOM, needs=("reach",)),
    ),
    "sglang": _SGLANG_RULES,
    # Off by default; sized for decoding: 64 rows, of 8,192 features here.
    "sglang-ipc": (
        Rule("ipc", dict.fromkeys((2, 4, 8), MIB + 1), _SGLANG_IPC, needs=("pcie",)),
        *_SGLANG_RULES,
    ),
    "trtllm": (
        Rule("nccl", {8: 2 * MIB}, _TRTLLM, "9.0", from_bytes=MIB),  # between one-shot and two-shot
        Rule("custom", {2: 64 * MIB, 4: 64 * MIB, 8: 64 * MIB + 1}, _TRTLLM, "10.0", ("links",)),
        Rule("custom", {2: 64 * MIB, 4: 8 * MIB, 8: 8 * MIB}, _TRTLLM, needs=("links",)),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Carried:
    """What a carrier's exchange may run as, of which the fastest is taken, and a sentence that says why."""

    choices: tuple[Baseline, ...]
    sentence: str


def chip_of(gpu: str) -> str | None:
    """The compute capability of a GPU of the catalog, where a table goes by it."""
    return next((chip for chip, names in CHIPS if gpu.startswith(names)), None)


def edges(carrier: Carrier, ranks: int) -> tuple[int, ...]:
    """Bytes from which on a carrier may take another kernel for an all-reduce of so many ranks, the least first."""
    rules = [rule for rule in RULES[carrier] if ranks in rule.under]
    found = {rule.from_bytes for rule in rules} | {int(rule.under[ranks]) for rule in rules}
    return tuple(sorted(found - {0}))


def kernel_of(carrier: Carrier, op: Op, nbytes: float, cluster: Cluster) -> Kernel:
    """Which kernel a carrier takes for `nbytes` (nccl-tests' size) on all GPUs of `cluster`."""
    ranks, chip = len(cluster.gpus), chip_of(cluster.gpu.name)
    peers = cluster.peer_to_peer and len(cluster.hosts) == 1

    def met(need: Need) -> bool:
        if need == "multicast":
            return cluster.reducing_switch is not None
        if need == "pcie":
            return peers and not cluster.fully_linked
        return cluster.fully_linked or (need == "reach" and peers and ranks == 2)

    for rule in RULES[carrier] if op == "all_reduce" else ():
        sized = rule.from_bytes <= nbytes < rule.under.get(ranks, -inf)
        if sized and rule.chip in (None, chip) and all(map(met, rule.needs)):
            return rule.kernel
    return "nccl"


def carried(carrier: Carrier, op: Op, nbytes: float, cluster: Cluster, fabric: FabricProfile) -> Carried:
    """How a carrier's kernel is timed on a fabric."""
    kernel = kernel_of(carrier, op, nbytes, cluster)
    known = fabric.baseline.get(op) or (Baseline(fabric.libraries["separate"], "two_step"),)
    title, spelt = TITLES[carrier], op.replace("_", "-")
    said = f"{spelt} of {nbytes:.0f} bytes is uncompressed, and goes as {title} would: "
    said += WORDS[kernel] if carrier != "nccl" else "ring, tree or NVLS by its tuning"
    if kernel == "nccl":
        own = tuple(choice for choice in known if choice.library == NCCL)
        if not own:
            said += f"; NCCL alone was not timed on {fabric.name}: what engines run stands in"
        return Carried(own or known, said)
    ranks = len(cluster.gpus)
    timed = {p.library for p in fabric.protocols if p.op == op and p.ranks == ranks}
    nearest = sorted(KERNELS, key=lambda library: library not in timed)  # on so many ranks before nearest in kind
    for library in ("pcie-ipc",) if kernel == "ipc" else nearest:
        own = tuple(choice for choice in known if choice.library == library)
        if not own and any((p.library, p.op) == (library, op) for p in fabric.protocols):
            own = (Baseline(library, "two_step"),)
        if own:
            whose = TIMED.get(fabric.name, "vLLM") if library == "engine-graph" else "QuickReduce"
            said += (
                "" if kernel == "ipc" or whose == title else f"; nobody timed them on {fabric.name}: {whose} stands in"
            )
            return Carried(own, said)
    return Carried(known, f"{said}; nobody timed such kernels on {fabric.name}: what is known of it stands in")
