"""The door to models: a catalog name, a Hugging Face id or a `config.json`, as a `ModelConfig`.

What a file leaves out takes the default that transformers gives its `model_type`. A type that is not in
`reference.families.table` is refused: its cost would be guessed. The catalog: reference/models/.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from thinwire.edge.reading import from_json, is_there
from thinwire.edge.words import cut, near, place, shown
from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.precision import Checkpoint, checkpoint_of
from thinwire.reference.families.layers import layers_of
from thinwire.reference.families.rules import Family, Given
from thinwire.reference.families.table import FAMILIES, SIZES, TEXT_OF

_MODELS = Path(__file__).resolve().parents[1] / "models"
_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_SENSES = ("vision_config", "vision_tower", "visual", "audio_config", "vision_tower_config", "img_processor")
_QUANTISED = ("quantization_config", "compression_config")
# What a config must not have in a family that knows nothing of it, and what has it: the nearest families of a type that
# is not known, too.
_EXPERT_KEYS = (
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_num_experts",
    "moe_intermediate_size",
    "num_experts_per_tok",
)
_SHARED_KEYS = ("n_shared_experts", "shared_expert_intermediate_size")
_LATENT_KEYS = ("kv_lora_rank", "q_lora_rank")
_RECURRENT_KEYS = ("linear_num_value_heads", "ssm_state_size", "mamba_d_state", "mamba_num_heads", "mamba_n_heads")
_NEAR = (
    (("index_topk",), "deepseek_v32"),
    (_LATENT_KEYS, "deepseek_v3"),
    (("linear_num_value_heads",), "qwen3_next"),
    (("ssm_state_size", "mamba_num_heads"), "nemotron_h"),
    (("mamba_d_state", "mamba_n_heads"), "granitemoehybrid"),
    (_EXPERT_KEYS, "qwen3_moe"),
    (("num_key_value_heads",), "llama"),
)


# ---- one config's content


def parse_config(data: Mapping[str, Any], name: str, hf_quant: Mapping[str, Any] | None = None) -> ModelConfig:
    """The model a `config.json`'s content describes; hf_quant: content of an `hf_quant_config.json` beside it.

    Raises ValueError, one line naming the key that is wrong or what is not understood.
    """
    text, sees = _text_part(data, name)
    model_type, architecture = _family(text, data, name)
    family = FAMILIES[model_type]
    _refuse_others(text, data, family, model_type, name)
    given = Given(text, family, model_type, name, {} if text is data else SIZES.get(model_type, {}))
    for word, meaning in family.refused.items():
        if given.flag(word):
            given.fault(f"{meaning} ({given.key(word)}) is not supported")
    width, vocabulary, layers = given.size("hidden_size"), given.size("vocab_size"), layers_of(given)
    beside = vocabulary if given.told(family.head_bias) else 0
    if family.outside is not None:
        beside += family.outside(given)
    return ModelConfig(
        name=name,
        architecture=architecture,
        hidden_size=width,
        vocab_size=vocabulary,
        layers=layers,
        norm=family.norm,
        norm_eps=given.real("norm_eps") or float(given.assumed("norm_eps")),
        tied_embeddings=_tied(given, data, text),
        max_positions=given.max_positions(),
        source=str(data.get("_source", "config.json given by the user")),
        final_softcap=given.real("final_logit_softcapping") if family.softcaps else None,
        embedding_scale=width**0.5 if family.embedding_by_width else given.scale("embedding_scale"),
        residual_scale=given.scale("residual_scale"),
        logit_scale=given.scale("logit_scale"),
        extras=beside,
        dtype=_dtype(data, text),
        checkpoint=_checkpoint(data, text, hf_quant, name),
        notes=_notes(given, data, sees),
    )


def _text_part(data: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], bool]:
    """The text decoder's part of a config, and whether there are others for images or sound."""
    sees = any(data.get(key) for key in _SENSES)
    for key in _PARTS:
        part = data.get(key)
        if part is None:
            continue
        if not isinstance(part, Mapping):
            raise ValueError(f"model {name}: {key}: must be a table; given {shown(part)}")
        return _text_part(part, name)[0], True  # Qwen's Omni has it one deeper
    return data, sees


