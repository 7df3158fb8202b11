"""Numbers in registers: rounding to wire formats, scales, codes of integers and of MX elements.

Device functions, no kernels. They give the bits that docs/decisions/006-numerics.md asks for on a GPU and under
Triton's interpreter, whose own casts to bf16 truncate, from bf16 lose subnormals and whose fp8 casts are wrong; so
everything that goes on the wire is rounded by integer arithmetic. Shapes: G groups, K values of a group.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

from thinwire.kernels.form import fact
from thinwire.reference.core.formats import element
from thinwire.reference.core.nvfp4 import BLOCK_SCALE

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
FUSED = tl.constexpr(not INTERPRETED.value)  # whether tl.fma rounds once; the interpreter's rounds twice
BF16_MAX = tl.constexpr(element("bf16").maximum)
FP16_MAX = tl.constexpr(element("fp16").maximum)
FP32_MAX = tl.constexpr(element("fp32").maximum)
INFINITY = tl.constexpr(float("inf"))
ABS = tl.constexpr(0x7FFFFFFF)
NOT_FINITE = tl.constexpr(0x7F800000)
NAN_BITS = tl.constexpr(0x7FC00000)
# Adding 1.5 x 2^23 to a number below 2^22 rounds it to a whole one, ties to even, and leaves it in the sum's low bits.
ROUNDER = tl.constexpr(12582912.0)
ROUNDER_BITS = tl.constexpr(0x4B400000)
# The same at steps of 2^-13: 1.5 x 2^10.
SNAPPER = tl.constexpr(1536.0)
# NVFP4's block scales.
BLOCK_SCALE_MAX = tl.constexpr(element(BLOCK_SCALE).maximum)
BLOCK_SCALE_MANTISSA = tl.constexpr(element(BLOCK_SCALE).mantissa_bits)
BLOCK_SCALE_BIAS = tl.constexpr(element(BLOCK_SCALE).bias)
BLOCK_SCALE_NAN = tl.constexpr((1 << (element(BLOCK_SCALE).bits - 1)) - 1)
BLOCK_SCALE_SIGN = tl.constexpr(element(BLOCK_SCALE).bits - 1)


@triton.jit
def magnitude_bits(x):
    """abs(x) as an integer: the same order as the numbers', infinities and NaN above all of them."""
    return x.to(tl.int32, bitcast=True) & ABS


@triton.jit
def bf16_bits(x):
    """int32: the upper half of fp32 rounded to nearest even. x is no NaN."""
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF


@triton.jit
def to_dtype(x, dtype: tl.constexpr):
    """fp32 as `dtype`, to nearest even. A GPU's own cast is exact; the interpreter's to bf16 is not."""
    if dtype == tl.bfloat16 and INTERPRETED:
        quiet = tl.where(x == x, bf16_bits(x), 0x7FC0)
        return quiet.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        return x.to(dtype)


@triton.jit
def to_fp32(x):
    """fp32 of bf16, fp16 or fp32, exactly."""
    if x.dtype == tl.bfloat16 and INTERPRETED:
        return from_bf16(x.to(tl.uint16, bitcast=True))
    else:
        return x.to(tl.float32)


@triton.jit
def saturate_bf16(x):
    """Raw bits, uint16, of bf16(x): what is beyond its range becomes its largest number, NaN one certain NaN."""
    kept = tl.where(x == x, tl.minimum(tl.maximum(x, -BF16_MAX), BF16_MAX), 0.0)
    return tl.where(x == x, bf16_bits(kept), 0x7FC0).to(tl.uint16)


@triton.jit
def from_bf16(raw):
    """fp32 of raw bf16 bits."""
    return (raw.to(tl.int32) << 16).to(tl.float32, bitcast=True)


# ---- scales and minima: (as sent, fp32)


