"""`make validate`: predictions beside published measurements, for every target of the issue.

    python -m thinwire.validation.targets.compare           # print, and write reports/validation.md and .json
    python -m thinwire.validation.targets.compare --full    # leave out every row and every shape (15 minutes)
    python -m thinwire.validation.targets.compare --check   # write nothing; exit 1 if a target that was met is missed
    python -m thinwire.validation.targets.compare --only links --only sglang    # some sections, printed only

The same tables and profiles give the same bytes. Nothing is tuned to a row; what is missed is printed as missed.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Before numpy is imported. A BLAS thread per core makes the fits four times slower on a shared machine, and another
# order of adding up could change the report's last digits.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from rich.console import Console
from rich.table import Table

from thinwire.validation.targets import (
    baselines,
    codecs,
    decode,
    fabric,
    hosts,
    kernels,
    left_out,
    logs,
    mixtures,
    packets,
    relatives,
    report_parts,
)
from thinwire.validation.targets.targets import (
    Coverage,
    Entry,
    Point,
    Section,
    Summary,
    broken_down,
    pooled,
    worst,
)

REPORTS = Path(__file__).parents[1] / "reports"
PICTURES = {
    "predicted-against-measured.svg": "Left-out rows of TTFT and collectives; grey: within a fifth",
    "error-by-size.svg": "Size of the error by regime, rows left out",
    "emulated-links.svg": "Prefills on emulated links, predicted before they ran",
}
SECTIONS: Mapping[str, Callable[[bool], Section]] = {
    "gemm": kernels.gemm,
    "attention": kernels.attention,
    "decode_attention": decode.decode_attention,
    "prefill": lambda _full: kernels.tokenweave(),
    "trtllm": lambda _full: kernels.trtllm(),
    "tpot": lambda _full: decode.tpot(),
    "all_reduce": lambda _full: fabric.all_reduce(),
    "baselines": lambda _full: baselines.baselines(),
    "links": lambda _full: hosts.link_rates(),
    "sglang": lambda _full: hosts.sglang(),
    "quickreduce": lambda _full: hosts.quickreduce(),
    "packets": lambda _full: packets.packets(),
    "codec": lambda _full: codecs.codec_kernels(),
    "misc": lambda _full: fabric.misc(),
    "relatives": lambda _full: relatives.left_one_gpu_out(),
    "logs": lambda _full: logs.logs(),
    "hosts": lambda _full: left_out.hosts_left_out(),
    "mixtures": lambda _full: mixtures.mixtures(),
}
INTERVALS = (
    "How many measured figures the 90 % interval of their prediction holds, and how wide it is: (high - low) over "
    "predicted. The spreads behind an interval never saw its row: products and attention of other shapes than those "
    "counted here, collectives without the row's whole series, prefills and codec kernels without the row, and where "
    "rows are held out the shipped spreads."
)
FIGURES = ("rows", "median", "90th", "worst", "bias")
WORST = 10
BREAKDOWN = "breakdown by the shipped profile"

Cells = Sequence[str]


# --- words ---


def figures(summary: Summary) -> list[str]:
    """A summary's cells."""
    s = summary
    return [f"{s.rows:,}", f"{s.median:.1%}", f"{s.percentile_90:.1%}", f"{s.worst:.1%}", f"{s.bias:+.1%}"]


def verdict(entries: Sequence[Entry]) -> str:
    """Of claims that the issue asks for: met, or missed and which."""
    missed = [entry for entry in entries if not entry.holds]
    if missed:
        return f"missed by {len(missed)} of {len(entries)}: {'; '.join(map(miss, missed))}"
    return "met" if len(entries) == 1 else f"met by all {len(entries)}"


def miss(entry: Entry) -> str:
    """A claim that is missed, with the figures."""
    s, limits = entry.summary, entry.limits
    found = [
        f"{name} {value:.2%}"
        for name, value, limit in (
            ("median", s.median, limits.median),
            ("90th percentile", s.percentile_90, limits.percentile_90),
            ("worst", s.worst, limits.worst),
        )
        if limit is not None and value > limit
    ]
    if entry.signs_right is not None and limits.signs_right is not None and entry.signs_right < limits.signs_right:
        found.append(f"signs right {entry.signs_right:.1%}")
    if limits.inside is not None and entry.coverage is not None and entry.coverage.inside < limits.inside:
        found.append(f"inside {entry.coverage.inside:.1%}")
    return f"{entry.what} {', '.join(found)}"


def limited(entry: Entry) -> str:
    """What the claim is held to, and where signs or intervals count, how many are right."""
    said = str(entry.limits)
    share = entry.signs_right
    if entry.limits.inside is not None and entry.coverage is not None:
        share = entry.coverage.inside
    return said if share is None else f"{said}: {share:.1%}"


