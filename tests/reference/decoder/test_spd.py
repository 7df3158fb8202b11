"""Sync-point drop: sensitivities against whole runs, training that trains what it should, heads dealt out anew."""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from thinwire.reference.decoder.distil import Dropping, Training, _batches, distil, straying, streams
from thinwire.reference.decoder.head_groups import Groups, _heads, _mlp_norms, group_heads, scatter
from thinwire.reference.decoder.model import BF16, FP32, Decoder, Precision
from thinwire.reference.decoder.shard import even
from thinwire.reference.decoder.spd import (
    METHODS,
    Method,
    Sensitivity,
    drop_plan,
    dropped_count,
    prepare,
    random_layers,
    regroup,
    sensitivity,
)
from thinwire.reference.decoder.sync import ExactSync, Observed, SchemeSync
from thinwire.reference.groups.group import LocalGroup, TorchGroup
from thinwire.reference.mixed import Site, points

from .. import tiny

torch.set_num_threads(1)
FP64 = Precision(torch.float64, torch.float64, torch.float64)
LAYERS = 4
MODEL = tiny.config("llama-biases", num_hidden_layers=LAYERS)
WEIGHTS = tiny.weights(MODEL)
IDS_WT = tiny.ids(MODEL, 3, 16)
FOUND = Sensitivity("alone", (0.5, 0.01, 0.1, -0.01), 4.0, 100)


def decoder(ranks: int = 3, precision: Precision = FP64) -> Decoder:
    return Decoder(MODEL, WEIGHTS, LocalGroup(ranks), precision=precision)


def tensors(model: Decoder) -> dict[str, Tensor]:
    """Everything a decoder computes with, by name."""
    found = {"embedding": model._embedding_VD, "head": model._head_VD, "norm": model._norms["norm"]}
    for number, layer in enumerate(model.layers):
        found |= {f"{number}.{name}": norm for name, norm in layer.norms.items()}
        assert layer.output_bias_D is not None and layer.down_bias_D is not None
        found |= {f"{number}.output_bias": layer.output_bias_D, f"{number}.down_bias": layer.down_bias_D}
        for rank, part in enumerate(layer.parts):
            for half in (part.mixer, part.feed):
                assert half is not None
                values = {field.name: getattr(half, field.name) for field in fields(half)}
                found |= {f"{number}.{rank}.{name}": value for name, value in values.items() if value is not None}
    return found


def dropped_error(model: Decoder, original: Decoder, layer: int, *dropped: int) -> float:
    """Straying behind a block without its sync point, all windows together; those `dropped` before it are, too."""
    stream = wanted = original.embed(IDS_WT)
    drop = Dropping(ExactSync(original.group), (*dropped, layer))
    with torch.no_grad():
        for number in range(layer + 1):
            stream, wanted = model.block(number, stream, sync=drop), original.block(number, wanted)
        return float(straying(stream.agreed[0], wanted.agreed[0]))


# ---- which blocks


@pytest.mark.parametrize("method", METHODS)
def test_sensitivity_equals_whole_runs(method: Method) -> None:
    """Every run from the start, all windows together, against those that go on from kept streams."""
    ours, told = decoder(), list[tuple[int, int]]()
    exact = ExactSync(ours.group)

    def loss(*layers: int) -> float:
        with torch.no_grad():
            return float(ours.nll(IDS_WT, sync=Dropping(exact, layers)).mean())

    found = sensitivity(ours, IDS_WT, method, lambda done, total: told.append((done, total)))
    wanted = [
        loss(*range(layer, LAYERS)) - loss(*range(layer + 1, LAYERS))
        if method == "progressive"
        else loss(layer) - loss()
        for layer in range(LAYERS)
    ]
    assert found.increases == pytest.approx(wanted, abs=1e-12) and min(map(abs, wanted)) > 1e-4
    assert (found.method, found.tokens, found.loss) == (method, 45, pytest.approx(loss(), abs=1e-12))
    assert told == [(done, 15) for done in range(1, 16)]


def test_one_rank_has_nothing_to_lose() -> None:
    assert sensitivity(decoder(1), IDS_WT).increases == pytest.approx([0.0] * LAYERS, abs=1e-12)


