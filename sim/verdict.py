"""Who is usable, and who of them is soonest: the answer to a comparison, first in a sentence.

A scheme is usable where what it costs in accuracy is known and within a limit: of perplexity, and of look-ups in
compressed prompts, which perplexity does not see. Whoever sends every sum whole, as bf16, loses nothing by that.
"""

from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal, get_args

from thinwire.edge.quantities import percent_text, ratio_text, time_text
from thinwire.edge.words import cut
from thinwire.reference.mixed import AnyScheme, MixedScheme, entries
from thinwire.sim.api import Comparison
from thinwire.sim.report import Prediction

Standing = Literal["usable", "floor", "beyond", "unknown", "cannot"]
"""usable: known to cost no more than the limit; floor: all-reduces left out, which cannot be had; beyond: costs more;
unknown: nobody measured what it costs; cannot: does not run on this machine.
"""
STANDINGS: tuple[Standing, ...] = get_args(Standing)


@dataclass(frozen=True, slots=True)
class Limit:
    """What a scheme may cost. More than 5 % of perplexity is a loss that people notice, a rule of thumb.

    perplexity: over the uncompressed model's, a ratio. lookups: points of right look-ups lost, of 100 asked; counted
    where prompts alone are compressed, which is where they were asked.
    """

    perplexity: float = 1.05
    lookups: float = 10.0

    def __post_init__(self) -> None:
        if not (isfinite(self.perplexity) and self.perplexity >= 1):
            raise ValueError(
                "the limit on perplexity is a ratio over the uncompressed model's, 1 or more, as 1.05: "
                f"{cut(repr(self.perplexity))}"
            )
        if not 0 <= self.lookups <= 100:
            raise ValueError(f"the limit on look-ups is in points lost, 0 to 100: {cut(repr(self.lookups))}")

    @property
    def words(self) -> str:
        """The limit, for people."""
        percent = round(100 * (self.perplexity - 1), 6)
        return f"at most {percent:g} % more perplexity and {self.lookups:g} points of look-ups lost"

    @property
    def beyond(self) -> str:
        """What is more than that."""
        percent = round(100 * (self.perplexity - 1), 6)
        return f"more than {percent:g} % of perplexity or {self.lookups:g} points of look-ups"

    def to_dict(self) -> dict[str, float]:
        """`limit` in `compare --json`."""
        return {"perplexity_ratio": self.perplexity, "lookup_points": self.lookups}


def lossless(scheme: AnyScheme) -> bool:
    """Whether all that is summed travels whole, as bf16 or fp32, and nothing is left out."""
    if isinstance(scheme, MixedScheme):
        return all(entry is not None and lossless(entry) for entry in (*scheme.attention, *scheme.mlp))
    return (
        scheme.is_raw
        and not scheme.compresses_experts
        and not scheme.drop_attention_percent
        and scheme.collective != "none"
    )


def obstacle(row: Prediction) -> str | None:
    """Why a scheme does not run on a machine; None where it does, and where nothing is sent.

    Kernels that encode inside the collective store into other GPUs' memory (kernels/symmetric.py, and what the catalog
    names as fused: docs/decisions/026-presets.md), so they need GPUs of one host that may write each other's; and some
    were written for some architectures alone (`Scheme.kernels_on`).
    """
    fused = [e for e in entries(row.acting) if e.codec_launch == "fused" and not e.is_raw]
    if row.tp == 1 or not fused:
        return None
    architecture = row.cluster.gpu.architecture
    elsewhere = [e.kernels_on for e in fused if e.kernels_on and architecture and architecture not in e.kernels_on]
    if elsewhere:
        return f"its kernels are of {' and '.join(elsewhere[0])} GPUs, these are {architecture}"
    if not row.cluster.peer_to_peer:
        return "its kernel writes other GPUs' memory, and here everything is staged in the host's"
    if len(row.cluster.hosts) > 1:
        return "its kernel writes other GPUs' memory, and these are of several hosts"
    return None


def standing(c: Comparison, row: Prediction, limit: Limit = Limit()) -> Standing:
    """How a scheme stands by a limit. On one GPU nothing is sent, and all are usable."""
    scheme = row.acting
    if row.tp == 1:
        return "usable"
    if not isinstance(scheme, MixedScheme) and scheme.collective == "none":
        return "floor"
    if obstacle(row) is not None:
        return "cannot"
    if lossless(scheme):
        return "usable"
    known, asked = c.accuracy(row), c.lookup(row)
    if known is not None and (known.perplexity_ratio is None or known.perplexity_ratio > limit.perplexity):
        return "beyond"
    if asked is not None and round(-100 * asked.lost, 6) > limit.lookups:
        return "beyond"
    if known is None or (asked is None and c.compress == "prompt"):
        return "unknown"
    return "usable"


