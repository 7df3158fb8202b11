import copy
import json
import math
import pickle
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from thinwire.sim.costs.gemm import (
    DEFAULT,
    FEATURES,
    TILES,
    WAVE_TILES,
    Correction,
    GemmModel,
    GpuFacts,
    Ladder,
    Roofline,
    covariance,
    features,
    isotonic,
    knots,
)

GPU = GpuFacts("test", 1e15, 2e12, 100)
ONE_TILE = Roofline(2e-6, 1e-6, 0.8, (0.0, 0.0, 0.5, 0.0, 0.0, 0.0))  # 128 x 128 tiles only
PADDED = Roofline(2e-6, 1e-6, 0.8, (0.0, 0.0, 0.5, 0.0, 0.0, 0.0), None, 1.0, 3e-6, 0.5)
MEASURED_M = (64, 65, 96, 128, 129, 192, 256, 257, 512, 513, 1024, 1025, 2048, 4096, 16384)
SHAPES = ((768, 4096), (4096, 512), (4096, 4096), (8192, 8192), (12288, 4096))
SIZES = st.integers(1, 1_000_000), st.integers(1, 260_000), st.integers(1, 32_768)


def corrected(base: Roofline, seed: int, size: float = 0.3, dtype: str = "bf16") -> GemmModel:
    """A model whose correction is rough: random weights, far larger than any fit gives."""
    weights = np.random.default_rng(seed).normal(0.0, size, (len(SHAPES), len(MEASURED_M))).round(4).tolist()
    correction = Correction(MEASURED_M, SHAPES, tuple(map(tuple, weights)), (1.5, 1.5, 4.0, 3.0, 1.5, 1.0, 1, 1, 1, 1))
    return GemmModel(GPU, dtype, base, correction, "assumed: a test")


def soft_maximum(a: float, b: float) -> float:
    return float((a**8 + b**8) ** (1 / 8))


@pytest.mark.parametrize(
    ("m", "waves"),
    [(128, 1), (1280, 1), (1281, 2), (2560, 2), (2561, 3), (12800, 10)],  # n = 1280: 10 tiles a row, 100 SMs
)
def test_compute_is_whole_waves_of_whole_tiles(m: int, waves: int) -> None:
    n, k = 1280, 8192
    tile_s = 2 * 128 * 128 * k / (1e15 / 100 * 0.5)
    memory_s = 2 * (m * k + n * k + m * n) / (2e12 * 0.8)
    expected = 2e-6 + soft_maximum(waves * (1e-6 + tile_s), memory_s)
    assert GemmModel(GPU, "bf16", ONE_TILE, None, "").time_s(m, n, k) == pytest.approx(expected, rel=1e-12)


def test_a_single_row_reads_the_weights_at_the_memory_bandwidth() -> None:
    n, k = 128256, 8192
    model = GemmModel(GPU, "bf16", replace(ONE_TILE, tile_efficiencies=(0.5,) * len(TILES)), None, "")
    assert model.time_s(1, n, k) == pytest.approx(2e-6 + 2 * n * k / (2e12 * 0.8), rel=1e-3)


def test_splitting_k_uses_the_idle_sms() -> None:
    """One tile: 8 parts of it on 8 SMs take an eighth of the time and the cost of adding up."""
    k = 8192
    tile_s = 2 * 128 * 128 * k / (1e15 / 100 * 0.5)
    split = GemmModel(GPU, "bf16", replace(ONE_TILE, split_s=2e-6), None, "")
    expected = 2e-6 + soft_maximum(1e-6 + tile_s / 8 + 2e-6, 4 * 128 * k / (2e12 * 0.8))
    assert split.time_s(128, 128, k) == pytest.approx(expected, rel=1e-3)
    whole = GemmModel(GPU, "bf16", ONE_TILE, None, "")
    assert split.time_s(128, 128, k) < 0.5 * whole.time_s(128, 128, k)
    assert split.time_s(1280, 1280, k) == whole.time_s(1280, 1280, k)  # all SMs busy: nothing to gain


