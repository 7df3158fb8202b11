"""What keeps a TTFT under a load, and what it costs: a small plan around the state, for the page."""

import time
from collections.abc import Callable
from typing import Any

from thinwire.page.answers import BASELINE, EXAMPLE, EXAMPLE_PRICES, answer, chosen, file_of
from thinwire.page.desk import Desk
from thinwire.page.documents import Deployment, Plan, Price
from thinwire.page.loads import USUAL_RATE, ms
from thinwire.page.state import DROP, State
from thinwire.sim.planning.file import read
from thinwire.sim.planning.plan import Outcome, Planner
from thinwire.topologies.importing.written import toml

PERCENTILE = 95
SECONDS = 60.0  # simulated for each number of replicas tried
MACHINES = 6
TOKENS, SEQUENCES, REPLICAS = 2048, 128, 16
YOURS = "given on the page"


def plan(desk: Desk, state: State, progress: Callable[[str], None] = lambda what: None) -> Plan:
    """Machines that have a price, at the state's TP degree, with and without compression.

    Args:
        progress: told of each candidate that is settled.

    Raises:
        ValueError: as `answer`, and for a machine that is not there.
    """
    return desk.answers.get(("plan", state), lambda: _plan(desk, state, progress))


def prices(desk: Desk, state: State) -> list[Price]:
    """The user's, in the place of the examples."""
    given = dict(state.prices)
    if len(given) > MACHINES:
        raise ValueError(f"at most {MACHINES} machines with a price: {len(given)} given")
    for name in given:
        desk.machine(name)
    found = given or EXAMPLE_PRICES
    return [Price(name=name, per_gpu_hour=price, source=YOURS if given else EXAMPLE) for name, price in found.items()]


def _plan(desk: Desk, state: State, progress: Callable[[str], None]) -> Plan:
    started = time.monotonic()
    priced = prices(desk, state)
    rows = answer(desk, state)["rows"]
    best = [row["scheme"] for row in rows if row["best"]]
    able = {row["scheme"] for row in rows if row["ttft_ms"] is not None}
    schemes = [name for name in dict.fromkeys([BASELINE, chosen(state), *best]) if name in able and ":" not in name]
    gpus = {each["name"]: len(desk.machine(each["name"]).gpus) for each in priced}
    wanted = state.question.tp or answer(desk, state)["tp"]
    tp = sorted({min(wanted, count) for count in gpus.values()})
    document = table(state, priced, schemes, tp)
    path = desk.folder / "plan.toml"
    names = {each["name"]: str(desk.path(each["name"])) for each in priced if each["name"].startswith(DROP)}
    model = str(state.question.model)
    with desk.writing:
        own = {"model": str(desk.path(model))} if model.startswith(DROP) else {}
        shown = {names.get(name, name): value for name, value in document["prices"].items()}
        path.write_text(toml({**document, **own, "prices": shown}, ()), "utf-8")
        asked = read(path)

    def settled(line: str) -> None:
        desk.turns.turn()
        progress(f"a plan: {line}")

    found = Planner(asked.problem, settled).solve(
        asked.what_if(f"link x{state.link:.6g}") if state.link != 1 else asked.what_if("load x1")
    )
    back = {path: name for name, path in names.items()}
    frontier, cheapest = {id(each) for each in found.frontier}, found.cheapest
    deployments = [_deployment(desk, each, back, id(each) in frontier, each is cheapest) for each in found.outcomes]
    deployments.sort(key=lambda d: (not d["kept"], d["cost_per_hour"] or 0.0, d["machine"], d["scheme"]))
    return {
        "state": state.query(),
        "currency": "USD",
        "target_ms": state.slo_ttft_ms,
        "percentile": PERCENTILE,
        "verdict": _verdict(state, deployments),
        "deployments": deployments,
        "prices": priced,
        "seconds": time.monotonic() - started,
        "note": f"{document['load']['rate_per_s']:g} requests a second, prompts of {state.question.input_tokens} and "
        f"answers of {state.output_tokens:g} tokens on average; replicas of one run of {SECONDS:g} s each, the same "
        "requests for every candidate; GPUs are paid for one by one; the ± is the simulation's alone",
        "file": _for_people(desk, document, bool(own)),
    }


def _for_people(desk: Desk, document: dict[str, Any], own_model: bool) -> str:
    """The plan's file, files dropped by names that whoever dropped them may give them."""
    prices = {file_of(desk, name): value for name, value in document["prices"].items()}
    model = "config.json" if own_model else document["model"]
    return toml({**document, "model": model, "prices": prices}, ("thinwire plan FILE answers it.",))


def table(state: State, priced: list[Price], schemes: list[str], tp: list[int]) -> dict[str, Any]:
    """The plan's file as values."""
    q = state.question

    def lengths(mean: float) -> dict[str, Any]:
        return {"kind": "lognormal", "mean": float(mean), "variation": 1.0}

    return {
        "model": q.model,
        "weights": q.weights,
        "kv": q.kv,
        "load": {
            "rate_per_s": USUAL_RATE if state.rate is None else float(state.rate),
            "prompt": lengths(q.input_tokens),
            "output": lengths(state.output_tokens),
        },
        "targets": {
            "ttft": {"percentile": PERCENTILE, "seconds": state.slo_ttft_ms / 1e3},
            "perplexity_ratio": float(state.max_perplexity),
        },
        "prices": {
            each["name"]: {"per_gpu_hour": float(each["per_gpu_hour"]), "source": each["source"]} for each in priced
        },
        "search": {
            "tp": tp, "schemes": schemes, "token_budgets": [TOKENS], "max_sequences": [SEQUENCES],
            "max_replicas": REPLICAS, "gated": True, "seconds": SECONDS,
        },
    }  # fmt: skip


def _deployment(desk: Desk, o: Outcome, back: dict[str, str], frontier: bool, best: bool) -> Deployment:
    name = back.get(o.candidate.cluster, o.candidate.cluster)
    return {
        "machine": desk.machine(name).name,
        "tp": o.candidate.tp,
        "scheme": o.candidate.scheme,
        "replicas": o.replicas,
        "gpus": None if o.replicas is None else o.replicas * o.candidate.tp,
        "cost_per_hour": o.cost,
        "ttft_ms": None if o.ttft is None else o.ttft.value * 1e3,
        "ttft_plus_minus_ms": None if o.ttft is None else ms(o.ttft.half_width),
        "perplexity": o.ratio,
        "kept": o.why == "fits",
        "frontier": frontier,
        "best": best,
        "why": desk.said(f"{o.why}: {o.reason}" if o.why != "fits" else o.reason),
    }


def _verdict(state: State, deployments: list[Deployment]) -> str:
    best = next((each for each in deployments if each["best"]), None)
    target = f"TTFT p{PERCENTILE} of {state.slo_ttft_ms:g} ms"
    if best is None:
        return f"No deployment tried keeps {target}."
    return (
        f"{best['replicas']} x TP {best['tp']} of {best['machine']} under {best['scheme']} keeps {target} for "
        f"{best['cost_per_hour']:.4g} USD an hour."
    )
