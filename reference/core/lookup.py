"""Every codec there is: those that thinwire ships, and others' once they are asked for.

A spec that nobody knows makes us load the modules that installed packages name in the entry-point group
`thinwire_codecs`, and those that the environment variable THINWIRE_CODECS lists; importing them registers their codecs.
So a broken module of somebody's cannot harm who does not use it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from thinwire.edge.words import shown
from thinwire.reference.core import builtin, registry
from thinwire.reference.core.registry import Entry, Numerics
from thinwire.reference.core.scheme import Codec

GROUP = "thinwire_codecs"
VARIABLE = "THINWIRE_CODECS"

builtin.register_all()
_loaded: set[str] = set()


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
    """The modules that others' codecs are registered from and made in, with their source: results rest on it."""
    from importlib.util import find_spec

    found = {}
    for entry in registry.entries():
        if entry.own:
            names = {entry.kind.__module__} | ({entry.module} if entry.module else set())
            for name in sorted(names):
                spec = find_spec(name) if name != "__main__" else None
                path = Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None
                found[name] = path.read_bytes() if path is not None and path.is_file() else b""
    return found


def load() -> bool:
    """Import the modules that bring codecs, each once: was there a new one?

    Raises ValueError with one sentence for a module that cannot be imported, or whose registration is refused.
    """
    new = False
    for module, origin in _modules():
        if module in _loaded:
            continue
        try:
            import_module(module)
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"codecs of module {shown(module)} ({origin}) cannot be loaded: {said}") from error
        _loaded.add(module)
        new = True
    return new


def forget_loaded() -> None:
    """Load modules again where they are asked for: for tests."""
    _loaded.clear()


def _modules() -> Iterator[tuple[str, str]]:
    """Modules that bring codecs, and who named them."""
    from importlib.metadata import entry_points  # not before a spec is unknown: it costs as much as all of the core

    for point in entry_points(group=GROUP):
        yield point.module, f"entry point {point.name} of {GROUP}"
    for name in os.environ.get(VARIABLE, "").split(","):
        if name.strip():
            yield name.strip(), VARIABLE
