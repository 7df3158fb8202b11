"""`make mutants`: small faults planted in the simulator one by one, and whether the tests of its room notice.

cosmic-ray (https://cosmic-ray.readthedocs.io) makes the mutants; `judge.py` runs tests, two of it side by side, each in
a copy of the tree under `.mutants/`. What is known is kept in `.mutants/results.jsonl` as it comes: a run that was cut
goes on, and what survived is judged anew when the tests of its room have changed. Without --all a seeded sample of each
room is judged. Mutants that change nothing anybody could see stand in `equivalent.toml`, each with its reason.
"""

import argparse
import ast
import json
import math
import os
import re
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from functools import cache
from hashlib import sha256
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / ".mutants"
ROOMS = {
    "serving": ("sim/serving", "tests/sim/serving"),
    "planning": ("sim/planning", "tests/sim/planning"),
    "events": ("sim/events", "tests/sim/events"),
    "costs": ("sim/costs", "tests/sim/costs"),
    "core": ("reference/core", "tests/reference/core"),
}
WARM = ("numpy", "scipy.special", "scipy.optimize", "networkx", "pydantic", "simpy", "rich.console", "typer.testing",
        "ml_dtypes")  # fmt: skip
# Of cosmic-ray's 213 operators those whose fault somebody could have made: + for -, not + for << (which numbers with a
# point refuse, so that any test would notice); a bound that is off by one, not == for >=.
OPERATORS = re.compile(
    r"core/(AddNot|NumberReplacer|ZeroIterationForLoop|Replace(True|False|And|Or|Break|Continue)With.*"
    r"|ReplaceUnaryOperator_(Delete_Not|USub_UAdd)|ReplaceComparisonOperator_"
    r"(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Is_IsNot|IsNot_Is)|ReplaceBinaryOperator_"
    r"(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_FloorDiv|Pow_Mul|LShift_RShift|RShift_LShift|BitAnd_BitOr|BitOr_BitAnd))"
)
HARMLESS = ("strict=", "slots=", "frozen=", "maxsize=")  # guards of what cannot happen or mypy sees, and memory
LARGE = 1e5  # a number from which on one more or less is no fault: 1e9 bytes a GB


@dataclass(frozen=True)
class Mutant:
    """The `nth` place where an operator applies to a line of this text in a module; `occurrence`: in the module."""

    room: str
    module: str
    operator: str
    text: str
    nth: int
    line: int
    occurrence: int

    @property
    def key(self) -> str:
        """What stays the same when other lines of the module change."""
        return f"{self.module}::{self.operator}::{self.nth}::{self.text}"

    def code(self) -> str:
        """The module with the fault in it."""
        import cosmic_ray.plugins  # type: ignore[import-not-found,import-untyped,unused-ignore]
        from cosmic_ray.mutating import mutate_code  # type: ignore[import-not-found,import-untyped,unused-ignore]

        operator = cosmic_ray.plugins.get_operator(f"core/{self.operator}")()
        found: str = mutate_code((ROOT / self.module).read_text("utf-8"), operator, self.occurrence)
        return found

    def change(self) -> str:
        """The line as it becomes."""
        lines = self.code().splitlines()
        return lines[self.line - 1].strip() if self.line <= len(lines) else ""


