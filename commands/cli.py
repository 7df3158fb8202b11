"""The command line. Names and options are a contract (scripts rely on them): CHANGELOG.md records every change.

With --json, one JSON document goes to standard output and nothing else; warnings go to standard error. Bad input ends
with status 2 and one line on standard error.
"""

import gc
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from thinwire.edge.words import QUOTED, cut, place, said, shown

PROGRAM = "thinwire"
# Command -> the module of this room that has a function, or a group, of its name: imported when asked for.
COMMANDS: Mapping[str, str] = {
    "predict": "predict",
    "compare": "compare",
    "serve": "serve",
    "plan": "plan",
    "auto": "auto",
    "sweep": "sweep",
    "collective": "collective",
    "ui": "page",
    "report": "page",
    "accuracy": "quality",
    "sensitivity": "quality",
    "calibrate": "calibrate",
    "validate": "validate",
    "schemes": "catalogs",
    "models": "catalogs",
    "clusters": "catalogs",
    "gpus": "catalogs",
    "cluster": "catalogs",
}


# Over before collecting garbage would pay: most of what they do is importing, which makes none.
QUICK = frozenset({"predict", "compare", "collective", "auto", "schemes", "models", "clusters", "gpus", "cluster"})
# Else pydantic searches every package that is installed for plugins of its own; we have none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


class Commands(TyperGroup):
    """The commands, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, for help and completion."""
        return [*COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command by name, None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        found = getattr(import_module(f"{__package__}.{COMMANDS[cmd_name]}"), cmd_name)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        holder = typer.Typer(add_completion=False, rich_markup_mode=None)
        holder.command(cmd_name)(found)
        return typer.main.get_command(holder)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Time to first token when the wire between GPUs carries fewer bits.",
)
app.callback()(lambda: None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit status 0; 2 with one line on standard error; 130 or 143 where a signal ended it."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    collecting = gc.isenabled()
    if not QUICK.isdisjoint(words[:1]):
        gc.disable()
    try:
        with _ended_by_a_signal():
            status = app(args=words, standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message()
        message = _with_value(message, words)
        for word in words:  # its messages repeat what was given in full
            message = message.replace(word, cut(word)) if len(word) > QUOTED else message
        if not message or "\n" in message:  # with nothing to do, typer's message is the whole help
            message = "a command is missing; see thinwire --help"
        _fail(message)
    except ValueError as error:
        _fail(str(error))
    except OSError as error:  # a full disk under standard output, say; what commands open they name themselves
        _nothing_more()
        _fail(f"cannot read or write{f' {place(error.filename)}' if error.filename else ''}: {error.strerror or error}")
    except MemoryError:
        _fail("there is not enough memory for what was asked")
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(130)
    except TerminatedError:
        sys.exit(128 + signal.SIGTERM)
    else:
        sys.exit(status or 0)
    finally:
        if collecting:  # where the program goes on after it: a test, a notebook
            gc.enable()


class TerminatedError(BaseException):
    """SIGTERM. Like Ctrl-C it passes through whoever cleans up, and is no `Exception` that somebody swallows."""


@contextmanager
def _ended_by_a_signal() -> Iterator[None]:
    """SIGTERM is raised in the main thread, so that no temporary file and no worker outlives the command."""

    def end(*_: object) -> None:
        raise TerminatedError

    ours = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if ours else None
    if before is not signal.SIG_DFL:  # somebody's own: a notebook's, a test's
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _nothing_more() -> None:
    """Nothing more is written to standard output, or Python complains of it when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_INVALID = re.compile(
    r"Invalid value for '(?P<option>--[\w-]+)[^']*': Input should be a valid (?P<kind>integer|number)\b.*"
)


def _with_value(message: str, words: Sequence[str]) -> str:
    """Typer's message for what is no number, in our words and with what was given."""
    found = _INVALID.match(message)
    if found is None:
        return message
    option = found["option"]
    after = [words[at + 1] for at, word in enumerate(words[:-1]) if word == option]
    after += [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    given = f"; given {shown(after[-1])}" if after else ""
    return f"{option} must be a {'whole number' if found['kind'] == 'integer' else 'number'}{given}"


def _fail(message: str) -> NoReturn:
    print(f"{PROGRAM}: {said(message)}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
