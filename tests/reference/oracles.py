"""Tiny models of every family that the decoder computes: their configs, transformers' own models of them, and what gloo
ranks give for some. Four heads and eight experts go into four ranks; layers are as many as it takes to have each kind.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.decoder.exchange import SchemeExchange
from thinwire.reference.decoder.model import BF16, Decoder
from thinwire.reference.decoder.names import naming
from thinwire.reference.decoder.shard import even
from thinwire.reference.decoder.sync import SchemeSync
from thinwire.reference.decoder.weights import random_weights
from thinwire.reference.families.config import parse_config
from thinwire.reference.groups.group import Group, LocalGroup, TorchGroup
from thinwire.reference.mixed import plan_of

VOCABULARY, TOKENS = 97, 24
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Slow enough that waves of both ends, and those between, are among eight or fewer; TOKENS go beyond the old context.
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
}
_EXPERTS = {"moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 3}
_LOCAL = {"num_local_experts": 8, "num_experts_per_tok": 3, "intermediate_size": 32}
_ROUTED = {"moe_intermediate_size": 32, "n_routed_experts": 8, "num_experts_per_tok": 3, "first_k_dense_replace": 1}
_LATENT = {
    "num_key_value_heads": 4,
    "head_dim": 8,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    **_ROUTED,
    "n_shared_experts": 2,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.5,
}
_GRANITE = {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 2.0, "attention_multiplier": 0.2}
_FALCON = {"head_dim": None, "intermediate_size": None, "alibi": False}
# By name: what a config adds to the sizes (None takes away). `type`: its model_type, where the name is not.
DENSE: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "ministral": {"sliding_window": 5},
    "ministral3": {
        "rope_parameters": {
            **_YARN,
            "original_max_position_embeddings": 32,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        }
    },
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 5, "query_pre_attn_scalar": 12},
    "gemma3_text": {
        "num_hidden_layers": 7,
        "sliding_window": 5,
        "query_pre_attn_scalar": 12,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
    },
    "phi3": {"sliding_window": 7},
    "phi3-long": {
        "type": "phi3",
        "original_max_position_embeddings": 16,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 100.0,
            "partial_rotary_factor": 0.75,
            "original_max_position_embeddings": 16,
            "factor": 8.0,
            "short_factor": [1.0 + 0.1 * i for i in range(6)],
            "long_factor": [2.0 + i for i in range(6)],
        },
    },
    "glm": {"attention_bias": True, "partial_rotary_factor": 0.5},
    "glm4": {"attention_bias": True, "partial_rotary_factor": 0.5},
    "cohere": {"use_qk_norm": True, "logit_scale": 0.3},
    "cohere2": {"num_hidden_layers": 5, "sliding_window": 5, "logit_scale": 0.3},
    "falcon": {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": False},
    "falcon-7b": {**_FALCON, "type": "falcon", "num_key_value_heads": None, "multi_query": True, "bias": False},
    "falcon-rw": {
        **_FALCON,
        "type": "falcon",
        "num_key_value_heads": 4,
        "multi_query": False,
        "bias": True,
        "parallel_attn": False,
    },
    "olmo": {},
    "olmo2": {},
    "olmo3": {"num_hidden_layers": 5, "sliding_window": 5},
    "granite": _GRANITE,
    "exaone4": {"num_hidden_layers": 4, "sliding_window": 5, "sliding_window_pattern": 2},
    "smollm3": {"num_hidden_layers": 4, "no_rope_layer_interval": 2},
    "nemotron": {"partial_rotary_factor": 0.5},
    "seed_oss": {"attention_bias": True, "attention_out_bias": True, "mlp_bias": True},
    "internlm3": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}},
    "stablelm": {"partial_rotary_factor": 0.5},
    "starcoder2": {"sliding_window": 5},
    "arcee": {},
    "helium": {},
    "ernie4_5": {},
}
MIXTURES: dict[str, dict[str, Any]] = {
    "mixtral": _LOCAL,
    "qwen2_moe": {**_EXPERTS, "num_hidden_layers": 3, "shared_expert_intermediate_size": 48, "decoder_sparse_step": 2},
    "qwen3_moe": {**_EXPERTS, "num_hidden_layers": 3, "norm_topk_prob": True, "mlp_only_layers": [1]},
    "deepseek_v2": {
        **_LATENT,
        "topk_method": "group_limited_greedy",
        "rope_parameters": {**_YARN, "mscale": 0.7, "mscale_all_dim": 0.7},
    },
    "deepseek_v2-lite": {**_LATENT, "type": "deepseek_v2", "q_lora_rank": None, "topk_method": "greedy", "n_group": 1,
                         "topk_group": 1},
    "deepseek_v3": {**_LATENT, "rope_parameters": {**_YARN, "mscale": 1.0, "mscale_all_dim": 0.5}},
    "deepseek_v32": {**_LATENT, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 64},
    "glm_moe_dsa": {**_LATENT, "index_n_heads": 2, "index_head_dim": 16, "index_topk": 64},
    "glm4_moe": {**_ROUTED, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "use_qk_norm": True,
                 "partial_rotary_factor": 0.5, "attention_bias": True},
    "glm4_moe_lite": _LATENT,
    "gpt_oss": {**_LOCAL, "sliding_window": 5, "rope_parameters": {**_YARN, "truncate": False}},
    "llama4_text": {
        "num_hidden_layers": 4,
        "intermediate_size": 48,
        "intermediate_size_mlp": 96,
        "num_local_experts": 8,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "attention_chunk_size": 8,
    },
    "minimax_m2": {**_LOCAL, "rotary_dim": 8},
    "olmoe": {**_EXPERTS, "intermediate_size": 32},
    "granitemoe": {**_LOCAL, **_GRANITE},
    "granitemoeshared": {**_LOCAL, "shared_intermediate_size": 40},
    "dots1": {**_ROUTED, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "solar_open": {**_ROUTED, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "exaone_moe": {**_EXPERTS, "num_hidden_layers": 5, "num_shared_experts": 1, "n_group": 1, "topk_group": 1,
                   "sliding_window": 5, "sliding_window_pattern": 4},
    # Their layers of attention alone: the gate of its output, rotary positions of a part of each head.
    "qwen3_next": {**_EXPERTS, "layer_types": ["full_attention"] * 2, "shared_expert_intermediate_size": 48,
                   "partial_rotary_factor": 0.25},
    "qwen3_5_moe_text": {**_EXPERTS, "layer_types": ["full_attention"] * 2, "shared_expert_intermediate_size": 48},
}  # fmt: skip
KINDS = {**DENSE, **MIXTURES}


def raw(kind: str) -> dict[str, Any]:
    """The config.json of a tiny model."""
    said = {**_SIZES, **KINDS[kind]}
    return {"model_type": said.pop("type", kind), **{key: value for key, value in said.items() if value is not None}}


def config(kind: str) -> ModelConfig:
    """Its description."""
    return parse_config(raw(kind), f"tiny-{kind}")


def ids(rows: int, tokens: int, seed: int) -> Tensor:
    """Random tokens, none of them special."""
    return torch.randint(3, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def oracle(kind: str) -> tuple[Any, ModelConfig]:
    """transformers' model with random weights that matter, and what its config says to thinwire."""
    from transformers import AutoConfig, AutoModelForCausalLM

    said = raw(kind)
    shape = AutoConfig.for_model(said.pop("model_type"), **said, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32).eval()
    written = json.loads(shape.to_json_string(use_diff=False))
    described = parse_config({**written, "architectures": [type(model).__name__]}, f"tiny-{kind}")
    generator, neutral = torch.Generator().manual_seed(7), 1.0 - naming(described).norm_offset
    transposed = kind in ("gpt_oss", "llama4_text")  # their experts' matrices are [in, out]
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point() or "inv_freq" in name or "embed_scale" in name:
            continue
        values = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() > 1 and "norm" not in name:
            inputs = tensor.shape[-2] if transposed and ".experts." in name else tensor.shape[-1]
            values *= 1.0 if "embed" in name else inputs**-0.5
            if kind == "gpt_oss" and "gate_up" in name:
                values *= 4  # so that its clamps are met
        else:
            is_norm = ("norm" in name or "ln_" in name) and not name.endswith("bias")
            values = 0.1 * values + (neutral if is_norm else 0.0)
        tensor.copy_(values)
    model.tie_weights()
    return model, described


