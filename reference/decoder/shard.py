"""What each tensor-parallel rank holds of a layer: heads, key-value heads, columns of the MLP.

Splits may be uneven: 9 heads over 4 ranks are 3, 2, 2 and 2, and over 16 ranks some hold none. A rank holds the
key-value heads that its query heads read, so one that several ranks read is replicated, and the columns of the output
projection follow the heads. Query, key, value, gate and up are column-parallel, output and down row-parallel: summed
over ranks, the partial sums of a layer are those of the layer in one piece.
Legend: H query heads and G key-value heads of a rank, K values of a head, F columns of its part of the MLP, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from thinwire.reference.core.architecture import ModelConfig


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part of every layer.

    query_heads, kv_heads: heads of the whole model, in the order held; kv_of_query: for each query head held, the
    place of its key-value head in `kv_heads`; mlp: columns of the gated MLP.
    """

    rank: int
    query_heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    kv_of_query: tuple[int, ...]
    mlp: range


def even(total: int, parts: int) -> tuple[range, ...]:
    """0..total-1 cut into `parts` ranges in order, the first `total % parts` of them one longer."""
    small, longer = divmod(total, parts)
    starts = [part * small + min(part, longer) for part in range(parts + 1)]
    return tuple(range(first, last) for first, last in pairwise(starts))


def shards(config: ModelConfig, ranks: int, heads: Sequence[Sequence[int]] | None = None) -> tuple[Shard, ...]:
    """Every rank's part, in rank order.

    heads: the query heads of each rank, any order and number; None = in order, as even as can be. Raises ValueError
    for ranks < 1, or heads that are not each on one rank.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be positive: ranks={ranks}")
    assigned = even(config.num_heads, ranks) if heads is None else heads
    if len(assigned) != ranks or sorted(h for part in assigned for h in part) != list(range(config.num_heads)):
        raise ValueError(
            f"heads must name each of 0..{config.num_heads - 1} once, in {ranks} lists: "
            f"heads={[list(part) for part in assigned]}"
        )
    share = config.num_heads // config.num_kv_heads  # query heads that read one key-value head
    found = []
    for rank, (part, columns) in enumerate(zip(assigned, even(config.intermediate_size, ranks), strict=True)):
        kv_heads = tuple(sorted({head // share for head in part}))
        kv_of_query = tuple(kv_heads.index(head // share) for head in part)
        found.append(Shard(rank, tuple(part), kv_heads, kv_of_query, columns))
    return tuple(found)


@dataclass(slots=True)
class LayerPart:
    """One rank's matrices of one layer, as torch's `linear` takes them ([out, in]); biases None where there are none.

    The biases of the output and down projections belong to no rank: they are added once, to the sum.
    """

    query_HKxD: Tensor
    key_GKxD: Tensor
    value_GKxD: Tensor
    output_DxHK: Tensor
    gate_FxD: Tensor
    up_FxD: Tensor
    down_DxF: Tensor
    query_bias_HK: Tensor | None = None
    key_bias_GK: Tensor | None = None
    value_bias_GK: Tensor | None = None
    gate_bias_F: Tensor | None = None
    up_bias_F: Tensor | None = None


def cut(config: ModelConfig, shard: Shard, tensors: Mapping[str, Tensor], own: bool = False) -> LayerPart:
    """A rank's part of a layer.

    tensors: the layer's, by their Hugging Face names without `model.layers.N.`. own: hold copies, so that the whole
    tensors can be freed; otherwise parts that lie together are views.
    """
    size = config.head_dim

    def heads(name: str, chosen: Sequence[int], dim: int = 0) -> Tensor:
        return _take(tensors[name], [range(head * size, (head + 1) * size) for head in chosen], dim, own)

    def columns(name: str, dim: int = 0) -> Tensor:
        return _take(tensors[name], [shard.mlp], dim, own)

    part = LayerPart(
        query_HKxD=heads("self_attn.q_proj.weight", shard.query_heads),
        key_GKxD=heads("self_attn.k_proj.weight", shard.kv_heads),
        value_GKxD=heads("self_attn.v_proj.weight", shard.kv_heads),
        output_DxHK=heads("self_attn.o_proj.weight", shard.query_heads, dim=1),
        gate_FxD=columns("mlp.gate_proj.weight"),
        up_FxD=columns("mlp.up_proj.weight"),
        down_DxF=columns("mlp.down_proj.weight", dim=1),
    )
    if config.qkv_bias:
        part.query_bias_HK = heads("self_attn.q_proj.bias", shard.query_heads)
        part.key_bias_GK = heads("self_attn.k_proj.bias", shard.kv_heads)
        part.value_bias_GK = heads("self_attn.v_proj.bias", shard.kv_heads)
    if config.mlp_bias:
        part.gate_bias_F = columns("mlp.gate_proj.bias")
        part.up_bias_F = columns("mlp.up_proj.bias")
    return part


def _take(whole: Tensor, ranges: Sequence[range], dim: int, own: bool) -> Tensor:
    """Ranges of a dimension, one after the other, contiguous; a view where they adjoin and the layout allows."""
    if not ranges:
        return whole.narrow(dim, 0, 0).clone()
    if all(left.stop == right.start for left, right in pairwise(ranges)):
        start, stop = ranges[0].start, ranges[-1].stop
        # Matrix kernels read a strided operand slowly or copy it each time, so it is copied once.
        part = whole.narrow(dim, start, stop - start).contiguous()
        return part.clone() if own and part.numel() < whole.numel() and _views(part, whole) else part
    chosen = torch.tensor([position for found in ranges for position in found], device=whole.device)
    return whole.index_select(dim, chosen)


def _views(part: Tensor, whole: Tensor) -> bool:
    return part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
