"""What happened when: spans on two streams per rank, and what follows from them.

A folded run simulates a few of many identical layers; `Timeline.spans` unrolls the rest by shifting a repeat that was
seen to recur exactly, so a reader never notices which way a prediction was made.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, NamedTuple

SAME_TIME = 1e-12  # of the whole: an end and the start it causes may differ by rounding once repeats are shifted


class Carried(NamedTuple):
    """Who carries an exchange, "stand-in" where nobody timed it, and how large it is: an uncompressed message of as
    many bytes on the wire."""

    carrier: str
    nbytes: float


@dataclass(frozen=True, slots=True)
class Span:
    """One op on one rank. A collective's span holds its codec kernels too; `codec_s` is their sum."""

    rank: int
    stream: Literal["compute", "communication"]
    name: str
    layer: int  # -1 before the layers, num_layers after them
    part: int
    start_s: float
    end_s: float
    codec_s: float = 0.0
    waited_s: float = 0.0  # of an exchange: from this rank's arrival to the last rank's
    kernels: tuple[tuple[str, float], ...] = ()  # of a compute op: name and seconds, back to back
    carried: Carried | None = None  # of an exchange

    @property
    def seconds(self) -> float:
        """From start to end."""
        return self.end_s - self.start_s


@dataclass(frozen=True, slots=True)
class Fold:
    """`copies` further repeats, each `period_s` after the one before, follow the simulated spans of `layers`."""

    layers: range  # simulated layer numbers of the repeat that recurs
    copies: int
    period_s: float


class Laid(NamedTuple):
    """A layer of the whole pass: what was simulated as `simulated`, `shift_s` later. copy: it is a repeat of that."""

    simulated: int
    layer: int
    shift_s: float
    copy: bool


@dataclass(frozen=True, slots=True)
class Breakdown:
    """Seconds on the rank that ends last (`Timeline.last_rank`). ttft = compute + exposed_communication + waiting.

    compute: its compute stream at work. codec, communication: encoding and decoding, and moving and waiting for bytes,
        whether or not something else ran meanwhile. exposed_communication: its compute stream idle while one of its
        collectives is under way, and so never more than codec and communication. waiting: idle while none is, before a
        collective for ranks that come later (stragglers, and those that left the last one later). Where computation and
        communication overlap, a straggler also moves collectives to where they are exposed.
    """

    compute_s: float
    codec_s: float
    communication_s: float
    exposed_communication_s: float
    waiting_s: float

    def to_dict(self) -> dict[str, float]:
        """As documents have it: milliseconds."""
        return {field.name.removesuffix("_s"): getattr(self, field.name) * 1e3 for field in fields(self)}