def test_ranks_and_classes_by_hand() -> None:
    found = Sensitivity("alone", (0.3, 0.02, 0.1, 0.02, 0.300001, -1.0), 4.0, 10)
    assert found.least(6) == (5, 3, 1, 2, 0, 4)  # of equals the later one
    assert [found.least(count) for count in range(3)] == [(), (5,), (5, 3)]
    assert found.kinds(0.02, 0.3) == ("SB", "ISB", "SB", "ISB", "ESB", "ISB")  # a threshold belongs to the class below
    assert found.kinds(-math.inf, math.inf) == ("SB",) * 6
    assert found.kinds(0.1, 0.1) == ("ESB", "ISB", "ISB", "ISB", "ESB", "ISB")
    for count in (-1, 7):
        with pytest.raises(ValueError, match=rf"count must lie in 0\.\.6: count={count}"):
            found.least(count)
    with pytest.raises(ValueError, match=r"slight must not exceed severe: slight=0\.2, severe=0\.1"):
        found.kinds(0.2, 0.1)


def test_counts_are_those_of_schemes() -> None:
    from thinwire.reference.catalog import scheme

    for percent in (10, 20, 30, 50, 70, 100):
        for layers in (1, 3, 30, 80):
            name = f"spd-{percent}"
            assert dropped_count(layers, percent) == scheme(name).kept_attention(layers).count(False)
    assert dropped_count(30, 0) == 0
    with pytest.raises(ValueError, match=r"drop_percent must lie in 0\.\.100: drop_percent=101"):
        dropped_count(30, 101)


def test_random_layers_are_nested_and_seeded() -> None:
    drawn = random_layers(30, 30, 5)
    assert sorted(drawn) == list(range(30)) and drawn != tuple(range(30))
    assert all(random_layers(30, count, 5) == drawn[:count] for count in range(31))
    assert random_layers(30, 30, 6) != drawn
    with pytest.raises(ValueError, match=r"count must lie in 0\.\.4: count=5"):
        random_layers(4, 5, 0)


def test_plans_drop_what_they_say() -> None:
    """Every subset of the layers: its attention points and no others; run, they are the drop of exact sums."""
    ours = decoder(precision=FP32)
    exact = ExactSync(ours.group)
    with torch.no_grad():
        for count in range(LAYERS + 1):
            for layers in combinations(range(LAYERS), count):
                plan = drop_plan(LAYERS, layers, "all_gather:fp32")
                assert set(plan) == set(points(LAYERS))
                assert {point for point, scheme in plan.items() if scheme is None} == {(x, "attention") for x in layers}
                got = ours.forward(IDS_WT, sync=SchemeSync(ours.group, plan))
                assert torch.equal(got, ours.forward(IDS_WT, sync=Dropping(exact, layers)))
    with pytest.raises(ValueError, match=r"layers must lie in 0\.\.3: layers=\[1, 4\]"):
        drop_plan(LAYERS, (4, 1))
    with pytest.raises(ValueError, match="'spd-50' drops sync points itself"):
        drop_plan(LAYERS, (1,), "spd-50")


# ---- training


def test_streams_are_the_models() -> None:
    ours = decoder()
    found = dict(streams(ours, IDS_WT, (3, 0, 2)))
    assert list(found) == [0, 2, 3]
    with torch.no_grad():
        stream = ours.embed(IDS_WT)
        for layer in range(LAYERS):
            if layer in found:
                torch.testing.assert_close(found[layer], stream.agreed[0], rtol=0, atol=1e-12)
            stream = ours.block(layer, stream)


def test_straying_by_hand() -> None:
    """Token by token: 4 of 100 and 1 of 1, mean 0.52. A token of zeros that is met strays by nothing."""
    target = torch.tensor([[[10.0, 0.0], [0.0, 1.0]]])
    assert float(straying(target + torch.tensor([[[0.0, 2.0], [1.0, 0.0]]]), target)) == pytest.approx(0.52)
    assert float(straying(0 * target, 0 * target)) == 0


