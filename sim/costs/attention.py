"""Prefill attention on one GPU: seconds from shape.

One call stands for what an engine runs between the rotary embedding and the output projection of one layer on
one rank: the new keys and values are written into the paged cache, then a causal flash-attention kernel runs.
That is what the published measurements time (ai-dynamo/aiconfigurator, vLLM and SGLang backends), so the cost
of the cache write is inside and must not be added again.

The model is physical first, corrected second (docs/decisions/004-attention-and-elementwise.md):

    time   = floor + correction(length, parallelism, group) * kernel
    kernel = cache-write blocks + bytes / bandwidth + tiles, at least the compulsory bytes / bandwidth
    tiles  = (mean work per SM ** b + longest tile ** b) ** (1 / b)    b: how well tiles are balanced

A tile is `TILE_ROWS` queries of one head of one sequence. With few tiles the longest one decides (a GPU that
is not full), with many the mean does, and in between lies the wave quantisation of causal attention, whose
tiles are unequal. The correction is a table of a few hundred integers; outside its axes the nearest value is
kept, so a prompt longer than any measured one is extrapolated by the physical part alone.

Everything is a pure function of its arguments: no files, no state, numpy not even needed. Seconds and bytes
are SI.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from thinwire.edge.words import shown
from thinwire.sim.costs.tables import value_of

TILE_ROWS = 128
"""Queries of one tile: what FlashAttention 3 takes, and FlashAttention 2 on an A100, at head_dim 128. Other
kernels' tiles (64 rows on an L40S, say) are absorbed by the fitted tile cost and speed."""

ELEMENT_BYTES = 2
"""bf16 queries, keys, values and outputs; the published rows are bf16 with a bf16 cache."""

SPLIT_KEYS, SPLIT_LIMIT = 128, 128
"""Keys of one block at head_dim 128, and the most pieces keys are cut into: FlashAttention's flash_api.cpp."""

CACHE_BLOCK_LANES = 512
"""Threads of the block that writes one token's keys and values: min(kv_heads * head_dim, 512) in vLLM's
csrc/cache_kernels.cu. A full block leaves room for a quarter as many tokens on an SM as a 128-thread one."""

LENGTH_AXIS = (7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0)
"""Correction axis 1: log2 of the sequence length of the equivalent self-attention (128 .. 16384)."""
PARALLEL_AXIS = (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0)
"""Correction axis 2: log2 of batch * heads of the equivalent self-attention (4 .. 16384)."""
GROUP_AXIS = (0.0, 2.0, 3.0)
"""Correction axis 3: log2 of heads / kv_heads (1, 4, 8: the groups that were measured)."""
CORRECTIONS = len(LENGTH_AXIS) * len(PARALLEL_AXIS) * len(GROUP_AXIS)
CORRECTION_LIMIT = 700
"""Largest correction either way, in thousandths of the natural logarithm: a factor of 2."""

ADJUST_LENGTH = (7.0, 9.0, 11.0, 13.0)
ADJUST_PARALLEL = (2.0, 5.0, 8.0, 11.0)
"""Axes of `adjust`: log2 of the length of the self-attention that sees as many keys per query without a window, and of
batch * heads."""
ADJUSTS = len(ADJUST_LENGTH) * len(ADJUST_PARALLEL)
ADJUST_LIMIT = 4000
"""Largest adjustment either way, in thousandths of the natural logarithm: another kernel altogether."""

_NX, _NY, _NZ = len(LENGTH_AXIS), len(PARALLEL_AXIS), len(GROUP_AXIS)


def scored_pairs(query_tokens: int, key_tokens: int, window: int | None = None) -> int:
    """Query-key pairs one head of one sequence scores, exactly.

    Queries are the last `query_tokens` of the `key_tokens` in context; the query at position i (from 1) sees
    min(i, window) keys, itself included. Pairs of consecutive chunks of a sequence add up to the pairs of the
    whole. ValueError if query_tokens > key_tokens, either is negative, or window < 1.
    """
    if query_tokens < 0 or key_tokens < query_tokens:
        raise ValueError(
            f"queries are the last tokens of the context: need 0 <= query_tokens <= key_tokens, "
            f"got query_tokens={query_tokens}, key_tokens={key_tokens}"
        )
    if window is not None and window < 1:
        raise ValueError(f"a window holds the token itself: need window >= 1 or None, got window={window}")
    first = key_tokens - query_tokens
    if window is None or window >= key_tokens:
        return (key_tokens * (key_tokens + 1) - first * (first + 1)) // 2
    if window <= first:
        return query_tokens * window
    growing = (window * (window + 1) - first * (first + 1)) // 2
    return growing + (key_tokens - window) * window