def quantity(value: float, unit: str) -> str:
    """Seconds or bytes/s for people."""
    if unit == "bytes/s":
        return f"{value / 1e9:.2f} GB/s"
    return f"{value * 1e3:,.2f} ms" if value >= 1e-3 else f"{value * 1e6:,.1f} us"


# --- the report ---


def markdown(sections: Sequence[Section], full: bool) -> str:
    """validation.md."""
    lines = [
        "# thinwire against published measurements",
        "",
        f"Written by `make validate{' ARGS=--full' if full else ''}` from "
        "`validation/published/` and `sim/profiles/`. Errors are predicted over measured, less one: median, 90th "
        "percentile and worst of their size; bias is the signed median.",
        "",
        "- in-sample: the shipped profiles, fitted to these rows among others.",
        "- ... out: fitted again without the row, or without all rows alike, and then held against it.",
        "- held out: no fit ever used the row.",
        "- within, outside: a limit of the issue where the issue does not ask for it.",
        "",
        "## Targets",
        "",
    ]
    lines += table(("target", "predicted", *FIGURES, "limit", "verdict"), overviews(sections))
    lines += ["", "## Pictures", "", *(line for name in PICTURES for line in (f"![{PICTURES[name]}]({name})", ""))]
    lines += report_parts.emulated(report_parts.campaign(), table)
    lines += report_parts.others(report_parts.PEERS_TWIN, table)
    covered = coverages(sections)
    if covered:
        lines += ["## Intervals", "", INTERVALS, ""]
        lines += table(("rows of", "predicted", "size", "rows", "inside", "mean width"), covered)
    for section in sections:
        lines += ["", f"## {section.title}", ""]
        if section.asked:
            lines += [f"Asked for: {section.asked}.", ""]
        lines += [line for said in section.paragraphs() for line in (said, "")]
        lines += table(("claim", "predicted", *FIGURES, "limit", "verdict"), map(claim, section.entries))
        for title, part in (("By machine", _group), ("By size", _regime)):
            found = broken_down(section.entries, part)
            if len(found) > len(section.entries):
                lines += ["", f"### {title}", ""]
                rows = ([what, how, name, *figures(summary)] for what, how, name, summary in found)
                lines += table(("claim", "predicted", title.lower().removeprefix("by "), *FIGURES), rows)
        for title, entries in (("Worst rows", section.asked_for), ("Worst rows not asked for", section.beside)):
            if entries:
                lines += ["", f"### {title}", ""]
                lines += table(("row", "predicted", "measured", "thinwire", "error", BREAKDOWN), bad(entries, section))
        if section.left_out:
            lines += ["", "### Rows left out", "", *(f"- {said}" for said in section.left_out)]
    return "\n".join(lines) + "\n"


def _group(point: Point) -> str:
    return point.group


def _regime(point: Point) -> str:
    return point.regime


def overviews(sections: Sequence[Section]) -> list[Cells]:
    """Rows of the table of targets: what is asked for, pooled by how it is predicted."""
    rows: list[Cells] = []
    for section in sections:
        for how, entries in pooled(section.asked_for):
            what = section.title if len(entries) > 1 else f"{section.title}: {entries[0].what}"
            points = [point for entry in entries for point in entry.points]
            rows.append([what, how, *figures(Summary.of(points)), str(entries[0].limits), verdict(entries)])
    return rows


def coverages(sections: Sequence[Section]) -> list[Cells]:
    """Rows of the table of intervals: for each section and way of leaving out all rows, then by size."""
    rows: list[Cells] = []
    for section in sections:
        found: dict[tuple[str, str], list[Point]] = {}
        alike = {entry.gated for entry in section.entries}
        for entry in section.entries:
            beside = len(alike) > 1 and not entry.gated
            what = f"{section.title}: {entry.what}" if beside else section.title
            found.setdefault((what, entry.how), []).extend(p for p in entry.points if p.interval is not None)
        for (what, how), points in found.items():
            by_size: dict[str, list[Point]] = {}
            for point in points:
                by_size.setdefault(point.regime, []).append(point)
            parts = {"all": points}
            if 1 < len(by_size) < len(points) - 1:
                parts |= {name: some for name, some in by_size.items() if name != "all"}
            for name, some in parts.items():
                covered = Coverage.of(some)
                if covered:
                    rows.append([what, how, name, f"{covered.rows:,}", f"{covered.inside:.1%}", f"{covered.width:.1%}"])
    return rows


def claim(entry: Entry) -> Cells:
    """A row of a section's table of claims."""
    return [entry.what, entry.how, *figures(entry.summary), limited(entry), entry.verdict]


