"""`thinwire serve`: percentiles of a deployment under a load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinwire.commands.frame.progress import working
from thinwire.commands.options import Json, Verbose, asks, envelope, given, note_positions, print_answer
from thinwire.commands.reproduce import command_line, resting
from thinwire.edge.limits import KV_TOKENS
from thinwire.sim.question import options_of
from thinwire.sim.serving.question import WHOSE, Service

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thinwire.sim.grounds import Ground
    from thinwire.sim.report import Prediction
    from thinwire.sim.serving.replica import Batching
    from thinwire.sim.serving.serve import ServingResult


@asks(Service)
def serve(
    context: typer.Context,
    question: Service,
    headroom: Annotated[
        bool,
        typer.Option("--headroom/--no-headroom", help="Find the most requests a second it could serve: a run more."),
    ] = True,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """TTFT and TPOT percentiles of replicas under a load, with faults as what-ifs."""
    try:
        source = question.source()
    except ValueError:
        raise ValueError("give one of --rate, --users and --trace") from None
    for name, whose in WHOSE.items():
        if source not in whose and given(context, name):
            raise ValueError(f"{options_of(Service)[name].flag} belongs to --{' or --'.join(whose)}, not to --{source}")
    from thinwire.sim.serving import serve as serving
    from thinwire.sim.serving import verdict

    with working("serve", "seconds of arrivals simulated") as work:
        paces = serving.Paces(question.deployment())
        found = serving.answer(
            question, paces, headroom, lambda at_s, until_s: work.update(round(at_s), round(until_s))
        )
        alone = verdict.model_error(found)
    if source != "trace":
        note_positions(paces.model, question.input_tokens + question.output_tokens)
    rests = verdict.rests_on(found, alone)
    print_answer(_document(question, found, rests, verbose), as_json, lambda: _show(found, alone, rests, verbose))


def _document(question: Service, found: ServingResult, rests: Sequence[Ground], verbose: bool) -> dict[str, Any]:
    """`serve --json`."""
    from thinwire.sim.serving.verdict import verdict

    return {
        **envelope(command_line("serve", question)),
        "verdict": verdict(found),
        **found.to_dict(),
        **resting(rests, verbose),
        "question": question.given(),
    }


def _show(found: ServingResult, alone: Prediction | None, rests: Sequence[Ground], verbose: bool) -> None:
    """For people."""
    from thinwire.commands.tables.console import say
    from thinwire.commands.tables.fitting import Column, Fitted
    from thinwire.commands.tables.resting import rests_on
    from thinwire.sim.serving.statistics import NO_SLO, plus_minus, time
    from thinwire.sim.serving.verdict import OWN_ERROR, verdict

    run, limits = found.run, found.limits
    cache = "" if found.kv == "bf16" else f", KV cache {found.kv}"
    shared = "" if found.sharing is None else f", {found.sharing.words}"
    say(verdict(found), "bold")
    say(
        f"{found.model} ({found.weights}{cache}) under {found.scheme} on {found.gpus} GPUs of {found.cluster}, "
        f"TP {found.tp}{_on(found)}{shared}; {_load(found)}; {_batching(limits)}"
    )
    rows = {"TTFT": run.ttft, "TPOT": run.tpot, "whole answer": run.latency}
    ranks = {0.95: 2}  # between the others: where there is no room it goes first
    percentiles = [Column(f"p{q * 100:g}", ranks.get(q, 0)) for q in run.ttft.percentiles]
    table = Fitted([Column("", left=True), Column("mean", 1), *percentiles])
    for name, one in rows.items():
        table.add(name, time(one.mean), *map(time, one.percentiles.values()))
    table.show()
    kept = "" if run.slo == NO_SLO else " that keep the SLO"
    say(
        f"{run.ttft.count} requests counted of {run.arrived}; refused {run.refused}, unfinished {run.unfinished}, sent "
        f"again {run.restarts}. {plus_minus(run.goodput_per_s)} requests/s{kept}, "
        f"{plus_minus(run.output_tokens_per_s)} tokens/s. Waiting {plus_minus(run.queue, -2)} (most {run.queue_most}), "
        f"in the system {plus_minus(run.in_system)}; KV cache at most {run.kv_most:.0%} full."
    )
    if run.unfinished:
        say("Requests that nobody served are in no percentile; they count as not keeping the SLO.")
    if run.filling:
        say(
            f"Still filling: {run.in_system_growth} requests more under way at the end than after the warm-up; those "
            "who wait are no more than chance explains, a longer duration shows where it settles, or that it does not."
        )
    say(f"{OWN_ERROR}{_alone(alone)}.")
    rests_on(rests, verbose, "the interval of a prompt alone")


def _alone(alone: Prediction | None) -> str:
    """How far off a prompt that fills an iteration may be: shares of what answers rest on are of its interval."""
    if alone is None:
        return ""
    from thinwire.edge.quantities import time_text
    from thinwire.sim.costs.spread import CONFIDENCE

    said = time_text(alone.ttft_s, alone.interval.low_s, alone.interval.high_s)
    return (
        f": a prompt of {alone.prompt.input_tokens} tokens alone takes {said}, {CONFIDENCE:.0%} interval, which is "
        "meant below"
    )


def _load(found: ServingResult) -> str:
    """Where requests come from, numbers in full."""
    from thinwire.sim.serving.arrivals import ClosedLoop, Trace

    load = found.load
    if isinstance(load, Trace):
        return f"{load.requests} requests of a trace in {load.seconds:.10g} s"
    whose = f"{load.users} users" if isinstance(load, ClosedLoop) else f"{load.rate_per_s:.10g} requests/s"
    return f"{whose} of {load.prompt.mean:.10g} + {load.output.mean:.10g} tokens"


def _on(found: ServingResult) -> str:
    """Which GPUs a replica has, where they are not the first ones."""
    from thinwire.topologies.choose import named

    said = named(found.replica_gpus)
    return f" on {said} each" if said else ""


def _batching(limits: Batching) -> str:
    cut = "chunked prefill" if limits.chunked_prefill else "whole prompts"
    batch = f"{limits.token_budget} tokens and {limits.max_sequences} sequences a batch"
    cache = "no KV cache" if limits.kv_tokens == KV_TOKENS.most else f"KV cache of {limits.kv_tokens} tokens"
    return f"{batch}, {cut}, {cache}"
