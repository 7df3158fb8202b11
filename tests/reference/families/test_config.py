"""Model facts: published parameter counts, transformers' defaults, refusals."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from thinwire.reference.core.architecture import Experts, ModelConfig
from thinwire.reference.core.mixers import Rope, RopeScaling
from thinwire.reference.core.precision import PLAIN
from thinwire.reference.families.config import load_model, model_names, parse_config

from .models import ROOT, attention, feed, minimal, rope, shipped, turned, windows

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
        model.attention.heads * model.attention.head_dim,
        model.attention.kv_heads * model.attention.head_dim,
    )
    inner = feed(model).width
    shapes: list[tuple[int, ...]] = [(model.vocab_size, width), (width,)]
    if not model.tied_embeddings:
        shapes.append((model.vocab_size, width))
    for _ in range(model.num_layers):
        shapes += [(query, width), (key, width), (key, width), (width, query)]
        shapes += [(inner, width)] * 2 + [(width, inner)]
        shapes += [(width,)] * (4 if model.architecture == "Gemma2ForCausalLM" else 2)
        if model.attention.qkv_bias:
            shapes += [(query,), (key,), (key,)]
        if model.attention.output_bias:
            shapes.append((width,))
        if feed(model).bias:
            shapes += [(inner,)] * 2 + [(width,)]
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
    assert {*(row["name"] for row in SIZES), "smollm2-135m"} <= {*model_names()}
    assert len(model_names()) == 41


def test_the_measured_model_is_in_the_catalog() -> None:
    """SmolLM2-135M is no row of models.csv: its sizes are those of the file that accuracy is measured on."""
    model = load_model("smollm2-135m")
    assert model.parameters == 134_515_008  # of the 272 tensors of the GGUF file
    model.check_tp(3)


@pytest.mark.parametrize("row", SIZES, ids=[row["name"] for row in SIZES])
def test_shipped_files_hold_the_published_sizes(row: dict[str, str]) -> None:
    model = load_model(row["name"])
    assert model.architecture == row["architecture"] and model.name == row["name"]
    ours = (model.hidden_size, model.num_layers, model.attention.heads, model.attention.kv_heads)
    assert ours == tuple(
        int(row[key]) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    )
    assert (model.attention.head_dim, feed(model).width, model.vocab_size) == (
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
    qwen = load_model("qwen2.5-72b")
    assert qwen.attention.qkv_bias and not qwen.attention.output_bias and qwen.attention.window is None
    nemo = load_model("mistral-nemo-12b").attention
    assert nemo.head_dim * nemo.heads == 4096 != load_model("mistral-nemo-12b").hidden_size and nemo.window is None
    mistral = load_model("mistral-7b")
    assert {attention(mistral, layer).window for layer in range(32)} == {4096}
    gemma = load_model("gemma-2-27b")
    assert [attention(gemma, layer).window for layer in range(4)] == [4096, None, 4096, None]
    assert gemma.attention.scale == pytest.approx(1 / 12, rel=1e-15)
    assert (gemma.attention.softcap, gemma.final_softcap) == (50.0, 30.0)
    assert gemma.layers[0].norms == "both" and gemma.tied_embeddings and feed(gemma).activation == "gelu_pytorch_tanh"
    assert gemma.embedding_scale == pytest.approx(4608**0.5, rel=1e-15)
    llama = load_model("llama-3-70b")
    assert llama.attention.scale == pytest.approx(128**-0.5, rel=1e-15) and rope(llama).theta == 500_000
    assert llama.attention.softcap is llama.final_softcap is llama.attention.window is None
    assert not llama.tied_embeddings and llama.layers[0].norms == "before" and not llama.attention.qkv_bias
    assert len(llama.distinct) == 1 and llama.notes == () and llama.checkpoint is PLAIN


# ---- values of one GPU


def test_values_by_hand() -> None:
    model = load_model("llama-3-70b")
    part = 8192 * 128 * (64 // 16 * 2 + 2)  # TP 16: four query heads, one replicated key-value head
    mlp = 3 * 8192 * 28672 // 16
    outside = 2 * 128256 // 16 * 8192 + 80 * 2 * 8192 + 8192
    assert model.values(16).total() == 80 * (part + mlp) + outside
    assert [model.attention.kv_heads_per_gpu(tp) for tp in (1, 4, 8, 16)] == [8, 2, 1, 1]
    qwen = load_model("qwen2.5-72b")
    without_bias = parse_config({**shipped("qwen2.5-72b"), "architectures": ["LlamaForCausalLM"]}, "x")
    assert qwen.values(8).total() - without_bias.values(8).total() == 80 * (8 + 2) * 128


@pytest.mark.parametrize(
    ("name", "tp", "ep", "message"),
    [
        ("llama-3-70b", 3, 1, "attention heads of llama-3-70b: tp=3, attention heads=64"),
        ("llama-3-70b", 0, 1, "tp=0"),
        ("llama-3-70b", 8, 2, "has no experts"),
        ("llama-2-13b", 16, 1, "tp=16, attention heads=40"),
        ("mixtral-8x7b", 8, 3, "ep must divide"),
        ("deepseek-v3", 128, 128, "experts of deepseek-v3: tp=128, experts=256, ep=128"),
        ("qwen3-next-80b-a3b", 32, 1, "linear attention's key heads of qwen3-next-80b-a3b: tp=32"),
    ],
)
def test_impossible_splits_are_refused(name: str, tp: int, ep: int, message: str) -> None:
    if name == "deepseek-v3":  # 256 experts do over 128 ranks
        assert load_model(name).values(tp, ep)["experts"] == 58 * 2 * 3 * 7168 * 2048
        return
    with pytest.raises(ValueError, match=message):
        load_model(name).values(tp, ep)


# ---- what transformers assumes


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
    first = model.attention
    assert (first.kv_heads, first.head_dim, model.tied_embeddings) == (kv_heads, head_dim, tied)
    assert (model.max_positions, first.window) == (positions, window)
    assert (model.norm_eps, rope(model).theta) == (1e-6, 10000.0)
    assert first.qkv_bias == (architecture == "Qwen2ForCausalLM")


def test_nulls_and_spellings() -> None:
    assert parse_config(minimal("MistralForCausalLM", num_key_value_heads=None), "x").attention.kv_heads == 32
    assert parse_config(minimal("MistralForCausalLM", sliding_window=None), "x").attention.window is None
    assert parse_config(minimal("LlamaForCausalLM", head_dim=None), "x").attention.head_dim == 128
    assert parse_config(minimal("LlamaForCausalLM", head_dim=64), "x").attention.head_dim == 64
    assert parse_config(minimal("LlamaForCausalLM", sliding_window=4096), "x").attention.window is None
    assert parse_config(minimal("LlamaForCausalLM", rope_parameters={"rope_theta": 5e5}), "x").attention.rope == Rope(
        128, 5e5
    )
    assert parse_config(minimal("LlamaForCausalLM", tie_word_embeddings=True), "x").tied_embeddings
    gemma = parse_config(minimal("Gemma2ForCausalLM", hidden_act="silu", final_logit_softcapping=None), "x")
    assert feed(gemma).activation == "gelu_pytorch_tanh"
    assert (gemma.attention.softcap, gemma.final_softcap, gemma.attention.scale) == (50.0, None, 1 / 16)
    by_type = minimal("LlamaForCausalLM", architectures=None, model_type="llama")
    assert parse_config(by_type, "x").architecture == "LlamaForCausalLM"


def test_llama_biases_are_counted() -> None:
    plain = parse_config(minimal("LlamaForCausalLM"), "x")
    biased = parse_config(minimal("LlamaForCausalLM", attention_bias=True, mlp_bias=True), "x")
    assert biased.attention.qkv_bias and biased.attention.output_bias and feed(biased).bias
    assert biased.parameters == count(tensor_shapes(biased))
    assert biased.parameters - plain.parameters == 4 * (4 * 4096 + 2 * 11008 + 4096)
    assert not parse_config(minimal("MistralForCausalLM", attention_bias=True), "x").attention.qkv_bias


def test_qwen_sliding_window() -> None:
    def found(**more: Any) -> list[int | None]:
        return windows(parse_config(minimal("Qwen2ForCausalLM", sliding_window=1024, **more), "x"))

    assert found() == found(use_sliding_window=False) == [None] * 4
    assert found(use_sliding_window=True, max_window_layers=4) == [None] * 4
    assert found(use_sliding_window=True, max_window_layers=0) == [1024] * 4
    assert found(use_sliding_window=True, max_window_layers=2) == [None, None, 1024, 1024]


def test_layer_types_are_followed_where_the_family_has_them() -> None:
    sliding, full = "sliding_attention", "full_attention"

    def found(architecture: str, *types: str, **more: Any) -> list[int | None]:
        return windows(parse_config(minimal(architecture, layer_types=list(types), **more), "x"))

    assert found("Gemma2ForCausalLM", *[sliding, full] * 2) == [4096, None] * 2
    assert found("Gemma2ForCausalLM", *[full, sliding] * 2) == [None, 4096] * 2
    with pytest.raises(ValueError, match="layer_types must have a value for each layer: 3 for 4"):
        found("Gemma2ForCausalLM", full, sliding, full)
    with pytest.raises(ValueError, match="layer_types: 'linear_attention' is not understood in gemma2"):
        found("Gemma2ForCausalLM", "linear_attention", *[full] * 3)
    for architecture in ("LlamaForCausalLM", "MistralForCausalLM"):  # theirs do not look at it
        with pytest.raises(ValueError, match="layer_types does not follow the pattern of"):
            found(architecture, *[full, sliding] * 2)


# ---- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_local_experts": 8}, "a mixture of experts (num_local_experts), which llama does not have"),
        ({"kv_lora_rank": 512}, "latent attention (kv_lora_rank), which llama does not have"),
        ({"mamba_n_heads": 8}, "a recurrence (mamba_n_heads), which llama does not have"),
        ({"n_shared_experts": 1}, "shared experts (n_shared_experts), which llama does not have"),
        ({"index_topk": 2048}, "an index of tokens (index_topk), which llama does not have"),
        ({"attention_chunk_size": 8192}, "attention in chunks (attention_chunk_size), which llama does not have"),
        ({"cross_attention_layers": [3]}, "cross attention to images (cross_attention_layers), which llama does not"),
        ({"quantization_config": "awq"}, "quantization_config: must be a table; given 'awq'"),
        ({"text_config": []}, "text_config: must be a table; given []"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel is not supported; the nearest that is: "),
        (
            {"architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "index_topk": 512},
            "DeepseekV4ForCausalLM (model_type 'deepseek_v4') is not supported; the nearest that is: deepseek_v32",
        ),
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


_DEEPSEEK = {"n_routed_experts": 64, "n_group": 8, "topk_group": 2, "num_experts_per_tok": 16}


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("MixtralForCausalLM", {"n_shared_experts": 1}, "(n_shared_experts), which mixtral does not have"),
        (
            "MixtralForCausalLM",
            {"shared_expert_intermediate_size": 64},
            "shared experts (shared_expert_intermediate_size), which mixtral does not have",
        ),
        ("DeepseekV3ForCausalLM", {"index_topk": 2048}, "(index_topk), which deepseek_v3 does not have"),
        (
            "DeepseekV3ForCausalLM",
            {"num_experts_per_tok": 17},
            "num_experts_per_tok must be at most the experts of the topk_group groups that are open, n_routed_experts "
            "/ n_group * topk_group: 17, 64 / 8 * 2",
        ),
        (
            "DeepseekV3ForCausalLM",
            {"first_k_dense_replace": 5},
            "first_k_dense_replace must be at most the 4 layers: 5",
        ),
        (
            "DeepseekV2ForCausalLM",
            {"topk_method": "mine"},
            "topk_method must be one of greedy, group_limited_greedy, noaux_tc: 'mine'",
        ),
        ("DeepseekV3ForCausalLM", {"topk_method": ["noaux_tc"]}, "topk_method must be one of greedy"),
    ],
)
def test_refusals_of_mixtures_name_the_key(architecture: str, change: dict[str, Any], message: str) -> None:
    said = minimal(architecture, **(_DEEPSEEK if "Deepseek" in architecture else {}))
    assert parse_config(said, "mine").is_mixture
    with pytest.raises(ValueError) as caught:
        parse_config({**said, **change}, "mine")
    assert message in str(caught.value) and "mine" in str(caught.value) and "\n" not in str(caught.value)


def test_keys_that_say_nothing_are_no_fault() -> None:
    """Configs of other models' makers carry them empty."""
    keys = ("n_shared_experts", "shared_expert_intermediate_size", "index_topk", "attention_chunk_size")
    for nothing in (None, 0):
        more = dict.fromkeys(keys, nothing) | {"cross_attention_layers": [] if nothing == 0 else None}
        for architecture in ("LlamaForCausalLM", "MixtralForCausalLM"):
            assert parse_config(minimal(architecture, **more), "x") == parse_config(minimal(architecture), "x")
    dense = parse_config(minimal("DeepseekV3ForCausalLM", **_DEEPSEEK, first_k_dense_replace=4), "x")
    assert not dense.is_mixture and parse_config(minimal("DeepseekV3ForCausalLM", num_hidden_layers=2), "x").num_layers


