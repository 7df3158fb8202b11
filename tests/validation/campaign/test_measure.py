"""The campaign of `make gpu`, rehearsed: every step's code with what a GPU machine has, and what it says."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

from thinwire.kernels.timing import Limits
from thinwire.sim.costs.elementwise import OPS
from thinwire.validation.campaign import campaign, shapes
from thinwire.validation.campaign import gpu as measure_gpu
from thinwire.validation.campaign import kernels as measure_kernels
from thinwire.validation.campaign.campaign import Row, Task
from thinwire.validation.targets.compare import SECTIONS

from ..campaigns import Clock, rig

# check_kernels.py and kernels/bench.py as measure_kernels.py asks for them: the real ones need a GPU or minutes.
KERNELS = """
import sys, types
check = types.ModuleType("thinwire.validation.campaign.check_kernels")
bench = types.ModuleType("thinwire.kernels.bench")
check.rows = lambda device: iter([{"kernel": "encode", "codec": "int4", "passed": True, "device": device}])
check.sanitized = lambda limit_s: iter([{"kernel": "racecheck", "passed": None, "reason": f"{limit_s < 31}"}])
def rows(limits):
    for kernel in ("encode", "decode"):
        yield {"kernel": kernel, "codec": "int4", "dtype": "bf16", "numel": 64, "ranks": 1, "bytes_read": 128,
               "bytes_written": 40, "seconds": 1e-5, "seconds_graph": 5e-6, "copy": limits.copy_bytes_per_s}
bench.rows = rows
sys.modules.update({m.__name__: m for m in (check, bench)})
"""
BLOCKED = """
import sys
allowed = sys.stdlib_module_names | {"torch", "triton", "numpy", "scipy", "pytest", "thinwire"}
apart = ("thinwire.sim", "thinwire.topologies", "thinwire.reference.families.config")
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name in apart or name.split(".")[0] in refused:
            raise ImportError("not on the GPU machine: " + name)
refused = {"pydantic", "pydantic_core", "simpy", "networkx", "typer", "rich", "tomli", "click", "hypothesis"}
sys.meta_path.insert(0, Refuse())
"""


def run_python(code: str, root: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(root / "src"), **environment}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def rehearsed(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[campaign.Document, str]:
    """A whole rehearsal where only torch, Triton, numpy and scipy may be imported: its file and what it said."""
    out = tmp_path_factory.mktemp("out")
    code = BLOCKED + KERNELS + "from thinwire.validation.campaign.kernels import main; sys.exit(main(['--rehearse']))"
    run = run_python(code, root, OUT=str(out), GIT_COMMIT="abc123-dirty", TRITON_INTERPRET="1")
    assert run.returncode == 0, run.stderr[-3000:]
    (path,) = out.iterdir()
    return campaign.load(path), run.stdout + run.stderr


# --- the rehearsal ---


def test_every_step_runs_with_what_a_gpu_machine_has(rehearsed: tuple[campaign.Document, str]) -> None:
    document, said = rehearsed
    names = ["memory", "check", "codec", "launch", "gemm-bf16", "attention", "elementwise", "layer", "sustained-bf16",
             "gemm-fp8", "sustained-fp8", "sanitizer"]  # fmt: skip
    assert list(document["steps"]) == names
    for name, step in document["steps"].items():
        assert step["state"] == "done" and step["rows"] and not step["errors"], (name, step)
    assert "left_out" not in document["steps"]["gemm-bf16"]
    reasons = {row["left_out"] for row in document["steps"]["attention"]["left_out"]}
    assert reasons == {"torch's cudnn attention does not run this shape here"}
    assert "device copy" in said and "results: " in said


def test_the_file_says_where_it_is_from(rehearsed: tuple[campaign.Document, str]) -> None:
    document, _ = rehearsed
    machine = document["machine"]
    assert document["rehearsal"] is True
    assert (machine["gpu"], machine["git_commit"], machine["git_dirty"]) == ("CPU", "abc123", True)
    assert machine["torch"] == torch.__version__ and machine["seed"] == 0
    assert {"driver", "cuda", "triton", "python", "host", "utc", "thinwire"} <= machine.keys()


def test_rows_have_their_shape_and_both_times(rehearsed: tuple[campaign.Document, str]) -> None:
    steps = rehearsed[0]["steps"]
    for name in ("memory", "gemm-bf16", "gemm-fp8", "attention", "elementwise", "layer"):
        for row in steps[name]["rows"]:
            assert row["seconds"] > 0 and row["seconds_graph"] > 0 and row["sets"] >= 2, (name, row)
            assert row["seconds_min"] <= row["seconds"] <= row["seconds_p90"] * (1 + 1e-6)
    tiny = shapes.tiny()
    products = [(row["m"], row["n"], row["k"]) for row in steps["gemm-bf16"]["rows"]]
    assert products == [(case.m, case.n, case.k) for case in tiny.products("bf16")]
    assert {row["op"] for row in steps["elementwise"]["rows"]} == set(OPS)
    assert {(r["tp"], r["stand_in"]) for r in steps["layer"]["rows"]} == {(1, "none"), (2, "none"), (2, "copy")}
    assert all(row["equal"] for row in steps["memory"]["rows"] if row["op"] == "copy")
    copy = measure_gpu.copy_bytes_per_s(steps["memory"]["rows"])
    assert [row["copy"] for row in steps["codec"]["rows"]] == [copy, copy]
    rates = [row for row in steps["sustained-bf16"]["rows"] if "flops_per_s" in row]
    assert rates and all(row["flops_per_s"] > 0 for row in rates)


@pytest.mark.skipif(find_spec("triton") is None, reason="the kernels need Triton to be imported")
def test_the_kernels_import_what_a_gpu_machine_has(root: Path) -> None:
    modules = [measure_kernels.CHECK, measure_kernels.BENCH]
    run = run_python(BLOCKED + f"import importlib\nfor name in {modules}: importlib.import_module(name)", root)
    assert run.returncode == 0, run.stderr[-3000:]


def test_a_plain_rehearsal_leaves_the_kernels_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert measure_kernels.main(["--rehearse"]) == 0
    (path,) = tmp_path.iterdir()
    for name in ("check", "codec", "sanitizer"):
        assert "run on GPUs" in campaign.load(path)["steps"][name]["left_out"][0]["left_out"]


def test_without_a_gpu_there_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments in ([], ["--has-gpu"]):
        assert measure_kernels.main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and "no CUDA GPU" in err


def test_kernels_that_are_missing_or_wrong_fail_their_step_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No module, a check that does not pass, a benchmark's row without its bytes: the rest is measured, status 1."""
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    check, bench = ModuleType("check"), ModuleType("bench")
    check.rows = lambda _device: iter([{"kernel": "a", "passed": True}, {"kernel": "b", "passed": False}])  # type: ignore[attr-defined]
    check.sanitized = lambda _limit_s: iter([{"kernel": "memcheck", "passed": None}])  # type: ignore[attr-defined]
    bench.rows = lambda _limits: iter([{"kernel": "a", "seconds": 1.0}])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, measure_kernels.CHECK, check)
    monkeypatch.setitem(sys.modules, measure_kernels.BENCH, bench)
    assert measure_kernels.main(["--rehearse", "--fresh"]) == 1
    (path,) = tmp_path.iterdir()
    steps = campaign.load(path)["steps"]
    assert steps["check"]["state"] == "failed" and "1 of 2 checks did not pass" in steps["check"]["error"]
    assert len(steps["check"]["rows"]) == 2
    assert "lacks" in steps["codec"]["error"] and "bytes_read" in steps["codec"]["error"]
    assert all(step["state"] == "done" for name, step in steps.items() if name not in ("check", "codec"))
    err = capsys.readouterr().err
    assert err.count(": failed, ") == 2 and err.count("failed: ") == 2  # as they happened, and at the end
    monkeypatch.setitem(sys.modules, measure_kernels.BENCH, None)
    assert measure_kernels.main(["--rehearse"]) == 1
    assert "ModuleNotFoundError" in campaign.load(path)["steps"]["codec"]["error"]


