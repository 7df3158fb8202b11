"""Which GPUs: what predictions of any of them have in common, and what the machine says that they have not."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme
from thinwire.reference.core.schedule import build
from thinwire.sim import api
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.events.analytic import closed_form
from thinwire.sim.events.collective import run_alone
from thinwire.sim.predict import predict
from thinwire.sim.question import Question
from thinwire.sim.serving.arrivals import Drawn, Fixed
from thinwire.sim.serving.question import Deployment, Service
from thinwire.sim.serving.serve import serve
from thinwire.sim.workload import Prompt
from thinwire.topologies.choose import SCATTERED, choose
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.generators import Wire, pcie_tree
from thinwire.topologies.load import load_cluster

from ..command import Capture, run
from .helpers import GB_PER_S, GPU, US, all_close, close, exchanger, made_up, protocol, small

MACHINES = ("8xl40s-pcie", "8xrtx-pro-6000-pcie", "8xmi300x-xgmi", "2x8xh100-ib")
SCHEMES = ("bf16", "bf16-ring", "flash-int4", "flash2-int4-hier", "mxfp4")
ASKED = ("--model", "llama-3-8b", "--cluster", "8xl40s-pcie", "--input-tokens", "64")


def of(name: str) -> st.SearchStrategy[list[int]]:
    """GPUs of a machine, in any order."""
    most = len(load_cluster(name).gpus)
    return st.lists(st.integers(0, most - 1), min_size=2, max_size=8, unique=True)


GROUPS = st.sampled_from(MACHINES).flatmap(lambda name: st.tuples(st.just(name), of(name)))


def ttft_s(cluster: Cluster, name: str, folded: bool = True, tokens: int = 96) -> float:
    model = small("llama-2-7b", 6)
    profile = load_profile(cluster)
    return predict(model, cluster, scheme(name), Prompt(1, tokens), profile, folded=folded).ttft_s


def powers(gpus: list[int]) -> list[int]:
    """As many of them as divide 32 heads."""
    return gpus[: 1 << (len(gpus).bit_length() - 1)]


# --- the same GPUs, the same answer ---


@pytest.mark.parametrize("name", MACHINES)
def test_the_first_ones_listed_are_the_first_ones(name: str) -> None:
    for tp in (1, 2, 4, 8):
        first, listed = (
            api.predict("llama-3-8b", name, "flash-int4", input_tokens=128, **asked).to_dict()  # type: ignore[call-arg, misc]
            for asked in ({"tp": tp}, {"gpus": range(tp)})
        )
        assert first == listed and first["gpus"] == list(range(tp))


@settings(deadline=None, max_examples=40)
@given(GROUPS, st.sampled_from(SCHEMES))
def test_folded_and_event_by_event_are_equal_for_any_gpus(group: tuple[str, list[int]], name: str) -> None:
    cluster = choose(load_cluster(group[0]), gpus=powers(group[1]))
    assert close(ttft_s(cluster, name), ttft_s(cluster, name, folded=False))


@settings(deadline=None, max_examples=60)
@given(GROUPS, st.sampled_from(SCHEMES), st.integers(1, 40_000))
def test_closed_forms_hold_for_any_gpus(group: tuple[str, list[int]], name: str, numel: int) -> None:
    """3 + 1 and 2 + 2 over sockets, any order: where a closed form is given at all, it is the run's."""
    cluster = choose(load_cluster(group[0]), gpus=group[1])
    times = exchanger(cluster, load_profile(cluster))
    timed = times.time("all_reduce", numel, scheme(name))
    run, closed = run_alone(timed, times.routes), closed_form(timed, times.routes, np.ones(times.ranks))
    if closed is not None:
        assert all_close([*closed.finish_s_R], [*run.finish_s_R])
        assert {link: round(n) for link, n in closed.link_bytes.items() if n} == {
            link: round(n) for link, n in run.link_bytes.items() if n
        }
    assert close(times.alone(timed).seconds, run.seconds)
    sent = build(scheme(name), times.ranks, numel, cluster.islands).sent_bytes() if name != "bf16" else None
    if sent is not None:
        assert [*timed.wire_bytes_R] == [sent.get(rank, 0) for rank in range(times.ranks)]


