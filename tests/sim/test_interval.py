"""Intervals of predictions: closed forms, what they hold on made-up data, and that shipped profiles can give them."""

import json
from dataclasses import replace
from math import exp, hypot, log, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme
from thinwire.sim import api
from thinwire.sim.costs.cost import CODEC_SPREADS, CostModel
from thinwire.sim.costs.profile import Profile, Quantity, fabric_profile, fabric_profile_dict, gpu_profile
from thinwire.sim.costs.shipped import PROFILES
from thinwire.sim.costs.spread import ANOTHER_HOST, CONFIDENCE, UNKNOWN, Spread, find, sum_interval
from thinwire.sim.events.timeline import Carried, Fold, Span, Timeline
from thinwire.sim.interval import Term, interval_of, interval_of_exchange, kernel_spread, kernels_of, whole_spread
from thinwire.sim.predict import WhatIf, predict
from thinwire.sim.question import Question
from thinwire.sim.report import NOTABLE, Prediction, host_sentence
from thinwire.sim.shapes import Attend, DecodeAttend, Elementwise, Gemm, RoutedExperts
from thinwire.sim.workload import Prompt, build

from .helpers import CATALOG, close, machine, made_up, small, switched

PROMPT = Prompt(1, 512)
NAMES = ("bf16", "flash-int4", "iso-int8", "flash-int4+spd-50", "none")


def spread(part: str, low: float, high: float, bias: float = 0.0, up_to: float | None = None) -> Spread:
    return Spread(part, up_to, low, bias, high, 100, "measured: made up")


def symmetric(part: str, relative: float) -> Spread:
    """Low and high the same distance from the prediction."""
    return spread(part, log(1 - relative), log(1 + relative))


GPU_PARTS = ("gemm bf16", "gemm fp8", "attention", "elementwise", "gap", "codec", "codec fused", "prefill")


def told(**low_high: tuple[float, float]) -> Profile:
    """The made-up profile, exact but for the parts given (gemm_bf16=..., lib=...)."""
    bare = made_up()
    given_ = {name.replace("_", " "): pair for name, pair in low_high.items()}
    gpu = tuple(spread(part, *given_.get(part, (0.0, 0.0))) for part in GPU_PARTS)
    fabric = tuple(spread(part, *given_.get(part, (0.0, 0.0))) for part in ("lib", "stand-in"))
    return Profile(replace(bare.gpu, spreads=gpu), replace(bare.fabric, spreads=fabric))


def predicted(name: str, profile: Profile, layers: int = 6, prompt: Prompt = PROMPT, folded: bool = True) -> Prediction:
    return predict(small("llama-3-8b", layers), switched(8), scheme(name), prompt, profile, folded=folded)


# --- sums ---


@given(st.floats(1e-6, 10), st.floats(-1, 0), st.floats(0, 1), st.floats(0, 1))
def test_one_part_alone_has_its_own_quantiles(seconds: float, low: float, high: float, where: float) -> None:
    """A biased part too, as long as no error lies between its quantiles."""
    own = spread("a", low, high, low + where * (high - low))
    found = sum_interval(seconds, [(seconds, own)])
    assert found == pytest.approx((seconds * exp(low), seconds * exp(high)))


def test_equal_parts_follow_the_square_root() -> None:
    """Two equal halves: the distance of one half times sqrt(2)."""
    low, high = sum_interval(2.0, [(1.0, symmetric(kind, 0.1)) for kind in "ab"])
    assert (2 - low, high - 2) == pytest.approx((0.1 * sqrt(2), 0.1 * sqrt(2)))


