"""A campaign's file and its steps: taken up again where they stopped, cut, failing, refused."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from thinwire.validation.campaign import campaign
from thinwire.validation.campaign import gpu as measure_gpu
from thinwire.validation.campaign import kernels as measure_kernels
from thinwire.validation.campaign.campaign import Row, Step, Task

from ..campaigns import Clock


def launch_cases(*names: str) -> list[measure_gpu.Launch]:
    return [measure_gpu.Launch(name) for name in names]


def fresh() -> campaign.Document:
    return {"form": campaign.FORM, "rehearsal": True, "machine": {"gpu": "CPU"}, "steps": {}}


def steps_of(clock: Clock, log: list[str], stop_at: str = "", cost_s: float = 1.0) -> list[Step]:
    """Three steps of two cases, each case taking `cost_s`; killed at a case if told."""

    def measure(step: str, case: measure_gpu.Launch) -> Row:
        if stop_at == f"{step}/{case.kernel}":
            raise KeyboardInterrupt
        log.append(f"{step}/{case.kernel}")
        clock.now += cost_s
        return {"value": len(step) + len(case.kernel)}

    def step(name: str) -> Step:
        return Step(name, 100.0, lambda t: campaign.each(launch_cases("x", "yy"), lambda c: measure(name, c), t))

    return [step(name) for name in ("one", "two", "three")]


def test_a_killed_campaign_goes_on_where_it_was(tmp_path: Path) -> None:
    """Killed inside step two: what is done is not measured again, and the result is that of an uninterrupted run.

    The first step cannot tell its rows apart, as the benchmark's cannot: it would start anew if it were asked at all.
    """
    path, log = tmp_path / "raw.json", list[str]()

    def plan(stop_at: str = "") -> list[Step]:
        def all_or_nothing(_task: Task) -> Iterator[Row]:
            log.append("zero")
            yield {"value": 0}

        return [Step("zero", 100.0, all_or_nothing, resumes=False), *steps_of(Clock(), log, stop_at)]

    document = fresh()
    with pytest.raises(KeyboardInterrupt):
        campaign.run(document, plan("two/yy"), path, 100.0, Clock())
    assert list(campaign.load(path)["steps"]) == ["zero", "one"]
    log.clear()
    again = campaign.load(path)
    campaign.run(again, plan(), path, 100.0, Clock())
    assert log == ["two/x", "two/yy", "three/x", "three/yy"]
    whole, other = fresh(), tmp_path / "other.json"
    campaign.run(whole, plan(), other, 100.0, Clock())
    assert path.read_text() == other.read_text()
    log.clear()
    campaign.run(again, plan(), path, 100.0, Clock())
    assert log == []


def test_what_there_is_no_time_for_is_recorded_and_measured_next_time(tmp_path: Path) -> None:
    path, log, clock = tmp_path / "raw.json", list[str](), Clock()
    document = fresh()
    campaign.run(document, steps_of(clock, log), path, 3.0, clock)
    steps = document["steps"]
    assert [steps[name]["state"] for name in ("one", "two", "three")] == ["done", "cut", "cut"]
    assert steps["two"]["left_out"] == [{"kernel": "yy", "left_out": "time"}]
    assert len(steps["three"]["left_out"]) == 2 and campaign.failures(document) == []
    log.clear()
    campaign.run(document, steps_of(clock, log), path, 100.0, clock)
    assert log == ["two/yy", "three/x", "three/yy"]
    whole = fresh()
    campaign.run(whole, steps_of(Clock(), []), tmp_path / "other.json", 100.0, Clock())
    assert {n: s["rows"] for n, s in document["steps"].items()} == {n: s["rows"] for n, s in whole["steps"].items()}


def test_a_step_has_its_share_of_the_time(tmp_path: Path) -> None:
    clock = Clock()
    first, *rest = steps_of(clock, [], cost_s=5.0)
    document = fresh()
    campaign.run(document, [Step("one", 4.0, first.rows), *rest], tmp_path / "raw.json", 100.0, clock)
    assert [step["state"] for step in document["steps"].values()] == ["cut", "done", "done"]


def test_what_fails_is_recorded_and_tried_again(tmp_path: Path) -> None:
    """A failing case leaves a row, a failing step its error; neither stops the campaign."""
    path, sick = tmp_path / "raw.json", [True]

    def measure(case: measure_gpu.Launch) -> Row:
        if sick[0] and case.kernel == "x":
            raise RuntimeError("illegal\naddress")
        return {"value": 1}

    def breaks(task: Task) -> Iterator[Row]:
        yield {"value": 1}
        if sick[0]:
            raise ValueError("half way")

    plan = [
        Step("cases", 9.0, lambda t: campaign.each(launch_cases("x", "yy"), measure, t)),
        Step("all", 9.0, lambda t: campaign.each(launch_cases("x"), measure, t)),
        Step("breaks", 9.0, breaks, resumes=False),
    ]
    document = fresh()
    campaign.run(document, plan, path, 100.0, Clock())
    steps = document["steps"]
    assert (steps["cases"]["state"], steps["cases"]["errors"]) == ("done", 1)
    assert steps["cases"]["rows"][0] == {"kernel": "x", "error": "RuntimeError: illegal address"}
    assert (steps["all"]["state"], steps["breaks"]["state"]) == ("failed", "failed")
    assert steps["breaks"]["rows"] == [{"value": 1}]
    assert [line.partition(":")[0] for line in campaign.failures(document)] == ["cases", "all", "breaks"]
    sick[0] = False
    campaign.run(document, plan, path, 100.0, Clock())
    assert campaign.failures(document) == []
    assert sorted(row["kernel"] for row in document["steps"]["cases"]["rows"]) == ["x", "yy"]
    assert document["steps"]["breaks"]["rows"] == [{"value": 1}]


MACHINE = {"gpu": "NVIDIA H200", "driver": "1", "git_commit": "a", "git_dirty": False, "torch": "2", "triton": "3",
           "thinwire": "0", "seed": 0, "utc": "2026-11-22T10:00:00Z"}  # fmt: skip


@pytest.mark.parametrize("key", campaign.SAME)
def test_another_machine_s_campaign_is_not_gone_on_with(key: str, tmp_path: Path) -> None:
    path = tmp_path / "raw.json"
    campaign.save({**fresh(), "rehearsal": False, "machine": MACHINE}, path)
    assert measure_kernels.begin(path, None, False, MACHINE, False)["machine"] == MACHINE
    changed = {**MACHINE, key: "other"}
    with pytest.raises(ValueError, match=f"measured with {key} .* now it is 'other'; --fresh starts anew"):
        measure_kernels.begin(path, None, False, changed, False)
    assert measure_kernels.begin(path, None, True, changed, False)["steps"] == {}
    with pytest.raises(ValueError, match="--fresh"):
        measure_kernels.begin(path, None, False, MACHINE, True)


def test_a_file_from_elsewhere_is_taken_up(tmp_path: Path) -> None:
    """The results' folder of a lent machine is empty every time: --resume brings the file along."""
    brought = tmp_path / "brought.json"
    campaign.save(
        {**fresh(), "rehearsal": False, "machine": MACHINE, "steps": {"a": {"state": "done", "rows": []}}}, brought
    )
    assert "a" in measure_kernels.begin(tmp_path / "new.json", brought, False, MACHINE, False)["steps"]
    with pytest.raises(ValueError, match="names no file"):
        measure_kernels.begin(tmp_path / "new.json", tmp_path / "none.json", False, MACHINE, False)


