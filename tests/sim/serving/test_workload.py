"""The workload of one iteration: a prompt alone is what `predict` runs, a step reads all weights and contexts."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.sim.costs.cost import CostModel
from thinwire.sim.layers import product, weight_bytes
from thinwire.sim.predict import run, timeline_of
from thinwire.sim.serving.workload import Iteration, Share, build, kv_bytes_per_token, shares
from thinwire.sim.shapes import AttendChunks, DecodeAttend, Exchange, Gemm, Kernel, Rows
from thinwire.sim.workload import Prompt, Workload, memory_bytes
from thinwire.sim.workload import build as build_prompt

from ..helpers import close, exchanger, machine, small

CHUNK = st.tuples(st.integers(1, 300), st.integers(0, 500)).map(lambda pair: (pair[0], sum(pair)))
SHARES = st.builds(
    lambda chunks, sequences, more, ended: Share(
        tuple(chunks), sequences, sequences * (1 + more), min(ended, len(chunks))
    ),
    st.lists(CHUNK, max_size=4),
    st.integers(0, 60),
    st.integers(0, 900),
    st.integers(0, 4),
).filter(lambda share: share.tokens > 0)


def kernels(workload: Workload) -> Iterable[Kernel]:
    for ops in (workload.before, *workload.layers, workload.after):
        for op in ops:
            yield from op.kernels


def seconds(workload: Workload, name: str, tp: int, launch: str = "eager") -> float:
    cluster, profile = machine(name, tp)
    cost = CostModel(profile, cluster.gpu, launch)  # type: ignore[arg-type]
    return timeline_of(*run(workload, exchanger(cluster, profile), cost, True)).ttft_s


@pytest.mark.parametrize("name", ["bf16", "flash-int4", "flash-int4+iso", "flash-int4+spd-50", "mxfp4", "none"])
@pytest.mark.parametrize("weights", ["bf16", "fp8"])
def test_one_whole_prompt_is_what_predict_runs(name: str, weights: str) -> None:
    model = small("llama-3-8b", 4)
    ours = build(model, scheme(name), Iteration(Share(((800, 800),)), 1), 4, weights)  # type: ignore[arg-type]
    theirs = build_prompt(model, scheme(name), Prompt(1, 800, weights), 4)  # type: ignore[arg-type]
    assert [[op.exchange for op in ops] for ops in ours.layers] == [
        [op.exchange for op in ops] for ops in theirs.layers
    ]
    assert close(seconds(ours, "8xl40s-pcie", 4), seconds(theirs, "8xl40s-pcie", 4))


@given(SHARES, st.one_of(st.none(), st.floats(0.05, 0.95)))
def test_a_split_keeps_every_token_and_the_causal_order(whole: Share, split: float | None) -> None:
    parts = shares(whole, split)
    assert sum(part.tokens for part in parts) == whole.tokens
    assert all(part.tokens for part in parts)
    assert sum(part.context_tokens for part in parts) == whole.context_tokens
    seen = {(tokens, context): [] for tokens, context in whole.chunks}  # type: ignore[var-annotated]
    joined = [chunk for part in parts for chunk in part.chunks]
    at = 0
    for tokens, context in whole.chunks:
        left = tokens
        while left:
            piece, end = joined[at]
            left -= piece
            at += 1
            assert end == context - left
    assert at == len(joined) and seen is not None
    assert len(parts) == (1 if split is None or not whole.chunks or whole.tokens < 2 else 2)
    chosen = scheme("flash-int4+exempt-4+exempt-last-3")
    rows, both = [part.rows(chosen) for part in parts], whole.rows(chosen)
    assert sum(row.first for row in rows) == both.first and sum(row.tokens for row in rows) == both.tokens
    assert sum(part.finishing for part in parts) == whole.finishing
    cut = sum(row.last for row in rows)  # where the cut falls among a prompt's last rows those before it are not exempt
    assert both.last - 3 < cut <= both.last if len(parts) > 1 else cut == both.last


@given(SHARES, st.integers(0, 4))
@settings(max_examples=30)
def test_work_adds_up(whole: Share, finishing: int) -> None:
    model, tp = small("gemma-2-27b", 2), 2
    finishing = min(finishing, len(whole.chunks))
    workload = build(model, scheme("flash-int4"), Iteration(whole, finishing), tp, "bf16")
    gemms = [k for k in kernels(workload) if isinstance(k, Gemm)]
    layer = [k for k in gemms if k.name != "lm head"]
    assert {k.m for k in layer} == {whole.tokens}
    assert sum(k.n * k.k for k in layer) * 2 * tp == pytest.approx(
        2 * model.num_layers * (model.parameters - model.vocab_size * model.hidden_size) / model.num_layers, rel=0.01
    )
    heads = [k.m for k in gemms if k.name == "lm head"]
    assert heads == ([whole.sequences + finishing] if whole.sequences + finishing else [])
    attended = [k for k in kernels(workload) if isinstance(k, AttendChunks | DecodeAttend)]
    assert {k.window for k in attended} == {4096, None}
    sent = [op.exchange.numel for ops in workload.layers for op in ops if op.exchange is not None]  # type: ignore[union-attr]
    assert sum(sent) == 2 * model.num_layers * whole.tokens * model.hidden_size


def test_two_tokens_can_be_parted_and_one_cannot() -> None:
    assert [part.tokens for part in shares(Share(((2, 2),), 0, 0), 0.5)] == [1, 1]
    assert [part.tokens for part in shares(Share(((1, 1),), 0, 0), 0.5)] == [1]


def test_exempt_tokens_are_the_first_of_their_sequence_only() -> None:
    share = Share(((100, 100), (50, 130), (3, 3), (10, 12)), 20, 900)
    assert share.rows(scheme("flash-int4+exempt-4")) == Rows(183, 4 + 0 + 3 + 2, 0)
    assert share.rows(scheme("flash-int4")) == Rows(183, 0, 0)


def test_last_rows_are_of_chunks_that_end_and_of_sequences_that_decode() -> None:
    """The first `finishing` chunks end their prompts; a decoding sequence has one row, its last."""
    chunks = ((100, 100), (2, 130), (3, 3), (10, 12))
    four, both = scheme("flash-int4+exempt-last-4"), scheme("flash-int4+exempt-1+exempt-last-4")
    for finishing, last in enumerate((0, 4, 4 + 2, 4 + 2 + 3, 4 + 2 + 3 + 4)):
        assert Share(chunks, 0, 0, finishing).rows(four) == Rows(115, 0, last)
        assert Share(chunks, 20, 900, finishing).rows(four) == Rows(135, 0, 20 + last)
    assert Share(chunks, 0, 0, 3).rows(both) == Rows(115, 2, 4 + 2 + 2)  # a row is exempt once
    assert Share((), 7, 900).rows(four) == Rows(7, 0, 7) and Share((), 7, 900).rows(scheme("mxfp4")).last == 0
    with pytest.raises(ValueError, match="finishing counts chunks: 5 of 4"):
        Share(chunks, 0, 0, 5)


def test_a_cut_chunk_ends_in_the_second_part() -> None:
    whole = Share(((10, 10), (20, 20), (30, 90)), 4, 100, 2)
    first, second = shares(whole, 0.25)
    assert (first.chunks, first.finishing) == (((10, 10), (6, 6)), 1)
    assert (second.chunks, second.finishing) == (((14, 20), (30, 90)), 1)


@pytest.mark.parametrize("chunk", [None, 256, 300])
def test_only_a_prompts_last_chunk_sends_exact_values(chunk: int | None) -> None:
    """Chunked prefill: N rows in all, whatever the chunks; tokens decoded go wholly uncompressed."""
    model, chosen, tokens = small("llama-3-8b", 1), scheme("flash-int4+exempt-last-16"), 1024
    sent = []
    for start in range(0, tokens, chunk or tokens):
        size = min(chunk or tokens, tokens - start)
        whole = Share(((size, start + size),))
        work = build(model, chosen, Iteration(whole, int(start + size == tokens)), 4, "bf16")
        sent += [op.exchange for op in work.layers[0] if op.exchange is not None]
    assert all(isinstance(e, Exchange) and e.scheme is chosen for e in sent)
    assert [e.exact for e in sent if e.exact] == [16 * 4096] * 2 and sent[-1].exact  # type: ignore[union-attr]
    decoding = build(model, chosen, Iteration(Share((), 9, 900)), 4, "bf16")
    exchanged = [op.exchange for op in decoding.layers[0] if op.exchange is not None]
    assert exchanged == [Exchange("all_reduce", 9 * 4096, None)] * 2


@pytest.mark.parametrize(
    ("model", "cluster", "tp"), [("llama-3-8b", "8xh100-nvlink", 1), ("llama-3-70b", "8xa100-nvlink", 8)]
)
@pytest.mark.parametrize("sequences", [1, 16, 64])
def test_a_step_is_no_faster_than_the_memory(model: str, cluster: str, tp: int, sequences: int) -> None:
    """The roofline: all weights but the embedding, and all keys and values, once at the data sheet's bandwidth."""
    config = load_model(model)
    gpus, _ = machine(cluster, tp)
    context = 1500 * sequences
    step_s = seconds(
        build(config, scheme("bf16"), Iteration(Share((), sequences, context)), tp, "bf16"), cluster, tp, "graph"
    )
    embedding = 2 * config.vocab_size * config.hidden_size / tp
    moved = weight_bytes(config, "bf16", tp) - embedding + kv_bytes_per_token(config, tp) * context
    bound_s = moved / gpus.gpu.memory_bandwidth_bytes_per_s
    assert bound_s < step_s < 3.5 * bound_s


