"""Costs of mixtures as files: every GPU has them, dense predictions never read them, and kernels are priced by them."""

import subprocess
import sys
from dataclasses import replace

import pytest

from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.experts import ExpertsModel
from thinwire.sim.costs.heads import NO_HEADS
from thinwire.sim.costs.profile import MIXTURE, gpu_profile, gpu_profile_dict
from thinwire.sim.costs.shipped import PROFILES, load_profile, mixture_of, profile_of
from thinwire.sim.costs.spread import UNKNOWN
from thinwire.sim.interval import kernel_spread
from thinwire.sim.shapes import Attend, AttendChunks, Kernel, LatentDecode, Recurrent, RoutedExperts
from thinwire.topologies.load import gpu_names, load_cluster, load_gpu

EXPERTS = RoutedExperts("experts", 8192, 128, 256, 7168, 2048, True, "fp8-block")
LATENT = LatentDecode("attention", 64, 64 * 4096, 16, 512, 64)
DELTA = Recurrent("delta net", "delta", 4096, 1, 32, 128, 128, 16, 4)
PROMPT = Attend("attention", 2, 4096, 4096, 16, 16, 192, None, 128)
KERNELS: tuple[Kernel, ...] = (EXPERTS, LATENT, DELTA, PROMPT)


def cost_on(cluster: str = "8xh200-nvlink", launch: str = "graph") -> CostModel:
    machine = load_cluster(cluster)
    return CostModel(load_profile(machine), machine.gpu, launch)  # type: ignore[arg-type]


WHOLE = {"prefill", "step"}


@pytest.mark.parametrize("name", gpu_names())
def test_every_gpu_has_costs_that_say_whose_they_are(name: str) -> None:
    """Measured where a file lies there, else moved from the relative or a roofline, marked, spreads with it."""
    gpu = load_gpu(name)
    found = mixture_of(gpu)
    own = (PROFILES / f"mixture-{name}.json").exists()
    experts = found.experts.of("bf16")
    assert experts.source.startswith("measured" if own else "assumed")
    assert experts.memory_bandwidth_bytes_per_s == gpu.memory_bandwidth_bytes_per_s
    assert found.latent.sm_count == found.recurrent.sm_count == gpu.sm_count
    kernels = [spread for spread in found.spreads if spread.part not in WHOLE]
    assert own or gpu.relative is None or all(spread.is_assumed for spread in kernels)
    assert {spread.part for spread in found.spreads} >= WHOLE  # whole runs, whatever the GPU
    assert bool(found.fits) == own
    for record in found.fits:
        assert 0 <= record.median <= record.percentile_90 <= record.worst


def test_a_dense_prediction_never_reads_them() -> None:
    """Neither modules nor files: what a cold start pays for."""
    told = (
        "import sys; from thinwire.sim.costs.shipped import load_profile; from thinwire.topologies.load import"
        " load_cluster; load_profile(load_cluster('8xh200-nvlink'));"
        " print([m for m in sys.modules if m.endswith(('experts', 'latent', 'recurrent')) and 'sim.costs' in m])"
    )
    out = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_kernels_are_priced_by_their_models_and_a_gap() -> None:
    cost = cost_on(launch="eager")
    found, gap_s = cost.mixture, cost.gap_s.value
    latent, recurrent = found.latent, found.recurrent
    expected = {
        EXPERTS: found.experts.time_s(8192, 128, 256, 7168, 2048, True, "fp8-block"),
        LATENT: latent.decode_s(64, 64 * 4096, 16, 512, 64),
        DELTA: recurrent.time_s("delta", 4096, 1, 32, 128, 128, 16, 4),
        PROMPT: latent.prefill_s(2, 4096, 4096, 16, 192, 128),
    }
    for kernel, seconds in expected.items():
        assert cost.kernel_s(kernel) == pytest.approx(seconds + gap_s, rel=1e-12)


def test_chunks_of_latent_attention_launch_once() -> None:
    cost = cost_on()
    one, two = (AttendChunks("a", ((512, 4096),) * n, 16, 16, 192, None, 128) for n in (1, 2))
    launch_s = cost.mixture.latent.prefill_launch_s
    alone_s = cost.kernel_s(one)
    assert alone_s == pytest.approx(cost.kernel_s(Attend("a", 1, 512, 4096, 16, 16, 192, None, 128)), rel=1e-12)
    assert cost.kernel_s(two) == pytest.approx(2 * alone_s - launch_s, rel=1e-12)


def test_a_head_with_its_value_dim_alone_is_plain_attention() -> None:
    """`value_dim` None: the dense model's, as ever."""
    cost = cost_on()
    plain = Attend("a", 2, 4096, 4096, 16, 4, 128, None)
    assert cost.kernel_s(plain) == cost.profile.gpu.attention.time_s(2, 4096, 4096, 16, 4, 128, None) + cost.gap_s.value


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: type(kernel).__name__)
@pytest.mark.parametrize("cluster", ["8xh200-nvlink", "8xa100-nvlink", "4xl4-pcie", "8xmi300x-xgmi"])
def test_every_kernel_has_a_spread(kernel: Kernel, cluster: str) -> None:
    cost = cost_on(cluster)
    if isinstance(kernel, RoutedExperts) and "fp8" not in cost.gpu.peak_flops_per_s:
        kernel = replace(kernel, precision="bf16")
    found = kernel_spread(kernel, cost)
    assert found is not None
    assert found.low <= 0 <= found.high


def test_a_precision_that_stands_in_is_off_by_what_its_like_are() -> None:
    found = kernel_spread(replace(EXPERTS, precision="int8"), cost_on())
    assert found is not None
    assert found.part == "experts 8 bits"
    assert found.is_assumed
    assert found is not UNKNOWN


def test_a_users_own_models_go_before() -> None:
    """In the file of a profile they stand beside the others, and a profile without them is written as ever."""
    gpu = load_gpu("h200-sxm")
    plain = replace(profile_of(gpu), heads=NO_HEADS)  # those have a file of their own
    assert not set(MIXTURE) & set(gpu_profile_dict(plain))
    own = replace(plain, experts=ExpertsModel.roofline("h200-sxm", gpu.peak_flops_per_s, 1e12))
    assert gpu_profile(gpu_profile_dict(own)) == own
    assert mixture_of(gpu, own).experts is own.experts
    assert mixture_of(gpu, own).latent == mixture_of(gpu).latent
    with pytest.raises(ValueError, match="profile h200-sxm: latent attention model must be a table"):
        gpu_profile(gpu_profile_dict(own) | {"latent": 3})


def test_a_gpu_that_is_like_none_gets_a_roofline() -> None:
    found = mixture_of(replace(load_gpu("h200-sxm"), name="unheard-of", relative=None))
    assert found.experts.of("fp8").source.startswith("assumed: efficiencies as of bf16 (assumed: typical shares")
    assert found.latent.source.startswith("assumed: typical")
    assert found.recurrent.scan("delta").source.startswith("assumed: typical")
    assert {spread.part for spread in found.spreads} == WHOLE  # of kernels UNKNOWN is found instead
