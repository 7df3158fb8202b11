"""Checkpoints: what goes in comes out, from either format, and what is wrong is named."""

import gc
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import safetensors.torch
import tokenizers
import torch
from torch import Tensor

from thinwire.reference.core.architecture import FeedForward, ModelConfig
from thinwire.reference.core.mixers import DeltaNet, Latent, Lightning, StateSpace
from thinwire.reference.decoder import weights as subject
from thinwire.reference.decoder.model import Decoder
from thinwire.reference.decoder.names import tensor_shapes
from thinwire.reference.decoder.text import open_tokenizer
from thinwire.reference.decoder.weights import open_checkpoint, random_weights
from thinwire.reference.families.config import load_model, model_names
from thinwire.reference.groups.group import LocalGroup

from .. import tiny

torch.set_num_threads(1)


def same(left: Any, right: dict[str, Tensor]) -> bool:
    return set(left) == set(right) and all(torch.equal(left[name], right[name]) for name in right)


@pytest.mark.parametrize("name", model_names())
def test_shapes_hold_every_parameter(name: str) -> None:
    """As many values as `ModelConfig.parameters` counts, which is held against published totals."""
    model = load_model(name)
    if any(isinstance(layer.mixer, DeltaNet | StateSpace | Lightning) for layer in model.layers):
        with pytest.raises(ValueError, match="layers are not computed here"):
            tensor_shapes(model)
        return
    held = {name: torch.Size(shape).numel() for name, shape in tensor_shapes(model).items()}
    index = 0  # is counted, and not read
    for layer in model.layers:
        index += 0 if layer.mixer is None else layer.mixer.values(model.hidden_size, 1).total()
        if isinstance(layer.mixer, Latent):
            index -= replace(layer.mixer, indexer=None).values(model.hidden_size, 1).total()
        elif layer.mixer is not None:
            index -= layer.mixer.values(model.hidden_size, 1).total()
    other = sum(layer.extras + layer.extra_norms * model.hidden_size for layer in model.layers)  # Gemma 4
    assert sum(held.values()) == model.parameters - index - other - model.extras + sum(
        count for name, count in held.items() if name.endswith(".correction")
    )


def test_random_weights_depend_on_the_seed_alone() -> None:
    model = tiny.config("gemma2")
    assert same(random_weights(model, 1), random_weights(model, 1))
    assert not same(random_weights(model, 1), random_weights(model, 2))
    assert {tensor.dtype for tensor in random_weights(model, 1, torch.bfloat16).values()} == {torch.bfloat16}


# ---- Hugging Face safetensors


