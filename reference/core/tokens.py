"""Experts' tokens on the wire: rows of one width, as many from each rank to each other as the router says.

A rank's rows stand sorted by the rank they go to, so each message is a run of them, and one buffer of its codec. A row
is filled up with zeros to whole groups (`row_values`), so no group lies in two rows: what a row becomes does not depend
on the rows beside it. Where the codec's `align` divides the width nothing is filled up.

A rank encodes and decodes its own rows too, though they stay: what a token's experts are given does not depend on which
rank they lie on. That is what engines do, whose experts compute on the encoded tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from thinwire.edge.limits import MESSAGE, TOGETHER, WIDTH
from thinwire.edge.words import shown
from thinwire.reference.core.schedule import Interval, Lane, Schedule, Step, Transfer, Work
from thinwire.reference.core.scheme import Codec

Counts = tuple[tuple[int, ...], ...]  # [source][destination]: rows


def row_values(codec: Codec, width: int) -> int:
    """Values of a row on the wire: `width` and the zeros up to whole groups. ValueError for a width below 1."""
    WIDTH.check("width", width)
    return -(-width // codec.align) * codec.align


def checked(counts: Sequence[Sequence[int]], ranks: int | None = None) -> Counts:
    """Rows from each rank to each, as a value.

    Raises ValueError unless it is a list of `ranks` (None: any number of) ranks for each of these, of whole numbers of
    0 or more.
    """
    found = tuple(tuple(row) for row in counts)
    wanted = len(found) if ranks is None else ranks
    TOGETHER.check("ranks", wanted)
    short = [f"a list of {len(row)} for rank {rank}" for rank, row in enumerate(found) if len(row) != wanted]
    if len(found) != wanted or short:
        given = f"those of {len(found)} ranks" if len(found) != wanted else short[0]
        raise ValueError(f"counts must be rows from each of {wanted} ranks to each, {wanted} x {wanted}: given {given}")
    wrong = [count for row in found for count in row if type(count) is not int or count < 0]
    if wrong:
        raise ValueError(f"counts must be whole numbers of 0 or more: given {shown(wrong[0])}")
    return found


def row_width(counts: Sequence[Sequence[int]], ranks: int, numel: int) -> int:
    """Values of a row where the rank that sends most sends `numel` in all; 1 where nobody sends anything.

    Raises ValueError unless they are whole rows, and as `checked` does.
    """
    most = max(sum(row) for row in checked(counts, ranks))
    if (most == 0) != (numel == 0) or (most and numel % most):
        raise ValueError(f"values must be whole rows: {numel} values, the rank that sends most has {most} rows")
    return numel // most if most else 1


@lru_cache(maxsize=64)
def exchange_of_tokens(codec: Codec, counts: Counts, width: int) -> Schedule:
    """The all-to-all of `counts[i][j]` rows of `width` values from rank i to rank j: every rank sends to all directly.

    Intervals are places among the sender's own rows, filled up as `row_values` says; `numel` is what the rank that
    sends most has. Messages without rows are none, and one rank alone does nothing. Raises ValueError for counts that
    are no square of whole numbers, and for more than a collective may be.
    """
    counts, each = checked(counts), row_values(codec, width)
    ranks = len(counts)
    numel = max(each * sum(row) for row in counts)
    if numel:
        MESSAGE.check("bytes that a rank sends uncompressed", 2 * numel)
    if ranks == 1 or not numel:
        steps: tuple[Step, ...] = ()
    else:
        messages = [(i, j, part) for i, row in enumerate(counts) for j, part in _runs(row, each)]
        encode = tuple(Work(i, "encode", part, codec, ()) for i, _, part in messages)
        sends = tuple(Transfer(i, j, part, codec) for i, j, part in messages if i != j)
        decode = tuple(Work(j, "decode", part, codec, (i,)) for i, j, part in messages)
        steps = (Step("all_to_all", encode, sends),) if sends else (Step("none", encode, ()),)
        steps += (Step("none", decode, ()),)
    lanes = (Lane(Interval(0, numel), steps),) if numel else ()
    return Schedule("all_to_all", ranks, numel, lanes, 1)


def _runs(row: Sequence[int], each: int) -> list[tuple[int, Interval]]:
    """(destination, its run of values) of one rank's rows, where it has any."""
    found, start = [], 0
    for destination, count in enumerate(row):
        stop = start + count * each
        if count:
            found.append((destination, Interval(start, stop)))
        start = stop
    return found
