"""Serving runs: queues with known answers, nobody lost whatever fails, and what more capacity must do."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.sim.serving.arrivals import ClosedLoop, Drawn, Fixed, Geometric, LogNormal
from thinwire.sim.serving.question import POLICIES
from thinwire.sim.serving.replica import Batching
from thinwire.sim.serving.run import Change, Setup, Simulation, Window
from thinwire.sim.serving.statistics import Estimate, Slo

from .naive import Naive
from .paces import ENGINE, ONE_BY_ONE, Linear, Scripted, simulate

SECOND = 1_000_000  # prompt tokens that take Linear's default a second
SMALL = Batching(128, 16, 2048)
LOAD = Drawn(12.0, LogNormal(60, 1.0, 400), LogNormal(20, 1.0, 100))


def holds(estimate: Estimate, truth: float, widths: float = 1.5) -> bool:
    """Within the confidence interval, a little widened: one in twenty seeds misses its own."""
    assert estimate.half_width is not None
    return abs(estimate.value - truth) <= widths * estimate.half_width


def erlang_c(servers: int, load: float) -> float:
    """Chance that a customer of M/M/c waits."""
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(load**k / math.factorial(k) for k in range(servers)) + last)


# --- queues with known answers ---


@pytest.mark.parametrize(("rho", "seed"), [(0.3, 0), (0.6, 1), (0.8, 2)])
def test_fixed_service_is_m_d_1(rho: float, seed: int) -> None:
    load = Drawn(rho, Fixed(SECOND), Fixed(1))
    run, _ = simulate(Setup(Linear(), ONE_BY_ONE, 1), load, 40_000, 1_000, seed=seed)
    waits_s = rho / (2 * (1 - rho))  # Pollaczek-Khinchine
    assert holds(run.latency.mean, 1 + waits_s)
    assert holds(run.queue, rho * waits_s)
    assert holds(run.in_system, rho * (1 + waits_s))
    assert abs(run.utilisation - rho) < 0.02
    assert run.latency.mean.half_width is not None and run.latency.mean.half_width < 0.1 * (1 + waits_s)
    assert not run.saturated


def test_confidence_intervals_hold_the_mean_as_often_as_they_say() -> None:
    """19 of 20, were the batches independent; fewer than 16 would say that they are not."""
    load, setup = Drawn(0.6, Fixed(SECOND), Fixed(1)), Setup(Linear(), ONE_BY_ONE, 1)
    means = [simulate(setup, load, 2_500, 100, seed=seed)[0].latency.mean for seed in range(20)]
    assert sum(holds(mean, 1 + 0.6 / 0.8, 1.0) for mean in means) >= 16


@pytest.mark.parametrize(("servers", "load", "seed"), [(1, 0.7, 0), (2, 1.4, 1), (4, 3.2, 2)])
def test_a_shared_queue_is_m_m_c(servers: int, load: float, seed: int) -> None:
    arrivals = Drawn(load, Geometric(SECOND), Fixed(1))
    run, _ = simulate(Setup(Linear(), ONE_BY_ONE, servers, "shared-queue"), arrivals, 15_000, 1_000, seed=seed)
    assert holds(run.latency.mean, 1 + erlang_c(servers, load) / (servers - load))
    assert abs(run.utilisation - load / servers) < 0.02


def test_round_robin_over_many_is_not_m_m_c_and_least_tokens_lies_between() -> None:
    """Routing at arrival cannot know who will be free first; lengths known in advance help a lot."""
    arrivals = Drawn(3.2, Geometric(SECOND), Fixed(1))
    means = {}
    for policy in POLICIES:
        run, _ = simulate(Setup(Linear(), ONE_BY_ONE, 4, policy), arrivals, 4_000, 500)
        means[policy] = run.latency.mean.value
    assert means["shared-queue"] < means["least-tokens"] * 1.05 < means["round-robin"]


def test_places_in_a_batch_are_servers_too() -> None:
    """With iterations that take the same whoever is in them, continuous batching is M/M/c of output tokens."""
    slots, tokens = 6, 400
    pace, limits = Linear(1 / tokens, 0.0), Batching(1 << 20, slots, 1 << 40, kv_block=1)
    load = Drawn(4.5, Fixed(1), Geometric(tokens + 1))  # the prompt's iteration gives the first token
    run, _ = simulate(Setup(pace, limits, 1), load, 6_000, 500, seed=3)
    served_s = 1 + 1.5 / tokens  # its prompt waits half an iteration for the one under way
    expected = served_s + erlang_c(slots, 4.5 * served_s) * served_s / (slots - 4.5 * served_s)
    assert abs(run.latency.mean.value / expected - 1) < 0.05
    assert holds(run.latency.mean, expected, 2)


def test_an_idle_engine_takes_prompt_and_steps() -> None:
    load = Drawn(0.01, Fixed(100), Fixed(11))
    run, _ = simulate(Setup(ENGINE, SMALL, 1), load, 5_000)
    ttft_s = ENGINE.mixed_s([(100, 100)], 1, 0, 0)
    steps_s = sum(ENGINE.line(1, 100 + n).first_s for n in range(1, 11))
    assert run.ttft.mean.value == pytest.approx(ttft_s)
    assert run.tpot.mean.value == pytest.approx(steps_s / 10)
    assert run.latency.mean.value == pytest.approx(ttft_s + steps_s)


def test_a_long_prompt_is_cut_and_decoding_goes_on_beside_it() -> None:
    load, limits = Drawn(0.01, Fixed(300), Fixed(1)), Batching(128, 16, 4096)
    cut, _ = simulate(Setup(ENGINE, limits, 1), load, 5_000)
    whole, _ = simulate(Setup(ENGINE, replace(limits, chunked_prefill=False), 1), load, 5_000)
    chunks_s = sum(ENGINE.mixed_s([chunk], 0, 0, 0) for chunk in ((128, 128), (128, 256), (44, 300)))
    assert cut.ttft.mean.value == pytest.approx(chunks_s)
    assert whole.ttft.mean.value == pytest.approx(ENGINE.mixed_s([(300, 300)], 1, 0, 0))
    two = Scripted(((0.0, 10, 41), (0.1001, 300, 1)))  # the second comes in the midst of an iteration
    _, beside = simulate(Setup(ENGINE, limits, 1), two, 1)
    _, still = simulate(Setup(ENGINE, replace(limits, chunked_prefill=False), 1), two, 1)
    first_s = ENGINE.mixed_s([(10, 10)], 1, 0, 0)
    steps_s = [ENGINE.line(1, 10 + n).first_s for n in range(1, 41)]
    before = next(n for n in range(41) if first_s + sum(steps_s[:n]) >= 0.1001)
    joined_s = first_s + sum(steps_s[:before])
    alone_s = ENGINE.mixed_s([(300, 300)], 1, 0, 0)
    assert still.ends[1][2] == pytest.approx(joined_s + alone_s)
    assert still.ends[0][2] == pytest.approx(first_s + sum(steps_s) + alone_s)
    mixed = ((127, 127), (127, 254), (46, 300))  # beside a token of the first, whose context grows as they go
    mixed_s = [ENGINE.mixed_s([chunk], 0, 1, 11 + before + i) for i, chunk in enumerate(mixed)]
    assert beside.ends[1][2] == pytest.approx(joined_s + sum(mixed_s))
    assert beside.ends[0][2] == pytest.approx(joined_s + sum(mixed_s) + sum(steps_s[before + 3 :]))


def test_a_closed_loop_keeps_its_users_under_way() -> None:
    pace, limits = Linear(0.01, 0.0), Batching(1 << 20, 64, 1 << 30)
    run, _ = simulate(Setup(pace, limits, 1), ClosedLoop(8, Fixed(10), Fixed(20)), 400)
    assert run.in_system.value == pytest.approx(8)
    assert run.output_tokens_per_s.value == pytest.approx(8 / 0.01, rel=0.01)
    assert run.ttft.mean.value == pytest.approx(0.01, rel=0.01)
    with pytest.raises(ValueError, match="fits a replica"):
        simulate(Setup(pace, Batching(64, 4, 16), 1), ClosedLoop(2, Fixed(10), Fixed(20)), 10)


# --- leaps ---


@given(st.sampled_from(POLICIES), st.integers(0, 1000), st.sampled_from((0, 2)), st.booleans(), st.booleans())
@settings(max_examples=20)
def test_leaps_change_nothing(policy: str, seed: int, decode_replicas: int, chunked: bool, tight: bool) -> None:
    setup = Setup(
        ENGINE,
        replace(SMALL, chunked_prefill=chunked, kv_tokens=512 if tight else SMALL.kv_tokens),
        2,
        policy,  # type: ignore[arg-type]
        decode_replicas,
        transfer_s=lambda tokens: 1e-4 * tokens,
        changes=(Change(7.77, 0, None), Change(12.3, 0, ENGINE), Change(15.0, 1, Linear(0.02, 4e-5, 2e-4, 2e-8))),
    )
    leaping, a = simulate(setup, LOAD, 25, seed=seed)
    stepping, b = simulate(replace(setup, leaps=False), LOAD, 25, seed=seed)
    assert a.ends.keys() == b.ends.keys()
    for number, times in a.ends.items():
        assert times == pytest.approx(b.ends[number], rel=1e-9)
    assert leaping.iterations == stepping.iterations == stepping.events >= leaping.events
    assert leaping.restarts == stepping.restarts


def test_leaps_spare_events() -> None:
    run, _ = simulate(Setup(ENGINE, SMALL, 1), Drawn(0.5, Fixed(50), Fixed(200)), 600)
    assert run.events < run.iterations / 10


# --- nobody lost, nobody twice ---

FAULTS = st.lists(st.tuples(st.floats(0, 20), st.integers(0, 4), st.sampled_from(("down", "up", "slow"))), max_size=12)


@given(
    faults=FAULTS,
    policy=st.sampled_from(POLICIES),
    decode_replicas=st.integers(0, 2),
    chunked=st.booleans(),
    seed=st.integers(0, 99),
    kv_tokens=st.sampled_from((320, 800, 4000)),
    transfer_s=st.sampled_from((0.0, 1e-3)),
)
@settings(max_examples=40)
def test_nobody_is_lost_or_served_twice(
    faults: list[tuple[float, int, str]],
    policy: str,
    decode_replicas: int,
    chunked: bool,
    seed: int,
    kv_tokens: int,
    transfer_s: float,
) -> None:
    """Whatever goes down and comes back when; the witness checks every request, every admission and Little's law."""
    paces = {"down": None, "up": ENGINE, "slow": Linear(0.03, 1e-4, 1e-4, 1e-7)}
    replicas = 3 + decode_replicas
    changes = tuple(Change(at_s, place % replicas, paces[what]) for at_s, place, what in faults)
    setup = Setup(
        ENGINE,
        Batching(128, 16, kv_tokens, chunked),
        3,
        policy,  # type: ignore[arg-type]
        decode_replicas,
        transfer_s=lambda tokens: transfer_s * tokens,
        changes=changes,
    )
    run, _ = simulate(setup, LOAD, 20, seed=seed)
    up = set(range(replicas))
    for change in sorted(changes, key=lambda change: change.at_s):
        (up.discard if change.pace is None else up.add)(change.replica)
    able = bool(up & {0, 1, 2}) and (not decode_replicas or bool(up - {0, 1, 2}))
    assert not (able and run.unfinished)
    assert run.refused == 0 or kv_tokens < 500
    if not faults:
        assert run.restarts == 0


