"""Encode and decode: shapes, types, layout and the promises of docs/decisions/006-numerics.md."""

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thinwire.reference.catalog import parse_codec
from thinwire.reference.codecs import hybrid, layout
from thinwire.reference.codecs.hybrid import runs
from thinwire.reference.codecs.packing import unpack
from thinwire.reference.core.formats import element
from thinwire.reference.core.scheme import MX, Codec, GroupedInt, OutlierHybrid, Raw
from thinwire.reference.quantize import Packed, decode, decode_flat, encode, encode_flat

from .codecs import ALL, CALIBRATION, FEATURES, codecs, needs, normal, same_bits, specs, tensors, there_and_back

every_codec = pytest.mark.parametrize("codec", ALL, ids=specs)
SIZES = (0, 1, 2, 7, 31, 64, 127, 128, 129, 1000)


# ---- the buffer


@every_codec
@pytest.mark.parametrize("numel", SIZES)
def test_bytes_and_sections_are_those_of_the_formula(codec: Codec, numel: int) -> None:
    packed = encode(normal(numel), codec, **needs(codec))
    assert packed.buffer.numel() == codec.wire_bytes(numel)
    assert packed.buffer.dtype == torch.uint8 and packed.buffer.is_contiguous()
    views = packed.sections()
    assert {name: view.numel() for name, view in views.items()} == {s.name: s.nbytes for s in codec.sections(numel)}
    for (name, view), offset in zip(views.items(), codec.offsets(numel), strict=True):
        assert view.storage_offset() == offset and view.untyped_storage().data_ptr() == packed.buffer.data_ptr(), name
    covered = torch.zeros(packed.buffer.numel(), dtype=torch.bool)
    for view, offset in zip(views.values(), codec.offsets(numel), strict=True):
        covered[offset : offset + view.numel()] = True
    assert not packed.buffer[~covered].any(), "padding between sections must be zero"


