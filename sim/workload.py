"""What one rank does for one prompt: kernels with their shapes, and the collectives between them.

No seconds here: shapes only. Every rank of a tensor-parallel group does the same work, so one list serves all. Ops are
issued in order on two streams, as CUDA streams are: an op starts when its stream is free and the op before it in the
same part of the sequence has ended on its rank. The split follows Megatron-LM (arXiv 1909.08053, section 3): attention
and MLP are column- then row-parallel, so each block ends in an all-reduce of (tokens x hidden) partial sums.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from thinwire.reference.core.config import ModelConfig
from thinwire.reference.core.schedule import Schedule
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.mixed import SITES, AnyScheme, Site, plan_of
from thinwire.sim.choices import Weights

Stream = Literal["compute", "communication"]

FP8_ROWS = 4
"""Rows an engine pads an fp8 product to a multiple of: on Hopper others cost an extra copy (docs/decisions/003), and on
other GPUs three more rows cost next to nothing, so the rule is one for all."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is asked: `batch` sequences of `input_tokens` each, prefilled together."""

    batch: int
    input_tokens: int
    weights: Weights = "bf16"

    def __post_init__(self) -> None:
        for name in ("batch", "input_tokens"):
            value = getattr(self, name)
            if type(value) is not int:
                raise ValueError(f"{name} must be a whole number: {name}={value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1: {name}={value}")
        if self.weights not in get_args(Weights):
            raise ValueError(f"weights must be {' or '.join(get_args(Weights))}: weights={self.weights!r}")


@dataclass(frozen=True, slots=True)
class Gemm:
    """(m, k) @ (k, n)."""

    name: str
    m: int
    n: int
    k: int
    precision: Weights


@dataclass(frozen=True, slots=True)
class Attend:
    """Causal attention of the last `query_tokens` of `key_tokens`, per sequence."""

    name: str
    batch: int
    query_tokens: int
    key_tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None
    value_dim: int | None = None  # None: as head_dim


@dataclass(frozen=True, slots=True)
class CrossAttend:
    """Attention of `query_tokens` on all of `key_tokens` tokens of another sequence, per sequence."""

    name: str
    batch: int
    query_tokens: int
    key_tokens: int
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class AttendChunks:
    """Causal attention of chunks of several sequences in one call; each is (tokens, its context with them)."""

    name: str
    chunks: tuple[tuple[int, int], ...]
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None
    value_dim: int | None = None  # None: as head_dim


@dataclass(frozen=True, slots=True)
class DecodeAttend:
    """Attention of one new token of each of `sequences`, whose contexts are `context_tokens` in all, the new tokens
    counted.
    """

    name: str
    sequences: int
    context_tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None


@dataclass(frozen=True, slots=True)
class Elementwise:
    """A memory-bound kernel; `width` values wide over `tokens` rows."""

    name: str
    op: str  # one of sim.costs.elementwise.OPS
    tokens: int
    width: int


@dataclass(frozen=True, slots=True)
class RoutedExperts:
    """Sort `rows` (token, choice) pairs by expert, both products of the `hit` experts that get any of the `experts`
    held here, the activation between, and every token's rows added up. width: of an expert, on this rank.
    """

    name: str
    rows: int
    hit: int
    experts: int
    hidden: int
    width: int
    gated: bool
    precision: str


@dataclass(frozen=True, slots=True)
class LatentDecode:
    """Attention of one new token of each of `sequences` over MLA's latent cache, as `DecodeAttend` counts contexts;
    each cached token is `rank` + `rope_dim` values, which all heads read.
    """

    name: str
    sequences: int
    context_tokens: int
    heads: int
    rank: int
    rope_dim: int


@dataclass(frozen=True, slots=True)
class Recurrent:
    """A linear-attention or state-space layer between its projections: convolution, scan and state. One token each of
    `sequences` is a decode step.
    """

    name: str
    kind: Literal["delta", "mamba2", "lightning"]
    tokens: int
    sequences: int
    heads: int
    key_dim: int
    value_dim: int
    groups: int
    conv: int


Kernel = (
    Gemm | Attend | AttendChunks | CrossAttend | DecodeAttend | Elementwise | RoutedExperts | LatentDecode | Recurrent
)


Kernels = Mapping[Site, Sequence[tuple[Kernel, ...]]]  # of a layer's blocks, for each part of the sequence
Sizes = Callable[[int, Scheme], "Rows"]  # (part, scheme) -> its tokens, and which of them the scheme exempts


