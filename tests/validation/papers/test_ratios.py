"""Intervals of ratios: shared errors cancel, others do not."""

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.sim.costs.spread import Spread
from thinwire.validation.papers.ratios import Part, Time, best, ratio

SPREAD = Spread("gemm", None, -0.2, 0.05, 0.3, 10, "measured: a test")
OTHER = Spread("nccl", None, -0.4, 0.0, 0.1, 10, "measured: a test")


def one(seconds: float, name: str = "a", spread: Spread = SPREAD, exact: float = 0.0) -> Time:
    return Time(seconds + exact, {name: Part(seconds, spread)})


def test_what_both_share_alike_cancels() -> None:
    found = ratio(one(4.0), one(2.0))
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_what_one_alone_has_is_its_own_quantiles() -> None:
    found = ratio(one(4.0), Time(2.0, {}))
    assert (found.low, found.high) == pytest.approx((2 * exp(-0.2), 2 * exp(0.3)))
    found = ratio(Time(4.0, {}), one(2.0))
    assert (found.low, found.high) == pytest.approx((2 * exp(-0.3), 2 * exp(0.2)))


def test_two_parts_of_their_own_add_in_squares() -> None:
    found = ratio(one(1.0), one(1.0, "b", OTHER))
    middle, down, up = 0.05, (0.25**2 + 0.1**2) ** 0.5, (0.25**2 + 0.4**2) ** 0.5
    assert (found.low, found.high) == pytest.approx((exp(middle - down), exp(middle + up)))


@given(a=st.floats(0.01, 10), b=st.floats(0.01, 10), c=st.floats(0, 10), d=st.floats(0, 10))
def test_the_ratio_lies_inside_and_turns_over(a: float, b: float, c: float, d: float) -> None:
    over, under = one(a, exact=c), one(b, exact=d)
    there, back = ratio(over, under), ratio(under, over)
    assert there.low <= there.value <= there.high
    assert (1 / back.high, 1 / back.low) == pytest.approx((there.low, there.high))


def test_the_best_is_the_largest() -> None:
    assert best([ratio(one(x), one(1.0)) for x in (1.0, 3.0, 2.0)]) == 1
