"""Unpack and dequantise rows to places given by an index: what a rank received, where its experts want it.

Each byte of the messages is read once and each row written once, where decoding first and permuting then would write
and read every row once more. All messages go in one launch. The values are those of `reference.quantize.decode_rows`.
R rows, D width, M rows received; otherwise as in `decode.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.form import GROUPS, START, fact, form, hybrid_form
from thinwire.kernels.hybrid_dynamic import decode_tile as decode_hybrid_tile
from thinwire.kernels.hybrid_dynamic import tile_blocks
from thinwire.kernels.launch import Tuning, cdiv, default_tuning, options
from thinwire.kernels.numbers import FP16_MAX, to_dtype
from thinwire.kernels.rows import check_rows, picked, places_of_groups
from thinwire.kernels.stream import kept_within
from thinwire.kernels.tiles import as_slices, decode_tile, decoded, part_row, slices
from thinwire.reference.core.scheme import Codec, OutlierHybrid


@triton.jit
def scatter_decode_kernel(
    wire_ptr,  # uint8, the buffer of message p at spots[p]
    index_ptr,  # int64 [M]
    rows_ptr,  # [R, D]
    table_ptr,
    spots_ptr,
    rows_stride,
    width,
    row_groups,  # groups of a row that is filled up
    FORM: tl.constexpr,
    TILE_GROUPS: tl.constexpr,
    INDEXED: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Grid: tiles of the largest message, messages."""
    part = tl.program_id(1).to(tl.int64)
    at = part_row(table_ptr, part)
    first = tl.program_id(0).to(tl.int64) * TILE_GROUPS
    if first < at[GROUPS]:
        K: tl.constexpr = fact(FORM, "group")
        S: tl.constexpr = slices(FORM)
        C: tl.constexpr = fact(FORM, "padded") // S
        local_G = tl.arange(0, TILE_GROUPS)
        ok_G = first + local_G < at[GROUPS]
        spot = tl.multiple_of(tl.load(spots_ptr + part), 16)
        x = decoded(decode_tile(wire_ptr, spot, at, first, local_G, ok_G, FORM), FORM, rows_ptr.dtype.element_ty)
        start_G, column_G = places_of_groups(
            index_ptr, at[START] // (row_groups * K), (first + local_G).to(tl.int32), ok_G, row_groups, rows_stride, K,
            INDEXED,
        )  # fmt: skip
        places = tl.arange(0, S)[:, None, None] * C + tl.arange(0, C)[None, None, :]
        pointers = rows_ptr + start_G[None, :, None] + places
        kept = as_slices(to_dtype(x, rows_ptr.dtype.element_ty), FORM)
        if EXACT:
            tl.store(pointers, kept, mask=ok_G[None, :, None])
        else:
            inside = ok_G[None, :, None] & (places < K) & (column_G[None, :, None] + places < width)
            tl.store(pointers, kept, mask=inside)


@triton.jit
def scatter_decode_hybrid_kernel(
    wire_ptr,  # uint8, the buffer of message p at spots[p]
    index_ptr,  # int64 [M]
    rows_ptr,  # [R, D]
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
        BLOCKS: tl.constexpr = fact(FORM, "blocks")
        spot = tl.multiple_of(tl.load(spots_ptr + part), 16)
        x = decode_hybrid_tile(wire_ptr, spot, at, first, TILE_GROUPS, FORM)
        if rows_ptr.dtype.element_ty == tl.float16:
            x = kept_within(x, FP16_MAX)
        local_T, values_T = tile_blocks(at, first, TILE_GROUPS, FORM)
        start_T, column_T = places_of_groups(
            index_ptr, at[START] // (row_groups * fact(FORM, "group")), (first * BLOCKS + local_T).to(tl.int32),
            values_T > 0, row_groups * BLOCKS, rows_stride, fact(FORM, "keep"), INDEXED,
        )  # fmt: skip
        places = tl.arange(0, fact(FORM, "padded"))[None, :]
        inside = (places < values_T) & (column_T + places < width)
        kept = to_dtype(tl.reshape(x, inside.shape), rows_ptr.dtype.element_ty)
        tl.store(rows_ptr + start_T + places, kept, mask=inside)


def scatter_decode_into(
    wire: Tensor,
    rows_RD: Tensor,
    index_M: Tensor | None,
    counts: Sequence[int],
    codec: Codec,
    tuning: Tuning | None = None,
) -> None:
    """Decode messages of `counts` rows, one after the other, into `rows_RD`: in order, or to the places `index_M`.

    wire: uint8, as `gather_encode.gather_encode_into` writes it. rows_RD: bf16, fp16 or fp32, rows contiguous. index_M:
    int64, within R, each place once. Raises ValueError as `gather_encode_into` does.
    """
    found = picked(codec, counts, rows_RD.shape[-1], rows_RD.device)
    check_rows(rows_RD, index_M, wire, found)
    if not found.parts.most_groups:
        return
    indexed = index_M is not None
    chosen = tuning or default_tuning("decode", rows_RD.device)
    places = index_M if indexed else found.spots
    arguments = (wire, places, rows_RD, found.parts.table, found.spots, rows_RD.stride(0))
    sizes = (rows_RD.shape[1], found.row_groups)
    if isinstance(codec, OutlierHybrid):
        hybrid = hybrid_form(codec)
        groups = chosen.holding(hybrid.least).groups(hybrid)
        scatter_decode_hybrid_kernel[cdiv(found.parts.most_groups, groups), len(found.parts)](
            *arguments, *sizes, FORM=hybrid, TILE_GROUPS=groups, INDEXED=indexed, **options(chosen)
        )
        return
    compiled = form(codec)
    chosen = chosen.holding(compiled.least)
    groups = chosen.groups(compiled)
    scatter_decode_kernel[cdiv(found.parts.most_groups, groups), len(found.parts)](
        *arguments, *sizes, FORM=compiled, TILE_GROUPS=groups, INDEXED=indexed, EXACT=found.exact, **options(chosen)
    )
