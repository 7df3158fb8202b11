"""The inverse question: by which factor would one parameter have to differ for a claim to come true?"""

from collections.abc import Callable
from math import log2

from scipy.optimize import brentq

FARTHEST = 64.0  # factors beyond are no statement about a machine
EXPONENTS = 6  # 2**6 = 64
XTOL = 1e-7  # of log2 of the factor


def solve(of: Callable[[float], float], target: float) -> float | None:
    """The factor nearest to 1, in [1/64, 64], at which `of(factor)` is `target`; None where there is none.

    `of` is looked at by powers of two from 1 outwards until two neighbours have the target between them, and there
    solved by Brent's method. One that rises and falls again between two powers of two may be missed.
    """
    assert 2.0**EXPONENTS == FARTHEST
    known: dict[int, float] = {}

    def beyond(exponent: int) -> float:
        if exponent not in known:
            known[exponent] = of(2.0**exponent) - target
        return known[exponent]

    if beyond(0) == 0:
        return 1.0
    for step in range(EXPONENTS):
        found = [
            _between(of, target, inner, outer)
            for inner, outer in ((step, step + 1), (-step, -step - 1))
            if beyond(inner) * beyond(outer) <= 0
        ]
        if found:
            return min(found, key=lambda factor: abs(log2(factor)))
    return None


def _between(of: Callable[[float], float], target: float, start: int, end: int) -> float:
    low, high = min(start, end), max(start, end)
    return float(2.0 ** brentq(lambda exponent: of(2.0**exponent) - target, low, high, xtol=XTOL))
