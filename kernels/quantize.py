"""The backend `triton`: what `reference.quantize` calls to encode, decode and add up copies (`codecs.backend`).

Grouped integers and MX go through `encode.py`, `decode.py` and `reduce.py`, outlier hybrids through `hybrid_dynamic.py`
and `hybrid_static.py`; raw values are a cast, which torch does. Arguments were checked by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from thinwire.kernels import hybrid_dynamic, hybrid_static
from thinwire.kernels.decode import decode_into
from thinwire.kernels.encode import encode_into
from thinwire.kernels.form import parts
from thinwire.kernels.gather_encode import gather_encode_into
from thinwire.kernels.reduce import reduce_into
from thinwire.kernels.scatter_decode import scatter_decode_into
from thinwire.kernels.static_tables import StaticParts, static_parts
from thinwire.reference.core.scheme import ALIGNMENT_BYTES, Codec, OutlierHybrid, Raw
from thinwire.reference.core.tokens import row_values

RAW = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def encode_flat(
    values_N: Tensor, codec: Codec, *, calibration: Any = None, rank: int | None = None, start: int = 0
) -> Tensor:
    """The wire buffer of `values_N`, uint8 [codec.wire_bytes(N)]."""
    if isinstance(codec, Raw):
        return values_N.to(RAW[codec.format], copy=True).view(torch.uint8)
    numel = values_N.numel()
    buffer = torch.empty(codec.wire_bytes(numel), dtype=torch.uint8, device=values_N.device)
    if _is_static(codec):
        static = _static(codec, numel, calibration, (rank,), start, values_N.device)
        hybrid_static.encode_into(values_N, buffer[None, None], static)
        return buffer
    run = hybrid_dynamic.encode_into if isinstance(codec, OutlierHybrid) else encode_into
    run(values_N, buffer[None, None], parts(codec, (numel,), values_N.device))
    return buffer


def decode_flat(
    buffer: Tensor,
    numel: int,
    codec: Codec,
    *,
    calibration: Any = None,
    rank: int | None = None,
    start: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The `numel` values of a wire buffer as `dtype` [numel]."""
    buffer = aligned(buffer)
    if isinstance(codec, Raw):
        return buffer.view(RAW[codec.format]).to(dtype, copy=True)
    values_N = torch.empty(numel, dtype=dtype, device=buffer.device)
    if _is_static(codec):
        static = _static(codec, numel, calibration, (rank,), start, buffer.device)
        hybrid_static.decode_into(buffer[None, None], values_N, static)
        return values_N
    run = hybrid_dynamic.decode_into if isinstance(codec, OutlierHybrid) else decode_into
    run(buffer[None, None], values_N, parts(codec, (numel,), buffer.device))
    return values_N


def reduce_flat(
    buffers: Sequence[Tensor],
    numel: int,
    codec: Codec,
    *,
    calibration: Any = None,
    ranks: Sequence[int | None],
    start: int = 0,
) -> Tensor:
    """The sum of the copies in `buffers`, fp32 [numel], added in their order."""
    if isinstance(codec, Raw):
        total_N = decode_flat(buffers[0], numel, codec)
        for buffer in buffers[1:]:
            total_N += aligned(buffer).view(RAW[codec.format])
        return total_N
    total_N = torch.empty(numel, dtype=torch.float32, device=buffers[0].device)
    wire_RPB = evenly_spaced(buffers)[:, None]
    if _is_static(codec):
        static = _static(codec, numel, calibration, tuple(ranks), start, total_N.device)
        hybrid_static.reduce_into(wire_RPB, total_N, static)
        return total_N
    run = hybrid_dynamic.reduce_into if isinstance(codec, OutlierHybrid) else reduce_into
    run(wire_RPB, total_N, parts(codec, (numel,), total_N.device))
    return total_N


def encode_rows(x_RD: Tensor, index_M: Tensor | None, counts: Sequence[int], codec: Codec) -> Tensor | None:
    """The wire buffers of messages of `counts` rows, or of those at `index_M`, in a row; None for raw ones."""
    if isinstance(codec, Raw):
        return None
    each = row_values(codec, x_RD.shape[1])
    nbytes = sum(codec.wire_bytes(count * each) for count in counts)
    buffer = torch.empty(nbytes, dtype=torch.uint8, device=x_RD.device)
    dense = x_RD if x_RD.stride(1) == 1 else x_RD.contiguous()
    gather_encode_into(dense.resolve_neg(), index_M, counts, buffer, codec)
    return buffer


def decode_rows(buffer: Tensor, out_RD: Tensor, index_M: Tensor | None, codec: Codec) -> bool:
    """Decode rows into `out_RD`, or to its places `index_M`; False, and nothing done, for what kernels cannot reach."""
    if isinstance(codec, Raw) or out_RD.stride(1) != 1:
        return False
    rows = out_RD.shape[0] if index_M is None else index_M.numel()
    scatter_decode_into(aligned(buffer), out_RD, index_M, (rows,), codec)
    return True


def _is_static(codec: Codec) -> bool:
    return isinstance(codec, OutlierHybrid) and codec.scale == "static"


def _static(
    codec: Codec, numel: int, calibration: Any, ranks: tuple[int | None, ...], start: int, device: torch.device
) -> StaticParts:
    """The tables of a static hybrid. Raises ValueError where no calibration was given."""
    if calibration is None:
        raise ValueError("a static outlier hybrid needs a calibration: calibration=None")
    return static_parts(codec, (numel,), calibration, ranks, start, device)


def aligned(buffer: Tensor) -> Tensor:
    """`buffer`, or a copy where it does not start where sections may: kernels read metadata in words."""
    return buffer if buffer.data_ptr() % ALIGNMENT_BYTES == 0 else buffer.clone()


def evenly_spaced(buffers: Sequence[Tensor]) -> Tensor:
    """Equally long buffers as one [R, bytes]: a view where they lie evenly apart in one storage, else a copy."""
    first = buffers[0]
    addresses = [buffer.data_ptr() for buffer in buffers]
    apart = addresses[1] - addresses[0] if len(buffers) > 1 else first.numel()
    together = all(b.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() for b in buffers)
    even = all(b - a == apart for a, b in pairwise(addresses))
    aligned = apart % ALIGNMENT_BYTES == 0 and addresses[0] % ALIGNMENT_BYTES == 0
    if together and even and aligned and apart >= first.numel():
        return first.as_strided((len(buffers), first.numel()), (apart, 1))
    return torch.stack(list(buffers))
