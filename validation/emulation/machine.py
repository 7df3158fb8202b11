"""An emulated machine as the simulator knows any: a cluster file written from link settings, and a profile.

Links are the switch's settings and nothing else. What a profile holds comes from a calibration of other things than
those predicted (`emulate_fit`): seconds of compute segments and codec kernels, and what gloo makes of a link. The
program that paced ranks sleep and send by is the one the simulator prices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.core.architecture import ModelConfig
from thinwire.sim.costs.attention import CORRECTIONS, AttentionModel
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.decode_attention import SHARE_NODES, DecodeAttentionModel
from thinwire.sim.costs.elementwise import OPS, ElementwiseModel, OpCost
from thinwire.sim.costs.gemm import TILES, GemmModel, GpuFacts, Roofline
from thinwire.sim.costs.profile import (
    Baseline,
    CodecCost,
    CodecKernel,
    FabricProfile,
    GpuProfile,
    Profile,
    Protocol,
    Quantity,
)
from thinwire.sim.events.exchange import Exchanger, slowdown
from thinwire.sim.predict import WhatIf, predict
from thinwire.sim.workload import Prompt, build
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.load import load_cluster
from thinwire.validation.emulation.namespaces import Links

GPU = "emulated"
LIBRARY = "gloo"
PRIMITIVES = {"ring": "ring", "all_to_all": "two_step", "all_gather": "two_step", "reduce_scatter": "two_step"}
"""Primitive of a schedule -> the collective whose calibration says what gloo makes of it."""
NOTHING = 1e18  # a rate at which what is counted elsewhere takes no time
NO_DELAY_S = 1e-9  # the cluster's links want a positive latency

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "intermediate_size": 2816,
    "vocab_size": 4096,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
"""The model that is run: 25 MB of fp32 weights a layer, so that every layer comes from memory, as on a GPU."""
TOKENS = 256


@dataclass(frozen=True, slots=True)
class Segments:
    """Seconds of what a rank computes between its collectives."""

    embedding_s: float
    attention_s: float  # the norm before it included
    mlp_s: float
    head_s: float


PACED_SEGMENTS = Segments(0.0005, 0.008, 0.012, 0.0005)
KINDS: tuple[Literal["encode", "reduce", "decode"], ...] = ("encode", "reduce", "decode")
PACED_VALUE_S = {
    "bf16": (0.5e-9, 0.5e-9, 0.5e-9),
    "int8-g128-zp": (1.0e-9, 1.0e-9, 0.8e-9),
    "int4-g128-zp": (1.5e-9, 1.5e-9, 1.0e-9),
}
PACED_CODECS = tuple(
    CodecKernel(codec, kind, 50e-6, value_s, "assumed: paced ranks sleep for it, so any cost is as true")
    for codec, costs in PACED_VALUE_S.items()
    for kind, value_s in zip(KINDS, costs, strict=True)
)


@dataclass(frozen=True, slots=True)
class Wire:
    """What gloo makes of links: seconds a step, and the share of a link's rate that bytes get."""

    step_s: float
    efficiency: float


# ---- the cluster


def cluster_of(links: Links, ranks: int, folder: Path) -> Cluster:
    """The cluster of some link settings, by way of the TOML file that a user would write."""
    (folder / f"{GPU}.toml").write_text(gpu_text())
    path = folder / f"{links.name}-{ranks}.toml"
    path.write_text(cluster_text(links, ranks))
    return load_cluster(path)


def gpu_text() -> str:
    """The file of the GPU that a core of this machine stands for; what it takes is in the profile's segments."""
    said = 'source = "assumed: the profile has the seconds of what a core computes"'
    return f"""name = "{GPU}"
title = "One core of this machine"
memory = {{ value = 1, unit = "TB", {said} }}
memory_bandwidth = {{ value = 10, unit = "GB/s", {said} }}
sm_count = {{ value = 1, unit = "SM", {said} }}

[peak]
bf16 = {{ value = 100, unit = "GFLOP/s", {said} }}
"""


