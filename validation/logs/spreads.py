"""How far off a fabric of logs is: the list of spreads that it holds, made here alone.

What the logs timed: their own rows, each predicted by a fit without it. What is carried over from the shipped fabric
within NCCL, and sizes that a log has too few rows of: as published series are off when the same is done to them. Those
figures lie in `spreads.json`, written by `make calibrate`. What other libraries carry keeps the shipped spreads.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from thinwire.sim.costs.profile import FabricProfile
from thinwire.sim.costs.spread import Spread
from thinwire.validation.fits.fabric import Series
from thinwire.validation.fits.spreads import FEWEST, by_regime, spread
from thinwire.validation.fits.spreads_fabric import MESSAGE_REGIMES
from thinwire.validation.logs.curves import LIBRARY

STAND_IN = "stand-in"
FILE = Path(__file__).with_name("spreads.json")


# --- of published series ---


def measure() -> dict[str, list[dict[str, Any]]]:
    """What `FILE` holds: how far off published series are that lack something (`carrying`), by what they lack."""
    from thinwire.validation.logs import carrying  # simulates for seconds: nobody else needs it

    found = {
        "second": (LIBRARY, carrying.second_sizes(), "on every second size, fitted to the others"),
        "beyond": (LIBRARY, carrying.small_sizes(), "below 16 MiB, fitted to the sizes above"),
        "carried": (STAND_IN, [*carrying.other_ranks(), *carrying.other_ops()],
                    "when another number of ranks, or the all-reduce, says how they differ from another host's"),
    }  # fmt: skip
    said = {}
    for key, (part, guesses, how) in found.items():
        sizes, logs = zip(*((g.series.nbytes[g.index], g.log) for g in guesses), strict=True)
        source = f"assumed: as published NCCL series are off {how}"
        said[key] = [asdict(one) for one in by_regime(part, sizes, logs, MESSAGE_REGIMES, source, centred=True)]
    return said


@cache
def published() -> Mapping[str, tuple[Spread, ...]]:
    """What `measure` found when profiles were last calibrated."""
    return {key: tuple(Spread(**one) for one in some) for key, some in json.loads(FILE.read_text("utf-8")).items()}


def _of_regime(key: str, up_to: float | None) -> Spread:
    """The published spread of a regime; beyond the last, the last."""
    some = published()[key]
    found = next((s for s in some if s.up_to == up_to), some[-1])
    return Spread(found.part, up_to, found.low, found.bias, found.high, found.rows, found.source)


# --- of logs ---


def own_carriers(lender: FabricProfile) -> tuple[str, ...]:
    """Whose exchanges a log of the user's host speaks for: the library's, and stand-ins, if none is of another's."""
    return (LIBRARY,) if _others_stand_in(lender) else (LIBRARY, STAND_IN)


def _others_stand_in(lender: FabricProfile) -> bool:
    return any(p.library != LIBRARY and p.source.startswith("assumed") for p in lender.protocols)


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
            found.append(_widened(_of_regime("second", up_to), own))
        else:
            found.append(_of_regime("beyond", up_to))
        above = most
    return found


def _widened(known: Spread, own: Sequence[float]) -> Spread:
    """A spread of others that holds a log's few rows, too."""
    low, high = min([known.low, *own]), max([known.high, *own])
    bias, rows = min(max(known.bias, low), high), known.rows + len(own)
    return Spread(known.part, known.up_to, round(low, 4), bias, round(high, 4), rows, known.source)


def _stand_ins(lender: FabricProfile) -> list[Spread]:
    """Of what is carried over; where other libraries' figures are borrowed as well, no narrower than the lender's."""
    found = [_of_regime("carried", up_to) for up_to in MESSAGE_REGIMES]
    if not _others_stand_in(lender):
        return found
    theirs = {s.up_to: s for s in lender.spreads if s.part == STAND_IN}
    return [
        Spread(s.part, s.up_to, min(s.low, other.low), 0.0, max(s.high, other.high), s.rows, s.source)
        if (other := theirs.get(s.up_to)) is not None
        else s
        for s in found
    ]
