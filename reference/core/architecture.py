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
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from thinwire.reference.core.mixers import NORM_VECTORS, Attention, Mixer, Norm, Part, Values
from thinwire.reference.core.precision import PLAIN, Checkpoint


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
        found = Values(other=self.norm_count * NORM_VECTORS[norm] * width + self.extras)
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
    checkpoint: what its files say of the precision of its parts.
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
    checkpoint: Checkpoint = PLAIN
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
    def feed_forward(self) -> FeedForward:
        """The MLP of the first layer that has one; ValueError where none has."""
        found = next((layer.feed for layer in self.layers if isinstance(layer.feed, FeedForward)), None)
        if found is None:
            raise ValueError(f"{self.name} has no dense feed-forward")
        return found

    @cached_property
    def is_mixture(self) -> bool:
        """Has it experts?"""
        return any(isinstance(layer.feed, Experts) for layer in self.layers)

    def with_layers(self, count: int) -> ModelConfig:
        """The same with so many layers, those it has over and over."""
        return replace(self, layers=tuple(self.layers[number % self.num_layers] for number in range(count)))

    @cached_property
    def distinct(self) -> tuple[tuple[Layer, int], ...]:
        """Layers that differ, and how often each is there."""
        return tuple(Counter(self.layers).items())

    @property
    def parameters(self) -> int:
        """Exact number of trained values, a tied embedding counted once."""
        return self.whole.total()

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

    @property
    def norm_values(self) -> int:
        """Trained values of a norm of the residual's width."""
        return NORM_VECTORS[self.norm] * self.hidden_size

    def outside(self, tp: int) -> Values:
        """What one of `tp` ranks holds beside the layers, the vocabulary's part rounded up; a tied head is in the
        embedding.
        """
        table = -(-self.vocab_size // tp) * self.hidden_size
        return Values(embedding=table, head=0 if self.tied_embeddings else table, other=self.norm_values + self.extras)

    @cached_property
    def whole(self) -> Values:
        """All its trained values by part."""
        return self.values(1)

    def values(self, tp: int, ep: int = 1) -> Values:
        """What one of `tp` ranks holds, the vocabulary's part rounded up; a tied head is in the embedding.

        Raises ValueError where `tp` and `ep` do not divide the model.
        """
        self.check_tp(tp, ep)
        found = self.outside(tp)
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

    def check_experts(self, ranks: int, ep: int) -> None:
        """Raises ValueError unless `ranks` GPUs, `ep` groups of them with experts of their own, can share the experts;
        what every token goes through is held whole.
        """
        for layer in dict.fromkeys(self.layers):
            if isinstance(layer.feed, Experts):
                fault = replace(layer.feed, shared=None).indivisible(ranks, ep)
                if fault is not None:
                    raise ValueError(
                        f"the GPUs must share the {fault[0]} of {self.name} evenly: GPUs={ranks}, ep={ep}, "
                        f"{fault[0]}={fault[1]}"
                    )

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
