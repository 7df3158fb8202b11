"""Who asks what, and when: streams of requests, drawn or read in pieces, so that an hour of them takes no memory.

A request is an arrival time, prompt tokens and output tokens. Times come from a Poisson process, from one with gamma
distributed gaps (`burstiness` above 1: bursts), or from a trace file in the format of the public Azure LLM inference
traces; or a closed loop keeps a number of requests under way, as benchmarks do.
Every draw comes from one generator with the seed given: the same seed, the same requests.
"""

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from thinwire.edge.limits import PIPED_TRACE_BYTES, RATE, REQUESTS, SPEED, TOKENS, TRACE_BYTES, USERS
from thinwire.edge.reading import content, is_endless, lines
from thinwire.edge.words import place, shown
from thinwire.sim.serving.question import LENGTHS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

PIECE = 4096  # requests drawn or read at a time
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOST_TOKENS = TOKENS.most
LONGEST_DRAWN = 32768  # of log-normal lengths; 16 means where that is more
MOST_VARIATION = 1e3  # of lengths
BURSTINESS = (1e-6, 1e4)  # nearly a clock; ten thousand requests in a burst


class Piece(NamedTuple):
    """Requests in order of arrival."""

    at_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always as many tokens."""

    tokens: int

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= MOST_TOKENS:
            raise ValueError(f"a length is 1 to {MOST_TOKENS} tokens: {self.tokens}")

    @property
    def mean(self) -> float:
        """Mean tokens."""
        return float(self.tokens)

    def draw(self, generator: np.random.Generator, number: int) -> Ints:
        """`number` lengths."""
        return np.full(number, self.tokens, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Log-normal lengths of this mean and coefficient of variation, rounded, cut at `most`."""

    mean_tokens: float
    variation: float = 1.0
    most: int = LONGEST_DRAWN

    def __post_init__(self) -> None:
        means, cuts = 1 <= self.mean_tokens <= MOST_TOKENS, 1 <= self.most <= MOST_TOKENS
        if not (means and cuts and 0 < self.variation <= MOST_VARIATION):
            raise ValueError(
                f"log-normal lengths need a mean and a most of 1 to {MOST_TOKENS} and a coefficient of variation above "
                f"0 and up to {MOST_VARIATION:g}: mean={self.mean_tokens}, variation={self.variation}, most={self.most}"
            )

    @property
    def mean(self) -> float:
        """Mean tokens, what is cut off included."""
        return min(self.mean_tokens, float(self.most))

    def draw(self, generator: np.random.Generator, number: int) -> Ints:
        """`number` lengths."""
        spread = math.log1p(self.variation**2)
        drawn = generator.lognormal(math.log(self.mean_tokens) - spread / 2, math.sqrt(spread), number)
        return np.clip(np.rint(drawn), 1, self.most).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Geometric:
    """Geometric lengths: every token is the last with the same chance."""

    mean_tokens: float

    def __post_init__(self) -> None:
        if not 1 <= self.mean_tokens <= MOST_TOKENS:
            raise ValueError(f"geometric lengths need a mean of 1 to {MOST_TOKENS}: {self.mean_tokens}")

    @property
    def mean(self) -> float:
        """Mean tokens."""
        return self.mean_tokens

    def draw(self, generator: np.random.Generator, number: int) -> Ints:
        """`number` lengths."""
        return generator.geometric(1 / self.mean_tokens, number)


Lengths = Fixed | LogNormal | Geometric
KINDS = ("fixed", "lognormal", "geometric")


