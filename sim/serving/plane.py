"""A function of two whole numbers that decreases in neither, within a bound of the truth everywhere: what
`iteration.MonotoneTable` is for one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(eq=False)
class MonotonePlane:
    """A positive function of two numbers, 1 or more, that decreases in neither: within `bound` (relative) of the truth.

    Of all points known, the largest value of one below and left, and the smallest of one above and right, hold the
    truth between them; where they are near enough it is taken to lie in the middle, else the point itself is asked for.
    """

    function: Callable[[int, int], float]
    bound: float
    asked: int = 0  # evaluations of the function so far
    _at_N2: NDArray[np.int64] = field(default_factory=lambda: np.zeros((64, 2), dtype=np.int64))
    _value_N: NDArray[np.float64] = field(default_factory=lambda: np.zeros(64))
    _found: dict[tuple[int, int], float] = field(default_factory=dict)

    def __call__(self, a: int, b: int) -> float:
        """The value at (a, b); ValueError below 1."""
        if min(a, b) < 1:
            raise ValueError(f"the plane begins at 1: {a}, {b}")
        if (a, b) not in self._found:
            self._found[a, b] = self._find(a, b)
        return self._found[a, b]

    def _find(self, a: int, b: int) -> float:
        at_N2, value_N = self._at_N2[: self.asked], self._value_N[: self.asked]
        below_N, above_N = (at_N2 <= (a, b)).all(1), (at_N2 >= (a, b)).all(1)
        if below_N.any() and above_N.any():
            low, high = float(value_N[below_N].max()), float(value_N[above_N].min())
            if high - low <= self.bound * (high + low):  # half of what they differ by, of either
                return 2 * low * high / (low + high)
        return self._ask(a, b)

    def _ask(self, a: int, b: int) -> float:
        if self.asked == len(self._value_N):
            self._at_N2 = np.concatenate([self._at_N2, np.zeros_like(self._at_N2)])
            self._value_N = np.concatenate([self._value_N, np.zeros_like(self._value_N)])
        self._at_N2[self.asked] = a, b
        self._value_N[self.asked] = value = self.function(a, b)
        self.asked += 1
        return value
