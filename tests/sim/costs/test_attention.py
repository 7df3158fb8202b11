"""The attention cost model: closed forms, what grows with what, and what may not change.

The promises about growth, exactly (fitted models, every measured GPU, see test_growth):
- twice the tokens of a self-attention never take less time;
- more tokens in a self-attention never take less;
- more sequences, more heads, more context or a wider window never take more than 10 % off the time of any
smaller
  call: the measured times do fall here and there, and the correction follows them.
A model without corrections grows with everything, without exception (test_physical_part_is_monotone).
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from functools import cache
from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.sim.costs.attention import (
    CORRECTIONS,
    GROUP_AXIS,
    LENGTH_AXIS,
    PARALLEL_AXIS,
    AttentionModel,
    attention_flops,
    kernel_head_dim,
    scored_pairs,
)
from thinwire.validation.fits.attention import FACTS, fit_all

from ..helpers import IDEAL_ATTENTION as IDEAL

PHYSICAL = replace(IDEAL, balance=2.5, tile_s=1e-6, token_block_s=1e-7, lane_block_s=3e-7, warm_passes=0.3)
SHAPES = ((4, 1), (4, 4), (8, 1), (8, 8), (16, 2), (32, 8), (64, 8), (40, 40))

tokens = st.integers(1, 20_000)
shape = st.sampled_from(SHAPES)


@cache
def fitted() -> dict[str, AttentionModel]:
    return fit_all()


def brute_pairs(query: int, key: int, window: int | None) -> int:
    return sum(min(i, window or i) for i in range(key - query + 1, key + 1))


def test_scored_pairs_equal_a_count_for_every_small_case() -> None:
    for key in range(13):
        for query in range(key + 1):
            for window in (None, *range(1, 15)):
                assert scored_pairs(query, key, window) == brute_pairs(query, key, window), (
                    query,
                    key,
                    window,
                )


@given(tokens, st.integers(0, 20_000), st.integers(1, 30_000) | st.none())
def test_pairs_and_flops_of_chunks_add_up_exactly(first: int, second: int, window: int | None) -> None:
    whole = first + second
    parts = scored_pairs(first, first, window) + scored_pairs(second, whole, window)
    assert parts == scored_pairs(whole, whole, window)
    flops = attention_flops(3, first, first, 8, 128, window) + attention_flops(3, second, whole, 8, 128, window)
    assert flops == attention_flops(3, whole, whole, 8, 128, window)


def test_a_pair_takes_two_products_of_two_operations_a_value() -> None:
    """Scores and scores times values; each value of a head is multiplied and added."""
    for batch, query, key, heads, dim, window in ((1, 1, 1, 1, 1, None), (3, 5, 9, 4, 64, 2), (2, 7, 7, 8, 96, None)):
        naive = sum(
            2 + 2 for _ in range(batch * heads) for _ in range(brute_pairs(query, key, window)) for _ in range(dim)
        )
        assert attention_flops(batch, query, key, heads, dim, window) == naive


# --- the correction, a table over three axes of logarithms


TABLE = replace(IDEAL, correction=tuple((i * 7919) % 1201 - 600 for i in range(CORRECTIONS)))


def read(i: int, j: int, k: int) -> int:
    """The table's entry: length changes slowest, group fastest."""
    return TABLE.correction[(i * len(PARALLEL_AXIS) + j) * len(GROUP_AXIS) + k]


def factor(length: float, parallel: float, group: float) -> float:
    """By the axes' logarithms: n tokens of self-attention see (n + 1) / 2 keys each."""
    return TABLE._factor((2**length + 1) / 2, round(2**parallel), 2**group)


def test_axes_rise_by_one_as_the_look_up_supposes() -> None:
    for axis in (LENGTH_AXIS, PARALLEL_AXIS):
        assert [b - a for a, b in pairwise(axis)] == [1.0] * (len(axis) - 1)
    assert all(a < b for a, b in pairwise(GROUP_AXIS))


def test_a_correction_is_read_at_its_node() -> None:
    for (i, x), (j, y), (k, z) in product(enumerate(LENGTH_AXIS), enumerate(PARALLEL_AXIS), enumerate(GROUP_AXIS)):
        assert factor(x, y, z) == pytest.approx(math.exp(read(i, j, k) / 1000), rel=1e-9)