@pytest.mark.parametrize("precision", [FP64, BF16])
def test_training_lowers_the_error_and_touches_nothing_else(precision: Precision) -> None:
    ours, told = decoder(precision=precision), list[tuple[int, int]]()
    kept = {name: tensor.clone() for name, tensor in tensors(ours).items()}
    budget = Training(steps=30, learning_rate=3e-3)
    trained, report = distil(ours, IDS_WT, (2, 0), (0, 1, 2), budget, lambda *step: told.append(step))
    assert all(torch.equal(tensor, kept[name]) for name, tensor in tensors(ours).items())
    assert not any(tensor.requires_grad for tensor in tensors(trained).values())
    for name, tensor in tensors(trained).items():
        assert (tensor.dtype, tensor.shape) == (kept[name].dtype, kept[name].shape)
        changed = name[:1] in "02" and "norm" not in name
        assert torch.equal(tensor, kept[name]) != changed, name  # biases of 0.1 move by 3e-3 at most a step
    assert trained.layers[1] is ours.layers[1] and trained.layers[3] is ours.layers[3]
    assert [row.layer for row in report] == [0, 2]
    for row, untrained in zip(report, (ours, trained.replaced({2: ours.layers[2]})), strict=True):
        assert row.after < 0.6 * row.before
        tolerance = 1e-9 if precision is FP64 else 0.02  # windows of one batch: other kernels, bf16 rounding
        assert row.before == pytest.approx(dropped_error(untrained, ours, row.layer, 0, 1), rel=tolerance)
        assert row.after == pytest.approx(dropped_error(trained, ours, row.layer, 0, 1), rel=tolerance)
    assert told == [(step, 60) for step in range(1, 61)]
    again, second = distil(ours, IDS_WT, (0, 2), range(3), budget)
    assert second == report
    assert all(torch.equal(tensor, tensors(trained)[name]) for name, tensor in tensors(again).items())
    other, _ = distil(ours, IDS_WT, (0,), training=Training(steps=30, learning_rate=3e-3, seed=1))
    gates = [model.layers[0].parts[0].feed.gate_FxD for model in (other, trained)]  # type: ignore[union-attr]
    assert not torch.equal(*gates)  # type: ignore[arg-type]


def test_trained_blocks_serve_the_whole_model() -> None:
    """The loss that dropping costs is won back, on the windows trained on."""
    ours = decoder()
    trained, _ = distil(ours, IDS_WT, range(LAYERS), training=Training(steps=40, learning_rate=3e-3))
    sync = Dropping(ExactSync(ours.group), range(LAYERS))
    with torch.no_grad():
        exact_BTD = ours.forward(IDS_WT)
        errors = [float((model.forward(IDS_WT, sync=sync) - exact_BTD).norm()) for model in (ours, trained)]
    assert errors[1] < 0.5 * errors[0]


def test_training_that_harms_is_thrown_away() -> None:
    ours = decoder()
    same, (row,) = distil(ours, IDS_WT, (1,), training=Training(steps=1, learning_rate=10.0))
    assert same.layers[1] is ours.layers[1] and row.after == row.before > 0


def test_batches_are_shuffles_one_after_the_other() -> None:
    for windows, batch, steps in ((5, 1, 12), (5, 2, 5), (3, 7, 2)):
        found = _batches(windows, Training(steps, batch, seed=1))
        assert [len(chosen) for chosen in found] == [batch] * steps
        flat = torch.cat(found).tolist()
        for first in range(0, len(flat) - windows + 1, windows):
            assert sorted(flat[first : first + windows]) == list(range(windows))


# ---- heads


