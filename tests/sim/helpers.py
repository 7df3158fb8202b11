"""Hand-made machines, fabrics and profiles for the simulator's tests: round numbers, none of them a real machine's.

What is not a closed form is tested on the catalog's machines and shipped profiles, with assertions that hold whatever
their numbers are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.mixers import Attention
from thinwire.reference.core.schedule import Op, Primitive, Schedule, Work
from thinwire.reference.families.config import load_model
from thinwire.sim.costs.attention import CORRECTIONS, AttentionModel
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.decode_attention import SHARE_NODES, DecodeAttentionModel
from thinwire.sim.costs.elementwise import OPS, ElementwiseModel, OpCost
from thinwire.sim.costs.gemm import GemmModel
from thinwire.sim.costs.profile import (
    Baseline,
    CodecCost,
    FabricProfile,
    GpuProfile,
    Profile,
    Protocol,
    Quantity,
)
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.events.collective import CodecSeconds, TimedSchedule, time_schedule
from thinwire.sim.events.exchange import Exchanger, slowdown
from thinwire.sim.events.network import Floats, Routes
from thinwire.topologies.cluster import Cluster, Gpu
from thinwire.topologies.generators import Wire, switched_node
from thinwire.topologies.load import load_cluster

GB_PER_S = 1e9
US = 1e-6
CATALOG = (
    "2x8xh100-ib",
    "4xl4-pcie",
    "8xa100-nvlink",
    "8xb200-nvlink",
    "8xh100-nvlink",
    "8xh200-nvlink",
    "8xl40s-pcie",
    "8xmi300x-xgmi",
    "8xrtx-pro-6000-pcie",
    "8xrtx4090-pcie",
)
PORT_BYTES_PER_S = 40 * GB_PER_S
LINK_LATENCY_S = 0.7 * US
ROUTE_LATENCY_S = 2 * LINK_LATENCY_S  # up to the switch and down again

GPU = Gpu(
    name="made-up",
    peak_flops_per_s={"bf16": 100e12, "fp8": 200e12},
    memory_bytes=1e12,
    memory_bandwidth_bytes_per_s=1000 * GB_PER_S,
    sm_count=100,
    l2_bytes=None,
    sources={},
)


def switched(ranks: int, reduces: bool = False, flow_cap_bytes_per_s: float | None = None) -> Cluster:
    """GPUs on one switch: no two transfers of a ring share a link."""
    port = Wire(PORT_BYTES_PER_S, LINK_LATENCY_S, flow_cap_bytes_per_s)
    node = switched_node(ranks, port, reduces=reduces)
    return node.cluster(name=f"switched-{ranks}", title="", gpu=GPU, fabric="made-up")


PRIMITIVES: tuple[Primitive, ...] = ("ring", "tree", "nvls", "reduce_scatter", "all_gather", "all_to_all")


def protocol(primitive: str, ranks: int = 8, library: str = "lib", op: str = "all_reduce", **given: float) -> Protocol:
    """Constants that differ from primitive to primitive, so that none can stand for another unseen."""
    index = PRIMITIVES.index(primitive) if primitive in PRIMITIVES else 0
    launch_s = given.get("launch_s", (3 + index) * US)
    hop_s = given.get("hop_s", (0.5 + 0.25 * index) * US)
    efficiency = given.get("efficiency", 0.9 - 0.07 * index)
    return Protocol(library, op, primitive, ranks, launch_s, hop_s, ((1.0, efficiency),), 1, "measured: made up")


def fabric(ranks: int = 8, protocols: Iterable[Protocol] | None = None, library: str = "lib") -> FabricProfile:
    """All primitives by one library, unless given."""
    known = tuple(protocols) if protocols is not None else tuple(protocol(p, ranks, library) for p in PRIMITIVES)
    baseline = {"all_reduce": (Baseline(library, "ring"), Baseline(library, "two_step"))}
    return FabricProfile("made-up", known, baseline, {"separate": library, "fused": library})


IDEAL_ATTENTION = AttentionModel(
    gpu="ideal",
    peak_flops_per_s=1e15,
    memory_bandwidth_bytes_per_s=1e12,
    sm_count=100,
    floor_s=1e-5,
    token_block_s=0.0,
    lane_block_s=0.0,
    efficiency=0.5,
    tail_speed=1.0,
    tile_s=0.0,
    balance=1.0,
    warm_passes=0.0,
    cold_passes=1.0,
    cache_bytes=1e6,
    cache_steepness=12.0,
    write_weight=1.0,
    correction=(0,) * CORRECTIONS,
    source="test",
)


IDEAL_DECODING = DecodeAttentionModel(
    gpu="ideal",
    memory_bandwidth_bytes_per_s=1e12,
    sm_count=100,
    floor_s=1e-5,
    regroup_s=0.0,
    split_s=0.0,
    split_tokens=256.0,
    unit_s=0.0,
    overlap=0.0,
    unit_bytes_per_s=1e15,
    whole_unit_bytes_per_s=1e15,
    cache_bytes=1e6,
    cache_speedup=1.0,
    cache_steepness=1.0,
    shares=(0.5,) * SHARE_NODES,
    source="test",
)


def gpu_profile() -> GpuProfile:
    """Rooflines without corrections: every cost grows with every size."""
    attention = replace(
        IDEAL_ATTENTION,
        gpu=GPU.name,
        peak_flops_per_s=100e12,
        memory_bandwidth_bytes_per_s=1000 * GB_PER_S,
        floor_s=4 * US,
        source="measured: made up",
    )
    share = OpCost(2 * US, 0.8, "measured: made up")
    return GpuProfile(
        name="made-up",
        gpu=GPU.name,
        gemm={p: GemmModel.roofline(GPU.peak_flops_per_s[p], 1e12, 100, p, name=GPU.name) for p in ("bf16", "fp8")},
        attention=attention,
        decode_attention=replace(IDEAL_DECODING, gpu=GPU.name, floor_s=4 * US, source="measured: made up"),
        elementwise=ElementwiseModel(GPU.name, 1000 * GB_PER_S, dict.fromkeys(OPS, share)),
        sustained_flops_per_s={p: Quantity(v, "measured: made up") for p, v in (("bf16", 60e12), ("fp8", 110e12))},
        kernel_gap_s=Quantity(1.5 * US, "measured: made up"),
        codec=CodecCost(*(Quantity(v, "measured: made up") for v in (2 * US, 5 * US, 0.5, 0.25))),
    )


def made_up(ranks: int = 8) -> Profile:
    """The whole made-up profile."""
    return Profile(gpu_profile(), fabric(ranks))


def no_codec(_work: Iterable[Work], ranks: int) -> Floats:
    """Codecs that cost nothing."""
    return np.zeros(ranks)


KIND_S: Mapping[str, float] = {"encode": 2 * US, "reduce": 7 * US, "decode": 11 * US}


def seconds_by_kind(work: Iterable[Work], ranks: int) -> Floats:
    """One pass for each kind of work a rank does in a step, whatever its size."""
    found = np.zeros(ranks)
    for rank, kind in {(w.rank, w.kind) for w in work if not w.codec.is_raw}:
        found[rank] += KIND_S[kind]
    return found


def attach(
    schedule: Schedule,
    routes: Routes,
    costs: FabricProfile | None = None,
    op: Op = "all_reduce",
    codec_s: CodecSeconds = no_codec,
) -> TimedSchedule:
    """A schedule with the made-up fabric's seconds."""
    return time_schedule(schedule, "lib", op, costs or fabric(schedule.ranks), codec_s, routes)


