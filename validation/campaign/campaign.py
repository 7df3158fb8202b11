"""A measuring campaign: named steps, one raw JSON file, written after every step and taken up again where it stopped.

No torch here: the machine that measures writes the file with `run`, any machine reads it with `load`. The file holds
what was measured and nothing derived from it:

    {"form": 1, "rehearsal": false, "machine": {...}, "steps": {name: {"state": ..., "rows": [...], ...}}}

A step's state is `done`; `cut` (its time was over; `left_out` says what it did not get to); or `failed` (`error` says
why). A row with `error` is one case that failed. A campaign started again keeps what is done, does the rest and tries
the failed cases once more.
"""

import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from thinwire.edge.reading import from_json
from thinwire.edge.words import cut, place, shown
from thinwire.edge.writing import write_text
from thinwire.validation.campaign.shapes import Case

Row = dict[str, Any]
Document = dict[str, Any]

FORM = 1
SAME = ("gpu", "driver", "git_commit", "git_dirty", "torch", "triton", "thinwire", "seed")
"""What must be the same for a campaign to be taken up again."""
PROGRESS_S = 15.0  # between two lines of progress inside one step


class DoesNotFit(ValueError):
    """A case this device cannot run: too little memory, or an operation it lacks. It is left out, with the reason."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a step is given: the rows it has already, and when to stop."""

    have: Sequence[Row]
    deadline_s: float
    clock: Callable[[], float]

    def late(self) -> bool:
        """Is the time over?"""
        return self.clock() >= self.deadline_s


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a campaign.

    Args:
        cap_s: seconds it may take at most; validation/raw/README.md has the arithmetic.
        rows: yields rows. One with a `left_out` key is a case that was not measured and why.
        resumes: a cut step is given its rows and yields the rest; else it starts anew.
    """

    name: str
    cap_s: float
    rows: Callable[[Task], Iterator[Row]]
    resumes: bool = True


C = TypeVar("C", bound=Case)


def each(cases: Iterable[C], measure: Callable[[C], Row], task: Task) -> Iterator[Row]:
    """A row for every case that has none yet; after the deadline they are left out. A failing case is a row too."""
    cases = list(cases)
    if not cases:
        return
    names = list(cases[0].columns())
    have = {tuple(row.get(name) for name in names) for row in task.have if "error" not in row}
    for case in cases:
        columns = case.columns()
        if tuple(columns.values()) in have:
            continue
        if task.late():
            yield columns | {"left_out": "time"}
            continue
        try:
            yield columns | measure(case)
        except DoesNotFit as error:
            yield columns | {"left_out": str(error)}
        except Exception as error:
            yield columns | {"error": said(error)}


def said(error: BaseException) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def tidy(value: Any, digits: int = 7) -> Any:
    """Seven digits are more than any clock has; shorter files are easier to read."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, Mapping):
        return {key: tidy(inner, digits) for key, inner in value.items()}
    return [tidy(inner, digits) for inner in value] if isinstance(value, list | tuple) else value


# --- the file ---


def text(document: Document) -> str:
    """The document as JSON, one row a line."""
    head = json.dumps({key: value for key, value in document.items() if key != "steps"}, indent=1, allow_nan=False)
    steps = []
    for name, step in document["steps"].items():
        facts = [f"{json.dumps(key)}: {json.dumps(step[key], allow_nan=False)}" for key in step if key != "rows"]
        rows = ",\n".join("   " + json.dumps(row, allow_nan=False) for row in step["rows"])
        steps.append(f"  {json.dumps(name)}: {{{', '.join([*facts, ''])}" + f'"rows": [\n{rows}\n  ]}}')
    return head[:-2] + ',\n "steps": {\n' + ",\n".join(steps) + "\n }\n}\n"


