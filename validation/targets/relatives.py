"""Leave one GPU out: each measured GPU predicted as if nobody had measured it; then rows of GPUs that nobody fitted."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.costs.spread import find, sum_interval
from thinwire.sim.costs.transfer import RELATIONS
from thinwire.sim.predict import predict
from thinwire.sim.workload import Prompt
from thinwire.topologies.load import load_cluster, load_gpu
from thinwire.validation.fits import spreads
from thinwire.validation.fits.elementwise import MODELS, VIDUR_GPUS
from thinwire.validation.fits.published_tables import rows, select
from thinwire.validation.relatives import left_out
from thinwire.validation.targets.kernels import engine_fits, prefill_spreads, regime, shipped_gpu
from thinwire.validation.targets.targets import Entry, Point, Section

LEAST_TOKENS = 64  # as in gemm.csv
# Served by a machine that the catalog has with another GPU: one GPU of it, since nothing is exchanged at TP 1.
SERVED: Mapping[str, tuple[str, str]] = {
    "A100 40GB SXM": ("a100-sxm-40gb", "8xa100-nvlink"),
    "GH200": ("gh200", "8xh200-nvlink"),
}
ENGINES = ("vLLM", "TensorRT-LLM")  # DeepSpeed-MII takes 1.6 to 2.3 times as long on the same GPU


def left_one_gpu_out() -> Section:
    """Per part of a profile and nearness of the relative, then what GPUs without a fit were timed at."""
    entries = [
        Entry(f"relatives.{part}.{relation}", f"{part}, {relation}", "one GPU out", tuple(points), gated=False)
        for part in left_out.parts()
        for relation in RELATIONS
        if (points := list(_kernels(part, relation)))
    ]
    entries += [
        Entry("relatives.elementwise", "elementwise", "one GPU out", tuple(_elementwise()), gated=False),
        Entry("relatives.prefill", "whole prefills, ceiling and gap", "one GPU out", tuple(_ceilings()), gated=False),
        Entry("relatives.a40", "products of the A40", "held out", tuple(_a40()), gated=False),
        Entry("relatives.square", "large square products", "held out", tuple(_square()), gated=False),
        Entry("relatives.served", "whole prefills of other GPUs", "held out", tuple(_served()), gated=False),
    ]
    return Section(
        "relatives",
        "Leave one GPU out",
        "",
        """
        Each of nine measured GPUs is predicted as a GPU without a profile is: its relative's kernels at its own peaks,
        and across architectures the roofline of all others for products (docs/decisions/027-gpus.md). Its intervals
        come from the GPUs of other chips alone. Intervals of profiles that are shipped so come from all of them.

        Products of the A40: dense_ops_by_tp.csv. Square products: matmul_square.csv and
        max_achievable_matmul_tflops.csv, but for GPUs whose file quotes the figure. Whole prefills: ttft_2026.csv by
        vLLM and TensorRT-LLM; no row of these GPUs is in any fit.
        """,
        tuple(entries),
        ("DeepSpeed-MII's rows of ttft_2026.csv: on the same A100 it takes 1.6 to 2.3 times as long as the others.",),
    )


def _kernels(part: str, relation: str) -> Iterator[Point]:
    for left in left_out.rows():
        if (left.part, left.relation) != (part, relation):
            continue
        known = left_out.kernel_spreads(left.relation, part, but=left.gpu)
        what = "m" if part.startswith("gemm") else "keys"
        for label, size, measured, predicted in zip(
            left.labels, left.sizes, left.measured_s, left.predicted_s, strict=True
        ):
            interval = sum_interval(predicted, [(predicted, find(known, size, part))]) if known else None
            where = left.gpu, regime(what, int(size)), f"{left.gpu} {label}"
            yield Point(*where, float(measured), float(predicted), f"as {left.lender}", interval)


def _elementwise() -> Iterator[Point]:
    """A100 and H100 by each other's shares of the bandwidth."""
    other = {"a100-sxm": "h100-sxm", "h100-sxm": "a100-sxm"}
    for (gpu, op), sample in spreads.elementwise_rows().items():
        if gpu in other:
            model = shipped_gpu(other[gpu]).elementwise.moved_to(gpu, load_gpu(gpu).memory_bandwidth_bytes_per_s)
            for moved, seconds in zip(sample.moved_bytes, sample.time_s, strict=True):
                size = "<= 1 MiB" if moved <= 2**20 else "1-16 MiB" if moved <= 2**24 else "> 16 MiB"
                label = f"{gpu} {op} {moved:.0f} bytes"
                yield Point(gpu, size, label, float(seconds), model.time_s(op, float(moved)), f"as {other[gpu]}")


