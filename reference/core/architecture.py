"""What a decoder is made of: blocks of token mixing and feed-forward, their sizes, and the values each holds.

A model is a row of layers. A layer mixes tokens (attention, latent attention, a linear or state-space recurrence) and
feeds each forward (an MLP, or a mixture of experts), with norms before, after or both, one after the other or side by
side. The simulator, the reference decoder, weights and memory all read this description; `reference.families` says
where a `config.json` keeps each number. Counts are exact: `tests/reference/families/test_counts.py` holds them
against transformers' own modules.

Splitting follows Megatron-LM (arXiv 1909.08053, section 3): heads, MLP columns and vocabulary are shared out over `tp`
ranks; experts over `ep` of them whole, and each expert's columns over the tp / ep others. Norms, routers, latent
projections down and biases of row-parallel matrices are whole on every rank.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

Part = Literal["attention", "feed_forward", "experts", "shared_experts", "router", "embedding", "head", "other"]
"""What may have a precision of its own; `other`: norms, biases, convolutions, scalars."""

Norm = Literal["rms", "layer", "layer-no-bias", "weightless"]
"""Root mean square; layer norm with weight and bias, with a weight alone, with neither."""

_NORM_VECTORS: Mapping[Norm, int] = {"rms": 1, "layer": 2, "layer-no-bias": 1, "weightless": 0}

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


@dataclass(frozen=True, slots=True)
class FeedForward:
    """An MLP: gated (three matrices) or not (two). activation: transformers' word."""

    width: int
    gated: bool = True
    activation: str = "silu"
    bias: bool = False

    def values(self, width: int, tp: int, part: Part = "feed_forward") -> Values:
        """Of one rank; `width` is the residual's."""
        inner, up = self.width // tp, 2 if self.gated else 1
        other = up * inner + width if self.bias else 0
        return Values({part: (up + 1) * width * inner, "other": other})

    def indivisible(self, tp: int, ep: int = 1) -> tuple[str, int] | None:
        """What `tp` ranks cannot share evenly."""
        return ("MLP width", self.width) if self.width % tp else None


