"""Layer folding: identical layers are simulated until they repeat exactly, the rest is arithmetic.

A run of layers is a pattern (one layer; two where windows alternate, as in Gemma 2) that recurs. A few repeats are
simulated. If every rank's streams end each of the last repeats one constant period after the one before, all later
repeats do the same, since the engine's future depends on the present alone; otherwise nothing is folded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from thinwire.sim.events.timeline import Fold, Span
from thinwire.sim.workload import Op

KEPT_REPEATS = 4  # the first may differ, then two equal periods prove the steady state
LONGEST_PATTERN = 4
STEADY = 1e-9  # relative: sums of the same numbers in another order

Layer = tuple[Op, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """`repeats` of a pattern of layers, of which the first `kept` are simulated; `first` counts simulated layers."""

    first: int
    pattern: int
    repeats: int
    kept: int


def find_runs(layers: Sequence[Layer]) -> list[Run]:
    """Cut the layers into runs of a recurring pattern, longest cover first, left to right. Layers are compared by
    identity.
    """
    runs, at, simulated = [], 0, 0
    ids = [id(layer) for layer in layers]
    while at < len(ids):
        best, repeats = 1, 1
        for pattern in range(1, LONGEST_PATTERN + 1):
            n = 1
            while ids[at + n * pattern : at + (n + 1) * pattern] == ids[at : at + pattern] and at + (
                n + 1
            ) * pattern <= len(ids):
                n += 1
            if n > 1 and n * pattern > best * repeats:
                best, repeats = pattern, n
        kept = min(repeats, KEPT_REPEATS)
        runs.append(Run(simulated, best, repeats, kept))
        simulated += best * kept
        at += best * repeats
    return runs


def kept_layers(layers: Sequence[Layer], runs: Sequence[Run]) -> list[Layer]:
    """The layers to simulate."""
    kept: list[Layer] = []
    at = 0
    for run in runs:
        kept += layers[at : at + run.pattern * run.kept]
        at += run.pattern * run.repeats
    return kept


def folds_of(runs: Sequence[Run], spans: Sequence[Span]) -> tuple[Fold, ...] | None:
    """How to unroll the simulated spans, or None where some run has not reached a steady state."""
    ends: dict[int, dict[tuple[int, str, int], float]] = {}
    for span in spans:
        where = (span.rank, span.stream, span.part)
        of_layer = ends.setdefault(span.layer, {})
        of_layer[where] = max(of_layer.get(where, 0.0), span.end_s)
    folds = []
    for run in runs:
        if run.repeats == run.kept:
            continue
        last_layers = [run.first + (i + 1) * run.pattern - 1 for i in range(1, run.kept)]
        periods = []
        for before, after in pairwise(last_layers):
            steps = np.array([ends[after][where] - ends[before][where] for where in sorted(ends[after])])
            periods.append(float(steps[0]))
            if np.abs(steps - steps[0]).max() > STEADY * steps[0]:
                return None
        if abs(periods[-1] - periods[0]) > STEADY * periods[0]:
            return None
        repeat = range(run.first + (run.kept - 1) * run.pattern, run.first + run.kept * run.pattern)
        folds.append(Fold(repeat, run.repeats - run.kept, periods[-1]))
    return tuple(folds)
