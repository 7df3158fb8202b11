"""Reads what nccl-tests and rccl-tests print, with all that stands between and before their rows.

A row is found by its size, count and type wherever it stands in a line, so tags, time stamps and host names before it
need no list. Where something printed into the middle of a row, its columns are gathered from the lines that follow.
"""

import re
from collections.abc import Iterable

from thinwire.edge.limits import LOG_ROWS
from thinwire.edge.words import cut
from thinwire.validation.logs.rows import Broken, head_of, numbers, row_of
from thinwire.validation.logs.runs import OPS, OTHER_OPS, RankLine, Run

_RANK = re.compile(
    r"\bRank\s+(\d{1,5})\s+(?:Group\s+\d+\s+)?Pid\s+(\d+)\s+on\s+(\S+)\s+device\s+(\d{1,3})\s+\[([\w:.]{1,20})\]\s*(.*)"
)
_NAMED = re.compile(r"(?<![a-z])([a-z_2]{4,20})_perf\b")
_THREADS = re.compile(r"\bn?[tT]hreads?:?\s+(\d{1,4})\s+n?G[pP][uU]s:?\s+(\d{1,4})")
_VERSION = re.compile(r"\b(?:NCCL|RCCL) version\s*:?\s*([\d.]+\S{0,20})")
_LIBRARY = re.compile(r"nccl-library=(\d{4,5})")
_VISIBLE = re.compile(r"\b(?:CUDA|HIP|ROCR)_VISIBLE_DEVICES=[\"']?(\d{1,2}(?:,\d{1,2})*)")
_SET = re.compile(
    r"\b(NCCL_(?:ALGO|PROTO|P2P_DISABLE|P2P_LEVEL|SHM_DISABLE|IB_DISABLE|NVLS_ENABLE|CUMEM_ENABLE)=\S{1,24})"
)
_HEADER = re.compile(r"\bsize\s+count(?:\s*\(elements\))?\s+type\b")
_AROUND = re.compile(r"(?:out-of-place|in-place)(?:\s+in-place)?\s*$")
_GRAPH, _AGGREGATED = re.compile(r"\bgraph:\s*([1-9]\d*)"), re.compile(r"agg iters:\s*([2-9]|\d\d+)\b")
_NOISE = re.compile(r"NCCL (?:INFO|WARN|TRACE|ERROR)")
MARKS = ("_perf", "nccl", "NCCL", "RCCL", "rccl", "Rank", "#", "VISIBLE", "size", "place", "bounds", "FAILED")
SHORT = 12  # characters of a line that cannot begin a row or say anything of a run
WAITS = 200  # lines that may stand inside one row


def read(lines: Iterable[str], file: str) -> list[Run]:
    """The runs of a log; those without a row have said nothing. ValueError beyond a limit of rows."""
    reader = _Reader(file)
    for line in lines:
        reader.line(line)
    reader.end_row()
    return [run for run in reader.runs if run.rows or run.dropped]


