"""The cheapest deployment that keeps TTFT, TPOT and accuracy under a load, and what would change it.

A candidate is a machine, a TP degree, a scheme and limits of a batch; it needs the fewest replicas that keep the
targets, by simulation (`sim.serving.run`) of the same requests every time. That more replicas never do worse is taken
to be so: replicas share nothing and the router sends to the least loaded (percentiles were seen to rise by 1 % where
nobody queues any more, as other prompts then meet in an iteration). It is checked where the search ends (one replica
less was simulated and fails, or a bound forbids it), not everywhere; `exhaustive` tries all numbers.

What need not be simulated is ruled out by the bounds of `sim.planning.bounds` and by cost: a candidate whose fewest
possible replicas cost more than the best found is no cheaper. With `frontier` it is looked at still, unless something
found costs less, is no less accurate and is sooner than its bound (1).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heapify, heappop, heappush
from typing import Any, Literal

from thinwire.edge.quantities import time_text
from thinwire.sim.choices import AccuracyFrom
from thinwire.sim.planning.accuracy import Judged, judge, loss
from thinwire.sim.planning.bounds import BoundedPace, Bounds, Requests, Targets
from thinwire.sim.quality.published import Kept
from thinwire.sim.serving.arrivals import Drawn
from thinwire.sim.serving.replica import Batching
from thinwire.sim.serving.run import Run, Setup, Simulation, Window
from thinwire.sim.serving.statistics import Estimate, time
from thinwire.topologies.choose import named

Why = Literal[
    "fits", "does not fit", "accuracy", "ttft bound", "tpot bound", "capacity bound", "cost bound", "simulated"
]


@dataclass(frozen=True, slots=True, order=True)
class Candidate:
    """What replicas are made of. gpus: which ones of its machine, none being the first tp. nodes: over how many nodes
    of it they are spread, 0 where nobody asked.
    """

    cluster: str
    tp: int
    scheme: str
    token_budget: int
    max_sequences: int
    gpus: tuple[int, ...] = ()
    nodes: int = 0

    def __str__(self) -> str:
        limits = f"{self.token_budget} tokens, {self.max_sequences} sequences"
        return f"{self.cluster} TP {self.tp}{self.where} {self.scheme} ({limits})"

    @property
    def where(self) -> str:
        """` on GPUs 0,1,6,7`; nothing where they are the first ones, or are not there."""
        said = named(self.gpus) or (f"{self.nodes} nodes" if self.nodes > 1 and not self.gpus else "")
        return f" on {said}" if said else ""


@dataclass(frozen=True, slots=True)
class Engine:
    """One replica of a candidate."""

    pace: BoundedPace
    limits: Batching


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Factors on the load, on links by pattern (every machine that has one), on prices by machine."""

    load: float = 1.0
    links: tuple[tuple[str, float], ...] = ()
    prices: tuple[tuple[str, float], ...] = ()

    def __str__(self) -> str:
        said = [f"load x{self.load:g}"] if self.load != 1 else []
        said += ["link " + ("" if name == "*" else f"{name} ") + f"x{factor:g}" for name, factor in self.links]
        return ", ".join([*said, *(f"price {name} x{factor:g}" for name, factor in self.prices)]) or "as given"


AS_GIVEN = WhatIf()
Engines = Callable[[Candidate, tuple[tuple[str, float], ...]], Engine]  # ValueError: cannot be, the memory say


@dataclass(frozen=True)
class Problem:
    """What is asked for. accuracy: perplexity ratio of a candidate's scheme, None where nobody measured it. kept: what
    published figures say of it. accuracy_from: which of the two decides, or `none`.
    """

    candidates: tuple[Candidate, ...]
    load: Drawn
    targets: Targets
    prices: Mapping[str, float]  # of a GPU an hour, by machine
    engines: Engines
    accuracy: Callable[[Candidate], float | None]
    max_replicas: int = 64
    window: Window = field(default_factory=lambda: Window(300.0, 30.0))
    seed: int = 0
    allow_unmeasured: bool = False
    frontier: bool = True
    accuracy_from: AccuracyFrom = "measured"
    kept: Callable[[Candidate], Kept | None] = lambda candidate: None