def test_heads_are_scattered_by_hand() -> None:
    """Runs by sigma: heads 6 5 4, then 3 2 1, then 0; in each the weightiest goes to the rank with the least."""
    sigma = [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    norm = [1.0, 5.0, 2.0, 3.0, 1.0, 2.0, 4.0]
    # ranks get 6 (4), 5 (2), 4 (1); then 1 (5) to rank 2, 3 (3) to rank 1, 2 (2) to rank 0; then 0 to rank 0
    assert scatter(sigma, norm, 3) == ((0, 2, 6), (3, 5), (1, 4))
    assert scatter([1.0], [1.0], 2) == ((0,), ())
    for heads, ranks in ((9, 4), (6, 8), (12, 5), (8, 4)):
        found = scatter(range(heads), range(heads), ranks)
        assert [len(group) for group in found] == [len(part) for part in even(heads, ranks)]
        assert sorted(head for group in found for head in group) == list(range(heads))


def test_heads_add_up_and_sigma_is_a_deviation() -> None:
    """Contributions are what a rank a head would send; flat attention has no sigma."""
    ours, alone = decoder(), decoder(MODEL.attention.heads)
    seen: list[Tensor] = []

    def hook(layer: int, site: Site, partials: Any) -> None:
        if (layer, site) == (1, "attention"):
            seen.extend(partials)

    with torch.no_grad():
        alone.forward(IDS_WT, sync=Observed(ExactSync(alone.group), hook))
        (_, inputs_WTD), *_ = streams(ours, IDS_WT, (1,))
        sigma_H, heads_WHTD = _heads(ours, 1, inputs_WTD)
        for window, heads_HTD in enumerate(heads_WHTD):
            for head, added_TD in enumerate(heads_HTD):
                torch.testing.assert_close(added_TD, seen[head][window], rtol=0, atol=1e-11)
        assert len(set(sigma_H)) == 6 and all(0 < sigma < 0.5 for sigma in sigma_H)
        norms = _mlp_norms(ours, 1, inputs_WTD, heads_WHTD)
        assert len(set(norms)) == 6 and min(norms) > 0.01

        flat = {name: 0 * tensor if "1.self_attn.q_proj" in name else tensor for name, tensor in WEIGHTS.items()}
        blind = Decoder(MODEL, flat, ours.group, precision=FP64)
        assert _heads(blind, 1, inputs_WTD)[0] == pytest.approx([0.0] * 6, abs=1e-7)


def test_sigma_of_sharp_attention() -> None:
    """A query among t tokens that looks at one of them: sqrt(t - 1) / t, and 0 for the first."""
    sharp = {name: 1e4 * tensor if "1.self_attn.q_proj" in name else tensor for name, tensor in WEIGHTS.items()}
    ours = Decoder(MODEL, sharp, LocalGroup(2), precision=FP64)
    with torch.no_grad():
        (_, inputs_WTD), *_ = streams(decoder(2), IDS_WT, (1,))
        sigma_H, _ = _heads(ours, 1, inputs_WTD)
    assert sigma_H == pytest.approx([sum(math.sqrt(t - 1) / t for t in range(1, 17)) / 16] * 6, rel=1e-3)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_no_exchange_helps_any_more(ranks: int) -> None:
    """Against decoders really regrouped: sizes stay, no error is larger than in order, no exchange lowers it."""
    ours = decoder(ranks)
    (_, inputs_WTD), *_ = streams(ours, IDS_WT, (1,))
    found = group_heads(ours, 1, inputs_WTD)
    sizes = [len(part) for part in even(6, ranks)]
    assert [len(group) for group in found] == sizes and sorted(sum(found, ())) == list(range(6))

    def error(groups: Groups) -> float:
        return dropped_error(regroup(ours, WEIGHTS, {1: groups}), ours, 1)

    least = error(found)
    assert least < dropped_error(ours, ours, 1)
    for a, b in combinations(range(6), 2):
        other = {a: b, b: a}
        assert error(tuple(tuple(other.get(head, head) for head in group) for group in found)) >= least - 1e-12
    few = group_heads(ours, 1, inputs_WTD, exchanges=0)
    ordered: Groups = tuple(tuple(part) for part in even(6, ranks))
    with torch.no_grad():
        sigma_H, heads_WHTD = _heads(ours, 1, inputs_WTD)
        scattered = scatter(sigma_H, _mlp_norms(ours, 1, inputs_WTD, heads_WHTD), ranks)
    assert few == min((ordered, scattered), key=error)


def test_regrouped_heads_change_no_logit() -> None:
    ours = decoder()
    moved = regroup(ours, WEIGHTS, {1: ((5, 0), (1, 3), (2, 4)), 3: ((0, 1, 2, 3), (), (5, 4))})
    assert moved.layers[1].shards[0].query_heads == (5, 0) and moved.layers[0] is ours.layers[0]
    with torch.no_grad():
        exact = ours.logits(ours.forward(IDS_WT))
        torch.testing.assert_close(moved.logits(moved.forward(IDS_WT)), exact, rtol=0, atol=1e-11)
        assert torch.equal(moved.generate(IDS_WT, 6), ours.generate(IDS_WT, 6))
        sync = Dropping(ExactSync(ours.group), (1, 3))
        assert not torch.allclose(moved.forward(IDS_WT, sync=sync), ours.forward(IDS_WT, sync=sync))


# ---- all of it


def test_prepare_by_class() -> None:
    """Sensitivities as if found: 3 and 1 are dropped as they are, 2 is trained, 0 regrouped and trained."""
    ours = decoder()
    kept = {name: tensor.clone() for name, tensor in tensors(ours).items()}
    budget = Training(steps=20, learning_rate=3e-3)

    def go(percent: float, **options: Any) -> Any:
        return prepare(ours, WEIGHTS, IDS_WT, percent, found=FOUND, slight=0.02, severe=0.3, training=budget, **options)

    ready = go(100)
    assert [block.kind for block in ready.blocks] == ["ESB", "ISB", "SB", "ISB"]
    assert [block.heads is None for block in ready.blocks] == [False, True, True, True]
    assert [block.distilled is None for block in ready.blocks] == [False, True, False, True]
    assert [block.increase for block in ready.blocks] == [0.5, 0.01, 0.1, -0.01]
    assert ready.decoder.layers[1] is ours.layers[1] and ready.decoder.layers[3] is ours.layers[3]
    assert tuple(shard.query_heads for shard in ready.decoder.layers[0].shards) == ready.blocks[0].heads
    assert ready.dropped == (0, 1, 2, 3) and ready.plan == drop_plan(LAYERS, range(LAYERS))
    for layer in (0, 2):
        distilled = ready.blocks[layer].distilled
        assert distilled is not None and distilled.after < distilled.before
        assert distilled.after == pytest.approx(dropped_error(ready.decoder, ours, layer, *range(LAYERS)), rel=1e-9)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in tensors(ours).items())

    half = go(50, scheme="flash-int8")  # the two least sensitive ones, nothing to train
    assert half.dropped == (1, 3) and half.plan == drop_plan(LAYERS, (1, 3), "flash-int8")
    assert all(a is b for a, b in zip(half.decoder.layers, ours.layers, strict=True))
    assert [block.dropped for block in half.blocks] == [False, True, False, True]
    assert go(0).dropped == ()


