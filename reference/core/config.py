"""Model sizes, read from Hugging Face `config.json` files of dense decoders. The catalog: reference/models/.

What a file leaves out takes the default that transformers gives its architecture. Mixtures of experts, latent
attention, quantised checkpoints and architectures not listed here are refused: their cost would be guessed.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thinwire.edge.limits import LAYERS, POSITIONS, WIDTH
from thinwire.edge.reading import from_json, is_there
from thinwire.edge.words import cut, place, refusal, shown

_MODELS = Path(__file__).resolve().parents[1] / "models"
_BF16_BYTES = 2


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How a model stretches its rotary positions: transformers' `rope_type` and what `linear` and `llama3` need.

    Other kinds are kept by name only; they cost the same time, and who computes with them refuses them.
    """

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_max_positions: int = 0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A dense decoder's sizes and the few facts of its arithmetic.

    intermediate_size: width of the gated MLP (three matrices). sliding_window in tokens, on all layers or
    on the even ones ("alternate", Gemma 2). query_scale multiplies query times key. rope_theta, norm_eps
    dimensionless; max_positions in tokens. output_bias, mlp_bias: biases that only some Llama derivatives
    have. rope_scaling: None where positions are not stretched.
    """

    name: str
    architecture: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    qkv_bias: bool
    tied_embeddings: bool
    activation: str
    sliding_window: int | None
    sliding_pattern: Literal["all", "alternate"]
    post_norms: bool
    attention_softcap: float | None
    final_softcap: float | None
    query_scale: float
    rope_theta: float
    norm_eps: float
    max_positions: int
    source: str
    output_bias: bool = False
    mlp_bias: bool = False
    rope_scaling: RopeScaling | None = None

    def window(self, layer: int) -> int | None:
        """How many tokens back layer `layer` (from 0) attends; None = all. ValueError outside the layers."""
        if not 0 <= layer < self.num_layers:
            raise ValueError(f"layer must lie in 0..{self.num_layers - 1} for {self.name}: layer={layer}")
        return self.sliding_window if self.sliding_pattern == "all" or layer % 2 == 0 else None

    @property
    def parameters(self) -> int:
        """Exact number of trained values, a tied embedding counted once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        layer = self._matrices(1) + self._biases(1) + self._norms
        return embeddings + self.num_layers * layer + self.hidden_size

    def weight_bytes(self, tp: int, bits: int) -> int:
        """Bytes of weights one of `tp` GPUs holds, layer matrices at `bits` bits, everything else in bf16.

        Heads, MLP and vocabulary are split (the vocabulary rounded up), norms replicated, and a key-value
        head is replicated where there are more GPUs than heads. Raises ValueError where `tp` does not
        divide the model.
        """
        self.check_tp(tp)
        if bits not in (4, 8, 16):
            raise ValueError(f"bits must be 4, 8 or 16: bits={bits}")
        embeddings = -(-self.vocab_size // tp) * self.hidden_size * (1 if self.tied_embeddings else 2)
        bf16_values = embeddings + self.num_layers * (self._biases(tp) + self._norms) + self.hidden_size
        return self.num_layers * self._matrices(tp) * bits // 8 + bf16_values * _BF16_BYTES

    def kv_heads_per_gpu(self, tp: int) -> int:
        """Key-value heads that one of `tp` GPUs holds: at least one."""
        return max(1, self.num_kv_heads // tp)

    def check_tp(self, tp: int) -> None:
        """Raises ValueError unless `tp` GPUs can share the heads and the MLP evenly."""
        if tp < 1:
            raise ValueError(f"tp must be positive: tp={tp}")
        for what, size in (("attention heads", self.num_heads), ("MLP width", self.intermediate_size)):
            if size % tp:
                raise ValueError(f"tp must divide the {what} of {self.name}: tp={tp}, {what}={size}")
        if self.num_kv_heads % tp and tp % self.num_kv_heads:
            raise ValueError(
                f"tp must divide the key-value heads of {self.name} or be a multiple of them: "
                f"tp={tp}, key-value heads={self.num_kv_heads}"
            )

    def _matrices(self, tp: int) -> int:
        heads = 2 * self.num_heads // tp + 2 * self.kv_heads_per_gpu(tp)  # query and output, key and value
        return self.hidden_size * (heads * self.head_dim + 3 * self.intermediate_size // tp)

    def _biases(self, tp: int) -> int:
        heads = self.num_heads // tp + 2 * self.kv_heads_per_gpu(tp)
        qkv = heads * self.head_dim if self.qkv_bias else 0
        mlp = 2 * self.intermediate_size // tp + self.hidden_size if self.mlp_bias else 0
        return qkv + mlp + (self.hidden_size if self.output_bias else 0)

    @property
    def _norms(self) -> int:
        return (4 if self.post_norms else 2) * self.hidden_size


_Size = Annotated[int, Field(gt=0, le=WIDTH.most, strict=True)]
_Real = Annotated[float, Field(gt=0, le=1e30, strict=True, allow_inf_nan=False)]


class _Rope(BaseModel):
    """`rope_parameters`, and the `rope_scaling` of older files, which lacks the base."""

    rope_theta: _Real | None = None
    rope_type: str | None = None
    type: str | None = None  # the oldest files' word for it
    factor: Any = None  # checked for the kinds that are known
    low_freq_factor: Any = None
    high_freq_factor: Any = None
    original_max_position_embeddings: Any = None


class _HuggingFace(BaseModel):
    """The keys of a `config.json` that matter here; the others are ignored."""

    model_config = ConfigDict(extra="ignore")

    hidden_size: _Size
    num_hidden_layers: Annotated[int, Field(gt=0, le=LAYERS.most, strict=True)]
    num_attention_heads: _Size
    num_key_value_heads: _Size | None = None
    head_dim: _Size | None = None
    intermediate_size: _Size
    vocab_size: _Size
    tie_word_embeddings: bool | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"
    hidden_activation: str | None = None
    sliding_window: Annotated[int, Field(gt=0, le=POSITIONS.most, strict=True)] | None = None
    use_sliding_window: bool = False
    max_window_layers: int | None = None
    layer_types: list[str] | None = None
    attn_logit_softcapping: _Real | None = None
    final_logit_softcapping: _Real | None = None
    query_pre_attn_scalar: _Real | None = None
    rope_theta: _Real | None = None
    rope_parameters: _Rope | None = None
    rope_scaling: _Rope | None = None
    rms_norm_eps: _Real = 1e-6
    max_position_embeddings: Annotated[int, Field(gt=0, le=POSITIONS.most, strict=True)] | None = None


@dataclass(frozen=True, slots=True)
class _Family:
    """An architecture and what transformers assumes where its `config.json` is silent."""

    model_type: str
    kv_heads: int | None  # None = as many as attention heads
    max_positions: int
    sliding_window: int | None = None
    gemma: bool = False


_FAMILIES = {
    "LlamaForCausalLM": _Family("llama", None, 2048),
    "MistralForCausalLM": _Family("mistral", 8, 131072, sliding_window=4096),
    "Qwen2ForCausalLM": _Family("qwen2", 32, 32768, sliding_window=4096),
    "Gemma2ForCausalLM": _Family("gemma2", 4, 8192, sliding_window=4096, gemma=True),
}
_SUPPORTED = f"supported are dense {', '.join(_FAMILIES)} without quantisation"
_EXPERT_KEYS = (
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_intermediate_size",
    "num_experts_per_tok",
)
_LATENT_KEYS = ("kv_lora_rank", "q_lora_rank")
_QUANTISED_KEYS = ("quantization_config", "compression_config")
_ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh")


def parse_config(data: Mapping[str, Any], name: str) -> ModelConfig:
    """The model a `config.json`'s content describes. ValueError naming the key that is wrong or refused."""
    architecture, family = _family(data, name)
    try:
        raw = _HuggingFace.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(cut(str(part)) for part in first["loc"])
        raise ValueError(f"model {name}: {where}: {refusal(first)}") from None

    heads = raw.num_attention_heads
    kv_heads = raw.num_key_value_heads
    if kv_heads is None:  # an explicit null means multi-head attention whatever the architecture
        default = None if "num_key_value_heads" in raw.model_fields_set else family.kv_heads
        kv_heads = default or heads
    if heads % kv_heads:
        raise ValueError(f"model {name}: num_key_value_heads must divide num_attention_heads: {kv_heads} and {heads}")
    head_dim = raw.head_dim or (256 if family.gemma else raw.hidden_size // heads)
    if raw.head_dim is None and not family.gemma and raw.hidden_size % heads:
        raise ValueError(
            f"model {name}: num_attention_heads must divide hidden_size where head_dim is not given: "
            f"{heads} and {raw.hidden_size}"
        )
    activation = (raw.hidden_activation or "gelu_pytorch_tanh") if family.gemma else raw.hidden_act
    if activation not in _ACTIVATIONS:
        raise ValueError(f"model {name}: activation must be one of {', '.join(_ACTIVATIONS)}: {shown(activation)}")
    window = _sliding_window(raw, family, name)
    if head_dim % 2:
        raise ValueError(f"model {name}: head_dim must be even, since rotary positions turn pairs: head_dim={head_dim}")
    # As transformers: rope_scaling before rope_parameters unless it is empty, the dict's base before the one beside it.
    rope = raw.rope_scaling if data.get("rope_scaling") else raw.rope_parameters
    rope_theta = (rope.rope_theta if rope else None) or raw.rope_theta or 10000.0
    tied = raw.tie_word_embeddings if raw.tie_word_embeddings is not None else family.gemma
    attention_bias = raw.attention_bias and family.model_type in ("llama", "gemma2")
    return ModelConfig(
        name=name,
        architecture=architecture,
        hidden_size=raw.hidden_size,
        num_layers=raw.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=raw.intermediate_size,
        vocab_size=raw.vocab_size,
        qkv_bias=attention_bias or family.model_type == "qwen2",
        tied_embeddings=tied,
        activation=activation,
        sliding_window=window,
        sliding_pattern="alternate" if family.gemma else "all",
        post_norms=family.gemma,
        attention_softcap=_softcap(raw, "attn_logit_softcapping", 50.0, family),
        final_softcap=_softcap(raw, "final_logit_softcapping", 30.0, family),
        query_scale=((raw.query_pre_attn_scalar or 256.0) if family.gemma else head_dim) ** -0.5,
        rope_theta=rope_theta,
        norm_eps=raw.rms_norm_eps,
        max_positions=raw.max_position_embeddings or family.max_positions,
        source=str(data.get("_source", "config.json given by the user")),
        output_bias=attention_bias,
        mlp_bias=raw.mlp_bias and family.model_type == "llama",
        rope_scaling=_rope_scaling(rope, raw.max_position_embeddings or family.max_positions, name),
    )


def _family(data: Mapping[str, Any], name: str) -> tuple[str, _Family]:
    for what, keys in (
        ("a mixture of experts", _EXPERT_KEYS),
        ("multi-head latent attention", _LATENT_KEYS),
        ("a quantised checkpoint", _QUANTISED_KEYS),
    ):
        if found := [key for key in keys if data.get(key)]:
            raise ValueError(f"model {name} is {what} ({found[0]}), which is not supported; {_SUPPORTED}")
    listed = data.get("architectures")
    if isinstance(listed, list) and len(listed) == 1:
        architecture = str(listed[0])
    else:
        by_type = {family.model_type: known for known, family in _FAMILIES.items()}
        architecture = by_type.get(str(data.get("model_type")), str(listed or data.get("model_type")))
    if architecture not in _FAMILIES:
        raise ValueError(f"model {name}: architecture {cut(architecture)} is not supported; {_SUPPORTED}")
    return architecture, _FAMILIES[architecture]


def _softcap(raw: _HuggingFace, key: str, default: float, family: _Family) -> float | None:
    if not family.gemma:
        return None
    value: float | None = getattr(raw, key)
    return value if key in raw.model_fields_set else default


def _rope_scaling(given: _Rope | None, max_positions: int, name: str) -> RopeScaling | None:
    kind = (given.rope_type or given.type or "default") if given else "default"
    if given is None or kind == "default":
        return None
    if kind not in ("linear", "llama3"):
        return RopeScaling(kind)
    factors = []
    for key in ("factor",) if kind == "linear" else ("factor", "low_freq_factor", "high_freq_factor"):
        value = getattr(given, key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise ValueError(f"model {name}: rope_scaling {kind} needs a positive {key}: {shown(value)}")
        factors.append(float(value))
    if kind == "linear":
        return RopeScaling(kind, factors[0])
    if factors[1] >= factors[2]:
        raise ValueError(f"model {name}: rope_scaling llama3 needs low_freq_factor < high_freq_factor: {factors[1:]}")
    original = given.original_max_position_embeddings or max_positions
    if isinstance(original, bool) or not isinstance(original, int) or original < 1:
        raise ValueError(
            f"model {name}: rope_scaling llama3 needs a positive original_max_position_embeddings: {shown(original)}"
        )
    return RopeScaling(kind, factors[0], factors[1], factors[2], original)


def _sliding_window(raw: _HuggingFace, family: _Family, name: str) -> int | None:
    window = raw.sliding_window if "sliding_window" in raw.model_fields_set else family.sliding_window
    layers = raw.num_hidden_layers
    if family.model_type == "llama":
        window = None
    elif family.model_type == "qwen2":
        first = raw.max_window_layers if raw.max_window_layers is not None else 28
        if not raw.use_sliding_window or first >= layers:
            window = None
        elif first > 0 and window is not None:
            raise ValueError(
                f"model {name}: a sliding window on some layers only is not supported: "
                f"max_window_layers={first}, allowed 0, {layers} or more, or use_sliding_window=false"
            )
    if raw.layer_types is not None:  # newer files spell the pattern out; it must be the one assumed here
        stride = 2 if family.gemma else 1
        slides = [window is not None and layer % stride == 0 for layer in range(layers)]
        if [kind == "sliding_attention" for kind in raw.layer_types] != slides:
            raise ValueError(f"model {name}: layer_types does not follow the pattern of {family.model_type}")
    return window


@lru_cache(maxsize=1)
def model_names() -> tuple[str, ...]:
    """Names of the catalog's models, sorted."""
    return tuple(sorted(path.stem for path in _MODELS.glob("*.json")))


def load_model(name_or_path: str) -> ModelConfig:
    """The model of a catalog name, of a `config.json`, or of a folder that holds one.

    Raises ValueError for an unknown name (with near matches), a file that is not JSON or a model not
    supported.
    """
    if name_or_path in model_names():
        return _load(_MODELS / f"{name_or_path}.json", name_or_path)
    path = Path(name_or_path)
    if os.path.isdir(path):
        path = path / "config.json"
    if not is_there(path):
        near = difflib.get_close_matches(cut(name_or_path), model_names(), n=3)
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise ValueError(
            f"unknown model {shown(name_or_path)}; {hint}Allowed: {', '.join(model_names())}, "
            "or the path of a Hugging Face config.json"
        )
    return _load(path, path.resolve().parent.name if path.name == "config.json" else path.stem)


def _load(path: Path, name: str) -> ModelConfig:
    data = from_json(path, "the model file")
    if not isinstance(data, dict):
        raise ValueError(f"model file {place(path)} must hold a JSON object, not {type(data).__name__}")
    return parse_config(data, cut(name))
