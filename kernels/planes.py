"""Bit planes: codes in registers to words in a wire buffer, and back.

Device functions, no kernels. Shapes as in `tiles.py`: G groups, K values of a group, KP = K widened to a power of two.
A group's share of a plane is read and written in the widest words that it is a whole number of. A constexpr's name
cannot be assigned twice within a loop of the kernel, so widths are written out here, not named.
"""

from __future__ import annotations

import triton
import triton.language as tl

from thinwire.kernels.form import PLANES, fact
from thinwire.kernels.numbers import INTERPRETED


@triton.constexpr_function
def width_at(form, index):
    """Width of the index-th plane; 0 where there is none."""
    return form.widths[index] if index < len(form.widths) else 0


@triton.constexpr_function
def below(form, index):
    """Bits of a code that lie in the planes before the index-th."""
    return sum(form.widths[:index])


@triton.constexpr_function
def word_bits(form, width, values):
    """Bits of the words in which a group's share of a plane of `width` bits is read and written, 32, 16 or 8, where a
    word may hold `values` values at most.
    """
    return next(bits for bits in (32, 16, 8) if form.group * width % bits == 0 and bits <= values * width)


@triton.constexpr_function
def word_type(bits):
    """The type of such a word in memory."""
    return {32: tl.int32, 16: tl.uint16, 8: tl.uint8}[bits]


@triton.jit
def pack_plane(codes, SHIFT: tl.constexpr, WIDTH: tl.constexpr, WORD: tl.constexpr, CLEAN: tl.constexpr):
    """int32 [.., C * WIDTH / WORD]: bits SHIFT .. SHIFT + WIDTH of int32 codes [.., C], first value lowest.

    CLEAN says that SHIFT is 0 and that codes have no other bits, or all the same ones, which the caller takes off the
    words: then no code needs a mask of its own.
    """
    S: tl.constexpr = codes.shape[0]
    G: tl.constexpr = codes.shape[1]
    C: tl.constexpr = codes.shape[2]
    part = codes
    if not CLEAN:
        part = (codes >> SHIFT) & ((1 << WIDTH) - 1)
    for step in tl.static_range(5):
        if WIDTH << step < WORD:
            low, high = tl.split(tl.reshape(part, (S, G, C >> (step + 1), 2)))
            part = low + (high << (WIDTH << step))
    return part


@triton.constexpr_function
def ones(width, word):
    """A word whose codes are all 1, as a signed number of 32 bits."""
    total = sum(1 << place for place in range(0, word, width))
    return total - (1 << 32) if total >= 1 << 31 else total


@triton.constexpr_function
def masked_or_ptx(mask, bits):
    """PTX of `masked_or`: 0xEA is (a & b) | c."""
    return f"lop3.b32 $0, $1, {mask}, {bits}, 0xEA;"


@triton.jit
def masked_or(words, MASK: tl.constexpr, BITS: tl.constexpr):
    """words & MASK | BITS in one instruction: left to itself the compiler makes it two."""
    if INTERPRETED:
        return (words & MASK) | BITS
    else:
        return tl.inline_asm_elementwise(
            masked_or_ptx(MASK, BITS), "=r,r", [words], dtype=tl.int32, is_pure=True, pack=1
        )


@triton.jit
def code_at(words, origin, PLACE: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr):
    """The codes at bit PLACE of words: int32, or fp32 codes - origin (a whole number, fp32) with LEVELS."""
    if LEVELS:
        # In the fraction of a number of 2^(23 - PLACE) the code counts as itself: no shift, and no conversion.
        found = masked_or(words, ((1 << WIDTH) - 1) << PLACE, (150 - PLACE) << 23)
        return found.to(tl.float32, bitcast=True) - (origin + 2.0 ** (23 - PLACE))
    else:
        return (words >> PLACE) & ((1 << WIDTH) - 1)


@triton.jit
def codes_at(
    words, origin, PLACE: tl.constexpr, STEP: tl.constexpr, COUNT: tl.constexpr, WIDTH: tl.constexpr,
    LEVELS: tl.constexpr,
):  # fmt: skip
    """[.., COUNT]: the codes at bits PLACE, PLACE + STEP ... of words, COUNT a power of two up to 8."""
    if COUNT == 2:
        even = code_at(words, origin, PLACE, WIDTH, LEVELS)
        odd = code_at(words, origin, PLACE + STEP, WIDTH, LEVELS)
    elif COUNT == 4:
        even = codes_at(words, origin, PLACE, 2 * STEP, 2, WIDTH, LEVELS)
        odd = codes_at(words, origin, PLACE + STEP, 2 * STEP, 2, WIDTH, LEVELS)
    else:
        even = codes_at(words, origin, PLACE, 2 * STEP, 4, WIDTH, LEVELS)
        odd = codes_at(words, origin, PLACE + STEP, 2 * STEP, 4, WIDTH, LEVELS)
    return tl.join(even, odd)


