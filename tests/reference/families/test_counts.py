"""Parameters to the last one, scales and windows, against transformers' own modules; active parameters and caches
against public figures; what ranks hold between them.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.core.architecture import Experts, FeedForward, Layer, ModelConfig
from thinwire.reference.core.mixers import Attention, DeltaNet, Latent, StateSpace
from thinwire.reference.families.config import load_model, model_names
from thinwire.reference.families.table import FAMILIES, TEXT_OF

from .models import ROWS, row, shipped

MODELS = {name: load_model(name) for name in model_names()}
MODELS |= {f"{name}, not of the catalog": row(name) for name in ROWS}

# No class of transformers has them: (billions of parameters, as published with the checkpoint).
WITHOUT_CLASS = {"nemotron-super-49b": 49.87, "deepseek-moe-16b": 16.38}

# Billions of parameters that a token goes through, as published. The public count some with the embedding's table, some
# without the head.
ACTIVE = {
    "deepseek-v3": 37,  # arXiv 2412.19437, abstract
    "deepseek-v3.2": 37,  # as DeepSeek-V3
    "gemma-4-26b-a4b": 4,  # its name
    "glm-4.5": 32,  # arXiv 2508.06471, table 1
    "glm-4.5-air": 12,  # the same
    "gpt-oss-20b": 3.6,  # arXiv 2508.10925, table 1
    "gpt-oss-120b": 5.1,  # the same
    "kimi-k2": 32,  # arXiv 2507.20534, abstract
    "llama-4-maverick": 17,  # model card of meta-llama/Llama-4-Maverick-17B-128E
    "llama-4-scout": 17,
    "minimax-m2": 10,  # model card of MiniMaxAI/MiniMax-M2
    "mixtral-8x7b": 12.9,  # arXiv 2401.04088, section 1
    "mixtral-8x22b": 39,  # mistral.ai/news/mixtral-8x22b
    "nemotron-3-super-120b-a12b": 12,  # its name
    "qwen3-235b-a22b": 22,  # arXiv 2505.09388, abstract; names of the others
    "qwen3-30b-a3b": 3,
    "qwen3-coder-480b-a35b": 35,
    "qwen3-next-80b-a3b": 3,
} | {name: said["active"] for name, said in ROWS.items() if "active" in said}

TOTAL = {
    "deepseek-v3": 671,
    "glm-4.5-air": 106.9,
    "gpt-oss-20b": 20.9,  # arXiv 2508.10925, table 1
    "gpt-oss-120b": 116.8,
    "kimi-k2": 1026,
    "llama-3.1-405b": 405.9,
    "mixtral-8x7b": 46.7,
    "mixtral-8x22b": 140.6,
    "phi-4": 14.66,
    "qwen3-235b-a22b": 235.1,
    "qwen3-30b-a3b": 30.5,
    "qwen3-next-80b-a3b": 79.7,
} | {name: said["billions"] for name, said in ROWS.items() if "billions" in said}

# Bytes of bf16 that a token leaves in the cache: arXiv 2505.09343, table 1, and by the same rule 2 x layers x
# key-value heads x width, of attention layers alone.
CACHED = {
    "deepseek-v3": 70_272,
    "qwen2.5-72b": 327_680,
    "llama-3.1-405b": 516_096,
    "deepseek-v2": 2 * 60 * 576,
    "llama-3-70b": 327_680,
    "gpt-oss-120b": 2 * 2 * 36 * 8 * 64,
    "qwen3-235b-a22b": 2 * 2 * 94 * 4 * 128,
    "qwen3-next-80b-a3b": 2 * 2 * 12 * 2 * 256,
    "nemotron-3-nano-30b-a3b": 2 * 2 * 6 * 2 * 128,
    "minimax-text-01": 2 * 2 * 10 * 8 * 128,
    "glm-5": 2 * 78 * (576 + 128),
    "glm-5.2": 2 * (78 * 576 + 21 * 128),  # layers 0, 1, and each fourth from 2 on choose tokens themselves
    "mimo-v2-flash": 2 * (192 + 128) * (9 * 4 + 39 * 8),
    "gemma-4-26b-a4b": 2 * 2 * (25 * 8 * 256 + 5 * 2 * 512),
}


# Values that one of so many ranks keeps of a sequence whatever its length: states, and of convolutions of 4 inputs the
# last 3. Qwen3-Next: 36 layers of 16 key and 32 value heads of 128; Nemotron-H: 24 of 128 heads of 64, 8 groups, a
# state of 128; MiniMax-Text-01: 70 of 64 heads of 128.
STATES = {
    ("qwen3-next-80b-a3b", 1): 36 * (32 * 128 * 128 + 3 * (2 * 16 + 32) * 128),
    ("qwen3-next-80b-a3b", 4): 36 * (8 * 128 * 128 + 3 * (2 * 4 + 8) * 128),
    ("nemotron-h-8b", 1): 24 * (128 * 64 * 128 + 3 * (128 * 64 + 2 * 8 * 128)),
    ("nemotron-h-8b", 16): 24 * (8 * 64 * 128 + 3 * (8 * 64 + 2 * 128)),  # a group each, twice
    ("minimax-text-01", 1): 70 * 64 * 128 * 128,
    ("minimax-text-01", 8): 70 * 8 * 128 * 128,
    ("llama-3-8b", 1): 0,
    ("deepseek-v3", 1): 0,
}


def model(name: str) -> ModelConfig:
    return row(name) if name in ROWS else load_model(name)


def theirs(name: str) -> tuple[Any, int]:
    """transformers' module of the same sizes, on torch's meta device: without memory or time; and its parameters."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from transformers.initialization import no_init_weights

    transformers.logging.set_verbosity_error()
    said = ROWS.get(name) or {"config": shipped(name)}
    content = said["config"]
    text = dict(content.get("text_config", content))
    kind = text["model_type"] = TEXT_OF.get(text["model_type"], text["model_type"])
    if "DeepseekV3ForCausalLM" in content["architectures"]:
        kind = "deepseek_v3"
    if "tie_word_embeddings" in content:
        text["tie_word_embeddings"] = content["tie_word_embeddings"]
    for unread in ("architectures", "quantization_config", "torch_dtype", "dtype", "vision_config", "_source"):
        text.pop(unread, None)
    text |= said.get("as", {})
    kind = text["model_type"] = said.get("as", {}).get("model_type", kind)
    with torch.device("meta"), no_init_weights():
        if kind == "step3p5":  # its text model has no class with a head of its own
            from transformers.models.step3p7.configuration_step3p7 import Step3p7TextConfig
            from transformers.models.step3p7.modeling_step3p7 import Step3p7TextModel

            config = Step3p7TextConfig.from_dict(text)
            body = Step3p7TextModel(config)
            return body, sum(each.numel() for each in body.parameters()) + config.vocab_size * config.hidden_size
        config = transformers.CONFIG_MAPPING[kind].from_dict(text)
        if kind == "mistral4":  # in no table of classes
            from transformers.models.mistral4.modeling_mistral4 import Mistral4ForCausalLM

            found = Mistral4ForCausalLM(config)
        else:
            found = transformers.AutoModelForCausalLM.from_config(config)
    found.tie_weights()
    return found, sum(each.numel() for each in found.parameters())


