"""The door that scripts know: `thinwire.sim.cli.main`, which the `thinwire` of an older installation calls.

The command line is in commands/, above this room, so it is found by name, as a backend is.
"""

from collections.abc import Sequence
from importlib import import_module


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: exit status 0, or 2 with one line on standard error."""
    import_module("thinwire.commands.cli").main(arguments)


if __name__ == "__main__":
    main()
