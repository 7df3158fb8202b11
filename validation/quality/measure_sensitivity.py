"""Measure what each choice at one sync point alone costs: `make sensitivity`.

Every sync point of SmolLM2-135M under every choice, on windows of Wikipedia's prose that `accuracy` never evaluates,
into `sim/profiles/sensitivity-smollm2-135m.json`. Points done lie in a folder, so a stopped run goes on where it was,
and the table is written anew after each window. `reference.quality.sensitivity` does the measuring.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thinwire.reference.mixed import DROP, SITES
from thinwire.reference.quality.accuracy import Progress
from thinwire.reference.quality.sensitivity import KIND, PointLoss, keep, key, measure, measure_prompts, parse_choices
from thinwire.validation.quality.subject import (
    MODEL,
    WINDOW_TOKENS,
    Material,
    command_line,
    results_file,
    run_program,
    write_table,
)

TABLES = Path(__file__).resolve().parents[2] / "sim" / "profiles"
TABLE, PROMPTS = TABLES / f"sensitivity-{MODEL}.json", TABLES / f"sensitivity-{MODEL}-prompt.json"
TP = 3  # the 9 heads of SmolLM2 divide by it
WINDOWS = 4
STRIDE = 4  # so that four windows predict from every position once
CHOICES = (
    "bf16",  # what any change at all does to a model in bf16: the others are held against it
    "flash-int8",
    "two_step:mx-e2m3-b32",
    "flash2-int6",
    "flash2-int5",
    "flash2-int5+exempt-1",
    "two_step:int4-g32-zp",
    "flash-int4",
    "flash-int4+exempt-1",
    "all_gather:int4-g128-zp",
    "two_step:int3-g128-zp-sr",
    "flash2-int3",
    "flash2-int3+exempt-1",
    "flash2-int2-sr",
    DROP,
)
Table = dict[str, Any]


def run(
    material: Material,
    out: Path,
    folder: Path,
    *,
    choices: Sequence[str] = CHOICES,
    tp: int = TP,
    windows: int = WINDOWS,
    tokens: int = WINDOW_TOKENS,
    stride: int = STRIDE,
    prompt: int | None = None,
    together: int = 1,
    how: str = "make sensitivity",
    progress: Progress | None = None,
) -> Table:
    """The table, written to `out` after each window; points done are kept in `folder`.

    prompt: tokens of each window in which choices are tried, the rest predicted exactly; None = all are tried and
    predicted. together: windows in a batch, with a prompt.

    Raises ValueError for what `parse_choices`, `Material` and `measure` refuse, and where out's folder is missing.
    """
    if not out.parent.is_dir():  # said now, not after the first window
        raise ValueError(f"no folder for the table: {out.parent}")
    tried = parse_choices(choices, material.checkpoint.config)
    subject = material.subject(tp, material.calibration(tokens, windows))
    wanted = key(subject.decoder, material.weights.sha256, stride, prompt, together)
    kept = keep(results_file(folder, wanted, "model"), wanted)
    shared = {
        "kind": KIND,
        "model": material.model,
        "title": material.title,
        "layers": material.checkpoint.config.num_layers,
        "tp": tp,
        "source": material.source(how),
    }
    table: Table = {}
    losses: list[PointLoss] = []
    windows_WT = subject.windows.calibration_WT
    if prompt is None:
        found = measure(subject.decoder, windows_WT, tried, stride=stride, kept=kept, progress=progress)
    else:
        found = measure_prompts(
            subject.decoder, windows_WT, tried, prompt, together=together, kept=kept, progress=progress
        )
    for done in found:
        losses += done
        table = {
            **shared,
            "windows": len({loss.digest for loss in losses}),
            "window_tokens": tokens,
            "prompt_tokens": prompt,
            "stride": stride if prompt is None else 1,
            "predictions": sum({loss.digest: loss.predictions for loss in losses}.values()),
            "code": wanted["code"],
        }
        figures = entries(losses, choices)
        write_table(out, table, "choices", figures)
        table["choices"] = figures
    return table


def entries(losses: Sequence[PointLoss], choices: Sequence[str]) -> dict[str, Any]:
    """By choice, site and figure the values of the layers, in nats a predicted token, four digits; without the sites
    at which a choice was not tried."""
    layers = 1 + max(loss.layer for loss in losses)
    found: dict[str, Any] = {}
    for choice in choices:
        for site in SITES:
            by_layer = [
                [loss for loss in losses if (loss.layer, loss.site) == (layer, site) and choice in loss.kl]
                for layer in range(layers)
            ]
            if all(by_layer):
                kl = [max(_mean(at, [loss.kl[choice] for loss in at]), 0.0) for at in by_layer]  # rounding goes below
                nll = [_mean(at, [loss.nll[choice] for loss in at]) for at in by_layer]
                found.setdefault(choice, {})[site] = {"kl": kl, "nll": nll}
    return found


def _mean(losses: Sequence[PointLoss], sums: Sequence[float]) -> float:
    """A prediction's share of sums over the windows of some losses, four digits."""
    return float(f"{math.fsum(sums) / sum(loss.predictions for loss in losses):.4g}")


def summary(table: Table, most: int = 10) -> Table:
    """What a reader wants first: each choice's divergence summed over all points, and the most sensitive points under
    one choice, `flash-int4` or the middle one."""
    choices = table["choices"]
    under = "flash-int4" if "flash-int4" in choices else list(choices)[len(choices) // 2]
    ranked = sorted(
        (
            {"layer": layer, "site": site, "kl": kl, "nll": figures["nll"][layer]}
            for site, figures in choices[under].items()
            for layer, kl in enumerate(figures["kl"])
        ),
        key=lambda point: -point["kl"],
    )
    return {
        **{name: table[name] for name in ("model", "title", "layers", "tp", "windows", "window_tokens", "predictions")},
        "kl_summed": {
            choice: float(f"{math.fsum(kl for figures in sites.values() for kl in figures['kl']):.4g}")
            for choice, sites in choices.items()
        },
        "under": under,
        "most_sensitive": ranked[:most],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tp", type=int, default=TP)
    parser.add_argument("--choices", nargs="+", default=CHOICES)
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--tokens", type=int, default=WINDOW_TOKENS)
    parser.add_argument("--prompt-tokens", type=int, default=None, help="where choices are tried; all when left out")
    parser.add_argument("--together", type=int, default=1, help="windows in a batch, with a prompt")
    parser.add_argument("--stride", type=int, default=STRIDE, help="every how many positions are predicted from")
    about = "the table; of prompts it is another where this is left out"
    given = command_line(parser, arguments, "sensitivity", "points done", TABLE, about)
    if given.write == TABLE and given.prompt_tokens is not None:
        given.write = PROMPTS

    begin = time.monotonic()

    def tell(done: int, total: int) -> None:
        print(f"{done} of {total} points, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)

    run(
        Material(device=given.device, backend=given.backend), given.write, given.folder, choices=given.choices,
        tp=given.tp, windows=given.windows, tokens=given.tokens, stride=given.stride, prompt=given.prompt_tokens,
        together=given.together, progress=tell,
    )  # fmt: skip
    print(f"TP {given.tp}: {given.write}", file=sys.stderr)


if __name__ == "__main__":
    run_program(main)
