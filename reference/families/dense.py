"""Families of dense decoders: one literal a `model_type`. Facts as `reference.families.table` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinwire.edge.words import shown
from thinwire.reference.families.gemma import GEMMA
from thinwire.reference.families.patterns import (
    always,
    behind,
    every,
    rotated_by_list,
    rotated_with_windows,
)
from thinwire.reference.families.rules import FULL, NONE, SLIDING, Family, Given


def _optional_window(given: Given) -> Mapping[str, Any]:
    """Qwen: the window counts only if it is switched on."""
    return {} if given.flag("use_sliding_window") else {"sliding_window": None}


def granite(given: Given) -> Mapping[str, Any]:
    """Logits are divided by what its configs give."""
    return {"logit_scale": 1.0 / given.scale("logits_scaling")}


def _minicpm(given: Given) -> Mapping[str, Any]:
    base = given.maybe_size("dim_model_base") or given.size("hidden_size")
    return {
        "residual_scale": given.scale("scale_depth") / given.layers() ** 0.5 if given.has("scale_depth") else 1.0,
        "logit_scale": base / given.size("hidden_size"),
    }


def _falcon(given: Given) -> Mapping[str, Any]:
    """One key-value head, or as many as the new decoder says; a norm of their own for both halves in the new one."""
    heads, new = given.size("num_attention_heads"), given.flag("new_decoder_architecture")
    kv_heads = (given.maybe_size("num_key_value_heads") or heads) if new else 1 if given.flag("multi_query") else heads
    said = given.maybe_size("num_ln_in_parallel_attn")
    return {
        "num_key_value_heads": kv_heads,
        "intermediate_size": given.maybe_size("intermediate_size") or 4 * given.size("hidden_size"),
        "one_norm": (2 if new else 1) != 2 if said is None else said != 2,
    }


def _chatglm(given: Given) -> Mapping[str, Any]:
    found: dict[str, Any] = {} if given.flag("multi_query_attention") else {"num_key_value_heads": None}
    if (ratio := given.real("rope_ratio")) is not None:
        found["rope_theta"] = 10000.0 * ratio
    return found


def _exaone4(given: Given) -> Mapping[str, Any]:
    return {"sliding_window_pattern": "G"} if given.raw("sliding_window") is None else {}


def _smollm3(given: Given, count: int) -> Sequence[str]:
    turns = rotated_by_list("no_rope_layers", "no_rope_layer_interval", 4)(given, count, ())
    return [FULL if rotates else SLIDING for rotates in turns]


def _decilm(given: Given) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Attention and MLP of each block."""
    blocks = given.raw("block_configs")
    if not isinstance(blocks, list) or not all(isinstance(block, Mapping) for block in blocks):
        given.fault("block_configs: must be a list of tables")
    found = []
    for block in blocks:
        halves = [block.get("attention"), block.get("ffn")]
        for half in halves:
            if not isinstance(half, Mapping):
                given.fault(f"block_configs: attention and ffn must be tables; given {shown(half)}")
            for word in ("replace_with_linear", "sparsify", "window_length"):
                if half.get(word):
                    given.fault(f"block_configs: {word} is not supported; given {shown(half[word])}")
        found.append((halves[0], halves[1]))
    return found


