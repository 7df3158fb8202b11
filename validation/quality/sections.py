"""The sections of docs/accuracy.md below its table: the frontier, how far a loss reaches, look-ups, codecs."""

from collections.abc import Sequence

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.sim.choices import Compress
from thinwire.validation.quality.changes import CHANGES, judge, sentence
from thinwire.validation.quality.findings import (
    BUDGETS,
    DEGREES,
    FAR,
    LENGTHS,
    NEAR,
    SEEN,
    STRETCHES,
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
    Measured,
    Row,
    bits,
    kl,
    known,
    two_steps,
)
from thinwire.validation.quality.words import digits, item, listed, number, say, span, table

FRONTIER, REACH = "accuracy.svg", "accuracy-reach.svg"  # beside the page


# --- the frontier ---


def the_frontier(measured: Measured) -> list[str]:
    """The picture and the winners."""
    best, everywhere = winners(measured), winners(measured, "all")
    rows = [
        [f"{budget:g}", *_won(measured, prompt, "prompt"), *_won(measured, position, "all")]
        for budget, prompt, position in zip(BUDGETS, best, everywhere, strict=True)
    ]
    said = [f"`{name}` below {_beaten(measured, name)} bits" for name in best if spiked(name)]
    other = [f"{b:g}" for b, p, a in zip(BUDGETS, best, everywhere, strict=True) if p != a]
    same = f"others win at {' and '.join(other)} bits" if other else "the same win"
    return [
        "## The frontier",
        "",
        f"![Bits a value against loss, two panels; the least loss of each budget is named]({FRONTIER})",
        "",
        *table(
            ("bits at most", "prompts alone: least loss", "bits", "KL", "every position: least loss", "bits", "KL"),
            rows,
        ),
        "",
        *say(
            (f"Two steps that reserve spikes lose less than any that do not: {', '.join(said)}. " if said else "")
            + f"With every position compressed {same}."
        ),
    ]


def spiked(name: str) -> bool:
    """Whether a scheme reserves spikes."""
    return any("-sr" in codec.spec for codec in (find_scheme(name).reduce, find_scheme(name).gather))


def _won(measured: Measured, name: str, compress: Compress) -> tuple[str, str, str]:
    found = kl(known(measured.loss(name, compress)))
    return f"`{name}`", f"{bits(name):.2f}", span(found)


def _beaten(measured: Measured, name: str) -> str:
    """The fewest bits of a two-step scheme without spikes that loses no more."""
    others = [each for each in measured.names if two_steps(each) and not spiked(each) and "exempt" not in each]
    better = [bits(each) for each in others if loss(measured, each) <= loss(measured, name)]
    return f"{min(better):.2f}" if better else "16"


# --- how far it reaches ---


def distance(measured: Measured) -> list[str]:
    """By distance, length and TP degree."""
    schemes = measured.of_case(f"reach {NEAR} TP {TP}")
    names = tuple(dict.fromkeys(schemes))
    lengths = reached(measured)
    near = [
        [f"`{name}`", *(_stretch(measured.reach(name, NEAR, edge)) for edge in STRETCHES)] for name in names
    ]  # fmt: skip
    far = [
        [
            f"`{name}`",
            *(_pair(measured.reach(name, n, 1), measured.reach(name, n, 128)) for n in lengths),
            *("-" if (row := measured.loss(name, "prompt", tp)) is None else digits(kl(row).value) for tp in DEGREES),
        ]
        for name in names
    ]  # fmt: skip
    return [
        "## How far it reaches",
        "",
        f"![KL by distance behind the prompt, by the prompt's length, by TP degree]({REACH})",
        "",
        f"KL a token (perplexity x in brackets) by distance behind a prompt of {NEAR} tokens:",
        "",
        *table(("scheme", *STRETCHES.values()), near),
        "",
        "KL by the prompt's tokens, of the first token / the 33rd to 128th; by TP degree, of all 128 behind 384:",
        "",
        *table(("scheme", *(f"{n:,}" for n in lengths), *(f"TP {tp}" for tp in DEGREES)), far),
        "",
        *say(
            f"Length: from {lengths[0]} to {lengths[-1]:,} tokens "
            + "; ".join(_trend(measured, names, lengths, edge) for edge in (1, 128))
            + f". TP: from {DEGREES[0]} to {DEGREES[-1]} KL changes by factors of {_degrees(measured, names)}."
        ),
    ]


def _stretch(row: Row | None) -> str:
    return "-" if row is None else f"{digits(kl(row).value)} ({number(row['perplexity_ratio'])})"


def _pair(*rows: Row | None) -> str:
    return " / ".join("-" if row is None else digits(kl(row).value) for row in rows)


