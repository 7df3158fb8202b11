"""The decoder: equal to itself on any number of ranks, to Hugging Face transformers, and to itself in pieces."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from thinwire.reference.allreduce import all_reduce_local
from thinwire.reference.catalog import scheme
from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.schedule import build
from thinwire.reference.core.scheme import Raw
from thinwire.reference.decoder.attention import causal_mask
from thinwire.reference.decoder.model import BF16, Decoder, Precision
from thinwire.reference.decoder.rope import frequencies
from thinwire.reference.decoder.sync import (
    Calibrating,
    ExactSync,
    Observed,
    Point,
    SchemeSync,
    Site,
)
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.mixed import plan_of, points

from .. import gloo, tiny

torch.set_num_threads(1)
FP64 = Precision(torch.float64, torch.float64, torch.float64)


@pytest.fixture(autouse=True)
def _no_graph() -> Any:
    with torch.no_grad():
        yield


def logits(model: Decoder, ids_BT: Tensor, **options: Any) -> Tensor:
    return model.logits(model.forward(ids_BT, **options))


def decoder(model: ModelConfig, ranks: int = 1, **options: Any) -> Decoder:
    return Decoder(model, tiny.weights(model), LocalGroup(ranks), **options)


# ---- any number of ranks


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_ranks_change_nothing_but_rounding(family: str) -> None:
    """Logits of TP 2, 3, 4 and 8 (where two ranks have no head) against one rank.

    The tolerance is measured, not guessed: in fp64 the same comparison must come out 2^29 times finer, and in fp32 a
    split model may stray from the fp64 one as far as the whole one does, twice over (each has that error), with room
    for the luck of one rounding against another (4).
    """
    model = tiny.config(family)
    ids_BT = tiny.ids(model)
    exact, whole = logits(decoder(model, precision=FP64), ids_BT), logits(decoder(model), ids_BT)
    rounding = float((whole - exact).abs().max())
    assert 0 < rounding < 1e-4
    for ranks in (2, 3, 4, 8):
        split = logits(decoder(model, ranks), ids_BT)
        assert float((split - whole).abs().max()) <= 4 * 2 * rounding
        split64 = logits(decoder(model, ranks, precision=FP64), ids_BT)
        assert float((split64 - exact).abs().max()) <= 4 * 2 * rounding * 2**-29


def test_heads_may_lie_anywhere() -> None:
    """Permutations of heads over ranks, one of them without any, in some layers: what head grouping needs.

    Ranks then keep other key-value heads in each layer, so the cache must follow: whole, and in pieces.
    """
    model = tiny.config("llama-biases")
    ids_BT = tiny.ids(model)
    split = decoder(model, 3, heads={0: [[5, 0, 3], [], [4, 2, 1]], 2: [[0, 3], [5, 1], [2, 4]]}, precision=FP64)
    assert [[len(shard.kv_heads) for shard in layer.shards] for layer in split.layers] == [
        [2, 0, 2],
        [1, 2, 1],
        [2] * 3,
    ]
    wanted = logits(decoder(model, precision=FP64), ids_BT)
    torch.testing.assert_close(logits(split, ids_BT), wanted, rtol=0, atol=1e-11)
    cache = split.new_cache(2, 24)
    pieces = [logits(split, piece, cache=cache) for piece in ids_BT.split([7, 1, 16], dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), wanted, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match=r"heads are given for layers 0\.\.2: layers=\[1, 3\]"):
        decoder(model, 1, heads={1: [range(6)], 3: [range(6)]})


# ---- Hugging Face

transformers = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")


def hugging_face(family: str, **changes: Any) -> Any:
    """transformers' own model with the same weights, and what its config.json says."""
    from transformers import AutoConfig, AutoModelForCausalLM

    data = tiny.raw(family, **changes)
    kind = {"L": "llama", "M": "mistral", "Q": "qwen2", "G": "gemma2"}[data["architectures"][0][0]]
    shape = AutoConfig.for_model(kind, **data, attn_implementation="eager", pad_token_id=0, eos_token_id=None)
    oracle = AutoModelForCausalLM.from_config(shape, dtype=torch.float32).eval()
    model = tiny.config(family, **changes)
    missing = oracle.load_state_dict(tiny.weights(model), strict=False)
    assert set(missing.missing_keys) <= ({"lm_head.weight"} if model.tied_embeddings else set())
    assert not missing.unexpected_keys
    oracle.tie_weights()
    return oracle


