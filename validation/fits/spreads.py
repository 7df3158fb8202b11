"""How far the parts of a GPU profile are off on rows that their fits did not see: `spreads` in `sim/profiles/`.

Where a part was fitted to rows of its own GPU, they are left out, a group at a time. Where something stands
in, the same is done to a GPU whose rows are known: predicted as if they were not (docs/decisions/014).
validate counts how many rows the intervals hold, on other folds than those used here or without the row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from thinwire.sim.costs.attention import AttentionModel
from thinwire.sim.costs.decode_attention import DecodeAttentionModel
from thinwire.sim.costs.elementwise import ElementwiseModel
from thinwire.sim.costs.gemm import GemmModel
from thinwire.sim.costs.profile import FabricProfile, GpuProfile, Quantity
from thinwire.sim.costs.spread import CONFIDENCE, Spread
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits import attention as fit_attention
from thinwire.validation.fits import codec as fit_codec
from thinwire.validation.fits import decode as fit_decode
from thinwire.validation.fits import elementwise as fit_elementwise
from thinwire.validation.fits import engine as fit_engine
from thinwire.validation.fits import gemm as fit_gemm
from thinwire.validation.fits.gpus import FIRST, NEAREST_KERNELS, SYSTEMS

Floats = NDArray[np.float64]
Regimes = tuple[float | None, ...]

TAIL = (1 + CONFIDENCE) / 2
ENOUGH = 19  # rows of which the 5th and 95th percentiles of one more are order statistics: 1 / 0.05 - 1
FEWEST = 8  # rows of which they may be guessed, by Student's t
M_REGIMES: Regimes = (512, 4096, None)  # rows of a product
KEY_REGIMES: Regimes = (512, 4096, None)  # tokens a query attends to
BYTE_REGIMES: Regimes = (2**20, 2**24, None)  # moved by an element-wise kernel
SHAPES = (1, 3)  # of every five (n, k), left out here; validate leaves out 0, 5, 10, ...
PAIRS = slice(1, None, 2)  # (heads, kv heads) left out here; validate holds the others to the intervals
THIN = 4  # every so-manieth row and size is enough where something stands in
OTHER_CHIP = ("mi300x", "l4")  # not the chip of the GPU whose kernels they take; the others of NEAREST_KERNELS are


def spread(part: str, logs: ArrayLike, source: str, up_to: float | None = None, centred: bool = False) -> Spread:
    """From log(measured / predicted): order statistics that hold one more row in 90 %, Student's t for a few rows.

    centred: no bias, for another's says nothing of this one's.
    """
    found = np.sort(np.asarray(logs, dtype=float))
    count = len(found)
    if count < 2:
        raise ValueError(f"a spread needs rows: {part}, {count}")
    if count >= ENOUGH:
        k = min(count, int(np.ceil((count + 1) * TAIL - 1e-9)))
        low, bias, high = found[count - k], np.median(found), found[k - 1]
    else:
        bias = found.mean()
        reach = stdtrit(count - 1, TAIL) * found.std(ddof=1) * np.sqrt(1 + 1 / count)
        low, high = bias - reach, bias + reach
    low, high = min(0.0, float(low)), max(0.0, float(high))
    return Spread(part, up_to, round(low, 4), 0.0 if centred else round(float(bias), 4), round(high, 4), count, source)


def by_regime(
    part: str, sizes: ArrayLike, logs: ArrayLike, regimes: Regimes, source: str, centred: bool = False
) -> list[Spread]:
    """A spread for each regime that has enough rows; a regime that has not joins the next."""
    size, values, found = np.asarray(sizes, dtype=float), np.asarray(logs, dtype=float), []
    above = 0.0
    for up_to in regimes:
        inside = (size > above) & (size <= (np.inf if up_to is None else up_to))
        if inside.sum() >= FEWEST:
            found.append(spread(part, values[inside], source, up_to, centred))
            above = np.inf if up_to is None else up_to
    if not found:
        raise ValueError(f"a spread needs {FEWEST} rows in one regime: {part}, {len(values)}")
    return found


# --- products ---


def gemm_left_out(gpu: str, dtype: str) -> list[Spread]:
    """One (n, k) out, two of every five."""
    rows = fit_gemm.read_rows()[gpu, dtype]
    folds = [fold for i, fold in enumerate(fit_gemm.shape_folds(rows)) if i % 5 in SHAPES]
    logs = fit_gemm.leave_one_out(rows, fit_gemm.facts(gpu, dtype), dtype, folds)
    source = f"measured: gemm.csv, {len(logs)} rows of {gpu}, each fitted without its (n, k)"
    return by_regime(f"gemm {dtype}", [row.m for row in logs], list(logs.values()), M_REGIMES, source)


def gemm_same_chip(models: Mapping[str, Mapping[str, GemmModel]], dtype: str) -> list[Spread]:
    """H100 and H200 from each other."""
    pairs = (("h100-sxm", "h200-sxm"), ("h200-sxm", "h100-sxm"))
    tables, sizes, logs = fit_gemm.read_rows(), list[int](), list[float]()
    for gpu, lender in pairs:
        moved = models[lender][dtype].transferred(fit_gemm.facts(gpu, dtype))
        sizes += [row.m for row in tables[gpu, dtype]]
        logs += fit_gemm.residuals(moved, tables[gpu, dtype]).tolist()
    source = "assumed: as H100 and H200, the same chip, are off from each other"
    return by_regime(f"gemm {dtype}", sizes, logs, M_REGIMES, source, centred=True)


@cache
def gemm_other_chip(dtype: str) -> list[Spread]:
    """Each measured GPU from one roofline of the others."""
    tables = {gpu: rows[::THIN] for (gpu, its), rows in fit_gemm.read_rows().items() if its == dtype and gpu in FIRST}
    sizes, logs = list[int](), list[float]()
    for gpu, rows in tables.items():
        others = [(its, fit_gemm.facts(other, dtype)) for other, its in tables.items() if other != gpu]
        model = GemmModel(fit_gemm.facts(gpu, dtype), dtype, fit_gemm.fit_roofline(others, dtype), None, "assumed: x")
        sizes += [row.m for row in rows]
        logs += fit_gemm.residuals(model, rows).tolist()
    source = f"assumed: as each of {len(tables)} measured GPUs is off from one roofline of the others"
    return by_regime(f"gemm {dtype}", sizes, logs, M_REGIMES, source, centred=True)


# --- attention, of prefill and decode ---


Rows = TypeVar("Rows", fit_attention.Rows, fit_decode.Rows)
Model = TypeVar("Model", AttentionModel, DecodeAttentionModel)


class _AttentionFit(Protocol[Rows, Model]):
    """What the modules `fits.attention` and `fits.decode` have in common."""

    @property
    def PART(self) -> str: ...
    @property
    def TABLE(self) -> str: ...
    @property
    def FACTS(self) -> Mapping[str, tuple[Any, ...]]: ...
    @property
    def fit(self) -> Callable[..., Model]: ...
    def read_rows(self) -> dict[str, Rows]: ...
    def fit_all(self) -> dict[str, Model]: ...
    def predict(self, model: Model, rows: Rows) -> Floats: ...
    def __hash__(self) -> int: ...


def attention_folds(rows: fit_attention.Rows | fit_decode.Rows) -> list[NDArray[np.bool_]]:
    """Masks of the rows of one (heads, kv heads)."""
    return list(fit_attention.masks(np.stack([rows.heads, rows.kv_heads], 1)))


def attention_left_out(kernel: _AttentionFit[Rows, Model], system: str) -> list[Spread]:
    """One (heads, kv heads) out, of every second."""
    rows = kernel.read_rows()[system]
    sizes, logs = list[float](), list[float]()
    for out in attention_folds(rows)[PAIRS]:
        model, left = kernel.fit(rows.only(~out), *kernel.FACTS[system]), rows.only(out)
        sizes += left.attended.tolist()
        logs += np.log(left.time_s / kernel.predict(model, left)).tolist()
    source = f"measured: {kernel.TABLE}.csv, {len(logs)} rows, each fitted without its (heads, kv heads)"
    return by_regime(kernel.PART, sizes, logs, KEY_REGIMES, source)


@cache
def attention_moved(kernel: _AttentionFit[Rows, Model], same_chip: bool) -> list[Spread]:
    """H100 and H200 from each other, or every GPU from every other but for these."""
    tables, models = kernel.read_rows(), kernel.fit_all()
    sizes, logs = list[float](), list[float]()
    first = [system for system in tables if SYSTEMS[system] in FIRST]
    for system, lender in product(first, first):
        if lender == system or ({lender, system} == {"h100_sxm", "h200_sxm"}) != same_chip:
            continue
        moved, rows = models[lender].moved_to(*kernel.FACTS[system]), tables[system]
        left = rows.only(np.arange(len(rows)) % THIN == 0)
        sizes += left.attended.tolist()
        logs += np.log(left.time_s / kernel.predict(moved, left)).tolist()
    whose = "H100 and H200, the same chip," if same_chip else "GPUs of other chips"
    source = f"assumed: as {whose} are off from each other"
    return by_regime(kernel.PART, sizes, logs, KEY_REGIMES, source, centred=True)


# --- element-wise kernels ---


@cache
def elementwise_rows() -> dict[tuple[str, str], fit_elementwise.Sample]:
    """(GPU, operator) -> rows of what has been timed as engines run it."""
    vidur = fit_elementwise.read_vidur()
    found = {(gpu, op): rows for (gpu, op), rows in vidur.items() if op in ("rope", "embedding", "residual_add")}
    return {**found, ("h100-sxm", "add_rms_norm"): fit_elementwise.read_tokenweave()}


def elementwise_left_out(model: ElementwiseModel) -> list[Spread]:
    """The operators whose lines are fitted, one (model, TP degree) out; a share bounded by the stream's stays so."""
    sizes, logs = list[float](), list[float]()
    for (gpu, op), rows in elementwise_rows().items():
        if gpu != model.gpu:
            continue
        bandwidth = model.memory_bandwidth_bytes_per_s
        for shape in np.unique(rows.shape):
            out = rows.shape == shape
            rest = fit_elementwise.Sample(rows.moved_bytes[~out], rows.time_s[~out], rows.shape[~out])
            line, whole = fit_elementwise.fit(rest, bandwidth), fit_elementwise.fit(rows, bandwidth)
            chosen = model.costs[op].efficiency
            share = min(line.efficiency, chosen) if chosen < whole.efficiency - 1e-3 else line.efficiency
            seconds = line.floor_s + rows.moved_bytes[out] / (bandwidth * share)
            sizes += rows.moved_bytes[out].tolist()
            logs += np.log(rows.time_s[out] / seconds).tolist()
    source = f"measured: {len(logs)} rows of vidur and TokenWeave, each fitted without its (model, tp)"
    return by_regime("elementwise", sizes, logs, BYTE_REGIMES, source)


