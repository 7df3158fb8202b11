"""Configs and parts of models for these tests."""

import json
from pathlib import Path
from typing import Any

from thinwire.reference.core.architecture import Experts, FeedForward, ModelConfig
from thinwire.reference.core.mixers import Attention, Rope
from thinwire.reference.families.config import parse_config

ROOT = Path(__file__).resolve().parents[3]
ROWS: dict[str, dict[str, Any]] = {
    row["name"]: row for row in json.loads((Path(__file__).parent / "configs.json").read_text("utf-8"))
}
"""Models beside the catalog's: config, source, figures published; `as`: what transformers' class wants instead."""


def row(name: str) -> ModelConfig:
    """One of them."""
    return parse_config(ROWS[name]["config"], name)


def feed(model: ModelConfig) -> FeedForward:
    """The MLP of the first layer."""
    found = model.layers[0].feed
    assert isinstance(found, FeedForward)
    return found


def attention(model: ModelConfig, layer: int) -> Attention:
    found = model.layers[layer].mixer
    assert isinstance(found, Attention)
    return found


def rope(model: ModelConfig) -> Rope:
    assert model.attention.rope is not None
    return model.attention.rope


def turned(**more: Any) -> Rope:
    return rope(parse_config(minimal("LlamaForCausalLM", **more), "x"))


def shipped(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "reference" / "models" / f"{name}.json").read_text())
    return content


def minimal(architecture: str, **more: Any) -> dict[str, Any]:
    sizes = {
        "hidden_size": 4096,
        "num_hidden_layers": 4,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
    }
    return {"architectures": [architecture], "vocab_size": 32000, **sizes, **more}


def windows(model: ModelConfig) -> list[int | None]:
    return [attention(model, layer).window for layer in range(model.num_layers)]


def mixture(model: ModelConfig) -> Experts:
    found = model.layers[-1].feed
    assert isinstance(found, Experts)
    return found
