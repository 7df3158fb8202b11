"""How long calls take on a device: one way of timing for kernels/bench.py and for the campaign in validation/.

What it takes care of, each a mistake that has spoilt published numbers:

- the same input again and again sits in the L2: calls rotate among input sets, more bytes than `ROTATION` L2s between
  two uses of one;
- the first calls compile, allocate and pick algorithms: they are not counted;
- a mean hides a hiccup: median, fastest and 90th percentile of as many repeats as fit `Limits.target_s`;
- short kernels measured one by one measure the launch: `seconds_graph` is the time of one call in a CUDA graph of many,
  gaps between kernels included, and `seconds` that of one call launched on its own, between two events;
- a kernel that leaves part of its output unwritten is fast: `unwritten_bytes` finds such a part.

The clock is a `Watch`. Everything else is plain arithmetic on what it says, so it is tested without a GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import median
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

Call = Callable[[], object]

ROTATION = 2.0
"""L2 sizes that pass between two uses of one input: one would do for an LRU cache, which an L2 is not quite."""
POISONS = (0x5A, 0xA5)
"""Bytes written over an output before a checked call. Each is the other's complement, so a byte that a call writes
equals at most one of them: what equals both was not written."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much to measure, and for whom; every measurement of a campaign is given one.

    Args:
        device: torch's name of it, "cuda" or, in a rehearsal, "cpu".
        l2_bytes: of the device's last-level cache.
        target_s: seconds of timed calls in one measurement, at least `min_repeats` and at most `max_repeats` of them.
        warm_ups: calls before the first that counts.
        graph_s: what the calls of one graph take together at least, so that starting it does not show.
        graph_calls: calls in one graph at most.
        largest_bytes: of the largest tensor (64 KiB to 1 GiB in a campaign).
        deadline_s: on time.monotonic(), when to stop starting measurements.
        copy_bytes_per_s: the device copy measured in the same run, bytes read plus bytes written; None if it was not.
        seed: of all random inputs.
        rehearsal: run through the code on tiny sizes; the numbers mean nothing.
    """

    device: str = "cuda"
    l2_bytes: int = 0
    target_s: float = 0.015
    min_repeats: int = 5
    max_repeats: int = 200
    warm_ups: int = 3
    graph_s: float = 200e-6
    graph_calls: int = 2048
    largest_bytes: int = 2**30
    deadline_s: float = math.inf
    copy_bytes_per_s: float | None = None
    seed: int = 0
    rehearsal: bool = False

    def __post_init__(self) -> None:
        if not (1 <= self.min_repeats <= self.max_repeats and self.warm_ups >= 1 and self.graph_calls >= 1):
            raise ValueError(
                "need 1 <= min_repeats <= max_repeats, warm_ups >= 1 and graph_calls >= 1: "
                f"{self.min_repeats}, {self.max_repeats}, {self.warm_ups}, {self.graph_calls}"
            )

    def late(self) -> bool:
        """Is the deadline over?"""
        return time.monotonic() > self.deadline_s

    def watch(self) -> Watch:
        """The clock of the device."""
        return HostWatch() if self.device == "cpu" else CudaWatch(self.device)


class Watch(Protocol):
    """A device's clock."""

    def laps(self, calls: Sequence[Call]) -> list[float]:
        """Run the calls in order; seconds of each on the device."""

    def burst(self, calls: Sequence[Call]) -> tuple[float, float]:
        """Run the calls in order, nothing in between: seconds until the host has issued them, and until the device has
        done them.
        """

    def record(self, calls: Sequence[Call]) -> Call:
        """One call that does all of these at once, with nothing for the host to do in between."""


class HostWatch:
    """The CPU's clock, for rehearsals: a recorded graph is a loop."""

    def laps(self, calls: Sequence[Call]) -> list[float]:
        """Seconds of each call."""
        found = []
        for call in calls:
            begin = time.perf_counter()
            call()
            found.append(time.perf_counter() - begin)
        return found

    def burst(self, calls: Sequence[Call]) -> tuple[float, float]:
        """On a CPU the host is the device."""
        total = sum(self.laps(calls))
        return total, total

    def record(self, calls: Sequence[Call]) -> Call:
        """A loop."""
        return lambda: [call() for call in calls]


