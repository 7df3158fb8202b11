"""Fit `thinwire.sim.costs.decode_attention.DecodeAttentionModel` to the published rows, and say how good it is.

    python -m thinwire.validation.fits.decode             # in-sample and left out
    python -m thinwire.validation.fits.decode --transfer  # every GPU with every other GPU's numbers

Data: validation/published/attention_decode_bf16.csv (ai-dynamo/aiconfigurator, Apache-2.0). One step: all numbers of a
GPU at once, by robust least squares on the logarithm of the time; shares of neighbouring nodes are held together by a
penalty. Deterministic: fixed start and order, no randomness.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from thinwire.sim.costs.decode_attention import ELEMENT_BYTES, SHARE_NODES, DecodeAttentionModel
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits.attention import HEAD_DIM, masks, read_columns, tabulate, transfer
from thinwire.validation.fits.gpus import SYSTEMS
from thinwire.validation.fits.published_tables import PUBLISHED, Columns

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]
PART, TABLE = "decode attention", "attention_decode_bf16"  # of a profile, and what it is fitted to


def facts(gpu: str) -> tuple[str, float, int]:
    """The GPU's (name, bytes/s, SMs), as `fit` and `DecodeAttentionModel.moved_to` take them."""
    found = load_gpu(gpu)
    return gpu, found.memory_bandwidth_bytes_per_s, found.sm_count


FACTS: Mapping[str, tuple[str, float, int]] = {
    # by system in the csv
    system: facts(gpu)
    for system, gpu in SYSTEMS.items()
}

NAMES = (
    "floor_s",
    "regroup_s",
    "split_s",
    "split_tokens",
    "unit_s",
    "overlap",
    "unit_bytes_per_s",
    "whole_unit_bytes_per_s",
    "cache_bytes",
    "cache_speedup",
    "cache_steepness",
)
START = np.log([10e-6, 1e-6, 3e-6, 500, 3e-6, 0.5, 1e12, 30e9, 50e6, 3.0, 4.0] + [0.8] * SHARE_NODES)
# Regrouping ends at its least, 0.1 us, where a kernel has no such step.
LOWER = np.log([1e-6, 1e-7, 1e-9, 128, 1e-8, 1e-3, 1e9, 1e9, 5e6, 1.0, 1.0] + [0.02] * SHARE_NODES)
UPPER = np.log([60e-6, 20e-6, 60e-6, 16384, 100e-6, 1.0, 1e13, 1e13, 500e6, 10.0, 16.0] + [1.0] * SHARE_NODES)

SCALE = 0.08
"""Errors beyond this (in the logarithm) count less and less, as in fit_attention."""
SMOOTH, SMALL = 0.05, 0.002
"""Weights on the second differences of the shares' logarithms, and on the distance of all logarithms from the start,
against a row's SCALE: what no row determines stays there. Chosen once for all GPUs; a third or three times as much
moves no median by more than 0.1 points."""


@dataclass(frozen=True)
class Rows(Columns):
    """Columns of the csv as arrays of one length [R]: sequences, the context of each (new token counted), time in s."""

    batch: Floats
    context: Floats
    heads: Floats
    kv_heads: Floats
    time_s: Floats
    head_dim: int = HEAD_DIM
    value_bytes: float = ELEMENT_BYTES
    packed: int = 1

    @property
    def units(self) -> Floats:
        """Blocks at least [R]."""
        return self.batch * (self.kv_heads if self.packed else self.heads)

    @property
    def attended(self) -> Floats:
        """Tokens that a query attends to [R]."""
        return self.context

    @property
    def read_bytes(self) -> Floats:
        """Keys and values, read once [R]."""
        return 2.0 * self.value_bytes * self.head_dim * self.kv_heads * self.batch * self.context


def read_rows(path: Path = PUBLISHED / f"{TABLE}.csv") -> dict[str, Rows]:
    """Rows by system, in file order. ValueError if a row is not head_dim 128."""
    return {system: Rows(*columns) for system, columns in read_columns(path, "context").items()}


def hats(units: Floats) -> Floats:
    """Interpolation weights of the shares' logarithms [R, SHARE_NODES]."""
    at = np.clip(np.log2(units), 0, SHARE_NODES - 1)
    low = np.minimum(at.astype(np.int64), SHARE_NODES - 2)
    out, every = np.zeros((len(units), SHARE_NODES)), np.arange(len(units))
    out[every, low] = 1 - (at - low)
    out[every, low + 1] = at - low
    return out


def seconds(log_values: Floats, rows: Rows, bandwidth_bytes_per_s: float, sm_count: int, weights: Floats) -> Floats:
    """`DecodeAttentionModel.replayed_s` in arrays [R]; `weights`: `hats` of the rows' units.

    The one formula written twice, for speed; tests/validation/fits/test_decode.py holds the two together.
    """
    v = dict(zip(NAMES, np.exp(log_values[: len(NAMES)]), strict=True))
    units, alone = rows.units, rows.heads == rows.kv_heads
    moved = 2 * rows.value_bytes * rows.head_dim * rows.batch * rows.kv_heads * (rows.context + 1)
    warm = 1 / (1 + (moved / v["cache_bytes"]) ** v["cache_steepness"])
    rate = np.exp(weights @ log_values[len(NAMES) :]) * bandwidth_bytes_per_s
    read = moved / rate * (1 - warm * (1 - 1 / v["cache_speedup"]))
    unit_rate = np.where(alone, min(v["unit_bytes_per_s"], v["whole_unit_bytes_per_s"]), v["unit_bytes_per_s"])
    read = np.maximum(read, moved / (units * unit_rate))
    work = units * v["unit_s"] / sm_count
    regroup = v["regroup_s"] * ((rows.batch > 1) & (rows.kv_heads > 1) & ~alone)
    split = v["split_s"] * np.minimum(rows.context / v["split_tokens"], 1)
    hidden = v["overlap"] * work
    return np.asarray(v["floor_s"] + regroup + split + (work - hidden) + np.maximum(hidden, read))


