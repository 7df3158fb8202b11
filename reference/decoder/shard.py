"""What each rank holds of a layer: heads, key-value heads, columns of the MLP, experts or columns of them.

Splits may be uneven: 9 heads over 4 ranks are 3, 2, 2 and 2, and over 16 ranks some hold none. A rank holds the
key-value heads that its query heads read, so one that several ranks read is replicated, and the columns of the output
projection follow the heads. Query, key, value, gate and up are column-parallel, output and down row-parallel: summed
over ranks, the partial sums of a layer are those of the layer in one piece. Projections down to a latent and routers
are whole on every rank. Experts lie whole on `ep` groups of ranks, and are cut over the ranks of a group as an MLP is.
Legend: H query heads and G key-value heads of a rank, K values of a head's queries and keys and V of its values, F
columns of a rank's part of the MLP, X experts of a rank and E of the layer, D width, R latent, Q query's latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from thinwire.reference.core.architecture import Experts, FeedForward, ModelConfig
from thinwire.reference.core.mixers import Attention, Latent


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's part of a layer.

    query_heads, kv_heads: heads of the whole model, in the order held; kv_of_query: for each query head held, the
    place of its key-value head in `kv_heads`; mlp: columns of the MLP, or of the shared expert; experts: those held,
    and columns of each.
    """

    rank: int
    query_heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    kv_of_query: tuple[int, ...]
    mlp: range
    experts: range = range(0)
    columns: range = range(0)


def even(total: int, parts: int) -> tuple[range, ...]:
    """0..total-1 cut into `parts` ranges in order, the first `total % parts` of them one longer."""
    small, longer = divmod(total, parts)
    starts = [part * small + min(part, longer) for part in range(parts + 1)]
    return tuple(range(first, last) for first, last in pairwise(starts))


def shards(
    config: ModelConfig,
    ranks: int,
    heads: Sequence[Sequence[int]] | None = None,
    layer: int = 0,
    ep: int = 1,
    apart: bool = False,
) -> tuple[Shard, ...]:
    """Every rank's part of a layer, in rank order.

    heads: the query heads of each rank, any order and number; None = in order, as even as can be. ep: groups of ranks
    with experts of their own. apart: every rank holds all but the experts. Raises ValueError for ranks < 1, ep that
    does not divide them, or heads that are not each on one rank.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be positive: ranks={ranks}")
    if ep < 1 or ranks % ep:
        raise ValueError(f"ep must divide the ranks: ep={ep}, ranks={ranks}")
    mixer, feed = config.layers[layer].mixer, config.layers[layer].feed
    total = mixer.heads if isinstance(mixer, Attention | Latent) else 0
    assigned: Sequence[Sequence[int]] = even(total, ranks) if heads is None else heads
    if apart:
        assigned = [range(total)] * ranks
    elif len(assigned) != ranks or sorted(h for part in assigned for h in part) != list(range(total)):
        raise ValueError(
            f"heads must name each of 0..{total - 1} once, in {ranks} lists: heads={[list(part) for part in assigned]}"
        )
    # Query heads that read one key-value head; latent attention has none to hold.
    share = mixer.heads // mixer.kv_heads if isinstance(mixer, Attention) else 0
    dense = feed.shared if isinstance(feed, Experts) else feed
    width = 0 if dense is None else dense.width
    columns = [range(width)] * ranks if apart else even(width, ranks)
    held, cuts = even(feed.count, ep) if isinstance(feed, Experts) else (), ranks // ep
    found = []
    for rank, (part, mine) in enumerate(zip(assigned, columns, strict=True)):
        kv_heads = tuple(sorted({head // share for head in part})) if share else ()
        kv_of_query = tuple(kv_heads.index(head // share) for head in part) if share else ()
        experts = (held[rank // cuts], even(feed.width, cuts)[rank % cuts]) if isinstance(feed, Experts) else ()
        found.append(Shard(rank, tuple(part), kv_heads, kv_of_query, mine, *experts))
    return tuple(found)


@dataclass(slots=True)
class AttentionPart:
    """One rank's matrices of grouped-query attention, as torch's `linear` takes them ([out, in]); None where there are
    none. value: None where keys serve as values. Norm weights are those of the heads held, or of any head.
    """

    query_HKxD: Tensor
    key_GKxD: Tensor
    value_GVxD: Tensor | None
    output_DxHV: Tensor
    query_bias_HK: Tensor | None = None
    key_bias_GK: Tensor | None = None
    value_bias_GV: Tensor | None = None
    query_norm: Tensor | None = None
    key_norm: Tensor | None = None
    sink_H: Tensor | None = None


@dataclass(slots=True)
class LatentPart:
    """One rank's matrices of latent attention; those down to a latent are whole. query: from the query's latent, or
    from the stream where there is none. expand: a head's keys without positions, then its values.
    """

    query_HKxQ: Tensor
    latent_RxD: Tensor  # and, behind it, the part that turns
    latent_norm_R: Tensor
    expand_HKVxR: Tensor
    output_DxHV: Tensor
    down_QxD: Tensor | None = None
    down_norm_Q: Tensor | None = None
    down_bias_Q: Tensor | None = None
    latent_bias_R: Tensor | None = None


@dataclass(slots=True)
class MlpPart:
    """One rank's matrices of an MLP. gate: None where it has none."""

    gate_FxD: Tensor | None
    up_FxD: Tensor
    down_DxF: Tensor
    gate_bias_F: Tensor | None = None
    up_bias_F: Tensor | None = None


