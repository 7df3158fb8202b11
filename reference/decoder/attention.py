"""Attention of one rank's heads: rotary positions, causal and sliding masks, grouped queries, soft caps.

Legend: B sequences, T new tokens, S tokens attended to (those of the cache first), H query heads and G key-value heads
of a rank, K values of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from thinwire.reference.core.architecture import ModelConfig

ROPE_KINDS = ("linear", "llama3")


def check_rope(config: ModelConfig) -> None:
    """ValueError where a model stretches its rotary positions in a way not known here."""
    if config.rope_scaling is not None and config.rope_scaling.kind not in ROPE_KINDS:
        raise ValueError(
            f"model {config.name}: rope_scaling {config.rope_scaling.kind!r} is not supported; "
            f"allowed: none, {', '.join(ROPE_KINDS)}"
        )


def frequencies(config: ModelConfig) -> Tensor:
    """Radians per token of each pair of values, fp32 [K/2]; `llama3` scaling as in transformers' modeling_rope_utils.

    Long waves are slowed down by `factor`, short ones left alone, those between interpolated.
    """
    check_rope(config)
    # In fp32, as the models were trained: a double would turn the 8000th token by 5e-4 radians.
    places = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
    found = 1.0 / config.rope_theta**places
    scaling = config.rope_scaling
    if scaling is None:
        return found
    if scaling.kind == "linear":
        return found / scaling.factor
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_max_positions * found / (2 * math.pi)  # in the original context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * found / scaling.factor + smooth * found


def rotary(frequency_K: Tensor, start: int, tokens: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions `start` to `start + tokens`, fp32 [T, K/2] each."""
    position_T = torch.arange(start, start + tokens, dtype=torch.float32, device=frequency_K.device)
    angle_TK = position_T[:, None] * frequency_K
    return angle_TK.cos(), angle_TK.sin()


def rotate(x_BHTK: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Queries or keys turned to their positions: value k is paired with value k + K/2 (Hugging Face's layout)."""
    wide = torch.promote_types(x_BHTK.dtype, torch.float32)
    cos_TK, sin_TK = rope
    first, second = x_BHTK.to(wide).chunk(2, dim=-1)
    return torch.cat((first * cos_TK - second * sin_TK, second * cos_TK + first * sin_TK), dim=-1).to(x_BHTK.dtype)


def causal_mask(start: int, tokens: int, window: int | None, device: torch.device) -> Tensor | None:
    """Which of tokens 0 .. start+T each new token sees, bool [T, S]; None where it is all of them.

    window: a token sees itself and the window - 1 before it; None = all before it.
    """
    seen = start + tokens
    if tokens == 1 and (window is None or seen <= window):
        return None
    query_T = torch.arange(start, seen, device=device)[:, None]
    key_S = torch.arange(seen, device=device)
    mask_TS = key_S <= query_T
    return mask_TS if window is None else mask_TS & (key_S > query_T - window)


def attend(
    query_BHTK: Tensor,
    key_BGSK: Tensor,
    value_BGSK: Tensor,
    kv_of_query: Sequence[int],
    mask_TS: Tensor | None,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """softmax(cap(scale * query . key)) . value, [B, H, T, K]; cap(s) = softcap * tanh(s / softcap) where there is one.

    kv_of_query: for each query head, which key-value head it reads.
    """
    if tuple(kv_of_query) != tuple(range(key_BGSK.shape[1])):
        index_H = torch.tensor(kv_of_query, device=key_BGSK.device)
        key_BGSK, value_BGSK = key_BGSK.index_select(1, index_H), value_BGSK.index_select(1, index_H)
    if softcap is None:
        return functional.scaled_dot_product_attention(query_BHTK, key_BGSK, value_BGSK, attn_mask=mask_TS, scale=scale)
    wide = torch.promote_types(query_BHTK.dtype, torch.float32)
    score_BHTS = (query_BHTK @ key_BGSK.transpose(-1, -2)).to(wide)
    score_BHTS = softcap * torch.tanh(score_BHTS * (scale / softcap))
    if mask_TS is not None:
        score_BHTS = score_BHTS.masked_fill(~mask_TS, -math.inf)
    return score_BHTS.softmax(-1).to(value_BGSK.dtype) @ value_BGSK
