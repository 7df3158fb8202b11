"""The tables of exact numbers on the pages of schemes, written between their marks from the catalog."""

import re
from collections.abc import Callable
from functools import partial

from exchange import ring_bytes, sent_bytes
from families import FAMILIES, ISLANDS, Family

from thinwire.reference.catalog import scheme, schemes
from thinwire.reference.core.nvfp4 import NVFP4
from thinwire.reference.core.scheme import MX, Codec, GroupedInt, OutlierHybrid, Scheme
from thinwire.sim import api

_MARKS = re.compile(r"(?<=<!-- numbers: made by make pictures -->\n\n).*?(?=<!-- end of numbers -->)", re.DOTALL)


def shared(codec: Codec) -> str:
    """A group's values, and what they share."""
    match codec:
        case GroupedInt():
            also = {"zero_point": ", zero point", "minimum": ", minimum", "symmetric": ""}[codec.grid]
            return f"{codec.group}: {codec.metadata}{also}" + (", 2 spikes" if codec.spikes else "")
        case MX():
            return f"{codec.block}: {codec.scale}" + (f" in {codec.slot} B" if codec.slot else "")
        case NVFP4():
            return f"16: e4m3, {codec.row:,}: fp32"
        case OutlierHybrid(scale="static"):
            return "calibrated scales"
        case OutlierHybrid():
            return f"{codec.group}: bf16"
    return "1: nothing"


def _cells(entry: Scheme) -> list[str]:
    both = (entry.reduce,) if entry.reduce == entry.gather else (entry.reduce, entry.gather)
    sent = sent_bytes(entry, ISLANDS if entry.collective == "hierarchical" else None)
    return [
        f"`{entry.name}`", "/".join(f"`{codec.spec}`" for codec in both),
        " / ".join(dict.fromkeys(map(shared, both))), entry.collective,
        " / ".join(f"{codec.bits_per_value:.6g}" for codec in both), f"{sent:,}", f"{sent / ring_bytes():.1%}",
    ]  # fmt: skip


def numbers(family: Family) -> str:
    """The table of one family: exact bits, and bytes that a rank sends of 1 MiB among four."""
    if family.page == "experts":
        return _experts()
    head = ["scheme", "codec", "group: shares", "collective", "bits", "B sent", "of ring"]
    return _table(head, [_cells(scheme(name)) for name in family.schemes], numeric=3)


def _experts() -> str:
    rows = []
    for entry in schemes().values():
        if entry.compresses_experts:
            cells = [f"`{entry.name}`"]
            for phase in ("dispatch", "combine"):
                codec = entry.of_experts(phase)
                cells += ["`bf16`", "16"] if codec is None else [f"`{codec.spec}`", f"{codec.bits_per_value:.6g}"]
            rows.append(cells)
    return _table(["scheme", "dispatch", "bits a value", "combine", "bits a value"], rows, numeric=0)


def _table(head: list[str], rows: list[list[str]], numeric: int) -> str:
    rule = ["---"] * (len(head) - numeric) + ["---:"] * numeric
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)) + "\n\n"


# What is asked: in words, then model, cluster, GPUs, sequences, tokens of each.
CASES = (
    ("70B, 4x L40S", "llama-3-70b", "8xl40s-pcie", 4, 8, 1024),
    ("70B, 8x L40S", "llama-3-70b", "8xl40s-pcie", 8, 8, 1024),
    ("8B, 2x L40S", "llama-3-8b", "8xl40s-pcie", 2, 8, 1024),
    ("70B, 8x H100", "llama-3-70b", "8xh100-nvlink", 8, 8, 1024),
    ("70B, 8x MI300X", "llama-3-70b", "8xmi300x-xgmi", 8, 8, 1024),
    ("70B, 2x8 H100", "llama-3-70b", "2x8xh100-ib", 16, 8, 1024),
    ("8B, 4x L40S, short", "llama-3-8b", "8xl40s-pcie", 4, 1, 16),
)
TRIED = (
    "iso", "iso-int8", "flash-int8", "flash2-int5-sr", "flash-int4-h128", "flash2-int4-hier", "quickreduce-fp8",
    "mxfp8",
)  # fmt: skip


def cases() -> str:
    """Speed-ups over bf16 of some schemes, case by case, as predicted; the best of each in bold."""
    columns = []
    for _, model, cluster, tp, batch, tokens in CASES:
        found = api.compare([*TRIED, "bf16"], model, cluster, tp=tp, batch=batch, input_tokens=tokens)
        gains = {row.scheme.name: f"{found.speedup(row):.2f}" for row in found.rows}
        best = max(gains.values(), key=float)
        columns.append([f"**{gains[name]}**" if gains[name] == best else gains[name] for name in TRIED])
    rows = [[f"`{name}`", *cells] for name, *cells in zip(TRIED, *columns, strict=True)]
    return _table(["scheme", *(case[0] for case in CASES)], rows, numeric=len(CASES))


def filled(text: str, page: str) -> str:
    """A page of docs/schemes/ with its table as it is today. ValueError where it has no place for one."""
    made, places = _MARKS.subn(lambda _: TABLES[page](), text)
    if places != 1:
        raise ValueError(f"docs/schemes/{page}.md has {places} places for its numbers, not 1")
    return made


TABLES: dict[str, Callable[[], str]] = {
    "index": cases, **{f.page: partial(numbers, f) for f in FAMILIES if f.schemes or f.page == "experts"},
}  # fmt: skip
