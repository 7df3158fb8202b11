"""The command line. Names and options are a contract (scripts rely on them): CHANGELOG.md records every change.

With --json, one JSON document goes to standard output and nothing else; warnings go to standard error. Bad input ends
with status 2 and one line on standard error.

Light: Ctrl-C while the rest is still being imported ends the program as it does later, so nothing but `sys` is imported
before `main` is called.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing's own takes longer to import than all that is here
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

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
    words = sys.argv[1:] if arguments is None else [*arguments]
    try:
        from thinwire.commands.frame.running import status_of

        status = status_of(words, COMMANDS)
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
