"""A row of nccl-tests' table, told from others by its arithmetic: algorithm bandwidth times time is the size.

The columns that versions print differ (`redop`, `root`, `error` or `#wrong`, one group or two), so no column is taken
at its word: of the ways to read a row the first is taken in which its numbers agree.
"""

import re
from dataclasses import dataclass

from thinwire.edge.limits import MESSAGE

WORD_BYTES = {
    "int8": 1, "char": 1, "uint8": 1, "fp8_e4m3": 1, "fp8_e5m2": 1, "f8e4m3": 1, "f8e5m2": 1, "half": 2, "bfloat16": 2,
    "float16": 2, "int32": 4, "int": 4, "uint32": 4, "float": 4, "float32": 4, "int64": 8, "uint64": 8, "double": 8,
}  # fmt: skip
REDUCTIONS = ("sum", "prod", "max", "min", "avg", "mulsum", "none", "all")
LONGEST_S = 3600.0  # of one collective
HEAD = re.compile(r"(?<![\w.+-])(\d{1,15})[ \t]+(\d{1,15})[ \t]+(" + "|".join(WORD_BYTES) + r")(?![\w./])")
_TAG = re.compile(r"\[\d+(?:,\d+)?\](?:<std\w+>:?)?")  # mpirun's, in the middle of a line where a row was broken
_NUMBER = re.compile(r"[+-]?(?:\d{1,15}(?:\.\d{0,15})?|\.\d{1,15})(?:[eE][+-]?\d{1,3})?$|N/A$|[+-]?(?:nan|inf)$", re.I)
ROUNDING, CLOSE = 0.0055, 0.004  # GB/s are printed to two decimals, times to four digits


@dataclass(frozen=True, slots=True)
class Group:
    """One group of columns: time, bandwidths in GB/s as printed, and what stood under `error` or `#wrong`."""

    seconds: float
    algbw: float
    busbw: float
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A row whose numbers agree. share: of the size that its algorithm bandwidth counts, 1 in all but old versions."""

    nbytes: int
    count: int
    dtype: str
    redop: str  # "" where there is none
    groups: tuple[Group, ...]
    share: float = 1.0

    @property
    def parts(self) -> float | None:
        """The size over count x word: the ranks, in all_gather, reduce_scatter and alltoall; 1 in all_reduce."""
        word = WORD_BYTES.get(self.dtype)
        return None if word is None or not self.count else self.nbytes / (self.count * word)

    @property
    def wrong(self) -> bool:
        """Whether a check of the result failed: `#wrong` counts values; an old version's `error` is a deviation."""
        return any(group.wrong.isdecimal() and int(group.wrong) > 0 for group in self.groups)


@dataclass(slots=True)
class Broken:
    """The head of a row, and what has been seen of its columns: NCCL prints in the middle of lines."""

    nbytes: int
    count: int
    dtype: str
    tokens: list[str]


def head_of(line: str) -> tuple[Broken, bool] | None:
    """The row that begins in a line, and whether the line's end cut it short; None where none does."""
    found = HEAD.search(line)
    if found is None:
        return None
    tokens, whole = numbers(line[found.end() :], first=True)
    return Broken(int(found[1]), int(found[2]), found[3], tokens), whole


def numbers(text: str, first: bool = False) -> tuple[list[str], bool]:
    """The columns at the beginning of a text, and whether it holds nothing else. first: a reduction may be the
    first.
    """
    tokens: list[str] = []
    words = _TAG.sub(" ", text).split()[:24]
    for word in words:
        if not (_NUMBER.match(word) or (first and not tokens and word.lower() in REDUCTIONS)):
            return tokens, False
        tokens.append(word)
    return tokens, True


def row_of(head: Broken) -> Row | str:
    """The row, or why it is none: what its columns say against its size."""
    redop, tokens = "", head.tokens
    if tokens and tokens[0].lower() in REDUCTIONS:
        redop, tokens = tokens[0].lower(), tokens[1:]
    if not MESSAGE.holds(head.nbytes):
        return f"a size of {head.nbytes} bytes" if head.nbytes else "a size of no bytes"
    if len(tokens) < 3:
        return f"{head.nbytes} bytes: the row is cut"
    word = WORD_BYTES[head.dtype]
    shares = [1.0]
    if head.count and (parts := head.nbytes / (head.count * word)) >= 2 and parts == int(parts):
        shares.append((parts - 1) / parts)  # versions before 2.1 counted what crosses the wire
    for share in shares:
        for at in (1, 0) if _is_root(tokens[0]) else (0,):
            groups = _groups(tokens[at:], head.nbytes, share)
            if groups and at and int(tokens[0]) >= 0:
                return f"{head.nbytes} bytes: a root of {int(tokens[0])}, so it is a reduce or a broadcast"
            if groups:
                return Row(head.nbytes, head.count, head.dtype, redop, groups, share)
    return _complaint(tokens, head.nbytes)


def _is_root(token: str) -> bool:
    return bool(re.match(r"(-1|\d{1,5})$", token))


def _complaint(tokens: list[str], nbytes: int) -> str:
    at = 1 if _is_root(tokens[0]) and len(tokens) > 3 else 0
    group = _group(tokens[at : at + 3])
    if group is None:
        return f"{nbytes} bytes: its columns are no time and bandwidths"
    told = group.algbw * group.seconds * 1e9
    return f"{nbytes} bytes: algbw x time is {told:,.0f} bytes, so the row is cut or shifted"


def _groups(tokens: list[str], nbytes: int, share: float) -> tuple[Group, ...]:
    """Out-of-place, and in-place where there are two groups; none where the first does not agree with the size."""
    first = _group(tokens[:3])
    if first is None or not agrees(first, nbytes, share):
        return ()
    for columns in (4, 3):
        second = _group(tokens[columns : columns + 3])
        if second is not None and agrees(second, nbytes, share):
            wrong = tokens[3] if columns == 4 else ""
            last = tokens[7] if columns == 4 and len(tokens) > 7 else ""
            return (_with(first, wrong), _with(second, last))
    return (_with(first, tokens[3] if len(tokens) > 3 else ""),)


def _with(group: Group, wrong: str) -> Group:
    return Group(group.seconds, group.algbw, group.busbw, wrong)


def _group(tokens: list[str]) -> Group | None:
    try:
        time_us, algbw, busbw = (float(token) for token in tokens)
    except ValueError:
        return None
    if not (0 < time_us <= LONGEST_S * 1e6 and 0 <= algbw <= 1e6 and 0 <= busbw <= 1e6):
        return None
    return Group(time_us * 1e-6, algbw, busbw)


def agrees(group: Group, nbytes: float, share: float) -> bool:
    """Whether algorithm bandwidth times time is the size, to the digits printed; busbw no more than twice algbw."""
    told = share * nbytes / group.seconds / 1e9
    near = abs(group.algbw - told) <= ROUNDING + CLOSE * told
    return near and group.busbw <= 2 * group.algbw + 4 * ROUNDING
