"""Dumps become machines: every format, every oddity that real files have, files that add up, and files refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from thinwire.edge.limits import DUMP_BYTES
from thinwire.sim import api
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.draw import draw
from thinwire.topologies.dumps.tell import importable, tell
from thinwire.topologies.importing.machine import Imported, imported
from thinwire.topologies.load import load_cluster
from thinwire.topologies.picture import picture

from ...command import Capture, run
from . import twins

GPUS = {
    "nccl-mesh": None,
    "nccl-part-mesh": None,
    "rocm-mesh": None,
    "rocm-pcie": "mi300x",
    "rocm-part": "mi300x",
    "nccl-switch": None,
    "nccl-vendor": None,
    "nccl-no-numa": None,
    "nccl-self": None,
    "smi-nvswitch": "h100-sxm",
    "smi-cut": "a100-sxm",
    "rocm-amd-smi": "mi300x",
    "smi-cube": "a100-sxm",
    "smi-pairs": "a100-pcie",
    "sample": None,
    "nvbandwidth": None,
}


def files(folder: Path, *texts: str | bytes) -> list[str]:
    paths = []
    for i, text in enumerate(texts):
        paths.append(str(folder / f"given{i}.txt"))
        Path(paths[-1]).write_bytes(text if isinstance(text, bytes) else text.encode())
    return paths


def given(folder: Path, *texts: str | bytes, gpu: str | None = None) -> Imported:
    return imported(files(folder, *texts), gpu)


def refused(folder: Path, *texts: str | bytes, gpu: str | None = "a100-pcie") -> str:
    with pytest.raises(ValueError) as error:
        given(folder, *texts, gpu=gpu)
    said = str(error.value)
    assert "\n" not in said and len(said) < 600
    return said


def rate(cluster: Cluster, source: str, target: str) -> float:
    return cluster.link(source, target).bandwidth_bytes_per_s / 1e9


# ---- every format, to an answer


@pytest.mark.parametrize("name", twins.ALL)
def test_every_twin_is_imported_drawn_and_predicted(name: str, tmp_path: Path, capsys: Capture) -> None:
    (path,) = files(tmp_path, twins.ALL[name])
    out = str(tmp_path / "machine.toml")
    gpu = GPUS.get(name, "l40s")
    status, printed, err = run(capsys, "cluster", "import", path, "--out", out, *(["--gpu", gpu] if gpu else []))
    assert (status, err) == (0, "") and "Not known, or assumed" in printed
    found = load_cluster(out)
    assert found.name == "machine" and 2 <= len(found.gpus) <= 8
    kinds = {"measured", "datasheet", "assumed"}
    assert found.sources and {source.partition(":")[0] for source in found.sources.values()} <= kinds
    assert run(capsys, "cluster", "show", out)[0] == 0
    assert picture(found).startswith("<svg")
    tp = 2 if len(found.gpus) < 4 else 4
    took = api.predict("llama-3-8b", out, "flash-int4", tp=tp, input_tokens=256)
    assert took.ttft_s > 0 and any("nearest in kind" in sentence for sentence in took.assumptions)
    assert api.collective(out, "bf16", 1 << 20, tp)["time_us"] > 0


def test_an_nvswitch_dump(tmp_path: Path) -> None:
    """Links to switches are summed; two ports of one NIC are two NICs; nothing shares a PCIe switch."""
    found = given(tmp_path, twins.switch_machine()).cluster
    assert found.gpu.name == "h100-sxm" and found.fabric == "h100-nvlink" and found.reducing_switch == "nvswitch"
    assert rate(found, "gpu0", "nvswitch") == 450
    assert [domain.ranks for domain in found.domains] == [(0, 1), (2, 3)]
    nics = [nic for domain in found.domains for nic in domain.nics]
    assert len(nics) == 8 and nics[2].name == "mlx5_2" and nics[2].ranks == (1,) and nics[2].bytes_per_s == 25e9
    assert "datasheet: 18 NVLinks" in found.sources["topology.port.bandwidth"]


def test_a_vendors_file_without_gpu_elements(tmp_path: Path) -> None:
    """GPUs in the order of their bus ids, whichever socket comes first; each pair shares its switch's uplink."""
    found = given(tmp_path, twins.VENDOR)
    assert found.cluster.gpu.name == "l40s"
    assert [domain.ranks for domain in found.cluster.domains] == [(0, 1), (2, 3)]
    assert [domain.name for domain in found.cluster.domains] == ["1", "0"]
    assert [link.name for link in found.cluster.route(0, 1)] == ["gpu0->pcie0", "pcie0->gpu1"]
    assert [link.name for link in found.cluster.route(0, 2)] == [
        "gpu0->pcie0",
        "pcie0->bridge0",
        "bridge0->bridge1",
        "bridge1->pcie1",
        "pcie1->gpu2",
    ]
    assert 'kind = "pcie_tree"' in found.text and "gpus_per_switch = 2" in found.text
    assert "Gen4 x16" in found.cluster.sources["topology.gpu_link.bandwidth"]


