"""Text to tokens and back, for the models whose weights are here.

A Hugging Face folder brings `tokenizer.json`, which the package `tokenizers` reads; of a GGUF file's metadata the same
tokenizer is put together. Nothing is added to the text: no beginning-of-sequence token, no chat template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .weights import GGUF, needed

_CONTROL, _USER = 3, 4  # of llama.cpp's token types
_DIGITS = {"gpt-2": False, "default": False, "smollm": True}  # pre-tokenizers: does each digit stand alone?


class Tokenizer:
    """`encode` and `decode`; `end` is the id that ends a text, None where the files do not say."""

    def __init__(self, inner: Any, end: int | None) -> None:
        self._inner, self.end = inner, end

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; control tokens spelt out in it become one id each."""
        return list(self._inner.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], control: bool = False) -> str:
        """The text of token ids. control: spell out control tokens, too."""
        return str(self._inner.decode(list(ids), skip_special_tokens=not control))


def open_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a folder with tokenizer.json, or of a .gguf file.

    Raises ValueError where there is none or a GGUF file's is of another kind than byte-level BPE as GPT-2 and SmolLM
    have it, ImportError where a package is missing.
    """
    path = Path(path)
    if path.is_dir():
        return _from_folder(path)
    if path.suffix == ".gguf" and path.is_file():
        return _from_gguf(GGUF(path))
    raise ValueError(f"no tokenizer at {path}: expected a folder with tokenizer.json, or a .gguf file")


def _from_folder(folder: Path) -> Tokenizer:
    package = needed("tokenizers", "tokenizers")
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ValueError(f"no tokenizer at {folder}: it holds no tokenizer.json")
    try:
        inner = package.Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises bare Exceptions
        raise ValueError(f"{file} cannot be read as a tokenizer: {error}") from None
    return Tokenizer(inner, _end_of(folder, inner))


def _end_of(folder: Path, inner: Any) -> int | None:
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if file.is_file():
            found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            found = found[0] if isinstance(found, list) and found else found
            if isinstance(found, int) and inner.id_to_token(found) is not None:
                return found
    return None


def _from_gguf(file: GGUF) -> Tokenizer:
    package = needed("tokenizers", "tokenizers")
    kind, pre = file.need("tokenizer.ggml.model"), file.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or pre not in _DIGITS:
        raise ValueError(
            f"{file.path}: tokenizer {kind!r} with pre-tokenizer {pre!r} is not supported; "
            f"allowed: 'gpt2' with {', '.join(map(repr, _DIGITS))}"
        )
    tokens, types = file.need("tokenizer.ggml.tokens"), file.need("tokenizer.ggml.token_type")
    merges = [tuple(pair.split(" ", 1)) for pair in file.need("tokenizer.ggml.merges")]
    byte_level = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [package.pre_tokenizers.Digits(individual_digits=True)] if _DIGITS[pre] else []

    inner = package.Tokenizer(package.models.BPE(dict(zip(tokens, range(len(tokens)), strict=True)), merges))
    inner.pre_tokenizer = package.pre_tokenizers.Sequence([*digits, byte_level])
    inner.decoder = package.decoders.ByteLevel()
    for type_, add in ((_CONTROL, inner.add_special_tokens), (_USER, inner.add_tokens)):
        whole = [token for token, given in zip(tokens, types, strict=True) if given == type_]
        add([package.AddedToken(token, special=type_ == _CONTROL, normalized=False) for token in whole])
    return Tokenizer(inner, file.get("tokenizer.ggml.eos_token_id"))
