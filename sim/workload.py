"""What one rank does for one prompt: kernels with their shapes, and the collectives between them.

No seconds here: shapes only. Every rank of a tensor-parallel group does the same work, so one list serves all. Ops are
issued in order on two streams, as CUDA streams are: an op starts when its stream is free and the op before it in the
same part of the sequence has ended on its rank. The split follows Megatron-LM (arXiv 1909.08053, section 3): attention
and MLP are column- then row-parallel, so each block ends in an all-reduce of (tokens x hidden) partial sums.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from thinwire.edge.words import shown
from thinwire.reference.core.architecture import Experts, FeedForward, Layer, ModelConfig
from thinwire.reference.core.mixers import Attention, Latent, Mixer
from thinwire.reference.core.precision import KV_BITS, kv_of
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.mixed import SITES, AnyScheme, Site, plan_of
from thinwire.sim.choices import WEIGHTS, Kv, Weights
from thinwire.sim.layers import After, Stage, precision, product, recurrent, stages, weight_bytes
from thinwire.sim.shapes import STATE_BYTES, Attend, Elementwise, Exchange, Gemm, Kernel, Passing, Rows
from thinwire.sim.sharing import Sharing, load, sharing_of

Stream = Literal["compute", "communication"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: `batch` sequences of `input_tokens` each, prefilled together."""

    batch: int
    input_tokens: int
    weights: Weights = "bf16"
    kv: Kv = "auto"

    def __post_init__(self) -> None:
        for name in ("batch", "input_tokens"):
            value = getattr(self, name)
            if type(value) is not int:
                raise ValueError(f"{name} must be a whole number: {name}={value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1: {name}={value}")
        for name, allowed in (("weights", WEIGHTS), ("kv", get_args(Kv))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}: {name}={shown(getattr(self, name))}")


@dataclass(frozen=True, slots=True)
class Op:
    """Kernels back to back on the compute stream, or one exchange on the communication stream."""

    name: str
    part: int  # of the sequence: ops of one part run one after the other
    kernels: tuple[Kernel, ...] = ()
    exchange: Exchange | Passing | None = None

    @property
    def stream(self) -> Stream:
        """Where it is issued."""
        return "compute" if self.exchange is None else "communication"


