"""Parts of the report that other commands measured: prefills on emulated links, other tools on the same rows.

Both are read from what those commands left, `raw/emulate-*.json` and `reports/peers.json`; where it is not there the
part is left out.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from thinwire.validation.emulation import report as emulate_report

RAW = Path(__file__).parents[1] / "raw"
PEERS_TWIN = Path(__file__).parents[1] / "reports" / "peers.json"

Cells = Sequence[str]
Table = Callable[[Cells, Iterable[Cells]], list[str]]
WAYS = {
    "left_out": "row left out of thinwire's fits",
    "shipped": "thinwire as shipped",
    "table_out": "whole table left out",
}
TOOLS = {"left_out": "thinwire, row left out", "aiconfigurator": "AIConfigurator", "genz": "GenZ"}


def campaign() -> Mapping[str, Any] | None:
    """The kept emulation campaign; None where there is none."""
    return emulate_report.kept(RAW)


def emulated(found: Mapping[str, Any] | None, table: Table) -> list[str]:
    """Figures of a campaign of `make emulate`."""
    if found is None:
        return []
    rows = (
        [figure.what + figure.note, str(figure.cells), f"{figure.value:.1%}", f"<= {figure.tolerance:.0%}",
         "missed" if figure.beyond else "met"]
        for figure in emulate_report.figures(found)
    )  # fmt: skip
    return [
        "## Emulated links",
        "",
        "Prefills that really ran, 2 to 8 gloo ranks in network namespaces on links of set rate and delay, each "
        "predicted before it ran from kernels and exchanges timed in the same campaign (`make emulate`, "
        "docs/decisions/013-emulation.md).",
        "",
        *table(("figure", "cells", "error", "limit", "verdict"), rows),
        "",
    ]


def others(twin: Path, table: Table) -> list[str]:
    """AIConfigurator and GenZ beside thinwire, from peers.json."""
    if not twin.exists():
        return []
    found = json.loads(twin.read_text("utf-8"))
    shares = [(f"TTFT, {what}", found["shares"]["ttft"][way]) for way, what in WAYS.items()]
    nearest = "each by AIConfigurator's setting that is nearest in hindsight"
    shares.append((f"TTFT, row left out, {nearest}", found["shares"]["ttft_nearest_setting"]["left_out"]))
    shares.append(("all-reduce, row left out", found["shares"]["all_reduce"]["left_out"]))
    limit = f"{found['limit']:.0%}: {'met' if _share(shares[0][1]) >= found['limit'] else 'missed'}"
    counted = [
        [what, f"{share['closer']} of {share['rows']} ({_share(share):.0%})", limit if first else ""]
        for first, (what, share) in zip([True] + [False] * len(shares), shares, strict=False)
    ]
    groups = (
        [
            "TTFT" if group["kind"] == "prefill" else "all-reduce", group["source"], group["machine"],
            *(_figures(group[tool], group["rows"]) for tool in TOOLS), f"{group['closer']} of {group['decided']}",
        ]
        for group in found["groups"]
        if group["counted"]
    )  # fmt: skip
    times = (
        [tool, what, f"{seconds * 1e3:.4g} ms"]
        for tool, facts in found["times"].items()
        for what, seconds in facts.items()
    )
    return [
        "## Other tools on the same rows",
        "",
        "AIConfigurator and GenZ at the calibration they ship with (`make peers`; versions, what was asked, every row "
        "and those where thinwire is not closer: [peers.md](peers.md)). Closer: nearer to the measurement than every "
        "peer that answers. Errors: median and worst of their size.",
        "",
        *table(("of", "thinwire closer than both", "limit"), counted),
        "",
        *table(("rows of", "source", "machine", *TOOLS.values(), "closer than both"), groups),
        "",
        *table(("tool", "what is timed", "time a prediction"), times),
        "",
    ]


def _share(found: Mapping[str, int]) -> float:
    return found["closer"] / found["rows"]


def _figures(found: Mapping[str, float] | None, rows: int) -> str:
    if found is None:
        return "no answer"
    fewer = f", {found['rows']} rows" if found["rows"] < rows else ""
    return f"{found['median']:.1%}, {found['worst']:.1%}{fewer}"
