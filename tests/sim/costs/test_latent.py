"""Latent attention: closed forms, what grows with what for every shipped profile, and the pieces that serving sums."""

import json
import math
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.sim.costs.latent import LatentCache, LatentModel
from thinwire.sim.costs.shipped import PROFILES, mixture_of
from thinwire.topologies.load import load_gpu

GPUS = sorted(path.stem.removeprefix("mixture-") for path in PROFILES.glob("mixture-*.json"))
CACHE = LatentCache(
    bytes_per_value=2, head_block=16, launch_s=1e-5, split_s=4e-6, split_tokens=1000, sequence_s=1e-7, query_passes=2.0,
    share_efficiency=0.5, efficiency=0.25, sharpness=1.0, cache_bytes=1e6, cache_speedup=2.0, cache_steepness=8.0,
    source="assumed: by hand",
)  # fmt: skip
IDEAL = LatentModel(
    gpu="by hand", peak_flops_per_s=1e14, memory_bandwidth_bytes_per_s=1e12, sm_count=100, prefill_launch_s=2e-5,
    prefill_efficiency=0.5, prefill_balance=1.0, prefill_passes=3.0, absorb_launch_s=3e-6, absorb_share_efficiency=0.5,
    absorb_efficiency=0.5, source="assumed: by hand", caches={"bf16": CACHE},
)  # fmt: skip
gpus = st.sampled_from(["by hand", *GPUS])
heads_of_a_rank = st.sampled_from([1, 2, 8, 16, 20, 128])


@cache
def shipped(gpu: str) -> LatentModel:
    return IDEAL if gpu == "by hand" else mixture_of(load_gpu(gpu)).latent


def test_prefill_is_the_closed_form() -> None:
    """By hand: 2 sequences of 256 tokens and 4 heads of 192 and 128; balance 1 adds the mean and the longest tile."""
    pairs = 256 * 257 / 2 + 256 * 128 / 2
    rate = 0.5e14
    mean_s, longest_s = 2 * 320 * 2 * 4 * pairs / rate, 2 * 320 * 128 * 256 * 100 / rate
    moved = 2 * 2 * 4 * 320 * 512
    assert IDEAL.prefill_s(2, 256, 256, 4, 192, 128) == pytest.approx(
        2e-5 + mean_s + longest_s + 3 * moved / 1e12, rel=1e-12
    )


def test_decode_is_the_closed_form() -> None:
    """By hand: 3 sequences of 500 tokens each, 20 heads computed as 32; sharpness 1 adds reading and computing up."""
    token_s = 2 * 576 / 0.5e12 + 2 * 32 * 1088 / 0.25e14
    alone_s = 1e-7 + 2 * 2 * 20 * 1088 / 1e12
    absorbed_s = 2 * (3e-6 + 2 * 20 * (128 * 512 + 3 * 640) / 0.5e12)
    expected = 1e-5 + 4e-6 / 2 + 3 * alone_s + absorbed_s + token_s * (1500 + 3)
    assert IDEAL.decode_s(3, 1500, 20, 512, 64) == pytest.approx(expected, rel=1e-12)


def test_half_the_bytes_are_read_in_half_the_time_and_said_to_be_assumed() -> None:
    free = replace(IDEAL, caches={"bf16": replace(CACHE, efficiency=1e6)})
    slopes = [free.call(8, 16, 512, 64, kv_bytes).token_s for kv_bytes in (1, 2)]
    assert slopes[0] == pytest.approx(slopes[1] / 2, rel=1e-5)
    assert IDEAL.cache(1).source.startswith("assumed: fp8 is read as a bf16 cache is")
    with pytest.raises(ValueError, match="kv_bytes=4"):
        IDEAL.cache(4)


