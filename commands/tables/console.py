"""Where people's answers are written, and how wide: as the terminal is; 80 columns piped, unless COLUMNS says more."""

import os
import re
import sys
from shutil import get_terminal_size

from rich.cells import cell_len, chop_cells
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
    """A sentence, wrapped at spaces: lines after the first are set in by `indent`. Links and paths stay whole, however
    wide; other words are folded where they are wider than the screen.
    """
    for line in wrapped(text, console.width, indent):
        console.print(Text(line, style=style), soft_wrap=True)


def wrapped(text: str, width: int, indent: int = 0) -> list[str]:
    """Lines of as many cells as `width` at most, one at least: a Chinese character is two cells wide."""
    lines: list[str] = []
    line, taken = "", 0  # cells of it
    for space, word in _WORD.findall(" ".join(text.splitlines())):
        cells = cell_len(word)
        if line.strip() and taken + len(space) + cells > width:
            lines.append(line)
            line, taken = " " * indent, indent
        else:
            line, taken = line + space, taken + len(space)
        if taken + cells > width and not _WHOLE.search(word):
            first = chop_cells(word, max(2, width - taken))[0]
            *full, word = chop_cells(word[len(first) :], width - indent)
            lines += [line + first, *(" " * indent + each for each in full)]
            line, taken, cells = " " * indent, indent, cell_len(word)
        line, taken = line + word, taken + cells
    return [*lines, line]


_WORD = re.compile(r"(\s*)(\S+)")
_WHOLE = re.compile(r"[/\\]")


def heading(text: str) -> None:
    """What comes next, after an empty line."""
    console.print()
    say(text, "bold")


def item(text: str) -> None:
    """One of a list."""
    say(f"- {text}", indent=2)