def test_fp8_pays_for_quantising_a_and_moves_half_the_operand_bytes() -> None:
    m, n, k = 100_000, 1, 4096
    memory_s = (m * k + n * k + 2 * m * n) / (2e12 * 0.8)
    fp8 = GemmModel(GPU, "fp8", replace(PADDED, tile_efficiencies=(1.0,) * len(TILES), wave_s=0.0), None, "")
    assert fp8.time_s(m, n, k) == pytest.approx(2e-6 + memory_s + 3 * m * k / 2e12, rel=1e-6)


def test_padding_costs_two_copies_above_256_rows_that_are_no_multiple_of_4() -> None:
    model = GemmModel(GPU, "fp8", PADDED, None, "")
    n, k = 4096, 4096
    for m in (513, 514, 515):
        extra = 3e-6 + 0.5 * (2 * m * k + 4 * m * n) / 2e12
        unpadded = GemmModel(GPU, "fp8", replace(PADDED, pad_launch_s=0.0, pad_passes=0.0), None, "")
        assert model.time_s(m, n, k) == pytest.approx(unpadded.time_s(m, n, k) + extra, rel=1e-12)
    for m in (129, 255, 256, 512, 516):
        unpadded = GemmModel(GPU, "fp8", replace(PADDED, pad_launch_s=0.0, pad_passes=0.0), None, "")
        assert model.time_s(m, n, k) == unpadded.time_s(m, n, k)


@pytest.mark.parametrize("dtype", ["bf16", "fp8"])
@given(*SIZES, st.sampled_from([ONE_TILE, PADDED, replace(ONE_TILE, split_s=1e-6), DEFAULT["bf16"], DEFAULT["fp8"]]))
def test_one_product_and_many_agree(dtype: str, m: int, n: int, k: int, base: Roofline) -> None:
    many = base.times_s(GPU, dtype, np.array([float(m)]), np.array([float(n)]), np.array([float(k)]))
    assert base.time_s(GPU, dtype, m, n, k) == pytest.approx(float(many[0]), rel=1e-12)


def test_what_is_assumed_of_an_unmeasured_gpu_does_not_change_unseen() -> None:
    """The shared rooflines and the tiles are numbers of a fit: a change moves every prediction on such a GPU."""
    products = (
        (1, 4096, 4096), (64, 64, 128), (100, 1000, 8192), (130, 130, 130), (300, 5000, 2048), (1000, 1280, 8192),
        (8192, 8192, 8192), (16384, 64, 28672),
    )  # fmt: skip
    micros = {
        "bf16": (24.2225, 2.61295, 14.262, 2.61804, 18.4845, 39.3688, 1387.1, 621.058),
        "fp8": (15.677, 8.43357, 17.9976, 8.46679, 25.1594, 73.1066, 1817.24, 2005.24),
    }
    for dtype, expected in micros.items():
        found = [DEFAULT[dtype].time_s(GPU, dtype, *product) * 1e6 for product in products]
        assert found == pytest.approx(expected, rel=1e-5)


def test_waves_are_those_of_tiles_that_there_are() -> None:
    assert set(WAVE_TILES) <= set(TILES)


@pytest.mark.parametrize("m", [1, 64, 65, 128, 129, 256, 257, 258, 260, 512, 513, 5000])
def test_a_product_lies_where_its_features_say(m: int) -> None:
    """Counted out one by one: bands of m, the share of the last 256 rows, padding, and room in the last waves."""
    n, k = 1000, 4096
    found = features(GPU, True, np.array([m]), np.array([n]), np.array([k]))[0]
    band = sum(m > edge for edge in (64, 128, 256))
    filled = next(rows for rows in range(1, 257) if (m - rows) % 256 == 0) / 256
    pays = float(m > 256 and m % 4 != 0)
    room = []
    for rows, columns in WAVE_TILES:
        tiles = math.ceil(m / rows) * math.ceil(n / columns)
        waves = next(w for w in range(1, 10**6) if w * GPU.sm_count >= tiles)
        room.append(math.log(waves * GPU.sm_count / tiles))
    expected = [math.log(m), math.log(n), math.log(k), band, filled, pays, *room]
    assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    plain = features(GPU, False, np.array([m]), np.array([n]), np.array([k]))[0]
    assert plain[5] == 0.0 and plain.tolist()[:5] == found.tolist()[:5]


