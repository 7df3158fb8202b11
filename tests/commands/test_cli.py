"""The command line as scripts see it: documented keys, nothing but JSON on standard output, one line when it fails."""

import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from thinwire.commands.cli import COMMANDS
from thinwire.edge.limits import MESSAGE
from thinwire.edge.quantities import percent_text, time_text
from thinwire.reference.catalog import schemes
from thinwire.reference.families.config import model_names
from thinwire.topologies.load import cluster_names, gpu_names

from ..command import Capture, run

PREDICT = ("predict", "--model", "llama-3-8b", "--cluster", "8xl40s-pcie", "--scheme", "flash-int4", "--tp", "4")
COMPARE = ("compare", "--model", "llama-3-8b", "--cluster", "8xl40s-pcie", "--tp", "4", "--input-tokens", "128")
COLLECTIVE = ("collective", "--cluster", "8xl40s-pcie", "--tp", "4", "--scheme", "flash-int4", "--bytes", "1048576")

PREDICTION_KEYS = {
    "ttft_ms",
    "breakdown_ms",
    "wire_bytes_per_gpu",
    "all_reduce_count",
    "scheme",
    "bits_per_value",
    "model",
    "cluster",
    "tp",
    "gpus",
    "batch",
    "input_tokens",
    "weights",
    "assumptions",
    "profile",
}
BREAKDOWN_KEYS = {"compute", "codec", "communication", "exposed_communication"}
COLLECTIVE_KEYS = {"gpus", "time_us", "algbw_gb_per_s", "busbw_gb_per_s", "wire_bytes_per_gpu", "algorithm"}


def document(capsys: Capture, *arguments: str) -> Any:
    status, out, err = run(capsys, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


def changed(command: tuple[str, ...], option: str, value: str) -> tuple[str, ...]:
    """The command with another value of one option, or with the option added."""
    if option not in command:
        return (*command, option, value)
    at = command.index(option) + 1
    return (*command[:at], value, *command[at + 1 :])


# --- what succeeds ---


def test_predict(capsys: Capture) -> None:
    found = document(capsys, *PREDICT, "--batch", "8", "--input-tokens", "512", "--weights", "fp8")
    assert found.keys() >= PREDICTION_KEYS
    assert found["breakdown_ms"].keys() >= BREAKDOWN_KEYS
    assert {"reduce", "gather"} <= found["bits_per_value"].keys()
    asked = ("model", "cluster", "scheme", "tp", "batch", "input_tokens", "weights")
    assert [found[key] for key in asked] == ["llama-3-8b", "8xl40s-pcie", "flash-int4", 4, 8, 512, "fp8"]
    assert found["ttft_ms"] > 0
    assert found["all_reduce_count"] == 64
    assert all(isinstance(sentence, str) for sentence in found["assumptions"])


def test_compare(capsys: Capture) -> None:
    found = document(capsys, *COMPARE, "--schemes", "bf16, flash-int4 ,none")
    assert found["baseline"]["scheme"] == "bf16"
    assert found["baseline"].keys() >= PREDICTION_KEYS
    assert {row["scheme"] for row in found["rows"]} == {"bf16", "flash-int4", "none"}
    for row in found["rows"]:
        assert PREDICTION_KEYS | {"speedup"} <= row.keys()
        assert row["speedup"] == pytest.approx(found["baseline"]["ttft_ms"] / row["ttft_ms"])
    assert [row["ttft_ms"] for row in found["rows"]] == sorted(row["ttft_ms"] for row in found["rows"])


def test_predict_says_what_a_gpu_holds(capsys: Capture) -> None:
    held = document(capsys, *PREDICT)["memory_gb_per_gpu"]
    assert list(held) == ["weights", "kv_cache", "activations"] and held["weights"] == pytest.approx(16.06 / 4, rel=0.2)
    _, out, _ = run(capsys, *PREDICT)
    assert f"memory a GPU: {held['weights']:.1f} weights + " in out and f"= {sum(held.values()):.1f} of 48.3 GB" in out


def test_compare_of_a_mixture_says_whose_accuracy_is_unknown(capsys: Capture) -> None:
    """Codecs of what is not sent cost nothing: then the scheme has the accuracy of what is left of it."""
    asked = (*changed(COMPARE, "--model", "qwen3-30b-a3b"), "--schemes", "bf16,flash-int4,a2a-int4")
    ratios = {}
    for way in ("tp", "dp"):
        given = (*asked, "--attention", way)
        rows = {row["scheme"]: row["accuracy"] for row in document(capsys, *given)["rows"]}
        ratios[way] = {name: known and known["perplexity_ratio"] for name, known in rows.items()}
        _, out, _ = run(capsys, *given)
        assert ("was not measured: a2a-int4" in " ".join(out.split())) == (way == "dp")
    exact, lossy = ratios["tp"]["bf16"], ratios["tp"]["flash-int4"]
    assert ratios == {
        "tp": {"bf16": exact, "flash-int4": lossy, "a2a-int4": exact},
        "dp": {"bf16": exact, "flash-int4": exact, "a2a-int4": None},
    }
    assert lossy > exact


def test_compare_is_over_the_baseline_it_is_told(capsys: Capture) -> None:
    found = document(capsys, *COMPARE, "--schemes", "bf16,nccl,flash-int4", "--baseline", "nccl")
    assert found["baseline"]["scheme"] == "nccl"
    over = {row["scheme"]: row["speedup"] for row in found["rows"]}
    assert over["nccl"] == 1 and over["bf16"] >= 1
    assert over["flash-int4"] == pytest.approx(
        found["baseline"]["ttft_ms"] / next(r["ttft_ms"] for r in found["rows"] if r["scheme"] == "flash-int4")
    )
    status, out, _ = run(capsys, *COMPARE, "--schemes", "bf16", "--baseline", "nccl")
    assert status == 0 and "speed-up is over nccl, whose TTFT is " in out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--baseline", "ncl"), "unknown scheme 'ncl'; did you mean nccl"),
        (("--baseline", ""), "unknown scheme ''"),
        (("--schemes", "flash-int4+vllm"), "two codec schemes"),
        (("--schemes", "vllm+exempt-1"), "needs a scheme that compresses"),
    ],
)
def test_baselines_and_carriers_that_mean_nothing(capsys: Capture, given: tuple[str, ...], said: str) -> None:
    status, out, err = run(capsys, *COMPARE, *given)
    assert (status, out) == (2, "") and said in " ".join(err.split()) and "Traceback" not in err


