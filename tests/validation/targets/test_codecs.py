"""The section on priced codec kernels: what is left out is, and intervals hold what they should."""

import math
from functools import cache

import pytest

from thinwire.validation.instructions import checks
from thinwire.validation.instructions.campaign import campaign
from thinwire.validation.targets.codecs import codec_kernels
from thinwire.validation.targets.targets import Entry


@cache
def entries() -> dict[str, Entry]:
    return {entry.key: entry for entry in codec_kernels().entries}


def test_every_timed_kernel_is_a_point_of_each_claim_about_them() -> None:
    count = len(campaign().rows)
    for key in ("in-sample", "triton", "codec", "kind"):
        assert len(entries()[f"codec.{key}"].points) == count
    for point, row in zip(entries()["codec.codec"].points, campaign().rows, strict=True):
        assert point.measured == row.seconds and point.group == row.kernel


def test_codecs_left_out_lie_in_their_interval_nine_times_in_ten() -> None:
    covered = entries()["codec.codec"].coverage
    assert covered is not None and 0.85 <= covered.inside <= 0.95


def test_whole_all_reduces_that_were_never_fitted_lie_in_it_too() -> None:
    assert all(point.inside for point in entries()["codec.two-step"].points)


def test_additions_are_judged_without_their_own_gpu() -> None:
    for point in entries()["codec.additions"].points:
        assert point.interval is not None
        known = checks.other_spread(without=point.group.partition(",")[0])
        assert point.interval[1] == pytest.approx(point.predicted * math.exp(known.high))
    without = {gpu: checks.other_spread(without=gpu).low for gpu in ("a100-sxm", "a40", "h100-sxm")}
    assert without["h100-sxm"] > checks.other_spread().low, "the GPU that is furthest off widens its own interval"


def test_fused_all_reduces_on_b200_are_wire_and_bytes() -> None:
    """From 64 to 256 MiB within a tenth of TensorRT-LLM's FP8; below, barriers cost more than a pass."""
    found = {point.label: point.error for point in entries()["codec.fused"].points}
    assert set(found) == {"1 MiB", "4 MiB", "16 MiB", "64 MiB", "256 MiB", "1 GiB"}
    assert max(abs(found[label]) for label in ("64 MiB", "256 MiB")) <= 0.1
