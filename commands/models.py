"""`thinwire accuracy`, `calibrate`, `sensitivity` and `validate`, which the command line finds by their entry points.

Nothing imports validation/, so commands/cli.py cannot name these: pyproject.toml does (docs/decisions/008-commands.md).
Imports stand in the functions, since help loads this module.
"""

import json
import os
import sys
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinwire.reference.quality.accuracy import Progress
    from thinwire.validation.fits.raw_file import Part, Raw
    from thinwire.validation.quality.subject import Material

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
# Of the commands that run a model.
Tp = Annotated[int, typer.Option(help="TP degree: ranks whose partial sums are encoded and added.")]
Weights = Annotated[
    str | None, typer.Option(help="Hugging Face folder or GGUF file; SmolLM2-135M when left out, downloaded once.")
]
Text = Annotated[
    str | None,
    typer.Option(help="UTF-8 text, run without a BOS token; prose of Wikipedia when left out, downloaded once."),
]
Windows = Annotated[int, typer.Option(help="Windows of the text to run.")]
Tokens = Annotated[int, typer.Option(help="Tokens of a window.")]
Results = Annotated[
    str | None, typer.Option(help="Folder of what is done, where a stopped run goes on; the cache by default.")
]
Threads = Annotated[int | None, typer.Option(help="Threads; one for small models when left out, all cores for others.")]


class Section(StrEnum):
    """Sections of the comparison; tests hold them to compare.SECTIONS, which takes a second to import."""

    gemm = "gemm"
    attention = "attention"
    decode_attention = "decode_attention"
    prefill = "prefill"
    trtllm = "trtllm"
    tpot = "tpot"
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
    from thinwire.sim.costs.profile import gpu_profile_dict
    from thinwire.validation.calibrate import write
    from thinwire.validation.fits.calibrate_raw import profile_of
    from thinwire.validation.fits.raw_file import Raw, document

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
    from thinwire.validation.fits.records import numbers

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
    from thinwire.validation.targets import compare

    chosen = {section.value for section in only or ()}
    sections = [build(full) for key, build in compare.SECTIONS.items() if not chosen or key in chosen]
    if as_json:
        print(json.dumps(compare.document(sections, full), indent=1))
        return
    from rich.console import Console

    compare.show(sections, Console(width=None if sys.stdout.isatty() else 160))


def accuracy(
    scheme: Annotated[str, typer.Option(help="Catalog name, combination (flash-int4+spd-50) or spec.")],
    tp: Tp = 4,
    weights: Weights = None,
    text: Text = None,
    windows: Windows = 16,
    tokens: Tokens = 512,
    results: Results = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Perplexity of a real model under a scheme, held against the same model uncompressed."""
    from thinwire.reference.catalog import scheme as find_scheme

    found = find_scheme(scheme)
    with _running_a_model("accuracy") as progress:
        material, folder = _material(weights, text, results, "accuracy", threads)
        subject = material.subject(tp, material.windows(tokens, windows, found))
        document = subject.document(found, subject.measure([found], folder, progress)[found.name])
    if as_json:
        print(json.dumps(document, indent=1, allow_nan=False))
        return
    _show_accuracy(document)


def sensitivity(
    choices: Annotated[
        str | None, typer.Option(help="Schemes and drop, joined by commas; a dozen when left out.")
    ] = None,
    tp: Tp = 3,
    weights: Weights = None,
    text: Text = None,
    windows: Windows = 4,
    tokens: Tokens = 512,
    out: Annotated[str | None, typer.Option(help="Where the table goes; beside you, named after the model.")] = None,
    results: Results = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """What each sync point of a real model costs when it alone is compressed, into a table."""
    with _running_a_model("sensitivity") as progress:
        from thinwire.validation.quality import measure_sensitivity as measuring

        material, folder = _material(weights, text, results, "sensitivity", threads)
        target = Path(out) if out is not None else Path(f"sensitivity-{material.model}.json")
        chosen = measuring.CHOICES if choices is None else choices.split(",")
        table = measuring.run(
            material, target, folder, choices=chosen, tp=tp, windows=windows, tokens=tokens,
            how="thinwire sensitivity", progress=progress,
        )  # fmt: skip
    summary = measuring.summary(table)
    if as_json:
        print(json.dumps({"sensitivities": str(target), **summary}, indent=1, allow_nan=False))
        return
    _show_sensitivity(summary)
    print(f"sensitivities of every sync point: {target}")


@contextmanager
def _running_a_model(command: str) -> "Iterator[Progress]":
    """A progress bar, and what goes wrong around a model in one line each."""
    try:
        with _progress() as progress:
            yield progress
    except ImportError as error:
        raise ValueError(
            f"{command} runs a model and needs pip install 'thinwire[reference,weights]': {error}"
        ) from None
    except OSError as error:
        where = error.filename or "a file"
        raise ValueError(f"{command} cannot read or write {where}: {error.strerror}") from None


def _material(
    weights: str | None, text: str | None, results: str | None, command: str, threads: int | None
) -> "tuple[Material, Path]":
    """Model and text, and the folder of what is done; threads set."""
    from thinwire.reference.quality.downloads import cache_folder
    from thinwire.validation.quality.subject import Material, use_threads

    material = Material(None if weights is None else Path(weights), None if text is None else Path(text))
    use_threads(threads, material.checkpoint.config.hidden_size)
    return material, cache_folder() / command if results is None else Path(results)


@contextmanager
def _progress() -> "Iterator[Progress]":
    """A bar on standard error, where that is a terminal, and nothing otherwise."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading model and text", total=None)
        yield lambda done, total: bar.update(task, description="running the model", completed=done, total=total)


def _show_accuracy(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "", "figure", f"{document['confidence']:.0%} interval over {document['windows']} windows", box=None,
        pad_edge=False, title=f"{document['model']} at TP {document['tp']} under {document['scheme']}",
        title_justify="left",
    )  # fmt: skip
    for name, label in (
        ("perplexity_bf16", "perplexity, uncompressed"),
        ("perplexity", "perplexity"),
        ("perplexity_ratio", "ratio (interval of paired differences)"),
        ("kl", "KL divergence, nats"),
        ("top1_agreement", "same likeliest token"),
    ):
        interval = document[f"{name}_interval"]
        figure = "beyond numbers" if document[name] is None else f"{document[name]:.5g}"
        table.add_row(label, figure, "" if interval is None else f"{interval[0]:.5g} to {interval[1]:.5g}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(f"{document['tokens']} predictions in windows of {document['window_tokens']} tokens")
    for kind in ("weights", "text"):
        console.print(f"{kind}: {document[kind]['source']}", markup=False)


def _show_sensitivity(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "sync point", "KL divergence, nats", "loss, nats", box=None, pad_edge=False, title_justify="left",
        title=f"{summary['title']} at TP {summary['tp']}: the most sensitive points under {summary['under']}",
    )  # fmt: skip
    for point in summary["most_sensitive"]:
        table.add_row(f"{point['layer']}.{point['site']}", f"{point['kl']:.4g}", f"{point['nll']:+.4g}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(
        f"a predicted token, over {summary['predictions']} predictions in {summary['windows']} windows of "
        f"{summary['window_tokens']} tokens"
    )
