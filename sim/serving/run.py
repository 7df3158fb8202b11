"""A serving run: requests, a router, replicas, faults, on SimPy; from the first arrival to the last token.

Nobody is lost and nobody served twice: every request that arrives is finished, refused (it could never fit a replica)
or, where all that could serve it stay down, still waiting at the end. Recovery is by the router: requests of a replica
that goes down are sent again at once, their prompts with what had been generated so far, and keep their arrival times.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from thinwire.edge.words import shown
from thinwire.sim.serving.arrivals import ClosedLoop, Drawn, Load
from thinwire.sim.serving.iteration import Pace
from thinwire.sim.serving.question import POLICIES, Policy
from thinwire.sim.serving.replica import NEVER, Batching, Replica, Request, Role
from thinwire.sim.serving.router import Pool
from thinwire.sim.serving.statistics import NO_SLO, Estimate, Level, Recorder, Slo, Summary, student

MOST_REFUSED = 1000  # in a row, to one user of a closed loop


@dataclass(frozen=True, slots=True)
class Change:
    """From `at_s` on a replica has another pace, or None: it is down."""

    at_s: float
    replica: int
    pace: Pace | None

    def __post_init__(self) -> None:
        if not 0 <= self.at_s < math.inf:
            raise ValueError(f"a change needs a time of 0 or more, and finite: at_s={self.at_s}")


@dataclass(frozen=True, slots=True)
class Setup:
    """What serves: `replicas` that do both, or, with `decode_replicas`, as many for prompts and those for decoding.

    transfer_s: seconds that keys and values of so many tokens take from the one pool to the other.
    """

    pace: Pace
    limits: Batching
    replicas: int
    policy: Policy = "least-tokens"
    decode_replicas: int = 0
    decode_pace: Pace | None = None
    decode_limits: Batching | None = None
    transfer_s: Callable[[int], float] = lambda tokens: 0.0
    changes: tuple[Change, ...] = ()
    leaps: bool = True  # False: an event for every iteration

    def __post_init__(self) -> None:
        if self.replicas < 1 or self.decode_replicas < 0:
            raise ValueError(f"need replicas >= 1 and decode_replicas >= 0: {self.replicas} and {self.decode_replicas}")
        if self.policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}: policy={shown(self.policy)}")
        for change in self.changes:
            if not 0 <= change.replica < self.replicas + self.decode_replicas:
                raise ValueError(
                    f"no such replica: {change.replica}, they are 0..{self.replicas + self.decode_replicas - 1}"
                )


@dataclass(frozen=True, slots=True)
class Window:
    """What is measured: requests that arrive from `warm_up_s` to `duration_s`, in `batches`; arrivals end there, and
    what has arrived is served to the end.
    """

    duration_s: float
    warm_up_s: float
    batches: int = 20


@dataclass(frozen=True)
class Run:
    """What a run gives. Counts are of the whole run; averages of the window, by arrival or by time."""

    arrived: int
    finished: int
    refused: int
    unfinished: int
    restarts: int
    ttft: Summary
    tpot: Summary
    latency: Summary
    goodput_per_s: Estimate
    attainment: float  # share of what arrived in the window and was not refused that keeps the SLO
    output_tokens_per_s: Estimate
    utilisation: float  # mean share of the time that replicas are busy
    queue: Estimate  # requests that wait to be admitted, mean over time
    queue_most: int
    in_system: Estimate
    in_system_growth: int  # over the window
    saturated: bool  # those who wait grew by more than chance explains, or the house grows beyond its places (015)
    filling: bool  # neither, but it grew: long answers, or a load that grows
    kv_most: float  # share of a replica's KV cache that was handed out at most
    end_s: float  # of the window, or of the last request served where that is later
    iterations: int
    events: int
    little_error: float
    slo: Slo = field(repr=False, default=NO_SLO)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, times in milliseconds."""
        finite = {name: getattr(self.slo, name) for name in ("ttft_s", "tpot_s")}
        return {
            "requests": {
                "arrived": self.arrived,
                "finished": self.finished,
                "refused": self.refused,
                "unfinished": self.unfinished,
                "restarts": self.restarts,
            },
            "ttft_ms": self.ttft.to_dict(),
            "tpot_ms": self.tpot.to_dict(),
            "latency_ms": self.latency.to_dict(),
            "slo_ms": {name[:-2]: None if math.isinf(s) else s * 1e3 for name, s in finite.items()},
            "goodput_requests_per_s": self.goodput_per_s.to_dict(),
            "slo_attainment": None if math.isnan(self.attainment) else self.attainment,
            "output_tokens_per_s": self.output_tokens_per_s.to_dict(),
            "utilisation": self.utilisation,
            "queue_length": {**self.queue.to_dict(), "most": self.queue_most},
            "in_system": {**self.in_system.to_dict(), "growth": self.in_system_growth},
            "saturated": self.saturated,
            "filling": self.filling,
            "kv_cache_most": self.kv_most,
            "end_s": self.end_s,
            "iterations": self.iterations,
            "events": self.events,
            "little_error": self.little_error,
        }


