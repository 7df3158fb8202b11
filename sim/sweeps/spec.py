"""What a sweep computes: the grid of a TOML file as points, in order, each with an id of its own.

`what` says of which kind the points are. Every other key of the file is an axis: a value, or a list of values. Keys at
the top hold for every `[[grid]]` table, which adds axes or replaces them; the sweep is the union of the tables'
products. examples/sweep.toml shows all of it.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from thinwire.edge.words import shown
from thinwire.sim.sweeps.kinds import BF16, Grid, Key, Kind, Value, Values, load_baseline
from thinwire.sim.sweeps.plans import PLAN
from thinwire.sim.sweeps.predictions import PREDICT
from thinwire.sim.sweeps.serving import SERVE
from thinwire.topologies.files import Document
from thinwire.topologies.lines import KeyPath

MAX_POINTS = 1_000_000  # more than this is a typo in an axis, or a matter for several files
KINDS: Mapping[str, Kind] = {kind.what: kind for kind in (PREDICT, SERVE, PLAN)}


@dataclass(frozen=True, slots=True)
class Sweep:
    """Distinct points of one kind in order, the id of each, and what the files named in them hold. baseline: the scheme
    that speed-ups are over, as the file names it.
    """

    kind: Kind
    points: tuple[Any, ...]
    ids: tuple[str, ...]
    values: Values
    baseline: str = BF16


def read_sweep(path: Path) -> Sweep:
    """The sweep of a TOML file; paths in it are relative to it.

    Raises ValueError (`file:line: key: rule`) for a file that breaks a rule, an unknown model, cluster or scheme among
    them. What only a point as a whole can break (a model that does not fit) is left to the point.
    """
    document = Document(path, "the sweep")
    kind = _kind(document)
    file: Any = document.check(kind.file, document.data)
    tables: list[tuple[KeyPath, Any]] = [((), file)]
    if file.grid is not None:
        tables = [(("grid", i), table) for i, table in enumerate(file.grid)]
    values: dict[Key, Value] = {}
    baseline: str = getattr(file, "baseline", BF16)
    try:
        values.update(load_baseline(path.parent, baseline))
    except ValueError as error:
        raise document.refuse(("baseline",), str(error)) from None
    points: dict[Any, None] = {}
    for at, table in tables:
        axes: dict[str, list[Any]] = {}
        for name in kind.axes.model_fields:
            axes[name] = getattr(table, name) or getattr(file, name) or kind.defaults.get(name, [])
            if not axes[name]:
                raise document.refuse((*at, name), "missing key")
        try:
            kind.check(axes)
        except ValueError as error:
            raise document.refuse(at, str(error)) from None
        count = prod(len(axis) for axis in axes.values())
        if count > MAX_POINTS:
            raise document.refuse(at, f"{count} points; at most {MAX_POINTS} a sweep")
        for name, load in kind.loaders.items():
            for value in axes[name]:
                try:
                    values.update(load(path.parent, value, axes))
                except ValueError as error:
                    own = getattr(table, name) is not None
                    raise document.refuse((*at, name) if own else (name,), str(error)) from None
        points.update(dict.fromkeys(_product(kind, axes)))
    if len(points) > MAX_POINTS:
        raise document.refuse(("grid",), f"{len(points)} points; at most {MAX_POINTS} a sweep")
    return Sweep(kind, tuple(points), tuple(identity(kind, point, values) for point in points), values, baseline)


def _kind(document: Document) -> Kind:
    what = document.data.get("what", PREDICT.what)
    if not isinstance(what, str) or what not in KINDS:
        allowed = " or ".join(f'"{name}"' for name in KINDS)
        raise document.refuse(("what",), f"must be {allowed}; given {shown(what)}")
    return KINDS[what]


def identity(kind: Kind, point: Any, values: Values) -> str:
    """A hash of the point and of what the files it names hold; its place in the sweep does not matter."""
    files = {key[0]: values[key].digest for key in kind.names(point) if key in values}
    asked = {**kind.mark, **kind.identity_of(point), "files": files}
    return sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:24]


def _product(kind: Kind, axes: Grid) -> Iterator[Any]:
    values = ([kind.plain[name](v) for v in axis] if name in kind.plain else axis for name, axis in axes.items())
    return (kind.point(**dict(zip(axes, each, strict=True))) for each in product(*values))
