"""A tiny model whose perplexity is near its vocabulary's size, and what it gives under schemes, for tests.

Imports nothing of the tests: processes started by them find it by its folder.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thinwire.reference.catalog import scheme
from thinwire.reference.decoder.model import BF16, Decoder, Precision
from thinwire.reference.decoder.weights import random_weights
from thinwire.reference.families.config import parse_config
from thinwire.reference.groups.group import Group, LocalGroup
from thinwire.reference.quality.accuracy import Accuracy, Progress, calibrate, evaluate, scheme_run
from thinwire.reference.quality.results import Results

CONFIG = parse_config(
    {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 50,
        "vocab_size": 97,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    "tiny",
)
KEY = {"scheme": "flash-int4", "tp": 2}
SCHEMES = ("bf16", "flash-int8", "flash-int4", "flash2-int2-sr+spd-50", "hybrid-4.2", "iso-int8")


def decoder(group: Group, precision: Precision = BF16) -> Decoder:
    """Two layers of width 64; the embedding is small, or its product with itself would decide every token."""
    weights = random_weights(CONFIG, 7)
    weights["model.embed_tokens.weight"] *= 0.1
    return Decoder(CONFIG, weights, group, precision=precision)


def windows(count: int = 5, tokens: int = 24, seed: int = 3) -> Tensor:
    """Random token ids."""
    return torch.randint(97, (count, tokens), generator=torch.Generator().manual_seed(seed))


def figures(group: Group) -> dict[str, list[dict[str, Any]]]:
    """Windows of each scheme, as JSON would hold them."""
    model = decoder(group)
    calibrations = calibrate(decoder(LocalGroup(group.size)), windows(3, seed=4))
    runs = {name: scheme_run(model, scheme(name), calibrations) for name in SCHEMES}
    return {
        name: [asdict(window) for window in evaluate(model, windows(), run.sync, split=run.split).windows]
        for name, run in runs.items()
    }


def go(ids_WT: Tensor, path: Path, progress: Progress | None = None, key: dict[str, Any] = KEY) -> Accuracy:
    """flash-int4 on two ranks, windows done kept in a file."""
    model = decoder(LocalGroup(2))
    sync = scheme_run(model, scheme("flash-int4")).sync
    return evaluate(model, ids_WT, sync, results=Results(path, key), progress=progress)
