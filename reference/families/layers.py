"""A config, read by its family's rules, as a row of layers.

Layers that are alike are one object, so that who folds them need not compare.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from thinwire.edge.limits import WIDTH
from thinwire.edge.words import shown
from thinwire.reference.core.architecture import Experts, FeedForward, Layer, Scoring
from thinwire.reference.core.mixers import Attention, DeltaNet, Indexer, Latent, Lightning, Mixer, StateSpace
from thinwire.reference.families.rope import rope_of
from thinwire.reference.families.rules import (
    CHUNKED,
    FULL,
    LAYER_TYPES,
    LINEAR,
    NONE,
    SLIDING,
    TOPK_METHODS,
    Given,
    Mixture,
)

ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu2", "swigluoai", "xielu")
_SPELLINGS = {"swish": "silu", "gelu_fast": "gelu_pytorch_tanh"}
_SCORINGS: Mapping[str, Scoring] = {"softmax": "softmax", "sigmoid": "sigmoid"}


def layers_of(given: Given) -> tuple[Layer, ...]:
    """Every layer, in order. ValueError naming the key that is wrong."""
    count, family = given.layers(), given.family
    kinds = _kinds(given, count)
    rotates: Sequence[bool] = family.has_rope(given, count, kinds) if family.has_rope else [True] * count
    pattern = family.feeds or (family.mixture.where if family.mixture else None)
    feeds = pattern(given, count) if pattern else ["dense"] * count
    blocks: Sequence[Mapping[str, Any]] = family.blocks(given) if family.blocks else [{}] * count
    made: dict[Hashable, Layer] = {}
    alike: dict[Layer, Layer] = {}
    row = []
    for number, (kind, turns, feed, own) in enumerate(zip(kinds, rotates, feeds, blocks, strict=True)):
        key = (kind, turns, feed, tuple(own.items()))
        if key not in made:
            layer = _layer(given.with_words(own), kind, turns, feed, number)
            made[key] = alike.setdefault(layer, layer)
        row.append(made[key])
    return tuple(row)


def _kinds(given: Given, count: int) -> Sequence[str]:
    family = given.family
    said = given.texts("layer_types")
    if said is None or not family.follows:
        kinds = family.pattern(given, count) if family.pattern else [FULL] * count
        windows = given.positions("sliding_window") is not None
        kinds = [FULL if kind == SLIDING and not windows else kind for kind in kinds]
        if said is not None and [LAYER_TYPES.get(word) == SLIDING for word in said] != [k == SLIDING for k in kinds]:
            given.fault(f"layer_types does not follow the pattern of {given.model_type}")
        return kinds
    for word in said:
        kind = LAYER_TYPES.get(word)
        if kind is None or (kind == LINEAR and family.linear is None):
            given.fault(f"layer_types: {shown(word)} is not understood in {given.model_type}")
    return given.row("layer_types", [LAYER_TYPES[word] for word in said], count, given.count("mtp"))


def _layer(given: Given, kind: str, rotates: bool, feed: str, number: int) -> Layer:
    family, mixture = given.family, given.family.mixture if feed == "sparse" else None
    if mixture is not None:
        fed: FeedForward | Experts | None = _experts(given, mixture)
    else:
        fed = None if feed == NONE else _feed_forward(given, given.size("intermediate_size"))
    mixer = _mixer(given, kind, rotates, number)
    parallel = given.told(family.parallel) and mixer is not None and fed is not None
    more = 0 if mixture is None or mixture.extras is None else mixture.extras(given)
    return Layer(
        mixer,
        fed,
        family.norms,
        parallel=parallel,
        one_norm=parallel and given.told(family.one_norm),
        extra_norms=0 if mixture is None else mixture.extra_norms,
        extras=more + (family.extras(given) if family.extras else 0),
    )


# ---- mixers


def _mixer(given: Given, kind: str, rotates: bool, number: int) -> Mixer | None:
    if kind == NONE:
        return None
    if kind != LINEAR:
        return _latent(given, number) if given.family.latent else _attention(given, kind, rotates, number)
    if given.family.linear == "delta":
        return _delta_net(given)
    if given.family.linear == "mamba2":
        return _state_space(given)
    return Lightning(given.size("num_attention_heads"), _head_dim(given, given.size("num_attention_heads")))


def _attention(given: Given, kind: str, rotates: bool, number: int) -> Attention:
    family = given.family
    keys = family.of_kind.get(kind, {})

    def size(word: str) -> int | None:
        own = given.maybe_size(keys[word]) if word in keys else None
        return given.maybe_size(word) if own is None else own

    heads = size("num_attention_heads") or given.size("num_attention_heads")
    # An explicit null means multi-head attention whatever the family.
    kv_heads = size("num_key_value_heads") or heads
    if heads % kv_heads:
        given.fault(
            f"{given.key('num_key_value_heads')} must divide {given.key('num_attention_heads')}: {kv_heads} and {heads}"
        )
    head_dim = size("head_dim") or _head_dim(given, heads)
    if family.attention_multiplier:
        scale = given.scale("attention_multiplier")
    elif isinstance(family.scale, str):
        scale = (given.real(family.scale) or head_dim) ** -0.5
    else:
        scale = head_dim**-0.5 if family.scale is None else family.scale
    qk_norm = family.qk_norm if given.told(family.has_qk_norm) else "none"
    if qk_norm == "l2" and not rotates:
        qk_norm = "none"  # Llama 4 norms what it has rotated
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        scale=scale,
        rope=rope_of(given, kind, head_dim, number) if rotates else None,
        value_dim=size("v_head_dim") if "v_head_dim" in family.defaults else None,
        window=given.positions("sliding_window") if kind == SLIDING else None,
        chunk=given.positions("attention_chunk_size") if kind == CHUNKED else None,
        qkv_bias=given.told(family.qkv_bias),
        output_bias=given.told(family.output_bias),
        qk_norm=qk_norm,
        softcap=given.real("attn_logit_softcapping") if family.softcaps else None,
        sinks=kind in family.sinks,
        gated=family.output_gate == "query",
        head_gate=family.output_gate == "head",
        keys_are_values=kind == FULL and given.told(family.keys_are_values),
        borrowed=given.flag("borrowed"),
        value_scale=given.scale("attention_value_scale"),
    )


def _head_dim(given: Given, heads: int) -> int:
    found = given.maybe_size("head_dim")
    if found is not None:
        return found
    width = given.size("hidden_size")
    if width % heads:
        given.fault(
            f"{given.key('num_attention_heads')} must divide {given.key('hidden_size')} where head_dim is not given: "
            f"{heads} and {width}"
        )
    return width // heads


def _latent(given: Given, number: int) -> Latent:
    nope, turned = given.size("qk_nope_head_dim"), given.size("qk_rope_head_dim")
    # All of the part beside the latent turns, whatever share of a head that is (Mistral 4 says the share).
    rope = replace(rope_of(given, FULL, turned, number), dims=turned)
    scale, stretch = (nope + turned) ** -0.5, rope.scaling
    if stretch is not None and stretch.mscale_all_dim and stretch.factor > 1:
        # The yarn of DeepSeek-V2 sharpens the softmax by the square of what it stretches cosines by.
        scale *= (0.1 * stretch.mscale_all_dim * math.log(stretch.factor) + 1.0) ** 2
    indexer = None
    if given.family.indexed:
        shared = given.raw("indexer") == "shared"
        indexer = Indexer(given.size("index_n_heads"), given.size("index_head_dim"), given.size("index_topk"), shared)
    return Latent(
        heads=given.size("num_attention_heads"),
        q_rank=given.maybe_size("q_lora_rank"),
        rank=given.size("kv_lora_rank"),
        nope_dim=nope,
        rope_dim=turned,
        value_dim=given.size("v_head_dim"),
        scale=scale,
        rope=rope,
        bias=given.told(given.family.qkv_bias),
        indexer=indexer,
    )


def _delta_net(given: Given) -> DeltaNet:
    keys, values = given.size("linear_num_key_heads"), given.size("linear_num_value_heads")
    if values % keys:
        given.fault(f"linear_num_key_heads must divide linear_num_value_heads: {keys} and {values}")
    dims = given.size("linear_key_head_dim"), given.size("linear_value_head_dim")
    return DeltaNet(keys, values, *dims, given.size("linear_conv_kernel_dim"))


def _state_space(given: Given) -> StateSpace:
    heads, groups = given.size("mamba_num_heads"), given.size("n_groups")
    if heads % groups:
        given.fault(f"{given.key('n_groups')} must divide {given.key('mamba_num_heads')}: {groups} and {heads}")
    return StateSpace(
        heads,
        given.size("mamba_head_dim"),
        groups,
        given.size("ssm_state_size"),
        given.size("conv_kernel"),
        given.flag("use_conv_bias"),
        given.flag("mamba_proj_bias"),
    )


# ---- feed-forward


def _activation(given: Given) -> str:
    said = given.text("hidden_act")
    found = _SPELLINGS.get(said, said)
    if found not in ACTIVATIONS:
        given.fault(f"activation must be one of {', '.join(ACTIVATIONS)}: {shown(said)}")
    return found


def _feed_forward(given: Given, width: int) -> FeedForward:
    return FeedForward(width, given.family.gated, _activation(given), given.told(given.family.mlp_bias))


def _experts(given: Given, rules: Mixture) -> Experts:
    count, chosen = given.size("num_experts"), given.size("num_experts_per_tok")
    if chosen > count:
        given.fault(f"{given.key('num_experts_per_tok')} must be at most {given.key('num_experts')}: {chosen}, {count}")
    groups, top_groups = given.count("n_group") or 1, given.count("topk_group") or 1
    if count % groups or top_groups > groups:
        given.fault(f"n_group must divide the experts, and topk_group be at most n_group: {groups}, {top_groups}")
    if chosen > count // groups * top_groups:
        given.fault(
            f"{given.key('num_experts_per_tok')} must be at most the experts of the topk_group groups that are open, "
            f"{given.key('num_experts')} / n_group * topk_group: {chosen}, {count} / {groups} * {top_groups}"
        )
    method = given.raw("topk_method")
    if method is not None and method not in TOPK_METHODS:
        given.fault(f"topk_method must be one of {', '.join(TOPK_METHODS)}: {shown(method)}")
    width = given.size("moe_intermediate_size")
    beside = {
        "none": 0,
        "count": given.count("n_shared_experts") * width if rules.shared == "count" else 0,
        "width": given.count("shared_expert_intermediate_size") if rules.shared == "width" else 0,
        "dense": given.size("intermediate_size") * max(given.count("n_shared_experts"), 1)
        if rules.shared == "dense"
        else 0,
    }[rules.shared]
    if beside > WIDTH.most:
        given.fault(f"shared experts must be at most {WIDTH.most} wide: {beside}")
    said = given.raw("scoring_func")
    if said is not None and (not isinstance(said, str) or said not in _SCORINGS):
        given.fault(f"{given.key('scoring_func')} must be one of {', '.join(_SCORINGS)}: {shown(said)}")
    activation = _activation(given) if rules.activation is None else rules.activation
    return Experts(
        count=count,
        top_k=chosen,
        width=width,
        gated=rules.gated,
        activation=activation,
        bias=given.told(rules.bias),
        router_bias=given.told(rules.router_bias),
        shared=FeedForward(beside, rules.gated, activation, given.told(given.family.mlp_bias)) if beside else None,
        shared_gate=rules.shared_gate and bool(beside),
        scoring=rules.scoring if said is None else _SCORINGS[said],
        normalise=given.told(rules.normalise),
        scale=given.scale("routed_scaling_factor"),
        groups=groups,
        top_groups=top_groups,
        correction=given.told(rules.correction),
        input_scaled=rules.input_scaled,
        latent=given.maybe_size("moe_latent_size"),
    )
