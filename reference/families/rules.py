"""What may differ between families of models, and one config read by a family's rules.

A `Family` is what transformers' configuration and modelling of one `model_type` say, as data: where a file keeps each
number, what is assumed where it is silent, which biases, norms and rotations there are, and how layers alternate. Words
are those of most `config.json` files; `keys` names the others. `reference.families.table` has them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from thinwire.edge.limits import LAYERS, POSITIONS, WIDTH
from thinwire.edge.words import cut, refusal, shown
from thinwire.reference.core.architecture import Scoring
from thinwire.reference.core.mixers import Norm, QkNorm

Told = bool | str
"""A fact of a family, or the word of its configs that tells."""

Kind = Literal["full", "sliding", "chunked", "linear", "none"]
"""How a layer mixes tokens; `linear`: by the family's recurrence."""

FULL: Final = "full"
SLIDING: Final = "sliding"
CHUNKED: Final = "chunked"
LINEAR: Final = "linear"
NONE: Final = "none"
LAYER_TYPES: Mapping[str, Kind] = {
    "full_attention": "full", "attention": "full", "indexed_attention": "full", "sliding_attention": "sliding",
    "chunked_attention": "chunked", "linear_attention": "linear", "mamba": "linear",
}  # fmt: skip
TOPK_METHODS: Final = ("greedy", "group_limited_greedy", "noaux_tc")
"""How DeepSeek's routers choose: among all experts, or within the best groups."""
USUAL_KEYS: Mapping[str, str | tuple[str, ...]] = {
    "norm_eps": "rms_norm_eps",
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "mtp": ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules"),
}
USUAL: Mapping[str, Any] = {
    "hidden_act": "silu", "norm_eps": 1e-6, "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
    "tie_word_embeddings": False, "max_position_embeddings": 2048, "embedding_scale": 1.0, "residual_scale": 1.0,
    "logit_scale": 1.0, "mtp": 0, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0, "n_shared_experts": 0,
}  # fmt: skip

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Experts of a family. where: which layers have them. shared: `count` of a shared expert as wide as others
    (n_shared_experts), or of a `width` of its own (shared_expert_intermediate_size), or as wide as a `dense` layer
    (Gemma 4, Hunyuan). activation: where it is not the config's.
    """

    where: Pattern
    scoring: Scoring = "softmax"
    normalise: Told = True
    bias: Told = False
    router_bias: Told = False
    gated: bool = True
    shared: Literal["none", "count", "width", "dense"] = "none"
    shared_gate: bool = False
    correction: Told = False
    input_scaled: bool = False
    activation: str | None = None
    extra_norms: int = 0
    extras: Callable[[Given], int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One `model_type`.

    architectures: names in `architectures`, ours first. keys: where a file keeps what is named otherwise, one or the
    first of several. defaults: what transformers assumes where it is silent. of_kind: keys that layers of one kind
    read instead (Gemma 4's heads). pattern: how layers mix tokens, which `layer_types` may say if `follows`; otherwise
    it must agree. has_rope: which layers rotate. plain_sliding: layers with a window rotate without scaling, by
    `rope_local_base_freq` where given. linear: the recurrence of `linear` layers. feeds: `dense`, `sparse` or `none` a
    layer, where the mixture does not say. blocks: a layer's own words. extras, outside: trained values of a layer and
    beside layers that no matrix holds. refused: words that must be false, and what they would mean.
    """

    architectures: tuple[str, ...]
    keys: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    of_kind: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    norm: Norm = "rms"
    norms: Literal["before", "after", "both"] = "before"
    parallel: Told = False
    one_norm: Told = True  # where parallel
    qkv_bias: Told = False
    output_bias: Told = False
    mlp_bias: Told = False
    head_bias: Told = False
    gated: bool = True
    qk_norm: QkNorm = "none"
    has_qk_norm: Told = True
    output_gate: Literal["none", "query", "head"] = "none"
    sinks: tuple[Kind, ...] = ()
    keys_are_values: Told = False  # of full layers
    interleaved: Told = False
    plain_sliding: bool = False
    scale: float | str | None = None  # of queries times keys; a word: its square root divides; None: of the head
    attention_multiplier: bool = False  # the scale is a word of its own
    embedding_by_width: bool = False
    softcaps: bool = False
    latent: bool = False
    indexed: bool = False
    linear: Literal["delta", "mamba2", "lightning"] | None = None
    mixture: Mixture | None = None
    pattern: Pattern | None = None
    follows: bool = False
    has_rope: Callable[[Given, int, Sequence[str]], Sequence[bool]] | None = None
    feeds: Pattern | None = None
    blocks: Callable[[Given], Sequence[Mapping[str, Any]]] | None = None
    layer_count: Callable[[Given], int] | None = None
    head_dim: Callable[[Given], int] | None = None  # where neither the file nor hidden_size / heads says
    extras: Callable[[Given], int] | None = None
    outside: Callable[[Given], int] | None = None
    prepare: Callable[[Given], Mapping[str, Any]] | None = None  # words to be worked out of others
    refused: Mapping[str, str] = field(default_factory=dict)


# ---- reading


@lru_cache(maxsize=1)
def _adapters() -> Mapping[str, TypeAdapter[Any]]:
    # Built when first asked for: a tenth of a millisecond each.
    return {
        "size": TypeAdapter(Annotated[int, Field(gt=0, le=WIDTH.most, strict=True)]),
        "count": TypeAdapter(Annotated[int, Field(ge=0, le=WIDTH.most, strict=True)]),
        "layers": TypeAdapter(Annotated[int, Field(gt=0, le=LAYERS.most, strict=True)]),
        "positions": TypeAdapter(Annotated[int, Field(gt=0, le=POSITIONS.most, strict=True)]),
        "real": TypeAdapter(Annotated[float, Field(gt=0, le=1e30, strict=True, allow_inf_nan=False)]),
        "flag": TypeAdapter(bool),
        "text": TypeAdapter(Annotated[str, Field(strict=True)]),
        "counts": TypeAdapter(list[Annotated[int, Field(ge=0, le=WIDTH.most, strict=True)]]),
        "texts": TypeAdapter(list[Annotated[str, Field(strict=True)]]),
    }


