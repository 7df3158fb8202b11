"""`thinwire collective`: the time of one collective."""

import re
from typing import Annotated, Literal

import typer

from thinwire.commands.options import Json, Verbose, envelope, factors, option_of, print_answer
from thinwire.commands.reproduce import command_line, options, resting
from thinwire.edge.amounts import whole
from thinwire.edge.limits import COUNTS_BYTES, MESSAGE
from thinwire.edge.reading import UnreadableError, text
from thinwire.edge.words import cut, shown
from thinwire.sim.question import Placement, options_of

MOST_ROWS = MESSAGE.most // 2  # each is one bf16 value at least


def collective(
    cluster: option_of(Placement, "cluster"),  # type: ignore[valid-type]
    scheme: Annotated[
        str,
        typer.Option("--scheme", "--schemes", help=f"{options_of(Placement)['scheme'].help} Several, with commas."),
    ],
    nbytes: Annotated[
        int,
        typer.Option(
            "--bytes",
            parser=whole,
            metavar="BYTES",
            help="Bytes of bf16, in nccl-tests' size convention: 8M is 8388608.",
        ),
    ],
    tp: option_of(Placement, "tp") = None,  # type: ignore[valid-type]
    gpus: option_of(Placement, "gpus") = None,  # type: ignore[valid-type]
    nodes: option_of(Placement, "nodes") = None,  # type: ignore[valid-type]
    op: Annotated[
        Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"], typer.Option(help="What to time.")
    ] = "all_reduce",
    counts: Annotated[
        str | None,
        typer.Option(
            help="all_to_all: rows to each rank, as in 10,20,30,40, or a CSV file with a line of them for each rank; "
            "the rank that sends most sends --bytes in all. Evenly when left out."
        ),
    ] = None,
    phase: Annotated[
        Literal["dispatch", "combine"] | None,
        typer.Option(
            help="all_to_all: which codec of a scheme that has some for experts' tokens. Dispatch when left out."
        ),
    ] = None,
    profile: option_of(Placement, "profile") = None,  # type: ignore[valid-type]
    scale_link: option_of(Placement, "scaled_links") = None,  # type: ignore[valid-type]
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Time of one collective."""
    from thinwire.sim import api
    from thinwire.sim.grounds import grounds

    links = factors("--scale-link", scale_link)
    rows = None if counts is None else _rows(counts)
    names = [name.strip() for name in scheme.split(",") if name.strip()] or [scheme]
    found = [
        api.collected(
            cluster, name, nbytes, tp, op, profile,
            scaled_links=links, gpus=gpus, nodes=nodes, counts=rows, phase=phase,
        )
        for name in names
    ]  # fmt: skip
    asked = options(
        {
            "cluster": cluster, "scheme": ",".join(names), "bytes": nbytes, "tp": tp, "gpus": gpus, "nodes": nodes,
            "op": op, "counts": counts, "phase": phase, "profile": profile,
        }
    )  # fmt: skip
    line = command_line("collective", asked, *(word for link in scale_link or () for word in ("--scale-link", link)))
    documents = [{**one.document, **resting(grounds(one), verbose)} for one in found]
    document = {**envelope(line), **(documents[0] if len(found) == 1 else {"rows": documents})}

    def show() -> None:
        from thinwire.commands.tables.collectives import collective, collectives

        if len(found) == 1:
            collective(found[0], verbose)
        else:
            collectives(found, verbose)

    print_answer(document, as_json, show)


def _rows(given: str) -> list[int] | list[list[int]]:
    """Numbers for every rank alike, or the lines of a file. ValueError for what is neither."""
    if re.fullmatch(r"[\d,\s+.-]*", given):
        return _numbers(given)
    lines = text(given, "counts", COUNTS_BYTES.most).split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_numbers(line))
            except ValueError as error:
                raise UnreadableError(given, "counts", str(error), number) from None
    return found


def _numbers(given: str) -> list[int]:
    words = [word.strip() for word in given.split(",")]
    if not all(re.fullmatch(r"[0-9]+", word) for word in words):
        raise ValueError(f"counts must be whole numbers with commas between them: given {shown(given)}")
    found = [word.lstrip("0") or "0" for word in words]
    for digits in found:
        if len(digits) > len(str(MOST_ROWS)) or int(digits) > MOST_ROWS:
            raise ValueError(f"counts must be at most {MOST_ROWS} rows each: given {cut(digits)}")
    return [int(digits) for digits in found]
