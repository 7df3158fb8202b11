"""Paces in closed form and small set-ups, for the tests of the serving simulation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from thinwire.sim.serving.arrivals import Load, Piece
from thinwire.sim.serving.iteration import FOREVER, Line
from thinwire.sim.serving.replica import Batching, Replica, Request
from thinwire.sim.serving.run import Run, Setup, Simulation, Window
from thinwire.sim.serving.statistics import NO_SLO, Slo
from thinwire.sim.serving.workload import Chunk


@dataclass(frozen=True)
class Linear:
    """Seconds that add up: an iteration, a prompt token, a sequence, a token of context."""

    iteration_s: float = 0.0
    prompt_s: float = 1e-6
    sequence_s: float = 0.0
    context_s: float = 0.0

    def mixed_s(self, chunks: Sequence[Chunk], finishing: int, sequences: int, context_tokens: int) -> float:
        assert 0 <= finishing <= len(chunks)
        prompts = sum(tokens for tokens, _ in chunks)
        return (
            self.iteration_s
            + self.prompt_s * prompts
            + self.sequence_s * sequences
            + self.context_s * (context_tokens + sum(context for _, context in chunks))
        )

    def line(self, sequences: int, context_tokens: int) -> Line:
        first_s = self.iteration_s + self.sequence_s * sequences + self.context_s * context_tokens
        return Line(first_s, self.context_s, FOREVER)


@dataclass(frozen=True)
class Scripted:
    """Requests written down: (arrival, prompt, output)."""

    rows: tuple[tuple[float, int, int], ...]
    mean_output: float = 1.0

    def pieces(self, seed: int, until_s: float) -> Iterator[Piece]:
        at_s, prompt, output = zip(*self.rows, strict=True)
        yield Piece(np.array(at_s), np.array(prompt), np.array(output))


ENGINE = Linear(0.01, 2e-5, 1e-4, 1e-8)
ONE_BY_ONE = Batching(1 << 40, 1, 1 << 40, kv_block=1)
"""One request at a time, whatever its size: a plain server."""


class Witness(Simulation):
    """A simulation that keeps count of everybody, and checks what must never happen."""

    def __init__(self, *given: object, **named: object) -> None:
        super().__init__(*given, **named)  # type: ignore[arg-type]
        self.order: list[int] = []  # of admissions
        self.ends: dict[int, tuple[float, float, float]] = {}  # number -> arrival, first token, end

    def admitted(self, request: Request) -> None:
        super().admitted(request)
        self.order.append(request.number)
        for replica in self.replicas:
            assert 0 <= replica.kv_used <= replica.limits.kv_tokens
            assert replica.admitted <= replica.limits.max_sequences

    def finished(self, replica: Replica, request: Request) -> None:
        assert request.number not in self.ends, f"request {request.number} served twice"
        assert replica.alive and request.generated == request.output
        assert request.arrival_s <= request.first_s <= self.env.now
        self.ends[request.number] = request.arrival_s, request.first_s, float(self.env.now)
        super().finished(replica, request)


def simulate(
    setup: Setup, load: Load | Scripted, seconds: float, warm_up_s: float = 0.0, slo: Slo = NO_SLO, seed: int = 0
) -> tuple[Run, Witness]:
    """A run and its witness; nobody lost, nobody twice, Little's law, an empty house at the end."""
    witness = Witness(setup, load, Window(seconds, warm_up_s), slo, seed)
    run = witness.run()
    assert run.arrived == run.finished + run.refused + run.unfinished
    assert len(witness.ends) == run.finished
    assert run.little_error < 1e-9
    assert run.iterations >= run.events
    waiting = {r.number for pool in (witness.entry, witness.decoding) for r in pool.waiting()}
    assert (witness._queue.now, witness._system.now) == (len(waiting), run.unfinished)
    assert len(waiting) == run.unfinished and not witness._under_way
    for replica in witness.replicas:
        if not run.unfinished:
            assert (replica.admitted, replica.kv_used, len(replica.queue)) == (0, 0, 0)
        assert replica.kv_most <= replica.limits.kv_tokens
    return run, witness
