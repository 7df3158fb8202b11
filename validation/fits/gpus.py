"""Which GPU a published table means, and who stands in for a GPU that no table has."""

from collections.abc import Mapping

from thinwire.topologies.load import gpu_names, load_gpu

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

# Whose rows the spreads of GPUs of another chip were made of when their profiles were shipped. B300, GB200 and GB300
# came later; what they say of spreads is in validation/relatives/.
FIRST = ("a100-sxm", "b200-sxm", "h100-sxm", "h200-sxm", "l40s", "rtx-pro-6000")

# What the driver calls it: ours, as the GPUs' own files say.
DEVICES: Mapping[str, str] = {
    device: gpu.name
    for gpu in map(load_gpu, gpu_names())
    for device in gpu.product_names
    if device.startswith("NVIDIA")
}

# GEMM and attention of the GPUs that have a profile file and no measured kernels: their relative's, as their own file
# names it. Docs/decisions 003, 004 and 027 say how far off that may be.
LENT = ("l4", "l40", "a100-pcie", "h100-pcie", "mi300x")
NEAREST_KERNELS: Mapping[str, str] = {gpu: str(load_gpu(gpu).relative) for gpu in LENT}

# Element-wise kernels: the measured GPU with the same kind of memory (HBM3, HBM2e, GDDR6).
NEAREST_MEMORY: Mapping[str, str] = {
    "a100-pcie": "a100-sxm",
    "h100-pcie": "h100-sxm",
    "h200-sxm": "h100-sxm",
    "b200-sxm": "h100-sxm",
    "b300-sxm": "h100-sxm",
    "gb200": "h100-sxm",
    "gb300": "h100-sxm",
    "mi300x": "h100-sxm",
    "l4": "a40",
    "l40": "a40",
    "l40s": "a40",
    "rtx-pro-6000": "a40",
}