@cache
def machine(name: str, tp: int | None = None) -> tuple[Cluster, Profile]:
    """The first `tp` GPUs of a catalog machine and its shipped profile."""
    found = load_cluster(name)
    found = found if tp is None else found.take(tp)
    return found, load_profile(found)


def exchanger(cluster: Cluster, profile: Profile, slow_ranks: dict[int, float] | None = None) -> Exchanger:
    """An exchanger of all GPUs of a cluster."""
    return Exchanger(cluster, CostModel(profile, cluster.gpu), slowdown(len(cluster.gpus), slow_ranks or {}))


@cache
def small(name: str, layers: int) -> ModelConfig:
    """A catalog model with few layers."""
    return load_model(name).with_layers(layers)


def with_attention(model: ModelConfig, **changes: Any) -> ModelConfig:
    """The model with something else in every layer's attention."""
    return replace(
        model,
        layers=tuple(
            replace(layer, mixer=replace(layer.mixer, **changes)) if isinstance(layer.mixer, Attention) else layer
            for layer in model.layers
        ),
    )


def with_window(model: ModelConfig, window: int) -> ModelConfig:
    """The model with another window where its layers have one."""
    changed = with_attention(model, window=window).layers
    kept = [isinstance(layer.mixer, Attention) and layer.mixer.window is None for layer in model.layers]
    pairs = zip(model.layers, changed, kept, strict=True)
    return replace(model, layers=tuple(old if keep else new for old, new, keep in pairs))


def close(a: float, b: float, relative: float = 1e-9) -> bool:
    """Equal but for the order of sums."""
    return abs(a - b) <= relative * max(abs(a), abs(b), 1e-12)


def all_close(a: Sequence[float], b: Sequence[float], relative: float = 1e-9) -> bool:
    """`close`, item by item."""
    return len(a) == len(b) and all(close(x, y, relative) for x, y in zip(a, b, strict=True))
