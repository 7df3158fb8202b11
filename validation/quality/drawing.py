"""The pictures of docs/accuracy.md: the frontier of bits against loss, and how far a compressed prompt's loss reaches.

The same tables give the same bytes, whatever was drawn before in this process.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thinwire.sim.choices import Compress
from thinwire.validation.quality.findings import DEGREES, NEAR, STRETCHES, reached, winners
from thinwire.validation.quality.measured import TP, Estimate, Measured, Row, bits, kl, shown_name, two_steps

BLUE, GREEN, GREY, RED = "#3b6ea5", "#2e7d32", "#9a9a9a", "#c0392b"
COLOURS = ("#3b6ea5", "#c0392b", "#e08e2b", "#2e7d32", "#7b4ea3", "#555555")
WIDEST = 9.0  # bits that the frontier shows
NAMED = ("flash-int8", "quickreduce-fp8", "flash2-int6", "flash2-int5", "quickreduce-int4", "flash-int4", "mxfp4")


@contextmanager
def _settings() -> Iterator[None]:
    with plt.style.context("default", after_reset=True):
        plt.rcParams |= {"svg.hashsalt": "thinwire", "font.family": "sans-serif", "font.size": 9}
        yield


def frontier(measured: Measured, target: Path) -> None:
    """Bits against KL, prompts alone and every position; the winners of budgets named."""
    with _settings():
        figure, panels = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained", sharey=True)
        _frontier(panels[0], measured, "prompt")
        panels[0].set_title(f"prompts compressed, answers exact (TP {TP})", fontsize=9, loc="left")
        _frontier(panels[1], measured, "all")
        panels[1].set_title("every position compressed", fontsize=9, loc="left")
        panels[0].set_ylabel("loss: KL a token, nats, 95 % interval")
        _save(figure, target)


def _frontier(axes: Axes, measured: Measured, compress: Compress) -> None:
    winning = winners(measured, compress)
    for name in measured.names:
        row = measured.loss(name, compress)
        if row is None or not bits(name) < WIDEST or "exempt" in name:
            continue
        best, twice = name in winning, two_steps(name)
        colour = GREEN if best else BLUE if twice else GREY
        _dot(axes, bits(name), kl(row), colour, filled=twice, large=best)
        if best or name in map(shown_name, NAMED):
            left = best or bits(name) > WIDEST - 1  # winners have nothing below them, wide ones no room to the right
            axes.annotate(
                name.removeprefix("two_step:"), (bits(name), kl(row).value), textcoords="offset points",
                xytext=(-6 if left else 5, -8 if best else 4), ha="right" if left else "left", fontsize=7.5,
                color=colour,
            )  # fmt: skip
    for label, colour, filled in (
        ("two steps", BLUE, True),
        ("two steps, least loss of its budget", GREEN, True),
        ("one step or three", GREY, False),
    ):
        axes.plot([], [], "o", color=colour, markerfacecolor=colour if filled else "white", markersize=4, label=label)
    axes.set(yscale="log", xlabel="bits a value on the wire (one step sends TP / 2 times the values)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.3)
    if compress == "prompt":
        axes.legend(frameon=False, fontsize=8, loc="upper right")


def reach(measured: Measured, schemes: Sequence[str], target: Path) -> None:
    """KL by distance behind a prompt, by the prompt's length, and by TP degree."""
    edges, lengths = tuple(STRETCHES), reached(measured)
    with _settings():
        figure, panels = plt.subplots(1, 3, figsize=(10, 4.2), layout="constrained", sharey=True)
        for name, colour in zip(schemes, COLOURS, strict=False):
            _line(panels[0], edges, [measured.reach(name, NEAR, edge) for edge in edges], colour, "-", name)
            for edge, style in ((1, "-"), (128, ":")):
                found = [measured.reach(name, each, edge) for each in lengths]
                _line(panels[1], lengths, found, colour, style, None)
            _line(panels[2], DEGREES, [measured.loss(name, "prompt", tp) for tp in DEGREES], colour, "-", None)
        titles = (
            f"by distance behind a prompt of {NEAR}",
            "by its length: first token (-), 33rd to 128th (..)",
            "by TP degree: 128 tokens behind 384",
        )
        labels = ("last token of the stretch", "tokens of the prompt", "TP degree")
        for axes, title, label in zip(panels, titles, labels, strict=True):
            axes.set_title(title, fontsize=8, loc="left")
            axes.set(xscale="log", yscale="log", xlabel=label)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", linewidth=0.3)
        for axes, ticks in zip(panels, (edges, lengths, DEGREES), strict=True):
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=7)
            axes.set_xticks([], minor=True)
        panels[0].set_ylabel("loss: KL a token, nats, 95 % interval")
        figure.legend(loc="outside lower center", ncols=len(schemes), frameon=False, fontsize=7.5)
        _save(figure, target)


def _dot(axes: Axes, x: float, found: Estimate, colour: str, filled: bool, large: bool) -> None:
    ends = [[found.value - found.low], [found.high - found.value]]
    axes.errorbar(
        x, found.value, yerr=ends, fmt="o", color=colour, markersize=6 if large else 3.5, elinewidth=0.7,
        markerfacecolor=colour if filled else "white", markeredgewidth=0.8,
    )  # fmt: skip


def _line(
    axes: Axes, at: Sequence[int], rows: Sequence[Row | None], colour: str, style: str, label: str | None
) -> None:
    known = [(x, kl(row)) for x, row in zip(at, rows, strict=True) if row is not None]
    values = [found.value for _, found in known]
    below, above = [f.value - f.low for _, f in known], [f.high - f.value for _, f in known]
    axes.errorbar(
        [x for x, _ in known], values, yerr=[below, above], fmt=f"o{style}", color=colour, markersize=3,
        linewidth=1, elinewidth=0.6, label=label,
    )  # fmt: skip


def _save(figure: Figure, target: Path) -> None:
    figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