def test_small_caches_are_read_from_the_l2_when_replayed() -> None:
    free = replace(IDEAL, caches={"bf16": replace(CACHE, efficiency=1e6)})
    reading_s = 2 * 576 * (64 + 1) / 0.5e12
    assert free.decode_s(1, 64, 16, 512, 64) - free.replayed_s(1, 64, 16, 512, 64) == pytest.approx(
        reading_s / 2, rel=1e-3
    )
    assert free.replayed_s(64, 640_000, 16, 512, 64) == pytest.approx(free.decode_s(64, 640_000, 16, 512, 64), rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    gpu=gpus, sequences=st.integers(1, 2000), mean=st.integers(1, 50_000), heads=heads_of_a_rank,
    kv_bytes=st.sampled_from([1, 2]), more=st.integers(1, 5000),
)  # fmt: skip
def test_decoding_is_piecewise_linear_and_never_takes_less(
    gpu: str, sequences: int, mean: int, heads: int, kv_bytes: int, more: int
) -> None:
    """What the serving simulator sums up in closed form: a piece holds as far as it says, with its slope; more context
    or more sequences of the same mean never take less; nothing is below `least_s` and `least_token_s`.
    """
    model, context = shipped(gpu), sequences * mean
    call = model.call(sequences, heads, 512, 64, kv_bytes)
    piece = call.piece(context)
    assert piece.seconds == pytest.approx(model.decode_s(sequences, context, heads, 512, 64, kv_bytes), rel=1e-12)
    reach = context + min(more, int(min(piece.until, 1e9) - context))
    if reach > context:
        along = piece.seconds + piece.per_token_s * (reach - context)
        assert call.seconds(reach) == pytest.approx(along, rel=1e-9)
    assert call.seconds(context + more) >= piece.seconds
    larger = model.decode_s(sequences + more, (sequences + more) * mean, heads, 512, 64, kv_bytes)
    assert larger >= piece.seconds * (1 - 1e-12)
    least = call.least_s + model.least_token_s(heads, 512, 64, kv_bytes) * context
    assert piece.seconds >= least * (1 - 1e-12)


@settings(max_examples=40, deadline=None)
@given(
    gpu=gpus, batch=st.integers(1, 16), query=st.integers(1, 20_000), before=st.integers(0, 20_000),
    heads=heads_of_a_rank, more=st.integers(1, 5000),
)  # fmt: skip
def test_longer_prompts_never_take_less(gpu: str, batch: int, query: int, before: int, heads: int, more: int) -> None:
    model, keys = shipped(gpu), query + before
    least = model.prefill_s(batch, query, keys, heads, 192, 128) * (1 - 1e-12)
    assert model.prefill_s(batch, query + more, keys + more, heads, 192, 128) >= least
    assert model.prefill_s(batch, query, keys + more, heads, 192, 128) >= least
    assert model.prefill_s(batch + 1, query, keys, heads, 192, 128) >= least


@pytest.mark.parametrize("gpu", GPUS)
def test_no_shipped_cache_is_read_faster_than_memory(gpu: str) -> None:
    bandwidth, model = load_gpu(gpu).memory_bandwidth_bytes_per_s, shipped(gpu)
    for kv_bytes in (1, 2):
        assert model.least_token_s(1, 512, 64, kv_bytes) >= kv_bytes * 576 / bandwidth
        assert model.call(1, 128, 512, 64, kv_bytes).token_s >= 2 * 128 * 1088 / model.peak_flops_per_s / 1.2


def test_nothing_takes_no_time() -> None:
    assert IDEAL.decode_s(0, 0, 16, 512, 64) == IDEAL.prefill_s(0, 5, 5, 16, 192, 128) == 0.0
    assert IDEAL.prefill_s(1, 0, 5, 16, 192, 128) == 0.0


def test_shapes_that_no_kernel_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="heads=0"):
        IDEAL.call(1, 0, 512, 64)
    with pytest.raises(ValueError, match="value_dim=0"):
        IDEAL.prefill_s(1, 5, 5, 16, 192, 0)
    with pytest.raises(ValueError, match="at least one each"):
        IDEAL.decode_s(8, 7, 16, 512, 64)
    with pytest.raises(ValueError, match="query_tokens=6"):
        IDEAL.prefill_s(1, 6, 5, 16, 192, 128)


@pytest.mark.parametrize("gpu", GPUS)
def test_a_model_survives_its_file(gpu: str) -> None:
    assert LatentModel.from_dict(json.loads(json.dumps(shipped(gpu).to_dict()))) == shipped(gpu)


def test_a_file_with_a_bad_number_is_refused_by_name() -> None:
    table = IDEAL.to_dict()
    table["caches"]["bf16"]["split_tokens"] = math.nan
    with pytest.raises(ValueError, match="latent attention model: 'bf16': split_tokens"):
        LatentModel.from_dict(table)
    with pytest.raises(ValueError, match="needs a cache of bf16"):
        replace(IDEAL, caches={})
    with pytest.raises(ValueError, match="prefill_balance"):
        replace(IDEAL, prefill_balance=0.5)


def test_a_relatives_kernels_keep_their_shares_on_other_facts() -> None:
    """Twice the bandwidth and the peak halve the slope; launches stay."""
    moved = IDEAL.moved_to("twice", 2e14, 2e12, 100)
    assert moved.call(4, 16, 512, 64).token_s == pytest.approx(IDEAL.call(4, 16, 512, 64).token_s / 2, rel=1e-12)
    assert moved.caches["bf16"].source == "assumed: efficiencies as on by hand (assumed: by hand)"