def test_no_spread_is_no_width_and_biases_add() -> None:
    assert sum_interval(3.0, [(1.0, spread("a", 0, 0)), (2.0, spread("b", 0, 0))]) == (3.0, 3.0)
    assert sum_interval(3.0, []) == (3.0, 3.0)
    biased = spread("a", 0.0, 0.2, 0.2)
    assert sum_interval(2.0, [(1.0, biased), (1.0, replace(biased, part="b"))])[1] == pytest.approx(2 * exp(0.2))
    assert sum_interval(2.0, [(2.0, biased)])[0] == pytest.approx(2.0), "the prediction always lies inside"


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from("ab"), st.floats(-0.5, 0), st.floats(0, 0.5)), max_size=6))
def test_wider_parts_make_a_wider_sum(parts: list[tuple[float, str, float, float]]) -> None:
    total = sum(seconds for seconds, *_ in parts)
    narrow = sum_interval(total, [(s, spread(part, low, high)) for s, part, low, high in parts])
    wide = sum_interval(total, [(s, spread(part, 1.5 * low, 1.5 * high)) for s, part, low, high in parts])
    assert wide[0] <= narrow[0] <= total <= narrow[1] <= wide[1]
    assert narrow[0] >= sum(s * exp(low) for s, _, low, _ in parts) * (1 - 1e-12)
    assert narrow[1] <= sum(s * exp(high) for s, _, _, high in parts) * (1 + 1e-12)


@pytest.mark.parametrize("bias", [0.0, 0.03])
def test_a_sum_drawn_from_the_model_lies_inside_nine_times_in_ten(bias: float) -> None:
    """Log-normal ops: of 20,000 draws three standard errors are 0.6 %; asymmetry costs half as much again."""
    rng, draws = np.random.default_rng(1), 20_000
    seconds, sigma = np.array([4.0, 2.0, 1.0, 3.0]), np.array([0.05, 0.04, 0.1, 0.08])
    totals = (seconds * np.exp(bias + sigma * rng.standard_normal((draws, 4)))).sum(axis=1)
    terms = [
        (float(t), spread("a", bias - 1.645 * s, bias + 1.645 * s, bias)) for t, s in zip(seconds, sigma, strict=True)
    ]
    low, high = sum_interval(float(seconds.sum()), terms)
    inside = float(((totals >= low) & (totals <= high)).mean())
    assert inside == pytest.approx(CONFIDENCE, abs=0.01)


def test_a_prediction_drawn_from_its_own_spreads_lies_inside_nine_times_in_ten() -> None:
    """The same through a timeline: kinds of op drawn once each, alike in every layer, on top of the whole prefill."""
    sigma = {"attention": 0.2, "elementwise": 0.1, "codec": 0.3, "lib": 0.1, "prefill": 0.05}
    found = predicted("flash-int4", told(**{part: (-1.645 * s, 1.645 * s) for part, s in sigma.items()}))
    rng, draws = np.random.default_rng(2), 20_000
    drawn = np.full(draws, found.ttft_s)
    for term in found.interval.terms:
        own = sigma.get(term.spread.part, 0.0) if term.spread else 0.0
        drawn += term.seconds * np.expm1(own * rng.standard_normal(draws))
    drawn += found.interval.compute_s * np.expm1(sigma["prefill"] * rng.standard_normal(draws))
    inside = (drawn >= found.interval.low_s) & (drawn <= found.interval.high_s)
    assert float(inside.mean()) == pytest.approx(CONFIDENCE, abs=0.01)


# --- spreads ---


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ((0.1, 0.0, 0.2), "in order"),
        ((-0.2, 0.3, 0.2), "in order"),
        ((-0.2, 0.0, float("inf")), "must lie in"),
        ((0.1, 0.15, 0.2), "no error at all"),
    ],
)
def test_a_spread_that_is_none_is_refused(given_: tuple[float, float, float], said: str) -> None:
    low, bias, high = given_
    with pytest.raises(ValueError, match=f"spread of x: .*{said}"):
        Spread("x", None, low, bias, high, 3, "measured: made up")


def test_a_spread_says_how_it_is_known() -> None:
    with pytest.raises(ValueError, match="a source starts with"):
        Spread("x", None, 0, 0, 0, 3, "guessed")
    with pytest.raises(ValueError, match="up_to must be positive"):
        spread("x", -1, 1, up_to=0)


