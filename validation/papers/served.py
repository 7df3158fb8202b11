"""Served rows: does a compressed all-reduce gain or lose? `served_compressed_2026.csv` beside `thinwire serve`.

Only the sign is held against the rows: what an engine's host, its scheduler and the queue add is not known, and the
same on both sides. Engines send small messages as they are; a row is above the gate if a pass of prompts sends
messages at least as large as the least that QuickReduce takes. Such passes decide the first token, and lie between two
tokens of an answer as well.
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass as checked

from thinwire.edge.reading import from_toml
from thinwire.reference.families.config import load_model
from thinwire.sim.choices import Weights
from thinwire.sim.serving.question import Service
from thinwire.sim.serving.serve import answer
from thinwire.validation.fits.published_tables import PUBLISHED, rows
from thinwire.validation.papers.headlines import file_of, shown_file

FILE = PUBLISHED / "served_setups.toml"
TABLE = "served_compressed_2026"
GPUS = ("MI300X", "MI355X")  # whose rows have both runs, and a machine here
WANTED = 0.85  # of the signs
NO_CHANGE = 1e-3  # of ours: rounding and chance, no gain
MIB = 2**20
BF16_BYTES = 2
STRICT = ConfigDict(extra="forbid")

Metric = Literal["TTFT", "ITL", "TPOT"]
Name = Annotated[str, Field(min_length=1)]


@checked(frozen=True, config=STRICT)
class Gate:
    """From how many MiB on QuickReduce takes a message, by wire format and TP degree."""

    source: Name
    mib: Mapping[str, Mapping[int, Annotated[float, Field(gt=0)]]]


@checked(frozen=True, config=STRICT)
class Setup:
    """How the rows of one model on one GPU are asked. options: of `Service`; prompt_pass_tokens: of one pass."""

    model: Name
    gpu: Name
    config: Name
    cluster: Name
    options: Mapping[str, Any]
    prompt_pass_tokens: Annotated[int, Field(ge=1, strict=True)]
    assumed: Name
    weights: Weights = "bf16"
    scale_link: Annotated[float, Field(gt=0)] = 1.0

    def service(self, tp: int, scheme: str) -> Service:
        """The question for one row."""
        scaled = {} if self.scale_link == 1 else {"*": self.scale_link}
        config, cluster = file_of(self.config), file_of(self.cluster)
        return Service(config, cluster, scheme, tp, weights=self.weights, scaled_links=scaled, **self.options)

    def command(self, tp: int, scheme: str) -> str:
        """The same as a command, from the repository's root."""
        words = self.service(tp, scheme).command_line()
        for option, name in (("--model", self.config), ("--cluster", self.cluster)):
            words[words.index(option) + 1] = shown_file(name)
        return shlex.join(["thinwire", "serve", *words])


@checked(frozen=True, config=STRICT)
class Setups:
    """All of the file."""

    gate: Gate
    setup: tuple[Setup, ...]

    def of(self, model: str, gpu: str) -> Setup:
        """The set-up of a row. ValueError where there is none."""
        for setup in self.setup:
            if (setup.model, setup.gpu) == (model, gpu):
                return setup
        raise ValueError(f"{FILE.name} has no set-up for {model} on {gpu}")


@lru_cache
def shipped() -> Setups:
    """The shipped set-ups."""
    return TypeAdapter(Setups).validate_python(from_toml(FILE, "set-ups"))


@dataclass(frozen=True)
class Row:
    """One published pair of runs: milliseconds without and with compression."""

    model: str
    gpu: str
    engine: str
    tp: int
    wire: str  # "INT8", "FP4", ... as published
    scheme: str
    metric: str
    plain_ms: float
    compressed_ms: float
    source: str

    @property
    def ratio(self) -> float:
        """Compressed over plain: below 1 is a gain."""
        return self.compressed_ms / self.plain_ms

    @property
    def message_bytes(self) -> int:
        """Of the all-reduces in a pass of prompts."""
        setup = shipped().of(self.model, self.gpu)
        return setup.prompt_pass_tokens * load_model(file_of(setup.config)).hidden_size * BF16_BYTES

    @property
    def gate_bytes(self) -> float:
        """From which on the engine compresses; what is newer than the gate's table takes INT4's."""
        known = shipped().gate.mib
        return known.get(self.wire.lower(), known["int4"])[self.tp] * MIB

    @property
    def above_gate(self) -> bool:
        """Whether the engine compresses the messages of a prompt's pass."""
        return self.message_bytes >= self.gate_bytes


def pairs() -> tuple[Row, ...]:
    """Rows of a table's GPUs that have both runs in milliseconds."""
    return tuple(
        Row(
            row["model"], row["gpu"], row["engine"], int(row["tp"]), row["scheme_source"].removeprefix("QuickReduce "),
            row["spec"], row["metric"], float(row["uncompressed"]), float(row["compressed"]), row["source"],
        )
        for row in rows(TABLE)
        if row["gpu"] in GPUS and row["unit"] == "ms"
    )  # fmt: skip


@cache
def means_ms(model: str, gpu: str, tp: int, scheme: str) -> Mapping[str, float]:
    """Mean TTFT and time between tokens that `thinwire serve` gives, in milliseconds."""
    found = answer(shipped().of(model, gpu).service(tp, scheme)).run
    between = found.tpot.mean.value * 1e3
    return {"TTFT": found.ttft.mean.value * 1e3, "ITL": between, "TPOT": between}


@dataclass(frozen=True)
class Judged:
    """A row beside our ratio."""

    row: Row
    ours: float  # compressed over plain

    @property
    def gains(self) -> bool:
        """Do we predict a gain?"""
        return self.ours < 1 - NO_CHANGE

    @property
    def right(self) -> bool:
        """Both gain, or neither does."""
        return (self.row.ratio < 1) == self.gains

    @property
    def off(self) -> float:
        """Ours less theirs."""
        return self.ours - self.row.ratio


def judge(row: Row) -> Judged:
    """Ask both runs of a row."""
    plain, compressed = (means_ms(row.model, row.gpu, row.tp, scheme) for scheme in ("bf16", row.scheme))
    return Judged(row, compressed[row.metric] / plain[row.metric])


@dataclass(frozen=True)
class Score:
    """Signs of some rows."""

    what: str
    rows: int
    right: int
    gains: int  # rows that gained: what "always a gain" would get right

    @property
    def share(self) -> float:
        """Of the signs that are right."""
        return self.right / self.rows


def score(what: str, judged: Iterable[Judged]) -> Score:
    """Count signs."""
    some = list(judged)
    return Score(what, len(some), sum(j.right for j in some), sum(j.row.ratio < 1 for j in some))


def scores(judged: Sequence[Judged]) -> list[Score]:
    """Above the gate in all, by metric and GPU; and below."""
    above = [j for j in judged if j.row.above_gate]
    groups = [("above the gate", above)]
    for gpu in GPUS:
        for name, metrics in (("first token", ("TTFT",)), ("between tokens", ("ITL", "TPOT"))):
            some = [j for j in above if j.row.gpu == gpu and j.row.metric in metrics]
            groups.append((f"above the gate, {gpu}, {name}", some))
    groups.append(("below the gate", [j for j in judged if not j.row.above_gate]))
    return [score(what, some) for what, some in groups if some]