@transformers
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_equals_transformers(family: str) -> None:
    """Logits to 1e-4 (they are of size 1 to 10), losses, and greedy continuations token by token, whole and split."""
    from thinwire.reference.families.config import parse_config

    oracle = hugging_face(family)
    model = tiny.config(family)
    written = parse_config(json.loads(oracle.config.to_json_string(use_diff=False)), model.name)
    assert replace(written, dtype=None) == model  # today's spelling of the config says the same
    ids_BT = tiny.ids(model, tokens=30)
    wanted_BTV = oracle(ids_BT).logits
    assert float(wanted_BTV.abs().max()) > 1
    for ranks in (1, 4):
        ours = decoder(model, ranks)
        torch.testing.assert_close(logits(ours, ids_BT), wanted_BTV, rtol=0, atol=1e-4)
        loss_BT = torch.nn.functional.cross_entropy(wanted_BTV[:, :-1].transpose(1, 2), ids_BT[:, 1:], reduction="none")
        torch.testing.assert_close(ours.nll(ids_BT), loss_BT, rtol=0, atol=1e-4)
        wanted = oracle.generate(ids_BT[:, :9], max_new_tokens=20, do_sample=False)[:, 9:]
        assert torch.equal(ours.generate(ids_BT[:, :9], 20), wanted)


@transformers
def test_equals_transformers_in_bf16() -> None:
    """Both round every product to bf16, in different places: each strays from fp32 by about as much."""
    oracle, model = hugging_face("llama"), tiny.config("llama")
    ids_BT = tiny.ids(model)
    exact_BTV = logits(decoder(model), ids_BT)
    theirs = float((oracle.bfloat16()(ids_BT).logits.float() - exact_BTV).norm() / exact_BTV.norm())
    ours = float((logits(decoder(model, 3, precision=BF16), ids_BT) - exact_BTV).norm() / exact_BTV.norm())
    assert 1e-3 < ours < 2 * theirs


def test_llama3_scaling_against_its_formula() -> None:
    """Catalog model with the published parameters: short waves untouched, long ones 8 times slower."""
    from thinwire.reference.families.config import load_model

    model = load_model("llama-3-8b")
    rope = model.attention.rope
    assert rope is not None and rope.scaling is not None
    scaled, plain = frequencies(rope), frequencies(replace(rope, scaling=None))
    wave = 2 * math.pi / plain
    assert rope.scaling.factor == 8
    assert torch.equal(scaled[wave < 8192 / 4], plain[wave < 8192 / 4])
    torch.testing.assert_close(scaled[wave > 8192], plain[wave > 8192] / 8, rtol=1e-6, atol=0)
    assert bool((scaled[:-1] > scaled[1:]).all())


def test_unknown_scaling_is_refused() -> None:
    model = tiny.config("llama", rope_parameters={"rope_type": "proportional", "factor": 4.0})
    allowed = "none, linear, llama3, yarn, longrope, dynamic"
    with pytest.raises(ValueError, match=rf"rope_scaling 'proportional' is not supported; allowed: {allowed}"):
        decoder(model)


# ---- in pieces


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("ranks", [1, 4])
def test_prefill_equals_steps(family: str, ranks: int) -> None:
    """Token by token with a cache, in uneven pieces, and split as ISO does: the hidden states of one prefill."""
    model = tiny.config(family)
    ours = decoder(model, ranks, precision=FP64)
    ids_BT = tiny.ids(model)
    whole = ours.forward(ids_BT)
    for sizes in ([1] * 24, [7, 1, 16], [23, 1]):
        cache = ours.new_cache(2, 24)
        pieces = [ours.forward(piece, cache) for piece in ids_BT.split(sizes, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-11)
        assert cache.length == 24
    for share in (0.5, 0.01, 0.9, None):
        torch.testing.assert_close(ours.prefill(ids_BT, split=share), whole, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match=r"2 x 24 tokens and holds 24: given 2 x 1 more"):
        ours.forward(ids_BT[:, :1], cache)


def test_masks_by_hand() -> None:
    cpu = torch.device("cpu")
    assert causal_mask(5, 1, None, cpu) is None and causal_mask(3, 1, 4, cpu) is None
    assert causal_mask(1, 2, None, cpu).int().tolist() == [[1, 1, 0], [1, 1, 1]]  # type: ignore[union-attr]
    assert causal_mask(2, 2, 2, cpu).int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]  # type: ignore[union-attr]
    assert causal_mask(4, 1, 2, cpu).int().tolist() == [[0, 0, 0, 1, 1]]  # type: ignore[union-attr]


