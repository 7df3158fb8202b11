"""Schemes side by side: who is usable, soonest first; below a line who is not, and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from thinwire.commands.tables.console import console, say
from thinwire.commands.tables.fitting import Column, Fitted
from thinwire.commands.tables.published import published
from thinwire.commands.tables.resting import another_host, rests_on
from thinwire.commands.tables.words import asked, bits, exchanges_of, parts_of
from thinwire.edge.quantities import column_powers, in_unit, percent_text, ratio_text, time_column, time_text
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.mixed import DROP, SITES, MixedScheme, Site, plan_of
from thinwire.sim.api import Comparison
from thinwire.sim.choices import Shown
from thinwire.sim.costs.spread import CONFIDENCE
from thinwire.sim.grounds import together
from thinwire.sim.quality.figures import Figure
from thinwire.sim.report import Prediction
from thinwire.sim.verdict import Limit, Standing, best, lossless, obstacle, standing, verdict

if TYPE_CHECKING:
    from thinwire.sim.quality.auto import Chosen

BELOW: tuple[Standing, ...] = ("beyond", "unknown", "cannot", "floor")
UNKNOWN = "?"


def comparison(
    c: Comparison, limit: Limit, shown: Shown | None = None, fold: bool = False, verbose: bool = False
) -> None:
    """The verdict, the table, and what it is of. fold: one line for schemes that are alike in every figure."""
    say(verdict(c, limit), "bold")
    say(asked(c.baseline))
    if c.baseline.scheme.name != "bf16":
        base = c.baseline
        took = time_text(base.ttft_s, base.interval.low_s, base.interval.high_s)
        say(f"speed-up is over {base.scheme.name}, whose TTFT is {took}")
    alike = _alike(c, limit) if fold else {}
    hidden = {name for names in alike.values() for name in names}
    rows = [row for row in c.rows if row.scheme.name not in hidden]
    standings = {row.scheme.name: standing(c, row, limit) for row in rows}
    winner = best(c, limit)
    name, cells = _cells(c, rows)
    table = Fitted(_columns(name))
    for row in rows:
        if standings[row.scheme.name] == "usable":
            won = row is winner
            table.add(*_marked(cells[row.scheme.name], won), style="bold green" if won else "")
    for kind in BELOW:
        some = [row for row in rows if standings[row.scheme.name] == kind]
        if some:
            table.line(_why(kind, some, limit, c.compress == "prompt"))
        for row in some:
            table.add(*_marked(cells[row.scheme.name], False), style="dim")
    table.show()
    _notes(c, rows, limit, winner is not None)
    if alike:
        same = "; ".join(f"{first} = {', '.join(others)}" for first, others in alike.items())
        say(f"the same in every figure: {same}")
    another_host((winner or c.baseline).interval)
    published([(row.scheme.name, c.published(row)) for row in c.rows], shown, c.baseline.model.name)
    rests_on(together([c.baseline, *c.rows], [winner or c.baseline]), verbose)


def _columns(unit: str) -> list[Column]:
    return [
        Column("  scheme", left=True, hang=2),
        Column(f"TTFT {unit}"),
        Column(f"{CONFIDENCE:.0%} interval", 2),
        Column("speed-up", 1),
        Column("perplexity x"),
        Column("look-ups"),
        Column("MB sent", 3),
        Column("exposed", 5),
        Column("compute", 6),
        Column("wire", 7),
        Column("codec", 8),
        Column("waiting", 4),
        Column("bits", 9),
        Column("perplexity from..to", 10),
    ]


def _cells(c: Comparison, rows: Sequence[Prediction]) -> tuple[str, dict[str, list[str]]]:
    """The unit of times, and what stands in the columns by scheme."""
    spans = [(r.ttft_s, r.interval.low_s, r.interval.high_s) for r in rows]
    unit, unit_s, times = time_column(spans)
    found = {}
    for row, (value, ends), power in zip(rows, times, column_powers(spans), strict=True):
        b, known = row.breakdown, c.accuracy(row)
        parts = (*parts_of(b, row.ttft_s, power), *exchanges_of(b, power))
        compute, exposed, waiting, wire, codec = (in_unit(seconds, unit_s, power) for seconds in parts)
        interval = None if known is None else known.perplexity_ratio_interval
        found[row.scheme.name] = [
            row.scheme.name, value, ends, f"{c.speedup(row):.2f}", _perplexity(row, known), _lookups(c, row),
            f"{row.traffic.layer_bytes_per_gpu / 1e6:.0f}", exposed, compute, wire, codec,
            waiting if b.waiting_s else "", bits(row),
            "" if interval is None else f"{interval[0]:.3f}..{interval[1]:.3f}",
        ]  # fmt: skip
    return unit, found


def _marked(cells: Sequence[str], won: bool) -> list[str]:
    return [f"{'*' if won else ' '} {cells[0]}", *cells[1:]]


def _perplexity(row: Prediction, known: Figure | None) -> str:
    if known is None:
        return "1" if row.tp == 1 or lossless(row.acting) else UNKNOWN
    ratio = known.perplexity_ratio
    return "not finite" if ratio is None else f"{ratio:.{3 if ratio < 10 else 0}f}"


def _lookups(c: Comparison, row: Prediction) -> str:
    """Points lost of 100 that are asked; nothing where they are not asked of anybody."""
    if c.compress != "prompt":
        return ""
    if row.tp == 1 or lossless(row.acting):
        return "0"
    lost = c.lookup(row)
    return UNKNOWN if lost is None else f"{min(0, round(100 * lost.lost))}"


def _why(kind: Standing, rows: Sequence[Prediction], limit: Limit, asks: bool) -> str:
    """Why some stand below a line. asks: whether look-ups count."""
    match kind:
        case "beyond":
            return limit.beyond if asks else limit.beyond.partition(" or ")[0]
        case "unknown":
            return "what they cost was not measured, or not whole (?)"
        case "cannot":
            said = dict.fromkeys(found for row in rows if (found := obstacle(row)) is not None)
            return f"cannot run here: {'; '.join(said)}"
        case _:
            return "the floor: all-reduces left out, which cannot be had"


def _alike(c: Comparison, limit: Limit) -> dict[str, list[str]]:
    """By the scheme that is shown: those that do not differ from it in any figure."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for row in c.rows:
        known = c.accuracy(row)
        ends = (row.ttft_s, row.interval.low_s, row.interval.high_s)
        key = (
            *(float(f"{seconds:.9e}") for seconds in ends),
            row.traffic.layer_bytes_per_gpu, bits(row), standing(c, row, limit), float(f"{row.breakdown.codec_s:.9e}"),
            known and known.perplexity_ratio, _lookups(c, row),
        )  # fmt: skip
        groups.setdefault(key, []).append(row.scheme.name)
    found = {}
    for names in groups.values():
        first = c.baseline.scheme.name if c.baseline.scheme.name in names else names[0]
        if len(names) > 1:
            found[first] = [name for name in names if name != first]
    return found


