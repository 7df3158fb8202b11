"""GEMM, attention and whole prefills against the published rows. In-sample: the shipped profiles, as a user meets them.

Left out: fitted again without the rows by the functions that calibration uses.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.sim.costs.attention import AttentionModel
from thinwire.sim.costs.gemm import GemmModel
from thinwire.sim.costs.profile import GpuProfile, Profile
from thinwire.sim.costs.shipped import load_profile, profile_of
from thinwire.sim.costs.spread import Spread, find, sum_interval
from thinwire.sim.predict import predict
from thinwire.sim.report import Prediction
from thinwire.sim.workload import Prompt
from thinwire.topologies.load import load_cluster, load_gpu
from thinwire.validation.fits import attention as fit_attention
from thinwire.validation.fits import decode as fit_decode
from thinwire.validation.fits import engine as fit_engine
from thinwire.validation.fits import gemm as fit_gemm
from thinwire.validation.fits import spreads
from thinwire.validation.fits.engine import EngineFit, Prefill
from thinwire.validation.targets.targets import Entry, Limits, Point, Section

GEMM_LIMITS = Limits(median=0.04)
ATTENTION_LIMITS = Limits(median=0.06)
PREFILL_LIMITS = Limits(median=0.05, worst=0.10)
TRTLLM_LIMITS = Limits(median=0.10)
PREFILL_TOKENS = (1024, 32768)  # the range; the row beyond it is reported
ROW_FOLDS, SHAPE_FOLDS = 9, 5  # every so-manieth fold of the GEMM rows unless --full: a fit takes half a second
QUICK_KINDS, FULL_KINDS = ("pair", "length"), ("row", "pair", "length")
KIND = {"row": "one row out", "pair": "one (heads, kv heads) out", "length": "one length out"}

Floats = NDArray[np.float64]


@cache
def profile(machine: str) -> Profile:
    """The shipped profile of a catalog machine."""
    return load_profile(load_cluster(machine))


def shipped_gpu(gpu: str) -> GpuProfile:
    """The shipped profile of a catalog GPU, on whatever machine."""
    return profile_of(load_gpu(gpu))


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us"


# --- GEMM ---


def gemm(full: bool = False) -> Section:
    """Every row of gemm.csv in-sample; rows and whole (n, k) left out, a sample of them unless `full`."""
    entries, sums = list[Entry](), list[Point]()
    for (gpu, dtype), rows in fit_gemm.read_rows().items():
        shipped = shipped_gpu(gpu).gemm[dtype]
        in_sample = {row: float(np.log(row.time_s / shipped.time_s(row.m, row.n, row.k))) for row in rows}
        row_folds = fit_gemm.row_folds(rows, 1 if full else ROW_FOLDS)
        shape_folds = fit_gemm.shape_folds(rows, 1 if full else SHAPE_FOLDS)
        facts = fit_gemm.facts(gpu, dtype)
        for key, how, logs in (
            ("in-sample", "in-sample", in_sample),
            ("row", "one row of each (n, k) out", fit_gemm.leave_one_out(rows, facts, dtype, row_folds)),
            ("shape", "one (n, k) out", fit_gemm.leave_one_out(rows, facts, dtype, shape_folds)),
        ):
            known = () if key == "in-sample" else shipped_gpu(gpu).spreads
            points = [_gemm_point(shipped, gpu, dtype, row, log, known) for row, log in logs.items()]
            entries.append(Entry(f"gemm.{gpu}.{dtype}.{key}", f"{gpu} {dtype}", how, tuple(points), GEMM_LIMITS))
            if key == "shape":
                sums += _sums(logs, f"{gpu} {dtype}", dtype, known)
    entries.append(Entry("gemm.sums", "sums over (n, k)", "one (n, k) out", tuple(sums), gated=False))
    sampled = "All are left out in turn."
    if not full:
        sampled = f"Here, every {ROW_FOLDS}th fold of rows and every {SHAPE_FOLDS}th shape; `--full` leaves out all."
    return Section(
        "gemm",
        "GEMM",
        "<= 4 % median, in-sample and left out",
        f"""
        Rows: gemm.csv, the projections of Llama 2 and 3 at TP 1 to 8, m from 64 to 32,768. In-sample: the shipped
        profile.

        Left out: the whole model, roofline and correction, is fitted again without the fold. A fold of rows takes
        one m from each (n, k), a fold of shapes all m of one. {sampled}

        Sums: the left-out products of one m one after another, as a layer runs some. Each is predicted by a fit
        without its own (n, k); not asked for, but intervals of prefills rest on how such errors add up.
        """,
        tuple(entries),
    )


def _sums(logs: Mapping[fit_gemm.Row, float], group: str, dtype: str, known: Sequence[Spread]) -> Iterator[Point]:
    """All left-out products of one m after each other."""
    by_m: dict[int, list[tuple[float, float]]] = {}
    for row, log in logs.items():
        by_m.setdefault(row.m, []).append((row.time_s, row.time_s / float(np.exp(log))))
    for m, times in sorted(by_m.items()):
        measured_s, predicted_s = (sum(column) for column in zip(*times, strict=True))
        spread = find(known, m, f"gemm {dtype}")
        interval = sum_interval(predicted_s, [(seconds, spread) for _, seconds in times])
        label = f"{group} m={m}, {len(times)} products"
        yield Point(group, regime("m", m), label, measured_s, predicted_s, f"{len(times)} products", interval)


def regime(what: str, tokens: int) -> str:
    """The size regime that a kernel of so many tokens is counted in."""
    return f"{what} <= 512" if tokens <= 512 else f"{what} 513-4096" if tokens <= 4096 else f"{what} > 4096"


def _gemm_point(
    shipped: GemmModel, gpu: str, dtype: str, row: fit_gemm.Row, log_ratio: float, known: Sequence[Spread] = ()
) -> Point:
    """`known`: spreads, where the row has an interval."""
    predicted = row.time_s / float(np.exp(log_ratio))
    roofline_s = shipped.base.time_s(shipped.gpu, dtype, row.m, row.n, row.k)
    return Point(
        f"{gpu} {dtype}",
        regime("m", row.m),
        f"{gpu} {dtype} m={row.m} n={row.n} k={row.k}",
        row.time_s,
        predicted,
        f"roofline {_us(roofline_s)}, corrected by {predicted / roofline_s:.2f}",
        sum_interval(predicted, [(predicted, find(known, row.m, f"gemm {dtype}"))]) if known else None,
    )


# --- attention ---


def attention(full: bool = False) -> Section:
    """Every row of attention_prefill_bf16.csv in-sample and left out; one row at a time only if `full`."""
    entries = []
    for system, rows in sorted(fit_attention.read_rows().items()):
        gpu = fit_attention.FACTS[system][0]
        shipped = shipped_gpu(gpu).attention
        kinds = FULL_KINDS if full else QUICK_KINDS
        found = [("in-sample", "in-sample", fit_attention.predict(shipped, rows))]
        found += [(kind, KIND[kind], attention_left_out(system, rows, kind)) for kind in kinds]
        for key, how, predicted in found:
            points = _attention_points(gpu, rows, shipped, predicted, attention_spreads(gpu, rows, key))
            entries.append(Entry(f"attention.{gpu}.{key}", gpu, how, points, ATTENTION_LIMITS))
    return Section(
        "attention",
        "Prefill attention",
        "<= 6 % median, in-sample and left out",
        f"""
        Rows: attention_prefill_bf16.csv, causal, head_dim 128. In-sample: the shipped profile.

        Left out: fitted again, both steps, without all rows of one (heads, kv heads) or of one sequence length;
        {"and without each row alone." if full else "with `--full` also without each row alone."}
        """,
        tuple(entries),
    )


def attention_left_out(system: str, rows: fit_attention.Rows, kind: str) -> Floats:
    """Seconds of each row, by a model fitted without its fold. Refits without one row start from the fit to all."""
    facts = fit_attention.FACTS[system]
    start = fit_attention.fit_physical(rows, facts[1:]) if kind == "row" else fit_attention.START
    seconds = np.zeros(len(rows))
    for out in fit_attention.folds(rows, kind):
        model = fit_attention.fit(rows.only(~out), *facts, start)
        seconds[out] = fit_attention.predict(model, rows.only(out))
    return seconds


def attention_spreads(
    gpu: str, rows: fit_attention.Rows | fit_decode.Rows, kind: str, part: str = fit_attention.PART
) -> list[Spread | None]:
    """The shipped spread for each row but those that it comes from, and in-sample for none."""
    behind = np.any(spreads.attention_folds(rows)[spreads.PAIRS], axis=0)
    known = shipped_gpu(gpu).spreads
    return [
        None if kind == "in-sample" or out else find(known, tokens, part)
        for tokens, out in zip(rows.attended, behind, strict=True)
    ]


def _attention_points(
    gpu: str, rows: fit_attention.Rows, shipped: AttentionModel, predicted: Floats, known: Sequence[Spread | None]
) -> tuple[Point, ...]:
    logs = np.log([getattr(shipped, name) for name in fit_attention.NAMES])
    facts = shipped.peak_flops_per_s, shipped.memory_bandwidth_bytes_per_s, shipped.sm_count
    floor, kernel, bound = fit_attention.parts(logs, rows, *facts)
    points = []
    for i in range(len(rows)):
        batch, length, heads, kv = (int(c[i]) for c in (rows.batch, rows.length, rows.heads, rows.kv_heads))
        physical, seconds, spread = max(float(kernel[i]), float(bound[i])), float(predicted[i]), known[i]
        points.append(
            Point(
                gpu,
                regime("length", length),
                f"{gpu} batch={batch} length={length} heads={heads}/{kv}",
                float(rows.time_s[i]),
                seconds,
                f"floor {_us(floor)}, kernel {_us(physical)}, corrected by {(predicted[i] - floor) / physical:.2f}",
                None if spread is None else sum_interval(seconds, [(seconds, spread)]),
            )
        )
    return tuple(points)


# --- whole prefills ---


def predicted(prefill: Prefill, known: Profile | None = None) -> Prediction:
    """thinwire's prediction of a published prefill, by the shipped profiles unless others are given."""
    cluster = load_cluster(prefill.machine).take(prefill.tp)
    prompt = Prompt(1, prefill.input_tokens, "fp8" if prefill.weights == "fp8" else "bf16")
    model = load_model(prefill.model)
    return predict(model, cluster, scheme(prefill.scheme), prompt, known or profile(prefill.machine))


