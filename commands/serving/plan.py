"""`thinwire plan`: the cheapest deployment for a load and targets."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinwire.commands.frame.progress import working
from thinwire.commands.options import Json, envelope, print_answer

if TYPE_CHECKING:
    from thinwire.sim.planning.file import Asked
    from thinwire.sim.planning.plan import Plan


def plan(
    file: Annotated[str, typer.Argument(help="TOML file of a plan; examples/plan.toml explains one.")],
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            help="'load xF', 'link xF', 'link PATTERN xF', 'price CLUSTER-OR-GPU xF', or several with commas; "
            "each --what-if is answered by itself."
        ),
    ] = None,
    no_changes: Annotated[bool, typer.Option("--no-changes", help="Leave out what small changes would flip.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Every candidate and what ruled it out, and what the answer rests on.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The cheapest deployment that keeps TTFT, TPOT and accuracy under a load."""
    from thinwire.sim.planning.file import read
    from thinwire.sim.planning.plan import Planner

    asked = read(Path(file))
    wanted = [asked.what_if(text) for text in what_if or ()]
    small = [] if no_changes else asked.changes()
    with working("plan", "candidates", total=len(asked.problem.candidates) * (1 + len(small) + len(wanted))) as work:
        settled = count(1)
        planner = Planner(asked.problem, lambda line: work.update(next(settled), at=line.partition(":")[0]))
        found = planner.solve()
        said = planner.binding(found)
        changes, answers = ([planner.solve(each, frontier=False) for each in given] for given in (small, wanted))
    from thinwire.commands.serving.planned import show, verdict

    shown = (asked, found, said, changes, answers)
    print_answer(
        envelope("plan") | {"verdict": verdict(asked, found)} | document(*shown), as_json, lambda: show(*shown, explain)
    )


def document(asked: Asked, plan: Plan, said: list[str], changes: list[Plan], answers: list[Plan]) -> dict[str, Any]:
    """`plan --json`."""
    best = plan.cheapest
    return {
        "model": asked.file.model,
        **asked.file.placed(),
        "currency": asked.file.currency,
        "load": asked.file.load.model_dump(),
        "targets": asked.file.targets.model_dump(),
        "prices": {name: asked.file.prices[name].model_dump() for name in asked.clusters},
        "simulated_seconds": asked.problem.window.duration_s,
        "seed": asked.problem.seed,
        "cheapest": None if best is None else best.to_dict(),
        "binding": said,
        "frontier": [outcome.to_dict() for outcome in plan.frontier],
        "candidates": [outcome.to_dict() for outcome in plan.outcomes],
        "counts": plan.count(),
        "simulations": plan.simulations,
        "changes": [_answer(plan, change) for change in changes],
        "what_if": [_answer(plan, answer) for answer in answers],
        "assumptions": assumptions(asked),
    }


def _answer(plan: Plan, changed: Plan) -> dict[str, Any]:
    best = changed.cheapest
    return {
        "change": str(changed.what_if),
        "cheapest": None if best is None else best.to_dict(),
        "flips": flips(plan, changed),
        "simulations": changed.simulations,
    }


def flips(plan: Plan, changed: Plan) -> list[str]:
    """What a change makes different: the machine, the scheme, the number of replicas ...; nothing: []."""
    before, after = plan.cheapest, changed.cheapest
    if before is None or after is None:
        return [] if before is after else ["feasibility"]
    names = ("cluster", "tp", "gpus", "scheme", "token_budget", "max_sequences")
    found = [name for name in names if getattr(before.candidate, name) != getattr(after.candidate, name)]
    return found if before.replicas == after.replicas else [*found, "replicas"]


def assumptions(asked: Asked) -> list[str]:
    """What the answer rests on."""
    window = asked.problem.window
    known = map(asked.inputs.measured, asked.problem.candidates)
    titles = {figure.title for figure in known if figure is not None}
    return [
        "prices are the file's: "
        + "; ".join(f"{name} {asked.file.prices[name].per_gpu_hour:g}, {asked.file.prices[name].source}"
                    for name in asked.clusters),
        "GPUs are paid for one by one: a replica of fewer GPUs than its machine has costs what it uses",
        f"percentiles are of one simulated run of {window.duration_s:g} s (seed {asked.problem.seed}), the first "
        f"{window.warm_up_s:g} s not counted, the same requests for every candidate; a target is kept if the value is, "
        "intervals (95 %) are of batch means",
        "more replicas never do worse: checked one below each answer found by simulation, not everywhere",
        f"perplexity ratios are of {' and '.join(sorted(titles)) or 'no model'}, as measured: no promise for another",
        *counted(asked),
        *decided(asked),
        "replicas may still be filling when the run ends: that counts as kept where Little's law says that they have "
        "the room, and the run is longer than an answer",
        "replicas are those of thinwire serve, with its assumptions",
    ]  # fmt: skip


def counted(asked: Asked) -> list[str]:
    """Whose perplexity is of prompts alone, and whose of every position."""
    every = dict.fromkeys(c.scheme for c in asked.problem.candidates if c.tp > 1 and asked.inputs.compress(c) == "all")
    if not every:
        return ["they are of exact answers behind compressed prompts: decode's messages go uncompressed here"]
    return [
        f"they are of every position compressed, decode's too, on some machine or TP degree, for {', '.join(every)}: "
        "the gate is off, or finds decode's messages sooner compressed; +exempt-last-1 decodes exactly in any case"
    ]


def decided(asked: Asked) -> list[str]:
    """What decided on accuracy, where it was not those ratios."""
    match asked.file.targets.accuracy_from:
        case "published":
            return [
                "accuracy is decided by what others published: of the rows that match a scheme, of "
                f"{asked.inputs.model.name} where there are any, the worst must keep its share of a score; most are "
                "the word of who makes the scheme, under other engines and prompts. Perplexity ratios decide nothing"
            ]
        case "none":
            return ["accuracy decides nothing, neither who is admitted nor who is preferred"]
        case _:
            return []
