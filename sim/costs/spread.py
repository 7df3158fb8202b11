"""How far a part of a profile is off, and what several parts make of a sum.

A `Spread` holds quantiles of log(measured / predicted) over rows that the part's fit did not see, at one kind of op and
up to one size. `sum_interval` adds parts that err independently.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import exp, hypot
from typing import Annotated

from pydantic import Strict

from thinwire.edge.limits import LOG_FACTOR
from thinwire.edge.words import shown

CONFIDENCE = 0.9  # of every interval: between the 5th and the 95th percentile


# In files numbers are numbers: no texts that read as one, no truth values.
Real = Annotated[float, Strict()]
Whole = Annotated[int, Strict()]


def check_source(source: str) -> None:
    """ValueError unless a source says how its number is known."""
    if source.split(":")[0] not in ("datasheet", "measured", "assumed"):
        raise ValueError(f"a source starts with datasheet:, measured: or assumed: (given {shown(source)})")


@dataclass(frozen=True, slots=True)
class Spread:
    """Quantiles of log(measured / predicted): 5 %, median (the signed bias), 95 %."""

    part: str  # "gemm bf16", "attention", ..., or who carries a collective
    up_to: Real | None  # largest size it holds for: rows m, keys, bytes; None: any
    low: Real
    bias: Real
    high: Real
    rows: Whole  # behind it
    source: str

    def __post_init__(self) -> None:
        check_source(self.source)
        quantiles = self.low, self.bias, self.high
        if not all(map(LOG_FACTOR.holds, quantiles)) or not self.low <= self.bias <= self.high:
            raise ValueError(
                f"spread of {self.part}: quantiles must lie {LOG_FACTOR.range} and be in order: {quantiles}"
            )
        if not self.low <= 0 <= self.high:
            raise ValueError(f"spread of {self.part}: must hold no error at all: {self.low} .. {self.high}")
        if self.up_to is not None and not self.up_to > 0:
            raise ValueError(f"spread of {self.part}: up_to must be positive: {self.up_to}")

    @property
    def is_assumed(self) -> bool:
        """Was it carried over from something else?"""
        return self.source.startswith("assumed")


UNKNOWN = Spread(
    "unknown", None, -0.3, 0.0, 0.3, 0, "assumed: the profile gives no spread; as wide as stand-ins of another kind are"
)


ANOTHER_HOST = "another host"  # part: what hosts of a kind differ by; a profile of the user's own host has none


def another_host(spreads: Iterable[Spread], size: float) -> Spread | None:
    """What hosts of the kind differ by at one size; None where the profile is of the user's own host."""
    own = [spread for spread in spreads if spread.part == ANOTHER_HOST]
    return find(own, size, ANOTHER_HOST) if own else None


def find(spreads: Iterable[Spread], size: float, *parts: str) -> Spread:
    """The spread of the first of `parts` that is known, in its smallest regime that holds `size`; beyond all, the
    largest. `UNKNOWN` where none is.
    """
    known = tuple(spreads)
    for part in parts:
        own = [s for s in known if s.part == part]
        fitting = [s for s in own if s.up_to is None or size <= s.up_to]
        if own:
            return min(fitting, key=_reach) if fitting else max(own, key=_reach)
    return UNKNOWN


def _reach(spread: Spread) -> float:
    return float("inf") if spread.up_to is None else spread.up_to


def sum_interval(total_s: float, terms: Iterable[tuple[float, Spread]]) -> tuple[float, float]:
    """90 % interval of a sum: (seconds, spread of those seconds) each, independent of each other.

    Biases add, distances from the median to either quantile add in squares: exact for one term, and for normal errors.
    Where two wide terms spread the same seconds, that would end below zero: downwards it is never more than distances
    in logarithms, which add in squares by the seconds' share, allow. Seconds of `total_s` without a term are taken as
    exact. `total_s` itself always lies inside.
    """
    middle_s, down_s, up_s, down_log_s = total_s, 0.0, 0.0, 0.0
    for seconds, spread in terms:
        median_s = seconds * exp(spread.bias)
        middle_s += median_s - seconds
        down_s = hypot(down_s, median_s - seconds * exp(spread.low))
        up_s = hypot(up_s, seconds * exp(spread.high) - median_s)
        down_log_s = hypot(down_log_s, median_s * (spread.bias - spread.low))
    low_s = max(middle_s - down_s, middle_s * exp(-down_log_s / middle_s)) if middle_s > 0 else 0.0
    return min(total_s, low_s), max(total_s, middle_s + up_s)
