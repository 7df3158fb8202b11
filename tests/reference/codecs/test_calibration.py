"""Moving ranges by hand, the ranking, and files."""

import math
import pickle
from pathlib import Path

import pytest
import torch

from thinwire.reference.codecs.calibration import Calibration, Calibrator

torch.set_num_threads(1)


def test_ranges_are_moving_averages() -> None:
    watcher = Calibrator(1, 2, gamma=0.25)
    watcher.observe(torch.tensor([[[-1.0, 2.0], [3.0, 4.0]]]))  # the first batch counts whole
    watcher.observe(torch.tensor([[[-9.0, 2.0]]]))
    # low: -1 + .25 (-9 + 1) = -3, 2; high: 3 + .25 (-9 - 3) = 0, 4 + .25 (2 - 4) = 3.5
    found = watcher.freeze()
    assert found.reach_RF.tolist() == [[3.0, 3.5]]
    assert found.sum_reach_F.tolist() == [3.0, 3.5]
    assert found.ranking_F.tolist() == [1, 0]


def test_the_sum_has_ranges_of_its_own() -> None:
    watcher = Calibrator(2, 3)
    watcher.observe(torch.tensor([[[1.0, -4.0, 5.0]], [[1.0, 4.0, 1.0]]]))
    found = watcher.freeze()
    assert found.sum_reach_F.tolist() == [2.0, 0.0, 6.0]
    assert found.reach_RF.tolist() == [[1.0, 4.0, 5.0], [1.0, 4.0, 1.0]]
    assert found.ranking_F.tolist() == [1, 2, 0]  # totals 2, 8, 6
    assert found.scales(4, 1).tolist() == pytest.approx([1 / 7, 4 / 7, 1 / 7])
    assert found.scales(2, None).tolist() == [2.0, 0.0, 6.0]


def test_ties_go_to_the_lower_feature() -> None:
    assert Calibration(torch.ones(4, 300), torch.ones(300)).ranking_F.tolist() == list(range(300))


def test_frozen_means_frozen() -> None:
    watcher = Calibrator(2, 4)
    batch = torch.ones(2, 5, 4)
    watcher.observe(batch)
    found = watcher.freeze()
    watcher.observe(batch * 100)
    batch.zero_()
    assert found.reach_RF.eq(1).all()
    source = torch.ones(2, 4)
    kept = Calibration(source, torch.ones(4))
    source.zero_()
    assert kept.reach_RF.eq(1).all()
    with pytest.raises(AttributeError):
        kept.reach_RF = source  # type: ignore[misc]


def test_files_and_fingerprints(tmp_path: Path) -> None:
    made = Calibration(torch.rand(2, 16), torch.rand(16))
    path = tmp_path / "layer.calibration"
    made.save(path)
    made.save(path)  # over an old one
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    read = Calibration.load(path)
    assert torch.equal(read.reach_RF, made.reach_RF) and torch.equal(read.sum_reach_F, made.sum_reach_F)
    assert torch.equal(read.ranking_F, made.ranking_F)
    assert read.fingerprint == made.fingerprint
    assert Calibration(made.reach_RF, made.sum_reach_F * 1.0001).fingerprint != made.fingerprint


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):
        Calibration.load(tmp_path / "gone")
    (tmp_path / "text").write_text("hello")
    (tmp_path / "pickle").write_bytes(pickle.dumps(print))
    torch.save({"reach_RF": torch.ones(1)}, tmp_path / "other")
    for name in ("text", "pickle", "other"):
        with pytest.raises(ValueError, match=f"{name} is no calibration"):
            Calibration.load(tmp_path / name)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gamma in \(0, 1\]: ranks=2, features=4, gamma=0"):
        Calibrator(2, 4, gamma=0)
    watcher = Calibrator(2, 4)
    with pytest.raises(ValueError, match="nothing observed yet"):
        watcher.freeze()
    with pytest.raises(ValueError, match=r"partials must be \[2, ..., 4\], not empty: given \[2, 3\]"):
        watcher.observe(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="not empty"):
        watcher.observe(torch.zeros(2, 0, 4))
    with pytest.raises(ValueError, match="must be finite"):
        watcher.observe(torch.full((2, 1, 4), math.nan))
    with pytest.raises(ValueError, match=r"given \(2, 3\) and \(4,\)"):
        Calibration(torch.zeros(2, 3), torch.zeros(4))
    with pytest.raises(ValueError, match="sum_reach_F must be finite and not negative"):
        Calibration(torch.zeros(2, 3), torch.tensor([1.0, -1.0, 0.0]))
    with pytest.raises(ValueError, match=r"rank must lie in 0..1, or be None for the sum: rank=-1"):
        Calibration(torch.zeros(2, 3), torch.zeros(3)).scales(4, -1)