def lengths_of(kind: str, mean_tokens: float, variation: float | None = None, most: int | None = None) -> Lengths:
    """A distribution by its name; variation and most are of lognormal ones. ValueError says what is allowed."""
    if kind not in KINDS:
        raise ValueError(f"lengths are {', '.join(KINDS[:-1])} or {KINDS[-1]}: {shown(kind)}")
    if kind != "lognormal" and (variation is not None or most is not None):
        raise ValueError(f"variation and most are of lognormal lengths, these are {kind}")
    if kind == "geometric":
        return Geometric(mean_tokens)
    if kind == "fixed":
        if not float(mean_tokens).is_integer():
            raise ValueError(f"fixed lengths are whole numbers of tokens: {mean_tokens}")
        return Fixed(int(mean_tokens))
    if most is None:  # far out on the tail of the mean that was asked for
        most = min(MOST_TOKENS, max(LONGEST_DRAWN, math.ceil(16 * mean_tokens)))
    given = {"variation": variation, "most": most}
    return LogNormal(mean_tokens, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def lengths_from(text: str, mean_tokens: float) -> Lengths:
    """The same by one text, one of `LENGTHS`."""
    kind, colon, variation = text.partition(":")
    try:
        return lengths_of(kind, mean_tokens, float(variation) if colon else None)
    except ValueError as error:
        raise ValueError(f"lengths {shown(text)} ({LENGTHS}) of a mean of {mean_tokens:g}: {error}") from None


@dataclass(frozen=True, slots=True)
class Drawn:
    """`rate_per_s` requests a second on average. burstiness: squared coefficient of variation of the gaps between them,
    which are gamma distributed; 1 is a Poisson process.
    """

    rate_per_s: float
    prompt: Lengths
    output: Lengths
    burstiness: float = 1.0

    def __post_init__(self) -> None:
        RATE.check("rate_per_s", self.rate_per_s)
        least, most = BURSTINESS
        if not least <= self.burstiness <= most:
            raise ValueError(f"burstiness must lie in {least:g}..{most:g}: burstiness={self.burstiness}")

    @property
    def mean_output(self) -> float:
        """Mean output tokens."""
        return self.output.mean

    def pieces(self, seed: int, until_s: float) -> Iterator[Piece]:
        """Requests that arrive before `until_s`."""
        if self.rate_per_s * until_s > REQUESTS.most:
            raise ValueError(
                f"a run has at most {REQUESTS.most} requests: {self.rate_per_s:g} a second for {until_s:g} s"
            )
        gaps, lengths = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(2))
        now, mean_s = 0.0, 1 / self.rate_per_s
        while now < until_s:
            if self.burstiness == 1:
                gap = gaps.exponential(mean_s, PIECE)
            else:
                gap = gaps.gamma(1 / self.burstiness, mean_s * self.burstiness, PIECE)
            at_s = now + np.cumsum(gap)
            now = float(at_s[-1])
            early = at_s < until_s
            yield Piece(at_s[early], self.prompt.draw(lengths, PIECE)[early], self.output.draw(lengths, PIECE)[early])


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """`users` requests under way at all times: whoever has been served asks again at once."""

    users: int
    prompt: Lengths
    output: Lengths

    def __post_init__(self) -> None:
        USERS.check("users", self.users)

    @property
    def mean_output(self) -> float:
        """Mean output tokens."""
        return self.output.mean

    def pieces(self, seed: int, until_s: float) -> Iterator[Piece]:
        """Lengths without end; the times are the start, the simulation knows when a user asks again."""
        generator = np.random.default_rng(np.random.SeedSequence(seed).spawn(2)[1])
        while True:
            yield Piece(np.zeros(PIECE), self.prompt.draw(generator, PIECE), self.output.draw(generator, PIECE))


