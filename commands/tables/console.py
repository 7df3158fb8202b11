"""Where people's answers are written, and how wide: as the terminal is; 80 columns piped, unless COLUMNS says more."""

import os
import sys
from shutil import get_terminal_size
from textwrap import wrap

from rich.console import Console, ConsoleDimensions
from rich.text import Text

PIPED, LEAST, MOST = 80, 60, 400  # columns: narrower terminals wrap lines of 60, wider ones are not filled


class Paper(Console):
    """A console that looks how wide it is whenever it writes: what it writes to may have changed."""

    @property  # type: ignore[misc]  # rich's can be set, and nobody does
    def size(self) -> ConsoleDimensions:
        """Columns and lines."""
        if sys.stdout.isatty():
            width, height = get_terminal_size((PIPED, 25))  # COLUMNS first; rich would keep what it was at the import
            return ConsoleDimensions(min(max(width, LEAST), MOST), height)
        given = os.environ.get("COLUMNS", "")
        wide = int(given) if given.isdecimal() and len(given) < 6 else PIPED
        return ConsoleDimensions(min(max(wide, LEAST), MOST), 25)


console = Paper(highlight=False)


def say(text: str, style: str = "", indent: int = 0) -> None:
    """A sentence, wrapped at spaces alone: lines after the first are set in by `indent`, names and links stay whole."""
    lines = wrap(
        text, console.width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    ) or [""]  # fmt: skip
    for line in lines:
        console.print(Text(line, style=style), soft_wrap=True)


def heading(text: str) -> None:
    """What comes next, after an empty line."""
    console.print()
    console.print(Text(text, style="bold"), soft_wrap=True)


def item(text: str) -> None:
    """One of a list."""
    say(f"- {text}", indent=2)
