"""Routers: which replica of a pool a request goes to.

round-robin takes turns; least-tokens sends to the replica with the fewest tokens still to be processed, as far as a
router can know them; a shared queue holds requests back until a replica has room. Replicas that are down get nobody.
"""

import math
from collections import deque
from collections.abc import Sequence

from thinwire.sim.serving.question import Policy
from thinwire.sim.serving.replica import Replica, Request


class Pool:
    """A router and the replicas behind it."""

    def __init__(self, replicas: Sequence[Replica], policy: Policy, prompts: bool, expected: int) -> None:
        self.replicas, self.policy = replicas, policy
        self.parked: deque[Request] = deque()  # while all are down
        self._prompts, self._expected = prompts, expected
        self._tokens: list[float] = [0] * len(replicas)
        self._next = 0
        if policy == "shared-queue":
            for replica in replicas:
                replica.passed = self._offer

    def send(self, *requests: Request) -> None:
        """Choose a replica for each, then let them begin: who is idle begins with all that it was sent."""
        if self.policy == "shared-queue":
            queue = self.replicas[0].queue
            free = not queue  # else those before found nobody free either
            queue.extend(requests)
            if free:
                self._offer()
            return
        chosen = [replica for replica in map(self._choose, requests) if replica is not None]
        for replica in dict.fromkeys(chosen):
            replica.knock()

    def _choose(self, request: Request) -> Replica | None:
        """Queue it where the policy says; None where none is up: it is parked."""
        replicas, tokens = self.replicas, self._tokens
        if self.policy == "least-tokens":
            place = tokens.index(min(tokens))
        else:
            place = self._next
            for _ in replicas:
                if replicas[place].alive:
                    break
                place = (place + 1) % len(replicas)
            self._next = (place + 1) % len(replicas)
        replica = replicas[place]
        if not replica.alive:
            self.parked.append(request)
            return None
        request.home = place
        tokens[place] += self._expected + (request.prompt + request.generated if self._prompts else 0)
        replica.queue.append(request)
        return replica

    def _offer(self) -> None:
        """The first of the shared queue to whoever has room."""
        queue = self.replicas[0].queue
        for replica in sorted(self.replicas, key=lambda replica: not replica.idle):  # whoever is idle comes first
            if queue and replica.fits(queue[0]):
                replica.knock()  # a leap ends with its iteration: who gets there first, takes it

    def prefilled(self, request: Request, tokens: int) -> None:
        """A prompt of so many tokens is done."""
        if self.policy != "shared-queue":
            self._tokens[request.home] -= tokens

    def left(self, request: Request) -> None:
        """It is no longer here."""
        if self.policy != "shared-queue":
            self._tokens[request.home] -= self._expected

    def failed(self, replica: Replica) -> list[Request]:
        """The replica is down; whom it served or would have served."""
        place = self.replicas.index(replica)
        lost = replica.fail()
        if self.policy != "shared-queue":
            lost += replica.queue
            replica.queue.clear()
        self._tokens[place] = math.inf
        return sorted(lost, key=lambda request: request.number)

    def waiting(self) -> list[Request]:
        """Whom nobody has admitted."""
        return [*self.parked, *(request for replica in self.replicas for request in replica.queue)]

    def revived(self, replica: Replica) -> None:
        """The replica is up again."""
        self._tokens[self.replicas.index(replica)] = 0
        replica.revive()
        waiting, self.parked = self.parked, deque()
        self.send(*waiting)
