"""What commands share: a question's fields as options, the options that many have, and how answers are printed.

Light: `thinwire --help` loads every command's module, and none of them imports the simulator before it runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import wraps
from inspect import Parameter, signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from thinwire.edge.amounts import amount, whole
from thinwire.edge.words import said, shown
from thinwire.sim.choices import Compress, Shown
from thinwire.sim.question import Form, Option, Placement, options_of

if TYPE_CHECKING:
    from thinwire.reference.core.architecture import ModelConfig

Q = TypeVar("Q", bound=Placement)

Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="All that it rests on, and where each figure comes from.")
]
Compressed = Annotated[
    Compress, typer.Option(help="Positions compressed, for the accuracy: prompts alone, answers exact; or all.")
]
Published = Annotated[
    Shown | None,
    typer.Option(help="Accuracy figures of others below the table: a few, all or none. --json has all."),
]


def asks(
    question: type[Q],
    *,
    required: Collection[str] = (),
    optional: Mapping[str, Any] = MappingProxyType({}),
    without: Collection[str] = (),
    **helps: str,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a question, and the question that they make as its argument `question`.

    Args:
        required: fields that must be given though they have a default elsewhere.
        optional: what fields are that may be left out here alone.
        without: fields that this command has no option for.
        helps: what an option's help says instead.
    """
    options = {name: one for name, one in options_of(question).items() if name not in without}

    def command(function: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in signature(function, eval_str=True).parameters.values() if p.name != "question"]
        theirs = [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=optional.get(name, Parameter.empty if name in required else _default(one)),
                annotation=_annotation(one, helps.get(name, one.help)),
            )
            for name, one in options.items()
        ]

        @wraps(function)
        def run(**given: Any) -> None:
            values = {name: _read(one, given.pop(name)) for name, one in options.items()}
            function(question=question(**values), **given)

        ours = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in own]
        run.__signature__ = signature(function).replace(parameters=[*theirs, *ours])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*theirs, *ours]} | {"return": None}
        return run

    return command


def option_of(question: type[Placement], name: str) -> Any:
    """A single field of a question as the annotation of an option, for a command that asks something else."""
    one = options_of(question)[name]
    return _annotation(one, one.help)


_TYPES: Mapping[Form, Any] = {
    "name": str, "degree": int, "gpus": str, "profile": str, "links": list[str], "ranks": list[str], "count": int,
    "length": int, "whole": int, "tokens": float, "positive": float, "amount": float, "flag": bool, "lengths": str,
    "trace": str, "faults": list[str],
}  # fmt: skip
# How a number of tokens is read, and what help calls it; typer reads the others.
_AMOUNTS: Mapping[Form, dict[str, Any]] = {
    "length": {"parser": whole, "metavar": "TOKENS"},
    "tokens": {"parser": amount, "metavar": "TOKENS"},
}
_SEVERAL: frozenset[Form] = frozenset({"links", "ranks", "faults"})


def _annotation(one: Option, help: str) -> Any:
    kind: Any = Literal[one.choices] if one.form == "choice" else _TYPES[one.form]
    if one.default is None or one.form in _SEVERAL:
        kind = kind | None
    flag = f"{one.flag}/--no-{one.flag.removeprefix('--')}" if one.form == "flag" else one.flag
    complete = None if one.catalog is None else _names(one.catalog)
    least = 0 if one.form == "whole" else None
    more = _AMOUNTS.get(one.form, {"min": least})
    help = f"{help} 2k is 2048." if one.form in _AMOUNTS else help
    return Annotated[kind, typer.Option(flag, help=help, autocompletion=complete, **more)]


def _default(one: Option) -> Any:
    return Parameter.empty if one.required else None if one.form in _SEVERAL else one.default


def _read(one: Option, value: Any) -> Any:
    if one.form == "links":
        return factors(one.flag, value)
    if one.form == "ranks":
        return {_rank(one.flag, rank): factor for rank, factor in factors(one.flag, value).items()}
    return value


def _names(catalog: str) -> Callable[[str], list[str]]:
    """Shell completion from a catalog."""

    def complete(incomplete: str) -> list[str]:
        from thinwire.sim import api

        return [name for name in api.names(catalog) if name.startswith(incomplete)]

    return complete


def factors(option: str, given: Sequence[str] | None) -> dict[str, float]:
    """KEY=FACTOR pairs."""
    found = {}
    for text in given or ():
        key, equals, factor = text.rpartition("=")
        try:
            found[key] = float(factor)
        except ValueError:
            equals = ""
        if not equals or not key:
            raise ValueError(f"{option} takes NAME=FACTOR, a number after the last =: {shown(text)}")
    return found


def _rank(option: str, text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{option} takes RANK=FACTOR, RANK a whole number: {shown(text)}")
    return int(text)


def given(context: typer.Context, name: str) -> bool:
    """Whether an option was written, rather than left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


# ---- answers


def envelope(command: str) -> dict[str, str]:
    """What every document begins with: the version that made it, and the command that was asked."""
    from thinwire import __version__

    return {"version": __version__, "command": command}


def print_answer(document: Any, as_json: bool, show: Callable[[], None]) -> None:
    """One JSON document on standard output, or what `show` prints for people."""
    try:
        if as_json:
            print(json.dumps(document, indent=1, allow_nan=False))
        else:
            show()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(text: str) -> None:
    """What is said beside the answer."""
    print(said(text), file=sys.stderr)


def note_positions(model: ModelConfig, tokens: float) -> None:
    """A warning for sequences longer than the model was made for: their time is right, their text is not."""
    if tokens > model.max_positions:
        note(
            f"thinwire: {tokens:.10g} tokens of a sequence are beyond the {model.max_positions} positions of "
            f"{model.name}: this is what they would take, but the model was not made for them"
        )
    if model.dtype in ("float32", "float64"):
        note(f"thinwire: {model.name} is stored in {model.dtype}; weights are priced as bf16, as engines load them")