def test_beyond_the_axes_the_nearest_correction_holds() -> None:
    last = len(LENGTH_AXIS) - 1, len(PARALLEL_AXIS) - 1, len(GROUP_AXIS) - 1
    assert factor(LENGTH_AXIS[0] - 3, PARALLEL_AXIS[0] - 2, 0.0) == pytest.approx(math.exp(read(0, 0, 0) / 1000))
    far = factor(LENGTH_AXIS[-1] + 5, PARALLEL_AXIS[-1] + 5, GROUP_AXIS[-1] + 2)
    assert far == pytest.approx(math.exp(read(*last) / 1000))


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_between_two_nodes_logarithms_are_straight(share: float) -> None:
    for k, (low, high) in enumerate(pairwise(GROUP_AXIS)):
        expected = (1 - share) * read(2, 3, k) + share * read(2, 3, k + 1)
        found = factor(LENGTH_AXIS[2], PARALLEL_AXIS[3], low + share * (high - low))
        assert found == pytest.approx(math.exp(expected / 1000), rel=1e-9)
    expected = (1 - share) * read(4, 5, 1) + share * read(5, 5, 1)
    assert factor(LENGTH_AXIS[4] + share, PARALLEL_AXIS[5], GROUP_AXIS[1]) == pytest.approx(math.exp(expected / 1000))
    sequences = 2 ** PARALLEL_AXIS[6] * 1.5
    share = math.log2(1.5)
    expected = (1 - share) * read(1, 6, 2) + share * read(1, 7, 2)
    found = TABLE._factor((2 ** LENGTH_AXIS[1] + 1) / 2, int(sequences), 2 ** GROUP_AXIS[2])
    assert found == pytest.approx(math.exp(expected / 1000), rel=1e-9)


@given(st.floats(6.0, 15.0), st.floats(1.0, 15.0), st.floats(-1.0, 4.0))
def test_a_correction_is_the_weighted_mean_of_the_eight_around(x: float, y: float, z: float) -> None:
    weights: list[dict[int, float]] = []
    for axis, value in ((LENGTH_AXIS, x), (PARALLEL_AXIS, y), (GROUP_AXIS, z)):
        inside = min(max(value, axis[0]), axis[-1])
        at = next(i for i in range(len(axis) - 1) if inside <= axis[i + 1])
        share = (inside - axis[at]) / (axis[at + 1] - axis[at])
        weights.append({at: 1 - share, at + 1: share})
    expected = sum(a * b * c * read(i, j, k) for (i, a), (j, b), (k, c) in product(*(w.items() for w in weights)))
    found = TABLE._factor((2**x + 1) / 2, 2**y, 2**z)  # type: ignore[arg-type]  # as many as no machine has
    assert math.log(found) * 1000 == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("query", "key"), [(2048, 2048), (512, 4096)])
def test_a_correction_is_a_factor_on_the_kernel(query: int, key: int) -> None:
    """Not on its floor; by what a query sees on average, all sequences' heads, and the heads of a group."""
    busy = replace(IDEAL, token_block_s=1e-7, lane_block_s=3e-7, tile_s=1e-6, memory_bandwidth_bytes_per_s=1e15)
    fitted_to = replace(busy, correction=TABLE.correction)
    plain_s, corrected_s = (model.time_s(4, query, key, 32, 8, 128) - 1e-5 for model in (busy, fitted_to))
    mean_keys = brute_pairs(query, key, None) / query
    assert corrected_s / plain_s == pytest.approx(TABLE._factor(mean_keys, 4 * 32, 32 / 8), rel=1e-9)


# --- cross-attention: all queries see all keys


