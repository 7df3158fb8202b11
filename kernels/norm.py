"""The end of an all-reduce fused with what follows it in a transformer: decode, add to the residual, RMSNorm.

Two inputs: the gathered sums of a two-step all-reduce (`norm_into`), or the copies of all ranks after a gather of
partials, which are added up on the way (`reduce_norm_into`). Apart, decoding and the norm read and write the decoded
tensor once more each: 4 bytes a value in bf16, of 10.5 with INT4. Rounding happens where Hugging Face's LlamaRMSNorm
(transformers, models/llama/modeling_llama.py) rounds, after an all-reduce that ends in the residual's dtype:

    decoded  = round(all-reduce), as `reference.allreduce` returns it
    residual = round(decoded + residual)                                          bit for bit
    normed   = round(weight * round(residual / sqrt(mean(residual^2) + epsilon))) within `tolerance`

Contract: H is a multiple of the codec's align, so no group lies in two rows; a part of the tensor may end anywhere
between two groups. Rows of any length; tiles are padded to powers of two, so a row of 5120 costs registers for 8192.
Legend: T tokens, H hidden size, P parts, R ranks, B bytes; G groups of a tile, KP values of a group, padded.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.form import COLUMNS, GROUPS, MOST_VALUES, START, Form, Parts, fact, form
from thinwire.kernels.launch import Tuning, cdiv, check_device, check_wire, default_tuning, options
from thinwire.kernels.numbers import INTERPRETED, to_dtype, to_fp32
from thinwire.kernels.reduce import UNROLLED_RANKS, summed
from thinwire.kernels.tiles import decode_tile, decoded, part_row

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
VALUES_A_WARP = 512  # 16 a thread: half of a decoder's, for the residual and the sum need registers too


@triton.jit
def norm_kernel(
    wire_ptr,  # uint8, the copy of part from rank at rank * wire_rank + part * wire_part
    table_ptr,
    residual_ptr,  # [T, H]
    weight_ptr,  # [H]
    sums_ptr,  # [T, H], may be residual_ptr
    normed_ptr,  # [T, H]
    wire_rank,
    wire_part,
    residual_row,
    sums_row,
    normed_row,
    tokens,
    row_groups,  # of codec groups in a row
    parts,
    ranks,
    hidden,  # fp32
    epsilon,  # fp32
    UNROLLED: tl.constexpr,
    REDUCE: tl.constexpr,
    FORM: tl.constexpr,
    ROWS: tl.constexpr,
    ROW_GROUPS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Grid: tiles of ROWS rows, each padded to ROW_GROUPS groups. PARTS: parts, widened to a power of two."""
    K: tl.constexpr = fact(FORM, "group")
    KP: tl.constexpr = fact(FORM, "padded")
    row0 = tl.program_id(0).to(tl.int64) * ROWS
    tile_G = tl.arange(0, ROWS * ROW_GROUPS)
    row_G = tile_G // ROW_GROUPS
    column_G = tile_G % ROW_GROUPS
    inside_G = (column_G < row_groups) & (row0 + row_G < tokens)
    local_G = row_G * row_groups + column_G
    first_group = row0 * row_groups

    # Which parts this tile touches: nearly always one. Their tables are read as scalars, one part after another, so
    # addresses keep the alignment the compiler knows of.
    at_P = tl.arange(0, PARTS)
    starts_P = tl.load(table_ptr + at_P * COLUMNS + START, mask=at_P < parts, other=1 << 62)
    last_group = tl.minimum(row0 + ROWS, tokens) * row_groups - 1
    low = tl.sum((starts_P <= first_group * K).to(tl.int32)) - 1
    high = tl.sum((starts_P <= last_group * K).to(tl.int32))
    x = tl.zeros((ROWS * ROW_GROUPS, KP), tl.float32)
    for part in range(low, high):
        at = part_row(table_ptr, part)
        first = first_group - at[START] // K
        ok_G = inside_G & (first + local_G >= 0) & (first + local_G < at[GROUPS])
        spot = wire_part.to(tl.int64) * part
        if REDUCE:
            found = summed(wire_ptr, spot, wire_rank, at, first, local_G, ok_G, ranks, UNROLLED, FORM)
        else:
            found = decoded(decode_tile(wire_ptr, spot, at, first, local_G, ok_G, FORM), FORM, tl.float32)
        x = tl.where(ok_G[:, None], found, x)

    places = tl.arange(0, KP)[None, :]
    column = column_G[:, None] * K + places
    inside = tl.broadcast_to(inside_G[:, None], column.shape)
    if KP != K:
        inside = inside & (places < K)
    row = row0 + row_G[:, None]
    residual = tl.load(residual_ptr + row * residual_row + column, mask=inside, other=0.0)
    dtype: tl.constexpr = residual_ptr.dtype.element_ty
    total = to_dtype(to_fp32(to_dtype(x, dtype)) + to_fp32(residual), dtype)
    value = tl.where(inside, to_fp32(total), 0.0)
    squares_R = tl.sum(tl.reshape(tl.sum(value * value, axis=1), (ROWS, ROW_GROUPS)), axis=1)
    inverse_R = tl.rsqrt(tl.math.div_rn(squares_R, tl.zeros_like(squares_R) + hidden) + epsilon)
    inverse_G = tl.reshape(tl.broadcast_to(inverse_R[:, None], (ROWS, ROW_GROUPS)), (ROWS * ROW_GROUPS,))
    normal = to_fp32(to_dtype(value * inverse_G[:, None], dtype))
    weight = to_fp32(tl.load(weight_ptr + column, mask=inside, other=0.0))
    # After the sum over the row, which every thread's loads precede: the sums may overwrite the residual.
    tl.store(sums_ptr + row * sums_row + column, total, mask=inside)
    normed = to_dtype(normal * weight, normed_ptr.dtype.element_ty)
    tl.store(normed_ptr + row * normed_row + column, normed, mask=inside)


