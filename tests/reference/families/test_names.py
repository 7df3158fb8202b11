"""What is around a decoder: the text part of what sees, formats, names, files; and configs spoiled at random."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.core.architecture import Attention
from thinwire.reference.core.precision import PLAIN
from thinwire.reference.families.config import load_model, model_aliases, model_names, parse_config
from thinwire.reference.families.table import SIZES
from thinwire.sim.layers import precisions

from .models import ROWS, minimal, row, shipped


def test_the_text_part_of_what_sees() -> None:
    text = {**minimal("LlamaForCausalLM"), "model_type": "llama"}
    llava = parse_config({"model_type": "llava", "text_config": text, "vision_config": {}, "dtype": "float32"}, "x")
    assert llava.layers == parse_config(minimal("LlamaForCausalLM"), "x").layers and llava.dtype == "float32"
    assert llava.architecture == "LlamaForCausalLM" and "count as input tokens" in llava.notes[0]
    del text["architectures"], text["model_type"]
    pixtral = parse_config({"model_type": "mistral3", "llm_config": text, "tie_word_embeddings": True}, "x")
    assert pixtral.architecture == "MistralForCausalLM" and pixtral.tied_embeddings
    with pytest.raises(ValueError, match=r"MambaForCausalLM is not supported"):
        parse_config({"architectures": ["X"], "text_config": {"architectures": ["MambaForCausalLM"]}}, "x")


@pytest.mark.parametrize("model_type", SIZES)
def test_a_text_part_that_says_nothing_is_its_class(model_type: str) -> None:
    """transformers leaves out of a part what equals its class's own sizes, and LLaVA 1.5's config is such a one."""
    alike = {"kimi_k2": "deepseek_v3"}.get(model_type, model_type)
    config = pytest.importorskip("transformers").CONFIG_MAPPING[alike]()
    inner = getattr(config, "intermediate_size_mlp", config.intermediate_size)
    assert tuple(SIZES[model_type].values()) == (
        config.hidden_size, inner, config.num_hidden_layers, config.num_attention_heads, config.vocab_size,
    )  # fmt: skip
    found = parse_config({"text_config": {"model_type": model_type}}, "x")
    mixer = found.layers[0].mixer
    if isinstance(mixer, Attention):
        assert (mixer.heads, mixer.kv_heads) == (config.num_attention_heads, config.num_key_value_heads)
    assert found.max_positions == config.max_position_embeddings
    # Qwen3-VL's text class says otherwise, or nothing; the config around it, which decides, does not tie.
    assert found.tied_embeddings == (
        (getattr(config, "tie_word_embeddings", None) and "_vl_" not in model_type) or False
    )
    assert found.norm_eps == config.rms_norm_eps if hasattr(config, "rms_norm_eps") else config.layer_norm_eps
    with pytest.raises(ValueError, match="missing key"):
        parse_config({"model_type": model_type}, "x")


def test_notes_say_what_is_left_out() -> None:
    assert load_model("deepseek-v3").notes == ("layers for predicting more than one token are left out: 1",)
    assert "attn_type_list is missing" in row("minimax-text-01").notes[0]
    assert "embeddings of each layer are counted but take no time" in row("gemma-4-e4b-like").notes
    listed = parse_config(minimal("LlamaForCausalLM", torch_dtype="torch.float32"), "x")
    assert (listed.dtype, listed.notes) == ("float32", ())  # said where it is asked: commands/options.py
    doubled = parse_config({"text_config": minimal("LlamaForCausalLM", dtype="float64"), "model_type": "llama"}, "x")
    assert doubled.dtype == "float64"


def test_a_checkpoint_s_formats_are_kept(tmp_path: Path) -> None:
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    model = parse_config(minimal("LlamaForCausalLM", quantization_config=fp8), "x")
    assert set(dict(model.checkpoint.weights).values()) == {"fp8-block"}
    assert model.layers == parse_config(minimal("LlamaForCausalLM"), "x").layers and model != parse_config(
        minimal("LlamaForCausalLM"), "x"
    )
    nested = {**minimal("LlamaForCausalLM"), "model_type": "llama", "compression_config": fp8}
    assert parse_config({"text_config": nested}, "x").checkpoint.weights == model.checkpoint.weights
    (tmp_path / "config.json").write_text(json.dumps(minimal("LlamaForCausalLM")))
    assert load_model(str(tmp_path)).checkpoint is PLAIN
    (tmp_path / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    beside = load_model(str(tmp_path)).checkpoint
    assert beside.of("attention") == "nvfp4"
    for name in ("mine_config.json", "mine_hf_quant_config.json"):
        (tmp_path / name).write_text((tmp_path / name.removeprefix("mine_")).read_text())
    assert load_model(str(tmp_path / "mine_config.json")).checkpoint == beside
    (tmp_path / "hf_quant_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"hf_quant_config\.json must hold a JSON object, not list"):
        load_model(str(tmp_path))


def test_constants_of_python_are_no_fault_where_nobody_reads_them(tmp_path: Path) -> None:
    """Nemotron-H's files have Infinity, which is no JSON."""
    content = {**minimal("LlamaForCausalLM"), "time_step_limit": [0.0, float("inf")]}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert load_model(str(tmp_path)).num_layers == 4
    for key, value in (("rope_theta", float("inf")), ("rms_norm_eps", float("nan")), ("hidden_size", float("inf"))):
        (tmp_path / "config.json").write_text(json.dumps({**content, key: value}))
        with pytest.raises(ValueError, match=key):
            load_model(str(tmp_path))


