"""Spreads in closed form; what they make of a prediction is in tests/sim/test_interval.py."""

from math import exp, hypot, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.sim.costs.spread import CONFIDENCE, UNKNOWN, Spread, find, sum_interval


def spread(low: float, bias: float, high: float, part: str = "x", up_to: float | None = None) -> Spread:
    return Spread(part, up_to, low, bias, high, 3, "measured: made up")


def test_one_term_is_its_own_quantiles() -> None:
    """And so is the sum where the rest is exact."""
    one = spread(-0.2, -0.05, 0.4)
    assert sum_interval(2.0, [(2.0, one)]) == pytest.approx((2 * exp(-0.2), 2 * exp(0.4)))
    assert sum_interval(5.0, [(2.0, one)]) == pytest.approx((3 + 2 * exp(-0.2), 3 + 2 * exp(0.4)))
    assert sum_interval(5.0, []) == (5.0, 5.0)


@given(st.lists(st.tuples(st.floats(0.1, 9.0), st.floats(-0.5, 0.0), st.floats(0.0, 0.5)), min_size=1, max_size=6))
def test_distances_from_the_medians_add_in_squares(terms: list[tuple[float, float, float]]) -> None:
    total = sum(seconds for seconds, _, _ in terms)
    down = hypot(*(seconds * (1 - exp(low)) for seconds, low, _ in terms))
    up = hypot(*(seconds * (exp(high) - 1) for seconds, _, high in terms))
    found = sum_interval(total, [(seconds, spread(low, 0.0, high)) for seconds, low, high in terms])
    assert found == pytest.approx((total - down, total + up))


def test_two_wide_terms_on_the_same_seconds_stay_above_zero() -> None:
    """What a library and another host are off by: factors, whose logarithms add in squares."""
    wide = [(2.0, spread(-1.2, 0.0, 1.0)), (2.0, spread(-0.9, 0.0, 1.0))]
    assert hypot(1 - exp(-1.2), 1 - exp(-0.9)) < 1 < hypot(1 - exp(-3.0), 1 - exp(-2.0))
    assert sum_interval(2.0, wide)[0] == pytest.approx(2 * exp(-hypot(1.2, 0.9)))
    low, _ = sum_interval(2.0, [(2.0, spread(-3.0, 0.0, 1.0)), (2.0, spread(-2.0, 0.0, 1.0))])
    assert low == pytest.approx(2 * exp(-hypot(3.0, 2.0))) and low > 0


def test_biases_add_as_they_are_and_the_sum_stays_inside() -> None:
    terms = [(1.0, spread(-0.1, 0.1, 0.2)), (3.0, spread(-0.1, 0.1, 0.2))]
    middle = 4 * exp(0.1)
    half = hypot(1.0, 3.0)
    assert sum_interval(4.0, terms) == pytest.approx(
        (min(4.0, middle - half * (exp(0.1) - exp(-0.1))), middle + half * (exp(0.2) - exp(0.1)))
    )
    low, high = sum_interval(4.0, [(4.0, spread(0.0, 0.3, 0.3)), (0.0, spread(-0.1, 0.0, 0.1))])
    assert low == 4.0 and high == pytest.approx(4 * exp(0.3))


def test_what_is_just_a_spread_is_one() -> None:
    for inside in ((0.0, 0.0, 0.0), (-0.1, -0.1, 0.0), (0.0, 0.1, 0.1)):
        assert not spread(*inside).is_assumed
    for outside in ((0.01, 0.02, 0.03), (-0.3, -0.2, -0.1), (-0.1, 0.2, 0.1), (-0.1, -0.2, 0.1), (-inf, 0.0, 0.1)):
        with pytest.raises(ValueError, match="spread of x"):
            spread(*outside)


def test_a_regime_holds_its_end() -> None:
    known = (spread(-1, 0, 1, "a", 10.0), spread(-2, 0, 2, "a", 100.0))
    assert [find(known, size, "a").high for size in (1.0, 10.0, 10.1, 100.0, 101.0)] == [1, 1, 2, 2, 2]
    assert find((spread(-3, 0, 3, "a"), *known), 101.0, "a").high == 3


def test_nine_times_in_ten_and_a_third_where_nothing_is_known() -> None:
    """Figures that predictions print: a change of theirs is one of every interval."""
    assert CONFIDENCE == 0.9
    assert (UNKNOWN.low, UNKNOWN.bias, UNKNOWN.high, UNKNOWN.up_to) == (-0.3, 0.0, 0.3, None)
    assert find((), 1.0, "a") is UNKNOWN and UNKNOWN.is_assumed
