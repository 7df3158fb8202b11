"""`thinwire plan`: the search finds what trying everything finds, bounds are below every run, errors help."""

import json
import re
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from thinwire.commands.serving.planned import assumptions, flips
from thinwire.reference.mixed import find
from thinwire.sim.api import decodes_exactly
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.planning.bounds import Bounds, Requests, Targets
from thinwire.sim.planning.file import Asked, read
from thinwire.sim.planning.plan import AS_GIVEN, Candidate, Engine, Plan, Planner, Problem, WhatIf
from thinwire.sim.quality.figures import figure
from thinwire.sim.serving.arrivals import Drawn, Geometric, LogNormal
from thinwire.sim.serving.question import Deployment
from thinwire.sim.serving.replica import Batching
from thinwire.sim.serving.run import Run, Setup, Simulation, Window
from thinwire.sim.serving.serve import Paces
from thinwire.topologies.load import load_cluster

from ...command import Capture, run
from ..serving.paces import Linear


@dataclass(frozen=True)
class Floored(Linear):
    """What a linear pace takes at least is what it takes."""

    def floor_s(self, prompt_tokens: int, sequences: int) -> float:
        return self.iteration_s + self.prompt_s * prompt_tokens + self.sequence_s * sequences

    def least_token_s(self) -> float:
        return self.context_s


GPU_OF_TWO_WORDS = replace(load_cluster("8xl40s-pcie").gpu, name="RTX 9")
LOAD = Drawn(20.0, LogNormal(600, 1.0, 4000), Geometric(40))
WINDOW = Window(24.0, 3.0)
TARGETS = Targets(0.95, 1.2, 0.9, 0.06, 1.05)
PRICES = {"slow": 1.0, "fast": 2.3, "tiny": 0.4}
SPEEDS = {"slow": 1.0, "fast": 2.0, "tiny": 0.7}
RATIOS = {"plain": 1.0, "thin": 1.02, "thinner": 1.2, "unknown": None}
GAINS = {"plain": 1.0, "thin": 0.85, "thinner": 0.6, "unknown": 0.6}


def toy_engine(c: Candidate, links: tuple[tuple[str, float], ...]) -> Engine:
    """Faster with more ranks, by less than their number; links matter more for plain schemes."""
    if c.cluster == "tiny" and c.tp == 1:
        raise ValueError("no room for a KV cache")
    slower = 1.0
    for _, factor in links:
        slower /= factor
    time = GAINS[c.scheme] * slower**0.5 / SPEEDS[c.cluster] / c.tp**0.8
    pace = Floored(0.012 * time, 1.1e-4 * time, 2e-4 * time, 2e-7 * time)
    return Engine(pace, Batching(c.token_budget, c.max_sequences, 200_000))


def problem(**given: Any) -> Problem:
    candidates = tuple(
        Candidate(cluster, tp, scheme, budget, 32)
        for cluster in PRICES
        for tp in (1, 2)
        for scheme in RATIOS
        for budget in (256, 1024)
    )
    plain = Problem(
        candidates, LOAD, TARGETS, PRICES, toy_engine, lambda c: RATIOS[c.scheme], 12, WINDOW, frontier=False
    )
    return replace(plain, **given)


def answer(plan: Plan) -> tuple[Any, ...] | None:
    best = plan.cheapest
    return None if best is None else (best.candidate, best.replicas, best.cost, best.ttft, best.tpot)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "targets",
    [TARGETS, Targets(0.9, 0.5, 0.9, 0.02, 1.05), Targets(0.5, 0.3), Targets(0.99, 3.0, 0.95, 0.2, 1.0)],
    ids=["usual", "tight", "median", "late"],
)
def test_the_search_finds_what_trying_everything_finds(seed: int, targets: Targets) -> None:
    planner = Planner(problem(targets=targets, seed=seed))
    pruned, all_tried = planner.solve(), Planner(planner.problem).exhaustive()
    assert answer(pruned) == answer(all_tried)
    assert answer(pruned) is not None
    assert pruned.simulations < all_tried.simulations * 0.75