@dataclass(frozen=True)
class Outcome:
    """What became of a candidate. ratio: of perplexity, as measured, whatever decided; judged: on its accuracy.
    least_replicas: that the bounds allow; replicas: that keep the targets, if found.
    """

    candidate: Candidate
    why: Why
    reason: str
    ratio: float | None = None
    least_replicas: int | None = None
    replicas: int | None = None
    cost: float | None = None  # an hour
    run: Run | None = field(default=None, repr=False)
    ttft: Estimate | None = None
    tpot: Estimate | None = None
    ttft_bound_s: float = 0.0
    judged: Judged | None = None

    @property
    def rank(self) -> tuple[float, float, float, Candidate]:
        """The cheapest first; of equally cheap ones the most accurate, then the soonest."""
        assert self.cost is not None and self.ttft is not None
        return self.cost, self.lost, self.ttft.value, self.candidate

    @property
    def lost(self) -> float:
        """In accuracy, by what decided on it; for comparing."""
        return loss(self.ratio) if self.judged is None else self.judged.lost

    def to_dict(self) -> dict[str, Any]:
        """Plain values, times in milliseconds."""
        c = self.candidate
        return {
            "cluster": c.cluster, "tp": c.tp, "replica_gpus": list(c.gpus or range(c.tp)), "scheme": c.scheme,
            "token_budget": c.token_budget, "max_sequences": c.max_sequences, "why": self.why, "reason": self.reason,
            "least_replicas": self.least_replicas, "replicas": self.replicas,
            "gpus": None if self.replicas is None else self.replicas * c.tp, "cost_per_hour": self.cost,
            "perplexity_ratio": self.ratio,
            "accuracy_by": None if self.judged is None else self.judged.by,
            "accuracy": None if self.judged is None else self.judged.said,
            "score_kept": None if self.judged is None else self.judged.share,
            "ttft_bound_ms": self.ttft_bound_s * 1e3,
            "ttft_ms": None if self.ttft is None else self.ttft.to_dict(1e3),
            "tpot_ms": None if self.tpot is None else self.tpot.to_dict(1e3),
            "utilisation": None if self.run is None else self.run.utilisation,
        }  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """An answer. simulations: runs made for it, those shared with earlier answers left out."""

    what_if: WhatIf
    outcomes: tuple[Outcome, ...]
    simulations: int

    @property
    def cheapest(self) -> Outcome | None:
        """None: no candidate keeps the targets."""
        return min((o for o in self.outcomes if o.why == "fits"), key=lambda o: o.rank, default=None)

    @property
    def frontier(self) -> tuple[Outcome, ...]:
        """Those found that nothing found beats in cost, TTFT and accuracy at once, cheapest first."""
        found = sorted((o for o in self.outcomes if o.why == "fits"), key=lambda o: o.rank)
        kept: list[Outcome] = []
        for outcome in found:
            _, ttft_s, lost = _place(outcome)
            if not any(t <= ttft_s and r <= lost for _, t, r in map(_place, kept)):
                kept.append(outcome)
        return tuple(kept)

    def count(self) -> dict[str, int]:
        """Candidates by what became of them."""
        return dict(Counter(outcome.why for outcome in self.outcomes))


def _place(outcome: Outcome) -> tuple[float, float, float]:
    assert outcome.cost is not None and outcome.ttft is not None
    return outcome.cost, outcome.ttft.value, outcome.lost