def write_folder(folder: Path, family: str, tensors: dict[str, Tensor], files: int = 1) -> Path:
    """A checkpoint as Hugging Face lays it out, in one file or in several with an index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(tiny.raw(family)))
    if files == 1:
        safetensors.torch.save_file(tensors, folder / "model.safetensors")
        return folder
    names = sorted(tensors)
    listed = {}
    for part in range(files):
        file = f"model-{part + 1:05}-of-{files:05}.safetensors"
        mine = names[part::files]
        safetensors.torch.save_file({name: tensors[name] for name in mine}, folder / file)
        listed |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return folder


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("files", [1, 3])
def test_safetensors_round_trip(tmp_path: Path, family: str, files: int) -> None:
    model = tiny.config(family)
    tensors = random_weights(model, 3, torch.bfloat16)
    found = open_checkpoint(write_folder(tmp_path / "model", family, tensors, files))
    assert found.config.name == "model" and found.config.attention.heads == 6
    assert len(found) == len(tensors) and same(found, tensors)
    wide = open_checkpoint(tmp_path / "model", torch.float32)
    assert same(wide, {name: tensor.float() for name, tensor in tensors.items()})
    ours = Decoder(found.config, found, LocalGroup(2))
    kept = Decoder(model, tensors, LocalGroup(2))
    assert torch.equal(ours.forward(tiny.ids(model)), kept.forward(tiny.ids(model)))


def test_each_tensor_is_read_once_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder of one rank of many keeps its share, not the whole tensors it was cut from."""
    from thinwire.reference.decoder import model as module

    model = tiny.config("llama-biases")
    found = open_checkpoint(write_folder(tmp_path / "model", "llama-biases", tiny.weights(model)))
    reads: list[str] = []
    inner = found._read
    found._read = lambda name: (reads.append(name), inner(name).clone())[1]  # type: ignore[func-returns-value]
    monkeypatch.setattr(module, "ranks_here", lambda group: (3,))
    ours = Decoder(model, found, LocalGroup(8))
    assert sorted(reads) == sorted(tensor_shapes(model))
    gc.collect()
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors_of(ours)}
    whole = 4 * (2 * 97 * 36 + 36 * (1 + 3 * 4))  # embedding, head, norms and output biases
    matrices = 4 * (model.parameters - whole // 4)
    assert sum(held.values()) - whole < matrices / 3  # 1/6 of the heads, half the key-value heads, 7/50 of the MLP


def tensors_of(ours: Decoder) -> Iterator[Tensor]:
    yield from (ours._embedding_VD, ours._head_VD, *ours._norms.values())
    for layer in ours.layers:
        yield from layer.norms.values()
        for part in layer.parts:
            for half in (part.mixer, part.feed):
                names = () if half is None else half.__slots__
                yield from (value for name in names if (value := getattr(half, name)) is not None)


def test_tied_heads_and_old_buffers_are_passed_over(tmp_path: Path) -> None:
    tensors = tiny.weights(tiny.config("llama"))
    extra = {"lm_head.weight": torch.zeros(97, 36), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}
    assert same(open_checkpoint(write_folder(tmp_path / "model", "llama", tensors | extra)), tensors)


def test_wrong_tensors_are_named(tmp_path: Path) -> None:
    tensors = tiny.weights(tiny.config("llama"))
    del tensors["model.norm.weight"]
    for layer in range(3):
        del tensors[f"model.layers.{layer}.input_layernorm.weight"]
        del tensors[f"model.layers.{layer}.mlp.up_proj.weight"]
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(48)
    tensors["model.layers.1.self_attn.k_proj.weight"] = torch.zeros(48, 36)
    with pytest.raises(ValueError) as raised:
        open_checkpoint(write_folder(tmp_path / "model", "llama", tensors))
    said = str(raised.value)
    assert "it holds what a LlamaForCausalLM has not: model.layers.0.self_attn.q_proj.bias" in said
    assert (
        "other shapes than its config says: model.layers.1.self_attn.k_proj.weight [48, 36] instead of [16, 36]" in said
    )
    assert "lacks model.layers.0.mlp.up_proj.weight" in said and "and 2 more" in said


def test_folders_that_are_no_checkpoint(tmp_path: Path) -> None:
    tensors = tiny.weights(tiny.config("llama"))
    folder = write_folder(tmp_path / "model", "llama", tensors, files=2)
    index = folder / "model.safetensors.index.json"
    good = json.loads(index.read_text())
    first = "model-00001-of-00002.safetensors"

    def refused(match: str) -> None:
        with pytest.raises(ValueError, match=match):
            open_checkpoint(folder)

    for bad in ("[]", "{}", '{"weight_map": 3}', "{", '{"weight_map": []}'):
        index.write_text(bad)
        refused("no index of a checkpoint")
    index.write_text(json.dumps({"weight_map": good["weight_map"] | {"lm_head.weight": "../x.safetensors"}}))
    refused("'../x.safetensors', which is not in the folder")
    index.write_text(json.dumps({"weight_map": good["weight_map"] | {"lm_head.weight": first}}))
    refused("lists what its files do not hold: lm_head.weight")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(good["weight_map"], first)}))
    refused("lists what its files do not hold")
    index.unlink()
    assert same(open_checkpoint(folder), tensors)  # without an index: every file
    (folder / "more.safetensors").write_bytes((folder / first).read_bytes())
    refused("twice, once in more.safetensors")
    (folder / "more.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00no json")
    refused("more.safetensors cannot be read as safetensors")
    for file in folder.glob("*.safetensors"):
        file.unlink()
    refused("no \\*.safetensors")
    (folder / "config.json").unlink()
    refused("holds no config.json")
    with pytest.raises(ValueError, match=r"no checkpoint at .*absent: expected a folder"):
        open_checkpoint(tmp_path / "absent")


