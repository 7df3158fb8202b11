"""What a codec at one sync point alone costs a model: measured tables (`sim/profiles/sensitivity-*.json`).

`thinwire sensitivity` measures them (validation/quality/measure_sensitivity.py); `sim.quality.auto` chooses by them.
What is measured is KL(exact || changed) of the next-token distributions, in nats a predicted token, which scatters far
less than the difference of two losses of the same text. A model in bf16 that is touched anywhere rounds differently
everywhere after that, which no second change makes worse; so a choice's loss is what it has above the choice `bf16` at
the same point.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from thinwire.edge.limits import GPUS, LAYERS
from thinwire.edge.reading import from_json
from thinwire.edge.words import cut, place, refusal
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.mixed import DROP, SITES, Point, Site
from thinwire.sim.choices import Compress

TABLES = Path(__file__).parents[1] / "profiles"
_NAMES = "sensitivity-*.json"
UNCOMPRESSED = "bf16"


@dataclass(frozen=True, slots=True)
class Sensitivities:
    """Losses of one model by choice, site and layer, at one TP degree.

    compress: positions at which choices were tried. loss: nats a predicted token above `bf16`'s; a choice is a scheme's
    name or `drop`. slope: what the text's loss
    rises by when many points are changed at once, over the sum of their losses here (1 where that was not measured).
    """

    model: str
    title: str
    tp: int
    layers: int
    compress: Compress
    loss: Mapping[str, Mapping[Site, tuple[float, ...]]]
    slope: float
    source: str

    def of(self, point: Point) -> dict[str, float]:
        """Loss of each choice at a point, by name."""
        layer, site = point
        return {name: by_site[site][layer] for name, by_site in self.loss.items() if site in by_site}


class _Losses(BaseModel):
    model_config = ConfigDict(extra="ignore")
    kl: list[Annotated[float, Field(ge=0, allow_inf_nan=False)]]


class _Additivity(BaseModel):
    model_config = ConfigDict(extra="ignore")
    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Source(BaseModel):
    model_config = ConfigDict(extra="ignore")
    kind: str
    how: str
    text: str


class _Table(BaseModel):
    model_config = ConfigDict(extra="ignore")
    kind: Literal["thinwire sensitivity 1"]
    model: str
    title: str
    layers: Annotated[int, Field(ge=1, le=LAYERS.most)]
    tp: Annotated[int, Field(ge=2, le=GPUS.most)]
    prompt_tokens: Annotated[int, Field(ge=1)] | None = None  # None: every position
    source: _Source
    choices: dict[str, dict[Site, _Losses]]
    additivity: _Additivity | None = None


def shipped(model: str, compress: Compress = "prompt") -> Sensitivities:
    """The measured table of a model of the catalog, of the positions that are compressed. ValueError where there is
    none, with those there are.
    """
    known = {name: found for (name, positions), found in _shipped(TABLES).items() if positions == compress}
    if model not in known:
        raise ValueError(
            f"nobody measured what the sync points of {model} cost: auto knows {', '.join(sorted(known)) or 'none'}; "
            "measure them with `thinwire sensitivity` and give its file to `thinwire auto --sensitivities`"
        )
    return known[model]


@lru_cache(maxsize=8)
def _shipped(folder: Path) -> Mapping[tuple[str, Compress], Sensitivities]:
    return {(found.model, found.compress): found for found in map(read, sorted(folder.glob(_NAMES)))}


def read(path: Path) -> Sensitivities:
    """A table from its file; ValueError names the file and what is wrong with it."""
    shown_path = place(path)
    try:
        table = _Table.model_validate(from_json(path, "the sensitivities"))
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        raise ValueError(f"{shown_path} is no table of sensitivities: {_place(wrong)}: {refusal(wrong)}") from None
    for name, by_site in table.choices.items():
        wanted = {"attention"} if name == DROP else set(SITES)
        lengths = {site: len(losses.kl) for site, losses in by_site.items()}
        if set(by_site) != wanted or set(lengths.values()) != {table.layers}:
            raise ValueError(
                f"{shown_path}: choice {cut(name)!r} must have {table.layers} losses for "
                f"{' and '.join(sorted(wanted))}: {lengths}"
            )
        try:
            _ = name == DROP or find_scheme(name)
        except ValueError as error:
            raise ValueError(f"{shown_path}: {error}") from None
    if UNCOMPRESSED not in table.choices:
        raise ValueError(f"{shown_path} lacks the choice {UNCOMPRESSED!r}, which the others are held against")
    floor = table.choices[UNCOMPRESSED]
    source = table.source
    return Sensitivities(
        table.model,
        table.title,
        table.tp,
        table.layers,
        "all" if table.prompt_tokens is None else "prompt",
        {
            name: {
                site: tuple(max(kl - least, 0.0) for kl, least in zip(losses.kl, floor[site].kl, strict=True))
                for site, losses in by_site.items()
            }
            for name, by_site in table.choices.items()
        },
        table.additivity.slope if table.additivity else 1.0,
        f"{source.kind}: {source.how}",
    )


def _place(wrong: Any) -> str:
    return ".".join(cut(str(part)) for part in wrong["loc"]) or "file"
