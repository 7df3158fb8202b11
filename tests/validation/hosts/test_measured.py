"""Which hosts were measured, and what is left out of their rows."""

import pytest

from thinwire.sim.costs.shipped import PROFILES
from thinwire.topologies.load import load_cluster
from thinwire.validation.hosts import measured


def test_every_shipped_fabric_is_of_one_kind() -> None:
    """A new fabric must say of which kind of host it is."""
    shipped = sorted(path.stem.removeprefix("fabric-") for path in PROFILES.glob("fabric-*.json"))
    assert sorted(name for names in measured.KINDS.values() for name in names) == shipped


def test_kinds_have_so_many_hosts_and_rows() -> None:
    """Change these only with the tables: a host that drops out silently would make intervals narrower."""
    found: dict[str, list[int]] = {}
    for host in measured.hosts():
        found.setdefault(host.kind, []).append(sum(len(s.nbytes) for s in host.series))
    assert {kind: (len(rows), sum(rows)) for kind, rows in found.items()} == {
        "NVSwitch": (8, 114),
        "PCIe": (12, 333),
        "xGMI": (2, 41),
        "several nodes": (5, 59),
        "PCIe through host memory": (1, 18),
    }


def test_every_host_lies_on_a_machine_with_enough_gpus_and_is_answered_with_a_fabric_of_its_kind() -> None:
    for host in measured.hosts():
        for s in host.series:
            assert s.ranks <= len(load_cluster(s.machine).gpus), host.name
            assert (s.nbytes >= measured.SMALLEST).all() and (s.seconds > 0).all()
    by_kind = {host.kind: host.by for host in measured.hosts()}
    assert measured.kind_of(by_kind["NVSwitch"]) == "NVSwitch" and measured.kind_of(by_kind["xGMI"]) == "xGMI"


def test_a_calibrating_host_is_answered_by_others() -> None:
    """TokenWeave's H100 without H100's own fabric; two MI300X without what two MI300X calibrated."""
    hosts = {host.name: host for host in measured.hosts()}
    assert hosts["8x H100 (TokenWeave)"].by == "h200-nvlink"
    assert hosts["2x MI300X (aiter)"].own == ("quickreduce_mi300x_tp2",)


@pytest.mark.parametrize(
    ("times", "kept"),
    [([1, 2, 3], [1, 2, 3]), ([1, 6.1, 3], [1, 3]), ([1, 6, 3], [1, 6, 3]), ([9, 3, 9, 4], [3, 4]), ([], [])],
)
def test_a_message_that_takes_twice_as_long_as_a_larger_one_is_an_outlier(
    times: list[float], kept: list[float]
) -> None:
    rows = [(i, float(2**i), float(t)) for i, t in enumerate(times)]
    assert [t for _, _, t in measured.without_outliers(rows)] == kept


def test_outliers_of_the_tables_are_these() -> None:
    """NCCL's 64 KiB on four GPUs of the ASUS, the 2 MiB row of the H100 and two small messages of four P6."""
    found = {host.name: host.outliers for host in measured.hosts() if host.outliers}
    assert found == {
        "8x H100 (ByteDance)": 1,
        "4 of 8x RTX PRO 6000 (ASUS ESC8000A)": 1,
        "4 nodes of 8x B200 (AWS P6)": 2,
    }
