"""Collectives of NCCL and the engines against the published rows. In-sample: the simulator with the shipped profiles.

Left out: fitted again without the row by the functions that calibration uses; their closed form is what the simulator
runs (tests/validation/fits/test_fabric.py).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from thinwire.reference.core.schedule import Op
from thinwire.reference.core.scheme import Scheme
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.profile import Baseline
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.costs.spread import Spread, find, sum_interval
from thinwire.sim.events.collective import TimedSchedule
from thinwire.sim.events.exchange import Exchanger, slowdown, uncompressed
from thinwire.topologies.load import load_cluster
from thinwire.validation.fits import fabric as fit_fabric
from thinwire.validation.fits import series, spreads_fabric
from thinwire.validation.fits.fabric import Series
from thinwire.validation.fits.published_tables import Row, rows, select
from thinwire.validation.targets.targets import Entry, Limits, Point, Section

SMALL_BYTES = 2**16  # the issue: above 64 KiB, and small messages
LARGE_LIMITS, SMALL_LIMITS = Limits(median=0.08, percentile_90=0.20), Limits(median=0.15)

OTHER_HOSTS = (  # nccl_tests_tables.csv: machine in the table, catalog machine it is an example of, ranks
    ("8x H200 node (ml-engineering)", "8xh200-nvlink", 8),
    ("single A100 node (ml-engineering)", "8xa100-nvlink", 8),
    ("1x AWS P6-B200", "8xb200-nvlink", 8),
    ("GKE A4 1 node", "8xb200-nvlink", 8),
    ("2 nodes x 8 H100 SXM", "2x8xh100-ib", 16),
)
NCCL_TESTS_LEFT_OUT = {  # and why the others are not held against a prediction
    "2x AWS p4de.24xlarge": "no catalog machine: A100 nodes over EFA",
    "CoreWeave HGX H100 sample output": "no catalog machine, and the source contradicts itself about the ranks",
    "CoreWeave GB200 NVL72 single rack": "no catalog machine",
    "4x AWS P6-B200": "no catalog machine: B200 nodes over EFA",
    "4-node sample output (ml-engineering)": "the source does not name the hardware",
    "2 nodes x 1 L40S (Dell R760xa, OpenShift)": "no catalog machine: L40S nodes over a NIC, transport unverified",
    "2 nodes x 2 L40S (Dell R760xa, OpenShift)": "no catalog machine: L40S nodes over RoCE",
    "2 nodes x 8 RTX 6000D + CX8": "no catalog machine, peer-to-peer and shared memory disabled",
    "GKE A4 2 nodes": "no catalog machine: B200 nodes over RoCE",
    "OCI 2x BM.GPU A100-40GB": "no catalog machine: A100 nodes over RoCE",
    "128-node H100 cluster": "no catalog machine, in-switch reduction switched off",
    "2x H100 PCIe with NVLink bridge": "no catalog machine",
}
MISC_KEPT = (  # pcie_and_misc_collectives.csv: part of `topology`, `implementation`, catalog machine
    ("ASUS ESC8000A-E13P", "NCCL", "8xrtx-pro-6000-pcie"),
    ("NVLink/NVSwitch", "NCCL ring", "8xh100-nvlink"),
    ("group A: 2 switches on 2 root", "NCCL ring", "8xrtx-pro-6000-2switch"),
    ("4 GPUs on one switch", "NCCL", "8xrtx-pro-6000-2switch"),
)
MISC_LEFT_OUT = (  # column, part of its value, why; the first that fits
    (
        "source",
        "flashinfer#5023",
        "the source shows no GPU, and operation or TP are inferred from the order of its tables",
    ),
    ("gpu", "MI355X", "no catalog machine has this GPU"),
    ("gpu", "6000D", "no catalog machine has this GPU"),
    ("implementation", "one-shot", "a one-shot kernel of its own, which no profile describes"),
    ("implementation", "b12x", "a kernel of its own, which no profile describes"),
    ("implementation", "symmetric memory", "NCCL's symmetric kernels, which no profile describes"),
    ("topology", "group B: 2 switches on 1 root", "calibrated rtx-pro-6000-switch"),
    ("topology", "single CPU", "other topology: three switches on one CPU"),
    ("topology", "16-GPU", "other topology: eight of sixteen GPUs"),
    ("topology", "four 4-GPU", "other topology: sixteen GPUs in four islands"),
    ("topology", "direct attach", "other topology: GPUs straight on the CPUs, and NCCL with a hand-made graph"),
)


# --- one collective by the simulator ---


@cache
def exchanger_of(machine: str, ranks: int) -> Exchanger:
    """The first `ranks` GPUs of a catalog machine with their shipped profiles."""
    cluster = load_cluster(machine).take(ranks)
    return Exchanger(cluster, CostModel(load_profile(cluster), cluster.gpu), slowdown(ranks, {}))


@cache
def simulated(machine: str, ranks: int, op: Op, baseline: Baseline, nbytes: float) -> tuple[float, str, Spread]:
    """Seconds of an uncompressed collective, where they come from, and how far off its like are. Sizes are rounded up
    to whole bf16 values.
    """
    exchanger, numel = exchanger_of(machine, ranks), max(1, -(-int(nbytes) // 2))
    timed = exchanger.attach(op, numel, uncompressed(baseline, numel, ranks), baseline.library)
    seconds = exchanger.alone(timed).seconds
    return seconds, breakdown(timed, seconds), spread_of(timed, exchanger.cost.fabric.spreads)


def spread_of(timed: TimedSchedule, known: Sequence[Spread]) -> Spread:
    """How far off exchanges of this carrier and size are."""
    carrier, nbytes = timed.carried or ("stand-in", 0.0)
    return find(known, nbytes, carrier, "stand-in")


def simulated_scheme(machine: str, ranks: int, chosen: Scheme, nbytes: int) -> tuple[float, str]:
    """Seconds of an all-reduce of `nbytes` of bf16 under a scheme, and where they come from."""
    exchanger = exchanger_of(machine, ranks)
    timed = exchanger.time("all_reduce", nbytes // 2, chosen)
    seconds = exchanger.alone(timed).seconds
    return seconds, breakdown(timed, seconds)


def breakdown(timed: TimedSchedule, seconds: float) -> str:
    """Software latency, codec kernels and wire of a collective, for people."""
    steps = timed.lanes[0]
    software_s = sum(step.latency_s for step in steps if len(step.pairs_F))
    work = sum(float(step.work_bytes_F.sum()) for step in steps)
    share = sum(float(step.nbytes_F.sum()) for step in steps) / work if work else 1.0
    at = f"at {share:.0%} of the links' rate"
    if len(timed.lanes) > 1:
        return f"{len(timed.lanes)} pieces, software {software_s * 1e6:.1f} us each, wire {at}"
    codec_s = float(timed.codec_s_R.max())
    said = [f"software {software_s * 1e6:.1f} us"] + ([f"codec {codec_s * 1e6:.1f} us"] if codec_s else [])
    return ", ".join([*said, f"wire {(seconds - software_s - codec_s) * 1e6:.1f} us {at}"])


def size(nbytes: float) -> str:
    """Bytes for people: 512 B, 12 KiB, 1.5 MiB, 16 GiB."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= scale:
            return f"{nbytes / scale:.4g} {unit}"
    return f"{nbytes:.0f} B"


