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
USUAL, STRICT = thinwire.Limit(), thinwire.Limit(lookups=5.0)  # what accuracy may cost


@dataclass(frozen=True)
class Answer:
    """With either driver: codecs, soonest first. overlapped: none, but the two halves of a prompt overlap, stock
    driver. pays_from: where the best codec begins to pay, in tokens of a single prompt.
    """

    stock: thinwire.Comparison
    patched: thinwire.Comparison
    overlapped: thinwire.Prediction
    pays_from: int


@dataclass(frozen=True)
class Cost:
    """Of accuracy: perplexity over the uncompressed model's, points of look-ups lost in a compressed prompt."""

    perplexity: float
    points: float


def machine(*dumps: Path) -> Cluster:
    """What these files say of the box."""
    return imported([str(path) for path in dumps], gpu="rtx-4090").cluster


def best(c: thinwire.Comparison, limit: thinwire.Limit = USUAL) -> thinwire.Prediction:
    """The soonest that stays within the limit."""
    found = thinwire.best(c, limit)
    assert found is not None
    return found


def cost(c: thinwire.Comparison, row: thinwire.Prediction) -> Cost:
    """As measured on a small model."""
    accuracy, lookups = c.accuracy(row), c.lookup(row)
    assert accuracy is not None and accuracy.perplexity_ratio is not None and lookups is not None
    return Cost(accuracy.perplexity_ratio, -100 * lookups.lost)


def pays(scheme: str, box: Cluster, tokens: int) -> bool:
    """Is one prompt of so many tokens sooner with it?"""
    c = thinwire.compare([scheme], MODEL, box, input_tokens=tokens)
    return c.speedup(c.rows[0]) > 1


def answer() -> Answer:
    """The same box with either driver."""
    boxes = machine(TOPOLOGY), machine(TOPOLOGY, PATCHED)
    stock, patched = (thinwire.compare(SCHEMES, MODEL, box, batch=PROMPTS, input_tokens=TOKENS) for box in boxes)
    overlapped = thinwire.predict(MODEL, boxes[0], "iso", batch=PROMPTS, input_tokens=TOKENS)
    name = best(stock).scheme.name
    return Answer(stock, patched, overlapped, next(tokens for tokens in LENGTHS if pays(name, boxes[0], tokens)))


def said(a: Answer) -> list[str]:
    """The answer in sentences, the first first."""
    top, same, strict = best(a.stock), best(a.patched), best(a.stock, STRICT)
    (plain,) = (row for row in a.stock.rows if row.scheme.name == "flash-int4")
    loses, plain_loses = cost(a.stock, top), cost(a.stock, plain)
    name, before, patched = top.scheme.name, a.stock.baseline, a.patched.baseline
    waiting = [p.breakdown.exposed_communication_s / p.ttft_s for p in (before, patched)]
    return [
        f"Yes, with the right INT4: {name} takes {before.ttft_s:.2f} s to the first token down to {top.ttft_s:.2f} s "
        f"({a.stock.speedup(top):.2f} times as fast) with the stock driver, and {patched.ttft_s:.2f} s to "
        f"{same.ttft_s:.2f} s ({a.patched.speedup(same):.2f} times) with the patched one.",
        f"Uncompressed, {waiting[0]:.0%} of the time is waiting for the wire with the stock driver, {waiting[1]:.0%} "
        f"with peer-to-peer.",
        f"flash-int4 is as fast ({plain.ttft_s:.2f} s) but loses {plain_loses.points:.0f} points of look-ups in a "
        f"compressed prompt, {name} {loses.points:.0f}; perplexity rises by {plain_loses.perplexity - 1:.1%} and "
        f"{loses.perplexity - 1:.1%}.",
        f"If no more than {STRICT.lookups:.0f} points may be lost, it is {strict.scheme.name}: {strict.ttft_s:.2f} s, "
        f"{cost(a.stock, strict).points:.0f} points.",
        f"An engine that overlaps the two halves of a prompt (iso) loses nothing and takes "
        f"{a.overlapped.ttft_s:.2f} s.",
        f"The 90 % interval of the {top.ttft_s:.2f} s is {top.interval.low_s:.2f} to {top.interval.high_s:.2f} s.",
        f"The driver alone is worth {before.ttft_s / patched.ttft_s:.2f} times; {name} on the stock driver beats 16 "
        f"bits on the patched one by {patched.ttft_s / top.ttft_s:.2f} times.",
        f"For a single prompt {name} pays from {a.pays_from} tokens on; below, codec kernels cost more than the wire "
        f"gives back.",
    ]


def main() -> None:
    """Print them."""
    print("\n".join(said(answer())))


if __name__ == "__main__":
    main()
