"""The report's pictures, as SVG: predicted against measured, error by size, the emulated links. Same rows, same bytes.

Drawn by `compare.py` where matplotlib is installed (the extra `plots`); the report links to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thinwire.validation.emulation import report as emulate_report
from thinwire.validation.targets.targets import Point, Section, Summary

AGAINST = ("prefill", "trtllm", "all_reduce", "sglang", "quickreduce")  # few enough points for a dot each
MOST_REGIMES = 12


@plt.style.context("default", after_reset=True)
def draw(sections: Sequence[Section], campaign: Mapping[str, Any] | None, folder: Path) -> list[Path]:
    """Every picture that these sections and the kept campaign give, into `folder`; their paths."""
    plt.rcParams |= {"svg.hashsalt": "thinwire", "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}
    drawn = {
        "predicted-against-measured.svg": against(sections),
        "error-by-size.svg": by_size(sections),
        "emulated-links.svg": emulated(campaign) if campaign else None,
    }
    paths = []
    for name, figure in drawn.items():
        if figure is not None:
            figure.savefig(folder / name, metadata={"Date": None, "Creator": None})
            plt.close(figure)
            paths.append(folder / name)
    return paths


def left_out(section: Section) -> list[Point]:
    """The points that no fit had seen, of the claims that the issue asks for in the section's own unit; in-sample ones
    where there are none.
    """
    claims = [entry for entry in section.asked_for if entry.limits.signs_right is None]  # those are ratios
    unseen = [entry for entry in claims if "in-sample" not in entry.how]
    return [point for entry in unseen or claims for point in entry.points]


def _line(axes: Axes, least: float, most: float) -> None:
    """Where predicted is measured, and a fifth either way."""
    ends = np.array([least, most])
    axes.plot(ends, ends, color="#444444", linewidth=0.8)
    axes.fill_between(ends, ends / 1.2, ends * 1.2, color="#cccccc", alpha=0.5, linewidth=0)
    axes.set(xscale="log", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)


def against(sections: Sequence[Section]) -> Figure | None:
    """A dot for each left-out row of TTFT and collectives."""
    shown = {s.title: left_out(s) for s in sections if s.key in AGAINST and s.unit == "seconds"}
    points = [point for found in shown.values() for point in found]
    if not points:
        return None
    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    for title, found in shown.items():
        axes.scatter(
            [1e3 * p.measured for p in found], [1e3 * p.predicted for p in found], s=7, linewidth=0, alpha=0.7,
            label=f"{title} ({len(found)})",
        )  # fmt: skip
    seconds = [x for p in points for x in (p.measured, p.predicted)]
    _line(axes, 1e3 * min(seconds), 1e3 * max(seconds))
    axes.set(xlabel="measured, ms", ylabel="predicted, ms; the row itself left out")
    axes.legend(frameon=False)
    return figure


def by_size(sections: Sequence[Section]) -> Figure | None:
    """Median and 90th percentile of the error's size in each regime of each section that has more than one."""
    shown: list[tuple[str, list[tuple[str, Summary]]]] = []
    for section in sections:
        found: dict[str, list[Point]] = {}
        for point in left_out(section):
            found.setdefault(point.regime, []).append(point)
        if 1 < len(found) <= MOST_REGIMES:
            order = sorted(found, key=lambda name: min(point.measured for point in found[name]))  # small sizes first
            shown.append((section.title, [(name, Summary.of(found[name])) for name in order]))
    if not shown:
        return None
    rows = -(-len(shown) // 2)
    figure, grid = plt.subplots(rows, 2, figsize=(9, 2.4 * rows), layout="constrained", squeeze=False)
    for axes, (title, regimes) in zip(grid.flat, shown, strict=False):
        names, place = [name for name, _ in regimes], np.arange(len(regimes))
        axes.bar(place - 0.2, [100 * s.median for _, s in regimes], 0.4, color="#3b6ea5", label="median")
        axes.bar(place + 0.2, [100 * s.percentile_90 for _, s in regimes], 0.4, color="#e08e45", label="90th")
        axes.set_xticks(place, names, rotation=20, ha="right", fontsize=7)
        axes.set_title(title, fontsize=9)
        axes.set_ylabel("error, %")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    grid.flat[0].legend(frameon=False)
    return figure


def emulated(campaign: Mapping[str, Any]) -> Figure:
    """A dot for each cell of the emulation campaign, real and paced."""
    figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
    seconds: list[float] = []
    for mode, colour in (("real", "#3b6ea5"), ("paced", "#e08e45")):
        rows = [row for case in campaign["cases"].values() if case["mode"] == mode for row in case["rows"]]
        ours = [1e3 * emulate_report.predicted(row, "median") for row in rows]
        theirs = [1e3 * emulate_report.measured(row, "median") for row in rows]
        axes.scatter(theirs, ours, s=9, linewidth=0, color=colour, label=f"{mode} ({len(rows)})")
        seconds += ours + theirs
    _line(axes, min(seconds), max(seconds))
    axes.set(xlabel="measured TTFT, ms", ylabel="predicted before it ran, ms")
    axes.legend(frameon=False)
    return figure
