"""One rank's part in a schedule, on tensors: what it encodes, sends, receives, decodes and adds.

The rules are those of `reference.core.schedule`'s docstring. Nothing here knows how bytes travel
(`reference.groups.group` does), so the same code runs all ranks in one process or each in its own. Shapes: N values of
the flat tensor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinwire.reference.codecs.backend import backend as find_backend
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.core.schedule import Interval, Step, Transfer, Work
from thinwire.reference.core.scheme import Codec, Scheme
from thinwire.reference.quantize import decode_flat, encode_flat, reduce_flat

Copies = dict[tuple[int, int, int], Tensor]  # (start, stop, source) -> wire copy


@dataclass(frozen=True, slots=True)
class Coding:
    """How buffers are made: the backend, and the calibration a static hybrid needs."""

    backend: str = "torch"
    calibration: Calibration | None = None

    def encode(self, values_N: Tensor, codec: Codec, rank: int | None, start: int) -> Tensor:
        """The wire copy of values that stand at `start` of the whole tensor; rank None marks a sum."""
        return encode_flat(values_N, codec, self.backend, calibration=self.calibration, rank=rank, start=start)

    def decode(self, buffer: Tensor, numel: int, codec: Codec, rank: int | None, start: int) -> Tensor:
        """fp32 values of a wire copy."""
        return decode_flat(buffer, numel, codec, self.backend, calibration=self.calibration, rank=rank, start=start)

    def reduce(
        self, buffers: Sequence[Tensor], numel: int, codec: Codec, ranks: Sequence[int | None], start: int
    ) -> Tensor:
        """fp32 sum of the wire copies of `ranks`, in their order."""
        return reduce_flat(buffers, numel, codec, self.backend, calibration=self.calibration, ranks=ranks, start=start)


@dataclass(eq=False, slots=True)
class Part(ABC):
    """One rank's part in a schedule: wire copies, and whatever they are made of and become."""

    rank: int
    _copies: Copies = field(default_factory=dict, init=False)
    _latest: dict[tuple[int, int], Tensor] = field(default_factory=dict, init=False)

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where its buffers lie."""

    @abstractmethod
    def _do(self, work: Work) -> None:
        """One work of this rank."""

    def do(self, step: Step) -> None:
        """This rank's work of a step, in the order listed."""
        for work in step.work:
            if work.rank == self.rank:
                self._do(work)

    def outgoing(self, step: Step) -> dict[int, Tensor]:
        """One buffer for each peer: the copies it is sent in this step, back to back."""
        parts: dict[int, list[Tensor]] = {}
        for t in step.transfers:
            if t.source == self.rank:
                parts.setdefault(t.destination, []).append(self._latest[_key(t.interval)])
        return {peer: buffers[0] if len(buffers) == 1 else torch.cat(buffers) for peer, buffers in parts.items()}

    def take(self, step: Step, received: Mapping[int, Tensor]) -> None:
        """File what came from each peer in this step, one buffer a peer."""
        offsets = dict.fromkeys(received, 0)
        for t in incoming(step, self.rank):
            if t.source in received:
                start = offsets[t.source]
                offsets[t.source] += t.nbytes
                self.file(t, received[t.source][start : offsets[t.source]])

    def file(self, transfer: Transfer, buffer: Tensor) -> None:
        """File one received copy under its sender."""
        key = _key(transfer.interval)
        self._copies[(*key, transfer.source)] = buffer
        self._latest[key] = buffer


@dataclass(eq=False, slots=True)
class RankState(Part):
    """What one rank holds while values are summed or gathered: the current value of the tensor in fp32."""

    value_N: Tensor
    coding: Coding
    _summed: set[tuple[int, int]] = field(default_factory=set, init=False)

    @property
    def device(self) -> torch.device:
        """Where the tensor lies."""
        return self.value_N.device

    def _do(self, work: Work) -> None:
        key = _key(work.interval)
        part_N = self.value_N[work.interval.start : work.interval.stop]
        if work.kind == "encode":
            rank = None if key in self._summed else self.rank
            copy = self.coding.encode(part_N, work.codec, rank, work.interval.start)
            self._copies[(*key, self.rank)] = self._latest[key] = copy
        elif work.kind == "reduce":
            part_N.copy_(self._sum(work))
            self._summed.add(key)
        else:
            copy = self._copies[(*key, work.sources[0])]
            part_N.copy_(self.coding.decode(copy, len(work.interval), work.codec, None, work.interval.start))

    def _sum(self, work: Work) -> Tensor:
        """The sum over a work's sources in their order, which is rank order."""
        key, interval = _key(work.interval), work.interval
        copies = [self._copies.get((*key, source)) for source in work.sources]
        held = [copy for copy in copies if copy is not None]
        if len(held) == len(copies):
            return self.coding.reduce(held, len(interval), work.codec, work.sources, interval.start)
        total_N = self._partial(work, work.sources[0])
        for source in work.sources[1:]:
            total_N = total_N + self._partial(work, source)
        return total_N

    def _partial(self, work: Work, source: int) -> Tensor:
        """A source's partial sum: its wire copy decoded, or this rank's own value where it made no copy of it."""
        copy = self._copies.get((*_key(work.interval), source))
        if copy is None:
            if source != self.rank:
                raise RuntimeError(f"rank {self.rank} has no copy of {work.interval} from rank {source}")
            return self.value_N[work.interval.start : work.interval.stop]
        return self.coding.decode(copy, len(work.interval), work.codec, source, work.interval.start)


def incoming(step: Step, rank: int) -> list[Transfer]:
    """The transfers of a step addressed to a rank, in the step's order."""
    return [t for t in step.transfers if t.destination == rank]


def check(scheme: Scheme, coding: Coding, ranks: int, x: Tensor) -> None:
    """Refuse, on every rank alike and before anything is sent, what could only fail half-way.

    Raises ValueError for a static hybrid without a calibration that fits the ranks and the tensor's features, or under
    a collective that encodes partial sums of some ranks, which have no scales; ImportError for a missing backend.
    """
    find_backend(coding.backend)
    static = [c for c in (scheme.reduce, scheme.gather) if c.needs_calibration]
    if not static or scheme.collective == "none" or ranks == 1:
        return
    if scheme.collective not in ("all_gather", "two_step"):
        raise ValueError(
            f"a static hybrid has no scales for the partial sums that collective {scheme.collective} encodes; "
            "use all_gather or two_step, or a dynamic hybrid"
        )
    calibration = coding.calibration
    if calibration is None:
        raise ValueError(f"{static[0].spec} needs a calibration: calibration=None")
    if calibration.ranks != ranks:
        raise ValueError(f"the calibration is for {calibration.ranks} ranks, the group has {ranks}")
    if x.dim() > 1 and x.numel() and x.shape[-1] != calibration.features:
        raise ValueError(f"the calibration has {calibration.features} features, x has {x.shape[-1]}")


def _key(interval: Interval) -> tuple[int, int]:
    return interval.start, interval.stop
