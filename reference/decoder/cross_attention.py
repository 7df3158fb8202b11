"""Exact cross-attention whose long keys and values lie cut over the ranks of a group: LV-XAttn and ring attention.

Each rank holds some text tokens' queries and some visual tokens' keys and values. In `lv_xattn` (arXiv 2502.02406)
queries, partial outputs and log-sum-exps go round the ring; in `ring_attention` (arXiv 2310.01889) keys and values do.
The hops and their bytes are `reference.core.cross_schedule`'s, which the simulator times; a `Group` carries them, so
all ranks may be in one process or each in its own, with the same bits.

Outputs over disjoint sets of keys merge by their log-sum-exps, o = (exp(a) o_a + exp(b) o_b) / (exp(a) + exp(b)), in
an order that the ring fixes: for the queries of rank j the keys of ranks j+1, j+2, ..., j in LV-XAttn (home comes
last) and j, j-1, ..., j+1 in ring attention. The two therefore agree to rounding, not to the bit.

Legend: B sequences, T text and S visual tokens of a rank or a block, H query and G key-value heads (query head h reads
key-value head h // (H/G)), K values of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.reference.allreduce import RAW_FORMATS
from thinwire.reference.core.cross_schedule import CrossShape, Exchange, Wire, lv_exchanges, ring_exchanges
from thinwire.reference.core.scheme import Codec, Raw, Section
from thinwire.reference.decoder.sync import ranks_here
from thinwire.reference.groups.execute import Coding
from thinwire.reference.groups.group import Group
from thinwire.reference.groups.handshake import Form

KEY_CHUNK = 2048  # keys scored at a time: a visual context's scores do not fit in memory at once

Mask = Callable[[range, range], Tensor | None]
"""(text tokens, visual tokens), both counted over all ranks -> which query sees which key: bool [T, S] or [B, T, S];
None = all. Every rank asks it for blocks of its own choice, so it must be the same function everywhere."""

Partial = tuple[Tensor, Tensor]  # outputs [B, H, T, K] and log-sum-exps [B, H, T] over some of the keys


@dataclass(frozen=True, slots=True)
class Fp64(Codec):
    """fp64 as it stands. No deployment sends it: it shows that nothing but rounding separates two ways to compute."""

    @property
    def group(self) -> int:
        """One."""
        return 1

    @property
    def spec(self) -> str:
        """Known here only."""
        return "fp64"

    @property
    def bits_per_value(self) -> float:
        """64."""
        return 64.0

    @property
    def is_raw(self) -> bool:
        """True."""
        return True

    def _sections(self, numel: int) -> tuple[Section, ...]:
        return (Section("values", numel * 8),)


_FP64 = Wire(*[Fp64()] * 4)


class _Coding(Coding):
    """The codecs' coding, and fp64 as it stands."""

    __slots__ = ()

    def encode(self, values_N: Tensor, codec: Codec, rank: int | None, start: int) -> Tensor:
        if isinstance(codec, Fp64):
            return values_N.clone().view(torch.uint8)  # a copy: the slot it stands in is filled anew
        return Coding.encode(self, values_N, codec, rank, start)

    def decode(self, buffer: Tensor, numel: int, codec: Codec, rank: int | None, start: int) -> Tensor:
        if isinstance(codec, Fp64):
            return buffer.clone().view(torch.float64)  # a slice of a longer buffer may stand at any byte
        return Coding.decode(self, buffer, numel, codec, rank, start)


def padding(lengths: Sequence[int]) -> Mask:
    """The mask of a padded visual context: of sequence b the first `lengths[b]` visual tokens are real."""
    if any(length < 0 for length in lengths):
        raise ValueError(f"lengths must not be negative: {list(lengths)}")
    length_B11 = torch.tensor(list(lengths))[:, None, None]

    def mask(rows: range, columns: range) -> Tensor:
        seen_B1S = torch.arange(columns.start, columns.stop)[None, None, :] < length_B11
        return seen_B1S.expand(-1, len(rows), -1)

    return mask


