"""`make pages`: docs/accuracy.md and its pictures, what compressed prompts cost, out of the two measured tables.

    python -m thinwire.validation.quality.page           # write them
    python -m thinwire.validation.quality.page --check   # exit 1 if they are not what would be written

The same tables give the same bytes. No figure stands in the words below: each is worked out, and so are the words that
say which is more.
"""

import argparse
import filecmp
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from thinwire.edge.writing import replacing, write_text
from thinwire.reference.families.config import load_model
from thinwire.validation.quality import drawing
from thinwire.validation.quality.findings import (
    LAST,
    LENGTHS,
    NEAR,
    PLAIN,
    SEEN,
    STRETCHES,
    TRIALS,
    USABLE,
    asked,
    both_lengths,
    free,
    known_lookups,
    loss,
    lost_by,
    pair,
    reached,
    winners,
)
from thinwire.validation.quality.measured import (
    TP,
    Lookups,
    Measured,
    Row,
    bits,
    both_bits,
    kl,
    known,
    sent,
    shipped,
)
from thinwire.validation.quality.sections import FRONTIER, REACH, codecs, distance, the_frontier, unseen
from thinwire.validation.quality.words import digits, item, listed, ratio, ratio_or_none, say, span, table

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = "accuracy.md"


def page(measured: Measured) -> str:
    """The whole page."""
    parts = (head, answer, deployments, the_frontier, distance, unseen, codecs, limits, commands)
    return "\n".join("\n".join(part(measured)) + "\n" for part in parts)


def head(measured: Measured) -> list[str]:
    """What this page is."""
    row = known(measured.loss(PLAIN))
    return [
        "# What compression costs in accuracy",
        "",
        *say(
            f"Engines compress the large messages of prompts and send decode's as they are. So: how good are exact "
            f"answers behind a compressed prompt? Measured with {measured.accuracy['title']} at TP {TP} on "
            f"{' and '.join(measured.machines)}, {row['windows']} windows of {measured.accuracy['window_tokens']} "
            f"tokens, {row['prompt_tokens']} of them prompt. `make pages` writes this page and its pictures from "
            "[one table of schemes](../sim/profiles/accuracy-smollm2-135m.json) and [one of "
            "prompts](../sim/profiles/prompt-smollm2-135m.json). Parentheses hold 95 % intervals."
        ),
    ]


# --- the answer ---