def _decilm_blocks(given: Given) -> Sequence[Mapping[str, Any]]:
    heads, width, found = given.size("num_attention_heads"), given.size("hidden_size"), []
    for attention, mlp in _decilm(given):
        own: dict[str, Any] = {}
        if not attention.get("no_op"):
            group = given.checked("size", "n_heads_in_group", attention.get("n_heads_in_group"))
            own["num_key_value_heads"] = max(heads // group, 1)
        if not mlp.get("no_op"):
            # Two thirds of the multiple, whole multiples of 256 (DeciLM's _ffn_mult_to_intermediate_size).
            inner = int(2 * given.checked("real", "ffn_mult", mlp.get("ffn_mult")) * width / 3)
            own["intermediate_size"] = inner + -inner % 256
        found.append(own)
    return given.row("block_configs", found, given.layers())


_LLAMA = Family(
    architectures=("LlamaForCausalLM", "AquilaForCausalLM", "CodeLlamaForCausalLM"),
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    mlp_bias="mlp_bias",
)
_MISTRAL = Family(
    architectures=("MistralForCausalLM",),
    defaults={"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    pattern=always(SLIDING),
)
_MINISTRAL3_ROPE = {
    "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384,
    "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
}  # fmt: skip
_QWEN2 = Family(
    architectures=("Qwen2ForCausalLM",),
    defaults={"num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096},
    qkv_bias=True,
    prepare=_optional_window,
    pattern=behind("max_window_layers", 28),
    follows=True,
)
_QWEN3 = replace(
    _QWEN2,
    architectures=("Qwen3ForCausalLM",),
    defaults={**_QWEN2.defaults, "head_dim": 128},
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    qk_norm="head",
)
_QWEN3_VL = replace(
    _QWEN3,
    architectures=("Qwen3VLForCausalLM",),
    defaults={
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 128000,
        "rope_theta": 500000.0,
    },
    prepare=None,
    pattern=None,
    follows=False,
)
_GLM = Family(
    architectures=("GlmForCausalLM",),
    defaults={
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "norm_eps": 1.5625e-07,
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
    },
    qkv_bias="attention_bias",
    interleaved=True,
)
_CHATGLM = replace(
    _GLM,
    architectures=("ChatGLMForConditionalGeneration", "ChatGLMModel"),
    keys={
        "num_hidden_layers": "num_layers",
        "num_key_value_heads": "multi_query_group_num",
        "head_dim": "kv_channels",
        "intermediate_size": "ffn_hidden_size",
        "vocab_size": ("padded_vocab_size", "vocab_size"),
        "max_position_embeddings": "seq_length",
        "norm_eps": "layernorm_epsilon",
    },
    defaults={
        "head_dim": 128,
        "num_key_value_heads": 1,
        "norm_eps": 1e-5,
        "partial_rotary_factor": 0.5,
        "rmsnorm": True,
    },
    qkv_bias="add_qkv_bias",
    output_bias="add_bias_linear",
    mlp_bias="add_bias_linear",
    prepare=_chatglm,
    refused={"apply_residual_connection_post_layernorm": "residuals behind the norm"},
)
_COHERE = Family(
    architectures=("CohereForCausalLM",),
    keys={"norm_eps": "layer_norm_eps"},
    defaults={
        "norm_eps": 1e-5,
        "logit_scale": 0.0625,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "rope_theta": 500000.0,
    },
    norm="layer-no-bias",
    parallel=True,
    qkv_bias="attention_bias",
    output_bias="attention_bias",
    qk_norm="head-layer",
    has_qk_norm="use_qk_norm",
    interleaved=True,
)
_OLMO = Family(
    architectures=("OlmoForCausalLM",),
    keys={"norm_eps": ()},  # fixed in its modelling
    defaults={"norm_eps": 1e-5},
    norm="weightless",
    qkv_bias="attention_bias",
    output_bias="attention_bias",
)
_OLMO2 = replace(_OLMO, architectures=("Olmo2ForCausalLM",), keys={}, norm="rms", norms="after", qk_norm="row")
_GRANITE = replace(
    _LLAMA,
    architectures=("GraniteForCausalLM",),
    keys={"embedding_scale": "embedding_multiplier", "residual_scale": "residual_multiplier"},
    attention_multiplier=True,
    prepare=granite,
)
_STARCODER2 = Family(
    architectures=("Starcoder2ForCausalLM",),
    keys={"norm_eps": "norm_epsilon"},
    defaults={
        "num_key_value_heads": 2,
        "norm_eps": 1e-5,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 4096,
        "use_bias": True,
        "tie_word_embeddings": True,
    },
    norm="layer",
    gated=False,
    qkv_bias="use_bias",
    output_bias="use_bias",
    mlp_bias="use_bias",
    pattern=always(SLIDING),
)
_ERNIE = Family(
    architectures=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    defaults={
        "num_key_value_heads": 2,
        "head_dim": 128,
        "norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    },
    qkv_bias="use_bias",
    output_bias="use_bias",
    mlp_bias="use_bias",
    interleaved=True,
)
_HUNYUAN = replace(
    _LLAMA,
    architectures=("HunYuanDenseV1ForCausalLM",),
    keys={"head_dim": ("head_dim", "attention_head_dim")},
    defaults={"norm_eps": 1e-5},
    mlp_bias=False,
    qk_norm="head",
)

DENSE: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _MISTRAL,
    "ministral": replace(_MISTRAL, architectures=("MinistralForCausalLM",), follows=True),
    "ministral3": replace(
        _MISTRAL,
        architectures=("Ministral3ForCausalLM",),
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "norm_eps": 1e-5,
            "rope_parameters": _MINISTRAL3_ROPE,
        },
    ),
    "qwen2": _QWEN2,
    "qwen2_vl": replace(_QWEN2, architectures=("Qwen2VLForConditionalGeneration",)),
    "qwen2_5_vl": replace(_QWEN2, architectures=("Qwen2_5_VLForConditionalGeneration",)),
    "qwen3": _QWEN3,
    "qwen3_vl_text": _QWEN3_VL,
    **GEMMA,
    "phi": Family(
        architectures=("PhiForCausalLM",),
        keys={"norm_eps": "layer_norm_eps"},
        defaults={"norm_eps": 1e-5, "hidden_act": "gelu_new", "partial_rotary_factor": 0.5},
        norm="layer",
        parallel=True,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        head_bias=True,
        gated=False,
        refused={"qk_layernorm": "norms of queries and keys with biases"},
    ),
    "phi3": Family(
        architectures=("Phi3ForCausalLM", "Phi4MMForCausalLM", "Phi3VForCausalLM"),
        defaults={"norm_eps": 1e-5, "max_position_embeddings": 4096},
        pattern=always(SLIDING),
    ),
    "glm": _GLM,
    "glm4": replace(_GLM, architectures=("Glm4ForCausalLM",), norms="both"),
    "chatglm": _CHATGLM,
    "cohere": _COHERE,
    "cohere2": replace(
        _COHERE,
        architectures=("Cohere2ForCausalLM",),
        defaults={**_COHERE.defaults, "rope_theta": 10000.0, "sliding_window": 4096},
        qk_norm="none",
        pattern=every("sliding_window_pattern", 4),
        follows=True,
        has_rope=rotated_with_windows,
    ),
    "falcon": Family(
        architectures=("FalconForCausalLM",),
        keys={
            "num_hidden_layers": ("num_hidden_layers", "n_layer"),
            "num_attention_heads": ("num_attention_heads", "n_head"),
            "num_key_value_heads": ("num_kv_heads", "n_head_kv"),
            "norm_eps": "layer_norm_epsilon",
            "hidden_act": "activation",
            "intermediate_size": "ffn_hidden_size",
        },
        defaults={
            "norm_eps": 1e-5,
            "hidden_act": "gelu",
            "multi_query": True,
            "parallel_attn": True,
            "tie_word_embeddings": True,
        },
        norm="layer",
        parallel="parallel_attn",
        one_norm="one_norm",
        qkv_bias="bias",
        output_bias="bias",
        mlp_bias="bias",
        gated=False,
        prepare=_falcon,
        has_rope=lambda given, count, kinds: [not given.flag("alibi")] * count,
    ),
    "gpt_neox": Family(
        architectures=("GPTNeoXForCausalLM",),
        keys={"norm_eps": "layer_norm_eps", "partial_rotary_factor": "rotary_pct", "rope_theta": "rotary_emb_base"},
        defaults={
            "norm_eps": 1e-5,
            "hidden_act": "gelu",
            "partial_rotary_factor": 0.25,
            "use_parallel_residual": True,
            "attention_bias": True,
        },
        norm="layer",
        parallel="use_parallel_residual",
        one_norm=False,
        qkv_bias="attention_bias",
        output_bias="attention_bias",
        mlp_bias=True,
        gated=False,
    ),
    "olmo": _OLMO,
    "olmo2": _OLMO2,
    "olmo3": replace(
        _OLMO2,
        architectures=("Olmo3ForCausalLM",),
        defaults={"norm_eps": 1e-5, "sliding_window": 4096, "rope_theta": 500000.0},
        plain_sliding=True,
        pattern=every("sliding_window_pattern", 4),
        follows=True,
    ),
    "granite": _GRANITE,
    "internlm2": Family(
        architectures=("InternLM2ForCausalLM",), qkv_bias="bias", output_bias="bias", defaults={"bias": True}
    ),
    "internlm3": Family(
        architectures=("InternLM3ForCausalLM",),
        defaults={"num_key_value_heads": 2, "norm_eps": 1e-5, "max_position_embeddings": 32768},
        qkv_bias="qkv_bias",
        output_bias="bias",
        mlp_bias="bias",
    ),
    "exaone": Family(
        architectures=("ExaoneForCausalLM",),
        keys={
            "num_hidden_layers": ("num_layers", "num_hidden_layers"),
            "norm_eps": "layer_norm_epsilon",
            "hidden_act": "activation_function",
        },
        defaults={"norm_eps": 1e-5},
    ),
    "exaone4": Family(
        architectures=("Exaone4ForCausalLM",),
        defaults={"norm_eps": 1e-5, "sliding_window": 4096, "num_key_value_heads": 32},
        norms="after",
        qk_norm="head",
        prepare=_exaone4,
        pattern=every("sliding_window_pattern", 4),
        follows=True,
        has_rope=rotated_with_windows,
    ),
    "smollm3": replace(
        _LLAMA,
        architectures=("SmolLM3ForCausalLM",),
        defaults={
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "rope_theta": 2e6,
            "tie_word_embeddings": True,
        },
        prepare=_optional_window,
        pattern=_smollm3,
        follows=True,
        has_rope=rotated_by_list("no_rope_layers", "no_rope_layer_interval", 4),
    ),
    "nemotron": replace(
        _LLAMA,
        architectures=("NemotronForCausalLM",),
        keys={"norm_eps": "norm_eps"},
        defaults={
            "norm_eps": 1e-5,
            "hidden_act": "relu2",
            "partial_rotary_factor": 0.5,
            "max_position_embeddings": 4096,
        },
        norm="layer",
        gated=False,
    ),
    "nemotron-nas": replace(
        _LLAMA,
        architectures=("DeciLMForCausalLM",),
        pattern=lambda given, count: [NONE if half.get("no_op") else FULL for half, _ in _decilm(given)],
        feeds=lambda given, count: [NONE if half.get("no_op") else "dense" for _, half in _decilm(given)],
        blocks=_decilm_blocks,
    ),
    "seed_oss": replace(
        _LLAMA,
        architectures=("SeedOssForCausalLM",),
        defaults={
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 524288,
            "attention_bias": True,
        },
        output_bias="attention_out_bias",
    ),
    "stablelm": Family(
        architectures=("StableLmForCausalLM",),
        keys={"norm_eps": "layer_norm_eps"},
        defaults={"norm_eps": 1e-5, "partial_rotary_factor": 0.25, "max_position_embeddings": 4096},
        norm="layer",
        parallel="use_parallel_residual",
        qkv_bias="use_qkv_bias",
        qk_norm="head-layer",
        has_qk_norm="qk_layernorm",
    ),
    "starcoder2": _STARCODER2,
    "mimo": replace(
        _QWEN2,
        architectures=("MiMoForCausalLM",),
        defaults={**_QWEN2.defaults, "attention_bias": True},
        qkv_bias="attention_bias",
    ),
    "apertus": replace(
        _LLAMA,
        architectures=("ApertusForCausalLM",),
        defaults={
            "norm_eps": 1e-5,
            "hidden_act": "xielu",
            "max_position_embeddings": 65536,
            "rope_theta": 12e6,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 12e6,
                "factor": 8.0,
                "original_max_position_embeddings": 8192,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
        },
        mlp_bias=False,
        gated=False,
        qk_norm="head",
        extras=lambda given: 2 if given.raw("hidden_act") == "xielu" else 0,  # its two slopes
    ),
    "arcee": replace(
        _LLAMA,
        architectures=("ArceeForCausalLM",),
        defaults={"norm_eps": 1e-5, "hidden_act": "relu2", "max_position_embeddings": 4096},
        gated=False,
    ),
    "ernie4_5": _ERNIE,
    "hunyuan_v1_dense": _HUNYUAN,
    "helium": replace(
        _LLAMA,
        architectures=("HeliumForCausalLM",),
        defaults={
            "num_key_value_heads": 20,
            "head_dim": 128,
            "norm_eps": 1e-8,
            "max_position_embeddings": 4096,
            "rope_theta": 100000.0,
        },
        output_bias=False,
        interleaved=True,
    ),
    "minicpm": replace(
        _LLAMA,
        architectures=("MiniCPMForCausalLM",),
        keys={"embedding_scale": "scale_emb"},
        mlp_bias=False,
        prepare=_minicpm,
    ),
}