def cluster_text(links: Links, ranks: int) -> str:
    """The machine file of some link settings: ranks on a switch, or on one switch an island with links between."""
    islands = links.islands or (tuple(range(ranks)),)
    switch = {rank: f"switch{number}" for number, island in enumerate(islands) for rank in island}
    nodes = [f'    {{ name = "rank{rank}", kind = "gpu" }},' for rank in range(ranks)]
    nodes += [f'    {{ name = "switch{number}", kind = "switch" }},' for number in range(len(islands))]
    said = "measured: what the switch is set to"

    def wire(source: str, target: str, rate_bytes_per_s: float, latency_s: float) -> str:
        return (
            f'\n[[topology.links]]\nsource = "{source}"\ntarget = "{target}"\n'
            f'bandwidth = {{ value = {rate_bytes_per_s!r}, unit = "B/s", source = "{said}" }}\n'
            f'latency = {{ value = {latency_s!r}, unit = "s", source = "{said}" }}\n'
        )

    hop_s = max(NO_DELAY_S, links.delay_s / 2)
    text = "".join(wire(f"rank{r}", switch[r], links.port_bytes_per_s(r), hop_s) for r in range(ranks))
    if links.core_bytes_per_s is not None:
        pairs = [(a, b) for a in range(len(islands)) for b in range(a + 1, len(islands))]
        text += "".join(wire(f"switch{a}", f"switch{b}", links.core_bytes_per_s, NO_DELAY_S) for a, b in pairs)
    named = ", ".join("[" + ", ".join(f'"rank{rank}"' for rank in island) + "]" for island in islands)
    head = [
        f'name = "emulated-{links.name}"',
        f'title = "{ranks} ranks in network namespaces: {links.name}"',
        f'gpu = "{GPU}.toml"',
        f'fabric = "{LIBRARY}"',
        'peer_to_peer = "over TCP, through a switch of our own"',
        "",
        "[topology]",
        'kind = "explicit"',
        f"nodes = [\n{chr(10).join(nodes)}\n]",
        f"islands = [{named}]",
    ]
    return "\n".join(head) + "\n" + text


# ---- the profile


def profile_of(segments: Segments, codecs: Sequence[CodecKernel], wires: Mapping[str, Wire], ranks: int) -> Profile:
    """The profile of a machine whose ranks compute in given segments.

    The simulator adds up the kernels of a segment, so a segment's seconds stand at one kernel of it (rotation for
    attention, activation for the MLP) and the others take none; the norm, which all have, holds the head's.
    """
    said = "measured: segments of this run's calibration"
    seconds = {
        "embedding": segments.embedding_s,
        "rope": max(0.0, segments.attention_s - segments.head_s),
        "silu_mul": max(0.0, segments.mlp_s - segments.head_s),
        "add_rms_norm": segments.head_s,
    }
    roofline = Roofline(0.0, 0.0, 1.0, (1.0, *[0.0] * (len(TILES) - 1)))
    free = Quantity(1.0, "assumed: not used, codec kernels are timed")
    return Profile(
        GpuProfile(
            name=GPU,
            gpu=GPU,
            gemm={"bf16": GemmModel(GpuFacts(GPU, NOTHING, NOTHING, 1), "bf16", roofline, None, said)},
            attention=_no_attention(said),
            decode_attention=_no_decode_attention(said),
            elementwise=ElementwiseModel(GPU, NOTHING, {op: OpCost(seconds.get(op, 0.0), 1.0, said) for op in OPS}),
            sustained_flops_per_s={"bf16": Quantity(NOTHING, said)},
            kernel_gap_s=Quantity(0.0, said),
            codec=CodecCost(
                Quantity(0.0, free.source), Quantity(0.0, free.source), free, free, timed=tuple(codecs)
            ),
            assumptions=("a segment's seconds stand at one of its kernels",),
        ),
        fabric_of(wires, ranks),
    )  # fmt: skip


def calibrated(calibration: Mapping[str, Any], of: str, ranks: int) -> Profile:
    """The profile of a case's calibration: of its middle (`median`) or fastest (`min`) passes."""
    wires = {name: Wire(**found) for name, found in calibration["wires"].items()}
    if "segments" not in calibration:
        return profile_of(PACED_SEGMENTS, PACED_CODECS, wires, ranks)
    codecs = [CodecKernel(**found) for found in calibration["codecs"][of]]
    return profile_of(Segments(**calibration["segments"][of]), codecs, wires, ranks)


def _no_attention(said: str) -> AttentionModel:
    times: dict[str, Any] = dict.fromkeys(("floor_s", "token_block_s", "lane_block_s", "tile_s"), 0.0)
    passes: dict[str, Any] = dict.fromkeys(("warm_passes", "cold_passes", "write_weight"), 0.0)
    ones: dict[str, Any] = dict.fromkeys(("efficiency", "tail_speed", "balance", "cache_bytes", "cache_steepness"), 1.0)
    return AttentionModel(
        GPU, NOTHING, NOTHING, 1, **times, **passes, **ones, correction=(0,) * CORRECTIONS, source=said
    )


