"""A serving cluster written down as the rules say, slow and obvious: what `sim.serving.run` is held against.

No leaps, no heaps, no running sums: events lie in a list that is sorted whenever one is taken, every count is made anew
from the requests themselves, and every iteration is an event of its own. Nothing here comes from `sim.serving.replica`,
`sim.serving.router` or `sim.serving.run` but the values of a `Setup`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from thinwire.sim.serving.iteration import Pace
from thinwire.sim.serving.replica import Batching
from thinwire.sim.serving.run import Setup


@dataclass(eq=False)
class Asked:
    """A request, and how far it has got."""

    number: int
    arrival_s: float
    prompt: int
    output: int
    generated: int = 0
    done: int = 0  # tokens of the prompt (and of what had been generated before a fault) that are processed
    prefilled: bool = False  # since it was last sent
    first_s: float | None = None
    end_s: float | None = None

    @property
    def total(self) -> int:
        """Tokens that its prefill processes."""
        return self.prompt + self.generated


@dataclass(eq=False)
class Engine:
    """A replica: who waits, who is in the batch, what the iteration under way holds."""

    pace: Pace
    limits: Batching
    role: str
    alive: bool = True
    queue: list[Asked] = field(default_factory=list)
    batch: list[Asked] = field(default_factory=list)
    sending: list[Asked] = field(default_factory=list)  # whose keys and values are on their way from here
    working: bool = False
    began_s: float = 0.0
    chunks: dict[Asked, int] = field(default_factory=dict)  # of the iteration under way
    decodes: list[Asked] = field(default_factory=list)
    iterations: int = 0
    life: int = 0  # how often it went down: what was under way then never ends

    def needs(self, r: Asked) -> int:
        """KV cache for what will be here at most, in whole blocks."""
        tokens = r.prompt + r.generated + 1 if self.role == "prefill" else r.prompt + r.output
        blocks = tokens // self.limits.kv_block + (tokens % self.limits.kv_block > 0)
        return blocks * self.limits.kv_block

    def admits(self, r: Asked, held: dict[Asked, int]) -> bool:
        """Is there a place and memory?"""
        used = sum(held[other] for other in (*self.batch, *self.sending))
        return len(self.batch) < self.limits.max_sequences and used + self.needs(r) <= self.limits.kv_tokens


class Naive:
    """One run. rows: (arrival, prompt, output) by time. expected: output tokens a router reckons with."""

    def __init__(self, setup: Setup, rows: Sequence[tuple[float, int, int]], expected: int) -> None:
        self.setup, self.expected = setup, expected
        self.separate = setup.decode_replicas > 0
        roles = ["prefill" if self.separate else "both"] * setup.replicas + ["decode"] * setup.decode_replicas
        self.engines = [Engine(setup.pace, setup.limits, role) for role in roles]
        self.entry = self.engines[: setup.replicas]
        self.decoding = self.engines[setup.replicas :] if self.separate else self.entry
        if setup.policy == "shared-queue":
            for pool in (self.entry, self.decoding):
                for engine in pool:
                    engine.queue = pool[0].queue
        self.turn = {"entry": 0, "decoding": 0}
        self.parked: dict[str, list[Asked]] = {"entry": [], "decoding": []}
        self.held: dict[Asked, int] = {}
        self.everybody: list[Asked] = []
        self.refused = self.restarts = 0
        self.now = 0.0
        self.busy: list[tuple[float, float]] = []
        self.waited: list[tuple[float, float, int, int, int]] = []  # (from, to, waiting, in the house, no token yet)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        for change in setup.changes:
            self._at(change.at_s, lambda c=change: self._change(c.replica, c.pace))  # type: ignore[misc]
        for number, (at_s, prompt, output) in enumerate(rows):
            r = Asked(number, at_s, prompt, output)
            self._at(at_s, lambda r=r: self._arrive(r))  # type: ignore[misc]

    def run(self) -> "Naive":
        """Until nothing is left to happen."""
        while self._events:
            self._events.sort(key=lambda event: event[:2])
            at_s, _, action = self._events.pop(0)
            self._wait(at_s)
            self.now = at_s
            action()
            self._begin()
        self._wait(math.inf)
        return self

    def _wait(self, until_s: float) -> None:
        here = [r for r in self.everybody if r.end_s is None]
        inside = {r for engine in self.engines for r in (*engine.batch, *engine.sending)}
        outside = sum(r not in inside for r in here)
        unanswered = sum(r not in inside or not r.prefilled for r in here)
        self.waited.append((self.now, until_s, outside, len(here), unanswered))

    def unanswered(self, at_s: float) -> int:
        """Who waits at some moment for a place, or for a token."""
        return next(row[4] for row in self.waited if row[0] <= at_s < row[1])

    def mean(self, which: int, since_s: float, until_s: float) -> float:
        """Over time, of those who wait (2) or are in the house (3)."""
        area = sum(max(0.0, min(row[1], until_s) - max(row[0], since_s)) * row[which] for row in self.waited)
        return area / (until_s - since_s)

    def utilisation(self, since_s: float, until_s: float) -> float:
        """Share of the time that replicas are busy."""
        spent_s = sum(max(0.0, min(end, until_s) - max(start, since_s)) for start, end in self.busy)
        return spent_s / (until_s - since_s) / len(self.engines)

    def _at(self, at_s: float, action: Callable[[], None]) -> None:
        self._serial += 1
        self._events.append((at_s, self._serial, action))

    # --- requests come and are sent

    def _arrive(self, r: Asked) -> None:
        if any(e.needs(r) > e.limits.kv_tokens for e in (self.entry[0], self.decoding[0])):
            self.refused += 1
            return
        self.everybody.append(r)
        self._send("entry", r)

    def _send(self, where: str, r: Asked) -> None:
        pool = self.entry if where == "entry" else self.decoding
        if self.setup.policy == "shared-queue":
            pool[0].queue.append(r)
            return
        alive = [engine for engine in pool if engine.alive]
        if not alive:
            self.parked[where].append(r)
            return
        if self.setup.policy == "least-tokens":
            chosen = min(alive, key=lambda engine: self._outstanding(where, engine))
        else:
            while not pool[self.turn[where] % len(pool)].alive:
                self.turn[where] += 1
            chosen = pool[self.turn[where] % len(pool)]
            self.turn[where] += 1
        chosen.queue.append(r)

    def _outstanding(self, where: str, engine: Engine) -> int:
        """Tokens still to be processed, as the router counts them."""
        mine = [*engine.queue, *engine.batch]
        prompts = sum(r.total for r in mine if not r.prefilled)
        if where == "decoding" and self.separate:
            return self.expected * len(mine)
        return prompts + (0 if self.separate else self.expected * len(mine))

    # --- iterations

    def _begin(self) -> None:
        """Whoever is idle and has something to do begins; what one takes may leave another something that fits."""
        for _ in self.engines:
            for engine in self.engines:
                if engine.alive and not engine.working:
                    self._start(engine)

    def _start(self, e: Engine) -> None:
        while e.queue and e.admits(e.queue[0], self.held):
            r = e.queue.pop(0)
            self.held[r] = e.needs(r)
            e.batch.append(r)
        e.chunks, e.decodes = {}, [r for r in e.batch if r.prefilled]
        room = e.limits.token_budget - (len(e.decodes) if e.limits.chunked_prefill else 0)
        for r in e.batch:
            left = r.total - r.done
            if r.prefilled:
                continue
            taken = min(left, room)
            if not e.limits.chunked_prefill:  # whole; the first however long
                taken = left if left <= room or not e.chunks else 0
            if taken <= 0:
                break
            e.chunks[r] = taken
            room -= taken
        if e.chunks and not e.limits.chunked_prefill:
            e.decodes = []  # decoding stands still beside whole prompts
        context = sum(r.prompt + r.generated for r in e.decodes)
        if e.chunks:
            chunks = [(taken, r.done + taken) for r, taken in e.chunks.items()]
            finishing = sum(r.done + taken == r.total for r, taken in e.chunks.items())
            seconds = e.pace.mixed_s(chunks, finishing, len(e.decodes), context)
        elif e.decodes:
            seconds = e.pace.line(len(e.decodes), context).first_s
        else:
            return
        e.working, e.began_s = True, self.now
        self._at(self.now + seconds, lambda life=e.life: self._end(e, life))  # type: ignore[misc]

    def _end(self, e: Engine, life: int) -> None:
        if e.life != life:
            return
        e.working = False
        e.iterations += 1
        self.busy.append((e.began_s, self.now))
        for r in sorted(e.decodes, key=lambda r: r.number):
            r.generated += 1
            self._leave_if_done(e, r)
        for r, taken in list(e.chunks.items()):
            r.done += taken
            if r.done == r.total:
                r.generated += 1
                r.prefilled = True
                r.first_s = self.now if r.first_s is None else r.first_s
                self._leave_if_done(e, r)
                if e.role == "prefill" and r.end_s is None:
                    e.batch.remove(r)
                    e.sending.append(r)
                    takes_s = self.setup.transfer_s(r.prompt + r.generated)
                    self._at(self.now + takes_s, lambda r=r, life=e.life: self._land(e, r, life))  # type: ignore[misc]
        self._start(e)

    def _leave_if_done(self, e: Engine, r: Asked) -> None:
        if r.generated == r.output:
            r.end_s = self.now
            e.batch.remove(r)

    def _land(self, e: Engine, r: Asked, life: int) -> None:
        if e.life == life:
            e.sending.remove(r)
            self._send("decoding", r)

    # --- faults

    def _change(self, place: int, pace: Pace | None) -> None:
        e = self.engines[place]
        where = "entry" if place < self.setup.replicas else "decoding"
        if pace is not None:
            e.pace = pace
            if not e.alive:
                e.alive = True
                waiting, self.parked[where] = self.parked[where], []
                for r in waiting:
                    self._send(where, r)
            return
        if not e.alive:
            return
        lost = [*e.batch, *e.sending]
        if self.setup.policy != "shared-queue":
            lost += e.queue
            e.queue.clear()
        if e.working:
            self.busy.append((e.began_s, self.now))
        e.alive = e.working = False
        e.life += 1
        e.batch, e.sending = [], []
        for r in sorted(lost, key=lambda r: r.number):
            r.done, r.prefilled = 0, False
            self.restarts += 1
            self._send("entry", r)


def told(naive: Naive) -> dict[int, tuple[float, float, float]]:
    """Arrival, first token and end of whoever was served."""
    times: dict[int, Any] = {
        r.number: (r.arrival_s, r.first_s, r.end_s) for r in naive.everybody if r.end_s is not None
    }
    return times
