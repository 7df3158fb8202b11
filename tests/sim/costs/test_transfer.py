"""A GPU without a profile gets its relative's efficiencies at its own peaks: never seconds, and never silently."""

from collections.abc import Mapping
from dataclasses import replace
from math import hypot
from pathlib import Path

import pytest

from thinwire.reference.families.config import load_model
from thinwire.sim import api
from thinwire.sim.costs.profile import GpuProfile
from thinwire.sim.costs.shipped import PROFILES, load_profile, profile_of, transfer_spreads
from thinwire.sim.costs.spread import UNKNOWN, find
from thinwire.sim.costs.transfer import LONGEST, RELATIONS, further, longest_rate, products_of, relation_of, relation_to
from thinwire.sim.predict import predict
from thinwire.sim.workload import Prompt
from thinwire.topologies.cluster import Cluster, Gpu
from thinwire.topologies.load import gpu_names, load_cluster, load_gpu

SAME, NEAR, FAR = RELATIONS
DERIVED = [name for name in gpu_names() if not (PROFILES / f"gpu-{name}.json").exists()]
SIZES = ((64, 4096, 4096), (512, 6144, 4096), (2048, 28672, 4096), (8192, 8192, 8192))


def like(gpu: Gpu, **changes: object) -> Gpu:
    """A GPU that no profile is of."""
    return replace(gpu, name="mine", **changes)  # type: ignore[arg-type]


def alone(gpu: Gpu) -> Cluster:
    """One GPU, on a catalog machine that has others."""
    return replace(load_cluster("8xl40s-pcie"), gpu=gpu).take(1)


# --- how near ---


def test_relations_follow_chip_then_architecture() -> None:
    l40s = load_gpu("l40s")
    assert relation_of(load_gpu("rtx-4090d"), l40s) == SAME
    assert relation_of(load_gpu("l4"), l40s) == NEAR
    assert relation_of(load_gpu("rtx-3090"), l40s) == FAR
    unknown = replace(l40s, chip=None, architecture=None)
    assert relation_of(unknown, unknown) == FAR, "what no file says is not the same"
    assert [further(a, b) for a in (SAME, FAR) for b in (NEAR, FAR)] == [NEAR, FAR, FAR, FAR]


def test_a_chain_of_relatives_is_as_near_as_its_longest_step() -> None:
    assert relation_of(load_gpu("mi325x"), load_gpu("mi300x")) == SAME
    assert relation_to(load_gpu("mi325x"), "mi300x") == FAR, "the MI300X's kernels are borrowed across architectures"
    assert relation_to(like(load_gpu("l40")), "l40") == SAME


# --- what moves ---


@pytest.mark.parametrize("relative", ["a100-sxm", "l40s", "h200-sxm", "rtx-pro-6000", "b200-sxm"])
def test_a_twin_costs_what_its_relative_does(relative: str) -> None:
    """Same peaks, same chip: all kernels and ceilings to the last digit, all of it assumed."""
    known, twin = profile_of(load_gpu(relative)), profile_of(like(load_gpu(relative), relative=relative))
    for precision, model in known.gemm.items():
        for size in SIZES:
            assert twin.gemm[precision].time_s(*size) == pytest.approx(model.time_s(*size), rel=1e-12)
        assert twin.sustained_flops_per_s[precision].value == pytest.approx(
            known.sustained_flops_per_s[precision].value, rel=1e-12
        )
    assert twin.attention.time_s(2, 1024, 1024, 8, 2, 128) == known.attention.time_s(2, 1024, 1024, 8, 2, 128)
    assert twin.decode_attention.time_s(8, 8192, 8, 2, 128) == known.decode_attention.time_s(8, 8192, 8, 2, 128)
    assert twin.elementwise.time_s("silu_mul", 2**26) == known.elementwise.time_s("silu_mul", 2**26)
    assert twin.kernel_gap_s.value == known.kernel_gap_s.value
    assert twin.codec.wire_share.value == known.codec.wire_share.value
    sources = [m.source for m in twin.gemm.values()] + [q.source for q in twin.sustained_flops_per_s.values()]
    sources += [twin.attention.source, twin.decode_attention.source, twin.kernel_gap_s.source]
    assert all(source.startswith("assumed: ") for source in sources)
    assert twin.name == "mine" and twin.fits == () and relative in twin.assumptions[0]


