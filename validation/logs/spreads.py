"""How far off a fabric of logs is: the list of spreads that it holds, made here alone.

What the logs timed: their own rows, each predicted by a fit without it. What is carried over from the shipped fabric
within NCCL: as the published series are off when that is done to them (`validation/logs/carrying.py`). What other libraries carry keeps the shipped fabric's spreads.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np

from thinwire.sim.costs.profile import FabricProfile
from thinwire.sim.costs.spread import Spread
from thinwire.validation.fits.fabric import Series
from thinwire.validation.fits.spreads import FEWEST, by_regime, spread
from thinwire.validation.fits.spreads_fabric import MESSAGE_REGIMES
from thinwire.validation.logs import carrying
from thinwire.validation.logs.curves import LIBRARY

STAND_IN = "stand-in"
THIN = 3  # every so-manieth guess is enough


def own_spreads(
    lender: FabricProfile, some: Sequence[Series], rows_out: Iterable[tuple[Series, int, float]]
) -> tuple[Spread, ...]:
    """Of a fabric that logs were fitted into. rows_out: a series, its row's index, what a fit without it predicts."""
    others = [s for s in lender.spreads if s.part not in (LIBRARY, STAND_IN)]
    return (*_timed(some, rows_out), *_stand_ins(lender), *others)


def _timed(some: Sequence[Series], rows_out: Iterable[tuple[Series, int, float]]) -> list[Spread]:
    """Of what the logs timed, regime by regime: their own rows; where these are few, as published series are off; where
    there are none, as those are off that lack such sizes.
    """
    rows = [(float(s.nbytes[i]), float(np.log(s.seconds[i] / seconds))) for s, i, seconds in rows_out]
    sizes = np.concatenate([s.nbytes for s in some])
    found, above = [], 0.0
    for up_to in MESSAGE_REGIMES:
        most = np.inf if up_to is None else up_to
        own = [log for size, log in rows if above < size <= most]
        if len(own) >= FEWEST:
            found.append(spread(LIBRARY, own, f"measured: {len(own)} rows of the logs, each fitted without it", up_to))
        elif ((sizes > above) & (sizes <= most)).any():
            found.append(_widened(_published("second", up_to), own))
        else:
            found.append(_published("beyond", up_to))
        above = most
    return found


def _widened(known: Spread, own: Sequence[float]) -> Spread:
    """A spread of others that holds a log's few rows, too."""
    low, high = min([known.low, *own]), max([known.high, *own])
    bias, rows = min(max(known.bias, low), high), known.rows + len(own)
    return Spread(known.part, known.up_to, round(low, 4), bias, round(high, 4), rows, known.source)


@cache
def _guesses(kind: str) -> tuple[tuple[float, float], ...]:
    """(bytes, log(measured / predicted)) of published series with something left out."""
    match kind:
        case "second":
            some = list(carrying.second_sizes())
        case "beyond":
            some = list(carrying.small_sizes())[::THIN]
        case _:
            some = [*carrying.other_ranks(), *carrying.other_ops()][::THIN]
    return tuple((float(g.series.nbytes[g.index]), g.log) for g in some)


def _published(kind: str, up_to: float | None) -> Spread:
    """The spread of a regime from published series."""
    said = {
        "second": "as published series are off on every second size, that left out",
        "beyond": "as published series are off where a log has none of their sizes",
    }[kind]
    below = [most for most in MESSAGE_REGIMES if most is not None and (up_to is None or most < up_to)]
    above, most = max(below, default=0.0), np.inf if up_to is None else up_to
    logs = [log for size, log in _guesses(kind) if above < size <= most]
    if len(logs) < FEWEST:  # a log of large messages has them; one of small ones lacks them
        logs = [log for _, log in _guesses(kind)]
    return spread(LIBRARY, logs, f"assumed: {said}, {len(logs)} rows", up_to, centred=True)


def _stand_ins(lender: FabricProfile) -> list[Spread]:
    """Of what is carried over; where other libraries' figures are borrowed as well, no narrower than the lender's."""
    sizes, logs = zip(*_guesses("carried"), strict=True)
    source = "assumed: as published series are off that take the ratio of another number of ranks or operation"
    found = by_regime(STAND_IN, sizes, logs, MESSAGE_REGIMES, source, centred=True)
    if not any(p.library != LIBRARY and p.source.startswith("assumed") for p in lender.protocols):
        return found
    theirs = {s.up_to: s for s in lender.spreads if s.part == STAND_IN}
    return [
        Spread(s.part, s.up_to, min(s.low, other.low), 0.0, max(s.high, other.high), s.rows, s.source)
        if (other := theirs.get(s.up_to)) is not None
        else s
        for s in found
    ]
