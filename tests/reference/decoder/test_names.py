"""What checkpoints call their tensors: each naming written out by hand, and found again."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.decoder.model import Decoder
from thinwire.reference.decoder.names import norm_names, renamed, tensor_shapes
from thinwire.reference.decoder.weights import open_checkpoint, random_weights
from thinwire.reference.families.config import parse_config
from thinwire.reference.groups.group import LocalGroup

from .. import oracles, tiny

torch.set_num_threads(1)
Tensors = dict[str, Tensor]
_PLAIN = {key: value for key, value in oracles.raw("llama").items() if key != "model_type"}


def config(kind: str, **changes: Any) -> ModelConfig:
    return parse_config({**_PLAIN, "model_type": kind, **changes}, f"tiny-{kind}")


def moved(ours: Tensors, *moves: tuple[str, str]) -> Tensors:
    """Other names, by regular expressions of which the first that fits is taken."""

    def name(old: str) -> str:
        for pattern, new in moves:
            if re.search(pattern, old):
                return re.sub(pattern, new, old)
        return old

    return {name(old): tensor for old, tensor in ours.items()}


def fused(ours: Tensors, layers: int, names: tuple[str, ...], to: str, how: Callable[..., Tensor]) -> Tensors:
    """Some tensors of each layer as one."""
    found = dict(ours)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        found[prefix + to] = how(*(found.pop(prefix + name) for name in names))
    return found


def one_by_one(ours: Tensors, pattern: str, names: dict[str, str]) -> Tensors:
    """A mixture's stacks as each expert's own matrices."""
    found = dict(ours)
    for old in ours:
        if match := re.search(r"mlp\.experts\.(\w+)\.weight$", old):
            for number, matrix in enumerate(found.pop(old)):
                inner = pattern.format(e=number, part=names[match[1]])
                found[old[: match.start()] + inner] = matrix.clone()
    return found


QKV = tuple(f"self_attn.{part}_proj.weight" for part in "qkv")
BIASES = tuple(name.replace("weight", "bias") for name in QKV)
GATE_UP = ("mlp.gate_proj.weight", "mlp.up_proj.weight")
PARTS = {f"{part}_proj": f"{part}_proj" for part in ("gate", "up", "down")}


def internlm2(ours: Tensors) -> Tensors:
    """Two query heads, their key and their value, and again: heads of 16."""
    grouped = lambda q, k, v: torch.cat([q[:32], k[:16], v[:16], q[32:], k[16:], v[16:]])  # noqa: E731
    ours = fused(ours, 2, BIASES, "attention.wqkv.bias", grouped)
    return moved(
        fused(ours, 2, QKV, "attention.wqkv.weight", grouped),
        ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.up_proj", "feed_forward.w3"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("embed_tokens", "tok_embeddings"),
        ("lm_head", "output"),
    )


def chatglm(ours: Tensors) -> Tensors:
    cat: Callable[..., Tensor] = lambda *parts: torch.cat(parts)  # noqa: E731
    ours = fused(ours, 2, QKV, "self_attention.query_key_value.weight", cat)
    ours = fused(ours, 2, BIASES, "self_attention.query_key_value.bias", cat)
    return moved(
        fused(ours, 2, GATE_UP, "mlp.dense_h_to_4h.weight", cat),
        (r"model\.layers\.(\d+)\.self_attn\.o_proj", r"transformer.encoder.layers.\1.self_attention.dense"),
        (r"model\.layers\.(\d+)\.mlp\.down_proj", r"transformer.encoder.layers.\1.mlp.dense_4h_to_h"),
        (r"model\.layers", "transformer.encoder.layers"),
        (r"model\.norm", "transformer.encoder.final_layernorm"),
        (r"model\.embed_tokens", "transformer.embedding.word_embeddings"),
        ("lm_head", "transformer.output_layer"),
    ) | {"transformer.rotary_pos_emb.inv_freq": torch.zeros(4)}


def mixtral(ours: Tensors) -> Tensors:
    names = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
    return moved(
        one_by_one(ours, "block_sparse_moe.experts.{e}.{part}.weight", names), ("mlp.router", "block_sparse_moe.gate")
    )


def minimax(ours: Tensors) -> Tensors:
    return moved(mixtral(ours), (r"block_sparse_moe\.gate\.correction", "block_sparse_moe.e_score_correction_bias"))


def deepseek(ours: Tensors) -> Tensors:
    """With a further layer that predicts a second token."""
    found = moved(
        one_by_one(ours, "mlp.experts.{e}.{part}.weight", PARTS),
        (r"mlp\.router\.correction", "mlp.gate.e_score_correction_bias"),
        ("mlp.router", "mlp.gate"),
        (r"mlp\.shared\.", "mlp.shared_experts."),
    )
    return found | {
        "model.layers.2.eh_proj.weight": torch.zeros(3),
        "model.layers.2.input_layernorm.weight": torch.zeros(3),
    }


def granite(ours: Tensors) -> Tensors:
    stacks = tuple(f"mlp.experts.{part}_proj.weight" for part in ("gate", "up"))
    both: Callable[..., Tensor] = lambda gate, up: torch.cat([gate, up], dim=1)  # noqa: E731
    shared = tuple(f"mlp.shared.{part}_proj.weight" for part in ("gate", "up"))
    ours = fused(ours, 2, stacks, "block_sparse_moe.input_linear.weight", both)
    return moved(
        fused(ours, 2, shared, "shared_mlp.input_linear.weight", lambda gate, up: torch.cat([gate, up])),
        (r"mlp\.experts\.down_proj", "block_sparse_moe.output_linear"),
        (r"mlp\.shared\.down_proj", "shared_mlp.output_linear"),
        (r"mlp\.router", "block_sparse_moe.router.layer"),
    )


def sees(ours: Tensors) -> Tensors:
    """A text decoder beside a tower that sees."""
    found = moved(ours, (r"^model\.", "model.language_model."))
    return found | {
        "model.visual.blocks.0.attn.qkv.weight": torch.zeros(3),
        "model.visual.merger.norm.weight": torch.zeros(3),
    }


def mistral3(ours: Tensors) -> Tensors:
    found = moved(ours, (r"^model\.", "language_model.model."), ("lm_head", "language_model.lm_head"))
    return found | {
        "vision_tower.patch_conv.weight": torch.zeros(3),
        "multi_modal_projector.linear_1.weight": torch.zeros(3),
    }


CHATGLM = {
    "architectures": ["ChatGLMModel"],
    "num_layers": 2,
    "kv_channels": 16,
    "ffn_hidden_size": 96,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "padded_vocab_size": 97,
    "seq_length": 128,
    "add_qkv_bias": True,
    "tie_word_embeddings": False,
}
NAMINGS: dict[str, tuple[ModelConfig, Callable[[Tensors], Tensors]]] = {
    "internlm2": (config("internlm2"), internlm2),
    "chatglm": (config("chatglm", **CHATGLM), chatglm),
    "mixtral": (oracles.config("mixtral"), mixtral),
    "minimax": (oracles.config("minimax_m2"), minimax),
    "deepseek": (oracles.config("deepseek_v3"), deepseek),
    "granite": (oracles.config("granitemoeshared"), granite),
    "a model that sees": (oracles.config("qwen3"), sees),
    "mistral3": (oracles.config("ministral3"), mistral3),
}


@pytest.mark.parametrize("name", NAMINGS)
def test_each_naming_is_found_again(name: str) -> None:
    """Every tensor, bit for bit, and not one that is none of the model's."""
    model, theirs = NAMINGS[name]
    ours = random_weights(model, 3)
    written = theirs(ours)
    assert set(written) != set(ours)
    found = renamed(model, written)
    assert list(found) == list(ours)
    for key, tensor in ours.items():
        assert torch.equal(found[key], tensor), key
        assert found.shape(key, {other: tuple(x.shape) for other, x in written.items()}) == tuple(tensor.shape), key


