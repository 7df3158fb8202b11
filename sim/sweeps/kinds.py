"""What a kind of sweep point is: its axes, what its names stand for, its columns, and the way from a point to a row.

Kinds are predictions.py, serving.py and plans.py; `spec.KINDS` lists them, and nothing else knows which there are. What
several of them share stands here: a question's fields as axes, and the files that an axis may name.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, StrictStr, create_model

from thinwire.edge.limits import JSON_BYTES, TOML_BYTES
from thinwire.edge.reading import beside, is_regular, is_there
from thinwire.edge.reading import content as read_content
from thinwire.edge.reading import text as read_text
from thinwire.edge.words import place
from thinwire.reference.core.precision import PLAIN
from thinwire.reference.families.config import load_model, model_names
from thinwire.reference.mixed import AnyScheme, auto_budget, find
from thinwire.sim.choices import Compress
from thinwire.sim.costs.profile import Profile
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.quality.figures import figure
from thinwire.sim.question import Inquiry, Option, Placement, options_of
from thinwire.sim.schema import SHIPPED, from_file, left_out, type_of
from thinwire.sim.verdict import lossless
from thinwire.topologies.choose import text_of
from thinwire.topologies.load import cluster_names, load_cluster
from thinwire.topologies.units import Table

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
BASELINE: Key = ("baseline", "scheme")  # where the sweep's file names one
Grid = Mapping[str, list[Any]]  # the values of every axis of one table
# What a value on an axis stands for, from the folder of the sweep's file, the value and the whole table.
Loader = Callable[[Path, Any, Grid], dict[Key, Value]]
# What points share, by a key: made for the first that asks and kept by the worker, maybe into another sweep whose files
# have the same names. So keys hold `Value`s.
Once = Callable[[Any, Callable[[], Any]], Any]
Row = dict[str, Any]
BF16 = "bf16"  # the baseline that nobody need name
Column = Literal["string", "int64", "float64", "bool_"]
Asks = TypeVar("Asks", bound=Placement)


# Options that ids have held at their defaults, too, since there are sweeps. What is added later is not added here.
FIRST_AXES = frozenset({
    "model", "cluster", "scheme", "tp", "weights", "profile", "scaled_links", "slow_ranks", "batch", "input_tokens",
    "launch", "token_budget", "max_sequences", "whole_prompts", "kv_tokens", "host_ms", "gate", "replicas",
    "decode_replicas", "transfer_gb_per_s", "policy", "fault", "output_tokens", "lengths", "burstiness", "rate",
    "users", "trace", "speed", "duration", "warm_up", "slo_ttft_ms", "slo_tpot_ms", "seed",
})  # fmt: skip


@lru_cache(maxsize=1024)
def _plain(model: str) -> bool:
    """A model of the catalog whose checkpoint is bf16 throughout."""
    return model in model_names() and load_model(model).checkpoint == PLAIN


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
    error. most: points of a task, fewer where a sweep would have less than `least` tasks. compared: the scheme that the
    file names as `baseline` and all rows of a sweep in, what a row has in place of nothing in `speedup` out; None: rows
    have it from `found`, or not at all.
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
    compared: Callable[[str, Sequence[Row]], list[float | None]] | None = None

    def identity_of(self, point: Any) -> dict[str, Any]:
        """What tells a point from others, by axis. An option that is younger than the first sweeps is left out at its
        default, so that it changes no id that people hold.
        """
        if not isinstance(point, Inquiry):
            return asdict(point)
        told = point.given()
        found = {name: value for name, value in point.values().items() if name in FIRST_AXES or name in told}
        if found.get("weights") == "auto" and _plain(found["model"]):
            found["weights"] = "bf16"  # what was priced, and written, before checkpoints were read
        return found

    def task_size(self, points: int) -> int:
        """Points of a task of a sweep of so many: more in very large ones, for a file is kept of every task."""
        return max(1, min(self.most, points // self.least), points // 4000)


# ---- axes


def _listed(value: object) -> object:
    if value == []:
        raise ValueError("must be a value or a list of values; given []")
    return value if isinstance(value, list) else [value]


LISTED = BeforeValidator(_listed)


def axes_of(question: type[Placement], inner: Sequence[str]) -> type[Table]:
    """The axes that a question's fields are. inner: those that change faster than all others, the last one fastest."""
    options = options_of(question)
    order = [*(name for name in options if name not in inner), *inner]
    axes: dict[str, Any] = {name: (_axis(options[name]), None) for name in order}
    return create_model("Axes", __base__=Table, **axes)


def _axis(option: Option) -> Any:
    values: Any = list.__class_getitem__(type_of(option))
    return Annotated[values, LISTED] | None


def file_of(axes: type[Table], **more: Any) -> type[Table]:
    """The whole file: axes, `[[grid]]` tables of axes, and `what`, by which the kind was found. more: keys that are no
    axes.
    """
    grid = Annotated[list[axes], LISTED] | None  # type: ignore[valid-type]
    return create_model("File", __base__=axes, __doc__="The whole file.", what=(str, ""), grid=(grid, None), **more)