@given(*SIZES, st.integers(0, 100_000), st.integers(0, 20_000), st.integers(0, 4_000), st.sampled_from(["bf16", "fp8"]))
def test_the_roofline_never_decreases(m: int, n: int, k: int, dm: int, dn: int, dk: int, dtype: str) -> None:
    base = DEFAULT[dtype]
    assert base.time_s(GPU, dtype, m + dm, n + dn, k + dk) >= base.time_s(GPU, dtype, m, n, k) * (1 - 1e-12)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5), st.integers(1, 1_000_000), st.integers(1, 1_000_000), st.sampled_from([1, 700, 4096, 9000]))
def test_time_never_decreases_in_m(seed: int, m1: int, m2: int, n: int) -> None:
    """The promise. If this fails: knots must go through `isotonic`, and between them the roofline must lead."""
    model = corrected(replace(ONE_TILE, split_s=1e-6), seed)
    low, high = sorted((m1, m2))
    assert model.time_s(high, n, 4096) >= model.time_s(low, n, 4096) * (1 - 1e-12)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5), st.integers(1, 250_000), st.integers(1, 250_000), st.booleans())
def test_time_never_decreases_in_m_of_one_alignment(seed: int, m1: int, m2: int, aligned: bool) -> None:
    model = corrected(PADDED, seed, dtype="fp8")
    low, high = sorted(4 * m + (0 if aligned else 1) for m in (m1, m2))
    assert model.time_s(high, 4096, 4096) >= model.time_s(low, 4096, 4096) * (1 - 1e-12)


@pytest.mark.parametrize(
    ("base", "dtype", "m"),
    [(ONE_TILE, "bf16", 2048), (PADDED, "fp8", 2048), (PADDED, "fp8", 513), (PADDED, "fp8", 511)],
)
def test_the_correction_is_exact_at_its_knots_where_it_keeps_the_order(base: Roofline, dtype: str, m: int) -> None:
    """By hand: kernel-weighted sum over the measured products, times the roofline."""
    model = corrected(base, seed=1, size=0.003, dtype=dtype)
    assert model.correction is not None
    axes = np.array([(row, n, k) for n, k in SHAPES for row in MEASURED_M], dtype=np.float64).T
    places = features(GPU, base.padded, *axes)
    here = features(GPU, base.padded, np.array([float(m)]), np.array([8192.0]), np.array([8192.0]))
    distance = np.abs(here[0] - places) @ (1 / np.array(model.correction.lengths))
    add = float(np.exp(-distance) @ np.array(model.correction.weights).ravel())
    assert abs(add) > 1e-4
    expected = base.time_s(GPU, dtype, m, 8192, 8192) * math.exp(add)
    assert model.time_s(m, 8192, 8192) == pytest.approx(expected, rel=1e-9)


def test_between_knots_time_steps_where_the_roofline_steps() -> None:
    """n = 4096 is 32 tiles: 3 rows of tiles are a wave of 96, so m = 385 starts the second wave."""
    ladder = Ladder.build((257, 512), [math.log(1.0), math.log(2.0)], [0.1, 0.2])
    assert ladder.log_time_at(384, math.log(1.0)) == ladder.log_time[0]
    assert ladder.log_time_at(385, math.log(2.0)) == pytest.approx(ladder.log_time[1], rel=1e-12)
    model = corrected(ONE_TILE, seed=2, size=0.001)
    assert model.time_s(385, 4096, 4096) > 1.5 * model.time_s(384, 4096, 4096)
    assert model.time_s(384, 4096, 4096) == pytest.approx(model.time_s(257, 4096, 4096), rel=0.02)