@dataclass(frozen=True)
class Trace:
    """A CSV file with the columns TIMESTAMP, ContextTokens, GeneratedTokens (Azure LLM inference traces 2023 and 2024).

    An answer of no tokens counts as one of a single token. speed: how much faster than recorded it is played. The file
    is read twice, row by row: here, to check it, and when it is played; a pipe is read once, and kept. ValueError names
    file and line of a fault.
    """

    path: str
    speed: float = 1.0
    mean_output: float = 0.0  # set on construction
    requests: int = 0
    seconds: float = 0.0  # as played, from the first request to the last

    def __post_init__(self) -> None:
        SPEED.check("speed", self.speed)
        once = content(self.path, "trace", PIPED_TRACE_BYTES.most) if is_endless(self.path) else None
        object.__setattr__(self, "_kept", once)  # no field: it is not what the trace is called
        number, generated, seconds = 0, 0, 0.0
        for at_s, _, output in self._rows():
            number, generated, seconds = number + 1, generated + output, at_s
            if number > REQUESTS.most:
                raise ValueError(f"a trace has at most {REQUESTS.most} requests: {place(self.path)}")
        if not number:
            raise ValueError(f"trace {place(self.path)} holds no requests")
        if not math.isfinite(seconds):
            raise ValueError(f"times of trace {place(self.path)} are too far from each other")
        object.__setattr__(self, "mean_output", generated / number)
        object.__setattr__(self, "requests", number)
        object.__setattr__(self, "seconds", seconds)

    def pieces(self, seed: int, until_s: float) -> Iterator[Piece]:
        """Requests that arrive before `until_s`; nothing is drawn."""
        rows: list[tuple[float, int, int]] = []
        for row in self._rows():
            if row[0] >= until_s:
                break
            rows.append(row)
            if len(rows) == PIECE:
                yield _piece(rows)
                rows = []
        if rows:
            yield _piece(rows)

    def _rows(self) -> Iterator[tuple[float, int, int]]:
        """Seconds since the first row, as played; prompt; output."""
        kept: bytes | None = self.__dict__["_kept"]
        here = place(self.path)
        try:
            reader = csv.reader(lines(self.path, "trace", TRACE_BYTES.most, kept))
            header = next(reader, None)
            if header is None or tuple(name.strip() for name in header) != COLUMNS:
                raise ValueError(f"{here}:1: a trace has the columns {', '.join(COLUMNS)}: {shown(header)}")
            start, last = None, -math.inf
            for row in reader:
                if not row:
                    continue
                at_s, prompt, output = _parsed(f"{here}:{reader.line_num}", row)
                if at_s < last:
                    raise ValueError(f"{here}:{reader.line_num}: rows must be in order of time: {shown(row[0])}")
                start, last = at_s if start is None else start, at_s
                yield (at_s - start) / self.speed, prompt, output
        except csv.Error as error:
            raise ValueError(f"trace {here} is no CSV text: {error}") from None


Load = Drawn | ClosedLoop | Trace


def _parsed(where: str, row: list[str]) -> tuple[float, int, int]:
    if len(row) != len(COLUMNS):
        raise ValueError(f"{where}: {len(COLUMNS)} values a row, {', '.join(COLUMNS)}: {shown(row)}")
    tokens = []
    for name, text in zip(COLUMNS[1:], row[1:], strict=True):
        digits = text.strip()
        least = int(name == COLUMNS[1])
        if not (digits.isascii() and digits.isdecimal() and least <= int(digits[:12]) <= MOST_TOKENS):
            raise ValueError(f"{where}: {name} is a whole number of {least} to {MOST_TOKENS}: {shown(text)}")
        tokens.append(max(1, int(digits)))
    return _seconds(where, row[0].strip()), tokens[0], tokens[1]


def _seconds(where: str, text: str) -> float:
    """A date and time as the traces have it (`2023-11-16 18:15:46.6805900`), or plain seconds."""
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        if math.isfinite(seconds):
            return seconds
    head, dot, rest = text.partition(".")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    try:
        moment = datetime.fromisoformat(head + rest[len(digits) :])
    except ValueError:
        raise ValueError(f"{where}: TIMESTAMP is a date and time or a number of seconds: {shown(text)}") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.timestamp() + (float(f"0.{digits}") if dot and digits else 0.0)


def _piece(rows: list[tuple[float, int, int]]) -> Piece:
    at_s, prompt, output = zip(*rows, strict=True)
    return Piece(np.array(at_s), np.array(prompt, dtype=np.int64), np.array(output, dtype=np.int64))
