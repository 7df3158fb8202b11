"""How answers show themselves: a line in a terminal, a small table in a notebook, a data frame, a picture.

One way for all of them: a class says what its line is, what its rows are and how they are drawn, and the base class
does the rest. pandas (extra `pandas`) and matplotlib (extra `plots`) are imported when they are asked for.
"""

from collections.abc import Mapping, Sequence
from html import escape
from importlib import import_module
from math import isfinite
from typing import TYPE_CHECKING, Any

from thinwire.edge.words import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CHARACTERS = 190  # of a line
MOST_ROWS = 20  # of a table
Row = dict[str, Any]


class Displayed:
    """An answer that can be looked at. Names of columns end in their unit, as those of documents do."""

    __slots__ = ()

    def _line(self) -> str:
        """What it says, in a line."""
        raise NotImplementedError

    def _rows(self) -> list[Row]:
        """Plain values by the names of their columns, each row with the same ones."""
        raise NotImplementedError

    def _table(self) -> list[Row]:
        """The rows that a notebook shows, with the columns that matter most."""
        return self._rows()

    def _draw(self, ax: "Axes") -> None:
        """Draw the rows."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{cut(one_line(f'{type(self).__name__}: {self._line()}'), MOST_CHARACTERS)}>"

    def _repr_html_(self) -> str:
        """A table for notebooks: no script, nothing from elsewhere, in the colours of the page it stands on."""
        return table_html(self._line(), self._table())

    def to_pandas(self) -> Any:
        """All rows as a `pandas.DataFrame`. ValueError where pandas is not installed."""
        pandas = needed("pandas", "pandas", "to_pandas")
        rows = self._rows()
        return pandas.DataFrame(rows, columns=list(rows[0]) if rows else None)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """A picture by matplotlib, in `ax` or in a new figure; returns the Axes. ValueError where matplotlib is not
        installed.
        """
        ax = axes(ax)
        self._draw(ax)
        return ax


def axes(ax: "Axes | None" = None) -> "Axes":
    """The Axes given, or those of a new figure."""
    if ax is not None:
        return ax
    found: Axes = needed("matplotlib.pyplot", "plots", "plot").subplots(layout="constrained")[1]
    return found


def needed(module: str, extra: str, what: str) -> Any:
    """A module of an extra. ValueError says what to install."""
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise ValueError(f"{what} needs {package}: pip install 'thinwire[{extra}]'") from None


def one_line(text: str) -> str:
    """Text on one line: what does not print is written as its number."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def plain(text: object, most: int = 40) -> str:
    """Somebody's text for a picture: on one line, short, and no formula of matplotlib's."""
    return cut(one_line(str(text)), most).replace("$", r"\$")


def flat(found: Mapping[str, Any], before: str = "") -> Row:
    """Scalars of a nested document under the names of their path; that of a `value` is its estimate's."""
    row: Row = {}
    for name, value in found.items():
        path = before if name == "value" else f"{before}_{name}" if before else name
        row |= flat(value, path) if isinstance(value, dict) else {path: value}
    return row


# --- tables

_CELL = "padding:0.2em 0.7em;border-bottom:1px solid rgba(128,128,128,0.3);background:none;color:inherit"


def table_html(title: str, rows: Sequence[Row]) -> str:
    """A table of rows, one row upright; of many the first. Everything is escaped."""
    shown = rows[:MOST_ROWS]
    left = len(rows) - len(shown)
    if len(rows) == 1:
        body = [_tr([_cell("th", name, "left"), _value(value)]) for name, value in rows[0].items()]
    else:
        names = list(shown[0]) if shown else []
        body = (
            [_tr([_cell("th", name, "right" if _numeric(shown, name) else "left") for name in names])] if names else []
        )
        body += [_tr(map(_value, row.values())) for row in shown]
    more = f"<div>and {left} more: to_pandas() has them all</div>" if left > 0 else ""
    said = _text(title, 2 * MOST_CHARACTERS)
    return (
        '<div style="color:inherit;background:none;overflow-x:auto">'
        f"<div>{said}</div>"
        '<table style="border-collapse:collapse;color:inherit;background:none">'
        f"<tbody>{''.join(body)}</tbody></table>{more}</div>"
    )


def _tr(cells: Any) -> str:
    return f'<tr style="background:none">{"".join(cells)}</tr>'


def _cell(tag: str, value: object, side: str) -> str:
    return f'<{tag} style="{_CELL};text-align:{side}">{_text(str(value), 120)}</{tag}>'


def _text(text: str, most: int) -> str:
    return escape(cut(one_line(text), most))


def _numeric(rows: Sequence[Row], name: str) -> bool:
    return any(isinstance(row[name], int | float) for row in rows)


def _value(value: object) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return _cell("td", shown(value), "right" if number else "left")


def shown(value: object) -> str:
    """A value in a table: four digits that count, never in powers of ten; a dash where there is none."""
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return "-"
    if isinstance(value, float):
        digits = f"{value:.4g}"
        return f"{value:,.0f}" if abs(value) >= 1000 else digits if "e" not in digits else f"{value:.6f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
