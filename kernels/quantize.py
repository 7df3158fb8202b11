"""The backend `triton`: what `reference.quantize` calls to encode and decode (see `reference.backend.Backend`).

Grouped integers and MX go through `encode.py`, `decode.py` and `reduce.py`, outlier hybrids through `hybrid.py`; raw
values are a cast, which torch does. Arguments were checked by the caller.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thinwire.kernels.decode import decode_into
from thinwire.kernels.encode import encode_into
from thinwire.kernels.form import parts
from thinwire.reference.scheme import Codec, Raw

RAW = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def encode_flat(values_N: Tensor, codec: Codec, *, calibration=None, rank: int | None = None, start: int = 0) -> Tensor:
    """The wire buffer of `values_N`, uint8 [codec.wire_bytes(N)]."""
    if isinstance(codec, Raw):
        return values_N.to(RAW[codec.format], copy=True).view(torch.uint8)
    numel = values_N.numel()
    buffer = torch.empty(codec.wire_bytes(numel), dtype=torch.uint8, device=values_N.device)
    encode_into(values_N, buffer[None, None], parts(codec, (numel,), values_N.device))
    return buffer


def decode_flat(
    buffer: Tensor,
    numel: int,
    codec: Codec,
    *,
    calibration=None,
    rank: int | None = None,
    start: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The `numel` values of a wire buffer as `dtype` [numel]."""
    if isinstance(codec, Raw):
        aligned = buffer if buffer.storage_offset() % 4 == 0 else buffer.clone()
        return aligned.view(RAW[codec.format]).to(dtype, copy=True)
    values_N = torch.empty(numel, dtype=dtype, device=buffer.device)
    decode_into(buffer[None, None], values_N, parts(codec, (numel,), buffer.device))
    return values_N