@dataclass(frozen=True, slots=True)
class Workload:
    """Ops before the layers, per layer (each a tuple of ops), and after them, in issue order."""

    before: tuple[Op, ...]
    layers: tuple[tuple[Op, ...], ...]
    after: tuple[Op, ...]

    @property
    def all_reduce_count(self) -> int:
        """All-reduces of the whole forward pass."""
        return sum(op.exchange is not None and op.exchange.op == "all_reduce" for layer in self.layers for op in layer)


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of every sequence that is carried through the layers on its own (ISO cuts the sequence in two)."""

    queries: int
    keys: int

    def rows(self, scheme: Scheme, prompt: Prompt) -> Rows:
        """Its tokens of all sequences, and those among them that a scheme exempts."""
        first = min(max(scheme.exempt_tokens - (self.keys - self.queries), 0), self.queries)
        ends = self.keys == prompt.input_tokens
        last = min(scheme.exempt_last_tokens, self.queries - first) if ends else 0
        return Rows(prompt.batch * self.queries, prompt.batch * first, prompt.batch * last)


def parts(prompt: Prompt, split: float | None) -> tuple[Piece, ...]:
    """The sequence whole, or in two with the causal order kept (ISO, arXiv 2409.11155)."""
    total = prompt.input_tokens
    if split is None:
        return (Piece(total, total),)
    first = round(total * split)
    if not 0 < first < total:
        raise ValueError(f"sequence_split leaves a half empty: sequence_split={split}, input_tokens={total}")
    return Piece(first, first), Piece(total - first, total)


def build(model: ModelConfig, scheme: AnyScheme, prompt: Prompt, sharing: Sharing | int) -> Workload:
    """The workload of one rank: where ranks have sequences of their own, of the one that has most. sharing: a number of
    ranks is tensor parallelism.

    Raises:
        ValueError: where the model does not divide over the ranks, the sequence cannot be split, or a mixed scheme is
        for another number of layers.
    """
    sharing = sharing_of(sharing)
    sharing.check(model)
    ranks, dense = sharing.ranks, sharing.dense_ranks
    sequence_parts = parts(prompt, scheme.sequence_split if ranks > 1 else None)  # nothing to overlap with
    mine = prompt if dense == ranks else replace(prompt, batch=sharing.own(prompt.batch))
    of_part = [mine.batch * part.queries for part in sequence_parts]

    def stages_of(part: int, layer: Layer, after: After) -> list[Stage]:
        def rows(scheme: Scheme) -> Rows:
            return sequence_parts[part].rows(scheme, prompt)

        def attends(mixer: Mixer) -> tuple[Kernel, ...]:
            return attending(model, mixer, dense, mine, sequence_parts[part])

        tokens, own = prompt.batch * sequence_parts[part].queries, None if mine is prompt else of_part[part]
        return list(stages(model, layer, sharing, after, tokens, rows, attends, prompt.weights, own))

    layers = layers_of(model, scheme, ranks, len(of_part), stages_of)
    opening = [Op("embedding", i, (embedding(model, tokens),)) for i, tokens in enumerate(of_part)]
    last = closing(model, dense, sum(of_part), mine.batch, len(of_part) - 1)
    return Workload(tuple(opening), layers, last)


def embedding(model: ModelConfig, tokens: int) -> Kernel:
    """Rows of the table, which every rank holds whole."""
    return Elementwise("embedding", "embedding", tokens, model.hidden_size)


def vocabulary(model: ModelConfig, tp: int) -> int:
    """Entries of it that one rank has."""
    return -(-model.vocab_size // tp)


def closing(model: ModelConfig, tp: int, tokens: int, sampled: int, part: int) -> tuple[Op, ...]:
    """The final norm of all tokens, and the logits of the `sampled` sequences that get a token, if any."""
    head: tuple[Kernel, ...] = (Elementwise("final norm", "add_rms_norm", tokens, model.hidden_size),)
    if not sampled:
        return (Op("final norm", part, head),)
    head = (*head, Gemm("lm head", sampled, vocabulary(model, tp), model.hidden_size, "bf16"))
    if tp == 1:
        return (Op("logits", part, head),)
    gather = Exchange("all_gather", sampled * model.vocab_size, None)
    return Op("logits", part, head), Op("gather logits", part, exchange=gather)


def layers_of(
    model: ModelConfig,
    scheme: AnyScheme,
    tp: int,
    parts: int,
    stages_of: Callable[[int, Layer, After], Sequence[Stage]],
) -> tuple[tuple[Op, ...], ...]:
    """The ops of every layer; layers alike are one object, by which they fold.

    stages_of: (part of the sequence, layer, schemes of its sync points) -> its stages. ValueError for a mixed scheme of
    another number of layers.
    """
    distinct: dict[int, tuple[Op, ...]] = {}
    found = []
    kinds = kinds_of(model, scheme, tp)
    for kind in kinds:
        if id(kind) not in distinct:
            of_part = [stages_of(part, kind.layer, kind.after) for part in range(parts)]
            distinct[id(kind)] = tuple(_issued(of_part))
        found.append(distinct[id(kind)])
    return tuple(found)


@dataclass(frozen=True, eq=False, slots=True)
class Kind:
    """A layer as far as its work goes: what it is made of, and what happens at its sync points."""

    layer: Layer
    after: After


def kinds_of(model: ModelConfig, scheme: AnyScheme, tp: int) -> list[Kind]:
    """The kind of every layer, first to last; kinds alike are one object. ValueError as `layers_of`."""
    plan = plan_of(scheme, model.num_layers)
    distinct: dict[tuple[int, ...], Kind] = {}
    same: dict[Layer, Layer] = {}
    found = []
    for number, layer in enumerate(model.layers):
        layer = same.setdefault(layer, layer)
        after: dict[Site, Scheme | None] = {site: plan[number, site] if tp > 1 else None for site in SITES}
        key = (id(layer), *map(id, after.values()))  # a plan's equal schemes are one object
        if key not in distinct:
            distinct[key] = Kind(layer, after)
        found.append(distinct[key])
    return found


def _issued(of_part: Sequence[Sequence[Stage]]) -> Iterator[Op]:
    """Stages of all parts of the sequence in issue order."""
    for row in zip(*of_part, strict=True):
        for part, stage in enumerate(row):
            yield Op(stage.name, part, stage.kernels)
            for what, exchange in stage.exchanges:
                yield Op(what, part, exchange=exchange)


def attending(model: ModelConfig, mixer: Mixer, tp: int, prompt: Prompt, part: Piece) -> tuple[Kernel, ...]:
    """What a part of the prompt runs between a mixer's projections."""
    batch, queries, keys = prompt.batch, part.queries, part.keys
    match mixer:
        case Attention():
            heads, kv_heads = mixer.heads // tp, mixer.kv_heads_per_gpu(tp)
            shape = heads, kv_heads, mixer.head_dim

            def attend(name: str, sequences: int, queries: int, keys: int, window: int | None) -> Attend:
                return Attend(name, sequences, queries, keys, *shape, window, mixer.value_dim)

            chunk = mixer.chunk
            if chunk is None or keys <= chunk:
                return (attend("attention", batch, queries, keys, mixer.window),)
            if queries != keys:  # a part that starts within a chunk: as if its tokens saw a window as long
                return (attend("attention", batch, queries, keys, chunk),)
            whole, rest = divmod(keys, chunk)
            found = (attend("attention", batch * whole, chunk, chunk, None),)
            return (*found, attend("attention of the last chunk", batch, rest, rest, None)) if rest else found
        case Latent():
            heads, window = mixer.heads // tp, mixer.reach
            expand = product(
                "kv_b",
                batch * keys,
                heads * (mixer.nope_dim + mixer.value_dim),
                mixer.rank,
                precision(model, prompt.weights, "attention"),
            )
            attend_s = Attend("attention", batch, queries, keys, heads, heads, mixer.head_dim, window, mixer.value_dim)
            if mixer.indexer is None or keys <= mixer.indexer.top_k:
                return expand, replace(attend_s, window=None)
            if mixer.indexer.shared:
                return expand, attend_s
            index = mixer.indexer  # scores alone are half of attention's products: heads half as wide
            scores = Attend("index scores", batch, queries, keys, index.heads, 1, index.head_dim // 2, None)
            return expand, scores, attend_s
        case _:
            return (recurrent(mixer, tp, batch * queries, batch),)


def memory_bytes(model: ModelConfig, prompt: Prompt, sharing: Sharing | int) -> dict[str, float]:
    """What one GPU must hold: weights, what it keeps of the prompt (KV cache and states), and the widest activations of
    a layer (bf16).
    """
    sharing = sharing_of(sharing)
    tp, batch = sharing.dense_ranks, prompt.batch if sharing.attention == "tp" else sharing.own(prompt.batch)
    value_bytes = KV_BITS[kv_of(model.checkpoint, prompt.kv)] / 8
    return {
        "weights": weight_bytes(model, prompt.weights, sharing),
        "kv_cache": batch * (value_bytes * model.cache_values(tp, prompt.input_tokens) + state_bytes(model, sharing)),
        "activations": 2.0 * widest(model, sharing, batch * prompt.input_tokens, prompt.batch * prompt.input_tokens),
    }


def state_bytes(model: ModelConfig, sharing: Sharing) -> int:
    """What a rank that has a sequence keeps of it whatever its length: states, which the KV cache's precision leaves as
    they are timed.
    """
    return STATE_BYTES * model.state_values(sharing.dense_ranks)


def widest(model: ModelConfig, sharing: Sharing, tokens: int, all_tokens: int) -> float:
    """Values of `tokens` tokens of a rank's own, of `all_tokens`, in the widest half of a layer: residual and input of
    the half; gate, up and their product, for each row of its experts.
    """
    found = 0.0
    for layer, _ in model.distinct:
        match layer.feed:
            case Experts() as feed:
                columns = sharing.ranks // sharing.ep
                rows = load(feed, sharing, all_tokens).rows
                shared = tokens * feed.shared.width / sharing.shared_ranks if feed.shared else 0.0
                found = max(found, rows * feed.width / columns + shared)
            case FeedForward() as feed:
                found = max(found, tokens * (feed.width // sharing.dense_ranks))
    return 2 * model.hidden_size * tokens + 3 * found