def test_the_smallest_regime_that_holds_a_size_is_found() -> None:
    known = (spread("a", -3, 3), spread("a", -1, 1, up_to=10), spread("a", -2, 2, up_to=100), spread("b", -4, 4))
    assert [find(known, size, "a").high for size in (1, 10, 11, 100, 101)] == [1, 1, 2, 2, 3]
    assert find(known[1:3], 1000, "a").high == 2, "beyond all, the largest"
    assert find(known, 5, "c", "b").high == 4
    assert find(known, 5, "c") is UNKNOWN and UNKNOWN.is_assumed


# --- along the timeline ---


def test_one_spread_part_gives_a_prediction_its_quantiles() -> None:
    """Compute alone is uncertain: without exchanges the TTFT's interval is the prefill's spread, to the bit."""
    found = predicted("none", told(prefill=(-0.1, 0.2)))
    gathered_s = found.breakdown.exposed_communication_s
    compute_s = found.ttft_s - gathered_s
    assert found.interval.low_s == pytest.approx(gathered_s + compute_s * exp(-0.1))
    assert found.interval.high_s == pytest.approx(gathered_s + compute_s * exp(0.2))


def test_exchanges_spread_the_time_they_are_waited_for() -> None:
    found = predicted("bf16-ring", told(lib=(-0.1, 0.2)))
    exchanged_s = found.breakdown.exposed_communication_s
    assert found.interval.low_s == pytest.approx(found.ttft_s - exchanged_s * (1 - exp(-0.1)))
    assert found.interval.high_s == pytest.approx(found.ttft_s + exchanged_s * (exp(0.2) - 1))


def test_codec_kernels_spread_by_themselves() -> None:
    found = predicted("flash-int4", told(codec=(-0.3, 0.5)))
    assert found.interval.high_s == pytest.approx(found.ttft_s + found.breakdown.codec_s * (exp(0.5) - 1))


def test_fused_codec_kernels_have_a_spread_of_their_own() -> None:
    """Where a profile has one; what is launched on its own does not take it."""
    both = told(codec=(-0.3, 0.5), codec_fused=(-0.2, 0.9))
    fused, apart = predicted("quickreduce-int4", both), predicted("flash-int4", both)
    assert fused.interval.high_s == pytest.approx(fused.ttft_s + fused.breakdown.codec_s * (exp(0.9) - 1))
    assert apart.interval.high_s == pytest.approx(apart.ttft_s + apart.breakdown.codec_s * (exp(0.5) - 1))
    one = replace(both, gpu=replace(both.gpu, spreads=tuple(s for s in both.gpu.spreads if s.part != "codec fused")))
    fused = predicted("quickreduce-int4", one)
    assert fused.interval.high_s == pytest.approx(fused.ttft_s + fused.breakdown.codec_s * (exp(0.5) - 1))


def test_gaps_are_counted_once_a_kernel() -> None:
    found = predicted("none", told(gap=(-0.3, 0.5)), layers=6)
    kernels = sum(len(span.kernels) for span in found.timeline.spans() if span.rank == 0)
    assert kernels == 1 + 6 * 9 + 2  # embedding; a layer's norms, products, rope, attention, activation; norm and head
    gaps_s = kernels * made_up().gpu.kernel_gap_s.value
    assert found.interval.high_s == pytest.approx(found.ttft_s + gaps_s * (exp(0.5) - 1))


@pytest.mark.parametrize("name", NAMES)
def test_an_exact_profile_gives_an_interval_of_no_width(name: str) -> None:
    found = predicted(name, told())
    assert (found.interval.low_s, found.interval.high_s) == pytest.approx((found.ttft_s, found.ttft_s))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("on", [("8xh100-nvlink", 8), ("8xl40s-pcie", 4), ("8xmi300x-xgmi", 8)])
