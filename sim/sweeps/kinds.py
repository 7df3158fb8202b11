"""What a kind of sweep point is: its axes, what its names stand for, its columns, and the way from a point to a row.

Kinds are sweep_predict.py, sweep_serve.py and sweep_plan.py; sweep_spec.KINDS lists them, and nothing else knows which
there are. What several of them share stands here: the types of axes, and the files that an axis may name.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr

from thinwire.reference.core.config import ModelConfig, load_model, model_names
from thinwire.reference.mixed import AnyScheme, auto_budget, find
from thinwire.sim.costs.profile import Profile, load_profile
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.load import cluster_names, load_cluster
from thinwire.topologies.units import Table

SHIPPED = "shipped"  # the profile where none of one's own is named
ALL = "all"  # the TP degree that takes every GPU

Key = tuple[str, str]  # an axis, and a name on it


@dataclass(frozen=True, slots=True)
class Value:
    """What a file holds, or why it cannot be had. Two are the same where they were made from the same.

    digest: of all that it was made from. found: a ModelConfig, Cluster, MixedScheme, Profile ..., or the error.
    """

    digest: str
    found: Any = field(compare=False, repr=False)

    @classmethod
    def of(cls, found: Any, content: str) -> "Value":
        """content: all that it was made from."""
        return cls(sha256(content.encode()).hexdigest(), found)


# By their keys. They travel with the points, so a worker on another machine needs no files.
Values = Mapping[Key, Value]
Grid = Mapping[str, list[Any]]  # the values of every axis of one table
# What a value on an axis stands for, from the folder of the sweep's file, the value and the whole table.
Loader = Callable[[Path, Any, Grid], dict[Key, Value]]
# What points share, by a key: made for the first that asks and kept by the worker, maybe into another sweep whose files
# have the same names. So keys hold `Value`s.
Once = Callable[[Any, Callable[[], Any]], Any]
Row = dict[str, Any]
Column = Literal["string", "int64", "float64", "bool_"]


def _anything(_: Grid) -> None:
    """No rule for a table as a whole."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One thing that points can be.

    what: its name in the file. axes: a table of the file; the order of its fields is that of the product, the last one
    changes fastest. file: the same with `what` and `grid`. defaults: values of axes that may be left out. check: raises
    ValueError for a table that breaks a rule as a whole. plain: an axis's value as the point has it, where it differs
    from the file's. point: a frozen dataclass with the axes as fields. loaders: by axis, what its names stand for.
    names: the keys that the point's values would have. mark: what the points' ids hold besides the point. columns:
    those of the result, in order. asked: the point as columns. found: the rest of them; what it raises is the row's
    error. most: points of a task, fewer where a sweep would have less than `least` tasks.
    """

    what: str
    axes: type[Table]
    file: type[Table]
    defaults: Mapping[str, list[Any]]
    check: Callable[[Grid], None] = _anything
    plain: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    point: Callable[..., Any]
    loaders: Mapping[str, Loader]
    names: Callable[[Any], tuple[Key, ...]]
    mark: Mapping[str, str]
    columns: Mapping[str, Column]
    asked: Callable[[Any], Row]
    found: Callable[[Any, Values, Once], Row]
    most: int
    least: int

    def task_size(self, points: int) -> int:
        """Points of a task of a sweep of so many: more in very large ones, for a file is kept of every task."""
        return max(1, min(self.most, points // self.least), points // 4000)


# ---- axes


def _listed(value: object) -> object:
    if value == []:
        raise ValueError("must be a value or a list of values; given []")
    return value if isinstance(value, list) else [value]


def _degree(value: object) -> object:
    if value != ALL and (type(value) is not int or not 1 <= value < 2**31):
        raise ValueError(f'must be a positive whole number or "{ALL}"; given {value!r}')
    return value


LISTED = BeforeValidator(_listed)
Factor = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
_Rank = Annotated[StrictStr, Field(pattern=r"^[0-9]+$")]
Names = Annotated[list[StrictStr], LISTED]
Counts = Annotated[list[Annotated[int, Field(strict=True, ge=1, lt=2**31)]], LISTED]
Wholes = Annotated[list[Annotated[int, Field(strict=True, ge=0, lt=2**31)]], LISTED]
Positives = Annotated[list[Factor], LISTED]
Flags = Annotated[list[Annotated[bool, Field(strict=True)]], LISTED]
Degrees = Annotated[list[Annotated[Any, AfterValidator(_degree)]], LISTED]
Precisions = Annotated[list[Literal["bf16", "fp8"]], LISTED]
Links = Annotated[list[dict[str, Factor]], LISTED]
Ranks = Annotated[list[dict[_Rank, Factor]], LISTED]

ON_A_MACHINE: Mapping[str, list[Any]] = {
    "tp": [ALL], "weights": ["bf16"], "profile": [SHIPPED], "scaled_links": [{}], "slow_ranks": [{}],
}  # fmt: skip
"""Defaults of the axes that predictions and serving runs share."""


def pairs(table: Mapping[Any, float]) -> tuple[tuple[Any, float], ...]:
    """A table as a value that can be hashed, in an order that is not the file's."""
    return tuple(sorted(table.items()))


