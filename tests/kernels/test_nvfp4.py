"""NVFP4 on kernels, and scales in slots wider than they are: the reference's bytes and values, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from thinwire.kernels.decode import decode_into
from thinwire.kernels.encode import encode_into
from thinwire.kernels.form import MOST_VALUES, form, parts
from thinwire.kernels.launch import Tuning
from thinwire.kernels.numbers import INTERPRETED
from thinwire.kernels.reduce import reduce_into, requantise_into
from thinwire.kernels.two_step import TwoStep
from thinwire.reference.allreduce import all_reduce_local
from thinwire.reference.catalog import parse_codec
from thinwire.reference.core.nvfp4 import BLOCK, NVFP4, TOP
from thinwire.reference.core.scheme import MX
from thinwire.reference.quantize import encode_flat

from .inputs import DTYPES, POISON, check_decode, check_encode, copies, same
from .test_quotients import fuse_in_the_interpreter

ROWS = (16, 48, 256, 1000 // 16 * 16, 6144)


def values_of(codec: NVFP4, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Rows of every kind: ordinary, of all magnitudes, with blocks that fall to subnormal scales and to zero, zeros of
    either sign, ties between codes, and what is no number.
    """
    generator = torch.Generator().manual_seed(seed)
    low, high = {torch.float16: (-24, 15), torch.bfloat16: (-133, 127), torch.float32: (-149, 127)}[dtype]
    rows = 40 if codec.row < 1000 else 9
    x = torch.randn(rows, codec.row, generator=generator, dtype=torch.float64)
    x[1:] *= 2.0 ** torch.linspace(low, high, rows - 1).round()[:, None].double()
    x[2, ::2], x[2, 1::2] = 0.0, -0.0
    blocks = x.view(rows, -1, BLOCK)
    blocks[3::4] *= 2.0 ** torch.randint(-20, 1, blocks[3::4, :, :1].shape, generator=generator)
    # Scales that are powers of two and codes halfway between elements: ties, and their neighbours.
    halves = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0], dtype=torch.float64)
    blocks[4] = halves[torch.randint(0, 8, blocks[4].shape, generator=generator)]
    blocks[4, 0, 0] = TOP
    blocks[5] = blocks[4] * (1 + 2.0**-7)
    x = x.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
    x[-1, 1], x[-2, codec.row - 1] = float("nan"), -float("inf")
    return x.reshape(-1)


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("row", ROWS)
def test_bytes_and_values(row: int, source: str, device: torch.device) -> None:
    codec, dtype = NVFP4(row), DTYPES[source]
    x = values_of(codec, dtype)
    for numel in (1, row - 1, row + 1, 3 * row + 5, x.numel()):
        buffer = check_encode(x[-numel:] if numel < x.numel() else x, codec, device)
        check_decode(buffer, numel, codec, dtype, device)
    for target in DTYPES.values():
        if target != dtype:
            check_decode(buffer, x.numel(), codec, target, device)


