"""Published rows that thinwire and its peers are asked for, and what thinwire says to each.

A prefill is predicted three times: by the shipped profile; with the row left out of the fit, where a fit used it (as in
targets_kernels.py); and with the row's whole table left out, ceiling and gap taken from the other table of prefills. An
all-reduce is predicted by the shipped profile and, where a fit used the row, by a fit without it. Whether a peer is
closer is decided by the left-out prediction.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from thinwire.sim.costs.profile import Quantity
from thinwire.topologies.load import load_cluster
from thinwire.validation.fits import engine as fit_engine
from thinwire.validation.fits import series
from thinwire.validation.fits.engine import CEILING_GRID, GAP_GRID_S, EngineFit, Prefill
from thinwire.validation.fits.fabric import Series
from thinwire.validation.fits.published_tables import select
from thinwire.validation.targets import fabric, kernels

TOKENWEAVE, TRTLLM = "tokenweave_prefill_8xh100", "ttft_trtllm_batch1"
PEER_TABLES = {"nccl_collectives", "engine_allreduce"}  # AIConfigurator's own measurements, @095f58a
SOURCES = {
    (TOKENWEAVE, "bf16"): "TokenWeave, as served",
    (TOKENWEAVE, "none"): "TokenWeave, all-reduces removed",
    (TRTLLM, "bf16"): "TensorRT-LLM, batch 1",
}
BACKENDS = {TOKENWEAVE: "vllm", TRTLLM: "trtllm"}  # TokenWeave is a patched vLLM
OTHER_BACKEND = "trtllm"  # AIConfigurator's default


@dataclass(frozen=True)
class Row:
    """One published row with thinwire's predictions, seconds. `question`: what the workers are sent."""

    id: str
    kind: str  # prefill or all_reduce
    source: str
    machine: str
    label: str
    measured: float
    shipped: float
    left_out: float | None  # None: a fit used the row and cannot do without it
    how: str  # how `left_out` came about
    question: Mapping[str, Any]
    table_out: float | None = None  # of prefills
    counted: bool = True  # False: a peer's own data


# --- prefills ---


def prefill_id(prefill: Prefill) -> str:
    """Name of a row in the raw file."""
    return f"{prefill.table}:{prefill.row}:{prefill.scheme}"


def prefill_question(prefill: Prefill, backend: str, preset: str = "") -> dict[str, Any]:
    """A prefill for the workers."""
    return {
        "id": prefill_id(prefill),
        "kind": "prefill",
        "machine": prefill.machine,
        "gpu": load_cluster(prefill.machine).gpu.name,
        "model": prefill.model,
        "config": model_config(prefill.model),
        "tp": prefill.tp,
        "batch": 1,
        "input_tokens": prefill.input_tokens,
        "weights": prefill.weights,
        "exchanges": prefill.scheme != "none",
        "backend": backend,
        "preset": preset,
    }


