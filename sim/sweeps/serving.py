"""Serving runs as points of a sweep: what `thinwire serve` takes, under the names of its options, and says."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictStr

from thinwire.sim.serving.arrivals import WHOSE, Trace, lengths_from, load_of
from thinwire.sim.serving.router import Policy
from thinwire.sim.serving.serve import Deployment, Paces, parse_fault, serve
from thinwire.sim.serving.statistics import QUANTILES, Slo
from thinwire.sim.sweeps.kinds import (
    LISTED,
    LOADERS,
    ON_A_MACHINE,
    PLAIN,
    Column,
    Counts,
    Degrees,
    Flags,
    Grid,
    Key,
    Kind,
    Links,
    Named,
    Names,
    Once,
    Positives,
    Precisions,
    Ranks,
    Row,
    Value,
    Values,
    Wholes,
    names,
    on_a_machine,
)
from thinwire.topologies.units import Table

MOST_TRACE_BYTES = 1 << 24  # it travels inside every task that plays it
SOURCES = ("rate", "users", "trace")  # of requests: a table has one of them


def _texts(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _faults(texts: list[str]) -> list[str]:
    for text in texts:
        parse_fault(text)
    return texts


def _known_lengths(text: str) -> str:
    lengths_from(text, 1.0)  # of any kind there are lengths of one token
    return text


_Tokens = Annotated[list[Annotated[float, Field(strict=True, ge=1, allow_inf_nan=False)]], LISTED]
_Amounts = Annotated[list[Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]], LISTED]
_Fault = Annotated[list[StrictStr], BeforeValidator(_texts), AfterValidator(_faults)]


class Axes(Table):
    """One table of the file: what the durations of iterations depend on first, for neighbours share them."""

    model: Names | None = None
    cluster: Names | None = None
    tp: Degrees | None = None
    weights: Precisions | None = None
    profile: Names | None = None
    scaled_links: Links | None = None
    slow_ranks: Ranks | None = None
    token_budget: Counts | None = None
    max_sequences: Counts | None = None
    whole_prompts: Flags | None = None
    kv_tokens: Counts | None = None
    host_ms: _Amounts | None = None
    gate: Flags | None = None
    scheme: Names | None = None
    replicas: Counts | None = None
    decode_replicas: Wholes | None = None
    transfer_gb_per_s: Positives | None = None
    policy: Annotated[list[Policy], LISTED] | None = None
    fault: Annotated[list[_Fault], LISTED] | None = None
    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    lengths: Annotated[list[Annotated[StrictStr, AfterValidator(_known_lengths)]], LISTED] | None = None
    burstiness: Positives | None = None
    rate: Positives | None = None
    users: Counts | None = None
    trace: Names | None = None
    speed: Positives | None = None
    duration: Positives | None = None
    warm_up: _Amounts | None = None
    slo_ttft_ms: Positives | None = None
    slo_tpot_ms: Positives | None = None
    seed: Wholes | None = None


class File(Axes):
    """The whole file."""

    what: Literal["serve"]
    grid: Annotated[list[Axes], LISTED] | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """The options of one run, as the file has them; None: left out."""

    model: str
    cluster: str
    tp: int | None
    weights: Literal["bf16", "fp8"]
    profile: str | None
    scaled_links: tuple[tuple[str, float], ...]
    slow_ranks: tuple[tuple[int, float], ...]
    token_budget: int
    max_sequences: int
    whole_prompts: bool
    kv_tokens: int | None
    host_ms: float
    gate: bool
    scheme: str
    replicas: int
    decode_replicas: int
    transfer_gb_per_s: float
    policy: Policy
    fault: tuple[str, ...]
    input_tokens: float
    output_tokens: float
    lengths: str
    burstiness: float
    rate: float | None
    users: int | None
    trace: str | None
    speed: float
    duration: float | None
    warm_up: float | None
    slo_ttft_ms: float | None
    slo_tpot_ms: float | None
    seed: int


# Axes that the durations of iterations do not depend on: the pools, and what they are asked.
_AROUND = frozenset([*Axes.model_fields][[*Axes.model_fields].index("replicas") :])
_LEFT_OUT = ("kv_tokens", "rate", "users", "trace", "duration", "warm_up", "slo_ttft_ms", "slo_tpot_ms")
_D = Deployment(model="", cluster="")
_DEFAULTS: Mapping[str, list[Any]] = {
    **ON_A_MACHINE, **{name: [None] for name in _LEFT_OUT}, "token_budget": [_D.token_budget],
    "max_sequences": [_D.max_sequences], "whole_prompts": [False], "host_ms": [0.0], "gate": [False],
    "scheme": ["bf16"], "replicas": [1], "decode_replicas": [0],
    "transfer_gb_per_s": [_D.transfer_bytes_per_s / 1e9], "policy": [_D.policy], "fault": [[]],
    "input_tokens": [1024.0], "output_tokens": [128.0], "lengths": ["lognormal"], "burstiness": [1.0], "speed": [1.0],
    "seed": [0],
}  # fmt: skip


def _one_source(axes: Grid) -> None:
    given = [name for name in SOURCES if axes[name] != [None]]
    if len(given) != 1:
        raise ValueError(f"a table needs one of {', '.join(SOURCES)}; given {' and '.join(given) or 'none'}")
    for name, whose in WHOSE.items():
        if given[0] not in whose and len(axes[name]) > 1:  # points that differ in nothing
            raise ValueError(f"several values of {name}, which belongs to {' and '.join(whose)}, not to {given[0]}")


def _load_traces(folder: Path, text: str | None, _: Grid) -> dict[Key, Value]:
    """The text of a trace's file."""
    if text is None:
        return {}
    path = folder / text
    Trace(str(path))  # every row is looked at: ValueError with file and line
    content = path.read_bytes()
    if len(content) > MOST_TRACE_BYTES:
        raise ValueError(f"a trace in a sweep has at most {MOST_TRACE_BYTES} bytes; {path} has {len(content)}")
    return {("trace", text): Value.of(content, content.hex())}


