"""What the catalog's machines and GPUs are called, which file a name or a path means, and how one is refused."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

from thinwire.edge.reading import is_there
from thinwire.edge.words import meant, place, shown

_HERE = Path(__file__).resolve().parent

Kind = Literal["cluster", "gpu"]
_FOLDERS = {"cluster": "machines", "gpu": "gpus"}


class FileError(ValueError):
    """A file that breaks a rule: `str()` is `file:line: rule`."""

    def __init__(self, path: Path, line: int, rule: str) -> None:
        super().__init__(f"{place(path)}:{line}: {rule}")
        self.path = path
        self.line = line
        self.rule = rule


@cache
def names(what: Kind) -> tuple[str, ...]:
    """The catalog's, sorted."""
    return tuple(sorted(path.stem for path in (_HERE / _FOLDERS[what]).glob("*.toml")))


def shipped(what: Kind, name: str) -> Path:
    """The file of a catalog name."""
    return _HERE / _FOLDERS[what] / f"{name}.toml"


def own_file(what: Kind, name_or_path: str | Path) -> Path | None:
    """None for a catalog name, else the path of an existing file; ValueError for anything else."""
    text = str(name_or_path)
    if text in names(what):
        return None
    if not (isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text or "\\" in text):
        if "." in text and not is_there(text):  # no name of the catalog has a dot: a file was meant
            raise ValueError(f"no such file: {place(text)} (nor is it a {what} of the catalog)")
        raise ValueError(unknown(what, text))
    if not is_there(name_or_path):
        raise ValueError(f"no such file: {place(text)}")
    return Path(name_or_path)


def unknown(what: Kind, given: str) -> str:
    """The sentence that refuses a name, with the nearest known ones."""
    known = names(what)
    hint = meant(given, known, cutoff=0.4) or f"known: {', '.join(known)}"
    return f"unknown {what} {shown(given)}; {hint} (or the path of a .toml file)"
