"""Fit `thinwire.sim.costs.experts.GroupedKernels` to the published rows, and say how good they are.

    python -m thinwire.validation.mixtures.experts            # in-sample and each model's shape left out
    python -m thinwire.validation.mixtures.experts --skew     # rows of skewed routing, which the fits do not see

Data: validation/published/experts.csv (aiconfigurator-core 0.12.0, Apache-2.0). What a row's token count means for one
rank (`Routing`) was worked out from the collector and the rows themselves: docs/decisions/032-mixture-kernels.md.
One step: all numbers of a GPU and precision at once, by robust least squares on the logarithm of the time, with either
block of the width. Deterministic: fixed start and order, no randomness.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from thinwire.sim.costs.experts import ACTIVATION_BYTES, ROWS_AXIS, VALUE_BYTES, ExpertsModel, GroupedKernels
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits.gpus import SYSTEMS
from thinwire.validation.fits.published_tables import Columns
from thinwire.validation.fits.published_tables import rows as table_rows

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Shape = tuple[int, int, int, int]  # hidden, intermediate, top-k, experts: of a model

TABLE = "experts"
UNGATED = ((2688, 1856), (2048, 5120), (1024, 2688))  # Nemotron 3: squared ReLU, two products an expert
GROUPED: Shape = (7168, 2048, 8, 256)  # DeepSeek-V3 chooses 4 of 8 groups of experts first
GROUPS, KEPT = 8, 4
GROUPING = "vllm 0.24.0"  # whose rows went through the model's own router
# vLLM has a second kernel for some models there (another activation, widths that the usual one refuses), at half the
# speed: which model gets it is no matter of shape. So it is with mxfp4 but for gpt-oss.
MINOR_ON = ("b200_sxm", "b300_sxm", "gb200", "gb300")
# vLLM 0.24.0 gave ModelOpt's fp8 checkpoints on Hopper a kernel that had not been tuned there: a third of bf16's speed.
# Its 0.19.0 runs what other fp8 checkpoints still get, Triton's; that was timed on the H200 alone.
HOPPER, TRITON_FP8 = ("h100_sxm", "h200_sxm"), "vllm 0.19.0"
LENT = {("h100-sxm", "fp8"): "h200-sxm"}
FEWEST_SHAPES = 3  # of models, to leave one out; else a width is


def routed(tokens: int, shape: Shape, ep: int, grouped: bool) -> tuple[int, int]:
    """(Rows, experts hit) of the first of `ep` ranks, as the collector's balanced routing gives them.

    Token t's i-th choice is expert t + i * stride, the stride experts / top-k rounded up; of fewer tokens than a stride
    the first choices are spread over it. A grouped router keeps four groups of experts; all eight look alike, so the
    first four are kept, and what a token chose elsewhere goes to the first of the experts left: each of the first four
    gets every token.
    """
    _, _, top, experts = shape
    stride = -(-experts // top)
    chosen = np.zeros(experts, dtype=np.int64)
    for i in range(top):
        if tokens >= stride:
            offset = (np.arange(experts) - i * stride) % experts
            chosen += tokens // experts + (offset < tokens % experts)
        else:
            first = (np.arange(tokens) * stride / tokens + i * stride) % experts
            chosen += np.bincount(first.astype(np.int64), minlength=experts)
    if grouped:
        chosen[experts * KEPT // GROUPS :] = 0
        own = chosen[: top - KEPT].copy()
        chosen[: top - KEPT] = tokens
        chosen[top - KEPT] += own.sum()
    local = chosen[: experts // ep]
    return int(local.sum()), int(np.count_nonzero(local))


def is_minor(row: Mapping[str, str]) -> bool:
    """Is it a row of a kernel, or a way to cut experts, that the fit of its GPU and precision is not about?"""
    system, precision, engine = row["system"], row["precision"], row["engine"]
    if engine.startswith("sglang"):
        return row["ep"] != "1"  # what a token count means there was not found out
    if system in HOPPER and precision == "fp8":
        return engine != TRITON_FP8
    if system == "h200_sxm" and precision == "int4":
        return True  # one shape beside SGLang's ten of the same kernel
    unlike = {"mxfp4": "marlin"} if system in HOPPER else {}
    if system in MINOR_ON:
        unlike = {"mxfp4": "marlin", **dict.fromkeys(("bf16", "fp8", "nvfp4"), "flashinfer-cutlass")}
    return unlike.get(precision) == row["kernel"]


@dataclass(frozen=True)
class Rows(Columns):
    """Rows of one GPU and precision as arrays of one length [R]; `shape`: of which model, a number; `line`: of the
    file.
    """

    rows: Floats
    hit: Floats
    passed: Floats
    hidden: Floats
    width: Floats
    gated: npt.NDArray[np.bool_]
    tokens: Floats
    ep: Floats
    time_s: Floats
    shape: Ints
    line: Ints
    shapes: tuple[Shape, ...]


@cache
def read_rows(distribution: str = "balanced") -> dict[tuple[str, str], Rows]:
    """(GPU, precision) -> rows, in file order. Rows of one rank without an expert hit are left out; skewed ones keep
    the balanced numbers of rows and of experts hit, which only hold in the mean, and at one rank.
    """
    columns: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    shapes: dict[tuple[str, str], list[Shape]] = {}
    routing: dict[tuple[int, Shape, int, bool], tuple[int, int]] = {}
    for number, row in enumerate(table_rows(TABLE)):
        system, precision = row["system"], row["precision"]
        if row["distribution"] != distribution or is_minor(row):
            continue
        key = SYSTEMS[system], precision
        shape: Shape = int(row["hidden"]), int(row["intermediate"]), int(row["topk"]), int(row["experts"])
        seen = shapes.setdefault(key, [])
        if shape not in seen:
            seen.append(shape)
        tp, ep = int(row["tp"]), int(row["ep"])
        for name, value in row.items():
            if not name.startswith("us_") or not value:
                continue
            tokens = int(name.removeprefix("us_"))
            asked = tokens, shape, ep, shape == GROUPED and row["engine"] == GROUPING
            if asked not in routing:
                routing[asked] = routed(*asked)
            rows, hit = routing[asked]
            if hit:
                columns.setdefault(key, []).append(
                    (rows, hit, tokens * shape[2] - rows, shape[0], shape[1] // tp, shape[:2] not in UNGATED, tokens,
                     ep, float(value) * 1e-6, seen.index(shape), number)
                )  # fmt: skip
    found = {}
    for key, lines in columns.items():
        arrays = np.array(lines, dtype=np.float64).T
        columns_of: dict[str, Any] = dict(zip(Rows.__dataclass_fields__, arrays, strict=False))
        columns_of |= {"gated": arrays[5] > 0, "shape": arrays[9].astype(np.int64), "line": arrays[10].astype(np.int64)}
        found[key] = Rows(**columns_of, shapes=tuple(shapes[key]))
    return found


def facts(gpu: str, precision: str) -> tuple[float, float]:
    """(peak in FLOP/s, memory bandwidth) of a GPU for experts of a precision. nvfp4 multiplies at four
    times bf16's rate where it was measured: Blackwell.
    """
    known = load_gpu(gpu)
    peaks = known.peak_flops_per_s
    if precision == "nvfp4":
        peak = 4 * peaks["bf16"]
    else:
        peak = peaks["bf16" if precision in ("bf16", "int4", "mxfp4") else precision.partition("-")[0]]
    return peak, known.memory_bandwidth_bytes_per_s


# --- the fit

NAMES = ("launch_s", "depth_s", "share_efficiency", "expert_s", "sharpness", "row_passes", "passed_passes",
         "cache_bytes", "cache_speedup", "cache_steepness")  # fmt: skip
SEGMENTS = len(ROWS_AXIS) - 1
# Then the logarithm of an expert's rows' worth of peak at one row, and what share of each segment's growth it takes.
START = np.r_[np.log([15e-6, 1e-9, 0.8, 1e-7, 4, 1, 1, 30e6, 1.4, 4]), 2.0, 0.3, 0.3, 0.3, 0.5, 0.7, 0.9, 1, 1]
LOWER = np.r_[np.log([5e-6, 1e-12, 0.3, 1e-10, 1, 0.05, 0.05, 10e6, 1.0, 1.0]), 0.0, np.zeros(SEGMENTS)]
UPPER = np.r_[np.log([200e-6, 8e-9, 1.0, 5e-6, 12, 10, 20, 200e6, 8.0, 16.0]), 9.0, np.ones(SEGMENTS)]
L2_BYTES, L2_BYTES_PER_S = 96e6, 12e12  # where a GPU's file does not say, the L40S's; as fast as any L2 has been read
BLOCKS = (64, 128)
SCALE, SMALL = 0.08, 0.002
"""Errors beyond SCALE (in the logarithm) count less and less, as in fits/attention; SMALL holds what no row determines
at the start."""


@dataclass(frozen=True)
class _Prepared:
    """What of the formula does not depend on the numbers [R]."""

    ramp: Floats  # [R, SEGMENTS]
    products_s: Floats
    weights_s: Floats
    weights_bytes: Floats
    moved_s: Floats
    passed_s: Floats
    depth: Floats
    hit: Floats
    log_s: Floats

    def seconds(self, log_values: Floats) -> Floats:
        """`GroupedKernels.replayed_s` in arrays [R].

        The one formula written twice, for speed; tests/validation/mixtures/test_experts.py holds the two together.
        """
        names = len(NAMES)
        v = dict(zip(NAMES, np.exp(log_values[:names]), strict=True))
        products = self.products_s * np.exp(log_values[names] + self.ramp @ log_values[names + 1 :])
        warm = 1 / (1 + (self.weights_bytes / v["cache_bytes"]) ** v["cache_steepness"])
        reading = self.weights_s / v["share_efficiency"] * (1 - warm * (1 - 1 / v["cache_speedup"]))
        weights = reading + self.hit * v["expert_s"]
        high, low = np.maximum(products, weights), np.minimum(products, weights)
        both = high * (1 + (low / high) ** v["sharpness"]) ** (1 / v["sharpness"])
        moved = v["row_passes"] * self.moved_s + v["passed_passes"] * self.passed_s
        return np.asarray(v["launch_s"] + v["depth_s"] * self.depth + both + moved)


def _prepare(rows: Rows, precision: str, block: int, known: tuple[float, float]) -> _Prepared:
    peak, bandwidth = known
    width = np.ceil(rows.width / block) * block
    products = np.where(rows.gated, 3.0, 2.0)
    values = products * rows.hidden * width
    weights = rows.hit * values * VALUE_BYTES[precision]
    row_bytes = ACTIVATION_BYTES * (2 * rows.hidden + (products + 1) * width)
    at, nodes = np.log(rows.rows / rows.hit), np.log(ROWS_AXIS)
    ramp = np.clip(at[:, None], nodes[:-1], nodes[1:]) - nodes[:-1]
    beyond = np.maximum(at - nodes[-1], 0.0)
    return _Prepared(
        ramp=ramp,
        products_s=2 * rows.hit * values / peak * np.exp(beyond),
        weights_s=weights / bandwidth,
        weights_bytes=weights,
        moved_s=rows.rows * row_bytes / bandwidth,
        passed_s=rows.passed * row_bytes / bandwidth,
        depth=rows.hidden + rows.width,
        hit=rows.hit,
        log_s=np.log(rows.time_s),
    )


def _upper(gpu: str) -> Floats:
    """No L2 is larger than it is by a quarter, nor so much faster than memory."""
    known, upper = load_gpu(gpu), np.array(UPPER, dtype=np.float64)
    upper[NAMES.index("cache_bytes")] = math.log(1.25 * (known.l2_bytes or L2_BYTES))
    faster = L2_BYTES_PER_S / known.memory_bandwidth_bytes_per_s
    upper[NAMES.index("cache_speedup")] = min(math.log(faster), UPPER[NAMES.index("cache_speedup")])
    return upper


def _solve(prepared: _Prepared, upper: Floats) -> tuple[float, Floats]:
    def residual(log_values: Floats) -> Floats:
        off = np.log(prepared.seconds(log_values)) - prepared.log_s
        robust = np.sign(off) * SCALE * np.sqrt(2 * (np.sqrt(1 + (off / SCALE) ** 2) - 1))
        return np.concatenate([robust, SMALL * (log_values - START)])

    start = np.clip(START, LOWER + 1e-6, upper - 1e-6)
    found = least_squares(residual, start, bounds=(LOWER, upper), max_nfev=120, x_scale="jac")
    return float(found.cost), np.asarray(found.x, dtype=np.float64)


def fit(rows: Rows, gpu: str, precision: str, source: str = "") -> GroupedKernels:
    """The kernels of one GPU and precision from measured rows."""
    known = facts(gpu, precision)
    blocks = {block: _solve(_prepare(rows, precision, block, known), _upper(gpu)) for block in BLOCKS}
    block = min(blocks, key=lambda b: blocks[b][0])
    count = len({shape for i, shape in enumerate(rows.shapes) if (rows.shape == i).any()})
    source = source or f"measured: aiconfigurator-core 0.12.0, {TABLE}.csv, {len(rows)} rows of {count} models' shapes"
    return build(precision, block, known, blocks[block][1], source)


def build(precision: str, block: int, known: tuple[float, float], log_values: Floats, source: str) -> GroupedKernels:
    """Kernels from fitted numbers, rounded, so that the profile is short and exact."""
    v = {name: float(f"{math.exp(x):.4g}") for name, x in zip(NAMES, log_values, strict=False)}
    names = len(NAMES)
    worth = log_values[names] + np.r_[0.0, np.cumsum(log_values[names + 1 :] * np.diff(np.log(ROWS_AXIS)))]
    efficiencies: list[float] = []
    for rows, log_worth in zip(ROWS_AXIS, worth, strict=True):
        share = float(f"{rows / math.exp(log_worth):.4g}")
        if efficiencies:
            before = ROWS_AXIS[len(efficiencies) - 1]
            share = min(max(share, efficiencies[-1]), efficiencies[-1] * rows / before)
        efficiencies.append(share)
    peak, bandwidth = known
    return GroupedKernels(
        precision=precision,
        peak_flops_per_s=peak,
        memory_bandwidth_bytes_per_s=bandwidth,
        bytes_per_value=VALUE_BYTES[precision],
        width_block=block,
        launch_s=v["launch_s"],
        depth_s=v["depth_s"],
        share_efficiency=min(v["share_efficiency"], 1.0),
        expert_s=v["expert_s"],
        sharpness=max(v["sharpness"], 1.0),
        row_passes=v["row_passes"],
        passed_passes=v["passed_passes"],
        efficiencies=tuple(efficiencies),
        cache_bytes=v["cache_bytes"],
        cache_speedup=max(v["cache_speedup"], 1.0),
        cache_steepness=v["cache_steepness"],
        source=source,
    )


def fit_all() -> dict[str, ExpertsModel]:
    """The measured GPUs' models."""
    kernels: dict[str, dict[str, GroupedKernels]] = {}
    for (gpu, precision), rows in read_rows().items():
        kernels.setdefault(gpu, {})[precision] = fit(rows, gpu, precision)
    for (gpu, precision), lender in LENT.items():
        kernels[gpu][precision] = kernels[lender][precision].moved_to(lender, *facts(gpu, precision))
    return {gpu: ExpertsModel(gpu, peaks(gpu), its) for gpu, its in sorted(kernels.items())}


