"""A command line from its words to its exit status: what goes wrong in one line, and signals that end it cleanly."""

import gc
import os
import signal
import sys
import threading
from _thread import interrupt_main
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

PROGRAM = "thinwire"
# Over before collecting garbage would pay: most of what they do is importing, which makes none.
QUICK = frozenset({"predict", "compare", "collective", "auto", "schemes", "models", "clusters", "gpus", "cluster"})
ENDING = (signal.SIGTERM, signal.SIGHUP)
AGAIN_S = 0.01  # after which an interrupt that nobody could be told of is tried again


class TerminatedError(BaseException):
    """SIGTERM, or SIGHUP of a terminal that was closed: its number. Like Ctrl-C it passes through whoever cleans up,
    and is no `Exception` that somebody swallows."""


def status_of(words: Sequence[str], commands: Mapping[str, str]) -> int:
    """0; 2 with one line on standard error; 130, 143 or 129 where a signal ended it; or a command's own.

    commands: as `commands.cli.COMMANDS`.
    """
    collecting = gc.isenabled()
    if not QUICK.isdisjoint(words[:1]):
        gc.disable()
    # Else pydantic searches every package that is installed for plugins of its own; we have none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        with _ended_by_a_signal(), _interrupts_not_lost():
            from thinwire.commands.frame.program import answered, app_of

            return answered(app_of(commands), words)
    except ValueError as error:
        return _failed(str(error))
    except OSError as error:  # a full disk under standard output, say; what commands open they name themselves
        from thinwire.edge.words import place

        _nothing_more()
        where = f" {place(error.filename)}" if error.filename else ""
        return _failed(f"cannot read or write{where}: {error.strerror or error}")
    except MemoryError:
        return _failed("there is not enough memory for what was asked")
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except TerminatedError as error:
        return 128 + int(error.args[0])
    finally:
        if collecting:  # where the program goes on after it: a test, a notebook
            gc.enable()


@contextmanager
def _ended_by_a_signal() -> Iterator[None]:
    """SIGTERM and SIGHUP are raised in the main thread, so that no temporary file and no worker outlives them."""

    def end(number: int, _: object) -> None:
        raise TerminatedError(number)

    ours = threading.current_thread() is threading.main_thread()
    # Another handler is somebody's own: a notebook's, a test's, nohup's.
    taken = [each for each in ENDING if ours and signal.getsignal(each) is signal.SIG_DFL]
    for each in taken:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def _interrupts_not_lost() -> Iterator[None]:
    """Ctrl-C that comes while Python runs a finaliser, of an import's lock say, is printed and forgotten: try again."""
    before = sys.unraisablehook

    def tried_again(lost: Any) -> None:
        if lost.exc_type is not None and issubclass(lost.exc_type, KeyboardInterrupt):
            later = threading.Timer(AGAIN_S, interrupt_main)  # not here, where it would be lost as well
            later.daemon = True
            later.start()
        else:
            before(lost)

    sys.unraisablehook = tried_again
    try:
        yield
    finally:
        sys.unraisablehook = before


def _nothing_more() -> None:
    """Nothing more is written to standard output, or Python complains of it when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(message: str) -> int:
    from thinwire.edge.words import said

    print(f"{PROGRAM}: {said(message)}", file=sys.stderr)
    return 2
