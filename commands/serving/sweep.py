"""`thinwire sweep`: a grid of predictions, serving runs or plans into a Parquet file."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from thinwire.commands.frame.progress import working
from thinwire.commands.options import Json, envelope, note, print_answer
from thinwire.commands.reproduce import command_line, options

if TYPE_CHECKING:
    from thinwire.sim.sweeps.sweep import Report


Engine = Literal["local", "dask", "ray"]  # where a sweep runs; a test holds them to engines.ENGINES
FAILED = 1  # the status of a sweep with points that failed; 2 is bad input
SHOWN = 5  # reasons in full; --json has all


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
    """A grid of predictions, serving runs or plans into a Parquet file; a stopped run goes on.

    Status 1: all points were tried, and some failed; their rows say why, and how many of which reason is printed.
    """
    from thinwire.sim.sweeps.sweep import sweep as run

    try:
        with working("sweep", "points") as work:
            found = run(spec, out, engine, address, workers, lambda done, total, _: work.update(done, total))
    except KeyboardInterrupt:
        note("thinwire: stopped; the same command goes on with what is done")
        raise
    if found.left_out:
        rows = f"{found.left_out} rows of other points or of another thinwire"
        note(f"thinwire: left out {rows} that were in {found.out}")
    given = options({"engine": engine, "address": address, "out": out, "workers": workers})
    print_answer(envelope(command_line("sweep", [spec, *given])) | found.to_dict(), as_json, lambda: _show(found))
    if found.failed:
        raise typer.Exit(FAILED)


def _show(found: "Report") -> None:
    from thinwire.commands.tables.console import item, say

    speed = f" in {found.seconds:.1f} s, {found.computed / found.seconds:.3g} a second" if found.computed else ""
    failed = f"{found.failed} of them failed" if found.failed else "none failed"
    say(f"{found.points} points in {found.out}, {failed}; {found.computed} computed{speed}; {found.resumed} were there")
    for reason in found.reasons[:SHOWN]:
        item(f"{reason.points} x {reason.error_type}: {reason.error}")
    if more := found.reasons[SHOWN:]:
        points = sum(reason.points for reason in more)
        item(f"{points} more for {len(more)} other reasons: --json, or the columns error_type and error")