def test_a_vendors_file_of_a_board_with_switches(tmp_path: Path) -> None:
    """Eight SXM GPUs without a word of NVLink: on switches, assumed, and said."""
    text = twins.VENDOR.replace('device="0x26b9"', 'device="0x20b2"')
    more = text.replace("0001:", "0005:").replace("0002:", "0006:").replace("0003:", "0007:").replace("0004:", "0008:")
    body = more.split('<system version="1">')[1].split("</system>")[0]
    eight = text.replace("</system>", body + "</system>")
    found = given(tmp_path, eight)
    assert found.cluster.fabric == "a100-nvlink" and found.cluster.reducing_switch is None
    assert found.cluster.sources["topology.port.bandwidth"].startswith("assumed:")
    four = given(tmp_path, text)  # four of them may be wired otherwise
    assert 'kind = "pcie_tree"' in four.text and "nvlink" in {each.key for each in four.unknown}


def test_one_numa_domain_where_the_host_reports_none(tmp_path: Path) -> None:
    found = given(tmp_path, twins.NO_NUMA)
    assert found.cluster.gpu.name == "rtx-4090" and found.cluster.fabric == "rtx4090-pcie"
    assert len(found.cluster.islands) == 1 and "peer_to_peer = false" in found.text
    assert "the host reports no NUMA domains" in found.notes


def test_links_of_a_gpu_to_itself_are_said_and_left_out(tmp_path: Path) -> None:
    """An empty link_speed and a width of 0 are no rate: the product's stands in, and is listed."""
    found = given(tmp_path, twins.SELF_LINKS)
    assert any("lead to themselves" in note for note in found.notes)
    assert "nvlink" in {each.key for each in found.unknown}
    whole = given(tmp_path, twins.SELF_LINKS, twins.matrix(["GPU0", "GPU1"], {("GPU0", "GPU1"): "NV12"}))
    assert whole.cluster.fabric == "a100-nvlink" and "nvlink" not in {each.key for each in whole.unknown}
    assert any(each.key == "pcie" and "Gen4 x16" in each.taken for each in found.unknown)
    assert [nic.name for domain in found.cluster.domains for nic in domain.nics] == ["eth0"]


def test_xgmi_each_with_each_and_in_part(tmp_path: Path) -> None:
    whole = given(tmp_path, twins.mesh_machine()).cluster
    assert whole.gpu.name == "mi300x" and whole.fabric == "mi300x-xgmi" and rate(whole, "gpu0", "gpu3") == 64
    assert whole.domains[0].nics[0].bytes_per_s == 25e9  # 200000000 was written where Mb/s belong
    part = given(tmp_path, twins.mesh_machine(missing=((0, 1), (2, 3)))).cluster
    assert part.has_link("gpu0", "gpu2") and not part.has_link("gpu0", "gpu1")
    assert [link.name for link in part.route(0, 1)] == ["gpu0->bridge0", "bridge0->gpu1"]


def test_words_of_nvidia_smi(tmp_path: Path) -> None:
    """PIX shares a switch, PHB and NODE a domain, SYS crosses; NODE within a domain is not held to be narrower."""
    sockets = given(tmp_path, twins.TWO_SOCKETS, gpu="l40s").cluster
    assert sockets.islands == ((0, 1), (2, 3)) and len(sockets.route(0, 3)) == 5
    nodes = given(tmp_path, twins.NODES, gpu="l40s").cluster
    assert nodes.islands == ((0, 1, 2, 3),) and len(nodes.route(0, 3)) == 4
    eight = given(tmp_path, twins.TWO_SWITCHES, gpu="rtx-pro-6000")
    assert "islands = [8]" in eight.text and "gpus_per_switch = 4" in eight.text
    assert eight.cluster.fabric == "rtx-pro-6000-switch"


