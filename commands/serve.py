"""`thinwire serve`: percentiles of a deployment under a load."""

import math
from typing import TYPE_CHECKING

import typer

from thinwire.commands.options import Json, asks, given, note_positions, print_answer
from thinwire.edge.limits import KV_TOKENS
from thinwire.sim.question import options_of
from thinwire.sim.serving.question import WHOSE, Service

if TYPE_CHECKING:
    from thinwire.sim.serving.replica import Batching
    from thinwire.sim.serving.serve import ServingResult


@asks(Service)
def serve(context: typer.Context, question: Service, as_json: Json = False) -> None:
    """TTFT and TPOT percentiles of replicas under a load, with faults as what-ifs."""
    try:
        source = question.source()
    except ValueError:
        raise ValueError("give one of --rate, --users and --trace") from None
    for name, whose in WHOSE.items():
        if source not in whose and given(context, name):
            raise ValueError(f"{options_of(Service)[name].flag} belongs to --{' or --'.join(whose)}, not to --{source}")
    from thinwire.sim.serving import serve as serving

    paces = serving.Paces(question.deployment())
    found = serving.answer(question, paces)
    if source != "trace":
        note_positions(paces.model, question.input_tokens + question.output_tokens)
    print_answer(found.to_dict() | {"question": question.given()}, as_json, lambda: _show(found))


def _show(found: "ServingResult") -> None:
    """For people."""
    from rich.table import Table

    from thinwire.commands.tables.console import console
    from thinwire.sim.serving.statistics import NO_SLO, shown

    run, limits = found.run, found.limits
    kept = "no SLO given" if run.slo == NO_SLO else f"{run.attainment:.1%} keep the SLO"
    if math.isnan(run.attainment):
        kept = "none to keep the SLO"
    cache = "" if found.kv == "bf16" else f", KV cache {found.kv}"
    shared = "" if found.sharing is None else f", {found.sharing.words}"
    console.print(
        f"{found.model} ({found.weights}{cache}) under {found.scheme} on {found.gpus} GPUs of {found.cluster}, "
        f"TP {found.tp}{_on(found)}{shared}: {_batching(limits)}"
    )
    table = Table("milliseconds", "mean", *(f"p{q * 100:g}" for q in run.ttft.percentiles), box=None)
    for name, summary in (("TTFT", run.ttft), ("TPOT", run.tpot), ("whole answer", run.latency)):
        table.add_row(name, *(shown(e, 1e3) for e in (summary.mean, *summary.percentiles.values())))
    console.print(table)
    console.print(
        f"{run.ttft.count} requests counted of {run.arrived}; refused {run.refused}, unfinished {run.unfinished}, sent "
        f"again {run.restarts}\ngoodput {shown(run.goodput_per_s)} requests/s ({kept}), "
        f"{shown(run.output_tokens_per_s)} tokens/s\nqueue {shown(run.queue)} (most {run.queue_most}), in the "
        f"system {shown(run.in_system)}, busy {run.utilisation:.0%}, KV cache at most {run.kv_most:.0%}"
    )
    if run.unfinished:
        console.print("requests that nobody served are in no percentile; they count as not keeping the SLO")
    if run.filling:
        console.print(
            f"still filling: {run.in_system_growth} requests more under way at the end than after the warm-up; those "
            "who wait are no more than chance explains, a longer duration shows where it settles, or that it does not"
        )
    if run.saturated:
        console.print("saturated: more arrives than is served, so these numbers grow with the duration")


def _on(found: "ServingResult") -> str:
    """Which GPUs a replica has, where they are not the first ones."""
    from thinwire.topologies.choose import named

    said = named(found.replica_gpus)
    return f" on {said} each" if said else ""


def _batching(limits: "Batching") -> str:
    cut = "chunked prefill" if limits.chunked_prefill else "whole prompts"
    batch = f"{limits.token_budget} tokens and {limits.max_sequences} sequences a batch"
    cache = "no KV cache" if limits.kv_tokens == KV_TOKENS.most else f"KV cache of {limits.kv_tokens} tokens"
    return f"{batch}, {cut}, {cache}"
