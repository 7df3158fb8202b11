"""Checkpoints: Hugging Face safetensors and llama.cpp's GGUF, as one set of tensors by the names of `decoder.names`.

`open_checkpoint(path)` reads headers, checks every name and shape against the model's sizes, and gives a mapping that
reads a tensor when it is asked for it. `random_weights` stands in for a checkpoint in tests. Both formats give the
same tensors for the same model: GGUF's blocks are dequantised by the package `gguf`, and the rows of its queries and
keys, which llama.cpp keeps in another order, are put back.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.decoder.names import Renamed, Shapes, naming, tensor_shapes
from thinwire.reference.families.config import load_model, parse_config

_LISTED = 5  # names that an error spells out


class Checkpoint(Mapping[str, Tensor]):
    """A checkpoint's tensors, each read anew when asked for; `dict(checkpoint)` reads them all.

    Raises ValueError for tensors missing, not known or of another shape than the config says.
    """

    def __init__(
        self,
        config: ModelConfig,
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[str], Tensor],
        where: Path,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.config, self._read, self._dtype = config, read, dtype
        self._shapes = tensor_shapes(config)
        self._found = Renamed(config, tuple(shapes), lambda name: self._read(name))
        _check(self._shapes, self._found, shapes, config, where)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._shapes:
            raise KeyError(name)
        found = self._found[name]
        return found if self._dtype is None else found.to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def _check(
    wanted: Shapes, found: Renamed, given: Mapping[str, tuple[int, ...]], config: ModelConfig, where: Path
) -> None:
    # Files of tied models may hold the head a second time; transformers takes the embedding all the same.
    unknown = [name for name in found.unknown if not (config.tied_embeddings and name.endswith("lm_head.weight"))]
    shapes = {name: found.shape(name, given) for name in found}
    wrong = [
        f"{name} {list(shapes[name])} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in shapes and shapes[name] != shape
    ]
    faults = {
        "lacks": found.lacking,
        f"holds what a {config.architecture} has not:": unknown,
        "holds other shapes than its config says:": wrong,
    }
    said = [f"{what} {_some(names)}" for what, names in faults.items() if names]
    if said:
        raise ValueError(f"checkpoint {where} {'; it '.join(said)}")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def open_checkpoint(path: str | Path, dtype: torch.dtype | None = None) -> Checkpoint:
    """The checkpoint in a folder (config.json and *.safetensors) or in a .gguf file.

    dtype: what tensors are given in; None = as stored, or fp32 where a GGUF file holds blocks. Raises ValueError for
    anything that is not a checkpoint of a supported model, ImportError where the package that reads it is missing.
    """
    path = Path(path)
    if path.is_dir():
        return _open_safetensors(path, dtype)
    if path.suffix == ".gguf" and path.is_file():
        return _open_gguf(path, dtype)
    raise ValueError(f"no checkpoint at {path}: expected a folder with config.json and *.safetensors, or a .gguf file")


def needed(package: str, what: str) -> ModuleType:
    """A package of the extra `weights`, imported. ImportError that says how to get it."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(f"reading {what} needs the package {package}: pip install 'thinwire[weights]'") from error


# ---- Hugging Face safetensors


def _open_safetensors(folder: Path, dtype: torch.dtype | None) -> Checkpoint:
    if not (folder / "config.json").is_file():
        raise ValueError(f"no checkpoint at {folder}: it holds no config.json")
    config = load_model(str(folder))
    safe_open = needed("safetensors", "safetensors checkpoints").safe_open
    handles: dict[str, Any] = {}
    shapes: Shapes = {}
    listed = _index(folder)
    files = sorted(set(listed.values())) if listed else sorted(file.name for file in folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"no checkpoint at {folder}: it holds no *.safetensors (other formats are not read)")
    for file in files:
        try:
            handle = safe_open(folder / file, framework="pt")
        except Exception as error:  # the package raises a class of its own, and OSErrors
            raise ValueError(f"{folder / file} cannot be read as safetensors: {error}") from None
        for name in handle.keys():  # noqa: SIM118 (no mapping: it has no iterator)
            if name in handles:
                raise ValueError(f"checkpoint {folder} holds {name} twice, once in {file}")
            handles[name], shapes[name] = handle, tuple(handle.get_slice(name).get_shape())
    astray = [name for name, file in listed.items() if name not in handles]
    if astray:
        raise ValueError(f"the index of {folder} lists what its files do not hold: {_some(astray)}")

    def read(name: str) -> Tensor:
        found: Tensor = handles[name].get_tensor(name)
        if not found.is_floating_point() or found.itemsize < 2:
            raise ValueError(f"checkpoint {folder}: {name} is {found.dtype}; quantised checkpoints are not supported")
        return found

    return Checkpoint(config, shapes, read, folder, dtype)