@pytest.mark.parametrize("row", [32, 4096])
def test_every_byte_decodes_alike(row: int, device: torch.device) -> None:
    """All 256 block scales over all 16 elements, NaN and negative scales too, and bytes nobody wrote."""
    codec = NVFP4(row)
    numel = 8192
    views = parse_codec("nvfp4").offsets(1)  # the order of sections is the codec's
    assert views[0] == 0
    buffer = torch.zeros(codec.wire_bytes(numel), dtype=torch.uint8)
    planes, scales, rows = codec.offsets(numel)
    generator = torch.Generator().manual_seed(1)
    buffer[planes:scales] = torch.randint(0, 256, (scales - planes,), generator=generator, dtype=torch.uint8)
    buffer[scales : scales + numel // BLOCK] = torch.arange(numel // BLOCK).to(torch.uint8)
    row_scales = torch.randn(numel // row, generator=generator) * 2.0 ** torch.linspace(-140, 100, numel // row)
    buffer[rows : rows + 4 * (numel // row)] = row_scales.view(torch.uint8)
    for dtype in DTYPES.values():
        check_decode(buffer, numel, codec, dtype, device)
    wild = torch.randint(0, 256, buffer.shape, generator=generator, dtype=torch.uint8)
    check_decode(wild, numel, codec, torch.bfloat16, device)


def test_every_bf16_number_as_a_blocks_largest(device: torch.device) -> None:
    amax = torch.arange(0, 0x7F80, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    values = torch.zeros(len(amax), 2, BLOCK, dtype=torch.bfloat16)
    values[:, 0, 3], values[:, 0, 5] = amax, -amax
    values[:, 1, 0] = amax.float().clamp_min(TOP).bfloat16()
    check_encode(values.view(-1), NVFP4(32), device)


@pytest.mark.skipif(not INTERPRETED.value, reason="a GPU fuses by itself")
@pytest.mark.parametrize("source", ["fp32", "bf16"])
def test_a_gpus_quotients_in_the_interpreter(
    source: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a multiply-add that rounds once, as `test_quotients` has it for one scale a group."""
    used = fuse_in_the_interpreter(monkeypatch)
    with np.errstate(all="ignore"):
        for row in (48, 256):
            check_encode(values_of(NVFP4(row), DTYPES[source]), NVFP4(row), device)
    assert used


@pytest.mark.parametrize("tuning", [Tuning(64, 1), Tuning(1024, 8)], ids=str)
def test_tiles_and_parts_change_no_byte(tuning: Tuning, device: torch.device) -> None:
    codec, numels = NVFP4(48), (3 * 48, 48, 5, 0)
    x = values_of(codec, torch.bfloat16)[: sum(numels)].to(device)
    layout = parts(codec, numels, device)
    wire = torch.full((1, 4, max(layout.nbytes) + 32), POISON, dtype=torch.uint8, device=device)
    encode_into(x, wire, layout, tuning)
    found = torch.zeros_like(x)
    decode_into(wire, found, layout, tuning)
    start = 0
    for part, numel in enumerate(numels):
        expected = encode_flat(x[start : start + numel].cpu(), codec)
        assert torch.equal(wire[0, part, : len(expected)].cpu(), expected)
        assert (wire[0, part, len(expected) :] == POISON).all()
        start += numel


@pytest.mark.parametrize("row", [48, 256])
@pytest.mark.parametrize("ranks", [2, 8, 11])
def test_sums_and_sums_encoded_again(row: int, ranks: int, device: torch.device) -> None:
    codec = NVFP4(row)
    numel = 7 * row - 3
    x = torch.stack([values_of(codec, torch.bfloat16, seed)[:numel].nan_to_num(1.0) for seed in range(ranks)])
    layout = parts(codec, (numel,), device)
    wire, total = copies(codec, x, ((0, numel),), -(-layout.nbytes[0] // 16) * 16)
    found = torch.zeros(numel, device=device)
    reduce_into(wire.to(device), found, layout)
    assert same(found.cpu(), total)
    again = torch.full((2, 1, wire.shape[-1]), POISON, dtype=torch.uint8, device=device)
    if row == 48:
        with pytest.raises(ValueError, match="groups must be powers of two: nvfp4-r48"):
            requantise_into(wire.to(device), layout, again, layout)
        return
    requantise_into(wire.to(device), layout, again, layout)
    expected = encode_flat(total, codec)
    for sums in again:
        assert torch.equal(sums[0, : len(expected)].cpu(), expected)


@pytest.mark.parametrize(
    ("name", "ranks", "numel"),
    [("nvfp4-one-shot", 2, 13_000), ("nvfp4-two-shot", 3, 13_000), ("two_step:nvfp4-r256/int8-g128-sym-fp32", 2, 2000)],
)
def test_all_reduces_of_several_rows(name: str, ranks: int, numel: int, device: torch.device) -> None:
    values = torch.stack([values_of(NVFP4(), torch.bfloat16, seed)[:numel].nan_to_num(1.0) for seed in range(ranks)])
    runner = TwoStep(name, ranks, numel, torch.bfloat16, device)
    got = runner.run(values.to(device)).cpu()
    for rank, want in enumerate(all_reduce_local(list(values), name)):
        assert same(got[rank], want)


@pytest.mark.parametrize(
    "spec", ["mx-e4m3-b496-fp32-s16", "mx-e2m1-b32-s16", "mx-int8-b48-bf16-s4", "mx-e3m2-b8-fp32-s8"]
)
@pytest.mark.parametrize("source", DTYPES)
def test_slots(spec: str, source: str, device: torch.device) -> None:
    """What lies behind a scale is zero when written, and not looked at when read."""
    codec = parse_codec(spec)
    assert isinstance(codec, MX) and codec.slot
    dtype = DTYPES[source]
    x = values_of(NVFP4(48), dtype)[:1900]
    for numel in (1, codec.block - 1, codec.block + 1, 1900):
        check_decode(check_encode(x[:numel], codec, device), numel, codec, dtype, device)
    wild = torch.randint(
        0, 256, (codec.wire_bytes(1900),), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    check_decode(wild, 1900, codec, dtype, device)


def test_rows_that_no_tile_holds_are_refused() -> None:
    assert form(NVFP4(MOST_VALUES)).blocks == MOST_VALUES // BLOCK
    with pytest.raises(ValueError, match="triton kernels take rows up to 32768 values: given nvfp4-r32784"):
        form(NVFP4(MOST_VALUES + BLOCK))