@cache
def prefill_spreads() -> spreads.Prefills:
    """What published prefills are off by, each left out, and by the other GPU's ceiling and gap."""
    found = {machine: profile(machine) for machine in ("8xh100-nvlink", "8xa100-nvlink")}
    bare = {p.gpu.name: _without_engine(p.gpu) for p in found.values()}
    return spreads.prefills(engine_fits(), bare, {p.fabric.name: p.fabric for p in found.values()})


def _unseen(prefill: Prefill) -> Profile:
    """The shipped profile with the spread of the other prefills."""
    shipped, own = profile(prefill.machine), prefill_spreads().spread((prefill.table, prefill.row))
    rest = tuple(s for s in shipped.gpu.spreads if s.part != "prefill")
    return replace(shipped, gpu=replace(shipped.gpu, spreads=(*rest, own)))


def _prefill_point(prefill: Prefill, error: float | None = None, held_out: bool = False) -> Point:
    """`error`: of a left-out fit, predicted over measured less one; None takes the shipped profile. A row left out
    or held out has an interval.
    """
    found = predicted(prefill, None if error is None else _unseen(prefill))
    seconds = found.ttft_s if error is None else prefill.seconds * (1 + error)
    low_s, high_s = (bound * seconds / found.ttft_s for bound in (found.interval.low_s, found.interval.high_s))
    b = found.breakdown
    exposed_s = max(0.0, b.exposed_communication_s)  # a difference: without exchanges it may round below nothing
    largest = ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in list(found.timeline.by_name().items())[:4])
    return Point(
        prefill.machine,
        f"{prefill.input_tokens} tokens",
        f"{prefill.model} {prefill.weights} TP{prefill.tp} {prefill.scheme}, {prefill.input_tokens} tokens",
        prefill.seconds,
        seconds,
        f"compute {b.compute_s * 1e3:.1f} ms, exposed communication {exposed_s * 1e3:.1f}; {largest}",
        None if error is None and not held_out else (low_s, high_s),
    )