def _ceilings() -> Iterator[Point]:
    """Published prefills on H100 and A100 by each other's ceiling and gap."""
    prefills = [p for fit in engine_fits().values() for grid in fit.grids for p in grid.prefills]
    found = prefill_spreads()
    for prefill, key, log in zip(prefills, found.keys, found.stand_in, strict=True):
        assert (prefill.table, prefill.row) == key
        label = f"{prefill.model} {prefill.weights} TP{prefill.tp}, {prefill.input_tokens} tokens"
        size = f"{prefill.input_tokens} tokens"
        yield Point(prefill.machine, size, label, prefill.seconds, prefill.seconds / float(np.exp(log)))


def _product(gpu: str, label: str, m: int, n: int, k: int, seconds: float) -> Point:
    profile = shipped_gpu(gpu)
    model = profile.gemm["bf16"]
    predicted = model.time_s(m, n, k)
    interval = sum_interval(predicted, [(predicted, find(profile.spreads, m, "gemm bf16"))])
    return Point(gpu, regime("m", m), label, seconds, predicted, model.source, interval)


def _a40() -> Iterator[Point]:
    """The four projections of a layer."""
    (printed,) = (name for name, gpu in VIDUR_GPUS.items() if gpu == "a40")
    for _, row in select("dense_ops_by_tp", gpu=printed):
        model, tp, tokens = load_model(MODELS[row["model"]]), int(row["tp"]), int(row["num_tokens"])
        heads, inner = model.attention, model.feed_forward.width
        query, key_value = heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim
        if tokens < LEAST_TOKENS:
            continue
        for column, n, k in (
            ("attn_pre_proj_us", (query + 2 * key_value) // tp, model.hidden_size),
            ("attn_post_proj_us", model.hidden_size, query // tp),
            ("mlp_up_proj_us", 2 * inner // tp, model.hidden_size),
            ("mlp_down_proj_us", model.hidden_size, inner // tp),
        ):
            label = f"a40 {row['model']} TP{tp} {column.removesuffix('_us')} m={tokens}"
            yield _product("a40", label, tokens, n, k, float(row[column]) * 1e-6)


def _square() -> Iterator[Point]:
    """The best of large square products, where the GPU's file does not quote it and no kernel of it was fitted."""
    found = [(row["gpu"], row["device"], float(row["best_tflops"])) for row in rows("matmul_square")]
    best = {"A100 PCIe": "a100-pcie", "GH200 SXM": "gh200"}
    found += [
        (best[row["gpu"]], row["gpu"], float(row["measured_max_tflops"]))
        for row in rows("max_achievable_matmul_tflops")
        if row["dtype"] == "bf16" and row["gpu"] in best
    ]
    n = 8192
    for gpu, device, tflops in found:
        if load_gpu(gpu).matmul_flops_per_s is None:
            yield _product(gpu, f"{device}, best of square products", n, n, n, 2.0 * n**3 / (tflops * 1e12))


def _served() -> Iterator[Point]:
    for row in rows("ttft_2026"):
        if row["gpu"] not in SERVED or row["engine"] not in ENGINES:
            continue
        gpu, machine = SERVED[row["gpu"]]
        cluster = replace(load_cluster(machine), gpu=load_gpu(gpu)).take(1)
        prompt = Prompt(int(row["batch"]), int(row["input_tokens"]), "bf16")
        found = predict(load_model(row["model"]), cluster, scheme("bf16"), prompt, load_profile(cluster))
        label = f"{row['gpu']} {row['model']} {row['engine']}, {prompt.batch} x {prompt.input_tokens} tokens"
        interval = found.interval.low_s, found.interval.high_s
        yield Point(
            gpu, f"{prompt.input_tokens} tokens", label, float(row["ttft_ms"]) * 1e-3, found.ttft_s, "", interval
        )