# ---- what ranks of any group give

CODED = ("cohere2", "deepseek_v3", "gpt_oss", "olmoe")  # these under codecs, too


def _digest(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().tobytes()).hexdigest()


def _sent(group: Group, rank: int) -> int:
    return sum(count for (source, _), count in group.sent_bytes.items() if source == rank)


def of_group(group: Group) -> dict[str, list[list[Any]]]:
    """By case: hash of the logits, and bytes sent, of each rank that a group has here.

    Every kind with exact sums, its experts cut, or in as many groups as there are ranks; some in all ways.
    """
    found: dict[str, list[list[Any]]] = {}
    ranks = [group.rank] if isinstance(group, TorchGroup) else range(group.size)
    ids_BT = ids(3, 9, 5)  # sequences that do not go into two or four ranks
    for kind in KINDS:
        model = config(kind)
        weights = random_weights(model, 7)

        def run(name: str, decoder: Decoder, ranks: Sequence[int] = tuple(ranks)) -> None:
            group.reset_counters()
            logits_BTV = decoder.logits(decoder.forward(ids_BT, decoder.new_cache(3, 9)))
            rows = [even(3, group.size)[rank] for rank in ranks]
            if decoder.exchange is None:
                mine = [logits_BTV] * len(rows)
            else:
                mine = list(torch.split(logits_BTV, [len(row) for row in rows]))
            found[name] = [[_digest(x), _sent(group, rank)] for rank, x in zip(ranks, mine, strict=True)]

        for ep in (1, group.size) if model.is_mixture else (1,):
            run(f"{kind} exact ep{ep}", Decoder(model, weights, group, ep=ep))
        if kind not in CODED:
            continue
        for ep in {1, 2, group.size} if model.is_mixture else {1}:
            sync = SchemeSync(group, plan_of("flash-int4", model.num_layers))
            run(f"{kind} flash-int4 ep{ep}", Decoder(model, weights, group, ep=ep, sync=sync, precision=BF16))
        if model.is_mixture:
            for gathers in (False, True):
                for scheme in ("bf16", "a2a-int8"):
                    exchange = SchemeExchange(group, scheme, gathers=gathers)
                    name = f"{kind} {scheme} {'gathered' if gathers else 'dispatched'}"
                    run(name, Decoder(model, weights, group, exchange=exchange, precision=BF16))
    return found


def of_both(group: TorchGroup) -> dict[str, Any]:
    """On four gloo ranks: of all of them, and of the half of them that this rank is in."""
    halves = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    with torch.no_grad():
        return {"4": of_group(group), "2": of_group(TorchGroup(halves[group.rank // 2]))}


def of_local(ranks: int) -> dict[str, Any]:
    """The same with all ranks in this process."""
    with torch.no_grad():
        return of_group(LocalGroup(ranks))
