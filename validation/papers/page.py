"""`make papers`: docs/papers.md, what papers say beside what thinwire says.

    python -m thinwire.validation.papers.page           # write the page (a minute)
    python -m thinwire.validation.papers.page --check   # exit 1 if it is not what would be written

The same facts and profiles give the same bytes.
"""

import argparse
import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from textwrap import fill

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: another order of adding up could change a digit

from thinwire.edge.writing import write_text
from thinwire.validation.fits.published_tables import select
from thinwire.validation.papers import served
from thinwire.validation.papers.headlines import OF_BITS, shipped
from thinwire.validation.papers.verdicts import Verdict, judge, unit

PAGE = Path(__file__).resolve().parents[2] / "docs" / "papers.md"
WIDTH = 118
EVIDENCE = {
    "abstract": "the authors' abstract",
    "caption": "the authors' caption",
    "code": "the authors' code",
    "thread": "their own thread or page, not checked by others",
    "table": "a published table",
    "secondary": "an account by others",
    "derived": "arithmetic",
}
HEAD = """\
# What the papers say, and what we say

Each headline of a paper or project beside thinwire's prediction for that set-up, as far as the set-up is stated. `make
papers` writes this page from [headlines.toml](../validation/published/headlines.toml) and two more files of facts;
[tests/validation/papers](../tests/validation/papers) holds it to them. Commands, given from the repository's root,
print both times of a claim; the interval of their ratio is made here.

- *Ours* is the best of the schemes that stand for the system, with the 90 % interval of the ratio: what both runs share
  errs in both at once ([ratios.py](../validation/papers/ratios.py)). That the host is another is no part of it.
- *Agrees* means that the claim lies in the interval. A claim of "up to" is a best case: ours below it proves little.
  One of "slower" agrees where all of the interval is below 1; an interval that holds 1 leaves it *undecided*.
- *What would make it true* turns one parameter at a time until our figure is the claim: the rate of all links, the time
  of codec kernels, the time of all kernels (which moves the wire's share). Factors within 1/64 .. 64, the nearest to 1.
"""
RUN = (
    "model", "GPU", "TP", "wire", "gate", "first token, theirs", "ours", "sign", "between tokens, theirs", "ours",
    "sign", "command",
)  # fmt: skip
WHY_INT8 = (
    " In the kernel table that the MI300X is fitted to, INT8 on eight GPUs beats RCCL at 8 MiB ({}) and loses at 64 "
    "MiB ({}); the fit has it level at 8 MiB and slower above, so it changes nothing here."
)
KERNELS = "quickreduce_mi300x"
NO_LOSS = (
    " No loss can be predicted: all set-ups have `gate = true`, under which our run compresses a message only where "
    "that takes less time, and so is never slower than uncompressed. A row that lost counts as right where ours gains "
    "nothing."
)
SERVED = """\
## Served: is a compressed all-reduce a gain?

{lead}

Rows: [served_compressed_2026.csv](../validation/published/served_compressed_2026.csv), the scheme's vendor's own, means
of TTFT and of the time between tokens on MI300X and MI355X. Ours: `thinwire serve` with and without the scheme, under
the load as far as it is stated. *Above the gate*: QuickReduce takes the messages of a prompt's pass (its least sizes:
[served_setups.toml](../validation/published/served_setups.toml)). Ours below 0.1 % counts as no gain.

What was assumed:
"""


def page() -> str:
    """The whole page."""
    verdicts = [judge(headline) for headline in shipped().headlines]
    judged = [served.judge(row) for row in served.pairs()]
    return papers_part(verdicts) + "\n" + served_part(judged) + "\n" + left_out_part()


def papers_part(verdicts: Sequence[Verdict]) -> str:
    """The table of verdicts, then a section a claim."""
    lines = [HEAD, "## Verdicts", "", tally(verdicts), ""]
    lines += table(
        ("system", "claim", "ours", "90 % interval", "verdict"),
        (
            [v.headline.system, v.headline.claim, unit(v.headline, v.answer.ours.value), span(v), v.relation]
            for v in verdicts
        ),
    )
    for verdict in verdicts:
        lines += ["", *section(verdict)]
    return "\n".join(lines) + "\n"


def tally(verdicts: Sequence[Verdict]) -> str:
    """How many agree."""
    count = {word: sum(v.relation == word for v in verdicts) for word in ("agrees", "we say less", "we say more")}
    undecided = sum(v.relation == "undecided" for v in verdicts)
    return (
        f"Of {len(verdicts)} claims {count['agrees']} agree; we say less of {count['we say less']} and more of "
        f"{count['we say more']}{f'; {undecided} are undecided' if undecided else ''}."
    )


def span(verdict: Verdict) -> str:
    """The interval; arithmetic has none."""
    if verdict.headline.kind in OF_BITS:
        return "exact"
    ours = verdict.answer.ours
    return f"{unit(verdict.headline, ours.low)} .. {unit(verdict.headline, ours.high)}"


def section(verdict: Verdict) -> list[str]:
    """One claim."""
    h, a = verdict.headline, verdict.answer
    ours = f"Ours: {unit(h, a.ours.value)} ({span(verdict)})"
    if h.kind == "share":
        ours += f"; {ms(a.base_s)} with all-reduces, {ms(a.other_s)} without"
    elif a.base_s:
        ours += f"; {ms(a.base_s)} with {h.baseline}, {ms(a.other_s)} with {a.scheme}"
    else:
        ours += f", {a.scheme}"
    if h.kind != "share" and a.share is not None:
        ours += f"; {100 * a.share:.0f} % of the baseline waits for the wire"
    if a.bus_gb_per_s is not None:
        ours += f"; its bus {a.bus_gb_per_s:.3g} GB/s"
    lines = [
        f"### {h.system}: {h.claim}",
        "",
        *item(f"Source: {h.source}; {EVIDENCE[h.evidence]}."),
        *item(f"Stated: {h.stated}. Assumed: {h.assumed}."),
        *item(f"{ours}."),
    ]
    if verdict.levers:
        lines += item(f"What would make it true: {'; '.join(lever.text for lever in verdict.levers)}.")
    return [*lines, "", *fill(f"**{verdict.sentence}**", WIDTH).split("\n"), "", *block(a.commands)]


