"""Who carries what: the published switching, what each kernel needs, and what stands in where nothing was timed."""

from dataclasses import replace
from itertools import pairwise

import pytest

from thinwire.reference.core.scheme import Carrier
from thinwire.sim.costs import carriers
from thinwire.sim.costs.carriers import KIB, MIB, RULES, carried, edges, kernel_of
from thinwire.sim.costs.profile import Baseline, FabricProfile
from thinwire.sim.costs.shipped import load_profile
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.load import load_cluster, load_gpu


def group(name: str, ranks: int) -> Cluster:
    return load_cluster(name).take(ranks)


def shipped(cluster: Cluster) -> FabricProfile:
    return load_profile(cluster).fabric


@pytest.mark.parametrize(
    ("machine", "ranks", "carrier", "nbytes", "kernel"),
    [
        # vLLM on Hopper with NVSwitch: its own kernels below, the switch up to and including, NCCL above
        ("8xh100-nvlink", 8, "vllm", 256 * KIB - 1, "custom"),
        ("8xh100-nvlink", 8, "vllm", 256 * KIB, "multimem"),
        ("8xh200-nvlink", 8, "vllm", 64 * MIB, "multimem"),
        ("8xh200-nvlink", 8, "vllm", 64 * MIB + 1, "nccl"),
        ("8xh200-nvlink", 4, "vllm", 8 * MIB - 1, "custom"),
        ("8xh200-nvlink", 4, "vllm", 32 * MIB + 1, "nccl"),
        ("8xh200-nvlink", 6, "vllm", 512 * KIB, "multimem"),
        ("8xh200-nvlink", 5, "vllm", KIB, "nccl"),  # no kernel for five ranks
        ("8xb200-nvlink", 8, "vllm", MIB - 1, "custom"),
        ("8xb200-nvlink", 8, "vllm", 128 * MIB, "multimem"),
        ("8xb200-nvlink", 2, "vllm", 8 * MIB, "multimem"),
        ("8xb200-nvlink", 2, "vllm", 8 * MIB + 1, "nccl"),
        # without a switch that sums: below 8 MiB, whatever the number of ranks
        ("8xa100-nvlink", 8, "vllm", 8 * MIB - 1, "custom"),
        ("8xa100-nvlink", 8, "vllm", 8 * MIB, "nccl"),
        # PCIe: two ranks that reach each other's memory, and no more
        ("8xrtx-pro-6000-pcie", 2, "vllm", MIB, "custom"),
        ("8xrtx-pro-6000-pcie", 4, "vllm", MIB, "nccl"),
        ("8xrtx4090-pcie", 2, "vllm", MIB, "nccl"),
        ("8xrtx4090-p2p", 2, "vllm", MIB, "custom"),
        ("2x8xh100-ib", 16, "vllm", MIB, "nccl"),
        # SGLang
        ("8xh200-nvlink", 8, "sglang", 512 * KIB - 1, "custom"),
        ("8xh200-nvlink", 8, "sglang", 512 * KIB, "multimem"),
        ("8xh200-nvlink", 8, "sglang", 128 * MIB + 1, "nccl"),
        ("8xh200-nvlink", 7, "sglang", 32 * MIB + 1, "nccl"),
        ("8xb200-nvlink", 8, "sglang", 8 * MIB - 1, "custom"),
        ("8xa100-nvlink", 4, "sglang", 16 * MIB + 1, "nccl"),
        ("8xl40s-pcie", 2, "sglang", KIB, "nccl"),
        # ... and with PCIe-IPC asked for, up to 64 rows of 8,192 where GPUs reach each other over PCIe
        ("8xrtx-pro-6000-pcie", 8, "sglang-ipc", MIB, "ipc"),
        ("8xrtx-pro-6000-pcie", 8, "sglang-ipc", MIB + 1, "nccl"),
        ("8xrtx-pro-6000-pcie", 6, "sglang-ipc", KIB, "nccl"),
        ("8xrtx-pro-6000-pcie", 8, "sglang", KIB, "nccl"),
        ("8xrtx4090-pcie", 8, "sglang-ipc", KIB, "nccl"),
        ("8xh100-nvlink", 8, "sglang-ipc", KIB, "custom"),
        ("2x8xh100-ib", 16, "sglang-ipc", KIB, "nccl"),
        # TensorRT-LLM: NCCL between its one-shot and its two-shot kernel on eight Hoppers
        ("8xh100-nvlink", 8, "trtllm", MIB - 1, "custom"),
        ("8xh100-nvlink", 8, "trtllm", MIB, "nccl"),
        ("8xh100-nvlink", 8, "trtllm", 2 * MIB, "custom"),
        ("8xh100-nvlink", 8, "trtllm", 8 * MIB, "nccl"),
        ("8xb200-nvlink", 8, "trtllm", 64 * MIB, "custom"),
        ("8xrtx-pro-6000-pcie", 2, "trtllm", MIB, "nccl"),
        ("8xh100-nvlink", 8, "nccl", KIB, "nccl"),
    ],
)
def test_each_engine_switches_where_it_says(
    machine: str, ranks: int, carrier: Carrier, nbytes: int, kernel: str
) -> None:
    assert kernel_of(carrier, "all_reduce", nbytes, group(machine, ranks)) == kernel


