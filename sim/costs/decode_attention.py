"""Decode attention on one GPU: seconds of one call in which every sequence of a batch adds one token.

One call stands for what an engine runs between the rotary embedding and the output projection of one layer on one rank:
the new keys and values are written, then each sequence's query reads all the keys and values of its own context. It is
bound by memory; what it costs beyond is launches and the blocks that share the reading out (docs/decisions/004):

    time   = floor + regrouping + split * min(context / split_tokens, 1) + (1 - overlap) * work
             + max(overlap * work, bytes / rate)
    work   = units * unit_s / SMs             units: sequences * kv_heads, a block each at least
    rate   = share(units) * bandwidth, at most units * what one unit reads

The engine is known by the number of sequences and the sum of their contexts; `context` is their mean. A call of given
sequences is piecewise linear in the sum (four pieces at most), which is what lets `sim.serving.replica` sum up
iterations in closed form. It never takes less with more context, nor with more sequences of the same mean context.

The benchmark behind the fit replays one call: what fits the L2 comes from there. An engine's does not, for between two
calls of a layer pass all the others' keys, values and weights. `time_s` is the engine's, `replayed_s` the benchmark's.

Everything is a pure function of its arguments. Seconds and bytes are SI.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from thinwire.edge.words import shown
from thinwire.sim.costs.tables import value_of

ELEMENT_BYTES = 2
"""bf16 keys and values, as in the published rows."""

SHARE_NODES = 11
"""Shares are given at 1, 2, 4 ... 1024 units, and stay what they are beyond."""


class Piece(NamedTuple):
    """Seconds of a call, what each token more of context adds, and the sum of contexts up to which that holds."""

    seconds: float
    per_token_s: float
    until: float


@dataclass(frozen=True, slots=True)
class DecodeCall:
    """A call of so many sequences: all but their contexts is known. `fixed_s` is always paid, `hidden_s` unless
    reading takes longer; `split_s` is paid in full from `split_at` tokens of context in all; reading one takes
    `token_s`.
    """

    sequences: int
    fixed_s: float
    hidden_s: float
    split_s: float
    split_at: float
    token_s: float

    @property
    def least_s(self) -> float:
        """With `token_s` for each token of context, what the call takes at least."""
        return self.fixed_s + self.token_s * self.sequences

    def seconds(self, context_tokens: int, window: int | None = None) -> float:
        """With so many tokens of context in all, the new ones counted. A `window` is taken to cut no sequence as long
        as their mean context is within it, and all of them above. ValueError below a token each.
        """
        if context_tokens < self.sequences:
            raise ValueError(
                f"need context_tokens of at least one each: sequences={self.sequences}, context_tokens={context_tokens}"
            )
        seen = context_tokens if window is None else min(context_tokens, self.sequences * window)
        split_s = self.split_s * min(seen / self.split_at, 1.0)
        return self.fixed_s + split_s + max(self.hidden_s, self.token_s * (seen + self.sequences))

    def piece(self, context_tokens: int, window: int | None = None) -> Piece:
        """The same, with the slope there and how far it holds."""
        seconds = self.seconds(context_tokens, window)
        end = math.inf if window is None else float(self.sequences * window)
        if context_tokens >= end:
            return Piece(seconds, 0.0, math.inf)
        per_token_s, until = 0.0, end
        if context_tokens < self.split_at:
            per_token_s += self.split_s / self.split_at
            until = min(until, self.split_at)
        reading_from = self.hidden_s / self.token_s - self.sequences
        if context_tokens >= reading_from:
            per_token_s += self.token_s
        else:
            until = min(until, reading_from)
        return Piece(seconds, per_token_s, until)


@dataclass(frozen=True, slots=True)
class DecodeAttentionModel:
    """Seconds of one decode attention call on one kind of GPU. Build with validation/fits/decode.py.

    Facts: `memory_bandwidth_bytes_per_s`, `sm_count`. Fitted: `floor_s` (launch to finish of a call with next to no
    context), `regroup_s` (several sequences of several groups of queries: FlashAttention 2 lays the queries out anew),
    `split_s` and `split_tokens` (what cutting the keys and joining the parts adds, and the mean context from which all
    of it is paid), `unit_s` (SM seconds of a unit: one key-value head of one sequence), `overlap` (share of that which
    hides behind reading), `shares` (of the bandwidth, at 1, 2, 4 ... units; at most twice from node to node, so that
    more sequences never take less), `unit_bytes_per_s` and `whole_unit_bytes_per_s` (what one unit reads at most, and
    where every query head has its own keys, which some kernels do not cut), and for the benchmark alone `cache_bytes`,
    `cache_speedup` and `cache_steepness` (how much is read how much faster from the L2, and how sudden that ends).
    `value_bytes`: of a key's or a value's element in the cache. `packed`: 1 where the query heads that share keys are
    one unit, 0 where each is its own (FlashAttention 2 with a window). `source` says where the numbers are from.
    """

    gpu: str
    memory_bandwidth_bytes_per_s: float
    sm_count: int
    floor_s: float
    regroup_s: float
    split_s: float
    split_tokens: float
    unit_s: float
    overlap: float
    unit_bytes_per_s: float
    whole_unit_bytes_per_s: float
    cache_bytes: float
    cache_speedup: float
    cache_steepness: float
    shares: tuple[float, ...]
    source: str
    value_bytes: float = ELEMENT_BYTES
    packed: int = 1

    def __post_init__(self) -> None:
        for name in ("memory_bandwidth_bytes_per_s", "sm_count", "split_tokens", "unit_bytes_per_s",
                     "whole_unit_bytes_per_s", "cache_bytes", "cache_steepness", "value_bytes"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("floor_s", "regroup_s", "split_s", "unit_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.overlap <= 1 or not self.cache_speedup >= 1:
            raise ValueError(
                f"overlap lies in [0, 1] and cache_speedup is 1 or more, got {self.overlap} and {self.cache_speedup}"
            )
        if len(self.shares) != SHARE_NODES or not all(0 < share <= 1 for share in self.shares):
            raise ValueError(f"need {SHARE_NODES} shares of the bandwidth in (0, 1], got {shown(self.shares)}")
        if self.cache_steepness > 100:
            raise ValueError(f"cache_steepness is an exponent of at most 100, got {self.cache_steepness}")
        for low, high in pairwise(self.shares):
            if high > 2 * low:
                raise ValueError(f"twice the units read at most twice as fast, got shares {low} and {high}")

    def share(self, units: int) -> float:
        """Of the memory bandwidth, by what so many units read; linear between nodes, in logarithms."""
        at = min(max(math.log2(units), 0.0), SHARE_NODES - 1.0)
        low = min(int(at), SHARE_NODES - 2)
        slow, fast = self.shares[low], self.shares[low + 1]
        return slow * math.exp((at - low) * math.log(fast / slow))

    def call(self, sequences: int, heads: int, kv_heads: int, head_dim: int) -> DecodeCall:
        """A call of so many sequences. ValueError for shapes that no kernel runs."""
        if sequences < 1 or heads < 1 or kv_heads < 1 or heads % kv_heads or head_dim < 1:
            raise ValueError(
                f"need sequences >= 1, head_dim >= 1 and heads a positive multiple of kv_heads; got "
                f"sequences={sequences}, heads={heads}, kv_heads={kv_heads}, head_dim={head_dim}"
            )
        units = sequences * (kv_heads if self.packed else heads)
        rate = min(self.share(units) * self.memory_bandwidth_bytes_per_s, units * self._unit_rate(heads, kv_heads))
        work_s = units * self.unit_s / self.sm_count
        regroup_s = self.regroup_s if sequences > 1 and kv_heads > 1 and heads > kv_heads else 0.0
        return DecodeCall(
            sequences=sequences,
            fixed_s=self.floor_s + regroup_s + (1 - self.overlap) * work_s,
            hidden_s=self.overlap * work_s,
            split_s=self.split_s,
            split_at=sequences * self.split_tokens,
            token_s=2 * self.value_bytes * kv_heads * head_dim / rate,
        )

    def time_s(
        self,
        sequences: int,
        context_tokens: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int | None = None,
    ) -> float:
        """Seconds of one call of an engine: `sequences` that see their own contexts, `context_tokens` in all, the new
        tokens counted. No sequences take no time. ValueError as `call` and `DecodeCall.seconds`.
        """
        if not sequences and not context_tokens:
            return 0.0
        return self.call(sequences, heads, kv_heads, head_dim).seconds(context_tokens, window)

    def replayed_s(self, sequences: int, context_tokens: int, heads: int, kv_heads: int, head_dim: int) -> float:
        """The same as the published rows measure it, replayed: what fits the L2 is read from there, though no faster
        than a unit reads. Of a window, `context_tokens` are those within it.
        """
        call = self.call(sequences, heads, kv_heads, head_dim)
        cold_s = call.seconds(context_tokens)
        units, tokens = sequences * (kv_heads if self.packed else heads), context_tokens + sequences
        moved = 2 * self.value_bytes * kv_heads * head_dim * tokens
        warm: float = 1.0 / (1.0 + (moved / self.cache_bytes) ** self.cache_steepness)
        rate = self.share(units) * self.memory_bandwidth_bytes_per_s
        read_s = moved / rate * (1.0 - warm * (1.0 - 1.0 / self.cache_speedup))
        read_s = max(read_s, moved / (units * self._unit_rate(heads, kv_heads)))
        return cold_s - max(call.hidden_s, call.token_s * tokens) + max(call.hidden_s, read_s)

    def _unit_rate(self, heads: int, kv_heads: int) -> float:
        return self.unit_bytes_per_s if heads > kv_heads else min(self.unit_bytes_per_s, self.whole_unit_bytes_per_s)

    def least_token_s(self, kv_heads: int, head_dim: int) -> float:
        """What a token of context adds at least once reading takes longest, whatever the batch."""
        return 2 * self.value_bytes * kv_heads * head_dim / (max(self.shares) * self.memory_bandwidth_bytes_per_s)

    def moved_to(
        self, gpu: str, memory_bandwidth_bytes_per_s: float, sm_count: int, cache_ratio: float = 1.0
    ) -> DecodeAttentionModel:
        """The same kernel's shares on another GPU's facts; `cache_ratio` is its L2 over this one's.

        How far off that may be: docs/decisions/004-attention-and-elementwise.md.
        """
        return replace(
            self,
            gpu=gpu,
            memory_bandwidth_bytes_per_s=memory_bandwidth_bytes_per_s,
            sm_count=sm_count,
            cache_bytes=self.cache_bytes * cache_ratio,
            source=f"assumed: efficiencies as on {self.gpu} ({self.source})",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives an equal model back."""
        table = {**asdict(self), "shares": list(self.shares)}
        usual = {"value_bytes": ELEMENT_BYTES, "packed": 1}
        return {name: value for name, value in table.items() if usual.get(name) != value}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DecodeAttentionModel:
        """ValueError for a missing or unknown key, or for values the model refuses."""
        return value_of(cls, data, "decode attention model")
