"""Multi-head latent attention (MLA) on one GPU: prompts with whole heads, decoding over the latent cache.

A prompt's keys and values are made from the latent, and attention runs on heads of `qk_dim` and `value_dim`:

    prefill = launch + (mean work per SM ** b + longest tile ** b) ** (1 / b) + passes * bytes of heads / bandwidth

as in attention.py, without its correction. Decoding reads one latent of `rank` and `rope_dim` values a token for all
heads: queries and outputs are taken into the latent's space and back by small products (`absorb_s`), and

    decode = launch + split * min(context / split_tokens, 1) + sequences * (sequence_s + passes * their queries' bytes)
             + tokens * softmax(bytes of a latent / (share * bandwidth), flops of all heads / (efficiency * peak))

which with many heads on a rank is no longer a matter of bandwidth. It is a `DecodeCall`, linear in the contexts' sum in
two pieces, as decode_attention.py promises the serving simulator. It never takes less with more context, nor with more
sequences of the same mean context (docs/decisions/032-mixture-kernels.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from thinwire.edge.words import shown
from thinwire.sim.costs.attention import TILE_ROWS, scored_pairs
from thinwire.sim.costs.decode_attention import DecodeCall
from thinwire.sim.costs.tables import mapping, value_of

ELEMENT_BYTES = 2  # bf16 queries, keys, values, outputs
INNER_DIM = 128  # of a query and a value without rope, in every MLA model so far but GLM-5's 192 and 256


@dataclass(frozen=True, slots=True)
class LatentCache:
    """How fast one engine's decode kernel reads a latent cache of one precision.

    `bytes_per_value` of the cache; `head_block`: heads are computed in multiples of it. Fitted: `launch_s`, `split_s`
    and `split_tokens` (what cutting the context and joining the parts adds, and the mean context from which all of it
    is paid), `sequence_s`, `query_passes` (over a sequence's queries and outputs), `share_efficiency` (of the
    bandwidth), `efficiency` (of the peak), `sharpness` (of the soft maximum); for the benchmark alone `cache_bytes`,
    `cache_speedup` and `cache_steepness`, as in decode_attention.py.
    """

    bytes_per_value: float
    head_block: int
    launch_s: float
    split_s: float
    split_tokens: float
    sequence_s: float
    query_passes: float
    share_efficiency: float
    efficiency: float
    sharpness: float
    cache_bytes: float
    cache_speedup: float
    cache_steepness: float
    source: str

    def __post_init__(self) -> None:
        for name in ("bytes_per_value", "head_block", "split_tokens", "share_efficiency", "efficiency", "cache_bytes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("launch_s", "split_s", "sequence_s", "query_passes"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        exponents = self.sharpness, self.cache_steepness
        if min(exponents) < 1 or max(exponents) > 100 or self.cache_speedup < 1:
            raise ValueError(f"exponents lie in 1..100, cache_speedup is 1 or more: {exponents}, {self.cache_speedup}")


@dataclass(frozen=True, slots=True)
class LatentModel:
    """Seconds of latent attention's calls on one kind of GPU. Build with validation/mixtures/latent.py.

    Facts: `peak_flops_per_s` (bf16), `memory_bandwidth_bytes_per_s`, `sm_count`. Fitted: `prefill_launch_s`,
    `prefill_efficiency` (of the peak), `prefill_balance` (the exponent b), `prefill_passes`; `absorb_launch_s`,
    `absorb_share_efficiency` (of the bandwidth), `absorb_efficiency` (of the peak); `caches` by precision: bf16 always.
    """

    gpu: str
    peak_flops_per_s: float
    memory_bandwidth_bytes_per_s: float
    sm_count: int
    prefill_launch_s: float
    prefill_efficiency: float
    prefill_balance: float
    prefill_passes: float
    absorb_launch_s: float
    absorb_share_efficiency: float
    absorb_efficiency: float
    source: str
    caches: Mapping[str, LatentCache]

    def __post_init__(self) -> None:
        for name in ("peak_flops_per_s", "memory_bandwidth_bytes_per_s", "sm_count", "prefill_efficiency",
                     "absorb_share_efficiency", "absorb_efficiency"):  # fmt: skip
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("prefill_launch_s", "prefill_passes", "absorb_launch_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 1 <= self.prefill_balance <= 100:
            raise ValueError(f"prefill_balance is an exponent in 1..100, got {self.prefill_balance}")
        if "bf16" not in self.caches:
            raise ValueError(f"latent attention needs a cache of bf16, got {shown(sorted(self.caches))}")

    def prefill_s(
        self,
        batch: int,
        query_tokens: int,
        key_tokens: int,
        heads: int,
        qk_dim: int,
        value_dim: int,
        window: int | None = None,
    ) -> float:
        """Seconds of one call: causal attention of `batch` equal sequences on this rank's heads, keys and values
        assembled. `query_tokens` are the last of `key_tokens`; each sees `window` of them at most, priced as a share of
        the pairs, which no table says. No sequences or queries take no time. ValueError for
        shapes that no kernel runs.
        """
        if batch < 0 or min(heads, qk_dim, value_dim) < 1:
            raise ValueError(
                f"need batch of 0 or more, heads and sizes of 1 or more, got batch={batch}, heads={heads}, "
                f"qk_dim={qk_dim}, value_dim={value_dim}"
            )
        pairs = scored_pairs(query_tokens, key_tokens, window)
        if not batch or not query_tokens:
            return 0.0
        rows = min(query_tokens, TILE_ROWS)
        rate = self.prefill_efficiency * self.peak_flops_per_s
        flops = 2 * (qk_dim + value_dim)  # of a scored pair
        mean_s = flops * batch * heads * (pairs + query_tokens * rows * 0.5) / rate
        longest_s = flops * rows * (key_tokens if window is None else min(key_tokens, window)) * self.sm_count / rate
        high, low = max(mean_s, longest_s), min(mean_s, longest_s)
        tiles_s = high * (1.0 + (low / high) ** self.prefill_balance) ** (1.0 / self.prefill_balance)
        moved = ELEMENT_BYTES * batch * heads * (qk_dim + value_dim) * (query_tokens + key_tokens)
        return float(self.prefill_launch_s + tiles_s + self.prefill_passes * moved / self.memory_bandwidth_bytes_per_s)

    def absorb_s(self, tokens: int, heads: int, inner_dim: int, rank: int) -> float:
        """Seconds of both small products of decoding: queries into the latent's space, outputs out of it."""
        moved = ELEMENT_BYTES * heads * (inner_dim * rank + tokens * (inner_dim + rank))
        moving_s = moved / (self.absorb_share_efficiency * self.memory_bandwidth_bytes_per_s)
        flops_s = 2 * heads * inner_dim * rank * tokens / (self.absorb_efficiency * self.peak_flops_per_s)
        return 2 * (self.absorb_launch_s + max(moving_s, flops_s))

    def cache(self, kv_bytes: int) -> LatentCache:
        """Of a cache whose values have so many bytes: one that nobody timed is read at the bf16 kernel's shares."""
        if kv_bytes not in (1, 2):
            raise ValueError(f"values of a latent cache have 1 or 2 bytes: kv_bytes={kv_bytes}")
        found = self.caches.get("bf16" if kv_bytes == 2 else "fp8")
        if found is not None:
            return found
        lender = self.caches["bf16"]
        word = lender.source.removeprefix("assumed: ")
        return replace(lender, bytes_per_value=1, source=f"assumed: fp8 is read as a bf16 cache is ({word})")

    def call(
        self, sequences: int, heads: int, rank: int, rope_dim: int, kv_bytes: int = 2, inner_dim: int = INNER_DIM
    ) -> DecodeCall:
        """A call of so many sequences, the products around it included. ValueError for shapes that no kernel runs."""
        if min(sequences, heads, rank, inner_dim) < 1 or rope_dim < 0:
            raise ValueError(
                f"need sequences, heads, rank and inner_dim of 1 or more, rope_dim of 0 or more, got sequences="
                f"{sequences}, heads={heads}, rank={rank}, rope_dim={rope_dim}, inner_dim={inner_dim}"
            )
        return self._call(self.cache(kv_bytes), sequences, heads, rank, rope_dim, inner_dim)

    def _call(
        self, cache: LatentCache, sequences: int, heads: int, rank: int, rope_dim: int, inner_dim: int
    ) -> DecodeCall:
        queries = ELEMENT_BYTES * heads * (2 * rank + rope_dim)  # bytes of a sequence, its outputs with them
        alone_s = cache.sequence_s + cache.query_passes * queries / self.memory_bandwidth_bytes_per_s
        read_s = (
            cache.bytes_per_value * (rank + rope_dim) / (cache.share_efficiency * self.memory_bandwidth_bytes_per_s)
        )
        computed = -(-heads // cache.head_block) * cache.head_block
        flops_s = 2 * computed * (2 * rank + rope_dim) / (cache.efficiency * self.peak_flops_per_s)
        high, low = max(read_s, flops_s), min(read_s, flops_s)
        token_s = high * (1.0 + (low / high) ** cache.sharpness) ** (1.0 / cache.sharpness)
        return DecodeCall(
            sequences=sequences,
            fixed_s=cache.launch_s + sequences * alone_s + self.absorb_s(sequences, heads, inner_dim, rank),
            hidden_s=0.0,
            split_s=cache.split_s,
            split_at=sequences * cache.split_tokens,
            token_s=float(token_s),
        )

    def decode_s(
        self,
        sequences: int,
        context_tokens: int,
        heads: int,
        rank: int,
        rope_dim: int,
        kv_bytes: int = 2,
        inner_dim: int = INNER_DIM,
    ) -> float:
        """Seconds of one call of an engine: a new token of each of `sequences`, whose contexts are `context_tokens` in
        all, the new ones counted. No sequences take no time. ValueError as `call` and `DecodeCall.seconds`.
        """
        if not sequences and not context_tokens:
            return 0.0
        return self.call(sequences, heads, rank, rope_dim, kv_bytes, inner_dim).seconds(context_tokens)

    def replayed_s(
        self, sequences: int, context_tokens: int, heads: int, rank: int, rope_dim: int, kv_bytes: int = 2
    ) -> float:
        """The same as the published rows measure it, replayed: what fits the L2 is read from there."""
        cache = self.cache(kv_bytes)
        call = self.call(sequences, heads, rank, rope_dim, kv_bytes)
        moved = cache.bytes_per_value * (rank + rope_dim) * (context_tokens + sequences)
        warm = 1.0 / (1.0 + (moved / cache.cache_bytes) ** cache.cache_steepness)
        faster = replace(
            cache,
            share_efficiency=cache.share_efficiency / (1.0 - warm * (1.0 - 1.0 / cache.cache_speedup)),
        )
        reading = self._call(faster, sequences, heads, rank, rope_dim, INNER_DIM)
        return replace(call, token_s=reading.token_s).seconds(context_tokens)

    def least_token_s(self, heads: int, rank: int, rope_dim: int, kv_bytes: int = 2) -> float:
        """What a token of context adds at least, whatever the batch."""
        return self.call(1, heads, rank, rope_dim, kv_bytes).token_s

    def moved_to(
        self, gpu: str, peak_flops_per_s: float, memory_bandwidth_bytes_per_s: float, sm_count: int
    ) -> LatentModel:
        """The same kernels' shares on another GPU's facts."""
        word = f"assumed: efficiencies as on {self.gpu}"
        return replace(
            self,
            gpu=gpu,
            peak_flops_per_s=peak_flops_per_s,
            memory_bandwidth_bytes_per_s=memory_bandwidth_bytes_per_s,
            sm_count=sm_count,
            source=f"{word} ({self.source})",
            caches={kv: replace(cache, source=f"{word} ({cache.source})") for kv, cache in self.caches.items()},
        )

    @classmethod
    def roofline(
        cls, gpu: str, peak_flops_per_s: float, memory_bandwidth_bytes_per_s: float, sm_count: int
    ) -> LatentModel:
        """Of a GPU nobody measured and that is like none: typical shares of its peaks."""
        source = "assumed: typical shares of the peaks of eight measured GPUs"
        cache = LatentCache(2, 16, 12e-6, 10e-6, 4096, 0.2e-6, 2.0, 0.8, 0.4, 4.0, 50e6, 1.5, 4.0, source)
        return cls(
            gpu, peak_flops_per_s, memory_bandwidth_bytes_per_s, sm_count, 15e-6, 0.6, 3.0, 4.0, 3e-6, 0.6, 0.5,
            source, {"bf16": cache},
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives an equal model back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatentModel:
        """ValueError for a missing or unknown key, or for values the model refuses."""
        what = "latent attention model"
        tables = mapping(mapping(data, what).get("caches"), f"{what}: caches")
        caches = {kv: value_of(LatentCache, each, f"{what}: {shown(kv)}") for kv, each in tables.items()}
        return value_of(cls, data, what, caches=caches)
