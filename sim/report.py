"""What a prediction says: numbers for programs, sentences for people."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import exp
from typing import Any, get_args

from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.lookup import entry_of
from thinwire.reference.core.mixers import Attention
from thinwire.reference.core.precision import kv_of
from thinwire.reference.core.scheme import Codec, Phase, Raw, Scheme
from thinwire.reference.mixed import AnyScheme, MixedScheme, entries, plan_of
from thinwire.sim.choices import Precision, Weights
from thinwire.sim.costs.cost import CODEC_SPREADS, CostModel
from thinwire.sim.costs.spread import ANOTHER_HOST, CONFIDENCE, Spread
from thinwire.sim.events.exchange import Exchanger
from thinwire.sim.events.timeline import Breakdown, Timeline
from thinwire.sim.grounds import Ground, by_source, of, once, rules
from thinwire.sim.interval import (
    ALL_COMPUTE,
    CODECS,
    COMPUTE_ELSEWHERE,
    EXCHANGES,
    EXCHANGES_ELSEWHERE,
    GAPS,
    Interval,
    Kernels,
    interval_of,
    transport,
)
from thinwire.sim.layers import precisions, said_of
from thinwire.sim.shapes import FP8_ROWS
from thinwire.sim.sharing import Sharing, acting
from thinwire.sim.showing.views import OfPrediction
from thinwire.sim.workload import Prompt, memory_bytes
from thinwire.topologies.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of one forward pass. The links carry the all-reduces and the gathering of the logits."""

    all_reduce_count: int
    layer_bytes_per_gpu: int  # sent by the GPU that sends most, in all but the logits' gathering
    link_bytes: Mapping[tuple[str, str], int]


@dataclass(frozen=True, repr=False)
class Prediction(OfPrediction):
    """Time to first token and what it rests on."""

    model: ModelConfig
    cluster: Cluster
    scheme: AnyScheme
    prompt: Prompt
    profile: str
    timeline: Timeline
    traffic: Traffic
    basis: tuple[Ground, ...]
    cost: CostModel = field(repr=False, compare=False)
    kernels: Kernels = field(repr=False, compare=False)
    sharing: Sharing
    slow_ranks: Mapping[int, float] = field(default_factory=dict)  # rank -> factor on its kernels

    def __hash__(self) -> int:  # of what was asked and the answer: some of what equality looks at are dicts
        return hash((self.model.name, self.cluster, self.scheme, self.prompt, self.profile, self.sharing, self.ttft_s))

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Every sentence it rests on; `sim.grounds.grounds` says of what class each is, and which matter most."""
        return tuple(ground.text for ground in self.basis)

    @property
    def acting(self) -> AnyScheme:
        """The scheme, less codecs of exchanges that there are none of."""
        return acting(self.scheme, self.model, self.sharing)

    @property
    def compresses_experts(self) -> bool:
        """Do tokens travel to experts compressed?"""
        return self.tp > 1 and any(entry.compresses_experts for entry in entries(self.acting))

    @property
    def memory_bytes(self) -> dict[str, float]:
        """What one GPU holds: weights, KV cache, activations."""
        return memory_bytes(self.model, self.prompt, self.sharing)

    @cached_property
    def interval(self) -> Interval:
        """Where the TTFT lies with a probability of 90 %, by what the profile's parts are off by."""
        return interval_of(self.timeline, self.kernels, self.cost, fused_codecs(self.scheme))

    @property
    def ttft_s(self) -> float:
        """Seconds until the first token's logits are on every rank."""
        return self.timeline.ttft_s

    @property
    def breakdown(self) -> Breakdown:
        """Where they go."""
        return self.timeline.breakdown()

    @property
    def tp(self) -> int:
        """TP degree."""
        return len(self.cluster.gpus)

    @property
    def bits_per_value(self) -> dict[str, float]:
        """Bits a value costs in the reduce and in the gather phase, over the sync points that stay; of a mixed scheme
        the mean. Zero where nothing is sent. Where experts' tokens travel, in their dispatch and combine as well.
        """
        plan = plan_of(self.scheme, self.model.num_layers)
        kept = [entry for entry in plan.values() if entry is not None and entry.collective != "none" and self.tp > 1]
        reduced = [] if self.sharing.attention == "dp" else kept  # then nothing is reduced
        found = {
            "reduce": sum(entry.reduce.bits_per_value for entry in reduced) / max(1, len(reduced)),
            "gather": sum(entry.gather.bits_per_value for entry in reduced) / max(1, len(reduced)),
        }
        if self.sharing.travels and self.model.is_mixture:
            for phase in get_args(Phase):
                found[phase] = sum((e.of_experts(phase) or Raw()).bits_per_value for e in kept) / max(1, len(kept))
        return found

    def to_dict(self) -> dict[str, Any]:
        """The document of `predict --json`; times in milliseconds."""
        return {
            "model": self.model.name,
            "cluster": self.cluster.name,
            "scheme": self.scheme.name,
            "tp": self.tp,
            "gpus": list(self.cluster.indices),
            "batch": self.prompt.batch,
            "input_tokens": self.prompt.input_tokens,
            "weights": said_of(self.model, self.prompt.weights),
            "kv": kv_of(self.model.checkpoint, self.prompt.kv),
            **(shared_out(self.sharing) if self.model.is_mixture else {}),
            "ttft_ms": self.ttft_s * 1e3,
            "ttft_ms_interval": [self.interval.low_s * 1e3, self.interval.high_s * 1e3],
            "interval_confidence": CONFIDENCE,
            "interval_another_host_share": self.interval.another_host_share,
            "breakdown_ms": self.breakdown.to_dict(),
            "wire_bytes_per_gpu": self.traffic.layer_bytes_per_gpu,
            "all_reduce_count": self.traffic.all_reduce_count,
            "bits_per_value": self.bits_per_value,
            "memory_gb_per_gpu": {name: nbytes / 1e9 for name, nbytes in self.memory_bytes.items()},
            "profile": self.profile,
            "assumptions": list(self.assumptions),
        }