def test_compare_takes_the_whole_catalog_when_not_told(capsys: Capture) -> None:
    found = {row["scheme"] for row in document(capsys, *COMPARE)["rows"]}
    assert found == {name for name, scheme in schemes().items() if not scheme.compresses_experts}


@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
def test_collective(capsys: Capture, op: str) -> None:
    found = document(capsys, *COLLECTIVE, "--op", op)
    assert found.keys() >= COLLECTIVE_KEYS
    assert (found["op"], found["bytes"], found["tp"]) == (op, 1048576, 4)
    assert found["algbw_gb_per_s"] == pytest.approx(1048576 / found["time_us"] / 1e3)
    low_us, high_us = found["interval_us"]
    assert low_us < found["time_us"] < high_us and found["interval_confidence"] == 0.9
    assert 0 < found["interval_another_host_share"] < 1


def test_counts_of_an_all_to_all(capsys: Capture, tmp_path: Path) -> None:
    """Rows to each rank, or a file with a line for each; what cannot be read is one line."""
    file, asked = tmp_path / "counts.csv", (*changed(COLLECTIVE, "--scheme", "a2a-int4"), "--op", "all_to_all")
    file.write_text("1, 2,3,2\n" * 4 + "\n")
    alike, listed = (document(capsys, *asked, "--counts", given) for given in ("1,2,3,2", str(file)))
    assert str(file) in listed["command"]
    assert alike | {"command": ""} == listed | {"command": ""} and alike["wire_bytes_per_gpu"] > 0
    back = document(capsys, *changed(asked, "--scheme", "deepep-fp8"), "--counts", "2,2,2,2", "--phase", "combine")
    assert back["wire_bytes_per_gpu"] == 1048576 * 3 // 4
    most = MESSAGE.most // 2
    for given, said in (("1,2", "ranks to each, 4 x 4: given a list of 2 for rank 0"),
                        ("1,-2,3,2", "whole numbers with commas"),
                        ("1,,2,3", "whole numbers with commas"), (str(tmp_path / "no"), "cannot read counts"),
                        (f"{most},1,1,1", "values must be whole rows"), ("3,3,3,2", "values must be whole rows"),
                        (f"1,{most + 1},1,1", f"counts must be at most {most} rows each: given {most + 1}"),
                        ("0001,1,1," + "9" * 5000, f"counts must be at most {most} rows each: given 999")):  # fmt: skip
        status, out, err = run(capsys, *asked, "--counts", given)
        assert (status, out) == (2, "") and said in " ".join(err.split()) and "Traceback" not in err
    file.write_text("1,2,3,2\n1,two\n")
    status, out, err = run(capsys, *asked, "--counts", str(file))
    assert (status, out) == (2, "") and "counts.csv:2: counts must be whole numbers" in " ".join(err.split())