_COLUMNS: Mapping[str, Column] = {
    "degree": "int64", "count": "int64", "length": "int64", "whole": "int64", "tokens": "float64",
    "positive": "float64", "amount": "float64", "flag": "bool_",
}  # fmt: skip


def as_row(question: Inquiry, renamed: Mapping[str, str] = MappingProxyType({})) -> Row:
    """What is asked as columns. renamed: fields whose column has another name."""
    row = question.values()
    for name, option in options_of(question).items():
        if option.form in ("links", "ranks"):
            row[name] = json.dumps(dict(row[name]))
        elif option.form == "faults":
            row[name] = json.dumps(row[name])
        elif option.form == "gpus":
            row[name] = None if row[name] is None else text_of(row[name])
        elif option.form == "profile":
            row[name] = row[name] or SHIPPED
    return {renamed.get(name, name): value for name, value in row.items()}


# ---- what the names of an axis stand for. A catalog's name needs nothing: a worker has the same catalog.


def _beside(folder: Path, text: str) -> str:
    """The path of a file beside the sweep's, or the text itself where there is none: the error then names what was
    asked. ValueError for one that lies in the working directory alone, and for what is no regular file.
    """
    found = beside(folder, text, "the sweep's file")
    return again(Path(found)) if is_there(found) else found


def again(path: Path) -> str:
    """A path that is read more than once: ValueError for a pipe or a device."""
    if is_there(path) and not is_regular(path):
        raise ValueError(f"a sweep reads its files more than once, this is no regular file: {place(path)}")
    return str(path)


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
    written = read_text(path, "the machine's file", TOML_BYTES.most)
    return {("cluster", text): Value.of(found, f"{written}\n{found.gpu!r}")}


def load_schemes(folder: Path, text: str, _: Grid) -> dict[Key, Value]:
    """A path of a scheme for each sync point."""
    if text.endswith(".toml"):
        found = find(_beside(folder, text))
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
    path = Path(_beside(folder, text))
    if not is_there(path):
        raise ValueError(f'no such file: {place(folder / text)} ("{SHIPPED}" takes the shipped profile)')
    content = read_content(again(path), "profile", JSON_BYTES.most).hex()
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


def load_baseline(folder: Path, text: str) -> dict[Key, Value]:
    """The scheme that speed-ups are over; nothing for bf16, so that ids are what they were before others could be."""
    if text == BF16:
        return {}
    return {BASELINE: next(iter(load_schemes(folder, text, {}).values()), Value.of(find(text), text))}


def perplexity_ratio(scheme: AnyScheme, tp: int, islands: int, compress: Compress) -> float | None:
    """What a scheme costs, as measured, less codecs of what is not sent; 1 where nothing is compressed. None: nobody
    knows, or it is beyond numbers.
    """
    if tp == 1 or lossless(scheme):
        return 1.0
    known = figure(scheme, tp, islands, compress)
    return None if known is None else known.perplexity_ratio


def profile_key(profile: str, cluster: str) -> str:
    """A profile's file is a value only with a cluster."""
    return f"{profile} on {cluster}"


def names(point: Any) -> tuple[Key, ...]:
    """Keys of the files that a point on a machine may name."""
    profile = profile_key(point.profile or SHIPPED, point.cluster)
    return ("model", point.model), ("cluster", point.cluster), ("scheme", point.scheme), ("profile", profile)


def with_values(question: Asks, values: Values) -> Asks:
    """The question with what its files hold in place of their names. ValueError where its profile is of another GPU."""
    found: dict[str, Any] = {}
    for key in names(question):
        if (value := values.get(key)) is not None:
            if isinstance(value.found, Exception):
                raise value.found
            found[key[0]] = value.found
    return replace(question, **found)


def kind_of(
    question: type[Inquiry],
    *,
    inner: Sequence[str],
    results: Mapping[str, Column],
    required: Sequence[str] = (),
    loaders: Mapping[str, Loader] = LOADERS,
    renamed: Mapping[str, str] = MappingProxyType({}),
    **more: Any,
) -> Kind:
    """The kind whose points are questions: each of its options is an axis and a column.

    Args:
        inner: axes that change faster than all others, the last one fastest.
        results: columns of what is found. Those of the point stand before them, why it failed behind.
        required: axes that a file must have though the option has a default.
        renamed: axes whose column has another name, theirs being that of a result.
        more: the rest of `Kind`.
    """
    options = options_of(question)
    axes = axes_of(question, inner)
    may = [name for name, option in options.items() if not option.required and name not in required]
    return Kind(
        axes=axes,
        file=file_of(axes, baseline=(StrictStr, BF16)),
        defaults={name: [left_out(options[name])] for name in may},
        plain={name: partial(from_file, option) for name, option in options.items()},
        point=question,
        loaders=loaders,
        columns={
            "id": "string",
            **{renamed.get(name, name): _COLUMNS.get(options[name].form, "string") for name in axes.model_fields},
            **results,
            **dict.fromkeys(("profile_name", "error_type", "error"), "string"),
        },
        asked=partial(as_row, renamed=renamed),
        **more,
    )
