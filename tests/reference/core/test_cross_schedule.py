"""Distributed cross-attention on the wire: who holds what after each exchange, and bytes in closed form."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.core.cross_schedule import (
    CrossShape,
    Exchange,
    Wire,
    crossover_visual_tokens,
    lv_bytes,
    lv_exchanges,
    query_slots,
    ring_bytes,
    ring_exchanges,
)
from thinwire.reference.core.schedule import Interval
from thinwire.reference.core.scheme import GroupedInt, OutlierHybrid, Raw


@st.composite
def shapes(draw: st.DrawFn, least: int = 0) -> CrossShape:
    ranks = draw(st.integers(1, 6))
    parts = st.lists(st.integers(least, 9), min_size=ranks, max_size=ranks).filter(any).map(tuple)
    kv_heads = draw(st.integers(1, 3))
    heads, head_dim = kv_heads * draw(st.integers(1, 3)), draw(st.sampled_from((1, 8, 64)))
    return CrossShape(draw(st.integers(1, 3)), heads, kv_heads, head_dim, draw(parts), draw(parts))


wires = st.sampled_from((Wire(), Wire(partial=GroupedInt(4, 32)), Wire(Raw("fp16"), Raw("fp32"), Raw("fp32"))))


def sent(exchanges: tuple[Exchange | None, ...], ranks: int) -> tuple[int, ...]:
    """Bytes that each rank sends in all of them."""
    found = [0] * ranks
    for exchange in exchanges:
        for rank, nbytes in exchange.schedule.sent_bytes().items() if exchange else ():
            found[rank] += nbytes
    return tuple(found)


@given(shapes(), wires)
def test_schedules_send_what_the_closed_form_says(shape: CrossShape, wire: Wire) -> None:
    if shape.ranks == 1:
        assert lv_exchanges(shape, wire) == ring_exchanges(shape, wire) == ()
        assert lv_bytes(shape, wire) == (0,)  # nobody else's queries
        return
    assert len(lv_exchanges(shape, wire)) == shape.ranks + 1 and len(ring_exchanges(shape, wire)) == shape.ranks - 1
    assert sent(lv_exchanges(shape, wire), shape.ranks) == lv_bytes(shape, wire)
    assert sent(ring_exchanges(shape, wire), shape.ranks) == ring_bytes(shape, wire)


@given(st.integers(2, 6), st.integers(1, 5), st.integers(1, 5), st.integers(1, 3))
def test_equal_parts_are_the_formula_of_the_docstring(ranks: int, text: int, visual: int, batch: int) -> None:
    heads, groups, values = 6, 2, 16
    shape = CrossShape(batch, heads, groups, values, (text,) * ranks, (visual,) * ranks)
    whole_text, whole_visual = ranks * text, ranks * visual
    lv = (ranks - 1) * batch * whole_text * heads * (values * (2 + 2) + 4) // ranks
    ring = (ranks - 1) * 2 * batch * whole_visual * groups * values * 2 // ranks
    assert lv_bytes(shape, Wire()) == (lv,) * ranks
    assert ring_bytes(shape, Wire()) == (ring,) * ranks


@given(shapes(), wires)
def test_every_block_goes_round_and_outputs_come_home(shape: CrossShape, wire: Wire) -> None:
    """Blocks are passed on by name: who sends holds it, whole, where it stands, and hands it to the next rank."""
    n = shape.ranks
    if n == 1:
        return
    for exchanges, slots in (
        (lv_exchanges(shape, wire), query_slots(shape, wire)),
        (ring_exchanges(shape, wire), None),
    ):
        hops: dict[tuple[int, int], int] = {}  # (slot's start, owner) -> hops so far
        for exchange in exchanges:
            if exchange is None:
                continue
            assert exchange.schedule.ranks == n
            (lane,) = exchange.schedule.lanes
            send, decode = lane.steps
            expected = []
            for rank in range(n):
                for slot, back in exchange.arriving:
                    owner = (rank - back) % n
                    if slot.sizes[owner]:
                        expected.append(((rank - 1) % n, rank, slot.interval(owner), slot.codec))
                        hops[slot.start, owner] = hops.get((slot.start, owner), 0) + 1
            assert [(t.source, t.destination, t.interval, t.codec) for t in send.transfers] == expected
            assert [(w.rank, w.kind, w.interval) for w in send.work] == [(s, "encode", i) for s, _, i, _ in expected]
            assert [(w.rank, w.kind, w.interval, w.sources) for w in decode.work] == [
                (to, "decode", interval, (source,)) for source, to, interval, _ in expected
            ]
            assert (send.primitive, decode.primitive) == ("ring", "none")
            assert all(0 <= i.start < i.stop <= exchange.schedule.numel for _, _, i, _ in expected)
        assert all(count == n - 1 for count in hops.values())
        if slots is not None:
            backs = [{back for slot, back in e.arriving if slot == slots[1]} for e in exchanges if e is not None]
            assert [b for b in backs if b] == [{k} for k in range(2, n + 1)], "one round behind, home at last"


@given(shapes())
def test_slots_lie_side_by_side_and_hold_the_largest_block(shape: CrossShape) -> None:
    query, partial, lse = query_slots(shape, Wire())
    largest = max(shape.query_values)
    assert (query.start, query.stop, partial.start, partial.stop) == (0, largest, largest, 2 * largest)
    assert (lse.start, lse.stop) == (2 * largest, 2 * largest + max(shape.lse_values))
    for slot, values in ((query, shape.query_values), (partial, shape.query_values), (lse, shape.lse_values)):
        for rank in range(-shape.ranks, 2 * shape.ranks):
            assert slot.interval(rank) == Interval(slot.start, slot.start + values[rank % shape.ranks])


def test_values_by_hand() -> None:
    shape = CrossShape(2, 6, 3, 8, (5, 0), (1, 4))
    assert shape.query_values == (2 * 6 * 5 * 8, 0)
    assert shape.lse_values == (2 * 6 * 5, 0)
    assert shape.key_value_values == (2 * 2 * 3 * 1 * 8, 2 * 2 * 3 * 4 * 8)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 7))
def test_even_parts_differ_by_one_longer_ones_first(text: int, visual: int, ranks: int) -> None:
    shape = CrossShape.even(1, 4, 2, 8, text, visual, ranks)
    for parts, whole in ((shape.text, text), (shape.visual, visual)):
        assert (len(parts), sum(parts)) == (ranks, whole)
        assert list(parts) == sorted(parts, reverse=True) and parts[0] - parts[-1] <= 1


@given(shapes(least=1), st.sampled_from((Wire(), Wire(Raw("fp32")), Wire(key_value=Raw("fp32")))))
def test_the_crossover_is_where_less_is_sent_for_the_first_time(shape: CrossShape, wire: Wire) -> None:
    """Tried on both sides: one token fewer, and ring attention sends no more."""
    at, n = crossover_visual_tokens(shape, wire), shape.ranks
    if n == 1:
        return
    for tokens, less in ((at, True), (at - 1, False)):
        if tokens:
            visual = (tokens, *[0] * (n - 1))
            other = CrossShape(shape.batch, shape.heads, shape.kv_heads, shape.head_dim, shape.text, visual)
            assert (sum(lv_bytes(other, wire)) < sum(ring_bytes(other, wire))) == less


GOOD: dict[str, Any] = {"batch": 1, "heads": 4, "kv_heads": 2, "head_dim": 8, "text": (1, 0), "visual": (0, 2)}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        *(({name: 0}, f"{name} must be a positive") for name in ("batch", "heads", "head_dim", "kv_heads")),
        *(({name: 1.0}, f"{name} must be a positive") for name in ("batch", "heads", "head_dim", "kv_heads")),
        ({"kv_heads": 3}, "kv_heads must divide heads"),
        ({"text": ()}, "same ranks, one at least"),
        ({"text": (1, 2, 3)}, "same ranks"),
        ({"text": (-1, 2)}, "text tokens of a rank must not be negative"),
        ({"visual": (0, 0)}, "nor all of them 0"),
        ({"visual": (1.0, 0)}, "visual tokens"),
    ],
)  # fmt: skip
def test_what_is_no_cross_attention_is_refused(wrong: dict[str, Any], said: str) -> None:
    assert CrossShape(**GOOD)
    with pytest.raises(ValueError, match=said):
        CrossShape(**{**GOOD, **wrong})


def test_even_needs_tokens_and_ranks() -> None:
    assert CrossShape.even(1, 1, 1, 1, 1, 1, 1).ranks == 1
    wrongs: tuple[Any, ...] = ((0, 1, 1), (1, 0, 1), (1, 1, 0), (1.5, 1, 1))
    for wrong in wrongs:
        with pytest.raises(ValueError, match="must be a positive whole number"):
            CrossShape.even(1, 1, 1, 1, *wrong)


def test_what_is_passed_on_travels_raw() -> None:
    for name in ("query", "key_value", "lse"):
        with pytest.raises(ValueError, match=f"{name} must travel raw"):
            Wire(**{name: GroupedInt(4)})
    assert Wire(partial=GroupedInt(4)).lse == Raw("fp32")
    assert Wire(partial=OutlierHybrid(4, 64, "dynamic", 64))
    with pytest.raises(ValueError, match="no calibrated scales"):
        Wire(partial=OutlierHybrid(4, 64, group=64))
