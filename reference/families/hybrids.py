"""Families that mix attention with recurrences: one literal a `model_type`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinwire.edge.words import shown
from thinwire.reference.families.dense import DENSE, granite
from thinwire.reference.families.mixtures import MIXTURES
from thinwire.reference.families.patterns import always, by_choice, every, flags, sparse_step
from thinwire.reference.families.rules import FULL, LINEAR, NONE, Family, Given, Mixture

_LLAMA, _MIXTRAL, _GRANITE_MOE = DENSE["llama"], MIXTURES["mixtral"], MIXTURES["granitemoe"]


def _nemotron_words(given: Given) -> list[str]:
    said = given.texts("layers_block_type")
    if said is None:
        letters = given.raw("hybrid_override_pattern")
        if letters is None:
            given.fault("hybrid_override_pattern: missing key")
        said = list(letters) if isinstance(letters, str) else [shown(letters)]
    for word in said:
        if word not in _NEMOTRON:
            given.fault(f"its layers are of {', '.join(_NEMOTRON)}; given {shown(word)}")
    return said


_NEMOTRON = {
    "M": (LINEAR, NONE), "mamba": (LINEAR, NONE), "linear_attention": (LINEAR, NONE), "*": (FULL, NONE),
    "attention": (FULL, NONE), "full_attention": (FULL, NONE), "-": (NONE, "dense"), "mlp": (NONE, "dense"),
    "E": (NONE, "sparse"), "moe": (NONE, "sparse"),
}  # fmt: skip


def _nemotron_kinds(given: Given, count: int) -> Sequence[str]:
    return [_NEMOTRON[word][0] for word in _nemotron_words(given)]


def _nemotron_feeds(given: Given, count: int) -> Sequence[str]:
    return [_NEMOTRON[word][1] for word in _nemotron_words(given)]


def _minimax(given: Given, count: int) -> Sequence[str]:
    """Lightning attention but in each eighth layer (arXiv 2501.08313, section 2), where the file does not say."""
    return flags("attn_type_list", FULL, LINEAR, every("full_attention_interval", 8, LINEAR))(given, count)


def _granite_hybrid(given: Given) -> Mapping[str, Any]:
    width, found = given.size("hidden_size"), dict[str, Any](granite(given))
    heads = given.size("mamba_num_heads")
    if given.raw("mamba_head_dim") in (None, "auto"):
        found["mamba_head_dim"] = (given.maybe_size("mamba_expand") or 2) * width // heads
    return found


def _bamba_kinds(given: Given, count: int) -> Sequence[str]:
    chosen = given.counts("attn_layer_indices") or []
    return [FULL if layer in chosen else LINEAR for layer in range(count)]


_QWEN35 = Family(
    architectures=("Qwen3_5ForCausalLM",),
    defaults={
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 32768,
        "partial_rotary_factor": 0.25,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
    },
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    qk_norm="head",
    output_gate="query",
    linear="delta",
    pattern=every("full_attention_interval", 4, LINEAR),
    follows=True,
)
_QWEN_NEXT_EXPERTS = Mixture(where=sparse_step, normalise="norm_topk_prob", shared="width", shared_gate=True)
_QWEN_NEXT = {
    **_QWEN35.defaults,
    "num_key_value_heads": 2,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "norm_topk_prob": True,
    "intermediate_size": 5632,
}
_BAMBA = {
    "mamba_num_heads": "mamba_n_heads",
    "mamba_head_dim": "mamba_d_head",
    "n_groups": "mamba_n_groups",
    "ssm_state_size": "mamba_d_state",
    "conv_kernel": "mamba_d_conv",
    "use_conv_bias": "mamba_conv_bias",
}
_BAMBA_SIZES = {
    "mamba_num_heads": 128,
    "n_groups": 1,
    "ssm_state_size": 256,
    "conv_kernel": 4,
    "use_conv_bias": True,
}
_MINIMAX = Family(
    architectures=("MiniMaxText01ForCausalLM", "MiniMaxForCausalLM", "MiniMaxM1ForCausalLM"),
    keys=_MIXTRAL.keys,
    defaults={
        **_MIXTRAL.defaults,
        "rotary_dim": 64,
        "rope_theta": 1e7,
        "max_position_embeddings": 10240000,
        "hidden_act": "silu",
    },
    linear="lightning",
    pattern=_minimax,
    mixture=_MIXTRAL.mixture,
)

HYBRIDS: Mapping[str, Family] = {
    "qwen3_5_text": _QWEN35,
    "qwen3_5_moe_text": replace(
        _QWEN35,
        architectures=("Qwen3_5MoeForCausalLM",),
        defaults={**_QWEN_NEXT, "num_experts": 256, "num_experts_per_tok": 8},
        mixture=replace(_QWEN_NEXT_EXPERTS, where=always("sparse"), normalise=True),
    ),
    "qwen3_next": replace(
        _QWEN35,
        architectures=("Qwen3NextForCausalLM",),
        defaults={**_QWEN_NEXT, "num_experts": 512, "num_experts_per_tok": 10},
        mixture=_QWEN_NEXT_EXPERTS,
    ),
    "nemotron_h": Family(
        architectures=("NemotronHForCausalLM",),
        keys={
            "norm_eps": ("layer_norm_epsilon", "norm_eps", "rms_norm_eps"),
            "head_dim": ("head_dim", "attention_head_dim"),
            "hidden_act": "mlp_hidden_act",
            "shared_expert_intermediate_size": "moe_shared_expert_intermediate_size",
            "n_groups": ("n_groups", "mamba_n_groups"),
            "conv_kernel": ("conv_kernel", "mamba_d_conv"),
            "use_conv_bias": ("use_conv_bias", "mamba_conv_bias"),
        },
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "norm_eps": 1e-5,
            "hidden_act": "relu2",
            "max_position_embeddings": 4096,
            "ssm_state_size": 128,
            "mamba_num_heads": 128,
            "mamba_head_dim": 64,
            "n_groups": 8,
            "conv_kernel": 4,
            "use_conv_bias": True,
            "norm_topk_prob": True,
            "moe_intermediate_size": 7688,
            "shared_expert_intermediate_size": 7688,
        },
        mlp_bias="mlp_bias",
        gated=False,
        linear="mamba2",
        pattern=_nemotron_kinds,
        feeds=_nemotron_feeds,
        layer_count=lambda given: len(_nemotron_words(given)),
        has_rope=lambda given, count, kinds: [False] * count,
        mixture=Mixture(
            where=_nemotron_feeds,
            scoring="sigmoid",
            normalise="norm_topk_prob",
            gated=False,
            shared="width",
            correction=True,
        ),
    ),
    "minimax_text_01": _MINIMAX,
    "minimax": replace(
        _MINIMAX,
        defaults=_MIXTRAL.defaults,
        pattern=lambda given, count: [LINEAR if layer % 2 else FULL for layer in range(count)],
        follows=True,
    ),
    "granitemoehybrid": replace(
        _GRANITE_MOE,
        architectures=("GraniteMoeHybridForCausalLM",),
        keys={
            **_GRANITE_MOE.keys,
            **_BAMBA,
            "layer_types": ("layer_types", "layers_block_type"),
            # Without experts the MLP is the one that is otherwise shared.
            "moe_intermediate_size": "intermediate_size",
            "intermediate_size": "shared_intermediate_size",
        },
        defaults={
            **_GRANITE_MOE.defaults,
            **_BAMBA_SIZES,
            "intermediate_size": 1024,
            "shared_expert_intermediate_size": 1024,
        },
        linear="mamba2",
        prepare=_granite_hybrid,
        pattern=always(LINEAR),
        follows=True,
        has_rope=lambda given, count, kinds: [given.raw("position_embedding_type") == "rope"] * count,
        mixture=Mixture(where=by_choice, scoring="softmax-of-chosen", shared="width"),
    ),
    "bamba": replace(
        _LLAMA,
        architectures=("BambaForCausalLM",),
        keys=_BAMBA,
        defaults={
            **_BAMBA_SIZES,
            "num_key_value_heads": 8,
            "norm_eps": 1e-5,
            "mamba_head_dim": 64,
            "max_position_embeddings": 262144,
            "partial_rotary_factor": 0.5,
        },
        linear="mamba2",
        pattern=_bamba_kinds,
    ),
}
