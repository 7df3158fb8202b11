"""`make instructions`: compile every catalog codec's kernels for every architecture and count their instructions.

    python -m thinwire.validation.instructions.count [--capabilities 80,90] [--codecs int4-g128-zp,...]

Needs torch and Triton and no GPU; some minutes on two cores, seconds where Triton's cache has the kernels. Counts go
under the running Triton's version; those of another come from a second run with it on PYTHONPATH:
the campaign's, 3.6.0, stand there for sm_90.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence

import triton

from thinwire.kernels.bench import CODECS, HYBRID
from thinwire.reference.catalog import schemes
from thinwire.reference.core.lookup import entry_of
from thinwire.validation.instructions.compiling import built, job
from thinwire.validation.instructions.machine_code import Instruction, base, read, rounds, width
from thinwire.validation.instructions.table import FEW, KERNELS, NORM, Counted, write

CAPABILITIES = (80, 89, 90, 100, 120)
# Opcodes by the pipe that executes them; what is in none of these is the integer and logic pipe's.
FMA = frozenset({"FADD", "FMUL", "FFMA", "HADD2", "HMUL2", "HFMA2", "FSWZADD", "I2FP"})
PAIRS = frozenset({"FADD2", "FMUL2", "FFMA2"})  # Blackwell: two fp32 numbers in one instruction
XU = frozenset({"MUFU", "I2F", "F2I", "F2F", "FRND", "POPC", "FLO", "BREV"})
SHARED = frozenset({"LDS", "STS", "LDSM", "STSM"})
SHUFFLES = frozenset({"SHFL", "VOTE", "MATCH", "REDUX"})
CONTROL = frozenset({"BRA", "EXIT", "NOP", "BAR", "BSSY", "BSYNC", "WARPSYNC", "RET", "CALL", "DEPBAR"})


def pipe(instruction: Instruction) -> str:
    """`fma`, `pair`, `imad`, `alu`, `xu`, `memory`, `shared`, `shuffle`, `uniform` or `control`."""
    name = base(instruction)
    for found, codes in (
        ("fma", FMA), ("pair", PAIRS), ("xu", XU), ("shared", SHARED), ("shuffle", SHUFFLES), ("control", CONTROL),
    ):  # fmt: skip
        if name in codes:
            return found
    if name == "IMAD":
        return "imad"
    if name in ("LDG", "STG"):
        return "memory"
    # One for the whole warp, in a pipe of its own.
    return "uniform" if name.startswith("U") or name in ("R2UR", "S2UR", "LDC", "LDCU", "CREDUX") else "alu"


def count(kernel: str, spec: str, capability: int) -> Counted:
    """One kernel, named as in `table.KERNELS`: a sum ends in its copies. ValueError where the codec has none such."""
    name, copies = kernel.rstrip("0123456789"), int(kernel[-1]) if kernel[-1].isdigit() else 1
    asked = job(name, spec, copies)
    used, sass, _ = built(asked, capability)
    path = read(sass).of(copies if name in ("reduce", "requantise") else FEW)  # others' loops run about once
    pipes = Counter(map(pipe, path))
    return Counted(
        registers=used["registers"],
        shared=used["shared"],
        warps=asked.options["num_warps"],
        values=asked.values,
        rounds=rounds(path),
        issued=len(path),
        fma=pipes["fma"] + 2 * pipes["pair"],
        imad=pipes["imad"],
        alu=pipes["alu"],
        xu=pipes["xu"],
        memory=pipes["memory"],
        wide=sum(base(i) in ("LDG", "STG") and width(i) == 128 for i in path),
        shared_accesses=pipes["shared"],
        shuffles=pipes["shuffle"],
    )


def specs() -> list[str]:
    """Codecs of the catalog that kernels exist for, and those that `make gpu` measures."""
    found = dict.fromkeys((*CODECS, HYBRID))
    for scheme in schemes().values():
        for codec in (scheme.reduce, scheme.gather):
            if not codec.is_raw and entry_of(codec).kernels:
                found[codec.spec] = None
    return list(found)


def all_of(spec: str, capability: int) -> dict[str, Counted]:
    """Every kernel that a codec has."""
    found = {}
    for kernel in (*KERNELS, *((NORM,) if spec == CODECS[0] else ())):
        try:
            found[kernel] = count(kernel, spec, capability)
        except ValueError as error:
            if kernel.startswith("requantise"):  # outlier hybrids and groups of other sizes have none
                continue
            raise ValueError(f"{spec}, {kernel}: {error}") from None
    return found


def main(arguments: Iterable[str] | None = None) -> int:
    """Count and write."""
    parser = argparse.ArgumentParser(prog="make instructions", description="count instructions of codec kernels")
    parser.add_argument("--capabilities", default=",".join(map(str, CAPABILITIES)), help="compute capabilities")
    parser.add_argument("--codecs", default="", help="codec specs, comma separated (default: all)")
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("make instructions: TRITON_INTERPRET=1 interprets, it cannot compile", file=sys.stderr)
        return 2
    wanted: Sequence[str] = chosen.codecs.split(",") if chosen.codecs else specs()
    for capability in map(int, chosen.capabilities.split(",")):
        rows = {}
        for spec in wanted:
            rows[spec] = all_of(spec, capability)
            print(f"sm_{capability} {spec}: {len(rows[spec])} kernels", flush=True)
        write({triton.__version__: {f"sm_{capability}": rows}}, some=bool(chosen.codecs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
