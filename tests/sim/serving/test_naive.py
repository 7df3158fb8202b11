"""Every request of a serving run, beside a simulator that is too plain to be wrong in the same way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.sim.serving.iteration import Line
from thinwire.sim.serving.question import POLICIES
from thinwire.sim.serving.replica import Batching
from thinwire.sim.serving.run import Change, Setup
from thinwire.sim.serving.statistics import Slo
from thinwire.sim.serving.workload import Chunk

from .naive import Naive, told
from .paces import Linear, Scripted, simulate

# Units in no rational ratio to each other nor to an iteration: two things never happen at the same instant by chance.
TICK_S, FAULT_S = math.sqrt(2) / 100, math.sqrt(3) / 20


@dataclass(frozen=True)
class Sampling(Linear):
    """Every token that comes out costs something too."""

    sample_s: float = 3e-4

    def mixed_s(self, chunks: Sequence[Chunk], finishing: int, sequences: int, context_tokens: int) -> float:
        return super().mixed_s(chunks, finishing, sequences, context_tokens) + self.sample_s * (finishing + sequences)

    def line(self, sequences: int, context_tokens: int) -> Line:
        plain = super().line(sequences, context_tokens)
        return plain._replace(first_s=plain.first_s + self.sample_s * sequences)


ENGINE, SLOW = Sampling(0.01, 2e-5, 1e-4, 1e-8), Sampling(0.03, 1e-4, 3e-4, 1e-7)
ROWS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 2), st.integers(0, 12)),  # ticks since the last; 0: both at once
        st.one_of(st.integers(1, 60), st.integers(1, 400)),
        st.one_of(st.integers(1, 4), st.integers(1, 60)),
    ),
    min_size=1,
    max_size=30,
)
LIMITS = st.builds(
    lambda places, more, kv_tokens, block, chunked: Batching(places + more, places, kv_tokens, chunked, block),
    st.integers(1, 8),
    st.sampled_from((0, 1, 7, 60, 300)),
    st.integers(200, 1500),
    st.sampled_from((1, 5, 16)),
    st.booleans(),
)
FAULTS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5), st.sampled_from((None, ENGINE, SLOW))), max_size=8)


def script(rows: list[tuple[int, int, int]]) -> Scripted:
    """Gaps in ticks as arrival times."""
    at, found = 0, []
    for ticks, prompt, output in rows:
        at += ticks
        found.append((at * TICK_S, prompt, output))
    return Scripted(tuple(found), mean_output=17.0)


def compare(setup: Setup, load: Scripted) -> None:
    """Request by request to 1e-9, and what the run says of all of them."""
    duration_s = load.rows[-1][0] + TICK_S
    warm_up_s, slo = duration_s * 0.3, Slo(0.08, 0.02)
    run, witness = simulate(setup, load, duration_s, warm_up_s, slo)
    naive = Naive(setup, load.rows, 17).run()
    exact = told(naive)
    assert witness.ends.keys() == exact.keys()
    for number, times in exact.items():
        assert witness.ends[number] == pytest.approx(times, rel=1e-9)
    assert (run.refused, run.restarts) == (naive.refused, naive.restarts)
    assert run.iterations == sum(engine.iterations for engine in naive.engines)
    assert run.utilisation == pytest.approx(naive.utilisation(warm_up_s, duration_s), abs=1e-9)
    assert run.queue.value == pytest.approx(naive.mean(2, warm_up_s, duration_s), abs=1e-9)
    assert run.in_system.value == pytest.approx(naive.mean(3, warm_up_s, duration_s), abs=1e-9)
    counted = [r for r in naive.everybody if r.end_s is not None and r.arrival_s >= warm_up_s]
    ttft_s = [r.first_s - r.arrival_s for r in counted if r.first_s is not None]
    assert run.ttft.count == len(ttft_s)
    if ttft_s:
        assert run.ttft.mean.value == pytest.approx(sum(ttft_s) / len(ttft_s))
    ended = sum(
        warm_up_s <= end_s < duration_s
        and first_s - came_s <= slo.ttft_s
        and end_s - first_s <= slo.tpot_s * (load.rows[number][2] - 1)
        for number, (came_s, first_s, end_s) in exact.items()
    )
    assert run.goodput_per_s.value == pytest.approx(ended / (duration_s - warm_up_s))


@given(ROWS, LIMITS)
@settings(max_examples=60, deadline=None)
def test_one_replica(rows: list[tuple[int, int, int]], limits: Batching) -> None:
    """Batching, chunks, KV cache and leaps, with nothing else about."""
    compare(Setup(ENGINE, limits, 1), script(rows))


@given(ROWS, LIMITS, st.sampled_from(POLICIES), st.integers(2, 4), FAULTS)
@settings(max_examples=60, deadline=None)
def test_replicas_behind_a_router(
    rows: list[tuple[int, int, int]],
    limits: Batching,
    policy: str,
    replicas: int,
    faults: list[tuple[int, int, Linear | None]],
) -> None:
    """All policies, with replicas that go down, slow down and come back."""
    changes = tuple(Change(at * FAULT_S, place % replicas, pace) for at, place, pace in faults)
    compare(Setup(ENGINE, limits, replicas, policy, changes=changes), script(rows))  # type: ignore[arg-type]


@given(ROWS, LIMITS, st.sampled_from(POLICIES), st.integers(1, 3), st.integers(1, 3), FAULTS)
@settings(max_examples=60, deadline=None)
def test_separate_pools(
    rows: list[tuple[int, int, int]],
    limits: Batching,
    policy: str,
    replicas: int,
    decoding: int,
    faults: list[tuple[int, int, Linear | None]],
) -> None:
    """Prompts here, decoding there, keys and values under way in between."""
    changes = tuple(Change(at * FAULT_S, place % (replicas + decoding), pace) for at, place, pace in faults)
    setup = Setup(ENGINE, limits, replicas, policy, decoding, transfer_s=moved_s, changes=changes)  # type: ignore[arg-type]
    compare(setup, script(rows))


@pytest.mark.parametrize("policy", POLICIES)
def test_all_that_is_sent_again_begins_together(policy: str) -> None:
    """When a replica goes down the idle one begins with all of its requests, not with the first; so does one that comes
    back with those that waited for it.
    """
    rows = [(0, 50, 200), (1, 10, 1), (1, 60, 200), (1, 10, 1), (1, 70, 200), (50, 9, 9), (1, 9, 9), (0, 9, 9)]
    for changes in (
        (Change(0.5, 0, None),),
        (Change(0.5, 0, None), Change(0.6, 1, None), Change(2.0, 0, ENGINE), Change(2.1, 1, SLOW)),
    ):
        compare(Setup(ENGINE, Batching(512, 8, 4000), 2, policy, changes=changes), script(rows))  # type: ignore[arg-type]


def moved_s(tokens: int) -> float:
    """Of keys and values from pool to pool."""
    return math.pi * 1e-4 * tokens


@pytest.mark.parametrize("chunked", [True, False])
def test_a_long_run(chunked: bool) -> None:
    """Hundreds of requests through a small memory, where rounding could add up."""
    rows = [((i * 7919) % 5, 1 + (i * 104729) % 300, 1 + (i * 1299709) % 50) for i in range(300)]
    setup = Setup(ENGINE, Batching(64, 8, 900, chunked), 2, "least-tokens")
    compare(setup, script(rows))
    compare(replace(setup, leaps=False), script(rows))
