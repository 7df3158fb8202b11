"""A scheme for every sync point: one for all (`Scheme`), or one each (`MixedScheme`), in code or in a TOML file.

A tensor-parallel decoder has two sync points a layer, after attention and after the MLP. Some cost a model far more
than others when they are compressed (docs/decisions/012-auto.md), so each may have a scheme of its own. The simulator
and the reference both ask `plan_of` what happens where, and nobody else resolves dropped sync points.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thinwire.edge.limits import LAYERS
from thinwire.edge.reading import UnreadableError, from_toml
from thinwire.edge.words import cut, place, refusal, shown
from thinwire.edge.writing import write_text
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.core.scheme import Scheme

Site = Literal["attention", "mlp"]
Point = tuple[int, Site]  # (layer from 0, site)
SITES: tuple[Site, ...] = ("attention", "mlp")
Plan = Mapping[Point, Scheme | None]  # None = this sync point is dropped

DROP = "drop"  # how a file says None


@dataclass(frozen=True, slots=True)
class MixedScheme:
    """A scheme for each sync point of one model.

    attention, mlp: by layer, first to last; None drops a sync point. model: whom it was chosen for, for people to
    read. sequence_split: share of the tokens in the first half of a split sequence, as a `Scheme` has it; the schemes
    inside have none, nor dropped points of their own. Raises ValueError for lists of different lengths, a last sync
    point dropped (the ranks would end with different values), or a scheme that says what only the whole can say.
    """

    name: str
    attention: tuple[Scheme | None, ...]
    mlp: tuple[Scheme | None, ...]
    model: str = ""
    sequence_split: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if not self.attention or len(self.attention) != len(self.mlp):
            raise ValueError(
                f"{self.name}: attention and mlp must name a scheme for each layer: {len(self.attention)} and "
                f"{len(self.mlp)} given"
            )
        if self.mlp[-1] is None:
            raise ValueError(f"{self.name}: the last sync point of a model cannot be dropped")
        if self.sequence_split is not None and not 0 < self.sequence_split < 1:
            raise ValueError(f"{self.name}: sequence_split must lie between 0 and 1: {self.sequence_split}")
        for scheme in entries(self):
            if scheme.collective == "none" or scheme.drop_attention_percent or scheme.sequence_split is not None:
                raise ValueError(
                    f"{self.name}: a sync point takes a codec and a collective; dropped points are {shown(DROP)} and a "
                    f"split is the whole's: {shown(scheme.name)}"
                )

    @property
    def layers(self) -> int:
        """Layers of the model it is for."""
        return len(self.mlp)

    @property
    def is_raw(self) -> bool:
        """True where no sync point that stays compresses."""
        return all(scheme.is_raw for scheme in entries(self))


AnyScheme = Scheme | MixedScheme


def entries(scheme: AnyScheme) -> tuple[Scheme, ...]:
    """Every scheme that runs at some sync point, each once, in the order in which they come."""
    if isinstance(scheme, Scheme):
        return (scheme,)
    by_point = (entry for layer in zip(scheme.attention, scheme.mlp, strict=True) for entry in layer)
    return tuple(dict.fromkeys(entry for entry in by_point if entry is not None))


def points(num_layers: int) -> tuple[Point, ...]:
    """Every sync point of a decoder, in the order in which they come."""
    return tuple((layer, site) for layer in range(num_layers) for site in SITES)


def plan_of(scheme: AnyScheme | str, num_layers: int) -> dict[Point, Scheme | None]:
    """What happens at every sync point of a model of `num_layers` layers; dropped points are None.

    Equal entries are the same object. Raises ValueError for a mixed scheme of another number of layers.
    """
    found = find(scheme) if isinstance(scheme, str) else scheme
    if isinstance(found, Scheme):
        kept = found.kept_attention(num_layers)
        return {(layer, site): found if site == "mlp" or kept[layer] else None for layer, site in points(num_layers)}
    if found.layers != num_layers:
        raise ValueError(
            f"{found.name} names schemes for {found.layers} layers"
            f"{f' ({found.model})' if found.model else ''}, the model has {num_layers}"
        )
    by_site = {"attention": found.attention, "mlp": found.mlp}
    own = {entry: entry for entry in (*found.attention, *found.mlp)}
    return {(layer, site): own[by_site[site][layer]] for layer, site in points(num_layers)}


# ---- names and files


def auto_budget(name: str) -> float | None:
    """The share by which perplexity may rise: 0.01 of `auto:+1%`; None for names of other schemes.

    Raises ValueError for a budget that is not a percentage of 0 or more.
    """
    if not (name.startswith("auto:") and name.endswith("%")):  # auto:bf16 is a spec: a collective and a codec
        return None
    match = re.fullmatch(r"auto:\+?(\d+(?:\.\d+)?)%", name)
    if match is None:
        raise ValueError(f"auto takes a budget of perplexity in percent, 0 or more, such as auto:+1%: {shown(name)}")
    return float(match[1]) / 100


def auto_name(budget: float) -> str:
    """The name of a scheme chosen under a budget: `auto:+1%` for 0.01."""
    return f"auto:+{budget * 100:.10g}%"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1)]
    attention: Annotated[list[str], Field(max_length=LAYERS.most)]
    mlp: Annotated[list[str], Field(max_length=LAYERS.most)]
    model: str = ""
    sequence_split: float | None = None
    source: str = ""


def find(name_or_path: str) -> AnyScheme:
    """The scheme of a catalog name, a combination, a spec, or a TOML file (`*.toml`) that holds a mixed one.

    Raises ValueError for what is neither, naming what was given and what is allowed, and for `auto:+1%`: that is chosen
    for a model, a machine and a prompt, which nobody here knows.
    """
    if auto_budget(name_or_path) is not None:
        raise ValueError(
            f"{cut(name_or_path)} is chosen for a model, a machine and a prompt: predict, compare and serve take it; "
            "`thinwire auto` writes it to a file that everything takes"
        )
    return read(Path(name_or_path)) if name_or_path.endswith(".toml") else find_scheme(name_or_path)


def read(path: Path) -> MixedScheme:
    """A mixed scheme from its file; ValueError names the file and what is wrong with it."""
    try:
        given = _File.model_validate(from_toml(path, "the scheme file"))
        entries = {name: None if name == DROP else find_scheme(name) for name in (*given.attention, *given.mlp)}
        return MixedScheme(
            given.name,
            tuple(entries[name] for name in given.attention),
            tuple(entries[name] for name in given.mlp),
            given.model,
            given.sequence_split,
            given.source,
        )
    except UnreadableError:
        raise
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        where = ".".join(cut(str(part)) for part in wrong["loc"]) or "file"
        allowed = ", ".join(_File.model_fields)
        raise ValueError(f"{place(path)}: {where}: {refusal(wrong)} (allowed: {allowed})") from None
    except ValueError as error:  # an unknown scheme
        raise ValueError(f"{place(path)}: {error}") from None


def write(scheme: MixedScheme, path: Path) -> None:
    """Write a mixed scheme so that `read` gives it back. OSError where the file cannot be written."""
    write_text(path, text(scheme))


def text(scheme: MixedScheme) -> str:
    """The file of a mixed scheme: TOML, a line a layer."""
    lines = ["# A scheme for each sync point of a model: thinwire predict, compare and accuracy take it as --scheme."]
    lines += [f"{key} = {_quoted(value)}" for key, value in _header(scheme).items() if value]
    if scheme.sequence_split is not None:
        lines.append(f"sequence_split = {shown(scheme.sequence_split)}")
    for site, entries in (("attention", scheme.attention), ("mlp", scheme.mlp)):
        names = (DROP if entry is None else entry.name for entry in entries)
        lines += [f"{site} = [", *(f"  {_quoted(name)},  # layer {layer}" for layer, name in enumerate(names)), "]"]
    return "\n".join(lines) + "\n"


def _header(scheme: MixedScheme) -> dict[str, str]:
    return {"name": scheme.name, "model": scheme.model, "source": scheme.source}


def _quoted(value: str) -> str:
    """A TOML basic string."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