def served_part(judged: Sequence[served.Judged]) -> str:
    """Signs of served rows."""
    scores = served.scores(judged)
    lines = [SERVED.format(lead=fill(lead(judged, scores[0]), WIDTH))]
    for setup in served.shipped().setup:
        lines += item(f"{setup.model} on {setup.gpu}: {setup.assumed}.")
    lines += ["", *table(("rows", "count", "right", "share", "gained"), map(score_cells, scores)), ""]
    lines += ["Ratios are compressed over plain. The plain run is the row's command with `--scheme bf16`.", ""]
    lines += table(RUN, runs(judged))
    return "\n".join(lines) + "\n"


def lead(judged: Sequence[served.Judged], whole: served.Score) -> str:
    """What the signs come to."""
    above = [j for j in judged if j.row.above_gate]
    wrong = Counter(f"{j.row.wire} at TP {j.row.tp}" for j in above if not j.right)
    met = "as asked for" if whole.share >= served.WANTED else f"short of the {served.WANTED:.0%} asked for"
    gated = all(setup.options.get("gate") is True for setup in served.shipped().setup)
    no_loss, why = NO_LOSS if gated else "", why_int8() if "INT8 at TP 8" in wrong else ""
    missed = ", ".join(f"{what} ({count})" for what, count in wrong.items()) or "none"
    return (
        f"{whole.right} of {whole.rows} signs above the gate are right ({whole.share:.0%}), {met}. It is an easy test: "
        f'"always a gain" gets {whole.gains}.{no_loss} Wrong: {missed}. The ratios themselves are off '
        f"by {median(abs(j.off) for j in above):.3f} in the median, by {max(abs(j.off) for j in above):.2f} at worst, "
        f"where a queue grows.{why}"
    )


def why_int8() -> str:
    """What the kernel table says of INT8 on eight GPUs."""
    return WHY_INT8.format(*("{:.0f} against {:.0f} us".format(*int8_us(mib)) for mib in (8, 64)))


def int8_us(mib: int) -> tuple[float, float]:
    """Published microseconds of an all-reduce over eight MI300X: QuickReduce's INT8, RCCL's."""

    def us(library: str, wire: str) -> float:
        found = select(KERNELS, num_gpus=8, implementation=library, wire_format=wire, message_bytes=mib * served.MIB)
        ((_, row),) = found
        return float(row["latency_us"])

    return us("QuickReduce two-shot", "int8 block32"), us("RCCL", "fp16 (uncompressed)")


def score_cells(score: served.Score) -> list[str]:
    """A row of the table of scores."""
    return [score.what, str(score.rows), str(score.right), f"{score.share:.0%}", str(score.gains)]


def runs(judged: Sequence[served.Judged]) -> Iterable[list[str]]:
    """Rows of the table of runs: both means of a run in one."""
    found: dict[tuple[str, str, int, str], list[served.Judged]] = {}
    for j in judged:
        found.setdefault((j.row.model, j.row.gpu, j.row.tp, j.row.wire), []).append(j)
    for (model, gpu, tp, wire), both in found.items():
        first, between = sorted(both, key=lambda j: j.row.metric != "TTFT")
        cells = [cell for j in (first, between) for cell in (f"{j.row.ratio:.3f}", f"{j.ours:.3f}", sign(j))]
        command = served.shipped().of(model, gpu).command(tp, first.row.scheme)
        gate = "above" if first.row.above_gate else "below"
        yield [model, gpu, str(tp), wire, gate, *cells, f"`{command}`"]


def sign(judged: served.Judged) -> str:
    """Whether ours is theirs."""
    return "right" if judged.right else "wrong"


def left_out_part() -> str:
    """Systems of which nothing is predicted."""
    lines = ["## Not predicted", ""]
    for each in shipped().left_out:
        lines += item(f"{each.system}: {each.why}.")
    return "\n".join(lines) + "\n"


# --- words ---


def ms(seconds: float) -> str:
    """Milliseconds, as many digits as count."""
    return f"{seconds * 1e3:,.0f} ms" if seconds >= 0.1 else f"{seconds * 1e3:.3g} ms"


def item(text: str) -> list[str]:
    """A line of a list, in its width."""
    return fill(text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False).split("\n")


def block(commands: Sequence[str]) -> list[str]:
    """Commands to copy, in their width."""
    lines = ["```"]
    for command in commands:
        line = ""
        for word in shlex.split(command):
            quoted = shlex.quote(word)
            if line and len(line) + 1 + len(quoted) > WIDTH - 2:
                lines.append(f"{line} \\")
                line = f"    {quoted}"
            else:
                line = f"{line} {quoted}" if line else quoted
        lines.append(line)
    return [*lines, "```"]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    cells = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 if `--check` finds another page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the page instead of writing it")
    parser.add_argument("--out", type=Path, default=PAGE, help="where to write it")
    options = parser.parse_args(arguments)
    written = page()
    if options.check:
        same = options.out.exists() and options.out.read_text("utf-8") == written
        print(f"{options.out}: {'as it would be written' if same else 'stale, run make papers'}")
        return int(not same)
    write_text(options.out, written)
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
