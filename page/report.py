"""The page in one file: what a server would compute, computed beforehand on a grid, and all that the page needs."""

import base64
import gzip
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

from thinwire import __version__
from thinwire.edge.words import place
from thinwire.edge.writing import write_text
from thinwire.page import answers, assets
from thinwire.page.curves import LABELS, crossovers, curves
from thinwire.page.defaults import POINTS
from thinwire.page.desk import Desk
from thinwire.page.documents import Answer, Axis, Curve, Detail, Grid, Options, Series, Start
from thinwire.page.loads import serve
from thinwire.page.plans import plan
from thinwire.page.state import State

BATCH = (1, 2, 4, 8, 16, 32, 64)
TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
LINKS = (0.25, 0.5, 1.0, 2.0, 4.0)
NEAR = 3  # points of an axis that shows both ways from where one is
FIRST_GIVEN_UP = ("batch", "link")
DIGITS = 6  # of numbers in the file: the interval leaves two or three
AXES: tuple[str, ...] = ("batch", "input_tokens", "link")
MOVES = frozenset({*AXES, "scheme"})
Progress = Callable[[float, float | None, str], None]  # points done, of how many, and what is under way


def axes_of(state: State, points: int = POINTS) -> dict[str, list[float]]:
    """Where the sliders snap to: the state's own place, and its neighbours as far as there are points for."""
    q = state.question
    own = {"batch": float(q.batch), "input_tokens": float(q.input_tokens), "link": state.link}
    found = {
        name: sorted({float(x) for x in usual} | {own[name]})
        for name, usual in zip(AXES, (BATCH, TOKENS, LINKS), strict=True)
    }
    for left, name in enumerate(FIRST_GIVEN_UP):  # rather both ways along one axis than one way along each
        if points < NEAR ** (len(AXES) - left):
            found[name] = [own[name]]
    while _size(found) > points and _size(found) > 1:
        longest = max(found, key=lambda name: len(found[name]))
        at = found[longest].index(own[longest])
        del found[longest][0 if at >= len(found[longest]) - 1 - at else -1]
    return found


def _size(axes: Mapping[str, Sequence[float]]) -> int:
    return len(axes["batch"]) * len(axes["input_tokens"]) * len(axes["link"])


def at(state: State, batch: float, tokens: float, link: float) -> State:
    """The state at a point of the grid."""
    return replace(state, link=link, question=replace(state.question, batch=int(batch), input_tokens=int(tokens)))


def grid(
    desk: Desk,
    state: State,
    axes: Mapping[str, list[float]],
    progress: Progress = lambda done, of, at: None,
    planned: bool = True,
) -> Grid:
    """Answers at every point, curves through them, and details of each scheme at the state.

    planned: with the load and the plan, which take seconds.

    Raises:
        ValueError: where the state itself cannot be answered.
    """
    first = answers.answer(desk, state)  # ValueError before anything takes long
    names = answers.named(desk, state)
    total = _size(axes)
    found, refused = dict[str, Answer](), dict[str, str]()
    places = product(*(list(enumerate(axes[name])) for name in AXES))
    for done, ((i, batch), (j, tokens), (k, link)) in enumerate(places, 1):
        key = f"{i},{j},{k}"
        try:
            found[key] = answers.without_detail(desk.fresh(), at(state, batch, tokens, link), names)
        except ValueError as error:
            refused[key] = desk.said(error)
        progress(done, total, "")
    start = [axes["batch"].index(state.question.batch), axes["input_tokens"].index(state.question.input_tokens)]
    start.append(axes["link"].index(state.link))
    drawn = [row["scheme"] for row in first["rows"] if row["ttft_ms"] is not None]
    lines = _lines(drawn, first)
    lines_found = _through(axes, found, lines)
    for one in curves(desk, state, ["tp"])["curves"]:
        lines_found[f"tp:{','.join(map(str, start))}"] = one
    return {
        "axes": dict(axes),
        "start": start,
        "answers": found,
        "refused": refused,
        "curves": lines_found,
        "details": {name: _detail(desk, state, name) for name in drawn},
        "serve": _or_none(lambda: serve(desk, state)) if planned else None,
        "plan": _or_none(lambda: plan(desk, state, lambda said: progress(total, None, said))) if planned else None,
        "predictions": len(names) * total,
    }


def _lines(drawn: Sequence[str], first: Answer) -> list[str]:
    best = [row["scheme"] for row in first["rows"] if row["best"] or row["chosen"]]
    return [name for name in dict.fromkeys([answers.BASELINE, *best, answers.FLOOR]) if name in drawn]


def _detail(desk: Desk, state: State, scheme: str) -> Detail:
    return answers.detail(desk, replace(state, question=replace(state.question, scheme=scheme)))


