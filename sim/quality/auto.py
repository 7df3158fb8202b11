"""A scheme for each sync point: the least predicted TTFT under a budget of perplexity (`auto:+1%`).

Each sync point takes one choice: uncompressed, a codec with its collective, or a drop. Time adds up over sync points,
since without overlap every rank waits at each; so do the losses that `sim.quality.losses` holds, to first order, and a
measured slope corrects the rest. That makes it a multiple-choice knapsack, which scipy's MILP solves to optimality:

    minimise   sum over points of seconds[point, choice]
    subject to slope * sum over points of loss[point, choice] <= log(1 + budget), one choice a point.

Why this and what it gives: docs/decisions/012-auto.md.
"""

import ctypes
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.mixed import DROP, MixedScheme, auto_name, points
from thinwire.sim.choices import Compress
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.profile import Profile
from thinwire.sim.events.exchange import Exchanger, slowdown
from thinwire.sim.layers import all_reduces
from thinwire.sim.quality.losses import UNCOMPRESSED, Sensitivities
from thinwire.sim.workload import Piece, Prompt
from thinwire.topologies.cluster import Cluster

GAP = 1e-3  # of the objective, to which the optimum is proven: a prediction is never that exact
TOLERANCE = 1e-6  # of the budget, the solver's own


@dataclass(frozen=True, slots=True)
class Chosen:
    """A mixed scheme and what it was chosen by.

    exchange_s, uncompressed_s: seconds of all its all-reduces, and of as many uncompressed ones. bound_s: no choice
    within the budget takes less (proven, within `GAP`). perplexity_ratio: as the sensitivities add up. uniform,
    uniform_s: the fastest single scheme within the same budget by the same sum, and its seconds. compress: positions
    that it is to compress.
    """

    scheme: MixedScheme
    budget: float
    exchange_s: float
    bound_s: float
    uncompressed_s: float
    perplexity_ratio: float
    uniform: str
    uniform_s: float
    compress: Compress

    def to_dict(self) -> dict[str, Any]:
        """The document of `auto --json`, without the prediction."""
        chosen = (*self.scheme.attention, *self.scheme.mlp)
        counts = Counter(DROP if entry is None else entry.name for entry in chosen)
        return {
            "scheme": self.scheme.name,
            "budget": self.budget,
            "compress": self.compress,
            "perplexity_ratio_expected": self.perplexity_ratio,
            "exchange_ms": self.exchange_s * 1e3,
            "exchange_ms_bound": self.bound_s * 1e3,
            "exchange_ms_uncompressed": self.uncompressed_s * 1e3,
            "best_uniform": self.uniform,
            "exchange_ms_best_uniform": self.uniform_s * 1e3,
            "choices": dict(counts.most_common()),
            "attention": [DROP if entry is None else entry.name for entry in self.scheme.attention],
            "mlp": [DROP if entry is None else entry.name for entry in self.scheme.mlp],
            "source": self.scheme.source,
        }


def choose(
    model: ModelConfig,
    cluster: Cluster,
    prompt: Prompt,
    profile: Profile,
    sensitivities: Sensitivities,
    budget: float,
) -> Chosen:
    """The mixed scheme with the least time in all-reduces whose expected perplexity ratio is at most 1 + budget.

    Raises ValueError for a budget below 0, a model of another number of layers than the sensitivities', or one rank.
    """
    tp = len(cluster.gpus)
    if tp < 2:
        raise ValueError(f"auto chooses what ranks send each other, and needs two or more: tp={tp}")
    if not 0 <= budget < math.inf:
        raise ValueError(f"budget must be 0 or more: budget={budget}")
    if sensitivities.layers != model.num_layers:
        raise ValueError(
            f"the sensitivities of {sensitivities.model} are for {sensitivities.layers} layers, {model.name} has "
            f"{model.num_layers}"
        )
    seconds = Prices(model, cluster, prompt, profile)
    options = [sensitivities.of(point) for point in points(model.num_layers)]
    allowed = math.log1p(budget) / sensitivities.slope
    names, bound_s = knapsack([{name: seconds[name] for name in losses} for losses in options], options, allowed)
    loss = math.fsum(losses[name] for losses, name in zip(options, names, strict=True))
    alone = {name: math.fsum(losses[name] for losses in options) for name in options[0] if name != DROP}
    uniform = min((name for name in alone if alone[name] <= allowed), key=lambda name: (seconds[name], name))
    found = [None if name == DROP else find_scheme(name) for name in names]
    near = "" if sensitivities.tp == tp else f", measured at TP {sensitivities.tp}"
    scheme = MixedScheme(
        auto_name(budget),
        tuple(found[0::2]),
        tuple(found[1::2]),
        model.name,
        source=f"chosen for {model.name} on {tp} x {cluster.gpu.name} of {cluster.name}, batch {prompt.batch} x "
        f"{prompt.input_tokens} tokens, by what each sync point "
        f"{_OF[sensitivities.compress]} costs {sensitivities.title}{near} "
        f"({sensitivities.source})",
    )
    return Chosen(
        scheme,
        budget,
        math.fsum(seconds[name] for name in names),
        bound_s,
        len(names) * seconds[UNCOMPRESSED],
        math.exp(sensitivities.slope * loss),
        uniform,
        len(names) * seconds[uniform],
        sensitivities.compress,
    )


