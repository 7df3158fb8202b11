"""Unpack, dequantise and add up the copies of R peers; then store the sum, or quantise and pack it again.

The middle of a two-step all-reduce and the end of a gather of partials: R copies are read once, the sum is formed in
fp32 registers in rank order and written once, as values or as the gather phase's wire format. What a rank keeps of its
own enters as its wire copy, so every rank forms the same bits. The sums are those of `reference.groups.execute`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.decode import store_values
from thinwire.kernels.form import GROUPS, NUMEL, Form, Parts, fact, form
from thinwire.kernels.launch import (
    Tuning,
    cdiv,
    check_device,
    check_wire,
    checked_rows,
    default_tuning,
    launch_tiles,
    options,
)
from thinwire.kernels.tiles import add_tile, decode_tile, decoded, encode_tile, part_row, store_paddings, value_offsets

UNROLLED_RANKS = 8  # more would only lengthen the code; copies beyond are summed in a loop


@triton.jit
def summed(wire_ptr, spot, wire_rank, at, first, local_G, ok_G, ranks, UNROLLED: tl.constexpr, FORM: tl.constexpr):
    """fp32 [G, KP]: the copies at spot + rank * wire_rank, decoded and added in rank order."""
    total = decoded(decode_tile(wire_ptr, spot, at, first, local_G, ok_G, FORM, 32), FORM, tl.float32)
    if UNROLLED > 0:
        for rank in tl.static_range(1, UNROLLED):
            total = add_tile(total, wire_ptr, spot + wire_rank.to(tl.int64) * rank, at, first, local_G, ok_G, FORM)
    else:
        for rank in range(1, ranks):
            total = add_tile(total, wire_ptr, spot + wire_rank.to(tl.int64) * rank, at, first, local_G, ok_G, FORM)
    return total


@triton.jit
def reduce_kernel(
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
    at = part_row(table_ptr, part)
    first = tl.program_id(0).to(tl.int64) * TILE_GROUPS
    if first < at[GROUPS]:
        local_G = tl.arange(0, TILE_GROUPS)
        ok_G = first + local_G < at[GROUPS]
        spot = part * wire_part
        total = summed(wire_ptr, spot, wire_rank, at, first, local_G, ok_G, ranks, UNROLLED, FORM)
        row = tl.program_id(2).to(tl.int64)
        store_values(total, values_ptr + row * values_row, at, first, local_G, FORM)


@triton.jit
def requantise_kernel(
    wire_ptr,  # uint8, the copy of part from rank at rank * wire_rank + part * wire_part
    table_ptr,
    sums_ptr,  # uint8, the sum of part for row at row * sums_row + part * sums_part
    sums_table_ptr,
    wire_rank,
    wire_part,
    sums_row,
    sums_part,
    ranks,
    rows,
    UNROLLED: tl.constexpr,
    FORM: tl.constexpr,
    SUMS: tl.constexpr,
    TILE_VALUES: tl.constexpr,
):
    """Grid: tiles of the largest part, parts. Groups of both codecs are powers of two."""
    part = tl.program_id(1).to(tl.int64)
    at = part_row(table_ptr, part)
    GROUPS_IN: tl.constexpr = TILE_VALUES // fact(FORM, "group")
    GROUPS_OUT: tl.constexpr = TILE_VALUES // fact(SUMS, "group")
    first = tl.program_id(0).to(tl.int64) * GROUPS_IN
    sums_at = part_row(sums_table_ptr, part)
    sums_first = tl.program_id(0).to(tl.int64) * GROUPS_OUT
    if sums_first < sums_at[GROUPS] or first < at[GROUPS]:
        local_G = tl.arange(0, GROUPS_IN)
        ok_G = first + local_G < at[GROUPS]
        spot = part * wire_part
        total = summed(wire_ptr, spot, wire_rank, at, first, local_G, ok_G, ranks, UNROLLED, FORM)
        if (first + GROUPS_IN) * fact(FORM, "group") > at[NUMEL]:  # what pads the last group is encoded as zeros
            _, inside = value_offsets(at, first, local_G, FORM)
            total = tl.where(inside, total, 0.0)
        total = tl.reshape(total, (GROUPS_OUT, fact(SUMS, "group")))
        sums_G = tl.arange(0, GROUPS_OUT)
        sums_ok = sums_first + sums_G < sums_at[GROUPS]
        for row in range(rows):
            sums_spot = sums_row.to(tl.int64) * row + part * sums_part
            encode_tile(total, sums_ptr, sums_spot, sums_at, sums_first, sums_G, sums_ok, False, SUMS)
            if sums_first + GROUPS_OUT >= sums_at[GROUPS]:
                store_paddings(sums_ptr, sums_spot, sums_at, sums_at[GROUPS], SUMS)


def reduce_into(wire_RPB: Tensor, values: Tensor, parts: Parts, tuning: Tuning | None = None) -> None:
    """Sum over ranks of the copies in `wire_RPB` (uint8 [R, P, >= nbytes]) into `values` ([N], or [rows, N] for as
    many times the same; bf16, fp16, fp32).

    Raises ValueError for shapes that do not fit and tensors that kernels cannot reach.
    """
    ranks = wire_RPB.shape[0]
    rows = checked_rows(values, wire_RPB, parts, ranks)
    if parts.most_groups:
        compiled = form(parts.codec)
        launch_tiles(
            reduce_kernel, "reduce", compiled, rows, wire_RPB, parts, tuning,
            wire_rank=wire_RPB.stride(0), ranks=ranks, UNROLLED=unrolled(ranks, compiled),
        )  # fmt: skip


def can_requantise(reduce: Form, gather: Form) -> bool:
    """Whether one tile can be whole groups of both codecs."""
    return reduce.padded == reduce.group and gather.padded == gather.group


def requantise_into(
    wire_RPB: Tensor, parts: Parts, sums_SPB: Tensor, sums: Parts, tuning: Tuning | None = None
) -> None:
    """Sum over ranks of the copies in `wire_RPB` (uint8 [R, P, >= nbytes]), encoded again as `sums` says.

    sums_SPB: uint8 [S, P, >= nbytes]; the same bytes go to each of its S rows, as a rank would push them to its peers.
    Raises ValueError for parts that differ in their values, groups that are no powers of two (`can_requantise`), shapes
    that do not fit and tensors that kernels cannot reach.
    """
    check_device(wire_RPB, sums_SPB, parts.table, sums.table)
    ranks = wire_RPB.shape[0]
    check_wire(wire_RPB, (ranks, len(parts)), parts)
    check_wire(sums_SPB, (sums_SPB.shape[0], len(sums)), sums)
    if parts.numels != sums.numels:
        raise ValueError(f"both phases must cut the tensor alike: {parts.numels} and {sums.numels} values")
    source, target = form(parts.codec), form(sums.codec)
    if not can_requantise(source, target):
        raise ValueError(f"groups must be powers of two: {parts.codec.spec} and {sums.codec.spec}")
    if not parts.most_groups:
        return
    chosen = (tuning or default_tuning("requantise", wire_RPB.device)).holding(max(source.least, target.least))
    values = chosen.values
    grid = (cdiv(max(parts.most_groups * source.group, sums.most_groups * target.group), values), len(parts))
    requantise_kernel[grid](
        wire_RPB, parts.table, sums_SPB, sums.table, wire_RPB.stride(0), wire_RPB.stride(1),
        sums_SPB.stride(0), sums_SPB.stride(1), ranks, sums_SPB.shape[0],
        UNROLLED=unrolled(ranks, source), FORM=source, SUMS=target, TILE_VALUES=values, **options(chosen),
    )  # fmt: skip


def unrolled(ranks: int, form: Form | None = None) -> int:
    """Ranks whose sum is written out at compile time; 0 = a loop, for many ranks and where a copy takes much work: all
    of them at once would want more registers than there are.
    """
    much = form is not None and (form.rotation > 0 or form.spikes)
    return ranks if ranks <= UNROLLED_RANKS and not much else 0