def test_generate_stops() -> None:
    """The stop token fills what follows it in its sequence, and ends the run when every sequence has had it."""
    model = tiny.config("llama-biases")
    ours = decoder(model)
    seen = set()
    for seed in range(20):
        ids_BT = tiny.ids(model, 2, 6, seed)
        free = ours.generate(ids_BT, 12)
        stop = int(free[0, 2])
        ends = [row.index(stop) if stop in row else 12 for row in free.tolist()]
        stopped = ours.generate(ids_BT, 12, stop=stop)
        assert stopped.shape[1] == min(12, max(ends) + 1)
        for row, wanted, end in zip(stopped.tolist(), free.tolist(), ends, strict=True):
            assert row == (wanted[: end + 1] + [stop] * 12)[: len(row)]
        if ends[0] < ends[1]:  # the free continuation goes on after the stop token, or there is nothing to fill
            seen.add((ends[1] < 12, int(free[0, ends[0] + 1]) != stop))
    assert {(True, True), (False, True)} <= seen


# ---- the seam


def test_schemes_at_the_seam() -> None:
    """What goes over the wire is what the scheme says, at every point, and the loss grows with the bits saved."""
    model = tiny.config("llama-biases")
    ids_BT, group = tiny.ids(model), LocalGroup(4)
    ours = Decoder(model, tiny.weights(model), group, precision=BF16)
    exact = logits(ours, ids_BT)
    errors = {}
    for name in ("bf16", "flash-int8", "two_step:int4-g32", "flash-int2"):
        group.reset_counters()
        got = logits(ours, ids_BT, sync=SchemeSync(group, plan_of(name, 3)))
        errors[name] = float((got - exact).norm() / exact.norm())
        if name == "flash-int8":  # each rank sends 3 of 4 aligned chunks in either phase, at 6 points
            codec = scheme(name).reduce
            assert sum(group.sent_bytes.values()) >= 6 * 2 * 3 * codec.wire_bytes(ids_BT.numel() * model.hidden_size)
    assert list(errors.values()) == sorted(errors.values())
    assert errors["bf16"] < 0.02 < errors["flash-int2"]


def test_each_point_has_its_scheme() -> None:
    """A plan by point, first-token exemption by position, a gate: the seam sees layer, site and position."""
    model = tiny.config("llama")
    ids_BT, group = tiny.ids(model), LocalGroup(2)
    ours = Decoder(model, tiny.weights(model), group)
    exact = ExactSync(group)
    seen: list[tuple[int, Site, int]] = []

    def spy(layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool) -> list[Tensor]:
        seen.append((layer, site, position))
        assert len(partials) == 2 and partials[0].shape[0] == 2
        return exact(layer, site, partials, position, ends)

    ours.prefill(ids_BT, sync=spy, split=0.5)
    assert seen == [(layer, site, start) for start in (0, 12) for layer, site in points(3)]

    plan = plan_of("all_gather:fp32", 3)
    whole = logits(ours, ids_BT)
    assert torch.equal(logits(ours, ids_BT, sync=SchemeSync(group, plan)), whole)  # fp32, in rank order: the exact sum
    for point in points(3):
        got = logits(ours, ids_BT, sync=SchemeSync(group, plan | {point: scheme("flash-int4")}))
        assert not torch.equal(got, whole)
    gated = SchemeSync(group, plan_of("flash-int2", 3), gate_bytes=2**30)
    torch.testing.assert_close(logits(ours, ids_BT, sync=gated), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("tokens", "split"), [(24, None), (24, 0.5), (1, None), (2, None)])
def test_exempt_tokens_go_uncompressed(tokens: int, split: float | None) -> None:
    """The first two tokens of each sequence as `bf16` sends them, the others as the codec does, wherever a part starts;
    and the bytes of both all-reduces."""
    group = LocalGroup(2)
    first, then = scheme("bf16"), scheme("flash-int3")
    sync = SchemeSync(group, plan_of("flash-int3+exempt-2", 1))
    starts = [0, round(tokens * split)] if split else [0]
    generator = torch.Generator().manual_seed(3)
    whole = [torch.randn(3, tokens, 20, generator=generator).bfloat16() for _ in range(2)]
    for start, stop in zip(starts, [*starts[1:], tokens], strict=True):
        partials = [partial_BTD[:, start:stop] for partial_BTD in whole]
        group.reset_counters()
        got = sync(0, "mlp", partials, start, stop == tokens)
        sent = dict(group.sent_bytes)
        assert got is not None and got[0] is got[1] and got[0].shape == (3, stop - start, 20)
        cut = min(max(2 - start, 0), stop - start)
        group.reset_counters()
        wanted = [
            all_reduce_local([p[:, where].contiguous() for p in partials], chosen, group=group)[0]
            for where, chosen in ((slice(cut), first), (slice(cut, None), then))
            if partials[0][:, where].numel()
        ]
        assert torch.equal(got[0], torch.cat(wanted, 1)) and sent == dict(group.sent_bytes)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize(("tokens", "start"), [(9, 0), (5, 4), (3, 7), (1, 9)])
