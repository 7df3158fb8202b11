"""Every codec there is: those that thinwire ships, and others' once they are asked for.

A spec that nobody knows makes us load the modules that installed packages name in the entry-point group
`thinwire_codecs`, and those that the environment variable THINWIRE_CODECS lists; importing them registers their codecs.
So a broken module of somebody's cannot harm who does not use it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib import import_module

from thinwire.edge.words import said, shown
from thinwire.reference.core import builtin, registry
from thinwire.reference.core.registry import Entry, Numerics
from thinwire.reference.core.scheme import Codec

GROUP = "thinwire_codecs"
VARIABLE = "THINWIRE_CODECS"

builtin.register_all()
_loaded: set[str] = set()
_failed: dict[str, str] = {}  # what is said of modules that were run and could not be loaded


def parse_codec(spec: str) -> Codec:
    """The codec of a spec such as `int5-g64-zp`; `parse_codec(codec.spec) == codec`. ValueError otherwise."""
    try:
        found = registry.read(spec)
        if found is None and load():
            found = registry.read(spec)
    except ValueError as error:
        raise ValueError(f"codec spec {shown(spec)}: {error}") from None
    if found is None:
        raise ValueError(f"unknown codec spec {shown(spec)}; allowed: {registry.grammar()}")
    return found


def codecs() -> tuple[Entry, ...]:
    """Every registration, others' too. ValueError where a module of theirs cannot be loaded."""
    load()
    return registry.entries()


def entry_of(codec: Codec) -> Entry:
    """A codec's registration. ValueError where its class has none."""
    return registry.entry_of(codec)


def numerics_of(codec: Codec) -> Numerics:
    """What a codec does on tensors; see `registry.numerics_of`."""
    return registry.numerics_of(codec)


def own_sources() -> dict[str, bytes]:
    """The modules that others' codecs are registered from and made in, and those beside them that they import, with
    their source: results rest on it. ValueError where the main module is one of them and has no file.
    """
    from thinwire.reference.core import origins  # not where nothing is kept

    return origins.sources(name for entry in registry.entries() if entry.own for name in entry.modules)


def load() -> bool:
    """Import the modules that bring codecs, each once: was there a new one?

    Raises ValueError with one sentence for a module that cannot be imported, or whose registration is refused. What it
    registered before is forgotten, and it is not run again: it is said again.
    """
    new = False
    for module, origin in _modules():
        if module in _loaded:
            continue
        if module in _failed:
            raise ValueError(_failed[module])
        entries, modules = registry.entries(), set(sys.modules)
        try:
            import_module(module)
        except BaseException as error:
            _undo(entries, modules)
            if not isinstance(error, Exception | SystemExit):
                raise
            what = said(f"{type(error).__name__}: {error}")
            sentence = f"codecs of module {shown(module)} ({origin}) cannot be loaded: {what}"
            if not (isinstance(error, ModuleNotFoundError) and error.name == module):  # that one may yet appear
                _failed[module] = sentence
            raise ValueError(sentence) from error
        _loaded.add(module)
        new = True
    return new


def _undo(entries: tuple[Entry, ...], modules: set[str]) -> None:
    """Forget what an import registered, and the modules it did so from: who imports them anew gets it."""
    for entry in registry.entries():
        if entry not in entries:
            registry.unregister(entry.kind)
            if entry.kind.__module__ not in modules:
                sys.modules.pop(entry.kind.__module__, None)


def forget_loaded() -> None:
    """Load modules again where they are asked for, also those that failed: for tests, and for one that was mended."""
    _loaded.clear()
    _failed.clear()


def _modules() -> Iterator[tuple[str, str]]:
    """Modules that bring codecs, and who named them."""
    from importlib.metadata import entry_points  # not before a spec is unknown: it costs as much as all of the core

    for point in entry_points(group=GROUP):
        yield point.module, f"entry point {point.name} of {GROUP}"
    for name in os.environ.get(VARIABLE, "").split(","):
        if name.strip():
            yield name.strip(), VARIABLE
