"""Perplexity, divergence, agreement and their intervals: closed forms, coverage, and runs that are stopped."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from thinwire.reference.catalog import scheme
from thinwire.reference.catalog import schemes as catalog_schemes
from thinwire.reference.decoder.model import BF16, FP32, Decoder
from thinwire.reference.decoder.sync import ExactSync, Observed
from thinwire.reference.decoder.weights import random_weights
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.mixed import MixedScheme
from thinwire.reference.quality import results as results_module
from thinwire.reference.quality.accuracy import (
    CONFIDENCE,
    Accuracy,
    Run,
    baseline_run,
    calibrate,
    compare,
    cut_text,
    evaluate,
    evaluate_all,
    islands,
    needs_calibration,
    scheme_run,
)
from thinwire.reference.quality.results import Results, Window, code_version, digest, run_key, sources

from .. import gloo
from . import accuracy_cases
from .accuracy_cases import CONFIG, KEY, decoder, go, windows
from .stopping import Stop, stopper

HEADS = {1: [[5, 0], [1, 2, 3, 4]]}


def window(nll: float, nll_bf16: float, kl: float = 0.0, agreed: int = 10, tokens: int = 10, name: str = "") -> Window:
    return Window(name, tokens, nll, nll_bf16, kl, agreed)


# ---- figures of given windows


def test_uniform_logits_have_the_vocabularys_perplexity() -> None:
    """A model whose logits are all zero: -log p is log V at every token, under any scheme."""
    model = decoder(LocalGroup(2))
    model._head_VD = torch.zeros_like(model._head_VD)
    found = evaluate(model, windows(), scheme_run(model, scheme("flash-int4")).sync)
    for figure in (found.perplexity, found.perplexity_bf16):
        assert figure.value == pytest.approx(97, rel=1e-6)  # fp32 log p, each within a few 2^-24 of 4.57
    assert found.perplexity_ratio == (1, 1, 1)
    assert found.tokens == 5 * 23


def test_a_run_against_itself_is_exact() -> None:
    model = decoder(LocalGroup(2))
    found = evaluate(model, windows(), ExactSync(model.group))
    assert found.perplexity_ratio == found.top1_agreement == (1, 1, 1)
    assert found.kl == (0, 0, 0)
    assert found.perplexity == found.perplexity_bf16
    assert evaluate(model, windows(), None) == found  # its own sync is that one, too


def test_sums_of_a_window_by_hand() -> None:
    """Three predictions over two tokens; the last is a tie, where the first of the likeliest counts."""
    p = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    q = torch.tensor([[0.25, 0.75], [0.6, 0.4], [0.5, 0.5]], dtype=torch.float64)
    found = compare("w", p.log(), q.log(), torch.tensor([1, 0, 0]))
    assert found.nll == pytest.approx(-math.log(0.75 * 0.6 * 0.5))
    assert found.nll_bf16 == pytest.approx(-math.log(0.5 * 0.9 * 0.2))
    kl = 0.5 * math.log(2) + 0.5 * math.log(2 / 3) + 0.9 * math.log(1.5) + 0.1 * math.log(0.25)
    assert found.kl == pytest.approx(kl + 0.2 * math.log(0.4) + 0.8 * math.log(1.6))
    assert (found.tokens, found.agreed) == (3, 1)


def test_divergence_of_long_windows_is_whole() -> None:
    """It is added up in chunks; none is lost or counted twice."""
    p, q = (torch.randn(700, 5, generator=torch.Generator().manual_seed(s)).log_softmax(-1) for s in (0, 1))
    wanted = torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum")
    assert compare("", p, q, torch.zeros(700, dtype=torch.long)).kl == pytest.approx(float(wanted), rel=1e-5)


def test_intervals_are_students() -> None:
    """Against scipy's, of the per-token figures of four windows."""
    nll, base, kl, agreed = [31.0, 25.0, 28.0, 35.0], [30.0, 25.5, 26.0, 33.0], [1.0, 0.5, 0.8, 2.0], [9, 10, 8, 7]
    found = Accuracy(tuple(window(*row) for row in zip(nll, base, kl, agreed, strict=True)))

    def interval(values: Any) -> tuple[float, float, float]:
        values = np.asarray(values) / 10
        low, high = stats.t.interval(CONFIDENCE, 3, values.mean(), stats.sem(values))
        return float(values.mean()), float(low), float(high)

    assert found.perplexity == pytest.approx(np.exp(interval(nll)))
    assert found.perplexity_bf16 == pytest.approx(np.exp(interval(base)))
    assert found.perplexity_ratio == pytest.approx(np.exp(interval(np.subtract(nll, base))))
    assert found.kl == pytest.approx(interval(kl))
    mean, low, _ = interval(agreed)
    assert found.top1_agreement == pytest.approx((mean, low, 1.0))  # Student's would end above 1
    assert found.tokens == 40


