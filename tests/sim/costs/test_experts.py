"""Routed experts: closed forms, the promises about growth for every shipped profile, stand-ins and refusals."""

import json
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.sim.costs.experts import ROWS_AXIS, STAND_INS, VALUE_BYTES, ExpertsModel, GroupedKernels, peak_of
from thinwire.sim.costs.shipped import PROFILES, mixture_of
from thinwire.topologies.load import load_gpu

GPUS = sorted(path.stem.removeprefix("mixture-") for path in PROFILES.glob("mixture-*.json"))
PEAKS = {"bf16": 1e12, "fp8": 2e12, "int8": 2e12}
IDEAL = GroupedKernels(
    precision="bf16", peak_flops_per_s=1e12, memory_bandwidth_bytes_per_s=1e9, bytes_per_value=2.0, width_block=64,
    launch_s=1e-5, depth_s=1e-9, share_efficiency=0.5, expert_s=1e-6, sharpness=1.0, row_passes=2.0,
    passed_passes=0.5, efficiencies=(0.01, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5), cache_bytes=1e6, cache_speedup=3.0,
    cache_steepness=4.0, source="assumed: by hand",
)  # fmt: skip
MODEL = ExpertsModel("by hand", PEAKS, {"bf16": IDEAL})
precisions = st.sampled_from(sorted(VALUE_BYTES))


@cache
def shipped(gpu: str) -> ExpertsModel:
    return mixture_of(load_gpu(gpu)).experts


def offered(gpu: str) -> list[str]:
    """Precisions that a GPU has kernels for, or stand-ins."""
    model, found = shipped(gpu), []
    for precision in VALUE_BYTES:
        try:
            model.of(precision)
        except ValueError:
            continue
        found.append(precision)
    return found


def test_every_term_is_the_closed_form() -> None:
    """By hand: 64 rows of 4 experts of 1,000 x 100, padded to 128; sharpness 1 adds products and weights up."""
    row_bytes = 2 * (2 * 1000 + 4 * 128)
    products_s = 2 * 3 * 1000 * 128 * 64 / (0.1 * 1e12)
    weights_s = 4 * (3 * 1000 * 128 * 2 / 0.5e9 + 1e-6)
    expected = 1e-5 + 1e-9 * 1100 + 2 * 64 * row_bytes / 1e9 + products_s + weights_s
    assert MODEL.time_s(64, 4, 8, 1000, 100, True, "bf16") == pytest.approx(expected, rel=1e-12)
    passed_s = 0.5 * 1000 * row_bytes / 1e9
    assert MODEL.time_s(64, 4, 8, 1000, 100, True, "bf16", passed=1000) == pytest.approx(expected + passed_s, rel=1e-12)


def test_two_products_are_two_thirds_of_three() -> None:
    """Weights and products of an expert without a gate; its activations are fewer, too."""
    free = replace(IDEAL, launch_s=0.0, depth_s=0.0, row_passes=0.0, expert_s=0.0)
    gated, plain = (free.time_s(64, 4, 1000, 128, gate) for gate in (True, False))
    assert plain == pytest.approx(gated * 2 / 3, rel=1e-12)


def test_efficiency_is_given_at_nodes_and_stays_beyond() -> None:
    assert [IDEAL.efficiency(rows) for rows in ROWS_AXIS] == pytest.approx(IDEAL.efficiencies)
    assert IDEAL.efficiency(1e6) == 0.5
    assert IDEAL.efficiency(4) == pytest.approx(0.01 * 10**0.5)  # half-way between 1 and 16, in logarithms


def test_small_weights_are_read_from_the_cache_when_replayed() -> None:
    """Three times as fast far below `cache_bytes`, as ever far above; an engine's never."""
    small, large = ((8, 1, 64, 64, True), (8, 1, 10_000, 10_000, True))
    reading_s = 3 * 64 * 64 * 2 / 0.5e9
    assert IDEAL.time_s(*small) - IDEAL.replayed_s(*small) == pytest.approx(reading_s * 2 / 3, rel=1e-3)
    assert IDEAL.replayed_s(*large) == pytest.approx(IDEAL.time_s(*large), rel=1e-6)


def test_nothing_takes_no_time_and_skipping_takes_some() -> None:
    assert MODEL.time_s(0, 0, 8, 1000, 128, True, "bf16") == 0.0
    assert MODEL.time_s(0, 0, 8, 1000, 128, True, "bf16", passed=100) > IDEAL.launch_s


@settings(max_examples=60, deadline=None)
@given(
    gpu=st.sampled_from(GPUS),
    data=st.data(),
    hit=st.integers(1, 512),
    per_expert=st.integers(1, 20_000),
    hidden=st.sampled_from([1024, 2880, 7168]),
    width=st.sampled_from([64, 96, 704, 2048, 14336]),
    gated=st.booleans(),
)
def test_more_rows_or_experts_never_take_less(
    gpu: str, data: st.DataObject, hit: int, per_expert: int, hidden: int, width: int, gated: bool
) -> None:
    """The promise that serving's tables rest on: in rows, in experts hit at the same rows, in pairs passed by, and in
    the width.
    """
    precision = data.draw(st.sampled_from(offered(gpu)))
    rows = hit * per_expert + data.draw(st.integers(0, hit - 1))
    kernels = shipped(gpu).of(precision)
    least = kernels.time_s(rows, hit, hidden, width, gated) * (1 - 1e-12)
    more = data.draw(st.integers(1, 10_000))
    assert kernels.time_s(rows + more, hit, hidden, width, gated) >= least
    assert kernels.time_s(rows, min(hit + more, rows), hidden, width, gated) >= least
    assert kernels.time_s(rows, hit, hidden, width, gated, passed=more) >= least
    assert kernels.time_s(rows, hit, hidden, width + more, gated) >= least


