"""What a sweep found, read back from its Parquet file when it is looked at. Needs the extra `sweep`: pyarrow."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinwire.edge.words import cut, place, shown
from thinwire.sim.display import Displayed, Row, axes, needed, one_line, plain
from thinwire.sim.sweeps.kinds import Kind
from thinwire.sim.sweeps.spec import KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_SERIES = 12  # of a picture
# By kind: the first column of what was found, those of the point stand before it; and what matters most of it.
FOUND: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "predict": ("ttft_ms", ("ttft_ms", "ttft_ms_low", "ttft_ms_high")),
    "serve": ("gpus", ("ttft_ms_p95", "ttft_ms_p95_half_width", "tpot_ms_p95", "goodput_requests_per_s")),
    "plan": ("rate_per_s", ("cost_per_hour", "ttft_ms", "cluster", "tp", "scheme", "replicas")),
}


@dataclass(frozen=True, repr=False)
class Results(Displayed):
    """The rows of a sweep, in the order of its points. out: the file, which is read anew each time."""

    out: str

    def rows(self) -> list[Row]:
        """Every row by the names of its columns. ValueError for a file that is no sweep's."""
        found: list[Row] = self._file()[1].read().to_pylist()
        return found

    def failures(self) -> dict[str, int]:
        """How many points failed, by what was wrong, the most frequent first."""
        said = Counter(row["error"] for row in self.rows() if row["error"] is not None)
        return dict(said.most_common())

    def varying(self) -> list[str]:
        """The axes with more than one value, in the order of the file's columns."""
        kind, file = self._file()
        names = list(kind.columns)
        asked = names[1 : names.index(FOUND[kind.what][0])]
        table = file.read(asked)
        return [name for name in asked if len(table.column(name).unique()) > 1]

    def _file(self) -> tuple[Kind, Any]:
        parquet = needed("pyarrow.parquet", "sweep", "reading a sweep's results")
        import pyarrow as pa

        try:
            file = parquet.ParquetFile(self.out)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"cannot read {place(self.out)}: {cut(one_line(str(error)))}") from None
        schema = file.schema_arrow
        mine = b"thinwire" in (schema.metadata or {})
        kind = next((kind for kind in KINDS.values() if mine and [*kind.columns] == schema.names), None)
        if kind is None:
            raise ValueError(f"{place(self.out)} is no result of this thinwire's sweep")
        return kind, file

    def _line(self) -> str:
        kind, file = self._file()
        failed = len(file.read(["error"]).column("error").drop_null())
        name = cut(Path(self.out).name, 40)
        varying = ", ".join(self.varying()[:6])
        said = f"{file.metadata.num_rows} rows of {kind.what} in {name}, {failed} failed"
        return f"{said}; varying: {varying}" if varying else said

    def _rows(self) -> list[Row]:
        return self.rows()

    def _table(self) -> list[Row]:
        kind, varying = self._file()[0], self.varying()
        names = list(dict.fromkeys([*varying, *FOUND[kind.what][1], "error"]))
        rows = self.rows()
        names = names if any(row["error"] is not None for row in rows) else names[:-1]
        return [{name: row[name] for name in names} for row in rows]

    def plot(self, ax: "Axes | None" = None, x: str | None = None, y: str | None = None) -> "Axes":
        """`y` against `x`, a series for each combination of the other axes, at most `MOST_SERIES` of them.

        Args:
            x: a column; None = the axis of numbers that has most values.
            y: a column of numbers; None = what matters most: TTFT, or a plan's cost.
        """
        ax = axes(ax)
        self._plot(ax, x, y)
        return ax

    def _draw(self, ax: "Axes") -> None:
        self._plot(ax, None, None)

    def _plot(self, ax: "Axes", x: str | None, y: str | None) -> None:
        kind, rows, varying = self._file()[0], self.rows(), self.varying()
        y = FOUND[kind.what][1][0] if y is None else y
        x = _widest(rows, varying) if x is None else x
        for name in (x, y):
            if name not in kind.columns:
                raise ValueError(f"no such column: {shown(name)}; there are {', '.join(kind.columns)}")
        series: dict[tuple[Any, ...], list[Row]] = {}
        others = [name for name in varying if name not in (x, y)]
        for row in rows:
            if row[y] is not None and row[x] is not None:
                series.setdefault(tuple(row[name] for name in others), []).append(row)
        for values, mine in list(series.items())[:MOST_SERIES]:
            numbers = all(isinstance(row[x], int | float) for row in mine)
            mine = sorted(mine, key=lambda row: row[x]) if numbers else mine
            at = [row[x] if numbers else plain(row[x]) for row in mine]
            label = plain(", ".join(map(str, values)), 60) or None
            ax.plot(at, [row[y] for row in mine], marker="o", linestyle="-" if numbers else "none", label=label)
        left = len(series) - MOST_SERIES
        ax.set_xlabel(x)
        ax.set_ylabel(y)
        title = (
            f"{plain(Path(self.out).name)}, {plain(', '.join(others), 60)}" if others else plain(Path(self.out).name)
        )
        ax.set_title(f"{title}; {left} more series are not drawn" if left > 0 else title, fontsize="medium")
        if others and series:
            ax.legend(fontsize="small")


def _widest(rows: Sequence[Row], varying: Sequence[str]) -> str:
    """The axis of numbers with most values; without one, the axis with most."""
    if not varying:
        return "id"
    count = {name: len({row[name] for row in rows}) for name in varying}
    numbers = [n for n in varying if all(isinstance(row[n], int | float | None) for row in rows)]
    return max(numbers or varying, key=lambda name: count[name])


def read_results(path: str | Path) -> Results:
    """The results of a sweep. ValueError where the file is none, or pyarrow is not installed."""
    found = Results(str(path))
    found._file()
    return found
