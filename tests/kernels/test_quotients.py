"""Divisions that kernels do without: `numbers.shifted_quotient` and `numbers.quotient`, held against exact arithmetic.

`python -m pytest tests/kernels/test_quotients.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from thinwire.kernels.form import form
from thinwire.kernels.numbers import INTERPRETED, ROUNDER, rounded_quotient
from thinwire.reference.catalog import parse_codec
from thinwire.reference.core.scheme import MX, GroupedInt

from .inputs import DTYPES, check_decode, check_encode, groups

# ---- bf16 and fp16 values: one multiply-add instead


@triton.jit
def quotient_kernel(x_ptr, scale_ptr, out_ptr, FORM: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """round(x / scale) of every x [COLUMNS] and scale, ROWS of them a program."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, COLUMNS)[None, :]
    x = tl.load(x_ptr + columns) + tl.zeros((ROWS, COLUMNS), tl.float32)
    rounded = rounded_quotient(x, tl.load(scale_ptr + rows), True, FORM)
    tl.store(out_ptr + rows * COLUMNS + columns, (rounded - ROUNDER).to(tl.int16))


def rounded_half_even(top: NDArray[np.int64], bottom: NDArray[np.int64]) -> NDArray[np.int64]:
    """top / bottom in whole numbers."""
    below, rest = np.divmod(top, bottom)
    return below + ((2 * rest > bottom) | ((2 * rest == bottom) & (below % 2 == 1)))


def exact_quotients(x: NDArray[np.int64], scale: NDArray[np.int64], power: int) -> NDArray[np.int64]:
    """round(x * 2^power / scale), ties to even, in whole numbers: [scales, xs]."""
    return rounded_half_even((x << max(power, 0))[None, :], (scale << max(-power, 0))[:, None])


@pytest.mark.parametrize(("spec", "bits"), [("int8-g128-zp", 8), ("int8-g128-zp-fp16", 11)])
def test_short_quotients_are_exact(spec: str, bits: int, device: torch.device) -> None:
    """All quotients of two significands of 8 or of 11 bits from 1/4 to 512, in the kernel's own arithmetic."""
    one = 1 << (bits - 1)
    whole = np.arange(one, 2 * one)
    rows = min(one, 64 if not INTERPRETED.value else one)
    for power in range(-2, 10):
        x = torch.from_numpy(whole.astype(np.float32) * 2.0**power).to(device)
        scale = torch.from_numpy(whole.astype(np.float32)).to(device)
        found = torch.empty(one, one, dtype=torch.int16, device=device)
        quotient_kernel[(one // rows,)](
            x, scale, found, FORM=form(parse_codec(spec)), ROWS=rows, COLUMNS=one, enable_fp_fusion=False
        )
        expected = exact_quotients(whole, whole, power)
        inside = expected <= 511
        assert np.array_equal(found.cpu().numpy()[inside], expected[inside]), power
        assert (found.cpu().numpy()[~inside] >= 511).all(), power


def fused(a: NDArray[np.float64], b: NDArray[np.float64], c: float) -> NDArray[np.float32]:
    """fp32 fused multiply-add: the product is exact in fp64, and so is its sum with c where this is used."""
    return (a * b + c).astype(np.float32)


@pytest.mark.parametrize("bits", [8, 11])
@pytest.mark.parametrize("twice", [False, True], ids=["fused", "rounded twice"])
def test_short_quotients_are_exact_however_they_are_multiplied(bits: int, twice: bool) -> None:
    """The same argument in numpy: with a fused multiply-add, as GPUs do it, and with two roundings, as the interpreter.

    Only what lies near a tie can go wrong: for each denominator and each half integer up to 256, the numerators next
    to it on either side.
    """
    one = 1 << (bits - 1)
    scale = np.arange(one, 2 * one, dtype=np.int64)[:, None]
    odd = np.arange(1, 512, 2, dtype=np.int64)[None, :]  # a tie is odd / 2
    inverse = (np.float32(1) / scale.astype(np.float32)).astype(np.float64)
    wrong = ties = 0
    for shift in range(-1, 10):  # numerators x * 2^shift, x of `bits` bits
        for step in range(-2, 4):
            x = ((scale * odd) >> (shift + 1)) + step
            held = (x >= one) & (x < 2 * one)
            top = x << (shift + 1)  # twice the numerator
            expected = rounded_half_even(top, 2 * scale)
            value = (x * 2.0**shift).astype(np.float64)
            product = fused(value, inverse, 0.0).astype(np.float64) if twice else value * inverse
            snapped = (product + 1536.0).astype(np.float32)
            found = (snapped + np.float32(12582912.0 - 1536.0)).astype(np.float64) - 12582912.0
            wrong += int(((found != expected) & held).sum())
            ties += int(((top == scale * odd) & held).sum())
    assert not wrong
    assert ties > 400  # they do occur


# ---- any value: a product, and what is left over


def fma(a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]) -> NDArray[np.float32]:
    """fp32 fused multiply-add, rounded once: the product is exact in fp64; the sum is rounded to odd there (Boldo and
    Melquiond), which the second rounding cannot mistake for a tie.
    """
    product = a.astype(np.float64) * b.astype(np.float64)
    total = product + c
    high = total - product
    lost = (product - (total - high)) + (c - high)
    even = total.view(np.int64) & 1 == 0
    towards = np.where((lost > 0) == (total > 0), 1, -1)
    odd = (total.view(np.int64) + towards).view(np.float64)
    return np.where((lost != 0) & even & np.isfinite(total), odd, total).astype(np.float32)


