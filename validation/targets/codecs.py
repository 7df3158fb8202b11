"""Codec kernels priced from their compiled instructions, against those timed on an H200 and what is published."""

from collections.abc import Sequence
from math import exp

import numpy as np
from numpy.typing import NDArray

from thinwire.reference.catalog import scheme
from thinwire.sim.costs.spread import Spread
from thinwire.validation.fits.published_tables import select
from thinwire.validation.instructions import checks
from thinwire.validation.instructions.campaign import NAME, campaign
from thinwire.validation.instructions.table import newest
from thinwire.validation.targets.fabric import regime, simulated_scheme, size
from thinwire.validation.targets.targets import Entry, Limits, Point, Section

PRICED_LIMITS = Limits(median=0.10)  # of ours: the issue names no figure
FUSED_TABLE, FUSED_MACHINE, FUSED_SCHEME = "compressed_allreduce_2026", "8xb200-nvlink", "quickreduce-fp8"
FUSED_BYTES = (2**20, 2**30)  # smaller ones are barriers; the largest is beyond a rank's message of any prefill

Floats = NDArray[np.float64]


def _timed(errors: Floats, spread: Spread | None = None) -> tuple[Point, ...]:
    """Rows of the campaign with predictions off by so much."""
    found = []
    for row, error in zip(campaign().rows, errors.tolist(), strict=True):
        predicted = row.seconds * (1 + error)
        interval = None if spread is None else (predicted * exp(spread.low), predicted * exp(spread.high))
        values = row.values * row.copies
        label = f"{row.codec}, {row.copies} x {row.values / 2**20:.4g} Mi values"
        found.append(Point(row.kernel, regime(2 * values), label, row.seconds, predicted, "", interval))
    return tuple(found)


def _points(found: Sequence[checks.Check]) -> tuple[Point, ...]:
    return tuple(Point(c.group, regime(c.size), c.label, c.measured_s, c.predicted_s) for c in found)


def _fused() -> tuple[Point, ...]:
    """TensorRT-LLM's FP8 two-shot on B200, whole: the wire and codec kernels inside the collective's."""
    rows = select(FUSED_TABLE, gpu="B200", implementation="TRT-LLM low-precision two-shot")
    found = []
    for _, row in rows:
        nbytes = int(row["message_bytes"])
        if FUSED_BYTES[0] <= nbytes <= FUSED_BYTES[1]:
            seconds, detail = simulated_scheme(FUSED_MACHINE, 8, scheme(FUSED_SCHEME), nbytes)
            measured = float(row["latency_us"]) * 1e-6
            found.append(Point("8x B200, TRT-LLM FP8", regime(nbytes), size(nbytes), measured, seconds, detail))
    return tuple(found)


def codec_kernels() -> Section:
    """Prices with a codec, or a kind of kernel, left out; then what no fit has seen."""
    here = campaign()
    others = here.without("codec")
    entries = [
        Entry("codec.in-sample", "kernels", "in-sample", _timed(here.in_sample()), PRICED_LIMITS, False),
        Entry(
            "codec.codec", "kernels", "one codec out", _timed(others, checks.own_spread(here)), PRICED_LIMITS, False
        ),
        Entry("codec.kind", "kernels", "one kind of kernel out", _timed(here.without("kernel")), PRICED_LIMITS, False),
        Entry(
            "codec.triton", "kernels", f"code of Triton {newest()}", _timed(here.of_triton(newest())), PRICED_LIMITS,
            False,
        ),
        Entry("codec.two-step", "two-step, virtual ranks", "held out", _points(checks.whole_reduces()), gated=False),
        Entry("codec.norm", "decode and norm", "held out", _points(checks.norms()), gated=False),
        Entry("codec.plain", "element-wise kernels", "held out", _points(checks.plain()), gated=False),
        Entry("codec.additions", "additions, other GPUs", "held out", _points(checks.additions()), gated=False),
        Entry("codec.fused", "fused, whole all-reduce", "held out", _fused(), gated=False),
    ]  # fmt: skip
    k = here.constants
    return Section(
        "codec",
        "Codec kernels from instructions",
        "",
        f"""
        Rows: {NAME}. A kernel costs a launch, its waits for memory one after the other, and for each value the largest
        of bytes, instructions issued, instructions of each pipe, and waits over the programs resident
        (docs/decisions/029-codec-cost.md). Five constants are fitted: {k.launch_s * 1e6:.2f} us a launch,
        {k.wait_s * 1e6:.2f} us a wait, {k.copy:.0%} of the copy's bandwidth, {k.issue:.0%} of the instructions that
        can be issued, {k.pipe:.0%} of what a pipe can execute. Counts are of the code that Triton {here.triton} made,
        which was timed. Left out: fitted again without the row's codec, or its kind of kernel.

        Held out: two-step all-reduces of eight virtual ranks, and a decode fused with a norm, on the H200; element-wise
        kernels of torch from their bytes alone; additions on A100, A40 and H100 (dense_ops_by_tp.csv) at the H200's
        share of the memory's bandwidth; and TensorRT-LLM's FP8 all-reduce on B200 ({FUSED_TABLE}.csv), whose codec
        kernels are fused: they cost their bytes, as the simulator has it for quickreduce-fp8, the nearest format.
        """,
        tuple(entries),
    )
