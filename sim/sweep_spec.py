"""What a sweep computes: the grid of a TOML file as points, in order, each with an id of its own.

Every key of the file is an axis: a value, or a list of values. Keys at the top hold for every `[[grid]]` table, which
adds axes or replaces them; the sweep is the union of the tables' products. examples/sweep.toml shows all of it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr

from thinwire.reference.config import load_model, model_names
from thinwire.reference.mixed import auto_budget, find
from thinwire.topologies.files import Document
from thinwire.topologies.lines import KeyPath
from thinwire.topologies.load import cluster_names, load_cluster
from thinwire.topologies.units import Table

MAX_POINTS = 1_000_000  # more than this is a typo in an axis, or a matter for several files
SHIPPED = "shipped"  # the profile where none of one's own is named
ALL = "all"  # the TP degree that takes every GPU


def _listed(value: object) -> object:
    if value == []:
        raise ValueError("must be a value or a list of values; given []")
    return value if isinstance(value, list) else [value]


def _degree(value: object) -> object:
    if value != ALL and (type(value) is not int or value < 1):
        raise ValueError(f'must be a positive whole number or "{ALL}"; given {value!r}')
    return value


_Listed = BeforeValidator(_listed)
_Factor = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_Names = Annotated[list[StrictStr], _Listed]
_Counts = Annotated[list[Annotated[int, Field(strict=True, ge=1, lt=2**31)]], _Listed]
_Rank = Annotated[StrictStr, Field(pattern=r"^[0-9]+$")]


class Axes(Table):
    """One table of the file. The order of the fields is that of the product: the last one changes fastest."""

    model: _Names | None = None
    cluster: _Names | None = None
    tp: Annotated[list[Annotated[Any, AfterValidator(_degree)]], _Listed] | None = None
    weights: Annotated[list[Literal["bf16", "fp8"]], _Listed] | None = None
    launch: Annotated[list[Literal["eager", "graph"]], _Listed] | None = None
    profile: _Names | None = None
    scaled_links: Annotated[list[dict[str, _Factor]], _Listed] | None = None
    slow_ranks: Annotated[list[dict[_Rank, _Factor]], _Listed] | None = None
    batch: _Counts | None = None
    input_tokens: _Counts | None = None
    scheme: _Names | None = None


class SweepFile(Axes):
    """The whole file."""

    grid: Annotated[list[Axes], _Listed] | None = None


AXES = tuple(Axes.model_fields)
_DEFAULTS: Mapping[str, list[Any]] = {
    "tp": [ALL], "weights": ["bf16"], "launch": ["eager"], "profile": [SHIPPED], "scaled_links": [{}],
    "slow_ranks": [{}], "batch": [1], "input_tokens": [1024],
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Point:
    """The arguments of one prediction, as the file has them."""

    model: str
    cluster: str
    tp: int | None
    weights: Literal["bf16", "fp8"]
    launch: Literal["eager", "graph"]
    profile: str | None
    scaled_links: tuple[tuple[str, float], ...]
    slow_ranks: tuple[tuple[int, float], ...]
    batch: int
    input_tokens: int
    scheme: str


# A file's value by axis and name: a ModelConfig, Cluster, MixedScheme or Profile, or why there is none. They travel
# with the points, so a worker on another machine needs no files.
Values = Mapping[tuple[str, str], Any]


@dataclass(frozen=True, slots=True)
class Sweep:
    """Distinct points in order, the id of each, and what the files named in them hold."""

    points: tuple[Point, ...]
    ids: tuple[str, ...]
    values: Values


def read_sweep(path: Path) -> Sweep:
    """The sweep of a TOML file; paths in it are relative to it.

    Raises ValueError (`file:line: key: rule`) for a file that breaks a rule, an unknown model, cluster or scheme among
    them. What only a point as a whole can break (a model that does not fit) is left to the point.
    """
    try:
        document = Document(path)
    except OSError as error:
        raise ValueError(f"cannot read the sweep {path}: {error.strerror}") from None
    file = document.check(SweepFile, document.data)
    tables: list[tuple[KeyPath, Axes]] = [((), file)]
    if file.grid is not None:
        tables = [(("grid", i), table) for i, table in enumerate(file.grid)]
    loaded: _Loaded = {}
    points: dict[Point, None] = {}
    for at, table in tables:
        axes: dict[str, list[Any]] = {}
        for name in AXES:
            axes[name] = getattr(table, name) or getattr(file, name) or _DEFAULTS.get(name, [])
            if not axes[name]:
                raise document.refuse((*at, name), "missing key")
        count = prod(len(axis) for axis in axes.values())
        if count > MAX_POINTS:
            raise document.refuse(at, f"{count} points; at most {MAX_POINTS} a sweep")
        for name, load in _LOADERS.items():
            for text in axes[name]:
                try:
                    loaded.update(load(path.parent, text, axes))
                except ValueError as error:
                    own = getattr(table, name) is not None
                    raise document.refuse((*at, name) if own else (name,), str(error)) from None
        points.update(dict.fromkeys(_product(axes)))
    if len(points) > MAX_POINTS:
        raise document.refuse(("grid",), f"{len(points)} points; at most {MAX_POINTS} a sweep")
    digests = {key: sha256(content.encode()).hexdigest() for key, (_, content) in loaded.items()}
    values = {key: value for key, (value, _) in loaded.items()}
    return Sweep(tuple(points), tuple(identity(point, digests) for point in points), values)


def identity(point: Point, digests: Mapping[tuple[str, str], str]) -> str:
    """A hash of the point and of what the files it names hold; its place in the sweep does not matter."""
    files = {axis: digests[axis, text] for axis, text in names(point) if (axis, text) in digests}
    asked = {**asdict(point), "files": files}
    return sha256(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:24]


def names(point: Point) -> tuple[tuple[str, str], ...]:
    """The keys of the point's values, where it has them: of its files."""
    profile = profile_key(point.profile or SHIPPED, point.cluster)
    return ("model", point.model), ("cluster", point.cluster), ("scheme", point.scheme), ("profile", profile)


