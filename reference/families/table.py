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

_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
SIZES: Mapping[str, Mapping[str, int]] = {
    name: dict(zip(_SIZES, sizes, strict=True))
    for name, sizes in {
        "llama": (4096, 11008, 32, 32, 32000),
        "mistral": (4096, 14336, 32, 32, 32000),
        "ministral3": (4096, 14336, 34, 32, 131072),
        "qwen2": (4096, 22016, 32, 32, 151936),
        "qwen3": (4096, 22016, 32, 32, 151936),
        "qwen3_moe": (2048, 6144, 24, 32, 151936),
        "qwen3_vl_text": (4096, 22016, 32, 32, 151936),
        "qwen3_vl_moe_text": (2048, 5632, 24, 16, 151936),
        "qwen3_5_text": (4096, 12288, 32, 16, 248320),
        "gemma": (3072, 24576, 28, 16, 256000),
        "gemma2": (2304, 9216, 26, 8, 256000),
        "gemma3_text": (2304, 9216, 26, 8, 262208),
        "gemma4_text": (2304, 9216, 30, 8, 262144),
        "llama4_text": (5120, 16384, 48, 40, 202048),
        "phi3": (3072, 8192, 32, 32, 32064),
        "granite": (4096, 11008, 32, 32, 32000),
        "cohere2": (8192, 22528, 40, 64, 256000),
        "deepseek_v3": (7168, 18432, 61, 128, 129280),
        "kimi_k2": (7168, 18432, 61, 128, 129280),
        "glm4": (4096, 13696, 40, 32, 151552),
        "smollm3": (2048, 11008, 36, 16, 128256),
    }.items()
}
"""Sizes of transformers' classes. A text part inside a config leaves out what equals them: LLaVA 1.5's says but its
vocabulary. At the top of a file they are always said, and a missing one is a fault.
"""
