"""From a calibration's times to what a profile holds, and from measured times to a crossover: small linear fits."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
from scipy.optimize import nnls

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.core.schedule import Schedule, build
from thinwire.reference.core.scheme import Scheme
from thinwire.sim.costs.profile import CodecKernel
from thinwire.sim.events.collective import run_alone, time_schedule
from thinwire.sim.events.network import Routes
from thinwire.topologies.cluster import Cluster
from thinwire.validation.emulation.machine import LIBRARY, Segments, Wire, fabric_of

MEASURED = "measured: this run's calibration"
ENCODE_S = 1e-3  # what calibrated exchanges sleep where a codec would work: requests for bytes arrive meanwhile


def line(points: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """(a, b) >= 0 of y = a + b x with the least squares of relative errors. ValueError for fewer than two points."""
    found = list(points)
    if len({x for x, _ in found}) < 2 or min(y for _, y in found) <= 0:
        raise ValueError(f"a line needs two different x and positive y: {found}")
    design = np.array([(1 / y, x / y) for x, y in found])
    scale = np.linalg.norm(design, axis=0)
    solved, _ = nnls(design / scale, np.ones(len(found)))
    a, b = solved / scale
    return float(a), float(b)


# ---- links


def waits(schedule: Schedule) -> float:
    """Seconds a calibrated exchange sleeps in all: where its schedule has a codec work before bytes leave."""
    return sum(bool(step.work and step.transfers) for lane in schedule.lanes for step in lane.steps) * ENCODE_S


def waits_of(schedule: Schedule) -> list[list[float]]:
    """The same step by step, as ranks are told."""
    return [[ENCODE_S if step.work and step.transfers else 0.0 for step in lane.steps] for lane in schedule.lanes]


def fluid_s(cluster: Cluster, scheme: Scheme, numel: int, efficiency: float = 1.0) -> float:
    """What the network model alone gives a collective: no step costs, no codecs."""
    wires = dict.fromkeys(("ring", "two_step"), Wire(0.0, efficiency))
    ranks = len(cluster.gpus)
    schedule, routes = build(scheme, ranks, numel), Routes(cluster)

    def no_codec(work: object, ranks: int) -> Any:
        return np.zeros(ranks)

    timed = time_schedule(schedule, LIBRARY, "all_reduce", fabric_of(wires, ranks), no_codec, routes)
    return run_alone(timed, routes).seconds


def wire(cluster: Cluster, scheme: str, rows: Sequence[tuple[int, float]]) -> Wire:
    """gloo's cost of a step and share of a link, from (values, seconds without sleeps) of exchanges in one scheme."""
    found, ranks = find_scheme(scheme), len(cluster.gpus)
    steps = sum(bool(step.transfers) for lane in build(found, ranks, rows[0][0]).lanes for step in lane.steps)
    points = []
    for numel, seconds in rows:
        whole = fluid_s(cluster, found, numel)
        bytes_s = fluid_s(cluster, found, numel, 0.5) - whole  # the part that goes with 1 / efficiency
        points.append((bytes_s, seconds - (whole - bytes_s)))
    step_s, slope = line(points)
    return Wire(step_s / steps, 1 / slope)


# ---- kernels


CALLS = {"encode": 3, "reduce": 1, "decode": 2}  # of each rank, in a two-step all-reduce on two ranks


def codec_kernels(rows: Iterable[Sequence[Any]], fastest: bool = False) -> tuple[CodecKernel, ...]:
    """Lines from [codec, values, repeats], several of a codec and size: ranks, which wait for the slowest.

    Of the repeats, each the seconds of a call by kind, the middle or fastest as a whole counts: the least of each
    kernel would add up to less than any.
    """
    slowest: dict[tuple[str, str, int], float] = {}
    for codec, values, repeats in rows:
        ordered = sorted(repeats, key=lambda each: sum(CALLS[kind] * seconds for kind, seconds in each.items()))
        for kind, seconds in ordered[0 if fastest else len(ordered) // 2].items():
            key = codec, kind, values * (2 if kind == "reduce" else 1)
            slowest[key] = max(slowest.get(key, 0.0), seconds)
    by_kernel: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for (codec, kind, values), found in slowest.items():
        by_kernel.setdefault((codec, kind), []).append((values, found))
    return tuple(
        CodecKernel(codec, cast(Literal["encode", "reduce", "decode"], kind), *line(points), MEASURED)
        for (codec, kind), points in by_kernel.items()
    )


def pass_segments(passes: Sequence[Mapping[str, Any]]) -> Segments:
    """Segments of one forward pass without collectives, from when each rank began, met each collective and ended.

    Ranks meet at every collective, so each segment is that of the rank that took longest.
    """
    lengths = []
    for reply in passes:
        edges = [(reply["begin"], reply["begin"]), *reply["moments"]]
        lengths.append([later[0] - earlier[1] for earlier, later in pairwise(edges)])
    longest = [max(row) for row in zip(*lengths, strict=True)]
    *layers, head_s = longest
    attention, mlp = layers[0::2], layers[1::2]
    attention_s = float(np.mean(attention[1:]))
    # The first attention has the embedding before it and the last of them nothing that the others lack.
    return Segments(max(0.0, attention[0] - attention_s), attention_s, float(np.mean(mlp)), head_s)


def total_s(segments: Segments, layers: int) -> float:
    """A whole pass."""
    return segments.embedding_s + layers * (segments.attention_s + segments.mlp_s) + segments.head_s


def choose(found: Sequence[Segments], layers: int) -> tuple[Segments, Segments]:
    """(median, fastest) of several passes by their total: whole passes, since least parts add up to less than any."""
    ordered = sorted(found, key=lambda segments: total_s(segments, layers))
    return ordered[len(ordered) // 2], ordered[0]


# ---- crossover


def crossover_bytes_per_s(rates_bytes_per_s: Sequence[float], saved_s: Sequence[float]) -> float | None:
    """The rate of links at which a scheme stops paying: where saved = a / rate - c is nothing.

    None where the fit says that it pays at every rate or at none.
    """
    design = np.array([(1 / rate, -1.0) for rate in rates_bytes_per_s])
    # Saved time on slow links is large and so is its error: weigh each by the rate.
    weights = np.array(rates_bytes_per_s) / max(rates_bytes_per_s)
    solved, *_ = np.linalg.lstsq(design * weights[:, None], np.array(saved_s) * weights, rcond=None)
    a, c = (float(x) for x in solved)
    return a / c if a > 0 and c > 0 else None
