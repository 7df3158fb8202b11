"""Fits every profile in `sim/profiles/` to the tables in `validation/published/`: one command, the same result every
time.

`python -m thinwire.validation.calibrate` writes one file per GPU and per fabric. Each says what it was fitted to: the
rows of every table that were used, and the errors left on them (`fits`).
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from thinwire.edge.writing import write_text
from thinwire.sim.costs.attention import AttentionModel
from thinwire.sim.costs.decode_attention import DecodeAttentionModel
from thinwire.sim.costs.elementwise import ElementwiseModel
from thinwire.sim.costs.gemm import GemmModel
from thinwire.sim.costs.profile import (
    MIXTURE,
    Baseline,
    CodecCost,
    FabricProfile,
    FitRecord,
    GpuProfile,
    Protocol,
    Quantity,
    fabric_profile_dict,
    gpu_profile_dict,
)
from thinwire.sim.costs.shipped import PROFILES
from thinwire.sim.costs.spread import Spread
from thinwire.sim.costs.transfer import RELATIONS, Relation
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits import attention as fit_attention
from thinwire.validation.fits import codec as fit_codec
from thinwire.validation.fits import decode as fit_decode
from thinwire.validation.fits import elementwise as fit_elementwise
from thinwire.validation.fits import engine as fit_engine
from thinwire.validation.fits import fabric as fit_fabric
from thinwire.validation.fits import gemm as fit_gemm
from thinwire.validation.fits import records, spreads, spreads_fabric
from thinwire.validation.fits.calibrate_raw import codec_rows_fitted
from thinwire.validation.fits.gpus import NEAREST_KERNELS, NEAREST_MEMORY, SYSTEMS
from thinwire.validation.fits.published_tables import select
from thinwire.validation.fits.raw_file import Raw
from thinwire.validation.fits.series import calibration
from thinwire.validation.hosts import between, ceilings
from thinwire.validation.instructions import costs as instructions
from thinwire.validation.logs import spreads as log_spreads
from thinwire.validation.mixtures import experts as fit_experts
from thinwire.validation.mixtures import latent as fit_latent
from thinwire.validation.mixtures import recurrent as fit_recurrent
from thinwire.validation.mixtures import spreads as mixture_spreads
from thinwire.validation.precisions import attention as variants
from thinwire.validation.precisions import products
from thinwire.validation.relatives import left_out
from thinwire.validation.targets.mixtures import as_served

Model = TypeVar("Model")
SERVED_REGIMES = {"prefill": (8192, None), "step": (None,)}  # rows of whole runs' products
RAW = Path(__file__).resolve().parent / "raw"

GPUS = (
    "a100-sxm", "h100-sxm", "h200-sxm", "b200-sxm", "l40s", "rtx-pro-6000",
    "l4", "l40", "a100-pcie", "h100-pcie", "mi300x", "b300-sxm", "gb200", "gb300",
)  # fmt: skip
# How far off these parts are on a GPU nobody measured does not depend on whose kernels it takes: as on this one.
UNMEASURED, ELSEWHERE = "l40", ("elementwise", "gap", "codec", "codec fused")

# A GPU of an architecture that no GEMM table has: another architecture's correction does not carry over
# (docs/decisions/ 003), so the pooled roofline is scaled to the published matmul ceiling in bf16, and fp8 to the same
# share of its peak.
MATMUL_CEILING_TFLOPS = {
    "mi300x": float(
        next(r for _, r in select("max_achievable_matmul_tflops", gpu="MI300X", dtype="bf16"))["measured_max_tflops"]
    )
}

# Fabrics that borrow protocols nobody has timed on them, from the fabric most like them.
BORROWED = {"h100-nvlink": "h200-nvlink", "l4-pcie": "l40s-pcie", "h100-ib": "h100-nvlink"}


# Whose codec kernels `make gpu` has timed, and in which file; of the rest, the same chip with other memory takes their
# bytes a second, for they wait for arithmetic (docs/decisions/020-first-gpu.md).
CODEC_CAMPAIGNS = {"h200-sxm": "nvidia-h200-2026-11-29.json"}
CODEC_LENDER = {"h100-sxm": "h200-sxm"}

WITHIN = {"h100-ib": "h100-nvlink"}  # a group inside one node never leaves it


def fabrics() -> dict[str, FabricProfile]:
    """All fabric profiles."""
    protocols: dict[str, dict[tuple[str, str, str, int], Protocol]] = {}
    baselines: dict[str, dict[str, dict[Baseline, None]]] = {}
    fits: dict[str, list[FitRecord]] = {}
    for group in fit_fabric.by_baseline(calibration()):
        for found in fit_fabric.fit(group):
            s = found.series
            source = f"measured: {s.table}.csv, {len(s.nbytes)} rows on {s.machine}"
            if s.smaller is not None:
                source += f"; below {s.nbytes[0] / 2**10:,.0f} KiB as on {s.smaller.fabric}"
            own = protocols.setdefault(s.fabric, {})
            own.update({p.key: p for p in found.protocols(source)})
            what, errors = f"{s.op} by {s.library} on {s.ranks} ranks", found.seconds(s.nbytes) / s.seconds - 1
            fits.setdefault(s.fabric, []).append(records.record(what, s.table, s.row_numbers, errors))
            if s.library not in ("engine-eager", "fused", "pcie-ipc"):
                baselines.setdefault(s.fabric, {}).setdefault(s.op, {})[s.baseline] = None
    for fabric, lender in BORROWED.items():
        own, ops = protocols.setdefault(fabric, {}), baselines.setdefault(fabric, {})
        for key, protocol in protocols[lender].items():
            borrowed = replace(
                protocol, source=f"assumed: as on {lender} ({protocol.source.removeprefix('assumed: ')})"
            )
            own.setdefault(key, borrowed)
        for op, choices in baselines[lender].items():
            if fabric != "h100-ib" or op not in ops:
                ops.setdefault(op, {}).update(choices)
    found_fabrics = {
        name: FabricProfile(
            name=name,
            protocols=tuple(own[key] for key in sorted(own)),
            baseline={op: tuple(choices) for op, choices in sorted(baselines[name].items())},
            libraries={"separate": "nccl", "fused": "fused"},
            assumptions=(f"collectives cost on {name} what they do on {BORROWED[name]} where nobody timed them",)
            if name in BORROWED
            else (),
            fits=tuple(fits.get(name, ())),
            within=WITHIN.get(name),
        )
        for name, own in sorted(protocols.items())
    }
    return between.with_hosts(spreads_fabric.with_fabric_spreads(found_fabrics))


def gemms() -> dict[str, dict[str, GemmModel]]:
    """GEMM models by GPU and precision: fitted where measured, else those of the nearest GPU at the GPU's own peaks."""
    fitted: dict[str, dict[str, GemmModel]] = {}
    for (gpu, dtype), rows in fit_gemm.read_rows().items():
        fitted.setdefault(gpu, {})[dtype] = fit_gemm.fit_gemm(rows, fit_gemm.facts(gpu, dtype), dtype)
    for gpu in GPUS:
        if gpu in MATMUL_CEILING_TFLOPS:
            facts = {dtype: fit_gemm.facts(gpu, dtype) for dtype in ("bf16", "fp8")}
            share = round(MATMUL_CEILING_TFLOPS[gpu] * 1e12 / facts["bf16"].peak_flops_per_s, 3)
            fitted[gpu] = {
                dtype: GemmModel.roofline(
                    f.peak_flops_per_s,
                    f.memory_bandwidth_bytes_per_s,
                    f.sm_count,
                    dtype,
                    name=gpu,
                    matmul_efficiency=share,
                )
                for dtype, f in facts.items()
            }
        elif gpu not in fitted:
            fitted[gpu] = {
                dtype: model.transferred(fit_gemm.facts(gpu, dtype))
                for dtype, model in fitted[NEAREST_KERNELS[gpu]].items()
                if dtype in load_gpu(gpu).peak_flops_per_s
            }
    return fitted