class Simulation:
    """One run of a setup under a load. Call `run` once. watch: is told how far it is, a few times a run."""

    def __init__(
        self,
        setup: Setup,
        load: Load,
        window: Window,
        slo: Slo = NO_SLO,
        seed: int = 0,
        watch: Callable[[float], None] = lambda at_s: None,
    ) -> None:
        self._watch = watch
        self.env = simpy.Environment()
        self.setup, self.load, self.window = setup, load, window
        self.recorder = Recorder(window.warm_up_s, window.duration_s, window.batches, slo)
        self._queue, self._system = Level(), Level()
        self._busy_s = self._sojourn_s = self._ended_s = 0.0
        self._arrived = self._finished = self._refused = self._restarts = 0
        self._marks: list[tuple[float, float, int, int]] = []
        self._under_way: dict[int, tuple[Request, Replica]] = {}  # whose keys and values are on their way
        self._row = (0.0, 0, 0)  # the request to arrive next
        self._pieces: Iterator[tuple[float, int, int]] = _rows(load, seed, window.duration_s)
        expected = round(load.mean_output)
        separate = setup.decode_replicas > 0
        first = self._replicas(0, setup.replicas, setup.pace, setup.limits, "prefill" if separate else "both")
        self.entry = Pool(first, setup.policy, prompts=True, expected=0 if separate else expected)
        self.decoding = self.entry
        if separate:
            pace, limits = setup.decode_pace or setup.pace, setup.decode_limits or setup.limits
            second = self._replicas(setup.replicas, setup.decode_replicas, pace, limits, "decode")
            self.decoding = Pool(second, setup.policy, prompts=False, expected=expected)
        self.replicas = (*self.entry.replicas, *(self.decoding.replicas if separate else ()))
        self._paces = {replica.number: replica.pace for replica in self.replicas}

    def _replicas(self, first: int, number: int, pace: Pace, limits: Batching, role: Role) -> list[Replica]:
        shared: deque[Request] | None = deque() if self.setup.policy == "shared-queue" else None
        numbers = range(first, first + number)
        return [Replica(self.env, self, n, pace, limits, role, shared, self.setup.leaps) for n in numbers]

    def run(self) -> Run:
        """To the last token of the last request."""
        for change in self.setup.changes:
            self._at(change.at_s, lambda change=change: self._change(change))  # type: ignore[misc]
        if isinstance(self.load, ClosedLoop):
            self._at(0.0, self._open)  # after what changes then
        self._at(self.window.warm_up_s, self._mark)
        width_s = (self.window.duration_s - self.window.warm_up_s) / self.window.batches
        for batch in range(1, self.window.batches + 1):
            self._at(self.window.warm_up_s + batch * width_s, self._mark)
        if not isinstance(self.load, ClosedLoop):
            self._next_arrival()
        self.env.run()
        return self._result()

    def _at(self, at_s: float, action: Callable[[], None]) -> None:
        event = self.env.timeout(at_s - self.env.now)
        assert event.callbacks is not None
        event.callbacks.append(lambda _event: action())

    # --- arrivals

    def _next_arrival(self) -> None:
        row = next(self._pieces, None)
        if row is not None:
            event = self.env.timeout(max(row[0] - self.env.now, 0.0))  # rounding may have us there already
            assert event.callbacks is not None
            event.callbacks.append(self._arrive)
            self._row = row

    def _arrive(self, _event: simpy.Event) -> None:
        _, prompt, output = self._row
        self._enter(prompt, output)
        self._next_arrival()

    def _open(self) -> None:
        assert isinstance(self.load, ClosedLoop)
        for _ in range(self.load.users):
            self._ask_again()

    def _ask_again(self) -> None:
        """A user of a closed loop, served, asks again; at the end of the window no more."""
        for _ in range(MOST_REFUSED):
            if self.env.now >= self.window.duration_s:
                return
            _, prompt, output = next(self._pieces)
            if self._enter(prompt, output):
                return
        raise ValueError(
            f"no request of {MOST_REFUSED} in a row fits a replica: the last has prompt={prompt}, output={output}"
        )

    def _enter(self, prompt: int, output: int) -> bool:
        request = Request(self._arrived, self.env.now, prompt, output)
        self._arrived += 1
        for pool in (self.entry, self.decoding):
            replica = pool.replicas[0]
            again = replica.limits.blocks(prompt + output) if self.setup.changes else 0  # after a fault, at most
            if max(replica.needs(request), again) > replica.limits.request_tokens:
                self._refused += 1
                return False
        self._system.change(1, self.env.now)
        self._queue.change(1, self.env.now)
        self.entry.send(request)
        return True

    # --- what replicas tell

    def admitted(self, request: Request) -> None:
        """Out of the queue."""
        self._queue.change(-1, self.env.now)

    def busy(self, since_s: float) -> None:
        """Counted within the window."""
        until_s = min(self.env.now, self.window.duration_s)
        since_s = max(since_s, self.window.warm_up_s)
        if until_s > since_s:
            self._busy_s += until_s - since_s

    def prefilled(self, replica: Replica, request: Request) -> None:
        """The first token, unless it was sent again."""
        if request.first_s == NEVER:
            request.first_s = self.env.now
        self.entry.prefilled(request, request.prompt + request.generated - 1)

    def finished(self, replica: Replica, request: Request) -> None:
        """Gone."""
        now = self.env.now
        (self.entry if replica.role != "decode" else self.decoding).left(request)
        self._finished += 1
        self._ended_s = now
        self._system.change(-1, now)
        self._sojourn_s += now - request.arrival_s
        self.recorder.add(request.arrival_s, request.first_s, now, request.output)
        if isinstance(self.load, ClosedLoop):
            self._ask_again()

    def handed_over(self, replica: Replica, request: Request) -> None:
        """Keys and values go to the other pool; the memory is free when they are there."""
        self.entry.left(request)
        self._under_way[request.number] = request, replica
        lives, takes_s = request.restarts, self.setup.transfer_s(request.prompt + request.generated)
        self._at(self.env.now + takes_s, lambda: self._landed(request, lives))

    def _landed(self, request: Request, lives: int) -> None:
        if request.restarts != lives:
            return  # what was under way is lost: its source went down
        _, source = self._under_way.pop(request.number)
        source.release(request)
        if source.queue:
            source.knock()
        self._queue.change(1, self.env.now)
        self.decoding.send(request)

    # --- faults

    def _change(self, change: Change) -> None:
        replica = self.replicas[change.replica]
        pool = self.decoding if replica.role == "decode" else self.entry
        if change.pace is None:
            if replica.alive:
                self._fail(pool, replica)
            return
        replica.set_pace(change.pace)
        if not replica.alive:
            pool.revived(replica)

    def _fail(self, pool: Pool, replica: Replica) -> None:
        waiting = 0 if self.setup.policy == "shared-queue" else len(replica.queue)
        lost = pool.failed(replica)
        under_way = [request for request, source in self._under_way.values() if source is replica]
        for request in under_way:
            del self._under_way[request.number]
            request.held = 0
        lost = sorted([*lost, *under_way], key=lambda request: request.number)
        self._queue.change(len(lost) - waiting, self.env.now)
        for request in lost:
            request.restarts += 1
        self._restarts += len(lost)
        self.entry.send(*lost)

    # --- the end

    def _mark(self) -> None:
        now = self.env.now
        self._watch(now)
        queue, system = self._queue, self._system
        waiting = queue.now + sum(replica.prompts for replica in self.replicas)
        self._marks.append((queue.area_until(now), system.area_until(now), system.now, waiting))
        self._places = [_places(pool) for pool in (self.entry, self.decoding)]

    def _result(self) -> Run:
        now, window = self.env.now, self.window
        waiting = {r.number: r for pool in (self.entry, self.decoding) for r in pool.waiting()}.values()
        recorder = self.recorder.finish(sum(request.arrival_s >= window.warm_up_s for request in waiting))
        width_s = (window.duration_s - window.warm_up_s) / window.batches
        queues, systems = (
            [(after[i] - before[i]) / width_s for before, after in zip(self._marks, self._marks[1:], strict=False)]
            for i in (0, 1)
        )
        growth = self._marks[-1][2] - self._marks[0][2]
        unfinished = self._arrived - self._finished - self._refused
        sojourn_s = self._sojourn_s + sum(now - request.arrival_s for request in waiting)
        area_s = self._system.area_until(now)
        ttft, latency = recorder.ttft.summary(), recorder.latency.summary()
        asked = max(1, ttft.count + unfinished)
        bursts = max(1.0, self.load.burstiness) if isinstance(self.load, Drawn) else 1.0
        chance = 3 * math.sqrt(bursts * asked)  # three standard deviations of a count of arrivals
        measured_s = window.duration_s - window.warm_up_s
        waiting_longer = _grew([mark[3] for mark in self._marks], chance)
        waits_s = self._queue.area_until(now) / max(1, self._arrived - self._refused)
        stays_s = [latency.mean.value - waits_s]  # in a place; of two pools, at least
        if self.decoding is not self.entry:
            stays_s = [ttft.mean.value - waits_s, latency.mean.value - ttft.mean.value - waits_s]
        # Little's law: so many will be there at once, and more if an iteration of more takes longer.
        too_many = any(
            asked / measured_s * stay_s > places for stay_s, places in zip(stays_s, self._places, strict=False)
        )
        saturated = waiting_longer or (growth > chance and too_many)
        return Run(
            arrived=self._arrived,
            finished=self._finished,
            refused=self._refused,
            unfinished=unfinished,
            restarts=self._restarts,
            ttft=ttft,
            tpot=recorder.tpot.summary(),
            latency=latency,
            goodput_per_s=recorder.goodput_per_s,
            attainment=recorder.attainment,
            output_tokens_per_s=recorder.output_tokens_per_s,
            utilisation=self._busy_s / (measured_s * len(self.replicas)),
            queue=Estimate(sum(queues) / len(queues), student(queues)),
            queue_most=self._queue.most,
            in_system=Estimate(sum(systems) / len(systems), student(systems)),
            in_system_growth=growth,
            saturated=saturated and not isinstance(self.load, ClosedLoop),
            filling=growth > chance and not saturated,
            kv_most=max(replica.kv_most / replica.limits.kv_tokens for replica in self.replicas),
            end_s=max(self._ended_s, window.duration_s),
            iterations=sum(replica.iterations for replica in self.replicas),
            events=sum(replica.events for replica in self.replicas),
            little_error=abs(area_s - sojourn_s) / sojourn_s if sojourn_s else 0.0,
            slo=recorder.slo,
        )


def _places(pool: Pool) -> float:
    """Requests that a pool can hold at once, where each holds as much memory as those do who are there now."""
    limits, held = pool.replicas[0].limits, sum(replica.kv_used for replica in pool.replicas)
    places = float(limits.max_sequences * len(pool.replicas))
    if held:
        admitted = sum(replica.admitted for replica in pool.replicas)
        places = min(places, admitted * limits.kv_tokens * len(pool.replicas) / held)
    return places


def _grew(waiting: Sequence[int], chance: float) -> bool:
    """From the first mark to the last, and not at the very end alone."""
    few = max(1, len(waiting) // 4)
    later = (sum(waiting[-few:]) - sum(waiting[:few])) / few
    return waiting[-1] - waiting[0] > chance and later > chance / 2


def _rows(load: Load, seed: int, until_s: float) -> Iterator[tuple[float, int, int]]:
    """Requests one by one."""
    for piece in load.pieces(seed, until_s):
        yield from zip(piece.at_s.tolist(), piece.prompt_tokens.tolist(), piece.output_tokens.tolist(), strict=True)
