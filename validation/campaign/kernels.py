"""`make gpu`: measure this machine's GPU, in one command and in one file.

    PYTHONPATH=src python3 -m thinwire.validation.campaign.kernels [--budget-s 420] [--fresh] [--resume FILE]
    PYTHONPATH=src python3 -m thinwire.validation.campaign.kernels --rehearse     # the same code on a CPU, tiny sizes

Results go to $OUT/<gpu>-<utc date>.json, without OUT to validation/raw/; `thinwire calibrate --from` makes a profile of
them. The steps stand in the order of importance and each has its share of the time; what is left out is recorded, and
the command run again does the rest. validation/raw/README.md says what is measured and how long it takes.

Exit status 0 if all went well, 1 if something failed (the file has the rest), 2 if nothing could be measured.

What this module asks of others, imported only when its step runs:

    thinwire.validation.campaign.check_kernels.rows(device: str) -> Iterator[Mapping]
        correctness on the device against the reference: {kernel, codec, passed: bool, ...}, JSON values all. A row that
        did not pass fails the step; measuring goes on. `sanitized(limit_s)` gives such rows too, from CUDA's
        compute-sanitizer, after at most `limit_s` seconds; `passed` is None where it could not say.
    thinwire.kernels.bench.rows(limits: timing.Limits) -> Iterator[Mapping]
        speed: at least {kernel, codec, dtype, numel, ranks, bytes_read, bytes_written, seconds, seconds_graph}, as
        timing.measure gives the last two. `numel` is of the tensor or chunk that one rank's kernel handles; bytes and
        seconds are one call's on one rank. Costs are fitted (fit_codec.fit_kernels) to the kernels
            encode         reads numel values, writes their wire bytes
            decode         reads wire bytes, writes numel values
            reduce         reads `ranks` encoded copies, writes numel values
            reduce_encode  the same, but writes wire bytes
        and rows of others (fused with a norm, whole all-reduces, `encode:tuning`) are kept for reading. `limits` holds
        the device, its L2, the copy bandwidth of this run, the largest size and the deadline (`limits.late()`);
        `limits.watch()` is the clock and timing.measure(calls, watch, limits, bytes) both ways of timing. The most
        important rows come first.
"""

import argparse
import importlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from thinwire.kernels.timing import Limits
from thinwire.validation.campaign import campaign
from thinwire.validation.campaign import gpu as measure_gpu
from thinwire.validation.campaign import model as measure_model
from thinwire.validation.campaign.campaign import Document, Row, Step, Task
from thinwire.validation.campaign.gpu import Rig
from thinwire.validation.campaign.shapes import full, tiny

BUDGET_S = 420.0
RAW = Path(__file__).resolve().parents[1] / "raw"
CHECK, BENCH = "thinwire.validation.campaign.check_kernels", "thinwire.kernels.bench"
NEEDED = {"kernel", "codec", "dtype", "numel", "ranks", "bytes_read", "bytes_written", "seconds", "seconds_graph"}


def checked(rig: Rig, task: Task) -> Iterator[Row]:
    """Correctness of the kernels on this device."""
    yield from _passing(_theirs(rig, CHECK, "rows", rig.device), task)


def sanitized(rig: Rig, task: Task) -> Iterator[Row]:
    """Some of it under CUDA's memory and race checkers, side by side."""
    yield from _passing(_theirs(rig, CHECK, "sanitized", task.deadline_s - task.clock()), task)


def _passing(rows: Iterator[Row], task: Task) -> Iterator[Row]:
    """The rows; ValueError after the last one if any did not pass."""
    wrong: list[Row] = []
    count = 0
    for row in rows:
        count += 1
        if "left_out" not in row and row["passed"] is False:
            wrong.append(row)
        yield row
        if task.late():
            yield {"left_out": "time"}
            break
    if wrong:
        raise ValueError(f"{len(wrong)} of {count} checks did not pass, the first: {wrong[0]}")


def benched(rig: Rig, copy_rows: Callable[[], Sequence[Row]], task: Task) -> Iterator[Row]:
    """Rows of kernels/bench.py."""
    copy = measure_gpu.copy_bytes_per_s(list(copy_rows()))
    for row in _theirs(rig, BENCH, "rows", replace(rig.limits, deadline_s=task.deadline_s, copy_bytes_per_s=copy)):
        missing = NEEDED - row.keys()
        if missing and "left_out" not in row:
            raise ValueError(f"a row of {BENCH} lacks {', '.join(sorted(missing))}: {row}")
        yield row
        if task.late():
            break
    if task.late():  # it may have stopped by itself, at the deadline it was given
        yield {"left_out": "time"}


def _theirs(rig: Rig, module: str, function: str, argument: Any) -> Iterator[Row]:
    if rig.device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        yield {"left_out": "Triton's kernels run on GPUs, or anywhere with TRITON_INTERPRET=1, slowly"}
        return
    rows: Iterator[Mapping[str, Any]] = getattr(importlib.import_module(module), function)(argument)
    yield from map(dict, rows)