_OF: Mapping[Compress, str] = {"prompt": "of a compressed prompt", "all": "compressed at every position"}


class Prices(dict[str, float]):
    """Seconds of a sync point's all-reduces by choice, each timed once and on an idle network."""

    def __init__(self, model: ModelConfig, cluster: Cluster, prompt: Prompt, profile: Profile) -> None:
        super().__init__({DROP: 0.0})
        tp = len(cluster.gpus)
        self._exchanger = Exchanger(cluster, CostModel(profile, cluster.gpu), slowdown(tp, {}))
        self._prompt, self._width = prompt, model.hidden_size

    def __missing__(self, name: str) -> float:
        scheme, tokens = find_scheme(name), self._prompt.input_tokens
        rows = Piece(tokens, tokens).rows(scheme, self._prompt)
        timed = (self._exchanger.timed(exchange) for _, exchange in all_reduces(scheme, rows, self._width))
        self[name] = math.fsum(self._exchanger.alone(found).seconds for found in timed)
        return self[name]


def knapsack(
    costs: Sequence[Mapping[str, float]], losses: Sequence[Mapping[str, float]], allowed: float
) -> tuple[list[str], float]:
    """(one choice a point with the least cost whose losses add up to at most `allowed`, a bound no choice goes below).

    costs, losses: by point, then by choice; at each point some choice must lose nothing. The cost is within `GAP` of
    the bound. Raises ValueError where a point has no choice without loss.
    """
    variables: list[tuple[int, str]] = []
    for point, (cost, loss) in enumerate(zip(costs, losses, strict=True)):
        if not any(value == 0 for value in loss.values()):
            raise ValueError(f"point {point} has no choice without loss: {dict(loss)}")
        variables += [(point, name) for name in _frontier(cost, loss, allowed * (1 - TOLERANCE))]
    cost_V = np.array([costs[point][name] for point, name in variables])
    loss_V = np.array([losses[point][name] for point, name in variables])
    one_PxV = np.zeros((len(costs), len(variables)))
    for column, (point, _) in enumerate(variables):
        one_PxV[point, column] = 1
    scale, room = max(cost_V.max(), 1e-300), allowed or 1.0  # near one, where the solver's tolerances are meant to be
    with _silent():
        solved = milp(
            cost_V / scale,
            integrality=np.ones(len(variables), int),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_PxV, 1, 1),
                LinearConstraint(loss_V[None] / room, -np.inf, 1 - TOLERANCE),
            ],
            options={"mip_rel_gap": GAP},
        )
    if solved.x is None:
        raise RuntimeError(f"the solver gave up on a problem that has a solution: {solved.message}")
    chosen = {variables[column] for column in np.flatnonzero(solved.x > 0.5)}
    names = [next(name for name in costs[point] if (point, name) in chosen) for point in range(len(costs))]
    return names, float(solved.mip_dual_bound) * float(scale)


_ONE_AT_A_TIME = Lock()  # a second thread would take nowhere for the standard output, and put it back last


@contextmanager
def _silent() -> Iterator[None]:
    """Standard output goes nowhere: the solver prints a line of its own there at times, whatever its options say (HiGHS
    in scipy 1.17), and with --json nothing may stand beside the document.
    """
    with _ONE_AT_A_TIME:
        sys.stdout.flush()
        kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        try:
            yield
        finally:
            if os.name == "posix":
                ctypes.CDLL(None).fflush(None)  # what C holds back
            os.dup2(kept, 1)
            os.close(kept)
            os.close(nowhere)


def _frontier(cost: Mapping[str, float], loss: Mapping[str, float], allowed: float) -> list[str]:
    """The choices of a point that are worth looking at: none other costs and loses as little or less."""
    kept: list[str] = []
    for name in sorted(cost, key=lambda name: (loss[name], cost[name])):
        if loss[name] <= allowed and (not kept or cost[name] < cost[kept[-1]]):
            kept.append(name)
    return kept