def _family(text: Mapping[str, Any], data: Mapping[str, Any], name: str) -> tuple[str, str]:
    """The `model_type` and architecture that a config means. Its architecture tells before its type does: Kimi K2 is
    a DeepSeek-V3 by its architecture, whatever its type.
    """
    listed, kind = text.get("architectures"), text.get("model_type")
    first = listed[0] if isinstance(listed, list) and len(listed) == 1 else None
    if isinstance(first, str) and first in _by_architecture():
        found = _by_architecture()[first]
        # One class may serve types that differ in their defaults.
        return (kind if isinstance(kind, str) and first in _architectures(kind) else found), first
    # A part that does not say its own type has the usual one of the whole.
    word = data.get("model_type") if kind is None else kind
    if isinstance(word, str) and (word := TEXT_OF.get(word, word)) in FAMILIES:
        return word, first if isinstance(first, str) and text is data else FAMILIES[word].architectures[0]
    what = " ".join((first if isinstance(first, str) else str(listed or kind)).split())
    beside = "" if kind is None or kind == what else f" (model_type {shown(kind)})"
    raise ValueError(
        f"model {name}: architecture {cut(what)}{beside} is not supported; "
        f"the nearest that is: {', '.join(_nearest(text, str(kind or ''), what))}. "
        f"{len(FAMILIES)} are, listed in docs/models.md"
    )


@lru_cache(maxsize=1)
def _by_architecture() -> Mapping[str, str]:
    return {name: kind for kind, family in reversed([*FAMILIES.items()]) for name in family.architectures}


def _architectures(kind: str) -> tuple[str, ...]:
    return FAMILIES[kind].architectures if kind in FAMILIES else ()


def _nearest(text: Mapping[str, Any], kind: str, architecture: str) -> list[str]:
    """Types that are supported and most like one that is not: by its keys, then by its name."""
    by_keys = next((like for keys, like in _NEAR if any(text.get(key) for key in keys)), None)
    names = near(kind, FAMILIES, 2, 0.5)
    names = names or [_by_architecture()[each] for each in near(architecture, _by_architecture(), 2, 0.5)]
    return list(dict.fromkeys([*([by_keys] if by_keys else []), *names])) or ["llama"]


def _refuse_others(
    text: Mapping[str, Any], data: Mapping[str, Any], family: Family, model_type: str, name: str
) -> None:
    """A config that holds what its family does not have is another model under a wrong name."""
    mixture = family.mixture
    listed = data.get("architectures")
    words = [*(listed if isinstance(listed, list) else ()), data.get("model_type")]
    for what, keys, has in (
        ("a mixture of experts", _EXPERT_KEYS, mixture is not None),
        ("shared experts", _SHARED_KEYS, mixture is not None and mixture.shared != "none"),
        ("multi-head latent attention", _LATENT_KEYS, family.latent),
        ("an index of tokens", ("index_topk",), family.indexed),
        ("a recurrence", _RECURRENT_KEYS, family.linear is not None),
        ("attention in chunks", ("attention_chunk_size",), "attention_chunk_size" in family.defaults),
        ("cross attention to images", ("cross_attention_layers",), False),
    ):
        # One expert is an MLP.
        found = [key for key in keys if text.get(key) and (text[key] != 1 or key not in _EXPERT_KEYS)]
        if what == "cross attention to images":  # Llama 3.2's, whatever its text part says that it is
            found += [cut(word) for word in words if isinstance(word, str) and word.lower().startswith("mllama")]
        if found and not has:
            raise ValueError(f"model {name} has {what} ({found[0]}), which {model_type} does not have")


def _tied(given: Given, data: Mapping[str, Any], text: Mapping[str, Any]) -> bool:
    """Of the whole model's config before its text part's, as transformers ties them."""
    if text is not data and isinstance(data.get("tie_word_embeddings"), bool):
        return bool(data["tie_word_embeddings"])
    if given.raw("tie_word_embeddings") is None:
        return bool(given.assumed("tie_word_embeddings"))
    return given.flag("tie_word_embeddings")


def _dtype(*configs: Mapping[str, Any]) -> str | None:
    for config in configs:
        for key in ("dtype", "torch_dtype"):
            if isinstance(found := config.get(key), str):
                return cut(found.removeprefix("torch."))
    return None


def _checkpoint(
    data: Mapping[str, Any], text: Mapping[str, Any], hf_quant: Mapping[str, Any] | None, name: str
) -> Checkpoint:
    """What the checkpoint says of its formats, at the top or in its text part."""
    for key, part in ((key, part) for part in (data, text) for key in _QUANTISED):
        said = part.get(key)
        if said is not None and not isinstance(said, Mapping):
            raise ValueError(f"model {name}: {key}: must be a table; given {shown(said)}")
    # An empty table says nothing, and text is all of data where a config has no parts.
    given, inner = ({k: v for k, v in part.items() if k not in _QUANTISED or v} for part in (data, text))
    try:
        return checkpoint_of({**given, "text_config": inner}, hf_quant, name)
    except ValueError as error:  # sizes are known all the same: who asks for another precision is answered
        return Checkpoint(unknown=str(error))


