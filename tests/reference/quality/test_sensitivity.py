"""What one sync point alone costs: figures, choices, and runs that are stopped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from thinwire.reference.catalog import scheme
from thinwire.reference.decoder.model import BF16, FP32, Decoder, Precision
from thinwire.reference.decoder.sync import ExactSync, SchemeSync
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.mixed import DROP, points
from thinwire.reference.quality import sensitivity as running
from thinwire.reference.quality.accuracy import Run, baseline_run, evaluate, evaluate_all
from thinwire.reference.quality.results import code_version, sources
from thinwire.reference.quality.sensitivity import (
    Choices,
    PointLoss,
    keep,
    key,
    measure,
    measure_prompts,
    parse_choices,
)

from .. import tiny
from .stopping import Stop, stopper

NAMES = ("flash-int8", "flash-int4+exempt-1", "flash2-int2-sr", DROP)
EXACT = scheme("all_gather:fp32")


def decoder(precision: Precision = BF16, family: str = "llama-biases", ranks: int = 3) -> Decoder:
    """Three layers; a small embedding, or its product with itself would decide every token."""
    config = tiny.config(family)
    weights = tiny.weights(config)
    weights["model.embed_tokens.weight"] *= 0.1
    return Decoder(config, weights, LocalGroup(ranks), precision=precision)


def windows(count: int = 2, tokens: int = 24) -> Tensor:
    return tiny.ids(tiny.config("llama"), count, tokens)


def choices(*names: str) -> dict[str, Any]:
    return parse_choices(names or NAMES, tiny.config("llama"))


def go(path: Path | None = None, progress: Any = None, tried: Choices | None = None) -> list[list[PointLoss]]:
    model = decoder()
    kept = None if path is None else keep(path, key(model, "sum", 4))
    return list(measure(model, windows(), tried or choices(), stride=4, kept=kept, progress=progress))


# ---- figures


@pytest.mark.parametrize("prompt", [23, 12, 1])
def test_prompts_tried_from_a_kept_stream_are_whole_runs(prompt: int) -> None:
    """To the bit: `accuracy`'s runs of the prompt under a plan that changes this point only, answers exact."""
    model, tried = decoder(FP32), choices()
    by_window = zip(windows(), measure_prompts(model, windows(), tried, prompt), strict=True)
    for ids_T, losses in by_window:
        assert [(loss.layer, loss.site) for loss in losses] == list(points(3))
        for loss in losses:
            assert set(loss.kl) == set(NAMES) - ({DROP} if loss.site == "mlp" else set())
            assert (loss.first, loss.predictions) == (prompt, 24 - prompt)
            for name, kl in loss.kl.items():
                plan = {point: tried[name] if point == (loss.layer, loss.site) else EXACT for point in points(3)}
                run = Run(model, SchemeSync(model.group, plan), prompt=prompt)
                found = evaluate_all(baseline_run(model, prompt), {"": run}, ids_T[None])[""].windows[0]
                assert (found.kl, found.nll - found.nll_bf16) == (kl, loss.nll[name])


def test_prompts_go_on_where_they_were(tmp_path: Path) -> None:
    """Windows together, stopped after some and taken up again, give the lines of one go."""
    model, tried, path = decoder(), choices(), tmp_path / "kept"
    name = key(model, "sum", 1, 12)
    whole = list(measure_prompts(model, windows(4), tried, 12, together=2))
    stop = stopper(9)
    with pytest.raises(Stop):
        list(measure_prompts(model, windows(4), tried, 12, together=2, kept=keep(path, name), progress=stop))
    again = list(measure_prompts(model, windows(4), tried, 12, together=2, kept=keep(path, name)))
    assert [sorted(map(repr, losses)) for losses in again] == [sorted(map(repr, losses)) for losses in whole]
    assert key(model, "sum", 1, 12) != key(model, "sum", 1)
    for prompt in (0, 24):
        with pytest.raises(ValueError, match=rf"prompt={prompt}, tokens=24"):
            list(measure_prompts(model, windows(), tried, prompt))