def attentions() -> dict[str, AttentionModel]:
    """Attention models by GPU."""
    fitted = {SYSTEMS[system]: model for system, model in fit_attention.fit_all().items()}
    return with_lent(fitted, NEAREST_KERNELS, lambda model, gpu: model.moved_to(*fit_attention.facts(gpu)))


def decode_attentions() -> dict[str, DecodeAttentionModel]:
    """Decode attention models by GPU."""
    fitted = {SYSTEMS[system]: model for system, model in fit_decode.fit_all().items()}
    return with_lent(fitted, NEAREST_KERNELS, lambda model, gpu: model.moved_to(*fit_decode.facts(gpu)))


def elementwises() -> dict[str, ElementwiseModel]:
    """Element-wise models by GPU."""
    return with_lent(
        fit_elementwise.engine_models(),
        NEAREST_MEMORY,
        lambda model, gpu: model.moved_to(gpu, load_gpu(gpu).memory_bandwidth_bytes_per_s),
    )


def with_lent(
    fitted: Mapping[str, Model], nearest: Mapping[str, str], moved: Callable[[Model, str], Model]
) -> dict[str, Model]:
    """The models of the GPUs that were fitted, and for every other its nearest one's, moved to it."""
    found = dict(fitted)
    for gpu in GPUS:
        if gpu not in found:
            found[gpu] = moved(found[nearest[gpu]], gpu)
    return found


