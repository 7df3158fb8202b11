"""What one rank does: shapes that add up to the model, exchanges where the scheme keeps them, memory."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme
from thinwire.reference.core.architecture import Experts, Layer, ModelConfig
from thinwire.reference.core.mixers import Latent
from thinwire.reference.families.config import load_model, model_names
from thinwire.reference.mixed import MixedScheme
from thinwire.sim.costs.attention import scored_pairs
from thinwire.sim.shapes import Attend, Elementwise, Exchange, Gemm, Kernel, RoutedExperts
from thinwire.sim.workload import Op, Prompt, Workload, build, memory_bytes, parts

from .helpers import small, with_attention

BF16 = scheme("bf16")
DEGREES = (1, 2, 4, 8)


def kernels(ops: tuple[Op, ...]) -> list[Kernel]:
    return [kernel for op in ops for kernel in op.kernels]


def everything(workload: Workload) -> tuple[Op, ...]:
    return (*workload.before, *(op for layer in workload.layers for op in layer), *workload.after)


def flops(kernel: Kernel) -> int:
    match kernel:
        case Gemm():
            return 2 * kernel.m * kernel.n * kernel.k
        case RoutedExperts():
            return 2 * kernel.rows * (3 if kernel.gated else 2) * kernel.hidden * kernel.width
        case _:
            return 0


def divides(model: ModelConfig, tp: int) -> bool:
    try:
        model.check_tp(tp)
    except ValueError:
        return False
    return True


SHARDINGS = [(name, tp) for name in model_names() for tp in range(1, 9) if divides(load_model(name), tp)]


def matrices_of_a_token(model: ModelConfig, tp: int) -> int:
    """Values that one token is multiplied with on one rank, in all layers."""
    found = 0
    for layer in model.layers:
        values = layer.values(model.hidden_size, tp)
        if isinstance(layer.feed, Experts):
            assert values["experts"] * layer.feed.top_k % layer.feed.count == 0
            values["experts"] = values["experts"] * layer.feed.top_k // layer.feed.count
        found += values.total() - values["other"]
    return found


@pytest.mark.parametrize(("name", "tp"), SHARDINGS)
@pytest.mark.parametrize("split", ["", "+iso-30"])
def test_products_add_up_to_two_operations_a_weight_and_token(name: str, tp: int, split: str) -> None:
    model, prompt = load_model(name), Prompt(3, 700)
    workload = build(model, scheme(f"flash-int4{split}"), prompt, tp)
    per_rank = sum(flops(k) for layer in workload.layers for k in kernels(layer))
    again = 0
    if split and tp > 1:  # the second part expands the first part's latents once more
        for mixer in (layer.mixer for layer in model.layers):
            if isinstance(mixer, Latent):
                again += 210 * mixer.rank * mixer.heads // tp * (mixer.nope_dim + mixer.value_dim)
    assert per_rank == 2 * prompt.batch * (prompt.input_tokens * matrices_of_a_token(model, tp) + again)
    (head,) = (k for k in kernels(workload.after) if isinstance(k, Gemm))
    assert (head.m, head.k, head.precision) == (prompt.batch, model.hidden_size, "bf16")
    assert model.vocab_size <= tp * head.n < model.vocab_size + tp


def test_the_catalog_has_models_for_every_degree() -> None:
    assert {tp for _, tp in SHARDINGS} >= set(DEGREES)
    assert len(SHARDINGS) >= 3 * len(model_names())


@pytest.mark.parametrize("tp", DEGREES)
@pytest.mark.parametrize("weights", ["bf16", "fp8"])
def test_shapes_of_a_layer(tp: int, weights: str) -> None:
    """Llama-3-70B: hidden 8192, 64 heads and 8 key-value heads of 128, MLP 28672."""
    workload = build(load_model("llama-3-70b"), BF16, Prompt(2, 100, weights), tp)  # type: ignore[arg-type]
    gemms = {k.name: (k.m, k.n, k.k, k.precision) for k in kernels(workload.layers[0]) if isinstance(k, Gemm)}
    assert gemms == {
        "qkv": (200, 10240 // tp, 8192, weights),
        "o": (200, 8192, 8192 // tp, weights),
        "gate_up": (200, 57344 // tp, 8192, weights),
        "down": (200, 8192, 28672 // tp, weights),
    }
    (attend,) = (k for k in kernels(workload.layers[0]) if isinstance(k, Attend))
    assert attend == Attend("attention", 2, 100, 100, 64 // tp, 8 // tp, 128, None)
    small_ones = [(k.op, k.tokens, k.width) for k in kernels(workload.layers[0]) if isinstance(k, Elementwise)]
    assert small_ones == [
        ("add_rms_norm", 200, 8192),
        ("rope", 200, 72 * 128 // tp),
        ("add_rms_norm", 200, 8192),
        ("silu_mul", 200, 28672 // tp),
    ]


def test_key_value_heads_are_replicated_when_there_are_more_ranks() -> None:
    model = with_attention(load_model("llama-3-8b"), kv_heads=2)
    for tp, kv_heads in ((1, 2), (2, 1), (8, 1)):
        workload = build(model, BF16, Prompt(1, 10), tp)
        (attend,) = (k for k in kernels(workload.layers[0]) if isinstance(k, Attend))
        assert (attend.heads, attend.kv_heads) == (32 // tp, kv_heads)
        (qkv,) = (k for k in kernels(workload.layers[0]) if k.name == "qkv" and isinstance(k, Gemm))
        assert qkv.n == (32 // tp + 2 * kv_heads) * 128


def test_gemma_alternates_windows_and_normalises_twice() -> None:
    workload = build(small("gemma-2-27b", 4), BF16, Prompt(1, 9000), 2)
    windows = [k.window for layer in workload.layers for k in kernels(layer) if isinstance(k, Attend)]
    assert windows == [4096, None, 4096, None]
    names = [k.op for k in kernels(workload.layers[0]) if isinstance(k, Elementwise)]
    assert names == ["rms_norm", "add_rms_norm", "rope", "rms_norm", "add_rms_norm", "gelu_mul"]


# --- exchanges ---


@pytest.mark.parametrize(
    ("model", "name", "tp", "count"),
    [
        ("llama-3-70b", "bf16", 8, 160),
        ("llama-3-70b", "flash-int4", 8, 160),
        ("llama-3-70b", "flash-int4+spd-50", 8, 120),
        ("llama-3-70b", "spd-100", 4, 80),
        ("llama-3-70b", "spd-0", 4, 160),
        ("llama-3-70b", "iso", 8, 320),
        ("llama-3-70b", "spd-25+iso", 8, 280),
        ("llama-3-70b", "none", 8, 0),
        ("llama-3-70b", "bf16", 1, 0),
        ("llama-2-7b", "spd-37", 2, 32 + 32 - 12),
    ],
)
def test_how_many_all_reduces(model: str, name: str, tp: int, count: int) -> None:
    workload = build(load_model(model), scheme(name), Prompt(1, 64), tp)
    assert workload.all_reduce_count == count
    assert len(workload.layers) == load_model(model).num_layers


@given(st.integers(1, 90), st.floats(0, 100))
def test_dropped_sync_points_leave_no_exchange(layers: int, percent: float) -> None:
    chosen = replace(BF16, drop_attention_percent=percent)
    workload = build(small("llama-3-70b", layers), chosen, Prompt(1, 64), 8)
    kept = chosen.kept_attention(layers)
    assert workload.all_reduce_count == layers + sum(kept)
    for layer, keep in zip(workload.layers, kept, strict=True):
        names = ["attention", "all-reduce after attention", "mlp"] if keep else ["attention+mlp"]
        assert [op.name for op in layer] == [*names, "all-reduce after mlp"]
    whole = build(small("llama-3-70b", layers), BF16, Prompt(1, 64), 8)
    assert [kernels(layer) for layer in workload.layers] == [kernels(layer) for layer in whole.layers]


def test_each_sync_point_has_its_scheme() -> None:
    """A mixed scheme's entries reach their points; layers alike share their ops, so that they fold."""
    four, eight, exempt = scheme("flash-int4"), scheme("flash-int8"), scheme("flash-int4+exempt-2")
    mixed = MixedScheme("mixed", (four, None, four, exempt), (eight, eight, eight, four), model="by hand")
    workload = build(small("llama-3-70b", 4), mixed, Prompt(3, 50), 8)
    seen = [[(op.name, op.exchange.scheme) for op in layer if op.exchange] for layer in workload.layers]
    both = [("all-reduce after attention", four), ("all-reduce after mlp", eight)]
    assert seen == [
        both,
        [("all-reduce after mlp", eight)],
        both,
        [
            ("all-reduce of exempt tokens after attention", None),
            ("all-reduce after attention", exempt),
            ("all-reduce after mlp", four),
        ],
    ]
    assert workload.layers[0] is workload.layers[2]
    sizes = [op.exchange.numel for op in workload.layers[3] if op.exchange]
    assert sizes == [3 * 2 * 8192, 3 * 48 * 8192, 3 * 50 * 8192]
    assert build(small("llama-3-70b", 4), mixed, Prompt(3, 50), 1).all_reduce_count == 0
    with pytest.raises(ValueError, match=r"mixed names schemes for 4 layers .by hand., the model has 5"):
        build(small("llama-3-70b", 5), mixed, Prompt(1, 50), 8)


