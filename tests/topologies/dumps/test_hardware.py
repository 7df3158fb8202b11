"""The tables of links: shares recomputed from the published rates, and figures of the shipped machines."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import median

import pytest

from thinwire.topologies.dumps.seen import Pcie
from thinwire.topologies.importing import hardware
from thinwire.topologies.load import gpu_names, load_cluster, load_gpu


def hops(root: Path) -> dict[int, list[float]]:
    """One hop's rates in GB/s by PCIe generation, one value a host: copies between neighbours, alone on the wire."""
    found: dict[int, dict[str, list[float]]] = {4: {}, 5: {}}
    with (root / "validation/published/pcie_link_rates.csv").open() as file:
        for row in csv.DictReader(file):
            alone = "single hop alone" in row["measurement"] or row["measurement"] == "p2p write same NUMA"
            if alone and row["pcie"][:4] in ("Gen4", "Gen5"):
                ends = [float(part) for part in row["gb_per_s_unidirectional_per_gpu"].split("-")]
                host = row["host"] + row["gpu"]
                found[int(row["pcie"][3])].setdefault(host, []).append(sum(ends) / len(ends))
    return {generation: [sum(v) / len(v) for v in hosts.values()] for generation, hosts in found.items()}


def test_shares_are_the_medians_of_measured_hosts(root: Path) -> None:
    found = hops(root)
    assert [len(found[4]), len(found[5])] == [1, 6]
    for generation, rates in found.items():
        wire = hardware.wire_bytes_per_s(generation, 16) / 1e9
        assert hardware.SHARES[generation] == pytest.approx(median(rates) / wire, abs=0.001)
    assert "six Gen5 hosts" in hardware.SHARE_SOURCES[5]


def test_figures_of_shipped_machines_are_theirs() -> None:
    for name, generation in (("8xl40s-pcie", 4), ("8xrtx-pro-6000-pcie", 5)):
        machine = load_cluster(name)
        socket = machine.link("bridge0", "bridge1")
        known = hardware.SOCKETS[generation]
        assert (socket.bandwidth_bytes_per_s, socket.flow_cap_bytes_per_s) == (
            known.gb_per_s * 1e9,
            known.flow_gb_per_s * 1e9,
        )
        (link,) = {link.bandwidth_bytes_per_s for link in machine.links if link.source == "gpu0"}
        assert hardware.DUPLEX[generation] == pytest.approx(machine.pools["gpu0.duplex"] / link, abs=0.001)
    staged = load_cluster("8xrtx4090-pcie")
    link = staged.link("gpu0", "bridge0")
    assert link.flow_cap_bytes_per_s is not None
    assert pytest.approx(link.flow_cap_bytes_per_s / link.bandwidth_bytes_per_s, abs=0.001) == hardware.STAGED_SHARE
    assert staged.pools["bridge0.memory"] == hardware.HOST_MEMORY_GB_PER_S * 1e9
    assert staged.link("bridge0", "bridge1").flow_cap_bytes_per_s == hardware.STAGED_FLOW_GB_PER_S * 1e9


def test_wire_rates() -> None:
    assert hardware.wire_bytes_per_s(4, 16) / 1e9 == pytest.approx(31.51, abs=0.01)
    assert hardware.wire_bytes_per_s(3, 8) / 1e9 == pytest.approx(7.88, abs=0.01)
    assert hardware.reported(Pcie(16.0, 16)) == (4, 16)
    assert hardware.reported(Pcie(None, 16)) is hardware.reported(Pcie(16.0, None)) is None


def test_every_gpu_of_the_catalog_has_a_family() -> None:
    """Write its row in importing/hardware.py: PCIe generation, NVLinks, peer-to-peer."""
    for name in gpu_names():
        assert hardware.family(name) is not None, name


def test_nvlinks_of_catalog_machines() -> None:
    for machine in ("8xa100-nvlink", "8xh100-nvlink", "8xh200-nvlink", "8xb200-nvlink"):
        found = load_cluster(machine)
        kind = hardware.family(found.gpu.name)
        assert kind is not None and kind.sxm
        port = found.link("gpu0", "nvswitch").bandwidth_bytes_per_s / 1e9
        assert kind.nvlinks * kind.nvlink_gb_per_s == port
        assert (kind.nvlink >= 4) == (found.reducing_switch is not None)
        assert hardware.fabric("nvlink", found.gpu.name) == found.fabric


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("a800", (4, 8, True)),
        ("a800-sxm", (4, 8, True)),
        ("a100-sxm-40gb", (4, 12, True)),
        ("rtx-3090", (4, 4, False)),
        ("rtx-4090d", (4, 0, False)),
        ("rtx-5070-ti", (5, 0, False)),
        ("rtx-5090", (5, 0, False)),
        ("rtx-a6000", (4, 4, True)),
        ("a6000", (4, 4, True)),
        ("rtx-6000-ada", (4, 0, True)),
        ("rtx-pro-6000-max-q", (5, 0, True)),
        ("h20", (5, 18, True)),
        ("h100-nvl", (5, 12, True)),
        ("h200-nvl", (5, 18, True)),
        ("h800", (5, 8, True)),
        ("gh200", (5, 18, True)),
        ("gb200", (5, 18, True)),
        ("b300-sxm", (5, 18, True)),
        ("l20", (4, 0, True)),
        ("v100-sxm", (3, 6, True)),
        ("t4", (3, 0, True)),
        ("a10g", (4, 0, True)),
        ("mi250x", (4, 0, True)),
        ("mi355x", (5, 0, True)),
        ("rtx-6000d", (5, 0, True)),
        ("a30", (4, 4, True)),
    ],
)
def test_facts_of_gpus_that_may_come(name: str, facts: tuple[int, int, bool]) -> None:
    found = hardware.family(name)
    assert found is not None and (found.pcie, found.nvlinks, found.peers) == facts


def test_fabrics_are_shipped(root: Path) -> None:
    shipped = {path.stem.removeprefix("fabric-") for path in (root / "sim/profiles").glob("fabric-*.json")}
    assert {name for _, _, name in hardware.FABRICS} <= shipped
    assert load_gpu("l4").name == "l4" and hardware.fabric("pcie 4", "l4") == "l4-pcie"
    assert hardware.fabric("pcie 4", "l40s") == "l40s-pcie"