class Given:
    """A config's content read by one family's rules: every value is checked when it is asked for.

    sizes: what is assumed where neither the file nor the family says. Faults are ValueErrors that name the model and
    the key.
    """

    def __init__(
        self,
        data: Mapping[str, Any],
        family: Family,
        model_type: str,
        name: str,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        self.data, self.family, self.model_type, self.name = data, family, model_type, name
        self.sizes = sizes or {}
        self.own: Mapping[str, Any] = {}
        if family.prepare is not None:
            self.own = family.prepare(self)

    def with_words(self, own: Mapping[str, Any]) -> Given:
        """The same with some words said otherwise."""
        if not own:
            return self
        found = Given.__new__(Given)
        found.data, found.family, found.model_type, found.name = self.data, self.family, self.model_type, self.name
        found.sizes = self.sizes
        found.own = {**self.own, **own}
        return found

    def fault(self, message: str) -> NoReturn:
        """ValueError with the model's name."""
        raise ValueError(f"model {self.name}: {message}")

    def key(self, word: str) -> str:
        """The file's key for a word: the first that is there."""
        keys = self.family.keys.get(word) or USUAL_KEYS.get(word, word)
        if isinstance(keys, str):
            return keys
        return next((key for key in keys if key in self.data), keys[0])

    def has(self, word: str) -> bool:
        """Whether the file says it, be it null."""
        return word in self.own or self.key(word) in self.data

    def raw(self, word: str) -> Any:
        """What the file says, or what is assumed; None where neither does."""
        if word in self.own:
            return self.own[word]
        key = self.key(word)
        if key in self.data:
            return self.data[key]
        return self.assumed(word)

    def assumed(self, word: str) -> Any:
        """What transformers assumes where the file is silent."""
        found = self.family.defaults.get(word, USUAL.get(word))
        return self.sizes.get(word) if found is None else found

    def max_positions(self) -> int:
        """Tokens."""
        return self.positions("max_position_embeddings") or int(self.assumed("max_position_embeddings"))

    def checked(self, kind: str, word: str, value: Any) -> Any:
        """A value of a kind, or a fault that names the key."""
        try:
            return _adapters()[kind].validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join([self.key(word), *(cut(str(part)) for part in first["loc"])])
            self.fault(f"{where}: {refusal(first)}")

    def _maybe(self, kind: str, word: str) -> Any:
        value = self.raw(word)
        return None if value is None else self.checked(kind, word, value)

    def _needed(self, kind: str, word: str) -> Any:
        value = self.raw(word)
        if value is None:  # null is as good as nothing: Gemma's hidden_activation
            value = self.assumed(word)
        if value is None:
            self.fault(f"{self.key(word)}: missing key")
        return self.checked(kind, word, value)

    def size(self, word: str) -> int:
        """A width or a count, above zero."""
        found: int = self._needed("size", word)
        return found

    def maybe_size(self, word: str) -> int | None:
        """The same, or nothing."""
        found: int | None = self._maybe("size", word)
        return found

    def count(self, word: str) -> int:
        """Zero or more; zero where nothing is said."""
        found: int | None = self._maybe("count", word)
        return found or 0

    def layers(self) -> int:
        """How many."""
        if self.family.layer_count is not None:
            found: int = self.checked("layers", "num_hidden_layers", self.family.layer_count(self))
        else:
            found = self._needed("layers", "num_hidden_layers")
        return found

    def positions(self, word: str) -> int | None:
        """Tokens: a window, or positions of a model."""
        found: int | None = self._maybe("positions", word)
        return found

    def real(self, word: str) -> float | None:
        """A positive finite number, or nothing."""
        found: float | None = self._maybe("real", word)
        return None if found is None else float(found)

    def scale(self, word: str) -> float:
        """A factor: one where nothing is said."""
        return self.real(word) or 1.0

    def flag(self, word: str) -> bool:
        """False where nothing is said."""
        return bool(self._maybe("flag", word))

    def told(self, fact: Told) -> bool:
        """A family's fact, or what the file says of it."""
        return self.flag(fact) if isinstance(fact, str) else fact

    def text(self, word: str) -> str:
        """One word."""
        found: str = self._needed("text", word)
        return found

    def counts(self, word: str) -> list[int] | None:
        """A row of numbers."""
        found: list[int] | None = self._maybe("counts", word)
        return found

    def texts(self, word: str) -> list[str] | None:
        """A row of words."""
        found: list[str] | None = self._maybe("texts", word)
        return found

    def table(self, word: str) -> Mapping[str, Any]:
        """A table; empty where nothing is said."""
        found = self.raw(word)
        if found is None:
            return {}
        if not isinstance(found, Mapping):
            self.fault(f"{self.key(word)}: must be a table; given {shown(found)}")
        return found

    def row(self, word: str, found: Sequence[Value], count: int, more: int = 0) -> Sequence[Value]:
        """One value a layer; `more` behind them are those of multi-token prediction. A fault where they are not as many
        as layers.
        """
        if len(found) not in (count, count + more):
            self.fault(f"{self.key(word)} must have a value for each layer: {len(found)} for {count}")
        return found[:count]


Pattern = Callable[[Given, int], Sequence[str]]
"""A word a layer."""
