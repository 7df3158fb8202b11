"""What checkpoints say of precision; excerpts of published files as literals, beside where they are from."""

from collections.abc import Mapping
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.core.precision import (
    BITS,
    KV_BITS,
    METHODS,
    PARTS,
    PLAIN,
    Checkpoint,
    Kv,
    Part,
    Precision,
    Weights,
    checkpoint_of,
    kv_of,
    precision_of,
)

Config = Mapping[str, Any]
FP8_BLOCKS = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}


def each(layers: int, *names: str) -> list[str]:
    return [f"model.layers.{layer}.{name}" for layer in range(layers) for name in names]


def tensors(kind: str, bits: int, active: int | None, **more: Any) -> Config:
    activations = None if active is None else {"type": kind, "num_bits": active}
    return {
        "targets": ["Linear"],
        "weights": {"type": kind, "num_bits": bits, **more},
        "input_activations": activations,
    }


def compressed(group: Config, **more: Any) -> Config:
    return {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, **more}}


def read(config: Config, hf_quant: Config | None = None) -> tuple[tuple[Precision, ...], str | None]:
    found = checkpoint_of(config, hf_quant, "a model")
    return tuple(found.of(part) for part in PARTS), found.kv


# attention, feed_forward, experts, shared_experts; and the cache
PUBLISHED: Mapping[str, tuple[Config, Config | None, tuple[str, ...], str | None]] = {
    "Qwen/Qwen3-32B": ({"num_hidden_layers": 64}, None, ("bf16",) * 4, None),
    "Qwen/Qwen3-32B-FP8, deepseek-ai/DeepSeek-V3": (
        {"num_hidden_layers": 61, "first_k_dense_replace": 3, "quantization_config": FP8_BLOCKS},
        None, ("fp8-block",) * 4, None,
    ),
    "Qwen/Qwen3-235B-A22B-FP8: norms and routers are no part": (
        {"num_hidden_layers": 4, "quantization_config": FP8_BLOCKS | {"modules_to_not_convert": [
            "lm_head", *each(4, "input_layernorm", "mlp.gate", "post_attention_layernorm")]}},
        None, ("fp8-block",) * 4, None,
    ),
    "mistralai/Devstral-2-123B": (
        {"quantization_config": {"activation_scheme": "static", "quant_method": "fp8",
                                 "modules_to_not_convert": ["lm_head"], "weight_block_size": None}},
        None, ("fp8",) * 4, None,
    ),
    "openai/gpt-oss-20b": (
        {"num_hidden_layers": 24, "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}},
        None, ("bf16", "bf16", "mxfp4", "bf16"), None,
    ),
    "nvidia/Llama-3.1-70B-Instruct-FP8": (
        {"num_hidden_layers": 80},
        {"producer": {"name": "modelopt"}, "quantization": {
            "quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}},
        ("fp8",) * 4, "fp8",
    ),
    "Qwen3-32B-FP8-Static-PerTensor: no method named": (
        {"quantization_config": {"config_groups": {"group_0": tensors("float", 8, 8)}, "ignore": ["lm_head"],
                                 "quant_algo": "FP8", "kv_cache_scheme": "FP8", "producer": {"name": "modelopt"}}},
        None, ("fp8",) * 4, "fp8",
    ),
    "moonshotai/Kimi-K2.5, in text_config": (
        {"text_config": {"num_hidden_layers": 61, "first_k_dense_replace": 1, "quantization_config": {
            "config_groups": {"group_0": tensors("int", 4, None, group_size=32)}, "format": "pack-quantized",
            "quant_method": "compressed-tensors", "kv_cache_scheme": None,
            "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*",
                       "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"]}}},
        None, ("bf16", "bf16", "int4", "bf16"), None,
    ),
    "Llama 4 Scout fp8-dynamic: vision and attention stay": (
        dict(compressed(tensors("float", 8, 8, strategy="channel"), ignore=[
            *(f"vision_model.model.layers.{i}.mlp.fc1" for i in range(3)),
            *(f"language_model.{name}" for name in each(
                4, "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                "feed_forward.router"))])) | {"text_config": {"num_hidden_layers": 4}},
        None, ("bf16", "fp8", "fp8", "fp8"), None,
    ),
    "nvidia/DeepSeek-V3.1-NVFP4: of attention the output alone": (
        {"num_hidden_layers": 6, "first_k_dense_replace": 3},
        {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head", *each(
            6, "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj", "self_attn.q_a_proj", "self_attn.q_b_proj")]}},
        ("bf16", "nvfp4", "nvfp4", "nvfp4"), "fp8",
    ),
    "nvidia/GLM-5.1-NVFP4: the dense layers whole": (
        {"num_hidden_layers": 12, "first_k_dense_replace": 3},
        {"quantization": {"quant_algo": "NVFP4", "exclude_modules": [
            "model.layers.0*", "model.layers.1.*", "model.layers.2.*",
            *each(12, "mlp.shared_experts*", "self_attn*")]}},
        ("bf16", "bf16", "nvfp4", "bf16"), None,
    ),
    "nvidia/Gemma-4-26B-A4B-NVFP4: experts beside an MLP that stays": (
        {"text_config": {"num_hidden_layers": 30}},
        {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["model.vision_tower*", *(
            f"model.language_model.layers.{i}.{name}*"
            for i in range(30) for name in ("mlp", "router", "self_attn"))]}},
        ("bf16", "bf16", "nvfp4", "bf16"), None,
    ),
    "nvidia/Qwen3.5-122B-A10B-NVFP4: mtp is no layer": (
        {"text_config": {"num_hidden_layers": 4}},
        {"quantization": {"quant_algo": "NVFP4", "exclude_modules": [
            "mtp.layers.0*", "mtp*", "model.visual*", "model.language_model.layers.3.self_attn*",
            *(f"model.language_model.layers.{i}.linear_attn*" for i in range(3)),
            *(f"model.language_model.layers.{i}.mlp.shared_expert*" for i in range(4))]}},
        ("bf16", "nvfp4", "nvfp4", "bf16"), None,
    ),
    "nvidia/Qwen3.6-27B-NVFP4: mixed, listed one by one": (
        {"text_config": {"num_hidden_layers": 4}},
        {"quantization": {"quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": "FP8", "quantized_layers": {
            **{f"model.language_model.layers.{i}.linear_attn.{p}": {"quant_algo": "FP8"}
               for i in range(3) for p in ("in_proj_qkv", "in_proj_z", "out_proj")},
            **{f"model.language_model.layers.3.self_attn.{p}_proj": {"quant_algo": "FP8"} for p in "qkvo"},
            **{f"model.language_model.layers.{i}.mlp.{p}_proj": {"quant_algo": "W4A16_NVFP4"}
               for i in range(4) for p in ("gate", "up", "down")}}}},
        ("fp8", "int4", "bf16", "bf16"), "fp8",
    ),
    "nvidia/DeepSeek-V4-Flash-NVFP4: experts of a checkpoint in fp8": (
        {"num_hidden_layers": 3, "quantization_config": {
            "quant_method": "fp8", "quant_algo": "MIXED_PRECISION", "moe_quant_algo": "NVFP4",
            "ignore": ["*.attn.*", "*.ffn.shared_experts.*", "head", "mtp.*"],
            "quantized_layers": {f"layers.{i}.ffn.experts": {"quant_algo": "NVFP4"} for i in range(3)}}},
        None, ("fp8", "fp8", "nvfp4", "fp8"), None,
    ),
    "AWQ": ({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}},
            None, ("int4",) * 4, None),
    "GPTQModel, its dynamic rules": (
        {"num_hidden_layers": 2, "quantization_config": {
            "quant_method": "gptq", "bits": 4, "dynamic": {r"-:.*attn.*": {}}}},
        None, ("bf16", "int4", "int4", "int4"), None,
    ),
    "int-quantized w8a8": (compressed(tensors("int", 8, 8)), None, ("int8",) * 4, None),
    "nvfp4-pack-quantized": (compressed(tensors("float", 4, 4, group_size=16)), None, ("nvfp4",) * 4, None),
    "compressed_tensors' blocks, the older key": (
        {"compression_config": dict(compressed(
            tensors("float", 8, 8, strategy="block", block_structure=[128, 128]),
            kv_cache_scheme={"num_bits": 8, "type": "float"}))["quantization_config"]},
        None, ("fp8-block",) * 4, "fp8",
    ),
    "fbgemm_fp8": (
        {"num_hidden_layers": 2, "quantization_config": {
            "quant_method": "fbgemm_fp8", "modules_to_not_convert": each(2, "self_attn"), "activation_scale_ub": 1200}},
        None, ("bf16", "fp8", "fp8", "fp8"), None,
    ),
    "quark": (
        {"quantization_config": {"quant_method": "quark", "exclude": ["lm_head"], "global_quant_config": {
            "weight": {"dtype": "fp8_e4m3"}, "input_tensors": {"dtype": "fp8_e4m3"}},
            "kv_cache_quant_config": {"*k_proj": {"dtype": "fp8_e4m3"}}}},
        None, ("fp8",) * 4, "fp8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_checkpoints(case: str) -> None:
    config, hf_quant, weights, kv = PUBLISHED[case]
    assert read(config, hf_quant) == (weights, kv)


def test_what_is_simplified_is_said() -> None:
    config, hf_quant, *_ = PUBLISHED["nvidia/DeepSeek-V3.1-NVFP4: of attention the output alone"]
    (note,) = checkpoint_of(config, hf_quant, "a model").notes
    assert note.startswith("80% of the attention modules are bf16, the others nvfp4")
    mixed = checkpoint_of(*PUBLISHED["nvidia/Qwen3.6-27B-NVFP4: mixed, listed one by one"][:2], "a model")
    assert mixed.notes == ("nvfp4 weights times bf16 activations are priced as int4, whose weights are 8 % smaller",)
    for config, hf_quant, *_ in (PUBLISHED["AWQ"], PUBLISHED["quark"]):
        assert not checkpoint_of(config, hf_quant, "a model").notes


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"quant_method": "aqlm"}, "quant_method 'aqlm' is unknown; known are fp8, fbgemm-fp8, awq, gptq,"),
        ({}, "quant_method '' is unknown"),
        ({"quant_method": "gptq", "bits": 8}, "gptq of 8 bits a weight is not priced; gptq of 4 is"),
        ({"quant_method": "awq", "bits": None}, "awq of None bits"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, r"weight_block_size \[64, 64\] is unknown"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes unpacks .* int4 is the nearest"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8 is the nearest"),
        ({"quant_algo": "FP3"}, "quant_algo 'FP3' is unknown; known are FP8,"),
        ({"quant_method": "compressed-tensors"}, "without config_groups: None"),
        (compressed(tensors("int", 8, None))["quantization_config"], "'int' with 8 bits and activations with None"),
        (compressed(tensors("int", 4, 8))["quantization_config"], "'int' with 4 bits and activations with 8"),
        (compressed(tensors("int", 8, 8), ignore=["re:("])["quantization_config"], "no pattern of modules: 're:\\('"),
        (
            {"quant_algo": "FP8", "exclude_modules": 5},
            "exclude_modules must be a list of modules' names; given 5; --weig",
        ),
        ({"quant_algo": "FP8", "ignore": ["lm_head", 5]}, r"ignore must be a list of .* given \['lm_head', 5\]"),
        (
            {"quant_algo": "FP8", "kv_cache_quant_algo": [1]},
            r"kv_cache_quant_algo must be a text or a table; given \[1",
        ),
        ({"quant_method": "fp8", "ignored_layers": 5}, "ignored_layers must be a list of modules' names; given 5"),
        ({"quant_method": "fp8", "modules_to_not_convert": "lm_head"}, "modules_to_not_convert must be a list of"),
        ({"quant_method": "fp8", "quantized_layers": [1]}, r"quantized_layers must be a table by module; given \[1\]"),
        ({"quant_algo": "FP8", "quantized_layers": [1]}, "quantized_layers must be a table by module"),
        ({"quant_method": "awq", "bits": 4, "modules_to_not_convert": {"a": 1}}, "given {'a': 1}"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": ["-:a"]}, "dynamic must be a table by module"),
        ({"quant_method": "fbgemm_fp8", "modules_to_not_convert": True}, "a list of modules' names; given True"),
        (compressed(tensors("int", 8, 8) | {"targets": 5})["quantization_config"], "targets must be a list of"),
        (
            {"quant_method": "quark", "exclude": 5, "global_quant_config": {"weight": {"dtype": "int4"}}},
            "exclude must be a list of modules' names; given 5",
        ),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "bf6"}}}, "quark's weights of 'bf6'"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(said: Config, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        checkpoint_of({"num_hidden_layers": 2, "quantization_config": said}, None, "a model")
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("nothing", [None, [], "", {}, False])
def test_lists_that_name_nothing_leave_nothing_out(nothing: object) -> None:
    keys = ("exclude_modules", "ignore", "ignored_layers", "modules_to_not_convert", "quantized_layers")
    said = dict.fromkeys((*keys, "kv_cache_scheme", "kv_cache_quant_algo"), nothing)
    for method in ({"quant_method": "fp8"}, {"quant_algo": "FP8"}):
        assert read({"quantization_config": {**method, **said}}) == (("fp8",) * 4, None)


def test_bits_count_scales() -> None:
    """A 128 x 128 block has one fp32 scale, 128 int4 weights an fp16 scale and a 4-bit zero, and so on."""
    assert set(BITS) == set(get_args(Precision))
    assert BITS["fp8-block"] * 128 * 128 == 8 * 128 * 128 + 32
    assert BITS["int4"] * 128 == 4 * 128 + 16 + 4
    assert (BITS["nvfp4"], BITS["mxfp4"], BITS["bf16"], BITS["fp8"], BITS["int8"]) == (4.5, 4.25, 16, 8, 8)
    assert set(get_args(Weights)) - set(get_args(Precision)) == {"auto"} == set(get_args(Kv)) - set(KV_BITS)


def test_what_is_asked_goes_before_the_checkpoint() -> None:
    found = Checkpoint(
        (("attention", "bf16"), ("feed_forward", "fp8"), ("experts", "nvfp4"), ("shared_experts", "fp8"))
    )
    assert [precision_of(found, "auto", part) for part in PARTS] == ["bf16", "fp8", "nvfp4", "fp8"]
    assert {precision_of(found, "int4", part) for part in PARTS} == {"int4"}
    assert found.precisions == ("bf16", "fp8", "nvfp4") and PLAIN.precisions == ("bf16",)
    assert [kv_of(checkpoint, kv) for checkpoint in (PLAIN, Checkpoint(kv="fp8")) for kv in get_args(Kv)] == [
        "bf16", "bf16", "fp8", "int8", "fp8", "bf16", "fp8", "int8",
    ]  # fmt: skip


CONTAINERS: Mapping[Part, str] = {
    "attention": "self_attn", "feed_forward": "mlp", "experts": "mlp.experts", "shared_experts": "mlp.shared_experts",
}  # fmt: skip
WRITTEN = (
    lambda layers, module: each(layers, module),
    lambda layers, module: each(layers, f"{module}*"),
    lambda layers, module: [f"re:.*layers\\.\\d+\\.{module.replace('.', chr(92) + '.')}(\\..*)?$"],
    lambda layers, module: [f"model.layers.*.{module}.*"],
)


@given(
    layers=st.integers(1, 12),
    kept=st.sets(st.sampled_from(sorted({"attention", "experts", "shared_experts"}))),
    how=st.sampled_from(WRITTEN),
)
def test_modules_named_in_any_way_stay(layers: int, kept: set[Part], how: Any) -> None:
    """As names, as globs with and without layers, as patterns."""
    named = [name for part in kept for name in how(layers, CONTAINERS[part])]
    config = {"num_hidden_layers": layers, "quantization_config": FP8_BLOCKS | {"modules_to_not_convert": named}}
    found = checkpoint_of(config, None, "a model")
    assert {part for part in PARTS if found.of(part) == "bf16"} == kept and not found.notes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 200) | st.text(max_size=5) | st.sampled_from(["re:(", "fp8", "Linear"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([
    "bits", "weight_block_size", "modules_to_not_convert", "config_groups", "ignore", "quant_algo", "exclude",
    "quantized_layers", "kv_cache_scheme", "kv_cache_quant_algo", "dynamic", "global_quant_config", "exclude_modules",
])  # fmt: skip


@given(method=st.sampled_from([*METHODS, "", "none"]), said=st.dictionaries(KEYS, JSON, max_size=4), layers=JSON)
def test_anything_else_is_a_checkpoint_or_a_value_error(method: str, said: dict[str, Any], layers: Any) -> None:
    config = {"num_hidden_layers": layers, "quantization_config": {"quant_method": method, **said}}
    try:
        found = checkpoint_of(config, None, "a model")
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert {precision for _, precision in found.weights} <= set(BITS)