Scoring = Literal["softmax", "sigmoid", "softmax-of-chosen", "sparse-mixer"]
"""What a router's logits go through: all of them, or the chosen alone (gpt-oss, Granite); `sparse-mixer`: each choice
against those near it (Phi-3.5-MoE, arXiv 2409.12136)."""


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture: `top_k` of `count` experts a token, chosen by a router; `shared` sees every token.

    groups, top_groups: experts are chosen within the best groups (DeepSeek V2 and V3). scoring: what the router's
    logits go through; normalise: the chosen weights sum to one; scale multiplies them. input_scaled: the weight
    multiplies what the expert is given, not what it gives (Llama 4). correction: a bias for choosing alone, no
    trained value. shared_gate: a sigmoid gate on the shared expert (Qwen2-MoE). latent: the experts work on that many
    values, projected down from the residual and up again, whole on every rank and counted with the shared expert
    (Nemotron 3 Super).
    """

    count: int
    top_k: int
    width: int
    gated: bool = True
    activation: str = "silu"
    bias: bool = False
    router_bias: bool = False
    shared: FeedForward | None = None
    shared_gate: bool = False
    scoring: Scoring = "softmax"
    normalise: bool = True
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    correction: bool = False
    input_scaled: bool = False
    latent: int | None = None

    def _each(self, width: int, inner: int) -> tuple[int, int]:
        """Values of one expert's matrices and biases, `inner` of its columns."""
        up, outer = 2 if self.gated else 1, self.latent or width
        return (up + 1) * outer * inner, (up * inner + outer) * self.bias

    def values(self, width: int, tp: int, ep: int = 1) -> Values:
        """Of one rank: count / ep experts, each cut over the tp / ep ranks that share it."""
        held, (matrices, biases) = self.count // ep, self._each(width, self.width // (tp // ep))
        found = Values(experts=held * matrices, router=width * self.count)
        found["other"] += held * biases + self.count * self.router_bias
        if self.shared is not None:
            found += self.shared.values(width, tp, "shared_experts")
            found["other"] += width * self.shared_gate
        if self.latent is not None:
            found["shared_experts"] += 2 * width * self.latent
        return found

    def active(self, width: int) -> Values:
        """What one token goes through."""
        found, (matrices, biases) = self.values(width, 1), self._each(width, self.width)
        found["experts"] = self.top_k * matrices
        found["other"] -= (self.count - self.top_k) * biases
        return found

    def indivisible(self, tp: int, ep: int = 1) -> tuple[str, int] | None:
        """What `tp` ranks, `ep` groups of them with experts of their own, cannot share evenly."""
        if self.count % ep:
            return "experts", self.count
        if self.width % (tp // ep):
            return "experts' width", self.width
        return self.shared.indivisible(tp) if self.shared else None


@dataclass(frozen=True, slots=True)
class Layer:
    """A block. mixer or feed may be missing (hybrids alternate them).

    norms: before each of the two, after each, or both. parallel: both read the same input and are added at once
    (Command R, Falcon), so that one all-reduce serves both; one_norm: through one norm. extra_norms: further norms of
    the residual's width (Gemma 4's around its experts); extras: further trained values that cost no time.
    """

    mixer: Mixer | None
    feed: FeedForward | Experts | None
    norms: Literal["before", "after", "both"] = "before"
    parallel: bool = False
    one_norm: bool = False
    extra_norms: int = 0
    extras: int = 0

    @property
    def sites(self) -> tuple[Literal["attention", "mlp"], ...]:
        """Its sync points, in order: where partial sums are added up."""
        if self.parallel or self.mixer is None:
            return ("mlp",)
        return ("attention",) if self.feed is None else ("attention", "mlp")

    @property
    def norm_count(self) -> int:
        """Norms of the residual's width."""
        halves = (self.mixer is not None) + (self.feed is not None)
        per_half = 2 if self.norms == "both" else 1
        return (1 if self.one_norm else halves * per_half) + self.extra_norms

    def values(self, width: int, tp: int, ep: int = 1, norm: Norm = "rms") -> Values:
        """Of one rank; `width` is the residual's."""
        found = Values(other=self.norm_count * _NORM_VECTORS[norm] * width + self.extras)
        if self.mixer is not None:
            found += self.mixer.values(width, tp)
        if isinstance(self.feed, Experts):
            found += self.feed.values(width, tp, ep)
        elif self.feed is not None:
            found += self.feed.values(width, tp)
        return found


@dataclass(frozen=True)
class ModelConfig:
    """A decoder: its layers, and what is before and behind them.

    norm_eps dimensionless; max_positions in tokens. embedding_scale multiplies what the table gives, residual_scale
    what each half adds, logit_scale the logits. notes: sentences on what was left out or assumed in reading it.
    quantisation: JSON of what the checkpoint says of its formats: `config`, with the `quantization_config` of its
    `config.json`, and `hf_quant`, the file beside it; None where both say nothing.
    """

    name: str
    architecture: str
    hidden_size: int
    vocab_size: int
    layers: tuple[Layer, ...]
    norm: Norm
    norm_eps: float
    tied_embeddings: bool
    max_positions: int
    source: str
    final_softcap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    extras: int = 0  # trained values beside the layers that cost no time: biases of the head, position tables
    dtype: str | None = None  # that the checkpoint says it is in
    quantisation: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def num_layers(self) -> int:
        """How many layers there are."""
        return len(self.layers)

    @cached_property
    def attention(self) -> Attention:
        """The grouped-query attention of the first layer that has one; ValueError where none has."""
        found = next((layer.mixer for layer in self.layers if isinstance(layer.mixer, Attention)), None)
        if found is None:
            raise ValueError(f"{self.name} has no grouped-query attention")
        return found

    @cached_property
    def is_mixture(self) -> bool:
        """Has it experts?"""
        return any(isinstance(layer.feed, Experts) for layer in self.layers)

    @cached_property
    def distinct(self) -> tuple[tuple[Layer, int], ...]:
        """Layers that differ, and how often each is there."""
        return tuple(Counter(self.layers).items())

    @property
    def parameters(self) -> int:
        """Exact number of trained values, a tied embedding counted once."""
        return self.values(1).total()

    @property
    def active_parameters(self) -> int:
        """Values that one token is multiplied with or added to: of a mixture its chosen experts alone, the head but not
        the embedding's table, of which one row is read.
        """
        found = self.values(1)
        for layer, times in self.distinct:
            if isinstance(layer.feed, Experts):
                whole, active = layer.feed.values(self.hidden_size, 1), layer.feed.active(self.hidden_size)
                for part, values in active.items():
                    found[part] -= times * (whole[part] - values)
        if not self.tied_embeddings:
            found["embedding"] = 0
        return found.total()

    def values(self, tp: int, ep: int = 1) -> Values:
        """What one of `tp` ranks holds, the vocabulary's part rounded up; a tied head is in the embedding.

        Raises ValueError where `tp` and `ep` do not divide the model.
        """
        self.check_tp(tp, ep)
        table = -(-self.vocab_size // tp) * self.hidden_size
        found = Values(embedding=table, head=0 if self.tied_embeddings else table)
        found["other"] += _NORM_VECTORS[self.norm] * self.hidden_size + self.extras
        for layer, times in self.distinct:
            for part, values in layer.values(self.hidden_size, tp, ep, self.norm).items():
                found[part] += times * values
        return found

    def cache_values(self, tp: int, tokens: int = 1) -> int:
        """Values that one rank keeps of a sequence of `tokens`: a layer with a window or chunks keeps no more than
        those; an index keeps all.
        """
        found = 0
        for layer, times in self.distinct:
            if layer.mixer is not None:
                reach = layer.mixer.reach if isinstance(layer.mixer, Attention) else None
                kept = tokens if reach is None else min(tokens, reach)
                found += times * layer.mixer.cache_values(tp) * kept
        return found

    def state_values(self, tp: int) -> int:
        """Values that one rank keeps of a sequence whatever its length: states of recurrences."""
        return sum(times * layer.mixer.state_values(tp) for layer, times in self.distinct if layer.mixer is not None)

    def check_tp(self, tp: int, ep: int = 1) -> None:
        """Raises ValueError unless `tp` GPUs, `ep` of them with experts of their own, can share every layer evenly."""
        for name, degree in (("tp", tp), ("ep", ep)):
            if degree < 1:
                raise ValueError(f"{name} must be positive: {name}={degree}")
        if ep > 1 and not self.is_mixture:
            raise ValueError(f"{self.name} has no experts to spread: ep={ep}")
        if tp % ep:
            raise ValueError(f"ep must divide the GPUs: ep={ep}, GPUs={tp}")
        for layer in dict.fromkeys(self.layers):
            faults = [layer.mixer.indivisible(tp)] if layer.mixer is not None else []
            faults += [layer.feed.indivisible(tp, ep)] if layer.feed is not None else []
            for what, size in filter(None, faults):
                given = f"tp={tp}, {what}={size}" + (f", ep={ep}" if ep > 1 else "")
                if what == "key-value heads":
                    raise ValueError(f"tp must divide the {what} of {self.name} or be a multiple of them: {given}")
                raise ValueError(f"tp must divide the {what} of {self.name}: {given}")
