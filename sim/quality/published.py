"""What others published of the accuracy of schemes (`sim/profiles/published-accuracy.json`): beside our own figures,
never in them.

A row is one score of one model under one all-reduce, with who says so and how it came about. Most are the word of who
makes the scheme, and say so. `match`: its wire is that of `spec`, a scheme of ours, to the byte (`exact`) or but for
what `differs` says (`near`); a row whose `spec` is null is of no scheme of ours. `retained`: the share of the
uncompressed score that is kept, of scores of which more is better. `se_estimated`: what chance alone does to a score
of `n` questions, estimated. `about`: its figures are rounded words. What was left out of the table stands in it, too.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from thinwire.edge.reading import from_json
from thinwire.edge.words import shown
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.mixed import AnyScheme, MixedScheme
from thinwire.sim.quality.figures import identity

T = TypeVar("T")

TABLE = Path(__file__).parents[1] / "profiles" / "published-accuracy.json"

Evidence = Literal[
    "served", "simulated", "measured", "unpaired", "confounded", "no baseline", "abstract", "operator", "statement",
    "summary", "claim", "failure",
]  # fmt: skip
# How a row came about, the best first.
EVIDENCE: Mapping[Evidence, str] = MappingProxyType(
    {
        "served": "measured on a served model, with and without compression",
        "simulated": "measured, all ranks simulated in one process",
        "measured": "measured, how the model ran is not said",
        "unpaired": "measured, but what it is held against is of another day",
        "confounded": "measured, but something else was changed with it",
        "no baseline": "measured, but nothing is shown that it can be held against",
        "abstract": "a paper's abstract, its tables not seen",
        "operator": "the error of one all-reduce, no model's score",
        "statement": "a maintainer's word",
        "summary": "somebody's account of a paper",
        "claim": "said, the figures not seen",
        "failure": "a report of what went wrong",
    }
)
MEASURED: frozenset[Evidence] = frozenset({"served", "simulated", "measured"})  # what may decide
Speaker = Literal["vendor", "authors", "others", "unknown"]
FEW = 5  # rows that are shown where nobody asked for all


@dataclass(frozen=True, slots=True)
class Source:
    """Who says so. short: as a line quotes it. by: what `who` is to the scheme. dated: as far as known."""

    cite: str
    short: str
    who: str
    by: Speaker
    dated: str
    note: str


@dataclass(frozen=True, slots=True)
class Published:
    """A row of the table; the module says what its keys mean."""

    source: Source
    name: str
    spec: str | None
    task: str
    higher_is_better: bool | None
    evidence: Evidence
    bits: float | None
    match: Literal["exact", "near"] | None = None
    differs: str = ""
    passes: int | None = None
    model: str | None = None
    catalog: str | None = None
    tp: int | None = None
    metric: str = ""
    uncompressed: float | None = None
    compressed: float | None = None
    retained: float | None = None
    about: bool = False
    se_estimated: float | None = None
    n: int | None = None
    hardware: str = ""
    said: str = ""
    note: str = ""

    @property
    def decides(self) -> bool:
        """Whether it may decide on accuracy: a share of a score, measured with and without compression alone."""
        return self.evidence in MEASURED and self.retained is not None

    def is_of(self, model: str) -> bool:
        """Whether it is of this very model, by a name of the catalog's or of Hugging Face's; a family is no match."""
        return _plain(model) in {_plain(name) for name in (self.model, self.catalog) if name is not None}

    @property
    def scored(self) -> str:
        """What was scored, and how it came out."""
        what = self.task if self.metric in ("", "accuracy") else f"{self.task}, {self.metric}"
        if self.said:
            return f"{what}: {self.said}"
        about = "about " if self.about else ""
        if self.compressed is None:
            return what if self.retained is None else f"{what}: {about}{self.retained:.1%} kept"
        if self.uncompressed is None:
            return f"{what} {about}{self.compressed:g}"
        return f"{what} {about}{self.uncompressed:g} -> {self.compressed:g}"

    @property
    def line(self) -> str:
        """In one line: the figures, of which model, who says so, and what to keep in mind."""
        counted = "" if self.n is None else f" (n = {self.n:,})"
        tp = "" if self.tp is None else f" TP {self.tp}"
        model = "no model" if self.evidence == "operator" else self.model or "model not named"
        doubts: list[str] = [self.evidence] if self.evidence not in ("served", "measured") else []
        doubts += [f"near: {self.differs}"] if self.match == "near" else []
        doubts += [f"vendor's claim ({self.source.who})"] if self.source.by == "vendor" else []
        doubts += ["authors' claim"] if self.source.by == "authors" else []
        return "; ".join([f"{self.scored}{counted}, {model}{tp}, {self.source.short}", *doubts])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as rows of `compare --json` and `schemes --json` have them."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("source", "note")}
        source = self.source
        notes = [source.note, self.note]
        return {
            **{name: None if value == "" else value for name, value in own.items()},
            "source": source.cite,
            "who": source.who,
            "by": source.by,
            "vendor_claim": source.by == "vendor",
            "dated": source.dated or None,
            "note": "; ".join(filter(None, notes)) or None,
            "line": self.line,
        }


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.lower())


@dataclass(frozen=True, slots=True)
class Found:
    """A row that matches a scheme, and whether it is of the model asked about."""

    row: Published
    same_model: bool

    def to_dict(self) -> dict[str, Any]:
        """The row's, and whose it is."""
        return {**self.row.to_dict(), "same_model": self.same_model}


