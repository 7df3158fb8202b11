"""One way to experts, two users: the rows that the reference sends are the rows that the simulator counts, in bytes to
the last one, and in number as far as a router that chooses evenly goes.
"""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from thinwire.reference.catalog import scheme
from thinwire.reference.core.architecture import Experts
from thinwire.reference.core.scheme import Phase, Raw
from thinwire.reference.core.tokens import checked, exchange_of_tokens
from thinwire.reference.decoder.exchange import Counts, SchemeExchange, visited
from thinwire.reference.decoder.experts import route
from thinwire.reference.decoder.model import BF16, Decoder
from thinwire.reference.decoder.shard import even
from thinwire.reference.decoder.weights import random_weights
from thinwire.reference.groups.group import Group, LocalGroup
from thinwire.sim.shapes import Exchange
from thinwire.sim.sharing import Sharing, returned, visits

from .reference import oracles
from .sim.helpers import exchanger, machine

torch.set_num_threads(1)
RANKS = 4


def sent_by_rank(group: Group) -> list[int]:
    """Bytes that each rank has sent so far."""
    return [sum(n for (source, _), n in group.sent_bytes.items() if source == rank) for rank in range(group.size)]


class Weighed(SchemeExchange):
    """Writes down what each exchange of rows has the group count."""

    def __init__(self, group: Group, name: str) -> None:
        super().__init__(group, name)
        self.sent: list[tuple[Phase, Counts, list[int]]] = []

    def __call__(self, layer: int, way: Phase, rows: Sequence[Tensor], counts: Counts) -> list[Tensor]:
        before = sent_by_rank(self.group)
        got = super().__call__(layer, way, rows, counts)
        self.sent.append((way, counts, [n - m for n, m in zip(sent_by_rank(self.group), before, strict=True)]))
        return got


@pytest.mark.parametrize("name", ["bf16", "a2a-int4", "deepep-fp8", "nvfp4-dispatch"])
@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3", "llama4_text"])
def test_rows_of_a_decoder_are_the_bytes_of_the_simulator(kind: str, name: str) -> None:
    """Of every rank, both ways, as the simulated links carry them; what is counted beyond is said to the byte, too:
    how many rows come, 4 bytes a rank, and beside each row 8 bytes a choice.
    """
    model, of, chosen = oracles.config(kind), exchanger(*machine("8xh100-nvlink", RANKS)), scheme(name)
    group = LocalGroup(RANKS)
    exchange = Weighed(group, name)
    with torch.no_grad():
        Decoder(model, random_weights(model, 7), group, exchange=exchange, precision=BF16).forward(oracles.ids(6, 9, 3))
    feeds = [layer.feed for layer in model.layers if isinstance(layer.feed, Experts)]
    assert [way for way, _, _ in exchange.sent] == ["dispatch", "combine"] * len(feeds)
    for way, counts, sent in exchange.sent:
        table = checked(counts)
        numel = max(map(sum, table)) * model.hidden_size
        found = of.alone(of.timed(Exchange("all_to_all", numel, chosen.for_experts(way), counts=table)))
        assert found.wire_bytes_R.tolist() == sent and all(sent)
        schedule = exchange_of_tokens(chosen.of_experts(way) or Raw(), table, model.hidden_size)
        assert [schedule.sent_bytes()[rank] for rank in range(RANKS)] == sent
    beyond = 0
    for feed, (_, counts, _), (_, back, _) in zip(feeds, exchange.sent[::2], exchange.sent[1::2], strict=True):
        assert returned(checked(counts)) == checked(back)
        away = sum(count for source, row in enumerate(counts) for rank, count in enumerate(row) if rank != source)
        beyond += 4 * RANKS * RANKS * (RANKS - 1) + 8 * feed.top_k * away
    assert sum(sent_by_rank(group)) == sum(sum(sent) for _, _, sent in exchange.sent) + beyond


EVEN = {  # as models have them
    "Mixtral": Experts(8, 2, 64),
    "gpt-oss-20b": Experts(32, 4, 64, scoring="softmax-of-chosen"),
    "Qwen3-30B-A3B": Experts(128, 8, 64),
    "a DeepSeek V3 without groups": Experts(256, 8, 64, scoring="sigmoid", correction=True),
    "DeepSeek V3": Experts(256, 8, 64, scoring="sigmoid", correction=True, groups=8, top_groups=4),
    "DeepSeek V2": Experts(160, 6, 64, groups=8, top_groups=3),
}


@pytest.mark.parametrize("ranks", [2, 8])
@pytest.mark.parametrize("model", EVEN)
def test_the_simulator_counts_what_a_router_that_chooses_evenly_sends(model: str, ranks: int) -> None:
    """The mean over ranks, of 4,000 tokens through the reference's router, with random logits."""
    feed, tokens = EVEN[model], 4_000
    logits_NE = torch.randn(tokens, feed.count, generator=torch.Generator().manual_seed(3))
    correction_E = torch.zeros(feed.count) if feed.correction else None
    routed = visited(even(feed.count, ranks), *route(feed, logits_NE, correction_E))
    mean = sum(len(token_M) for token_M, _ in routed) / ranks
    (said,) = {
        count
        for row in visits(feed, Sharing(ranks, ranks, "dp", "all-to-all"), ranks * tokens, tokens)
        for count in row
    }
    assert 0.985 * mean < said < 1.015 * mean
