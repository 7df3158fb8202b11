"""The head to head as a report: who is closer, by how much, where not. The counting is counting.py's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from thinwire.validation.peers.counting import (
    LIMIT,
    PEERS,
    THINWIRE,
    WAYS,
    Head,
    Share,
    grouped,
    nearest,
    replaced,
    sizes,
)
from thinwire.validation.targets.compare import quantity, table

NAMES = {THINWIRE: "thinwire", "aiconfigurator": "AIConfigurator", "genz": "GenZ"}
KINDS = ("prefill", "all_reduce")
TAKEN = {
    "aiconfigurator": """
        cli_estimate in mode static_ctx, database mode SILICON, no settings but the row's. Backend: vLLM's tables for
        TokenWeave, which is a patched vLLM, TensorRT-LLM's for the TensorRT-LLM rows, in the version it takes by
        default. fp8 weights: --gemm-quant-mode fp8. Llama 3.3 is its Meta-Llama-3.1-70B, same sizes; other models are
        read from their config.json, Mistral 7B declared a Llama, which it is up to 4,096 tokens. All-reduces removed:
        its sum without its all-reduce operators. All-reduces alone: its NCCL operator, or its CustomAllReduce where an
        engine ran.
    """,
    "genz": """
        prefill_moddeling, its own model and system, efficiency 1 as by default; bits=bf16 or, for fp8 weights, fp8,
        which it then takes for the wire as well. All-reduces removed: its latency less its collectives. All-reduces
        alone: its closed-form ring at the system's link rate.
    """,
}


def spread(heads: Sequence[Head], who: str) -> str:
    """Median and worst, with the rows where not all are predicted."""
    found = sizes(heads, who)
    if not found:
        return "none"
    rows = f", {len(found)} rows" if len(found) < len(heads) else ""
    return f"{median(found):.1%}, {max(found):.1%}{rows}"


def signed(error: float | None) -> str:
    """An error, for people."""
    return "" if error is None else f"{error:+.1%}"


def lost_to(head: Head) -> str:
    """The peers that are not farther off, nearest first."""
    ours = head.size("left_out")
    theirs = sorted((size, NAMES[p]) for p in PEERS if (size := head.size(p)) is not None and ours is not None)
    return " and ".join(name for size, name in theirs if ours is not None and size <= ours)


# --- the report ---


def markdown(heads: Sequence[Head], raw: Mapping[str, Any]) -> str:
    """peers.md."""
    prefills, reduces = ([h for h in heads if h.row.kind == kind and h.row.counted] for kind in KINDS)
    lines = [
        "# thinwire, AIConfigurator and GenZ on the same rows",
        "",
        "Written by `make peers`; `make peers ARGS=--report` writes it again from "
        "`validation/raw/peers.json`, without the peers. thinwire's predictions are today's, peers' answers and all "
        "times those of the raw file. An error is predicted over measured, less one; figures in pairs are median and "
        "worst of its size.",
        "",
        "A row counts as closer if thinwire, with the row left out of its fits (or no fit having used it), is nearer "
        "to the measurement than every peer that answers. A tie is not closer. *Shipped* is the profile as users get "
        "it, which has seen the rows that are not held out. With one row out thinwire still knows the rows beside it, "
        "which no peer does; *whole table left out* takes that away: ceiling and gap come from the other table of "
        "prefills alone, so it knows no prefill of that machine in that precision. As far as their packages show, "
        "peers were calibrated on none of these rows, unless it is said.",
        "",
        *_shares(prefills, reduces),
        "",
        "## What was asked",
        "",
        *(f"- {_asked(peer, raw)}" for peer in PEERS),
        "",
        "## Time to first token",
        "",
        *_groups(prefills, ("left_out", "shipped", "table_out")),
        "",
        "### By machine",
        "",
        "By how much: the size of the peer's error less thinwire's, row left out, in points of per cent, median.",
        "",
        *_machines(prefills),
        "",
        "### What the all-reduces add",
        "",
        "TokenWeave's rows as served less the same with all-reduces removed: errors of opposite sign in compute and "
        "communication cancel in a TTFT.",
        "",
        *_exchanged(prefills),
        "",
        "### Where thinwire is not closer",
        "",
        "thinwire's fp8 products are gemm.csv's, whose times probably hold the quantising of activations "
        "(docs/decisions/003-gemm-model.md). As served, what the all-reduces add says whose errors cancel.",
        "",
        *_rows([h for h in prefills if h.closer() is False], True),
        "",
        "### Every row",
        "",
        *_rows(prefills, False),
        "",
        "### Other settings of AIConfigurator",
        "",
        *_variants(prefills, raw),
        "",
        "## All-reduce",
        "",
        "The rows were measured by others than the peers. The smallest and largest size of a fitted series decide "
        "nothing, since thinwire cannot leave them out. TokenWeave's kernels are NCCL (`nccl`) and multimem "
        "(`engine-graph`). On single nodes with A100, H200 and B200 thinwire's fabric is fitted to AIConfigurator's "
        "measurements, so there both read the same table and who is closer says little.",
        "",
        *_groups(reduces, ("left_out", "shipped")),
        "",
        "### Where thinwire is not closer",
        "",
        *_by_peer(reduces),
        "",
        "## Not counted: AIConfigurator's own data",
        "",
        "thinwire's fabrics are fitted to these rows too; left out, it sees all of a series but the row, while "
        "AIConfigurator, in a later version, looks up tables of the same machines.",
        "",
        *_groups([h for h in heads if not h.row.counted], ("left_out", "shipped"), False),
        "",
        "## Without an answer",
        "",
        *_silent(heads),
        "- thinwire: Falcon 180B (3 rows of ttft_trtllm_batch1.csv), an architecture that it refuses; neither peer "
        "has a model of that name.",
        "",
        "## Time per prediction",
        "",
        *_times(raw),
    ]
    return "\n".join(lines) + "\n"


def _shares(prefills: Sequence[Head], reduces: Sequence[Head]) -> list[str]:
    real = [h for h in prefills if h.row.question["exchanges"]]
    rows = []
    for what, heads, ways in (
        ("TTFT rows, all", prefills, tuple(WAYS)),
        ("TTFT rows of whole prefills (no all-reduce removed)", real, tuple(WAYS)),
        ("all-reduce rows", reduces, ("left_out", "shipped")),
    ):
        for way in ways:
            both = Share.of(heads, way)
            apart = [str(Share.of(heads, way, (peer,))) for peer in PEERS]
            asked = heads is prefills and way == "left_out"  # by the issue
            limit = ("met" if both.met else "missed") if asked else ""
            rows.append([what, WAYS[way], str(both), *apart, limit])
    head = ("of", THINWIRE, "closer than both", *(f"than {NAMES[p]}" for p in PEERS), f"limit {LIMIT:.0%}")
    return table(head, rows)


def _asked(peer: str, raw: Mapping[str, Any]) -> str:
    facts = raw["tools"][peer]
    backends = ", ".join(f"{name}: {version}" for name, version in facts.get("backends", {}).items())
    versions = f" Versions of its tables: {backends}." if backends else ""
    return f"{NAMES[peer]} {facts['version']}: {' '.join(TAKEN[peer].split())}{versions}"


def _groups(heads: Sequence[Head], ways: Sequence[str], decided: bool = True) -> list[str]:
    header = ["source", "machine", "rows", "left out how", *(f"{THINWIRE}, {WAYS[way]}" for way in ways)]
    header += [NAMES[peer] for peer in PEERS]
    rows = []
    for (_, source, machine), some in grouped(heads).items():
        how = ", ".join(dict.fromkeys(h.row.how for h in some))
        cells = [source, machine, str(len(some)), how, *(spread(some, way) for way in ways)]
        cells += [spread(some, peer) for peer in PEERS]
        rows.append(cells + ([str(Share.of(some))] if decided else []))
    return table([*header, "closer than both"] if decided else header, rows)


def _machines(heads: Sequence[Head]) -> list[str]:
    found: dict[str, list[Head]] = {}
    for h in heads:
        found.setdefault(h.row.machine, []).append(h)
    rows = []
    for machine, some in found.items():
        cells = [machine, str(len(some)), *(spread(some, who) for who in ("left_out", *PEERS))]
        for peer in PEERS:
            points = [100 * lead for h in some if (lead := h.lead(peer)) is not None]
            cells += [f"{Share.of(some, than=(peer,))}, by {median(points):.1f}" if points else "none"]
        rows.append([*cells, str(Share.of(some))])
    header = ["machine", "rows", f"{THINWIRE}, {WAYS['left_out']}", *(NAMES[peer] for peer in PEERS)]
    return table([*header, *(f"closer than {NAMES[peer]}" for peer in PEERS), "closer than both"], rows)


def _exchanged(heads: Sequence[Head]) -> list[str]:
    """Served less all-reduces removed, by length."""
    pairs: dict[tuple[str, str], dict[bool, Head]] = {}
    for h in heads:
        pairs.setdefault((h.row.machine, h.row.label), {})[h.row.question["exchanges"]] = h
    rows = []
    for (machine, label), pair in pairs.items():
        if len(pair) == 2:
            served, removed = pair[True], pair[False]
            measured = served.row.measured - removed.row.measured
            cells = [machine, label, quantity(measured, "seconds")]
            for who in ("shipped", *PEERS):
                more, less = served.seconds(who), removed.seconds(who)
                cells.append("" if more is None or less is None else signed((more - less) / measured - 1))
            rows.append(cells)
    return table(("machine", "row", "measured", THINWIRE, *(NAMES[peer] for peer in PEERS)), rows)


def _rows(heads: Sequence[Head], why: bool) -> list[str]:
    if not heads:
        return ["None."]
    header = [
        "source",
        "machine",
        "row",
        "measured",
        THINWIRE,
        *(NAMES[p] for p in PEERS),
        "shipped",
        "whole table out",
    ]
    rows = []
    for h in heads:
        cells = [h.row.source, h.row.machine, h.row.label, quantity(h.row.measured, "seconds")]
        cells += [signed(h.error(who)) for who in ("left_out", *PEERS, "shipped", "table_out")]
        rows.append([*cells, lost_to(h)] if why else [*cells, {True: "yes", False: "no", None: ""}[h.closer()]])
    return table([*header, "closer is" if why else "closer than both"], rows)


def _by_peer(heads: Sequence[Head]) -> list[str]:
    """Rows of all-reduces where thinwire is not closer, counted by machine, library and size."""
    found: dict[tuple[str, str, str], list[Head]] = {}
    for h in heads:
        if h.closer() is not None:
            found.setdefault((h.row.source, h.row.machine, h.row.label.partition(",")[0]), []).append(h)
    rows = []
    for (source, machine, what), some in found.items():
        lost = [h for h in some if not h.closer()]
        if lost:
            where = "; ".join(f"{h.row.label.partition(', ')[2]} {_pair(h)}" for h in lost)
            rows.append([source, machine, what, f"{len(lost)} of {len(some)}", where])
    return table(("source", "machine", "what", "rows", "size: thinwire's error against the nearest peer's"), rows)


def _pair(head: Head) -> str:
    size, peer = min((size, p) for p in PEERS if (size := head.size(p)) is not None)
    ours = head.size("left_out")
    assert ours is not None
    return f"{ours:.1%} against {size:.1%} ({NAMES[peer]})"


def _variants(heads: Sequence[Head], raw: Mapping[str, Any]) -> list[str]:
    rows = []
    for what, answers in raw["variants"].items():
        before = [h for h in heads if h.row.id in answers]
        after = replaced(heads, answers)
        rows.append([what, *_beside(before, after)])
    best = nearest(heads, raw["variants"])
    rows.append(["all rows, each by the setting that is nearest in hindsight", *_beside(heads, best)])
    header = ("setting", "rows", "AIConfigurator above", "with this setting", "closer above", "closer with it")
    return table(header, rows)


def _beside(before: Sequence[Head], after: Sequence[Head]) -> list[str]:
    figures = [spread(heads, "aiconfigurator") for heads in (before, after)]
    return [str(len(after)), *figures, str(Share.of(before)), str(Share.of(after))]


def _silent(heads: Iterable[Head]) -> list[str]:
    found: dict[tuple[str, str], list[Head]] = {}
    for head in heads:
        for peer in PEERS:
            why = head.answers[peer]
            if isinstance(why, str):
                found.setdefault((NAMES[peer], why), []).append(head)
    return [
        f"- {peer}: {why} ({len(some)} rows: {', '.join(dict.fromkeys(h.row.machine for h in some))})."
        for (peer, why), some in found.items()
    ]


def _times(raw: Mapping[str, Any]) -> list[str]:
    machine = raw["machine"]
    rows = []
    for name in (THINWIRE, *PEERS):
        facts = raw["tools"][name]
        for i, (what, seconds) in enumerate(facts["warm_s"].items()):
            once = [_s(facts["start_s"]), _s(facts["first_s"])] if i == 0 else ["", ""]
            rows.append([f"{NAMES[name]} {facts['version']}" if i == 0 else "", *once, what, _s(seconds)])
    note = (
        f"On {machine['processor']}, {machine['cores']} cores, shared with other work; one process a tool, one thread "
        "of BLAS. Start-up: from starting Python until the package is imported, everything in the "
        "disk's cache. First: the first prefill. Warm: median of a prefill over all TTFT rows, five rounds, every row "
        "asked before. AIConfigurator's plain call looks for the newest version of its tables each time; beside it, "
        "the call with the version named, and its engine alone, compiled for model and machine beforehand."
    )
    return [note, "", *table(("tool", "start-up", "first", "what is timed", "warm"), rows)]


def _s(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
