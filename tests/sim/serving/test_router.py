"""Routers against their rules said again, over every pattern of replicas that are down."""

import math
from collections import deque
from itertools import product
from typing import Any, cast

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from thinwire.sim.serving.question import Policy
from thinwire.sim.serving.replica import Batching, Replica, Request
from thinwire.sim.serving.router import Pool

from .paces import Linear


class Nobody:
    """A host that does not listen."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def pool(number: int, policy: Policy, prompts: bool = True, expected: int = 7) -> Pool:
    """Replicas that admit one request each and never get on with it: the clock stands still."""
    env, limits = simpy.Environment(), Batching(64, 1, 1 << 20)
    replicas = [Replica(env, cast(Any, Nobody()), n, Linear(), limits) for n in range(number)]
    return Pool(replicas, policy, prompts, expected)


def send(to: Pool, *numbers: int, prompt: int = 10) -> list[int]:
    """Where these went; -1: nowhere."""
    requests = [Request(number, 0.0, prompt, 5) for number in numbers]
    to.send(*requests)
    return [request.home for request in requests]


@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
def test_round_robin_is_fair_among_those_that_are_up(replicas: int) -> None:
    """Whoever has been passed over, all that are up get one each before anybody gets two: the one after a replica that
    is down is not asked in its place as well as in its own.
    """
    for up in product([False, True], repeat=replicas):
        for before in range(replicas + 1):  # requests while all were up
            found = pool(replicas, "round-robin")
            assert send(found, *range(before)) == [i % replicas for i in range(before)]
            for replica, alive in zip(found.replicas, up, strict=True):
                if not alive:
                    found.failed(replica)
            alive_ones = [place for place in range(replicas) if up[place]]
            homes = send(found, *range(100, 100 + 3 * len(alive_ones)))
            first = before % replicas
            turns = sorted(alive_ones, key=lambda place: (place - first) % replicas)
            assert homes == turns * 3


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["send", "fail", "revive"]), st.integers(0, 3)), max_size=25),
)
def test_round_robin_takes_the_next_that_is_up(replicas: int, moves: list[tuple[str, int]]) -> None:
    """Counted from whom it took last, whatever goes down and comes back in between."""
    found, last, parked = pool(replicas, "round-robin"), -1, 0
    for number, (move, place) in enumerate(moves):
        replica = found.replicas[place % replicas]
        expected = []
        if move == "fail" and replica.alive:
            found.failed(replica)
            continue
        if move == "revive" and not replica.alive:
            found.revived(replica)
            if parked:
                last, parked = place % replicas, 0  # the only one that is up takes all that waited
        elif move == "send":
            expected = send(found, number)
            up = [(last + i) % replicas for i in range(1, replicas + 1) if found.replicas[(last + i) % replicas].alive]
            assert expected == up[:1] or (expected == [-1] and not up)
            last, parked = (up[0], parked) if up else (last, parked + 1)
        assert len(found.parked) == parked


@given(st.integers(1, 4), st.lists(st.integers(1, 50), max_size=20), st.booleans())
def test_least_tokens_takes_who_has_the_fewest(replicas: int, prompts: list[int], counted: bool) -> None:
    """The first of equals; an answer counts as the mean one, a prompt where this pool reads prompts."""
    found, tokens = pool(replicas, "least-tokens", counted, expected=7), [0] * replicas
    for number, prompt in enumerate(prompts):
        (home,) = send(found, number, prompt=prompt)
        assert tokens[home] == min(tokens) and home == tokens.index(min(tokens))
        tokens[home] += 7 + (prompt if counted else 0)


def test_least_tokens_forgets_what_is_done_and_who_is_down() -> None:
    found = pool(2, "least-tokens", expected=7)
    first, second = Request(0, 0.0, 100, 5), Request(1, 0.0, 90, 5)
    found.send(first, second)  # 107 and 97
    found.prefilled(first, 100)
    assert send(found, 2, prompt=1) == [0]  # 7 against 97, and 15 after it
    found.left(first)
    assert send(found, 3, prompt=82) == [0]  # 8 and then 97: equal
    assert send(found, 4, prompt=1) == [0] and send(found, 5, prompt=1) == [1]
    found.failed(found.replicas[1])
    assert send(found, 6, 7, 8, prompt=10**6) == [0, 0, 0]
    found.revived(found.replicas[1])
    assert send(found, 9) == [1], "it comes back empty"


@pytest.mark.parametrize("policy", ["round-robin", "least-tokens"])
def test_who_finds_nobody_up_is_parked_and_sent_when_one_is_back(policy: Policy) -> None:
    found = pool(3, policy)
    for replica in found.replicas:
        found.failed(replica)
    assert send(found, 5, 6) == [-1, -1]
    assert [request.number for request in found.waiting()] == [5, 6]
    found.revived(found.replicas[2])
    assert not found.parked
    assert [request.number for request in found.waiting()] == [6], "one of them is admitted"


@pytest.mark.parametrize("policy", ["round-robin", "least-tokens"])
def test_a_replica_that_goes_down_gives_everybody_back_in_order(policy: Policy) -> None:
    found = pool(2, policy)
    send(found, *range(6))
    replica = found.replicas[0]
    mine = [number for number in range(6) if number % 2 == 0]
    assert [request.number for request in found.failed(replica)] == mine
    assert not replica.queue and not replica.alive
    assert math.isinf(found._tokens[0])


def test_a_shared_queue_lets_whoever_has_room_take_the_first() -> None:
    env, limits = simpy.Environment(), Batching(64, 1, 1 << 20)
    queue: deque[Request] = deque()
    replicas = [Replica(env, cast(Any, Nobody()), n, Linear(), limits, queue=queue) for n in range(2)]
    found = Pool(replicas, "shared-queue", True, 7)
    found.send(*(Request(number, 0.0, 10, 5) for number in range(5)))
    assert [replica.admitted for replica in replicas] == [1, 1]
    assert [request.number for request in queue] == [2, 3, 4]
    assert [request.number for request in found.failed(replicas[0])] == [0], "the queue is everybody's"
    assert [request.number for request in queue] == [2, 3, 4]