def test_families_that_transformers_has_not_are_others_by_name() -> None:
    """What holds their arithmetic: InternLM 2 is a Llama, glm-4-9b-chat of ChatGLM's kind the GLM that it became."""
    for ours, theirs in (
        (config("internlm2", bias=False), oracles.config("llama")),
        (config("chatglm", **CHATGLM), oracles.config("glm")),
    ):
        assert (ours.layers, ours.norm, ours.tied_embeddings) == (theirs.layers, theirs.norm, theirs.tied_embeddings)
        scales = [(model.embedding_scale, model.residual_scale, model.logit_scale) for model in (ours, theirs)]
        assert scales == [(1, 1, 1)] * 2


def test_what_lacks_or_is_strange_is_named() -> None:
    model = oracles.config("mixtral")
    written = mixtral(random_weights(model, 3))
    one = "model.layers.1.block_sparse_moe.experts.5.w1.weight"
    with pytest.raises(ValueError, match=r"tiny-mixtral lack model\.layers\.1\.mlp\.experts\.gate_proj\.weight"):
        renamed(model, {name: tensor for name, tensor in written.items() if name != one})
    with pytest.raises(ValueError, match=r"hold what is none of its own: model\.layers\.0\.mlp\.lora"):
        renamed(model, written | {"model.layers.0.mlp.lora": torch.zeros(1)})


