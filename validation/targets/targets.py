"""What validation talks about: published figures beside predicted ones, and the limits they are held to.

A `Point` is one published row with its prediction, an `Entry` the points of one claim with its limits, a `Section` the
entries of one target of the issue. Nothing here knows where the figures come from: targets_kernels.py and
targets_fabric.py do; compare.py prints them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

DIGITS = 5  # of an error, in the JSON twin: a thousandth of a per cent


@dataclass(frozen=True, slots=True)
class Point:
    """One published figure beside thinwire's, in one unit (seconds, bytes/s or a ratio)."""

    group: str  # machine, or GPU
    regime: str  # by size
    label: str  # the row, for people
    measured: float
    predicted: float
    detail: str = ""  # where the prediction comes from
    interval: tuple[float, float] | None = None  # of 90 %, in the same unit, by spreads that never saw the row

    def __post_init__(self) -> None:
        if not (self.measured > 0 and self.predicted > 0 and np.isfinite(self.measured + self.predicted)):
            raise ValueError(
                f"figures must be positive and finite: {self.group}, {self.label}: "
                f"measured={self.measured}, predicted={self.predicted}"
            )

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted / self.measured - 1

    @property
    def inside(self) -> bool:
        """Does the interval hold what was measured? ValueError without one."""
        if self.interval is None:
            raise ValueError(f"no interval: {self.group}, {self.label}")
        return self.interval[0] <= self.measured <= self.interval[1]

    @property
    def sign_right(self) -> bool:
        """Of ratios: are both above, or both not above, one?"""
        return (self.predicted > 1) == (self.measured > 1)


