"""Drawings: well-formed, the same every time, every GPU in them, and nothing over anything else."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path

import pytest

from thinwire.topologies.cluster import Cluster
from thinwire.topologies.generators import Wire, fat_tree, pcie_tree, rail_optimised, switched_node
from thinwire.topologies.importing.machine import imported
from thinwire.topologies.load import cluster_names, load_cluster, load_gpu
from thinwire.topologies.picture import MOST_GPUS, picture

from .dumps import twins

SVG = "{http://www.w3.org/2000/svg}"
GIG = Wire(1e9, 1e-6)


def boxes(root: ET.Element) -> list[tuple[float, float, float, float]]:
    """Left, top, right, bottom of what is filled."""
    found = []
    for rect in root.iter(f"{SVG}rect"):
        if rect.get("class") not in ("paper", "domain"):
            x, y, width, height = (float(rect.get(key, "0")) for key in ("x", "y", "width", "height"))
            found.append((x, y, x + width, y + height))
    return found


def texts(root: ET.Element) -> list[tuple[float, float, float, float]]:
    """The same of lines of text, by a narrow estimate of their width."""
    found = []
    for text in root.iter(f"{SVG}text"):
        wide = 5.6 * len(text.text or "") * (1.3 if "title" in text.get("class", "") else 1)
        x, y = float(text.get("x", "0")), float(text.get("y", "0"))
        left = x - wide / 2 if text.get("text-anchor") == "middle" else x
        found.append((left, y - 9, left + wide, y + 2))
    return found


def over(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def check(cluster: Cluster) -> ET.Element:
    drawn = picture(cluster)
    assert drawn == picture(cluster)
    root = ET.fromstring(drawn)
    width, height = (float(root.get(key, "0")) for key in ("width", "height"))
    said = [text.text for text in root.iter(f"{SVG}text")]
    assert set(cluster.gpus) <= set(said)
    for each in (*boxes(root), *texts(root)):
        assert min(each) >= 0 and each[2] <= width and each[3] <= height, each
    for a, b in (*combinations(boxes(root), 2), *combinations(texts(root), 2)):
        assert not over(a, b), (a, b)
    inside = [(t, [b for b in boxes(root) if over(t, b)]) for t in texts(root)]
    for text, around in inside:
        assert not around or (len(around) == 1 and around[0][0] <= text[0] and text[2] <= around[0][2]), text
    assert "prefers-color-scheme: dark" in drawn
    return root


@pytest.mark.parametrize("name", cluster_names())
def test_machines_of_the_catalog(name: str) -> None:
    check(load_cluster(name))


@pytest.mark.parametrize("name", twins.ALL)
def test_imported_machines(name: str, tmp_path: Path) -> None:
    (tmp_path / "dump").write_text(twins.ALL[name])
    check(imported([str(tmp_path / "dump")], "l40s").cluster)


def test_sixteen_gpus_on_two_nodes_and_odd_shapes() -> None:
    """Networks are one bar; a group of ranks leaves others out; long names and wide machines stay in their boxes."""
    gpu = load_gpu("l40s")
    node = switched_node(8, GIG, reduces=True)
    tree = pcie_tree([3, 5], GIG, socket_link=GIG, gpus_per_switch=2, switch_link=GIG)
    fabrics = [
        rail_optimised(node, 2, nic_link=GIG, network_link=GIG),
        fat_tree(node, 4, nodes_per_leaf=2, nic_link=GIG, network_link=GIG),
        rail_optimised(tree, 2, nic_link=GIG, network_link=GIG, cross_rail="spine"),
        pcie_tree([1], GIG),
        fat_tree(tree, 2, nodes_per_leaf=1, nic_link=GIG, network_link=GIG, gpus_per_nic=4),
        tree,
    ]
    for fabric in fabrics:
        cluster = fabric.cluster(
            name="a machine " * 20, title="with a title that is long, " * 10, gpu=gpu, fabric="none"
        )
        root = check(cluster)
        networks = [text.text or "" for text in root.iter(f"{SVG}text") if (text.text or "").startswith("network: ")]
        assert len(networks) == ("nic" in cluster.kinds.values())
        if len(cluster.gpus) > 3:
            check(cluster.take(3))


def test_a_drawing_has_room_for_so_many() -> None:
    many = switched_node(MOST_GPUS + 1, GIG, reduces=False)
    with pytest.raises(ValueError, match="room for 64 GPUs"):
        picture(many.cluster(name="many", title="many", gpu=load_gpu("l40s"), fabric="none"))
