"""What one rank does in one layer: kernels by shape, and what it exchanges behind them.

Attention itself is the caller's: a prefill attends to whole sequences, an iteration of an engine to chunks and contexts
(`Attends`). Everything else depends on the number of tokens alone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

from thinwire.reference.core.architecture import Experts, FeedForward, Layer, ModelConfig
from thinwire.reference.core.mixers import Attention, DeltaNet, Latent, Lightning, Mixer, Part, StateSpace, Values
from thinwire.reference.core.precision import BITS, PARTS, kv_of, precision_of
from thinwire.reference.core.scheme import Phase, Scheme
from thinwire.reference.mixed import Site
from thinwire.sim.choices import Kv, Precision, Weights
from thinwire.sim.shapes import FP8_ROWS, Elementwise, Exchange, Gemm, Kernel, Recurrent, RoutedExperts, Rows
from thinwire.sim.sharing import Sharing, load, returned, sharing_of, visits

Attends = Callable[[Mixer], tuple[Kernel, ...]]
"""The kernels between a mixer's projections on one rank."""

After = Mapping[Site, Scheme | None]
"""The scheme of a layer's sync points; None: dropped."""

GATED_OPS = {"silu": "silu_mul"}
"""Gated activations and the kernels they are; others cost what GELU's does."""


