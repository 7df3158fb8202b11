"""An idea for a codec: is it worth writing kernels for? The idea is examples/log4.py, a power of two in 4 bits.

python examples/gallery/my_own_codec.py        the page: docs/examples/my-own-codec.md
Needs torch: `pip install 'thinwire[reference]'`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import thinwire
from thinwire.reference.allreduce import all_reduce_local
from thinwire.reference.catalog import scheme
from thinwire.reference.check import check_codec

sys.path.insert(0, str(Path(__file__).parents[1]))
import log4  # registers the codec; its numbers, log4_torch.py, are found when something is encoded

MINE, INT4 = f"two_step:{log4.Log4().spec}", "flash-int4"
BOTH = (MINE, INT4)
MODEL, MACHINE, NVLINK, TP, PROMPTS, TOKENS = "llama-3-70b", "8xl40s-pcie", "8xh100-nvlink", 4, 8, 1024
VALUES, OUTLIERS, LARGER = 1 << 18, 0.005, 30.0


@dataclass(frozen=True)
class Answer:
    """By scheme: relative errors of an all-reduce of even and of spiky values, seconds, speed-ups."""

    even: dict[str, float]
    spiky: dict[str, float]
    bits: dict[str, float]
    plain_s: float
    ttft_s: dict[str, float]
    codec_s: dict[str, float]
    speedup: dict[str, float]
    on_nvlink: dict[str, float]  # speed-ups
    measured: dict[str, bool]  # in accuracy


def error(name: str, outliers: float) -> float:
    """Of the sum of four ranks' values under a scheme, root mean square over root mean square.

    outliers: a share of the values is so many times as large as the others, as a model's activations have some.
    """
    draw = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(TP):
        values, chosen = torch.randn(VALUES, generator=draw), torch.rand(VALUES, generator=draw) < outliers
        parts.append(torch.where(chosen, LARGER * values, values))
    exact = torch.stack(parts).double().sum(0)
    found = all_reduce_local(parts, scheme(name))[0].double()
    return float((found - exact).norm() / exact.norm())


def compared(cluster: str) -> tuple[thinwire.Comparison, dict[str, thinwire.Prediction]]:
    """Both schemes on a machine, by name."""
    c = thinwire.compare(BOTH, MODEL, cluster, tp=TP, batch=PROMPTS, input_tokens=TOKENS)
    return c, {name: next(row for row in c.rows if row.scheme == scheme(name)) for name in BOTH}


def answer() -> Answer:
    """Check, error, prediction, comparison."""
    check_codec(log4.Log4(), idempotent=True)  # raises where it breaks a promise
    c, rows = compared(MACHINE)
    linked, linked_rows = compared(NVLINK)
    return Answer(
        even={name: error(name, 0.0) for name in BOTH},
        spiky={name: error(name, OUTLIERS) for name in BOTH},
        bits={name: row.bits_per_value["reduce"] for name, row in rows.items()},
        plain_s=c.baseline.ttft_s,
        ttft_s={name: row.ttft_s for name, row in rows.items()},
        codec_s={name: row.breakdown.codec_s for name, row in rows.items()},
        speedup={name: c.speedup(row) for name, row in rows.items()},
        on_nvlink={name: linked.speedup(row) for name, row in linked_rows.items()},
        measured={name: c.accuracy(row) is not None for name, row in rows.items()},
    )


def said(a: Answer) -> list[str]:
    """The answer in sentences, the first first."""
    verdict = "worth measuring" if a.spiky[MINE] < a.spiky[INT4] and a.speedup[MINE] > 1 else "not worth the trouble"
    known = "was measured" if a.measured[MINE] else "nobody measured yet"
    return [
        f"log4 is {verdict}: {a.speedup[MINE]:.2f} times as fast as 16 bits (INT4: {a.speedup[INT4]:.2f}), and on "
        f"values with outliers an all-reduce errs by {a.spiky[MINE]:.1%} (INT4: {a.spiky[INT4]:.1%}).",
        f"On values without outliers it errs by {a.even[MINE]:.1%}, INT4 by {a.even[INT4]:.1%}: powers of two are "
        f"coarse.",
        f"It sends {a.bits[MINE]:.2f} bits a value, INT4 {a.bits[INT4]:.2f}; the first token comes after "
        f"{a.ttft_s[MINE]:.2f} s, with INT4 after {a.ttft_s[INT4]:.2f} s, uncompressed after {a.plain_s:.2f} s.",
        f"Its kernels take {a.codec_s[MINE]:.2f} s of that, INT4's {a.codec_s[INT4]:.2f} s.",
        f"What it costs a model in perplexity {known}.",
        f"On {NVLINK} it is {a.on_nvlink[MINE]:.2f} times as fast as 16 bits, INT4 {a.on_nvlink[INT4]:.2f} times.",
        f"The outliers: {OUTLIERS:.1%} of the values, drawn {LARGER:g} times as large as the others.",
    ]


def main() -> None:
    """Print them."""
    print("\n".join(said(answer())))


if __name__ == "__main__":
    main()