def test_the_last_tokens_of_a_prompt_that_ends_go_exact(batch: int, ends: bool, tokens: int, start: int) -> None:
    """Of each sequence of the batch, in the message of the others: one all-reduce, its tail the last rows in order."""
    group, width = LocalGroup(2), 40
    sync = SchemeSync(group, plan_of("flash-int3+exempt-1+exempt-last-3", 1))
    generator = torch.Generator().manual_seed(3)
    partials = [torch.randn(batch, tokens, width, generator=generator).bfloat16() for _ in range(2)]
    kept = [partial_BTD.clone() for partial_BTD in partials]
    group.reset_counters()
    got = sync(0, "mlp", partials, start, ends)
    sent = dict(group.sent_bytes)
    assert got is not None and got[0].shape == (batch, tokens, width)
    assert all(torch.equal(a, b) for a, b in zip(partials, kept, strict=True))
    group.reset_counters()
    first = 1 if start == 0 else 0
    last = min(3, tokens - first) if ends else 0
    wanted = torch.empty(batch, tokens, width, dtype=torch.bfloat16)
    if first:
        wanted[:, :1] = all_reduce_local([p[:, :1].contiguous() for p in partials], "bf16", group=group)[0]
    cuts = slice(first, tokens - last), slice(tokens - last, tokens)
    rows = [torch.cat([p[:, cut].reshape(-1, width) for cut in cuts]) for p in partials]
    summed = all_reduce_local(rows, "flash-int3", group=group, exact=batch * last * width)[0]
    others = batch * (tokens - first - last)
    wanted[:, cuts[0]] = summed[:others].reshape(batch, -1, width)
    wanted[:, cuts[1]] = summed[others:].reshape(batch, -1, width)
    assert torch.equal(got[0], wanted) and sent == dict(group.sent_bytes)


def test_only_the_last_chunk_of_a_prompt_has_exact_rows() -> None:
    """A prompt in two halves: what the decoder says of each decides, and a token decoded is always the last."""
    model = tiny.config("llama")
    ids_BT, group = tiny.ids(model), LocalGroup(2)
    ours = Decoder(model, tiny.weights(model), group)
    width, ranks = model.hidden_size, 2
    plain, exempt = (SchemeSync(group, plan_of(name, 3)) for name in ("flash-int8", "flash-int8+exempt-last-2"))
    sent = []
    for sync in (plain, exempt):
        group.reset_counters()
        ours.prefill(ids_BT, sync=sync, split=0.5)
        sent.append(sum(group.sent_bytes.values()))
    batch, half = ids_BT.shape[0], ids_BT.shape[1] // 2
    numel, raw = batch * half * width, Raw("fp32")  # as the decoder sums
    chunks = [build(scheme("flash-int8"), ranks, numel, exact=batch * n * width, raw=raw) for n in (0, 2)]
    each = [sum(chunk.sent_bytes().values()) for chunk in chunks]
    assert sent == [6 * 2 * each[0], 6 * (each[0] + each[1])]


def test_calibration_at_the_seam() -> None:
    """A static hybrid gets the ranges of its own point, seen by the hook; the hook changes nothing."""
    model = tiny.config("llama")
    ids_BT, group = tiny.ids(model), LocalGroup(2)
    ours = Decoder(model, tiny.weights(model), group)
    hook = Calibrating()
    shown = ours.forward(ids_BT, sync=Observed(ExactSync(group), hook))
    assert torch.equal(shown, ours.forward(ids_BT))
    found = hook.freeze()
    assert set(found) == set(points(3)) and found[2, "mlp"].features == 36 and found[0, "mlp"].ranks == 2
    plan = plan_of("hybrid-4.2", 3)
    with pytest.raises(ValueError, match="needs a calibration"):
        ours.forward(ids_BT, sync=SchemeSync(group, plan))
    fit = ours.forward(ids_BT, sync=SchemeSync(group, plan, calibrations=found))
    crossed: dict[Point, Any] = dict(zip(points(3), reversed(list(found.values())), strict=True))
    other = ours.forward(ids_BT, sync=SchemeSync(group, plan, calibrations=crossed))
    assert float((fit - shown).norm()) < 0.9 * float((other - shown).norm())