def fused_codecs(scheme: AnyScheme) -> bool:
    """Do codec kernels run inside those of collectives, in all that is compressed?"""
    coded = [entry for entry in entries(scheme) if not entry.is_raw]
    return bool(coded) and all(entry.codec_launch == "fused" for entry in coded)


LAUNCHED = {"eager": "one by one", "graph": "as a CUDA graph"}


def shared_out(sharing: Sharing) -> dict[str, Any]:
    """How a mixture's experts are shared out, as documents say it."""
    return {
        "ep": sharing.ep,
        "attention": sharing.attention,
        "expert_exchange": sharing.exchange,
        "expert_skew": sharing.skew,
    }


MEGATRON = (
    "tensor parallelism as in Megatron-LM: every rank does the same work; embeddings are replicated and only the "
    "last token's logits are computed"
)
OWN_SEQUENCES = (
    "attention is data-parallel: every rank holds all that is dense, for sequences of its own, as even as can be; only "
    "experts' tokens travel, and an all-reduce's codec compresses nothing"
)


def sharing_sentences(
    model: ModelConfig, sharing: Sharing, schemes: Iterable[Scheme], several_nodes: bool = False
) -> list[str]:
    """How the ranks share the model out, and what is taken of its router."""
    sentences = [MEGATRON if sharing.dense_ranks == sharing.ranks else OWN_SEQUENCES]
    compressed = any(scheme.compresses_experts for scheme in schemes)
    if not model.is_mixture:
        return [*sentences, f"{model.name} has no experts: codecs of dispatch and combine do nothing"][: 1 + compressed]
    chosen = f"skewed ({sharing.skew:g}, seed {sharing.seed})" if sharing.skew else "uniform"
    sentences.append(
        f"the router's choices are {chosen}; the rank whose experts get most tokens sets the pace, by expected numbers"
    )
    if sharing.exchange == "all-to-all":
        sentences.append("a token travels once to each rank that holds any of its experts, and comes back summed up")
        if several_nodes:
            sentences.append(
                "between nodes too, where DeepEP's kernels for throughput send it once to a node and forward it there"
            )
    if compressed and not sharing.travels:
        sentences.append(
            "every rank has all tokens, so nothing is dispatched: codecs of dispatch and combine do nothing "
            "(--expert-exchange all-to-all or --attention dp would dispatch)"
        )
    return sentences


