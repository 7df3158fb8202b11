"""`make mutants` itself: what it plants, what it remembers, and whether it tells a killed mutant from a living one."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from .mutants import ROOMS, ROOT, Mutant, Results, annotations, equivalents, interval, is_equivalent, order, sample

MODULE = "sim/events/fold.py"


def mutant(text: str = "a + b", nth: int = 1, line: int = 1) -> Mutant:
    return Mutant("events", MODULE, "ReplaceBinaryOperator_Add_Sub", text, nth, line, 0)


def test_a_larger_sample_holds_the_smaller_one_and_seeds_differ() -> None:
    among = [mutant(f"a + {n}") for n in range(200)]
    assert set(sample(among, 20, 0)) < set(sample(among, 60, 0)) < set(sample(among, None, 0)) == set(among)
    assert sample(among, 20, 0) == sample(among[::-1], 20, 0) != sample(among, 20, 1)


@pytest.mark.parametrize(
    ("killed", "of", "low", "high"), [(0, 10, 0.0, 0.278), (81, 90, 0.821, 0.946), (5, 5, 0.566, 1.0)]
)
def test_intervals_are_wilsons(killed: int, of: int, low: float, high: float) -> None:
    assert interval(killed, of) == pytest.approx((low, high), abs=6e-4)


def test_what_is_known_outlives_a_cut_and_not_a_change(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    first, second = mutant(), mutant(nth=2)
    known = Results(path)
    known.add(first, {"outcome": "survived", "by": ""})
    known.add(second, {"outcome": "killed", "by": "somebody"})
    path.write_text(path.read_text("utf-8") + '{"key": "cut in the mid', "utf-8")
    again = Results(path)
    assert [(again.of(m) or {})["outcome"] for m in (first, second)] == ["survived", "killed"]
    assert again.of(mutant(nth=3)) is None
    for row in again.known.values():
        row["tests_digest"] = "other tests"
    assert again.of(first) is None, "other tests may notice it"
    assert again.of(second) is not None
    again.known[second.key]["module_digest"] = "another module"
    assert again.of(second) is None


def test_tests_that_run_the_line_come_first_and_those_that_cannot_notice_not_at_all() -> None:
    took_s = {
        "t/test_fold.py::slow": 2.0,
        "t/test_fold.py::other": 1.0,
        "t/test_x.py::covers": 3.0,
        "t/test_x.py::not": 0.1,
    }
    lines = {
        MODULE: {"4": ["", "t/test_x.py::covers"], "10": ["t/test_x.py::covers", "t/test_fold.py::slow"], "12": [""]}
    }
    covering = ["t/test_fold.py::slow", "t/test_x.py::covers"]
    assert order(mutant(line=11), lines, took_s) == [*covering, "t/test_fold.py::other"]
    for everywhere in (mutant(line=12), mutant(line=1), mutant(line=4)):
        assert sorted(order(everywhere, lines, took_s)) == sorted(took_s)


def test_types_are_no_code() -> None:
    tree = ast.parse("def f(a: int | None, b=1 | 2) -> int | None:\n    x: A | B = a | b\n    return x\n")
    assert sorted(annotations(tree)) == [((1, 9), (1, 19)), ((1, 33), (1, 43)), ((2, 7), (2, 12))]


def test_equivalents_are_about_lines_that_are_there() -> None:
    """The line was changed: read the mutant again, then mend the entry or take it out."""
    lines = {
        path.relative_to(ROOT).as_posix(): {line.strip() for line in path.read_text("utf-8").splitlines()}
        for folder, _ in ROOMS.values()
        for path in (ROOT / folder).glob("*.py")
    }
    assert equivalents()
    for entry in equivalents():
        assert len(entry["why"]) > 10 and re.compile(entry["operator"])
        assert any(entry["text"] in texts for path, texts in lines.items() if fnmatch(path, entry["module"])), entry


def test_an_entry_is_about_its_operator_and_place_alone() -> None:
    entry = next(e for e in equivalents() if "nth" in e)
    one = Mutant("events", "sim/events/fold.py", entry["operator"], entry["text"], entry["nth"][0], 1, 0)
    assert is_equivalent(one) == fnmatch(one.module, entry["module"])
    for other in ({"nth": 99}, {"operator": "AddNot"}, {"text": "return 1"}):
        assert not is_equivalent(Mutant(**{**one.__dict__, **other}))


def test_every_mutant_is_a_module_that_differs_in_its_line(root: Path) -> None:
    pytest.importorskip("cosmic_ray", reason="make mutants installs it")
    from .mutants import mutants_of

    found = list(mutants_of("events", MODULE))
    original = (root / MODULE).read_text("utf-8")
    assert len(found) > 50 and len({m.key for m in found}) == len(found)
    assert any(m.text.startswith("STEADY") for m in found), "constants of the module too"
    for each in found:
        code = each.code()
        ast.parse(code)
        assert code != original and code.splitlines()[: each.line - 1] == original.splitlines()[: each.line - 1]


# --- the judge, in a tree of two files

CODE = "def larger(a, b):\n    return a if a > b else b\n"
TESTS = """
from code_of_ours import larger

def test_one():
    assert larger(1, 2) == 2

def test_two():
    assert larger(2, 1) == 2
"""


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Any]:
    """A function that puts a question to a judge in a tree of its own."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(TESTS)
    (tmp_path / "code_of_ours.py").write_text(CODE)
    command = [sys.executable, str(Path(__file__).with_name("judge.py")), "tests"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def ask(code: str | None, *tests: str) -> dict[str, Any]:
            assert process.stdin is not None and process.stdout is not None
            print(json.dumps({"path": "code_of_ours.py", "code": code, "tests": tests}), file=process.stdin, flush=True)
            found: dict[str, Any] = json.loads(process.stdout.readline())
            assert (tmp_path / "code_of_ours.py").read_text() == CODE
            return found

        yield ask
        assert process.stdin is not None
        process.stdin.close()


def test_a_judge_tells_the_dead_from_the_living(tree: Any) -> None:
    one, two = "tests/test_it.py::test_one", "tests/test_it.py::test_two"
    assert tree(CODE.replace(">", ">=")) == {"outcome": "survived", "by": ""}
    assert tree(CODE.replace(">", "<")) == {"outcome": "killed", "by": one}
    assert tree(CODE.replace(">", "<"), two, one) == {"outcome": "killed", "by": two}
    assert tree(CODE.replace("if a > b else b", ""), two)["outcome"] == "survived", "asked of this test alone"
    assert tree("def larger(")["outcome"] == "killed"
    ended = tree(CODE.replace("return a", "import os; os._exit(3); return a"), two)
    assert ended["outcome"] == "killed" and "ended" in ended["by"]


def test_a_judge_says_which_tests_run_a_line(tree: Any) -> None:
    pytest.importorskip("coverage", reason="make mutants installs it")
    found = tree(None)
    assert found["outcome"] == "survived" and len(found["seconds"]) == 2
    assert sorted(found["lines"]["code_of_ours.py"]["2"]) == sorted(found["seconds"])
    assert found["lines"]["code_of_ours.py"]["1"] == [""]


def test_a_test_that_fails_without_a_mutant_is_named_and_ends_nothing(tree: Any, tmp_path: Path) -> None:
    """It would call every mutant killed."""
    pytest.importorskip("coverage", reason="make mutants installs it")
    (tmp_path / "tests" / "test_bad.py").write_text("def test_bad():\n    assert False\n")
    found = tree(None)
    assert found["failed"] == ["tests/test_bad.py::test_bad"] and len(found["seconds"]) == 3
