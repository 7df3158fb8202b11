"""Model facts: published parameter counts, transformers' defaults, refusals."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from thinwire.reference.core.architecture import ModelConfig, RopeScaling
from thinwire.reference.families.config import load_model, model_names, parse_config

ROOT = Path(__file__).resolve().parents[3]
SIZES = list(csv.DictReader((ROOT / "validation" / "published" / "models.csv").open()))

PUBLISHED = {  # total size of the public checkpoints' tensors, in values
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
}


def tensor_shapes(model: ModelConfig) -> list[tuple[int, ...]]:
    """Every tensor of the checkpoint, one by one, as the architecture's state dict lists them."""
    width, query, key = (
        model.hidden_size,
        model.num_heads * model.head_dim,
        model.num_kv_heads * model.head_dim,
    )
    shapes: list[tuple[int, ...]] = [(model.vocab_size, width), (width,)]
    if not model.tied_embeddings:
        shapes.append((model.vocab_size, width))
    for _ in range(model.num_layers):
        shapes += [(query, width), (key, width), (key, width), (width, query)]
        shapes += [(model.intermediate_size, width)] * 2 + [(width, model.intermediate_size)]
        shapes += [(width,)] * (4 if model.architecture == "Gemma2ForCausalLM" else 2)
        if model.qkv_bias:
            shapes += [(query,), (key,), (key,)]
        if model.output_bias:
            shapes.append((width,))
        if model.mlp_bias:
            shapes += [(model.intermediate_size,)] * 2 + [(width,)]
    return shapes


def count(shapes: list[tuple[int, ...]]) -> int:
    total = 0
    for shape in shapes:
        size = 1
        for extent in shape:
            size *= extent
        total += size
    return total


def test_catalog_is_the_interface() -> None:
    assert sorted(model_names()) == sorted([*(row["name"] for row in SIZES), "smollm2-135m"])
    assert len(model_names()) == 10


def test_the_measured_model_is_in_the_catalog() -> None:
    """SmolLM2-135M is no row of models.csv: its sizes are those of the file that accuracy is measured on."""
    model = load_model("smollm2-135m")
    assert model.parameters == 134_515_008  # of the 272 tensors of the GGUF file
    model.check_tp(3)


