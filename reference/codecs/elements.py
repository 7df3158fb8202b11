"""Numbers as they cross the wire: scales and minima in their wire formats, MX elements as codes.

Legend: G groups, K values of a group, N values. Everything is fp32 inside; every rounding is to nearest, ties
to even, but for two that are directed on purpose (an integer grid's e8m0 scale upwards, a minimum downwards).
docs/decisions/006-numerics.md gives the reasons.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from thinwire.reference.core.formats import ElementFormat, element, scale_cap

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
BF16_MAX = float(element("bf16").maximum)
# The one NaN that is sent: a cast gives 0x7fc0 or 0xffff on one CPU, and 0x7fff on a GPU.
_NAN = {
    torch.bfloat16: (torch.int16, 0x7FC0),
    torch.float16: (torch.int16, 0x7E00),
    torch.float32: (torch.int32, 0x7FC00000),
}
_FLOAT8 = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def exact_div(values: Tensor, divisor: float) -> Tensor:
    """values / divisor, correctly rounded on every device: a GPU divides by a plain number by multiplying with its
    reciprocal, which is a rounding more."""
    return values.div(values.new_full((), divisor))


def cast(values: Tensor, dtype: torch.dtype) -> Tensor:
    """`values` (fp32) as `dtype`, always a copy; every NaN has the same bits, whoever casts."""
    word, nan = _NAN[dtype]
    sent = values.to(dtype, copy=True)
    sent.view(word).masked_fill_(values.isnan(), nan)
    return sent


def to_scale(wanted_G: Tensor, name: str, top: float) -> tuple[Tensor, Tensor]:
    """(as sent, as fp32) for scales `wanted_G` >= 0: rounded to format `name`, no larger than `scale_cap`.

    e8m0 rounds up, so no group is clipped by its scale; zero becomes 2^-127, e8m0 having no zero. What is not
    finite becomes NaN, which every format can say.
    """
    finite_G = torch.isfinite(wanted_G)
    # A range of zeros may come with either sign.
    wanted_G = (wanted_G.clamp_max(scale_cap(name, top)) + 0.0).masked_fill_(~finite_G, math.nan)
    if name != "e8m0":
        sent_G = cast(wanted_G, DTYPES[name])
        return sent_G, sent_G.float()
    bits_G = wanted_G.view(torch.int32)
    byte_G = (bits_G >> 23) + ((bits_G & 0x7FFFFF) != 0)  # a subnormal of fp32 above 2^-127 becomes 2^-126
    byte_G = torch.where(wanted_G <= 2.0**-127, 0, byte_G)
    sent_G = byte_G.masked_fill_(~finite_G, 255).to(torch.uint8)
    return sent_G, e8m0_value(sent_G)


def to_minimum(wanted_G: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """(as sent, as fp32) for minima: rounded down, so the grid reaches every value above them.

    -0.0 becomes +0.0; beyond the format's range its largest finite number; NaN and infinities become NaN.
    """
    largest = element(name).maximum
    clipped_G = wanted_G.clamp(-largest, largest) + 0.0
    clipped_G = clipped_G.masked_fill_(~torch.isfinite(wanted_G), math.nan)
    sent_G = cast(clipped_G, DTYPES[name])
    if name != "fp32":
        bits_G = sent_G.view(torch.int16)
        below_G = torch.where(sent_G > 0, bits_G - 1, torch.where(sent_G == 0, -32767, bits_G + 1))
        sent_G = torch.where(sent_G.float() > clipped_G, below_G, bits_G).to(torch.int16).view(DTYPES[name])
    return sent_G, sent_G.float()


def to_bf16(values: Tensor) -> Tensor:
    """Rounded to bf16; infinities and what would round to one become the largest finite number, NaN stays."""
    return cast(values.clamp(-BF16_MAX, BF16_MAX), torch.bfloat16)


@cache
def _e8m0_table(power: int, sign: int, device: torch.device) -> Tensor:
    """2^(sign * (byte - 127) + power) for every byte; NaN (or, for an inverse, 0) for 255."""
    found = [math.ldexp(1.0, sign * (byte - 127) + power) for byte in range(255)]
    return torch.tensor([*found, math.nan if sign > 0 else 0.0], dtype=torch.float32, device=device)


def e8m0_value(byte_G: Tensor) -> Tensor:
    """fp32 values of e8m0 bytes, exact: 2^-127 is an fp32 subnormal, 255 is NaN."""
    return _e8m0_table(0, 1, byte_G.device)[byte_G.int()]


def e8m0_inverse(byte_G: Tensor, power: int) -> Tensor:
    """fp32 2^power / value, exact; 0 for NaN."""
    return _e8m0_table(power, -1, byte_G.device)[byte_G.int()]


def mx_scale(amax_G: Tensor, row: ElementFormat, mode: str) -> Tensor:
    """The e8m0 byte of blocks whose largest magnitude is `amax_G` (fp32); 255 (NaN) where that is not finite.

    `floor` (OCP MX v1.0, 6.3): floor(log2 amax) minus the element's largest exponent, kept in 0..254. The
    others may add one: `rceil` where amax would saturate, `ceil` where amax exceeds the element's largest power
    of two, `even` where amax, rounded to the element's mantissa, reaches the next power of two. No mode adds one
    where fp32 ends. All of it is exponent arithmetic and exact comparisons: a cast to e8m0 would round.
    """
    byte_G = ((amax_G.view(torch.int32) >> 23) - row.largest_exponent).clamp_(0, 254)
    power = 2.0**row.largest_exponent
    if mode != "floor":
        scale_G = e8m0_value(byte_G.to(torch.uint8))
        if mode == "rceil":
            more_G = amax_G > scale_G * row.maximum
        elif mode == "ceil":
            more_G = amax_G > scale_G * power
        else:
            more_G = amax_G >= scale_G * (power * (2 - 2.0 ** -(row.mantissa_bits + 1)))
        byte_G = (byte_G + more_G).clamp_max_(254 - row.largest_exponent)  # more would decode to infinities
    return byte_G.masked_fill_(~torch.isfinite(amax_G), 255).to(torch.uint8)


def folded_power(row: ElementFormat) -> int:
    """The power of two that `to_codes` wants its input multiplied by, so that callers can fold it in a scale.

    fp16 then has its subnormals where the element has them, and the element's code is the head of fp16's bits.
    It is never above 0, which an inverse scale of 2^127 would not survive.
    """
    return 0 if row.name in _FLOAT8 or row.name == "int8" else row.bias - 15


def to_codes(scaled_N: Tensor, row: ElementFormat, exact_bf16: bool = False) -> Tensor:
    """uint8 codes of `scaled_N` (fp32, element values times 2^folded_power; overwritten), saturating.

    Ties go to even, -0.0 and negatives that round to zero keep their sign where the element has one; NaN gives
    any code. exact_bf16: the caller knows that every input is a bf16 number or below 2^-30 times the
    element's smallest step.
    """
    limit = math.ldexp(row.maximum, folded_power(row))
    scaled_N = scaled_N.clamp_(-limit, limit)
    if row.name == "int8":
        return scaled_N.mul_(2.0**row.mantissa_bits).round_().to(torch.int8).view(torch.uint8)
    if row.name in _FLOAT8:
        return scaled_N.to(_FLOAT8[row.name]).view(torch.uint8)
    if not (exact_bf16 and row.mantissa_bits < 3):
        # Round to odd at 6 mantissa bits: what is cut off leaves a mark in the last bit kept, so the two
        # roundings that follow (to fp16 and to the element) act as one. With 3 mantissa bits fp16's
        # subnormals have room for no more than 6, so even bf16 numbers take this way there.
        bits_N = scaled_N.view(torch.int32)
        bits_N.bitwise_or_((bits_N & 0x1FFFF).add_(0x1FFFF)).bitwise_and_(-0x20000)
    half_N = scaled_N.to(torch.float16).view(torch.int16)
    shift = 10 - row.mantissa_bits
    odd_N = (half_N >> shift).bitwise_and_(1)
    half_N = half_N.add_(odd_N).add_((1 << (shift - 1)) - 1)
    sign = 1 << (row.bits - 1)
    sign_N = (half_N >> (16 - row.bits)).bitwise_and_(sign)
    return half_N.bitwise_right_shift_(shift).bitwise_and_(sign - 1).bitwise_or_(sign_N).to(torch.uint8)


@cache
def _element_table(row: ElementFormat, device: torch.device) -> Tensor:
    return torch.tensor([row.value(code) for code in range(1 << row.bits)], dtype=torch.float32, device=device)


def from_codes(codes_N: Tensor, row: ElementFormat) -> Tensor:
    """fp32 values of uint8 element codes, NaN and infinite codes included."""
    if row.name == "int8":
        return codes_N.view(torch.int8).float().mul_(2.0**-row.mantissa_bits)
    return _element_table(row, codes_N.device).index_select(0, codes_N.reshape(-1).int()).view(codes_N.shape)


def hadamard(values_N: Tensor, size: int) -> Tensor:
    """`values_N` (fp32, whole blocks of `size`) with each block multiplied by the orthonormal Hadamard matrix.

    Its own inverse. Butterflies from stride 1 upwards, then one product with fp32(size ** -0.5): this order is
    part of the format, for fp32 sums depend on it. Blocks whose magnitudes add up beyond fp32 overflow.
    """
    found, stride = values_N.reshape(-1), 1
    while stride < size:
        pair = found.view(-1, 2, stride)
        both = torch.empty_like(pair)
        torch.add(pair[:, 0], pair[:, 1], out=both[:, 0])
        torch.sub(pair[:, 0], pair[:, 1], out=both[:, 1])
        found, stride = both.view(-1), stride * 2
    return found.mul(size**-0.5)  # the scalar is rounded to fp32 first
