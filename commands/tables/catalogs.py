"""What there is: schemes, models, machines and GPUs. Where a fact comes from stands below each, or behind --verbose."""

import re
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from thinwire.commands.tables.console import console, say
from thinwire.commands.tables.fitting import Column, Fitted
from thinwire.commands.tables.published import published
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.sim.choices import Shown
from thinwire.sim.quality.published import rows_of
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.draw import draw

Rows = Sequence[Mapping[str, Any]]
EXPERTS = ("dispatch", "combine")
IDS_SHOWN = 1
_BRANCH = re.compile(r"[ │├└─]+|- ")  # what stands before the words of a tree's line
_BELOW = str.maketrans("├└─-", "│   ")
BEHIND = "--verbose says where each comes from"


def schemes(rows: Rows, shown: Shown | None, verbose: bool) -> None:
    """The catalog of schemes, and what others published of their accuracy."""
    table = Fitted(
        [
            Column("name", left=True), Column("bits"), Column("collective", 1, left=True),
            Column("on the wire", left=True, wraps=True, least=24),
            Column("source", 2, left=True, wraps=True, least=60),
        ]
    )  # fmt: skip
    for row in rows:
        words, phases = _wire(row)
        bits = dict.fromkeys(f"{row['bits_per_value'][phase]:.4g}" for phase in phases)
        table.add(row["name"], "/".join(bits), row["collective"], words, "" if verbose else row["source"])
    table.show()
    _sources(rows, verbose)
    published([(row["name"], rows_of(find_scheme(row["name"]))) for row in rows], shown)


def _wire(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """What travels compressed, in words, and in which phases: an all-reduce's, or those of experts' tokens."""
    reduced = row["reduce"] if row["reduce"] == row["gather"] else f"{row['reduce']} / {row['gather']}"
    experts = [f"{phase} {row[phase]}" for phase in EXPERTS if row[phase] != "bf16"]
    if not experts:
        return reduced, ("reduce", "gather")
    plain = (row["reduce"], row["gather"]) == ("bf16", "bf16")
    return ", ".join(experts if plain else [reduced, *experts]), EXPERTS if plain else ("reduce", "gather")


def models(rows: Rows, verbose: bool) -> None:
    """The catalog of models: values trained and used for a token, in billions, and what a token keeps in the cache."""
    table = Fitted(
        [
            Column("name", left=True), Column("10^9 values"), Column("active", 1), Column("layers", 3),
            Column("experts", 2), Column("KV kB/token", 4), Column("Hugging Face ids", 5, left=True, wraps=True),
        ]
    )  # fmt: skip
    for row in rows:
        mixture = f"{row['experts_per_token']} of {row['experts']}" if row["experts"] else ""
        few = row["ids"] if verbose else row["ids"][:IDS_SHOWN]
        more = f" and {len(row['ids']) - len(few)} more" if len(row["ids"]) > len(few) else ""
        table.add(
            row["name"], f"{row['parameters'] / 1e9:.1f}", f"{row['active_parameters'] / 1e9:.1f}",
            str(row["num_layers"]), mixture, f"{row['kv_bytes_per_token'] / 1e3:.0f}", ", ".join(few) + more,
        )  # fmt: skip
    table.show(where="a wider terminal, --verbose (ids) or --json has them")
    if verbose:
        for row in rows:
            say(f"{row['name']}: {', '.join(row['ids'])}", indent=4)
    _sources(rows, verbose)


def clusters(rows: Rows, verbose: bool) -> None:
    """The catalog of machines."""
    table = Fitted(
        [
            Column("name", left=True), Column("GPUs"), Column("GPU", left=True), Column("GB a GPU", 1),
            Column("islands", 2, left=True), Column("fabric", 3, left=True), Column("title", 4, left=True, wraps=True),
        ]
    )  # fmt: skip
    for row in rows:
        islands = " + ".join(map(str, row["islands"]))
        table.add(
            row["name"], str(row["gpus"]), row["gpu"], f"{row['memory_gb']:.1f}", islands, row["fabric"], row["title"]
        )
    table.show()
    _sources(rows, verbose)


def gpus(rows: Rows, verbose: bool) -> None:
    """The catalog of GPUs. Memory is in decimal GB, as everywhere: 80 GiB are 85.9 GB."""
    table = Fitted(
        [
            Column("name", left=True), Column("GB"), Column("GB/s"), Column("bf16 TFLOP/s", 1), Column("fp8", 3),
            Column("chip", 4, left=True), Column("predictions rest on", 2, left=True, wraps=True, least=32),
        ]
    )  # fmt: skip
    for row in rows:
        peak = row["peak_tflops"]
        table.add(
            row["name"], f"{row['memory_gb']:.1f}", f"{row['memory_bandwidth_gb_per_s']:,.0f}", f"{peak['bf16']:,.0f}",
            f"{peak['fp8']:,.0f}" if "fp8" in peak else "-", row["chip"] or "-", row["rests_on"],
        )  # fmt: skip
    table.show()
    say(
        "GB are 10^9 bytes, whatever a card's name says: 80 GiB are 85.9 GB; round numbers, as 24.0, are a data "
        "sheet's, which may mean GiB"
    )
    if verbose:
        for row in rows:
            say(f"predictions on {row['name']} rest on {row['rests_on']}", indent=4)
    _sources(rows, verbose)


def cluster(c: Cluster) -> None:
    """A machine as a tree of links; lines that are too wide go on below where their words begin."""
    for line in draw(c).splitlines():
        before = _BRANCH.match(line)
        indent = "" if before is None else before[0].translate(_BELOW)
        lines = wrap(
            line, console.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
            drop_whitespace=True, replace_whitespace=False,
        )  # fmt: skip
        console.print("\n".join(lines), markup=False, soft_wrap=True)


def _sources(rows: Rows, verbose: bool) -> None:
    """Where each comes from, a line or more a row."""
    if not verbose:
        say(BEHIND)
        return
    console.print()
    for row in rows:
        found = row.get("sources", row.get("source"))
        if isinstance(found, str):
            say(f"{row['name']}: {found}", indent=4)
            continue
        say(f"{row['name']}:")
        for each in found.items() if isinstance(found, Mapping) else found:
            say(f"    {': '.join(each) if isinstance(each, tuple) else each}", indent=6)
