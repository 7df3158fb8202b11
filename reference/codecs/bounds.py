"""Largest errors of one encode and decode in closed form, from the values themselves and what the formats say.

u: largest relative rounding error, half a unit in the last place; eta: smallest subnormal. All in float64; what fp32
arithmetic adds, `error.bound` adds. Legend: N values, G groups, K values of a group.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from thinwire.reference.codecs.elements import BF16_MAX, hadamard
from thinwire.reference.core.formats import element, scale_cap
from thinwire.reference.core.scheme import MX, GroupedInt

FP32_MAX = float(element("fp32").maximum)
# fp32 arithmetic between the roundings: fewer than eight operations, each within 2^-24 of its result.
SLACK = 2.0**-21
TINY = 2.0**-140  # and each within half an fp32 subnormal near zero, times 255 steps


def roundoff(name: str) -> tuple[float, float]:
    """(u, eta) of a floating format: |fl(x) - x| <= max(u |x|, eta / 2) for any x within its range."""
    row = element(name)
    return 2.0 ** -(row.mantissa_bits + 1), 2.0 ** (1 - row.bias - row.mantissa_bits)


def rounded(exact: Tensor, name: str) -> Tensor:
    """Rounding to a format: max(u |x|, eta / 2); inf where it overflows."""
    u, eta = roundoff(name)
    limit = float(element(name).maximum) * (1 + u / 2)
    return torch.where(exact.abs() <= limit, (u * exact.abs()).clamp_min(eta / 2), math.inf)


def kept(exact: Tensor) -> Tensor:
    """A value sent in bf16, saturating: its rounding error, or what lies beyond the largest bf16 number."""
    u, eta = roundoff("bf16")
    return (u * exact.abs()).clamp_min(eta / 2).maximum(exact.abs() - BF16_MAX)


def scales(wanted_G: Tensor, name: str, top: float) -> tuple[Tensor, Tensor]:
    """(most, least) of the scale that is sent where `wanted_G` is right.

    A float format rounds it by a factor within 1 +- u, or by eta / 2; a cap keeps top * scale within bf16.
    e8m0 takes the next power of two, at least 2^-127.
    """
    cap = scale_cap(name, top)
    if name == "e8m0":
        return (2 * wanted_G).clamp(2.0**-127, cap), wanted_G.clamp_max(cap)
    u, eta = roundoff(name)
    most_G = (wanted_G * (1 + u) + eta / 2).clamp_max(cap)
    return most_G, (wanted_G * (1 - u) - eta / 2).clamp(0, cap)


def integer(exact_GK: Tensor, codec: GroupedInt) -> Tensor:
    """Grids of n steps of s over a range r.

    Inside the grid a value is at most s / 2 from a level. The grid falls short of the range by r - n s at most:
    the scale's own rounding (r u), its underflow (n eta / 2) and its cap. symmetric: r = largest magnitude,
    n = 2^(b-1) - 1, error <= max(s / 2, r - n s). zero_point: the range holds zero, n = 2^b - 1, and the zero
    point shifts the grid by up to s / 2 more: error <= s / 2 + (r - n s). minimum: the sent minimum m is rounded
    down by up to 2 u |min| + eta, which widens the range; where it saturates, values below it are clipped.
    Spikes: the range is that of the others; the two themselves are bf16.
    """
    low_G, high_G = exact_GK.amin(1, keepdim=True), exact_GK.amax(1, keepdim=True)
    ends = torch.stack((exact_GK.argmin(1), exact_GK.argmax(1)), 1)
    if codec.spikes:
        low_G = exact_GK.scatter(1, ends, math.inf).amin(1, keepdim=True)
        high_G = exact_GK.scatter(1, ends, -math.inf).amax(1, keepdim=True)
    if codec.grid == "symmetric":
        top = (1 << (codec.bits - 1)) - 1
        range_G = low_G.abs().maximum(high_G.abs())
        most_G, least_G = scales(range_G / top, codec.metadata, top)
        error_G = (most_G / 2).maximum(range_G - top * least_G)
    else:
        top = (1 << codec.bits) - 1
        clipped_G = torch.zeros_like(low_G)
        if codec.grid == "zero_point":
            range_G = high_G.clamp_min(0) - low_G.clamp_max(0)
        else:
            u, eta = roundoff(codec.metadata)
            largest = float(element(codec.metadata).maximum)
            clipped_G = (-largest - low_G).clamp_min(0)
            lowered_G = low_G.clamp(-largest, largest)
            range_G = high_G - lowered_G + 2 * u * lowered_G.abs() + eta
        most_G, least_G = scales(range_G / top, codec.metadata, top)
        short_G = (range_G - top * least_G).clamp_min(0)
        if codec.grid == "zero_point":
            error_G = most_G / 2 + short_G
        else:
            error_G = (most_G / 2).maximum(short_G).maximum(clipped_G)
    size_G = low_G.abs().maximum(high_G.abs())
    found_GK = (error_G + SLACK * size_G + TINY).expand_as(exact_GK)
    if codec.spikes:
        kept_G2 = kept(exact_GK.gather(1, ends))
        if codec.rotation:  # rounding may have made another value the largest
            kept_G2 = kept_G2.maximum(error_G)
        found_GK = found_GK.scatter(1, ends, kept_G2)
    return found_GK


def mx(exact_GK: Tensor, codec: MX) -> Tensor:
    """An element with m mantissa bits rounds by 2^-(m+1) of the value or half its smallest step, whichever is
    more, in units of the scale s; magnitudes beyond maximum * s saturate.

    e8m0: s = 2^e with e = floor(log2 amax) - (element's largest exponent), never below 2^-127; the modes other
    than floor may double it. A floating s is amax / maximum, rounded.
    """
    row = element(codec.element)
    amax_G = exact_GK.abs().amax(1, keepdim=True)
    if codec.scale == "e8m0":
        exponent_G = torch.frexp(amax_G).exponent - 1 - row.largest_exponent
        least_G = torch.ldexp(torch.ones_like(amax_G), exponent_G.clamp(-127, 127))
        least_G = torch.where(amax_G > 0, least_G, 2.0**-127)
        most_G = least_G if codec.mode == "floor" else 2 * least_G
        if codec.mode in ("rceil", "ceil"):  # nothing saturates, but at the very top of e8m0
            least_G = (amax_G / row.maximum).maximum(least_G).clamp_max(2.0 ** (127 - row.largest_exponent))
    else:
        most_G, least_G = scales(amax_G / row.maximum, codec.scale, row.maximum)
    smallest_step = 2.0 ** (1 - row.bias - row.mantissa_bits) if row.exponent_bits else 2.0**-row.mantissa_bits
    relative = 2.0 ** -(row.mantissa_bits + 1) if row.exponent_bits else 0.0
    size_GK = exact_GK.abs()
    inside_GK = size_GK.minimum(row.maximum * most_G)
    return (relative * inside_GK).maximum(smallest_step / 2 * most_G).maximum(size_GK - row.maximum * least_G)


def rotated(exact_N: Tensor, align: int, group: int, size: int | None, grouped: Callable[[Tensor], Tensor]) -> Tensor:
    """`grouped` over whole groups; with Hadamard blocks of n, each value collects its block's errors.

    y = H x with |H_ij| = n^-1/2, so an error e in y is at most sum |e_j| / sqrt(n) in x. Butterflies in fp32 add
    gamma * sum |x_j| / sqrt(n) each way, gamma = (log2 n + 2) 2^-23. Sums beyond fp32 overflow: no promise.
    """
    numel = exact_N.numel()
    padded_N = torch.nn.functional.pad(exact_N, (0, -numel % align))
    if size is None:
        return grouped(padded_N.view(-1, group)).reshape(-1)[:numel]
    rotated_N = hadamard(padded_N, size)
    gamma = (math.log2(size) + 2) * 2.0**-23
    sums_B = padded_N.view(-1, size).abs().sum(1, keepdim=True)
    error_BK = grouped(rotated_N.view(-1, group)).reshape(-1, size)
    inward = (gamma * 4) * sums_B  # both ways, and what the wrong y change in their group's scale
    back_B = (error_BK.sum(1, keepdim=True) + rotated_N.view(-1, size).abs().sum(1, keepdim=True)) * (1 + gamma)
    found_BK = error_BK.sum(1, keepdim=True) / math.sqrt(size) + inward + gamma * back_B / math.sqrt(size)
    lost_B = (sums_B > FP32_MAX / 2) | (back_B > FP32_MAX / 2)
    found_N = found_BK.masked_fill(lost_B, math.inf).expand(-1, size).reshape(-1)
    lost_N = found_N.view(-1, align).isinf().any(1, keepdim=True)  # an overflow takes its group along
    return found_N.view(-1, align).masked_fill(lost_N, math.inf).reshape(-1)[:numel]
