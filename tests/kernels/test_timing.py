"""The timing helper: what it counts, how it rotates, and that it finds what was not written. On a GPU its clock too."""

import math
from collections.abc import Sequence

import pytest
import torch

from thinwire.kernels import timing
from thinwire.kernels.timing import Call, CudaWatch, HostWatch, Limits, Timing


class Pretended:
    """A clock that charges each call what it is told and keeps the order of calls."""

    def __init__(self, seconds: Sequence[float], overhead_s: float = 0.0) -> None:
        self.seconds = list(seconds)
        self.overhead_s = overhead_s
        self.laps_given: list[int] = []
        self.recorded: list[int] = []

    def laps(self, calls: Sequence[Call]) -> list[float]:
        self.laps_given.append(len(calls))
        found = []
        for call in calls:
            result = call()
            inner = result if isinstance(result, list) else [result]
            found.append(sum(self.seconds[i % len(self.seconds)] for i in inner) + self.overhead_s)
        return found

    def burst(self, calls: Sequence[Call]) -> tuple[float, float]:
        total = sum(self.laps(calls))
        return total, total

    def record(self, calls: Sequence[Call]) -> Call:
        self.recorded.append(len(calls))
        return lambda: [call() for call in calls]


def numbered(count: int, seen: list[int]) -> list[Call]:
    """Calls that say which they are."""

    def one(number: int) -> Call:
        def call() -> int:
            seen.append(number)
            return number

        return call

    return [one(number) for number in range(count)]


LIMITS = Limits(l2_bytes=1000, target_s=0.010, min_repeats=4, max_repeats=50, warm_ups=3)


def test_calls_rotate_without_a_break_and_warm_ups_do_not_count() -> None:
    """Warm-ups, the estimate and the timed calls go round and round: no input is used twice in a row."""
    seen: list[int] = []
    watch = Pretended([1e-3])
    found = timing.eager(numbered(4, seen), watch, LIMITS)
    assert seen == [i % 4 for i in range(3 + 3 + 10)]
    assert watch.laps_given == [3, 3, 10]
    assert (found.repeats, found.median_s) == (10, pytest.approx(1e-3))


@pytest.mark.parametrize(("seconds", "repeats"), [(1.0, 4), (1e-3, 10), (1e-6, 50), (3e-3, 4), (1.9e-3, 6)])
def test_repeats_fill_the_time_within_limits(seconds: float, repeats: int) -> None:
    assert timing.repeats_for(seconds, LIMITS) == repeats


def test_median_fastest_and_90th_percentile() -> None:
    found = Timing.of([5.0, 1.0, 2.0, 3.0, 4.0, 100.0], 2)
    assert (found.median_s, found.fastest_s, found.repeats, found.calls) == (1.75, 0.5, 6, 2)
    assert found.p90_s == pytest.approx((5.0 + 100.0) / 2 / 2)  # halfway between the last two, of two calls each
    for laps in ([], [0.0], [math.nan], [-1.0]):
        with pytest.raises(ValueError, match="positive laps"):
            Timing.of(laps)


@pytest.mark.parametrize(
    ("bytes_per_set", "l2_bytes", "sets"),
    [(1000, 1000, 3), (999, 1000, 4), (10_000, 1000, 2), (10, 0, 2), (1, 10**9, 2048)],
)
def test_sets_outgrow_the_cache_between_two_uses(bytes_per_set: int, l2_bytes: int, sets: int) -> None:
    found = timing.sets_needed(bytes_per_set, l2_bytes)
    assert found == sets
    if sets < 2048:
        assert (found - 1) * bytes_per_set >= timing.ROTATION * l2_bytes
        assert found == 2 or (found - 2) * bytes_per_set < timing.ROTATION * l2_bytes, "one set less would do"


@pytest.mark.parametrize(
    ("sets", "estimate_s", "count"),
    [(3, 1e-3, 3), (3, 100e-6, 3), (3, 10e-6, 21), (7, 1e-6, 203), (3000, 1e-6, 2048)],
)
def test_graphs_are_long_enough_and_hold_whole_rotations(sets: int, estimate_s: float, count: int) -> None:
    found = timing.calls_per_graph(sets, estimate_s, LIMITS)
    assert found == count
    assert found % sets == 0 or found == LIMITS.graph_calls


