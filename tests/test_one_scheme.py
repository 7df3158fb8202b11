"""One definition, three users: for every scheme the bytes of the formula, of the packed buffers, of the simulated links
and of a real gloo run.

If this fails, somebody counts bytes twice: codecs say sizes (`reference.core.scheme`), everybody else asks them.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from thinwire.reference.allreduce import all_reduce_local, executable
from thinwire.reference.catalog import scheme, schemes
from thinwire.reference.core.schedule import Schedule, build
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.quantize import encode_flat
from thinwire.sim.costs.profile import FabricProfile, Protocol
from thinwire.sim.events.collective import run_alone, time_schedule
from thinwire.sim.events.network import Routes
from thinwire.topologies.load import load_cluster

from .reference import gloo

torch.set_num_threads(1)
RANKS = range(2, 9)
SIZES = (1, 127, 1000, 40 * gloo.FEATURES, 40 * gloo.FEATURES + 72)
SCHEMES = tuple(n for n, s in schemes().items() if n != "none" and not s.compresses_experts)  # all-reduces' alone
EXACT = ("flash-int4", "mxfp4", "flash2-int4-hier", "ring:int5-g32-sym", "tree:int8-g128-zp")


def islands(ranks: int) -> tuple[tuple[int, ...], ...]:
    """Two islands, of unequal size where the ranks are odd."""
    return tuple(range(ranks // 2)), tuple(range(ranks // 2, ranks))


def cases(ranks: int) -> list[dict[str, Any]]:
    return [
        {"scheme": name, "numel": numel, "seed": i, "islands": islands(ranks)}
        for name in SCHEMES
        for i, numel in enumerate(SIZES)
    ] + [
        {"scheme": name, "numel": 1000, "seed": exact, "islands": islands(ranks), "exact": exact}
        for name in EXACT
        for exact in (1, 300)
    ]


def schedule_of(name: str, ranks: int, numel: int, exact: int) -> Schedule:
    return build(executable(scheme(name), 2 * numel, 0, torch.bfloat16), ranks, numel, islands(ranks), exact=exact)


@lru_cache
def simulated_uplinks(schedule: Schedule) -> tuple[float, ...]:
    """Bytes on each GPU's link to the switch when the simulator runs the schedule."""
    cluster = load_cluster("8xh100-nvlink").take(schedule.ranks)
    primitives = {step.primitive for lane in schedule.lanes for step in lane.steps if step.transfers}
    perfect = tuple(
        Protocol("any", "all_reduce", p, schedule.ranks, 0.0, 0.0, ((1.0, 1.0),), 1, "assumed: perfect")
        for p in primitives
    )
    routes = Routes(cluster)
    fabric = FabricProfile("perfect", perfect, {}, {})
    timed = time_schedule(schedule, "any", "all_reduce", fabric, lambda _work, ranks: np.zeros(ranks), routes)
    link_bytes = run_alone(timed, routes).link_bytes
    return tuple(sum(b for (source, _), b in link_bytes.items() if source == gpu) for gpu in cluster.gpus)


@pytest.fixture(scope="module", params=RANKS)
def real(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, list[list[dict[str, Any]]]]:
    """Every case run by a real gloo group of so many processes."""
    ranks = request.param
    return ranks, gloo.run(tmp_path_factory.mktemp(f"gloo{ranks}"), ranks, cases(ranks))


def test_formula_simulator_and_real_run_count_the_same_bytes(real: tuple[int, list[list[dict[str, Any]]]]) -> None:
    ranks, results = real
    for number, case in enumerate(cases(ranks)):
        schedule = schedule_of(case["scheme"], ranks, case["numel"], case.get("exact", 0))
        formula = schedule.sent_bytes()
        on_links = simulated_uplinks(schedule)
        for rank in range(ranks):
            sent = sum(results[rank][number]["sent"].values())
            assert sent == formula[rank] == on_links[rank], (case, rank)


def test_real_ranks_end_with_the_bits_of_the_local_group(real: tuple[int, list[list[dict[str, Any]]]]) -> None:
    ranks, results = real
    for number, case in enumerate(cases(ranks)):
        partials = [gloo.partial(case, rank) for rank in range(ranks)]
        local = all_reduce_local(
            partials,
            case["scheme"],
            calibration=gloo.calibrated(case, ranks),
            islands=islands(ranks),
            group=LocalGroup(ranks),
            exact=case.get("exact", 0),
        )
        assert {results[rank][number]["hash"] for rank in range(ranks)} == {gloo.digest(local[0])}, case


@pytest.mark.parametrize("name", SCHEMES)
def test_buffers_are_as_long_as_the_formula_says(name: str) -> None:
    found = scheme(name)
    for numel in (*SIZES, 0):
        case = {"scheme": name, "numel": numel}
        values = gloo.partial(case, 0).reshape(-1).float()
        calibration = gloo.calibrated(case, 2)
        for codec, rank in ((found.reduce, 0), (found.gather, None)):
            buffer = encode_flat(values, codec, calibration=calibration, rank=rank)
            assert buffer.dtype == torch.uint8 and buffer.is_contiguous()
            assert buffer.numel() == codec.wire_bytes(numel)
