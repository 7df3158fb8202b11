"""Every block of every page runs, in the page's order, and prints what the page shows. How to mark one: pages.py."""

import json
import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from thinwire.commands.cli import COMMANDS, app
from thinwire.reference.core import lookup

from .command import Capture, run
from .pages import ELSEWHERE, ROOT, Block, blocks_of, elsewhere, pages, text_of, words_of

OF_TWO_RANKS = ("docs/engine.md", "parallelize(model, mesh, plan)")  # run by tests/reference/test_parallel.py
FILES = ("toml", "json", "csv")  # and text, where it has a name: without one it is there to be looked at
# Too long to run here, or never over: how such a command begins, and the test that runs it, or reads its file.
LONG = {
    r"thinwire plan examples/": "tests/sim/planning/test_plan.py",
    r"thinwire sweep examples/": "tests/sim/sweeps/test_kinds.py",
    r"thinwire ui\b": "tests/page/test_browser.py",
    r"thinwire report (?!.*--points)": "tests/page/test_report.py",
}
ALL = [block for page in pages() for block in blocks_of(page)]


def test_every_block_is_of_a_kind_that_is_run_or_says_why_not() -> None:
    """A block nobody runs goes stale. What is marked is listed when this fails, and read by whoever reads the page."""
    for block in ALL:
        known = block.kind in ("", "console", "python", "text", *FILES) or block.why_not
        assert known, f"{block}: a block of {block.kind!r} is run by no test: title it as tests/pages.py says"
        if block.kind in FILES and not elsewhere(block.page):
            assert block.title, f"{block}: which file is it? title=... or <!-- file: ... -->"
    marked = [f"{block}: {block.why_not}" for block in ALL if block.why_not]
    assert len(marked) <= 16, "\n".join(marked)
    assert [test for test in (*ELSEWHERE.values(), *LONG.values()) if not (ROOT / test).exists()] == []


def _commands() -> list[tuple[Block, list[str]]]:
    return [(block, words) for block in ALL for command, _ in block.commands if (words := words_of(command))]


def test_every_command_shown_is_understood() -> None:
    """Names and options exist, also where it is not run; every command is shown somewhere."""
    shown = [(block, words[1:]) for block, words in _commands() if words[0] == "thinwire"]
    assert {words[0] for _, words in shown} >= {*COMMANDS}
    for block, words in shown:
        group: Any = typer.main.get_command(app)
        with group.make_context("thinwire", list(words), resilient_parsing=False) as context:
            name, command, rest = group.resolve_command(context, list(words))
            if hasattr(command, "list_commands"):
                assert rest[0] in command.list_commands(context), f"{block}: {words}"
                continue
            command.make_context(name, list(rest), parent=context)


def test_make_targets_shown_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in pages():
        assert set(re.findall(r"(?:^|`)make ([a-z]+)", text_of(page), re.MULTILINE)) <= targets, page


def test_lines_are_short_and_links_lead_somewhere() -> None:
    for page in pages():
        for number, line in enumerate(text_of(page).splitlines(), 1):
            assert len(line) <= 120 or line.startswith("|"), f"{page}:{number} has {len(line)} characters"
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text_of(page)):
            assert (ROOT / page).parent.joinpath(link).resolve().exists(), f"{page}: {link}"


def test_no_page_repeats_another() -> None:
    """A sentence of a dozen words stands in one place; others link to it."""
    seen: dict[str, str] = {}
    for page in pages():
        if elsewhere(page) == "tests/validation/papers":  # made by a script, one form for every claim
            continue
        prose = re.sub(r"^```.*?^```$|^\|.*?$|<!--.*?-->", "\n\n", text_of(page), flags=re.MULTILINE | re.DOTALL)
        for paragraph in re.split(r"\n\s*\n|^- ", prose, flags=re.MULTILINE):
            for sentence in re.split(r"(?<=[.:;?!])\s+", " ".join(paragraph.split())):
                if len(sentence.split()) >= 12:
                    assert sentence not in seen, f"{page} and {seen[sentence]} both say: {sentence}"
                    seen[sentence] = page


def _your_machine(folder: Path, capsys: Capture) -> None:
    """The last import had all files; a log of one's own takes away what other hosts differ by."""
    assert (folder / "machine.svg").read_text()[:4] == "<svg"
    assert (folder / "machine.toml").read_text().count("peers.txt") == 2
    document = json.loads((folder / "my-fabric.json").read_text("utf-8"))
    assert document["fabric"]["name"] == "l40s-pcie+logs" and document["fabric"]["own"][0] == "nccl"
    asked = ("collective", "--cluster", "machine.toml", "--tp", "4", "--scheme", "nccl", "--bytes", "8388608", "--json")
    shares = [
        json.loads(run(capsys, *asked, *more)[1])["interval_another_host_share"]
        for more in ((), ("--profile", "my-fabric.json"))
    ]
    assert shares[0] > 0.5 and shares[1] == 0.0


AFTERWARDS: dict[str, Callable[[Path, Capture], None]] = {"docs/your-machine.md": _your_machine}


@pytest.mark.parametrize("page", [page for page in pages() if not elsewhere(page)])
def test_blocks_of_a_page_run(page: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of the page's own that has the repository's examples in it."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("THINWIRE_CODECS", raising=False)
    module: dict[str, Any] = {"__name__": "__page__"}
    for block in blocks_of(page):
        if block.why_not:
            continue
        if block.kind == "text" and not block.title:
            continue
        if block.kind in ("text", *FILES):
            Path(block.title).write_text(block.text, "utf-8")
            if block.kind == "toml":
                tomllib.loads(block.text)
        elif block.kind == "python":
            if page == OF_TWO_RANKS[0] and OF_TWO_RANKS[1] in block.text:
                continue
            if "torch" in block.text:
                pytest.importorskip("torch", reason=f"{block} runs tensors")
            exec(compile(block.text, str(block), "exec"), module)
        else:
            for command, shown in block.commands:
                _run(block, command, shown, capsys)
    if after := AFTERWARDS.get(page):
        after(tmp_path, capsys)
    lookup.forget_loaded()


def _run(block: Block, command: str, shown: str, capsys: Capture) -> None:
    words = words_of(command)
    if words[:1] == ["make"] or not words:  # targets are held by their names, above
        return
    if any(re.match(begins, command) for begins in LONG):
        return
    assert words[0] == "thinwire", f"{block}: {shlex.join(words)} is no command of ours: mark its block"
    status, out, err = run(capsys, *words[1:])
    assert status == 0, f"{block}: {command}\n{err[-2000:]}"
    lines = [line.rstrip() for line in out.splitlines()[: len(shown.splitlines())]]
    wanted = [line.rstrip() for line in shown.splitlines()]
    assert lines == wanted, "\n".join([f"{block}: {command} now prints", *lines])
