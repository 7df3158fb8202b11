"""The catalog's files, and every refusal with its file, line and rule."""

import csv
import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.edge.words import place
from thinwire.topologies.load import cluster_names, gpu_names, load_cluster, load_gpu
from thinwire.topologies.names import FileError
from thinwire.topologies.units import SOURCE_KINDS, UNITS

FABRICS = {
    "8xl40s-pcie": "l40s-pcie",
    "8xrtx-pro-6000-pcie": "rtx-pro-6000-pcie",
    "8xa100-nvlink": "a100-nvlink",
    "8xh100-nvlink": "h100-nvlink",
    "8xh200-nvlink": "h200-nvlink",
    "8xb200-nvlink": "b200-nvlink",
    "8xmi300x-xgmi": "mi300x-xgmi",
    "4xl4-pcie": "l4-pcie",
    "8xrtx4090-pcie": "rtx4090-pcie",
    "2x8xh100-ib": "h100-ib",
    "2xrtx5070ti-p2p": "rtx4090-p2p",
    "2xrtx5070ti-pcie": "rtx5070ti-pcie",
    "4xa100-pcie": "l40s-pcie",
    "4xrtx3090-p2p": "rtx4090-p2p",
    "4xrtx3090-pcie": "rtx4090-pcie",
    "6xrtx4090-p2p": "rtx4090-p2p",
    "8xrtx-pro-6000-2switch": "rtx-pro-6000-switch",
    "8xrtx4090-p2p": "rtx4090-p2p",
}
MACHINES = tuple(FABRICS)  # the ten of INTERFACE.md, then others

# A small valid file; each test breaks it in one place. Line numbers below count from its first line.
GOOD = """\
name = "mine"
title = "two GPUs"
gpu = "l4"
fabric = "l4-pcie"
peer_to_peer = "yes"
assumptions = ["none"]

[topology]
kind = "pcie_tree"
islands = [1, 1]
gpu_duplex = { value = 40, unit = "GB/s", source = "measured: here" }

[topology.gpu_link]
bandwidth = { value = 26.26, unit = "GB/s", source = "measured: here" }
latency = { value = 500, unit = "ns", source = "assumed: why not" }

[topology.socket_link]
bandwidth = { value = 160, unit = "Gb/s", source = "datasheet: there" }
latency = { value = 0.2, unit = "us", source = "assumed: why not" }
"""

EXPLICIT = """\
name = "mine"
title = "three GPUs"
gpu = "l4"
fabric = "l4-pcie"
peer_to_peer = "yes"

[topology]
kind = "explicit"
nodes = [
    { name = "a", kind = "gpu" },
    { name = "b", kind = "gpu" },
    { name = "c", kind = "gpu" },
    { name = "s", kind = "switch" },
]
islands = [["a", "b"], ["c"]]
reducing_switch = "s"

[topology.pools]
all = { value = 10, unit = "GB/s", source = "assumed: x" }

[[topology.links]]
source = "a"
target = "s"
pools = ["all"]
bandwidth = { value = 1, unit = "GB/s", source = "assumed: x" }
latency = { value = 1, unit = "us", source = "assumed: x" }

[[topology.links]]
source = "s"
target = "b"
bandwidth = { value = 1, unit = "GB/s", source = "assumed: x" }
latency = { value = 1, unit = "us", source = "assumed: x" }

[[topology.links]]
source = "c"
target = "s"
flow_cap = { value = 0.5, unit = "GB/s", source = "assumed: x" }
bandwidth = { value = 1, unit = "GB/s", source = "assumed: x" }
latency = { value = 1, unit = "us", source = "assumed: x" }
"""