def served_sentences(model: ModelConfig, cost: CostModel) -> list[str]:
    """What whole prefills of mixtures were off by."""
    if not model.is_mixture:
        return []
    found = [spread for spread in cost.mixture.spreads if spread.part == "prefill"]
    said = []
    for spread in found:
        where = "beyond" if spread.up_to is None else f"up to {spread.up_to:,.0f} tokens"
        said.append(f"{exp(spread.bias):.2f} times as long {where}")
    return [
        "nothing is fitted to whole prefills of mixtures: what others published of them, as served, took in the median "
        f"{', '.join(said)}; the interval holds that, the number does not"
    ]


def assumptions(
    model: ModelConfig, sharing: Sharing, prompt: Prompt, scheme: AnyScheme, cost: CostModel, exchanger: Exchanger
) -> tuple[Ground, ...]:
    """Every sentence a prediction rests on: its own, then the machine's, then the profile's."""
    used = products_in(model, prompt.weights)
    found = [
        *rules(sharing_sentences(model, sharing, entries(scheme), len(exchanger.cluster.hosts) > 1)),
        *of("measured", ALL_COMPUTE, served_sentences(model, cost)),
        *rules(model.notes),
        *rules([
            f"one prefill of all {prompt.batch * prompt.input_tokens} tokens, nothing else on the GPUs; sampling and "
            "detokenising the first token are not counted"
        ]),
        *kernel_grounds(used, cost),
        *cache_grounds(model, prompt.weights, cost),
    ]  # fmt: skip
    for entry in entries(scheme):
        if not entry.is_raw:
            fused = entry.codec_launch == "fused"
            compiled = not fused and is_compiled(cost, entry.reduce, entry.gather)
            codec = cost.profile.gpu.codec
            if compiled:
                found += by_source(codec.compiled_source or "", CODECS, compiled_sentence(cost))
            else:
                source = (codec.fused_pass_s if fused else codec.separate_pass_s).source
                found += by_source(source, CODECS, codec_sentence(cost, fused))
            found += of("assumed", CODECS, own_codec_sentences(entry.reduce, entry.gather))
            found += of("measured", CODECS, [] if compiled else dear_codec_sentences(entry.reduce, entry.gather))
        found += rules(_left_whole(entry))
    if isinstance(scheme, MixedScheme):
        dropped = sum(entry is None for entry in (*scheme.attention, *scheme.mlp))
        found += rules([
            f"a scheme for each of {2 * scheme.layers} sync points, {dropped} of them dropped; what that costs in "
            "accuracy is not part of this number",
            *([scheme.source] if scheme.source else []),
        ])  # fmt: skip
    if scheme.sequence_split is not None:
        found += of("assumed", (), [OVERLAP])
    found += machine_grounds(used, cost, exchanger)
    return once([*found, *rules([interval_sentence(used, scheme, cost)])])


def _left_whole(entry: Scheme) -> list[str]:
    """What a scheme drops, and which tokens it leaves as they are."""
    said = []
    if entry.drop_attention_percent:
        said.append(
            f"sync-point drop takes the last {entry.drop_attention_percent:g} % of the blocks; what it costs in "
            "accuracy is not part of this number"
        )
    if entry.exempt_tokens:
        said.append(
            f"the first {entry.exempt_tokens} tokens of each sequence travel uncompressed, in an all-reduce of "
            "their own"
        )
    if entry.exempt_last_tokens:
        count = entry.exempt_last_tokens
        what = "token of each prompt travels" if count == 1 else f"{count} tokens of each prompt travel"
        said.append(f"the last {what} uncompressed, in the same messages as the others")
    return said


OVERLAP = "computation and communication overlap without slowing each other"


def products_in(model: ModelConfig, weights: Weights) -> tuple[Precision, ...]:
    """The precisions of a model's matrix products, but for its experts', routers and the head."""
    return tuple(dict.fromkeys(fmt for part, fmt in precisions(model, weights).items() if part != "experts"))


def cache_grounds(model: ModelConfig, weights: Weights, cost: CostModel) -> list[Ground]:
    """What the checkpoint says of precision where it was asked, what attention of these heads and windows rests on, and
    what the cache is in where that is not bf16.
    """
    found, gpu = rules(model.checkpoint.notes if weights == "auto" else ()), cost.profile.gpu
    mixers = [layer.mixer for layer, _ in model.distinct if isinstance(layer.mixer, Attention)]
    for head_dim, reach in sorted({(mixer.head_dim, mixer.reach) for mixer in mixers}, key=str):
        found += by_source(gpu.heads.source, "attention", *gpu.heads.sentences(gpu.gpu, head_dim, reach, cost.cache))
    if cost.cache != "bf16":
        why = "as the checkpoint says" if model.checkpoint.kv == cost.cache else "as asked"
        found += rules([f"keys and values are kept in {cost.cache}, {why}"])
    return found