@every_codec
def test_shape_and_type_come_back(codec: Codec) -> None:
    for shape in ((), (5,), (3, FEATURES), (2, 3, FEATURES), (0,), (4, 0), (0, FEATURES)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            x = torch.ones(shape, dtype=dtype)
            packed = encode(x, codec, **needs(codec))
            y = decode(packed, **needs(codec))
            assert (packed.shape, packed.dtype) == (shape, dtype)
            assert (y.shape, y.dtype) == (x.shape, dtype)
            assert decode(packed, dtype=torch.float16, **needs(codec)).dtype == torch.float16


@every_codec
def test_the_type_of_representable_values_changes_no_byte(codec: Codec) -> None:
    # fp16 values of at most 8 significant bits are bf16 values too.
    x = (normal(9, FEATURES) * 4).bfloat16().clamp(-60, 60)
    x = torch.where(x.abs() < 2**-8, torch.zeros_like(x), x)
    as_bf16, as_fp16, as_fp32 = (
        encode(x.to(t), codec, **needs(codec)).buffer for t in (x.dtype, torch.float16, torch.float32)
    )
    assert torch.equal(as_bf16, as_fp32)
    assert torch.equal(as_fp16, as_fp32)


@every_codec
def test_strides_change_no_byte_and_the_input_is_left_alone(codec: Codec) -> None:
    wide = normal(40, 2 * FEATURES)
    for x in (wide[:, ::2], wide[:FEATURES, :FEATURES].t()[:, : FEATURES - 8].t().t(), wide[3:, 1 : FEATURES + 1]):
        if x.shape[-1] != FEATURES and needs(codec):
            continue
        assert not x.is_contiguous()
        kept = x.clone()
        assert torch.equal(
            encode(x, codec, **needs(codec)).buffer, encode(kept.contiguous(), codec, **needs(codec)).buffer
        )
        assert torch.equal(x, kept)
    flat = normal(333)
    kept = flat.clone()
    packed = encode(flat, codec, **needs(codec))
    buffer = packed.buffer.clone()
    decode(packed, **needs(codec)).add_(1)
    assert torch.equal(flat, kept) and torch.equal(packed.buffer, buffer)


@every_codec
def test_chunks_change_no_bit(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    x = normal(77, FEATURES)
    packed = encode(x, codec, **needs(codec))
    y = decode(packed, **needs(codec))
    monkeypatch.setattr(layout, "CPU_CHUNK_VALUES", 700)
    assert torch.equal(encode(x, codec, **needs(codec)).buffer, packed.buffer)
    assert same_bits(decode(packed, **needs(codec)), y)


@every_codec
@pytest.mark.parametrize("offset", [1, 2, 3, 8])
def test_a_buffer_may_start_anywhere(codec: Codec, offset: int) -> None:
    x = normal(300)
    packed = encode(x, codec, **needs(codec))
    moved = torch.zeros(packed.buffer.numel() + offset, dtype=torch.uint8)[offset:]
    moved.copy_(packed.buffer)
    assert same_bits(decode_flat(moved, 300, codec, **needs(codec)), decode(packed, **needs(codec)))


@every_codec
def test_flat_forms_are_the_same_thing(codec: Codec) -> None:
    x = normal(7, FEATURES).bfloat16()
    packed = encode(x, codec, **needs(codec))
    assert torch.equal(encode_flat(x.reshape(-1), codec, **needs(codec)), packed.buffer)
    flat = decode_flat(packed.buffer, x.numel(), codec, **needs(codec))
    assert flat.dtype == torch.float32
    assert torch.equal(flat.view(7, FEATURES), decode(packed, dtype=torch.float32, **needs(codec)))


def test_what_is_refused() -> None:
    codec, static = parse_codec("int4"), parse_codec("hybrid4")
    with pytest.raises(ValueError, match=r"values must be one of torch.float32, .*: given torch.float64"):
        encode(torch.zeros(3, dtype=torch.float64), codec)
    with pytest.raises(ValueError, match="needs a calibration"):
        encode(torch.zeros(3), static)
    with pytest.raises(ValueError, match=r"rank must lie in 0..2, or be None for the sum: rank=3"):
        encode(torch.zeros(3), static, calibration=CALIBRATION, rank=3)
    with pytest.raises(ValueError, match="start must not be negative: start=-1"):
        encode(torch.zeros(3), static, calibration=CALIBRATION, start=-1)
    with pytest.raises(ValueError, match=f"calibration has {FEATURES} features, x 3: shape="):
        encode(torch.zeros(2, 3), static, calibration=CALIBRATION)
    with pytest.raises(ValueError, match=r"a buffer of 3 values in int4-g128-zp is contiguous uint8 \[96\]"):
        decode_flat(torch.zeros(95, dtype=torch.uint8), 3, codec)
    with pytest.raises(ValueError, match=r"given torch\.int8"):
        Packed(torch.zeros(96, dtype=torch.int8), (3,), torch.float32, codec)
    with pytest.raises(ValueError, match=r"values must be flat: shape=\[2, 2\]"):
        encode_flat(torch.zeros(2, 2), codec)
    with pytest.raises(ValueError, match=r"dtype must be one of .*: given torch.int32"):
        decode(encode(torch.zeros(3), codec), dtype=torch.int32)


# ---- grids


def plain(x: Tensor, codec: GroupedInt) -> Tensor:
    """A second implementation, value by value in numpy's fp32, of grids without spikes on ordinary values."""
    wire: Any = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp32": np.float32}[codec.metadata]

    def sent(value: np.float32) -> np.float32:
        return np.float32(np.asarray(value).astype(wire))

    found: list[np.float32] = []
    n, f = 2**codec.bits - 1, np.float32
    for at in range(0, x.numel(), codec.group):
        values = list(x[at : at + codec.group].numpy())
        padded = values + [f(0)] * (codec.group - len(values))
        low, high = min(padded), max(padded)
        if codec.grid == "symmetric":
            top = 2 ** (codec.bits - 1) - 1
            s = sent(max(-low, high) / f(top))
            found += [f(max(-top, min(top, round(float(v / s))))) * s for v in values]
        elif codec.grid == "zero_point":
            low, high = min(low, f(0)), max(high, f(0))
            s = sent((high - low) / f(n))
            z = max(0, min(n, round(float(-low / s))))
            found += [f(max(0, min(n, round(float(v / s)) + z)) - z) * s for v in values]
        else:
            m = sent(low)
            if m > low:
                m = f(np.nextafter(np.asarray(m).astype(wire), wire(-np.inf)))
            s = sent((high - m) / f(n))
            found += [m + f(max(0, min(n, round(float((v - m) / s))))) * s for v in values]
    return torch.tensor(np.array(found, dtype=np.float32))


@pytest.mark.parametrize("grid", ["symmetric", "minimum", "zero_point"])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("metadata", ["bf16", "fp16", "fp32"])
def test_grids_against_a_plain_second_implementation(grid: Any, bits: int, metadata: str) -> None:
    codec = GroupedInt(bits, 32, grid, metadata=metadata)
    for seed, shift in ((bits, 0.0), (bits + 10, 3.0), (bits + 20, -50.0)):
        x = (normal(700, seed=seed) + shift).bfloat16().float()
        assert torch.equal(there_and_back(x, codec), plain(x, codec))


@pytest.mark.parametrize("metadata", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_minimum_keeps_constant_groups(bits: int, metadata: str) -> None:
    codec = GroupedInt(bits, 32, "minimum", metadata=metadata)
    for value in (0.0, 3.25, -7.5, 1000.0, -(2.0**-10)):  # exact in every metadata format
        x = torch.full((64,), value)
        assert torch.equal(there_and_back(x, codec), x)
    near = torch.full((32,), math.pi)  # exact in none but fp32: off by a rounded step, not by a rounded minimum
    assert float((there_and_back(near, codec) - near).abs().max()) <= math.pi * 2.0**-15


@pytest.mark.parametrize("metadata", ["bf16", "fp16", "fp32"])
def test_a_minimum_has_one_zero(metadata: str) -> None:
    codec = GroupedInt(4, 32, "minimum", metadata=metadata)
    for low in (torch.zeros(32), torch.cat((-torch.zeros(16), torch.ones(16)))):
        assert torch.equal(encode(low, codec).buffer, encode(low + 0.0, codec).buffer)
    assert not encode(-torch.zeros(32), codec).sections()["minima"].any()


def test_minimum_is_rounded_down_not_to_nearest() -> None:
    x = torch.linspace(1002.5, 1003.9, 32)  # bf16 has 1000 and 1004: to nearest would put the grid above them all
    assert float((there_and_back(x, GroupedInt(8, 32, "minimum")) - x).abs().max()) < 0.02
    assert float((there_and_back(-x, GroupedInt(8, 32, "minimum")) + x).abs().max()) < 0.02


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("spikes", [False, True])
@pytest.mark.parametrize("metadata", ["bf16", "fp16", "fp32", "e8m0"])
@pytest.mark.parametrize("grid", ["zero_point", "symmetric"])
def test_zero_stays_zero(bits: int, spikes: bool, metadata: str, grid: Any) -> None:
    x = normal(512, seed=bits) * 3 + 1
    x[1::37] = 200.0
    x[::5] = 0.0
    y = there_and_back(x, GroupedInt(bits, 128, grid, spikes, metadata=metadata))
    assert not y[::5].any()


def test_zero_points_leave_groups_away_from_zero_alive() -> None:
    # A zero point clamped to its byte without widening the range would turn all of this into ones.
    for low, high in ((100.0, 101.0), (-101.0, -100.0)):
        x = torch.linspace(low, high, 128)
        packed = encode(x, GroupedInt(8))
        assert float((decode(packed) - x).abs().max()) <= 101 / 255
        assert packed.sections()["zero_points"].tolist() == ([0] if low > 0 else [255])


def test_spikes_are_kept_and_narrow_the_range() -> None:
    for codec in (
        GroupedInt(2, spikes=True),
        GroupedInt(4, 512, "minimum", True),
        GroupedInt(4, 256, "minimum", True),  # the last group whose positions are bytes, and the first where not
        GroupedInt(4, 264, "minimum", True),
        GroupedInt(5, 32, "symmetric", True),
    ):
        x = normal(4 * codec.group).bfloat16()
        groups = x.view(4, codec.group)
        for row, (small, large) in enumerate(((3, 5), (0, codec.group - 1), (codec.group - 1, 0), (7, 6))):
            groups[row, small], groups[row, large] = -1000.0 - row, 3000.0 + 16 * row
        packed = encode(x, codec)
        index = torch.uint8 if codec.group <= 256 else torch.uint16
        assert packed.sections()["spike_indices"].view(index).view(4, 2).tolist() == [
            [3, 5], [0, codec.group - 1], [codec.group - 1, 0], [7, 6],
        ]  # fmt: skip
        y = decode(packed).view(4, codec.group)
        for row in range(4):
            assert y[row].min() == -1000.0 - row and y[row].max() == 3000.0 + 16 * row
        rest = (y.float() - groups.float()).abs()
        assert float(rest.max()) < 6 / (2**codec.bits - 2)  # the grid spans the others alone


def test_the_first_of_equal_spikes_is_taken() -> None:
    codec = GroupedInt(3, 32, spikes=True)
    x = torch.zeros(64)
    x[[4, 9]], x[[2, 20]] = -5.0, 8.0
    x[32:] = 1.5
    packed = encode(x, codec)
    assert packed.sections()["spike_indices"].tolist() == [4, 2, 0, 0]
    assert torch.equal(decode(packed)[[4, 2, 32]], torch.tensor([-5.0, 8.0, 1.5]))


# ---- groups that are empty, tiny, huge or not numbers


@every_codec
def test_zero_groups_are_exact(codec: Codec) -> None:
    assert not there_and_back(torch.zeros(300), codec).any()
    assert not there_and_back(-torch.zeros(300), codec).any()


def poisoned(codec: Codec, value: float) -> tuple[Tensor, Tensor]:
    size = 4 * codec.align * (8 if codec.align < 8 else 1)
    x = normal(size)
    clean = there_and_back(x, codec)
    x[codec.align + 3] = value
    return clean, there_and_back(x, codec)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("codec", [c for c in ALL if not c.is_raw and not needs(c)], ids=lambda c: c.spec)
def test_what_is_not_finite_makes_its_group_nan_and_no_other(codec: Codec, value: float) -> None:
    clean, y = poisoned(codec, value)
    groups = codec.align // codec.group if isinstance(codec, GroupedInt | MX) and codec.rotation else 1
    bad = torch.isnan(y)
    assert bad[codec.align : codec.align + codec.group * groups].all() or (
        isinstance(codec, GroupedInt | MX) and codec.rotation and bad[codec.align : codec.align + codec.rotation].all()
    )
    assert not bad[: codec.align].any() and not bad[2 * codec.align :].any()
    assert same_bits(y[: codec.align], clean[: codec.align]) and same_bits(
        y[2 * codec.align :], clean[2 * codec.align :]
    )


@pytest.mark.parametrize("codec", [c for c in ALL if not c.is_raw and not needs(c)], ids=lambda c: c.spec)
def test_groups_that_are_not_numbers_have_one_encoding(codec: Codec) -> None:
    buffers = []
    for seed, value in ((0, math.nan), (1, math.inf), (2, -math.inf)):
        x = normal(codec.align * 8, seed=seed)
        x[::7] = value
        x[3] = -math.nan if seed else value
        x[: codec.align * 8 : 2] = math.nan if isinstance(codec, GroupedInt | MX) and codec.rotation else x[::2]
        buffers.append(encode(x, codec).buffer)
    # Every group of 8 or more values holds one of them.
    if codec.group >= 8:
        assert torch.equal(buffers[0], buffers[1]) and torch.equal(buffers[0], buffers[2])
        assert decode_flat(buffers[0], codec.align * 8, codec).isnan().all()


def test_a_static_hybrid_cannot_say_nan_in_a_code() -> None:
    codec = OutlierHybrid()
    x = normal(64 * FEATURES)
    best = int(CALIBRATION.ranking_F[0])
    other = int(CALIBRATION.ranking_F[-1])
    x[best], x[other], x[FEATURES + other], x[FEATURES + best] = math.nan, math.nan, math.inf, -math.inf
    y = there_and_back(x, codec)
    step = float(CALIBRATION.scales(4, 1)[other])
    assert math.isnan(y[best]) and y[other] == 0.0
    assert y[FEATURES + other] == pytest.approx(7 * step) and y[FEATURES + best] == -element("bf16").maximum
    assert torch.isfinite(y).sum() == y.numel() - 1


@settings(max_examples=200)
@given(tensors(), codecs.filter(lambda c: not c.is_raw and not getattr(c, "rotation", None)))
def test_finite_values_come_back_finite(x: Tensor, codec: Codec) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert torch.isfinite(there_and_back(x, codec, dtype)).all()


def test_scales_that_overflow_their_format_saturate() -> None:
    codec = GroupedInt(4, 32, "symmetric", metadata="fp16")
    x = torch.full((32,), 1e6)
    assert torch.equal(there_and_back(x, codec), torch.full((32,), 7 * 65504.0))
    tiny = torch.full((32,), 1e-7)  # its scale rounds to zero
    assert not there_and_back(tiny, codec).any()
    assert torch.equal(encode(tiny, codec).sections()["plane4"], encode(torch.zeros(32), codec).sections()["plane4"])


def test_raw_is_a_plain_cast() -> None:
    x = torch.tensor([1.0, math.nan, math.inf, 3.4e38, 1e-42, -0.0])
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        packed = encode(x, Raw(name))
        assert same_bits(packed.buffer.view(dtype), x.to(dtype))
        assert same_bits(decode(packed), x.to(dtype).float())


# ---- symmetries


@every_codec
@pytest.mark.parametrize("power", [-7, 3, 20])
def test_powers_of_two_pass_through(codec: Codec, power: int) -> None:
    if needs(codec) or codec.spec == "fp16" or codec.spec.endswith("fp16") or codec.spec.endswith("fp16-min"):
        pytest.skip("static scales do not follow the values; fp16 has too short a range")
    x = normal(640)
    assert torch.equal(there_and_back(x * 2.0**power, codec), there_and_back(x, codec) * 2.0**power)


@pytest.mark.parametrize(
    "codec", [c for c in ALL if isinstance(c, MX) or (isinstance(c, GroupedInt) and c.grid == "symmetric")],
    ids=lambda c: c.spec,
)  # fmt: skip
def test_signs_pass_through(codec: Codec) -> None:
    x = normal(1024)
    assert torch.equal(there_and_back(-x, codec), -there_and_back(x, codec))


@pytest.mark.parametrize("codec", [c for c in ALL if not c.is_raw and not needs(c)], ids=lambda c: c.spec)
def test_groups_do_not_see_each_other(codec: Codec) -> None:
    x = normal(12 * codec.align).view(12, codec.align) * torch.logspace(-3, 3, 12)[:, None]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    y = there_and_back(x.reshape(-1), codec).view(12, -1)
    assert same_bits(there_and_back(x[order].reshape(-1), codec).view(12, -1), y[order])


@pytest.mark.parametrize("grid", ["symmetric", "minimum", "zero_point"])
@pytest.mark.parametrize("spikes", [False, True])
def test_more_bits_less_error(grid: Any, spikes: bool) -> None:
    x = normal(8192) * torch.exp(normal(8192, seed=1))
    errors = [float((there_and_back(x, GroupedInt(bits, 64, grid, spikes)) - x).norm()) for bits in range(2, 9)]
    assert all(less < more / 1.5 for more, less in itertools.pairwise(errors)), errors


# ---- idempotence: what 006 promises, and that it promises no more than is true

IDEMPOTENT = [
    c for c in ALL
    if c.is_raw
    or (isinstance(c, GroupedInt) and c.grid == "symmetric" and not c.spikes and not c.rotation)
    or (isinstance(c, MX) and c.mode in ("floor", "even") and not c.rotation)
    or (isinstance(c, OutlierHybrid) and c.scale == "static")
]  # fmt: skip


@pytest.mark.parametrize("codec", IDEMPOTENT, ids=lambda c: c.spec)
def test_encoding_again_gives_the_same_bytes(codec: Codec) -> None:
    for seed in range(12):
        x = normal(40 * FEATURES, seed=seed) * torch.exp2(normal(40 * FEATURES, seed=seed + 99) * 3)
        buffer = encode(x, codec, **needs(codec)).buffer
        again = encode(decode_flat(buffer, x.numel(), codec, **needs(codec)), codec, **needs(codec)).buffer
        assert torch.equal(buffer, again)


@settings(max_examples=150)
@given(
    st.sampled_from([c for c in IDEMPOTENT if isinstance(c, MX) and c.scale == "e8m0"])
    | st.builds(MX, st.sampled_from(["e2m1", "e5m2"])),
    tensors(),
)
def test_mx_is_idempotent_for_any_values(codec: MX, x: Tensor) -> None:
    buffer = encode(x, codec).buffer
    assert torch.equal(encode(decode_flat(buffer, x.numel(), codec), codec).buffer, buffer)


@pytest.mark.parametrize("mode", ["rceil", "ceil"])
def test_the_other_modes_repeat_values_not_bytes(mode: Any) -> None:
    codec = MX("e2m1", mode=mode)
    x = normal(64 * 32) * torch.exp2(normal(64 * 32, seed=1))
    first = encode(x, codec)
    second = encode(decode(first), codec)
    assert not torch.equal(first.buffer, second.buffer)
    assert torch.equal(decode(first), decode(second))


@pytest.mark.parametrize(
    "spec", ["int4-g128-zp", "int8-g32-min", "int2-g128-zp-sr", "hybrid4-k64-dyn", "int4-g32-zp-h64"]
)
def test_the_others_do_not_promise_it(spec: str) -> None:
    codec = parse_codec(spec)
    changed = 0
    for seed in range(40):
        x = normal(2048, seed=seed)
        buffer = encode(x, codec).buffer
        changed += not torch.equal(encode(decode_flat(buffer, 2048, codec), codec).buffer, buffer)
    assert changed


# ---- the hybrid


def test_static_keeps_the_best_ranked_positions() -> None:
    for codec in (
        OutlierHybrid(),
        OutlierHybrid(4, 7, group=7),
        OutlierHybrid(3, 2, group=2),
        OutlierHybrid(8, 256, group=256),
    ):
        for numel in (1, 5, 47, 48, 49, 63, 64, 200, 1000, 48 * 64):
            for start in (0, 1, 30, 47, 48, 1000):
                kept = codec.kept(numel)
                rank_of = {int(f): i for i, f in enumerate(CALIBRATION.ranking_F)}
                order = sorted(range(numel), key=lambda i: (rank_of[(start + i) % FEATURES], i))
                expected = sorted(order[:kept])
                found: list[int] = []
                for run in runs(CALIBRATION, numel, kept, start):
                    for row in range(run.rows):
                        found += [run.first + row * run.width + int(k) for k in run.kept_K]
                assert found == expected, (codec.spec, numel, start)
                x = normal(numel)
                packed = encode_flat(x, codec, calibration=CALIBRATION, rank=0, start=start)
                y = decode_flat(packed, numel, codec, calibration=CALIBRATION, rank=0, start=start)
                assert torch.equal(y[expected], x[expected].bfloat16().float())


def test_static_codes_follow_by_position_without_holes() -> None:
    codec, start = OutlierHybrid(), 11
    x = normal(5 * FEATURES)
    packed = encode(x, codec, calibration=CALIBRATION, rank=2, start=start)
    kept = {
        run.first + row * run.width + int(k)
        for run in runs(CALIBRATION, x.numel(), codec.kept(x.numel()), start)
        for row in range(run.rows)
        for k in run.kept_K
    }
    scale = CALIBRATION.scales(4, 2)
    others = [i for i in range(x.numel()) if i not in kept]
    expected = [
        max(-8, min(7, round(float(x[i] / scale[(start + i) % FEATURES])))) + 8 for i in others
    ]  # fmt: skip
    assert unpack([packed.sections()["plane4"]], 4, len(others)).tolist() == expected


def test_ranks_have_their_own_static_scales() -> None:
    x = normal(10, FEATURES)
    buffers = [encode(x, OutlierHybrid(), calibration=CALIBRATION, rank=r).buffer for r in (0, 1, 2, None)]
    assert len({tuple(buffer.tolist()) for buffer in buffers}) == 4


def test_dynamic_keeps_the_largest_of_each_block() -> None:
    codec = parse_codec("hybrid4-k64-dyn-g128")
    x = normal(3 * 64 + 20)
    x[[5, 9]] = torch.tensor([-40.0, 40.0])  # the first of equal magnitudes
    x[64 + 63], x[128], x[200] = 50.0, -60.0, 9.0
    packed = encode(x, codec)
    assert packed.sections()["kept_indices"].tolist() == [5, 63, 0]
    assert packed.sections()["kept_values"].view(torch.bfloat16).tolist() == [-40.0, 50.0, -60.0]
    y = decode(packed)
    assert y[[5, 127, 128]].tolist() == [-40.0, 50.0, -60.0]
    assert y[200] == pytest.approx(9.0, rel=0.01)  # a tail keeps nothing: its group's scale holds it
    assert hybrid._choose(torch.tensor([3], dtype=torch.uint8), torch.tensor([5], dtype=torch.uint8),
                          torch.tensor([255], dtype=torch.uint8)).item() == 3  # fmt: skip


# ---- rotation


def test_rotation_is_orthonormal_and_undone() -> None:
    from thinwire.reference.codecs.elements import hadamard

    for size in (2, 16, 64, 256):
        matrix = hadamard(torch.eye(size).reshape(-1), size).view(size, size)
        sylvester = torch.tensor([[(-1.0) ** bin(i & j).count("1") for j in range(size)] for i in range(size)])
        torch.testing.assert_close(matrix, sylvester / math.sqrt(size), rtol=1e-6, atol=0)
        x = normal(4 * size)
        torch.testing.assert_close(hadamard(hadamard(x, size), size), x, rtol=0, atol=1e-5)


def test_rotation_spreads_an_outlier() -> None:
    x = normal(4096)
    x[::64] = 80.0
    plain_error, turned_error = (
        float((there_and_back(x, GroupedInt(4, 64, rotation=rotation)) - x).norm()) for rotation in (None, 64)
    )
    assert turned_error < plain_error / 2


# ---- the mode of an MX scale is part of the codec


@pytest.mark.parametrize("mode", ["rceil", "ceil", "even"])
def test_modes_have_specs_and_change_no_byte_count(mode: Any) -> None:
    codec = MX("e2m1", rotation=64, mode=mode)
    assert codec.spec == f"mx-e2m1-b32-h64-{mode}" and parse_codec(codec.spec) == codec
    assert parse_codec("mx-e2m1-floor") == MX("e2m1") and MX("e2m1").spec == "mx-e2m1-b32"
    assert codec.sections(1000) == MX("e2m1", rotation=64).sections(1000)
    with pytest.raises(ValueError, match=f"only an e8m0 scale has a mode: mode='{mode}', scale='fp16'"):
        MX("e4m3", scale="fp16", mode=mode)
    with pytest.raises(ValueError, match="mode='nearest'"):
        MX("e4m3", mode="nearest")  # type: ignore[arg-type]
