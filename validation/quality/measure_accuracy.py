"""Measure the table of accuracies that the simulator ships: `make accuracy`.

Schemes x TP degrees on SmolLM2-135M and Wikipedia's prose, with the prompt alone compressed and with every position,
into `sim/profiles/accuracy-smollm2-135m.json`, which `thinwire compare` reads without torch. Windows done lie in a
folder, so a stopped run goes on where it was, and the table is written anew after each TP degree: rows measured now
replace those of the same scheme, TP degree and positions. The shipped table is of a GPU:

    make accuracy ARGS="--device cuda --windows 64 --together 16"
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.catalog import schemes as catalog_schemes
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.quality.accuracy import CONFIDENCE, needs_calibration
from thinwire.reference.quality.results import code_version
from thinwire.validation.quality.subject import (
    CALIBRATION_WINDOWS,
    COMPRESS,
    MACHINE,
    PROMPT_TOKENS,
    WINDOW_TOKENS,
    WINDOWS,
    Material,
    command_line,
    run_program,
    write_table,
)

TABLE = Path(__file__).resolve().parents[2] / "sim" / "profiles" / "accuracy-smollm2-135m.json"
# What is no scheme of the catalog and says why its schemes cost what they do: more and fewer dropped sync points, other
# grids, groups, one step for two, spike reserving, rotation, the hybrid at other widths, first and last tokens
# uncompressed, more bits for the partial sums than for the sum.
MORE = (
    "spd-10",
    "spd-20",
    "spd-30",
    "spd-70",
    "spd-100",
    "flash-int8+spd-20",
    "two_step:int6-g128-min",
    "two_step:int5-g128-min",
    "two_step:int4-g128-min",
    "two_step:int4-g32-zp",
    "two_step:int3-g128-zp-sr",
    "two_step:int4-g128-zp-h64",
    "two_step:int3-g128-zp-h64",
    "two_step:int2-g128-zp-h64",
    "two_step:hybrid6-k64",
    "two_step:hybrid3-k64",
    "two_step:hybrid4-k64-dyn-g64",
    "all_gather:int4-g128-zp",
    "all_gather:int3-g128-zp",
    "flash-int6+exempt-1",
    "flash2-int6+exempt-1",
    "flash2-int5+exempt-1",
    "flash-int4+exempt-1",
    "flash-int3+exempt-1",
    "mxfp4+exempt-1",
    "hybrid-4.2+exempt-1",
    "hybrid-4.2-two-step+exempt-1",
    *(
        f"{name}+exempt-last-{count}"
        for name in ("flash-int4", "flash-int3", "flash2-int5", "two_step:int4-g32-zp", "mxfp4", "hybrid-4.2")
        for count in (1, 4, 16)
    ),
    "flash-int8+exempt-last-1",
    "quickreduce-int4+exempt-last-1",
    "flash-int4+exempt-1+exempt-last-1",
    "two_step:int4-g32-sym",
    "two_step:int4-g32-min",
    "two_step:int4-g32-zp+exempt-1",
    "two_step:int4-g64-zp",
    "two_step:int4-g32-zp-sr",
    "two_step:int4-g32-zp-h32",
    "two_step:int5-g32-zp",
    "two_step:int6-g32-zp",
    "two_step:int8-g32-zp",
    "two_step:int8-g128-zp-sr",
    "two_step:int5-g128-zp/int4-g128-zp",
    "two_step:int4-g128-zp/int5-g128-zp",
    "two_step:int6-g128-zp/int4-g128-zp",
    "two_step:int8-g128-zp/int4-g128-zp",
    "two_step:int4-g128-zp/int8-g128-zp",
    "two_step:mx-e2m1-b32",
    "two_step:mx-e2m1-b16",
    "two_step:mx-e2m1-b32-even",
    "two_step:mx-e2m1-b32-ceil",
    "two_step:mx-e2m1-b32-bf16",
    "two_step:mx-e2m3-b32",
    "two_step:mx-e3m2-b32",
    "two_step:mx-e4m3-b32",
    "two_step:mx-e5m2-b32",
    "all_gather:int4-g32-zp",
    "all_gather:int5-g128-zp",
    "all_gather:int8-g128-zp",
)


def all_schemes() -> tuple[str, ...]:
    """The catalog and MORE, without `none`, which sums nothing, carriers, which are bf16 by other algorithms, and what
    only experts' traffic knows of: the models measured have none.
    """
    entries = (s for s in catalog_schemes().values() if s.collective != "none" and s.carrier is None)
    return (*(s.name for s in entries if not s.compresses_experts), *MORE)


def row(scheme: Scheme, document: dict[str, Any], machine: dict[str, str]) -> dict[str, Any]:
    """A row of the table: the scheme spelt out, its figures, and the machine and the code that made them."""
    figures = ("perplexity", "perplexity_bf16", "perplexity_ratio", "kl", "top1_agreement")
    return {
        "scheme": scheme.name,
        "reduce": scheme.reduce.spec,
        "gather": scheme.gather.spec,
        "collective": scheme.collective,
        "compress": document["compress"],
        "prompt_tokens": document["prompt_tokens"],
        "exempt_tokens": scheme.exempt_tokens,
        "exempt_last_tokens": scheme.exempt_last_tokens,
        "drop_attention_percent": scheme.drop_attention_percent,
        "sequence_split": scheme.sequence_split,
        "tp": document["tp"],
        "windows": document["windows"],
        "tokens": document["tokens"],
        **{
            key: _short(document[key]) if document[key] is not None else None
            for name in figures
            for key in (name, f"{name}_interval")
        },
        "islands": document["islands"],
        **machine,
        "calibrated": needs_calibration(scheme),
        "code": code_version(),
    }


def _short(found: Any) -> Any:
    """Six digits: more than any interval leaves."""
    return [_short(value) for value in found] if isinstance(found, list) else float(f"{found:.6g}")


def header(material: Material, tokens: int) -> dict[str, Any]:
    """What all rows share."""
    return {
        "model": material.model,
        "title": material.title,
        "source": {key: value for key, value in material.source("make accuracy").items() if key not in MACHINE},
        "window_tokens": tokens,
        "calibration_windows": CALIBRATION_WINDOWS,
        "precision": "bf16 products and partial sums, fp32 residual and logits",
        "baseline": "partial sums in bf16, added in fp32 and not rounded",
        "confidence": CONFIDENCE,
        "interval": "Student t over windows; of the ratio, of paired differences of a window's two losses",
    }


def write(path: Path, shared: dict[str, Any], rows: Sequence[dict[str, Any]]) -> None:
    """The table with these rows in it; those of another model, text or way to measure go."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = old.pop("rows", []) if {**old, "rows": None} == {**shared, "rows": None} else []
    found = {(row["scheme"], row["tp"], row["compress"]): row for row in (*kept, *rows)}
    place = {name: number for number, name in enumerate(all_schemes())}
    order = sorted(found, key=lambda key: (key[2], key[1], place.get(key[0], len(place)), key[0]))
    write_table(path, shared, "rows", [found[key] for key in order])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tp", type=int, nargs="+", default=[4, 2, 8])
    parser.add_argument("--schemes", nargs="+", default=None, help="the catalog and what explains it when left out")
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--tokens", type=int, default=WINDOW_TOKENS)
    parser.add_argument("--compress", choices=COMPRESS, nargs="+", default=COMPRESS, help="the prompt alone, or all")
    parser.add_argument("--prompt-tokens", type=int, default=PROMPT_TOKENS, help="of each window, with prompt")
    parser.add_argument("--together", type=int, default=1, help="windows in a batch")
    given = command_line(parser, arguments, "accuracy", "windows done", TABLE, "the table")

    schemes = [find_scheme(name) for name in given.schemes or all_schemes()]
    material = Material(device=given.device, backend=given.backend)
    windows = material.windows(given.tokens, given.windows, *schemes)
    begin = time.monotonic()
    for compress, tp in ((compress, tp) for compress in given.compress for tp in given.tp):

        def tell(done: int, total: int, tp: int = tp) -> None:
            print(f"TP {tp}: {done} of {total} passes, {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)

        prompt = given.prompt_tokens if compress == "prompt" else None
        subject = material.subject(tp, windows, prompt, given.together)
        # On fewer ranks than two islands of two, hierarchical is two_step.
        chosen = [scheme for scheme in schemes if scheme.collective != "hierarchical" or tp >= 4]
        measured = subject.measure(chosen, given.folder, tell)
        where = {key: material.source("")[key] for key in MACHINE}
        rows = [row(scheme, subject.document(scheme, measured[scheme.name]), where) for scheme in chosen]
        write(given.write, header(material, given.tokens), rows)
        print(f"TP {tp}, {compress}: {len(rows)} rows in {given.write}", file=sys.stderr)


if __name__ == "__main__":
    run_program(main)
