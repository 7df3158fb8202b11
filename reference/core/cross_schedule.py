"""What crosses the wire in distributed cross-attention: hops round a ring of ranks as schedules, and a closed form.

Queries (text) and keys with values (visual context) are both cut over the ranks by sequence. Two exact ways round:

- LV-XAttn (arXiv 2502.02406): keys and values stay. A rank's queries visit the n - 1 others, one hop a round; the
  output they gather there follows one round behind with its log-sum-exps, and comes home on its last hop. So each block
  of queries makes n - 1 hops, and so does each block of partial outputs: the owner's own keys are added at home.
- Ring attention (arXiv 2310.01889): queries stay, each block of keys and values makes n - 1 hops.

Bytes that rank r of n sends, T_i and S_i being the text and visual tokens of rank i (numbers of ranks modulo n):

    LV-XAttn   sum over i != r+1 of query(B * H * T_i * K)
             + sum over i != r   of partial(B * H * T_i * K) + lse(B * H * T_i)
    ring       sum over i != r+1 of key_value(2 * B * G * S_i * K)

where query(), partial(), lse() and key_value() are the codecs' `wire_bytes`. With raw codecs of q, p, 4 and k bytes and
equal parts that is (n-1)/n * B * T * H * (K*(q+p) + 4) against (n-1)/n * 2 * B * S * G * K * k.

An exchange moves slots: a rank's tensor is room for the blocks it holds, and what it sends and what it receives stand
at the same place of it. Legend: B sequences, T text and S visual tokens, H query and G key-value heads, K values of a
head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from thinwire.reference.core.schedule import Interval, Lane, Schedule, Step, Transfer, Work, partition
from thinwire.reference.core.scheme import Codec, Raw


@dataclass(frozen=True, slots=True)
class CrossShape:
    """Sizes of one cross-attention and who holds what: `text[r]` queries and `visual[r]` keys of every sequence lie on
    rank r, in sequence order; either may be 0.

    Raises ValueError for sizes that no cross-attention has.
    """

    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    text: tuple[int, ...]
    visual: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("batch", "heads", "kv_heads", "head_dim"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a positive whole number: {name}={value!r}")
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads must divide heads: kv_heads={self.kv_heads}, heads={self.heads}")
        if not self.text or len(self.text) != len(self.visual):
            raise ValueError(f"text and visual must name the same ranks, one at least: {self.text} and {self.visual}")
        for name in ("text", "visual"):
            tokens = getattr(self, name)
            if any(type(count) is not int or count < 0 for count in tokens) or not sum(tokens):
                raise ValueError(f"{name} tokens of a rank must not be negative, nor all of them 0: {name}={tokens}")

    @classmethod
    def even(
        cls, batch: int, heads: int, kv_heads: int, head_dim: int, text_tokens: int, visual_tokens: int, ranks: int
    ) -> CrossShape:
        """Tokens cut over `ranks` as evenly as can be, longer parts first."""
        for name, value in (("text_tokens", text_tokens), ("visual_tokens", visual_tokens), ("ranks", ranks)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a positive whole number: {name}={value!r}")
        text, visual = (
            tuple(len(part) for part in partition(Interval(0, tokens), ranks, 1))
            for tokens in (text_tokens, visual_tokens)
        )
        return cls(batch, heads, kv_heads, head_dim, text, visual)

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return len(self.text)

    @property
    def query_values(self) -> tuple[int, ...]:
        """Values of each rank's queries, and of their outputs."""
        return tuple(self.batch * self.heads * tokens * self.head_dim for tokens in self.text)

    @property
    def lse_values(self) -> tuple[int, ...]:
        """Log-sum-exps of each rank's queries."""
        return tuple(self.batch * self.heads * tokens for tokens in self.text)

    @property
    def key_value_values(self) -> tuple[int, ...]:
        """Values of each rank's keys and values together."""
        return tuple(2 * self.batch * self.kv_heads * tokens * self.head_dim for tokens in self.visual)


@dataclass(frozen=True, slots=True)
class Wire:
    """Formats on the wire. What is passed on unchanged must be raw: encoded anew at each hop it would drift.

    lse: log-sum-exps. In bf16 one of 30 would be off by 0.06, and with it the weight of all that it stands for.
    """

    query: Codec = field(default_factory=Raw)
    partial: Codec = field(default_factory=Raw)  # of partial outputs: a rank adds to them and encodes the sum
    key_value: Codec = field(default_factory=Raw)
    lse: Codec = field(default_factory=lambda: Raw("fp32"))

    def __post_init__(self) -> None:
        for name in ("query", "key_value", "lse"):
            codec = getattr(self, name)
            if not codec.is_raw:
                raise ValueError(f"{name} must travel raw, as bf16, fp16 or fp32: {name}={codec.spec}")
        if self.partial.needs_calibration:
            raise ValueError(f"partial outputs have no calibrated scales, use a dynamic hybrid: {self.partial.spec}")


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one block of a rank: where it starts, and how much of it each rank's block fills."""

    start: int
    sizes: tuple[int, ...]
    codec: Codec

    @property
    def stop(self) -> int:
        """Where the longest block ends."""
        return self.start + max(self.sizes)

    def interval(self, owner: int) -> Interval:
        """Where rank `owner`'s block stands on whoever holds it."""
        return Interval(self.start, self.start + self.sizes[owner % len(self.sizes)])


