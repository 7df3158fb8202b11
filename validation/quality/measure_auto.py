"""Does `auto:<budget>` keep its promise and beat every single scheme? `make auto`

First, on calibration text that the sensitivities were not measured on: how far perplexity rises when many sync points
change at once, against the sum of what each costs alone. Its slope goes into the table of sensitivities. Then, on text
that was used for neither: perplexity, predicted TTFT and wire bytes of `auto` at several budgets and of every choice
made for all points alike. Windows done are kept, so a stopped run goes on. A table of sensitivities of prompts is held
against prompts: compressed, and answered exactly.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.mixed import DROP, AnyScheme
from thinwire.reference.quality.accuracy import Accuracy, Text
from thinwire.reference.quality.downloads import cache_folder
from thinwire.sim import api
from thinwire.sim.quality.auto import Chosen
from thinwire.sim.quality.losses import TABLES, read
from thinwire.validation.quality.subject import WINDOWS, Material, Subject, run_program, write_table

TABLE = TABLES / "sensitivity-smollm2-135m.json"
RAW = Path(__file__).resolve().parents[1] / "raw" / "auto-smollm2-135m.json"
MODEL, CLUSTER, BATCH, TOKENS = "smollm2-135m", "4xl4-pcie", 8, 1024
BUDGETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
SLOPE_WINDOWS = 4
MORE = ("bf16", "mxfp6", "mxint8", "spd-10", "spd-20", "spd-50")  # single schemes that are no choice of a sync point


def chosen(budget: float, tp: int, table: Path) -> Chosen:
    """The scheme of a budget on the machine of this measurement."""
    return api.auto(budget, MODEL, CLUSTER, tp, BATCH, TOKENS, sensitivities=table)


def slope(losses: Sequence[float], rises: Sequence[float]) -> float:
    """The line through the origin: what the logarithm of perplexity rises by, over the sum of the points' losses.

    Least squares, so that it is the large rises that count, which stand out of the text's scatter.
    """
    return math.fsum(x * y for x, y in zip(losses, rises, strict=True)) / math.fsum(x * x for x in losses)


def additivity(subject: Subject, table: Path, folder: Path | None) -> dict[str, Any]:
    """The field `additivity` of a table of sensitivities, from schemes that were chosen as if losses just added up."""
    amend(table)
    plans = [chosen(budget, subject.decoder.group.size, table) for budget in BUDGETS]
    measured = subject.measure([plan.scheme for plan in plans], folder, progress("additivity"))
    losses = [math.log(plan.perplexity_ratio) for plan in plans]
    rises = [math.log(measured[plan.scheme.name].perplexity_ratio.value) for plan in plans]
    rows = [
        {
            "scheme": plan.scheme.name,
            "sum_of_losses": short(loss),
            "kl": short(measured[plan.scheme.name].kl.value),
            "log_perplexity_ratio": short(rise),
        }
        for plan, loss, rise in zip(plans, losses, rises, strict=True)
    ]
    windows, tokens = subject.windows.evaluation_WT.shape
    return {"slope": short(slope(losses, rises)), "windows": windows, "window_tokens": tokens, "rows": rows}


def amend(table: Path, **fields: Any) -> None:
    """Write a table of sensitivities anew with these fields, without an `additivity` of before."""
    content = json.loads(table.read_text(encoding="utf-8"))
    content.pop("additivity", None)
    choices = content.pop("choices")
    write_table(table, {**content, **fields}, "choices", choices)


def short(figure: float) -> float:
    """Four digits."""
    return float(f"{figure:.4g}")


def progress(what: str) -> Any:
    """Passes done, on standard error."""
    begin = time.monotonic()

    def tell(done: int, total: int) -> None:
        print(f"{what}: {done} of {total} passes, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)

    return tell


def row(scheme: AnyScheme, accuracy: Accuracy, tp: int, expected: float | None) -> dict[str, Any]:
    """What a scheme takes and what it costs."""
    predicted = api.predict(MODEL, CLUSTER, scheme, tp, BATCH, TOKENS)
    low, high = accuracy.perplexity_ratio.low, accuracy.perplexity_ratio.high
    return {
        "scheme": scheme.name,
        "ttft_ms": short(predicted.ttft_s * 1e3),
        "wire_bytes_per_gpu": predicted.traffic.layer_bytes_per_gpu,
        "perplexity_ratio": short(accuracy.perplexity_ratio.value),
        "perplexity_ratio_interval": None if low is None or high is None else [short(low), short(high)],
        "perplexity_ratio_expected": None if expected is None else short(expected),
        "kl": short(accuracy.kl.value),
    }


def frontier(subject: Subject, table: Path, folder: Path | None) -> list[dict[str, Any]]:
    """Rows of `auto` at every budget and of every single scheme, fastest first."""
    tp = subject.decoder.group.size
    plans = {plan.scheme.name: plan for plan in (chosen(budget, tp, table) for budget in BUDGETS)}
    names = dict.fromkeys([*MORE, *(name for name in read(table).loss if name != DROP)])
    schemes: list[AnyScheme] = [*(plan.scheme for plan in plans.values()), *map(find_scheme, names)]
    measured = subject.measure(schemes, folder, progress("frontier"))
    rows = [
        row(found, measured[found.name], tp, plans[found.name].perplexity_ratio if found.name in plans else None)
        for found in schemes
    ]
    return sorted(rows, key=lambda found: (found["ttft_ms"], found["scheme"]))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--folder", type=Path, default=cache_folder() / "accuracy", help="windows done")
    parser.add_argument("--table", type=Path, default=TABLE, help="the sensitivities")
    parser.add_argument("--write", type=Path, default=RAW, help="the frontier")
    given = parser.parse_args(arguments)

    torch.set_num_threads(1)
    known, content = read(given.table), json.loads(given.table.read_text(encoding="utf-8"))
    material, prompt = Material(), content.get("prompt_tokens")
    # The table's own windows are the last of the calibration windows, whatever their number (`cut_text`).
    text = material.cut(content["window_tokens"], given.windows, SLOPE_WINDOWS + content["windows"])
    subject = material.subject(known.tp, Text(text.calibration_WT[:SLOPE_WINDOWS], text.calibration_WT), prompt)
    found = additivity(subject, given.table, given.folder)
    amend(given.table, additivity=found)
    print(f"slope {found['slope']} in {given.table}", file=sys.stderr)

    subject = material.subject(known.tp, text, prompt)
    rows = frontier(subject, given.table, given.folder)
    windows, tokens = subject.windows.evaluation_WT.shape
    shared = {
        "kind": "thinwire auto 1",
        "model": MODEL,
        "machine": f"{known.tp} GPUs of {CLUSTER}, batch {BATCH} x {TOKENS} tokens, predicted",
        "source": material.source("make auto"),
        "windows": windows,
        "window_tokens": tokens,
        "prompt_tokens": prompt,
    }
    write_table(given.write, shared, "rows", rows)
    print(f"{len(rows)} schemes in {given.write}", file=sys.stderr)


if __name__ == "__main__":
    run_program(main)
