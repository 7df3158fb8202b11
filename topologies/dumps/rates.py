"""Matrices of measured rates: NVIDIA's nvbandwidth, and p2pBandwidthLatencyTest of the CUDA samples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from thinwire.edge.limits import BANDWIDTH, DUMP_DEVICES, DUMP_MATRICES
from thinwire.topologies.dumps.plain import readable
from thinwire.topologies.dumps.seen import Pair, Rates, Seen, SeenGpu, pair

_SAMPLE = re.compile(r"(Uni|Bi)directional P2P=(Disabled|Enabled) Bandwidth(?: \(P2P (Writes|Reads)\))? Matrix")
_CONNECTED = re.compile(r"P2P Connectivity Matrix")
_ACCESS = re.compile(r"Device=(\d{1,4}) (CAN|CANNOT) Access Peer Device=(\d{1,4})")
_RUNNING = re.compile(r"Running (\w{1,60})\.")
_UNIT = re.compile(
    r"memcpy (?:CE|SM) (CPU|GPU)\(row\)\s*(->|<-|<->)\s*(CPU|GPU)\(column\)(?: (Read\d|Write\d|Total))? bandwidth"
)
_LATENCY = re.compile(r"Latency.{0,30}Matrix \(us\)")
_CELL = re.compile(r"\d{1,9}(?:\.\d{1,6})?|N/A")


@dataclass(slots=True)
class _Table:
    """Rows under a title."""

    title: str
    what: Literal["one way", "both ways", "to host", "connected", "skip"]
    peer: bool | None = None
    twice: bool = False  # one direction of two that ran at once was printed
    columns: list[int] = field(default_factory=list)
    cells: dict[tuple[int, int], float] = field(default_factory=dict)


def rates(text: str, path: str) -> Seen | None:
    """What a text measures: rates, and where peer-to-peer works. None where it measures nothing."""
    tables, access = list(_tables(text)), dict[Pair, bool]()
    DUMP_MATRICES.check("matrices", len(tables))
    for a, can, b in _ACCESS.findall(text):
        if a != b:
            two = pair(int(a), int(b))
            access[two] = access.get(two, True) and can == "CAN"
    for table in tables:
        if table.what == "connected":
            for (a, b), value in table.cells.items():
                if a != b:
                    access[pair(a, b)] = access.get(pair(a, b), True) and value == 1
    found = tuple(_rates(table) for table in tables if table.what not in ("connected", "skip") and table.cells)
    if not found and not access:
        return None
    most = max([max(two) for each in found for two in each.values] + [max(two) for two in access], default=0)
    DUMP_DEVICES.check("GPUs", most + 1)
    gpus = tuple(SeenGpu(f"GPU{i}") for i in range(most + 1))
    return Seen("rates", path, gpus, peers=access, rates=found)


def _tables(text: str) -> Iterator[_Table]:
    table: _Table | None = None
    running = ""
    for _, line in readable(text):
        begun = None
        if match := _SAMPLE.search(line):
            what: Literal["one way", "both ways"] = "one way" if match[1] == "Uni" else "both ways"
            begun = _Table(f"p2pBandwidthLatencyTest, {match[0]}", what, match[2] == "Enabled")
        elif _CONNECTED.search(line):
            begun = _Table("P2P Connectivity Matrix", "connected")
        elif _LATENCY.search(line):
            begun = _Table("latency", "skip")
        elif match := _RUNNING.search(line):
            running, begun = match[1], _Table(match[1], "skip")
        elif match := _UNIT.search(line):
            begun = _nvbandwidth(running, match)
        if begun is not None:
            if table is not None:
                yield table
            table = begun
        elif table is not None:
            _row(table, line)
    if table is not None:
        yield table


def _nvbandwidth(running: str, match: re.Match[str]) -> _Table:
    title = f"nvbandwidth {running}".strip()
    if match[1] == match[3] == "GPU":
        if "latency" in running or "all_to" in running or "local" in running:
            return _Table(title, "skip")
        if match[2] == "<->" or "bidirectional" in running:
            if match[4] and match[4] != "Total":
                return _Table(title, "skip")
            return _Table(title, "both ways", True, twice=match[4] is None)
        return _Table(title, "one way", True)
    simple = running in ("host_to_device_memcpy_ce", "device_to_host_memcpy_ce", "")
    return _Table(title, "to host" if simple else "skip")


def _row(table: _Table, line: str) -> None:
    words = line.replace("|", " ").replace("D\\D", " ").split()
    if not words or len(words) > DUMP_DEVICES.most + 2:
        return
    whole = [int(word) if re.fullmatch(r"\d{1,4}", word) else None for word in words]
    if not table.columns:  # the first line of numbers counts the columns
        if all(number is not None for number in whole):
            table.columns = [number for number in whole if number is not None]
        return
    row, cells = whole[0], words[1:]
    if row is None or not cells or not all(map(_CELL.fullmatch, cells)):
        return
    for column, cell in zip(table.columns, cells, strict=False):
        if cell != "N/A":
            table.cells.setdefault((row, column), float(cell))


def _rates(table: _Table) -> Rates:
    scale = 1e9 * (2 if table.twice else 1)
    both = table.what == "to host"
    values = {
        (a, b): value * scale
        for (a, b), value in table.cells.items()
        if (both or a != b) and BANDWIDTH.holds(value * scale) and value * scale < BANDWIDTH.most / 1e3
    }
    assert table.what in ("one way", "both ways", "to host")
    return Rates(table.what, table.peer, values, table.title)


def typical(values: list[float]) -> float:
    """The median, to four digits as files have it."""
    return float(f"{median(values):.4g}")
