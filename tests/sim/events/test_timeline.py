"""Timelines: unrolling folds, what the breakdown counts, and the chain of spans that fixes the end."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from math import nextafter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme
from thinwire.sim.events.timeline import Fold, Span, Timeline
from thinwire.sim.predict import WhatIf, predict
from thinwire.sim.workload import Prompt

from ..helpers import close, machine, small


def compute(rank: int, layer: int, start_s: float, end_s: float, part: int = 0) -> Span:
    kernels = (("first", (end_s - start_s) / 4), ("second", (end_s - start_s) * 3 / 4))
    return Span(rank, "compute", "block", layer, part, start_s, end_s, kernels=kernels)


def wire(
    rank: int, layer: int, start_s: float, end_s: float, codec_s: float = 0.0, waited_s: float = 0.0, part: int = 0
) -> Span:
    return Span(rank, "communication", "all-reduce", layer, part, start_s, end_s, codec_s, waited_s)


def folded() -> Timeline:
    """One rank; before (0 to 1), two simulated layers of 3 s, the second repeated three times, after (1 s)."""
    spans = (
        compute(0, -1, 0, 1),
        compute(0, 0, 1, 3),
        wire(0, 0, 3, 4, 0.25),
        compute(0, 1, 4, 6),
        wire(0, 1, 6, 7, 0.5),
        compute(0, 2, 7, 8),
    )
    return Timeline(spans, (Fold(range(1, 2), 3, 3.0),), 8 + 9.0)


def test_folds_are_unrolled_in_place() -> None:
    spans = list(folded().spans())
    assert [s.layer for s in spans] == [-1, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert [s.start_s for s in spans] == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16]
    assert [s.end_s for s in spans] == [1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 17]
    assert [s.codec_s for s in spans if s.stream == "communication"] == [0.25, 0.5, 0.5, 0.5, 0.5]
    assert folded().weight() == {-1: 1, 0: 1, 1: 4, 2: 1}


def test_a_pattern_of_two_layers_is_unrolled_as_a_whole() -> None:
    spans = tuple(compute(0, layer, layer, layer + 1) for layer in range(4))
    unrolled = list(Timeline(spans, (Fold(range(2, 4), 2, 2.0),), 8.0).spans())
    assert [(s.layer, s.start_s) for s in unrolled] == [(i, i) for i in range(8)]


def test_two_folds_shift_what_follows_them() -> None:
    spans = tuple(compute(0, layer, layer, layer + 1) for layer in range(4))
    folds = (Fold(range(1), 2, 1.0), Fold(range(2, 3), 1, 1.0))
    assert [(s.layer, s.start_s) for s in Timeline(spans, folds, 7.0).spans()] == [(i, i) for i in range(7)]


def test_the_breakdown_counts_repeats_and_idle_time() -> None:
    b = folded().breakdown()
    assert b.compute_s == 1 + 2 + 4 * 2 + 1
    assert b.codec_s == 0.25 + 4 * 0.5
    assert b.communication_s == 0.75 + 4 * 0.5
    assert (b.exposed_communication_s, b.waiting_s) == (17 - 12, 0)
    late = Timeline(tuple(replace(s, start_s=s.start_s + 0.5) if s.stream == "communication" else s
                          for s in folded().simulated), folded().folds, 17.0).breakdown()  # fmt: skip
    assert (late.exposed_communication_s, late.waiting_s) == (17 - 12 - 5 * 0.5, 5 * 0.5)


def test_seconds_by_name_are_kernels_and_exchanges_largest_first() -> None:
    assert list(folded().by_name().items()) == [("second", 9.0), ("all-reduce", 5.0), ("first", 3.0)]


def test_the_rank_that_ends_last_tells_the_story() -> None:
    spans = (compute(0, 0, 0, 2), compute(1, 0, 0, 5), compute(2, 0, 0, 5))
    timeline = Timeline(spans, (), 5.0)
    assert timeline.last_rank == 1
    assert timeline.breakdown().compute_s == 5
    assert timeline.breakdown().exposed_communication_s == 0


# --- critical path ---


def test_the_path_moves_to_the_rank_that_arrived_last() -> None:
    spans = (
        compute(0, 0, 0, 2), compute(1, 0, 0, 5),
        wire(0, 0, 5, 6, waited_s=3.0), wire(1, 0, 5, 6),
        compute(0, 1, 6, 9), compute(1, 1, 6, 7),
    )  # fmt: skip
    path = Timeline(spans, (), 9.0).critical_path()
    assert [(s.rank, s.start_s, s.stream) for s in path] == [
        (0, 6, "compute"),
        (0, 5, "communication"),
        (1, 0, "compute"),
    ]


def test_a_path_goes_on_where_rounding_parts_an_end_from_the_start_that_follows() -> None:
    """Unrolled spans are shifted, so an end and the start it causes may differ in the last bit."""
    start = 0.5000000000005
    end = nextafter(start, 0.0)
    assert round(end, 12) != round(start, 12), "however finely times are rounded, some neighbours fall apart"
    path = Timeline((compute(0, 0, 0.0, end), wire(0, 0, start, 1.0)), (), 1.0).critical_path()
    assert len(path) == 2


def test_what_counts_as_rounding_is_a_share_of_the_whole() -> None:
    """However short the first spans are: a shift of seconds rounds like seconds."""
    start = 0.5000000000005
    spans = (
        compute(0, 0, 0.0, 1e-9), compute(0, 1, 1e-9, 2e-9), compute(0, 2, 2e-9, nextafter(start, 0.0)),
        wire(0, 2, start, 1.0),
    )  # fmt: skip
    assert len(Timeline(spans, (), 1.0).critical_path()) == 4
    shifted = (compute(0, 0, 0.0, 1e-9), wire(0, 0, 1e-9 + 1e-14, 1.0))
    assert len(Timeline(shifted, (), 1.0).critical_path()) == 2
    apart = (compute(0, 0, 0.0, 0.4999), wire(0, 0, 0.5, 1.0))
    assert len(Timeline(apart, (), 1.0).critical_path()) == 1, "a gap of a ten-thousandth is one"


def test_the_path_stays_on_its_rank_where_that_waited_for_nobody() -> None:
    """Of several that came at the same moment the one that is looked at has its own work before it."""
    for last in (0, 1, 2):
        spans = (
            *(compute(rank, 0, 0, 5) for rank in range(3)),
            *(wire(rank, 0, 5, 7 if rank == last else 6) for rank in range(3)),
        )
        path = Timeline(spans, (), 7.0).critical_path()
        assert [(s.rank, s.stream) for s in path] == [(last, "communication"), (last, "compute")]


def test_of_two_that_end_at_once_the_path_takes_the_kernels() -> None:
    """They could not have ended sooner; what was sent beside them could, and nobody would have noticed."""
    for spans in ((compute(0, 0, 1, 5), wire(0, 0, 2, 5, part=1)), (wire(0, 0, 2, 5, part=1), compute(0, 0, 1, 5))):
        path = Timeline((*spans, compute(0, 1, 5, 9)), (), 9.0).critical_path()
        assert [(s.stream, s.start_s) for s in path] == [("compute", 5), ("compute", 1)]


def assert_chain(path: Iterable[Span], ttft_s: float) -> None:
    chain = list(path)
    assert close(chain[0].end_s, ttft_s)
    assert chain[-1].start_s == 0
    for later, earlier in pairwise(chain):
        assert abs(later.start_s - earlier.end_s) <= 1e-9 * ttft_s
    assert close(sum(s.seconds for s in chain), ttft_s)


@given(
    st.sampled_from(("bf16", "flash-int4", "iso", "iso-int8", "flash-int4+spd-50", "none", "quickreduce-int4+iso-30")),
    st.sampled_from((("8xl40s-pcie", 4), ("8xh100-nvlink", 8), ("8xmi300x-xgmi", 2), ("8xa100-nvlink", 1))),
    st.integers(10, 20_000),
    st.integers(1, 80),
    st.sampled_from((0, 0, 1)),
)
@settings(max_examples=40)
def test_the_path_is_an_unbroken_chain_as_long_as_the_prediction(
    name: str, on: tuple[str, int], tokens: int, layers: int, slow: int
) -> None:
    cluster, profile = machine(*on)
    what_if = WhatIf({slow: 1.25} if slow and on[1] > 1 else {})
    model = small("llama-3-8b", layers)
    found = predict(model, cluster, scheme(name), Prompt(1, tokens), profile, what_if)
    path = found.timeline.critical_path()
    assert_chain(path, found.ttft_s)
    if slow and on[1] > 1:
        assert any(s.rank == slow for s in path)


@pytest.mark.parametrize("name", ["bf16", "flash-int4+iso"])
def test_names_add_up_to_the_breakdown(name: str) -> None:
    cluster, profile = machine("8xl40s-pcie", 4)
    found = predict(small("llama-3-8b", 20), cluster, scheme(name), Prompt(4, 500), profile)
    b, by_name = found.breakdown, found.timeline.by_name()
    exchanges = sum(s for kernel, s in by_name.items() if kernel.startswith(("all-reduce", "gather")))
    assert close(sum(by_name.values()) - exchanges, b.compute_s)
    assert close(exchanges, b.codec_s + b.communication_s)
    assert list(by_name.values()) == sorted(by_name.values(), reverse=True)
