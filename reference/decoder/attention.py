"""Attention of one rank's heads: projections, norms of queries and keys, masks, grouped queries, caps, sinks, caches.

Latent attention is computed in its plain form: keys and values of every cached token are expanded anew.
Legend: B sequences, T new tokens, S tokens attended to (those of the cache first), D width, H query heads and G
key-value heads of a rank, K values of a head's queries and keys, V of its values, R latent, P values that turn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.mixers import Attention, Latent
from thinwire.reference.decoder.rope import Turn, rotate
from thinwire.reference.decoder.shard import AttentionPart, LatentPart, Shard

LATENT_EPS = 1e-6  # of the norms of latents, whatever the model's own is: transformers' DeepseekV3Attention


def causal_mask(
    start: int, tokens: int, window: int | None, device: torch.device, chunk: int | None = None
) -> Tensor | None:
    """Which of tokens 0 .. start+T each new token sees, bool [T, S]; None where it is all of them.

    window: a token sees itself and the window - 1 before it; None = all before it. chunk: of those only the ones in
    its own chunk of so many tokens.
    """
    seen = start + tokens
    reach = min(seen if window is None else window, seen if chunk is None else chunk)
    if tokens == 1 and seen <= reach:
        return None
    query_T = torch.arange(start, seen, device=device)[:, None]
    key_S = torch.arange(seen, device=device)
    mask_TS = key_S <= query_T
    if window is not None:
        mask_TS = mask_TS & (key_S > query_T - window)
    return mask_TS if chunk is None else mask_TS & (key_S // chunk == query_T // chunk)


def attend(
    query_BHTK: Tensor,
    key_BGSK: Tensor,
    value_BGSV: Tensor,
    kv_of_query: Sequence[int],
    mask_TS: Tensor | None,
    scale: float,
    softcap: float | None,
    sink_H: Tensor | None = None,
) -> Tensor:
    """softmax(cap(scale * query . key)) . value, [B, H, T, V]; cap(s) = softcap * tanh(s / softcap) where there is one.

    kv_of_query: for each query head, which key-value head it reads. sink_H: a further score of each head, whose share
    of the softmax reads nothing.
    """
    if tuple(kv_of_query) != tuple(range(key_BGSK.shape[1])):
        index_H = torch.tensor(kv_of_query, device=key_BGSK.device)
        key_BGSK, value_BGSV = key_BGSK.index_select(1, index_H), value_BGSV.index_select(1, index_H)
    if softcap is None and sink_H is None:
        return functional.scaled_dot_product_attention(query_BHTK, key_BGSK, value_BGSV, attn_mask=mask_TS, scale=scale)
    wide = torch.promote_types(query_BHTK.dtype, torch.float32)
    score_BHTS = (query_BHTK @ key_BGSK.transpose(-1, -2)).to(wide)
    score_BHTS = score_BHTS * scale if softcap is None else softcap * torch.tanh(score_BHTS * (scale / softcap))
    if mask_TS is not None:
        score_BHTS = score_BHTS.masked_fill(~mask_TS, -math.inf)
    if sink_H is not None:
        sink_BHT1 = sink_H.to(wide)[None, :, None, None].expand(*score_BHTS.shape[:-1], 1)
        score_BHTS = torch.cat((score_BHTS, sink_BHT1), dim=-1)
    weight_BHTS = score_BHTS.softmax(-1)[..., : key_BGSK.shape[2]]
    return weight_BHTS.to(value_BGSV.dtype) @ value_BGSV


def rms(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Divided by its root mean square over the last dimension; fp32, or fp64 where x is."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return scaled if weight is None else scaled * weight


# ---- grouped queries


def projected(mixer: Attention, part: AttentionPart, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Queries [B, T, H, K], keys [B, T, G, K] and values [B, T, G, V] of normed inputs; the gate of the output
    [B, T, H K] where there is one."""
    query_BTHK = _by_head(
        functional.linear(x_BTD, part.query_HKxD, part.query_bias_HK), mixer.head_dim * (2 if mixer.gated else 1)
    )
    key_BTGK = _by_head(functional.linear(x_BTD, part.key_GKxD, part.key_bias_GK), mixer.head_dim)
    gate_BTX = None
    if mixer.gated:
        query_BTHK, gate_BTHK = query_BTHK.chunk(2, dim=-1)
        gate_BTX = gate_BTHK.flatten(-2)
    if part.value_GVxD is None:
        return query_BTHK, key_BTGK, key_BTGK, gate_BTX
    value_BTX = functional.linear(x_BTD, part.value_GVxD, part.value_bias_GV)
    value_BTX = value_BTX if mixer.value_scale == 1 else value_BTX * mixer.value_scale
    return query_BTHK, key_BTGK, _by_head(value_BTX, mixer.values_per_head), gate_BTX


