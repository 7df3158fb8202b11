"""The interval of a ratio of two times whose parts err together.

A prediction with and one without a scheme share their kernels: what those are off by cancels in the speed-up, mostly.
So each part that both have is one draw, and shifts both times at once; parts that one alone has shift that one.
Dividing two intervals instead would be too wide (docs/decisions/014-intervals.md).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp, hypot, log

from thinwire.sim.costs.spread import Spread
from thinwire.sim.interval import Interval

PREFILL = "all of the compute, as whole prefills are off"


@dataclass(frozen=True, slots=True)
class Part:
    """Seconds that err together."""

    seconds: float
    spread: Spread


@dataclass(frozen=True, slots=True)
class Time:
    """A predicted time, and its parts by name; what is in no part is taken as exact."""

    seconds: float
    parts: Mapping[str, Part]

    def shifted(self, name: str, quantile: float) -> float:
        """The time if one part's log(measured / predicted) were `quantile`."""
        part = self.parts.get(name)
        return self.seconds if part is None else self.seconds + part.seconds * (exp(quantile) - 1)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 90 % interval."""

    value: float
    low: float
    high: float


def time_of(seconds: float, interval: Interval) -> Time:
    """A predicted time, out of what its interval was made from."""
    terms = (*interval.terms, *interval.others)
    parts = {term.what: Part(term.seconds, term.spread) for term in terms if term.spread is not None}
    return Time(seconds, {**parts, PREFILL: Part(interval.compute_s, interval.prefill)})


def ratio(over: Time, under: Time) -> Estimate:
    """`over` / `under`: parts of one name are one draw, others independent; distances add in squares, as in
    `sim.costs.spread.sum_interval`. The ratio itself always lies inside.
    """
    plain = log(over.seconds / under.seconds)
    middle, down, up = plain, 0.0, 0.0
    for name in dict.fromkeys([*over.parts, *under.parts]):
        spread = (over.parts.get(name) or under.parts[name]).spread

        def at(quantile: float, name: str = name) -> float:
            return log(over.shifted(name, quantile) / under.shifted(name, quantile)) - plain

        bias = at(spread.bias)
        ends = at(spread.low) - bias, at(spread.high) - bias
        middle += bias
        down, up = hypot(down, min(0.0, *ends)), hypot(up, max(0.0, *ends))
    return Estimate(exp(plain), exp(min(plain, middle - down)), exp(max(plain, middle + up)))


def best(estimates: Iterable[Estimate]) -> int:
    """Place of the largest."""
    values = [estimate.value for estimate in estimates]
    return values.index(max(values))
