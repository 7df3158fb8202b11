"""Which rows travel to experts: each token once to each rank that holds any of its experts, and what lies beside it."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thinwire.reference.core.architecture import Experts
from thinwire.reference.core.scheme import Phase
from thinwire.reference.decoder import exchange as module
from thinwire.reference.decoder.exchange import Counts, ExactExchange, SchemeExchange, spread, visited
from thinwire.reference.decoder.experts import chosen
from thinwire.reference.decoder.model import Decoder
from thinwire.reference.decoder.shard import ExpertsPart, even
from thinwire.reference.decoder.weights import random_weights
from thinwire.reference.groups.group import LocalGroup

from .. import oracles
from ..oracles import ids

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_graph() -> Any:
    with torch.no_grad():
        yield


class Written(ExactExchange):
    """Writes down what is exchanged."""

    def __init__(self, ranks: int) -> None:
        super().__init__(LocalGroup(ranks))
        self.sent: list[tuple[Phase, list[Tensor], Counts]] = []

    def __call__(self, layer: int, way: Phase, rows: Sequence[Tensor], counts: Counts) -> list[Tensor]:
        self.sent.append((way, list(rows), counts))
        return super().__call__(layer, way, rows, counts)


@pytest.mark.parametrize("kind", ["mixtral", "deepseek_v3", "gpt_oss", "llama4_text", "qwen3_moe"])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_a_token_goes_once_to_each_rank_of_its_experts(kind: str, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told token by token from what routers chose, in plain Python: rows, their order and number, what lies beside
    them, and as many rows back.
    """
    routed: list[tuple[Tensor, Tensor, Tensor]] = []

    def choose(spec: Experts, part: ExpertsPart, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        index_NC, weight_NC = chosen(spec, part, x_ND)
        routed.append((x_ND, index_NC, weight_NC))
        return index_NC, weight_NC

    monkeypatch.setattr(module, "chosen", choose)
    model = oracles.config(kind)
    written = Written(ranks)
    Decoder(model, random_weights(model, 7), written.group, exchange=written).forward(ids(4, 9, 3))
    mixtures = [layer.feed for layer in model.layers if isinstance(layer.feed, Experts)]
    assert len(routed) == ranks * len(mixtures) and len(written.sent) == 3 * len(mixtures)
    saved = 0
    for place, feed in enumerate(mixtures):
        (_, said, _), (there, rows, counts), (back, _, home) = written.sent[3 * place : 3 * place + 3]
        assert (there, back, home) == ("dispatch", "combine", [list(column) for column in zip(*counts, strict=True)])
        home_of = {number: rank for rank, held in enumerate(even(feed.count, ranks)) for number in held}
        for source, (x_ND, index_NC, weight_NC) in enumerate(routed[ranks * place : ranks * (place + 1)]):
            wanted: list[list[int]] = [[] for _ in range(ranks)]
            for token, experts in enumerate(index_NC.tolist()):
                for rank in sorted({home_of[number] for number in experts}):
                    wanted[rank].append(token)
            assert [len(tokens) for tokens in wanted] == list(counts[source])
            assert all(tokens == sorted(set(tokens)) for tokens in wanted)
            saved += index_NC.numel() - sum(map(len, wanted))
            assert torch.equal(rows[source], torch.cat([x_ND[tokens] for tokens in wanted]))
            beside = iter(said[source].tolist())
            for rank, tokens in enumerate(wanted):
                for token in tokens:
                    pairs = zip(index_NC[token].tolist(), weight_NC[token].tolist(), strict=True)
                    kept = [pair if home_of[pair[0]] == rank else (-1, 0) for pair in pairs]
                    assert next(beside) == [float(each[0]) for each in kept] + [each[1] for each in kept]
            assert next(beside, None) is None
    assert (saved > 0) == (mixtures[0].top_k > 1)


@st.composite
def choices(draw: st.DrawFn) -> tuple[int, int, list[list[int]]]:
    experts, ranks = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    top_k = draw(st.integers(1, experts))
    tokens = draw(st.lists(st.permutations(range(experts)).map(lambda order: list(order[:top_k])), max_size=8))
    return experts, ranks, tokens


@settings(max_examples=60, deadline=None)
@given(choices())
def test_every_choice_travels_once(drawn: tuple[int, int, list[list[int]]]) -> None:
    """Also where some ranks hold no expert, and where there is no token."""
    experts, ranks, tokens = drawn
    index_NC = torch.tensor(tokens, dtype=torch.int64).view(len(tokens), -1 if tokens else 1)
    weight_NC = torch.rand(index_NC.shape, generator=torch.Generator().manual_seed(1)) + 0.5
    back_NC = torch.zeros_like(weight_NC)
    for token_M, said_MX in visited(even(experts, ranks), index_NC, weight_NC):
        number_MC, weight_MC = said_MX.chunk(2, dim=-1)
        assert bool(((number_MC >= 0) == (weight_MC > 0)).all() and (number_MC >= 0).any(-1).all())
        assert torch.equal(index_NC[token_M][number_MC >= 0], number_MC[number_MC >= 0].long())
        back_NC[token_M] += weight_MC
    assert torch.equal(back_NC, weight_NC)


@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_ranks_add_up_what_their_experts_give(scaled: bool, gathers: bool) -> None:
    """The sum over choices of weight times expert (or of the expert of what is weighted), as a loop says it, in fp64;
    one row comes back from a rank, whatever it holds of a token's experts.
    """
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    spec, ranks = Experts(7, 3, 6, activation="relu2", gated=False, input_scaled=scaled), 3
    up_EFxD, down_EDxF, router_ExD = normal(7, 6, 4), normal(7, 4, 6), normal(7, 4)
    held = even(7, ranks)
    parts = [
        ExpertsPart(router_ExD, None, up_EFxD[mine], down_EDxF[mine])
        for mine in (slice(experts.start, experts.stop) for experts in held)
    ]
    rows = [normal(count, 4) for count in (5, 0, 8)]
    got = spread(spec, parts, held, range(ranks), rows, 0, ExactExchange(LocalGroup(ranks), gathers), torch.float64)
    for x_ND, got_ND in zip(rows, got, strict=True):
        wanted_ND = torch.zeros_like(x_ND)
        for token, (numbers, weights) in enumerate(zip(*chosen(spec, parts[0], x_ND), strict=True)):
            for number, weight in zip(numbers.tolist(), weights.tolist(), strict=True):
                given_D = x_ND[token] * weight if scaled else x_ND[token]
                made_D = down_EDxF[number] @ (up_EFxD[number] @ given_D).relu().square()
                wanted_ND[token] += made_D if scaled else weight * made_D
        torch.testing.assert_close(got_ND, wanted_ND, rtol=1e-12, atol=1e-12)


class Told(ExactExchange):
    """Has each rank give back what it is told to."""

    def __call__(self, layer: int, way: Phase, rows: Sequence[Tensor], counts: Counts) -> list[Tensor]:
        back = [torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0**24, 2.0**-9]]), torch.tensor([[-(2.0**24), 0.0]])]
        if way == "combine":
            rows = [told_1D.to(x_MD.dtype).repeat(len(x_MD), 1) for told_1D, x_MD in zip(back, rows, strict=True)]
        return super().__call__(layer, way, rows, counts)