def test_efficiencies_move_and_not_seconds() -> None:
    """A card of the same chip with everything halved takes twice as long, but for launches: all bounds scale."""
    h200 = load_gpu("h200-sxm")
    half = like(
        h200,
        relative="h200-sxm",
        peak_flops_per_s={p: peak / 2 for p, peak in h200.peak_flops_per_s.items()},
        memory_bandwidth_bytes_per_s=h200.memory_bandwidth_bytes_per_s / 2,
    )
    known, moved = profile_of(h200), profile_of(half)
    assert moved.gemm["bf16"].time_s(*LONGEST) == pytest.approx(2 * known.gemm["bf16"].time_s(*LONGEST), rel=0.01)
    assert moved.sustained_flops_per_s["bf16"].value == pytest.approx(
        known.sustained_flops_per_s["bf16"].value / 2, 0.01
    )
    floor_s = known.elementwise.costs["copy"].floor_s
    copy_s = known.elementwise.time_s("copy", 2**30) - floor_s
    assert moved.elementwise.time_s("copy", 2**30) == pytest.approx(floor_s + 2 * copy_s)


def test_precisions_that_the_gpu_lacks_go() -> None:
    assert set(profile_of(load_gpu("l40s")).gemm) == {"bf16", "fp8"}
    for name in ("rtx-3090", "a40", "t4", "mi210"):
        profile = profile_of(load_gpu(name))
        assert set(profile.gemm) == set(profile.sustained_flops_per_s) == {"bf16"}
        assert not any(s.part == "gemm fp8" for s in profile.spreads)
    with pytest.raises(ValueError, match="a40 has no fp8 arithmetic: weights=fp8, it runs bf16, int4, mxfp4"):
        api.predict("llama-3-8b", alone(load_gpu("a40")), "bf16", weights="fp8")


def test_products_cross_architectures_as_a_roofline_alone() -> None:
    known = profile_of(load_gpu("l40s")).gemm["bf16"]
    assert known.correction is not None
    assert products_of(known, load_gpu("rtx-6000-ada"), SAME).correction == known.correction
    across = products_of(known, load_gpu("a40"), FAR)
    assert across.correction is None and "pooled" in across.source
    borrowed = profile_of(load_gpu("mi300x")).gemm["bf16"]
    assert borrowed.correction is None
    assert products_of(borrowed, load_gpu("mi355x"), FAR).base == borrowed.base, "scaled to what MI300X reaches"


@pytest.mark.parametrize("name", [name for name in DERIVED if load_gpu(name).matmul_flops_per_s is not None])
def test_large_products_are_as_fast_as_the_file_says(name: str) -> None:
    """Within 8 %: the best tile reaches the figure, and a last wave costs a little; never beyond the peak."""
    gpu = load_gpu(name)
    assert gpu.matmul_flops_per_s is not None
    known = min(gpu.matmul_flops_per_s, gpu.peak_flops_per_s["bf16"])
    assert longest_rate(profile_of(gpu).gemm["bf16"]) == pytest.approx(known, rel=0.08)
    assert longest_rate(profile_of(gpu).gemm["bf16"]) <= gpu.peak_flops_per_s["bf16"]


# --- what it says ---


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_profile_says_what_it_rests_on(name: str) -> None:
    gpu = load_gpu(name)
    profile = profile_of(gpu)
    assert profile.gpu == profile.name == name and profile is profile_of(gpu), "derived once"
    assert f"no kernel is measured on {name}" in profile.assumptions[0] and str(gpu.relative) in profile.assumptions[0]
    relation = relation_to(gpu, str(gpu.relative))
    assert relation in profile.assumptions[0]
    stands_in = gpu.sources["peak.bf16"].startswith("assumed")
    assert any("dense bf16 peak assumed" in said for said in profile.assumptions) == stands_in
    parts = {
        *(f"gemm {p}" for p in profile.gemm),
        *("attention", "decode attention", "elementwise", "gap", "codec", "codec fused"),
    }
    assert {s.part for s in profile.spreads} == parts | {"prefill"}
    assert all(s.is_assumed and s.bias == 0 for s in profile.spreads)
    for part in (*parts, "prefill"):
        assert find(profile.spreads, 1e15, part) is not UNKNOWN and find(profile.spreads, 1e15, part).up_to is None


def test_further_relatives_give_wider_intervals() -> None:
    """Products and attention: of the same chip surer than across architectures; all of it less sure than measured."""
    known = transfer_spreads()
    assert tuple(known) == RELATIONS
    for part in ("gemm bf16", "gemm fp8", "attention", "decode attention"):
        for size in (64, 2048, 32768):
            near, far = (find(known[relation], size, part) for relation in (SAME, FAR))
            assert hypot(near.low, near.high) < hypot(far.low, far.high), (part, size)
            own = find(profile_of(load_gpu("h200-sxm")).spreads, size, part)
            assert own.high - own.low < near.high - near.low, (part, size)
    carried = find(profile_of(load_gpu("l40s")).spreads, 0, "prefill")
    for spreads in known.values():
        whole = find(spreads, 0, "prefill")
        assert whole.low < carried.low and whole.high > carried.high, "the longest products are not measured either"


# --- whole prefills ---


