"""Fits the cost of codec kernels to the only published timings of a compressed all-reduce: QuickReduce on MI300X.

Its uncompressed two-shot calibrates the fabric, reading the tensor and writing the result included; what INT8, INT6 and
INT4 take beyond the simulated wire is what encoding adds:

    T - wire = passes * pass + encoded bytes read and written / rate

Both are fitted by least squares of the relative error.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from thinwire.reference.catalog import scheme
from thinwire.reference.schedule import build
from thinwire.sim.collective import run_alone, time_schedule
from thinwire.sim.cost import codec_traffic
from thinwire.sim.network import Routes
from thinwire.sim.profile import FabricProfile
from thinwire.topologies.load import load_cluster
from thinwire.validation.published_tables import select

Floats = NDArray[np.float64]

TABLE = "quickreduce_mi300x"
MACHINE = "8xmi300x-xgmi"
SCHEMES = {
    "int8 block32": "quickreduce-int8",
    "int6 block32": "quickreduce-int6",
    "int4 block32": "quickreduce-int4",
    "fp8 block32": "quickreduce-fp8",
}
FITTED = ("int8 block32", "int6 block32", "int4 block32")
SMALLEST_BYTES = 2**20  # below, the published times are launch and synchronisation
PASSES_S = np.arange(1.0, 8.01, 0.1) * 1e-6
WIRE_RATES = np.arange(300, 3001, 25) * 1e9


@dataclass(frozen=True, slots=True)
class Row:
    """One compressed all-reduce: measured and simulated without codec, seconds; what its codec kernels move."""

    number: int
    ranks: int
    wire_format: str
    nbytes: int
    seconds: float
    uncompressed_s: float  # RCCL on the same bytes, measured
    wire_s: float
    passes: int
    wire_bytes: float


def rows(fabric: FabricProfile, formats: Iterable[str] = FITTED) -> list[Row]:
    """The published rows from 1 MiB up, each with its schedule run on the fabric."""
    found = []
    for ranks in (4, 8):
        cluster = load_cluster(MACHINE).take(ranks)
        routes = Routes(cluster)
        rccl = {
            r["message_bytes"]: float(r["latency_us"]) * 1e-6
            for _, r in select(TABLE, num_gpus=ranks, implementation="RCCL")
        }
        for wire_format in formats:
            for number, row in select(
                TABLE, num_gpus=ranks, implementation="QuickReduce two-shot", wire_format=wire_format
            ):
                nbytes = int(row["message_bytes"])
                if nbytes < SMALLEST_BYTES:
                    continue
                schedule = build(scheme(SCHEMES[wire_format]), ranks, nbytes // 2, cluster.islands)
                timed = time_schedule(schedule, "fused", "all_reduce", fabric, lambda _work, n: np.zeros(n), routes)
                moved = [codec_traffic(step.work, ranks) for step in schedule.lanes[0].steps]
                found.append(
                    Row(
                        number, ranks, wire_format, nbytes, float(row["latency_us"]) * 1e-6, rccl[row["message_bytes"]],
                        run_alone(timed, routes).seconds,
                        int(sum(m.passes_R.max() for m in moved)),
                        float(sum(m.wire_bytes_R.max() for m in moved)),
                    )
                )  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class CodecFit:
    """Seconds a pass, and bytes/s of encoded buffers."""

    pass_s: float
    wire_rate: float

    def seconds(self, found: Sequence[Row]) -> Floats:
        """Predicted time of each row."""
        return np.array([r.wire_s + r.passes * self.pass_s + r.wire_bytes / self.wire_rate for r in found])


def fit(found: Sequence[Row]) -> CodecFit:
    """The best of a grid: the minimum is flat, and a grid gives the same answer everywhere."""
    measured = np.array([r.seconds for r in found])
    candidates = [CodecFit(float(p), float(w)) for p in PASSES_S for w in WIRE_RATES]
    return min(candidates, key=lambda c: float(np.square(c.seconds(found) / measured - 1).mean()))
