"""A tile of groups in registers: values to wire bytes and back, for every grouped integer and MX codec.

Device functions that the kernels share; a kernel only decides which groups a program has and where values come from
and go. Shapes: G groups, K values of a group, KP = K widened to a power of two. Group g of a tile is group
`first + local_G[g]` of its part, whose buffer begins at byte `spot`; `at` is the part's row of the table (`form.py`).
`first`, `spot` and what is in `at` are scalars, or [G, 1] where one tile touches several parts.

Values to encode are [S, G, C]: a group's KP = S * C values lie in S slices. A thread then holds some of each slice,
so more of one group and less of others, and works out fewer scales (see `slices`). S = 1 is the plain tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from thinwire.kernels.form import (
    ALIGNMENT,
    COLUMNS,
    GROUPS,
    INDICES,
    NUMEL,
    ORIGINS,
    PLANES,
    SCALES,
    SPIKES,
    START,
    fact,
)
from thinwire.kernels.numbers import (
    BF16_MAX,
    FP16_MAX,
    FP32_MAX,
    INFINITY,
    NOT_FINITE,
    ROUNDER,
    block_scale_codes,
    block_scale_values,
    element_codes,
    element_values,
    from_bf16,
    magnitude_bits,
    mx_scale,
    quotient,
    read_scale,
    saturate_bf16,
    shifted_quotient,
    wire_minimum,
    wire_scale,
)
from thinwire.kernels.planes import load_planes, store_planes, width_at
from thinwire.reference.core.nvfp4 import BLOCK as BLOCK_VALUES
from thinwire.reference.core.nvfp4 import TOP

BLOCK = tl.constexpr(BLOCK_VALUES)  # values of an NVFP4 block
ROW_TOP = tl.constexpr(TOP)


@triton.jit
def part_row(table_ptr, part, START_ALIGN: tl.constexpr = 8):
    """A row of the table as a tuple. Starts are multiples of START_ALIGN values, sections of 16 bytes: the compiler may
    know.
    """
    row = table_ptr + part * COLUMNS
    return (
        tl.multiple_of(tl.load(row + START), START_ALIGN),
        tl.load(row + NUMEL),
        tl.load(row + GROUPS),
        tl.multiple_of(tl.load(row + PLANES), ALIGNMENT),
        tl.multiple_of(tl.load(row + PLANES + 1), ALIGNMENT),
        tl.multiple_of(tl.load(row + PLANES + 2), ALIGNMENT),
        tl.multiple_of(tl.load(row + SCALES), ALIGNMENT),
        tl.multiple_of(tl.load(row + ORIGINS), ALIGNMENT),
        tl.multiple_of(tl.load(row + SPIKES), ALIGNMENT),
        tl.multiple_of(tl.load(row + INDICES), ALIGNMENT),
    )


@triton.jit
def value_offsets(at, first, local_G, FORM: tl.constexpr):
    """(offsets [G, KP] of a tile's values from the tensor's start, which of them are inside the part)."""
    K: tl.constexpr = fact(FORM, "group")
    places = tl.arange(0, fact(FORM, "padded"))[None, :]
    local = local_G[:, None] * K + places
    return (at[START] + first * K) + local, places_inside(at, first, local, places, FORM)


@triton.constexpr_function
def slices(form):
    """How many slices a group's values are loaded and stored in: 4, but of 16 values at least, and not where they are
    rotated, nor in blocks.

    A warp's access then touches a slice of each of many groups, so a thread has 32 values of one group of 64 or more
    and works with one scale; 16 bf16 values are a sector of memory, so no byte is fetched twice.
    """
    return 1 if form.rotation or form.blocks else max(1, min(4, form.padded // 16))


@triton.jit
def sliced_places(local_G, FORM: tl.constexpr):
    """(offsets [S, G, C] of values from the first group's start, their places [S, 1, C] in their group)."""
    S: tl.constexpr = slices(FORM)
    C: tl.constexpr = fact(FORM, "padded") // S
    places = tl.arange(0, S)[:, None, None] * C + tl.arange(0, C)[None, None, :]
    return local_G[None, :, None] * fact(FORM, "group") + places, places


@triton.jit
def as_slices(x, FORM: tl.constexpr):
    """[S, G, C] of values [G, KP]."""
    S: tl.constexpr = slices(FORM)
    return tl.permute(tl.reshape(x, (x.shape[0], S, fact(FORM, "padded") // S)), (1, 0, 2))


@triton.jit
def places_inside(at, first, local, places, FORM: tl.constexpr):
    """Which values are inside the part: `local` from the first of group `first` on, `places` within their group."""
    K: tl.constexpr = fact(FORM, "group")
    left = tl.minimum(at[NUMEL] - first * K, 1 << 30).to(tl.int32)  # 32-bit comparisons: one instruction, not two
    inside = local < left
    if fact(FORM, "padded") != K:
        inside = inside & (places < K)
    return inside


@triton.jit
def hadamard(values, SIZE: tl.constexpr):
    """Blocks of `SIZE` along the flattened tile times the orthonormal Hadamard matrix: strides 1, 2, 4 ..."""
    G: tl.constexpr = values.shape[0]
    K: tl.constexpr = values.shape[1]
    STAGES: tl.constexpr = fact_log2(SIZE)
    x = values
    for stage in tl.static_range(STAGES):
        pairs = tl.reshape(x, (G * K // (2 << stage), 2, 1 << stage))
        a, b = tl.split(tl.trans(pairs, (0, 2, 1)))
        x = tl.trans(tl.join(a + b, a - b), (0, 2, 1))
    return tl.reshape(x, (G, K)) * (SIZE**-0.5)


@triton.constexpr_function
def fact_log2(size: int) -> int:
    """log2 of a power of two."""
    return int(size).bit_length() - 1


# ---- a value for each group


@triton.jit
def scale_pointer(wire_ptr, spot, offset, first, local_G, FORM: tl.constexpr):
    """Pointers [G, 1] to scales or minima, typed as raw bits."""
    base = wire_ptr + (spot + offset + first * fact(FORM, "scale_bytes"))
    local_G = local_G[:, None] * fact(FORM, "slot")
    if fact(FORM, "scale") == "fp32":
        return base.to(tl.pointer_type(tl.int32)) + local_G
    elif fact(FORM, "scale") == "e8m0":
        return base + local_G
    else:
        return base.to(tl.pointer_type(tl.uint16)) + local_G


@triton.jit
def store_scales(sent_G, pointers_G, ok_G, FORM: tl.constexpr):
    """Scales [G, 1], and zeros in what is left of their slots."""
    SLOT: tl.constexpr = fact(FORM, "slot")
    if SLOT == 1:
        tl.store(pointers_G, sent_G, mask=ok_G[:, None])
    else:
        places = tl.arange(0, SLOT)[None, :]
        sent = tl.where(places == 0, tl.broadcast_to(sent_G, (sent_G.shape[0], SLOT)), 0).to(sent_G.dtype)
        tl.store(pointers_G + places, sent, mask=ok_G[:, None])


@triton.jit
def block_pointers(wire_ptr, spot, at, first, local_G, FORM: tl.constexpr):
    """(pointers [G, B] to an NVFP4 row's block scales, which of them are inside the row [1, B])."""
    blocks_B = tl.arange(0, fact(FORM, "padded") // BLOCK)[None, :]
    base = wire_ptr + (spot + at[SCALES] + first * fact(FORM, "blocks"))
    return base + (local_G[:, None] * fact(FORM, "blocks") + blocks_B), blocks_B < fact(FORM, "blocks")


@triton.jit
def spike_pointers(wire_ptr, spot, values, indices, first, local_G, FORM: tl.constexpr):
    """Pointers [G, 2] to spike values (raw bf16) and to their positions."""
    at = local_G[:, None] * 2 + tl.arange(0, 2)[None, :]
    value = (wire_ptr + (spot + values + first * 4)).to(tl.pointer_type(tl.uint16)) + at
    index = wire_ptr + (spot + indices + first * (2 * fact(FORM, "index_bytes")))
    if fact(FORM, "index_bytes") == 2:
        index = index.to(tl.pointer_type(tl.uint16))
    return value, index + at


# ---- extremes of groups


@triton.jit
def fold(x, LARGEST: tl.constexpr, MAGNITUDE: tl.constexpr):
    """[S, G, C / 8]: the smallest (LARGEST: the largest) of every 8 values [S, G, C], or of their magnitudes.

    The largest is NaN where one of them is: GPUs' ordinary maximum drops it.
    """
    S: tl.constexpr = x.shape[0]
    G: tl.constexpr = x.shape[1]
    C: tl.constexpr = x.shape[2]
    found = x
    for step in tl.static_range(3):
        a, b = tl.split(tl.reshape(found, (S, G, C >> (step + 1), 2)))
        if MAGNITUDE:
            found = tl.maximum(tl.abs(a), tl.abs(b), propagate_nan=tl.PropagateNan.ALL)
        elif LARGEST:
            found = tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)
        else:
            found = tl.minimum(a, b)
    return found


@triton.jit
def over_group(x, LARGEST: tl.constexpr):
    """[1, G, 1]: the smallest, or the largest, number of each group of [S, G, C]."""
    found = x
    if LARGEST:
        if x.shape[0] > 1:
            found = tl.max(found, axis=0, keep_dims=True)
        return tl.max(found, axis=2, keep_dims=True)
    else:
        if x.shape[0] > 1:
            found = tl.min(found, axis=0, keep_dims=True)
        return tl.min(found, axis=2, keep_dims=True)


@triton.jit
def largest_bits(x):
    """[1, G, 1] int32: the bits of each group's largest magnitude; infinities and NaN above all numbers."""
    return over_group(magnitude_bits(fold(x, True, True)), True)


@triton.jit
def extremes(x):
    """(smallest, largest, bits of the largest magnitude) of each group, [1, G, 1]; the first two only mean something
    where the third is finite.
    """
    low = fold(x, False, False)
    high = fold(x, True, False)
    amax_bits = over_group(tl.maximum(magnitude_bits(low), magnitude_bits(high)), True)
    return over_group(low, False), over_group(high, True), amax_bits


# ---- tiles


@triton.jit
def per_group(x):
    """[G, 1] of [1, G, 1]."""
    return tl.reshape(x, (x.shape[1], 1))


@triton.jit
def encode_tile(x, wire_ptr, spot, at, first, local_G, ok_G, SHORT: tl.constexpr, FORM: tl.constexpr):
    """Encode fp32 values [G, KP] or [S, G, C], zeros beyond K, of whole groups and store the groups that are `ok_G`.

    SHORT: the values came from bf16 or fp16 (see `numbers.rounded_quotient`). Rotations larger than C want S = 1.
    """
    if len(x.shape) == 2:
        x = tl.reshape(x, (1, x.shape[0], x.shape[1]))
    K: tl.constexpr = fact(FORM, "group")
    KP: tl.constexpr = fact(FORM, "padded")
    S: tl.constexpr = x.shape[0]
    C: tl.constexpr = x.shape[2]
    if fact(FORM, "rotation") > 0:
        x = tl.reshape(hadamard(tl.reshape(x, (x.shape[1], C)), fact(FORM, "rotation")), (1, x.shape[1], C))
    places = tl.arange(0, S)[:, None, None] * C + tl.arange(0, C)[None, None, :]
    least = tl.zeros((1, 1, 1), tl.float32)
    scales_at = at[SCALES]
    if fact(FORM, "grid") == "nvfp4":
        blocks = tl.reshape(x, (x.shape[1], KP // BLOCK, BLOCK))
        block_bits = tl.max(magnitude_bits(fold(blocks, True, True)), axis=2, keep_dims=True)
        amax_bits = tl.max(block_bits, axis=1, keep_dims=True)
        row_good = amax_bits < NOT_FINITE
        amax = amax_bits.to(tl.float32, bitcast=True)
        sent, row_scale = wire_scale(tl.math.div_rn(amax, tl.full(amax.shape, ROW_TOP, tl.float32)), row_good, FORM)
        divisor = tl.where(row_scale == 0, INFINITY, row_scale * fact(FORM, "maximum"))
        block_amax = block_bits.to(tl.float32, bitcast=True)
        block_codes = block_scale_codes(tl.math.div_rn(block_amax, tl.broadcast_to(divisor, block_amax.shape)))
        scale = block_scale_values(block_codes) * row_scale
        codes = tl.reshape(element_codes(quotient(blocks, scale, FORM), blocks, FORM), (1, x.shape[1], KP))
        blocks_ptr, inside = block_pointers(wire_ptr, spot, at, first, local_G, FORM)
        block_codes = tl.reshape(tl.where(row_good, block_codes, 0).to(tl.uint8), (x.shape[1], KP // BLOCK))
        tl.store(blocks_ptr, block_codes, mask=ok_G[:, None] & inside)
        good = tl.reshape(row_good, (1, x.shape[1], 1))
        sent = tl.reshape(sent, (1, x.shape[1], 1))
        scales_at = at[ORIGINS]
    elif fact(FORM, "grid") == "mx":
        amax_bits = largest_bits(x)
        good = amax_bits < NOT_FINITE
        amax = amax_bits.to(tl.float32, bitcast=True)
        if fact(FORM, "scale") == "e8m0":
            byte, inverse = mx_scale(amax, good, FORM)
            sent = byte.to(tl.uint8)
            codes = element_codes(x * inverse, x, FORM)
        else:
            sent, scale = wire_scale(
                tl.math.div_rn(amax, tl.full(amax.shape, fact(FORM, "maximum"), tl.float32)), good, FORM
            )
            codes = element_codes(quotient(x, scale, FORM), x, FORM)
    else:
        STEPS: tl.constexpr = fact(FORM, "steps")
        TOP: tl.constexpr = fact(FORM, "top")
        rest_low = x
        rest_high = x
        if KP != K:
            rest_low = tl.where(places < K, x, INFINITY)
            rest_high = tl.where(places < K, x, -INFINITY)
        if fact(FORM, "spikes"):
            amax_bits = largest_bits(x)
            good = amax_bits < NOT_FINITE
            low = over_group(rest_low, False)
            high = over_group(rest_high, True)
            low_place = over_group(tl.where(rest_low == low, places, KP), False)
            high_place = over_group(tl.where(rest_high == high, places, KP), False)
            value_ptr, index_ptr = spike_pointers(wire_ptr, spot, at[SPIKES], at[INDICES], first, local_G, FORM)
            one = tl.arange(0, 2)[None, :] == 0
            chosen = tl.where(one, per_group(low), per_group(high))
            chosen = tl.where(per_group(good), chosen, float("nan"))
            tl.store(value_ptr, saturate_bf16(chosen + 0.0), mask=ok_G[:, None])
            place = tl.where(one, per_group(low_place), per_group(high_place))
            place = tl.where(per_group(good), place, 0)
            if fact(FORM, "index_bytes") == 1:
                tl.store(index_ptr, place.to(tl.uint8), mask=ok_G[:, None])
            else:
                tl.store(index_ptr, place.to(tl.uint16), mask=ok_G[:, None])
            ends = (places == low_place) | (places == high_place)
            rest_low = tl.where(ends, INFINITY, rest_low)
            rest_high = tl.where(ends, -INFINITY, rest_high)
            low = over_group(rest_low, False)
            high = over_group(rest_high, True)
        elif fact(FORM, "grid") == "symmetric":
            amax_bits = largest_bits(x)
            good = amax_bits < NOT_FINITE
            low = x
            high = x
        elif KP != K:
            amax_bits = largest_bits(x)
            good = amax_bits < NOT_FINITE
            low = over_group(rest_low, False)
            high = over_group(rest_high, True)
        else:
            low, high, amax_bits = extremes(x)
            good = amax_bits < NOT_FINITE
        if fact(FORM, "grid") == "symmetric":
            amax = amax_bits.to(tl.float32, bitcast=True)
            if fact(FORM, "spikes"):
                amax = tl.maximum(high, -low)
            sent, scale = wire_scale(tl.math.div_rn(amax, tl.full(amax.shape, TOP, tl.float32)), good, FORM)
            # The offset is even, so it changes no tie.
            BASE: tl.constexpr = ROUNDER + fact(FORM, "offset")
            rounded = shifted_quotient(x, scale, BASE, SHORT, FORM)
            rounded = tl.minimum(tl.maximum(rounded, BASE - TOP), BASE + TOP)
            least = tl.full((1, 1, 1), ROUNDER, tl.float32)
        else:
            if fact(FORM, "grid") == "minimum":
                origin_sent, origin = wire_minimum(low, good, FORM)
                high = tl.maximum(high, origin)
                base = origin
            else:
                base = tl.minimum(low, 0.0)
                high = tl.maximum(high, 0.0)
            spread = high * 0.5 - base * 0.5  # halves: the range itself may overflow
            sent, scale = wire_scale(tl.math.div_rn(spread, tl.full(spread.shape, STEPS * 0.5, tl.float32)), good, FORM)
            if fact(FORM, "grid") == "minimum":
                rounded = shifted_quotient(x - origin, scale, ROUNDER, False, FORM)
                origin_ptr = scale_pointer(wire_ptr, spot, at[ORIGINS], first, local_G, FORM)
                tl.store(origin_ptr, per_group(origin_sent), mask=ok_G[:, None])
                least = tl.full((1, 1, 1), ROUNDER, tl.float32)
            else:
                zero = tl.math.div_rn(-base, tl.where(scale == 0, INFINITY, scale)) + ROUNDER
                zero = tl.where(good, tl.minimum(tl.maximum(zero, ROUNDER), ROUNDER + STEPS), ROUNDER)
                origin_ptr = wire_ptr + (spot + at[ORIGINS] + first) + local_G[:, None]
                # Converted, not cut out of the sum's bits: the ptxas of Triton 3.6 takes a store of a float's low byte
                # for a conversion of the float, so every zero point was 255 on an H200.
                origin_sent = per_group((zero - ROUNDER).to(tl.int32)).to(tl.uint8)
                tl.store(origin_ptr, origin_sent, mask=ok_G[:, None])
                # Added together, base and zero point save an addition a value; an odd one would turn ties around.
                odd = (zero.to(tl.int32, bitcast=True) & 1).to(tl.float32)
                rounded = shifted_quotient(x, scale, zero + odd, SHORT, FORM)
                least = ROUNDER + odd
            rounded = tl.minimum(tl.maximum(rounded, least), least + STEPS)
        codes = rounded.to(tl.int32, bitcast=True)
    store_scales(per_group(sent), scale_pointer(wire_ptr, spot, scales_at, first, local_G, FORM), ok_G, FORM)
    extra = least.to(tl.int32, bitcast=True)
    store_planes(codes, extra, good, wire_ptr, spot, at, first, local_G, ok_G, FORM)


@triton.constexpr_function
def exact_product(form):
    """Whether a code times a scale is exact in fp32, so that a fused multiply-add rounds as two operations would."""
    return form.scale != "fp32"


@triton.jit
def read_tile(wire_ptr, spot, at, first, local_G, ok_G, FORM: tl.constexpr, WORD: tl.constexpr):
    """(level [G, KP], scale [G, 1], minimum [G, 1]): what a decoder multiplies and, on a `minimum` grid, adds."""
    if fact(FORM, "grid") == "nvfp4":
        row_ptr = scale_pointer(wire_ptr, spot, at[ORIGINS], first, local_G, FORM)
        row_scale = read_scale(tl.load(row_ptr, mask=ok_G[:, None], other=0), FORM)
        blocks_ptr, inside = block_pointers(wire_ptr, spot, at, first, local_G, FORM)
        blocks = block_scale_values(tl.load(blocks_ptr, mask=ok_G[:, None] & inside, other=0).to(tl.int32))
        codes = load_planes(wire_ptr, spot, at, first, local_G, ok_G, row_scale, False, FORM, WORD)
        values = tl.reshape(element_values(codes, FORM), (codes.shape[0], codes.shape[1] // BLOCK, BLOCK))
        return tl.reshape(values * blocks[:, :, None], codes.shape), row_scale, row_scale  # exact: 6 bits
    else:
        raw = tl.load(scale_pointer(wire_ptr, spot, at[SCALES], first, local_G, FORM), mask=ok_G[:, None], other=0)
        scale = read_scale(raw, FORM)
        if fact(FORM, "grid") == "mx":
            codes = load_planes(wire_ptr, spot, at, first, local_G, ok_G, scale, False, FORM, WORD)
            return element_values(codes, FORM), scale, scale
        else:
            minimum = scale
            if fact(FORM, "grid") == "zero_point":
                zero = tl.load(wire_ptr + (spot + at[ORIGINS] + first) + local_G[:, None], mask=ok_G[:, None], other=0)
                origin = zero.to(tl.float32)
            else:
                origin = tl.full((1, 1), fact(FORM, "offset"), tl.float32)
            if fact(FORM, "grid") == "minimum":
                minima_ptr = scale_pointer(wire_ptr, spot, at[ORIGINS], first, local_G, FORM)
                minimum = read_scale(tl.load(minima_ptr, mask=ok_G[:, None], other=0), FORM)
            return load_planes(wire_ptr, spot, at, first, local_G, ok_G, origin, True, FORM, WORD), scale, minimum


@triton.jit
def decode_tile(wire_ptr, spot, at, first, local_G, ok_G, FORM: tl.constexpr, WORD: tl.constexpr = 16):
    """fp32 values [G, KP] of groups `ok_G`; not yet saturated (see `decoded`).

    WORD: bits of the words that planes are read in, at most. Threads exchange what they read so that each can write
    16 bytes; the compiler moves that to the packed codes only if something widens them, and words of 32 are as wide as
    registers. What is added up is exchanged once, after the sum, and is read in words of 32.
    """
    level, scale, minimum = read_tile(wire_ptr, spot, at, first, local_G, ok_G, FORM, WORD)
    if fact(FORM, "grid") != "minimum":
        x = level * scale
    elif exact_product(FORM):
        x = tl.fma(level, tl.broadcast_to(scale, level.shape), tl.broadcast_to(minimum, level.shape))
    else:
        x = level * scale + minimum
    if fact(FORM, "spikes"):
        places = tl.arange(0, fact(FORM, "padded"))[None, :]
        value_ptr, index_ptr = spike_pointers(wire_ptr, spot, at[SPIKES], at[INDICES], first, local_G, FORM)
        low, high = tl.split(from_bf16(tl.load(value_ptr, mask=ok_G[:, None], other=0)))
        low_place, high_place = tl.split(tl.load(index_ptr, mask=ok_G[:, None], other=0).to(tl.int32))
        x = tl.where(places == low_place[:, None], low[:, None], x)
        x = tl.where(places == high_place[:, None], high[:, None], x)
    if fact(FORM, "rotation") > 0:
        x = hadamard(x, fact(FORM, "rotation"))
    return x


@triton.jit
def add_tile(total, wire_ptr, spot, at, first, local_G, ok_G, FORM: tl.constexpr):
    """total + what a decoder returns as fp32, one rounding each, as for two operations."""
    if (
        exact_product(FORM)
        and fact(FORM, "grid") != "minimum"
        and not fact(FORM, "spikes")
        and not fact(FORM, "rotation")
    ):
        level, scale, _ = read_tile(wire_ptr, spot, at, first, local_G, ok_G, FORM, 32)
        return tl.fma(level, tl.broadcast_to(scale, level.shape), total)
    else:
        more = decode_tile(wire_ptr, spot, at, first, local_G, ok_G, FORM, 32)
        return total + decoded(more, FORM, tl.float32)


@triton.jit
def decoded(x, FORM: tl.constexpr, dtype: tl.constexpr):
    """What a decoder returns: `x` kept within `dtype` where more than a scaled code may leave it."""
    if fact(FORM, "rotation") > 0 or fact(FORM, "grid") == "minimum" or dtype == tl.float16:
        LIMIT: tl.constexpr = FP16_MAX if dtype == tl.float16 else BF16_MAX if dtype == tl.bfloat16 else FP32_MAX
        kept = tl.minimum(tl.maximum(x, -LIMIT), LIMIT)
        return tl.where(x == x, kept, x)
    else:
        return x


@triton.jit
def store_padding(wire_ptr, spot, end):
    """Zeros from byte `end` of a section to the next multiple of ALIGNMENT bytes, where the next one starts."""
    gap = tl.arange(0, ALIGNMENT)
    left = (ALIGNMENT - end % ALIGNMENT) % ALIGNMENT
    tl.store(wire_ptr + spot + end + gap, tl.zeros((ALIGNMENT,), tl.uint8), mask=gap < left)


@triton.jit
def store_paddings(wire_ptr, spot, at, groups, FORM: tl.constexpr):
    """The zeros behind every section of a part of `groups` groups."""
    K: tl.constexpr = fact(FORM, "group")
    for index in tl.static_range(3):
        if width_at(FORM, index) > 0:
            store_padding(wire_ptr, spot, at[PLANES + index] + groups * (K * width_at(FORM, index) // 8))
    if fact(FORM, "grid") == "nvfp4":
        store_padding(wire_ptr, spot, at[SCALES] + groups * fact(FORM, "blocks"))
    else:
        store_padding(wire_ptr, spot, at[SCALES] + groups * fact(FORM, "scale_bytes"))
    if fact(FORM, "grid") == "minimum" or fact(FORM, "grid") == "nvfp4":
        store_padding(wire_ptr, spot, at[ORIGINS] + groups * fact(FORM, "scale_bytes"))
    if fact(FORM, "grid") == "zero_point":
        store_padding(wire_ptr, spot, at[ORIGINS] + groups)
    if fact(FORM, "spikes"):
        store_padding(wire_ptr, spot, at[SPIKES] + groups * 4)
        store_padding(wire_ptr, spot, at[INDICES] + groups * 2 * fact(FORM, "index_bytes"))
