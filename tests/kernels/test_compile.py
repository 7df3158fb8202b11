"""What the compiler makes of the kernels, for GPUs that are not here: no spills, wide accesses, exact arithmetic.

Each kernel of `CASES` is compiled in processes of their own (validation/instructions/compiling.py) for Ampere (sm_80),
Ada (sm_89), Hopper (sm_90) and Blackwell (sm_100), at the tuning it is launched with where nothing was measured.
Registers and instructions a value are frozen in tests/golden/registers.json for the pinned Triton. If they change on
purpose, look at by how much, and write the file anew:

    REWRITE_GOLDEN=1 python -m pytest tests/kernels/test_compile.py

What a value may cost on an H200 at 85 % of its bandwidth (132 multiprocessors issue 4 x 32 lanes at 1.755 GHz, which
is 29.6e12 instructions a second; 4.3e12 bytes a second): encoding and decoding INT4 move 2.53 bytes, so about 20
instructions; a sum of eight copies 6.2 bytes and 50; one that is encoded again 4.7 bytes and 38.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import triton

from thinwire.kernels.form import Form, form
from thinwire.reference.catalog import parse_codec

pytestmark = pytest.mark.xdist_group("compile")  # one worker compiles once for all of these

KERNELS = ("encode", "decode", "reduce", "requantise")
SPECS = (
    "int4-g128-zp", "int8-g128-zp", "int5-g128-zp", "int2-g128-zp-sr", "int4-g32-sym-fp16", "int4-g64-zp-h64",
    "mx-e2m1-b32", "mx-e2m3-b32", "mx-e4m3-b32", "mx-int8-b32",
)  # fmt: skip
# Hopper has all of them; the others what differs most: the plain grid, the one with most state, an element format.
ELSEWHERE = (
    *((kernel, "int4-g128-zp") for kernel in KERNELS), ("encode", "int2-g128-zp-sr"), ("requantise", "int2-g128-zp-sr"),
    ("encode", "mx-e2m1-b32"), ("reduce", "mx-e2m1-b32"),
)  # fmt: skip
CASES = [(kernel, spec, 90) for spec in SPECS for kernel in KERNELS]
CASES += [(kernel, spec, capability) for capability in (80, 89, 100) for kernel, spec in ELSEWHERE]
# Of the others, that they do not spill: what others' presets have of their own, norms of Llama-3-70B's rows, and both
# outlier hybrids.
PRESETS = [(kernel, spec) for spec in ("nvfp4-r6144", "mx-e4m3-b496-fp32-s16") for kernel in ("encode", "reduce")]
OTHERS = [
    *PRESETS,
    *((kernel, "int4-g128-zp") for kernel in ("norm", "reduce_norm")),
    *((kernel, spec) for spec in ("hybrid4-k64-dyn-g128", "hybrid4-k64") for kernel in ("encode", "decode", "reduce")),
]
# Rows picked by index: as wide and as exact as those in order, for a few instructions more.
ROWS = [(kernel, "int4-g128-zp") for kernel in ("gather_encode", "scatter_decode", "combine")]
ROW_CASES = [(*case, capability) for capability in (80, 89, 90, 100) for case in ROWS]
OTHER_CASES = [(kernel, spec, capability) for capability in (80, 89, 90, 100) for kernel, spec in OTHERS]
OTHER_CASES += [*ROW_CASES, *((kernel, "hybrid4-k64-dyn-g128", 90) for kernel in ("gather_encode", "scatter_decode"))]
GOLDEN = Path(__file__).parent.parent / "golden" / "registers.json"
TOLERANCE = 0.1  # another ptxas patch level, not another algorithm
PROCESSES = 2


def key(kernel: str, spec: str, capability: int) -> str:
    return f"sm_{capability} {kernel} {spec}"


@pytest.fixture(scope="module")
def compiled(root: Path) -> dict[str, dict[str, Any]]:
    """The facts of every case of both lists. Compiled kernels are kept in the system's folder for temporary files: a
    second run of the tests finds them there by the hash of what they were made from.
    """
    cache = Path(tempfile.gettempdir()) / f"thinwire-triton-{os.getuid()}"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    paths = [str(root / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "TRITON_CACHE_DIR": str(cache)}

    def run(jobs: list[tuple[str, str, int]]) -> list[dict[str, Any]]:
        command = [sys.executable, "-m", "thinwire.validation.instructions.compiling"]
        done = subprocess.run(command, input=json.dumps(jobs), env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    every = [*CASES, *OTHER_CASES]
    shares = [every[start::PROCESSES] for start in range(PROCESSES)]
    with ThreadPoolExecutor(PROCESSES) as pool:
        results = list(pool.map(run, shares))
    pairs = [pair for share, facts in zip(shares, results, strict=True) for pair in zip(share, facts, strict=True)]
    return {key(*case): fact for case, fact in sorted(pairs, key=lambda pair: every.index(pair[0]))}


every_case = pytest.mark.parametrize(("kernel", "spec", "capability"), CASES)


def fused_per_value(kernel: str, found: Form) -> int:
    """Fused multiply-adds that kernels ask for: `numbers.shifted_quotient`, `numbers.quotient`, `tiles.add_tile`."""
    added = 7 if not found.rotation and not found.spikes else 0
    again = 0 if found.grid == "mx" else 2
    if kernel == "encode":
        return 0 if found.grid == "mx" else 1 if not found.rotation else again
    return {"decode": 0, "reduce": added, "requantise": added + again}[kernel]


@every_case
def test_nothing_spills(compiled: dict[str, dict[str, Any]], kernel: str, spec: str, capability: int) -> None:
    fact = compiled[key(kernel, spec, capability)]
    assert fact["stack"] == 0 and fact["spills"] == 0
    assert fact["registers"] <= 200  # five programs of two warps a multiprocessor, or more


@pytest.mark.parametrize(("kernel", "spec", "capability"), OTHER_CASES)
def test_no_other_kernel_spills(compiled: dict[str, dict[str, Any]], kernel: str, spec: str, capability: int) -> None:
    fact = compiled[key(kernel, spec, capability)]
    assert fact["stack"] == 0 and fact["spills"] == 0


@every_case
def test_accesses_are_wide(compiled: dict[str, dict[str, Any]], kernel: str, spec: str, capability: int) -> None:
    """All values in 128-bit accesses, and the widest plane too; a thread's 32 codes of 2 bits are no more than 64."""
    fact = compiled[key(kernel, spec, capability)]
    lane = fact["values_per_lane"]
    assert lane == 32
    whole = str(min(128, lane * max(form(parse_codec(spec)).widths)))
    values = "loads" if kernel == "encode" else "stores" if kernel in ("decode", "reduce") else None
    if values:
        assert fact[values].get("128", 0) >= lane * 16 // 128
    for side in {"loads", "stores"} - {values}:
        assert fact[side].get(whole, 0) >= 1, side
        assert max(map(int, fact[side])) <= 128


