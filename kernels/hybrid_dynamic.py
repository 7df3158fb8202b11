"""The dynamic outlier hybrid: encode, decode, and decode-and-add of R copies, one launch each.

One value in `keep` stays bf16, the largest magnitude of its block; the codes of the others follow one another without
holes. Encoding works in registers and closes the holes on the way out: code m of a tile is that of value m + b, or of
the next from its block's kept place on, with b = m // (keep - 1): words of 8 codes gathered from shared memory and
shifted together. Decoding goes by position: 8 values of a block know their codes' numbers from the block's and its
kept place, read a window of 8 codes and let the hole in. A tile is a multiple of 8 blocks, so its codes are whole
bytes of every plane. Floors and the sizes from which it wins are those of `encode.py`; the bytes are those of
`reference.codecs.hybrid`.

Shapes: T blocks of a tile (each group's widened to a power of two), J places of a block (widened likewise, and to 8), G
groups, S codes of a tile (widened likewise), Q words of 8. Values are bf16, fp16 or fp32; where parts start at
multiples of 8 values and blocks are powers of two, value loads and stores are 128 bits wide.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.form import GROUPS, KEPT, NUMEL, PLACES, SCALES, START, Parts, fact, hybrid_form
from thinwire.kernels.launch import Tuning, checked_rows, launch_tiles
from thinwire.kernels.numbers import (
    ABS,
    FP16_MAX,
    NOT_FINITE,
    ROUNDER,
    ROUNDER_BITS,
    from_bf16,
    magnitude_bits,
    read_scale,
    rounded_quotient,
    saturate_bf16,
    to_dtype,
    to_fp32,
    wire_scale,
)
from thinwire.kernels.reduce import unrolled
from thinwire.kernels.stream import (
    choose,
    code_paddings,
    from_lane,
    kept_within,
    level,
    load_words,
    power_of_2,
    store_words,
    words_of,
)
from thinwire.kernels.tiles import part_row, store_padding

NOWHERE = tl.constexpr(1 << 10)  # beyond any place


# ---- tiles


@triton.jit
def tile_blocks(at, first, TILE_GROUPS: tl.constexpr, FORM: tl.constexpr):
    """For T blocks [T, 1] of the groups from `first` on: (number in the tile without the widening, how many values of
    the part it holds: `keep`, fewer for the last block, 0 beyond and for what only widens a group)."""
    BLOCKS: tl.constexpr = fact(FORM, "blocks")
    WIDENED: tl.constexpr = fact(FORM, "padded_blocks")
    KEEP: tl.constexpr = fact(FORM, "keep")
    local = tl.arange(0, TILE_GROUPS * WIDENED)[:, None]
    real = local >= 0
    if BLOCKS != WIDENED:
        real = local % WIDENED < BLOCKS
        local = local // WIDENED * BLOCKS + local % WIDENED
    rest = tl.minimum(at[NUMEL] - first * fact(FORM, "group"), TILE_GROUPS * BLOCKS * KEEP).to(tl.int32)
    values = tl.minimum(tl.maximum(rest - local * KEEP, 0), KEEP)
    return local, tl.where(real, values, 0)


@triton.jit
def by_group(x, TILE_GROUPS: tl.constexpr):
    """[T, K] as [G, K x blocks of a group]."""
    return tl.reshape(x, (TILE_GROUPS, x.shape[0] * x.shape[1] // TILE_GROUPS))


@triton.jit
def largest_of_blocks(raw):
    """(fp32 value, place) [T, 1] of the first largest magnitude in blocks [T, J] of any floating type. Anything if a
    block holds a NaN or an infinity, but then the value is one of those.

    Magnitude, place from behind and sign in one integer: a single reduction, of 32 bits where values have 16.
    """
    places = tl.arange(0, raw.shape[1])[None, :]
    if raw.dtype == tl.float32:
        bits = raw.to(tl.int32, bitcast=True)
        behind = ((255 - places) << 1) | ((bits >> 31) & 1)
        best = tl.max(((bits & ABS).to(tl.int64) << 9) | behind.to(tl.int64), axis=1, keep_dims=True)
        value = ((best >> 9) | ((best & 1) << 31)).to(tl.int32).to(tl.float32, bitcast=True)
    else:
        bits = raw.to(tl.int16, bitcast=True).to(tl.int32)
        behind = ((255 - places) << 1) | ((bits >> 15) & 1)
        best = tl.max(((bits & 0x7FFF) << 9) | behind, axis=1, keep_dims=True)
        value = to_fp32(((best >> 9) | ((best & 1) << 15)).to(tl.int16).to(raw.dtype, bitcast=True))
    return value, 255 - ((best >> 1) & 255).to(tl.int32)


@triton.jit
def encode_tile(raw, values_T, local_T, wire_ptr, spot, at, first, TILE_GROUPS: tl.constexpr, FORM: tl.constexpr):
    """Encode values [T, J], zeros where the part holds none, and store what the part holds of them."""
    BLOCKS: tl.constexpr = fact(FORM, "blocks")
    KEEP: tl.constexpr = fact(FORM, "keep")
    TOP: tl.constexpr = fact(FORM, "top")
    J: tl.constexpr = raw.shape[1]
    T: tl.constexpr = raw.shape[0]
    places = tl.arange(0, J)[None, :]
    whole = values_T == KEEP
    x = to_fp32(raw)

    value, place = largest_of_blocks(raw)
    value_G = by_group(value, TILE_GROUPS)
    good_G = tl.max(magnitude_bits(value_G), axis=1, keep_dims=True) < NOT_FINITE
    block = by_group(first * BLOCKS + local_T, TILE_GROUPS)
    stored = by_group(whole, TILE_GROUPS)
    kept_ptr = (wire_ptr + spot + at[KEPT]).to(tl.pointer_type(tl.uint16))
    tl.store(kept_ptr + block, saturate_bf16(tl.where(good_G, value_G, float("nan"))), mask=stored)
    sent_place = tl.where(good_G, by_group(place, TILE_GROUPS), 0)
    tl.store(wire_ptr + (spot + at[PLACES]) + block, sent_place.to(tl.uint8), mask=stored)

    # Where a group is not good its codes are zeros, and any hole will do.
    place = tl.where(whole, place, NOWHERE)  # a block that the part cuts off keeps nothing
    rest = tl.where(places == place, 0, magnitude_bits(x))
    rest = tl.max(by_group(rest, TILE_GROUPS), axis=1, keep_dims=True).to(tl.float32, bitcast=True)
    sent, scale = wire_scale(tl.math.div_rn(rest, tl.full(rest.shape, TOP, tl.float32)), good_G, FORM)
    group = first + tl.arange(0, TILE_GROUPS)[:, None]
    scale_ptr = (wire_ptr + spot + at[SCALES]).to(tl.pointer_type(tl.uint16))
    tl.store(scale_ptr + group, sent, mask=group < at[GROUPS])

    rounded = rounded_quotient(by_group(x, TILE_GROUPS), scale, raw.dtype != tl.float32, FORM)
    rounded = tl.minimum(tl.maximum(rounded, ROUNDER - TOP), ROUNDER + TOP)
    codes = rounded.to(tl.int32, bitcast=True) - (ROUNDER_BITS - fact(FORM, "offset"))
    codes = tl.where(places < values_T, tl.reshape(tl.where(good_G, codes, 0), (T, J)), 0)

    SPAN: tl.constexpr = TILE_GROUPS * BLOCKS * (KEEP - 1)
    octet = first * (BLOCKS * (KEEP - 1)) // 8
    left = at[NUMEL] - at[NUMEL] // KEEP - octet * 8
    place = tl.reshape(place, (T,))
    if KEEP < 8:
        words = words_of(closed_codes(tl.reshape(codes, (T * J,)), place, SPAN, FORM), FORM)
    else:
        words = closed_words(words_of(tl.reshape(codes, (T * J // 8, 8)), FORM), place, SPAN, FORM)
    store_words(words, wire_ptr, spot, at, octet, left, SPAN, FORM)


@triton.jit
def widened(block, FORM: tl.constexpr):
    """A block's row in the tile from its number in the tile."""
    if fact(FORM, "blocks") != fact(FORM, "padded_blocks"):
        return block // fact(FORM, "blocks") * fact(FORM, "padded_blocks") + block % fact(FORM, "blocks")
    else:
        return block