@dataclass(frozen=True, slots=True)
class Summary:
    """Absolute relative errors of some points, and their signed median."""

    rows: int
    median: float
    percentile_90: float
    worst: float
    bias: float

    @classmethod
    def of(cls, points: Iterable[Point]) -> "Summary":
        """ValueError without a point."""
        signed = np.array([point.error for point in points])
        if not len(signed):
            raise ValueError("no points to summarise")
        size = np.abs(signed)
        return cls(
            len(signed),
            float(np.median(size)),
            float(np.quantile(size, 0.9)),
            float(size.max()),
            float(np.median(signed)),
        )


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many measured figures the 90 % intervals of some points hold, and how wide these are."""

    rows: int
    inside: float  # share of the rows
    width: float  # mean of (high - low) / predicted

    @classmethod
    def of(cls, points: Iterable[Point]) -> "Coverage | None":
        """Of the points that have an interval; None where none has."""
        kept = [(point, point.interval) for point in points if point.interval is not None]
        if not kept:
            return None
        widths = [(interval[1] - interval[0]) / point.predicted for point, interval in kept]
        return cls(len(kept), sum(point.inside for point, _ in kept) / len(kept), float(np.mean(widths)))

    def to_dict(self) -> dict[str, float]:
        """Rounded, for the JSON twin."""
        return {"rows": self.rows, "inside": round(self.inside, DIGITS), "width": round(self.width, DIGITS)}


@dataclass(frozen=True, slots=True)
class Limits:
    """Most a statistic may be; None: none. Least: `signs_right`, the share of ratios on the right side of one, and
    `inside`.
    """

    median: float | None = None
    percentile_90: float | None = None
    worst: float | None = None
    signs_right: float | None = None
    inside: float | None = None  # least share of the rows that their intervals hold

    def __bool__(self) -> bool:
        return any(value is not None for value in asdict(self).values())

    def __str__(self) -> str:
        said = [
            f"{name} {sign} {value:.0%}"
            for name, sign, value in (
                ("median", "<=", self.median),
                ("90th", "<=", self.percentile_90),
                ("worst", "<=", self.worst),
                ("signs right", ">=", self.signs_right),
                ("inside", ">=", self.inside),
            )
            if value is not None
        ]
        return ", ".join(said)


@dataclass(frozen=True)
class Entry:
    """One claim: points predicted one way, and what the issue asks of them.

    key: stable name, by which `--check` finds the same claim in an older report. how: in-sample, or what was left out.
    gated: the issue asks for it; else the limits, if any, are a yardstick only.
    """

    key: str
    what: str
    how: str
    points: tuple[Point, ...]
    limits: Limits = Limits()
    gated: bool = True

    @property
    def summary(self) -> Summary:
        """Of all points."""
        return Summary.of(self.points)

    @property
    def coverage(self) -> Coverage | None:
        """Of the points that have an interval."""
        return Coverage.of(self.points)

    @property
    def signs_right(self) -> float | None:
        """Share of the points whose sign is right, where that is asked for."""
        if self.limits.signs_right is None:
            return None
        return sum(point.sign_right for point in self.points) / len(self.points)

    @property
    def holds(self) -> bool:
        """Is every limit kept?"""
        found, limits, signs, covered = self.summary, self.limits, self.signs_right, self.coverage
        kept = [
            limits.median is None or found.median <= limits.median,
            limits.percentile_90 is None or found.percentile_90 <= limits.percentile_90,
            limits.worst is None or found.worst <= limits.worst,
            limits.signs_right is None or (signs is not None and signs >= limits.signs_right),
            limits.inside is None or (covered is not None and covered.inside >= limits.inside),
        ]
        return all(kept)

    @property
    def verdict(self) -> str:
        """met or missed; beside the issue, within or outside the same limits; reported where there is none."""
        if not self.limits:
            return "reported"
        words = ("met", "missed") if self.gated else ("within", "outside")
        return words[0] if self.holds else words[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, rounded, for the JSON twin of the report."""
        found = {
            name: value if name == "rows" else round(value, DIGITS) for name, value in asdict(self.summary).items()
        }
        signs = {} if self.signs_right is None else {"signs_right": round(self.signs_right, DIGITS)}
        limits = {name: value for name, value in asdict(self.limits).items() if value is not None}
        covered = {} if self.coverage is None else {"interval": self.coverage.to_dict()}
        return {
            "key": self.key, "what": self.what, "how": self.how, **found, **signs, **covered,
            "limits": limits, "gated": self.gated, "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True)
class Section:
    """One target: what it says, how the figures came about, its claims, and the rows left out with the reason.

    asked: by the issue; empty where it does not. prose: paragraphs, parted by empty lines.
    """

    key: str
    title: str
    asked: str
    prose: str
    entries: tuple[Entry, ...]
    left_out: tuple[str, ...] = ()
    unit: Literal["seconds", "bytes/s"] = "seconds"

    def paragraphs(self) -> list[str]:
        """The prose, one line a paragraph."""
        return [" ".join(part.split()) for part in self.prose.split("\n\n")]

    @property
    def asked_for(self) -> list[Entry]:
        """The claims that the issue asks for."""
        return [entry for entry in self.entries if entry.gated and entry.limits]

    @property
    def beside(self) -> list[Entry]:
        """The others."""
        return [entry for entry in self.entries if not (entry.gated and entry.limits)]


def worst(entries: Iterable[Entry], count: int) -> list[tuple[Entry, Point]]:
    """The worst rows, each once, with the claim in which it is worst. Ratios repeat times, and are passed over."""
    found: dict[tuple[str, str], tuple[Entry, Point]] = {}
    for entry in entries:
        for point in entry.points if entry.limits.signs_right is None else ():
            where = point.group, point.label
            if where not in found or abs(point.error) > abs(found[where][1].error):
                found[where] = entry, point
    return sorted(found.values(), key=lambda one: (-abs(one[1].error), one[1].group, one[1].label))[:count]


def pooled(entries: Iterable[Entry]) -> list[tuple[str, list[Entry]]]:
    """Claims predicted the same way and held to the same limits: (how, the claims)."""
    same: dict[tuple[str, Limits], list[Entry]] = {}
    for entry in entries:
        same.setdefault((entry.how, entry.limits), []).append(entry)
    return [(how, found) for (how, _), found in same.items()]


def broken_down(entries: Sequence[Entry], part: Callable[[Point], str]) -> list[tuple[str, str, str, Summary]]:
    """(what, how, part, summary) of each claim's points by group or regime; claims about one group are pooled first."""
    points: dict[tuple[str, str, str], list[Point]] = {}
    alone = {id(entry): len({point.group for point in entry.points}) == 1 for entry in entries}
    for entry in entries:
        beside = {other.what for other in entries if alone[id(other)] and other.how == entry.how}
        what = "all" if alone[id(entry)] and len(beside) > 1 else entry.what
        for point in entry.points:
            points.setdefault((what, entry.how, part(point)), []).append(point)
    return [(*where, Summary.of(found)) for where, found in points.items()]