@given(st.integers(2, 40), st.integers(1, 45), st.sampled_from([None, 0.3, 0.5]))
def test_exempt_tokens_are_the_first_of_the_sequence(tokens: int, exempt: int, split: float | None) -> None:
    """Every value is exchanged once, and of the sequence's first tokens none by the codec."""
    chosen = replace(scheme("flash-int4"), exempt_tokens=exempt, sequence_split=split)
    if split is not None and not 0 < round(tokens * split) < tokens:
        return
    layer = build(small("llama-3-70b", 1), chosen, Prompt(2, tokens), 8).layers[0]
    exchanges = [op.exchange for op in layer if op.exchange and "attention" in op.name]
    raw = sum(e.numel for e in exchanges if e.scheme is None)
    assert raw == 2 * min(exempt, tokens) * 8192
    assert sum(e.numel for e in exchanges) == 2 * tokens * 8192 and all(e.numel for e in exchanges)


@given(st.integers(1, 40), st.integers(0, 4), st.integers(0, 45), st.sampled_from([None, 0.3, 0.5]), st.integers(1, 3))
def test_exempt_last_tokens_are_exact_values_of_the_others_message(
    tokens: int, opening: int, last: int, split: float | None, batch: int
) -> None:
    """One exchange a point and part; of the prompt's last tokens, as far as the part that ends it holds them and the
    first are not among them; and where no others are left, uncompressed."""
    chosen = replace(scheme("flash-int4"), exempt_tokens=opening, exempt_last_tokens=last, sequence_split=split)
    if split is not None and not 0 < round(tokens * split) < tokens:
        return
    layer = build(small("llama-3-70b", 1), chosen, Prompt(batch, tokens), 8).layers[0]
    exchanges = [op.exchange for op in layer if op.exchange and "attention" in op.name]
    assert all(isinstance(e, Exchange) for e in exchanges)
    assert sum(e.numel for e in exchanges) == batch * tokens * 8192  # type: ignore[union-attr]
    start = 0 if split is None else round(tokens * split)  # of the part that ends
    kept = max(start, min(opening, tokens))  # rows before it are none of the part's, or the first
    tail = min(last, tokens - kept)
    at_end = exchanges[-1]
    assert isinstance(at_end, Exchange)
    if not tail:
        assert not any(e.exact for e in exchanges)  # type: ignore[union-attr]
    elif tail == tokens - kept:
        assert at_end == Exchange("all_reduce", batch * tail * 8192, None)
    else:
        assert at_end == Exchange("all_reduce", batch * (tokens - kept) * 8192, chosen, batch * tail * 8192)