def test_quantised_tensors_are_refused(tmp_path: Path) -> None:
    tensors = tiny.weights(tiny.config("llama"))
    tensors["model.norm.weight"] = torch.zeros(36, dtype=torch.int8)
    found = open_checkpoint(write_folder(tmp_path / "model", "llama", tensors))
    with pytest.raises(ValueError, match=r"model.norm.weight is torch.int8; quantised"):
        dict(found)


def test_a_missing_package_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "model", "llama", tiny.weights(tiny.config("llama")))
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    (folder / "tokenizer.json").write_text("{}")

    def absent(name: str, *_: Any) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(subject, "import_module", absent)
    for call, package in (
        (lambda: open_checkpoint(folder), "safetensors"),
        (lambda: open_checkpoint(tmp_path / "x.gguf"), "gguf"),
        (lambda: open_tokenizer(folder), "tokenizers"),
    ):
        with pytest.raises(ImportError, match=rf"needs the package {package}: pip install 'thinwire\[weights\]'"):
            call()


# ---- GGUF

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def llama_cpp(name: str, tensor: Tensor, model: ModelConfig) -> tuple[str, np.ndarray[Any, Any]]:
    """A tensor as llama.cpp's converter writes it: its name, and rows of queries and keys interleaved by halves."""
    stem, kind = name.rsplit(".", 1)
    for projection, heads in (("q_proj", model.attention.heads), ("k_proj", model.attention.kv_heads)):
        if stem.endswith(projection):  # as LlamaModel.permute in convert_hf_to_gguf.py says it
            size = tensor.shape[0] // heads // 2
            tensor = tensor.reshape(heads, 2, size, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    if stem.startswith("model.layers."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}", tensor.contiguous().numpy()
    return f"{GGUF_NAMES[stem]}.{kind}", tensor.contiguous().numpy()


def write_gguf(
    path: Path,
    model: ModelConfig,
    tensors: dict[str, Tensor],
    architecture: str = "llama",
    quantised: Any = None,
    metadata: dict[str, Any] | None = None,
) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(model.num_layers)
    writer.add_context_length(model.max_positions)
    writer.add_embedding_length(model.hidden_size)
    mixer, feed = model.attention, model.layers[0].feed
    assert isinstance(feed, FeedForward) and mixer.rope is not None
    writer.add_feed_forward_length(feed.width)
    writer.add_head_count(mixer.heads)
    writer.add_head_count_kv(mixer.kv_heads)
    writer.add_key_length(mixer.head_dim)
    writer.add_layer_norm_rms_eps(model.norm_eps)
    writer.add_rope_freq_base(mixer.rope.theta)
    if mixer.window:
        writer.add_sliding_window(mixer.window)
    for key, value in (metadata or {}).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_string(key, value)
    for name, tensor in tensors.items():
        theirs, values = llama_cpp(name, tensor, model)
        if quantised is not None and values.ndim == 2:
            writer.add_tensor(theirs, gguf.quantize(values, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(theirs, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("family", ["llama", "llama-linear", "llama-biases", "mistral"])
def test_gguf_gives_the_tensors_of_the_hugging_face_folder(tmp_path: Path, family: str) -> None:
    changes: dict[str, Any] = {"rope_parameters": None} if family == "llama-biases" else {}
    model = tiny.config(family, **changes)
    tensors = tiny.weights(model)
    scaling: dict[str, Any] = {}
    rope = model.attention.rope
    assert rope is not None
    if rope.scaling is not None:
        scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": rope.scaling.factor}
    found = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", model, tensors, metadata=scaling))
    assert same(found, tensors)
    assert replace(found.config, name=model.name, source=model.source) == model
    assert (found.config.name, found.config.source) == ("tiny", "metadata of tiny.gguf")
    halves = open_checkpoint(tmp_path / "tiny.gguf", torch.bfloat16)
    assert same(halves, {name: tensor.bfloat16() for name, tensor in tensors.items()})


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16", "BF16"])
def test_gguf_blocks(tmp_path: Path, kind: str) -> None:
    """Dequantised by the package; rows are put back after that, so the error is that of the format."""
    model = tiny.config("llama", hidden_size=64, intermediate_size=96, num_attention_heads=4, head_dim=16)
    tensors = tiny.weights(model)
    quantised = gguf.GGMLQuantizationType[kind]
    found = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", model, tensors, quantised=quantised))
    # Half a step of the widest block: Q8_0 max|x| / 127, Q4_1 range / 15; the scale is fp16, itself 2^-11 off.
    step = {"Q8_0": 1 / 127, "Q4_1": 2 / 15, "F16": 2**-10, "BF16": 2**-7}[kind]
    for name, tensor in tensors.items():
        assert found[name].dtype == torch.float32 and found[name].shape == tensor.shape
        assert float((found[name] - tensor).abs().max()) <= 0.51 * step * float(tensor.abs().max()) * (
            tensor.dim() == 2
        )


def test_gguf_files_that_are_refused(tmp_path: Path) -> None:
    model = tiny.config("llama")
    tensors = tiny.weights(model)

    def refused(match: str, given: dict[str, Tensor] = tensors, **options: Any) -> None:
        with pytest.raises(ValueError, match=match):
            open_checkpoint(write_gguf(tmp_path / "tiny.gguf", model, given, **options))

    refused("architecture 'qwen2' is not supported; allowed: llama", architecture="qwen2")
    refused("scales its rotary positions \\(yarn\\)", metadata={"llama.rope.scaling.type": "yarn"})
    refused("mixture of experts", metadata={"llama.expert_count": 8})
    refused("lacks model.norm.weight", {k: v for k, v in tensors.items() if k != "model.norm.weight"})
    refused(
        r"k_proj.weight \[48, 36\] instead of \[16, 36\]",
        tensors | {"model.layers.0.self_attn.k_proj.weight": torch.zeros(48, 36)},
    )
    refused("lacks model.embed_tokens|vocab_size", {k: v for k, v in tensors.items() if "embed" not in k})
    (tmp_path / "bad.gguf").write_bytes(b"GGUFnothing")
    with pytest.raises(ValueError, match=r"bad.gguf cannot be read as GGUF"):
        open_checkpoint(tmp_path / "bad.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"")
    with pytest.raises(ValueError, match=r"bad.gguf cannot be read as GGUF"):
        open_checkpoint(tmp_path / "bad.gguf")
    whole = write_gguf(tmp_path / "tiny.gguf", model, tensors).read_bytes()
    for length in (20, 200, 700, len(whole) - 5000):
        (tmp_path / "bad.gguf").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"bad.gguf"):
            open_checkpoint(tmp_path / "bad.gguf")


@pytest.mark.parametrize(
    ("key", "neutral", "other"),
    [
        ("rope.dimension_count", 8, 4),
        ("rope.scale_linear", 1.0, 4.0),
        ("logit_scale", 1.0, 2.0),
        ("embedding_scale", 0.0, 12.0),
        ("residual_scale", 1.0, 0.22),
        ("attention.scale", 8**-0.5, 0.25),
    ],
)
def test_gguf_arithmetic_of_other_models_is_refused(tmp_path: Path, key: str, neutral: Any, other: Any) -> None:
    """Granite's scales, a rotation of half a head: read past, they would give another model's numbers."""
    model = tiny.config("llama")
    same = {f"llama.{key}": neutral}
    open_checkpoint(write_gguf(tmp_path / "tiny.gguf", model, tiny.weights(model), metadata=same))
    for given in (other, "x"):
        path = write_gguf(tmp_path / "tiny.gguf", model, tiny.weights(model), metadata={f"llama.{key}": given})
        with pytest.raises(ValueError, match=rf"tiny\.gguf: llama\.{key} is not supported unless it is [\d.]+: "):
            open_checkpoint(path)


def test_gguf_types_that_the_package_cannot_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.config("llama")
    found = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", model, tiny.weights(model)))

    def cannot(*_: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(gguf, "dequantize", cannot)
    with pytest.raises(ValueError, match=r"tiny\.gguf: token_embd\.weight is F32, which the package gguf cannot"):
        found["model.embed_tokens.weight"]


# ---- text


@pytest.fixture(scope="module")
def bpe() -> tuple[list[str], list[str]]:
    """A byte-level vocabulary and merges, learnt from a few lines by the package."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator([Path(__file__).read_text(), "2024 " * 50], trainer)
    written = json.loads(inner.to_str())["model"]
    tokens = sorted(written["vocab"], key=written["vocab"].__getitem__)
    return tokens, [" ".join(pair) for pair in written["merges"]]


TEXT = "def test(x): return 3.14159  # ça va? 日本\t\tx  y\n\n<|start|>user 2024<|end|>"


def test_tokenizer_of_a_gguf_file(tmp_path: Path, bpe: tuple[list[str], list[str]]) -> None:
    """Bytes come back whole, digits stand alone, control tokens are one id; the folder's tokenizer says the same."""
    tokens, merges = bpe
    model = tiny.config("llama")
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3] + [1] * (len(tokens) - 2),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": 0,
    }
    path = write_gguf(tmp_path / "tiny.gguf", model, tiny.weights(model), metadata=metadata)
    ours = open_tokenizer(path)
    ids = ours.encode(TEXT)
    assert ours.decode(ids, control=True) == TEXT and ours.end == 0
    assert ours.decode(ids) == TEXT.replace("<|start|>", "").replace("<|end|>", "")
    assert ids.count(0) == 1 and ids.count(1) == 1
    assert len(ids) < len(TEXT.encode())
    assert [ours.decode([i]) for i in ours.encode("2024")] == ["2", "0", "2", "4"]

    oracle = tokenizers.Tokenizer(
        tokenizers.models.BPE(dict(zip(tokens, range(len(tokens)), strict=True)), [tuple(m.split(" ")) for m in merges])
    )
    oracle.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Digits(True), tokenizers.pre_tokenizers.ByteLevel(False)]
    )
    oracle.decoder = tokenizers.decoders.ByteLevel()
    oracle.add_special_tokens(tokens[:2])
    oracle.post_processor = tokenizers.processors.TemplateProcessing("<|start|> $A", None, [("<|start|>", 1)])
    oracle.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"eos_token_id": [0, 5]}')
    theirs = open_tokenizer(tmp_path)
    assert theirs.encode(TEXT) == ids and theirs.end == 0 and theirs.decode(ids) == ours.decode(ids)

    plain = write_gguf(tmp_path / "p.gguf", model, {}, metadata=metadata | {"tokenizer.ggml.pre": "gpt-2"})
    assert len(open_tokenizer(plain).encode("2024")) < 4
    other = write_gguf(tmp_path / "o.gguf", model, {}, metadata=metadata | {"tokenizer.ggml.pre": "llama-bpe"})
    with pytest.raises(ValueError, match="'gpt2' with pre-tokenizer 'llama-bpe' is not supported; allowed"):
        open_tokenizer(other)
    with pytest.raises(ValueError, match=r"no metadata 'tokenizer.ggml.model'"):
        open_tokenizer(write_gguf(tmp_path / "n.gguf", model, {}))


def test_folders_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json"):
        open_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot be read as a tokenizer"):
        open_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="no tokenizer at"):
        open_tokenizer(tmp_path / "absent.gguf")
