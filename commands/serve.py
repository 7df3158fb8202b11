"""`thinwire serve`: percentiles of a deployment under a load. Loaded by `commands.cli` when it is asked for."""

import math
from typing import Annotated

import typer

from thinwire.commands.cli import (
    ClusterName,
    Json,
    Model,
    ProfileOption,
    SchemeName,
    Tp,
    Weights,
    WeightsOption,
    _print,
)
from thinwire.sim.serving.arrivals import LENGTHS, WHOSE, lengths_from, load_of
from thinwire.sim.serving.replica import Batching
from thinwire.sim.serving.router import POLICIES, Policy
from thinwire.sim.serving.serve import Deployment, ServingResult, parse_fault, serve
from thinwire.sim.serving.statistics import Slo, shown

DEFAULTS = Deployment(model="", cluster="")


def command(
    context: typer.Context,
    model: Model,
    cluster: ClusterName,
    scheme: SchemeName = "bf16",
    tp: Tp = None,
    replicas: Annotated[int, typer.Option(help="Replicas; those for prompts alone with --decode-replicas.")] = 1,
    rate: Annotated[float | None, typer.Option(help="Requests a second.")] = None,
    burstiness: Annotated[
        float, typer.Option(help="Squared variation of the gaps between requests; 1: Poisson.")
    ] = 1.0,
    users: Annotated[int | None, typer.Option(help="A closed loop of so many users instead of a rate.")] = None,
    trace: Annotated[str | None, typer.Option(help="CSV with TIMESTAMP,ContextTokens,GeneratedTokens instead.")] = None,
    speed: Annotated[float, typer.Option(help="How much faster than recorded the trace is played.")] = 1.0,
    input_tokens: Annotated[float, typer.Option(help="Mean tokens of a prompt.")] = 1024,
    output_tokens: Annotated[float, typer.Option(help="Mean tokens of an answer.")] = 128,
    lengths: Annotated[str, typer.Option(help=f"Distribution of both: {LENGTHS}.")] = "lognormal",
    duration: Annotated[
        float | None, typer.Option(help="Seconds of arrivals: ten minutes, or all of the trace.")
    ] = None,
    warm_up: Annotated[float | None, typer.Option(help="Seconds not counted: a tenth of the duration.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
    weights: WeightsOption = Weights.bf16,
    token_budget: Annotated[int, typer.Option(help="Tokens of an iteration.")] = DEFAULTS.token_budget,
    max_sequences: Annotated[int, typer.Option(help="Requests in a replica's batch.")] = DEFAULTS.max_sequences,
    whole_prompts: Annotated[
        bool, typer.Option(help="No chunked prefill: prompts in iterations of their own.")
    ] = False,
    kv_tokens: Annotated[int | None, typer.Option(help="Tokens a replica's KV cache holds; what fits.")] = None,
    policy: Annotated[str, typer.Option(help=f"Of the router: {', '.join(POLICIES)}.")] = DEFAULTS.policy,
    decode_replicas: Annotated[int, typer.Option(help="Replicas that decode only, fed by the others.")] = 0,
    transfer_gb_per_s: Annotated[
        float, typer.Option(help="Rate of one GPU's keys and values between the pools.")
    ] = DEFAULTS.transfer_bytes_per_s / 1e9,
    gate: Annotated[bool, typer.Option("--gate", help="Small all-reduces uncompressed where that is faster.")] = False,
    host_ms: Annotated[float, typer.Option(help="What the engine's host adds to an iteration.")] = 0.0,
    slo_ttft_ms: Annotated[float | None, typer.Option(help="Milliseconds to the first token that are good.")] = None,
    slo_tpot_ms: Annotated[float | None, typer.Option(help="Milliseconds a further token that are good.")] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            help="What-if: AT[-UNTIL]:REPLICA:down, ...:link:PATTERN=FACTOR or ...:slow:RANK=FACTOR; repeatable. "
            "REPLICA counts from 0, those that decode only last."
        ),
    ] = None,
    profile: ProfileOption = None,
    as_json: Json = False,
) -> None:
    """TTFT and TPOT percentiles of replicas under a load, with faults as what-ifs."""
    if policy not in POLICIES:
        raise ValueError(f"--policy must be one of {', '.join(POLICIES)}: {policy!r}")
    chosen: Policy = next(known for known in POLICIES if known == policy)
    deployment = Deployment(
        model=model,
        cluster=cluster,
        scheme=scheme,
        tp=tp,
        replicas=replicas,
        weights=weights.value,
        profile=profile,
        token_budget=token_budget,
        max_sequences=max_sequences,
        chunked_prefill=not whole_prompts,
        kv_tokens=kv_tokens,
        policy=chosen,
        decode_replicas=decode_replicas,
        transfer_bytes_per_s=transfer_gb_per_s * 1e9,
        host_s=host_ms / 1e3,
        gated=gate,
    )
    limits = {name: ms / 1e3 for name, ms in (("ttft_s", slo_ttft_ms), ("tpot_s", slo_tpot_ms)) if ms is not None}
    kinds = [name for name, given in (("rate", rate), ("users", users), ("trace", trace)) if given is not None]
    if len(kinds) != 1:
        raise ValueError("give one of --rate, --users and --trace")
    for name, whose in WHOSE.items():
        source = context.get_parameter_source(name)
        if kinds[0] not in whose and source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"--{name.replace('_', '-')} belongs to --{' or --'.join(whose)}, not to --{kinds[0]}")
    means = input_tokens, output_tokens
    found = serve(
        deployment,
        load_of(rate, burstiness, users, trace, speed, *(lengths_from(lengths, mean) for mean in means)),
        duration,
        Slo(**limits),
        [parse_fault(text) for text in fault or ()],
        seed=seed,
        warm_up_s=warm_up,
    )
    _print(found.to_dict(), as_json, lambda: show(found))