@triton.jit
def e8m0_value(byte):
    """fp32 of an e8m0 byte (int32): 2^-127 is a subnormal, 255 NaN."""
    bits = tl.where(byte == 0, 0x00400000, tl.where(byte == 255, NAN_BITS, byte << 23))
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def wire_scale(wanted, good, FORM: tl.constexpr):
    """(as sent, fp32) of scales `wanted` >= 0: rounded to the form's format, capped; NaN where not `good`."""
    finite = good & (magnitude_bits(wanted) < NOT_FINITE)
    capped = tl.where(finite, tl.minimum(wanted, fact(FORM, "cap")), 0.0) + 0.0  # no -0.0
    if fact(FORM, "scale") == "bf16":
        sent = tl.where(finite, bf16_bits(capped), 0x7FC0)
        return sent.to(tl.uint16), from_bf16(sent)
    elif fact(FORM, "scale") == "fp16":
        half = capped.to(tl.float16)
        sent = tl.where(finite, half.to(tl.int16, bitcast=True), 0x7E00)
        return sent.to(tl.uint16), tl.where(finite, half.to(tl.float32), float("nan"))
    elif fact(FORM, "scale") == "fp32":
        sent = tl.where(finite, capped.to(tl.int32, bitcast=True), NAN_BITS)
        return sent, sent.to(tl.float32, bitcast=True)
    else:
        # Upwards to a power of two: no group is clipped by its scale.
        bits = capped.to(tl.int32, bitcast=True)
        byte = (bits >> 23) + ((bits & 0x7FFFFF) != 0).to(tl.int32)
        byte = tl.where(bits <= 0x00400000, 0, byte)
        byte = tl.where(finite, byte, 255)
        return byte.to(tl.uint8), e8m0_value(byte)


@triton.jit
def wire_minimum(low, good, FORM: tl.constexpr):
    """(as sent, fp32) of minima: rounded down, -0.0 to +0.0, kept in range; NaN where not `good`."""
    if fact(FORM, "scale") == "bf16":
        clipped = tl.where(good, tl.minimum(tl.maximum(low, -BF16_MAX), BF16_MAX) + 0.0, 0.0)
        bits = clipped.to(tl.int32, bitcast=True)
        bits = tl.where(clipped < 0, bits + 0xFFFF, bits)
        sent = tl.where(good, (bits >> 16) & 0xFFFF, 0x7FC0)
        return sent.to(tl.uint16), from_bf16(sent)
    elif fact(FORM, "scale") == "fp16":
        clipped = tl.where(good, tl.minimum(tl.maximum(low, -FP16_MAX), FP16_MAX) + 0.0, 0.0)
        half = clipped.to(tl.float16)
        bits = half.to(tl.int16, bitcast=True)
        back = half.to(tl.float32)
        below = tl.where(back > 0, bits - 1, tl.where(back == 0, -32767, bits + 1)).to(tl.int16)
        bits = tl.where(back > clipped, below, bits)
        value = tl.where(good, bits.to(tl.float16, bitcast=True).to(tl.float32), float("nan"))
        return tl.where(good, bits, 0x7E00).to(tl.uint16), value
    else:
        value = tl.where(good, low + 0.0, float("nan"))
        return tl.where(good, value.to(tl.int32, bitcast=True), NAN_BITS), value


@triton.jit
def read_scale(raw, FORM: tl.constexpr):
    """fp32 of scales or minima as they were sent."""
    if fact(FORM, "scale") == "bf16":
        return from_bf16(raw)
    elif fact(FORM, "scale") == "fp16":
        return raw.to(tl.float16, bitcast=True).to(tl.float32)
    elif fact(FORM, "scale") == "fp32":
        return raw.to(tl.float32, bitcast=True)
    else:
        return e8m0_value(raw.to(tl.int32))


# ---- integer codes


@triton.jit
def rounded_quotient(x, scale, SHORT: tl.constexpr, FORM: tl.constexpr):
    """ROUNDER + round(x / scale): see `shifted_quotient`."""
    return shifted_quotient(x, scale, ROUNDER, SHORT, FORM)


