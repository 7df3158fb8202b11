"""Fit `thinwire.sim.gemm.GemmModel` to the published rows, and say how good it is.

    python -m thinwire.validation.fit_gemm               # in-sample, one row left out, one (n, k) left out
    python -m thinwire.validation.fit_gemm --strict      # the left-out rows again with everything refitted (minutes)
    python -m thinwire.validation.fit_gemm --transfer    # each GPU from the others; the default roofline
    python -m thinwire.validation.fit_gemm --outside     # extrapolation, hull of the models' shapes, order in n and k

Data: validation/published/gemm.csv (ai-dynamo/aiconfigurator, Apache-2.0). Two steps: the roofline's numbers by robust
least squares on the logarithm of the time, then the weights of the correction by kriging of what is left, with a noise
that grows for rows their neighbours contradict. Deterministic: fixed starts, fixed order, no randomness.
"""

import argparse
import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import least_squares

from thinwire.sim.gemm import (
    TILES,
    Correction,
    Floats,
    GemmModel,
    GpuFacts,
    Roofline,
    covariance,
    features,
)

PUBLISHED = Path(__file__).parent / "published" / "gemm.csv"
SYSTEMS: Mapping[str, str] = {  # the csv's system: our GPU (topologies/gpus/*.toml)
    "a100_sxm": "a100-sxm",
    "b200_sxm": "b200-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
DTYPES: Mapping[str, str] = {"bfloat16": "bf16", "fp8": "fp8"}

# Chosen once for all GPUs and dtypes by leave-one-out (docs/decisions/003-gemm-model.md): m, n, k (logs), band of m,
# share of the tile, padding, then the four wave features.
LENGTHS = (1.5, 1.5, 4.0, 3.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0)
NOISE = 0.06  # variance of a row's own error, in units of the variance of the correction
OUTLIER = 1.0  # a row whose left-out error exceeds this many robust standard deviations counts proportionally less
REWEIGHTINGS = 2
ROBUST_SCALE = 0.05  # of the roofline's fit: residuals beyond 5 % count linearly
PAD_THRESHOLD = 0.05  # rows just above a multiple of 256 slower than their neighbours by more than this: m is padded


@dataclass(frozen=True, slots=True)
class Row:
    """One measured product."""

    m: int
    n: int
    k: int
    time_s: float


def read_rows(path: Path = PUBLISHED) -> dict[tuple[str, str], list[Row]]:
    """(GPU, dtype) -> rows, of the published table."""
    tables: dict[tuple[str, str], list[Row]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            row = Row(int(line["m"]), int(line["n"]), int(line["k"]), float(line["latency_us"]) * 1e-6)
            tables.setdefault((SYSTEMS[line["system"]], DTYPES[line["gemm_dtype"]]), []).append(row)
    return {key: sorted(rows, key=lambda row: (row.n, row.k, row.m)) for key, rows in sorted(tables.items())}


def facts(gpu: str, dtype: str) -> GpuFacts:
    """The facts of one of our GPUs, from topologies/gpus/."""
    from thinwire.topologies.load import load_gpu

    found = load_gpu(gpu)
    return GpuFacts(gpu, found.peak_flops_per_s[dtype], found.memory_bandwidth_bytes_per_s, found.sm_count)


def columns(rows: Sequence[Row]) -> tuple[Floats, Floats, Floats, Floats]:
    """m, n, k and log(time) as arrays."""
    table = np.array([(row.m, row.n, row.k, row.time_s) for row in rows], dtype=np.float64)
    return table[:, 0], table[:, 1], table[:, 2], np.log(table[:, 3])


def is_padded(rows: Sequence[Row]) -> bool:
    """Do products with m = 256 j + 1, j > 2, take clearly longer than the two multiples of 256 around them?"""
    time = {(row.m, row.n, row.k): row.time_s for row in rows}
    excess = [
        np.log(row.time_s / np.sqrt(time[row.m - 1, row.n, row.k] * time[row.m + 255, row.n, row.k]))
        for row in rows
        if row.m > 512 and row.m % 256 == 1
        if (row.m - 1, row.n, row.k) in time and (row.m + 255, row.n, row.k) in time
    ]
    return bool(excess) and float(np.median(excess)) > PAD_THRESHOLD


def fit_roofline(rows: Sequence[Row], gpu: GpuFacts, dtype: str) -> Roofline:
    """The roofline's numbers by robust least squares on log(time), from two fixed starts, the better of the two."""
    m, n, k, log_time = columns(rows)
    padded, quantised = is_padded(rows), dtype == "fp8"
    # log of: launch and wave in us, bandwidth efficiency, tiles; split in us or quantise passes; padding in us and passes
    low, high = [-0.7, -4.0, -2.0] + [-4.0] * len(TILES), [3.0, 3.0, 0.3] + [0.3] * len(TILES)
    start = [1.0, 0.0, -0.2] + [-0.5] * len(TILES)
    if quantised:
        low, high, start = [*low, -7.0], [*high, 3.0], [*start, -1.0]
    else:
        low, high, start = [*low, -3.0], [*high, 4.0], [*start, 1.0]
    if padded:
        low, high, start = [*low, -5.0, -7.0], [*high, 4.0, 3.0], [*start, 0.0, -1.0]

    def roofline(logs: Floats) -> Roofline:
        values = [float(value) for value in np.exp(logs)]
        tiles, rest = tuple(values[3 : 3 + len(TILES)]), values[3 + len(TILES) :]
        split_s, passes = (None, rest[0]) if quantised else (rest[0] * 1e-6, 0.0)
        pad_us, pad_passes = rest[-2:] if padded else (0.0, 0.0)
        return Roofline(values[0] * 1e-6, values[1] * 1e-6, values[2], tiles, split_s, passes, pad_us * 1e-6, pad_passes)

    def residuals(logs: Floats) -> Floats:
        return np.asarray(np.log(roofline(logs).times_s(gpu, dtype, m, n, k)) - log_time)

    best = None
    for spread in (np.zeros(len(TILES)), np.linspace(-0.6, 0.1, len(TILES))):
        first = np.array(start)
        first[3 : 3 + len(TILES)] += spread
        found = least_squares(residuals, first, loss="soft_l1", f_scale=ROBUST_SCALE, bounds=(low, high), max_nfev=200)
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    fitted = roofline(best.x)
    return Roofline(
        _rounded(fitted.launch_s),
        _rounded(fitted.wave_s),
        _rounded(fitted.bandwidth_efficiency),
        tuple(_rounded(value) for value in fitted.tile_efficiencies),
        None if fitted.split_s is None else _rounded(fitted.split_s),
        _rounded(fitted.quantise_passes),
        _rounded(fitted.pad_launch_s),
        _rounded(fitted.pad_passes),
    )


def kriging_weights(places: Floats, residual: Floats) -> Floats:
    """Weights that reproduce the residuals up to noise; the noise of a row grows with its own left-out error.

    Args:
        places: features, one row each. residual: log(measured / roofline).
    """
    plain = covariance(places, places, LENGTHS)
    noise = np.full(len(residual), NOISE)
    for round_ in range(REWEIGHTINGS + 1):
        factor, _ = lapack.dpotrf(plain + np.diag(noise), lower=1)
        inverse, _ = lapack.dpotri(factor, lower=1)
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        weights = inverse @ residual
        left_out = np.abs(weights / np.diag(inverse))  # a row's error when the others alone predict it
        if round_ < REWEIGHTINGS:
            scale = max(1.4826 * float(np.median(left_out)), 1e-6)
            noise = NOISE * np.maximum(1.0, left_out / (OUTLIER * scale))
    return np.asarray(weights, dtype=np.float64)


def fit_gemm(rows: Sequence[Row], gpu: GpuFacts, dtype: str = "bf16", source: str | None = None) -> GemmModel:
    """The model of one GPU and dtype from its rows."""
    base = fit_roofline(rows, gpu, dtype)
    m, n, k, log_time = columns(rows)
    residual = log_time - np.log(base.times_s(gpu, dtype, m, n, k))
    weights = kriging_weights(features(gpu, base.padded, m, n, k), residual)
    grid_m, shapes = sorted({row.m for row in rows}), sorted({(row.n, row.k) for row in rows})
    table = {(row.m, row.n, row.k): round(float(weight), 4) for row, weight in zip(rows, weights, strict=True)}
    correction = Correction(
        m=tuple(grid_m),
        shapes=tuple(shapes),
        weights=tuple(tuple(table.get((rows_m, width, depth), 0.0) for rows_m in grid_m) for width, depth in shapes),
        lengths=LENGTHS,
    )
    text = source or f"measured: ai-dynamo/aiconfigurator@095f58a, {len(rows)} rows"
    return GemmModel(gpu, dtype, base, correction, text)


def residuals(model: GemmModel, rows: Iterable[Row]) -> Floats:
    """log(measured / predicted) of each row."""
    return np.array([np.log(row.time_s / model.time_s(row.m, row.n, row.k)) for row in rows])


def row_folds(rows: Sequence[Row], every: int = 1) -> list[list[Row]]:
    """Rows to leave out together: from each (n, k) one, at an m that moves on by 7 places from shape to shape.

    As many folds as there are m, so that each row is left out once; `every` takes only each so-manieth fold.
    """
    grid_m, shapes = sorted({row.m for row in rows}), sorted({(row.n, row.k) for row in rows})
    folds: list[list[Row]] = [[] for _ in grid_m]
    for row in rows:
        folds[(grid_m.index(row.m) + 7 * shapes.index((row.n, row.k))) % len(grid_m)].append(row)
    return folds[::every]


def shape_folds(rows: Sequence[Row], every: int = 1) -> list[list[Row]]:
    """Rows to leave out together: all m of one (n, k)."""
    folds: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        folds.setdefault((row.n, row.k), []).append(row)
    return [folds[shape] for shape in sorted(folds)][::every]


def leave_one_out(rows: Sequence[Row], gpu: GpuFacts, dtype: str, folds: Iterable[Sequence[Row]]) -> dict[Row, float]:
    """log(measured / predicted) of every row of the folds, predicted by a model fitted, in full, without its fold."""
    errors: dict[Row, float] = {}
    for fold in folds:
        left_out = set(fold)
        model = fit_gemm([row for row in rows if row not in left_out], gpu, dtype)
        errors.update(zip(fold, residuals(model, fold).tolist(), strict=True))
    return errors


@dataclass(frozen=True, slots=True)
class Summary:
    """Absolute relative errors of predictions (|predicted / measured - 1|) and their signed median."""

    median: float
    percentile_90: float
    worst: float
    bias: float

    @classmethod
    def of(cls, residual: Floats) -> "Summary":
        """From log(measured / predicted)."""
        relative = np.exp(-residual) - 1
        size = np.abs(relative)
        return cls(float(np.median(size)), float(np.quantile(size, 0.9)), float(size.max()), float(np.median(relative)))

    def __str__(self) -> str:
        return f"{self.median:6.2%} {self.percentile_90:7.1%} {self.worst:7.0%} {self.bias:+7.2%}"


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
