"""What a multiprocessor executes a clock, by compute capability, and which of them a GPU file is of.

The clock is not in a GPU file: it follows from the peak in bf16, for a multiprocessor's tensor cores do a known number
of operations a clock. GeForce chips, and L40, do half of it with fp32 sums, and their peaks say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from thinwire.topologies.cluster import Gpu

ISSUED = 128  # instructions of threads: four schedulers, a warp each
XU = 16
LSU = 32
REGISTERS = 65536
REGISTER_STEP = 256  # a warp gets registers in such steps
RESERVED_SHARED = 1024  # bytes a program, the system's
SOURCE = (
    "datasheet: CUDA C++ Programming Guide, throughput of arithmetic instructions and technical specifications by "
    "compute capability"
)


@dataclass(frozen=True, slots=True)
class Multiprocessor:
    """Results a clock by pipe, and what programs share. compiled: the capability whose code stands in."""

    fma: int
    imad: int
    alu: int
    tensor_flops: int  # bf16 with fp32 sums, dense
    warps: int
    programs: int
    shared_bytes: int
    compiled: int

    def resident(self, registers: int, shared: int, warps: int) -> int:
        """Programs at a time, of so many warps, registers a thread and bytes of shared memory; one at least."""
        of_a_warp = -(-registers * 32 // REGISTER_STEP) * REGISTER_STEP
        most = (
            self.programs,
            self.warps // warps,
            REGISTERS // (of_a_warp * warps),
            self.shared_bytes // (shared + RESERVED_SHARED),
        )
        return max(1, min(most))


MULTIPROCESSORS: Mapping[int, Multiprocessor] = {
    80: Multiprocessor(64, 64, 64, 2048, 64, 32, 164 << 10, 80),
    86: Multiprocessor(128, 64, 64, 1024, 48, 16, 100 << 10, 89),
    89: Multiprocessor(128, 64, 64, 1024, 48, 24, 100 << 10, 89),
    90: Multiprocessor(128, 64, 64, 4096, 64, 32, 228 << 10, 90),
    100: Multiprocessor(128, 64, 64, 8192, 64, 32, 228 << 10, 100),
    120: Multiprocessor(128, 64, 128, 1024, 48, 24, 100 << 10, 120),
}
HALVED = (86, 89, 120)  # of which some chips' tensor cores do half with fp32 sums
LEAST_CLOCK_HZ = {capability: 1.5e9 if capability in HALVED else 1.0e9 for capability in MULTIPROCESSORS}
CAPPED_CLOCK_HZ = 1.8e9  # assumed where a peak is lowered on purpose (H20): about what the others of Hopper have

# GPU file -> compute capability (NVIDIA's list, developer.nvidia.com/cuda-gpus). What is not here is not compiled for.
CAPABILITIES: Mapping[str, int] = {
    **dict.fromkeys(
        ("a100-sxm", "a100-sxm-40gb", "a100-pcie", "a100-pcie-40gb", "a800-sxm", "a800-pcie", "a30"), 80
    ),
    **dict.fromkeys(("a10", "a10g", "a40", "rtx-3090", "rtx-a6000"), 86),
    **dict.fromkeys(("l4", "l20", "l40", "l40s", "rtx-4090", "rtx-4090d", "rtx-6000-ada"), 89),
    **dict.fromkeys(("h100-sxm", "h100-pcie", "h100-nvl", "h800-sxm", "h20", "h200-sxm", "h200-nvl", "gh200"), 90),
    **dict.fromkeys(("b200-sxm", "gb200", "b300-sxm", "gb300"), 100),
    **dict.fromkeys(
        (
            "rtx-pro-6000", "rtx-pro-6000-workstation", "rtx-pro-6000-max-q", "rtx-6000d", "rtx-5090", "rtx-5070-ti",
        ),
        120,
    ),
}  # fmt: skip


def clock_hz(gpu: Gpu, capability: int) -> float:
    """The clock at which a GPU's multiprocessors give its peak in bf16."""
    found = gpu.peak_flops_per_s["bf16"] / (gpu.sm_count * MULTIPROCESSORS[capability].tensor_flops)
    least = LEAST_CLOCK_HZ[capability]
    if found < least and capability in HALVED:
        found *= 2
    return found if found >= least else CAPPED_CLOCK_HZ
