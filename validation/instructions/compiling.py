"""Kernels compiled for GPUs that are not here, and what their machine code holds: registers, memory accesses, counts.

Needs torch and Triton, no GPU, and the compiler, not the interpreter. Facts of one kernel, by hand:

    python -m thinwire.validation.instructions.compiling encode int4-g128-zp 90 [listing.sass]

A list of jobs [kernel, codec spec, compute capability] on standard input gives a list of facts on standard output:
tests ask for them in processes of their own, because they themselves run in the interpreter.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from thinwire.kernels.combine import combine_kernel
from thinwire.kernels.decode import decode_kernel
from thinwire.kernels.encode import encode_kernel
from thinwire.kernels.form import Form, form, hybrid_form
from thinwire.kernels.gather_encode import gather_encode_hybrid_kernel, gather_encode_kernel
from thinwire.kernels.hybrid_dynamic import hybrid_decode_kernel, hybrid_encode_kernel, hybrid_reduce_kernel
from thinwire.kernels.hybrid_static import static_encode_kernel, static_reduce_kernel, tile_shape
from thinwire.kernels.launch import ASSUMED, options
from thinwire.kernels.norm import most_registers, norm_kernel, tile_of, written_out
from thinwire.kernels.reduce import can_requantise, reduce_kernel, requantise_kernel, unrolled
from thinwire.kernels.scatter_decode import scatter_decode_hybrid_kernel, scatter_decode_kernel
from thinwire.reference.core.lookup import parse_codec
from thinwire.reference.core.scheme import OutlierHybrid
from thinwire.validation.instructions.machine_code import read, saturated, widths

RANKS = 8
HIDDEN = 8192  # Llama-3-70B's: the widest rows of the catalog
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = {
    "values_ptr": "*bf16", "wire_ptr": "*u8", "table_ptr": "*i64", "sums_ptr": "*u8", "sums_table_ptr": "*i64",
    "residual_ptr": "*bf16", "weight_ptr": "*bf16", "normed_ptr": "*bf16", "lists_ptr": "*i32", "divisors_ptr": "*fp32",
    "scales_ptr": "*fp32", "hidden": "fp32", "epsilon": "fp32", "rows_ptr": "*bf16", "tokens_ptr": "*bf16",
    "index_ptr": "*i64", "spots_ptr": "*i64", "place_ptr": "*i64", "part_ptr": "*i32",
}  # fmt: skip
# Strides between rows and buffers are multiples of 16, as the launchers ask for and Triton then finds out.
STRIDES = (
    "values_row", "wire_row", "wire_rank", "wire_part", "sums_row", "sums_part", "residual_row", "normed_row",
    "divisors_row", "scales_rank", "rows_stride", "tokens_stride",
)  # fmt: skip
LIKE = {"gather_encode": "encode", "scatter_decode": "decode", "combine": "reduce"}  # whose tuning they have


@dataclass(frozen=True, slots=True)
class Job:
    """A kernel as a launcher asks for it: compile-time arguments, types that are not those of `POINTERS`, options, and
    the values of a program's tile.
    """

    function: Any
    constants: dict[str, Any]
    types: dict[str, str]
    options: dict[str, Any]
    values: int


def job(kernel: str, spec: str, ranks: int = RANKS) -> Job:
    """`encode`, `decode`, `reduce`, `requantise` of a codec, those of rows (`LIKE`), or `norm`, `reduce_norm`, at the
    default tuning.

    ValueError where a codec has no such kernel.
    """
    codec = parse_codec(spec)
    if isinstance(codec, OutlierHybrid):
        return _hybrid(kernel, codec, ranks)
    found = form(codec)
    if kernel in ("norm", "reduce_norm"):
        groups = HIDDEN // found.group
        rows, warps = tile_of(groups * found.padded, ASSUMED["decode"])
        constants = {
            "UNROLLED": written_out(found, ranks, warps), "REDUCE": kernel == "reduce_norm", "FORM": found,
            "ROWS": rows, "ROW_GROUPS": groups, "PARTS": ranks,
        }  # fmt: skip
        chosen = {**options(ASSUMED["decode"]), "num_warps": warps, "maxnreg": most_registers(warps)}
        return Job(norm_kernel, constants, {"sums_ptr": "*bf16"}, chosen, rows * groups * found.padded)
    if kernel == "requantise" and not can_requantise(found, found):
        raise ValueError(f"{spec} is not reduced and encoded in one kernel")
    tuning = ASSUMED[LIKE.get(kernel, kernel)].holding(found.least)
    groups = tuning.groups(found)
    values = groups * found.padded
    each: dict[str, tuple[Any, dict[str, Any]]] = {
        "encode": (encode_kernel, {"FORM": found, "TILE_GROUPS": groups, "PAIRS": True}),
        "decode": (decode_kernel, {"SATURATES": True, "FORM": found, "TILE_GROUPS": groups}),
        "gather_encode": (
            gather_encode_kernel,
            {"FORM": found, "TILE_GROUPS": groups, "INDEXED": True, "EXACT": exact(found), "PAIRS": True},
        ),
        "scatter_decode": (
            scatter_decode_kernel,
            {"FORM": found, "TILE_GROUPS": groups, "INDEXED": True, "EXACT": exact(found)},
        ),
        "combine": (combine_kernel, {"FORM": found, "TILE_GROUPS": groups, "EXACT": exact(found)}),
        "reduce": (reduce_kernel, {"FORM": found, "TILE_GROUPS": groups, "UNROLLED": unrolled(ranks, found)}),
        "requantise": (
            requantise_kernel,
            {"FORM": found, "SUMS": found, "TILE_VALUES": values, "UNROLLED": unrolled(ranks, found)},
        ),
    }
    function, constants = each[kernel]
    types = {"weight_ptr": "*fp32"} if kernel == "combine" else {}
    return Job(function, constants, types, options(tuning), values)


def exact(found: Form) -> bool:
    """Whether rows of whole groups need no mask."""
    return found.group == found.padded


def _hybrid(kernel: str, codec: OutlierHybrid, ranks: int) -> Job:
    hybrid = hybrid_form(codec)
    constants: dict[str, Any]
    dynamic = codec.scale == "dynamic"
    if kernel not in ("encode", "decode", "reduce") and not (dynamic and kernel in ("gather_encode", "scatter_decode")):
        raise ValueError(f"outlier hybrids have encode, decode and reduce, dynamic ones rows: {kernel}")
    tuning = ASSUMED[LIKE.get(kernel, kernel)]
    if dynamic:
        groups = tuning.groups(hybrid)
        if kernel in LIKE:
            picks = gather_encode_hybrid_kernel if kernel == "gather_encode" else scatter_decode_hybrid_kernel
            constants = {"FORM": hybrid, "TILE_GROUPS": groups, "INDEXED": True}
            return Job(picks, constants, {}, options(tuning), groups * hybrid.padded_group)
        constants = {"FORM": hybrid, "TILE_GROUPS": groups}
        if kernel == "reduce":
            constants["UNROLLED"] = unrolled(ranks)
        function = {"encode": hybrid_encode_kernel, "decode": hybrid_decode_kernel, "reduce": hybrid_reduce_kernel}
        return Job(function[kernel], constants, {}, options(tuning), groups * hybrid.padded_group)
    if kernel == "encode":
        constants = {"FORM": hybrid, "TILE": tuning.values, "WIDE": True}
        return Job(static_encode_kernel, constants, {}, options(tuning), tuning.values)
    lines, columns = tile_shape(HIDDEN, tuning)
    summed = kernel == "reduce"
    constants = {
        "SUM": summed, "UNROLLED": unrolled(ranks) if summed else 1, "LIMIT_TO": 0.0, "ALIGN": 8, "EVEN": True,
        "FORM": hybrid, "ROWS": lines, "COLUMNS": columns,
    }  # fmt: skip
    return Job(static_reduce_kernel, constants, {}, options(tuning), lines * columns)


def built(asked: Job, capability: int) -> tuple[dict[str, Any], str, str]:
    """(registers, stack and shared memory, SASS, PTX) of a compiled kernel; arguments without a type are i32.

    Triton asks for shared memory at launch: its own number, not the machine code's.
    """
    function, types = asked.function, POINTERS | asked.types
    signature = {n: types.get(n, "i32") if n not in asked.constants else "constexpr" for n in function.arg_names}
    aligned = [signature[n].startswith("*") or n in STRIDES for n in function.arg_names]
    attributes = {(at,): [["tt.divisibility", 16]] for at, yes in enumerate(aligned) if yes}
    source = ASTSource(fn=function, signature=signature, constexprs=asked.constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=asked.options)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = tool("cuobjdump", "-res-usage", cubin)
        sass = tool("nvdisasm", "-c", cubin)
    used = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert used, usage
    sizes = {"registers": int(used[1]), "stack": int(used[2]), "shared": int(compiled.metadata.shared)}
    return sizes, sass, compiled.asm["ptx"]


def tool(name: str, *arguments: object) -> str:
    """Standard output of one of the programs that come with Triton."""
    run = subprocess.run([str(TOOLS / name), *map(str, arguments)], capture_output=True, text=True, check=True)
    return run.stdout


def facts(kernel: str, spec: str, capability: int, listing: str | None = None) -> dict[str, Any]:
    """Compile one kernel and read its registers, spills, memory accesses and instructions."""
    asked = job(kernel, spec)
    used, sass, ptx = built(asked, capability)
    if listing:
        Path(listing).write_text(sass)
    path = read(sass).of(2)
    codes = Counter(re.findall(r"\b(?:LDL|STL)\b", sass))
    lanes = 32 * asked.options["num_warps"]
    return used | {
        "spills": sum(codes.values()),
        "saturated": saturated(sass),
        "per_value": round(len(path) * lanes / asked.values, 2),
        "path": dict(Counter(instruction.code.split(".")[0] for instruction in path).most_common()),
        "loads": widths(path, "LDG"),
        "stores": widths(path, "STG"),
        "values_per_lane": asked.values // lanes,
        "ptx_fma_per_value": round(multiply_adds(ptx) * lanes / asked.values, 3),
        "ptx_inexact": sorted(set(re.findall(r"\S+\.(?:approx|full|ftz)\S*", ptx))),
        "ptx_fused": len(re.findall(r"\bfma\.(?!rn\.f32)|\bmad\.\S*f32", ptx)),
    }


def multiply_adds(ptx: str) -> int:
    """Fused multiply-adds a thread; Blackwell has one of two numbers."""
    return sum(2 if pair else 1 for pair in re.findall(r"\bfma\.rn\.f32(x2)?", ptx))


def main() -> None:
    """Facts of the kernels on the command line, or of the jobs on standard input."""
    if len(sys.argv) > 1:
        kernels, specs, capabilities = (argument.split(",") for argument in sys.argv[1:4])
        for capability in capabilities:
            for spec in specs:
                for kernel in kernels:
                    found = facts(kernel, spec, int(capability), sys.argv[4] if len(sys.argv) > 4 else None)
                    print(triton.__version__, capability, kernel, spec, found)
        return
    assert os.environ.get("TRITON_INTERPRET", "") != "1", "the interpreter cannot compile"
    json.dump([facts(kernel, spec, capability) for kernel, spec, capability in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
