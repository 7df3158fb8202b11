"""What slips, broken disks and attackers make of a file: changes of its values and keys, and of its bytes."""

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# ---- values that a field may be given instead of its own


@dataclass(frozen=True, slots=True)
class Raw:
    """Text that stands in a file as it is."""

    text: str


QUOTED = 80
MARK = "".join(f"{i:03d}x" for i in range(200))  # no part of it longer than `QUOTED` may be said
SPACED = " ".join(f"{i:03d}y" for i in range(200))
NUMBERS = ("0", "-1", "1", "1e3", "1e20", "1e-20", "1e400", "-1e400", "nan", "inf", "NaN", "Infinity", "9" * 5000)
WHOLE = (0, -1, 1, 2**31, 2**63, 10**20, 10**400, 1000003)
REALS = (0.0, -1.0, 1e-300, 1e-9, 0.5, 1e3, 1e9, 1e300)
TEXTS = ("", " ", MARK, SPACED, "é", "\x00", "\n", "1e3", "auto:+1%", "bf16", "/dev/zero", "../nowhere", "%s{}", "*")


def odd(r: random.Random) -> Any:
    """A value of any type."""
    kind = r.randrange(10)
    if kind < 2:
        return r.choice(WHOLE)
    if kind < 4:
        return r.choice(REALS)
    if kind == 4:
        return r.choice(TEXTS)
    if kind == 5:
        return r.choice([True, False, [], {}, [[]], {"": 0}, [0] * 1000, {"value": 1}, [{}], {MARK: MARK}])
    if kind == 6:
        return Raw(r.choice(NUMBERS))
    if kind == 7:
        return Raw(r.choice(("null", "true", "2020-01-01", '"\\u0000"', "'''", "[" * 100_000, '{"a":' * 100_000, "")))
    if kind == 8:
        return Raw(f"{'[' * 60}1{']' * 60}")
    return [odd(r) for _ in range(r.randrange(4))]


# ---- trees: tables are lists of pairs, so that a key may stand there twice

Tree = Any
Table = list[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Node:
    """Where a value lies: in a table (pairs) or a list."""

    holder: list[Any]
    at: int
    pairs: bool

    def set(self, value: Any) -> None:
        """In place of what is there."""
        self.holder[self.at] = (self.holder[self.at][0], value) if self.pairs else value

    @property
    def value(self) -> Any:
        """What is there."""
        return self.holder[self.at][1] if self.pairs else self.holder[self.at]


class Pairs(list[tuple[str, Any]]):
    """A table."""


def tree_of(value: Any) -> Tree:
    """Plain values as a tree."""
    if isinstance(value, Mapping):
        return Pairs((key, tree_of(inner)) for key, inner in value.items())
    return [tree_of(inner) for inner in value] if isinstance(value, list | tuple) else value


def nodes(tree: Tree) -> Iterator[Node]:
    """Every place of a tree below its top."""
    if isinstance(tree, list):
        for at in range(len(tree)):
            node = Node(tree, at, isinstance(tree, Pairs))
            yield node
            yield from nodes(node.value)


def as_json(tree: Tree) -> str:
    """A tree as JSON, or as what nearly is."""
    if isinstance(tree, Raw):
        return tree.text
    if isinstance(tree, Pairs | dict):
        pairs = tree.items() if isinstance(tree, dict) else tree
        return "{" + ",".join(f"{json.dumps(key)}:{as_json(value)}" for key, value in pairs) + "}"
    if isinstance(tree, list):
        return "[" + ",\n".join(map(as_json, tree)) + "]"
    return "1" + "0" * 400 if tree == 10**400 else json.dumps(tree)


def as_toml(tree: Tree) -> str:
    """A tree as TOML: a line for each key at the top, tables in it in one line."""
    pairs = tree if isinstance(tree, Pairs) else Pairs([("x", tree)])
    return "\n".join(f"{_key(key)} = {_toml(value)}" for key, value in pairs) + "\n"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _toml(tree: Tree) -> str:
    if isinstance(tree, Raw):
        return tree.text
    if isinstance(tree, Pairs | dict):
        pairs = tree.items() if isinstance(tree, dict) else tree
        return "{ " + ", ".join(f"{_key(key)} = {_toml(value)}" for key, value in pairs) + " }"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_toml, tree)) + "]"
    if isinstance(tree, bool | str):
        return json.dumps(tree)
    return "1" + "0" * 400 if tree == 10**400 else repr(tree)


def change(tree: Tree, r: random.Random) -> str:
    """One change of a tree, in place. Returns what was done."""
    places = list(nodes(tree))
    if not places:
        return "nothing"
    node = r.choice(places)
    kind = r.randrange(12)
    if kind < 5:
        node.set(odd(r))
        return "an odd value"
    if kind < 8 and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        factor = 10.0 ** r.choice((-30, -9, -6, -3, -1, 1, 3, 6, 9, 30))
        value = node.value * (factor if r.random() < 0.8 else -1)
        node.set(int(value) if isinstance(node.value, int) and abs(value) < 1e18 else value)
        return "a number scaled"
    if kind == 8:
        del node.holder[node.at]
        return "a value left out"
    if kind == 9:
        node.holder.insert(node.at, node.holder[node.at])
        return "a value twice"
    if kind == 10 and node.pairs:
        key, value = node.holder[node.at]
        node.holder[node.at] = (r.choice((key + "s", key[:-1], key.upper(), MARK, "", "é", "__class__")), value)
        return "another key"
    other = r.choice(places)
    node.set(json.loads(json.dumps(other.value)) if _plain(other.value) else 0)
    return "a value of another place"


def _plain(tree: Tree) -> bool:
    return (
        isinstance(tree, str | int | float | bool)
        and tree == tree
        and abs(tree if not isinstance(tree, str) else 0) < 1e300
    )


def spoil(content: bytes, r: random.Random) -> bytes:
    """What happens to bytes, whatever they mean."""
    at, size = r.randrange(len(content) + 1), len(content)
    match r.randrange(12):
        case 0:
            return content[:at]
        case 1:
            return content[at:]
        case 2:
            flipped = bytearray(content or b"\0")
            for _ in range(r.choice((1, 1, 3, 30))):
                flipped[r.randrange(len(flipped))] = r.randrange(256)
            return bytes(flipped)
        case 3:
            return (
                content[:at]
                + r.choice((b"\0", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b'"', b"'", b"#", b"\r"))
                + content[at:]
            )
        case 4:
            return b"\xef\xbb\xbf" + content
        case 5:
            return content.replace(b"\n", b"\r\n")
        case 6:
            return content.decode("utf-8", "replace").encode(
                r.choice(("utf-16", "utf-16-le", "utf-32", "latin-1")), "replace"
            )
        case 7:
            return content + content
        case 8:
            return content[:at] + content[min(size, at + r.randrange(1, 200)) :]
        case 9:
            rows = content.split(b"\n")
            a, b = r.randrange(len(rows)), r.randrange(len(rows))
            rows[a], rows[b] = rows[b], rows[a]
            return b"\n".join(rows)
        case 10:
            return r.choice(
                (
                    b"",
                    b"\n",
                    b"{}",
                    b"[]",
                    b"null",
                    b"0",
                    b" " * 100_000,
                    b"a." * 50_000 + b"b = 1",
                    b"[[a]]\n" * 50_000,
                )
            )
        case _:
            return content.replace(b".", b",", r.choice((1, -1))) if r.random() < 0.5 else content.replace(b"\n", b"\r")
