"""Products in precisions beyond a profile's own: measured, lent, derived, refused."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.core.precision import BITS, Precision
from thinwire.sim.costs.gemm import A_BYTES, B_BYTES, PEAK, ROW_STEP, GemmModel, Roofline
from thinwire.sim.costs.products import (
    FILES,
    Products,
    check_runs,
    derived,
    facts_in,
    measured_products,
    nearest,
    products_of_file,
    with_precisions,
)
from thinwire.sim.costs.shipped import load_profile, profile_of
from thinwire.sim.costs.spread import find
from thinwire.sim.costs.transfer import longest_rate
from thinwire.topologies.load import gpu_names, load_cluster, load_gpu

BEYOND: tuple[Precision, ...] = ("fp8-block", "int8", "int4", "nvfp4", "mxfp4")
MEASURED = {
    "a100-sxm": {"int4", "int8"},
    **{gpu: {"fp8-block"} for gpu in ("h100-sxm", "h200-sxm", "l40s")},
    **{gpu: {"fp8-block", "nvfp4"} for gpu in ("b200-sxm", "b300-sxm", "gb200", "gb300", "rtx-pro-6000")},
}


def test_operands_weigh_what_their_formats_do() -> None:
    assert set(A_BYTES) == set(B_BYTES) == set(PEAK) == set(BITS)
    assert all(B_BYTES[precision] * 8 == bits for precision, bits in BITS.items())
    for precision, rate in PEAK.items():  # weight-only products compute in bf16, the others in their own format
        assert (A_BYTES[precision] == A_BYTES["bf16"]) == (rate == "bf16")


@pytest.mark.parametrize("precision", BITS)
def test_a_long_thin_product_costs_its_weights(precision: Precision) -> None:
    """One row of A: reading B at the bandwidth, with its scales, and a launch."""
    gpu = load_gpu("h200-sxm")
    facts = replace(facts_in(gpu, "bf16"), peak_flops_per_s=1e18)
    base = Roofline(2e-6, 0.0, 0.8, (0.0, 0.0, 0.5, 0.0, 0.0, 0.0))
    n, k = 8192, 8192
    moved = B_BYTES[precision] * n * k + A_BYTES[precision] * k + 2 * n
    expected = 2e-6 + moved / (facts.memory_bandwidth_bytes_per_s * 0.8)
    assert GemmModel(facts, precision, base, None, "").time_s(1, n, k) == pytest.approx(expected, rel=1e-6)


@given(m=st.integers(1, 300), n=st.integers(1, 20000), k=st.integers(1, 20000), step=st.sampled_from([0, 16]))
def test_one_product_and_many_are_priced_alike(m: int, n: int, k: int, step: int) -> None:
    """The formula is written twice; a `row_step` never makes a product dearer, and never falls in m."""
    import numpy as np

    facts = facts_in(load_gpu("h200-sxm"), "int4")
    base = Roofline(2e-6, 1e-6, 0.8, (0.3, 0.4, 0.5, 0.6, 0.6, 0.5), 3e-6, row_step=step)
    one = base.time_s(facts, "int4", m, n, k)
    many = base.times_s(facts, "int4", np.array([m, m + 1.0]), np.array([n, n * 1.0]), np.array([k, k * 1.0]))
    assert one == pytest.approx(float(many[0]), rel=1e-12) and many[1] >= many[0] * (1 - 1e-12)
    assert one <= replace(base, row_step=0).time_s(facts, "int4", m, n, k) * (1 + 1e-12)


@pytest.mark.parametrize("gpu", MEASURED)
def test_measured_products_are_shipped(gpu: str) -> None:
    """And come back from their files whole; the fit's own record and every regime's spread with them."""
    found = measured_products(gpu)
    assert set(found) == MEASURED[gpu]
    for precision, products in found.items():
        assert products_of_file(json.loads(json.dumps(products.to_dict()))) == products
        assert products.model.gpu == facts_in(load_gpu(gpu), precision)
        assert products.fits[0].median < 0.02 and products.fits[0].table == "gemm_quantised"
        assert all(s.part == f"gemm {precision}" and not s.is_assumed for s in products.spreads)
    assert {path.stem.removeprefix("gemm-") for path in FILES.glob("gemm-*.json")} == {*MEASURED, "lent"}


@pytest.mark.parametrize("name", gpu_names())
def test_every_gpu_runs_what_its_arithmetic_allows(name: str) -> None:
    """Each precision is priced, with a ceiling and a spread, and said to be assumed where it is; or refused in a line.
    What the profile has of bf16 and fp8 stays as it is.
    """
    gpu = load_gpu(name)
    own = profile_of(gpu)
    for precision in BEYOND:
        if PEAK[precision] not in gpu.peak_flops_per_s:
            with pytest.raises(
                ValueError, match=f"^{name} has no {precision} arithmetic: weights={precision}, it runs"
            ):
                with_precisions(own, gpu, [precision])
            continue
        found = with_precisions(own, gpu, [precision])
        model = found.gemm[precision]
        assert {key: found.gemm[key] for key in own.gemm} == dict(own.gemm)
        measured = precision in MEASURED.get(name, ())
        assert model.source.startswith("measured" if measured else "assumed")
        assert measured == (found.assumptions == own.assumptions)
        for m in (1, 512, 8192):
            assert find(found.spreads, m, f"gemm {precision}").part == f"gemm {precision}"
        near = nearest(precision, own.gemm)
        share = own.sustained_flops_per_s[near].value / longest_rate(own.gemm[near])
        assert found.sustained_flops_per_s[precision].value == pytest.approx(share * longest_rate(model))
        assert math.isfinite(model.time_s(1, 4096, 4096))
    assert with_precisions(own, gpu, own.gemm) is own  # type: ignore[arg-type]


def test_a_profile_is_loaded_with_what_is_asked() -> None:
    """And refuses what its GPU lacks; without a word it is as it ever was."""
    cluster = load_cluster("8xh200-nvlink")
    plain, found = load_profile(cluster), load_profile(cluster, precisions=("fp8-block", "int4", "bf16"))
    assert set(plain.gpu.gemm) == {"bf16", "fp8"} and set(found.gpu.gemm) - set(plain.gpu.gemm) == {"fp8-block", "int4"}
    assert (found.fabric, found.gpu.attention) == (plain.fabric, plain.gpu.attention)
    with pytest.raises(ValueError, match="h200-sxm has no nvfp4 arithmetic"):
        load_profile(cluster, precisions=["nvfp4"])


def test_who_lends_to_whom() -> None:
    """Within an architecture the fitted model moves; across, or where products are known to differ, a roofline."""

    def of(gpu: str, precision: Precision) -> str:
        return with_precisions(profile_of(load_gpu(gpu)), load_gpu(gpu), [precision]).gemm[precision].source

    assert of("l4", "fp8-block") == "assumed: as l40s, at this GPU's peaks"
    assert of("a100-pcie", "int4") == "assumed: as a100-sxm, at this GPU's peaks"
    assert of("rtx-pro-6000-workstation", "nvfp4") == "assumed: as rtx-pro-6000, at this GPU's peaks"
    for gpu, precision in (("mi300x", "fp8-block"), ("rtx-5090", "nvfp4")):  # another architecture; its own ceiling
        assert of(gpu, precision).startswith("assumed: the roofline of fp8 products")  # type: ignore[arg-type]
    assert of("h200-sxm", "int4").startswith("assumed: the roofline of bf16 products")


def test_weights_alone_save_reading_and_no_arithmetic() -> None:
    """An int4 product of few rows takes less than bf16's on each GPU that derives it, one of many as much."""
    for name in ("h100-sxm", "h200-sxm", "l40s", "rtx-pro-6000", "b200-sxm"):
        gpu = load_gpu(name)
        own = profile_of(gpu).gemm["bf16"]
        model, bare = derived(own, gpu, "int4"), replace(own, correction=None)
        assert model.time_s(1, 8192, 8192) < 0.5 * bare.time_s(1, 8192, 8192)
        assert model.time_s(8192, 8192, 8192) == pytest.approx(bare.time_s(8192, 8192, 8192), rel=0.02)
        assert model.base.row_step == ROW_STEP["int4"] and not model.base.quantise_passes


def test_a_file_that_is_none_is_refused() -> None:
    found = next(iter(measured_products("l40s").values()))
    for spoilt in ({}, {**found.to_dict(), "gemm": {}}, {**found.to_dict(), "spreads": [1]}):
        with pytest.raises(ValueError, match=r"GEMM model|validation error"):
            products_of_file(spoilt)
    with pytest.raises(
        ValueError, match="a100-sxm has no nvfp4 arithmetic: weights=nvfp4, it runs bf16, int8, int4, mx"
    ):
        check_runs(load_gpu("a100-sxm"), "nvfp4")
    assert isinstance(found, Products)
