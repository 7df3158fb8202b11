"""`thinwire schemes`, `models`, `clusters`, `gpus`: what there is, with sources; `cluster show`: one machine."""

from typing import Annotated

import typer

from thinwire.commands.options import Json, Published, print_answer, tables

cluster = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check and draw a machine file.")
cluster.callback()(lambda: None)


def _catalog(kind: str, as_json: bool) -> None:
    from thinwire.sim import api

    rows = api.catalog(kind)
    print_answer({kind: rows}, as_json, lambda: tables().catalog(kind, rows))


def schemes(published: Published = "few", as_json: Json = False) -> None:
    """The catalog of schemes, with sources, and what others published of their accuracy."""
    from thinwire.sim import api

    rows = api.catalog("schemes")
    print_answer({"schemes": rows}, as_json, lambda: tables().schemes(rows, published))


def models(as_json: Json = False) -> None:
    """The catalog of models, with sources."""
    _catalog("models", as_json)


def clusters(as_json: Json = False) -> None:
    """The catalog of machines, with sources."""
    _catalog("clusters", as_json)


def gpus(as_json: Json = False) -> None:
    """The catalog of GPUs, with what predictions on each rest on; sources with --json."""
    from thinwire.sim import api

    rows = api.catalog("gpus")
    print_answer({"gpus": rows}, as_json, lambda: tables().gpus(rows))


@cluster.command()
def show(file: Annotated[str, typer.Argument(help="TOML file, or a catalog name.")], as_json: Json = False) -> None:
    """Check a machine and draw it."""
    from thinwire.sim import api
    from thinwire.topologies.draw import describe

    found = api.group(file)
    print_answer(describe(found), as_json, lambda: tables().cluster(found))
