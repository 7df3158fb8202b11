"""A function of whole numbers that never decreases, known at a few and within a bound everywhere."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

BOUND = 0.01


@dataclass(eq=False)
class MonotoneTable:
    """A positive function of 1..largest that never decreases: within `bound` (relative) of the truth everywhere.

    edges: numbers at which it may step, down too; between two of them it never decreases.
    """

    function: Callable[[int], float]
    largest: int
    bound: float = BOUND
    edges: tuple[int, ...] = ()
    asked: int = 0  # evaluations of the function so far
    _at: list[int] = field(default_factory=list)
    _value: list[float] = field(default_factory=list)
    _dense: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.largest < 1 or not self.bound > 0:
            raise ValueError(f"a table needs largest >= 1 and bound > 0: {self.largest}, {self.bound}")
        self._dense = [-1.0] * (self.largest + 1)

    def __call__(self, n: int) -> float:
        """The value at `n`; ValueError outside 1..largest."""
        if not 1 <= n <= self.largest:
            raise ValueError(f"the table covers 1..{self.largest}: {n}")
        if self._dense[n] < 0:
            self._dense[n] = self._find(n)
        return self._dense[n]

    def _find(self, n: int) -> float:
        if not self._at:
            ends = {1, self.largest, *(at for edge in self.edges for at in (edge - 1, edge) if 1 <= at <= self.largest)}
            for place, at in enumerate(sorted(ends)):
                self._know(at, place)
        while True:
            right = bisect_left(self._at, n)
            if self._at[right] == n:
                return self._value[right]
            low, high = self._at[right - 1], self._at[right]
            slow, fast = self._value[right - 1], self._value[right]
            if fast <= slow * (1 + self.bound):
                return slow + (fast - slow) * (n - low) / (high - low)
            self._know((low + high) // 2, right)

    def _know(self, n: int, place: int) -> None:
        self.asked += 1
        self._at.insert(place, n)
        self._value.insert(place, self.function(n))
