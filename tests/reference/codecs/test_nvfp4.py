"""NVFP4 against ml_dtypes in float64 and torchao: every block scale, every element, blocks of every kind."""

import contextlib
import io
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from thinwire.reference.codecs.error import bound
from thinwire.reference.codecs.packing import unpack
from thinwire.reference.core.formats import scale_cap
from thinwire.reference.core.nvfp4 import BLOCK, NVFP4, TOP
from thinwire.reference.quantize import Packed, decode, encode

from .codecs import normal, same_bits

E2M1, E4M3 = ml_dtypes.float4_e2m1fn, ml_dtypes.float8_e4m3fn


def parts_of(values: Tensor, codec: NVFP4) -> tuple[Tensor, Tensor, Tensor]:
    """(codes [rows, blocks, 16], block scale bytes [rows, blocks], row scales [rows])."""
    views = encode(values, codec).sections()
    codes = unpack([views["plane4"]], 4, values.numel()).view(-1, codec.row // BLOCK, BLOCK)
    return codes, views["scales"].view(-1, codec.row // BLOCK), views["row_scales"].view(torch.float32)


def kinds(codec: NVFP4, rows: int = 12) -> dict[str, Tensor]:
    """Rows that hit different edges, bf16 as activations are."""
    size = rows * codec.row
    found = {"normal": normal(size), "wide": normal(size, seed=2) * torch.exp2(normal(size, seed=3) * 6)}
    found["outliers"] = normal(size, seed=1)
    found["outliers"][:: codec.row] = 3e4  # the row's other blocks fall into e4m3's subnormals, or to zero
    found["powers"] = torch.exp2(torch.randint(-12, 12, (size,), generator=torch.Generator().manual_seed(4)).float())
    found["tiny"], found["huge"] = normal(size, seed=5) * 2.0**-120, normal(size, seed=6) * 2.0**122
    found["zeros"] = torch.zeros(size)
    return {name: values.bfloat16().float() for name, values in found.items()}


@pytest.mark.parametrize("kind", kinds(NVFP4(256)))
def test_rows_against_ml_dtypes(kind: str) -> None:
    codec = NVFP4(256)
    values = kinds(codec)[kind]
    codes, blocks, rows = parts_of(values, codec)
    x_GBK = values.numpy().reshape(-1, codec.row // BLOCK, BLOCK)
    amax_GB = np.abs(x_GBK).max(2)
    expected_G = amax_GB.max(1) / np.float32(TOP)
    assert np.array_equal(rows.numpy(), expected_G)
    with np.errstate(divide="ignore", invalid="ignore"):
        wanted_GB = np.where(expected_G[:, None] > 0, amax_GB / (expected_G[:, None] * np.float32(6)), np.float32(0))
        expected_GB = np.minimum(wanted_GB, np.float32(448)).astype(E4M3)
        scale_GB = expected_GB.astype(np.float32) * expected_G[:, None]
        scaled_GBK = np.where(scale_GB[..., None] > 0, x_GBK / scale_GB[..., None], np.copysign(np.float32(0), x_GBK))
    expected_GBK = np.clip(scaled_GBK, -6, 6).astype(E2M1)
    assert np.array_equal(blocks.numpy(), expected_GB.view(np.uint8))
    assert np.array_equal(codes.numpy(), expected_GBK.view(np.uint8))
    levels = expected_GBK.astype(np.float32) * expected_GB.astype(np.float32)[..., None]  # exact
    restored = levels * expected_G[:, None, None]
    assert np.array_equal(decode(encode(values, codec)).numpy().reshape(restored.shape), restored)


def test_every_block_scale_and_every_element_decode() -> None:
    """All 256 bytes where block scales stand, NaN and negative ones too, and all 16 elements under each of them."""
    codec = NVFP4(4096)
    for row in (1.0, 0.375, 2.0**-140, 2.0**100, 1e-3):
        packed = encode(torch.ones(codec.row), codec)
        views = packed.sections()
        views["scales"].copy_(torch.arange(256))
        views["plane4"].copy_((torch.arange(8) * 0x22 + 0x10).to(torch.uint8).repeat(256))
        views["row_scales"].view(torch.float32).fill_(row)
        found = decode(packed).view(256, 16)
        block = np.arange(256, dtype=np.uint8).view(E4M3).astype(np.float32)[:, None]
        expected = (np.arange(16, dtype=np.uint8).view(E2M1).astype(np.float32) * block) * np.float32(row)
        expected = torch.from_numpy(expected)
        number = ~expected.isnan()
        assert torch.equal(found.isnan(), expected.isnan()) and int((~number).sum()) == 32
        assert same_bits(found[number], expected[number])


def test_every_bf16_number_as_a_blocks_largest() -> None:
    """Beside a block of 2688 or more in its row, so that the row scale is its own whatever the block is."""
    amax = torch.arange(0, 0x7F80, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    codec = NVFP4(32)
    values = torch.zeros(len(amax), 2, BLOCK)
    values[:, 0, 3], values[:, 0, 5] = amax, -amax / 3
    values[:, 1, 0] = amax.clamp_min(TOP)
    _, blocks, rows = parts_of(values.view(-1), codec)
    row = np.minimum(np.maximum(amax.numpy(), np.float32(TOP)) / np.float32(TOP), np.float32(scale_cap("fp32", TOP)))
    assert np.array_equal(rows.numpy(), row)
    expected = np.minimum(amax.numpy() / (row * np.float32(6)), np.float32(448)).astype(E4M3).view(np.uint8)
    assert np.array_equal(blocks[:, 0].numpy(), expected)
    assert (blocks[amax >= TOP, 0] == 0x7E).all() and (blocks[amax < 2.0**-8, 0] == 0).all()


def torchao() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return pytest.importorskip(
            "torchao.prototype.mx_formats.nvfp4_tensor", reason="torchao is not installed"
        ).nvfp4_quantize


@pytest.mark.parametrize("kind", ["normal", "wide", "powers", "outliers"])
def test_rows_against_torchao(kind: str) -> None:
    """Row by row, for there the fp32 scale is the tensor's. Scales agree but below 2^-6, where torchao clamps; codes
    where they do, but for quotients that its product with a reciprocal takes over a tie.
    """
    codec, quantise = NVFP4(256), torchao()
    values = kinds(codec)[kind]
    codes, blocks, rows = parts_of(values, codec)
    compared = differing = 0
    for row, x in enumerate(values.view(-1, codec.row)):
        scales, packed = quantise(x[None], BLOCK, rows[row])
        theirs = scales.view(torch.uint8).reshape(-1)
        ordinary = theirs > 0x08  # 2^-6, the least that torchao sends
        assert torch.equal(theirs[ordinary], blocks[row][ordinary])
        assert (blocks[row][~ordinary] <= 0x08).all()
        nibbles = torch.stack((packed.view(torch.uint8) & 15, packed.view(torch.uint8) >> 4), -1).view(-1, BLOCK)
        compared += int(ordinary.sum()) * BLOCK
        differing += int((nibbles[ordinary] != codes[row][ordinary]).sum())
    assert compared > 400 and differing <= compared // 1000


def test_small_blocks_beside_a_large_one_are_where_torchao_differs() -> None:
    values = torch.cat((torch.full((BLOCK,), TOP), torch.full((BLOCK,), 0.03)))
    _, blocks, rows = parts_of(values, NVFP4(32))
    scales, _ = torchao()(values[None], BLOCK, rows[0])
    assert scales.view(torch.uint8).flatten().tolist() == [0x7E, 0x08]  # 2^-6: 0.03 comes back as a third of itself
    assert blocks.tolist() == [[0x7E, 0x03]]  # 3 x 2^-9: 0.005 wanted
    assert float(decode(encode(values, NVFP4(32)))[-1]) == pytest.approx(0.03, rel=0.25)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_makes_its_row_nan_with_the_same_bytes(value: float) -> None:
    codec = NVFP4(48)
    values = normal(3 * codec.row)
    values[codec.row + 17] = value
    views = encode(values, codec).sections()
    found = decode(encode(values, codec)).view(3, -1).isnan()
    assert found.all(1).tolist() == [False, True, False] and int(found.sum()) == codec.row
    assert views["row_scales"].view(torch.int32)[1] == 0x7FC00000
    assert not views["scales"].view(3, -1)[1].any() and not views["plane4"].view(3, -1)[1].any()


def test_encoding_again_repeats_values_where_block_scales_are_normal() -> None:
    codec, values = NVFP4(256), normal(64 * 256)
    once = decode(encode(values, codec))
    assert torch.equal(decode(encode(once, codec)), once)
    # The least scale, 2^-9, is twice what is wanted: codes end at 3, and half of that scale is rounded to none.
    small = torch.cat((torch.full((BLOCK,), TOP), torch.full((BLOCK,), 6 * 0.52 * 2.0**-9)))
    once = decode(encode(small, NVFP4(32)))
    assert once[-1] == 3 * 2.0**-9 and decode(encode(once, NVFP4(32)))[-1] == 0


@pytest.mark.parametrize("kind", kinds(NVFP4(256)))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bounds_hold_and_are_reached(kind: str, dtype: torch.dtype) -> None:
    for codec in (NVFP4(16), NVFP4(256), NVFP4()):
        values = kinds(codec, 3)[kind]
        wrong = (decode(encode(values, codec), dtype=dtype).double() - values.double()).abs()
        limit = bound(values, codec, dtype=dtype)
        assert (wrong <= limit)[values.abs() <= torch.finfo(dtype).max].all()  # others saturate
        if kind in ("normal", "wide") and dtype == torch.float32:
            assert float((wrong / limit).max()) > 0.9


def test_a_record_is_flashinfers_but_for_its_order() -> None:
    """3072 bytes of values, 384 of scales and 4 of the row's scale; nobody's padding beside them."""
    packed: Packed = encode(normal(4 * 6144), NVFP4())
    assert {name: view.numel() for name, view in packed.sections().items()} == {
        "plane4": 4 * 3072, "scales": 4 * 384, "row_scales": 16,
    }  # fmt: skip
    assert packed.buffer.numel() == 4 * 3460
