"""Splits over ranks: a partition of every model, and no sum changed by it."""

from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from thinwire.reference.core.architecture import Experts, FeedForward, ModelConfig
from thinwire.reference.core.mixers import Attention
from thinwire.reference.decoder.model import Decoder, Precision
from thinwire.reference.decoder.names import layer_shapes
from thinwire.reference.decoder.shard import Shard, cut, even, shards
from thinwire.reference.decoder.weights import random_weights
from thinwire.reference.families.config import load_model
from thinwire.reference.groups.group import LocalGroup

from .. import oracles, tiny

torch.set_num_threads(1)
BASE = tiny.config("llama-biases")


def sized(kv_heads: int, share: int, width: int | None = None, head_dim: int = 8, layers: int = 1) -> ModelConfig:
    """BASE with other heads and another MLP."""
    block = BASE.layers[0]
    assert isinstance(block.mixer, Attention) and isinstance(block.feed, FeedForward) and block.mixer.rope
    rope = replace(block.mixer.rope, dims=head_dim)
    mixer = replace(block.mixer, heads=kv_heads * share, kv_heads=kv_heads, head_dim=head_dim, rope=rope)
    feed = block.feed if width is None else replace(block.feed, width=width)
    return replace(BASE, layers=(replace(block, mixer=mixer, feed=feed),) * layers)


FP64 = Precision(torch.float64, torch.float64, torch.float64)


@given(st.integers(0, 300), st.integers(1, 40))
def test_even_is_a_partition_in_order(total: int, parts: int) -> None:
    ranges = even(total, parts)
    assert [i for found in ranges for i in found] == list(range(total)) and len(ranges) == parts
    sizes = [len(found) for found in ranges]
    assert sizes == sorted(sizes, reverse=True) and max(sizes) - min(sizes) <= 1


@st.composite
def splits(draw: st.DrawFn) -> tuple[int, int, int, list[list[int]] | None]:
    """Key-value heads, query heads of each, ranks, and heads by rank (None = the default)."""
    kv_heads, share, ranks = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 12))
    if draw(st.booleans()):
        return kv_heads, share, ranks, None
    order = draw(st.permutations(range(kv_heads * share)))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), min_size=ranks - 1, max_size=ranks - 1)))
    edges = [0, *cuts, len(order)]
    return kv_heads, share, ranks, [list(order[a:b]) for a, b in pairwise(edges)]


