"""Numbers for people: in the unit that fits, and with no more digits than what they are off by allows.

Seconds in, text out; never scientific notation. The last digit shown is worth a ninth to a ninetieth of the half of an
interval's width: 2264.19 ms between 1.85 and 2.83 s is 2.26 s, and 12.4 s are off by 0.9. A value has one digit at
least, however wide its interval, and four at most, however narrow. A time with an interval has three at least: beside
it stand others, and ratios to them, that share most of what it is off by. Parts of a sum are rounded as the whole is.
"""

from collections.abc import Iterable, Sequence
from math import floor, isfinite, log10

MOST_DIGITS = 4
BARE_DIGITS = 3  # of what has no interval
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
NONE = "-"  # there is no such number


def power_of(value: float, half: float | None = None) -> int:
    """The power of ten that the last digit of a value is worth. half: half of its interval's width, None: it has
    none.
    """
    bare = half is None or not isfinite(half)
    most = BARE_DIGITS if bare else MOST_DIGITS
    nothing = not value or not isfinite(value)
    first = 0 if nothing else floor(log10(abs(float(f"{value:.{most - 1}e}"))))  # rounding may carry: 999.9 is 1000
    finest = 0 if nothing else first - most + 1
    if half is None or bare or half <= 0:
        return finest
    allowed = floor(log10(half / 9) + 1e-9)
    return allowed if nothing else max(min(allowed, first), finest)


def rounded(value: float, power: int) -> str:
    """A number to a power of ten, written out: 2264.19 to the first power is 2260."""
    if not isfinite(value):
        return NONE
    if power >= 0:
        return str(round(value / 10**power) * 10**power)
    text = f"{value:.{-power}f}"
    return text.removeprefix("-") if not float(text) else text


def _unit(value: float, units: Sequence[tuple[float, str]], power: int | None = None) -> tuple[float, str]:
    """The largest unit that a value is at least one of, after rounding; the smallest for what is less than that."""
    size = abs(value)
    if power is not None and isfinite(size):
        size = max(size, round(size / 10.0**power) * 10.0**power)
    return next((unit for unit in units if size >= unit[0] * (1 - 1e-12)), units[-1])


def time_power(seconds: float, low: float, high: float) -> int:
    """The power of ten, of a second, that the last digit of a time is worth: three digits at least."""
    return min(power_of(seconds, (high - low) / 2), power_of(seconds))


def ends_power(seconds: float, low: float, high: float) -> int:
    """The same of where it lies: never coarser than the width allows, and no finer than three digits of the end."""
    return min(power_of(seconds, (high - low) / 2), max(time_power(seconds, low, high), power_of(high)))


def adding_up(parts: Sequence[float], power: int, whole: float | None = None) -> list[float]:
    """Parts rounded to a power of ten so that they sum to the rounded whole: those cut most are rounded up.

    whole: what they sum to; their sum where it is left out. Each is off by less than the last digit.
    """
    last = 10.0**power
    counts = [floor(part / last + 1e-9) for part in parts]
    short = round((sum(parts) if whole is None else whole) / last) - sum(counts)
    by_rest = sorted(range(len(parts)), key=lambda at: counts[at] - parts[at] / last)
    for at in by_rest[: max(0, short)]:
        counts[at] += 1
    return [count * last for count in counts]


def time_unit(seconds: float) -> tuple[float, str]:
    """The unit for a time, in seconds, and its name; nothing at all is in seconds."""
    return _unit(seconds, _TIMES) if seconds else _TIMES[0]


def in_unit(seconds: float, unit_s: float, power: int) -> str:
    """A time in a given unit, to a power of ten of a second."""
    return rounded(seconds / unit_s, power - round(log10(unit_s)))


def _time(seconds: float, power: int) -> tuple[float, str]:
    return _unit(seconds, _TIMES, power) if seconds else _TIMES[0]


def time_text(seconds: float, low: float | None = None, high: float | None = None) -> str:
    """A time and where it lies: `2.26 s (1.85..2.83)`. Without an interval three digits: `2.26 s`."""
    if not isfinite(seconds):
        return NONE
    if low is None or high is None:
        power = power_of(seconds)
        unit_s, name = _time(seconds, power)
        return f"{in_unit(seconds, unit_s, power)} {name}"
    power, coarse = time_power(seconds, low, high), ends_power(seconds, low, high)
    unit_s, name = _time(seconds, power)
    value, ends = in_unit(seconds, unit_s, power), [in_unit(each, unit_s, coarse) for each in (low, high)]
    return f"{value} {name}" if ends == [value, value] else f"{value} {name} ({ends[0]}..{ends[1]})"


def time_pm(seconds: float, half: float) -> str:
    """A time and what it is off by either way: `12.4 s ±0.9`. What is off by less than the last digit shown is said to
    be off by one of it.
    """
    if not isfinite(seconds):
        return NONE
    if not isfinite(half):
        return time_text(seconds)
    power = power_of(seconds, half)
    unit_s, name = _time(seconds, power)
    value = f"{in_unit(seconds, unit_s, power)} {name}"
    return f"{value} ±{in_unit(max(half, 10.0**power), unit_s, power)}" if half > 0 else value


def time_column(rows: Iterable[tuple[float, float, float]]) -> tuple[str, float, list[tuple[str, str]]]:
    """Times with their ends, all in one unit: its name, its seconds, and of each row the value and `low..high`.

    Values have as many decimals as the one known best, of four digits at most: whoever is sooner has less.
    """
    given = list(rows)
    largest = max((seconds for seconds, _, _ in given), default=0.0)
    unit_s, name = time_unit(largest)
    cells = []
    for (seconds, low, high), power in zip(given, column_powers(given), strict=True):
        coarse = ends_power(seconds, low, high)
        value, *ends = (in_unit(each, unit_s, p) for each, p in ((seconds, power), (low, coarse), (high, coarse)))
        cells.append((value, "..".join(ends)))
    return name, unit_s, cells


def column_powers(rows: Sequence[tuple[float, float, float]]) -> list[int]:
    """What the last digit of each row of `time_column` is worth, of a second."""
    finest = min((time_power(*row) for row in rows if row[0]), default=0)
    return [max(finest, power_of(seconds, 0.0)) if seconds else 0 for seconds, _, _ in rows]


def bytes_text(nbytes: float) -> str:
    """Bytes in decimal units, three digits: `16.5 GB`."""
    if not isfinite(nbytes):
        return NONE
    power = power_of(nbytes)
    unit, name = _unit(nbytes, _BYTES, power)
    return f"{rounded(nbytes / unit, max(power - round(log10(unit)), 0 if name == 'B' else -9))} {name}"


def ratio_text(value: float, low: float | None = None, high: float | None = None, least: int = -3) -> str:
    """A ratio and where it lies: `1.036 (1.025..1.047)`; no finer than 10 to the power of `least`."""
    if not isfinite(value):
        return NONE
    if low is None or high is None:
        return rounded(value, max(power_of(value), least))
    power = max(power_of(value, (high - low) / 2), least)
    ends = [rounded(each, power) for each in (low, high)]
    return f"{rounded(value, power)} ({ends[0]}..{ends[1]})"


def percent_text(share: float, digits: int = 2) -> str:
    """A share as per cent, to so many digits that count: `0.6 %`, `43 %`; what rounds to nothing is `0 %`."""
    if not isfinite(share):
        return NONE
    value = 100 * share
    if abs(value) < 0.005:
        return "0 %"
    power = max(power_of(value, None) + BARE_DIGITS - digits, -2)
    return f"{rounded(value, min(power, 0))} %"
