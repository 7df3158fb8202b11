"""The end of a mixture's layer: decode what experts gave back, weigh it and add up each token's choices, in one pass.

Each byte of the messages that came back is read once and each token written once; decoding first and adding then would
write and read every row once more, top-k of them a token. Rows are weighed and added in fp32 in the order of the
choices, with a rounding each, and the sum is rounded to the tokens' type: as `reference.quantize.combine_rows` does,
bit for bit. T tokens, D width, A choices of a token, M rows received, P messages, G groups of a tile. Grouped integers,
MX and NVFP4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.kernels.form import START, fact, form
from thinwire.kernels.launch import Tuning, cdiv, check_device, default_tuning, options
from thinwire.kernels.numbers import to_dtype
from thinwire.kernels.rows import FLOATS, picked
from thinwire.kernels.tiles import as_slices, decode_tile, decoded, part_row, slices
from thinwire.reference.core.scheme import ALIGNMENT_BYTES, Codec


@triton.jit
def combine_kernel(
    wire_ptr,  # uint8, the buffer of message p at spots[p]
    place_ptr,  # int64 [T, A]: which row received, below 0 for none
    weight_ptr,  # fp32 [T, A]
    part_ptr,  # int32 [M]: in which message a row lies
    tokens_ptr,  # [T, D]
    table_ptr,
    spots_ptr,
    tokens_stride,
    width,
    row_groups,  # groups of a row that is filled up
    row_tiles,
    choices,
    FORM: tl.constexpr,
    TILE_GROUPS: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Grid: tiles of every token. Where a row lies is the same for all of a tile, and read once."""
    K: tl.constexpr = fact(FORM, "group")
    S: tl.constexpr = slices(FORM)
    C: tl.constexpr = fact(FORM, "padded") // S
    token = tl.program_id(0).to(tl.int64) // row_tiles
    column = (tl.program_id(0) - token * row_tiles).to(tl.int64) * TILE_GROUPS
    local_G = tl.arange(0, TILE_GROUPS)
    inside_G = column + local_G < row_groups
    total = tl.zeros((TILE_GROUPS, fact(FORM, "padded")), tl.float32)
    for choice in range(choices):
        row = tl.load(place_ptr + token * choices + choice)
        weight = tl.load(weight_ptr + token * choices + choice)
        part = tl.load(part_ptr + row, mask=row >= 0, other=0).to(tl.int64)
        at = part_row(table_ptr, part)
        spot = tl.multiple_of(tl.load(spots_ptr + part), 16)
        first = row * row_groups - at[START] // K + column
        ok_G = inside_G & (row >= 0)
        x = decoded(decode_tile(wire_ptr, spot, at, first, local_G, ok_G, FORM), FORM, tl.float32)
        total = tl.where(row >= 0, total + weight * x, total)
    places = tl.arange(0, S)[:, None, None] * C + tl.arange(0, C)[None, None, :]
    local = local_G[None, :, None] * K + places
    kept = as_slices(to_dtype(total, tokens_ptr.dtype.element_ty), FORM)
    inside = inside_G[None, :, None]
    if not EXACT:
        inside = inside & (places < K) & (column * K + local < width)
    tl.store(tokens_ptr + (token * tokens_stride + column * K) + local, kept, mask=inside)


def combine_into(
    wire: Tensor,
    tokens_TD: Tensor,
    place_TA: Tensor,
    weight_TA: Tensor,
    counts: Sequence[int],
    codec: Codec,
    tuning: Tuning | None = None,
) -> None:
    """Write tokens: the sum over their choices of weight times the row received at that place.

    wire: uint8, messages of `counts` rows one after the other, each from a multiple of 16 bytes on. tokens_TD: bf16,
    fp16 or fp32, rows contiguous. place_TA: int64, numbers of received rows, below 0 for a choice that has none.
    weight_TA: fp32. Raises ValueError for shapes that do not fit and tensors that kernels cannot reach.
    """
    tokens, width = tokens_TD.shape
    found = picked(codec, counts, width, tokens_TD.device)
    check_device(wire, tokens_TD, place_TA, weight_TA, found.spots)
    fits = place_TA.shape == weight_TA.shape == (tokens, *place_TA.shape[1:]) and place_TA.dim() == 2
    kinds = (place_TA.dtype, weight_TA.dtype) == (torch.int64, torch.float32) and tokens_TD.dtype in FLOATS
    dense = place_TA.is_contiguous() and weight_TA.is_contiguous() and (tokens_TD.stride(1) == 1 or width == 1)
    if not (fits and kinds and dense):
        raise ValueError(
            f"tokens [T, D] want places int64 and weights fp32 [T, A], contiguous: {list(tokens_TD.shape)} "
            f"{tokens_TD.dtype}, {list(place_TA.shape)} {place_TA.dtype}, {list(weight_TA.shape)} {weight_TA.dtype}"
        )
    if wire.dtype != torch.uint8 or wire.numel() < found.nbytes or wire.data_ptr() % ALIGNMENT_BYTES:
        raise ValueError(f"the messages take uint8 [>= {found.nbytes}], aligned: {wire.dtype} {list(wire.shape)}")
    if not tokens:
        return
    numbers = torch.arange(len(counts), dtype=torch.int32)
    part = torch.repeat_interleave(numbers, torch.tensor(list(counts))).to(tokens_TD.device)
    compiled = form(codec)
    chosen = (tuning or default_tuning("reduce", tokens_TD.device)).holding(compiled.least)
    tile = chosen.groups(compiled)
    row_tiles = cdiv(found.row_groups, tile)
    combine_kernel[(tokens * row_tiles,)](
        wire, place_TA, weight_TA, part, tokens_TD, found.parts.table, found.spots, tokens_TD.stride(0), width,
        found.row_groups, row_tiles, place_TA.shape[1], FORM=compiled, TILE_GROUPS=tile, EXACT=found.exact,
        **options(chosen),
    )  # fmt: skip