@pytest.mark.parametrize("row", SIZES, ids=[row["name"] for row in SIZES])
def test_shipped_files_hold_the_published_sizes(row: dict[str, str]) -> None:
    model = load_model(row["name"])
    assert model.architecture == row["architecture"] and model.name == row["name"]
    ours = (model.hidden_size, model.num_layers, model.num_heads, model.num_kv_heads)
    assert ours == tuple(
        int(row[key]) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    )
    assert (model.head_dim, model.intermediate_size, model.vocab_size) == (
        int(row["head_dim"]),
        int(row["intermediate_size"]),
        int(row["vocab_size"]),
    )
    assert "config.json" in model.source


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name: str) -> None:
    assert load_model(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", [row["name"] for row in SIZES])
def test_parameters_are_the_sum_of_the_tensors(name: str) -> None:
    model = load_model(name)
    assert model.parameters == count(tensor_shapes(model))


def test_special_facts() -> None:
    assert load_model("qwen2.5-72b").qkv_bias and load_model("qwen2.5-72b").sliding_window is None
    nemo = load_model("mistral-nemo-12b")
    assert nemo.head_dim * nemo.num_heads == 4096 != nemo.hidden_size and nemo.sliding_window is None
    mistral = load_model("mistral-7b")
    assert {mistral.window(layer) for layer in range(32)} == {4096}
    gemma = load_model("gemma-2-27b")
    assert [gemma.window(layer) for layer in range(4)] == [4096, None, 4096, None]
    assert gemma.query_scale == pytest.approx(1 / 12, rel=1e-15)
    assert (gemma.attention_softcap, gemma.final_softcap) == (50.0, 30.0)
    assert gemma.post_norms and gemma.tied_embeddings and gemma.activation == "gelu_pytorch_tanh"
    llama = load_model("llama-3-70b")
    assert llama.query_scale == pytest.approx(128**-0.5, rel=1e-15) and llama.rope_theta == 500_000
    assert llama.attention_softcap is llama.final_softcap is llama.window(0) is None
    assert not llama.tied_embeddings and not llama.post_norms and not llama.qkv_bias
    with pytest.raises(ValueError, match="layer=80"):
        llama.window(80)


# ---- weights per GPU


@pytest.mark.parametrize("name", [row["name"] for row in SIZES])
def test_weights_of_one_gpu_are_all_parameters(name: str) -> None:
    model = load_model(name)
    assert model.weight_bytes(1, 16) == 2 * model.parameters


def test_weights_by_hand() -> None:
    model = load_model("llama-3-70b")
    attention = 8192 * 128 * (64 // 16 * 2 + 2)  # TP 16: four query heads, one replicated key-value head
    mlp = 3 * 8192 * 28672 // 16
    outside = 2 * 128256 // 16 * 8192 + 80 * 2 * 8192 + 8192
    assert model.weight_bytes(16, 16) == 2 * (80 * (attention + mlp) + outside)
    assert model.weight_bytes(16, 8) == 80 * (attention + mlp) + 2 * outside
    assert [model.kv_heads_per_gpu(tp) for tp in (1, 4, 8, 16)] == [8, 2, 1, 1]
    qwen = load_model("qwen2.5-72b")
    without_bias = parse_config({**shipped("qwen2.5-72b"), "architectures": ["LlamaForCausalLM"]}, "x")
    assert qwen.weight_bytes(8, 16) - without_bias.weight_bytes(8, 16) == 2 * 80 * (8 + 2) * 128


@pytest.mark.parametrize(
    ("name", "tp", "bits", "message"),
    [
        ("llama-3-70b", 3, 16, "attention heads of llama-3-70b: tp=3, attention heads=64"),
        ("llama-3-70b", 0, 16, "tp=0"),
        ("llama-3-70b", 8, 5, "bits=5"),
        ("llama-2-13b", 16, 16, "tp=16, attention heads=40"),
    ],
)
def test_impossible_splits_are_refused(name: str, tp: int, bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(name).weight_bytes(tp, bits)


# ---- what transformers assumes


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


@pytest.mark.parametrize(
    ("architecture", "kv_heads", "head_dim", "tied", "positions", "window"),
    [
        ("LlamaForCausalLM", 32, 128, False, 2048, None),
        ("MistralForCausalLM", 8, 128, False, 131072, 4096),
        ("Qwen2ForCausalLM", 32, 128, False, 32768, None),
        ("Gemma2ForCausalLM", 4, 256, True, 8192, 4096),
    ],
)
def test_defaults_by_architecture(
    architecture: str, kv_heads: int, head_dim: int, tied: bool, positions: int, window: int | None
) -> None:
    model = parse_config(minimal(architecture), "x")
    assert (model.num_kv_heads, model.head_dim, model.tied_embeddings) == (kv_heads, head_dim, tied)
    assert (model.max_positions, model.window(0)) == (positions, window)
    assert (model.norm_eps, model.rope_theta) == (1e-6, 10000.0)
    assert model.qkv_bias == (architecture == "Qwen2ForCausalLM")


def test_nulls_and_spellings() -> None:
    assert parse_config(minimal("MistralForCausalLM", num_key_value_heads=None), "x").num_kv_heads == 32
    assert parse_config(minimal("MistralForCausalLM", sliding_window=None), "x").sliding_window is None
    assert parse_config(minimal("LlamaForCausalLM", head_dim=None), "x").head_dim == 128
    assert parse_config(minimal("LlamaForCausalLM", head_dim=64), "x").head_dim == 64
    assert parse_config(minimal("LlamaForCausalLM", sliding_window=4096), "x").sliding_window is None
    assert parse_config(minimal("LlamaForCausalLM", rope_parameters={"rope_theta": 5e5}), "x").rope_theta == 5e5
    assert parse_config(minimal("LlamaForCausalLM", tie_word_embeddings=True), "x").tied_embeddings
    gemma = parse_config(minimal("Gemma2ForCausalLM", hidden_act="silu", final_logit_softcapping=None), "x")
    assert gemma.activation == "gelu_pytorch_tanh"
    assert (gemma.attention_softcap, gemma.final_softcap, gemma.query_scale) == (50.0, None, 1 / 16)
    by_type = minimal("LlamaForCausalLM", architectures=None, model_type="llama")
    assert parse_config(by_type, "x").architecture == "LlamaForCausalLM"


def test_llama_biases_are_counted() -> None:
    plain = parse_config(minimal("LlamaForCausalLM"), "x")
    biased = parse_config(minimal("LlamaForCausalLM", attention_bias=True, mlp_bias=True), "x")
    assert biased.qkv_bias and biased.output_bias and biased.mlp_bias
    assert biased.parameters == count(tensor_shapes(biased))
    assert biased.parameters - plain.parameters == 4 * (4 * 4096 + 2 * 11008 + 4096)
    assert not parse_config(minimal("MistralForCausalLM", attention_bias=True), "x").qkv_bias


def test_qwen_sliding_window() -> None:
    def window(**more: Any) -> int | None:
        return parse_config(minimal("Qwen2ForCausalLM", sliding_window=1024, **more), "x").sliding_window

    assert window() is None and window(use_sliding_window=False) is None
    assert window(use_sliding_window=True, max_window_layers=4) is None
    assert window(use_sliding_window=True, max_window_layers=0) == 1024
    with pytest.raises(ValueError, match="max_window_layers=2"):
        window(use_sliding_window=True, max_window_layers=2)


def test_layer_types_must_follow_the_pattern() -> None:
    sliding, full = "sliding_attention", "full_attention"
    assert parse_config(minimal("Gemma2ForCausalLM", layer_types=[sliding, full] * 2), "x").window(0) == 4096
    with pytest.raises(ValueError, match="layer_types"):
        parse_config(minimal("Gemma2ForCausalLM", layer_types=[full, sliding] * 2), "x")


# ---- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_local_experts": 8}, "mixture of experts (num_local_experts)"),
        ({"architectures": ["DeepseekV3ForCausalLM"], "n_routed_experts": 256}, "mixture of experts"),
        ({"kv_lora_rank": 512}, "latent attention (kv_lora_rank)"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised checkpoint (quantization_config)"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported"),
        ({"architectures": None}, "architecture None is not supported"),
        ({"hidden_size": 0}, "hidden_size: must be a positive finite number; given 0"),
        ({"hidden_size": "4096"}, "hidden_size: Input should be a valid integer; given '4096'"),
        ({"num_key_value_heads": 5}, "num_key_value_heads must divide num_attention_heads: 5 and 32"),
        ({"hidden_size": 4100}, "num_attention_heads must divide hidden_size"),
        ({"head_dim": 7}, "head_dim must be even, since rotary positions turn pairs: head_dim=7"),
        ({"hidden_act": "relu"}, "activation must be one of silu"),
        ({"rope_theta": -1.0}, "rope_theta"),
    ],
)
def test_refusals_name_the_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_config(minimal("LlamaForCausalLM", **change), "mine")
    assert message in str(caught.value) and "mine" in str(caught.value) and "\n" not in str(caught.value)


def test_unsupported_models_learn_what_is_supported() -> None:
    with pytest.raises(ValueError, match=r"LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Gemma2ForCausalLM"):
        parse_config({"architectures": ["MixtralForCausalLM"], "num_local_experts": 8}, "x")


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match="model x: hidden_size: missing key"):
        parse_config({"architectures": ["LlamaForCausalLM"]}, "x")