def test_some_irregular_groups_take_events_and_some_do_not() -> None:
    """Else the test above would be about one of the two alone."""
    found = set()
    for gpus in ((0, 1, 6, 7), (0, 1, 2, 7), (4, 5, 6, 7), (0, 4)):
        cluster = choose(load_cluster("8xl40s-pcie"), gpus=gpus)
        times = exchanger(cluster, load_profile(cluster))
        timed = times.time("all_reduce", 1 << 20, scheme("flash-int4"))
        found.add(closed_form(timed, times.routes, np.ones(len(gpus))) is None)
    assert found == {True, False}


# --- where the machine is symmetric ---


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["8xh100-nvlink", "8xmi300x-xgmi"]), st.permutations(range(8)), st.sampled_from([2, 4, 8]))
def test_on_a_switch_or_a_mesh_all_gpus_are_alike(name: str, order: list[int], tp: int) -> None:
    machine = load_cluster(name)
    for each in SCHEMES:
        assert close(ttft_s(choose(machine, gpus=order[:tp]), each), ttft_s(machine.take(tp), each))


@settings(deadline=None, max_examples=30)
@given(of("8xl40s-pcie"), st.permutations(range(4)), st.permutations(range(4)), st.booleans())
def test_sockets_and_the_gpus_of_one_are_alike(
    gpus: list[int], left: list[int], right: list[int], swapped: bool
) -> None:
    """Any renaming of GPUs that keeps sockets together changes nothing."""
    machine, taken = load_cluster("8xl40s-pcie"), powers(gpus)
    socket = [left, right]
    renamed = [4 * ((gpu // 4) ^ swapped) + socket[gpu // 4][gpu % 4] for gpu in taken]
    for name in SCHEMES:
        assert close(ttft_s(choose(machine, gpus=taken), name), ttft_s(choose(machine, gpus=renamed), name))


# --- where it is not ---


@settings(deadline=None, max_examples=25)
@given(GROUPS, st.sampled_from(SCHEMES), st.sampled_from([0.01, 100.0]))
def test_links_of_gpus_that_were_not_taken_do_not_matter(
    group: tuple[str, list[int]], name: str, factor: float
) -> None:
    machine, gpus = load_cluster(group[0]), powers(group[1])
    slow = machine
    for index, node in enumerate(machine.gpus):
        if index not in gpus:
            slow = slow.with_link_scaled(f"{node}->*", factor).with_link_scaled(f"*->{node}", factor)
    assert ttft_s(choose(slow, gpus=gpus), name) == ttft_s(choose(machine, gpus=gpus), name)


@pytest.mark.parametrize("name", ["bf16", "flash-int4"])
def test_two_gpus_across_sockets_differ_as_the_socket_link_says(name: str) -> None:
    """Wires without caps and pools, so that each step of a pair takes its bytes over the slowest wire, and its hops."""
    port, socket = Wire(40 * GB_PER_S, 0.7 * US), Wire(10 * GB_PER_S, 0.3 * US)
    box = pcie_tree([2, 2], port, socket_link=socket).cluster(name="box", title="", gpu=GPU, fabric="made-up")
    near, far = choose(box, gpus=(0, 1)), choose(box, gpus=(0, 2))
    numel = 1 << 20
    near_s, far_s = (
        run_alone(
            (times := exchanger(cluster, made_up(2))).time("all_reduce", numel, scheme(name)), times.routes
        ).seconds
        for cluster in (near, far)
    )
    found = scheme(name)
    if name == "bf16":  # a ring: half the tensor in each of two hops, or both halves at once
        times = exchanger(near, made_up(2))
        by_ring = "ring" in times.describe(times.time("all_reduce", numel, found))
        primitives = ("ring", "ring") if by_ring else ("all_to_all", "all_gather")
        parts = [numel, numel]
    else:
        primitives, parts = (
            ("all_to_all", "all_gather"),
            [c.wire_bytes(numel // 2) for c in (found.reduce, found.gather)],
        )
    wire_s = sum(part / protocol(p).knots[0][1] for p, part in zip(primitives, parts, strict=True))
    assert close(far_s - near_s, wire_s * (1 / 10 - 1 / 40) / GB_PER_S + 2 * 0.3 * US)


def test_a_slow_socket_link_is_felt_by_who_crosses_it() -> None:
    """On the catalog's machine, and the more the more of them cross."""

    def exposed_s(gpus: tuple[int, ...], name: str = "bf16", factor: float = 0.1) -> float:
        asked: dict[str, Any] = {"gpus": gpus, "scaled_links": {"bridge*->bridge*": factor}}
        return api.predict("llama-3-8b", "8xl40s-pcie", name, **asked).breakdown.communication_s  # type: ignore[call-arg]

    assert exposed_s((0, 1)) == exposed_s((4, 5)) == exposed_s((0, 1), factor=1.0)
    for one, other in combinations((0, 1, 4, 5), 2):
        crosses = (one < 4) != (other < 4)
        assert (exposed_s((one, other)) > 2 * exposed_s((0, 1))) == crosses
    assert exposed_s((0, 1, 2, 3)) < exposed_s((0, 1, 4, 5)) <= exposed_s((0, 4, 1, 5))


@pytest.mark.parametrize("gpus", [(0, 1, 6, 7), (0, 1, 2, 7), (0, 6, 1, 7)])
def test_hierarchical_schemes_follow_the_islands_that_are_left(gpus: tuple[int, ...]) -> None:
    """What crosses the sockets is each value once a way between islands, not what each rank has for each."""
    cluster = choose(load_cluster("8xl40s-pcie"), gpus=gpus)
    times = exchanger(cluster, load_profile(cluster))
    numel = 1 << 20
    crossing = {}
    for name in ("flash2-int4-hier", "flash-int4"):
        found = times.alone(times.time("all_reduce", numel, scheme(name)))
        crossing[name] = sum(n for (a, b), n in found.link_bytes.items() if {a, b} == {"bridge0", "bridge1"})
        schedule = build(scheme(name), 4, numel, cluster.islands)
        where = [gpu // 4 for gpu in gpus]
        steps = [step for lane in schedule.lanes for step in lane.steps]
        across = [t for step in steps for t in step.transfers if where[t.source] != where[t.destination]]
        assert round(crossing[name]) == sum(t.nbytes for t in across)
    assert crossing["flash2-int4-hier"] < 0.8 * crossing["flash-int4"]


def test_two_of_each_node_are_slower_than_four_of_one_and_faster_than_one_rail() -> None:
    found = [
        api.collective("2x8xh100-ib", "two_step:int8-g128-sym", 1 << 24, **asked)  # type: ignore[arg-type]
        for asked in ({"tp": 4}, {"tp": 4, "nodes": 2}, {"tp": 4, "nodes": 2, "scaled_links": {"rail*->*": 0.25}})
    ]
    assert [one["gpus"] for one in found] == [[0, 1, 2, 3], [0, 1, 8, 9], [0, 1, 8, 9]]
    assert found[0]["time_us"] < found[1]["time_us"] < found[2]["time_us"]
    assert found[0]["profile"] != found[1]["profile"]  # one node has the fabric of one node


# --- who names them ---


def test_a_question_has_them_as_numbers_however_they_are_written() -> None:
    first = Question("llama-3-8b", "8xl40s-pcie", gpus="0,1,6-7")
    assert first == Question("llama-3-8b", "8xl40s-pcie", gpus=np.array([0, 1, 6, 7]))  # type: ignore[arg-type]
    assert first.given()["gpus"] == (0, 1, 6, 7) and first.command_line()[-2:] == ["--gpus", "0,1,6,7"]
    assert Question("llama-3-8b", "8xl40s-pcie", gpus="4-7", nodes=1).command_line()[-4:] == [
        "--gpus", "4-7", "--nodes", "1",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"nodes must lie in 1\.\.4096: nodes=0"):
        Question("llama-3-8b", "8xl40s-pcie", nodes=0)
    for kind in (Deployment, Service):
        with pytest.raises(ValueError, match="gpus lists each GPU once"):
            kind(model="llama-3-8b", cluster="8xl40s-pcie", gpus="0,0")


def test_every_function_takes_them() -> None:
    asked: dict[str, Any] = {"gpus": [0, 1, 6, 7], "input_tokens": 64}
    one = api.predict("llama-3-8b", "8xl40s-pcie", "flash-int4", **asked).to_dict()
    (row,) = api.compare(["flash-int4"], "llama-3-8b", "8xl40s-pcie", **asked).rows
    assert row.to_dict() == one and one["gpus"] == [0, 1, 6, 7] and SCATTERED in one["assumptions"]
    crossed = api.compare_cross_attention("8xl40s-pcie", 64, 4096, gpus="0,4")
    assert {tuple(row.to_dict()["gpus"]) for row in crossed.rows} == {(0, 4)}
    near, far = (api.size_gate("8xl40s-pcie", "flash-int4", gpus=gpus) for gpus in ([0, 1, 2, 3], [0, 1, 6, 7]))
    assert far <= near  # the slower the wire, the sooner a scheme pays
    on: dict[str, Any] = {"model": "smollm2-135m", "cluster": "8xl40s-pcie", "input_tokens": 64}
    near, far, beyond = (
        api.predict(scheme=api.auto(0.01, **on, gpus=gpus).scheme, **on, gpus=gpus)  # type: ignore[call-arg, misc]
        for gpus in ([0, 1, 2], [0, 1, 7], [4, 5, 6])
    )
    assert close(near.ttft_s, beyond.ttft_s) and near.ttft_s < far.ttft_s


def test_the_command_line_says_which(capsys: Capture) -> None:
    status, out, _ = run(capsys, "predict", *ASKED, "--scheme", "bf16", "--gpus", "0,1,6,7")
    assert status == 0 and "4 x l40s of 8xl40s-pcie (GPUs 0,1,6,7), batch" in " ".join(out.split())
    status, out, _ = run(capsys, "predict", *ASKED, "--scheme", "bf16", "--tp", "4")
    assert status == 0 and "4 x l40s of 8xl40s-pcie, batch" in " ".join(out.split())
    status, out, _ = run(capsys, "compare", *ASKED, "--schemes", "bf16", "--gpus", "4-7", "--json")
    document = json.loads(out)
    assert document["rows"][0]["gpus"] == document["question"]["gpus"] == [4, 5, 6, 7]
    cross = ("compare", "--workload", "cross-attention", "--cluster", "2x8xh100-ib", "--text-tokens", "64")
    status, out, _ = run(capsys, *cross, "--visual-tokens", "4096", "--tp", "4", "--nodes", "2")
    assert status == 0 and "of 2x8xh100-ib (GPUs 0,1,8,9), batch" in " ".join(out.split())
    some = ("collective", "--cluster", "2x8xh100-ib", "--scheme", "bf16", "--bytes", "65536")
    status, out, _ = run(capsys, *some, "--tp", "4", "--nodes", "2")
    assert status == 0 and "on 4 GPUs of 2x8xh100-ib (GPUs 0,1,8,9), as nccl-tests" in " ".join(out.split())
    chosen = ("auto", "+1%", "--model", "smollm2-135m", "--cluster", "8xl40s-pcie", "--input-tokens", "64")
    status, out, _ = run(capsys, *chosen, "--gpus", "0,1,7", "--json")
    assert status == 0 and json.loads(out)["baseline"]["gpus"] == [0, 1, 7]
    status, out, _ = run(capsys, "serve", *ASKED, "--gpus", "2,3", "--rate", "1", "--duration", "20")
    assert status == 0 and "TP 2 on GPUs 2,3 each; " in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--gpus", "0,0"), "gpus lists each GPU once, by number, such as 0,1,6,7 or 0-3: gpus='0,0'"),
        (("--gpus", "0,8"), "no GPU 8 on 8xl40s-pcie, it has 0-7: gpus=0,8"),
        (("--gpus", "0,1", "--tp", "4"), "gpus names 2 GPUs, tp says 4: gpus=0,1, tp=4"),
        (("--nodes", "2"), "nodes must lie in 1..1, the nodes of 8xl40s-pcie: nodes=2"),
        (("--nodes", "0"), "nodes must lie in 1..4096: nodes=0"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "serve"])
def test_what_cannot_be_is_one_line(capsys: Capture, command: str, words: tuple[str, ...], said: str) -> None:
    more = ("--scheme", "bf16") if command == "predict" else ("--rate", "1")
    status, out, err = run(capsys, command, *ASKED, *more, *words)
    assert (status, out, err) == (2, "", f"thinwire: {said}\n")


def test_each_replica_has_them_on_a_machine_of_its_own() -> None:
    deployment = Deployment(model="llama-3-8b", cluster="8xl40s-pcie", gpus=(0, 1, 6, 7), replicas=2, token_budget=256)
    found = serve(deployment, Drawn(2.0, Fixed(64), Fixed(4)), 10.0).to_dict()
    assert (found["tp"], found["replica_gpus"], found["gpus"]) == (4, [0, 1, 6, 7], 8)
    assert "each has GPUs 0,1,6,7 of a machine of its own" in found["assumptions"][0]
    first = serve(Deployment(model="llama-3-8b", cluster="8xl40s-pcie", tp=2), Drawn(2.0, Fixed(64), Fixed(4)), 5.0)
    assert "each has the first GPUs of a machine of its own" in first.to_dict()["assumptions"][0]


# --- sweeps and plans ---


def test_a_sweep_has_them_as_axes(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet", reason="pip install 'thinwire[sweep]'")
    from thinwire.sim.sweeps.spec import read_sweep
    from thinwire.sim.sweeps.sweep import sweep

    from .sweeps.sweeps import rows

    text = 'model = "llama-3-8b"\ncluster = "2x8xh100-ib"\nscheme = "bf16"\ninput_tokens = 64\n'
    grids = ("tp = 4\nnodes = [1, 2]", 'gpus = ["0-3", "0,1,8,9", "8,9,0,1", "0,16"]', "tp = 4")
    (tmp_path / "s.toml").write_text(text + "".join(f"[[grid]]\n{grid}\n" for grid in grids))
    asked = read_sweep(tmp_path / "s.toml")
    assert len(set(asked.ids)) == 7
    plain = tmp_path / "p.toml"
    plain.write_text(f"{text}tp = 4\n")
    assert read_sweep(plain).ids == asked.ids[-1:]  # left out is not asked
    sweep(tmp_path / "s.toml", tmp_path / "o.parquet", workers=1)
    found = rows(tmp_path / "o.parquet")
    told = [(row["gpus"], row["nodes"], row["tp"]) for row in found]
    assert told == [
        ("0-3", 1, 4), ("0,1,8,9", 2, 4), ("0-3", None, 4), ("0,1,8,9", None, 4), ("8,9,0,1", None, 4),
        ("0,16", None, None), ("0-3", None, 4),
    ]  # fmt: skip
    times = [row["ttft_ms"] for row in found]
    assert times[0] == times[2] == times[6] < times[1] == times[3] and "no GPU 16" in found[5]["error"]
    (tmp_path / "s.toml").write_text(f"{text}gpus = [0, 1]\n")
    with pytest.raises(ValueError, match=r'gpus\.0: must be text, such as "0,1,6,7"'):
        read_sweep(tmp_path / "s.toml")


def test_a_sweep_of_services_tells_a_replicas_gpus_from_how_many_there_are(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow.parquet", reason="pip install 'thinwire[sweep]'")
    from thinwire.sim.sweeps.sweep import sweep

    from .sweeps.sweeps import rows

    (tmp_path / "s.toml").write_text(
        'what = "serve"\nmodel = "llama-3-8b"\ncluster = "8xl40s-pcie"\nrate = 1.0\nduration = 10.0\nreplicas = 3\n'
        'token_budget = 256\ngpus = ["0,1", "0,4"]\n'
    )
    sweep(tmp_path / "s.toml", tmp_path / "o.parquet", workers=1)
    assert [(row["replica_gpus"], row["tp"], row["gpus"]) for row in rows(tmp_path / "o.parquet")] == [
        ("0,1", 2, 6), ("0,4", 2, 6),
    ]  # fmt: skip
