"""Tokenizers: the whole text and nothing else, where it ends, and files that are damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers

from thinwire.reference.decoder.text import open_tokenizer

from .. import tiny
from .test_weights import write_gguf

WORDS = " ".join(f"w{word % 50}" for word in range(600))


@pytest.fixture
def inner(tmp_path: Path) -> Any:
    """A tokenizer of fifty words, in a folder."""
    found = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{i}": i for i in range(50)}, unk_token="w0"))
    found.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    found.save(str(tmp_path / "tokenizer.json"))
    return found


def test_a_file_that_truncates_or_pads_gives_the_whole_text(tmp_path: Path, inner: Any) -> None:
    wanted = [word % 50 for word in range(600)]
    inner.enable_truncation(128)
    inner.save(str(tmp_path / "tokenizer.json"))
    assert open_tokenizer(tmp_path).encode(WORDS) == wanted
    inner.no_truncation()
    inner.enable_padding(length=1024, pad_id=0, pad_token="w0")
    inner.save(str(tmp_path / "tokenizer.json"))
    assert open_tokenizer(tmp_path).encode(WORDS) == wanted


def test_the_end_of_a_text_is_the_generations_first(tmp_path: Path, inner: Any) -> None:
    """generation_config.json before config.json; what is none of the tokenizer's ids ends no text."""
    assert open_tokenizer(tmp_path).end is None
    (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
    assert open_tokenizer(tmp_path).end == 2
    for given, end in (("7", 7), ("[3, 4]", 3), ("0", 0)):
        (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": {given}}}')
        assert open_tokenizer(tmp_path).end == end
    for nothing in ("null", "-1", "50", "1e400", "99999999999999999999", '"x"', "true", "[]", "[[3]]", "2.0"):
        (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": {nothing}}}')
        assert open_tokenizer(tmp_path).end == 2
    (tmp_path / "generation_config.json").write_text("{}")
    assert open_tokenizer(tmp_path).end == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "must hold a JSON object, not list"),
        (b"null", "must hold a JSON object, not NoneType"),
        (b"{", "cannot be read as JSON"),
        (b"\xff\xfe", "cannot be read as JSON"),
        (b"[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_a_damaged_generation_config_is_named(tmp_path: Path, inner: Any, content: bytes, said: str) -> None:
    (tmp_path / "generation_config.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"generation_config\.json {said}"):
        open_tokenizer(tmp_path)


GGUF: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["a", "b", "ab", "<|end|>"],
    "tokenizer.ggml.token_type": [1, 1, 1, 3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 3,
}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("merges", ["a zz"], "holds no tokenizer: .*`zz` out of vocabulary"),
        ("merges", ["ab"], "holds no tokenizer"),
        ("merges", [1, 2], "holds no tokenizer"),
        ("token_type", [1, 1], "holds no tokenizer"),
        ("tokens", 3, "holds no tokenizer"),
        ("tokens", [1, 2, 3, 4], "holds no tokenizer"),
        ("pre", ["a"], r"with pre-tokenizer \['a'\] is not supported"),
        ("eos_token_id", 4, "eos_token_id must be one of its 4 tokens: 4"),
        ("eos_token_id", "x", "eos_token_id must be one of its 4 tokens: 'x'"),
    ],
)
def test_damaged_metadata_is_one_error(tmp_path: Path, name: str, value: Any, said: str) -> None:
    model, path = tiny.config("llama"), tmp_path / "tiny.gguf"
    assert open_tokenizer(write_gguf(path, model, {}, metadata=GGUF)).encode("abb") == [2, 1]
    write_gguf(path, model, {}, metadata=GGUF | {f"tokenizer.ggml.{name}": value})
    with pytest.raises(ValueError, match=said) as caught:
        open_tokenizer(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_metadata_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", tiny.config("llama"), {}, metadata=GGUF)
    path.write_bytes(path.read_bytes().replace(b"<|end|>", b"<|\xff\xff\xff|>"))
    with pytest.raises(ValueError, match=r"tiny\.gguf: metadata 'tokenizer\.ggml\.tokens' cannot be read"):
        open_tokenizer(path)
