"""Experts shared out: who computes how much, and who sends how many rows to whom."""

from dataclasses import replace
from itertools import product
from math import ceil, comb, isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme
from thinwire.reference.core.architecture import Experts, FeedForward, Layer, ModelConfig
from thinwire.reference.core.mixers import Attention, Rope
from thinwire.reference.families.config import load_model, model_names, parse_config
from thinwire.sim.layers import held, weight_bytes
from thinwire.sim.quality.figures import identity
from thinwire.sim.shapes import Attend, Gemm, RoutedExperts
from thinwire.sim.sharing import Sharing, acting, chances, load, returned, sharing_of, visited_shares, visits
from thinwire.sim.workload import Prompt, Workload, build, memory_bytes

HIDDEN = 1024
EXPERTS = Experts(64, 4, 512, shared=FeedForward(768))


def model(feed: Experts = EXPERTS, layers: int = 3) -> ModelConfig:
    """A dense layer first, then mixtures."""
    mixer = Attention(16, 8, 64, 0.125, Rope(64))
    row = (Layer(mixer, FeedForward(2048)), *(Layer(mixer, feed),) * (layers - 1))
    return ModelConfig("tiny", "Tiny", HIDDEN, 8000, row, "rms", 1e-6, False, 4096, "made for a test")


def exchanges(workload: Workload, layer: int) -> list[tuple[str, str, int]]:
    return [(op.name, op.exchange.op, op.exchange.numel) for op in workload.layers[layer] if op.exchange]  # type: ignore[union-attr]


def routed(workload: Workload) -> RoutedExperts:
    (found,) = (k for op in workload.layers[1] for k in op.kernels if isinstance(k, RoutedExperts))
    return found


@pytest.mark.parametrize("given_", [
    {"ranks": 0}, {"ranks": 8, "ep": 3}, {"ranks": 8, "ep": 4, "exchange": "all-to-all"}, {"ranks": 8, "skew": 4.5},
    {"ranks": 8, "attention": "pp"}, {"ranks": 8, "exchange": "deepep"},
])  # fmt: skip
def test_ways_that_do_not_fit_together_are_refused(given_: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(list(given_.values())[-1]).replace(".", r"\.")):
        Sharing(**given_)  # type: ignore[arg-type]


def test_a_model_without_experts_takes_none_of_it() -> None:
    mixer = Attention(16, 8, 64, 0.125, Rope(64))
    dense = replace(model(), layers=(Layer(mixer, FeedForward(2048)),) * 3)
    for sharing in (Sharing(8, 8), Sharing(8, attention="dp"), Sharing(8, skew=1.0)):
        with pytest.raises(ValueError, match="tiny has no experts"):
            sharing.check(dense)
    Sharing(8).check(dense)
    with pytest.raises(ValueError, match="key-value heads=8"):
        Sharing(5).check(replace(dense, layers=(Layer(replace(mixer, heads=15), FeedForward(2050)),)))


def test_a_mixture_is_divided_by_what_is_cut() -> None:
    Sharing(32, 32, "dp").check(model())  # heads need not divide
    with pytest.raises(ValueError, match="attention heads of tiny: tp=32"):
        Sharing(32, 32).check(model())
    with pytest.raises(ValueError, match="experts of tiny evenly: GPUs=24, ep=24, experts=64"):
        Sharing(24, 24, "dp").check(model())
    with pytest.raises(ValueError, match="experts' width"):
        Sharing(3, attention="dp").check(model())


