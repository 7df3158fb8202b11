"""Plans as points of a sweep: a plan's file, and what is to be different from it; what `thinwire plan` answers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, StrictStr

from thinwire.edge.reading import beside
from thinwire.sim.planning.file import LEAST_FACTOR, MOST_FACTOR, Asked, TargetTable, read_inputs, targets_of
from thinwire.sim.planning.plan import Planner
from thinwire.sim.schema import Whole, sorted_pairs
from thinwire.sim.sweeps.kinds import (
    LISTED,
    Column,
    Grid,
    Key,
    Kind,
    Once,
    Row,
    Value,
    Values,
    file_of,
    load_clusters,
    load_models,
    load_schemes,
)
from thinwire.topologies.choose import text_of
from thinwire.topologies.units import Table

_Factor = Annotated[float, Field(strict=True, ge=LEAST_FACTOR, le=MOST_FACTOR)]
_Tables = Annotated[list[dict[str, _Factor]], LISTED]
_Targets = Annotated[list[TargetTable], LISTED]
_Names = Annotated[list[StrictStr], LISTED]
_Wholes = Annotated[list[Whole], LISTED]
_Ratio = Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)]


class Axes(Table):
    """One table of the file: what exchanges depend on first, for neighbours share them."""

    plan: _Names | None = None
    links: _Tables | None = None
    prices: _Tables | None = None
    ttft: _Targets | None = None
    tpot: _Targets | None = None
    perplexity_ratio: Annotated[list[_Ratio], LISTED] | None = None
    seed: _Wholes | None = None
    load: Annotated[list[_Factor], LISTED] | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A plan's file, factors of a what-if, and targets (percentile, seconds) and seed in place of the file's own."""

    plan: str
    links: tuple[tuple[str, float], ...]
    prices: tuple[tuple[str, float], ...]
    ttft: tuple[int, float] | None
    tpot: tuple[int, float] | None
    perplexity_ratio: float | None
    seed: int | None
    load: float


# The point, with the targets and the seed that held; then what to rent, null where nothing keeps the targets (binding
# says why); then why there is no answer at all.
COLUMNS: Mapping[str, Column] = {
    **dict.fromkeys(("id", "plan", "links", "prices"), "string"),
    "ttft_percentile": "int64", "ttft_target_ms": "float64", "tpot_percentile": "int64", "tpot_target_ms": "float64",
    "perplexity_target": "float64", "seed": "int64", "load": "float64", "rate_per_s": "float64",
    "cluster": "string", "tp": "int64", "replica_gpus": "string", "scheme": "string",
    **dict.fromkeys(("token_budget", "max_sequences", "replicas", "gpus"), "int64"),
    "cost_per_hour": "float64", "currency": "string",
    **dict.fromkeys(("perplexity_ratio", "ttft_ms", "ttft_ms_half_width", "tpot_ms", "tpot_ms_half_width",
                     "utilisation"), "float64"),
    "candidates": "int64", "counts": "string", "binding": "string", "error_type": "string", "error": "string",
}  # fmt: skip


# ---- the file


def _load_plans(folder: Path, text: str, _: Grid) -> dict[Key, Value]:
    """Names in the plan's file are those of `thinwire plan`: paths are relative to that file."""
    path = Path(beside(folder, text, "the sweep's file"))
    inputs, here = read_inputs(path), path.parent
    named = load_models(here, inputs.file.model, {})
    for cluster in inputs.clusters:
        named |= load_clusters(here, cluster, {})
    for scheme in inputs.schemes:
        named |= load_schemes(here, scheme, {})
    files = sorted((*key, value.digest) for key, value in named.items())
    # Without what is left at its default, a key more in some later file format changes no id.
    dumped = inputs.file.model_dump(mode="json", exclude_defaults=True)
    first = {name: dumped.pop(name) for name in ("model", *inputs.file.placed()) if name in dumped}  # as ids have them
    content = json.dumps([{**first, **dumped}, files])
    return {("plan", text): Value.of(inputs, content)}