def _no_decode_attention(said: str) -> DecodeAttentionModel:
    times: dict[str, Any] = dict.fromkeys(("floor_s", "regroup_s", "split_s", "unit_s", "overlap"), 0.0)
    ones: dict[str, Any] = dict.fromkeys(("split_tokens", "cache_bytes", "cache_speedup", "cache_steepness"), 1.0)
    rates: dict[str, Any] = dict.fromkeys(("unit_bytes_per_s", "whole_unit_bytes_per_s"), NOTHING)
    return DecodeAttentionModel(GPU, NOTHING, 1, **times, **ones, **rates, shares=(1.0,) * SHARE_NODES, source=said)


def fabric_of(wires: Mapping[str, Wire], ranks: int) -> FabricProfile:
    """gloo's part: `wires` by collective, ring and two_step."""
    protocols = [
        Protocol(LIBRARY, op, primitive, ranks, 0.0, wire.step_s, ((1.0, wire.efficiency),), 1,
                 "measured: exchanges of this run's calibration", posted=True)
        for primitive, collective in PRIMITIVES.items()
        for wire in (wires[collective],)
        for op in ("all_reduce", "all_gather")
    ]  # fmt: skip
    baseline = {"all_reduce": (Baseline(LIBRARY, "ring"),), "all_gather": (Baseline(LIBRARY, "two_step"),)}
    return FabricProfile(LIBRARY, tuple(protocols), baseline, {"separate": LIBRARY, "fused": LIBRARY})


# ---- what is predicted, and what paced ranks do


def predicted_s(
    model: ModelConfig, cluster: Cluster, scheme: str, profile: Profile, slow_ranks: Mapping[int, float] | None = None
) -> float:
    """TTFT by the simulator's main path."""
    what_if = WhatIf(dict(slow_ranks or {}))
    return predict(model, cluster, find_scheme(scheme), Prompt(1, TOKENS), profile, what_if).ttft_s


def predicted_bytes(model: ModelConfig, cluster: Cluster, scheme: str, profile: Profile) -> list[int]:
    """Bytes that each rank puts on its link."""
    traffic = predict(model, cluster, find_scheme(scheme), Prompt(1, TOKENS), profile).traffic
    gpus = {gpu: rank for rank, gpu in enumerate(cluster.gpus)}
    sent = [0] * len(gpus)
    for (source, _), nbytes in traffic.link_bytes.items():
        if source in gpus:
            sent[gpus[source]] += nbytes
    return sent


def programs(
    model: ModelConfig, cluster: Cluster, scheme: str, profile: Profile, slow_ranks: Mapping[int, float] | None = None
) -> list[list[list[Any]]]:
    """What each paced rank does, op by op: the simulator's own list, with its seconds."""
    ranks = len(cluster.gpus)
    slow_R = slowdown(ranks, slow_ranks or {})
    cost = CostModel(profile, cluster.gpu)
    exchanger = Exchanger(cluster, cost, slow_R)
    workload = build(model, find_scheme(scheme), Prompt(1, TOKENS), ranks)
    islands = [list(island) for island in cluster.islands] if len(cluster.islands) > 1 else None
    found: list[list[list[Any]]] = [[] for _ in range(ranks)]
    for op in (op for group in (workload.before, *workload.layers, workload.after) for op in group):
        seconds = sum(cost.kernel_s(kernel) for kernel in op.kernels)
        if op.exchange is None:
            for rank, program in enumerate(found):
                program.append(["compute", seconds * slow_R[rank]])
            continue
        assert op.exchange.op != "passing"
        if op.exchange.exact:
            raise ValueError(f"emulated ranks send no exact values beside coded ones: {scheme}")
        timed = exchanger.timed(op.exchange)
        chosen = op.exchange.scheme.name if op.exchange.scheme else f"{_baseline(profile, op.exchange.op)}:bf16"
        for rank, program in enumerate(found):
            waits = [[float(step.codec_s_R[rank] * slow_R[rank]) for step in lane] for lane in timed.lanes]
            program.append(["exchange", chosen, op.exchange.numel, op.exchange.op, islands, waits])
    return found


def _baseline(profile: Profile, op: str) -> str:
    return profile.fabric.baseline[op][0].collective