def test_terms_add_up_to_the_ttft(name: str, on: tuple[str, int]) -> None:
    cluster, profile = machine(*on)
    found = predict(small("llama-3-70b", 12), cluster, scheme(name), Prompt(1, 2048), profile)
    parts = found.interval
    assert close(sum(term.seconds for term in parts.terms), found.ttft_s)
    assert parts.low_s < found.ttft_s < parts.high_s
    assert close(parts.compute_s, found.breakdown.compute_s) == (scheme(name).sequence_split is None)


@pytest.mark.parametrize("name", NAMES)
def test_folded_and_unfolded_give_the_same_interval(name: str) -> None:
    """With overlap the folded path takes a short run's ends for the whole's: a few per mille of the width."""
    profile = machine("8xl40s-pcie", 4)[1]
    cluster, tolerance = machine("8xl40s-pcie", 4)[0], 0.02 if "iso" in name else 1e-9
    model = small("llama-3-8b", 24)
    folded, full = (
        predict(model, cluster, scheme(name), Prompt(1, 2048), profile, folded=fold).interval for fold in (True, False)
    )
    assert folded.low_s == pytest.approx(full.low_s, rel=tolerance)
    assert folded.high_s == pytest.approx(full.high_s, rel=tolerance)


def test_hidden_exchanges_do_not_spread_the_end() -> None:
    """One rank, two streams: 10 s of compute hide 4 s of an exchange. Only what is on the critical path counts."""
    kernel = (("norm", 10.0),)
    spans = (
        Span(0, "compute", "block", 0, 0, 0.0, 10.0, kernels=kernel),
        Span(0, "communication", "all-reduce", 0, 1, 1.0, 5.0, 1.0, carried=Carried("lib", 1e6)),
        Span(0, "communication", "all-reduce", 1, 0, 10.0, 12.0, carried=Carried("lib", 1e6)),
    )
    profile = told(lib=(-0.1, 0.1))
    cost = CostModel(profile, switched(8).gpu)
    kernels = {(0, "norm"): Elementwise("norm", "add_rms_norm", 8, 8)}
    found = interval_of(Timeline(spans, (), 12.0), kernels, cost)
    assert found.high_s == pytest.approx(12 + 2 * (exp(0.1) - 1)) and found.compute_s == 10


def test_folds_weigh_what_they_repeat() -> None:
    """A second layer repeated three times: four times its exchange."""
    spans = tuple(
        span
        for layer in (0, 1)
        for span in (
            Span(0, "compute", "block", layer, 0, 3.0 * layer, 3.0 * layer + 2, kernels=(("norm", 2.0),)),
            Span(0, "communication", "x", layer, 0, 3.0 * layer + 2, 3.0 * layer + 3, carried=Carried("lib", 1.0)),
        )
    )
    timeline = Timeline(spans, (Fold(range(1, 2), 3, 3.0),), 6 + 9.0)
    cost = CostModel(told(lib=(-0.1, 0.1)), switched(8).gpu)
    found = interval_of(timeline, {(0, "norm"): Elementwise("norm", "add_rms_norm", 8, 8)}, cost)
    assert found.high_s == pytest.approx(15 + 5 * (exp(0.1) - 1)) and found.compute_s == 10


def test_a_straggler_is_on_the_path() -> None:
    """What a slow rank computes while the others wait counts as compute."""
    cluster, profile = switched(8), told(prefill=(-0.1, 0.1))
    found = predict(small("llama-3-8b", 4), cluster, scheme("bf16-ring"), PROMPT, profile, WhatIf({3: 2.0}))
    even = predict(small("llama-3-8b", 4), cluster, scheme("bf16-ring"), PROMPT, profile)
    assert found.interval.compute_s == pytest.approx(2 * even.interval.compute_s)


# --- another host of the kind ---


