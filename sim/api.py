"""The Python face: names in, predictions out. Everything here is a look-up around `sim.predict.predict`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from thinwire.edge.limits import MESSAGE
from thinwire.edge.reading import is_regular
from thinwire.edge.words import cut
from thinwire.edge.words import place as place_of
from thinwire.reference.catalog import parse_codec
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.catalog import schemes as catalog_schemes
from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.schedule import Op as CollectiveOp
from thinwire.reference.core.scheme import Codec, Phase, Scheme
from thinwire.reference.core.tokens import Counts, checked
from thinwire.reference.families.config import load_model
from thinwire.reference.mixed import AnyScheme, MixedScheme, auto_budget, entries, find
from thinwire.sim import predict as main_path
from thinwire.sim.catalogs import catalog as catalog
from thinwire.sim.catalogs import names as names
from thinwire.sim.choices import Compress, Weights
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.costs.products import with_precisions
from thinwire.sim.costs.profile import Profile
from thinwire.sim.costs.shipped import STAND_IN, load_profile
from thinwire.sim.costs.spread import CONFIDENCE
from thinwire.sim.events.exchange import UNCOMPRESSED, Exchanger, slowdown
from thinwire.sim.grounds import Ground, of, once
from thinwire.sim.interval import CODECS, EXCHANGES, Interval, interval_of_exchange
from thinwire.sim.layers import precision, precisions
from thinwire.sim.predict import WhatIf
from thinwire.sim.question import Placement, Question, question_of
from thinwire.sim.report import Prediction, exchange_grounds, host_grounds, machine_facts
from thinwire.sim.sharing import Sharing
from thinwire.sim.workload import Prompt
from thinwire.topologies.choose import choose
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.load import load_cluster

if TYPE_CHECKING:
    from thinwire.sim.cross.predict import CrossComparison
    from thinwire.sim.cross.workload import Method
    from thinwire.sim.quality.auto import Chosen
    from thinwire.sim.quality.figures import Figure
    from thinwire.sim.quality.lookups import Lookup
    from thinwire.sim.quality.published import Found

P = ParamSpec("P")
R = TypeVar("R")


def group(
    cluster: str | Cluster,
    tp: int | None = None,
    scaled_links: Mapping[str, float] | None = None,
    *,
    gpus: Sequence[int] | str | None = None,
    nodes: int | None = None,
) -> Cluster:
    """The GPUs that `topologies.choose.choose` takes of a cluster given by name, path or value, with links scaled as
    asked: the first `tp` (None: all), those listed in `gpus`, or tp / nodes of each of the first `nodes` nodes.
    """
    found = _machine(cluster) if isinstance(cluster, str) else cluster
    for pattern, factor in (scaled_links or {}).items():
        found = found.with_link_scaled(pattern, factor)
    return choose(found, tp, gpus, nodes)


def _machine(name: str) -> Cluster:
    """A machine by name or path; ValueError sends what only `cluster import` can read there."""
    try:
        return load_cluster(name)
    except ValueError:
        if is_regular(name):
            from thinwire.topologies.dumps.tell import hint, importable

            if importable(name):
                raise ValueError(hint(name)) from None
        raise


@dataclass(frozen=True, slots=True)
class Placed:
    """What the names of a question stand for: its GPUs alone, with links scaled as asked."""

    model: ModelConfig
    cluster: Cluster
    profile: Profile
    sharing: Sharing


def place(question: Placement) -> Placed:
    """Read what a question names. ValueError for what is not there, or does not fit together."""
    scaled, numbered = dict(question.scaled_links), question.gpus
    gpus = group(question.cluster, question.tp, scaled, gpus=numbered, nodes=question.nodes)
    costs = _profile_of(gpus, question.profile)
    model = load_model(question.model) if isinstance(question.model, str) else question.model
    sharing = shared_as(question, len(gpus.gpus))
    sharing.check(model)
    needed = precisions(model, question.weights)
    own = [wanted for part, wanted in needed.items() if part != "experts"]  # those have costs of their own
    costs = replace(costs, gpu=with_precisions(costs.gpu, gpus.gpu, own))
    return Placed(model, gpus, costs, sharing)


def shared_as(question: Placement, gpus: int) -> Sharing:
    """How so many GPUs share a model out, as asked."""
    attention, exchange = question.attention, question.expert_exchange
    ep = question.ep or (gpus if attention == "dp" or exchange == "all-to-all" else 1)
    return Sharing(gpus, ep, attention, exchange, question.expert_skew)


def _profile_of(gpus: Cluster, profile: str | Profile | None, kernels: bool = True) -> Profile:
    return profile if isinstance(profile, Profile) else load_profile(gpus, profile, kernels)


def scheme_of(question: Placement, placed: Placed, prompt: Prompt, compress: Compress = "prompt") -> AnyScheme:
    """The scheme a question names; one to be chosen (`auto:+1%`) is chosen for `prompt`, without stragglers, and
    for these positions to be compressed.
    """
    if not isinstance(question.scheme, str):
        return question.scheme
    budget = auto_budget(question.scheme)
    return find(question.scheme) if budget is None else _choose(budget, placed, prompt, None, compress).scheme


def prompt_of(question: Question) -> Prompt:
    """What is prefilled. ValueError for numbers and a precision that cannot be."""
    return Prompt(question.batch, question.input_tokens, question.weights, question.kv)


def answer(question: Question) -> Prediction:
    """Time to first token of one prompt.

    Raises:
        ValueError: an unknown name, a shape that does not divide, a model that does not fit; the message says what is
        allowed.
    """
    return _answered(question, prompt_of(question), place(question))


def _answered(question: Question, prompt: Prompt, placed: Placed) -> Prediction:
    scheme, what_if = scheme_of(question, placed, prompt), WhatIf(dict(question.slow_ranks))
    return main_path.predict(
        placed.model,
        placed.cluster,
        scheme,
        prompt,
        placed.profile,
        what_if,
        question.folded,
        question.launch,
        placed.sharing,
    )


def _asked_by(question: Callable[P, Question]) -> Callable[[Callable[[Question], R]], Callable[P, R]]:
    """What takes a question takes the arguments of one, too."""

    def opened(takes: Callable[[Question], R]) -> Callable[P, R]:
        @wraps(takes)
        def call(*arguments: P.args, **options: P.kwargs) -> R:
            return takes(question_of(arguments, options))

        call.__signature__ = signature(question)  # type: ignore[attr-defined]
        return call

    return opened


@_asked_by(Question)
def predict(question: Question) -> Prediction:
    """Time to first token of one prompt: `answer` of a `Question`, or of its arguments.

    Raises:
        ValueError: an unknown name, a shape that does not divide, a model that does not fit; the message says what is
        allowed.
    """
    return answer(question)


def auto(
    budget: float,
    *asked: Any,
    sensitivities: str | Path | None = None,
    compress: Compress | None = None,
    **options: Any,
) -> "Chosen":
    """A scheme for each sync point: the least TTFT while perplexity rises by at most `budget` (0.01: one percent).

    Args:
        asked, options: a `Question`, or its arguments but for the scheme. No stragglers, kernels launched one by one.
        sensitivities: what a codec at each sync point costs the model, as `thinwire sensitivity` wrote it; None takes
            what was measured of a model of the catalog.
        compress: positions that the deployment compresses: which of the measured tables is taken. None: those of the
            file given, else the prompt's.

    Raises:
        ValueError: as `predict`, where nobody measured the model, and for a file of other positions than asked for.
    """
    question = question_of(asked, options, without=("scheme", "slow_ranks", "launch", "folded"))
    if question.slow_ranks or question.launch != "eager":
        given = f"slow_ranks={dict(question.slow_ranks)}, launch={question.launch!r}"
        raise ValueError(f"auto chooses for healthy ranks and kernels launched one by one: {given}")
    return _choose(budget, place(question), prompt_of(question), sensitivities, compress)


def _choose(
    budget: float,
    placed: Placed,
    prompt: Prompt,
    sensitivities: str | Path | None = None,
    compress: Compress | None = None,
) -> "Chosen":
    from thinwire.sim.quality.auto import choose  # scipy's solver: a quarter of a second that only this needs
    from thinwire.sim.quality.losses import read, shipped

    if sensitivities is None:
        losses = shipped(placed.model.name, compress or "prompt")
    else:
        losses = read(Path(sensitivities))
        if compress not in (None, losses.compress):
            raise ValueError(
                f"{place_of(Path(sensitivities))} is of compress={losses.compress!r}, not of compress={compress!r}"
            )
    return choose(placed.model, placed.cluster, prompt, placed.profile, losses, budget)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Predictions of several schemes, fastest first, and of the baseline they are compared with.

    compress: positions that the deployment compresses, which its accuracy is of.
    """

    baseline: Prediction
    rows: tuple[Prediction, ...]
    compress: Compress = "prompt"

    def speedup(self, row: Prediction) -> float:
        """TTFT of the baseline over the row's."""
        return self.baseline.ttft_s / row.ttft_s

    def accuracy(self, row: Prediction) -> "Figure | None":
        """What the row's scheme was measured to cost, on a model of its own; None where it was not measured."""
        from thinwire.sim.quality.figures import figure

        return figure(row.acting, row.tp, len(row.cluster.islands), self.compress)

    def lookup(self, row: Prediction) -> "Lookup | None":
        """What the row's scheme was measured to lose of look-ups in a compressed prompt; None where it was not, and
        where every position is compressed.
        """
        from thinwire.sim.quality.lookups import lookup

        return lookup(row.acting, row.tp, len(row.cluster.islands)) if self.compress == "prompt" else None

    def published(self, row: Prediction) -> "tuple[Found, ...]":
        """What others published of the row's scheme, figures of this model first. They are no part of `accuracy`."""
        from thinwire.sim.quality.published import rows_of

        return rows_of(row.acting, row.tp, len(row.cluster.islands), row.model.name)

    def to_dict(self) -> dict[str, Any]:
        """The document of `compare --json`."""
        rows = [
            {
                **row.to_dict(),
                "speedup": self.speedup(row),
                "accuracy": None if (known := self.accuracy(row)) is None else known.to_dict(),
                "lookups": None if (asked := self.lookup(row)) is None else asked.to_dict(),
                "published": [found.to_dict() for found in self.published(row)],
            }
            for row in self.rows
        ]
        return {"baseline": self.baseline.to_dict(), "compress": self.compress, "rows": rows}


