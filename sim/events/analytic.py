"""Closed form of symmetric collectives: where all ranks do the same in every step, no events are needed.

A step of a symmetric collective takes, on every rank alike,

    codec + software latency + work bytes / max-min rate + latency of the route

and steps follow one another. The simulator takes this short cut for one lane on an idle network; whether it holds is
seen from the timed schedule itself, and the tests hold it equal to the event-by-event run.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinwire.sim.events.collective import CollectiveTime, TimedSchedule
from thinwire.sim.events.network import Floats, Routes

EQUAL = 1e-12  # relative: the same sum in another order


def closed_form(timed: TimedSchedule, routes: Routes, slowdown_R: Floats) -> CollectiveTime | None:
    """What `run_alone` gives, or None where ranks or flows differ and events are needed."""
    if len(timed.lanes) != 1 or not _same(slowdown_R):
        return None
    seconds, peak = 0.0, np.zeros(len(routes.capacities))
    pair_bytes = np.zeros(len(routes.table))
    for step in timed.lanes[0]:
        if not (_same(step.codec_s_R) and _same(step.incident_R)):
            return None
        seconds += float(step.codec_s_R[0] * slowdown_R[0])
        if not len(step.pairs_F):
            continue
        counts = np.bincount(step.pairs_F, minlength=len(routes.table))
        rates = routes.rates(counts)
        took, latency = step.work_bytes_F / rates[step.pairs_F], routes.latency_s[step.pairs_F]
        if not (_same(took) and _same(latency)):
            return None
        seconds += step.latency_s + float(took[0] + latency[0])
        np.maximum(peak, routes.over(counts * rates), out=peak)
        pair_bytes += np.bincount(step.pairs_F, step.nbytes_F, minlength=len(routes.table))
    return CollectiveTime(
        np.full(timed.ranks, seconds),
        timed.codec_s_R * slowdown_R,
        timed.wire_bytes_R,
        routes.link_bytes(pair_bytes),
        routes.utilisation(peak),
        timed.notes,
    )


def _same(values: NDArray[Any]) -> bool:
    return len(values) == 0 or bool(np.ptp(values) <= EQUAL * abs(values[0]))