# ---- files


def test_files_folders_and_names(tmp_path: Path) -> None:
    folder = tmp_path / "my-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(minimal("LlamaForCausalLM")))
    assert load_model(str(folder)) == load_model(str(folder / "config.json"))
    assert load_model(str(folder)).name == "my-llama"
    (tmp_path / "other.json").write_text(json.dumps(minimal("LlamaForCausalLM")))
    assert load_model(str(tmp_path / "other.json")).name == "other"


def test_bad_files_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown model 'llama-3-70'; did you mean llama-3-70b"):
        load_model("llama-3-70")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json:1: not JSON"):
        load_model(str(tmp_path / "broken.json"))
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object, not list"):
        load_model(str(tmp_path / "list.json"))


def test_rope_scaling_in_every_spelling() -> None:
    """`rope_parameters` of today, `rope_scaling` with `rope_type`, and with the `type` of the oldest files."""
    llama3 = {"factor": 8.0, "low_freq_factor": 1, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    wanted = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    assert load_model("llama-3-8b").rope_scaling == wanted and load_model("llama-2-7b").rope_scaling is None
    today = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **llama3}}
    assert parse_config(minimal("LlamaForCausalLM", **today), "x").rope_scaling == wanted
    for key in ("rope_type", "type"):
        older = parse_config(minimal("LlamaForCausalLM", rope_theta=5e5, rope_scaling={key: "llama3", **llama3}), "x")
        assert (older.rope_scaling, older.rope_theta) == (wanted, 5e5)
    short = {"rope_scaling": {"type": "linear", "factor": 2}, "max_position_embeddings": 64}
    assert parse_config(minimal("LlamaForCausalLM", **short), "x").rope_scaling == RopeScaling("linear", 2.0)
    del llama3["original_max_position_embeddings"]
    own = {"rope_scaling": {"rope_type": "llama3", **llama3}, "max_position_embeddings": 64}
    found = parse_config(minimal("LlamaForCausalLM", **own), "x").rope_scaling
    assert found is not None and found.original_max_positions == 64
    for none in (None, {}, {"rope_type": "default"}):
        assert parse_config(minimal("LlamaForCausalLM", rope_scaling=none), "x").rope_scaling is None
    other = {
        "rope_scaling": {"type": "longrope", "long_factor": [1.0], "factor": None}
    }  # kept by name: it costs no time
    assert parse_config(minimal("LlamaForCausalLM", **other), "x").rope_scaling == RopeScaling("longrope")


