"""The command line. Names and options are a contract (scripts rely on them): CHANGELOG.md records every change.

With --json, one JSON document goes to standard output and nothing else; warnings go to standard error. Bad input ends
with status 2 and one line on standard error.

Light: Ctrl-C while the rest is still being imported ends the program as it does later, so only what Python has loaded
anyway is imported before `main` is called.
"""

import gc
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

PROGRAM = "thinwire"
# Command -> the module of this room that has a function, or a group, of its name: imported when asked for.
COMMANDS: Mapping[str, str] = {
    "predict": "predict",
    "compare": "compare",
    "serve": "serving.serve",
    "plan": "serving.plan",
    "auto": "auto",
    "sweep": "serving.sweep",
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
    "doctor": "doctor",
}


# Over before collecting garbage would pay: most of what they do is importing, which makes none.
QUICK = frozenset({"predict", "compare", "collective", "auto", "schemes", "models", "clusters", "gpus", "cluster"})
# Else pydantic searches every package that is installed for plugins of its own; we have none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def __getattr__(name: str) -> Any:
    """`app`, the program as typer knows it; typer is imported when somebody asks for it."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from thinwire.commands.frame.program import app_of

    return app_of(COMMANDS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit status 0; 2 with one line on standard error; 130 or 143 where a signal ended it.

    Other statuses are a command's own: 1 of what ran and found something wrong (`sweep`, `doctor`).
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    collecting = gc.isenabled()
    if not QUICK.isdisjoint(words[:1]):
        gc.disable()
    try:
        with _ended_by_a_signal():
            from thinwire.commands.frame.program import answered, app_of

            status = answered(app_of(COMMANDS), words)
    except ValueError as error:
        _fail(str(error))
    except OSError as error:  # a full disk under standard output, say; what commands open they name themselves
        from thinwire.edge.words import place

        _nothing_more()
        _fail(f"cannot read or write{f' {place(error.filename)}' if error.filename else ''}: {error.strerror or error}")
    except MemoryError:
        _fail("there is not enough memory for what was asked")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except TerminatedError:
        sys.exit(128 + signal.SIGTERM)
    else:
        sys.exit(status)
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


def _fail(message: str) -> NoReturn:
    from thinwire.edge.words import said

    print(f"{PROGRAM}: {said(message)}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
