"""What a simulation run says, with the error of its saying so, in memory that does not grow with the run.

Requests are grouped into batches by arrival time, after a warm-up; a batch keeps counts in bins that grow by `GROWTH`,
so a percentile is within half of that of the true one. Over batches a mean and its confidence interval are Student's:
batches much longer than a queue's memory are nearly independent, which single requests are not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from thinwire.edge.quantities import NONE, power_of, rounded, time_pm, time_text

Floats = npt.NDArray[np.float64]

GROWTH = 1.005  # bin edges, each over the last
LOWEST_S = 1e-6
BINS = math.ceil(math.log(1e12) / math.log(GROWTH))  # up to 1e6 seconds
QUANTILES = (0.5, 0.9, 0.95, 0.99)
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and half the width of its 95 % confidence interval (None: fewer than two batches to judge by)."""

    value: float
    half_width: float | None

    def to_dict(self, scale: float = 1.0) -> dict[str, Any]:
        """Plain values, in a unit of 1/scale; None where there is nothing to estimate."""
        value, half = (None if x is None or math.isnan(x) else x * scale for x in (self.value, self.half_width))
        return {"value": value, "half_width": half}


def plus_minus(estimate: Estimate, least: int = -9) -> str:
    """`3.56 ±0.06`, with as many digits as its interval allows, no finer than 10 to the power of `least`; a dash where
    there is nothing to estimate.
    """
    if math.isnan(estimate.value):
        return NONE
    half = estimate.half_width
    power = max(power_of(estimate.value, half), least)
    return rounded(estimate.value, power) + (f" ±{rounded(max(half, 10.0**power), power)}" if half else "")


def time(estimate: Estimate) -> str:
    """The same of seconds, in the unit that fits: `12.4 s ±0.9`."""
    return time_pm(estimate.value, estimate.half_width) if estimate.half_width else time_text(estimate.value)