def peaks(gpu: str) -> dict[str, float]:
    """What a model's stand-ins need of a GPU."""
    return {p: v for p, v in load_gpu(gpu).peak_flops_per_s.items() if p in ("bf16", "fp8", "int8")}


def predict(kernels: GroupedKernels, rows: Rows) -> Floats:
    """Seconds [R] as the benchmark would measure them, by the model itself."""
    columns = zip(rows.rows, rows.hit, rows.hidden, rows.width, rows.gated, rows.passed, strict=True)
    return np.array(
        [kernels.replayed_s(int(r), int(h), int(d), int(w), bool(g), int(p)) for r, h, d, w, g, p in columns]
    )


def errors(kernels: GroupedKernels, rows: Rows) -> Floats:
    """Absolute relative errors [R]."""
    return np.asarray(np.abs(predict(kernels, rows) / rows.time_s - 1))


def folds(rows: Rows) -> Iterator[npt.NDArray[np.bool_]]:
    """Masks of the rows of one model's shape, one after another; where there are few, of one width and its ranks."""
    if len(rows.shapes) >= FEWEST_SHAPES:
        for shape in range(len(rows.shapes)):
            yield rows.shape == shape
        return
    cuts = np.stack([rows.width, rows.ep], 1)
    for cut in np.unique(cuts, axis=0):
        yield (cuts == cut).all(1)


