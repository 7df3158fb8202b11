"""The static outlier hybrid: encode, decode, and decode-and-add of R ranks' copies, one launch each.

A calibration says which features of a row stay bf16 and, for each rank, one code step a feature; neither is sent. The
best features are kept wherever they occur, and one more, the `cut`, in the rows before `limit`, so that the count comes
out (`reference.codecs.hybrid.runs`). Hence every row of a regime keeps the same columns, and position -> number of a
code or kept value, and back, is a table by feature plus arithmetic on rows. Decoding goes by position, in tiles of rows
and features: one lookup serves 8 values, in all ranks' copies. Encoding goes by code, and then by kept value, because
both are streams without holes. Floors as in `encode.py`; the bytes are those of `reference.codecs.hybrid`.

Positions count from the row that holds the part's first value: value p of a part is feature (p + phase) % F of row
(p + phase) // F. Shapes: F features, Q words of 8 codes (or single kept values), V rows and O octets of features of a
decoder's tile. Values are bf16, fp16 or fp32; where rows and parts start at multiples of 8, stores are 128 bits wide.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.form import KEPT, NUMEL, START, fact, hybrid_form, row_stride
from thinwire.kernels.launch import Tuning, cdiv, check_device, checked_rows, default_tuning, options
from thinwire.kernels.numbers import ROUNDER, ROUNDER_BITS, from_bf16, saturate_bf16, to_dtype, to_fp32
from thinwire.kernels.reduce import unrolled
from thinwire.kernels.static_tables import (
    BASE_CODES,
    BASE_KEPT,
    CUT,
    CUT_KEPT,
    CUT_OTHER,
    FEATURES,
    LIMIT,
    LISTS,
    NEVER,
    PHASE,
    STATIC_COLUMNS,
    WHOLE,
    StaticParts,
)
from thinwire.kernels.stream import (
    choose,
    code_paddings,
    from_lane,
    kept_within,
    level,
    load_words,
    store_words,
)
from thinwire.kernels.tiles import part_row, store_padding

MOST_COLUMNS = 256  # of a decoder's tile
LARGEST_FP32 = torch.finfo(torch.float32).max


@triton.jit
def static_row(table_ptr, part, ALIGN: tl.constexpr, FORM: tl.constexpr):
    """A row of the parts' table as a tuple: `form.COLUMNS`, then `static_tables`'. ALIGN: of starts, phases, rows."""
    row = table_ptr + part * STATIC_COLUMNS
    at = part_row(row, 0, fact(FORM, "start_align"))
    return (
        tl.multiple_of(at[0], ALIGN), at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8], at[9],
        tl.multiple_of(tl.load(row + FEATURES), ALIGN),
        tl.multiple_of(tl.load(row + PHASE), ALIGN),
        tl.load(row + LIMIT),
        tl.load(row + WHOLE),
        tl.load(row + CUT),
        tl.load(row + BASE_CODES),
        tl.load(row + BASE_KEPT),
        tl.load(row + CUT_OTHER),
        tl.load(row + CUT_KEPT),
    )  # fmt: skip


# ---- encoding: number in a stream -> position


@triton.jit
def find(at, first, local, base, head_width, tail_width):
    """Where entries first + local of a stream stand, codes or kept values in their order: a tuple of

    a row (int64), and of each entry its row from that one on and its number in its row (int32, like `local`), then the
    limit counted from that row. first: int64; base: entries of the first row before the part. Rows before the limit
    hold `head_width` entries, the others `tail_width`.
    """
    BIG: tl.constexpr = 1 << 30
    number = first + base
    ahead = at[LIMIT] * head_width - number  # entries of rows before the limit
    head_row = number // tl.maximum(head_width, 1)
    head_entry = (number - head_row * head_width).to(tl.int32)
    behind = tl.maximum(-ahead, 0)
    tail_row = at[LIMIT] + behind // tl.maximum(tail_width, 1)
    tail_entry = (behind - (tail_row - at[LIMIT]) * tail_width + tl.maximum(tl.minimum(-ahead, 0), -BIG)).to(tl.int32)
    row = tl.where(ahead > 0, head_row, tail_row)

    in_head = local < tl.minimum(tl.maximum(ahead, -BIG), BIG).to(tl.int32)
    entry = tl.where(in_head, head_entry, tail_entry) + local
    width = tl.maximum(tl.where(in_head, head_width.to(tl.int32), tail_width.to(tl.int32)), 1)
    rows = (entry.to(tl.uint32) // width.to(tl.uint32)).to(tl.int32)
    limit = tl.minimum(tl.maximum(at[LIMIT] - row, 0), BIG).to(tl.int32)
    first_tail = tl.minimum(tail_row - row, BIG).to(tl.int32)
    return row, tl.where(in_head, 0, first_tail) + rows, entry - rows * width, limit


@triton.jit
def code_tile(
    values_ptr, divisors_ptr, list_ptr, wire_ptr, spot, at, first,
    TILE: tl.constexpr, WIDE: tl.constexpr, FORM: tl.constexpr,
):  # fmt: skip
    """Encode `TILE` codes from number `first` on, a multiple of 8; values and divisors of this row of the tensor.

    One lane of all words after the other, so that a thread has whole words and looks up a word's row once. WIDE: no
    row has fewer than 8 codes, so a word touches two rows at most. Words beyond the part's end encode what it has
    last; positions are kept within the part, which costs less than masks.
    """
    HALF: tl.constexpr = fact(FORM, "offset")
    codes_left = at[NUMEL] - at[NUMEL] // fact(FORM, "keep") - first
    left = tl.minimum(codes_left, TILE).to(tl.int32)
    octets = tl.arange(0, TILE // 8) * 8
    local = tl.minimum(octets, (left - 1) // 8 * 8)
    tail_width = at[FEATURES] - at[WHOLE]
    row, rows, entry, limit = find(at, first, local, at[BASE_CODES], tail_width - 1, tail_width)
    origin = row * at[FEATURES] - at[PHASE]
    values_ptr += at[START] + origin
    last = tl.minimum(at[NUMEL] - 1 - origin, 1 << 30).to(tl.int32)
    features = at[FEATURES].to(tl.int32)
    cut = at[CUT_OTHER].to(tl.int32)  # left out of rows before the limit
    cut_here = tl.where(rows < limit, cut, NEVER)
    until = tail_width.to(tl.int32) - (rows < limit).to(tl.int32) - entry  # codes to the row's end
    cut_next = tl.where(rows + 1 < limit, cut, NEVER)
    words = tl.zeros(local.shape, tl.uint32 if fact(FORM, "lane") == 4 else tl.uint64)
    for lane in tl.static_range(8):
        if WIDE:
            over = until <= lane
            number = tl.where(over, -until, entry) + lane
            number += (number >= tl.where(over, cut_next, cut_here)).to(tl.int32)
            start = tl.where(over, (rows + 1) * features, rows * features)
        else:
            _, rows, number, _ = find(at, first, local + lane, at[BASE_CODES], tail_width - 1, tail_width)
            number += ((rows < limit) & (number >= cut)).to(tl.int32)
            start = rows * features
        feature = tl.load(list_ptr + number)
        x = to_fp32(tl.load(values_ptr + tl.minimum(start + feature, last)))
        x = tl.math.div_rn(x, tl.load(divisors_ptr + feature))
        x = tl.where(x == x, x, 0.0) + ROUNDER
        x = tl.minimum(tl.maximum(x, ROUNDER - HALF), ROUNDER + (HALF - 1))
        code = x.to(tl.int32, bitcast=True) - (ROUNDER_BITS - HALF)
        words |= code.to(words.dtype) << (lane * fact(FORM, "lane"))
    words = choose(words & 0, words, from_lane(left - octets, words, fact(FORM, "lane")))
    store_words(words, wire_ptr, spot, at, first // 8, codes_left, TILE, FORM)


@triton.jit
def kept_tile(values_ptr, list_ptr, wire_ptr, spot, at, first, TILE: tl.constexpr, FORM: tl.constexpr):
    """Store `TILE` kept values from number `first` on."""
    local = tl.arange(0, TILE)
    inside = local < tl.minimum(at[NUMEL] // fact(FORM, "keep") - first, TILE).to(tl.int32)
    row, rows, entry, limit = find(at, first, local, at[BASE_KEPT], at[WHOLE] + 1, at[WHOLE])
    without = (rows >= limit) & (entry >= at[CUT_KEPT])  # rows after the limit leave the cut out
    feature = tl.load(list_ptr + entry + without.to(tl.int32), mask=inside, other=0)
    position = (row * at[FEATURES] - at[PHASE]) + rows.to(tl.int64) * at[FEATURES] + feature
    x = to_fp32(tl.load(values_ptr + at[START] + position, mask=inside, other=0.0))
    kept_ptr = (wire_ptr + spot + at[KEPT]).to(tl.pointer_type(tl.uint16)) + first
    tl.store(kept_ptr + local, saturate_bf16(x), mask=inside)


@triton.jit
def static_encode_kernel(
    values_ptr,  # [rows, N]
    wire_ptr,  # uint8, the buffer of (row, part) at row * wire_row + part * wire_part
    table_ptr,
    lists_ptr,  # int32 [parts, LISTS, F]
    divisors_ptr,  # fp32, the row's at row * divisors_row
    values_row,
    wire_row,
    wire_part,
    divisors_row,
    code_tiles,
    FORM: tl.constexpr,
    TILE: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Grid: tiles of codes and after them tiles of kept values, both of the largest part; parts; rows."""
    part = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    at = static_row(table_ptr, part, 1, FORM)
    kept = at[NUMEL] // fact(FORM, "keep")
    spot = row * wire_row + part * wire_part
    values_ptr += row * values_row
    other_ptr = lists_ptr + part * LISTS * at[FEATURES]
    if tl.program_id(0) < code_tiles:
        first = tl.program_id(0).to(tl.int64) * TILE
        if first < at[NUMEL] - kept:
            code_tile(
                values_ptr, divisors_ptr + row * divisors_row, other_ptr, wire_ptr, spot, at, first, TILE, WIDE, FORM
            )
            if first + TILE >= at[NUMEL] - kept:
                code_paddings(wire_ptr, spot, at, at[NUMEL] - kept, FORM)
                store_padding(wire_ptr, spot, at[KEPT] + kept * 2)
    else:
        first = (tl.program_id(0) - code_tiles).to(tl.int64) * (TILE // 8)
        if first < kept:
            kept_tile(values_ptr, other_ptr + at[FEATURES], wire_ptr, spot, at, first, TILE // 8, FORM)


# ---- decoding: position -> number of a code, or of a kept value


@triton.jit
def index_tile(at, lists_ptr, part, row, column, ROWS: tl.constexpr, OCTETS: tl.constexpr):
    """Where the octets [V * O] of values from row `row`, feature `column` (a multiple of 8) on lie: a tuple of

    first code (int64), each octet's first code from it, first kept value (int64), each octet's first from it, which of
    its values are kept (bits), which of those the part holds, its first value from the tile's first, its first
    feature. Octets of features from F on get numbers of others.
    """
    BIG: tl.constexpr = 1 << 30
    octets = tl.arange(0, ROWS * OCTETS)
    rows = octets // OCTETS
    starts = octets % OCTETS * 8
    feature = starts + column
    info_ptr = lists_ptr + (part * LISTS + 2) * at[FEATURES]
    info = tl.load(info_ptr + (feature >> 3), mask=feature < at[FEATURES].to(tl.int32), other=0)
    # Kept before the tile's first row, and before each octet from there.
    kept_first = row * at[WHOLE] + tl.minimum(row, at[LIMIT]) - at[BASE_KEPT]
    heads = tl.minimum(tl.maximum(at[LIMIT] - row, 0), BIG).to(tl.int32)
    head = rows < heads
    cut = at[CUT].to(tl.int32)
    before = rows * at[WHOLE].to(tl.int32) + tl.minimum(rows, heads) + (info >> 8)
    before += (head & (feature > cut)).to(tl.int32)
    here = head & (feature >> 3 == cut >> 3)
    bits = (info & 0xFF) | tl.where(here, 1 << (cut & 7), 0)
    values = rows * at[FEATURES].to(tl.int32) + starts
    position = row * at[FEATURES] - at[PHASE] + column  # of the tile's first value
    lost = tl.maximum(tl.minimum(-position, BIG).to(tl.int32) - values, 0)  # before the part
    rest = tl.minimum(at[NUMEL] - position, BIG).to(tl.int32) - values
    theirs = tl.where(lost < 8, 0xFF << tl.minimum(lost, 7), 0) & ((1 << tl.maximum(tl.minimum(rest, 8), 0)) - 1)
    return position - kept_first, values - before, kept_first, before, bits, bits & theirs, values, feature


@triton.jit
def appended(lanes, x):
    """A tuple and one more."""
    return lanes + (x,)  # noqa: RUF005


@triton.jit
def copy_values(wire_ptr, spot, at, scales_ptr, found, LIMIT_TO: tl.constexpr, EVEN: tl.constexpr, FORM: tl.constexpr):
    """fp32 values [V * O] of one copy, a tuple of eight lanes; anything where the part holds none.

    One lane of all octets after the other, so that a thread has whole octets: a word's lowest code is the next
    value's that is not kept. LIMIT_TO: largest magnitude, 0 = any.
    """
    first, local, kept_first, kept_local, bits, loaded, _, feature = found
    count = at[NUMEL] - at[NUMEL] // fact(FORM, "keep")
    kept_ptr = (wire_ptr + spot + at[KEPT]).to(tl.pointer_type(tl.uint16)) + kept_first
    scale_ptr = scales_ptr + feature
    lanes = ()
    words = load_words(wire_ptr, spot, at, first, local, count, FORM)
    LANE: tl.constexpr = fact(FORM, "lane")
    for lane in tl.static_range(8):
        kept = (bits >> lane) & 1
        code = words & ((1 << LANE) - 1)
        words = words >> ((1 - kept) * LANE).to(words.dtype)
        if EVEN:
            scale = tl.load(scale_ptr + lane)
        else:
            scale = tl.load(scale_ptr + lane, mask=feature + lane < at[FEATURES].to(tl.int32), other=0.0)
        there = (loaded & (1 << lane)) != 0
        raw = tl.load(kept_ptr + kept_local, mask=there, other=0)
        x = tl.where(there, from_bf16(raw), level(code, fact(FORM, "offset")) * scale)
        if LIMIT_TO > 0:
            x = kept_within(x, LIMIT_TO)
        lanes = appended(lanes, x)
        kept_local += kept
    return lanes


@triton.jit
def add_lanes(a, b):
    """Lane by lane."""
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5], a[6] + b[6], a[7] + b[7])


