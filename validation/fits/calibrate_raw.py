"""A profile from measurements of our own: what `make gpu` wrote, fitted by the fits that the published tables get.

Each part of the profile is fitted to its step's rows and says how far off it is: on those rows, with some left out,
and, where thinwire ships a profile of this GPU, how far off that one is on them. The last is the honest test of what is
shipped: it never saw these rows. A part that was not measured is taken from the shipped profile, and an assumption says
so. Times are those in CUDA graphs, which is what the published kernel tables hold too.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from statistics import median

import numpy as np
from numpy.typing import NDArray

from thinwire.edge.words import place, shown
from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.sim.costs.attention import AttentionModel
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.decode_attention import DecodeAttentionModel
from thinwire.sim.costs.elementwise import OPS, ElementwiseModel, OpCost
from thinwire.sim.costs.gemm import GemmModel
from thinwire.sim.costs.profile import CodecCost, FabricProfile, GpuProfile, Profile, Quantity
from thinwire.sim.costs.spread import ANOTHER_HOST, Spread
from thinwire.sim.shapes import Kernel
from thinwire.sim.workload import Prompt, build
from thinwire.topologies.cluster import Gpu
from thinwire.validation.campaign.shapes import FUSED
from thinwire.validation.fits import attention as fit_attention
from thinwire.validation.fits import codec as fit_codec
from thinwire.validation.fits import elementwise as fit_elementwise
from thinwire.validation.fits import engine as fit_engine
from thinwire.validation.fits import gemm as fit_gemm
from thinwire.validation.fits.raw_file import Raw, is_number, shipped_profile

Floats = NDArray[np.float64]

GEMM_ROWS, ATTENTION_ROWS, OP_ROWS, CODEC_ROWS = 60, 60, 4, 8
"""Fewer rows than these leave more parameters than facts: the part counts as not measured."""
DECODE_LENDER = "l40s"  # GPUs that can be measured and have no shipped profile are of its kind: A10, A40
GEMM_FOLDS = 4  # every so-manieth fold of rows is left out: a fit takes a third of a second
SETTLED, SETTLED_S = 0.5, 2.0  # the sustained rate is that of the run's second half, of a run of two seconds at least
HOST_BOUND = 0.9  # a layer whose launches take this share of its time waits for the host, not for its kernels
FP8 = "fp8 products hold a cast of their activation from bf16, in a kernel of its own, and scales per tensor"


def profile_of(raw: Raw) -> GpuProfile:
    """Fit every part; `raw.parts` and `raw.assumptions` say how well and what is missing."""
    gemm = {}
    for precision in sorted(raw.gpu.peak_flops_per_s):
        model = gemm_model(raw, precision)
        if model is not None:
            gemm[precision] = model
    if "fp8" in gemm and gemm["fp8"].source.startswith("measured: " + raw.path.name):
        raw.assumptions.append(FP8)
    attention, elementwise = attention_model(raw), elementwise_model(raw)
    codec = codec_cost(raw)
    kernels = GpuProfile(
        name=f"{raw.gpu.name}-{raw.date}",
        gpu=raw.gpu.name,
        gemm=gemm,
        attention=attention,
        decode_attention=decode_attention_model(raw),
        elementwise=elementwise,
        sustained_flops_per_s={precision: ceiling(raw, precision, model) for precision, model in gemm.items()},
        kernel_gap_s=Quantity(0.0, "assumed: until it is fitted"),
        codec=codec,
    )
    gap = layers(raw, kernels)
    return replace(
        kernels,
        kernel_gap_s=gap,
        assumptions=tuple(raw.assumptions),
        fits=tuple(part.fitted for part in raw.parts),
        spreads=borrowed(raw.shipped.spreads) if raw.shipped else (),
    )


def borrowed(spreads: Iterable[Spread]) -> tuple[Spread, ...]:
    """The shipped profile's, until parts measured here are left out by size as its own are; but for what other hosts
    differ by, for the host is the one that is measured.
    """
    return tuple(
        replace(s, source=f"assumed: as of the shipped profile ({s.source.removeprefix('assumed: ')})", bias=0.0)
        for s in spreads
        if s.part != ANOTHER_HOST
    )


# --- the parts ---


def gemm_model(raw: Raw, precision: str) -> GemmModel | None:
    """The products of one precision; None where neither measured nor shipped (an A100 has no fp8)."""
    step = f"gemm-{precision}"
    found = {}
    for number, row in raw.rows(step, "m", "n", "k", "seconds_graph"):
        found[number] = fit_gemm.Row(int(row["m"]), int(row["n"]), int(row["k"]), row["seconds_graph"])
    shipped = raw.shipped.gemm.get(precision) if raw.shipped else None
    if len(found) < GEMM_ROWS:
        if precision != "bf16" and shipped is None:
            return None
        return raw.missing(f"the cost of {precision} products", f"has {len(found)} rows of {step}").gemm[precision]
    rows, facts = sorted(found.values(), key=lambda row: (row.n, row.k, row.m)), fit_gemm.facts(raw.gpu.name, precision)
    model = fit_gemm.fit_gemm(rows, facts, precision, raw.source(len(rows)))

    def errors(logs: Floats) -> Floats:
        return np.asarray(np.exp(-logs) - 1)

    folds = fit_gemm.row_folds(rows, GEMM_FOLDS)
    left_out = np.array(list(fit_gemm.leave_one_out(rows, facts, precision, folds).values()))
    raw.add(
        f"gemm {precision}",
        list(found),
        errors(fit_gemm.residuals(model, rows)),
        errors(fit_gemm.residuals(shipped, rows)) if shipped else None,
        errors(left_out),
    )
    return model


def attention_model(raw: Raw) -> AttentionModel:
    """Prefill attention: of each shape the faster backend, since an engine takes that."""
    names = ("batch", "length", "heads", "kv_heads")
    fastest: dict[tuple[int, ...], tuple[int, float]] = {}
    for number, row in raw.rows("attention", *names, "head_dim", "seconds_graph"):
        shape, seconds = tuple(int(row[name]) for name in names), row["seconds_graph"]
        if row["head_dim"] == fit_attention.HEAD_DIM and (shape not in fastest or seconds < fastest[shape][1]):
            fastest[shape] = number, seconds
    if len(fastest) < ATTENTION_ROWS:
        return raw.missing("the cost of attention", f"has {len(fastest)} shapes of attention").attention
    table = np.array([(*shape, seconds) for shape, (_, seconds) in fastest.items()], dtype=float)
    rows = fit_attention.Rows(*table.T)
    facts = (raw.gpu.peak_flops_per_s["bf16"], raw.gpu.memory_bandwidth_bytes_per_s, raw.gpu.sm_count)
    model = fit_attention.fit(rows, raw.gpu.name, *facts, source=raw.source(len(rows)))
    raw.add(
        "attention",
        [number for number, _ in fastest.values()],
        fit_attention.predict(model, rows) / rows.time_s - 1,
        fit_attention.predict(raw.shipped.attention, rows) / rows.time_s - 1 if raw.shipped else None,
        fit_attention.left_out(rows, facts, "pair"),
    )
    return model


def decode_attention_model(raw: Raw) -> DecodeAttentionModel:
    """Of the shipped profile, for `make gpu` times prefill alone; where none is shipped, the lender's at this GPU's
    facts.
    """
    if raw.shipped is not None:
        return raw.missing("the cost of decode attention", "times none").decode_attention
    lender, gpu = shipped_profile(DECODE_LENDER), raw.gpu
    assert lender is not None, f"{DECODE_LENDER} is shipped"
    raw.assumptions.append(
        f"decode attention takes {DECODE_LENDER}'s efficiencies, at this GPU's peaks: {raw.path.name} times none"
    )
    return lender.decode_attention.moved_to(gpu.name, gpu.memory_bandwidth_bytes_per_s, gpu.sm_count)


def elementwise_model(raw: Raw) -> ElementwiseModel:
    """A line for each operator, from its fused form where several kernels of plain torch do the same."""
    bandwidth = raw.gpu.memory_bandwidth_bytes_per_s
    rows = list(raw.rows("elementwise", "op", "how", "width", "bytes", "seconds_graph"))
    costs: dict[str, OpCost] = {}
    for op in OPS:
        how = "compiled" if op in FUSED else "eager"
        found = {n: (r["bytes"], r["seconds_graph"], r["width"]) for n, r in rows if (r["op"], r["how"]) == (op, how)}
        if len(found) < OP_ROWS:
            shipped = raw.missing(f"the cost of {op}", f"has {len(found)} rows of it {how}").elementwise
            costs[op] = shipped.costs[op]
            continue
        sample = fit_elementwise.sample_of(list(found.values()))
        fit = fit_elementwise.fit(sample, bandwidth, rounding_s=0.0)
        costs[op] = fit_elementwise.cost_of(fit.floor_s, fit.efficiency, raw.source(len(found)))

        def errors(cost: OpCost, sample: fit_elementwise.Sample = sample) -> Floats:
            predicted = cost.floor_s + sample.moved_bytes / (bandwidth * cost.efficiency)
            return np.asarray(predicted / sample.time_s - 1)

        raw.add(op, list(found), errors(costs[op]), errors(raw.shipped.elementwise.costs[op]) if raw.shipped else None)
    return ElementwiseModel(raw.gpu.name, bandwidth, costs)


def codec_cost(raw: Raw) -> CodecCost:
    """Codec kernels as launches of their own. Fused into a collective they cannot be timed on one GPU."""
    return codec_rows_fitted(raw)[0]


def codec_rows_fitted(raw: Raw) -> tuple[CodecCost, Floats]:
    """The same, and relative errors of rows whose codec the fit did not see, (R,), none where there is but one."""
    columns = ("kernel", "codec", "bytes_read", "bytes_written", "seconds_graph")
    rows = [
        fit_codec.KernelRow.of(
            number, row["kernel"], row["codec"], row["bytes_read"], row["bytes_written"], row["seconds_graph"]
        )
        for number, row in raw.rows("codec", *columns)
        if row["kernel"] in fit_codec.TENSOR_SIDE
    ]
    if len(rows) < CODEC_ROWS or len({row.kernel for row in rows}) < 2:
        return raw.missing("the cost of codec kernels", f"has {len(rows)} rows of codec").codec, np.zeros(0)
    bandwidth, measured = raw.gpu.memory_bandwidth_bytes_per_s, np.array([row.seconds for row in rows])
    fit = fit_codec.fit_kernels(rows, bandwidth)
    fitted, folds = fit.seconds(rows) / measured - 1, sorted({row.codec for row in rows})
    shipped_errors, left_out = None, np.zeros(len(rows))
    if raw.shipped:
        costs = raw.shipped.codec
        theirs = fit_codec.KernelFit(
            costs.separate_pass_s.value, costs.local_share.value * bandwidth, costs.wire_share.value * bandwidth
        )
        shipped_errors = theirs.seconds(rows) / measured - 1
    for codec in folds:
        rest, own = [r for r in rows if r.codec != codec], [i for i, r in enumerate(rows) if r.codec == codec]
        if len(rest) < CODEC_ROWS:
            folds = []
            break
        left_out[own] = fit_codec.fit_kernels(rest, bandwidth).seconds([rows[i] for i in own]) / measured[own] - 1
    for kernel in ("", *sorted({row.kernel for row in rows})):
        own = [i for i, row in enumerate(rows) if kernel in ("", row.kernel)]
        raw.add(
            f"codec {kernel}".strip(),
            [rows[i].number for i in own],
            fitted[own],
            None if shipped_errors is None else shipped_errors[own],
            left_out[own] if folds else None,
        )
    source = raw.source(len(rows))
    separate = Quantity(float(f"{fit.pass_s:.3g}"), source)
    fused = Quantity(separate.value, "assumed: as a codec kernel of its own; one GPU cannot time a collective's")
    cost = CodecCost(
        fused_pass_s=raw.shipped.codec.fused_pass_s if raw.shipped else fused,
        separate_pass_s=separate,
        local_share=Quantity(round(fit.local_rate / bandwidth, 4), source),
        wire_share=Quantity(round(fit.wire_rate / bandwidth, 4), source),
    )
    return cost, left_out if folds else np.zeros(0)


def ceiling(raw: Raw, precision: str, model: GemmModel) -> Quantity:
    """What power allows for seconds: the settled rate of a large product."""
    step = f"sustained-{precision}"
    rows = [row for _, row in raw.rows(step) if "flops_per_s" in row]
    for row in rows:
        if not (is_number(row["flops_per_s"], True) and is_number(row.get("at_s"), False)):
            raise ValueError(f"{place(raw.path)}: a row of {step} needs flops_per_s > 0 and at_s >= 0: {shown(row)}")
    last_s = max((row["at_s"] for row in rows), default=0.0)
    shipped = raw.shipped.sustained_flops_per_s.get(precision) if raw.shipped else None
    if last_s < SETTLED_S:
        why = f"holds a product for {last_s:.1f} s, not for {SETTLED_S:g}"
        if shipped is None:
            raw.assumptions.append(
                f"{precision} products sustain the rate of the longest of them: {raw.path.name} {why}"
            )
            return fit_engine.longest_products(model)
        return raw.missing(f"the sustained rate of {precision}", why).sustained_flops_per_s[precision]
    numbers = [number for number, row in raw.rows(step) if row.get("at_s", 0.0) >= SETTLED * last_s]
    settled = np.array([row["flops_per_s"] for row in rows if row["at_s"] >= SETTLED * last_s])
    rate = float(np.median(settled))
    # Time goes as one over the rate, and errors are of times everywhere.
    raw.add(f"sustained {precision}", numbers, settled / rate - 1, settled / shipped.value - 1 if shipped else None)
    return Quantity(round(rate, -9), raw.source(len(settled)))


# --- layers: the gap, and whether the parts add up ---


def layer_kernels(model: str, tp: int, tokens: int) -> tuple[Kernel, ...]:
    """The kernels the simulator counts in a layer, without its all-reduces."""
    layer = build(load_model(model), scheme("none"), Prompt(1, tokens), tp).layers[0]
    return tuple(kernel for op in layer for kernel in op.kernels)


def layers(raw: Raw, kernels: GpuProfile) -> Quantity:
    """The gap between kernels that are launched one by one; beside it, how well the parts add up to a layer.

    The gap is what a layer takes longer launched than in a graph, over the kernels the simulator counts, in layers
    whose host keeps ahead: those of a few tokens wait for Python, and another engine's host is another host.
    """
    columns = ("model", "tp", "tokens", "stand_in", "seconds_graph", "burst_seconds", "host_seconds")
    rows = [(n, r, layer_kernels(r["model"], r["tp"], r["tokens"])) for n, r in raw.rows("layer", *columns)]
    rows = [one for one in rows if one[1]["stand_in"] == "none"]
    if rows:
        measured = np.array([row["seconds_graph"] for _, row, _ in rows])

        def errors(profile: GpuProfile) -> Floats:
            cost = uncapped(profile, raw.gpu)
            return np.asarray(np.array([sum(map(cost, one)) for _, _, one in rows]) / measured - 1)

        shipped = errors(raw.shipped) if raw.shipped else None
        raw.add(
            "layer in a graph, as the sum of its parts", [number for number, _, _ in rows], errors(kernels), shipped
        )
    free = [one for one in rows if one[1]["host_seconds"] < HOST_BOUND * one[1]["burst_seconds"]]
    if not free:
        return raw.missing("the gap between kernels", "has no layer that keeps ahead of its host").kernel_gap_s
    gaps = [max(0.0, row["burst_seconds"] - row["seconds_graph"]) / len(one) for _, row, one in free]
    gap = Quantity(round(median(gaps), 9), raw.source(len(free)))
    launched = np.array([row["burst_seconds"] for _, row, _ in free])
    counts = np.array([len(one) for _, _, one in free])
    graphs = np.array([row["seconds_graph"] for _, row, _ in free])
    ours, gap_s = (graphs + counts * gap.value) / launched - 1, raw.shipped.kernel_gap_s.value if raw.shipped else None
    theirs = None if gap_s is None else (graphs + counts * gap_s) / launched - 1
    raw.add("layer launched, from its graph and the gap", [number for number, _, _ in free], ours, theirs)
    return gap


def uncapped(profile: GpuProfile, gpu: Gpu) -> Callable[[Kernel], float]:
    """Kernel times in a graph without the sustained ceiling: a layer was measured for milliseconds on a cool GPU."""
    peaks = {p: Quantity(gpu.peak_flops_per_s[p], "datasheet: a bound") for p in profile.gemm}
    nothing = FabricProfile("none", protocols=(), baseline={}, libraries={})
    return CostModel(Profile(replace(profile, sustained_flops_per_s=peaks), nothing), gpu, "graph").kernel_s
