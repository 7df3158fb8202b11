"""The two tables of what compression costs, asked by scheme: what docs/accuracy.md is made of. No torch.

Schemes are told apart by what they do, as `sim.quality.figures` does, so a scheme that the catalog names later is found
under its old name. TP is 4 where nothing else is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from thinwire.edge.reading import from_json
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.catalog import schemes as catalog_schemes
from thinwire.reference.core.schedule import build
from thinwire.reference.core.scheme import Scheme
from thinwire.sim.choices import Compress
from thinwire.sim.quality.figures import identity

PROFILES = Path(__file__).resolve().parents[2] / "sim" / "profiles"
ACCURACY, PROMPT = PROFILES / "accuracy-smollm2-135m.json", PROFILES / "prompt-smollm2-135m.json"
TP = 4
MESSAGE = 1 << 20  # values, of which bits and bytes are counted
# Beside the catalog's: what is asked about most, and what has look-ups and answers.
MORE = (
    "two_step:int6-g128-zp-sr", "two_step:int5-g128-zp-sr", "two_step:int4-g32-zp", "two_step:int4-g128-zp-sr",
    "two_step:int4-g128-zp-h128", "flash-int4+exempt-last-1", "flash-int4+exempt-last-4", "flash-int4+exempt-last-16",
)  # fmt: skip

Row = Mapping[str, Any]
Key = tuple[Any, ...]


class Estimate(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def shows(self) -> bool:
        """Whether a change differs from none by more than chance."""
        return not self.low <= 0 <= self.high


class Lookups(NamedTuple):
    """A task at a length: points of right answers that a scheme loses against exact, of so many trials."""

    lost: Estimate
    right: Estimate
    trials: int


@dataclass(frozen=True)
class Measured:
    """Both documents as they lie in files. Nothing is known of a scheme: None."""

    accuracy: Mapping[str, Any]
    prompt: Mapping[str, Any]

    def loss(self, name: str, compress: Compress = "prompt", tp: int = TP) -> Row | None:
        """The row of a scheme: `perplexity_ratio`, `kl`, `top1_agreement`."""
        return self._losses.get((compress, tp, identity(find_scheme(name), TP)))

    def reach(self, name: str, length: int, edge: int) -> Row | None:
        """The row of one stretch of an answer behind a prompt; edge: its last token."""
        return self._reaches.get((length, edge, identity(find_scheme(name), TP)))

    def lookups(self, name: str, task: str, length: int) -> Lookups | None:
        """A scheme's look-ups; `exact` is the uncompressed model's."""
        row = self._cases.get((f"retrieval {task} {length}", _key(name)))
        if row is None:
            return None
        value, (low, high) = row["lost"]["value"], row["lost"]["interval"]
        share, ends = row["right"]["value"], row["right"]["interval"]
        right = Estimate(100 * share, 100 * ends[0], 100 * ends[1])
        return Lookups(Estimate(0.0 - 100 * value, 0.0 - 100 * high, 0.0 - 100 * low), right, row["trials"])

    def greedy(self, name: str) -> Row | None:
        """The row of greedy answers."""
        return self._cases.get(("greedy", _key(name)))

    def variant(self, name: str) -> Row | None:
        """The row of a rounding that no scheme has."""
        return self._cases.get(("variants", name))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every scheme with both positions at TP 4 that only compresses: no sync point dropped, no sequence split."""
        found: dict[Key, str] = {}
        for row in self.accuracy["rows"]:
            scheme = find_scheme(row["scheme"])
            plain = not scheme.drop_attention_percent and scheme.sequence_split is None
            if plain and all(self.loss(row["scheme"], compress) for compress in ("prompt", "all")):
                found.setdefault(identity(scheme, TP), shown_name(row["scheme"]))
        return tuple(found.values())

    @cached_property
    def main(self) -> tuple[str, ...]:
        """The catalog's schemes that only compress, and MORE, as far as measured, most bits first; alike ones once."""
        found: dict[Key, str] = {}
        for name in (*catalog_schemes(), *MORE):
            scheme = find_scheme(name)
            other = scheme.drop_attention_percent or scheme.sequence_split or scheme.collective == "hierarchical"
            raw = scheme.is_raw
            if not other and (name == "bf16" or not raw) and self.loss(name) is not None:
                found.setdefault(identity(scheme, TP), shown_name(name))
        return tuple(sorted(found.values(), key=lambda name: -bits(name)))

    @cached_property
    def machines(self) -> tuple[str, ...]:
        """Where what the page shows was measured."""
        used = [row["machine"] for key, row in self._losses.items() if key[0] == "prompt" or key[1] == TP]
        return tuple(sorted({*used, *(row["machine"] for row in self.prompt["rows"])}))

    @cached_property
    def _losses(self) -> Mapping[Key, Row]:
        found: dict[Key, Row] = {}
        for row in self.accuracy["rows"]:
            found.setdefault((row["compress"], row["tp"], _key(row["scheme"])), row)
        return found

    @cached_property
    def _reaches(self) -> Mapping[Key, Row]:
        rows = [row for row in self.prompt["rows"] if row["case"].startswith("reach ") and row["tp"] == TP]
        return {(row["prompt_tokens"], row["edge"], _key(row["scheme"])): row for row in rows}

    @cached_property
    def _cases(self) -> Mapping[Key, Row]:
        rows = [row for row in self.prompt["rows"] if not row["case"].startswith("reach ")]
        return {(row["case"], row["scheme"] if row["case"] == "variants" else _key(row["scheme"])): row for row in rows}

    def of_case(self, case: str) -> tuple[str, ...]:
        """The schemes of a case, in the table's order, `exact` left out."""
        names = [row["scheme"] for row in self.prompt["rows"] if row["case"] == case]
        return tuple(shown_name(name) for name in names if name != "exact")


