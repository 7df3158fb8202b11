"""What mixes tokens in a layer: grouped-query and latent attention, recurrences; their sizes, the values each holds.

Splitting follows Megatron-LM (arXiv 1909.08053, section 3): heads are shared out over `tp` ranks; norms, latent
projections down and biases of row-parallel matrices are whole on every rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Part = Literal["attention", "feed_forward", "experts", "shared_experts", "router", "embedding", "head", "other"]
"""What may have a precision of its own; `other`: norms, biases, convolutions, scalars."""

Norm = Literal["rms", "layer", "layer-no-bias", "weightless"]
"""Root mean square; layer norm with weight and bias, with a weight alone, with neither."""

NORM_VECTORS: Mapping[Norm, int] = {"rms": 1, "layer": 2, "layer-no-bias": 1, "weightless": 0}

Values = Counter[str]
"""Trained values by part (`Part`)."""


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How a model stretches its rotary positions: transformers' `rope_type` and what its kinds need.

    `linear` reads factor; `llama3` the next three; `yarn` factor, original_max_positions and those from beta_fast on;
    `longrope` short, long, original_max_positions and attention_factor. `proportional` (Gemma 4) reads factor: the
    frequencies are spaced over the whole head and its pairs lie half a head apart; those beyond `Rope.dims` stand
    still. Other kinds are kept by name only; they cost the same time, and who computes with them refuses them.
    """

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_max_positions: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    short: tuple[float, ...] = ()
    long: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary positions of one kind of layer: `dims` values of each head are turned, in pairs (i, i + dims / 2), or
    (2i, 2i + 1) where interleaved.
    """

    dims: int
    theta: float = 10000.0
    interleaved: bool = False
    scaling: RopeScaling | None = None


QkNorm = Literal["none", "head", "row", "head-layer", "l2"]
"""No norm of queries and keys; RMS over each head, one weight for all (Qwen3); RMS over all heads at once (OLMo 2);
layer norm over each head, a weight for every head (Command R+); RMS without weights after the rotation (Llama 4)."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention of one layer.

    window: a token attends to so many, itself among them; chunk: to those of its own chunk (Llama 4); None = all
    before it. scale multiplies query times key. sinks: a learned logit a head that takes part in the softmax
    (gpt-oss). gated: queries are projected twice, the second gates the output (Qwen3-Next). head_gate: a value a head
    gates its output (Step 3.5). keys_are_values: one projection serves as both (Gemma 4); both are cached. borrowed:
    keys and values are those of an earlier layer, so that this one neither projects nor keeps any (Gemma 4 E4B).
    value_scale multiplies values (MiMo-V2).
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None = None
    value_dim: int | None = None  # None: as head_dim
    window: int | None = None
    chunk: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: QkNorm = "none"
    softcap: float | None = None
    sinks: bool = False
    gated: bool = False
    head_gate: bool = False
    keys_are_values: bool = False
    borrowed: bool = False
    value_scale: float = 1.0

    @property
    def values_per_head(self) -> int:
        """Width of a head's values."""
        return self.head_dim if self.value_dim is None else self.value_dim

    @property
    def reach(self) -> int | None:
        """Tokens that a query sees at most: of the window, or of a chunk; None = all."""
        return self.chunk if self.window is None else self.window

    def kv_heads_per_gpu(self, tp: int) -> int:
        """Key-value heads that one of `tp` GPUs holds: at least one."""
        return max(1, self.kv_heads // tp)

    def values(self, width: int, tp: int) -> Values:
        """Of one rank."""
        heads, kv = self.heads // tp, 0 if self.borrowed else self.kv_heads_per_gpu(tp)
        queries = heads * self.head_dim * (2 if self.gated else 1)
        keys_values = kv * (self.head_dim + (0 if self.keys_are_values else self.values_per_head))
        output = heads * self.values_per_head
        norms = {
            "none": 0,
            "l2": 0,
            "head": (1 if self.borrowed else 2) * self.head_dim,
            "row": (heads + kv) * self.head_dim,
            "head-layer": (heads + kv) * self.head_dim,
        }[self.qk_norm]
        other = norms + (queries + keys_values) * self.qkv_bias + width * self.output_bias + heads * self.sinks
        gate = heads * self.head_gate
        return Values(attention=width * (queries + keys_values + output + gate), other=other)

    def cache_values(self, tp: int) -> int:
        """Of keys and values that one rank keeps a token."""
        if self.borrowed:
            return 0
        return self.kv_heads_per_gpu(tp) * (self.head_dim + self.values_per_head)

    def state_values(self, tp: int) -> int:
        """Kept a sequence, whatever its length."""
        return 0

    def indivisible(self, tp: int) -> tuple[str, int] | None:
        """What `tp` ranks cannot share evenly, and how much of it there is."""
        if self.heads % tp:
            return "attention heads", self.heads
        if self.kv_heads % tp and tp % self.kv_heads:
            return "key-value heads", self.kv_heads
        return None


@dataclass(frozen=True, slots=True)
class Indexer:
    """Which cached tokens a sparse latent attention reads: the `top_k` that a small attention scores highest
    (DeepSeek V3.2, GLM-5). Whole on every rank. shared: the choice is an earlier layer's, nothing is computed or kept
    (GLM-5.2).
    """

    heads: int
    head_dim: int
    top_k: int
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): keys and values are expanded from
    `rank` latent values a token; `rope_dim` more carry positions. q_rank: queries, too, go through a latent.
    """

    heads: int
    q_rank: int | None
    rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    scale: float
    rope: Rope
    bias: bool = False
    indexer: Indexer | None = None

    @property
    def head_dim(self) -> int:
        """Width of a head's queries and keys, as prefill attends."""
        return self.nope_dim + self.rope_dim

    @property
    def reach(self) -> int | None:
        """Tokens that a query sees at most."""
        return None if self.indexer is None else self.indexer.top_k

    def values(self, width: int, tp: int) -> Values:
        """Of one rank: projections down are whole, those up are cut by heads."""
        heads = self.heads // tp
        queries = heads * self.head_dim
        matrices = width * (self.rank + self.rope_dim) + self.rank * heads * (self.nope_dim + self.value_dim)
        matrices += heads * self.value_dim * width
        other = self.rank + ((self.rank + self.rope_dim + width) if self.bias else 0)
        if self.q_rank is None:
            matrices += width * queries
        else:
            matrices += width * self.q_rank + self.q_rank * queries
            other += self.q_rank + (self.q_rank if self.bias else 0)
        if self.indexer is not None and not self.indexer.shared:
            index = self.indexer
            matrices += (self.q_rank or width) * index.heads * index.head_dim + width * (index.head_dim + index.heads)
            other += 2 * index.head_dim  # a layer norm of the index's keys
        return Values(attention=matrices, other=other)

    def cache_values(self, tp: int) -> int:
        """The latent and the rotated part, whole on every rank."""
        return self.rank + self.rope_dim + (self.indexer.head_dim if self.indexer and not self.indexer.shared else 0)

    def state_values(self, tp: int) -> int:
        """Kept a sequence, whatever its length."""
        return 0

    def indivisible(self, tp: int) -> tuple[str, int] | None:
        """What `tp` ranks cannot share evenly."""
        return ("attention heads", self.heads) if self.heads % tp else None


