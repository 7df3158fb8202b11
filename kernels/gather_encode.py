"""Quantise and pack rows picked by index: tokens, sorted by the expert's rank they go to, in one pass over memory.

Permuting first and encoding then would write and read every row once more: 4 bytes a value in bf16, of 6.5 with INT4.
Each row sent is read once and each byte of its message written once. All messages of a rank go in one launch, into one
buffer, each from a multiple of 16 bytes on. A width that groups do not divide is filled up with zeros. The bytes are
those of `reference.quantize.encode_rows`. R rows, D width, M rows sent; otherwise as in `encode.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.form import GROUPS, KEPT, NUMEL, PLACES, SCALES, START, fact, form, hybrid_form
from thinwire.kernels.hybrid_dynamic import encode_tile as encode_hybrid_tile
from thinwire.kernels.hybrid_dynamic import tile_blocks
from thinwire.kernels.launch import Tuning, cdiv, default_tuning, options
from thinwire.kernels.numbers import to_fp32
from thinwire.kernels.rows import check_rows, picked, places_of_groups
from thinwire.kernels.stream import code_paddings
from thinwire.kernels.tiles import encode_tile, part_row, slices, store_padding, store_paddings
from thinwire.reference.core.scheme import Codec, OutlierHybrid


@triton.jit
def gather_slice(
    rows_ptr, start_G, column_G, ok_G, width, SLICE: tl.constexpr, FORM: tl.constexpr, EXACT: tl.constexpr,
    PAIRS: tl.constexpr,
):  # fmt: skip
    """fp32 [G, C]: the SLICE-th slice of each group, zeros beyond its row."""
    C: tl.constexpr = fact(FORM, "padded") // slices(FORM)
    places = SLICE * C + tl.arange(0, C)[None, :]
    if EXACT and PAIRS and rows_ptr.dtype.element_ty == tl.bfloat16:
        words_ptr = rows_ptr.to(tl.pointer_type(tl.int32)) + (start_G // 2)[:, None]
        pairs = SLICE * (C // 2) + tl.arange(0, C // 2)[None, :]
        words = tl.load(words_ptr + pairs, mask=ok_G[:, None], other=0)
        values = tl.join(words << 16, words & -65536).to(tl.float32, bitcast=True)
        return tl.reshape(values, (start_G.shape[0], C))
    elif EXACT:
        return to_fp32(tl.load(rows_ptr + start_G[:, None] + places, mask=ok_G[:, None], other=0.0))
    else:
        inside = ok_G[:, None] & (places < fact(FORM, "group")) & (column_G[:, None] + places < width)
        return to_fp32(tl.load(rows_ptr + start_G[:, None] + places, mask=inside, other=0.0))


@triton.jit
def gather_slices(
    rows_ptr, start_G, column_G, ok_G, width, FORM: tl.constexpr, EXACT: tl.constexpr, PAIRS: tl.constexpr
):
    """fp32 [S, G, C], each slice loaded on its own, as `encode.load_slices` does."""
    S: tl.constexpr = slices(FORM)
    x = gather_slice(rows_ptr, start_G, column_G, ok_G, width, 0, FORM, EXACT, PAIRS)
    if S == 2:
        x = tl.join(x, gather_slice(rows_ptr, start_G, column_G, ok_G, width, 1, FORM, EXACT, PAIRS))
    elif S == 4:
        odd = gather_slice(rows_ptr, start_G, column_G, ok_G, width, 1, FORM, EXACT, PAIRS)
        odd = tl.join(odd, gather_slice(rows_ptr, start_G, column_G, ok_G, width, 3, FORM, EXACT, PAIRS))
        x = tl.join(x, gather_slice(rows_ptr, start_G, column_G, ok_G, width, 2, FORM, EXACT, PAIRS))
        x = tl.join(x, odd)
    return tl.permute(tl.reshape(x, (start_G.shape[0], fact(FORM, "padded") // S, S)), (2, 0, 1))


@triton.jit
def gather_encode_kernel(
    rows_ptr,  # [R, D]
    index_ptr,  # int64 [M]
    wire_ptr,  # uint8, the buffer of message p at spots[p]
    table_ptr,
    spots_ptr,
    rows_stride,
    width,
    row_groups,  # groups of a row that is filled up
    FORM: tl.constexpr,
    TILE_GROUPS: tl.constexpr,
    INDEXED: tl.constexpr,
    EXACT: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Grid: tiles of the largest message, messages."""
    part = tl.program_id(1).to(tl.int64)
    at = part_row(table_ptr, part)
    first = tl.program_id(0).to(tl.int64) * TILE_GROUPS
    if first < at[GROUPS]:
        K: tl.constexpr = fact(FORM, "group")
        local_G = tl.arange(0, TILE_GROUPS)
        ok_G = first + local_G < at[GROUPS]
        spot = tl.multiple_of(tl.load(spots_ptr + part), 16)
        first_row = at[START] // (row_groups * K)
        start_G, column_G = places_of_groups(
            index_ptr, first_row, (first + local_G).to(tl.int32), ok_G, row_groups, rows_stride, K, INDEXED
        )
        x = gather_slices(rows_ptr, start_G, column_G, ok_G, width, FORM, EXACT, PAIRS)
        SHORT: tl.constexpr = rows_ptr.dtype.element_ty != tl.float32 and fact(FORM, "rotation") == 0
        encode_tile(x, wire_ptr, spot, at, first, local_G, ok_G, SHORT, FORM)
        if first + TILE_GROUPS >= at[GROUPS]:
            store_paddings(wire_ptr, spot, at, at[GROUPS], FORM)


