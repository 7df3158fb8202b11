"""Reads tables that people paste of torch.distributed: `| Size | algbw | busbw |`, one group of columns or several.

A time is size over algbw. What a unit of size means (KB of 1,000 or 1,024) the table seldom says; where it has times
the arithmetic tells, else powers of two are assumed and said.
"""

import re
from collections.abc import Iterable, Sequence

from thinwire.edge.limits import LOG_ROWS, MESSAGE
from thinwire.edge.words import cut
from thinwire.validation.logs.rows import LONGEST_S, Group, Row, agrees
from thinwire.validation.logs.runs import OPS, Run

_SIZE = re.compile(r"(\d{1,15}(?:,\d{3})*(?:\.\d{1,6})?)\s*(?:([kmgt])(i?)b?|b|bytes)?$", re.I)
_VALUE = re.compile(r"~?(\d{1,12}(?:,\d{3})*(?:\.\d{1,6})?)\s*([a-zµ]{1,3}(?:/s)?)?$", re.I)
_UNIT = re.compile(r"\(?\b(us|µs|ms|s|[kmg]i?b/s|[kmg]bps)\b\)?", re.I)
_TIMES = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}
_RATES = {"gb/s": 1.0, "gbps": 1.0, "mb/s": 1e-3, "gib/s": 2**30 / 1e9, "mib/s": 2**20 / 1e9, "mbps": 1e-3}
_VERSION = re.compile(r"\bNCCL\s+v?(\d+\.\d+(?:\.\d+)?)")
_POWER = {"k": 1, "m": 2, "g": 3, "t": 4}
_NAMED = re.compile(r"\b(all[_ -]?reduce|all[_ -]?gather|reduce[_ -]?scatter|all[_ -]?to[_ -]?all)\b", re.I)
WHAT = ("algbw", "busbw", "time", "latency")


def read(lines: Iterable[str], file: str) -> list[Run]:
    """The runs of a text's tables, one for each group of columns. ValueError beyond a limit of rows."""
    found: list[Run] = []
    columns: list[tuple[str, str, float]] | None = None  # of the table that is open: (group, what, unit)
    runs: dict[str, Run] = {}
    named, version, count = "", "", 0
    for line in lines:
        cells = _cells(line)
        if cells is None:
            if (op := _NAMED.search(line)) is not None:
                named = re.sub(r"[ -]", "_", op[1].lower())
            if (seen := _VERSION.search(line)) is not None:
                version = seen[1]
            columns = None
            continue
        if columns is None or _header(cells) is not None:
            columns, runs = _header(cells), {}
            continue
        size = _size(cells[0])
        if size is None:
            continue
        count += 1
        LOG_ROWS.check(f"rows of {cut(file)}", count)
        for group, values in _values(cells[1:], columns).items():
            if group not in runs:
                runs[group] = Run(file, len(found) + 1, named=named if named in OPS else "", version=version,
                                  tool="a pasted table", label=group)  # fmt: skip
                found.append(runs[group])
            _add(runs[group], size, values)
    return found


def _cells(line: str) -> list[str] | None:
    text = line.strip()
    if text.count("|") < 2 or len(text) > 2000:
        return None
    return [" ".join(cell.replace("*", "").replace("`", "").split()) for cell in text.strip("|").split("|")]


def _header(cells: Sequence[str]) -> list[tuple[str, str, float]] | None:
    """(group, what, unit) of each column after the size; None for a row that is no header of such a table."""
    if "size" not in cells[0].lower() and "bytes" not in cells[0].lower():
        return None
    found = []
    for cell in cells[1:]:
        low = cell.lower()
        what = next((name for name in WHAT if name in low), "")
        unit = _UNIT.search(low)
        scale = {**_TIMES, **_RATES}.get(unit[1] if unit else "", 0.0)
        group = re.sub(r"\(.*?\)", "", low.replace(what, "") if what else low).strip(" -,:")
        found.append((group, "time" if what == "latency" else what, scale))
    return found if any(what in ("algbw", "time") for _, what, _ in found) else None


def _size(cell: str) -> tuple[float, int, bool] | None:
    """A size's number, the power of its unit, and whether that is one of 1,024 beyond doubt."""
    found = _SIZE.match(cell)
    if found is None:
        return None
    power = _POWER[found[2].lower()] if found[2] else 0
    return float(found[1].replace(",", "")), power, bool(found[3]) or power == 0


def _values(cells: Sequence[str], columns: Sequence[tuple[str, str, float]]) -> dict[str, dict[str, float]]:
    """For each group of columns its numbers in seconds and GB/s."""
    found: dict[str, dict[str, float]] = {}
    for cell, (group, what, scale) in zip(cells, columns, strict=False):
        value = _VALUE.match(cell)
        if not what or value is None:
            continue
        unit = (value[2] or "").lower()
        units = _TIMES if what == "time" else _RATES
        factor = units.get(unit, scale or (1e-6 if what == "time" else 1.0))
        found.setdefault(group, {})[what] = float(value[1].replace(",", "")) * factor
    return found


def _add(run: Run, size: tuple[float, int, bool], values: dict[str, float]) -> None:
    number, power, sure = size
    nbytes = number * 1024**power
    algbw, busbw, seconds = values.get("algbw"), values.get("busbw"), values.get("time")
    if seconds is not None and algbw is not None and not sure:
        decimal = number * 1000**power
        if not agrees(Group(seconds, algbw, 0.0), nbytes, 1.0) and agrees(Group(seconds, algbw, 0.0), decimal, 1.0):
            nbytes, sure = decimal, True
    if not MESSAGE.holds(nbytes) or (seconds is None and not algbw):
        run.dropped.append(f"{number:g}: no size and time that can be read")
        return
    told = nbytes / (algbw or 1.0) / 1e9 if seconds is None else seconds
    if not 0 < told <= LONGEST_S:
        run.dropped.append(f"{nbytes:.0f} bytes: no time that can be")
        return
    group = Group(told, nbytes / told / 1e9 if algbw is None else algbw, busbw or 0.0)
    if not agrees(group, nbytes, 1.0):
        run.dropped.append(f"{nbytes:.0f} bytes: algbw x time is not the size, or busbw is more than twice algbw")
        return
    run.timed |= seconds is not None
    if not sure:
        run.said["sizes taken as powers of 1,024; the table does not say"] = None
    run.rows.append(Row(round(nbytes), 0, "float", "", (group,)))
