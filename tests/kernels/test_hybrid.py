"""Outlier hybrids on kernels: the reference's bytes and values, to the bit, dynamic and static.

`python -m pytest tests/kernels/test_hybrid.py`; on a CPU in Triton's interpreter, whose time follows the number of
programs and not that of values.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from thinwire.kernels import hybrid_dynamic, hybrid_static
from thinwire.kernels.form import hybrid_form, parts
from thinwire.kernels.launch import Tuning
from thinwire.kernels.reduce import UNROLLED_RANKS
from thinwire.kernels.static_tables import MOST_FEATURES, StaticParts, static_parts
from thinwire.reference.catalog import parse_codec
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.core.scheme import OutlierHybrid
from thinwire.reference.quantize import decode_flat, encode_flat, reduce_flat

from .inputs import DTYPES, POISON, RANGE, RAW_BITS, same

# The interpreter is numpy, which warns of what the tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
SMALL = Tuning(1024, 4)  # several programs for a small tensor
TYPES = tuple(DTYPES.values())


def dynamic(bits: int, keep: int, times: int = 1) -> OutlierHybrid:
    return OutlierHybrid(bits, keep, "dynamic", keep * times)


def static(bits: int, keep: int) -> OutlierHybrid:
    return OutlierHybrid(bits, keep, "static", keep)


# ---- inputs


def awkward(codec: OutlierHybrid, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Whole groups of every kind, flat, in a random order: see the comments."""
    generator = torch.Generator().manual_seed(seed)
    group, keep = codec.group, codec.keep_one_in
    top = (1 << (codec.bits - 1)) - 1
    low, high = RANGE[dtype]
    largest = torch.finfo(dtype).max

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, group, generator=generator, dtype=torch.float64)

    def whole(low: int, high: int, rows: int) -> Tensor:
        return torch.randint(low, high + 1, (rows, group), generator=generator).double()

    exponents = torch.linspace(low - 1, high, 12, dtype=torch.float64).round()[:, None]
    # Many equal magnitudes of either sign: the first is kept.
    equal = torch.cat([whole(0, 1, 3) * 2 - 1, whole(-2, 2, 2), torch.full((1, group), -3.25).double()])
    # A step of one power of two, a kept value far above, and the rest on ties between two codes or beside them.
    ties = (whole(-top, top - 1, 6) + 0.5) * (1 + whole(-1, 1, 6) * whole(0, 1, 6) * 2.0**-7)
    ties[:, ::keep], ties[:, 1::keep] = 3.0 * (top + 1), top
    ties *= 2.0 ** torch.tensor([0, 1, -7, -100, 90, low + 12]).double()[:, None].clamp(low + 8, high - 8 - codec.bits)
    spiked = normal(5)
    spiked[0, -1], spiked[1, 0], spiked[2, group // 2] = largest, -largest, largest / 2
    spiked[3:] *= 2.0 ** (high - 3)  # scales at the end of their range
    zeros = torch.zeros(4, group, dtype=torch.float64)
    zeros[1] = -0.0
    zeros[2, -1], zeros[3, :2] = 2.0**low, -0.0
    rows = torch.cat([normal(4), normal(12) * 2.0**exponents, equal, ties, spiked, zeros])
    found = rows.clamp(-largest, largest).to(dtype)
    bad = normal(6).to(dtype)
    bad[0, 0], bad[1, -1], bad[2, group // 2], bad[3, :2] = math.nan, math.inf, -math.inf, math.inf
    bad[4] = math.nan
    bad.view(RAW_BITS[dtype])[5, 1] = -1  # a NaN with its sign and all of its payload set
    found = torch.cat([found, bad])
    return found[torch.randperm(len(found), generator=generator)].reshape(-1)


def tails(codec: OutlierHybrid, numel: int) -> tuple[int, ...]:
    """One value, around a block, around a group, around eight blocks, ragged and all of it."""
    keep, group = codec.keep_one_in, codec.group
    found = {1, keep - 1, keep, keep + 1, group + 1, 8 * keep - 1, 3 * group + keep // 2 + 1, numel}
    return tuple(sorted(n for n in found if n <= numel))


def calibration(ranks: int, features: int, seed: int = 0) -> Calibration:
    """Reaches as uneven as activations', with zeros, subnormals and equals among them."""
    generator = torch.Generator().manual_seed(seed)
    reach_RF = torch.rand(ranks, features, generator=generator) * 3
    reach_RF[:, torch.rand(features, generator=generator) < 0.1] *= 30
    reach_RF[:, 1::7] = 1.0
    reach_RF[:, 2::11] = 0.0
    reach_RF[0, 3::13] = 2.0**-140
    return Calibration(reach_RF, reach_RF.sum(0))


def rows_of(ranks: int, numel: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """[R, N] within and beyond what `calibration` says, on ties as well, and not all of it numbers."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(ranks, numel, generator=generator) * 2
    found[torch.rand(ranks, numel, generator=generator) < 0.02] *= 40
    found[:, ::5] = (found[:, ::5] * 2).round() / 2
    found = found.to(dtype)
    for at, value in enumerate((math.nan, math.inf, -math.inf, torch.finfo(dtype).max, -0.0, 2.0 ** RANGE[dtype][0])):
        found[at % ranks, at * 37 % numel] = value
        found[-1, at * 41 % numel] = value
    return found


# ---- what is compared


def poisoned(rows: int, count: int, stride: int, device: torch.device) -> Tensor:
    return torch.full((rows, count, stride), POISON, dtype=torch.uint8, device=device)


def check_dynamic(
    values: Tensor,
    codec: OutlierHybrid,
    tuning: Tuning | None,
    device: torch.device,
    types: tuple[torch.dtype, ...] = TYPES,
) -> None:
    """Bytes, nothing beyond them, and values of every type."""
    numel = values.numel()
    want = encode_flat(values, codec)
    found = parts(codec, (numel,), device)
    wire = poisoned(1, 1, len(want) + 16, device)
    hybrid_dynamic.encode_into(values.to(device), wire, found, tuning)
    assert torch.equal(wire[0, 0, : len(want)].cpu(), want)
    assert bool((wire[0, 0, len(want) :] == POISON).all())
    for dtype in types:
        out = torch.full((numel + 8,), 7.0, dtype=dtype, device=device)
        hybrid_dynamic.decode_into(wire, out[:numel], found, tuning)
        assert same(out[:numel].cpu(), decode_flat(want, numel, codec, dtype=dtype))
        assert bool((out[numel:] == 7.0).all())


def check_static(
    values_RN: Tensor,
    codec: OutlierHybrid,
    known: Calibration,
    ranks: tuple[int | None, ...],
    start: int,
    cuts: tuple[int, ...],
    tuning: Tuning | None,
    device: torch.device,
) -> None:
    """Bytes and values of every row and part, and their sum."""
    numel = values_RN.shape[1]
    edges = tuple(pairwise((0, *cuts, numel)))
    found = static_parts(codec, tuple(b - a for a, b in edges), known, ranks, start, device)
    stride = max(found.nbytes) + 16
    wire = poisoned(len(ranks), len(edges), stride, device)
    hybrid_static.encode_into(values_RN.to(device), wire, found, tuning)
    decoded = torch.full((len(ranks), numel), 7.0, dtype=values_RN.dtype, device=device)
    hybrid_static.decode_into(wire, decoded, found, tuning)
    summed = torch.full((numel,), 7.0, device=device)
    hybrid_static.reduce_into(wire, summed, found, tuning)
    for part, (first, last) in enumerate(edges):
        total = torch.zeros(0)
        for row, rank in enumerate(ranks):
            at = {"calibration": known, "rank": rank, "start": start + first}
            want = encode_flat(values_RN[row, first:last].clone(), codec, **at)
            assert torch.equal(wire[row, part, : len(want)].cpu(), want)
            assert bool((wire[row, part, len(want) :] == POISON).all())
            values = decode_flat(want, last - first, codec, dtype=values_RN.dtype, **at)
            assert same(decoded[row, first:last].cpu(), values)
            exact = decode_flat(want, last - first, codec, **at)
            total = total + exact if row else exact
        assert same(summed[first:last].cpu(), total)


# ---- dynamic

DYNAMIC = [
    dynamic(2, 64), dynamic(3, 8, 4), dynamic(4, 64), dynamic(4, 64, 3), dynamic(4, 2, 2), dynamic(5, 100, 2),
    dynamic(6, 48), dynamic(7, 3, 3), dynamic(8, 256), dynamic(8, 9), dynamic(4, 256, 2), dynamic(5, 2),
]  # fmt: skip


@pytest.mark.parametrize("codec", DYNAMIC, ids=lambda codec: codec.spec)
def test_dynamic_bytes_and_values_are_the_references(codec: OutlierHybrid, device: torch.device) -> None:
    dtype = TYPES[DYNAMIC.index(codec) % 3]
    values = awkward(codec, dtype)
    check_dynamic(values, codec, SMALL if codec.group < 200 else None, device)
    for seed, numel in enumerate(tails(codec, values.numel())):
        dtype = TYPES[seed % 3]
        check_dynamic(awkward(codec, dtype, seed)[:numel], codec, None, device, (dtype,))


@pytest.mark.parametrize("dtype", TYPES, ids=list(DTYPES))
def test_dynamic_hybrid_of_the_catalog_in_every_type(dtype: torch.dtype, device: torch.device) -> None:
    check_dynamic(torch.cat([awkward(dynamic(4, 64), dtype, seed) for seed in range(8)]), dynamic(4, 64), None, device)


def test_dynamic_keeps_any_place_of_a_block(device: torch.device) -> None:
    """Kept places of neighbouring blocks in all combinations: holes in the same word, at its ends, and far apart."""
    for codec in (dynamic(4, 10), dynamic(5, 16), dynamic(3, 5)):
        keep = codec.keep_one_in
        first, second = torch.cartesian_prod(torch.arange(keep), torch.arange(keep)).T
        values = torch.randn(keep * keep, 2, keep, generator=torch.Generator().manual_seed(1))
        values[:, 0].scatter_(1, first[:, None], 50.0)
        values[:, 1].scatter_(1, second[:, None], -50.0)
        check_dynamic(values.view(-1), codec, None, device)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8, UNROLLED_RANKS + 1])
def test_dynamic_parts_of_several_ranks_and_their_sum(ranks: int, device: torch.device) -> None:
    codec = (dynamic(4, 64), dynamic(5, 12), dynamic(4, 20, 2), dynamic(8, 32, 2))[ranks % 4]
    dtype = TYPES[ranks % 3]
    values_RN = torch.stack([awkward(codec, dtype, seed) for seed in range(ranks)])[:, : 20 * codec.group + 3]
    cuts = (8 * codec.group, 13 * codec.group) if ranks < 4 else (13 * codec.group,)
    edges = tuple(pairwise((0, *cuts, values_RN.shape[1])))
    found = parts(codec, tuple(b - a for a, b in edges), device)
    wire = poisoned(ranks, len(edges), max(found.nbytes) + 32, device)
    hybrid_dynamic.encode_into(values_RN.to(device), wire, found)
    decoded = torch.empty(ranks, values_RN.shape[1], dtype=dtype, device=device)
    hybrid_dynamic.decode_into(wire, decoded, found)
    summed = torch.empty(2, values_RN.shape[1], device=device)  # a row for each of two readers
    hybrid_dynamic.reduce_into(wire, summed, found)
    for part, (first, last) in enumerate(edges):
        buffers = [encode_flat(values_RN[rank, first:last].clone(), codec) for rank in range(ranks)]
        for rank, want in enumerate(buffers):
            assert torch.equal(wire[rank, part, : len(want)].cpu(), want)
            assert bool((wire[rank, part, len(want) :] == POISON).all())
            assert same(decoded[rank, first:last].cpu(), decode_flat(want, last - first, codec, dtype=dtype))
        total = reduce_flat(buffers, last - first, codec, ranks=tuple(range(ranks)))
        assert all(same(row[first:last].cpu(), total) for row in summed)


def test_largest_magnitudes_of_every_finite_bf16_number(device: torch.device) -> None:
    """Every bf16 number as the kept value, and again as a value below it."""
    numbers = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    finite = numbers[numbers.isfinite()]
    pairs = torch.stack([finite, finite * 0.37, finite * 0.5, -finite * 0.11], 1)
    check_dynamic(pairs.reshape(-1), dynamic(4, 4), Tuning(1 << 16, 4), device)


# ---- static

STATIC = [static(2, 64), static(3, 8), static(4, 64), static(5, 100), static(6, 48), static(7, 3), static(8, 256)]


@pytest.mark.parametrize("codec", STATIC, ids=lambda codec: codec.spec)
def test_static_bytes_and_values_are_the_references(codec: OutlierHybrid, device: torch.device) -> None:
    """Whole rows, parts of rows, starts in the middle of one, and rows shorter than a tile, longer and odd."""
    at = STATIC.index(codec)
    for features, start, numel in (
        (512, 0, 512 * 5), (512, 200, 512 * 3 + 77), (100, 64, 1031), (700, 1399, 1500), (24, 5, 300),
    ):  # fmt: skip
        at += 1
        ranks = (0, 1) if features == 100 else (1,)
        values_RN = rows_of(len(ranks), numel, TYPES[at % 3], at)
        tuning = SMALL if features == 24 else None
        check_static(values_RN, codec, calibration(2, features, at), ranks, start, (), tuning, device)


@pytest.mark.parametrize("features", [1, 2, 3, 5, 8, 9, 64])
def test_static_short_rows_and_few_values(features: int, device: torch.device) -> None:
    """Rows of fewer than 8 codes, features that do not occur, more kept values than one feature has."""
    for seed, numel in enumerate((1, 2, 7, 64, 65, 331)):
        codec = static(2 + (features + seed) % 7, (2, 3, 64)[seed % 3])
        known = calibration(1, features, seed)
        check_static(rows_of(1, numel, TYPES[seed % 3]), codec, known, (0,), seed * 11, (), None, device)


@pytest.mark.parametrize("ranks", [2, 3, 4, 8, UNROLLED_RANKS + 1])
def test_static_parts_of_several_ranks_and_their_sum(ranks: int, device: torch.device) -> None:
    """Each rank's copy with its own scales, in any order, parts that start in the middle of a row."""
    codec = static((4, 8, 5)[ranks % 3], 64)
    known = calibration(ranks, 160, ranks)
    order: tuple[int | None, ...] = tuple(reversed(range(ranks)))
    values_RN = rows_of(ranks, 64 * 20 + 9, TYPES[ranks % 3], ranks)
    cuts = (64 * 8, 64 * 15) if ranks < 4 else (64 * 13,)
    check_static(values_RN, codec, known, order, 72, cuts, None, device)


def test_static_sums_have_scales_of_their_own(device: torch.device) -> None:
    known = calibration(3, 128)
    check_static(rows_of(2, 1000, torch.bfloat16), static(4, 64), known, (None, 2), 0, (), None, device)
    found = static_parts(static(4, 64), (1000,), known, (None,), 0, device)  # one for all copies
    values_RN = rows_of(2, 1000, torch.bfloat16)
    wire = poisoned(2, 1, max(found.nbytes), device)
    hybrid_static.encode_into(values_RN.to(device), wire, found)
    want = [encode_flat(row.clone(), static(4, 64), calibration=known, rank=None) for row in values_RN]
    assert torch.equal(wire[:, 0].cpu(), torch.stack(want))
    summed = torch.empty(2, 1000, dtype=torch.float16, device=device)  # a row for each of two readers, any type
    hybrid_static.reduce_into(wire, summed, found)
    total = reduce_flat(want, 1000, static(4, 64), calibration=known, ranks=(None, None)).half()
    assert all(same(row.cpu(), total) for row in summed)


def test_static_scales_at_the_end_of_fp32(device: torch.device) -> None:
    """Levels beyond the type's range saturate; an infinite quotient and 0 / 0 are codes all the same."""
    reach_RF = torch.full((1, 64), torch.finfo(torch.float32).max)
    reach_RF[0, ::3] = 2.0**-149
    reach_RF[0, 1::3] = 0.0
    known = Calibration(reach_RF, reach_RF[0])
    for bits in (2, 4):
        values_RN = rows_of(1, 640, torch.float32) * 1e38
        values_RN[0, ::7] = 0.0
        for dtype in TYPES:
            check_static(values_RN.to(dtype), static(bits, 64), known, (0,), 0, (), None, device)


def test_static_every_bf16_number(device: torch.device) -> None:
    numbers = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    check_static(numbers[None], static(4, 64), calibration(1, 96), (0,), 0, (), Tuning(1 << 16, 4), device)


# ---- the backend, and what is refused


def test_backend_takes_hybrids(device: torch.device) -> None:
    known = calibration(3, 96)
    values_RN = rows_of(3, 777, torch.bfloat16)
    for codec, given in ((dynamic(4, 64), {}), (static(4, 64), {"calibration": known, "start": 40})):
        torch_buffers, triton_buffers = [], []
        for rank, row in enumerate(values_RN):
            torch_buffers.append(encode_flat(row, codec, rank=rank, **given))
            triton_buffers.append(encode_flat(row.to(device), codec, "triton", rank=rank, **given))
            assert torch.equal(triton_buffers[-1].cpu(), torch_buffers[-1])
            back = decode_flat(triton_buffers[-1], 777, codec, "triton", rank=rank, dtype=torch.float16, **given)
            assert same(back.cpu(), decode_flat(torch_buffers[-1], 777, codec, rank=rank, dtype=torch.float16, **given))
        want = reduce_flat(torch_buffers, 777, codec, ranks=(0, 1, 2), **given)
        found = reduce_flat(triton_buffers, 777, codec, "triton", ranks=(0, 1, 2), **given)
        assert same(found.cpu(), want)
        assert not encode_flat(torch.empty(0, device=device), codec, "triton", rank=0, **given).numel()


def test_what_hybrid_kernels_refuse(device: torch.device) -> None:
    known = calibration(2, 64)
    codec = static(4, 64)
    with pytest.raises(ValueError, match="an outlier hybrid is needed"):
        hybrid_form(parse_codec("int4-g64-sym"))
    with pytest.raises(ValueError, match="group of up to"):
        hybrid_form(dynamic(4, 255, 256))
    with pytest.raises(ValueError, match="a static outlier hybrid is needed"):
        static_parts(dynamic(4, 64), (64,), known, (0,), 0, device)
    with pytest.raises(ValueError, match="start must not be negative"):
        static_parts(codec, (64,), known, (0,), -1, device)
    with pytest.raises(ValueError, match="ranks not empty"):
        static_parts(codec, (64,), known, (), 0, device)
    with pytest.raises(ValueError, match="rank must lie in"):
        static_parts(codec, (64,), known, (2,), 0, device)
    with pytest.raises(ValueError, match="only the last part may be ragged"):
        static_parts(codec, (63, 64), known, (0,), 0, device)
    with pytest.raises(ValueError, match=f"up to {MOST_FEATURES} features"):
        static_parts(codec, (64,), calibration(1, MOST_FEATURES + 1), (0,), 0, device)
    two = static_parts(codec, (64,), known, (0, 1), 0, device)
    wire = poisoned(3, 1, max(two.nbytes), device)
    with pytest.raises(ValueError, match="one rank for all copies"):
        hybrid_static.reduce_into(wire, torch.empty(64, device=device), two)
    with pytest.raises(ValueError, match="the sum of their parts"):
        hybrid_static.decode_into(wire[:2], torch.empty(2, 65, device=device), two)
    plain = parts(dynamic(4, 64), (64,), device)
    with pytest.raises(ValueError, match="the sum of their parts"):
        hybrid_dynamic.decode_into(poisoned(1, 1, plain.nbytes[0], device), torch.empty(65, device=device), plain)
    with pytest.raises(ValueError, match="wire buffers of"):
        hybrid_dynamic.encode_into(torch.empty(64, device=device), poisoned(1, 1, 16, device), plain)
    grouped = parts(parse_codec("int4-g64-sym"), (64,), device)
    with pytest.raises(ValueError, match="an outlier hybrid is needed"):
        hybrid_dynamic.decode_into(poisoned(1, 1, 64, device), torch.empty(64, device=device), grouped)


def test_tables_of_a_calibration_are_built_once(device: torch.device) -> None:
    """Told apart by identity: a calibration's features and scales do not change."""
    one, other = calibration(1, 64), calibration(1, 64)

    def of(known: Calibration) -> StaticParts:
        return static_parts(static(4, 64), (640,), known, (0,), 0, device)

    assert of(one) is of(one)
    assert of(one) is not of(other)
