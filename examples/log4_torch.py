"""What log4 means on tensors: the three functions that thinwire calls. N values, G groups, K values of a group."""

import math

import torch
from log4 import Log4
from torch import Tensor

from thinwire.reference.codecs.elements import to_bf16
from thinwire.reference.codecs.layout import allocate, views
from thinwire.reference.codecs.packing import pack_into, unpack

# Halfway between 0 and the smallest level, and between neighbours of the levels 2^-6 .. 1.
EDGES = [2.0**-7, *(0.75 * 2.0**-k for k in range(5, -1, -1))]


def encode(values_N: Tensor, codec: Log4) -> Tensor:
    """The wire buffer of flat values in fp32, bf16 or fp16: uint8 [codec.wire_bytes(N)]."""
    filled_N = torch.nn.functional.pad(values_N.float(), (0, -len(values_N) % codec.group))
    values_GK = filled_N.view(-1, codec.group)
    amax_G = values_GK.abs().amax(1, keepdim=True)
    good_G = amax_G.isfinite()  # a NaN or an infinity makes NaN of its group
    scale_G = to_bf16(amax_G)  # saturates: what is finite stays finite
    shares_GK = values_GK.abs() / scale_G.float().masked_fill(scale_G == 0, math.inf)
    level_GK = torch.bucketize(shares_GK, torch.tensor(EDGES, device=values_N.device), right=True)  # 0: zero, 7: 1.0
    code_GK = level_GK + 8 * ((values_GK < 0) & (level_GK > 0))
    buffer = allocate(codec, len(values_N), values_N.device)
    parts = views(buffer, codec, len(values_N))
    pack_into(code_GK.masked_fill(~good_G, 0).to(torch.uint8), 4, [parts["plane4"]])
    parts["scales"].copy_(scale_G.masked_fill(~good_G, math.nan).view(-1))
    return buffer


def decode(buffer: Tensor, numel: int, codec: Log4, dtype: torch.dtype) -> Tensor:
    """The values of a buffer. fp32 will do: thinwire rounds to `dtype`, and what is finite stays finite."""
    parts = views(buffer, codec, numel)
    scale_G = parts["scales"].float()[:, None]
    code_N = unpack([parts["plane4"]], 4, len(scale_G) * codec.group)
    levels = [0.0, *(2.0**k for k in range(-6, 1))]
    table = torch.tensor(levels + [-level for level in levels], device=buffer.device)
    return (table[code_N.int()].view(-1, codec.group) * scale_G).view(-1)[:numel]


def bound(exact_N: Tensor, codec: Log4) -> Tensor:
    """The largest error of each value (float64). thinwire adds what fp32 arithmetic and the wanted type may.

    Halfway between two powers of two, at 3/4 of the larger, a third of the value; below the smallest level, half of it;
    and the largest value by what rounding its scale to bf16 takes from it.
    """
    size_N = exact_N.abs()
    size_GK = torch.nn.functional.pad(size_N, (0, -len(size_N) % codec.group)).view(-1, codec.group)
    scale_N = size_GK.amax(1).repeat_interleave(codec.group)[: len(size_N)]
    smallest_N = (scale_N * (1 + 2.0**-8) + 2.0**-133) / 128
    beyond_N = (size_N - torch.finfo(torch.bfloat16).max).clamp_min(2.0**-134)
    return (size_N / 3).maximum(smallest_N).maximum(beyond_N)
