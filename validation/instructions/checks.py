"""What the priced kernels are held against, and how far off that leaves them on GPUs that nobody has timed.

On the H200: kernels of codecs left out of the fit, and, never fitted, whole two-step all-reduces of virtual ranks, a
decode fused with a norm, and torch's own additions, copies and look-ups. On an A100, an H100 and an A40: additions,
which say whether memory's share carries over. That arithmetic's share does, no published kernel says; what is known is
that clocks fall under a prefill's power, on the H200 from the 1,830 MHz of its peak to 1,440.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import hypot, log

import numpy as np
from numpy.typing import NDArray

from thinwire.reference.catalog import scheme
from thinwire.sim.costs.spread import Spread
from thinwire.topologies.load import load_gpu
from thinwire.validation.fits.elementwise import read_vidur
from thinwire.validation.fits.raw_file import Raw
from thinwire.validation.fits.spreads import spread
from thinwire.validation.instructions.campaign import NAME, PATH, Campaign, campaign
from thinwire.validation.instructions.price import price
from thinwire.validation.instructions.table import NORM

Floats = NDArray[np.float64]
PLAIN_WAITS = 2  # of a kernel that loads, computes and stores: its arguments' and its values'
ONE_KERNEL = ("residual_add", "copy", "embedding")  # torch's own, one kernel each
SIZED_S = 20e-6  # published times are rounded to half a microsecond: shorter ones say nothing


@dataclass(frozen=True, slots=True)
class Check:
    """One kernel, or several in a row, that no fit has seen."""

    group: str
    label: str
    size: float  # bytes moved
    measured_s: float
    predicted_s: float


def plain_s(moved_bytes: float, copy_bytes_per_s: float) -> float:
    """A kernel that memory alone bounds."""
    constants = campaign().constants
    return constants.launch_s + PLAIN_WAITS * constants.wait_s + moved_bytes / (copy_bytes_per_s * constants.copy)


def whole_reduces() -> list[Check]:
    """Two-step all-reduces of virtual ranks, one after the other on the H200: encode, sum and encode, decode."""
    found, here = [], campaign()
    for _, row in Raw.read(PATH).rows("codec", "kernel", "codec", "numel", "ranks", "bytes_read", "seconds_graph"):
        if row["kernel"] != "all_reduce":
            continue
        chosen, ranks, values = scheme(row["codec"]), int(row["ranks"]), float(row["numel"])
        if chosen.collective != "two_step" or chosen.reduce.spec not in here.counts:
            continue
        first = price(chosen.reduce.spec, here.counts[chosen.reduce.spec], here.machine, here.constants)
        second = price(chosen.gather.spec, here.counts[chosen.gather.spec], here.machine, here.constants)
        # Every kernel is launched once for all ranks.
        lines = ((first.encode, 1, values), (first.copy, ranks, values / ranks), (second.again, 1, values / ranks))
        total = sum(
            times * (line.call_s + ranks * line.value_s * of_a_rank)
            for line, times, of_a_rank in (*lines, (second.decode, 1, values))
        )
        moved = 2.0 * row["bytes_read"]
        found.append(Check("H200, two-step, 8 virtual ranks", row["codec"], moved, row["seconds_graph"], total))
    return found


def norms() -> list[Check]:
    """A decode with the residual's addition and the norm, in one kernel on the H200."""
    found, here = [], campaign()
    names = ("kernel", "codec", "numel", "bytes_read", "bytes_written", "seconds_graph")
    for _, row in Raw.read(PATH).rows("codec", *names):
        if row["kernel"] == "decode_norm":
            kernel, values = here.counts[row["codec"]][NORM], float(row["numel"])
            moved = float(row["bytes_read"] + row["bytes_written"])
            seconds = here.constants.launch_s + kernel.rounds * here.constants.wait_s
            seconds += values * here.machine.value_s(kernel, moved / values, here.constants)
            found.append(Check("H200, decode and norm", row["codec"], moved, row["seconds_graph"], seconds))
    return found


def plain() -> list[Check]:
    """Torch's own kernels on the H200, from their bytes alone."""
    found = []
    rate = campaign().machine.copy_bytes_per_s
    for _, row in Raw.read(PATH).rows("elementwise", "op", "how", "bytes", "tokens", "seconds_graph"):
        if row["how"] == "eager" and row["op"] in ONE_KERNEL and row["tokens"] > 1:
            moved, label = float(row["bytes"]), f"{row['op']}, {row['tokens']} tokens"
            found.append(Check("H200, element-wise", label, moved, row["seconds_graph"], plain_s(moved, rate)))
    return found


def additions() -> list[Check]:
    """Residual additions on other GPUs (vidur), of their bytes at the H200's share of the memory's bandwidth."""
    found, machine = [], campaign().machine
    share = machine.copy_bytes_per_s / load_gpu(machine.name).memory_bandwidth_bytes_per_s
    for (gpu, op), sample in sorted(read_vidur().items()):
        if op == "residual_add":
            rate = load_gpu(gpu).memory_bandwidth_bytes_per_s * share
            found += [
                Check(f"{gpu}, additions", f"{moved / 1e6:.0f} MB", moved, seconds, plain_s(moved, rate))
                for moved, seconds in zip(sample.moved_bytes.tolist(), sample.time_s.tolist(), strict=True)
                if seconds >= SIZED_S
            ]
    return found


def own_spread(here: Campaign) -> Spread:
    """On the GPU that was measured: kernels of codecs that the fit did not see."""
    logs = -np.log1p(here.without("codec"))
    return spread("codec", logs, f"measured: {here.name}, {len(logs)} rows, each priced without its codec")


def clock_log() -> float:
    """How far clocks fall in a run of products: log of the clock the peak says over the median reading's."""
    readings = [
        float(reading["sm_mhz"]) * 1e6
        for _, row in Raw.read(PATH).rows("sustained-bf16")
        for reading in row.get("readings", ())
    ]
    return max(0.0, log(campaign().machine.clock_hz / float(np.median(readings))))


@cache
def other_spread(without: str = "") -> Spread:
    """On other GPUs: the same, and independently of it what memory's share was off by there (but for additions on the
    GPU `without`), and clocks that fall.
    """
    own = own_spread(campaign())
    off = [-log(c.predicted_s / c.measured_s) for c in additions() if not without or not c.group.startswith(without)]
    carried = spread("codec", off, "assumed: additions on other GPUs")
    source = (
        f"assumed: as on the H200 each priced without its codec ({NAME}); with what additions on A100, H100 and A40 "
        "are off by, and clocks that fall under a prefill's power"
    )
    low, high = -hypot(own.low, carried.low), hypot(own.high, carried.high, clock_log())
    return Spread("codec", None, round(low, 4), 0.0, round(high, 4), own.rows, source)
