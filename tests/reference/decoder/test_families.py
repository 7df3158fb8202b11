"""Every dense and mixture family against transformers' own model of it, on any number of ranks, in one process and
several, uncompressed and under codecs.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from thinwire.reference.catalog import scheme
from thinwire.reference.core.architecture import Experts, ModelConfig
from thinwire.reference.core.mixers import Latent
from thinwire.reference.core.schedule import build
from thinwire.reference.core.scheme import Codec, Phase
from thinwire.reference.core.tokens import checked, exchange_of_tokens
from thinwire.reference.decoder.exchange import Counts, ExactExchange, SchemeExchange
from thinwire.reference.decoder.model import BF16, Decoder, Precision
from thinwire.reference.decoder.names import renamed
from thinwire.reference.decoder.state import check_known, longest
from thinwire.reference.decoder.sync import SchemeSync
from thinwire.reference.decoder.weights import random_weights
from thinwire.reference.families.config import parse_config
from thinwire.reference.families.table import FAMILIES
from thinwire.reference.groups.bounds import all_reduce_bound, tokens_bound
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.mixed import Site, plan_of

from .. import gloo, oracles
from ..oracles import TOKENS, ids

torch.set_num_threads(1)
transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
# Of the largest logit: 16 times fp32's epsilon. Measured: 8e-7 at most, of any family, rank count or step.
ROUNDING = 2.0**-19
FP64 = Precision(torch.float64, torch.float64, torch.float64)


@pytest.fixture(autouse=True)
def _no_graph() -> Any:
    with torch.no_grad():
        yield


@cache
def expected(kind: str) -> tuple[ModelConfig, Any, Tensor, Tensor]:
    """The description, weights by our names, and transformers' logits of a prompt and of the step behind it."""
    with torch.no_grad():
        model, described = oracles.oracle(kind)
        found = model(ids(2, TOKENS, 1), use_cache=True)
        step = model(ids(2, 1, 2), past_key_values=found.past_key_values)
        return described, dict(renamed(described, model.state_dict())), found.logits, step.logits


def strays(decoder: Decoder, kind: str) -> float:
    """Largest difference from transformers' logits, of a prompt and a step, over the largest logit."""
    _, _, prompt_BTV, step_BTV = expected(kind)
    cache = decoder.new_cache(2, TOKENS + 1)
    got = [decoder.logits(decoder.forward(found, cache)) for found in (ids(2, TOKENS, 1), ids(2, 1, 2))]
    return max(
        float((x - y).abs().max()) / float(prompt_BTV.abs().max())
        for x, y in zip(got, (prompt_BTV, step_BTV), strict=True)
    )


@transformers
@pytest.mark.parametrize("kind", oracles.KINDS)
def test_equals_transformers(kind: str) -> None:
    """A prompt and a step with its cache, whole and over 2 and 4 ranks, experts cut and in 2 or 4 groups."""
    model, weights, prompt_BTV, _ = expected(kind)
    assert float(prompt_BTV.abs().max()) > 1
    splits = [(1, 1), (2, 1), (4, 1)] + ([(2, 2), (4, 2), (4, 4)] if model.is_mixture else [])
    found = {split: strays(Decoder(model, weights, LocalGroup(split[0]), ep=split[1]), kind) for split in splits}
    assert max(found.values()) <= ROUNDING, found


@pytest.mark.parametrize("kind", oracles.KINDS)
def test_ranks_and_pieces_change_nothing_but_rounding(kind: str) -> None:
    """In fp64, where rounding is 2e-16 of logits up to 80: three ranks, which no count here goes into, and a cache
    filled in uneven pieces, against one rank and one piece. In bf16 logits stray by its rounding and a router's.
    """
    model, ids_BT = oracles.config(kind), ids(2, TOKENS, 1)
    weights = random_weights(model, 7)
    one = Decoder(model, weights, LocalGroup(1), precision=FP64)
    wanted = one.logits(one.forward(ids_BT))
    three = Decoder(model, weights, LocalGroup(3), precision=FP64, ep=3 if model.is_mixture else 1)
    torch.testing.assert_close(three.logits(three.forward(ids_BT)), wanted, rtol=0, atol=1e-12)
    if kind != "phi3-long":  # which turns tokens otherwise once there are more, in pieces, too
        cache = three.new_cache(2, TOKENS)
        pieces = [three.logits(three.forward(piece, cache)) for piece in ids_BT.split([7, 1, 16], dim=1)]  # type: ignore[no-untyped-call]
        torch.testing.assert_close(torch.cat(pieces, dim=1), wanted, rtol=0, atol=1e-12)
    rounded = Decoder(model, weights, LocalGroup(2), precision=BF16)
    error = float((rounded.logits(rounded.forward(ids_BT)).double() - wanted).norm() / wanted.norm())
    assert 2**-11 < error < 0.1


