"""The inverse question against closed forms: what is solved for gives the target."""

from math import log2

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from thinwire.validation.papers.inverse import FARTHEST, solve

shares = st.floats(0.05, 0.95)
factors = st.floats(1.01 / FARTHEST, FARTHEST / 1.01)


@settings(deadline=None)
@given(wire=shares, bits=st.floats(0.1, 0.9), true=factors)
def test_a_link_rate_is_found(wire: float, bits: float, true: float) -> None:
    """Speed-up of a prefill whose wire takes `wire` of the time and `bits` of that with the scheme."""

    def speed_up(rate: float) -> float:
        return (1 - wire + wire / rate) / (1 - wire + bits * wire / rate)

    found = solve(speed_up, speed_up(true))
    assert found is not None and found == pytest.approx(true, rel=1e-4)
    assert speed_up(found) == pytest.approx(speed_up(true), rel=1e-6)


@settings(deadline=None)
@given(wire=shares, target=shares)
def test_a_share_of_the_wire_is_found_in_closed_form(wire: float, target: float) -> None:
    """Kernels at x of their time: share = wire / (wire + x (1 - wire))."""
    x = wire * (1 - target) / (target * (1 - wire))
    assume(1 / FARTHEST < x < FARTHEST)
    found = solve(lambda factor: wire / (wire + factor * (1 - wire)), target)
    assert found == pytest.approx(x, rel=1e-4)


@settings(deadline=None)
@given(wire=shares, codec=st.floats(0.01, 0.5), bits=st.floats(0.1, 0.5))
def test_where_none_is_within_reach_none_is_said(wire: float, codec: float, bits: float) -> None:
    def speed_up(factor: float) -> float:
        return 1 / (1 - wire + bits * wire + codec * factor)

    assert solve(speed_up, 1 / (1 - wire + bits * wire)) is None  # codec kernels that cost nothing
    assert solve(speed_up, speed_up(FARTHEST) / 2) is None


def test_today_is_a_factor_of_one() -> None:
    assert solve(lambda x: 3 * x, 3.0) == 1.0


@pytest.mark.parametrize("target", [0.5, 2.0, 1 / FARTHEST, FARTHEST])
def test_either_side_and_both_ends_are_reached(target: float) -> None:
    assert solve(lambda x: x, target) == pytest.approx(target, rel=1e-5)


def test_of_two_the_nearer_is_taken() -> None:
    """A hump: |log2 x - 3| crosses 1 at 4 and at 16; |log2 x - 0.25| crosses 0.5 at 2**-0.25 and 2**0.75."""
    assert solve(lambda x: abs(log2(x) - 3), 1.0) == pytest.approx(4.0, rel=1e-4)
    assert solve(lambda x: abs(log2(x) - 0.25), 0.5) == pytest.approx(2**-0.25, rel=1e-4)