def _or_none(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ValueError:
        return None  # the page leaves that part out


def _through(axes: Mapping[str, list[float]], found: Mapping[str, Answer], lines: Sequence[str]) -> dict[str, Curve]:
    """Curves along two axes, out of the answers."""
    made = {}
    for i, k in product(range(len(axes["batch"])), range(len(axes["link"]))):
        keys = [f"{i},{j},{k}" for j in range(len(axes["input_tokens"]))]
        made[f"input_tokens:{i},{k}"] = _curve("input_tokens", axes, keys, found, lines)
    for i, j in product(range(len(axes["batch"])), range(len(axes["input_tokens"]))):
        keys = [f"{i},{j},{k}" for k in range(len(axes["link"]))]
        made[f"link:{i},{j}"] = _curve("link", axes, keys, found, lines)
    return made


def _curve(
    axis: Axis, axes: Mapping[str, list[float]], keys: Sequence[str], found: Mapping[str, Answer], lines: Sequence[str]
) -> Curve:
    x, series = axes[axis], list[Series]()
    for scheme in lines:
        rows = [
            next((r for r in found[key]["rows"] if r["scheme"] == scheme), None) if key in found else None
            for key in keys
        ]
        some = [row if row is not None and row["ttft_ms"] is not None else None for row in rows]
        series.append({
            "scheme": scheme,
            "ttft_ms": [None if row is None else row["ttft_ms"] for row in some],
            "low_ms": [None if row is None else row["interval_ms"][0] for row in some],
            "high_ms": [None if row is None else row["interval_ms"][1] for row in some],
        })  # fmt: skip
    rates = [found[key]["link_gb_per_s"] if key in found else None for key in keys]
    marks = [
        f"{r:.3g} GB/s" if axis == "link" and r is not None else f"{each:g}" for r, each in zip(rates, x, strict=True)
    ]
    compared = [one for one in series if one["scheme"] != answers.FLOOR]
    return {
        "axis": axis, "label": LABELS[axis], "x": list(x), "marks": marks, "now": x[0], "series": series,
        "crossovers": crossovers(axis, x, compared),
    }  # fmt: skip


def rounded(value: Any) -> Any:
    """The same with numbers of `DIGITS` digits: a third of the bytes, and more than the interval leaves."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def packed(document: Any) -> str:
    """gzip, then base64: what the page reads by DecompressionStream. The same document gives the same text."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def with_best(desk: Desk, state: State) -> State:
    """The same, with the best of the whole catalog among its schemes: the verdict is about that one."""
    rows = answers.answer(desk, state, everything=True)["rows"]
    missing = [row["scheme"] for row in rows if row["best"] and row["scheme"] not in answers.named(desk, state)]
    return replace(state, also=(*state.also, *missing))


def page(
    desk: Desk,
    state: State,
    axes: Mapping[str, list[float]],
    progress: Progress = lambda done, of, at: None,
    *,
    with_library: bool = True,
    planned: bool = True,
) -> tuple[str, Grid]:
    """The HTML of a report, and the grid in it."""
    state = with_best(desk, state)
    found = grid(desk, state, axes, progress, planned)
    first = found["details"]
    options = narrowed(answers.options_with(desk, state), state, axes, list(first))
    start: Start = {
        "mode": "report",
        "version": __version__,
        "state": state.query(),
        "options": options,
        "charts": assets.charts() if with_library else {},
        "made": f"made by thinwire {__version__} on {datetime.now(UTC):%Y-%m-%d}, {found['predictions']} predictions",
        "grid": packed(rounded(found)),
        "fixed": sorted({*found["answers"][",".join(map(str, found["start"]))]["state"], *FIXED} - MOVES),
    }
    return assets.whole(start, with_library), found


FIXED = (
    "model", "cluster", "tp", "weights", "kv", "max_perplexity", "max_lookups_lost", "profile", "rate", "output_tokens",
    "slo_ttft_ms",
)  # fmt: skip


def narrowed(options: Options, state: State, axes: Mapping[str, list[float]], schemes: Sequence[str]) -> Options:
    """What a report can show: its own model and machine, its schemes, and the points of its grid."""
    q = state.question
    return {
        **options,
        "models": [each for each in options["models"] if each["name"] == q.model],
        "machines": [each for each in options["machines"] if each["name"] == q.cluster],
        "schemes": [each for each in options["schemes"] if each["name"] in schemes],
        "gpus": [],
        "sliders": [{**each, "steps": axes[each["key"]]} for each in options["sliders"] if each["key"] in axes],
        "prices": [],
    }


def check_out(path: str | Path) -> None:
    """Before minutes of work. ValueError where a file cannot be written there."""
    target = Path(path)
    device = target.exists() and not target.is_file()
    folder = Path(os.path.realpath(target)).parent
    why = (
        "that is a folder" if target.is_dir()
        else f"there is no folder {place(folder)}" if not folder.is_dir()
        else "nothing may be written there" if not os.access(target if device else folder, os.W_OK)
        else ""
    )  # fmt: skip
    if why:
        raise ValueError(f"cannot write the report to {place(path)}: {why}")


def write(path: str | Path, html: str) -> int:
    """Whole or not at all; its bytes. OSError where it cannot be written."""
    write_text(path, html)
    return len(html.encode())