def compare(
    schemes: Iterable[str | AnyScheme],
    *asked: Any,
    baseline: str = "bf16",
    compress: Compress = "prompt",
    **options: Any,
) -> Comparison:
    """`predict` for each scheme, and for the baseline they are held against.

    Args:
        asked, options: a `Question`, or its arguments but for the scheme.
        baseline: the scheme that speed-ups are over.
        compress: positions that the deployment compresses, which accuracy depends on and TTFT does not.

    Returns:
        Predictions, fastest first.

    Raises:
        ValueError: as `predict`.
    """
    question = question_of(asked, options, without=("scheme",))
    placed, prompt = place(question), prompt_of(question)
    reference = _answered(replace(question, scheme=baseline), prompt, placed)
    rows = [_answered(replace(question, scheme=each), prompt, placed) for each in schemes]
    return Comparison(reference, tuple(sorted(rows, key=lambda row: (row.ttft_s, row.scheme.name))), compress)


def schemes_for(question: Question) -> list[str]:
    """The catalog's schemes that differ in what they do for a question: codecs of experts' traffic where some travels,
    codecs of all-reduces where there are any.
    """
    model = load_model(question.model) if isinstance(question.model, str) else question.model
    own = question.attention == "dp"
    travels = model.is_mixture and (own or question.expert_exchange == "all-to-all")
    found = []
    for name, known in catalog_schemes().items():
        if known.compresses_experts:
            means = travels
        else:
            means = not own or (known.is_raw and not known.drop_attention_percent and known.sequence_split is None)
        if means:
            found.append(name)
    return found