def regime(nbytes: float) -> str:
    """Size regimes of the tables."""
    for most, name in ((2**13, "<= 8 KiB"), (2**16, "8-64 KiB"), (2**20, "64 KiB-1 MiB"), (2**24, "1-16 MiB")):
        if nbytes <= most:
            return name
    return "> 16 MiB"


@cache
def spreads_without(series_key: tuple[str, str, str, int]) -> tuple[Spread, ...]:
    """Of a series' fabric, by the other series alone."""
    rest = [row for row in spreads_fabric.fabric_left_out() if row.series != series_key]
    return tuple(spreads_fabric.libraries(series_key[0], rest, series_key[1]))


def series_point(s: Series, index: int, seconds: float | None = None, group: str = "", held_out: bool = False) -> Point:
    """`seconds`: of a left-out fit; None takes the simulator's. `group`: the host, if it is not the catalog machine. A
    row left out or held out has an interval, by spreads of other series.
    """
    nbytes = float(s.nbytes[index])
    found, detail, spread = simulated(s.machine, s.ranks, s.op, s.baseline, nbytes)
    if seconds is not None:
        found = seconds
        spread = find(spreads_without(spreads_fabric.series_key(s)), nbytes, s.library)
    where, row = group or s.machine, s.row_numbers[index] + 1
    return Point(
        where,
        regime(nbytes),
        f"{where} {s.library} {s.op} x{s.ranks}, {size(nbytes)} ({s.table} row {row})",
        float(s.seconds[index]),
        found,
        detail,
        sum_interval(found, [(found, spread)]) if held_out else None,
    )


def series_points(some: Iterable[Series], held_out: bool = False) -> list[tuple[Series, int, Point]]:
    """Every row of some series, simulated: the series, the row's index, the point."""
    return [(s, i, series_point(s, i, held_out=held_out)) for s in some for i in range(len(s.nbytes))]