def test_a_folder_of_experts_one_by_one(tmp_path: Path) -> None:
    """A checkpoint as Mixtral's lies on Hugging Face: read, and what is wrong with a fused tensor said by our name."""
    model = oracles.config("mixtral")
    ours = random_weights(model, 3)
    (tmp_path / "config.json").write_text(json.dumps(oracles.raw("mixtral")))
    safetensors.torch.save_file(mixtral(ours), tmp_path / "model.safetensors")
    found = open_checkpoint(tmp_path, torch.float64)
    assert all(torch.equal(found[name], tensor.double()) for name, tensor in ours.items())
    ids_BT = oracles.ids(2, 9, 1)
    with torch.no_grad():
        got, wanted = (Decoder(model, weights, LocalGroup(2), ep=2).forward(ids_BT) for weights in (found, ours))
    assert torch.equal(got, wanted)
    qwen = oracles.config("phi3")
    cat: Callable[..., Tensor] = lambda *parts: torch.cat([*parts, torch.zeros(1, 64)])  # noqa: E731
    wrong = fused(random_weights(qwen, 3), 2, QKV, "self_attn.qkv_proj.weight", cat)
    (tmp_path / "config.json").write_text(json.dumps(oracles.raw("phi3")))
    safetensors.torch.save_file(wrong, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"layers\.0\.self_attn\.q_proj\.weight \[129, 64\] instead of \[64, 64\]"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_our_names_are_their_own(family: str) -> None:
    """Of Llama's and Gemma 2's kind nothing is called otherwise."""
    model = tiny.config(family)
    weights = tiny.weights(model)
    assert all(renamed(model, weights)[name] is tensor for name, tensor in weights.items())


def test_blocks_may_lack_a_half_and_differ_in_size() -> None:
    """DeciLM: a block without attention is one whose attention adds nothing, and so for its MLP; one sync point."""
    half: dict[str, Any] = {"no_op": True}
    blocks = [
        {"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 2.0}},
        {"attention": half, "ffn": {"ffn_mult": 6.0}},
        {"attention": {"n_heads_in_group": 4}, "ffn": half},
        {"attention": {"n_heads_in_group": 1}, "ffn": {"ffn_mult": 2.0}},
    ]
    model = config("nemotron-nas", block_configs=blocks, num_hidden_layers=4)
    assert [len(layer.sites) for layer in model.layers] == [2, 1, 1, 2]
    assert [norm_names(layer) for layer in model.layers[1:3]] == [("post_attention_layernorm",), ("input_layernorm",)]
    weights = random_weights(model, 3, torch.float64)
    full_blocks = [{**block, **{k: v for k, v in blocks[0].items() if block[k] is half}} for block in blocks]
    full = config("nemotron-nas", block_configs=full_blocks, num_hidden_layers=4)
    more = random_weights(full, 4, torch.float64) | weights
    more["model.layers.1.self_attn.o_proj.weight"].zero_()
    more["model.layers.2.mlp.down_proj.weight"].zero_()
    assert set(tensor_shapes(full)) > set(tensor_shapes(model))
    ids_BT = oracles.ids(2, 9, 1)
    with torch.no_grad():
        wanted = Decoder(full, more, LocalGroup(1)).forward(ids_BT)
        for ranks in (1, 4):
            got = Decoder(model, weights, LocalGroup(ranks)).forward(ids_BT)
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)
