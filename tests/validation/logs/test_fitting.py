"""From logs to a fabric: what was put in comes out, what nobody timed is said, what cannot be is refused."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thinwire.reference.core.schedule import Op
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.profile import FabricProfile, Profile, fabric_profile
from thinwire.sim.costs.shipped import load_profile, shipped_fabric
from thinwire.sim.costs.spread import find
from thinwire.sim.events.exchange import Exchanger, slowdown, uncompressed
from thinwire.topologies.cluster import Cluster, Link
from thinwire.topologies.load import cluster_names, load_cluster
from thinwire.validation.fits import fabric as fit_fabric
from thinwire.validation.fits.series import Way, way
from thinwire.validation.logs import carrying, spreads, tables
from thinwire.validation.logs.curves import GRID, Curve, fit, lent, timed
from thinwire.validation.logs.fitting import Calibration, calibrated
from thinwire.validation.logs.text import split
from thinwire.validation.targets import compare

from ...command import Capture, run
from .twins import TIMES_US, rank_lines, table

LOGGED = tuple(2**power for power in range(10, 31, 2))


def calibrate(text: str, machine: str | Cluster = "8xa100-nvlink") -> Calibration:
    cluster = load_cluster(machine) if isinstance(machine, str) else machine
    return calibrated(tables.read(split(text.encode()), "a.log"), cluster)


def fabric_of(found: Calibration, part: str = "fabric") -> FabricProfile:
    return fabric_profile(found.document[part])


def simulated(cluster: Cluster, fabric: FabricProfile, op: Op, nbytes: int) -> float:
    """Seconds of what NCCL is modelled as on exactly these GPUs."""
    carried = way(cluster, "nccl", op)
    exchanger = Exchanger(
        cluster, CostModel(Profile(load_profile(cluster).gpu, fabric), cluster.gpu), slowdown(len(cluster.gpus), {})
    )
    baseline = timed(cluster, op, np.array([]), np.array([]), carried).baseline
    scheme = uncompressed(baseline, nbytes // 2, len(cluster.gpus))
    return exchanger.alone(exchanger.attach(op, nbytes // 2, scheme, "nccl")).seconds


@cache
def slower(fabric: str, machine: str) -> FabricProfile:
    """A host like the shipped one but for its NCCL: launches of 1.4 times the length, efficiencies of 0.8."""
    shipped = shipped_fabric(load_cluster(machine))
    assert shipped.name == fabric
    return replace(
        shipped,
        protocols=tuple(
            replace(p, launch_s=1.4 * p.launch_s, hop_s=1.4 * p.hop_s, knots=tuple((b, 0.8 * e) for b, e in p.knots))
            for p in shipped.protocols
        ),
    )


def log_of(cluster: Cluster, fabric: FabricProfile, op: Op, sizes: Sequence[int] = LOGGED, hosts: int = 1) -> str:
    """What nccl-tests would print on such a host."""
    ranks = len(cluster.gpus)
    times = {nbytes: simulated(cluster, fabric, op, nbytes) * 1e6 for nbytes in sizes}
    name = "alltoall" if op == "all_to_all" else op
    lines = rank_lines(ranks, hosts, cluster.gpu.product_names[0])
    return table(name, ranks, times, lines, head=[f"./{name}_perf -g {ranks}"])


CASES: tuple[tuple[str, str, int, Op], ...] = (
    ("a100-nvlink", "8xa100-nvlink", 8, "all_reduce"),
    ("a100-nvlink", "8xa100-nvlink", 4, "all_gather"),
    ("h200-nvlink", "8xh200-nvlink", 8, "all_reduce"),
    ("rtx-pro-6000-pcie", "8xrtx-pro-6000-pcie", 8, "reduce_scatter"),
    ("a100-nvlink", "8xa100-nvlink", 8, "all_to_all"),
)


@pytest.mark.parametrize(("fabric", "machine", "ranks", "op"), CASES)
def test_a_log_of_the_simulators_own_comes_back(fabric: str, machine: str, ranks: int, op: Op) -> None:
    """At the log's sizes within the fit's 2 % and the digits printed, and never faster for more bytes.

    Between them, a factor of four apart, a jump of the host's own is missed: two of ten sizes may be.
    """
    group = load_cluster(machine).take(ranks)
    truth = slower(fabric, machine)
    found = calibrate(log_of(group, truth, op), machine)
    own = fabric_of(found)
    for nbytes in LOGGED:
        assert simulated(group, own, op, nbytes) == pytest.approx(simulated(group, truth, op, nbytes), rel=0.03)
    errors = [
        abs(simulated(group, own, op, 2 * nbytes) / simulated(group, truth, op, 2 * nbytes) - 1)
        for nbytes in LOGGED[:-1]
    ]
    assert np.median(errors) < 0.05 and np.quantile(errors, 0.8) < 0.15
    seconds = [simulated(group, own, op, int(n) // 16 * 16) for n in np.geomspace(512, 2**33, 60)]
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(seconds))
    (one,) = found.parts["fabric"].found
    left = found.parts["fabric"].left(one)
    assert left.in_sample[2] < 0.03 and left.left_out is not None and left.left_out[0] < 0.06


def test_other_ranks_and_operations_follow_the_log() -> None:
    """A host that is slower alike is slower alike in what nobody timed, nearer to it than the shipped fabric is."""
    machine, truth = "8xa100-nvlink", slower("a100-nvlink", "8xa100-nvlink")
    found = calibrate(log_of(load_cluster(machine), truth, "all_reduce"), machine)
    own, shipped = fabric_of(found), shipped_fabric(load_cluster(machine))
    asked: tuple[tuple[int, Op], ...] = ((4, "all_reduce"), (2, "all_reduce"), (8, "all_gather"), (4, "all_to_all"))
    for ranks, op in asked:
        group = load_cluster(machine).take(ranks)
        real = np.array([simulated(group, truth, op, n) for n in LOGGED])
        mine, theirs = (
            np.abs(np.array([simulated(group, f, op, n) for n in LOGGED]) / real - 1) for f in (own, shipped)
        )
        assert np.median(mine) < 0.1 < np.median(theirs)
    moved = [p for p in own.protocols if p.library == "nccl" and (p.op, p.ranks) != ("all_reduce", 8)]
    assert moved and all(p.source.startswith("assumed: as nccl on a100-nvlink, times what the log") for p in moved)
    (sentence,) = [said for said in own.assumptions if said.startswith("no log of")]
    assert "all_reduce on 2, 4" in sentence
    assert any(
        said.startswith("logs tell of NCCL alone: what engine-eager, engine-graph carry") for said in own.assumptions
    )


def test_measured_nccl_is_a_choice_and_engines_keep_theirs() -> None:
    own, shipped = fabric_of(calibrate(table())), shipped_fabric(load_cluster("8xa100-nvlink"))
    assert own.baseline["all_reduce"][0].library == "nccl"
    assert set(own.baseline["all_reduce"]) == set(shipped.baseline["all_reduce"])
    engines = [p for p in shipped.protocols if p.library != "nccl"]
    assert [p for p in own.protocols if p.library != "nccl"] == engines
    (measured,) = [p for p in own.protocols if p.source.startswith("measured") and p.library == "nccl"]
    assert measured.key == ("nccl", "all_reduce", "ring", 8) and "a.log, 9 rows of all_reduce" in measured.source


def test_two_nodes_and_one_are_parts_of_their_own(tmp_path: Path) -> None:
    """A group inside one node takes the node's part; all of the machine the fabric's."""
    cluster = load_cluster("2x8xh100-ib")
    many = log_of(cluster, shipped_fabric(cluster), "all_reduce", LOGGED[4:], hosts=2)
    node = table(
        lines=rank_lines(8, gpu="NVIDIA H100 80GB HBM3"), times={size: 2 * us for size, us in TIMES_US.items()}
    )
    found = calibrate(many + node, cluster)
    assert sorted(found.document) == ["fabric", "within"]
    path = tmp_path / "own.json"
    path.write_text(json.dumps(found.document))
    whole, part = (load_profile(c, str(path)).fabric for c in (cluster, cluster.take(8)))
    assert (whole.name, part.name) == ("h100-ib+logs", "h100-nvlink+logs")
    for nbytes, us in TIMES_US.items():
        assert simulated(cluster.take(8), part, "all_reduce", nbytes) == pytest.approx(2e-6 * us, rel=0.03)
    path.write_text(json.dumps({"fabric": found.document["fabric"]}))
    assert load_profile(cluster.take(8), str(path)).fabric == shipped_fabric(cluster.take(8))


def test_few_rows_scale_the_shipped_fabric() -> None:
    """One row alone: its size is right, others keep the shape; nothing can be left out."""
    group, shipped = load_cluster("8xa100-nvlink"), shipped_fabric(load_cluster("8xa100-nvlink"))
    usual = simulated(group, shipped, "all_reduce", 2**25)
    found = calibrate(table(times={2**25: 1.5e6 * usual}))
    own = fabric_of(found)
    for nbytes in (2**14, 2**20, 2**25, 2**29):
        scaled = 1.5 * simulated(group, shipped, "all_reduce", nbytes)
        assert simulated(group, own, "all_reduce", nbytes) == pytest.approx(scaled, rel=0.03)
    (one,) = found.parts["fabric"].found
    assert found.parts["fabric"].left(one).left_out is None
    assert "1 size: other sizes are the shipped fabric's, scaled" in one.said


def test_an_outlier_is_named_and_left_out() -> None:
    times = {**TIMES_US, 4194304: 4100.0}
    (one,) = calibrate(table(times=times)).parts["fabric"].found
    assert one.dropped == ("4194304 bytes: 4,100.0 us, out of line with its neighbours",)
    assert 4194304 not in one.series.nbytes
    fast = {**TIMES_US, 16777216: 21.0}
    with pytest.raises(ValueError, match="busbw"):  # else it were left out as well
        calibrate(table(times={16777216: 21.0}))
    (one,) = calibrate(table(times=fast)).parts["fabric"].found
    assert one.dropped == ("16777216 bytes: 21.0 us, out of line with its neighbours",)


def test_runs_of_one_kind_are_taken_together_and_differences_said() -> None:
    times = {size: 3 * us for size, us in TIMES_US.items()}
    (one,) = calibrate(table() + table(times=times)).parts["fabric"].found
    assert one.series.seconds * 1e6 == pytest.approx([2 * us for us in TIMES_US.values()], rel=1e-3)
    assert "2 runs: the median at each size; they differ by up to 3 times: are they of one machine?" in one.said
    shifted = table(ranks=4, lines=[], times={2**20: 50.0}, head=["CUDA_VISIBLE_DEVICES=4,5,6,7"])
    found = calibrate(table(ranks=4) + shifted)
    assert ["4 other GPUs has more rows" in one.why for one in found.unused] == [True]
    assert found.parts["fabric"].found[0].series.group.gpus == ("gpu0", "gpu1", "gpu2", "gpu3")


def test_a_log_above_the_links_is_refused_with_both_figures() -> None:
    """8 A100 have 300 GB/s each way: 256 MiB in 1,174 us would be 400 GB/s of bus bandwidth."""
    with pytest.raises(
        ValueError, match=r"busbw 400\.\d GB/s, the links of 8xa100-nvlink carry at most (\d+\.\d)"
    ) as refused:
        calibrate(table(times={2**28: 1174.0}))
    most = float(str(refused.value).split("at most ")[1].split()[0])
    one, ways = np.array([1.0]), [Way("ring"), Way("two_step")]
    wires = [fit_fabric.wire_of(timed(load_cluster("8xa100-nvlink"), "all_reduce", one, one, w)) for w in ways]
    best = min(w.latency_s + w.seconds_per_byte * 2**28 for w in wires)
    assert most == pytest.approx(1.75 * 2**28 / best / 1e9, abs=0.06)
    assert 299 < most <= 300
    calibrate(table(times={2**28: 1.75 * 2**28 / 300e9 * 1e6}))


def test_rings_that_the_simulator_does_not_look_for_are_no_fault_of_the_machine() -> None:
    """Pairs with NVLink beside PCIe: what all links of a GPU carry, but no ring by rank, is refused in other words."""
    pair, tree = Link("gpu0", "gpu1", 100e9, 1e-6), load_cluster("4xl4-pcie")
    links = (*tree.links, pair, replace(pair, source="gpu1", target="gpu0"))
    links += tuple(replace(one, source=one.source.replace("0", "2").replace("1", "3"),
                           target=one.target.replace("0", "2").replace("1", "3")) for one in links[-2:])  # fmt: skip
    machine = replace(tree, links=links)
    with pytest.raises(ValueError, match=r"in rings by rank\. All links of a GPU carry 126\.3: NCCL found rings"):
        calibrate(table(ranks=4, times={2**28: 1.5 * 2**28 / 60e9 * 1e6}), machine)
    with pytest.raises(ValueError, match="is --cluster the machine it ran on"):
        calibrate(table(ranks=4, times={2**28: 1.5 * 2**28 / 200e9 * 1e6}), machine)


# --- curves and spreads ---


def test_a_curve_meets_its_rows_and_falls_back_to_them() -> None:
    group, lender = load_cluster("8xa100-nvlink"), shipped_fabric(load_cluster("8xa100-nvlink"))
    s = timed(group, "all_reduce", np.array([2.0**16, 2.0**24]), np.array([1e-4, 9e-4]))
    curve = Curve(s, lender)
    assert curve.ratio(s.nbytes) * lent(s, lender, s.nbytes) == pytest.approx(s.seconds)
    assert curve.ratio(np.array([1.0, 2.0**16])) == pytest.approx(curve.ratio(s.nbytes)[[0, 0]])
    filled = curve.filled()
    assert set(s.nbytes) <= set(filled.nbytes) and len(filled.nbytes) > len(GRID) - 6
    assert Curve(s, carrying.NOTHING).filled() is s
    assert len(curve.filled(out=0).nbytes) and 2.0**16 in curve.filled(out=0).nbytes


def test_spreads_are_of_the_logs_where_they_have_rows() -> None:
    """Regimes with eight rows of their own say so; those without rows take what logs without them are off."""
    own = fabric_of(calibrate(table(times={2**26 + 2**22 * i: 700.0 + 40 * i for i in range(12)})))
    assert {s.part for s in own.spreads} >= {"nccl", "stand-in", "engine-graph"}
    assert find(own.spreads, 2.0**27, "nccl").source.startswith("measured: 12 rows of the logs")
    small = find(own.spreads, 2.0**12, "nccl")
    assert "below 16 MiB" in small.source and small.high - small.low > 0.5
    few = fabric_of(calibrate(table()))
    assert "every second size" in find(few.spreads, 2.0**18, "nccl").source
    theirs = [s for s in shipped_fabric(load_cluster("8xa100-nvlink")).spreads if s.part.startswith("engine")]
    assert [s for s in few.spreads if s.part.startswith("engine")] == theirs


def test_the_published_spreads_are_those_of_today() -> None:
    """Run make calibrate."""
    assert json.loads(spreads.FILE.read_text("utf-8")) == json.loads(json.dumps(spreads.measure()))


def test_the_section_holds_what_it_is_asked_for() -> None:
    section = compare.SECTIONS["logs"](False)
    by_key = {entry.key: entry for entry in section.entries}
    assert by_key["logs.second"].verdict == by_key["logs.tables"].verdict == "met"
    assert by_key["logs.ranks"].summary.median < 0.6 * by_key["logs.none"].summary.median
    assert by_key["logs.ops"].summary.median < by_key["logs.none"].summary.median


def test_a_guess_never_saw_its_row() -> None:
    """With the rows that are left out a hundred times as long, the guesses stay."""
    s = next(iter(carrying.curves())).series
    other = s.seconds.copy()
    other[1::2] *= 100
    first, second = (list(carrying.second_sizes([one])) for one in (s, replace(s, seconds=other)))
    assert [g.seconds for g in first] == [g.seconds for g in second] and len(first) == len(s.nbytes) // 2


# --- how it is carried, by the machine's graph ---


def test_the_shape_of_every_catalog_machine() -> None:
    for name in cluster_names():
        cluster = load_cluster(name)
        assert cluster.fully_linked == name.endswith(("-nvlink", "-xgmi")), name
        assert cluster.meshed == name.endswith("-xgmi"), name
        assert len(cluster.hosts) == (2 if name.startswith("2x8") else 1), name
    pair = load_cluster("8xrtx-pro-6000-pcie").take(2)
    assert not pair.fully_linked, "two GPUs behind one switch"
    assert load_cluster("2x8xh100-ib").reorder((9, 0, 1)).hosts == ((0,), (1, 2))


@pytest.mark.parametrize(
    ("machine", "ranks", "library", "op", "carried"),
    [
        ("8xh200-nvlink", 8, "nccl", "all_reduce", Way("nvls")),
        ("8xh200-nvlink", 2, "nccl", "all_reduce", Way("ring")),
        ("8xa100-nvlink", 8, "nccl", "all_reduce", Way("ring")),
        ("8xa100-nvlink", 8, "engine-graph", "all_reduce", Way("two_step")),
        ("8xa100-nvlink", 8, "nccl", "all_gather", Way("two_step")),
        ("8xl40s-pcie", 4, "engine-graph", "all_reduce", Way("ring", 2)),
        ("8xl40s-pcie", 4, "nccl", "reduce_scatter", Way("ring", 2)),
        ("8xmi300x-xgmi", 8, "nccl", "all_reduce", Way("two_step")),
        ("2x8xh100-ib", 16, "nccl", "all_reduce", Way("hierarchical", 1, 8)),
        ("2x8xh100-ib", 8, "nccl", "all_gather", Way("two_step")),
    ],
)
def test_the_algorithm_follows_from_the_graph(machine: str, ranks: int, library: str, op: Op, carried: Way) -> None:
    assert way(load_cluster(machine).take(ranks), library, op) == carried


# --- the command ---


def written(tmp_path: Path, text: str, name: str = "a.log") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_the_command_writes_what_profile_reads(capsys: Capture, tmp_path: Path) -> None:
    target = tmp_path / "own.json"
    logs = [written(tmp_path, table(), "a.log"), written(tmp_path, table("all_gather", 4), "all_gather.log")]
    asked = ("calibrate", "--logs", *logs, "--cluster", "8xa100-nvlink", "--out", str(target))
    status, out, err = run(capsys, *asked)
    assert (status, err) == (0, "")
    assert "all_reduce      8" in out and "all_gather      4" in out and "row left out" in out and "engine-graph" in out
    status, out, err = run(capsys, *asked, "--json")
    document: dict[str, Any] = json.loads(out)
    assert [(one["op"], one["ranks"], one["rows"]) for one in document["series"]] == [
        ("all_gather", 4, 9), ("all_reduce", 8, 9),
    ]  # fmt: skip
    assert document["series"][1]["left_out"]["median"] < 0.2
    place = ("--cluster", "8xa100-nvlink", "--tp", "8", "--bytes", "1048576", "--profile", str(target), "--json")
    status, out, err = run(capsys, "collective", *place, "--scheme", "bf16-ring")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["time_us"] == pytest.approx(TIMES_US[1048576], rel=0.03)
    assert found["profile"].endswith("fabric-a100-nvlink+logs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--logs", "LOG"), "calibrate --logs needs --cluster"),
        (("--logs", "LOG", "--cluster", "8xa100"), "8xa100"),
        (("--logs", "LOG", "--from", "x.json", "--cluster", "8xa100-nvlink"), "calibrate needs --from RAW.json"),
        (("--from", "x.json", "LOG"), "more files go with --logs"),
        (("--logs", "none.log", "--cluster", "8xa100-nvlink"), "cannot read the log none.log: No such file"),
        (("--logs", "LOG", "--cluster", "4xl4-pcie"), "4xl4-pcie has 4 GPUs"),
    ],
)
def test_a_bad_command_is_one_line(arguments: tuple[str, ...], said: str, capsys: Capture, tmp_path: Path) -> None:
    log = written(tmp_path, table())
    target = tmp_path / "own.json"
    words = [log if word == "LOG" else word for word in arguments]
    status, out, err = run(capsys, "calibrate", *words, "--out", str(target))
    assert (status, out, err.count("\n")) == (2, "", 1) and said in err
    assert not target.exists()


def test_fits_of_several_series_keep_their_order() -> None:
    group = load_cluster("8xa100-nvlink")
    some = [timed(group.take(n), "all_reduce", GRID, 1e-5 * n + GRID / 1e11) for n in (8, 2, 4)]
    assert [found.series for found in fit(some)] == some
