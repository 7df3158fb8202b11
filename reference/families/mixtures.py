"""Families with mixtures of experts: one literal a `model_type`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinwire.edge.words import shown
from thinwire.reference.families.dense import DENSE
from thinwire.reference.families.patterns import (
    always,
    behind,
    dense_first,
    every,
    flags,
    rotated_by_list,
    sparse_step,
)
from thinwire.reference.families.rules import CHUNKED, FULL, SLIDING, Family, Given, Mixture


def _llama4_chunks(given: Given, count: int) -> Sequence[str]:
    turns = rotated_by_list("no_rope_layers", "no_rope_layer_interval", 4)(given, count, ())
    return [CHUNKED if rotates else FULL for rotates in turns]


def _llama4_experts(given: Given, count: int) -> Sequence[str]:
    said = given.counts("moe_layers")
    step = given.maybe_size("interleave_moe_layer_step") or 1
    chosen = set(range(step - 1, count, step) if said is None else said)
    return ["sparse" if layer in chosen else "dense" for layer in range(count)]


def _greedy(given: Given) -> Mapping[str, Any]:
    """DeepSeek-V2: groups count only if the method says so."""
    return {} if given.raw("topk_method") == "group_limited_greedy" else {"n_group": 1, "topk_group": 1}


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


def _shares_index(given: Given) -> Sequence[Mapping[str, Any]]:
    """GLM-5.2: which layers choose tokens themselves and which by the choice before."""
    count, said = given.layers(), given.texts("indexer_types")
    if said is None:
        step, first = given.maybe_size("index_topk_freq") or 1, given.maybe_size("index_skip_topk_offset") or 2
        pattern = given.raw("index_topk_pattern")
        if isinstance(pattern, str):
            said = ["shared" if letter == "S" else "full" for letter in pattern]
        else:
            said = ["shared" if max(layer - first + 1, 0) % step else "full" for layer in range(count)]
    return [{"indexer": word} for word in given.row("indexer_types", said, count, given.count("mtp"))]


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
_DEEPSEEK_V2 = Family(
    architectures=("DeepseekV2ForCausalLM",),
    defaults={
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "num_experts": 64,
        "n_shared_experts": 2,
        "moe_intermediate_size": 1407,
        "topk_method": "greedy",
    },
    qkv_bias="attention_bias",
    latent=True,
    interleaved=True,
    prepare=_greedy,
    # transformers does not normalise whatever norm_topk_prob says; no published one asks for it.
    mixture=Mixture(where=dense_first(0), normalise=False, shared="count"),
)
_DEEPSEEK_V3 = replace(
    _DEEPSEEK_V2,
    architectures=("DeepseekV3ForCausalLM", "KimiK2ForCausalLM"),
    defaults={
        **_DEEPSEEK_V2.defaults,
        "max_position_embeddings": 4096,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "moe_intermediate_size": 2048,
        "n_group": 8,
        "topk_group": 4,
        "routed_scaling_factor": 2.5,
        "norm_topk_prob": True,
        "rope_interleave": True,
    },
    interleaved="rope_interleave",
    prepare=None,
    mixture=Mixture(
        where=dense_first(3), scoring="sigmoid", normalise="norm_topk_prob", shared="count", correction=True
    ),
)
_INDEX = {"index_n_heads": 64, "index_head_dim": 128, "index_topk": 2048}
_SIGMOID = Mixture(where=dense_first(1), scoring="sigmoid", normalise="norm_topk_prob", shared="count", correction=True)
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
    mixture=_SIGMOID,
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
            "tie_word_embeddings": True,
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
    "deepseek_v2": _DEEPSEEK_V2,
    "deepseek_v3": _DEEPSEEK_V3,
    "kimi_k2": replace(_DEEPSEEK_V3, defaults={**_DEEPSEEK_V3.defaults, "n_group": 1, "topk_group": 1}),
    "deepseek_v32": replace(
        _DEEPSEEK_V3,
        architectures=("DeepseekV32ForCausalLM",),
        defaults={**_DEEPSEEK_V3.defaults, **_INDEX, "max_position_embeddings": 163840},
        indexed=True,
    ),
    "glm4_moe": _GLM_MOE,
    "glm4_moe_lite": replace(
        _DEEPSEEK_V3,
        architectures=("Glm4MoeLiteForCausalLM",),
        defaults={
            **_DEEPSEEK_V3.defaults,
            "max_position_embeddings": 202752,
            "norm_eps": 1e-5,
            "q_lora_rank": 768,
            "qk_nope_head_dim": 192,
            "v_head_dim": 256,
            "num_experts": 64,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 1536,
            "routed_scaling_factor": 1.8,
            "n_group": 1,
            "topk_group": 1,
        },
        mixture=_SIGMOID,
    ),
    "glm_moe_dsa": replace(
        _DEEPSEEK_V3,
        architectures=("GlmMoeDsaForCausalLM",),
        defaults={
            **_DEEPSEEK_V3.defaults,
            **_INDEX,
            "index_n_heads": 32,
            "max_position_embeddings": 202752,
            "norm_eps": 1e-5,
            "q_lora_rank": 2048,
            "qk_nope_head_dim": 192,
            "v_head_dim": 256,
            "n_group": 1,
            "topk_group": 1,
        },
        indexed=True,
        blocks=_shares_index,
    ),
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
            "num_key_value_heads": 16,
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
        defaults={"num_key_value_heads": 32, "sliding_window": 4096},
        mlp_bias=False,
        qk_norm="head",
        pattern=behind("max_window_layers", 62),
        follows=True,
        mixture=replace(_SIGMOID, where=dense_first(0)),
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
            "sliding_window": ("sliding_window_size", "sliding_window"),
        },
        defaults={
            "num_key_value_heads": 4,
            "head_dim": 192,
            "v_head_dim": 128,
            "norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "sliding_window": 128,
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
        pattern=flags("hybrid_layer_pattern", SLIDING, FULL, lambda given, count: _mimo_kinds(count)),
        follows=True,
        prepare=lambda given: (
            {}
            if given.raw("swa_num_key_value_heads") is not None
            else {"swa_num_key_value_heads": 2 * given.size("num_key_value_heads")}
        ),
        mixture=replace(_SIGMOID, shared="count"),
    ),
    "step3p5": _STEP,
    "step3p7": _STEP,
}


def _mimo_kinds(count: int) -> Sequence[str]:
    return [FULL if layer == 0 or (layer + 1) % 6 == 0 else SLIDING for layer in range(count)]
