"""Pages and their fenced blocks: one way to read them, for every test of pages.

What a fence says:

    ```console          lines that begin with `$ ` are commands, `\\` at an end goes on; what follows one is its output
    ```                 the same; without any `$ ` every line is a command, if the first one is ours
    ```python           run, block by block, in one module for the whole page
    ```toml title="plan.toml"      a file that later blocks find; text, json, csv too; or `<!-- file: NAME -->` above it
    ```sh title="not run by tests: WHY"      any block so titled is not run, only listed; its commands must exist
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_RUN = "not run by tests: "
OURS = ("thinwire", "make", "export")
# Blocks that other tests run, because they need two ranks, a process of their own, or a script beside the page.
ELSEWHERE = {
    "docs/own-codec.md": "tests/test_own_codec.py",
    "docs/examples/": "tests/test_examples.py",
    "docs/papers.md": "tests/validation/papers",
}
_BLOCK = re.compile(
    r'(?:^<!-- file: (?P<file>\S+) -->\n)?^```(?P<kind>\w*)(?: title="(?P<title>[^"]*)")?\n(?P<text>.*?)^```$',
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block. `page` is its path in the repository, `title` what its fence says of it."""

    page: str
    line: int
    kind: str
    title: str
    text: str

    @property
    def why_not(self) -> str:
        """Why no test runs it; empty where one does."""
        return self.title.removeprefix(NOT_RUN) if self.title.startswith(NOT_RUN) else ""

    @property
    def commands(self) -> list[tuple[str, str]]:
        """(command, what it is shown to print), of a block of commands."""
        if self.kind not in ("", "console", "sh"):
            return []
        prompted = self.text.startswith("$ ") or "\n$ " in self.text
        if not (self.kind or prompted or self.text.split()[0] in OURS):  # a tree, a drawing
            return []
        found: list[tuple[str, str]] = []
        for line in self.text.replace("\\\n", "").splitlines():
            if line.startswith("$ ") or (not prompted and line.strip()):
                found.append((line.removeprefix("$ "), ""))
            elif found and line.strip():
                found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
        return found

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """README and every page of docs/ but decisions, which say how things were, by path in the repository."""
    found = (path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", *sorted(page for page in found if not page.startswith("docs/decisions/"))]


def text_of(page: str) -> str:
    """A page's text."""
    return (ROOT / page).read_text("utf-8")


def blocks_of(page: str) -> list[Block]:
    """Its blocks, in order."""
    text = text_of(page)
    return [
        Block(page, text.count("\n", 0, at.start()) + 1, at["kind"], at["file"] or at["title"] or "", at["text"])
        for at in _BLOCK.finditer(text)
    ]


def elsewhere(page: str) -> str | None:
    """Which other test runs a page's blocks."""
    return next((test for start, test in ELSEWHERE.items() if page.startswith(start)), None)


def words_of(command: str) -> list[str]:
    """A command line as a shell would part it, comments left out."""
    return shlex.split(command, comments=True)
