"""Time of cross-attention layers with a long visual context: LV-XAttn beside ring attention and all-gather.

The path is that of `sim.predict`: workload, engine, schedules, network, timeline. Pure, as that is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thinwire.reference.core.cross_schedule import Wire, crossover_visual_tokens
from thinwire.reference.core.scheme import Codec
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.profile import Profile
from thinwire.sim.cross.workload import METHODS, CrossModel, CrossPrompt, Method, build, memory_bytes
from thinwire.sim.events.exchange import Exchanger, slowdown
from thinwire.sim.events.timeline import Breakdown, Timeline
from thinwire.sim.predict import check_precisions, moved_bytes, run, timeline_of
from thinwire.sim.report import OVERLAP, codec_sentence, kernel_sentences, machine_sentences, own_codec_sentences
from thinwire.topologies.cluster import Cluster

BASELINE: Method = "ring-attention"
BF16_WIRE = Wire()  # log-sum-exps in fp32


@dataclass(frozen=True)
class CrossPrediction:
    """Time of the cross-attention layers of one prefill, and what it rests on."""

    model: CrossModel
    cluster: Cluster
    method: Method
    prompt: CrossPrompt
    partial: Codec  # of travelling partial outputs, which LV-XAttn alone has
    profile: str
    timeline: Timeline
    sent_bytes_R: tuple[int, ...]
    link_bytes: Mapping[tuple[str, str], int]
    memory_bytes: Mapping[str, float]  # of one GPU, by what it is for
    assumptions: tuple[str, ...]

    @property
    def time_s(self) -> float:
        """Seconds until the last GPU has left the last of the layers."""
        return self.timeline.ttft_s

    @property
    def breakdown(self) -> Breakdown:
        """Where they go."""
        return self.timeline.breakdown()

    @property
    def tp(self) -> int:
        """GPUs the tokens are cut over."""
        return len(self.cluster.gpus)

    @property
    def fits(self) -> bool:
        """Whether a GPU has the memory."""
        return sum(self.memory_bytes.values()) <= self.cluster.gpu.memory_bytes

    def to_dict(self) -> dict[str, Any]:
        """A row of `compare --workload cross-attention --json`; times in milliseconds."""
        config = self.model.config
        return {
            "scheme": self.method,
            "model": config.name,
            "cluster": self.cluster.name,
            "tp": self.tp,
            "gpus": list(self.cluster.indices),
            "batch": self.prompt.batch,
            "text_tokens": self.prompt.text_tokens,
            "visual_tokens": self.prompt.visual_tokens,
            "weights": self.prompt.weights,
            "cross_layers": self.model.layers,
            "heads": self.model.heads,
            "kv_heads": self.model.kv_heads,
            "head_dim": self.model.head_dim,
            "partial": self.partial.spec if self.method == "lv-xattn" else None,
            "time_ms": self.time_s * 1e3,
            "breakdown_ms": self.breakdown.to_dict(),
            "wire_bytes_per_gpu": max(self.sent_bytes_R),
            "memory_gb_per_gpu": sum(self.memory_bytes.values()) / 1e9,
            "fits_memory": self.fits,
            "profile": self.profile,
            "assumptions": list(self.assumptions),
        }


def predict_cross(
    model: CrossModel,
    cluster: Cluster,
    method: Method,
    prompt: CrossPrompt,
    profile: Profile,
    wire: Wire = BF16_WIRE,
    folded: bool = True,
) -> CrossPrediction:
    """Time of the cross-attention layers on all GPUs of `cluster`; `folded` as in `predict`.

    Raises:
        ValueError: an unknown method, sizes that do not go together, a precision the GPU lacks.
    """
    ranks = len(cluster.gpus)
    check_precisions(model.config, cluster, prompt.weights, profile)
    workload = build(model, method, prompt, ranks, wire)
    cost = CostModel(profile, cluster.gpu)
    exchanger = Exchanger(cluster, cost, slowdown(ranks, {}))
    result, folds = run(workload, exchanger, cost, folded)
    sent_R, links = moved_bytes(workload, exchanger, {"all_gather", "passing"})
    memory = memory_bytes(model, method, prompt, ranks, wire.partial.bits_per_value)
    return CrossPrediction(
        model=model,
        cluster=cluster,
        method=method,
        prompt=prompt,
        partial=wire.partial,
        profile=profile.name,
        timeline=timeline_of(result, folds),
        sent_bytes_R=tuple(int(sent) for sent in sent_R),
        link_bytes=links,
        memory_bytes=memory,
        assumptions=_assumptions(model, method, prompt, wire, cost, exchanger),
    )


def _assumptions(
    model: CrossModel, method: Method, prompt: CrossPrompt, wire: Wire, cost: CostModel, exchanger: Exchanger
) -> tuple[str, ...]:
    sentences = [
        f"the {model.layers} cross-attention layers of one prefill alone (norm, projections, cross-attention, MLP): no "
        "self-attention layers, no vision encoder, no logits",
        "tokens, not heads, are cut over the GPUs: each holds all weights of these layers, and keys and values are "
        "projected where their visual tokens lie, which come in the model's width",
        *kernel_sentences((prompt.weights,), cost),
        "cross-attention takes what the model of causal prefill attention makes of as many keys per query: no "
        "cross-attention is among the measurements it is fitted to, nor are keys cut in pieces to fill the GPU",
    ]
    if method in ("lv-xattn", "ring-attention"):
        sentences += [
            "partial outputs are merged in fp32 by a kernel that costs a residual addition",
            "a hop round the ring is a call of its own: it is launched as a ring collective is, with the efficiency of "
            "one whose hops are as large; no send-and-receive is among the measurements",
        ]
    if method != "none":
        sentences.append(OVERLAP)
    if method == "lv-xattn" and not wire.partial.is_raw:
        sentences.append(codec_sentence(cost, fused=False))
        sentences += own_codec_sentences(wire.partial)
    return tuple(dict.fromkeys(sentences + machine_sentences((prompt.weights,), cost, exchanger)))


@dataclass(frozen=True, slots=True)
class CrossComparison:
    """Ways to do the same cross-attention, fastest first, and the one they are compared with.

    crossover_visual_tokens: the fewest from which on LV-XAttn sends less than ring attention and all-gather.
    """

    baseline: CrossPrediction
    rows: tuple[CrossPrediction, ...]
    crossover_visual_tokens: int

    def speedup(self, row: CrossPrediction) -> float:
        """Time of the baseline over the row's."""
        return self.baseline.time_s / row.time_s

    def to_dict(self) -> dict[str, Any]:
        """The document of `compare --workload cross-attention --json`."""
        return {
            "workload": "cross-attention",
            "baseline": self.baseline.to_dict(),
            "rows": [{**row.to_dict(), "speedup": self.speedup(row)} for row in self.rows],
            "crossover_visual_tokens": self.crossover_visual_tokens,
        }