def test_two_ranks_on_two_nodes_are_left_to_nccl() -> None:
    pair = load_cluster("2x8xh100-ib").reorder((0, 8))
    assert {kernel_of(carrier, "all_reduce", KIB, pair) for carrier in RULES} == {"nccl"}


@pytest.mark.parametrize("carrier", RULES)
@pytest.mark.parametrize("op", ["all_gather", "reduce_scatter", "all_to_all"])
def test_other_operations_are_left_to_nccl(carrier: Carrier, op: carriers.Op) -> None:
    assert kernel_of(carrier, op, KIB, group("8xh100-nvlink", 8)) == "nccl"


@pytest.mark.parametrize("carrier", RULES)
@pytest.mark.parametrize("ranks", [2, 4, 6, 8])
def test_a_kernel_changes_at_edges_alone(carrier: Carrier, ranks: int) -> None:
    """Serving reads durations between two edges by interpolation, so none may be missing."""
    for machine in ("8xh100-nvlink", "8xb200-nvlink", "8xa100-nvlink"):
        cluster = group(machine, ranks)
        stops = [1, *edges(carrier, ranks), 1 << 40]
        for low, high in pairwise(stops):
            sizes = (low, (low + high) // 2, high - 1)
            assert len({kernel_of(carrier, "all_reduce", n, cluster) for n in sizes}) == 1


def test_chips_go_by_the_catalogs_names() -> None:
    assert [carriers.chip_of(load_gpu(name).name) for name in ("h100-sxm", "h200-sxm", "b200-sxm")] == [
        "9.0", "9.0", "10.0",
    ]  # fmt: skip
    assert carriers.chip_of("a100-sxm") is carriers.chip_of("rtx-pro-6000") is None


def test_nccl_is_timed_as_nccl() -> None:
    cluster = group("8xh100-nvlink", 8)
    found = carried("nccl", "all_reduce", 8 * MIB, cluster, shipped(cluster))
    assert {choice.library for choice in found.choices} == {"nccl"} and "stands in" not in found.sentence
    assert "as NCCL alone would" in found.sentence and "8388608 bytes" in found.sentence


def test_an_engine_that_nobody_timed_borrows_anothers_kernels_and_says_so() -> None:
    cluster = group("8xh200-nvlink", 8)
    own = carried("vllm", "all_reduce", MIB, cluster, shipped(cluster))
    other = carried("trtllm", "all_reduce", 4 * MIB, cluster, shipped(cluster))
    assert own.choices == other.choices and {choice.library for choice in own.choices} == {"engine-graph"}
    assert "stands in" not in own.sentence
    assert other.sentence.endswith("nobody timed them on h200-nvlink: vLLM stands in")


def test_where_nobody_timed_nccl_engines_stand_in() -> None:
    cluster = group("8xl40s-pcie", 8)
    found = carried("sglang", "all_reduce", MIB, cluster, shipped(cluster))
    assert found.choices == shipped(cluster).baseline["all_reduce"]
    assert found.sentence.endswith("NCCL alone was not timed on l40s-pcie: what engines run stands in")


def test_where_nobody_timed_an_engine_what_is_nearest_stands_in() -> None:
    """QuickReduce's two-shot kernel on MI300X; NCCL where the fabric has nothing of the kind."""
    cluster = group("8xmi300x-xgmi", 8)
    fabric = shipped(cluster)
    found = carried("vllm", "all_reduce", MIB, cluster, fabric)
    assert found.choices == (Baseline("fused", "two_step"),) and "QuickReduce stands in" in found.sentence
    two = group("8xmi300x-xgmi", 2)
    timed = carried("vllm", "all_reduce", MIB, two, fabric)
    assert timed.choices == (Baseline("engine-graph", "two_step"),) and "stands in" not in timed.sentence
    bare = replace(
        fabric,
        protocols=tuple(p for p in fabric.protocols if p.library == "nccl"),
        baseline={"all_reduce": (Baseline("nccl", "two_step"),)},
    )
    found = carried("vllm", "all_reduce", MIB, cluster, bare)
    assert {choice.library for choice in found.choices} == {
        "nccl"
    } and "what is known of it stands in" in found.sentence


def test_every_rule_says_where_it_is_from_and_can_apply() -> None:
    for rules in RULES.values():
        for rule in rules:
            assert rule.source and rule.under and all(2 <= ranks <= 8 for ranks in rule.under)
            assert all(rule.from_bytes < limit for limit in rule.under.values())
