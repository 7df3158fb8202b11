"""Sweeps: what a file means, and that no kill, engine or number of workers changes a byte of the result."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thinwire.commands.serving.sweep import Engine
from thinwire.sim import api
from thinwire.sim.question import Question
from thinwire.sim.sweeps import engines
from thinwire.sim.sweeps import sweep as module
from thinwire.sim.sweeps.engines import ENGINES, WorkersDiedError
from thinwire.sim.sweeps.predictions import PREDICT
from thinwire.sim.sweeps.spec import read_sweep
from thinwire.sim.sweeps.sweep import Batch, Report, Store, sweep, tasks_of, work

from ...command import Capture, run, unhurried
from .sweeps import Killer, Stopped, kept, killed_half_way, rows, stop_at

pq = pytest.importorskip("pyarrow.parquet", reason="pip install 'thinwire[sweep]'")

# 96 points in tasks of two; on two GPUs the 70B model fits none of its 24.
SPEC = """
model = ["llama-2-7b", "llama-3-8b", "llama-3-70b", "mistral-7b"]
cluster = "8xl40s-pcie"
tp = 2
batch = [1, 2]
input_tokens = [64, 128, 256]
scheme = ["bf16", "flash-int4", "mxfp4", "none"]
"""
POINTS, FAILING, TASK = 96, 24, 2


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.toml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The result of one uninterrupted run in one process."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "spec.toml").write_text(SPEC)
    found = sweep(folder / "spec.toml", folder / "out.parquet", workers=1)
    assert (found.points, found.failed, found.computed, found.resumed) == (POINTS, FAILING, POINTS, 0)
    return (folder / "out.parquet").read_bytes()


# --- the file ---


def read(folder: Path, text: str) -> Any:
    path = folder / "s.toml"
    path.write_text(text)
    return read_sweep(path)


BASE = {"model": '"llama-3-8b"', "cluster": '"8xl40s-pcie"', "scheme": '"bf16"'}


def toml(changes: Mapping[str, str]) -> str:
    return "".join(f"{key} = {value}\n" for key, value in {**BASE, **changes}.items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modle": '"llama-3-8b"'}, "s.toml:4: modle: unknown key; did you mean model?"),
        ({"batch": "[]"}, "s.toml:4: batch: must be a value or a list of values; given []"),
        ({"batch": '"8"'}, "batch.0: Input should be a valid integer; given '8'"),
        ({"batch": "[1, 0]"}, "batch.1: Input should be greater than or equal to 1; given 0"),
        ({"batch": "true"}, "batch.0: Input should be a valid integer"),
        ({"tp": '["all", 0]'}, 'tp.1: must be a positive whole number or "all"; given 0'),
        ({"weights": '"int3"'}, "weights.0: Input should be 'bf16', 'fp8'"),
        ({"launch": '"lazy"'}, "launch.0: Input should be 'eager' or 'graph'"),
        ({"model": '"llama-3-80b"'}, "s.toml:1: model: unknown model 'llama-3-80b'; did you mean llama-3-8b"),
        ({"cluster": '["8xl40s-pcie", "8xl40"]'}, "s.toml:2: cluster: unknown cluster '8xl40'; did you mean"),
        ({"scheme": '"flash-int44"'}, "s.toml:3: scheme: "),
        ({"scheme": '"auto:+x%"'}, "s.toml:3: scheme: auto takes a budget"),
        ({"profile": '"none.json"'}, 'none.json ("shipped" takes'),
        ({"scaled_links": '{ "*" = 0 }'}, "scaled_links.0.*: must be a positive finite number; given 0"),
        ({"slow_ranks": "{ gpu0 = 1.5 }"}, "slow_ranks.0.gpu0: String should match pattern"),
        ({"grid": "[]"}, "grid: must be a value or a list of values; given []"),
        ({"grid": "[{ batsh = 1 }]"}, "grid.0.batsh: unknown key; did you mean batch?"),
        ({"batch": f"{list(range(1, 1002))}", "input_tokens": f"{list(range(1, 1001))}"}, "1001000 points; at most"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, changes: Mapping[str, str], said: str) -> None:
    with pytest.raises(ValueError) as refused:
        read(tmp_path, toml(changes))
    assert said.replace("{}", str(tmp_path)) in str(refused.value)


def test_a_missing_axis_is_named_where_it_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"s.toml:1: model: missing key"):
        read(tmp_path, 'cluster = "8xl40s-pcie"\nscheme = "bf16"')
    with pytest.raises(ValueError, match=r"s.toml:5: grid.1.scheme: missing key"):
        read(tmp_path, f'model = {BASE["model"]}\ncluster = {BASE["cluster"]}\n[[grid]]\nscheme = "bf16"\n[[grid]]\n')


AXIS = st.lists(st.integers(1, 999), min_size=1, max_size=4, unique=True)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=AXIS, tokens=AXIS, more=st.integers(1000, 1100), degrees=AXIS)
def test_points_are_the_product_in_order_and_ids_are_theirs(
    tmp_path: Path, batches: list[int], tokens: list[int], more: int, degrees: list[int]
) -> None:
    text = toml({"scheme": '["none", "bf16"]', "tp": str(degrees), "input_tokens": str(tokens)})
    found = read(tmp_path, f"{text}batch = {batches}")
    assert [(p.tp, p.batch, p.input_tokens, p.scheme) for p in found.points] == [
        (d, b, t, s) for d in degrees for b in batches for t in tokens for s in ("none", "bf16")
    ]
    assert len(set(found.ids)) == len(found.points) == len(found.ids)
    # Another order, more values, a union of tables: every point keeps its id.
    grown = read(tmp_path, f"{text}batch = {[more, *reversed(batches)]}")
    wanted = dict(zip(found.points, found.ids, strict=True))
    assert wanted.items() <= dict(zip(grown.points, grown.ids, strict=True)).items()
    union = read(tmp_path, text + "".join(f"[[grid]]\nbatch = {b}\n" for b in (*batches, batches[0])))
    assert dict(zip(union.points, union.ids, strict=True)) == wanted
    assert len(union.points) == len(wanted)


def test_ids_do_not_change_between_releases(tmp_path: Path) -> None:
    """A result's ids are its users' keys: a change here goes to CHANGELOG.md."""
    asked = 'tp = [2, "all"]\nscaled_links = { "b" = 2, "a" = 0.5 }\nslow_ranks = { 1 = 1.5 }\nprofile = "shipped"\n'
    found = read(tmp_path, toml({}) + asked)
    links, ranks = (("a", 0.5), ("b", 2.0)), ((1, 1.5),)
    first = Question("llama-3-8b", "8xl40s-pcie", "bf16", 2, 1, 1024, scaled_links=links, slow_ranks=ranks)
    assert found.points[0] == first
    assert found.points[1].tp is None
    assert found.ids == ("23d12aa06f9941f4865375a5", "6bb9b0d2566d45f418b8cdc2")


def test_the_id_of_a_point_holds_what_its_files_hold(tmp_path: Path, root: Path) -> None:
    machine, model = tmp_path / "m.toml", tmp_path / "c.json"
    machine.write_text((root / "examples" / "my-machine.toml").read_text())
    model.write_text((root / "reference" / "models" / "llama-3-8b.json").read_text())
    text = toml({"cluster": '["m.toml", "8xl40s-pcie"]', "model": '["c.json", "llama-3-8b"]', "tp": "2"})
    first = read(tmp_path, text)
    assert read(tmp_path, text).ids == first.ids
    machine.write_text(machine.read_text().replace("six L40S", "6 L40S").replace("6x L40S", "Six L40S"))
    changed = {p for p, a, b in zip(first.points, first.ids, read(tmp_path, text).ids, strict=True) if a != b}
    assert changed == {p for p in first.points if p.cluster == "m.toml"}
    data = json.loads(model.read_text())
    model.write_text(json.dumps({**data, "num_hidden_layers": data["num_hidden_layers"] + 1}))
    second = read(tmp_path, text)
    differ = {p for p, a, b in zip(first.points, first.ids, second.ids, strict=True) if a != b}
    assert differ == {p for p in first.points if p.cluster == "m.toml" or p.model == "c.json"}
    # The worker takes the files from the task, wherever it is.
    task = next(tasks_of(second, set()))
    for path in (machine, model):
        path.unlink()
    assert [row["error"] for row in work(task).rows] == [None] * len(task.points)


def test_tasks_hold_every_point_once(spec: Path) -> None:
    asked = read_sweep(spec)
    tasks = list(tasks_of(asked, set(asked.ids[1::3])))
    assert {len(task.points) for task in tasks} == {TASK}
    assert [i for task in tasks for i in task.ids] == [i for n, i in enumerate(asked.ids) if n % 3 != 1]


# --- the result ---


def test_rows_are_what_predict_says(spec: Path, expected: bytes, tmp_path: Path) -> None:
    out = tmp_path / "o.parquet"
    out.write_bytes(expected)
    found, asked = rows(out), read_sweep(spec)
    assert [row["id"] for row in found] == list(asked.ids)
    for row, point in zip(found, asked.points, strict=True):
        assert all(
            row[name] == getattr(point, name)
            for name in PREDICT.axes.model_fields
            if name not in ("gpus", "profile", "scaled_links", "slow_ranks")
        )
        if point.model == "llama-3-70b":
            assert row["error_type"] == "ValueError" and "does not fit 2 x l40s" in row["error"]
            assert row["ttft_ms"] is None
            continue
        alone = api.answer(point).to_dict()
        assert (row["error_type"], row["error"]) == (None, None)
        assert (row["ttft_ms"], row["profile_name"], row["tp"]) == (alone["ttft_ms"], alone["profile"], 2)
        assert row["gpus"] == "0,1"
        assert [row["ttft_ms_low"], row["ttft_ms_high"]] == alone["ttft_ms_interval"]
        assert {k: row[f"{k}_ms"] for k in alone["breakdown_ms"]} == alone["breakdown_ms"]
        assert {k: row[f"{k}_bits_per_value"] for k in alone["bits_per_value"]} == alone["bits_per_value"]
        assert all(row[k] == alone[k] for k in ("wire_bytes_per_gpu", "all_reduce_count"))


def test_every_axis_reaches_the_prediction(tmp_path: Path, root: Path) -> None:
    own = json.loads((root / "sim" / "profiles" / "gpu-l40s.json").read_text())
    own["name"] = "mine"
    (tmp_path / "p.json").write_text(json.dumps({"gpu": own}))
    text = toml({"tp": "2", "cluster": '["8xl40s-pcie", "8xh100-nvlink"]', "input_tokens": "64"})
    grids = (
        "", 'weights = "fp8"', 'launch = "graph"', 'scaled_links = { "*" = 0.25 }', "slow_ranks = { 1 = 3 }",
        'profile = "p.json"', "tp = 4", 'scheme = "flash-int4"',
    )  # fmt: skip
    (tmp_path / "s.toml").write_text(text + "".join(f"[[grid]]\n{grid}\n" for grid in grids))
    sweep(tmp_path / "s.toml", tmp_path / "o.parquet", workers=1)
    found = rows(tmp_path / "o.parquet")
    l40s = [row for row in found if row["cluster"] == "8xl40s-pcie"]
    base, fp8, graph, links, slow, profile, four, int4 = (row["ttft_ms"] for row in l40s)
    assert fp8 < base and graph < base and links > base and slow > base and profile == base and four != base
    assert int4 != base
    assert l40s[5]["profile_name"].startswith("gpu-mine + ")
    assert (l40s[3]["scaled_links"], l40s[4]["slow_ranks"]) == ('{"*": 0.25}', '{"1": 3.0}')
    (failed,) = [row for row in found if row["error"]]
    assert failed["cluster"] == "8xh100-nvlink" and "profile mine is of l40s" in failed["error"]


@pytest.mark.parametrize("stopped", [False, True], ids=["whole", "parts"])
def test_an_error_of_the_machine_is_recorded_and_tried_again(
    spec: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """Half of every second task: the new rows lie in other parts, beside the old ones where the run was stopped."""
    out, answer = tmp_path / "o.parquet", api.answer

    def starved(question: Question) -> Any:
        if question.scheme == "mxfp4":
            raise MemoryError("no more")
        return answer(question)

    with monkeypatch.context() as patch:
        patch.setattr(api, "answer", starved)
        if stopped:
            with pytest.raises(Stopped):
                sweep(spec, out, workers=1, watch=stop_at(POINTS))
            there = [row for part in Path(f"{out}.parts").iterdir() for row in rows(part)]
        else:
            found = sweep(spec, out, workers=1)
            assert (found.points, found.failed) == (POINTS, POINTS // 4 + FAILING * 3 // 4)
            there = rows(out)
    assert len(there) == POINTS
    assert {row["error"] for row in there if row["error_type"] == "MemoryError"} == {"no more"}
    again = sweep(spec, out, workers=1)
    assert (again.computed, again.resumed, again.failed) == (POINTS // 4, POINTS * 3 // 4, FAILING)
    assert out.read_bytes() == expected


# --- kills, engines, workers ---


def test_a_killed_run_goes_on_without_computing_twice(
    spec: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process and its workers are killed at the middle, as by kill -9, while tasks are in flight."""
    out = tmp_path / "o.parquet"
    killed_half_way(spec, out)
    assert not out.exists()
    there = kept(out)
    assert POINTS // 2 <= len(there) < POINTS
    (Path(f"{out}.parts") / ".torn.parquet.1.tmp").write_bytes(b"PAR1")  # what a kill in the midst of a file leaves
    computed, row = list[str](), module._row
    monkeypatch.setattr(module, "_row", lambda point, name, *more: computed.append(name) or row(point, name, *more))
    found = sweep(spec, out, workers=1)
    assert set(computed) == set(read_sweep(spec).ids) - there
    assert found.computed == len(computed) == POINTS - len(there)
    assert (found.resumed, found.left_out) == (len(there), 0)
    assert out.read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("o.")] == ["o.parquet"]


