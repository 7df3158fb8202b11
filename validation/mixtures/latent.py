"""Fit `thinwire.sim.costs.latent.LatentModel` to the published rows, and say how good it is.

    python -m thinwire.validation.mixtures.latent     # in-sample and each number of heads left out

Data: validation/published/latent_prefill.csv, latent_decode.csv, latent_bmm.csv (aiconfigurator-core 0.12.0,
Apache-2.0). Two kinds of rows are fitted together. Of vLLM whole attention modules of DeepSeek-V3 in bf16: the products
of the shipped profiles are added to what is fitted, and norms, rope and copies, which some of these tables ran unfused,
by numbers of the table (`extra_`, dropped); what long prompts and contexts take is vLLM's. Of TensorRT-LLM (on GDDR
boards decoding by SGLang, with vLLM's Triton kernel) attention alone: launches and what grows with sequences are these
rows', their rates are dropped. The A100 has prefill rows of attention alone and none of vLLM's decode kernel.
Deterministic: fixed start and order, no randomness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from thinwire.sim.costs.attention import TILE_ROWS
from thinwire.sim.costs.gemm import GemmModel
from thinwire.sim.costs.latent import ELEMENT_BYTES, INNER_DIM, LatentCache, LatentModel
from thinwire.sim.costs.shipped import profile_of
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits.gpus import SYSTEMS
from thinwire.validation.fits.published_tables import Columns
from thinwire.validation.fits.published_tables import rows as table_rows
from thinwire.validation.mixtures.experts import table

Floats = npt.NDArray[np.float64]
Masks = npt.NDArray[np.bool_]
Solved = tuple[float, Floats]  # cost, logarithms of the numbers

HIDDEN, QUERY_RANK, RANK, ROPE = 7168, 1536, 512, 64  # DeepSeek-V3
QK, VALUE = INNER_DIM + ROPE, INNER_DIM
PREFILL, DECODE, ABSORB = "latent_prefill", "latent_decode", "latent_bmm"
LENT = {"a100-sxm": "l40s"}  # decoding: Triton's kernel, which vLLM runs on both; its table there is of another engine
SCALE, SMALL = 0.08, 0.002
"""Errors beyond SCALE (in the logarithm) count less and less, as in fits/attention; SMALL holds what no row determines
at the start."""


@dataclass(frozen=True)
class Rows(Columns):
    """Rows of one GPU and phase as arrays of one length [R]. `tokens`: of a sequence's prompt, or context with the new
    token; `rest_s`: what a module runs besides, by our own products; `alone`: attention, no module.
    """

    batch: Floats
    tokens: Floats
    heads: Floats
    rest_s: Floats
    time_s: Floats
    alone: Masks
    line: npt.NDArray[np.int64]


def shipped_products(gpu: str) -> GemmModel:
    """The bf16 products of the GPU's shipped profile."""
    return profile_of(load_gpu(gpu)).gemm["bf16"]


def _rest_s(gemm: GemmModel, phase: str, tokens: int, heads: int) -> float:
    shapes = [(QUERY_RANK + RANK + ROPE, HIDDEN), (heads * QK, QUERY_RANK), (HIDDEN, heads * VALUE)]
    if phase == PREFILL:
        shapes.append((heads * (INNER_DIM + VALUE), RANK))
    return sum(gemm.time_s(tokens, n, k) for n, k in shapes)