@cache
def engine_fits() -> dict[str, EngineFit]:
    """Ceilings and gaps fitted anew to the shipped kernels and fabrics, so that prefills can be left out."""
    found = {machine: profile(machine) for machine in ("8xh100-nvlink", "8xa100-nvlink")}
    gpus = {p.gpu.name: _without_engine(p.gpu) for p in found.values()}
    return fit_engine.fits(gpus, {p.fabric.name: p.fabric for p in found.values()})


def _without_engine(gpu: GpuProfile) -> GpuProfile:
    limits = {precision: fit_engine.longest_products(model) for precision, model in gpu.gemm.items()}
    return replace(gpu, sustained_flops_per_s=limits, kernel_gap_s=fit_engine.NO_GAP)


def _grid(gpu: str, prefills: Sequence[Prefill]) -> int:
    return next(i for i, grid in enumerate(engine_fits()[gpu].grids) if grid.prefills == tuple(prefills))


def _left_out(gpu: str, prefills: Sequence[Prefill], keep: Iterable[int]) -> tuple[Point, ...]:
    errors = engine_fits()[gpu].leave_one_out(_grid(gpu, prefills))
    return tuple(_prefill_point(prefills[i], float(errors[i])) for i in keep)


def tokenweave() -> Section:
    """Prefill of Llama-3.3-70B on 8x H100: `no_ar` against `none`, as served against `bf16`."""
    silent, served = fit_engine.tokenweave("no_ar"), fit_engine.tokenweave("baseline_multimem")
    inside = [i for i, p in enumerate(silent) if PREFILL_TOKENS[0] <= p.input_tokens <= PREFILL_TOKENS[1]]
    outside = [i for i in range(len(silent)) if i not in inside]
    none, bf16 = "no_ar against `none`", "served against `bf16`"
    entries = [
        Entry(
            "prefill.no_ar.in-sample",
            none,
            "in-sample",
            tuple(_prefill_point(silent[i]) for i in inside),
            PREFILL_LIMITS,
        ),
        Entry("prefill.no_ar.row", none, "one row out", _left_out("h100-sxm", silent, inside), PREFILL_LIMITS),
        Entry(
            "prefill.served.held-out",
            bf16,
            "held out",
            tuple(_prefill_point(served[i], held_out=True) for i in inside),
            PREFILL_LIMITS,
        ),
        Entry("prefill.no_ar.64k", f"{none}, 64k", "one row out", _left_out("h100-sxm", silent, outside)),
        Entry(
            "prefill.served.64k",
            f"{bf16}, 64k",
            "held out",
            tuple(_prefill_point(served[i], held_out=True) for i in outside),
        ),
    ]
    return Section(
        "prefill",
        "Llama-3.3-70B prefill",
        "TP8 on 8x H100, <= 5 % median, <= 10 % worst from 1k to 32k tokens",
        """
        Rows: tokenweave_prefill_8xh100.csv. The ceiling on GEMM throughput and the gap between kernels are fitted
        to the `no_ar` column together with the TensorRT-LLM rows on H100; left out: fitted again without the row.

        The served column calibrated nothing; its all-reduces are timed by kernel benchmarks of the same repository.
        """,
        tuple(entries),
    )


