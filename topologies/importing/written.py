"""A machine file as text: the keys of `schema.MachineFile`, written as the shipped files are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 120


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number of a file: value, unit and where from (`measured: ...`, `datasheet: ...`, `assumed: ...`)."""

    value: float
    unit: str
    source: str

    @property
    def kind(self) -> str:
        """measured, datasheet or assumed."""
        return self.source.partition(":")[0]


def gb(value: float, source: str) -> Quantity:
    """GB/s, to four digits."""
    return Quantity(float(f"{value:.4g}"), "GB/s", source)


def us(value: float, source: str) -> Quantity:
    """Microseconds."""
    return Quantity(value, "us", source)


def toml(document: Mapping[str, Any], comments: Sequence[str]) -> str:
    """A document of plain values, quantities, tables and lists of tables, below comment lines."""
    lines = [f"# {_printable(comment)}" for comment in comments]
    _table(document, (), lines)
    return "\n".join(lines) + "\n"


def _table(table: Mapping[str, Any], at: tuple[str, ...], lines: list[str]) -> None:
    """Values first, then tables, then lists of tables: a key behind a table's header would belong to it."""
    later: list[tuple[str, Any]] = []
    for key, value in table.items():
        if value is None:
            continue
        if isinstance(value, Mapping) or _is_tables(value):
            later.append((key, value))
        else:
            lines.append(f"{_key(key)} = {_value(value, len(key) + 3)}")
    for key, value in sorted(later, key=lambda one: not isinstance(one[1], Mapping)):
        where = (*at, key)
        for each in [value] if isinstance(value, Mapping) else value:
            brackets = ("[", "]") if isinstance(value, Mapping) else ("[[", "]]")
            lines += ["", f"{brackets[0]}{'.'.join(map(_key, where))}{brackets[1]}"]
            _table(each, where, lines)


def _is_tables(value: Any) -> bool:
    """A list of tables that wants headers: one whose tables hold more than a line does."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            (isinstance(each, Mapping) and "bandwidth" in each) or (isinstance(each, Mapping) and "numa" in each)
            for each in value
        )
    )


def _key(key: str) -> str:
    return key if key and all(c.isascii() and (c.isalnum() or c in "-_") for c in key) else _text(key)


def _value(value: Any, used: int = 0) -> str:
    if isinstance(value, Quantity):
        return f"{{ value = {_number(value.value)}, unit = {_text(value.unit)}, source = {_text(value.source)} }}"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items() if v is not None)} }}"
    if isinstance(value, list | tuple):
        inside = [_value(each) for each in value]
        line = f"[{', '.join(inside)}]"
        if used + len(line) <= WIDTH and not any(isinstance(each, Mapping) for each in value):
            return line
        return "[\n" + "".join(f"    {each},\n" for each in inside) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _number(value) if isinstance(value, int | float) else _text(str(value))


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _text(text: str) -> str:
    """A basic string: JSON's escapes are TOML's, but for characters that no terminal prints."""
    return json.dumps(_printable(text), ensure_ascii=False)
