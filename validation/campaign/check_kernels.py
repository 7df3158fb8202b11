"""Are the kernels right on this device? Compiled, at sizes that fill it, against the reference on the CPU.

    PYTHONPATH=src python3 -m thinwire.validation.campaign.check_kernels [NUMEL]

`rows` is the campaign's step `check`. tests/kernels asks the same of every corner at the sizes that an interpreter can
bear; this asks it of what a GPU's compiler made, of many programs side by side, of the GPU's own rounding. Bytes must
be equal; decoded values too, NaN by position. `sanitized` has CUDA's compute-sanitizer watch the same on small tensors;
its racecheck sees shared memory alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
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
    found = {codec: None for s in schemes().values() for codec in (s.reduce, s.gather) if not codec.is_raw}
    return [*found, *(parse_codec(spec) for spec in MORE)]


def same(found: Tensor, expected: Tensor) -> bool:
    """Equal bits, or NaN in the same places."""
    found = found.cpu()
    if found.dtype == torch.uint8:
        return torch.equal(found, expected)
    nan = expected.isnan()
    word = torch.int32 if found.dtype == torch.float32 else torch.int16  # -0.0 and 0.0 are equal numbers, not bits
    return torch.equal(found.isnan(), nan) and torch.equal(found.view(word)[~nan], expected.view(word)[~nan])


def codec_rows(codec: Codec, numel: int, device: str) -> Iterator[dict[str, Any]]:
    """A row for encoding each input type and for decoding into each."""
    calibration = None
    if isinstance(codec, OutlierHybrid) and codec.scale == "static":
        calibrator = Calibrator(RANKS, FEATURES)
        calibrator.observe(torch.randn(RANKS, 64, FEATURES, generator=torch.Generator().manual_seed(7)))
        calibration = calibrator.freeze()
    rank = None if calibration is None else 1
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x_N = values(numel, dtype, seed=numel)
        wire = encode_flat(x_N, codec, calibration=calibration, rank=rank)
        found = encode_flat(x_N.to(device), codec, "triton", calibration=calibration, rank=rank)
        yield {"kernel": "encode", "codec": codec.spec, "dtype": str(dtype), "passed": same(found, wire)}
        expected = decode_flat(wire, numel, codec, calibration=calibration, rank=rank, dtype=dtype)
        decoded = decode_flat(wire.to(device), numel, codec, "triton", calibration=calibration, rank=rank, dtype=dtype)
        yield {"kernel": "decode", "codec": codec.spec, "dtype": str(dtype), "passed": same(decoded, expected)}


def scheme_row(scheme: Scheme, numel: int, device: str) -> dict[str, Any]:
    """A whole all-reduce over ranks in this process."""
    partials = [values(numel, torch.bfloat16, seed=rank) for rank in range(RANKS)]
    islands = ((0, 1), (2, 3)) if scheme.collective == "hierarchical" else None
    expected = all_reduce_local(partials, scheme, islands=islands)
    found = all_reduce_local([p.to(device) for p in partials], scheme, islands=islands, backend="triton")
    passed = all(same(a, b) for a, b in zip(found, expected, strict=True))
    return {"kernel": "all_reduce", "codec": scheme.name, "dtype": "bf16", "passed": passed}


def rows(device: str, numel: int | None = None) -> Iterator[dict[str, Any]]:
    """{kernel, codec, dtype, passed}: schemes first, then each codec alone, on `numel` values (None: enough)."""
    if numel is None:
        numel = NUMEL if device.startswith("cuda") else SMALL_NUMEL
    for scheme in schemes().values():
        static = any(isinstance(c, OutlierHybrid) and c.scale == "static" for c in (scheme.reduce, scheme.gather))
        if not scheme.reduce.is_raw and not static:  # static ones need a calibration: their codec is checked below
            yield scheme_row(scheme, numel, device)
    for codec in codecs():
        yield from codec_rows(codec, numel, device)


def sanitized(limit_s: float) -> Iterator[dict[str, Any]]:
    """A row for each tool of compute-sanitizer: `rows` on small tensors in a process that it watches.

    `passed` is None, with the reason, where there is no such tool (or it cannot run here) or it took too long.
    """
    program = shutil.which("compute-sanitizer")
    for tool in ("memcheck", "racecheck"):
        row: dict[str, Any] = {"kernel": f"sanitizer {tool}", "codec": "all", "dtype": "all", "passed": None}
        if program is None or limit_s < LEAST_S:
            short = f"{limit_s:.0f} s are too few" if program else "no compute-sanitizer on this machine"
            yield row | {"reason": short}
            continue
        module = [sys.executable, "-m", "thinwire.validation.campaign.check_kernels", str(SMALL_NUMEL)]
        command = [program, "--tool", tool, "--error-exitcode", "86", *module]
        try:
            # Without torch's caching every tensor is an allocation of its own, whose end memcheck can see.
            bare = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False, env=bare)
        except subprocess.TimeoutExpired:
            yield row | {"reason": f"not done after {limit_s:.0f} s"}
            continue
        said = " ".join((done.stdout + done.stderr).split())[-400:]
        # Its own exit status and ours are findings; any other is a driver it cannot watch, or a broken import.
        passed = {0: True, DIFFERS: False, 86: False}.get(done.returncode)
        yield row | {"passed": passed, "reason": said}


def main(arguments: list[str]) -> int:
    """Print what did not pass; exit status `DIFFERS` if anything."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    count = failed = 0
    for row in rows(device, int(arguments[0]) if arguments else None):
        count += 1
        if not row["passed"]:
            failed += 1
            print(f"differs from the reference: {row}", file=sys.stderr)
    print(f"{count - failed} of {count} checks on {device} passed")
    return DIFFERS if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
