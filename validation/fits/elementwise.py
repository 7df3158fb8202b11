"""Fit `thinwire.sim.costs.elementwise.ElementwiseModel` to published kernel times; say what bandwidth they reach.

    python -m thinwire.validation.fits.elementwise    # fits, achieved bandwidth, the costs chosen for each GPU

Two sources measure different generations of kernels (docs/decisions/004-attention-and-elementwise.md):

- vidur (dense_ops_by_tp.csv): Sarathi's early vLLM kernels, fp16, unfused, kernel times rounded to 0.5-1 us.
- TokenWeave (tokenweave_kernels_8xh100.csv): vLLM's fused_add_rms_norm, hidden 8192, bf16, cold L2.

The costs chosen (`engine_models`) are those of a present engine: TokenWeave's and other sourced shares for
the kernels that were rewritten, vidur's for those that were not.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import lsq_linear

from thinwire.reference.families.config import load_model
from thinwire.sim.costs.elementwise import OPS, ElementwiseModel, OpCost, elementwise_bytes
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits.published_tables import PUBLISHED

Floats = npt.NDArray[np.float64]
VIDUR_GPUS = {"a100": "a100-sxm", "h100": "h100-sxm", "a40": "a40"}
BANDWIDTH_BYTES_PER_S: Mapping[str, float] = {
    gpu: load_gpu(gpu).memory_bandwidth_bytes_per_s for gpu in VIDUR_GPUS.values()
}

MODELS: Mapping[str, str] = {
    "Llama-2-7b-hf": "llama-2-7b",
    "Llama-2-70b-hf": "llama-2-70b",
    "Meta-Llama-3-8B": "llama-3-8b",
    "Meta-Llama-3-70B": "llama-3-70b",
}
COLUMNS: Mapping[str, tuple[str, ...]] = {
    # operator: vidur's columns of it
    "rms_norm": ("input_layernorm_us", "post_attention_layernorm_us"),
    "rope": ("attn_rope_us",),
    "silu_mul": ("mlp_act_us",),
    "residual_add": ("add_us",),
    "embedding": ("emb_us",),
}
ROUNDING_S, RELATIVE = 0.5e-6, 0.05
"""What a row may be off for no fault of the model: vidur's rounding, and scatter between its repeated
rows."""

SILU_SHARE = 0.80
"""Vectorised silu_and_mul, share of an H100's 3.35 TB/s: 2.63-2.70 TB/s from 128 tokens per expert up (NVIDIA
H100 80GB HBM3, silu_mul with fp8 output, vllm-project/vllm#23265)."""


@dataclass(frozen=True)
class Sample:
    """Rows of one operator on one GPU: bytes moved [R], seconds [R], a key [R] of the shape measured."""

    moved_bytes: Floats
    time_s: Floats
    shape: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fit:
    """Line of one operator and what it leaves: median relative error in-sample and with shapes left out."""

    floor_s: float
    efficiency: float
    error: float
    error_left_out: float
    rows: int