def test_results_go_where_out_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    assert measure_kernels.file_for(MACHINE, False) == tmp_path / "nvidia-h200-2026-11-22.json"
    monkeypatch.setenv("OUT", "")
    assert measure_kernels.file_for(MACHINE, False).parent == measure_kernels.RAW
    assert measure_kernels.file_for(MACHINE, True).name.startswith("rehearsal-")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "raw.json"
    campaign.save(fresh(), path)
    before = path.read_text()

    def dies(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", dies)
        with pytest.raises(OSError, match="no space"):
            campaign.save({**fresh(), "machine": MACHINE}, path)
    assert path.read_text() == before
    with pytest.raises(ValueError, match=r"not JSON compliant|Out of range"):
        campaign.save({**fresh(), "steps": {"a": {"state": "done", "rows": [{"x": float("nan")}]}}}, path)
    assert path.read_text() == before


def test_a_row_a_line(tmp_path: Path) -> None:
    document = {**fresh(), "steps": {"a": {"state": "done", "rows": [{"x": 1}, {"x": 2}]}, "b": {"rows": []}}}
    text = campaign.text(document)
    assert json.loads(text) == document
    assert '   {"x": 1},\n   {"x": 2}\n' in text
    assert campaign.tidy({"a": [0.123456789012], "b": 12345678901}) == {"a": [0.1234568], "b": 12345678901}
