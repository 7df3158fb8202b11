"""Measure what sync-point drop costs: `make spd`.

SmolLM2-135M and Wikipedia's prose, other sync points exact. Which blocks: the last ones (what schemes `spd-N` do), the
least sensitive by either procedure, random ones; and what `reference.decoder.spd.prepare` makes of the least sensitive.
Into `validation/raw/spd-smollm2-135m.json`. Sensitivities, trained blocks and windows done lie in a folder, so a
stopped run goes on where it was. Training never sees a window that is evaluated (`accuracy.cut_text`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thinwire.edge.writing import write_text
from thinwire.reference.decoder import distil, head_groups, spd
from thinwire.reference.decoder.distil import Dropping, Progress, Training
from thinwire.reference.decoder.model import Decoder
from thinwire.reference.decoder.shard import LayerPart
from thinwire.reference.decoder.spd import (
    METHODS,
    SENSITIVITY_WINDOWS,
    Method,
    Sensitivity,
    dropped_count,
    prepare,
    random_layers,
    sensitivity,
)
from thinwire.reference.decoder.sync import ExactSync
from thinwire.reference.quality.accuracy import CONFIDENCE, Accuracy, Run, baseline_run, cut_text, evaluate_all
from thinwire.reference.quality.downloads import TEXT, WEIGHTS
from thinwire.reference.quality.results import Results, code_version, digest
from thinwire.validation.campaign.campaign import tidy
from thinwire.validation.quality.subject import WINDOW_TOKENS, WINDOWS, Material, command_line, run_program

TABLE = Path(__file__).resolve().parents[1] / "raw" / "spd-smollm2-135m.json"
PERCENTS = (10, 20, 30, 50, 70, 90, 100)
TRAINED = (30, 50, 70, 90)  # of those; below, nearly all that is dropped is insensitive
SEEDS = (0, 1, 2)  # of random choices
DIGITS = 6  # of the document's numbers: more than any interval leaves
TRAINING_WINDOWS = 64


class Kept:
    """Values by name, made once and kept in a folder named after what they depend on."""

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        mark = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        self.folder = folder / f"spd-tp{key['tp']}-{mark}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def value(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `make` gives, plain values and tensors, and how long it took: `wall_s`."""
        path = self.folder / f"{name}.pt"
        if not path.exists():
            begin, part = time.monotonic(), path.with_suffix(".part")
            made = make()
            torch.save({**made, "wall_s": round(time.monotonic() - begin, 1)}, part)
            part.replace(path)
        found: dict[str, Any] = torch.load(path, weights_only=True)
        return found


def find(kept: Kept, decoder: Decoder, windows_WT: Tensor, method: Method) -> tuple[Sensitivity, float]:
    """Sensitivities and the seconds they took."""
    found = kept.value(method, lambda: asdict(sensitivity(decoder, windows_WT, method, told(method))))
    seconds = found.pop("wall_s")
    return Sensitivity(**{**found, "increases": tuple(found["increases"])}), seconds


def ready(
    kept: Kept,
    decoder: Decoder,
    material: Material,
    windows_WT: Tensor,
    found: Sensitivity,
    percent: int,
    budget: Training,
) -> tuple[Decoder, dict[str, Any]]:
    """What `prepare` gives for a percentage: the decoder, and its report."""

    def make() -> dict[str, Any]:
        done = prepare(
            decoder,
            material.checkpoint,
            windows_WT,
            percent,
            found=found,
            training=budget,
            progress=told(f"training for {percent} %"),
        )
        parts = {
            block.layer: [
                [_tensors(half) for half in (part.mixer, part.feed)] for part in done.decoder.layers[block.layer].parts
            ]
            for block in done.blocks
            if block.distilled is not None
        }
        return {"blocks": [asdict(block) for block in done.blocks], "parts": parts}

    made = kept.value(f"prepared-{percent}", make)
    layers = {}
    for number, parts in made.pop("parts").items():
        heads = made["blocks"][number]["heads"]
        grouped = decoder.layers[number] if heads is None else decoder.load(number, material.checkpoint, heads)
        halves = zip(grouped.parts, parts, strict=True)
        layers[number] = replace(grouped, parts=[_trained(part, *tensors) for part, tensors in halves])
    return decoder.replaced(layers), made


def _tensors(half: Any) -> dict[str, Any]:
    """A half's tensors by name."""
    return {field.name: getattr(half, field.name) for field in fields(half)}


def _trained(part: LayerPart, mixer: Mapping[str, Any], feed: Mapping[str, Any]) -> LayerPart:
    """A part with these tensors."""
    assert part.mixer is not None and part.feed is not None
    return LayerPart(replace(part.mixer, **mixer), replace(part.feed, **feed))


def mean(found: Sequence[Accuracy]) -> Accuracy:
    """Of several runs on the same windows: the mean of their sums, so of ratios the geometric mean."""
    rows = zip(*(accuracy.windows for accuracy in found), strict=True)
    return Accuracy(
        tuple(
            replace(
                row[0],
                nll=statistics.fmean(window.nll for window in row),
                kl=statistics.fmean(window.kl for window in row),
                agreed=round(statistics.fmean(window.agreed for window in row)),
            )
            for row in rows
        )
    )


def told(what: str) -> Progress:
    """Progress to stderr, at most once in some seconds."""
    begin, last = time.monotonic(), 0.0

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 10 or done == total:
            last = now
            print(f"{what}: {done} of {total}, {now - begin:.0f} s", file=sys.stderr, flush=True)

    return tell