def steps(rig: Rig, document: Document) -> list[Step]:
    """Everything, the most important first."""

    def copies() -> Sequence[Row]:
        rows: Sequence[Row] = document["steps"].get("memory", {}).get("rows", [])
        return rows

    def rows(found: Callable[..., Iterator[Row]], *arguments: Any) -> Callable[[Task], Iterator[Row]]:
        def begun(task: Task) -> Iterator[Row]:
            if rig.device != "cpu":
                torch.cuda.empty_cache()  # graphs of the step before leave their pools behind
            yield from found(rig, *arguments, task)

        return begun

    return [
        Step("memory", 10, rows(measure_gpu.memory)),
        Step("check", 60, rows(checked), resumes=False),
        Step("codec", 120, rows(benched, copies), resumes=False),
        Step("launch", 10, rows(measure_gpu.launches)),
        Step("gemm-bf16", 55, rows(measure_model.products, "bf16")),
        Step("attention", 50, rows(measure_model.attentions)),
        Step("elementwise", 45, rows(measure_model.elementwises)),
        Step("layer", 45, rows(measure_model.layers)),
        Step("sustained-bf16", 10, rows(measure_gpu.sustained, "bf16"), resumes=False),
        Step("gemm-fp8", 60, rows(measure_model.products, "fp8")),
        Step("sustained-fp8", 10, rows(measure_gpu.sustained, "fp8"), resumes=False),
        Step("sanitizer", 90, rows(sanitized), resumes=False),
    ]


def file_for(machine: Mapping[str, Any], rehearsal: bool) -> Path:
    """Where results go: one file a GPU and day."""
    folder = Path(os.environ.get("OUT") or RAW)
    slug = re.sub(r"[^a-z0-9]+", "-", str(machine["gpu"]).lower()).strip("-")
    return folder / f"{'rehearsal-' if rehearsal else ''}{slug}-{str(machine['utc'])[:10]}.json"


def begin(path: Path, earlier: Path | None, fresh: bool, machine: Mapping[str, Any], rehearsal: bool) -> Document:
    """A new campaign, or the one to go on with: `earlier`, else what lies in `path`."""
    source = earlier or path
    if earlier is not None and not earlier.exists():
        raise ValueError(f"--resume names no file: {earlier}")
    if fresh or not source.exists():
        return {"form": campaign.FORM, "rehearsal": rehearsal, "machine": dict(machine), "steps": {}}
    document = campaign.taken_up(source, machine, rehearsal)
    print(f"going on with {source}; --fresh starts anew", file=sys.stderr)
    return document


def digest(document: Document) -> list[str]:
    """The few lines worth reading at once."""
    found: list[str] = []
    rows: dict[str, list[Row]] = {name: step["rows"] for name, step in document["steps"].items()}
    copy = measure_gpu.copy_bytes_per_s(rows.get("memory", []))
    if copy:
        found.append(f"device copy            {copy / 1e9:10,.0f} GB/s, reads plus writes")
    by_kernel: dict[str, list[float]] = {}
    for row in rows.get("codec", []):
        moved = row.get("bytes_read", 0) + row.get("bytes_written", 0)
        if copy and row.get("seconds_graph") and moved >= 16 * 2**20 and ":" not in row["kernel"]:
            by_kernel.setdefault(str(row["kernel"]), []).append(moved / row["seconds_graph"] / copy)
    for kernel, shares in sorted(by_kernel.items()):
        middle = sorted(shares)[len(shares) // 2]
        found.append(f"{kernel:22} {middle:10.0%} of the copy (median), {min(shares):.0%} at worst, 16 MiB and up")
    for name in ("gemm-bf16", "gemm-fp8", "attention"):
        rates = [row["flops"] / row["seconds_graph"] for row in rows.get(name, []) if row.get("seconds_graph")]
        if rates:
            found.append(f"{name + ', fastest':22} {max(rates) / 1e12:10,.0f} TFLOP/s")
    for name in ("sustained-bf16", "sustained-fp8"):
        rates = [row["flops_per_s"] for row in rows.get(name, []) if "flops_per_s" in row]
        if rates:
            found.append(f"{name:22} {rates[-1] / 1e12:10,.0f} TFLOP/s at the end, {rates[0] / 1e12:,.0f} at the start")
    return found


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make gpu", description="measure this machine's GPU")
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help=f"seconds in all (default {BUDGET_S:.0f})")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--resume", type=Path, help="go on with this file instead of the one in the results' folder")
    parser.add_argument("--seed", type=int, default=0, help="of all random inputs (default 0)")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU; the numbers mean nothing")
    parser.add_argument("--has-gpu", action="store_true", help="only say whether there is a GPU: status 0 or 2")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; exit status."""
    started = time.monotonic()
    chosen = parsed(arguments)
    if not chosen.rehearse and not torch.cuda.is_available():
        print(
            f"make gpu: no CUDA GPU here (torch {torch.__version__} sees none). Run it on a machine with one; "
            "--rehearse runs the same code on the CPU.",
            file=sys.stderr,
        )
        return 2
    if chosen.has_gpu:
        return 0
    try:
        return _measured(chosen, started)
    except ValueError as error:
        print(f"make gpu: {error}", file=sys.stderr)
        return 2


def _measured(chosen: argparse.Namespace, started: float) -> int:
    device, plan = ("cpu", tiny()) if chosen.rehearse else ("cuda", full())
    limits = Limits(device=device, seed=chosen.seed, rehearsal=chosen.rehearse)
    if chosen.rehearse:
        limits = replace(
            limits, l2_bytes=4096, target_s=1e-4, min_repeats=2, max_repeats=3, warm_ups=1, graph_calls=4,
            largest_bytes=2**16,
        )  # fmt: skip
    else:
        limits = replace(limits, l2_bytes=torch.cuda.get_device_properties(device).L2_cache_size)
    machine = measure_gpu.describe(device, chosen.seed)
    path = file_for(machine, chosen.rehearse)
    document = begin(path, chosen.resume, chosen.fresh, machine, chosen.rehearse)
    rig = Rig.of(limits, plan)
    with torch.no_grad():
        campaign.run(document, steps(rig, document), path, chosen.budget_s - (time.monotonic() - started))
    print("\n".join([*digest(document), f"results: {path}"]))
    problems = campaign.failures(document)
    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
