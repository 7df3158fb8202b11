"""Executes a schedule's steps in time: codec work on each rank, then the step's transfers over the shared network.

A rank enters a step when it has finished its own work of the step before and every transfer it takes part in there has
arrived; where transfers are posted, those it receives: what it sends leaves in its own time, one message after the
other to each peer. Codec kernels of one rank run one after the other; transfers of different lanes share the links. The
order of events is SimPy's, whose ties are broken by a counter, so the same input gives the same trace.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
import simpy
from numpy.typing import NDArray

from thinwire.reference.core.schedule import SWITCH, Op, Schedule, Step, Transfer, Work
from thinwire.sim.costs.profile import FabricProfile, Protocol
from thinwire.sim.events.network import Batch, Floats, Ints, Network, Routes, Tag, groups
from thinwire.sim.events.timeline import Carried


@dataclass(frozen=True, eq=False, slots=True)
class TimedStep:
    """A step as arrays: F transfers between R ranks; what rides in another's message is part of that."""

    pairs_F: Ints
    ends_F2: Ints  # source and destination; the switch counts as rank R
    nbytes_F: Floats
    work_bytes_F: Floats
    latency_s: float
    codec_s_R: Floats
    incident_R: Ints  # transfers the rank takes part in
    waiting_FW: Ints  # the ranks that wait for each transfer: both ends, or the destination of a posted one
    started_by: tuple[
        Ints, ...
    ]  # the transfers each rank starts: those it sends, and those it has the switch send to it
    primitive: str
    kinds: tuple[str, ...]  # of local work, of any rank

    def flows_of(self, ranks: Ints) -> Ints:
        """The transfers that some ranks start."""
        if len(ranks) == len(self.started_by):
            return np.arange(len(self.pairs_F))
        if len(ranks) == 1:
            return self.started_by[int(ranks[0])]
        return np.concatenate([self.started_by[rank] for rank in ranks]).astype(np.int64, copy=False)


@dataclass(frozen=True, eq=False, slots=True)
class TimedSchedule:
    """A schedule with its costs, ready to run many times."""

    ranks: int
    lanes: tuple[tuple[TimedStep, ...], ...]
    chunks_in_flight: int
    wire_bytes_R: Floats  # sent by each rank in all
    codec_s_R: Floats  # codec kernels of each rank in all
    notes: tuple[str, ...] = ()
    carried: Carried | None = None
    posted: bool = False  # ranks hand over what they send and go on


MANY_HOPS = ("ring", "tree", "nvls")  # one call of a library runs all of a lane's steps; a direct exchange is a call

CodecSeconds = Callable[[Iterable[Work], int], Floats]  # (a step's work, ranks) -> codec seconds of each rank, (R,)


def time_schedule(
    schedule: Schedule,
    library: str,
    op: Op,
    fabric: FabricProfile,
    codec_s: CodecSeconds,
    routes: Routes,
    one_hop: bool = False,
) -> TimedSchedule:
    """Attach seconds and routes to every step of `schedule`, carried by `library`.

    one_hop: the schedule is a single hop and no collective; its efficiency is that of a collective whose hops are as
        large, which sends more in all.
    """
    notes: dict[str, None] = {}
    lanes, carrier, bits, exact_bits, posted = [], library, 0.0, 0.0, False
    for lane in schedule.lanes:
        per_rank = bytes_per_rank(lane.steps, schedule.ranks, schedule.align)
        timed, launched = [], set()
        for step in _streamed(lane.steps):
            protocol, note, latency_s = None, "", 0.0
            if step.transfers:
                protocol, note = fabric.protocol(library, op, step.primitive, schedule.ranks)
                posted |= protocol.posted
                if note or protocol.source.startswith("assumed"):
                    carrier = "stand-in"
                bits = bits or step.transfers[0].codec.bits_per_value
                exact_bits = exact_bits or step.transfers[-1].codec.bits_per_value
                latency_s = protocol.hop_s + (0.0 if step.primitive in launched else protocol.launch_s)
                if step.primitive in MANY_HOPS:
                    launched.add(step.primitive)
            if note:
                notes[note] = None
            size = per_rank.get(step.primitive, 0.0) * (protocol.hops if protocol and one_hop else 1)
            timed.append(_time_step(step, schedule.ranks, protocol, size, schedule.align, latency_s, codec_s, routes))
        lanes.append(tuple(timed))
    sent, codec = np.zeros(schedule.ranks), np.zeros(schedule.ranks)
    for lane_steps in lanes:
        for s in lane_steps:
            sent += np.bincount(s.ends_F2[:, 0], s.nbytes_F, minlength=schedule.ranks + 1)[:-1]
            codec += s.codec_s_R
    carried = Carried(carrier, ((schedule.numel - schedule.exact) * bits + schedule.exact * exact_bits) / 8)
    in_flight = schedule.chunks_in_flight
    return TimedSchedule(schedule.ranks, tuple(lanes), in_flight, sent, codec, tuple(notes), carried, posted)


