"""Fit `thinwire.sim.costs.recurrent.RecurrentModel` to the published rows, and say how good it is.

    python -m thinwire.validation.mixtures.recurrent     # in-sample and each number of heads left out

Data: validation/published/recurrent.csv (aiconfigurator-core 0.12.0, Apache-2.0): the gated delta net's convolution and
scan as vLLM runs them (SGLang on the A100), Mamba 2's convolution as TensorRT-LLM does. Deterministic: fixed start and
order, no randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from thinwire.sim.costs.recurrent import ELEMENT_BYTES, STATE, Convolution, RecurrentModel, Scan
from thinwire.sim.shapes import STATE_BYTES
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits.gpus import SYSTEMS
from thinwire.validation.fits.published_tables import Columns
from thinwire.validation.fits.published_tables import rows as table_rows
from thinwire.validation.mixtures.experts import table
from thinwire.validation.mixtures.latent import SMALL, named, robust, rounded, soft

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]
TABLE = "recurrent"
# Whose prompts stand in for the A100's: Triton's kernels run on both, of the A100 no scan was published, and a
# convolution that would have moved its channels at more than the memory's bandwidth.
LENDER, BORROWER, LESS_CACHE = "l40s", "a100-sxm", 40 / 96  # their L2, the A100's over the L40S's
CACHE_AT = {"conv": 3, "scan": 7}  # which number of a kernel's is its L2
Values = Mapping[tuple[str, str, str], list[float]]
Key = tuple[str, str, str, str]  # GPU, kind, phase (prefill, decode), part (conv, scan)


@dataclass(frozen=True)
class Rows(Columns):
    """Rows of one kernel on one GPU as arrays of one length [R]; `length`: of a sequence."""

    batch: Floats
    length: Floats
    groups: Floats
    heads: Floats
    key_dim: Floats
    value_dim: Floats
    time_s: Floats
    line: npt.NDArray[np.int64]


@cache
def read_rows() -> dict[Key, Rows]:
    """Rows by GPU, kind, phase and part, in file order; a prompt of one token is no prompt."""
    columns: dict[Key, list[tuple[float, ...]]] = {}
    for number, row in enumerate(table_rows(TABLE)):
        shape = [float(row[n]) for n in ("key_heads", "heads", "key_dim", "value_dim")]
        for name, value in row.items():
            length = int(name.removeprefix("us_")) if name.startswith("us_") and value else 0
            odd = SYSTEMS[row["system"]] == BORROWER and row["phase"] == "prefill"
            if (length > 1 and not odd) or (length and row["phase"] == "decode"):
                key = SYSTEMS[row["system"]], row["kind"], row["phase"], row["part"]
                line = (float(row["batch_size"]), length, *shape, float(value) * 1e-6, number)
                columns.setdefault(key, []).append(line)
    found = {}
    for key, lines in columns.items():
        arrays = np.array(lines, dtype=np.float64).T
        values: dict[str, Any] = dict(zip(Rows.__dataclass_fields__, arrays, strict=True))
        found[key] = Rows(**values | {"line": arrays[7].astype(np.int64)})
    return found


def facts(gpu: str) -> tuple[float, int]:
    """(memory bandwidth, SMs) as `RecurrentModel` takes them."""
    found = load_gpu(gpu)
    return found.memory_bandwidth_bytes_per_s, found.sm_count


def _solve(seconds: Callable[[Floats], Floats], rows: Rows, start: Floats, lower: Floats, upper: Floats) -> Floats:
    def residual(v: Floats) -> Floats:
        return np.concatenate([robust(np.log(seconds(v) / rows.time_s)), SMALL * (v - start)])

    return np.asarray(least_squares(residual, start, bounds=(lower, upper), max_nfev=100, x_scale="jac").x)


def channels(rows: Rows) -> Floats:
    """Values of a token [R]."""
    return np.asarray(2 * rows.groups * rows.key_dim + rows.heads * rows.value_dim)


def warm(moved: Floats, cache_bytes: float, speedup: float) -> Floats:
    """What share of its time moving so much takes for the L2 [R]."""
    return np.asarray(1 - (1 - 1 / speedup) / (1 + (moved / cache_bytes) ** 4))


# Launch, channel_s, share of the bandwidth, the L2's bytes and speed.
CONV_START = np.log([3e-6, 1e-11, 0.5, 50e6, 1.5])
CONV_BOUNDS = np.log([0.1e-6, 1e-13, 0.005, 5e6, 1.0]), np.log([60e-6, 1e-7, 1.2, 300e6, 8.0])
# Launch, share of the bandwidth.
TAP_START, TAP_BOUNDS = np.log([3e-6, 0.5]), (np.log([0.1e-6, 0.005]), np.log([60e-6, 1.2]))
# As in `Scan`: of prompts, of one token.
SCAN_START = np.log([12e-6, 1e-6, 5e-8, 1e-6, 5e-8, 4, 0.5, 50e6, 1.5])
SCAN_BOUNDS = (
    np.log([0.5e-6, 1e-9, 1e-10, 1e-9, 1e-10, 1, 1e-3, 5e6, 1.0]),
    np.log([100e-6, 1e-3, 1e-6, 1e-3, 1e-6, 12, 30, 300e6, 8.0]),
)
STEP_START = np.log([5e-6, 0.8, 50e6, 2.0])
STEP_BOUNDS = np.log([0.5e-6, 0.02, 5e6, 1.0]), np.log([60e-6, 1.0, 300e6, 8.0])


def conv_seconds(log_values: Floats, rows: Rows, known: tuple[float, int]) -> Floats:
    """`RecurrentModel.conv_s` in arrays [R]; tests hold the two together."""
    v = np.exp(log_values)
    moved = ELEMENT_BYTES * 2 * rows.batch * rows.length * channels(rows)
    if len(v) == len(TAP_START):
        return np.asarray(v[0] + moved / (v[1] * known[0]))
    launch, channel, share, cache_bytes, speedup = v
    reading = moved / (share * known[0]) * warm(moved, cache_bytes, speedup)
    return np.asarray(launch + rows.batch * channels(rows) * channel + reading)


def scan_seconds(log_values: Floats, rows: Rows, known: tuple[float, int]) -> Floats:
    """`RecurrentModel.scan_s` of prompts in arrays [R]; tests hold the two together."""
    launch, start, step, work_start, work_step, sharpness, passes, cache_bytes, speedup = np.exp(log_values)
    size = rows.key_dim * rows.value_dim / STATE
    chain = size * (start + rows.length * step)
    work = size * rows.batch * rows.heads / known[1] * (work_start + rows.length * work_step)
    moved = ELEMENT_BYTES * 2 * rows.batch * rows.length * channels(rows)
    reading = passes * moved / known[0] * warm(moved, cache_bytes, speedup)
    return np.asarray(launch + soft(chain, work, sharpness) + reading)


def step_seconds(log_values: Floats, rows: Rows, known: tuple[float, int]) -> Floats:
    """`RecurrentModel.scan_s` of one token, replayed, in arrays [R]; tests hold the two together."""
    launch, share, cache_bytes, speedup = np.exp(log_values)
    moved = 2 * STATE_BYTES * rows.batch * rows.heads * rows.key_dim * rows.value_dim
    return np.asarray(launch + moved / (share * known[0]) * warm(moved / 2, cache_bytes, speedup))


KERNELS: Mapping[tuple[str, str], tuple[Callable[..., Floats], Floats, tuple[Floats, Floats]]] = {
    ("prefill", "conv"): (conv_seconds, CONV_START, CONV_BOUNDS),
    ("decode", "conv"): (conv_seconds, TAP_START, TAP_BOUNDS),
    ("prefill", "scan"): (scan_seconds, SCAN_START, SCAN_BOUNDS),
    ("decode", "scan"): (step_seconds, STEP_START, STEP_BOUNDS),
}


def fit_part(phase: str, part: str, rows: Rows, known: tuple[float, int]) -> Floats:
    """Logarithms of one kernel's numbers."""
    formula, start, (lower, upper) = KERNELS[phase, part]
    return _solve(lambda v: formula(v, rows, known), rows, start, lower, upper)