def shipped() -> Measured:
    """The tables that ship."""
    return Measured(from_json(ACCURACY, "measured accuracies"), from_json(PROMPT, "measurements of prompts"))


def estimate(row: Row, figure: str) -> Estimate:
    """A figure of a row with its interval."""
    return Estimate(row[figure], *row[f"{figure}_interval"])


def known(row: Row | None) -> Row:
    """A row that cannot be done without."""
    if row is None:
        raise ValueError("the tables lack a row that docs/accuracy.md is about: measure it, or change the page")
    return row


def kl(row: Row) -> Estimate:
    """KL(exact || scheme), in nats a token."""
    return estimate(row, "kl")


def shown_name(name: str) -> str:
    """The catalog's name for what a scheme does, where it has one."""
    key = _key(name)
    return next((known for known in catalog_schemes() if _key(known) == key), find_scheme(name).name)


def both_bits(name: str) -> tuple[float, float]:
    """Bits a value of either phase's codec."""
    scheme = find_scheme(name)
    found = [8 * codec.wire_bytes(MESSAGE) / MESSAGE for codec in (scheme.reduce, scheme.gather)]
    return found[0], found[1]


def bits(name: str) -> float:
    """Bits a value on the wire: those of the wider codec."""
    return max(both_bits(name))


def two_steps(name: str) -> bool:
    """Whether values are quantised twice, and a GPU sends as little as a ring's."""
    return find_scheme(name).collective == "two_step"


def sent(name: str, tp: int = TP) -> float:
    """Bytes a GPU sends, over those of a bf16 ring."""
    scheme = find_scheme(name)
    rank = [_sent(each, tp) for each in (scheme, find_scheme("bf16-ring"))]
    return rank[0] / rank[1]


def _sent(scheme: Scheme, tp: int) -> float:
    flat = replace(scheme, collective="ring", carrier=None) if scheme.collective == "auto" else scheme
    half = tp // 2
    islands = (tuple(range(half)), tuple(range(half, tp))) if scheme.collective == "hierarchical" else None
    counted = build(flat, tp, MESSAGE, islands).sent_bytes()
    return max(counted.values()) * (1 - scheme.drop_attention_percent / 200)


def _key(name: str) -> Any:
    return name if name == "exact" else identity(find_scheme(name), TP)


def least(measured: Measured, names: Sequence[str], compress: Compress) -> str:
    """The scheme of least KL."""

    def loss(name: str) -> float:
        row = measured.loss(name, compress)
        return float("inf") if row is None else kl(row).value

    return min(names, key=loss)