def compare_cross_attention(
    cluster: str | Cluster,
    text_tokens: int,
    visual_tokens: int,
    model: str | ModelConfig = "llama-3-8b",
    methods: Iterable[str] | None = None,
    tp: int | None = None,
    batch: int = 1,
    weights: Weights = "auto",
    profile: str | Profile | None = None,
    *,
    cross_layers: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    partial: str | Codec = "bf16",
    scaled_links: Mapping[str, float] | None = None,
    gpus: Sequence[int] | str | None = None,
    nodes: int | None = None,
) -> "CrossComparison":
    """Cross-attention layers with a long visual context, tokens cut over the GPUs: LV-XAttn, ring attention, ...

    Args:
        text_tokens, visual_tokens: of each of `batch` sequences, all GPUs together.
        model: width, heads and MLP of the layers. Llama 3.2 Vision 11B is llama-3-8b with 8 such layers.
        methods: of `sim.cross.workload.METHODS`; None = all.
        cross_layers: one to four of the model's layers where None, as in transformers' MllamaTextConfig.
        heads, kv_heads, head_dim: in place of the model's.
        partial: codec of the partial outputs that travel in LV-XAttn; all else travels as bf16, log-sum-exps as fp32.

    The other arguments and errors are `predict`'s.
    """
    from thinwire.reference.core.cross_schedule import Wire
    from thinwire.sim.cross.predict import compare_cross
    from thinwire.sim.cross.workload import LAYERS_SHARE, METHODS, CrossModel, CrossPrompt

    taken = group(cluster, tp, scaled_links, gpus=gpus, nodes=nodes)
    found = load_model(model) if isinstance(model, str) else model
    fmt, costs = precision(found, weights, "attention"), _profile_of(taken, profile)
    own = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    layers = max(1, found.num_layers // LAYERS_SHARE) if cross_layers is None else cross_layers
    wanted = (
        METHODS if methods is None else tuple(cast("Method", name) for name in methods)
    )  # unknown: refused in build
    return compare_cross(
        CrossModel(found, layers, **{name: value for name, value in own.items() if value is not None}),
        taken,
        CrossPrompt(batch, text_tokens, visual_tokens, fmt),
        replace(costs, gpu=with_precisions(costs.gpu, taken.gpu, (fmt,))),
        Wire(partial=parse_codec(partial) if isinstance(partial, str) else partial),
        wanted,
    )


# nccl-tests' bus bandwidth is the algorithm's times this (doc/PERFORMANCE.md of NVIDIA/nccl-tests); n ranks.
_BUS_FACTOR: Mapping[CollectiveOp, int] = {
    "all_reduce": 2,
    "all_gather": 1,
    "reduce_scatter": 1,
    "all_to_all": 1,
}


def collective(
    cluster: str | Cluster,
    scheme: str | Scheme,
    nbytes: int,
    tp: int | None = None,
    op: CollectiveOp = "all_reduce",
    profile: str | Profile | None = None,
    *,
    scaled_links: Mapping[str, float] | None = None,
    gpus: Sequence[int] | str | None = None,
    nodes: int | None = None,
    counts: Sequence[int] | Sequence[Sequence[int]] | None = None,
    phase: Phase | None = None,
) -> dict[str, Any]:
    """One collective on `nbytes` of bf16, as a document: `collected`, which takes the same, has its grounds, too."""
    return dict(
        collected(
            cluster, scheme, nbytes, tp, op, profile,
            scaled_links=scaled_links, gpus=gpus, nodes=nodes, counts=counts, phase=phase,
        ).document
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Collected:
    """One collective: what a document says of it, and what that rests on."""

    document: Mapping[str, Any]
    seconds: float
    interval: Interval
    basis: tuple[Ground, ...]


def collected(
    cluster: str | Cluster,
    scheme: str | Scheme,
    nbytes: int,
    tp: int | None = None,
    op: CollectiveOp = "all_reduce",
    profile: str | Profile | None = None,
    *,
    scaled_links: Mapping[str, float] | None = None,
    gpus: Sequence[int] | str | None = None,
    nodes: int | None = None,
    counts: Sequence[int] | Sequence[Sequence[int]] | None = None,
    phase: Phase | None = None,
) -> Collected:
    """One collective on `nbytes` of bf16.

    nbytes is counted as nccl-tests does: the full buffer, for all_to_all what one rank sends in all. counts: of an
    all_to_all, rows to each rank, the same from every rank or a list from each; the rank that sends most then sends
    nbytes in all, which its rows share evenly. phase: of an all_to_all, which codec of a scheme that has some for
    experts' traffic; None = dispatch. Others run their reduce codec, as asked for, though it is no experts' codec in a
    prediction.
    """
    if nbytes < 2 or nbytes % 2:
        raise ValueError(f"bytes must be a positive even number, bf16 values being 2 bytes: bytes={cut(str(nbytes))}")
    MESSAGE.check("bytes", nbytes)
    taken = group(cluster, tp, scaled_links, gpus=gpus, nodes=nodes)
    costs = _profile_of(taken, profile, kernels=False)
    found = find(scheme) if isinstance(scheme, str) else scheme
    if isinstance(found, MixedScheme):
        raise ValueError(f"one collective runs one scheme; {found.name} has one for each sync point")
    ranks, name = len(taken.gpus), found.name
    if phase is not None and op != "all_to_all":
        raise ValueError(f"a phase is an all_to_all's: op={op}, phase={phase}")
    if op == "all_to_all" and found.compresses_experts:
        found = found.for_experts(phase or "dispatch")
    exchanger = Exchanger(taken, CostModel(costs, taken.gpu), slowdown(ranks, {}))
    timed = exchanger.time(op, nbytes // 2, found, counts=_rows_of(op, counts, ranks))
    alone = exchanger.alone(timed)
    codec_s = min(float(alone.codec_s_R.max()), alone.seconds)
    interval = interval_of_exchange(
        alone.seconds, codec_s, timed.carried, exchanger.cost, found.codec_launch == "fused"
    )
    algbw = nbytes / alone.seconds / 1e9 if alone.seconds else None
    basis = exchange_grounds(exchanger)
    if not found.is_raw and taken.gpu.relative is None and costs.gpu.assumptions:
        lent = f"{taken.gpu.name} has no profile and names no relative: its codec kernels are taken for {STAND_IN}'s"
        basis += of("assumed", CODECS, [lent])
    basis += of("assumed", EXCHANGES, costs.fabric.assumptions)
    basis += machine_facts(taken)
    basis += host_grounds(costs.fabric.spreads)
    grounds = once(basis)
    document = {
        "cluster": taken.name,
        "scheme": name,
        "tp": ranks,
        "gpus": list(taken.indices),
        "op": op,
        "bytes": nbytes,
        "time_us": alone.seconds * 1e6,
        "interval_us": [interval.low_s * 1e6, interval.high_s * 1e6],
        "interval_confidence": CONFIDENCE,
        "interval_another_host_share": interval.another_host_share,
        "codec_us": float(alone.codec_s_R.max()) * 1e6,
        "algbw_gb_per_s": algbw,
        "busbw_gb_per_s": None if algbw is None else algbw * _BUS_FACTOR[op] * (ranks - 1) / ranks,
        "wire_bytes_per_gpu": int(alone.wire_bytes_R.max()),
        "algorithm": exchanger.describe(timed),
        "profile": costs.name,
        "assumptions": [ground.text for ground in grounds],
    }
    return Collected(document, alone.seconds, interval, grounds)


def _rows_of(op: CollectiveOp, counts: Sequence[int] | Sequence[Sequence[int]] | None, ranks: int) -> Counts | None:
    """Rows from each rank to each. ValueError for counts of another operation, and for those that do not fit."""
    if counts is None:
        return None
    if op != "all_to_all":
        raise ValueError(f"counts are an all_to_all's: op={op}")
    alike = all(isinstance(count, int) for count in counts)
    return checked([counts] * ranks if alike else counts, ranks)  # type: ignore[arg-type,list-item]


def size_gate(
    cluster: str | Cluster,
    scheme: str | Scheme,
    tp: int | None = None,
    profile: str | Profile | None = None,
    *,
    gpus: Sequence[int] | str | None = None,
    nodes: int | None = None,
) -> int:
    """The message size in bytes of bf16 from which on a scheme is no slower than the baseline, to a power of two.

    Smaller messages are better sent uncompressed: `reference.allreduce.all_reduce(..., gate_bytes=...)` does that.
    Returns 2**31 where the scheme is slower at every size up to 2**30.
    """
    machine = group(cluster, tp, gpus=gpus, nodes=nodes)
    costs = _profile_of(machine, profile)
    found = find_scheme(scheme) if isinstance(scheme, str) else scheme
    exchanger = Exchanger(machine, CostModel(costs, machine.gpu), slowdown(len(machine.gpus), {}))
    gate = 2**31
    for power in range(30, 9, -1):
        numel = 2**power // 2
        taken, plain = (exchanger.alone(exchanger.time("all_reduce", numel, s)) for s in (found, UNCOMPRESSED))
        if taken.seconds > plain.seconds:
            break
        gate = 2**power
    return gate


def decodes_exactly(
    cluster: Cluster, scheme: AnyScheme, profile: Profile, sequences: int, width: int, gated: bool
) -> bool:
    """Whether tokens decoded, at most `sequences` at a time, send their sums of `width` values uncompressed.

    They do under a scheme that exempts last rows, since each token is its sequence's last; else where the gate is on
    and finds every batch of them, to a power of two, sooner uncompressed. With others a prompt's accuracy is too good.
    """
    if len(cluster.gpus) == 1:
        return True
    kinds = {entry for entry in entries(scheme) if not entry.is_raw}
    open_ones = [entry for entry in kinds if not entry.exempt_last_tokens]
    if not open_ones or not gated:
        return not open_ones
    exchanger = Exchanger(cluster, CostModel(profile, cluster.gpu), slowdown(len(cluster.gpus), {}))
    batches = {min(1 << power, sequences) for power in range(sequences.bit_length() + 1)}

    def seconds(entry: Scheme, tokens: int) -> float:
        return exchanger.alone(exchanger.time("all_reduce", tokens * width, entry)).seconds

    return all(seconds(entry, n) >= seconds(UNCOMPRESSED, n) for entry in open_ones for n in sorted(batches))