SCALES = ("scaling", "softmax_scale", "scale", "inv_norm_factor")


def attention_of(module: Any) -> list[tuple[float, Any]]:
    """What each attention of a module multiplies queries and keys with, and its window ("?": it has no such word)."""
    return [
        (next(getattr(each, word) for word in SCALES if hasattr(each, word)), getattr(each, "sliding_window", "?"))
        for each in module.modules()
        if "Attention" in type(each).__name__ and any(hasattr(each, word) for word in SCALES)
    ]


@pytest.mark.parametrize("name", [*model_names(), *ROWS])
def test_parameters_and_attention_are_those_of_transformers(name: str) -> None:
    ours = model(name)
    if name in WITHOUT_CLASS:
        assert ours.parameters / 1e9 == pytest.approx(WITHOUT_CLASS[name], abs=0.005)
        return
    more = 0
    if ours.architecture in ("Ernie4_5_MoeForCausalLM", "AfmoeForCausalLM"):
        # The bias that only chooses experts is a parameter there, though nothing trains it; a buffer in all the others.
        more = sum(layer.feed.count for layer in ours.layers if isinstance(layer.feed, Experts))
    module, count = theirs(name)
    assert ours.parameters + more == count
    mixers = [layer.mixer for layer in ours.layers if isinstance(layer.mixer, Attention | Latent)]
    found = attention_of(module)
    assert [mixer.scale for mixer in mixers] == pytest.approx([scale for scale, _ in found], rel=1e-9)
    if "Exaone" not in ours.architecture:  # its modules hold the window even where they look at everything
        assert all(
            window in ("?", getattr(mixer, "window", None)) for mixer, (_, window) in zip(mixers, found, strict=True)
        )


