"""Formats and MX blocks against implementations written independently of ours: ml_dtypes, gfloat, torchao.

Exhaustive where the domain is small. Every disagreement known stands in a test of its own that shows both
sides; docs/decisions/006-numerics.md says why ours is chosen.
"""

import contextlib
import io
import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from thinwire.reference.codecs.elements import e8m0_inverse, e8m0_value, from_codes, to_codes
from thinwire.reference.codecs.elements import folded_power as folded
from thinwire.reference.codecs.packing import unpack
from thinwire.reference.core.formats import ElementFormat, element
from thinwire.reference.core.scheme import MX, MX_ELEMENTS, ScaleMode
from thinwire.reference.quantize import decode, encode

from .codecs import normal, same_bits

FLOATS = [name for name in MX_ELEMENTS if name != "int8"]
ML: dict[str, Any] = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
}


def ours(values: Tensor, row: ElementFormat, exact_bf16: bool = False) -> Tensor:
    return to_codes(values * 2.0 ** folded(row), row, exact_bf16)


def saturated(values: NDArray[np.float32], name: str) -> NDArray[np.uint8]:
    """ml_dtypes' codes of values clipped to the largest finite element (beyond it, it overflows or gives NaN)."""
    limit = np.float32(element(name).maximum)
    return np.clip(values, -limit, limit).astype(ML[name]).view(np.uint8)


def all_bf16() -> Tensor:
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


@pytest.mark.parametrize("name", FLOATS)
def test_every_code_decodes_as_in_ml_dtypes(name: str) -> None:
    codes = np.arange(1 << element(name).bits, dtype=np.uint8)
    found = from_codes(torch.from_numpy(codes), element(name))
    with np.errstate(invalid="ignore"):
        expected = torch.from_numpy(codes.view(ML[name]).astype(np.float32))
    number = ~expected.isnan()
    assert torch.equal(found.isnan(), expected.isnan())
    assert same_bits(found[number], expected[number])


def test_every_int8_code_decodes_as_twos_complement() -> None:
    codes = torch.arange(256).to(torch.uint8)
    found = from_codes(codes, element("int8"))
    assert torch.equal(found, codes.view(torch.int8).float() / 64)
    assert found.min() == -2.0  # -128 is read, though never written


@pytest.mark.parametrize("name", FLOATS)
def test_every_bf16_value_encodes_as_in_ml_dtypes(name: str) -> None:
    values = all_bf16()
    values = values[values.isfinite()].float()
    expected = torch.from_numpy(saturated(values.numpy(), name))
    assert torch.equal(ours(values, element(name)), expected)
    # The short way for bf16 numbers holds for what a floor scale leaves, and small values of any size.
    short = values.abs() <= 2 ** (element(name).largest_exponent + 1)
    assert torch.equal(ours(values[short], element(name), exact_bf16=True), expected[short])


@pytest.mark.parametrize("name", FLOATS)
def test_fp32_values_next_to_every_tie_encode_as_in_ml_dtypes(name: str) -> None:
    row = element(name)
    magnitudes = sorted({abs(row.value(code)) for code in range(1 << row.bits) if math.isfinite(row.value(code))})
    middles = np.array([(a + b) / 2 for a, b in itertools.pairwise(magnitudes)], dtype=np.float32)
    near = np.concatenate([middles, *(np.nextafter(middles, np.float32(to)) for to in (0, np.inf))])
    near = np.concatenate([near, near * np.float32(1 + 2**-12), near * np.float32(1 - 2**-11), -near])
    assert torch.equal(ours(torch.from_numpy(near), row), torch.from_numpy(saturated(near, name)))


@pytest.mark.parametrize("name", FLOATS)
def test_random_fp32_values_encode_as_in_ml_dtypes(name: str) -> None:
    generator = np.random.default_rng(0)
    values = (generator.standard_normal(200_000) * np.exp2(generator.uniform(-20, 12, 200_000))).astype(np.float32)
    assert torch.equal(ours(torch.from_numpy(values), element(name)), torch.from_numpy(saturated(values, name)))


def test_every_e8m0_byte() -> None:
    codes = np.arange(256, dtype=np.uint8)
    found = e8m0_value(torch.from_numpy(codes))
    expected = codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
    assert np.array_equal(found.double().numpy(), expected, equal_nan=True)
    assert torch.equal((found * e8m0_inverse(torch.from_numpy(codes), 0))[:255], torch.ones(255))


# ---- blocks


def blocks() -> dict[str, Tensor]:
    """Distributions that hit different edges, fp32 and bf16 (ties occur only in the latter)."""
    found = {"normal": normal(400, 32), "outliers": normal(400, 32, seed=1)}
    found["outliers"][:, 7] *= 100
    found["wide"] = normal(400, 32, seed=2) * torch.exp2(normal(400, 32, seed=3) * 8)
    found["powers"] = torch.exp2(torch.randint(-20, 20, (400, 32), generator=torch.Generator().manual_seed(4)).float())
    found["tiny"] = normal(400, 32, seed=5) * 2.0**-120
    found["huge"] = (normal(400, 32, seed=6) * 2.0**124).clamp(-1.9 * 2.0**126, 1.9 * 2.0**126)
    found["zeros"] = torch.zeros(4, 32)
    bf16 = {f"{name} bf16": values.bfloat16().float() for name, values in found.items()}
    return found | bf16