def test_a_graph_s_time_is_that_of_one_call() -> None:
    """Sets of 1, 2 and 3 ms cost 2 ms a call; starting the graph (30 us) is spread over its calls."""
    seen: list[int] = []
    watch = Pretended([1e-3, 2e-3, 3e-3], overhead_s=30e-6)
    row = timing.measure(numbered(3, seen), watch, LIMITS, bytes_per_set=1000)
    assert watch.recorded == [3]
    assert row["seconds_graph"] == pytest.approx(2e-3 + 10e-6)
    assert row["seconds"] == pytest.approx(2e-3 + 30e-6)
    assert (row["sets"], row["graph_calls"], row["beyond_l2"]) == (3, 3, True)
    row = timing.measure(numbered(2, seen), watch, LIMITS, bytes_per_set=1000)
    assert row["beyond_l2"] is False


def test_a_call_that_no_graph_takes_is_timed_alone() -> None:
    class Refuses(Pretended):
        def record(self, calls: Sequence[Call]) -> Call:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")

    row = timing.measure(numbered(3, []), Refuses([1e-3]), LIMITS, 1000)
    assert row["seconds_graph"] is None
    assert row["graph_error"] == "operation not permitted when stream is capturing"
    assert row["seconds"] == pytest.approx(1e-3)


def test_nothing_to_time_and_nonsense_are_refused() -> None:
    with pytest.raises(ValueError, match="no calls given"):
        timing.eager([], Pretended([1.0]), LIMITS)
    with pytest.raises(ValueError, match="bytes_per_set=0"):
        timing.sets_needed(0, 1)
    with pytest.raises(ValueError, match="min_repeats"):
        Limits(min_repeats=5, max_repeats=4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_what_is_not_written_is_found(dtype: torch.dtype) -> None:
    whole, part = torch.zeros(64, dtype=dtype), torch.zeros(64, dtype=dtype)
    source = torch.arange(64).to(dtype)

    def call() -> None:
        whole.copy_(source)
        part[:61].copy_(source[:61])

    assert timing.unwritten_bytes(call, [whole]) == 0
    assert timing.unwritten_bytes(call, [whole, part]) == 3 * part.element_size()


def test_a_byte_that_happens_to_equal_the_poison_is_no_fault() -> None:
    """One poison alone would take a written 0x5A for unwritten."""
    out = torch.zeros(4, dtype=torch.uint8)
    values = torch.tensor([*timing.POISONS, 0, 255], dtype=torch.uint8)
    assert timing.unwritten_bytes(lambda: out.copy_(values), [out]) == 0


def test_a_rehearsal_s_clock_runs_what_it_is_given() -> None:
    seen: list[int] = []
    watch = HostWatch()
    assert len(watch.laps(numbered(3, seen))) == 3
    watch.record(numbered(2, seen))()
    host_s, device_s = watch.burst(numbered(1, seen))
    assert seen == [0, 1, 2, 0, 1, 0] and 0 < host_s == device_s


def test_the_deadline() -> None:
    assert not Limits().late()
    assert Limits(deadline_s=0.0).late()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the CUDA clock needs a GPU")
def test_cuda_s_clock() -> None:
    """Graph replays do the work, and both ways of timing agree on a kernel that takes far longer than its launch.

    Not a copy: one of 512 MiB takes 258 us on an H200, captured in a graph, as a copy of memory, 390.
    """
    source = torch.randn(2**27, device="cuda")
    targets = [torch.zeros_like(source) for _ in range(2)]
    limits = Limits(l2_bytes=torch.cuda.get_device_properties("cuda").L2_cache_size)
    watch = limits.watch()
    assert isinstance(watch, CudaWatch)
    calls: list[Call] = [lambda t=t: torch.abs(source, out=t) for t in targets]
    replay = watch.record(calls)
    for target in targets:
        target.zero_()
    replay()
    torch.cuda.synchronize()
    assert all(torch.equal(target, source.abs()) for target in targets)
    row = timing.measure(calls, watch, limits, 2 * source.nbytes)
    assert row["seconds_graph"] == pytest.approx(row["seconds"], rel=0.2)
    host_s, device_s = watch.burst(calls[:1] * 10)
    assert host_s < device_s == pytest.approx(10 * row["seconds"], rel=0.3)
    used: list[int] = []

    def fails() -> None:
        used.append(1)
        if len(used) == 2:  # the first call is outside the capture
            raise ValueError("in the middle of a capture")

    with pytest.raises(ValueError, match="in the middle"):
        watch.record([fails])
    torch.cuda.synchronize()
    assert watch.laps([lambda: targets[0].zero_()])[0] > 0, "a failed capture leaves the device usable"
