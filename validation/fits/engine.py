"""Fits what single kernels cannot show: the rate that power allows over a whole prefill, and the gap between kernels.

Kernel benchmarks run for microseconds on a cool GPU; a prefill runs GEMM after GEMM at the power limit. Summed kernel
times come to 70-85 % of published prefills of Llama-3.3-70B (published/README.md). Two quantities explain the rest, and
both are fitted to whole forward passes with no all-reduce to confuse them: a ceiling on GEMM throughput (long prompts),
and idle time between kernels that an engine launches one by one (short ones). Least mean absolute relative error on a
grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.sim.costs.gemm import GemmModel
from thinwire.sim.costs.profile import FabricProfile, GpuProfile, Profile, Quantity
from thinwire.sim.costs.transfer import longest_rate
from thinwire.sim.predict import predict
from thinwire.sim.workload import Prompt
from thinwire.topologies.load import load_cluster
from thinwire.validation.fits.published_tables import rows
from thinwire.validation.fits.records import record

Floats = NDArray[np.float64]

NO_GAP = Quantity(0.0, "assumed: none")
CEILING_GRID = np.arange(0.55, 1.201, 0.01)  # of the rate of that product
GAP_GRID_S = np.arange(0.0, 10.01e-6, 0.25e-6)


def longest_products(model: GemmModel) -> Quantity:
    """The rate of the longest-running products of gemm.csv."""
    return Quantity(round(longest_rate(model), -9), model.source)


@dataclass(frozen=True, slots=True)
class Prefill:
    """A published time to first token."""

    table: str
    row: int
    model: str
    machine: str
    tp: int
    input_tokens: int
    weights: str
    scheme: str
    seconds: float


_TRTLLM_MODELS = {"Mistral 7B": "mistral-7b", "LLaMA2 7B": "llama-2-7b", "LLaMA2 70B": "llama-2-70b"}
_TRTLLM_MACHINES = {"H100 SXM 80GB": "8xh100-nvlink", "A100 SXM 80GB": "8xa100-nvlink"}


def trtllm() -> list[Prefill]:
    """TensorRT-LLM v0.9 first-token latency, batch 1. Falcon-180B is not a supported architecture and left out."""
    table = "ttft_trtllm_batch1"
    return [
        Prefill(
            table, number, _TRTLLM_MODELS[row["model"]], _TRTLLM_MACHINES[row["gpu"]],
            int(row["tp"]), int(row["input_tokens"]),
            "fp8" if row["weight_activation_precision"] == "fp8" else "bf16", "bf16", float(row["ttft_ms"]) * 1e-3,
        )
        for number, row in enumerate(rows(table))
        if row["model"] in _TRTLLM_MODELS
    ]  # fmt: skip


def tokenweave(column: str) -> list[Prefill]:
    """Prefill of Llama-3.3-70B on 8x H100: `no_ar` (every all-reduce removed) or `baseline_multimem` (as served)."""
    table = "tokenweave_prefill_8xh100"
    schemes = {"no_ar": "none", "baseline_multimem": "bf16"}
    return [
        Prefill(
            table,
            number,
            "llama-3-70b",
            "8xh100-nvlink",
            8,
            int(row["prompt_len"]),
            "bf16",
            schemes[column],
            float(row[column]) * 1e-3,
        )
        for number, row in enumerate(rows(table))
    ]


def l40s_fp8() -> list[Prefill]:
    """TensorRT-LLM v0.9 first-token latency on one L40S in fp8, batch 1."""
    table = "ttft_l40s_fp8"
    return [
        Prefill(
            table, number, _TRTLLM_MODELS[row["model"]], "8xl40s-pcie", int(row["tp"]), int(row["input_tokens"]),
            "fp8", "bf16", float(row["ttft_ms"]) * 1e-3,
        )
        for number, row in enumerate(rows(table))
    ]  # fmt: skip


def predicted_s(prefill: Prefill, gpu: GpuProfile, fabric: FabricProfile) -> float:
    """thinwire's time for a published prefill."""
    cluster = load_cluster(prefill.machine).take(prefill.tp)
    prompt = Prompt(1, prefill.input_tokens, "fp8" if prefill.weights == "fp8" else "bf16")
    return predict(load_model(prefill.model), cluster, scheme(prefill.scheme), prompt, Profile(gpu, fabric)).ttft_s