def test_the_frontier_is_that_of_trying_everything() -> None:
    planner = Planner(problem(frontier=True))
    pruned, all_tried = planner.solve(), Planner(planner.problem).exhaustive()
    assert [answer_of(o) for o in pruned.frontier] == [answer_of(o) for o in all_tried.frontier]
    assert len(pruned.frontier) > 2
    assert pruned.cheapest == pruned.frontier[0]
    for one in pruned.frontier:
        assert one.cost is not None and one.ttft is not None
        assert not any(
            o.cost <= one.cost and o.ttft.value <= one.ttft.value and (o.ratio or 9) <= (one.ratio or 9)  # type: ignore[operator,union-attr]
            for o in pruned.frontier
            if o is not one
        )


def answer_of(outcome: Any) -> tuple[Any, ...]:
    return outcome.candidate, outcome.replicas, outcome.cost


def test_one_dear_replica_may_be_the_cheapest() -> None:
    """Found after many cheap ones that cost a little more together: no bound may rule it out before."""
    cheap, dear = Candidate("slow", 1, "plain", 1024, 32), Candidate("fast", 2, "plain", 1024, 32)
    only = problem(candidates=(cheap, dear))
    needed = {o.candidate: o.replicas for o in Planner(only).exhaustive().outcomes}
    assert needed[dear] == 1 and needed[cheap] is not None and needed[cheap] > 1
    for factor, best in ((0.8, dear), (0.99, dear), (1.01, cheap)):
        prices = {"slow": 1.0, "fast": factor * needed[cheap] / 2}
        found = Planner(replace(only, prices=prices)).solve().cheapest
        assert found is not None and found.candidate == best


@cache
def toy_run(candidate: Candidate, replicas: int, seed: int) -> Run:
    engine = toy_engine(candidate, ())
    return Simulation(Setup(engine.pace, engine.limits, replicas), LOAD, WINDOW, seed=seed).run()


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("budget", [64, 1000])
def test_no_run_beats_the_bounds(seed: int, budget: int) -> None:
    """(1) and (2) are below every percentile; below (3) every run misses the tightest target it could have kept."""
    candidate = Candidate("slow", 1, "plain", budget, 32)
    engine = toy_engine(candidate, ())
    bounds = Bounds(engine.pace, engine.limits, Requests.drawn(LOAD, seed, WINDOW))
    for replicas in (1, 2, 3, 12):
        found = toy_run(candidate, replicas, seed)
        for q in (0.5, 0.9, 0.95, 0.99):
            ttft, tpot = found.ttft.percentiles[q].value, found.tpot.percentiles[q].value
            assert 0.5 * toy_run(candidate, 12, seed).ttft.percentiles[q].value < bounds.ttft_s(q) <= ttft
            assert bounds.tpot_s(q) <= tpot
            assert bounds.replicas(Targets(q, ttft, q, tpot)) <= replicas
            assert bounds.replicas(Targets(q, ttft)) <= replicas
    busy = replace(LOAD, rate_per_s=40.0)
    needed = Bounds(engine.pace, engine.limits, Requests.drawn(busy, seed, WINDOW)).replicas(Targets(0.95, 0.6))
    assert needed >= 2


def test_requests_are_those_of_the_run() -> None:
    asked = Requests.drawn(LOAD, 5, WINDOW)
    found = toy_run(Candidate("slow", 1, "plain", 1000, 32), 12, 5)
    assert (len(asked.prompt), int(asked.counted.sum())) == (found.arrived, found.ttft.count)
    few = replace(toy_engine(Candidate("slow", 1, "plain", 1000, 32), ()).limits, kv_tokens=1500)
    bounds = Bounds(Floored(), few, asked)
    refused = Simulation(Setup(Floored(), few, 2), LOAD, WINDOW, seed=5).run().refused
    assert bounds.refused() == refused > 0


