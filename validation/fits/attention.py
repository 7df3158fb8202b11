"""Fit `thinwire.sim.costs.attention.AttentionModel` to the published rows, and say how good it is.

    python -m thinwire.validation.fits.attention             # in-sample and left out (minutes)
    python -m thinwire.validation.fits.attention --quick     # the same without one row out (seconds)
    python -m thinwire.validation.fits.attention --transfer  # every GPU with every other GPU's efficiencies

Data: validation/published/attention_prefill_bf16.csv (ai-dynamo/aiconfigurator, Apache-2.0). Two steps: the
twelve physical numbers by robust least squares on the logarithm of the time, then the correction table by
penalised (smooth, small) least squares on what is left. Deterministic: fixed start and order, no randomness.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from thinwire.sim.costs.attention import (
    CACHE_BLOCK_LANES,
    CORRECTION_LIMIT,
    CORRECTIONS,
    ELEMENT_BYTES,
    GROUP_AXIS,
    LENGTH_AXIS,
    PARALLEL_AXIS,
    TILE_ROWS,
    AttentionModel,
)
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits.gpus import SYSTEMS
from thinwire.validation.fits.published_tables import PUBLISHED, Columns

Floats = npt.NDArray[np.float64]
HEAD_DIM = 128
PART, TABLE = "attention", "attention_prefill_bf16"  # of a profile, and what it is fitted to


def facts(gpu: str) -> tuple[str, float, float, int]:
    """The GPU's (name, dense bf16 flops/s, bytes/s, SMs), as `fit` and `AttentionModel.moved_to` take them."""
    found = load_gpu(gpu)
    return gpu, found.peak_flops_per_s["bf16"], found.memory_bandwidth_bytes_per_s, found.sm_count


FACTS: Mapping[str, tuple[str, float, float, int]] = {
    # by system in the csv
    system: facts(gpu)
    for system, gpu in SYSTEMS.items()
}

NAMES = (
    "floor_s",
    "token_block_s",
    "lane_block_s",
    "efficiency",
    "tile_s",
    "balance",
    "tail_speed",
    "warm_passes",
    "cold_passes",
    "cache_bytes",
    "cache_steepness",
    "write_weight",
)
START = np.log([12e-6, 1e-8, 0.3e-6, 0.65, 1e-6, 2.0, 1.0, 0.2, 0.8, 60e6, 3.0, 1.0])
LOWER = np.log([1e-6, 1e-10, 1e-10, 0.05, 1e-8, 1.0, 0.2, 1e-2, 1e-2, 5e6, 1.0, 0.1])
UPPER = np.log([40e-6, 1e-6, 4e-6, 1.0, 30e-6, 8.0, 5.0, 3.0, 3.0, 500e6, 12.0, 3.0])

SMOOTH, FLAT, SMALL = 0.3, 0.3, 0.05
"""Penalties on the table's second differences, first differences and size. Chosen once for all GPUs: a third
or three times as much moves no left-out median by more than 0.7 points."""


@dataclass(frozen=True)
class Rows(Columns):
    """Columns of the csv as arrays of one length [R]; time in seconds."""

    batch: Floats
    length: Floats
    heads: Floats
    kv_heads: Floats
    time_s: Floats

    @property
    def attended(self) -> Floats:
        """Tokens that a query attends to, the last one of a sequence [R]."""
        return self.length


def read_rows(path: Path = PUBLISHED / f"{TABLE}.csv") -> dict[str, Rows]:
    """Rows by system, in file order. ValueError if a row is not head_dim 128."""
    return {system: Rows(*columns) for system, columns in read_columns(path, "isl").items()}


def read_columns(path: Path, tokens: str) -> dict[str, Floats]:
    """By system, in file order: sequences, the column `tokens`, heads, kv heads and seconds [5, R].

    ValueError if a row is not head_dim 128.
    """
    found: dict[str, list[tuple[float, ...]]] = {}
    with path.open(newline="") as stream:
        for line, row in enumerate(csv.DictReader(stream), 2):
            if int(row["head_dim"]) != HEAD_DIM:
                raise ValueError(f"{path.name}:{line}: head_dim {row['head_dim']}, the fit knows {HEAD_DIM}")
            shape = (float(row[name]) for name in ("batch_size", tokens, "num_heads", "num_kv_heads"))
            found.setdefault(row["system"], []).append((*shape, float(row["latency_us"]) * 1e-6))
    return {system: np.array(values).T for system, values in found.items()}