def test_a_replica_down_costs_its_requests_their_time_and_no_more() -> None:
    """One of two goes down with a request half done: it is sent again with the tokens it had."""
    load = ClosedLoop(1, Fixed(100), Fixed(50))
    calm, _ = simulate(Setup(ENGINE, SMALL, 2), load, 1e-3)
    at_s = calm.end_s / 2
    struck, witness = simulate(Setup(ENGINE, SMALL, 2, changes=(Change(at_s, 0, None),)), load, 1e-3)
    passed = 0
    spent_s = ENGINE.mixed_s([(100, 100)], 1, 0, 0)
    while spent_s + ENGINE.line(1, 101 + passed).first_s <= at_s:
        spent_s += ENGINE.line(1, 101 + passed).first_s
        passed += 1
    had = 1 + passed
    again_s = ENGINE.mixed_s([(100 + had - 0, 100 + had)], 1, 0, 0)
    rest_s = sum(ENGINE.line(1, 100 + n).first_s for n in range(had + 1, 50))
    assert struck.restarts == 1 and struck.finished == 1
    assert struck.end_s == pytest.approx(at_s + again_s + rest_s)
    assert witness.ends[0][1] == pytest.approx(ENGINE.mixed_s([(100, 100)], 1, 0, 0))  # the first token stays out


