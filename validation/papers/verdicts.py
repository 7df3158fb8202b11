"""From a claim and our interval to a verdict, by rule: the words follow from the numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from thinwire.validation.papers.answers import PLAIN, Answer, Knobs, answer, figure
from thinwire.validation.papers.headlines import OF_BITS, Headline
from thinwire.validation.papers.inverse import FARTHEST, solve

Relation = Literal["agrees", "we say less", "we say more", "undecided"]
Knob = Literal["wire", "codec", "kernels"]


@dataclass(frozen=True)
class Lever:
    """One parameter turned until the claim is ours. factor: None where none within reach does. share, bus_gb_per_s: of
    the baseline, then.
    """

    knob: Knob
    factor: float | None
    share: float | None = None
    bus_gb_per_s: float | None = None

    @property
    def text(self) -> str:
        """For people."""
        if self.factor is None:
            return f"{_NEVER[self.knob]}: no factor in 1/{FARTHEST:g} .. {FARTHEST:g} makes it true"
        said = _WOULD[self.knob].format(digits(self.factor))
        if self.knob == "wire" and self.bus_gb_per_s is not None:
            said += f", a bus of {digits(self.bus_gb_per_s)} GB/s"
        if self.knob != "codec" and self.share is not None:
            said += f" ({100 * self.share:.0f} % of the baseline waits for the wire)"
        return said


_WOULD: Mapping[Knob, str] = {
    "wire": "links at {} of ours",
    "codec": "codec kernels in {} of their time",
    "kernels": "all kernels in {} of their time",
}
_NEVER: Mapping[Knob, str] = {
    "wire": "link rate",
    "codec": "codec time",
    "kernels": "share of the wire",
}


@dataclass(frozen=True)
class Verdict:
    """A claim, our answer, and what lies between."""

    headline: Headline
    answer: Answer
    relation: Relation
    levers: tuple[Lever, ...]

    @property
    def sentence(self) -> str:
        """One sentence."""
        h, ours = self.headline, self.answer.ours
        because = f"; {h.why}" if h.why else ""
        if self.relation == "undecided":
            return f"Undecided: our interval, {unit(h, ours.low)} to {unit(h, ours.high)}, holds both{because}."
        if h.bound == "slower" and self.relation == "agrees":
            return f"Agrees: slower here too, {unit(h, ours.high)} at best{because}."
        claimed = " to ".join(unit(h, value) for value in h.value)
        if self.relation == "agrees":
            holds = "lies in our interval" if len(h.value) == 1 else "and our interval overlap"
            return f"Agrees: {claimed} {'by arithmetic' if h.kind in OF_BITS else holds}{because}."
        less = self.relation == "we say less"
        side = f"{unit(h, ours.high)} at most" if less else f"{unit(h, ours.low)} at least"
        would = [lever for lever in self.levers if lever.factor is not None]
        said = f"it takes {would[0].text}" if would else "none of the parameters makes it true"
        return f"{'We say less' if less else 'We say more'}: {side} against {claimed}; {said}{because}."


def relation_of(headline: Headline, found: Answer) -> Relation:
    """Where our interval lies beside the claim. A claim of "slower" is one of less than its value: all of an interval
    agrees, or none of it, or it decides nothing.
    """
    ours = found.ours
    if headline.bound == "slower":
        if ours.high < headline.low:
            return "agrees"
        return "we say more" if ours.low > headline.high else "undecided"
    if ours.high < headline.low:
        return "we say less"
    return "we say more" if ours.low > headline.high else "agrees"


def judge(headline: Headline) -> Verdict:
    """Our answer, and by which factor each parameter would have to differ for the claim to be our figure."""
    found = answer(headline)
    return Verdict(headline, found, relation_of(headline, found), tuple(_levers(headline, found)))


def _levers(headline: Headline, found: Answer) -> list[Lever]:
    knobs = knobs_of(headline, found)
    target = headline.low if found.ours.value < headline.low else headline.high
    if headline.bound == "slower" or headline.low <= found.ours.value <= headline.high:
        return []
    levers = []
    for knob in knobs:
        factor = solve(lambda x, knob=knob: figure(headline, turned(knob, x)), target)  # type: ignore[misc]
        then = None if factor is None else answer(headline, turned(knob, factor))
        levers.append(Lever(knob, factor) if then is None else Lever(knob, factor, then.share, then.bus_gb_per_s))
    return levers


def knobs_of(headline: Headline, found: Answer) -> tuple[Knob, ...]:
    """Parameters that a claim's figure depends on."""
    if headline.kind in OF_BITS:
        return ()
    codec: tuple[Knob, ...] = ("codec",) if found.has_codec else ()
    kernels: tuple[Knob, ...] = () if headline.kind in ("collective", "cross") else ("kernels",)
    return ("wire", *codec, *kernels)


def turned(knob: Knob, factor: float) -> Knobs:
    """One parameter at a factor, the others as they are."""
    match knob:
        case "wire":
            return Knobs(wire=factor)
        case "codec":
            return Knobs(codec=factor)
        case _:
            return Knobs(kernels=factor) if factor != 1 else PLAIN


def unit(headline: Headline, value: float) -> str:
    """A figure in the claim's unit."""
    if headline.percent:
        return f"{value:.0f} %" if value >= 1 else f"{value:.1f} %"
    return f"{value:.2f}"


def digits(value: float) -> str:
    """Two digits after the first that counts, at most."""
    return f"{value:.3g}"
