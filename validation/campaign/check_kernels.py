"""Are the kernels right on this device? Compiled, at sizes that fill it, against the reference on the CPU.

    PYTHONPATH=src python3 -m thinwire.validation.campaign.check_kernels

`rows` is the campaign's step `check`. tests/kernels asks the same of every corner at the sizes that an interpreter can
bear; this asks it of what a GPU's compiler made, of many programs side by side, of the GPU's own rounding. Bytes must
be equal; decoded values too, NaN by position. Nearly all the time goes into compiling and into the reference, so
several processes share the checks. `sanitized` has CUDA's compute-sanitizer watch a few of them on small tensors; its
racecheck sees shared memory alone.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from thinwire.reference.allreduce import all_reduce_local
from thinwire.reference.catalog import parse_codec, schemes
from thinwire.reference.codecs.calibration import Calibrator
from thinwire.reference.core.scheme import Codec, OutlierHybrid, Scheme
from thinwire.reference.quantize import decode_flat, encode_flat

NUMEL = (1 << 20) + 13  # many programs, a ragged end
SMALL_NUMEL = 5000  # where the kernels are interpreted
FEATURES = 4096
DIFFERS = 3  # exit status
MODULE = "thinwire.validation.campaign.check_kernels"  # also where it runs as __main__
MOST_PROCESSES = 8  # each with a context of its own on the GPU
LEAST_S = 10.0  # a sanitizer started with less time would not get through its imports
RANKS = 4
MORE = (
    "int7-g64-min", "int6-g32-sym-e8m0", "int3-g32-min-sr-fp16", "int8-g256-zp-fp32", "int4-g128-zp-h128",
    "int4-g24-zp", "mx-e5m2-b32-even", "mx-e3m2-b32-rceil", "mx-e4m3-b64-ceil", "mx-e2m1-b32-fp16",
)  # fmt: skip


def values(numel: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Normal numbers on the CPU, with ties, wide exponents, zeros, a NaN and an infinity."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.randn(numel, generator=generator)
    found[: numel // 8] = found[: numel // 8].mul(8).round().div(2)  # halves: codes lie on ties
    found[numel // 8 : numel // 4] *= torch.exp2(
        torch.randint(-60, 60, (numel // 4 - numel // 8,), generator=generator)
    )
    found[numel // 4 : numel // 4 + 1000] = 0.0
    found[numel // 3] = float("nan")
    found[numel // 2] = float("inf")
    return found.to(dtype)


def codecs() -> list[Codec]:
    """Those of the catalog's schemes and some that it has not, each once; raw ones left out."""
    each = (codec for s in schemes().values() for codec in (s.reduce, s.gather, s.dispatch, s.combine))
    found = {codec: None for codec in each if codec is not None and not codec.is_raw}
    return [*found, *(parse_codec(spec) for spec in MORE)]


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal bits, or NaN in the same places."""
    found = found.cpu()
    if found.dtype == torch.uint8:
        return torch.equal(found, expected)
    nan = expected.isnan()
    word = torch.int32 if found.dtype == torch.float32 else torch.int16  # -0.0 and 0.0 are equal numbers, not bits
    return torch.equal(found.isnan(), nan) and torch.equal(found.view(word)[~nan], expected.view(word)[~nan])


Row = dict[str, Any]
Check = Callable[[int, str], Row]  # of a number of values, on a device

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# What a sanitizer gets through in a minute: every kernel, planes of one and two widths, spikes, a rotation, elements.
SANITIZED = ("int4-g128-zp", "int5-g128-zp", "int2-g128-zp-sr", "int4-g128-zp-h128", "mx-e2m1-b32")
SANITIZED_SCHEMES = ("flash-int4", "mxfp4")


def codec_row(kernel: str, codec: Codec, dtype: torch.dtype, numel: int, device: str) -> Row:
    """Encode values of `dtype`, or decode into them."""
    calibration = None
    if isinstance(codec, OutlierHybrid) and codec.scale == "static":
        calibrator = Calibrator(RANKS, FEATURES)
        calibrator.observe(torch.randn(RANKS, 64, FEATURES, generator=torch.Generator().manual_seed(7)))
        calibration = calibrator.freeze()
    rank = None if calibration is None else 1
    x_N = values(numel, dtype, seed=numel)
    wire = encode_flat(x_N, codec, calibration=calibration, rank=rank)
    if kernel == "encode":
        expected = wire
        found = encode_flat(x_N.to(device), codec, "triton", calibration=calibration, rank=rank)
    else:
        expected = decode_flat(wire, numel, codec, calibration=calibration, rank=rank, dtype=dtype)
        found = decode_flat(wire.to(device), numel, codec, "triton", calibration=calibration, rank=rank, dtype=dtype)
    return {"kernel": kernel, "codec": codec.spec, "dtype": str(dtype), "passed": same(found, expected)}


def scheme_row(scheme: Scheme, numel: int, device: str) -> Row:
    """A whole all-reduce over ranks in this process."""
    partials = [values(numel, torch.bfloat16, seed=rank) for rank in range(RANKS)]
    islands = ((0, 1), (2, 3)) if scheme.collective == "hierarchical" else None
    expected = all_reduce_local(partials, scheme, islands=islands)
    found = all_reduce_local([p.to(device) for p in partials], scheme, islands=islands, backend="triton")
    passed = all(same(a, b) for a, b in zip(found, expected, strict=True))
    return {"kernel": "all_reduce", "codec": scheme.name, "dtype": "bf16", "passed": passed}


def checks() -> Iterator[Check]:
    """Schemes first, then each codec alone, bf16 before other types: what matters most comes first."""
    for scheme in schemes().values():
        static = any(isinstance(c, OutlierHybrid) and c.scale == "static" for c in (scheme.reduce, scheme.gather))
        if not scheme.reduce.is_raw and not static:  # static ones need a calibration: their codec is checked below
            yield partial(scheme_row, scheme)
    for dtype in DTYPES:
        for codec in codecs():
            for kernel in ("encode", "decode"):
                yield partial(codec_row, kernel, codec, dtype)


def sanitized_checks() -> Iterator[Check]:
    """Some of them, bf16 alone."""
    for name in SANITIZED_SCHEMES:
        yield partial(scheme_row, schemes()[name])
    hybrids = [codec for codec in codecs() if isinstance(codec, OutlierHybrid)]
    for codec in (*map(parse_codec, SANITIZED), *({c.scale: c for c in hybrids}.values())):
        for kernel in ("encode", "decode"):
            yield partial(codec_row, kernel, codec, torch.bfloat16)


def rows(device: str, numel: int | None = None) -> Iterator[Row]:
    """{kernel, codec, dtype, passed} of every check, on `numel` values (None: enough), in the order they end."""
    if numel is None:
        numel = NUMEL if device.startswith("cuda") else SMALL_NUMEL
    processes = min(MOST_PROCESSES, (os.cpu_count() or 1) // 2) if device.startswith("cuda") else 1
    if processes < 2:
        for check in checks():
            yield check(numel, device)
    else:
        yield from shared_rows(device, numel, processes)


def shared_rows(device: str, numel: int, processes: int) -> Iterator[Row]:
    """The same by processes, each of which takes every so-manieth check. One that fails is a row that did not pass."""
    found: SimpleQueue[Row | None] = SimpleQueue()
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", MODULE, device, str(numel), str(share), str(processes)],
            stdout=subprocess.PIPE, text=True, env=environment,
        )
        for share in range(processes)
    ]  # fmt: skip

    def read(share: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            found.put(json.loads(line))
        if process.wait() not in (0, DIFFERS):
            why = f"share {share} of the checks ended with status {process.returncode}"
            found.put({"kernel": "check", "codec": "all", "dtype": "all", "passed": False, "reason": why})
        found.put(None)

    for share, process in enumerate(started):
        threading.Thread(target=read, args=(share, process), daemon=True).start()
    try:
        left = processes
        while left:
            row = found.get()
            if row is None:
                left -= 1
            else:
                yield row
    finally:  # whoever asks may have had enough
        for process in started:
            process.kill()


def sanitized(limit_s: float) -> Iterator[Row]:
    """A row for each tool of compute-sanitizer, side by side: `sanitized_checks` in a process that it watches.

    `passed` is None, with the reason, where there is no such tool (or it cannot run here) or it took too long.
    """
    program, tools = shutil.which("compute-sanitizer"), ("memcheck", "racecheck")
    bare: list[Row] = [
        {"kernel": f"sanitizer {tool}", "codec": "all", "dtype": "all", "passed": None} for tool in tools
    ]
    if program is None or limit_s < LEAST_S:
        short = f"{limit_s:.0f} s are too few" if program else "no compute-sanitizer on this machine"
        yield from (row | {"reason": short} for row in bare)
        return
    module = [sys.executable, "-m", MODULE, "cuda", str(SMALL_NUMEL)]
    # Without torch's caching every tensor is an allocation of its own, whose end memcheck can see.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    end = time.monotonic() + limit_s
    started = [
        subprocess.Popen(
            [program, "--tool", tool, "--error-exitcode", "86", *module],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True,
        )
        for tool in tools
    ]  # fmt: skip
    for row, process in zip(bare, started, strict=True):
        try:
            said, _ = process.communicate(timeout=max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it watches, which holds the pipe
            said, _ = process.communicate()
            done = said.count('"passed": true')
            yield row | {"reason": f"not done after {limit_s:.0f} s, {done} of {len(list(sanitized_checks()))} passed"}
            continue
        # Its own exit status and ours are findings; any other is a driver it cannot watch, or a broken import.
        passed = {0: True, DIFFERS: False, 86: False}.get(process.returncode)
        yield row | {"passed": passed, "reason": " ".join(said.split())[-400:]}


def main(arguments: Sequence[str]) -> int:
    """[DEVICE NUMEL [SHARE SHARES]]: rows as lines of JSON, of a share of all checks or, without one, of those that a
    sanitizer watches. Without arguments: what did not pass. Exit status `DIFFERS` if anything.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = rows(device)
    if arguments:
        device, numel = arguments[0], int(arguments[1])
        share, shares = (int(arguments[2]), int(arguments[3])) if len(arguments) > 2 else (0, 1)
        mine = list(checks() if len(arguments) > 2 else sanitized_checks())[share::shares]
        found = (check(numel, device) for check in mine)
    count = failed = 0
    for row in found:
        count += 1
        failed += not row["passed"]
        if arguments:
            print(json.dumps(row), flush=True)
        elif not row["passed"]:
            print(f"differs from the reference: {row}", file=sys.stderr)
    if not arguments:
        print(f"{count - failed} of {count} checks on {device} passed")
    return DIFFERS if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
