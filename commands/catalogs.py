"""`thinwire schemes`, `models`, `clusters`, `gpus`: what there is, with sources; `thinwire cluster`: one machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from thinwire.commands.importing import import_
from thinwire.commands.options import Json, Published, print_answer, tables
from thinwire.edge.words import place

if TYPE_CHECKING:
    from thinwire.topologies.cluster import Cluster

cluster = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check, draw and import a machine.")
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
    """The catalog of models, with the Hugging Face ids that stand for them; sources with --json."""
    from thinwire.sim import api

    rows = api.catalog("models")
    print_answer({"models": rows}, as_json, lambda: tables().models(rows))


def clusters(as_json: Json = False) -> None:
    """The catalog of machines, with sources."""
    _catalog("clusters", as_json)


def gpus(as_json: Json = False) -> None:
    """The catalog of GPUs, with what predictions on each rest on; sources with --json."""
    from thinwire.sim import api

    rows = api.catalog("gpus")
    print_answer({"gpus": rows}, as_json, lambda: tables().gpus(rows))


cluster.command("import")(import_)


@cluster.command()
def show(
    file: Annotated[str, typer.Argument(help="TOML file, or a catalog name.")],
    svg: Annotated[str | None, typer.Option(help="Draw it into this SVG file, too.")] = None,
    as_json: Json = False,
) -> None:
    """Check a machine and draw it."""
    from thinwire.topologies.draw import describe

    found = _machine(file)
    if svg is not None:
        from thinwire.edge.writing import write_text
        from thinwire.topologies.picture import picture

        drawn = picture(found)
        try:
            write_text(svg, drawn)
        except OSError as error:
            raise ValueError(f"cannot write the drawing to {place(svg)}: {error.strerror}") from None
    drawn_to = {} if svg is None else {"svg": svg}
    print_answer(describe(found) | drawn_to, as_json, lambda: tables().cluster(found))


def _machine(file: str) -> "Cluster":
    """A machine; a file that is none says what else it is."""
    from thinwire.edge.reading import is_regular
    from thinwire.sim import api

    try:
        return api.group(file)
    except ValueError:
        if is_regular(file) and not file.endswith(".toml"):
            from thinwire.topologies.dumps.tell import tell

            tell(file)  # says what else it is
        raise