# ---- names


def test_hugging_face_ids_are_names() -> None:
    assert len(model_aliases()) >= 150
    for alias in model_aliases().values():
        assert alias.model in model_names() and alias.name not in model_names()
        assert load_model(alias.name).layers == load_model(alias.model).layers
    for name in ("meta-llama/Llama-3.3-70B-Instruct", "META-LLAMA/llama-3.3-70b-instruct", "llama-3.3-70b"):
        assert load_model(name) == load_model("llama-3-70b")
    assert load_model("Llama-3-70B") == load_model("llama-3-70b")
    first = load_model("meta-llama/Meta-Llama-3-8B")  # before 3.1 made it read further
    assert first.max_positions == 8192 and load_model("llama-3-8b").max_positions > first.max_positions
    fp8 = load_model("Qwen/Qwen3-32B-FP8")
    assert fp8.name == "Qwen3-32B-FP8" and fp8.checkpoint.of("feed_forward") == "fp8-block"
    longer = load_model("qwen/qwen3-235b-a22b-instruct-2507")
    assert (longer.max_positions, longer.checkpoint) == (262144, PLAIN)
    with pytest.raises(ValueError, match=r"did you mean .*Qwen/Qwen3-32B"):
        load_model("Qwen/Qwen3-32")


def test_every_id_has_formats_of_its_own() -> None:
    """Of the file's, or those that the name is said to be in."""
    found = {alias.name: precisions(load_model(alias.name), "auto") for alias in model_aliases().values()}
    for alias in model_aliases().values():
        if alias.form is None:
            assert found[alias.name] == precisions(load_model(alias.model), "auto")
        else:
            assert ({*found[alias.name].values()} == {"bf16"}) == (alias.form == "bf16"), alias
    assert found["openai/gpt-oss-20b"] == {"attention": "bf16", "experts": "mxfp4"}
    empty = {**minimal("LlamaForCausalLM"), "quantization_config": {}, "compression_config": {}}
    assert parse_config(empty, "x").checkpoint is parse_config({"text_config": empty}, "x").checkpoint is PLAIN


# ---- hostile files

_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**62), 2**62), st.floats(), st.text(max_size=8), st.just({}), st.just([]),
    st.lists(st.integers(-1, 70), max_size=70), st.just({"rope_type": "yarn"}), st.just(["full_attention"] * 4),
)  # fmt: skip


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """A config of some family with a few of its values, or of its text part's, put wrong."""
    content: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(_CONTENTS))))
    for _ in range(draw(st.integers(1, 3))):
        inner = content.get("text_config")
        part = inner if isinstance(inner, dict) and inner and draw(st.booleans()) else content
        key = draw(st.sampled_from(sorted(part)))
        if draw(st.booleans()):
            part[key] = draw(_VALUES)
        else:
            del part[key]
    return content


_CONTENTS = [each["config"] for each in ROWS.values()]
_CONTENTS += [shipped(name) for name in model_names()]


@settings(max_examples=300, deadline=None)
@given(spoiled())
def test_a_spoiled_config_is_a_model_or_one_clear_line(content: dict[str, Any]) -> None:
    try:
        model = parse_config(content, "mine")
    except ValueError as error:
        message = str(error)
        assert "mine" in message and "\n" not in message and len(message) < 600
    else:
        assert model.parameters >= model.active_parameters > 0 and model.num_layers == len(model.layers)