def answer(measured: Measured) -> list[str]:
    """In four items."""
    prompt, everywhere = (known(measured.loss(PLAIN, compress)) for compress in ("prompt", "all"))
    names, best = asked(measured), winners(measured)
    hidden = [
        name
        for name in names
        if known(measured.loss(name))["perplexity_ratio"] < 1 + USABLE
        and min(found.lost.value for found in pair(measured, name)) > SEEN
    ]
    scored = [row["tokens"] // row["windows"] for row in (prompt, everywhere)]
    tried = [name for name in best if name in names]
    return [
        "## The answer",
        "",
        *item(
            f"**A compressed prompt costs {than(everywhere, prompt)} than compressing every position.** `{PLAIN}`: "
            f"perplexity x {ratio(prompt)} instead of x {ratio(everywhere)}, KL a token {digits(kl(prompt).value)} "
            f"instead of {digits(kl(everywhere).value)} ({scored[0]} tokens of a window scored, and {scored[1]}). KL "
            "says how far the next token's distribution is from the exact run's, in nats. Of all "
            f"{len(measured.names)} schemes {lower(measured)} lose less when prompts alone are compressed."
        ),
        *item(
            f"**Perplexity does not see all of it.** {len(hidden)} of the {len(names)} schemes whose look-ups were "
            f"measured cost less than {100 * USABLE:g} % of perplexity, and yet more than {SEEN:g} points of look-ups, "
            "in prompts of both lengths"
            + (f", from {lost_by(measured, hidden[0])} to {lost_by(measured, hidden[-1])}." if hidden else ".")
            + f" {listed(free(measured))} lose nothing there that can be seen."
        ),
        *item(
            "**Least loss of each budget**, in two steps: "
            + ", ".join(f"`{name}` at {bits(name):.2f} bits (KL {digits(loss(measured, name))})" for name in best)
            + f". Of these {len(best)}, look-ups were measured for {listed(tried) or 'none'}"
            + ("." if len(tried) == len(best) else " only.")
        ),
        *item(first_token(measured)),
    ]


def first_token(measured: Measured) -> str:
    """What the answer's first token suffers, and how far exact last rows help."""
    first, far = (kl(known(measured.reach(PLAIN, NEAR, edge))) for edge in (1, max(STRETCHES)))
    rows = [(measured.reach(PLAIN, n, 1), measured.reach(LAST, n, 1)) for n in reached(measured)]
    factors = [kl(after).value / kl(before).value for before, after in rows if before and after]
    less = sum(factor < 1 for factor in factors)
    points = [" and ".join(f"{found.lost.value:.1f}" for found in pair(measured, name)) for name in (LAST, PLAIN)]
    told = "What suffers is" if first.low > far.high else "No more than others suffers"
    last = STRETCHES[max(STRETCHES)].partition("..")[0]
    return (
        f"**{told} the answer's first token**, which the compressed pass itself predicts: KL {span(first)} under "
        f"`{PLAIN}` behind {NEAR} tokens, {digits(far.value)} from the {last}th on. The prompt's last row exact "
        f"(`+exempt-last-1`) multiplies the first token's by {min(factors):.2f} to {max(factors):.2f} (less at {less} "
        f"of {len(factors)} lengths), for that row still reads a compressed cache; look-ups then lose {points[0]} "
        f"points instead of {points[1]}."
    )


def lower(measured: Measured) -> int:
    """Schemes whose prompts alone lose less than every position, beyond their intervals."""
    pairs = ([kl(known(measured.loss(name, compress))) for compress in ("prompt", "all")] for name in measured.names)
    return sum(prompt.high < everywhere.low for prompt, everywhere in pairs)


def than(more: Row, less: Row) -> str:
    """In words, by KL."""
    times = kl(more).value / kl(less).value
    return "much less" if times > 2 else "less" if times > 1 else "no less"


# --- what a deployment pays ---


def deployments(measured: Measured) -> list[str]:
    """The table."""
    exact = [known_lookups(measured, "exact", length) for length in LENGTHS]
    header = [
        "scheme", "bits", "sent", "perplexity x, every position", "perplexity x, prompt", "KL, prompt",
        *(f"look-ups lost, {n:,} (of {e.right.value:.1f})" for n, e in zip(LENGTHS, exact, strict=True)),
        "first token x", "greedy differs at",
    ]  # fmt: skip
    rows = [
        [
            f"`{name}`", " / ".join(dict.fromkeys(f"{each:.2f}" for each in both_bits(name))), f"{sent(name):.0%}",
            ratio_or_none(measured.loss(name, "all")), ratio(known(measured.loss(name))),
            digits(loss(measured, name)),
            *(cell(measured.lookups(name, "key-value", length)) for length in LENGTHS),
            ratio_or_none(measured.reach(name, NEAR, 1)), differs(measured.greedy(name)),
        ]
        for name in measured.main
    ]  # fmt: skip
    greedy = known(measured.greedy("bf16"))
    changed = 1 - greedy["same"][str(greedy["answer_tokens"])]["value"]
    return [
        "## What a deployment pays",
        "",
        *say(
            f"*Bits* a value, of both codecs where they differ; *sent*: bytes a GPU sends over a bf16 ring's at TP "
            f"{TP} (one step sends TP / 2 times as much; a last row of 1,024 kept exact adds "
            f"{100 * (16 / bits(PLAIN) - 1) / 1024:.1f} % to INT4). *Look-ups lost*: points of {exact[0].trials} "
            f"key-value questions, at prompts of {both_lengths()} tokens; in brackets, how many the exact model gets. "
            f"*First token*: perplexity behind {NEAR} tokens, one a window. *Greedy*: where the median of "
            f"{greedy['prompts']} answers of {greedy['answer_tokens']} tokens first differs; bf16's own rounding "
            f"changes {100 * changed:.0f} % of them. Below 1, perplexity is no gain: KL, which cannot fall "
            "below 0, says which is nearer. -: not measured. What vLLM and SGLang offer as QuickReduce on AMD GPUs are "
            "the rows `quickreduce-*`."
        ),
        "",
        *table(header, rows),
    ]


def cell(found: Lookups | None) -> str:
    """Points lost; the trials where they are fewer."""
    if found is None:
        return "-"
    most = "" if found.trials >= TRIALS else f"; {found.trials} trials"
    return f"{found.lost.value:.1f} ({found.lost.low:.1f}..{found.lost.high:.1f}{most})"


def differs(row: Row | None) -> str:
    """The median answer's first other token."""
    if row is None:
        return "-"
    median = row["median_first_difference"]
    return f"never in {row['answer_tokens']}" if median > row["answer_tokens"] else f"{median:g}"


# --- the rest ---


def limits(measured: Measured) -> list[str]:
    """What it is not."""
    few = sorted({row["windows"] for row in measured.accuracy["rows"] if row["compress"] == "all" and row["tp"] != TP})
    older = (
        f" At other TP degrees than {TP}, every position is of {few[0]} windows on a CPU, and not shown." if few else ""
    )
    width = load_model(measured.accuracy["model"]).hidden_size
    return [
        "## Limits",
        "",
        *item(
            f"One small model, {measured.accuracy['title']}, {width} wide, with activations harsh to quantise: no "
            "claim for 70B. What published runs of real models say, `compare` shows beside its table (`--published "
            "all`)."
        ),
        *item(
            "Answers are teacher-forced, but for look-ups and greedy ones, on Wikipedia's prose, which the model half "
            "knows. No interval says what another text would give, and windows of one article are not quite "
            f"independent ([decisions/011-accuracy.md](decisions/011-accuracy.md)).{older}"
        ),
    ]


def commands(measured: Measured) -> list[str]:
    """What made it."""
    windows = known(measured.loss(PLAIN))["windows"]
    return [
        "## The commands",
        "",
        "```",
        f'make accuracy ARGS="--device cuda --windows {windows} --together 16"  # the table of schemes, resumable',
        'make prompt ARGS="--device cuda --together 16"  # distance, look-ups, greedy answers, roundings; resumable',
        "make pages  # this page",
        "thinwire compare --model llama-3-70b --cluster 8xl40s-pcie --tp 4 --compress prompt --published all",
        "```",
    ]


# --- files ---


def write(measured: Measured, folder: Path) -> list[Path]:
    """The page and its pictures."""
    schemes = tuple(dict.fromkeys(measured.of_case(f"reach {NEAR} TP {TP}")))
    draws: dict[str, Callable[[Path], None]] = {
        FRONTIER: lambda path: drawing.frontier(measured, path),
        REACH: lambda path: drawing.reach(measured, schemes, path),
    }
    write_text(folder / PAGE, page(measured))
    for name, draw in draws.items():
        with replacing(folder / name) as rough:
            draw(rough)
    return [folder / name for name in (PAGE, *draws)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 if `--check` finds others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what lies there instead of writing it")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder to write into")
    options = parser.parse_args(arguments)
    if not options.check:
        for path in write(shipped(), options.out):
            print(f"written: {path}")
        return 0
    with TemporaryDirectory() as folder:
        made = write(shipped(), Path(folder))
        stale = [path.name for path in made if not _same(path, options.out / path.name)]
    print(f"stale, run make pages: {', '.join(stale)}" if stale else f"{options.out}: as it would be written")
    return int(bool(stale))


def _same(one: Path, other: Path) -> bool:
    return other.exists() and filecmp.cmp(one, other, shallow=False)


if __name__ == "__main__":
    sys.exit(main())
