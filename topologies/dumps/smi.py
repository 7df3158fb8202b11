"""`nvidia-smi topo -m` and `-p2p r|w|n|a|p`: matrices of words, as terminals, mails and issues show them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from thinwire.edge.limits import DUMP_DEVICES, DUMP_MATRICES
from thinwire.edge.reading import UnreadableError
from thinwire.edge.words import cut
from thinwire.topologies.dumps.groups import FAR, LEVELS, PHB, PXB, SYS, WORDS, filled, ways
from thinwire.topologies.dumps.plain import WHAT, readable
from thinwire.topologies.dumps.seen import Pair, Seen, SeenGpu, SeenNic, pair

_GPU = re.compile(r"GPU\d{1,4}")
_LABEL = re.compile(r"[A-Za-z][\w.-]{0,39}\d\w{0,39}")
_WORD = re.compile(r"X|SYS|SOC|NODE|PHB|PXB|PIX|NV\d{1,3}|OK|NS|CNS|GNS|TNS|NA|U|DR")
_P2P_WORDS = frozenset({"OK", "NS", "CNS", "GNS", "TNS", "NA", "U", "DR"})
_ASKED = re.compile(r"topo\s+(?:-p2p|--p2p_capability)[\s=]+([rwnap]+)\b")
_LEGEND = re.compile(r"^\s*(NIC\d{1,4})\s*:\s*(\S{1,60})\s*$")
_NUMA = re.compile(r"\d{1,4}(?:[-,]\d{1,4})*")


@dataclass(slots=True)
class _Matrix:
    """Rows of words as printed. columns: () where no header stood above."""

    line: int
    columns: tuple[str, ...]
    asked: str = ""
    rows: dict[str, list[str]] = field(default_factory=dict)
    rests: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_p2p(self) -> bool:
        return any(word in _P2P_WORDS for row in self.rows.values() for word in row)


def smi(text: str, path: str) -> tuple[Seen, ...]:
    """What the matrices of a text say: one value for `topo -m`, one for all of `-p2p`; () where there is none.

    UnreadableError for matrices that contradict each other or are too incomplete to place a GPU.
    """
    matrices = [each for each in _matrices(text) if any(map(_GPU.fullmatch, (*each.rows, *each.columns)))]
    placing = [each for each in matrices if not each.is_p2p]
    asked = [each for each in matrices if each.is_p2p and (not each.asked or set(each.asked) & set("rwp"))]
    found = []
    if placing:
        first = placing[0]
        for other in placing[1:]:
            if other.rows != first.rows:
                raise UnreadableError(
                    path,
                    WHAT,
                    f"another machine's matrix begins here, after that of line {first.line}: give one",
                    other.line,
                )
        legend = {match[1]: match[2] for _, line in readable(text) if (match := _LEGEND.match(line))}
        found.append(_placed(first, legend, path))
    if asked or len(placing) < len(matrices):  # of NVLink or atomics alone nothing follows for copies over PCIe
        found.append(_peers(asked, path))
    return tuple(found)


def _matrices(text: str) -> list[_Matrix]:
    found: list[_Matrix] = []
    asked = ""
    for number, line in readable(text):
        if "topo" in line:
            match = _ASKED.search(line)
            asked = match[1] if match else ""
        words = line.replace("|", " ").split()
        DUMP_MATRICES.check("matrices", len(found))
        if columns := _header(words):
            found.append(_Matrix(number, columns, asked))
            continue
        at = next(
            (i for i in range(len(words) - 1) if _LABEL.fullmatch(words[i]) and _WORD.fullmatch(words[i + 1])), None
        )
        if at is None:
            continue
        label, cells = words[at], list[str]()
        most = len(found[-1].columns) if found and found[-1].columns else DUMP_DEVICES.most
        for word in words[at + 1 :]:
            if not _WORD.fullmatch(word) or len(cells) == most:
                break
            cells.append(word)
        if not found or label in found[-1].rows:
            found.append(_Matrix(number, (), asked))
        found[-1].rows[label] = cells
        found[-1].rests[label] = words[at + 1 + len(cells) :]
        DUMP_DEVICES.check("rows of a matrix", len(found[-1].rows))
    return [each for each in found if each.rows]


def _header(words: list[str]) -> tuple[str, ...]:
    """The labels of a header line, () for any other, and for one that was cut: then the rows' diagonal counts."""
    labels = []
    for word in words:
        if word == "...":
            return ()
        if word in ("CPU", "NUMA"):
            break
        if not _LABEL.fullmatch(word):
            return ()
        labels.append(word)
    if not any(map(_GPU.fullmatch, labels)) or len(set(labels)) != len(labels):
        return ()
    return tuple(labels)


