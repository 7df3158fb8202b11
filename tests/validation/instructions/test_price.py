"""Prices by hand: what bounds a kernel, what a copy takes, and constants found again."""

from dataclasses import replace

import numpy as np
import pytest

from thinwire.topologies.load import load_gpu
from thinwire.validation.instructions.pipes import CAPABILITIES, CAPPED_CLOCK_HZ, MULTIPROCESSORS, clock_hz
from thinwire.validation.instructions.price import Constants, Machine, Timed, fit, predicted, price
from thinwire.validation.instructions.table import Counted

# 1 GHz, 100 multiprocessors, 1e12 bytes/s: a value's byte takes 1e-12 s, an instruction issued 1 / 12.8e12.
MACHINE = Machine("made up", 90, 1e9, 100, 1e12)
WHOLE = Constants(launch_s=1e-6, wait_s=5e-7, copy=1.0, issue=1.0, pipe=1.0)
SPEC = "int8-g128-zp"  # 8.25 bits a value
# 32 values a thread: 320 instructions are ten a value.
KERNEL = Counted(
    registers=32, shared=0, warps=4, values=4096, rounds=2, issued=320, fma=100, imad=10, alu=100, xu=0, memory=4,
    wide=4, shared_accesses=0, shuffles=0,
)  # fmt: skip


def test_a_kernel_costs_its_tightest_bound() -> None:
    issue = 10 / (128 * 1e9 * 100)
    assert MACHINE.value_s(KERNEL, 0.0, WHOLE) == pytest.approx(issue)
    assert MACHINE.value_s(KERNEL, 3.0, WHOLE) == pytest.approx(3e-12)
    assert MACHINE.value_s(KERNEL, 3.0, replace(WHOLE, copy=0.5)) == pytest.approx(6e-12)
    busy = replace(KERNEL, alu=300)  # 9.4 a value, 64 a clock
    assert MACHINE.value_s(busy, 0.0, WHOLE) == pytest.approx(300 / 32 / (64 * 1e11))
    slow = replace(KERNEL, xu=160)  # five a value, 16 a clock
    assert MACHINE.value_s(slow, 0.0, replace(WHOLE, pipe=0.5)) == pytest.approx(2 * 5 / (16 * 1e11))


def test_few_programs_at_a_time_wait_for_memory() -> None:
    """168 registers and four warps: three programs fit; each waits twice for 0.5 us over 4,096 values."""
    heavy = replace(KERNEL, registers=168)
    assert MULTIPROCESSORS[90].resident(168, 0, 4) == 3
    assert MACHINE.value_s(heavy, 0.0, WHOLE) == pytest.approx(max(10 / 12.8e12, 2 * 5e-7 / (4096 * 100 * 3)))
    long = replace(heavy, rounds=20)
    assert MACHINE.value_s(long, 0.0, WHOLE) == pytest.approx(20 * 5e-7 / (4096 * 100 * 3))


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "programs"),
    [(32, 0, 4, 16), (64, 0, 4, 8), (65, 0, 4, 7), (32, 100_000, 4, 2), (255, 200_000, 16, 1), (16, 0, 1, 32)],
)
def test_programs_that_fit(registers: int, shared: int, warps: int, programs: int) -> None:
    assert MULTIPROCESSORS[90].resident(registers, shared, warps) == programs


