"""`thinwire collective`: the time of one collective."""

from typing import Annotated, Literal

import typer

from thinwire.commands.options import Json, factors, option_of, print_answer, tables
from thinwire.sim.question import Placement


def collective(
    cluster: option_of(Placement, "cluster"),  # type: ignore[valid-type]
    scheme: option_of(Placement, "scheme"),  # type: ignore[valid-type]
    nbytes: Annotated[int, typer.Option("--bytes", help="Bytes of bf16, in nccl-tests' size convention.")],
    tp: option_of(Placement, "tp") = None,  # type: ignore[valid-type]
    gpus: option_of(Placement, "gpus") = None,  # type: ignore[valid-type]
    nodes: option_of(Placement, "nodes") = None,  # type: ignore[valid-type]
    op: Annotated[
        Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"], typer.Option(help="What to time.")
    ] = "all_reduce",
    profile: option_of(Placement, "profile") = None,  # type: ignore[valid-type]
    scale_link: option_of(Placement, "scaled_links") = None,  # type: ignore[valid-type]
    as_json: Json = False,
) -> None:
    """Time of one collective."""
    from thinwire.sim import api

    links = factors("--scale-link", scale_link)
    found = api.collective(cluster, scheme, nbytes, tp, op, profile, scaled_links=links, gpus=gpus, nodes=nodes)
    print_answer(found, as_json, lambda: tables().collective(found))
