"""Reads the published tables shipped in `validation/published/` (sources and licences stand in its README)."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

PUBLISHED = Path(__file__).parents[1] / "published"

Row = Mapping[str, str]


@lru_cache
def rows(table: str) -> tuple[Row, ...]:
    """All rows of `<table>.csv`, as strings by column."""
    path = PUBLISHED / f"{table}.csv"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in PUBLISHED.glob("*.csv")))
        raise ValueError(f"no published table named {table}; there are {known}")
    with path.open(newline="") as file:
        return tuple(csv.DictReader(file))


def select(table: str, **wanted: str | int) -> Iterator[tuple[int, Row]]:
    """Rows of a table whose columns equal the wanted values, with their number in the file (from 0)."""
    for number, row in enumerate(rows(table)):
        if all(row[column] == str(value) for column, value in wanted.items()):
            yield number, row


@dataclass(frozen=True)
class Columns:
    """Rows of a table as arrays of one length [R], the first field among them; other fields hold for all rows."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def only(self, keep: npt.NDArray[np.bool_]) -> Self:
        """The rows where `keep` [R] is true."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        kept: dict[str, Any] = {name: v[keep] for name, v in values.items() if isinstance(v, np.ndarray)}
        return replace(self, **kept)
