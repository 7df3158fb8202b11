"""Quantise and pack: values to wire buffers in one pass, for every grouped integer and MX codec.

Reads each value once and writes each byte once: numel * itemsize + wire_bytes is its floor. Several tensors (the
partial sums of virtual ranks) and several parts of each (for different peers) go in one launch. Values are bf16, fp16
or fp32; where rows start on 16-byte boundaries loads are 128 bits wide. Below about a MiB (assumed: nobody has measured
it) a launch costs more than the bytes saved. The bytes are those of `reference.codecs.grouped`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.form import GROUPS, NUMEL, START, Parts, fact, form
from thinwire.kernels.launch import Tuning, checked_rows, launch_tiles
from thinwire.kernels.numbers import to_fp32
from thinwire.kernels.tiles import encode_tile, part_row, places_inside, slices, store_paddings


@triton.jit
def load_values(values_ptr, at, first, local_G, FORM: tl.constexpr, PAIRS: tl.constexpr = False):
    """fp32 [S, G, C], zeros beyond the part: see `tiles`. Only a tile with the part's end in it asks for each value on
    its own. PAIRS says that bf16 rows start at multiples of 4 bytes: two values a word cost an instruction each.
    """
    K: tl.constexpr = fact(FORM, "group")
    values_ptr += at[START] + first * K
    if (first + local_G.shape[0]) * K <= at[NUMEL] and fact(FORM, "padded") == K:
        x = load_slices(values_ptr, at, first, local_G, FORM, PAIRS, False)
    else:
        x = load_slices(values_ptr, at, first, local_G, FORM, PAIRS, True)
    return x


@triton.jit
def load_slices(values_ptr, at, first, local_G, FORM: tl.constexpr, PAIRS: tl.constexpr, MASKED: tl.constexpr):
    """fp32 [S, G, C], each slice loaded on its own: in a tile of three dimensions, Triton 3.6 would hand them to
    different threads.
    """
    S: tl.constexpr = slices(FORM)
    x = load_slice(values_ptr, at, first, local_G, 0, FORM, PAIRS, MASKED)
    if S == 2:
        x = tl.join(x, load_slice(values_ptr, at, first, local_G, 1, FORM, PAIRS, MASKED))
    elif S == 4:
        odd = load_slice(values_ptr, at, first, local_G, 1, FORM, PAIRS, MASKED)
        odd = tl.join(odd, load_slice(values_ptr, at, first, local_G, 3, FORM, PAIRS, MASKED))
        x = tl.join(x, load_slice(values_ptr, at, first, local_G, 2, FORM, PAIRS, MASKED))
        x = tl.join(x, odd)
    return tl.permute(tl.reshape(x, (local_G.shape[0], fact(FORM, "padded") // S, S)), (2, 0, 1))


@triton.jit
def load_slice(
    values_ptr, at, first, local_G, SLICE: tl.constexpr, FORM: tl.constexpr, PAIRS: tl.constexpr, MASKED: tl.constexpr
):  # fmt: skip
    """fp32 [G, C]: the SLICE-th slice of each group, MASKED where the part may end in it."""
    C: tl.constexpr = fact(FORM, "padded") // slices(FORM)
    local_G = local_G[:, None] * fact(FORM, "group")
    if MASKED:
        places = SLICE * C + tl.arange(0, C)[None, :]
        local = local_G + places
        return to_fp32(tl.load(values_ptr + local, mask=places_inside(at, first, local, places, FORM), other=0.0))
    elif PAIRS and values_ptr.dtype.element_ty == tl.bfloat16:
        pairs = local_G // 2 + SLICE * (C // 2) + tl.arange(0, C // 2)[None, :]
        words = tl.load(values_ptr.to(tl.pointer_type(tl.int32)) + pairs)
        values = tl.join(words << 16, words & -65536).to(tl.float32, bitcast=True)
        return tl.reshape(values, (local_G.shape[0], C))
    else:
        return to_fp32(tl.load(values_ptr + local_G + SLICE * C + tl.arange(0, C)[None, :]))


@triton.jit
def encode_kernel(
    values_ptr,  # [rows, N]
    wire_ptr,  # uint8, the buffer of (row, part) at row * wire_row + part * wire_part
    table_ptr,
    values_row,
    wire_row,
    wire_part,
    FORM: tl.constexpr,
    TILE_GROUPS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Grid: tiles of the largest part, parts, rows."""
    part = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    at = part_row(table_ptr, part)
    first = tl.program_id(0).to(tl.int64) * TILE_GROUPS
    if first < at[GROUPS]:
        local_G = tl.arange(0, TILE_GROUPS)
        spot = row * wire_row + part * wire_part
        x = load_values(values_ptr + row * values_row, at, first, local_G, FORM, PAIRS)
        SHORT: tl.constexpr = values_ptr.dtype.element_ty != tl.float32 and fact(FORM, "rotation") == 0
        encode_tile(x, wire_ptr, spot, at, first, local_G, first + local_G < at[GROUPS], SHORT, FORM)
        if first + TILE_GROUPS >= at[GROUPS]:
            store_paddings(wire_ptr, spot, at, at[GROUPS], FORM)


def encode_into(values: Tensor, wire_RPB: Tensor, parts: Parts, tuning: Tuning | None = None) -> None:
    """Encode every part of `values` ([N] or [R, N], bf16, fp16 or fp32) into `wire_RPB` (uint8 [R, P, >= nbytes]).

    Raises ValueError for shapes that do not fit and tensors that kernels cannot reach.
    """
    rows = checked_rows(values, wire_RPB, parts)
    if parts.most_groups:
        launch_tiles(
            encode_kernel, "encode", form(parts.codec), rows, wire_RPB, parts, tuning,
            wire_row=wire_RPB.stride(0), PAIRS=paired(rows),
        )  # fmt: skip


def paired(rows: Tensor) -> bool:
    """Whether every row starts at a multiple of 4 bytes."""
    return rows.data_ptr() % 4 == 0 and (rows.shape[0] == 1 or rows.stride(0) * rows.element_size() % 4 == 0)