def left_out_points(some: Iterable[Series]) -> list[tuple[Series, int, Point]]:
    """Every row of some series but their ends, by a fit without it: the series, the row's index, the point."""
    return [
        (s, i, series_point(s, i, seconds, held_out=True))
        for group in fit_fabric.by_baseline(some)
        for s, i, seconds in fit_fabric.leave_one_out(group)
    ]


def moved_points(some: Iterable[Series], machine_out: bool) -> list[tuple[Series, int, Point]]:
    """Every row of some series by figures of others: with its whole machine's left out, by each fabric like it; or with
    those of its number of ranks left out, where its library was timed on others.
    """
    fabrics = {s.fabric: load_profile(load_cluster(s.machine).take(s.ranks)).fabric for s in series.calibration()}
    found = []
    for s in some:
        own = fabrics[s.fabric]
        ranks = {p.ranks for p in own.protocols if (p.library, p.op) == (s.library, s.op)}
        if machine_out:
            given = spreads_fabric.lenders(s, fabrics)
        else:
            given = [spreads_fabric.without(own, s, s.ranks)] if ranks - {s.ranks} else []
        for fabric in given:
            for index, seconds, _ in spreads_fabric.borrowed(s, fabric):
                point = series_point(s, index, seconds)
                found.append((s, index, replace(point, detail=f"by the figures of {fabric.name}")))
    return found


# --- NCCL and engines ---


def all_reduce() -> Section:
    """All-reduce of NCCL (RCCL) and the engines on every healthy machine; other operations and hosts beside it."""
    calibrated = [s for s in series.calibration() if s.library != "fused"]
    wanted = [s for s in calibrated if s.op == "all_reduce"]
    other_ops = [s for s in calibrated if s.op != "all_reduce"]
    int8 = [s for s in series.nccl("int8") if s.op == "all_reduce"]
    other_int8 = [s for s in series.nccl("int8") if s.op != "all_reduce"]
    hosts = [(s, i, series_point(s, i, None, host, True)) for host, s in other_hosts() for i in range(len(s.nbytes))]
    entries: list[Entry] = []

    def add(key: str, what: str, how: str, found: Iterable[tuple[Series, int, Point]], gated: bool) -> None:
        large: list[Point] = []
        small: list[Point] = []
        for s, i, point in found:
            (large if s.nbytes[i] > SMALL_BYTES else small).append(point)
        for end, name, points, limits in (
            ("large", "above 64 KiB", large, LARGE_LIMITS),
            ("small", "up to 64 KiB", small, SMALL_LIMITS),
        ):
            if points:
                entries.append(Entry(f"all_reduce.{key}.{end}", f"{what} {name}", how, tuple(points), limits, gated))

    add("in-sample", "all-reduce", "in-sample", series_points(wanted), True)
    add("row", "all-reduce", "one row out", left_out_points(wanted), True)
    add("tp", "all-reduce", "one number of ranks out", moved_points(wanted, machine_out=False), False)
    add("machine", "all-reduce", "one machine out", moved_points(wanted, machine_out=True), False)
    add("int8", "all-reduce, int8", "held out", series_points(int8, True), True)
    add("other-ops.in-sample", "other operations", "in-sample", series_points(other_ops), False)
    add("other-ops.row", "other operations", "one row out", left_out_points(other_ops), False)
    add(
        "other-ops.int8",
        "other operations, int8",
        "held out",
        series_points(other_int8, True),
        False,
    )
    add("other-hosts", "all-reduce, other hosts", "held out", hosts, False)
    fits = [fit for group in fit_fabric.by_baseline(wanted) for fit in fit_fabric.fit(group)]
    knots, count = sum(len(fit.knot_bytes) for fit in fits), sum(len(s.nbytes) for s in wanted)
    likes = "; ".join(", ".join(like) for like in spreads_fabric.LIKE)
    left_out = [f"{name} ({len(list(_of_machine(name)))} rows): {why}." for name, why in NCCL_TESTS_LEFT_OUT.items()]
    return Section(
        "all_reduce",
        "NCCL and engines",
        "all-reduce on healthy machines, above 64 KiB <= 8 % median, <= 20 % 90th percentile; else <= 15 % median",
        f"""
        Rows: nccl_collectives.csv (half), engine_allreduce.csv (graph and eager), tokenweave_kernels_8xh100.csv,
        quickreduce_mi300x.csv (RCCL), nccl_tests_tables.csv (8x RTX 4090 with both drivers, two p5 nodes),
        pcie_and_misc_collectives.csv (8x RTX PRO 6000 on two switches), host_staged_allreduce.csv (2x RTX 5070 Ti).
        8x L40S by NCCL is left
        out: that host is sick (published/README.md).

        In-sample: the simulator runs the schedule. The fits keep {knots} of {count} sizes as knots, so in-sample
        errors are small by construction; the left-out claims are the ones to read. There the row's fabric is fitted
        again without it. The smallest and the largest size of a series stay: a fit does not extrapolate.

        One number of ranks out: what its library takes on other numbers of ranks of the machine stands in, its links
        stay. One machine out: the figures of each fabric like it ({likes}) stand in on its links, so a row may count
        twice. No limit is asked for there; the others' are a yardstick.

        Held out: the int8 rows of nccl_collectives.csv, same hosts and bytes, calibrated nothing.

        The issue does not ask for other operations and other hosts; its limits are a yardstick there. Other hosts:
        nccl-tests tables of single nodes with H200, A100 and B200, against profiles of other people's hosts with
        these GPUs, and two InfiniBand nodes against 2x8xh100-ib, whose network was fitted to AWS p5. The
        ml-engineering hosts were timed in torch, with a floor of 40 us where nccl-tests shows 20.
        """,
        tuple(entries),
        tuple(left_out),
    )