def trtllm() -> Section:
    """TensorRT-LLM v0.9 first-token latency at batch 1 on A100 and H100."""
    rows = fit_engine.trtllm()
    by_gpu = {
        "a100-sxm": [p for p in rows if p.machine == "8xa100-nvlink"],
        "h100-sxm": [p for p in rows if p.machine == "8xh100-nvlink"],
    }
    entries = []
    for gpu, prefills in by_gpu.items():
        in_sample = tuple(_prefill_point(p) for p in prefills)
        entries.append(Entry(f"trtllm.{gpu}.in-sample", gpu, "in-sample", in_sample, TRTLLM_LIMITS))
        left_out = _left_out(gpu, prefills, range(len(prefills)))
        entries.append(Entry(f"trtllm.{gpu}.row", gpu, "one row out", left_out, TRTLLM_LIMITS))
    return Section(
        "trtllm",
        "TensorRT-LLM batch 1",
        "on A100 and H100, <= 10 % median",
        """
        Rows: ttft_trtllm_batch1.csv, first-token latency in the engine, TP 1 to 8. The ceiling and the gap of each
        GPU are fitted to them (on H100 together with tokenweave's `no_ar`); left out: fitted again without the row.
        """,
        tuple(entries),
        (
            "Falcon 180B (3 rows): another architecture, attention and an MLP without a gate side by side. "
            "thinwire reads gated decoders of the Llama kind and refuses its config.json.",
        ),
    )
