"""What perplexity does not see: whether a model still finds things in a compressed prompt.

Read from `sim/profiles/prompt-*.json`, which `make prompt` measured (`reference.quality.retrieval` asks the questions).
Of what is there, comparisons show the harder task, one of several keys' numbers asked for, at the longest prompts that
every scheme of the study was tried at.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from thinwire.edge.reading import from_json
from thinwire.edge.words import place, shown
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.mixed import AnyScheme, MixedScheme
from thinwire.sim.quality.figures import identity

TABLES = Path(__file__).parents[1] / "profiles"
_NAMES = "prompt-*.json"
TASK, TOKENS = "key-value", 2000
_EXACT = "exact"


@dataclass(frozen=True, slots=True)
class Lookup:
    """Answers of one model behind prompts that a scheme compressed. right, exact: shares answered in full under the
    scheme and under exact sums; lost: the first minus the second, of the same trials, negative where a scheme loses,
    with its 95 % interval.
    """

    model: str
    tp: int
    task: str
    prompt_tokens: int
    trials: int
    right: float
    exact: float
    lost: float
    lost_interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """`lookups` in the rows of `compare --json`."""
        return {
            "model": self.model,
            "tp": self.tp,
            "task": self.task,
            "prompt_tokens": self.prompt_tokens,
            "trials": self.trials,
            "right": self.right,
            "exact": self.exact,
            "lost": self.lost,
            "lost_interval": list(self.lost_interval),
        }


def lookup(scheme: AnyScheme, tp: int, islands: int = 2) -> Lookup | None:
    """What was measured of a scheme, at whatever TP degree it was; None where it was not, and on one rank.

    A scheme that overlaps a split sequence sends each token's sums in the same codec, so it has what its codec alone
    was measured to have: perplexities of such pairs agree to every digit (tests/sim/quality/test_lookups.py).
    """
    if isinstance(scheme, MixedScheme) or tp == 1:
        return None
    return _measured(TABLES).get(identity(replace(scheme, sequence_split=None), tp, islands))


@lru_cache(maxsize=8)
def _measured(folder: Path) -> Mapping[tuple[Any, ...], Lookup]:
    """By what a scheme does. ValueError for a file that is no such table."""
    found: dict[tuple[Any, ...], Lookup] = {}
    for path in sorted(folder.glob(_NAMES)):
        try:
            table = from_json(path, "the look-ups")
            rows = [row for row in table["rows"] if row.get("task") == TASK and row["prompt_tokens"] == TOKENS]
            for row in rows:
                if row["scheme"] != _EXACT:
                    found[identity(find_scheme(row["scheme"]))] = _lookup(table["model"], row)
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{place(path)} is no table of look-ups: {type(error).__name__}: {error}") from None
    return found


def _lookup(model: str, row: Mapping[str, Any]) -> Lookup:
    low, high = row["lost"]["interval"]
    figures = (row["exact"], row["right"]["value"], row["lost"]["value"], low, high)
    if any(isinstance(x, bool) or not isinstance(x, int | float) or not -1 <= x <= 1 for x in figures):
        raise TypeError(f"shares are numbers in -1..1: {shown(figures)}")
    right, exact, lost = row["right"]["value"], row["exact"], row["lost"]["value"]
    return Lookup(model, row["tp"], row["task"], row["prompt_tokens"], row["trials"], right, exact, lost, (low, high))