@pytest.mark.parametrize("name", gpu_names())
def test_every_gpu_answers_a_prefill_or_says_that_it_does_not_fit(name: str) -> None:
    """Between the roofline of the whole pass (operations at the peak, weights once from memory) and five times it, and
    longer for a longer prompt.
    """
    gpu, model = load_gpu(name), load_model("llama-3-8b")
    cluster = alone(gpu)
    try:
        found = api.predict(model, cluster, "bf16", input_tokens=2048)
    except ValueError as error:
        assert "does not fit" in str(error) and gpu.memory_bytes < 16.6e9
        return
    matrices = model.parameters - 2 * model.vocab_size * model.hidden_size  # the head runs on the last token alone
    least_s = max(2 * matrices * 2048 / gpu.peak_flops_per_s["bf16"], 2 * matrices / gpu.memory_bandwidth_bytes_per_s)
    assert least_s < found.ttft_s < 5 * least_s
    assert found.interval.low_s < found.ttft_s < found.interval.high_s
    assert all(term.spread is not UNKNOWN for term in found.interval.terms)
    longer = api.predict(model, cluster, "bf16", input_tokens=3000)
    assert longer.ttft_s > found.ttft_s


def test_of_one_chip_the_stronger_card_is_sooner() -> None:
    """H100 SXM before NVL before PCIe; A100 80GB before 40GB before A30; RTX 4090 D after RTX 5090."""
    chains = (("h100-sxm", "h100-nvl", "h100-pcie"), ("a100-sxm", "a100-sxm-40gb", "a30"), ("rtx-5090", "rtx-4090d"),
              ("mi325x", "mi250x", "mi210"), ("rtx-pro-6000-workstation", "rtx-pro-6000-max-q"))  # fmt: skip
    for chain in chains:
        times = [api.predict("llama-3-8b", alone(load_gpu(name)), "bf16", input_tokens=1024).ttft_s for name in chain]
        assert times == sorted(times), chain


# --- a user's own ---


def written(tmp_path: Path, changes: Mapping[str, str]) -> Cluster:
    """A machine whose GPU is the user's file: an L4, changed."""
    root = Path(__file__).parents[3]
    gpu = (root / "topologies" / "gpus" / "l4.toml").read_text("utf-8")
    for old, new in {'name = "l4"': 'name = "mine"', **changes}.items():
        assert old in gpu
        gpu = gpu.replace(old, new)
    (tmp_path / "mine.toml").write_text(gpu, "utf-8")
    machine = (root / "examples" / "my-machine.toml").read_text("utf-8")
    named = [line for line in machine.splitlines() if line.startswith("gpu = ")]
    (tmp_path / "machine.toml").write_text(machine.replace(named[0], 'gpu = "mine.toml"'), "utf-8")
    return load_cluster(tmp_path / "machine.toml")


def test_a_gpu_of_ones_own_names_its_relative(tmp_path: Path) -> None:
    found = written(tmp_path, {'relative = "l40s"': 'relative = "rtx-4090"'})
    profile: GpuProfile = load_profile(found).gpu
    assert profile.name == "mine" and "rtx-4090" in profile.assumptions[0] and NEAR in profile.assumptions[0]
    prediction = api.predict("llama-3-8b", found, "bf16", tp=2, input_tokens=512)
    assert any("no kernel is measured on mine" in said for said in prediction.assumptions)
    assert prediction.interval.high_s > 1.2 * prediction.ttft_s
    second = written(tmp_path, {'relative = "l40s"': 'relative = "rtx-3090"'})
    assert FAR in load_profile(second).gpu.assumptions[0], "a relative may itself be derived"


def test_a_gpu_without_a_relative_is_refused_for_kernels_alone(tmp_path: Path) -> None:
    found = written(tmp_path, {'relative = "l40s"\n': ""})
    with pytest.raises(ValueError, match=r"no gpu profile named mine; shipped are .*relative"):
        api.predict("llama-3-8b", found, "bf16", tp=2)
    plain = api.collective(found, "bf16", 2**20, tp=2)
    catalog = api.collective(replace(found, gpu=load_gpu("l40s")), "bf16", 2**20, tp=2)
    assert plain["time_us"] == catalog["time_us"] and not any("mine" in said for said in plain["assumptions"])
    coded = api.collective(found, "flash-int4", 2**24, tp=2)
    assert coded["codec_us"] > 0 and any("names no relative" in said for said in coded["assumptions"])


def test_the_main_path_takes_a_derived_profile_as_any_other() -> None:
    cluster = alone(load_gpu("gh200"))
    found = predict(
        load_model("llama-3-8b"), cluster, api.find_scheme("bf16"), Prompt(1, 512, "fp8"), load_profile(cluster)
    )
    assert found.profile.startswith("gpu-gh200")
