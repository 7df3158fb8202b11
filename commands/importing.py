"""`thinwire cluster import`: what machines print of themselves into a machine file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinwire.commands.options import Json, print_answer
from thinwire.edge.words import place, shown

if TYPE_CHECKING:
    from thinwire.topologies.importing.machine import Imported


def import_(
    files: Annotated[
        list[str],
        typer.Argument(
            help="NCCL topology XML, nvidia-smi topo -m or -p2p, rocm-smi --showtopo, nvbandwidth, "
            "p2pBandwidthLatencyTest, nvidia-smi -L: all of one machine."
        ),
    ],
    gpu: Annotated[str | None, typer.Option(help="GPU, where the files do not tell it: catalog name or TOML.")] = None,
    name: Annotated[str | None, typer.Option(help="What the machine is called.")] = None,
    out: Annotated[
        str | None, typer.Option(help="Where the machine file goes (.toml); without it, it is printed.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn what a machine prints of itself into a machine file."""
    from thinwire.edge.writing import write_text
    from thinwire.topologies.draw import describe
    from thinwire.topologies.importing.machine import imported

    if out is not None and not out.endswith(".toml"):
        raise ValueError(f"--out is a machine file, which ends with .toml: {shown(out)}")
    found = imported(files, gpu, name, out)
    if out is not None:
        try:
            write_text(out, found.text)
        except OSError as error:
            raise ValueError(f"cannot write the machine to {place(out)}: {error.strerror}") from None
    document: dict[str, Any] = {
        "name": found.cluster.name,
        "out": out,
        "toml": found.text,
        "understood": list(found.understood),
        "notes": list(found.notes),
        "unknown": [
            {"what": each.what, "taken": each.taken, "measured_by": each.command, "key": each.key}
            for each in found.unknown
        ],
        "cluster": describe(found.cluster),
    }
    print_answer(document, as_json, lambda: _show(found, files, out))


def _show(found: "Imported", files: list[str], out: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    from thinwire.commands.tables.console import console

    # Without --out the file alone goes to standard output, so that it may be sent on.
    to = (
        console
        if out is not None
        else Console(stderr=True, highlight=False, width=None if console.is_terminal else console.width)
    )
    if out is None:
        print(found.text, end="")
    to.print(f"{found.cluster.name}, understood from {', '.join(Path(file).name for file in files)}:", markup=False)
    for line in found.understood:
        to.print(f"  - {line}", markup=False)
    for line in found.notes:
        to.print(f"  ! {line}", markup=False)
    table = Table(
        "not told", "taken", "what would tell it", title="Not known, or assumed", title_justify="left", box=None,
        pad_edge=False,
    )  # fmt: skip
    for each in found.unknown:
        table.add_row(*(cell.replace("[", r"\[") for cell in (each.what, each.taken, each.command)))
    to.print(table)
    if out is not None:
        to.print(f"{out}; look at it with: thinwire cluster show {out}", markup=False)