def test_chunks_in_one_call_share_its_floor() -> None:
    cluster, profile = machine("8xh100-nvlink", 8)
    cost = CostModel(profile, cluster.gpu)
    one = cost.kernel_s(AttendChunks("attention", ((500, 500),), 8, 1, 128, None))
    three = cost.kernel_s(AttendChunks("attention", ((500, 500),) * 3, 8, 1, 128, None))
    assert three == pytest.approx(3 * one - 2 * (profile.gpu.attention.floor_s + cost.gap_s.value))


def test_fp8_rows_are_padded_and_keys_and_values_counted() -> None:
    assert [product("", n, 8, 8, "fp8").m for n in (1, 4, 5)] == [4, 4, 8]
    assert [product("", n, 8, 8, "bf16").m for n in (1, 4, 5)] == [1, 4, 5]
    step = build(small("llama-3-8b", 2), scheme("bf16"), Iteration(Share((), 5, 50), 0), 4, "fp8")
    products = [kernel for kernel in kernels(step) if isinstance(kernel, Gemm)]
    assert {kernel.m for kernel in products if kernel.name != "lm head"} == {8} and len(products) == 2 * 4 + 1
    assert [kernel.m for kernel in products if kernel.name == "lm head"] == [5]
    model = load_model("llama-3-70b")
    for tp in (4, 8):
        assert memory_bytes(model, Prompt(1, 1000), tp)["kv_cache"] == 1000 * kv_bytes_per_token(model, tp)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Share(((0, 5),)), "tokens=0"),
        (lambda: Share(((6, 5),)), "context=5"),
        (lambda: Share((), 5, 4), "context_tokens=4"),
        (lambda: Iteration(Share()), "needs a token"),
        (lambda: Iteration(Share(((5, 5),)), 2), "2 of 1"),
    ],
)
def test_what_is_no_iteration_is_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]
