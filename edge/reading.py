"""The one way in for files of the user's: read once, up to a size, as text of one encoding, nested so deep and no more.

A path may be a file or a pipe. Devices that never end are cut where a file would be. Every fault is an
`UnreadableError` that says which file, and what is wrong with it; nobody else opens or parses what a user names.
"""

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NoReturn

from thinwire.edge.limits import JSON_BYTES, LINE_BYTES, NESTING, TOML_BYTES, WHOLE
from thinwire.edge.words import cut, place, shown

_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_BEFORE_A_KEY = re.compile(r"[{,\[]")


class UnreadableError(ValueError):
    """A file that cannot be read as what it should be. reason: without the file's name. line: from 1; 0: unknown."""

    def __init__(self, path: str | Path, what: str, reason: str, line: int = 0) -> None:
        where = f"{place(path)}:{line}" if line else place(path)
        super().__init__(f"cannot read {what} {where}: {reason}")
        self.reason, self.line = reason, line


def is_there(path: str | Path) -> bool:
    """Whether a path names something that can be read: a file, a pipe. Names that no file can have are not there."""
    return os.path.exists(path) and not os.path.isdir(path)


def is_regular(path: str | Path) -> bool:
    """Whether a path names a file that gives the same when it is read again."""
    return os.path.isfile(path)


def beside(folder: Path, name: str, whose: str) -> str:
    """A name in a file as a path: of what lies where that file does, else the name as it is, which may be a catalog's.

    ValueError for what lies in the working directory alone: paths in a file are relative to it. whose: that file.
    """
    path = folder / name
    if not is_there(path) and is_there(name):
        raise ValueError(f"no such file: {place(path)} (paths are relative to {whose})")
    return str(path) if is_there(path) else name


def content(path: str | Path, what: str, most: int) -> bytes:
    """All bytes of a file or a pipe, at most so many."""
    try:
        with open(path, "rb", buffering=0) as file:
            parts, left = [], most + 1
            while left and (part := file.read(min(left, 1 << 20))):
                parts.append(part)
                left -= len(part)
    except OSError as error:
        raise UnreadableError(path, what, error.strerror or str(error)) from None
    except ValueError as error:  # a null character in the path
        raise UnreadableError(shown(str(path)), what, str(error)) from None
    if not left:
        raise UnreadableError(path, what, f"it holds more than {most} bytes")
    return b"".join(parts)


def text(path: str | Path, what: str, most: int) -> str:
    """The same as UTF-8 text, lines ended by "\\n", without the mark that some editors put first."""
    found = content(path, what, most)
    try:
        return found.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise UnreadableError(path, what, "not UTF-8 text", found[: error.start].count(b"\n") + 1) from None


def lines(path: str | Path, what: str, most: int, kept: bytes | None = None) -> Iterator[str]:
    """The lines of a text, one by one: as long as the file is, no memory is taken. At most so many bytes, and
    `LINE_BYTES` a line. kept: the file's content, where it could be read but once.
    """
    number, left = 0, most
    try:
        with open(path, "rb") if kept is None else BytesIO(kept) as file:
            while line := file.readline(LINE_BYTES.most + 1):
                number, left = number + 1, left - len(line)
                if len(line) > LINE_BYTES.most:
                    raise UnreadableError(path, what, f"a line of more than {LINE_BYTES.most} bytes", number)
                if left < 0:
                    raise UnreadableError(path, what, f"it holds more than {most} bytes", number)
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise UnreadableError(path, what, "not UTF-8 text", number) from None
    except OSError as error:
        raise UnreadableError(path, what, error.strerror or str(error)) from None
    except ValueError as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(shown(str(path)), what, str(error)) from None


