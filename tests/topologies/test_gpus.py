"""The catalog of GPUs: each file complete, plausible, and told apart from every other."""

from collections import Counter
from pathlib import Path

import pytest

from thinwire.topologies.load import gpu_names, load_cluster, load_gpu
from thinwire.topologies.names import FileError
from thinwire.topologies.units import SOURCE_KINDS

WANTED = [
    "rtx-3090", "rtx-4090", "rtx-4090d", "rtx-5070-ti", "rtx-5090", "rtx-a6000", "rtx-6000-ada", "rtx-pro-6000",
    "rtx-pro-6000-max-q", "rtx-6000d", "a10", "a10g", "a30", "a40", "a100-sxm-40gb", "a100-pcie-40gb",
    "a100-sxm", "a100-pcie", "a800-sxm", "h800-sxm", "h20", "h100-sxm", "h100-pcie", "h100-nvl", "h200-sxm",
    "h200-nvl", "gh200", "b200-sxm", "b300-sxm", "gb200", "gb300", "l4", "l20", "l40", "l40s", "t4", "v100-sxm",
    "mi210", "mi250x", "mi300x", "mi325x", "mi355x",
]  # fmt: skip
GPU = Path(__file__).parents[2] / "topologies" / "gpus" / "rtx-3090.toml"


def test_the_gpus_that_people_have_are_there() -> None:
    assert len(WANTED) >= 32
    assert set(WANTED) <= set(gpu_names())


@pytest.mark.parametrize("name", gpu_names())
def test_a_file_is_complete_and_plausible(name: str) -> None:
    """Dense peaks: fp8 twice bf16, int8 at most eight times. Operations a byte: from 35 (H20) to 420 (L40S)."""
    gpu = load_gpu(name)
    peaks = gpu.peak_flops_per_s
    assert gpu.name == name and gpu.title and gpu.architecture and gpu.chip
    numbers = {"memory", "memory_bandwidth", "sm_count", *(f"peak.{precision}" for precision in peaks)}
    assert gpu.sources.keys() >= numbers
    assert all(source.split(":")[0] in SOURCE_KINDS and len(source) > 15 for source in gpu.sources.values())
    assert 35 <= peaks["bf16"] / gpu.memory_bandwidth_bytes_per_s <= 425
    assert 1.5 <= gpu.memory_bytes / 1e9 / (gpu.memory_bandwidth_bytes_per_s / 1e12) <= 85
    per_sm = peaks["bf16"] / gpu.sm_count
    assert 0.4e12 < per_sm < 20e12
    if "fp8" in peaks:
        assert peaks["fp8"] / peaks["bf16"] == pytest.approx(2, rel=0.02)
    if "int8" in peaks:
        assert 0.05 < peaks["int8"] / peaks["bf16"] < 8.1
    if gpu.matmul_flops_per_s is not None:  # boost clocks go beyond the nominal ones, by an eighth at most
        assert 0.5 < gpu.matmul_flops_per_s / peaks["bf16"] < 1.15
    assert gpu.pci_ids and all(
        i.startswith("1002:" if gpu.architecture.startswith("CDNA") else "10de:") for i in gpu.pci_ids
    )
    assert gpu.product_names


def test_what_machines_print_names_one_gpu() -> None:
    gpus = [load_gpu(name) for name in gpu_names()]
    for printed in ([i for gpu in gpus for i in gpu.pci_ids], [p for gpu in gpus for p in gpu.product_names]):
        assert max(Counter(printed).values()) == 1
    assert len({gpu.title for gpu in gpus}) == len(gpus)


def test_relatives_lead_to_a_measured_gpu() -> None:
    for name in gpu_names():
        seen, gpu = [name], load_gpu(name)
        while gpu.relative is not None:
            assert gpu.relative not in seen, seen
            seen.append(gpu.relative)
            gpu = load_gpu(gpu.relative)
        assert len(seen) <= 3


def test_one_chip_has_one_architecture() -> None:
    pairs = {(gpu.chip, gpu.architecture) for gpu in map(load_gpu, gpu_names())}
    assert len(pairs) == len({chip for chip, _ in pairs})


def test_old_tensor_cores_say_what_stands_for_bf16() -> None:
    for name in ("v100-sxm", "v100-sxm-16gb", "t4"):
        source = load_gpu(name).sources["peak.bf16"]
        assert source.startswith("assumed: fp16's") and "no bf16" in source
        assert "fp8" not in load_gpu(name).peak_flops_per_s


def test_memory_tells_the_variants_of_a_card_apart() -> None:
    assert load_gpu("a100-sxm-40gb").memory_bytes == 40 * 2**30 == load_gpu("a100-sxm").memory_bytes / 2
    assert load_gpu("a100-sxm-40gb").memory_bandwidth_bytes_per_s < load_gpu("a100-sxm").memory_bandwidth_bytes_per_s
    assert load_gpu("v100-sxm").memory_bytes == 2 * load_gpu("v100-sxm-16gb").memory_bytes


@pytest.mark.parametrize(
    ("relative", "said"),
    [("l40x", "did you mean l40"), ("nothing at all", "thinwire gpus lists them"), ("mine", "did you mean")],
)
def test_a_relative_is_of_the_catalog(tmp_path: Path, relative: str, said: str) -> None:
    text = GPU.read_text("utf-8").replace('name = "rtx-3090"', 'name = "mine"')
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('relative = "l40s"', f'relative = "{relative}"'), "utf-8")
    with pytest.raises(
        FileError, match=rf"mine\.toml:5: relative: must be another GPU of the catalog: '{relative}'.*{said}"
    ):
        load_gpu(path)
    path.write_text(text, "utf-8")
    assert load_gpu(path).relative == "l40s"


def test_a_name_with_a_dot_is_a_file_that_is_not_there() -> None:
    """No name of the catalogs has one."""
    for kind, load in (("cluster", load_cluster), ("gpu", load_gpu)):
        with pytest.raises(ValueError, match=rf"no such file: m\.tml \(nor is it a {kind} of the catalog\)"):
            load("m.tml")
