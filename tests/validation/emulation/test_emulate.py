"""The emulation campaign: its parts on made-up numbers, and a measured campaign that mutations must fail.

What needs root and namespaces is in test_emulate_live.py. Here predictions are made anew from the link settings and
calibrations that a real campaign left behind, so a codec of the wrong size, a schedule that lacks a transfer or a wrong
link rate shows up on any machine.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.core.schedule import Schedule, build
from thinwire.reference.core.scheme import GroupedInt
from thinwire.reference.families.config import parse_config
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.profile import CodecKernel, FabricProfile, gpu_profile, gpu_profile_dict
from thinwire.sim.events import exchange
from thinwire.sim.workload import Prompt
from thinwire.sim.workload import build as workload_of
from thinwire.topologies.load import load_cluster
from thinwire.validation.emulation import cases as emulate_cases
from thinwire.validation.emulation import emulate, namespaces
from thinwire.validation.emulation import fit as emulate_fit
from thinwire.validation.emulation import machine as emulate_machine
from thinwire.validation.emulation import report as emulate_report
from thinwire.validation.emulation.machine import PACED_CODECS, PACED_SEGMENTS, Segments, Wire
from thinwire.validation.emulation.namespaces import Links

WIRES = {"ring": Wire(0.4e-3, 0.98), "two_step": Wire(0.9e-3, 0.95)}
RATIOS, BYTES = "real: speed-up ratios, median", "bytes sent by each rank: cells that differ"
PACED = "paced, 4 ranks up to 500 Mbit/s: TTFT, median"
ISLANDS = Links("narrow", 25e6, 100e-6, {1: 0.5}, ((0, 1), (2, 3)), 6.25e6)


@pytest.fixture(scope="module")
def measured(root: Path) -> dict[str, Any]:
    """The newest campaign kept in validation/raw/."""
    found = emulate_report.kept(root / "validation" / "raw")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model() -> Any:
    return parse_config(emulate_machine.CONFIG, "emulated")


# --- the machine


def test_links_become_a_cluster(tmp_path: Path) -> None:
    """The file loads as any user's does: rates, delays, the slow link, islands and what lies between them."""
    cluster = emulate_machine.cluster_of(ISLANDS, 4, tmp_path)
    assert cluster.gpu.name == "emulated" and cluster.fabric == "gloo"
    assert cluster.islands == ((0, 1), (2, 3))
    rates = [cluster.route(rank, 2 if rank < 2 else 0)[0].bandwidth_bytes_per_s for rank in range(4)]
    assert rates == [25e6, 12.5e6, 25e6, 25e6]
    across, within = cluster.route(0, 3), cluster.route(0, 1)
    assert [link.bandwidth_bytes_per_s for link in across] == [25e6, 6.25e6, 25e6]
    assert sum(link.latency_s for link in within) == pytest.approx(100e-6)
    assert sum(link.latency_s for link in across) == pytest.approx(100e-6, abs=2e-9)
    assert load_cluster(tmp_path / "narrow-4.toml").gpus == cluster.gpus