def elementwise_moved(models: Mapping[str, ElementwiseModel]) -> list[Spread]:
    """A100 and H100 from each other. With the A40 it would be three times as wide, but no GPU takes shares across
    kinds of memory.
    """
    other = {"a100-sxm": "h100-sxm", "h100-sxm": "a100-sxm"}
    sizes, logs = list[float](), list[float]()
    for (gpu, op), rows in elementwise_rows().items():
        if gpu in other:
            moved = models[other[gpu]].moved_to(gpu, models[gpu].memory_bandwidth_bytes_per_s)
            sizes += rows.moved_bytes.tolist()
            logs += [float(np.log(s / moved.time_s(op, b))) for b, s in zip(rows.moved_bytes, rows.time_s, strict=True)]
    source = "assumed: as A100 and H100 are off from each other's shares"
    return by_regime("elementwise", sizes, logs, BYTE_REGIMES, source, centred=True)


# --- whole prefills ---


@dataclass(frozen=True)
class Prefills:
    """log(measured / predicted) of published prefills, (P,): each row out, and by the other GPU's quantities."""

    keys: tuple[tuple[str, int], ...]  # table and row
    left_out: Floats
    stand_in: Floats

    def spread(self, but: tuple[str, int] | None = None) -> Spread:
        """Of all, or of all but one row."""
        kept = [log for key, log in zip(self.keys, self.left_out, strict=True) if key != but]
        return spread("prefill", kept, f"measured: {len(kept)} prefills on H100 and A100, each fitted without it")


