"""The interval of a prediction: what its parts are off by, carried along the critical path.

The seconds of the critical path are shared out over parts: kernels by name, gaps, codec kernels, exchanges by carrier
and size. A part errs alike in every layer, for it is the same kernel on the same shape; different parts err
independently, as the rows of the tables do (docs/decisions/014-intervals.md). What whole prefills are off by spreads
all of the compute once more; products held to the sustained rate are off by that alone. Where a profile is of another
host than the user's, what hosts of the kind differ by spreads exchanges and compute once more, too
(docs/decisions/028-hosts.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp

from thinwire.sim.costs.cost import CODEC_SPREADS, CostModel
from thinwire.sim.costs.elementwise import elementwise_bytes
from thinwire.sim.costs.spread import UNKNOWN, Spread, another_host, find, sum_interval
from thinwire.sim.events.timeline import Carried, Timeline
from thinwire.sim.shapes import (
    Attend,
    AttendChunks,
    DecodeAttend,
    Elementwise,
    Gemm,
    Kernel,
    LatentDecode,
    Recurrent,
    RoutedExperts,
)
from thinwire.sim.workload import Workload

Kernels = Mapping[tuple[int, str], Kernel]
COMPUTE_ELSEWHERE = "compute on another host"
ALL_COMPUTE, CODECS, GAPS = "all compute", "codec kernels", "gaps between kernels"
EXCHANGES, EXCHANGES_ELSEWHERE = "exchanges by", "exchanges on another host"  # how their names begin


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
    others: tuple[Term, ...] = ()  # seconds of `terms`, spread once more: hosts of the kind differ by that
    own_low_s: float = 0.0  # without `others`: on the very host that was measured
    own_high_s: float = 0.0

    @property
    def another_host_share(self) -> float:
        """What hosts of the kind differ by, as a share of the interval: what `shares` has of `others`, together."""
        shares = self.shares
        return sum(shares.get(what, 0.0) for what in {term.what for term in self.others})

    @property
    def shares(self) -> dict[str, float]:
        """What each part makes of the width: its squared half-width over the sum of all, since parts err independently.
        By the names of `terms` and `others`; what whole prefills are off by is `ALL_COMPUTE`.
        """
        parts = [(term.what, term.seconds, term.spread) for term in (*self.terms, *self.others)]
        squares: dict[str, float] = {}
        for what, seconds, spread in (*parts, (ALL_COMPUTE, self.compute_s, self.prefill)):
            half_s = 0.0 if spread is None else seconds * (exp(spread.high) - exp(spread.low)) / 2
            squares[what] = squares.get(what, 0.0) + half_s**2
        total = sum(squares.values())
        return {what: square / total for what, square in squares.items()} if total else {}

    @property
    def measurable(self) -> frozenset[str]:
        """What a user would measure to take that part away: `exchanges`, `kernels`."""
        return frozenset("kernels" if term.what == COMPUTE_ELSEWHERE else "exchanges" for term in self.others)


def kernels_of(workload: Workload) -> Kernels:
    """A workload's kernels by part of the sequence and name; a name stands for one shape but for a window's."""
    groups = {id(group): group for group in (workload.before, *workload.layers, workload.after)}
    return {(op.part, kernel.name): kernel for group in groups.values() for op in group for kernel in op.kernels}


def kernel_spread(kernel: Kernel, cost: CostModel) -> Spread | None:
    """What a kernel alone is off by; None for a product at the sustained rate, which `prefill` holds."""
    spreads, heads, cache = cost.profile.gpu.spreads, cost.profile.gpu.heads, cost.cache
    match kernel:
        case Gemm(m=m, precision=precision):
            return None if cost.is_sustained(kernel) else find(spreads, m, f"gemm {precision}")
        case Elementwise(op=op, tokens=tokens, width=width):
            return find(spreads, elementwise_bytes(op, tokens, width), "elementwise")
        case Attend(key_tokens=keys, value_dim=int()):
            return find(cost.mixture.spreads, keys, "latent prefill")
        case AttendChunks(chunks=chunks, value_dim=int()):
            return find(cost.mixture.spreads, max(context for _, context in chunks), "latent prefill")
        case AttendChunks(chunks=chunks, head_dim=dim, window=window):
            longest = max(context for _, context in chunks)
            return find(spreads, longest, *heads.parts("attention", dim, window, cache))
        case DecodeAttend(sequences=sequences, context_tokens=context, head_dim=dim, window=window):
            parts = heads.parts("decode attention", dim, window, cache)
            return find(spreads, context // sequences, *parts, "attention")
        case Attend(key_tokens=keys, head_dim=dim, window=window):
            return find(spreads, keys, *heads.parts("attention", dim, window, cache))
        case RoutedExperts(rows=rows, hit=hit, precision=precision):
            bits = "8 bits" if precision.startswith(("fp8", "int8")) else "4 bits"
            return find(cost.mixture.spreads, rows / max(hit, 1), f"experts {precision}", f"experts {bits}")
        case LatentDecode(sequences=sequences, context_tokens=context):
            return find(cost.mixture.spreads, context // sequences, "latent decode")
        case Recurrent(kind=kind, tokens=tokens, sequences=sequences):
            return find(cost.mixture.spreads, tokens // sequences, f"recurrent {kind}", "recurrent")
        case _:
            return find(spreads, kernel.key_tokens, "attention")


def whole_spread(kernels: Kernels, cost: CostModel) -> Spread:
    """What whole runs are off by: of mixtures as others served them, by the rows of their products, for hosts that
    nobody priced weigh more in short prompts; steps of decoding apart.
    """
    found = kernels.values()
    if any(isinstance(kernel, RoutedExperts) for kernel in found):
        decodes = any(isinstance(kernel, DecodeAttend | LatentDecode) for kernel in found)
        rows = max((kernel.m for kernel in found if isinstance(kernel, Gemm)), default=0)
        return find(cost.mixture.spreads, rows, *(["step"] if decodes else []), "prefill")
    return find(cost.profile.gpu.spreads, 0.0, "prefill")


def interval_of(timeline: Timeline, kernels: Kernels, cost: CostModel, fused: bool = False) -> Interval:
    """The 90 % interval of a simulated prefill. fused: its codec kernels run inside those of collectives."""
    gpu, weights = cost.profile.gpu, timeline.weight()
    path = timeline.simulated_path()
    scale = timeline.ttft_s / sum(weights[span.layer] * span.seconds for span in path)
    seconds: dict[str, float] = {}
    spread: dict[str, Spread | None] = {}
    between: dict[tuple[str, Spread], float] = {}  # seconds that hosts of the kind differ in
    compute_s, codec_name, gap_name = 0.0, CODECS, GAPS

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
            what, found = transport(span.carried, cost)
            add(what, found, whole_s - codec_s)
            for key in transport_elsewhere(span.carried, cost):
                between[key] = between.get(key, 0.0) + whole_s - codec_s
            continue
        compute_s += whole_s
        for name, kernel_s in span.kernels:
            known, gap_share = shares[span.part, name]
            kernel_s *= scale * weights[span.layer]
            add(gap_name, find(gpu.spreads, 0.0, "gap"), kernel_s * gap_share)
            add(name, known, kernel_s * (1 - gap_share))
    hosts = another_host(gpu.spreads, 0.0)
    if hosts is not None:
        between[COMPUTE_ELSEWHERE, hosts] = compute_s
    terms = tuple(Term(what, s, spread[what]) for what, s in seconds.items() if s > 0)
    others = tuple(Term(what, s, known) for (what, known), s in between.items() if s > 0)
    return _interval(timeline.ttft_s, terms, others, whole_spread(kernels, cost), compute_s)


def interval_of_exchange(
    seconds: float, codec_s: float, carried: Carried | None, cost: CostModel, fused: bool = False
) -> Interval:
    """The 90 % interval of one exchange alone, of which `codec_s` are codec kernels, fused with it or not."""
    terms, others = list[Term](), list[Term]()
    if codec_s > 0:
        terms.append(Term(CODECS, codec_s, find(cost.profile.gpu.spreads, 0.0, *CODEC_SPREADS[fused])))
    if carried is not None and seconds > codec_s:
        what, known = transport(carried, cost)
        terms.append(Term(what, seconds - codec_s, known))
        others += [Term(what, seconds - codec_s, known) for what, known in transport_elsewhere(carried, cost)]
    return _interval(seconds, tuple(terms), tuple(others), UNKNOWN, 0.0)


def transport(carried: Carried, cost: CostModel) -> tuple[str, Spread]:
    """What an exchange counts as, and what its like are off by on the host that was measured."""
    found = find(cost.fabric.spreads, carried.nbytes, carried.carrier, "stand-in")
    return f"{EXCHANGES} {carried.carrier}, {_reach(found)}", found


def transport_elsewhere(carried: Carried, cost: CostModel) -> list[tuple[str, Spread]]:
    """The same, by what hosts of the kind differ by; empty where the carrier was timed on the user's own."""
    if carried.carrier in cost.fabric.own:
        return []
    found = another_host(cost.fabric.spreads, carried.nbytes)
    return [] if found is None else [(f"{EXCHANGES_ELSEWHERE}, {_reach(found)}", found)]


def _interval(
    total_s: float, terms: tuple[Term, ...], others: tuple[Term, ...], prefill: Spread, compute_s: float
) -> Interval:
    counted = [(term.seconds, term.spread) for term in terms if term.spread is not None]
    counted.append((compute_s, prefill))
    own_low_s, own_high_s = sum_interval(total_s, counted)
    more = [(term.seconds, term.spread) for term in others if term.spread is not None]
    low_s, high_s = sum_interval(total_s, [*counted, *more])
    return Interval(low_s, high_s, terms, prefill, compute_s, others, own_low_s, own_high_s)


def _reach(spread: Spread) -> str:
    return "any size" if spread.up_to is None else f"up to {spread.up_to / 2**10:,.0f} KiB"