@dataclass(frozen=True, eq=False, slots=True)
class Exchange:
    """All ranks hand blocks to the next rank at once. `arriving`: each slot, and how far back its new owner is."""

    schedule: Schedule
    arriving: tuple[tuple[Slot, int], ...]


def query_slots(shape: CrossShape, wire: Wire) -> tuple[Slot, Slot, Slot]:
    """Slots of LV-XAttn: queries, partial outputs, log-sum-exps."""
    query = Slot(0, shape.query_values, wire.query)
    partial = Slot(query.stop, shape.query_values, wire.partial)
    return query, partial, Slot(partial.stop, shape.lse_values, wire.lse)


@lru_cache(maxsize=256)
def lv_exchanges(shape: CrossShape, wire: Wire) -> tuple[Exchange | None, ...]:
    """The n + 1 exchanges of LV-XAttn (() for one rank); None where there is nothing to move, the second of n = 2.

    Exchange e (from 1) brings each rank r the queries of rank r - e, while e < n, and from the third on the partial
    outputs of rank r - (e - 1), which rank r - 1 has just completed. The last brings everybody's own home.
    """
    ranks = shape.ranks
    if ranks == 1:
        return ()
    query, partial, lse = query_slots(shape, wire)
    found = []
    for number in range(1, ranks + 2):
        arriving = [(query, number)] if number < ranks else []
        arriving += [(partial, number - 1), (lse, number - 1)] if number > 2 else []
        found.append(_exchange("lv-xattn", ranks, lse.stop, arriving))
    return tuple(found)


@lru_cache(maxsize=256)
def ring_exchanges(shape: CrossShape, wire: Wire) -> tuple[Exchange | None, ...]:
    """The n - 1 exchanges of ring attention: exchange e (from 1) brings rank r the keys and values of rank r - e."""
    slot = Slot(0, shape.key_value_values, wire.key_value)
    return tuple(_exchange("ring-attention", shape.ranks, slot.stop, [(slot, e)]) for e in range(1, shape.ranks))


def _exchange(name: str, ranks: int, numel: int, arriving: Sequence[tuple[Slot, int]]) -> Exchange | None:
    encode: list[Work] = []
    sends: list[Transfer] = []
    decode: list[Work] = []
    for rank in range(ranks):
        source = (rank - 1) % ranks
        for slot, back in arriving:
            interval = slot.interval(rank - back)
            if len(interval):
                encode.append(Work(source, "encode", interval, slot.codec, ()))
                sends.append(Transfer(source, rank, interval, slot.codec))
                decode.append(Work(rank, "decode", interval, slot.codec, (source,)))
    if not sends:
        return None
    steps = (Step("ring", tuple(encode), tuple(sends)), Step("none", tuple(decode), ()))
    return Exchange(Schedule(name, ranks, numel, (Lane(Interval(0, numel), steps),), 1), tuple(arriving))


def lv_bytes(shape: CrossShape, wire: Wire) -> tuple[int, ...]:
    """Bytes each rank sends in LV-XAttn, by the closed form."""
    query = [wire.query.wire_bytes(count) for count in shape.query_values]
    output = [
        wire.partial.wire_bytes(values) + wire.lse.wire_bytes(rows)
        for values, rows in zip(shape.query_values, shape.lse_values, strict=True)
    ]
    n = shape.ranks
    return tuple(sum(query) - query[(r + 1) % n] + sum(output) - output[r] for r in range(n))


def ring_bytes(shape: CrossShape, wire: Wire) -> tuple[int, ...]:
    """Bytes each rank sends in ring attention, by the closed form."""
    block = [wire.key_value.wire_bytes(count) for count in shape.key_value_values]
    n = shape.ranks
    return tuple(sum(block) - block[(r + 1) % n] for r in range(n))


def crossover_visual_tokens(shape: CrossShape, wire: Wire) -> int:
    """The fewest visual tokens from which on all ranks together send less in LV-XAttn than in ring attention.

    The text tokens are `shape`'s, its visual tokens play no part; nor does the number of ranks where the partial
    outputs are raw, since both sums are then (n - 1) times the whole.
    """
    queries, rows = shape.query_values, shape.lse_values
    moved = sum(map(wire.query.wire_bytes, queries)) + sum(map(wire.partial.wire_bytes, queries))
    moved += sum(map(wire.lse.wire_bytes, rows))
    a_token = wire.key_value.wire_bytes(2 * shape.batch * shape.kv_heads * shape.head_dim)
    return moved // a_token + 1