def _notes(given: Given, data: Mapping[str, Any], sees: bool) -> tuple[str, ...]:
    found = []
    if sees:
        found.append("only the text decoder is priced: image and audio tokens count as input tokens")
    if more := given.count("mtp"):
        found.append(f"layers for predicting more than one token are left out: {more}")
    if given.model_type == "minimax_text_01" and not given.has("attn_type_list"):
        found.append("attn_type_list is missing: full attention in each eighth layer, as published")
    if given.family.outside is not None and given.count("hidden_size_per_layer_input"):
        found.append("embeddings of each layer are counted but take no time")
    return tuple(found)


# ---- names and files


@lru_cache(maxsize=1)
def model_names() -> tuple[str, ...]:
    """Names of the catalog's models, sorted."""
    return tuple(sorted(path.stem for path in _MODELS.glob("*.json")))


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name of a catalog model: its checkpoint may be in another format, or made for other positions."""

    name: str
    model: str
    form: str | None = None
    positions: int | None = None

    def loaded(self, forms: Mapping[str, Any]) -> ModelConfig:
        """The model, under its own name where something differs."""
        more: dict[str, Any] = {} if self.form is None else {"quantization_config": forms[self.form]}
        more |= {} if self.positions is None else {"max_position_embeddings": self.positions}
        return _load(_MODELS / f"{self.model}.json", self.name.rpartition("/")[2] if more else self.model, more)


_ALIAS = re.compile(r"(?P<name>\S+)(?: as (?P<form>\S+))?(?: up to (?P<positions>\d+))?")


@lru_cache(maxsize=1)
def _aliases() -> tuple[Mapping[str, Alias], Mapping[str, Any]]:
    table = tomllib.loads((_MODELS / "aliases.toml").read_text("utf-8"))
    found = {}
    for model, names in table["models"].items():
        for each in names:
            said = _ALIAS.fullmatch(each)
            assert said is not None, each
            positions = said["positions"]
            alias = Alias(said["name"], model, said["form"], int(positions) if positions else None)
            found[alias.name.lower()] = alias
    return found, table["formats"]


def model_aliases() -> Mapping[str, Alias]:
    """Other names of the catalog's models, in small letters. From reference/models/aliases.toml."""
    return _aliases()[0]


def load_model(name_or_path: str) -> ModelConfig:
    """The model of a catalog name or a Hugging Face id known to the catalog, in any case, of a `config.json`, or of a
    folder that holds one.

    Raises ValueError for an unknown name (with near matches), a file that is not JSON or a model not supported.
    """
    if name_or_path in model_names():
        return _load(_MODELS / f"{name_or_path}.json", name_or_path)
    path = Path(name_or_path)
    if os.path.isdir(path):
        path = path / "config.json"
    if is_there(path):
        return _load(path, path.resolve().parent.name if path.name == "config.json" else path.stem)
    if (name := name_or_path.lower()) in model_names():
        return _load(_MODELS / f"{name}.json", name)
    if (alias := model_aliases().get(name)) is not None:
        return alias.loaded(_aliases()[1])
    if name.endswith(".json"):
        raise ValueError(f"no such file: {place(name_or_path)} (nor is it a model of the catalog)")
    raise ValueError(
        f"unknown model {shown(name_or_path)}; {_did_you_mean(name_or_path)}Allowed: {len(model_names())} names, which "
        f"`thinwire models` lists, {len(model_aliases())} more (Hugging Face ids), or the path of a Hugging Face "
        "config.json"
    )


def _did_you_mean(given: str) -> str:
    """Names that look like it: the catalog's before others."""
    others = {part: each.name for key, each in model_aliases().items() for part in (key.rpartition("/")[2], key)}
    like = dict.fromkeys([*near(given, model_names()), *(others[name] for name in near(given, others))])
    return f"did you mean {' or '.join([*like][:3])}? " if like else ""


def _load(path: Path, name: str, more: Mapping[str, Any] | None = None) -> ModelConfig:
    data = from_json(path, "the model file", constants=True)
    if not isinstance(data, dict):
        raise ValueError(f"model file {place(path)} must hold a JSON object, not {type(data).__name__}")
    beside = path.with_name(f"{path.name.removesuffix('config.json')}hf_quant_config.json")
    quant = None
    if path.name.endswith("config.json") and is_there(beside):
        quant = from_json(beside, "the checkpoint's formats")
        if not isinstance(quant, dict):
            raise ValueError(f"model file {place(beside)} must hold a JSON object, not {type(quant).__name__}")
    return parse_config({**data, **(more or {})}, cut(name), quant)
