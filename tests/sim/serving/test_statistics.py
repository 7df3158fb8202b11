"""Percentiles from bins, intervals from batches, areas under levels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.sim.serving.statistics import (
    BINS,
    GROWTH,
    LOWEST_S,
    NO_SLO,
    Batched,
    Estimate,
    Level,
    Recorder,
    Slo,
    Summary,
    plus_minus,
    quantile,
    student,
    time,
)


@given(st.lists(st.floats(2e-6, 1e5), min_size=1, max_size=300), st.sampled_from((0.5, 0.9, 0.99)))
def test_a_percentile_is_within_a_bin_of_the_exact_one(values: list[float], q: float) -> None:
    binned = Batched(2)
    binned.add(np.array(values), np.zeros(len(values), dtype=np.int64))
    found = binned.summary((q,)).percentiles[q].value
    exact = float(np.quantile(values, q, method="inverted_cdf"))
    assert exact / GROWTH * (1 - 1e-9) <= found <= exact * GROWTH * (1 + 1e-9)


def test_a_percentile_between_bins_is_half_a_bin_off_at_most() -> None:
    values = np.random.default_rng(0).lognormal(0, 1, 200_000)
    binned = Batched(2)
    binned.add(values, np.arange(len(values)) % 2)
    for q, found in binned.summary().percentiles.items():
        assert found.value == pytest.approx(np.quantile(values, q), rel=0.004)


@given(st.integers(0, BINS - 1), st.integers(1, 50), st.integers(0, 50), st.floats(0.0, 1.0))
def test_a_percentile_lies_in_its_bin_in_proportion(edge: int, inside: int, before: int, q: float) -> None:
    """Of equal values the q-th is a share q of the bin up; of those below it, none is counted for that."""
    counts = np.zeros(BINS + 1, dtype=np.int64)
    counts[edge + 1] = inside
    assert quantile(counts, q) == pytest.approx(LOWEST_S * GROWTH ** (edge + 1 + q), rel=1e-12)
    counts[edge] = before
    rank = q * (before + inside) - before
    if rank > 1e-9:
        assert quantile(counts, q) == pytest.approx(LOWEST_S * GROWTH ** (edge + 1 + rank / inside), rel=1e-12)


def test_what_is_outside_the_bins_counts_at_their_ends() -> None:
    counts = np.zeros(BINS, dtype=np.int64)
    binned = Batched(2)
    binned.add(np.array([0.0, 1e12]), np.array([0, 1]))
    assert binned.summary((0.99,)).count == 2
    counts[0] = 1
    assert quantile(counts, 0.5) == pytest.approx(LOWEST_S, rel=GROWTH - 1)


def test_the_interval_of_a_mean_is_students() -> None:
    """95 of 100 intervals hold the mean; Student's factor for 9 degrees of freedom is 2.262."""
    assert student([1.0]) is None
    assert student([0.0, 2.0] * 5) == pytest.approx(2.262157 * math.sqrt(10 / 9) / math.sqrt(10), rel=1e-6)
    rows = np.random.default_rng(1).normal(3.0, 2.0, (4000, 10))
    held = sum(abs(row.mean() - 3.0) <= (student(row) or 0.0) for row in rows)
    assert held / 4000 == pytest.approx(0.95, abs=0.012)


def test_of_nothing_there_is_no_estimate() -> None:
    empty = Batched(3).summary()
    assert empty.count == 0 and math.isnan(empty.mean.value)
    assert empty.to_dict()["mean"] == {"value": None, "half_width": None}


def recorded(*requests: tuple[float, float, float, int], slo: Slo = NO_SLO) -> Recorder:
    recorder = Recorder(10.0, 30.0, 4, slo)
    for request in requests:
        recorder.add(*request)
    return recorder.finish()


def test_warm_up_is_cut_by_arrival_and_rates_count_by_end() -> None:
    early, inside, late = (9.0, 11.0, 12.0, 5), (11.0, 12.0, 29.0, 18), (29.0, 30.0, 40.0, 11)
    found = recorded(early, inside, late, (30.0, 31.0, 32.0, 7), (1.0, 2.0, 3.0, 9))
    assert found.ttft.summary().count == 2
    assert found.latency.summary().mean.value == pytest.approx((18 + 11) / 2)
    assert found.tpot.summary().mean.value == pytest.approx(1.0, rel=1e-9)
    assert found.output_tokens_per_s.value == pytest.approx((5 + 18) / 20)
    assert found.goodput_per_s.value == pytest.approx(2 / 20)


