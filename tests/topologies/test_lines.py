"""The locator against tomllib: every key it parses has a line, and the line holds the key."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.topologies.lines import KeyPath, line_of, locate
from thinwire.topologies.load import cluster_names

EVERYTHING = '''# a comment = with [brackets] and "quotes"
title = "a # is no comment" # but this is
"quoted key" = 'literal \\ [ { "'
'a.b' = 1
dotted.key . "with space" = 1979-05-27T07:32:00Z

multi = """
not = "a key"
""" # after
more = """"quoted"""""
also = \'\'\'
[not.a.table]
\'\'\'
empty = [ ] ; numbers = [ 1, 2,
  3, # three
  [4, 5], { x = 6, y.z = [7] },
]

[table]
value = { value = 1.5, unit = "GB/s", source = "x" }
escaped = "a \\" # b"

[table.below."really here"]
inline = { }
nan = nan

[[list]]
a = 1

[list.sub]
b = 2

[[list]]
a = 3
[[list.deep]]
c = 4
[[list.deep]]
c = 5
'''.replace(" ; numbers", "\nnumbers")


def paths(value: Any, at: KeyPath = ()) -> list[KeyPath]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [path for key, below in items for path in ((*at, key), *paths(below, (*at, key)))]


def test_every_key_of_a_hard_file_is_on_its_line() -> None:
    lines = locate(EVERYTHING)
    rows = EVERYTHING.splitlines()
    parsed = tomllib.loads(EVERYTHING)
    assert set(lines) == set(paths(parsed))
    for path, line in lines.items():
        key = next(part for part in reversed(path) if isinstance(part, str))
        if isinstance(path[-1], str):
            assert key in rows[line - 1], path
    by_text = {text: number for number, text in enumerate(rows, start=1)}
    assert lines["also",] == by_text["also = '''"]
    assert lines["empty",] == by_text["empty = [ ]"]
    assert lines["numbers", 2] == by_text["  3, # three"]
    assert lines["numbers", 4, "y", "z", 0] == by_text["  [4, 5], { x = 6, y.z = [7] },"]
    assert lines["list", 0, "sub", "b"] == by_text["b = 2"]
    assert lines["list", 1] == lines["list", 0] + 6
    assert lines["list", 1, "deep", 1, "c"] == by_text["c = 5"]


def test_the_nearest_key_stands_in_for_one_that_is_missing() -> None:
    lines = locate(EVERYTHING)
    assert line_of(lines, ("table", "value", "missing", "deeper")) == lines["table", "value"]
    assert line_of(lines, ("nothing",)) == 1
    assert line_of(lines, ()) == 1


def test_windows_line_ends_count_once() -> None:
    text = "a = 1\r\n\r\n[t]\r\nb = 'x'\r\n"
    assert locate(text) == {("a",): 1, ("t",): 3, ("t", "b"): 4}


@pytest.mark.parametrize("text", ["a", "= 1", "[t", "a = [1", "a = {b = 1", 'a = "'])
def test_what_is_no_toml_does_not_hang(text: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads(text)
    with pytest.raises(ValueError, match="not TOML"):
        locate(text)


# Documents written from random data, one assignment a line: the right line is known when it is written.
KEYS = st.text(st.characters(codec="ascii", categories=("L", "N")) | st.sampled_from('.#["= '), min_size=1)
LEAVES = st.sampled_from(['"a # b"', "'[x]'", '"\\""', "1_000", "true", "-inf", "07:32:00", '"""\\\n  x"""'])
VALUES = st.recursive(
    LEAVES,
    lambda below: (
        st.lists(below, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(below, max_size=3).map(lambda items: "[ # ]\n" + "".join(f" {i}, # }}\n" for i in items) + "]")
    ),
    max_leaves=6,
)


@given(st.dictionaries(KEYS, st.dictionaries(KEYS, VALUES, max_size=4), max_size=4), st.booleans())
def test_random_documents(tables: dict[str, dict[str, str]], arrays: bool) -> None:
    text = ""
    expected: dict[KeyPath, int] = {}
    for table, assignments in tables.items():
        at: KeyPath = (table, 0) if arrays else (table,)
        expected[at] = expected[table,] = text.count("\n") + 1
        text += (f"[[ {quoted(table)} ]]" if arrays else f"[{quoted(table)}]") + "\n"
        for key, value in assignments.items():
            expected[(*at, key)] = text.count("\n") + 1
            text += f"{quoted(key)} = {value} # comment\n"
    lines = locate(text)
    assert set(lines) == set(paths(tomllib.loads(text)))
    assert {path: lines[path] for path in expected} == expected


def quoted(key: str) -> str:
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def test_the_catalog_and_the_examples_are_located(root: Any) -> None:
    files = [*root.glob("topologies/*/*.toml"), *root.glob("examples/*machine*.toml")]
    assert len(files) > len(cluster_names())
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert set(locate(text)) == set(paths(tomllib.loads(text))), file
