"""The seam between a mixture and its wire: how tokens reach experts that lie on other ranks, and come back.

Beside data-parallel attention each rank has tokens of its own. `spread` takes them to the chosen experts and back in
one of two ways. All-to-all, as DeepEP does: a token goes once to each rank that holds any of its experts, with their
numbers and weights beside it, and one row comes back from each, what the experts there add to it; at home these rows
are added up, in the order of the ranks. All-gather and reduce-scatter: every rank gets every token, with all of its
experts' numbers and weights beside it, and sends each rank the sum of what its experts add to that rank's tokens.
Either way a rank chooses for its own tokens, before they travel, as engines do: no codec changes a choice. Both are
exchanges of rows that an `Exchange` carries; `ExactExchange` as they are, `SchemeExchange` under a scheme's codecs.

Legend: N tokens of a rank, M rows, C chosen experts of a token, D width, X numbers beside a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from thinwire.reference.alltoall import all_to_all, all_to_all_local
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.core.architecture import Experts
from thinwire.reference.core.scheme import Phase, Scheme
from thinwire.reference.decoder.experts import chosen, mixed
from thinwire.reference.decoder.shard import ExpertsPart
from thinwire.reference.decoder.sync import ranks_here
from thinwire.reference.groups.group import Group, LocalGroup, TorchGroup

Counts = Sequence[Sequence[int]]  # rows from each rank to each


class Exchange(Protocol):
    """What happens to rows on their way to experts and back."""

    @property
    def group(self) -> Group:
        """The ranks."""
        ...

    @property
    def gathers(self) -> bool:
        """Does every token go to every rank, or each to the ranks of its experts?"""
        ...

    def known(self, numbers: Sequence[Sequence[int]], device: torch.device) -> list[list[int]]:
        """As many numbers of every rank, from those of the ranks held here: how many rows are to be expected.

        device: where the rows lie.
        """
        ...

    def beside(self, rows: Sequence[Tensor], counts: Counts) -> list[Tensor]:
        """What comes with the rows of a dispatch of these counts: a few numbers of each, [M', X], never rounded."""
        ...

    def __call__(self, layer: int, way: Phase, rows: Sequence[Tensor], counts: Counts) -> list[Tensor]:
        """What each rank of this process ends up with, [M', D] by source.

        Args:
            layer, way: every rank comes by them in the same order.
            rows: [M, D] of each rank held here, by destination; not changed.
            counts: rows from each rank to each, the same on every rank.
        """
        ...


class ExactExchange:
    """Rows as they are, in their own dtype; not counted. All ranks in one process."""

    def __init__(self, group: Group, gathers: bool = False) -> None:
        self.group, self.gathers = group, gathers

    def known(self, numbers: Sequence[Sequence[int]], device: torch.device) -> list[list[int]]:
        """Those given. ValueError for those of another number of ranks than the group's."""
        if len(numbers) != self.group.size:
            raise ValueError(f"rows of all {self.group.size} ranks are exchanged in one process: given {len(numbers)}")
        return [list(row) for row in numbers]

    def beside(self, rows: Sequence[Tensor], counts: Counts) -> list[Tensor]:
        """As other rows."""
        return self(0, "dispatch", rows, counts)

    def __call__(self, layer: int, way: Phase, rows: Sequence[Tensor], counts: Counts) -> list[Tensor]:
        """Never rounds."""
        parts = [torch.split(x_MD, list(row)) for x_MD, row in zip(rows, counts, strict=True)]
        return [torch.cat([found[rank] for found in parts]) for rank in range(self.group.size)]


class SchemeExchange:
    """The real numerics of a scheme's dispatch and combine codecs, on any group (`reference.alltoall`).

    What is no row of a token travels raw, and the group counts it with the rest: how many rows there are, 4 bytes a
    number from each rank to each other, which an all-to-all of uneven counts asks in any case; then what lies beside
    the rows, 8 bytes a choice. The simulator counts the rows alone.
    """

    def __init__(self, group: Group, scheme: Scheme | str, *, gathers: bool = False, backend: str = "torch") -> None:
        ranks_here(group)
        self.group, self.gathers = group, gathers
        self._scheme = find_scheme(scheme) if isinstance(scheme, str) else scheme
        self._backend = backend

    def known(self, numbers: Sequence[Sequence[int]], device: torch.device) -> list[list[int]]:
        """By an all-to-all of them as fp32, which is exact below 2^24."""
        ranks = self.group.size
        rows = [torch.tensor([list(row)] * ranks, dtype=torch.float32, device=device) for row in numbers]
        found = self._carry(rows, [[1] * ranks] * ranks, _RAW, "dispatch", "torch")[0]
        return [[int(number) for number in row] for row in found]

    def beside(self, rows: Sequence[Tensor], counts: Counts) -> list[Tensor]:
        """ValueError as `all_to_all` raises it: for fp64, too."""
        return self._carry(rows, counts, _RAW, "dispatch", "torch")

    def __call__(self, layer: int, way: Phase, rows: Sequence[Tensor], counts: Counts) -> list[Tensor]:
        """ValueError as `all_to_all` raises it."""
        return self._carry(rows, counts, self._scheme, way, self._backend)

    def _carry(self, rows: Sequence[Tensor], counts: Counts, scheme: Scheme, way: Phase, backend: str) -> list[Tensor]:
        if isinstance(self.group, LocalGroup):
            found = all_to_all_local(rows, counts, scheme, group=self.group, phase=way, backend=backend)
            return [received.rows for received in found]
        assert isinstance(self.group, TorchGroup)
        return [all_to_all(rows[0], counts, scheme, self.group, phase=way, backend=backend).rows]


_RAW = find_scheme("bf16")  # names no codec for experts' rows: they travel in their own type


def spread(
    spec: Experts,
    parts: Sequence[ExpertsPart],
    held: Sequence[range],
    here: Sequence[int],
    rows: Sequence[Tensor],
    layer: int,
    exchange: Exchange,
    partial: torch.dtype,
) -> list[Tensor]:
    """What the experts of all ranks add to each rank's own tokens, [N, D] of each rank held here.

    held: experts of every rank. rows: tokens of the ranks `here`. partial: dtype of what comes back.
    """
    if exchange.gathers:
        return _gathered(spec, parts, held, here, rows, layer, exchange, partial)
    routed = [visited(held, *chosen(spec, part, x_ND)) for part, x_ND in zip(parts, rows, strict=True)]
    tokens = [[token_M for token_M, _ in of_rank] for of_rank in routed]
    counts = exchange.known([[len(token_M) for token_M in of_rank] for of_rank in tokens], rows[0].device)
    said = exchange.beside([torch.cat([said_MX for _, said_MX in of_rank]) for of_rank in routed], counts)
    sent = [x_ND[torch.cat(of_rank)] for x_ND, of_rank in zip(rows, tokens, strict=True)]
    arrived = exchange(layer, "dispatch", sent, counts)
    made = _made(spec, parts, held, here, arrived, said, partial)
    back = exchange(layer, "combine", made, [list(column) for column in zip(*counts, strict=True)])
    found = []
    for x_ND, of_rank, out_MD in zip(rows, tokens, back, strict=True):
        total_ND = torch.zeros_like(x_ND, dtype=torch.promote_types(partial, torch.float32))
        for token_M, added_MD in zip(of_rank, torch.split(out_MD, [len(token_M) for token_M in of_rank]), strict=True):
            total_ND[token_M] += added_MD  # no token twice: the same sum on every device
        found.append(total_ND)
    return found


def _made(
    spec: Experts,
    parts: Sequence[ExpertsPart],
    held: Sequence[range],
    here: Sequence[int],
    arrived: Sequence[Tensor],
    said: Sequence[Tensor],
    partial: torch.dtype,
) -> list[Tensor]:
    """What the experts of each rank held here make of the rows that came to it, given what came beside them."""
    found = []
    for rank, part, x_MD, said_MX in zip(here, parts, arrived, said, strict=True):
        index_MC, weight_MC = said_MX.chunk(2, dim=-1)
        found.append(mixed(spec, part, held[rank], x_MD, index_MC.long(), weight_MC).to(partial))
    return found


def visited(held: Sequence[range], index_NC: Tensor, weight_NC: Tensor) -> list[tuple[Tensor, Tensor]]:
    """By rank: the tokens that go there, in order and each once, [M], and what lies beside them, [M, 2 C].

    Beside a token: numbers of its experts, -1 for those of other ranks, then their weights, 0 for those. In the
    weights' type, where numbers below 2^24 are exact.
    """
    found = []
    for experts in held:
        here_NC = (index_NC >= experts.start) & (index_NC < experts.stop)
        (token_M,) = torch.where(here_NC.any(-1))
        said_NX = torch.cat([index_NC.where(here_NC, -1), weight_NC.where(here_NC, 0)], dim=-1)
        found.append((token_M, said_NX[token_M]))
    return found


def _gathered(
    spec: Experts,
    parts: Sequence[ExpertsPart],
    held: Sequence[range],
    here: Sequence[int],
    rows: Sequence[Tensor],
    layer: int,
    exchange: Exchange,
    partial: torch.dtype,
) -> list[Tensor]:
    """`spread` by an all-gather of tokens and choices, and a reduce-scatter of what experts add, in rank order."""
    ranks = exchange.group.size
    tokens = [row[0] for row in exchange.known([[len(x_ND)] for x_ND in rows], rows[0].device)]
    counts = [[n] * ranks for n in tokens]
    own = [torch.cat(chosen(spec, part, x_ND), dim=-1) for part, x_ND in zip(parts, rows, strict=True)]
    said = exchange.beside([own_NX.repeat(ranks, 1) for own_NX in own], counts)
    arrived = exchange(layer, "dispatch", [x_ND.repeat(ranks, 1) for x_ND in rows], counts)
    made = _made(spec, parts, held, here, arrived, said, partial)
    back = exchange(layer, "combine", made, [tokens] * ranks)
    found = []
    for out_MD in back:
        first, *others = out_MD.view(ranks, len(out_MD) // ranks, out_MD.shape[-1])
        total_ND = first.to(torch.promote_types(first.dtype, torch.float32))
        for other_ND in others:
            total_ND = total_ND + other_ND
        found.append(total_ND)
    return found
