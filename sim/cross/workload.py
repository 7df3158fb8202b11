"""The workload of cross-attention layers with a long visual context, its tokens cut over the GPUs by sequence.

No seconds here: shapes only. A layer is norm, projections, cross-attention, output projection and MLP; every GPU holds
all of its weights, some text tokens and some visual tokens. What differs is how queries meet the keys of other GPUs:

- lv-xattn: queries and partial outputs go round the ring (reference.core.cross_schedule). In round r a GPU's keys meet
the
  queries of the r-th GPU before it while the queries of round r + 1 and the outputs of round r - 1 are on their way;
  its own queries come last, while what the others gathered for them is coming home.
- ring-attention: keys and values go round, in two buffers: while block r is computed on, block r + 1 arrives.
- all-gather: every GPU first gets all keys and values.
- none: every GPU does as much work with nothing sent. A floor, not a way to compute anything.

Where parts differ in length by a token, every GPU is taken to compute on the longest; bytes are exact.

Ops of one `part` run one after the other and an op waits for its stream, no more: the two parts below are chosen so
that this orders everything that must be ordered.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from thinwire.edge.limits import BATCH, LAYERS, POSITIONS, WIDTH
from thinwire.edge.words import shown
from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.cross_schedule import CrossShape, Wire, lv_exchanges, ring_exchanges
from thinwire.reference.core.cross_schedule import Exchange as Hop
from thinwire.reference.core.precision import BITS, Precision
from thinwire.sim.layers import mlp, norms, product
from thinwire.sim.shapes import CrossAttend, Elementwise, Exchange, Kernel, Passing
from thinwire.sim.workload import Op, Prompt, Workload

Method = Literal["lv-xattn", "ring-attention", "all-gather", "none"]
METHODS: tuple[Method, ...] = get_args(Method)
LAYERS_SHARE = 4  # self-attention layers to one of cross-attention: 32 to 8 in transformers' MllamaTextConfig


@dataclass(frozen=True, slots=True)
class CrossPrompt:
    """`batch` sequences of `text_tokens` that look at `visual_tokens` each."""

    batch: int
    text_tokens: int
    visual_tokens: int
    weights: Precision = "bf16"

    def __post_init__(self) -> None:
        for name in ("batch", "text_tokens", "visual_tokens"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1: {name}={shown(value)}")
        BATCH.check("batch", self.batch)
        for name in ("text_tokens", "visual_tokens"):
            POSITIONS.check(name, getattr(self, name))
        Prompt(self.batch, self.text_tokens, self.weights)  # refuses weights there are none of

    @property
    def text(self) -> Prompt:
        """The text alone."""
        return Prompt(self.batch, self.text_tokens, self.weights)


@dataclass(frozen=True, slots=True)
class CrossModel:
    """`layers` cross-attention layers of a model's width, heads and MLP; heads, kv_heads, head_dim: None = the model's.

    ValueError for a model without grouped-query attention or without a dense MLP.
    """

    config: ModelConfig
    layers: int
    heads: int = None  # type: ignore[assignment]  # the model's from here on
    kv_heads: int = None  # type: ignore[assignment]
    head_dim: int = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if type(self.layers) is not int or self.layers < 1:
            raise ValueError(f"cross_layers must be a whole number of at least 1: cross_layers={shown(self.layers)}")
        LAYERS.check("cross_layers", self.layers)
        for name in ("heads", "kv_heads", "head_dim"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self.config.attention, name))
            WIDTH.check(name, max(1, getattr(self, name)))  # below, the shape says what it needs

    def shape(self, prompt: CrossPrompt, ranks: int) -> CrossShape:
        """Sizes, and who holds what. ValueError for head counts that do not go together."""
        return CrossShape.even(
            prompt.batch, self.heads, self.kv_heads, self.head_dim, prompt.text_tokens, prompt.visual_tokens, ranks
        )


def build(model: CrossModel, method: Method, prompt: CrossPrompt, ranks: int, wire: Wire) -> Workload:
    """The workload of one of `ranks` GPUs. ValueError for an unknown method or sizes that do not go together."""
    if method not in METHODS:
        raise ValueError(f"unknown way to do cross-attention {shown(method)}; allowed: {', '.join(METHODS)}")
    pieces = _Pieces(model, prompt, model.shape(prompt, ranks))
    alone = ranks == 1 or method == "none"
    match "none" if alone else method:
        case "lv-xattn":
            layer = _lv_xattn(pieces, lv_exchanges(pieces.shape, wire))
        case "ring-attention":
            layer = _ring(pieces, ring_exchanges(pieces.shape, wire))
        case _:
            layer = _gathered(pieces, None if alone else _all_keys(pieces.shape))
    return Workload((), (tuple(layer),) * model.layers, ())


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The kernels of a layer on the GPU with most tokens."""

    model: CrossModel
    prompt: CrossPrompt
    shape: CrossShape

    @property
    def _rows(self) -> int:
        return self.prompt.batch * max(self.shape.text)

    @property
    def query(self) -> tuple[Kernel, ...]:
        """Norm and queries of the text."""
        c, width = self.model.config, self.model.heads * self.model.head_dim
        norm = norms(c, c.layers[0], self._rows)
        return (*norm, product("query", self._rows, width, c.hidden_size, self.prompt.weights))

    @property
    def keys(self) -> tuple[Kernel, ...]:
        """Keys and values of the visual tokens, which come in the model's width."""
        rows, width = self.prompt.batch * max(self.shape.visual), 2 * self.model.kv_heads * self.model.head_dim
        return (product("key_value", rows, width, self.model.config.hidden_size, self.prompt.weights),)

    def attend(self, visual_tokens: int | None = None) -> CrossAttend:
        """The text's queries (of whichever GPU) on one GPU's keys, or on `visual_tokens`."""
        tokens = max(self.shape.visual) if visual_tokens is None else visual_tokens
        return CrossAttend(
            "cross-attention",
            self.prompt.batch,
            max(self.shape.text),
            tokens,
            self.model.heads,
            self.model.kv_heads,
            self.model.head_dim,
        )

    @property
    def merge(self) -> Elementwise:
        """Add a partial output, in fp32, to another: read both, write one."""
        values = self.model.heads * self.model.head_dim
        return Elementwise("merge", "residual_add", self._rows, 2 * values)  # two bf16 make an fp32

    @property
    def output(self) -> tuple[Kernel, ...]:
        """Output projection and MLP of the text."""
        c, weights = self.model.config, self.prompt.weights
        o = product("o", self._rows, c.hidden_size, self.model.heads * self.model.head_dim, weights)
        norm = norms(c, c.layers[0], self._rows, "mlp")
        return (o, *norm, *mlp(c, c.feed_forward, 1, self._rows, weights))