@pytest.mark.parametrize(
    ("batch", "query", "key", "heads", "kv_heads", "splits"),
    [(16, 256, 4096, 32, 8, 1), (1, 128, 4096, 8, 2, 12), (1, 1, 100_000, 1, 1, 100), (2, 300, 1000, 5, 5, 3),
     (1, 128, 129, 1, 1, 2), (1, 1, 10**6, 1, 1, 100)],
)  # fmt: skip
def test_cross_attention_is_the_closed_form(
    batch: int, query: int, key: int, heads: int, kv_heads: int, splits: int
) -> None:
    """Mean and longest tile by hand, and bytes: queries, outputs, keys and values, and in fp32 what pieces leave."""
    dim, tiles = 64, batch * heads * math.ceil(query / 128)
    rate = 0.5 * 1e15 / 100
    mean = batch * heads * 4 * dim * query * key / rate / 100
    longest = 4 * dim * min(query, 128) * math.ceil(key / splits) / rate
    moved = 2 * batch * dim * 2 * (query * heads + key * kv_heads)
    if splits > 1:
        moved += 2 * 4 * splits * batch * heads * query * (dim + 1)
        assert splits * tiles <= 100 or splits * 128 >= key
    cold = 1 / (1 + (1e6 / moved) ** 12)
    expected = 1e-5 + max(mean + longest + moved * cold / 1e12, moved * cold / 1e12)
    assert IDEAL.cross_time_s(batch, query, key, heads, kv_heads, dim) == pytest.approx(expected, rel=1e-9)


def test_cross_attention_of_nothing_takes_no_time_and_wrong_sizes_are_refused() -> None:
    for nothing in ((0, 5, 5), (5, 0, 5), (5, 5, 0)):
        assert IDEAL.cross_time_s(*nothing, 8, 8, 128) == 0.0
    for wrong in (
        (-1, 5, 5, 8, 8),
        (5, -1, 5, 8, 8),
        (5, 5, -1, 8, 8),
        (5, 5, 5, 0, 8),
        (5, 5, 5, 8, 0),
        (5, 5, 5, 8, 3),
    ):
        with pytest.raises(ValueError, match="need sizes of 0 or more"):
            IDEAL.cross_time_s(*wrong, 128)
    assert IDEAL.cross_time_s(1, 1, 1, 1, 1, 128) > IDEAL.floor_s


def test_cross_attention_has_the_correction_of_as_many_keys_and_heads() -> None:
    plain, corrected = (model.cross_time_s(4, 256, 4096, 32, 8, 128) - 1e-5 for model in (IDEAL, TABLE))
    assert corrected / plain == pytest.approx(TABLE._factor(4096, 4 * 32, 32 / 8), rel=1e-9)


def test_kernel_head_dim_is_what_flash_attention_dispatches() -> None:
    assert [kernel_head_dim(d) for d in (1, 64, 72, 96, 128, 144, 192, 256)] == [
        32,
        64,
        96,
        96,
        128,
        192,
        192,
        256,
    ]


def test_compute_bound_call_is_the_closed_form() -> None:
    """balance = 1 adds the mean and the longest tile: both by hand, with the diagonal blocks computed
    whole."""
    n, batch, heads = 4096, 16, 32
    rate = 0.5 * 1e15 / 100
    computed = n * (n + 1) / 2 + n * 128 / 2
    mean = batch * heads * 4 * 128 * computed / rate / 100
    longest = 4 * 128 * 128 * n / rate
    bytes_s = 2 * 128 * batch * n * (2 * heads + 6 * 4) / 1e12
    expected = 1e-5 + mean + longest + bytes_s
    assert IDEAL.time_s(batch, n, n, heads, 4, 128) == pytest.approx(expected, rel=1e-12)


def test_memory_bound_call_is_the_closed_form() -> None:
    """One query against a long context reads the keys and values once, at the datasheet bandwidth."""
    fast = replace(IDEAL, peak_flops_per_s=1e30)
    expected = 1e-5 + 2 * 128 * 64 * (2 * 8 + 4 * 8 + 100_000 * 2 * 8) / 1e12
    assert fast.time_s(64, 1, 100_000, 8, 8, 128) == pytest.approx(expected, rel=1e-9)


def test_never_below_compulsory_bytes() -> None:
    for model in fitted().values():
        moved = 2 * 128 * 512 * (2 * 8 + 4 + 32768 * 2)
        assert model.time_s(512, 1, 32768, 8, 1, 128) >= moved / model.memory_bandwidth_bytes_per_s