def test_a_copy_is_what_lies_between_two_and_eight() -> None:
    kernels = {
        "encode": KERNEL, "decode": KERNEL,
        "reduce2": replace(KERNEL, issued=20 * 32, rounds=4), "reduce8": replace(KERNEL, issued=50 * 32, rounds=10),
        "requantise8": replace(KERNEL, issued=62 * 32, rounds=11),
    }  # fmt: skip
    found = price(SPEC, kernels, replace(MACHINE, copy_bytes_per_s=1e15), WHOLE)
    one = 1 / 12.8e12
    assert found.copy.value_s == pytest.approx(5 * one) and found.copy.call_s == pytest.approx(1 * 5e-7)
    assert found.total.value_s == pytest.approx(10 * one) and found.total.call_s == pytest.approx(1e-6 + 2 * 5e-7)
    assert found.again.value_s == pytest.approx(22 * one) and found.again.call_s == pytest.approx(1e-6 + 3 * 5e-7)
    assert found.seconds("reduce", 1000, 2) == pytest.approx(1e-6 + 4 * 5e-7 + 20 * one * 1000)
    assert found.seconds("reduce_encode", 1000, 8) == pytest.approx(1e-6 + 11 * 5e-7 + 62 * one * 1000)
    assert found.seconds("encode", 1000, 1) == pytest.approx(1e-6 + 2 * 5e-7 + 10 * one * 1000)


def test_a_codec_that_cannot_encode_a_sum_at_once_does_it_in_a_second_kernel() -> None:
    kernels = dict.fromkeys(("encode", "decode", "reduce2", "reduce8"), KERNEL)
    found = price(SPEC, kernels, MACHINE, WHOLE)
    assert found.again.call_s == pytest.approx(found.total.call_s + found.encode.call_s)
    assert found.again.value_s == pytest.approx(found.total.value_s + found.encode.value_s)


def test_constants_are_found_again() -> None:
    """Rows made with known constants, each of which bounds some of them."""
    counts = {
        "int8-g128-zp": dict.fromkeys(("encode", "decode", "reduce2", "reduce8"), KERNEL),
        "int4-g128-zp": dict.fromkeys(("encode", "decode", "reduce2", "reduce8"), replace(KERNEL, issued=2000)),
        "int2-g128-zp": dict.fromkeys(("encode", "decode", "reduce2", "reduce8"), replace(KERNEL, issued=900, alu=900)),
    }
    truth = Constants(launch_s=1.5e-6, wait_s=3e-7, copy=0.8, issue=0.6, pipe=0.7)
    sizes = (1e3, 1e6, 1e8)
    rows = [Timed(0, kind, codec, v, 1, 1.0) for codec in counts for kind in ("encode", "decode") for v in sizes]
    rounds = {"encode": 2, "decode": 7}
    counts = {
        codec: {kind: replace(one, rounds=rounds.get(kind, 2)) for kind, one in kernels.items()}
        for codec, kernels in counts.items()
    }
    seconds = predicted(rows, counts, MACHINE, truth)
    found = fit([replace(r, seconds=float(s)) for r, s in zip(rows, seconds, strict=True)], counts, MACHINE)
    for name in ("launch_s", "wait_s", "copy", "issue", "pipe"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=0.01), name
    assert np.allclose(predicted(rows, counts, MACHINE, found), seconds, rtol=0.01)


@pytest.mark.parametrize(
    ("gpu", "mhz"),
    [("a100-sxm", 1410), ("h100-sxm", 1830), ("b200-sxm", 1856), ("l40s", 2490), ("l40", 2490), ("rtx-4090", 2520)],
)
def test_clocks_follow_from_the_peak(gpu: str, mhz: float) -> None:
    """NVIDIA's boost clocks, but for H100's, whose peak is stated at 1,830; L40 and 4090 do half with fp32 sums."""
    assert clock_hz(load_gpu(gpu), CAPABILITIES[gpu]) / 1e6 == pytest.approx(mhz, rel=0.01)


def test_a_peak_that_was_lowered_on_purpose_says_nothing_of_the_clock() -> None:
    h100 = load_gpu("h100-sxm")
    low = replace(h100, peak_flops_per_s={"bf16": 148e12})
    assert clock_hz(low, 90) == CAPPED_CLOCK_HZ


def test_a_gpu_that_nothing_is_compiled_for_is_refused() -> None:
    with pytest.raises(ValueError, match="no codec kernels are compiled for mi300x"):
        Machine.of(load_gpu("mi300x"), 0.8)
