"""Machine code read: basic blocks of a SASS listing, its fast path and loops, accesses by width.

The fast path goes from a kernel's entry to its end, the straightest way that does most 128-bit loads and stores: past
the tail's own loads, past divisions' slow paths and past padding. Torch-free: a listing is text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Instruction:
    """A line of SASS: its opcode with modifiers, operands, and whether a predicate guards it."""

    code: str
    operands: str
    guarded: bool


def saturated(sass: str) -> int:
    """Conversions of a float to a saturated byte, which no kernel asks for.

    The ptxas of Triton 3.6 makes one of a store of the low byte of a float's bits: that stores 255.
    """
    return len(re.findall(r"\bF2IP\b", sass))


def widths(path: list[Instruction], code: str) -> dict[str, int]:
    """How many global loads or stores there are of each number of bits."""
    found = Counter(str(width(i)) for i in path if i.code.startswith(code))
    return dict(sorted(found.items(), key=lambda item: int(item[0])))


def control_flow(sass: str) -> tuple[list[list[Instruction]], list[list[int]]]:
    """Basic blocks in order, and which blocks each may go to. Calls return, and so are no edges; but a guarded one of a
    place in the kernel itself, before the jump back, is how code for sm_80 and sm_89 leaves a loop.
    """
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
            if found[2].split(".")[0] in ("BRA", "EXIT", "RET", "BRX", "JMP") or leaves(blocks[-1][-1]):
                blocks.append([])
    edges: list[list[int]] = []
    for at, block in enumerate(blocks):
        last = block[-1] if block else None
        kind = last.code.split(".")[0] if last else ""
        out = []
        jumps = last is not None and leaves(last) and at + 1 < len(blocks) and [*map(base, blocks[at + 1])] == ["BRA"]
        if last and (kind in ("BRA", "JMP") or jumps) and (target := re.search(r"\((\.L_\w+)\)", last.operands)):
            out.append(labels[target[1]])
        if last is None or last.guarded or kind not in ("BRA", "EXIT", "RET", "JMP", "BRX"):
            out.append(at + 1)
        edges.append([target for target in out if target < len(blocks)])
    return blocks, edges


def leaves(last: Instruction) -> bool:
    """A call that is a jump: guarded, and into the kernel itself."""
    return last.guarded and last.code.startswith("CALL") and re.search(r"\(\.L_\w+\)", last.operands) is not None


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


@dataclass(frozen=True, slots=True)
class FastPath:
    """What a thread executes: once, for each copy of a sum after the first where that is a loop, and once more."""

    before: list[Instruction]
    loop: list[Instruction]
    after: list[Instruction]

    def of(self, copies: int) -> list[Instruction]:
        """All of it; a kernel without such a loop takes the same whatever `copies` are."""
        return [*self.before, *self.loop * (max(2, copies) - 1), *self.after]


def read(sass: str) -> FastPath:
    """The fast path of a listing. Its copies' loop is the one that loads and stores nothing; other loops run once."""
    blocks, edges = control_flow(sass)
    path = fast_path(blocks, edges)
    loop: set[int] = set()
    # A jump back may be all there is of the block behind the one that leaves the loop.
    behind = [at + 1 for at in path if at + 1 < len(blocks) and len(blocks[at + 1]) == 1]
    for at in (*path, *behind):
        for target in edges[at]:
            if target <= at and target in path:
                body = [block for block in path if target <= block <= at]
                codes = {base(i) for block in body for i in blocks[block]}
                if "LDG" in codes and "STG" not in codes:
                    loop.update(body)
    first, last = (min(loop), max(loop)) if loop else (len(blocks), len(blocks))
    before = [i for block in path if block < first for i in blocks[block]]
    inside = [i for block in path if first <= block <= last for i in blocks[block]]
    return FastPath(before, inside if loop else [], [i for block in path if block > last for i in blocks[block]])


def base(instruction: Instruction) -> str:
    """The opcode without modifiers."""
    return instruction.code.partition(".")[0]


_REGISTER = re.compile(r"\b(U?R|U?P)(\d+)(?:\.64)?")
_STORES = ("STG", "STS", "STL", "BAR", "BRA", "EXIT", "RED", "WARPSYNC", "BSSY", "BSYNC", "NOP")


def rounds(path: Iterable[Instruction]) -> int:
    """How often a warp waits for global memory: loads that one another's results, or arithmetic between, keep apart.

    Warps issue in order. An instruction that needs a load's result waits for it, and whatever follows has waited too;
    loads before the first such instruction are under way together and count once.
    """
    waited = 0
    ready: dict[tuple[str, int], int] = {}
    for one in path:
        found = [(name, int(number)) for name, number in _REGISTER.findall(one.operands)]
        wide = width(one) // 32 if base(one) in ("LDG", "LDS") else 1
        stores = base(one) in _STORES
        sources = found if stores else found[1:]
        for name, number in sources:
            # An address or a 64-bit source is a pair of registers.
            waited = max(
                waited, ready.get((name, number), 0), ready.get((name, number + 1), 0) if ".64" in one.operands else 0
            )
        if stores or not found:
            continue
        name, number = found[0]
        for at in range(number, number + max(1, wide)):
            ready[name, at] = waited + 1 if base(one) == "LDG" else 0
    return waited