def is_endless(path: str | Path) -> bool:
    """Whether a path can be read but once, or gives something else each time: a pipe, a device."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


# ---- JSON


def from_json(path: str | Path, what: str, constants: bool = False) -> Any:
    """What a JSON file holds: finite numbers, no key twice, whole numbers of 64 bits.

    constants: NaN and Infinity, which Python writes, may be in it; whoever reads a number then sees to it himself.
    """
    return parsed_json(text(path, what, JSON_BYTES.most), path, what, constants)


def parsed_json(given: str, path: str | Path, what: str, constants: bool = False) -> Any:
    """The same of a text already read."""
    try:
        found = json.loads(
            given,
            object_pairs_hook=_object,
            parse_float=float if constants else _float,
            parse_int=_int,
            parse_constant=float if constants else _constant,
        )
    except json.JSONDecodeError as error:
        raise UnreadableError(path, what, f"not JSON: {error.msg}", error.lineno) from None
    except RecursionError:
        raise _too_deep(path, what) from None
    except ValueError as error:
        raise UnreadableError(path, what, str(error)) from None
    if _deeper(found, NESTING.most):
        raise _too_deep(path, what)
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)} is given twice in one object")
    return found


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"numbers are finite: {cut(text)}")
    return value


def _int(text: str) -> int:
    # The digits of one that is too long are not even converted: that takes quadratic time.
    if len(text) > 20 or not WHOLE.holds(value := int(text)):
        raise ValueError(f"whole numbers have 64 bits: {cut(text)}")
    return value


def _constant(text: str) -> NoReturn:
    raise ValueError(f"numbers are finite: {text}")


# ---- TOML


def parsed_toml(given: str, path: str | Path, what: str) -> dict[str, Any]:
    """What a TOML text holds; nothing that it could not hold by its specification, and finite numbers."""
    if line := _long_key(given):
        raise _too_deep(path, what, "malformed TOML: ", line)
    try:
        found = tomllib.loads(given)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        where = re.search(r" ?\((?:at line (\d+), column \d+|at end of document)\)", message)
        line = int(where[1]) if where and where[1] else given.rstrip().count("\n") + 1
        rule = message.replace(where[0], "") if where else message
        raise UnreadableError(path, what, f"malformed TOML: {cut(rule, 2 * 80)}", line) from None
    except RecursionError:
        raise _too_deep(path, what, "malformed TOML: ", 1) from None
    except ValueError as error:  # a number of thousands of digits, a date that is none
        raise UnreadableError(path, what, f"malformed TOML: {error}", 1) from None
    if _deeper(found, NESTING.most):
        raise _too_deep(path, what, "malformed TOML: ", 1)
    for number in _whole_numbers(found):
        if number.bit_length() > 128:  # nobody's, and too long to be said; for 65 bits whoever asked knows the line
            raise UnreadableError(path, what, f"whole numbers have 64 bits: {cut(hex(number))}")
    return found


def _whole_numbers(value: Any) -> Iterator[int]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _whole_numbers(inner)
    elif isinstance(value, int):
        yield value


def _long_key(given: str) -> int:
    """The line of a key of too many parts, 0 where there is none: each part is a table in a table, and reading them
    takes quadratic time. A guess from the text, in linear time: dots outside quotes and comments, before a `=` or in a
    header.
    """
    for number, line in enumerate(given.split("\n"), 1):
        if line.count(".") >= NESTING.most:
            plain = _QUOTED.sub("", line).partition("#")[0]
            keys = plain.split("=")
            keys = keys if plain.lstrip().startswith("[") else keys[:-1]
            if any(_BEFORE_A_KEY.split(key)[-1].count(".") >= NESTING.most for key in keys):
                return number
    return 0


def from_toml(path: str | Path, what: str) -> dict[str, Any]:
    """What a TOML file holds."""
    return parsed_toml(text(path, what, TOML_BYTES.most), path, what)


def _too_deep(path: str | Path, what: str, before: str = "", line: int = 0) -> UnreadableError:
    return UnreadableError(path, what, f"{before}nested more than {NESTING.most} deep", line)


def _deeper(value: Any, most: int) -> bool:
    """Whether tables and lists lie in each other more than so deep; in no stack of its own."""
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True
