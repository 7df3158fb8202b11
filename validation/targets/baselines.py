"""Schemes `nccl`, `vllm`, `sglang` and `trtllm` against the rows of whoever ran them: who carries what, and how long.

In-sample rows calibrated the fabric that they are held against; what is checked there is the switching by size. Rows of
other hosts, and of numbers of ranks that nobody fitted, are held out.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from thinwire.reference.catalog import scheme
from thinwire.sim.costs.spread import sum_interval
from thinwire.validation.fits import series
from thinwire.validation.fits.published_tables import Row, rows
from thinwire.validation.targets.fabric import (
    LARGE_LIMITS,
    NCCL_TESTS_LEFT_OUT,
    SMALL_BYTES,
    SMALL_LIMITS,
    breakdown,
    exchanger_of,
    fate,
    other_hosts,
    regime,
    size,
    spread_of,
)
from thinwire.validation.targets.targets import Entry, Point, Section

NEW_HOSTS = {  # collectives_2026.csv: machine in the table -> the catalog machine it is an example of
    "8x H100 NVSwitch": "8xh100-nvlink",
    "8x H200 NVSwitch": "8xh200-nvlink",
    "8x B200 NVSwitch": "8xb200-nvlink",
    "6x RTX 4090, peer-to-peer driver": "6xrtx4090-p2p",
}
OUTLIER = "outlier in the source"
ENGINES = {"vllm_graph": "vllm", "sglang_graph": "sglang"}  # engine_allreduce.csv: backend -> scheme
LEFT_OUT = (
    "engine_allreduce.csv, rows launched eagerly: the schemes are of all-reduces in CUDA graphs.",
    "host_staged_allreduce.csv, rows with NCCL_SHM_USE_CUDA_MEMCPY and SGLang's host-staged kernel: asked for by hand.",
    "TensorRT-LLM: nobody published its uncompressed all-reduce by size; `trtllm` has no row to be held against.",
)


@dataclass(frozen=True, slots=True)
class Carried:
    """One published all-reduce, the scheme it is a row of, and whether its fabric was fitted to it."""

    scheme: str
    machine: str
    ranks: int
    nbytes: int
    seconds: float
    host: str
    row: str
    held_out: bool


def new_hosts() -> Iterator[Carried]:
    """NCCL on the hosts of collectives_2026.csv, none of which calibrated anything."""
    table = "collectives_2026"
    for number, row in enumerate(rows(table)):
        if row["note"] != OUTLIER:
            host, where = row["machine"], f"{table} row {number + 1}"
            seconds = float(row["time_us"]) * 1e-6
            machine, ranks = NEW_HOSTS[host], int(row["gpus"])
            yield Carried("nccl", machine, ranks, int(row["message_bytes"]), seconds, f"{host} (2026)", where, True)


def older_hosts() -> Iterator[Carried]:
    """NCCL on the other hosts of nccl_tests_tables.csv and pcie_and_misc_collectives.csv that a catalog machine is an
    example of.
    """
    for host, s in other_hosts():
        for number, nbytes, seconds in zip(s.row_numbers, s.nbytes, s.seconds, strict=True):
            where = f"{s.table} row {number + 1}"
            yield Carried("nccl", s.machine, s.ranks, int(nbytes), float(seconds), host, where, True)
    table = "pcie_and_misc_collectives"
    for number, row in enumerate(rows(table)):
        machine, _ = fate(row)
        if machine is not None and row["op"] == "all_reduce":
            yield _misc(row, number, machine, row["topology"])


def _misc(row: Row, number: int, machine: str, host: str) -> Carried:
    nbytes, seconds = int(row["message_bytes"]), float(row["latency_us"]) * 1e-6
    where = f"pcie_and_misc_collectives row {number + 1}"
    return Carried("nccl", machine, int(row["num_gpus"]), nbytes, seconds, host, where, True)


def fitted() -> Iterator[Carried]:
    """Rows that calibrated NCCL's part of a fabric, and engines' own in CUDA graphs, each under the scheme it is of."""
    for s in series.calibration():
        if s.library == "nccl" and s.op == "all_reduce" and s.machine != "8xmi300x-xgmi":
            for number, nbytes, seconds in zip(s.row_numbers, s.nbytes, s.seconds, strict=True):
                where = f"{s.table} row {number + 1}"
                yield Carried("nccl", s.machine, s.ranks, int(nbytes), float(seconds), s.machine, where, False)
    table = "engine_allreduce"
    for number, row in enumerate(rows(table)):
        if row["backend"] in ENGINES:
            machine = series.ENGINE_MACHINES[row["system"]]
            ranks, nbytes = int(row["num_gpus"]), int(row["message_bytes"])
            seconds, where = float(row["latency_us"]) * 1e-6, f"{table} row {number + 1}"
            yield Carried(ENGINES[row["backend"]], machine, ranks, nbytes, seconds, machine, where, False)


def point(found: Carried) -> Point:
    """A row and its prediction, by the scheme's own choice; with an interval where the row is held out."""
    exchanger = exchanger_of(found.machine, found.ranks)
    timed = exchanger.time("all_reduce", max(1, -(-found.nbytes // 2)), scheme(found.scheme))
    seconds = exchanger.alone(timed).seconds
    spread = spread_of(timed, exchanger.cost.fabric.spreads)
    return Point(
        found.host,
        regime(found.nbytes),
        f"{found.host} {found.scheme} x{found.ranks}, {size(found.nbytes)} ({found.row})",
        found.seconds,
        seconds,
        breakdown(timed, seconds),
        sum_interval(seconds, [(seconds, spread)]) if found.held_out else None,
    )


def entries(key: str, what: str, how: str, some: Iterable[Carried]) -> Iterator[Entry]:
    """Large and small messages of some rows, held to the limits of all-reduce."""
    kept = list(some)
    for end, name, chosen, limits in (
        ("large", "above 64 KiB", [c for c in kept if c.nbytes > SMALL_BYTES], LARGE_LIMITS),
        ("small", "up to 64 KiB", [c for c in kept if c.nbytes <= SMALL_BYTES], SMALL_LIMITS),
    ):
        if chosen:
            yield Entry(f"baselines.{key}.{end}", f"{what}, {name}", how, tuple(map(point, chosen)), limits, True)


def baselines() -> Section:
    """Every published row of NCCL and of engines, under the scheme that is named after who ran it."""
    known = list(fitted())
    found = [
        *entries("nccl.2026", "nccl, hosts of 2026", "held out", new_hosts()),
        *entries("nccl.hosts", "nccl, older hosts", "held out", older_hosts()),
        *entries("nccl.fitted", "nccl", "in-sample", (c for c in known if c.scheme == "nccl")),
        *entries("vllm", "vllm", "in-sample", (c for c in known if c.scheme == "vllm")),
        *entries("sglang", "sglang, 8x L40S", "in-sample", (c for c in known if c.scheme == "sglang")),
    ]
    nccl_tests = (f"{name}: {why}." for name, why in NCCL_TESTS_LEFT_OUT.items())
    return Section(
        "baselines",
        "Engines' baselines",
        "all-reduce by schemes nccl, vllm, sglang: above 64 KiB <= 8 % median, <= 20 % 90th percentile; else <= 15 %",
        """
        Rows: whoever ran them, under the scheme named after it. nccl: collectives_2026.csv (8x H100 by torch, 6 of 8
        H200, 4 to 7 of 8 B200, a tinybox of six 4090s), nccl_tests_tables.csv, pcie_and_misc_collectives.csv;
        in-sample also nccl_collectives.csv, tokenweave's torch column and the two 5070 Ti of sglang#39605. vllm and
        sglang: engine_allreduce.csv in CUDA graphs.

        In-sample: these rows calibrated the fabrics, so what is checked is that the published switching by size finds
        the right carrier. vllm's NCCL is timed by nccl-tests' rows, not by vLLM's.

        The limits are those of the all-reduce target. The tinybox decided that NCCL's ring has one channel a hop on
        4090s with the peer-to-peer driver (validation/fits/series.py), so it is held out but for that.
        """,
        tuple(found),
        (*LEFT_OUT, *nccl_tests),
    )
