"""Nine of ten answers must begin within two seconds at three requests a second: how many replicas, which scheme?

python examples/gallery/ttft_slo_at_3_requests.py        the page: docs/examples/ttft-slo-at-3-requests.md
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from thinwire.sim.serving.question import Service
from thinwire.sim.serving.serve import Paces
from thinwire.sim.serving.serve import answer as served
from thinwire.sim.serving.statistics import Estimate

TP = 4
RATE, BUSIER = 3.0, 4.0  # requests a second
SERVICE = Service(
    "llama-3-70b", "8xl40s-pcie", tp=TP, weights="fp8", gate=True,
    rate=RATE, input_tokens=1500.0, output_tokens=100.0, duration=600.0,
)  # fmt: skip
SLO_S, TIGHTER_S, QUANTILE = 2.0, 1.6, 0.9
SLOWER = 1.1  # what-if: kernels' time
SCHEMES = ("bf16", "flash-int8", "flash2-int6")  # the least compressed first
REPLICAS = (1, 2, 3, 4)

Found = dict[str, dict[int, Estimate]]


@dataclass(frozen=True)
class Answer:
    """Percentiles of the time to the first token, by scheme and number of replicas: as asked, and at a higher rate.
    slower: of the best, were every kernel slower.
    """

    asked: Found
    busier: Found
    slower: Estimate


def percentiles(service: Service, rate: float, paces: Paces, numbers: Sequence[int] = REPLICAS) -> dict[int, Estimate]:
    """By the number of replicas: seconds, with the half width of the simulation's 95 % interval.

    paces: how long iterations take, worked out once for an engine, whatever its load and however many there are.
    """
    asked = [replace(service, rate=rate, replicas=replicas) for replicas in numbers]
    return {each.replicas: served(each, paces).run.ttft.percentiles[QUANTILE] for each in asked}


def need(found: dict[int, Estimate], most_s: float = SLO_S) -> int | None:
    """The fewest replicas that keep the target with the whole interval, so that another seed keeps it, too."""
    return next((n for n, p in found.items() if p.half_width is not None and p.value + p.half_width <= most_s), None)


def best(found: Found, most_s: float = SLO_S) -> str:
    """The scheme with the fewest replicas; of equal ones the one that compresses least."""
    return min(found, key=lambda scheme: need(found[scheme], most_s) or len(REPLICAS) + 1)


def answer() -> Answer:
    """Every scheme at both rates."""
    asked, busier = {}, {}
    for scheme in SCHEMES:
        service = replace(SERVICE, scheme=scheme)
        paces = Paces(service.deployment())
        asked[scheme], busier[scheme] = percentiles(service, RATE, paces), percentiles(service, BUSIER, paces)
    won = need(asked[best(asked)]) or REPLICAS[-1]
    slow = replace(SERVICE, scheme=best(asked), slow_ranks=dict.fromkeys(range(TP), SLOWER))
    return Answer(asked, busier, percentiles(slow, RATE, Paces(slow.deployment()), (won,))[won])


def shown(found: Estimate) -> str:
    """Seconds, with the simulation's interval."""
    return f"{found.value:.2f} s" + ("" if found.half_width is None else f" ±{found.half_width:.2f}")


def needs(found: Found, most_s: float = SLO_S) -> str:
    """Replicas of every scheme, in words."""
    return ", ".join(f"{scheme} {need(found[scheme], most_s) or 'more than 4'}" for scheme in found)


def said(a: Answer) -> list[str]:
    """The answer in sentences, the first first."""
    top = best(a.asked)
    won, plain = need(a.asked[top]), need(a.asked["bf16"])
    assert won is not None and plain is not None and plain > won
    return [
        f"{won} replicas of {TP} L40S with {top}, {won * TP} GPUs: nine of ten answers begin within "
        f"{shown(a.asked[top][won])}; uncompressed it takes {plain} replicas, {plain * TP} GPUs.",
        f"The load: {RATE:g} requests a second, prompts of {SERVICE.input_tokens:,g} tokens in the mean, "
        f"answers of {SERVICE.output_tokens:g}; the target: {SLO_S:g} s at the {QUANTILE * 100:.0f}th percentile; each "
        f"± is half the simulation's 95 % interval.",
        f"With {won} replicas: " + ", ".join(f"{s} {shown(found[won])}" for s, found in a.asked.items()) + ".",
        f"With {plain} replicas: " + ", ".join(f"{s} {shown(found[plain])}" for s, found in a.asked.items()) + ".",
        f"If every kernel took {SLOWER - 1:.0%} longer than predicted, {top} with {won} replicas would take "
        f"{shown(a.slower)}.",
        f"At {BUSIER:g} requests a second, replicas needed: {needs(a.busier)}.",
        f"For {TIGHTER_S:g} s instead of {SLO_S:g} s, replicas needed: {needs(a.asked, TIGHTER_S)}.",
    ]


def main() -> None:
    """Print them."""
    print("\n".join(said(answer())))


if __name__ == "__main__":
    main()
