"""The bounds of `sim.planning.bounds` in closed form: sharp where they can be, and never above what a run kept."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.sim.planning.bounds import Bounds, Requests, Targets
from thinwire.sim.serving.replica import Batching
from thinwire.sim.serving.run import Setup, Window
from thinwire.sim.serving.statistics import GROWTH, LOWEST_S, Batched

from ..serving.paces import Scripted, simulate
from .test_plan import Floored

Row = tuple[float, int, int]  # arrival, prompt, output

FREE = 1e-12  # seconds of what shall not count; a pace of exactly 0 would be none
MANY = Batching(1 << 16, 1 << 12, 1 << 30)
# Iterations of few tokens are looked at one by one, and capacity is exact: larger ones are taken by the eighth.
FEW = Batching(7, 7, 1 << 30)


def asked(rows: list[Row], duration_s: float, warm_up_s: float = 0.0) -> Requests:
    """Requests written down."""
    at_s, prompt, output = (np.array(column) for column in zip(*rows, strict=True))
    return Requests(prompt, output, at_s, at_s >= warm_up_s, Window(duration_s, warm_up_s))


def reported(values: list[float], quantile: float) -> float:
    """What a run would say of these."""
    bins = Batched(1)
    bins.add(np.array(values), np.zeros(len(values), dtype=np.int64))
    return bins.summary([quantile]).percentiles[quantile].value


# --- (1) and (2): requests alone


@pytest.mark.parametrize(
    "pace",
    [Floored(3e-3, 1e-5, 1e-4, 1e-7), Floored(FREE, 1e-5, FREE, FREE), Floored(FREE, FREE, FREE, 1e-6)],
    ids=["all", "prompt", "context"],
)
@pytest.mark.parametrize("budget", [64, 1 << 13])
@pytest.mark.parametrize("shortest", [1, 1000])
def test_who_is_alone_meets_the_bounds(pace: Floored, budget: int, shortest: int) -> None:
    """Requests that never meet take the bounds' time, but for what chunks of a prompt see of it: both are sharp."""
    limits = Batching(budget, 8, 1 << 20)
    rows = [(60.0 * i, shortest * (10 + 3 * i) // 10, 2) for i in range(10)]
    run, _ = simulate(Setup(pace, limits, 1), Scripted(tuple(rows)), 600)
    bounds = Bounds(pace, limits, asked(rows, 600))
    for q in (0.5, 0.9, 0.99):
        ttft_s, tpot_s = run.ttft.percentiles[q].value, run.tpot.percentiles[q].value
        assert tpot_s / GROWTH <= bounds.tpot_s(q) <= tpot_s
        assert bounds.ttft_s(q) <= ttft_s
        if pace.context_s == FREE:
            assert ttft_s / GROWTH <= bounds.ttft_s(q) * 9 / 8  # chunks are looked at by the eighth


@given(st.integers(1, 5000), st.floats(0.0, 1.0), st.integers(1, 40))
def test_a_bound_an_ulp_above_the_truth_is_no_bin_higher(edge: int, q: float, count: int) -> None:
    """A pace's floor and its iterations are other sums of the same numbers. Where the truth lies just below the edge of
    a bin and its bound, by rounding, just above, the bound is still none of the bin above.
    """
    value = LOWEST_S * GROWTH**edge
    above = np.full(count, value * (1 + 1e-12))
    assert asked([(0.0, 1, 1)], 1.0).quantile_s(above, q) <= reported([value * (1 - 1e-12)] * count, q)


def test_of_no_requests_every_bound_is_nothing() -> None:
    nobody = Bounds(Floored(), MANY, asked([(0.0, 10, 10)], 2.0, warm_up_s=1.0))
    assert (nobody.ttft_s(0.9), nobody.tpot_s(0.9), nobody.replicas(Targets(0.9, 1.0))) == (0.0, 0.0, 1)
    one_token = Bounds(Floored(), MANY, asked([(1.5, 10, 1)], 2.0, warm_up_s=1.0))
    assert one_token.tpot_s(0.9) == 0.0 < one_token.ttft_s(0.9)


# --- (3): capacity. All requests must keep the targets; of all but one that is counted, so a giant stands beside.

GIANT: Row = (0.0, 1 << 20, 1 << 20)
AT_ONCE = Targets(1.0, FREE, 1.0, FREE)
rows = st.lists(st.tuples(st.just(0.0), st.integers(1, 4000), st.integers(1, 300)), min_size=1, max_size=20)


def worked_s(pace: Floored, rows: list[Row]) -> float:
    """Token by token."""
    return sum(
        pace.prompt_s * prompt + sum(pace.sequence_s + pace.context_s * (prompt + i) for i in range(1, output))
        for _, prompt, output in rows
    )


@given(rows, st.integers(1, 60), st.sampled_from([-0.01, 0.01]), st.sampled_from([0.25, 1.0, 16.0]), st.booleans())
def test_work_of_so_many_windows_needs_so_many_replicas(
    rows: list[Row], windows: int, more: float, ratio: float, contexts: bool
) -> None:
    """The work is counted out, and a replica more is needed exactly where it no longer fits."""
    pace = Floored(FREE, 1.0, ratio, 0.01 if contexts else FREE)
    window_s = worked_s(pace, rows) / (windows + more)
    needed = Bounds(pace, FEW, asked([*rows, GIANT], window_s)).replicas(AT_ONCE)
    assert needed == (windows if more < 0 else windows + 1)


@given(st.lists(st.floats(0.1, 10.0), min_size=1, max_size=12), st.integers(1, 300))
def test_work_that_just_fits_is_not_ruled_out_by_rounding(prices: list[float], windows: int) -> None:
    """Windows filled to the brim: an ulp too much in some sum would ask for a replica more."""
    for price in prices:
        pace = Floored(0.0, price, price, FREE)
        rows: list[Row] = [(0.0, 3, 1)] * windows
        duration_s = 3 * price
        assert Bounds(pace, FEW, asked([*rows, GIANT], duration_s)).replicas(Targets(1.0, 1e-300)) == windows


@given(st.floats(0.1, 100.0), st.integers(1, 5))
def test_a_percentile_kept_as_reported_may_have_been_missed_by_a_bin(target_s: float, replicas: int) -> None:
    """The first tokens that kept T, says a histogram, may have come at T times a bin: until then work may be done."""
    window_s = 0.5
    for times, needed in ((0.9999 * GROWTH, replicas), (1.1, replicas + 1)):
        pace = Floored(FREE, (window_s + target_s * times) / 100, FREE, FREE)
        rows: list[Row] = [(0.0, 100, 1)] * replicas
        found = Bounds(pace, FEW, asked([*rows, GIANT], window_s)).replicas(Targets(1.0, target_s))
        assert (found > replicas) == (needed > replicas)


def test_tokens_count_that_were_due_even_to_who_was_a_bin_slower() -> None:
    """An answer's tokens are work of the window where even T times a bin had them all out before its end."""
    pace, tokens, tpot_s = Floored(FREE, 1.0, 1.0, FREE), 1000, 0.01
    for window_s, due in ((tokens * tpot_s * 0.5, False), (tokens * tpot_s * GROWTH * 0.9999, False),
                          (tokens * tpot_s * 1.1, True)):  # fmt: skip
        bounds = Bounds(pace, FEW, asked([(0.0, 1, tokens + 1), GIANT], window_s))
        assert (bounds.replicas(Targets(1.0, FREE, 1.0, tpot_s)) > 10) == due
        assert bounds.replicas(Targets(1.0, FREE)) <= 1  # no target for them: they may come when they like


@given(st.integers(2, 40), st.integers(0, 40), st.sampled_from([0.5, 0.9, 1.0]), st.sampled_from([0.5, 0.9, 1.0]))
def test_of_each_target_so_many_may_miss_it(short: int, long: int, ttft: float, tpot: float) -> None:
    """Of all requests the TTFT, of those of several tokens the TPOT; all are alike, and so is the work of the rest."""
    pace, count = Floored(FREE, 1.0, FREE, FREE), short + long
    rows: list[Row] = [(0.0, 7, 1)] * short + [(0.0, 7, 2)] * long
    good = max(0, math.floor(count - (1 - ttft) * count - (1 - tpot) * long - 1e-6))
    window_s = 7 / 4  # of a fourth of a request
    expected = max(1, math.ceil(4 * good * (1 - 1e-9)))
    assert Bounds(pace, FEW, asked(rows, window_s)).replicas(Targets(ttft, FREE, tpot, FREE)) == expected


@given(st.integers(1, 30), st.integers(1, 50), st.integers(2, 400))
def test_tokens_that_nobody_asked_for_in_time_are_no_work_at_all(count: int, windows: int, output: int) -> None:
    """Answers without a target may come after the window, and their prompts alone are counted."""
    pace, rows = Floored(FREE, 1.0, 16.0, 0.01), [(0.0, 7, output)] * count
    window_s = 7.0 * count / (windows - 0.01)
    for targets in (Targets(1.0, FREE), Targets(1.0, FREE, 1.0, 1e9)):
        assert Bounds(pace, FEW, asked([*rows, GIANT], window_s)).replicas(targets) == windows
