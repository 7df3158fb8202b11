"""Where in a TOML text a key stands: tomllib gives values without positions, a refusal must name the line."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")
# Longest delimiters first. Basic strings know backslash escapes, literal ones do not; up to two extra quotes
# may stand directly before a closing triple quote and belong to the string.
_STRING = re.compile(
    r'"""(?:\\[\s\S]|[^\\])*?"{3,5}(?!")' r"|'''[\s\S]*?'{3,5}(?!')" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'"
)


def locate(text: str) -> Mapping[KeyPath, int]:
    """The line (from 1) of every key and array element of a TOML text that tomllib accepts.

    A path holds table keys as str and array positions as int, `("topology", "links", 3, "bandwidth")`. Text
    that tomllib refuses gives ValueError or a wrong answer.
    """
    return _Scanner(text).scan()


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """The line of `path`, or of the nearest key above it that the file has; 1 when it has none."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 1


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self.lines: dict[KeyPath, int] = {}
        self.table_arrays: dict[KeyPath, int] = {}  # how many elements of each [[array]] so far

    def scan(self) -> Mapping[KeyPath, int]:
        table: KeyPath = ()
        self.skip(_BLANK)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.assignment(table)
            self.skip(_BLANK)
        return self.lines

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"not TOML at line {self.line(self.at)}")
        self.at = match.end()
        return match.group()

    def expect(self, token: str) -> None:
        if not self.text.startswith(token, self.at):
            raise ValueError(f"not TOML at line {self.line(self.at)}: {token!r} expected")
        self.at += len(token)

    def line(self, at: int) -> int:
        return bisect_right(self.starts, at)

    def note(self, path: KeyPath, at: int) -> None:
        self.lines.setdefault(path, self.line(at))

    def key(self) -> list[tuple[str, int]]:
        """The parts of a dotted key with their offsets."""
        parts: list[tuple[str, int]] = []
        while True:
            self.skip(_BLANK)
            start = self.at
            quote = self.text[self.at : self.at + 1]
            if quote in ('"', "'"):
                literal = self.skip(_STRING)[1:-1]
                part = _unescape(literal) if quote == '"' else literal
            else:
                part = self.skip(_BARE_KEY)
            parts.append((part, start))
            self.skip(_BLANK)
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def header(self) -> KeyPath:
        is_array = self.text.startswith("[[", self.at)
        self.at += 2 if is_array else 1
        parts = self.key()
        path: KeyPath = ()
        for index, (part, start) in enumerate(parts):
            path = (*path, part)
            self.note(path, start)
            if is_array and index == len(parts) - 1:
                self.table_arrays[path] = self.table_arrays.get(path, 0) + 1
            if path in self.table_arrays:  # [a.b] below [[a]] means the latest a
                path = (*path, self.table_arrays[path] - 1)
                self.note(path, start)
        self.expect("]]" if is_array else "]")
        return path

    def assignment(self, table: KeyPath) -> None:
        path = table
        for part, start in self.key():
            path = (*path, part)
            self.note(path, start)
        self.expect("=")
        self.value(path)

    def value(self, path: KeyPath) -> None:
        self.skip(_BLANK)
        first = self.text[self.at : self.at + 1]
        if first in ('"', "'"):
            self.skip(_STRING)
        elif first == "[":
            self.sequence(path, "]")
        elif first == "{":
            self.sequence(path, "}")
        else:
            self.skip(_SCALAR)

    def sequence(self, path: KeyPath, end: str) -> None:
        """An array's elements or an inline table's assignments, up to `end`."""
        self.at += 1
        position = 0
        self.skip(_BLANK)
        while not self.text.startswith(end, self.at):
            if end == "}":
                self.assignment(path)
            else:
                self.note((*path, position), self.at)
                self.value((*path, position))
                position += 1
            self.skip(_BLANK)
            if not self.text.startswith(end, self.at):
                self.expect(",")
                self.skip(_BLANK)
        self.at += 1


_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|x([0-9A-Fa-f]{2})|(.))")
_SHORT = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


def _unescape(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        code = match[1] or match[2] or match[3]
        return chr(int(code, 16)) if code else _SHORT.get(match[4], match[4])

    return _ESCAPE.sub(one, text)