_LINEAR = {"rope_type": "linear", "factor": 2.0}
_TWO_SPELLINGS = [
    ({"rope_theta": 10000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, 500.0, None),
    ({"rope_scaling": {**_LINEAR, "rope_theta": 500.0}}, 500.0, RopeScaling("linear", 2.0)),
    ({"rope_theta": 300.0, "rope_scaling": {**_LINEAR, "rope_theta": 500.0}}, 500.0, RopeScaling("linear", 2.0)),
    ({"rope_scaling": {}, "rope_parameters": {**_LINEAR, "rope_theta": 500.0}}, 500.0, RopeScaling("linear", 2.0)),
    ({"rope_scaling": None, "rope_parameters": {**_LINEAR, "rope_theta": 500.0}}, 500.0, RopeScaling("linear", 2.0)),
    (
        {"rope_scaling": _LINEAR, "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        10000.0,
        RopeScaling("linear", 2.0),
    ),
    (
        {"rope_theta": 300.0, "rope_scaling": _LINEAR, "rope_parameters": {"rope_theta": 500.0}},
        300.0,
        RopeScaling("linear", 2.0),
    ),
]


@pytest.mark.parametrize(("given", "theta", "scaling"), _TWO_SPELLINGS)
def test_rope_given_twice_is_read_as_transformers_does(
    given: dict[str, Any], theta: float, scaling: RopeScaling | None
) -> None:
    """rope_scaling, unless it is empty, before rope_parameters; the base in that dict before the one beside it."""
    model = parse_config(minimal("LlamaForCausalLM", **given), "x")
    assert (model.rope_theta, model.rope_scaling) == (theta, scaling)
    if find_spec("transformers") is not None:
        from transformers import LlamaConfig

        theirs = LlamaConfig(**json.loads(json.dumps(given))).rope_parameters
        assert (theirs["rope_theta"], theirs["rope_type"]) == (theta, "default" if scaling is None else scaling.kind)
        assert theirs.get("factor", 1.0) == (1.0 if scaling is None else scaling.factor)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"type": "linear"}, "linear needs a positive factor: None"),
        ({"type": "linear", "factor": True}, "linear needs a positive factor: True"),
        ({"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}, "needs a positive high_freq_factor: None"),
        ({"type": "llama3", "factor": 8.0, "low_freq_factor": 4, "high_freq_factor": 4}, "low_freq_factor < high"),
        (
            {
                "type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1,
                "high_freq_factor": 4,
                "original_max_position_embeddings": -1,
            },
            "positive original_max_position_embeddings: -1",
        ),
    ],
)
def test_rope_scaling_that_means_nothing(given: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        parse_config(minimal("LlamaForCausalLM", rope_scaling=given), "x")
