"""Tensors into wire buffers and back: `encode`, `decode` and `reduce_flat`, for every codec and every backend.

What a buffer holds, to the byte, is docs/decisions/001-wire-formats.md; what every number is rounded to, and
what becomes of zero, huge, infinite and NaN groups, is docs/decisions/006-numerics.md. Nothing here depends on
the backend: all of them give the same bytes, and a codec that a backend has no kernels for runs its own numerics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.reference.codecs.backend import Backend
from thinwire.reference.codecs.backend import backend as find_backend
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.codecs.layout import dense, section_views
from thinwire.reference.core.lookup import entry_of
from thinwire.reference.core.scheme import Codec
from thinwire.reference.core.tokens import row_values

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """An encoded tensor: one contiguous uint8 buffer and what is needed to read it.

    shape, dtype: of the tensor that was encoded. The buffer has exactly `codec.wire_bytes(numel)` bytes;
    ValueError otherwise.
    """

    buffer: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    codec: Codec

    def __post_init__(self) -> None:
        _check_buffer(self.buffer, self.numel, self.codec)

    @property
    def numel(self) -> int:
        """Values encoded."""
        return torch.Size(self.shape).numel()

    def sections(self) -> dict[str, Tensor]:
        """Each section's bytes by name, in order: uint8 views of the buffer, padding left out."""
        return section_views(self.buffer, self.codec, self.numel)


def encode(
    x: Tensor,
    codec: Codec,
    backend: str = "torch",
    *,
    calibration: Calibration | None = None,
    rank: int | None = None,
    start: int = 0,
) -> Packed:
    """`x` in `codec`'s wire format. Any shape, its last dimension the features; fp32, bf16 or fp16.

    A static hybrid alone needs the rest: its calibration, the rank whose partial sum `x` is (None: the sum over
    ranks) and the position of x's first value in the whole flat tensor.
    Raises ValueError for other types, or for a calibration that is missing or does not fit.
    """
    # A flat part of a tensor has no feature dimension of its own.
    if calibration is not None and x.dim() > 1 and x.numel() and x.shape[-1] != calibration.features:
        raise ValueError(f"the calibration has {calibration.features} features, x {x.shape[-1]}: shape={list(x.shape)}")
    buffer = encode_flat(x.reshape(-1), codec, backend, calibration=calibration, rank=rank, start=start)
    return Packed(buffer, tuple(x.shape), x.dtype, codec)


