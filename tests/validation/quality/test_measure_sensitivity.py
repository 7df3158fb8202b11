"""The table of what each sync point alone costs, and `thinwire sensitivity`, on a tiny random model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from thinwire.commands import quality as commands
from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import parse_config
from thinwire.reference.mixed import DROP
from thinwire.reference.quality.results import digest
from thinwire.reference.quality.sensitivity import PointLoss, parse_choices
from thinwire.validation.quality import measure_sensitivity
from thinwire.validation.quality import subject as material

from ...command import Capture, run
from ..conftest import CONFIG

pytestmark = pytest.mark.usefixtures("apart")

NAMES = ("flash-int8", "flash-int4+exempt-1", "flash2-int2-sr", DROP)


def test_the_default_choices_are_choices() -> None:
    found = parse_choices(measure_sensitivity.CHOICES, parse_config(CONFIG, "tiny"))
    assert len(found) == 15 and found[DROP] is None and found["flash-int4+exempt-1"] == scheme("flash-int4+exempt-1")


# ---- the table

FIGURES = {"kl", "nll"}


def table_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_measuring_writes_the_table(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """After each window; measured anew, what others added to the old one goes."""
    monkeypatch.setattr(measure_sensitivity, "Material", lambda **where: material.Material(*files, **where))
    path, written = tmp_path / "table.json", list[int]()
    write = measure_sensitivity.write_table

    def watched(path: Path, shared: Any, *more: Any) -> None:
        write(path, shared, *more)
        written.append(table_of(path)["windows"])

    monkeypatch.setattr(measure_sensitivity, "write_table", watched)
    path.write_text('{"additivity": 1}')
    shared = ("--tokens", "20", "--folder", str(tmp_path / "results"), "--write", str(path))
    measure_sensitivity.main([*shared, "--windows", "3", "--choices", *NAMES])
    assert written == [1, 2, 3]
    assert "12 of 12 points" in capsys.readouterr().err
    found = table_of(path)
    assert list(found) == [
        "kind", "model", "title", "layers", "tp", "source", "windows", "window_tokens", "prompt_tokens", "stride",
        "predictions",
        "code", "choices",
    ]  # fmt: skip
    assert (found["kind"], found["model"], found["title"]) == ("thinwire sensitivity 1", "tiny", "tiny")
    assert (found["layers"], found["tp"], found["windows"], found["window_tokens"]) == (2, 3, 3, 20)
    assert (found["stride"], found["predictions"]) == (4, 5 + 5 + 5)
    assert found["source"].keys() == {
        "kind", "how", "weights", "weights_sha256", "text", "text_sha256", "torch", "machine",
    }  # fmt: skip
    assert list(found["choices"]) == list(NAMES)
    for name, sites in found["choices"].items():
        assert list(sites) == (["attention"] if name == DROP else ["attention", "mlp"])
        for figures in sites.values():
            assert figures.keys() == FIGURES and all(len(values) == 2 for values in figures.values())
            assert all(float(f"{value:.4g}") == value for values in figures.values() for value in values)
    measure_sensitivity.main([*shared, "--windows", "1", "--choices", "flash-int8"])
    assert written[3:] == [1] and len(list((tmp_path / "results").iterdir())) == 1  # found among what was kept
    assert list(table_of(path)["choices"]) == ["flash-int8"] and not list(tmp_path.glob("*.part"))


def test_the_tables_means_by_hand() -> None:
    """A prediction's share of all windows' sums, by layer; what is below zero by rounding is zero, a loss is not."""
    base = PointLoss("a", 0, 0, "attention", 5, {"x": 1.0}, {"x": -1.0})
    losses = [
        base,
        replace(base, digest="b", predictions=4, kl={"x": 0.5, "y": 9.0}, nll={"x": 0.5, "y": 9.0}),
        replace(base, layer=1, kl={"x": -1e-9}, nll={"x": 1e-9}),
        replace(base, digest="b", layer=1, predictions=4, kl={"x": 0.0}, nll={"x": 0.0}),
    ]
    found = measure_sensitivity.entries(losses, ["x", "y"])
    assert found == {"x": {"attention": {"kl": [0.1667, 0.0], "nll": [-0.05556, 1.111e-10]}}}


def test_windows_are_no_evaluation_windows(files: tuple[Path, Path]) -> None:
    found = material.Material(*files)
    many, few = found.calibration(20, 6).calibration_WT, found.calibration(20, 2).calibration_WT
    evaluated = {digest(ids_T) for ids_T in found.windows(20, material.WINDOWS).evaluation_WT}
    assert torch.equal(many[:2], few) and len({digest(ids_T) for ids_T in many}) == 6
    assert not evaluated & {digest(ids_T) for ids_T in many}


def test_a_summary() -> None:
    table: dict[str, Any] = {
        "model": "m", "title": "M", "layers": 2, "tp": 3, "windows": 1, "window_tokens": 9, "predictions": 8,
        "choices": {
            "a": {"attention": {"kl": [1.0, 2.0], "nll": [0.1, 0.2]}, "mlp": {"kl": [3.0, 0.5], "nll": [0.3, 0.4]}},
            DROP: {"attention": {"kl": [7.0, 8.0], "nll": [0.0, 0.0]}},
        },
    }  # fmt: skip
    found = measure_sensitivity.summary(table, 2)
    assert found["kl_summed"] == {"a": 6.5, DROP: 15.0} and found["under"] == DROP
    table["choices"] = {"flash-int4": table["choices"].pop("a"), **table["choices"]}
    found = measure_sensitivity.summary(table, 2)
    assert found["under"] == "flash-int4"
    assert found["most_sensitive"] == [
        {"layer": 0, "site": "mlp", "kl": 3.0, "nll": 0.3}, {"layer": 1, "site": "attention", "kl": 2.0, "nll": 0.2},
    ]  # fmt: skip


# ---- the command


def options(files: tuple[Path, Path], *more: str) -> tuple[str, ...]:
    given = ("--weights", str(files[0]), "--text", str(files[1]), "--windows", "2", "--tokens", "20")
    return ("sensitivity", *given, "--choices", "flash-int4,drop", *more)


def test_the_command(
    capsys: Capture, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *options(files, "--json"))
    assert (status, err) == (0, "")
    found, table = json.loads(out), table_of(tmp_path / "sensitivity-tiny.json")
    assert found["sensitivities"] == "sensitivity-tiny.json" and table["source"]["how"] == "thinwire sensitivity"
    assert (found["model"], found["tp"], found["windows"], len(found["most_sensitive"])) == ("tiny", 3, 2, 4)
    assert set(found["kl_summed"]) == set(table["choices"]) == {"flash-int4", DROP}
    (kept,) = (tmp_path / "cache" / "thinwire" / "sensitivity").iterdir()
    before = kept.read_bytes()

    status, out, _ = run(capsys, *options(files, "--out", str(tmp_path / "other.json")))
    assert status == 0 and kept.read_bytes() == before and table_of(tmp_path / "other.json") == table
    point = found["most_sensitive"][0]
    for words in (
        "tiny at TP 3",
        "under flash-int4",
        f"{point['layer']}.{point['site']}",
        str(tmp_path / "other.json"),
    ):
        assert words in out


@pytest.mark.parametrize(
    "more, said",
    [
        (("--choices", "flash-int4,flash-int44"), "unknown scheme 'flash-int44'"),
        (("--choices", ""), "unknown scheme ''"),
        (("--tp", "0"), "tp must lie in 1..1024: tp=0"),
        (("--windows", "0"), "windows must be positive: windows=0"),
        (("--windows", "15"), "do not fit a text of 600 tokens"),
        (("--tokens", "65"), "tiny has 64 positions: tokens=65"),
        (("--tokens", "4", "--compress", "all"), "stride must lie in 1..3"),
        (("--threads", "0"), "threads must lie in 1..1024: threads=0"),
        (("--weights", "/nowhere"), "no checkpoint at /nowhere"),
        (("--out", "/nowhere/table.json"), "no folder for the table: /nowhere"),
        (("--results", "/dev/null/x"), "sensitivity cannot read or write /dev/null/x"),
    ],
)
def test_bad_input_is_one_line(
    capsys: Capture, files: tuple[Path, Path], tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    status, out, err = run(capsys, *options(files, "--out", str(tmp_path / "table.json")), *more)
    assert (status, out) == (2, "")
    assert said in err and err.count("\n") == 1 and err.startswith("thinwire: ")
    assert not (tmp_path / "table.json").exists()


def test_help_names_the_command(capsys: Capture) -> None:
    status, out, _ = run(capsys, "sensitivity", "--help")
    assert status == 0 and "--choices" in out and commands.sensitivity.__doc__
