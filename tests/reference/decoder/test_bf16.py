"""What `Precision` says of BF16 and nothing else is rounded: the decoder against a model written out by hand.

The oracle rounds where the documentation says so. Told to round one thing more (or the embedding's factor not at all)
it strays by a thousand times the tolerance, so a decoder that did would fail.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.decoder.model import BF16, Decoder
from thinwire.reference.decoder.rope import frequencies
from thinwire.reference.groups.group import LocalGroup

from .. import tiny

torch.set_num_threads(1)
TOKENS = 24
WIDTH = 40  # Gemma's factor, its root, is no number of bf16
CASTS = {
    "llama": ("head", "residual", "norm", "norm weights", "angles"),
    "gemma2": ("head", "residual", "norm", "norm weights", "angles", "factor", "scores", "cap"),
}


def oracle(model: ModelConfig, weights: dict[str, Tensor], ids_T: Tensor, cast: str = "") -> Tensor:
    """Logits [T, V] on one rank. cast: what is rounded to bf16 and should not be; of `factor` the other way round."""
    mixer, gemma = model.attention, model.layers[0].norms == "both"
    heads, groups, size = mixer.heads, mixer.kv_heads, mixer.head_dim
    assert mixer.rope is not None

    def kept(what: str, x: Tensor) -> Tensor:
        return x.bfloat16().float() if what == cast else x

    def norm(x_TD: Tensor, name: str) -> Tensor:
        x_TD, weight_D = kept("norm", x_TD), kept("norm weights", weights[name])
        scaled_TD = x_TD * torch.rsqrt((x_TD * x_TD).mean(-1, keepdim=True) + model.norm_eps)
        return scaled_TD * (weight_D + 1 if gemma else weight_D)

    def product(x_TX: Tensor, name: str) -> Tensor:  # bf16 in, bf16 out
        return functional.linear(x_TX.bfloat16(), weights[name].bfloat16())

    angle_TK = torch.outer(torch.arange(TOKENS).float(), frequencies(mixer.rope)).repeat(1, 2)
    cos_TK, sin_TK = kept("angles", angle_TK.cos()), kept("angles", angle_TK.sin())

    def turned(x_HTK: Tensor) -> Tensor:
        first, second = x_HTK.float().chunk(2, -1)
        return (x_HTK.float() * cos_TK + torch.cat((-second, first), -1) * sin_TK).bfloat16()

    def attention(prefix: str, x_TD: Tensor, window: int | None) -> Tensor:
        q, k, v = (product(x_TD, f"{prefix}{p}_proj.weight").view(1, TOKENS, -1, size).transpose(1, 2) for p in "qkv")
        k, v = turned(k).repeat_interleave(heads // groups, 1), v.repeat_interleave(heads // groups, 1)
        apart_TS = torch.arange(TOKENS)[:, None] - torch.arange(TOKENS)
        mask_TS = (apart_TS >= 0) & (apart_TS < (window or TOKENS))
        if mixer.softcap is None:
            out = functional.scaled_dot_product_attention(turned(q), k, v, attn_mask=mask_TS, scale=mixer.scale)
        else:
            cap = mixer.softcap
            scores = kept("scores", cap * torch.tanh((turned(q) @ k.transpose(-1, -2)).float() * (mixer.scale / cap)))
            out = scores.masked_fill(~mask_TS, -torch.inf).softmax(-1).bfloat16() @ v
        return product(out.transpose(1, 2).reshape(TOKENS, -1), f"{prefix}o_proj.weight").float()

    def mlp(prefix: str, x_TD: Tensor) -> Tensor:
        activation: Callable[[Tensor], Tensor] = functional.silu
        if gemma:
            activation = lambda x: functional.gelu(x, approximate="tanh")  # noqa: E731
        gate_TF = activation(product(x_TD, f"{prefix}gate_proj.weight"))
        return product(gate_TF * product(x_TD, f"{prefix}up_proj.weight"), f"{prefix}down_proj.weight").float()

    x_TD = weights["model.embed_tokens.weight"][ids_T].bfloat16().float()
    if gemma:
        factor = torch.tensor(model.hidden_size**0.5)
        x_TD = x_TD * (factor if cast == "factor" else factor.bfloat16().float())
    for layer in range(model.num_layers):
        name = f"model.layers.{layer}."
        before_mlp = "pre_feedforward_layernorm.weight" if gemma else "post_attention_layernorm.weight"
        window = model.layers[layer].mixer.window  # type: ignore[union-attr]
        added_TD = attention(f"{name}self_attn.", norm(x_TD, f"{name}input_layernorm.weight"), window)
        if gemma:
            added_TD = norm(added_TD, f"{name}post_attention_layernorm.weight")
        x_TD = kept("residual", x_TD + added_TD)
        added_TD = mlp(f"{name}mlp.", norm(x_TD, name + before_mlp))
        if gemma:
            added_TD = norm(added_TD, f"{name}post_feedforward_layernorm.weight")
        x_TD = kept("residual", x_TD + added_TD)
    head_VD = weights["model.embed_tokens.weight" if model.tied_embeddings else "lm_head.weight"]
    hidden_TD = norm(x_TD, "model.norm.weight")
    logits_TV = functional.linear(hidden_TD, head_VD)
    if cast == "head":
        logits_TV = functional.linear(hidden_TD.bfloat16(), head_VD.bfloat16()).float()
    cap = model.final_softcap
    return logits_TV if cap is None else cap * kept("cap", torch.tanh(kept("cap", logits_TV / cap)))


@pytest.mark.parametrize("family", CASTS)
def test_nothing_but_what_is_documented_is_rounded(family: str) -> None:
    """To 1e-6 of the logits' norm, which leaves room for the order of fp32 sums in the head and no other."""
    model = tiny.config(family, hidden_size=WIDTH)
    weights, ids_BT = tiny.weights(model), tiny.ids(model, 1, TOKENS)
    with torch.no_grad():
        ours = Decoder(model, weights, LocalGroup(1), precision=BF16)
        got_TV = ours.logits(ours.forward(ids_BT))[0]
        wanted_TV = oracle(model, weights, ids_BT[0])
        strays = {cast: float((oracle(model, weights, ids_BT[0], cast) - got_TV).norm()) for cast in CASTS[family]}
    size = float(wanted_TV.norm())
    assert float((got_TV - wanted_TV).norm()) <= 1e-6 * size
    assert min(strays.values()) > 1e-3 * size, strays