def test_prepare_finds_sensitivities_itself() -> None:
    ours = decoder(precision=FP32)
    ready = prepare(ours, WEIGHTS, IDS_WT, 50, training=Training(steps=2), slight=-math.inf, severe=math.inf)
    found = sensitivity(ours, IDS_WT)
    assert [block.increase for block in ready.blocks] == list(found.increases)
    assert set(ready.dropped) == set(found.least(2))
    assert {block.layer for block in ready.blocks if block.distilled} == set(ready.dropped)


# ---- what is refused


def test_bad_input_is_refused() -> None:
    ours, gemma = decoder(), tiny.config("gemma2")
    post = Decoder(gemma, tiny.weights(gemma), LocalGroup(2))
    calls: list[Any] = [
        lambda model, ids: sensitivity(model, ids),
        lambda model, ids: distil(model, ids, (0,)),
        lambda model, ids: prepare(model, WEIGHTS, ids, 50),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="tiny-gemma2 norms what attention and MLP give: its sync points cannot"):
            call(post, IDS_WT)
        for ids in (IDS_WT[:0], IDS_WT[:, :1], IDS_WT[0]):
            with pytest.raises(ValueError, match=r"windows must be \[windows, tokens\], two tokens or more: given \["):
                call(ours, ids)
    with pytest.raises(ValueError, match=r"layers must lie in 0\.\.3: layers=\[0, 4\]"):
        distil(ours, IDS_WT, (4, 0))
    with pytest.raises(ValueError, match=r"layers trained must be dropped: layers=\[1, 2\], dropped=\[0, 2\]"):
        distil(ours, IDS_WT, (2, 1), (0, 2))
    with pytest.raises(ValueError, match="method must be one of progressive, alone: method='both'"):
        sensitivity(ours, IDS_WT, "both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="found is of 4 layers, tiny-llama has 3"):
        other = tiny.config("llama")
        prepare(Decoder(other, tiny.weights(other), LocalGroup(2)), {}, tiny.ids(other), 50, found=FOUND)
    for bad in ({"steps": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"seed": -1}):
        with pytest.raises(ValueError, match="training needs positive steps"):
            Training(**bad)  # type: ignore[arg-type]


def test_ranks_of_other_processes_are_refused() -> None:
    ours = decoder(1)
    ours.group = object.__new__(TorchGroup)
    with pytest.raises(ValueError, match="needs all ranks in one process: given a TorchGroup"):
        sensitivity(ours, IDS_WT)