def elsewhere(profile: Profile, fabric: float, gpu: float = 0.0) -> Profile:
    """The profile as of another host than the user's: exchanges and compute of that differ so much."""
    parts = [[spread(ANOTHER_HOST, -width, width)] if width else [] for width in (fabric, gpu)]
    return Profile(
        replace(profile.gpu, spreads=(*profile.gpu.spreads, *parts[1])),
        replace(profile.fabric, spreads=(*profile.fabric.spreads, *parts[0])),
    )


def test_another_host_spreads_exchanges_once_more() -> None:
    """In squares beside what their library is off by; a profile of the user's own host has no such part."""
    own = predicted("bf16-ring", told(lib=(-0.1, 0.1)))
    found = predicted("bf16-ring", elsewhere(told(lib=(-0.1, 0.1)), 0.3))
    exchanged_s = found.breakdown.exposed_communication_s
    assert found.ttft_s == own.ttft_s and own.interval.others == () and own.interval.another_host_share == 0.0
    assert found.interval.high_s - found.ttft_s == pytest.approx(exchanged_s * hypot(exp(0.1) - 1, exp(0.3) - 1))
    assert found.ttft_s - found.interval.low_s == pytest.approx(exchanged_s * hypot(1 - exp(-0.1), 1 - exp(-0.3)))
    assert (found.interval.own_low_s, found.interval.own_high_s) == (own.interval.low_s, own.interval.high_s)
    other, same = (exp(width) - exp(-width) for width in (0.3, 0.1))
    assert found.interval.another_host_share == pytest.approx(other**2 / (other**2 + same**2))


def test_another_host_spreads_compute_once_more() -> None:
    found = predicted("none", elsewhere(told(), 0.0, 0.2))
    assert found.interval.high_s == pytest.approx(found.ttft_s + found.interval.compute_s * (exp(0.2) - 1))
    assert found.interval.another_host_share == 1.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("on", [("8xh100-nvlink", 8), ("8xl40s-pcie", 4), ("8xmi300x-xgmi", 8), ("8xmi300x-xgmi", 2)])
def test_the_part_between_hosts_only_widens(name: str, on: tuple[str, int]) -> None:
    """And what is left without it is what a profile of one's own would say."""
    cluster, profile = machine(*on)
    bare = Profile(
        *(replace(half, spreads=tuple(s for s in half.spreads if s.part != ANOTHER_HOST)) for half in
          (profile.gpu, profile.fabric))
    )  # fmt: skip
    model = small("llama-3-70b", 4)
    wide, own = (predict(model, cluster, scheme(name), PROMPT, p) for p in (profile, bare))
    assert wide.ttft_s == own.ttft_s
    assert wide.interval.low_s < own.interval.low_s <= own.ttft_s <= own.interval.high_s < wide.interval.high_s
    assert (wide.interval.own_low_s, wide.interval.own_high_s) == (own.interval.low_s, own.interval.high_s)
    assert 0 < wide.interval.another_host_share < 1 and own.interval.another_host_share == 0


def test_an_exchange_alone_has_the_interval_of_its_terms() -> None:
    carried = Carried("lib", 1e6)
    profile = elsewhere(told(lib=(-0.1, 0.2), codec=(-0.3, 0.5)), 0.4)
    found = interval_of_exchange(3.0, 1.0, carried, CostModel(profile, switched(8).gpu))
    high_s = hypot(exp(0.5) - 1, 2 * (exp(0.2) - 1), 2 * (exp(0.4) - 1))
    assert found.high_s == pytest.approx(3 + high_s)
    assert interval_of_exchange(0.0, 0.0, None, CostModel(profile, switched(8).gpu)).high_s == 0.0


def test_how_much_is_another_host_is_said_where_it_counts() -> None:
    assert host_sentence(NOTABLE - 1e-9, ("exchanges",)) is None
    said = host_sentence(0.345, ("exchanges",))
    assert said is not None and said.startswith("a log of your own (thinwire calibrate --logs) would take away")
    kernels = host_sentence(0.345, ("kernels",))
    assert kernels is not None and "--logs" not in kernels and "calibrate --from" in kernels


