"""A stream of codes without holes, eight at a time: what both outlier hybrids write to planes and read from them.

A word holds 8 codes, the first lowest: uint32 of 4-bit lanes, or uint64 of 8-bit lanes for codes above 4 bits. A window
is 8 codes of one plane, read from any code on. Device functions, no kernels. Q words or windows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from thinwire.kernels.form import PLANES, fact
from thinwire.kernels.planes import below, width_at
from thinwire.kernels.tiles import store_padding


@triton.constexpr_function
def power_of_2(size):
    """`size` widened to a power of two."""
    return 1 << (size - 1).bit_length()


@triton.constexpr_function
def runs_of_bits(run, stride, bits):
    """`run` ones at every `stride` bits of `bits`."""
    return sum(((1 << run) - 1) << at for at in range(0, bits, stride))


@triton.jit
def words_of(codes, FORM: tl.constexpr):
    """Codes, int32 [Q, 8], as words [Q]: uint32 of 4-bit lanes or uint64 of 8-bit lanes, the first code lowest."""
    lanes = tl.arange(0, 8)[None, :] * fact(FORM, "lane")
    if fact(FORM, "lane") == 4:
        return tl.sum(codes.to(tl.uint32) << lanes.to(tl.uint32), axis=1)
    else:
        return tl.sum(codes.to(tl.uint64) << lanes.to(tl.uint64), axis=1)


@triton.jit
def store_words(words, wire_ptr, spot, at, octet, left, SPAN: tl.constexpr, FORM: tl.constexpr):
    """Words [Q] into the planes from code 8 * octet on: `SPAN` codes, or `left` (int64) where that is less.

    Codes from `left` on must be zeros: they fill up the last word, which may reach into the padding.
    """
    inside = tl.arange(0, words.shape[0]) < tl.minimum((left + 7) // 8, SPAN // 8).to(tl.int32)
    for index in tl.static_range(3):
        if width_at(FORM, index) > 0:
            plane = closed_up(words, below(FORM, index), width_at(FORM, index), fact(FORM, "lane"))
            base = wire_ptr + (spot + at[PLANES + index] + octet * width_at(FORM, index))
            store_plane(plane, base, inside, width_at(FORM, index))


@triton.jit
def closed_up(words, SHIFT: tl.constexpr, WIDTH: tl.constexpr, LANE: tl.constexpr):
    """Bits SHIFT .. SHIFT + WIDTH of every lane, side by side: pairs of codes, then fours, then all eight."""
    found = words
    if WIDTH != LANE:
        found = (found >> SHIFT) & runs_of_bits(WIDTH, LANE, 8 * LANE)
        for step in tl.static_range(3):
            found |= found >> ((LANE - WIDTH) << step)
            found &= runs_of_bits(WIDTH << (step + 1), LANE << (step + 1), 8 * LANE)
    return found


@triton.jit
def store_plane(plane, base, inside, WIDTH: tl.constexpr):
    """The low `WIDTH` bytes of each of [Q] integers, side by side from `base` on."""
    local = tl.arange(0, plane.shape[0])
    if WIDTH == 8:
        tl.store(base.to(tl.pointer_type(tl.uint64)) + local, plane, mask=inside)
    elif WIDTH == 4:
        tl.store(base.to(tl.pointer_type(tl.uint32)) + local, plane.to(tl.uint32), mask=inside)
    elif WIDTH == 2:
        tl.store(base.to(tl.pointer_type(tl.uint16)) + local, plane.to(tl.uint16), mask=inside)
    else:
        tl.store(base + local, plane.to(tl.uint8), mask=inside)


@triton.jit
def load_window(plane_ptr, first, local, count, WIDTH: tl.constexpr):
    """8 codes of a plane from code first + local on, as uint32 (uint64 for 8 bits) of the shape of `local` (int32).

    first: any code's number, int64; count: codes of the plane. Words beyond its ends are not read; lanes that would
    lie there hold anything.
    """
    WORD: tl.constexpr = 64 if WIDTH == 8 else 32
    word_ptr = plane_ptr.to(tl.pointer_type(tl.uint64 if WIDTH == 8 else tl.uint32))
    base = (first * WIDTH) >> (6 if WIDTH == 8 else 5)
    bit = local * WIDTH + (first * WIDTH - base * WORD).to(tl.int32)
    last = ((count * WIDTH + (WORD - 1)) // WORD - 1 - base).to(tl.int32)
    least = (-base).to(tl.int32)
    at = bit >> (6 if WIDTH == 8 else 5)
    low = tl.load(word_ptr + base + tl.minimum(tl.maximum(at, least), last))
    high = tl.load(word_ptr + base + tl.minimum(tl.maximum(at + 1, least), last))
    shift = (bit & (WORD - 1)).to(low.dtype)
    return (low >> shift) | ((high << 1) << ((WORD - 1) - shift))


@triton.jit
def spread(plane, WIDTH: tl.constexpr, LANE: tl.constexpr):
    """A window's codes, `WIDTH` bits each, in lanes of their own: inverse of `closed_up` for SHIFT 0."""
    found = plane
    if WIDTH != LANE:
        found = found.to(tl.uint32 if LANE == 4 else tl.uint64) & ((1 << 8 * WIDTH) - 1)
        for step in tl.static_range(3):
            found |= found << ((LANE - WIDTH) << (2 - step))
            found &= runs_of_bits(WIDTH << (2 - step), LANE << (2 - step), 8 * LANE)
    return found


