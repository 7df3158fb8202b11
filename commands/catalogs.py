"""`thinwire schemes`, `models`, `clusters`, `gpus`: what there is, with sources; `thinwire cluster`: one machine."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinwire.commands.importing import import_
from thinwire.commands.options import Json, Published, Verbose, envelope, print_answer
from thinwire.commands.reproduce import command_line
from thinwire.edge.words import place

if TYPE_CHECKING:
    from thinwire.topologies.cluster import Cluster

cluster = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Check, draw and import a machine.")
cluster.callback()(lambda: None)


def _print(kind: str, as_json: bool, *how: Any) -> None:
    """A catalog as a document, or as the table of its kind; how: what that table takes besides the rows."""
    from thinwire.sim import api

    rows = api.catalog(kind)

    def show() -> None:
        from thinwire.commands.tables import catalogs

        getattr(catalogs, kind)(rows, *how)

    print_answer({**envelope(command_line(kind, [])), kind: rows}, as_json, show)


def schemes(published: Published = None, verbose: Verbose = False, as_json: Json = False) -> None:
    """The catalog of schemes, and what others published of their accuracy; sources with --verbose."""
    _print("schemes", as_json, "all" if verbose and published is None else published, verbose)


def models(verbose: Verbose = False, as_json: Json = False) -> None:
    """The catalog of models, with the Hugging Face ids that stand for them; sources with --verbose."""
    _print("models", as_json, verbose)


def clusters(verbose: Verbose = False, as_json: Json = False) -> None:
    """The catalog of machines; sources with --verbose."""
    _print("clusters", as_json, verbose)


def gpus(verbose: Verbose = False, as_json: Json = False) -> None:
    """The catalog of GPUs, with what predictions on each rest on; sources with --verbose."""
    _print("gpus", as_json, verbose)


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
    drawing = [] if svg is None else ["--svg", svg]
    document = {**envelope(command_line("cluster show", [file, *drawing])), **describe(found), **drawn_to}

    def show_it() -> None:
        from thinwire.commands.tables import catalogs

        catalogs.cluster(found)

    print_answer(document, as_json, show_it)


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