@pytest.mark.parametrize("family", ["llama-biases", "mistral"])
def test_a_kept_stream_gives_what_the_whole_run_gives(family: str) -> None:
    """To the bit: the same products of the same shapes, with a plan that changes this point only."""
    model, tried = decoder(FP32, family), choices()
    for ids_T, losses in zip(windows(), measure(model, windows(), tried), strict=True):
        assert [(loss.layer, loss.site) for loss in losses] == list(points(3))
        for loss in losses:
            assert set(loss.kl) == set(loss.nll) == set(NAMES) - ({DROP} if loss.site == "mlp" else set())
            for name in loss.kl:
                plan = {**dict.fromkeys(points(3), EXACT), (loss.layer, loss.site): tried[name]}
                (whole,) = evaluate(model, ids_T[None], SchemeSync(model.group, plan)).windows
                assert (loss.kl[name], loss.nll[name]) == (whole.kl, whole.nll - whole.nll_bf16), (loss, name)
                assert loss.predictions == 23 and loss.kl[name] > 0


def test_sums_elsewhere_are_not_rounded() -> None:
    """In bf16 too, where a plan of schemes would round them."""
    model, four = decoder(), scheme("flash-int4")
    changed, exact = SchemeSync(model.group, {(1, "mlp"): four}), ExactSync(model.group)

    def by_hand(layer: int, site: Any, partials: Sequence[Tensor], position: int, ends: bool) -> list[Tensor] | None:
        return (changed if (layer, site) == (1, "mlp") else exact)(layer, site, partials, position, ends)

    (whole,) = evaluate(model, windows(1), by_hand).windows
    (losses,) = measure(model, windows(1), {"4": four})
    assert losses[3].kl["4"] == whole.kl > 0


def test_an_exact_choice_costs_nothing() -> None:
    for losses in measure(decoder(FP32), windows(), {"exact": EXACT}, stride=3):
        assert [(loss.kl["exact"], loss.nll["exact"]) for loss in losses] == [(0.0, 0.0)] * 6


def test_every_position_has_its_turn() -> None:
    """One window four times over, a fourth of its positions each: together they are the whole window.

    The head multiplies other rows together, so its fp32 sums differ by rounding: 36 products of a few units.
    """
    model, ids_WT = decoder(), windows(1)
    (whole,) = measure(model, ids_WT, choices())
    quarters = list(measure(model, ids_WT.repeat(4, 1), choices(), stride=4))
    assert [losses[0].first for losses in quarters] == [0, 1, 2, 3]
    assert [losses[0].predictions for losses in quarters] == [6, 6, 6, 5]
    for point, loss in enumerate(whole):
        for name in loss.kl:
            for figure in ("kl", "nll"):
                found = math.fsum(getattr(losses[point], figure)[name] for losses in quarters)
                assert found == pytest.approx(getattr(loss, figure)[name], rel=1e-4, abs=1e-4)


def test_layers_before_the_point_are_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = decoder(), list[int]()
    block = model.block

    def counted(layer: int, *arguments: Any, **named: Any) -> Any:
        seen.append(layer)
        return block(layer, *arguments, **named)

    monkeypatch.setattr(model, "block", counted)
    list(measure(model, windows(1), choices("flash-int4", DROP)))
    tried = 3  # at each layer: one choice at two sites, and one dropped point
    assert [seen.count(layer) for layer in range(3)] == [1 + tried * (layer + 1) for layer in range(3)]


def test_hierarchical_gets_its_islands() -> None:
    model = decoder(FP32, ranks=4)
    (found,) = measure(model, windows(1), choices("flash2-int4-hier", "flash-int4"))
    assert all(loss.kl["flash2-int4-hier"] != loss.kl["flash-int4"] for loss in found)


def test_outputs_that_are_no_numbers_are_refused() -> None:
    model = decoder()
    model._head_VD[5, 5] = math.nan
    with pytest.raises(ValueError, match="not finite under flash-int8 at the attention of layer 0"):
        list(measure(model, windows(), choices()))