@triton.jit
def shifted_quotient(x, scale, base, SHORT: tl.constexpr, FORM: tl.constexpr):
    """base + round(x / scale), ties to even, for quotients up to 2^9; beyond, something farther out.

    base: ROUNDER and an even number up to 2^9 more, which changes no tie; [.., G, 1] or a number. x [.., G, K], scale
    [.., G, 1], where a zero means an infinite divisor. Always the bits of a correctly rounded division followed by a
    rounding. SHORT says that x has 11 significant bits at most (bf16 and fp16 have 8 and 11); if the scale has no more
    either, no quotient below 2^9 lies closer than 2^-12 to a tie without being one: the difference is a whole number
    over twice the denominator, of 12 bits; a numerator that has to be halved makes the denominator longer, but then
    both terms of the difference are even. A product with the reciprocal errs by 2^-14 at most; rounded to multiples of
    2^-13 first, it is a tie where the quotient is one, and on the right side where it is not. So a division a value
    becomes one multiply-add. The last sum rounds nothing twice: both addends are multiples of 2^-13. All quotients are
    tried in tests/kernels/test_quotients.py.
    """
    if SHORT and fact(FORM, "scale") != "fp32":
        # The reciprocal of a bf16 scale below 2^-128 is beyond fp32: both are moved up, exactly.
        if fact(FORM, "scale") == "bf16":
            low = (scale > 0) & (scale < 7.888609052210118e-31)  # 2^-100; beside a scale of 0 x may be anything
            lift = tl.where(low, 1073741824.0, 1.0)  # 2^30
            x = x * lift
            scale = scale * lift
        inverse = tl.where(scale == 0, 0.0, tl.math.div_rn(1.0, scale))
        return tl.fma(x, tl.broadcast_to(inverse, x.shape), SNAPPER) + (base - SNAPPER)
    else:
        return quotient(x, scale, FORM) + base


@triton.constexpr_function
def bounded(form):
    """Whether nothing is far larger than the grid: every value of a group entered its scale, and no difference from a
    minimum can overflow.
    """
    return not getattr(form, "spikes", True) and form.grid != "minimum"


@triton.jit
def quotient(x, scale, FORM: tl.constexpr):
    """x / scale as a correctly rounded division gives it, wherever it is 2^-18 or more (below, something smaller still,
    and zeros of any sign); x [.., G, K], scale [.., G, 1].

    A scale of zero means an infinite divisor. One division a group: x times the reciprocal, and then once what is left
    over times the reciprocal, is the rounded quotient, because the reciprocal is rounded correctly (Markstein, 1990;
    what is left over is exact in a fused multiply-add). Groups with scales far from 1 are moved there first, so nothing
    of that falls out of range; what lies beyond 2^10 steps, where that can be, comes back as 2^10. The interpreter has
    no fused multiply-add: it divides.
    """
    if not FUSED:
        divisor = tl.where(scale == 0, INFINITY, scale)
        return tl.math.div_rn(x, tl.broadcast_to(divisor, x.shape))
    else:
        low = (scale > 0) & (scale < 8.673617379884035e-19)  # beside a scale of 0 an NVFP4 block may hold anything
        lift = tl.where(low, 1.2089258196146292e24, 1.0)  # below 2^-60: times 2^80
        lift = tl.where(scale > 1.152921504606847e18, 8.673617379884035e-19, lift)  # above 2^60: times 2^-60
        x = x * lift
        scale = scale * lift
        if not bounded(FORM):
            x = tl.minimum(tl.maximum(x, scale * -1024.0), scale * 1024.0)
        inverse = tl.broadcast_to(tl.where(scale == 0, 0.0, tl.math.div_rn(1.0, scale)), x.shape)
        near = x * inverse
        left = tl.fma(-near, tl.broadcast_to(scale, x.shape), x)
        return tl.fma(left, inverse, near)


# ---- MX elements


@triton.jit
def mx_scale(amax, good, FORM: tl.constexpr):
    """(e8m0 byte as int32, 2^(127 - byte) as fp32) of blocks whose largest magnitude is `amax`; 255 where not good."""
    top = 2.0 ** fact(FORM, "largest_exponent")
    bits = amax.to(tl.int32, bitcast=True)
    byte = tl.minimum(tl.maximum((bits >> 23) - fact(FORM, "largest_exponent"), 0), 254)
    if fact(FORM, "mode") != "floor":
        scale = e8m0_value(byte)
        if fact(FORM, "mode") == "rceil":
            more = amax > scale * fact(FORM, "maximum")
        elif fact(FORM, "mode") == "ceil":
            more = amax > scale * top
        else:
            more = amax >= scale * (top * (2 - 2.0 ** -(fact(FORM, "mantissa_bits") + 1)))
        byte = tl.minimum(byte + more.to(tl.int32), 254 - fact(FORM, "largest_exponent"))
    inverse = tl.where(byte == 254, 0x00400000, (254 - byte) << 23).to(tl.float32, bitcast=True)
    return tl.where(good, byte, 255), tl.where(good, inverse, 0.0)