@pytest.mark.parametrize("gpu", GPUS)
def test_no_shipped_kernel_is_faster_than_its_gpu(gpu: str) -> None:
    """Weights of all experts cannot pass memory faster than its bandwidth, nor large products the peak by a fifth."""
    bandwidth = load_gpu(gpu).memory_bandwidth_bytes_per_s
    for precision in offered(gpu):
        kernels = shipped(gpu).of(precision)
        weights = 128 * 3 * 7168 * 2048 * VALUE_BYTES[precision]
        assert kernels.time_s(128, 128, 7168, 2048, True) > weights / bandwidth
        flops = 2 * 3 * 7168 * 2048 * 128 * 8192
        assert kernels.time_s(128 * 8192, 128, 7168, 2048, True) > flops / (1.2 * kernels.peak_flops_per_s)


def test_a_precision_without_a_table_stands_in_and_says_so() -> None:
    """Half the bytes at twice the rate; the lender is named."""
    found = MODEL.of("fp8")
    assert (found.bytes_per_value, found.peak_flops_per_s, found.efficiencies) == (1, 2e12, IDEAL.efficiencies)
    assert found.source == "assumed: efficiencies as of bf16 (assumed: by hand)"
    assert MODEL.of("int4").peak_flops_per_s == 1e12  # unpacked into bf16
    assert all(lender in VALUE_BYTES for lenders in STAND_INS.values() for lender in lenders)


def test_a_precision_that_the_gpu_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of bf16, int4, nvfp4, mxfp4 on this GPU: 'fp8-block'"):
        ExpertsModel("old", {"bf16": 1e12}, {"bf16": IDEAL}).of("fp8-block")
    with pytest.raises(ValueError, match="'fp3'"):
        MODEL.of("fp3")
    assert peak_of("nvfp4", {"bf16": 1e12, "fp4": 5e12}) == 4 * peak_of("nvfp4", {"bf16": 1e12})


@pytest.mark.parametrize(
    ("rows", "hit", "experts", "hidden", "width", "passed"),
    [(4, 5, 8, 64, 64, 0), (4, 0, 8, 64, 64, 0), (16, 9, 8, 64, 64, 0), (4, 1, 8, 0, 64, 0), (4, 1, 8, 64, 64, -1)],
)
def test_sizes_that_do_not_fit_are_refused(
    rows: int, hit: int, experts: int, hidden: int, width: int, passed: int
) -> None:
    with pytest.raises(ValueError, match=f"rows={rows}, hit={hit}"):
        MODEL.time_s(rows, hit, experts, hidden, width, True, "bf16", passed)


def test_a_relatives_kernels_keep_their_shares_on_other_facts() -> None:
    """Twice the bandwidth and the peak: what is neither launch nor depth takes half. What the GPU lacks goes."""
    both = ExpertsModel("by hand", PEAKS, {"bf16": IDEAL, "fp8": replace(IDEAL, precision="fp8")})
    moved = both.moved_to("twice", {"bf16": 2e12}, 2e9)
    assert set(moved.kernels) == {"bf16"}
    assert moved.of("bf16").source == "assumed: efficiencies as on by hand (assumed: by hand)"
    fixed = 1e-5 + 1e-9 * 1128 + 4e-6
    here, there = (m.time_s(64, 4, 8, 1000, 128, True, "bf16") for m in (both, moved))
    assert there - fixed == pytest.approx((here - fixed) / 2, rel=1e-9)


@pytest.mark.parametrize("gpu", GPUS)
def test_a_model_survives_its_file(gpu: str) -> None:
    model = shipped(gpu)
    assert ExpertsModel.from_dict(json.loads(json.dumps(model.to_dict()))) == model


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"efficiencies": (0.5,) * 8}, "need 9 efficiencies"),
        ({"efficiencies": (0.2, 0.1, 0.2, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5)}, "must not fall"),
        ({"efficiencies": (0.01, 0.1, 0.21, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5)}, "nor rise faster than rows"),
        ({"sharpness": 0.5}, "exponents lie in 1..100"),
        ({"share_efficiency": 0.0}, "share_efficiency must be positive"),
        ({"row_passes": -1.0}, "row_passes must not be negative"),
    ],
)
def test_numbers_that_break_the_promises_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(IDEAL, **change)  # type: ignore[arg-type]


def test_a_file_with_a_bad_number_is_refused_by_name() -> None:
    table = MODEL.to_dict()
    table["kernels"]["bf16"]["launch_s"] = "soon"
    with pytest.raises(ValueError, match="experts model: 'bf16': launch_s must be a number"):
        ExpertsModel.from_dict(table)
    table = MODEL.to_dict() | {"peaks_flops_per_s": {"bf16": -1}}
    with pytest.raises(ValueError, match="peaks_flops_per_s"):
        ExpertsModel.from_dict(table)
