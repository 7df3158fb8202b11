"""Every code of every element format against ml_dtypes and numpy, which are written independently of ours."""

import math

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from thinwire.reference.core.formats import FORMATS, element, planes, scale_cap

ORACLES = {
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e2m3": ml_dtypes.float6_e2m3fn,
    "e3m2": ml_dtypes.float6_e3m2fn,
    "e4m3": ml_dtypes.float8_e4m3fn,
    "e5m2": ml_dtypes.float8_e5m2,
    "e8m0": ml_dtypes.float8_e8m0fnu,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
}


def oracle_values(name: str) -> NDArray[np.float64]:
    """All codes in order, as float64."""
    dtype = np.dtype(ORACLES[name])
    unsigned = np.uint16 if dtype.itemsize == 2 else np.uint8
    codes = np.arange(1 << FORMATS[name].bits, dtype=unsigned)
    with np.errstate(invalid="ignore"):  # widening a signalling NaN raises the flag
        return np.asarray(codes.view(dtype).astype(np.float64))


@pytest.mark.parametrize("name", ORACLES)
def test_every_code_means_what_the_oracle_says(name: str) -> None:
    ours = np.array([element(name).value(code) for code in range(1 << element(name).bits)])
    theirs = oracle_values(name)
    np.testing.assert_array_equal(ours, theirs)
    finite = ~np.isnan(theirs)
    np.testing.assert_array_equal(np.signbit(ours[finite]), np.signbit(theirs[finite]))  # -0.0 too


@pytest.mark.parametrize("name", ORACLES)
def test_facts_follow_from_the_codes(name: str) -> None:
    row, values = element(name), oracle_values(name)
    finite = values[np.isfinite(values)]
    assert row.maximum == finite.max()
    assert row.has_infinity == bool(np.isinf(values).any())
    assert row.has_nan == bool(np.isnan(values).any())
    assert row.signed == bool((finite < 0).any())
    assert row.bits == row.exponent_bits + row.mantissa_bits + row.signed
    assert 2.0**row.largest_exponent <= row.maximum < 2.0 ** (row.largest_exponent + 1)
    smallest_normal = float(ml_dtypes.finfo(ORACLES[name]).smallest_normal)  # type: ignore[no-untyped-call]
    assert row.bias == (-math.log2(smallest_normal) if not row.signed else 1 - math.log2(smallest_normal))


def test_fp32_codes_at_the_edges_and_at_random() -> None:
    random = np.random.default_rng(0).integers(0, 1 << 32, 20_000, dtype=np.uint32)
    edges = np.array([0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000], dtype=np.uint32)
    codes = np.concatenate([edges, edges | np.uint32(1 << 31), random])
    ours = np.array([element("fp32").value(int(code)) for code in codes])
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(ours, codes.view(np.float32).astype(np.float64))
    assert element("fp32").maximum == float(np.finfo(np.float32).max)


def test_mxint8_is_twos_complement_in_steps_of_a_64th() -> None:
    ours = [element("int8").value(code) for code in range(256)]
    assert ours == (np.arange(256, dtype=np.uint8).view(np.int8) / 64).tolist()
    assert element("int8").maximum == 127 / 64 and element("int8").largest_exponent == 0


@pytest.mark.parametrize(
    ("name", "codes", "maximum"),
    # Number counts and maxima as the OCP MX v1.0 tables print them (NaN and infinity left out; -0 counted).
    [("e2m1", 16, 6.0), ("e2m3", 64, 7.5), ("e3m2", 64, 28.0), ("e4m3", 254, 448.0), ("e5m2", 248, 57344.0)],
)
def test_published_counts(name: str, codes: int, maximum: float) -> None:
    row = element(name)
    assert sum(math.isfinite(row.value(code)) for code in range(1 << row.bits)) == codes
    assert row.maximum == maximum


def test_planes_are_the_binary_digits_of_the_width() -> None:
    expected = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
    assert {bits: planes(bits) for bits in range(1, 9)} == expected


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_planes_refuse_other_widths(bits: int) -> None:
    with pytest.raises(ValueError, match=f"bits={bits}"):
        planes(bits)


def test_unknown_format_and_code_are_named() -> None:
    with pytest.raises(ValueError, match=r"'e9m9'.*e2m1"):
        element("e9m9")
    with pytest.raises(ValueError, match=r"0\.\.15 for e2m1: code=16"):
        element("e2m1").value(16)


@pytest.mark.parametrize("name", ["bf16", "fp16", "fp32", "e8m0"])
@pytest.mark.parametrize("top", [1.0, 1.75, 6.0, 7.5, 28.0, 127.0, 255.0, 448.0, 57344.0])
def test_the_largest_scale_is_the_last_that_bf16_can_hold_times_the_top(name: str, top: float) -> None:
    """Against every scale there is; of fp32, against the next one up."""
    cap, most = scale_cap(name, top), element("bf16").maximum
    row = element(name)
    assert cap * top <= most
    if row.bits <= 16:
        codes = (row.value(code) for code in range(1 << row.bits))
        assert cap == max(value for value in codes if math.isfinite(value) and value * top <= most)
    else:
        following = math.ldexp(math.frexp(cap)[0] + 2.0**-24, math.frexp(cap)[1])
        assert cap == float(np.float32(cap)) and (following * top > most or cap == row.maximum)
