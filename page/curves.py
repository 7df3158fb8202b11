"""TTFT along an axis, for a few schemes, and where one becomes sooner than another.

Where two change places is looked for by predictions: TTFT has kinks (the algorithm of an exchange, tiles of a GEMM), so
a line through two points says nothing about what is between them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log, sqrt
from typing import get_args

from thinwire.edge.words import shown
from thinwire.page.answers import BASELINE, FLOOR, answer, chosen, degrees, link_bytes_per_s
from thinwire.page.desk import Desk
from thinwire.page.documents import Axis, Crossover, Curve, Curves, Series
from thinwire.page.state import State
from thinwire.sim.report import Prediction
from thinwire.sim.verdict import SAME
from thinwire.topologies.choose import choose, numbers, text_of

AXES: tuple[Axis, ...] = get_args(Axis)
TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
LINKS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 8.0)
LABELS = {
    "input_tokens": "Length of each prompt, tokens",
    "link": "Rate of every link, times the machine's",
    "tp": "TP degree",
}
BETWEEN = 3  # places asked between two points where schemes change places; then halves of the part where they do
HALVES = 3
NEAR = 1.02  # of x: closer is not looked for
Asked = Callable[[str, float], float | None]  # TTFT of a scheme at x, in milliseconds; None: it cannot run there


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
    most = len(_group(desk, state))
    nodes = q.nodes or 1
    return [float(x) for x in sorted({*degrees(most), desk.predicted(state, BASELINE).tp}) if x % nodes == 0]


def _group(desk: Desk, state: State) -> Sequence[int]:
    """The GPUs that TP degrees are taken of, by number: those listed, those of so many nodes, or all."""
    q = state.question
    assert isinstance(q.cluster, str)
    machine = desk.machine(q.cluster)
    if q.gpus is not None:
        return numbers(q.gpus)
    return range(len(choose(machine, None, None, q.nodes).gpus if q.nodes else machine.gpus))


def moved(state: State, axis: Axis, x: float) -> State:
    """The state at another place of an axis. Another TP degree is of the same GPUs, or of as many nodes."""
    q = state.question
    if axis == "link":
        return replace(state, link=x)
    if axis == "tp":
        gpus = None if q.gpus is None else numbers(q.gpus)[: round(x)]
        return replace(state, question=replace(q, tp=round(x), gpus=gpus))
    return replace(state, question=replace(q, input_tokens=round(x)))


def label(state: State, axis: Axis) -> str:
    """What is along the axis."""
    q = state.question
    if axis != "tp" or not (q.gpus or (q.nodes or 1) > 1):
        return LABELS[axis]
    return f"{LABELS[axis]}, " + (f"first of GPUs {text_of(numbers(q.gpus))}" if q.gpus else f"over {q.nodes} nodes")


def curve(desk: Desk, state: State, axis: Axis, schemes: Sequence[str], x: Sequence[float]) -> Curve:
    """TTFT and its interval at each place; null where a scheme cannot run there."""
    found = [_series(desk, state, axis, scheme, x) for scheme in schemes]
    q = state.question
    first = desk.predicted(state, schemes[0])

    def ttft_ms(scheme: str, at: float) -> float | None:
        try:
            return desk.predicted(moved(state, axis, at), scheme).ttft_s * 1e3
        except ValueError:
            return None

    now = {"input_tokens": q.input_tokens, "link": state.link, "tp": first.tp}[axis]
    rate = link_bytes_per_s(first.cluster) / 1e9 / state.link
    return {
        "axis": axis,
        "label": label(state, axis),
        "x": list(x),
        "marks": [f"{rate * each:.3g} GB/s" if axis == "link" else f"{each:g}" for each in x],
        "now": float(now),
        "series": found,
        "crossovers": crossovers(axis, x, [one for one in found if one["scheme"] != FLOOR], ttft_ms),
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


def crossovers(axis: Axis, x: Sequence[float], series: Sequence[Series], asked: Asked | None = None) -> list[Crossover]:
    """Where two lines change places, lowest x first: none across a place where one cannot run, none for a lead that is
    no more than `SAME`.

    asked: a few times between two points. Without it all that is known is between which points they do; of TP
    degrees there are none between.
    """
    found = []
    for number, a in enumerate(series):
        for b in series[number + 1 :]:
            leads = [log(t / s) if s and t else None for s, t in zip(a["ttft_ms"], b["ttft_ms"], strict=True)]
            for i, sign in changes(leads):
                sooner, than = (a, b) if sign > 0 else (b, a)
                low, high, there = x[i - 1], x[i], sooner["ttft_ms"][i]
                if axis != "tp" and asked is not None:
                    low, high = narrowed(axis, low, high, asked, sooner["scheme"], than["scheme"])
                    there = asked(sooner["scheme"], high)
                assert there is not None
                exact = axis == "tp" or asked is not None
                found.append(_crossover(axis, low, high, there, sooner["scheme"], than["scheme"], exact))
    return sorted(found, key=lambda one: (one["x"], one["sooner"]))


def changes(leads: Sequence[float | None]) -> list[tuple[int, int]]:
    """Where the first line's lead over the second has another sign than before: the point from which on it has, and
    which. None: one of them cannot run there, and what was before is forgotten.
    """
    found, before = [], 0
    for i, one in enumerate(leads):
        if one is None:
            before = 0
        elif abs(one) > SAME:
            sign = 1 if one > 0 else -1
            if before == -sign:
                found.append((i, sign))
            before = sign
    return found


def narrowed(axis: Axis, low: float, high: float, asked: Asked, sooner: str, than: str) -> tuple[float, float]:
    """Two places nearer to each other, `sooner` being sooner at the second alone. Where they change places more than
    once, the last of the times that are seen.
    """

    def place(value: float) -> float:
        return float(round(value)) if axis == "input_tokens" else float(f"{value:.4g}")

    def ahead(at: float) -> bool:
        one, other = asked(sooner, at), asked(than, at)
        return one is not None and other is not None and log(other / one) > SAME

    inside = {place(low * (high / low) ** (i / (BETWEEN + 1))) for i in range(1, BETWEEN + 1)}
    for at in sorted((at for at in inside if low < at < high), reverse=True):
        if not ahead(at):
            low = at
            break
        high = at
    for _ in range(HALVES):
        at = place(sqrt(low * high))
        if high / low <= NEAR or not low < at < high:
            break
        low, high = (low, at) if ahead(at) else (at, high)
    return low, high


def _crossover(axis: Axis, low: float, high: float, ttft_ms: float, sooner: str, than: str, exact: bool) -> Crossover:
    start, end = f"{low:.10g}", f"{high:.10g}"
    known = {"input_tokens": f"from {end} tokens on", "link": f"from {end} times the links' rate on",
             "tp": f"from TP {end} on"}  # fmt: skip
    between = {"input_tokens": f"between {start} and {end} tokens", "tp": "",
               "link": f"between {start} and {end} times the links' rate"}  # fmt: skip
    text = f"{known[axis]} {sooner} is sooner than {than}"
    if not exact:
        text = f"{between[axis]} {sooner} becomes sooner than {than}"
    return {"x": high, "after": low, "ttft_ms": ttft_ms, "sooner": sooner, "than": than, "text": text}
