"""Two numbers: within the bound of any function that decreases in neither, and few questions for a smooth one."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.sim.serving.plane import MonotonePlane

STEPS = st.lists(st.lists(st.floats(0, 2), min_size=9, max_size=9), min_size=9, max_size=9)


@given(STEPS, st.sampled_from((1e-15, 0.01, 0.1)), st.randoms(use_true_random=False))
def test_within_its_bound_of_any_function_that_never_decreases(
    steps: list[list[float]], bound: float, order: random.Random
) -> None:
    """Jumps, plateaus and slopes on both axes, asked in any order."""
    truth = [[0.0] * 9 for _ in range(9)]
    for a in range(9):
        for b in range(9):
            before = max(truth[a - 1][b] if a else 1.0, truth[a][b - 1] if b else 1.0)
            step = steps[a][b]
            truth[a][b] = before * (1 + step if step > 1 else 1 + step / 100)
    plane = MonotonePlane(lambda a, b: truth[a - 1][b - 1], bound)
    places = [(a, b) for a in range(1, 10) for b in range(1, 10)]
    order.shuffle(places)
    for a, b in places:
        assert abs(plane(a, b) / truth[a - 1][b - 1] - 1) <= bound * (1 + 1e-9)
    assert plane.asked <= 81


def test_it_asks_less_and_less() -> None:
    """As a load goes on, what it asks lies between what it has asked."""
    plane, order = MonotonePlane(lambda a, b: 1e-3 + 1e-6 * a + 4e-6 * b, 0.01), random.Random(1)
    asked = []
    for _ in range(6):
        for _ in range(1000):
            a, b = order.randint(1, 2048), order.randint(1, 64)
            assert plane(a, b) == pytest.approx(1e-3 + 1e-6 * a + 4e-6 * b, rel=0.01)
        asked.append(plane.asked)
    assert asked[-1] < 3000 and asked[-1] - asked[-2] < 300 < asked[0] - 300
    for a, b in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="the plane begins at 1"):
            plane(a, b)