def reason(c: Comparison, row: Prediction, limit: Limit = Limit()) -> str | None:
    """Why a scheme is not usable, in a few words; None where it is."""
    match standing(c, row, limit):
        case "floor":
            return "all-reduces left out: a floor, not to be had"
        case "cannot":
            return obstacle(row)
        case "unknown":
            what = "look-ups were not asked" if c.accuracy(row) is not None else "accuracy was not measured"
            return f"its {what}"
        case "beyond":
            return f"costs {cost(c, row)}"
        case _:
            return None


def best(c: Comparison, limit: Limit = Limit()) -> Prediction | None:
    """The soonest that is usable; None where none is. What is no sooner than the baseline, which changes nothing and
    costs nothing, is no better than that.
    """
    usable = [row for row in c.rows if standing(c, row, limit) == "usable"]
    found = min(usable, key=lambda row: row.ttft_s, default=None)
    base = next((row for row in usable if row.scheme == c.baseline.scheme), None)
    return base if found is not None and base is not None and not _is_sooner(c, found) else found


def _is_sooner(c: Comparison, row: Prediction) -> bool:
    return row.ttft_s < c.baseline.ttft_s * (1 - SAME)


def cost(c: Comparison, row: Prediction) -> str:
    """What a scheme was measured to cost."""
    known, asked = c.accuracy(row), c.lookup(row)
    if row.tp == 1 or lossless(row.acting):
        return "no loss of accuracy"
    if known is None:
        return "a loss that nobody measured"
    if known.perplexity_ratio is None:
        said = "all sense"
    elif known.perplexity_ratio <= 1:
        said = "no perplexity"
    elif known.perplexity_ratio > 2:
        said = f"{ratio_text(known.perplexity_ratio)} times the perplexity"
    else:
        said = f"{percent_text(known.perplexity_ratio - 1)} of perplexity"
    if asked is not None:
        points = max(0, round(-100 * asked.lost))
        said += f" and {points} point{'' if points == 1 else 's'} of look-ups"
    return said


def verdict(c: Comparison, limit: Limit = Limit()) -> str:
    """The answer in a sentence: the best buy, how much sooner than the baseline it is, and what it costs."""
    base = c.baseline
    baseline_s = time_text(base.ttft_s, base.interval.low_s, base.interval.high_s)
    if base.tp == 1:
        return f"One GPU sends nothing to others, so no scheme changes anything: the first token takes {baseline_s}."
    found = best(c, limit)
    if found is None:
        return (
            f"No scheme here is known to stay within the limit; with {base.scheme.name} the first token takes "
            f"{baseline_s}."
        )
    soon_s = time_text(found.ttft_s, found.interval.low_s, found.interval.high_s)
    if not _is_sooner(c, found):
        usable = "" if found.scheme == base.scheme else f"; the soonest that is: {found.scheme.name}, {soon_s}"
        return (
            f"Nothing that is within the limit is sooner than {base.scheme.name}, with which the first token takes "
            f"{baseline_s}{usable}."
        )
    before_s = baseline_s.partition(" (")[0]
    sooner = f"{ratio_text(c.speedup(found), least=-2)}x sooner than with {base.scheme.name} ({before_s})"
    bought = f"Best buy: {found.scheme.name}, first token in {soon_s}, {sooner}, for {cost(c, found)}."
    return bought + _without_overlap(c, found, limit)


def _without_overlap(c: Comparison, found: Prediction, limit: Limit) -> str:
    """What is taken of a best buy that overlaps, and what is best without."""
    if found.scheme.sequence_split is None:
        return ""
    rows = [row for row in c.rows if row.scheme.sequence_split is None]
    other = best(replace(c, rows=tuple(rows)), limit)
    said = " That overlap slows nothing is assumed"
    if other is None or not _is_sooner(c, other):
        return f"{said}."
    other_s = time_text(other.ttft_s, other.interval.low_s, other.interval.high_s)
    return f"{said}; without it: {other.scheme.name}, {other_s}."


SAME = 1e-3  # of a time: what differs by less is the same


def judged(c: Comparison, limit: Limit = Limit()) -> dict[str, Any]:
    """The document of a comparison with the verdict first and every row's standing."""
    document, found = c.to_dict(), best(c, limit)
    rows = [
        {**plain, "standing": standing(c, row, limit), "standing_because": reason(c, row, limit)}
        for plain, row in zip(document["rows"], c.rows, strict=True)
    ]
    return {
        "verdict": verdict(c, limit),
        "best": None if found is None else found.scheme.name,
        "limit": limit.to_dict(),
        **document,
        "rows": rows,
    }
