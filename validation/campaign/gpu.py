"""What a GPU is in our hands: its description, its memory's speed, what launching costs, what rate it can sustain.

Everything here runs on the bare GPU machine: torch, the standard library and our own torch-free modules; Triton where
it is installed. `Rig` carries what every measurement needs.
"""

import hashlib
import importlib
import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thinwire import __version__
from thinwire.kernels import timing
from thinwire.kernels.timing import Call, Limits, Watch
from thinwire.validation.campaign.campaign import DoesNotFit, Row, Task, each, said
from thinwire.validation.campaign.shapes import Case, Plan

ARENA_BYTES = 4 * 2**30  # two layers of Llama-3-70B at TP1 are 3.4 GB
BLOCK = 2**26  # random values made in one go
ALIGNMENT = 128  # values: 256 bytes, what the allocator gives too
SUSTAINED_EVERY_S = 0.25


class Arena:
    """A stretch of device memory handed out as tensors, one after the other, from the start again at its end.

    Inputs are random (zeros draw less power and time as if the GPU were faster), made once from a seed: making them
    anew for a thousand measurements would take longer than measuring.
    """

    def __init__(self, nbytes: int, device: str, seed: int | None) -> None:
        self.values = torch.empty(nbytes // 2, dtype=torch.bfloat16, device=device)
        self.at = 0
        if seed is not None:
            generator = torch.Generator(device).manual_seed(seed)
            for start in range(0, len(self.values), BLOCK):
                self.values[start : start + BLOCK].normal_(generator=generator)

    def take(self, *shape: int) -> Tensor:
        """The next piece, bf16. DoesNotFit if the whole arena is smaller."""
        numel = int(np.prod(shape))
        if numel > len(self.values):
            raise DoesNotFit(f"memory: {2 * numel} bytes asked for, {2 * len(self.values)} are set aside")
        if self.at + numel > len(self.values):
            self.at = 0
        piece = self.values[self.at : self.at + numel].view(shape)
        self.at += -(-numel // ALIGNMENT) * ALIGNMENT
        return piece


@dataclass
class Rig:
    """A device, its clock and its memory."""

    limits: Limits
    plan: Plan
    watch: Watch
    inputs: Arena
    scratch: Arena  # outputs go here, so that inputs stay as they are
    random: torch.Generator  # for whole numbers, drawn on the host
    compiled: dict[tuple[str, int], Callable[..., Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, limits: Limits, plan: Plan) -> "Rig":
        """Set aside at most an eighth of the memory for inputs and as much for outputs."""
        nbytes = 2**21
        if limits.device != "cpu":
            nbytes = min(ARENA_BYTES, torch.cuda.get_device_properties(limits.device).total_memory // 8)
        inputs, scratch = Arena(nbytes, limits.device, limits.seed), Arena(nbytes, limits.device, None)
        return cls(limits, plan, limits.watch(), inputs, scratch, torch.Generator().manual_seed(limits.seed))

    @property
    def device(self) -> str:
        """torch's name of it."""
        return self.limits.device

    def timed(self, build: Callable[[], Call], nbytes: int, most: int = 2048) -> Row:
        """Build one call for each input set of a rotation, and time them.

        Args:
            nbytes: what one call reads and writes. most: of sets.
        """
        sets = timing.sets_needed(nbytes, self.limits.l2_bytes, most)
        return timing.measure([build() for _ in range(sets)], self.watch, self.limits, nbytes)


# --- the machine, in words ---


def _output(*command: str) -> str | None:
    """A command's output, None if it cannot be run or fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout.strip() if run.returncode == 0 else None


def commit() -> tuple[str, bool | None]:
    """Git commit and whether files differ from it; GIT_COMMIT in the environment where there is no repository."""
    root = Path(__file__).resolve().parents[2]
    given = os.environ.get("GIT_COMMIT")
    if given:
        return given.removesuffix("-dirty"), given.endswith("-dirty")
    found = _output("git", "-C", str(root), "rev-parse", "HEAD")
    changed = _output("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return (found, bool(changed)) if found else ("unknown", None)


def version(package: str) -> str | None:
    """Version of a package, None where it is not installed."""
    try:
        return str(importlib.import_module(package).__version__)
    except ImportError:
        return None


def driver() -> str | None:
    """Version of NVIDIA's driver; nvidia-smi only reads here and everywhere."""
    found = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    if found is None:
        try:
            words = Path("/proc/driver/nvidia/version").read_text().split()
        except OSError:
            return None
        return next((word for word in words if word.count(".") == 2 and word.replace(".", "").isdigit()), None)
    return found.splitlines()[0].strip()


def describe(device: str, seed: int) -> dict[str, Any]:
    """Machine, versions, commit and time."""
    revision, dirty = commit()
    found: dict[str, Any] = {
        "gpu": "CPU",
        "driver": None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": version("triton"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "host": hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12],
        "git_commit": revision,
        "git_dirty": dirty,
        "thinwire": __version__,
        "seed": seed,
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if device != "cpu":
        gpu = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": gpu.name,
            "driver": driver(),
            "compute_capability": f"{gpu.major}.{gpu.minor}",
            "sm_count": gpu.multi_processor_count,
            "memory_bytes": gpu.total_memory,
            "l2_bytes": gpu.L2_cache_size,
        }
    return found


READINGS = {"clocks.sm": "sm_mhz", "clocks.mem": "memory_mhz", "power.draw": "power_w", "temperature.gpu": "celsius"}


class Monitor:
    """Clocks, power and temperature from nvidia-smi, read four times a second by a process of its own: waiting for one
    reading would let the GPU cool. Without nvidia-smi there are no readings.
    """

    def __init__(self, device: str) -> None:
        command = ["nvidia-smi", f"--query-gpu={','.join(READINGS)}", "--format=csv,noheader,nounits", "-lms", "250"]
        self.process: subprocess.Popen[str] | None = None
        if device != "cpu":
            with suppress(OSError):
                self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def stop(self) -> list[dict[str, float]]:
        """What was read."""
        if self.process is None:
            return []
        self.process.terminate()
        try:
            lines, _ = self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            lines, _ = self.process.communicate()
        return readings(lines)


def readings(lines: str) -> list[dict[str, float]]:
    """nvidia-smi's lines as numbers; a value it cannot read ("[N/A]") is left out."""
    found = []
    for line in lines.splitlines():
        row = {}
        for unit, cell in zip(READINGS.values(), line.split(","), strict=False):
            with suppress(ValueError):
                row[unit] = float(cell)
        if row:
            found.append(row)
    return found


# --- memory ---


@dataclass(frozen=True, slots=True)
class Traffic(Case):
    """A pass over `nbytes`: copy (out of place), fill, or sum (read only)."""

    op: str
    nbytes: int


def memory(rig: Rig, task: Task) -> Iterator[Row]:
    """Copies from the largest down, then fills and sums. Bytes a second count reads plus writes."""
    sizes = [size for size in rig.plan.copies if size <= rig.limits.largest_bytes]
    cases = [Traffic(op, nbytes) for op in ("copy", "fill", "sum") for nbytes in sizes]
    return each(cases, lambda case: _traffic(rig, case), task)


def _traffic(rig: Rig, case: Traffic) -> Row:
    count = case.nbytes // 2
    read, written = case.nbytes * (case.op != "fill"), case.nbytes * (case.op != "sum")

    def build() -> Call:
        target = rig.scratch.take(count)
        if case.op == "fill":
            return lambda: target.fill_(1.5)
        source = rig.inputs.take(count)
        if case.op == "sum":
            return lambda: torch.sum(source, dtype=torch.float32)
        return lambda: target.copy_(source)

    row = rig.timed(build, read + written)
    if case.op == "copy":
        source, target = rig.inputs.take(count), rig.scratch.take(count)
        target.fill_(0)
        target.copy_(source)
        row["equal"] = bool(torch.equal(source, target))
    best = row["seconds_graph"] or row["seconds"]
    return row | {"bytes_read": read, "bytes_written": written, "bytes_per_s": (read + written) / best}


def copy_bytes_per_s(rows: list[Row]) -> float | None:
    """The copy bandwidth that fractions refer to: the best from 64 MiB up, or of the largest there is."""
    rates = {row["nbytes"]: row["bytes_per_s"] for row in rows if row.get("op") == "copy" and "bytes_per_s" in row}
    large = [rate for nbytes, rate in rates.items() if nbytes >= min(64 * 2**20, max(rates))]
    return max(large, default=None)


# --- launching ---


@dataclass(frozen=True, slots=True)
class Launch(Case):
    """One small kernel again and again: torch's in-place add of 256 values, or a Triton kernel that does nothing."""

    kernel: str


def nothing(pointer):  # type: ignore[no-untyped-def]
    """Triton kernel without work. It has no annotations since Triton would take them for its own."""
    return


def launches(rig: Rig, task: Task) -> Iterator[Row]:
    """Host and device time of launches back to back, one by one and in a graph, seconds a launch."""
    return each([Launch("torch add"), Launch("triton nothing")], lambda case: _launch(rig, case), task)


def _launch(rig: Rig, case: Launch) -> Row:
    values = rig.scratch.take(256)
    values.fill_(1.0)
    if case.kernel == "torch add":

        def call() -> object:
            return values.add_(1.0)
    else:
        try:
            kernel = importlib.import_module("triton").jit(nothing)
        except ImportError as error:
            raise DoesNotFit(said(error)) from None
        if rig.device == "cpu":
            raise DoesNotFit("Triton kernels run on GPUs")

        def call() -> object:
            return kernel[(1,)](values)

    count = rig.plan.launches
    calls: list[Call] = [call] * count
    rig.watch.burst(calls)
    bursts = [rig.watch.burst(calls) for _ in range(5)]
    replay = rig.watch.record(calls)
    rig.watch.laps([replay])
    host_s, device_s = np.median(bursts, axis=0) / count
    graph_s = float(np.median(rig.watch.laps([replay] * 5))) / count
    return {
        "launches": count,
        "host_seconds": float(host_s),  # until the host could do something else
        "seconds": float(device_s),  # from one kernel's start to the next one's
        "seconds_graph": graph_s,
        "graph_launch_seconds": float(np.median([rig.watch.burst([replay])[0] for _ in range(5)])),
    }


# --- sustained rate ---


def sustained(rig: Rig, dtype: str, task: Task, clock: Callable[[], float] = time.monotonic) -> Iterator[Row]:
    """A large product for seconds on end, a row every quarter of a second: the rate settles as the power limit bites.

    The last row holds the clocks read meanwhile.
    """
    m, n, k = rig.plan.sustained
    if dtype == "fp8" and not has_fp8(rig.device):
        yield {"dtype": dtype, "left_out": "this GPU has no fp8 products"}
        return
    sets = [product_call(rig, dtype, m, n, k, cast=False) for _ in range(3)]
    rig.watch.laps(sets)
    once_s = rig.watch.burst(sets)[1] / len(sets)
    batch = [sets[i % len(sets)] for i in range(max(3, min(500, round(0.05 / once_s))))]
    every_s = min(SUSTAINED_EVERY_S, rig.plan.sustained_s / 4)
    monitor, begin = Monitor(rig.device), clock()
    runs, seconds, reported = 0, 0.0, begin
    while clock() - begin < rig.plan.sustained_s and not task.late():
        seconds += rig.watch.burst(batch)[1]
        runs += len(batch)
        if clock() - reported >= every_s:
            reported = clock()
            rate = 2.0 * m * n * k * runs / seconds
            yield {"dtype": dtype, "m": m, "n": n, "k": k, "at_s": reported - begin, "flops_per_s": rate}
            runs, seconds = 0, 0.0
    yield {"dtype": dtype, "readings": monitor.stop()}
    if clock() - begin < rig.plan.sustained_s:
        yield {"dtype": dtype, "left_out": "time"}


def has_fp8(device: str) -> bool:
    """Matrix units for fp8: compute capability 8.9 (Ada) and later. On a CPU torch emulates them."""
    return device == "cpu" or torch.cuda.get_device_capability(device) >= (8, 9)


def product_call(rig: Rig, dtype: str, m: int, n: int, k: int, cast: bool = True) -> Call:
    """A call of [m, k] x [k, n] to bf16, as a linear layer does it: the weight lies [n, k].

    fp8: per-tensor scales, e4m3, the activation cast from bf16 in a kernel of its own before each product, as the rows
    of gemm.csv have it; `cast=False` for the product alone.
    """
    a_MK, w_NK, c_MN = rig.inputs.take(m, k), rig.inputs.take(n, k), rig.scratch.take(m, n)
    if dtype == "bf16":
        return lambda: torch.mm(a_MK, w_NK.t(), out=c_MN)
    narrow, one = torch.float8_e4m3fn, torch.ones((), device=rig.device)
    b_KN, ready_MK = w_NK.to(narrow).t(), None if cast else a_MK.to(narrow)

    def scaled() -> Tensor:
        a = a_MK.to(narrow) if ready_MK is None else ready_MK
        return torch._scaled_mm(a, b_KN, scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True)

    return scaled