def decode(
    packed: Packed,
    backend: str = "torch",
    *,
    calibration: Calibration | None = None,
    rank: int | None = None,
    start: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The tensor that `packed` holds, of its shape; `dtype` None = the type that was encoded.

    calibration, rank and start as they were given to `encode`. Raises ValueError as `encode` does.
    """
    flat = decode_flat(
        packed.buffer,
        packed.numel,
        packed.codec,
        backend,
        calibration=calibration,
        rank=rank,
        start=start,
        dtype=packed.dtype if dtype is None else dtype,
    )
    return flat.view(packed.shape)


def encode_flat(
    values_N: Tensor,
    codec: Codec,
    backend: str = "torch",
    *,
    calibration: Calibration | None = None,
    rank: int | None = None,
    start: int = 0,
) -> Tensor:
    """The wire buffer of a flat tensor [N] of any stride: uint8 [codec.wire_bytes(N)]. See `encode`."""
    if values_N.dim() != 1:
        raise ValueError(f"values must be flat: shape={list(values_N.shape)}")
    _check_float("values", values_N.dtype)
    _check_static(codec, calibration, rank, start)
    found = _backend(backend, codec)
    values_N = dense(values_N)
    if not values_N.numel():
        return values_N.new_empty(0, dtype=torch.uint8)
    return found.encode_flat(values_N, codec, calibration=calibration, rank=rank, start=start)


def decode_flat(
    buffer: Tensor,
    numel: int,
    codec: Codec,
    backend: str = "torch",
    *,
    calibration: Calibration | None = None,
    rank: int | None = None,
    start: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The `numel` values of a wire buffer, as `dtype` [numel]. See `decode`.

    Raises ValueError for a buffer that is not contiguous uint8 of `codec.wire_bytes(numel)` bytes.
    """
    _check_buffer(buffer, numel, codec)
    _check_float("dtype", dtype)
    _check_static(codec, calibration, rank, start)
    found = _backend(backend, codec)
    if not numel:
        return buffer.new_empty(0, dtype=dtype)
    return found.decode_flat(dense(buffer), numel, codec, calibration=calibration, rank=rank, start=start, dtype=dtype)


def reduce_flat(
    buffers: Sequence[Tensor],
    numel: int,
    codec: Codec,
    backend: str = "torch",
    *,
    calibration: Calibration | None = None,
    ranks: Sequence[int | None],
    start: int = 0,
) -> Tensor:
    """The sum of several wire copies of the same `numel` values: fp32 [numel], added in the order given.

    ranks: whose copy each buffer is (a static hybrid decodes each with that rank's scales). Raises ValueError for no
    copy, for as many ranks as there are not copies, and as `decode_flat` does.
    """
    if not buffers or len(buffers) != len(ranks):
        raise ValueError(f"as many copies as ranks, one at least: given {len(buffers)} and {len(ranks)}")
    for buffer, rank in zip(buffers, ranks, strict=True):
        _check_buffer(buffer, numel, codec)
        _check_static(codec, calibration, rank, start)
    found = _backend(backend, codec)
    if not numel:
        return buffers[0].new_empty(0, dtype=torch.float32)
    copies = [dense(buffer) for buffer in buffers]
    return found.reduce_flat(copies, numel, codec, calibration=calibration, ranks=ranks, start=start)


def encode_rows(x_RD: Tensor, codec: Codec, backend: str = "torch", *, index_M: Tensor | None = None) -> Tensor:
    """The wire buffer of rows [R, D], or of those at `index_M` in its order: uint8 [codec.wire_bytes(M * row_values)].

    Each row is filled up with zeros to whole groups (`core.tokens.row_values`), so its codes are those of the row by
    itself. index_M: int64, places may come more than once. Raises ValueError for tensors of other shapes and types, as
    `check_index` does, and for a codec that needs a calibration.
    """
    if x_RD.dim() != 2:
        raise ValueError(f"rows must be [rows, width]: shape={list(x_RD.shape)}")
    rows = x_RD.shape[0] if index_M is None else index_M.numel()
    return encode_messages(x_RD, [rows], codec, backend, index_M=index_M)[0]


def encode_messages(
    x_RD: Tensor, counts: Sequence[int], codec: Codec, backend: str = "torch", *, index_M: Tensor | None = None
) -> list[Tensor]:
    """`encode_rows` of runs of `counts` rows, a buffer each: one launch for all of them on a GPU.

    Raises ValueError as that does, and for counts that are not all of the rows.
    """
    rows = x_RD.shape[0] if index_M is None else index_M.numel()
    if sum(counts) != rows:
        raise ValueError(f"counts must be all of {rows} rows: {sum(counts)}")
    _check_float("rows", x_RD.dtype)
    _check_rows(codec)
    check_index(index_M, x_RD.shape[0])
    found = _backend(backend, codec)
    each = row_values(codec, x_RD.shape[1])
    fused = getattr(found, "encode_rows", None)
    if rows and fused is not None and (buffer := fused(x_RD.detach(), index_M, counts, codec)) is not None:
        return list(torch.split(buffer, [codec.wire_bytes(count * each) for count in counts]))
    chosen_MD = x_RD if index_M is None else x_RD.index_select(0, index_M)
    filled = torch.nn.functional.pad(chosen_MD.detach(), (0, each - x_RD.shape[1]))
    return [encode_flat(part.reshape(-1), codec, backend) for part in torch.split(filled, list(counts))]


def decode_rows(
    buffer: Tensor, out_RD: Tensor, codec: Codec, backend: str = "torch", *, index_M: Tensor | None = None
) -> None:
    """The rows of a wire buffer into those of `out_RD` [R, D], all in order or to the places `index_M`, each once.

    Raises ValueError as `encode_rows` does, and for a buffer of another length.
    """
    _check_float("out", out_RD.dtype)
    _check_rows(codec)
    check_index(index_M, out_RD.shape[0])
    width = out_RD.shape[1]
    each, rows = row_values(codec, width), out_RD.shape[0] if index_M is None else index_M.numel()
    _check_buffer(buffer, rows * each, codec)
    found = _backend(backend, codec)
    if not rows:
        return
    fused = getattr(found, "decode_rows", None)
    if fused is not None and fused(dense(buffer), out_RD, index_M, codec):
        return
    rows_MD = decode_flat(buffer, rows * each, codec, backend, dtype=out_RD.dtype).view(rows, each)[:, :width]
    if index_M is None:
        out_RD.copy_(rows_MD)
    else:
        out_RD[index_M] = rows_MD


def combine_rows(
    buffers: Sequence[Tensor],
    counts: Sequence[int],
    place_TA: Tensor,
    weight_TA: Tensor,
    width: int,
    codec: Codec,
    backend: str = "torch",
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Tokens [T, D]: the sum over choices A of weight times the row received, added in fp32 and in their order.

    buffers: messages of `counts` rows. place_TA: int64, numbers of the rows received, over all messages, below 0 for a
    choice that has none. weight_TA: fp32. Raises ValueError as `decode_rows` does, and for other shapes and types.
    """
    if place_TA.dim() != 2 or place_TA.shape != weight_TA.shape or len(buffers) != len(counts):
        raise ValueError(
            f"places and weights are [tokens, choices], counts for each buffer: given {list(place_TA.shape)}, "
            f"{list(weight_TA.shape)}, {len(counts)} and {len(buffers)}"
        )
    if (place_TA.dtype, weight_TA.dtype) != (torch.int64, torch.float32):
        raise ValueError(f"places are int64, weights float32: given {place_TA.dtype} and {weight_TA.dtype}")
    rows_MD = torch.empty(sum(counts), width, dtype=torch.float32, device=place_TA.device)
    for buffer, rows in zip(buffers, torch.split(rows_MD, list(counts)), strict=True):
        decode_rows(buffer, rows, codec, backend)
    total_TD = torch.zeros(len(place_TA), width, dtype=torch.float32, device=place_TA.device)
    for place_T, weight_T in zip(place_TA.T, weight_TA.T, strict=True):
        there_T1 = (place_T >= 0)[:, None]
        more_TD = weight_T[:, None] * rows_MD[place_T.clamp(min=0)] if len(rows_MD) else total_TD
        total_TD = torch.where(there_T1, total_TD + more_TD, total_TD)
    return total_TD.to(dtype)


def check_index(index_M: Tensor | None, rows: int) -> None:
    """ValueError unless it is int64 places [M] among so many rows. On a GPU places are not read: that would wait for
    all that was launched before.
    """
    if index_M is None:
        return
    if index_M.dim() != 1 or index_M.dtype != torch.int64:
        raise ValueError(f"index must be int64 [rows]: given {index_M.dtype} {list(index_M.shape)}")
    if index_M.device.type != "cpu":
        return
    wrong_W = index_M[(index_M < 0) | (index_M >= rows)]
    if len(wrong_W):
        allowed = f"places of the {rows} rows, 0..{rows - 1}" if rows else "empty, there being no rows"
        raise ValueError(f"index must be {allowed}: given {int(wrong_W[0])}")


def _check_rows(codec: Codec) -> None:
    if codec.needs_calibration:
        raise ValueError(f"rows are encoded without a calibration, which {codec.spec} needs")


def _backend(name: str, codec: Codec) -> Backend:
    """The backend called `name`, or for a codec that it has no kernels for the one that runs every codec's own."""
    found = find_backend(name)
    return found if entry_of(codec).kernels else find_backend("torch")


def _check_float(what: str, dtype: torch.dtype) -> None:
    if dtype not in FLOATS:
        raise ValueError(f"{what} must be one of {', '.join(map(str, FLOATS))}: given {dtype}")


def _check_static(codec: Codec, calibration: Calibration | None, rank: int | None, start: int) -> None:
    if start < 0:
        raise ValueError(f"start must not be negative: start={start}")
    if not codec.needs_calibration:
        return
    if calibration is None:
        raise ValueError(f"codec {codec.spec} has static scales and needs a calibration: calibration=None")
    if rank is not None and not 0 <= rank < calibration.ranks:
        raise ValueError(f"rank must lie in 0..{calibration.ranks - 1}, or be None for the sum: rank={rank}")


def _check_buffer(buffer: Tensor, numel: int, codec: Codec) -> None:
    expected = codec.wire_bytes(numel)
    if buffer.dtype != torch.uint8 or buffer.dim() != 1 or not buffer.is_contiguous() or buffer.numel() != expected:
        raise ValueError(
            f"a buffer of {numel} values in {codec.spec} is contiguous uint8 [{expected}]: "
            f"given {buffer.dtype} {list(buffer.shape)}"
        )
