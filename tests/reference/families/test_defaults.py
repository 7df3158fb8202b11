"""What a config that says only its sizes means: as transformers' class of the same type, family by family."""

from typing import Any

import pytest

from thinwire.reference.core.architecture import Attention, Experts, Layer
from thinwire.reference.families.config import parse_config
from thinwire.reference.families.table import FAMILIES

SIZES = {
    "hidden_size": 4096,
    "num_hidden_layers": 12,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}
# Words without which the class itself builds nothing.
MORE: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 6},
    "dots1": {"n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2},
    "helium": {"num_attention_heads": 20},
    "hunyuan_v1_moe": {"num_experts": 8, "moe_topk": 2},
    "nemotron_h": {"hybrid_override_pattern": "M-M*M-MEM*ME", "n_routed_experts": 8, "num_experts_per_tok": 2},
}
# Types whose class is another's, or has no text part of its own; `qwen2_vl` and `qwen2_5_vl` are flat on the Hub alone.
ELSEWHERE = {
    "chatglm", "internlm2", "nemotron-nas", "minimax_text_01", "minicpm", "exaone", "deepseek", "mimo", "kimi_k2",
    "qwen2_vl", "qwen2_5_vl", "step3p7",
}  # fmt: skip
EPSILONS = ("rms_norm_eps", "layer_norm_eps", "norm_eps", "layer_norm_epsilon", "norm_epsilon")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "moe_k", "top_k_experts", "moe_topk")


def kind(layer: Layer) -> str:
    """transformers' word for how a layer mixes tokens."""
    mixer = layer.mixer
    if isinstance(mixer, Attention):
        return "sliding_attention" if mixer.window else "chunked_attention" if mixer.chunk else "full_attention"
    return "full_attention" if type(mixer).__name__ == "Latent" else "linear_attention"


def first(config: Any, words: tuple[str, ...]) -> Any:
    return next((value for word in words if (value := getattr(config, word, None)) is not None), None)


@pytest.mark.parametrize("model_type", sorted({*FAMILIES} - ELSEWHERE))
def test_a_config_of_sizes_alone_means_what_transformers_assumes(model_type: str) -> None:
    said = SIZES | MORE.get(model_type, {})
    ours = parse_config({"model_type": model_type, **said}, "x")
    theirs = pytest.importorskip("transformers").CONFIG_MAPPING[model_type](**said)
    theirs.allow_global_per_layer_attribute_access = True  # Gemma 4 has two widths of heads
    assert ours.max_positions == theirs.max_position_embeddings
    if model_type != "olmo":  # fixed in its norm's call
        assert ours.norm_eps == first(theirs, EPSILONS)
    if model_type not in ("qwen3_vl_text", "qwen3_vl_moe_text"):  # their whole's config decides
        assert ours.tied_embeddings == theirs.tie_word_embeddings
    types = getattr(theirs, "layer_types", None)
    if types and model_type != "nemotron_h":
        assert [kind(layer) for layer in ours.layers] == [word.replace("indexed", "full") for word in types]
    sparse = getattr(theirs, "mlp_layer_types", None)
    if sparse:
        assert [isinstance(layer.feed, Experts) for layer in ours.layers] == [word == "sparse" for word in sparse]
    for layer in ours.layers:
        if isinstance(layer.mixer, Attention):
            attention_is(layer.mixer, kind(layer), theirs)
        if isinstance(layer.feed, Experts):
            assert (layer.feed.count, layer.feed.top_k) == (first(theirs, EXPERTS), first(theirs, CHOSEN))
            assert layer.feed.normalise == getattr(theirs, "norm_topk_prob", layer.feed.normalise)
            assert layer.feed.scale == first(theirs, ("routed_scaling_factor", "route_scale")) or 1.0
            assert layer.feed.groups == (getattr(theirs, "n_group", None) or 1)


def attention_is(ours: Attention, kind: str, theirs: Any) -> None:
    if theirs.model_type == "falcon":  # one key-value head, whatever the attribute says
        assert ours.kv_heads == 1
    elif theirs.model_type not in ("gemma4_text", "mimo_v2_flash"):  # theirs differ by layer
        assert ours.kv_heads == (getattr(theirs, "num_key_value_heads", None) or ours.heads)
        assert ours.head_dim == (getattr(theirs, "head_dim", None) or 4096 // ours.heads)
    if ours.window:
        assert ours.window == theirs.sliding_window
    table = getattr(theirs, "rope_parameters", None)
    if ours.rope is not None and table:
        table = table.get(kind, table)
        assert ours.rope.theta == table["rope_theta"]
        scaling = ours.rope.scaling
        assert (scaling.kind if scaling else "default") == table["rope_type"]
        assert ours.rope.dims == int(ours.head_dim * table.get("partial_rotary_factor", 1.0))
        if scaling and scaling.kind == "yarn":
            assert (scaling.factor, scaling.original_max_positions) == (
                table["factor"],
                table["original_max_position_embeddings"],
            )