def _lv_xattn(pieces: _Pieces, hops: tuple[Hop | None, ...]) -> Iterator[Op]:
    """In part 0 what travels and what waits for it, in part 1 the keys and the rounds on them."""
    n = pieces.shape.ranks

    def hop(number: int, part: int) -> Iterator[Op]:
        if found := hops[number - 1]:
            yield Op(f"exchange {number}", part, exchange=Passing(found.schedule))

    yield Op("query", 0, pieces.query)
    yield from hop(1, 0)
    yield Op("key_value", 1, pieces.keys)
    yield Op("round 1", 0, (pieces.attend(),))  # on the queries of exchange 1; exchange 3 carries its outputs on
    yield from hop(2, 1)
    for number in range(2, n + 1):  # number = n: a GPU's own queries
        yield Op(f"round {number}", 1, (pieces.attend(),))
        yield from hop(number + 1, 0)
        yield Op(f"merge {number}", 0, (pieces.merge,))
    yield Op("output", 0, pieces.output)


def _ring(pieces: _Pieces, hops: tuple[Hop | None, ...]) -> Iterator[Op]:
    """Even rounds in one part, odd ones in the other: a block arrives in the buffer that the round before last left."""
    n = pieces.shape.ranks

    def hop(number: int, part: int) -> Iterator[Op]:
        if number < n and (found := hops[number - 1]):
            yield Op(f"exchange {number}", part, exchange=Passing(found.schedule))

    yield Op("key_value", 0, pieces.keys)
    yield from hop(1, 0)
    yield Op("query", 1, pieces.query)
    for number in range(n):
        part = (number + 1) % 2
        kernels = (pieces.attend(), pieces.merge) if number else (pieces.attend(),)
        yield Op(f"round {number}", part, kernels)
        yield from hop(number + 2, part)
    yield Op("output", 0, pieces.output)


def _gathered(pieces: _Pieces, gather: Exchange | None) -> Iterator[Op]:
    """All keys first, the queries' projection meanwhile; without `gather` they are there already."""
    yield Op("key_value", 0, pieces.keys)
    if gather is not None:
        yield Op("all-gather of keys and values", 0, exchange=gather)
    yield Op("query", 1, pieces.query)
    yield Op("cross-attention", 0, (pieces.attend(pieces.prompt.visual_tokens),))
    yield Op("output", 0, pieces.output)


def _all_keys(shape: CrossShape) -> Exchange:
    return Exchange("all_gather", sum(shape.key_value_values), None)


def memory_bytes(
    model: CrossModel, method: Method, prompt: CrossPrompt, ranks: int, partial_bits: float
) -> dict[str, float]:
    """What one GPU must hold for these layers alone: their weights, visual features, the keys and values of all of
    them (decoding needs them again), and what one layer's exchange takes besides.
    """
    c, shape = model.config, model.shape(prompt, ranks)
    heads, kv_heads = model.heads * model.head_dim, model.kv_heads * model.head_dim
    weights = c.hidden_size * (2 * heads + 2 * kv_heads) + c.feed_forward.values(c.hidden_size, 1)["feed_forward"]
    own, rows = prompt.batch * max(shape.visual), prompt.batch * max(shape.text)
    passing = {
        "lv-xattn": 2 * rows * (heads * (2 + partial_bits / 8) + 4 * model.heads),  # one arriving, one leaving
        "ring-attention": 2 * own * 2 * kv_heads * 2.0,
        "all-gather": prompt.batch * prompt.visual_tokens * 2 * kv_heads * 2.0,
        "none": 0.0,
    }
    return {
        "weights": model.layers * weights * BITS[prompt.weights] / 8,
        "visual_features": 2.0 * own * c.hidden_size,
        "keys_values": 2.0 * model.layers * 2 * own * kv_heads,
        "exchange": passing[method] if ranks > 1 else 0.0,
    }