@pytest.mark.parametrize("method", [None, "greedy", "group_limited_greedy", "noaux_tc"])
def test_groups_count_where_the_method_chooses_by_them(method: str | None) -> None:
    """DeepSeek-VL2's text part is a V2 that chooses as V3 does."""
    for architecture, always in (("DeepseekV2ForCausalLM", False), ("DeepseekV3ForCausalLM", True)):
        found = parse_config(minimal(architecture, **_DEEPSEEK, topk_method=method), "x").layers[-1].feed
        grouped = always or method in ("group_limited_greedy", "noaux_tc")
        assert isinstance(found, Experts) and (found.groups, found.top_groups) == ((8, 2) if grouped else (1, 1))


def test_what_looks_across_at_images_is_refused_whatever_its_text_part_says() -> None:
    text = {**minimal("LlamaForCausalLM"), "model_type": "llama"}
    assert parse_config({"architectures": ["LlavaForConditionalGeneration"], "text_config": text}, "x").num_layers == 4
    for key, said in (("architectures", ["MllamaForConditionalGeneration"]), ("model_type", "mllama")):
        for inner in (text, {key_: value for key_, value in text.items() if key_ != "architectures"}):
            with pytest.raises(ValueError, match=r"cross attention to images \(.*llama.*\), which llama does not have"):
                parse_config({key: said, "text_config": inner}, "x")


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
    with pytest.raises(ValueError, match=r"no such file: confg\.json"):
        load_model("confg.json")
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
    assert rope(load_model("llama-3-8b")).scaling == wanted and rope(load_model("llama-2-7b")).scaling is None
    today = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **llama3}}
    assert turned(**today).scaling == wanted
    for key in ("rope_type", "type"):
        older = turned(rope_theta=5e5, rope_scaling={key: "llama3", **llama3})
        assert older == Rope(128, 5e5, scaling=wanted)
    short = {"rope_scaling": {"type": "linear", "factor": 2}, "max_position_embeddings": 64}
    assert turned(**short).scaling == RopeScaling("linear", 2.0)
    del llama3["original_max_position_embeddings"]
    own = {"rope_scaling": {"rope_type": "llama3", **llama3}, "max_position_embeddings": 64}
    found = turned(**own).scaling
    assert found is not None and found.original_max_positions == 64
    for none in (None, {}, {"rope_type": "default"}):
        assert turned(rope_scaling=none).scaling is None
    other = {"rope_scaling": {"type": "dynamic", "alpha": 1000.0}}  # kept by name: it costs no time
    assert turned(**other).scaling == RopeScaling("dynamic")
    assert turned(rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]}).scaling is None
    long = {"type": "su", "long_factor": [2, 1.5], "short_factor": [1.0], "factor": None}
    assert turned(rope_scaling=long, max_position_embeddings=64, original_max_position_embeddings=16).scaling == (
        RopeScaling("longrope", 4.0, original_max_positions=16, short=(1.0,), long=(2.0, 1.5))
    )
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "truncate": False, "mscale": 1}
    assert turned(rope_scaling=yarn).scaling == RopeScaling(
        "yarn", 4.0, original_max_positions=32, mscale=1.0, truncate=False
    )


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


