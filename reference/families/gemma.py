"""Families of Gemma, 1 to 4: one literal a `model_type`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinwire.edge.limits import WIDTH
from thinwire.reference.families.patterns import every
from thinwire.reference.families.rules import FULL, Family, Given, Mixture


def _gemma4(given: Given) -> Mapping[str, Any]:
    # transformers: the last layer sees everything whatever is said; without keys as values heads are everywhere alike.
    return {} if given.flag("attention_k_eq_v") else {"num_global_key_value_heads": None}


def _gemma4_kinds(given: Given, count: int) -> Sequence[str]:
    return [*every("sliding_window_pattern", 6)(given, count)[:-1], FULL]


def _gemma4_blocks(given: Given) -> Sequence[Mapping[str, Any]]:
    """The last layers of Gemma 4 E2B and E4B use an earlier layer's keys and values, and some a double MLP."""
    count, last = given.layers(), given.count("num_kv_shared_layers")
    if last >= count:
        given.fault(f"num_kv_shared_layers must be below num_hidden_layers: {last} and {count}")
    own: Mapping[str, Any] = {"borrowed": True}
    if given.flag("use_double_wide_mlp"):
        own = {**own, "intermediate_size": min(2 * given.size("intermediate_size"), WIDTH.most)}
    return [{} if layer < count - last else own for layer in range(count)]


def _gemma4_layer(given: Given) -> int:
    inner, width = given.count("hidden_size_per_layer_input"), given.size("hidden_size")
    return 2 * width * inner + width if inner else 0


def _gemma4_outside(given: Given) -> int:
    inner, width = given.count("hidden_size_per_layer_input"), given.size("hidden_size")
    if not inner:
        return 0
    return (given.size("vocab_size_per_layer_input") + width) * given.layers() * inner + inner


def _gemma4_feeds(given: Given, count: int) -> Sequence[str]:
    return ["sparse" if given.flag("enable_moe_block") else "dense"] * count


def _gemma4_router(given: Given) -> int:
    return given.size("hidden_size") + given.size("num_experts")


_GEMMA = Family(
    architectures=("GemmaForCausalLM",),
    keys={"hidden_act": ("hidden_activation",)},
    defaults={
        "num_key_value_heads": 16,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
    },
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    embedding_by_width=True,
)
_GEMMA2 = replace(
    _GEMMA,
    architectures=("Gemma2ForCausalLM",),
    defaults={
        **_GEMMA.defaults,
        "num_key_value_heads": 4,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    norms="both",
    scale="query_pre_attn_scalar",
    softcaps=True,
    pattern=every("sliding_window_pattern", 2),
    follows=True,
)
_GEMMA3 = replace(
    _GEMMA2,
    architectures=("Gemma3ForCausalLM",),
    defaults={
        **_GEMMA.defaults,
        "num_key_value_heads": 4,
        "sliding_window": 4096,
        "query_pre_attn_scalar": 256,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "rope_local_base_freq": 10000.0,
    },
    qk_norm="head",
    plain_sliding=True,
    pattern=every("sliding_window_pattern", 6),
)
_GEMMA4 = replace(
    _GEMMA3,
    architectures=("Gemma4ForCausalLM",),
    keys={**_GEMMA3.keys, "num_experts_per_tok": "top_k_experts"},
    defaults={
        **_GEMMA.defaults,
        "num_key_value_heads": 4,
        "sliding_window": 512,
        "max_position_embeddings": 131072,
        "global_head_dim": 512,
        "hidden_size_per_layer_input": 256,
        "vocab_size_per_layer_input": 262144,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        },
    },
    of_kind={FULL: {"head_dim": "global_head_dim", "num_key_value_heads": "num_global_key_value_heads"}},
    scale=1.0,
    plain_sliding=False,
    keys_are_values="attention_k_eq_v",
    prepare=_gemma4,
    pattern=_gemma4_kinds,
    mixture=Mixture(where=_gemma4_feeds, shared="dense", extra_norms=3, extras=_gemma4_router),
    blocks=_gemma4_blocks,
    extras=_gemma4_layer,
    outside=_gemma4_outside,
)

GEMMA: Mapping[str, Family] = {
    "gemma": _GEMMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "gemma4_text": _GEMMA4,
}