def _notes(c: Comparison, rows: Sequence[Prediction], limit: Limit, marked: bool) -> None:
    """What the marks and the columns of accuracy are."""
    star = "* best buy; " if marked else ""
    words, asked = limit.words, f", --max-lookups-lost {limit.lookups:g}"
    if c.compress == "all":  # look-ups were asked behind compressed prompts alone
        words, asked = words.partition(" and ")[0], ""
    say(f"{star}usable: {words} (--max-perplexity {limit.perplexity:g}{asked})")
    for sentence in (*_measured_on(c, rows), *_asked_of(c, rows)):
        say(sentence)


def _measured_on(c: Comparison, rows: Sequence[Prediction]) -> list[str]:
    """Whose the columns of accuracy are: one sentence a model and TP degree; and what it is of nobody."""
    known = [found for row in rows if (found := c.accuracy(row)) is not None]
    by_source: dict[tuple[str, int], list[Figure]] = {}
    for found in known:
        by_source.setdefault((found.title, found.tp), []).append(found)
    sentences = []
    for (title, tp), figures in sorted(by_source.items()):
        near = "" if tp == c.baseline.tp else f", the nearest to TP {c.baseline.tp} measured"
        near += "" if tp == c.baseline.tp or len(figures) == len(known) else f" (of {len(figures)} schemes)"
        other = "" if figures[0].model == c.baseline.model.name else f", not on {c.baseline.model.name}"
        how = {
            "prompt": "of exact answers behind compressed prompts",
            "all": "with every position compressed, decode's too",
        }[c.compress]
        sentences.append(
            f"perplexity x: over the uncompressed model's, {how}, measured on {title}{other}, at TP {tp}{near}"
        )
    unknown = [row.scheme.name for row in rows if row.compresses_experts and c.accuracy(row) is None]
    if unknown:
        sentences.append(f"what codecs of experts' tokens cost in accuracy was not measured: {', '.join(unknown)}")
    return sentences


