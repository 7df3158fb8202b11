"""A tile of groups in registers: values to wire bytes and back, for every grouped integer and MX codec.

Device functions that the kernels share; a kernel only decides which groups a program has and where values come from
and go. Shapes: G groups, K values of a group, KP = K widened to a power of two. Group g of a tile is group
`first + local_G[g]` of its part, whose buffer begins at byte `spot`; `at` is the part's row of the table (`form.py`).
`first`, `spot` and what is in `at` are scalars, or [G, 1] where one tile touches several parts.
"""

from __future__ import annotations

import triton
import triton.language as tl

from thinwire.kernels.form import COLUMNS, GROUPS, INDICES, NUMEL, ORIGINS, PLANES, SCALES, SPIKES, START, fact
from thinwire.kernels.numbers import (
    INFINITY,
    NOT_FINITE,
    ROUNDER,
    element_codes,
    element_values,
    from_bf16,
    magnitude_bits,
    mx_scale,
    read_scale,
    rounded_quotient,
    saturate_bf16,
    wire_minimum,
    wire_scale,
)


@triton.jit
def part_row(table_ptr, part):
    """A row of the table as a tuple. Starts are multiples of 8 values, sections of 16 bytes: the compiler may know."""
    row = table_ptr + part * COLUMNS
    return (
        tl.multiple_of(tl.load(row + START), 8),
        tl.load(row + NUMEL),
        tl.load(row + GROUPS),
        tl.multiple_of(tl.load(row + PLANES), 16),
        tl.multiple_of(tl.load(row + PLANES + 1), 16),
        tl.multiple_of(tl.load(row + PLANES + 2), 16),
        tl.multiple_of(tl.load(row + SCALES), 16),
        tl.multiple_of(tl.load(row + ORIGINS), 16),
        tl.multiple_of(tl.load(row + SPIKES), 16),
        tl.multiple_of(tl.load(row + INDICES), 16),
    )


@triton.jit
def value_offsets(at, first, local_G, FORM: tl.constexpr):
    """(offsets [G, KP] of a tile's values from the tensor's start, which of them are inside the part)."""
    K: tl.constexpr = fact(FORM, "group")
    places = tl.arange(0, fact(FORM, "padded"))[None, :]
    local = local_G[:, None] * K + places
    inside = first * K + local < at[NUMEL]
    if fact(FORM, "padded") != K:
        inside = inside & (places < K)
    return (at[START] + first * K) + local, inside


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


@triton.constexpr_function
def width_at(form, index):
    """Width of the index-th plane; 0 where there is none."""
    return form.widths[index] if index < len(form.widths) else 0


@triton.constexpr_function
def below(form, index):
    """Bits of a code that lie in the planes before the index-th."""
    return sum(form.widths[:index])


# ---- planes


@triton.jit
def pack_plane(codes, SHIFT: tl.constexpr, WIDTH: tl.constexpr):
    """uint8 [G, KP * WIDTH / 8]: bits SHIFT .. SHIFT + WIDTH of int32 codes [G, KP], first value lowest."""
    G: tl.constexpr = codes.shape[0]
    K: tl.constexpr = codes.shape[1]
    part = (codes >> SHIFT) & ((1 << WIDTH) - 1)
    for step in tl.static_range(3):
        if WIDTH << step < 8:
            low, high = tl.split(tl.reshape(part, (G, K >> (step + 1), 2)))
            part = low | (high << (WIDTH << step))
    return part.to(tl.uint8)


