"""Fit attention of other head sizes, windows and caches, and say how far off it is: `sim/profiles/attention-*.json`.

    python -m thinwire.validation.precisions.attention     # every variant by the base alone, and fitted (a minute)

Data: `attention_prefill_variants.csv`, `attention_decode_variants.csv` (aiconfigurator-core 0.12.0, Apache-2.0).
Prefill: what calls take more than the model fitted to head size 128 says, on a grid of length and parallelism, by
penalised least squares on the logarithm. Decode: the model of validation/fits/decode.py, fitted to each variant's rows;
of a window, the context is what lies within it.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from thinwire.sim.costs.attention import ADJUST_LENGTH, ADJUST_LIMIT, ADJUST_PARALLEL, ADJUSTS, AttentionModel
from thinwire.sim.costs.decode_attention import ELEMENT_BYTES, SHARE_NODES, DecodeAttentionModel
from thinwire.sim.costs.heads import Cache, Heads, Variant, heads_dict
from thinwire.sim.costs.profile import GpuProfile
from thinwire.sim.costs.shipped import profile_of
from thinwire.sim.costs.spread import Spread
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits import decode as fit_decode
from thinwire.validation.fits.attention import masks
from thinwire.validation.fits.gpus import SYSTEMS
from thinwire.validation.fits.published_tables import PUBLISHED, Columns
from thinwire.validation.fits.spreads import KEY_REGIMES, by_regime

Floats = npt.NDArray[np.float64]
PREFILL, DECODE = "attention_prefill_variants", "attention_decode_variants"
SMOOTH, SMALL = 0.5, 0.05
"""Penalties on first differences of an adjustment and on its size, against a row's own error."""
LARGE = 256  # head sizes beyond are run by kernels made for prefill, whose units take ...
SLOW = np.where(np.array([*fit_decode.NAMES, *range(SHARE_NODES)]) == "unit_s", np.log(5e-3), fit_decode.UPPER)
OUT = 4  # of so many (heads, kv heads) one is left out
SCALE = 0.08  # errors beyond this count less and less, as in fits/


@dataclass(frozen=True)
class Rows(Columns):
    """Measured calls as arrays of one length [R]; tokens: of a sequence, the new ones counted; seconds."""

    batch: Floats
    tokens: Floats
    heads: Floats
    kv_heads: Floats
    time_s: Floats


def read_rows(table: str) -> dict[str, dict[Variant, Rows]]:
    """Rows by GPU and variant, in file order."""
    tokens = "isl" if table == PREFILL else "context"
    found: dict[str, dict[Variant, list[tuple[float, ...]]]] = {}
    with (PUBLISHED / f"{table}.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            variant = Variant(int(row["head_dim"]), int(row["window"]), row["kv"])
            shape = (float(row[name]) for name in ("batch_size", tokens, "num_heads", "num_kv_heads"))
            own = found.setdefault(SYSTEMS[row["system"]], {})
            own.setdefault(variant, []).append((*shape, float(row["latency_us"]) * 1e-6))
    return {gpu: {v: Rows(*np.array(rows).T) for v, rows in its.items()} for gpu, its in found.items()}


# ---- prefill


def prefill_seconds(model: AttentionModel, variant: Variant, rows: Rows) -> Floats:
    """Seconds [R] by a model."""
    columns = zip(rows.batch, rows.tokens, rows.heads, rows.kv_heads, strict=True)
    window = variant.window or None
    return np.array(
        [model.time_s(int(b), int(n), int(n), int(h), int(kv), variant.head_dim, window) for b, n, h, kv in columns]
    )


def fit_adjust(base: AttentionModel, variant: Variant, rows: Rows) -> tuple[int, ...]:
    """What the rows take more than `base` says, in thousandths of ln (`AttentionModel.adjust`)."""
    residual = np.log(rows.time_s / prefill_seconds(base, variant, rows))
    slope = (
        _hats(np.log2(rows.tokens), ADJUST_LENGTH)[:, :, None]
        * (_hats(np.log2(rows.batch * rows.heads), ADJUST_PARALLEL)[:, None, :])
    )
    slope = slope.reshape(len(rows), ADJUSTS)
    form, weight = _penalty(), np.ones(len(rows))
    table: Floats = np.zeros(ADJUSTS)
    for _ in range(4):
        normal = slope.T @ (slope * weight[:, None]) + form
        table = np.asarray(np.linalg.solve(normal, slope.T @ (weight * residual)))
        weight = 1 / np.sqrt(1 + ((residual - slope @ table) / SCALE) ** 2)
    return tuple(int(v) for v in np.clip(np.rint(1000 * table), -ADJUST_LIMIT, ADJUST_LIMIT))


def _hats(values: Floats, axis: tuple[float, ...]) -> Floats:
    """Interpolation weights [R, nodes]."""
    at = np.clip((values - axis[0]) / (axis[1] - axis[0]), 0, len(axis) - 1)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(len(axis))))


def _penalty() -> Floats:
    index = np.arange(ADJUSTS).reshape(len(ADJUST_LENGTH), len(ADJUST_PARALLEL))
    form = SMALL * np.eye(ADJUSTS)
    for low, high in ((index[:-1], index[1:]), (index[:, :-1], index[:, 1:])):
        for a, b in zip(low.ravel(), high.ravel(), strict=True):
            form[[a, b], [a, b]] += SMOOTH
            form[[a, b], [b, a]] -= SMOOTH
    return np.asarray(form)