class Planner:
    """Answers a problem and its what-ifs; engines, bounds and runs are kept between them."""

    def __init__(self, problem: Problem, progress: Callable[[str], None] = lambda line: None) -> None:
        self.problem, self._progress = problem, progress
        self.simulations = 0
        self._engines: dict[Any, Engine | ValueError] = {}
        self._ruled: dict[Any, Outcome] = {}
        self._runs: dict[Any, Run] = {}
        self._needs: dict[Candidate, int] = {}  # replicas it needed last, a guess for the next what-if
        self._requests: dict[float, Requests] = {}

    def solve(self, what_if: WhatIf = AS_GIVEN, frontier: bool | None = None) -> Plan:
        """Best first by what a candidate costs at least: as one replica, then by its bounds, then by simulation."""
        problem, before = self.problem, self.simulations
        wide = problem.frontier if frontier is None else frontier
        done: dict[Candidate, Outcome] = {}
        found: list[Outcome] = []

        def settle(outcome: Outcome) -> None:
            done[outcome.candidate] = outcome
            self._progress(f"{what_if}: {outcome.candidate}: {outcome.why}, {outcome.reason}")
            if outcome.why == "fits":
                found.append(outcome)

        for candidate in problem.candidates:
            if (judged := self._accuracy(candidate)).why != "fits":
                settle(judged)
        known = [c for c in problem.candidates if c in self._needs]
        if known:  # an earlier answer: a good one to hold the others against
            first = min(known, key=lambda c: (self._cost(c, what_if, self._needs[c]), c))
            settle(self._search(self._rule(first, what_if), what_if, found, wide))
        waiting: list[tuple[float, int, Candidate, Outcome | None]] = [
            (self._cost(c, what_if, 1), place, c, None) for place, c in enumerate(problem.candidates) if c not in done
        ]
        heapify(waiting)
        while waiting:
            cost, place, candidate, ruled = heappop(waiting)
            if ruled is None and not wide and any(cost > other.rank[0] for other in found):
                reason = f"{cost:.4g} an hour for one replica"
                settle(replace(self._accuracy(candidate), why="cost bound", reason=reason))
            elif ruled is None:
                ruled = self._rule(candidate, what_if)
                if ruled.why == "fits":
                    assert ruled.least_replicas is not None
                    heappush(waiting, (self._cost(candidate, what_if, ruled.least_replicas), place, candidate, ruled))
                else:
                    settle(ruled)
            else:
                settle(self._search(ruled, what_if, found, wide))
        return Plan(what_if, tuple(done[c] for c in problem.candidates), self.simulations - before)

    def exhaustive(self, what_if: WhatIf = AS_GIVEN) -> Plan:
        """Every candidate and every number of replicas, without bounds: what `solve` is held against."""
        outcomes, before = [], self.simulations
        for candidate in self.problem.candidates:
            outcome = self._accuracy(candidate)
            try:
                engine = self._engine(candidate, what_if)
            except ValueError as error:
                outcome = replace(outcome, why="does not fit", reason=str(error))
            else:
                for n in range(1, self.problem.max_replicas + 1) if outcome.why == "fits" else ():
                    run = self._run(candidate, engine, n, what_if)
                    failed = self.failures(run)
                    outcome = replace(outcome, why="simulated", reason="; ".join(failed))
                    if not failed:
                        outcome = self._fit(replace(outcome, least_replicas=1), n, run, what_if)
                        break
            outcomes.append(outcome)
        return Plan(what_if, tuple(outcomes), self.simulations - before)

    def failures(self, run: Run) -> list[str]:
        """Which targets a run misses; percentiles are judged by their value, their intervals are reported."""
        targets, said = self.problem.targets, []
        if not run.ttft.count:
            said.append("no request is counted: more seconds or more load are needed")
        if run.refused:
            said.append(f"memory: {run.refused} requests exceed the KV cache")
        for name, summary, q, most_s in (
            ("TTFT", run.ttft, targets.ttft_quantile, targets.ttft_s),
            ("TPOT", run.tpot, targets.tpot_quantile, targets.tpot_s),
        ):
            if summary.percentiles[q].value > most_s:
                said.append(f"{name} p{q * 100:g} {time(summary.percentiles[q])}, above {time_text(most_s)}")
        if run.saturated:
            said.append("saturated: more arrives than is served")
        window = self.problem.window
        if run.filling and run.latency.mean.value > window.duration_s - window.warm_up_s:
            said.append(
                f"still filling: an answer takes {run.latency.mean.value:.3g} s on average, so a run of "
                f"{window.duration_s:g} s cannot tell; more seconds are needed"
            )
        return said

    def binding(self, plan: Plan) -> list[str]:
        """What keeps the answer from being cheaper: one replica less, and the candidates that would cost less."""
        best = plan.cheapest
        if best is None:
            return [f"{why}: {number} candidates" for why, number in plan.count().items()]
        assert best.replicas is not None and best.cost is not None
        said = ["one replica is the least there is"]
        if best.replicas > 1:
            engine = self._engine(best.candidate, plan.what_if)
            failed = self.failures(self._run(best.candidate, engine, best.replicas - 1, plan.what_if))
            said = [f"with {best.replicas - 1} replicas: {'; '.join(failed) or 'kept, against expectation'}"]
        cheaper = [
            (self._cost(o.candidate, plan.what_if, o.least_replicas or 1), o)
            for o in plan.outcomes
            if o.why not in ("fits", "cost bound")
        ]
        for cost, o in sorted(cheaper, key=lambda each: (each[0], each[1].candidate))[:3]:
            if cost < best.cost:
                said.append(f"{o.candidate}, from {cost:.4g} an hour: {o.why}, {o.reason}")
        return said

    # --- one candidate

    def _rule(self, candidate: Candidate, what_if: WhatIf) -> Outcome:
        """What the bounds say; `fits`: nothing against it."""
        key = (candidate, what_if.load, what_if.links)
        found = self._ruled[key] = self._ruled.get(key) or self._bounded(candidate, what_if)
        return found

    def _bounded(self, candidate: Candidate, what_if: WhatIf) -> Outcome:
        targets = self.problem.targets
        outcome = self._accuracy(candidate)
        if outcome.why != "fits":
            return outcome
        try:
            engine = self._engine(candidate, what_if)
        except ValueError as error:
            return replace(outcome, why="does not fit", reason=str(error))
        bounds = Bounds(engine.pace, engine.limits, self._asked(what_if.load))
        if (refused := bounds.refused()) > 0:
            return replace(outcome, why="does not fit", reason=f"{refused} requests exceed the KV cache of a replica")
        ttft_s, tpot_s = bounds.ttft_s(targets.ttft_quantile), bounds.tpot_s(targets.tpot_quantile)
        outcome = replace(outcome, ttft_bound_s=ttft_s)
        for why, least_s, most_s in (("ttft bound", ttft_s, targets.ttft_s), ("tpot bound", tpot_s, targets.tpot_s)):
            if least_s > most_s:
                reason = f"at least {time_text(least_s)} however many replicas, target {time_text(most_s)}"
                return replace(outcome, why=why, reason=reason)  # type: ignore[arg-type]
        least = bounds.replicas(targets)
        outcome = replace(outcome, least_replicas=least)
        if least > self.problem.max_replicas:
            reason = f"at least {least} replicas, max_replicas = {self.problem.max_replicas}"
            return replace(outcome, why="capacity bound", reason=reason)
        return outcome

    def _accuracy(self, candidate: Candidate) -> Outcome:
        asked, ratio = self.problem, self.problem.accuracy(candidate)
        published = asked.kept(candidate) if asked.accuracy_from == "published" else None
        most, unmeasured = asked.targets.perplexity_ratio, asked.allow_unmeasured
        judged = judge(asked.accuracy_from, candidate.tp, ratio, published, most, unmeasured)
        why: Why = "accuracy" if judged.refused else "fits"
        return Outcome(candidate, why, judged.said if judged.refused else "", ratio, judged=judged)

    def _search(self, first: Outcome, what_if: WhatIf, found: Sequence[Outcome], wide: bool) -> Outcome:
        """The fewest replicas: steps that double, up from the bound or around what was needed last, then bisection."""
        if first.why != "fits":
            return first
        assert first.least_replicas is not None
        candidate, lowest = first.candidate, first.least_replicas  # below the lowest no number keeps the targets
        engine, most = self._engine(candidate, what_if), lowest - 1
        while most < self.problem.max_replicas and not self._pointless(first, most + 1, what_if, found, wide):
            most += 1
        highest = most + 1  # the least known to keep them, if it is not above `most`
        n, step = lowest, max(1, lowest // 4)
        if candidate in self._needs:
            n, step = min(max(self._needs[candidate], lowest), most), 1
        failed: list[str] = []
        while lowest < highest:
            missed = self.failures(self._run(candidate, engine, n, what_if))
            if missed:
                lowest, failed = n + 1, missed
            else:
                highest = n
            n = min(n + step, most) if highest > most else max((lowest + highest) // 2, highest - step)
            step *= 2
        if highest <= most:
            self._needs[candidate] = highest
            return self._fit(first, highest, self._run(candidate, engine, highest, what_if), what_if)
        if most < self.problem.max_replicas:
            reason = f"at least {lowest} replicas, {self._cost(candidate, what_if, lowest):.4g} an hour"
            return replace(first, why="cost bound", reason=reason, least_replicas=lowest)
        return replace(first, why="simulated", reason=f"with {most} replicas: {'; '.join(failed)}")

    def _fit(self, first: Outcome, replicas: int, run: Run, what_if: WhatIf) -> Outcome:
        targets = self.problem.targets
        ttft, tpot = run.ttft.percentiles[targets.ttft_quantile], run.tpot.percentiles[targets.tpot_quantile]
        return replace(
            first,
            why="fits",
            reason=f"{replicas} replicas, TTFT p{targets.ttft_quantile * 100:g} {time(ttft)}",
            replicas=replicas,
            cost=self._cost(first.candidate, what_if, replicas),
            run=run,
            ttft=ttft,
            tpot=tpot,
        )

    def _pointless(self, first: Outcome, replicas: int, what_if: WhatIf, found: Iterable[Outcome], wide: bool) -> bool:
        """(5) Cost: no answer of so many or more could be the cheapest (or, `wide`, on the frontier)."""
        cost = self._cost(first.candidate, what_if, replicas)
        if not wide:
            return any(cost > other.rank[0] for other in found)
        places = [_place(other) for other in found if other.candidate != first.candidate]
        return any(c < cost and t < first.ttft_bound_s and r <= first.lost for c, t, r in places)

    def _cost(self, candidate: Candidate, what_if: WhatIf, replicas: int) -> float:
        """An hour; to 12 digits, so that the order of its factors decides no tie."""
        price = self.problem.prices[candidate.cluster] * dict(what_if.prices).get(candidate.cluster, 1.0)
        return float(f"{price * candidate.tp * replicas:.12g}")

    # --- what is kept

    def _engine(self, candidate: Candidate, what_if: WhatIf) -> Engine:
        key = (candidate, what_if.links)
        if key not in self._engines:
            try:
                self._engines[key] = self.problem.engines(candidate, what_if.links)
            except ValueError as error:
                self._engines[key] = error
        found = self._engines[key]
        if isinstance(found, ValueError):
            raise found
        return found

    def _load(self, factor: float) -> Drawn:
        return replace(self.problem.load, rate_per_s=self.problem.load.rate_per_s * factor)

    def _asked(self, factor: float) -> Requests:
        if factor not in self._requests:
            self._requests[factor] = Requests.drawn(self._load(factor), self.problem.seed, self.problem.window)
        return self._requests[factor]

    def _run(self, candidate: Candidate, engine: Engine, replicas: int, what_if: WhatIf) -> Run:
        key = (candidate, what_if.load, what_if.links, replicas)
        if key not in self._runs:
            self.simulations += 1
            setup = Setup(engine.pace, engine.limits, replicas)
            asked = self.problem
            self._runs[key] = Simulation(setup, self._load(what_if.load), asked.window, seed=asked.seed).run()
        return self._runs[key]
