"""Bounds that no run of `sim.serving.run` beats, in closed form: what `sim.planning.plan` need not simulate.

They are about the very requests a run draws (same load, seed and window), so they hold without a confidence level. All
rest on one property of a pace, `floor_s` (`sim.serving.iteration`): an iteration that holds at least so many prompt
tokens and decoding sequences takes at least so long, and KAPPA more for each token of context that decoding reads
(`least_token_s`, which holds for every batch). Each bound's proof is in its docstring. `SLACK` covers rounding.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from thinwire.sim.serving.arrivals import Load
from thinwire.sim.serving.iteration import Pace
from thinwire.sim.serving.replica import Batching
from thinwire.sim.serving.run import Window
from thinwire.sim.serving.statistics import GROWTH, Batched

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SLACK = 1 - 1e-9
RATIOS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 1024.0)  # worth of a decoded token in prompt tokens


class BoundedPace(Pace, Protocol):
    """A pace that promises how long iterations take at least."""

    def floor_s(self, prompt_tokens: int, sequences: int) -> float:
        """Of an iteration with so many or more of each; 0, s.. or c.., not both none."""
        ...

    def least_token_s(self) -> float:
        """Beside that, of each token of context that decoding reads."""
        ...


@dataclass(frozen=True)
class Targets:
    """Percentiles to keep, as shares, and the seconds they may take; no time between tokens asked for: infinite."""

    ttft_quantile: float
    ttft_s: float
    tpot_quantile: float = 0.95
    tpot_s: float = math.inf
    perplexity_ratio: float = math.inf


@dataclass(frozen=True)
class Requests:
    """What a run of this load, seed and window is asked: all prompts' largest need, and those that are counted."""

    prompt: Ints
    output: Ints
    at_s: Floats
    counted: npt.NDArray[np.bool_]
    window: Window

    @classmethod
    def drawn(cls, load: Load, seed: int, window: Window) -> "Requests":
        """As `Simulation` draws them."""
        pieces = list(load.pieces(seed, window.duration_s))
        at_s, prompt, output = (np.concatenate([piece[i] for piece in pieces]) for i in range(3))
        return cls(prompt, output, at_s, at_s >= window.warm_up_s, window)

    def quantile_s(self, values: npt.NDArray[np.floating[Any]], quantile: float) -> float:
        """Of counted requests, read from the same bins as a run's: where every value is at most a run's, so is this."""
        if not len(values):
            return 0.0
        bins = Batched(1)
        bins.add(np.asarray(values * SLACK, dtype=np.float64), np.zeros(len(values), dtype=np.int64))
        return bins.summary([quantile]).percentiles[quantile].value


