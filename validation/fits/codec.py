"""Fits the cost of codec kernels: to whole compressed all-reduces, or to kernels of our own timed one by one.

The only published timings are QuickReduce's on MI300X.

Its uncompressed two-shot calibrates the fabric, reading the tensor and writing the result included; what INT8, INT6 and
INT4 take beyond the simulated wire is what encoding adds:

    T - wire = passes * pass + encoded bytes read and written / rate

Both are fitted by least squares of the relative error.

`make gpu` times kernels alone (`fit_kernels`): a pass, plus bytes of the tensor and encoded bytes, each over a rate.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from thinwire.reference.catalog import scheme
from thinwire.reference.core.schedule import build
from thinwire.sim.costs.cost import codec_traffic
from thinwire.sim.costs.profile import FabricProfile
from thinwire.sim.events.collective import run_alone, time_schedule
from thinwire.sim.events.network import Routes
from thinwire.topologies.load import load_cluster
from thinwire.validation.fits.published_tables import select

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


# --- kernels one by one ---

TENSOR_SIDE: Mapping[str, tuple[bool, bool]] = {
    # kernel: (reads the tensor itself, writes the tensor itself); the other bytes are encoded ones
    "encode": (True, False),
    "decode": (False, True),
    "reduce": (False, True),
    "reduce_encode": (False, False),
}
ROBUST_SCALE = 0.1  # residuals beyond 10 % count linearly


@dataclass(frozen=True, slots=True)
class KernelRow:
    """One kernel on one rank: bytes of the tensor and encoded bytes that it moves, as sim/costs/cost.py counts them."""

    number: int
    kernel: str
    codec: str
    local_bytes: float
    wire_bytes: float
    seconds: float

    @classmethod
    def of(cls, number: int, kernel: str, codec: str, read: float, written: float, seconds: float) -> "KernelRow":
        """From bytes read and written, told apart by the kernel (`TENSOR_SIDE`)."""
        reads, writes = TENSOR_SIDE[kernel]
        local = read * reads + written * writes
        return cls(number, kernel, codec, local, read + written - local, seconds)


@dataclass(frozen=True, slots=True)
class KernelFit:
    """Seconds a pass, and bytes/s of the tensor and of encoded buffers."""

    pass_s: float
    local_rate: float
    wire_rate: float

    def seconds(self, found: Sequence[KernelRow]) -> Floats:
        """Predicted time of each row."""
        return np.array(
            [self.pass_s + r.local_bytes / self.local_rate + r.wire_bytes / self.wire_rate for r in found], dtype=float
        )


def fit_kernels(found: Sequence[KernelRow], bandwidth_bytes_per_s: float) -> KernelFit:
    """Robust least squares of the logarithm of the time; no rate exceeds the memory bandwidth."""
    logs = np.log([r.seconds for r in found])
    local, wire = np.array([r.local_bytes for r in found]), np.array([r.wire_bytes for r in found])

    def residual(values: Floats) -> Floats:
        pass_s, local_share, wire_share = np.exp(values)
        time_s = pass_s + (local / local_share + wire / wire_share) / bandwidth_bytes_per_s
        return np.asarray(np.log(time_s) - logs)

    best = least_squares(
        residual,
        np.log([3e-6, 0.7, 0.7]),
        bounds=(np.log([1e-7, 0.01, 0.01]), np.log([1e-4, 1.0, 1.0])),
        loss="soft_l1",
        f_scale=ROBUST_SCALE,
    )
    pass_s, local_share, wire_share = (float(value) for value in np.exp(best.x))
    return KernelFit(pass_s, local_share * bandwidth_bytes_per_s, wire_share * bandwidth_bytes_per_s)