def _streamed(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """A reducing switch sums and multicasts values as they pass, so both directions of every port work at once: one
    step in time.
    """
    through_switch = [step for step in steps if step.primitive == "nvls"]
    if not through_switch:
        return steps
    first = steps.index(through_switch[0])
    merged = Step(
        "nvls",
        tuple(work for step in through_switch for work in step.work),
        tuple(transfer for step in through_switch for transfer in step.transfers),
    )
    return (*steps[:first], merged, *steps[first + len(through_switch) :])


def bytes_per_rank(steps: tuple[Step, ...], ranks: int, align: int) -> Mapping[str, float]:
    """Most bytes any rank sends in all steps of each primitive: the size a protocol's efficiency is looked up by.

    Parts of one cut differ by a group of `align` values where groups do not divide over the ranks; each counts as the
    largest. So the size of one transfer alone says what it costs (`_time_step`), and a value more is never faster.
    """
    sent: dict[str, Floats] = {}
    for step in steps:
        row = sent.setdefault(step.primitive, np.zeros(ranks + 1))  # the last entry is the switch
        if step.transfers:
            messages = _messages(step.transfers)
            nbytes_F, whole_F = _sizes(messages, align)
            np.add.at(row, [m.source for m in messages], np.where(whole_F, nbytes_F.max(), nbytes_F))
    return {primitive: float(row[:-1].max()) for primitive, row in sent.items()}


class _Message(NamedTuple):
    """A transfer, and what rides in it. values, exact: of both."""

    source: int
    destination: int
    nbytes: int
    values: int
    exact: int


def _messages(transfers: Sequence[Transfer]) -> list[_Message]:
    """One for each transfer that does not ride; the others join the last one between the same two, if any."""
    if not (transfers and transfers[-1].rides):  # those that ride stand behind the others
        return [_Message(t.source, t.destination, t.nbytes, len(t.interval), 0) for t in transfers]
    found: list[_Message] = []
    last: dict[tuple[int, int], int] = {}
    for t in transfers:
        ends, size = (t.source, t.destination), len(t.interval)
        if t.rides and ends in last:
            one = found[last[ends]]
            found[last[ends]] = _Message(*ends, one.nbytes + t.nbytes, one.values, one.exact + size)
            continue
        last[ends] = len(found)
        found.append(_Message(*ends, t.nbytes, 0, size) if t.rides else _Message(*ends, t.nbytes, size, 0))
    return found


def _sizes(messages: Sequence[_Message], align: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Bytes of each message, and whether it is as large as the largest but for a group, and for one exact value."""
    values_F, exact_F = np.array([m.values for m in messages]), np.array([m.exact for m in messages])
    whole_F = (values_F + align >= values_F.max()) & (exact_F + 1 >= exact_F.max())
    return np.array([m.nbytes for m in messages], dtype=float), whole_F


def _time_step(
    step: Step,
    ranks: int,
    protocol: Protocol | None,
    bytes_per_rank: float,
    align: int,
    latency_s: float,
    codec_s: CodecSeconds,
    routes: Routes,
) -> TimedStep:
    moving = [m for m in _messages(step.transfers) if m.nbytes]
    channels = protocol.channels if protocol else 1
    source = np.array([m.source for m in moving], dtype=np.int64)
    destination = np.array([m.destination for m in moving], dtype=np.int64)
    ends = np.column_stack([source, destination])
    ends[ends == SWITCH] = ranks
    owner = np.where(source == SWITCH, destination, source)
    nbytes_F, efficiency_F = np.zeros(0), np.ones(len(moving))
    if protocol and moving:
        nbytes_F, whole_F = _sizes(moving, align)
        shares, which_F = np.unique(np.where(whole_F, nbytes_F / nbytes_F.max(), 1.0), return_inverse=True)
        efficiency_F = np.array([protocol.efficiency(bytes_per_rank * share) for share in shares])[which_F]
    return TimedStep(
        pairs_F=np.array([routes.pair(m.source, m.destination, channels) for m in moving], dtype=np.int64),
        ends_F2=ends,
        nbytes_F=nbytes_F,
        work_bytes_F=nbytes_F / efficiency_F,
        latency_s=latency_s,
        codec_s_R=codec_s(step.work, ranks),
        incident_R=_count(ends, ranks),
        waiting_FW=ends[:, 1:] if protocol and protocol.posted else ends,
        started_by=tuple(np.flatnonzero(owner == rank) for rank in range(ranks)),
        primitive=step.primitive,
        kinds=tuple(dict.fromkeys(work.kind for work in step.work)),
    )


def _count(named: Ints, ranks: int) -> Ints:
    """How often each rank is named, (R,); the switch is not counted."""
    return np.bincount(named.ravel(), minlength=ranks + 1)[:ranks]


@dataclass(slots=True)
class _LaneState:
    pending: list[Ints]  # per step: transfers each rank still waits for
    sent: list[NDArray[np.bool_]]  # per step: whether the rank's transfers have been started
    entered_R: Ints  # steps each rank has entered
    done_R: Ints  # steps each rank has finished


@dataclass(eq=False)
class CollectiveRun:
    """One execution. `on_done(ranks)` is called when those ranks hold the result.

    Lanes pass through the steps in order, as calls on one stream do: a rank enters a step of a lane when the lane
    before has left it, and a lane at all when no more than `chunks_in_flight` are under way.
    """

    env: simpy.Environment
    network: Network
    timed: TimedSchedule
    slowdown_R: Floats  # factor on each rank's codec kernels
    on_done: Callable[[Ints], None]
    number: int = 0  # for who watches the network
    _lanes: list[_LaneState] = field(init=False)
    _codec_free_s: Floats = field(init=False)
    _lanes_left: Ints = field(init=False)
    _encoded: list[list[list[float]]] = field(init=False)  # of each rank of a posted exchange: from, to

    def __post_init__(self) -> None:
        """Nobody has begun."""
        ranks = self.timed.ranks
        self._lanes = [
            _LaneState(
                [_count(s.waiting_FW, ranks) for s in steps],
                [np.zeros(ranks, dtype=bool) for _ in steps],
                np.zeros(ranks, dtype=np.int64),
                np.zeros(ranks, dtype=np.int64),
            )
            for steps in self.timed.lanes
        ]
        self._codec_free_s = np.zeros(ranks)
        self._lanes_left = np.full(ranks, sum(len(steps) > 0 for steps in self.timed.lanes))
        self._encoded = [[] for _ in range(ranks)]

    def codec_since(self, rank: int, moment_s: float) -> float:
        """Seconds of codec kernels of one rank of a posted exchange from some moment on."""
        return sum(max(0.0, end - max(begin, moment_s)) for begin, end in self._encoded[rank])

    def enter(self, ranks: Ints) -> None:
        """These ranks begin now."""
        if not any(self.timed.lanes):
            self.on_done(ranks)
            return
        for lane in range(len(self._lanes)):
            self._go_on(lane, ranks)

    def _go_on(self, lane: int, ranks: Ints) -> None:
        """Let those of `ranks` that may, enter the next step of `lane`."""
        if lane >= len(self._lanes):
            return
        state, steps = self._lanes[lane], len(self.timed.lanes[lane])
        done = state.done_R[ranks]
        free = (state.entered_R[ranks] == done) & (done < steps)
        if lane:
            free &= self._lanes[lane - 1].done_R[ranks] > done
        oldest = lane - self.timed.chunks_in_flight
        if oldest >= 0:
            free &= self._lanes[oldest].done_R[ranks] == len(self.timed.lanes[oldest])
        going = ranks[free]
        for number, together in groups(done[free]):
            self._enter(lane, int(number), going[together])

    def _enter(self, lane: int, number: int, ranks: Ints) -> None:
        step, now = self.timed.lanes[lane][number], self.env.now
        self._lanes[lane].entered_R[ranks] = number + 1
        begin = np.maximum(self._codec_free_s[ranks], now)
        ready = begin + step.codec_s_R[ranks] * self.slowdown_R[ranks]
        self._codec_free_s[ranks] = ready
        if self.network.watch is not None:
            self.network.watch.coding(self.number, lane, number, ranks, begin, ready)
        if self.timed.posted:
            for rank, *from_to in zip(ranks.tolist(), begin.tolist(), ready.tolist(), strict=True):
                self._encoded[rank].append(from_to)
        launch = ready + np.where(step.incident_R[ranks] > 0, step.latency_s, 0.0)
        for moment, together in groups(launch):
            self._after(float(moment - now), partial(self._launch, lane, number, ranks[together]))

    def _launch(self, lane: int, number: int, ranks: Ints) -> None:
        step, state = self.timed.lanes[lane][number], self._lanes[lane]
        state.sent[number][ranks] = True
        flows = step.flows_of(ranks)
        if len(flows):
            arrived = partial(self._arrive, lane, number, flows)
            nbytes, work_bytes = step.nbytes_F[flows], step.work_bytes_F[flows]
            watched = self.network.watch is not None
            tag = Tag(self.number, lane, number, step.ends_F2[flows], np.zeros(len(flows))) if watched else None
            self.network.start(Batch(step.pairs_F[flows], nbytes, work_bytes, arrived, self.timed.posted, tag))
        idle = ranks[state.pending[number][ranks] == 0]
        if len(idle):
            self._leave(lane, number, idle)

    def _arrive(self, lane: int, number: int, flows: Ints, indices: Ints) -> None:
        step, state = self.timed.lanes[lane][number], self._lanes[lane]
        arrived_R = _count(step.waiting_FW[flows[indices]], self.timed.ranks)
        pending = state.pending[number]
        pending -= arrived_R
        through = np.flatnonzero((arrived_R > 0) & (pending == 0) & state.sent[number])
        if len(through):
            self._leave(lane, number, through)

    def _leave(self, lane: int, number: int, ranks: Ints) -> None:
        self._lanes[lane].done_R[ranks] = number + 1
        last = number + 1 == len(self.timed.lanes[lane])
        if last:
            self._lanes_left[ranks] -= 1
        else:
            self._go_on(lane, ranks)
        if lane + 1 < len(self._lanes):
            self._go_on(lane + 1, ranks)
        if last:
            self._go_on(lane + self.timed.chunks_in_flight, ranks)
            done = ranks[self._lanes_left[ranks] == 0]
            if len(done):
                self.on_done(done)

    def _after(self, delay_s: float, action: Callable[[], None]) -> None:
        if delay_s <= 0:
            action()
        else:
            self.env.timeout(delay_s).callbacks.append(lambda _event: action())


@dataclass(frozen=True, eq=False, slots=True)
class CollectiveTime:
    """What one collective alone on the network takes, from the moment the last rank arrives."""

    finish_s_R: Floats
    codec_s_R: Floats
    wire_bytes_R: Floats
    link_bytes: Mapping[tuple[str, str], float]
    peak_utilisation: float
    notes: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Until the last rank holds the result."""
        return float(self.finish_s_R.max())


def run_alone(timed: TimedSchedule, routes: Routes, slowdown_R: Floats | None = None) -> CollectiveTime:
    """Run one collective on an otherwise idle network."""
    env = simpy.Environment()
    network = Network(env, routes)
    slowdown = np.ones(timed.ranks) if slowdown_R is None else slowdown_R
    finish = np.zeros(timed.ranks)

    def done(ranks: Ints) -> None:
        finish[ranks] = env.now

    CollectiveRun(env, network, timed, slowdown, done).enter(np.arange(timed.ranks))
    env.run()
    return CollectiveTime(
        finish,
        timed.codec_s_R * slowdown,
        timed.wire_bytes_R,
        network.link_bytes(),
        network.peak_utilisation(),
        timed.notes,
    )
