"""What an answer rests on, for people: the few grounds that matter for it, the others counted."""

from collections.abc import Collection, Sequence

from thinwire.commands.tables.console import heading, item, say
from thinwire.edge.quantities import percent_text
from thinwire.sim.grounds import Ground, counted, leading
from thinwire.sim.interval import Interval
from thinwire.sim.report import host_sentence

WORDS = {
    "measured": "measured", "fitted": "fitted to measurements", "datasheet": "of data sheets", "assumed": "assumed",
    "rule": "how it is counted",
}  # fmt: skip


def rests_on(found: Sequence[Ground], verbose: bool, of: str = "the interval") -> None:
    """The grounds that make most of an interval, and how many others there are; all of them, by class, if verbose.

    of: what their shares are of (docs/reading.md says what that means of an interval).
    """
    first = leading(found)
    heading("Rests on")
    for ground in first:
        item(f"{ground.text} [{percent_text(ground.share, 1)} of {of}]")
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


def another_host(found: Interval, measurable: Collection[str] | None = None) -> None:
    """What takes other hosts' part of an answer's interval away; how much that is stands with what it rests on.

    measurable: what of it one can measure, where that is not what `Interval.measurable` says.
    """
    said = host_sentence(found.another_host_share, found.measurable if measurable is None else measurable)
    if said is not None:
        say(said)