@triton.jit
def unpack_plane(words, origin, WORD: tl.constexpr, WIDTH: tl.constexpr, KP: tl.constexpr, LEVELS: tl.constexpr):
    """[G, KP] codes of words [G, KP * WIDTH / WORD]; see `code_at` for origin and LEVELS."""
    G: tl.constexpr = words.shape[0]
    part = words.to(tl.int32)
    if WORD == 32:  # halves: so every code lies in the part of a word that is a number's fraction
        part = tl.reshape(tl.join(part, part >> 16), (G, KP * WIDTH // 16))
    if WORD >= 16 and WIDTH == 1:
        part = tl.reshape(tl.join(part, part >> 8), (G, KP // 8))
    if WIDTH == 1 or (WORD == 8 and WIDTH < 8):
        found = codes_at(part, origin, 0, WIDTH, 8 // WIDTH, WIDTH, LEVELS)
    elif WORD == 8:
        found = code_at(part, origin, 0, WIDTH, LEVELS)
    else:
        found = codes_at(part, origin, 0, WIDTH, 16 // WIDTH, WIDTH, LEVELS)
    return tl.reshape(found, (G, KP))


@triton.jit
def plane_address(
    wire_ptr, spot, offset, first, local_G, FORM: tl.constexpr, WIDTH: tl.constexpr, WORD: tl.constexpr
):  # fmt: skip
    """(pointers [G, W] to a plane's words, which of them are inside a group [1, W])."""
    base = wire_ptr + (spot + offset + first * (fact(FORM, "group") * WIDTH // 8))
    words_W = tl.arange(0, fact(FORM, "padded") * WIDTH // WORD)[None, :]
    per_group = fact(FORM, "group") * WIDTH // WORD
    pointers = base.to(tl.pointer_type(word_type(WORD))) + (local_G[:, None] * per_group + words_W)
    return pointers, words_W < per_group


@triton.jit
def store_planes(codes, extra, good, wire_ptr, spot, at, first, local_G, ok_G, FORM: tl.constexpr):
    """Codes, int32 [S, G, C] with `extra` [1, G, 1] added to each, into the planes of `ok_G` groups; all codes are 0
    where not `good` [1, G, 1].
    """
    S: tl.constexpr = codes.shape[0]
    G: tl.constexpr = codes.shape[1]
    C: tl.constexpr = codes.shape[2]
    CLEAN: tl.constexpr = width_at(FORM, 1) == 0
    if not CLEAN:
        codes -= extra
    for index in tl.static_range(3):
        if width_at(FORM, index) > 0:
            pointers, inside = plane_address(
                wire_ptr, spot, at[PLANES + index], first, local_G, FORM, width_at(FORM, index),
                word_bits(FORM, width_at(FORM, index), C),
            )  # fmt: skip
            packed = pack_plane(
                codes, below(FORM, index), width_at(FORM, index), word_bits(FORM, width_at(FORM, index), C), CLEAN
            )
            if CLEAN:
                packed -= extra * ones(width_at(FORM, index), word_bits(FORM, width_at(FORM, index), C))
            packed = tl.where(good, packed, 0).to(word_type(word_bits(FORM, width_at(FORM, index), C)))
            packed = tl.reshape(tl.permute(packed, (1, 0, 2)), (G, S * packed.shape[2]))
            if fact(FORM, "padded") == fact(FORM, "group"):
                tl.store(pointers, packed, mask=ok_G[:, None])
            else:
                tl.store(pointers, packed, mask=ok_G[:, None] & inside)


@triton.jit
def load_planes(
    wire_ptr, spot, at, first, local_G, ok_G, origin, LEVELS: tl.constexpr, FORM: tl.constexpr, WORD: tl.constexpr
):  # fmt: skip
    """[G, KP] codes as int32, 0 where not ok, or fp32 codes - origin [G, 1] with LEVELS. WORD: see `decode_tile`."""
    SINGLE: tl.constexpr = width_at(FORM, 1) == 0
    found = tl.zeros((1, fact(FORM, "padded")), tl.int32)
    for index in tl.static_range(3):
        if width_at(FORM, index) > 0:
            pointers, inside = plane_address(
                wire_ptr, spot, at[PLANES + index], first, local_G, FORM, width_at(FORM, index),
                word_bits(FORM, width_at(FORM, index), WORD // width_at(FORM, index)),
            )  # fmt: skip
            if fact(FORM, "padded") == fact(FORM, "group"):
                packed = tl.load(pointers, mask=ok_G[:, None], other=0)
            else:
                packed = tl.load(pointers, mask=ok_G[:, None] & inside, other=0)
            part = unpack_plane(
                packed, origin, word_bits(FORM, width_at(FORM, index), WORD // width_at(FORM, index)),
                width_at(FORM, index), fact(FORM, "padded"), LEVELS and SINGLE,
            )  # fmt: skip
            found = part if index == 0 else found | (part << below(FORM, index))
    if LEVELS and not SINGLE:
        number = (found | (150 << 23)).to(tl.float32, bitcast=True)  # 2^23 + code
        return number - (origin + 8388608.0)
    else:
        return found