@pytest.mark.parametrize("first_s", [0.25, 0.5, 1.0, 2.0, 3.0])
def test_the_first_token_is_the_first_whatever_the_clock_shows(first_s: float) -> None:
    """A request that was sent again gave its first token when it did, also where that is a round number."""
    setup = Setup(Linear(first_s, 0.0), Batching(64, 8, 1000), 2, changes=(Change(2.5 * first_s, 0, None),))
    _, witness = simulate(setup, Scripted(((0.0, 10, 5),)), 20.0)
    assert witness.ends[0] == (0.0, first_s, pytest.approx(5.5 * first_s))


def test_what_is_under_way_is_lost_with_the_replica_it_comes_from() -> None:
    """Keys and values half-way to the other pool, when their source goes down: the prompt is run again elsewhere."""
    script, down = Scripted(((0.0, 100, 10),)), (Change(1.0, 0, None),)
    setup = Setup(ENGINE, SMALL, 2, decode_replicas=1, transfer_s=lambda tokens: 5.0, changes=down)
    run, witness = simulate(setup, script, 1)
    again_s = ENGINE.mixed_s([(101, 101)], 1, 0, 0)
    steps_s = sum(ENGINE.line(1, 102 + n).first_s for n in range(8))
    assert run.restarts == 1
    assert witness.ends[0][1] == pytest.approx(ENGINE.mixed_s([(100, 100)], 1, 0, 0))
    assert run.end_s == pytest.approx(1.0 + again_s + 5.0 + steps_s)