def test_what_is_exchanged() -> None:
    chosen = scheme("flash-int4")
    workload = build(load_model("llama-3-8b"), chosen, Prompt(3, 50), 4)
    exchanges = [op.exchange for op in workload.layers[5] if op.exchange]
    assert [(e.op, e.numel, e.scheme) for e in exchanges] == [("all_reduce", 3 * 50 * 4096, chosen)] * 2
    (logits,) = (op.exchange for op in workload.after if op.exchange)
    assert (logits.op, logits.numel, logits.scheme) == ("all_gather", 3 * 128256, None)
    assert all(op.exchange is None for op in workload.before)


def test_streams_follow_from_what_an_op_does() -> None:
    for op in everything(build(load_model("llama-3-8b"), BF16, Prompt(1, 8), 2)):
        assert op.stream == ("communication" if op.exchange else "compute")
        assert bool(op.kernels) != bool(op.exchange)


def test_equal_layers_are_one_object() -> None:
    """Folding compares layers by identity."""
    layers = build(small("gemma-2-27b", 8), scheme("spd-50"), Prompt(1, 64), 4).layers
    assert [[a is b for b in layers].count(True) for a in layers] == [2] * 8


# --- split sequences ---


@pytest.mark.parametrize(("split", "first"), [(0.5, 50), (0.3, 30), (0.999, 100), (0.004, 0)])
def test_split(split: float, first: int) -> None:
    if not 0 < first < 100:
        with pytest.raises(ValueError, match=rf"sequence_split={split}, input_tokens=100"):
            parts(Prompt(1, 100), split)
        return
    assert [(p.queries, p.keys) for p in parts(Prompt(1, 100), split)] == [(first, first), (100 - first, 100)]