@dataclass(slots=True)
class ExpertsPart:
    """One rank's matrices of a mixture. The down projections' biases lie with the first columns of each expert."""

    router_ExD: Tensor
    gate_XFxD: Tensor | None
    up_XFxD: Tensor
    down_XDxF: Tensor
    gate_bias_XF: Tensor | None = None
    up_bias_XF: Tensor | None = None
    down_bias_XD: Tensor | None = None
    router_bias_E: Tensor | None = None
    correction_E: Tensor | None = None
    shared: MlpPart | None = None
    shared_gate_1xD: Tensor | None = None


@dataclass(slots=True)
class LayerPart:
    """One rank's part of a layer; None for a half that the layer has not.

    The biases of the output and down projections belong to no rank: they are added once, to the sum.
    """

    mixer: AttentionPart | LatentPart | None
    feed: MlpPart | ExpertsPart | None


def cut(
    config: ModelConfig, shard: Shard, tensors: Mapping[str, Tensor], own: bool = False, layer: int = 0
) -> LayerPart:
    """A rank's part of a layer.

    tensors: the layer's, by their names in `names.layer_shapes`. own: hold copies, so that the whole tensors can be
    freed; otherwise parts that lie together are views.
    """
    mixer, feed, taking = config.layers[layer].mixer, config.layers[layer].feed, _Taking(tensors, own)
    mixed: AttentionPart | LatentPart | None = None
    if isinstance(mixer, Attention):
        mixed = _attention(mixer, shard, taking)
    elif isinstance(mixer, Latent):
        mixed = _latent(mixer, shard, taking)
    fed: MlpPart | ExpertsPart | None = None
    if isinstance(feed, Experts):
        fed = _experts(feed, shard, taking)
    elif feed is not None:
        fed = _mlp(feed, shard, taking, "mlp")
    return LayerPart(mixed, fed)


@dataclass(frozen=True, slots=True)
class _Taking:
    """Parts of a layer's tensors."""

    tensors: Mapping[str, Tensor]
    own: bool

    def heads(self, name: str, chosen: Sequence[int], size: int, dim: int = 0) -> Tensor:
        """Rows (or columns) of heads of `size` values each."""
        ranges = [range(head * size, (head + 1) * size) for head in chosen]
        return _take(self.tensors[name], ranges, dim, self.own)

    def columns(self, name: str, columns: range, dim: int = 0) -> Tensor:
        return _take(self.tensors[name], [columns], dim, self.own)

    def stack(self, name: str, shard: Shard, dim: int) -> Tensor:
        """Columns of the experts held, of a tensor [E, ...]."""
        chosen = _take(self.tensors[name], [shard.experts], 0, self.own)
        return _take(chosen, [shard.columns], dim, self.own)