def seconds(phase: str, part: str, log_values: Floats, rows: Rows, known: tuple[float, int]) -> Floats:
    """What one kernel takes [R]."""
    return KERNELS[phase, part][0](log_values, rows, known)


def fit_all() -> dict[str, RecurrentModel]:
    """The measured GPUs' models."""
    rows = read_rows()
    lent = {
        part: rounded(fit_part("prefill", part, rows[LENDER, "delta", "prefill", part], facts(LENDER)))
        for part in CACHE_AT
    }
    for part, at in CACHE_AT.items():
        lent[part][at] = float(f"{lent[part][at] * LESS_CACHE:.4g}")
    found: dict[str, RecurrentModel] = {}
    for gpu in sorted({key[0] for key in rows}):
        known = facts(gpu)
        values = {key[1:]: rounded(fit_part(*key[2:], its, known)) for key, its in rows.items() if key[0] == gpu}
        count = {
            kind: sum(len(its) for key, its in rows.items() if key[:2] == (gpu, kind)) for kind in ("delta", "mamba2")
        }
        convolutions, scans = {}, {}
        for kind in ("delta", "mamba2"):
            if not count[kind]:
                continue
            source = f"measured: aiconfigurator-core 0.12.0, {TABLE}.csv, {count[kind]} rows of {kind}"
            if gpu == BORROWER:
                source = f"assumed: prompts as on {LENDER} ({source})"

            def of(phase: str, part: str, kind: str = kind, values: Values = values) -> list[float]:
                return values[kind, phase, part] if (kind, phase, part) in values else lent[part]

            numbers = [*of("prefill", "conv"), *of("decode", "conv"), source]
            convolutions[kind] = Convolution(**named(Convolution, numbers))
            if (kind, "decode", "scan") in values:
                scans[kind] = Scan(**named(Scan, [*of("prefill", "scan"), *of("decode", "scan"), source]))
        found[gpu] = RecurrentModel(gpu, *known, convolutions, scans)
    return found


