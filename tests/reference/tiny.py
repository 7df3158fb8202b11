"""Small models of every architecture for tests, sizes awkward on purpose: 6 heads do not go into 4 or 8 ranks."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.decoder.model import BF16, Decoder
from thinwire.reference.decoder.sync import Calibrating, ExactSync, Observed, SchemeSync
from thinwire.reference.decoder.weights import random_weights
from thinwire.reference.families.config import parse_config
from thinwire.reference.groups.group import Group, LocalGroup
from thinwire.reference.mixed import plan_of

_SIZES: dict[str, Any] = {
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 50,
    "vocab_size": 97,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# What each adds to the sizes, as its config.json would spell it.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True},
    "llama-biases": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": _LLAMA3,
    },
    "llama-linear": {
        "architectures": ["LlamaForCausalLM"],
        "rope_parameters": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0},
    },
    "qwen2": {"architectures": ["Qwen2ForCausalLM"], "hidden_size": 48, "head_dim": None, "rope_theta": 1000.0},
    "mistral": {"architectures": ["MistralForCausalLM"], "sliding_window": 5},
    "gemma2": {
        "architectures": ["Gemma2ForCausalLM"],
        "sliding_window": 5,
        "query_pre_attn_scalar": 12,
        "attn_logit_softcapping": 2.0,  # small enough to bend these scores
        "final_logit_softcapping": 3.0,
        "hidden_activation": "gelu_pytorch_tanh",
    },
    "gemma2-biases": {"architectures": ["Gemma2ForCausalLM"], "attention_bias": True, "tie_word_embeddings": False},
}


def raw(family: str, **changes: Any) -> dict[str, Any]:
    """The config.json of a tiny model."""
    return {key: value for key, value in {**_SIZES, **FAMILIES[family], **changes}.items() if value is not None}


def config(family: str, **changes: Any) -> ModelConfig:
    """Its sizes."""
    return parse_config(raw(family, **changes), f"tiny-{family}")


def weights(model: ModelConfig, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Its weights, always the same."""
    return random_weights(model, 7, dtype)


def ids(model: ModelConfig, batch: int = 2, tokens: int = 24, seed: int = 0) -> Tensor:
    """Random tokens."""
    return torch.randint(model.vocab_size, (batch, tokens), generator=torch.Generator().manual_seed(seed))


ON_THE_WIRE = ("exact", "bf16", "flash-int4", "mxfp6", "hybrid-4.2", "flash2-int2-sr+spd-50")


def digests(group: Group) -> dict[str, str]:
    """Hash of logits and of a greedy continuation under each scheme, 9 heads on the two ranks of a group."""
    model = config("llama-biases", num_attention_heads=9, num_key_value_heads=3)
    ours = Decoder(model, weights(model), group, precision=BF16)
    together, hook = LocalGroup(2), Calibrating()
    watched = Decoder(model, weights(model), together, precision=BF16)
    watched.forward(ids(model), sync=Observed(ExactSync(together), hook))
    found = {}
    for name in ON_THE_WIRE:
        sync = None if name == "exact" else SchemeSync(group, plan_of(name, 3), calibrations=hook.freeze())
        seen = [ours.logits(ours.forward(ids(model), sync=sync)), ours.generate(ids(model), 5, sync=sync)]
        found[name] = hashlib.sha256(b"".join(x.numpy().tobytes() for x in seen)).hexdigest()
    return found
