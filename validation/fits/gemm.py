"""Fit `thinwire.sim.costs.gemm.GemmModel` to the published rows, and say how good it is.

    python -m thinwire.validation.fits.gemm               # in-sample, rows left out, (n, k) left out (ten minutes)
    python -m thinwire.validation.fits.gemm --every 9     # the same on each ninth fold (a minute)
    python -m thinwire.validation.fits.gemm --transfer    # each GPU from the others; the default roofline
    python -m thinwire.validation.fits.gemm --outside     # extrapolation, hull of the models' shapes, order in n and k
    python -m thinwire.validation.fits.gemm --quantised --every 9  # of fp8-block, nvfp4, int8 and int4

Data: validation/published/gemm.csv, for precisions beyond bf16 and fp8 gemm_quantised.csv (`--quantised`; both
ai-dynamo/aiconfigurator, Apache-2.0). Two steps: the roofline's numbers by robust
least squares on the logarithm of the time, then the weights of the correction by kriging of what is left, with a noise
that grows for rows their neighbours contradict. Deterministic: fixed starts, fixed order, no randomness.
"""

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.linalg import lapack
from scipy.optimize import least_squares

from thinwire.sim.costs.gemm import (
    PEAK,
    ROW_STEP,
    TILES,
    Correction,
    Floats,
    GemmModel,
    GpuFacts,
    Roofline,
    covariance,
    features,
)
from thinwire.validation.fits.gpus import SYSTEMS
from thinwire.validation.fits.published_tables import PUBLISHED

DTYPES: Mapping[str, str] = {"bfloat16": "bf16", "fp8": "fp8"}
QUANTISED = "gemm_quantised"  # the other precisions' table; its gemm_dtype is our word
SPLIT = ("bf16", "int8", "int4")  # whose libraries split k; the others quantise A on the fly

# Chosen once for all GPUs and dtypes by leave-one-out (docs/decisions/003-gemm-model.md): m, n, k (logs), band of m,
# share of the tile, padding, then the four wave features.
LENGTHS = (1.5, 1.5, 4.0, 3.0, 1.5, 1.0, 1.0, 1.0, 1.0, 1.0)
NOISE = 0.06  # variance of a row's own error, in units of the variance of the correction
OUTLIER = 1.0  # a row whose left-out error exceeds this many robust standard deviations counts proportionally less
REWEIGHTINGS = 2
ROBUST_SCALE = 0.05  # of the roofline's fit: residuals beyond 5 % count linearly
PAD_THRESHOLD = 0.05  # rows just above a multiple of 256 slower than their neighbours by more than this: m is padded


@dataclass(frozen=True, slots=True, order=True)
class Row:
    """One measured product."""

    m: int
    n: int
    k: int
    time_s: float


