"""Attention with other heads, windows and caches: which model serves a call, and what it promises."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.heads import BASE, CACHES, NO_HEADS, Cache, Heads, Variant, heads_dict, heads_of, nearest
from thinwire.sim.costs.shipped import PROFILES, load_profile, profile_of
from thinwire.sim.workload import Attend, AttendChunks, DecodeAttend
from thinwire.topologies.load import gpu_names, load_cluster, load_gpu

MEASURED = ("b200-sxm", "b300-sxm", "gb200", "gb300", "h100-sxm", "h200-sxm", "l40s", "rtx-pro-6000")
KNOWN = tuple(Variant(*each) for each in ((64, 0, "bf16"), (64, 128, "bf16"), (128, 8192, "bf16"), (128, 0, "fp8")))
H200 = profile_of(load_gpu("h200-sxm"))


@pytest.mark.parametrize(
    ("head_dim", "window", "cache", "expected"),
    [
        (128, None, "bf16", BASE),
        (96, None, "bf16", BASE),  # 0.42 octaves from 128, 0.58 from 64: as it was before there were variants
        (80, None, "bf16", Variant(64, 0, "bf16")),
        (64, 128, "bf16", Variant(64, 128, "bf16")),
        (64, 256, "bf16", Variant(64, 128, "bf16")),
        (64, 32768, "bf16", Variant(64, 0, "bf16")),
        (128, 4096, "bf16", Variant(128, 8192, "bf16")),
        (64, 128, "fp8", Variant(128, 0, "fp8")),  # the cache goes before the head size
        (128, None, "int8", Variant(128, 0, "fp8")),
    ],
)
def test_the_nearest_serves(head_dim: int, window: int | None, cache: Cache, expected: Variant) -> None:
    assert nearest(KNOWN, head_dim, window, cache) == expected


@given(st.integers(1, 1024), st.none() | st.integers(1, 1 << 20), st.sampled_from(CACHES))
def test_without_variants_the_base_serves_all(head_dim: int, window: int | None, cache: Cache) -> None:
    """With the cache's bytes: an fp8 one is half as long to read."""
    attention, decode = H200.attention, H200.decode_attention
    assert NO_HEADS.attention(attention, head_dim, window, cache) is attention
    found = NO_HEADS.decode_attention(decode, head_dim, window, cache)
    assert found == (decode if cache == "bf16" else replace(decode, value_bytes=1))
    assert found.least_token_s(8, 128) * (1 if cache == "bf16" else 2) == decode.least_token_s(8, 128)


@pytest.mark.parametrize("gpu", MEASURED)
def test_variants_are_shipped(gpu: str) -> None:
    """Eighteen or so a GPU, back from the file whole; the base's own calls are priced by the base itself."""
    profile = profile_of(load_gpu(gpu))
    heads = profile.heads
    assert heads_of(json.loads(json.dumps(heads_dict(heads)))) == heads
    assert 15 <= len(heads.prefill) == len(heads.decode) <= 18 and BASE not in dict(heads.prefill)
    assert profile.attention_for(128, None) is profile.attention
    assert profile.decode_attention_for(128, None) is profile.decode_attention
    for head_dim, window, cache in dict(heads.decode):
        assert profile.decode_attention_for(head_dim, window or None, cache).value_bytes == (1 if cache == "fp8" else 2)  # type: ignore[arg-type]
        (said,) = heads.sentences(gpu, head_dim, window or None, cache)  # type: ignore[arg-type]
        assert "measured: aiconfigurator-core 0.12.0" in said and "priced as" not in said
    assert {s.part for s in profile.spreads} >= {"attention other", "decode attention other"}
    assert {path.stem.removeprefix("attention-") for path in PROFILES.glob("attention-*.json")} == set(MEASURED)


@pytest.mark.parametrize("gpu", gpu_names())
def test_every_gpu_says_what_its_other_heads_rest_on(gpu: str) -> None:
    profile = profile_of(load_gpu(gpu))
    heads = profile.heads
    assert heads.sentences(gpu, 128, None, "bf16") == ()
    (said,) = heads.sentences(gpu, 256, 4096, "int8")
    assert said.startswith(f"attention on {gpu} with head size 256, a window of 4096, a int8 cache is priced as with ")
    assert (gpu in MEASURED) == ("(measured" in said) and ("(assumed" in said) == (gpu not in MEASURED)
    for dim, window in ((64, None), (256, 1024)):
        base_s = profile.decode_attention.call(8, 8, 2, dim).seconds(8 * 4096, window)
        found_s = profile.decode_attention_for(dim, window, "fp8").call(8, 8, 2, dim).seconds(8 * 4096, window)
        assert base_s / 8 < found_s < base_s * 8