def test_the_switch_is_told_what_the_file_says() -> None:
    told = ISLANDS.commands(4)
    assert told[1] == "port 1 12500000 12500000 0.0001" or told[1].startswith("port 1 12500000 12500000 0.0001")
    assert told[-1] == "core 6250000 0 0 1 1"
    assert Links("plain", 25e6).commands(2)[-1] == "core 0 0 0"


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"rate_bytes_per_s": 0.0}, "rates must be positive"),
        ({"delay_s": -1e-6}, "delays not negative"),
        ({"islands": ((0,), (1,))}, "go together"),
    ],
)
def test_impossible_links_are_refused(broken: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Links(**{"name": "x", "rate_bytes_per_s": 1e6, **broken})


def test_segments_are_what_ranks_compute(tmp_path: Path, model: Any) -> None:
    """A prediction without a wire is the segments' sum: each stands at one kernel and nothing else takes time."""
    profile = emulate_machine.profile_of(PACED_SEGMENTS, (), WIRES, 2)
    cost = CostModel(profile, emulate_machine.cluster_of(Links("a", 1e9), 2, tmp_path).gpu)
    work = workload_of(model, find_scheme("bf16-ring"), Prompt(1, 256), 2)
    groups = (work.before, *work.layers, work.after)
    seconds = sum(cost.kernel_s(kernel) for group in groups for op in group for kernel in op.kernels)
    assert seconds == pytest.approx(emulate_fit.total_s(PACED_SEGMENTS, 4), rel=1e-6)


def test_timed_codecs_go_before_bytes(tmp_path: Path) -> None:
    """A timed kernel costs its line, a reduce for each copy; raw formats too, which otherwise cost nothing."""
    cluster = emulate_machine.cluster_of(Links("a", 1e9), 2, tmp_path)
    line = CodecKernel("bf16", "reduce", 1e-3, 1e-9, "measured: here")
    step = build(find_scheme("two_step:bf16"), 2, 4096).lanes[0].steps[1]
    timed = CostModel(emulate_machine.profile_of(PACED_SEGMENTS, (line,), WIRES, 2), cluster.gpu)
    assert timed.codec_s(step.work, 2, False) == pytest.approx(1e-3 + 1e-9 * 2 * 2048)
    plain = CostModel(emulate_machine.profile_of(PACED_SEGMENTS, (), WIRES, 2), cluster.gpu)
    assert plain.codec_s(step.work, 2, False) == pytest.approx(0.0)


def test_timed_codecs_survive_the_file() -> None:
    found = emulate_machine.profile_of(PACED_SEGMENTS, PACED_CODECS, WIRES, 4).gpu
    assert gpu_profile(json.loads(json.dumps(gpu_profile_dict(found)))).codec == found.codec
    bare = replace(found, codec=replace(found.codec, timed=()))
    assert "timed" not in gpu_profile_dict(bare)["codec"]
    with pytest.raises(ValueError, match="times lie in"):
        CodecKernel("bf16", "encode", -1.0, 0.0, "measured: here")


def test_programs_are_what_the_simulator_prices(tmp_path: Path, model: Any) -> None:
    """Paced ranks sleep and send what the prediction counts; a straggler's seconds are its own."""
    cluster = emulate_machine.cluster_of(Links("a", 25e6), 4, tmp_path)
    profile = emulate_machine.profile_of(PACED_SEGMENTS, PACED_CODECS, WIRES, 4)
    found = emulate_machine.programs(model, cluster, "flash-int4", profile, {3: 2.0})
    slept = [sum(entry[1] for entry in program if entry[0] == "compute") for program in found]
    assert slept == pytest.approx(
        [emulate_fit.total_s(PACED_SEGMENTS, 4) * (2 if rank == 3 else 1) for rank in range(4)]
    )
    sent = [0] * 4
    for _, name, numel, op, islands, _ in (entry for entry in found[0] if entry[0] == "exchange"):
        for rank, nbytes in build(find_scheme(name), 4, numel, islands, op).sent_bytes().items():
            sent[rank] += nbytes
    assert sent == emulate_machine.predicted_bytes(model, cluster, "flash-int4", profile)


# --- fits


def test_a_line_is_found_again() -> None:
    points = [(x, 2e-3 + 3e-9 * x) for x in (1e4, 2e5, 1e6)]
    assert emulate_fit.line(points) == pytest.approx((2e-3, 3e-9))
    with pytest.raises(ValueError, match="two different x"):
        emulate_fit.line(points[:1])


@pytest.mark.parametrize("scheme", ["ring:bf16", "two_step:bf16"])
def test_exchanges_give_back_step_and_share(scheme: str, tmp_path: Path) -> None:
    """Times made by the network model with a known step and share of the link: the fit finds both."""
    cluster = emulate_machine.cluster_of(Links("a", 12.5e6, 200e-6), 4, tmp_path)
    found = find_scheme(scheme)
    steps = sum(bool(step.transfers) for step in build(found, 4, 1024).lanes[0].steps)
    rows = [(n, steps * 0.7e-3 + emulate_fit.fluid_s(cluster, found, n, 0.9)) for n in (24576, 90112, 327680)]
    wire = emulate_fit.wire(cluster, scheme, rows)
    assert (wire.step_s, wire.efficiency) == pytest.approx((0.7e-3, 0.9))


def test_segments_come_from_the_slowest_rank() -> None:
    """Two layers: embedding 1, attention 2, MLP 3, head 4 ms; on the other rank everything is a tenth shorter."""
    lengths = [3e-3, 3e-3, 2e-3, 3e-3, 4e-3]
    replies = []
    for factor in (1.0, 0.9):
        at, moments = 10.0, []
        for length in lengths:
            at += length * factor
            moments.append((at, at + 1e-3))
            at += 1e-3
        replies.append({"begin": 10.0, "moments": moments})
    found = emulate_fit.pass_segments(replies)
    expected = Segments(1e-3, 2e-3, 3e-3, 4e-3)
    assert (found.embedding_s, found.attention_s, found.mlp_s, found.head_s) == pytest.approx(
        (expected.embedding_s, expected.attention_s, expected.mlp_s, expected.head_s)
    )


def test_codec_lines_take_the_slower_rank() -> None:
    rows = [["bf16", n, [{"reduce": 1e-4 + 2 * n * 1e-9 * rank}] * 3] for n in (1000, 2000) for rank in (1, 2)]
    (kernel,) = emulate_fit.codec_kernels(rows)
    assert (kernel.call_s, kernel.value_s) == pytest.approx((1e-4, 2e-9))


def test_codec_repeats_count_as_a_whole() -> None:
    """Encode is fast in one repeat, decode in another: the fastest repeat is neither's best."""
    repeats = [{"encode": 1e-3, "decode": 9e-3}, {"encode": 3e-3, "decode": 1e-3}, {"encode": 2e-3, "decode": 2e-3}]
    rows = [["bf16", n, repeats] for n in (1000, 2000)]
    kernels = emulate_fit.codec_kernels(rows, fastest=True)
    assert {k.kind: round(k.call_s, 6) for k in kernels} == {"encode": 2e-3, "decode": 2e-3}


def test_the_crossover_is_found() -> None:
    rates = [12.5e6, 62.5e6, 125e6, 250e6]
    assert emulate_fit.crossover_bytes_per_s(rates, [4e6 / r - 0.02 for r in rates]) == pytest.approx(200e6)
    assert emulate_fit.crossover_bytes_per_s(rates, [4e6 / r + 0.02 for r in rates]) is None


# --- figures


def synthetic(**changes: float) -> dict[str, Any]:
    """A campaign measured as predicted, but for the changes: run -> factor on its measured times."""

    def row(run: str, seconds: float) -> dict[str, Any]:
        times = [seconds * changes.get(run.replace("-", "_"), 1.0)] * 4
        predicted = {"median": seconds, "min": seconds}
        return {
            "run": run,
            "predicted_s": predicted,
            "measured_s": times,
            "predicted_bytes": [1],
            "measured_bytes": [1],
        }

    cases = {}
    for rate in (12.5e6, 125e6, 250e6):
        saved = 2e6 / rate - 0.01
        cases[f"real-{rate}"] = {
            "mode": "real",
            "ranks": 2,
            "gated": True,
            "links": {"rate_bytes_per_s": rate, "islands": None},
            "calibration": {"wires": {"ring": {"step_s": 1e-3, "efficiency": 0.97}}},
            "rows": [row("bf16-ring", 0.1 + 3e6 / rate), row("flash-int4", 0.1 + 3e6 / rate - saved)],
        }
    return {"smoke": False, "cases": cases}


def beyond(document: dict[str, Any]) -> list[str]:
    return [figure.what for figure in emulate_report.figures(document) if figure.beyond]


def test_a_campaign_as_predicted_passes() -> None:
    figures = emulate_report.figures(synthetic())
    assert len(figures) == 6 and not beyond(synthetic())
    assert [round(x) for x in emulate_report.crossovers_mbit(synthetic()["cases"].values()) if x] == [1600, 1600]


def test_errors_are_seen() -> None:
    assert RATIOS in beyond(synthetic(flash_int4=1.2))
    assert beyond(synthetic(flash_int4=1.2, bf16_ring=1.2)) == ["real: TTFT, median"]


def test_smoke_is_held_to_less() -> None:
    slow = {**synthetic(flash_int4=1.05), "smoke": True}
    assert RATIOS in beyond({**slow, "smoke": False})
    assert RATIOS not in beyond(slow)


def test_noise_is_how_far_rounds_lie_apart() -> None:
    document = synthetic()
    assert emulate_report.noise(document) == 0
    for case in document["cases"].values():
        case["rows"][0]["measured_s"] = [1.0, 1.3, 1.0, 1.3]
    assert emulate_report.noise(document) == pytest.approx(1 - 1 / 1.3)


# --- what a real campaign says, and three ways to break what predicted it


def test_predictions_of_the_kept_campaign_are_todays(measured: dict[str, Any], tmp_path: Path) -> None:
    """The simulator says today what it said before these runs were measured; where it should not, measure anew."""
    anew = emulate.again(measured, tmp_path)
    for name, case in measured["cases"].items():
        for then, now in zip(case["rows"], anew["cases"][name]["rows"], strict=True):
            assert now["predicted_s"] == pytest.approx(then["predicted_s"], rel=1e-6), (name, then["run"])
            assert now["predicted_bytes"] == then["predicted_bytes"]


def test_the_kept_campaign_is_within_its_tolerances(measured: dict[str, Any]) -> None:
    """Of a full campaign."""
    assert not measured["smoke"]
    assert beyond(measured) == []


def broken(document: dict[str, Any], folder: Path) -> list[str]:
    """What is beyond its tolerance in the kept campaign when its predictions are made by today's, broken, code."""
    build.cache_clear()
    try:
        return beyond(emulate.again(document, folder))
    finally:
        build.cache_clear()


def test_a_codec_of_half_the_bytes_is_caught(
    measured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = GroupedInt.wire_bytes
    monkeypatch.setattr(GroupedInt, "wire_bytes", lambda codec, numel: whole(codec, numel) // 2)
    found = broken(measured, tmp_path)
    assert BYTES in found
    assert RATIOS in found


def test_an_exchange_that_waits_for_its_last_rank_is_caught(
    measured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the ring over a link of half the rate is then predicted too slow."""

    def meeting(*arguments: Any) -> FabricProfile:
        found = fabric_of(*arguments)
        return replace(found, protocols=tuple(replace(p, posted=False) for p in found.protocols))

    fabric_of = emulate_machine.fabric_of
    monkeypatch.setattr(emulate_machine, "fabric_of", meeting)
    assert "paced, 4 ranks up to 500 Mbit/s: TTFT, worst" in broken(measured, tmp_path)


def test_a_dropped_transfer_is_caught(
    measured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the transfers of every schedule's first step: links are full duplex, so bytes tell and times may not."""

    def without_one(*arguments: Any) -> Schedule:
        found = build(*arguments)
        if not found.lanes or not found.lanes[0].steps:
            return found
        (first, *steps), lane = found.lanes[0].steps, found.lanes[0]
        shorter = replace(lane, steps=(replace(first, transfers=first.transfers[1:]), *steps))
        return replace(found, lanes=(shorter, *found.lanes[1:]))

    monkeypatch.setattr(exchange, "build", without_one)
    assert BYTES in broken(measured, tmp_path)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_wrong_link_rate_is_caught(measured: dict[str, Any], tmp_path: Path, factor: float) -> None:
    """Links of which the cluster file says a quarter more or a fifth less than the switch was set to."""
    cases = {}
    for name, case in measured["cases"].items():
        links = {**case["links"], "rate_bytes_per_s": case["links"]["rate_bytes_per_s"] * factor}
        cases[name] = {**case, "links": links}
    assert PACED in broken({**measured, "cases": cases}, tmp_path)


def test_a_wrong_rate_under_calibration_is_caught(tmp_path: Path) -> None:
    """Were the switch faster than the file says, the calibration would find more than the whole of a link."""
    slow, fast = (emulate_machine.cluster_of(Links(n, r), 4, tmp_path) for n, r in (("slow", 12.5e6), ("fast", 15.6e6)))
    found = find_scheme("ring:bf16")
    rows = [(n, 6 * 0.5e-3 + emulate_fit.fluid_s(fast, found, n, 0.97)) for n in (24576, 90112, 327680)]
    share = emulate_fit.wire(slow, "ring:bf16", rows).efficiency
    document = synthetic()
    document["cases"]["real-12500000.0"]["calibration"]["wires"]["ring"]["efficiency"] = share
    assert share > emulate_report.SHARE_OF_LINK[1] and any(
        "of a link that gloo gets" in what for what in beyond(document)
    )


# --- the command


def test_what_is_missing_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 1000)
    assert emulate.main(["--out", str(tmp_path / "x.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "make emulate: this machine needs root to make network namespaces and TAP devices: uid 1000"
    monkeypatch.setattr(namespaces.os, "geteuid", lambda: 0)
    monkeypatch.setattr(namespaces.shutil, "which", lambda name: None if name == "cc" else "/bin/" + name)
    assert "needs the program cc (gcc or clang)" in namespaces.missing()


def test_a_file_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{}")
    assert emulate.main(["--show", "--out", str(tmp_path / "x.json")]) == 2
    assert "is no file of `make emulate`" in capsys.readouterr().err


def test_another_machines_campaign_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    emulate.save({**emulate.new_document(smoke=True), "machine": {"cores": 1000}}, tmp_path / "x.json")
    assert emulate.main(["--smoke", "--out", str(tmp_path / "x.json")]) == 2
    assert "'cores': 1000" in capsys.readouterr().err


def test_a_campaign_is_written_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "deep" / "x.json"
    emulate.save({**synthetic(), "form": emulate_report.FORM, "machine": {}}, path)
    assert emulate.main(["--show", "--out", str(path)]) == 0
    assert "real: crossover of INT4: 0.0%, predicted 1600 Mbit/s, measured 1600 Mbit/s" in capsys.readouterr().out


def test_every_case_has_a_name_of_its_own() -> None:
    for cases in (emulate_cases.campaign(), emulate_cases.smoke()):
        names = [case.name for case in cases]
        assert len(set(names)) == len(names)
        for case in cases:
            assert len({run.name for run in case.runs}) == len(case.runs)


def test_worker_paces_without_codecs() -> None:
    """Buffers of the right sizes are there when bytes leave, and none of the values is touched."""
    from thinwire.reference.groups.execute import Coding
    from thinwire.validation.emulation.worker import PacedState

    schedule = build(find_scheme("flash-int4"), 2, 1024)
    state = PacedState(0, torch.ones(1), Coding())
    state.waits, state.early_s = {}, 0.0
    first = schedule.lanes[0].steps[0]
    state.do(first)
    (buffer,) = state.outgoing(first).values()
    assert buffer.numel() == first.transfers[0].nbytes
    assert state.value_N.tolist() == [1.0]


@pytest.mark.parametrize("given", [["--rounds", "-1"], ["--only", "zzz"], ["--show"]], ids=lambda given: given[0])
def test_nothing_to_do_is_bad_input(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else a campaign without a figure beyond its tolerance would pass."""
    monkeypatch.setenv("OUT", str(tmp_path))
    try:
        status: Any = emulate.main(given)
    except SystemExit as refused:
        status = refused.code
    assert status == 2 and capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(emulate, "missing", lambda: "")
    monkeypatch.setattr(emulate, "campaign", lambda *_: pytest.fail("work was done"))
    (tmp_path / "file").write_text("")
    assert emulate.main(["--out", str(tmp_path / "file" / "x.json")]) == 2
    assert "file" in capsys.readouterr().err


def test_a_campaign_of_other_code_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.json"
    emulate.save({**emulate.new_document(False, 6), "code": "older"}, path)
    monkeypatch.setattr(emulate, "missing", lambda: "")
    assert emulate.main(["--out", str(path)]) == 2
    assert "has code older" in capsys.readouterr().err


def test_what_is_kept_is_whole_and_no_smoke(measured: dict[str, Any], tmp_path: Path) -> None:
    """A campaign cut short has no figure beyond its tolerance, and a smoke campaign is held to less."""
    assert emulate_report.kept(tmp_path) is None
    emulate.save(measured, tmp_path / "emulate-2026-01-01.json")
    cut = {**measured, "cases": dict(list(measured["cases"].items())[:3]), "date": "cut"}
    emulate.save(cut, tmp_path / "emulate-2026-01-02.json")
    emulate.save({**measured, "smoke": True}, tmp_path / "emulate-smoke-2026-01-03.json")
    assert emulate_report.kept(tmp_path) == measured


def test_an_unfinished_campaign_is_gone_on_with_another_day(
    measured: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    today = emulate.default_path(False)
    older = tmp_path / "emulate-2026-01-01.json"
    emulate.save({**measured, "cases": {}}, older)
    assert emulate.default_path(False) == older
    emulate.save(measured, older)
    assert emulate.default_path(False) == today and emulate.default_path(False, show=True) == older


def test_a_dead_process_is_said_and_cleared_away(tmp_path: Path) -> None:
    star = namespaces.Star(1, tmp_path)
    star._log = (tmp_path / "log").open("w+")
    for started in ("_switch", "_workers"):
        process = star._popen(["true"], {"PATH": "/usr/bin:/bin"})
        process.wait()
        setattr(star, started, process if started == "_switch" else [process])
    with pytest.raises(namespaces.EmulationError, match="the switch is gone"):
        star._tell_switch("port")
    with pytest.raises(namespaces.EmulationError, match="a rank is gone"):
        star.ask_all({"do": "nothing"})
    star._stop()
    assert star._workers == [] and star._switch is None
