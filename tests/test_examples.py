"""The gallery: pages say what their scripts find now, commands and snippets on them run, and answers hold.

A script has `answer()`, what it finds, and `said(answer)`, sentences of that, one a printed line. A page quotes such
sentences, each a `>` paragraph, and takes its figures from nowhere else.
"""

import contextlib
import io
import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import thinwire

from .command import Capture, run

ROOT = Path(__file__).resolve().parent.parent
STEMS = (
    "buy-l40s-or-rtx-pro-6000",
    "int4-on-my-4090s",
    "ttft-slo-at-3-requests",
    "a-slow-socket-link",
    "deepseek-on-pcie",
    "my-own-codec",
)
NUMBER, GPUS = r"\d[\d,.]*\d|\d", r"RTX PRO 6000|\b4090s?\b"
NEEDS_TORCH = "my-own-codec"


@cache
def script(stem: str) -> dict[str, Any]:
    """Its names."""
    if stem == NEEDS_TORCH:
        pytest.importorskip("torch", reason="a codec's error is measured on tensors")
    return runpy.run_path(str(ROOT / "examples" / "gallery" / f"{stem.replace('-', '_')}.py"))


@cache
def found(stem: str) -> Any:
    """Its answer, looked for once."""
    return script(stem)["answer"]()


@cache
def lines(stem: str) -> tuple[str, ...]:
    """What it prints."""
    return tuple(script(stem)["said"](found(stem)))


def page(stem: str) -> str:
    return (ROOT / "docs" / "examples" / f"{stem}.md").read_text("utf-8")


def joined(text: str) -> str:
    return " ".join(text.split())


def quoted(text: str) -> list[str]:
    """The `>` paragraphs of a page, each in one line."""
    return [joined(re.sub(r"^> ?", "", each, flags=re.MULTILINE)) for each in re.findall(r"(?:^>.*\n)+", text, re.M)]


def prose(text: str) -> str:
    """A page less its quotations, fenced blocks, code spans and targets of links."""
    for other in (r"^```.*?^```$", r"^>.*$", r"`[^`\n]*`", r"\]\([^)]*\)", r"^<!--.*?-->$"):
        text = re.sub(other, " ", text, flags=re.MULTILINE | re.DOTALL if "```" in other else re.MULTILINE)
    return text


def blocks(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_every_script_is_a_page_and_every_page_a_script() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "examples").glob("*.md")} - {"index"}
    scripts = {path.stem for path in (ROOT / "examples" / "gallery").glob("*.py")}
    assert pages == {*STEMS} and scripts == {stem.replace("-", "_") for stem in STEMS}


@pytest.mark.parametrize("stem", STEMS)
def test_a_page_says_what_its_script_prints(stem: str) -> None:
    """The answer comes first. A figure that is out of date: paste what the script prints now."""
    text, printed = page(stem), lines(stem)
    said = quoted(text)
    assert said[0] == printed[0], f"the answer is now: {printed[0]}"
    for each in said:
        assert each in printed, f"{stem}.md quotes what the script no longer prints; it prints:\n" + "\n".join(printed)
    assert {*printed} <= {*said}, "a figure worth printing is worth a place on the page"
    assert all(joined(line) == line for line in printed)
    # Numbers in the page's own words are the script's, too: of quantities, not of names such as INT4 or RTX PRO 6000.
    known = {*re.findall(NUMBER, " ".join(printed))}
    own = re.findall(rf"(?<![\w.,-])({NUMBER})(?![\w-])", re.sub(GPUS, "", prose(text)))
    assert {*own} <= known, f"{stem}.md: numbers that its script does not print: {sorted({*own} - known)}"


@pytest.mark.parametrize("stem", STEMS)
def test_a_page_is_short_and_its_links_lead_somewhere(stem: str) -> None:
    text = page(stem)
    assert len(text.splitlines()) <= 80 and max(map(len, text.splitlines())) <= 120
    for heading in ("How it was found", "What it rests on", "What would flip it"):
        assert text.count(f"\n## {heading}\n") == 1
    targets = re.findall(r"\]\(([^)#:]+)[^)]*\)", text)
    assert f"../../examples/gallery/{stem.replace('-', '_')}.py" in targets
    for target in targets:
        assert (ROOT / "docs" / "examples" / target).exists(), target


@pytest.mark.parametrize("stem", STEMS)
def test_commands_and_snippets_of_a_page_run(
    stem: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the page; what a snippet prints is on the page."""
    script(stem)  # skips where torch is not
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    ran = 0
    for kind, block in re.findall(r"^```(console|python)\n(.*?)^```$", page(stem), re.MULTILINE | re.DOTALL):
        if kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block, f"{stem}.md", "exec"), {"__name__": "snippet"})
            first = out.getvalue().splitlines()[0]
            assert first in lines(stem), f"the snippet prints {first!r}, which the script does not"
        for line in block.replace("\\\n", "").splitlines() if kind == "console" else ():
            words = shlex.split(line, comments=True)
            if words[:2] != ["$", "thinwire"]:
                assert words[:2] == ["$", "export"], line
                for word in words[2:]:
                    monkeypatch.setenv(*word.split("=", 1))
                continue
            status, _, err = run(capsys, *words[2:])
            assert status == 0, (words, err)
            ran += 1
    assert ran >= 1 and blocks(page(stem), "python")


def test_a_script_runs_from_any_folder(tmp_path: Path) -> None:
    """As its first lines say; one of them, for all have the same main."""
    path = ROOT / "examples" / "gallery" / "int4_on_my_4090s.py"
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert tuple(done.stdout.splitlines()) == lines("int4-on-my-4090s")