def parts(
    log_values: Floats, rows: Rows, peak_flops_per_s: float, bandwidth_bytes_per_s: float, sm_count: int
) -> tuple[float, Floats, Floats]:
    """Floor, uncorrected kernel time and lower bound [R]: `AttentionModel.time_s` for self-attention, in
    arrays.

    The one formula written twice, for speed; tests/validation/fits/test_attention.py holds the two together.
    """
    v = dict(zip(NAMES, np.exp(log_values), strict=True))
    n, b, h, kv = rows.length, rows.batch, rows.heads, rows.kv_heads
    rate = v["efficiency"] * peak_flops_per_s / sm_count
    rowspan = np.minimum(n, TILE_ROWS)
    computed = n * (n + 1) / 2 + n * rowspan * 0.5
    mean = b * h * (4 * HEAD_DIM * computed / rate + np.ceil(n / TILE_ROWS) * v["tile_s"]) / sm_count
    longest = 4 * HEAD_DIM * rowspan * n / (rate * v["tail_speed"]) + v["tile_s"]
    high, low = np.maximum(mean, longest), np.minimum(mean, longest)
    tiles = high * (1 + (low / high) ** v["balance"]) ** (1 / v["balance"])
    unit = ELEMENT_BYTES * HEAD_DIM * b * n
    weighted = unit * (2 * h + 2 * kv + 4 * kv * v["write_weight"])
    cold = 1 / (1 + (v["cache_bytes"] / (unit * (2 * h + 6 * kv))) ** v["cache_steepness"])
    moved = weighted / bandwidth_bytes_per_s * (v["warm_passes"] + v["cold_passes"] * cold)
    lanes = np.minimum(kv * HEAD_DIM, CACHE_BLOCK_LANES) / CACHE_BLOCK_LANES
    blocks = b * n * (v["token_block_s"] + v["lane_block_s"] * lanes) / sm_count
    bound = unit * (2 * h + 6 * kv) * cold / bandwidth_bytes_per_s
    return float(v["floor_s"]), tiles + moved + blocks, bound


def design(rows: Rows) -> Floats:
    """Interpolation weights [R, CORRECTIONS] of the correction table."""
    axes = (LENGTH_AXIS, PARALLEL_AXIS, GROUP_AXIS)
    values = (np.log2(rows.length), np.log2(rows.batch * rows.heads), np.log2(rows.heads / rows.kv_heads))
    low, share = [], []
    for axis, value in zip(axes, values, strict=True):
        nodes = np.array(axis)
        value = np.clip(value, nodes[0], nodes[-1])
        at = np.clip(np.searchsorted(nodes, value, side="right") - 1, 0, len(nodes) - 2)
        low.append(at)
        share.append((value - nodes[at]) / (nodes[at + 1] - nodes[at]))
    out = np.zeros((len(rows), CORRECTIONS))
    every = np.arange(len(rows))
    for corner in range(8):
        bits = [corner >> axis & 1 for axis in range(3)]
        weight = np.prod([share[d] if bits[d] else 1 - share[d] for d in range(3)], axis=0)
        at_x, at_y, at_z = (low[d] + bits[d] for d in range(3))
        node = (at_x * len(PARALLEL_AXIS) + at_y) * len(GROUP_AXIS) + at_z
        out[every, node] += weight
    return out


def penalty() -> Floats:
    """Quadratic form [CORRECTIONS, CORRECTIONS] that keeps the table smooth and small."""
    index = np.arange(CORRECTIONS).reshape(len(LENGTH_AXIS), len(PARALLEL_AXIS), len(GROUP_AXIS))
    form = SMALL * np.eye(CORRECTIONS)

    def add(nodes: tuple[npt.NDArray[np.int64], ...], signs: tuple[int, ...], weight: float) -> None:
        for group in zip(*(n.ravel() for n in nodes), strict=True):
            for a, sa in zip(group, signs, strict=True):
                for b, sb in zip(group, signs, strict=True):
                    form[a, b] += weight * sa * sb

    for axis in (0, 1):
        i = np.moveaxis(index, axis, 0)
        add((i[:-2], i[1:-1], i[2:]), (1, -2, 1), SMOOTH)
        add((i[:-1], i[1:]), (1, -1), FLAT)
    add((index[..., :-1], index[..., 1:]), (1, -1), FLAT)
    return form