def test_dropped_points_by_hand() -> None:
    """One block without its attention all-reduce, from whole blocks with parts of their matrices set to zero."""
    model = tiny.config("llama-biases", num_hidden_layers=1)
    whole, ids_BT, ranks = tiny.weights(model, torch.float64), tiny.ids(model), 3
    split = Decoder(model, whole, LocalGroup(ranks), precision=FP64)
    name = "model.layers.0."
    out, down = whole[name + "self_attn.o_proj.weight"], whole[name + "mlp.down_proj.weight"]
    out_bias, down_bias = whole[name + "self_attn.o_proj.bias"], whole[name + "mlp.down_proj.bias"]

    def block(x_BTD: Tensor, out_part: Tensor, down_part: Tensor) -> Tensor:
        """What attention and MLP add with these matrices instead, no bias behind them."""
        changed = whole | {name + "self_attn.o_proj.weight": out_part, name + "mlp.down_proj.weight": down_part}
        changed |= {name + "self_attn.o_proj.bias": 0 * out_bias, name + "mlp.down_proj.bias": 0 * down_bias}
        one = Decoder(model, changed, LocalGroup(1), precision=FP64)
        stream = one.embed(ids_BT)
        stream.agreed = [x_BTD]
        return one.block(0, stream).agreed[0] - x_BTD

    x_BTD = split.embed(ids_BT).agreed[0]
    wanted = x_BTD + out_bias + down_bias
    for shard in split.layers[0].shards:
        heads = [8 * head + k for head in shard.query_heads for k in range(8)]
        out_part, down_part = torch.zeros_like(out), torch.zeros_like(down)
        out_part[:, heads] = out[:, heads]
        down_part[:, list(shard.mlp)] = down[:, list(shard.mlp)]
        mine = block(x_BTD, out_part, 0 * down)
        wanted = wanted + mine + block(x_BTD + out_bias + mine, 0 * out, down_part)
    sync = SchemeSync(split.group, plan_of("all_gather:fp32+spd-100", 1) | {(0, "mlp"): scheme("all_gather:fp32")})
    assert sync(0, "attention", [], 0, True) is None

    def exact(layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool) -> list[Tensor] | None:
        return None if site == "attention" else ExactSync(split.group)(layer, site, partials, position, ends)

    got = split.block(0, split.embed(ids_BT), sync=exact)
    assert got.pending is None
    torch.testing.assert_close(got.agreed[0], wanted, rtol=0, atol=1e-11)
    kept = split.block(0, split.embed(ids_BT)).agreed[0]
    assert float((kept - wanted).abs().max()) > 0.01


def test_drops_cost_nothing_on_one_rank_and_are_refused_where_they_mean_nothing() -> None:
    model = tiny.config("llama-biases")
    ids_BT = tiny.ids(model)

    def dropping(*dropped: Point) -> Any:
        def sync(layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool) -> list[Tensor] | None:
            return (
                None
                if (layer, site) in dropped
                else ExactSync(LocalGroup(len(partials)))(layer, site, partials, 0, ends)
            )

        return sync

    one = decoder(model, precision=FP64)
    all_but_last = dropping(*points(3)[:-1])  # partial sums wait over several points, MLPs among them
    torch.testing.assert_close(one.forward(ids_BT, sync=all_but_last), one.forward(ids_BT), rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="last sync point of a model cannot be dropped"):
        one.forward(ids_BT, sync=dropping((2, "mlp")))
    gemma = tiny.config("gemma2")
    with pytest.raises(ValueError, match="norms what attention and MLP give"):
        decoder(gemma, 2).forward(tiny.ids(gemma), sync=dropping((1, "attention")))


