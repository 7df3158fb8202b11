"""Predictions as points of a sweep: what `thinwire predict` takes and says."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from thinwire.reference.core.config import load_model
from thinwire.sim import api
from thinwire.sim.costs.profile import load_profile
from thinwire.sim.sweeps.kinds import (
    LISTED,
    LOADERS,
    ON_A_MACHINE,
    PLAIN,
    Column,
    Counts,
    Degrees,
    Kind,
    Links,
    Named,
    Names,
    Once,
    Precisions,
    Ranks,
    Row,
    Values,
    names,
    on_a_machine,
)
from thinwire.topologies.units import Table


class Axes(Table):
    """One table of the file."""

    model: Names | None = None
    cluster: Names | None = None
    tp: Degrees | None = None
    weights: Precisions | None = None
    launch: Annotated[list[Literal["eager", "graph"]], LISTED] | None = None
    profile: Names | None = None
    scaled_links: Links | None = None
    slow_ranks: Ranks | None = None
    batch: Counts | None = None
    input_tokens: Counts | None = None
    scheme: Names | None = None


class File(Axes):
    """The whole file."""

    what: Literal["predict"] = "predict"
    grid: Annotated[list[Axes], LISTED] | None = None


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


# The point, what was predicted (null where it failed), why it failed (null where it did not).
COLUMNS: Mapping[str, Column] = {
    **dict.fromkeys(("id", "model", "cluster"), "string"), "tp": "int64",
    **dict.fromkeys(("weights", "launch", "profile", "scaled_links", "slow_ranks"), "string"),
    "batch": "int64", "input_tokens": "int64", "scheme": "string",
    **dict.fromkeys(
        ("ttft_ms", "ttft_ms_low", "ttft_ms_high", "compute_ms", "codec_ms", "communication_ms",
         "exposed_communication_ms"), "float64",
    ),
    "wire_bytes_per_gpu": "int64", "all_reduce_count": "int64",
    "reduce_bits_per_value": "float64", "gather_bits_per_value": "float64",
    **dict.fromkeys(("profile_name", "error_type", "error"), "string"),
}  # fmt: skip


def _asked(point: Point) -> Row:
    return {**asdict(point), **on_a_machine(point)}


def _found(point: Point, values: Values, once: Once) -> Row:
    own = Named.of(point, values)
    model = own.model
    if isinstance(model, str):
        model = once(("model", model), lambda: load_model(point.model))
    place = (point.cluster, values.get(("cluster", point.cluster)), point.tp, point.scaled_links)
    gpus = once(place, lambda: api.group(own.cluster, point.tp, dict(point.scaled_links)))
    profile = own.profile or once(("profile", place), lambda: load_profile(gpus))
    found = api.predict(
        model, gpus, own.scheme, None, point.batch, point.input_tokens, point.weights, profile,
        slow_ranks=dict(point.slow_ranks), launch=point.launch,
    ).to_dict()  # fmt: skip
    return {
        "tp": found["tp"],
        "ttft_ms": found["ttft_ms"],
        "ttft_ms_low": found["ttft_ms_interval"][0],
        "ttft_ms_high": found["ttft_ms_interval"][1],
        **{f"{name}_ms": value for name, value in found["breakdown_ms"].items()},
        "wire_bytes_per_gpu": found["wire_bytes_per_gpu"],
        "all_reduce_count": found["all_reduce_count"],
        **{f"{phase}_bits_per_value": bits for phase, bits in found["bits_per_value"].items()},
        "profile_name": found["profile"],
    }


_DEFAULTS: Mapping[str, list[Any]] = {**ON_A_MACHINE, "launch": ["eager"], "batch": [1], "input_tokens": [1024]}

PREDICT = Kind(
    what="predict",
    axes=Axes,
    file=File,
    defaults=_DEFAULTS,
    plain=PLAIN,
    point=Point,
    loaders=LOADERS,
    names=names,
    mark={},  # the only kind there was when its ids were made
    columns=COLUMNS,
    asked=_asked,
    found=_found,
    most=25,  # some 0.1 s of work: a hundred times what a task costs to send, and little to lose
    least=40,
)