@transformers
@pytest.mark.parametrize("kind", oracles.MIXTURES)
def test_tokens_that_travel_to_experts_come_back(kind: str) -> None:
    """Data-parallel attention of 2 and 4 ranks, some without sequences: all-to-all, and gathers and scatters."""
    model, weights, _, _ = expected(kind)
    for ranks in (2, 4):
        for gathers in (False, True):
            exchange = ExactExchange(LocalGroup(ranks), gathers)
            found = strays(Decoder(model, weights, exchange.group, exchange=exchange), kind)
            assert found <= ROUNDING, (ranks, gathers, found)


@transformers
@pytest.mark.parametrize("kind", oracles.KINDS)
def test_a_config_says_the_same_in_few_words(kind: str) -> None:
    """What gloo ranks read without transformers is what it writes, and its modules hold as many values as counted."""
    model, weights, _, _ = expected(kind)
    short = oracles.config(kind)
    assert (short.layers, short.parameters, short.norm) == (model.layers, model.parameters, model.norm)
    held = sum(tensor.numel() for name, tensor in weights.items() if not name.endswith(".correction"))
    index = 0  # is counted and not held: what it would choose from is all there is
    for layer in model.layers:
        if isinstance(layer.mixer, Latent) and layer.mixer.indexer is not None:
            index += layer.mixer.values(model.hidden_size, 1).total()
            index -= replace(layer.mixer, indexer=None).values(model.hidden_size, 1).total()
    assert held + index == model.parameters


# What the decoder does not compute: where it says so, and by which words.
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "gemma4_text": ({}, "rope_scaling 'proportional'|values in its layers that the decoder knows nothing of"),
    "step3p5": ({"moe_num_experts": 8, "moe_top_k": 2}, "a gate of one value a head"),
    "bamba": ({"mamba_n_heads": 8, "mamba_d_head": 16}, "layers of StateSpace"),
    "granitemoehybrid": ({"mamba_n_heads": 8, "mamba_d_head": 16, "num_local_experts": 4}, "layers of StateSpace"),
    "qwen3_5_text": ({"num_hidden_layers": 4}, "layers of DeltaNet"),
    "apertus": ({"hidden_act": "xielu"}, "has activation 'xielu'"),
    "phi": ({}, "has 97 values that the decoder knows nothing of"),
    "phimoe": ({"num_local_experts": 4}, "a sparse mixer for a router"),
    "hunyuan_v1_dense": ({}, "norms queries and keys after it has turned them"),
    "qwen3_next": ({"num_experts": 8, "num_experts_per_tok": 2, "num_hidden_layers": 4}, "layers of DeltaNet"),
    "nemotron_h": ({"hybrid_override_pattern": "M*-M"}, "layers of StateSpace"),
    "minimax_text_01": ({"num_local_experts": 4}, "layers of Lightning|scales its residual stream"),
    "minimax": ({"num_local_experts": 4, "layer_types": ["full_attention"] * 2}, "scales its residual stream"),
}