def test_the_ratios_interval_is_paired() -> None:
    """Windows differ widely, the scheme always costs the same: the ratio is known, the perplexity is not."""
    found = Accuracy(tuple(window(10 * level + 1, 10 * level) for level in (1.0, 3.0, 5.0)))
    assert found.perplexity_ratio == pytest.approx((math.exp(0.1),) * 3)
    assert cast(float, found.perplexity.high) / cast(float, found.perplexity.low) > 100


@pytest.mark.parametrize("count", [4, 16])
def test_intervals_cover(count: int) -> None:
    """Of normal losses the interval of the ratio holds the truth as often as it says."""
    trials, rng = 3000, np.random.default_rng(7)
    level = rng.normal(3, 1, (trials, count))  # of the text, common to both
    cost = rng.normal(0.05, 0.1, (trials, count))
    covered = 0
    for row, more in zip(level, cost, strict=True):
        both = zip(row, more, strict=True)
        ratio = Accuracy(tuple(window(10 * (x + d), 10 * x) for x, d in both)).perplexity_ratio
        covered += cast(float, ratio.low) <= math.exp(0.05) <= cast(float, ratio.high)
    # Binomial: deviation sqrt(.95 * .05 / 3000) = 0.004; four of them.
    assert abs(covered / trials - CONFIDENCE) < 0.016


def test_one_window_has_no_interval() -> None:
    found = Accuracy((window(20, 10, 1, 5),))
    assert found.perplexity_ratio == (pytest.approx(math.e), None, None)
    assert found.kl == (0.1, None, None)
    document = found.to_dict()
    assert document["perplexity_interval"] is None and document["top1_agreement"] == 0.5


def test_what_is_beyond_doubles_is_none_in_json() -> None:
    document = Accuracy((window(8000, 10), window(9000, 10))).to_dict()
    assert document["perplexity"] is None and document["perplexity_interval"] is None
    json.dumps(document, allow_nan=False)


def test_windows_of_one_length_are_asked_for() -> None:
    with pytest.raises(ValueError, match="one length"):
        Accuracy(())
    with pytest.raises(ValueError, match=r"2 windows of \[10, 11\]"):
        Accuracy((window(1, 1), window(1, 1, tokens=11)))


# ---- running models


def test_coarser_codecs_diverge_further() -> None:
    model = decoder(LocalGroup(4))
    runs = {name: scheme_run(model, scheme(name)) for name in ("bf16", "flash-int8", "flash-int4", "flash-int2")}
    found = evaluate_all(baseline_run(model), runs, windows(8))
    divergence = [found[name].kl.value for name in runs]
    agreement = [found[name].top1_agreement.value for name in runs]
    assert divergence == sorted(divergence) and 0 < divergence[0] < divergence[1] < 0.1 * divergence[3]
    assert agreement == sorted(agreement, reverse=True)


