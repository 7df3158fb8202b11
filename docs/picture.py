"""Draws docs/ttft.svg, the README's picture, from predictions: `make picture`. The same predictions give the same
bytes.
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from thinwire.sim.api import compare

SCHEMES = (
    "bf16", "spd-50", "mxfp4", "flash-int8", "flash-int4", "flash2-int2-sr", "iso",
    "flash-int4+spd-50", "flash-int4+iso", "none",
)  # fmt: skip
TARGET = Path(__file__).parent / "ttft.svg"


def main() -> None:
    """Stacked bars: computing, and waiting for the wire and its codec."""
    plt.rcParams |= {"svg.hashsalt": "thinwire", "font.family": "sans-serif", "font.size": 10}
    found = compare(SCHEMES, "llama-3-70b", "8xl40s-pcie", tp=4, batch=8, input_tokens=1024)
    rows = found.rows[::-1]
    names = [row.scheme.name for row in rows]
    compute = [row.breakdown.compute_s * 1e3 for row in rows]
    waiting = [row.breakdown.exposed_communication_s * 1e3 for row in rows]
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    axes.barh(names, compute, color="#3b6ea5", label="computing")
    axes.barh(names, waiting, left=compute, color="#e08e45", label="waiting for the wire")
    for row, end in zip(rows, (c + w for c, w in zip(compute, waiting, strict=True)), strict=True):
        axes.text(end + 20, row.scheme.name, f"{end:.0f} ms  {found.speedup(row):.2f}x", va="center", fontsize=9)
    axes.set_xlim(0, max(row.ttft_s for row in rows) * 1.18e3)
    axes.set_xlabel("predicted TTFT, ms: Llama-3-70B bf16, four of eight L40S (PCIe), 8 x 1024 tokens")
    axes.legend(loc="upper right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(TARGET, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
