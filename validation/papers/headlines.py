"""What papers claim, and the set-up in which thinwire is asked the same: `validation/published/headlines.toml`.

Facts only, each with its source and how it is known. A headline names the figure, the schemes that stand for the
system, what they are held against, and what we assumed because no source says it.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from thinwire.edge.reading import from_toml
from thinwire.edge.words import refusal
from thinwire.sim.choices import Weights
from thinwire.validation.fits.published_tables import PUBLISHED

FILE = PUBLISHED / "headlines.toml"
SHOWN = "validation/published"  # how commands name files of that folder, from the repository's root

Kind = Literal["ttft", "saving", "share", "collective", "cross", "compression", "bits"]
"""ttft, collective, cross: baseline over scheme. saving, share: what the scheme does without, in percent of the
baseline. compression: 16 over the bits of a value."""
Bound = Literal["up to", "about", "slower"]
Evidence = Literal["abstract", "caption", "code", "thread", "table", "secondary", "derived"]
Op = Literal["all_reduce", "all_to_all"]

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1, strict=True)]
Positive = Annotated[float, Field(gt=0)]
STRICT = ConfigDict(extra="forbid")
FILES = (".toml", ".json")  # what names no entry of a catalog
OF_BITS = ("compression", "bits")
NEEDS: dict[str, tuple[str, ...]] = {
    "ttft": ("model", "cluster", "tp", "batch", "input_tokens", "baseline"),
    "saving": ("model", "cluster", "tp", "batch", "input_tokens", "baseline"),
    "share": ("model", "cluster", "tp", "batch", "input_tokens", "baseline"),
    "collective": ("cluster", "tp", "bytes", "baseline"),
    "cross": ("model", "cluster", "tp", "batch", "text_tokens", "visual_tokens", "baseline"),
    "compression": (),
    "bits": (),
}


@checked(frozen=True, config=STRICT, kw_only=True)
class Headline:
    """One claim. value: a figure, or the least and the most; percent where the kind is a share of time.

    Where the set-up allows several schemes the best of them is ours.
    """

    id: Name
    system: Name
    source: Name
    evidence: Evidence
    claim: Name
    kind: Kind
    bound: Bound
    value: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=2)]
    stated: Name
    assumed: Name
    schemes: Annotated[tuple[Name, ...], Field(min_length=1)]
    why: Name | None = None  # a clause for the verdict
    baseline: Name | None = None
    model: Name | None = None
    cluster: Name | None = None
    tp: Count | None = None
    batch: Count | None = None
    input_tokens: Count | None = None
    text_tokens: Count | None = None
    visual_tokens: Count | None = None
    bytes: Count | None = None
    op: Op = "all_reduce"
    weights: Weights = "bf16"
    scale_link: Positive = 1.0  # on every link and pool of the machine

    def __post_init__(self) -> None:
        needs = NEEDS[self.kind]
        given = {name for name in ALL_NEEDS if getattr(self, name) is not None}
        if given != set(needs):
            raise ValueError(f"{self.id}: a claim of kind {self.kind} has {', '.join(needs) or 'no set-up'}: {given}")
        if tuple(sorted(self.value)) != self.value:
            raise ValueError(f"{self.id}: value is the least and the most: {self.value}")

    @property
    def low(self) -> float:
        """The claimed figure, or the least of it."""
        return self.value[0]

    @property
    def high(self) -> float:
        """The most of it."""
        return self.value[-1]

    @property
    def percent(self) -> bool:
        """Is it a share of time?"""
        return self.kind in ("saving", "share")


ALL_NEEDS = tuple(dict.fromkeys(name for names in NEEDS.values() for name in names))


@checked(frozen=True, config=STRICT)
class LeftOut:
    """A system of which nothing is predicted, and why."""

    system: Name
    why: Name


@dataclass(frozen=True)
class Headlines:
    """All of the file."""

    headlines: tuple[Headline, ...]
    left_out: tuple[LeftOut, ...]


@checked(frozen=True, config=STRICT)
class _File:
    headline: tuple[Headline, ...]
    left_out: tuple[LeftOut, ...] = ()


def read(path: Path) -> Headlines:
    """The claims of a file. ValueError naming the claim and what is wrong with it."""
    return checked_headlines(from_toml(path, "headlines"), path.name)


def checked_headlines(data: Any, where: str = FILE.name) -> Headlines:
    """The claims in a file's contents. ValueError as `read`."""
    try:
        file = TypeAdapter(_File).validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{where}: {'.'.join(map(str, first['loc']))}: {refusal(first)}") from None
    ids = [headline.id for headline in file.headline]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise ValueError(f"{where}: ids are used once: {', '.join(twice)}")
    return Headlines(file.headline, file.left_out)


@lru_cache
def shipped() -> Headlines:
    """The shipped claims."""
    return read(FILE)


def file_of(name: str) -> str:
    """A model or a machine of a set-up as the simulator takes it: a catalog name, or the path of a shipped file."""
    return str(PUBLISHED / name) if name.endswith(FILES) else name


def shown_file(name: str) -> str:
    """The same as a command names it, from the repository's root."""
    return f"{SHOWN}/{name}" if name.endswith(FILES) else name
