"""Seconds of kernels and codecs, from a made-up profile with round numbers."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.core.schedule import Interval, Work, build
from thinwire.reference.core.scheme import MX, Codec, Collective, GroupedInt, Raw, Scheme
from thinwire.sim.costs.cost import CostModel, codec_traffic
from thinwire.sim.costs.elementwise import elementwise_bytes
from thinwire.sim.costs.profile import CodecKernel, CompiledCodec, Profile, Quantity
from thinwire.sim.shapes import Attend, AttendChunks, CrossAttend, DecodeAttend, Elementwise, Gemm

from ..helpers import CATALOG, GPU, US, all_close, close, fabric, gpu_profile, machine, made_up

GAP_S = 1.5 * US
COST = CostModel(made_up(), GPU)
INT4, INT8 = GroupedInt(4), GroupedInt(8)


# --- compute kernels ---


def test_a_kernel_costs_its_model_and_the_gap_after_it() -> None:
    gpu = COST.profile.gpu
    attend = Attend("a", 2, 300, 700, 8, 2, 128, 200)
    assert close(COST.kernel_s(attend), gpu.attention.time_s(2, 300, 700, 8, 2, 128, 200) + GAP_S)
    norm = Elementwise("n", "add_rms_norm", 1000, 4096)
    moved = elementwise_bytes("add_rms_norm", 1000, 4096)
    assert close(COST.kernel_s(norm), 2 * US + moved / (1000e9 * 0.8) + GAP_S)
    narrow = Gemm("g", 64, 512, 256, "bf16")
    assert close(COST.kernel_s(narrow), gpu.gemm["bf16"].time_s(64, 512, 256) + GAP_S)
    assert COST.kernel_s(replace(narrow, precision="fp8")) != COST.kernel_s(narrow)


def test_every_kind_of_attention_costs_its_model_and_the_gap_after_it() -> None:
    """Chunks of several prompts in one call take its floor once, and beside it what each takes alone."""
    attention, decoding = COST.profile.gpu.attention, COST.profile.gpu.decode_attention
    chunks = ((300, 300), (64, 2000), (1, 77))
    call = AttendChunks("a", chunks, 8, 2, 128, 500)
    alone_s = [attention.time_s(1, tokens, keys, 8, 2, 128, 500) - attention.floor_s for tokens, keys in chunks]
    assert min(alone_s) > 0
    assert close(COST.kernel_s(call), attention.floor_s + sum(alone_s) + GAP_S)
    decode = DecodeAttend("d", 7, 7 * 900, 8, 2, 128, 512)
    assert close(COST.kernel_s(decode), decoding.time_s(7, 7 * 900, 8, 2, 128, 512) + GAP_S)
    cross = CrossAttend("c", 3, 100, 4000, 8, 2, 128)
    assert close(COST.kernel_s(cross), attention.cross_time_s(3, 100, 4000, 8, 2, 128) + GAP_S)


@pytest.mark.parametrize(("precision", "sustained"), [("bf16", 60e12), ("fp8", 110e12)])
def test_a_large_product_is_bound_by_what_power_allows(precision: str, sustained: float) -> None:
    """Of each precision its own: the roofline alone would be faster than the sustained rate."""
    m, n, k = 8192, 8192, 8192
    alone_s = COST.profile.gpu.gemm[precision].time_s(m, n, k)
    at_sustained_s = 2 * m * n * k / sustained
    assert alone_s < at_sustained_s
    assert close(COST.kernel_s(Gemm("g", m, n, k, precision)), at_sustained_s + GAP_S)  # type: ignore[arg-type]
    gpu = gpu_profile()
    unbound = {p: Quantity(1e18, "assumed: no limit") for p in gpu.sustained_flops_per_s}
    free = CostModel(Profile(replace(gpu, sustained_flops_per_s=unbound), fabric()), GPU)
    assert close(free.kernel_s(Gemm("g", m, n, k, precision)), alone_s + GAP_S)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CATALOG)
def test_every_shipped_profile_prices_every_kernel(name: str) -> None:
    cluster, profile = machine(name)
    cost = CostModel(profile, cluster.gpu)
    precisions = sorted(profile.gpu.gemm)
    assert "bf16" in precisions
    assert precisions == sorted(profile.gpu.sustained_flops_per_s)
    for tokens in (1, 1000, 30_000):
        found = [cost.kernel_s(Gemm("g", tokens, 1280, 8192, p)) for p in precisions]  # type: ignore[arg-type]
        found.append(cost.kernel_s(Attend("a", 1, tokens, tokens, 8, 1, 128, None)))
        found += [cost.kernel_s(Elementwise("e", op, tokens, 4096)) for op in ("rope", "add_rms_norm", "embedding")]
        assert all(profile.gpu.kernel_gap_s.value < seconds < 0.1 for seconds in found)
        peak_s = 2 * tokens * 1280 * 8192 / cluster.gpu.peak_flops_per_s["bf16"]
        assert found[0] > peak_s


# --- codec kernels ---


def one(codec: Codec, kind: str, values: int, rank: int = 0, sources: tuple[int, ...] = (), start: int = 0) -> Work:
    return Work(rank, kind, Interval(start, start + values), codec, sources)  # type: ignore[arg-type]


def test_encoding_reads_values_and_writes_a_buffer() -> None:
    moved = codec_traffic([one(INT4, "encode", 1280)], 2)
    assert moved.local_bytes_R.tolist() == [2560, 0]
    assert moved.wire_bytes_R.tolist() == [INT4.wire_bytes(1280), 0]
    assert moved.passes_R.tolist() == [1, 0]


def test_decoding_reads_a_buffer_and_writes_values() -> None:
    moved = codec_traffic([one(INT4, "decode", 1280, 1, (0,))], 2)
    assert moved.local_bytes_R.tolist() == [0, 2560]
    assert moved.wire_bytes_R.tolist() == [0, INT4.wire_bytes(1280)]


def test_reducing_reads_every_copy() -> None:
    moved = codec_traffic([one(INT4, "reduce", 1280, 0, (0, 1, 2))], 3)
    assert moved.local_bytes_R.tolist() == [2560, 0, 0]
    assert moved.wire_bytes_R.tolist() == [3 * INT4.wire_bytes(1280), 0, 0]


def test_a_sum_is_encoded_in_the_pass_that_made_it() -> None:
    """It stays in registers: neither written nor read as values, and one pass."""
    moved = codec_traffic([one(INT4, "reduce", 1280, 0, (0, 1)), one(INT8, "encode", 1280)], 1)
    assert moved.local_bytes_R.tolist() == [0]
    assert moved.wire_bytes_R.tolist() == [2 * INT4.wire_bytes(1280) + INT8.wire_bytes(1280)]
    assert moved.passes_R.tolist() == [1]
    elsewhere = codec_traffic([one(INT4, "reduce", 1280, 0, (0, 1)), one(INT8, "encode", 1280, start=1280)], 1)
    assert elsewhere.local_bytes_R.tolist() == [2 * 2560]
    assert elsewhere.passes_R.tolist() == [2]


def test_a_step_of_many_chunks_is_one_pass_of_each_kind() -> None:
    moved = codec_traffic([one(INT4, "encode", 128, start=128 * i) for i in range(10)], 1)
    assert moved.passes_R.tolist() == [1]
    assert moved.local_bytes_R.tolist() == [2560]
    assert moved.wire_bytes_R.tolist() == [10 * INT4.wire_bytes(128)]


def test_raw_values_and_empty_intervals_cost_nothing() -> None:
    works = [one(Raw(), "encode", 1000), one(Raw(), "reduce", 1000, 0, (0, 1)), one(INT4, "decode", 0, 0, (1,))]
    assert codec_traffic(works, 1).passes_R.tolist() == [0]
    assert COST.codec_s(works, 1, fused=True).tolist() == [0]


@pytest.mark.parametrize(("fused", "pass_s"), [(True, 2 * US), (False, 5 * US + GAP_S)])
def test_codec_seconds_are_bytes_over_shares_of_the_bandwidth_and_passes(fused: bool, pass_s: float) -> None:
    works = [one(INT4, "encode", 128_000), one(INT4, "decode", 128_000, 0, (1,))]
    (found,) = COST.codec_s(works, 1, fused)
    tensor_s = 0.0 if fused else 2 * 256_000 / (1000e9 * 0.5)  # a fused kernel reads and writes it anyway
    expected = tensor_s + 2 * INT4.wire_bytes(128_000) / (1000e9 * 0.25) + 2 * pass_s
    assert close(found, expected)


@pytest.mark.parametrize("fused", [True, False])
def test_kernels_that_were_timed_cost_what_they_took(fused: bool) -> None:
    """A call, and so much a value, of each copy where several are summed; what was not timed costs as before."""
    lines = (
        CodecKernel(INT4.spec, "encode", 3 * US, 2e-9, "measured: made up"),
        CodecKernel(INT4.spec, "reduce", 7 * US, 5e-9, "measured: made up"),
        CodecKernel(Raw().spec, "reduce", 1 * US, 1e-9, "measured: made up"),
    )
    gpu = gpu_profile()
    cost = CostModel(Profile(replace(gpu, codec=replace(gpu.codec, timed=lines)), fabric()), GPU)
    works = [
        one(INT4, "encode", 1280, 0),
        one(INT4, "reduce", 1280, 1, (0, 1, 2)),
        one(Raw(), "reduce", 1000, 1, (0, 1)),
        one(INT8, "encode", 640, 1),
    ]
    timed_s = [3 * US + 1280 * 2e-9, 7 * US + 3 * 1280 * 5e-9 + 1 * US + 2 * 1000 * 1e-9]
    rest_s = COST.codec_s(works[3:], 2, fused)
    assert all_close(cost.codec_s(works, 2, fused).tolist(), [timed_s[0], timed_s[1] + rest_s[1]])


COMPILED = CompiledCodec(
    INT4.spec, encode=(2 * US, 1e-12), copy=(0.5 * US, 2e-12), total=(3 * US, 4e-12), again=(5 * US, 8e-12),
    decode=(7 * US, 16e-12),
)  # fmt: skip


def priced(*lines: CompiledCodec) -> CostModel:
    """The made-up GPU with kernels priced from their instructions."""
    gpu = gpu_profile()
    codec = replace(gpu.codec, compiled=lines, compiled_source="assumed: made up")
    return CostModel(Profile(replace(gpu, codec=codec), fabric()), GPU)


def test_kernels_priced_from_instructions_cost_that_and_a_gap() -> None:
    """A sum of three copies that is stored on rank 0, one of two that is encoded again on rank 1."""
    works = [
        one(INT4, "reduce", 1280, 0, (0, 1, 2)), one(INT4, "reduce", 640, 1, (0, 1)), one(INT4, "encode", 640, 1),
    ]  # fmt: skip
    stored_s = 3 * 0.5 * US + 3 * US + 1280 * (3 * 2e-12 + 4e-12)
    again_s = 2 * 0.5 * US + 5 * US + 640 * (2 * 2e-12 + 8e-12)
    assert all_close(priced(COMPILED).codec_s(works, 2, False).tolist(), [stored_s + GAP_S, again_s + GAP_S])
    ends = [one(INT4, "encode", 1280, 0), one(INT4, "decode", 640, 1)]
    expected = [2 * US + 1280 * 1e-12 + GAP_S, 7 * US + 640 * 16e-12 + GAP_S]
    assert all_close(priced(COMPILED).codec_s(ends, 2, False).tolist(), expected)


def test_works_of_one_kind_are_one_launch() -> None:
    """Chunks for several peers are encoded by one kernel: one call and one gap, and every value."""
    works = [Work(0, "encode", Interval(640 * at, 640 * at + 640), INT4, ()) for at in range(3)]
    (found,) = priced(COMPILED).codec_s(works, 1, False)
    assert close(found, 2 * US + 1920 * 1e-12 + GAP_S)


def test_fused_kernels_and_codecs_without_a_price_are_a_matter_of_bytes() -> None:
    mixed = [one(INT4, "encode", 1280, 0), one(INT8, "encode", 640, 0)]
    assert priced(COMPILED).codec_s(mixed, 1, False).tolist() == COST.codec_s(mixed, 1, False).tolist()
    assert priced(COMPILED).codec_s(mixed[:1], 1, True).tolist() == COST.codec_s(mixed[:1], 1, True).tolist()
    assert priced(COMPILED).codec_s(mixed[:1], 1, False).tolist() != COST.codec_s(mixed[:1], 1, False).tolist()


def test_raw_values_that_ride_along_move_their_bytes() -> None:
    rides = Work(0, "encode", Interval(1280, 1408), Raw(), (), rides=True)
    coded = one(INT4, "encode", 1280, 0)
    alone, both = (priced(COMPILED).codec_s(works, 1, False)[0] for works in ([coded], [coded, rides]))
    assert close(both - alone, COST.codec_s([coded, rides], 1, False)[0] - COST.codec_s([coded], 1, False)[0])


def test_slower_kernels_are_slower_in_every_part() -> None:
    slow = COMPILED.scaled(3)
    works = [one(INT4, "encode", 1280, 0), one(INT4, "reduce", 640, 1, (0, 1)), one(INT4, "decode", 640, 0)]
    fast_s, slow_s = (priced(line).codec_s(works, 2, False) - [2 * GAP_S, GAP_S] for line in (COMPILED, slow))
    assert all_close(slow_s.tolist(), (3 * fast_s).tolist())


def test_a_relatives_prices_say_whose_they_are() -> None:
    codec = replace(gpu_profile().codec, compiled=(COMPILED,), compiled_source="measured: made up")
    moved = codec.moved("other", 1.5)
    assert moved.compiled == (COMPILED.scaled(1.5),) and moved.wire_share == codec.wire_share
    assert moved.compiled_source == "assumed: as on other, times 1.5 (measured: made up)"
    assert gpu_profile().codec.moved("other", 1.5) == gpu_profile().codec


def test_prices_are_times_and_have_a_source() -> None:
    with pytest.raises(ValueError, match="times lie in"):
        replace(COMPILED, again=(0.0, -1e-12))
    with pytest.raises(ValueError, match="a source starts with"):
        replace(gpu_profile().codec, compiled=(COMPILED,))


def test_times_of_nothing_are_times_and_negative_ones_are_none() -> None:
    assert CodecKernel("bf16", "encode", 0.0, 0.0, "assumed: free")
    for wrong in ((-1e-9, 0.0), (0.0, -1e-9), (math.inf, 0.0)):
        with pytest.raises(ValueError, match="times lie in"):
            CodecKernel("bf16", "encode", *wrong, "assumed: wrong")


@given(
    st.sampled_from(("two_step", "all_gather", "hierarchical")),
    st.integers(2, 8),
    st.integers(1, 60),
    st.sampled_from((INT4, GroupedInt(2, spikes=True), MX("e2m1"))),
)
def test_every_value_is_read_and_written_once_as_the_tensor_itself(
    collective: Collective, ranks: int, groups: int, codec: Codec
) -> None:
    """The input is encoded and the output decoded on every rank; sums in between stay in registers."""
    numel = ranks * codec.group * groups
    schedule = build(Scheme("test", codec, codec, collective), ranks, numel)
    moved = [codec_traffic(step.work, ranks) for step in schedule.lanes[0].steps]
    assert np.sum([m.local_bytes_R for m in moved], axis=0).tolist() == [4 * numel] * ranks
