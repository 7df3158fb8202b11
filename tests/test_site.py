"""The site builds without a warning, all its links and anchors lead somewhere, and reading it fetches nothing."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from .pages import ROOT

pytest.importorskip("zensical", reason="the extra docs is not installed")
pytestmark = pytest.mark.xdist_group("site")  # built once
CHROMIUM = Path("/usr/bin/chromium")
GENERATED = {"reference/commands.md", "decisions/index.md"}
# Classes for which the theme's script would load somebody else's from a CDN, and what it asks GitHub for.
FETCHING = ("mermaid", "pyodide", "glightbox", "arithmatex")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built anew."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, str(ROOT / "docs" / "site" / "build.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    assert done.returncode == 0 and "No issues found" in said, said[-4000:]
    return folder / "site"


class Page(HTMLParser):
    """What a page refers to, and what in it can be referred to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[tuple[str, str]] = []  # (tag, where to)
        self.anchors: set[str] = set()
        self.classes: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found.get("id", ""), found.get("name", "")} - {""}
        self.classes |= {*found.get("class", "").split()}
        self.links += [(tag, found[name]) for name in ("href", "src", "data", "poster") if name in found]
        self.links += [(tag, part.split()[0]) for part in found.get("srcset", "").split(",") if part.strip()]


@pytest.fixture(scope="module")
def read(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def _nav(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else (entry,):
            yield from _nav(value) if isinstance(value, list) else (value,)


def test_every_page_is_in_the_navigation() -> None:
    """Decisions are listed on a page of theirs."""
    listed = [*_nav(tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))["project"]["nav"])]
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(listed) == len({*listed})
    assert {*listed} == {page for page in written if not page.startswith("decisions/")} | GENERATED


def test_links_anchors_and_images_lead_somewhere(site: Path, read: dict[Path, Page]) -> None:
    assert len(read) > 70
    for path, page in read.items():
        if path.name == "404.html":  # served from anywhere, so it is written for the root
            continue
        for tag, link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists() and target.is_relative_to(site), f"{path.name}: {tag} {link}"
            if parts.fragment and target.suffix == ".html":
                anchors = read[target].anchors
                assert unquote(parts.fragment) in anchors, f"{path.name}: no {parts.fragment} in {target.name}"


def test_a_page_is_staged_for_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    """Links out of docs/, lists, titles for file names, and prompts; what stands in a block is left alone."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    staged = runpy.run_path(str(ROOT / "docs" / "site" / "build.py"))["staged"]

    def text(page: str, at: str = "schemes/index.md") -> str:
        made: str = staged(page, Path(at))
        return made

    assert text("[the list](../../edge/limits.py) holds") == "the list (`edge/limits.py`) holds"
    assert text("[edge/limits.py](../edge/limits.py)", "limits.md") == "`edge/limits.py`"
    assert text("[models.md](../models.md#x)") == "[Models: which are read, and what of them](../models.md#x)"
    assert text("[by MX](mx.md), [there](https://example.org/a)") == "[by MX](mx.md), [there](https://example.org/a)"
    assert text("so:\n- a\n  b\n- c\n") == "so:\n\n- a\n  b\n- c\n"
    block = "```console\n$ thinwire predict \\\n    --x\n$ make demo\n```"
    assert text(block) == "```sh\nthinwire predict \\\n    --x\nmake demo\n```"
    titled = '```sh title="not run by tests: it installs"\nmake ui\n```'
    assert text(titled) == "```sh\nmake ui\n```", "what tests do is no reader's"
    for alone in (
        "```console\n$ thinwire models\nllama\n```",
        "```text\n[a](../../b.py)\n- c\n```",
        "```\nedge/ in\n```",
    ):
        assert text(alone) == alone


def test_every_decision_is_listed(site: Path, read: dict[Path, Page]) -> None:
    found = {link for _, link in read[site / "decisions" / "index.html"].links}
    assert {f"{path.stem}.html" for path in (ROOT / "docs" / "decisions").glob("*.md")} <= found


def test_reading_it_fetches_nothing(site: Path, read: dict[Path, Page]) -> None:
    """No font, script, style or picture of others; nothing for which the theme's script would load one."""
    for path, page in read.items():
        for tag, link in page.links:
            assert tag == "a" or not urlsplit(link).netloc or link.startswith(("data:",)), f"{path.name}: {tag} {link}"
        assert not page.classes & {*FETCHING}, path.name
        assert 'data-md-component="source"' not in path.read_text("utf-8"), "a repository's facts would be fetched"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\(['\"]?(?:https?:)?//", sheet.read_text("utf-8")), sheet.name


@pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium is not installed at /usr/bin/chromium")
def test_a_browser_opens_it_from_a_folder_and_asks_nobody(site: Path) -> None:
    """Every family's page and the start, from file://: pictures are drawn, no error, no request elsewhere."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    pages = [site / "index.html", site / "reference" / "api.html", *sorted((site / "schemes").glob("*.html"))]
    asked: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        for path in pages:
            page.goto(path.as_uri())
            undrawn = "[...document.images].filter(image => !image.naturalWidth).map(image => image.src)"
            assert page.evaluate(undrawn) == [], path.name
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