@pytest.mark.parametrize("scheme", ["bf16", "flash-int4", "iso", "exempt-8+flash-int4", "flash-int4+exempt-last-4"])
def test_the_floor_of_an_iteration_is_below_all_that_hold_it(scheme: str) -> None:
    """What every bound rests on, on a real machine: with other prompts, sequences and contexts beside."""
    paces = Paces(Deployment(model="llama-3-8b", cluster="8xl40s-pcie", tp=4, scheme=scheme, token_budget=512))
    pace = paces.pace()
    slope = pace.least_token_s()
    assert 0 < slope <= min(pace.line(n, 1 << 40).per_token_s for n in (1, 2, 9, 100, 256)) * (1 + 1e-12)
    for tokens, sequences in ((1, 0), (37, 3), (100, 100), (300, 17), (512, 0)):
        floor = pace.floor_s(tokens, sequences)
        for chunks in ([(tokens, tokens)], [(tokens - tokens // 2, 900), (tokens // 2, tokens // 2)]):
            held = [chunk for chunk in chunks if chunk[0]]
            for more in (0, 5):
                if tokens + sequences + more <= 512 and sequences + more:
                    context = 700 * (sequences + more)
                    found = pace.mixed_s(held, 1, sequences + more, context)
                    assert floor + slope * context <= found * (1 + 1e-12)
    for sequences in (1, 9, 100):
        line = pace.line(sequences + 1, 5000)
        assert 0 < pace.floor_s(0, sequences) + slope * 5000 <= line.first_s * (1 + 1e-12)


def test_more_replicas_never_do_worse_here() -> None:
    """What bisection rests on, to 2 %: where nobody queues, who meets whom in an iteration still moves percentiles."""
    for seed in (0, 1):
        runs = [toy_run(Candidate("slow", 1, "thin", 256, 32), n, seed) for n in range(1, 9)]
        for before, after in pairwise(runs):
            assert after.ttft.percentiles[0.95].value <= before.ttft.percentiles[0.95].value * 1.02
            assert after.tpot.percentiles[0.95].value <= before.tpot.percentiles[0.95].value * 1.02


def test_reasons_say_what_ruled_a_candidate_out() -> None:
    plan = Planner(problem()).solve()
    why = {o.candidate: (o.why, o.reason) for o in plan.outcomes}
    assert why[Candidate("slow", 2, "thinner", 256, 32)] == ("accuracy", "perplexity ratio 1.2 above 1.05")
    assert "allow_unmeasured" in why[Candidate("slow", 2, "unknown", 256, 32)][1]
    assert why[Candidate("tiny", 1, "plain", 256, 32)] == ("does not fit", "no room for a KV cache")
    assert all(o.ratio is not None and o.ratio <= 1.05 for o in plan.outcomes if o.why == "fits")
    loose = Planner(problem(allow_unmeasured=True, targets=replace(TARGETS, perplexity_ratio=2.0))).solve()
    assert loose.cheapest is not None and not any(o.why == "accuracy" for o in loose.outcomes)


@pytest.mark.parametrize(
    ("targets", "most", "why"),
    [
        (Targets(0.95, 1e-3), 12, "ttft bound"),
        (Targets(0.95, 5.0, 0.9, 1e-4), 12, "tpot bound"),
        (Targets(0.95, 0.9, 0.95, 0.08), 1, "capacity bound"),
    ],
)
def test_infeasible_targets_say_which_constraint(targets: Targets, most: int, why: str) -> None:
    only = tuple(c for c in problem().candidates if c.cluster == "slow" and c.scheme == "plain" and c.tp == 1)
    planner = Planner(problem(candidates=only, targets=targets, max_replicas=most))
    plan = planner.solve()
    assert plan.cheapest is None and plan.frontier == () and plan.simulations == 0
    assert plan.count() == {why: 2}
    assert planner.binding(plan) == [f"{why}: 2 candidates"]


def test_binding_names_the_target_that_one_replica_less_misses() -> None:
    planner = Planner(problem())
    plan = planner.solve()
    assert plan.cheapest is not None and plan.cheapest.replicas is not None and plan.cheapest.replicas > 1
    said = planner.binding(plan)[0]
    assert said.startswith(f"with {plan.cheapest.replicas - 1} replicas: ") and "above" in said


def test_what_ifs_are_answered_as_if_asked_alone() -> None:
    """What earlier answers left behind (a guess to start from, runs) changes no answer; prices need no new run."""
    planner = Planner(problem())
    first = planner.solve()
    for what_if in (
        WhatIf(load=1.7),
        WhatIf(load=0.5),
        WhatIf(links=(("*", 0.4),)),
        WhatIf(prices=(("slow", 3.0),)),
        WhatIf(1.2, (("*", 0.8),), (("fast", 0.7),)),
    ):
        changed = planner.solve(what_if)
        for candidate in planner.problem.candidates:
            assert planner._rule(candidate, what_if) == Planner(planner.problem)._rule(candidate, what_if)
        assert answer(changed) == answer(Planner(planner.problem).exhaustive(what_if))
    assert answer(planner.solve()) == answer(first)
    assert planner.solve().simulations == 0
    dearer = planner.solve(WhatIf(prices=(("slow", 1.01), ("fast", 1.01), ("tiny", 1.01))))
    assert flips(first, dearer) == [] and dearer.cheapest is not None and first.cheapest is not None
    assert dearer.cheapest.cost == pytest.approx(first.cheapest.cost * 1.01)  # type: ignore[operator]


def test_where_nothing_is_counted_nothing_fits() -> None:
    """Of no requests every percentile is kept: that is no answer."""
    planner = Planner(problem(load=replace(LOAD, rate_per_s=1e-4)))
    plan = planner.solve()
    assert plan.cheapest is None and Planner(planner.problem).exhaustive().cheapest is None
    assert any("no request is counted" in o.reason for o in plan.outcomes)


def test_equal_costs_are_equal_whatever_their_factors() -> None:
    """0.1 x 3 and 0.3 x 1: the more accurate one is taken, though the other is an ulp cheaper in floating point."""
    rough, fine = Candidate("tiny", 3, "thin", 1024, 32), Candidate("fast", 1, "plain", 1024, 32)
    load = replace(LOAD, rate_per_s=LOAD.rate_per_s / 2)
    for prices in ({"tiny": 0.1, "fast": 0.3}, {"tiny": 0.3, "fast": 0.9}):
        only = problem(load=load, candidates=(rough, fine), prices=prices, targets=Targets(0.5, 30.0), max_replicas=1)
        plan = Planner(only).solve()
        assert [o.why for o in plan.outcomes] == ["fits", "fits"]
        assert plan.cheapest is not None and plan.cheapest.candidate == fine


def test_the_same_question_gives_the_same_answer() -> None:
    plans = [Planner(problem(frontier=True)).solve(AS_GIVEN) for _ in range(2)]
    texts = [json.dumps([o.to_dict() for o in (*plan.outcomes, *plan.frontier)]) for plan in plans]
    assert texts[0] == texts[1]


# --- the file and the command ---

FILE = """
model = "llama-3-8b"
[load]
rate_per_s = 6.0
prompt = { mean = 300, most = 2000 }
output = { kind = "geometric", mean = 20 }
[targets]
ttft = { percentile = 90, seconds = 0.6 }
tpot = { percentile = 90, seconds = 0.1 }
perplexity_ratio = 1.02
[prices]
8xl40s-pcie = { per_gpu_hour = 1.0, source = "example" }
4xl4-pcie = { per_gpu_hour = 0.5, source = "example" }
[search]
tp = [2]
schemes = ["bf16", "flash-int4"]
token_budgets = [256]
max_sequences = [16]
max_replicas = 12
seconds = 40.0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(FILE)
    return path


def test_the_document_has_what_scripts_read(capsys: Capture, file: Path) -> None:
    given = ("plan", str(file), "--what-if", "load x2, price 8xl40s-pcie x3", "--json")
    status, out, err = run(capsys, *given)
    assert (status, err) == (0, "")
    found = json.loads(out)
    best = found["cheapest"]
    assert best["cluster"] in ("8xl40s-pcie", "4xl4-pcie") and best["gpus"] == 2 * best["replicas"]
    assert best["ttft_ms"]["value"] <= 600 and best["ttft_ms"]["half_width"] > 0
    assert best["ttft_bound_ms"] <= best["ttft_ms"]["value"]
    assert found["frontier"][0] == best and len(found["candidates"]) == 4 and found["binding"]
    assert [row["change"] for row in found["changes"]] == [
        "load x0.9", "load x1.1", "link x0.9", "link x1.1", "price 4xl4-pcie x0.9", "price 4xl4-pcie x1.1",
        "price 8xl40s-pcie x0.9", "price 8xl40s-pcie x1.1",
    ]  # fmt: skip
    assert found["what_if"][0]["change"] == "load x2, price 8xl40s-pcie x3"
    status, out, err = run(capsys, "plan", str(file), "--no-changes")
    assert status == 0 and "What binds" in out and "±" in out and "Small changes" not in out
    assert out.startswith("Cheapest: ") and "Candidates: " not in out and "What it rests on" not in out
    status, out, err = run(capsys, "plan", str(file), "--no-changes", "--explain")
    assert status == 0 and out.index("Candidates: ") < out.index("What it rests on")


def test_a_plan_names_the_gpus_that_are_not_the_first_ones(capsys: Capture, file: Path) -> None:
    file.write_text(FILE.replace("tp = [2]", 'tp = [2]\ngpus = ["0,4"]').replace(', "flash-int4"', "", 1))
    status, out, _ = run(capsys, "plan", str(file), "--no-changes", "--json")
    assert status == 0
    rows = {(c["cluster"], *c["replica_gpus"]): c for c in json.loads(out)["candidates"]}
    assert [*rows] == [("8xl40s-pcie", 0, 1), ("8xl40s-pcie", 0, 4), ("4xl4-pcie", 0, 1), ("4xl4-pcie", 0, 4)]
    assert rows["4xl4-pcie", 0, 4]["why"] == "does not fit"
    assert rows["4xl4-pcie", 0, 4]["reason"] == "no GPU 4 on 4xl4-pcie, it has 0-3: gpus=0,4"
    spread = rows["8xl40s-pcie", 0, 4]
    assert (spread["tp"] == 2 and spread["replicas"] is None) or spread["gpus"] == 2 * spread["replicas"]
    file.write_text(file.read_text().replace("tp = [2]\n", ""))
    status, out, _ = run(capsys, "plan", str(file), "--no-changes")
    assert status == 0 and re.search(r"\d+ x TP 2 on GPUs 0,4 of 8xl40s-pcie, bf16, 256 / 16, ", " ".join(out.split()))
    assert re.search(r"^8xl40s-pcie +2 on GPUs 0,4 +bf16 ", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rate_per_s", "rate", "load.rate: unknown key"),
        ("rate_per_s = 6.0", "rate_per_s = 0", "load.rate_per_s: must be a positive finite number"),
        ("percentile = 90, seconds = 0.6", "percentile = 80, seconds = 0.6", "50, 90, 95 or 99"),
        ('kind = "geometric"', 'kind = "normal"', "'fixed', 'lognormal' or 'geometric'"),
        ('"geometric", mean', '"geometric", most = 9, mean', "variation and most are of lognormal"),
        ("4xl4-pcie", "4xl5-pcie", "4xl4-pcie"),
        ('"flash-int4"', '"flash-int9"', "search.schemes.1"),
        ("llama-3-8b", "llama-9", "model: "),
        ("[search]", '[search]\nclusters = ["8xh100-nvlink"]', "no price of '8xh100-nvlink'"),
        ("tp = [2]", "tp = []", "search.tp"),
        (', source = "example"', "", "source: missing key"),
        ("[search]", "[search", "malformed TOML"),
        ("rate_per_s = 6.0", "rate_per_s = nan", "load.rate_per_s: must be a positive finite number"),
        ("rate_per_s = 6.0", "rate_per_s = 6.0\nburstiness = 1e9", "load.burstiness: "),
        ("most = 2000", "variation = 5000.0", "load.prompt: log-normal lengths need"),
        ('kind = "geometric", mean = 20', 'kind = "fixed", mean = 20.5', "load.output: fixed lengths are whole"),
        ("seconds = 40.0", "seconds = inf", "search.seconds: must be"),
        ("seconds = 40.0", "seconds = 40.0\nchange = 0.9999", "search.change: "),
        ('"flash-int4"', '"auto:+1%"', "search.schemes.1: auto:+1% is chosen for"),
    ],
)
def test_bad_files_are_one_line(capsys: Capture, file: Path, old: str, new: str, said: str) -> None:
    file.write_text(FILE.replace(old, new, 1))
    status, out, err = run(capsys, "plan", str(file))
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert said in err and "plan.toml" in err


def test_a_file_that_is_not_there_is_one_line(capsys: Capture) -> None:
    status, out, err = run(capsys, "plan", "nowhere.toml")
    assert (status, out, err.count("\n")) == (2, "", 1) and "nowhere.toml" in err


@pytest.fixture
def asked(file: Path) -> Asked:
    return read(file)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("load x2", WhatIf(2.0)),
        ("link x0.5", WhatIf(links=(("*", 0.5),))),
        ("link bridge*->bridge* x0.5, load x1.5", WhatIf(1.5, (("bridge*->bridge*", 0.5),))),
        ("price l40s x0.8", WhatIf(prices=(("8xl40s-pcie", 0.8),))),
        ("price 4xl4-pcie x2, price l4 x2", WhatIf(prices=(("4xl4-pcie", 4.0),))),
        ("  load   x5e-1 ", WhatIf(0.5)),
        ("load x1e-3, load x1e3", WhatIf(1.0)),
    ],
)
def test_what_ifs_are_read(asked: Asked, text: str, found: WhatIf) -> None:
    assert asked.what_if(text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("load", "a what-if is"),
        ("load x0", "0.001..1000"),
        ("load 2", "a what-if is"),
        ("links x2", "a what-if is"),
        ("load all x2", "'load' takes no name"),
        ("price x2", "'price' needs one"),
        ("price h100 x2", "none of 4xl4-pcie"),
        ("link nowhere->* x2", "no machine of the search"),
        ("", "a what-if is"),
        ("load x2,", "a what-if is"),
        ("load xnan", "a what-if is"),
        ("LOAD x2", "a what-if is"),
        ("link x1e-3, link x1e-3", "taken together"),
        ("load x1e3, load x1e3", "taken together"),
        ("price l4 x500, price 4xl4-pcie x500", "taken together"),
    ],
)
def test_what_is_no_what_if_is_refused(asked: Asked, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"what-if|price|link") as refused:
        asked.what_if(text)
    assert said in str(refused.value)


def test_a_link_that_a_machine_has_not_changes_nothing_there_and_the_others_do(asked: Asked) -> None:
    candidate = Candidate("4xl4-pcie", 2, "bf16", 256, 16)
    everywhere = asked.what_if("link x0.5")
    apart = asked.what_if("link bridge0->bridge1 x0.1, link bridge0->gpu* x0.5, link gpu*->* x0.5, link pool:* x0.5")
    assert "bridge0->bridge1" not in {link.name for link in asked.clusters["4xl4-pcie"].links}
    plain_s, halved_s, apart_s = (
        asked.problem.engines(candidate, links).pace.mixed_s([(256, 256)], 1, 0, 0)
        for links in ((), everywhere.links, apart.links)
    )
    assert plain_s < halved_s == apart_s


def test_a_scheme_that_a_machine_cannot_do_rules_out_that_machine_only(capsys: Capture, file: Path) -> None:
    text = FILE.replace('"flash-int4"', '"nvls:bf16"').replace("4xl4-pcie", "8xh100-nvlink")
    file.write_text(text.replace("[search]", "[search]\nallow_unmeasured = true"))
    status, out, err = run(capsys, "plan", str(file), "--json", "--no-changes")
    assert status == 0, err
    why = {(o["cluster"], o["scheme"]): (o["why"], o["reason"]) for o in json.loads(out)["candidates"]}
    assert why["8xl40s-pcie", "nvls:bf16"][0] == "does not fit" and "switch" in why["8xl40s-pcie", "nvls:bf16"][1]
    assert why["8xh100-nvlink", "nvls:bf16"][0] != "does not fit"


def test_changes_need_no_names_that_a_what_if_can_spell(asked: Asked) -> None:
    """A GPU's name may hold blanks and commas, and a change may be large."""
    odd = {name: replace(c, gpu=replace(c.gpu, name="X 1, big")) for name, c in asked.clusters.items()}
    search = asked.file.search.model_copy(update={"change": 0.999})
    wide = asked.file.model_copy(update={"search": search})
    found = replace(asked, inputs=replace(asked.inputs, clusters=odd, file=wide)).changes()
    assert [(w.load, w.links) for w in found[:4]] == [
        (0.001, ()), (1.999, ()), (1.0, (("*", 0.001),)), (1.0, (("*", 1.999),)),
    ]  # fmt: skip
    assert [w.prices for w in found[4:]] == [(("4xl4-pcie", f), ("8xl40s-pcie", f)) for f in (0.001, 1.999)]
    two_words = {**odd, "8xl40s-pcie": replace(odd["8xl40s-pcie"], gpu=GPU_OF_TWO_WORDS)}
    blank = replace(asked, inputs=replace(asked.inputs, clusters=two_words))
    assert blank.what_if("price RTX 9 x0.5") == WhatIf(prices=(("8xl40s-pcie", 0.5),))


def test_accuracy_is_of_what_is_compressed(file: Path) -> None:
    """Prompts alone only where tokens decoded really go uncompressed: last rows exempt, or a gate that leaves all of
    their batches alone. On L40S over PCIe the gate finds INT4 sooner for large batches, too."""
    schemes = '"flash-int4", "flash-int4+exempt-last-1", "bf16"'
    for gated in (False, True):
        asked_for = f"[search]\ngated = {str(gated).lower()}"
        file.write_text(
            FILE.replace("[search]", asked_for).replace("tp = [2]", "tp = [4]").replace('"flash-int4"', schemes)
        )
        asked = read(file)
        for name, sequences, compress in (
            ("flash-int4+exempt-last-1", 16, "prompt"), ("flash-int4+exempt-last-1", 4096, "prompt"),
            ("flash-int4", 16, "prompt" if gated else "all"), ("flash-int4", 4096, "all"),
        ):  # fmt: skip
            candidate = Candidate("8xl40s-pcie", 4, name, 256, sequences)
            known = figure(find(name), 4, 1, compress)  # type: ignore[arg-type]
            assert asked.inputs.compress(candidate) == compress
            assert known is not None and asked.problem.accuracy(candidate) == known.perplexity_ratio
        assert asked.problem.accuracy(Candidate("8xl40s-pcie", 4, "bf16", 256, 16)) == 1  # compresses nothing
        said = " ".join(assumptions(asked))
        assert ("of every position" in said and "for flash-int4:" in said) != gated


def test_a_gate_that_spares_decode_counts_prompts() -> None:
    """Eight H100 over NVLink: what is decoded is sooner uncompressed."""
    cluster = load_cluster("8xh100-nvlink")
    profile, found = load_profile(cluster), find("flash-int8")
    assert all(decodes_exactly(cluster, found, profile, n, 8192, gated=True) for n in (1, 16, 100))
    assert not decodes_exactly(cluster, found, profile, 1, 8192, gated=False)
    assert decodes_exactly(cluster, find("spd-50"), profile, 4096, 8192, gated=False)
    assert decodes_exactly(cluster.take(1), found, profile, 4096, 8192, gated=False)


def test_accuracy_is_that_of_the_gpus_taken(file: Path) -> None:
    """Four of eight L40S are one island: hierarchical is two-step there, which is measured apart."""
    file.write_text(FILE.replace("tp = [2]", "tp = [1, 4, 8]").replace('"flash-int4"', '"flash2-int4-hier"'))
    asked = read(file)
    for tp, scheme in ((4, "two_step:int4-g128-zp"), (8, "flash2-int4-hier")):
        islands = len(asked.clusters["8xl40s-pcie"].take(tp).islands)
        known = figure(find(scheme), tp, islands, "all")  # no gate: decode's messages are compressed, too
        assert known is not None and (islands > 1) == (tp == 8)
        assert (
            asked.problem.accuracy(Candidate("8xl40s-pcie", tp, "flash2-int4-hier", 256, 16)) == known.perplexity_ratio
        )
    assert asked.problem.accuracy(Candidate("8xl40s-pcie", 1, "bf16", 256, 16)) == 1.0
    assert any("SmolLM2" in said for said in assumptions(asked))


def test_the_example_is_a_plan(root: Path) -> None:
    found = read(root / "examples" / "plan.toml")
    assert len(found.problem.candidates) > 10
    assert all("example" in price.source for price in found.file.prices.values())