def test_few_tiles_wait_for_the_longest() -> None:
    """Two sequences on an empty GPU take what one takes; a balance of infinity would make that exact."""
    sharp = replace(IDEAL, balance=60.0, memory_bandwidth_bytes_per_s=1e18)
    one, two = (sharp.time_s(batch, 2048, 2048, 1, 1, 128) for batch in (1, 2))
    assert two == pytest.approx(one, rel=1e-6)
    full = [sharp.time_s(batch, 2048, 2048, 64, 64, 128) - sharp.floor_s for batch in (64, 128)]
    assert full[1] == pytest.approx(2 * full[0], rel=1e-6)


def test_nothing_to_do_takes_no_time() -> None:
    assert IDEAL.time_s(0, 128, 128, 8, 8, 128) == 0.0
    assert IDEAL.time_s(4, 0, 128, 8, 8, 128) == 0.0


@given(tokens, tokens, st.integers(0, 5000), st.integers(1, 64), shape)
def test_window_as_wide_as_the_context_is_no_window(
    query: int, before: int, more: int, batch: int, heads: tuple[int, int]
) -> None:
    key = query + before
    model = fitted()["h100_sxm"]
    assert model.time_s(batch, query, key, *heads, 128, key + more) == model.time_s(batch, query, key, *heads, 128)


@given(tokens, tokens, st.integers(1, 64), shape, st.sampled_from([64, 96, 128, 144, 256]), st.data())
def test_physical_part_is_monotone(
    query: int, before: int, batch: int, heads: tuple[int, int], dim: int, data: st.DataObject
) -> None:
    """Without corrections, more of anything never takes less time."""
    key = query + before
    base = PHYSICAL.time_s(batch, query, key, *heads, dim)
    more = data.draw(st.integers(1, 3000), label="more")
    bound = base * (1 - 1e-12)
    assert PHYSICAL.time_s(batch + more, query, key, *heads, dim) >= bound
    assert PHYSICAL.time_s(batch, query, key + more, *heads, dim) >= bound
    assert PHYSICAL.time_s(batch, query + more, key + more, *heads, dim) >= bound
    assert PHYSICAL.time_s(batch, query, key, heads[0] * 2, heads[1], dim) >= bound
    assert PHYSICAL.time_s(batch, query, key, heads[0] * 2, heads[1] * 2, dim) >= bound
    assert PHYSICAL.time_s(batch, query, key, *heads, dim + 64) >= bound


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(FACTS)), tokens, tokens, st.integers(1, 64), shape, st.data())
def test_growth(system: str, query: int, before: int, batch: int, heads: tuple[int, int], data: st.DataObject) -> None:
    model, key = fitted()[system], query + before
    alone = model.time_s(batch, query, query, *heads, 128)
    more = data.draw(st.integers(1, 20_000), label="more")
    assert model.time_s(batch, query + more, query + more, *heads, 128) >= alone * (1 - 1e-9)
    assert model.time_s(batch, 2 * query, 2 * query, *heads, 128) >= alone
    base = model.time_s(batch, query, key, *heads, 128)
    assert model.time_s(batch + 1 + more % 64, query, key, *heads, 128) >= 0.9 * base
    assert model.time_s(batch, query, key + more, *heads, 128) >= 0.9 * base
    assert model.time_s(batch, query, key, 2 * heads[0], 2 * heads[1], 128) >= 0.9 * base
    window = data.draw(st.integers(1, key), label="window")
    narrow = model.time_s(batch, query, key, *heads, 128, window)
    assert model.time_s(batch, query, key, *heads, 128, window + more) >= 0.9 * narrow


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(sorted(FACTS)),
    st.integers(1024, 131_072),
    st.floats(0.1, 0.9),
    st.integers(1, 16),
    st.sampled_from([(4, 1), (8, 1), (8, 2), (16, 2), (32, 4), (32, 8), (64, 8)]),
)
def test_splitting_the_sequence_saves_no_attention(
    system: str, whole: int, share: float, batch: int, heads: tuple[int, int]
) -> None:
    """First part alone, second part against all keys (ISO): together at least 0.95 of the whole.

    Kept by the four HBM GPUs for any heads. Where GDDR stands behind a large L2 (L40S, RTX PRO 6000) the
    first part may fit a cache that the whole does not, as it did in the measurements, and the sum may come to
    0.85.
    """
    first = max(1, int(whole * share))
    model = fitted()[system]
    parts = model.time_s(batch, first, first, *heads, 128)
    parts += model.time_s(batch, whole - first, whole, *heads, 128)
    least = 0.85 if system in ("l40s", "rtx_pro_6000_server") else 0.95
    assert parts >= least * model.time_s(batch, whole, whole, *heads, 128)