def fit_physical(rows: Rows, facts: tuple[float, float, int], start: Floats = START) -> Floats:
    """Logarithms of the twelve physical numbers (order: NAMES)."""

    def residual(log_values: Floats) -> Floats:
        floor, kernel, bound = parts(log_values, rows, *facts)
        return np.asarray(np.log((floor + np.maximum(kernel, bound)) / rows.time_s))

    found = least_squares(
        residual,
        np.clip(start, LOWER + 1e-6, UPPER - 1e-6),
        bounds=(LOWER, UPPER),
        loss="soft_l1",
        f_scale=0.08,
        max_nfev=300,
    )
    return np.asarray(found.x, dtype=np.float64)


def fit_correction(rows: Rows, facts: tuple[float, float, int], log_values: Floats, form: Floats) -> tuple[int, ...]:
    """The table in thousandths of ln: penalised least squares, reweighted so that outliers count less."""
    floor, kernel, _ = parts(log_values, rows, *facts)
    whole = floor + kernel
    slope = design(rows) * (kernel / whole)[:, None]  # it acts on the kernel, the residual is of the whole
    residual = np.log(rows.time_s / whole)
    weight = np.ones(len(rows))
    table: Floats = np.zeros(CORRECTIONS)
    for _ in range(3):
        table = np.asarray(np.linalg.solve(slope.T @ (slope * weight[:, None]) + form, slope.T @ (weight * residual)))
        weight = 1 / np.sqrt(1 + ((residual - slope @ table) / 0.06) ** 2)
    return tuple(int(v) for v in np.clip(np.rint(1000 * table), -CORRECTION_LIMIT, CORRECTION_LIMIT))


def build(
    gpu: str, facts: tuple[float, float, int], log_values: Floats, table: tuple[int, ...], source: str
) -> AttentionModel:
    """Model from fitted numbers, each rounded to six digits (so that the profile is short and exact)."""
    values: dict[str, Any] = {name: float(f"{math.exp(v):.6g}") for name, v in zip(NAMES, log_values, strict=True)}
    values["balance"] = max(values["balance"], 1.0)
    return AttentionModel(
        gpu=gpu,
        peak_flops_per_s=facts[0],
        memory_bandwidth_bytes_per_s=facts[1],
        sm_count=facts[2],
        correction=table,
        source=source,
        **values,
    )


def fit(
    rows: Rows,
    gpu: str,
    peak_flops_per_s: float,
    memory_bandwidth_bytes_per_s: float,
    sm_count: int,
    start: Floats = START,
    source: str = "",
) -> AttentionModel:
    """The model of one GPU from its measured rows."""
    facts = (peak_flops_per_s, memory_bandwidth_bytes_per_s, sm_count)
    log_values = fit_physical(rows, facts, start)
    source = source or (
        f"measured: ai-dynamo/aiconfigurator@095f58a, {TABLE}.csv, {len(rows)} rows, head_dim {HEAD_DIM}"
    )
    return build(gpu, facts, log_values, fit_correction(rows, facts, log_values, penalty()), source)


def fit_all(rows: Mapping[str, Rows] | None = None) -> dict[str, AttentionModel]:
    """The measured GPUs' models by the csv's system name."""
    rows = read_rows() if rows is None else rows
    return {system: fit(rows[system], *FACTS[system]) for system in sorted(rows)}


def predict(model: AttentionModel, rows: Rows) -> Floats:
    """Seconds [R], by the model itself."""
    columns = (rows.batch, rows.length, rows.heads, rows.kv_heads)
    return np.array(
        [model.time_s(int(b), int(n), int(n), int(h), int(kv), HEAD_DIM) for b, n, h, kv in zip(*columns, strict=True)]
    )


def errors(model: AttentionModel, rows: Rows) -> Floats:
    """Absolute relative errors [R]."""
    return np.asarray(np.abs(predict(model, rows) / rows.time_s - 1))