@pytest.mark.parametrize("stride", [0, -1, 24])
def test_a_stride_leaves_a_prediction_of_every_window(stride: int) -> None:
    with pytest.raises(ValueError, match=f"stride must lie in 1..23, the window's predictions: stride={stride}"):
        list(measure(decoder(), windows(), choices(), stride=stride))
    with pytest.raises(ValueError, match="windows must be"):
        list(measure(decoder(), windows()[:0], choices()))


# ---- choices


@pytest.mark.parametrize(
    "names, said",
    [
        ((), "none given"),
        (("flash-int44",), "unknown scheme 'flash-int44'; did you mean flash-int4"),
        (("flash-int4", "flash-int4"), "'flash-int4' is given twice"),
        (("spd-50",), "choice spd-50: a sync point takes a codec and a collective"),
        (("flash-int4+iso",), "choice flash-int4.iso: a sync point takes"),
        (("none",), "choice none: a sync point takes"),
        (("two_step:int4/hybrid4",), "static scales, which need a calibration"),
    ],
)
def test_what_no_point_takes_is_refused(names: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_choices(names, tiny.config("llama"))


def test_post_norms_take_no_dropped_points() -> None:
    config = tiny.config("gemma2")
    with pytest.raises(ValueError, match=r"tiny-gemma2 norms what its attention gives.*leave out 'drop'"):
        parse_choices(NAMES, config)
    (losses,) = measure(decoder(family="gemma2"), windows(1), parse_choices(NAMES[:-1], config))
    assert all(loss.kl["flash2-int2-sr"] > 0 for loss in losses)


# ---- stopped and gone on


@pytest.mark.parametrize("after", [1, 5, 6, 8])
def test_a_stopped_run_goes_on(tmp_path: Path, after: int) -> None:
    """Six points a window: what was done is not done again, a line cut short is, and the figures are the same."""
    whole = go(tmp_path / "whole")
    with pytest.raises(Stop):
        go(tmp_path / "parts", stopper(after))
    with (tmp_path / "parts").open("a") as file:
        file.write('{"digest": "12')
    seen: list[tuple[int, int]] = []
    assert go(tmp_path / "parts", lambda *step: seen.append(step)) == whole
    assert len((tmp_path / "parts").read_text().splitlines()) == 13
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()
    assert seen == sorted(seen) and seen[-1] == (12, 12) and len(seen) == 2 + 12 - after
    again: list[tuple[int, int]] = []
    assert go(tmp_path / "parts", lambda *step: again.append(step)) == whole
    assert again == [(6, 12), (12, 12)]  # windows are found, no point is run


def test_more_choices_go_on_from_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(tmp_path / "file", tried=choices("flash-int8", DROP))
    ran: list[tuple[str, ...]] = []
    losses = running._losses

    def watched(*arguments: Any) -> Any:
        ran.extend(tuple(names) for names in arguments[-1].values())
        return losses(*arguments)

    monkeypatch.setattr(running, "_losses", watched)
    assert go(tmp_path / "file") == go()
    assert ran == [NAMES[1:3]] * 12 + [NAMES, NAMES[:3]] * 6  # what was left, and then all, where nothing is kept
    only_dropped = go(tmp_path / "file", tried=choices(DROP))
    assert [[loss.site for loss in found] for found in only_dropped] == [["attention"] * 3] * 2


def test_the_key_tells_runs_apart(tmp_path: Path) -> None:
    model = decoder()
    base = key(model, "sum", 4)
    others = [key(decoder(ranks=2), "sum", 4), key(model, "another", 4), key(model, "sum", 2)]
    others.append(key(decoder(FP32), "sum", 4))
    assert base == key(decoder(), "sum", 4) and all(other != base for other in others)
    keep(tmp_path / "file", base)
    for other in others:
        with pytest.raises(ValueError, match="results of another run"):
            keep(tmp_path / "file", other)


def test_the_code_version_covers_this_measurement() -> None:
    assert set(sources("quality.sensitivity")) == {*sources(), "quality.sensitivity"}
    assert key(decoder(), "", 1)["code"] == code_version("quality.sensitivity") != code_version()


@pytest.mark.parametrize("text, said", [("x\n", "holds no sensitivity results"), ('{"kind": "y"}\n', "another run")])
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=said):
        keep(tmp_path / "file", {})
