"""Builds the site: `make docs`, or with a folder in the repository to build in (`build` where none is given).

Pages in docs/ are written to be read in the repository. Before Zensical renders them they are copied, and of the copies

- links that leave docs/ become words with the path behind them, for what they lead to is no page;
- links whose words are a page's file name get its title instead;
- lists get the empty line that Python-Markdown wants before them;
- titles that tell why tests do not run a block are left out;
- blocks of commands lose their prompts, for what is copied to run, and long lines are wrapped;
- pictures may be scrolled sideways on a narrow screen;
- what would be written twice is made: every option of every command, and the list of decisions.
"""

import re
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import reference

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^(```|~~~).*?^\1[ ]*$", re.MULTILINE | re.DOTALL)
_COMMANDS = re.compile(
    r"```(?:console)?(?P<title> title=[^\n]*)?\n(?P<text>(?:\$ )?(?:thinwire|make|export) .*)```\s*", re.DOTALL
)
_NOT_RUN = re.compile(r' title="not run by tests: [^"]*"')
_LINK = re.compile(r"(?<!!)\[((?:[^][]|\[[^]]*\])*)\]\(([^()\s:]+)\)")
_ITEM = re.compile(r"^(?:[-*]|\d+\.) ")
_PICTURE = re.compile(r"^(!\[[^]]*\]\([^)]+\.svg\))$", re.MULTILINE)


def staged(text: str, page: Path) -> str:
    """A page's text as the site wants it. page: its path in docs/, which links are relative to."""
    at, parts = 0, []
    for fence in _FENCE.finditer(text):
        parts += [_prose(text[at : fence.start()], page), _fence(fence[0])]
        at = fence.end()
    return "".join([*parts, _prose(text[at:], page)])


def _prose(text: str, page: Path) -> str:
    text = _LINK.sub(lambda link: _inside(link[0], link[1], link[2], page), text)
    text = _PICTURE.sub(r"\1\n{ .wide }", text)
    lines: list[str] = []
    for line in text.split("\n"):
        before = lines[-1] if lines else ""
        if _ITEM.match(line) and before.strip() and not before.startswith(" ") and not _ITEM.match(before):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def _fence(text: str) -> str:
    """Commands as a shell has them, without prompts, so that they can be copied; with what they print as they are."""
    text = _NOT_RUN.sub("", text, count=1)
    found = _COMMANDS.fullmatch(text)
    if found is None:
        return text
    lines = found["text"].splitlines()
    prompts = [line.startswith("$ ") or before.endswith("\\") for before, line in pairwise(["", *lines])]
    if any(prompts) and not all(prompts):
        return text
    commands = "".join(f"{line.removeprefix('$ ')}\n" for line in found["text"].splitlines())
    return f"```sh{found['title'] or ''}\n{commands}```"


def _inside(whole: str, words: str, target: str, page: Path) -> str:
    path = target.partition("#")[0]
    leads = (DOCS / page.parent / path).resolve() if path else DOCS
    if leads.is_relative_to(DOCS) and leads.suffix in ("", ".md", ".svg"):
        if leads.is_dir():
            return words
        named = words.strip("`") in (leads.name, path) and leads.suffix == ".md"
        return f"[{title_of(leads)}]({target})" if named else whole
    shown = leads.relative_to(ROOT).as_posix()
    plain = words.strip("`")
    return f"`{shown}`" if plain in (shown, path) or shown.endswith(f"/{plain}") else f"{words} (`{shown}`)"


def title_of(page: Path) -> str:
    """Its first heading."""
    found = re.search(r"^# (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return found[1] if found else page.stem


def stage(target: Path) -> None:
    """Copy docs/ to `target`, pages rewritten, and add what is made."""
    shutil.rmtree(target, ignore_errors=True)
    for source in sorted(DOCS.rglob("*")):
        page = source.relative_to(DOCS)
        if source.suffix not in (".md", ".svg", ".css") or not source.is_file():
            continue
        (target / page).parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            (target / page).write_text(staged(source.read_text("utf-8"), page), "utf-8")
        else:
            shutil.copyfile(source, target / page)
    (target / "reference").mkdir(exist_ok=True)
    (target / "reference" / "commands.md").write_text(reference.commands(), "utf-8")
    (target / "decisions" / "index.md").write_text(reference.decisions(DOCS / "decisions"), "utf-8")


def config(target: Path) -> str:
    """zensical.toml as it is, its folders under `target`."""
    text = (ROOT / "zensical.toml").read_text("utf-8")
    for name in ("pages", "site"):
        text = text.replace(f'"build/{name}"', f'"{name}"')
    text = text.replace('paths = ["src"]', f"paths = ['{ROOT / 'src'}']")
    tomllib.loads(text)
    return text


def build(target: Path) -> int:
    """Stage and build into `target`/site; Zensical's exit status, not 0 where it warned."""
    target.mkdir(parents=True, exist_ok=True)
    stage(target / "pages")
    (target / "zensical.toml").write_text(config(target), "utf-8")
    shutil.rmtree(target / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "-f", str(target / "zensical.toml")]
    status = subprocess.run(command, cwd=target, check=False).returncode
    if not status:
        print(f"the site lies in {target / 'site'}: open {target / 'site' / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build").resolve()))
