"""Numbers for people: the unit, the digits, and what they may claim."""

import re
from math import isclose, log10

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.edge.quantities import (
    NONE,
    bytes_text,
    percent_text,
    power_of,
    ratio_text,
    time_column,
    time_pm,
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
        (0.002, 0.0, 0.4, "2 ms (0..400)"),
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
    """The last digit is worth a ninetieth of the half-width at least; what is said is the time, rounded there."""
    low, high = seconds * max(0.0, 1 - down), seconds * (1 + up)
    said = time_text(seconds, low, high)
    found = re.fullmatch(r"([\d.]+) (s|ms|us|ns)(?: \(([\d.]+)\.\.([\d.]+)\))?", said)
    assert found is not None, said
    unit = UNITS[found[2]]
    for text, value in ((found[1], seconds), *([(found[3], low), (found[4], high)] if found[3] else [])):
        places = len(text.partition(".")[2])
        last = 10.0 ** power_of(seconds, (high - low) / 2) / unit
        assert abs(float(text) - value / unit) <= last / 2 * (1 + 1e-6)
        assert places == max(0, -round(log10(last)))
    half = (high - low) / 2
    if half:
        last_s = 10.0 ** power_of(seconds, half)
        assert last_s >= half / 90.001 or isclose(last_s, 10.0 ** power_of(seconds)), "or the value has no digit at all"
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
        assert float(value) * unit_s == pytest.approx(seconds, rel=0.51)


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
