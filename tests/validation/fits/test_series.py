"""The published tables, and which of their rows time which collective on which machine."""

import re
from collections import Counter

import numpy as np
import pytest

from thinwire.topologies.load import cluster_names, load_cluster
from thinwire.validation.fits import series
from thinwire.validation.fits.fabric import Series
from thinwire.validation.fits.published_tables import PUBLISHED, rows, select
from thinwire.validation.targets import fabric as targets_fabric


def test_the_readme_counts_every_table() -> None:
    """published/README.md says how many rows each table has: neither may change alone."""
    told = re.findall(r"^\| `(\w+)\.csv` \| ([\d,]+) \|", (PUBLISHED / "README.md").read_text("utf-8"), re.M)
    assert {name: int(count.replace(",", "")) for name, count in told} == {
        path.stem: len(rows(path.stem)) for path in PUBLISHED.glob("*.csv")
    }


@pytest.mark.parametrize("table", sorted(path.stem for path in PUBLISHED.glob("*.csv")))
def test_rows_are_whole(table: str) -> None:
    """No row is cut short or has a cell too many (csv would file those under None)."""
    assert all(None not in row and None not in row.values() for row in rows(table))


@pytest.mark.parametrize("table", ["nccl_tests_tables", "pcie_and_misc_collectives", "pcie_link_rates", "gpu_specs"])
def test_rows_with_sources_of_their_own_have_one(table: str) -> None:
    assert all(row["source"].strip() for row in rows(table))


def test_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no published table named gemms; there are .*gemm"):
        rows("gemms")


def test_select_numbers_rows_from_zero() -> None:
    number, row = next(select("quickreduce_mi300x", num_gpus=8, implementation="RCCL", message_bytes=2**20))
    assert rows("quickreduce_mi300x")[number] is row
    assert float(row["latency_us"]) == 26.39


def every_series() -> list[Series]:
    return [*series.calibration(), *series.nccl("int8"), *(host for _, host in targets_fabric.other_hosts())]


def test_calibration_uses_so_many_series_and_rows() -> None:
    """Change these only with the tables: a series that drops out silently would leave a machine uncalibrated."""
    found = series.calibration()
    assert (len(found), sum(len(s.nbytes) for s in found)) == (92, 1864)
    assert Counter(s.table for s in found) == {
        "nccl_collectives": 46,
        "engine_allreduce": 30,
        "tokenweave_kernels_8xh100": 4,
        "quickreduce_mi300x": 4,
        "quickreduce_mi300x_tp2": 2,
        "nccl_tests_tables": 3,
        "pcie_and_misc_collectives": 1,
        "host_staged_allreduce": 1,
        "pcie_ipc_allreduce": 1,
    }
    borrowed = {
        "4xl4-pcie", "4xa100-pcie", "4xrtx3090-pcie", "4xrtx3090-p2p", "2xrtx5070ti-p2p",
        "6xrtx4090-p2p",  # one row, held out
    }  # fmt: skip
    assert {s.machine for s in found} == set(cluster_names()) - borrowed


def test_int8_repeats_the_calibrated_series_on_other_rows() -> None:
    half, int8 = list(series.nccl("half")), list(series.nccl("int8"))
    keys = [(s.machine, s.op, s.ranks) for s in half]
    assert keys == [(s.machine, s.op, s.ranks) for s in int8]
    for a, b in zip(half, int8, strict=True):
        assert not set(a.row_numbers) & set(b.row_numbers)


def test_the_sick_host_calibrates_nothing() -> None:
    sick = {number for number, _ in select("nccl_collectives", system="l40s")}
    used = {
        n for s in [*series.calibration(), *series.nccl("int8")] if s.table == "nccl_collectives" for n in s.row_numbers
    }
    assert sick and used and not sick & used


@pytest.mark.parametrize("s", every_series(), ids=lambda s: f"{s.machine}-{s.library}-{s.op}-{s.ranks}-{s.table}")
def test_a_series_is_in_order_and_runs_on_its_machine(s: Series) -> None:
    assert len(s.nbytes) == len(s.seconds) == len(s.row_numbers) >= (2 if s.table == "host_staged_allreduce" else 3)
    assert (np.diff(s.nbytes) > 0).all(), "two rows of one size: fit_fabric takes each size once"
    assert (s.seconds > 1e-6).all() and (s.seconds < 1).all()
    cluster = load_cluster(s.machine)
    assert cluster.fabric == s.fabric
    assert 2 <= s.ranks <= len(cluster.gpus)
    if s.collective == "nvls":
        assert cluster.reducing_switch is not None
    table = rows(s.table)
    for number, nbytes in zip(s.row_numbers, s.nbytes, strict=True):
        row = table[number]
        told = row.get("message_bytes") or float(row["BL"]) * float(row["hidden_size"]) * 2
        assert float(told) == nbytes


def test_every_nccl_tests_table_has_one_fate() -> None:
    """Calibrating, held out or left out for a reason; never two of them, never forgotten."""
    calibrating = {
        rows("nccl_tests_tables")[n]["machine"]
        for s in series.calibration() if s.table == "nccl_tests_tables" for n in s.row_numbers
    }  # fmt: skip
    held_out = {name for name, _, _ in targets_fabric.OTHER_HOSTS}
    left_out = set(targets_fabric.NCCL_TESTS_LEFT_OUT)
    named = [*calibrating, *held_out, *left_out]
    assert sorted(named) == sorted({row["machine"] for row in rows("nccl_tests_tables")})


def test_every_misc_row_has_a_fate() -> None:
    fates = Counter(targets_fabric.fate(row)[0] for row in rows("pcie_and_misc_collectives"))
    assert fates == {None: 258, "8xrtx-pro-6000-pcie": 20, "8xrtx-pro-6000-2switch": 17, "8xh100-nvlink": 7}


def test_a_misc_row_without_a_fate_is_refused() -> None:
    row = {"gpu": "new", "topology": "new", "implementation": "new", "source": "new"}
    with pytest.raises(ValueError, match="neither kept nor left out"):
        targets_fabric.fate(row)
