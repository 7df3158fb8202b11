"""Compile kernels for GPUs that are not here and read the machine code; `python compiled.py < jobs.json > facts.json`.

A process of its own, because tests run in the interpreter, which cannot compile. A job is [kernel, codec spec, compute
capability]; facts are a dictionary for each job, in order. By hand:

    python tests/kernels/compiled.py encode int4-g128-zp 90 [listing.sass]

Instructions a value are those of the fast path: from the kernel's entry to its end, the straightest way that does most
128-bit loads and stores, so past the tail's own loads, past divisions' slow paths and past padding.
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

from thinwire.kernels.decode import decode_kernel
from thinwire.kernels.encode import encode_kernel
from thinwire.kernels.form import form, hybrid_form
from thinwire.kernels.hybrid_dynamic import hybrid_decode_kernel, hybrid_encode_kernel, hybrid_reduce_kernel
from thinwire.kernels.hybrid_static import static_encode_kernel, static_reduce_kernel, tile_shape
from thinwire.kernels.launch import ASSUMED, options
from thinwire.kernels.norm import most_registers, norm_kernel, tile_of, written_out
from thinwire.kernels.reduce import reduce_kernel, requantise_kernel, unrolled
from thinwire.reference.catalog import parse_codec

RANKS = 8
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = {
    "values_ptr": "*bf16", "wire_ptr": "*u8", "table_ptr": "*i64", "sums_ptr": "*u8", "sums_table_ptr": "*i64",
    "residual_ptr": "*bf16", "weight_ptr": "*bf16", "normed_ptr": "*bf16", "lists_ptr": "*i32", "divisors_ptr": "*fp32",
    "scales_ptr": "*fp32", "hidden": "fp32", "epsilon": "fp32",
}  # fmt: skip
# Strides between rows and buffers are multiples of 16, as the launchers ask for and Triton then finds out.
STRIDES = (
    "values_row", "wire_row", "wire_rank", "wire_part", "sums_row", "sums_part", "residual_row", "normed_row",
    "divisors_row", "scales_rank",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Instruction:
    """A line of SASS: its opcode with modifiers, operands, and whether a predicate guards it."""

    code: str
    operands: str
    guarded: bool


def sources(kernel: str, spec: str) -> tuple[Any, dict[str, Any], int, int]:
    """(function, compile-time arguments, warps, values of a tile) of a kernel at its default tuning."""
    found = form(parse_codec(spec))
    tuning = ASSUMED[kernel].holding(found.least)
    groups = tuning.groups(found)
    values = groups * found.padded
    if kernel == "encode":
        return encode_kernel, {"FORM": found, "TILE_GROUPS": groups, "PAIRS": True}, tuning.warps, values
    if kernel == "decode":
        return decode_kernel, {"SATURATES": True, "FORM": found, "TILE_GROUPS": groups}, tuning.warps, values
    if kernel == "reduce":
        return (
            reduce_kernel,
            {"FORM": found, "TILE_GROUPS": groups, "UNROLLED": unrolled(RANKS, found)},
            tuning.warps,
            values,
        )
    constants = {"FORM": found, "SUMS": found, "TILE_VALUES": values, "UNROLLED": unrolled(RANKS, found)}
    return requantise_kernel, constants, tuning.warps, values


HIDDEN = 8192  # Llama-3-70B's: the widest rows of the catalog


def others(kernel: str, spec: str) -> tuple[Any, dict[str, Any], dict[str, str], dict[str, Any]]:
    """(function, compile-time arguments, types that are not those of `POINTERS`, options), as launchers have them."""
    codec = parse_codec(spec)
    if kernel in ("norm", "reduce_norm"):
        found = form(codec)
        groups = HIDDEN // found.group
        rows, warps = tile_of(groups * found.padded, ASSUMED["decode"])
        constants = {
            "UNROLLED": written_out(found, RANKS, warps), "REDUCE": kernel == "reduce_norm", "FORM": found,
            "ROWS": rows, "ROW_GROUPS": groups, "PARTS": RANKS,
        }  # fmt: skip
        chosen = {**options(ASSUMED["decode"]), "num_warps": warps, "maxnreg": most_registers(warps)}
        return norm_kernel, constants, {"sums_ptr": "*bf16"}, chosen
    hybrid = hybrid_form(codec)
    tuning = ASSUMED[kernel.partition("_")[2]]
    if kernel.startswith("hybrid"):
        constants = {"FORM": hybrid, "TILE_GROUPS": tuning.groups(hybrid)}
        function = {"hybrid_encode": hybrid_encode_kernel, "hybrid_decode": hybrid_decode_kernel}.get(kernel)
        if function is None:
            function, constants["UNROLLED"] = hybrid_reduce_kernel, unrolled(RANKS)
        return function, constants, {}, options(tuning)
    if kernel == "static_encode":
        return static_encode_kernel, {"FORM": hybrid, "TILE": tuning.values, "WIDE": True}, {}, options(tuning)
    lines, columns = tile_shape(HIDDEN, tuning)
    summed = kernel == "static_reduce"
    constants = {
        "SUM": summed, "UNROLLED": unrolled(RANKS) if summed else 1, "LIMIT_TO": 0.0, "ALIGN": 8, "EVEN": True,
        "FORM": hybrid, "ROWS": lines, "COLUMNS": columns,
    }  # fmt: skip
    return static_reduce_kernel, constants, {}, options(tuning)


def built(
    function: Any, constants: dict[str, Any], kinds: dict[str, str], chosen: dict[str, Any], capability: int
) -> tuple[dict[str, Any], str, str]:
    """(registers, stack and shared memory, SASS, PTX) of a compiled kernel; `kinds`: types by argument, else i32."""
    signature = {n: kinds.get(n, "i32") if n not in constants else "constexpr" for n in function.arg_names}
    aligned = [signature[n].startswith("*") or n in STRIDES for n in function.arg_names]
    attributes = {(at,): [["tt.divisibility", 16]] for at, yes in enumerate(aligned) if yes}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=chosen)
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = tool("cuobjdump", "-res-usage", cubin)
        sass = tool("nvdisasm", "-c", cubin)
    used = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", usage)
    assert used, usage
    return dict(zip(("registers", "stack", "shared"), map(int, used.groups()), strict=True)), sass, compiled.asm["ptx"]


def measured(kernel: str, spec: str, capability: int) -> dict[str, Any]:
    """`facts` of the kernels of `sources`; of `others`, what they use and whether they spill."""
    if kernel in ASSUMED:
        return facts(kernel, spec, capability)
    function, constants, types, chosen = others(kernel, spec)
    used, sass, _ = built(function, constants, POINTERS | types, chosen, capability)
    return used | {"spills": len(re.findall(r"\b(?:LDL|STL)\b", sass)), "saturated": saturated(sass)}


def facts(kernel: str, spec: str, capability: int, listing: str | None = None) -> dict[str, Any]:
    """Compile one kernel and read its registers, spills, memory accesses and instructions."""
    function, constants, warps, values = sources(kernel, spec)
    chosen = {**options(ASSUMED[kernel]), "num_warps": warps}
    used, sass, ptx = built(function, constants, POINTERS, chosen, capability)
    if listing:
        Path(listing).write_text(sass)
    blocks, edges = control_flow(sass)
    path = [instruction for block in fast_path(blocks, edges) for instruction in blocks[block]]
    codes = Counter(instruction.code for block in blocks for instruction in block)
    lanes = 32 * warps
    return used | {
        "spills": sum(n for code, n in codes.items() if code.startswith(("LDL", "STL"))),
        "saturated": saturated(sass),
        "instructions": sum(codes.values()),
        "per_value": round(len(path) * lanes / values, 2),
        "path": dict(Counter(instruction.code.split(".")[0] for instruction in path).most_common()),
        "loads": widths(path, "LDG"),
        "stores": widths(path, "STG"),
        "values_per_lane": values // lanes,
        "ptx_fma_per_value": round(multiply_adds(ptx) * lanes / values, 3),
        "ptx_inexact": sorted(set(re.findall(r"\S+\.(?:approx|full|ftz)\S*", ptx))),
        "ptx_fused": len(re.findall(r"\bfma\.(?!rn\.f32)|\bmad\.\S*f32", ptx)),
    }


def saturated(sass: str) -> int:
    """Conversions of a float to a saturated byte, which no kernel asks for.

    The ptxas of Triton 3.6 makes one of a store of the low byte of a float's bits: that stores 255.
    """
    return len(re.findall(r"\bF2IP\b", sass))


def multiply_adds(ptx: str) -> int:
    """Fused multiply-adds a thread; Blackwell has one of two numbers."""
    return sum(2 if pair else 1 for pair in re.findall(r"\bfma\.rn\.f32(x2)?", ptx))


def widths(path: list[Instruction], code: str) -> dict[str, int]:
    """How many global loads or stores there are of each number of bits."""
    found = Counter(str(width(i)) for i in path if i.code.startswith(code))
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def tool(name: str, *arguments: object) -> str:
    """Standard output of one of the programs that come with Triton."""
    run = subprocess.run([str(TOOLS / name), *map(str, arguments)], capture_output=True, text=True, check=True)
    return run.stdout


def control_flow(sass: str) -> tuple[list[list[Instruction]], list[list[int]]]:
    """Basic blocks in order, and which blocks each may go to. Calls return, and so are no edges."""
    blocks: list[list[Instruction]] = [[]]
    labels: dict[str, int] = {}
    for line in sass.splitlines():
        if label := re.match(r"^(\.L_x?_?\w+):", line):
            if blocks[-1]:
                blocks.append([])
            labels[label[1]] = len(blocks) - 1
        elif found := re.match(r"^\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);", line):
            # A branch that a whole warp takes names its predicate among its operands.
            guarded = bool(found[1]) or re.match(r"!?UP\d", found[3]) is not None
            blocks[-1].append(Instruction(found[2], found[3], guarded))
            if found[2].split(".")[0] in ("BRA", "EXIT", "RET", "BRX", "JMP"):
                blocks.append([])
    edges: list[list[int]] = []
    for at, block in enumerate(blocks):
        last = block[-1] if block else None
        kind = last.code.split(".")[0] if last else ""
        out = []
        if last and kind in ("BRA", "JMP") and (target := re.search(r"\((\.L_\w+)\)", last.operands)):
            out.append(labels[target[1]])
        if last is None or last.guarded or kind not in ("BRA", "EXIT", "RET", "JMP", "BRX"):
            out.append(at + 1)
        edges.append([target for target in out if target < len(blocks)])
    return blocks, edges


def fast_path(blocks: list[list[Instruction]], edges: list[list[int]]) -> list[int]:
    """Blocks from entry to exit, forwards only, with the widest accesses and then fewest instructions.

    Accesses of 32 bits and more count by their width squared: four of 32 bits are less than one of 128.
    """
    best: dict[int, tuple[int, int, list[int]]] = {}
    for at in reversed(range(len(blocks))):
        block = blocks[at]
        wide = sum(width(i) ** 2 for i in block if i.code.startswith(("LDG", "STG")) and width(i) >= 32)
        ways = [best[target] for target in edges[at] if target > at and target in best]
        if any(i.code == "EXIT" for i in block[-1:]):
            ways.append((0, 0, []))
        if ways:
            most, count, path = max(ways, key=lambda way: way[:2])
            best[at] = (most + wide, count - len(block), [at, *path])
    return best[0][2]


def width(access: Instruction) -> int:
    """Bits that one thread reads or writes."""
    size = re.search(r"\.(U8|S8|U16|S16|64|128|256)\b", access.code)
    return int(size[1].lstrip("US")) if size else 32


if __name__ == "__main__":
    if len(sys.argv) > 1:
        kernels, specs, capabilities = (argument.split(",") for argument in sys.argv[1:4])
        for one in capabilities:
            for spec_ in specs:
                for kernel_ in kernels:
                    found_ = facts(kernel_, spec_, int(one), sys.argv[4] if len(sys.argv) > 4 else None)
                    print(triton.__version__, one, kernel_, spec_, found_)
    else:
        assert os.environ.get("TRITON_INTERPRET", "") != "1", "the interpreter cannot compile"
        json.dump([measured(kernel, spec, capability) for kernel, spec, capability in json.load(sys.stdin)], sys.stdout)