@every_case
def test_arithmetic_is_exact(compiled: dict[str, dict[str, Any]], kernel: str, spec: str, capability: int) -> None:
    """No approximate division, no flushed subnormals, and no fused multiply-add but those that were asked for."""
    fact = compiled[key(kernel, spec, capability)]
    assert fact["ptx_inexact"] == [] and fact["ptx_fused"] == 0
    assert fact["ptx_fma_per_value"] == fused_per_value(kernel, form(parse_codec(spec)))


@pytest.mark.parametrize(("kernel", "spec"), PRESETS)
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_presets_are_exact_and_cheap(
    compiled: dict[str, dict[str, Any]], kernel: str, spec: str, capability: int
) -> None:
    """As the others; a scale for 16 values costs no more instructions than a scale for 128 and a ragged group."""
    fact = compiled[key(kernel, spec, capability)]
    assert fact["ptx_inexact"] == [] and fact["ptx_fused"] == 0 and fact["values_per_lane"] == 32
    assert fact["ptx_fma_per_value"] == (2 if kernel == "encode" else 0)
    assert fact["per_value"] < (36 if kernel == "encode" else 96)


@pytest.mark.parametrize(("kernel", "spec", "capability"), ROW_CASES)
def test_rows_picked_by_index_cost_little_more(
    compiled: dict[str, dict[str, Any]], kernel: str, spec: str, capability: int
) -> None:
    """A combine's loop is one copy, of which `reduce` has eight."""
    fact = compiled[key(kernel, spec, capability)]
    like = compiled[
        key({"gather_encode": "encode", "scatter_decode": "decode"}.get(kernel, "reduce"), spec, capability)
    ]
    assert fact["ptx_inexact"] == [] and fact["ptx_fused"] == 0 and fact["values_per_lane"] == 32
    assert fact["ptx_fma_per_value"] == (1 if kernel == "gather_encode" else 0)
    assert fact["per_value"] < (1.2 * like["per_value"] if kernel != "combine" else like["per_value"] / 2)
    assert fact["loads" if kernel == "gather_encode" else "stores"].get("128", 0) >= 32 * 16 // 128
    assert fact["registers"] <= 96


@pytest.mark.parametrize(("kernel", "spec", "capability"), [*CASES, *OTHER_CASES])
def test_no_float_is_saturated(compiled: dict[str, dict[str, Any]], kernel: str, spec: str, capability: int) -> None:
    """If this fails, convert the number to a whole one instead of cutting a byte out of its bits
    (`machine_code.saturated`; by hand with the Triton of the GPU's machine: PYTHONPATH=its folder:src python -m
    thinwire.validation.instructions.compiling ...).
    """
    assert compiled[key(kernel, spec, capability)]["saturated"] == 0


@pytest.mark.skipif(triton.__version__ != "3.7.1", reason=f"frozen for Triton 3.7.1, this is {triton.__version__}")
def test_registers_and_instructions_are_frozen(compiled: dict[str, dict[str, Any]]) -> None:
    names = [key(*case) for case in CASES]
    found = {name: {field: compiled[name][field] for field in ("registers", "per_value")} for name in names}
    if os.environ.get("REWRITE_GOLDEN") == "1":
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in found.items())
        GOLDEN.write_text(f'{{\n "{triton.__version__}": {{\n{lines}\n }}\n}}\n', "utf-8")
    frozen = json.loads(GOLDEN.read_text("utf-8"))[triton.__version__]
    assert found.keys() == frozen.keys()
    moved = [
        f"{name}: {field} {frozen[name][field]} -> {row[field]}"
        for name, row in found.items()
        for field in row
        if abs(row[field] - frozen[name][field]) > TOLERANCE * frozen[name][field]
    ]
    assert not moved, "\n".join(moved)
