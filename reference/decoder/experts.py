"""Mixtures of experts: which experts a token goes to, what they make of it, and the activations of any feed-forward.

Legend: N tokens, E experts, C chosen experts of a token, D width, F columns of an expert held here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from thinwire.reference.core.architecture import Experts, FeedForward, ModelConfig
from thinwire.reference.decoder.shard import ExpertsPart, MlpPart

CLAMPED = "swigluoai"  # gate and up clamped at LIMIT, gate * sigmoid(ALPHA * gate) * (up + 1)
LIMIT, ALPHA = 7.0, 1.702  # arXiv 2508.10925 and transformers' GptOssConfig

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_new": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
    "relu2": lambda x: functional.relu(x).square(),
}


def check_activations(config: ModelConfig) -> None:
    """ValueError for an activation that is not known here."""
    for layer, _ in config.distinct:
        feeds = [layer.feed, layer.feed.shared if isinstance(layer.feed, Experts) else None]
        for feed in feeds:
            if feed is not None and feed.activation not in (*_ACTIVATIONS, CLAMPED):
                allowed = ", ".join((*_ACTIVATIONS, CLAMPED))
                raise ValueError(f"model {config.name} has activation {feed.activation!r}; allowed: {allowed}")


def activated(feed: FeedForward | Experts, gate: Tensor | None, up: Tensor) -> Tensor:
    """What goes into the product down; gate: None where the feed-forward has no gate."""
    if feed.activation == CLAMPED:
        assert gate is not None
        gate, up = gate.clamp(max=LIMIT), up.clamp(-LIMIT, LIMIT)
        return (up + 1) * (gate * torch.sigmoid(gate * ALPHA))
    act = _ACTIVATIONS[feed.activation]
    return act(up) if gate is None else act(gate) * up


def route(spec: Experts, logits_NE: Tensor, correction_E: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Chosen experts and their weights, [N, C] each, of a router's fp32 logits.

    With groups, experts are chosen in the groups that score best: by their best expert (DeepSeek V2), or by their best
    two where a correction biases the choice (DeepSeek V3, arXiv 2412.19437, section 2.1.2).
    """
    if spec.scoring == "softmax-of-chosen":
        top_NC, index_NC = logits_NE.topk(spec.top_k, dim=-1)
        return index_NC, top_NC.softmax(-1) * spec.scale
    score_NE = logits_NE.softmax(-1) if spec.scoring == "softmax" else logits_NE.sigmoid()
    choice_NE = score_NE if correction_E is None else score_NE + correction_E
    if spec.groups > 1:
        inside = choice_NE.view(len(choice_NE), spec.groups, spec.count // spec.groups)
        best_NG = inside.amax(-1) if correction_E is None else inside.topk(2, dim=-1).values.sum(-1)
        open_NG = torch.zeros_like(best_NG, dtype=torch.bool)
        open_NG.scatter_(-1, best_NG.topk(spec.top_groups, dim=-1).indices, True)
        choice_NE = inside.masked_fill(~open_NG[..., None], -torch.inf).flatten(-2)
    index_NC = choice_NE.topk(spec.top_k, dim=-1).indices
    weight_NC = score_NE.gather(-1, index_NC)
    if spec.normalise:
        weight_NC = weight_NC / (weight_NC.sum(-1, keepdim=True) + 1e-20)
    return index_NC, weight_NC * spec.scale


def through(feed: FeedForward, part: MlpPart, x: Tensor) -> Tensor:
    """A rank's part of an MLP's output, without the bias of the product down."""
    gate = None if part.gate_FxD is None else functional.linear(x, part.gate_FxD, part.gate_bias_F)
    return functional.linear(activated(feed, gate, functional.linear(x, part.up_FxD, part.up_bias_F)), part.down_DxF)


def expert(spec: Experts, part: ExpertsPart, place: int, x_ND: Tensor) -> Tensor:
    """What the expert at `place` of those held makes of some tokens: a rank's part of it, [N, D]."""

    def at(stacked: Tensor | None) -> Tensor | None:
        return None if stacked is None else stacked[place]

    gate_NF = None
    if part.gate_XFxD is not None:
        gate_NF = functional.linear(x_ND, part.gate_XFxD[place], at(part.gate_bias_XF))
    up_NF = functional.linear(x_ND, part.up_XFxD[place], at(part.up_bias_XF))
    return functional.linear(activated(spec, gate_NF, up_NF), part.down_XDxF[place], at(part.down_bias_XD))


def chosen(spec: Experts, part: ExpertsPart, x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """`route` of some tokens; the router's product is in fp32, or fp64 where its weights are."""
    logits_NE = functional.linear(x_ND.to(part.router_ExD.dtype), part.router_ExD, part.router_bias_E)
    return route(spec, logits_NE, part.correction_E)


def mixed(
    spec: Experts, part: ExpertsPart, experts: range, x_ND: Tensor, index_NC: Tensor, weight_NC: Tensor
) -> Tensor:
    """The part of a mixture's output that the experts held here give, in the weights' fp32 (fp64), [N, D]."""
    total_ND = torch.zeros(x_ND.shape, dtype=weight_NC.dtype, device=x_ND.device)
    for place, number in enumerate(experts):
        token_M, choice_M = torch.where(index_NC == number)
        if len(token_M):
            weight_M1 = weight_NC[token_M, choice_M, None]
            given_MD, after = weighted(spec, x_ND[token_M], weight_M1)
            total_ND.index_add_(0, token_M, expert(spec, part, place, given_MD) * after)
    return total_ND


def weighted(spec: Experts, x_MD: Tensor, weight_M1: Tensor) -> tuple[Tensor, Tensor]:
    """What an expert is given, and what its output is multiplied with."""
    if spec.input_scaled:
        return (x_MD * weight_M1).to(x_MD.dtype), torch.ones_like(weight_M1)
    return x_MD, weight_M1


def shared(spec: Experts, part: ExpertsPart, x: Tensor) -> Tensor | None:
    """A rank's part of what the shared expert gives; None where there is none."""
    if spec.shared is None or part.shared is None:
        return None
    found = through(spec.shared, part.shared, x)
    if part.shared_gate_1xD is None:
        return found
    return torch.sigmoid(functional.linear(x, part.shared_gate_1xD)) * found
