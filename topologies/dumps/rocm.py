"""`rocm-smi --showtopo`: matrices of weights, hops and link types between AMD GPUs, and their NUMA nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from thinwire.edge.limits import DUMP_DEVICES
from thinwire.edge.reading import UnreadableError
from thinwire.topologies.dumps.plain import WHAT, readable
from thinwire.topologies.dumps.seen import Pair, Seen, SeenGpu, pair

_TITLES = (
    ("weight", re.compile(r"Weight between two GPUs", re.IGNORECASE)),
    ("hops", re.compile(r"Hops between two GPUs", re.IGNORECASE)),
    ("type", re.compile(r"Link Type between two GPUs", re.IGNORECASE)),
    ("access", re.compile(r"Link accessibility between two GPUs", re.IGNORECASE)),
)
_OTHER = re.compile(r"^[=\s]{8,}")
_ROW = re.compile(r"(?:^|\s)GPU(\d{1,4})\s+(\S.*)$")
_NUMA = re.compile(r"GPU\[(\d{1,4})\]\s*:\s*\(Topology\) Numa Node\s*:\s*(-?\d{1,4})")
_GFX = re.compile(r"GPU\[(\d{1,4})\]\s*:\s*GFX Version\s*:\s*(gfx[0-9a-f]{3,5})", re.IGNORECASE)
DIRECT = 15  # weight of a link that leads from one GPU straight to the other (rocm-smi: 15 a hop of xGMI)


def is_rocm(text: str) -> bool:
    """Whether a text has a matrix of rocm-smi's."""
    return any(title.search(text) for _, title in _TITLES)


def rocm(text: str, path: str) -> Seen:
    """What a text says. UnreadableError where no matrix of link types or weights is whole enough."""
    tables: dict[str, dict[tuple[int, int], str]] = {}
    columns: dict[str, list[int]] = {}
    now = ""
    for _, line in readable(text):
        title = next((name for name, pattern in _TITLES if pattern.search(line)), "")
        if title or (_OTHER.match(line) and "=" in line):
            now = title
        elif now:
            _row(now, line, tables, columns)
    kinds = tables.get("type", {})
    if not kinds and "hops" not in tables and "weight" not in tables:
        raise UnreadableError(
            path, WHAT, "rocm-smi's titles without a matrix: give all that `rocm-smi --showtopo` prints"
        )
    count = 1 + max(max(a, b) for table in tables.values() for a, b in table)
    DUMP_DEVICES.check("GPUs", count)
    numas = {int(a): b for a, b in _NUMA.findall(text)}
    archs = {int(a): b.lower() for a, b in _GFX.findall(text)}
    notes: list[str] = []
    bonds, loose = _bonds(count, tables, notes, path)
    gpus = tuple(
        SeenGpu(f"GPU{i}", arch=archs.get(i), domain=_domain(i, numas, tables.get("hops", {}), count))
        for i in range(count)
    )
    peers: dict[Pair, bool] = {}
    for (a, b), word in tables.get("access", {}).items():
        if a != b:
            peers[pair(a, b)] = peers.get(pair(a, b), True) and word.lower() == "true"
    if not numas:
        notes.append("no NUMA nodes are printed: GPUs of two hops or less are taken to share a socket")
    return Seen(
        "rocm", path, gpus, bonds=bonds, wire="xgmi", loose=loose, peers=peers, notes=tuple(notes), complete=True
    )


def _row(now: str, line: str, tables: dict[str, dict[tuple[int, int], str]], columns: dict[str, list[int]]) -> None:
    words = line.split()
    heads = [re.fullmatch(r"GPU(\d{1,4})", word) for word in words]
    if words and all(heads):
        columns[now] = [int(head[1]) for head in heads if head]
    elif match := _ROW.search(line):
        cells = match[2].split()
        for column, cell in zip(columns.get(now, range(len(cells))), cells, strict=False):
            if cell == "...":
                break
            tables.setdefault(now, {})[int(match[1]), column] = cell


def _bonds(
    count: int, tables: Mapping[str, Mapping[tuple[int, int], str]], notes: list[str], path: str
) -> tuple[dict[Pair, int], frozenset[Pair]]:
    """Pairs with an xGMI wire of their own; what a matrix cut off is mirrored."""
    kinds, weights = tables.get("type", {}), tables.get("weight", {})
    bonds: dict[Pair, int] = {}
    loose, detours = set(), 0
    for a in range(count):
        for b in range(a + 1, count):
            kind = kinds.get((a, b), kinds.get((b, a)))
            if kind is None:
                raise UnreadableError(path, WHAT, f"the link type of GPU{a} and GPU{b} is cut off: give all of it")
            if kind.upper() != "XGMI":
                continue
            weight = weights.get((a, b), weights.get((b, a), ""))
            if weight.isdecimal() and int(weight) > DIRECT:
                detours += 1
            else:
                bonds[a, b] = 1
            loose.add((a, b))
    if bonds:
        notes.append("rocm-smi counts no wires: one xGMI link is taken between two GPUs")
    if detours:
        notes.append(
            f"{detours} pairs reach each other over other GPUs' xGMI (weight above {DIRECT}): taken to go over PCIe"
        )
    return bonds, frozenset(loose)


def _domain(i: int, numas: Mapping[int, str], hops: Mapping[tuple[int, int], str], count: int) -> str:
    if i in numas:
        return numas[i]
    near = [j for j in range(count) if j == i or hops.get((i, j), hops.get((j, i))) in ("1", "2")]
    return str(min(near))