def test_gradients_reach_one_block() -> None:
    """What block-to-block distillation needs: a graph through exact sums, in every rank's part."""
    model = tiny.config("gemma2")
    ours = decoder(model, 2)
    with torch.enable_grad():
        stream = ours.embed(tiny.ids(model))
        for part in ours.layers[1].parts:
            for tensor in (part.mixer.output_DxHV, part.feed.gate_FxD):  # type: ignore[union-attr]
                tensor.requires_grad_()  # type: ignore[union-attr]
        ours.block(1, stream).agreed[0].square().mean().backward()  # type: ignore[no-untyped-call]
    for part in ours.layers[1].parts:
        for tensor in (part.mixer.output_DxHV, part.feed.gate_FxD):  # type: ignore[union-attr]
            assert tensor.grad is not None and float(tensor.grad.norm()) > 0  # type: ignore[union-attr]


# ---- what is refused


def test_bad_input_is_refused() -> None:
    model = tiny.config("llama")
    ours = decoder(model)
    with pytest.raises(ValueError, match=r"ids must lie in 0..96: given 0..97"):
        ours.forward(torch.tensor([[0, 97]]))
    with pytest.raises(ValueError, match="ids must be"):
        ours.forward(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="batch and capacity must be positive: batch=1, capacity=0"):
        ours.new_cache(1, 0)
    with pytest.raises(ValueError, match="new_tokens must be positive"):
        ours.generate(tiny.ids(model), 0)
    with pytest.raises(ValueError, match="position 3 need the cache"):
        ours.block(0, ours.embed(tiny.ids(model)), start=3)
    with pytest.raises(ValueError, match="sums nothing"):
        SchemeSync(LocalGroup(2), plan_of("none", 3))
    with pytest.raises(ValueError, match="no scheme for the attention of layer 1; it holds 2 points"):
        decoder(model, 2).forward(tiny.ids(model), sync=SchemeSync(LocalGroup(2), plan_of("bf16", 1)))
    assert ours.nll(tiny.ids(model, tokens=1)).shape == (2, 0)


def test_ids_are_of_either_integer() -> None:
    model = tiny.config("llama")
    ours, ids_BT = decoder(model, 2), tiny.ids(model)
    assert torch.equal(ours.nll(ids_BT.int()), ours.nll(ids_BT))
    assert torch.equal(ours.generate(ids_BT.int(), 3), ours.generate(ids_BT, 3))
    for other in (ids_BT.float(), ids_BT.short(), ids_BT > 5):
        with pytest.raises(ValueError, match="ids must be int32 or int64: given torch"):
            ours.forward(other)


def test_a_sync_of_other_ranks_or_layers_is_refused() -> None:
    model = tiny.config("llama")
    ours, ids_BT, four = decoder(model, 2), tiny.ids(model), LocalGroup(4)
    for sync in (ExactSync(four), SchemeSync(four, plan_of("flash-int4", 3))):
        with pytest.raises(ValueError, match="sync's group has 4 ranks here, the decoder gives partial sums of 2"):
            ours.forward(ids_BT, sync=sync)
    for call in (ours.forward, ours.prefill):  # other points would be dropped than the scheme says
        with pytest.raises(ValueError, match="plan is for 9 layers, tiny-llama has 3"):
            call(ids_BT, sync=SchemeSync(ours.group, plan_of("spd-50", 9)))


def test_what_a_cache_cannot_take_leaves_it_as_it_was() -> None:
    """Too many tokens, ids that are none, another split: said before the first half of a split prefill is in it."""
    model = tiny.config("llama")
    ours, ids_BT = decoder(model, 2), tiny.ids(model)
    cache = ours.new_cache(2, 20)
    with pytest.raises(ValueError, match=r"2 x 20 tokens and holds 0: given 2 x 24 more"):
        ours.prefill(ids_BT, cache, split=0.5)
    wrong_BT = ids_BT[:, :20].clone()
    wrong_BT[1, 19] = 97
    with pytest.raises(ValueError, match=r"ids must lie in 0..96"):
        ours.prefill(wrong_BT, cache, split=0.5)
    assert cache.length == 0
    for other in (decoder(model, 3), decoder(model, 2, heads={0: [[5, 0, 3], [4, 2, 1]]})):
        with pytest.raises(ValueError, match="cache is of another split over ranks"):
            other.forward(ids_BT, cache)
    assert ours.prefill(ids_BT[:, :20], cache, split=0.5).shape == (2, 20, 36)


# ---- one rank a process


def test_processes_give_the_bits_of_one_process(tmp_path: Path) -> None:
    """Two gloo ranks, each with its own half of the model, against both halves in this process: bit for bit."""
    results = gloo.on_two_ranks(tmp_path, tiny, "digests")
    local = tiny.digests(LocalGroup(2))
    assert results[0] == results[1] == local
    assert len(set(local.values())) == len(tiny.ON_THE_WIRE)
