"""Draws docs/ttft.svg, the README's picture: TTFT with its intervals against what schemes cost in perplexity.

`make pictures`. TTFTs are predictions, perplexities are looked up (`sim.quality`); the same of both give the same
bytes. tests/test_pictures.py draws it anew and holds the committed file to it.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from thinwire.sim.api import Comparison, compare
from thinwire.sim.report import Prediction
from thinwire.sim.verdict import Limit, best

SCHEMES = (
    "bf16", "mxfp8", "mxfp6", "mxfp4", "spd-50", "flash-int8", "flash2-int6", "flash-int5", "flash-int4",
    "hybrid-4.2", "iso", "iso-int8", "flash-int4+iso", "flash2-int4-sr",
)  # fmt: skip
LIMIT = Limit()
USABLE = round(LIMIT.perplexity - 1, 9)
LOOKUPS = LIMIT.lookups / 100
BELOW = ("mxfp4",)  # whose name would meet another's above
BLUE, GREEN, GREY = "#3b6ea5", "#2e7d32", "#7a7a7a"
TARGET = Path(__file__).parent / "ttft.svg"


def asked() -> Comparison:
    """What is drawn: Llama-3-70B on four of eight L40S."""
    return compare(SCHEMES, "llama-3-70b", "8xl40s-pcie", tp=4, batch=8, input_tokens=1024)


def ratio_of(found: Comparison, row: Prediction) -> tuple[float, float, float] | None:
    """Perplexity over the uncompressed model's, and its interval."""
    known = found.accuracy(row)
    if known is None or known.perplexity_ratio is None or known.perplexity_ratio_interval is None:
        return None
    return known.perplexity_ratio, *known.perplexity_ratio_interval


@plt.style.context("default", after_reset=True)
def draw(target: Path = TARGET) -> None:
    """Write the picture."""
    plt.rcParams |= {"svg.hashsalt": "thinwire", "font.family": "sans-serif", "font.size": 10}
    found = asked()
    bought = best(found, LIMIT)
    if bought is None:
        raise ValueError("none of what is drawn is usable")
    figure, axes = plt.subplots(figsize=(8, 4.4), layout="constrained")
    axes.set_xscale("symlog", linthresh=USABLE, linscale=1.6)  # linear where schemes are usable, then by orders
    for row in found.rows:
        ratio = ratio_of(found, row)
        if ratio is None:
            raise ValueError(f"nobody measured the perplexity of {row.scheme.name}")
        _point(axes, row, ratio, row is bought)
    least, most = -0.03, 2.2
    axes.axvspan(USABLE, most, color="#c0392b", alpha=0.08, linewidth=0)
    axes.text(most * 0.95, 4650, "costs too much accuracy", ha="right", color="#c0392b", fontsize=9)
    axes.text(
        least * 0.97, 1400,
        f"best buy: {bought.scheme.name}, {bought.ttft_s * 1e3:.0f} ms, {found.speedup(bought):.2f}x sooner",
        fontsize=10, fontweight="bold", color=GREEN,
    )  # fmt: skip
    axes.set_xlim(least, most)
    axes.set_ylim(1300, 4900)
    ticks = (-0.02, 0, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
    axes.set_xticks(ticks, [f"{tick:+.0%}" if tick else "0" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(
        "what it costs: change of perplexity, SmolLM2-135M, 95 % interval (linear up to 5 %, then by orders)"
    )
    axes.set_ylabel("what it buys: predicted TTFT, ms, 90 % interval")
    axes.set_title("Llama-3-70B in bf16 on four of eight L40S (PCIe), 8 x 1024 tokens", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def _point(axes: "plt.Axes", row: Prediction, ratio: tuple[float, float, float], best: bool) -> None:
    colour = GREEN if best else BLUE if ratio[0] <= 1 + USABLE else GREY
    rise, value_ms = ratio[0] - 1, row.ttft_s * 1e3
    sideways = [[ratio[0] - ratio[1]], [ratio[2] - ratio[0]]]
    upright = [[value_ms - row.interval.low_s * 1e3], [row.interval.high_s * 1e3 - value_ms]]
    axes.errorbar(
        rise, value_ms, xerr=sideways, yerr=upright, fmt="o", color=colour, markersize=7 if best else 4, elinewidth=0.6
    )
    below = row.scheme.name in BELOW
    axes.annotate(
        row.scheme.name, (rise, value_ms), xytext=(4, -11 if below else 4), textcoords="offset points", fontsize=8,
        color=colour,
    )  # fmt: skip


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET)
