"""Is INT4 on the wire worth it on four RTX 4090, with the stock driver or with the patched one?

python examples/gallery/int4_on_my_4090s.py        the page: docs/examples/int4-on-my-4090s.md
"""

from dataclasses import dataclass
from pathlib import Path

import thinwire
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.importing.machine import imported

HERE = Path(__file__).parent
TOPOLOGY = HERE / "4090-topo.txt"  # nvidia-smi topo -m
PATCHED = HERE / "4090-p2p.txt"  # nvidia-smi topo -p2p r, with the driver that lets GPUs reach each other
MODEL, PROMPTS, TOKENS = "Qwen/Qwen3-32B-FP8", 4, 2048
SCHEMES = ("flash-int8", "flash2-int6", "flash2-int4-sr", "flash-int4")
LENGTHS = tuple(2**power for power in range(3, 11))  # tokens of a single prompt
# What accuracy may cost: perplexity by 5 %, and so many points of look-ups in a compressed prompt.
MOST_PERPLEXITY, MOST_POINTS, STRICT_POINTS = 1.05, 10.0, 5.0


@dataclass(frozen=True)
class Row:
    """A scheme: seconds to the first token, how much sooner than bf16, what it costs."""

    scheme: str
    ttft_s: float
    speedup: float
    perplexity: float
    points: float

    def usable(self, most_points: float = MOST_POINTS) -> bool:
        """Within both limits."""
        return self.perplexity <= MOST_PERPLEXITY and self.points <= most_points


@dataclass(frozen=True)
class Answer:
    """Rows of each machine, soonest first; what bf16 takes and waits; where INT4 begins to pay."""

    stock: tuple[Row, ...]
    patched: tuple[Row, ...]
    plain_s: tuple[float, float]
    waiting: tuple[float, float]  # shares of plain_s spent on the wire
    interval: tuple[float, float]  # of the best on the stock driver
    pays_from: int  # tokens


def machine(*dumps: Path) -> Cluster:
    """What these files say of the box."""
    return imported([str(path) for path in dumps], gpu="rtx-4090").cluster


def compared(box: Cluster) -> tuple[thinwire.Comparison, tuple[Row, ...]]:
    """Schemes with their accuracy, as measured on a small model."""
    c = thinwire.compare(SCHEMES, MODEL, box, batch=PROMPTS, input_tokens=TOKENS)
    rows = []
    for p in c.rows:
        accuracy, lookups = c.accuracy(p), c.lookup(p)
        assert accuracy is not None and accuracy.perplexity_ratio is not None and lookups is not None
        rows.append(Row(p.scheme.name, p.ttft_s, c.speedup(p), accuracy.perplexity_ratio, -100 * lookups.lost))
    return c, tuple(rows)


def best(rows: tuple[Row, ...], most_points: float = MOST_POINTS) -> Row:
    """The soonest that is usable."""
    return min((row for row in rows if row.usable(most_points)), key=lambda row: row.ttft_s)


def answer() -> Answer:
    """The same box with either driver."""
    stock_box, patched_box = machine(TOPOLOGY), machine(TOPOLOGY, PATCHED)
    (stock, stock_rows), (patched, patched_rows) = compared(stock_box), compared(patched_box)
    plain = (stock.baseline, patched.baseline)
    (first,) = (p for p in stock.rows if p.scheme.name == best(stock_rows).scheme)

    def pays(tokens: int) -> bool:
        one = thinwire.compare([first.scheme], MODEL, stock_box, input_tokens=tokens)
        return one.speedup(one.rows[0]) > 1

    return Answer(
        stock=stock_rows,
        patched=patched_rows,
        plain_s=(plain[0].ttft_s, plain[1].ttft_s),
        waiting=tuple(p.breakdown.exposed_communication_s / p.ttft_s for p in plain),  # type: ignore[arg-type]
        interval=(first.interval.low_s, first.interval.high_s),
        pays_from=next(tokens for tokens in LENGTHS if pays(tokens)),
    )


def said(a: Answer) -> list[str]:
    """The answer in sentences, the first first."""
    top, same, strict = best(a.stock), best(a.patched), best(a.stock, STRICT_POINTS)
    plain_int4 = next(row for row in a.stock if row.scheme == "flash-int4")
    return [
        f"Yes, with the right INT4: {top.scheme} takes {a.plain_s[0]:.2f} s to the first token down to "
        f"{top.ttft_s:.2f} s ({top.speedup:.2f} times as fast) with the stock driver, and {a.plain_s[1]:.2f} s to "
        f"{same.ttft_s:.2f} s ({same.speedup:.2f} times) with the patched one.",
        f"Uncompressed, {a.waiting[0]:.0%} of the time is waiting for the wire with the stock driver, "
        f"{a.waiting[1]:.0%} with peer-to-peer.",
        f"{plain_int4.scheme} is as fast ({plain_int4.ttft_s:.2f} s) but loses {plain_int4.points:.0f} points of "
        f"look-ups in a compressed prompt, {top.scheme} {top.points:.0f}; perplexity rises by "
        f"{plain_int4.perplexity - 1:.1%} and {top.perplexity - 1:.1%}.",
        f"If no more than {STRICT_POINTS:.0f} points may be lost, it is {strict.scheme}: {strict.ttft_s:.2f} s, "
        f"{strict.points:.0f} points.",
        f"The 90 % interval of the {top.ttft_s:.2f} s is {a.interval[0]:.2f} to {a.interval[1]:.2f} s.",
        f"The driver alone is worth {a.plain_s[0] / a.plain_s[1]:.2f} times; {top.scheme} on the stock driver beats "
        f"16 bits on the patched one by {a.plain_s[1] / top.ttft_s:.2f} times.",
        f"For a single prompt {top.scheme} pays from {a.pays_from} tokens on; below, codec kernels cost more than the "
        f"wire gives back.",
    ]


def main() -> None:
    """Print them."""
    print("\n".join(said(answer())))


if __name__ == "__main__":
    main()