def _by_head(x_BTX: Tensor, size: int) -> Tensor:
    """[B, T, heads, size]; of no sequences, too."""
    return x_BTX.view(*x_BTX.shape[:2], x_BTX.shape[2] // size, size)


def head_norm(mixer: Attention, x_BTHK: Tensor, weight: Tensor | None, eps: float, mean_BT: Tensor | None) -> Tensor:
    """Queries or keys normed before they are turned, in their own dtype.

    mean_BT: mean square over all heads of all ranks, where the norm is over all at once.
    """
    if mixer.qk_norm == "head":
        return rms(x_BTHK, weight, eps).to(x_BTHK.dtype)
    if mixer.qk_norm not in ("row", "head-layer"):
        return x_BTHK
    assert weight is not None
    wide_BTHK = x_BTHK.to(torch.promote_types(x_BTHK.dtype, torch.float32))
    if mixer.qk_norm == "row":
        assert mean_BT is not None
        scaled_BTHK = wide_BTHK * torch.rsqrt(mean_BT[..., None, None] + eps)
        return (scaled_BTHK * weight.view(-1, mixer.head_dim)).to(x_BTHK.dtype)
    return (functional.layer_norm(wide_BTHK, (mixer.head_dim,), eps=eps) * weight).to(x_BTHK.dtype)


def turned(mixer: Attention, x_BTHK: Tensor, turn: Turn | None, eps: float) -> Tensor:
    """Queries or keys [B, H, T, K] turned to their positions, and normed where that comes after."""
    x_BHTK = x_BTHK.transpose(1, 2)
    if turn is not None and mixer.rope is not None:
        x_BHTK = rotate(x_BHTK, turn, mixer.rope.interleaved)
    return rms(x_BHTK, None, eps).to(x_BHTK.dtype) if mixer.qk_norm == "l2" else x_BHTK


# ---- latents


def latents(mixer: Latent, part: LatentPart, x_BTD: Tensor, turn: Turn) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, H, T, K], turned keys [B, 1, T, P] that all heads share and latents [B, 1, T, R] of normed inputs."""
    query_BTQ = x_BTD
    if part.down_QxD is not None:
        query_BTQ = functional.linear(x_BTD, part.down_QxD, part.down_bias_Q)
        query_BTQ = rms(query_BTQ, part.down_norm_Q, LATENT_EPS).to(x_BTD.dtype)
    query_BTX = functional.linear(query_BTQ, part.query_HKxQ)
    query_BHTK = _by_head(query_BTX, mixer.head_dim).transpose(1, 2)
    still_BHTK, turning_BHTP = query_BHTK[..., : mixer.nope_dim], query_BHTK[..., mixer.nope_dim :]
    query_BHTK = torch.cat((still_BHTK, rotate(turning_BHTP, turn, mixer.rope.interleaved)), dim=-1)
    both_BTX = functional.linear(x_BTD, part.latent_RxD, part.latent_bias_R)
    latent_BTR, key_BTP = both_BTX[..., : mixer.rank], both_BTX[..., mixer.rank :]
    latent_BTR = rms(latent_BTR, part.latent_norm_R, LATENT_EPS).to(x_BTD.dtype)
    return query_BHTK, rotate(key_BTP[:, None], turn, mixer.rope.interleaved), latent_BTR[:, None]


def expanded(mixer: Latent, part: LatentPart, key_B1SP: Tensor, latent_B1SR: Tensor) -> tuple[Tensor, Tensor]:
    """Keys [B, H, S, K] and values [B, H, S, V] of a rank's heads from what is cached."""
    both_BSX = functional.linear(latent_B1SR.squeeze(1), part.expand_HKVxR)
    both_BHSX = _by_head(both_BSX, mixer.nope_dim + mixer.value_dim).transpose(1, 2)
    key_BHSK, value_BHSV = both_BHSX[..., : mixer.nope_dim], both_BHSX[..., mixer.nope_dim :]
    return torch.cat((key_BHSK, key_B1SP.expand(-1, key_BHSK.shape[1], -1, -1)), dim=-1), value_BHSV


# ---- tokens so far


class Cache:
    """Keys and values of the tokens so far, by layer and rank held here; room for `capacity` tokens.

    held: the shards of each layer. Layers may differ in them, and so in the key-value heads that a rank keeps. batches:
    sequences of each rank held here, all of them on every rank where ranks share them. Latent attention keeps turned
    keys and latents, as one head's keys and values, whole on every rank.
    """

    def __init__(
        self,
        config: ModelConfig,
        held: Sequence[Sequence[Shard]],
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        batches: Sequence[int] | None = None,
    ) -> None:
        if batch < 1 or capacity < 1:
            raise ValueError(f"batch and capacity must be positive: batch={batch}, capacity={capacity}")
        self.batch, self.capacity, self.length = batch, capacity, 0
        self.held = tuple(held)
        self._kept: list[list[tuple[Tensor, Tensor]]] = []
        for spec, of_layer in zip(config.layers, held, strict=True):
            rows = []
            for shard, count in zip(of_layer, batches or [batch] * len(of_layer), strict=True):
                heads, widths = len(shard.kv_heads), (0, 0)
                if isinstance(spec.mixer, Attention):
                    widths = spec.mixer.head_dim, spec.mixer.values_per_head
                elif isinstance(spec.mixer, Latent):
                    heads, widths = 1, (spec.mixer.rope_dim, spec.mixer.rank)
                key, value = (torch.empty(count, heads, capacity, w, dtype=dtype, device=device) for w in widths)
                rows.append((key, value))
            self._kept.append(rows)

    def extend(self, layer: int, place: int, key_BGTK: Tensor, value_BGTV: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values behind the `length` tokens so far; all of them, [B, G, S, K] and [B, G, S, V]."""
        stop = self.length + key_BGTK.shape[2]
        key_BGSK, value_BGSV = self._kept[layer][place]
        key_BGSK[:, :, self.length : stop] = key_BGTK
        value_BGSV[:, :, self.length : stop] = value_BGTV
        return key_BGSK[:, :, :stop], value_BGSV[:, :, :stop]

    def check(self, batch: int, tokens: int) -> None:
        """ValueError where `tokens` more of `batch` sequences do not fit."""
        if batch != self.batch or self.length + tokens > self.capacity:
            raise ValueError(
                f"the cache has room for {self.batch} x {self.capacity} tokens and holds {self.length}: "
                f"given {batch} x {tokens} more"
            )
