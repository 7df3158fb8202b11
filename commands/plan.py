"""`thinwire plan`: the cheapest deployment for a load and targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinwire.commands.options import Json, note, print_answer

if TYPE_CHECKING:
    from thinwire.sim.planning.file import Asked, TargetsTable
    from thinwire.sim.planning.plan import Outcome, Plan


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
    as_json: Json = False,
) -> None:
    """The cheapest deployment that keeps TTFT, TPOT and accuracy under a load."""
    from thinwire.sim.planning.file import read
    from thinwire.sim.planning.plan import Planner

    asked = read(Path(file))
    wanted = [asked.what_if(text) for text in what_if or ()]
    planner = Planner(asked.problem, note)
    found = planner.solve()
    said = planner.binding(found)
    changes = [planner.solve(change, frontier=False) for change in ([] if no_changes else asked.changes())]
    answers = [planner.solve(change, frontier=False) for change in wanted]
    shown = (asked, found, said, changes, answers)
    print_answer(document(*shown), as_json, lambda: show(*shown))


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


def _wanted(targets: TargetsTable) -> str:
    """The target on accuracy, as whoever decides holds it."""
    if targets.accuracy_from == "none":
        return ", any accuracy"
    if targets.accuracy_from == "published":
        share = "any share" if targets.perplexity_ratio is None else f"{2 - targets.perplexity_ratio:.4g}"
        return f", {share} of a published score kept"
    return "" if targets.perplexity_ratio is None else f", perplexity ratio {targets.perplexity_ratio:g}"


def _judged(outcome: Outcome) -> str:
    """Who decided on its accuracy."""
    if outcome.judged is None:
        return ""
    share = "" if outcome.judged.by != "published" or outcome.judged.share is None else f" {outcome.judged.share:.1%}"
    return f"{outcome.judged.by}{share}"


def _published(plan: Plan) -> list[str]:
    """The figures that admitted somebody, once each; who was refused by them says so himself."""
    said = [
        f"{o.candidate.scheme} at TP {o.candidate.tp}: {o.judged.said}"
        for o in plan.outcomes
        if o.judged is not None and o.judged.by == "published" and not o.judged.refused
    ]
    return list(dict.fromkeys(said))


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return "nothing keeps the targets"
    c = outcome.candidate
    return f"{outcome.replicas} x TP {c.tp}{c.where} of {c.cluster}, {c.scheme}, {c.token_budget} / {c.max_sequences}"


def show(asked: Asked, plan: Plan, said: list[str], changes: list[Plan], answers: list[Plan]) -> None:
    """For people."""
    from thinwire.commands.tables.console import console

    best, file = plan.cheapest, asked.file
    targets = file.targets
    wants = f"TTFT p{targets.ttft.percentile} {targets.ttft.seconds * 1e3:g} ms"
    if targets.tpot is not None:
        wants += f", TPOT p{targets.tpot.percentile} {targets.tpot.seconds * 1e3:g} ms"
    wants += _wanted(targets)
    console.print(f"{file.model} ({asked.inputs.words}), {file.load.rate_per_s:g} requests/s; {wants}")
    if best is None:
        console.print("[bold]No deployment of the search keeps the targets.[/bold]")
    else:
        console.print(f"[bold]{_cell(best)}: {best.cost:.4g} {file.currency} an hour[/bold]")
    for line in said:
        console.print(f"  binding: {line}")
    of = "cost and TTFT" if targets.accuracy_from == "none" else "cost, TTFT and accuracy"
    console.print(_outcomes(f"Frontier of {of}, each at the fewest replicas", plan.frontier, asked))
    console.print(_outcomes("Candidates", plan.outcomes, asked, why=True))
    for line in _published(plan):
        console.print(f"  {line}", markup=False)
    for title, found in (("Small changes", changes), ("What if", answers)):
        if found:
            console.print(_changes(title, plan, found))
    counts = ", ".join(f"{number} {why}" for why, number in plan.count().items())
    console.print(f"{len(plan.outcomes)} candidates: {counts}; {plan.simulations} runs simulated")
    for line in assumptions(asked):
        console.print(f"- {line}")


def _outcomes(title: str, outcomes: tuple[Outcome, ...], asked: Asked, why: bool = False) -> Any:
    from rich.table import Table

    from thinwire.sim.serving.statistics import ms

    targets = asked.problem.targets
    heads = ["cluster", "TP", "scheme", "batch", "replicas", f"{asked.file.currency}/h", "perplexity", "accuracy by"]
    heads += [f"TTFT p{targets.ttft_quantile * 100:g}"]
    heads += [] if asked.file.targets.tpot is None else [f"TPOT p{targets.tpot_quantile * 100:g}"]
    table = Table(*heads, *(["why"] if why else []), title=title, title_justify="left", box=None, pad_edge=False)
    for o in outcomes:
        c = o.candidate
        least = "" if o.least_replicas is None else f">= {o.least_replicas}"
        row = [c.cluster, f"{c.tp}{c.where}", c.scheme, f"{c.token_budget}/{c.max_sequences}"]
        row += [least if o.replicas is None else str(o.replicas), "" if o.cost is None else f"{o.cost:.2f}"]
        row += ["" if o.ratio is None else f"{o.ratio:.4f}", _judged(o), "" if o.ttft is None else ms(o.ttft)]
        row += [] if asked.file.targets.tpot is None else ["" if o.tpot is None else ms(o.tpot)]
        table.add_row(*row, *([o.why if o.why == "fits" else f"{o.why}: {o.reason}"] if why else []))
    return table


def _changes(title: str, plan: Plan, found: list[Plan]) -> Any:
    from rich.table import Table

    table = Table(title, "cheapest", "cost/h", "flips", box=None, pad_edge=False)
    for changed in found:
        best = changed.cheapest
        cost = "" if best is None else f"{best.cost:.2f}"
        table.add_row(str(changed.what_if), _cell(best), cost, ", ".join(flips(plan, changed)) or "nothing")
    return table