def save(document: Document, path: Path) -> None:
    """Whole or not at all: a campaign that is killed while it writes leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text(document))


def load(path: Path) -> Document:
    """A raw file; ValueError, in one line, for one that is none."""
    found = from_json(path, "the measurements in")
    if not isinstance(found, dict) or found.get("form") != FORM:
        form = found.get("form") if isinstance(found, dict) else None
        raise ValueError(f"{place(path)} is no file of `make gpu`: form must be {FORM}, it is {shown(form)}")
    machine, steps = found.get("machine"), found.get("steps")
    if not (isinstance(machine, dict) and isinstance(machine.get("gpu"), str) and isinstance(steps, dict)):
        raise ValueError(f"{place(path)} needs a machine, with its gpu's name, and steps")
    for name, step in steps.items():
        rows = step.get("rows") if isinstance(step, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(f"{place(path)}: step {cut(name)} has no list of rows")
    return found


def taken_up(path: Path, machine: Mapping[str, Any], rehearsal: bool) -> Document:
    """The campaign in `path`, to go on with; ValueError where it was another machine's or another version's."""
    document = load(path)
    if document.get("rehearsal") != rehearsal:
        raise ValueError(f"{path} is {'no ' if rehearsal else 'a '}rehearsal; --fresh starts anew")
    for key in SAME:
        was, now = document["machine"].get(key), machine.get(key)
        if was != now:
            raise ValueError(
                f"{path} was measured with {key} {shown(was)}, now it is {shown(now)}; --fresh starts anew"
            )
    return document


# --- running ---


def run(
    document: Document,
    steps: Sequence[Step],
    path: Path,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Do what is not done, in order, and write the file after every step."""
    begin = clock()
    end = begin + budget_s
    found: dict[str, Any] = document["steps"]
    for step in steps:
        before = found.get(step.name)
        if before is not None and before["state"] == "done" and not before.get("errors"):
            _say(begin, budget_s, clock, f"{step.name}: done before, {len(before['rows'])} rows")
            continue
        have = [row for row in before["rows"] if "error" not in row] if before and step.resumes else []
        found[step.name] = _one(step, have, begin, end, budget_s, clock)
        save(document, path)


def _one(
    step: Step, have: list[Row], begin: float, end: float, budget_s: float, clock: Callable[[], float]
) -> dict[str, Any]:
    started, error = clock(), None
    task = Task(have, min(end, started + step.cap_s), clock)
    rows, spoken = list(have), started
    left_out: list[Row] = []
    try:
        for row in step.rows(task):
            (left_out if "left_out" in row else rows).append(tidy(row))
            if clock() - spoken > PROGRESS_S:
                spoken = clock()
                _say(begin, budget_s, clock, f"{step.name}: {len(rows)} rows so far")
    except Exception as problem:
        error = said(problem)
    wrong = sum("error" in row for row in rows)
    if error is None and wrong and wrong == len(rows):
        error = f"all {wrong} cases failed, the first with {rows[0]['error']}"
    state = "failed" if error else "cut" if any(row["left_out"] == "time" for row in left_out) else "done"
    done: dict[str, Any] = {"state": state, "seconds": round(clock() - started, 1), "errors": wrong}
    if error:
        done["error"] = error
    if left_out:
        done["left_out"] = left_out
    tail = f", {wrong} of them failed" if wrong else ""
    tail += f", {len(left_out)} left out" if left_out else ""
    _say(begin, budget_s, clock, f"{step.name}: {state}, {len(rows)} rows{tail}" + (f": {error}" if error else ""))
    return done | {"rows": rows}


def _say(begin: float, budget_s: float, clock: Callable[[], float], what: str) -> None:
    elapsed = clock() - begin
    print(f"[{elapsed:4.0f} s, {max(0.0, budget_s - elapsed):4.0f} s left] {what}", file=sys.stderr, flush=True)


def failures(document: Document) -> list[str]:
    """What went wrong, a line each."""
    found = []
    for name, step in document["steps"].items():
        if step.get("error"):
            found.append(f"{name}: {step['error']}")
        elif step.get("errors"):
            first = next(row for row in step["rows"] if "error" in row)
            found.append(f"{name}: {step['errors']} cases failed, the first with {first['error']}")
    return found


def processor() -> str:
    """The name of this machine's, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