def rows_of(scheme: AnyScheme, tp: int | None = None, islands: int = 2, model: str | None = None) -> tuple[Found, ...]:
    """Rows of a scheme: those of the model first, the best evidence, scores, exact before near, the nearest TP degree.

    Schemes are told apart by what they do, as `figures.figure` does, not by name. tp: None asks for no degree. Nothing
    on one rank, where nothing is sent, of a mixed scheme, and of a carrier's, whose numbers are bf16's.
    """
    if isinstance(scheme, MixedScheme) or tp == 1 or scheme.carrier is not None:
        return ()
    asked = identity(scheme) if tp is None else identity(scheme, tp, islands)
    found = [Found(row, model is not None and row.is_of(model)) for row in _by_scheme(TABLE).get(asked, ())]
    order = tuple(EVIDENCE)

    def place(one: Found) -> tuple[Any, ...]:
        row = one.row
        far = 0.0 if tp is None else math.inf if row.tp is None else abs(math.log2(row.tp / tp))
        return not one.same_model, order.index(row.evidence), not row.decides, row.match != "exact", far

    return tuple(sorted(found, key=place))


@dataclass(frozen=True, slots=True)
class Kept:
    """What published figures say of a scheme, for a decision: the least share of a score that is kept, and why."""

    share: float
    by: Literal["published", "uncompressed"]
    said: str


def kept(scheme: AnyScheme, tp: int, islands: int, model: str) -> Kept | None:
    """The worst of the rows that may decide: of this model where there are any, else of all. None: there are no rows.

    All is kept where nothing is lossy: on one rank, and where everything travels as bf16 or fp32.
    """
    if tp == 1 or _lossless(scheme):
        return Kept(1.0, "uncompressed", "nothing is compressed")
    found = [one for one in rows_of(scheme, tp, islands, model) if one.row.decides]
    looked = [one for one in found if one.same_model] or found
    if not looked:
        return None
    worst = min(looked, key=lambda one: one.row.retained or 0.0)
    whose = model if worst.same_model else f"other models, none of {model},"
    of = f"the worst of {len(looked)} rows of" if len(looked) > 1 else "the one row of"
    share = worst.row.retained or 0.0
    return Kept(share, "published", f"{of} {whose} keeps {share:.2%}: {worst.row.line}")


