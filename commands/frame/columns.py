"""Tables that fit: of the columns that may be left out, as many are as the terminal has no room for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

GAP = 1  # between columns


@dataclass(frozen=True, slots=True)
class Column:
    """A column's head, its cells, and how much it matters: 0 is never left out, and of others the largest goes first.

    text: it holds words, which begin at its left edge, and numbers end at the right one.
    """

    head: str
    cells: Sequence[str]
    spare: int = 0
    text: bool = False

    @property
    def width(self) -> int:
        """Of its widest line."""
        return max((len(line) for cell in (self.head, *self.cells) for line in cell.split("\n")), default=0)


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Those that fit a width, in their order; columns without a single word in them go at once."""
    kept = [column for column in columns if any(column.cells) or not column.spare]
    while sum(column.width + GAP for column in kept) - GAP > width and any(column.spare for column in kept):
        kept.remove(max(kept, key=lambda column: column.spare))
    return kept


def table(columns: Sequence[Column], width: int, title: str | None = None) -> Table:
    """A table of the columns that fit. What must stay and does not fit is wrapped, never cut."""
    from rich.table import Table
    from rich.text import Text

    kept = fitting(columns, width)
    made = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), title=title, title_justify="left")
    for column in kept:
        made.add_column(Text(column.head), justify="left" if column.text else "right", overflow="fold")
    for row in zip(*(column.cells for column in kept), strict=True):
        made.add_row(*(Text(cell) for cell in row))
    return made