@cache
def read_rows(phase: str) -> dict[tuple[str, str], Rows]:
    """(GPU, precision of the cache) -> rows of PREFILL or DECODE, in file order; products as shipped."""
    columns: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    products: dict[str, GemmModel] = {}
    rest: dict[tuple[str, int, int], float] = {}
    for number, row in enumerate(table_rows(phase)):
        gpu = SYSTEMS[row["system"]]
        module = row["measured"] == "module"
        if gpu not in products:
            products[gpu] = shipped_products(gpu)
        heads, batch = int(row["num_heads"]), int(row["batch_size"])
        for name, value in row.items():
            if not name.startswith("us_") or not value:
                continue
            tokens = int(name.removeprefix("us_"))
            m = batch * tokens if phase == PREFILL else batch
            if (gpu, m, heads) not in rest:
                rest[gpu, m, heads] = _rest_s(products[gpu], phase, m, heads)
            columns.setdefault((gpu, row.get("kv", "bf16")), []).append(
                (batch, tokens, heads, rest[gpu, m, heads] * module, float(value) * 1e-6, not module, number)
            )
    found = {}
    for key, lines in columns.items():
        arrays = np.array(lines, dtype=np.float64).T
        values: dict[str, Any] = dict(zip(Rows.__dataclass_fields__, arrays, strict=True))
        found[key] = Rows(**values | {"alone": arrays[5] > 0, "line": arrays[6].astype(np.int64)})
    return found


def robust(off: Floats) -> Floats:
    """Errors beyond SCALE count less and less."""
    return np.asarray(np.sign(off) * SCALE * np.sqrt(2 * (np.sqrt(1 + (off / SCALE) ** 2) - 1)))


def soft(one: Floats, other: Floats, exponent: float) -> Floats:
    """The soft maximum."""
    high, low = np.maximum(one, other), np.minimum(one, other)
    return np.asarray(high * (1 + (low / high) ** exponent) ** (1 / exponent))


def facts(gpu: str) -> tuple[float, float, int]:
    """(peak, memory bandwidth, SMs) as `LatentModel` takes them."""
    found = load_gpu(gpu)
    return found.peak_flops_per_s["bf16"], found.memory_bandwidth_bytes_per_s, found.sm_count


def _solve(seconds: Callable[[Floats], Floats], rows: Rows, start: Floats, bounds: tuple[Floats, Floats]) -> Solved:
    def residual(v: Floats) -> Floats:
        return np.concatenate([robust(np.log(seconds(v) / rows.time_s)), SMALL * (v - start)])

    found = least_squares(residual, start, bounds=bounds, max_nfev=100, x_scale="jac")
    return float(found.cost), np.asarray(found.x)


# --- prefill: launch_s, efficiency, balance, passes; of rows of attention alone the efficiency, of modules an extra
# launch and extra passes

PREFILL_START = np.log([15e-6, 0.6, 3.0, 2.0, 0.6, 10e-6, 1.0])
PREFILL_BOUNDS = np.log([1e-6, 0.05, 1.0, 0.05, 0.05, 1e-7, 1e-3]), np.log([100e-6, 1.0, 8.0, 40.0, 1.0, 1e-3, 40.0])
PREFILL_OWN = 4


def prefill_seconds(log_values: Floats, rows: Rows, known: tuple[float, float, int]) -> Floats:
    """What rows [R] take: `LatentModel.prefill_s` in arrays, and what a module has besides; tests hold the two
    together.
    """
    launch, efficiency, balance, passes, alone, extra_launch, extra_passes = np.exp(log_values)
    peak, bandwidth, sms = known
    tile = np.minimum(rows.tokens, TILE_ROWS)
    pairs = rows.tokens * (rows.tokens + 1) / 2
    flops = 2 * (QK + VALUE) / (np.where(rows.alone, alone, efficiency) * peak)
    mean = flops * rows.batch * rows.heads * (pairs + rows.tokens * tile / 2)
    longest = flops * tile * rows.tokens * sms
    moved_s = ELEMENT_BYTES * rows.batch * rows.heads * (QK + VALUE) * 2 * rows.tokens / bandwidth
    extra = np.where(rows.alone, 0.0, extra_launch + extra_passes * moved_s)
    return np.asarray(launch + soft(mean, longest, balance) + passes * moved_s + rows.rest_s + extra)


def fit_prefill(rows: Rows, known: tuple[float, float, int]) -> Floats:
    """Logarithms of the numbers; where no module was timed, attention alone says the rate."""
    found = _solve(lambda v: prefill_seconds(v, rows, known), rows, PREFILL_START, PREFILL_BOUNDS)[1]
    if rows.alone.all():
        found[1] = found[4]
    return found