def test_losses_are_the_decoders() -> None:
    """Each position predicts the next token: `Decoder.nll`, which test_model.py holds to the logits, says the same."""
    model = decoder(LocalGroup(2))
    run = scheme_run(model, scheme("flash-int4+iso-25"))
    with torch.no_grad():
        nll_WT = model.nll(windows(), run.sync, run.split)
        base_WT = model.nll(windows())
    found = evaluate(model, windows(), run.sync, split=run.split).windows
    for window_, nll_T, base_T in zip(found, nll_WT, base_WT, strict=True):
        assert window_.nll_bf16 == pytest.approx(float(base_T.sum()), rel=1e-5)
        assert window_.nll == pytest.approx(float(nll_T.sum()), rel=0.05)  # in a batch codec groups fall otherwise
    alone = [float(model.nll(ids_T[None], run.sync, run.split).double().sum()) for ids_T in windows()]
    assert [window_.nll for window_ in found] == pytest.approx(alone, rel=1e-5)


def test_many_runs_are_each_run_alone() -> None:
    model = decoder(LocalGroup(2))
    runs = {name: scheme_run(model, scheme(name)) for name in ("flash-int4", "spd-50", "iso")}
    together = evaluate_all(baseline_run(model), runs, windows())
    for name, run in runs.items():
        assert evaluate(model, windows(), run.sync, split=run.split) == together[name]
    assert scheme_run(model, scheme("iso-25")).split == 0.25


def test_another_decoder_may_be_the_baseline() -> None:
    """As after distillation: the loss of one, held against the other's."""
    model, other = decoder(LocalGroup(2)), decoder(LocalGroup(2))
    other._head_VD = other._head_VD * 0.5
    found = evaluate(model, windows(), None, baseline_run(other))
    assert found.perplexity == evaluate(model, windows(), None).perplexity
    assert found.perplexity_bf16 == evaluate(other, windows(), None).perplexity
    assert found.kl.value > 0


def test_processes_give_the_figures_of_one_process(tmp_path: Path) -> None:
    """Two gloo ranks against a LocalGroup: every sum of every window, bit for bit."""
    found = gloo.on_two_ranks(tmp_path, accuracy_cases, "figures")
    local = accuracy_cases.figures(LocalGroup(2))
    assert found[0] == found[1] == local
    assert len({json.dumps(rows) for rows in local.values()}) == len(accuracy_cases.SCHEMES)


@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (5,)])
def test_windows_need_two_tokens(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="windows must be"):
        evaluate(decoder(LocalGroup(1)), torch.zeros(shape, dtype=torch.long), None)


def test_outputs_that_are_no_numbers_are_refused() -> None:
    model = decoder(LocalGroup(2))
    model._head_VD[5, 5] = math.nan
    with pytest.raises(ValueError, match="not finite under this sync"):
        evaluate(model, windows(), None)


def test_a_split_that_leaves_a_half_empty_is_refused() -> None:
    """As the simulator does: it would be measured unsplit under the name of a split."""
    model = decoder(LocalGroup(2))
    thin = replace(scheme("iso"), sequence_split=0.01)
    with pytest.raises(ValueError, match=r"sequence_split leaves a half empty: sequence_split=0.01, input_tokens=24"):
        evaluate_all(baseline_run(model), {"thin": scheme_run(model, thin)}, windows())
    with pytest.raises(ValueError, match=r"half empty: sequence_split=0\.99"):
        evaluate(model, windows(), None, split=0.99)


def test_logits_exist_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """log p is filled in chunk by chunk, to the bits of the whole: no second copy of the largest tensor there is."""
    model, ids_T = decoder(LocalGroup(2)), windows(1, 600)[0]
    hidden_BTD = model.forward(ids_T[None])
    wanted_TV = torch.cat([torch.log_softmax(model.logits(part), -1) for part in hidden_BTD[0, :-1].split(256)])
    monkeypatch.setattr(model, "prefill", lambda *_, **options: hidden_BTD)
    monkeypatch.setattr(torch, "cat", None)
    assert torch.equal(Run(model).log_probs(ids_T[None])[0], wanted_TV)