def _index(folder: Path) -> dict[str, str]:
    """Tensor to file, from the index of a checkpoint in several files; {} where there is none."""
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): str(file) for name, file in found.items()}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of a checkpoint: {type(error).__name__}: {error}") from None
    for file in set(files.values()):
        if Path(file).name != file or not (folder / file).is_file():
            raise ValueError(f"{path} names {file!r}, which is not in the folder")
    return files


# ---- GGUF

_GGUF_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GGUF_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


class GGUF:
    """A GGUF file's metadata and tensors. ValueError for a file that is none, ImportError without the package."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.package = needed("gguf", "GGUF files")
        try:
            self._reader = self.package.GGUFReader(path)
        except (OSError, ValueError, IndexError, KeyError, struct.error) as error:
            raise ValueError(f"{path} cannot be read as GGUF: {type(error).__name__}: {error}") from None
        self.tensors: dict[str, Any] = {tensor.name: tensor for tensor in self._reader.tensors}

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value as Python has it, `default` where there is none."""
        field = self._reader.get_field(key)
        try:
            return default if field is None else field.contents()
        except (ValueError, LookupError) as error:
            raise ValueError(f"{self.path}: metadata {key!r} cannot be read: {error}") from None

    def need(self, key: str) -> Any:
        """A metadata value; ValueError where there is none."""
        found = self.get(key)
        if found is None:
            raise ValueError(f"{self.path} has no metadata {key!r}")
        return found

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape, rows first as torch counts (the file counts from the innermost)."""
        return tuple(int(size) for size in reversed(self.tensors[name].shape))

    def values(self, name: str) -> Tensor:
        """A tensor, fp32."""
        tensor = self.tensors[name]
        try:
            found = self.package.dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError:
            kind = tensor.tensor_type.name
            raise ValueError(f"{self.path}: {name} is {kind}, which the package gguf cannot dequantise") from None
        return torch.from_numpy(found.copy() if not found.flags.writeable else found).float().reshape(self.shape(name))


def _open_gguf(path: Path, dtype: torch.dtype | None) -> Checkpoint:
    file = GGUF(path)
    names = {_hugging_face_name(name): name for name in file.tensors}
    config = _gguf_config(file, tied="lm_head.weight" not in names)
    heads = {"self_attn.q_proj": config.attention.heads, "self_attn.k_proj": config.attention.kv_heads}

    def read(name: str) -> Tensor:
        found = file.values(names[name])
        for projection, count in heads.items():
            if f".{projection}." in name:
                return _unpermuted(found, count)
        return found

    return Checkpoint(config, {ours: file.shape(theirs) for ours, theirs in names.items()}, read, path, dtype)


def _hugging_face_name(name: str) -> str:
    if name in _GGUF_WHOLE:
        return _GGUF_WHOLE[name]
    match name.split("."):
        case ["blk", layer, part, kind] if part in _GGUF_LAYER:
            return f"model.layers.{layer}.{_GGUF_LAYER[part]}.{kind}"
    return name  # not known: the check of the names reports it


def _unpermuted(rows: Tensor, heads: int) -> Tensor:
    """Query or key rows in Hugging Face's order: llama.cpp pairs neighbours, Hugging Face the halves of a head."""
    size = rows.shape[0] // heads
    return rows.reshape(heads, size // 2, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def _gguf_config(file: GGUF, tied: bool) -> ModelConfig:
    """The model of a GGUF file's metadata. ValueError for another architecture than llama, or what it adds to it."""
    architecture = file.need("general.architecture")
    if architecture != "llama":
        raise ValueError(
            f"{file.path}: GGUF architecture {architecture!r} is not supported; allowed: llama (Llama and Mistral). "
            "For others use the Hugging Face checkpoint"
        )
    scaling = file.get("llama.rope.scaling.type", "none")
    if "rope_freqs.weight" in file.tensors or scaling not in ("none", "linear"):
        raise ValueError(
            f"{file.path} scales its rotary positions ({scaling if scaling != 'none' else 'rope_freqs.weight'}) "
            "in a way that its metadata does not spell out; use the Hugging Face checkpoint"
        )
    heads = file.need("llama.attention.head_count")
    window = file.get("llama.attention.sliding_window")
    data: dict[str, Any] = {
        "architectures": ["MistralForCausalLM" if window else "LlamaForCausalLM"],
        "hidden_size": file.need("llama.embedding_length"),
        "num_hidden_layers": file.need("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.get("llama.attention.head_count_kv", heads),
        "head_dim": file.get("llama.attention.key_length") or file.get("llama.rope.dimension_count"),
        "intermediate_size": file.need("llama.feed_forward_length"),
        "vocab_size": file.shape("token_embd.weight")[0] if "token_embd.weight" in file.tensors else 0,
        "num_local_experts": file.get("llama.expert_count"),
        "tie_word_embeddings": tied,
        "attention_bias": "blk.0.attn_q.bias" in file.tensors,
        "mlp_bias": "blk.0.ffn_gate.bias" in file.tensors,
        "sliding_window": window,
        "rope_theta": _decimal(file.get("llama.rope.freq_base", 10000.0)),
        "rms_norm_eps": _decimal(file.need("llama.attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": file.get("llama.context_length"),
        "_source": f"metadata of {file.path.name}",
    }
    if scaling == "linear":
        data["rope_scaling"] = {"rope_type": "linear", "factor": file.get("llama.rope.scaling.factor")}
    config = parse_config(data, file.path.stem)
    _check_neutral(file, config.attention.head_dim)
    return config


def _check_neutral(file: GGUF, head_dim: int) -> None:
    """ValueError for metadata that change the arithmetic of a llama in a way not known here. 0 is llama.cpp's unset."""
    neutral = {
        "rope.dimension_count": (head_dim,),
        "rope.scale_linear": (0, 1),
        "logit_scale": (0, 1),
        "embedding_scale": (0, 1),
        "residual_scale": (0, 1),
        "attention.scale": (0, _decimal(head_dim**-0.5)),
    }
    for key, allowed in neutral.items():
        given = file.get(f"llama.{key}")
        if given is not None and (_decimal(given) if isinstance(given, float) else given) not in allowed:
            said = " or ".join(str(value) for value in allowed if value)
            raise ValueError(f"{file.path}: llama.{key} is not supported unless it is {said}: {given!r}")


def _decimal(value: float) -> float:
    """The shortest decimal that is this fp32 number: what was 1e-5 in config.json is 1e-5 again."""
    return float(f"{value:.7g}") if math.isfinite(value) else value


# ---- made up


def random_weights(config: ModelConfig, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Weights for tests, the same for the same seed: activations keep their size, and biases and norms matter.

    Matrices are normal with variance 1 / inputs, biases with deviation 0.1, norms about their neutral value with 0.1.
    """
    generator = torch.Generator().manual_seed(seed)
    neutral = 1.0 - naming(config).norm_offset
    found = {}
    for name, shape in tensor_shapes(config).items():
        values = torch.randn(shape, generator=generator)
        if len(shape) > 1 and "norm" not in name:
            values *= 1.0 if name.startswith("model.embed") else shape[-1] ** -0.5
        else:
            values = 0.1 * values + (neutral if name.endswith("norm.weight") else 0.0)
        found[name] = values.to(dtype)
    return found