@triton.jit
def load_words(wire_ptr, spot, at, first, local, count, FORM: tl.constexpr):
    """Words, of the shape of `local`, of 8 codes from code first + local on; see `load_window`."""
    LANE: tl.constexpr = fact(FORM, "lane")
    words = tl.zeros(local.shape, tl.uint32 if LANE == 4 else tl.uint64)
    for index in tl.static_range(3):
        if width_at(FORM, index) > 0:
            plane_ptr = wire_ptr + (spot + at[PLANES + index])
            window = load_window(plane_ptr, first, local, count, width_at(FORM, index))
            words |= spread(window, width_at(FORM, index), LANE) << below(FORM, index)
    return words


@triton.jit
def from_lane(lane, words, LANE: tl.constexpr):
    """Masks of the type of `words`: ones from lane `lane` (int32, any) on; none from the 8th."""
    ALL: tl.constexpr = 0xFFFFFFFFFFFFFFFF if words.dtype == tl.uint64 else 0xFFFFFFFF
    ones = tl.full(lane.shape, ALL, words.dtype)
    return tl.where(lane >= 8, 0, ones << (tl.minimum(tl.maximum(lane, 0), 7) * LANE).to(words.dtype))


@triton.jit
def choose(set_bits, clear_bits, mask):
    """Bits of `set_bits` where the mask has ones, else those of `clear_bits`."""
    return clear_bits ^ ((clear_bits ^ set_bits) & mask)


@triton.jit
def level(code, offset: tl.constexpr):
    """fp32 of code - offset: the code becomes the last bits of 2^23."""
    return (code.to(tl.int32) | 0x4B000000).to(tl.float32, bitcast=True) - (8388608.0 + offset)


@triton.jit
def code_paddings(wire_ptr, spot, at, codes, FORM: tl.constexpr):
    """The zeros behind every plane of `codes` codes."""
    for index in tl.static_range(3):
        if width_at(FORM, index) > 0:
            store_padding(wire_ptr, spot, at[PLANES + index] + (codes * width_at(FORM, index) + 7) // 8)


@triton.jit
def kept_within(x, LIMIT: tl.constexpr):
    """x within -LIMIT .. LIMIT; NaN stays."""
    return tl.where(x == x, tl.minimum(tl.maximum(x, -LIMIT), LIMIT), x)
