"""Rotary positions: how fast each pair of values turns, stretched or not, and turning queries and keys.

Formulas as in transformers' modeling_rope_utils: `linear`, `llama3` (Llama 3.1), `yarn` (arXiv 2309.00071, section 3)
and `longrope` (arXiv 2402.13753; Phi-3's short and long factors). `dynamic` (InternLM 2) stretches nothing within the
model's own positions, beyond which the decoder refuses it.
Legend: B sequences, T tokens, H heads, K values of a head, P pairs of values that turn.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.mixers import Attention, Latent, Rope, RopeScaling

ROPE_KINDS = ("linear", "llama3", "yarn", "longrope", "dynamic")

Turn = tuple[Tensor, Tensor]  # cosines and sines of positions, fp32 [T, P] each


def check_rope(config: ModelConfig) -> None:
    """ValueError where a model stretches its rotary positions in a way not known here."""
    for layer, _ in config.distinct:
        rope = layer.mixer.rope if isinstance(layer.mixer, Attention | Latent) else None
        if rope is not None and rope.scaling is not None and rope.scaling.kind not in ROPE_KINDS:
            raise ValueError(
                f"model {config.name}: rope_scaling {rope.scaling.kind!r} is not supported; "
                f"allowed: none, {', '.join(ROPE_KINDS)}"
            )


def frequencies(rope: Rope, tokens: int = 1) -> Tensor:
    """Radians per token of each pair of values, fp32 [P].

    tokens: of the sequence so far; `longrope` turns by other factors once they exceed its original context. Long waves
    are slowed down by `factor`, short ones left alone, those between interpolated.
    """
    # In fp32, as the models were trained: a double would turn the 8000th token by 5e-4 radians.
    places = torch.arange(0, rope.dims, 2, dtype=torch.float32) / rope.dims
    found, scaling = 1.0 / rope.theta**places, rope.scaling
    if scaling is None or scaling.kind == "dynamic":
        return found
    if scaling.kind == "linear":
        return found / scaling.factor
    if scaling.kind == "longrope":
        chosen = scaling.long if tokens > scaling.original_max_positions else scaling.short
        return 1.0 / (torch.tensor(chosen, dtype=torch.float32) * rope.theta**places)
    if scaling.kind == "yarn":
        slowed = _yarn_ramp(rope, scaling)
        return found / scaling.factor * slowed + found * (1 - slowed)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_max_positions * found / (2 * math.pi)  # in the original context
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * found / scaling.factor + smooth * found


def _yarn_ramp(rope: Rope, scaling: RopeScaling) -> Tensor:
    """How far each pair is slowed down: 0 where it turns beta_fast times in the original context, 1 where beta_slow."""

    def place(turns: float) -> float:
        """The pair, of a real number, that turns so often."""
        return rope.dims * math.log(scaling.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = place(scaling.beta_fast), place(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dims - 1)
    high = high + 0.001 if low == high else high
    return ((torch.arange(rope.dims // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)


def amplitude(rope: Rope) -> float:
    """What cosines and sines are multiplied with: attention grows sharper over a stretched context."""
    scaling = rope.scaling
    if scaling is None or scaling.kind not in ("yarn", "longrope"):
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.factor <= 1:
        return 1.0
    if scaling.kind == "longrope":
        return math.sqrt(1 + math.log(scaling.factor) / math.log(scaling.original_max_positions))

    def by(mscale: float) -> float:
        return 0.1 * mscale * math.log(scaling.factor) + 1.0

    if scaling.mscale and scaling.mscale_all_dim:
        return by(scaling.mscale) / by(scaling.mscale_all_dim)
    return by(1.0)


def turning(rope: Rope, start: int, tokens: int, device: torch.device) -> Turn:
    """Cosines and sines of positions `start` to `start + tokens`."""
    frequency_P = frequencies(rope, start + tokens).to(device)
    factor = amplitude(rope)
    cos_TP, sin_TP = rotary(frequency_P, start, tokens)
    return (cos_TP, sin_TP) if factor == 1 else (cos_TP * factor, sin_TP * factor)


def rotary(frequency_P: Tensor, start: int, tokens: int) -> Turn:
    """Cosines and sines of positions `start` to `start + tokens` at these frequencies."""
    position_T = torch.arange(start, start + tokens, dtype=torch.float32, device=frequency_P.device)
    angle_TP = position_T[:, None] * frequency_P
    return angle_TP.cos(), angle_TP.sin()


def rotate(x_BHTK: Tensor, turn: Turn, interleaved: bool = False) -> Tensor:
    """Queries or keys turned to their positions; values behind the P pairs stay.

    Value k is paired with value k + P (Hugging Face's layout), or 2k with 2k + 1 where interleaved.
    """
    wide = torch.promote_types(x_BHTK.dtype, torch.float32)
    cos_TP, sin_TP = turn
    turned, rest = x_BHTK[..., : 2 * cos_TP.shape[-1]].to(wide), x_BHTK[..., 2 * cos_TP.shape[-1] :]
    first, second = (turned[..., ::2], turned[..., 1::2]) if interleaved else turned.chunk(2, dim=-1)
    pair = first * cos_TP - second * sin_TP, second * cos_TP + first * sin_TP
    done = torch.stack(pair, dim=-1).flatten(-2) if interleaved else torch.cat(pair, dim=-1)
    done = done.to(x_BHTK.dtype)
    return torch.cat((done, rest), dim=-1) if rest.shape[-1] else done