# --- the products around decoding: launch_s, share of the bandwidth, of the peak

ABSORB_START = np.log([3e-6, 0.6, 0.5])
ABSORB_BOUNDS = np.log([0.1e-6, 0.05, 0.02]), np.log([50e-6, 1.2, 1.2])


@cache
def absorb_rows() -> dict[str, tuple[Floats, Floats, Floats]]:
    """GPU -> (tokens, heads, seconds of one product) [R]; the tables time either side alone."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for row in table_rows(ABSORB):
        for name, value in row.items():
            if name.startswith("us_") and value:
                line = int(name.removeprefix("us_")), int(row["num_heads"]), float(value) * 1e-6
                found.setdefault(SYSTEMS[row["system"]], []).append(line)
    arrays = {gpu: np.array(lines, dtype=np.float64).T for gpu, lines in found.items()}
    return {gpu: (a[0], a[1], a[2]) for gpu, a in arrays.items()}


def fit_absorb(gpu: str) -> Floats:
    """Logarithms of the numbers of `LatentModel.absorb_s`."""
    tokens, heads, seconds = absorb_rows()[gpu]
    peak, bandwidth, _ = facts(gpu)
    moved = ELEMENT_BYTES * heads * (INNER_DIM * RANK + tokens * (INNER_DIM + RANK)) / bandwidth
    flops = 2 * heads * INNER_DIM * RANK * tokens / peak

    def residual(v: Floats) -> Floats:
        launch, share, efficiency = np.exp(v)
        off = np.log((launch + np.maximum(moved / share, flops / efficiency)) / seconds)
        return np.concatenate([robust(off), SMALL * (v - ABSORB_START)])

    return np.asarray(least_squares(residual, ABSORB_START, bounds=ABSORB_BOUNDS, x_scale="jac").x)


# --- decode

# First those of `LatentCache`, then of rows of attention alone both rates, of modules what they add to a call, to each
# sequence, and to its queries.
NAMES = ("launch_s", "split_s", "split_tokens", "sequence_s", "query_passes", "share_efficiency", "efficiency",
         "sharpness", "cache_bytes", "cache_speedup", "cache_steepness",
         "alone_share", "alone_efficiency", "extra_launch_s", "extra_sequence_s", "extra_passes")  # fmt: skip
OWN = 11
START = np.log([10e-6, 5e-6, 2000, 0.1e-6, 1.0, 0.8, 0.5, 4, 50e6, 1.5, 4, 0.8, 0.5, 10e-6, 0.1e-6, 1.0])
BOUNDS = (
    np.log([0.1e-6, 1e-9, 128, 1e-9, 0.01, 0.05, 0.01, 1, 10e6, 1.0, 1.0, 0.05, 0.01, 1e-7, 1e-10, 1e-3]),
    np.log([100e-6, 200e-6, 32768, 20e-6, 20, 1.0, 1.0, 12, 200e6, 8.0, 16.0, 1.0, 1.0, 1e-3, 20e-6, 40]),
)
BLOCKS = (1, 16, 64)
BYTES = {"bf16": 2, "fp8": 1}


def decode_seconds(
    log_values: Floats, rows: Rows, known: tuple[float, float, int], absorbed_s: Floats, kv: str, block: int
) -> Floats:
    """What rows [R] take: `LatentModel.replayed_s` in arrays, and what a module has besides; tests hold the two
    together.
    """
    v = dict(zip(NAMES, np.exp(log_values), strict=True))
    peak, bandwidth, _ = known
    tokens = rows.batch * (rows.tokens + 1)
    moved = BYTES[kv] * (RANK + ROPE)
    warm = 1 / (1 + (moved * tokens / v["cache_bytes"]) ** v["cache_steepness"])
    share = np.where(rows.alone, v["alone_share"], v["share_efficiency"])
    read = moved / (share * bandwidth) * (1 - warm * (1 - 1 / v["cache_speedup"]))
    computed = np.ceil(rows.heads / block) * block
    efficiency = np.where(rows.alone, v["alone_efficiency"], v["efficiency"])
    token = soft(read, 2 * computed * (2 * RANK + ROPE) / (efficiency * peak), v["sharpness"])
    queries_s = ELEMENT_BYTES * rows.heads * (2 * RANK + ROPE) / bandwidth
    split = v["split_s"] * np.minimum(rows.tokens / v["split_tokens"], 1)
    each = v["sequence_s"] + v["query_passes"] * queries_s
    extra = v["extra_launch_s"] + rows.batch * (v["extra_sequence_s"] + v["extra_passes"] * queries_s)
    besides = np.where(rows.alone, 0.0, absorbed_s + rows.rest_s + extra)
    return np.asarray(v["launch_s"] + split + rows.batch * each + token * tokens + besides)


def absorbed(log_values: Floats, rows: Rows, known: tuple[float, float, int]) -> Floats:
    """`LatentModel.absorb_s` in arrays [R]."""
    launch, share, efficiency = np.exp(log_values)
    peak, bandwidth, _ = known
    moved = ELEMENT_BYTES * rows.heads * (INNER_DIM * RANK + rows.batch * (INNER_DIM + RANK))
    flops = 2 * rows.heads * INNER_DIM * RANK * rows.batch
    return np.asarray(2 * (launch + np.maximum(moved / (share * bandwidth), flops / (efficiency * peak))))


def fit_decode(rows: Rows, known: tuple[float, float, int], absorb: Floats, kv: str) -> tuple[int, Floats]:
    """(Heads' block, logarithms of the numbers)."""
    around_s, found = absorbed(absorb, rows, known), {}
    for block in BLOCKS:
        seconds = partial(decode_seconds, rows=rows, known=known, absorbed_s=around_s, kv=kv, block=block)
        found[block] = _solve(seconds, rows, START, BOUNDS)
    best = min(found, key=lambda b: found[b][0])
    return best, found[best][1]


def rounded(values: Floats) -> list[float]:
    """Four digits of each."""
    return [float(f"{math.exp(v):.4g}") for v in values]


def named(cls: type[Any], values: Sequence[Any]) -> dict[str, Any]:
    """A dataclass's fields from values in their order."""
    return dict(zip((each.name for each in fields(cls)), values, strict=True))


def cache_of(kv: str, block: int, log_values: Floats, source: str) -> LatentCache:
    """From fitted numbers."""
    return LatentCache(**named(LatentCache, [BYTES[kv], block, *rounded(log_values[:OWN]), source]))


def fit(
    gpu: str, prefill: Rows, decode: Mapping[str, Rows], absorb: Floats | None = None, source: str = ""
) -> LatentModel:
    """The model of one GPU. decode: by the cache's precision; where none, the caches of whom it is lent from."""
    known = facts(gpu)
    absorb = fit_absorb(gpu) if absorb is None else absorb
    launch, efficiency, balance, passes = rounded(fit_prefill(prefill, known)[:PREFILL_OWN])
    its = source or f"measured: aiconfigurator-core 0.12.0, {PREFILL}.csv, {len(prefill)} rows"
    caches = {}
    for kv, rows in decode.items():
        said = source or f"measured: aiconfigurator-core 0.12.0, {DECODE}.csv, {len(rows)} rows"
        caches[kv] = cache_of(kv, *fit_decode(rows, known, absorb, kv), said)
    absorb_launch, share, absorb_efficiency = rounded(absorb)
    return LatentModel(
        gpu=gpu,
        peak_flops_per_s=known[0],
        memory_bandwidth_bytes_per_s=known[1],
        sm_count=known[2],
        prefill_launch_s=launch,
        prefill_efficiency=efficiency,
        prefill_balance=max(balance, 1.0),
        prefill_passes=passes,
        absorb_launch_s=absorb_launch,
        absorb_share_efficiency=share,
        absorb_efficiency=absorb_efficiency,
        source=its,
        caches=caches or {"bf16": LatentModel.roofline(gpu, *known).caches["bf16"]},
    )


FEWEST_HEADS = 3  # numbers of heads that a cache's rows must have: RTX PRO 6000's of fp8 are of one head alone


def fitted_rows(phase: str, gpu: str) -> dict[str, Rows]:
    """A GPU's rows of PREFILL or DECODE by the cache's precision, where modules of enough numbers of heads were timed,
    or attention alone was.
    """
    found = {kv: rows for (its, kv), rows in read_rows(phase).items() if its == gpu}
    enough = {kv: len(np.unique(rows.heads[~rows.alone])) >= FEWEST_HEADS for kv, rows in found.items()}
    return {kv: rows for kv, rows in found.items() if enough[kv] or rows.alone.all()}


def fit_all() -> dict[str, LatentModel]:
    """The measured GPUs' models; decoding that only another GPU's kernel tells about is moved from it."""
    gpus = [gpu for gpu, _ in read_rows(PREFILL)]
    found = {gpu: fit(gpu, fitted_rows(PREFILL, gpu)["bf16"], fitted_rows(DECODE, gpu)) for gpu in gpus}
    for gpu, lender in LENT.items():
        moved = found[lender].moved_to(gpu, *facts(gpu))
        found[gpu] = LatentModel.from_dict({**found[gpu].to_dict(), "caches": moved.to_dict()["caches"]})
    return dict(sorted(found.items()))


def predict(model: LatentModel, rows: Rows, phase: str, kv: str = "bf16") -> Floats:
    """Seconds [R] of attention alone as the benchmark would measure it, by the model itself."""
    lines = zip(rows.batch, rows.tokens, rows.heads, strict=True)
    if phase == PREFILL:
        return np.array([model.prefill_s(int(b), int(t), int(t), int(h), QK, VALUE) for b, t, h in lines])
    return np.array([model.replayed_s(int(b), int(b * t), int(h), RANK, ROPE, BYTES[kv]) for b, t, h in lines])


def seconds(gpu: str, rows: Rows, phase: str, kv: str, fitted: Rows) -> Floats:
    """What `rows` take by a fit to `fitted`, what modules add with it [R]."""
    known = facts(gpu)
    if phase == PREFILL:
        return prefill_seconds(fit_prefill(fitted, known), rows, known)
    absorb = fit_absorb(gpu)
    block, numbers = fit_decode(fitted, known, absorb, kv)
    return decode_seconds(numbers, rows, known, absorbed(absorb, rows, known), kv, block)


def left_out(gpu: str, rows: Rows, phase: str, kv: str = "bf16") -> Floats:
    """log(measured / predicted) [R] of each number of heads by a fit without it."""
    found = np.zeros(len(rows))
    for heads in np.unique(rows.heads):
        out = rows.heads == heads
        left = rows.only(out)
        found[out] = np.log(left.time_s / seconds(gpu, left, phase, kv, rows.only(~out)))
    return found


def told(rows: Rows) -> Masks:
    """Rows of modules that attention is half of at least [R]: what they are off by, it is off by. Where there are no
    modules, all.
    """
    return np.ones(len(rows), bool) if rows.alone.all() else ~rows.alone & (rows.rest_s < 0.5 * rows.time_s)


def main() -> None:
    """Print the tables of docs/decisions/032-mixture-kernels.md."""
    lines = {}
    for phase in (PREFILL, DECODE):
        for (gpu, kv), rows in read_rows(phase).items():
            if kv not in fitted_rows(phase, gpu):
                continue
            logs, ratio, own = (
                left_out(gpu, rows, phase, kv),
                seconds(gpu, rows, phase, kv, rows) / rows.time_s,
                told(rows),
            )
            off = np.abs(np.exp(-logs) - 1)
            cells = [np.abs(ratio - 1), off, off[own], off[rows.alone]]
            lines[f"{phase} {gpu} {kv} ({len(rows):,})"] = cells
    table(["in-sample", "a number of heads out", "modules that are half attention", "attention alone"], lines)
    for gpu, model in fit_all().items():
        print(gpu, model)


if __name__ == "__main__":
    main()