def campaigns() -> dict[str, tuple[CodecCost, FitRecord]]:
    """Codec costs of the GPUs that `make gpu` has measured, by bytes, and what they leave on their rows."""
    found = {}
    for gpu, name in CODEC_CAMPAIGNS.items():
        raw = Raw.read(RAW / name)
        cost, _ = codec_rows_fitted(raw)
        found[gpu] = cost, next(part.fitted for part in raw.parts if part.what == "codec")
    return found


def codec(
    gpu: str,
    fit: fit_codec.CodecFit,
    elementwise: ElementwiseModel,
    measured: Mapping[str, tuple[CodecCost, FitRecord]],
) -> CodecCost:
    """Codec costs: fused into a collective as on the MI300X; kernels of their own by their bytes, as `make gpu`
    measured them or assumed, and where they are compiled for the GPU, by their instructions (docs/decisions/
    029-codec-cost.md).
    """
    source = f"{fit_codec.TABLE}.csv, INT8/6/4 from 1 MiB up"
    copy_share = elementwise.costs["copy"].efficiency

    def priced(cost: CodecCost) -> CodecCost:
        return instructions.with_compiled(cost, load_gpu(gpu), copy_share) if instructions.is_compiled(gpu) else cost

    fused_pass = Quantity(
        round(fit.pass_s, 9), f"{'measured' if gpu == 'mi300x' else 'assumed: as on MI300X'}: {source}"
    )
    if gpu in measured:
        return priced(replace(measured[gpu][0], fused_pass_s=fused_pass))
    if gpu in CODEC_LENDER:
        lender = CODEC_LENDER[gpu]
        return priced(replace(lent(measured[lender][0], lender, gpu), fused_pass_s=fused_pass))
    share = elementwise.costs["silu_mul"].efficiency
    local = Quantity(share, "assumed: what a gated activation reaches on this GPU")
    separate = Quantity(elementwise.costs["copy"].floor_s, "assumed: an element-wise kernel's floor")
    if gpu == "mi300x":
        bandwidth = load_gpu("mi300x").memory_bandwidth_bytes_per_s
        return CodecCost(
            fused_pass, separate, local, Quantity(round(fit.wire_rate / bandwidth, 4), f"measured: {source}")
        )
    unknown = "assumed: encoded buffers are plain device memory, no codec kernel is measured on this GPU"
    return priced(CodecCost(fused_pass, separate, local, Quantity(share, unknown)))


