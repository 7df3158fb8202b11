"""Until sim/verdict.py and sim/grounds.py are there."""

from dataclasses import dataclass
from typing import Literal

from thinwire.sim.api import Comparison
from thinwire.sim.report import Prediction


@dataclass(frozen=True, slots=True)
class Limit:
    perplexity: float = 1.05
    lookups: float = 10.0


Standing = Literal["usable", "floor", "beyond", "unknown", "cannot"]


def standing(c: Comparison, row: Prediction, limit: Limit = Limit()) -> Standing:
    if row.scheme.name == "none":
        return "floor"
    f = c.accuracy(row)
    if row is c.baseline:
        return "usable"
    if f is None or f.perplexity_ratio is None:
        return "unknown"
    return "usable" if f.perplexity_ratio <= limit.perplexity else "beyond"


def best(c: Comparison, limit: Limit = Limit()) -> Prediction | None:
    return min((r for r in c.rows if standing(c, r, limit) == "usable"), key=lambda r: r.ttft_s, default=None)


def verdict(c: Comparison, limit: Limit = Limit()) -> str:
    b = best(c, limit)
    return "" if b is None else f"{b.scheme.name}: {c.speedup(b):.2f} times as soon"


@dataclass(frozen=True, slots=True)
class Ground:
    text: str
    kind: str
    share: float


def grounds(p: Prediction) -> tuple[Ground, ...]:
    return tuple(Ground(t, "assumed" if "assumed" in t else "rule", 0.0) for t in p.assumptions)