def cache_sentences(model: ModelConfig, weights: Weights, cost: CostModel) -> list[str]:
    """`cache_grounds`, the sentences alone."""
    return [ground.text for ground in cache_grounds(model, weights, cost)]


def kernel_grounds(used: Collection[Precision], cost: CostModel) -> list[Ground]:
    """What compute kernels are held to over a whole prefill."""
    found = []
    for precision in used:
        ceiling = cost.profile.gpu.sustained_flops_per_s[precision]
        said = f"GEMMs never faster than {ceiling.value / 1e12:.0f} TFLOP/s in {precision} over a whole prefill"
        found += by_source(ceiling.source, ALL_COMPUTE, f"{said} ({ceiling.source})")
    gap = cost.gap_s
    said = f"kernels launched {LAUNCHED[cost.launch]}: {gap.value * 1e6:.1f} us between them ({gap.source})"
    return [*found, *by_source(gap.source, GAPS, said)]


def kernel_sentences(used: Collection[Precision], cost: CostModel) -> list[str]:
    """`kernel_grounds`, the sentences alone."""
    return [ground.text for ground in kernel_grounds(used, cost)]


def interval_sentence(used: Collection[Precision], scheme: AnyScheme, cost: CostModel) -> str:
    """What the interval rests on."""
    unused = {f"gemm {p}" for p in cost.profile.gpu.gemm if p not in (*used, "bf16")}
    known = {s.part for s in cost.profile.gpu.spreads}
    asked = {entry.codec_launch == "fused" for entry in entries(scheme) if not entry.is_raw}
    coding = {next((part for part in CODEC_SPREADS[fused] if part in known), "") for fused in asked}
    unused |= {part for parts in CODEC_SPREADS.values() for part in parts} - coding
    unused.add(ANOTHER_HOST)
    assumed = dict.fromkeys(s.part for s in cost.profile.gpu.spreads if s.is_assumed and s.part not in unused)
    return (
        f"the interval ({CONFIDENCE:.0%}) is of what the profile's parts are off by on rows their fits did not see; a "
        f"part errs alike in every layer, parts independently of each other; {of_hosts(cost.fabric.spreads)}"
        + (f"; assumed, not measured here: how far off {', '.join(assumed)} may be" if assumed else "")
    )


def of_hosts(spreads: Iterable[Spread]) -> str:
    """Whose host an interval is of."""
    if any(spread.part == ANOTHER_HOST for spread in spreads):
        return "hosts of the kind differ from the one measured, which is part of it"
    return "it is of the host that was measured, another of the kind may lie outside"


NOTABLE = 0.1  # of an interval


REMEDIES = {  # what one measures on the own machine, and by what
    "exchanges": "a log of your own (thinwire calibrate --logs)",
    "kernels": "timing kernels on yours (make gpu, thinwire calibrate --from)",
}


def host_sentence(share: float, measurable: Collection[str]) -> str | None:
    """What takes away that other hosts differ, which is a share of an interval; None where that is little.

    measurable: `Interval.measurable`.
    """
    if share < NOTABLE:
        return None
    remedies = [remedy for what, remedy in REMEDIES.items() if what in measurable]
    return f"{' and '.join(remedies)} would take away what other hosts of the kind differ by"


def codec_sentence(cost: CostModel, fused: bool) -> str:
    """What codec kernels cost."""
    codec = cost.profile.gpu.codec
    each = codec.fused_pass_s if fused else codec.separate_pass_s
    kind = "fused into the collective's" if fused else "launched on their own"
    tensor = "" if fused else f", the tensor at {codec.local_share.value:.0%} ({codec.local_share.source})"
    return (
        f"codec kernels, {kind}, take {each.value * 1e6:.1f} us a pass ({each.source}); they move encoded buffers "
        f"at {codec.wire_share.value:.0%} of the memory bandwidth ({codec.wire_share.source}){tensor}"
    )


