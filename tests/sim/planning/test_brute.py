"""Plans of random small grids against code that knows nothing of bounds, order or bisection; bounds against runs."""

import math
import random
from dataclasses import dataclass, replace
from functools import cache

import pytest

from thinwire.commands.serving.planned import flips
from thinwire.sim.planning.bounds import Bounds, Requests, Targets
from thinwire.sim.planning.plan import AS_GIVEN, Candidate, Engine, Planner, Problem, WhatIf
from thinwire.sim.serving.arrivals import Drawn, Geometric, LogNormal
from thinwire.sim.serving.replica import Batching
from thinwire.sim.serving.run import Run, Setup, Simulation, Window

from ..serving.paces import Linear
from .test_plan import Floored

MOST = 5
LOAD = Drawn(5.0, LogNormal(100), Geometric(10))
WINDOW = Window(8.0, 1.0)


@dataclass(frozen=True)
class Grid:
    """A few candidates with whole-number speeds and prices, so that costs tie often."""

    seed: int

    @property
    def problem(self) -> Problem:
        dice = random.Random(self.seed)
        machines, schemes = ("a", "b"), ("x", "y", "z")
        speeds = {name: dice.choice((0.7, 1.0, 1.5)) for name in (*machines, *schemes)}
        ratios = {name: dice.choice((0.99, 1.0, 1.01, 1.3, None)) for name in schemes}
        prices = {name: float(dice.randint(1, 3)) for name in machines}

        def engine(c: Candidate, links: tuple[tuple[str, float], ...]) -> Engine:
            time = speeds[c.cluster] * speeds[c.scheme] / c.tp**0.9
            for _, factor in links:
                time *= factor**-0.5
            pace = Floored(0.01 * time, 1.2e-4 * time, 2e-4 * time, 2e-7 * time)
            return Engine(pace, Batching(c.token_budget, c.max_sequences, 12_000))

        candidates = [Candidate(m, tp, s, 512, 24) for m in machines for tp in (1, 2) for s in schemes]
        return Problem(
            tuple(dice.sample(candidates, 5)),
            Drawn(dice.choice((8.0, 20.0)), LogNormal(500, 1.0, 4000), Geometric(30)),
            Targets(dice.choice((0.5, 0.95)), dice.choice((0.3, 0.6, 1.5)), 0.9, dice.choice((0.03, 0.08)), 1.05),
            prices,
            engine,
            lambda c: ratios[c.scheme],
            MOST,
            WINDOW,
            self.seed,
            allow_unmeasured=dice.random() < 0.5,
        )


@cache
def tried(seed: int, candidate: Candidate, replicas: int, load: float, link: float) -> Run:
    problem = Grid(seed).problem
    engine = problem.engines(candidate, () if link == 1 else (("*", link),))
    asked = replace(problem.load, rate_per_s=problem.load.rate_per_s * load)
    return Simulation(Setup(engine.pace, engine.limits, replicas), asked, WINDOW, seed=seed).run()


def kept(run: Run, targets: Targets) -> bool:
    ttft, tpot = run.ttft.percentiles[targets.ttft_quantile].value, run.tpot.percentiles[targets.tpot_quantile].value
    return ttft <= targets.ttft_s and tpot <= targets.tpot_s and not run.refused and not run.saturated


Found = tuple[float, float, float, Candidate, int]  # cost, loss, TTFT, whose, replicas


def brute(seed: int, load: float = 1.0, link: float = 1.0, price: float = 1.0) -> tuple[list[Found], bool]:
    """Every candidate's fewest replicas, best first, and whether more replicas never did worse; `price`: on "a"."""
    problem, found, sound = Grid(seed).problem, [], True
    targets = problem.targets
    for c in problem.candidates:
        ratio = problem.accuracy(c)
        if problem.allow_unmeasured if ratio is None else ratio <= targets.perplexity_ratio:
            fits = [kept(tried(seed, c, n, load, link), targets) for n in range(1, MOST + 1)]
            sound = sound and fits == sorted(fits)
            if any(fits):
                n = fits.index(True) + 1
                cost = problem.prices[c.cluster] * (price if c.cluster == "a" else 1.0) * c.tp * n
                ttft_s = tried(seed, c, n, load, link).ttft.percentiles[targets.ttft_quantile].value
                found.append((cost, math.inf if ratio is None else max(1.0, ratio), ttft_s, c, n))
    return sorted(found), sound