@given(splits(), st.integers(1, 70))
def test_shards_partition_a_model(split: tuple[int, int, int, list[list[int]] | None], width: int) -> None:
    """Every head and column on one rank; every rank with just the key-value heads that its queries read."""
    kv_heads, share, ranks, heads = split
    model = sized(kv_heads, share, width)
    found = shards(model, ranks, heads)
    assert [shard.rank for shard in found] == list(range(ranks))
    assert sorted(h for shard in found for h in shard.query_heads) == list(range(kv_heads * share))
    assert [c for shard in found for c in shard.mlp] == list(range(width))
    for shard in found:
        read = [shard.kv_heads[place] for place in shard.kv_of_query]
        assert read == [head // share for head in shard.query_heads]
        assert set(read) == set(shard.kv_heads) and len(set(shard.kv_heads)) == len(shard.kv_heads)
    if heads is None:
        sizes = [len(shard.query_heads) for shard in found]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("name", ["llama-3-8b", "llama-2-13b", "qwen2.5-72b", "gemma-2-27b"])
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_even_splits_hold_what_the_simulator_counts(name: str, tp: int) -> None:
    """Where the ranks divide the model, the shares are those of `ModelConfig`, from which weight bytes follow."""
    model = load_model(name)
    for shard in shards(model, tp):
        assert len(shard.query_heads) == model.attention.heads // tp
        assert len(shard.kv_heads) == model.attention.kv_heads_per_gpu(tp)
        feed = model.layers[0].feed
        assert isinstance(feed, FeedForward) and len(shard.mlp) == feed.width // tp


def test_nine_heads() -> None:
    """SmolLM2's 9 heads and 3 key-value heads: the splits the accuracy runs use."""
    model = sized(3, 3)
    heads = {tp: [len(shard.query_heads) for shard in shards(model, tp)] for tp in (2, 4, 8, 11)}
    assert heads == {2: [5, 4], 4: [3, 2, 2, 2], 8: [2, 1, 1, 1, 1, 1, 1, 1], 11: [1] * 9 + [0, 0]}
    assert [shard.kv_heads for shard in shards(model, 4)] == [(0,), (1,), (1, 2), (2,)]
    assert shards(model, 4)[2] == Shard(2, (5, 6), (1, 2), (0, 1), range(26, 38))
    assert shards(model, 11)[10].kv_heads == ()


@given(splits(), st.integers(1, 20))
def test_partial_sums_add_up_to_the_layer(split: tuple[int, int, int, list[list[int]] | None], width: int) -> None:
    """The sum over ranks is the unsplit layer, to fp64 rounding: terms of size 1 to 10, some dozens of them."""
    kv_heads, share, ranks, heads = split
    model = sized(kv_heads, share, width, head_dim=4)
    whole = random_weights(model, 3, torch.float64)
    outs = []
    for count, assigned in ((1, None), (ranks, heads)):
        decoder = Decoder(
            model, whole, LocalGroup(count), precision=FP64, heads=None if assigned is None else {0: assigned}
        )
        outs.append(decoder.block(0, decoder.embed(tiny.ids(model, 1, 6))).agreed[0])
    torch.testing.assert_close(outs[1], outs[0], rtol=0, atol=1e-12)


def parts(shard: Shard, own: bool) -> dict[str, Tensor]:
    """A rank's tensors by name, of a layer filled with their own places."""
    tensors = {
        name: torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
        for name, shape in layer_shapes(BASE).items()
    }
    part = cut(BASE, shard, tensors, own)
    halves = [(half, field.name) for half in (part.mixer, part.feed) for field in fields(half)]  # type: ignore[arg-type]
    found = {name: getattr(half, name) for half, name in halves if getattr(half, name) is not None}
    assert len(found) == 12
    for name, tensor in found.items():
        assert tensor.is_contiguous()
        if own:  # nothing larger is kept alive behind it
            assert tensor.untyped_storage().nbytes() == 8 * tensor.numel(), name
    return found


def test_cut_takes_the_rows_and_columns_it_says() -> None:
    """6 heads of 8 values, 2 key-value heads, 50 columns, width 36, three ranks: by hand."""
    for own in (False, True):
        found = parts(shards(BASE, 3)[1], own)
        assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
            "query_HKxD": (16, 36),
            "key_GKxD": (16, 36),
            "value_GVxD": (16, 36),
            "output_DxHV": (36, 16),
            "gate_FxD": (17, 36),
            "up_FxD": (17, 36),
            "down_DxF": (36, 17),
            "query_bias_HK": (16,),
            "key_bias_GK": (16,),
            "value_bias_GV": (16,),
            "gate_bias_F": (17,),
            "up_bias_F": (17,),
        }
        assert found["query_bias_HK"].tolist() == list(range(16, 32))
        assert found["key_bias_GK"].tolist() == list(range(16))
        assert found["down_DxF"][1].tolist() == list(range(50 + 17, 50 + 34))
        assert found["output_DxHV"][2].tolist() == list(range(2 * 48 + 16, 2 * 48 + 32))
        scattered = parts(shards(BASE, 2, [[5, 0], [1, 2, 3, 4]])[0], own)
        assert scattered["query_bias_HK"].tolist() == [*range(40, 48), *range(8)]
        assert scattered["output_DxHV"][0].tolist() == [*range(40, 48), *range(8)]
        assert scattered["key_bias_GK"].tolist() == list(range(16))


@given(st.integers(1, 9), st.integers(1, 20), st.integers(1, 4), st.integers(1, 4))
def test_experts_lie_on_groups_of_ranks(count: int, width: int, ep: int, cuts: int) -> None:
    """Every column of every expert on one rank; ranks of a group hold the same experts, each a part of all of them."""
    block = oracles.config("mixtral").layers[0]
    assert isinstance(block.feed, Experts)
    feed = replace(block.feed, count=count, width=width, top_k=1)
    model = replace(oracles.config("mixtral"), layers=(replace(block, feed=feed),))
    found = shards(model, ep * cuts, ep=ep)
    held = [(expert, column) for shard in found for expert in shard.experts for column in shard.columns]
    assert sorted(held) == [(expert, column) for expert in range(count) for column in range(width)]
    for rank, shard in enumerate(found):
        assert shard.experts == found[rank // cuts * cuts].experts
    apart = shards(model, ep * cuts, ep=ep * cuts, apart=True)
    assert [expert for shard in apart for expert in shard.experts] == list(range(count))
    for shard in apart:
        assert (shard.query_heads, shard.kv_heads) == ((0, 1, 2, 3), (0, 1)) and shard.columns == range(width)


def test_what_is_no_split_is_refused() -> None:
    with pytest.raises(ValueError, match="ep must divide the ranks: ep=3, ranks=4"):
        shards(oracles.config("mixtral"), 4, ep=3)
    with pytest.raises(ValueError, match="ranks must be positive: ranks=0"):
        shards(BASE, 0)
    for heads in ([[0, 1, 2, 3, 4, 5], [5]], [[0, 1, 2, 3, 4]], [[0, 1, 2, 3, 4, 6], []]):
        with pytest.raises(ValueError, match=r"each of 0\.\.5 once, in 2 lists"):
            shards(BASE, 2, heads)
