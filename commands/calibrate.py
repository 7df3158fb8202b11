"""`thinwire calibrate`: measurements of a GPU into a profile."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinwire.commands.frame.progress import working
from thinwire.commands.options import Json, print_answer

if TYPE_CHECKING:
    from thinwire.sim.costs.profile import GpuProfile
    from thinwire.validation.fits.raw_file import Part, Raw
    from thinwire.validation.logs.fitting import Calibration


def calibrate(
    more: Annotated[list[str] | None, typer.Argument(metavar="[LOG ...]", help="With --logs: more logs.")] = None,
    raw_file: Annotated[str | None, typer.Option("--from", help="JSON file that `make gpu` wrote.")] = None,
    logs: Annotated[
        list[str] | None, typer.Option(metavar="LOG [LOG ...]", help="What nccl-tests or rccl-tests printed.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="With --logs: the machine they ran on, name or TOML file.")
    ] = None,
    out: Annotated[str | None, typer.Option(help="Where the profile goes; beside you, named after the file.")] = None,
    as_json: Json = False,
) -> None:
    """Turn measurements of a GPU, or logs of a machine's collectives, into a profile for --profile."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: one thread is the fastest for fits this small
    if (raw_file is None) == (logs is None):
        raise ValueError(
            "calibrate needs --from RAW.json: run `make gpu` on a machine with the GPU first, it writes one; or --logs "
            "LOG: what nccl-tests printed (`make calibrate` fits the shipped profiles to published tables)"
        )
    if logs is not None:
        _of_logs([*logs, *(more or ())], cluster, out, as_json)
        return
    if more or cluster is not None:
        raise ValueError(f"{'more files' if more else '--cluster'} go with --logs, not with --from: {raw_file}")
    from thinwire.sim.costs.profile import gpu_profile_dict
    from thinwire.validation.fits.calibrate_raw import profile_of
    from thinwire.validation.fits.raw_file import Raw, document
    from thinwire.validation.instructions.costs import with_own

    assert raw_file is not None
    with working("calibrate") as work:
        work.update(0, at="reading measurements")
        raw = Raw.read(Path(raw_file))
        target = Path(out) if out is not None else Path(f"{raw.path.stem}-profile.json")
        work.update(0, at="fitting, with each row left out in turn")
        profile = with_own(profile_of(raw), raw)
    _write(target, {"gpu": gpu_profile_dict(profile)})
    print_answer({"profile": str(target), **document(raw, profile)}, as_json, lambda: _show(raw, profile, target))


def _write(target: Path, profile: Any) -> None:
    from thinwire.validation.calibrate import write

    try:
        write(target, profile)
    except OSError as error:
        raise ValueError(f"cannot write the profile to {target}: {error.strerror}") from None


def _of_logs(logs: list[str], cluster: str | None, out: str | None, as_json: bool) -> None:
    if cluster is None:
        raise ValueError("calibrate --logs needs --cluster: the machine that the logs ran on, by name or TOML file")
    from thinwire.topologies.load import load_cluster
    from thinwire.validation.logs.fitting import calibrated, read_logs

    machine = load_cluster(cluster)
    with working("calibrate") as work:
        work.update(0, at="reading logs and fitting")
        found = calibrated(read_logs(logs), machine)
    target = Path(out) if out is not None else Path(f"{Path(logs[0]).stem}-fabric.json")
    _write(target, found.document)
    print_answer({"profile": str(target), **found.to_dict()}, as_json, lambda: _show_logs(found, target))


NAMED = 6  # dropped rows that are printed one by one; --json has all


def _show_logs(found: "Calibration", target: Path) -> None:
    from thinwire.commands.tables.console import console, say
    from thinwire.commands.tables.fitting import Column, Fitted

    say(f"{found.cluster.name}: |predicted / measured - 1|, median, 90th percentile, worst", "bold")
    table = Fitted(
        [
            Column("op", left=True), Column("ranks"), Column("by", 2, left=True), Column("sizes", 4),
            Column("bytes", 3, left=True), Column("as", 1, left=True), Column("in-sample", 5), Column("row left out"),
        ]
    )  # fmt: skip
    document = found.to_dict()
    for one in document["series"]:
        reach = f"{one['bytes'][0]} .. {one['bytes'][-1]}" if len(one["bytes"]) > 1 else str(one["bytes"][0])
        table.add(
            one["op"], str(one["ranks"]), one["ranks_by"], str(one["rows"]), reach, one["algorithm"],
            _three(one["in_sample"]), _three(one["left_out"]),
        )  # fmt: skip
    table.show()
    for one in document["series"]:
        where = f"{one['op']} on {one['ranks']} ranks"
        lines = [*one["said"], *(f"row not used: {why}" for why in one["dropped"][:NAMED])]
        if len(one["dropped"]) > NAMED:
            lines.append(f"{len(one['dropped']) - NAMED} more rows not used (--json names them)")
        for line in lines:
            console.print(f"- {where}: {line}", markup=False)
    for one in document["unused"]:
        console.print(f"- not used: {one['run']}: {one['why']}", markup=False)
    for line in document["borrowed"]:
        console.print(f"- {line}", markup=False)
    console.print(f"fabric of {found.cluster.name}: {target}; use it with --profile {target}", markup=False)


def _three(figures: dict[str, float] | None) -> str:
    return "one row" if figures is None else " ".join(f"{value:6.1%}" for value in figures.values())


def _show(raw: "Raw", profile: "GpuProfile", target: Path) -> None:
    from thinwire.commands.tables.console import console, say
    from thinwire.commands.tables.fitting import Column, Fitted

    say(f"{raw.path.name}: |predicted / measured - 1|, median, 90th percentile, worst", "bold")
    table = Fitted(
        [
            Column("part", left=True), Column("rows", 2), Column("in-sample", 4), Column("left out"),
            Column("shipped profile", 1), Column("its bias", 3),
        ]
    )  # fmt: skip
    for part in raw.parts:
        table.add(*_cells(part))
    table.show()
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