@pytest.mark.parametrize("seed", range(10))
def test_cheapest_frontier_and_flips(seed: int) -> None:
    planner = Planner(Grid(seed).problem)
    plan = planner.solve()
    found, sound = brute(seed)
    if not sound:
        pytest.skip("more replicas did worse somewhere: bisection promises nothing")
    best = plan.cheapest
    assert (None if best is None else (best.candidate, best.replicas)) == (found[0][3:] if found else None)
    frontier = [
        one[3:]
        for place, one in enumerate(found)
        if not any(other[1] <= one[1] and other[2] <= one[2] for other in found[:place])
    ]
    assert [(o.candidate, o.replicas) for o in plan.frontier] == frontier
    if best is not None and best.replicas is not None and best.replicas > 1:
        binding = planner.binding(plan)[0]
        less = tried(seed, best.candidate, best.replicas - 1, 1.0, 1.0)
        targets = planner.problem.targets
        for name, value_s, most_s in (
            ("TTFT", less.ttft.percentiles[targets.ttft_quantile].value, targets.ttft_s),
            ("TPOT", less.tpot.percentiles[targets.tpot_quantile].value, targets.tpot_s),
        ):
            assert (name in binding) == (value_s > most_s)
        assert ("saturated" in binding) == less.saturated
    for what_if, (after, still) in {
        WhatIf(load=1.3): brute(seed, load=1.3),
        WhatIf(load=0.3): brute(seed, load=0.3),
        WhatIf(links=(("*", 0.5),)): brute(seed, link=0.5),
        WhatIf(prices=(("a", 0.5),)): brute(seed, price=0.5),
        AS_GIVEN: (found, sound),
    }.items():
        changed = planner.solve(what_if, frontier=False)
        if still:
            now = changed.cheapest
            assert (None if now is None else (now.candidate, now.replicas)) == (after[0][3:] if after else None)
            same = (found[0][3:] if found else None) == (after[0][3:] if after else None)
            assert (flips(plan, changed) == []) == same


@pytest.mark.parametrize("seed", range(40))
def test_bounds_of_random_engines_stay_below_their_runs(seed: int) -> None:
    dice = random.Random(seed)
    pace = Floored(*(10 ** dice.uniform(*span) for span in ((-3, -1.5), (-6, -3.5), (-5, -3), (-9, -6))))
    sequences = dice.choice((1, 4, 32))
    limits = Batching(sequences + dice.choice((0, 3, 60, 900)), sequences, 1 << 20)
    lengths = LogNormal(dice.choice((30, 300)), dice.choice((0.3, 1.5)), 2000), Geometric(dice.choice((1, 8, 50)))
    load, window = Drawn(10 ** dice.uniform(-0.5, 1.5), *lengths, dice.choice((0.2, 1.0, 9.0))), Window(12.0, 2.0)
    asked = Requests.drawn(load, seed, window)
    bounds = Bounds(pace, limits, asked)
    for replicas in (1, 2, 5):
        run = Simulation(Setup(pace, limits, replicas), load, window, seed=seed).run()
        if not run.ttft.count:
            continue
        for q in (0.5, 0.9, 0.99):
            ttft_s, tpot_s = run.ttft.percentiles[q].value, run.tpot.percentiles[q].value
            assert bounds.ttft_s(q) <= ttft_s
            assert bounds.replicas(Targets(q, ttft_s)) <= replicas
            if run.tpot.count:
                assert bounds.tpot_s(q) <= tpot_s
                assert bounds.replicas(Targets(q, ttft_s, q, tpot_s)) <= replicas


@pytest.mark.parametrize(("sequences", "budget"), [(1, 1), (3, 40), (20, 90), (64, 64)])
def test_prices_of_work_are_below_every_iteration(sequences: int, budget: int) -> None:
    """The weights of bound (3), for every number of prompt tokens and sequences there may be."""
    pace = Floored(0.01, 1e-4, 3e-4, 0.0)
    bounds = Bounds(pace, Batching(budget, sequences, 1 << 20), Requests.drawn(LOAD, 0, WINDOW))
    for ratio, rate_s in bounds._rates():
        tightest = min(
            pace.floor_s(c, s) - rate_s * (c + ratio * s)
            for s in range(sequences + 1)
            for c in range(budget - s + 1)
            if c + s
        )
        assert tightest >= -1e-12


def test_a_bound_is_reached_where_nobody_waits() -> None:
    """A lone request a long time apart: its TTFT is the bound's, to a bin."""
    pace, limits = Floored(0.01, 1e-4, 2e-4, 0.0), Batching(64, 4, 1 << 20)
    load, window = Drawn(0.5, LogNormal(40, 0.3, 60), Geometric(1)), Window(120.0, 10.0)
    run = Simulation(Setup(pace, limits, 1), load, window).run()
    bound_s = Bounds(pace, limits, Requests.drawn(load, 0, window)).ttft_s(0.5)
    assert bound_s <= run.ttft.percentiles[0.5].value <= bound_s * 1.13  # floors are read at numbers of four bits
    assert isinstance(pace, Linear)