class CudaWatch:
    """CUDA events, and CUDA graphs captured on a stream of its own. All that needs CUDA itself stands here."""

    def __init__(self, device: str = "cuda") -> None:
        self.stream = torch.cuda.Stream(device)

    def laps(self, calls: Sequence[Call]) -> list[float]:
        """Seconds between two events around each call: the launch too, where the device waits for it."""
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in calls]
        torch.cuda.synchronize()
        for call, (begin, end) in zip(calls, events, strict=True):
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) * 1e-3 for begin, end in events]

    def burst(self, calls: Sequence[Call]) -> tuple[float, float]:
        """Host seconds to issue all, device seconds from the first's start to the last's end."""
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        started = time.perf_counter()
        begin.record()
        for call in calls:
            call()
        end.record()
        host_s = time.perf_counter() - started
        torch.cuda.synchronize()
        return host_s, begin.elapsed_time(end) * 1e-3

    def record(self, calls: Sequence[Call]) -> Call:
        """A CUDA graph of the calls; RuntimeError where one of them cannot be captured.

        Not torch.cuda.graph(): that gives the allocator's cache back to the driver before every capture, which costs
        more than what is timed here, a thousand times over.
        """
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            calls[0]()  # libraries make their workspace for this stream before the capture, not in it
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin(capture_error_mode="thread_local")  # what other threads do is none of its business
            try:
                for call in calls:
                    call()
            except BaseException:
                with suppress(RuntimeError):  # a failed call may have ended the capture already
                    graph.capture_end()
                raise
            graph.capture_end()
        current.wait_stream(self.stream)
        return graph.replay


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call, from `repeats` timed runs of `calls` calls each."""

    median_s: float
    fastest_s: float
    p90_s: float
    repeats: int
    calls: int = 1

    @classmethod
    def of(cls, laps_s: Sequence[float], calls: int = 1) -> Timing:
        """From the seconds of each run."""
        each = np.asarray(laps_s, dtype=float) / calls
        if not (len(each) and np.isfinite(each).all() and (each > 0).all()):
            raise ValueError(f"a timing needs positive laps, {len(each)} given: {each[:5].tolist()}")
        return cls(float(np.median(each)), float(each.min()), float(np.quantile(each, 0.9)), len(each), calls)


def sets_needed(bytes_per_set: int, l2_bytes: int, most: int = 2048) -> int:
    """Input sets in rotation: so many that the others outgrow the L2 `ROTATION` times, two at least.

    Args:
        bytes_per_set: what one call reads and writes.
        most: where tensors are small, more would only cost time to set up.
    """
    if bytes_per_set < 1:
        raise ValueError(f"a call moves bytes: bytes_per_set={bytes_per_set}")
    return max(2, min(most, 1 + math.ceil(ROTATION * l2_bytes / bytes_per_set)))


def repeats_for(estimate_s: float, limits: Limits) -> int:
    """Runs that fill `target_s`, within the limits."""
    wanted = limits.target_s / max(estimate_s, 1e-9)
    return math.ceil(min(max(wanted, limits.min_repeats), limits.max_repeats))


def calls_per_graph(sets: int, estimate_s: float, limits: Limits) -> int:
    """Calls in one graph: `graph_s` long at least, in whole rotations where `graph_calls` allows that."""
    wanted = max(math.ceil(limits.graph_s / max(estimate_s, 1e-9)), sets)
    return min(math.ceil(wanted / sets) * sets, limits.graph_calls)


def eager(calls: Sequence[Call], watch: Watch, limits: Limits) -> Timing:
    """Calls one by one, rotating among those given: all alike, each on inputs of its own."""
    if not calls:
        raise ValueError("nothing to time: no calls given")
    rotation = cycle(calls)
    watch.laps(list(islice(rotation, limits.warm_ups)))
    estimate = median(watch.laps(list(islice(rotation, 3))))
    return Timing.of(watch.laps(list(islice(rotation, repeats_for(estimate, limits)))))


def graphed(calls: Sequence[Call], watch: Watch, limits: Limits, estimate_s: float) -> Timing:
    """The same calls inside a graph; `estimate_s` is about what one takes."""
    count = calls_per_graph(len(calls), estimate_s, limits)
    replay = watch.record(list(islice(cycle(calls), count)))
    watch.laps([replay])
    (lap,) = watch.laps([replay])
    return Timing.of(watch.laps([replay] * repeats_for(lap, limits)), count)


def measure(
    calls: Sequence[Call], watch: Watch, limits: Limits, bytes_per_set: int
) -> dict[str, float | int | bool | str | None]:
    """Both ways of timing, as the columns every row of a campaign has; seconds of one call.

    Args:
        calls: one for each input set of the rotation (`sets_needed`).
        bytes_per_set: what one call reads and writes.

    `beyond_l2` is false where the rotation was too short to leave the cache. A call that cannot be captured has
    `seconds_graph` None and `graph_error`.
    """
    one = eager(calls, watch, limits)
    used = min(len(calls), limits.graph_calls)
    row: dict[str, float | int | bool | str | None] = {
        "seconds": one.median_s,
        "seconds_min": one.fastest_s,
        "seconds_p90": one.p90_s,
        "repeats": one.repeats,
        "sets": len(calls),
        "beyond_l2": (used - 1) * bytes_per_set >= ROTATION * limits.l2_bytes,
        "seconds_graph": None,
    }
    try:
        many = graphed(calls, watch, limits, one.median_s)
    except RuntimeError as error:
        return row | {"graph_error": " ".join(str(error).split())[:300]}
    return row | {
        "seconds_graph": many.median_s,
        "seconds_graph_min": many.fastest_s,
        "seconds_graph_p90": many.p90_s,
        "graph_calls": many.calls,
        "graph_repeats": many.repeats,
    }


def unwritten_bytes(call: Call, outputs: Sequence[Tensor]) -> int:
    """How many bytes of the outputs a call leaves as they were: they are poisoned, twice over, before it.

    The call must give the same result both times. Outputs are contiguous.
    """
    left: list[Tensor] = []
    for poison in POISONS:
        raw = [output.reshape(-1).view(torch.uint8) for output in outputs]
        for one in raw:
            one.fill_(poison)
        call()
        kept = [one == poison for one in raw]
        left = [a & b for a, b in zip(left, kept, strict=True)] if left else kept
    return sum(int(one.sum().item()) for one in left)