def show(found: ServingResult) -> None:
    """For people."""
    from rich.table import Table

    from thinwire.commands.tables import console

    run, limits = found.run, found.limits
    kept = "none to keep" if math.isnan(run.attainment) else f"{run.attainment:.1%} keep"
    console.print(
        f"{found.model} ({found.deployment.weights}) under {found.scheme} on {found.gpus} GPUs of {found.cluster}, "
        f"TP {found.tp}: {_batching(limits)}"
    )
    table = Table("milliseconds", "mean", *(f"p{q * 100:g}" for q in run.ttft.percentiles), box=None)
    for name, summary in (("TTFT", run.ttft), ("TPOT", run.tpot), ("whole answer", run.latency)):
        table.add_row(name, *(shown(e, 1e3) for e in (summary.mean, *summary.percentiles.values())))
    console.print(table)
    console.print(
        f"{run.ttft.count} requests counted of {run.arrived}; refused {run.refused}, unfinished {run.unfinished}, sent "
        f"again {run.restarts}\ngoodput {shown(run.goodput_per_s)} requests/s ({kept} the SLO), "
        f"{shown(run.output_tokens_per_s)} tokens/s\nqueue {shown(run.queue)} (most {run.queue_most}), in the "
        f"system {shown(run.in_system)}, busy {run.utilisation:.0%}, KV cache at most {run.kv_most:.0%}"
    )
    if run.unfinished:
        console.print("requests that nobody served are in no percentile; they count as not keeping the SLO")
    if run.saturated:
        console.print("saturated: more arrives than is served, so these numbers grow with the duration")


def _batching(limits: Batching) -> str:
    cut = "chunked prefill" if limits.chunked_prefill else "whole prompts"
    batch = f"{limits.token_budget} tokens and {limits.max_sequences} sequences a batch"
    return f"{batch}, {cut}, KV cache of {limits.kv_tokens} tokens"