@dataclass(frozen=True, slots=True)
class Rows:
    """Tokens of a part, and those that a scheme exempts: the first of their sequence, the last of their prompt."""

    tokens: int
    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A collective over the whole group on `numel` bf16 values, of which the last `exact` travel raw."""

    op: Literal["all_reduce", "all_gather"]
    numel: int
    scheme: Scheme | None  # None: uncompressed, by the engine's own choice
    exact: int = 0


@dataclass(frozen=True, slots=True)
class Passing:
    """Blocks handed on round the ring of ranks, as a schedule says."""

    schedule: Schedule
    op: Literal["passing"] = "passing"


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
class Shard:
    """One rank's share of a layer."""

    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int

    @classmethod
    def of(cls, model: ModelConfig, tp: int) -> "Shard":
        """Raises ValueError where the model does not divide over `tp` ranks."""
        model.check_tp(tp)
        return cls(
            heads=model.num_heads // tp,
            kv_heads=model.kv_heads_per_gpu(tp),
            intermediate=model.intermediate_size // tp,
            vocabulary=-(-model.vocab_size // tp),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """A part of every sequence that is carried through the layers on its own (ISO cuts the sequence in two)."""

    queries: int
    keys: int

    def rows(self, scheme: Scheme, prompt: Prompt) -> Rows:
        """Its tokens of all sequences, and those among them that a scheme exempts."""
        first = min(max(scheme.exempt_tokens - (self.keys - self.queries), 0), self.queries)
        ends = self.keys == prompt.input_tokens
        last = min(scheme.exempt_last_tokens, self.queries - first) if ends else 0
        return Rows(prompt.batch * self.queries, prompt.batch * first, prompt.batch * last)


def parts(prompt: Prompt, split: float | None) -> tuple[Part, ...]:
    """The sequence whole, or in two with the causal order kept (ISO, arXiv 2409.11155)."""
    total = prompt.input_tokens
    if split is None:
        return (Part(total, total),)
    first = round(total * split)
    if not 0 < first < total:
        raise ValueError(f"sequence_split leaves a half empty: sequence_split={split}, input_tokens={total}")
    return Part(first, first), Part(total - first, total)


def build(model: ModelConfig, scheme: AnyScheme, prompt: Prompt, tp: int) -> Workload:
    """The workload of one rank.

    Raises:
        ValueError: where the model does not divide over tp, the sequence cannot be split, or a mixed scheme is for
        another number of layers.
    """
    shard = Shard.of(model, tp)
    sequence_parts = parts(prompt, scheme.sequence_split if tp > 1 else None)  # nothing to overlap with
    of_part = [prompt.batch * part.queries for part in sequence_parts]

    def kernels(window: int | None) -> Kernels:
        return {
            "attention": [_attention(model, shard, prompt, part, window) for part in sequence_parts],
            "mlp": [mlp(model, shard, tokens, prompt.weights) for tokens in of_part],
        }

    def sizes(part: int, scheme: Scheme) -> Rows:
        return sequence_parts[part].rows(scheme, prompt)

    layers = layers_of(model, scheme, tp, kernels, sizes)
    opening = [Op("embedding", i, (embedding(model, tokens),)) for i, tokens in enumerate(of_part)]
    last = closing(model, shard, sum(of_part), prompt.batch, tp, len(of_part) - 1)
    return Workload(tuple(opening), layers, last)


def embedding(model: ModelConfig, tokens: int) -> Kernel:
    """Rows of the table, which every rank holds whole."""
    return Elementwise("embedding", "embedding", tokens, model.hidden_size)


def closing(model: ModelConfig, shard: Shard, tokens: int, sampled: int, tp: int, part: int) -> tuple[Op, ...]:
    """The final norm of all tokens, and the logits of the `sampled` sequences that get a token, if any."""
    head: tuple[Kernel, ...] = (Elementwise("final norm", "add_rms_norm", tokens, model.hidden_size),)
    if not sampled:
        return (Op("final norm", part, head),)
    head = (*head, Gemm("lm head", sampled, shard.vocabulary, model.hidden_size, "bf16"))
    if tp == 1:
        return (Op("logits", part, head),)
    gather = Exchange("all_gather", sampled * model.vocab_size, None)
    return Op("logits", part, head), Op("gather logits", part, exchange=gather)


def layers_of(
    model: ModelConfig, scheme: AnyScheme, tp: int, kernels: Callable[[int | None], Kernels], sizes: Sizes
) -> tuple[tuple[Op, ...], ...]:
    """The ops of every layer; layers alike are one object, by which they fold.

    kernels: of the blocks of a layer with this attention window, for each part of the sequence. ValueError for a mixed
    scheme of another number of layers.
    """
    plan = plan_of(scheme, model.num_layers)
    distinct: dict[tuple[int | None, int, int], tuple[Op, ...]] = {}
    layers = []
    for number in range(model.num_layers):
        window = model.window(number)
        after: dict[Site, Scheme | None] = {site: plan[number, site] if tp > 1 else None for site in SITES}
        key = (window, id(after["attention"]), id(after["mlp"]))  # a plan's equal schemes are one object
        if key not in distinct:
            distinct[key] = tuple(_layer(model.hidden_size, kernels(window), after, sizes))
        layers.append(distinct[key])
    return tuple(layers)


def _layer(width: int, kernels: Kernels, after: Mapping[Site, Scheme | None], sizes: Sizes) -> Iterator[Op]:
    """Compute and exchanges of one layer in issue order; blocks with no exchange between them are one op."""
    waiting: list[tuple[Kernel, ...]] = [()] * len(kernels["mlp"])
    name = ""
    for block in SITES:
        name = f"{name}+{block}" if name else block
        scheme = after[block]
        exchanged = scheme is not None and scheme.collective != "none"
        for i, of_part in enumerate(kernels[block]):
            waiting[i] += of_part
            if exchanged or block == SITES[-1]:
                yield Op(name, i, waiting[i])
                waiting[i] = ()
            if scheme is not None and exchanged:
                for what, exchange in all_reduces(scheme, sizes(i, scheme), width):
                    yield Op(f"all-reduce {what} {block}", i, exchange=exchange)
        if exchanged:
            name = ""


def all_reduces(scheme: Scheme, rows: Rows, width: int) -> Iterator[tuple[str, Exchange]]:
    """What one sync point sends, with words for it: the first tokens exempt go uncompressed and before the others, the
    last in the same messages as the others; where no others are left, those too go uncompressed.
    """
    if rows.first:
        yield "of exempt tokens after", Exchange("all_reduce", rows.first * width, None)
    left = rows.tokens - rows.first
    if left and left == rows.last:
        yield "of exempt tokens after", Exchange("all_reduce", left * width, None)
    elif left:
        yield "after", Exchange("all_reduce", left * width, scheme, rows.last * width)


def _attention(model: ModelConfig, shard: Shard, prompt: Prompt, part: Part, window: int | None) -> tuple[Kernel, ...]:
    tokens, weights = prompt.batch * part.queries, prompt.weights
    before, behind = around_attention(model, shard, tokens, weights)
    heads, kv_heads, dim = shard.heads, shard.kv_heads, model.head_dim
    attend = Attend("attention", prompt.batch, part.queries, part.keys, heads, kv_heads, dim, window)
    return (*before, attend, *behind)


def product(name: str, tokens: int, n: int, k: int, weights: Weights) -> Gemm:
    """(tokens, k) @ (k, n) as an engine launches it, in prompts and in decoding alike."""
    return Gemm(name, tokens if weights == "bf16" else -(-tokens // FP8_ROWS) * FP8_ROWS, n, k, weights)


def around_attention(
    model: ModelConfig, shard: Shard, tokens: int, weights: Weights
) -> tuple[tuple[Kernel, ...], tuple[Kernel, ...]]:
    """Kernels of one rank's attention block before and behind attention itself."""
    hidden, dim, heads, kv_heads = model.hidden_size, model.head_dim, shard.heads, shard.kv_heads
    before: tuple[Kernel, ...] = (
        *norms(model, tokens),
        product("qkv", tokens, (heads + 2 * kv_heads) * dim, hidden, weights),
        Elementwise("rope", "rope", tokens, (heads + kv_heads) * dim),
    )
    return before, (product("o", tokens, hidden, heads * dim, weights),)


def mlp(model: ModelConfig, shard: Shard, tokens: int, weights: Weights) -> tuple[Kernel, ...]:
    """The gated MLP of one rank, its norm included."""
    hidden, inner = model.hidden_size, shard.intermediate
    return (
        *norms(model, tokens),
        product("gate_up", tokens, 2 * inner, hidden, weights),
        Elementwise("activation", "silu_mul" if model.activation == "silu" else "gelu_mul", tokens, inner),
        product("down", tokens, hidden, inner, weights),
    )


def norms(model: ModelConfig, tokens: int) -> tuple[Kernel, ...]:
    """The residual addition fused with the norm before a block; Gemma 2 also normalises what the last block gave."""
    before = Elementwise("norm", "add_rms_norm", tokens, model.hidden_size)
    return (Elementwise("post norm", "rms_norm", tokens, model.hidden_size), before) if model.post_norms else (before,)


def memory_bytes(model: ModelConfig, prompt: Prompt, tp: int) -> dict[str, float]:
    """What one GPU must hold: weights, the prompt's KV cache, and the widest activations of a layer (all bf16 but
    the weights).
    """
    shard = Shard.of(model, tp)
    tokens = prompt.batch * prompt.input_tokens
    widest = 2 * model.hidden_size + 3 * shard.intermediate  # residual, block input, gate, up and their product
    return {
        "weights": model.weight_bytes(tp, 8 if prompt.weights == "fp8" else 16),
        "kv_cache": 2.0 * model.num_layers * 2 * shard.kv_heads * model.head_dim * tokens,
        "activations": 2.0 * widest * tokens,
    }