def is_compiled(cost: CostModel, *codecs: Codec) -> bool:
    """Does the profile price all of these codecs' kernels from their instructions?"""
    known = {line.codec for line in cost.profile.gpu.codec.compiled}
    return all(codec.is_raw or codec.spec in known for codec in codecs)


def compiled_sentence(cost: CostModel) -> str:
    """What kernels priced from their instructions cost."""
    codec = cost.profile.gpu.codec
    return (
        "codec kernels, launched on their own, take what their compiled instructions, bytes and waits for memory do "
        f"({codec.compiled_source})"
    )


def own_codec_sentences(*codecs: Codec) -> list[str]:
    """What kernels of others' codecs cost, by their registration."""
    sentences = []
    for codec in codecs:
        entry = entry_of(codec)
        if entry.own:
            cost = entry.cost
            sentences.append(
                f"codec {codec.spec} is {entry.where}'s, not thinwire's: {_kernels(cost.launches)} a pass, "
                f"{cost.encode_bytes_per_value:g} bytes of the tensor moved a value to encode and "
                f"{cost.decode_bytes_per_value:g} to decode ({cost.source})"
            )
    return sentences


def dear_codec_sentences(*codecs: Codec) -> list[str]:
    """What the profile's one rate for all formats charges too little for."""
    kinds = {"reserved spikes": "spikes", "rotations": "rotation"}
    found = [what for what, name in kinds.items() if any(getattr(codec, name, None) for codec in codecs)]
    if not found:
        return []
    return [
        f"{' and '.join(found)} are charged as plain codes of as many bytes; on an H200 such kernels took 1.4 to 2.4 "
        "times as long as INT4's (docs/decisions/020-first-gpu.md)"
    ]


def _kernels(count: int) -> str:
    return "one kernel" if count == 1 else f"{count} kernels"


def machine_grounds(used: Collection[Precision], cost: CostModel, exchanger: Exchanger) -> list[Ground]:
    """What the exchanges, the cluster and the profiles rest on."""
    found = rules(
        f"{precision} GEMMs include quantising the activations, as the tables they are fitted to appear to; their "
        f"rows are padded to a multiple of {FP8_ROWS}, as vLLM does for Hopper"
        for precision in used if precision in ("fp8", "fp8-block")
    )  # fmt: skip
    found += exchange_grounds(exchanger)
    found += machine_facts(exchanger.cluster)
    found += of("assumed", EXCHANGES, cost.fabric.assumptions)
    found += of("assumed", ALL_COMPUTE, cost.profile.gpu.assumptions)
    return found + host_grounds((*cost.fabric.spreads, *cost.profile.gpu.spreads))


def machine_facts(cluster: Cluster) -> list[Ground]:
    """What a machine's file says of it; first, how its GPUs reach each other."""
    return [
        Ground(said, "datasheet" if said.startswith("peer-to-peer: ") else "assumed") for said in cluster.assumptions
    ]


def host_grounds(spreads: Iterable[Spread]) -> list[Ground]:
    """That another host of the kind may be meant, where a profile knows by how much such hosts differ."""
    elsewhere = [spread for spread in spreads if spread.part == ANOTHER_HOST]
    about = (EXCHANGES_ELSEWHERE, COMPUTE_ELSEWHERE)
    return by_source(elsewhere[0].source, about, OTHER_HOSTS) if elsewhere else []


OTHER_HOSTS = "yours may be another host of the kind than the one measured, by as much as such hosts differ"


def exchange_grounds(exchanger: Exchanger) -> list[Ground]:
    """What was exchanged, and by whose figures: fitted to what was timed, or those of something near, which is said."""
    found = rules(exchanger.what_ifs())
    for timed in exchanger.exchanged():
        about = () if timed.carried is None else (transport(timed.carried, exchanger.cost)[0],)
        described = exchanger.describe(timed)
        found += rules([described]) if timed.notes or not about else of("fitted", about, [described])
        found += of("assumed", about, timed.notes)
    return found


def machine_sentences(used: Collection[Precision], cost: CostModel, exchanger: Exchanger) -> list[str]:
    """`machine_grounds`, the sentences alone."""
    return [ground.text for ground in machine_grounds(used, cost, exchanger)]
