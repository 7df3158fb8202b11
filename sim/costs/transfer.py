"""How a GPU that nobody measured is like one that was, and what of its relative's kernels it takes.

A GPU's file names its relative (`relative` in topologies/gpus/*.toml). The nearer the two, the more carries over
(docs/decisions/027-gpus.md): between chips of one architecture whole kernels, at the other GPU's peaks; across
architectures attention and element-wise kernels, but products take the roofline pooled over all measured GPUs, for a
correction does not cross. So do those of a GPU whose file says how fast its large products are (`matmul`), scaled to
that. How far off each is, measured GPUs show when they are left out.
"""

from typing import Literal, get_args

from thinwire.sim.costs.gemm import GemmModel, GpuFacts
from thinwire.topologies.cluster import Gpu
from thinwire.topologies.load import load_gpu

Relation = Literal["same chip", "same architecture", "another architecture"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)


def relation_of(gpu: Gpu, relative: Gpu) -> Relation:
    """How near two GPUs are; what their files do not say counts as different."""
    if gpu.chip is not None and gpu.chip == relative.chip:
        return "same chip"
    if gpu.architecture is not None and gpu.architecture == relative.architecture:
        return "same architecture"
    return "another architecture"


def further(one: Relation, other: Relation) -> Relation:
    """The worse of two steps: a relative whose own kernels are borrowed is no nearer than its lender."""
    return max(one, other, key=RELATIONS.index)


def relation_to(gpu: Gpu, relative: str) -> Relation:
    """How near a GPU is to the one whose measured kernels stand in, at the end of the line of relatives."""
    lender = load_gpu(relative)
    found = relation_of(gpu, lender)
    return found if lender.relative is None else further(found, relation_to(lender, lender.relative))


def facts_of(gpu: Gpu, dtype: str) -> GpuFacts:
    """What a product's time depends on; KeyError for a precision that the GPU lacks."""
    return GpuFacts(gpu.name, gpu.peak_flops_per_s[dtype], gpu.memory_bandwidth_bytes_per_s, gpu.sm_count)


LONGEST = (32768, 8192, 8192)  # m, n, k: the longest-running product that GPUs were measured at


def longest_rate(model: GemmModel) -> float:
    """FLOP/s of the longest-running product: what power allows for a tenth of a second at least."""
    m, n, k = LONGEST
    return 2.0 * m * n * k / model.time_s(m, n, k)


def products_of(model: GemmModel, gpu: Gpu, relation: Relation) -> GemmModel:
    """A relative's products on `gpu`. One without a correction is a roofline already, scaled to what is known of it."""
    facts, known = facts_of(gpu, model.dtype), gpu.matmul_flops_per_s
    if known is None and (relation != "another architecture" or model.correction is None):
        return model.transferred(facts)
    return GemmModel.roofline(
        facts.peak_flops_per_s,
        facts.memory_bandwidth_bytes_per_s,
        facts.sm_count,
        model.dtype,
        name=gpu.name,
        # Clocks above the nominal ones carry some products above the peak; fp8 reaches the same share of its own.
        matmul_efficiency=None if known is None else min(1.0, round(known / gpu.peak_flops_per_s["bf16"], 3)),
    )


def sentences(gpu: Gpu, relative: str, relation: Relation, products: GemmModel) -> tuple[str, ...]:
    """What predictions on a GPU that nobody measured must say."""
    said = (
        f"no kernel is measured on {gpu.name}: at this GPU's peaks, products are "
        f"{products.source.removeprefix('assumed: ')}, attention and element-wise kernels as {relative}'s ({relation})",
    )
    peak = gpu.sources.get("peak.bf16", "")
    return (*said, f"{gpu.name}: dense bf16 peak {peak}") if peak.startswith("assumed") else said
