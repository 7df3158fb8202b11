"""What schemes cost in accuracy, looked up in measured tables (`sim/profiles/accuracy-*.json`).

Engines compress large messages, which are prompts', and send decode's as they are; then what a scheme costs is what its
prompts leave behind for an exact answer. Each table holds both: `prompt`, and `all` positions compressed.
A simulator cannot know it: `validation/quality/measure_accuracy.py` ran the schemes on a model and wrote what it found.
The figure is that model's, whatever model is predicted, and is shown with its name.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from thinwire.edge.words import shown
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.mixed import AnyScheme, MixedScheme
from thinwire.sim.choices import Compress

TABLES = Path(__file__).parents[1] / "profiles"
_NAMES = "accuracy-*.json"
NO_EXPERTS = (None, None)  # models without experts were measured: nothing to dispatch, nothing to combine


@dataclass(frozen=True, slots=True)
class Figure:
    """A scheme's accuracy on one model. Intervals as measured, at `confidence`; None where a figure is not finite.

    tp: TP degree it was measured at, the nearest to the one asked for. compress: positions that were compressed.
    prompt_tokens: of a window, None where all were.
    """

    model: str
    title: str
    tp: int
    compress: Compress
    prompt_tokens: int | None
    tokens: int
    windows: int
    confidence: float
    perplexity_ratio: float | None
    perplexity_ratio_interval: tuple[float, float] | None
    kl: float | None
    top1_agreement: float | None
    source: str

    def to_dict(self) -> dict[str, Any]:
        """`accuracy` in the rows of `compare --json`."""
        interval = self.perplexity_ratio_interval
        return {
            "perplexity_ratio": self.perplexity_ratio,
            "perplexity_ratio_interval": None if interval is None else list(interval),
            "kl": self.kl,
            "top1_agreement": self.top1_agreement,
            "measured_on": self.title,
            "model": self.model,
            "tp": self.tp,
            "compress": self.compress,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "windows": self.windows,
            "confidence": self.confidence,
            "source": self.source,
        }


def figure(scheme: AnyScheme, tp: int, islands: int = 2, compress: Compress = "prompt") -> Figure | None:
    """What is known of a scheme, at the TP degree asked for or the nearest measured one (by ratio, the larger of two).

    islands: of the ranks, for `hierarchical`, which was measured on two and is `two_step` where there is nothing to
    tell apart (`reference.core.schedule.build`). compress: positions that the deployment compresses.

    None where it was not measured, and on one rank, where nothing is sent. Chunks, fused kernels and names change no
    figure: schemes are told apart by codecs, those for experts too, collective, exempt tokens, dropped sync points and
    split sequence. A mixed scheme is no scheme of a table.
    """
    if isinstance(scheme, MixedScheme):
        return None
    measured = {} if tp == 1 else _measured(TABLES).get((compress, *identity(scheme, tp, islands)), {})
    if not measured:
        return None
    return measured[min(measured, key=lambda found: (abs(math.log2(found / tp)), -found))]


def identity(scheme: Scheme, tp: int = 4, islands: int = 2) -> tuple[Any, ...]:
    """What tells a scheme apart from others on so many ranks and islands: not its chunks, fused kernels and name."""
    flat = scheme.collective == "hierarchical" and not 1 < islands < tp
    codecs = (scheme.reduce.spec, scheme.gather.spec, "two_step" if flat else scheme.collective)
    exempt = (scheme.exempt_tokens, scheme.exempt_last_tokens)
    experts = tuple(codec and codec.spec for codec in (scheme.dispatch, scheme.combine))
    return (*codecs, *exempt, scheme.drop_attention_percent, scheme.sequence_split, *experts)


@lru_cache(maxsize=8)
def _measured(folder: Path) -> Mapping[tuple[Any, ...], Mapping[int, Figure]]:
    """By scheme and TP degree. ValueError for a table that lacks a key or its source, or two that hold the same row."""
    found: dict[tuple[Any, ...], dict[int, Figure]] = {}
    holder: dict[tuple[Any, ...], Path] = {}
    for path in sorted(folder.glob(_NAMES)):
        for identity, known in _rows(path):
            first = holder.setdefault((identity, known.tp), path)
            if first != path:
                raise ValueError(f"{first} and {path} both hold {' '.join(map(str, identity))} at TP {known.tp}")
            found.setdefault(identity, {})[known.tp] = known
    return found


def _rows(path: Path) -> list[tuple[tuple[Any, ...], Figure]]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        found = []
        for row in table["rows"]:
            codecs = (row["reduce"], row["gather"], row["collective"])
            options = ("exempt_tokens", "exempt_last_tokens", "drop_attention_percent", "sequence_split")
            known = _figure(table, row)
            identity = (known.compress, *codecs, *(row[name] for name in options), *NO_EXPERTS)
            hash(identity)
            found.append((identity, known))
        return found
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no table of accuracies: {type(error).__name__}: {error}") from None


def _figure(table: Mapping[str, Any], row: Mapping[str, Any]) -> Figure:
    source, interval = table["source"], row["perplexity_ratio_interval"]
    if isinstance(row["tp"], bool) or not isinstance(row["tp"], int) or row["tp"] < 1:
        raise ValueError(f"tp must be a positive whole number: {shown(row['tp'])}")
    if row["compress"] not in get_args(Compress):
        raise ValueError(f"compress must be one of {', '.join(get_args(Compress))}: {shown(row['compress'])}")
    ends = interval if isinstance(interval, list) and len(interval) == 2 else [interval]
    for figure in (row["perplexity_ratio"], row["kl"], row["top1_agreement"], *ends):
        if figure is not None and (isinstance(figure, bool) or not isinstance(figure, int | float)):
            raise ValueError(f"figures are numbers or null, an interval is two numbers: {shown(figure)}")
    return Figure(
        model=table["model"],
        title=table["title"],
        tp=row["tp"],
        compress=row["compress"],
        prompt_tokens=row["prompt_tokens"],
        tokens=row["tokens"],
        windows=row["windows"],
        confidence=table["confidence"],
        perplexity_ratio=row["perplexity_ratio"],
        perplexity_ratio_interval=None if interval is None else (interval[0], interval[1]),
        kl=row["kl"],
        top1_agreement=row["top1_agreement"],
        source=f"{source['kind']}: {source['how']}; text: {source['text']}",
    )
