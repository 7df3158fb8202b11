"""Seconds of a codec kernel from its counted instructions, and the few constants that only a measurement gives.

A kernel on V values, of programs that take `values` each, costs

    launch + rounds * wait + V * the largest of
        bytes a value / (copy share * the rate at which this GPU copies)
        instructions a value / (issue share * 128 a clock and multiprocessor)
        instructions a value of each pipe / (pipe share * what the pipe executes)
        rounds * wait / (values * programs resident)

rounds are a program's waits for global memory, one after the other; how many programs are resident follows from
registers, shared memory and warps. The five constants are fitted to the kernels that `make gpu` timed on an H200.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from thinwire.reference.core.lookup import parse_codec
from thinwire.topologies.cluster import Gpu
from thinwire.validation.instructions.pipes import CAPABILITIES, ISSUED, LSU, MULTIPROCESSORS, XU, clock_hz
from thinwire.validation.instructions.table import FEW, MANY, Counted, Rows

Floats = NDArray[np.float64]
BF16_BYTES = 2.0
ROBUST_SCALE = 0.1  # residuals beyond 10 % count linearly


@dataclass(frozen=True, slots=True)
class Constants:
    """What was fitted: seconds of a launch and of a wait, shares of the copy's rate, of issue and of the pipes."""

    launch_s: float
    wait_s: float
    copy: float
    issue: float
    pipe: float