@dataclass(frozen=True, slots=True)
class DeltaNet:
    """Gated delta rule (arXiv 2412.06464) as Qwen3-Next has it: a state of key_dim x value_dim for each value head."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv: int

    @property
    def reach(self) -> int | None:
        """A state holds everything before."""
        return None

    def values(self, width: int, tp: int) -> Values:
        """Of one rank."""
        keys, out = self.key_heads // tp * self.key_dim, self.value_heads // tp * self.value_dim
        heads = self.value_heads // tp
        matrices = width * (2 * keys + 2 * out + 2 * heads) + out * width  # q, k, v and gate; beta and decay; output
        return Values(attention=matrices, other=(2 * keys + out) * self.conv + 2 * heads + self.value_dim)

    def cache_values(self, tp: int) -> int:
        """None grows with the context."""
        return 0

    def state_values(self, tp: int) -> int:
        """The state, and the convolution's last inputs."""
        heads = self.value_heads // tp
        keys = self.key_heads // tp * self.key_dim
        return heads * self.key_dim * self.value_dim + (2 * keys + heads * self.value_dim) * (self.conv - 1)

    def indivisible(self, tp: int) -> tuple[str, int] | None:
        """What `tp` ranks cannot share evenly."""
        both = (("linear attention's key heads", self.key_heads), ("linear attention's value heads", self.value_heads))
        return next((found for found in both if found[1] % tp), None)


@dataclass(frozen=True, slots=True)
class StateSpace:
    """Mamba 2 (arXiv 2405.21060): heads of head_dim, a state of `state` values for each, B and C shared by group."""

    heads: int
    head_dim: int
    groups: int
    state: int
    conv: int
    conv_bias: bool = True
    bias: bool = False

    @property
    def reach(self) -> int | None:
        """A state holds everything before."""
        return None

    def groups_per_gpu(self, tp: int) -> int:
        """Groups that one of `tp` GPUs holds: at least one."""
        return max(1, self.groups // tp)

    def values(self, width: int, tp: int) -> Values:
        """Of one rank."""
        heads = self.heads // tp
        inner, shared = heads * self.head_dim, 2 * self.groups_per_gpu(tp) * self.state
        wide = 2 * inner + shared + heads
        other = (inner + shared) * (self.conv + self.conv_bias) + 3 * heads + inner
        return Values(attention=width * wide + inner * width, other=other + (wide + width) * self.bias)

    def cache_values(self, tp: int) -> int:
        """None grows with the context."""
        return 0

    def state_values(self, tp: int) -> int:
        """The state, and the convolution's last inputs."""
        inner, shared = self.heads // tp * self.head_dim, 2 * self.groups_per_gpu(tp) * self.state
        return inner * self.state + (inner + shared) * (self.conv - 1)

    def indivisible(self, tp: int) -> tuple[str, int] | None:
        """What `tp` ranks cannot share evenly."""
        if self.heads % tp:
            return "state-space heads", self.heads
        return ("state-space groups", self.groups) if self.groups % tp and tp % self.groups else None


@dataclass(frozen=True, slots=True)
class Lightning:
    """Lightning attention (MiniMax-01, arXiv 2501.08313): linear attention with a fixed decay a head and a gate."""

    heads: int
    head_dim: int

    @property
    def reach(self) -> int | None:
        """A state holds everything before."""
        return None

    def values(self, width: int, tp: int) -> Values:
        """Of one rank: query, key, value, output gate and output; a norm of what the heads give."""
        inner = self.heads // tp * self.head_dim
        return Values(attention=5 * width * inner, other=inner)

    def cache_values(self, tp: int) -> int:
        """None grows with the context."""
        return 0

    def state_values(self, tp: int) -> int:
        """A square state a head."""
        return self.heads // tp * self.head_dim**2

    def indivisible(self, tp: int) -> tuple[str, int] | None:
        """What `tp` ranks cannot share evenly."""
        return ("linear attention's heads", self.heads) if self.heads % tp else None


Mixer = Attention | Latent | DeltaNet | StateSpace | Lightning
