"""How far off an all-reduce of some partial sums may be at most, value by value, whatever the collective; and tokens.

A rank's part in the schedule (`execute.RankState`) is run beside what is known of its error: encoding adds the codec's
bound of the values that are encoded, also of a sum that is encoded again at every hop of a ring; adding up adds the
errors of what is added, and fp32's rounding. Copies are decoded as they were sent, so nothing else errs. N values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinwire.reference.codecs.error import bound
from thinwire.reference.core.schedule import SWITCH, Schedule, Step, Transfer, Work
from thinwire.reference.core.scheme import Codec
from thinwire.reference.core.tokens import row_values
from thinwire.reference.quantize import decode_flat, encode_flat

HALF_ULP = 2.0**-24  # of fp32, relative
TINY = 2.0**-149  # and near zero


@dataclass(frozen=True, slots=True)
class _Copy:
    """What a wire copy holds, and how far that may be from the exact sum it stands for."""

    value_N: Tensor  # as decoded, fp32
    error_N: Tensor  # float64


@dataclass(eq=False, slots=True)
class _Rank:
    value_N: Tensor
    error_N: Tensor
    copies: dict[tuple[int, int, int], _Copy] = field(default_factory=dict)
    latest: dict[tuple[int, int], _Copy] = field(default_factory=dict)


def all_reduce_bound(partials: Sequence[Tensor], schedule: Schedule) -> Tensor:
    """Largest possible |result - exact sum| of each value on any rank, float64 [N], in fp32 before the cast to a type.

    partials: each rank's tensor; flat, finite. Raises ValueError for codecs that need a calibration, and for a schedule
    with a reducing switch, which rounds as its maker likes.
    """
    ranks = [
        _Rank(p.detach().reshape(-1).to(torch.float32, copy=True), torch.zeros(p.numel(), dtype=torch.float64))
        for p in partials
    ]
    steps = [step for lane in schedule.lanes for step in lane.steps]
    used = {work.codec for step in steps for work in step.work}
    if any(codec.needs_calibration for codec in used):
        raise ValueError(f"schemes without calibration have a bound: given {', '.join(c.spec for c in used)}")
    if any(SWITCH in (t.source, t.destination) for step in steps for t in step.transfers):
        raise ValueError("a switch that reduces has no bound here: collective nvls")
    for step in steps:
        _run(ranks, step)
    return torch.stack([rank.error_N for rank in ranks]).amax(0)


def tokens_bound(x_RD: Tensor, codec: Codec) -> Tensor:
    """Largest possible |received - sent| of each value of rows that were encoded once, float64 [R, D].

    In the rows' own type, which what is received has. Raises ValueError as `codecs.error.bound` does.
    """
    width = x_RD.shape[1]
    filled = torch.nn.functional.pad(x_RD.detach(), (0, row_values(codec, width) - width))
    return bound(filled.reshape(-1), codec, dtype=x_RD.dtype).view(filled.shape)[:, :width]


def _run(ranks: list[_Rank], step: Step) -> None:
    for work in step.work:
        _do(ranks[work.rank], work)
    sent = [(transfer, ranks[transfer.source].latest[_key(transfer)]) for transfer in step.transfers]
    for transfer, copy in sent:
        ranks[transfer.destination].copies[(*_key(transfer), transfer.source)] = copy
        ranks[transfer.destination].latest[_key(transfer)] = copy


def _key(part: Transfer | Work) -> tuple[int, int]:
    return part.interval.start, part.interval.stop


def _do(rank: _Rank, work: Work) -> None:
    start, stop = _key(work)
    value_N, error_N = rank.value_N[start:stop], rank.error_N[start:stop]
    if work.kind == "encode":
        made = _Copy(_there_and_back(value_N, work.codec), error_N + bound(value_N, work.codec))
        rank.copies[(start, stop, work.rank)] = rank.latest[start, stop] = made
    elif work.kind == "decode":
        found = rank.copies[(start, stop, work.sources[0])]
        value_N.copy_(found.value_N)
        error_N.copy_(found.error_N)
    else:
        own = _Copy(value_N.clone(), error_N.clone())  # of a rank that adds what it never encoded
        given = [rank.copies.get((start, stop, source), own) for source in work.sources]
        total_N, wrong_N = given[0].value_N, given[0].error_N
        for copy in given[1:]:
            total_N = total_N + copy.value_N
            wrong_N = wrong_N + copy.error_N + HALF_ULP * total_N.double().abs() * (1 + 2 * HALF_ULP) + TINY
        value_N.copy_(total_N)
        error_N.copy_(wrong_N)


def _there_and_back(value_N: Tensor, codec: Codec) -> Tensor:
    return decode_flat(encode_flat(value_N, codec), value_N.numel(), codec)