@given(
    sequences=st.integers(1, 512), context=st.integers(1, 50_000), dim=st.sampled_from([64, 96, 128, 192, 256, 512]),
    window=st.sampled_from([None, 128, 1024, 8192]), cache=st.sampled_from(CACHES), heads=st.sampled_from([1, 4, 8]),
)  # fmt: skip
def test_decoding_never_gets_cheaper_with_context(
    sequences: int, context: int, dim: int, window: int | None, cache: Cache, heads: int
) -> None:
    """Whatever variant serves: what serving's closed form leans on. And `piece` agrees with `seconds`."""
    model = H200.decode_attention_for(dim, window, cache)
    call, tokens = model.call(sequences, heads * 4, heads, dim), sequences * context
    seconds, piece = call.seconds(tokens, window), call.piece(tokens, window)
    assert call.seconds(tokens + sequences, window) >= seconds == piece.seconds >= call.fixed_s
    beyond = min(tokens + 100, int(piece.until)) if piece.until != float("inf") else tokens + 100
    if beyond > tokens:
        assert call.seconds(beyond, window) == pytest.approx(seconds + piece.per_token_s * (beyond - tokens), rel=1e-9)


@pytest.mark.parametrize("gpu", ["h200-sxm", "b200-sxm", "l40s", "rtx-pro-6000"])
def test_longer_prompts_hardly_ever_take_less(gpu: str) -> None:
    """Whatever variant serves: an adjustment falls with length slower than the base grows. Worst found 1.1 %: L40S,
    head size 128, a window of 128, an fp8 cache.
    """
    profile = profile_of(load_gpu(gpu))
    for (head_dim, window, cache), _ in profile.heads.prefill:
        model = profile.attention_for(head_dim, window or None, cache)  # type: ignore[arg-type]
        for batch, heads, kv_heads in ((1, 8, 1), (4, 32, 8), (64, 32, 32)):
            longest_s = 0.0
            for length in (int(128 * 2 ** (step / 4)) for step in range(30)):
                seconds = model.time_s(batch, length, length, heads, kv_heads, head_dim, window or None)
                assert seconds >= 0.98 * longest_s
                longest_s = max(longest_s, seconds)


def test_prices_follow_head_window_and_cache() -> None:
    """Through the cost model; a window that cuts nothing is none, and the base's prices stay to the bit."""
    cluster = load_cluster("8xh200-nvlink")
    profile = load_profile(cluster)
    plain, fp8 = CostModel(profile, cluster.gpu), CostModel(profile, cluster.gpu, cache="fp8")
    decode = DecodeAttend("decode attention", 64, 64 * 8192, 8, 1, 128, None)
    assert plain.kernel_s(decode) - plain.gap_s.value == pytest.approx(
        profile.gpu.decode_attention.time_s(64, 64 * 8192, 8, 1, 128), rel=1e-12
    )
    assert 0.4 < fp8.kernel_s(decode) / plain.kernel_s(decode) < 0.8
    prompt = Attend("attention", 1, 4096, 4096, 8, 1, 128, None)
    for wide in (4096, 8192):
        assert plain.kernel_s(replace(prompt, window=wide)) == plain.kernel_s(prompt)
        assert plain.kernel_s(AttendChunks("attention", ((4096, 4096),), 8, 1, 128, wide)) == pytest.approx(
            plain.kernel_s(prompt), rel=1e-12
        )
    assert (
        plain.kernel_s(replace(prompt, head_dim=64))
        < plain.kernel_s(prompt)
        < plain.kernel_s(replace(prompt, head_dim=256))
    )
    small = replace(prompt, query_tokens=1, key_tokens=1, head_dim=64)
    model = profile.gpu.attention_for(64, None)
    chunks = AttendChunks("attention", ((1, 1),), 8, 1, 64, None)
    assert plain.kernel_s(chunks) >= model.floor_s + plain.gap_s.value and plain.kernel_s(small) > 0


def test_files_that_are_none_are_refused() -> None:
    table = heads_dict(H200.heads)
    for spoilt in ({}, {**table, "prefill": 1}, {**table, "decode": [1]}, {**table, "spreads": [1]}):
        with pytest.raises(ValueError, match=r"attention variants|prefill|decode|validation error"):
            heads_of(spoilt)
    with pytest.raises(ValueError, match="adjust has 16 entries"):
        replace(H200.attention, adjust=(1, 2))
    assert Heads().sentences("x", 64, None, "bf16")[0].endswith("(assumed: that size alone is measured)")