START = Constants(1e-6, 4e-7, 0.9, 0.75, 0.85)
LEAST, MOST = Constants(1e-7, 5e-8, 0.5, 0.3, 0.3), Constants(5e-6, 2e-6, 1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Machine:
    """One GPU, as far as its codec kernels go."""

    name: str
    capability: int
    clock_hz: float
    sm_count: int
    copy_bytes_per_s: float  # reads plus writes

    @classmethod
    def of(cls, gpu: Gpu, copy_share: float) -> Machine:
        """Of a GPU file. copy_share: of the memory's bandwidth that a copy reaches. ValueError for GPUs of others."""
        if gpu.name not in CAPABILITIES:
            raise ValueError(f"no codec kernels are compiled for {gpu.name}")
        capability = CAPABILITIES[gpu.name]
        rate = gpu.memory_bandwidth_bytes_per_s * copy_share
        return cls(gpu.name, capability, clock_hz(gpu, capability), gpu.sm_count, rate)

    def value_s(self, kernel: Counted, moved_bytes: float, constants: Constants) -> float:
        """Seconds a value of many, `moved_bytes` of it read or written."""
        each, clocks = MULTIPROCESSORS[self.capability], self.clock_hz * self.sm_count
        pipes = (
            (kernel.fma + kernel.imad) / each.fma,
            kernel.imad / each.imad,
            kernel.alu / each.alu,
            kernel.xu / XU,
            kernel.lsu / LSU,
        )
        resident = each.resident(kernel.registers, kernel.shared, kernel.warps)
        return max(
            moved_bytes / (self.copy_bytes_per_s * constants.copy),
            kernel.a_value(kernel.issued) / (ISSUED * clocks * constants.issue),
            kernel.a_value(max(pipes)) / (clocks * constants.pipe),
            kernel.rounds * constants.wait_s / (kernel.values * self.sm_count * resident),
        )


@dataclass(frozen=True, slots=True)
class Line:
    """What a kernel, or a part of one, adds: seconds a call, and seconds a value."""

    call_s: float
    value_s: float

    def seconds(self, values: float, times: float = 1.0) -> float:
        """`times` of it on so many values."""
        return times * (self.call_s + self.value_s * values)


@dataclass(frozen=True, slots=True)
class Price:
    """A codec's kernels on one machine. A sum takes `copy` for each copy, then `total` to be stored or `again` to be
    encoded; a launch is in all but `copy`.
    """

    encode: Line
    copy: Line
    total: Line
    again: Line
    decode: Line

    def seconds(self, kernel: str, values: float, copies: int) -> float:
        """Of one kernel of the campaign."""
        if kernel in ("encode", "decode"):
            line: Line = getattr(self, kernel)
            return line.seconds(values)
        end = self.again if kernel == "reduce_encode" else self.total
        return self.copy.seconds(values, copies) + end.seconds(values)


def price(codec: str, kernels: Mapping[str, Counted], machine: Machine, constants: Constants) -> Price:
    """A codec's lines. What a copy takes lies between sums of two and of eight: their difference, over six."""
    wire, tensor = parse_codec(codec).bits_per_value / 8, BF16_BYTES

    def line(kernel: str, moved_bytes: float) -> Line:
        found = kernels[kernel]
        call_s = constants.launch_s + found.rounds * constants.wait_s
        return Line(call_s, machine.value_s(found, moved_bytes, constants))

    encode, decode = line("encode", tensor + wire), line("decode", tensor + wire)
    few, many = line(f"reduce{FEW}", FEW * wire + tensor), line(f"reduce{MANY}", MANY * wire + tensor)
    copy = _line((many.call_s - few.call_s) / (MANY - FEW), (many.value_s - few.value_s) / (MANY - FEW))
    total = _line(many.call_s - MANY * copy.call_s, many.value_s - MANY * copy.value_s)
    requantise = f"requantise{MANY}"
    again = _line(total.call_s + encode.call_s, total.value_s + encode.value_s)  # a kernel of its own, after the sum's
    if requantise in kernels:
        both = line(requantise, (MANY + 1) * wire)
        again = _line(both.call_s - MANY * copy.call_s, both.value_s - MANY * copy.value_s)
    return Price(encode, copy, total, again, decode)


def _line(call_s: float, value_s: float) -> Line:
    return Line(max(0.0, call_s), max(0.0, value_s))


@dataclass(frozen=True, slots=True)
class Timed:
    """A kernel that was timed: `encode`, `decode`, `reduce` or `reduce_encode` of a codec."""

    number: int
    kernel: str
    codec: str
    values: float
    copies: int
    seconds: float


def predicted(rows: Sequence[Timed], counts: Rows, machine: Machine, constants: Constants) -> Floats:
    """Seconds of each row, (R,)."""
    prices = {codec: price(codec, counts[codec], machine, constants) for codec in sorted({row.codec for row in rows})}
    return np.array([prices[row.codec].seconds(row.kernel, row.values, row.copies) for row in rows])


def fit(rows: Sequence[Timed], counts: Rows, machine: Machine) -> Constants:
    """Robust least squares of the logarithm of the time."""
    logs = np.log([row.seconds for row in rows])

    def residual(point: Floats) -> Floats:
        return np.asarray(np.log(predicted(rows, counts, machine, Constants(*np.exp(point)))) - logs)

    start, low, high = (np.log(_numbers(one)) for one in (START, LEAST, MOST))
    best = least_squares(residual, start, bounds=(low, high), loss="soft_l1", f_scale=ROBUST_SCALE)
    return Constants(*(float(f"{number:.4g}") for number in np.exp(best.x)))


def _numbers(constants: Constants) -> list[float]:
    return [constants.launch_s, constants.wait_s, constants.copy, constants.issue, constants.pipe]


def left_out(rows: Sequence[Timed], counts: Rows, machine: Machine, by: str) -> Floats:
    """Predicted over measured less one, (R,), each by constants fitted without its `codec` or `kernel` (`by`)."""
    errors = np.zeros(len(rows))
    for fold in sorted({getattr(row, by) for row in rows}):
        own = [at for at, row in enumerate(rows) if getattr(row, by) == fold]
        constants = fit([row for row in rows if getattr(row, by) != fold], counts, machine)
        measured = np.array([rows[at].seconds for at in own])
        errors[own] = predicted([rows[at] for at in own], counts, machine, constants) / measured - 1
    return errors