# Families that no test here holds against another's arithmetic, and why.
ELSEWHERE = {
    "qwen2_vl": "the text of qwen2", "qwen2_5_vl": "the text of qwen2", "qwen3_vl_text": "the text of qwen3",
    "qwen3_vl_moe_text": "the text of qwen3_moe", "kimi_k2": "deepseek_v3 by another name",
    "step3p7": "step3p5 by another name", "hunyuan_v1_moe": "as hunyuan_v1_dense", "internlm2": "test_names",
    "chatglm": "test_names", "nemotron-nas": "test_names", "gpt_neox": "its names are not known: tensors are lacking",
    "exaone": "its names are not known: tensors are lacking", "mimo": "qwen2, and no module in transformers",
    "minicpm": "granite's scales on llama, and no module in transformers",
    "deepseek": "deepseek_v2's experts on llama, and no module in transformers",
    "mimo_v2_flash": "a sliding-window mixture like gpt_oss, beyond what was asked",
    "ernie4_5_moe": "its names are not known: tensors are lacking",
    "afmoe": "its names are not known: tensors are lacking",
    "mistral4": "deepseek_v3 with other sizes, not tried", "hy_v3": "a mixture on llama, not tried",
}  # fmt: skip


def test_every_family_is_held_or_refused_or_accounted_for() -> None:
    """A family that is new to the table has to be put somewhere."""
    held = {oracles.raw(kind)["model_type"] for kind in oracles.KINDS}
    assert held | set(REFUSED) | set(ELSEWHERE) >= set(FAMILIES)
    assert not set(ELSEWHERE) & (held | set(REFUSED))


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_computed_is_refused_by_name(kind: str) -> None:
    changes, said = REFUSED[kind]
    sizes = {key: value for key, value in oracles.raw("llama").items() if key != "model_type"}
    model = parse_config({**sizes, "model_type": kind, **changes}, f"tiny-{kind}")
    with pytest.raises(ValueError, match=rf"model tiny-{kind}.*({said})"):
        check_known(model)


@pytest.mark.parametrize(
    ("kind", "most"), [("llama4_text", 8191), ("ministral3", 32), ("internlm3", 128), ("deepseek_v32", 64)]
)
def test_what_a_model_does_beyond_its_tokens_is_refused(kind: str, most: int) -> None:
    """Scaled queries, a growing rotary base, an index that leaves tokens out: up to there, and not one further."""
    model = oracles.config(kind)
    assert longest(model) == (None if kind == "deepseek_v32" else most)
    decoder = Decoder(model, random_weights(model, 7), LocalGroup(1))
    cache = decoder.new_cache(1, most + 1)
    cache.length = most - 1  # never read: the last of them sees itself alone
    decoder._check(ids(1, 1, 1), cache, None)
    with pytest.raises(ValueError, match=rf"tiny-{kind} .*{most + 1} tokens"):
        decoder.forward(ids(1, 2, 1), cache)


def test_what_means_nothing_is_refused() -> None:
    dense, group = oracles.config("qwen3"), LocalGroup(2)
    weights = random_weights(dense, 7)
    with pytest.raises(ValueError, match="tiny-qwen3 has no experts to spread: ep=2"):
        Decoder(dense, weights, group, ep=2)
    model = oracles.config("mixtral")
    weights = random_weights(model, 7)
    with pytest.raises(ValueError, match="ep must divide the ranks: ep=2, ranks=3"):
        Decoder(model, weights, LocalGroup(3), ep=2)
    sync = SchemeSync(group, plan_of("bf16", 2))
    with pytest.raises(ValueError, match="sequences of its own there is no sync"):
        Decoder(model, weights, group, sync=sync, exchange=ExactExchange(group))
    apart = Decoder(model, weights, group, exchange=ExactExchange(group))
    with pytest.raises(ValueError, match="nothing is summed: give no sync"):
        apart.forward(ids(2, 3, 1), sync=sync)
    with pytest.raises(ValueError, match="rows of all 2 ranks are exchanged in one process: given 1"):
        ExactExchange(group).known([[1]], torch.device("cpu"))
    scaled = oracles.config("granite")
    dropping = SchemeSync(group, plan_of("bf16", 2) | {(0, "attention"): None})
    with pytest.raises(ValueError, match=r"tiny-granite scales what .*cannot be dropped"):
        Decoder(scaled, random_weights(scaled, 7), group).forward(ids(2, 3, 1), sync=dropping)


