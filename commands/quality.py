"""`thinwire accuracy` and `sensitivity`: what compression costs a real model, run here."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from thinwire.commands.frame.progress import working
from thinwire.commands.options import Compressed, Json, print_answer
from thinwire.sim.choices import Compress

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thinwire.reference.quality.accuracy import Progress
    from thinwire.validation.quality.subject import Material

# Of the commands that run a model.
Tp = Annotated[int, typer.Option(help="TP degree: ranks whose partial sums are encoded and added.")]
Weights = Annotated[
    str | None, typer.Option(help="Hugging Face folder or GGUF file; SmolLM2-135M when left out, downloaded once.")
]
Text = Annotated[
    str | None,
    typer.Option(help="UTF-8 text, run without a BOS token; prose of Wikipedia when left out, downloaded once."),
]
PromptTokens = Annotated[
    int | None, typer.Option(help="Tokens of a window that are its prompt; three of four when left out.")
]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu or cuda.")]
Windows = Annotated[int, typer.Option(help="Windows of the text to run.")]
Tokens = Annotated[int, typer.Option(help="Tokens of a window.")]
Results = Annotated[
    str | None, typer.Option(help="Folder of what is done, where a stopped run goes on; the cache by default.")
]
Threads = Annotated[int | None, typer.Option(help="Threads; one for small models when left out, all cores for others.")]


def accuracy(
    scheme: Annotated[str, typer.Option(help="Catalog name, combination (flash-int4+spd-50) or spec.")],
    tp: Tp = 4,
    weights: Weights = None,
    text: Text = None,
    windows: Windows = 16,
    tokens: Tokens = 512,
    compress: Compressed = "prompt",
    prompt_tokens: PromptTokens = None,
    device: Device = "cpu",
    results: Results = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Perplexity of a real model under a scheme, held against the same model uncompressed.

    Engines compress prompts, whose messages are large, and decode exactly: so is it measured unless --compress all.
    """
    from thinwire.reference.catalog import scheme as find_scheme

    found = find_scheme(scheme)
    prompt = _prompt(compress, prompt_tokens, tokens)
    with _running_a_model("accuracy") as progress:
        material, folder = _material(weights, text, results, "accuracy", threads, device)
        subject = material.subject(tp, material.windows(tokens, windows, found), prompt)
        document = subject.document(found, subject.measure([found], folder, progress)[found.name])
    print_answer(document, as_json, lambda: _show_accuracy(document))


def sensitivity(
    choices: Annotated[
        str | None, typer.Option(help="Schemes and drop, joined by commas; a dozen when left out.")
    ] = None,
    tp: Tp = 3,
    weights: Weights = None,
    text: Text = None,
    windows: Windows = 4,
    tokens: Tokens = 512,
    compress: Compressed = "prompt",
    prompt_tokens: PromptTokens = None,
    out: Annotated[str | None, typer.Option(help="Where the table goes; beside you, named after the model.")] = None,
    results: Results = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """What each sync point of a real model costs when it alone is compressed, into a table."""
    prompt = _prompt(compress, prompt_tokens, tokens)
    with _running_a_model("sensitivity") as progress:
        from thinwire.validation.quality import measure_sensitivity as measuring

        material, folder = _material(weights, text, results, "sensitivity", threads)
        target = Path(out) if out is not None else Path(f"sensitivity-{material.model}.json")
        chosen = measuring.CHOICES if choices is None else choices.split(",")
        table = measuring.run(
            material, target, folder, choices=chosen, tp=tp, windows=windows, tokens=tokens, prompt=prompt,
            how="thinwire sensitivity", progress=progress,
        )  # fmt: skip
    summary = measuring.summary(table)
    print_answer({"sensitivities": str(target), **summary}, as_json, lambda: _show_sensitivity(summary, target))


def _prompt(compress: Compress, prompt_tokens: int | None, tokens: int) -> int | None:
    """Tokens of a window of so many that are compressed; None: all."""
    if compress == "all":
        if prompt_tokens is not None:
            raise ValueError(f"--compress all has no prompt: --prompt-tokens {prompt_tokens}")
        return None
    return tokens * 3 // 4 if prompt_tokens is None else prompt_tokens


@contextmanager
def _running_a_model(command: str) -> "Iterator[Progress]":
    """A progress bar, and what goes wrong around a model in one line each."""
    try:
        with working(command, "windows") as work:
            work.update(0, at="reading model and text")
            yield lambda done, total: work.update(done, total, "running the model")
    except ImportError as error:
        raise ValueError(
            f"{command} runs a model and needs pip install 'thinwire[reference,weights]': {error}"
        ) from None
    except OSError as error:
        where = error.filename or "a file"
        raise ValueError(f"{command} cannot read or write {where}: {error.strerror}") from None


def _material(
    weights: str | None,
    text: str | None,
    results: str | None,
    command: str,
    threads: int | None,
    device: str = "cpu",
) -> "tuple[Material, Path]":
    """Model and text, and the folder of what is done; threads set."""
    from thinwire.reference.quality.downloads import cache_folder
    from thinwire.validation.quality.subject import Material, check_device, use_threads

    check_device(device)
    material = Material(None if weights is None else Path(weights), None if text is None else Path(text), device)
    use_threads(threads, material.checkpoint.config.hidden_size)
    return material, cache_folder() / command if results is None else Path(results)


def _show_accuracy(document: dict[str, Any]) -> None:
    from thinwire.commands.tables.console import console, say
    from thinwire.commands.tables.fitting import Column, Fitted

    say(f"{document['model']} at TP {document['tp']} under {document['scheme']}", "bold")
    interval_of = f"{document['confidence']:.0%} interval over {document['windows']} windows"
    table = Fitted([Column("", left=True), Column("figure"), Column(interval_of, 1, left=True)])
    for name, label in (
        ("perplexity_bf16", "perplexity, uncompressed"),
        ("perplexity", "perplexity"),
        ("perplexity_ratio", "ratio (interval of paired differences)"),
        ("kl", "KL divergence, nats"),
        ("top1_agreement", "same likeliest token"),
    ):
        interval = document[f"{name}_interval"]
        figure = "beyond numbers" if document[name] is None else f"{document[name]:.5g}"
        table.add(label, figure, "" if interval is None else f"{interval[0]:.5g} to {interval[1]:.5g}")
    table.show()
    prompt = document["prompt_tokens"]
    what = "every position compressed" if prompt is None else f"prompts of {prompt} compressed, answers exact"
    console.print(f"{document['tokens']} predictions in windows of {document['window_tokens']} tokens: {what}")
    for kind in ("weights", "text"):
        console.print(f"{kind}: {document[kind]['source']}", markup=False)


def _show_sensitivity(summary: dict[str, Any], target: Path) -> None:
    from thinwire.commands.tables.console import console, say
    from thinwire.commands.tables.fitting import Column, Fitted

    say(f"{summary['title']} at TP {summary['tp']}: the most sensitive points under {summary['under']}", "bold")
    table = Fitted([Column("sync point", left=True), Column("KL divergence, nats"), Column("loss, nats")])
    for point in summary["most_sensitive"]:
        table.add(f"{point['layer']}.{point['site']}", f"{point['kl']:.4g}", f"{point['nll']:+.4g}")
    table.show()
    console.print(
        f"a predicted token, over {summary['predictions']} predictions in {summary['windows']} windows of "
        f"{summary['window_tokens']} tokens"
    )
    console.print(f"sensitivities of every sync point: {target}", markup=False)