def test_where_all_are_down_requests_wait_and_are_served_later() -> None:
    down = (Change(5.0, 0, None), Change(5.0, 1, None))
    for policy in POLICIES:
        gone, _ = simulate(Setup(ENGINE, SMALL, 2, policy, changes=down), LOAD, 10)
        assert gone.unfinished > 0
        back, witness = simulate(Setup(ENGINE, SMALL, 2, policy, changes=(*down, Change(30.0, 1, ENGINE))), LOAD, 10)
        assert back.unfinished == 0 and back.end_s > 30
        assert max(end for _, _, end in witness.ends.values()) == back.end_s


def test_a_straggler_slows_from_its_time_on_and_a_recovery_heals() -> None:
    load = Drawn(4.0, Fixed(100), Fixed(30))
    slow = Linear(0.03, 6e-5, 3e-4, 3e-8)
    means = []
    for changes in ((), (Change(50.0, 0, slow), Change(100.0, 0, ENGINE)), (Change(50.0, 0, slow),)):
        run, _ = simulate(Setup(ENGINE, SMALL, 1, changes=changes), load, 200)
        means.append(run.tpot.mean.value)
    assert means[0] < means[1] < means[2]


def test_who_is_first_after_another_was_taken_is_seen_by_all() -> None:
    """A shared queue's head fits nobody; the one behind it fits a replica that decodes on and on."""
    rows = ((0.0, 10, 300), (0.001, 10, 100), (0.2, 750, 10), (0.201, 20, 30))
    setup = Setup(ENGINE, Batching(2048, 8, 800, kv_block=1), 2, "shared-queue")
    _, witness = simulate(setup, Scripted(rows), 1)
    freed_s = witness.ends[1][2]  # where the big one goes; the small one goes to the other replica at once
    assert freed_s < witness.ends[3][1] < freed_s + 0.03 < witness.ends[0][2]