def left_out(rows: Rows, gpu: str, precision: str, chosen: slice = slice(None)) -> tuple[Floats, Rows]:
    """(Logarithms of measured over predicted, rows) of shapes that the fit has not seen; `chosen`: of which folds."""
    kept, found = np.zeros(len(rows), dtype=bool), np.zeros(len(rows))
    for out in list(folds(rows))[chosen]:
        model = fit(rows.only(~out), gpu, precision, "measured: left out")
        found[out] = np.log(rows.time_s[out] / predict(model, rows.only(out)))
        kept |= out
    return found[kept], rows.only(kept)


def table(names: Sequence[str], lines: Mapping[str, Sequence[Floats]]) -> None:
    """Print errors in %: median / 90th percentile / worst."""
    print("| | " + " | ".join(names) + " |")
    for name, cells in lines.items():
        said = (f"{np.median(e):.1%} / {np.quantile(e, 0.9):.1%} / {e.max():.0%}" if len(e) else "" for e in cells)
        print(f"| {name} | " + " | ".join(said) + " |")


def main(argv: list[str] | None = None) -> None:
    """Print the tables of docs/decisions/032-mixture-kernels.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skew", action="store_true", help="rows of skewed routing at one rank")
    options = parser.parse_args(argv)
    if options.skew:
        lines = {}
        for distribution in ("power_law_1.01", "power_law_1.2"):
            for (gpu, precision), rows in read_rows(distribution).items():
                model = fit(read_rows()[gpu, precision], gpu, precision)
                alone = rows.only((rows.ep == 1) & (rows.tokens >= 1024))
                lines[f"{gpu} {precision} {distribution}"] = [errors(model, alone)]
        table(["one rank, from 1,024 tokens"], lines)
        return
    lines = {}
    for (gpu, precision), rows in read_rows().items():
        logs, _ = left_out(rows, gpu, precision)
        cells = [errors(fit(rows, gpu, precision), rows), np.abs(np.exp(-logs) - 1)]
        lines[f"{gpu} {precision} ({len(rows):,} of {len(rows.shapes)} shapes)"] = cells
    table(["in-sample", "a model's shape out"], lines)


if __name__ == "__main__":
    main()