@pytest.mark.parametrize("moment", ["in a part", "after a part", "in the end", "after the end", "the clearing"])
def test_a_kill_at_the_worst_moment(
    spec: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """While a file is written, and between that and its renaming, of a part or of the result; and before the parts are
    removed. What has a file's name is whole.
    """
    out, replace, write = tmp_path / "o.parquet", os.replace, pq.write_table

    def now(folder: Path) -> bool:
        return (folder == tmp_path) == moment.endswith("end") and (moment.endswith("end") or len(kept(out)) == 6)

    def written(table: Any, path: Path, **more: Any) -> None:
        if now(path.parent):
            path.write_bytes(b"PAR1")
            raise Stopped
        write(table, path, **more)

    def replaced(source: Path, target: Path) -> None:
        if now(target.parent):
            raise Stopped
        replace(source, target)

    def not_cleared(*_: Any, **__: Any) -> None:
        raise Stopped

    with monkeypatch.context() as patch:
        if moment == "the clearing":
            patch.setattr(module.shutil, "rmtree", not_cleared)
        elif moment.startswith("in"):
            patch.setattr(pq, "write_table", written)
        else:
            patch.setattr(os, "replace", replaced)
        with pytest.raises(Stopped):
            sweep(spec, out, workers=1)
    assert out.exists() == (moment == "the clearing")
    assert len(kept(out)) == (6 if moment.endswith("part") else POINTS)
    found = sweep(spec, out, workers=1)
    assert found.computed == (POINTS - 6 if moment.endswith("part") else 0)
    assert out.read_bytes() == expected
    assert not Path(f"{out}.parts").exists()


def test_a_torn_part_is_computed_again(spec: Path, expected: bytes, tmp_path: Path) -> None:
    """A machine that lost its power may leave such a file; a killed process does not."""
    out = tmp_path / "o.parquet"
    with pytest.raises(Stopped):
        sweep(spec, out, workers=1, watch=stop_at(10))
    for part, size in zip(sorted(Path(f"{out}.parts").iterdir()), (0, 100, 4000), strict=False):
        part.write_bytes(part.read_bytes()[:size])
    found = sweep(spec, out, workers=1)
    assert (found.resumed, found.computed) == (4, POINTS - 4)
    assert out.read_bytes() == expected


def test_a_killed_worker_loses_nothing(spec: Path, expected: bytes, tmp_path: Path) -> None:
    killer, out = Killer(), tmp_path / "o.parquet"
    found = sweep(spec, out, workers=2, watch=killer)
    assert killer.killed and found.restarts >= 1
    assert (found.computed, found.failed) == (POINTS, FAILING)
    assert out.read_bytes() == expected


def test_workers_that_always_die_end_the_sweep(
    spec: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of tasks that came back are kept, and deaths are counted from the last of them."""
    out, rounds = tmp_path / "o.parquet", list[int]()

    def dying(engine: str, do: Any, tasks: Any, *_: Any) -> Iterator[Batch]:
        rounds.append(len(tasks))
        assert len(rounds) < 10, "it goes on for ever"
        if len(rounds) in (1, 2, 4):
            yield do(tasks[0])
        raise WorkersDiedError("SIGKILL(-9)")

    with monkeypatch.context() as patch:
        patch.setattr(module, "run", dying)
        with pytest.raises(ValueError, match=r"died 4 times in a row with nothing done \(SIGKILL\(-9\)\); 6 of 96"):
            sweep(spec, out)
    assert rounds == [48, 47, 46, 46, 45, 45, 45]
    assert sweep(spec, out, workers=1).resumed == 6
    assert out.read_bytes() == expected


def test_local_workers_do_every_task_once_and_their_death_is_told() -> None:
    assert sorted(engines.run("local", abs, [*range(-20, 0)], workers=2)) == [*range(1, 21)]
    with pytest.raises(WorkersDiedError):
        list(engines.run("local", os._exit, [1], workers=2))


def test_dask_workers_do_every_task_once_and_their_death_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told when Dask has given a task up, which here it does at once."""
    monkeypatch.setattr(engines, "IN_FLIGHT", 3)
    dask = pytest.importorskip("dask", reason="pip install 'thinwire[dask]'")
    distributed = pytest.importorskip("dask.distributed", reason="pip install 'thinwire[dask]'")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        address = cluster.scheduler_address
        assert sorted(engines.run("dask", abs, [*range(-20, 0)], address)) == [*range(1, 21)]
        with pytest.raises(WorkersDiedError, match="_exit"):
            list(engines.run("dask", os._exit, [1], address))


def test_dask_gives_the_same_bytes(spec: Path, expected: bytes, tmp_path: Path) -> None:
    """Two worker processes, one of which is killed."""
    distributed = pytest.importorskip("dask.distributed", reason="pip install 'thinwire[dask]'")
    out, killer = tmp_path / "o.parquet", Killer()
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        found = sweep(spec, out, "dask", cluster.scheduler_address, watch=killer)
    assert killer.killed and (found.computed, found.failed) == (POINTS, FAILING)
    assert out.read_bytes() == expected


@pytest.fixture
def ray() -> Iterator[Any]:
    """A Ray instance of two CPUs."""
    found = pytest.importorskip("ray", reason="pip install 'thinwire[ray]', 240 MB: not among the test extras")
    found.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield found
    found.shutdown()


def test_ray_workers_do_every_task_once_and_their_death_is_told(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told when Ray has given a task up, which here it does at once."""
    monkeypatch.setattr(engines, "IN_FLIGHT", 3)
    monkeypatch.setattr(engines, "RETRIES", 0)
    assert sorted(engines.run("ray", lambda n: -n, [*range(-20, 0)])) == [*range(1, 21)]
    with pytest.raises(WorkersDiedError):
        list(engines.run("ray", lambda status: os._exit(status), [1]))


def test_ray_gives_the_same_bytes(ray: Any, spec: Path, expected: bytes, tmp_path: Path) -> None:
    out, killer = tmp_path / "o.parquet", Killer()
    found = sweep(spec, out, "ray", watch=killer)
    assert killer.killed and (found.computed, found.failed) == (POINTS, FAILING)
    assert out.read_bytes() == expected


# --- what is there already ---


def test_a_changed_sweep_keeps_the_rows_of_its_points(spec: Path, expected: bytes, tmp_path: Path) -> None:
    out = tmp_path / "o.parquet"
    out.write_bytes(expected)
    spec.write_text(SPEC.replace('"mxfp4", ', "").replace("[1, 2]", "[2, 3]"))
    found = sweep(spec, out, workers=1)
    assert (found.points, found.computed, found.resumed, found.left_out) == (72, 36, 36, 60)
    sweep(spec, tmp_path / "fresh.parquet", workers=1)
    assert out.read_bytes() == (tmp_path / "fresh.parquet").read_bytes()


def test_rows_of_another_thinwire_are_computed_again(
    spec: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(module, "build", lambda: "0.0.9+another")
        sweep(spec, out, workers=1)
        assert out.read_bytes() != expected
    found = sweep(spec, out, workers=1)
    assert (found.computed, found.left_out) == (POINTS, POINTS)
    assert out.read_bytes() == expected


def test_parts_of_another_thinwire_are_no_part_of_the_result(
    spec: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it left unfinished holds the same points, cut into other tasks: whatever is read last, ours are taken."""
    out, parts = tmp_path / "o.parquet", tmp_path / "o.parquet.parts"
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(module, "build", lambda: "0.0.9+another")
        patch.setattr(module, "_row", lambda *given, own=module._row: {**own(*given), "ttft_ms": -1.0})
        sweep(spec, out, workers=1, watch=stop_at(POINTS))
    for i, part in enumerate(sorted(parts.iterdir())):  # names say which points are in a part, not whose
        part.rename(parts / f"{'0~'[i % 2]}{part.name}")
    found = sweep(spec, out, workers=1)
    assert (found.computed, found.left_out) == (POINTS, POINTS)
    assert out.read_bytes() == expected


def test_a_worker_with_another_thinwire_is_refused(spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [Batch((), 1, "0.0.9+another")]
    monkeypatch.setattr(module, "run", lambda *_: (answer for answer in answers))
    with pytest.raises(ValueError, match=r"a worker runs thinwire 0\.0\.9\+another, this is .*: install the same"):
        sweep(spec, tmp_path / "o.parquet")


def test_another_file_is_not_overwritten(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.parquet"
    out.write_text("my thesis")
    with pytest.raises(ValueError, match="is there and is no result of this thinwire's sweep"):
        sweep(spec, out, workers=1)
    pq.write_table(Store(tmp_path / "x.parquet", PREDICT).schema.empty_table().remove_column(0), out)
    with pytest.raises(ValueError, match="is there and is no result"):
        sweep(spec, out, workers=1)


# --- the command ---


def test_command(spec: Path, expected: bytes, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "o.parquet"
    status, said, err = run(capsys, "sweep", str(spec), "--out", str(out), "--workers", "2", "--json")
    assert (status, err) == (1, "")
    found = json.loads(said)
    assert sum(reason["points"] for reason in found["reasons"]) == FAILING and len(found["reasons"]) == 1
    assert found["reasons"][0]["error_type"] == "ValueError" and "llama-3-70b" in found["reasons"][0]["error"]
    assert {k: found[k] for k in ("out", "points", "failed", "computed", "resumed")} == {
        "out": str(out), "points": POINTS, "failed": FAILING, "computed": POINTS, "resumed": 0,
    }  # fmt: skip
    assert found["points_per_s"] == pytest.approx(found["computed"] / found["seconds"])
    assert out.read_bytes() == expected
    status, said, err = run(capsys, "sweep", str(spec), "--out", str(out))
    assert (status, err) == (1, "") and " ".join(said.split()).startswith(f"96 points in {out}, 24 of them failed")
    assert "- 24 x ValueError: " in said and "llama-3-70b" in said
    assert out.read_bytes() == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere.toml",), "cannot read the sweep nowhere.toml: No such file"),
        (("{}", "--engine", "dask"), "--engine dask needs the --address"),
        (
            ("{}", "--engine", "dask", "--address", "tcp://127.0.0.1:1"),
            "no Dask scheduler answers at tcp://127.0.0.1:1",
        ),
        (("{}", "--address", "tcp://127.0.0.1:1"), "--address belongs to --engine dask and ray"),
        (("{}", "--engine", "ray", "--workers", "2"), "--workers belongs to --engine local"),
        (("{}", "--workers", "0"), "workers must be a positive whole number"),
        (("{}", "--out", "nowhere/o.parquet"), "no such folder for the results: nowhere"),
        (("{}", "--engine", "spark"), "'spark' is not one of"),
    ],
)
def test_command_refuses(
    spec: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(spec.parent)
    monkeypatch.setattr("thinwire.sim.sweeps.engines.WAIT_S", 0.5)
    status, out, err = run(capsys, "sweep", *(a.replace("{}", str(spec)) for a in arguments))
    assert (status, out) == (2, "")
    assert said in err and err.count("\n") == 1


def test_interrupt_leaves_what_is_done(spec: Path, expected: bytes, tmp_path: Path) -> None:
    """Ctrl-C of the shell: the process and its workers get SIGINT."""
    out = tmp_path / "o.parquet"
    code = "import sys; from thinwire.commands.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "sweep", str(spec), "--out", str(out), "--workers", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as running:
        until = time.monotonic() + 60
        while len(list(Path(f"{out}.parts").glob("*.parquet"))) < 3 and time.monotonic() < until:
            time.sleep(0.002)
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=60)
    there = kept(out)
    if running.returncode == 0:
        pytest.skip("done before the signal came")
    assert running.returncode == 130, err
    assert unhurried(err) == "thinwire: stopped; the same command goes on with what is done\n"
    found: Report = sweep(spec, out, workers=1)
    assert 6 <= found.resumed == len(there)
    assert out.read_bytes() == expected


def test_command_names_the_engines() -> None:
    assert get_args(Engine) == ENGINES


@pytest.mark.parametrize("lacking", ["pyarrow"])
def test_what_is_missing_is_named(
    spec: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    for name in (lacking, f"{lacking}.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    status, _, err = run(capsys, "sweep", str(spec), "--out", str(tmp_path / "o.parquet"))
    assert status == 2 and f"sweep needs {lacking}: pip install 'thinwire[sweep]'" in err


def test_the_example_is_valid(root: Path) -> None:
    asked = read_sweep(root / "examples" / "sweep.toml")
    assert len(asked.points) == 600
    assert {axis for axis, _ in asked.values} == {"cluster"}