def _attention(mixer: Attention, shard: Shard, taking: _Taking) -> AttentionPart:
    size, wide, query = mixer.head_dim, mixer.values_per_head, mixer.head_dim * (2 if mixer.gated else 1)
    part = AttentionPart(
        query_HKxD=taking.heads("self_attn.q_proj.weight", shard.query_heads, query),
        key_GKxD=taking.heads("self_attn.k_proj.weight", shard.kv_heads, size),
        value_GVxD=None,
        output_DxHV=taking.heads("self_attn.o_proj.weight", shard.query_heads, wide, dim=1),
    )
    if not mixer.keys_are_values:
        part.value_GVxD = taking.heads("self_attn.v_proj.weight", shard.kv_heads, wide)
    if mixer.qkv_bias:
        part.query_bias_HK = taking.heads("self_attn.q_proj.bias", shard.query_heads, query)
        part.key_bias_GK = taking.heads("self_attn.k_proj.bias", shard.kv_heads, size)
        if not mixer.keys_are_values:
            part.value_bias_GV = taking.heads("self_attn.v_proj.bias", shard.kv_heads, wide)
    if mixer.qk_norm == "head":
        part.query_norm = taking.tensors["self_attn.q_norm.weight"]
        part.key_norm = taking.tensors["self_attn.k_norm.weight"]
    elif mixer.qk_norm in ("row", "head-layer"):
        rows = size if mixer.qk_norm == "row" else 1
        part.query_norm = taking.heads("self_attn.q_norm.weight", shard.query_heads, rows)
        part.key_norm = taking.heads("self_attn.k_norm.weight", shard.kv_heads, rows)
    if mixer.sinks:
        part.sink_H = taking.heads("self_attn.sinks", shard.query_heads, 1)
    return part


def _latent(mixer: Latent, shard: Shard, taking: _Taking) -> LatentPart:
    expanded, found = mixer.nope_dim + mixer.value_dim, taking.tensors
    query = "self_attn.q_proj.weight" if mixer.q_rank is None else "self_attn.q_b_proj.weight"
    part = LatentPart(
        query_HKxQ=taking.heads(query, shard.query_heads, mixer.head_dim),
        latent_RxD=found["self_attn.kv_a_proj_with_mqa.weight"],
        latent_norm_R=found["self_attn.kv_a_layernorm.weight"],
        expand_HKVxR=taking.heads("self_attn.kv_b_proj.weight", shard.query_heads, expanded),
        output_DxHV=taking.heads("self_attn.o_proj.weight", shard.query_heads, mixer.value_dim, dim=1),
    )
    if mixer.q_rank is not None:
        part.down_QxD, part.down_norm_Q = found["self_attn.q_a_proj.weight"], found["self_attn.q_a_layernorm.weight"]
    if mixer.bias:
        part.latent_bias_R = found["self_attn.kv_a_proj_with_mqa.bias"]
        part.down_bias_Q = found["self_attn.q_a_proj.bias"] if mixer.q_rank is not None else None
    return part


def _mlp(feed: FeedForward, shard: Shard, taking: _Taking, name: str) -> MlpPart:
    part = MlpPart(
        gate_FxD=taking.columns(f"{name}.gate_proj.weight", shard.mlp) if feed.gated else None,
        up_FxD=taking.columns(f"{name}.up_proj.weight", shard.mlp),
        down_DxF=taking.columns(f"{name}.down_proj.weight", shard.mlp, dim=1),
    )
    if feed.bias:
        part.gate_bias_F = taking.columns(f"{name}.gate_proj.bias", shard.mlp) if feed.gated else None
        part.up_bias_F = taking.columns(f"{name}.up_proj.bias", shard.mlp)
    return part


def _experts(feed: Experts, shard: Shard, taking: _Taking) -> ExpertsPart:
    found = taking.tensors
    part = ExpertsPart(
        router_ExD=found["mlp.router.weight"],
        gate_XFxD=taking.stack("mlp.experts.gate_proj.weight", shard, 1) if feed.gated else None,
        up_XFxD=taking.stack("mlp.experts.up_proj.weight", shard, 1),
        down_XDxF=taking.stack("mlp.experts.down_proj.weight", shard, 2),
        router_bias_E=found.get("mlp.router.bias"),
        correction_E=found.get("mlp.router.correction"),
        shared_gate_1xD=found.get("mlp.shared_gate.weight"),
    )
    if feed.bias:
        part.gate_bias_XF = taking.stack("mlp.experts.gate_proj.bias", shard, 1) if feed.gated else None
        part.up_bias_XF = taking.stack("mlp.experts.up_proj.bias", shard, 1)
        if shard.columns.start == 0:
            part.down_bias_XD = _take(found["mlp.experts.down_proj.bias"], [shard.experts], 0, taking.own)
    if feed.shared is not None:
        part.shared = _mlp(feed.shared, shard, taking, "mlp.shared")
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
