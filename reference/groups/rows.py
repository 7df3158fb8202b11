"""Rows that travel exact, moved to the end of a tensor, where an all-reduce's `exact` values lie, and back.

When sequences end in one pass, their last rows lie apart: in a batch at the end of each sequence, in a ragged batch
(an engine's iteration) wherever they end. Legend: R rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def last_rows(lengths: Sequence[int], ends: Sequence[bool], count: int) -> list[int]:
    """The rows, in order, that are among the last `count` of a sequence that ends in this pass.

    lengths: rows of each sequence in the pass, one sequence after the other; 0 for one that has none. ends: whether
    the sequence's last row is its prompt's, or a token decoded. A sequence of fewer rows gives all it has.
    """
    if len(lengths) != len(ends) or count < 0 or min(lengths, default=0) < 0:
        raise ValueError(
            f"every sequence has a length of 0 or more and says whether it ends, and count is 0 or more: "
            f"lengths={list(lengths)}, ends={list(ends)}, count={count}"
        )
    found: list[int] = []
    stop = 0
    for length, ending in zip(lengths, ends, strict=True):
        stop += length
        if ending:
            found += range(stop - min(count, length), stop)
    return found


class Order:
    """Rows in the order in which they travel: the others as they come, then the exact ones as they come.

    rows: how many there are in all. exact: which of them travel exact, each once, rising. ValueError for others.
    """

    def __init__(self, rows: int, exact: Sequence[int]) -> None:
        if any(not before < row < rows for before, row in zip((-1, *exact), exact, strict=False)):
            raise ValueError(f"exact rows rise within 0..{rows - 1}: {list(exact)}")
        self.exact = len(exact)
        chosen = set(exact)
        self._order = [row for row in range(rows) if row not in chosen] + list(exact)
        self.moves = self._order != list(range(rows))  # False: the exact rows are the last as it is

    def moved(self, x_RD: Tensor) -> Tensor:
        """The rows as they travel."""
        return x_RD[torch.tensor(self._order, device=x_RD.device)] if self.moves else x_RD

    def put_back(self, x_RD: Tensor) -> Tensor:
        """The rows where they were before `moved`."""
        if not self.moves:
            return x_RD
        found_RD = torch.empty_like(x_RD)
        found_RD[torch.tensor(self._order, device=x_RD.device)] = x_RD
        return found_RD