def _asked_of(c: Comparison, rows: Sequence[Prediction]) -> list[str]:
    """What the look-ups are, which perplexity does not see."""
    known = {
        row.scheme.name: found for row in rows if not lossless(row.acting) and (found := c.lookup(row)) is not None
    }
    if not known:
        return []
    one = max(known.values(), key=lambda found: found.trials)
    fewer = [f"{name} {found.trials}" for name, found in known.items() if found.trials != one.trials]
    trials = f"{one.trials} trials{'; of ' if fewer else ''}{', '.join(fewer)}"
    return [
        f"look-ups: of 100 questions that look up one of many numbers in a prompt of {one.prompt_tokens} tokens, how "
        f"many fewer are right; uncompressed {100 * one.exact:.0f} are, on {one.model} at TP {one.tp} ({trials}); "
        "perplexity does not see them (docs/accuracy.md)"
    ]


def chosen(found: "Chosen", rows: Comparison, verbose: bool = False) -> None:
    """What was chosen, site by site, and what it is worth next to the best single scheme."""
    mixed = next(row for row in rows.rows if row.scheme is found.scheme)
    took = time_text(mixed.ttft_s, mixed.interval.low_s, mixed.interval.high_s)
    base = rows.baseline
    before = time_text(base.ttft_s, base.interval.low_s, base.interval.high_s).partition(" (")[0]
    say(
        f"Chosen: first token in {took}, {ratio_text(rows.speedup(mixed), least=-2)}x sooner than with "
        f"{base.scheme.name} ({before}), for {percent_text(found.perplexity_ratio - 1)} of perplexity, as expected.",
        "bold",
    )
    say(asked(rows.baseline))
    name, cells = _cells(rows, rows.rows)
    cells[mixed.scheme.name][4] = f"{found.perplexity_ratio:.3f}"  # as expected: nobody measured the mixture
    table = Fitted(_columns(name))
    for row in rows.rows:
        table.add(*_marked(cells[row.scheme.name], row is mixed))
    table.show()
    say(
        f"expected perplexity x {found.perplexity_ratio:.4f} of x {1 + found.budget:g} allowed; the best single scheme "
        f"within the same budget is {found.uniform}"
    )
    counts = Counter((DROP if entry is None else entry.name, site) for site, entry in _sites(found.scheme))
    names = sorted({name for name, _ in counts}, key=lambda name: (-sum(counts[name, site] for site in SITES), name))
    sites = Fitted([Column("sync points", left=True), *(Column(site) for site in SITES)])
    for each in names:
        sites.add(each, *(str(counts[each, site] or "") for site in SITES))
    console.print()
    sites.show()
    say(found.scheme.source)
    another_host(mixed.interval)
    rests_on(together([rows.baseline, *rows.rows], [mixed]), verbose)


def _sites(scheme: MixedScheme) -> list[tuple[Site, Scheme | None]]:
    plan: Mapping[tuple[int, Site], Scheme | None] = plan_of(scheme, scheme.layers)
    return [(site, entry) for (_, site), entry in plan.items()]
