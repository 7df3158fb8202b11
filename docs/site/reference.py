"""Pages of the site that are made of what exists: commands out of typer's tree, decisions out of their headings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from thinwire.commands.cli import COMMANDS, app


def commands() -> str:
    """Every command with all its options, as `--help` has them."""
    root: Any = typer.main.get_command(app)
    with root.make_context("thinwire", ["models"], resilient_parsing=True) as context:
        lines = [
            "# Every option",
            "",
            "Made from the commands themselves when the site is built; what they are for: [commands](../commands.md).",
            "",
        ]
        for name in COMMANDS:
            lines += _command(root.get_command(context, name), f"thinwire {name}", context)
    return "\n".join(lines)


def _command(command: Any, name: str, context: Any) -> Iterator[str]:
    """Heading, what it does, and a table of its options; then its own commands."""
    yield from (f"## {name}", "", _text(command.help), "")
    rows = [_row(parameter, context) for parameter in command.params if getattr(parameter, "name", "") != "help"]
    if rows:
        yield from ("| option | what | default |", "| --- | --- | --- |", *rows, "")
    for below in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from _command(command.get_command(context, below), f"{name} {below}", context)


def _row(parameter: Any, context: Any) -> str:
    option = parameter.param_type_name == "option"
    names = ", ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts)) if option else (
        f"`{(parameter.metavar or parameter.name).upper()}`"
    )  # fmt: skip
    default = parameter.default
    hidden = default in (None, "", (), [], False) or callable(default)
    required = "required" if parameter.required else "" if hidden else f"`{default}`"
    return f"| {names} | {_text(getattr(parameter, 'help', None))} | {required} |"


def _text(words: str | None) -> str:
    """Help on one line, with nothing in it that Markdown or a table would take for its own."""
    return re.sub(r"([|<>*_\[\]])", r"\\\1", " ".join((words or "").split()))


def decisions(folder: Path) -> str:
    """The list of decisions by number and title."""
    found = []
    for page in sorted(folder.glob("[0-9]*.md")):
        title = page.read_text("utf-8").partition("\n")[0].removeprefix("# ")
        title = re.sub(r"^(?:Decision )?\d+[:.]?\s*", "", title)
        found.append(f"- {page.name[:3]} [{title}]({page.name})")
    head = "What was decided, why, and what was measured: newer ones may overrule older ones, and then say so."
    return "\n".join(["# Decisions", "", head, "", *found, ""])
