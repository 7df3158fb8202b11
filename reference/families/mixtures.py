"""Families with mixtures of experts: one literal a `model_type`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from thinwire.edge.words import shown
from thinwire.reference.families.dense import DENSE
from thinwire.reference.families.patterns import (
    always,
    behind,
    dense_first,
    every,
    flags,
    rotated_by_list,
    rotated_with_windows,
    sparse_step,
)
from thinwire.reference.families.rules import CHUNKED, FULL, SLIDING, Family, Given, Mixture


def _llama4_chunks(given: Given, count: int) -> Sequence[str]:
    turns = rotated_by_list("no_rope_layers", "no_rope_layer_interval", 4)(given, count, ())
    return [CHUNKED if rotates else FULL for rotates in turns]


def _llama4_experts(given: Given, count: int) -> Sequence[str]:
    said = given.counts("moe_layers")
    step = 1 if given.raw("interleave_moe_layer_step") is None else given.count("interleave_moe_layer_step")
    chosen = set(range(step - 1, count, step) if said is None and step else said or ())
    return ["sparse" if layer in chosen else "dense" for layer in range(count)]


def _ernie_experts(given: Given, count: int) -> Sequence[str]:
    """From one layer to another, every so many."""
    first = min(_numbers(given, "moe_layer_start_index") or [1])
    last = max(_numbers(given, "moe_layer_end_index") or [count - 1])
    step = given.maybe_size("moe_layer_interval") or 1
    return ["sparse" if first <= layer <= last and (layer + 1) % step == 0 else "dense" for layer in range(count)]


def _ernie(given: Given) -> Mapping[str, Any]:
    # Vision-language ones have two rows of experts, text and image; text goes through the first.
    return {
        word: _numbers(given, word)[0]
        for word in ("num_experts", "moe_intermediate_size")
        if isinstance(given.raw(word), list)
    }


def _numbers(given: Given, word: str) -> list[int]:
    said = given.raw(word)
    if isinstance(said, list):
        return given.counts(word) or given.fault(f"{given.key(word)}: an empty list")
    return [] if said is None or said == -1 else [given.count(word)]


def _hunyuan(given: Given) -> Mapping[str, Any]:
    """Numbers that may be a row, one a layer; all alike in what is published."""
    found = {}
    for word in ("num_experts_per_tok", "n_shared_experts", "moe_intermediate_size"):
        said = _numbers(given, word)
        if len(set(said)) > 1:
            given.fault(f"{given.key(word)} differs between layers, which is not supported: {shown(said)}")
        if said:
            found[word] = said[0]
    return found


def _mimo(given: Given) -> Mapping[str, Any]:
    """Layers with a window have twice the key-value heads; it reaches so far back, the token itself not counted."""
    found: dict[str, Any] = {}
    if given.raw("swa_num_key_value_heads") is None:
        found["swa_num_key_value_heads"] = 2 * given.size("num_key_value_heads")
    if (before := given.positions("sliding_window_size")) is not None:
        found["sliding_window"] = before + 1
    return found


def _mimo_kinds(given: Given, count: int) -> Sequence[str]:
    return [FULL if layer == 0 or (layer + 1) % 6 == 0 else SLIDING for layer in range(count)]


_LLAMA, _QWEN2, _QWEN3, _GRANITE, _ERNIE, _HUNYUAN = (
    DENSE[name] for name in ("llama", "qwen2", "qwen3", "granite", "ernie4_5", "hunyuan_v1_dense")
)
_MIXTRAL = Family(
    architectures=("MixtralForCausalLM",),
    keys={"moe_intermediate_size": "intermediate_size"},
    defaults={
        "num_key_value_heads": 8,
        "norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    },
    pattern=always(SLIDING),
    mixture=Mixture(where=always("sparse")),
)
_QWEN3_MOE = replace(
    _QWEN3,
    architectures=("Qwen3MoeForCausalLM",),
    defaults={
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "intermediate_size": 6144,
    },
    # Its window, where switched on, is in every layer.
    pattern=always(SLIDING),
    mixture=Mixture(where=sparse_step, normalise="norm_topk_prob"),
)
SIGMOID: Final = Mixture(
    where=dense_first(1), scoring="sigmoid", normalise="norm_topk_prob", shared="count", correction=True
)
_GLM_MOE = replace(
    _LLAMA,
    architectures=("Glm4MoeForCausalLM",),
    defaults={
        "num_key_value_heads": 8,
        "norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "partial_rotary_factor": 0.5,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "moe_intermediate_size": 1408,
        "norm_topk_prob": True,
    },
    output_bias=False,
    mlp_bias=False,
    qk_norm="head",
    has_qk_norm="use_qk_norm",
    mixture=SIGMOID,
)
_GRANITE_MOE = replace(
    _GRANITE,
    architectures=("GraniteMoeForCausalLM",),
    keys={
        **_GRANITE.keys,
        "moe_intermediate_size": "intermediate_size",
        "shared_expert_intermediate_size": "shared_intermediate_size",
    },
    defaults={"num_experts": 8, "num_experts_per_tok": 2},
    mlp_bias=False,
    mixture=Mixture(where=always("sparse"), scoring="softmax-of-chosen", shared="width"),
)
_STEP = Family(
    architectures=("Step3p5ForCausalLM", "Step3p7ForCausalLM", "Step3p7FlashForCausalLM"),
    keys={
        "num_key_value_heads": ("num_key_value_heads", "num_attention_groups"),
        "num_experts": ("n_routed_experts", "moe_num_experts", "num_experts"),
        "num_experts_per_tok": ("num_experts_per_tok", "moe_top_k"),
        "shared_expert_intermediate_size": ("share_expert_dim", "share_expert_dims"),
        "routed_scaling_factor": "moe_router_scaling_factor",
        "partial_rotary_factor": "partial_rotary_factors",
        "norm_topk_prob": (),
    },
    defaults={
        "num_key_value_heads": 8,
        "head_dim": 128,
        "norm_eps": 1e-5,
        "max_position_embeddings": 128000,
        "num_experts": 288,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1280,
        "shared_expert_intermediate_size": 1280,
    },
    of_kind={SLIDING: {"num_attention_heads": "num_sliding_attention_heads"}},
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    mlp_bias="mlp_bias",
    qk_norm="head",
    output_gate="head",
    scale="query_pre_attn_scalar",
    plain_sliding=True,
    follows=True,
    prepare=lambda given: (
        {"num_sliding_attention_heads": other["num_attention_heads"]}
        if (other := given.table("attention_other_setting")).get("num_attention_heads") is not None
        else {}
    ),
    mixture=Mixture(
        where=lambda given, count: _step_experts(given, count), scoring="sigmoid", shared="width", correction=True
    ),
)


def _step_experts(given: Given, count: int) -> Sequence[str]:
    said = given.raw("moe_layers_enum")
    if said is None:
        return dense_first(3)(given, count)
    if isinstance(said, str) and all(part.strip().isdecimal() and len(part) < 9 for part in said.split(",")):
        said = [int(part) for part in said.split(",")]
    chosen = given.checked("counts", "moe_layers_enum", said)
    return ["sparse" if layer in chosen else "dense" for layer in range(count)]


MIXTURES: Mapping[str, Family] = {
    "mixtral": _MIXTRAL,
    "qwen2_moe": replace(
        _QWEN2,
        architectures=("Qwen2MoeForCausalLM",),
        defaults={
            "num_key_value_heads": 16,
            "max_position_embeddings": 32768,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "intermediate_size": 5632,
            "qkv_bias": True,
        },
        qkv_bias="qkv_bias",
        pattern=lambda given, count: [
            SLIDING if layer % 2 == 0 and layer < given.count("max_window_layers") else FULL for layer in range(count)
        ],
        mixture=Mixture(where=sparse_step, normalise="norm_topk_prob", shared="width", shared_gate=True),
    ),
    "qwen3_moe": _QWEN3_MOE,
    "qwen3_vl_moe_text": replace(
        _QWEN3_MOE,
        architectures=("Qwen3VLMoeForCausalLM",),
        defaults={
            "num_key_value_heads": 16,
            "head_dim": 128,
            "max_position_embeddings": 128000,
            "rope_theta": 500000.0,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1408,
            "intermediate_size": 5632,
        },
        prepare=None,
        pattern=None,
        follows=False,
        mixture=Mixture(where=sparse_step),
    ),
    "deepseek": replace(
        _LLAMA,
        architectures=("DeepseekForCausalLM",),
        mlp_bias=False,
        mixture=Mixture(where=dense_first(0), normalise="norm_topk_prob", shared="count"),
    ),
    "glm4_moe": _GLM_MOE,
    "gpt_oss": Family(
        architectures=("GptOssForCausalLM",),
        keys={
            "moe_intermediate_size": "intermediate_size",
            "num_experts_per_tok": ("num_experts_per_tok", "experts_per_token"),
        },
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 64,
            "norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "sliding_window": 128,
            "num_experts": 128,
            "num_experts_per_tok": 4,
            "attention_bias": True,
            "rope_theta": 150000.0,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
        },
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        sinks=(FULL, SLIDING),
        pattern=every("sliding_window_pattern", 2),
        follows=True,
        mixture=Mixture(
            where=always("sparse"),
            scoring="softmax-of-chosen",
            bias=True,
            router_bias=True,
            activation="swigluoai",
        ),
    ),
    "llama4_text": Family(
        architectures=("Llama4ForCausalLM",),
        keys={"intermediate_size": "intermediate_size_mlp", "moe_intermediate_size": "intermediate_size"},
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "num_experts": 16,
            "num_experts_per_tok": 1,
            "n_shared_experts": 1,
            "intermediate_size": 16384,
            "moe_intermediate_size": 8192,
            "attention_chunk_size": 8192,
            "use_qk_norm": True,
        },
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        qk_norm="l2",
        has_qk_norm="use_qk_norm",
        interleaved=True,
        pattern=_llama4_chunks,
        follows=True,
        has_rope=rotated_by_list("no_rope_layers", "no_rope_layer_interval", 4),
        mixture=Mixture(where=_llama4_experts, scoring="sigmoid", normalise=False, shared="count", input_scaled=True),
    ),
    "minimax_m2": Family(
        architectures=("MiniMaxM2ForCausalLM",),
        keys={"moe_intermediate_size": "intermediate_size"},
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 196608,
            "rope_theta": 5e6,
            "num_experts": 256,
            "num_experts_per_tok": 8,
        },
        qk_norm="row",
        mixture=Mixture(where=always("sparse"), scoring="sigmoid", correction=True),
    ),
    "olmoe": replace(
        _LLAMA,
        architectures=("OlmoeForCausalLM",),
        keys={"moe_intermediate_size": "intermediate_size"},
        defaults={
            "norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "num_experts": 64,
            "num_experts_per_tok": 8,
        },
        mlp_bias=False,
        qk_norm="row",
        mixture=Mixture(where=always("sparse"), normalise="norm_topk_prob"),
    ),
    "granitemoe": _GRANITE_MOE,
    "granitemoeshared": replace(_GRANITE_MOE, architectures=("GraniteMoeSharedForCausalLM",)),
    "dots1": replace(
        _LLAMA,
        architectures=("Dots1ForCausalLM",),
        defaults={"num_key_value_heads": 32, "sliding_window": 4096, "moe_intermediate_size": 1408},
        mlp_bias=False,
        qk_norm="head",
        pattern=behind("max_window_layers", 62),
        follows=True,
        mixture=replace(SIGMOID, where=dense_first(0)),
    ),
    "phimoe": Family(
        architectures=("PhimoeForCausalLM", "PhiMoEForCausalLM"),
        keys={"moe_intermediate_size": "intermediate_size"},
        defaults={
            "num_key_value_heads": 8,
            "norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "rope_theta": 1e6,
            "num_experts": 16,
            "num_experts_per_tok": 2,
        },
        norm="layer",
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        head_bias="lm_head_bias",
        pattern=always(SLIDING),
        mixture=Mixture(where=always("sparse"), scoring="sparse-mixer"),
    ),
    "ernie4_5_moe": replace(
        _ERNIE,
        architectures=("Ernie4_5_MoeForCausalLM",),
        keys={
            "num_experts": ("moe_num_experts", "num_experts"),
            "num_experts_per_tok": ("moe_k", "num_experts_per_tok"),
            "n_shared_experts": "moe_num_shared_experts",
        },
        defaults={
            "num_key_value_heads": 4,
            "norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
            "num_experts": 64,
            "num_experts_per_tok": 6,
            "n_shared_experts": 2,
            "moe_intermediate_size": 1536,
        },
        prepare=_ernie,
        mixture=Mixture(where=_ernie_experts, shared="count", correction=True),
    ),
    "hunyuan_v1_moe": replace(
        _HUNYUAN,
        architectures=("HunYuanMoEV1ForCausalLM",),
        keys={
            **_HUNYUAN.keys,
            "num_experts_per_tok": "moe_topk",
            "n_shared_experts": "num_shared_expert",
            "moe_intermediate_size": ("moe_intermediate_size", "intermediate_size"),
        },
        defaults={"norm_eps": 1e-5, "num_experts": 1, "num_experts_per_tok": 1},
        prepare=_hunyuan,
        mixture=Mixture(where=always("sparse"), shared="dense"),
    ),
    "mimo_v2_flash": Family(
        architectures=("MiMoV2FlashForCausalLM",),
        keys={
            "norm_eps": ("layernorm_epsilon", "rms_norm_eps"),
            "rope_local_base_freq": "swa_rope_theta",
        },
        defaults={
            "num_key_value_heads": 4,
            "head_dim": 192,
            "v_head_dim": 128,
            "norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "sliding_window": 129,
            "partial_rotary_factor": 0.334,
            "rope_theta": 5e6,
            "rope_local_base_freq": 10000.0,
            "num_experts": 256,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 2048,
            "norm_topk_prob": True,
            "attention_value_scale": 0.707,
        },
        of_kind={
            SLIDING: {
                "num_attention_heads": "swa_num_attention_heads",
                "num_key_value_heads": "swa_num_key_value_heads",
                "head_dim": "swa_head_dim",
                "v_head_dim": "swa_v_head_dim",
            }
        },
        qkv_bias="attention_bias",
        sinks=(SLIDING,),
        plain_sliding=True,
        pattern=flags("hybrid_layer_pattern", SLIDING, FULL, _mimo_kinds),
        follows=True,
        prepare=_mimo,
        mixture=replace(SIGMOID, shared="count"),
    ),
    "step3p5": _STEP,
    "step3p7": _STEP,
    "exaone_moe": replace(
        DENSE["exaone4"],
        architectures=("ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM"),
        keys={"n_shared_experts": "num_shared_experts"},
        defaults={
            **DENSE["exaone4"].defaults,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "moe_intermediate_size": 1024,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
        norms="before",
        mixture=SIGMOID,
    ),
    "afmoe": replace(
        _LLAMA,
        architectures=("AfmoeForCausalLM",),
        keys={
            "first_k_dense_replace": "num_dense_layers",
            "n_shared_experts": "num_shared_experts",
            "routed_scaling_factor": "route_scale",
        },
        defaults={
            "head_dim": 128,
            "norm_eps": 1e-5,
            "max_position_embeddings": 16384,
            "sliding_window": 1024,
            "num_experts": 64,
            "num_experts_per_tok": 6,
            "n_shared_experts": 2,
            "moe_intermediate_size": 1408,
        },
        norms="both",
        mlp_bias=False,
        qk_norm="head",
        output_gate="query",
        pattern=every("global_attn_every_n_layers", 4),
        follows=True,
        has_rope=rotated_with_windows,
        prepare=lambda given: {
            "embedding_scale": given.size("hidden_size") ** 0.5 if given.flag("mup_enabled") else 1.0
        },
        mixture=replace(SIGMOID, normalise=True),
    ),
    "hy_v3": replace(
        _LLAMA,
        architectures=("HYV3ForCausalLM",),
        keys={"n_shared_experts": "num_shared_experts", "routed_scaling_factor": "router_scaling_factor"},
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "rope_theta": 11158840.0,
            "num_experts": 192,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "moe_intermediate_size": 1536,
            "routed_scaling_factor": 2.826,
        },
        qk_norm="head",
        mixture=replace(SIGMOID, normalise=True),
    ),
    "solar_open": replace(
        _GLM_MOE,
        architectures=("SolarOpenForCausalLM",),
        defaults={
            **_GLM_MOE.defaults,
            "head_dim": 128,
            "rope_theta": 1e6,
            "partial_rotary_factor": 1.0,
            "moe_intermediate_size": 1280,
        },
        qk_norm="none",
        mixture=replace(SIGMOID, where=always("sparse")),
    ),
}