def read_rows(path: Path = PUBLISHED / "gemm.csv") -> dict[tuple[str, str], list[Row]]:
    """(GPU, dtype) -> rows, of the published table."""
    tables: dict[tuple[str, str], list[Row]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            row = Row(int(line["m"]), int(line["n"]), int(line["k"]), float(line["latency_us"]) * 1e-6)
            tables.setdefault((SYSTEMS[line["system"]], DTYPES[line["gemm_dtype"]]), []).append(row)
    return {key: sorted(rows, key=lambda row: (row.n, row.k, row.m)) for key, rows in sorted(tables.items())}


def read_quantised() -> dict[tuple[str, str], list[Row]]:
    """The same of the precisions beyond bf16 and fp8."""
    tables: dict[tuple[str, str], list[Row]] = {}
    with (PUBLISHED / f"{QUANTISED}.csv").open(newline="") as file:
        for line in csv.DictReader(file):
            row = Row(int(line["m"]), int(line["n"]), int(line["k"]), float(line["latency_us"]) * 1e-6)
            tables.setdefault((SYSTEMS[line["system"]], line["gemm_dtype"]), []).append(row)
    return {key: sorted(rows, key=lambda row: (row.n, row.k, row.m)) for key, rows in sorted(tables.items())}


def facts(gpu: str, dtype: str) -> GpuFacts:
    """The facts of one of our GPUs, from topologies/gpus/."""
    from thinwire.topologies.load import load_gpu

    found = load_gpu(gpu)
    peak = found.peak_flops_per_s[PEAK[dtype]]
    return GpuFacts(gpu, peak, found.memory_bandwidth_bytes_per_s, found.sm_count)


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


def fit_roofline(tables: Sequence[tuple[Sequence[Row], GpuFacts]], dtype: str) -> Roofline:
    """The roofline's numbers by robust least squares on log(time), from two fixed starts, the better of the two.

    Several tables (GPUs) give one roofline for all: what a GPU without measurements gets.
    """
    places = [(gpu, *columns(rows)) for rows, gpu in tables]
    padded, split = all(is_padded(rows) for rows, _ in tables), dtype in SPLIT
    limits = [  # of the logarithms: lowest, highest, start
        (-0.7, 3.0, 1.0),  # launch, us
        (-4.0, 3.0, 0.0),  # wave, us
        (-2.0, 0.0, -0.2),  # bandwidth efficiency
        *[(-4.0, 0.0, -0.5)] * len(TILES),  # tile efficiencies
        (-3.0, 4.0, 1.0) if split else (-7.0, 3.0, -1.0),  # split, us, or quantise passes
        *([(-5.0, 4.0, 0.0), (-7.0, 3.0, -1.0)] if padded else []),  # padding: us, passes
    ]
    low, high, start = (list(column) for column in zip(*limits, strict=True))

    def roofline(logs: Floats, digits: int = 16) -> Roofline:
        def rounded(value: float) -> float:
            return float(f"{value:.{digits}g}")

        launch_us, wave_us, bandwidth, *rest = (float(value) for value in np.exp(logs))
        tiles, own = tuple(map(rounded, rest[: len(TILES)])), rest[len(TILES)]
        pad_us, pad_passes = rest[-2:] if padded else (0.0, 0.0)
        return Roofline(
            launch_s=rounded(launch_us * 1e-6),
            wave_s=rounded(wave_us * 1e-6),
            bandwidth_efficiency=rounded(bandwidth),
            tile_efficiencies=tiles,
            split_s=rounded(own * 1e-6) if split else None,
            quantise_passes=0.0 if split else rounded(own),
            pad_launch_s=rounded(pad_us * 1e-6),
            pad_passes=rounded(pad_passes),
            row_step=ROW_STEP.get(dtype, 0),
        )

    def misfit(logs: Floats) -> Floats:
        tried = roofline(logs)
        return np.concatenate([np.log(tried.times_s(gpu, dtype, m, n, k)) - time for gpu, m, n, k, time in places])

    fits = []
    for spread in (np.zeros(len(TILES)), np.linspace(-0.6, 0.1, len(TILES))):
        first = np.array(start)
        first[3 : 3 + len(TILES)] += spread
        fits.append(
            least_squares(misfit, first, loss="soft_l1", f_scale=ROBUST_SCALE, bounds=(low, high), max_nfev=200)
        )
    return roofline(min(fits, key=lambda fit: float(fit.cost)).x, digits=4)


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
    base = fit_roofline([(rows, gpu)], dtype)
    m, n, k, log_time = columns(rows)
    residual = log_time - np.log(base.times_s(gpu, dtype, m, n, k))
    weights = kriging_weights(features(gpu, base.padded, m, n, k), residual)
    grid_m, shapes = sorted({row.m for row in rows}), sorted({(row.n, row.k) for row in rows})
    by_row = {(row.m, row.n, row.k): round(float(weight), 4) for row, weight in zip(rows, weights, strict=True)}
    correction = Correction(
        m=tuple(grid_m),
        shapes=tuple(shapes),
        weights=tuple(tuple(by_row.get((rows_m, width, depth), 0.0) for rows_m in grid_m) for width, depth in shapes),
        lengths=LENGTHS,
    )
    table = "ai-dynamo/aiconfigurator@095f58a" if dtype in DTYPES.values() else "aiconfigurator-core 0.12.0"
    text = source or f"measured: {table}, {len(rows)} rows"
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


HELD_OUT: Mapping[str, Callable[[Row], bool]] = {  # extrapolation: fit without these rows, predict them
    "m >= 8192": lambda row: row.m >= 8192,
    "m <= 96": lambda row: row.m <= 96,
    "n >= 10240": lambda row: row.n >= 10240,
    "n >= 8192": lambda row: row.n >= 8192,
    "n <= 1536": lambda row: row.n <= 1536,
    "k >= 7168": lambda row: row.k >= 7168,
    "k <= 1024": lambda row: row.k <= 1024,
}
LAYERS: Mapping[str, tuple[int, int, int, int]] = {  # hidden, ffn, query width, key + value width (models.csv)
    "llama-3-70b": (8192, 28672, 8192, 2048),
    "llama-2-13b": (5120, 13824, 5120, 10240),
    "qwen2.5-72b": (8192, 29568, 8192, 2048),
    "gemma-2-27b": (4608, 36864, 4096, 4096),
}


def report_accuracy(every: int, tables: Mapping[tuple[str, str], Sequence[Row]]) -> None:
    """Prints, per GPU and dtype: median, 90th percentile, worst and signed median; in-sample, row out, (n, k) out."""
    print(f"{'':22}{'in-sample':>32}{'row left out':>32}{'(n, k) left out':>32}")
    for (gpu, dtype), rows in tables.items():
        known = facts(gpu, dtype)
        cells = [Summary.of(residuals(fit_gemm(rows, known, dtype), rows))]
        for folds in (row_folds(rows, every), shape_folds(rows, every)):
            cells.append(Summary.of(np.array(list(leave_one_out(rows, known, dtype, folds).values()))))
        print(f"{gpu + ' ' + dtype:22}" + "".join(f"{cell!s:>32}" for cell in cells), flush=True)


def report_transfer() -> None:
    """Prints what a GPU's rows are off by when the others predict them, and the pooled roofline."""
    tables = read_rows()
    models = {key: fit_gemm(rows, facts(*key), key[1]) for key, rows in tables.items()}
    for (gpu, dtype), rows in tables.items():
        known = facts(gpu, dtype)
        others = [other for other, its in tables if its == dtype and other != gpu]
        pooled = fit_roofline([(tables[other, dtype], facts(other, dtype)) for other in others], dtype)
        print(f"{gpu} {dtype}")
        print(f"    pooled roofline   {Summary.of(residuals(GemmModel(known, dtype, pooled, None, 'assumed:'), rows))}")
        for other in others:
            moved = models[other, dtype].transferred(known)
            bare = Summary.of(residuals(replace(moved, correction=None), rows))
            print(f"    as {other:14} {bare}   with its correction {Summary.of(residuals(moved, rows))}", flush=True)
    for dtype in DTYPES.values():
        measured = [(rows, facts(gpu, its)) for (gpu, its), rows in tables.items() if its == dtype]
        print(f"pooled {dtype}: {fit_roofline(measured, dtype)}", flush=True)


def report_outside() -> None:
    """Prints extrapolation errors, how far the models' shapes lie outside the measured ones, and order in n and k."""
    tables = read_rows()
    for name, held_out in HELD_OUT.items():
        cells = []
        for key, rows in tables.items():
            model = fit_gemm([row for row in rows if not held_out(row)], facts(*key), key[1])
            cells.append(Summary.of(residuals(model, [row for row in rows if held_out(row)])))
        print(f"{name:12} medians " + " ".join(f"{cell.median:6.1%}" for cell in cells), flush=True)
    shapes = sorted({(row.n, row.k) for row in next(iter(tables.values()))})
    for name, (hidden, ffn, query, key_value) in LAYERS.items():
        for ranks in (1, 2, 4, 8):
            layer = {
                "qkv": ((query + key_value) // ranks, hidden),
                "o": (hidden, query // ranks),
                "gate_up": (2 * ffn // ranks, hidden),
                "down": (hidden, ffn // ranks),
            }
            far = [f"{part} {n}x{k} {distance(n, k, shapes)}" for part, (n, k) in layer.items()]
            print(f"{name} TP{ranks}: " + "; ".join(far))
    for key, rows in tables.items():
        model = fit_gemm(rows, facts(*key), key[1])
        in_n, in_k = order(model, "n"), order(model, "k")
        print(f"{' '.join(key):22} lowest ratio of times as n grows {in_n:.3f}, as k grows {in_k:.3f}", flush=True)


def distance(n: int, k: int, shapes: Sequence[tuple[int, int]]) -> str:
    """How far from the nearest measured (n, k), as factors; `in` if measured."""
    near = min(shapes, key=lambda shape: abs(np.log(n / shape[0])) + abs(np.log(k / shape[1])))
    return "in" if near == (n, k) else f"n x{n / near[0]:.2f} k x{k / near[1]:.2f}"


def order(model: GemmModel, axis: str, thin: int = 1) -> float:
    """The lowest ratio of time at a larger n (or k) to time at a smaller one, on a grid well beyond the measured."""
    wide = [64 * round(value / 64) for value in np.geomspace(256, 131072, 73)]
    deep = [64 * round(value / 64) for value in np.geomspace(256, 32768, 50)]
    rows = (64, 128, 200, 512, 777, 1024, 2048, 4096, 8192, 32768)
    if axis == "n":
        lines = [[[model.time_s(m, n, k) for m in rows] for n in wide[::thin]] for k in deep[:: 3 * thin]]
    else:
        lines = [[[model.time_s(m, n, k) for m in rows] for k in deep[::thin]] for n in wide[:: 5 * thin]]
    times = np.array(lines)
    return float((times / np.maximum.accumulate(times, axis=1)).min())


def main() -> None:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(description="fit the GEMM model to the published rows and say how good it is")
    parser.add_argument("--every", type=int, default=1, help="leave out only each so-manieth fold")
    parser.add_argument("--transfer", action="store_true", help="predict each GPU from the others")
    parser.add_argument("--outside", action="store_true", help="extrapolation, models' shapes, order in n and k")
    parser.add_argument("--quantised", action="store_true", help="precisions beyond bf16 and fp8")
    chosen = parser.parse_args()
    if chosen.transfer:
        report_transfer()
    elif chosen.outside:
        report_outside()
    else:
        report_accuracy(chosen.every, read_quantised() if chosen.quantised else read_rows())


if __name__ == "__main__":
    main()
