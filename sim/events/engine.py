"""The discrete-event engine: one compute and one communication stream per rank, rendezvous at collectives.

Each rank issues the same ops in the same order, as a CUDA program does. An op starts when its stream is free and the op
before it in its part of the sequence has ended on that rank. An exchange starts when the last rank has arrived; where
transfers are posted, as on sockets, each rank starts its part when it arrives.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from thinwire.sim.events.collective import CollectiveRun, CollectiveTime, TimedSchedule
from thinwire.sim.events.network import Floats, Ints, Network, Routes, Watch, groups
from thinwire.sim.events.timeline import Span


@dataclass(frozen=True, eq=False, slots=True)
class Issue:
    """An op with its costs: `kernels` of a compute op (name, seconds), or the `exchange` of a communication op."""

    layer: int
    part: int
    name: str
    kernels: tuple[tuple[str, float], ...] = ()
    exchange: TimedSchedule | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gives."""

    spans: tuple[Span, ...]
    end_s: float
    link_bytes: Mapping[tuple[str, str], float]
    peak_utilisation: float


@dataclass(slots=True)
class _Meeting:
    """One exchange: who has come, and an event per rank for its end."""

    done: list[simpy.Event]
    arrived: int = 0
    last_s: float = 0.0  # when the last of those came
    run: CollectiveRun | None = None

    def finish(self, ranks: Ints) -> None:
        """These ranks hold the result."""
        for rank in ranks:
            self.done[rank].succeed()


@dataclass(eq=False)
class Engine:
    """Runs one program on all ranks. `alone` gives an exchange timed by itself, to be replayed instead of run again.

    Replaying is exact: every rank takes part in every exchange and meets for it, so no two ever share the network.
    Posted exchanges do not meet, and are never replayed.
    """

    routes: Routes
    ranks: int
    slowdown_R: Floats
    alone: Callable[[TimedSchedule], CollectiveTime] | None = None
    env: simpy.Environment = field(default_factory=simpy.Environment)
    watch: Watch | None = None  # of all exchanges that are run; one replayed shows nothing

    def run(self, program: Sequence[Issue]) -> Result:
        """Run to the end; the trace depends on the arguments alone."""
        self._network = Network(self.env, self.routes, self.watch)
        self._recorded: list[tuple[int, Span]] = []
        self._replayed: dict[tuple[str, str], float] = {}
        self._peak = 0.0
        self._meetings = {
            i: _Meeting([self.env.event() for _ in range(self.ranks)])
            for i, issue in enumerate(program)
            if issue.exchange
        }
        before = _predecessors(program)
        streams = [
            [i for i, issue in enumerate(program) if issue.exchange is None],
            [i for i, issue in enumerate(program) if issue.exchange is not None],
        ]
        finished = []
        for rank in range(self.ranks):
            ended = [self.env.event() for _ in program]
            finished += [self.env.process(self._stream(rank, mine, program, before, ended)) for mine in streams]
        self.env.run(until=self.env.all_of(finished))
        links = dict(self._network.link_bytes())
        for link, nbytes in self._replayed.items():
            links[link] += nbytes
        self._recorded.sort(key=lambda item: (item[0], item[1].rank))
        peak = max(self._peak, self._network.peak_utilisation())
        return Result(tuple(span for _, span in self._recorded), float(self.env.now), links, peak)

    def _stream(
        self,
        rank: int,
        mine: Sequence[int],
        program: Sequence[Issue],
        before: Sequence[int | None],
        ended: Sequence[simpy.Event],
    ) -> Generator[simpy.Event, Any, None]:
        slowdown = float(self.slowdown_R[rank])
        for i in mine:
            issue, awaited = program[i], before[i]
            if awaited is not None and not ended[awaited].processed:
                yield ended[awaited]
            if issue.exchange:
                yield from self._meet(rank, i, issue, issue.exchange)
            else:
                kernels = issue.kernels
                if slowdown != 1.0:
                    kernels = tuple((name, seconds * slowdown) for name, seconds in kernels)
                start = self.env.now
                yield self.env.timeout(sum([seconds for _, seconds in kernels]))
                self._recorded.append(
                    (
                        i,
                        Span(
                            rank,
                            "compute",
                            issue.name,
                            issue.layer,
                            issue.part,
                            start,
                            self.env.now,
                            kernels=kernels,
                        ),
                    )
                )
            ended[i].succeed()

    def _meet(self, rank: int, i: int, issue: Issue, timed: TimedSchedule) -> Generator[simpy.Event, Any, None]:
        meeting, arrival_s = self._meetings[i], self.env.now
        meeting.arrived += 1
        meeting.last_s = arrival_s
        if timed.posted:
            self._enter(meeting, i, timed, np.array([rank]))
        elif meeting.arrived == self.ranks:
            self._exchange(meeting, i, timed)
        yield meeting.done[rank]
        start, now = meeting.last_s, self.env.now
        codec_s = float(timed.codec_s_R[rank] * self.slowdown_R[rank])
        if timed.posted and meeting.run is not None:  # some of it was done before the last rank came
            codec_s = meeting.run.codec_since(rank, start)
        span = Span(
            rank, "communication", issue.name, issue.layer, issue.part, start, now, codec_s, start - arrival_s, (),
            timed.carried,
        )  # fmt: skip
        self._recorded.append((i, span))

    def _exchange(self, meeting: _Meeting, i: int, timed: TimedSchedule) -> None:
        """Everyone is here."""
        if self.alone is None:
            self._enter(meeting, i, timed, np.arange(self.ranks))
            return
        known = self.alone(timed)
        for link, nbytes in known.link_bytes.items():
            self._replayed[link] = self._replayed.get(link, 0.0) + nbytes
        self._peak = max(self._peak, known.peak_utilisation)
        for moment, ranks in groups(known.finish_s_R):
            after = self.env.timeout(float(moment))
            after.callbacks.append(lambda _event, ranks=ranks: meeting.finish(ranks))  # type: ignore[misc]

    def _enter(self, meeting: _Meeting, i: int, timed: TimedSchedule, ranks: Ints) -> None:
        if meeting.run is None:
            meeting.run = CollectiveRun(self.env, self._network, timed, self.slowdown_R, meeting.finish, i)
        meeting.run.enter(ranks)


def _predecessors(program: Sequence[Issue]) -> list[int | None]:
    """For each op, the op before it in its part of the sequence."""
    last: dict[int, int] = {}
    before: list[int | None] = []
    for i, issue in enumerate(program):
        before.append(last.get(issue.part))
        last[issue.part] = i
    return before
