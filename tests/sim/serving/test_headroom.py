"""The most requests a second: where queues have a closed form it is that, and elsewhere it divides what is served from
what is not.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from thinwire.sim.serving.arrivals import ClosedLoop, Drawn, Fixed, Geometric, Load, LogNormal, Trace
from thinwire.sim.serving.headroom import capacity, rate_of
from thinwire.sim.serving.replica import Batching
from thinwire.sim.serving.run import Change, Setup, Simulation, Window

from .paces import ENGINE, ONE_BY_ONE, Linear


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize(("prompt", "output"), [(1000, 1), (400, 5)])
def test_a_plain_server_serves_one_over_its_time(replicas: int, prompt: int, output: int) -> None:
    """M/D/1: one at a time, D seconds each; stable below 1 / D whatever the arrivals."""
    pace = Linear(iteration_s=0.01, prompt_s=1e-4)
    takes_s = (0.01 + 1e-4 * prompt) + 0.01 * (output - 1)
    found = capacity(Setup(pace, ONE_BY_ONE, replicas), Drawn(0.1, Fixed(prompt), Fixed(output)))
    assert found.value == pytest.approx(replicas / takes_s, rel=0.005)
    assert found.half_width is not None and found.half_width < 0.01 * found.value


def test_a_full_batch_that_decodes_serves_a_place_each_turn() -> None:
    """All places begin and end together: an iteration for the prompts, and one for each token behind the first."""
    places, tokens = 8, 50
    pace = Linear(iteration_s=0.02, prompt_s=0.0, sequence_s=1e-3)
    found = capacity(Setup(pace, Batching(64, places, 1 << 30), 1), Drawn(1.0, Fixed(1), Fixed(tokens)))
    assert found.value == pytest.approx(places / (0.02 + (tokens - 1) * (0.02 + places * 1e-3)), rel=0.01)


@pytest.mark.parametrize(
    "setup",
    [
        Setup(ENGINE, Batching(512, 16, 20_000), 2),
        Setup(ENGINE, Batching(512, 16, 6_000), 1),
        Setup(ENGINE, Batching(512, 16, 20_000), 1, decode_replicas=2),
        Setup(ENGINE, Batching(512, 16, 20_000, chunked_prefill=False), 1),
    ],
)
def test_below_it_queues_settle_and_above_they_grow(setup: Setup) -> None:
    load = Drawn(1.0, LogNormal(300, 0.5, 1000), Geometric(30))
    most = capacity(setup, load)
    assert most.half_width is not None and most.half_width < 0.12 * most.value
    seconds = 3000 / most.value
    for factor, saturated in ((0.85, False), (1.2, True)):
        asked = replace(load, rate_per_s=factor * most.value)
        run = Simulation(setup, asked, Window(seconds, seconds / 10), seed=5).run()
        assert run.saturated == saturated, f"{factor} of {most}"


def test_it_is_the_healthy_deployments_and_the_same_each_time() -> None:
    load = Drawn(1.0, Fixed(300), Geometric(30))
    setup = Setup(ENGINE, Batching(512, 16, 20_000), 2)
    faulty = replace(setup, changes=(Change(1.0, 0, None),))
    assert capacity(setup, load, 3) == capacity(faulty, load, 3) == capacity(setup, load, 3)
    assert capacity(setup, load, 3) != capacity(setup, load, 4)


def test_a_trace_is_served_over_and_over(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(f"{i / 4},1000,1\n" for i in range(41)))
    trace, drawn = Trace(str(path), 2.0), Drawn(1.0, Fixed(1000), Fixed(1))
    setup = Setup(Linear(0.01, 1e-4), ONE_BY_ONE, 1)
    assert capacity(setup, trace).value == pytest.approx(1 / 0.11, rel=0.005)
    assert rate_of(trace) == pytest.approx(41 / 5) and rate_of(drawn) == 1.0
    loop: Load = ClosedLoop(3, Fixed(1000), Fixed(1))
    assert rate_of(loop) is None and capacity(setup, loop).value == pytest.approx(1 / 0.11, rel=0.005)


def test_what_fits_no_replica_is_refused() -> None:
    with pytest.raises(ValueError, match="fits a replica"):
        capacity(Setup(ENGINE, Batching(512, 16, 100), 1), Drawn(1.0, Fixed(300), Fixed(3)))


def test_replicas_that_serve_alike_are_off_together() -> None:
    """One is simulated: the number and its interval are as many times its own."""
    load = Drawn(1.0, LogNormal(300, 0.5, 1000), Geometric(30))
    one, three = (capacity(Setup(ENGINE, Batching(512, 16, 20_000), n), load) for n in (1, 3))
    assert one.half_width and three.half_width == pytest.approx(3 * one.half_width)
    assert three.value == pytest.approx(3 * one.value)


def test_a_request_alone_may_say_little_of_a_full_batch() -> None:
    """Where each sequence costs, a place is free after as many times what a lone request takes: the window follows."""
    places, tokens = 32, 20
    pace = Linear(iteration_s=0.0, prompt_s=0.0, sequence_s=1e-3)
    found = capacity(Setup(pace, Batching(64, places, 1 << 30), 1), Drawn(1.0, Fixed(1), Fixed(tokens)))
    assert found.value == pytest.approx(places / ((tokens - 1) * places * 1e-3), rel=0.03)
    assert found.half_width is not None and found.half_width < 0.1 * found.value


def test_somebody_always_waits() -> None:
    """As much is served as of a queue that nobody can empty. Here places follow from the cache and the mean, so that
    there are more than those while short requests are served: who waits takes them.
    """
    load = Drawn(1.0, LogNormal(300, 1.0, 1500), Geometric(3))
    setup = Setup(Linear(0.01, 0.0), Batching(4000, 8, 2000, chunked_prefill=False), 1)
    found = capacity(setup, load)
    seconds = 6000 / found.value
    run = Simulation(setup, replace(load, rate_per_s=2 * found.value), Window(seconds, seconds / 10), seed=5).run()
    assert run.saturated and found.value == pytest.approx(run.goodput_per_s.value, rel=0.05)


def test_a_traces_long_prompts_are_as_rare_as_they_are(tmp_path: Path) -> None:
    """One in fifty takes half of the cache: the others are served beside it all the same."""
    path = tmp_path / "t.csv"
    rows = "".join(f"{i},{10_000 if i % 50 == 25 else 100},40\n" for i in range(200))
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    setup = Setup(Linear(0.01, 0.0), Batching(512, 16, 20_000), 1)
    plain = capacity(setup, Drawn(1.0, Fixed(100), Fixed(40)))
    found = capacity(setup, Trace(str(path), 1.0))
    assert 0.85 * plain.value < found.value < plain.value
