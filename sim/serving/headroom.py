"""How far a deployment is from saturation: the most requests a second that it can serve at all.

A queue is stable below the rate at which work leaves it while somebody always waits. So the capacity is measured, not
extrapolated from a utilisation (a replica that decodes is busy at any load): the same replicas serve a backlog that
never empties, of requests as long as the load's, and what leaves in a second is counted. Its interval is, as that of
every other number of a run, of batch means. Faults are left out: it is the healthy deployment's. That it keeps an SLO
at such a rate is not said: waiting grows without end as the rate comes near.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from thinwire.edge.limits import USERS
from thinwire.sim.serving.arrivals import ClosedLoop, Fixed, Load, Piece, Trace
from thinwire.sim.serving.run import Setup, Simulation, Window
from thinwire.sim.serving.statistics import Estimate

WARM_UP, MEASURED = 2.0, 5.0  # turns, each in which as many requests are served as are in the house
BATCHES = 10
MOST_ROUNDS = 6  # of which each is as long as the last one says it should be
LEAST = 1000  # requests counted, however few are in the house


@dataclass(frozen=True)
class Backlog(ClosedLoop):
    """A closed loop whose requests are as long as another load's: of a trace its rows, over and over."""

    load: Load

    def pieces(self, seed: int, until_s: float) -> Iterator[Piece]:
        """Lengths without end; the times are the start."""
        if not isinstance(self.load, Trace):
            yield from ClosedLoop(self.users, self.load.prompt, self.load.output).pieces(seed, until_s)
        while True:
            for piece in self.load.pieces(seed, math.inf):
                yield Piece(np.zeros(len(piece.at_s)), piece.prompt_tokens, piece.output_tokens)


def rate_of(load: Load) -> float | None:
    """Requests a second that it asks on average; None: as many as are served, or all at once."""
    if isinstance(load, ClosedLoop):
        return None
    if isinstance(load, Trace):
        return load.requests / load.seconds if load.seconds else None
    return load.rate_per_s


def capacity(setup: Setup, load: Load, seed: int = 0) -> Estimate:
    """The most requests a second that can be served, of the load's lengths, with a 95 % interval.

    Replicas that do both serve alike, so one of them is simulated; of two pools all are. ValueError where no request
    fits a replica.
    """
    one = replace(setup, changes=(), replicas=1) if not setup.decode_replicas else replace(setup, changes=())
    copies = setup.replicas if not setup.decode_replicas else 1
    prompt, output = _means(load)
    users = _users(one, prompt, output)
    backlog = Backlog(users, Fixed(max(1, round(prompt))), Fixed(max(1, round(output))), load)
    turn_s = users * _lone_s(one, prompt, output) / max(1, one.limits.max_sequences)
    turns = max(MEASURED, LEAST / users)
    for _ in range(MOST_ROUNDS):
        window = Window((WARM_UP + turns) * turn_s, WARM_UP * turn_s, BATCHES)
        run = Simulation(one, backlog, window, seed=seed).run()
        ended = run.goodput_per_s  # without an SLO every request that ends is good
        if ended.value and users / ended.value <= 1.5 * turn_s:
            break
        turn_s = users / ended.value if ended.value else 8 * turn_s
    half = None if ended.half_width is None else ended.half_width * copies
    return Estimate(ended.value * copies, half)


def _means(load: Load) -> tuple[float, float]:
    """Mean tokens of prompts and answers; of a trace, of its first rows."""
    if not isinstance(load, Trace):
        return load.prompt.mean, load.output.mean
    first = next(load.pieces(0, math.inf))
    return float(first.prompt_tokens.mean()), load.mean_output


def _users(setup: Setup, prompt: float, output: float) -> int:
    """Enough that somebody waits, and prompts for an iteration of those who have a place: more only take longer."""
    limits = setup.limits
    places = min(limits.max_sequences, max(1, int(limits.kv_tokens / (prompt + output))))
    ahead = max(2, min(places, math.ceil(2 * limits.token_budget / prompt)))
    return min((places + ahead) * (setup.replicas + setup.decode_replicas), USERS.most)


def _lone_s(setup: Setup, prompt: float, output: float) -> float:
    """A request alone in a replica."""
    tokens, steps = max(1, round(prompt)), max(0, round(output) - 1)
    decoding = setup.pace.line(1, tokens + steps // 2).first_s
    left, seen, spent = tokens, 0, 0.0
    most = setup.limits.token_budget if setup.limits.chunked_prefill else tokens
    while left > 0:
        chunk = min(left, most)
        seen += chunk
        left -= chunk
        spent += setup.pace.mixed_s([(chunk, seen)], int(not left), 0, 0)
    return spent + steps * decoding
