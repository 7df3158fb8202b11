"""Serving runs as points of a sweep: what `thinwire serve` takes, under the names of its options, and says."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from thinwire.edge.reading import beside
from thinwire.edge.reading import content as read_content
from thinwire.sim.api import decodes_exactly
from thinwire.sim.question import options_of
from thinwire.sim.serving.arrivals import Trace
from thinwire.sim.serving.question import SOURCES, WHOSE, Service
from thinwire.sim.serving.serve import Paces, answer
from thinwire.sim.serving.statistics import QUANTILES
from thinwire.sim.sharing import acting
from thinwire.sim.sweeps.kinds import (
    LOADERS,
    Column,
    Grid,
    Key,
    Once,
    Row,
    Value,
    Values,
    again,
    kind_of,
    names,
    perplexity_ratio,
    with_values,
)
from thinwire.topologies.choose import text_of

MOST_TRACE_BYTES = 1 << 24  # it travels inside every task that plays it

# What durations of iterations do not depend on: the pools, and what they are asked.
_OPTIONS = [*options_of(Service)]
_AROUND = _OPTIONS[_OPTIONS.index("replicas") :]


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
    path = again(Path(beside(folder, text, "the sweep's file")))
    content = read_content(path, "trace", MOST_TRACE_BYTES)
    Trace(path)  # every row is looked at: ValueError with file and line
    return {("trace", text): Value.of(content, content.hex())}


def _names(point: Service) -> tuple[Key, ...]:
    return (*names(point), ("trace", point.trace or ""))


def _estimate(name: str) -> dict[str, Column]:
    return {name: "float64", f"{name}_half_width": "float64"}


def _summary(name: str) -> dict[str, Column]:
    found: dict[str, Column] = {f"{name}_count": "int64"}
    for each in ("mean", *(f"p{q * 100:g}" for q in QUANTILES)):
        found |= _estimate(f"{name}_{each}")
    return found


_COUNTED = ("arrived", "finished", "refused", "unfinished", "restarts")
# The run, as in `serve --json`: half_width is half a 95 % confidence interval, over batches of requests. speedup: the
# mean TTFT of the sweep's row that differs in its scheme alone, which is the file's baseline, over this; null where
# there is no such row. perplexity_ratio: null where nobody measured it.
RESULTS: Mapping[str, Column] = {
    **{f"requests_{name}": "int64" for name in _COUNTED},
    **_summary("ttft_ms"), **_summary("tpot_ms"), **_summary("latency_ms"),
    **_estimate("goodput_requests_per_s"), "slo_attainment": "float64", **_estimate("output_tokens_per_s"),
    "utilisation": "float64", **_estimate("queue_length"), "queue_length_most": "int64",
    **_estimate("in_system"), "in_system_growth": "int64", "saturated": "bool_", "filling": "bool_",
    "kv_cache_most": "float64", "end_s": "float64", "iterations": "int64", "events": "int64", "little_error": "float64",
    "speedup": "float64", "perplexity_ratio": "float64",
}  # fmt: skip


def flat(found: Mapping[str, Any], before: str = "") -> Row:
    """Scalars of a nested document under the names of their path; that of a `value` is its estimate's."""
    row: Row = {}
    for name, value in found.items():
        path = before if name == "value" else f"{before}_{name}" if before else name
        row |= flat(value, path) if isinstance(value, dict) else {path: value}
    return row


def _paces(point: Service, values: Values, once: Once) -> Paces:
    """Durations of iterations, with a deployment of one replica: half a second of work that neighbours share."""
    engine = tuple(value for name, value in point.values().items() if name not in _AROUND)
    key = (engine, tuple(values.get(key) for key in names(point)))
    healthy = {name: option.default for name, option in options_of(Service).items() if name in _AROUND}
    found: Paces = once(key, lambda: Paces(replace(with_values(point, values), **healthy).deployment()))
    return found


def _found(point: Service, values: Values, once: Once) -> Row:
    paces = _paces(point, values, once)
    d = paces.deployment
    own = replace(point, model=d.model, cluster=d.cluster, scheme=d.scheme, profile=d.profile)
    with ExitStack() as stack:
        if point.trace is not None:  # played from a file, as everywhere
            trace = Path(stack.enter_context(TemporaryDirectory())) / "trace.csv"
            trace.write_bytes(values["trace", point.trace].found)
            own = replace(own, trace=str(trace))
        served = answer(own, paces)
    run = served.run.to_dict()
    del run["slo_ms"]  # asked, not found
    return {
        "tp": served.tp,
        "replica_gpus": text_of(served.replica_gpus),
        "kv_tokens": served.limits.kv_tokens,
        "duration": served.window.duration_s,
        "warm_up": served.window.warm_up_s,
        "gpus": served.gpus,
        **flat(run),
        "perplexity_ratio": _ratio(paces),
        "profile_name": served.profile,
    }


def _ratio(paces: Paces) -> float | None:
    """What its scheme costs in accuracy, where decode's messages are compressed too or are not."""
    d, gpus = paces.deployment, paces.cluster
    scheme = acting(paces.scheme, paces.model, paces.healthy.sharing)
    exact = decodes_exactly(gpus, scheme, paces.profile, d.max_sequences, paces.model.hidden_size, d.gated)
    return perplexity_ratio(scheme, len(gpus.gpus), len(gpus.islands), "prompt" if exact else "all")


def _compared(baseline: str, rows: Sequence[Row]) -> list[float | None]:
    """Speed-ups of rows, over those of the baseline."""

    def place(row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in _ASKED)

    means = {place(row): row["ttft_ms_mean"] for row in rows if row["scheme"] == baseline and row["ttft_ms_mean"]}
    return [
        None if not row["ttft_ms_mean"] or place(row) not in means else means[place(row)] / row["ttft_ms_mean"]
        for row in rows
    ]


_RENAMED = {"gpus": "replica_gpus"}  # gpus are how many all replicas have
_ASKED = tuple(_RENAMED.get(name, name) for name in _OPTIONS if name != "scheme")


# tp, kv_tokens, duration and warm_up are what the run took where the file leaves them out.
SERVE = kind_of(
    Service,
    what="serve",
    inner=("scheme", *_AROUND),  # neighbours share the durations of iterations
    results={"gpus": "int64", **RESULTS},
    check=_one_source,
    loaders={**LOADERS, "trace": _load_traces},
    names=_names,
    mark={"what": "serve"},
    renamed=_RENAMED,
    compared=_compared,
    found=_found,
    most=4,  # a second or so each, with the setting up
    least=10,
)