def model_config(name: str) -> dict[str, Any]:
    """The config.json of a catalog model."""
    text = (resources.files("thinwire.reference") / "models" / f"{name}.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def prefills() -> Iterator[Row]:
    """Every prefill that validation knows."""
    for gpu, how, found in (
        ("h100-sxm", "held out", fit_engine.tokenweave("baseline_multimem")),
        ("h100-sxm", "one row out", fit_engine.tokenweave("no_ar")),
        ("h100-sxm", "one row out", [p for p in fit_engine.trtllm() if p.machine == "8xh100-nvlink"]),
        ("a100-sxm", "one row out", [p for p in fit_engine.trtllm() if p.machine == "8xa100-nvlink"]),
    ):
        errors = None
        if how == "one row out":
            fit = kernels.engine_fits()[gpu]
            errors = fit.leave_one_out(next(i for i, g in enumerate(fit.grids) if g.prefills == tuple(found)))
        for i, p in enumerate(found):
            shipped = kernels.predicted(p).ttft_s
            yield Row(
                id=prefill_id(p),
                kind="prefill",
                source=SOURCES[p.table, p.scheme],
                machine=p.machine,
                label=f"{p.model} {p.weights} TP{p.tp}, {p.input_tokens:,} tokens",
                measured=p.seconds,
                shipped=shipped,
                left_out=shipped if errors is None else p.seconds * (1 + float(errors[i])),
                how=how,
                question=prefill_question(p, BACKENDS[p.table]),
                table_out=without_table(p),
            )


@cache
def shares_without(table: str) -> tuple[float, float]:
    """Ceiling, as a share of the longest-running product's rate, and gap in seconds, by the other table alone.

    Without TokenWeave an H100 is left with the fp8 rows of TensorRT-LLM: they give the gap, the A100 the share in bf16.
    Without TensorRT-LLM both GPUs take what TokenWeave's bf16 prefills show on the H100.
    """
    h100, a100 = kernels.engine_fits()["h100-sxm"], kernels.engine_fits()["a100-sxm"]
    served = [grid for grid in h100.grids if grid.prefills[0].table == TOKENWEAVE]
    if table == TRTLLM:
        fit = EngineFit.of(served)
        return float(CEILING_GRID[fit.ceilings[0]]), float(GAP_GRID_S[fit.gap])
    rest = EngineFit.of([grid for grid in h100.grids if grid not in served])
    return float(CEILING_GRID[a100.ceilings[0]]), float(GAP_GRID_S[rest.gap])


def without_table(prefill: Prefill) -> float:
    """Seconds of a prefill with nothing learned from its table."""
    found = kernels.profile(prefill.machine)
    share, gap_s = shares_without(prefill.table)
    longest = fit_engine.longest_products(found.gpu.gemm[prefill.weights]).value
    limits = {**found.gpu.sustained_flops_per_s, prefill.weights: Quantity(share * longest, "assumed: another table")}
    gap = Quantity(gap_s, "assumed: another table")
    gpu = replace(found.gpu, sustained_flops_per_s=limits, kernel_gap_s=gap)
    return fit_engine.predicted_s(prefill, gpu, found.fabric)


def variants() -> dict[str, list[dict[str, Any]]]:
    """Other settings of AIConfigurator for the same prefills, by name."""
    served = [*fit_engine.tokenweave("baseline_multimem"), *fit_engine.tokenweave("no_ar")]
    fp8 = [p for p in fit_engine.trtllm() if p.weights == "fp8"]
    return {
        "TokenWeave's rows by its TensorRT-LLM tables": [prefill_question(p, OTHER_BACKEND) for p in served],
        "fp8 rows as it reads NVIDIA's FP8 checkpoints": [
            prefill_question(p, BACKENDS[TRTLLM], "checkpoint") for p in fp8
        ],
    }


# --- all-reduces ---

# No product of a peer's tables, and kernels that none knows: nobody was asked.
LATER = ("quickreduce_mi300x_tp2",)  # tables that came after the peers were asked
UNASKED = ("8xrtx4090-p2p", "8xrtx-pro-6000-2switch", "2xrtx5070ti-pcie")


def all_reduces() -> Iterator[Row]:
    """Every all-reduce that validation knows but pastes of single figures; ends of series have no left-out twin."""
    known = [
        s
        for s in series.calibration()
        if s.op == "all_reduce"
        and s.library not in ("fused", "pcie-ipc")
        and s.machine not in UNASKED
        and s.table not in LATER
    ]
    left_out = {(id(s), i): point.predicted for s, i, point in fabric.left_out_points(known)}
    for s in known:
        for i in range(len(s.nbytes)):
            yield _all_reduce(s, i, s.machine, "one row out", left_out.get((id(s), i)))
    for host, s in fabric.other_hosts():
        for i in range(len(s.nbytes)):
            yield _all_reduce(s, i, host, "held out", None)


def _all_reduce(s: Series, index: int, host: str, how: str, left_out: float | None) -> Row:
    point = fabric.series_point(s, index, group=host)
    cluster = load_cluster(s.machine)
    number, nbytes = s.row_numbers[index], int(s.nbytes[index])
    name = f"{s.table}:{number}:{s.library}"
    return Row(
        id=name,
        kind="all_reduce",
        source=s.table,
        machine=host,
        label=f"{s.library} x{s.ranks}, {fabric.size(nbytes)}",
        measured=point.measured,
        shipped=point.predicted,
        left_out=point.predicted if how == "held out" else left_out,
        how=how,
        question={
            "id": name,
            "kind": "all_reduce",
            "gpu": cluster.gpu.name,
            "ranks": s.ranks,
            "nodes": len(cluster.islands) if s.chunks > 1 else 1,
            "nbytes": nbytes,
            "library": "engine" if s.library.startswith("engine") else "nccl",
            "backend": backend(s, number),
        },
        counted=s.table not in PEER_TABLES,
    )


def backend(s: Series, number: int) -> str:
    """AIConfigurator's tables for an all-reduce: those of the engine that ran it, vLLM's otherwise."""
    if s.table != "engine_allreduce":
        return "vllm"
    found = dict(select(s.table))[number]
    return found["software"].lower()


@cache
def every_row() -> tuple[Row, ...]:
    """Prefills first."""
    return (*prefills(), *all_reduces())
