"""`thinwire calibrate`: measurements of a GPU into a profile."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinwire.commands.options import Json, print_answer

if TYPE_CHECKING:
    from thinwire.sim.costs.profile import GpuProfile
    from thinwire.validation.fits.raw_file import Part, Raw


def calibrate(
    raw_file: Annotated[str | None, typer.Option("--from", help="JSON file that `make gpu` wrote.")] = None,
    out: Annotated[str | None, typer.Option(help="Where the profile goes; beside you, named after the file.")] = None,
    as_json: Json = False,
) -> None:
    """Turn measurements of a GPU into a profile for --profile."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: one thread is the fastest for fits this small
    if raw_file is None:
        raise ValueError(
            "calibrate needs --from RAW.json: run `make gpu` on a machine with the GPU first, it writes one "
            "(`make calibrate` fits the shipped profiles to published tables)"
        )
    from thinwire.sim.costs.profile import gpu_profile_dict
    from thinwire.validation.calibrate import write
    from thinwire.validation.fits.calibrate_raw import profile_of
    from thinwire.validation.fits.raw_file import Raw, document
    from thinwire.validation.instructions.costs import with_own

    raw = Raw.read(Path(raw_file))
    target = Path(out) if out is not None else Path(f"{raw.path.stem}-profile.json")
    profile = with_own(profile_of(raw), raw)
    try:
        write(target, {"gpu": gpu_profile_dict(profile)})
    except OSError as error:
        raise ValueError(f"cannot write the profile to {target}: {error.strerror}") from None
    print_answer({"profile": str(target), **document(raw, profile)}, as_json, lambda: _show(raw, profile, target))


def _show(raw: "Raw", profile: "GpuProfile", target: Path) -> None:
    from rich.table import Table

    from thinwire.commands.tables import console

    table = Table(
        "part", "rows", "in-sample", "left out", "shipped profile", "its bias", box=None, pad_edge=False,
        title=f"{raw.path.name}: |predicted / measured - 1|, median, 90th percentile, worst", title_justify="left",
    )  # fmt: skip
    for part in raw.parts:
        table.add_row(*_cells(part))
    console.print(table)
    for assumption in profile.assumptions:
        console.print(f"- {assumption}", markup=False)
    console.print(f"profile of {profile.gpu}: {target}; use it with --profile {target}", markup=False)


def _cells(part: "Part") -> list[str]:
    from thinwire.validation.fits.records import numbers

    def figures(found: Any) -> str:
        return "" if found is None else f"{found.median:6.1%} {found.percentile_90:6.1%} {found.worst:6.1%}"

    bias = "" if part.shipped_bias is None else f"{part.shipped_bias:+.1%}"
    rows = str(len(numbers(part.fitted.rows)))
    return [part.what, rows, figures(part.fitted), figures(part.left_out), figures(part.shipped), bias]