# ---- decode


def decode_rows(variant: Variant, rows: Rows) -> fit_decode.Rows:
    """The rows as the decode fit takes them."""
    context = np.minimum(rows.tokens, variant.window) if variant.window else rows.tokens
    value_bytes = ELEMENT_BYTES if variant.cache == "bf16" else 1
    return fit_decode.Rows(rows.batch, context, rows.heads, rows.kv_heads, rows.time_s, variant.head_dim, value_bytes)


def fit_decode_variant(gpu: str, variant: Variant, rows: Rows) -> DecodeAttentionModel:
    """The decode model of one variant: query heads that share keys as one unit, unless each for itself fits better."""
    source = f"measured: aiconfigurator-core 0.12.0, {DECODE}.csv, {len(rows)} rows"
    packed = decode_rows(variant, rows)
    tried = [packed, replace(packed, packed=0)]
    upper = SLOW if variant.head_dim > LARGE else fit_decode.UPPER
    models = [fit_decode.fit(each, *fit_decode.facts(gpu), source, upper) for each in tried]
    return min(
        models, key=lambda model: float(np.abs(np.log(fit_decode.predict(model, packed) / packed.time_s)).mean())
    )


# ---- both


def left_out_spreads(
    gpu: str, base: AttentionModel, prefill: Mapping[Variant, Rows], decode: Mapping[Variant, Rows]
) -> list[Spread]:
    """Of all variants together: one of every `OUT` (heads, kv heads) out."""
    found: list[Spread] = []
    for part, table, tables in (("attention", PREFILL, prefill), ("decode attention", DECODE, decode)):
        sizes, logs = list[float](), list[float]()
        for variant, rows in tables.items():
            pairs = list(masks(np.stack([rows.heads, rows.kv_heads], 1)))
            out = np.any(pairs[1::OUT], axis=0)
            rest, left = rows.only(~out), rows.only(out)
            if part == "attention":
                model = replace(base, adjust=fit_adjust(base, variant, rest))
                seconds = prefill_seconds(model, variant, left)
            else:
                fitted = fit_decode_variant(gpu, variant, rest)
                seconds = fit_decode.predict(fitted, decode_rows(variant, left))
            sizes += left.tokens.tolist()
            logs += np.log(left.time_s / seconds).tolist()
        source = f"measured: {table}.csv, {len(logs)} rows of {gpu}, each fitted without its (heads, kv heads)"
        found += by_regime(f"{part} other", sizes, logs, KEY_REGIMES, source)
    return found


def heads_of_gpu(
    gpu: str, base: AttentionModel, prefill: Mapping[Variant, Rows], decode: Mapping[Variant, Rows]
) -> Heads:
    """A GPU's variants, fitted."""
    count = sum(map(len, (*prefill.values(), *decode.values())))
    return Heads(
        tuple((variant, fit_adjust(base, variant, rows)) for variant, rows in sorted(prefill.items())),
        tuple((variant, fit_decode_variant(gpu, variant, rows)) for variant, rows in sorted(decode.items())),
        f"measured: aiconfigurator-core 0.12.0, {PREFILL}.csv and {DECODE}.csv, {count} rows",
        tuple(left_out_spreads(gpu, base, prefill, decode)),
    )


def documents(profiles: Mapping[str, GpuProfile]) -> dict[str, dict[str, Any]]:
    """Name of a file in `sim/profiles/`: its contents."""
    prefill, decode = read_rows(PREFILL), read_rows(DECODE)
    return {
        f"attention-{gpu}.json": heads_dict(heads_of_gpu(gpu, profiles[gpu].attention, prefill[gpu], decode[gpu]))
        for gpu in sorted(prefill)
    }


def errors(table: str, variant: Variant, rows: Rows, profile: GpuProfile, heads: Heads) -> Floats:
    """log(measured / predicted) [R] by what serves such calls."""
    window = variant.window or None
    cache: Cache = "fp8" if variant.cache == "fp8" else "bf16"
    if table == PREFILL:
        model = heads.attention(profile.attention, variant.head_dim, window, cache)
        return np.asarray(np.log(rows.time_s / prefill_seconds(model, variant, rows)))
    decode = heads.decode_attention(profile.decode_attention, variant.head_dim, window, cache)
    return np.asarray(np.log(rows.time_s / fit_decode.predict(decode, decode_rows(variant, rows))))


def main() -> None:
    """Print, a variant a line, median and 90th percentile of |predicted / measured - 1|: by the base alone, fitted."""
    tables = {PREFILL: read_rows(PREFILL), DECODE: read_rows(DECODE)}
    for gpu in tables[PREFILL]:
        profile = profile_of(load_gpu(gpu))
        for table, rows_of in tables.items():
            for variant, rows in sorted(rows_of[gpu].items()):
                cells = []
                for heads in (Heads(), profile.heads):
                    off = np.abs(np.expm1(-errors(table, variant, rows, profile, heads)))
                    cells.append(f"{np.median(off):6.1%} {np.quantile(off, 0.9):6.1%}")
                print(
                    f"{gpu:13} {table[10:17]:8} {tuple(variant)!s:22} {len(rows):4}   " + "   ".join(cells), flush=True
                )


if __name__ == "__main__":
    main()
