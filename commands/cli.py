"""The command line. Names and options here are a contract (scripts rely on them): CHANGELOG.md records every change.

With --json, one JSON document goes to standard output and nothing else; warnings go to standard error. Bad input ends
with status 2 and one line on standard error.
"""

import importlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from thinwire.commands.sweep import sweep

PROGRAM = "thinwire"
# command -> the module whose `command` it is, imported when asked for
LATE = {"plan": "thinwire.commands.plan", "serve": "thinwire.commands.serve"}
GROUP = f"{PROGRAM}.commands"  # of entry points: commands of installed packages, ours among them (docs/decisions/008)


def _entry_points() -> dict[str, Any]:
    """Commands that installed packages bring; looked up only when help or a command that is none of ours is asked."""
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


class Commands(TyperGroup):
    """The commands below, those of modules of their own, and those of the entry points."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, for help and completion."""
        ours = [*super().list_commands(ctx), *LATE]
        return [*ours, *sorted(_entry_points().keys() - set(ours))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by name; one of an entry point is imported here."""
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in LATE:
            action = importlib.import_module(LATE[cmd_name]).command
        else:
            point = None if found else _entry_points().get(cmd_name)
            if point is None:
                return found
            action = point.load()
        holder = typer.Typer(add_completion=False, rich_markup_mode=None)
        holder.command(cmd_name)(action)
        return typer.main.get_command(holder)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Time to first token when the wire between GPUs carries fewer bits.",
)
cluster_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check and draw a machine file.")
app.add_typer(cluster_app, name="cluster")


class Weights(StrEnum):
    """Precision of weights and GEMMs."""

    bf16 = "bf16"
    fp8 = "fp8"


class LaunchMode(StrEnum):
    """How kernels are launched."""

    eager = "eager"
    graph = "graph"


class CollectiveOp(StrEnum):
    """What `thinwire collective` times."""

    all_reduce = "all_reduce"
    all_gather = "all_gather"
    reduce_scatter = "reduce_scatter"
    all_to_all = "all_to_all"


class WorkloadName(StrEnum):
    """What `thinwire compare` compares ways to do."""

    decoder = "decoder"
    cross_attention = "cross-attention"


def _tables() -> ModuleType:
    """rich is imported only when there is a table to print."""
    from thinwire.commands import tables

    return tables


def _names(kind: str) -> Any:
    """Shell completion from a catalog."""

    def complete(incomplete: str) -> list[str]:
        from thinwire.sim import api

        return [name for name in api.names(kind) if name.startswith(incomplete)]

    return complete


Model = Annotated[
    str,
    typer.Option(help="Catalog name or path of a Hugging Face config.json.", autocompletion=_names("models")),
]
ClusterName = Annotated[
    str, typer.Option(help="Catalog name or path of a TOML file.", autocompletion=_names("clusters"))
]
SchemeName = Annotated[
    str,
    typer.Option(
        help="Catalog name, combination (flash-int4+spd-50), spec, auto:+1% or a TOML file of `thinwire auto`.",
        autocompletion=_names("schemes"),
    ),
]
Tp = Annotated[int | None, typer.Option(help="TP degree: the first N GPUs. All of them when left out.")]
Batch = Annotated[int, typer.Option(help="Sequences prefilled together.")]
InputTokens = Annotated[int, typer.Option(help="Tokens of each sequence.")]
WeightsOption = Annotated[Weights, typer.Option(help="Precision of weights and GEMMs.")]
ProfileOption = Annotated[str | None, typer.Option(help="JSON file with a gpu and/or a fabric profile of your own.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
ScaleLink = Annotated[
    list[str] | None,
    typer.Option(
        help="What-if: PATTERN=FACTOR on the rate of links source->target (or pool:NAME) that match; repeatable."
    ),
]
SlowRank = Annotated[
    list[str] | None,
    typer.Option(help="What-if: RANK=FACTOR on the time of a straggler's kernels; may be repeated."),
]


@app.command()
def predict(
    model: Model,
    cluster: ClusterName,
    scheme: SchemeName,
    tp: Tp = None,
    batch: Batch = 1,
    input_tokens: InputTokens = 1024,
    weights: WeightsOption = Weights.bf16,
    profile: ProfileOption = None,
    trace: Annotated[str | None, typer.Option(help="Write a Chrome trace (open it in ui.perfetto.dev).")] = None,
    launch: Annotated[LaunchMode, typer.Option(help="Kernels launched one by one, or as a CUDA graph.")] = (
        LaunchMode.eager
    ),
    explain: Annotated[bool, typer.Option(help="Print where the milliseconds go and every assumption.")] = False,
    scale_link: ScaleLink = None,
    slow_rank: SlowRank = None,
    as_json: Json = False,
) -> None:
    """TTFT of one prompt."""
    from thinwire.sim import api
    from thinwire.sim.events import trace as tracing

    links, ranks = _factors("--scale-link", scale_link), _factors("--slow-rank", slow_rank)
    found = api.predict(
        model, cluster, scheme, tp, batch, input_tokens, weights.value, profile,
        scaled_links=links, slow_ranks={_rank(rank): factor for rank, factor in ranks.items()},
        launch=launch.value,
    )  # fmt: skip
    if trace is not None:
        if trace in ("", "-", "/dev/stdout"):
            raise ValueError(f"--trace takes the path of a file, standard output is the prediction's: {trace!r}")
        try:
            tracing.write_trace(found.timeline, trace)
        except OSError as error:
            raise ValueError(f"cannot write the trace to {trace}: {error.strerror}") from None
        print(f"trace written to {trace}", file=sys.stderr)
    _print(found.to_dict(), as_json, lambda: _tables().prediction(found, explain))


@app.command()
def compare(
    context: typer.Context,
    cluster: ClusterName,
    model: Annotated[
        str | None,
        typer.Option(
            help="Catalog name or path of a Hugging Face config.json; cross-attention takes llama-3-8b when left out.",
            autocompletion=_names("models"),
        ),
    ] = None,
    schemes: Annotated[
        str | None, typer.Option(help="Comma-separated schemes; the whole catalog when left out.")
    ] = None,
    tp: Tp = None,
    batch: Batch = 1,
    input_tokens: InputTokens = 1024,
    weights: WeightsOption = Weights.bf16,
    profile: ProfileOption = None,
    scale_link: ScaleLink = None,
    workload: Annotated[
        WorkloadName,
        typer.Option(help="A decoder's prefill, or its cross-attention layers with a long visual context."),
    ] = WorkloadName.decoder,
    text_tokens: Annotated[int | None, typer.Option(help="Cross-attention: text tokens of each sequence.")] = None,
    visual_tokens: Annotated[int | None, typer.Option(help="Cross-attention: visual tokens of each sequence.")] = None,
    cross_layers: Annotated[
        int | None, typer.Option(help="Cross-attention: its layers; one to four of the model's when left out.")
    ] = None,
    heads: Annotated[int | None, typer.Option(help="Cross-attention: query heads, the model's when left out.")] = None,
    kv_heads: Annotated[
        int | None, typer.Option(help="Cross-attention: key-value heads, the model's when left out.")
    ] = None,
    head_dim: Annotated[
        int | None, typer.Option(help="Cross-attention: values of a head, the model's when left out.")
    ] = None,
    partial: Annotated[
        str | None, typer.Option(help="Cross-attention: codec of partial outputs on the wire, bf16 when left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """TTFT of many schemes, fastest first, with the speed-up over bf16; or ways to do cross-attention."""
    from thinwire.sim import api

    links = _factors("--scale-link", scale_link)
    wanted = [s.strip() for s in schemes.split(",") if s.strip()] if schemes is not None else None
    if wanted == []:
        raise ValueError(f"--schemes names no scheme: {schemes!r}")
    crossing = {
        "text_tokens": text_tokens, "visual_tokens": visual_tokens, "cross_layers": cross_layers, "heads": heads,
        "kv_heads": kv_heads, "head_dim": head_dim, "partial": partial,
    }  # fmt: skip
    if workload is WorkloadName.cross_attention:
        source = context.get_parameter_source("input_tokens")
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError("--input-tokens is a decoder's; --workload cross-attention takes --text-tokens")
        if text_tokens is None or visual_tokens is None:
            raise ValueError("--workload cross-attention needs --text-tokens and --visual-tokens")
        crossed = api.compare_cross_attention(
            cluster, text_tokens, visual_tokens, model or "llama-3-8b", wanted, tp, batch, weights.value, profile,
            cross_layers=cross_layers, heads=heads, kv_heads=kv_heads, head_dim=head_dim, partial=partial or "bf16",
            scaled_links=links,
        )  # fmt: skip
        _print(crossed.to_dict(), as_json, lambda: _tables().cross_comparison(crossed))
        return
    for name, value in crossing.items():
        if value is not None:
            raise ValueError(f"--{name.replace('_', '-')} belongs to --workload cross-attention: given {value!r}")
    if model is None:
        raise ValueError("Missing option '--model'.")
    found = api.compare(
        list(api.names("schemes")) if wanted is None else wanted, model, cluster, tp, batch, input_tokens,
        weights.value, profile, scaled_links=links,
    )  # fmt: skip
    _print(found.to_dict(), as_json, lambda: _tables().comparison(found))


@app.command()
def auto(
    budget: Annotated[str, typer.Argument(help="How far perplexity may rise: +1%, say.")],
    model: Model,
    cluster: ClusterName,
    tp: Tp = None,
    batch: Batch = 1,
    input_tokens: InputTokens = 1024,
    weights: WeightsOption = Weights.bf16,
    profile: ProfileOption = None,
    sensitivities: Annotated[
        str | None, typer.Option(help="JSON file of `thinwire sensitivity`; the shipped one of the model otherwise.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Write the scheme to this TOML file, for --scheme.")] = None,
    scale_link: ScaleLink = None,
    as_json: Json = False,
) -> None:
    """A scheme for each sync point: the least TTFT under a budget of perplexity."""
    from pathlib import Path

    from thinwire.reference.mixed import auto_budget, write
    from thinwire.sim import api

    share = auto_budget(f"auto:{budget.removeprefix('auto:')}")
    if share is None:
        raise ValueError(f"the budget is a percentage, such as +1%: {budget!r}")
    if out is not None and not out.endswith(".toml"):
        raise ValueError(f"--out names a file that ends in .toml, by which --scheme knows it: {out!r}")
    links = _factors("--scale-link", scale_link)
    chosen = api.auto(
        share, model, cluster, tp, batch, input_tokens, weights.value, profile, sensitivities=sensitivities,
        scaled_links=links,
    )  # fmt: skip
    rows = api.compare(
        [chosen.scheme, chosen.uniform], model, cluster, tp, batch, input_tokens, weights.value, profile,
        scaled_links=links,
    )  # fmt: skip
    if out is not None:
        try:
            write(chosen.scheme, Path(out))
        except OSError as error:
            raise ValueError(f"cannot write the scheme to {out}: {error.strerror}") from None
        print(f"scheme written to {out}", file=sys.stderr)
    document = {**chosen.to_dict(), **rows.to_dict()}
    _print(document, as_json, lambda: _tables().chosen(chosen, rows))


@app.command()
def collective(
    cluster: ClusterName,
    scheme: SchemeName,
    nbytes: Annotated[int, typer.Option("--bytes", help="Bytes of bf16, in nccl-tests' size convention.")],
    tp: Tp = None,
    op: Annotated[CollectiveOp, typer.Option(help="What to time.")] = CollectiveOp.all_reduce,
    profile: ProfileOption = None,
    scale_link: ScaleLink = None,
    as_json: Json = False,
) -> None:
    """Time of one collective."""
    from thinwire.sim import api

    found = api.collective(
        cluster, scheme, nbytes, tp, op.value, profile, scaled_links=_factors("--scale-link", scale_link)
    )
    _print(found, as_json, lambda: _tables().collective(found))


def _catalog(kind: str, as_json: bool) -> None:
    from thinwire.sim import api

    rows = api.catalog(kind)
    _print({kind: rows}, as_json, lambda: _tables().catalog(kind, rows))


@app.command()
def schemes(as_json: Json = False) -> None:
    """The catalog of schemes, with sources."""
    _catalog("schemes", as_json)


@app.command()
def models(as_json: Json = False) -> None:
    """The catalog of models, with sources."""
    _catalog("models", as_json)


@app.command()
def clusters(as_json: Json = False) -> None:
    """The catalog of machines, with sources."""
    _catalog("clusters", as_json)


app.command()(sweep)


@cluster_app.command("show")
def cluster_show(
    file: Annotated[str, typer.Argument(help="TOML file, or a catalog name.")], as_json: Json = False
) -> None:
    """Check a machine and draw it."""
    from thinwire.sim import api
    from thinwire.topologies.draw import describe

    found = api.group(file)
    _print(describe(found), as_json, lambda: _tables().cluster(found))


def _factors(option: str, given: Sequence[str] | None) -> dict[str, float]:
    """KEY=FACTOR pairs."""
    factors = {}
    for text in given or ():
        key, equals, factor = text.rpartition("=")
        try:
            factors[key] = float(factor)
        except ValueError:
            equals = ""
        if not equals or not key:
            raise ValueError(f"{option} takes NAME=FACTOR, a number after the last =: {text!r}")
    return factors


def _rank(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"--slow-rank takes RANK=FACTOR, RANK a whole number: {text!r}")
    return int(text)


def _print(document: Any, as_json: bool, show: Callable[[], None]) -> None:
    try:
        if as_json:
            print(json.dumps(document, indent=1, allow_nan=False))
        else:
            show()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit status 0, or 2 with one line on standard error."""
    try:
        status = app(args=list(arguments) if arguments is not None else None, standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message()
        if not message or "\n" in message:  # with nothing to do, typer's message is the whole help
            message = "a command is missing; see thinwire --help"
        _fail(message)
    except ValueError as error:
        _fail(str(error))
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    else:
        sys.exit(status or 0)


def _fail(message: str) -> None:
    print(f"{PROGRAM}: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