def test_the_end_is_that_of_a_request_whatever_changes_later() -> None:
    late = Setup(ENGINE, SMALL, 1, changes=(Change(5000.0, 0, None),))
    load = Drawn(2.0, Fixed(50), Fixed(10))
    run, witness = simulate(late, load, 30)
    assert run.end_s == max(30, *(end for _, _, end in witness.ends.values())) < 31


def test_what_is_so_from_the_start_is_so_for_a_closed_loop_too() -> None:
    load, slow = ClosedLoop(4, Fixed(100), Fixed(20)), Linear(0.02, 4e-5, 2e-4, 2e-8)
    from_start, _ = simulate(Setup(ENGINE, SMALL, 1, changes=(Change(0.0, 0, slow),)), load, 20)
    always, _ = simulate(Setup(slow, SMALL, 1), load, 20)
    assert from_start.to_dict() == always.to_dict()
    down, _ = simulate(Setup(ENGINE, SMALL, 2, changes=(Change(0.0, 0, None),)), load, 20)
    assert down.restarts == 0 and down.finished == down.arrived


def test_what_is_sent_again_fits_where_prompts_are_run() -> None:
    """The pool that decodes has more memory than the one for prompts, which must hold what had been generated too."""
    small, large = Batching(128, 8, 160, kv_block=1), Batching(128, 8, 4000, kv_block=1)
    changes = tuple(Change(at_s, 1, pace) for at_s in (2.0, 4.0, 6.0) for pace in (None, ENGINE))
    load = Drawn(4.0, Fixed(100), LogNormal(60, 1.0, 400))
    setup = Setup(ENGINE, small, 1, decode_replicas=1, decode_limits=large, transfer_s=lambda tokens: 1e-3)
    struck, _ = simulate(replace(setup, changes=changes), load, 10)
    assert struck.restarts > 0 and struck.unfinished == 0 < struck.refused
    calm, _ = simulate(setup, load, 10)
    assert calm.refused == 0


def test_requests_that_nobody_serves_keep_no_slo() -> None:
    run, _ = simulate(Setup(ENGINE, SMALL, 1, changes=(Change(10.0, 0, None),)), Drawn(2.0, Fixed(50), Fixed(10)), 20)
    assert run.unfinished > 10
    assert run.attainment == pytest.approx(run.finished / run.arrived)


# --- memory, order, growth ---


def test_requests_are_admitted_in_order_and_wait_while_memory_is_full() -> None:
    run, witness = simulate(Setup(ENGINE, Batching(128, 16, 448), 1), LOAD, 60)
    assert witness.order == sorted(witness.order)
    assert run.queue_most > 15 and run.kv_most > 0.9
    roomy, _ = simulate(Setup(ENGINE, Batching(128, 16, 60_000), 1), LOAD, 60)
    assert roomy.latency.mean.value < run.latency.mean.value


def test_what_never_fits_is_refused_and_said() -> None:
    run, _ = simulate(Setup(ENGINE, Batching(128, 16, 160), 1), LOAD, 60)
    assert 0 < run.refused < run.arrived


@pytest.mark.parametrize("policy", POLICIES)
def test_more_of_everything_is_never_worse(policy: str) -> None:
    """On the same requests: more replicas, more memory, a faster engine."""
    load = Drawn(20.0, LogNormal(100, 1.0, 400), LogNormal(40, 1.0, 200))
    base = Setup(ENGINE, Batching(256, 8, 3000), 2, policy)  # type: ignore[arg-type]
    mean = simulate(base, load, 120)[0].latency.mean.value
    for better in (
        replace(base, replicas=3),
        replace(base, limits=Batching(256, 8, 6000)),
        replace(base, limits=Batching(256, 16, 3000)),
        replace(base, pace=Linear(0.008, 1.6e-5, 8e-5, 8e-9)),
    ):
        assert simulate(better, load, 120)[0].latency.mean.value <= mean