@triton.jit
def gather_encode_hybrid_kernel(
    rows_ptr,  # [R, D]
    index_ptr,  # int64 [M]
    wire_ptr,  # uint8, the buffer of message p at spots[p]
    table_ptr,
    spots_ptr,
    rows_stride,
    width,
    row_groups,
    FORM: tl.constexpr,
    TILE_GROUPS: tl.constexpr,
    INDEXED: tl.constexpr,
):
    """The same of a dynamic outlier hybrid, by blocks [T]."""
    part = tl.program_id(1).to(tl.int64)
    at = part_row(table_ptr, part, fact(FORM, "start_align"))
    first = tl.program_id(0).to(tl.int64) * TILE_GROUPS
    if first < at[GROUPS]:
        KEEP: tl.constexpr = fact(FORM, "keep")
        BLOCKS: tl.constexpr = fact(FORM, "blocks")
        spot = tl.multiple_of(tl.load(spots_ptr + part), 16)
        local_T, values_T = tile_blocks(at, first, TILE_GROUPS, FORM)
        first_row = at[START] // (row_groups * fact(FORM, "group"))
        start_T, column_T = places_of_groups(
            index_ptr, first_row, (first * BLOCKS + local_T).to(tl.int32), values_T > 0, row_groups * BLOCKS,
            rows_stride, KEEP, INDEXED,
        )  # fmt: skip
        places = tl.arange(0, fact(FORM, "padded"))[None, :]
        inside = (places < values_T) & (column_T + places < width)
        raw = tl.load(rows_ptr + start_T + places, mask=inside, other=0.0)
        encode_hybrid_tile(raw, values_T, local_T, wire_ptr, spot, at, first, TILE_GROUPS, FORM)
        if first + TILE_GROUPS >= at[GROUPS]:
            blocks = at[NUMEL] // KEEP
            code_paddings(wire_ptr, spot, at, at[NUMEL] - blocks, FORM)
            store_padding(wire_ptr, spot, at[SCALES] + at[GROUPS] * 2)
            store_padding(wire_ptr, spot, at[KEPT] + blocks * 2)
            store_padding(wire_ptr, spot, at[PLACES] + blocks)


def gather_encode_into(
    rows_RD: Tensor,
    index_M: Tensor | None,
    counts: Sequence[int],
    wire: Tensor,
    codec: Codec,
    tuning: Tuning | None = None,
) -> None:
    """Encode messages of `counts` rows, one after the other: rows of `rows_RD` in order, or those at `index_M`.

    rows_RD: bf16, fp16 or fp32, rows contiguous. index_M: int64, within R; a row may be sent several times. wire: uint8
    [>= the messages' bytes], each message's from a multiple of 16 bytes on. Raises ValueError for shapes that do not
    fit, tensors that kernels cannot reach and codecs that these kernels are not for.
    """
    found = picked(codec, counts, rows_RD.shape[-1], rows_RD.device)
    check_rows(rows_RD, index_M, wire, found)
    if not found.parts.most_groups:
        return
    indexed = index_M is not None
    chosen = tuning or default_tuning("encode", rows_RD.device)
    arguments = (rows_RD, index_M if indexed else found.spots, wire, found.parts.table, found.spots, rows_RD.stride(0))
    sizes = (rows_RD.shape[1], found.row_groups)
    if isinstance(codec, OutlierHybrid):
        hybrid = hybrid_form(codec)
        groups = chosen.holding(hybrid.least).groups(hybrid)
        gather_encode_hybrid_kernel[cdiv(found.parts.most_groups, groups), len(found.parts)](
            *arguments, *sizes, FORM=hybrid, TILE_GROUPS=groups, INDEXED=indexed, **options(chosen)
        )
        return
    compiled = form(codec)
    chosen = chosen.holding(compiled.least)
    groups = chosen.groups(compiled)
    gather_encode_kernel[cdiv(found.parts.most_groups, groups), len(found.parts)](
        *arguments, *sizes, FORM=compiled, TILE_GROUPS=groups, INDEXED=indexed, EXACT=found.exact,
        PAIRS=paired(rows_RD), **options(chosen),
    )  # fmt: skip


def paired(rows_RD: Tensor) -> bool:
    """Whether every row begins at a multiple of 4 bytes."""
    return rows_RD.data_ptr() % 4 == 0 and rows_RD.stride(0) * rows_RD.element_size() % 4 == 0
