"""Which GPU a published table means, and who stands in for a GPU that no table has."""

from collections.abc import Mapping

SYSTEMS: Mapping[str, str] = {  # aiconfigurator's name: ours (topologies/gpus/*.toml)
    "a100_sxm": "a100-sxm",
    "b200_sxm": "b200-sxm",
    "b300_sxm": "b300-sxm",
    "gb200": "gb200",
    "gb300": "gb300",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000",
}

DEVICES: Mapping[str, str] = {  # what the driver calls it: ours
    "NVIDIA A10": "a10",
    "NVIDIA A40": "a40",
    "NVIDIA A100-SXM4-80GB": "a100-sxm",
    "NVIDIA A100 80GB PCIe": "a100-pcie",
    "NVIDIA B200": "b200-sxm",
    "NVIDIA GeForce RTX 4090": "rtx-4090",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H200": "h200-sxm",
    "NVIDIA L4": "l4",
    "NVIDIA L40": "l40",
    "NVIDIA L40S": "l40s",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "rtx-pro-6000",
}

# GEMM and attention: the measured GPU of the same architecture, or of the same kernel family. Docs/decisions 003 and
# 004 say how far off that may be.
NEAREST_KERNELS: Mapping[str, str] = {
    "l4": "l40s",
    "l40": "l40s",
    "rtx-4090": "l40s",
    "a100-pcie": "a100-sxm",
    "h100-pcie": "h100-sxm",
    "mi300x": "h100-sxm",
}

# Element-wise kernels: the measured GPU with the same kind of memory (HBM3, HBM2e, GDDR6).
NEAREST_MEMORY: Mapping[str, str] = {
    "a100-pcie": "a100-sxm",
    "h100-pcie": "h100-sxm",
    "h200-sxm": "h100-sxm",
    "b200-sxm": "h100-sxm",
    "mi300x": "h100-sxm",
    "l4": "a40",
    "l40": "a40",
    "l40s": "a40",
    "rtx-4090": "a40",
    "rtx-pro-6000": "a40",
}
