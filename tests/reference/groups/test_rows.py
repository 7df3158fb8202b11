"""Rows that travel exact come to the end and go back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.groups.rows import Order, last_rows

SEQUENCES = st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=6)


@given(SEQUENCES, st.integers(0, 9))
def test_rows_chosen_are_the_last_of_sequences_that_end(sequences: list[tuple[int, bool]], count: int) -> None:
    """By what a row is: its sequence, and how many come behind it there."""
    lengths, ends = [n for n, _ in sequences], [ending for _, ending in sequences]
    rows = [(ending, length - 1 - place) for length, ending in sequences for place in range(length)]
    assert last_rows(lengths, ends, count) == [i for i, (ending, left) in enumerate(rows) if ending and left < count]


@given(SEQUENCES, st.integers(0, 9))
def test_moved_rows_come_back(sequences: list[tuple[int, bool]], count: int) -> None:
    lengths, ends = [n for n, _ in sequences], [ending for _, ending in sequences]
    total, exact = sum(lengths), last_rows(lengths, ends, count)
    x_RD = torch.arange(total * 3).reshape(total, 3)
    order = Order(total, exact)
    moved = order.moved(x_RD)
    assert order.exact == len(exact) and torch.equal(moved[total - len(exact) :], x_RD[exact])
    others = [row for row in range(total) if row not in exact]
    assert torch.equal(moved[: total - len(exact)], x_RD[others])
    assert torch.equal(order.put_back(moved), x_RD)


def test_a_tail_that_lies_there_is_not_copied() -> None:
    x_RD = torch.zeros(5, 2)
    order = Order(5, [3, 4])
    assert not order.moves and order.moved(x_RD) is x_RD and order.put_back(x_RD) is x_RD
    assert Order(5, [2, 3]).moves and not Order(5, []).moves


def test_what_is_refused() -> None:
    for exact in ([5], [-1], [2, 1], [1, 1]):
        with pytest.raises(ValueError, match=r"exact rows rise within 0..4"):
            Order(5, exact)
    for lengths, ends, count in (([3], [True, False], 1), ([-1], [True], 1), ([3], [True], -1)):
        with pytest.raises(ValueError, match="every sequence has a length"):
            last_rows(lengths, ends, count)
