"""How ranks share a model out, and how a router loads them.

Attention is cut by heads over all ranks (`tp`), or every rank holds it whole for sequences of its own (`dp`, beside
experts). Experts are cut by columns over all ranks, or spread over `ep` groups of ranks that each hold some whole.
Tokens reach experts in one of two ways: `all-gather` (every rank has all tokens: as after an all-reduce anyway, or by
an all-gather before and a reduce-scatter behind, vLLM's default under data-parallel attention), or `all-to-all` (each
token goes to the ranks of its experts, once to each, and comes back summed up: DeepEP).

A router's choices are uniform, or skewed: expert i of a seeded order is chosen in proportion to (i + 1) ** -skew. The
rank with most rows sets the pace, since all wait for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from random import Random
from typing import get_args

from thinwire.edge.limits import SKEW
from thinwire.edge.words import shown
from thinwire.reference.core.architecture import Experts, ModelConfig
from thinwire.reference.core.tokens import Counts
from thinwire.sim.choices import Attending, Exchanging


@dataclass(frozen=True, slots=True)
class Sharing:
    """A way to share a model out over `ranks`. ValueError for one that does not fit together."""

    ranks: int
    ep: int = 1
    attention: Attending = "tp"
    exchange: Exchanging = "all-gather"
    skew: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("ranks", "ep"):
            if getattr(self, name) < 1:
                said = {"ranks": "tp"}.get(name, name)
                raise ValueError(f"{said} must be at least 1: {said}={getattr(self, name)}")
        for name, allowed in (("attention", get_args(Attending)), ("exchange", get_args(Exchanging))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}: {shown(getattr(self, name))}")
        if self.ranks % self.ep:
            raise ValueError(f"ep must divide the GPUs: ep={self.ep}, GPUs={self.ranks}")
        if self.exchange == "all-to-all" and self.ep != self.ranks:
            raise ValueError(
                f"an all-to-all sends tokens to whole experts, so ep must be all GPUs: ep={self.ep}, GPUs={self.ranks}"
            )
        SKEW.check("expert_skew", self.skew)

    @property
    def dense_ranks(self) -> int:
        """Ranks that share attention, dense MLPs, embedding and head."""
        return self.ranks if self.attention == "tp" else 1

    @property
    def shared_ranks(self) -> int:
        """Ranks that share an expert which sees every token: those that hold the same tokens behind the router."""
        return 1 if self.exchange == "all-to-all" else self.dense_ranks

    @property
    def travels(self) -> bool:
        """Do experts' tokens travel by themselves, in a mixture?"""
        return self.ranks > 1 and (self.exchange == "all-to-all" or self.attention == "dp")

    def check(self, model: ModelConfig) -> None:
        """ValueError where the model does not divide."""
        if model.is_mixture:
            if self.attention == "tp":
                return model.check_tp(self.ranks, self.ep)
            return model.check_experts(self.ranks, self.ep)
        for name, plain in (("ep", 1), ("attention", "tp"), ("exchange", "all-gather"), ("skew", 0)):
            if getattr(self, name) != plain:
                raise ValueError(f"{model.name} has no experts: {name}={shown(getattr(self, name))}")
        return model.check_tp(self.ranks)

    def own(self, count: int) -> int:
        """Of so many tokens or sequences, what the rank with most has where they are shared out evenly."""
        return -(-count // self.ranks)


def sharing_of(given: Sharing | int) -> Sharing:
    """A way to share; a number of ranks is tensor parallelism over so many."""
    return Sharing(given) if isinstance(given, int) else given


@dataclass(frozen=True, slots=True)
class Load:
    """(token, choice) pairs on the busiest rank, and how many of its experts get any."""

    rows: int
    hit: int


@lru_cache(maxsize=4096)
def load(feed: Experts, sharing: Sharing, tokens: int) -> Load:
    """What the busiest rank computes of `tokens` tokens, in expectation, rounded up."""
    loads = [(sum(chosen) * tokens, chosen) for chosen in chances(feed, sharing)]
    rows, chosen = max(loads, key=lambda found: found[0])
    hit = sum(1 - (1 - chance) ** tokens for chance in chosen)
    rows = max(1, ceil(rows - ROUNDING))
    return Load(rows, max(1, min(rows, ceil(hit - ROUNDING))))


ROUNDING = 1e-9  # sums of shares that are whole but for the last bit


@lru_cache(maxsize=256)
def chances(feed: Experts, sharing: Sharing) -> tuple[tuple[float, ...], ...]:
    """By group of ranks: the probability of each of its experts to be among a token's `top_k`."""
    if sharing.skew:
        weights = [(place + 1) ** -sharing.skew for place in range(feed.count)]
        Random(sharing.seed).shuffle(weights)
        found = _capped(weights, feed.top_k)
    else:
        found = [feed.top_k / feed.count] * feed.count
    held = feed.count // sharing.ep
    return tuple(tuple(found[group * held : (group + 1) * held]) for group in range(sharing.ep))


def _capped(weights: Sequence[float], total: int) -> list[float]:
    """In proportion to the weights, with none above 1 and the sum as given."""
    found, free, left = [0.0] * len(weights), set(range(len(weights))), float(total)
    while True:
        scale = left / sum(weights[place] for place in free)
        full = {place for place in free if weights[place] * scale >= 1}
        if not full:
            break
        for place in full:
            found[place] = 1.0
        free -= full
        left -= len(full)
        if not free:
            return found
    for place in free:
        found[place] = weights[place] * scale
    return found


@lru_cache(maxsize=4096)
def visits(feed: Experts, sharing: Sharing, own: int) -> Counts:
    """Rows from each rank to each in a dispatch, where each rank has `own` tokens: a token goes once to every rank that
    holds any of its experts. Each of its `top_k` choices is taken to fall on a rank by that rank's share alone.
    """
    to = []
    for chosen in chances(feed, sharing):
        share = min(1.0, sum(chosen) / feed.top_k)
        to.append(min(own, ceil(own * (1 - (1 - share) ** feed.top_k) - ROUNDING)))
    return tuple(tuple(to) for _ in range(sharing.ranks))


def returned(counts: Counts) -> Counts:
    """The way back of a dispatch."""
    return tuple(zip(*counts, strict=True))