@pytest.mark.parametrize("op", ["all_reduce", "all_gather", "reduce_scatter"])
def test_what_only_an_all_to_all_has_is_refused_elsewhere(capsys: Capture, op: str) -> None:
    """Whatever is given, the phase that is meant when none is, too."""
    asked = (*changed(COLLECTIVE, "--scheme", "deepep-fp8"), "--op", op)
    for given, said in (
        (("--phase", "combine"), f"a phase is an all_to_all's: op={op}, phase=combine"),
        (("--phase", "dispatch"), f"a phase is an all_to_all's: op={op}, phase=dispatch"),
        (("--counts", "1,1,1,1"), f"counts are an all_to_all's: op={op}"),
    ):
        status, out, err = run(capsys, *asked, *given)
        assert (status, out) == (2, "") and said in " ".join(err.split()) and "Traceback" not in err


def test_a_phase_left_out_is_dispatch(capsys: Capture) -> None:
    asked = (*changed(COLLECTIVE, "--scheme", "deepep-fp8"), "--op", "all_to_all")
    left = document(capsys, *asked)
    dispatch, combine = (document(capsys, *asked, "--phase", phase) for phase in ("dispatch", "combine"))
    for each in (left, dispatch, combine):
        del each["command"]
    assert left == dispatch != combine


def test_a_collective_says_how_sure_it_is(capsys: Capture) -> None:
    """And how much of that a log of the user's own takes away."""
    found = document(capsys, *COLLECTIVE)
    status, out, _ = run(capsys, *COLLECTIVE)
    shown = " ".join(out.split())
    low_us, high_us = found["interval_us"]
    assert status == 0
    assert shown.startswith(f"{time_text(found['time_us'] / 1e6, low_us / 1e6, high_us / 1e6)} with flash-int4 (90% ")
    assert f"[{percent_text(found['interval_another_host_share'], 1)} of the interval]" in shown
    assert "calibrate --logs" in shown


def test_a_collective_that_does_nothing_has_no_bandwidth(capsys: Capture) -> None:
    for command in (changed(COLLECTIVE, "--tp", "1"), changed(COLLECTIVE, "--scheme", "none")):
        found = document(capsys, *command)
        assert (found["time_us"], found["algbw_gb_per_s"], found["busbw_gb_per_s"]) == (0, None, None)


@pytest.mark.parametrize(
    ("kind", "names", "source"),
    [
        ("schemes", tuple(schemes()), "source"),
        ("models", model_names(), "source"),
        ("clusters", cluster_names(), "sources"),
        ("gpus", gpu_names(), "sources"),
    ],
)
def test_catalogs_give_their_sources(capsys: Capture, kind: str, names: tuple[str, ...], source: str) -> None:
    rows = document(capsys, kind)[kind]
    assert [row["name"] for row in rows] == list(names)
    assert all(row[source] for row in rows)
    status, out, _ = run(capsys, kind)
    assert status == 0
    assert all(name in out for name in names)


def test_gpus_say_what_predictions_rest_on(capsys: Capture) -> None:
    rows = {row["name"]: row for row in document(capsys, "gpus")["gpus"]}
    assert rows["h200-sxm"]["rests_on"] == "measured kernels" and rows["h200-sxm"]["relative"] is None
    assert rows["a800-sxm"]["rests_on"] == "kernels of a100-sxm (same chip)"
    assert rows["rtx-5090"]["rests_on"].startswith("roofline of measured GPUs, attention of rtx-pro-6000")
    assert rows["rtx-5090"]["matmul_tflops"] > rows["rtx-5090"]["peak_tflops"]["bf16"], "it boosts"
    assert rows["a40"]["rests_on"].endswith("attention of l40s (another architecture)")
    assert rows["t4"]["sources"]["peak.bf16"].startswith("assumed: fp16's")
    assert (rows["l40s"]["memory_bandwidth_gb_per_s"], rows["l40s"]["pci_ids"]) == (864, ["10de:26b9"])


