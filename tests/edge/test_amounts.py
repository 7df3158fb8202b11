"""2k, 1.5k and 16M: every small number, and whatever else somebody types."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.edge.amounts import FACTORS, amount, whole

SUFFIXES = ("", "k", "K", "m", "M", "g", "G")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_small_number_with_every_suffix(suffix: str) -> None:
    factor = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}[suffix.lower()]
    for tenths in range(2000):
        text = f"{tenths // 10}.{tenths % 10}{suffix}" if tenths % 10 else f"{tenths // 10}{suffix}"
        exact = Fraction(tenths * factor, 10)
        assert amount(text) == float(exact)
        if exact.denominator == 1:
            assert whole(text) == exact
        else:
            with pytest.raises(ValueError, match="must be a whole number; given"):
                whole(text)


@given(st.integers(-(10**20), 10**20), st.sampled_from(SUFFIXES))
def test_whole_numbers_are_read_exactly(number: int, suffix: str) -> None:
    assert whole(f" {number}{suffix} ") == number * FACTORS[suffix.lower()]
    assert whole(number) == number


@given(st.text(max_size=12))
def test_anything_else_is_one_refusal(text: str) -> None:
    for read in (whole, amount):
        try:
            found = read(text)
        except ValueError as error:
            assert str(error).startswith("must be a ") and len(str(error)) < 200
        else:
            assert isinstance(found, int | float)


@pytest.mark.parametrize(
    "given", ["", "k", "2kk", "2 k", "1e3k", "0x10", "١k", "2KiB", "--2", "nan k", True, None, 2.5, [1]]
)
def test_what_is_no_whole_number(given: object) -> None:
    with pytest.raises(ValueError, match="must be a whole number; given"):
        whole(given)


def test_a_mean_may_have_decimals_and_an_exponent() -> None:
    assert (amount("700.5"), amount("1e3"), amount(3), amount(2.5)) == (700.5, 1000.0, 3.0, 2.5)
    with pytest.raises(ValueError, match="must be a number; given 'many'"):
        amount("many")
    with pytest.raises(ValueError, match="must be a number"):
        amount(True)