def bad(entries: Iterable[Entry], section: Section) -> Iterable[Cells]:
    """The worst rows of some claims, with where the prediction comes from."""
    for entry, point in worst(entries, WORST):
        seen, told = quantity(point.measured, section.unit), quantity(point.predicted, section.unit)
        yield [point.label, entry.how, seen, told, f"{point.error:+.1%}", point.detail]


def table(header: Cells, rows: Iterable[Cells]) -> list[str]:
    """A Markdown table; figures to the right."""
    figure = {*FIGURES, "measured", "thinwire", "error", "inside", "mean width"}
    marks = ["---:" if name in figure else "---" for name in header]
    return [_row(header), _row(marks), *map(_row, rows)]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def document(sections: Sequence[Section], full: bool) -> dict[str, Any]:
    """validation.json: the claims of the report for programs."""
    return {"full": full, "entries": [{"section": s.key, **entry.to_dict()} for s in sections for entry in s.entries]}


def show(sections: Sequence[Section], console: Console) -> None:
    """Print the targets, then each section's claims."""
    shown = Table("rows of", "predicted", "size", title="90 % intervals")
    for name in ("rows", "inside", "mean width"):
        shown.add_column(name, justify="right")
    covered = coverages(sections)
    for row in covered:
        shown.add_row(*row)
    if covered:
        console.print(shown)
    tables = [("thinwire against published measurements", "target", overviews(sections))]
    tables += [(section.title, "claim", [claim(entry) for entry in section.entries]) for section in sections]
    for title, first, rows in tables:
        shown = Table(first, "predicted", title=title)
        for name in FIGURES:
            shown.add_column(name, justify="right")
        shown.add_column("limit")
        shown.add_column("verdict")
        for *cells, word in rows:
            shown.add_row(*cells, coloured(word))
        console.print(shown)


def coloured(word: str) -> str:
    """For the terminal."""
    colour = "green" if word.startswith("met") else "red" if word.startswith("missed") else "dim"
    return f"[{colour}]{word}[/]"


# --- the check ---


def lost(document_now: Mapping[str, Any], document_then: Mapping[str, Any]) -> list[str]:
    """Claims that were met then and are not now, with the figures. Claims not made in this run are passed over."""
    now = {entry["key"]: entry for entry in document_now["entries"]}
    found = []
    for entry in document_then["entries"]:
        key = entry["key"]
        if entry["verdict"] == "met" and key in now and now[key]["verdict"] != "met":
            names = [name for name in ("median", "percentile_90", "worst", "signs_right") if name in entry["limits"]]
            then, here = ({name: of[name] for name in names} for of in (entry, now[key]))
            if "inside" in entry["limits"]:
                then["inside"], here["inside"] = (of["interval"]["inside"] for of in (entry, now[key]))
            limits = entry["limits"]
            found.append(
                f"{key}: the report says met with {then}, now {now[key]['verdict']} with {here}, limits {limits}"
            )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 if `--check` finds a target lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="leave out every row and every shape, one after another")
    parser.add_argument("--check", action="store_true", help="compare with the report instead of writing it")
    parser.add_argument("--only", action="append", choices=tuple(SECTIONS), help="this section only; may be repeated")
    parser.add_argument("--reports", type=Path, default=REPORTS, help="folder of the report")
    options = parser.parse_args(arguments)
    chosen = [key for key in SECTIONS if not options.only or key in options.only]
    sections = [SECTIONS[key](options.full) for key in chosen]
    console = Console(width=None if sys.stdout.isatty() else 160)  # piped output has no width of its own
    show(sections, console)
    found = document(sections, options.full)
    twin = options.reports / "validation.json"
    if options.check:
        if not twin.exists():
            parser.error(f"no report to check against: {twin}; run without --check first")
        then = json.loads(twin.read_text("utf-8"))
        complaints = lost(found, then)
        if not options.only and options.full == then["full"]:
            gone = {entry["key"] for entry in then["entries"]} - {entry["key"] for entry in found["entries"]}
            complaints += [f"{key}: in the report, and no longer made" for key in sorted(gone)]
        for said in complaints:
            console.print(f"[red]{said}[/]")
        console.print("no target was lost" if not complaints else f"{len(complaints)} targets lost")
        return int(bool(complaints))
    if not options.only:
        options.reports.mkdir(exist_ok=True)
        (options.reports / "validation.md").write_text(markdown(sections, options.full), "utf-8")
        twin.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        console.print(f"written: {options.reports / 'validation.md'} and its twin {twin.name}")
        try:
            from thinwire.validation.targets import plots
        except ImportError as error:
            console.print(f"no pictures: {error}; pip install 'thinwire[plots]' draws them")
        else:
            drawn = plots.draw(sections, report_parts.campaign(), options.reports)
            console.print(f"drawn: {', '.join(path.name for path in drawn)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