def test_every_family_is_counted() -> None:
    """A family whose literal no row above is read by would be a guess."""
    read = {each.architecture for each in MODELS.values()}
    alike = {"MiniMaxForCausalLM", "Qwen2VLForConditionalGeneration", "DeepseekV3ForCausalLM"}
    assert {family.architectures[0] for family in FAMILIES.values()} - {
        name for family in FAMILIES.values() if read & {*family.architectures} for name in family.architectures
    } <= alike
    assert len(MODELS) >= 100


def half_a_unit(published: float) -> float:
    digits = str(published).partition(".")[2]
    return 0.5 if digits in ("", "0") else 0.5 * 10.0 ** -len(digits)


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_the_public_figure(name: str) -> None:
    ours = model(name)
    table = ours.vocab_size * ours.hidden_size
    least, most = ours.active_parameters - table, ours.active_parameters + table
    published, slack = ACTIVE[name], half_a_unit(ACTIVE[name])
    assert least / 1e9 - slack <= published <= most / 1e9 + slack


@pytest.mark.parametrize("name", TOTAL)
def test_parameters_are_the_public_figure(name: str) -> None:
    assert model(name).parameters / 1e9 == pytest.approx(TOTAL[name], abs=half_a_unit(TOTAL[name]))


@pytest.mark.parametrize("name", CACHED)
def test_cached_bytes_of_a_token(name: str) -> None:
    assert 2 * model(name).cache_values(1) == CACHED[name]


@pytest.mark.parametrize(("name", "tp"), STATES)
def test_states_of_a_sequence(name: str, tp: int) -> None:
    assert model(name).state_values(tp) == STATES[name, tp]


def test_groups_of_a_state_space_are_cut_or_repeated_whole() -> None:
    mixer = StateSpace(heads=24, head_dim=64, groups=8, state=128, conv=4)
    assert [mixer.indivisible(tp) for tp in (1, 2, 4, 8, 24)] == [None] * 5
    assert (mixer.indivisible(3), mixer.indivisible(12)) == (("state-space groups", 8),) * 2
    assert mixer.indivisible(16) == ("state-space heads", 24)
    ours = row("nemotron-h-8b")
    layers = tuple(replace(each, mixer=mixer) if isinstance(each.mixer, StateSpace) else each for each in ours.layers)
    with pytest.raises(ValueError, match=r"tp must divide the state-space groups of nemotron-h-8b: tp=12, .*groups=8"):
        replace(ours, layers=layers).check_tp(12)


def test_windows_and_chunks_keep_no_more_than_they_reach() -> None:
    gemma = load_model("gemma-3-27b")  # 52 of 62 layers see 1,024 tokens
    assert gemma.cache_values(1, 8192) == 2 * 16 * 128 * (52 * 1024 + 10 * 8192)
    scout = load_model("llama-4-scout")  # 36 of 48 see chunks of 8,192
    assert scout.cache_values(1, 32768) == 2 * 8 * 128 * (36 * 8192 + 12 * 32768)


# ---- what ranks hold between them