def test_nv_pairs_beside_sys(tmp_path: Path) -> None:
    """A bond hides a pair's place: a NIC that is PIX to one and PXB to the other tells it; else it is listed."""
    found = given(tmp_path, twins.NV4_PAIRS, gpu="a100-pcie")
    assert rate(found.cluster, "gpu0", "gpu1") == 100 and len(found.cluster.route(0, 1)) == 1
    assert [switch for domain in found.cluster.domains for switch in domain.switches] == [(2, 3)]
    assert any(each.key == "hidden" and "1 pair" in each.taken for each in found.unknown)
    bridges = given(tmp_path, twins.NV4_PAIRS, gpu="a40").cluster
    assert rate(bridges, "gpu0", "gpu1") == 56.25  # links of 14 GB/s


@pytest.mark.parametrize(
    ("words", "gpu", "kind", "fabric"),
    [
        ("NV18", "h100-sxm", "switched_node", "h100-nvlink"),
        ("NV18", "h200-sxm", "switched_node", "h200-nvlink"),
        ("NV12", "a100-sxm", "switched_node", "a100-nvlink"),
        ("NV4", "a100-sxm", "full_mesh", "a100-nvlink"),
        ("NV18", "b200-sxm", "switched_node", "b200-nvlink"),
        ("NV6", "h100-sxm", "full_mesh", "h100-nvlink"),
    ],
)
def test_a_switch_is_told_from_a_mesh_by_counting(words: str, gpu: str, kind: str, fabric: str, tmp_path: Path) -> None:
    """Three peers at NV18 are more links than a GPU has; at NV4 they are an A100's twelve."""
    found = given(tmp_path, twins.NVSWITCH.replace("NV18", words), gpu=gpu)
    assert f'kind = "{kind}"' in found.text and found.cluster.fabric == fabric
    sums = found.cluster.reducing_switch is not None
    assert sums == (kind == "switched_node" and not gpu.startswith("a100"))


def test_nics_of_nvidia_smi_have_their_names(tmp_path: Path) -> None:
    found = given(tmp_path, twins.NVSWITCH, gpu="h100-sxm").cluster
    nics = {nic.name: nic.ranks for domain in found.domains for nic in domain.nics}
    assert nics == {"mlx5_0": (0,), "mlx5_bond_0": (3,)}


def test_a_matrix_cut_in_the_middle(tmp_path: Path) -> None:
    found = given(tmp_path, twins.CUT, gpu="a100-sxm")
    assert len(found.cluster.gpus) == 4 and rate(found.cluster, "gpu3", "nvswitch") == 200
    assert any("cut off" in note and "NV8" in note for note in found.notes)
    assert "GPU1 and GPU2" in refused(tmp_path, twins.CUT_UNCLEAR)
    # One row short, the rest is told by symmetry.
    short = "\n".join(twins.TWO_SOCKETS.splitlines()[:4])
    assert given(tmp_path, short, gpu="l40s").cluster.islands == ((0, 1), (2, 3))


def test_only_rows_of_nics_and_a_header_that_was_cut(tmp_path: Path) -> None:
    nics = "\n".join(line for line in twins.NVSWITCH.splitlines() if line.startswith(("\t", "NIC")))
    assert "is cut" in refused(tmp_path, nics)
    header = twins.TWO_SOCKETS.replace("GPU2\tGPU3\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID", "...", 1)
    assert given(tmp_path, header, gpu="l40s").cluster.islands == ((0, 1), (2, 3))


def test_rocm_smi(tmp_path: Path) -> None:
    mesh = given(tmp_path, twins.rocm() + twins.ROCM_NAMES)
    assert mesh.cluster.gpu.name == "mi300x" and 'kind = "full_mesh"' in mesh.text
    pcie = given(tmp_path, twins.rocm(4, "PCIE", "40", "2"), gpu="mi300x")
    assert 'kind = "pcie_tree"' in pcie.text and pcie.cluster.islands == ((0, 1), (2, 3))
    part = given(tmp_path, twins.rocm(pairs={(0, 2): "PCIE", (1, 3): "XGMI"}), gpu="mi300x")
    assert not part.cluster.has_link("gpu0", "gpu2") and not part.cluster.has_link("gpu1", "gpu3")
    assert part.cluster.has_link("gpu0", "gpu1") and any("other GPUs' xGMI" in note for note in part.notes)

    assert 'kind = "full_mesh"' in given(tmp_path, twins.AMD_SMI, gpu="mi300x").text