@triton.jit
def unpack_plane(packed, WIDTH: tl.constexpr, K: tl.constexpr):
    """int32 [G, K] of bytes [G, K * WIDTH / 8]; inverse of `pack_plane` for SHIFT 0."""
    G: tl.constexpr = packed.shape[0]
    part = packed.to(tl.int32)
    for step in tl.static_range(3):
        if WIDTH << step < 8:
            HALF: tl.constexpr = 4 >> step
            low = part & ((1 << HALF) - 1)
            part = tl.reshape(tl.join(low, part >> HALF), (G, K * WIDTH // (4 >> step)))
    return part


@triton.jit
def plane_address(wire_ptr, spot, offset, first, local_G, FORM: tl.constexpr, WIDTH: tl.constexpr):
    """(pointers [G, B], mask [G, B]) of a plane's bytes."""
    K: tl.constexpr = fact(FORM, "group")
    KP: tl.constexpr = fact(FORM, "padded")
    bytes_B = tl.arange(0, KP * WIDTH // 8)[None, :]
    BYTES: tl.constexpr = K * WIDTH // 8
    pointers = wire_ptr + (spot + offset + first * BYTES) + (local_G[:, None] * BYTES + bytes_B)
    return pointers, bytes_B < BYTES


@triton.jit
def store_planes(codes, wire_ptr, spot, at, first, local_G, ok_G, FORM: tl.constexpr):
    """Codes, int32 [G, KP], into the planes of `ok_G` groups."""
    for index in tl.static_range(3):
        if width_at(FORM, index) > 0:
            WIDTH: tl.constexpr = width_at(FORM, index)
            pointers, inside = plane_address(wire_ptr, spot, at[PLANES + index], first, local_G, FORM, WIDTH)
            packed = pack_plane(codes, below(FORM, index), WIDTH)
            if fact(FORM, "padded") == fact(FORM, "group"):
                tl.store(pointers, packed, mask=ok_G[:, None])
            else:
                tl.store(pointers, packed, mask=ok_G[:, None] & inside)


@triton.jit
def load_planes(wire_ptr, spot, at, first, local_G, ok_G, FORM: tl.constexpr):
    """int32 [G, KP] codes; inverse of `store_planes`, 0 where not ok."""
    KP: tl.constexpr = fact(FORM, "padded")
    codes = tl.zeros((1, KP), tl.int32)
    for index in tl.static_range(3):
        if width_at(FORM, index) > 0:
            WIDTH: tl.constexpr = width_at(FORM, index)
            pointers, inside = plane_address(wire_ptr, spot, at[PLANES + index], first, local_G, FORM, WIDTH)
            if fact(FORM, "padded") == fact(FORM, "group"):
                packed = tl.load(pointers, mask=ok_G[:, None], other=0)
            else:
                packed = tl.load(pointers, mask=ok_G[:, None] & inside, other=0)
            part = unpack_plane(packed, WIDTH, KP)
            codes = part if index == 0 else codes | (part << below(FORM, index))
    return codes


# ---- a value for each group


@triton.jit
def scale_pointer(wire_ptr, spot, offset, first, local_G, FORM: tl.constexpr):
    """Pointers [G, 1] to scales or minima, typed as raw bits."""
    base = wire_ptr + (spot + offset + first * scale_bytes(FORM))
    if fact(FORM, "scale") == "fp32":
        return base.to(tl.pointer_type(tl.int32)) + local_G[:, None]
    elif fact(FORM, "scale") == "e8m0":
        return base + local_G[:, None]
    else:
        return base.to(tl.pointer_type(tl.uint16)) + local_G[:, None]


@triton.jit
def spike_pointers(wire_ptr, spot, values, indices, first, local_G, FORM: tl.constexpr):
    """Pointers [G, 2] to spike values (raw bf16) and to their positions."""
    at = local_G[:, None] * 2 + tl.arange(0, 2)[None, :]
    value = (wire_ptr + (spot + values + first * 4)).to(tl.pointer_type(tl.uint16)) + at
    index = wire_ptr + (spot + indices + first * (2 * fact(FORM, "index_bytes")))
    if fact(FORM, "index_bytes") == 2:
        index = index.to(tl.pointer_type(tl.uint16))
    return value, index + at


# ---- tiles


@triton.jit
def encode_tile(x, wire_ptr, spot, at, first, local_G, ok_G, SHORT: tl.constexpr, FORM: tl.constexpr):
    """Encode fp32 values [G, KP], zeros beyond K, of whole groups and store the groups that are `ok_G`.

    SHORT: the values came from bf16 or fp16 (see `numbers.rounded_quotient`).
    """
    K: tl.constexpr = fact(FORM, "group")
    KP: tl.constexpr = fact(FORM, "padded")
    if fact(FORM, "rotation") > 0:
        x = hadamard(x, fact(FORM, "rotation"))
    places = tl.arange(0, KP)[None, :]
    amax_bits = tl.max(magnitude_bits(x), axis=1, keep_dims=True)
    good = amax_bits < NOT_FINITE
    if fact(FORM, "grid") == "mx":
        amax = amax_bits.to(tl.float32, bitcast=True)
        if fact(FORM, "scale") == "e8m0":
            byte, inverse = mx_scale(amax, good, FORM)
            sent = byte.to(tl.uint8)
            codes = element_codes(x * inverse, FORM)
        else:
            sent, scale = wire_scale(
                tl.math.div_rn(amax, tl.full(amax.shape, fact(FORM, "maximum"), tl.float32)), good, FORM
            )
            divisor = tl.where(scale == 0, INFINITY, scale)
            codes = element_codes(tl.math.div_rn(x, tl.broadcast_to(divisor, x.shape)), FORM)
    else:
        STEPS: tl.constexpr = fact(FORM, "steps")
        TOP: tl.constexpr = fact(FORM, "top")
        rest_low = x
        rest_high = x
        if KP != K:
            rest_low = tl.where(places < K, x, INFINITY)
            rest_high = tl.where(places < K, x, -INFINITY)
        if fact(FORM, "spikes"):
            low = tl.min(rest_low, axis=1, keep_dims=True)
            high = tl.max(rest_high, axis=1, keep_dims=True)
            low_place = tl.min(tl.where(rest_low == low, places, KP), axis=1, keep_dims=True)
            high_place = tl.min(tl.where(rest_high == high, places, KP), axis=1, keep_dims=True)
            value_ptr, index_ptr = spike_pointers(wire_ptr, spot, at[SPIKES], at[INDICES], first, local_G, FORM)
            one = tl.arange(0, 2)[None, :] == 0
            chosen = tl.where(good, tl.where(one, low, high), float("nan"))
            tl.store(value_ptr, saturate_bf16(chosen + 0.0), mask=ok_G[:, None])
            place = tl.where(good, tl.where(one, low_place, high_place), 0)
            if fact(FORM, "index_bytes") == 1:
                tl.store(index_ptr, place.to(tl.uint8), mask=ok_G[:, None])
            else:
                tl.store(index_ptr, place.to(tl.uint16), mask=ok_G[:, None])
            ends = (places == low_place) | (places == high_place)
            rest_low = tl.where(ends, INFINITY, rest_low)
            rest_high = tl.where(ends, -INFINITY, rest_high)
        if fact(FORM, "grid") == "symmetric":
            if fact(FORM, "spikes"):
                low = tl.min(rest_low, axis=1, keep_dims=True)
                high = tl.max(rest_high, axis=1, keep_dims=True)
                amax = tl.maximum(high, -low)
            else:
                amax = amax_bits.to(tl.float32, bitcast=True)
            sent, scale = wire_scale(tl.math.div_rn(amax, tl.full(amax.shape, TOP, tl.float32)), good, FORM)
            rounded = rounded_quotient(x, scale, SHORT, FORM)
            rounded = tl.minimum(tl.maximum(rounded, ROUNDER - TOP), ROUNDER + TOP)
            codes = rounded.to(tl.int32, bitcast=True) + fact(FORM, "offset")
        else:
            low = tl.min(rest_low, axis=1, keep_dims=True)
            high = tl.max(rest_high, axis=1, keep_dims=True)
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
                rounded = rounded_quotient(x - origin, scale, False, FORM)
                rounded = tl.minimum(tl.maximum(rounded, ROUNDER), ROUNDER + STEPS)
                codes = rounded.to(tl.int32, bitcast=True)
                origin_ptr = scale_pointer(wire_ptr, spot, at[ORIGINS], first, local_G, FORM)
                tl.store(origin_ptr, origin_sent, mask=ok_G[:, None])
            else:
                zero = tl.math.div_rn(-base, tl.where(scale == 0, INFINITY, scale)) + ROUNDER
                zero = tl.minimum(tl.maximum(zero, ROUNDER), ROUNDER + STEPS)
                zero = tl.where(good, zero.to(tl.int32, bitcast=True) & 0xFF, 0)
                origin_ptr = wire_ptr + (spot + at[ORIGINS] + first) + local_G[:, None]
                tl.store(origin_ptr, zero.to(tl.uint8), mask=ok_G[:, None])
                rounded = rounded_quotient(x, scale, SHORT, FORM)
                level = zero.to(tl.float32)
                rounded = tl.minimum(tl.maximum(rounded, -level + ROUNDER), -level + (ROUNDER + STEPS))
                codes = rounded.to(tl.int32, bitcast=True) + zero
    tl.store(scale_pointer(wire_ptr, spot, at[SCALES], first, local_G, FORM), sent, mask=ok_G[:, None])
    store_planes(tl.where(good, codes, 0), wire_ptr, spot, at, first, local_G, ok_G, FORM)


@triton.jit
def decode_tile(wire_ptr, spot, at, first, local_G, ok_G, FORM: tl.constexpr):
    """fp32 values [G, KP] of groups `ok_G`; not yet saturated (see `saturates`)."""
    codes = load_planes(wire_ptr, spot, at, first, local_G, ok_G, FORM)
    raw = tl.load(scale_pointer(wire_ptr, spot, at[SCALES], first, local_G, FORM), mask=ok_G[:, None], other=0)
    scale = read_scale(raw, FORM)
    if fact(FORM, "grid") == "mx":
        x = element_values(codes, FORM) * scale
    elif fact(FORM, "grid") == "symmetric":
        x = (codes - fact(FORM, "offset")).to(tl.float32) * scale
    elif fact(FORM, "grid") == "zero_point":
        zero = tl.load(wire_ptr + (spot + at[ORIGINS] + first) + local_G[:, None], mask=ok_G[:, None], other=0)
        x = (codes - zero.to(tl.int32)).to(tl.float32) * scale
    else:
        raw = tl.load(scale_pointer(wire_ptr, spot, at[ORIGINS], first, local_G, FORM), mask=ok_G[:, None], other=0)
        x = codes.to(tl.float32) * scale + read_scale(raw, FORM)
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
def decoded(x, FORM: tl.constexpr, dtype: tl.constexpr):
    """What a decoder returns: `x` kept within `dtype` where more than a scaled code may leave it."""
    if fact(FORM, "rotation") > 0 or fact(FORM, "grid") == "minimum" or dtype == tl.float16:
        LIMIT: tl.constexpr = 65504.0 if dtype == tl.float16 else largest(dtype)
        kept = tl.minimum(tl.maximum(x, -LIMIT), LIMIT)
        return tl.where(x == x, kept, x)
    else:
        return x


@triton.constexpr_function
def largest(dtype):
    """The largest finite number of a floating type."""
    return {"bf16": 3.3895313892515355e38, "fp32": 3.4028234663852886e38, "fp16": 65504.0}[str(dtype)]


@triton.jit
def store_padding(wire_ptr, spot, end):
    """Zeros from byte `end` of a section to the next 16-byte boundary, where the next one starts."""
    gap = tl.arange(0, 16)
    tl.store(wire_ptr + spot + end + gap, tl.zeros((16,), tl.uint8), mask=gap < (16 - end % 16) % 16)


@triton.jit
def store_paddings(wire_ptr, spot, at, groups, FORM: tl.constexpr):
    """The zeros behind every section of a part of `groups` groups."""
    K: tl.constexpr = fact(FORM, "group")
    for index in tl.static_range(3):
        if width_at(FORM, index) > 0:
            store_padding(wire_ptr, spot, at[PLANES + index] + groups * (K * width_at(FORM, index) // 8))
    store_padding(wire_ptr, spot, at[SCALES] + groups * scale_bytes(FORM))
    if fact(FORM, "grid") == "minimum":
        store_padding(wire_ptr, spot, at[ORIGINS] + groups * scale_bytes(FORM))
    if fact(FORM, "grid") == "zero_point":
        store_padding(wire_ptr, spot, at[ORIGINS] + groups)
    if fact(FORM, "spikes"):
        store_padding(wire_ptr, spot, at[SPIKES] + groups * 4)
        store_padding(wire_ptr, spot, at[INDICES] + groups * 2 * fact(FORM, "index_bytes"))


@triton.constexpr_function
def scale_bytes(form):
    """Bytes of a scale on the wire."""
    return {"e8m0": 1, "bf16": 2, "fp16": 2, "fp32": 4}[form.scale]