def read_vidur(path: Path = PUBLISHED / "dense_ops_by_tp.csv") -> dict[tuple[str, str], Sample]:
    """(our GPU name, operator) -> rows. A shape is a (model, tp), so all its token counts go out together."""
    found: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
    shapes: dict[tuple[str, str], int] = {}
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            layer = load_model(MODELS[row["model"]])
            tp, tokens = int(row["tp"]), int(row["num_tokens"])
            rotated = (layer.attention.heads + layer.attention.kv_heads) * layer.attention.head_dim
            width = {"rope": rotated // tp, "silu_mul": layer.feed_forward.width // tp}
            shape = shapes.setdefault((row["model"], row["tp"]), len(shapes))
            for op, columns in COLUMNS.items():
                moved = elementwise_bytes(op, tokens, width.get(op, layer.hidden_size))
                found.setdefault((VIDUR_GPUS[row["gpu"]], op), []).extend(
                    (moved, float(row[column]) * 1e-6, shape) for column in columns
                )
    return {key: sample_of(values) for key, values in found.items()}


def read_tokenweave(path: Path = PUBLISHED / "tokenweave_kernels_8xh100.csv") -> Sample:
    """vLLM's fused_add_rms_norm on an H100 (column full_rms_norm_us); every token count is its own shape."""
    with path.open(newline="") as stream:
        rows = [
            (
                float(elementwise_bytes("add_rms_norm", int(row["BL"]), int(row["hidden_size"]))),
                float(row["full_rms_norm_us"]) * 1e-6,
                number,
            )
            for number, row in enumerate(csv.DictReader(stream))
        ]
    return sample_of(rows)


def sample_of(rows: list[tuple[float, float, int]]) -> Sample:
    """From (bytes moved, seconds, key of the shape)."""
    moved, time_s, shape = zip(*rows, strict=True)
    return Sample(np.array(moved, dtype=float), np.array(time_s), np.array(shape, dtype=np.int64))


def _line(sample: Sample, bandwidth_bytes_per_s: float, rounding_s: float) -> tuple[float, float]:
    """Floor in seconds and share of the bandwidth (at most 1) of the weighted least-squares line."""
    sigma = np.hypot(rounding_s, RELATIVE * sample.time_s)
    # unknowns in microseconds and in multiples of the ideal time, so that both are of order one
    matrix = np.stack([np.full_like(sigma, 1e-6), sample.moved_bytes / bandwidth_bytes_per_s], 1) / sigma[:, None]
    found = lsq_linear(matrix, sample.time_s / sigma, bounds=([0.0, 1.0], [np.inf, np.inf]), tol=1e-12)
    floor_us, slowdown = (float(v) for v in found.x)
    return floor_us * 1e-6, 1.0 / slowdown


def fit(sample: Sample, bandwidth_bytes_per_s: float, rounding_s: float = ROUNDING_S) -> Fit:
    """Line through one operator's rows; errors are relative to the measured time. `rounding_s` is the clock's."""

    def error(line: tuple[float, float], keep: npt.NDArray[np.bool_]) -> Floats:
        predicted = line[0] + sample.moved_bytes[keep] / (bandwidth_bytes_per_s * line[1])
        return np.asarray(np.abs(predicted / sample.time_s[keep] - 1))

    everything = np.ones(len(sample.time_s), dtype=bool)
    line = _line(sample, bandwidth_bytes_per_s, rounding_s)
    left_out = np.zeros(len(sample.time_s))
    for shape in np.unique(sample.shape):
        out = sample.shape == shape
        rest = Sample(sample.moved_bytes[~out], sample.time_s[~out], sample.shape[~out])
        left_out[out] = error(_line(rest, bandwidth_bytes_per_s, rounding_s), out)
    return Fit(*line, float(np.median(error(line, everything))), float(np.median(left_out)), len(sample.time_s))


def achieved(sample: Sample, bandwidth_bytes_per_s: float) -> float:
    """Share of the datasheet bandwidth, floor and all, of the largest call measured (median of its
    repeats)."""
    largest = sample.moved_bytes == sample.moved_bytes.max()
    return float(np.median(sample.moved_bytes[largest] / sample.time_s[largest]) / bandwidth_bytes_per_s)


def engine_models() -> dict[str, ElementwiseModel]:
    """Costs of a present engine's kernels on the three GPUs vidur measured; other GPUs: `.moved_to` by
    gpus.NEAREST_MEMORY."""
    vidur = read_vidur()
    fused = fit(read_tokenweave(), BANDWIDTH_BYTES_PER_S["h100-sxm"])
    models = {}
    for gpu, bandwidth in BANDWIDTH_BYTES_PER_S.items():
        fits = {op: fit(vidur[gpu, op], bandwidth) for op in COLUMNS}
        here = gpu == "h100-sxm"
        # What a plain streaming kernel reaches here bounds every other: vidur's add at its largest, where the
        # data no longer fit the L2; on the H100 they still do in part (97 %), so TokenWeave's flushed kernel
        # bounds.
        stream = min(achieved(vidur[gpu, "residual_add"], bandwidth), fused.efficiency)
        weave = "microsoft/tokenweave@f483d1c fused_add_rms_norm, 10 rows on H100"
        bound = "" if here else f", bounded by vidur's add here, {stream:.2f}"
        old = "microsoft/vidur@7d47513 dense_ops_by_tp.csv"

        def vidur_cost(op: str, fits: dict[str, Fit] = fits, stream: float = stream, old: str = old) -> OpCost:
            found = fits[op]
            return cost_of(found.floor_s, min(found.efficiency, stream), f"measured: {old}, {found.rows} rows")

        norm = "measured" if here else "assumed: as on h100-sxm"
        silu = "measured" if here else "assumed: as on h100-sxm"
        silu_source = f"{silu}: share of vllm-project/vllm#23265{bound}; floor of {old}"
        costs = {
            "add_rms_norm": cost_of(fused.floor_s, min(fused.efficiency, stream), f"{norm}: {weave}{bound}"),
            "rms_norm": cost_of(
                fits["rms_norm"].floor_s,
                min(fused.efficiency, stream),
                f"assumed: share as add_rms_norm ({weave}{bound}); floor of {old}",
            ),
            "silu_mul": cost_of(fits["silu_mul"].floor_s, min(SILU_SHARE, stream), silu_source),
            "gelu_mul": cost_of(
                fits["silu_mul"].floor_s, min(SILU_SHARE, stream), f"assumed: as silu_mul ({silu_source})"
            ),
            "residual_add": vidur_cost("residual_add"),
            "rope": vidur_cost("rope"),
            "embedding": vidur_cost("embedding"),
        }
        add = costs["residual_add"]
        costs["copy"] = cost_of(add.floor_s, add.efficiency, f"assumed: as residual_add ({add.source})")
        models[gpu] = ElementwiseModel(gpu, bandwidth, {op: costs[op] for op in OPS})
    return models


def cost_of(floor_s: float, efficiency: float, source: str) -> OpCost:
    """Rounded to three digits."""
    return OpCost(float(f"{floor_s:.3g}"), float(f"{efficiency:.3g}"), source)


def main() -> None:
    """Print the tables of docs/decisions/004-attention-and-elementwise.md."""
    vidur = read_vidur()
    print("fits: floor us, share of the datasheet bandwidth; share reached by the largest call (its bytes);")
    print("median error % in-sample and with a (model, tp) left out")
    rows = [(gpu, op, vidur[gpu, op]) for gpu in BANDWIDTH_BYTES_PER_S for op in COLUMNS]
    rows.append(("h100-sxm", "add_rms_norm", read_tokenweave()))
    for gpu, op, sample in rows:
        bandwidth = BANDWIDTH_BYTES_PER_S[gpu]
        found = fit(sample, bandwidth)
        print(
            f"  {gpu:9} {op:13} {found.floor_s * 1e6:5.1f} us  {found.efficiency:5.3f}  "
            f"{achieved(sample, bandwidth):5.3f} ({sample.moved_bytes.max() / 1e6:6.1f} MB)  "
            f"{100 * found.error:5.1f} {100 * found.error_left_out:5.1f}  {found.rows} rows"
        )
    print("\ncosts chosen: floor us, share, achieved GB/s at 4096 tokens of Llama-3-70B TP8, bytes, source")
    width = {"rope": (8 + 1) * 128, "silu_mul": 3584, "gelu_mul": 3584}
    for gpu, model in engine_models().items():
        for op in OPS:
            moved = elementwise_bytes(op, 4096, width.get(op, 8192))
            cost = model.costs[op]
            print(
                f"  {gpu:9} {op:13} {cost.floor_s * 1e6:5.2f} us  {cost.efficiency:5.3f}  "
                f"{moved / model.time_s(op, moved) / 1e9:6.0f} GB/s of {moved / 1e6:6.1f} MB  {cost.source}"
            )


if __name__ == "__main__":
    main()
