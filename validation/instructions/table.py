"""The table of counted kernels, `validation/raw/codec-instructions.json`: written by `count.py`, read without torch.

By Triton version, compute capability, codec and kernel a row of whole numbers, `COLUMNS`: what one thread of the fast
path executes, and what the program uses. Kernels that sum copies stand there for two copies and for eight.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from thinwire.edge.writing import write_text

PATH = Path(__file__).resolve().parents[1] / "raw" / "codec-instructions.json"
FEW, MANY = 2, 8  # copies
KERNELS = ("encode", "decode", f"reduce{FEW}", f"reduce{MANY}", f"requantise{MANY}")
NORM = f"norm{MANY}"  # of the first codec alone: the gathered sum of so many ranks decoded, added and normalised
NOTE = (
    "What Triton's compiler makes of kernels/*.py, counted by `make instructions`: instructions of a thread on the "
    "fast path by pipe, waits for global memory, and what a program of so many warps and values uses."
)


@dataclass(frozen=True, slots=True)
class Counted:
    """One compiled kernel. `issued` and what follows it are instructions of one thread."""

    registers: int  # of a thread
    shared: int  # bytes of a program
    warps: int
    values: int  # of a program's tile
    rounds: int  # waits for global memory, one after the other
    issued: int
    fma: int  # fp32 and fp16 arithmetic; two numbers in one instruction count twice
    imad: int  # integer products, and moves made of them
    alu: int  # integer and logic, comparisons, minima and maxima, packing
    xu: int  # conversions, roots, reciprocals
    memory: int  # global loads and stores
    wide: int  # of those, 128 bits
    shared_accesses: int
    shuffles: int

    def a_value(self, instructions: float) -> float:
        """Of one thread, as of one value."""
        return instructions * 32 * self.warps / self.values

    @property
    def lsu(self) -> int:
        """What the load and store unit handles."""
        return self.memory + self.shared_accesses + self.shuffles


COLUMNS = tuple(field.name for field in fields(Counted))
Rows = Mapping[str, Mapping[str, Counted]]  # codec -> kernel -> counts


@cache
def counted(triton: str, capability: int, path: Path = PATH) -> Rows:
    """All kernels of one Triton and compute capability. ValueError where nobody has counted them."""
    versions = _read(path)
    found = versions.get(triton, {}).get(f"sm_{capability}")
    if found is None:
        raise ValueError(f"{path.name} has no kernels of Triton {triton} for sm_{capability}: make instructions")
    return {codec: {name: Counted(*row) for name, row in rows.items()} for codec, rows in found.items()}


def versions(capability: int, path: Path = PATH) -> tuple[str, ...]:
    """The Triton versions whose kernels for a compute capability are counted."""
    return tuple(version for version, found in _read(path).items() if f"sm_{capability}" in found)


def newest(path: Path = PATH) -> str:
    """The Triton version that most is counted with: the pinned one."""
    return max(_read(path).items(), key=lambda item: (len(item[1]), item[0]))[0]


def _read(path: Path) -> dict[str, dict[str, dict[str, dict[str, list[int]]]]]:
    document = json.loads(path.read_text("utf-8"))
    if tuple(document["columns"]) != COLUMNS:
        raise ValueError(f"{path.name} has other columns: make instructions")
    found: dict[str, dict[str, dict[str, dict[str, list[int]]]]] = document["triton"]
    return found


def write(
    found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Counted]]]], path: Path = PATH, some: bool = False
) -> None:
    """Put what was counted into the file, by Triton version and then capability; what else it holds stays, and where
    only `some` codecs were counted, the others.
    """
    kept = _read(path) if path.exists() else {}
    for version, capabilities in found.items():
        for capability, codecs in capabilities.items():
            others = kept.get(version, {}).get(capability, {}) if some else {}
            kept.setdefault(version, {})[capability] = others | {
                codec: {name: [getattr(row, column) for column in COLUMNS] for name, row in rows.items()}
                for codec, rows in codecs.items()
            }
    document = {"note": NOTE, "columns": COLUMNS, "triton": {version: kept[version] for version in sorted(kept)}}
    text = json.dumps(document, indent=1)
    write_text(path, re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda one: f"[{' '.join(one[1].split())}]", text) + "\n")
