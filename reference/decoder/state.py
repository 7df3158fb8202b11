"""What a decoder runs on: dtypes, the residual stream of its ranks, layers in parts, and which models it can be.

Legend: B sequences of equal length, T new tokens, D width, H query heads and G key-value heads of a rank, K values of a
head's queries and keys and V of its values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.reference.core.architecture import Experts, ModelConfig
from thinwire.reference.core.architecture import Layer as Block
from thinwire.reference.core.mixers import Attention, Latent
from thinwire.reference.decoder.experts import check_activations
from thinwire.reference.decoder.rope import check_rope
from thinwire.reference.decoder.shard import LayerPart, Shard


@dataclass(frozen=True, slots=True)
class Precision:
    """Dtypes. The residual stream, norms, rotating and sums are fp32 whatever stands here (fp64 where compute is; a
    rotation's angles, cosines and sines are fp32 even there, as in training).

    compute: weights, the inputs of their products and the KV cache. partial: the partial sums that go to the Sync; a
    product in bf16 gives bf16 and is widened, so fp32 is more than bf16 only where compute is. logits: the head's
    product; in bf16 it would round logits of 20 by 0.06, more than a good scheme costs.
    """

    compute: torch.dtype = torch.float32
    partial: torch.dtype = torch.float32
    logits: torch.dtype = torch.float32

    @property
    def residual(self) -> torch.dtype:
        """fp32, or fp64 where compute is."""
        return torch.promote_types(self.compute, torch.float32)


FP32 = Precision()
BF16 = Precision(torch.bfloat16, torch.bfloat16)


@dataclass(slots=True)
class Stream:
    """The residual stream between two sync points, for each rank held here: `agreed` + `pending`.

    agreed: [B, T, D] of each rank; one tensor object where ranks hold the same bits. pending: what each rank has added
    and not yet shared with the others; None after a sync point that was kept.
    """

    agreed: list[Tensor]
    pending: list[Tensor] | None = None

    def values(self) -> list[Tensor]:
        """What each rank goes on with."""
        if self.pending is None:
            return self.agreed
        return [agreed + pending for agreed, pending in zip(self.agreed, self.pending, strict=True)]


@dataclass(slots=True)
class Layer:
    """A layer: what is whole on every rank, and the part of each rank held here, in rank order.

    norms: weights and biases by name. own_keys: of each rank here, places of the key-value heads that no rank before it
    holds.
    """

    shards: tuple[Shard, ...]
    norms: dict[str, Tensor]
    output_bias_D: Tensor | None
    down_bias_D: Tensor | None
    parts: list[LayerPart]
    own_keys: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Projected:
    """A rank's queries [B, H, T, K], turned keys [B, G, T, K] and values [B, G, T, V]; gate [B, T, H V] or None."""

    query: Tensor
    key: Tensor
    value: Tensor
    gate: Tensor | None


def own_keys(split: Sequence[Shard], here: Sequence[int], apart: bool) -> tuple[tuple[int, ...], ...]:
    """Of each rank here, places of the key-value heads that no rank before it holds; of all where ranks are apart."""
    seen: set[int] = set()
    found = []
    for shard in split:
        found.append(tuple(place for place, head in enumerate(shard.kv_heads) if apart or head not in seen))
        seen.update(shard.kv_heads)
    return tuple(found[rank] for rank in here)


def check_known(config: ModelConfig) -> None:
    """ValueError for what `Decoder` does not compute."""
    check_rope(config)
    check_activations(config)
    for layer, _ in config.distinct:
        if layer.mixer is not None and not isinstance(layer.mixer, Attention | Latent):
            raise ValueError(
                f"model {config.name} has layers of {type(layer.mixer).__name__}, which the decoder does not compute; "
                "allowed: attention and latent attention"
            )
        _check_block(config, layer)
    for begins, what in _BEYOND.items():
        if config.architecture.startswith(begins):
            raise ValueError(f"model {config.name} {what}, which the decoder does not compute")
    if config.extras:
        raise ValueError(f"model {config.name} has {config.extras} values that the decoder knows nothing of")


_BEYOND = {
    "MiniMaxText01": "scales its residual stream layer by layer",
    "MiniMaxFor": "scales its residual stream layer by layer",
    "MiniMaxM1": "scales its residual stream layer by layer",
    "HunYuan": "norms queries and keys after it has turned them",
}  # arithmetic that the description does not tell, by how the architecture's name begins


def longest(config: ModelConfig) -> int | None:
    """Tokens up to which a model is what its description says; None = any number.

    Llama 4 scales queries without positions from its 8192nd token on, Ministral 3 all behind its original context; a
    dynamic rotary base grows with the tokens beyond the model's positions.
    """
    ropes = [layer.mixer.rope for layer, _ in config.distinct if isinstance(layer.mixer, Attention | Latent)]
    scalings = [rope.scaling for rope in ropes if rope is not None and rope.scaling is not None]
    if any(scaling.kind == "dynamic" for scaling in scalings):
        return config.max_positions
    if config.architecture.startswith("Llama4"):
        return 8191
    if config.architecture.startswith(("Ministral3", "Mistral3")):
        return next((scaling.original_max_positions for scaling in scalings), None)
    return None


def _check_block(config: ModelConfig, layer: Block) -> None:
    mixer, feed = layer.mixer, layer.feed
    unknown = {
        "a gate of one value a head": isinstance(mixer, Attention) and mixer.head_gate,
        "keys and values of an earlier layer": isinstance(mixer, Attention) and mixer.borrowed,
        "experts of a latent": isinstance(feed, Experts) and feed.latent is not None,
        "a sparse mixer for a router": isinstance(feed, Experts) and feed.scoring == "sparse-mixer",
        "a gate on a shared expert with biases": isinstance(feed, Experts)
        and feed.shared_gate
        and feed.shared is not None
        and feed.shared.bias,
    }
    for what, there in unknown.items():
        if there:
            raise ValueError(f"model {config.name} has {what}, which the decoder does not compute")
    if layer.extra_norms or layer.extras:
        raise ValueError(f"model {config.name} has norms or values in its layers that the decoder knows nothing of")
    if layer.parallel and layer.norms != "before":
        raise ValueError(f"model {config.name} norms what parallel halves give, which the decoder does not compute")


def once(function: Callable[..., Tensor], *lists: Sequence[Tensor]) -> list[Tensor]:
    """`function` of each rank's tensors, called once for ranks that hold the same tensor objects."""
    made: dict[tuple[int, ...], Tensor] = {}
    found = []
    for arguments in zip(*lists, strict=True):
        key = tuple(map(id, arguments))
        if key not in made:
            made[key] = function(*arguments)
        found.append(made[key])
    return found