class _Reader:
    """What has been read so far."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.runs: list[Run] = []
        self.broken: Broken | None = None
        self.waited = 0
        self.count = 0
        self.fresh = True  # the next row, or word about a run, begins a new one
        self.kept = Run(file, 0)  # what holds for the runs to come: versions, environment, the command's name

    # -- runs

    @property
    def run(self) -> Run:
        if self.fresh or not self.runs:
            k = self.kept
            self.runs.append(
                Run(self.file, len(self.runs) + 1, named=k.named, version=k.version, visible=k.visible,
                    per_process=k.per_process, rank_lines=dict(k.rank_lines), said=dict(k.said))
            )  # fmt: skip
            self.fresh = False
        return self.runs[-1]

    def ended(self) -> None:
        """What follows belongs to another run, once this one has rows."""
        self.end_row()
        if self.runs and not self.fresh and self.runs[-1].rows:
            self.fresh = True

    # -- lines

    def line(self, line: str) -> None:
        if self.broken is None and len(line) < SHORT:
            return
        head = head_of(line)
        if head is not None:
            self.end_row()
            self.broken, self.waited = head[0], 0
            if head[1] and len(self.broken.tokens) >= 3 + "".join(self.broken.tokens[:1])[:1].isalpha():
                return
            return
        if self.broken is not None and self._continues(line):
            return
        if any(mark in line for mark in MARKS):
            self._about(line)

    def _continues(self, line: str) -> bool:
        """Whether a line holds more columns of the row that is open."""
        assert self.broken is not None
        self.waited += 1
        tokens, whole = numbers(_after_prefix(line))
        if tokens and whole and len(self.broken.tokens) + len(tokens) <= 10:
            self.broken.tokens += tokens
            return True
        if self.waited > WAITS or (line.lstrip().startswith("#") and not _NOISE.search(line)):
            self.end_row()
        return False

    def end_row(self) -> None:
        """Read the row that is open."""
        broken, self.broken = self.broken, None
        if broken is None:
            return
        self.count += 1
        LOG_ROWS.check(f"rows of {cut(self.file)}", self.count)
        run, found = self.run, row_of(broken)
        if isinstance(found, str):
            run.dropped.append(found)
        else:
            run.timed = True
            run.rows.append(found)

    def _about(self, line: str) -> None:
        """What a line says of the runs."""
        if (rank := _RANK.search(line)) is not None:
            if self.runs and not self.fresh and self.runs[-1].rows:
                self.ended()
                self.kept.rank_lines = {}
            found = RankLine(int(rank[1]), rank[2], rank[3], int(rank[4]), rank[5], " ".join(rank[6].split())[:80])
            self.kept.rank_lines[found.rank] = found
            if not self.fresh and self.runs:
                self.runs[-1].rank_lines[found.rank] = found
            return
        if "Using devices" in line:
            self.ended()
            self.kept.rank_lines = {}
            if self.runs and not self.fresh:
                self.runs[-1].rank_lines = {}
            return
        if _HEADER.search(line) is not None:
            self._header(line)
        elif _AROUND.search(line) and "(us)" not in line:
            self.ended()
            self.run.place = "out-of-place" if "out-of-place" in line else "in-place"
        self._words(line)

    def _header(self, line: str) -> None:
        if self.runs and self.runs[-1].rows:
            self.ended()
        if "cputime" in line:
            self.run.cpu_time = True

    def _words(self, line: str) -> None:
        kept = self.kept
        for named in _NAMED.finditer(line):
            name = named[1].strip("_")
            if name in (*OPS, *OTHER_OPS) and "concluded" not in line:
                self.ended()
                kept.named = name
                if not self.fresh and self.runs:
                    self.runs[-1].named = name
        if (threads := _THREADS.search(line)) is not None:
            self.ended()
            kept.per_process = int(threads[1]) * int(threads[2])
            kept.said = {said: None for said in kept.said if not said.startswith("timed ")}
            if _GRAPH.search(line):
                kept.said["timed in CUDA graphs: a launch from the host costs more"] = None
            if _AGGREGATED.search(line):
                kept.said["timed in aggregated iterations: one call alone costs more"] = None
        if (version := _VERSION.search(line)) is not None:
            kept.version = version[1].rstrip(".,;")
        elif (library := _LIBRARY.search(line)) is not None:
            code = int(library[1])
            kept.version = f"{code // 10000}.{code // 100 % 100}.{code % 100}"
        if (visible := _VISIBLE.search(line)) is not None:
            kept.visible = tuple(int(number) for number in visible[1].split(","))
        for setting in _SET.finditer(line):
            kept.said[f"run with {setting[1]}"] = None
        if self.runs and not self.fresh:
            current = self.runs[-1]
            current.version, current.visible = kept.version or current.version, kept.visible or current.visible
            current.per_process = kept.per_process or current.per_process
            current.said |= kept.said
        if "Out of bounds values" in line:
            if "FAILED" in line and self.runs:
                self.end_row()
                self.runs[-1].failed = True
        elif "Avg bus bandwidth" in line:
            self.ended()


def _after_prefix(line: str) -> str:
    """A line without what mpirun, slurm, kubectl or docker put before it, as far as that is no number."""
    for mark in (":", "|", "]"):
        before, found, after = line.partition(mark)
        if found and len(before) < 80 and not any(c in before for c in "#"):
            rest = numbers(after)
            if rest[0] and rest[1]:
                return after
    return line