def lent(cost: CodecCost, lender: str, gpu: str) -> CodecCost:
    """Another GPU's codec costs: the same bytes a second, as far as this one's memory goes."""
    faster = load_gpu(lender).memory_bandwidth_bytes_per_s / load_gpu(gpu).memory_bandwidth_bytes_per_s

    def moved(found: Quantity, scale: float) -> Quantity:
        return Quantity(min(1.0, round(found.value * scale, 4)), f"assumed: as on {lender} ({found.source})")

    return replace(
        cost,
        separate_pass_s=Quantity(
            cost.separate_pass_s.value, f"assumed: as on {lender} ({cost.separate_pass_s.source})"
        ),
        local_share=moved(cost.local_share, faster),
        wire_share=moved(cost.wire_share, faster),
    )


def gpus(found_fabrics: Mapping[str, FabricProfile]) -> dict[str, GpuProfile]:
    """All GPU profiles."""
    gemm, attention, elementwise = gemms(), attentions(), elementwises()
    decode_attention = decode_attentions()
    codec_rows = fit_codec.rows(found_fabrics["mi300x-xgmi"])
    codec_fit, measured = fit_codec.fit(codec_rows), campaigns()
    profiles = {}
    for gpu in GPUS:
        profiles[gpu] = GpuProfile(
            name=gpu,
            gpu=gpu,
            gemm=gemm[gpu],
            attention=attention[gpu],
            decode_attention=decode_attention[gpu],
            elementwise=elementwise[gpu],
            sustained_flops_per_s={
                precision: fit_engine.longest_products(model) for precision, model in gemm[gpu].items()
            },
            kernel_gap_s=fit_engine.NO_GAP,
            codec=codec(gpu, codec_fit, elementwise[gpu], measured),
            assumptions=(unmeasured(gpu),) if gpu in NEAREST_KERNELS else (),
            fits=tuple(kernel_fits(gpu, gemm[gpu], attention[gpu], decode_attention[gpu], elementwise[gpu]))
            + ((records.of_codec(codec_fit, codec_rows),) if gpu == "mi300x" else ())
            + ((measured[gpu][1],) if gpu in measured else ()),
        )
    with_engine = fit_engine.with_engine(profiles, found_fabrics)
    own = {gpu: instructions.spread_of(gpu) for gpu in GPUS if instructions.is_compiled(gpu)}
    with_spreads = spreads.with_gpu_spreads(with_engine, profiles, found_fabrics, elementwise, own)
    return ceilings.with_hosts(with_spreads, found_fabrics)


def kernel_fits(
    gpu: str,
    gemm: Mapping[str, GemmModel],
    attention: AttentionModel,
    decode_attention: DecodeAttentionModel,
    elementwise: ElementwiseModel,
) -> Iterator[FitRecord]:
    """The kernels fitted to rows of this very GPU."""
    if gpu in SYSTEMS.values():
        yield from (records.of_gemm(gpu, dtype, model) for dtype, model in gemm.items())
        yield records.of_attention(gpu, attention)
        yield records.of_decode_attention(gpu, decode_attention)
    yield from records.of_elementwise(gpu, elementwise)


def unmeasured(gpu: str) -> str:
    """What a prediction must say of a GPU that no kernel table has."""
    gemm = "its published matmul ceiling" if gpu in MATMUL_CEILING_TFLOPS else f"{NEAREST_KERNELS[gpu]}'s efficiencies"
    return (
        f"no kernel is measured on {gpu}: GEMMs take {gemm}, attention {NEAREST_KERNELS[gpu]}'s and element-wise "
        f"kernels {NEAREST_MEMORY[gpu]}'s efficiencies, at this GPU's peaks"
    )