def test_the_window_holds_its_beginning_and_not_its_end() -> None:
    """[10, 30) in batches [10, 15), [15, 20) ..: each moment is in one."""
    found = recorded((10.0, 11.0, 12.0, 2), (30.0, 31.0, 32.0, 2), (29.999, 31.0, 32.0, 2))
    assert found.ttft.summary().count == 2
    found = recorded((5.0, 6.0, 10.0, 4), (5.0, 6.0, 9.999, 8), (12.0, 13.0, 30.0, 16))
    assert found.output_tokens_per_s.value == pytest.approx(4 / 20), "rates count who ends in the window"
    ends = recorded(*((10.5, 11.0, end_s, 1) for end_s in (10.5, 14.999, 15.0, 20.0, 25.0, 29.999)))
    rates = [2 / 5, 1 / 5, 1 / 5, 2 / 5]
    assert ends.goodput_per_s.half_width == pytest.approx(student(rates))


def test_a_good_request_keeps_both_limits_to_the_last_bit() -> None:
    for ttft_s, tpot_s, good in ((2.0, 0.5, 1), (2.0001, 0.5, 0), (2.0, 0.5001, 0), (1.9, 0.4, 1)):
        found = recorded((11.0, 11.0 + ttft_s, 11.0 + ttft_s + 4 * tpot_s, 5), slo=Slo(2.0, 0.5))
        assert found.attainment == good


def test_what_is_just_allowed_is_allowed() -> None:
    assert Recorder(0.0, 1.0, 2, NO_SLO).finish().ttft.summary().count == 0
    for wrong in ((0.0, 1.0, 1), (1.0, 1.0, 2), (-1e-9, 1.0, 2), (0.0, math.inf, 2)):
        with pytest.raises(ValueError):
            Recorder(*wrong, NO_SLO)
    for wrong_slo in ({"ttft_s": 0.0}, {"tpot_s": 0.0}, {"tpot_s": math.nan}):
        with pytest.raises(ValueError, match="of an SLO must be positive"):
            Slo(**wrong_slo)


def test_an_answer_of_one_token_has_no_tpot() -> None:
    found = recorded((11.0, 12.0, 12.0, 1), (12.0, 13.0, 15.0, 2), slo=Slo(5.0, 1.0))
    assert found.tpot.summary().count == 1
    assert found.attainment == 0.5


def test_the_buffer_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [(10 + i * 0.01, 10.5 + i * 0.011, 11 + i * 0.012, 1 + i % 7) for i in range(1500)]
    whole = recorded(*requests, slo=Slo(1.0, 0.3))
    monkeypatch.setattr(Recorder, "FLUSH", 7)
    pieces = recorded(*requests, slo=Slo(1.0, 0.3))
    assert whole.ttft.summary() == pieces.ttft.summary()
    assert (whole.goodput_per_s, whole.attainment) == (pieces.goodput_per_s, pieces.attainment)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 10)), max_size=30))
def test_the_area_under_a_level_is_what_everybody_stayed(moves: list[tuple[int, float]]) -> None:
    level, at_s, stays, arrivals = Level(), 0.0, 0.0, list[float]()
    for joining, step_s in moves:
        at_s += step_s
        if joining or not arrivals:
            level.change(1, at_s)
            arrivals.append(at_s)
        else:
            stays += at_s - arrivals.pop(0)
            level.change(-1, at_s)
    stays += sum(at_s + 1 - came for came in arrivals)
    assert level.area_until(at_s + 1) == pytest.approx(stays, abs=1e-9)
    assert level.now == len(arrivals) <= level.most or not moves


def test_who_is_never_served_keeps_no_slo() -> None:
    found = Recorder(10.0, 30.0, 4, Slo(5.0))
    found.add(11.0, 12.0, 13.0, 2)
    assert found.finish(3).attainment == 0.25


def test_plain_values_are_in_their_unit() -> None:
    assert Estimate(2.0, 0.5).to_dict() == {"value": 2.0, "half_width": 0.5}
    assert Estimate(2.0, None).to_dict(1e3) == {"value": 2000.0, "half_width": None}
    of = Summary(7, Estimate(0.25, 0.5), {0.5: Estimate(0.125, None), 0.999: Estimate(1.0, 0.25)})
    assert of.to_dict() == {
        "count": 7,
        "mean": {"value": 250.0, "half_width": 500.0},
        "p50": {"value": 125.0, "half_width": None},
        "p99.9": {"value": 1000.0, "half_width": 250.0},
    }
    assert of.to_dict(1.0)["mean"]["value"] == 0.25


def test_what_is_not_there_is_a_dash() -> None:
    nothing = Estimate(math.nan, None)
    assert (plus_minus(nothing), time(nothing)) == ("-", "-")


def test_digits_are_those_that_the_interval_allows() -> None:
    """Never scientific: whole answers of 11.6 s were `1.158e+04 ±9e+02` milliseconds once."""
    assert time(Estimate(11.58, 0.9)) == "11.6 s ±0.9"
    assert (time(Estimate(0.5, 0.25)), time(Estimate(0.5, None))) == ("500 ms ±250", "500 ms")
    assert (
        plus_minus(Estimate(0.2256, 0.04)) == "0.226 ±0.040" and plus_minus(Estimate(0.2256, 0.04), -2) == "0.23 ±0.04"
    )
    assert plus_minus(Estimate(123456.0, 0.0)) == "123500"
