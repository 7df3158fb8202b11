"""Encode and decode throughput of every catalog codec on this CPU: `python -m thinwire.reference.bench`.

All of it in one run, on one thread, so ratios mean something: a plain cast from fp32 to bf16 is the floor, a
whole-tensor INT4 quantiser in eight torch operations (no layout, no care for odd groups) and torchao's MX conversion
are what others would write. Times are the thread's own CPU time, the best of a few runs. Peak is the resident memory
that a call needs beside its input, bytes a value (Linux; the result, 0.3 to 2 bytes when encoded, is part of it).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thinwire.reference.catalog import schemes
from thinwire.reference.codecs.calibration import Calibrator
from thinwire.reference.core.scheme import MX
from thinwire.reference.quantize import decode_flat, encode_flat

FEATURES = 4096


def seconds(call: Callable[[], object], runs: int) -> float:
    """The thread's CPU time of the fastest of `runs` calls, after one to warm up."""
    call()
    best = float("inf")
    for _ in range(runs):
        begin = time.thread_time()
        call()
        best = min(best, time.thread_time() - begin)
    return best


def peak_bytes(call: Callable[[], object]) -> int | None:
    """Resident bytes that a call adds at its highest; None where Linux does not tell."""
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def read(key: str) -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith(key))
        return int(line.split()[1]) * 1024

    try:
        ctypes.CDLL(None).malloc_trim(0)  # give back what earlier calls freed, or this one finds it resident
        clear.write_text("5")  # reset the high-water mark
        before = read("VmRSS")
        call()
        return max(0, read("VmHWM") - before)
    except (OSError, AttributeError, StopIteration):
        return None


def plain_int4(values_N: Tensor) -> Tensor:
    """Asymmetric INT4 in groups of 128 as one would write it down: eight operations, codes packed, scales dropped."""
    groups = values_N.float().view(-1, 128)
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    scale = ((high - low) / 15).bfloat16().float()
    codes = ((groups - low) / scale).round_().clamp_(0, 15).to(torch.uint8)
    return codes[:, ::2] | (codes[:, 1::2] << 4)


def torchao_mx(element: str) -> Callable[[Tensor], object] | None:
    """torchao's conversion to MX, its complaints about missing libraries swallowed; None where there is none."""
    kinds: dict[str, Any] = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "e2m3": "fp6_e2m3"}
    kinds["e2m1"] = getattr(torch, "float4_e2m1fn_x2", None)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            to_mx = importlib.import_module("torchao.prototype.mx_formats.mx_tensor").to_mx
    except (ImportError, AttributeError):
        return None
    kind = kinds.get(element)
    return None if kind is None else lambda values_N: to_mx(values_N, kind, 32)


def measure(rows: int, runs: int) -> dict[str, Any]:
    """All figures as a document: nanoseconds and bytes a value."""
    values_RF = torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(0))
    watcher = Calibrator(1, FEATURES)
    watcher.observe(values_RF[None, :64])
    calibration = watcher.freeze()
    fp32, bf16 = values_RF.reshape(-1), values_RF.reshape(-1).bfloat16()
    each = 1e9 / fp32.numel()
    floor = seconds(lambda: fp32.to(torch.bfloat16), runs) * each
    plain = seconds(lambda: plain_int4(bf16), runs) * each
    found: dict[str, Any] = {
        "values": fp32.numel(),
        "torch": torch.__version__,
        "cast_ns": floor,
        "plain_int4_ns": plain,
        "codecs": [],
    }
    codecs = {codec for scheme in schemes().values() for codec in (scheme.reduce, scheme.gather)}
    for codec in sorted(codecs, key=lambda codec: codec.spec):
        static = codec.needs_calibration
        extra: dict[str, Any] = {"calibration": calibration, "rank": 0} if static else {}
        buffer = encode_flat(bf16, codec, **extra)

        def encode_bf16(codec: Any = codec, extra: dict[str, Any] = extra) -> Tensor:
            return encode_flat(bf16, codec, **extra)

        def encode_fp32(codec: Any = codec, extra: dict[str, Any] = extra) -> Tensor:
            return encode_flat(fp32, codec, **extra)

        def decode_bf16(codec: Any = codec, extra: dict[str, Any] = extra, buffer: Tensor = buffer) -> Tensor:
            return decode_flat(buffer, bf16.numel(), codec, dtype=torch.bfloat16, **extra)

        row: dict[str, Any] = {"codec": codec.spec}
        for name, call in (("encode_bf16", encode_bf16), ("encode_fp32", encode_fp32), ("decode_bf16", decode_bf16)):
            row[f"{name}_ns"] = seconds(call, runs) * each
            peak = peak_bytes(call)
            row[f"{name}_peak_bytes"] = None if peak is None else peak / fp32.numel()
        theirs = torchao_mx(codec.element) if isinstance(codec, MX) and codec.scale == "e8m0" else None
        row["torchao_encode_bf16_ns"] = seconds(lambda: theirs(bf16), runs) * each if theirs else None  # noqa: B023
        found["codecs"].append(row)
    return found


def table(found: dict[str, Any]) -> str:
    """The document as text."""
    lines = [
        f"{found['values']} values, one thread, torch {found['torch']}; ns a value (times the cast), bytes a value",
        f"cast fp32 to bf16 {found['cast_ns']:.2f}; plain INT4 in torch {found['plain_int4_ns']:.2f}",
        f"{'codec':22}{'encode bf16':>17}{'encode fp32':>17}{'decode bf16':>17}"
        f"{'peak enc':>10}{'dec':>7}{'torchao':>9}",
    ]
    for row in found["codecs"]:
        line = f"{row['codec']:22}"
        for name in ("encode_bf16", "encode_fp32", "decode_bf16"):
            line += f"{row[f'{name}_ns']:9.2f} ({row[f'{name}_ns'] / found['cast_ns']:4.1f}x)"
        for name, width in (("encode_bf16", 10), ("decode_bf16", 7)):
            peak = row[f"{name}_peak_bytes"]
            line += f"{'-' if peak is None else format(peak, '.1f'):>{width}}"
        theirs = row["torchao_encode_bf16_ns"]
        lines.append(line + f"{'-' if theirs is None else format(theirs, '.2f'):>9}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or with --json the document."""
    parser = argparse.ArgumentParser(
        prog="python -m thinwire.reference.bench", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rows", type=int, default=2048, help=f"rows of {FEATURES} values (default 2048: 8 Mi values)")
    parser.add_argument("--runs", type=int, default=3, help="timed calls; the fastest counts (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args(arguments)
    if chosen.rows < 64 or chosen.runs < 1:
        parser.error(f"--rows must be 64 or more and --runs 1 or more: rows={chosen.rows}, runs={chosen.runs}")
    torch.set_num_threads(1)
    found = measure(chosen.rows, chosen.runs)
    sys.stdout.write((json.dumps(found, indent=1) if chosen.json else table(found)) + "\n")


if __name__ == "__main__":
    main()