def _lossless(scheme: AnyScheme) -> bool:
    if isinstance(scheme, MixedScheme):
        return all(entry is not None and _lossless(entry) for entry in (*scheme.attention, *scheme.mlp))
    codecs = (scheme.reduce, scheme.gather, scheme.dispatch, scheme.combine)
    formats = {codec.spec for codec in codecs if codec is not None}
    return formats <= {"bf16", "fp32"} and not scheme.drop_attention_percent and scheme.collective != "none"


def few(found: Sequence[tuple[str, Sequence[Found]]], most: int = FEW) -> list[tuple[str, Found]]:
    """Of rows by scheme, those to show where there is room for so many: what is measured before what is not, the best
    of each scheme before the second best of any; in the order of the schemes.
    """
    order = tuple(EVIDENCE)
    ranked = [
        (not one.row.decides, rank, not one.same_model, order.index(one.row.evidence), place)
        for place, (_, rows) in enumerate(found)
        for rank, one in enumerate(rows)
    ]
    taken = sorted((place, rank) for _, rank, _, _, place in sorted(ranked)[:most])
    return [(found[place][0], found[place][1][rank]) for place, rank in taken]


# ---- the table


def rows() -> tuple[Published, ...]:
    """All of it, in the file's order."""
    return _table(TABLE)


def left_out() -> tuple[Mapping[str, str], ...]:
    """What was found and is no row, and why."""
    return tuple(from_json(TABLE, "the published figures")["left_out"])


@lru_cache(maxsize=8)
def _by_scheme(path: Path) -> Mapping[tuple[Any, ...], tuple[Published, ...]]:
    found: dict[tuple[Any, ...], list[Published]] = {}
    for row in _table(path):
        if row.spec is not None:
            found.setdefault(identity(find_scheme(row.spec)), []).append(row)
    return {key: tuple(rows) for key, rows in found.items()}


@lru_cache(maxsize=8)
def _table(path: Path) -> tuple[Published, ...]:
    """ValueError for a file that is no such table: a key that is unknown or lacks, a value of another kind."""
    document, place = from_json(path, "the published figures"), ""
    try:
        place = "sources"
        sources = {key: _made(Source, value) for key, value in document["sources"].items()}
        found = []
        for number, row in enumerate(document["rows"], 1):
            place = f"row {number}"
            model = document["models"][row["model"]]["catalog"] if "model" in row else None
            found.append(_checked(_made(Published, {**row, "source": sources[row["source"]], "catalog": model})))
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is no table of published figures: {place}: {type(error).__name__}: {error}") from None
    return tuple(found)


_PLAIN: Mapping[Any, tuple[type, ...]] = {float: (float, int), type(None): (type(None),)}


def _made(kind: type[T], given: Mapping[str, Any]) -> T:
    """A value of a dataclass, each field of its declared type and finite."""
    hints = get_type_hints(kind)
    for name, value in given.items():
        one_of = get_args(hints[name]) or (hints[name],)  # KeyError: an unknown key
        allowed = [each for option in one_of for each in get_args(option) or (option,)]
        fits = any(type(value) in _PLAIN.get(a, (a,)) if isinstance(a, type) else value == a for a in allowed)
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name}: {shown(value)}")
    return kind(**given)


def _checked(row: Published) -> Published:
    """What no type says. A row of no scheme of ours says what its wire is."""
    if (row.spec is None) != (row.match is None) or (row.spec is None and not row.differs):
        raise ValueError(f"a row has a spec and how it matches, or says what differs: {shown(row.name)}")
    if row.match == "near" and not row.differs:
        raise ValueError(f"near, but not in what: {shown(row.name)}")
    if row.retained is not None and (row.higher_is_better is not True or not 0 <= row.retained < 2):
        raise ValueError(f"retained is a share of a score of which more is better: {row.retained}")
    if row.tp is not None and row.tp < 2:
        raise ValueError(f"one rank sends nothing: tp={row.tp}")
    if row.spec is not None:
        find_scheme(row.spec)  # ValueError: no scheme of ours
    return row
