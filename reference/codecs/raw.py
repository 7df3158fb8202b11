"""The values themselves: a cast, which rounds and overflows as IEEE has it."""

from __future__ import annotations

import torch
from torch import Tensor

from thinwire.reference.codecs.bounds import rounded
from thinwire.reference.codecs.elements import DTYPES
from thinwire.reference.core.scheme import Raw


def encode(values_N: Tensor, codec: Raw) -> Tensor:
    """The wire buffer of `values_N`."""
    return values_N.to(DTYPES[codec.format], copy=True).view(torch.uint8)


def decode(buffer: Tensor, numel: int, codec: Raw, dtype: torch.dtype) -> Tensor:
    """The values of `buffer` as `dtype`."""
    aligned = buffer if buffer.storage_offset() % 4 == 0 else buffer.clone()
    return aligned.view(DTYPES[codec.format]).to(dtype, copy=True)


def bound(exact_N: Tensor, codec: Raw) -> Tensor:
    """Its format's rounding; inf where it overflows."""
    return rounded(exact_N, codec.format)
