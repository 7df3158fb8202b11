"""What a number rests on: sentences, each with the class of its source and how much of the interval it is about.

A ground is born where its sentence is (`sim.report.assumptions`), with the parts of the critical path it speaks of. How
much of the interval those parts make is known when there is an interval: parts err independently, so a part's share is
that of its squared half-width in the sum of all, as of a variance. Each part counts for one ground alone, the one that
speaks of it most closely, so what grounds make of one interval sums to at most one.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

from thinwire.sim.interval import Interval

Kind = Literal["measured", "fitted", "datasheet", "assumed", "rule"]
"""measured, datasheet, assumed: as the source of the number says; fitted: to measurements, of rows it did not see;
rule: how the simulation counts, of which nothing is off.
"""
KINDS: tuple[Kind, ...] = get_args(Kind)
LEADING, NOTABLE = 3, 0.02  # how many are said first, and from which share on
LISTED = 10  # how many a document has that does not have all


@dataclass(frozen=True, slots=True)
class Ground:
    """A sentence. about: how the names of the interval's parts it speaks of begin (`sim.interval`). share: of the
    interval, 0 where it has no part, or another sentence speaks of it more closely; filled in by `grounds`.
    """

    text: str
    kind: Kind
    about: tuple[str, ...] = ()
    share: float = 0.0


class Rested(Protocol):
    """What rests on something: a prediction, or one exchange alone."""

    @property
    def basis(self) -> tuple[Ground, ...]:
        """Its grounds in the order of the model, the machine, the profile."""

    @property
    def interval(self) -> Interval:
        """Where it lies."""


def rules(sentences: Iterable[str]) -> list[Ground]:
    """How the simulation counts."""
    return [Ground(text, "rule") for text in sentences]


def of(kind: Kind, about: str | tuple[str, ...], sentences: Iterable[str]) -> list[Ground]:
    """Sentences of one class about the same parts."""
    parts = (about,) if isinstance(about, str) else about
    return [Ground(text, kind, parts) for text in sentences]


def by_source(source: str, about: str | tuple[str, ...], *sentences: str) -> list[Ground]:
    """Sentences about a number of a profile, of the class that its source begins with."""
    word = source.partition(":")[0]
    kind: Kind = "measured" if word == "measured" else "datasheet" if word == "datasheet" else "assumed"
    return of(kind, about, sentences)


def once(found: Iterable[Ground]) -> tuple[Ground, ...]:
    """Each sentence once, where it came first."""
    first: dict[str, Ground] = {}
    for ground in found:
        first.setdefault(ground.text, ground)
    return tuple(first.values())


def grounds(p: Rested) -> tuple[Ground, ...]:
    """What a prediction rests on, the widest share of its interval first; those of the same share as they came."""
    made = [0.0] * len(p.basis)
    for part, share in p.interval.shares.items():
        close = [max((len(about) for about in g.about if part.startswith(about)), default=0) for g in p.basis]
        if any(close):
            made[close.index(max(close))] += share  # of those as close, the first
    found = [replace(ground, share=share) for ground, share in zip(p.basis, made, strict=True)]
    return tuple(sorted(found, key=lambda ground: -ground.share))


def together(several: Iterable[Rested], answer: Collection[Rested] = ()) -> tuple[Ground, ...]:
    """What several predictions rest on, each sentence once. answer: those whose intervals decide on shares, the widest
    counts; all where none are named.
    """
    rows = list(several)
    deciding = [id(one) for one in answer] or [id(one) for one in rows]
    widest: dict[str, Ground] = {}
    for one in (*answer, *rows):
        for ground in grounds(one):
            known = widest.setdefault(ground.text, ground if id(one) in deciding else replace(ground, share=0.0))
            if id(one) in deciding and known.share < ground.share:
                widest[ground.text] = ground
    return tuple(sorted(widest.values(), key=lambda ground: -ground.share))


def leading(found: Sequence[Ground], most: int = LEADING) -> tuple[Ground, ...]:
    """The few that matter for an answer: the widest, one for each part of the interval."""
    taken: list[Ground] = []
    for ground in found:
        if len(taken) == most or ground.share < NOTABLE:
            break
        if not any(_overlap(ground, each) for each in taken):
            taken.append(ground)
    return tuple(taken)


def _overlap(one: Ground, other: Ground) -> bool:
    return any(a.startswith(b) or b.startswith(a) for a in one.about for b in other.about)


def listed(found: Sequence[Ground], most: int = LISTED) -> tuple[Ground, ...]:
    """Those that are written down where not all are: the leading ones, then the widest of the others; rules last."""
    first = leading(found)
    rest = sorted((g for g in found if g not in first), key=lambda ground: (-ground.share, KINDS.index(ground.kind)))
    return (*first, *rest)[:most]


def counted(left: Iterable[Ground]) -> dict[str, int]:
    """How many there are of each class."""
    counts = Counter(ground.kind for ground in left)
    return {kind: counts[kind] for kind in KINDS if counts[kind]}
