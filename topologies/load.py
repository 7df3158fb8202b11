"""The catalog of machines and GPUs, and a user's own files: the way in to this package.

Reading a file needs pydantic, which costs as much to import as the rest of this package together; it is
imported when the first file is read.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path

from .cluster import Cluster, Gpu

_HERE = Path(__file__).resolve().parent


class FileError(ValueError):
    """A file that breaks a rule: `str()` is `file:line: rule`."""

    def __init__(self, path: Path, line: int, rule: str) -> None:
        super().__init__(f"{path}:{line}: {rule}")
        self.path = path
        self.line = line
        self.rule = rule


def cluster_names() -> tuple[str, ...]:
    """The catalog's machines, sorted."""
    return _names("machines")


def gpu_names() -> tuple[str, ...]:
    """The catalog's GPUs, sorted."""
    return _names("gpus")


def load_cluster(name_or_path: str | Path) -> Cluster:
    """A catalog machine by name, or a user's by the path of its TOML file (`.toml` at the end, or a `/`).

    ValueError for an unknown name, with near matches; `FileError` (a ValueError) for a file that breaks a
    rule.
    """
    path = _file(name_or_path, "cluster", cluster_names())
    if path is None:
        return _catalog_cluster(str(name_or_path))
    from .files import read_cluster

    return read_cluster(path)


def load_gpu(name_or_path: str | Path) -> Gpu:
    """A catalog GPU by name, or a user's by path; errors as `load_cluster`."""
    path = _file(name_or_path, "gpu", gpu_names())
    if path is None:
        return _catalog_gpu(str(name_or_path))
    from .files import read_gpu

    return read_gpu(path)


@cache
def _names(folder: str) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in (_HERE / folder).glob("*.toml")))


@cache
def _catalog_cluster(name: str) -> Cluster:
    from .files import read_cluster

    return read_cluster(_HERE / "machines" / f"{name}.toml")


@cache
def _catalog_gpu(name: str) -> Gpu:
    from .files import read_gpu

    return read_gpu(_HERE / "gpus" / f"{name}.toml")


def _file(name_or_path: str | Path, what: str, known: tuple[str, ...]) -> Path | None:
    """None for a catalog name, else the path of an existing file; ValueError for anything else."""
    text = str(name_or_path)
    if text in known:
        return None
    if not (isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text or "\\" in text):
        raise ValueError(unknown(what, text, known))
    path = Path(name_or_path)
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    return path


def unknown(what: str, given: str, known: tuple[str, ...]) -> str:
    """The sentence that refuses a name, with the nearest known ones."""
    near = get_close_matches(given, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return f"unknown {what} {given!r}; {hint} (or the path of a .toml file)"
