"""The interval of a prediction: what its parts are off by, carried along the critical path.

The seconds of the critical path are shared out over parts: kernels by name, gaps, codec kernels, exchanges by carrier
and size. A part errs alike in every layer, for it is the same kernel on the same shape; different parts err
independently, as the rows of the tables do (docs/decisions/014-intervals.md). What whole prefills are off by spreads
all of the compute once more; products held to the sustained rate are off by that alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from thinwire.sim.costs.cost import CODEC_SPREADS, CostModel
from thinwire.sim.costs.elementwise import elementwise_bytes
from thinwire.sim.costs.spread import Spread, find, sum_interval
from thinwire.sim.events.timeline import Timeline
from thinwire.sim.workload import AttendChunks, DecodeAttend, Elementwise, Gemm, Kernel, Workload

Kernels = Mapping[tuple[int, str], Kernel]


@dataclass(frozen=True, slots=True)
class Term:
    """Seconds on the critical path that err together; None: they are off by the whole prefill's spread alone."""

    what: str
    seconds: float
    spread: Spread | None


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the time lies with a probability of `spread.CONFIDENCE`, and what it was made from."""

    low_s: float
    high_s: float
    terms: tuple[Term, ...]
    prefill: Spread  # over all of the compute
    compute_s: float


def kernels_of(workload: Workload) -> Kernels:
    """A workload's kernels by part of the sequence and name; a name stands for one shape but for a window's."""
    groups = {id(group): group for group in (workload.before, *workload.layers, workload.after)}
    return {(op.part, kernel.name): kernel for group in groups.values() for op in group for kernel in op.kernels}


def kernel_spread(kernel: Kernel, cost: CostModel) -> Spread | None:
    """What a kernel alone is off by; None for a product at the sustained rate, which `prefill` holds."""
    spreads = cost.profile.gpu.spreads
    match kernel:
        case Gemm(m=m, precision=precision):
            return None if cost.is_sustained(kernel) else find(spreads, m, f"gemm {precision}")
        case Elementwise(op=op, tokens=tokens, width=width):
            return find(spreads, elementwise_bytes(op, tokens, width), "elementwise")
        case AttendChunks(chunks=chunks):
            return find(spreads, max(context for _, context in chunks), "attention")
        case DecodeAttend(sequences=sequences, context_tokens=context):
            return find(spreads, context // sequences, "decode attention", "attention")
        case _:
            return find(spreads, kernel.key_tokens, "attention")


def interval_of(timeline: Timeline, kernels: Kernels, cost: CostModel, fused: bool = False) -> Interval:
    """The 90 % interval of a simulated prefill. fused: its codec kernels run inside those of collectives."""
    gpu, weights = cost.profile.gpu, timeline.weight()
    path = timeline.simulated_path()
    scale = timeline.ttft_s / sum(weights[span.layer] * span.seconds for span in path)
    seconds: dict[str, float] = {}
    spread: dict[str, Spread | None] = {}
    compute_s, codec_name, gap_name = 0.0, "codec kernels", "gaps between kernels"

    def add(what: str, known: Spread | None, more_s: float) -> None:
        spread.setdefault(what, known)
        seconds[what] = seconds.get(what, 0.0) + more_s

    shares: dict[tuple[int, str], tuple[Spread | None, float]] = {}  # of a kernel: its spread, the share of its gap
    for where, kernel in kernels.items():
        shares[where] = kernel_spread(kernel, cost), cost.gap_s.value / max(cost.kernel_s(kernel), 1e-30)
    for span in path:
        whole_s = scale * weights[span.layer] * span.seconds
        if span.carried is not None:
            codec_s = min(scale * weights[span.layer] * span.codec_s, whole_s)
            add(codec_name, find(gpu.spreads, 0.0, *CODEC_SPREADS[fused]), codec_s)
            carrier, nbytes = span.carried
            found = find(cost.fabric.spreads, nbytes, carrier, "stand-in")
            reach = "any size" if found.up_to is None else f"up to {found.up_to / 2**10:,.0f} KiB"
            add(f"exchanges by {carrier}, {reach}", found, whole_s - codec_s)
            continue
        compute_s += whole_s
        for name, kernel_s in span.kernels:
            known, gap_share = shares[span.part, name]
            kernel_s *= scale * weights[span.layer]
            add(gap_name, find(gpu.spreads, 0.0, "gap"), kernel_s * gap_share)
            add(name, known, kernel_s * (1 - gap_share))
    terms = tuple(Term(what, s, spread[what]) for what, s in seconds.items() if s > 0)
    prefill = find(gpu.spreads, 0.0, "prefill")
    counted = [(term.seconds, term.spread) for term in terms if term.spread is not None]
    low_s, high_s = sum_interval(timeline.ttft_s, [*counted, (compute_s, prefill)])
    return Interval(low_s, high_s, terms, prefill, compute_s)