def _columns(matrix: _Matrix, path: str) -> tuple[str, ...]:
    """What each column is about: the header says, or else each row's X on the diagonal."""
    if matrix.columns:
        return matrix.columns
    by_place = {row.index("X"): label for label, row in matrix.rows.items() if "X" in row}
    width = max(map(len, matrix.rows.values()))
    if len(by_place) != sum("X" in row for row in matrix.rows.values()) or not by_place:
        raise UnreadableError(
            path, WHAT, "a matrix without a header, whose rows do not tell its columns: give all of it", matrix.line
        )
    return tuple(by_place.get(i, f"column{i}") for i in range(width))


def _entries(matrix: _Matrix, path: str) -> tuple[tuple[str, ...], dict[tuple[str, str], str]]:
    """Labels, GPUs first, and the words of pairs in both orders as far as they are printed."""
    columns = _columns(matrix, path)
    labels = tuple(dict.fromkeys((*columns, *matrix.rows)))
    gpus = sorted((each for each in labels if _GPU.fullmatch(each)), key=lambda each: int(each[3:]))
    others = [each for each in labels if not _GPU.fullmatch(each) and not each.startswith("column")]
    words = {
        (row, column): word
        for row, cells in matrix.rows.items()
        for column, word in zip(columns, cells, strict=False)
    }  # fmt: skip
    return (*gpus, *others), words


def _placed(matrix: _Matrix, legend: Mapping[str, str], path: str) -> Seen:
    labels, words = _entries(matrix, path)
    gpus = [each for each in labels if _GPU.fullmatch(each)]
    if not any(each in matrix.rows for each in gpus):
        raise UnreadableError(path, WHAT, "the matrix is cut: it has no row of a GPU; give all of it", matrix.line)
    at = {label: i for i, label in enumerate(labels)}
    notes: list[str] = []
    known: dict[Pair, int] = {}
    bonds: dict[Pair, int] = {}
    for (row, column), word in words.items():
        if row == column or column not in at or word == "X":
            continue
        two = pair(at[row], at[column])
        if word.startswith("NV"):
            count = int(word[2:])
            if two in bonds and bonds[two] != count:
                notes.append(
                    f"{row} and {column} are NV{bonds[two]} one way and {word} the other: the smaller is taken"
                )
            if count:
                bonds[two] = min(count, bonds.get(two, count))
        elif word in LEVELS:
            level = LEVELS[word]
            if two in known and known[two] != level:
                notes.append(
                    f"{row} and {column} are {WORDS[known[two]]} one way and {word} the other: the farther is taken"
                )
            known[two] = max(level, known.get(two, level))
    missing = [each for each in gpus if each not in matrix.rows]
    notes += _cut(missing, gpus, bonds)
    numa = {each: _numa(matrix, each) for each in labels}
    for i, a in enumerate(labels):  # a bond hides where its ends lie; the NUMA column tells part of it
        for j in range(i + 1, len(labels)):
            if (
                (i, j) not in known
                and numa[a] is not None
                and numa[labels[j]] is not None
                and numa[a] != numa[labels[j]]
            ):
                known[i, j] = SYS
    distances, loose, against = filled(len(labels), known)
    if against:
        i, j = against[0]
        notes.append(
            f"the matrix contradicts itself: {labels[i]} and {labels[j]} are {WORDS[known[i, j]]}, yet a way over "
            "others is nearer"
        )
    doubtful = {(i, j) for i, j in loose if j < len(gpus) and (i, j) not in bonds}
    if doubtful:
        i, j = min(doubtful)
        raise UnreadableError(
            path,
            WHAT,
            f"the matrix is cut, and no line tells how {gpus[i]} and {gpus[j]} are linked: give all of it",
            matrix.line,
        )
    for i, j in sorted(loose):  # bonded pairs, and NICs: near where nothing speaks against it, but below no switch
        same = None in (numa[labels[i]], numa[labels[j]]) or numa[labels[i]] == numa[labels[j]]
        known[i, j] = PHB if same and _fits(i, j, known, len(labels)) else SYS
    distances, _, _ = filled(len(labels), known)
    domains, found = ways(len(labels), distances)
    # A domain is called as the NUMA column calls it; one that it does not know, by a number that cannot be mistaken.
    called = {domains[i]: name for i, each in reversed(list(enumerate(gpus))) if (name := numa[each]) is not None}
    domains = [called.get(name, f"#{name}" if called else name) for name in domains]
    seen = tuple(SeenGpu(each, way=found[i], domain=domains[i]) for i, each in enumerate(gpus))
    loose_gpus = frozenset(two for two in loose if two[1] < len(gpus))
    return Seen(
        "smi", path, seen, _nics(labels[len(gpus) :], at, gpus, known, found, domains, legend), bonds=bonds,
        loose=loose_gpus, notes=tuple(dict.fromkeys(notes)), complete=True,
    )  # fmt: skip