@dataclass(frozen=True)
class Bounds:
    """Of one engine (pace and limits) for these requests, whatever the number of replicas and the router.

    Chunked prefill only. Requests that would be refused must have been ruled out (`refused`).
    """

    pace: BoundedPace
    limits: Batching
    requests: Requests

    @cached_property
    def kappa_s(self) -> float:
        """Seconds an iteration takes longer for each token of context, at least."""
        return self.pace.least_token_s()

    def refused(self) -> int:
        """(4) Memory: requests whose prompt and output exceed the KV cache; a replica refuses them, and it alone
        decides, so no number of replicas helps.
        """
        held = self.requests.prompt + self.requests.output
        block = self.limits.kv_block
        return int((-(-held // block) * block > self.limits.request_tokens).sum())

    def ttft_s(self, quantile: float) -> float:
        """(1) The TTFT percentile of prompts that wait for nobody, or less.

        Proof. A prompt of P tokens is processed in chunks of 1..budget tokens that add up to P, one an iteration, one
        after the other, after its arrival. An iteration with its chunk of c tokens takes at least floor_s(c, 0). So
        TTFT >= g(P), the least sum of floors over all ways to cut P: g(p) = min over c of floor_s(c, 0) + g(p - c).
        Cuts are not enumerated one by one: all c of a step c_k <= c < c_k+1 cost at least floor_s(c_k, 0) and get at
        most c_k+1 - 1 tokens done. Values that are smaller one by one have smaller percentiles.
        """
        counted = self.requests.prompt[self.requests.counted]
        if not len(counted):
            return 0.0
        steps = list(_steps(self.limits.token_budget, 4))
        cost = np.array([self.pace.floor_s(low, 0) for low, _ in steps])
        done = np.array([high for _, high in steps])
        least = np.zeros(int(counted.max()) + 1)
        for p in range(1, len(least)):
            least[p] = (cost + least[np.maximum(p - done, 0)]).min()
        return self.requests.quantile_s(least[counted], quantile)

    def tpot_s(self, quantile: float) -> float:
        """(2) The TPOT percentile of answers decoded alone, or less.

        Proof. Each token after the first takes an iteration of its own, of decoding alone (at least floor_s(0, 1)) or
        with prompt tokens (at least floor_s(1, 1)), and its context is at least the prompt and a token. The mean over
        an answer's iterations is no less than the least of them.
        """
        several = self.requests.counted & (self.requests.output > 1)
        alone_s = min(self.pace.floor_s(0, 1), self.pace.floor_s(1, 1) if self.limits.token_budget > 1 else math.inf)
        return self.requests.quantile_s(alone_s + self.kappa_s * (self.requests.prompt[several] + 1), quantile)

    def replicas(self, targets: Targets) -> int:
        """(3) Capacity: replicas below which the percentiles cannot hold.

        Proof. Let n be the counted requests. A percentile q of at most T says that q n of them had at most T' = T times
        a bin. So at least m = n - (1 - q1) n - (1 - q2) n2 kept both TTFT <= T' and TPOT <= t', whichever they are (n2
        of n have several tokens). They arrived at W (the warm-up's end) or later and D (the arrivals' end) at the
        latest, so their prompts were processed within H = D + T' - W, and so were all tokens of those due until then,
        arrival + T' + t' (output - 1) <= D + T'. Iterations of N replicas within H take N H at most. On the other side,
        for any a, b >= 0 with a c + b s <= floor_s(c, s) for all iterations a replica may run, the iterations that hold
        this work take at least the sum of a P + b (output - 1) + KAPPA contexts over it (linear programming's weak
        duality). Which m requests they are is not known: the m with the least work are taken. b = ratio a for several
        ratios, a as large as can be; the best counts.
        """
        asked, window = self.requests, self.requests.window
        ttft_s, tpot_s = targets.ttft_s * GROWTH / SLACK, targets.tpot_s * GROWTH / SLACK
        prompt, tokens = asked.prompt[asked.counted].astype(float), asked.output[asked.counted] - 1.0
        bad = (1 - targets.ttft_quantile) * len(prompt)
        if math.isfinite(tpot_s):
            bad += (1 - targets.tpot_quantile) * int((tokens > 0).sum())
            due = asked.at_s[asked.counted] + tpot_s * tokens <= window.duration_s
        else:
            due = tokens <= 0
        good = max(0, math.floor(len(prompt) - bad - 1e-6))
        decoded = np.where(due, tokens, 0.0)
        contexts = decoded * prompt + decoded * (tokens + 1) / 2  # (P + 1) + ... + (P + tokens)
        least_s = 0.0
        for ratio, rate_s in self._rates():
            work = rate_s * (prompt + ratio * decoded) + self.kappa_s * contexts
            least_s = max(least_s, float(np.sort(work)[:good].sum()))
        horizon_s = window.duration_s + ttft_s - window.warm_up_s
        return max(1, math.ceil(least_s * SLACK / horizon_s))

    def _rates(self) -> list[tuple[float, float]]:
        """(ratio, a) such that a (c + ratio s) <= floor_s(c, s) for every iteration: checked cell by cell, at the
        cell's lower corner for the time and its upper one, as far as the budget lets it, for the tokens.
        """
        budget, most = self.limits.token_budget, min(self.limits.max_sequences, self.limits.token_budget)
        cells = [
            (self.pace.floor_s(c, s), min(c_high, budget - s), min(s_high, budget - c))
            for c, c_high in [(0, 0), *_steps(budget, 3)]
            for s, s_high in [(0, 0), *_steps(most, 3)]
            if 0 < c + s <= budget
        ]
        seconds, prompts, sequences = np.array(cells).T
        return [(ratio, _least(seconds, prompts + ratio * sequences)) for ratio in RATIOS]


def _least(seconds: Floats, worth: Floats) -> float:
    """The least seconds for what is worth 1; cells that hold nothing of worth limit nothing."""
    some = worth > 0
    return float((seconds[some] / worth[some]).min())


def _steps(largest: int, bits: int) -> Iterator[tuple[int, int]]:
    """1..largest cut into ranges (first, last) whose first has so few significant bits."""
    low = 1
    while low <= largest:
        high = min(low + (1 << max(0, low.bit_length() - bits)) - 1, largest)
        yield low, high
        low = high + 1