def test_none_cannot_run() -> None:
    with pytest.raises(ValueError, match="'none' sums nothing"):
        scheme_run(decoder(LocalGroup(2)), scheme("none"))


def test_hierarchical_gets_two_islands() -> None:
    layered = scheme("flash2-int4-hier")
    assert islands(layered, 8) == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert islands(layered, 2) is None and islands(scheme("flash-int4"), 8) is None
    model = decoder(LocalGroup(4))
    found, flat = (evaluate(model, windows(), scheme_run(model, s).sync) for s in (layered, scheme("flash-int4")))
    assert found != flat


def test_static_hybrids_are_calibrated() -> None:
    asking = {name for name, found in catalog_schemes().items() if needs_calibration(found)}
    assert asking == {"hybrid-4.2", "hybrid-4.2-two-step"}
    static, dynamic = scheme("two_step:int4/hybrid4"), scheme("two_step:hybrid4-k64-dyn")
    assert needs_calibration(static) and needs_calibration(MixedScheme("x", (None, static), (dynamic, dynamic)))
    assert not needs_calibration(MixedScheme("x", (None,), (dynamic,)))
    model = decoder(LocalGroup(2))
    calibrations = calibrate(model, windows(2, seed=8))
    assert set(calibrations) == {(layer, site) for layer in range(2) for site in ("attention", "mlp")}
    found = evaluate(model, windows(), scheme_run(model, scheme("hybrid-4.2"), calibrations).sync)
    assert 0 < found.kl.value < 0.5


def test_first_tokens_may_be_left_out_of_a_calibration() -> None:
    """The reach of a point whose first token is the largest falls when that is left out."""
    model, ids = decoder(LocalGroup(2)), windows(1, seed=8)
    reach: list[Tensor] = []

    def look(layer: int, site: str, partials: Sequence[Tensor]) -> None:
        reach.append(torch.stack(tuple(partials))[:, 0].float().abs())

    model.forward(ids, sync=Observed(ExactSync(model.group), look))
    for skip in (0, 1, 5):
        found = calibrate(model, ids, skip)[0, "attention"]
        assert torch.equal(found.reach_RF, reach[0][:, skip:].amax(1))
    with pytest.raises(ValueError, match="skip must leave a token of each window: skip=24, tokens=24"):
        calibrate(model, ids, 24)


# ---- windows of a text


@pytest.mark.parametrize("windows_, calibration", [(1, 0), (5, 3), (12, 8)])
def test_windows_are_pieces_of_the_text_and_none_twice(windows_: int, calibration: int) -> None:
    found = cut_text(range(1000, 1207), 10, windows_, calibration)
    starts = [*found.evaluation_WT[:, 0].tolist(), *found.calibration_WT[:, 0].tolist()]
    assert found.evaluation_WT.shape == (windows_, 10) and found.calibration_WT.shape == (calibration, 10)
    assert len(set(starts)) == windows_ + calibration and all((start - 1000) % 10 == 0 for start in starts)
    for row in (*found.evaluation_WT.tolist(), *found.calibration_WT.tolist()):
        assert row == list(range(row[0], row[0] + 10))


def test_more_windows_hold_the_fewer() -> None:
    few, many = (cut_text(range(5000), 10, count, 6) for count in (20, 60))
    assert torch.equal(many.evaluation_WT[:20], few.evaluation_WT)
    assert torch.equal(many.calibration_WT, few.calibration_WT)
    assert int(few.evaluation_WT.max()) > 4000 and int(few.evaluation_WT.min()) < 1000  # from all over the text


@pytest.mark.parametrize(
    "length, tokens, count, calibration", [(99, 10, 8, 2), (100, 10, 9, 2), (100, 1, 1, 0), (100, 10, 0, 0)]
)
def test_a_text_too_short_is_refused(length: int, tokens: int, count: int, calibration: int) -> None:
    with pytest.raises(ValueError, match="do not fit a text of"):
        cut_text(range(length), tokens, count, calibration)


# ---- stopped and gone on


