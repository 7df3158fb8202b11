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
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, comb
from random import Random
from typing import get_args

import numpy as np

from thinwire.edge.limits import SKEW
from thinwire.edge.words import shown
from thinwire.reference import catalog
from thinwire.reference.core.architecture import Experts, ModelConfig
from thinwire.reference.core.tokens import Counts
from thinwire.reference.mixed import AnyScheme, MixedScheme
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

    @property
    def words(self) -> str:
        """How a mixture is shared out, for people."""
        cut = "cut by columns" if self.ep == 1 else f"over {self.ep} ranks"
        return f"attention {self.attention}, experts {cut}" + (f" by {self.exchange}" if self.travels else "")

    def check(self, model: ModelConfig) -> None:
        """ValueError where the model does not divide."""
        if model.is_mixture:
            if self.attention == "tp":
                return model.check_tp(self.ranks, self.ep)
            return model.check_experts(self.ranks, self.ep)
        options = {"attention": "attention", "exchange": "expert_exchange", "ep": "ep", "skew": "expert_skew"}
        plain = Sharing(self.ranks)
        for name, option in options.items():
            if (given := getattr(self, name)) != getattr(plain, name):
                raise ValueError(f"{option} is of mixtures, and {model.name} has no experts: {option}={shown(given)}")
        return model.check_tp(self.ranks)

    def own(self, count: int) -> int:
        """Of so many tokens or sequences, what the rank with most has where they are shared out evenly."""
        return -(-count // self.ranks)


def acting(scheme: AnyScheme, model: ModelConfig, sharing: Sharing) -> AnyScheme:
    """A scheme less its codecs of exchanges that there are none of: accuracy is lost by what is sent."""
    if isinstance(scheme, MixedScheme) or scheme.collective == "none":
        return scheme
    if not (model.is_mixture and sharing.travels):
        return replace(scheme, dispatch=None, combine=None)
    if sharing.attention == "tp":
        return scheme
    exact = catalog.scheme("bf16")  # attention of one's own sequences has no all-reduce, to compress or to leave out
    return replace(exact, dispatch=scheme.dispatch, combine=scheme.combine, sequence_split=scheme.sequence_split)


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
def visits(feed: Experts, sharing: Sharing, tokens: int, own: int) -> Counts:
    """Rows from each rank to each in a dispatch of `tokens` tokens, of which the rank with most has `own`: a token goes
    once to every rank that holds any of its experts (DeepEP). As expected, rounded up.

    Where that is as even as can be every rank counts as having as many; else the first ranks have `own` each.
    """
    even = own == sharing.own(tokens)
    sizes = [own if even else max(0, min(own, tokens - rank * own)) for rank in range(sharing.ranks)]
    shares = visited_shares(feed, sharing)
    return tuple(tuple(min(size, ceil(size * share - ROUNDING)) for share in shares) for size in sizes)


@lru_cache(maxsize=256)
def visited_shares(feed: Experts, sharing: Sharing) -> tuple[float, ...]:
    """By rank: of a token's chances to go there. Even choices among all experts are drawn without putting back; where
    experts are chosen within the best groups (DeepSeek) tokens are drawn. Where choices are skewed each falls on a rank
    by that rank's share alone, times what the even ones are more or less than that.
    """
    ranks, held = sharing.ep, feed.count // sharing.ep
    if feed.groups > 1:
        even = _grouped_share(feed, ranks, sharing.seed)
    else:
        even = 1 - comb(feed.count - held, feed.top_k) / comb(feed.count, feed.top_k)
    if not sharing.skew:
        return (even,) * ranks
    more = even / _alone(1 / ranks, feed.top_k)
    rows = [sum(chosen) for chosen in chances(feed, sharing)]
    return tuple(min(1.0, expected, more * _alone(expected / feed.top_k, feed.top_k)) for expected in rows)


def _alone(share: float, choices: int) -> float:
    """The chance that any of so many choices, each by itself, falls on a share."""
    return 1 - (1 - min(1.0, share)) ** choices


DRAWN = 4000
"""Tokens that are drawn: half a percent of what each rank gets."""


@lru_cache(maxsize=256)
def _grouped_share(feed: Experts, ranks: int, seed: int) -> float:
    """Of a token's chances to go to a rank, over tokens with random logits: experts are chosen in the groups that score
    best, by their best expert (DeepSeek V2), or by their best two where a correction biases the choice (V3).
    """
    score_NE = np.random.default_rng(seed).standard_normal((DRAWN, feed.count))
    if feed.scoring == "sigmoid":
        score_NE = 1 / (1 + np.exp(-score_NE))
    of_group_NGM = np.sort(score_NE.reshape(DRAWN, feed.groups, -1), axis=-1)
    best_NG = of_group_NGM[..., -2:].sum(-1) if feed.correction else of_group_NGM[..., -1]
    open_NG = best_NG >= np.sort(best_NG, axis=-1)[:, [-feed.top_groups]]
    score_NE = np.where(np.repeat(open_NG, feed.count // feed.groups, axis=-1), score_NE, -np.inf)
    chosen_NE = score_NE >= np.sort(score_NE, axis=-1)[:, [-feed.top_k]]
    return float(chosen_NE.reshape(DRAWN, ranks, -1).any(-1).mean())


def returned(counts: Counts) -> Counts:
    """The way back of a dispatch."""
    return tuple(zip(*counts, strict=True))