def our_codes(values: Tensor, codec: MX, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """(element codes, scale bytes) as [blocks, 32] and [blocks]."""
    views = encode(values.to(dtype), codec).sections()
    bits = element(codec.element).bits
    planes = [view for name, view in views.items() if name.startswith("plane")]
    return unpack(planes, bits, values.numel()).view(values.shape), views["scales"]


def floor_scaled(values: Tensor, name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values over their block's floor scale, and its exponent, in float64 (exact)."""
    exact = values.double().numpy()
    amax = np.abs(exact).max(axis=1)
    with np.errstate(divide="ignore"):
        exponent = np.where(amax > 0, np.frexp(amax)[1] - 1 - element(name).largest_exponent, -127)
    exponent = np.clip(exponent, -127, 127).astype(np.int64)
    return np.ldexp(exact, -exponent[:, None]), exponent


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("kind", blocks())
def test_blocks_against_ml_dtypes_with_a_floor_scale_in_float64(name: str, kind: str) -> None:
    values = blocks()[kind]
    scaled, exponent = floor_scaled(values, name)
    limit = element(name).maximum
    # Through fp32, which holds every scaled value or one far below the smallest tie.
    expected = np.clip(scaled, -limit, limit).astype(np.float32).astype(ML[name]).view(np.uint8)
    for dtype in (torch.float32, torch.bfloat16) if kind.endswith("bf16") else (torch.float32,):
        codes, scales = our_codes(values, MX(name), dtype)
        assert np.array_equal(scales.numpy(), exponent + 127)
        assert np.array_equal(codes.numpy(), expected)


@pytest.mark.parametrize("kind", blocks())
def test_int8_blocks_against_float64(kind: str) -> None:
    values = blocks()[kind]
    scaled, exponent = floor_scaled(values, "int8")
    codes, scales = our_codes(values, MX("int8"))
    assert np.array_equal(scales.numpy(), exponent + 127)
    assert np.array_equal(codes.view(torch.int8).numpy(), np.clip(np.rint(scaled * 64), -127, 127))


@pytest.mark.parametrize("name", MX_ELEMENTS)
@pytest.mark.parametrize("kind", ["normal", "normal bf16", "outliers bf16", "wide bf16", "tiny bf16"])
def test_blocks_against_gfloat(name: str, kind: str) -> None:
    gfloat = pytest.importorskip("gfloat", reason="gfloat is not installed")
    formats = pytest.importorskip("gfloat.formats")
    info = getattr(formats, f"format_info_mx{'int8' if name == 'int8' else f'fp{element(name).bits}_{name}'}")
    values = blocks()[kind][:6]
    decoded = decode(encode(values, MX(name))).double().numpy()
    for row, ours_row in zip(values.double().numpy(), decoded, strict=True):
        theirs = gfloat.quantize_block(info, row, gfloat.compute_scale_amax)
        if name == "int8":  # gfloat writes -128, we stop at -127: see the disagreements below
            theirs = np.where(theirs == -2.0 * gfloat.compute_scale_amax(info.etype.emax, row), ours_row, theirs)
        assert np.array_equal(ours_row, theirs)


def torchao() -> tuple[Any, Any]:
    """to_mx and its modes, its complaints about missing libraries swallowed; skips where there is none."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        module = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor", reason="torchao is not installed")
    return module.to_mx, module.ScaleCalculationMode


def their_codes(values: Tensor, name: str, mode: str = "floor") -> tuple[Tensor, Tensor]:
    to_mx, modes = torchao()
    kinds = {
        "e4m3": torch.float8_e4m3fn,
        "e5m2": torch.float8_e5m2,
        "e2m3": "fp6_e2m3",
        "e3m2": "fp6_e3m2",
        "e2m1": torch.float4_e2m1fn_x2,
    }
    scales, data = to_mx(values.contiguous(), kinds[name], 32, modes[mode.upper()])
    codes = data.view(torch.uint8).reshape(values.shape[0], -1)
    if name == "e2m1":
        codes = torch.stack((codes & 15, codes >> 4), -1).reshape(values.shape)
    return codes, scales.view(torch.uint8).reshape(-1)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("mode", ["floor", "rceil", "ceil", "even"])
@pytest.mark.parametrize("kind", ["normal", "normal bf16", "outliers bf16", "wide", "wide bf16", "powers bf16"])
def test_blocks_against_torchao(name: str, mode: ScaleMode, kind: str) -> None:
    values = blocks()[kind]
    dtype = torch.bfloat16 if kind.endswith("bf16") else torch.float32
    codes, scales = our_codes(values, MX(name, mode=mode), dtype)
    theirs, their_scales = their_codes(values.to(dtype), name, mode)
    assert torch.equal(scales, their_scales)
    assert torch.equal(codes, theirs)


# ---- disagreements, each with both sides shown


def test_int8_never_writes_minus_128() -> None:
    gfloat = pytest.importorskip("gfloat", reason="gfloat is not installed")
    formats = pytest.importorskip("gfloat.formats")
    values = torch.zeros(1, 32)
    values[0, 0] = -1.9999
    assert (
        gfloat.quantize_block(formats.format_info_mxint8, values[0].double().numpy(), gfloat.compute_scale_amax)[0]
        == -2
    )
    assert decode(encode(values, MX("int8")))[0, 0] == -127 / 64


def test_nan_and_infinity_poison_the_block_elsewhere_they_vary() -> None:
    values = torch.ones(2, 32)
    values[0, 3], values[1, 3] = math.nan, math.inf
    for name in MX_ELEMENTS:
        assert our_codes(values, MX(name))[1].tolist() == [255, 255]
    # ml_dtypes turns a NaN into a zero where the format has none
    with np.errstate(invalid="ignore"):
        assert np.array([np.nan], dtype=np.float32).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)[0] & 7 == 0
    _, scales = their_codes(values, "e4m3")
    assert scales[0] == 255 and scales[1] != 255  # torchao 0.18: infinity becomes an ordinary scale


def test_blocks_near_the_bottom_of_fp32() -> None:
    values = torch.full((1, 32), 2.0**-127)
    assert torch.equal(decode(encode(values, MX("e4m3"))), values)
    codes, scales = their_codes(values, "e4m3")  # torchao 0.18 divides by 2^-126 and sends 2^-127: half the value
    assert scales.tolist() == [0]
    assert from_codes(codes, element("e4m3"))[0, 0] * 2.0**-127 == 2.0**-128


def test_overflow_saturates_where_ml_dtypes_gives_nan() -> None:
    assert math.isnan(float(np.float32(480).astype(ml_dtypes.float8_e4m3fn)))
    assert float(from_codes(ours(torch.tensor([480.0]), element("e4m3")), element("e4m3"))) == 448.0
    assert math.isinf(float(np.float32(65536).astype(ml_dtypes.float8_e5m2)))
    assert float(from_codes(ours(torch.tensor([65536.0]), element("e5m2")), element("e5m2"))) == 57344.0


@pytest.mark.parametrize("name", MX_ELEMENTS)
def test_signs_of_zeros(name: str) -> None:
    values = torch.tensor([[1.0, 0.0, -0.0, -(2.0**-40)] + [0.5] * 28])
    y = decode(encode(values, MX(name)))
    negative = [False, False, name != "int8", name != "int8"]  # two's complement has one zero
    assert torch.signbit(y[0, :4]).tolist() == negative
    assert not y[0, 1:4].any()


def test_a_cast_to_e8m0_is_no_floor_scale() -> None:
    if not hasattr(torch, "float8_e8m0fnu"):
        pytest.skip("this torch has no e8m0")
    values = torch.zeros(3, 32)
    values[:, 0] = torch.tensor([3.0, 1.5, 6.0])
    floor = our_codes(values, MX("int8"))[1]
    assert floor.tolist() == [128, 127, 129]
    assert (values[:, 0].to(torch.float8_e8m0fnu).view(torch.uint8).int() - floor.int()).tolist() == [1, 1, 1]


@pytest.mark.parametrize("mode", ["rceil", "ceil", "even"])
def test_no_mode_reaches_beyond_fp32(mode: ScaleMode) -> None:
    values = torch.full((1, 32), 3.4e38)
    for name in MX_ELEMENTS:
        assert torch.isfinite(decode(encode(values, MX(name, mode=mode)))).all()
    if mode == "ceil":  # torchao goes on: its e2m1 block decodes to 2^128
        assert their_codes(values, "e2m1", mode)[1].item() == our_codes(values, MX("e2m1", mode=mode))[1].item() + 1


@pytest.mark.parametrize("name", MX_ELEMENTS)
def test_modes_choose_as_described(name: str) -> None:
    """For every bf16 amax of one binade and its fp32 neighbours, against the definitions in float64."""
    row = element(name)
    amax = torch.arange(0x3F80, 0x4000, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    amax = torch.cat((amax, torch.nextafter(amax, torch.tensor(9.0)), torch.nextafter(amax[1:], torch.tensor(0.0))))
    values = torch.zeros(len(amax), 32)
    values[:, 5] = -amax
    exact = amax.double().numpy()
    floor = np.floor(np.log2(exact)) - row.largest_exponent
    steps = 2.0**row.mantissa_bits
    rounded = np.rint(exact * steps) / steps
    expected = {
        "floor": floor,
        "rceil": np.ceil(np.log2(exact / row.maximum)),
        "ceil": np.ceil(np.log2(exact)) - row.largest_exponent,
        "even": np.floor(np.log2(rounded)) - row.largest_exponent,
    }
    # log2 of fp32 neighbours of a power of two is not told apart from its own; rounding there is right by hand
    for mode, exponent in expected.items():
        found = our_codes(values, MX(name, mode=mode))[1].numpy().astype(int) - 127  # type: ignore[arg-type]
        assert np.array_equal(found, exponent), mode