PLAIN: Mapping[str, Callable[[Any], Any]] = {
    "tp": lambda tp: None if tp == ALL else tp,
    "profile": lambda profile: None if profile == SHIPPED else profile,
    "scaled_links": pairs,
    "slow_ranks": lambda table: pairs({int(rank): factor for rank, factor in table.items()}),
}
"""Their values as a point has them."""


def on_a_machine(point: Any) -> Row:
    """Their columns, where those are not the point's fields."""
    return {
        "profile": point.profile or SHIPPED,
        "scaled_links": json.dumps(dict(point.scaled_links)),
        "slow_ranks": json.dumps(dict(point.slow_ranks)),
    }


# ---- what the names of an axis stand for. A catalog's name needs nothing: a worker has the same catalog.


def _beside(folder: Path, text: str) -> str:
    """The path of a file beside the sweep's, or the text itself where there is none: the error then names what was
    asked. ValueError for one that lies in the working directory alone.
    """
    path = folder / text
    if not path.is_file() and Path(text).is_file():
        raise ValueError(f"no such file: {path} (paths are relative to the sweep's file)")
    return str(path) if path.is_file() else text


def load_models(folder: Path, text: str, _: Grid) -> dict[Key, Value]:
    """A path of a config.json."""
    if text in model_names():
        return {}
    found = load_model(_beside(folder, text))
    return {("model", text): Value.of(found, repr(found))}


def load_clusters(folder: Path, text: str, _: Grid) -> dict[Key, Value]:
    """A path of a machine's file."""
    if text in cluster_names():
        return {}
    path = _beside(folder, text)
    found = load_cluster(path)
    return {("cluster", text): Value.of(found, f"{Path(path).read_text(encoding='utf-8')}\n{found.gpu!r}")}


def load_schemes(folder: Path, text: str, _: Grid) -> dict[Key, Value]:
    """A path of a scheme for each sync point."""
    if text.endswith(".toml"):
        found = find(str(folder / text))
        return {("scheme", text): Value.of(found, repr(found))}
    find(text)
    return {}


def load_schemes_or_auto(folder: Path, text: str, axes: Grid) -> dict[Key, Value]:
    """The same; or `auto:+1%`, which is chosen for the point."""
    return {} if auto_budget(text) is not None else load_schemes(folder, text, axes)


def load_profiles(folder: Path, text: str, axes: Grid) -> dict[Key, Value]:
    """A profile belongs to a GPU: with each cluster of the grid it is a value, or the error of those points."""
    if text == SHIPPED:
        return {}
    path = folder / text
    if not path.is_file():
        raise ValueError(f'no such file: {path} ("{SHIPPED}" takes the shipped profile)')
    content = path.read_bytes().hex()
    loaded: dict[Key, Value] = {}
    for name in axes["cluster"]:
        own = load_clusters(folder, name, axes)
        cluster = own["cluster", name].found if own else load_cluster(name)
        found: Profile | ValueError
        try:
            found = load_profile(cluster, str(path))
        except ValueError as error:
            found = error
        loaded["profile", profile_key(text, name)] = Value.of(found, content)
    return loaded


LOADERS: Mapping[str, Loader] = {
    "model": load_models, "cluster": load_clusters, "scheme": load_schemes_or_auto, "profile": load_profiles,
}  # fmt: skip
"""Those of predictions and serving runs."""


def profile_key(profile: str, cluster: str) -> str:
    """A profile's file is a value only with a cluster."""
    return f"{profile} on {cluster}"


def names(point: Any) -> tuple[Key, ...]:
    """Keys of the files that a point on a machine may name."""
    profile = profile_key(point.profile or SHIPPED, point.cluster)
    return ("model", point.model), ("cluster", point.cluster), ("scheme", point.scheme), ("profile", profile)


@dataclass(frozen=True, slots=True)
class Named:
    """What a point on a machine names: a file's value, or the name of a catalog's. profile: None is the shipped one."""

    model: str | ModelConfig
    cluster: str | Cluster
    scheme: str | AnyScheme
    profile: Profile | None

    @classmethod
    def of(cls, point: Any, values: Values) -> "Named":
        """ValueError where the point's profile is of another GPU."""
        own = (values.get(key) for key in names(point))
        model, cluster, scheme, profile = (None if value is None else value.found for value in own)
        if isinstance(profile, Exception):
            raise profile
        return cls(model or point.model, cluster or point.cluster, scheme or point.scheme, profile)