def prefills(
    fits: Mapping[str, fit_engine.EngineFit], bare: Mapping[str, GpuProfile], fabrics: Mapping[str, FabricProfile]
) -> Prefills:
    """`bare`: the GPUs before ceilings and gaps were fitted. By the other's: its gap, its share of the longest
    products.
    """
    keys, left_out, stand_in = list[tuple[str, int]](), list[float](), list[float]()
    machine = {"h100-sxm": "h100-nvlink", "a100-sxm": "a100-nvlink"}
    applied = {gpu: fit.applied(bare[gpu]) for gpu, fit in fits.items()}
    for gpu, fit in fits.items():
        (other,) = fits.keys() - {gpu}
        share = applied[other].sustained_flops_per_s["bf16"].value / bare[other].sustained_flops_per_s["bf16"].value
        ceilings = {p: Quantity(share * q.value, "assumed: trial") for p, q in bare[gpu].sustained_flops_per_s.items()}
        moved = replace(bare[gpu], sustained_flops_per_s=ceilings, kernel_gap_s=applied[other].kernel_gap_s)
        for number, grid in enumerate(fit.grids):
            keys += [(p.table, p.row) for p in grid.prefills]
            left_out += (-np.log1p(fit.leave_one_out(number))).tolist()
            for p in grid.prefills:
                stand_in.append(float(np.log(p.seconds / fit_engine.predicted_s(p, moved, fabrics[machine[gpu]]))))
    return Prefills(tuple(keys), np.array(left_out), np.array(stand_in))


