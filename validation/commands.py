"""`thinwire calibrate` and `thinwire validate`, which the command line finds by their entry points.

Nothing imports validation/, so sim/cli.py cannot name these: pyproject.toml does (docs/decisions/008-commands.md).
Imports stand in the functions, since help loads this module.
"""

import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from thinwire.validation.raw_file import Part, Raw

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


class Section(str, Enum):
    """Sections of the comparison; tests hold them to compare.SECTIONS, which takes a second to import."""

    gemm = "gemm"
    attention = "attention"
    prefill = "prefill"
    trtllm = "trtllm"
    all_reduce = "all_reduce"
    links = "links"
    sglang = "sglang"
    quickreduce = "quickreduce"
    misc = "misc"


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
    from thinwire.sim.profile import gpu_profile_dict
    from thinwire.validation.calibrate import write
    from thinwire.validation.calibrate_raw import profile_of
    from thinwire.validation.raw_file import Raw, document

    raw = Raw.read(Path(raw_file))
    target = Path(out) if out is not None else Path(f"{raw.path.stem}-profile.json")
    profile = profile_of(raw)
    try:
        write(target, {"gpu": gpu_profile_dict(profile)})
    except OSError as error:
        raise ValueError(f"cannot write the profile to {target}: {error.strerror}") from None
    if as_json:
        print(json.dumps({"profile": str(target), **document(raw, profile)}, indent=1, allow_nan=False))
        return
    _show(raw)
    for assumption in profile.assumptions:
        print(f"- {assumption}")
    print(f"profile of {profile.gpu}: {target}; use it with --profile {target}")


def _show(raw: "Raw") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "part", "rows", "in-sample", "left out", "shipped profile", "its bias", box=None, pad_edge=False,
        title=f"{raw.path.name}: |predicted / measured - 1|, median, 90th percentile, worst", title_justify="left",
    )  # fmt: skip
    for part in raw.parts:
        table.add_row(*_cells(part))
    Console(highlight=False, width=None if sys.stdout.isatty() else 160).print(table)


def _cells(part: "Part") -> list[str]:
    from thinwire.validation.records import numbers

    def figures(found: Any) -> str:
        return "" if found is None else f"{found.median:6.1%} {found.percentile_90:6.1%} {found.worst:6.1%}"

    bias = "" if part.shipped_bias is None else f"{part.shipped_bias:+.1%}"
    rows = str(len(numbers(part.fitted.rows)))
    return [part.what, rows, figures(part.fitted), figures(part.left_out), figures(part.shipped), bias]


def validate(
    full: Annotated[bool, typer.Option("--full", help="Leave out every row and every shape: minutes.")] = False,
    only: Annotated[list[Section] | None, typer.Option(help="This section only; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Hold predictions against published measurements."""
    from thinwire.validation import compare

    chosen = {section.value for section in only or ()}
    sections = [build(full) for key, build in compare.SECTIONS.items() if not chosen or key in chosen]
    if as_json:
        print(json.dumps(compare.document(sections, full), indent=1))
        return
    from rich.console import Console

    compare.show(sections, Console(width=None if sys.stdout.isatty() else 160))
