"""The program as typer knows it: commands imported when they are asked for, and typer's messages in our words."""

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from thinwire.edge.words import QUOTED, cut, meant, shown

PROGRAM = "thinwire"
HELP = "Time to first token when the wire between GPUs carries fewer bits."


def app_of(commands: Mapping[str, str]) -> typer.Typer:
    """The program of some commands: name -> the module of `commands/` that has a function, or a group, of its name."""

    class Commands(TyperGroup):
        """The commands, each imported when it is asked for."""

        def list_commands(self, ctx: Any) -> list[str]:
            """All names, for help and completion."""
            return [*commands]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            """A command by name, None where there is none."""
            if cmd_name not in commands:
                return None
            module = import_module(f"{__package__.rpartition('.')[0]}.{commands[cmd_name]}")
            found = getattr(module, cmd_name)
            if isinstance(found, typer.Typer):
                return typer.main.get_command(found)
            holder = typer.Typer(add_completion=False, rich_markup_mode=None)
            holder.command(cmd_name)(found)
            return typer.main.get_command(holder)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            """As typer's; what is no command is answered with the nearest."""
            if args and args[0] not in commands and not args[0].startswith("-"):
                hint = meant(args[0], commands) or f"{PROGRAM} --help lists them"
                raise ValueError(f"No such command {shown(args[0])}; {hint}")
            return super().resolve_command(ctx, args)

    app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode=None, help=HELP)
    app.callback()(_program)
    return app


def _version(asked: bool) -> None:
    if asked:
        from thinwire import __version__

        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _program(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Its version, and nothing else.")
    ] = False,
) -> None:
    """What holds for every command: nothing but this."""


def answered(app: typer.Typer, words: Sequence[str]) -> int:
    """The exit status of a command line. ValueError: what typer refuses, as one line."""
    try:
        status: int | None = app(args=list(words), standalone_mode=False)
    except typer.TyperException as error:
        message = _ours(error, words)
        for word in words:  # its messages repeat what was given in full
            message = message.replace(word, cut(word)) if len(word) > QUOTED else message
        if not message or "\n" in message:  # with nothing to do, typer's message is the whole help
            message = f"a command is missing; see {PROGRAM} --help"
        raise ValueError(message) from None
    except typer.Abort:
        raise KeyboardInterrupt from None
    return status or 0


_NO_NUMBER = re.compile(
    r"Invalid value for '(?P<option>--[\w-]+)[^']*': Input should be a valid (?P<kind>integer|number)\b.*"
)
_OURS = re.compile(r"Invalid value for '(?P<option>--[\w-]+)[^']*': Value error, (?P<why>must be .*)", re.DOTALL)
_NO_CHOICE = re.compile(r".*'(?P<given>[^']*)' is not one of (?P<allowed>'.*')\.", re.DOTALL)


def _ours(error: typer.TyperException, words: Sequence[str]) -> str:
    """Typer's message: with what was given where it is no number, and with what was meant."""
    message = error.format_message()
    if getattr(error, "option_name", None) == "-v":
        return "No such option: -v; it is short for --verbose, behind the name of a command that has more to say"
    if (near := getattr(error, "possibilities", None)) and (option := getattr(error, "option_name", None)):
        return f"No such option: {option}; {meant(option, near) or 'did you mean ' + ' or '.join(sorted(near)) + '?'}"
    if (found := _NO_NUMBER.match(message)) is not None:
        option = found["option"]
        after = [words[at + 1] for at, word in enumerate(words[:-1]) if word == option]
        after += [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
        given = f"; given {shown(after[-1])}" if after else ""
        return f"{option} must be a {'whole number' if found['kind'] == 'integer' else 'number'}{given}"
    if (found := _OURS.match(message)) is not None:
        return f"{found['option']} {found['why']}"
    if (found := _NO_CHOICE.match(message)) is not None:
        hint = meant(found["given"], re.findall(r"'([^']*)'", found["allowed"]))
        return f"{message} {hint[:1].upper()}{hint[1:]}" if hint else message
    return message
