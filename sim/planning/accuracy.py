"""What decides on a candidate's accuracy: our measured table, published figures, or nothing.

One of them decides, the whole of a plan, and no figure of the other goes into it. `measured` holds perplexity ratios
against the target. `published` takes what may be lost of perplexity, 2 % for a target of 1.02, as what may be lost of a
score: the worst published row that matches the scheme must keep the rest. `none` asks for nothing. Under each of them a
candidate says who decided, and `lost` orders candidates that cost the same.
"""

import math
from dataclasses import dataclass
from typing import Literal, assert_never

from thinwire.sim.choices import AccuracyFrom
from thinwire.sim.quality.published import Kept

By = Literal["measured", "published", "uncompressed", "nobody", "nothing"]
DIGITS = 9  # of a share, to which what is lost is held against what may be


@dataclass(frozen=True, slots=True)
class Judged:
    """What became of a candidate's accuracy. by: who decided; `nobody` knows, or `nothing` was asked. refused: it is no
    answer. lost: for comparing, infinite where nobody knows. share: of a score that published figures keep.
    """

    by: By
    said: str
    refused: bool = False
    lost: float = 0.0
    share: float | None = None


def judge(
    source: AccuracyFrom, tp: int, ratio: float | None, kept: Kept | None, most: float, unmeasured: bool
) -> Judged:
    """A candidate of this TP degree, measured perplexity ratio and published figures, None where there are none.

    most: the perplexity ratio that is allowed, infinite for any. unmeasured: what nobody has figures of is allowed.
    """
    match source:
        case "measured" if tp == 1 and ratio == 1:
            return Judged("uncompressed", "nothing is sent", lost=loss(ratio))
        case "measured":
            return _by_ratio(ratio, most, unmeasured)
        case "published":
            return _by_published(kept, most, unmeasured)
        case "none":
            return Judged("nothing", "accuracy decides nothing")
    assert_never(source)


def _by_ratio(ratio: float | None, most: float, unmeasured: bool) -> Judged:
    if ratio is None:
        return _unknown("nobody measured this scheme", unmeasured)
    if ratio > most:
        return Judged("measured", f"perplexity ratio {ratio:.4g} above {most:.4g}", refused=True, lost=loss(ratio))
    return Judged("measured", f"perplexity ratio {ratio:.4g}", lost=loss(ratio))


def _by_published(kept: Kept | None, most: float, unmeasured: bool) -> Judged:
    if kept is None:
        return _unknown("nobody published a score of this scheme", unmeasured)
    lost = max(0.0, 1 - kept.share)  # more than all is noise
    refused = round(lost, DIGITS) > round(most - 1, DIGITS)
    asked = f"{kept.share:.2%} of a published score kept, {2 - most:.2%} asked: " if refused else ""
    return Judged(kept.by, f"{asked}{kept.said}", refused, lost, kept.share)


def _unknown(said: str, unmeasured: bool) -> Judged:
    hint = "" if unmeasured else " (allow_unmeasured = true takes it)"
    return Judged("nobody", f"{said}{hint}", refused=not unmeasured, lost=math.inf)


def loss(ratio: float | None) -> float:
    """For comparing: ratios below 1 are noise of their measurement, unmeasured ones the worst."""
    return math.inf if ratio is None else max(1.0, ratio)