@pytest.mark.parametrize("after", [1, 2, 5, 6])
def test_a_stopped_run_goes_on(tmp_path: Path, after: int) -> None:
    """Two passes a window: what was done is not done again, and the figures are those of a run in one go."""
    whole = go(windows(), tmp_path / "whole")
    with pytest.raises(Stop):
        go(windows(), tmp_path / "parts", stopper(after))
    assert len((tmp_path / "parts").read_text().splitlines()) == 1 + after // 2
    seen: list[tuple[int, int]] = []
    assert go(windows(), tmp_path / "parts", lambda *step: seen.append(step)) == whole
    left = 2 * (5 - after // 2)
    assert seen == [(done, left) for done in range(left + 1)]
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_killed_process_goes_on(tmp_path: Path) -> None:
    """SIGKILL between two windows, and in the middle of writing the next."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from accuracy_cases import go, windows
go(windows(), Path({str(tmp_path / "parts")!r}), lambda done, total: done >= 4 and os.kill(os.getpid(), signal.SIGKILL))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len((tmp_path / "parts").read_text().splitlines()) == 3
    with (tmp_path / "parts").open("a") as file:
        file.write('{"digest": "12')
    assert go(windows(), tmp_path / "parts") == go(windows(), tmp_path / "whole")
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_longer_run_takes_up_a_shorter_one(tmp_path: Path) -> None:
    few = go(windows()[:2], tmp_path / "file")
    seen: list[int] = []
    many = go(windows(), tmp_path / "file", lambda done, total: seen.append(total))
    assert seen[0] == 6 and many.windows[:2] == few.windows
    assert go(windows()[:2], tmp_path / "file", stopper(1)) == few  # nothing left to run


def test_repeated_windows_are_run_once() -> None:
    seen: list[int] = []
    model, ids = decoder(LocalGroup(1)), windows(2)[[0, 1, 0]]
    found = evaluate(model, ids, None, progress=lambda done, total: seen.append(total))
    assert seen[0] == 4 and len(found.windows) == 3 and found.windows[0] == found.windows[2]


def test_results_of_another_key_are_refused(tmp_path: Path) -> None:
    go(windows(), tmp_path / "file")
    before = (tmp_path / "file").read_bytes()
    for other, said in (({**KEY, "tp": 4}, "tp was 2, is 4"), ({"tp": 2}, "scheme was 'flash-int4', is None")):
        with pytest.raises(ValueError, match=f"results of another run .{said}."):
            go(windows(), tmp_path / "file", key=other)
    assert (tmp_path / "file").read_bytes() == before


@pytest.mark.parametrize(
    "text, said",
    [
        ("no results\n", "holds no accuracy results"),
        ('{"kind": "something else"}\n', "another run"),
        ("a diary without an end of line", "holds no accuracy results: its first line is 'a diary"),
        ("[" * 100_000 + "\n", "holds no accuracy results"),
        ('{"kind": "thinwire accuracy 2", "scheme": "flash-int4", "tp": 2}\nx\n', "damaged in line 2"),
        ('{"kind": "thinwire accuracy 2", "scheme": "flash-int4", "tp": 2}\n{"digest": "1"}\n', "damaged in line 2"),
        ('{"kind": "thinwire accuracy 2", "scheme": "flash-int4", "tp": 2}\n' + "[" * 100_000 + "\n", "in line 2"),
    ],
)
def test_damaged_results_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=said):
        Results(tmp_path / "file", KEY)
    assert (tmp_path / "file").read_text() == text


def test_results_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ValueError, match=r"file is not UTF-8, so it holds no results"):
        Results(tmp_path / "file", KEY)
    assert (tmp_path / "file").read_bytes() == b"\xff\xfe\n"


@pytest.mark.parametrize(
    "change",
    [
        {"nll": math.nan}, {"nll_bf16": math.inf}, {"kl": 10**400}, {"kl": None}, {"nll": "1"}, {"nll": True},
        {"tokens": 0}, {"tokens": -3}, {"tokens": 10.0}, {"agreed": 11}, {"agreed": -1}, {"agreed": True},
        {"digest": 5}, {"digest": []},
    ],
)  # fmt: skip
def test_windows_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    good = {"digest": "a", "tokens": 10, "nll": 1.0, "nll_bf16": 1, "kl": -1e-9, "agreed": 10}
    Results(tmp_path / "file", KEY).add(Window(**good))  # type: ignore[arg-type]
    assert len(Results(tmp_path / "file", KEY).windows) == 1
    with (tmp_path / "file").open("a") as file:
        file.write(json.dumps(good | change) + "\n")
    with pytest.raises(ValueError, match=r"damaged in line 3: .* must be .*; remove it to start anew"):
        Results(tmp_path / "file", KEY)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    kept = Results(tmp_path / "file", KEY)
    (tmp_path / "file").unlink()
    (tmp_path / "file").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        kept.add(window(1, 1))
    assert caught.value.filename == str(tmp_path / "file")


def test_results_are_kept_by_one_process() -> None:
    model = SimpleNamespace(group=object())
    run = Run(cast(Decoder, model))
    with pytest.raises(ValueError, match="one process only"):
        evaluate_all(run, {"": run}, windows(), {"": cast(Results, None)})


# ---- what a figure depends on


def test_the_key_tells_runs_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model, four = decoder(LocalGroup(2)), scheme("flash-int4")
    base = run_key(four, model, "sum")
    others = [
        run_key(scheme("flash-int5"), model, "sum"),
        run_key(replace(four, reduce=scheme("flash-int5").reduce), model, "sum"),  # a catalog that changed its mind
        run_key(replace(four, drop_attention_percent=50), model, "sum"),
        run_key(replace(four, exempt_tokens=1), model, "sum"),
        run_key(replace(four, sequence_split=0.5), model, "sum"),
        run_key(four, decoder(LocalGroup(3)), "sum"),
        run_key(four, decoder(LocalGroup(2), FP32), "sum"),
        run_key(four, model, "another"),
        run_key(four, model, "sum", windows(2)),
        run_key(four, model, "sum", windows(3)),
        run_key(four, Decoder(CONFIG, random_weights(CONFIG, 7), LocalGroup(2), precision=BF16, heads=HEADS), "sum"),
    ]
    assert base == run_key(four, model, "sum")
    with monkeypatch.context() as patch:  # kernels cut their sums by either
        patch.setattr(torch, "get_num_threads", lambda: 77)
        others.append(run_key(four, model, "sum"))
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
        others.append(run_key(four, model, "sum"))
    assert len({json.dumps(key) for key in (base, *others)}) == 1 + len(others)


def test_the_code_version_covers_what_makes_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole rooms: whatever lies between a scheme and a loss, and nothing that only fetches or times."""
    seen = set(sources())
    assert {f"decoder.{name}" for name in ("attention", "model", "shard", "sync", "weights")} <= seen
    assert {
        f"codecs.{name}"
        for name in ("backend", "numerics", "raw", "grouped", "hybrid", "elements", "layout", "packing")
    } <= seen
    assert {f"core.{name}" for name in ("builtin", "formats", "lookup", "registry", "schedule", "scheme")} <= seen
    assert {
        "allreduce",
        "catalog",
        "families.config",
        "groups.execute",
        "mixed",
        "quality.accuracy",
        "quality.results",
        "quantize",
    } <= seen
    assert not {"bench", "codecs.error", "decoder.spd", "quality.downloads", "quality.wikitext"} & seen
    before, found = code_version(), dict(sources())
    found["decoder.model"] += b" "
    monkeypatch.setattr(results_module, "sources", lambda: found)
    assert code_version() != before


def test_digests_tell_windows_apart() -> None:
    ids = torch.arange(6)
    seen = {digest(x) for x in (ids, ids.reshape(2, 3), ids.reshape(3, 2), ids + 1, ids[:5])}
    assert len(seen) == 5 and all(len(found) == 16 for found in seen)
