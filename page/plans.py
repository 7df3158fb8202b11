"""What keeps a TTFT under a load, and what it costs: a small plan around the state, for the page."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from thinwire.page.answers import BASELINE, EXAMPLE, EXAMPLE_PRICES, answer, chosen, file_of
from thinwire.page.desk import Desk
from thinwire.page.documents import Deployment, Plan, Price
from thinwire.page.loads import USUAL_RATE, ms
from thinwire.page.state import DROP, State, number
from thinwire.sim.planning.file import SHARED, Asked, read
from thinwire.sim.planning.plan import Outcome, Planner
from thinwire.sim.question import options_of
from thinwire.topologies.choose import choose, numbers, text_of
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
    usable = [row["scheme"] for row in rows if row["standing"] == "usable"]
    able = {row["scheme"] for row in rows if row["ttft_ms"] is not None}
    schemes = [name for name in dict.fromkeys([BASELINE, chosen(state), *best]) if name in able and ":" not in name]
    where, left = placed(desk, state, [each["name"] for each in priced])
    document = table(state, priced, schemes, where)
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

    found = Planner(asked.problem, settled).solve(asked.factors(1.0, {"*": state.link} if state.link != 1 else {}, {}))
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
        "note": f"{document['load']['rate_per_s']:g}/s of requests, prompts of {state.question.input_tokens} and "
        f"answers of {state.output_tokens:g} tokens on average; replicas of one run of {SECONDS:g} s each, the same "
        "requests for every candidate; GPUs are paid for one by one; the ± is the simulation's alone"
        + "".join(f". {one}" for one in [*_decoding(asked, found.outcomes, usable), *left]),
        "file": _for_people(desk, state, document, bool(own)),
    }


def placed(desk: Desk, state: State, machines: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Where replicas are placed, as keys of `search`; and what of the state a plan has no place for, in sentences."""
    q, left = state.question, list[str]()
    assert isinstance(q.cluster, str)
    counts = [len(desk.machine(name).gpus) for name in machines]
    wanted = q.tp or answer(desk, state)["tp"]
    found: dict[str, Any] = {"tp": sorted({min(wanted, count) for count in counts})}
    if (q.nodes or 1) > 1 and q.gpus is None:
        if any(_has(desk, name, wanted, None, q.nodes) for name in machines):
            found = {"tp": [wanted], "nodes": [q.nodes]}
        else:
            left.append(f"No machine with a price has {q.nodes} nodes: the plan is of one")
    if q.gpus is not None:
        gpus = text_of(numbers(q.gpus))
        if any(_has(desk, name, None, numbers(q.gpus), None) for name in machines):
            found = {"gpus": [gpus]}
        else:
            left.append(f"No machine with a price has GPUs {gpus}: the plan takes the first ones")
    if q.cluster not in machines:
        left.append(f"{desk.machine(q.cluster).name} has no price, so it is not among them")
    if q.profile is not None:
        left.append("A plan takes the shipped profiles, not the one given")
    if q.launch != options_of(q)["launch"].default:
        left.append("An engine's own launches are taken, not what was asked for one prompt")
    return found, left


def _has(desk: Desk, machine: str, tp: int | None, gpus: tuple[int, ...] | None, nodes: int | None) -> bool:
    try:
        choose(desk.machine(machine), tp, gpus, nodes)
    except ValueError:
        return False
    return True


def _decoding(asked: Asked, outcomes: Sequence[Outcome], usable: Sequence[str]) -> list[str]:
    """Why the plan refuses for its accuracy what the comparison calls usable."""
    refused = dict.fromkeys(
        o.candidate.scheme
        for o in outcomes
        if o.why == "accuracy" and o.candidate.scheme in usable and asked.inputs.compress(o.candidate) == "all"
    )
    if not refused:
        return []
    names, many = " and ".join(refused), len(refused) > 1
    return [
        f"{names} {'are' if many else 'is'} within the limit above, where prompts alone are compressed; replicas that "
        "serve compress the tokens of decode, too, where that is sooner, and then "
        f"{'they lose' if many else 'it loses'} more"
    ]


def _for_people(desk: Desk, state: State, document: dict[str, Any], own_model: bool) -> str:
    """The plan's file, files dropped by names that whoever dropped them may give them."""
    prices = {file_of(desk, name): value for name, value in document["prices"].items()}
    model = "config.json" if own_model else document["model"]
    line = "thinwire plan FILE answers it."
    if state.link != 1:  # a file says nothing of it
        line = (
            f'thinwire plan FILE --what-if "link x{number(state.link)}" answers it: the what-if is what the page says.'
        )
    return toml({**document, "model": model, "prices": prices}, (line,))


def table(state: State, priced: list[Price], schemes: list[str], where: dict[str, Any]) -> dict[str, Any]:
    """The plan's file as values. where: of `search`, how replicas are placed."""
    q = state.question

    def lengths(mean: float) -> dict[str, Any]:
        return {"kind": "lognormal", "mean": float(mean), "variation": 1.0}

    options = options_of(q)
    shared = {name: getattr(q, name) for name in SHARED}
    return {
        "model": q.model,
        "weights": q.weights,
        "kv": q.kv,
        **{name: value for name, value in shared.items() if value != options[name].default},
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
            **where, "schemes": schemes, "token_budgets": [TOKENS], "max_sequences": [SEQUENCES],
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
