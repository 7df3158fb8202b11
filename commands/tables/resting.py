"""What an answer rests on, for people: the few grounds that matter for it, the others counted."""

from collections.abc import Collection, Sequence

from thinwire.commands.tables.console import heading, item, say
from thinwire.edge.quantities import percent_text
from thinwire.sim.grounds import Ground, counted, leading
from thinwire.sim.report import host_sentence

WORDS = {
    "measured": "measured", "fitted": "fitted to measurements", "datasheet": "of data sheets", "assumed": "assumed",
    "rule": "how it is counted",
}  # fmt: skip


def rests_on(found: Sequence[Ground], verbose: bool) -> None:
    """The grounds that make most of the interval, and how many others there are; all of them, by class, if verbose."""
    first = leading(found)
    heading("Rests on")
    for ground in first:
        item(f"{ground.text} [{percent_text(ground.share, 1)} of the interval's width]")
    rest = [ground for ground in found if ground not in first]
    if not rest:
        return
    if not verbose:
        kinds = ", ".join(f"{count} {WORDS[kind]}" for kind, count in counted(rest).items())
        say(f"and {len(rest)} more ({kinds}): --verbose" if first else f"{len(rest)} sentences ({kinds}): --verbose")
        return
    for kind, words in WORDS.items():
        own = [ground for ground in rest if ground.kind == kind]
        if own:
            say(f"{words}:")
            for ground in own:
                item(ground.text)


def sentences(found: Sequence[str], verbose: bool) -> None:
    """The same of what has no interval: the first few."""
    heading("Rests on")
    shown = found if verbose else found[:3]
    for sentence in shown:
        item(sentence)
    if len(found) > len(shown):
        say(f"and {len(found) - len(shown)} more: --verbose")


def another_host(shares: Sequence[tuple[float, Collection[str]]]) -> None:
    """Of the widest of some intervals: how much of it is other hosts' doing."""
    share, measurable = max(shares, key=lambda one: one[0], default=(0.0, ()))
    said = host_sentence(share, measurable)
    if said is not None:
        say(f"{'up to ' if len(shares) > 1 else ''}{said}")
