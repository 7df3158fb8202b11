"""The built-in backend `torch`: every codec by its registered numerics, the oracle that kernels are held against.

What a codec registers (`core.registry.Numerics`) is called with checked arguments: values are fp32, bf16 or fp16, flat,
dense and not empty; a buffer is flat, dense uint8 of `codec.wire_bytes(numel)` bytes, which may start anywhere in its
storage. Codecs that need a calibration get `calibration`, `rank` and `start` by keyword too. What comes back is checked
here, so a codec that breaks its word is told so by one sentence, on the rank where it does. `decode` may return any
floating type; it is rounded to the wanted one, and what is finite stays finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.core.lookup import numerics_of
from thinwire.reference.core.scheme import Codec


def encode_flat(
    values_N: Tensor,
    codec: Codec,
    *,
    calibration: Calibration | None = None,
    rank: int | None = None,
    start: int = 0,
) -> Tensor:
    """The wire buffer of `values_N`, uint8 [codec.wire_bytes(N)]; see `backend.Backend`."""
    buffer = numerics_of(codec).encode(values_N, codec, **given(codec, calibration, rank, start))
    nbytes = codec.wire_bytes(values_N.numel())
    good = isinstance(buffer, Tensor) and buffer.dtype == torch.uint8 and buffer.shape == (nbytes,)
    if not good or buffer.device != values_N.device:
        wanted = f"uint8 [{nbytes}], its wire_bytes({values_N.numel()}),"
        raise ValueError(f"encode of codec {codec.spec} must give {wanted} on {values_N.device}: given {_said(buffer)}")
    found: Tensor = buffer.contiguous()
    return found


def decode_flat(
    buffer: Tensor,
    numel: int,
    codec: Codec,
    *,
    calibration: Calibration | None = None,
    rank: int | None = None,
    start: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The `numel` values of `buffer` as `dtype`; see `backend.Backend`."""
    found = numerics_of(codec).decode(buffer, numel, codec, dtype, **given(codec, calibration, rank, start))
    good = isinstance(found, Tensor) and found.is_floating_point() and found.shape == (numel,)
    if not good or found.device != buffer.device:
        raise ValueError(
            f"decode of codec {codec.spec} must give floating-point values [{numel}] on {buffer.device}: "
            f"given {_said(found)}"
        )
    return found if found.dtype == dtype else narrowed(found, dtype)


def reduce_flat(
    buffers: Sequence[Tensor],
    numel: int,
    codec: Codec,
    *,
    calibration: Calibration | None = None,
    ranks: Sequence[int | None],
    start: int = 0,
) -> Tensor:
    """The sum of the copies in `buffers`, fp32, added in their order; see `backend.Backend`."""
    copies = zip(buffers, ranks, strict=True)
    decoded = (decode_flat(copy, numel, codec, calibration=calibration, rank=r, start=start) for copy, r in copies)
    total_N = next(decoded)
    for copy_N in decoded:
        total_N.add_(copy_N)
    return total_N


def given(codec: Codec, calibration: Calibration | None, rank: int | None, start: int) -> dict[str, Any]:
    """The keywords that a codec's numerics are called with."""
    return {"calibration": calibration, "rank": rank, "start": start} if codec.needs_calibration else {}


def narrowed(values_N: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded to `dtype`; finite values beyond its range become its largest, infinities and NaN stay."""
    limit = torch.finfo(dtype).max
    if torch.finfo(values_N.dtype).max <= limit:
        return values_N.to(dtype)
    return torch.where(values_N.isinf(), values_N, values_N.clamp(-limit, limit)).to(dtype)


def _said(found: object) -> str:
    if not isinstance(found, Tensor):
        return type(found).__name__
    return f"{found.dtype} {list(found.shape)} on {found.device}"