Basis = Literal["all", "own"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Kernels back to back, and the exchanges behind them, with words for each. basis: whose tokens the kernels run
    on: all of the ranks', or the rank's own alone.
    """

    name: str
    kernels: tuple[Kernel, ...]
    exchanges: tuple[tuple[str, Exchange], ...] = ()
    basis: Basis = "all"


def precision(model: ModelConfig, weights: Weights, part: Part) -> Precision:
    """What a part's matrices are in; routers, embedding and head are bf16."""
    return precision_of(model.checkpoint, weights, part) if part in PARTS else "bf16"


def precisions(model: ModelConfig, weights: Weights) -> dict[Part, Precision]:
    """The same of the parts that a model has, but for routers and the like."""
    return {part: precision(model, weights, part) for part in PARTS if model.whole[part]}


def said_of(model: ModelConfig, weights: Weights) -> str:
    """Precisions in words: one for all, or the parts' that differ."""
    found = precisions(model, weights)
    if len(set(found.values())) <= 1:
        return next(iter(found.values()), "bf16")
    words: dict[Precision, list[str]] = {}
    for part, fmt in found.items():
        words.setdefault(fmt, []).append(part.replace("_", " "))
    return ", ".join(f"{fmt} ({' and '.join(parts)})" for fmt, parts in words.items())


def formats(model: ModelConfig, weights: Weights, kv: Kv) -> str:
    """In words: of weights, and of the cache where it has one of its own."""
    cached = kv_of(model.checkpoint, kv)
    return said_of(model, weights) + ("" if cached == "bf16" else f", KV cache {cached}")


def weight_bytes(model: ModelConfig, weights: Weights, sharing: Sharing | int) -> float:
    """Of one rank: the parts' matrices in their precisions, everything else in bf16."""
    parts = held(model, sharing_of(sharing)).items()
    return sum(values * BITS[precision(model, weights, cast(Part, part))] / 8 for part, values in parts)


def held(model: ModelConfig, sharing: Sharing) -> Values:
    """Trained values of one rank by part."""
    found = model.outside(sharing.dense_ranks)
    for layer, times in model.distinct:
        feed, mixing_alone = layer.feed, replace(layer, feed=None)
        of_layer = mixing_alone.values(model.hidden_size, sharing.dense_ranks, norm=model.norm)
        of_layer["other"] += (layer.norm_count - mixing_alone.norm_count) * model.norm_values
        if isinstance(feed, Experts):
            of_layer += replace(feed, shared=None).values(model.hidden_size, sharing.ranks, sharing.ep)
            if feed.shared is not None:
                of_layer += feed.shared.values(model.hidden_size, sharing.shared_ranks, "shared_experts")
                of_layer["other"] += model.hidden_size * feed.shared_gate
        elif feed is not None:
            of_layer += feed.values(model.hidden_size, sharing.dense_ranks)
        for part, values in of_layer.items():
            found[part] += times * values
    return found


def stages(
    model: ModelConfig,
    layer: Layer,
    sharing: Sharing,
    after: After,
    tokens: int,
    rows: Callable[[Scheme], Rows],
    attends: Attends,
    weights: Weights,
    own: int | None = None,
) -> Iterator[Stage]:
    """A layer on one rank, in order; halves with no exchange between them are one stage.

    tokens: of all ranks. rows: the tokens, and which of them a scheme exempts. own: of the rank that has most, where
    ranks have tokens of their own; None = as even as can be. attends: on the tokens that attention sees there.
    """
    own = sharing.own(tokens) if own is None else own
    if sharing.attention == "dp" and sharing.ranks > 1:
        yield from _with_own_tokens(model, layer, sharing, after, tokens, own, attends, weights)
    elif sharing.exchange == "all-to-all" and isinstance(layer.feed, Experts) and sharing.ranks > 1:
        yield from _sent_to_experts(model, layer, sharing, after, tokens, rows, attends, weights)
    else:
        yield from _together(model, layer, sharing, after, tokens, rows, attends, weights)


def _together(
    model: ModelConfig,
    layer: Layer,
    sharing: Sharing,
    after: After,
    tokens: int,
    rows: Callable[[Scheme], Rows],
    attends: Attends,
    weights: Weights,
) -> Iterator[Stage]:
    """Every rank has all tokens and a part of the sums: an all-reduce behind each half."""
    tp = sharing.ranks
    halves: dict[Site, tuple[Kernel, ...]] = {"attention": (), "mlp": ()}
    if layer.mixer is not None:
        halves["attention"] = mixing(model, layer, tp, tokens, attends, weights)
    if isinstance(layer.feed, Experts):
        routed = experts(model, layer.feed, sharing, tokens, weights, True)
        beside = (*router(model, layer.feed, tokens), *shared_experts(model, layer.feed, tp, tokens, weights))
        halves["mlp"] = (*norms(model, layer, tokens, "mlp"), *beside, routed)
    elif layer.feed is not None:
        halves["mlp"] = feeding(model, layer, layer.feed, tp, tokens, weights)
    if layer.parallel:
        halves = {"mlp": halves["attention"] + halves["mlp"]}
    name, waiting = "", tuple[Kernel, ...]()
    for site in layer.sites:
        called = "attention+mlp" if layer.parallel else site
        name = f"{name}+{called}" if name else called
        waiting += halves[site]
        scheme = after[site]
        exchanged = scheme is not None and scheme.collective != "none"
        if exchanged or site == layer.sites[-1]:
            sent = all_reduces(scheme, rows(scheme), model.hidden_size) if scheme is not None and exchanged else ()
            yield Stage(name, waiting, tuple((f"all-reduce {what} {site}", exchange) for what, exchange in sent))
            name, waiting = "", ()


def _sent_to_experts(
    model: ModelConfig,
    layer: Layer,
    sharing: Sharing,
    after: After,
    tokens: int,
    rows: Callable[[Scheme], Rows],
    attends: Attends,
    weights: Weights,
) -> Iterator[Stage]:
    """Attention cut by heads, then tokens cut by ranks: the all-reduce behind attention comes apart into a
    reduce-scatter there and an all-gather behind the experts, with dispatch and combine between them.
    """
    assert isinstance(layer.feed, Experts)
    own, width, scheme = sharing.own(tokens), model.hidden_size, after["mlp"]
    if layer.mixer is not None and not layer.parallel:
        kernels = mixing(model, layer, sharing.ranks, tokens, attends, weights)
        before = after["attention"]
        sent = all_reduces(before, rows(before), width) if before is not None and before.collective != "none" else ()
        yield Stage("attention", kernels, tuple(_half(what, each, "reduce_scatter") for what, each in sent))
    elif layer.mixer is not None:
        raise ValueError(f"{model.name}: attention beside experts, with tokens sent to experts, is not known")
    routed = scheme if scheme is not None and scheme.collective != "none" else None
    sent = all_reduces(routed, rows(routed), width) if routed is not None else ()
    behind = tuple(_half(what, each, "all_gather") for what, each in sent)
    silent = scheme is not None and routed is None
    yield from _through_experts(model, layer, sharing, routed, tokens, own, weights, silent, behind)


def _half(what: str, exchange: Exchange, op: Literal["reduce_scatter", "all_gather"]) -> tuple[str, Exchange]:
    """One half of an all-reduce."""
    words = {"reduce_scatter": "reduce-scatter", "all_gather": "all-gather"}
    return f"{words[op]} {what} {'attention' if op == 'reduce_scatter' else 'experts'}", replace(
        exchange, op=op, exact=0
    )


def _with_own_tokens(
    model: ModelConfig,
    layer: Layer,
    sharing: Sharing,
    after: After,
    tokens: int,
    own: int,
    attends: Attends,
    weights: Weights,
) -> Iterator[Stage]:
    """Every rank has sequences of its own and all that is dense; only experts' tokens travel."""
    scheme = after["mlp"]
    silent = scheme is not None and scheme.collective == "none"
    kernels = tuple[Kernel, ...]()
    if layer.mixer is not None:
        kernels += mixing(model, layer, 1, own, attends, weights)
    if not isinstance(layer.feed, Experts):
        if layer.feed is not None:
            kernels += feeding(model, layer, layer.feed, 1, own, weights)
        yield Stage("+".join(layer.sites), kernels, (), "own")
        return
    if kernels:
        yield Stage("attention", kernels, (), "own")
    routed = None if silent else scheme
    if sharing.exchange == "all-to-all":
        yield from _through_experts(model, layer, sharing, routed, tokens, own, weights, silent)
        return
    numel = tokens * model.hidden_size
    gather = ("all-gather of tokens", Exchange("all_gather", numel, _for_experts(routed, "dispatch")))
    scatter = ("reduce-scatter of tokens", Exchange("reduce_scatter", numel, _for_experts(routed, "combine")))
    opening = (*norms(model, layer, own, "mlp"), *router(model, layer.feed, own))
    opening += shared_experts(model, layer.feed, 1, own, weights)
    yield Stage("router", opening, () if silent else (gather,), "own")
    routed_kernel = experts(model, layer.feed, sharing, tokens, weights, True)
    yield Stage("experts", (routed_kernel,), () if silent else (scatter,))


def _through_experts(
    model: ModelConfig,
    layer: Layer,
    sharing: Sharing,
    scheme: Scheme | None,
    tokens: int,
    own: int,
    weights: Weights,
    silent: bool,
    behind: tuple[tuple[str, Exchange], ...] = (),
) -> Iterator[Stage]:
    """Router, dispatch, experts, combine, where the rank with most of `tokens` tokens has `own`. silent: neither is
    sent, as a floor. behind: what is exchanged after the combine.
    """
    assert isinstance(layer.feed, Experts)
    counts = visits(layer.feed, sharing, tokens, own)
    back = returned(counts)
    there, home = (max(map(sum, table)) * model.hidden_size for table in (counts, back))
    dispatch = Exchange("all_to_all", there, _for_experts(scheme, "dispatch"), counts=counts)
    combine = Exchange("all_to_all", home, _for_experts(scheme, "combine"), counts=back)
    opening = (*norms(model, layer, own, "mlp"), *router(model, layer.feed, own))
    opening += shared_experts(model, layer.feed, sharing.shared_ranks, own, weights)
    yield Stage("router", opening, () if silent else (("dispatch", dispatch),), "own")
    routed = experts(model, layer.feed, sharing, tokens, weights, False)
    yield Stage("experts", (routed,), (() if silent else (("combine", combine),)) + behind)


def _for_experts(scheme: Scheme | None, phase: Phase) -> Scheme | None:
    """What one phase of experts' traffic runs as; None where nothing says how, which is uncompressed."""
    return None if scheme is None else scheme.for_experts(phase)


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


def product(name: str, tokens: int, n: int, k: int, weights: Precision) -> Gemm:
    """(tokens, k) @ (k, n) as an engine launches it, in prompts and in decoding alike."""
    padded = weights in ("fp8", "fp8-block")
    return Gemm(name, -(-tokens // FP8_ROWS) * FP8_ROWS if padded else tokens, n, k, weights)


def norms(model: ModelConfig, layer: Layer, tokens: int, half: Site = "attention") -> tuple[Kernel, ...]:
    """The residual addition fused with the norm before a half; where there are norms behind halves too, the one of what
    the last half gave. Norms behind halves alone are fused with the addition, too.
    """
    before = Elementwise("norm", "add_rms_norm", tokens, model.hidden_size)
    if layer.parallel and half == "mlp":
        return () if layer.one_norm else (Elementwise("second norm", "rms_norm", tokens, model.hidden_size),)
    if layer.norms == "both":
        return Elementwise("post norm", "rms_norm", tokens, model.hidden_size), before
    return (before,)


def mixing(
    model: ModelConfig, layer: Layer, tp: int, tokens: int, attends: Attends, weights: Weights
) -> tuple[Kernel, ...]:
    """The half of a layer that mixes tokens, its norm included."""
    assert layer.mixer is not None
    before, behind = around(model, layer.mixer, tp, tokens, precision(model, weights, "attention"))
    return (*norms(model, layer, tokens), *before, *attends(layer.mixer), *behind)


def around(
    model: ModelConfig, mixer: Mixer, tp: int, tokens: int, fmt: Precision
) -> tuple[tuple[Kernel, ...], tuple[Kernel, ...]]:
    """Kernels of one rank before and behind what mixes tokens."""
    width = model.hidden_size
    match mixer:
        case Attention():
            heads, dim = mixer.heads // tp, mixer.head_dim
            kv_heads = 0 if mixer.borrowed else mixer.kv_heads_per_gpu(tp)
            keys_values = kv_heads * (dim if mixer.keys_are_values else dim + mixer.values_per_head)
            before: list[Kernel] = [
                product("qkv", tokens, heads * dim * (2 if mixer.gated else 1) + keys_values, width, fmt)
            ]
            if mixer.head_gate:
                before.append(product("head gate", tokens, heads, width, "bf16"))
            if mixer.qk_norm != "none":
                before.append(Elementwise("qk norm", "rms_norm", tokens, (heads + kv_heads) * dim))
            if mixer.rope is not None:
                before.append(Elementwise("rope", "rope", tokens, (heads + kv_heads) * mixer.rope.dims))
            out = heads * mixer.values_per_head
            gated = mixer.gated or mixer.head_gate
            gate = (Elementwise("output gate", "silu_mul", tokens, out),) if gated else ()
            return tuple(before), (*gate, product("o", tokens, width, out, fmt))
        case Latent():
            heads, down = mixer.heads // tp, mixer.rank + mixer.rope_dim
            if mixer.q_rank is None:
                before = [
                    product("q", tokens, heads * mixer.head_dim, width, fmt),
                    product("kv_a", tokens, down, width, fmt),
                ]
            else:
                before = [
                    product("qkv_a", tokens, mixer.q_rank + down, width, fmt),
                    Elementwise("q norm", "rms_norm", tokens, mixer.q_rank),
                    product("q_b", tokens, heads * mixer.head_dim, mixer.q_rank, fmt),
                ]
            before.append(Elementwise("kv norm", "rms_norm", tokens, mixer.rank))
            before.append(Elementwise("rope", "rope", tokens, (heads + 1) * mixer.rope_dim))
            if mixer.indexer is not None and not mixer.indexer.shared:
                index = mixer.indexer
                before.append(product("index q", tokens, index.heads * index.head_dim, mixer.q_rank or width, fmt))
                before.append(product("index k", tokens, index.head_dim + index.heads, width, fmt))
            return tuple(before), (product("o", tokens, width, heads * mixer.value_dim, fmt),)
        case DeltaNet():
            keys, heads = mixer.key_heads // tp * mixer.key_dim, mixer.value_heads // tp
            out = heads * mixer.value_dim
            return (
                (
                    product("qkvz", tokens, 2 * keys + 2 * out, width, fmt),
                    product("ba", tokens, 2 * heads, width, "bf16"),
                ),
                (Elementwise("gated norm", "silu_mul", tokens, out), product("o", tokens, width, out, fmt)),
            )
        case StateSpace():
            heads = mixer.heads // tp
            inner, shared = heads * mixer.head_dim, 2 * mixer.groups_per_gpu(tp) * mixer.state
            return (
                (product("in", tokens, 2 * inner + shared + heads, width, fmt),),
                (Elementwise("gated norm", "silu_mul", tokens, inner), product("out", tokens, width, inner, fmt)),
            )
        case Lightning():
            inner = mixer.heads // tp * mixer.head_dim
            return (
                (product("qkvg", tokens, 4 * inner, width, fmt),),
                (Elementwise("gated norm", "silu_mul", tokens, inner), product("o", tokens, width, inner, fmt)),
            )


def feeding(
    model: ModelConfig, layer: Layer, feed: FeedForward, tp: int, tokens: int, weights: Weights
) -> tuple[Kernel, ...]:
    """A dense half that feeds tokens forward, its norm included."""
    fmt = precision(model, weights, "feed_forward")
    return (*norms(model, layer, tokens, "mlp"), *mlp(model, feed, tp, tokens, fmt))


def mlp(
    model: ModelConfig, feed: FeedForward, tp: int, tokens: int, fmt: Precision, prefix: str = ""
) -> tuple[Kernel, ...]:
    """An MLP on one rank, gated or not."""
    hidden, inner = model.hidden_size, feed.width // tp
    up = product(f"{prefix}gate_up", tokens, 2 * inner, hidden, fmt)
    act = Elementwise(f"{prefix}activation", GATED_OPS.get(feed.activation, "gelu_mul"), tokens, inner)
    if not feed.gated:  # one value read, one written: a norm's bytes
        up = product(f"{prefix}up", tokens, inner, hidden, fmt)
        act = Elementwise(f"{prefix}activation", "rms_norm", tokens, inner)
    return up, act, product(f"{prefix}down", tokens, hidden, inner, fmt)


def experts(
    model: ModelConfig, feed: Experts, sharing: Sharing, tokens: int, weights: Weights, gathered: bool
) -> RoutedExperts:
    """What the busiest rank's experts make of their rows of `tokens` tokens of all ranks. gathered: it has those of
    others, too, and passes over them.
    """
    # Latent experts (Nemotron 3) work on `feed.latent` values a row, projected before and behind by `shared_experts`.
    found = load(feed, sharing, tokens)
    return RoutedExperts(
        "experts",
        found.rows,
        found.hit,
        feed.count // sharing.ep,
        feed.latent or model.hidden_size,
        feed.width // (sharing.ranks // sharing.ep),
        feed.gated,
        precision(model, weights, "experts"),
        max(0, tokens * feed.top_k - found.rows) if gathered else 0,
    )


def router(model: ModelConfig, feed: Experts, tokens: int) -> tuple[Kernel, ...]:
    """Logits of all experts, and the choice among them."""
    return (
        Gemm("router", tokens, feed.count, model.hidden_size, "bf16"),
        Elementwise("top-k", "copy", tokens, feed.count),
    )


def shared_experts(model: ModelConfig, feed: Experts, tp: int, tokens: int, weights: Weights) -> tuple[Kernel, ...]:
    """What every token goes through beside its own experts, and the addition of both."""
    fmt, found = precision(model, weights, "shared_experts"), list[Kernel]()
    if feed.latent is not None:
        found.append(product("latent down", tokens, feed.latent, model.hidden_size, fmt))
        found.append(product("latent up", tokens, model.hidden_size, feed.latent, fmt))
    if feed.shared is not None:
        found += mlp(model, feed.shared, tp, tokens, fmt, "shared ")
        found.append(Elementwise("add shared", "residual_add", tokens, model.hidden_size))
    return tuple(found)


def recurrent(mixer: Mixer, tp: int, tokens: int, sequences: int) -> Recurrent:
    """What a linear-attention or state-space layer runs between its projections. ValueError for attention."""
    match mixer:
        case DeltaNet():
            heads, groups = mixer.value_heads // tp, mixer.key_heads // tp
            return Recurrent(
                "delta rule", "delta", tokens, sequences, heads, mixer.key_dim, mixer.value_dim, groups, mixer.conv
            )
        case StateSpace():
            heads, groups = mixer.heads // tp, mixer.groups_per_gpu(tp)
            return Recurrent(
                "state space", "mamba2", tokens, sequences, heads, mixer.state, mixer.head_dim, groups, mixer.conv
            )
        case Lightning():
            heads, dim = mixer.heads // tp, mixer.head_dim
            return Recurrent("lightning attention", "lightning", tokens, sequences, heads, dim, dim, heads, 0)
        case _:
            raise ValueError(f"no recurrence: {type(mixer).__name__}")
