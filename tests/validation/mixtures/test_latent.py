"""The fits of latent attention: the formulas in arrays are the model, and the shipped numbers the fits'."""

import numpy as np
import pytest

from thinwire.sim.costs.shipped import mixture_of
from thinwire.topologies.load import load_gpu
from thinwire.validation.mixtures import latent as fit_latent

GPU = "h200-sxm"


def test_the_formulas_in_arrays_are_the_model() -> None:
    """Of attention alone: every ninth row of prompts and of either cache, by the shipped numbers."""
    model, known = mixture_of(load_gpu(GPU)).latent, fit_latent.facts(GPU)
    prompts = fit_latent.read_rows(fit_latent.PREFILL)[GPU, "bf16"]
    thin = prompts.only(prompts.alone & (np.arange(len(prompts)) % 9 == 0))
    values = np.log(
        [model.prefill_launch_s, 1.0, model.prefill_balance, model.prefill_passes, model.prefill_efficiency]
    )
    seconds = fit_latent.prefill_seconds(np.r_[values, 0.0, 0.0], thin, known)
    assert seconds == pytest.approx(fit_latent.predict(model, thin, fit_latent.PREFILL), rel=1e-9)
    absorb = np.log([model.absorb_launch_s, model.absorb_share_efficiency, model.absorb_efficiency])
    for kv, cache in model.caches.items():
        rows = fit_latent.read_rows(fit_latent.DECODE)[GPU, kv]
        thin = rows.only(rows.alone & (np.arange(len(rows)) % 9 == 0))
        own = [getattr(cache, name) for name in fit_latent.NAMES[: fit_latent.OWN]]
        values = np.log([*own, cache.share_efficiency, cache.efficiency, 1, 1, 1])
        around_s = fit_latent.absorbed(absorb, thin, known)
        seconds = fit_latent.decode_seconds(values, thin, known, around_s, kv, cache.head_block)
        both = fit_latent.predict(model, thin, fit_latent.DECODE, kv)
        assert seconds + around_s == pytest.approx(both, rel=1e-9)


def test_a_shipped_model_is_the_fit() -> None:
    """Prompts and the products around decoding, within a percent: other processors' last digits end a fit elsewhere. A
    cache's fit takes seconds.
    """
    model, known = mixture_of(load_gpu(GPU)).latent, fit_latent.facts(GPU)
    found = fit_latent.rounded(fit_latent.fit_prefill(fit_latent.fitted_rows(fit_latent.PREFILL, GPU)["bf16"], known))
    shipped = [model.prefill_launch_s, model.prefill_efficiency, model.prefill_balance, model.prefill_passes]
    assert found[: fit_latent.PREFILL_OWN] == pytest.approx(shipped, rel=0.01)
    absorb = [model.absorb_launch_s, model.absorb_share_efficiency, model.absorb_efficiency]
    assert fit_latent.rounded(fit_latent.fit_absorb(GPU)) == pytest.approx(absorb, rel=0.01)


def test_another_engines_kernels_read_a_token_as_fast() -> None:
    """What the rates are fitted to, vLLM's modules, and what they are not, TensorRT-LLM's kernel alone, agree on what a
    token of a long context adds: within an eighth on Hopper, at 16 heads and at 128.
    """
    rows = fit_latent.read_rows(fit_latent.DECODE)[GPU, "bf16"]
    for heads in (16, 128):
        slope = {}
        for alone in (True, False):
            its = rows.only((rows.alone == alone) & (rows.heads == heads) & (rows.batch == 64) & (rows.tokens > 10_000))
            slope[alone] = (its.time_s[-1] - its.time_s[0]) / (its.tokens[-1] - its.tokens[0]) / 64
        assert slope[True] == pytest.approx(slope[False], rel=0.125)


def test_gpus_without_enough_rows_borrow_openly() -> None:
    """The A100's decode kernel was never timed; RTX PRO 6000's fp8 cache with one head alone."""
    assert mixture_of(load_gpu("a100-sxm")).latent.cache(2).source.startswith("assumed: efficiencies as on l40s")
    assert mixture_of(load_gpu("rtx-pro-6000")).latent.cache(1).source.startswith("assumed: fp8")
    assert mixture_of(load_gpu("h100-sxm")).latent.cache(1).source.startswith("measured")
