"""Profiles: what is read is what was written, and a file that is wrong is refused with one clear sentence."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise
from math import nan
from pathlib import Path
from typing import Any

import pytest

from thinwire.reference.catalog import scheme
from thinwire.sim import api
from thinwire.sim.costs.profile import (
    Protocol,
    Quantity,
    fabric_profile,
    fabric_profile_dict,
    gpu_profile,
    gpu_profile_dict,
)
from thinwire.sim.costs.shipped import PROFILES, load_profile
from thinwire.sim.predict import predict
from thinwire.sim.workload import Prompt
from thinwire.topologies.load import cluster_names, load_cluster

from ..helpers import close, fabric, machine, protocol, small

GPU_FILES = sorted(PROFILES.glob("gpu-*.json"))
FABRIC_FILES = sorted(PROFILES.glob("fabric-*.json"))
READERS: dict[str, Callable[[dict[str, Any]], object]] = {"gpu": gpu_profile, "fabric": fabric_profile}


def read(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", GPU_FILES, ids=lambda path: path.stem)
def test_a_gpu_profile_survives_the_round_trip(path: Path) -> None:
    profile = gpu_profile(read(path))
    written = json.loads(json.dumps(gpu_profile_dict(profile)))
    assert written == read(path)
    assert gpu_profile(written) == profile


@pytest.mark.parametrize("path", FABRIC_FILES, ids=lambda path: path.stem)
def test_a_fabric_profile_survives_the_round_trip(path: Path) -> None:
    profile = fabric_profile(read(path))
    written = json.loads(json.dumps(fabric_profile_dict(profile)))
    assert written == read(path)
    assert fabric_profile(written) == profile
    assert profile.name == path.stem.removeprefix("fabric-")
    for known in profile.protocols:
        assert known.source.startswith(("measured: ", "assumed: ", "datasheet: "))


def test_posted_protocols_say_so_and_others_nothing() -> None:
    profile = fabric(4)
    first, *rest = profile.protocols
    sockets = replace(profile, protocols=(replace(first, posted=True), *rest))
    written = fabric_profile_dict(sockets)
    assert [p.get("posted") for p in written["protocols"]] == [True, *[None] * len(rest)]
    assert fabric_profile(json.loads(json.dumps(written))) == sockets


def test_a_switch_that_sums_is_not_posted() -> None:
    with pytest.raises(ValueError, match="nvls cannot be posted"):
        replace(protocol("nvls"), posted=True)


@pytest.mark.parametrize("name", cluster_names())
def test_every_machine_of_the_catalog_has_a_profile(name: str) -> None:
    cluster = load_cluster(name)
    profile = load_profile(cluster)
    assert profile.gpu.gpu == cluster.gpu.name
    assert profile.fabric.name == cluster.fabric
    assert set(profile.fabric.libraries) == {"separate", "fused"}
    assert "all_reduce" in profile.fabric.baseline


# --- refusals ---


def edited(kind: str, path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """A shipped profile's file with one place changed."""
    data = deepcopy(read(PROFILES / ("gpu-h100-sxm.json" if kind == "gpu" else "fabric-h100-nvlink.json")))
    place: Any = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("gpu", ("colour",), 1, "profile h100-sxm: colour: unknown key|Unexpected keyword"),
        ("gpu", ("codec", "colour"), 1, "profile h100-sxm: codec.colour: (unknown key|Unexpected)"),
        ("gpu", ("kernel_gap_s", "value"), "slow", "kernel_gap_s.value: Input should be a valid number"),
        ("gpu", ("kernel_gap_s", "source"), "guess: mine", "a source starts with datasheet:, measured: or assumed:"),
        ("gpu", ("kernel_gap_s", "source"), "", "a source starts with datasheet:"),
        ("gpu", ("attention", "balance"), 0.5, "balance is an exponent of at least 1, got 0.5"),
        ("gpu", ("attention", "colour"), 1, r"attention model: missing \[\], unknown \['colour'\]"),
        ("gpu", ("decode_attention", "overlap"), 2, "overlap lies in .* got 2"),
        ("gpu", ("decode_attention", "colour"), 1, r"decode attention model: missing \[\], unknown \['colour'\]"),
        ("gpu", ("elementwise", "colour"), 1, r"element-wise model: missing \[\], unknown \['colour'\]"),
        ("gpu", ("gemm", "bf16", "form"), -1, "form -1.* this version reads form"),
        ("gpu", ("gemm", "bf16", "base", "bandwidth_efficiency"), 0.0, "efficiencies must be positive"),
        ("fabric", ("protocols", 0, "knots"), [], "needs knots"),
        ("fabric", ("protocols", 0, "knots"), [[1e3, 0.1], [1e3, 0.2]], "bytes/efficiency must rise"),
        ("fabric", ("protocols", 0, "knots"), [[1e3, 0.1], [2e3, 0.3]], "bytes/efficiency must rise"),
        ("fabric", ("protocols", 0, "knots"), [[1e3, 0.0]], r"knots are bytes above 0 and an efficiency in \(0, 1.2\]"),
        (
            "fabric",
            ("protocols", 0, "knots"),
            [[-1.0, 0.5]],
            r"knots are bytes above 0 and an efficiency in \(0, 1.2\]",
        ),
        ("fabric", ("protocols", 0, "launch_s"), -1e-6, "launch_s and hop_s in 0..10"),
        ("fabric", ("protocols", 0, "hop_s"), -1e-6, "launch_s and hop_s in 0..10"),
        ("fabric", ("protocols", 0, "channels"), 0, "channels in 1..64"),
        ("fabric", ("protocols", 0, "ranks"), "two", "protocols.0.ranks: Input should be a valid integer"),
        ("fabric", ("baseline",), None, "baseline: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_entry_is_refused(kind: str, path: tuple[str | int, ...], value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        READERS[kind](edited(kind, path, value))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("fabric", ("colour",), 1),
        ("fabric", ("protocols", 0, "colour"), 1),
        ("fabric", ("baseline", "all_reduce", 0, "colour"), 1),
        ("fabric", ("protocols", 0, "source"), "guess: mine"),
        ("fabric", ("protocols", 0, "primitive"), "warp"),
        ("fabric", ("protocols", 0, "knots"), [[1e3, nan]]),
        ("fabric", ("protocols", 0, "launch_s"), nan),
        ("fabric", ("protocols", 0, "ranks"), 0),
        ("fabric", ("baseline", "all_reduce", 0, "collective"), "zap"),
        ("fabric", ("baseline", "all_reduce", 0, "chunks"), 0),
        ("fabric", ("libraries",), {}),
        ("gpu", ("kernel_gap_s", "value"), nan),
        ("gpu", ("kernel_gap_s", "value"), -1.0),
        ("gpu", ("sustained_flops_per_s", "bf16", "value"), 0.0),
        ("gpu", ("codec", "local_share", "value"), 0.0),
        ("gpu", ("gemm",), {}),
        ("gpu", ("sustained_flops_per_s",), {}),
        ("gpu", ("gemm", "bf16", "base"), "x"),
        ("gpu", ("gemm", "bf16", "gpu"), "x"),
        ("gpu", ("gemm", "bf16", "correction"), 1),
        ("gpu", ("attention", "floor_s"), "x"),
        ("gpu", ("elementwise", "costs"), []),
    ],
)
def test_any_other_wrong_entry_is_refused(kind: str, path: tuple[str | int, ...], value: object) -> None:
    with pytest.raises(ValueError, match=r"profile|protocol|fabric|quantity|shares|baseline|source") as refused:
        READERS[kind](edited(kind, path, value))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", ["name", "gpu", "gemm", "codec", "kernel_gap_s", "attention", "decode_attention"])