@settings(deadline=None)
@given(st.sampled_from(sorted(FACTS)), st.integers(1, 512), st.integers(1, 131_072), shape)
def test_extrapolation_stays_between_the_peak_and_nonsense(
    system: str, batch: int, length: int, heads: tuple[int, int]
) -> None:
    """Any shape: finite, at least the floor, never above the peak; huge ones reach at least a third of the
    peak."""
    model = fitted()[system]
    seconds = model.time_s(batch, length, length, *heads, 128)
    flops = attention_flops(batch, length, length, heads[0], 128)
    assert math.isfinite(seconds) and seconds >= model.floor_s
    assert flops / seconds <= model.peak_flops_per_s
    if length >= 32_768 and batch * heads[0] >= 8:
        assert flops / seconds >= model.peak_flops_per_s / 3


def test_json_round_trip_is_exact_and_compact() -> None:
    for model in fitted().values():
        text = json.dumps(model.to_dict())
        assert AttentionModel.from_dict(json.loads(text)) == model
        assert len(text) < 4096


def test_from_dict_names_missing_and_unknown_keys() -> None:
    data = IDEAL.to_dict()
    del data["floor_s"]
    data["florr_s"] = 1.0
    with pytest.raises(ValueError, match=r"missing \['floor_s'\], unknown \['florr_s'\]"):
        AttentionModel.from_dict(data)


def test_moved_to_another_gpu_scales_and_says_so() -> None:
    moved = PHYSICAL.moved_to("half", 0.5e15, 0.5e12, 50, cache_ratio=0.5)
    assert moved.source == "assumed: efficiencies as on ideal (test)"
    assert moved.cache_bytes == 0.5 * PHYSICAL.cache_bytes
    # half of everything with the same work on each half: the whole kernel takes exactly twice as long
    big = (64, 8192, 8192, 32, 8, 128)
    whole, half = (m.time_s(*big) - m.floor_s for m in (IDEAL, IDEAL.moved_to("half", 0.5e15, 0.5e12, 50, 1.0)))
    longest = 4 * 128 * 128 * 8192 / (0.5 * 1e15 / 100)
    assert half - longest == pytest.approx(2 * (whole - longest), rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 8, 4, 8, 8, 128, None), "query_tokens=8, key_tokens=4"),
        ((1, -1, 4, 8, 8, 128, None), "query_tokens=-1"),
        ((1, 4, 4, 8, 3, 128, None), "heads=8, kv_heads=3"),
        ((-1, 4, 4, 8, 8, 128, None), "batch=-1"),
        ((1, 4, 4, 8, 8, 0, None), "head_dim must be at least 1, got 0"),
        ((1, 4, 4, 8, 8, 128, 0), "window=0"),
    ],
)
def test_refusals_name_the_value(arguments: tuple[int, int, int, int, int, int, int | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IDEAL.time_s(*arguments)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("efficiency", 0.0, "efficiency must be positive, got 0.0"),
        ("floor_s", -1e-6, "floor_s must not be negative"),
        ("balance", 0.5, "balance is an exponent of at least 1, got 0.5"),
        ("correction", (0,) * 7, f"correction has 7 entries, the axes need {CORRECTIONS}"),
        ("correction", (701,) + (0,) * (CORRECTIONS - 1), "got 701"),
    ],
)
def test_a_bad_model_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(IDEAL, **{field: value})  # type: ignore[arg-type]


def test_a_call_takes_microseconds() -> None:
    """Processor time of the fastest of five batches; measured 5 us."""
    model, best = fitted()["h100_sxm"], math.inf
    for _ in range(5):
        start = time.process_time()
        for _ in range(1000):
            model.time_s(1, 4096, 8192, 8, 1, 128, 4096)
        best = min(best, (time.process_time() - start) / 1000)
    assert best < 200e-6
