"""One replica of an engine: continuous batching, iteration by iteration.

Every iteration holds a token of each decoding sequence and, up to a budget of tokens, chunks of the prompts admitted,
in order of arrival. A request is admitted when a place and KV-cache memory for its prompt and all its output are free
(so nothing is ever evicted); those behind it wait their turn. A finished prompt gives the first token.

An iteration costs the simulation one event, whatever its batch: contexts are summed up, and a heap knows after which
iteration which sequence ends. While nothing but decoding goes on and nobody can join, all iterations up to the next
end are one event too (a leap): their durations grow by the same step, so their sum has a closed form. Whoever can join
cuts the leap at the end of the iteration under way.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Literal, Protocol

import simpy

from thinwire.sim.serving.iteration import Pace

Role = Literal["both", "prefill", "decode"]
NEVER = -1.0


@dataclass(frozen=True, slots=True)
class Batching:
    """Limits of one replica's iterations.

    token_budget: tokens of an iteration. max_sequences: requests admitted at once. chunked_prefill: prompts are cut to
    fill the budget beside decoding; without, an iteration with prompts holds whole prompts alone and decoding stands
    still. kv_tokens: tokens whose keys and values fit the memory, handed out in blocks of kv_block; `KV_TOKENS.most`
    of a model that keeps none. chunk_tokens: of a prompt at most in an iteration, where ranks have sequences of their
    own and each its part of the budget and of the KV cache. There a request must fit one rank's part; whether there is
    room for it now is asked of all parts together, as if it were always free on one rank.
    """

    token_budget: int
    max_sequences: int
    kv_tokens: int
    chunked_prefill: bool = True
    kv_block: int = 16
    chunk_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("token_budget", "max_sequences", "kv_tokens", "kv_block"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number of 1 or more: {name}={getattr(self, name)!r}")
        if self.chunked_prefill and self.token_budget < self.max_sequences:
            raise ValueError(
                f"the token budget must hold a token of every sequence: token_budget={self.token_budget}, "
                f"max_sequences={self.max_sequences}"
            )

    @property
    def request_tokens(self) -> int:
        """Of the KV cache, what one request may take at most."""
        return self.kv_tokens if self.chunk_tokens is None else self.kv_tokens * self.chunk_tokens // self.token_budget

    def blocks(self, tokens: int) -> int:
        """Tokens of memory handed out for so many."""
        return -(-tokens // self.kv_block) * self.kv_block


class Request:
    """One request and how far it has got. `generated` is brought up to date when it leaves a replica."""

    __slots__ = ("arrival_s", "first_s", "generated", "held", "home", "number", "output", "prompt", "restarts")

    def __init__(self, number: int, arrival_s: float, prompt: int, output: int) -> None:
        self.number, self.arrival_s, self.prompt, self.output = number, arrival_s, prompt, output
        self.generated, self.first_s, self.held, self.restarts = 0, NEVER, 0, 0
        self.home = -1  # its place in the pool it was sent to


class Host(Protocol):
    """What a replica tells the simulation around it."""

    def admitted(self, request: Request) -> None:
        """It has left the queue."""
        ...

    def prefilled(self, replica: "Replica", request: Request) -> None:
        """Its prompt is done and a token is out."""
        ...

    def finished(self, replica: "Replica", request: Request) -> None:
        """Its last token is out."""
        ...

    def handed_over(self, replica: "Replica", request: Request) -> None:
        """Its keys and values are to go to a replica that decodes."""
        ...

    def busy(self, since_s: float) -> None:
        """The replica was busy from then to now."""
        ...


class Replica:
    """The state machine. `queue` may be shared with other replicas: who is free first takes from it. `passed` is called
    when requests were taken and others are left: whoever is first now may fit where the one before did not.
    """

    def __init__(
        self,
        env: simpy.Environment,
        host: Host,
        number: int,
        pace: Pace,
        limits: Batching,
        role: Role = "both",
        queue: "deque[Request] | None" = None,
        leaps: bool = True,
    ) -> None:
        self.env, self.host, self.number, self.pace, self.limits, self.role = env, host, number, pace, limits, role
        self.queue: deque[Request] = deque() if queue is None else queue
        self.leaps = leaps
        self.passed: Callable[[], None] | None = None
        self.alive = True
        self.kv_used = self.kv_most = 0
        self.iterations = self.events = 0
        self._prompts: deque[list[Any]] = deque()  # [request, tokens done, tokens in all]
        self._ends: list[tuple[int, int, Request]] = []  # (after which decode step, number, request), a heap
        self._steps = 0  # decode steps done
        self._context = 0  # tokens that the next decode iteration sees
        self._ending: simpy.Event | None = None
        self._began_s = 0.0
        self._leap = 0  # decode iterations under way in one event
        self._first_s = self._step_s = 0.0  # duration of the first of them, and what each takes more than the last
        self._chunks: list[tuple[int, int]] = []

    @property
    def sequences(self) -> int:
        """That decode."""
        return len(self._ends)

    @property
    def admitted(self) -> int:
        """Requests that hold a place."""
        return len(self._ends) + len(self._prompts)

    @property
    def prompts(self) -> int:
        """Requests that hold a place and have no token of this replica yet."""
        return len(self._prompts)

    @property
    def idle(self) -> bool:
        """Nothing under way."""
        return self.alive and self._ending is None

    def needs(self, request: Request) -> int:
        """KV-cache tokens it must be given here."""
        tokens = request.prompt + request.generated + 1 if self.role == "prefill" else request.prompt + request.output
        return self.limits.blocks(tokens)

    def fits(self, request: Request) -> bool:
        """Could it be admitted now?"""
        room = self.kv_used + self.needs(request) <= self.limits.kv_tokens
        return self.alive and room and self.admitted < self.limits.max_sequences

    def knock(self) -> None:
        """Somebody has joined the queue."""
        if self._ending is None:
            if self.alive:
                self._start()
        elif self._leap > 1 and self.fits(self.queue[0]):
            self._cut()

    def set_pace(self, pace: Pace) -> None:
        """From the next iteration on."""
        if self._leap > 1:
            self._cut()
        self.pace = pace

    def revive(self) -> None:
        """Up again, and empty."""
        self.alive = True
        if self._ending is None:
            self._start()

    def fail(self) -> list[Request]:
        """Down at once: whoever was here, as far as they had got, in order of arrival. What they held is lost."""
        if self._ending is not None:
            self.host.busy(self._began_s)
            if self._leap > 1:
                passed = min(self._passed(self.env.now - self._began_s), self._leap - 1)
                self.iterations += passed
                self._steps += passed
        lost = [entry[0] for entry in self._prompts]
        for end, _, request in self._ends:
            request.generated = request.output - (end - self._steps)
            lost.append(request)
        for request in lost:
            request.held = 0
        self.alive, self._ending, self._leap = False, None, 0
        self._prompts.clear()
        self._ends.clear()
        self._chunks = []
        self._context = self.kv_used = 0
        return sorted(lost, key=lambda request: request.number)

    def release(self, request: Request) -> None:
        """Give its memory back."""
        self.kv_used -= request.held
        request.held = 0

    # --- iterations

    def _start(self) -> None:
        """Admit who can be, and begin an iteration or several."""
        limits, queue, waiting = self.limits, self.queue, len(self.queue)
        while queue and len(self._ends) + len(self._prompts) < limits.max_sequences:
            request = queue[0]
            need = self.needs(request)
            if self.kv_used + need > limits.kv_tokens:
                break
            queue.popleft()
            request.held = need
            self.kv_used += need
            self.host.admitted(request)
            if self.role == "decode":
                self._join(request)
            else:
                self._prompts.append([request, 0, request.prompt + request.generated])
        if self.kv_used > self.kv_most:
            self.kv_most = self.kv_used
        sequences = len(self._ends)
        chunks: list[tuple[int, int]] = []
        if self._prompts:
            chunks, finishing = self._fill(sequences)
        if chunks:
            self._chunks, self._leap = chunks, 0
            beside = sequences if limits.chunked_prefill else 0
            seconds = self.pace.mixed_s(chunks, finishing, beside, self._context if beside else 0)
        elif sequences:
            first_s, per_token_s, holds = self.pace.line(sequences, self._context)
            self._leap = leap = min(self._ends[0][0] - self._steps, holds) if self.leaps else 1
            self._first_s, self._step_s = first_s, per_token_s * sequences
            seconds = first_s * leap + self._step_s * (leap * (leap - 1) // 2)
        else:
            self._ending = None
            return
        self._began_s = self.env.now
        self._schedule(seconds)
        if self.passed is not None and 0 < len(queue) < waiting:
            self.passed()

    def _fill(self, sequences: int) -> tuple[list[tuple[int, int]], int]:
        """Chunks of the iteration to come, and how many of them end a prompt."""
        chunks: list[tuple[int, int]] = []
        finishing = 0
        room = self.limits.token_budget - (sequences if self.limits.chunked_prefill else 0)
        for _, done, total in self._prompts:
            left = total - done
            if not self.limits.chunked_prefill:
                if chunks and left > room:
                    break
                taken = left  # a prompt above the budget goes alone
            else:
                taken = min(left, room, self.limits.chunk_tokens or room)
            if taken <= 0:
                break
            chunks.append((taken, done + taken))
            finishing += taken == left
            room -= taken
        return chunks, finishing

    def _schedule(self, seconds: float) -> None:
        ending = self.env.timeout(seconds)
        assert ending.callbacks is not None
        ending.callbacks.append(self._end)
        self._ending = ending

    def _end(self, event: simpy.Event) -> None:
        if event is not self._ending:
            return  # a leap that was cut, or a replica that went down
        self.events += 1
        self.host.busy(self._began_s)
        steps = self._leap or int(self.limits.chunked_prefill)  # beside whole prompts decoding stands still
        self.iterations += self._leap or 1
        self._leap = 0
        self._steps += steps
        ends = self._ends
        self._context += steps * len(ends)
        while ends and ends[0][0] <= self._steps:
            request = heappop(ends)[2]
            self._context -= request.prompt + request.output
            request.generated = request.output
            self.release(request)
            self.host.finished(self, request)
        if self._chunks:
            self._advance()
        self._start()

    def _advance(self) -> None:
        """Prompts are so much further; those that are done give a token."""
        prompts = self._prompts
        for taken, _ in self._chunks:
            entry = prompts[0]
            entry[1] += taken
            if entry[1] < entry[2]:
                break  # the last chunk, which its prompt goes on from
            prompts.popleft()
            request: Request = entry[0]
            request.generated += 1
            self.host.prefilled(self, request)
            if request.generated >= request.output:
                self.release(request)
                self.host.finished(self, request)
            elif self.role == "prefill":
                self.host.handed_over(self, request)
            else:
                self._join(request)
        self._chunks = []

    def _join(self, request: Request) -> None:
        """It decodes from the next iteration on."""
        self._context += request.prompt + request.generated
        heappush(self._ends, (self._steps + request.output - request.generated, request.number, request))

    # --- leaps

    def _passed(self, elapsed_s: float) -> int:
        """Whole iterations of the leap that fit the time."""
        half = self._step_s / 2
        slope = self._first_s - half
        guess = 2 * elapsed_s / (slope + math.sqrt(slope * slope + 4 * half * elapsed_s)) if elapsed_s > 0 else 0.0
        passed = max(0, int(guess))
        while self._until_s(passed + 1) <= elapsed_s:
            passed += 1
        while passed and self._until_s(passed) > elapsed_s:
            passed -= 1
        return passed

    def _until_s(self, iterations: int) -> float:
        return self._first_s * iterations + self._step_s * (iterations * (iterations - 1) // 2)

    def _cut(self) -> None:
        """End the leap with the iteration under way."""
        elapsed_s = self.env.now - self._began_s
        under_way = self._passed(elapsed_s) + 1
        if under_way < self._leap:
            self._leap = under_way
            self._schedule(self._until_s(under_way) - elapsed_s)