def repeated(layer: Layer, width: int, tp: int, ep: int) -> int:
    """Values of a layer that more than one rank holds, counted once for each rank but the first."""
    mixer, feed, found = layer.mixer, layer.feed, (tp - 1) * layer.extras
    if isinstance(mixer, Attention):
        if not mixer.borrowed:
            heads = max(mixer.kv_heads, tp) - mixer.kv_heads
            wide = (0 if mixer.keys_are_values else mixer.values_per_head) + mixer.head_dim
            found += heads * (wide * (width + mixer.qkv_bias))
            found += heads * mixer.head_dim * (mixer.qk_norm in ("row", "head-layer"))
        if mixer.qk_norm == "head":
            found += (tp - 1) * mixer.head_dim * (1 if mixer.borrowed else 2)
        found += (tp - 1) * width * mixer.output_bias
    elif isinstance(mixer, Latent):
        once = width * (mixer.rank + mixer.rope_dim) + mixer.rank
        once += (mixer.rank + mixer.rope_dim + width) * mixer.bias
        if mixer.q_rank is not None:
            once += mixer.q_rank * (width + 1 + mixer.bias)
        if (index := mixer.indexer) is not None and not index.shared:
            once += (mixer.q_rank or width) * index.heads * index.head_dim
            once += width * (index.head_dim + index.heads) + 2 * index.head_dim
        found += (tp - 1) * once
    elif isinstance(mixer, DeltaNet):
        found += (tp - 1) * mixer.value_dim
    elif isinstance(mixer, StateSpace):
        groups = max(mixer.groups, tp) - mixer.groups
        found += 2 * groups * mixer.state * (width + mixer.conv + mixer.conv_bias + mixer.bias)
        found += (tp - 1) * width * mixer.bias
    if isinstance(feed, FeedForward):
        found += (tp - 1) * width * feed.bias
    elif isinstance(feed, Experts):
        found += (tp - 1) * feed.count * (width + feed.router_bias)
        found += (tp // ep - 1) * feed.count * (feed.latent or width) * feed.bias
        found += (tp - 1) * (2 * width * (feed.latent or 0) + width * feed.shared_gate)
        if feed.shared is not None:
            found += (tp - 1) * width * feed.shared.bias
    return found


def divides(ours: ModelConfig, tp: int, ep: int) -> bool:
    try:
        ours.check_tp(tp, ep)
    except ValueError:
        return False
    return True


SPLITS = {
    name: [
        (tp, ep)
        for tp in (1, 2, 3, 4, 6, 8, 16, 32)
        for ep in (1, 2, 4, 8, 16, 32)
        if ep <= tp and tp % ep == 0 and (ep == 1 or ours.is_mixture) and divides(ours, tp, ep)
    ]
    for name, ours in MODELS.items()
}


def test_many_splits_are_possible() -> None:
    assert sum(len(splits) for splits in SPLITS.values()) > 900
    assert all((1, 1) in splits for splits in SPLITS.values())


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SPLITS)).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(SPLITS[name]))))
def test_ranks_hold_the_model_and_what_they_repeat(case: tuple[str, tuple[int, int]]) -> None:
    name, (tp, ep) = case
    ours = MODELS[name]
    vectors = {"rms": 1, "layer": 2, "layer-no-bias": 1, "weightless": 0}[ours.norm] * ours.hidden_size
    more = (tp - 1) * (vectors * (1 + sum(layer.norm_count for layer in ours.layers)) + ours.extras)
    more += sum(times * repeated(layer, ours.hidden_size, tp, ep) for layer, times in Counter(ours.layers).items())
    tables = 1 if ours.tied_embeddings else 2
    more += tables * (-ours.vocab_size % tp) * ours.hidden_size
    assert tp * ours.values(tp, ep).total() == ours.parameters + more


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(SPLITS)).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(SPLITS[name]))))
def test_ranks_keep_the_whole_cache(case: tuple[str, tuple[int, int]]) -> None:
    """Each key-value head is somewhere; a latent is everywhere; windows never keep more than all tokens."""
    name, (tp, _) = case
    ours = MODELS[name]
    assert tp * ours.cache_values(tp) >= ours.cache_values(1)
    assert tp * ours.state_values(tp) >= ours.state_values(1)
    assert ours.cache_values(tp, 100_000) <= 100_000 * ours.cache_values(tp)


def test_layers_that_are_alike_are_one_object() -> None:
    for ours in MODELS.values():
        assert len({id(layer) for layer in ours.layers}) == len(ours.distinct)
