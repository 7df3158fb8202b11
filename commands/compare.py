"""`thinwire compare`: many schemes for one prompt, or ways to do cross-attention with a long visual context."""

from typing import Annotated, Any, Literal

import typer

from thinwire.commands.options import Compressed, Json, Published, asks, given, note_positions, print_answer, tables
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
        typer.Option(help="Comma-separated schemes; those of the catalog that do something here when left out."),
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
    published: Published = "few",
    as_json: Json = False,
) -> None:
    """TTFT of many schemes, fastest first, with the speed-up over a baseline; or ways to do cross-attention."""
    wanted = [s.strip() for s in schemes.split(",") if s.strip()] if schemes is not None else None
    if wanted == []:
        raise ValueError(f"--schemes names no scheme: {shown(schemes)}")
    crossing = {
        "text_tokens": text_tokens, "visual_tokens": visual_tokens, "cross_layers": cross_layers, "heads": heads,
        "kv_heads": kv_heads, "head_dim": head_dim, "partial": partial,
    }  # fmt: skip
    if workload == "cross-attention":
        _cross(context, question, wanted, crossing, as_json)
        return
    for name, value in crossing.items():
        if value is not None:
            raise ValueError(f"--{name.replace('_', '-')} belongs to --workload cross-attention: given {shown(value)}")
    if question.model == "":
        raise ValueError("Missing option '--model'.")
    from thinwire.sim import api

    asked = api.schemes_for(question) if wanted is None else wanted
    found = api.compare(asked, question, baseline="bf16" if baseline is None else baseline, compress=compress)
    note_positions(found.baseline.model, question.input_tokens)
    document = found.to_dict() | {"question": question.given(without=("scheme",))}
    print_answer(document, as_json, lambda: tables().comparison(found, published))


# What a question says of a decoder's whole prefill, and of experts.
DECODERS = ("launch", "slow_ranks", "kv", "ep", "attention", "expert_exchange", "expert_skew")


def _cross(
    context: typer.Context, question: Question, wanted: list[str] | None, asked: dict[str, Any], as_json: bool
) -> None:
    for name, instead in (("input_tokens", "text-tokens"), *((name, None) for name in DECODERS)):
        if given(context, name):
            takes = f"; --workload cross-attention takes --{instead}" if instead else ""
            raise ValueError(f"{options_of(Question)[name].flag} is a decoder's{takes}")
    for name in ("published", "compress", "baseline"):
        if given(context, name):
            raise ValueError(f"--{name} is of a decoder's schemes, not of --workload cross-attention")
    if asked["text_tokens"] is None or asked["visual_tokens"] is None:
        raise ValueError("--workload cross-attention needs --text-tokens and --visual-tokens")
    from thinwire.sim import api

    crossed = api.compare_cross_attention(
        question.cluster, model=question.model or "llama-3-8b", methods=wanted, tp=question.tp, batch=question.batch,
        weights=question.weights, profile=question.profile, scaled_links=dict(question.scaled_links),
        gpus=question.gpus, nodes=question.nodes,
        **asked | {"partial": asked["partial"] or "bf16"},
    )  # fmt: skip
    print_answer(crossed.to_dict(), as_json, lambda: tables().cross_comparison(crossed))
