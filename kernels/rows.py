"""Rows of a tensor that are picked by index: where groups of a message lie in it. Device functions, and their checks.

A message is a run of rows, each filled up to whole groups (`reference.core.tokens`), and one part of a `form.Parts`:
its groups are those of its rows, one row after the other. G groups, R rows, M rows sent or received, P messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.form import Parts, parts
from thinwire.kernels.launch import check_device
from thinwire.reference.core.scheme import ALIGNMENT_BYTES, Codec
from thinwire.reference.core.tokens import row_values

FLOATS = (torch.bfloat16, torch.float16, torch.float32)


@triton.jit
def places_of_groups(
    index_ptr, first_row, group_G, ok_G, row_groups, row_stride, K: tl.constexpr, INDEXED: tl.constexpr
):
    """(where the groups `group_G` of a message begin in the tensor, in values; and in their row), of its shape."""
    row = group_G // row_groups
    column = (group_G - row * row_groups) * K
    place = first_row + row
    if INDEXED:
        place = tl.load(index_ptr + place, mask=ok_G, other=0)
    return place.to(tl.int64) * row_stride + column, column


@dataclass(frozen=True, slots=True, eq=False)
class Picked:
    """Rows, some of them picked, in messages: what launchers hand to kernels.

    spots: int64 [P] on the device, the byte at which each message's buffer begins in one buffer of all. exact: no group
    is filled up, nor widened to a power of two.
    """

    parts: Parts
    spots: Tensor
    nbytes: int
    row_groups: int
    row_values: int
    exact: bool


def picked(codec: Codec, counts: Sequence[int], width: int, device: torch.device) -> Picked:
    """Messages of `counts` rows of `width` values. Raises ValueError for raw values and static hybrids, and as
    `form.parts` does.
    """
    if codec.is_raw or codec.needs_calibration:
        raise ValueError(f"kernels for rows take codecs that compress, and without a calibration: given {codec.spec}")
    each = row_values(codec, width)
    found = parts(codec, tuple(count * each for count in counts), device)
    starts = [0, *accumulate(found.nbytes)]
    assert all(start % ALIGNMENT_BYTES == 0 for start in starts)
    spots = torch.tensor(starts[:-1], dtype=torch.int64).to(device)
    if found.most_groups >= 1 << 31:
        raise ValueError(f"a message has fewer than 2^31 groups: {found.most_groups}")
    exact = width % codec.group == 0 and codec.group & (codec.group - 1) == 0
    return Picked(found, spots, starts[-1], each // codec.group, each, exact)


def check_rows(rows_RD: Tensor, index_M: Tensor | None, wire: Tensor, found: Picked) -> None:
    """Raises ValueError for tensors that do not fit each other, or that kernels cannot reach.

    Places beyond the tensor are not looked for: on a GPU that would wait for it.
    """
    if rows_RD.dim() != 2 or rows_RD.dtype not in FLOATS or (rows_RD.stride(1) != 1 and rows_RD.shape[1] > 1):
        raise ValueError(
            f"rows must be bf16, fp16 or fp32 [R, D], each contiguous: {rows_RD.dtype} {list(rows_RD.shape)}, "
            f"strides {rows_RD.stride()}"
        )
    check_device(rows_RD, wire, found.spots, *([] if index_M is None else [index_M]))
    count = sum(found.parts.numels) // found.row_values
    have = rows_RD.shape[0] if index_M is None else index_M.numel()
    if have != count or (index_M is not None and (index_M.dtype != torch.int64 or not index_M.is_contiguous())):
        raise ValueError(f"the messages have {count} rows: given {have}, and an index must be int64 [rows]")
    if wire.dtype != torch.uint8 or wire.dim() != 1 or wire.numel() < found.nbytes or not wire.is_contiguous():
        raise ValueError(f"the messages take uint8 [>= {found.nbytes}]: given {wire.dtype} {list(wire.shape)}")
    if wire.data_ptr() % ALIGNMENT_BYTES:
        raise ValueError(f"the buffer must begin at a multiple of {ALIGNMENT_BYTES} bytes")