def measure(material: Material, given: argparse.Namespace) -> dict[str, Any]:
    """The document of one TP degree."""
    text = cut_text(material.ids, given.tokens, given.windows, given.training_windows)
    subject = material.subject(given.tp, text)
    decoder, budget = subject.decoder, Training(steps=given.steps)
    code = hashlib.sha256(code_version().encode())
    for module in (distil, head_groups, spd):
        code.update(Path(str(module.__file__)).read_bytes())
    key: dict[str, Any] = {
        "model": decoder.config.name,
        "weights": material.weights.sha256,
        "tp": given.tp,
        "calibration": digest(text.calibration_WT),
        "training": asdict(budget),
        "torch": torch.__version__,
        "code": code.hexdigest()[:16],
    }
    kept = Kept(given.folder, key)
    print(f"keeping results in {kept.folder}", file=sys.stderr)
    seen_WT = text.calibration_WT[:SENSITIVITY_WINDOWS]
    found = {method: find(kept, decoder, seen_WT, method) for method in METHODS}
    ranking, layers = found["progressive"][0], decoder.config.num_layers
    orders: dict[str, tuple[int, ...]] = {
        "last": tuple(reversed(range(layers))),
        **{f"random-{seed}": random_layers(layers, layers, seed) for seed in SEEDS},
        **{method: values.least(layers) for method, (values, _) in found.items()},
    }
    prepared = {
        percent: ready(kept, decoder, material, text.calibration_WT, ranking, percent, budget)
        for percent in sorted(set(given.percents) & set(given.trained))
    }
    runs, dropped = dict[str, Run](), dict[str, list[int]]()
    for percent in given.percents:
        count = dropped_count(layers, percent)
        chosen = {name: (decoder, order[:count]) for name, order in orders.items()}
        if percent in prepared:
            chosen["prepared"] = (prepared[percent][0], ranking.least(count))
        for name, (model, order) in chosen.items():
            runs[f"{name} {percent}"] = Run(model, Dropping(ExactSync(decoder.group), order))
            dropped[f"{name} {percent}"] = sorted(order)
    results = {name: Results(kept.folder / f"{name.replace(' ', '-')}.jsonl", {**key, "run": name}) for name in runs}
    measured = evaluate_all(baseline_run(decoder), runs, text.evaluation_WT, results, told("evaluating"))
    rows: list[dict[str, Any]] = [
        {
            "blocks": name.split()[0],
            "percent": int(name.split()[1]),
            "dropped": dropped[name],
            **measured[name].to_dict(),
        }
        for name in runs
    ]
    for percent in given.percents:
        averaged = mean([measured[f"random-{seed} {percent}"] for seed in SEEDS])
        rows.append({"blocks": f"random, mean of {len(SEEDS)}", "percent": percent, **averaged.to_dict()})
    return {
        "model": decoder.config.name,
        "source": {
            "kind": "measured",
            "how": "make spd",
            "weights": WEIGHTS.source,
            "weights_sha256": material.weights.sha256,
            "text": TEXT.source,
            "text_sha256": material.text.sha256,
            "torch": torch.__version__,
            "machine": platform.machine(),
            "code": key["code"],
        },
        "tp": given.tp,
        "window_tokens": given.tokens,
        "precision": "bf16 products and partial sums, fp32 residual and logits; kept sums exact",
        "baseline": "every sum kept, in fp32 and not rounded",
        "confidence": CONFIDENCE,
        "interval": "Student t over windows; of the ratio, of paired differences of a window's two losses",
        "training": {**asdict(budget), "windows": len(text.calibration_WT)},
        "random_seeds": list(SEEDS),
        "thresholds_nats": {"slight": spd.SLIGHT, "severe": spd.SEVERE},
        "sensitivity": {
            method: {"windows": len(seen_WT), **asdict(values), "wall_s": seconds}
            for method, (values, seconds) in found.items()
        },
        "blocks": {
            "last": "what schemes spd-N drop",
            "random": "seeds in the name",
            "progressive, alone": "least sensitive first",
            "prepared": "reference.decoder.spd.prepare: progressive, SB trained, ESB regrouped and trained",
        },
        "prepared": [
            {"percent": percent, "wall_s": made["wall_s"], "blocks": [row for row in made["blocks"] if row["dropped"]]}
            for percent, (_, made) in prepared.items()
        ],
        "rows": rows,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tp", type=int, default=4)
    parser.add_argument("--percents", type=int, nargs="+", default=list(PERCENTS))
    parser.add_argument("--trained", type=int, nargs="+", default=list(TRAINED), help="percents with training, too")
    parser.add_argument("--windows", type=int, default=WINDOWS, help="to evaluate on")
    parser.add_argument("--training-windows", type=int, default=TRAINING_WINDOWS)
    parser.add_argument("--steps", type=int, default=Training().steps, help="of training, a block")
    parser.add_argument("--tokens", type=int, default=WINDOW_TOKENS)
    given = command_line(parser, arguments, "spd", "what is done", TABLE, "the document")

    document = tidy(measure(Material(), given), DIGITS)
    lists = {key: document.pop(key) for key in ("prepared", "rows")}
    entries = [f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in document.items()]
    for key, rows in lists.items():
        lines = ",\n".join("  " + json.dumps(row, allow_nan=False) for row in rows)
        entries.append(f' "{key}": [\n{lines}\n ]')
    write_text(given.write, "{\n" + ",\n".join(entries) + "\n}\n")
    print(f"written to {given.write}", file=sys.stderr)


if __name__ == "__main__":
    run_program(main)