def test_a_gpu_profile_needs_every_part(missing: str) -> None:
    data = edited("gpu", ("name",), "mine")
    del data[missing]
    with pytest.raises(ValueError, match=f"{missing}: missing key"):
        gpu_profile(data)


# --- files of the user's own ---


def written(tmp_path: Path, document: object) -> str:
    path = tmp_path / "profile.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(path)


def test_a_file_replaces_either_half(tmp_path: Path) -> None:
    cluster = load_cluster("8xh100-nvlink")
    shipped = load_profile(cluster)
    mine = edited("gpu", ("name",), "mine")
    found = load_profile(cluster, written(tmp_path, {"gpu": mine}))
    assert (found.gpu.name, found.fabric) == ("mine", shipped.fabric)
    assert found.name == "gpu-mine + fabric-h100-nvlink"
    other = edited("fabric", ("name",), "slow")
    found = load_profile(cluster, written(tmp_path, {"fabric": other}))
    assert (found.fabric.name, found.gpu) == ("slow", shipped.gpu)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "cannot read profile .*Expecting property name"),
        ([], "an object with the keys gpu and/or fabric"),
        ({}, "an object with the keys gpu and/or fabric"),
        ({"gpus": {}}, "an object with the keys gpu and/or fabric"),
        ({"gpu": {}}, "name: missing key"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, document: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_profile(load_cluster("8xh100-nvlink"), written(tmp_path, document))


@pytest.mark.parametrize("document", [{"gpu": []}, {"gpu": None}, {"fabric": "x"}])
def test_a_half_that_is_no_object_is_refused(tmp_path: Path, document: object) -> None:
    with pytest.raises(ValueError, match="profile"):
        load_profile(load_cluster("8xh100-nvlink"), written(tmp_path, document))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read profile .*nothing\.json"):
        load_profile(load_cluster("8xh100-nvlink"), str(tmp_path / "nothing.json"))


def test_a_part_by_itself_is_a_profile() -> None:
    """As it lies in sim/profiles/."""
    cluster = load_cluster("8xh100-nvlink")
    shipped = load_profile(cluster)
    assert load_profile(cluster, str(PROFILES / "gpu-h100-sxm.json")) == shipped
    assert load_profile(cluster, str(PROFILES / "fabric-h100-nvlink.json")) == shipped


def test_another_fabric_is_used_with_a_word() -> None:
    cluster = load_cluster("8xh100-nvlink")
    found = load_profile(cluster, str(PROFILES / "fabric-a100-nvlink.json")).fabric
    assert found.name == "a100-nvlink"
    said = "the profile given is of a100-nvlink; this machine's fabric is h100-nvlink"
    assert found.assumptions[-1] == said
    profile = str(PROFILES / "fabric-a100-nvlink.json")
    assert said in api.collective("8xh100-nvlink", "bf16", 65536, profile=profile)["assumptions"]
    assert said in api.predict("llama-3-8b", "8xh100-nvlink", "bf16", 8, profile=profile).assumptions


def test_inside_a_node_of_several_a_fabric_of_all_gives_way(tmp_path: Path) -> None:
    """To the part `within` of the file, else to the shipped fabric of a node; one of nodes alone is used as it is."""
    cluster = load_cluster("2x8xh100-ib")
    node = cluster.take(8)
    path = str(PROFILES / "fabric-h100-ib.json")
    assert load_profile(cluster, path).fabric.name == "h100-ib"
    assert load_profile(node, path).fabric == load_profile(node).fabric
    own = edited("fabric", ("name",), "mine")
    both = written(tmp_path, {"fabric": read(Path(path)), "within": own})
    assert (load_profile(cluster, both).fabric.name, load_profile(node, both).fabric.name) == ("h100-ib", "mine")
    only = written(tmp_path, {"within": own})
    assert (load_profile(cluster, only).fabric.name, load_profile(node, only).fabric.name) == ("h100-ib", "mine")
    alone = written(tmp_path, {"fabric": own})
    assert load_profile(node, alone).fabric.name == "mine"


def test_a_profile_of_another_gpu_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"gpu": read(PROFILES / "gpu-a100-sxm.json")})
    with pytest.raises(ValueError, match="profile a100-sxm is of a100-sxm, but cluster 8xh100-nvlink has h100-sxm"):
        load_profile(load_cluster("8xh100-nvlink"), path)