@triton.jit
def closed_codes(codes, place, SPAN: tl.constexpr, FORM: tl.constexpr):
    """The stream [S / 8, 8] of codes [T * J] with holes at `place` [T], value by value: any block size."""
    KEEP: tl.constexpr = fact(FORM, "keep")
    J: tl.constexpr = fact(FORM, "padded")
    S: tl.constexpr = power_of_2(SPAN)
    m = tl.arange(0, S)
    block = tl.minimum(m // (KEEP - 1), SPAN // (KEEP - 1) - 1)
    j = m - block * (KEEP - 1)
    row = widened(block, FORM)
    source = row * J + j + (j >= tl.gather(place, row, 0)).to(tl.int32)
    return tl.reshape(tl.gather(codes, tl.minimum(source, codes.shape[0] - 1), 0), (S // 8, 8))


@triton.jit
def gather_two(x, a, b):
    """x[a], x[b] of one-dimensional tensors: one trip through shared memory."""
    both = tl.gather(x, tl.reshape(tl.join(a, b), (2 * a.shape[0],)), 0)
    return tl.split(tl.reshape(both, (a.shape[0], 2)))


@triton.jit
def closed_words(words, place, SPAN: tl.constexpr, FORM: tl.constexpr):
    """The stream [S / 8] of words [T * J / 8] with holes at `place` [T], 8 codes at a time: blocks of 8 values or more.

    8 codes of the stream touch two blocks at most: R1 from place j of one on, R2 from the next one's start.
    """
    KEEP: tl.constexpr = fact(FORM, "keep")
    LANE: tl.constexpr = fact(FORM, "lane")
    OCTETS: tl.constexpr = fact(FORM, "padded") // 8
    LAST: tl.constexpr = words.shape[0] - 1
    BLOCKS: tl.constexpr = SPAN // (KEEP - 1)
    m = tl.arange(0, power_of_2(SPAN) // 8) * 8
    block = tl.minimum(m // (KEEP - 1), BLOCKS - 1)
    j = m - block * (KEEP - 1)
    row, next_row = widened(block, FORM), widened(tl.minimum(block + 1, BLOCKS - 1), FORM)
    source = tl.minimum(row * OCTETS + (j >> 3), LAST)
    low, high = gather_two(words, source, tl.minimum(source + 1, LAST))
    start = tl.gather(words, next_row * OCTETS, 0)
    hole, next_hole = gather_two(place, row, next_row)

    shift = ((j & 7) * LANE).to(words.dtype)
    ahead = high >> shift
    these = (low >> shift) | ((high << LANE) << (7 * LANE - shift))  # lanes j .. j + 7
    those = (these >> LANE) | (ahead << 7 * LANE)  # lanes j + 1 .. j + 8
    beyond = from_lane(hole - j, words, LANE)
    found = choose(those, these, beyond)
    beyond = from_lane(next_hole, words, LANE)
    rest = choose(start >> LANE, start, beyond)
    here = tl.minimum(KEEP - 1 - j, 8)  # codes of the first block
    second = from_lane(here, words, LANE)
    return choose(rest << (tl.minimum(here, 7) * LANE).to(words.dtype), found, second)


@triton.jit
def decode_tile(wire_ptr, spot, at, first, TILE_GROUPS: tl.constexpr, FORM: tl.constexpr):
    """fp32 values [Q, 8] of a tile, eight of a block in a row; anything where the part holds none."""
    BLOCKS: tl.constexpr = fact(FORM, "blocks")
    WIDENED: tl.constexpr = fact(FORM, "padded_blocks")
    KEEP: tl.constexpr = fact(FORM, "keep")
    OCTETS: tl.constexpr = fact(FORM, "padded") // 8
    octets = tl.arange(0, TILE_GROUPS * WIDENED * OCTETS)[:, None]
    lanes = tl.arange(0, 8)[None, :]
    row = octets // OCTETS
    j = octets % OCTETS * 8
    group = row // WIDENED
    local = row
    if BLOCKS != WIDENED:
        local = group * BLOCKS + tl.minimum(row % WIDENED, BLOCKS - 1)
    blocks = at[NUMEL] // KEEP
    block = first * BLOCKS + local
    whole = block < blocks
    place = tl.load(wire_ptr + (spot + at[PLACES]) + block, mask=whole, other=0).to(tl.int32)
    kept_ptr = (wire_ptr + spot + at[KEPT]).to(tl.pointer_type(tl.uint16))
    kept = from_bf16(tl.load(kept_ptr + block, mask=whole, other=0))
    scale_ptr = (wire_ptr + spot + at[SCALES]).to(tl.pointer_type(tl.uint16))
    scale = read_scale(tl.load(scale_ptr + first + group, mask=first + group < at[GROUPS], other=0), FORM)
    hole = tl.where(whole, place, NOWHERE) - j
    passed = hole < 0
    hole = tl.where(passed, 8, hole)
    local = local * (KEEP - 1) + j - passed.to(tl.int32)
    words = load_words(wire_ptr, spot, at, first * (BLOCKS * (KEEP - 1)), local, at[NUMEL] - blocks, FORM)
    LANE: tl.constexpr = fact(FORM, "lane")
    beyond = from_lane(hole, words, LANE)
    words = choose((words & beyond) << LANE, words, beyond)  # the hole let in
    codes = (words >> (lanes * LANE).to(words.dtype)) & ((1 << LANE) - 1)
    return tl.where(lanes == hole, kept, level(codes, fact(FORM, "offset")) * scale)


@triton.jit
def value_offsets(values_T, local_T, at, first, FORM: tl.constexpr):
    """(offsets [T, J] from the tensor's start, which of them the part holds)."""
    places = tl.arange(0, fact(FORM, "padded"))[None, :]
    offsets = (at[START] + first * fact(FORM, "group")) + (local_T * fact(FORM, "keep") + places)
    return offsets, places < values_T


@triton.jit
def all_inside(at, first, TILE_GROUPS: tl.constexpr, FORM: tl.constexpr):
    """Whether no value of the tile needs a mask."""
    exact: tl.constexpr = fact(FORM, "padded") == fact(FORM, "keep") and fact(FORM, "padded_blocks") == fact(
        FORM, "blocks"
    )
    return ((first + TILE_GROUPS) * fact(FORM, "group") <= at[NUMEL]) and exact


@triton.jit
def store_values(x, values_ptr, at, first, TILE_GROUPS: tl.constexpr, FORM: tl.constexpr):
    """fp32 values [Q, 8] into the tensor's type, what the part does not hold left out."""
    local_T, values_T = tile_blocks(at, first, TILE_GROUPS, FORM)
    offsets, inside = value_offsets(values_T, local_T, at, first, FORM)
    cast = to_dtype(tl.reshape(x, offsets.shape), values_ptr.dtype.element_ty)
    if all_inside(at, first, TILE_GROUPS, FORM):
        tl.store(values_ptr + offsets, cast)
    else:
        tl.store(values_ptr + offsets, cast, mask=inside)


# ---- kernels


@triton.jit
def hybrid_encode_kernel(
    values_ptr,  # [rows, N]
    wire_ptr,  # uint8, the buffer of (row, part) at row * wire_row + part * wire_part
    table_ptr,
    values_row,
    wire_row,
    wire_part,
    FORM: tl.constexpr,
    TILE_GROUPS: tl.constexpr,
):
    """Grid: tiles of the largest part, parts, rows."""
    part = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    at = part_row(table_ptr, part, fact(FORM, "start_align"))
    first = tl.program_id(0).to(tl.int64) * TILE_GROUPS
    if first < at[GROUPS]:
        spot = row * wire_row + part * wire_part
        local_T, values_T = tile_blocks(at, first, TILE_GROUPS, FORM)
        offsets, inside = value_offsets(values_T, local_T, at, first, FORM)
        pointers = values_ptr + row * values_row + offsets
        if all_inside(at, first, TILE_GROUPS, FORM):
            raw = tl.load(pointers)
        else:
            raw = tl.load(pointers, mask=inside, other=0.0)
        encode_tile(raw, values_T, local_T, wire_ptr, spot, at, first, TILE_GROUPS, FORM)
        if first + TILE_GROUPS >= at[GROUPS]:
            blocks = at[NUMEL] // fact(FORM, "keep")
            code_paddings(wire_ptr, spot, at, at[NUMEL] - blocks, FORM)
            store_padding(wire_ptr, spot, at[SCALES] + at[GROUPS] * 2)
            store_padding(wire_ptr, spot, at[KEPT] + blocks * 2)
            store_padding(wire_ptr, spot, at[PLACES] + blocks)


@triton.jit
def hybrid_decode_kernel(
    wire_ptr,  # uint8, the buffer of (row, part) at row * wire_row + part * wire_part
    values_ptr,  # [rows, N]
    table_ptr,
    wire_row,
    wire_part,
    values_row,
    FORM: tl.constexpr,
    TILE_GROUPS: tl.constexpr,
):
    """Grid: tiles of the largest part, parts, rows."""
    part = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    at = part_row(table_ptr, part, fact(FORM, "start_align"))
    first = tl.program_id(0).to(tl.int64) * TILE_GROUPS
    if first < at[GROUPS]:
        x = decode_tile(wire_ptr, row * wire_row + part * wire_part, at, first, TILE_GROUPS, FORM)
        if values_ptr.dtype.element_ty == tl.float16:
            x = kept_within(x, FP16_MAX)
        store_values(x, values_ptr + row * values_row, at, first, TILE_GROUPS, FORM)


@triton.jit
def hybrid_reduce_kernel(
    wire_ptr,  # uint8, the copy of part from rank at rank * wire_rank + part * wire_part
    values_ptr,  # [rows, N]: the sum is stored in each row
    table_ptr,
    wire_rank,
    wire_part,
    values_row,
    ranks,
    UNROLLED: tl.constexpr,
    FORM: tl.constexpr,
    TILE_GROUPS: tl.constexpr,
):
    """Grid: tiles of the largest part, parts, rows. Each row reads the copies again, as each rank would."""
    part = tl.program_id(1).to(tl.int64)
    at = part_row(table_ptr, part, fact(FORM, "start_align"))
    first = tl.program_id(0).to(tl.int64) * TILE_GROUPS
    if first < at[GROUPS]:
        spot = part * wire_part
        step = wire_rank.to(tl.int64)
        total = decode_tile(wire_ptr, spot, at, first, TILE_GROUPS, FORM)
        if UNROLLED > 0:
            for rank in tl.static_range(1, UNROLLED):
                total += decode_tile(wire_ptr, spot + step * rank, at, first, TILE_GROUPS, FORM)
        else:
            for rank in range(1, ranks):
                total += decode_tile(wire_ptr, spot + step * rank, at, first, TILE_GROUPS, FORM)
        row = tl.program_id(2).to(tl.int64)
        store_values(total, values_ptr + row * values_row, at, first, TILE_GROUPS, FORM)


# ---- launchers


def encode_into(values: Tensor, wire_RPB: Tensor, parts: Parts, tuning: Tuning | None = None) -> None:
    """Encode every part of `values` ([N] or [R, N], bf16, fp16 or fp32) into `wire_RPB` (uint8 [R, P, >= nbytes]).

    Raises ValueError for shapes that do not fit, tensors that kernels cannot reach and codecs of other kinds.
    """
    rows = checked_rows(values, wire_RPB, parts)
    compiled = hybrid_form(parts.codec)
    if parts.most_groups:
        launch_tiles(
            hybrid_encode_kernel, "encode", compiled, rows, wire_RPB, parts, tuning, wire_row=wire_RPB.stride(0)
        )


def decode_into(wire_RPB: Tensor, values: Tensor, parts: Parts, tuning: Tuning | None = None) -> None:
    """Decode every part in `wire_RPB` (uint8 [R, P, >= nbytes]) into `values` ([N] or [R, N]; bf16, fp16, fp32).

    Raises ValueError for shapes that do not fit, tensors that kernels cannot reach and codecs of other kinds.
    """
    rows = checked_rows(values, wire_RPB, parts)
    compiled = hybrid_form(parts.codec)
    if parts.most_groups:
        launch_tiles(
            hybrid_decode_kernel, "decode", compiled, rows, wire_RPB, parts, tuning, wire_row=wire_RPB.stride(0)
        )


def reduce_into(wire_RPB: Tensor, values: Tensor, parts: Parts, tuning: Tuning | None = None) -> None:
    """Sum over ranks of the copies in `wire_RPB` (uint8 [R, P, >= nbytes]) into `values` ([N], or [rows, N] for as
    many times the same; bf16, fp16, fp32).

    Raises ValueError for shapes that do not fit, tensors that kernels cannot reach and codecs of other kinds.
    """
    ranks = wire_RPB.shape[0]
    rows = checked_rows(values, wire_RPB, parts, ranks)
    compiled = hybrid_form(parts.codec)
    if parts.most_groups:
        launch_tiles(
            hybrid_reduce_kernel, "reduce", compiled, rows, wire_RPB, parts, tuning,
            wire_rank=wire_RPB.stride(0), ranks=ranks, UNROLLED=unrolled(ranks),
        )  # fmt: skip
