"""What others' modules rest on: their source, and that of what they import from beside them, none of it run for it.

Beside a module lies what has its top package, or whose top package or module lies in the same folder, unless packages
are installed there. What is found by a name made at run time is not followed.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.util import find_spec, resolve_name
from pathlib import Path

MAINS = ("__main__", "__mp_main__")  # of this process; of one that multiprocessing started
_IMPORTERS = ("import_module", "__import__")


def sources(names: Iterable[str]) -> dict[str, bytes]:
    """Source of modules and of what they import from beside them, by name; of one that has no file it is empty.

    Raises ValueError for the main module where it has none: nobody can tell whether it has changed.
    """
    seen: dict[str, bytes] = {}
    waiting = [(name, *_located(name)) for name in sorted(set(names))]
    while waiting:
        name, true_name, path = waiting.pop()
        if name in seen:
            continue
        seen[name] = b"" if path is None else path.read_bytes()
        if path is not None and path.suffix == ".py":
            root = _root(true_name, path)
            package = true_name if path.stem == "__init__" else true_name.rpartition(".")[0]
            for imported in _imported(seen[name], package, true_name.partition(".")[0]):
                waiting += _beside(imported, true_name, root)
    return seen


def _located(name: str) -> tuple[str, Path | None]:
    """A module's true name and its file."""
    module = sys.modules.get(name)
    if module is None:
        try:
            spec = find_spec(name)
        except (ImportError, ValueError):  # who asks for its numbers hears of it
            spec = None
        given = spec.origin if spec is not None and spec.has_location else None
    else:
        given, spec = getattr(module, "__file__", None), getattr(module, "__spec__", None)
    path = Path(given).absolute() if given else None
    path = path if path is not None and path.is_file() else None
    if name in MAINS:
        if path is None:
            raise ValueError(
                f"results cannot be kept: a codec is made in {name}, which has no file to tell whether it changes; "
                "move it to a module and import that"
            )
        return (path.stem if spec is None else spec.name), path
    return name, path


def _root(name: str, path: Path) -> Path:
    """The folder of a module's top package, or of the module where it is in none."""
    return path.parents[name.count(".") + (path.stem == "__init__")]


def _imported(source: bytes, package: str, top: str) -> Iterator[str]:
    """Names that a module imports, or might: what comes out of a package may be a module of it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (each.name for each in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = module or ""
                if level:
                    try:
                        base = resolve_name("." * level + base, package)
                    except ImportError:  # beyond its top: Python refuses it too
                        continue
                yield base
                yield from (f"{base}.{each.name}" for each in names)
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called), args=[ast.Constant(value=str(said)), *_]
            ):
                if called in _IMPORTERS:
                    yield said
            case ast.Constant(value=str(said)) if said.startswith(f"{top}."):  # of a registry, say
                yield said.partition(":")[0]


def _beside(name: str, importer: str, root: Path) -> Iterator[tuple[str, str, Path]]:
    """A module and the packages it is in, where they lie beside who imports it."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts) or parts[0] == "thinwire":
        return
    if parts[0] != importer.partition(".")[0] and root in _installed():
        return
    for length in range(1, len(parts) + 1):
        stem = root.joinpath(*parts[:length])
        path = next((p for p in (stem / "__init__.py", stem.with_suffix(".py")) if p.is_file()), None)
        if path is not None:
            full = ".".join(parts[:length])
            yield full, full, path


def _installed() -> set[Path]:
    """Where packages are, ours and everybody's."""
    import site

    folders = {*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()}
    return {Path(folder) for folder in folders}