def _of_machine(name: str) -> Iterator[tuple[int, Row]]:
    return select("nccl_tests_tables", machine=name)


def other_hosts() -> Iterator[tuple[str, Series]]:
    """nccl-tests tables of hosts that calibrated nothing, each as an example of a catalog machine."""
    for name, machine, ranks in OTHER_HOSTS:
        found = [
            (n, float(row["message_bytes"]), float(row["latency_us_out_of_place"]) * 1e-6)
            for n, row in _of_machine(name)
        ]
        found.sort(key=lambda row: row[1])
        numbers, nbytes, seconds = zip(*found, strict=True)
        carried = series.way_of(machine, "nccl", "all_reduce", ranks)
        host = Series(
            fabric=series.FABRICS[machine],
            machine=machine,
            library="nccl",
            op="all_reduce",
            collective=carried.collective,
            ranks=ranks,
            table="nccl_tests_tables",
            row_numbers=tuple(numbers),
            nbytes=np.array(nbytes),
            seconds=np.array(seconds),
            chunks=carried.chunks,
        )
        yield name, host


# --- other tables ---


def fate(row: Row) -> tuple[str | None, str]:
    """Of a row of pcie_and_misc_collectives.csv: the catalog machine it is held against, or None and why not."""
    for topology, implementation, machine in MISC_KEPT:
        if topology in row["topology"] and row["implementation"] == implementation:
            return machine, ""
    for column, part, why in MISC_LEFT_OUT:
        if part in row[column]:
            return None, why
    raise ValueError(f"a row that is neither kept nor left out for a reason: {dict(row)}")


def misc() -> Section:
    """Collectives from threads and wikis where a catalog machine is of the kind. Not asked for by the issue."""
    ops: dict[str, Op] = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter"}
    points: dict[str, list[Point]] = {}
    reasons: dict[str, int] = {}
    for number, row in enumerate(rows("pcie_and_misc_collectives")):
        machine, why = fate(row)
        if machine is None:
            reasons[why] = reasons.get(why, 0) + 1
            continue
        op, ranks, nbytes = ops[row["op"]], int(row["num_gpus"]), float(row["message_bytes"])
        baseline = Baseline("nccl", series.way_of(machine, "nccl", op, ranks).collective)
        seconds, detail, spread = simulated(machine, ranks, op, baseline, nbytes)
        interval = sum_interval(seconds, [(seconds, spread)])
        label = f"{machine} {op} x{ranks}, {size(nbytes)} (row {number + 1}: {row['software']})"
        where = f"{machine} x{ranks}", regime(nbytes), label
        point = Point(*where, float(row["latency_us"]) * 1e-6, seconds, detail, interval)
        points.setdefault(machine, []).append(point)
    entries = [
        Entry(f"misc.{machine}", f"NCCL against {machine}", "held out", tuple(found), gated=False)
        for machine, found in points.items()
    ]
    return Section(
        "misc",
        "Other published collectives",
        "",
        """
        Rows: pcie_and_misc_collectives.csv. NCCL on an ASUS ESC8000A-E13P with RTX PRO 6000 Server (Broadcom
        switches, two sockets) against 8xrtx-pro-6000-pcie, another host of the kind; on WRX90 boards with switches of
        four against 8xrtx-pro-6000-2switch, which was fitted to eight of them on one root; NCCL's all-gather and
        reduce-scatter kernels on 8x H100 against 8xh100-nvlink, whose costs for them are borrowed from H200.
        """,
        tuple(entries),
        tuple(f"{why} ({count} rows)." for why, count in reasons.items()),
    )