def test_sequences_of_ranks_that_are_apart_go_on() -> None:
    """Losses and greedy continuations are those of one rank, also where sequences do not go into the ranks."""
    model, ids_BT = oracles.config("deepseek_v3"), ids(3, 7, 4)
    weights = random_weights(model, 7)
    one = Decoder(model, weights, LocalGroup(1))
    for gathers in (False, True):
        apart = Decoder(model, weights, LocalGroup(2), exchange=ExactExchange(LocalGroup(2), gathers))
        torch.testing.assert_close(apart.nll(ids_BT), one.nll(ids_BT), rtol=0, atol=1e-5)
        torch.testing.assert_close(apart.nll(ids_BT, split=0.5), one.nll(ids_BT), rtol=0, atol=1e-5)
        assert torch.equal(apart.generate(ids_BT, 5), one.generate(ids_BT, 5))


# ---- on the wire


def test_processes_give_the_bits_of_one_process(tmp_path: Path) -> None:
    """Four gloo ranks and each half of them against as many in this process: bit for bit, and byte for byte.

    Exact sums are no wire: one process does not count them, several do.
    """
    found = gloo.on_ranks(4, tmp_path, oracles, "of_both")
    for size in (2, 4):
        local = oracles.of_local(size)
        assert len(local) > 20
        for rank, of_rank in enumerate(found):
            got = of_rank[str(size)]
            assert got.keys() == local.keys()
            for name, [[digest, sent]] in got.items():
                wanted = local[name][rank % size]
                assert digest == wanted[0], (name, rank)
                assert sent == wanted[1] or "exact" in name or "olmoe flash" in name, (name, rank)


class Bounded:
    """A scheme's sync that holds every sum against its bound, and says by how much of it the worst one strays."""

    def __init__(self, group: LocalGroup, name: str, layers: int) -> None:
        self._inner, self._scheme, self._ranks = SchemeSync(group, plan_of(name, layers)), scheme(name), group.size
        self.worst, self.wire_bytes = 0.0, 0

    def __call__(self, layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool) -> Any:
        got = self._inner(layer, site, partials, position, ends)
        assert got is not None
        schedule = build(self._scheme, self._ranks, partials[0].numel())
        exact_N = torch.stack([partial.double() for partial in partials]).sum(0).reshape(-1)
        error_N, bound_N = (got[0].double().reshape(-1) - exact_N).abs(), all_reduce_bound(partials, schedule)
        assert bool((error_N <= bound_N).all()), (layer, site)
        self.worst = max(self.worst, float((error_N / bound_N.clamp(min=1e-30)).max()))
        self.wire_bytes += sum(schedule.sent_bytes().values())
        return got


@pytest.mark.parametrize("kind", ["cohere2", "falcon", "olmo3", "gemma3_text", "deepseek_v3", "gpt_oss", "llama4_text"])
@pytest.mark.parametrize("name", ["flash-int8", "flash-int4"])
def test_sums_under_a_codec_lie_within_its_bounds(kind: str, name: str) -> None:
    """At every sync point of a model, and what travelled is what the schedules of just those points say.

    A block whose halves are side by side has one.
    """
    model, group = oracles.config(kind), LocalGroup(4)
    decoder = Decoder(model, random_weights(model, 7), group, ep=2 if model.is_mixture else 1)
    sync = Bounded(group, name, model.num_layers)
    group.reset_counters()
    got = decoder.logits(decoder.forward(ids(2, 9, 3), sync=sync))
    sent = sum(group.sent_bytes.values())
    points = sum(len(layer.sites) for layer in model.layers)
    assert points == (model.num_layers if kind in ("cohere2", "falcon") else 2 * model.num_layers)
    one = sum(build(scheme(name), 4, 2 * 9 * model.hidden_size).sent_bytes().values())
    assert sent == sync.wire_bytes == points * one
    assert 0.1 < sync.worst <= 1
    assert not torch.equal(got, decoder.logits(decoder.forward(ids(2, 9, 3))))


