"""The measuring of sync-point drop, on a tiny random model; nothing is downloaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from thinwire.validation.quality import measure_spd
from thinwire.validation.quality import subject as material


def test_measuring_drops_goes_on_where_it_stopped(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every way to choose blocks, at every percentage; run again it trains nothing and finds the same."""
    monkeypatch.setattr(measure_spd, "Material", lambda: material.Material(*files))
    path = tmp_path / "spd.json"
    sizes = {"tp": 2, "tokens": 20, "windows": 3, "training-windows": 2, "steps": 2, "trained": 100}
    shared = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]

    def measure(*percents: str) -> dict[str, Any]:
        measure_spd.main([*shared, "--folder", str(tmp_path), "--write", str(path), "--percents", *percents])
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    first = measure("50", "100")
    ways = ["last", "random-0", "random-1", "random-2", "progressive", "alone"]
    mean = "random, mean of 3"
    assert [(row["blocks"], row["percent"]) for row in first["rows"]] == [
        *((way, 50) for way in ways), *((way, 100) for way in (*ways, "prepared")), (mean, 50), (mean, 100),
    ]  # fmt: skip
    rows = {(row["blocks"], row["percent"]): row for row in first["rows"]}
    assert rows["last", 50]["dropped"] == [1] and rows["prepared", 100]["dropped"] == [0, 1]
    assert rows["last", 100]["perplexity"] == rows["alone", 100]["perplexity"] == rows[mean, 100]["perplexity"]
    product = math.prod(rows[f"random-{seed}", 50]["perplexity_ratio"] for seed in range(3))
    assert rows[mean, 50]["perplexity_ratio"] == pytest.approx(product ** (1 / 3), rel=1e-5)
    assert [len(one["blocks"]) for one in first["prepared"]] == [2]

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("made again")

    for name in ("prepare", "sensitivity"):
        monkeypatch.setattr(measure_spd, name, refused)
    again = measure("100", "50")
    assert {(row["blocks"], row["percent"]): row for row in again["rows"]} == rows