def _names(point: Point) -> tuple[Key, ...]:
    return (*names(point), ("trace", point.trace or ""))


def _estimate(name: str) -> dict[str, Column]:
    return {name: "float64", f"{name}_half_width": "float64"}


def _summary(name: str) -> dict[str, Column]:
    found: dict[str, Column] = {f"{name}_count": "int64"}
    for each in ("mean", *(f"p{q * 100:g}" for q in QUANTILES)):
        found |= _estimate(f"{name}_{each}")
    return found


_COUNTED = ("arrived", "finished", "refused", "unfinished", "restarts")
_TYPES: Mapping[str, Column] = {
    **dict.fromkeys(("tp", "token_budget", "max_sequences", "kv_tokens", "replicas", "decode_replicas", "users",
                     "seed"), "int64"),
    **dict.fromkeys(("whole_prompts", "gate"), "bool_"),
    **dict.fromkeys(("host_ms", "transfer_gb_per_s", "input_tokens", "output_tokens", "burstiness", "rate", "speed",
                     "duration", "warm_up", "slo_ttft_ms", "slo_tpot_ms"), "float64"),
}  # fmt: skip
# The run, as in `serve --json`: half_width is half a 95 % confidence interval, over batches of requests.
RESULTS: Mapping[str, Column] = {
    **{f"requests_{name}": "int64" for name in _COUNTED},
    **_summary("ttft_ms"), **_summary("tpot_ms"), **_summary("latency_ms"),
    **_estimate("goodput_requests_per_s"), "slo_attainment": "float64", **_estimate("output_tokens_per_s"),
    "utilisation": "float64", **_estimate("queue_length"), "queue_length_most": "int64",
    **_estimate("in_system"), "in_system_growth": "int64", "saturated": "bool_", "kv_cache_most": "float64",
    "end_s": "float64", "iterations": "int64", "events": "int64", "little_error": "float64",
}  # fmt: skip
# tp, kv_tokens, duration and warm_up are what the run took where the file leaves them out.
COLUMNS: Mapping[str, Column] = {
    "id": "string", **{name: _TYPES.get(name, "string") for name in Axes.model_fields}, "gpus": "int64", **RESULTS,
    "profile_name": "string", "error_type": "string", "error": "string",
}  # fmt: skip


