"""Products in precisions that a GPU profile itself lacks, found when a question asks for them.

A profile's own file has bf16 and fp8. Others stand in `sim/profiles/gemm-<gpu>.json`, read when they are asked for:
fitted where they are measured. Elsewhere a relative's are moved, as for whole profiles (transfer.py); failing that, the
roofline of the GPU's own products in the nearest precision stands in, with the bytes and the peak of the one in
question. Both say so, and how far off such ones are (`gemm-lent.json`; docs/decisions/031-weights-and-cache.md).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from thinwire.reference.core.precision import BITS, Precision
from thinwire.sim.costs.gemm import PEAK, ROW_STEP, GemmModel, GpuFacts
from thinwire.sim.costs.profile import FitRecord, GpuProfile, Quantity
from thinwire.sim.costs.spread import Spread
from thinwire.sim.costs.transfer import Relation, further, longest_rate, relation_of
from thinwire.topologies.cluster import Gpu
from thinwire.topologies.load import load_gpu

FILES = Path(__file__).parents[1] / "profiles"
PASSES = 1.0
"""Of quantising A, where products stand in that were measured without or with another format's."""


@dataclass(frozen=True, slots=True)
class Products:
    """One GPU's products in one precision: what `sim/profiles/gemm-<gpu>.json` has of each."""

    model: GemmModel
    spreads: tuple[Spread, ...]
    fits: tuple[FitRecord, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What `products_of_file` reads."""
        adapter = TypeAdapter(tuple[Spread, ...])
        fits = TypeAdapter(tuple[FitRecord, ...])
        return {
            "spreads": list(adapter.dump_python(self.spreads)),
            "fits": list(fits.dump_python(self.fits)),
            "gemm": self.model.to_dict(),
        }


def products_of_file(data: Mapping[str, Any]) -> Products:
    """The products of one precision from a file; ValueError for what is none."""
    return Products(
        GemmModel.from_dict(data.get("gemm", {})),
        TypeAdapter(tuple[Spread, ...]).validate_python(data.get("spreads")),
        TypeAdapter(tuple[FitRecord, ...]).validate_python(data.get("fits")),
    )


def nearest(precision: str, known: Iterable[str]) -> str:
    """Whose roofline stands in, of those that a GPU's profile has: the same tensor cores' if there are any."""
    return "fp8" if PEAK[precision] != "bf16" and "fp8" in known else "bf16"


def check_runs(gpu: Gpu, precision: Precision) -> None:
    """ValueError for a precision whose products the GPU has no arithmetic for."""
    if PEAK[precision] not in gpu.peak_flops_per_s:
        known = ", ".join(p for p in BITS if PEAK[p] in gpu.peak_flops_per_s)
        raise ValueError(f"{gpu.name} has no {precision} arithmetic: weights={precision}, it runs {known}")


def facts_in(gpu: Gpu, precision: str) -> GpuFacts:
    """What a product's time depends on; KeyError for a precision that the GPU lacks."""
    return GpuFacts(gpu.name, gpu.peak_flops_per_s[PEAK[precision]], gpu.memory_bandwidth_bytes_per_s, gpu.sm_count)


def derived(own: GemmModel, gpu: Gpu, precision: str) -> GemmModel:
    """The roofline of a GPU's products in one precision as one of another."""
    passes = 0.0 if PEAK[precision] == "bf16" else PASSES
    base = replace(own.base, quantise_passes=passes, row_step=ROW_STEP.get(precision, 0))
    source = f"assumed: the roofline of {own.dtype} products on {gpu.name}, with the bytes and the peak of {precision}"
    return GemmModel(facts_in(gpu, precision), precision, base, None, source)


def with_precisions(profile: GpuProfile, gpu: Gpu, precisions: Iterable[Precision]) -> GpuProfile:
    """The profile with products in all of these precisions. ValueError for one that the GPU cannot run.

    A ceiling over a whole prefill keeps the share of the longest product that it has in the nearest precision.
    """
    for precision in dict.fromkeys(precisions):
        if precision in profile.gemm:
            continue
        check_runs(gpu, precision)
        near = nearest(precision, profile.gemm)
        found, said = _found(gpu, precision, profile.gemm[near])
        ceiling = profile.sustained_flops_per_s[near]
        share = ceiling.value / longest_rate(profile.gemm[near])
        source = f"assumed: the share of the longest product that {near} keeps ({ceiling.source})"
        profile = replace(
            profile,
            gemm={**profile.gemm, precision: found.model},
            sustained_flops_per_s={
                **profile.sustained_flops_per_s,
                precision: Quantity(share * longest_rate(found.model), source),
            },
            spreads=(*profile.spreads, *found.spreads),
            fits=(*profile.fits, *found.fits),
            assumptions=(*profile.assumptions, *said),
        )
    return profile


def _found(gpu: Gpu, precision: Precision, own: GemmModel) -> tuple[Products, tuple[str, ...]]:
    """Products, and what a prediction must say of them."""
    measured = measured_products(gpu.name).get(precision)
    if measured is not None:
        return measured, ()
    lender, relation = _lender(gpu, precision)
    if lender is not None and relation != "another architecture" and gpu.matmul_flops_per_s is None:
        found = measured_products(lender.name)[precision]
        model = found.model.transferred(facts_in(gpu, precision))
        said = f"no {precision} product is measured on {gpu.name}: as {lender.name}'s, at this GPU's peaks ({relation})"
        return Products(model, lent_spreads(precision, relation)), (said,)
    model = derived(own, gpu, precision)
    said = f"no {precision} product is measured on {gpu.name} or its like: {model.source.removeprefix('assumed: ')}"
    return Products(model, lent_spreads(precision, "derived")), (said,)


def _lender(gpu: Gpu, precision: Precision) -> tuple[Gpu | None, Relation]:
    """The first in the line of relatives on which a precision is measured, and how near it is."""
    relation: Relation = "same chip"
    while gpu.relative is not None:
        lender = load_gpu(gpu.relative)
        relation = further(relation, relation_of(gpu, lender))
        if precision in measured_products(lender.name):
            return lender, relation
        gpu = lender
    return None, relation


@lru_cache
def measured_products(gpu: str) -> Mapping[str, Products]:
    """The products that are measured on a GPU, by precision; none where it has no file."""
    path = FILES / f"gemm-{gpu}.json"
    if not path.exists():
        return {}
    return {precision: products_of_file(table) for precision, table in json.loads(path.read_text("utf-8")).items()}


def lent_spreads(precision: str, how: str) -> tuple[Spread, ...]:
    """How far off products are that were not fitted to rows of their GPU, by `how`: the relation to the GPU that lent
    them, or "derived"; mxfp4, which nobody measured, as int4.
    """
    like = f"gemm {'int4' if precision == 'mxfp4' else precision}"
    for known in (_lent_spreads().get(how, ()), _lent_spreads()["derived"]):
        found = tuple(replace(s, part=f"gemm {precision}") for s in known if s.part == like)
        if found:
            return found
    raise ValueError(f"no spread of lent products in {precision}: calibrate again")


@lru_cache
def _lent_spreads() -> Mapping[str, tuple[Spread, ...]]:
    path = FILES / "gemm-lent.json"
    return TypeAdapter(dict[str, tuple[Spread, ...]]).validate_python(json.loads(path.read_text("utf-8")))
