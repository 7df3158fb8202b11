"""The decode attention cost model: closed forms, what grows with what, pieces, and what may not change.

What serving and planning rest on, for every shipped profile (docs/decisions/004 and 015):
- a call of given sequences is piecewise linear in the sum of their contexts, and `piece` says how far;
- more context never takes less, nor do more sequences of the same mean context, nor more heads;
- `least_s` and `least_token_s` are below every call with as many sequences or more.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.sim.costs.decode_attention import SHARE_NODES, DecodeAttentionModel
from thinwire.sim.costs.profile import gpu_profile
from thinwire.sim.costs.shipped import PROFILES

from ..helpers import IDEAL_DECODING as IDEAL

SHAPES = ((4, 1), (4, 4), (8, 1), (8, 2), (8, 8), (16, 2), (32, 8), (64, 8), (40, 40))
PHYSICAL = replace(
    IDEAL, regroup_s=2e-6, split_s=3e-6, unit_s=4e-6, overlap=0.6, unit_bytes_per_s=4e11, whole_unit_bytes_per_s=3e10
)
GPUS = sorted(path.stem.removeprefix("gpu-") for path in PROFILES.glob("gpu-*.json"))

sequences = st.integers(1, 3000)
tokens = st.integers(1, 50_000)
shape = st.sampled_from(SHAPES)
gpu = st.sampled_from(["physical", *GPUS])


@cache
def shipped(name: str) -> DecodeAttentionModel:
    if name == "physical":
        return PHYSICAL
    return gpu_profile(json.loads((PROFILES / f"gpu-{name}.json").read_text("utf-8"))).decode_attention


def test_reading_is_the_closed_form() -> None:
    """Floor, and keys and values over half the bandwidth; the new token's are written as well."""
    expected = 1e-5 + 2 * 2 * 8 * 128 * (64 * 1000 + 64) / 0.5e12
    assert IDEAL.time_s(64, 64 * 1000, 32, 8, 128) == pytest.approx(expected, rel=1e-12)
    assert IDEAL.time_s(64, 64 * 1000, 32, 8, 64) - 1e-5 == pytest.approx((expected - 1e-5) / 2, rel=1e-12)


def test_every_term_is_the_closed_form() -> None:
    """By hand: 6 sequences of 2 key-value heads; short contexts hide behind the units, long ones do not."""
    units, work_s = 12, 12 * 4e-6 / 100
    fixed_s = 1e-5 + 2e-6 + 0.4 * work_s
    assert PHYSICAL.time_s(6, 6, 16, 2, 128) == pytest.approx(fixed_s + 3e-6 * 1 / 256 + 0.6 * work_s)
    read_s = 2 * 2 * 2 * 128 * (6 * 5000 + 6) / 0.5e12
    assert PHYSICAL.time_s(6, 6 * 5000, 16, 2, 128) == pytest.approx(fixed_s + 3e-6 + read_s)
    alone_s = 2 * 2 * 2 * 128 * (6 * 5000 + 6) / (units * 3e10)
    assert PHYSICAL.time_s(6, 6 * 5000, 2, 2, 128) == pytest.approx(1e-5 + 0.4 * work_s + 3e-6 + alone_s)
    one_s = 2 * 2 * 128 * 5001 / 4e11
    assert PHYSICAL.time_s(1, 5000, 8, 1, 128) == pytest.approx(1e-5 + 0.4 * 4e-8 + 3e-6 + one_s)


def test_the_least_of_a_call_is_what_is_paid_before_any_context() -> None:
    """Floor, regrouping, what does not hide, and writing each sequence's new token; a token more is read at the best
    share there is.
    """
    call = PHYSICAL.call(6, 16, 2, 128)
    token_s = 2 * 2 * 2 * 128 / 0.5e12
    assert call.least_s == pytest.approx(1e-5 + 2e-6 + 0.4 * 12 * 4e-6 / 100 + 6 * token_s, rel=1e-12)
    assert PHYSICAL.least_token_s(2, 128) == pytest.approx(token_s, rel=1e-12)
    best = replace(IDEAL, shares=(0.2, 0.4, *[0.8] * (SHARE_NODES - 2)))
    assert best.least_token_s(8, 64) == pytest.approx(2 * 2 * 8 * 64 / 0.8e12, rel=1e-12)


