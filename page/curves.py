"""TTFT along an axis, for a few schemes, and where one becomes sooner than another."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import exp, log
from typing import get_args

from thinwire.edge.words import shown
from thinwire.page.answers import BASELINE, FLOOR, answer, chosen, degrees, link_bytes_per_s
from thinwire.page.desk import Desk
from thinwire.page.documents import Axis, Crossover, Curve, Curves, Series
from thinwire.page.state import State
from thinwire.sim.report import Prediction

AXES: tuple[Axis, ...] = get_args(Axis)
TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
LINKS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
LABELS = {
    "input_tokens": "Length of each prompt, tokens",
    "link": "Rate of every link, times the machine's",
    "tp": "TP degree",
}
ALIKE = 1e-9  # of a time: closer is the same algorithm under two names


def curves(desk: Desk, state: State, axes: Sequence[str] = ()) -> Curves:
    """Those asked for, or all. ValueError for an unknown axis, and as `answer`."""
    for axis in axes:
        if axis not in AXES:
            raise ValueError(f"axis must be one of {', '.join(AXES)}: {shown(axis)}")
    wanted = [axis for axis in AXES if not axes or axis in axes]
    schemes = lines(desk, state)
    return {
        "state": state.query(),
        "curves": [curve(desk, state, axis, schemes, points(desk, state, axis)) for axis in wanted],
    }


def lines(desk: Desk, state: State) -> list[str]:
    """The baseline, the chosen scheme, the best of the named ones, and the floor."""
    rows = answer(desk, state)["rows"]
    able = [row["scheme"] for row in rows if row["ttft_ms"] is not None]
    best = [row["scheme"] for row in rows if row["best"]]
    return [name for name in dict.fromkeys([BASELINE, chosen(state), *best, FLOOR]) if name in able]


def points(desk: Desk, state: State, axis: Axis) -> list[float]:
    """Where an axis is asked; the state's own place among them."""
    q = state.question
    if axis == "input_tokens":
        return [float(x) for x in sorted({*TOKENS, q.input_tokens})]
    if axis == "link":
        return sorted({*LINKS, state.link})
    assert isinstance(q.cluster, str)
    gpus = len(desk.machine(q.cluster).gpus)
    return [float(x) for x in sorted({*degrees(gpus), q.tp or gpus})]


def moved(state: State, axis: Axis, x: float) -> State:
    """The state at another place of an axis."""
    if axis == "link":
        return replace(state, link=x)
    if axis == "tp":
        return replace(state, question=replace(state.question, tp=round(x), gpus=None, nodes=None))
    return replace(state, question=replace(state.question, input_tokens=round(x)))


def curve(desk: Desk, state: State, axis: Axis, schemes: Sequence[str], x: Sequence[float]) -> Curve:
    """TTFT and its interval at each place; null where a scheme cannot run there."""
    found = [_series(desk, state, axis, scheme, x) for scheme in schemes]
    q = state.question
    first = desk.predicted(state, schemes[0])
    now = {"input_tokens": q.input_tokens, "link": state.link, "tp": first.tp}[axis]
    rate = link_bytes_per_s(first.cluster) / 1e9 / state.link
    return {
        "axis": axis,
        "label": LABELS[axis],
        "x": list(x),
        "marks": [f"{rate * each:.3g} GB/s" if axis == "link" else f"{each:g}" for each in x],
        "now": float(now),
        "series": found,
        "crossovers": crossovers(axis, x, [one for one in found if one["scheme"] != FLOOR]),
    }


def _series(desk: Desk, state: State, axis: Axis, scheme: str, x: Sequence[float]) -> Series:
    found: list[Prediction | None] = []
    for each in x:
        try:
            found.append(desk.predicted(moved(state, axis, each), scheme))
        except ValueError:
            found.append(None)
    return {
        "scheme": scheme,
        "ttft_ms": [None if p is None else p.ttft_s * 1e3 for p in found],
        "low_ms": [None if p is None else p.interval.low_s * 1e3 for p in found],
        "high_ms": [None if p is None else p.interval.high_s * 1e3 for p in found],
    }


def crossovers(axis: Axis, x: Sequence[float], series: Sequence[Series]) -> list[Crossover]:
    """Where two lines change places, lowest x first. Of TP degrees, the first at which they have."""
    found = []
    for number, a in enumerate(series):
        for b in series[number + 1 :]:
            both = [
                (x[i], log(s), log(t))
                for i, (s, t) in enumerate(zip(a["ttft_ms"], b["ttft_ms"], strict=True))
                if s and t and abs(log(s / t)) > ALIKE
            ]
            for (x0, s0, t0), (x1, s1, t1) in pairwise(both):
                d0, d1 = s0 - t0, s1 - t1
                if d0 * d1 >= 0:
                    continue
                share = d0 / (d0 - d1)
                at = x1 if axis == "tp" else exp(log(x0) + share * (log(x1) - log(x0)))
                ttft_ms = exp(min(s1, t1) if axis == "tp" else s0 + share * (s1 - s0))
                sooner, than = (a, b) if d1 < 0 else (b, a)
                found.append(_crossover(axis, at, ttft_ms, sooner["scheme"], than["scheme"]))
    return sorted(found, key=lambda one: (one["x"], one["sooner"]))


def _crossover(axis: Axis, x: float, ttft_ms: float, sooner: str, than: str) -> Crossover:
    where = {
        "input_tokens": f"from {x:.3g} tokens on",
        "link": f"from {x:.3g} times the links' rate on",
        "tp": f"from TP {x:g} on",
    }[axis]
    return {
        "x": x,
        "ttft_ms": ttft_ms,
        "sooner": sooner,
        "than": than,
        "text": f"{where} {sooner} is sooner than {than}",
    }