def compare_cross(
    model: CrossModel,
    cluster: Cluster,
    prompt: CrossPrompt,
    profile: Profile,
    wire: Wire = BF16_WIRE,
    methods: Sequence[Method] = METHODS,
) -> CrossComparison:
    """`predict_cross` for each method; a method that takes more memory than there is, is a row that says so.

    Raises ValueError as that does, and where the layers do not fit whatever the method.
    """
    baseline = predict_cross(model, cluster, BASELINE, prompt, profile, wire)
    rows = [predict_cross(model, cluster, method, prompt, profile, wire) for method in dict.fromkeys(methods)]
    need = memory_bytes(model, "none", prompt, len(cluster.gpus), 0)
    if sum(need.values()) > cluster.gpu.memory_bytes:
        terms = " + ".join(f"{name} {nbytes / 1e9:.1f}" for name, nbytes in need.items() if nbytes)
        raise ValueError(
            f"{model.layers} cross-attention layers of {model.config.name} ({prompt.weights}, batch={prompt.batch}, "
            f"visual_tokens={prompt.visual_tokens}) do not fit {len(cluster.gpus)} x {cluster.gpu.name}: {terms} = "
            f"{sum(need.values()) / 1e9:.1f} GB a GPU, memory {cluster.gpu.memory_bytes / 1e9:.1f} GB"
        )
    crossover = crossover_visual_tokens(model.shape(prompt, len(cluster.gpus)), wire)
    order = {method: place for place, method in enumerate(METHODS)}  # of methods that differ by rounding
    rows.sort(key=lambda row: (float(f"{row.time_s:.9g}"), order[row.method]))
    return CrossComparison(baseline, tuple(rows), crossover)
