"""Campaigns made from a known profile: what `make gpu` would write on a GPU that costs exactly that, plus noise.

Besides them a clock to be moved by hand, and a rig on the CPU.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thinwire.kernels.timing import HostWatch, Limits
from thinwire.reference.catalog import scheme
from thinwire.sim.costs.elementwise import ElementwiseModel, OpCost
from thinwire.sim.costs.profile import CodecCost, GpuProfile, Quantity, gpu_profile
from thinwire.sim.costs.shipped import PROFILES
from thinwire.topologies.load import load_gpu
from thinwire.validation.campaign import campaign, shapes
from thinwire.validation.campaign.gpu import Arena, Rig
from thinwire.validation.campaign.model import elementwise_bytes
from thinwire.validation.fits import gemm as fit_gemm
from thinwire.validation.fits.calibrate_raw import layer_kernels, uncapped

GPU = load_gpu("h200-sxm")
PLAN = shapes.full()
SUSTAINED = {"bf16": 655e12, "fp8": 1180e12}
CODECS = ("flash-int8", "flash-int4", "mxfp4", "mxfp8")


def truth() -> GpuProfile:
    """An H200 that is none: the H100's products and attention at its facts, everything else made up."""
    h100 = gpu_profile(json.loads((PROFILES / "gpu-h100-sxm.json").read_text("utf-8")))
    said, bandwidth = "assumed: made up", GPU.memory_bandwidth_bytes_per_s
    ops = ("rms_norm", "add_rms_norm", "residual_add", "rope", "silu_mul", "gelu_mul", "embedding", "copy")
    costs = {op: OpCost((2 + i) * 1e-6, 0.5 + 0.05 * i, said) for i, op in enumerate(ops)}
    peak = GPU.peak_flops_per_s["bf16"]
    return GpuProfile(
        name="truth",
        gpu=GPU.name,
        gemm={dtype: model.transferred(fit_gemm.facts(GPU.name, dtype)) for dtype, model in h100.gemm.items()},
        attention=h100.attention.moved_to(GPU.name, peak, bandwidth, GPU.sm_count),
        decode_attention=h100.decode_attention.moved_to(GPU.name, bandwidth, GPU.sm_count),
        elementwise=ElementwiseModel(GPU.name, bandwidth, costs),
        sustained_flops_per_s={dtype: Quantity(rate, said) for dtype, rate in SUSTAINED.items()},
        kernel_gap_s=Quantity(1.7e-6, said),
        codec=CodecCost(Quantity(9e-6, said), Quantity(3.4e-6, said), Quantity(0.72, said), Quantity(0.55, said)),
    )


def made(noise: float = 0.02, seed: int = 0) -> campaign.Document:
    """A whole campaign of `truth()`, each time off by a log-normal factor."""
    rng, profile = np.random.default_rng(seed), truth()

    def off() -> float:
        return float(np.exp(noise * rng.standard_normal()))

    def timed(seconds: float) -> dict[str, Any]:
        return {"seconds": seconds + 8e-6, "seconds_graph": seconds * off()}

    steps = {name: [campaign.tidy(row) for row in rows] for name, rows in _steps(profile, timed, off)}
    machine = {
        "gpu": "NVIDIA H200", "sm_count": GPU.sm_count, "driver": "580.1", "utc": "2026-11-22T00:00:00Z", "seed": seed,
    }  # fmt: skip
    return {
        "form": campaign.FORM,
        "rehearsal": False,
        "machine": machine,
        "steps": {name: {"state": "done", "seconds": 1.0, "errors": 0, "rows": rows} for name, rows in steps.items()},
    }


