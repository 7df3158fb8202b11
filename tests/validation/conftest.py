"""What tests of commands that run a model share: a tiny one, a text, and a place of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 96, "vocab_size": 50, "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A cache of the test's own, no index to download from, threads as found."""
    import torch

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Hugging Face folder and a text of 600 words out of 50."""
    import safetensors.torch
    import tokenizers
    import torch

    from thinwire.reference.decoder.weights import random_weights
    from thinwire.reference.families.config import parse_config

    folder = tmp_path_factory.mktemp("model") / "tiny"
    folder.mkdir()
    config = parse_config(CONFIG, "tiny")
    weights = random_weights(config, 1)
    weights["model.embed_tokens.weight"] *= 0.1
    (folder / "config.json").write_text(json.dumps(CONFIG))
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(50)}, unk_token="w0"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.save(str(folder / "tokenizer.json"))
    words = torch.randint(50, (600,), generator=torch.Generator().manual_seed(2)).tolist()
    text = folder.parent / "text.txt"
    text.write_text(" ".join(f"w{word}" for word in words))
    return folder, text