@triton.jit
def element_codes(v, signed, FORM: tl.constexpr):
    """int32 codes of fp32 values in the form's element, nearest even, saturating, by integer arithmetic.

    Zeros have the sign of `signed`, as all others do: `quotient` loses that of -0.0.
    """
    MANTISSA: tl.constexpr = fact(FORM, "mantissa_bits")
    if fact(FORM, "exponent_bits") == 0:
        limit = fact(FORM, "maximum")
        kept = tl.minimum(tl.maximum(v, -limit), limit)
        return (kept * (2.0**MANTISSA) + ROUNDER).to(tl.int32, bitcast=True) & 0xFF
    else:
        size = float_codes(tl.minimum(tl.abs(v), fact(FORM, "maximum")), MANTISSA, fact(FORM, "bias"))
        sign = (signed.to(tl.int32, bitcast=True) >> (32 - fact(FORM, "bits"))) & (1 << (fact(FORM, "bits") - 1))
        return size | sign


@triton.jit
def float_codes(size, MANTISSA: tl.constexpr, BIAS: tl.constexpr):
    """int32 codes of magnitudes that are no larger than a floating format's largest number, to nearest even."""
    # A power of two whose last place in fp32 is the format's in this binade: adding it rounds to the grid.
    least = (128 - BIAS) << 23
    binade = tl.maximum(size.to(tl.int32, bitcast=True) & NOT_FINITE, least) + ((23 - MANTISSA) << 23)
    unit = binade.to(tl.float32, bitcast=True)
    on_grid = (size + unit) - unit
    # Shifted to the format's bias, fp32's subnormals begin where the format's do: its bits are the head.
    moved = (on_grid * (2.0 ** (BIAS - 127))).to(tl.int32, bitcast=True)
    return moved >> (23 - MANTISSA)


@triton.jit
def float_sizes(codes, MANTISSA: tl.constexpr, BIAS: tl.constexpr):
    """Bits, int32, of the fp32 magnitudes of codes without a sign, all of them read as numbers."""
    moved = (codes << (23 - MANTISSA)).to(tl.float32, bitcast=True) * (2.0 ** (127 - BIAS))
    return moved.to(tl.int32, bitcast=True)


@triton.jit
def block_scale_codes(wanted):
    """int32 codes of NVFP4's block scales `wanted` >= 0, saturating; NaN gives any."""
    return float_codes(tl.minimum(wanted, BLOCK_SCALE_MAX), BLOCK_SCALE_MANTISSA, BLOCK_SCALE_BIAS)


@triton.jit
def block_scale_values(codes):
    """fp32 of int32 codes of NVFP4's block scales, NaN included."""
    size = codes & BLOCK_SCALE_NAN
    found = tl.where(size == BLOCK_SCALE_NAN, NAN_BITS, float_sizes(size, BLOCK_SCALE_MANTISSA, BLOCK_SCALE_BIAS))
    return (found | ((codes >> BLOCK_SCALE_SIGN) << 31)).to(tl.float32, bitcast=True)


@triton.jit
def element_values(codes, FORM: tl.constexpr):
    """fp32 of int32 element codes, NaN and infinite codes included."""
    MANTISSA: tl.constexpr = fact(FORM, "mantissa_bits")
    EXPONENT: tl.constexpr = fact(FORM, "exponent_bits")
    if EXPONENT == 0:
        return ((codes << 24) >> 24).to(tl.float32) * (2.0**-MANTISSA)
    else:
        BITS: tl.constexpr = fact(FORM, "bits")
        size = codes & ((1 << (BITS - 1)) - 1)
        value = float_sizes(size, MANTISSA, fact(FORM, "bias")) | ((codes >> (BITS - 1)) << 31)
        if fact(FORM, "has_infinity"):  # the whole top binade
            last = ((1 << EXPONENT) - 1) << MANTISSA
            value = tl.where(size == last, NOT_FINITE | (value & ~ABS), value)
            value = tl.where(size > last, NAN_BITS, value)
        elif fact(FORM, "has_nan"):  # the all-ones code alone
            value = tl.where(size == (1 << (BITS - 1)) - 1, NAN_BITS, value)
        return value.to(tl.float32, bitcast=True)
