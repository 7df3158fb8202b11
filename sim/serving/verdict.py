"""The answer to a serving run in a sentence, and what it rests on, the most important first."""

from __future__ import annotations

import math

from thinwire.edge.quantities import time_text
from thinwire.sim.api import answer
from thinwire.sim.grounds import Ground, Kind, grounds
from thinwire.sim.question import Question, placement_of
from thinwire.sim.report import Prediction
from thinwire.sim.serving.arrivals import ClosedLoop
from thinwire.sim.serving.headroom import rate_of
from thinwire.sim.serving.serve import ServingResult
from thinwire.sim.serving.statistics import NO_SLO, QUANTILES, Estimate, Slo, plus_minus

OWN_ERROR = (
    "Each ± is the simulation's alone, 95 % over batches of requests; how far the durations of iterations may be off "
    "is not carried through to it yet"
)


def verdict(found: ServingResult) -> str:
    """Whether the SLO is kept, and how far it is from saturation."""
    said = [part for part in (_saturated(found), _kept(found), _far(found)) if part]
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}."


def _saturated(found: ServingResult) -> str:
    if not found.run.saturated:
        return ""
    return "saturated: more arrives than is served, so these numbers grow with the duration"


def _kept(found: ServingResult) -> str:
    run = found.run
    if run.slo == NO_SLO:
        ttft = run.ttft.percentiles
        at = f"TTFT is {time_text(ttft[0.5].value)} at p50 and {time_text(ttft[0.99].value)} at p99"
        return f"no SLO was given: {at}" if run.ttft.count else "no request was counted"
    if math.isnan(run.attainment):
        return f"no request was counted that could keep the SLO ({asked(run.slo)})"
    holds = max((q for q in QUANTILES if run.attainment >= q), default=None)
    broken = min((q for q in QUANTILES if run.attainment < q), default=None)
    at = "at no percentile looked at" if holds is None else f"at p{holds * 100:g}"
    not_at = "" if broken is None or holds is None else f" and not at p{broken * 100:g}"
    return f"the SLO ({asked(run.slo)}) is kept {at}{not_at}, by {run.attainment:.1%} of requests"


def asked(slo: Slo) -> str:
    """An SLO in words."""
    limits = {"TTFT": slo.ttft_s, "TPOT": slo.tpot_s}
    return ", ".join(f"{name} {s * 1e3:.10g} ms" for name, s in limits.items() if not math.isinf(s)) or "none"


def _far(found: ServingResult) -> str:
    most, rate = found.capacity_per_s, rate_of(found.load)
    if most is None or not most.value:
        return ""
    healthy = " without the faults" if found.faults else ""
    served = f"its queue grows without end only above {plus_minus(most)} requests/s{healthy}"
    if rate is None:
        if isinstance(found.load, ClosedLoop):
            return f"{plus_minus(_served(found))} requests/s are, of the {plus_minus(most)} that can be served{healthy}"
        return served
    if rate > most.value:
        return f"its queue grows without end above {plus_minus(most)} requests/s{healthy}, and {rate:.4g} arrive"
    return f"{served}, {most.value / rate:.2g} times the {rate:.4g} that arrive"


def _served(found: ServingResult) -> Estimate:
    window = found.window
    return Estimate(found.run.ttft.count / (window.duration_s - window.warm_up_s), None)


def model_error(found: ServingResult) -> Prediction | None:
    """A prompt that fills an iteration, predicted: how far off its time may be, durations of iterations may. None where
    there is no such prompt: sequences of every rank's own, of which one is none.
    """
    d = found.deployment
    try:
        return answer(Question(**placement_of(d), input_tokens=d.token_budget))
    except ValueError:
        return None


def rests_on(found: ServingResult, alone: Prediction | None) -> tuple[Ground, ...]:
    """What the numbers rest on, the widest share of the interval of a prompt alone first. alone: that prompt."""
    first = () if alone is None else tuple(ground for ground in grounds(alone) if ground.share)
    known = {ground.text for ground in first}
    return (*first, *(Ground(text, _kind(text)) for text in found.assumptions if text not in known))


def _kind(text: str) -> Kind:
    """Of a sentence that no prediction alone has: about queues, decoding, or a size that others had not."""
    return next((kind for word, kind in _WORDS if word in text), "rule")


_WORDS: tuple[tuple[str, Kind], ...] = (
    ("(measured", "measured"), ("no measurement", "assumed"), ("assumed", "assumed"), ("datasheet", "datasheet"),
)  # fmt: skip