def test_overload_is_called_saturated_and_its_rates_are_the_capacity() -> None:
    load = Drawn(2.0, Fixed(SECOND), Fixed(1))
    run, _ = simulate(Setup(Linear(), ONE_BY_ONE, 1), load, 1000, 100)
    assert run.saturated
    assert run.goodput_per_s.value == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(("rho", "saturated"), [(0.995, False), (1.018, True)])
def test_slow_saturation_is_seen_in_a_long_run(rho: float, saturated: bool) -> None:
    """Two in a hundred too many, all of whom wait: in an hour or a day that is a long queue."""
    run, _ = simulate(Setup(Linear(), ONE_BY_ONE, 1), Drawn(rho, Fixed(SECOND), Fixed(1), 1e-6), 60_000)
    assert run.in_system_growth < 0.02 * run.arrived
    assert run.saturated == saturated


OVERLOADS = {
    # name: (setup, requests a second, tokens of prompt and answer, saturated, filling)
    "a calm house": (Setup(ENGINE, Batching(256, 64, 1 << 20), 4), 40.0, (50, 8), False, False),
    "long answers, none of whom waits": (Setup(ENGINE, Batching(256, 256, 1 << 20), 4), 60.0, (20, 500), False, True),
    "long answers, more than there are places": (
        Setup(ENGINE, Batching(256, 64, 1 << 20), 4), 60.0, (20, 500), True, False,
    ),
    "too many prompts, all with a place": (Setup(ENGINE, Batching(512, 512, 1 << 20), 1), 60.0, (800, 2), True, False),
    "too few places": (Setup(ENGINE, Batching(256, 4, 1 << 20), 2), 60.0, (20, 30), True, False),
    "too little memory": (Setup(ENGINE, Batching(256, 64, 512), 2), 60.0, (40, 60), True, False),
    "a pool that decodes too slowly": (
        Setup(ENGINE, Batching(256, 8, 1 << 20), 2, decode_replicas=1), 60.0, (20, 30), True, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERLOADS)
def test_saturated_is_who_waits_longer_and_longer_as_the_plain_simulator_sees_it(name: str) -> None:
    setup, rate, (prompt, output), saturated, filling = OVERLOADS[name]
    load, duration_s, warm_up_s = Drawn(rate, Fixed(prompt), Fixed(output)), 5.0, 0.5
    run, _ = simulate(setup, load, duration_s, warm_up_s)
    rows = [row for piece in load.pieces(0, duration_s) for row in zip(*(x.tolist() for x in piece), strict=True)]
    plain = Naive(setup, rows, output).run()
    grew = plain.unanswered(duration_s) - plain.unanswered(warm_up_s)
    house = rate * sum(r.end_s - r.arrival_s for r in plain.everybody) / len(plain.everybody)  # type: ignore[operator]
    overflows = house > sum(engine.limits.max_sequences for engine in plain.engines) and not plain.separate
    chance = 3 * math.sqrt(sum(at_s >= warm_up_s for at_s, *_ in rows))
    assert (grew > chance or overflows, run.saturated, run.filling) == (saturated, saturated, filling)
    assert run.in_system_growth > chance or not (saturated or filling)


def test_many_replicas_that_fill_for_a_moment_are_not_saturated() -> None:
    """The run that was called so: 64 replicas, 512 requests a second for 20 s, four of whom wait."""
    slow = Linear(0.03, 2e-5, 1e-4, 1e-8)
    run, _ = simulate(Setup(slow, Batching(2048, 256, 1 << 20), 64), Drawn(512.0, Fixed(300), Fixed(300)), 20)
    assert run.in_system_growth > 4 * math.sqrt(run.arrived) and run.queue.value < 20
    assert not run.saturated and run.filling


def test_a_house_that_cannot_hold_what_comes_is_saturated_before_anybody_waits() -> None:
    """A plan once took two replicas for five requests a second whose answers take minutes: nobody waited yet."""
    setup = Setup(ENGINE, Batching(256, 64, 1 << 20), 2)
    run, _ = simulate(setup, Drawn(3.0, Fixed(100), Fixed(10_000)), 30, 3)
    assert run.queue_most < 30 and run.saturated and not run.filling


def test_a_burst_at_the_end_is_not_saturation() -> None:
    calm = [(float(at), 100, 2) for at in range(300)]
    rows = sorted((*calm, *((299.6 + i / 1000, 100, 2) for i in range(100))))
    run, _ = simulate(Setup(Linear(0.05, 1e-4), ONE_BY_ONE, 1), Scripted(tuple(rows)), 300, 30)
    assert run.queue_most > 90 and not run.saturated


def test_a_closed_loop_is_never_saturated() -> None:
    run, _ = simulate(Setup(ENGINE, Batching(256, 4, 1 << 20), 1), ClosedLoop(500, Fixed(20), Fixed(5)), 20, 0.0)
    assert run.queue.value > 400 and not run.saturated


def test_goodput_counts_those_that_keep_both_limits() -> None:
    setup, load = Setup(ENGINE, SMALL, 1), Drawn(3.0, Fixed(100), Fixed(30))
    calm, _ = simulate(setup, load, 100)
    slo = Slo(calm.ttft.percentiles[0.9].value, calm.tpot.percentiles[0.5].value)
    run, witness = simulate(setup, load, 100, slo=slo)
    times = witness.ends.values()
    good = [(first - came <= slo.ttft_s, (end - first) / 29 <= slo.tpot_s) for came, first, end in times]
    assert 0 < run.attainment < 1
    assert run.attainment == pytest.approx(sum(a and b for a, b in good) / len(good))
    assert sum(a for a, _ in good) > sum(a and b for a, b in good) < sum(b for _, b in good)


def test_separate_pools_pay_for_the_transfer_and_decode_undisturbed() -> None:
    load = Drawn(6.0, Fixed(400), Fixed(40))
    limits = Batching(512, 64, 1 << 20)
    both, _ = simulate(Setup(ENGINE, limits, 2), load, 200)
    apart, _ = simulate(Setup(ENGINE, limits, 1, decode_replicas=1), load, 200)
    far, _ = simulate(Setup(ENGINE, limits, 1, decode_replicas=1, transfer_s=lambda tokens: 0.01 * tokens), load, 200)
    assert far.ttft.mean.value == pytest.approx(apart.ttft.mean.value)
    assert far.latency.mean.value == pytest.approx(apart.latency.mean.value + 4.01, rel=0.02)
    assert apart.tpot.percentiles[0.99].value < both.tpot.percentiles[0.99].value * 1.5


def test_same_seed_same_run_and_another_seed_another() -> None:
    setup = Setup(ENGINE, SMALL, 3, changes=(Change(10.0, 1, None), Change(20.0, 1, ENGINE)))
    one, two, other = (Simulation(setup, LOAD, Window(60, 5), seed=seed).run().to_dict() for seed in (1, 1, 2))
    assert one == two != other


def test_memory_is_flat_in_simulated_time() -> None:
    """Nothing a run keeps grows with its length, but for the requests under way."""
    import tracemalloc

    peaks = []
    for seconds in (100, 800):
        tracemalloc.start()
        Simulation(Setup(ENGINE, SMALL, 1), Drawn(4.0, Fixed(50), Fixed(10)), Window(seconds, 10)).run()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.3


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"replicas": 0}, "replicas >= 1"),
        ({"policy": "random"}, "least-tokens"),
        ({"changes": (Change(1.0, 9, None),)}, "no such replica: 9"),
    ],
)
def test_a_wrong_setup_is_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Setup(ENGINE, SMALL, **{"replicas": 1, **wrong})  # type: ignore[arg-type]


def test_wrong_limits_and_windows_are_refused() -> None:
    for limits in ((0, 1, 1), (8, 16, 100), (8, 4, 0)):
        with pytest.raises(ValueError):
            Batching(*limits)
    for window in (Window(10, 10), Window(math.inf, 0), Window(10, -1), Window(10, 1, 1)):
        with pytest.raises(ValueError):
            Simulation(Setup(ENGINE, SMALL, 1), LOAD, window)
    with pytest.raises(ValueError, match="at_s=-1"):
        Change(-1, 0, None)
    with pytest.raises(ValueError, match="ttft_s"):
        Slo(ttft_s=0)