MULTI = """\
name = "mine"
title = "two nodes"
gpu = "l4"
fabric = "h100-ib"
peer_to_peer = "yes"

[topology]
kind = "fat_tree"
nodes = 2
nodes_per_leaf = 1
gpus_per_nic = 2

[topology.node]
kind = "switched_node"
gpus = 4
reduces = false
port.bandwidth = { value = 100, unit = "GB/s", source = "assumed: x" }
port.latency = { value = 1, unit = "us", source = "assumed: x" }

[topology.nic_link]
bandwidth = { value = 64, unit = "GB/s", source = "assumed: x" }
latency = { value = 1, unit = "us", source = "assumed: x" }

[topology.network_link]
bandwidth = { value = 400, unit = "Gbit/s", source = "assumed: x" }
latency = { value = 1, unit = "us", source = "assumed: x" }
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> FileError:
    path = write(folder, text)
    with pytest.raises(FileError) as caught:
        load_cluster(path)
    error = caught.value
    assert str(error) == f"{place(path)}:{error.line}: {error.rule}"
    assert "\n" not in str(error)
    return error


def broken(text: str, old: str, new: str) -> str:
    assert text.count(old) >= 1, old
    return text.replace(old, new, 1)


def test_the_catalog_holds_exactly_these_machines() -> None:
    assert cluster_names() == tuple(sorted(MACHINES))


@pytest.mark.parametrize("name", MACHINES)
def test_each_machine_states_its_sources(name: str) -> None:
    machine = load_cluster(name)
    assert machine.name == name
    assert machine.fabric == FABRICS[name]
    assert machine.gpu == load_gpu(machine.gpu.name)
    nodes, per_node = (2, 8) if name.startswith("2x8x") else (1, int(name[0]))
    assert len(machine.gpus) == nodes * per_node
    assert machine.title
    assert machine.assumptions[0].startswith("peer-to-peer: ")
    assert all(re.match(rf"({'|'.join(SOURCE_KINDS)}): \S", source) for source in machine.sources.values())
    assert any(key.endswith("bandwidth") for key in machine.sources)
    assert load_cluster(name) is machine  # the catalog is read once
    reduces = {"8xh100-nvlink", "8xh200-nvlink", "8xb200-nvlink"}
    assert (machine.reducing_switch is not None) == (name in reduces)


def test_islands_of_the_catalog() -> None:
    halves = ((0, 1, 2, 3), (4, 5, 6, 7))
    for name in ("8xl40s-pcie", "8xrtx-pro-6000-pcie", "8xrtx4090-pcie"):
        assert load_cluster(name).islands == halves
    assert load_cluster("2x8xh100-ib").islands == (tuple(range(8)), tuple(range(8, 16)))
    assert load_cluster("8xmi300x-xgmi").islands == (tuple(range(8)),)


def test_what_reaches_what_without_the_host() -> None:
    """NVLink or xGMI between every two GPUs; PCIe switches and NICs are no such links; a driver may refuse peers."""
    linked = {name for name in MACHINES if load_cluster(name).fully_linked}
    assert linked == {name for name in MACHINES if name.endswith(("-nvlink", "-xgmi"))}
    far = load_cluster("2x8xh100-ib")
    assert far.take(8).fully_linked and len(far.take(8).hosts) == 1
    assert len(far.reorder((0, 8)).hosts) == 2 and not far.reorder((0, 8)).fully_linked
    assert not load_cluster("8xrtx-pro-6000-2switch").take(4).fully_linked  # one switch, and the host behind it
    staged = {name for name in MACHINES if not load_cluster(name).peer_to_peer}
    assert staged == {"2xrtx5070ti-pcie", "4xrtx3090-pcie", "8xrtx4090-pcie"}
    for name in staged:
        boxed, freed = load_cluster(name), load_cluster(name.replace("-pcie", "-p2p"))
        assert boxed.gpu == freed.gpu and boxed.islands == freed.islands and freed.peer_to_peer
        assert any(pool.endswith(".memory") for pool in boxed.pools)
        assert not any(pool.endswith(".memory") for pool in freed.pools)


def test_a_spelt_out_machine_says_whether_peers_may_be_written(tmp_path: Path) -> None:
    for word, told in (("", True), ("peer_to_peer = false\n", False)):
        path = tmp_path / "mine.toml"
        path.write_text(EXPLICIT.replace('kind = "explicit"\n', f'kind = "explicit"\n{word}'), encoding="utf-8")
        assert load_cluster(path).peer_to_peer is load_cluster(path).take(2).peer_to_peer is told


def test_gpus_of_the_catalog_are_plausible() -> None:
    assert set(gpu_names()) >= {machine.gpu.name for machine in map(load_cluster, MACHINES)}
    for name in gpu_names():
        gpu = load_gpu(name)
        assert gpu.name == name
        assert 50e12 < gpu.peak_flops_per_s["bf16"] < 3e15
        if "fp8" in gpu.peak_flops_per_s:
            assert 1.9 < gpu.peak_flops_per_s["fp8"] / gpu.peak_flops_per_s["bf16"] < 2.1
        assert 15e9 < gpu.memory_bytes < 300e9
        assert 200e9 < gpu.memory_bandwidth_bytes_per_s < 10e12
        assert 40 <= gpu.sm_count < 400
        assert gpu.sources.keys() >= {"memory", "memory_bandwidth", "sm_count", "peak.bf16"}
        assert all(source.split(":")[0] in SOURCE_KINDS for source in gpu.sources.values())
    assert load_gpu("l40").peak_flops_per_s["bf16"] == 181.05e12  # not the L40S
    assert load_gpu("l40s").peak_flops_per_s["bf16"] == 362.05e12
    assert "fp8" not in load_gpu("a100-sxm").peak_flops_per_s


def test_gpus_agree_with_the_published_table(root: Path) -> None:
    """gpu_specs.csv, where the calibration data is shipped: compute and bandwidth as there, to rounding."""
    table = root / "validation" / "published" / "gpu_specs.csv"
    if not table.exists():
        pytest.skip(f"{table} is not there")
    names = {
        "L4": "l4",
        "L40": "l40",
        "L40S": "l40s",
        "A100 PCIe 80GB": "a100-pcie",
        "A100 SXM 80GB": "a100-sxm",
        "H100 PCIe 80GB": "h100-pcie",
        "H100 SXM 80GB": "h100-sxm",
        "H200 SXM": "h200-sxm",
        "RTX 4090": "rtx-4090",
        "MI300X": "mi300x",
    }
    with table.open(encoding="utf-8") as file:
        rows = {row["gpu"]: row for row in csv.DictReader(file)}
    for printed, name in names.items():
        gpu, row = load_gpu(name), rows[printed]
        assert gpu.peak_flops_per_s["bf16"] / 1e12 == pytest.approx(float(row["dense_fp16_bf16_tflops"]), rel=2e-3)
        assert gpu.memory_bandwidth_bytes_per_s / 1e9 == pytest.approx(float(row["mem_bw_GBps"]))


def test_units_are_converted(tmp_path: Path) -> None:
    machine = load_cluster(write(tmp_path, GOOD))
    link = machine.link("bridge0", "bridge1")
    assert link.bandwidth_bytes_per_s == pytest.approx(20e9)  # 160 Gb/s
    assert machine.link("gpu0", "bridge0").latency_s == pytest.approx(5e-7)
    assert machine.sources["topology.socket_link.bandwidth"] == "datasheet: there"
    assert machine.gpu.name == "l4"
    assert UNITS["bytes"]["GiB"] == 2**30
    assert UNITS["bytes"]["GB"] == 1e9
    assert UNITS["bandwidth"]["Gb/s"] == UNITS["bandwidth"]["Gbit/s"] == 1e9 / 8
    assert UNITS["compute"]["TFLOP/s"] == UNITS["compute"]["TOPS"] == 1e12


def test_halving_a_bandwidth_in_the_file_halves_the_link(tmp_path: Path) -> None:
    machine = load_cluster(write(tmp_path, broken(GOOD, "value = 26.26", "value = 13.13")))
    assert machine.link("gpu0", "bridge0").bandwidth_bytes_per_s == pytest.approx(13.13e9)


def test_an_explicit_machine(tmp_path: Path) -> None:
    machine = load_cluster(write(tmp_path, EXPLICIT))
    assert machine.gpus == ("a", "b", "c")
    assert machine.islands == ((0, 1), (2,))
    assert machine.reducing_switch == "s"
    assert machine.pools == {"all": 10e9}
    assert [link.name for link in machine.route(2, 0)] == ["c->s", "s->a"]
    assert machine.link("s", "a").pools == ("all",)
    assert machine.link("s", "c").flow_cap_bytes_per_s == 0.5e9
    one_way = broken(EXPLICIT, 'source = "s"\n', 'source = "s"\none_way = true\n')
    back = '\n[[topology.links]]\nsource = "b"\ntarget = "s"\none_way = true\n' + "\n".join(EXPLICIT.splitlines()[-2:])
    assert len(load_cluster(write(tmp_path, one_way + back)).links) == 6
    assert refusal(tmp_path, one_way).line == 11  # b never gets a word out


def test_a_multi_node_machine(tmp_path: Path) -> None:
    machine = load_cluster(write(tmp_path, MULTI))
    assert len(machine.gpus) == 8
    assert machine.link("n0.nic1", "leaf0").bandwidth_bytes_per_s == 50e9
    assert machine.sources["topology.node.port.bandwidth"] == "assumed: x"


@pytest.mark.parametrize("name", ["my-machine", "my-explicit-machine"])
def test_the_examples_load(root: Path, name: str) -> None:
    machine = load_cluster(root / "examples" / f"{name}.toml")
    assert machine.name == name
    assert machine.gpu.name in gpu_names()
    assert machine.fabric in FABRICS.values()


def test_a_machine_may_bring_its_own_gpu(tmp_path: Path) -> None:
    source = Path(load_cluster.__code__.co_filename).parent / "gpus" / "l4.toml"
    text = source.read_text(encoding="utf-8").replace('name = "l4"', 'name = "mine"')
    (tmp_path / "my-gpu.toml").write_text(text, encoding="utf-8")
    machine = load_cluster(write(tmp_path, broken(GOOD, '"l4"', '"my-gpu.toml"')))
    assert machine.gpu.name == "mine"
    assert load_gpu(tmp_path / "my-gpu.toml").sm_count == 60
    error = refusal(tmp_path, broken(GOOD, '"l4"', '"other.toml"'))
    assert (error.line, error.rule) == (3, f"gpu: no such file: {place(tmp_path / 'other.toml')}")
    (tmp_path / "my-gpu.toml").write_text(broken(text, "value = 60", "value = 60.5"), encoding="utf-8")
    with pytest.raises(FileError, match=r"my-gpu\.toml:10: sm_count\.value: must be a whole number: 60\.5"):
        load_cluster(write(tmp_path, broken(GOOD, '"l4"', '"my-gpu.toml"')))
    (tmp_path / "my-gpu.toml").write_text(re.sub("(?m)^bf16.*\n", "", text), encoding="utf-8")
    with pytest.raises(FileError, match=r"my-gpu\.toml:13: peak: peak must have bf16"):
        load_gpu(tmp_path / "my-gpu.toml")


def test_names_that_are_not_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown cluster '8xl40-pcie'; did you mean 8xl40s-pcie or"):
        load_cluster("8xl40-pcie")
    with pytest.raises(ValueError, match=r"unknown cluster 'q'; known: 2x8xh100-ib, .* path of a \.toml file"):
        load_cluster("q")
    with pytest.raises(ValueError, match=r"unknown gpu 'h100'; did you mean h100-"):
        load_gpu("h100")
    for missing in (str(tmp_path / "none.toml"), tmp_path / "none"):
        with pytest.raises(ValueError, match=r"no such file: .*none"):
            load_cluster(missing)


GPU_LINK = 'bandwidth = { value = 26.26, unit = "GB/s", source = "measured: here" }'


@pytest.mark.parametrize(
    ("old", "new", "line", "rule"),
    [
        # unknown keys, at every level
        (
            'fabric = "l4-pcie"',
            'fabric = "l4-pcie"\nspeed = 3',
            5,
            "speed: unknown key; allowed: name, title",
        ),
        ('title = "', 'titel = "', 2, "titel: unknown key; did you mean title?"),
        (
            "[topology.socket_link]",
            "[topology.soket_link]",
            17,
            "topology.soket_link: unknown key; did you mean",
        ),
        (
            "latency = { value = 500",
            "latancy = { value = 500",
            15,
            "topology.gpu_link.latancy: unknown key; did",
        ),
        (
            "{ value = 500,",
            "{ valu = 500,",
            15,
            "topology.gpu_link.latency.valu: unknown key; did you mean value?",
        ),
        # missing unit, source, number, table
        (', unit = "ns"', "", 15, "topology.gpu_link.latency.unit: missing key"),
        (', source = "assumed: why not"', "", 15, "topology.gpu_link.latency.source: missing key"),
        ("value = 500, ", "", 15, "topology.gpu_link.latency.value: missing key"),
        (GPU_LINK, "", 13, "topology.gpu_link.bandwidth: missing key"),
        (
            GPU_LINK,
            "bandwidth = 26.26",
            14,
            "topology.gpu_link.bandwidth: must be a table with value, unit, source",
        ),
        ('gpu = "l4"\n', "", 1, "gpu: missing key"),
        ('kind = "pcie_tree"\n', "", 8, "topology.kind: missing key (allowed: switched_node, pcie_tree"),
        # units
        (
            '"ns"',
            '"GB/s"',
            15,
            "topology.gpu_link.latency.unit: GB/s is a unit of bandwidth; time wants one of s, ms",
        ),
        (
            '26.26, unit = "GB/s"',
            '26.26, unit = "GB"',
            14,
            "unit: GB is a unit of bytes; bandwidth wants one of GB/s",
        ),
        (
            '26.26, unit = "GB/s"',
            '26.26, unit = "gb/s"',
            14,
            "unknown unit 'gb/s'; bandwidth wants one of GB/s",
        ),
        ('"ns"', "3", 15, "topology.gpu_link.latency.unit: Input should be a valid string; given 3"),
        # sources
        (
            '"datasheet: there"',
            '"rumour: there"',
            18,
            "kind one of datasheet, measured, assumed; given 'rumour: there'",
        ),
        (
            '"datasheet: there"',
            '"datasheet"',
            18,
            'topology.socket_link.bandwidth.source: source must read "kind: ',
        ),
        ('"datasheet: there"', '"datasheet: "', 18, "given 'datasheet: '"),
        # numbers
        (
            "value = 26.26",
            "value = 0",
            14,
            "topology.gpu_link.bandwidth.value: must be a positive finite number; given 0",
        ),
        ("value = 26.26", "value = -1.0", 14, "must be a positive finite number; given -1.0"),
        ("value = 26.26", "value = nan", 14, "must be a positive finite number; given nan"),
        ("value = 26.26", "value = inf", 14, "must be a positive finite number; given inf"),
        (
            "value = 26.26",
            'value = "26.26"',
            14,
            "topology.gpu_link.bandwidth.value: Input should be a valid number",
        ),
        (
            "value = 26.26",
            "value = true",
            14,
            "topology.gpu_link.bandwidth.value: Input should be a valid number",
        ),
        ("[1, 1]", "[1,\n 0]", 11, "topology.islands.1: Input should be greater than or equal to 1; given 0"),
        ("[1, 1]", "[1, 1.5]", 10, "topology.islands.1: Input should be a valid integer; given 1.5"),
        ("[1, 1]", "[]", 10, "topology.islands: List should have at least 1 item"),
        ("[1, 1]", "2", 10, "topology.islands: Input should be a valid list; given 2"),
        # names
        ('"l4"', '"l5"', 3, "gpu: unknown gpu 'l5'; did you mean l4"),
        (
            '"pcie_tree"',
            '"pcie"',
            9,
            "topology.kind: unknown kind 'pcie'; did you mean pcie_tree? (allowed: switched_n",
        ),
        (
            '"pcie_tree"',
            "7",
            9,
            "topology.kind: unknown kind 7 (allowed: switched_node, pcie_tree, full_mesh",
        ),
        ('"two GPUs"', '""', 2, "title: String should have at least 1 character"),
        # what a generator refuses
        (
            "islands = [1, 1]",
            "islands = [1, 1]\ngpus_per_switch = 2",
            8,
            "topology: gpus_per_switch and switch_link come",
        ),
        # TOML itself
        ("islands = [1, 1]", "islands = [1, 1", 11, "malformed TOML: "),
        ("islands = [1, 1]", "islands = = 3", 10, "malformed TOML: Invalid value"),
        ('assumptions = ["none"]', 'gpu = "l4"', 6, "malformed TOML: "),
        ("[topology]", "[topology", 8, "malformed TOML: "),
    ],
)
def test_refusals_name_line_and_rule(tmp_path: Path, old: str, new: str, line: int, rule: str) -> None:
    error = refusal(tmp_path, broken(GOOD, old, new))
    assert rule in error.rule
    assert error.line == line


@pytest.mark.parametrize(
    ("old", "new", "line", "rule"),
    [
        ('source = "c"', 'source = "c"\none_way = true', 12, "topology.nodes.2.name: c is disconnected: no"),
        ('source = "c"', 'source = "d"', 35, "topology.links.2.source: no node named d"),
        ('target = "b"', 'target = "q"', 30, "topology.links.1.target: no node named q"),
        ('target = "b"', 'target = "s"', 28, "topology.links.1: a link must join two nodes"),
        ('source = "c"', 'source = "a"', 34, "topology.links.2: link a->s is given twice"),
        ('pools = ["all"]', 'pools = ["al"]', 24, "topology.links.0.pools.0: no pool named al"),
        ('pools = ["all"]', 'pools = ["all", "all"]', 21, "topology.links.0: link a->s names a pool twice"),
        ('name = "b"', 'name = "a"', 11, "topology.nodes.1.name: node a is given twice"),
        ('name = "b"', 'name = "b[0]"', 11, "topology.nodes.1.name: String should match pattern"),
        (
            '{ name = "b", kind = "gpu"',
            '{ name = "b", kind = "cpu"',
            11,
            "topology.nodes.1.kind: Input should be 'gpu'",
        ),
        ('{ name = "b", kind', '{ name = "b", sort = 1, kind', 11, "unknown key; allowed: name, kind"),
        ('["a", "b"], ["c"]', '["a", "b"]', 15, "topology.islands: GPU c is in no island"),
        ('["a", "b"], ["c"]', '["a", "b"], ["c", "b"]', 15, "topology.islands.0.1: b is in two islands"),
        (
            '["a", "b"], ["c"]',
            '["a", "b"], ["c", "s"]',
            15,
            "topology.islands.1.1: s is not a GPU of this file",
        ),
        ('["a", "b"], ["c"]', '["a", "b", "c"], []', 15, "topology.islands.1: an island must hold a GPU"),
        ('switch = "s"', 'switch = "a"', 16, "topology.reducing_switch: a is not a node of kind switch"),
        (
            "value = 10,",
            "value = 0,",
            19,
            "topology.pools.all.value: must be a positive finite number; given 0",
        ),
        (
            "flow_cap = { value = 0.5",
            "flow_cap = { value = -5",
            37,
            "topology.links.2.flow_cap.value: must be a pos",
        ),
        (
            "flow_cap = { value",
            "flowcap = { value",
            37,
            "topology.links.2.flowcap: unknown key; did you mean flow_cap?",
        ),
    ],
)
def test_refusals_of_an_explicit_machine(tmp_path: Path, old: str, new: str, line: int, rule: str) -> None:
    error = refusal(tmp_path, broken(EXPLICIT, old, new))
    assert rule in error.rule
    assert error.line == line


@pytest.mark.parametrize(
    ("old", "new", "line", "rule"),
    [
        ("reduces = false\n", "", 13, "topology.node.reduces: missing key"),
        (
            '"switched_node"',
            '"fat_tree"',
            15,
            "topology.node.gpus: unknown key; allowed: nodes, node, nic_link",
        ),
        (
            "gpus = 4",
            "gpus = 3",
            7,
            "topology: gpus_per_nic must divide the node's GPUs: gpus_per_nic=2, GPUs=3",
        ),
        ("nodes = 2", "nodes = 0", 9, "topology.nodes: Input should be greater than or equal to 1; given 0"),
        (
            'kind = "fat_tree"\n',
            'kind = "fat_tree"\noversubscription = 0.5\n',
            9,
            "topology.oversubscription: Input",
        ),
        (
            "value = 100,",
            "value = 0,",
            17,
            "topology.node.port.bandwidth.value: must be a positive finite number",
        ),
        (
            '"Gbit/s"',
            '"Gbps"',
            25,
            "topology.network_link.bandwidth.unit: unknown unit 'Gbps'; bandwidth wants",
        ),
    ],
)
def test_refusals_of_a_multi_node_machine(tmp_path: Path, old: str, new: str, line: int, rule: str) -> None:
    error = refusal(tmp_path, broken(MULTI, old, new))
    assert rule in error.rule
    assert error.line == line


def test_a_node_cannot_be_several_machines(tmp_path: Path) -> None:
    inner = MULTI[MULTI.index("[topology]") :].replace("[topology", "[topology.node")
    outer = MULTI[: MULTI.index("[topology.node]")] + MULTI[MULTI.index("[topology.nic_link]") :]
    error = refusal(tmp_path, outer + "\n" + inner)
    assert error.rule == "topology.node.kind: a node is one machine, not several"
    assert error.line == (outer + "\n" + inner).splitlines().index("[topology.node]") + 2


def test_the_first_of_several_errors_is_reported(tmp_path: Path) -> None:
    text = broken(GOOD, '"ns"', '"GB"')
    text = broken(text, "value = 26.26", "value = -1")
    assert refusal(tmp_path, text).line == 14


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'name = "x"\n# \xff\n')
    with pytest.raises(FileError, match=r"mine\.toml:2: not UTF-8 text"):
        load_cluster(path)


@given(st.sampled_from([GOOD, EXPLICIT, MULTI]), st.data())
def test_a_file_with_a_line_lost_is_refused_with_a_line_or_loads(
    tmp_path_factory: pytest.TempPathFactory, text: str, data: st.DataObject
) -> None:
    """No traceback, whatever line is missing; and the line named is one of the file's."""
    rows = text.splitlines(keepends=True)
    gone = data.draw(st.integers(0, len(rows) - 1))
    path = write(tmp_path_factory.mktemp("lost"), "".join(rows[:gone] + rows[gone + 1 :]))
    try:
        machine = load_cluster(path)
    except FileError as error:
        assert 1 <= error.line <= len(rows)
    else:
        assert all(math.isfinite(link.bandwidth_bytes_per_s) for link in machine.links)