def tolerance(hidden: int) -> float:
    """How far the kernel's residual / sqrt(mean + epsilon) may lie from the exact one before it is rounded, relative.

    u = 2^-24. A square rounds once and a sum of `hidden` terms of one sign, in any order, hidden - 1 times: the mean
    is within (hidden + 1) u, the addition of epsilon within one more, half of that after the root. The hardware's
    reciprocal root is within 2^-22 (PTX: 2^-22.9), the product rounds once. What follows, a rounding to the residual's
    dtype, the product with the weight and a rounding, is exact to the bit.
    """
    u = 2.0**-24
    return (hidden + 2) / 2 * u * 1.001 + 2.0**-22 + u


def norm_into(
    wire_PB: Tensor,
    parts: Parts,
    residual_TH: Tensor,
    weight_H: Tensor,
    sums_TH: Tensor,
    normed_TH: Tensor,
    epsilon: float = 1e-5,
    tuning: Tuning | None = None,
) -> None:
    """Decode the gathered copies of a [T, H] tensor, add the residual (into `sums_TH`), normalise (into `normed_TH`).

    Args:
        wire_PB: uint8 [P, >= nbytes], the encoded sum of each part, as it was gathered.
        parts: T * H values in P parts.
        residual_TH: bf16, fp16 or fp32, rows contiguous; also the dtype the all-reduce ends in.
        weight_H: bf16, fp16 or fp32, contiguous.
        sums_TH: of the residual's dtype; may be the residual itself.
        normed_TH: of the dtype that torch promotes weight and residual to.

    Raises ValueError for a hidden size that groups do not divide, for dtypes and shapes that do not fit, and for
    tensors that kernels cannot reach.
    """
    check_wire(wire_PB, (len(parts),), parts)
    _launch(wire_PB[None], parts, residual_TH, weight_H, sums_TH, normed_TH, epsilon, tuning, False)


def reduce_norm_into(
    wire_RPB: Tensor,
    parts: Parts,
    residual_TH: Tensor,
    weight_H: Tensor,
    sums_TH: Tensor,
    normed_TH: Tensor,
    epsilon: float = 1e-5,
    tuning: Tuning | None = None,
) -> None:
    """The same at the end of a gather of partials: `wire_RPB`, uint8 [R, P, >= nbytes], holds every rank's copy, and
    the copies are added up in fp32 and in rank order first.
    """
    check_wire(wire_RPB, (wire_RPB.shape[0], len(parts)), parts)
    _launch(wire_RPB, parts, residual_TH, weight_H, sums_TH, normed_TH, epsilon, tuning, True)


