"""Unpack and dequantise: wire buffers to values in one pass, for every grouped integer and MX codec.

Reads each byte once and writes each value once. Several tensors and several parts go in one launch, as in `encode.py`.
The values are those of `reference.codecs.grouped`, rounded to the wanted type.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.form import GROUPS, NUMEL, START, Parts, fact, form
from thinwire.kernels.launch import Tuning, checked_rows, launch_tiles
from thinwire.kernels.numbers import to_dtype
from thinwire.kernels.tiles import as_slices, decode_tile, decoded, part_row, places_inside, sliced_places


@triton.jit
def store_values(x, values_ptr, at, first, local_G, FORM: tl.constexpr):
    """fp32 [G, KP] into the tensor's type, what lies beyond the part left out."""
    K: tl.constexpr = fact(FORM, "group")
    local, places = sliced_places(local_G, FORM)
    pointers = values_ptr + (at[START] + first * K) + local
    kept = as_slices(to_dtype(x, values_ptr.dtype.element_ty), FORM)
    if (first + local_G.shape[0]) * K <= at[NUMEL] and fact(FORM, "padded") == K:
        tl.store(pointers, kept)
    else:
        tl.store(pointers, kept, mask=places_inside(at, first, local, places, FORM))


@triton.jit
def restore_tile(
    wire_ptr, spot, at, first, values_ptr, SATURATES: tl.constexpr, FORM: tl.constexpr, TILE_GROUPS: tl.constexpr
):  # fmt: skip
    """TILE_GROUPS groups from `first` on of a part, decoded and rounded to the tensor's type.

    SATURATES: as a decoder, which gives no infinity for finite values. Else what fp32 holds is cast, and may overflow a
    narrower type as the uncompressed sum would: an all-reduce ends so.
    """
    local_G = tl.arange(0, TILE_GROUPS)
    x = decode_tile(wire_ptr, spot, at, first, local_G, first + local_G < at[GROUPS], FORM)
    x = decoded(x, FORM, values_ptr.dtype.element_ty) if SATURATES else decoded(x, FORM, tl.float32)
    store_values(x, values_ptr, at, first, local_G, FORM)


@triton.jit
def decode_kernel(
    wire_ptr,  # uint8, the buffer of (row, part) at row * wire_row + part * wire_part
    values_ptr,  # [rows, N]
    table_ptr,
    wire_row,
    wire_part,
    values_row,
    SATURATES: tl.constexpr,
    FORM: tl.constexpr,
    TILE_GROUPS: tl.constexpr,
):
    """Grid: tiles of the largest part, parts, rows."""
    part = tl.program_id(1).to(tl.int64)
    row = tl.program_id(2).to(tl.int64)
    at = part_row(table_ptr, part)
    first = tl.program_id(0).to(tl.int64) * TILE_GROUPS
    if first < at[GROUPS]:
        spot = row * wire_row + part * wire_part
        restore_tile(wire_ptr, spot, at, first, values_ptr + row * values_row, SATURATES, FORM, TILE_GROUPS)


def decode_into(
    wire_RPB: Tensor, values: Tensor, parts: Parts, tuning: Tuning | None = None, *, saturates: bool = True
) -> None:
    """Decode every part in `wire_RPB` (uint8 [R, P, >= nbytes]) into `values` ([N] or [R, N]; bf16, fp16, fp32).

    saturates: see `restore_tile`. Raises ValueError for shapes that do not fit and tensors that kernels cannot reach.
    """
    rows = checked_rows(values, wire_RPB, parts)
    if parts.most_groups:
        launch_tiles(
            decode_kernel, "decode", form(parts.codec), rows, wire_RPB, parts, tuning,
            wire_row=wire_RPB.stride(0), SATURATES=saturates,
        )  # fmt: skip
