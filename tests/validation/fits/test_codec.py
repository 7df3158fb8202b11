"""The codec fit: it finds what it should, and what it finds is what the simulator runs."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from thinwire.sim import api
from thinwire.sim.costs.profile import Profile
from thinwire.sim.costs.shipped import load_profile
from thinwire.topologies.load import load_cluster
from thinwire.validation.fits import codec as fit_codec
from thinwire.validation.fits.codec import CodecFit, Row
from thinwire.validation.fits.published_tables import select
from thinwire.validation.targets import hosts as targets_hosts


@cache
def shipped() -> Profile:
    return load_profile(load_cluster(fit_codec.MACHINE))


@cache
def rows() -> list[Row]:
    return fit_codec.rows(shipped().fabric)


def shipped_fit() -> CodecFit:
    codec, bandwidth = shipped().gpu.codec, load_cluster(fit_codec.MACHINE).gpu.memory_bandwidth_bytes_per_s
    return CodecFit(codec.fused_pass_s.value, codec.wire_share.value * bandwidth)


def test_rows_are_the_published_ones_from_one_mebibyte_up() -> None:
    found = rows()
    assert len(found) == 2 * 3 * 7
    assert min(row.nbytes for row in found) == 2**20 and max(row.nbytes for row in found) == 2**26
    table = dict(select(fit_codec.TABLE))
    for row in found:
        published = table[row.number]
        assert published["wire_format"] == row.wire_format and int(published["num_gpus"]) == row.ranks
        assert row.seconds == float(published["latency_us"]) * 1e-6


def test_a_two_shot_moves_and_passes_what_it_must() -> None:
    """Encode all, reduce and encode a chunk in one pass, decode all: 3 passes.

    Encoded bytes written and read: all, 8 chunks of an eighth, one chunk, all. INT8 with a 16-bit scale in blocks of 32
    is 8.5 bits a value.
    """
    row = next(r for r in rows() if r.wire_format == "int8 block32" and r.ranks == 8 and r.nbytes == 2**20)
    encoded = row.nbytes // 2 * 8.5 / 8
    assert row.passes == 3
    assert row.wire_bytes == pytest.approx((1 + 1 + 1 / 8 + 1) * encoded)


def test_known_costs_are_recovered() -> None:
    """Times made with 3 us a pass and 1 TB/s come back as 3 us and 1 TB/s, on other rows' wire times."""
    truth = CodecFit(3e-6, 1e12)
    made = [replace(row, seconds=float(s)) for row, s in zip(rows(), truth.seconds(rows()), strict=True)]
    found = fit_codec.fit(made)
    assert found.pass_s == pytest.approx(truth.pass_s)
    assert found.wire_rate == pytest.approx(truth.wire_rate)


def test_the_fit_is_the_best_of_its_grid() -> None:
    found = fit_codec.fit(rows())
    measured = np.array([row.seconds for row in rows()])

    def error(candidate: CodecFit) -> float:
        return float(np.square(candidate.seconds(rows()) / measured - 1).mean())

    assert fit_codec.PASSES_S[0] < found.pass_s < fit_codec.PASSES_S[-1], "at the edge of the grid"
    assert fit_codec.WIRE_RATES[0] < found.wire_rate < fit_codec.WIRE_RATES[-1], "at the edge of the grid"
    for factor in (0.9, 1.1):
        assert error(replace(found, pass_s=found.pass_s * factor)) >= error(found)
        assert error(replace(found, wire_rate=found.wire_rate * factor)) >= error(found)


def test_the_shipped_profile_holds_the_fit() -> None:
    found, profile = fit_codec.fit(rows()), shipped_fit()
    assert profile.pass_s == pytest.approx(found.pass_s, abs=1e-9)
    assert profile.wire_rate == pytest.approx(found.wire_rate, rel=1e-3)


def test_the_simulator_runs_the_closed_form_of_the_fit() -> None:
    """CodecFit.seconds is what `collective` predicts for the published rows, to rounding."""
    for row, expected in zip(rows(), shipped_fit().seconds(rows()), strict=True):
        scheme = fit_codec.SCHEMES[row.wire_format]
        found = api.collective(fit_codec.MACHINE, scheme, row.nbytes, row.ranks)["time_us"] * 1e-6
        assert found == pytest.approx(expected, rel=1e-6), (row.ranks, row.wire_format, row.nbytes)


def test_leave_one_out_leaves_the_row_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row published ten times slower: without itself it is predicted as before, and the report's column says so."""
    monkeypatch.setattr(fit_codec, "PASSES_S", np.arange(1.0, 8.01, 0.5) * 1e-6)  # coarser: the grid is not the point
    monkeypatch.setattr(fit_codec, "WIRE_RATES", np.arange(300, 3001, 100) * 1e9)
    poisoned, original = 20, fit_codec.rows

    def left_out() -> list[float]:
        (entry,) = [e for e in targets_hosts.quickreduce().entries if e.key == "quickreduce.row.time"]
        return [point.predicted for point in entry.points]

    def changed(*arguments: Any) -> list[Row]:
        found = original(*arguments)
        if len(found) > poisoned:
            found[poisoned] = replace(found[poisoned], seconds=found[poisoned].seconds * 10)
        return found

    clean = left_out()
    monkeypatch.setattr(fit_codec, "rows", changed)
    assert left_out()[poisoned] == clean[poisoned]
    assert len(clean) == 42
