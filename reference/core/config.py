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
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thinwire.edge.limits import LAYERS, POSITIONS, WIDTH
from thinwire.edge.reading import from_json, is_there
from thinwire.edge.words import cut, place, refusal, shown
from thinwire.reference.core.architecture import Attention, FeedForward, Layer, ModelConfig, Rope, RopeScaling

_MODELS = Path(__file__).resolve().parents[1] / "models"

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
    scaling = _rope_scaling(rope, raw.max_position_embeddings or family.max_positions, name)
    layers = []
    for number in range(raw.num_hidden_layers):
        attention = Attention(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            scale=((raw.query_pre_attn_scalar or 256.0) if family.gemma else head_dim) ** -0.5,
            rope=Rope(head_dim, rope_theta, scaling=scaling),
            window=window if not family.gemma or number % 2 == 0 else None,
            qkv_bias=attention_bias or family.model_type == "qwen2",
            output_bias=attention_bias,
            softcap=_softcap(raw, "attn_logit_softcapping", 50.0, family),
        )
        feed = FeedForward(raw.intermediate_size, True, activation, raw.mlp_bias and family.model_type == "llama")
        layers.append(Layer(attention, feed, "both" if family.gemma else "before"))
    return ModelConfig(
        name=name,
        architecture=architecture,
        hidden_size=raw.hidden_size,
        vocab_size=raw.vocab_size,
        layers=tuple(layers),
        norm="rms",
        norm_eps=raw.rms_norm_eps,
        tied_embeddings=tied,
        max_positions=raw.max_position_embeddings or family.max_positions,
        source=str(data.get("_source", "config.json given by the user")),
        final_softcap=_softcap(raw, "final_logit_softcapping", 30.0, family),
        embedding_scale=raw.hidden_size**0.5 if family.gemma else 1.0,
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