def folds(rows: Rows, kind: str) -> Iterator[npt.NDArray[np.bool_]]:
    """Masks of the rows left out, one after another: kind is "row", "pair" (heads, kv_heads) or "length"."""
    if kind == "row":
        keys = np.arange(len(rows), dtype=np.float64)[:, None]
    elif kind == "pair":
        keys = np.stack([rows.heads, rows.kv_heads], 1)
    elif kind == "length":
        keys = rows.length[:, None]
    else:
        raise ValueError(f"left out one by one: row, pair or length, got {kind!r}")
    yield from masks(keys)


def masks(keys: Floats) -> Iterator[npt.NDArray[np.bool_]]:
    """Which rows [R] have the same keys [R, K], one after another."""
    for key in np.unique(keys, axis=0):
        yield (keys == key).all(1)


def left_out(rows: Rows, facts: tuple[float, float, int], kind: str) -> Floats:
    """Absolute relative errors [R], each row predicted by a model refitted, both steps, without its fold."""
    out = np.zeros(len(rows))
    # One row of a thousand moves the optimum a little, so those refits start there; whole folds start afresh.
    start = fit_physical(rows, facts) if kind == "row" else START
    form = penalty()
    for mask in folds(rows, kind):
        rest = rows.only(~mask)
        log_values = fit_physical(rest, facts, start)
        model = build("left out", facts, log_values, fit_correction(rest, facts, log_values, form), "left out")
        out[mask] = errors(model, rows.only(mask))
    return out


def summary(error: Floats) -> str:
    """Median, 90th percentile and worst, in per cent."""
    return f"{100 * np.median(error):5.2f} {100 * np.quantile(error, 0.9):5.1f} {100 * error.max():4.0f}"


def tabulate(counts: Mapping[str, int], kinds: Iterable[str], error: Callable[[str, str], Floats]) -> None:
    """Print the summary of each system's errors, "in-sample" and with each kind left out.

    counts: rows of the systems. error: absolute relative errors [R] of a system and in-sample or a kind.
    """
    print("absolute relative error %: median, 90th percentile, worst")
    print(f"{'system':21}{'rows':>5}   {'in-sample':17}" + "".join(f"{kind + ' out':18}" for kind in kinds))
    for system, count in counts.items():
        cells = [summary(error(system, kind)) for kind in ("in-sample", *kinds)]
        print(f"{system:21}{count:5}   " + "  ".join(cells), flush=True)


def transfer(gpus: Iterable[str], what: str, ratio: Callable[[str, str], Floats]) -> None:
    """Print the median error, absolute and signed, when a GPU (row) borrows what another (column) was fitted to.

    ratio: predicted over measured [R] of the first GPU's rows by the numbers of the second.
    """
    names = tuple(gpus)
    print(f"median error % (signed median %) of the row's GPU with the {what} of the column's")
    print(" " * 21 + "".join(f"{name:>20}" for name in names))
    for target in names:
        errors_by_donor = [ratio(target, donor) - 1 for donor in names]
        cells = [f"{100 * np.median(np.abs(e)):8.1f} ({100 * np.median(e):+6.1f})" for e in errors_by_donor]
        print(f"{target:21}" + "".join(f"{cell:>20}" for cell in cells))


def main(argv: list[str] | None = None) -> None:
    """Print the tables of docs/decisions/004-attention-and-elementwise.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="leave out the one-row-out column")
    parser.add_argument("--transfer", action="store_true", help="every GPU with every other's efficiencies")
    options = parser.parse_args(argv)
    rows = read_rows()
    models = fit_all(rows)
    if options.transfer:
        transfer(
            models,
            "efficiencies",
            lambda to, of: predict(models[of].moved_to(*FACTS[to]), rows[to]) / rows[to].time_s,
        )
        return

    def error(system: str, kind: str) -> Floats:
        if kind == "in-sample":
            return errors(models[system], rows[system])
        return left_out(rows[system], FACTS[system][1:], kind)

    kinds = ("pair", "length") if options.quick else ("row", "pair", "length")
    tabulate({system: len(rows[system]) for system in models}, kinds, error)


if __name__ == "__main__":
    main()
