"""Folding changes how a prediction is made, never what it says.

A folded run simulates a few repeats of identical layers and replays collectives; an unfolded one runs every layer and
every collective event by event. Both must give the same spans.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme, schemes
from thinwire.reference.core.architecture import ModelConfig
from thinwire.sim.events.fold import KEPT_REPEATS, find_runs, folds_of, kept_layers
from thinwire.sim.events.timeline import Span
from thinwire.sim.predict import WhatIf, predict
from thinwire.sim.report import Prediction
from thinwire.sim.shapes import Elementwise
from thinwire.sim.workload import Op, Prompt

from ..helpers import all_close, close, machine, small, with_window

MACHINES = (("8xh100-nvlink", 8), ("8xl40s-pcie", 4), ("8xmi300x-xgmi", 8))


PROMPT = Prompt(2, 300)


def both(
    model: ModelConfig,
    on: tuple[str, int | None],
    name: str,
    prompt: Prompt = PROMPT,
    slow_ranks: dict[int, float] | None = None,
) -> tuple[Prediction, Prediction]:
    """The folded and the unfolded prediction."""
    cluster, profile = machine(*on)
    what_if = WhatIf(slow_ranks or {})
    first, second = (
        predict(model, cluster, scheme(name), prompt, profile, what_if, folded) for folded in (True, False)
    )
    return first, second


def assert_equal(folded: Prediction, full: Prediction) -> None:
    assert full.timeline.folds == ()
    assert close(folded.ttft_s, full.ttft_s)
    a, b = folded.breakdown, full.breakdown
    assert all_close(
        (a.compute_s, a.codec_s, a.communication_s),
        (b.compute_s, b.codec_s, b.communication_s),
        relative=1e-8,  # the smaller terms are differences of the larger
    )
    assert abs(a.exposed_communication_s - b.exposed_communication_s) <= 1e-8 * full.ttft_s
    assert abs(a.waiting_s - b.waiting_s) <= 1e-8 * full.ttft_s
    assert folded.traffic == full.traffic
    by_name = [p.timeline.by_name() for p in (folded, full)]
    assert by_name[0].keys() == by_name[1].keys()
    assert all(close(by_name[0][name], by_name[1][name]) for name in by_name[0])
    unrolled, run = (sorted(p.timeline.spans(), key=_which) for p in (folded, full))
    assert [_which(span) for span in unrolled] == [_which(span) for span in run]
    for x, y in zip(unrolled, run, strict=True):
        times = ((s.start_s, s.end_s, s.codec_s, s.waited_s) for s in (x, y))
        assert all(abs(p - q) <= 1e-9 * full.ttft_s for p, q in zip(*times, strict=True))
        assert x.kernels == y.kernels


def _which(span: Span) -> tuple[int, int, str, str, int]:
    return span.rank, span.layer, span.stream, span.name, span.part


@pytest.mark.parametrize("on", MACHINES, ids=lambda on: on[0])
@pytest.mark.parametrize("name", tuple(schemes()))
def test_every_scheme_of_the_catalog(name: str, on: tuple[str, int]) -> None:
    folded, full = both(small("llama-3-8b", 12), on, name)
    assert folded.timeline.folds, "nothing was folded, so nothing was tested"
    assert_equal(folded, full)


@pytest.mark.parametrize("percent", [0, 4, 37, 50, 93, 100])
@pytest.mark.parametrize("base", ["", "flash-int4+"])
def test_dropped_sync_points(base: str, percent: int) -> None:
    assert_equal(*both(small("llama-3-8b", 14), ("8xl40s-pcie", 4), f"{base}spd-{percent}"))


@pytest.mark.parametrize("name", ["iso-30", "iso-int8", "flash-int4+spd-50+iso", "mxfp4+iso-81.5", "iso+spd-25"])
@pytest.mark.parametrize("tokens", [64, 5000])
def test_split_sequences(name: str, tokens: int) -> None:
    assert_equal(*both(small("llama-3-8b", 13), ("8xh100-nvlink", 8), name, Prompt(1, tokens)))


@pytest.mark.parametrize("name", ["bf16", "flash-int4", "iso", "flash-int4+spd-50", "spd-30", "none"])
@pytest.mark.parametrize("layers", [1, 9, 16])
def test_alternating_windows(name: str, layers: int) -> None:
    """Gemma 2: every other layer sees 4,096 tokens back, which longer prompts feel."""
    folded, full = both(small("gemma-2-27b", layers), ("8xb200-nvlink", 4), name, Prompt(1, 9000))
    assert_equal(folded, full)
    attention = {
        seconds for s in full.timeline.spans() for kernel, seconds in s.kernels if kernel == "attention" and s.rank == 0
    }
    assert len(attention) >= min(2, layers)


@pytest.mark.parametrize("name", ["bf16", "flash-int4", "iso-int8", "spd-50", "none", "quickreduce-int4+iso"])
@pytest.mark.parametrize("slow_ranks", [{0: 1.3}, {2: 1.7, 3: 0.6}, {3: 4.0}])
def test_stragglers(name: str, slow_ranks: dict[int, float]) -> None:
    assert_equal(*both(small("llama-3-8b", 11), ("8xl40s-pcie", 4), name, slow_ranks=slow_ranks))


@pytest.mark.parametrize(
    ("on", "name"),
    [
        (("8xl40s-pcie", None), "flash-int4"),
        (("8xl40s-pcie", None), "flash2-int4-hier"),
        (("2x8xh100-ib", None), "bf16"),
        (("8xrtx4090-pcie", None), "iso-int8"),
        (("8xa100-nvlink", 1), "bf16"),
        (("8xa100-nvlink", 2), "two_step:int4@chunk=100000x2+iso"),
        (("8xl40s-pcie", 8), "hierarchical:int4/int8@chunk=300000x3@fused"),
    ],
)
def test_contended_fabrics_several_nodes_and_a_single_gpu(on: tuple[str, int | None], name: str) -> None:
    assert_equal(*both(small("llama-2-70b", 7), on, name, Prompt(1, 200, "bf16")))


@given(
    st.integers(1, 12),
    st.floats(0, 100).map(lambda x: round(x, 1)),
    st.none() | st.floats(10, 90).map(lambda x: round(x, 1)),
    st.integers(60, 6000),
)
@settings(max_examples=25)
def test_any_mix(layers: int, drop: float, split: float | None, tokens: int) -> None:
    name = f"flash-int4+spd-{drop}" + ("" if split is None else f"+iso-{split}")
    assert_equal(*both(small("gemma-2-27b", layers), ("8xl40s-pcie", 2), name, Prompt(1, tokens)))


@pytest.mark.parametrize("name", ["bf16", "iso", "flash-int4+spd-40", "none"])
@pytest.mark.parametrize("layers", [3, 10, 80])
def test_unrolled_spans_cover_every_layer_once_on_every_rank(name: str, layers: int) -> None:
    cluster, profile = machine("8xh100-nvlink", 4)
    found = predict(small("llama-3-70b", layers), cluster, scheme(name), Prompt(1, 900), profile)
    spans = list(found.timeline.spans())
    keys = [(*_which(s),) for s in spans]
    assert len(set(keys)) == len(keys)
    for rank in range(4):
        compute = [s for s in spans if s.rank == rank and s.stream == "compute"]
        assert {s.layer for s in compute} == set(range(-1, layers + 1))
        for stream in ("compute", "communication"):
            mine = sorted((s for s in spans if s.rank == rank and s.stream == stream), key=lambda s: s.start_s)
            assert all(a.end_s <= b.start_s + 1e-9 * found.ttft_s for a, b in pairwise(mine))
            assert [s.layer for s in mine] == sorted(s.layer for s in mine)
        reduced = [s.layer for s in spans if s.rank == rank and s.name.startswith("all-reduce")]
        assert len(reduced) == found.traffic.all_reduce_count
        if name != "none":
            assert set(reduced) == set(range(layers))
    assert close(max(s.end_s for s in spans), found.ttft_s)
    assert min(s.start_s for s in spans) == 0


def test_a_prediction_of_a_real_model_simulates_few_of_its_layers() -> None:
    cluster, profile = machine("8xh100-nvlink", 8)
    found = predict(small("llama-3-70b", 80), cluster, scheme("flash-int4+spd-50"), Prompt(1, 1024), profile)
    simulated = {span.layer for span in found.timeline.simulated}
    assert len(simulated) == 2 * KEPT_REPEATS + 2
    assert sum(fold.copies for fold in found.timeline.folds) == 80 - 2 * KEPT_REPEATS


# --- finding runs ---

KINDS = tuple((Op(name, 0, (Elementwise(name, "copy", 1, 1),)),) for name in "abcd")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), max_size=8), st.booleans())
def test_runs_cover_all_layers_in_order(pieces: list[tuple[int, int]], alternate: bool) -> None:
    layers = [KINDS[(kind + (i if alternate else 0)) % len(KINDS)] for kind, length in pieces for i in range(length)]
    runs = find_runs(layers)
    unrolled: list[tuple[Op, ...]] = []
    simulated = 0
    for run in runs:
        at = len(unrolled)
        unrolled += layers[at : at + run.pattern] * run.repeats
        assert run.first == simulated
        assert 1 <= run.kept <= run.repeats
        assert run.kept == run.repeats or run.kept == KEPT_REPEATS
        simulated += run.pattern * run.kept
    assert [id(layer) for layer in unrolled] == [id(layer) for layer in layers]
    assert len(kept_layers(layers, runs)) == simulated


def test_long_repeats_are_found() -> None:
    a, b, c, d = KINDS
    for layers, expected in (
        ([a] * 20, [(1, 20)]),
        ([a, b] * 10, [(2, 10)]),
        ([a, b, c, d] * 5, [(4, 5)]),
        ([a] * 8 + [b] * 8, [(1, 8), (1, 8)]),
        ([a, b] * 6 + [c, d] * 6, [(2, 6), (2, 6)]),
        ([a, b, c], [(1, 1), (1, 1), (1, 1)]),
        ([], []),
    ):
        assert [(run.pattern, run.repeats) for run in find_runs(layers)] == expected


# --- when not to fold ---


def spans_ending(ends: list[tuple[float, ...]], streams: tuple[str, ...] = ("compute",)) -> list[Span]:
    """One span a layer and stream, on one rank."""
    return [
        Span(0, stream, "op", layer, 0, 0.0, end)  # type: ignore[arg-type]
        for layer, of_layer in enumerate(ends)
        for stream, end in zip(streams, of_layer, strict=True)
    ]


def test_a_steady_period_is_folded() -> None:
    (run,) = find_runs([KINDS[0]] * 10)
    (fold,) = folds_of([run], spans_ending([(5.0,), (6.0,), (8.0,), (10.0,)])) or ()
    assert (fold.layers, fold.copies, fold.period_s) == (range(3, 4), 6, 2.0)


def test_layers_that_take_no_time_are_steady() -> None:
    (run,) = find_runs([KINDS[0]] * 10)
    (fold,) = folds_of([run], spans_ending([(5.0, 5.0)] * 4, ("compute", "communication"))) or ()
    assert (fold.copies, fold.period_s) == (6, 0.0)


@pytest.mark.parametrize(
    "ends",
    [
        [(5.0, 5.0), (6.0, 6.0), (8.0, 8.0), (10.1, 10.1)],  # periods differ
        [(5.0, 5.0), (6.0, 6.0), (8.0, 8.1), (10.0, 10.2)],  # streams drift apart
    ],
)
def test_an_unsteady_run_is_not_folded(ends: list[tuple[float, ...]]) -> None:
    runs = find_runs([KINDS[0]] * 10)
    assert folds_of(runs, spans_ending(ends, ("compute", "communication"))) is None


@pytest.mark.parametrize("drift", [0.1, 0.01, 1e-3, 1e-4, 1e-5, 2e-6, 1e-13, 1e-14])
@pytest.mark.parametrize("sign", [1, -1])
def test_steady_is_steady_to_the_order_of_sums(drift: float, sign: int) -> None:
    """Of a thousand layers the last would be so many drifts late: no thousandth of a period is folded away."""
    late = 1 + sign * drift
    runs = find_runs([KINDS[0]] * 1004)
    drifting = spans_ending(
        [(5.0, 5.0), (6.0, 6.0), (7.0, 7.0), (7.0 + late, 7.0 + late)], ("compute", "communication")
    )
    apart = spans_ending([(5.0, 5.0), (6.0, 6.0), (7.0, 7.0), (8.0, 7.0 + late)], ("compute", "communication"))
    for spans in (drifting, apart):
        folds = folds_of(runs, spans)
        if 1000 * drift > 1e-3:
            assert folds is None
        else:  # an ulp or so of 8
            assert folds is not None and folds[0].copies == 1000


def test_ranks_that_drift_apart_are_run_in_full() -> None:
    """Without all-reduces nobody waits for a straggler before the logits are gathered."""
    folded, full = both(small("llama-3-8b", 12), ("8xl40s-pcie", 4), "none", slow_ranks={1: 2.0})
    assert folded.timeline.folds == ()
    assert_equal(folded, full)


def test_posted_transfers_are_not_folded() -> None:
    """What is still on its way when a layer ends is not seen in the layer's ends."""
    cluster, profile = machine("8xl40s-pcie", 4)
    sockets = replace(
        profile.fabric, protocols=tuple(replace(p, posted=p.primitive != "nvls") for p in profile.fabric.protocols)
    )
    model, prompt = small("llama-3-8b", 12), Prompt(1, 1024)
    posted, meeting = (
        predict(model, cluster, scheme("flash-int4"), prompt, replace(profile, fabric=fabric))
        for fabric in (sockets, profile.fabric)
    )
    assert posted.timeline.folds == () and meeting.timeline.folds
    assert close(posted.ttft_s, meeting.ttft_s), "equal ranks and links: nobody is early"


def test_layers_that_differ_are_not_folded() -> None:
    cluster, profile = machine("8xl40s-pcie", 4)
    model = with_window(small("gemma-2-27b", 6), 100)
    found = predict(model, cluster, scheme("bf16"), Prompt(1, 500), profile)
    assert found.timeline.folds == ()  # three repeats of two layers: too few to prove a steady state