def test_cluster_show(capsys: Capture) -> None:
    assert document(capsys, "cluster", "show", "8xl40s-pcie")["name"] == "8xl40s-pcie"
    status, out, _ = run(capsys, "cluster", "show", "8xl40s-pcie")
    assert status == 0
    assert all(f"gpu{rank}" in out for rank in range(8))


def test_tables_for_people(capsys: Capture) -> None:
    found = document(capsys, *PREDICT)
    status, out, err = run(capsys, *PREDICT, "--explain")
    assert (status, err) == (0, "")
    low_ms, high_ms = found["ttft_ms_interval"]
    assert out.startswith(f"First token after {time_text(found['ttft_ms'] / 1e3, low_ms / 1e3, high_ms / 1e3)} with ")
    flat = " ".join(out.split())
    assert found["assumptions"][0][:60] in flat and "--verbose" in flat
    every = document(capsys, *PREDICT, "--verbose")
    status, whole, err = run(capsys, *PREDICT, "--explain", "-v")
    assert (status, err) == (0, "") and not every["assumptions_left_out"]
    assert all(sentence[:60] in " ".join(whole.split()) for sentence in every["assumptions"])
    assert "critical path" in out
    assert "gate_up" in out
    status, short, _ = run(capsys, *PREDICT)
    assert status == 0
    assert len(short) < len(out)
    status, out, _ = run(capsys, *COMPARE, "--schemes", "bf16,flash-int4")
    assert status == 0
    assert out.index("flash-int4") > 0
    status, out, _ = run(capsys, *COLLECTIVE)
    assert status == 0
    assert "busbw" in out


def test_a_trace_is_written_and_standard_output_stays_json(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    status, out, err = run(capsys, *PREDICT, "--trace", str(path), "--json")
    assert status == 0
    assert json.loads(out)["scheme"] == "flash-int4"
    assert str(path) in err
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "s", "f", "C"}
    end_us = max(event["ts"] + event["dur"] for event in events if event["ph"] == "X")
    assert end_us == pytest.approx(json.loads(out)["ttft_ms"] * 1e3)


def test_what_ifs_change_the_answer(capsys: Capture) -> None:
    plain = document(capsys, *PREDICT)["ttft_ms"]
    for option, value in (("--scale-link", "gpu0->*=0.5"), ("--scale-link", "pool:*=0.5"), ("--slow-rank", "2=1.5")):
        assert document(capsys, *PREDICT, option, value)["ttft_ms"] > plain
    twice = document(capsys, *PREDICT, "--slow-rank", "2=1.5", "--slow-rank", "1=2")["ttft_ms"]
    assert twice > document(capsys, *PREDICT, "--slow-rank", "2=1.5")["ttft_ms"]
    halved = document(capsys, *changed(COLLECTIVE, "--scale-link", "*=0.5"))["time_us"]
    assert halved > document(capsys, *COLLECTIVE)["time_us"]


def test_files_of_the_users_own(capsys: Capture, tmp_path: Path, root: Path) -> None:
    machine = tmp_path / "mine.toml"
    machine.write_text((root / "topologies/machines/8xl40s-pcie.toml").read_text())
    model = tmp_path / "my-model" / "config.json"
    model.parent.mkdir()
    model.write_text((root / "reference/models/llama-3-8b.json").read_text())
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"gpu": json.loads((root / "sim/profiles/gpu-l40s.json").read_text())}))
    own = changed(changed(PREDICT, "--cluster", str(machine)), "--model", str(model))
    found = document(capsys, *own, "--profile", str(profile))
    assert found["model"] == "my-model"
    assert found["ttft_ms"] == document(capsys, *PREDICT)["ttft_ms"]


# --- what fails ---