def kernel_head_dim(head_dim: int) -> int:
    """Head size the kernel computes with: multiples of 32 up to 128, of 64 above (144 runs as 192).

    Source: FlashAttention 2's `round_multiple(head_size, head_size <= 128 ? 32 : 64)`; FlashAttention 3
    offers 64, 96, 128, 192 and 256, the same sizes from 64 up.
    """
    if head_dim < 1:
        raise ValueError(f"head_dim must be at least 1, got {head_dim}")
    step = 32 if head_dim <= 128 else 64
    return -(-head_dim // step) * step


def attention_flops(
    batch: int, query_tokens: int, key_tokens: int, heads: int, head_dim: int, window: int | None = None
) -> int:
    """Floating-point operations of both products (scores, then scores times values), scored pairs only."""
    return 4 * batch * heads * head_dim * scored_pairs(query_tokens, key_tokens, window)


def key_splits(tiles: int, key_tokens: int, sm_count: int) -> int:
    """Pieces the keys of a call are cut into so that `tiles` tiles fill the GPU; 1 where they do as they are.

    FlashAttention cuts the keys of a call with few queries (`num_splits_heuristic`), into at most SPLIT_LIMIT pieces of
    at least a block of SPLIT_KEYS. Its versions differ in how full they want the GPU; here it is never overfilled.
    """
    return max(1, min(sm_count // tiles, -(-key_tokens // SPLIT_KEYS), SPLIT_LIMIT))


def _shares(value: float, axis: tuple[float, ...]) -> tuple[tuple[int, float], tuple[int, float]]:
    """The two nodes of an axis around a value, and the share of each."""
    step = axis[1] - axis[0]
    at = min(max((value - axis[0]) / step, 0.0), len(axis) - 1.0)
    low = min(int(at), len(axis) - 2)
    return (low, 1.0 - (at - low)), (low + 1, at - low)


@dataclass(frozen=True, slots=True)
class AttentionModel:
    """Seconds of one prefill attention call on one kind of GPU. Build with validation/fits/attention.py.

    Facts: `peak_flops_per_s` (dense, of the dtype), `memory_bandwidth_bytes_per_s`, `sm_count`.
    Fitted: `floor_s` (launch to finish of an empty call), `token_block_s` and `lane_block_s` (SM seconds of
    the cache-write block of one token: fixed part, and part that grows with its threads up to
    CACHE_BLOCK_LANES), `efficiency` (share of the peak a full GPU reaches on the pairs it computes),
    `tail_speed` (speed of a tile that has its SM to itself, against that), `tile_s` (SM seconds to open and
    close a tile), `balance` (the exponent b), `warm_passes` and `cold_passes` (traffic over bandwidth always
    paid, and paid besides once the call's footprint has outgrown `cache_bytes`), `cache_steepness` (how
    sudden that is), `write_weight` (how heavily cache-write traffic counts), `correction` (thousandths of ln,
    length-major, then parallelism, then group).
    `adjust`, where given, holds what calls of another head size, window or cache than `correction` was fitted to take
    more than all that says (thousandths of ln, length-major, then parallelism).
    `source` says where the numbers are from.
    """

    gpu: str
    peak_flops_per_s: float
    memory_bandwidth_bytes_per_s: float
    sm_count: int
    floor_s: float
    token_block_s: float
    lane_block_s: float
    efficiency: float
    tail_speed: float
    tile_s: float
    balance: float
    warm_passes: float
    cold_passes: float
    cache_bytes: float
    cache_steepness: float
    write_weight: float
    correction: tuple[int, ...]
    source: str
    adjust: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "peak_flops_per_s",
            "memory_bandwidth_bytes_per_s",
            "sm_count",
            "efficiency",
            "tail_speed",
            "cache_bytes",
            "cache_steepness",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in (
            "floor_s",
            "token_block_s",
            "lane_block_s",
            "tile_s",
            "warm_passes",
            "cold_passes",
            "write_weight",
        ):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.balance >= 1:
            raise ValueError(f"balance is an exponent of at least 1, got {self.balance}")
        if self.balance > 100 or self.cache_steepness > 100:
            raise ValueError(f"exponents of at most 100: balance {self.balance}, steepness {self.cache_steepness}")
        if len(self.correction) != CORRECTIONS:
            raise ValueError(f"correction has {len(self.correction)} entries, the axes need {CORRECTIONS}")
        worst = max(self.correction, key=abs)
        if abs(worst) > CORRECTION_LIMIT:
            raise ValueError(f"corrections lie within +-{CORRECTION_LIMIT} thousandths, got {worst}")
        if self.adjust and (len(self.adjust) != ADJUSTS or max(map(abs, self.adjust)) > ADJUST_LIMIT):
            raise ValueError(f"adjust has {ADJUSTS} entries within +-{ADJUST_LIMIT}, got {shown(self.adjust)}")

    def time_s(
        self,
        batch: int,
        query_tokens: int,
        key_tokens: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int | None = None,
    ) -> float:
        """Seconds of one call: causal attention of `batch` equal sequences on this rank's heads.

        `query_tokens` < `key_tokens`: the queries are the last ones of the context (chunked prefill, the
        second half of a split sequence); only their keys and values are written to the cache. `window`:
        sliding window in tokens (None or >= key_tokens: none). Zero sequences or zero queries take no time.
        ValueError for shapes that no kernel runs. What is promised about growth: tests/sim/costs/test_attention.py.
        """
        if batch < 0 or heads < 1 or kv_heads < 1 or heads % kv_heads:
            raise ValueError(
                f"need batch >= 0 and heads a positive multiple of kv_heads, got batch={batch}, "
                f"heads={heads}, kv_heads={kv_heads}"
            )
        pairs = scored_pairs(query_tokens, key_tokens, window)
        dim = kernel_head_dim(head_dim)
        if not batch or not query_tokens:
            return 0.0
        reach = key_tokens if window is None else min(window, key_tokens)

        # Tiles. Blocks on the two ragged edges (the diagonal, the far end of a window) are computed whole.
        rows = min(query_tokens, TILE_ROWS)
        cut = min(query_tokens, key_tokens - reach)  # queries that the window cuts short
        computed = pairs + (query_tokens + cut) * rows * 0.5
        sequences = batch * heads
        tiles_s = self._tiles_s(sequences, query_tokens, computed, min(key_tokens, reach + rows - 1), dim)

        # Bytes: queries in, outputs out, keys and values read, new keys and values moved into the cache. What
        # the whole visible context would take decides whether they find the L2 warm, so that the later chunks
        # of a long sequence do not count as small.
        visible = min(key_tokens, reach + query_tokens - 1)
        unit = ELEMENT_BYTES * head_dim * batch
        streamed = unit * (query_tokens * 2 * heads + visible * 2 * kv_heads)
        written = unit * query_tokens * 4 * kv_heads
        footprint = unit * visible * (2 * heads + 6 * kv_heads)
        cold = 1.0 / (1.0 + (self.cache_bytes / footprint) ** self.cache_steepness)
        passes = self.warm_passes + self.cold_passes * cold
        bytes_s = (streamed + written * self.write_weight) * passes / self.memory_bandwidth_bytes_per_s

        lanes = min(kv_heads * head_dim, CACHE_BLOCK_LANES) / CACHE_BLOCK_LANES
        blocks_s = batch * query_tokens * (self.token_block_s + self.lane_block_s * lanes) / self.sm_count

        factor = self._factor(pairs / query_tokens, sequences, heads / kv_heads)
        kernel_s: float = (tiles_s + bytes_s + blocks_s) * factor
        bound_s: float = (streamed + written) * cold / self.memory_bandwidth_bytes_per_s
        seconds = self.floor_s + max(kernel_s, bound_s)
        if self.adjust:
            seconds *= self._adjustment(scored_pairs(query_tokens, key_tokens) / query_tokens, sequences)
        return seconds

    def cross_time_s(
        self, batch: int, query_tokens: int, key_tokens: int, heads: int, kv_heads: int, head_dim: int
    ) -> float:
        """Seconds of one call in which each of `query_tokens` queries sees all of `key_tokens` other tokens' keys.

        The same tiles and bytes without diagonal and cache write, the keys cut in `key_splits` where the tiles would
        leave the GPU half empty. No such call is among the measurements: the correction is that of the self-attention
        with as many keys per query. Nothing to see or nobody to look takes no time. ValueError as `time_s`.
        """
        if min(batch, query_tokens, key_tokens) < 0 or heads < 1 or kv_heads < 1 or heads % kv_heads:
            raise ValueError(
                f"need sizes of 0 or more and heads a positive multiple of kv_heads, got batch={batch}, "
                f"query_tokens={query_tokens}, key_tokens={key_tokens}, heads={heads}, kv_heads={kv_heads}"
            )
        dim = kernel_head_dim(head_dim)
        if not (batch and query_tokens and key_tokens):
            return 0.0
        sequences = batch * heads
        splits = key_splits(sequences * -(-query_tokens // TILE_ROWS), key_tokens, self.sm_count)
        tiles_s = self._tiles_s(
            sequences * splits, query_tokens, query_tokens * key_tokens / splits, -(-key_tokens // splits), dim
        )
        streamed = ELEMENT_BYTES * batch * head_dim * 2 * (query_tokens * heads + key_tokens * kv_heads)
        if splits > 1:  # the outputs and log-sum-exps of the splits, in fp32, written and read again
            streamed += 2 * 4 * splits * sequences * query_tokens * (head_dim + 1)
        cold = 1.0 / (1.0 + (self.cache_bytes / streamed) ** self.cache_steepness)
        bytes_s = streamed * (self.warm_passes + self.cold_passes * cold) / self.memory_bandwidth_bytes_per_s
        kernel_s: float = (tiles_s + bytes_s) * self._factor(key_tokens, sequences, heads / kv_heads)
        bound_s: float = streamed * cold / self.memory_bandwidth_bytes_per_s
        return self.floor_s + max(kernel_s, bound_s)

    def _tiles_s(self, sequences: int, query_tokens: int, pairs: float, tile_keys: int, dim: int) -> float:
        """Seconds of `sequences` times the tiles of `query_tokens`, which compute `pairs` pairs, the longest tile
        over `tile_keys` keys.
        """
        sm_flops_per_s = self.efficiency * self.peak_flops_per_s / self.sm_count
        mean_s = (
            sequences * (4 * dim * pairs / sm_flops_per_s + -(-query_tokens // TILE_ROWS) * self.tile_s) / self.sm_count
        )
        rows = min(query_tokens, TILE_ROWS)
        longest_s = 4 * dim * rows * tile_keys / (sm_flops_per_s * self.tail_speed) + self.tile_s
        # the same as (mean ** b + longest ** b) ** (1 / b), written so that nothing under- or overflows
        high, low = (mean_s, longest_s) if mean_s > longest_s else (longest_s, mean_s)
        return float(high * (1.0 + (low / high) ** self.balance) ** (1.0 / self.balance))

    def _factor(self, mean_keys: float, sequences: int, group: float) -> float:
        """Correction at the plain self-attention with as many keys per query, sequences and heads."""
        length = 2.0 * mean_keys - 1.0  # n tokens of plain self-attention see (n + 1) / 2 keys on average
        x = min(max(math.log2(length) - LENGTH_AXIS[0], 0.0), _NX - 1.0)
        y = min(max(math.log2(sequences) - PARALLEL_AXIS[0], 0.0), _NY - 1.0)
        i, j = min(int(x), _NX - 2), min(int(y), _NY - 2)
        x -= i
        y -= j
        z = min(max(math.log2(group), GROUP_AXIS[0]), GROUP_AXIS[-1])
        k = 0 if z < GROUP_AXIS[1] else 1
        z = (z - GROUP_AXIS[k]) / (GROUP_AXIS[k + 1] - GROUP_AXIS[k])
        t = self.correction
        a = (i * _NY + j) * _NZ + k
        b, c, d = a + _NZ, a + _NY * _NZ, a + _NY * _NZ + _NZ
        near = (1 - x) * ((1 - y) * t[a] + y * t[b]) + x * ((1 - y) * t[c] + y * t[d])
        far = (1 - x) * ((1 - y) * t[a + 1] + y * t[b + 1]) + x * ((1 - y) * t[c + 1] + y * t[d + 1])
        return math.exp(0.001 * ((1 - z) * near + z * far))

    def _adjustment(self, mean_keys: float, sequences: int) -> float:
        """Factor of `adjust`, bilinear in the logarithms; the edge's beyond the axes."""
        factors = 0.0
        for (i, x), (j, y) in product(
            _shares(math.log2(2.0 * mean_keys - 1.0), ADJUST_LENGTH), _shares(math.log2(sequences), ADJUST_PARALLEL)
        ):
            factors += x * y * self.adjust[i * len(ADJUST_PARALLEL) + j]
        return math.exp(0.001 * factors)

    def moved_to(
        self,
        gpu: str,
        peak_flops_per_s: float,
        memory_bandwidth_bytes_per_s: float,
        sm_count: int,
        cache_ratio: float = 1.0,
    ) -> AttentionModel:
        """The same kernel's efficiencies on another GPU's facts; `cache_ratio` is its L2 over this one's.

        How far off that may be is measured by leaving a GPU out
        (docs/decisions/004-attention-and-elementwise.md).
        """
        return replace(
            self,
            gpu=gpu,
            peak_flops_per_s=peak_flops_per_s,
            memory_bandwidth_bytes_per_s=memory_bandwidth_bytes_per_s,
            sm_count=sm_count,
            cache_bytes=self.cache_bytes * cache_ratio,
            source=f"assumed: efficiencies as on {self.gpu} ({self.source})",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives an equal model back."""
        table = {**asdict(self), "correction": list(self.correction), "adjust": list(self.adjust)}
        return table if self.adjust else {name: value for name, value in table.items() if name != "adjust"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AttentionModel:
        """ValueError for a missing or unknown key, or for values the model refuses."""
        return value_of(cls, data, "attention model")
