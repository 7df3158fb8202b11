"""Tables that fit: columns go in a fixed order where there is no room for all, and names are never cut.

What may be written on several lines is: words at their spaces, a name that is wider than all there is wherever it must.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, chop_cells
from rich.text import Text

from thinwire.commands.tables.console import console, say

GAP = 2  # between columns
NARROW = 16  # what is wrapped keeps at least as much


@dataclass(frozen=True, slots=True)
class Column:
    """rank: the higher, the sooner it goes; 0 always stays. left: words, else numbers. wraps: may be written on several
    lines, of `least` at least. title: what it is called where it is said to be left out, if not as its head.
    hang: by how much further lines are set in.
    """

    head: str
    rank: int = 0
    left: bool = False
    wraps: bool = False
    title: str = ""
    least: int = NARROW
    hang: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """Cells in the order of the columns, or words across all of them."""

    cells: tuple[str, ...] = ()
    style: str = ""
    across: str | None = None


@dataclass(slots=True)
class Fitted:
    """A table that is made to fit when it is printed. wide: all its columns, however wide that is."""

    columns: Sequence[Column]
    rows: list[Row] = field(default_factory=list)

    def add(self, *cells: str, style: str = "") -> None:
        """A row."""
        if len(cells) != len(self.columns):
            raise ValueError(f"a row has a cell for each column: {len(cells)} cells, {len(self.columns)} columns")
        self.rows.append(Row(tuple(cells), style))

    def line(self, words: str) -> None:
        """Words across, above the rows that come next."""
        self.rows.append(Row(across=words))

    def show(self, where: str = "a wider terminal or --json has them") -> None:
        """Print it, and below it what was left out."""
        widths, left = self.fit(console.width)
        whole = sum(widths.values()) + GAP * (len(widths) - 1)
        if any(self.columns[at].head for at in widths):
            self._write([self.columns[at].head for at in widths], widths, "bold")
        for row in self.rows:
            if row.across is not None:
                words = f"-- {row.across} "
                say(words + "-" * max(0, whole - cell_len(words)), "dim", indent=3)
            else:
                self._write([row.cells[at] for at in widths], widths, row.style)
        if left:
            names = ", ".join(f'"{name}"' for name in left)
            say(f"no room for the column{'s' if len(left) > 1 else ''} {names}: {where}", "dim")

    def fit(self, width: int) -> tuple[dict[int, int], list[str]]:
        """Widths by column of those that fit, and what the others are called; columns without content are none."""
        cells = [row.cells for row in self.rows if row.across is None]
        widths = {
            at: max([cell_len(column.head), *(cell_len(each[at]) for each in cells)])
            for at, column in enumerate(self.columns)
            if any(each[at] for each in cells) or not cells
        }
        left: list[int] = []

        def over() -> int:
            """Columns of the screen that are wanting, all that wraps as narrow as may be."""
            narrow = sum(
                min(wide, max(self.columns[at].least, cell_len(self.columns[at].head)))
                if self.columns[at].wraps
                else wide
                for at, wide in widths.items()
            )
            return narrow + GAP * (len(widths) - 1) - width

        while over() > 0 and (ranked := [at for at in widths if self.columns[at].rank]):
            gone = max(ranked, key=lambda at: (self.columns[at].rank, at))
            left.append(gone)
            del widths[gone]
        excess = sum(widths.values()) + GAP * (len(widths) - 1) - width
        for at in sorted(widths, key=lambda at: (not self.columns[at].wraps, at)):
            if excess > 0:
                least = max(self.columns[at].least, cell_len(self.columns[at].head)) if self.columns[at].wraps else 8
                less = min(excess, max(0, widths[at] - least))
                widths[at] -= less
                excess -= less
        return widths, [self.columns[at].title or self.columns[at].head for at in sorted(left)]

    def _write(self, cells: Sequence[str], widths: dict[int, int], style: str) -> None:
        written = []
        for at, cell in zip(widths, cells, strict=True):
            mark, hang = cell[: self.columns[at].hang], self.columns[at].hang
            first, *more = _lines(cell[hang:], widths[at] - hang)
            written.append([mark + first, *(" " * hang + line for line in more)])
        for number in range(max(map(len, written))):
            parts = []
            for at, lines in zip(widths, written, strict=True):
                text = lines[number] if number < len(lines) else ""
                space = " " * (widths[at] - cell_len(text))
                parts.append(text + space if self.columns[at].left else space + text)
            console.print(Text((" " * GAP).join(parts).rstrip(), style=style), soft_wrap=True)


def _lines(cell: str, width: int) -> list[str]:
    """A cell on lines of a width, cut at spaces, and within what has none and is wider."""
    lines: list[str] = []
    for part in cell.split("\n"):
        if cell_len(part) <= width:
            lines.append(part)
            continue
        line = ""
        for word in part.split(" "):
            if line and cell_len(f"{line} {word}") > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
            if cell_len(line) > width:
                *full, line = chop_cells(line, width)
                lines += full
        lines.append(line)
    return lines
