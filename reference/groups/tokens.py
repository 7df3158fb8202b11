"""One rank's part in an all-to-all of experts' tokens: rows out of one tensor, rows into another.

Legend: R rows of the tensor, D width, M rows sent, S rows received.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from itertools import accumulate

import torch
from torch import Tensor

from thinwire.reference.core.schedule import Work
from thinwire.reference.core.scheme import Codec
from thinwire.reference.core.tokens import Counts, row_values
from thinwire.reference.groups.execute import Part
from thinwire.reference.groups.handshake import Combination, Form
from thinwire.reference.quantize import check_index, decode_rows, encode_messages


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What one rank sends: `counts[j]` rows to rank j, in order those of `x_RD`, or those at `index_M` of it.

    Raises ValueError where they are not as many as the counts say, and as `check_index` does.
    """

    x_RD: Tensor
    counts: tuple[int, ...]
    index_M: Tensor | None = None

    def __post_init__(self) -> None:
        if self.x_RD.dim() != 2 or not self.x_RD.shape[1]:
            raise ValueError(f"rows must be [rows, width], one value wide at least: shape={list(self.x_RD.shape)}")
        check_index(self.index_M, self.x_RD.shape[0])
        have = self.x_RD.shape[0] if self.index_M is None else self.index_M.numel()
        if any(type(count) is not int or count < 0 for count in self.counts) or sum(self.counts) != have:
            raise ValueError(
                f"counts must say where each of {have} rows goes, whole numbers of 0 or more: {list(self.counts)[:9]}"
            )

    @property
    def width(self) -> int:
        """Values of a row."""
        return self.x_RD.shape[1]

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.x_RD.device


@dataclass(eq=False, slots=True)
class TokenState(Part):
    """Encodes the rows of each message, and decodes what comes into the rows received, by the rank that sent it."""

    sent: Rows
    codec: Codec
    counts: Counts
    backend: str
    out_SD: Tensor = field(init=False)
    _each: int = field(init=False)
    _messages: dict[int, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Room for what is received."""
        rows = sum(row[self.rank] for row in self.counts)
        self.out_SD = self.sent.x_RD.new_empty(rows, self.sent.width)
        self._each = row_values(self.codec, self.sent.width)

    @property
    def device(self) -> torch.device:
        """Where the rows lie."""
        return self.sent.device

    def received(self) -> Tensor:
        """The rows, once the schedule has run; of one rank alone its own, which nobody encoded."""
        if len(self.counts) == 1:
            x_RD, index_M = self.sent.x_RD, self.sent.index_M
            self.out_SD.copy_(x_RD if index_M is None else x_RD[index_M])
        return self.out_SD

    def _do(self, work: Work) -> None:
        key = work.interval.start, work.interval.stop
        if work.kind == "encode":
            self._latest[key] = self._copies[(*key, self.rank)] = self._encoded(key[0])
            return
        source = work.sources[0]
        start = sum(row[self.rank] for row in self.counts[:source])
        rows_SD = self.out_SD[start : start + (key[1] - key[0]) // self._each]
        decode_rows(self._copies[(*key, source)], rows_SD, work.codec, self.backend)

    def _encoded(self, start: int) -> Tensor:
        """The message that begins at value `start` of all that is sent; all of them are encoded with the first."""
        if not self._messages:
            rows = self.sent
            found = encode_messages(rows.x_RD, rows.counts, self.codec, self.backend, index_M=rows.index_M)
            starts = accumulate((count * self._each for count in rows.counts), initial=0)
            self._messages = {at: one for at, one, n in zip(starts, found, rows.counts, strict=False) if n}
        return self._messages[start]


def combination_of_tokens(
    codec: Codec, ranks: int, rows: Rows, counts: Counts | None, form: Form | None
) -> Combination:
    """What ranks must have in common, which is not how many rows each sends, unless all were told beforehand."""
    said = repr(("rows", ranks, rows.width, type(codec).__name__, codec.spec, counts))
    return Combination(
        sha256(said.encode()).hexdigest()[:16], "all_to_all", form or Form((rows.width,)), rows.device.type
    )
