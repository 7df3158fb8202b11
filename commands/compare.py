"""`thinwire compare`: many schemes for one prompt, or ways to do cross-attention with a long visual context."""

from typing import Annotated, Any, Literal

import typer

from thinwire.commands.options import (
    Compressed,
    Json,
    Published,
    Verbose,
    asks,
    envelope,
    given,
    note_positions,
    print_answer,
)
from thinwire.commands.reproduce import command_line, options, resting
from thinwire.edge.amounts import whole
from thinwire.edge.words import shown
from thinwire.sim.question import Question, options_of


@asks(
    Question,
    without=("scheme",),
    optional={"model": ""},
    model="Catalog name or path of a Hugging Face config.json; cross-attention takes llama-3-8b when left out.",
)
def compare(
    context: typer.Context,
    question: Question,
    schemes: Annotated[
        str | None,
        typer.Option(
            "--schemes",
            "--scheme",
            help="Comma-separated schemes; those of the catalog that do something here when left out.",
        ),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Scheme that speed-ups are over; bf16 when left out.")] = None,
    workload: Annotated[
        Literal["decoder", "cross-attention"],
        typer.Option(help="A decoder's prefill, or its cross-attention layers with a long visual context."),
    ] = "decoder",
    text_tokens: Annotated[
        int | None, typer.Option(parser=whole, metavar="TOKENS", help="Cross-attention: text tokens of each sequence.")
    ] = None,
    visual_tokens: Annotated[
        int | None,
        typer.Option(parser=whole, metavar="TOKENS", help="Cross-attention: visual tokens of each sequence."),
    ] = None,
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
    compress: Compressed = "prompt",
    max_perplexity: Annotated[
        float,
        typer.Option(help="What is usable: at most so many times the uncompressed model's perplexity."),
    ] = 1.05,
    max_lookups_lost: Annotated[
        float,
        typer.Option(help="What is usable: at most so many points of 100 look-ups lost in compressed prompts."),
    ] = 10.0,
    published: Published = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Which scheme to take: TTFT of many, what they cost and who is usable; or ways to do cross-attention."""
    wanted = [s.strip() for s in schemes.split(",") if s.strip()] if schemes is not None else None
    if wanted == []:
        raise ValueError(f"--schemes names no scheme: {shown(schemes)}")
    crossing = {
        "text_tokens": text_tokens, "visual_tokens": visual_tokens, "cross_layers": cross_layers, "heads": heads,
        "kv_heads": kv_heads, "head_dim": head_dim, "partial": partial,
    }  # fmt: skip
    if workload == "cross-attention":
        _cross(context, question, wanted, crossing, verbose, as_json)
        return
    for name, value in crossing.items():
        if value is not None:
            raise ValueError(f"--{name.replace('_', '-')} belongs to --workload cross-attention: given {shown(value)}")
    if question.model == "":
        raise ValueError("Missing option '--model'.")
    from thinwire.sim import api
    from thinwire.sim.grounds import grounds, together
    from thinwire.sim.verdict import Limit, best, judged

    limit = Limit(max_perplexity, max_lookups_lost)
    asked = api.schemes_for(question) if wanted is None else wanted
    found = api.compare(asked, question, baseline="bf16" if baseline is None else baseline, compress=compress)
    note_positions(found.baseline.model, question.input_tokens)
    own = {
        "schemes": None if wanted is None else ",".join(wanted), "baseline": baseline,
        "compress": None if compress == "prompt" else compress,
        "max_perplexity": None if max_perplexity == Limit().perplexity else max_perplexity,
        "max_lookups_lost": None if max_lookups_lost == Limit().lookups else max_lookups_lost,
    }  # fmt: skip
    document = judged(found, limit)
    for plain, row in zip([document["baseline"], *document["rows"]], [found.baseline, *found.rows], strict=True):
        plain |= resting(grounds(row), verbose)
    line = command_line("compare", question, *options(own), without=("scheme",))
    ground = together([found.baseline, *found.rows], [best(found, limit) or found.baseline])
    document = {
        **envelope(line), **document, **resting(ground, verbose),
        "question": question.given(without=("scheme",)),
    }  # fmt: skip

    def show() -> None:
        from thinwire.commands.tables.comparison import comparison

        shown = "all" if verbose and published is None else published
        comparison(found, limit, shown, fold=wanted is None and not verbose, verbose=verbose)

    print_answer(document, as_json, show)


# What a question says of a decoder's whole prefill, and of experts.
DECODERS = ("launch", "slow_ranks", "kv", "ep", "attention", "expert_exchange", "expert_skew")


def _cross(
    context: typer.Context,
    question: Question,
    wanted: list[str] | None,
    asked: dict[str, Any],
    verbose: bool,
    as_json: bool,
) -> None:
    for name, instead in (("input_tokens", "text-tokens"), *((name, None) for name in DECODERS)):
        if given(context, name):
            takes = f"; --workload cross-attention takes --{instead}" if instead else ""
            raise ValueError(f"{options_of(Question)[name].flag} is a decoder's{takes}")
    for name in ("published", "compress", "baseline", "max_perplexity", "max_lookups_lost"):
        if given(context, name):
            raise ValueError(f"--{name.replace('_', '-')} is of a decoder's schemes, not of --workload cross-attention")
    if asked["text_tokens"] is None or asked["visual_tokens"] is None:
        raise ValueError("--workload cross-attention needs --text-tokens and --visual-tokens")
    from thinwire.sim import api

    crossed = api.compare_cross_attention(
        question.cluster, model=question.model or "llama-3-8b", methods=wanted, tp=question.tp, batch=question.batch,
        weights=question.weights, profile=question.profile, scaled_links=dict(question.scaled_links),
        gpus=question.gpus, nodes=question.nodes,
        **asked | {"partial": asked["partial"] or "bf16"},
    )  # fmt: skip
    words = [*question.command_line(("scheme",)), "--workload", "cross-attention", *options(asked)]
    if question.model == "":
        del words[:2]
    if wanted is not None:
        words += ["--schemes", ",".join(wanted)]

    def show() -> None:
        from thinwire.commands.tables.crossing import cross_comparison

        cross_comparison(crossed, verbose)

    print_answer({**envelope(command_line("compare", words)), **crossed.to_dict()}, as_json, show)