def predict(model: RecurrentModel, key: Key, rows: Rows) -> Floats:
    """Seconds [R] as the benchmark would measure them, by the model itself."""
    _, kind, _, part = key
    numbers = zip(rows.batch, rows.length, rows.heads, rows.key_dim, rows.value_dim, rows.groups, strict=True)
    lines = [tuple(map(int, line)) for line in numbers]
    if part == "conv":
        return np.array([model.conv_s(kind, b * t, b, h, k, v, g) for b, t, h, k, v, g in lines])
    return np.array([model.scan_s(kind, b * t, b, h, k, v, g, replayed=True) for b, t, h, k, v, g in lines])


def left_out(key: Key, rows: Rows) -> Floats:
    """log(measured / predicted) [R] of each (groups, heads, state) by a fit without it."""
    known, found = facts(key[0]), np.zeros(len(rows))
    shapes = np.stack([rows.groups, rows.heads, rows.key_dim], 1)
    for shape in np.unique(shapes, axis=0):
        out = (shapes == shape).all(1)
        left = rows.only(out)
        numbers = fit_part(*key[2:], rows.only(~out), known)
        found[out] = np.log(left.time_s / seconds(*key[2:], numbers, left, known))
    return found


def main() -> None:
    """Print the tables of docs/decisions/032-mixture-kernels.md."""
    lines = {}
    for key, rows in read_rows().items():
        known = facts(key[0])
        fitted = seconds(*key[2:], fit_part(*key[2:], rows, known), rows, known)
        lines[f"{' '.join(key)} ({len(rows):,})"] = [
            np.abs(fitted / rows.time_s - 1),
            np.abs(np.exp(-left_out(key, rows)) - 1),
        ]
    table(["in-sample", "a shape out"], lines)
    for model in fit_all().values():
        print(model)


if __name__ == "__main__":
    main()
