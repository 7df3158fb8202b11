"""A plan for people: the answer in a sentence, what binds, what would flip it; the rest folded under headings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from thinwire.commands.tables.console import heading, item, say
from thinwire.commands.tables.fitting import Column, Fitted
from thinwire.edge.quantities import ratio_text, time_text
from thinwire.sim.serving.statistics import Estimate, time

if TYPE_CHECKING:
    from thinwire.sim.planning.file import Asked, TargetsTable
    from thinwire.sim.planning.plan import Outcome, Plan


def verdict(asked: Asked, plan: Plan) -> str:
    """What to rent, in a sentence."""
    best, targets = plan.cheapest, asked.problem.targets
    if best is None:
        most = max(plan.count().items(), key=lambda pair: pair[1])
        return (
            f"No deployment of the search keeps the targets: of {len(plan.outcomes)} candidates, {most[1]} fail by "
            f"{most[0]}."
        )
    assert best.cost is not None and best.ttft is not None
    said = [f"TTFT p{targets.ttft_quantile * 100:g} {time(best.ttft)} of {time_text(targets.ttft_s)} allowed"]
    if asked.file.targets.tpot is not None and best.tpot is not None:
        said.append(f"TPOT p{targets.tpot_quantile * 100:g} {time(best.tpot)} of {time_text(targets.tpot_s)}")
    return f"Cheapest: {cell(best)}, {best.cost:.2f} {asked.file.currency} an hour; {', '.join(said)}."


def show(
    asked: Asked, plan: Plan, said: list[str], changes: list[Plan], answers: list[Plan], explain: bool = False
) -> None:
    """The answer first. explain: every candidate, by what became of it, and what all of it rests on."""
    say(verdict(asked, plan), "bold")
    say(_question(asked))
    of = "cost and TTFT" if asked.file.targets.accuracy_from == "none" else "cost, TTFT and accuracy"
    if plan.frontier:
        heading(f"Frontier of {of}")
        _outcomes(plan.frontier, asked)
    heading("What binds")
    for line in said:
        item(line)
    for title, found in (("Small changes: what would flip it", changes), ("What if", answers)):
        if found:
            heading(title)
            _changes(plan, found)
    counts = ", ".join(f"{number} {why}" for why, number in plan.count().items())
    heading("The search")
    say(f"{len(plan.outcomes)} candidates: {counts}; each at its fewest replicas; {plan.simulations} runs simulated")
    if not explain:
        say("--explain lists them, and what the answer rests on")
        return
    for why in plan.count():
        heading(f"Candidates: {why}")
        for o in plan.outcomes:
            if o.why == why:
                item(_line(o))
    if published := _published(plan):
        heading("Accuracy, as published")
        for line in published:
            item(line)
    heading("What it rests on")
    for line in assumptions(asked):
        item(line)


def cell(outcome: Outcome | None) -> str:
    """A deployment in a few words."""
    if outcome is None:
        return "nothing keeps the targets"
    c = outcome.candidate
    return f"{outcome.replicas} x TP {c.tp}{c.where} of {c.cluster}, {c.scheme}, {c.token_budget} / {c.max_sequences}"


def _question(asked: Asked) -> str:
    file = asked.file
    load, targets = file.load, file.targets
    wants = f"TTFT p{targets.ttft.percentile} {time_text(targets.ttft.seconds)}"
    if targets.tpot is not None:
        wants += f", TPOT p{targets.tpot.percentile} {time_text(targets.tpot.seconds)}"
    return (
        f"{file.model} ({asked.inputs.words}), {load.rate_per_s:g} requests/s of {load.prompt.mean:g} + "
        f"{load.output.mean:g} tokens; {wants}{_wanted(targets)}. A deployment is REPLICAS x TP of a machine, scheme, "
        "tokens of an iteration / sequences of a batch."
    )


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


def _outcomes(outcomes: Sequence[Outcome], asked: Asked) -> None:
    targets = asked.problem.targets
    batches = {(o.candidate.token_budget, o.candidate.max_sequences) for o in outcomes}
    table = Fitted(
        (
            Column("machine", left=True),
            Column("TP", left=True),
            Column("scheme", left=True),
            Column("batch", rank=1 if len(batches) > 1 else 4),
            Column("replicas", rank=2),
            Column(f"{asked.file.currency}/h"),
            Column("perplexity"),
            Column("accuracy by", rank=3, left=True),
            Column(f"TTFT p{targets.ttft_quantile * 100:g}"),
            Column(f"TPOT p{targets.tpot_quantile * 100:g}", rank=1),
        )
    )
    for o in outcomes:
        c = o.candidate
        table.add(
            c.cluster,
            f"{c.tp}{c.where}",
            c.scheme,
            f"{c.token_budget}/{c.max_sequences}",
            str(o.replicas),
            "" if o.cost is None else f"{o.cost:.2f}",
            "" if o.ratio is None else ratio_text(o.ratio),
            _judged(o),
            _time(o.ttft),
            "" if asked.file.targets.tpot is None else _time(o.tpot),
        )
    table.show()


def _time(estimate: Estimate | None) -> str:
    return "" if estimate is None else time(estimate)


def _line(o: Outcome) -> str:
    """A candidate and what became of it."""
    known = [] if o.ratio is None else [f"perplexity {ratio_text(o.ratio)}"]
    known += [f"accuracy by {judged}"] if (judged := _judged(o)) else []
    known += [f"{o.cost:.2f} an hour"] if o.cost is not None else []
    known += [f"at least {o.least_replicas} replicas"] if o.least_replicas is not None and o.replicas is None else []
    return f"{o.candidate}: {o.reason}" + (f" ({', '.join(known)})" if known else "")


def _changes(plan: Plan, found: Sequence[Plan]) -> None:
    """What flips the answer, and what it then is."""
    flipped = [(changed, flips(plan, changed)) for changed in found]
    if still := [str(changed.what_if) for changed, what in flipped if not what]:
        item(f"nothing flips with {', '.join(still)}")
    table = Fitted(
        (
            Column("change", left=True, wraps=True),
            Column("cost/h"),
            Column("flips", rank=1, left=True, wraps=True),
            Column("cheapest then", left=True, wraps=True),
        )
    )
    for changed, what in flipped:
        if what:
            best = changed.cheapest
            cost = "" if best is None or best.cost is None else f"{best.cost:.2f}"
            table.add(str(changed.what_if), cost, ", ".join(what), cell(best))
    if table.rows:
        table.show()


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