def attend(
    query_BHTK: Tensor,
    key_BGSK: Tensor,
    value_BGSK: Tensor,
    mask: Mask | None = None,
    scale: float | None = None,
    rows: range | None = None,
    columns: range | None = None,
) -> Partial:
    """Softmax(scale * query . key) . value over these keys alone, and the log-sum-exps of the scores.

    rows, columns: where these queries and keys stand among all, for the mask; None = they are all. scale: 1/sqrt(K)
    where None. Computed in fp32 (fp64 where the queries are). A query that sees no key gets zeros and -inf, which merge
    like everything else.
    """
    rows = range(query_BHTK.shape[2]) if rows is None else rows
    columns = range(key_BGSK.shape[2]) if columns is None else columns
    wide = torch.promote_types(query_BHTK.dtype, torch.float32)
    batch, heads, tokens, size = query_BHTK.shape
    groups = key_BGSK.shape[1]
    scale = size**-0.5 if scale is None else scale
    query_BGXK = query_BHTK.to(wide).reshape(batch, groups, heads // groups * tokens, size)  # X: head in group, token
    found: Partial | None = None
    for start in range(0, len(columns), KEY_CHUNK):
        seen = columns[start : start + KEY_CHUNK]
        key_BGSK_part, value_BGSK_part = (x[:, :, start : start + len(seen)].to(wide) for x in (key_BGSK, value_BGSK))
        score_BHTS = (query_BGXK @ key_BGSK_part.transpose(-1, -2) * scale).reshape(batch, heads, tokens, len(seen))
        if mask is not None and (mask_TS := mask(rows, seen)) is not None:
            score_BHTS = score_BHTS.masked_fill(~_checked(mask_TS, batch, rows, seen, score_BHTS.device), -math.inf)
        lse_BHT = score_BHTS.logsumexp(-1)
        weight_BHTS = (score_BHTS - _finite(lse_BHT)[..., None]).exp()
        output_BGXK = weight_BHTS.reshape(batch, groups, -1, len(seen)) @ value_BGSK_part
        part = output_BGXK.reshape(query_BHTK.shape), lse_BHT
        found = part if found is None else merge(found, part)
    if found is None:
        nothing_BHTK = torch.zeros(query_BHTK.shape, dtype=wide, device=query_BHTK.device)
        return nothing_BHTK, torch.full_like(nothing_BHTK[..., 0], -math.inf)
    return found


def merge(a: Partial, b: Partial) -> Partial:
    """Outputs and log-sum-exps over the keys of both, which have none in common."""
    (a_BHTK, a_BHT), (b_BHTK, b_BHT) = a, b
    lse_BHT = torch.logaddexp(a_BHT, b_BHT)
    known_BHT = _finite(lse_BHT)
    return (
        (a_BHT - known_BHT).exp()[..., None] * a_BHTK + (b_BHT - known_BHT).exp()[..., None] * b_BHTK,
        lse_BHT,
    )


def _finite(lse_BHT: Tensor) -> Tensor:
    """0 for -inf, which would give NaN when subtracted from itself: exp(-inf - 0) is the 0 that is wanted."""
    return lse_BHT.masked_fill(lse_BHT == -math.inf, 0.0)


def _checked(mask: Tensor, batch: int, rows: range, columns: range, device: torch.device) -> Tensor:
    allowed = ([len(rows), len(columns)], [batch, len(rows), len(columns)])
    if mask.dtype != torch.bool or list(mask.shape) not in allowed:
        raise ValueError(
            f"a mask gives bool {allowed[0]} or {allowed[1]} for these tokens: {mask.dtype} {list(mask.shape)}"
        )
    mask = mask.to(device)
    return mask if mask.dim() == 2 else mask[:, None]  # [T, S], or [B, 1, T, S] for all heads


def lv_xattn(
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    value: Sequence[Tensor],
    shape: CrossShape,
    group: Group,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    partial: Codec | None = None,
) -> list[Tensor]:
    """Cross-attention with keys and values staying where they are.

    Args:
        query: [B, H, T_r, K] of each rank r held here, in rank order: all of a LocalGroup's, one of a TorchGroup's.
        key, value: [B, G, S_r, K] of the same ranks and dtype.
        shape: sizes and who holds what, the same on every rank.
        group: the ranks. Every rank must call in the same order as its other collectives.
        mask: which query sees which key, None = every query every key.
        scale: of the scores; None = 1/sqrt(K).
        partial: codec of travelling partial outputs, encoded anew at each of their n - 1 hops; None = the queries'
            dtype. Queries travel in their own dtype, log-sum-exps in fp32 (in fp64 inputs' case all is fp64).

    Returns the outputs [B, H, T_r, K] of the ranks held here, in the queries' dtype.
    Raises ValueError for tensors that do not fit `shape`, RuntimeError for a lost peer.
    """
    ranks, wire = _check(query, key, value, shape, group, partial)
    exchanges, n = lv_exchanges(shape, wire), shape.ranks
    form = _form("lv-xattn", query, shape, mask, scale)

    def over_own_keys(queries: Sequence[Tensor], back: int) -> list[Partial]:
        """Each rank's keys seen by the queries of the rank `back` before it."""
        return [
            attend(q, k, v, mask, scale, _span(shape.text, r - back), _span(shape.visual, r))
            for r, q, k, v in zip(ranks, queries, key, value, strict=True)
        ]

    if n == 1:
        return _outputs(over_own_keys(query, 0), query)
    arrived = _pass(exchanges[0], [[q] for q in query], ranks, group, form)
    parts: list[Partial] = []
    for number in range(1, n + 1):  # ranks see the queries of rank - number: at last, number = n, their own
        queries = query if number == n else [blocks[0].view(_rows(shape, r - number)) for r, blocks in arrived]
        fresh = over_own_keys(queries, number)
        leaving: list[list[Tensor]] = [[] for _ in ranks]
        for place, blocks in enumerate(leaving):
            if number + 1 < n:
                blocks.append(queries[place])
            if number > 1:
                blocks.extend(parts[place])
        arrived = _pass(exchanges[number], leaving, ranks, group, form)
        if number > 1:
            for place, (r, blocks) in enumerate(arrived):
                rows = _rows(shape, r - number)
                gathered = blocks[-2].view(rows), blocks[-1].view(rows[:-1])
                fresh[place] = merge(gathered, fresh[place])
        parts = fresh
    return _outputs(parts, query)


def ring_attention(
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    value: Sequence[Tensor],
    shape: CrossShape,
    group: Group,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
) -> list[Tensor]:
    """Cross-attention with keys and values going round the ring, in their own dtype; otherwise as `lv_xattn`."""
    ranks, wire = _check(query, key, value, shape, group, None)
    form = _form("ring-attention", query, shape, mask, scale)
    keys, values = list(key), list(value)
    parts: list[Partial] = []
    for number in range(shape.ranks):  # ranks hold the keys of rank - number
        if number:
            blocks = [[torch.cat((k.reshape(-1), v.reshape(-1)))] for k, v in zip(keys, values, strict=True)]
            exchange = ring_exchanges(shape, wire)[number - 1]
            for place, (r, found) in enumerate(_pass(exchange, blocks, ranks, group, form)):
                tokens = shape.visual[(r - number) % shape.ranks]
                keys[place], values[place] = found[0].view(2, shape.batch, shape.kv_heads, tokens, shape.head_dim)
        fresh = [
            attend(q, k, v, mask, scale, _span(shape.text, r), _span(shape.visual, r - number))
            for r, q, k, v in zip(ranks, query, keys, values, strict=True)
        ]
        parts = [merge(before, now) for before, now in zip(parts, fresh, strict=True)] if number else fresh
    return _outputs(parts, query)


def _check(
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    value: Sequence[Tensor],
    shape: CrossShape,
    group: Group,
    partial: Codec | None,
) -> tuple[tuple[int, ...], Wire]:
    """The ranks held here and the formats on the wire. Refuses, before anything is sent, what does not fit."""
    if shape.ranks != group.size:
        raise ValueError(f"the shape is cut over {shape.ranks} ranks, the group has {group.size}")
    ranks = ranks_here(group)
    dtypes = {x.dtype for x in (*query, *key, *value)}
    if len(dtypes) != 1 or not dtypes <= {*RAW_FORMATS, torch.float64}:
        allowed = ", ".join(map(str, (*RAW_FORMATS, torch.float64)))
        raise ValueError(f"queries, keys and values must share one dtype of {allowed}: {sorted(map(str, dtypes))}")
    for name, tensors, heads, tokens in (
        ("queries", query, shape.heads, shape.text),
        ("keys", key, shape.kv_heads, shape.visual),
        ("values", value, shape.kv_heads, shape.visual),
    ):
        given = [list(x.shape) for x in tensors]
        wanted = [[shape.batch, heads, tokens[r], shape.head_dim] for r in ranks]
        if given != wanted:
            raise ValueError(f"the {name} of ranks {list(ranks)} must be {wanted}: given {given}")
    dtype = dtypes.pop()
    if dtype == torch.float64:
        if partial is not None:
            raise ValueError(f"fp64 inputs travel as fp64 throughout: partial={partial.spec}")
        return ranks, _FP64
    raw = Raw(RAW_FORMATS[dtype])
    return ranks, Wire(raw, raw if partial is None else partial, raw)


def _form(name: str, query: Sequence[Tensor], shape: CrossShape, mask: Mask | None, scale: float | None) -> Form:
    """What ranks must agree on beside the hops: also how they score each other's queries, but for what a mask hides."""
    sizes = (shape.batch, shape.heads, shape.kv_heads, shape.head_dim, *shape.text, *shape.visual)
    also = f"scale {scale}, {'no mask' if mask is None else 'a mask'}"
    return Form(sizes, str(query[0].dtype).removeprefix("torch."), also, name)


def _pass(
    exchange: Exchange | None, leaving: Sequence[Sequence[Tensor]], ranks: Sequence[int], group: Group, form: Form
) -> list[tuple[int, list[Tensor]]]:
    """Hand each rank's blocks on; each rank with what it got, flat and in fp32 (fp64), in the exchange's order."""
    if exchange is None:
        return [(rank, []) for rank in ranks]
    rooms = []
    for rank, blocks in zip(ranks, leaving, strict=True):
        wide = torch.promote_types(blocks[0].dtype, torch.float32)
        room_N = torch.empty(exchange.schedule.numel, dtype=wide, device=blocks[0].device)
        for (slot, back), block in zip(exchange.arriving, blocks, strict=True):
            interval = slot.interval(rank + 1 - back)  # what the next rank is to get
            room_N[interval.start : interval.stop] = block.reshape(-1)
        rooms.append(room_N)
    group.run(exchange.schedule, rooms, _Coding(), form)
    found = []
    for rank, room_N in zip(ranks, rooms, strict=True):
        intervals = [slot.interval(rank - back) for slot, back in exchange.arriving]
        found.append((rank, [room_N[i.start : i.stop].clone() for i in intervals]))
    return found


def _rows(shape: CrossShape, owner: int) -> tuple[int, int, int, int]:
    """[B, H, T, K] of a rank's queries and outputs."""
    return shape.batch, shape.heads, shape.text[owner % shape.ranks], shape.head_dim


def _span(tokens: Sequence[int], owner: int) -> range:
    """Where a rank's tokens stand among all."""
    owner %= len(tokens)
    return range(sum(tokens[:owner]), sum(tokens[: owner + 1]))


def _outputs(parts: Sequence[Partial], query: Sequence[Tensor]) -> list[Tensor]:
    return [output_BHTK.to(q.dtype) for (output_BHTK, _), q in zip(parts, query, strict=True)]
