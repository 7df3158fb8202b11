"""One layer of a prediction on every rank: kernels, codecs, bytes on the wire, and ranks that wait for others."""

from collections.abc import Sequence

import numpy as np
import simpy

from thinwire.page.documents import Bar, Kind, Timeline
from thinwire.sim.events.collective import CollectiveRun, TimedSchedule
from thinwire.sim.events.exchange import Exchanger, left_uncompressed, slowdown
from thinwire.sim.events.network import Ints, Network
from thinwire.sim.events.timeline import Span
from thinwire.sim.report import Prediction
from thinwire.sim.workload import Op, build

MOST_RANKS = 64
SAME = 1e-12  # seconds: steps that touch are drawn as one
Piece = tuple[int, Kind, float, float]  # rank, what, from, to: seconds after the exchange begins


def layer_of(p: Prediction) -> Timeline:
    """The layer in the middle of the model. More than `MOST_RANKS` ranks: the first of them."""
    middle = p.model.num_layers // 2
    number = middle
    for fold in p.timeline.folds:  # simulated once, repeated: which of the repeats does not matter
        simulated = fold.layers[0]
        if simulated <= middle < simulated + len(fold.layers) * (fold.copies + 1):
            number = simulated + (middle - simulated) % len(fold.layers)
            break
        if middle >= simulated + len(fold.layers):
            number -= len(fold.layers) * fold.copies
    spans = [s for s in p.timeline.simulated if s.layer == number and s.rank < MOST_RANKS]
    first_s = min((s.start_s for s in spans), default=0.0)
    end_s = max((s.end_s for s in spans), default=0.0)
    bars = [bar for s in spans if s.stream == "compute" for bar in _kernels(s, first_s)]
    steps = Steps(p)
    for s in spans:
        if s.stream == "communication":
            bars += _exchange(s, steps.of(middle, s), first_s)
    cut = f"; ranks 0 to {MOST_RANKS - 1} of {p.tp}" if p.tp > MOST_RANKS else ""
    return {
        "layer": middle,
        "layers": p.model.num_layers,
        "layer_us": (end_s - first_s) * 1e6,
        "bars": sorted(bars, key=lambda b: (b["rank"], b["start_us"], b["end_us"], b["kind"])),
        "note": f"layer {middle + 1} of {p.model.num_layers}, as simulated; what a rank's exchange does is that of the "
        f"exchange alone{cut}",
    }


def _kernels(span: Span, first_s: float) -> list[Bar]:
    found, at = list[Bar](), span.start_s
    for name, seconds in span.kernels or ((span.name, span.seconds),):
        found.append(_bar(span, "compute", name, at - first_s, at + seconds - first_s))
        at += seconds
    return found


def _exchange(span: Span, pieces: Sequence[Piece], first_s: float) -> list[Bar]:
    """From the last rank's arrival on what the exchange does, stretched to the span where others were on the links."""
    begin_s = span.start_s + span.waited_s
    found = (
        [_bar(span, "waiting", span.name, span.start_s - first_s, begin_s - first_s)] if span.waited_s > SAME else []
    )
    mine = [piece for piece in pieces if piece[0] == span.rank]
    end_s = max((to_s for _, _, _, to_s in mine), default=0.0)
    if not end_s:
        return [*found, _bar(span, "wire", span.name, begin_s - first_s, span.end_s - first_s)]
    stretch = (span.end_s - begin_s) / end_s
    for _, kind, from_s, to_s in mine:
        at_s = begin_s - first_s
        found.append(_bar(span, kind, span.name, at_s + from_s * stretch, at_s + to_s * stretch))
    return found


def _bar(span: Span, kind: Kind, name: str, start_s: float, end_s: float) -> Bar:
    return {
        "rank": span.rank, "stream": span.stream, "kind": kind, "name": name, "start_us": start_s * 1e6,
        "end_us": end_s * 1e6,
    }  # fmt: skip


class Steps:
    """What each exchange of a prediction does, step by step, run alone."""

    def __init__(self, p: Prediction) -> None:
        self._workload = build(p.model, p.scheme, p.prompt, p.sharing)
        self._exchanger = Exchanger(p.cluster, p.cost, slowdown(p.sharing.ranks, {}), left_uncompressed(p.scheme))
        self._known: dict[TimedSchedule, list[Piece]] = {}

    def of(self, layer: int, span: Span) -> list[Piece]:
        """The pieces of a span's exchange on all ranks; [] where the layer issues none of its name and part."""
        op = next((op for op in self._workload.layers[layer] if _is(op, span)), None)
        if op is None or op.exchange is None:
            return []
        timed = self._exchanger.timed(op.exchange)
        if timed not in self._known:
            self._known[timed] = self._run(timed)
        return self._known[timed]

    def _run(self, timed: TimedSchedule) -> list[Piece]:
        env = simpy.Environment()
        network = Network(env, self._exchanger.routes)
        seen = Watched(env, network, timed, np.ones(timed.ranks), lambda ranks: None)
        seen.enter(np.arange(timed.ranks))
        env.run()
        return joined(seen.pieces)


def _is(op: Op, span: Span) -> bool:
    return op.exchange is not None and op.name == span.name and op.part == span.part


class Watched(CollectiveRun):
    """A collective that says when each rank encodes or decodes, and when it sends, receives or waits for bytes."""

    def __post_init__(self) -> None:
        """Nothing seen."""
        super().__post_init__()
        self.pieces: list[Piece] = []
        self._ready: dict[tuple[int, int, int], float] = {}

    def _enter(self, lane: int, number: int, ranks: Ints) -> None:
        now, step = self.env.now, self.timed.lanes[lane][number]
        for rank in ranks.tolist():
            begin_s = max(float(self._codec_free_s[rank]), now)
            ready_s = begin_s + float(step.codec_s_R[rank] * self.slowdown_R[rank])
            if ready_s > begin_s:
                self.pieces.append((rank, "codec", begin_s, ready_s))
            self._ready[lane, number, rank] = ready_s
        super()._enter(lane, number, ranks)

    def _leave(self, lane: int, number: int, ranks: Ints) -> None:
        for rank in ranks.tolist():
            ready_s = self._ready[lane, number, rank]
            if self.env.now > ready_s:
                self.pieces.append((rank, "wire", ready_s, self.env.now))
        super()._leave(lane, number, ranks)


def joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Pieces of one rank and kind that touch or overlap as one: lanes in flight, and steps of a ring."""
    found: list[Piece] = []
    for rank, kind, from_s, to_s in sorted(pieces, key=lambda p: (p[0], p[1], p[2], p[3])):
        if found and found[-1][:2] == (rank, kind) and from_s <= found[-1][3] + SAME:
            found[-1] = (rank, kind, found[-1][2], max(found[-1][3], to_s))
        else:
            found.append((rank, kind, from_s, to_s))
    return found