def test_shares_lie_between_their_nodes() -> None:
    model = replace(IDEAL, shares=(0.2, 0.4, *[0.8] * (SHARE_NODES - 2)))
    assert [model.share(n) for n in (1, 2, 4, 1024, 5000)] == [0.2, 0.4, 0.8, 0.8, 0.8]
    assert model.share(3) == pytest.approx(0.4 * 2 ** math.log2(1.5))


def test_a_replayed_call_is_faster_where_the_cache_holds_it() -> None:
    model = replace(IDEAL, cache_bytes=1e6, cache_speedup=4.0, cache_steepness=30.0)
    small, large = (1, 100), (64, 64 * 5000)
    for n, context in (small, large):
        cold_s = model.time_s(n, context, 8, 1, 128) - model.floor_s
        hot_s = model.replayed_s(n, context, 8, 1, 128) - model.floor_s
        assert hot_s == pytest.approx(cold_s / 4 if (n, context) == small else cold_s, rel=1e-6)


@settings(deadline=None)
@given(gpu, sequences, tokens, shape, st.sampled_from([64, 128, 256]), st.integers(1, 8192) | st.none(), st.data())
def test_more_never_takes_less(
    name: str, n: int, mean: int, heads: tuple[int, int], dim: int, window: int | None, data: st.DataObject
) -> None:
    model, more = shipped(name), data.draw(st.integers(1, 3000), label="more")
    bound = model.time_s(n, n * mean, *heads, dim, window) * (1 - 1e-12)
    assert model.time_s(n, n * mean + more, *heads, dim, window) >= bound
    assert model.time_s(n + more, (n + more) * mean, *heads, dim, window) >= bound
    assert model.time_s(n, n * mean, 2 * heads[0], 2 * heads[1], dim, window) >= bound
    assert model.time_s(n, n * mean, *heads, dim + 64, window) >= bound
    if window is not None:
        assert model.time_s(n, n * mean, *heads, dim, window + more) >= bound
        assert model.time_s(n, n * mean, *heads, dim) >= bound


@settings(deadline=None, max_examples=300)
@given(gpu, sequences, st.integers(1, 20_000), shape, st.integers(1, 8192) | st.none(), st.data())
def test_a_piece_is_straight_to_its_end_and_no_further(
    name: str, n: int, mean: int, heads: tuple[int, int], window: int | None, data: st.DataObject
) -> None:
    """Inside it any context takes what the piece says; a token behind its end another slope begins."""
    call, context = shipped(name).call(n, *heads, 128), n * mean
    piece = call.piece(context, window)
    assert piece.seconds == call.seconds(context, window)
    assert piece.until >= context
    far = context + 10_000_000 if piece.until == math.inf else math.floor(piece.until)
    at = data.draw(st.integers(context, far), label="at")
    expected = piece.seconds + piece.per_token_s * (at - context)
    assert call.seconds(at, window) == pytest.approx(expected, rel=1e-9)
    if piece.until < math.inf:
        beyond = call.piece(math.floor(piece.until) + 1, window)
        ends = window is not None and piece.until == n * window  # which may end a piece that was flat already
        assert ends or not math.isclose(beyond.per_token_s, piece.per_token_s, rel_tol=1e-9)
        assert beyond.until > piece.until


@settings(deadline=None)
@given(gpu, sequences, st.integers(0, 2000), tokens, shape)
def test_what_a_call_takes_at_least(name: str, n: int, more: int, mean: int, heads: tuple[int, int]) -> None:
    """What the planner's bounds are proved with: of n sequences or more, whatever their contexts."""
    model = shipped(name)
    least_s = model.call(n, *heads, 128).least_s + model.least_token_s(heads[1], 128) * (n + more) * mean
    assert least_s <= model.time_s(n + more, (n + more) * mean, *heads, 128) * (1 + 1e-12)


@settings(deadline=None)
@given(st.sampled_from(GPUS), sequences, tokens, shape)
def test_never_faster_than_the_memory(name: str, n: int, mean: int, heads: tuple[int, int]) -> None:
    model = shipped(name)
    moved = 2 * 2 * heads[1] * 128 * n * mean
    assert model.time_s(n, n * mean, *heads, 128) >= model.floor_s + moved / model.memory_bandwidth_bytes_per_s
    assert model.replayed_s(n, n * mean, *heads, 128) <= model.time_s(n, n * mean, *heads, 128) * (1 + 1e-12)


