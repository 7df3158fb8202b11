"""The main path: a model, a cluster, a scheme and a prompt in; a prediction out. Pure: no files, no globals, no
clock.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.precision import kv_of
from thinwire.reference.core.schedule import Op as CollectiveOp
from thinwire.reference.mixed import AnyScheme
from thinwire.sim.choices import Launch, Weights
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.products import check_runs
from thinwire.sim.costs.profile import Profile
from thinwire.sim.events.collective import TimedSchedule
from thinwire.sim.events.engine import Engine, Issue, Result
from thinwire.sim.events.exchange import Exchanger, left_uncompressed, slowdown
from thinwire.sim.events.fold import find_runs, folds_of, kept_layers
from thinwire.sim.events.network import Floats
from thinwire.sim.events.timeline import Fold, Timeline
from thinwire.sim.interval import kernels_of
from thinwire.sim.layers import precisions, said_of
from thinwire.sim.report import Prediction, Traffic, assumptions
from thinwire.sim.sharing import Sharing
from thinwire.sim.workload import Prompt, Workload, build, memory_bytes
from thinwire.topologies.cluster import Cluster


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Departures from a healthy machine. Slow links are a cluster of their own: `Cluster.with_link_scaled`."""

    slow_ranks: Mapping[int, float] = field(default_factory=dict)  # rank -> factor on its kernels


def predict(
    model: ModelConfig,
    cluster: Cluster,
    scheme: AnyScheme,
    prompt: Prompt,
    profile: Profile,
    what_if: WhatIf = WhatIf(),
    folded: bool = True,
    launch: Launch = "eager",
    sharing: Sharing | None = None,
) -> Prediction:
    """Time to first token of one prompt on all GPUs of `cluster`.

    folded: simulate identical layers until they repeat exactly, and each distinct collective once. The unfolded run
        gives the same result to 1e-9, event by event.

    launch: kernels launched one by one, as engines prefill, or as a CUDA graph.

    sharing: how the GPUs share the model out; None = tensor parallelism.

    Raises:
        ValueError: a model that does not divide over the GPUs or does not fit them, a prompt that cannot be split.
    """
    sharing = Sharing(len(cluster.gpus)) if sharing is None else sharing
    check_machine(model, cluster, prompt, profile, sharing)
    workload = build(model, scheme, prompt, sharing)
    cost = CostModel(profile, cluster.gpu, launch, kv_of(model.checkpoint, prompt.kv))
    exchanger = Exchanger(cluster, cost, slowdown(sharing.ranks, what_if.slow_ranks), left_uncompressed(scheme))
    result, folds = run(workload, exchanger, cost, folded)
    return Prediction(
        model=model,
        cluster=cluster,
        scheme=scheme,
        prompt=prompt,
        profile=profile.name,
        timeline=timeline_of(result, folds),
        traffic=traffic(workload, exchanger),
        basis=assumptions(model, sharing, prompt, scheme, cost, exchanger),
        cost=cost,
        kernels=kernels_of(workload),
        sharing=sharing,
    )


def run(workload: Workload, exchanger: Exchanger, cost: CostModel, folded: bool) -> tuple[Result, tuple[Fold, ...]]:
    """Simulate the workload; with folds where identical layers reach a steady state, else in full."""
    folded = folded and not exchanger.posted  # what is still on its way when a layer ends is no part of a layer's ends
    runs = find_runs(workload.layers) if folded else []
    if any(r.repeats > r.kept for r in runs):
        result = _simulate(replace(workload, layers=tuple(kept_layers(workload.layers, runs))), exchanger, cost, True)
        folds = folds_of(runs, result.spans)
        if folds is not None:
            return result, folds
    return _simulate(workload, exchanger, cost, folded), ()


def timeline_of(result: Result, folds: tuple[Fold, ...]) -> Timeline:
    """The whole run: what was simulated, and the repeats that were folded away."""
    return Timeline(result.spans, folds, result.end_s + sum(f.copies * f.period_s for f in folds))


def _simulate(workload: Workload, exchanger: Exchanger, cost: CostModel, replay: bool) -> Result:
    priced: dict[int, tuple[tuple[tuple[str, float], ...], TimedSchedule | None]] = {}
    program = []
    layers = ((-1, workload.before), *enumerate(workload.layers), (len(workload.layers), workload.after))
    for layer, ops in layers:
        for op in ops:
            if id(op) not in priced:
                kernels = tuple((kernel.name, cost.kernel_s(kernel)) for kernel in op.kernels)
                priced[id(op)] = kernels, exchanger.timed(op.exchange) if op.exchange else None
            program.append(Issue(layer, op.part, op.name, *priced[id(op)]))
    engine = Engine(exchanger.routes, exchanger.ranks, exchanger.slowdown_R, exchanger.alone if replay else None)
    return engine.run(program)


def check_machine(model: ModelConfig, cluster: Cluster, prompt: Prompt, profile: Profile, sharing: Sharing) -> None:
    """Refuse a precision the GPU lacks, and a prompt that does not fit, with the arithmetic."""
    check_precisions(model, cluster, prompt.weights, profile)
    need = memory_bytes(model, prompt, sharing)
    total = sum(need.values())
    if total > cluster.gpu.memory_bytes:
        terms = " + ".join(f"{name} {nbytes / 1e9:.1f}" for name, nbytes in need.items())
        raise ValueError(
            f"{model.name} ({said_of(model, prompt.weights)}, batch={prompt.batch}, "
            f"input_tokens={prompt.input_tokens}) does not fit {len(cluster.gpus)} x {cluster.gpu.name}: {terms} = "
            f"{total / 1e9:.1f} GB a GPU, memory {cluster.gpu.memory_bytes / 1e9:.1f} GB"
        )


def check_precisions(model: ModelConfig, cluster: Cluster, weights: Weights, profile: Profile) -> None:
    """Refuse a precision that the GPU lacks, or whose products the profile has not (`products.with_precisions`)."""
    for part, wanted in precisions(model, weights).items():
        check_runs(cluster.gpu, wanted)
        if part != "experts" and wanted not in profile.gpu.gemm:
            known = ", ".join(sorted(profile.gpu.gemm))
            raise ValueError(f"the profile of {cluster.gpu.name} has no {wanted} products: it has {known}")


def traffic(workload: Workload, exchanger: Exchanger) -> Traffic:
    """Bytes of the whole forward pass, counted from its exchanges; what a GPU sends is without gathering the logits."""
    inside = Workload((), workload.layers, ())
    sent_R, _ = moved_bytes(inside, exchanger, get_args(CollectiveOp))
    _, links = moved_bytes(workload, exchanger, ())
    return Traffic(workload.all_reduce_count, int(sent_R.max()), links)


def moved_bytes(
    workload: Workload, exchanger: Exchanger, ops: Collection[str]
) -> tuple[Floats, dict[tuple[str, str], int]]:
    """(bytes each rank sends in exchanges of `ops`, bytes on each link in all exchanges) of the whole pass."""
    sent_R, links = np.zeros(exchanger.ranks), Counter[tuple[str, str]]()
    issued = [op for group in (workload.before, *workload.layers, workload.after) for op in group]
    distinct = {id(op): op.exchange for op in issued}
    for key, times in Counter(map(id, issued)).items():
        exchange = distinct[key]
        if exchange is None:
            continue
        timed = exchanger.timed(exchange)
        for link, nbytes in exchanger.alone(timed).link_bytes.items():
            links[link] += int(times * nbytes)
        if exchange.op in ops:
            sent_R += times * timed.wire_bytes_R
    return sent_R, dict(links)
