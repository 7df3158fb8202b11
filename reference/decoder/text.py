"""Text to tokens and back, for the models whose weights are here.

A Hugging Face folder brings `tokenizer.json`, which the package `tokenizers` reads; of a GGUF file's metadata the same
tokenizer is put together. Nothing is added to the text: no beginning-of-sequence token, no chat template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thinwire.reference.decoder.weights import GGUF, needed

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
    inner.no_truncation()  # files may ask for either, and a text would lose its end or gain one
    inner.no_padding()
    return Tokenizer(inner, _end_of(folder, inner))


def _end_of(folder: Path, inner: Any) -> int | None:
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if file.is_file():
            try:
                given = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise ValueError(f"{file} cannot be read as JSON: {error}") from None
            if not isinstance(given, dict):
                raise ValueError(f"{file} must hold a JSON object, not {type(given).__name__}")
            found: Any = given.get("eos_token_id")
            if isinstance(found, list) and found:
                found = found[0]
            if _is_id(found, inner):  # what is none of the tokenizer's ids ends no text
                return int(found)
    return None


def _is_id(found: Any, inner: Any) -> bool:
    whole = isinstance(found, int) and not isinstance(found, bool)
    return whole and 0 <= found < 2**32 and inner.id_to_token(found) is not None


def _from_gguf(file: GGUF) -> Tokenizer:
    package = needed("tokenizers", "tokenizers")
    kind, pre = file.need("tokenizer.ggml.model"), file.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or pre not in tuple(_DIGITS):
        raise ValueError(
            f"{file.path}: tokenizer {kind!r} with pre-tokenizer {pre!r} is not supported; "
            f"allowed: 'gpt2' with {', '.join(map(repr, _DIGITS))}"
        )
    tokens, types, merges = (file.need(f"tokenizer.ggml.{name}") for name in ("tokens", "token_type", "merges"))
    try:
        inner = _bpe(package, tokens, types, merges, _DIGITS[pre])
    except Exception as error:  # the package raises bare Exceptions, and the metadata may be of any type
        said = " ".join(str(error).split())
        raise ValueError(f"{file.path} holds no tokenizer: {type(error).__name__}: {said}") from None
    end = file.get("tokenizer.ggml.eos_token_id")
    if end is not None and not _is_id(end, inner):
        raise ValueError(f"{file.path}: tokenizer.ggml.eos_token_id must be one of its {len(tokens)} tokens: {end!r}")
    return Tokenizer(inner, end)


def _bpe(package: Any, tokens: Any, types: Any, merges: Any, digits_alone: bool) -> Any:
    pairs = [tuple(pair.split(" ", 1)) for pair in merges]
    byte_level = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = [package.pre_tokenizers.Digits(individual_digits=True)] if digits_alone else []

    inner = package.Tokenizer(package.models.BPE(dict(zip(tokens, range(len(tokens)), strict=True)), pairs))
    inner.pre_tokenizer = package.pre_tokenizers.Sequence([*digits, byte_level])
    inner.decoder = package.decoders.ByteLevel()
    for type_, add in ((_CONTROL, inner.add_special_tokens), (_USER, inner.add_tokens)):
        whole = [token for token, given in zip(tokens, types, strict=True) if given == type_]
        add([package.AddedToken(token, special=type_ == _CONTROL, normalized=False) for token in whole])
    return inner