@pytest.mark.parametrize("told", [True, False])
def test_links_to_some_of_each_socket(told: bool, tmp_path: Path) -> None:
    """A cube of NVLinks hides every GPU's place: CPUs tell it, and without them what contradicts nothing is taken."""
    text = twins.CUBE if told else "\n".join(line.rpartition("\t")[0] for line in twins.CUBE.splitlines()[1:])
    found = given(tmp_path, text, gpu="a100-sxm")
    assert found.cluster.islands == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert len(found.cluster.route(0, 4)) == 1 and len(found.cluster.route(0, 5)) == 3
    assert any("in the order of ranks" in note for note in found.notes)


# ---- how text arrives


def _variants() -> dict[str, str | bytes]:
    text = twins.TWO_SOCKETS
    esc = twins.ESC
    lines = text.splitlines()
    coloured = text.replace("\tGPU0", f"\t{esc}[4mGPU0", 1).replace("GPU NUMA ID\n", f"GPU NUMA ID{esc}[0m\n", 1)
    return {
        "ansi": coloured,
        "ansi without escape": coloured.replace(esc, ""),
        "crlf": text.replace("\n", "\r\n"),
        "bom": text.encode("utf-8-sig"),
        "utf-16": text.encode("utf-16"),
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
        "latin-1": ("# machine in Zürich\n" + text).encode("latin-1"),
        "prompt": f"user@host:~$ nvidia-smi topo -m\n{text}user@host:~$ \n",
        "fence": f"Here it is:\n```text\n{text}```\n",
        "quoted": "".join(f"> {line}\n" for line in lines),
        "quoted twice": "".join(f">> {line}\n" for line in lines),
        "spaces": text.replace("\t", "     "),
        "no header": "\n".join(lines[1:]),
        "ends with dots": text + "\n...\n",
        "tagged": "".join(f"[1,0]<stdout>: {line}\n" for line in lines),
        "host tagged": "".join(f"node01: {line}\n" for line in lines),
        "shuffled rows": "\n".join([lines[0], lines[3], lines[1], lines[4], lines[2]]),
        "legend first": twins.LEGEND + text,
        "bars": text.replace("\t", " | "),
        "remark": text.replace("\nGPU2\t", "\n(the second socket)\nGPU2\t"),
        "nbsp": text.replace(" X ", "\xa0X\xa0"),
    }


@pytest.mark.parametrize("how", _variants())
def test_text_in_every_dress(how: str, tmp_path: Path) -> None:
    plain = given(tmp_path, twins.TWO_SOCKETS, gpu="l40s").cluster
    found = given(tmp_path, _variants()[how], gpu="l40s").cluster
    assert found.islands == plain.islands and found.links == plain.links


def test_columns_in_another_order(tmp_path: Path) -> None:
    """GPUs are ranks by their numbers, wherever they stand; a matrix that ends up interleaved is spelled out."""
    mixed = twins.matrix(["GPU2", "GPU0", "GPU3", "GPU1"], twins.PAIRS)
    assert given(tmp_path, mixed, gpu="l40s").cluster.islands == ((0, 1), (2, 3))
    across = twins.matrix(twins.GPUS4, {("GPU0", "GPU2"): "PIX", ("GPU1", "GPU3"): "PIX"})
    found = given(tmp_path, across, gpu="l40s")
    assert 'kind = "explicit"' in found.text and found.cluster.islands == ((0, 2), (1, 3))
    assert len(found.cluster.route(0, 2)) == 2 and len(found.cluster.route(0, 1)) == 5


def test_switches_within_switches_and_gpus_beside(tmp_path: Path) -> None:
    """PXB holds PIX; GPUs without a switch stand beside. A stock driver splits such switches, too."""
    words = {
        ("GPU0", "GPU1"): "PIX",
        ("GPU0", "GPU2"): "PXB",
        ("GPU1", "GPU2"): "PXB",
        ("GPU0", "GPU3"): "PHB",
        ("GPU1", "GPU3"): "PHB",
        ("GPU2", "GPU3"): "PHB",
    }
    for gpu, hops in (("l40s", [2, 3, 4]), ("rtx-4090", [6, 5, 4])):
        found = given(tmp_path, twins.matrix(twins.GPUS4, words), gpu=gpu).cluster
        assert [len(found.route(0, other)) for other in (1, 2, 3)] == hops
        assert picture(found).count('class="switch"') == 2