def _launch(
    wire_RPB: Tensor,
    parts: Parts,
    residual_TH: Tensor,
    weight_H: Tensor,
    sums_TH: Tensor,
    normed_TH: Tensor,
    epsilon: float,
    tuning: Tuning | None,
    reduces: bool,
) -> None:
    check_device(wire_RPB, parts.table, residual_TH, weight_H, sums_TH, normed_TH)
    tokens, hidden = _check_shapes(parts, residual_TH, weight_H, sums_TH, normed_TH)
    if not tokens:
        return
    compiled = form(parts.codec)
    row_groups = hidden // parts.codec.group
    padded_groups = int(triton.next_power_of_2(row_groups))
    rows, warps = tile_of(padded_groups * compiled.padded, tuning or default_tuning("decode", residual_TH.device))
    ranks = wire_RPB.shape[0]
    norm_kernel[(cdiv(tokens, rows),)](
        wire_RPB, parts.table, residual_TH, weight_H, sums_TH, normed_TH, wire_RPB.stride(0), wire_RPB.stride(1),
        residual_TH.stride(0), sums_TH.stride(0), normed_TH.stride(0), tokens, row_groups, len(parts), ranks,
        float(hidden), float(epsilon), UNROLLED=written_out(compiled, ranks, warps), REDUCE=reduces, FORM=compiled,
        ROWS=rows, ROW_GROUPS=padded_groups, PARTS=int(triton.next_power_of_2(len(parts))), **options(Tuning(8, warps)),
        **({} if INTERPRETED.value else {"maxnreg": most_registers(warps)}),
    )  # fmt: skip


def tile_of(row_values: int, tuning: Tuning) -> tuple[int, int]:
    """(rows of a tile, warps) for padded rows of `row_values`: a row at least, and warps grow with it."""
    rows = max(1, tuning.values // row_values)
    return rows, min(16, max(tuning.warps, rows * row_values // VALUES_A_WARP))


def written_out(compiled: Form, ranks: int, warps: int) -> int:
    """Ranks whose sum is written out at compile time, as far as registers go; 0 = a loop."""
    most = UNROLLED_RANKS if warps < 16 else 2 if compiled.spikes else 4
    return ranks if ranks <= most else 0


def most_registers(warps: int) -> int:
    """Registers of a thread that the hardware allows. Said aloud, they keep the assembler from spilling a few bytes for
    the sake of one program more on a multiprocessor.
    """
    return min(255, 65536 // (32 * warps))


def _check_shapes(
    parts: Parts, residual_TH: Tensor, weight_H: Tensor, sums_TH: Tensor, normed_TH: Tensor
) -> tuple[int, int]:
    shapes = [tuple(tensor.shape) for tensor in (residual_TH, sums_TH, normed_TH)]
    if residual_TH.dim() != 2 or len(set(shapes)) != 1 or tuple(weight_H.shape) != shapes[0][1:]:
        raise ValueError(
            f"residual, sums and normed must be [T, H], weight [H]: given {shapes}, weight {list(weight_H.shape)}"
        )
    tokens, hidden = shapes[0]
    if any(tensor.stride(-1) != 1 and hidden > 1 for tensor in (residual_TH, sums_TH, normed_TH, weight_H)):
        raise ValueError("rows must be contiguous: a last stride is not 1")
    if residual_TH.dtype not in FLOATS or weight_H.dtype not in FLOATS:
        raise ValueError(f"residual and weight must be bf16, fp16 or fp32: {residual_TH.dtype}, {weight_H.dtype}")
    if sums_TH.dtype != residual_TH.dtype:
        raise ValueError(f"sums have the residual's dtype {residual_TH.dtype}: given {sums_TH.dtype}")
    if normed_TH.dtype != torch.promote_types(residual_TH.dtype, weight_H.dtype):
        raise ValueError(
            f"normed must be {torch.promote_types(residual_TH.dtype, weight_H.dtype)}, what {residual_TH.dtype} times "
            f"a weight of {weight_H.dtype} gives: {normed_TH.dtype}"
        )
    if sum(parts.numels) != tokens * hidden:
        raise ValueError(f"parts hold {sum(parts.numels)} values, the residual {tokens} x {hidden}")
    align = parts.codec.align
    if hidden < 1 or hidden % align:
        raise ValueError(f"a row must be whole groups: hidden={hidden}, {parts.codec.spec} has groups of {align}")
    widest = int(triton.next_power_of_2(hidden // parts.codec.group)) * form(parts.codec).padded
    if widest > MOST_VALUES:
        raise ValueError(f"a row must fit one tile of {MOST_VALUES} values: hidden={hidden}, padded {widest}")
    return tokens, hidden
