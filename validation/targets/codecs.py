"""Codec kernels priced from their compiled instructions, against those timed on an H200 and what is published."""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from thinwire.reference.catalog import scheme
from thinwire.sim.costs.cost import CODEC_SPREADS
from thinwire.sim.costs.spread import Spread, find, sum_interval
from thinwire.validation.fits.published_tables import select
from thinwire.validation.instructions import checks
from thinwire.validation.instructions.campaign import NAME, campaign
from thinwire.validation.instructions.table import newest
from thinwire.validation.targets.fabric import breakdown, exchanger_of, regime, size, spread_of
from thinwire.validation.targets.targets import Entry, Limits, Point, Section

PRICED_LIMITS = Limits(median=0.10)  # of ours: the issue names no figure
FUSED_TABLE, FUSED_MACHINE, FUSED_SCHEME = "compressed_allreduce_2026", "8xb200-nvlink", "quickreduce-fp8"
FUSED_BYTES = (2**20, 2**30)  # smaller ones are barriers; the largest is beyond a rank's message of any prefill

Floats = NDArray[np.float64]


def _timed(errors: Floats, spread: Spread | None = None) -> tuple[Point, ...]:
    """Rows of the campaign with predictions off by so much."""
    found = []
    for row, error in zip(campaign().rows, errors.tolist(), strict=True):
        values = row.values * row.copies
        label = f"{row.codec}, {row.copies} x {row.values / 2**20:.4g} Mi values"
        predicted = row.seconds * (1 + error)
        interval = None if spread is None else sum_interval(predicted, [(predicted, spread)])
        found.append(Point(row.kernel, regime(2 * values), label, row.seconds, predicted, "", interval))
    return tuple(found)


def _points(found: Iterable[checks.Check], known: Callable[[checks.Check], Spread]) -> tuple[Point, ...]:
    return tuple(
        Point(
            c.group, regime(c.size), c.label, c.measured_s, c.predicted_s, "",
            sum_interval(c.predicted_s, [(c.predicted_s, known(c))]),
        )
        for c in found
    )  # fmt: skip


def _fused() -> tuple[Point, ...]:
    """TensorRT-LLM's FP8 two-shot on B200, whole: the wire and codec kernels inside the collective's."""
    exchanger = exchanger_of(FUSED_MACHINE, 8)
    gpu, fabric = exchanger.cost.profile.gpu.spreads, exchanger.cost.fabric.spreads
    found = []
    for _, row in select(FUSED_TABLE, gpu="B200", implementation="TRT-LLM low-precision two-shot"):
        nbytes = int(row["message_bytes"])
        if FUSED_BYTES[0] <= nbytes <= FUSED_BYTES[1]:
            timed = exchanger.time("all_reduce", nbytes // 2, scheme(FUSED_SCHEME))
            alone = exchanger.alone(timed)
            seconds, codec_s = alone.seconds, float(alone.codec_s_R.max())
            parts = [(seconds - codec_s, spread_of(timed, fabric)), (codec_s, find(gpu, 0.0, *CODEC_SPREADS[True]))]
            measured, interval = float(row["latency_us"]) * 1e-6, sum_interval(seconds, parts)
            where = "8x B200, TRT-LLM FP8", regime(nbytes), size(nbytes)
            found.append(Point(*where, measured, seconds, breakdown(timed, seconds), interval))
    return tuple(found)


def codec_kernels() -> Section:
    """Prices with a codec, or a kind of kernel, left out; then what no fit has seen."""
    here = campaign()
    own = checks.own_spread(here)

    def here_s(_check: checks.Check) -> Spread:
        return own

    def elsewhere(check: checks.Check) -> Spread:
        return checks.other_spread(without=check.group.partition(",")[0])

    newer = f"kernels, code of Triton {newest()}"
    entries = [
        Entry("codec.in-sample", "kernels", "in-sample", _timed(here.in_sample()), PRICED_LIMITS, False),
        Entry("codec.triton", newer, "in-sample", _timed(here.of_triton(newest())), PRICED_LIMITS, False),
        Entry("codec.codec", "kernels", "one codec out", _timed(here.without("codec"), own), PRICED_LIMITS, False),
        Entry(
            "codec.kind", "kernels", "one kind of kernel out", _timed(here.without("kernel"), own), PRICED_LIMITS, False
        ),
        Entry("codec.two-step", "two-step, virtual ranks", "held out", _points(checks.whole_reduces(), here_s)),
        Entry("codec.norm", "decode and norm", "held out", _points(checks.norms(), here_s)),
        Entry("codec.plain", "element-wise kernels", "held out", _points(checks.plain(), here_s)),
        Entry("codec.additions", "additions, other GPUs", "held out", _points(checks.additions(), elsewhere)),
        Entry("codec.fused", "fused, whole all-reduce", "held out", _fused()),
    ]
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