def _cut(missing: list[str], gpus: list[str], bonds: dict[Pair, int]) -> list[str]:
    """Rows that were cut off: bonds that all the others have are taken for them, too."""
    if not missing:
        return []
    at = {each: i for i, each in enumerate(gpus)}
    lost = {pair(at[a], at[b]) for a in missing for b in missing if a != b}
    counts = {bonds.get((i, j), 0) for i in range(len(gpus)) for j in range(i + 1, len(gpus)) if (i, j) not in lost}
    note = f"the rows of {missing[0]} to {missing[-1]} are cut off: the others' are mirrored"
    if len(counts) == 1 and (count := counts.pop()) and lost:
        bonds.update(dict.fromkeys(lost, count))
        note += f", and what is left is taken as NV{count} like all the rest"
    return [note]


def _fits(i: int, j: int, known: Mapping[Pair, int], count: int) -> bool:
    """Whether two may share a host bridge: every third is equally far from both, or as far as that from the nearer."""
    for k in range(count):
        if k not in (i, j):
            a, b = known.get(pair(i, k)), known.get(pair(j, k))
            if a is not None and b is not None and a != b and max(a, b) != PHB:
                return False
    return True


def _numa(matrix: _Matrix, label: str) -> str | None:
    """The NUMA column of a row, the second word behind the matrix; old drivers print CPUs alone. None: neither."""
    rest = [word for word in matrix.rests.get(label, []) if _NUMA.fullmatch(word)]
    return rest[1] if len(rest) > 1 else f"cpus {rest[0]}" if rest else None


def _nics(
    labels: tuple[str, ...],
    at: Mapping[str, int],
    gpus: list[str],
    known: Mapping[Pair, int],
    found: list[tuple[str, ...]],
    domains: list[str],
    legend: Mapping[str, str],
) -> tuple[SeenNic, ...]:
    nics = []
    for each in labels:
        levels = {i: known[pair(i, at[each])] for i in range(len(gpus)) if pair(i, at[each]) in known}
        best = min(levels.values(), default=FAR)
        near = tuple(i for i, level in levels.items() if level == best) if best <= PXB else ()
        nics.append(SeenNic(cut(legend.get(each, each), 40), None, found[at[each]], domains[at[each]], near))
    return tuple(nics)


def _peers(matrices: list[_Matrix], path: str) -> Seen:
    """Peer-to-peer works between two where every matrix that speaks of them says OK, one way at least."""
    said: dict[Pair, set[str]] = {}
    gpus: list[str] = []
    for matrix in matrices:
        labels, words = _entries(matrix, path)
        names = [each for each in labels if _GPU.fullmatch(each)]
        gpus = names if len(names) > len(gpus) else gpus
    at = {each: i for i, each in enumerate(gpus)}
    for matrix in matrices:
        _, words = _entries(matrix, path)
        for (row, column), word in words.items():
            if row != column and row in at and column in at and word in _P2P_WORDS - {"U"}:
                said.setdefault(pair(at[row], at[column]), set()).add(word)
    peers = {two: found == {"OK"} for two, found in said.items()}
    return Seen("smi", path, tuple(SeenGpu(each) for each in gpus), peers=peers)
