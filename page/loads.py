"""One replica under a load, for the page: runs short enough to move a slider by, with how far chance alone is off."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

from thinwire.commands.reproduce import command_line
from thinwire.page.answers import BASELINE, chosen, files_of
from thinwire.page.desk import Desk
from thinwire.page.documents import Percentile, Serve, ServeRow
from thinwire.page.state import State
from thinwire.sim.question import placement_of
from thinwire.sim.serving.question import Service
from thinwire.sim.serving.serve import Paces, ServingResult
from thinwire.sim.serving.serve import answer as served
from thinwire.sim.serving.statistics import Summary

REQUESTS = 300  # of a run, about: a percentile of 95 has fifteen above it
LONGEST_S = 3600.0
SEED = 0
# Of the tables of durations: a tenth of the set-up of the command's own. Percentiles lie within a tenth of the
# command's, and p99, three requests of the run, within a fifth, which a test holds; chance alone is off by as much and
# more, and finer tables move p99 as far.
BOUND, WITHIN, LAST_WITHIN = 0.3, 0.1, 0.2
USUAL_RATE = 1.0  # a second, where nobody said


def serve(desk: Desk, state: State) -> Serve:
    """The baseline and the chosen scheme. ValueError where the model leaves no room for a KV cache."""
    return desk.answers.get(("serve", state), lambda: _serve(desk, state))


def _serve(desk: Desk, state: State) -> Serve:
    rate = USUAL_RATE if state.rate is None else state.rate
    seconds = min(LONGEST_S, max(1.0, REQUESTS / rate))
    rows = [_row(desk, state, scheme, rate, seconds) for scheme in dict.fromkeys([BASELINE, chosen(state)])]
    if all(row["why"] for row in rows):
        raise ValueError(rows[0]["why"])
    asked = service(desk, state, chosen(state), rate, seconds)
    return {
        "state": state.query(),
        "rate": rate,
        "requests": round(rate * seconds),
        "seconds": seconds,
        "rows": rows,
        "note": f"one replica, {seconds:.3g} s of Poisson arrivals (seed {SEED}), prompts of "
        f"{state.question.input_tokens} and answers of {state.output_tokens:g} tokens on average, small all-reduces "
        "uncompressed where that is sooner; the ± is the simulation's alone (95 %), not the model's; durations are "
        f"interpolated more coarsely than the command's, which moves percentiles by less than {WITHIN:.0%}, p99 by "
        f"less than {LAST_WITHIN:.0%}",
        "command": command_line("serve", replace(asked, **files_of(state, desk))),
    }


def service(desk: Desk, state: State, scheme: str, rate: float, seconds: float) -> Service:
    """What `thinwire serve` would be asked, by names."""
    placed = placement_of(state.asking()) | {"scheme": scheme}
    return Service(
        **placed, input_tokens=float(state.question.input_tokens), output_tokens=state.output_tokens, rate=rate,
        duration=seconds, slo_ttft_ms=state.slo_ttft_ms, gate=True, seed=SEED,
    )  # fmt: skip


def _row(desk: Desk, state: State, scheme: str, rate: float, seconds: float) -> ServeRow:
    asked = service(desk, state, scheme, rate, seconds)
    desk.turns.turn()
    try:
        found = run(desk, state, asked)
    except ValueError as error:
        return {
            "scheme": scheme, "ttft": [], "tpot": [], "goodput_per_s": 0.0, "kept": None, "saturated": False,
            "why": desk.said(error),
        }  # fmt: skip
    return {
        "scheme": scheme,
        "ttft": _percentiles(found.run.ttft),
        "tpot": _percentiles(found.run.tpot),
        "goodput_per_s": found.run.goodput_per_s.value,
        "kept": _finite(found.run.to_dict()["slo_attainment"]),
        "saturated": found.run.saturated,
        "why": None,
    }


def run(desk: Desk, state: State, asked: Service) -> ServingResult:
    """A run whose engine's durations are kept: another rate or length asks for none anew."""
    resolved = desk.resolved(state.asking())
    ours = replace(asked, model=resolved.model, cluster=resolved.cluster, profile=resolved.profile)
    key = ("paces", state.question.model, state.question.cluster, state.question.profile, *placement_key(ours))
    return served(ours, desk.answers.get(key, lambda: Paces(ours.deployment(), BOUND)))


def placement_key(asked: Service) -> Sequence[Any]:
    """What durations depend on besides the model and the machine."""
    found = placement_of(asked)
    return [repr(found[name]) for name in sorted(found) if name not in ("model", "cluster", "profile")]


def _percentiles(found: Summary) -> list[Percentile]:
    return [
        Percentile(name=f"p{q * 100:g}", value_ms=each.value * 1e3, plus_minus_ms=ms(each.half_width))
        for q, each in found.percentiles.items()
        if -inf < each.value < inf
    ]


def ms(seconds: float | None) -> float | None:
    """Milliseconds; None for what is not known."""
    return None if seconds is None or not -inf < seconds < inf else seconds * 1e3


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and -inf < value < inf else None
