"""The frontier of `auto`, with a model whose perplexity rises by a known rule in place of a real one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.mixed import DROP, AnyScheme, plan_of
from thinwire.reference.quality.accuracy import Accuracy
from thinwire.reference.quality.results import Window
from thinwire.sim import api
from thinwire.sim.quality.losses import read
from thinwire.validation.quality import measure_auto
from thinwire.validation.quality.measure_auto import additivity, frontier, slope
from thinwire.validation.quality.subject import Subject

from ...sensitivities import table

STEEPER = 1.5  # this model's perplexity rises so much faster than the points' losses add up to


class Model:
    """Stands in for a Subject: log perplexity rises by STEEPER times the sum of the table's losses."""

    def __init__(self, path: Path) -> None:
        self.path, self.seen = path, list[str]()
        self.decoder = type("Decoder", (), {"group": type("Group", (), {"size": 3})})
        self.windows = type("Text", (), {"evaluation_WT": torch.zeros(2, 11, dtype=torch.long)})

    def measure(self, schemes: Sequence[AnyScheme], folder: Any, progress: Any) -> dict[str, Accuracy]:
        self.seen += [scheme.name for scheme in schemes]
        return {scheme.name: self.accuracy(scheme) for scheme in schemes}

    def accuracy(self, scheme: AnyScheme) -> Accuracy:
        known, rise = read(self.path), 0.0
        for point, entry in plan_of(scheme, 30).items():
            name = DROP if entry is None else "bf16" if entry.reduce.is_raw else entry.name
            rise += STEEPER * {"mxfp6": 0.01, "mxint8": 0.0, **known.of(point)}[name]
        return Accuracy(tuple(Window(str(i), 10, 10 * (2 + i + rise), 10 * (2 + i), 10 * rise, 9) for i in range(2)))


@pytest.fixture
def losses(tmp_path: Path) -> Path:
    path = tmp_path / "sensitivity-x.json"
    path.write_text(json.dumps(table(windows=4, additivity={"slope": 9.0})))
    return path


def test_the_slope_is_found_and_keeps_the_budget(losses: Path) -> None:
    """Chosen as if losses just added up, whatever slope stood there before; with the slope, auto keeps its budget and
    no single scheme within it is faster or sends fewer bytes."""
    model = Model(losses)
    subject = cast(Subject, model)
    found = additivity(subject, losses, None)
    assert found["slope"] == pytest.approx(STEEPER, rel=1e-3) and read(losses).slope == 1
    assert [row["scheme"] for row in found["rows"]][:2] == ["auto:+0.5%", "auto:+1%"] == model.seen[:2]
    for row, budget in zip(found["rows"], measure_auto.BUDGETS, strict=True):
        assert 0.5 * math.log1p(budget) < row["sum_of_losses"] <= math.log1p(budget)
        assert row["log_perplexity_ratio"] == pytest.approx(STEEPER * row["sum_of_losses"], rel=1e-3)
    measure_auto.amend(losses, additivity=found)
    assert read(losses).slope == found["slope"]

    rows = frontier(subject, losses, None)
    assert [row["ttft_ms"] for row in rows] == sorted(row["ttft_ms"] for row in rows)
    chosen = {row["scheme"]: row for row in rows if row["scheme"].startswith("auto")}
    single = [row for row in rows if not row["scheme"].startswith("auto")]
    assert len(chosen) == len(measure_auto.BUDGETS) and {"bf16", "spd-50", "flash-int4"} < {r["scheme"] for r in single}
    for budget in measure_auto.BUDGETS:
        mine = chosen[f"auto:+{budget * 100:g}%"]
        assert mine["perplexity_ratio"] == pytest.approx(mine["perplexity_ratio_expected"], rel=1e-3)
        assert mine["perplexity_ratio"] <= (1 + budget) * 1.001
        for row in single:
            if row["perplexity_ratio"] <= mine["perplexity_ratio"]:
                assert mine["ttft_ms"] <= row["ttft_ms"] * 1.001


@given(st.floats(0.1, 3), st.lists(st.floats(0.001, 1), min_size=1))
def test_a_line_is_found(steepness: float, losses: list[float]) -> None:
    assert slope(losses, [steepness * loss for loss in losses]) == pytest.approx(steepness)


def test_the_measured_frontier_is_above_every_single_scheme() -> None:
    """What was measured on text used for nothing else: budgets kept, no single scheme as accurate as an `auto` is as
    fast or sends as little. The times are predictions of the day when `auto` chose: where today's differ from bf16's by
    2 % more or less than that day, `make auto` chooses and measures anew. What all rows share (attention of heads of
    64, measured since) changes no order."""
    found = json.loads(measure_auto.RAW.read_text())
    chosen = [row for row in found["rows"] if row["scheme"].startswith("auto")]
    single = [row for row in found["rows"] if not row["scheme"].startswith("auto")]
    assert len(chosen) == len(measure_auto.BUDGETS) and len(single) > 15
    for row in chosen:
        assert row["perplexity_ratio"] <= 1 + float(row["scheme"].removeprefix("auto:+").removesuffix("%")) / 100
        for other in single:
            if other["perplexity_ratio"] <= row["perplexity_ratio"]:
                assert row["ttft_ms"] < other["ttft_ms"]
                assert row["wire_bytes_per_gpu"] < other["wire_bytes_per_gpu"]
    today = {row["scheme"]: api.predict("smollm2-135m", "4xl4-pcie", row["scheme"], 3, 8, 1024) for row in single}
    then = {row["scheme"]: row["ttft_ms"] for row in single}
    for name, ttft_ms in then.items():
        saved_ms = (today["bf16"].ttft_s - today[name].ttft_s) * 1e3
        assert saved_ms == pytest.approx(then["bf16"] - ttft_ms, abs=0.02 * ttft_ms), name


def test_the_frontier_of_prompts() -> None:
    """No single scheme is both sooner and nearer to the exact run (KL: four windows leave perplexity's intervals wide),
    and what was expected of a budget lies within what was measured."""
    found = json.loads(measure_auto.RAW.with_name("auto-smollm2-135m-prompt.json").read_text())
    assert found["prompt_tokens"] and found["windows"] == 4
    chosen = [row for row in found["rows"] if row["scheme"].startswith("auto:")]
    single = [row for row in found["rows"] if not row["scheme"].startswith("auto:")]
    assert len(chosen) == len(measure_auto.BUDGETS) and len(single) > 15
    for row in chosen:
        assert not [one for one in single if one["ttft_ms"] <= row["ttft_ms"] and one["kl"] <= row["kl"]]
        low, high = row["perplexity_ratio_interval"]
        assert (
            low <= row["perplexity_ratio_expected"] <= high
            or row["perplexity_ratio"] < row["perplexity_ratio_expected"]
        )
