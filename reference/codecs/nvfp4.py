"""NVFP4 in plain torch operations: e2m1 codes, e4m3 block scales in units of an fp32 row scale.

A value is (code x block scale) x row scale: the first product is exact, the second rounds once. Legend: N values, G
rows, B blocks of a row, K values of a block. docs/decisions/026-presets.md says what each step rounds to; the rest goes
as in 006: rows are padded with zeros, and a row with a NaN or an infinity in it is NaN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thinwire.reference.codecs.bounds import roundoff, scales
from thinwire.reference.codecs.elements import exact_div, folded_power, from_codes, to_codes, to_scale
from thinwire.reference.codecs.layout import allocate, chunks, plane_views, views
from thinwire.reference.codecs.packing import pack_into, unpack
from thinwire.reference.core.formats import element
from thinwire.reference.core.nvfp4 import BLOCK, BLOCK_SCALE, ELEMENT, NVFP4, ROW_SCALE, TOP

_ELEMENT, _BLOCK_SCALE = element(ELEMENT), element(BLOCK_SCALE)


def encode(values_N: Tensor, codec: NVFP4) -> Tensor:
    """The wire buffer of `values_N`."""
    numel = values_N.numel()
    buffer = allocate(codec, numel, values_N.device)
    parts = views(buffer, codec, numel)
    for first, last in chunks(numel, codec.row, values_N.device):
        part_N = values_N[first:last].float()
        blocks_GBK = torch.nn.functional.pad(part_N, (0, -len(part_N) % codec.row)).view(-1, codec.row // BLOCK, BLOCK)
        codes_GBK, blocks_GB, rows_G = _quantise(blocks_GBK)
        pack_into(codes_GBK, _ELEMENT.bits, plane_views(parts, _ELEMENT.bits, first, codes_GBK.numel()))
        row, rows = first // codec.row, len(rows_G)
        parts["row_scales"][row : row + rows].copy_(rows_G)
        each = codec.row // BLOCK
        parts["scales"][row * each : (row + rows) * each].copy_(blocks_GB.view(-1))
    return buffer


def _quantise(blocks_GBK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(codes uint8 [G, B, K], block scales uint8 [G, B], row scales fp32 [G])."""
    amax_GB = torch.maximum(blocks_GBK.amax(2), -blocks_GBK.amin(2)) + 0.0  # zeros may come with either sign
    amax_G = amax_GB.amax(1)
    good_G = torch.isfinite(amax_G)
    rows_G, used_G = to_scale(exact_div(amax_G, TOP), ROW_SCALE, TOP)
    # In units of a row scale of zero everything is zero.
    wanted_GB = amax_GB / (used_G * _ELEMENT.maximum).masked_fill(used_G == 0, math.inf)[:, None]
    sent_GB = to_codes(wanted_GB, _BLOCK_SCALE) & good_G.to(torch.uint8).neg_()[:, None]
    scale_GB = from_codes(sent_GB, _BLOCK_SCALE) * used_G[:, None]
    scaled_GBK = blocks_GBK / scale_GB.masked_fill(scale_GB == 0, math.inf)[:, :, None]
    codes_GBK = to_codes(scaled_GBK.mul_(2.0 ** folded_power(_ELEMENT)), _ELEMENT)
    return codes_GBK & good_G.to(torch.uint8).neg_()[:, None, None], sent_GB, rows_G


def decode(buffer: Tensor, numel: int, codec: NVFP4, dtype: torch.dtype) -> Tensor:
    """The `numel` values of `buffer` as `dtype`."""
    out_N = torch.empty(numel, dtype=dtype, device=buffer.device)
    parts = views(buffer, codec, numel)
    blocks_N, rows_G = from_codes(parts["scales"], _BLOCK_SCALE), parts["row_scales"]
    for first, last in chunks(numel, codec.row, buffer.device):
        padded = -(-(last - first) // codec.row) * codec.row
        codes_N = unpack(plane_views(parts, _ELEMENT.bits, first, padded), _ELEMENT.bits, padded)
        values_NK = from_codes(codes_N, _ELEMENT).view(-1, BLOCK)
        block, row = first // BLOCK, first // codec.row
        values_NK.mul_(blocks_N[block : block + len(values_NK), None])
        found_GN = values_NK.view(-1, codec.row).mul_(rows_G[row : row + padded // codec.row, None])
        if dtype == torch.float16:  # what is finite stays finite; the row scale's cap sees to the wider types
            found_GN.clamp_(-torch.finfo(dtype).max, torch.finfo(dtype).max)
        out_N[first:last].copy_(found_GN.view(-1)[: last - first])
    return out_N


def bound(exact_N: Tensor, codec: NVFP4) -> Tensor:
    """The largest error of each value, float64: that of an e2m1 element in units of the scale that its block gets.

    The row scale g is amax / 2688 within a rounding. The block scale s g is its amax / 6 rounded to multiples of g as
    e4m3 has them: by 2^-4 of itself or half of e4m3's smallest step, and at most 448 g. Below half that step it is 0,
    and so is the block. A value rounds by a quarter of itself or half of e2m1's smallest step (in scales), and what
    lies beyond 6 scales saturates.
    """
    size_GBK = torch.nn.functional.pad(exact_N.abs(), (0, -exact_N.numel() % codec.row))
    size_GBK = size_GBK.view(-1, codec.row // BLOCK, BLOCK)
    amax_GB1 = size_GBK.amax(2, keepdim=True)
    most_G, least_G = scales(amax_GB1.amax(1, keepdim=True) / TOP, ROW_SCALE, TOP)
    u, eta = roundoff(BLOCK_SCALE)
    wanted_GB1 = amax_GB1 / _ELEMENT.maximum
    wider = 1 + 2.0**-20  # quotients and products on the way to the block's scale, in fp32
    most_GB1 = (wanted_GB1 * (1 + u) * wider + eta / 2 * most_G).minimum(_BLOCK_SCALE.maximum * most_G)
    least_GB1 = (wanted_GB1 * (1 - u) / wider - eta / 2 * most_G).clamp_min(0).minimum(_BLOCK_SCALE.maximum * least_G)
    ulp, step = roundoff(ELEMENT)
    inside_GBK = size_GBK.minimum(_ELEMENT.maximum * most_GB1)
    rounding_GBK = (ulp * inside_GBK).maximum(step / 2 * most_GB1)
    beyond_GBK = size_GBK - _ELEMENT.maximum * least_GB1
    return rounding_GBK.maximum(beyond_GBK).reshape(-1)[: exact_N.numel()]
