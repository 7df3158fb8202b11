"""`thinwire plan`: the cheapest deployment for a load and targets."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinwire.commands.frame.progress import working
from thinwire.commands.options import Json, envelope, print_answer
from thinwire.commands.reproduce import command_line

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

    words = [file, *(word for text in what_if or () for word in ("--what-if", text))]
    line = command_line("plan", [*words, *(["--no-changes"] if no_changes else [])])
    shown = (asked, found, said, changes, answers)
    print_answer(
        envelope(line) | {"verdict": verdict(asked, found)} | document(*shown), as_json, lambda: show(*shown, explain)
    )


def document(asked: Asked, plan: Plan, said: list[str], changes: list[Plan], answers: list[Plan]) -> dict[str, Any]:
    """`plan --json`."""
    from thinwire.commands.serving.planned import assumptions

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
    from thinwire.commands.serving.planned import flips

    best = changed.cheapest
    return {
        "change": str(changed.what_if),
        "cheapest": None if best is None else best.to_dict(),
        "flips": flips(plan, changed),
        "simulations": changed.simulations,
    }
