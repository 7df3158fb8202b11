"""What rules a candidate out, at its edge, and what the answer says of it."""

from dataclasses import replace

import numpy as np
import pytest

from thinwire.sim.planning.accuracy import loss
from thinwire.sim.planning.bounds import Bounds, Requests, Targets
from thinwire.sim.planning.plan import AS_GIVEN, Candidate, Engine, Outcome, Plan, Planner, Problem, WhatIf
from thinwire.sim.serving.replica import Batching
from thinwire.sim.serving.run import Window
from thinwire.sim.serving.statistics import Estimate, time

from .test_plan import LOAD, WINDOW, Floored, problem

ONE = Candidate("slow", 1, "plain", 1024, 32)
PACE = Floored(0.012, 1.1e-4, 2e-4, 2e-7)


def with_memory(kv_tokens: int) -> Problem:
    return problem(candidates=(ONE,), engines=lambda c, links: Engine(PACE, Batching(1024, 32, kv_tokens)))


def test_one_request_that_fits_no_replica_rules_a_candidate_out() -> None:
    """Memory is handed out in blocks: the largest request's is enough, a block less is not."""
    asked = Requests.drawn(LOAD, 0, WINDOW)
    needs = np.sort(-(-(asked.prompt + asked.output) // 16) * 16)
    assert needs[-1] - 16 >= needs[-2], "one is the largest"
    for kv_tokens, refused in (
        (int(needs[-1]), 0),
        (int(needs[-1]) - 1, 1),
        (int(needs[-2]), 1),
        (int(needs[-2]) - 1, 2),
    ):
        limits = Batching(1024, 32, kv_tokens)
        if needs[-2] != needs[-3] or refused < 2:
            assert Bounds(PACE, limits, asked).refused() == refused
        ruled = Planner(with_memory(kv_tokens))._rule(ONE, AS_GIVEN)
        assert (ruled.why == "does not fit") == (refused > 0)
        assert not refused or "exceed the KV cache of a replica" in ruled.reason


def test_targets_are_kept_to_the_last_bit() -> None:
    """A value that is the target keeps it, an ulp above does not; so with accuracy and with the bounds."""
    planner = Planner(problem(candidates=(ONE,)))
    run = planner._run(ONE, planner._engine(ONE, AS_GIVEN), 12, AS_GIVEN)
    ttft_s, tpot_s = run.ttft.percentiles[0.95].value, run.tpot.percentiles[0.9].value
    for targets, missed in (
        (Targets(0.95, ttft_s, 0.9, tpot_s), []),
        (Targets(0.95, np.nextafter(ttft_s, 0), 0.9, tpot_s), ["TTFT"]),
        (Targets(0.95, ttft_s, 0.9, np.nextafter(tpot_s, 0)), ["TPOT"]),
        (Targets(0.95, ttft_s / 2, 0.9, tpot_s / 2), ["TTFT", "TPOT"]),
    ):
        said = Planner(problem(candidates=(ONE,), targets=targets)).failures(run)
        assert [text[:4] for text in said] == missed
    bound = planner._rule(ONE, AS_GIVEN).ttft_bound_s
    for target_s, why in ((bound, "capacity bound"), (np.nextafter(bound, 0), "ttft bound")):
        only = problem(candidates=(ONE,), targets=Targets(0.95, target_s), max_replicas=1)
        assert Planner(only)._rule(ONE, AS_GIVEN).why in (why, "fits") and (
            (Planner(only)._rule(ONE, AS_GIVEN).why == "ttft bound") == (why == "ttft bound")
        )


def test_a_house_that_fills_is_no_miss_unless_the_run_is_shorter_than_an_answer() -> None:
    planner = Planner(problem(candidates=(ONE,), targets=Targets(0.95, 1e3)))
    run = planner._run(ONE, planner._engine(ONE, AS_GIVEN), 12, AS_GIVEN)
    assert not run.saturated and planner.failures(run) == [] == planner.failures(replace(run, filling=True))
    measured_s = WINDOW.duration_s - WINDOW.warm_up_s
    for mean_s, missed in ((measured_s, 0), (measured_s * 1.01, 1)):
        latency = replace(run.latency, mean=Estimate(mean_s, None))
        said = planner.failures(replace(run, filling=True, latency=latency))
        assert len(said) == missed and all("more seconds are needed" in text for text in said)
    (said,) = planner.failures(replace(run, saturated=True))
    assert said == "saturated: more arrives than is served"


def test_a_bound_says_what_it_is_and_what_was_asked() -> None:
    bound_ms = Planner(problem(candidates=(ONE,)))._rule(ONE, AS_GIVEN).ttft_bound_s * 1e3
    ruled = Planner(problem(candidates=(ONE,), targets=Targets(0.95, 1.2345e-3)))._rule(ONE, AS_GIVEN)
    assert ruled.reason == f"at least {bound_ms:.3g} ms however many replicas, target 1.23 ms"


@pytest.mark.parametrize(("ratio", "why"), [(1.05, "fits"), (1.0500001, "accuracy"), (0.9, "fits")])
def test_a_ratio_that_is_the_ceiling_is_allowed(ratio: float, why: str) -> None:
    assert Planner(problem(accuracy=lambda c: ratio))._accuracy(ONE).why == why


def test_losses_of_noise_are_none_and_unmeasured_ones_the_worst() -> None:
    assert [loss(ratio) for ratio in (0.5, 1.0, 1.5, None)] == [1.0, 1.0, 1.5, np.inf]


def test_as_many_replicas_as_are_allowed_are_allowed() -> None:
    busy = problem(candidates=(ONE,), load=replace(LOAD, rate_per_s=60.0), max_replicas=40)
    planner = Planner(busy)
    least = planner._rule(ONE, AS_GIVEN).least_replicas
    found = planner.solve().cheapest
    assert least is not None and least > 1 and found is not None and found.replicas is not None
    assert found.ttft is not None
    assert found.reason == f"{found.replicas} replicas, TTFT p95 {time(found.ttft)}"
    for most, why in ((least, "fits"), (least - 1, "capacity bound")):
        assert Planner(replace(busy, max_replicas=most))._rule(ONE, AS_GIVEN).why == why
    assert Planner(replace(busy, max_replicas=found.replicas)).solve().cheapest is not None
    assert least < found.replicas
    for most in (least, found.replicas - 1):
        tight = Planner(replace(busy, max_replicas=most))
        assert tight.solve().cheapest is None and max(n for *_, n in tight._runs) <= most
    fewer = Planner(replace(busy, max_replicas=found.replicas - 1)).solve()
    assert fewer.cheapest is None and fewer.outcomes[0].why in ("simulated", "capacity bound")


def test_what_would_cost_less_is_named_with_what_it_costs_at_least() -> None:
    """One replica's price, where nobody counted how many it needs."""
    cheap = replace(ONE, scheme="thinner"), replace(ONE, cluster="tiny", scheme="unknown", tp=2)
    planner = Planner(problem(candidates=(*cheap, replace(ONE, tp=2)), prices={"slow": 1.5, "tiny": 0.4, "fast": 9.0}))
    plan = planner.solve()
    assert plan.cheapest is not None and plan.cheapest.cost is not None and plan.cheapest.cost >= 3.0
    said = planner.binding(plan)[1:]
    assert [text.partition(":")[0] for text in said] == [
        f"{cheap[1]}, from 0.8 an hour",
        f"{cheap[0]}, from 1.5 an hour",
    ]
    assert all(": accuracy, " in text for text in said)


def test_costs_are_price_times_gpus_and_rounded_to_twelve_digits() -> None:
    planner = Planner(problem(prices={"slow": 0.1, "fast": 2.3, "tiny": 0.4}))
    two = replace(ONE, tp=2)
    assert planner._cost(two, AS_GIVEN, 3) == 0.6
    assert planner._cost(two, WhatIf(prices=(("slow", 5.0), ("fast", 9.0))), 3) == 3.0
    assert planner._cost(two, WhatIf(prices=(("fast", 9.0),)), 3) == 0.6


def outcome(cost: float, ttft_s: float, ratio: float | None, tp: int = 1) -> Outcome:
    return Outcome(replace(ONE, tp=tp), "fits", "", ratio, 1, 2, cost, None, Estimate(ttft_s, None), None, 0.25)


def test_the_frontier_drops_what_is_beaten_in_all_three() -> None:
    """Cheapest first; equal in everything else counts as beaten, better in one does not."""
    kept = outcome(1.0, 2.0, 1.1), outcome(2.0, 1.0, 1.1, 2), outcome(3.0, 2.0, 1.0, 3), outcome(4.0, 3.0, 0.9, 4)
    beaten = outcome(2.5, 1.0, 1.1, 5), outcome(5.0, 5.0, None, 6)
    plan = Plan(AS_GIVEN, (*beaten, *kept), 0)
    assert plan.frontier == kept[:3], "a ratio of 0.9 is noise: no more accurate than 1"
    assert plan.cheapest == kept[0]
    assert plan.count() == {"fits": 6}


def test_plain_values_of_an_outcome_are_in_their_units() -> None:
    found = outcome(3.0, 0.5, 1.25, 4).to_dict()
    assert (found["gpus"], found["replicas"], found["tp"], found["cost_per_hour"]) == (8, 2, 4, 3.0)
    assert (found["ttft_ms"], found["ttft_bound_ms"]) == ({"value": 500.0, "half_width": None}, 250.0)
    assert found["tpot_ms"] is None and found["utilisation"] is None and found["perplexity_ratio"] == 1.25
    assert Outcome(ONE, "accuracy", "why").to_dict()["gpus"] is None


@pytest.mark.parametrize(
    ("what_if", "said"),
    [
        (WhatIf(), "as given"),
        (WhatIf(2.0), "load x2"),
        (WhatIf(1.0, (("*", 0.5), ("a->b", 2.0)), (("slow", 3.0),)), "link x0.5, link a->b x2, price slow x3"),
    ],
)
def test_a_what_if_says_itself(what_if: WhatIf, said: str) -> None:
    assert str(what_if) == said


def test_what_is_left_out_of_a_problem() -> None:
    plain = Problem((ONE,), LOAD, Targets(0.9, 1.0), {"slow": 1.0}, with_memory(1).engines, lambda c: None)
    assert (plain.max_replicas, plain.window, plain.seed) == (64, Window(300.0, 30.0), 0)
    assert (plain.allow_unmeasured, plain.frontier) == (False, True)
    assert Outcome(ONE, "fits", "").ttft_bound_s == 0.0
    targets = Targets(0.9, 1.0)
    assert (targets.tpot_quantile, targets.tpot_s, targets.perplexity_ratio) == (0.95, np.inf, np.inf)
