"""Numbers for people: the unit, the digits, and what they may claim."""

import re
from math import log10

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.edge.quantities import (
    NONE,
    adding_up,
    bytes_text,
    column_powers,
    ends_power,
    percent_text,
    power_of,
    ratio_text,
    time_column,
    time_pm,
    time_power,
    time_text,
)

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
SECONDS = st.floats(1e-9, 1e6)
SHARES = st.floats(0, 5)


@pytest.mark.parametrize(
    ("seconds", "low", "high", "said"),
    [
        (2.26419, 1.8471, 2.8254, "2.26 s (1.85..2.83)"),
        (0.305194, 0.24493, 0.40933, "305 ms (245..409)"),
        (11.58, 10.7, 12.5, "11.6 s (10.7..12.5)"),
        (0.9997, 0.9, 1.1, "1.00 s (0.90..1.10)"),
        (3.2e-6, 3.1e-6, 3.3e-6, "3.20 us (3.10..3.30)"),
        (0.002, 0.0, 0.4, "2.00 ms (0..400)"),
        (0.1147, 0.0531, 0.2869, "115 ms (53..287)"),
        (0.00012, 0.00012, 0.00012, "120.0 us"),
        (12345.6, 11000.0, 14000.0, "12300 s (11000..14000)"),
        (0.0, 0.0, 0.0, "0 s"),
    ],
)
def test_times(seconds: float, low: float, high: float, said: str) -> None:
    assert time_text(seconds, low, high) == said


@pytest.mark.parametrize(
    ("seconds", "half", "said"),
    [
        (12.42, 0.9, "12.4 s ±0.9"), (11580.0, 900.0, "11600 s ±900"), (2.264, 0.45, "2.26 s ±0.45"),
        (0.0123, 0.0, "12.30 ms"), (2.264, 1e-9, "2.264 s ±0.001"), (float("nan"), 1.0, NONE),
    ],
)  # fmt: skip
def test_times_that_are_off_either_way(seconds: float, half: float, said: str) -> None:
    assert time_pm(seconds, half) == said


@given(SECONDS, SHARES, SHARES)
def test_no_digit_claims_more_than_the_interval_knows(seconds: float, down: float, up: float) -> None:
    """The last digit is worth a ninetieth of the half-width at least, or it is the third; what is said is the time."""
    low, high = seconds * max(0.0, 1 - down), seconds * (1 + up)
    said = time_text(seconds, low, high)
    found = re.fullmatch(r"([\d.]+) (s|ms|us|ns)(?: \(([\d.]+)\.\.([\d.]+)\))?", said)
    assert found is not None, said
    unit = UNITS[found[2]]
    power, coarse = time_power(seconds, low, high), ends_power(seconds, low, high)
    ends = [(found[3], low, coarse), (found[4], high, coarse)] if found[3] else []
    for text, value, each in ((found[1], seconds, power), *ends):
        last = 10.0**each / unit
        assert abs(float(text) - value / unit) <= last / 2 * (1 + 1e-6)
        assert len(text.partition(".")[2]) == max(0, -round(log10(last)))
    half = (high - low) / 2
    if half:
        for last_s, value in ((10.0**power, seconds), (10.0**coarse, high)):
            assert last_s >= half / 90.001 or last_s >= 10.0 ** power_of(value) * 0.999
    digits = found[1].replace(".", "").lstrip("0").rstrip("0")
    assert len(digits) <= 4


@given(SECONDS, st.floats(0, 1e6))
def test_never_scientific(seconds: float, half: float) -> None:
    for said in (time_pm(seconds, half), time_text(seconds), bytes_text(seconds * 1e6), ratio_text(seconds)):
        assert re.fullmatch(r"[\d.]+( (s|ms|us|ns|B|kB|MB|GB|TB))?( ±[\d.]+)?", said), said
    assert float(time_text(seconds).split()[0]) < 1000 or seconds >= 999


@given(st.lists(st.tuples(SECONDS, SHARES), min_size=1, max_size=5))
def test_a_column_has_one_unit_and_keeps_the_order(rows: list[tuple[float, float]]) -> None:
    given_rows = [(s, s * max(0.0, 1 - share), s * (1 + share)) for s, share in rows]
    name, unit_s, cells = time_column(given_rows)
    assert UNITS[name] == unit_s and len(cells) == len(rows)
    for (seconds, _, _), (value, ends) in zip(given_rows, cells, strict=True):
        assert "e" not in value and ".." in ends
        assert float(value) * unit_s == pytest.approx(seconds, rel=0.006)


def test_times_side_by_side_bear_their_ratio_out() -> None:
    """Each interval alone would allow 170, 110 and 113: the sooner one would look as the slower one's better."""
    rows = [(0.17222, 0.105, 0.337), (0.11467, 0.053, 0.287), (0.11332, 0.081, 0.182)]
    _, _, cells = time_column(rows)
    assert cells == [("172", "105..337"), ("115", "53..287"), ("113", "81..182")]
    assert float(cells[1][0]) > float(cells[2][0]), "sooner is less"
    base, *others = (float(value) for value, _ in cells)
    for (seconds, _, _), value in zip(rows[1:], others, strict=True):
        assert base / value == pytest.approx(0.17222 / seconds, abs=0.01)
    assert column_powers(rows) == [-3, -3, -3] and column_powers([(0.0, 0.0, 0.0)]) == [0]


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=6), st.integers(-6, 2))
def test_parts_add_up_as_shown(parts: list[float], power: int) -> None:
    found = adding_up(parts, power)
    last = 10.0**power
    assert sum(found) == pytest.approx(round(sum(parts) / last) * last, abs=last / 1e3)
    assert all(abs(one - part) <= last * 1.001 for one, part in zip(found, parts, strict=True))


@pytest.mark.parametrize(
    ("nbytes", "said"),
    [(0, "0 B"), (2, "2 B"), (999, "999 B"), (16_484_000_000, "16.5 GB"), (1_053_800_000, "1.05 GB"),
     (999_999, "1.00 MB")],
)  # fmt: skip
def test_bytes(nbytes: float, said: str) -> None:
    assert bytes_text(nbytes) == said


def test_ratios_and_shares() -> None:
    assert ratio_text(1.03607, 1.0254, 1.04684) == "1.036 (1.025..1.047)"
    assert ratio_text(5.90701, 4.84495, 7.20188) == "5.9 (4.8..7.2)"
    assert ratio_text(1.5234, least=-2) == "1.52"
    assert [percent_text(share) for share in (0.0, 4.9e-5, 5.1e-5, 0.0012, 0.00563, 0.0216, 0.43, 1.0, 12.3)] == [
        "0 %", "0 %", "0.01 %", "0.12 %", "0.56 %", "2.2 %", "43 %", "100 %", "1230 %",
    ]  # fmt: skip
    assert ratio_text(float("inf")) == percent_text(float("nan")) == bytes_text(float("inf")) == NONE