@dataclass(frozen=True)
class Grid:
    """Predictions of prefills of one precision over ceilings (C) and gaps (G): seconds (C, G, P)."""

    precision: str
    prefills: tuple[Prefill, ...]
    ceilings: Floats
    seconds_CGP: Floats

    def errors(self) -> Floats:
        """Predicted over measured, less one, (C, G, P)."""
        return np.asarray(self.seconds_CGP / np.array([p.seconds for p in self.prefills]) - 1)


def grid(prefills: Sequence[Prefill], gpu: GpuProfile, fabric: FabricProfile) -> Grid:
    """Time is linear in the gap (every kernel is followed by one), so two gaps give all."""
    precision, unit_s = prefills[0].weights, 1e-6
    ceilings = CEILING_GRID * gpu.sustained_flops_per_s[precision].value
    seconds = np.zeros((len(ceilings), len(GAP_GRID_S), len(prefills)))
    for p, prefill in enumerate(prefills):
        gapped = predicted_s(prefill, replace(gpu, kernel_gap_s=Quantity(unit_s, "assumed: trial")), fabric)
        per_gap = (gapped - predicted_s(prefill, replace(gpu, kernel_gap_s=NO_GAP), fabric)) / unit_s
        for c, ceiling in enumerate(ceilings):
            limits = {**gpu.sustained_flops_per_s, precision: Quantity(float(ceiling), "assumed: trial")}
            without = predicted_s(prefill, replace(gpu, sustained_flops_per_s=limits, kernel_gap_s=NO_GAP), fabric)
            seconds[c, :, p] = without + per_gap * GAP_GRID_S
    return Grid(precision, tuple(prefills), ceilings, seconds)


@dataclass(frozen=True)
class EngineFit:
    """One gap for all grids, one ceiling for each: indices into them."""

    grids: tuple[Grid, ...]
    gap: int
    ceilings: tuple[int, ...]

    @classmethod
    def of(cls, grids: Sequence[Grid], left_out: tuple[int, int] | None = None) -> "EngineFit":
        """Least mean absolute relative error over all prefills but the one left out (grid, prefill)."""
        total, chosen = np.zeros(len(GAP_GRID_S)), []
        for number, one in enumerate(grids):
            error_CGP = np.abs(one.errors())
            if left_out is not None and left_out[0] == number:
                error_CGP = np.delete(error_CGP, left_out[1], axis=2)
            error_CG = error_CGP.sum(axis=2)
            chosen.append(error_CG.argmin(axis=0))
            total += error_CG.min(axis=0)
        gap = int(total.argmin())
        return cls(tuple(grids), gap, tuple(int(best_G[gap]) for best_G in chosen))

    def errors(self, grid_number: int) -> Floats:
        """Relative errors of one grid's prefills."""
        return np.asarray(self.grids[grid_number].errors()[self.ceilings[grid_number], self.gap])

    def leave_one_out(self, grid_number: int) -> Floats:
        """The same, each prefill left out of the fit in turn."""
        count = len(self.grids[grid_number].prefills)
        return np.array([EngineFit.of(self.grids, (grid_number, i)).errors(grid_number)[i] for i in range(count)])

    def applied(self, gpu: GpuProfile) -> GpuProfile:
        """The profile with the fitted gap and ceilings."""
        ceilings = dict(gpu.sustained_flops_per_s)
        said = []
        for one, index in zip(self.grids, self.ceilings, strict=True):
            source = f"measured: {one.prefills[0].table}.csv, {len(one.prefills)} prefills"
            ceilings[one.precision] = Quantity(round(float(one.ceilings[index]), -9), source)
            said.append(source.removeprefix("measured: "))
        gap = Quantity(round(float(GAP_GRID_S[self.gap]), 9), f"measured: {' and '.join(said)}")
        fits = [
            record(
                f"prefill {one.precision}", one.prefills[0].table, (p.row for p in one.prefills), self.errors(number)
            )
            for number, one in enumerate(self.grids)
        ]
        return replace(gpu, sustained_flops_per_s=ceilings, kernel_gap_s=gap, fits=(*gpu.fits, *fits))