@pytest.mark.parametrize("polite", [True, False])
def test_a_benchmark_that_its_deadline_stops_is_cut(polite: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether bench.py stops at the deadline it is given or goes on: the step is not done."""
    clock, given = Clock(), []
    row = dict.fromkeys(measure_kernels.NEEDED, 1)

    def rows(limits: Limits) -> Iterator[Row]:
        given.append(limits.deadline_s)
        for _ in range(5):
            clock.now += 2.0
            yield row
            if polite and clock.now >= limits.deadline_s:
                return

    bench = ModuleType("bench")
    bench.rows = rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, measure_kernels.BENCH, bench)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    found = list(measure_kernels.benched(rig(), list, Task([], 5.0, clock)))
    assert found == [row, row, row, {"left_out": "time"}] and given == [5.0]


# --- words ---


def test_the_commit_comes_from_the_environment_or_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_COMMIT", "0123abc")
    assert measure_gpu.commit() == ("0123abc", False)
    monkeypatch.delenv("GIT_COMMIT")
    monkeypatch.setattr(
        measure_gpu, "_output", lambda *command: "feed" if "rev-parse" in command else " M commands/cli.py"
    )
    assert measure_gpu.commit() == ("feed", True)
    monkeypatch.setattr(measure_gpu, "_output", lambda *_: None)
    assert measure_gpu.commit() == ("unknown", None)


def test_clocks_are_read_from_nvidia_smi_s_lines() -> None:
    lines = "1980, 3201, 652.11, 61\n1410, 3201, [N/A], 63\n\n"
    assert measure_gpu.readings(lines) == [
        {"sm_mhz": 1980.0, "memory_mhz": 3201.0, "power_w": 652.11, "celsius": 61.0},
        {"sm_mhz": 1410.0, "memory_mhz": 3201.0, "celsius": 63.0},
    ]


def test_the_copy_bandwidth_is_the_best_of_the_large() -> None:
    rows = [{"op": "copy", "nbytes": n, "bytes_per_s": rate} for n, rate in ((2**30, 4.1), (2**27, 4.3), (2**20, 9.9))]
    assert measure_gpu.copy_bytes_per_s([*rows, {"op": "fill", "nbytes": 2**30, "bytes_per_s": 8.0}]) == 4.3
    assert measure_gpu.copy_bytes_per_s([]) is None


def test_the_last_lines_say_what_matters() -> None:
    document: campaign.Document = {}
    document["steps"] = {
        "memory": {"rows": [{"op": "copy", "nbytes": 2**30, "bytes_per_s": 4e12}]},
        "codec": {
            "rows": [
                {
                    "kernel": "encode",
                    "bytes_read": 2**26,
                    "bytes_written": 2**24,
                    "seconds_graph": (2**26 + 2**24) / 3e12,
                },
                {"kernel": "encode", "bytes_read": 2**20, "bytes_written": 2**18, "seconds_graph": 1.0},
            ]
        },
        "sustained-bf16": {"rows": [{"flops_per_s": 800e12}, {"flops_per_s": 650e12}, {"readings": []}]},
    }
    text = "\n".join(measure_kernels.digest(document))
    assert "4,000 GB/s" in text and "75% of the copy" in text and "650 TFLOP/s at the end, 800 at the start" in text


def test_sections_of_validate_are_those_of_the_report() -> None:
    from thinwire.commands.validate import Section

    assert [section.value for section in Section] == list(SECTIONS)