@given(
    count=st.sampled_from([8, 16, 64, 256]), top_k=st.integers(1, 8), groups=st.sampled_from([1, 2, 4, 8]),
    skew=st.sampled_from([0.0, 0.5, 1.2, 4.0]), tokens=st.integers(1, 10_000), seed=st.integers(0, 9),
)  # fmt: skip
def test_a_token_chooses_as_many_experts_as_it_does(
    count: int, top_k: int, groups: int, skew: float, tokens: int, seed: int
) -> None:
    feed, sharing = Experts(count, top_k, 64), Sharing(8, groups, skew=skew, seed=seed)
    found = chances(feed, sharing)
    everyone = [chance for group in found for chance in group]
    assert len(found) == groups and isclose(sum(everyone), top_k)
    assert all(0 < chance <= 1 for chance in everyone)
    busiest = load(feed, sharing, tokens)
    assert tokens * top_k / groups * (1 - 1e-9) <= busiest.rows <= tokens * min(top_k, count // groups)
    assert 1 <= busiest.hit <= min(count // groups, busiest.rows)
    more = load(feed, sharing, tokens + 1)
    assert more.rows >= busiest.rows and more.hit >= busiest.hit


@given(skew=st.floats(0.1, 4.0), seed=st.integers(0, 99))
def test_skew_loads_the_busiest_rank_more_and_hits_fewer_experts(skew: float, seed: int) -> None:
    even, uneven = load(EXPERTS, Sharing(8, 8), 512), load(EXPERTS, Sharing(8, 8, skew=skew, seed=seed), 512)
    assert uneven.rows >= even.rows == 256
    assert load(EXPERTS, Sharing(8, skew=skew, seed=seed), 16).hit <= load(EXPERTS, Sharing(8), 16).hit


def test_uniform_choices_hit_what_a_closed_form_says() -> None:
    assert load(EXPERTS, Sharing(8), 1) == load(EXPERTS, Sharing(1), 1)
    assert load(EXPERTS, Sharing(8), 1).hit == 4
    assert load(EXPERTS, Sharing(8), 10).hit == ceil(64 * (1 - (60 / 64) ** 10))
    assert load(EXPERTS, Sharing(8, 8), 10).rows == 5  # 40 pairs on 8 ranks


@pytest.mark.parametrize(("count", "top_k", "ranks"), list(product((32, 64, 256), (1, 2, 8), (2, 4, 8))))
def test_a_token_visits_as_many_ranks_as_drawing_without_putting_back(count: int, top_k: int, ranks: int) -> None:
    counts = visits(Experts(count, top_k, 64), Sharing(ranks, ranks, exchange="all-to-all"), 100_000 * ranks, 100_000)
    exact = 1 - comb(count - count // ranks, top_k) / comb(count, top_k)
    assert {count_ for row in counts for count_ in row} == {ceil(100_000 * exact - 1e-9)}


def test_groups_keep_a_token_on_fewer_ranks() -> None:
    """DeepSeek V3 on as many ranks as groups: a token's choices lie in four of eight."""
    grouped = replace(EXPERTS, count=256, top_k=8, groups=8, top_groups=4, scoring="sigmoid", correction=True)
    sharing = Sharing(8, 8, "dp", "all-to-all")
    inside, outside = (sum(visited_shares(feed, sharing)) for feed in (grouped, replace(grouped, groups=1)))
    assert 3.8 < inside <= 4 and 5.2 < outside < 5.4


@pytest.mark.parametrize("feed", [EXPERTS, replace(EXPERTS, groups=8, top_groups=2)])
def test_a_little_skew_changes_little(feed: Experts) -> None:
    even, nearly, more = (
        visited_shares(feed, Sharing(8, 8, "dp", "all-to-all", skew=skew)) for skew in (0.0, 1e-9, 1.0)
    )
    assert nearly == pytest.approx(even, rel=1e-6)
    assert max(more) > even[0] > min(more) and len(set(more)) == 8


def test_what_goes_out_comes_back() -> None:
    counts = visits(EXPERTS, Sharing(4, 4, exchange="all-to-all", skew=1.5), 4000, 1000)
    assert len(set(counts)) == 1 and len(set(counts[0])) > 1
    assert returned(counts)[1] == (counts[0][1],) * 4 and returned(returned(counts)) == counts


# ---- what travels


def test_under_tensor_parallelism_only_all_reduces_travel() -> None:
    for sharing in (Sharing(8), Sharing(8, 2), Sharing(8, 8), Sharing(8, 8, skew=1.0)):
        workload = build(model(), scheme("a2a-int4"), Prompt(2, 100), sharing)
        assert workload.all_reduce_count == 6
        for layer in range(3):
            assert {(op, numel) for _, op, numel in exchanges(workload, layer)} == {("all_reduce", 200 * HIDDEN)}
    whole, spread = (routed(build(model(), scheme("bf16"), Prompt(2, 100), s)) for s in (Sharing(8), Sharing(8, 8)))
    assert (whole.rows, whole.experts, whole.width) == (800, 64, 64)
    assert (spread.rows, spread.experts, spread.width) == (100, 8, 512)
    assert whole.rows * whole.width == spread.rows * spread.width


def test_tokens_sent_to_experts_turn_an_all_reduce_into_its_halves() -> None:
    sharing = Sharing(8, 8, exchange="all-to-all")
    workload = build(model(), scheme("a2a-int4"), Prompt(2, 100), sharing)
    counts = visits(EXPERTS, sharing, 200, 25)
    assert exchanges(workload, 1) == [
        ("reduce-scatter after attention", "reduce_scatter", 200 * HIDDEN),
        ("dispatch", "all_to_all", sum(counts[0]) * HIDDEN),
        ("combine", "all_to_all", sum(returned(counts)[0]) * HIDDEN),
        ("all-gather after experts", "all_gather", 200 * HIDDEN),
    ]
    sent = [op.exchange for op in workload.layers[1] if op.exchange and op.exchange.op == "all_to_all"]
    wanted = scheme("a2a-int4")
    assert [each.scheme.reduce for each in sent] == [wanted.dispatch, wanted.combine]  # type: ignore[union-attr]
    assert workload.all_reduce_count == 2  # of the dense layer


@pytest.mark.parametrize("exchange", ["all-gather", "all-to-all"])
def test_with_sequences_of_their_own_ranks_send_experts_tokens_alone(exchange: str) -> None:
    sharing = Sharing(8, 8, "dp", exchange)  # type: ignore[arg-type]
    workload = build(model(), scheme("a2a-int4"), Prompt(16, 100), sharing)
    assert workload.all_reduce_count == 0 and exchanges(workload, 0) == []
    ops = [op for _, op, _ in exchanges(workload, 1)]
    assert ops == (["all_gather", "reduce_scatter"] if exchange == "all-gather" else ["all_to_all"] * 2)
    (attend,) = (k for op in workload.layers[1] for k in op.kernels if isinstance(k, Attend))
    assert (attend.batch, attend.heads, attend.kv_heads) == (2, 16, 8)
    assert routed(workload).rows == 1600 * 4 // 8
    (head,) = (k for op in workload.after for k in op.kernels if isinstance(k, Gemm))
    assert (head.m, head.n) == (2, 8000) and not [op for op in workload.after if op.exchange]


def test_gathered_experts_pass_over_rows_of_others_and_sent_ones_get_none() -> None:
    tokens = 1600
    for sharing in (Sharing(8, 8), Sharing(8, 8, "dp")):
        found = routed(build(model(), scheme("bf16"), Prompt(16, 100), sharing))
        assert found.rows + found.passed == tokens * EXPERTS.top_k > found.rows
    for sharing in (Sharing(8, 8, exchange="all-to-all"), Sharing(8, 8, "dp", "all-to-all")):
        assert routed(build(model(), scheme("bf16"), Prompt(16, 100), sharing)).passed == 0


def test_shared_experts_are_whole_where_tokens_are_cut_by_ranks() -> None:
    for sharing, cut, tokens in (
        (Sharing(8), 8, 1600),
        (Sharing(8, 8, exchange="all-to-all"), 1, 200),
        (Sharing(8, 8, "dp"), 1, 200),
        (Sharing(8, 8, "dp", "all-to-all"), 1, 200),
    ):
        workload = build(model(), scheme("bf16"), Prompt(16, 100), sharing)
        (up,) = (
            k for op in workload.layers[1] for k in op.kernels if isinstance(k, Gemm) and k.name == "shared gate_up"
        )
        assert (up.m, up.n) == (tokens, 2 * 768 // cut)


def test_halves_of_an_all_reduce_exempt_nothing() -> None:
    """They say so in decision 035: last tokens go compressed as the others there."""
    exempt = replace(scheme("flash-int4"), exempt_last_tokens=1)
    sharing = Sharing(8, 8, exchange="all-to-all")
    whole, halves = (build(model(), exempt, Prompt(2, 100), each).layers[1] for each in (Sharing(8), sharing))
    assert {op.exchange.exact for op in whole if op.exchange} == {2 * HIDDEN}
    assert {op.exchange.exact for op in halves if op.exchange} == {0}


def test_a_scheme_acts_on_what_is_sent() -> None:
    both, dense = scheme("flash-int4+a2a-int4"), replace(model(), layers=model().layers[:1] * 2)
    sent, own = Sharing(8, 8, exchange="all-to-all"), Sharing(8, 8, "dp")
    assert acting(both, model(), sent) == both
    for alone in (acting(both, model(), Sharing(8, 8)), acting(both, dense, Sharing(8))):
        assert identity(alone) == identity(scheme("flash-int4"))
    assert identity(acting(both, model(), own)) == identity(scheme("a2a-int4"))
    assert identity(acting(scheme("flash-int4+spd-50"), model(), own)) == identity(scheme("bf16"))
    assert acting(scheme("none"), model(), own) == scheme("none")


def test_a_floor_sends_nothing() -> None:
    sent, own = Sharing(8, 8, exchange="all-to-all"), Sharing(8, 8, "dp", "all-to-all")
    for sharing in (Sharing(8), Sharing(8, 8, "dp"), sent, own):
        workload = build(model(), scheme("none"), Prompt(16, 100), sharing)
        assert [exchange for layer in range(3) for exchange in exchanges(workload, layer)] == []


# ---- what is held


def test_what_ranks_hold_adds_up() -> None:
    known = model()
    whole, cut = known.values(1), known.values(8)
    for sharing in (Sharing(8), Sharing(8, 8), Sharing(8, 2)):
        assert held(known, sharing) == known.values(8, sharing.ep)
    assert 8 * cut["experts"] == whole["experts"] == 8 * held(known, Sharing(8, 8, "dp"))["experts"]
    alone = held(known, Sharing(8, 8, "dp"))
    for part in ("attention", "feed_forward", "shared_experts", "router", "embedding", "head"):
        assert alone[part] == whole[part]
    sent = held(known, Sharing(8, 8, exchange="all-to-all"))
    assert sent["shared_experts"] == whole["shared_experts"] and sent["attention"] == cut["attention"]
    assert held(known, Sharing(1)) == whole


# Norms of other kinds than the catalog's: with biases, one for both halves, with no weight at all.
OTHERS = {
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2}, "falcon of one norm": {"multi_query": True},
    "gpt_neox": {}, "nemotron": {"head_dim": 32}, "olmo": {}, "olmo2": {}, "cohere": {"use_qk_norm": True}, "phi": {},
}  # fmt: skip


def known_as(name: str) -> ModelConfig:
    """Of the catalog, or a small one of a family."""
    if name not in OTHERS:
        return load_model(name)
    sizes = {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 8, "intermediate_size": 512}
    return parse_config({"model_type": name.split()[0], "vocab_size": 1000, **sizes, **OTHERS[name]}, name)


@pytest.mark.parametrize("name", [*model_names(), *OTHERS])
def test_ranks_that_share_alike_hold_what_the_model_says(name: str) -> None:
    known = known_as(name)
    assert held(known, Sharing(1)) == known.whole and held(known, Sharing(1)).total() == known.parameters
    for ranks in (2, 4, 8):
        try:
            cut = known.values(ranks)
        except ValueError:
            continue
        assert held(known, Sharing(ranks)) == cut
        if known.is_mixture:
            assert held(known, Sharing(ranks, ranks)) == known.values(ranks, ranks)


def test_memory_of_own_sequences_is_their_cache_whole() -> None:
    cut, alone = (memory_bytes(model(), Prompt(16, 100), s) for s in (Sharing(8, 8), Sharing(8, 8, "dp")))
    assert cut["kv_cache"] == alone["kv_cache"]  # an eighth of the heads of 16 sequences, all heads of 2
    assert alone["weights"] == weight_bytes(model(), "bf16", Sharing(8, 8, "dp")) > cut["weights"]
    assert sharing_of(8) == Sharing(8)


def test_one_prompt_keeps_one_rank_busy_and_sends_no_more_than_it_is() -> None:
    sharing = Sharing(8, 8, "dp", "all-to-all")
    one, eight = (build(model(), scheme("bf16"), Prompt(batch, 400), sharing) for batch in (1, 8))
    sent = {}
    for batch, workload in ((1, one), (8, eight)):
        (dispatch,) = (op.exchange for op in workload.layers[1] if op.name == "dispatch")
        assert dispatch is not None and dispatch.counts is not None
        sent[batch] = dispatch.counts
    assert sent[1][0] == sent[8][0] and not any(map(any, sent[1][1:])) and len(set(sent[8])) == 1
    assert routed(one).rows == 400 * 4 // 8 and routed(eight).rows == 8 * routed(one).rows
    assert one.layers[1][0].kernels == eight.layers[1][0].kernels