def test_a_split_keeps_the_work_and_the_causal_order() -> None:
    model, prompt = load_model("llama-3-8b"), Prompt(2, 1001)
    whole, split = (build(model, scheme(name), prompt, 4) for name in ("bf16", "iso-37"))
    pairs = [
        sum(scored_pairs(k.query_tokens, k.key_tokens, k.window) for k in kernels(w.layers[0]) if isinstance(k, Attend))
        for w in (whole, split)
    ]
    assert pairs[0] == pairs[1]
    assert [k.tokens for k in kernels(split.before) if isinstance(k, Elementwise)] == [2 * 370, 2 * 631]
    names = [(op.name, op.part) for op in split.layers[0]]
    blocks = [
        (name, part)
        for block in ("attention", "mlp")
        for part in (0, 1)
        for name in (block, f"all-reduce after {block}")
    ]
    assert names == blocks
    assert sum(op.exchange.numel for op in split.layers[0] if op.exchange) == 2 * 2002 * 4096


def test_a_single_token_cannot_be_split() -> None:
    with pytest.raises(ValueError, match=r"leaves a half empty: sequence_split=0\.5, input_tokens=1$"):
        build(load_model("llama-3-8b"), scheme("iso"), Prompt(4, 1), 2)


# --- refusals and memory ---


@pytest.mark.parametrize("field", ["batch", "input_tokens"])
@pytest.mark.parametrize("value", [0, -3])
def test_an_empty_prompt_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be at least 1: {field}={value}$"):
        Prompt(**{"batch": 1, "input_tokens": 1, field: value})  # type: ignore[arg-type]


def test_unknown_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="weights must be bf16 or fp8: weights='int4'"):
        Prompt(1, 1, "int4")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "tp"), [("llama-3-8b", 3), ("llama-2-13b", 16), ("llama-3-8b", 0), ("qwen2.5-72b", 5)]
)
def test_a_degree_that_does_not_divide_is_refused(name: str, tp: int) -> None:
    with pytest.raises(ValueError, match=rf"tp must .*: tp={tp}"):
        build(load_model(name), BF16, Prompt(1, 8), tp)


def test_a_degree_beside_the_key_value_heads_is_refused() -> None:
    known = load_model("llama-3-8b")
    layer = Layer(replace(known.attention, heads=24, kv_heads=8), replace(known.feed_forward, width=12288))
    model = replace(known, layers=(layer,) * 4)
    with pytest.raises(ValueError, match="tp=12, key-value heads=8"):
        build(model, BF16, Prompt(1, 8), 12)


@pytest.mark.parametrize("tp", DEGREES)
@pytest.mark.parametrize(("weights", "bits"), [("bf16", 16), ("fp8", 8)])
def test_memory_is_weights_cache_and_activations(tp: int, weights: str, bits: int) -> None:
    model = load_model("llama-3-70b")
    need, held = memory_bytes(model, Prompt(4, 1000, weights), tp), model.values(tp)  # type: ignore[arg-type]
    rest = sum(held[part] for part in ("embedding", "head", "other"))
    assert need == {
        "weights": held["attention"] * bits / 8 + held["feed_forward"] * bits / 8 + 2 * rest,
        "kv_cache": 4000 * 80 * 2 * (8 // tp) * 128 * 2,
        "activations": 4000 * 2 * (2 * 8192 + 3 * 28672 // tp),
    }