def test_beyond_the_measured_the_edge_correction_holds() -> None:
    model = corrected(ONE_TILE, seed=3)
    for m, edge in ((1, 64), (63, 64), (100_000, 16384), (1_000_000, 16384)):
        ratio = model.time_s(m, 4096, 4096) / ONE_TILE.time_s(GPU, "bf16", m, 4096, 4096)
        at_edge = model.time_s(edge, 4096, 4096) / ONE_TILE.time_s(GPU, "bf16", edge, 4096, 4096)
        assert ratio == pytest.approx(at_edge, rel=1e-9)
    model = corrected(ONE_TILE, seed=3, size=0.003)  # so small that knots keep their order
    for k, edge in ((100, 512), (32_768, 8192)):
        ratio = model.time_s(2048, 4096, k) / ONE_TILE.time_s(GPU, "bf16", 2048, 4096, k)
        at_edge = model.time_s(2048, 4096, edge) / ONE_TILE.time_s(GPU, "bf16", 2048, 4096, edge)
        assert ratio == pytest.approx(at_edge, rel=1e-9)
        assert abs(ratio - 1) > 1e-4


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40))
def test_isotonic_is_the_least_squares_one(values: list[float]) -> None:
    assert isotonic(values) == pytest.approx(isotonic_regression(values).x.tolist(), abs=1e-9)


def test_covariance_is_a_product_of_exponentials() -> None:
    a, b = np.zeros((1, FEATURES)), np.arange(FEATURES, dtype=np.float64)[None, :]
    lengths = [2.0] * FEATURES
    assert covariance(a, b, lengths)[0, 0] == pytest.approx(math.exp(-sum(range(FEATURES)) / 2))
    assert covariance(a, a, lengths)[0, 0] == 1.0


def test_knots_split_by_alignment() -> None:
    assert knots(MEASURED_M, padded=False) == (MEASURED_M,)
    aligned, others = knots((64, 65, 256, 257, 512, 513), padded=True)
    assert aligned == (64, 256, 512)
    assert others == (65, 257, 511, 513)


@pytest.mark.parametrize(
    "model", [corrected(ONE_TILE, 4), corrected(PADDED, 5, dtype="fp8"), GemmModel.roofline(1e15, 2e12, 100)]
)
def test_json_round_trip(model: GemmModel) -> None:
    text = json.dumps(model.to_dict())
    again = GemmModel.from_dict(json.loads(text))
    assert again == model
    assert hash(again) == hash(model)
    assert again.to_dict() == model.to_dict()
    for m, n, k in ((1, 128256, 8192), (300, 5000, 3000), (4097, 8192, 3584)):
        assert again.time_s(m, n, k) == model.time_s(m, n, k)
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert copied == model
        assert copied.time_s(777, 4096, 4096) == model.time_s(777, 4096, 4096)


def test_roofline_of_a_gpu_without_measurements() -> None:
    model = GemmModel.roofline(121e12, 300e9, 60, "bf16", name="l4")
    assert model.source.startswith("assumed")
    assert model.correction is None
    assert 0.5 < model.efficiency(8192, 8192, 8192) < 0.85
    assert model.efficiency(1_000_000, 8192, 8192) <= 1
    slow = GemmModel.roofline(1300e12, 5.3e12, 304, matmul_efficiency=668.4 / 1300)
    assert max(slow.base.tile_efficiencies) == pytest.approx(668.4 / 1300)
    assert slow.efficiency(16384, 8192, 8192) == pytest.approx(668.4 / 1300, rel=0.05)