def test_a_window_cuts_the_mean_context() -> None:
    windowed = [PHYSICAL.time_s(4, 4 * mean, 8, 1, 128, 500) for mean in (250, 500, 700)]
    plain = [PHYSICAL.time_s(4, 4 * mean, 8, 1, 128) for mean in (250, 500, 700)]
    assert windowed[:2] == plain[:2] and windowed[2] == windowed[1] < plain[2]


def test_nothing_to_do_takes_no_time() -> None:
    assert IDEAL.time_s(0, 0, 8, 1, 128) == 0.0


@pytest.mark.parametrize("name", GPUS)
def test_json_round_trip_is_exact_and_compact(name: str) -> None:
    model = shipped(name)
    text = json.dumps(model.to_dict())
    assert DecodeAttentionModel.from_dict(json.loads(text)) == model
    assert len(text) < 1024


def test_from_dict_names_missing_and_unknown_keys() -> None:
    data = IDEAL.to_dict()
    del data["floor_s"]
    data["florr_s"] = 1.0
    with pytest.raises(ValueError, match=r"missing \['floor_s'\], unknown \['florr_s'\]"):
        DecodeAttentionModel.from_dict(data)


def test_moved_to_another_gpu_scales_and_says_so() -> None:
    """Half the SMs and half the bandwidth: twice the units' time, twice the reading; a unit reads as fast as it did."""
    moved = PHYSICAL.moved_to("half", 0.5e12, 50, cache_ratio=0.5)
    assert moved.source == "assumed: efficiencies as on ideal (test)"
    assert moved.cache_bytes == 0.5 * PHYSICAL.cache_bytes
    whole, half = (m.call(600, 8, 8, 128) for m in (replace(PHYSICAL, overlap=1.0), replace(moved, overlap=1.0)))
    assert (half.hidden_s, half.token_s) == pytest.approx((2 * whole.hidden_s, 2 * whole.token_s))
    one, other = (m.call(1, 8, 1, 128).token_s for m in (PHYSICAL, replace(moved, shares=(1.0,) * SHARE_NODES)))
    assert other == pytest.approx(one)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 1, 8, 8, 128), "context_tokens of at least one each: sequences=2, context_tokens=1"),
        ((-1, 0, 8, 8, 128), "sequences=-1"),
        ((0, 5, 8, 8, 128), "sequences=0"),
        ((1, 4, 8, 3, 128), "heads=8, kv_heads=3"),
        ((1, 4, 8, 0, 128), "kv_heads=0"),
        ((1, 4, 8, 8, 0), "head_dim=0"),
    ],
)
def test_refusals_name_the_value(arguments: tuple[int, int, int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IDEAL.time_s(*arguments)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sm_count", 0, "sm_count must be positive, got 0"),
        ("unit_bytes_per_s", 0.0, "unit_bytes_per_s must be positive"),
        ("floor_s", -1e-6, "floor_s must not be negative"),
        ("overlap", 1.1, r"overlap lies in \[0, 1\] .* got 1.1"),
        ("cache_speedup", 0.9, "cache_speedup is 1 or more, got 0.0 and 0.9"),
        ("shares", (0.5,) * 3, "need 11 shares"),
        ("shares", (1.1,) * SHARE_NODES, r"in \(0, 1\]"),
        ("shares", (0.2, 0.41, *[0.5] * (SHARE_NODES - 2)), "twice as fast, got shares 0.2 and 0.41"),
    ],
)
def test_a_bad_model_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(IDEAL, **{field: value})  # type: ignore[arg-type]


def test_a_call_takes_microseconds() -> None:
    """Processor time of the fastest of five batches; measured 4 us."""
    best = math.inf
    for _ in range(5):
        start = time.process_time()
        for _ in range(1000):
            PHYSICAL.time_s(100, 100_000, 8, 1, 128, 4096)
        best = min(best, (time.process_time() - start) / 1000)
    assert best < 200e-6