def _load_links(folder: Path, table: Mapping[str, float], axes: Grid) -> dict[Key, Value]:
    """Nothing; ValueError for a pattern that a plan of the table has no link for."""
    for text in axes["plan"]:
        read_inputs(folder / text).asked().factors(1.0, table, {})
    return {}


def _load_prices(folder: Path, table: Mapping[str, float], axes: Grid) -> dict[Key, Value]:
    """Nothing; ValueError for what a plan of the table has no price of."""
    for text in axes["plan"]:
        read_inputs(folder / text).asked().factors(1.0, {}, table)
    return {}


# ---- the point


def _asked(point: Point) -> Row:
    row = {"plan": point.plan, "links": json.dumps(dict(point.links)), "prices": json.dumps(dict(point.prices))}
    own = {"perplexity_target": point.perplexity_ratio, "seed": point.seed, "load": point.load}
    return {**row, **_target("ttft", point.ttft), **_target("tpot", point.tpot), **own}


def _target(name: str, target: tuple[int, float] | None) -> Row:
    percentile, seconds = target or (None, None)
    return {f"{name}_percentile": percentile, f"{name}_target_ms": None if seconds is None else seconds * 1e3}


def _found(point: Point, values: Values, once: Once) -> Row:
    value = values["plan", point.plan]
    # Times of exchanges are most of the work, and are what they are whoever asked first.
    asked: Asked = once(value, lambda: value.found.asked())
    file = asked.file
    own = {"ttft": _table(point.ttft), "tpot": _table(point.tpot), "perplexity_ratio": point.perplexity_ratio}
    targets = file.targets.model_copy(update={name: value for name, value in own.items() if value is not None})
    seed = asked.problem.seed if point.seed is None else point.seed
    # A planner of its own: what earlier answers of one leave behind changes the reasons that it gives.
    planner = Planner(replace(asked.problem, targets=targets_of(targets), seed=seed))
    plan = planner.solve(asked.factors(point.load, dict(point.links), dict(point.prices)), frontier=False)
    best = {} if plan.cheapest is None else plan.cheapest.to_dict()
    return {
        **_target("ttft", _percentile(targets.ttft)),
        **_target("tpot", _percentile(targets.tpot)),
        "perplexity_target": targets.perplexity_ratio,
        "seed": seed,
        "rate_per_s": file.load.rate_per_s * point.load,
        **{name: best.get(name) for name in _TAKEN},
        "replica_gpus": text_of(best["replica_gpus"]) if best else None,
        **{f"{name}{part}": (best.get(name) or {}).get(key) for name in ("ttft_ms", "tpot_ms") for part, key in _PARTS},
        "currency": file.currency,
        "candidates": len(plan.outcomes),
        "counts": json.dumps(dict(sorted(plan.count().items()))),
        "binding": "\n".join(planner.binding(plan)),
    }


_TAKEN = (
    "cluster", "tp", "scheme", "token_budget", "max_sequences", "replicas", "gpus", "cost_per_hour",
    "perplexity_ratio", "utilisation",
)  # fmt: skip
_PARTS = (("", "value"), ("_half_width", "half_width"))


def _names(point: Point) -> tuple[Key, ...]:
    return (("plan", point.plan),)


def _percentile(table: TargetTable | None) -> tuple[int, float] | None:
    """A target as a point has it."""
    return None if table is None else (table.percentile, table.seconds)


def _table(target: tuple[int, float] | None) -> TargetTable | None:
    """And as a plan's file has it."""
    return target and TargetTable.model_validate({"percentile": target[0], "seconds": target[1]})


PLAN = Kind(
    what="plan",
    axes=Axes,
    file=file_of(Axes),
    defaults={
        "links": [{}],
        "prices": [{}],
        "ttft": [None],
        "tpot": [None],
        "perplexity_ratio": [None],
        "seed": [None],
        "load": [1.0],
    },
    plain={"links": sorted_pairs, "prices": sorted_pairs, "ttft": _percentile, "tpot": _percentile},
    point=Point,
    loaders={"plan": _load_plans, "links": _load_links, "prices": _load_prices},
    names=_names,
    mark={"what": "plan"},
    columns=COLUMNS,
    asked=_asked,
    found=_found,
    most=1,  # seconds to a minute each
    least=1,
)
