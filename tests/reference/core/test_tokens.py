"""Schedules of experts' tokens: each message once, bytes as codecs count them, nothing where nothing is sent."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.catalog import parse_codec
from thinwire.reference.core.schedule import build
from thinwire.reference.core.scheme import Raw, Scheme
from thinwire.reference.core.tokens import Counts, checked, exchange_of_tokens, row_values, row_width

SPECS = ("bf16", "int4-g128-zp", "int2-g128-zp-sr", "int5-g8-sym", "mx-e4m3-b128-fp32", "nvfp4-r512", "hybrid4-k64-dyn")


@st.composite
def deals(draw: st.DrawFn) -> Counts:
    ranks = draw(st.integers(1, 7))
    row = st.lists(st.integers(0, 9) | st.just(0), min_size=ranks, max_size=ranks).map(tuple)
    return tuple(draw(st.lists(row, min_size=ranks, max_size=ranks)))


@settings(max_examples=200, deadline=None)
@given(deals(), st.integers(1, 900), st.sampled_from(SPECS))
def test_every_message_once_and_in_place(counts: Counts, width: int, spec: str) -> None:
    codec = parse_codec(spec)
    schedule, each = exchange_of_tokens(codec, counts, width), row_values(codec, width)
    assert each >= width and each % codec.align == 0 and each - width < codec.align
    assert schedule.numel == each * max(map(sum, counts))
    steps = [step for lane in schedule.lanes for step in lane.steps]
    transfers = [t for step in steps for t in step.transfers]
    work = [w for step in steps for w in step.work]
    if len(counts) == 1:
        assert not steps
        return
    expected = {
        (i, j): (sum(row[:j]) * each, sum(row[: j + 1]) * each)
        for i, row in enumerate(counts) for j, count in enumerate(row) if count
    }  # fmt: skip
    sent = {(t.source, t.destination): (t.interval.start, t.interval.stop) for t in transfers}
    assert sent == {ends: part for ends, part in expected.items() if ends[0] != ends[1]} and len(sent) == len(transfers)
    encoded = {(w.rank, w.interval.start, w.interval.stop) for w in work if w.kind == "encode"}
    decoded = {(w.sources[0], w.rank, w.interval.start, w.interval.stop) for w in work if w.kind == "decode"}
    assert encoded == {(i, *part) for (i, _), part in expected.items()}
    assert decoded == {(*ends, *part) for ends, part in expected.items()} and len(work) == 2 * len(expected)
    for rank, nbytes in schedule.sent_bytes().items():
        assert nbytes == sum(codec.wire_bytes(n * each) for j, n in enumerate(counts[rank]) if j != rank)
    assert exchange_of_tokens(codec, counts, width) is schedule


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("ranks", [2, 5])
def test_alike_counts_are_the_flat_exchange(spec: str, ranks: int) -> None:
    """Of a tensor whose parts are whole rows: step by step the schedule that there was."""
    codec, width = parse_codec(spec), 1024
    rows = exchange_of_tokens(codec, ((3,) * ranks,) * ranks, width)
    flat = build(Scheme("flat", codec, codec, "two_step"), ranks, 3 * ranks * width, op="all_to_all")
    assert rows.numel == flat.numel
    for a, b in zip(rows.lanes[0].steps, flat.lanes[0].steps, strict=True):
        assert (a.primitive, set(a.transfers), set(a.work)) == (b.primitive, set(b.transfers), set(b.work))


def test_width_of_a_row() -> None:
    assert row_width(((1, 2), (0, 1)), 2, 3 * 70) == 70 and row_width(((0, 0), (0, 0)), 2, 0) == 1
    for counts, numel in ((((1, 2), (0, 1)), 70), (((0, 0), (0, 0)), 4), (((1, 0), (0, 1)), 0)):
        with pytest.raises(ValueError, match=f"values must be whole rows: {numel} values"):
            row_width(counts, 2, numel)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (((1, 2), (3,)), "from each of 2 ranks to each, 2 x 2: given a list of 1 for rank 1$"),
        ((), "ranks must lie in 1..256"),
        (((1, -2), (3, 4)), "whole numbers of 0 or more: given -2"),
        (((1, 2.0), (3, 4)), "whole numbers of 0 or more: given 2.0"),
        (((1, True), (3, 4)), "whole numbers of 0 or more: given True"),
        (((1, 2**60), (3, 4)), "bytes that a rank sends uncompressed must lie in"),
    ],
)
def test_counts_that_mean_nothing(counts: Counts, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        exchange_of_tokens(Raw(), counts, 64)
    with pytest.raises(ValueError, match=r"each of 3 ranks to each, 3 x 3: given those of 2 ranks$"):
        checked(((1, 2), (3, 4)), 3)
    with pytest.raises(ValueError, match="width must lie in"):
        row_values(Raw(), 0) or exchange_of_tokens(Raw(), ((1,),), 0)