def _trend(measured: Measured, names: Sequence[str], lengths: Sequence[int], edge: int) -> str:
    """Which schemes lose more or less behind the longest prompt than behind the shortest."""
    more, less = list[str](), list[str]()
    for name in names:
        short, long = (kl(known(measured.reach(name, length, edge))) for length in (lengths[0], lengths[-1]))
        (more if long.low > short.high else less if long.high < short.low else []).append(name)
    of = "the first token" if edge == 1 else "the 33rd to 128th"
    found = [f"{word} under {listed(which)}" for word, which in (("more", more), ("less", less)) if which]
    if not found:
        return f"{of} loses neither more nor less, as far as intervals tell"
    return f"{of} loses {' and '.join(found)}"


def _degrees(measured: Measured, names: Sequence[str]) -> str:
    ends = [[measured.loss(name, "prompt", tp) for tp in (DEGREES[0], DEGREES[-1])] for name in names]
    factors = [kl(b).value / kl(a).value for a, b in ends if a is not None and b is not None]
    return f"{min(factors):.2f} to {max(factors):.2f}"


# --- look-ups ---


def unseen(measured: Measured) -> list[str]:
    """Which fail first."""
    exact = [known_lookups(measured, "exact", length) for length in LENGTHS]
    whole = free(measured)
    rest = [name for name in asked(measured) if name not in whole]
    passed = [
        f"`{name}` {found.lost.value:.1f}"
        for name in asked(measured)
        if (found := measured.lookups(name, "pass-key", LENGTHS[-1])) and found.lost.value > SEEN
    ]
    return [
        "## What perplexity does not see",
        "",
        *say(
            f"Four words with a number each lie in the prompt, and one is asked for; every digit must be right. Exact "
            f"prompts get {' and '.join(f'{found.right.value:.1f} %' for found in exact)} of {exact[0].trials} at "
            f"{both_lengths()} tokens. Which fail first, by points lost at both:"
        ),
        "",
        *item(f"Nothing that can be seen (both intervals hold 0): {listed(whole)}.{_close(measured, whole, rest)}"),
        *item(f"Then, least first: {', '.join(lost_by(measured, name) for name in rest) or 'none'}."),
        *item(
            f"One number said twice (pass-key) is easy: at {LENGTHS[-1]:,} tokens more than {SEEN:g} points are lost "
            f"by {', '.join(passed) or 'none'} alone."
        ),
        *_far(measured),
    ]


def _close(measured: Measured, whole: list[str], rest: list[str]) -> str:
    """A warning where the last that loses nothing seen and the first that does are alike."""
    if not whole or not rest:
        return ""
    both = zip(pair(measured, whole[-1]), pair(measured, rest[0]), strict=True)
    apart = any(last.lost.high < first.lost.low for last, first in both)
    return "" if apart else f" That `{whole[-1]}` loses less than `{rest[0]}` is not shown: their intervals meet."


def _far(measured: Measured) -> list[str]:
    """The longest prompts, as far as they were measured."""
    base = measured.lookups("exact", "pass-key", FAR)
    names = measured.of_case(f"retrieval pass-key {FAR}")
    rows = [(found, name) for name in names if (found := measured.lookups(name, "pass-key", FAR))]
    if base is None or not rows:
        return []
    said = [
        f"`{name}` {found.lost.value:.1f} ({found.lost.low:.1f}..{found.lost.high:.1f}, {found.trials} trials)"
        for found, name in sorted(rows)
    ]
    return item(
        f"At {FAR:,} tokens the GPU's time ended: only the pass-key was asked, of these schemes, in few trials, so "
        f"intervals are wide (and, being normal ones, too narrow for so few). Exact prompts get "
        f"{base.right.value:.1f} % of {base.trials}; lost: {', '.join(said)}."
    )


# --- codecs ---


def codecs(measured: Measured) -> list[str]:
    """Changes that win or lose."""
    rows = []
    for change in CHANGES:
        found, everywhere = judge(measured, change), judge(measured, change, "all")
        if found:
            added = [one.added_bits for one in found]
            ends = dict.fromkeys("0" if abs(round(end, 2)) == 0 else f"{end:+.2f}" for end in (min(added), max(added)))
            rows.append(
                [
                    change.what, " to ".join(ends),
                    ", ".join(f"{one.pair.label} {one.ratio:.2f}" for one in found),
                    ", ".join(f"{one.ratio:.2f}" for one in everywhere) or "-",
                    sentence(found, everywhere, change),
                ]
            )  # fmt: skip
    return [
        "## Better codecs at the same bits",
        "",
        *say(
            f"KL after a change over KL before it, TP {TP}, two steps in groups of 128 with a zero point where nothing "
            "else is said. A change wins or loses where the two intervals do not meet, a careful rule, for both ran "
            "the same windows. The last four were tried on values alone "
            "([variants.py](../validation/quality/variants.py)); no scheme has them."
        ),
        "",
        *table(("change", "bits", "KL x, prompts alone", "every position, in the same order", "verdict"), rows),
    ]