def fuse_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Kernels take the way that GPUs take, with a multiply-add that rounds once; its operands, as they are used."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    from thinwire.kernels import numbers

    used: list[Any] = []

    def fused_once(self: object, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
        used.append(x)
        return TensorHandle(fma(*np.broadcast_arrays(x.data, y.data, z.data)), z.dtype.scalar)

    monkeypatch.setattr(numbers, "FUSED", tl.constexpr(True))
    monkeypatch.setattr(InterpreterBuilder, "create_fma", fused_once)
    return used


def test_the_fused_multiply_add_of_these_tests() -> None:
    one, tiny = np.float32(1), np.float32(2.0**-24)
    # 1 + 2^-24 is a tie, and what lies 2^-80 beside it is none.
    found = fma(np.array([tiny] * 3), np.array([one] * 3), np.array([one] * 3))
    assert (found == 1).all()
    a = np.array([tiny * (1 + np.float32(2.0**-23)), tiny * (1 - np.float32(2.0**-23))])
    assert fma(a, np.array([one, one]), np.array([one, one])).tolist() == [1 + 2.0**-23, 1.0]
    a = np.array([np.float32(2.0**-60)])
    assert fma(a, np.array([tiny]), np.array([tiny]) + one)[0] == one + tiny


def corrected(x: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `numbers.quotient` does on a GPU."""
    f = np.float32
    lift = np.where(scale < f(2.0**-60), f(2.0**80), np.where(scale > f(2.0**60), f(2.0**-60), f(1)))
    x, scale = x * lift, scale * lift
    x = np.minimum(np.maximum(x, scale * f(-1024)), scale * f(1024))
    inverse = np.where(scale == 0, f(0), f(1) / np.where(scale == 0, f(1), scale))
    near = x * inverse
    return fma(fma(-near, scale, x), inverse, near)


def test_corrected_quotients_are_rounded_quotients() -> None:
    """One division a group: the same fp32 as a division a value, for 4 million quotients of scales of every size."""
    random = np.random.default_rng(0)
    count = 1 << 19
    with np.errstate(all="ignore"):
        for low, high in ((-3, 3), (-149, -120), (-126, -58), (58, 63), (100, 127), (-149, 127)):
            for short in (False, True):
                power = random.integers(low, high, count, endpoint=True)
                scale = ((1 + random.random(count)) * 2.0**power).astype(np.float32)
                if short:  # bf16
                    scale = (scale.view(np.int32) & -65536).view(np.float32)
                steps = random.choice([1, 3, 15, 127, 255, 600], count) * random.uniform(-1, 1, count)
                halves_ = np.floor(steps) + 0.5
                wanted = np.where(random.random(count) < 0.5, steps, halves_) * scale.astype(np.float64)
                x = np.clip(wanted, -3.4e38, 3.4e38).astype(np.float32)
                x = (x.view(np.int32) + random.integers(-1, 2, count, dtype=np.int32)).view(np.float32)
                exact = x / np.where(scale == 0, np.float32(np.inf), scale)
                known = np.isfinite(x) & (np.abs(exact) < 1000) & (np.abs(exact) >= 2.0**-18)
                found = corrected(x, scale)
                assert np.array_equal(found[known], exact[known]), (low, high, short)
                small = np.isfinite(x) & (np.abs(exact) < 2.0**-18)
                assert (np.abs(found[small]) < 2.0**-17).all()
                assert known.mean() > 0.4 or low < -140
        far = corrected(np.full(6, 3e38, np.float32), np.array([0, 1e-45, 1e-30, 1, 1e10, 1e30], np.float32))
        assert far.tolist() == [0, 1024, 1024, 1024, 1024, 1024]


@pytest.mark.skipif(not INTERPRETED.value, reason="a GPU fuses by itself")
@pytest.mark.parametrize("source", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "spec",
    ["int4-g128-zp", "int8-g48-sym-fp16", "int6-g32-min", "int7-g32-min-fp32", "int3-g64-sym-sr", "int2-g32-zp-sr-fp32",
     "int8-g16-zp-e8m0", "mx-e4m3-b32-fp16", "mx-e5m2-b32-bf16", "mx-e2m1-b32-fp32", "mx-int8-b32-bf16"],
)  # fmt: skip
def test_a_gpus_quotients_in_the_interpreter(
    spec: str, source: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter with a multiply-add that rounds once takes the way that GPUs take."""
    used = fuse_in_the_interpreter(monkeypatch)
    codec = parse_codec(spec)
    assert isinstance(codec, GroupedInt | MX)
    x = groups(codec, DTYPES[source])
    with np.errstate(all="ignore"):
        check_decode(check_encode(x, codec, device), x.numel(), codec, DTYPES[source], device)
    assert used
