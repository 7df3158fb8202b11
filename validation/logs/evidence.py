"""Which operation a run is of, and on how many ranks: what its numbers say beside what its text says.

busbw over algbw is a known function of the ranks, so every row says how many they were, to its digits; all_gather,
reduce_scatter and alltoall say it by size over count as well. Where text and numbers differ the numbers are believed,
for the program computed them from what it ran on; both are told.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from thinwire.edge.limits import TOGETHER
from thinwire.edge.words import shown
from thinwire.reference.core.schedule import Op
from thinwire.validation.logs.rows import Row
from thinwire.validation.logs.runs import BUS_FACTOR, OP_NAMES, OPS, Run

DIGIT = 0.0051  # half of the last digit of a bandwidth, GB/s
TELLING = 0.05  # GB/s of algbw below which its digits say nothing
AGREEING = 0.9  # share of the rows that must allow a number of ranks: some are cut


class UnclearError(ValueError):
    """A run that cannot be used; the message is why."""


@dataclass(frozen=True, slots=True)
class Told:
    """A run's operation and ranks, and by what they are known."""

    op: Op
    ranks: int
    by: str
    said: tuple[str, ...] = ()


def tell(run: Run) -> Told:
    """UnclearError where an operation is not one of ours, cannot be told, or where one rank alone ran."""
    rows = run.rows
    telling = [group for row in rows for group in row.groups if group.algbw > 2 * TELLING]
    if telling and not any(group.busbw for group in telling):
        raise UnclearError("one rank ran: nothing went over a wire")
    op, said = _op(run)
    numbers = _by_bandwidth(rows, op)
    counted = _by_count(rows) if op != "all_reduce" else None
    written = max(run.rank_lines) + 1 if run.rank_lines else None
    complete = written is not None and written == len(run.rank_lines)
    lines = f"{written} rank lines" if complete else f"the highest rank line, {(written or 1) - 1}"
    if counted is not None:
        ranks, by = counted, "size over count"
    elif numbers is not None:
        ranks, by = numbers.nearest(written), "busbw over algbw"
    elif written is not None:
        ranks, by = written, lines
    elif run.per_process:
        ranks, by = run.per_process, "nThread x nGpus, of one process"
    else:
        raise UnclearError("nothing says how many ranks ran: no rank lines, and too few digits of busbw and algbw")
    if written == ranks and by != lines:
        by = f"{lines}, and {by}"
    elif written is not None and written != ranks:
        said.append(f"{lines} would be {written} ranks, {by} say {ranks}: the numbers are believed")
    if ranks == 1:
        raise UnclearError("one rank ran: nothing went over a wire")
    if not TOGETHER.holds(ranks):
        raise UnclearError(f"{ranks} ranks ran, at most {TOGETHER.most} are simulated")
    return Told(op, ranks, by, tuple(said))


# --- the operation ---


def _op(run: Run) -> tuple[Op, list[str]]:
    if not run.rows:
        first = f": {run.dropped[0]}" if run.dropped else ""
        raise UnclearError(f"no row of it can be read{first}")
    name = run.named
    if name and name not in OPS:
        raise UnclearError(f"{name} is none of {OP_NAMES}")
    counted, found = _by_rows(run)
    if not name and not found:
        name = _of_file(run.file)
    if not name and not found:
        raise UnclearError(
            f"its rows could be of {' or '.join(counted) or 'any operation'}: name the file after it, as in "
            f"{counted[0] if counted else 'all_reduce'}.log"
        )
    if name and (not counted or OPS[name] in counted):
        return OPS[name], []
    if not found:
        raise UnclearError(f"the text says {name}, its rows say {' or '.join(counted)}")
    said = [f"the text says {name}, the rows say {found}: the rows are believed"] if name else []
    return found, said


def _by_rows(run: Run) -> tuple[list[Op], Op | None]:
    """The operations that the rows allow, and the one where they leave no other."""
    row = max(run.rows, key=lambda row: (row.groups[0].algbw, row.nbytes))
    parts, group = row.parts, row.groups[0]
    reduces = row.redop not in ("", "none")
    factor = group.busbw / group.algbw if group.algbw >= TELLING else None
    if row.share < 1:
        found: list[Op] = ["reduce_scatter"] if reduces else ["all_gather"]
    elif parts is not None and parts >= 2:
        found = ["reduce_scatter"] if reduces else ["all_gather", "all_to_all"]
    elif parts == 1:
        if row.redop == "none" or (factor is not None and abs(factor - 1) < 0.01 and not reduces and run.rank_lines
                                   and len(run.rank_lines) != 2):  # fmt: skip
            raise UnclearError(f"its rows are of broadcast, reduce or sendrecv, none of {OP_NAMES}")
        found = ["all_reduce"]
    elif factor is not None and factor > 1.0 + 2 * DIGIT / group.algbw:
        found = ["all_reduce"]
    elif factor is not None and factor < 1.0 - 2 * DIGIT / group.algbw:
        found = ["all_gather", "reduce_scatter", "all_to_all"]
    else:
        found = []
    return found, found[0] if len(found) == 1 else None


def _of_file(file: str) -> str:
    text = re.sub(r"[^a-z0-9]+", "_", file.lower())
    named = [name for name in OPS if re.search(rf"(?:^|_){name}(?:_|$)", text)]
    return named[0] if named else ""


# --- the ranks ---


@dataclass(frozen=True, slots=True)
class _Range:
    least: int
    most: int

    def nearest(self, wanted: int | None) -> int:
        """What the text says, if it is allowed, else a number of whole machines, else the middle."""
        if wanted is not None and self.least <= wanted <= self.most:
            return wanted
        for whole in (8, 4, 2):
            first = -(-self.least // whole) * whole
            if first <= self.most:
                return first
        return (self.least + self.most) // 2


def _by_bandwidth(rows: Sequence[Row], op: Op) -> _Range | None:
    """The numbers of ranks that busbw over algbw allows, in nearly all rows."""
    ranges = []
    for row in rows:
        for group in row.groups:
            if group.algbw < TELLING or (row.share < 1):
                continue
            factor = BUS_FACTOR[op]
            least, most = ((group.busbw + sign * DIGIT) / (group.algbw - sign * DIGIT) / factor for sign in (-1, 1))
            low = 1 if least <= 0 else 1 / (1 - least) if least < 1 else float("inf")
            high = 1 / (1 - most) if most < 1 else float("inf")
            if low < 2 * TOGETHER.most:
                ranges.append((low, high))
    if not ranges:
        return None
    ends = sorted({low for low, _ in ranges}, reverse=True)
    for low in ends:  # the tightest range that nearly all rows allow
        inside = [high for least, high in ranges if least <= low <= high]
        if len(inside) < AGREEING * len(ranges):
            continue
        first, last = max(1, int(-(-(low - 1e-9) // 1))), min(inside)
        if first <= last:
            return _Range(first, int(min(last, 2 * TOGETHER.most)))
    raise UnclearError("busbw over algbw is that of no number of ranks: rows of several runs, or of another operation")


def _by_count(rows: Sequence[Row]) -> int | None:
    parts = [row.parts for row in rows if row.parts is not None]
    whole = [int(part) for part in parts if part >= 1 and part == int(part)]
    if not whole:
        return None
    most = max(set(whole), key=whole.count)
    if whole.count(most) < AGREEING * len(parts):
        raise UnclearError(f"size over count differs from row to row: {shown(sorted(set(whole))[:4])}")
    return most
