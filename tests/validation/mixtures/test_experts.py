"""What the rows of experts mean, and that the fit is the model and the shipped numbers its own."""

import json

import numpy as np
import pytest

from thinwire.sim.costs.shipped import PROFILES, mixture_of
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits.published_tables import rows as table_rows
from thinwire.validation.mixtures import experts as fit_experts
from thinwire.validation.mixtures import spreads

QUICK = ("l40s", "mxfp4")  # the smallest table: its fit takes a tenth of a second


def chosen(tokens: int, top: int, experts: int) -> list[list[int]]:
    """The collector's rule, token by token (collector/helper.py of ai-dynamo/aiconfigurator says it in torch)."""
    stride = -(-experts // top)
    step = 1 if tokens >= stride else stride / tokens
    return [[int(t * step + i * stride) % experts for i in range(top)] for t in range(tokens)]


@pytest.mark.parametrize(("top", "experts"), [(8, 256), (8, 128), (4, 32), (2, 8), (1, 16), (22, 512), (10, 512)])
@pytest.mark.parametrize("tokens", [1, 3, 16, 48, 129, 512])
def test_balanced_routing_token_by_token(tokens: int, top: int, experts: int) -> None:
    """Rows and experts hit of the first rank, at every number of ranks."""
    every = [e for its in chosen(tokens, top, experts) for e in its]
    for ep in (1, 2, 8):
        local = [e for e in every if e < experts // ep]
        assert fit_experts.routed(tokens, (0, 0, top, experts), ep, False) == (len(local), len(set(local)))


@pytest.mark.parametrize("tokens", [1, 5, 32, 100])
def test_a_grouped_router_sends_every_token_to_the_first_experts(tokens: int) -> None:
    """Token by token: choices outside the first four groups fall to the first experts not yet chosen."""
    taken: list[int] = []
    for own in chosen(tokens, 8, 256):
        kept = [e for e in own if e < 128]
        taken += kept + [e for e in range(128) if e not in kept][: 8 - len(kept)]
    for ep in (1, 2, 8, 64, 256):
        local = [e for e in taken if e < 256 // ep]
        assert fit_experts.routed(tokens, fit_experts.GROUPED, ep, True) == (len(local), len(set(local)))


def test_deepseeks_rows_are_of_half_its_experts() -> None:
    """How the grouping shows in the table: two ranks take no less than one, for all that is hit lies on the first; of
    Kimi K2's ungrouped rows the second rank takes half.
    """
    of = {
        (r["intermediate"], r["experts"], r["ep"]): float(r["us_64"])
        for r in table_rows("experts")
        if (r["system"], r["precision"], r["distribution"], r["hidden"], r["tp"])
        == ("h200_sxm", "fp8-block", "balanced", "7168", "1")
    }
    assert of["2048", "256", "2"] == pytest.approx(of["2048", "256", "1"], rel=0.05)
    assert of["2048", "384", "2"] < 0.65 * of["2048", "384", "1"]


def test_the_formula_in_arrays_is_the_model() -> None:
    """A third of the rows of one table; numbers rounded to four digits."""
    rows = fit_experts.read_rows()[QUICK]
    thin = rows.only(np.arange(len(rows)) % 3 == 0)
    known = fit_experts.facts(*QUICK)
    values = fit_experts.START + 0.1 * np.sin(np.arange(len(fit_experts.START)))
    for block in fit_experts.BLOCKS:
        kernels = fit_experts.build(QUICK[1], block, known, values, "measured: by hand")
        arrays = fit_experts._prepare(thin, QUICK[1], block, known).seconds(values)
        assert arrays == pytest.approx(fit_experts.predict(kernels, thin), rel=2e-3)


def test_the_shipped_numbers_are_the_fits() -> None:
    assert fit_experts.fit(fit_experts.read_rows()[QUICK], *QUICK) == mixture_of(load_gpu(QUICK[0])).experts.of(
        QUICK[1]
    )


@pytest.mark.parametrize("path", sorted(PROFILES.glob("mixture-*.json")), ids=lambda path: path.stem)
def test_records_say_what_is_left(path: object) -> None:
    """Medians within an eighth, and the numbers of the rows lie in the table."""
    table = json.loads(path.read_text("utf-8"))  # type: ignore[attr-defined]
    lines = len(table_rows("experts"))
    for record in table["fits"]:
        if record["what"].startswith("experts "):
            assert record["median"] < 0.125, record["what"]
            assert max(int(run.partition("-")[2] or run) for run in record["rows"].split(",")) < lines


def test_rows_left_out_are_off_little_more_than_others() -> None:
    """The form carries over: leaving a width out costs less than two points of the median."""
    rows = fit_experts.read_rows()[QUICK]
    logs, left = fit_experts.left_out(rows, *QUICK)
    assert len(left) == len(rows)
    inside = np.median(fit_experts.errors(fit_experts.fit(rows, *QUICK), rows))
    assert inside <= np.median(np.abs(np.expm1(logs))) < inside + 0.02


def test_skewed_routing_is_slower_than_balanced() -> None:
    """The same rows to the same number of experts: what balanced rows promise is the least of it. One GPU's one
    precision.
    """
    key = "h200-sxm", "bf16"
    skewed = fit_experts.read_rows("power_law_1.2")[key]
    model = mixture_of(load_gpu(key[0])).experts.of(key[1])
    left = skewed.only((skewed.ep == 1) & (skewed.rows / skewed.hit >= spreads.SKEWED))
    logs = np.log(left.time_s / fit_experts.predict(model, left))
    assert 0.05 < np.median(logs) < 0.3