@pytest.mark.parametrize("gathers", [False, True])
def test_home_adds_in_fp32_and_in_the_order_of_the_ranks(gathers: bool) -> None:
    """1 + 2^24 - 2^24 is 0 in that order alone, and 1 + 2^-9 more than bf16 holds."""
    spec = Experts(3, 3, 4, gated=False)
    part = ExpertsPart(torch.ones(3, 2), None, torch.ones(1, 4, 2).bfloat16(), torch.ones(1, 2, 4).bfloat16())
    rows = [torch.ones(count, 2, dtype=torch.bfloat16) for count in (2, 0, 1)]
    told = Told(LocalGroup(3), gathers)
    found = spread(spec, [part] * 3, even(3, 3), range(3), rows, 0, told, torch.bfloat16)
    for got_ND, x_ND in zip(found, rows, strict=True):
        assert torch.equal(got_ND, torch.tensor([[0.0, 1 + 2.0**-9]]).expand(len(x_ND), 2))
        assert got_ND.dtype == torch.float32


def test_what_lies_beside_rows_is_never_rounded() -> None:
    """Nor counted by a scheme: 4 bytes a number, whatever rows are coded in."""
    group = LocalGroup(2)
    said = [torch.tensor([[255.0, 1 / 3], [-1.0, 2.0**-130]]), torch.tensor([[16777213.0, -1.1]])]
    got = SchemeExchange(group, "a2a-int4").beside(said, [[1, 1], [1, 0]])
    assert torch.equal(got[0], torch.cat([said[0][:1], said[1]])) and torch.equal(got[1], said[0][1:])
    assert group.sent_bytes == {(0, 1): 8, (1, 0): 8}