def fit_values(rows: Rows, bandwidth_bytes_per_s: float, sm_count: int, upper: Floats = UPPER) -> Floats:
    """Logarithms of the numbers (order: NAMES, then the shares), each below `upper`."""
    weights, names = hats(rows.units), len(NAMES)

    def residual(log_values: Floats) -> Floats:
        off = np.log(seconds(log_values, rows, bandwidth_bytes_per_s, sm_count, weights) / rows.time_s)
        robust = np.sign(off) * SCALE * np.sqrt(2 * (np.sqrt(1 + (off / SCALE) ** 2) - 1))
        shares = log_values[names:]
        return np.concatenate([robust, SMOOTH * np.diff(shares, 2), SMALL * (log_values - START)])

    start = np.clip(START, LOWER + 1e-6, upper - 1e-6)
    found = least_squares(residual, start, bounds=(LOWER, upper), max_nfev=200, ftol=1e-10, xtol=1e-10)
    return np.asarray(found.x, dtype=np.float64)


def build(
    gpu: str,
    facts: tuple[float, int],
    log_values: Floats,
    source: str,
    value_bytes: float = ELEMENT_BYTES,
    packed: int = 1,
) -> DecodeAttentionModel:
    """Model from fitted numbers, rounded (so that the profile is short and exact); shares at most twice from node to
    node.
    """
    names = len(NAMES)
    values = {name: float(f"{math.exp(v):.4g}") for name, v in zip(NAMES, log_values[:names], strict=True)}
    shares: list[float] = []
    for log_share in log_values[names:]:
        share = min(round(math.exp(log_share), 4), 1.0)
        shares.append(min(share, 2 * shares[-1]) if shares else share)
    return DecodeAttentionModel(
        gpu=gpu,
        memory_bandwidth_bytes_per_s=facts[0],
        sm_count=facts[1],
        shares=tuple(shares),
        source=source,
        value_bytes=value_bytes,
        packed=packed,
        **{
            **values,
            "overlap": min(values["overlap"], 1.0),
            "cache_speedup": max(values["cache_speedup"], 1.0),
        },
    )


def fit(
    rows: Rows,
    gpu: str,
    memory_bandwidth_bytes_per_s: float,
    sm_count: int,
    source: str = "",
    upper: Floats = UPPER,
) -> DecodeAttentionModel:
    """The model of one GPU from its measured rows."""
    facts = memory_bandwidth_bytes_per_s, sm_count
    source = source or f"measured: aiconfigurator-core 0.12.0, {TABLE}.csv, {len(rows)} rows, head_dim {HEAD_DIM}"
    return build(gpu, facts, fit_values(rows, *facts, upper), source, rows.value_bytes, rows.packed)


def fit_all(rows: Mapping[str, Rows] | None = None) -> dict[str, DecodeAttentionModel]:
    """The measured GPUs' models by the csv's system name."""
    rows = read_rows() if rows is None else rows
    return {system: fit(rows[system], *FACTS[system]) for system in sorted(rows)}


def predict(model: DecodeAttentionModel, rows: Rows) -> Floats:
    """Seconds [R] as the benchmark would measure them, by the model itself."""
    columns = (rows.batch, rows.context, rows.heads, rows.kv_heads)
    return np.array(
        [
            model.replayed_s(int(b), int(b * c), int(h), int(kv), rows.head_dim)
            for b, c, h, kv in zip(*columns, strict=True)
        ]
    )


def errors(model: DecodeAttentionModel, rows: Rows) -> Floats:
    """Absolute relative errors [R]."""
    return np.asarray(np.abs(predict(model, rows) / rows.time_s - 1))


def folds(rows: Rows, kind: str) -> Iterator[Masks]:
    """Masks of the rows left out, one after another: kind is "pair" (heads, kv_heads), "length" or "batch"."""
    columns = {"pair": (rows.heads, rows.kv_heads), "length": (rows.context,), "batch": (rows.batch,)}
    if kind not in columns:
        raise ValueError(f"left out one by one: {', '.join(columns)}, got {kind!r}")
    yield from masks(np.stack(columns[kind], 1))


def left_out(rows: Rows, facts: tuple[str, float, int], kind: str) -> Floats:
    """Seconds [R] of each row, by a model fitted without its fold."""
    out = np.zeros(len(rows))
    for mask in folds(rows, kind):
        out[mask] = predict(fit(rows.only(~mask), *facts, "left out"), rows.only(mask))
    return out


def main(argv: list[str] | None = None) -> None:
    """Print the tables of docs/decisions/004-attention-and-elementwise.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transfer", action="store_true", help="every GPU with every other's numbers")
    options = parser.parse_args(argv)
    rows = read_rows()
    models = fit_all(rows)
    if options.transfer:
        transfer(models, "numbers", lambda to, of: predict(models[of].moved_to(*FACTS[to]), rows[to]) / rows[to].time_s)
        return

    def error(system: str, kind: str) -> Floats:
        if kind == "in-sample":
            return errors(models[system], rows[system])
        return np.asarray(np.abs(left_out(rows[system], FACTS[system], kind) / rows[system].time_s - 1))

    tabulate({system: len(rows[system]) for system in models}, ("pair", "length", "batch"), error)


if __name__ == "__main__":
    main()