def gap(fit: fit_engine.EngineFit) -> Spread:
    """The gap fitted again without each prefill."""
    grid = fit_engine.GAP_GRID_S
    again = [
        grid[fit_engine.EngineFit.of(fit.grids, (number, i)).gap]
        for number, one in enumerate(fit.grids)
        for i in range(len(one.prefills))
    ]
    source = f"measured: fitted without each of {len(again)} prefills"
    return spread("gap", np.log(np.array(again) / grid[fit.gap]), source)


def carried_gap(fits: Mapping[str, fit_engine.EngineFit]) -> Spread:
    """The two gaps known, each off from their mean."""
    known = np.array([fit_engine.GAP_GRID_S[fit.gap] for fit in fits.values()])
    logs = np.log(known / known.mean())
    source = f"assumed: as the gaps of {' and '.join(fits)} are off from their mean"
    return Spread("gap", None, round(float(logs.min()), 4), 0.0, round(float(logs.max()), 4), len(logs), source)


# --- codec kernels ---


def codec_logs(rows: Sequence[fit_codec.Row]) -> Floats:
    """log of what encoding added over what a fit without the row says it adds, (R,)."""
    logs = []
    for i, row in enumerate(rows):
        rest = fit_codec.fit([*rows[:i], *rows[i + 1 :]])
        logs.append(np.log((row.seconds - row.wire_s) / (rest.seconds([row])[0] - row.wire_s)))
    return np.array(logs)


def codec_measured(logs: Floats) -> Spread:
    """On the MI300X."""
    return spread("codec", logs, f"measured: {fit_codec.TABLE}.csv, {len(logs)} rows, each fitted without it")


def codec_assumed(logs: Floats, rows: Sequence[fit_codec.Row], gpu: GpuProfile) -> Spread:
    """The MI300X as if its encoded buffers were assumed to be read as a gated activation is, as on other GPUs."""
    rate = load_gpu("mi300x").memory_bandwidth_bytes_per_s * gpu.elementwise.costs["silu_mul"].efficiency
    guess = fit_codec.CodecFit(gpu.codec.fused_pass_s.value, rate)
    off = [np.log((row.seconds - row.wire_s) / (guess.seconds([row])[0] - row.wire_s)) for row in rows]
    high, low = spread("codec", off, "assumed: x").high, codec_measured(logs).low
    source = "assumed: up as codec kernels on MI300X would have been off by the same assumptions, down as its own fit"
    return Spread("codec", None, low, 0.0, high, len(rows), source)


# --- GPUs ---


def with_gpu_spreads(
    gpus: Mapping[str, GpuProfile],
    bare: Mapping[str, GpuProfile],
    fabrics: Mapping[str, FabricProfile],
    elementwise: Mapping[str, ElementwiseModel],
    codecs: Mapping[str, Spread],
) -> dict[str, GpuProfile]:
    """The GPU profiles with their spreads. `bare`: before ceilings and gaps were fitted; `codecs`: measured ones."""
    fits = fit_engine.fits(bare, fabrics)
    whole = prefills(fits, bare, fabrics)
    carried = spread(
        "prefill", whole.stand_in, "assumed: as H100 and A100 are off by each other's ceiling and gap", centred=True
    )
    codec_rows = fit_codec.rows(fabrics["mi300x-xgmi"])
    logs = codec_logs(codec_rows)
    found = {}
    for name, gpu in gpus.items():
        spreads = [s for dtype in gpu.gemm for s in _gemm(name, dtype, {n: g.gemm for n, g in gpus.items()})]
        spreads += [*_attention(fit_attention, name), *_attention(fit_decode, name)]
        measured = any(gpu_ == name for gpu_, _ in elementwise_rows())
        spreads += elementwise_left_out(gpu.elementwise) if measured else elementwise_moved(elementwise)
        spreads += [gap(fits[name]), whole.spread()] if name in fits else [carried_gap(fits), carried]
        if name == "mi300x":
            spreads.append(codec_measured(logs))
        else:
            assumed = codec_assumed(logs, codec_rows, gpus["mi300x"])
            spreads += [codecs.get(name, assumed), replace(assumed, part="codec fused")]
        found[name] = replace(gpu, spreads=tuple(spreads))
    return found


def _gemm(gpu: str, dtype: str, models: Mapping[str, Mapping[str, GemmModel]]) -> list[Spread]:
    if gpu not in NEAREST_KERNELS:
        return gemm_left_out(gpu, dtype)
    return gemm_other_chip(dtype) if gpu in OTHER_CHIP else gemm_same_chip(models, dtype)


def _attention(kernel: _AttentionFit[Rows, Model], gpu: str) -> list[Spread]:
    if gpu not in NEAREST_KERNELS:
        return attention_left_out(kernel, next(system for system, ours in SYSTEMS.items() if ours == gpu))
    return attention_moved(kernel, gpu not in OTHER_CHIP)