@pytest.mark.parametrize(
    "command", [(), ("predict",), ("compare",), ("collective",), ("schemes",), ("cluster", "show")]
)
def test_help(capsys: Capture, command: tuple[str, ...]) -> None:
    status, out, err = run(capsys, *command, "--help")
    assert (status, err) == (0, "")
    assert "Usage" in out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (changed(PREDICT, "--model", "llama-9"), "unknown model 'llama-9'"),
        (changed(PREDICT, "--model", "."), "config.json"),
        (changed(PREDICT, "--cluster", "8xl40"), "unknown cluster '8xl40'; did you mean 8xl40s-pcie"),
        (changed(PREDICT, "--cluster", "nowhere/mine.toml"), "no such file: nowhere/mine.toml"),
        (changed(PREDICT, "--scheme", "flash-int44"), "unknown scheme 'flash-int44'; did you mean flash-int4"),
        (changed(PREDICT, "--scheme", "ring:int99"), "bits must lie in 2..8"),
        (changed(PREDICT, "--tp", "3"), "tp=3"),
        (changed(PREDICT, "--tp", "9"), "1..8, the GPUs of 8xl40s-pcie"),
        (changed(PREDICT, "--tp", "0"), "1..8, the GPUs of 8xl40s-pcie"),
        (changed(PREDICT, "--tp", "many"), "--tp must be a whole number; given 'many'"),
        (changed(PREDICT, "--batch", "0"), "batch must lie in 1..1048576: batch=0"),
        (changed(PREDICT, "--input-tokens", "-5"), "input_tokens must lie in 1..16777216: input_tokens=-5"),
        (changed(PREDICT, "--weights", "int3"), "'bf16', 'fp8'"),
        (changed(changed(PREDICT, "--cluster", "8xa100-nvlink"), "--weights", "fp8"), "no fp8 arithmetic"),
        (changed(PREDICT, "--profile", "nowhere.json"), "cannot read profile nowhere.json"),
        (changed(PREDICT, "--trace", "/nowhere/trace.json"), "cannot write the trace to /nowhere/trace.json"),
        (changed(PREDICT, "--trace", "/"), "cannot write the trace to /"),
        (changed(PREDICT, "--scale-link", "gpu0"), "--scale-link takes NAME=FACTOR"),
        (changed(PREDICT, "--scale-link", "=2"), "--scale-link takes NAME=FACTOR"),
        (changed(PREDICT, "--scale-link", "gpu0->*=fast"), "--scale-link takes NAME=FACTOR"),
        (changed(PREDICT, "--scale-link", "gpu0->*=0"), "factor must be a positive finite number: 0.0"),
        (changed(PREDICT, "--scale-link", "gpu0->*=nan"), "factor must be a positive finite number: nan"),
        (changed(PREDICT, "--scale-link", "warp=2"), "no link or pool of 8xl40s-pcie matches 'warp'"),
        (changed(PREDICT, "--slow-rank", "first=2"), "--slow-rank takes RANK=FACTOR"),
        (changed(PREDICT, "--slow-rank", "4=2"), "rank=4, ranks are 0..3"),
        (changed(PREDICT, "--slow-rank", "1=-2"), "slow-down factor must lie in (0, 1000000]: rank 1=-2.0"),
        (changed(changed(PREDICT, "--scheme", "iso"), "--input-tokens", "1"), "leaves a half empty"),
        ((*PREDICT, "--colour", "red"), "No such option: --colour"),
        ((*PREDICT[:-2], "--tp"), "--tp"),
        (PREDICT[:5], "Missing option '--scheme'"),
        (
            ("predict", "--model", "llama-3-70b", "--cluster", "4xl4-pcie", "--scheme", "bf16"),
            "GB a GPU, memory 24.0 GB",
        ),
        ((*COMPARE, "--schemes", " , "), "--schemes names no scheme"),
        ((*COMPARE, "--schemes", "bf16,nope"), "unknown scheme 'nope'"),
        ((*changed(COMPARE, "--model", "llama-3-70b")[:-4], "--tp", "1"), "does not fit"),
        (changed(COLLECTIVE, "--bytes", "1023"), "bytes=1023"),
        (changed(COLLECTIVE, "--bytes", "0"), "bytes=0"),
        (changed(COLLECTIVE, "--bytes", "-2"), "bytes=-2"),
        (changed(COLLECTIVE, "--bytes", "1e6"), "--bytes must be a whole number; given '1e6'"),
        (COLLECTIVE[:-2], "Missing option '--bytes'"),
        (changed(COLLECTIVE, "--op", "broadcast"), "'--op'"),
        ((*changed(COLLECTIVE, "--scheme", "bf16-ring"), "--op", "all_to_all"), "ring cannot do op all_to_all"),
        (
            changed(COLLECTIVE, "--scheme", "nvls:bf16"),
            "nvls needs a switch that reduces; cluster 8xl40s-pcie has none",
        ),
        (("cluster", "show", "nope"), "unknown cluster 'nope'"),
        (("cluster", "show"), "Missing argument"),
        (("cluster",), "a command is missing; see thinwire --help"),
        (("conjure",), "No such command 'conjure'"),
        ((), "a command is missing; see thinwire --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
@pytest.mark.parametrize("as_json", [False, True], ids=["", "json"])
def test_bad_input_is_one_line_on_standard_error(
    capsys: Capture, command: tuple[str, ...], said: str, as_json: bool
) -> None:
    if as_json and len(command) < 2:
        return
    status, out, err = run(capsys, *command, *(["--json"] if as_json else []))
    assert (status, out) == (2, "")
    assert err.startswith("thinwire: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert said in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "mine.toml:1"),
        ('name = "mine"\ncolour = 3\n', "mine.toml:"),
        ("\x00", "mine.toml"),
        ("", "mine.toml"),
    ],
)
@pytest.mark.parametrize("command", [PREDICT, ("cluster", "show", "8xl40s-pcie")], ids=["predict", "show"])
def test_a_malformed_machine_file(
    capsys: Capture, tmp_path: Path, command: tuple[str, ...], text: str, said: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    given = [str(path) if word == "8xl40s-pcie" else word for word in command]
    status, out, err = run(capsys, *given)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "config.json:1: not JSON"),
        ("[]", "must hold a JSON object"),
        ('{"architectures": ["WhisperForCausalLM"]}', "WhisperForCausalLM"),
    ],
)
def test_a_malformed_model_file(capsys: Capture, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    status, out, err = run(capsys, *changed(PREDICT, "--model", str(path)))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err


# --- as a program of its own ---


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, "-m", "thinwire.commands.cli", *arguments], capture_output=True, text=True, env=environment
    )


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--help"], {"numpy", "pydantic", "networkx", "simpy", "rich", "scipy", "torch"}),
        (["serve", "--help"], {"numpy", "networkx", "simpy", "rich", "scipy", "torch"}),  # pydantic: typer's own
        ([*PREDICT, "--json"], {"networkx", "rich", "scipy", "torch"}),
    ],
    ids=["help", "help of a command", "predict"],
)
def test_start_up_pays_for_nothing_that_is_not_used(arguments: list[str], absent: set[str]) -> None:
    """Imports are most of what a short command takes: import what is heavy in the function that needs it."""
    code = f"""
import sys
from thinwire.commands.cli import main
try:
    main({list(arguments)!r})
finally:
    print(*sorted(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not absent & set(done.stderr.split())


def test_a_program_that_goes_on_collects_its_garbage_again(capsys: Capture) -> None:
    assert gc.isenabled()
    for arguments in (("schemes", "--json"), ("predict", "--model", "nope"), ("--help",)):
        run(capsys, *arguments)
        assert gc.isenabled()


def test_every_command_is_there_and_says_what_it_does(capsys: Capture) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    for name in COMMANDS:
        assert f"  {name} " in out
        assert run(capsys, name, "--help")[0] == 0


def test_the_program_prints_json_and_exits_0() -> None:
    done = program(*PREDICT, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout).keys() >= PREDICTION_KEYS


def test_the_program_exits_2_with_one_line() -> None:
    done = program(*changed(PREDICT, "--model", "llama-9"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("thinwire: unknown model 'llama-9'")
    assert done.stderr.count("\n") == 1


def test_rows_of_a_model_are_counted_in_a_sentence(capsys: Capture) -> None:
    words = ("--model", "qwen2.5-72b", "--cluster", "8xmi300x-xgmi", "--tp", "4", "--schemes", "bf16,quickreduce-int4")
    status, out, err = run(capsys, "compare", *words)
    assert (status, err) == (0, "")
    found = re.search(r"\((\d+) of \d+ rows are of\s+qwen2\.5-72b\)", out)
    assert found is not None and int(found[1]) > 1