class BoundedExchange:
    """A scheme's exchange that holds every row that arrives against its bound."""

    def __init__(self, group: LocalGroup, name: str, gathers: bool) -> None:
        self.group, self.gathers, self._scheme = group, gathers, scheme(name)
        self._inner, self._exact = SchemeExchange(group, name, gathers=gathers), ExactExchange(group)
        self.worst, self.wire_bytes, self.rows = 0.0, 0, 0

    def known(self, numbers: Sequence[Sequence[int]], device: torch.device) -> list[list[int]]:
        self.wire_bytes += 4 * len(numbers[0]) * self.group.size * (self.group.size - 1)
        return self._inner.known(numbers, device)

    def beside(self, rows: Sequence[Tensor], counts: Counts) -> list[Tensor]:
        away = sum(map(sum, counts)) - sum(row[rank] for rank, row in enumerate(counts))
        self.wire_bytes += 4 * rows[0].shape[1] * away
        return self._inner.beside(rows, counts)

    def __call__(self, layer: int, way: Phase, rows: Sequence[Tensor], counts: Counts) -> list[Tensor]:
        codec: Codec | None = self._scheme.of_experts(way)
        assert codec is not None
        got = self._inner(layer, way, rows, counts)
        exact = self._exact(layer, way, rows, counts)
        bounds = self._exact(layer, way, [tokens_bound(x_MD, codec) for x_MD in rows], counts)
        for got_MD, exact_MD, bound_MD in zip(got, exact, bounds, strict=True):
            error_MD = (got_MD.double() - exact_MD.double()).abs()
            assert bool((error_MD <= bound_MD).all()), (layer, way)
            self.worst = max(self.worst, float((error_MD / bound_MD.clamp(min=1e-30)).max()))
        schedule = exchange_of_tokens(codec, checked(counts), rows[0].shape[1])
        self.wire_bytes += sum(schedule.sent_bytes().values())
        self.rows += sum(map(sum, counts))
        return got


@pytest.mark.parametrize("kind", ["deepseek_v3", "gpt_oss", "llama4_text"])
@pytest.mark.parametrize("name", ["a2a-int8", "a2a-int4"])
@pytest.mark.parametrize("gathers", [False, True])
def test_tokens_under_a_codec_lie_within_its_bounds(kind: str, name: str, gathers: bool) -> None:
    """Every row that goes to experts or comes back; the bytes are those of the schedules, of how many rows come, and of
    what lies beside them.
    """
    model, group = oracles.config(kind), LocalGroup(4)
    weights, ids_BT = random_weights(model, 7), ids(6, 9, 3)
    exchange = BoundedExchange(group, name, gathers)
    decoder = Decoder(model, weights, group, exchange=exchange)
    group.reset_counters()
    got = decoder.logits(decoder.forward(ids_BT))
    assert sum(group.sent_bytes.values()) == exchange.wire_bytes
    assert 0.1 < exchange.worst <= 1
    mixtures = [layer.feed.top_k for layer in model.layers if isinstance(layer.feed, Experts)]
    rows, ones = exchange.rows // (2 * ids_BT.numel()), len(mixtures)
    assert rows == 4 * ones if gathers else ones <= rows <= sum(mixtures)  # which, test_exchange.py says
    exact = Decoder(model, weights, group, exchange=ExactExchange(group))
    wanted = exact.logits(exact.forward(ids_BT))
    assert 1e-4 < float((got - wanted).norm() / wanted.norm()) < 0.5


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "llama4_text", "exaone_moe"])
@pytest.mark.parametrize("name", ["a2a-int8", "a2a-int4"])
def test_no_codec_changes_a_choice_either_way(kind: str, name: str) -> None:
    """A rank chooses for its own tokens as they are, and what it chose travels exactly: gathered and dispatched tokens
    give the same bits. Chosen anew of tokens that a codec rounded, qwen3_moe's strayed seven times as far.
    """
    model, group, ids_BT = oracles.config(kind), LocalGroup(4), ids(6, 9, 3)
    weights = random_weights(model, 7)
    dispatched, gathered = (
        decoder.logits(decoder.forward(ids_BT))
        for decoder in (
            Decoder(model, weights, group, exchange=SchemeExchange(group, name, gathers=gathers))
            for gathers in (False, True)
        )
    )
    assert torch.equal(gathered, dispatched)