def test_a_carrier_timed_on_the_users_host_has_no_part_of_others() -> None:
    """What `calibrate --logs` writes: its library is the user's own, an engine's kernels stay another host's."""
    plain = elsewhere(told(lib=(-0.1, 0.2), stand_in=(-0.1, 0.2)), 0.4)
    own = replace(plain, fabric=replace(plain.fabric, own=("lib",)))
    for carrier, other in (("lib", False), ("stand-in", True)):
        carried = Carried(carrier, 2.0**20)
        shipped, logged = (interval_of_exchange(3.0, 0.0, carried, CostModel(p, switched(8).gpu)) for p in (plain, own))
        assert shipped.another_host_share > 0.3 and shipped.measurable == {"exchanges"}
        assert (logged.another_host_share > 0) == other and bool(logged.measurable) == other
        assert logged.high_s == pytest.approx(shipped.high_s if other else shipped.own_high_s)
    assert fabric_profile(fabric_profile_dict(own.fabric)).own == ("lib",)
    plain, own = (predicted("bf16", p).assumptions[-1] for p in (elsewhere(told(), 0.3), told()))
    assert "hosts of the kind differ" in plain and "another of the kind may lie outside" in own


# --- which spread is whose ---


def test_kernels_take_the_spread_of_their_kind_and_size() -> None:
    profile = made_up()
    parts = (("gemm bf16", 512), ("gemm bf16", None), ("gemm fp8", None), ("attention", 512), ("attention", None))
    known = (*(spread(part, -1, 1, up_to=up_to) for part, up_to in parts), spread("elementwise", -1, 1, up_to=1e6))
    cost = CostModel(Profile(replace(profile.gpu, spreads=known), profile.fabric), switched(8).gpu)

    def of(kernel: Gemm | Attend | Elementwise) -> tuple[str, float | None]:
        found = kernel_spread(kernel, cost)
        assert found is not None
        return found.part, found.up_to

    assert of(Gemm("g", 64, 64, 64, "bf16")) == ("gemm bf16", 512)
    assert of(Gemm("g", 1024, 64, 64, "bf16")) == ("gemm bf16", None)
    assert of(Gemm("g", 64, 64, 64, "fp8")) == ("gemm fp8", None)
    assert of(Attend("a", 1, 64, 2048, 8, 8, 128, None)) == ("attention", None)
    assert of(Elementwise("n", "add_rms_norm", 8, 8)) == ("elementwise", 1e6)


def test_a_product_at_the_sustained_rate_is_off_by_the_prefill_alone() -> None:
    cost = CostModel(told(gemm_bf16=(-0.1, 0.1)), switched(8).gpu)
    long = Gemm("g", 8192, 8192, 8192, "bf16")
    assert cost.is_sustained(long) and kernel_spread(long, cost) is None
    ceiling = {"bf16": Quantity(1e18, "assumed: none"), "fp8": Quantity(1e18, "assumed: none")}
    free = replace(cost, profile=replace(cost.profile, gpu=replace(cost.profile.gpu, sustained_flops_per_s=ceiling)))
    assert kernel_spread(long, free) == find(free.profile.gpu.spreads, 8192, "gemm bf16")


def test_what_nobody_timed_is_a_stand_in() -> None:
    """NCCL's own on H200 is measured; on L40S, where its all-to-all was not timed, the ring stands in."""
    for on, carriers in ((("8xh200-nvlink", 4), {"nccl", "engine-graph"}), (("8xl40s-pcie", 4), {"stand-in"})):
        cluster, profile = machine(*on)
        found = predict(small("llama-3-8b", 4), cluster, scheme("flash-int4"), PROMPT, profile)
        seen = {span.carried.carrier for span in found.timeline.simulated if span.carried}
        assert carriers <= seen | {"engine-graph"} and ("stand-in" in seen) == ("stand-in" in carriers)


