"""Compressed all-to-all of experts' tokens: `all_to_all(x, counts, scheme, group)`, rows to the ranks that want them.

What crosses the wire is what the simulator times (`reference.core.tokens`), run by a `Group`. A row is encoded by
itself: what comes out of it depends on no other row, nor on the rank that sends or receives it. Dispatch carries
tokens to their experts, combine what these gave back, each under its own codec of the scheme; without one, rows travel
in their own type and arrive as they were. Legend: R rows, D width, S rows received.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from thinwire.edge.words import shown
from thinwire.reference.allreduce import RAW_FORMATS
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.core.scheme import Codec, Phase, Raw, Scheme
from thinwire.reference.core.tokens import checked
from thinwire.reference.groups.group import LocalGroup, TorchGroup
from thinwire.reference.groups.handshake import Form
from thinwire.reference.groups.tokens import Rows


class Received(NamedTuple):
    """What one rank receives: rows [S, D] in the order of the ranks that sent them, and how many came from each."""

    rows: Tensor
    counts: tuple[int, ...]


def codec_of(scheme: Scheme | str, phase: Phase, dtype: torch.dtype) -> Codec:
    """What rows of a type travel as in one phase. ValueError for a phase or a type that there is not."""
    if phase not in get_args(Phase):
        raise ValueError(f"phase must be one of {', '.join(get_args(Phase))}: phase={shown(phase)}")
    if dtype not in RAW_FORMATS:
        raise ValueError(f"all_to_all takes {', '.join(map(str, RAW_FORMATS))}: dtype={dtype}")
    found = find_scheme(scheme) if isinstance(scheme, str) else scheme
    return found.of_experts(phase) or Raw(RAW_FORMATS[dtype])


def all_to_all(
    x: Tensor,
    counts: Sequence[int] | Sequence[Sequence[int]],
    scheme: Scheme | str,
    group: TorchGroup | dist.ProcessGroup | None = None,
    *,
    phase: Phase = "dispatch",
    backend: str = "torch",
    index: Tensor | None = None,
) -> Received:
    """Send rows to ranks, compressed on the wire; give back those that come.

    Args:
        x: rows [R, D] of this rank, bf16, fp16 or fp32, sorted by the rank they go to.
        counts: rows to each rank, 0 where there are none; ranks then tell each other theirs first. A list of these for
            every rank, the same everywhere, where all are known: nothing is asked.
        scheme: name, spec or value. What it says of all-reduces means nothing here.
        group: a TorchGroup, a process group, or None for the default one.
        phase: "dispatch" or "combine".
        backend: who runs the codec, "torch" or "triton".
        index: int64 places in x of the rows to send, in the order sent: x itself may then lie in any order, and a row
            go to several ranks. A token goes to each of its experts, or once to each rank of these, so, in one pass
            over memory on a GPU.

    Every rank must call with the same width, dtype, phase and arguments, in the same order as its other collectives.
    A width that groups do not divide is filled up with zeros on the wire, row by row. Rows that stay on their rank are
    encoded and decoded as others are; a single rank has nothing to send, and gets its rows as they are. What goes out
    by dispatch comes home by combine with the counts that were received, and in the order in which it was sent.

    Raises:
        ValueError: counts or an index that do not fit the rows (the places of an index on a GPU are not read, which
            would wait for it), a dtype or codec that cannot run; as `handshake.Disagreement`, the same on every rank,
            where ranks call with different ones. RuntimeError: a peer is gone, or has not called within the group's
            timeout.
    """
    found = group if isinstance(group, TorchGroup) else TorchGroup(group)
    codec = codec_of(scheme, phase, x.dtype)
    every, mine = None, counts
    if counts and not isinstance(counts[0], int):
        every = checked(counts, found.size)  # type: ignore[arg-type]
        mine = every[found.rank]
    rows = Rows(x, _mine(mine, found.size), index)
    (received,), known = found.exchange([rows], codec, backend, every, _form(x, scheme, phase))
    return Received(received, tuple(row[found.rank] for row in known))


def all_to_all_local(
    xs: Sequence[Tensor],
    counts: Sequence[Sequence[int]],
    scheme: Scheme | str,
    *,
    group: LocalGroup | None = None,
    phase: Phase = "dispatch",
    backend: str = "torch",
    indices: Sequence[Tensor] | None = None,
) -> list[Received]:
    """The same with all ranks in this process: every rank's rows and counts in, what every rank receives out."""
    if len(xs) != len(counts) or len({(tuple(x.shape[1:]), x.dtype) for x in xs}) != 1:
        raise ValueError(
            f"rows of every rank, of one width and type, and counts for each: given {len(counts)} counts for "
            f"{[(tuple(x.shape), x.dtype) for x in xs]}"
        )
    codec = codec_of(scheme, phase, xs[0].dtype)
    found = group if group is not None else LocalGroup(len(xs))
    places = [None] * len(xs) if indices is None else indices
    if len(places) != len(xs):
        raise ValueError(f"indices must be one for each of {len(xs)} ranks: given {len(places)}")
    sent = [Rows(x, _mine(c, len(xs)), i) for x, c, i in zip(xs, counts, places, strict=True)]
    received, known = found.exchange(sent, codec, backend)
    return [Received(rows, tuple(row[rank] for row in known)) for rank, rows in enumerate(received)]


def _mine(counts: Sequence[int] | Sequence[Sequence[int]], ranks: int) -> tuple[int, ...]:
    if len(counts) != ranks:
        raise ValueError(f"counts must say how many rows go to each of {ranks} ranks: given {len(counts)}")
    return tuple(counts)  # type: ignore[arg-type]


def _form(x: Tensor, scheme: Scheme | str, phase: Phase) -> Form:
    name = scheme if isinstance(scheme, str) else scheme.name
    return Form((x.shape[1],) if x.dim() == 2 else tuple(x.shape), str(x.dtype).removeprefix("torch."), phase, name)