def student(values: Sequence[float] | Floats) -> float | None:
    """Half the width of the confidence interval of the mean of independent values."""
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # a tenth of a second to import

    spread = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * spread


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean and percentiles of something in seconds."""

    count: int
    mean: Estimate
    percentiles: dict[float, Estimate]

    def to_dict(self, scale: float = 1e3) -> dict[str, Any]:
        """Plain values, milliseconds unless said otherwise."""
        named = {f"p{quantile * 100:g}": e.to_dict(scale) for quantile, e in self.percentiles.items()}
        return {"count": self.count, "mean": self.mean.to_dict(scale), **named}


@dataclass(eq=False)
class Batched:
    """Values of one kind by batch."""

    batches: int
    _counts: npt.NDArray[np.int64] = field(init=False)
    _sums: Floats = field(init=False)

    def __post_init__(self) -> None:
        self._counts = np.zeros((self.batches, BINS), dtype=np.int64)
        self._sums = np.zeros(self.batches)

    def add(self, values: Floats, batch: npt.NDArray[np.int64]) -> None:
        """Count some values, each in its batch."""
        bins = np.log(np.maximum(values, LOWEST_S) / LOWEST_S) / math.log(GROWTH)
        np.add.at(self._counts, (batch, np.minimum(bins.astype(np.int64), BINS - 1)), 1)
        np.add.at(self._sums, batch, values)

    def summary(self, quantiles: Sequence[float] = QUANTILES) -> Summary:
        """Over all batches; of an empty one nothing but its emptiness."""
        numbers = self._counts.sum(axis=1)
        filled = numbers > 0
        count = int(numbers.sum())
        if not count:
            return Summary(0, Estimate(math.nan, None), {q: Estimate(math.nan, None) for q in quantiles})
        mean = Estimate(float(self._sums.sum()) / count, student(self._sums[filled] / numbers[filled]))
        percentiles = {}
        for q in quantiles:
            each = [quantile(counts, q) for counts in self._counts[filled]]
            percentiles[q] = Estimate(quantile(self._counts.sum(axis=0), q), student(each))
        return Summary(count, mean, percentiles)


def quantile(counts: npt.NDArray[np.int64], q: float) -> float:
    """The value below which a share `q` of the counted lies, between the bin's edges in proportion."""
    total = np.cumsum(counts)
    rank = q * int(total[-1])
    at = int(np.searchsorted(total, rank))
    at = min(max(at, int(np.flatnonzero(counts)[0])), len(counts) - 1)
    inside = (rank - (int(total[at]) - int(counts[at]))) / max(1, int(counts[at]))
    return LOWEST_S * float(GROWTH ** (at + min(max(inside, 0.0), 1.0)))


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must keep to be good: seconds to the first token, and seconds a token after it."""

    ttft_s: float = math.inf
    tpot_s: float = math.inf

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} of an SLO must be positive: {name}={getattr(self, name)}")


NO_SLO = Slo()


@dataclass(eq=False)
class Recorder:
    """Finished requests. Times are those of requests that arrive between warm-up and horizon, in batches by arrival;
    rates count the requests that end there, in batches by their end.
    """

    warm_up_s: float
    horizon_s: float
    batches: int
    slo: Slo
    _buffer: list[tuple[float, float, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.warm_up_s < self.horizon_s < math.inf:
            raise ValueError(
                f"need 0 <= warm-up < duration, both finite: warm_up_s={self.warm_up_s}, duration_s={self.horizon_s}"
            )
        if self.batches < 2:
            raise ValueError(f"a confidence interval needs 2 batches or more: batches={self.batches}")
        self.ttft, self.tpot, self.latency = (Batched(self.batches) for _ in range(3))
        self._good, self._tokens, self._kept = np.zeros(self.batches), np.zeros(self.batches), np.zeros(2)

    FLUSH = 1 << 14

    def add(self, arrival_s: float, first_s: float, end_s: float, output_tokens: int) -> None:
        """A finished request."""
        if end_s >= self.warm_up_s and arrival_s < self.horizon_s:
            self._buffer.append((arrival_s, first_s, end_s, output_tokens))
            if len(self._buffer) == self.FLUSH:
                self._flush()

    def _flush(self) -> None:
        if not self._buffer:
            return
        arrival, first, end, output = np.array(self._buffer).T
        self._buffer.clear()
        ttft, latency, several = first - arrival, end - arrival, output > 1
        tpot = (end - first) / np.maximum(output - 1, 1)
        good = (ttft <= self.slo.ttft_s) & (~several | (tpot <= self.slo.tpot_s))
        counted = arrival >= self.warm_up_s
        batch = self._batch(arrival)
        self.ttft.add(ttft[counted], batch[counted])
        self.latency.add(latency[counted], batch[counted])
        self.tpot.add(tpot[counted & several], batch[counted & several])
        self._kept += np.array([good[counted].sum(), counted.sum()])
        ended = end < self.horizon_s
        np.add.at(self._good, self._batch(end[ended]), good[ended].astype(float))
        np.add.at(self._tokens, self._batch(end[ended]), output[ended])

    def _batch(self, at_s: Floats) -> npt.NDArray[np.int64]:
        width_s = (self.horizon_s - self.warm_up_s) / self.batches
        return np.clip(((at_s - self.warm_up_s) / width_s).astype(np.int64), 0, self.batches - 1)

    def finish(self, unserved: int = 0) -> "Recorder":
        """Count what is left in the buffer, and requests of the window that nobody served: they have kept no SLO."""
        self._flush()
        self._kept[1] += unserved
        return self

    @property
    def goodput_per_s(self) -> Estimate:
        """Requests a second that end and have kept the SLO."""
        rates = self._good * self.batches / (self.horizon_s - self.warm_up_s)
        return Estimate(float(rates.mean()), student(rates))

    @property
    def attainment(self) -> float:
        """Share of the requests that arrived in the window, refused ones left out, that keep the SLO."""
        return float(self._kept[0] / self._kept[1]) if self._kept[1] else math.nan

    @property
    def output_tokens_per_s(self) -> Estimate:
        """Output tokens a second, of requests that end."""
        rates = self._tokens * self.batches / (self.horizon_s - self.warm_up_s)
        return Estimate(float(rates.mean()), student(rates))


@dataclass(slots=True)
class Level:
    """A number that goes up and down in time, and the area under it."""

    now: int = 0
    most: int = 0
    area: float = 0.0
    since_s: float = 0.0

    def change(self, by: int, at_s: float) -> None:
        """It changes."""
        self.area += self.now * (at_s - self.since_s)
        self.since_s = at_s
        self.now += by
        if self.now > self.most:
            self.most = self.now

    def area_until(self, at_s: float) -> float:
        """Area under it from the start."""
        return self.area + self.now * (at_s - self.since_s)