def test_an_exchange_is_as_large_as_its_bytes() -> None:
    found = predicted("flash-int4", told())
    values = PROMPT.input_tokens * 4096
    sizes = {s.carried.nbytes for s in found.timeline.simulated if s.carried and s.name.startswith("all-reduce")}
    assert sizes == {values * scheme("flash-int4").reduce.bits_per_value / 8}


def test_every_kernel_of_a_workload_is_known_by_part_and_name() -> None:
    model = small("gemma-2-27b", 4)
    found = kernels_of(build(model, scheme("iso"), Prompt(1, 5000), 4))
    assert {part for part, _ in found} == {0, 1}
    assert {"qkv", "attention", "post norm", "gate_up"} <= {name for _, name in found}


# --- what people and programs see ---


def test_documents_have_the_interval() -> None:
    found = predicted("flash-int4", told(prefill=(-0.1, 0.2)))
    document = json.loads(json.dumps(found.to_dict()))
    low_ms, high_ms = document["ttft_ms_interval"]
    assert low_ms < document["ttft_ms"] < high_ms and document["interval_confidence"] == CONFIDENCE
    assert (low_ms, high_ms) == pytest.approx((found.interval.low_s * 1e3, found.interval.high_s * 1e3))
    assert any("the interval (90%) is of" in said for said in document["assumptions"])


def test_an_assumed_spread_is_said() -> None:
    cluster, profile = machine("8xh100-nvlink", 8)
    plain, coded = (
        predict(small("llama-3-8b", 4), cluster, scheme(name), PROMPT, profile).assumptions[-1]
        for name in ("bf16", "flash-int4")
    )
    assert "assumed" not in plain and coded.endswith("how far off codec may be")
    other = predict(small("llama-3-8b", 4), *(machine("8xh200-nvlink", 8)[0],), scheme("bf16"), PROMPT,
                    machine("8xh200-nvlink", 8)[1]).assumptions[-1]  # fmt: skip
    assert other.endswith("how far off elementwise, gap, prefill may be")


def test_a_profile_without_spreads_gives_wide_intervals() -> None:
    found = predicted("none", made_up())
    assert found.interval.prefill is UNKNOWN
    assert found.interval.high_s > found.ttft_s * 1.25 and found.interval.low_s < found.ttft_s * 0.8


def test_terms_are_plain_values() -> None:
    found = predicted("none", told())
    assert all(isinstance(term, Term) and term.seconds > 0 for term in found.interval.terms)


@pytest.mark.parametrize("name", sorted(path.name for path in PROFILES.glob("gpu-*.json")))
def test_every_shipped_gpu_carries_its_spreads(name: str) -> None:
    profile = gpu_profile(json.loads((PROFILES / name).read_text("utf-8")))
    parts = {s.part for s in profile.spreads}
    kernels = {*(f"gemm {p}" for p in profile.gemm), "attention", "decode attention", "elementwise"}
    fused = set() if profile.name == "mi300x" else {"codec fused"}  # its only codec kernels that are known are fused
    assert parts == {*kernels, "gap", "codec", "prefill", ANOTHER_HOST, *fused}
    for part in parts:
        assert find(profile.spreads, 1e15, part).up_to is None, f"{part} has no spread for the largest"
    assert all(s.low < s.high and s.rows > 0 for s in profile.spreads)
    assert all(s.bias == 0 for s in profile.spreads if s.is_assumed)
    assert find(profile.spreads, 0, "codec").is_assumed == (profile.name not in ("mi300x", "h200-sxm"))
    assert find(profile.spreads, 0, "prefill").is_assumed == (profile.name not in ("h100-sxm", "a100-sxm"))


@pytest.mark.parametrize("name", sorted(path.name for path in PROFILES.glob("fabric-*.json")))
def test_every_shipped_fabric_carries_its_spreads(name: str) -> None:
    profile = fabric_profile(json.loads((PROFILES / name).read_text("utf-8")))
    few = {"fabric-rtx-pro-6000-pcie.json": {"pcie-ipc"}, "fabric-rtx5070ti-pcie.json": {"nccl"}}  # none to leave out
    timed = {p.library for p in profile.protocols if p.source.startswith("measured")} - few.get(name, set())
    assert {s.part for s in profile.spreads} == timed | {"stand-in", ANOTHER_HOST}
    for part in (*timed, "stand-in", ANOTHER_HOST):
        assert find(profile.spreads, 1e15, part).up_to is None
    assert find(profile.spreads, 1e8, "stand-in").is_assumed