@triton.jit
def joined(x):
    """Eight lanes [N] as [N, 8]."""
    low = tl.join(tl.join(x[0], x[4]), tl.join(x[2], x[6]))
    high = tl.join(tl.join(x[1], x[5]), tl.join(x[3], x[7]))
    return tl.reshape(tl.join(low, high), (x[0].shape[0], 8))


@triton.jit
def static_reduce_kernel(
    wire_ptr,  # uint8, the copy of part from rank at rank * wire_rank + part * wire_part
    values_ptr,  # [rows, N]
    table_ptr,
    lists_ptr,  # int32 [parts, LISTS, F]
    scales_ptr,  # fp32, rank's at rank * scales_rank
    wire_rank,
    wire_part,
    values_row,
    scales_rank,
    column_tiles,
    ranks,
    SUM: tl.constexpr,
    UNROLLED: tl.constexpr,
    LIMIT_TO: tl.constexpr,
    ALIGN: tl.constexpr,
    EVEN: tl.constexpr,
    FORM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Grid: tiles of rows and features of the largest part, parts, rows of `values`.

    SUM: each row is the sum over all ranks' copies; else a row is that rank's copy decoded. UNROLLED: ranks whose sum
    is written out at compile time, 0 = a loop.
    """
    part = tl.program_id(1).to(tl.int64)
    value_row = tl.program_id(2).to(tl.int64)
    at = static_row(table_ptr, part, ALIGN, FORM)
    row = (tl.program_id(0) // column_tiles).to(tl.int64) * ROWS
    column = (tl.program_id(0) % column_tiles) * COLUMNS
    position = row * at[FEATURES] - at[PHASE] + column  # of the tile's first value
    if position < at[NUMEL]:
        found = index_tile(at, lists_ptr, part, row, column, ROWS, COLUMNS // 8)
        spot = part * wire_part
        if SUM:
            lanes = copy_values(wire_ptr, spot, at, scales_ptr, found, LIMIT_TO, EVEN, FORM)
            if UNROLLED > 0:
                for rank in tl.static_range(1, UNROLLED):
                    there = spot + wire_rank.to(tl.int64) * rank
                    more = copy_values(
                        wire_ptr, there, at, scales_ptr + scales_rank * rank, found, LIMIT_TO, EVEN, FORM
                    )
                    lanes = add_lanes(lanes, more)
            else:
                for rank in range(1, ranks):
                    there = spot + wire_rank.to(tl.int64) * rank
                    more = copy_values(
                        wire_ptr, there, at, scales_ptr + scales_rank * rank, found, LIMIT_TO, EVEN, FORM
                    )
                    lanes = add_lanes(lanes, more)
        else:
            there = spot + wire_rank.to(tl.int64) * value_row
            lanes = copy_values(wire_ptr, there, at, scales_ptr + scales_rank * value_row, found, LIMIT_TO, EVEN, FORM)
        cast = to_dtype(joined(lanes), values_ptr.dtype.element_ty)
        lane = tl.arange(0, 8)[None, :]
        local = found[6][:, None] + lane
        pointers = values_ptr + (value_row * values_row + at[START] + position) + local
        if (position >= 0) & (position + (ROWS - 1) * at[FEATURES] + COLUMNS <= at[NUMEL]) and EVEN:
            tl.store(pointers, cast)
        else:
            least = tl.maximum(-position, 0).to(tl.int32)
            inside = (local >= least) & (local < tl.minimum(at[NUMEL] - position, 1 << 30).to(tl.int32))
            tl.store(pointers, cast, mask=inside & (found[7][:, None] + lane < at[FEATURES].to(tl.int32)))


# ---- launchers


def _check(values: Tensor, wire_RPB: Tensor, parts: StaticParts, copies: int) -> Tensor:
    """`values` as rows. Raises ValueError for tensors that do not fit or that kernels cannot reach."""
    rows = checked_rows(values, wire_RPB, parts, copies)
    check_device(parts.table, parts.lists, parts.scales)
    if len(parts.scales) not in (1, copies):
        raise ValueError(f"parts must name one rank for all copies, or {copies}: {len(parts.scales)}")
    return rows


def _scales_step(parts: StaticParts) -> int:
    """Values from one copy's scales to the next's."""
    return parts.features if len(parts.scales) > 1 else 0


def encode_into(values: Tensor, wire_RPB: Tensor, parts: StaticParts, tuning: Tuning | None = None) -> None:
    """Encode every part of `values` ([N] or [R, N], bf16, fp16 or fp32) into `wire_RPB` (uint8 [R, P, >= nbytes]), each
    row with the scales of its rank.

    Raises ValueError for shapes that do not fit and tensors that kernels cannot reach.
    """
    rows = _check(values, wire_RPB, parts, 1 if values.dim() == 1 else values.shape[0])
    if not parts.most_codes:
        return
    chosen = tuning or default_tuning("encode", rows.device)
    code_tiles = cdiv(parts.most_codes, chosen.values)
    grid = (code_tiles + cdiv(parts.most_kept, chosen.values // 8), len(parts), rows.shape[0])
    static_encode_kernel[grid](
        rows, wire_RPB, parts.table, parts.lists, parts.divisors,
        row_stride(rows), wire_RPB.stride(0), wire_RPB.stride(1), _scales_step(parts), code_tiles,
        FORM=hybrid_form(parts.codec), TILE=chosen.values, WIDE=parts.least_width >= 8, **options(chosen),
    )  # fmt: skip


def decode_into(wire_RPB: Tensor, values: Tensor, parts: StaticParts, tuning: Tuning | None = None) -> None:
    """Decode every part in `wire_RPB` (uint8 [R, P, >= nbytes]) into `values` ([N] or [R, N]; bf16, fp16, fp32), each
    row with the scales of its rank.

    Raises ValueError for shapes that do not fit and tensors that kernels cannot reach.
    """
    rows = _check(values, wire_RPB, parts, 1 if values.dim() == 1 else values.shape[0])
    _launch(wire_RPB, rows, parts, False, torch.finfo(rows.dtype).max, tuning or default_tuning("decode", rows.device))


def reduce_into(wire_RPB: Tensor, values: Tensor, parts: StaticParts, tuning: Tuning | None = None) -> None:
    """Sum of the copies in `wire_RPB` (uint8 [R, P, >= nbytes]), each decoded with its rank's scales, in their order,
    into `values` ([N], or [rows, N] for as many times the same; bf16, fp16, fp32).

    Raises ValueError for shapes that do not fit and tensors that kernels cannot reach.
    """
    rows = _check(values, wire_RPB, parts, wire_RPB.shape[0])
    _launch(wire_RPB, rows, parts, True, LARGEST_FP32, tuning or default_tuning("reduce", rows.device))


def tile_shape(features: int, tuning: Tuning) -> tuple[int, int]:
    """(rows, features) of a decoder's tile."""
    columns = min(MOST_COLUMNS, max(8, int(triton.next_power_of_2(features))), tuning.values)
    return tuning.values // columns, columns


def _launch(wire_RPB: Tensor, rows: Tensor, parts: StaticParts, summed: bool, limit: float, tuning: Tuning) -> None:
    """Decode, or add up, into `rows`; what a copy decodes to stays within `limit`."""
    if not parts.most_rows:
        return
    lines, columns = tile_shape(parts.features, tuning)
    column_tiles = cdiv(parts.features, columns)
    ranks = wire_RPB.shape[0]
    static_reduce_kernel[cdiv(parts.most_rows, lines) * column_tiles, len(parts), rows.shape[0]](
        wire_RPB, rows, parts.table, parts.lists, parts.scales,
        wire_RPB.stride(0), wire_RPB.stride(1), row_stride(rows), _scales_step(parts), column_tiles, ranks,
        SUM=summed, UNROLLED=unrolled(ranks) if summed else 1,
        # Codes reach beyond the type where its range is short or scales are at the end of fp32's.
        LIMIT_TO=limit if rows.dtype == torch.float16 or parts.largest > limit else 0.0,
        ALIGN=parts.align, EVEN=parts.features % columns == 0, FORM=hybrid_form(parts.codec),
        ROWS=lines, COLUMNS=columns, **options(tuning),
    )  # fmt: skip
