"""The engine fit: ceiling and gap, and the published prefills it is fitted to."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from thinwire.reference.families.config import load_model
from thinwire.sim.costs.profile import GpuProfile
from thinwire.sim.costs.shipped import load_profile
from thinwire.topologies.load import load_cluster
from thinwire.validation.fits import engine as fit_engine
from thinwire.validation.fits.engine import CEILING_GRID, GAP_GRID_S, EngineFit, Grid, Prefill
from thinwire.validation.fits.published_tables import rows
from thinwire.validation.targets import kernels as targets_kernels


def grid(
    ceilings: np.ndarray, kernels: list[int], work: list[float], truth: tuple[int, int], precision: str = "bf16"
) -> Grid:
    """Prefills of so many kernels and operations on an engine whose ceiling and gap are grid points."""
    ceiling, gap = truth
    seconds = [w / ceilings[ceiling] + n * GAP_GRID_S[gap] for n, w in zip(kernels, work, strict=True)]
    prefills = tuple(
        Prefill("made", i, "llama-3-70b", "8xh100-nvlink", 8, 1024, precision, "none", s) for i, s in enumerate(seconds)
    )
    gaps = np.array(kernels)[None, None, :] * GAP_GRID_S[None, :, None]
    return Grid(precision, prefills, ceilings, np.array(work)[None, None, :] / ceilings[:, None, None] + gaps)


CEILINGS = CEILING_GRID * 600e12
LONG_AND_SHORT = ([1000, 1000, 1000], [1e12, 1e14, 3e14])


def test_ceiling_and_gap_are_recovered() -> None:
    found = EngineFit.of([grid(CEILINGS, *LONG_AND_SHORT, truth=(20, 13))])
    assert (found.ceilings, found.gap) == ((20,), 13)
    assert np.abs(found.errors(0)).max() < 1e-12


def test_two_precisions_share_one_gap() -> None:
    """bf16 and fp8 have a ceiling each; the gap is the host's, so it is one."""
    bf16 = grid(CEILINGS, *LONG_AND_SHORT, truth=(20, 13))
    fp8 = grid(CEILINGS * 2, *LONG_AND_SHORT, truth=(31, 13), precision="fp8")
    found = EngineFit.of([bf16, fp8])
    assert (found.ceilings, found.gap) == ((20, 31), 13)


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_leave_one_out_leaves_the_row_out(index: int) -> None:
    """A prefill published three times slower is predicted as before when it is left out."""
    clean = grid(CEILINGS, [1000] * 4, [1e12, 1e13, 1e14, 3e14], truth=(20, 13))
    prefills = list(clean.prefills)
    prefills[index] = replace(prefills[index], seconds=3 * prefills[index].seconds)
    dirty = replace(clean, prefills=tuple(prefills))

    def predicted(one: Grid) -> float:
        error = EngineFit.of([one]).leave_one_out(0)[index]
        return float((1 + error) * one.prefills[index].seconds)

    assert predicted(dirty) == pytest.approx(predicted(clean), rel=1e-12)
    assert predicted(clean) == pytest.approx(clean.prefills[index].seconds, rel=0.02)


def shipped(machine: str) -> GpuProfile:
    return load_profile(load_cluster(machine)).gpu


def test_applied_writes_the_fit_into_the_profile() -> None:
    gpu = shipped("8xh100-nvlink")
    found = EngineFit.of([grid(CEILINGS, *LONG_AND_SHORT, truth=(20, 13))]).applied(gpu)
    assert found.kernel_gap_s.value == pytest.approx(GAP_GRID_S[13])
    assert found.sustained_flops_per_s["bf16"].value == pytest.approx(CEILINGS[20], rel=1e-6)
    assert found.sustained_flops_per_s["bf16"].source == "measured: made.csv, 3 prefills"
    assert found.sustained_flops_per_s["fp8"] == gpu.sustained_flops_per_s["fp8"]


def test_time_is_linear_in_the_gap() -> None:
    """`grid` extrapolates two gaps to all of them: hold a third against a prediction of its own."""
    prefill = fit_engine.tokenweave("no_ar")[0]
    profile = load_profile(load_cluster(prefill.machine))

    def seconds(gap_s: float) -> float:
        gpu = replace(profile.gpu, kernel_gap_s=replace(profile.gpu.kernel_gap_s, value=gap_s))
        return fit_engine.predicted_s(prefill, gpu, profile.fabric)

    none, one, nine = seconds(0.0), seconds(1e-6), seconds(9e-6)
    assert nine - none == pytest.approx(9 * (one - none), rel=1e-9)


def test_the_published_prefills_are_read_whole() -> None:
    """All 7 of tokenweave twice, and 11 of TensorRT-LLM's 14: the other 3 are Falcon 180B."""
    for column in ("no_ar", "baseline_multimem"):
        found = fit_engine.tokenweave(column)
        assert [p.seconds for p in found] == [float(row[column]) * 1e-3 for row in rows(found[0].table)]
    trtllm = fit_engine.trtllm()
    left = set(range(14)) - {p.row for p in trtllm}
    assert {rows("ttft_trtllm_batch1")[n]["model"] for n in left} == {"Falcon 180B"} and len(left) == 3
    assert Counter(p.machine for p in trtllm) == {"8xa100-nvlink": 6, "8xh100-nvlink": 5}
    for p in trtllm:
        row = rows(p.table)[p.row]
        assert (p.seconds, p.tp, p.input_tokens) == (
            float(row["ttft_ms"]) * 1e-3,
            int(row["tp"]),
            int(row["input_tokens"]),
        )
        assert row["batch"] == "1"
        load_model(p.model)


@pytest.mark.parametrize("machine", ["8xh100-nvlink", "8xa100-nvlink"])
def test_the_shipped_profile_holds_the_fit(machine: str) -> None:
    """Fitted again to the shipped kernels, the ceilings and the gap are those of the shipped profile."""
    gpu = shipped(machine)
    fit = targets_kernels.engine_fits()[gpu.name]
    found = fit.applied(gpu)
    assert found.kernel_gap_s.value == pytest.approx(gpu.kernel_gap_s.value, abs=1e-10)
    for precision in (one.precision for one in fit.grids):
        assert found.sustained_flops_per_s[precision].value == pytest.approx(
            gpu.sustained_flops_per_s[precision].value, rel=1e-3
        )
