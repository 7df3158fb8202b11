"""Families of models as data: one literal a `model_type`, where its configs keep each number and what they leave out.

The facts are those of transformers 5.23's configuration and modelling files of the same name; where a family is not
there (chatglm, internlm2, nemotron-nas, minimax_text_01, minicpm, exaone, deepseek, mimo), of the code beside its
checkpoints. `tests/reference/families/test_counts.py` holds them to the parameter.
"""

from __future__ import annotations

from collections.abc import Mapping

from thinwire.reference.families.dense import DENSE
from thinwire.reference.families.hybrids import HYBRIDS
from thinwire.reference.families.latent import LATENT
from thinwire.reference.families.mixtures import MIXTURES
from thinwire.reference.families.rules import Family

FAMILIES: Mapping[str, Family] = {**DENSE, **MIXTURES, **LATENT, **HYBRIDS}
TEXT_OF: Mapping[str, str] = {
    "gemma3": "gemma3_text", "gemma4": "gemma4_text", "llama4": "llama4_text", "mistral3": "mistral", "llava": "llama",
    "llava_next": "llama", "qwen3_vl": "qwen3_vl_text", "qwen3_vl_moe": "qwen3_vl_moe_text", "kimi_k25": "kimi_k2",
    "qwen3_5": "qwen3_5_text", "qwen3_5_moe": "qwen3_5_moe_text", "qwen2_5_vl_text": "qwen2", "qwen2_vl_text": "qwen2",
    "glm4v_text": "glm4", "glm4v": "glm4", "glm4v_moe_text": "glm4_moe", "glm4v_moe": "glm4_moe", "phi4mm": "phi3",
    "minimax_m1": "minimax_text_01", "RefinedWeb": "falcon", "cohere2_vision": "cohere2", "aya_vision": "cohere2",
    "internvl": "qwen2", "internvl_chat": "qwen2", "voxtral": "llama", "deci": "nemotron-nas",
    "kimi_vl": "deepseek_v3", "qwen3_omni_moe_text": "qwen3_moe", "qwen2_5_omni_text": "qwen2", "voxtral_text": "llama",
    "minicpm4": "minicpm", "smolvlm": "llama", "idefics3": "llama", "granite_speech": "granite",
}  # fmt: skip
"""Other words for a family: what holds a text decoder, where that part does not say its own."""