def test_quoted_and_fenced_xml(tmp_path: Path) -> None:
    text = twins.switch_machine()
    for dress in (
        "".join(f"> {line}\n" for line in text.splitlines()),
        f"$ cat topo.xml\n```xml\n{text}```\n",
        '<?xml version="1.0" encoding="UTF-8"?>\n' + text,
        text.encode("utf-16"),
        "\ufeff" + text,
    ):
        assert given(tmp_path, dress).cluster.fabric == "h100-nvlink"


# ---- several files


def test_files_add_up(tmp_path: Path) -> None:
    """Structure from one, peer-to-peer from another, rates and the product from a third."""
    found = given(tmp_path, twins.TWO_SOCKETS, twins.PEERS_OK, twins.sample())
    assert found.cluster.gpu.name == "l40s" and 'peer_to_peer = "yes, over PCIe (given2.txt)"' in found.text
    sources = found.cluster.sources
    assert rate(found.cluster, "gpu0", "pcie0") == 27.1
    assert sources["topology.gpu_link.bandwidth"].startswith("measured: given2.txt, p2pBandwidthLatencyTest")
    assert sources["topology.socket_link.flow_cap"].startswith("measured:")
    assert found.cluster.pools["gpu0.duplex"] == pytest.approx(27.1 * 1.9 * 1e9, rel=1e-3)
    other = given(tmp_path, twins.sample(), twins.PEERS_OK, twins.TWO_SOCKETS)
    assert other.cluster.links == found.cluster.links


def test_rates_of_nvbandwidth(tmp_path: Path) -> None:
    found = given(tmp_path, twins.TWO_SOCKETS + twins.nvbandwidth()).cluster
    assert found.gpu.name == "l40s" and rate(found, "gpu0", "pcie0") == 26.34
    assert found.pools["gpu0.duplex"] == 50.2e9  # the total; one direction of it is printed above
    assert found.link("bridge0", "bridge1").flow_cap_bytes_per_s == 21.9e9


def test_a_stock_driver_told_by_measurement(tmp_path: Path) -> None:
    """CNS, or CANNOT access: copies bounce. A copy's rate is the flow's, the link's comes from copies to the host."""
    peers = given(tmp_path, twins.TWO_SOCKETS, twins.PEERS_NONE, gpu="l40s")
    assert peers.cluster.fabric == "rtx4090-pcie" and "peer_to_peer = false" in peers.text
    measured = given(tmp_path, twins.TWO_SOCKETS, twins.sample(peer=False), twins.nvbandwidth())
    link = measured.cluster.link("gpu0", "pcie0.up")
    assert link.flow_cap_bytes_per_s == pytest.approx(27.1e9 * 0.7, rel=1e-3) and link.bandwidth_bytes_per_s == 25.6e9
    patched = given(tmp_path, twins.NO_NUMA, twins.sample(2, product="NVIDIA GeForce RTX 4090"))
    assert patched.cluster.fabric == "rtx4090-p2p"  # a patched one, on a 4090


def test_nvlink_capability_is_no_word_on_pcie(tmp_path: Path) -> None:
    assert given(tmp_path, twins.TWO_SOCKETS, twins.NVLINK_PEERS, gpu="l40s").cluster.fabric == "l40s-pcie"


def test_nvlink_keeps_its_nominal_rate_unless_contradicted(tmp_path: Path) -> None:
    """A copy reaches five sixths of NVLink, a loss that the profile counts already."""
    usual = given(tmp_path, twins.NVSWITCH, twins.sample(near=376.0, far=376.0, product="NVIDIA H100 80GB HBM3"))
    assert rate(usual.cluster, "gpu0", "nvswitch") == 450 and any("84%" in note for note in usual.notes)
    slow = given(tmp_path, twins.NVSWITCH, twins.sample(near=100.0, far=100.0, product="NVIDIA H100 80GB HBM3"))
    assert rate(slow.cluster, "gpu0", "nvswitch") == 100