def annotations(tree: ast.Module) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where types stand: no fault there is one at run time."""
    found = []
    for node in ast.walk(tree):
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if isinstance(part, ast.expr):
                end = (part.end_lineno or 0, part.end_col_offset or 0)
                found.append(((part.lineno, part.col_offset), end))
    return found


def mutants_of(room: str, module: str) -> Iterator[Mutant]:
    """All of a module, operator by operator."""
    import cosmic_ray.plugins  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from cosmic_ray.ast import ast_nodes, get_ast  # type: ignore[import-not-found,import-untyped,unused-ignore]

    source = (ROOT / module).read_text("utf-8")
    lines, nodes, types = source.splitlines(), list(ast_nodes(get_ast(source))), annotations(ast.parse(source))
    for name in sorted(filter(OPERATORS.fullmatch, cosmic_ray.plugins.operator_names())):
        operator, seen = cosmic_ray.plugins.get_operator(name)(), Counter[str]()
        places = ((node, start) for node in nodes for start, _ in operator.mutation_positions(node))
        for occurrence, (node, start) in enumerate(places):
            text = lines[start[0] - 1].strip()
            seen[text] += 1
            harmless = lines[start[0] - 1][: start[1]].endswith(HARMLESS)
            harmless |= name.endswith("NumberReplacer") and abs(ast.literal_eval(node.value)) >= LARGE
            if not harmless and not any(a <= start < b for a, b in types):
                yield Mutant(room, module, name.removeprefix("core/"), text, seen[text], start[0], occurrence)


@cache
def mutants(room: str) -> tuple[Mutant, ...]:
    """All of a room."""
    paths = sorted((ROOT / ROOMS[room][0]).glob("*.py"))
    return tuple(found for path in paths for found in mutants_of(room, path.relative_to(ROOT).as_posix()))


def sample(among: Sequence[Mutant], size: int | None, seed: int) -> list[Mutant]:
    """So many of them (None: all): a larger sample of the same seed holds the smaller one."""
    mixed = sorted(among, key=lambda mutant: sha256(f"{seed} {mutant.key}".encode()).digest())
    return mixed[:size]


def digest(*folders: str) -> str:
    """Of the Python files that lie there."""
    found = sha256()
    for path in sorted(path for folder in folders for path in (ROOT / folder).glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


class Results:
    """What is known: one line a verdict, the last one of a key counts."""

    def __init__(self, path: Path) -> None:
        self.path, self.known, self._lock = path, dict[str, dict[str, Any]](), threading.Lock()
        for line in path.read_text("utf-8").splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # the run was cut while it wrote
            self.known[row["key"]] = row

    def of(self, mutant: Mutant) -> dict[str, Any] | None:
        """The verdict, unless the module changed since, or the tests under which it survived."""
        row = self.known.get(mutant.key)
        if row is None or row["module_digest"] != _module_digest(mutant.module):
            return None
        return None if row["outcome"] == "survived" and row["tests_digest"] != _tests_digest(mutant.room) else row

    def add(self, mutant: Mutant, found: dict[str, Any]) -> None:
        """Keep it, on disk at once."""
        digests = {"module_digest": _module_digest(mutant.module), "tests_digest": _tests_digest(mutant.room)}
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            self.known[mutant.key] = row = {"key": mutant.key, **asdict(mutant), **digests, **found}
            file.write(json.dumps(row) + "\n")


@cache
def _module_digest(module: str) -> str:
    return sha256((ROOT / module).read_bytes()).hexdigest()[:16]


@cache
def _tests_digest(room: str) -> str:
    return digest(ROOMS[room][1])


# --- judging


class Judge:
    """A process of `judge.py` in a copy of the tree of its own."""

    def __init__(self, number: int, tests: str) -> None:
        self.tree = WORK / f"tree{number}"
        copy_tree(self.tree)
        command = [sys.executable, str(HERE / "judge.py"), tests, *WARM]
        environment = {**os.environ, "PYTHONPATH": str(self.tree / "src")}
        self._process = subprocess.Popen(
            command, cwd=self.tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """One question, and its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def close(self) -> None:
        """No more questions."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def copy_tree(to: Path) -> None:
    """What git tracks or is about to; links stay links."""
    subprocess.run(["rm", "-rf", str(to)], check=True)
    to.mkdir(parents=True)
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    names = [n for n in subprocess.run(git, capture_output=True, check=True).stdout.split(b"\0") if n]
    there = b"\0".join(n for n in names if (ROOT / n.decode()).is_symlink() or (ROOT / n.decode()).exists())
    packed = subprocess.run(["tar", "c", "--null", "-T", "-"], input=there, cwd=ROOT, capture_output=True, check=True)
    subprocess.run(["tar", "x"], input=packed.stdout, cwd=to, check=True)


def order(mutant: Mutant, lines: dict[str, dict[str, list[str]]], took_s: dict[str, float]) -> list[str]:
    """Tests that may notice: those that run the line (or the last one before it that any test runs), then those of the
    module's own file, each from the quickest on. All, where importing runs it.
    """
    run = {int(line): tests for line, tests in lines.get(mutant.module, {}).items() if any(tests)}
    nearest = max((line for line in run if line <= mutant.line), default=0)
    covering, own = set(run.get(nearest, ())), f"test_{Path(mutant.module).stem}.py"
    imported = "" in lines.get(mutant.module, {}).get(str(mutant.line), [])
    may = [test for test in took_s if test in covering or own in test or imported or not covering]
    return sorted(may, key=lambda test: (test not in covering, own not in test, took_s[test]))


def judge(room: str, chosen: Sequence[Mutant], results: Results, workers: int, until_s: float) -> None:
    """Judge what is not known yet."""
    left = [mutant for mutant in chosen if not is_equivalent(mutant) and results.of(mutant) is None]
    if not left:
        return
    tests = ROOMS[room][1]
    judges = [Judge(number, tests) for number in range(workers)]
    kept = WORK / f"{room}-{digest(*ROOMS[room])}.json"
    if kept.exists():
        plain = json.loads(kept.read_text("utf-8"))
    else:
        plain = judges[0].ask(path=left[0].module, code=None, tests=[])
    for test in plain.get("failed", ()):  # on a busy machine, one of speed
        print(f"{test} fails without any mutant, and is left out", file=sys.stderr)
        del plain["seconds"][test]
    if len(plain.get("failed", ())) * 20 > len(plain.get("seconds", ())):
        raise SystemExit(f"{tests} fails without any mutant: {plain['outcome']}, {plain['by']}")
    kept.write_text(json.dumps({**plain, "failed": []}), "utf-8")
    queue: SimpleQueue[Mutant] = SimpleQueue()
    for mutant in left:
        queue.put(mutant)
    began_s, done = time.monotonic(), 0

    def work(judge: Judge) -> None:
        nonlocal done
        while time.monotonic() < until_s:
            try:
                mutant = queue.get_nowait()
            except Empty:
                return
            may, asked_s = order(mutant, plain["lines"], plain["seconds"]), time.monotonic()
            found = judge.ask(path=mutant.module, code=mutant.code(), tests=may, took_s=plain["seconds"])
            results.add(mutant, {**found, "took_s": round(time.monotonic() - asked_s, 2)})
            done += 1
            if done % 10 == 0:
                print(f"{room}: {done} of {len(left)}, {time.monotonic() - began_s:.0f} s", file=sys.stderr, flush=True)

    threads = [threading.Thread(target=work, args=(each,)) for each in judges]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in judges:
        each.close()


# --- reporting


@cache
def equivalents() -> tuple[dict[str, Any], ...]:
    """Entries of equivalent.toml: module, operator, text, why, and nth where it is about some of its places."""
    return tuple(tomllib.loads((HERE / "equivalent.toml").read_text("utf-8"))["equivalent"])


def is_equivalent(mutant: Mutant) -> bool:
    """Whether an entry says so."""
    return any(
        fnmatch(mutant.module, entry["module"])
        and entry["text"] == mutant.text
        and re.fullmatch(entry["operator"], mutant.operator)
        and mutant.nth in entry.get("nth", [mutant.nth])
        for entry in equivalents()
    )


def interval(killed: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if not of:
        return 0.0, 1.0
    share, square = killed / of, z * z / of
    middle, half = share + square / 2, z * math.sqrt(share * (1 - share) / of + square / of / 4)
    return (middle - half) / (1 + square), (middle + half) / (1 + square)


def report(room: str, chosen: Sequence[Mutant], results: Results) -> list[str]:
    """A row of the table, then who survived."""
    equal = sum(map(is_equivalent, chosen))
    others = [mutant for mutant in chosen if not is_equivalent(mutant)]
    verdicts = [(mutant, row) for mutant in others if (row := results.of(mutant)) is not None]
    alive = [mutant for mutant, row in verdicts if row["outcome"] == "survived"]
    late = sum(row["outcome"] == "timeout" for _, row in verdicts)
    killed, minutes = len(verdicts) - len(alive), sum(row["took_s"] for _, row in verdicts) / 60
    of = killed + len(alive)
    low, high = interval(killed, of)
    judged = len(verdicts) + equal
    span = "" if judged == len(mutants(room)) else f" ({low:.1%} to {high:.1%})"
    share = f"{killed / of:.1%}{span}" if of else "-"
    line = f"| {room} | {len(mutants(room))} | {judged} | {killed} | {late} | {equal} | {len(alive)} "
    return [f"{line}| {share} | {minutes:.0f} |",
            *(f"{m.module}:{m.line}: {m.operator} {m.nth}: {m.text}  ->  {m.change()}" for m in alive)]  # fmt: skip


HEAD = (
    "| room | mutants | judged | killed | of these by time | equivalent | alive | killed of the rest | minutes |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def main(given: Sequence[str] | None = None) -> None:
    """What `make mutants` runs."""
    parser = argparse.ArgumentParser(prog="make mutants", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--room", choices=ROOMS, action="append", help="one room; all when left out")
    parser.add_argument("--sample", type=int, default=150, help="mutants of each room (150)")
    parser.add_argument("--all", action="store_true", help="every mutant: hours")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many; run again, it goes on")
    parser.add_argument("--report", action="store_true", help="judge nothing, say what is known")
    asked = parser.parse_args(given)
    WORK.mkdir(exist_ok=True)
    results, until_s = Results(WORK / "results.jsonl"), time.monotonic() + 60 * asked.minutes
    rooms, rows, alive = asked.room or [*ROOMS], [HEAD], list[str]()
    for room in rooms:
        chosen = sample(mutants(room), None if asked.all else asked.sample, asked.seed)
        if not asked.report:
            judge(room, chosen, results, asked.workers, until_s)
        row, *others = report(room, chosen, results)
        rows.append(row)
        alive += others
    print("\n".join([*alive, "", *rows]))


if __name__ == "__main__":
    main()