def flat(found: Mapping[str, Any], before: str = "") -> Row:
    """Scalars of a nested document under the names of their path; that of a `value` is its estimate's."""
    row: Row = {}
    for name, value in found.items():
        path = before if name == "value" else f"{before}_{name}" if before else name
        row |= flat(value, path) if isinstance(value, dict) else {path: value}
    return row


def _asked(point: Point) -> Row:
    return {**asdict(point), **on_a_machine(point), "fault": json.dumps(point.fault)}


def _paces(point: Point, values: Values, once: Once) -> Paces:
    """Durations of iterations, with a deployment of one replica: half a second of work that neighbours share."""

    def made() -> Paces:
        own = Named.of(point, values)
        return Paces(
            Deployment(
                model=own.model,
                cluster=own.cluster,
                scheme=own.scheme,
                tp=point.tp,
                weights=point.weights,
                profile=own.profile,
                token_budget=point.token_budget,
                max_sequences=point.max_sequences,
                chunked_prefill=not point.whole_prompts,
                kv_tokens=point.kv_tokens,
                host_s=point.host_ms / 1e3,
                gated=point.gate,
                scaled_links=dict(point.scaled_links),
                slow_ranks=dict(point.slow_ranks),
            )
        )

    engine = tuple(value for name, value in asdict(point).items() if name not in _AROUND)
    found: Paces = once((engine, tuple(values.get(key) for key in names(point))), made)
    return found


def _found(point: Point, values: Values, once: Once) -> Row:
    paces = _paces(point, values, once)
    deployment = replace(
        paces.deployment,
        replicas=point.replicas,
        policy=point.policy,
        decode_replicas=point.decode_replicas,
        transfer_bytes_per_s=point.transfer_gb_per_s * 1e9,
    )
    slo = {"ttft_s": point.slo_ttft_ms, "tpot_s": point.slo_tpot_ms}
    with ExitStack() as stack:
        trace = None
        if point.trace is not None:  # played from a file, as everywhere
            trace = str(Path(stack.enter_context(TemporaryDirectory())) / "trace.csv")
            Path(trace).write_bytes(values["trace", point.trace].found)
        prompt, output = (lengths_from(point.lengths, mean) for mean in (point.input_tokens, point.output_tokens))
        served = serve(
            deployment,
            load_of(point.rate, point.burstiness, point.users, trace, point.speed, prompt, output),
            point.duration,
            Slo(**{name: ms / 1e3 for name, ms in slo.items() if ms is not None}),
            [parse_fault(text) for text in point.fault],
            seed=point.seed,
            warm_up_s=point.warm_up,
            paces=paces,
        )
    run = served.run.to_dict()
    del run["slo_ms"]  # asked, not found
    return {
        "tp": served.tp,
        "kv_tokens": served.limits.kv_tokens,
        "duration": served.window.duration_s,
        "warm_up": served.window.warm_up_s,
        "gpus": served.gpus,
        **flat(run),
        "profile_name": served.profile,
    }


SERVE = Kind(
    what="serve",
    axes=Axes,
    file=File,
    defaults=_DEFAULTS,
    check=_one_source,
    plain={**PLAIN, "fault": tuple},
    point=Point,
    loaders={**LOADERS, "trace": _load_traces},
    names=_names,
    mark={"what": "serve"},
    columns=COLUMNS,
    asked=_asked,
    found=_found,
    most=4,  # a second or so each, with the setting up
    least=10,
)
