"""`rocm-smi --showtopo` and `amd-smi topology`: weights, hops and link types between AMD GPUs, and NUMA nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from thinwire.edge.limits import DUMP_DEVICES
from thinwire.edge.reading import UnreadableError
from thinwire.topologies.dumps.plain import WHAT, readable
from thinwire.topologies.dumps.seen import Pair, Seen, SeenGpu, pair

_TITLES = (
    ("weight", re.compile(r"Weight between two GPUs|^\s{0,8}WEIGHT TABLE:", re.IGNORECASE | re.MULTILINE)),
    ("hops", re.compile(r"Hops between two GPUs|^\s{0,8}HOPS TABLE:", re.IGNORECASE | re.MULTILINE)),
    ("type", re.compile(r"Link Type between two GPUs|^\s{0,8}LINK TYPE TABLE:", re.IGNORECASE | re.MULTILINE)),
    ("access", re.compile(r"Link accessibility between two GPUs|^\s{0,8}ACCESS TABLE:", re.IGNORECASE | re.MULTILINE)),
)
_OTHER = re.compile(r"^\s{0,8}={8,}|^\s{0,8}[A-Z][A-Za-z /-]{2,40}(?:TABLE)?:\s*$")
_LABEL = re.compile(r"GPU\d{1,4}|[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]")
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
    at: dict[str, int] = {}
    now = ""
    for _, line in readable(text):
        title = next((name for name, pattern in _TITLES if pattern.search(line)), "")
        if title or _OTHER.match(line):
            now = title
        elif now:
            _row(now, line, at, tables, columns)
    kinds = tables.get("type", {})
    if not kinds:
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
            peers[pair(a, b)] = peers.get(pair(a, b), True) and word.lower() in ("true", "enabled")
    if not numas:
        notes.append("no NUMA nodes are printed: GPUs of two hops or less are taken to share a socket")
    return Seen(
        "rocm", path, gpus, bonds=bonds, wire="xgmi", loose=loose, peers=peers, notes=tuple(notes), complete=True
    )


def _row(
    now: str,
    line: str,
    at: dict[str, int],
    tables: dict[str, dict[tuple[int, int], str]],
    columns: dict[str, list[int]],
) -> None:
    """A header or a row. at: GPUs by their labels, which are numbers, or bus ids in the order of the first header."""
    words = line.split()
    begin = next((i for i, word in enumerate(words) if _LABEL.fullmatch(word)), None)
    if begin is None:
        return
    labels = words[begin:]
    if all(map(_LABEL.fullmatch, labels)):
        columns[now] = [_number(label, at) for label in labels]
        return
    row = _number(labels[0], at)
    for column, cell in zip(columns.get(now, range(len(labels) - 1)), labels[1:], strict=False):
        if cell == "...":
            break
        tables.setdefault(now, {})[row, column] = cell


def _number(label: str, at: dict[str, int]) -> int:
    return int(label[3:]) if label.startswith("GPU") else at.setdefault(label, len(at))


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
