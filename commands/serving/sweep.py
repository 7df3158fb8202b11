"""`thinwire sweep`: a grid of predictions, serving runs or plans into a Parquet file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from thinwire.commands.options import Json, note, print_answer

if TYPE_CHECKING:
    from thinwire.sim.sweeps.sweep import Report, Watch


Engine = Literal["local", "dask", "ray"]  # where a sweep runs; a test holds them to engines.ENGINES


def sweep(
    spec: Annotated[str, typer.Argument(help="TOML file of the grid, such as examples/sweep.toml.")],
    engine: Annotated[Engine, typer.Option(help="Local processes, or an existing Dask or Ray cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="The cluster's: tcp://HOST:8786 (Dask), HOST:6379 or ray://HOST:10001 (Ray).")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Parquet file; the spec's name beside you when left out.")] = None,
    workers: Annotated[int | None, typer.Option(help="Local processes, one a core when left out.")] = None,
    as_json: Json = False,
) -> None:
    """A grid of predictions, serving runs or plans into a Parquet file; a stopped run goes on."""
    from thinwire.sim.sweeps.sweep import sweep as run

    try:
        with _bar() as watch:
            found = run(spec, out, engine, address, workers, watch)
    except KeyboardInterrupt:
        note("thinwire: stopped; the same command goes on with what is done")
        raise
    if found.left_out:
        rows = f"{found.left_out} rows of other points or of another thinwire"
        note(f"thinwire: left out {rows} that were in {found.out}")
    print_answer(found.to_dict(), as_json, lambda: print(_sentence(found)))


def _sentence(found: "Report") -> str:
    speed = f" in {found.seconds:.1f} s, {found.computed / found.seconds:.3g} a second" if found.computed else ""
    return (
        f"{found.points} points in {found.out}, {found.failed} of them failed (columns error_type and error); "
        f"{found.computed} computed{speed}; {found.resumed} were there"
    )


@contextmanager
def _bar() -> "Iterator[Watch | None]":
    """A progress bar on standard error, for people."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("points"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("sweep", total=None)

        def watch(done: int, total: int, _: Any) -> None:
            progress.update(task, completed=done, total=total)

        yield watch
