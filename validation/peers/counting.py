"""Who is closer: the counting behind report.py. Rows with answers in, shares and figures out.

Errors are predicted over measured, less one. A row is closer if the size of thinwire's error, with the row left out of
its fits, is smaller than that of every peer that answers; a tie is not closer. Rows no peer answers, rows that are a
peer's own data and rows that thinwire cannot leave out decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thinwire.validation.peers.rows import Row

THINWIRE = "thinwire"
PEERS = ("aiconfigurator", "genz")
LIMIT = 0.8  # share of the TTFT rows, the issue's
DIGITS = 5
WAYS = {"left_out": "row left out", "shipped": "shipped", "table_out": "whole table left out"}


@dataclass(frozen=True)
class Head:
    """A row with what each peer says: seconds, or why it says nothing."""

    row: Row
    answers: Mapping[str, float | str]

    def seconds(self, who: str) -> float | None:
        """Of a peer, or of thinwire in one of WAYS. None: no prediction."""
        said = getattr(self.row, who) if who in WAYS else self.answers[who]
        return float(said) if isinstance(said, float | int) else None

    def error(self, who: str) -> float | None:
        """Predicted over measured, less one. None: no prediction."""
        found = self.seconds(who)
        return None if found is None else found / self.row.measured - 1

    def size(self, who: str) -> float | None:
        """The error without its sign."""
        found = self.error(who)
        return None if found is None else abs(found)

    def closer(self, way: str = "left_out", than: Sequence[str] = PEERS) -> bool | None:
        """Is thinwire closer than every peer that answers? None: nobody can tell."""
        ours = self.size(way)
        theirs = [size for peer in than if (size := self.size(peer)) is not None]
        if ours is None or not theirs or not self.row.counted:
            return None
        return ours < min(theirs)

    def lead(self, peer: str) -> float | None:
        """How much smaller thinwire's error is than a peer's. None: one of them has no prediction."""
        ours, theirs = self.size("left_out"), self.size(peer)
        return None if ours is None or theirs is None else theirs - ours

    @property
    def group(self) -> tuple[str, str, str]:
        """Kind, source and machine."""
        return self.row.kind, self.row.source, self.row.machine


@dataclass(frozen=True)
class Share:
    """Of some rows: how many decide, and in how many thinwire is closer."""

    closer: int
    rows: int

    @classmethod
    def of(cls, heads: Iterable[Head], way: str = "left_out", than: Sequence[str] = PEERS) -> Share:
        """Count."""
        found = [said for head in heads if (said := head.closer(way, than)) is not None]
        return cls(sum(found), len(found))

    def __str__(self) -> str:
        return f"{self.closer} of {self.rows} ({self.closer / self.rows:.0%})" if self.rows else "no rows"

    @property
    def met(self) -> bool:
        """Is it the issue's share?"""
        return self.rows > 0 and self.closer >= LIMIT * self.rows


def grouped(heads: Iterable[Head]) -> dict[tuple[str, str, str], list[Head]]:
    """By kind, source and machine, as they come."""
    found: dict[tuple[str, str, str], list[Head]] = {}
    for head in heads:
        found.setdefault(head.group, []).append(head)
    return found


def sizes(heads: Iterable[Head], who: str) -> list[float]:
    """Sizes of error where there is a prediction."""
    return [size for head in heads if (size := head.size(who)) is not None]


def replaced(heads: Iterable[Head], answers: Mapping[str, float | str]) -> list[Head]:
    """The rows of other answers of AIConfigurator, with them."""
    return [Head(h.row, {**h.answers, "aiconfigurator": answers[h.row.id]}) for h in heads if h.row.id in answers]


def nearest(heads: Iterable[Head], variants: Mapping[str, Mapping[str, float | str]]) -> list[Head]:
    """Every row with whatever answer of AIConfigurator is nearest to the measurement."""

    def best(head: Head) -> Head:
        others = [h for answers in variants.values() for h in replaced([head], answers)]
        return min([head, *others], key=lambda h: inf if (size := h.size("aiconfigurator")) is None else size)

    return [best(head) for head in heads]


# --- the twin ---


def document(heads: Sequence[Head], raw: Mapping[str, Any]) -> dict[str, Any]:
    """peers.json: shares, groups and TTFT rows."""
    prefills = [h for h in heads if h.row.kind == "prefill"]
    counted = [h for h in heads if h.row.kind == "all_reduce" and h.row.counted]
    return {
        "limit": LIMIT,
        "shares": {
            "ttft": {way: _share(prefills, way) for way in WAYS},
            "all_reduce": {way: _share(counted, way) for way in ("left_out", "shipped")},
            "ttft_nearest_setting": {"left_out": _share(nearest(prefills, raw["variants"]), "left_out")},
        },
        "groups": [
            {
                "kind": kind, "source": source, "machine": machine, "rows": len(some),
                "counted": some[0].row.counted,
                **{who: _figures(sizes(some, who)) for who in (*WAYS, *PEERS)},
                "closer": Share.of(some).closer, "decided": Share.of(some).rows,
            }
            for (kind, source, machine), some in grouped(heads).items()
        ],
        "ttft": [
            {
                "id": h.row.id, "measured_s": h.row.measured, "how": h.row.how, "closer": h.closer(),
                **{who: _rounded(h.error(who)) for who in (*WAYS, *PEERS)},
            }
            for h in prefills
        ],
        "times": {name: facts["warm_s"] for name, facts in raw["tools"].items()},
    }  # fmt: skip


def _share(heads: Iterable[Head], way: str) -> dict[str, int]:
    found = Share.of(heads, way)
    return {"closer": found.closer, "rows": found.rows}


def _figures(found: Sequence[float]) -> dict[str, float | int] | None:
    if not found:
        return None
    return {"rows": len(found), "median": round(median(found), DIGITS), "worst": round(max(found), DIGITS)}


def _rounded(error: float | None) -> float | None:
    return None if error is None else round(error, DIGITS)
