"""What one rank does in one layer: kernels by shape, and what it exchanges behind them.

Attention itself is the caller's: a prefill attends to whole sequences, an iteration of an engine to chunks and contexts
(`Attends`). Everything else depends on the number of tokens alone.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

from thinwire.reference.core.architecture import (
    Attention,
    DeltaNet,
    Experts,
    FeedForward,
    Latent,
    Layer,
    Lightning,
    Mixer,
    ModelConfig,
    Part,
    StateSpace,
)
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.mixed import Site
from thinwire.sim.choices import Precision, Weights
from thinwire.sim.shapes import FP8_ROWS, Elementwise, Exchange, Gemm, Kernel, Recurrent, RoutedExperts, Rows

Attends = Callable[[Mixer], tuple[Kernel, ...]]
"""The kernels between a mixer's projections on one rank."""

After = Mapping[Site, Scheme | None]
"""The scheme of a layer's sync points; None: dropped."""

GATED_OPS = {"silu": "silu_mul"}
"""Gated activations and the kernels they are; others cost what GELU's does."""

BITS: Mapping[Precision, float] = {"bf16": 16.0, "fp8": 8.0}
"""Bits a value of a matrix takes, scales included."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Kernels back to back, and the exchanges behind them, with words for each."""

    name: str
    kernels: tuple[Kernel, ...]
    exchanges: tuple[tuple[str, Exchange], ...] = ()


def precision(model: ModelConfig, weights: Weights, part: Part) -> Precision:
    """What a part's matrices are in."""
    return weights if part in ("attention", "feed_forward", "experts", "shared_experts") else "bf16"


def weight_bytes(model: ModelConfig, weights: Weights, tp: int, ep: int = 1) -> float:
    """Of one rank: the parts' matrices in their precisions, everything else in bf16."""
    held = model.values(tp, ep)
    return sum(values * BITS[precision(model, weights, cast(Part, part))] / 8 for part, values in held.items())


def stages(
    model: ModelConfig,
    layer: Layer,
    tp: int,
    after: After,
    tokens: int,
    rows: Callable[[Scheme], Rows],
    attends: Attends,
    weights: Weights,
) -> Iterator[Stage]:
    """A layer on one of `tp` ranks, in order; halves with no exchange between them are one stage.

    rows: the tokens, and which of them a scheme exempts.
    """
    halves: dict[Site, tuple[Kernel, ...]] = {"attention": (), "mlp": ()}
    if layer.mixer is not None:
        halves["attention"] = mixing(model, layer, tp, tokens, attends, weights)
    if layer.feed is not None:
        halves["mlp"] = feeding(model, layer, tp, tokens, weights)
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
    return Gemm(name, -(-tokens // FP8_ROWS) * FP8_ROWS if weights == "fp8" else tokens, n, k, weights)


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
            heads, kv_heads, dim = mixer.heads // tp, mixer.kv_heads_per_gpu(tp), mixer.head_dim
            keys_values = kv_heads * (dim if mixer.keys_are_values else dim + mixer.values_per_head)
            before: list[Kernel] = [
                product("qkv", tokens, heads * dim * (2 if mixer.gated else 1) + keys_values, width, fmt)
            ]
            if mixer.qk_norm != "none":
                before.append(Elementwise("qk norm", "rms_norm", tokens, (heads + kv_heads) * dim))
            if mixer.rope is not None:
                before.append(Elementwise("rope", "rope", tokens, (heads + kv_heads) * mixer.rope.dims))
            out = heads * mixer.values_per_head
            gate = (Elementwise("output gate", "silu_mul", tokens, out),) if mixer.gated else ()
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
            if mixer.indexer is not None:
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


def feeding(model: ModelConfig, layer: Layer, tp: int, tokens: int, weights: Weights) -> tuple[Kernel, ...]:
    """The half of a layer that feeds tokens forward, its norm included."""
    opening = norms(model, layer, tokens, "mlp")
    if isinstance(layer.feed, Experts):
        return (*opening, *experts(model, layer.feed, tp, tokens, weights))
    assert layer.feed is not None
    return (*opening, *mlp(model, layer.feed, tp, tokens, precision(model, weights, "feed_forward")))


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


def experts(model: ModelConfig, feed: Experts, tp: int, tokens: int, weights: Weights) -> tuple[Kernel, ...]:
    """A mixture whose experts are cut over all ranks alike: every rank has its columns of every expert."""
    hidden, rows = model.hidden_size, tokens * feed.top_k
    routed = RoutedExperts(
        "experts",
        rows,
        hit_experts(feed.count, rows),
        feed.count,
        hidden,
        feed.width // tp,
        feed.gated,
        precision(model, weights, "experts"),
    )
    return (*router(model, feed, tokens), *shared_experts(model, feed, tp, tokens, weights), routed)


def router(model: ModelConfig, feed: Experts, tokens: int) -> tuple[Kernel, ...]:
    """Logits of all experts, and the choice among them."""
    return (
        Gemm("router", tokens, feed.count, model.hidden_size, "bf16"),
        Elementwise("top-k", "copy", tokens, feed.count),
    )


def shared_experts(model: ModelConfig, feed: Experts, tp: int, tokens: int, weights: Weights) -> tuple[Kernel, ...]:
    """What every token goes through beside its own experts, and the addition of both."""
    if feed.shared is None:
        return ()
    fmt = precision(model, weights, "shared_experts")
    added = Elementwise("add shared", "residual_add", tokens, model.hidden_size)
    return (*mlp(model, feed.shared, tp, tokens, fmt, "shared "), added)


def hit_experts(count: int, rows: int) -> int:
    """Of `count` experts that are chosen alike, how many get one of `rows` rows or more, as expected, rounded up."""
    return min(count, rows, -int(-(count * (1 - (1 - 1 / count) ** rows)) // 1)) if count > 1 else 1


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