def test_transfer_keeps_shares_and_takes_the_other_gpu_s_peaks() -> None:
    """Twice the flops and twice the bandwidth with as many SMs: half the time, but for launch and waves."""
    base = replace(ONE_TILE, launch_s=0.0, wave_s=0.0)
    model = corrected(base, 6)
    moved = model.transferred(GpuFacts("twice", 2e15, 4e12, 100))
    assert moved.source.startswith("assumed: as test")
    for m, n, k in ((64, 768, 4096), (1000, 4096, 4096), (40_000, 14_000, 8192)):
        assert moved.time_s(m, n, k) == pytest.approx(model.time_s(m, n, k) / 2, rel=1e-9)


def test_speed() -> None:
    """Microseconds a call once a shape is known; a new (n, k) costs milliseconds once. Bounds are sanity alone."""
    shapes = tuple((n, k) for n in (1024, 2048, 4096, 6144, 8192) for k in (512, 1024, 2048, 4096, 8192))
    rows = tuple((0.01,) * 53 for _ in shapes)
    correction = Correction(tuple(range(64, 64 + 53 * 64, 64)), shapes, rows, (1.0,) * FEATURES)
    model = GemmModel(GPU, "bf16", DEFAULT["bf16"], correction, "")
    text = json.dumps(model.to_dict())
    best = {"load": math.inf, "known": math.inf, "shape": math.inf}
    for _ in range(5):
        start = time.process_time()
        fresh = GemmModel.from_dict(json.loads(text))
        best["load"] = min(best["load"], time.process_time() - start)
        fresh.time_s(64, 4096, 4096)
        start = time.process_time()
        fresh.time_s(64, 5000, 4096)
        best["shape"] = min(best["shape"], time.process_time() - start)
        start = time.process_time()
        for m in range(65, 1065):
            fresh.time_s(m, 5000, 4096)
        best["known"] = min(best["known"], (time.process_time() - start) / 1000)
    assert best["load"] < 50e-3
    assert best["known"] < 400e-6
    assert best["shape"] < 400e-3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GpuFacts("x", 0.0, 1.0, 1), "peak_flops_per_s must be positive"),
        (lambda: GpuFacts("x", 1.0, math.inf, 1), "memory_bandwidth_bytes_per_s must be positive"),
        (lambda: replace(ONE_TILE, tile_efficiencies=(0.5,)), "6 tile efficiencies"),
        (lambda: replace(ONE_TILE, tile_efficiencies=(0.0,) * 6), "efficiencies must be positive"),
        (lambda: replace(ONE_TILE, wave_s=-1e-9), "must not be negative"),
        (
            lambda: GemmModel(GPU, "fp4", ONE_TILE, None, ""),
            "dtype must be one of bf16, fp8, fp8-block, int8, int4, nvfp4, mxfp4: 'fp4'",
        ),
        (lambda: GemmModel.roofline(1e15, 1e12, 100, "int8"), "dtype must be one of bf16, fp8: 'int8'"),
        (
            lambda: GemmModel.roofline(1e15, 1e12, 100, matmul_efficiency=1.5),
            r"matmul_efficiency must be in \(0, 1\]: 1.5",
        ),
        (lambda: GemmModel.roofline(1e15, 1e12, 100).time_s(0, 1, 1), "m=0, n=1, k=1"),
        (lambda: GemmModel.from_dict({"form": 0}), "form 0"),
        (lambda: Correction((64, 64), SHAPES[:1], ((0.0, 0.0),), (1.0,) * FEATURES), "strictly ascending"),
        (
            lambda: Correction((64, 65), SHAPES[:1], ((0.0,),), (1.0,) * FEATURES),
            "1 rows \\(shapes, at least one\\) of 2",
        ),
        (lambda: Correction((64,), SHAPES[:1], ((0.0,),), (0.0,) * FEATURES), "positive numbers"),
    ],
)
def test_errors_name_the_value(build: object, message: str) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=message):
        build()