def _steps(
    profile: GpuProfile, timed: Callable[[float], dict[str, Any]], off: Callable[[], float]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for dtype, model in profile.gemm.items():
        cases = PLAN.products(dtype)
        yield f"gemm-{dtype}", [c.columns() | timed(model.time_s(c.m, c.n, c.k)) for c in cases]
        rate = profile.sustained_flops_per_s[dtype].value
        falling = [rate * (1 + 0.2 * np.exp(-at)) * off() for at in np.arange(0.25, 8.01, 0.25)]  # it warms up
        rows: list[dict[str, Any]] = [
            {"dtype": dtype, "at_s": 0.25 * (i + 1), "flops_per_s": float(found)} for i, found in enumerate(falling)
        ]
        yield f"sustained-{dtype}", [*rows, {"dtype": dtype, "readings": [{"sm_mhz": 1410.0}]}]
    slower = {"cudnn": 1.0, "flash": 1.4}
    yield (
        "attention",
        [
            c.columns()
            | timed(
                slower[c.backend]
                * profile.attention.time_s(c.batch, c.length, c.length, c.heads, c.kv_heads, c.head_dim)
            )
            for c in PLAN.attentions()
        ],
    )
    plain = {"compiled": 1.0, "eager": 2.5}
    yield (
        "elementwise",
        [
            c.columns()
            | {"bytes": elementwise_bytes(c)}
            | timed(
                profile.elementwise.time_s(c.op, elementwise_bytes(c))
                * (plain[c.how] if c.op in ("rms_norm", "add_rms_norm", "rope", "silu_mul", "gelu_mul") else 1.0)
            )
            for c in PLAN.elementwises()
        ],
    )
    yield "codec", [row | timed(seconds) for row, seconds in codec_rows(profile.codec)]
    cost = uncapped(profile, GPU)
    layers = []
    for c in PLAN.layers():
        kernels = layer_kernels(c.model, c.tp, c.tokens)
        row = timed(sum(map(cost, kernels)))
        waits = row["seconds_graph"] + len(kernels) * profile.kernel_gap_s.value
        host = 1.5e-4
        layers.append(c.columns() | row | {"host_seconds": host, "burst_seconds": max(host * 1.05, waits)})
    yield "layer", layers


def codec_rows(cost: CodecCost) -> Iterator[tuple[dict[str, Any], float]]:
    """Every kernel of a two-step all-reduce over 4 and 8 ranks, with its time by the formula of sim/costs/cost.py."""
    bandwidth = GPU.memory_bandwidth_bytes_per_s
    for name in CODECS:
        codec = scheme(name).gather
        for ranks in (4, 8):
            for numel in (2**16, 2**19, 2**22, 2**25, 2**28):
                whole, chunk = codec.wire_bytes(numel), codec.wire_bytes(numel // ranks)
                for kernel, tensor, wire in (
                    ("encode", 2 * numel, whole),
                    ("decode", 2 * numel, whole),
                    ("reduce", 2 * numel // ranks, ranks * chunk),
                    ("reduce_encode", 0, (ranks + 1) * chunk),
                ):
                    read = {"encode": tensor, "reduce_encode": ranks * chunk}.get(kernel, wire)
                    row = {
                        "kernel": kernel, "codec": codec.spec, "dtype": "bf16", "numel": numel, "ranks": ranks,
                        "bytes_read": read, "bytes_written": tensor + wire - read,
                    }  # fmt: skip
                    local_s = tensor / (bandwidth * cost.local_share.value)
                    yield row, cost.separate_pass_s.value + local_s + wire / (bandwidth * cost.wire_share.value)


def written(document: campaign.Document, folder: Path) -> Path:
    """The campaign as a file."""
    path = folder / "nvidia-h200-2026-11-22.json"
    campaign.save(document, path)
    return path


class Clock:
    """Time goes by only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rig() -> Rig:
    """Two MiB of random inputs, always the same ones."""
    limits = Limits(device="cpu", l2_bytes=4096, target_s=1e-4, min_repeats=1, max_repeats=1, warm_ups=1)
    inputs, scratch = Arena(2**21, "cpu", 0), Arena(2**21, "cpu", None)
    return Rig(limits, shapes.tiny(), HostWatch(), inputs, scratch, torch.Generator().manual_seed(0))