def profile_key(profile: str, cluster: str) -> str:
    """A profile's file is a value only with a cluster."""
    return f"{profile} on {cluster}"


def _product(axes: Mapping[str, list[Any]]) -> Iterator[Point]:
    plain = dict(axes)
    plain["tp"] = [None if tp == ALL else tp for tp in axes["tp"]]
    plain["profile"] = [None if profile == SHIPPED else profile for profile in axes["profile"]]
    plain["scaled_links"] = [tuple(sorted(table.items())) for table in axes["scaled_links"]]
    plain["slow_ranks"] = [tuple(sorted((int(r), f) for r, f in table.items())) for table in axes["slow_ranks"]]
    return (Point(*values) for values in product(*(plain[name] for name in AXES)))


# ---- what the names of an axis stand for. A catalog's name needs nothing: a worker has the same catalog. A file gives
# its value and, for the points' ids, all that the value was made from.

_Loaded = dict[tuple[str, str], tuple[Any, str]]


def _model(folder: Path, text: str, _: Mapping[str, list[Any]]) -> _Loaded:
    if text in model_names():
        return {}
    path = folder / text
    found = load_model(str(path) if path.exists() else text)  # text: the error names what was asked
    return {("model", text): (found, repr(found))}


def _cluster(folder: Path, text: str, _: Mapping[str, list[Any]]) -> _Loaded:
    if text in cluster_names():
        return {}
    path = folder / text
    found = load_cluster(path if path.is_file() else text)
    return {("cluster", text): (found, f"{path.read_text(encoding='utf-8')}\n{found.gpu!r}")}


def _scheme(folder: Path, text: str, _: Mapping[str, list[Any]]) -> _Loaded:
    if text.endswith(".toml"):
        found = find(str(folder / text))
        return {("scheme", text): (found, repr(found))}
    if auto_budget(text) is None:
        find(text)
    return {}


def _profile(folder: Path, text: str, axes: Mapping[str, list[Any]]) -> _Loaded:
    """A profile belongs to a GPU: with each cluster of the grid it is a value, or the error of those points."""
    from thinwire.sim.profile import load_profile

    if text == SHIPPED:
        return {}
    path = folder / text
    if not path.is_file():
        raise ValueError(f'no such file: {path} ("{SHIPPED}" takes the shipped profile)')
    content = path.read_bytes().hex()
    found: _Loaded = {}
    for name in axes["cluster"]:
        own = _cluster(folder, name, axes)
        cluster = own["cluster", name][0] if own else load_cluster(name)
        try:
            found["profile", profile_key(text, name)] = load_profile(cluster, str(path)), content
        except ValueError as error:
            found["profile", profile_key(text, name)] = error, content
    return found


_LOADERS: Mapping[str, Callable[[Path, str, Mapping[str, list[Any]]], _Loaded]] = {
    "model": _model, "cluster": _cluster, "scheme": _scheme, "profile": _profile,
}  # fmt: skip
