"""The fits of layers with a state: the formulas in arrays are the model, and the shipped numbers the fits'."""

import numpy as np
import pytest

from thinwire.sim.costs.shipped import mixture_of
from thinwire.topologies.load import load_gpu
from thinwire.validation.mixtures import recurrent as fit_recurrent

GPU = "b200-sxm"
KEYS = [key for key in fit_recurrent.read_rows() if key[0] == GPU]


@pytest.mark.parametrize("key", KEYS, ids=" ".join)
def test_the_shipped_numbers_are_the_fits_and_the_formula_the_model(key: fit_recurrent.Key) -> None:
    rows, known = fit_recurrent.read_rows()[key], fit_recurrent.facts(GPU)
    """Within half a percent of every row's time: other processors' last digits end a fit elsewhere."""
    values = np.log(fit_recurrent.rounded(fit_recurrent.fit_part(*key[2:], rows, known)))
    thin = rows.only(np.arange(len(rows)) % 7 == 0)
    arrays = fit_recurrent.seconds(*key[2:], values, thin, known)
    assert arrays == pytest.approx(fit_recurrent.predict(mixture_of(load_gpu(GPU)).recurrent, key, thin), rel=5e-3)


@pytest.mark.parametrize("gpu", ["b200-sxm", "h100-sxm", "h200-sxm"])
def test_chunks_follow_each_other_and_heads_run_beside(gpu: str) -> None:
    """What the form says of the table: as long as heads fit the multiprocessors, four times as many sequences of 4,096
    tokens take no more than 6 % longer; twice as long sequences take twice the time.
    """
    rows = fit_recurrent.read_rows()[gpu, "delta", "prefill", "scan"]

    def seconds(batch: int, length: int) -> float:
        its = rows.only((rows.batch == batch) & (rows.length == length) & (rows.heads == 32) & (rows.groups == 16))
        (found,) = its.time_s
        return float(found)

    assert seconds(4, 4096) == pytest.approx(seconds(1, 4096), rel=0.06)
    assert seconds(1, 16384) == pytest.approx(2 * seconds(1, 8192), rel=0.04)


def test_the_a100_borrows_prompts_openly() -> None:
    found = mixture_of(load_gpu("a100-sxm")).recurrent
    assert found.scan("delta").source.startswith("assumed: prompts as on l40s")
    assert found.scans["delta"].step_s == mixture_of(load_gpu("l40s")).recurrent.scans["delta"].step_s
