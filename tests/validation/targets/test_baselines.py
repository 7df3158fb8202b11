"""The section on engines' baselines: whose rows it has, under which scheme, and what it says of eight H100."""

from collections import Counter

import pytest

from thinwire.validation.fits import series
from thinwire.validation.fits.published_tables import rows
from thinwire.validation.targets import baselines
from thinwire.validation.targets.fabric import LARGE_LIMITS, SMALL_BYTES, SMALL_LIMITS


def test_every_row_of_the_new_hosts_is_held_out_but_the_outlier() -> None:
    found = list(baselines.new_hosts())
    assert len(found) == len(rows("collectives_2026")) - 1 and all(c.held_out for c in found)
    assert {c.host.removesuffix(" (2026)") for c in found} == {row["machine"] for row in rows("collectives_2026")}
    assert {(c.machine, c.ranks) for c in found if c.machine != "8xh100-nvlink"} == {
        ("8xh200-nvlink", 6), ("8xb200-nvlink", 4), ("8xb200-nvlink", 5), ("8xb200-nvlink", 6), ("8xb200-nvlink", 7),
        ("6xrtx4090-p2p", 6),
    }  # fmt: skip


def test_no_row_is_held_out_that_calibrated() -> None:
    fitted = {(s.table, n) for s in series.calibration() for n in s.row_numbers}
    for found in (*baselines.new_hosts(), *baselines.older_hosts()):
        table, _, number = found.row.split(" ")[0], *found.row.split(" ")[1:]
        assert found.held_out and (table, int(number) - 1) not in fitted


def test_engines_rows_are_of_graphs_and_of_their_engine() -> None:
    """Every row in a CUDA graph, once; none of TensorRT-LLM, which published none."""
    found = [c for c in baselines.fitted() if c.row.startswith("engine_allreduce")]
    graphs = Counter(row["backend"] for row in rows("engine_allreduce") if row["backend"].endswith("_graph"))
    assert Counter(c.scheme for c in found) == {"vllm": graphs["vllm_graph"], "sglang": graphs["sglang_graph"]}
    assert {c.scheme for c in baselines.fitted()} == {"nccl", "vllm", "sglang"}
    assert not any(c.held_out for c in found)


@pytest.mark.parametrize("nbytes", [4 << 20, 8 << 20])
def test_nccl_of_other_hosts_with_eight_h100_is_near(nbytes: int) -> None:
    """The issue's case: 8 MiB was off by 45 %, being taken for multimem."""
    row = next(c for c in baselines.new_hosts() if c.machine == "8xh100-nvlink" and c.nbytes == nbytes)
    point = baselines.point(row)
    assert abs(point.error) < 0.15 and point.inside


def test_a_ring_of_six_4090s_is_near() -> None:
    row = next(c for c in baselines.new_hosts() if c.ranks == 6 and c.machine == "6xrtx4090-p2p")
    assert abs(baselines.point(row).error) < 0.05


def test_entries_part_small_messages_from_large() -> None:
    kept = list(baselines.new_hosts())
    large, small = baselines.entries("any", "any", "held out", kept)
    assert (large.limits, small.limits) == (LARGE_LIMITS, SMALL_LIMITS) and large.gated and small.gated
    assert len(small.points) == sum(c.nbytes <= SMALL_BYTES for c in kept) and large.key == "baselines.any.large"
    assert all(point.interval is not None for entry in (large, small) for point in entry.points)
