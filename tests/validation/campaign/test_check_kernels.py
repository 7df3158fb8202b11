"""The campaign's checks shared out over processes, and a sanitizer's few, in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from thinwire.validation.campaign import check_kernels


def test_shares_hold_every_check_once() -> None:
    """Each check is one share's, and a sanitizer's checks are of every kind of codec."""
    every = list(check_kernels.checks())
    shares = [every[share::8] for share in range(8)]
    assert sum(map(len, shares)) == len(every) and max(map(len, shares)) - min(map(len, shares)) <= 1
    assert 10 <= len(list(check_kernels.sanitized_checks())) <= 20


def test_processes_give_rows_and_a_broken_one_is_told(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Two processes of many shares' worth: what they find comes back; where none can start, no check passes for it."""
    monkeypatch.setenv("PYTHONPATH", str(root / "src"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(check_kernels, "checks", check_kernels.sanitized_checks)
    broken = list(check_kernels.shared_rows("nowhere", 300, 2))
    assert [row["passed"] for row in broken] == [False, False] and "ended with status 1" in broken[0]["reason"]


def test_a_share_prints_its_rows(root: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "TRITON_INTERPRET": "1"}
    count = str(len(list(check_kernels.checks())))
    command = [sys.executable, "-m", check_kernels.MODULE, "cpu", "300", "1", count]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (row,) = map(json.loads, done.stdout.splitlines())
    assert row["passed"] is True and row["kernel"] == "all_reduce"