def test_contradictions_are_said(tmp_path: Path) -> None:
    nodes = given(tmp_path, twins.VENDOR, twins.matrix(twins.GPUS4, {("GPU0", "GPU1"): "PHB", ("GPU2", "GPU3"): "PHB"}))
    assert any("share a PCIe switch" in note for note in nodes.notes)
    clash = given(tmp_path, twins.TWO_SOCKETS + twins.PEERS_NONE, twins.sample())
    assert clash.cluster.fabric == "l40s-pcie" and any("disagree" in note for note in clash.notes)
    oblique = twins.matrix(twins.GPUS4, {("GPU0", "GPU1"): "PIX", ("GPU1", "GPU2"): "PIX", ("GPU0", "GPU2"): "SYS"})
    assert any("contradicts itself" in note for note in given(tmp_path, oblique, gpu="l40s").notes)
    other = given(tmp_path, twins.VENDOR, gpu="a100-pcie")
    assert any("--gpu counts" in note for note in other.notes) and other.cluster.gpu.name == "a100-pcie"
    assert "4 GPUs" in refused(tmp_path, twins.TWO_SOCKETS, twins.TWO_SWITCHES)
    assert "another machine" in refused(tmp_path, twins.TWO_SOCKETS + "\n" + twins.NODES)
    assert "8 GPUs" in refused(tmp_path, twins.TWO_SOCKETS, twins.sample(8))


# ---- which GPU


@pytest.mark.parametrize(
    ("text", "gpu"),
    [
        (twins.LISTED, "l40s"),
        (twins.LSPCI, "l40s"),
        (twins.TABLE, "a100-sxm"),
        (twins.LISTED.replace("NVIDIA L40S", "NVIDIA A100-SXM4-80GB"), "a100-sxm"),
    ],
)
def test_a_gpu_told_by_a_header(text: str, gpu: str, tmp_path: Path) -> None:
    assert given(tmp_path, text + twins.TWO_SOCKETS).cluster.gpu.name == gpu
    assert given(tmp_path, twins.TWO_SOCKETS, text).cluster.gpu.name == gpu


def test_a_gpu_that_nothing_tells(tmp_path: Path) -> None:
    assert "--gpu NAME" in refused(tmp_path, twins.TWO_SOCKETS, gpu=None)
    strange = refused(tmp_path, twins.VENDOR.replace("0x26b9", "0x1eff"), gpu=None)
    assert "10de:1eff" in strange and "--gpu NAME" in strange
    cut = refused(tmp_path, twins.TABLE.replace("A100-SXM4-80...", "A100...") + twins.TWO_SOCKETS, gpu=None)
    assert "may be a100-pcie or a100-" in cut and "--gpu NAME" in cut
    assert "unknown gpu" in refused(tmp_path, twins.VENDOR, gpu="l41")
    mixed = twins.LISTED.replace("GPU 3: NVIDIA L40S", "GPU 3: NVIDIA A40")
    assert "1 x a40, 3 x l40s" in refused(tmp_path, twins.TWO_SOCKETS + mixed, gpu=None)
    assert given(tmp_path, twins.TWO_SOCKETS + mixed, gpu="a40").cluster.gpu.name == "a40"


def test_a_gpu_of_ones_own(tmp_path: Path, root: Path, capsys: Capture) -> None:
    """--gpu takes a file; the machine names it relative to itself."""
    mine = tmp_path / "gpus" / "mine.toml"
    mine.parent.mkdir()
    mine.write_text((root / "topologies/gpus/l40s.toml").read_text().replace('name = "l40s"', 'name = "mine"'))
    (path,) = files(tmp_path, twins.TWO_SOCKETS)
    out = tmp_path / "m.toml"
    status, _, err = run(capsys, "cluster", "import", path, "--gpu", str(mine), "--out", str(out))
    assert (status, err) == (0, "") and 'gpu = "gpus/mine.toml"' in out.read_text()
    assert load_cluster(str(out)).gpu.name == "mine"


# ---- refused, in one line that says what it is