def test_a_machine_without_a_shipped_profile_says_which_there_are() -> None:
    cluster = replace(load_cluster("8xh100-nvlink"), fabric="carrier-pigeon")
    with pytest.raises(ValueError, match="no fabric profile named carrier-pigeon; shipped are a100-nvlink, "):
        load_profile(cluster)


# --- protocols ---


@pytest.mark.parametrize("path", FABRIC_FILES, ids=lambda path: path.stem)
def test_more_bytes_never_take_a_shipped_protocol_less_time(path: Path) -> None:
    for known in fabric_profile(read(path)).protocols:
        sizes = sorted({*(int(1.3**i) + 1 for i in range(90)), *(int(nbytes) for nbytes, _ in known.knots)})
        taken = [nbytes / known.efficiency(nbytes) for nbytes in sizes]
        assert all(a <= b * (1 + 1e-8) for a, b in pairwise(taken)), known.key


def test_efficiency_is_straight_between_knots_on_logarithmic_axes() -> None:
    found = replace(protocol("ring"), knots=((1e3, 0.1), (1e5, 0.9), (1e7, 0.9)))
    for nbytes, efficiency in ((1, 0.1), (1e3, 0.1), (1e4, 0.3), (1e5, 0.9), (1e6, 0.9), (1e7, 0.9), (1e12, 0.9)):
        assert close(found.efficiency(nbytes), efficiency)


def entry(library: str, op: str, primitive: str, ranks: int) -> Protocol:
    return replace(protocol(primitive, ranks, library), op=op)


