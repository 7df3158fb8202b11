"""Families with latent attention, all of them mixtures of experts: one literal a `model_type`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinwire.reference.families.mixtures import SIGMOID
from thinwire.reference.families.patterns import dense_first
from thinwire.reference.families.rules import Family, Given, Mixture


def _greedy(given: Given) -> Mapping[str, Any]:
    """DeepSeek-V2: groups count only if the method says so."""
    return {"n_group": 1, "topk_group": 1} if given.raw("topk_method") in (None, "greedy") else {}


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
LATENT: Mapping[str, Family] = {
    "deepseek_v2": _DEEPSEEK_V2,
    "deepseek_v3": _DEEPSEEK_V3,
    "kimi_k2": replace(_DEEPSEEK_V3, defaults={**_DEEPSEEK_V3.defaults, "n_group": 1, "topk_group": 1}),
    "deepseek_v32": replace(
        _DEEPSEEK_V3,
        architectures=("DeepseekV32ForCausalLM",),
        defaults={**_DEEPSEEK_V3.defaults, **_INDEX, "max_position_embeddings": 163840},
        indexed=True,
    ),
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
        mixture=SIGMOID,
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
    "mistral4": replace(
        _DEEPSEEK_V3,
        architectures=("Mistral4ForCausalLM",),
        defaults={
            **_DEEPSEEK_V3.defaults,
            "max_position_embeddings": 1048576,
            "kv_lora_rank": 256,
            "q_lora_rank": 1024,
            "qk_nope_head_dim": 64,
            "num_experts": 128,
            "num_experts_per_tok": 4,
            "routed_scaling_factor": 1.0,
            "n_group": 1,
            "topk_group": 1,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 128.0,
                "original_max_position_embeddings": 8192,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        },
        mixture=Mixture(where=dense_first(0), normalise="norm_topk_prob", shared="count"),
    ),
}