def transferred(found: Mapping[str, GpuProfile]) -> dict[Relation, list[Spread]]:
    """The spreads of profiles that the simulator moves to GPUs without one, by how near the relative is.

    Whole prefills are off by what they are off elsewhere, and by the longest products, which the ceiling is a share of.
    """
    rest = [spread for spread in found[UNMEASURED].spreads if spread.part in ELSEWHERE]
    whole = next(spread for spread in found[UNMEASURED].spreads if spread.part == "prefill")
    known: dict[Relation, list[Spread]] = {}
    for relation in RELATIONS:
        kernels = [s for part in left_out.parts() for s in left_out.kernel_spreads(relation, part)]
        products = left_out.longest_products(relation)
        low, high = -math.hypot(whole.low, products.low), math.hypot(whole.high, products.high)
        source = f"{whole.source}, and the longest product {products.source.removeprefix('assumed: ')}"
        prefill = replace(whole, low=round(low, 4), high=round(high, 4), source=source)
        known[relation] = [*kernels, *rest, prefill]
    return known


def write(path: Path, document: Any) -> None:
    """Indented, lists of numbers on one line: a profile that changes shows it in a diff that people can read."""
    text = json.dumps(document, indent=1)
    write_text(path, re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write every profile, and what fabrics of logs are off. With `mixtures` those files alone."""
    PROFILES.mkdir(exist_ok=True)
    if (sys.argv[1:] if arguments is None else arguments) == ["mixtures"]:
        write_mixtures()
        write_served_mixtures()
        return
    found = fabrics()
    for name, profile in found.items():
        write(PROFILES / f"fabric-{name}.json", fabric_profile_dict(profile))
    found_gpus = gpus(found)
    for name, gpu in found_gpus.items():
        write(PROFILES / f"gpu-{name}.json", gpu_profile_dict(gpu))
    write_transferred(found_gpus)
    write_mixtures()
    write_products(found_gpus)
    write_attention(found_gpus)
    write_served_mixtures()  # last: by the costs that the others wrote
    write(log_spreads.FILE, log_spreads.measure())


def write_mixtures() -> None:
    """The files of what a dense model never asks for, by the products that are shipped now."""
    experts, latent, recurrent = fit_experts.fit_all(), fit_latent.fit_all(), fit_recurrent.fit_all()
    for name, found in mixture_spreads.mixtures(experts, latent, recurrent).items():
        models = {part: getattr(found, part).to_dict() for part in MIXTURE}
        lines = {"spreads": [asdict(s) for s in found.spreads], "fits": [asdict(f) for f in found.fits]}
        write(PROFILES / f"mixture-{name}.json", {"gpu": name, **lines, **models})
    known = mixture_spreads.transferred(experts, latent, recurrent)
    write(PROFILES / "transferred-mixtures.json", {r: [asdict(s) for s in its] for r, its in known.items()})


def write_served_mixtures() -> None:
    """How far off whole runs of mixtures are, as served by others: the interval's part, no fit."""
    found = list[Spread]()
    for part, logs in as_served().items():
        source = f"measured: mixtures_2026.csv, {len(logs)} rows as served, nothing fitted to them"
        rows, off = [rows for rows, _ in logs], [off for _, off in logs]
        found += spreads.by_regime(part, rows, off, SERVED_REGIMES[part], source)
    write(PROFILES / "served-mixtures.json", [asdict(spread) for spread in found])


def write_transferred(found: Mapping[str, GpuProfile]) -> None:
    """The file of `transferred`."""
    known = transferred(found)
    write(PROFILES / "transferred.json", {relation: [asdict(s) for s in its] for relation, its in known.items()})


def write_products(found: Mapping[str, GpuProfile]) -> None:
    """Products in other precisions than the profiles' own."""
    for name, document in products.documents({gpu: profile.gemm for gpu, profile in found.items()}).items():
        write(PROFILES / name, document)


def write_attention(found: Mapping[str, GpuProfile]) -> None:
    """Attention of other heads, windows and caches than the profiles' own."""
    for name, document in variants.documents(found).items():
        write(PROFILES / name, document)


if __name__ == "__main__":
    main()