def fits(gpus: Mapping[str, GpuProfile], fabrics: Mapping[str, FabricProfile]) -> dict[str, EngineFit]:
    """Fits of the GPUs with published prefills."""
    h100, a100 = gpus["h100-sxm"], gpus["a100-sxm"]
    fp8 = [p for p in trtllm() if p.weights == "fp8"]
    bf16 = [p for p in trtllm() if p.weights == "bf16"]
    return {
        "h100-sxm": EngineFit.of(
            [grid(tokenweave("no_ar"), h100, fabrics["h100-nvlink"]), grid(fp8, h100, fabrics["h100-nvlink"])]
        ),
        "a100-sxm": EngineFit.of([grid(bf16, a100, fabrics["a100-nvlink"])]),
    }


def with_engine(gpus: Mapping[str, GpuProfile], fabrics: Mapping[str, FabricProfile]) -> dict[str, GpuProfile]:
    """The profiles with ceilings and gaps: fitted where prefills are published, carried over to the rest."""
    found = dict(gpus)
    fitted = {name: fit.applied(found[name]) for name, fit in fits(gpus, fabrics).items()}
    found |= fitted
    h100 = fitted["h100-sxm"]
    ceilings = {
        p: Quantity(q.value, f"assumed: as on h100-sxm ({q.source})") for p, q in h100.sustained_flops_per_s.items()
    }
    # The H200 is the same chip at the same 700 W, launched by the same hosts.
    gap = Quantity(h100.kernel_gap_s.value, f"assumed: as on h100-sxm ({h100.kernel_gap_s.source})")
    found["h200-sxm"] = replace(found["h200-sxm"], sustained_flops_per_s=ceilings, kernel_gap_s=gap)
    ratios = [
        fitted[name].sustained_flops_per_s["bf16"].value / gpus[name].sustained_flops_per_s["bf16"].value
        for name in fitted
    ]
    share = round(float(np.mean(ratios)), 2)
    seen = ", ".join(f"{name} {ratio:.2f}" for name, ratio in zip(fitted, ratios, strict=True))
    for name, gpu in gpus.items():
        if name not in fitted and name != "h200-sxm":
            derated = {
                p: Quantity(
                    round(share * q.value, -9),
                    f"assumed: {share:g} of the longest-running products of gemm.csv, as prefills show ({seen})",
                )
                for p, q in gpu.sustained_flops_per_s.items()
            }
            found[name] = replace(gpu, sustained_flops_per_s=derated)
    # fp8 on the L40S has prefills of its own: too few and too alike for a gap, which stays the carried one.
    mean_gap = round(float(np.mean([gpu.kernel_gap_s.value for gpu in fitted.values()])), 9)
    carried = Quantity(mean_gap, f"assumed: mean of what prefills show on {' and '.join(fitted)}")
    found |= {
        name: replace(gpu, kernel_gap_s=carried) for name, gpu in found.items() if name not in (*fitted, "h200-sxm")
    }
    if "l40s" in found:
        found["l40s"] = with_ceiling(found["l40s"], gpus["l40s"], l40s_fp8(), fabrics["l40s-pcie"])
    return found


def with_ceiling(gpu: GpuProfile, bare: GpuProfile, prefills: Sequence[Prefill], fabric: FabricProfile) -> GpuProfile:
    """The profile with the ceiling of one precision fitted to prefills, its gap as it is. `bare`: before ceilings."""
    one = grid(prefills, replace(bare, kernel_gap_s=gpu.kernel_gap_s), fabric)
    gap = int(np.abs(GAP_GRID_S - gpu.kernel_gap_s.value).argmin())
    errors_CP = one.errors()[:, gap]
    best = int(np.abs(errors_CP).sum(axis=1).argmin())
    source = f"measured: {prefills[0].table}.csv, {len(prefills)} prefills"
    ceiling = Quantity(round(float(one.ceilings[best]), -9), source)
    fitted = record(f"prefill {one.precision}", prefills[0].table, (p.row for p in prefills), errors_CP[best])
    return replace(
        gpu,
        sustained_flops_per_s={**gpu.sustained_flops_per_s, one.precision: ceiling},
        fits=(*gpu.fits, fitted),
    )