@pytest.mark.parametrize(("said", "theta", "scaling"), _TWO_SPELLINGS)
def test_rope_given_twice_is_read_as_transformers_does(
    said: dict[str, Any], theta: float, scaling: RopeScaling | None
) -> None:
    """rope_scaling, unless it is empty, before rope_parameters; the base in that dict before the one beside it."""
    assert turned(**said) == Rope(128, theta, scaling=scaling)
    if find_spec("transformers") is not None:
        from transformers import LlamaConfig

        theirs = LlamaConfig(**json.loads(json.dumps(said))).rope_parameters
        assert (theirs["rope_theta"], theirs["rope_type"]) == (theta, "default" if scaling is None else scaling.kind)
        assert theirs.get("factor", 1.0) == (1.0 if scaling is None else scaling.factor)


@pytest.mark.parametrize(
    ("said", "match"),
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
        ({"type": "yarn"}, "rope_scaling yarn needs a positive factor: None"),
        ({"type": "yarn", "factor": 4, "beta_fast": "x"}, "rope_scaling yarn needs a positive beta_fast: 'x'"),
        ({"type": "longrope", "long_factor": [1.0, None]}, "needs positive numbers as long_factor: .1.0, None."),
        ({"type": 7}, "rope_scaling.rope_type: must be a word; given 7"),
        ({"rope_theta": float("nan")}, "rope_scaling.rope_theta: must be a positive finite number; given nan"),
        ({"partial_rotary_factor": 2.0}, "must turn an even number of a head's values: 256 of 128"),
        ([1.0], "rope_scaling: must be a table; given .1.0."),
    ],
)
def test_rope_scaling_that_means_nothing(said: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        parse_config(minimal("LlamaForCausalLM", rope_scaling=said), "x")