REFUSED = {
    "graphs": (twins.GRAPHS, "NCCL's graphs"),
    "devices": (twins.DEVICES_ONLY, "neither a class nor a <gpu>"),
    "log": (twins.NCCL_TESTS_LOG, "calibrate --logs"),
    "empty": ("", "it is empty"),
    "blank": (" \n\n\t", "it is empty"),
    "html": ("<!DOCTYPE html><html><body>topo</body></html>", "web page"),
    "bomb": (twins.BOMB, "entities of its own"),
    "machine": ('name = "x"\n[topology]\nkind = "pcie_tree"\n', "a machine file already"),
    "xml": ("<?xml version='1.0'?><a><b/></a>", "root <a>"),
    "cut": (twins.switch_machine()[:900], "ends inside"),
    "json": ('{"gpus": 8}', "JSON"),
    "prose": ("I have eight GPUs and they are fast.\n", "none of"),
    "binary": (bytes(range(1, 32)) * 100, "no text"),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(64), "gzip"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), "a picture"),
    "info": ("host:1:1 [0] NCCL INFO Channel 00/02 : 0 1\n", "a log of NCCL's"),
    "no gpu": ('<system version="1"><cpu numaid="0"/></system>', "without a GPU"),
    "deep": ('<system version="1">' + "<pci>" * 100 + "</pci>" * 100 + "</system>", "64 deep"),
    "wide": ('<system version="1"><cpu>' + '<pci busid="0:0:0"/>' * 30_000 + "</cpu></system>", "elements must lie"),
    "rates alone": (twins.sample(), "no GPU's place"),
    "names alone": (twins.LISTED, "no GPU's place"),
    "many": ("".join(f"GPU{i} X\n" for i in range(400)), "must lie in"),
    "failed": ("NVIDIA-SMI has failed because it couldn't\n", "error message"),
    "toml": ("[project]\nname = 'x'\n", "describes no machine"),
    "two": (twins.switch_machine() * 2, "no well-formed XML"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_dump_is_named(name: str, tmp_path: Path, capsys: Capture) -> None:
    text, why = REFUSED[name]
    (path,) = files(tmp_path, text)
    out = tmp_path / "m.toml"
    status, printed, err = run(capsys, "cluster", "import", path, "--gpu", "l40s", "--out", str(out))
    assert status == 2 and not printed and err.count("\n") == 1
    assert why in err, err
    assert not out.exists()


def test_garbage_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "garbage"
    with path.open("wb") as file:
        file.truncate(50 << 20)
    with pytest.raises(ValueError, match=f"more than {DUMP_BYTES.most} bytes"):
        tell(path)
    with pytest.raises(ValueError, match="No such file"):
        tell(tmp_path / "none")


# ---- the commands


def test_without_out_the_file_alone_is_printed(tmp_path: Path, capsys: Capture) -> None:
    (path,) = files(tmp_path, twins.TWO_SOCKETS)
    status, out, err = run(capsys, "cluster", "import", path, "--gpu", "l40s", "--name", "mine")
    assert status == 0 and out.startswith("# Imported by thinwire") and 'name = "mine"' in out
    assert "Not known, or assumed" in err
    (tmp_path / "again.toml").write_text(out)
    assert load_cluster(str(tmp_path / "again.toml")).name == "mine"


def test_json_says_the_same(tmp_path: Path, capsys: Capture) -> None:
    (path,) = files(tmp_path, twins.TWO_SOCKETS)
    out = tmp_path / "m.toml"
    status, printed, err = run(capsys, "cluster", "import", path, "--gpu", "l40s", "--out", str(out), "--json")
    found = json.loads(printed)
    assert (status, err) == (0, "") and found["toml"] == out.read_text() and found["out"] == str(out)
    assert found["cluster"]["islands"] == [[0, 1], [2, 3]]
    keys = {each["key"] for each in found["unknown"]}
    assert {"peer_to_peer", "pcie", "gpu_link.bandwidth", "socket_link.bandwidth"} <= keys
    assert all(each["measured_by"] for each in found["unknown"])


def test_out_is_whole_or_not_there(tmp_path: Path, capsys: Capture) -> None:
    (path,) = files(tmp_path, twins.TWO_SOCKETS)
    status, _, err = run(capsys, "cluster", "import", path, "--gpu", "l40s", "--out", str(tmp_path / "no" / "m.toml"))
    assert status == 2 and "cannot write the machine" in err
    status, _, err = run(capsys, "cluster", "import", path, "--gpu", "l40s", "--out", str(tmp_path / "m.json"))
    assert status == 2 and "ends with .toml" in err


def test_show_sends_dumps_to_the_importer(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("topo.xml", twins.VENDOR), ("topo.txt", twins.TWO_SOCKETS), ("odd.toml", twins.TWO_SOCKETS)):
        Path(name).write_text(text)
        assert importable(name)
        status, out, err = run(capsys, "cluster", "show", name)
        assert status == 2 and not out and f"thinwire cluster import {name} --out machine.toml" in err
    Path("graphs.xml").write_text(twins.GRAPHS)
    assert "NCCL's graphs" in run(capsys, "cluster", "show", "graphs.xml")[2]
    assert "unknown cluster" in run(capsys, "cluster", "show", "8xl41")[2]


def test_what_the_host_has_besides(tmp_path: Path) -> None:
    """It is drawn, goes along with its ranks, and is held to them."""
    found = given(tmp_path, twins.NVSWITCH, gpu="h100-sxm")
    assert "NUMA 1: ranks 2, 3; NICs mlx5_bond_0 (near 3)" in draw(found.cluster)
    three = found.cluster.take(3)
    assert [domain.ranks for domain in three.domains] == [(0, 1), (2,)]
    assert three.domains[1].nics[0].ranks == ()
    path = tmp_path / "m.toml"
    path.write_text(found.text.replace("gpus = [2, 3]", "gpus = [2, 4]"))
    with pytest.raises(ValueError, match=r"domain.1: no GPU has rank 4: ranks are 0..3"):
        load_cluster(path)


def test_names_in_files_are_quoted(tmp_path: Path) -> None:
    """A NIC's name is a stranger's text: it may hold what TOML means something by."""
    odd = twins.SELF_LINKS.replace('name="eth0"', 'name="e&quot;] = &#9; \\ #"')
    found = given(tmp_path, odd)
    (nic,) = (nic for domain in found.cluster.domains for nic in domain.nics)
    assert nic.name == 'e"] =   \\ #' or '"]' in nic.name


def test_no_gpu_has_more_pcie_than_its_product(tmp_path: Path) -> None:
    """A vendor's file may give a V100 Gen4, a hypervisor any width: the product's is taken, and said."""
    wide = twins.NO_NUMA.replace('link_width="16"', 'link_width="32"').replace("16.0 GT/s", "64.0 GT/s")
    found = given(tmp_path, wide, gpu="v100-sxm")
    (link,) = {link.bandwidth_bytes_per_s for link in found.cluster.links if link.source == "gpu0"}
    assert link < 15.8e9
    assert any("Gen3 x16: the file reports Gen6 x32" in each.taken for each in found.unknown)


def test_copies_faster_than_the_link_are_of_another_machine(tmp_path: Path) -> None:
    told = refused(tmp_path, twins.TWO_SOCKETS, twins.nvbandwidth(near=273.0, far=273.0), gpu="l40s")
    assert "273 GB/s" in told and "more than l40s's PCIe carries (31.5)" in told


def test_a_dump_of_two_hosts_is_refused(tmp_path: Path) -> None:
    one, two = '<cpu numaid="0" host_hash="0x1"', '<cpu numaid="1" host_hash="0x2"'
    text = twins.SELF_LINKS.replace('<cpu numaid="0"', one).replace('<cpu numaid="1"', two)
    assert "it holds 2 hosts (host_hash); an import is of one" in refused(tmp_path, text)
    assert len(given(tmp_path, text.replace('host_hash="0x2', 'host_hash="0x1')).cluster.gpus) == 2


def test_every_question_sends_a_dump_to_the_importer(tmp_path: Path) -> None:
    (path,) = files(tmp_path, twins.NO_NUMA)
    with pytest.raises(ValueError, match="thinwire cluster import"):
        api.predict("llama-3-8b", path, "bf16")


@pytest.mark.parametrize("given_as", ["RTX 3090", "rtx-3090", "Rtx 3090", "rtx3090", "3090"])
def test_a_gpu_may_be_named_as_drivers_do(given_as: str, tmp_path: Path) -> None:
    assert given(tmp_path, twins.TWO_SOCKETS, gpu=given_as).cluster.gpu.name == "rtx-3090"
    assert "did you mean h100-" in refused(tmp_path, twins.TWO_SOCKETS, gpu="h100"), "several are called so"
    assert "unknown gpu 'RTX 9090'" in refused(tmp_path, twins.TWO_SOCKETS, gpu="RTX 9090")
