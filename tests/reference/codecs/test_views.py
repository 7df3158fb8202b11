"""Tensors as callers hold them: one value or none of any stride, expanded, transposed, reversed, lazily negated, off
the grid of a wider type. Every codec gives the bytes and values of a plain copy, and reads buffers that stand anywhere.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from thinwire.reference.allreduce import RAW_FORMATS, all_reduce_local
from thinwire.reference.catalog import schemes
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.codecs.layout import dense
from thinwire.reference.codecs.packing import pack, unpack
from thinwire.reference.core.scheme import Codec, OutlierHybrid, Raw
from thinwire.reference.quantize import decode, decode_flat, encode, reduce_flat

torch.set_num_threads(1)
CODECS = sorted(
    {Raw("bf16"), Raw("fp16"), Raw("fp32")} | {c for s in schemes().values() for c in (s.reduce, s.gather)},
    key=lambda codec: codec.spec,
)
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {  # of 4096 values
    "none": lambda x: x[:0],
    "none, strided": lambda x: x[::2][:0],
    "none, in two dimensions": lambda x: x.view(64, 64)[:0, ::3],
    "one, strided": lambda x: x.as_strided((1,), (7,), 3),
    "one, of a column": lambda x: x.view(64, 64)[:1, 3:4],
    "one, in two dimensions": lambda x: x.as_strided((1, 1), (13, 5), 1),
    "one, expanded": lambda x: x[5].expand(1, 1, 1),
    "scalar": lambda x: x[5],
    "expanded": lambda x: x[3].expand(130),
    "expanded rows": lambda x: x[:3].view(3, 1).expand(3, 64),
    "transposed": lambda x: x.view(64, 64)[:, 5:9].t(),
    "every third": lambda x: x[::3],
    "columns": lambda x: x.view(64, 64)[:, 1:4],
    "reversed": lambda x: x.flip(0)[5:200],
    "negated": lambda x: torch._neg_view(x)[1:200],
    "one, negated": lambda x: torch._neg_view(x).as_strided((1,), (7,), 3),
    **{f"from value {start}": lambda x, start=start: x[start : start + 129] for start in (1, 2, 3, 5)},  # type: ignore[misc]
}


def plain(x: Tensor) -> Tensor:
    """The same values in memory of their own."""
    found = torch.empty(x.shape, dtype=x.dtype)
    found.copy_(x)
    assert found.is_contiguous() and not found.is_neg()
    return found


def extra(codec: Codec, x: Tensor) -> dict[str, Any]:
    if not (isinstance(codec, OutlierHybrid) and codec.scale == "static"):
        return {}
    features = x.shape[-1] if x.dim() > 1 else 64
    return {"calibration": Calibration(torch.full((2, features), 3.0), torch.full((features,), 6.0)), "rank": 0}


def base(dtype: torch.dtype) -> Tensor:
    return torch.randn(4096, generator=torch.Generator().manual_seed(0)).to(dtype)


def same(a: Tensor, b: Tensor) -> bool:
    """The same bits."""
    return a.shape == b.shape and torch.equal(dense(a.reshape(-1)).view(torch.uint8), b.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("dtype", RAW_FORMATS, ids=str)
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_encoded_as_its_copy(view: str, dtype: torch.dtype) -> None:
    x = VIEWS[view](base(dtype))
    kept = plain(x)
    for codec in CODECS:
        given = extra(codec, x)
        packed, expected = encode(x, codec, **given), encode(kept, codec, **given)
        assert torch.equal(packed.buffer, expected.buffer), codec.spec
        assert packed.buffer.stride() == (1,) and packed.buffer.storage_offset() == 0
        found = decode(packed, **given)
        assert found.dtype == dtype and same(found, decode(expected, **given)), codec.spec
        if isinstance(codec, Raw) and codec.format in ("fp32", RAW_FORMATS[dtype]):
            assert same(found, kept), codec.spec
    assert same(plain(x), kept)  # read only


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.spec)
@pytest.mark.parametrize("numel", [1, 2, 65, 300])
def test_a_buffer_may_start_at_any_byte(codec: Codec, numel: int) -> None:
    """Of its storage, and where the storage itself starts at an odd address."""
    x = base(torch.float32)[:numel]
    given = extra(codec, x)
    buffer = encode(x, codec, **given).buffer
    expected = decode_flat(buffer, numel, codec, **given)
    ranks = {"calibration": given.get("calibration"), "ranks": [0, 1]}
    summed = reduce_flat([buffer, buffer], numel, codec, **ranks)
    memory = bytearray(buffer.numel() + 16)
    for start in range(1, 9):
        for room in (torch.zeros(buffer.numel() + 16, dtype=torch.uint8)[start:],
                     torch.frombuffer(memory, dtype=torch.uint8, offset=start)):  # fmt: skip
            moved = room[: buffer.numel()].copy_(buffer)
            assert torch.equal(decode_flat(moved, numel, codec, **given), expected)
            assert torch.equal(reduce_flat([moved, buffer], numel, codec, **ranks), summed)


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_summed_as_its_copy(view: str) -> None:
    for name in ("bf16", "bf16-ring", "all_gather:fp32", "flash-int4", "mxfp6"):
        partials = [VIEWS[view](base(torch.float32) * scale) for scale in (1, 2)]
        found, expected = all_reduce_local(partials, name), all_reduce_local([plain(x) for x in partials], name)
        assert all(same(a, b) for a, b in zip(found, expected, strict=True)), name


def test_dense_copies_only_what_is_not() -> None:
    x = base(torch.float32)
    for view in (x, x[3:9], x[:0], x.as_strided((1,), (7,), 3), x[::2][:0]):
        found = dense(view)
        assert found.stride() == (1,) and found.data_ptr() == view.data_ptr() and torch.equal(found, view)
    for view in (x[::2], x[3].expand(9), torch._neg_view(x)):
        found = dense(view)
        assert found.stride() == (1,) and not found.is_neg() and torch.equal(found, view)
        assert found.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()


@pytest.mark.parametrize("bits", range(1, 9))
def test_planes_of_few_codes_of_any_stride(bits: int) -> None:
    room = torch.randint(2**bits, (200,), dtype=torch.uint8, generator=torch.Generator().manual_seed(bits))
    for codes in (room[::3][:0], room.as_strided((1,), (7,), 3), room.as_strided((8,), (7,), 3), room[3].expand(16)):
        parts = pack(codes, bits)
        assert torch.equal(unpack(parts, bits, codes.numel()), codes)
        strided = [part.new_zeros(999)[:: 999 // max(1, part.numel())][: part.numel()].copy_(part) for part in parts]
        strided = [part.as_strided(part.shape, (5,)) if part.numel() < 2 else part for part in strided]
        assert torch.equal(unpack(strided, bits, codes.numel()), codes)


def test_a_calibration_of_one_feature_of_any_stride_has_a_fingerprint() -> None:
    room = torch.ones(64)
    strided = Calibration(room.as_strided((1, 1), (13, 5)), room.as_strided((1,), (5,)))
    assert strided.fingerprint == Calibration(torch.ones(1, 1), torch.ones(1)).fingerprint