def test_the_entry_asked_for_is_taken_without_a_word() -> None:
    wanted = entry("a", "all_reduce", "ring", 4)
    others = [entry("b", "all_reduce", "ring", 4), entry("a", "all_reduce", "tree", 4), entry("a", "x", "tree", 4)]
    found = fabric(protocols=[*others, wanted]).protocol("a", "all_reduce", "ring", 4)
    assert found == (wanted, "")
    # the same primitive by the same library on as many ranks, measured for another op, needs no word either
    other_op = entry("a", "all_gather", "ring", 4)
    assert fabric(protocols=[*others, other_op]).protocol("a", "all_reduce", "ring", 4) == (other_op, "")


@pytest.mark.parametrize(
    ("known", "best"),
    [
        # kind before library, library before op, then what the baseline uses, then the rank count
        ([entry("b", "all_reduce", "ring", 4), entry("a", "all_reduce", "all_to_all", 4)], 0),
        ([entry("b", "all_reduce", "ring", 4), entry("a", "all_gather", "ring", 2)], 1),
        ([entry("b", "all_gather", "ring", 4), entry("b", "all_reduce", "ring", 2)], 1),
        ([entry("b", "all_reduce", "ring", 4), entry("lib", "all_reduce", "ring", 2)], 1),
        ([entry("a", "all_reduce", "ring", 2), entry("a", "all_reduce", "ring", 8)], 0),
        ([entry("a", "all_reduce", "ring", 1), entry("a", "all_reduce", "ring", 8)], 1),
        ([entry("a", "all_reduce", "nvls", 4), entry("a", "all_reduce", "all_gather", 8)], 1),
    ],
)
def test_the_nearest_entry_stands_in_and_says_so(known: list[Protocol], best: int) -> None:
    for order in (known, known[::-1]):
        found, note = fabric(protocols=order).protocol("a", "all_reduce", "ring", 4)
        assert found == known[best]
        assert note == (
            "made-up: no measurement of ring by a on 4 ranks; its software latency and efficiency are those of "
            f"{found.primitive} by {found.library} on {found.ranks} ranks"
        )


def test_a_fabric_without_anything_near_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fabric made-up has no protocol for ring; it has reduce_scatter"):
        fabric(protocols=[entry("a", "all_reduce", "reduce_scatter", 4)]).protocol("a", "all_reduce", "ring", 4)


def test_a_quantity_names_where_it_is_from() -> None:
    assert Quantity(1.0, "measured: here").value == 1.0
    with pytest.raises(ValueError, match="given 'made up'"):
        Quantity(1.0, "made up")


def test_a_slower_profile_gives_a_slower_prediction() -> None:
    """The file is used, not only read."""
    cluster, profile = machine("8xh100-nvlink", 4)
    gap = replace(profile.gpu.kernel_gap_s, value=profile.gpu.kernel_gap_s.value + 1e-3)
    slower = replace(profile, gpu=replace(profile.gpu, kernel_gap_s=gap))
    model, prompt = small("llama-3-8b", 2), Prompt(1, 100)
    before, after = (predict(model, cluster, scheme("none"), prompt, p) for p in (profile, slower))
    kernels = sum(len(s.kernels) for s in before.timeline.spans() if s.rank == 0)
    assert kernels == 1 + 2 * 9 + 2
    assert close(after.ttft_s - before.ttft_s, kernels * 1e-3)


@pytest.mark.parametrize(("op", "rounds"), [("all_reduce", 2), ("all_gather", 1), ("reduce_scatter", 1)])
def test_a_call_has_a_hop_to_each_other_rank_and_a_sum_two(op: str, rounds: int) -> None:
    for ranks in (1, 2, 3, 8):
        assert protocol("ring", ranks, op=op).hops == rounds * max(1, ranks - 1)


def test_kernels_asked_for_by_name_stand_in_for_others_last() -> None:
    """PCIe-IPC's own all-gather is nobody's but its own: an encoded exchange by NCCL keeps NCCL's figures."""
    fabric = load_profile(load_cluster("8xrtx-pro-6000-pcie")).fabric
    own, note = fabric.protocol("pcie-ipc", "all_reduce", "all_gather", 8)
    assert own.library == "pcie-ipc" and note == ""
    for ranks in (2, 4, 8):
        other, note = fabric.protocol("nccl", "all_reduce", "all_gather", ranks)
        assert other.library == "nccl" and other.primitive != "all_gather" and note
    lone = replace(fabric, protocols=(own,))
    assert lone.protocol("nccl", "all_reduce", "all_gather", 8)[0] is own