def test_assumed_spreads_are_wider_than_measured_ones() -> None:
    """A stand-in is never surer than the measurement it replaces: whole prefills, codec kernels, exchanges."""
    names = ("h100-sxm", "h200-sxm", "mi300x")
    gpus = {n: gpu_profile(json.loads((PROFILES / f"gpu-{n}.json").read_text("utf-8"))) for n in names}
    for parts, measured, assumed in (
        (("prefill",), "h100-sxm", "mi300x"), (("codec",), "h200-sxm", "h100-sxm"),
        (CODEC_SPREADS[True], "mi300x", "h100-sxm"),
    ):  # fmt: skip
        sure, unsure = (find(gpus[name].spreads, 0, *parts) for name in (measured, assumed))
        assert unsure.low <= sure.low and unsure.high > sure.high
    for size in (64, 1024, 8192):
        sure, unsure = (find(gpus[name].spreads, size, "gemm bf16") for name in ("h100-sxm", "mi300x"))
        assert unsure.high - unsure.low > sure.high - sure.low


@pytest.mark.parametrize("name", CATALOG)
def test_every_machine_gives_an_interval(name: str) -> None:
    cluster, profile = machine(name)
    found = predict(small("llama-3-70b", 8) if name == "8xmi300x-xgmi" else small("llama-3-8b", 8), cluster,
                    scheme("bf16"), PROMPT, profile).interval  # fmt: skip
    widest = 15 if "ib" in name else 3  # three clusters' networks, seen up to 16 MiB, are a factor of ten apart
    assert 0.02 < (found.high_s - found.low_s) / found.low_s < widest
    assert all(term.spread is not UNKNOWN for term in found.terms) and found.prefill is not UNKNOWN


def test_whole_prefills_of_mixtures_are_spread_by_those_served() -> None:
    """By rows of a rank's products, steps of decoding apart; nothing moves the number."""

    def spread_of(batch: int, **more: Any) -> Spread:
        asked = api.predict(model="qwen3-30b-a3b", cluster="8xh200-nvlink", scheme="bf16", batch=batch, **more)
        assert asked.interval.low_s <= asked.ttft_s <= asked.interval.high_s
        return asked.interval.prefill

    short, long, own = spread_of(1), spread_of(16), spread_of(16, attention="dp")
    assert (short.part, short.up_to, long.up_to) == ("prefill", 8192, None)
    assert own == short and short.high > long.high > 0 and "as served" in long.source
    dense = api.predict(model="qwen3-32b", cluster="8xh200-nvlink", scheme="bf16", batch=16).interval.prefill
    assert dense.high < long.high and "as served" not in dense.source


def test_steps_of_mixtures_are_spread_apart() -> None:
    """Decoding as served is off otherwise than prompts, whatever its rows."""
    found = api.place(Question(model="qwen3-30b-a3b", cluster="8xh200-nvlink", scheme="bf16"))
    cost = CostModel(found.profile, found.cluster.gpu, "graph")
    experts = RoutedExperts("experts", 64, 32, 128, 2048, 96, True, "bf16")
    rows = Gemm("qkv", 100_000, 1024, 2048, "bf16")
    decode = DecodeAttend("attention", 8, 8 * 4096, 4, 1, 128, None)
    step, prompt = (
        whole_spread(dict(enumerate(kernels)), cost)  # type: ignore[arg-type]
        for kernels in ((experts, rows, decode), (experts, rows))
    )
    assert (step.part, prompt.part, prompt.up_to) == ("step", "prefill", None)