@dataclass(frozen=True)
class Timeline:
    """Spans of a prefill. `simulated` are those that were run; `spans()` is all of them."""

    simulated: tuple[Span, ...]
    folds: tuple[Fold, ...]
    ttft_s: float

    def spans(self) -> Iterator[Span]:
        """Every span of the whole forward pass, repeats unrolled, in order of layer."""
        by_layer: dict[int, list[Span]] = {}
        for span in self.simulated:
            by_layer.setdefault(span.layer, []).append(span)
        for at in self.laid_out():
            yield from _shifted(by_layer[at.simulated], at.shift_s, at.layer - at.simulated)

    def laid_out(self) -> Iterator[Laid]:
        """Every layer of the whole forward pass in order, and which simulated one stands for it."""
        shift_s, shift_layers = 0.0, 0
        fold_at = {fold.layers[-1]: fold for fold in self.folds}
        for layer in sorted({span.layer for span in self.simulated}):
            yield Laid(layer, layer + shift_layers, shift_s, False)
            if fold := fold_at.get(layer):
                for _ in range(fold.copies):
                    shift_s += fold.period_s
                    shift_layers += len(fold.layers)
                    for repeated in fold.layers:
                        yield Laid(repeated, repeated + shift_layers, shift_s, True)

    def weight(self) -> dict[int, int]:
        """How often each simulated layer number occurs in the whole."""
        weights = {span.layer: 1 for span in self.simulated}
        for fold in self.folds:
            for layer in fold.layers:
                weights[layer] += fold.copies
        return weights

    @property
    def last_rank(self) -> int:
        """The rank that ends last; of several the one whose kernels take the median time, the lowest of its like: what
        a straggler costs the others does not hang on its number.
        """
        end_s = max(span.end_s for span in self.simulated)
        last = {span.rank for span in self.simulated if span.end_s >= end_s * (1 - SAME_TIME)}
        if len(last) == 1:
            return last.pop()
        busy_s = dict.fromkeys(sorted(last), 0.0)
        for span in self.simulated:
            if span.rank in last and span.stream == "compute":
                busy_s[span.rank] += span.seconds
        median_s = sorted(busy_s.values())[(len(busy_s) - 1) // 2]
        return next(rank for rank, seconds in busy_s.items() if abs(seconds - median_s) <= 1e-9 * median_s)

    def breakdown(self) -> Breakdown:
        """Where the time to first token goes."""
        rank, weights = self.last_rank, self.weight()
        mine = [span for span in self.simulated if span.rank == rank]
        computes = sorted((s for s in mine if s.stream == "compute"), key=lambda s: s.start_s)
        exchanges = sorted((s for s in mine if s.stream == "communication"), key=lambda s: s.start_s)
        compute = sum(weights[s.layer] * s.seconds for s in computes)
        codec = sum(weights[s.layer] * s.codec_s for s in exchanges)
        communication = sum(weights[s.layer] * (s.seconds - s.codec_s) for s in exchanges)
        idle = max(0.0, self.ttft_s - compute)
        waiting = min(idle, self._waiting_s(computes, exchanges))
        if waiting <= SAME_TIME * self.ttft_s:  # rounding
            waiting = 0.0
        return Breakdown(compute, codec, communication, idle - waiting, waiting)

    def _waiting_s(self, computes: Sequence[Span], exchanges: Sequence[Span]) -> float:
        """Seconds in which neither stream of a rank is at work. A gap between ops recurs with the op behind it; the one
        behind the last does not.
        """
        weights = self.weight()
        simulated_s = self.ttft_s - sum(fold.copies * fold.period_s for fold in self.folds)
        edges = [0.0, *(t for s in computes for t in (s.start_s, s.end_s)), simulated_s]
        recurs = [*(weights[s.layer] for s in computes), 1]
        found, first = 0.0, 0
        for times, begin_s, end_s in zip(recurs, edges[::2], edges[1::2], strict=True):
            while first < len(exchanges) and exchanges[first].end_s <= begin_s:
                first += 1
            under_way_s = 0.0
            for exchange in exchanges[first:]:
                if exchange.start_s >= end_s:
                    break
                under_way_s += min(exchange.end_s, end_s) - max(exchange.start_s, begin_s)
            found += times * max(0.0, end_s - begin_s - under_way_s)
        return found

    def by_name(self) -> dict[str, float]:
        """Seconds of each kernel and exchange on the rank that ends last, whole forward pass, largest first."""
        rank, weights = self.last_rank, self.weight()
        total: dict[str, float] = {}
        for span in self.simulated:
            if span.rank == rank:
                pieces: Iterable[tuple[str, float]] = span.kernels or ((span.name, span.seconds),)
                for name, seconds in pieces:
                    total[name] = total.get(name, 0.0) + weights[span.layer] * seconds
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    def critical_path(self) -> list[Span]:
        """The chain of spans that fixes the end, last first: each starts when the next in the list ends.

        A collective starts with its last rank, so the chain moves to the rank that arrived last.
        """
        return self._path(self.spans())

    def simulated_path(self) -> list[Span]:
        """The same of the simulated spans alone: with `weight` for each layer, what the end is made of."""
        return self._path(self.simulated)

    def _path(self, of: Iterable[Span]) -> list[Span]:
        spans = sorted(of, key=lambda s: (s.end_s, s.start_s, s.rank))
        ends = [span.end_s for span in spans]
        slack_s = SAME_TIME * ends[-1]
        path = [min((s for s in spans if s.end_s == ends[-1]), key=lambda s: s.rank)]
        while path[-1].start_s > 0:
            now = path[-1]
            nearby = spans[bisect_left(ends, now.start_s - slack_s) : bisect_right(ends, now.start_s + slack_s)]
            before = [s for s in nearby if s.start_s < now.start_s]
            same = [s for s in before if s.rank == now.rank] if now.waited_s == 0 else before
            if not (same or before):
                break
            path.append(min(same or before, key=lambda s: (s.stream != "compute", s.rank)))
        return path


def _shifted(spans: list[Span], shift_s: float, shift_layers: int) -> Iterator[Span]:
    if not shift_layers:
        yield from spans
        return
    for s in spans:
        yield replace(s, layer=s.layer + shift_layers, start_s=s.start_s + shift_s, end_s=s.end_s + shift_s)
