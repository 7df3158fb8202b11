"""Prompts compressed, answers exact: what is predicted, what runs under the scheme, and how far the loss reaches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from thinwire.reference.catalog import scheme
from thinwire.reference.decoder.model import BF16, FP32, Decoder
from thinwire.reference.decoder.sync import ExactSync, SchemeSync
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.mixed import Site, plan_of
from thinwire.reference.quality.accuracy import Run, baseline_run, check_prompt, evaluate_all, scheme_run
from thinwire.reference.quality.continuation import first_difference, greedy
from thinwire.reference.quality.distance import by_distance, stretches
from thinwire.reference.quality.results import Results, run_key

from .. import tiny
from .stopping import Stop, stopper

TOKENS = 24
PROMPTS = (1, 2, 12, 23)


def decoder(ranks: int = 3, exact: bool = False) -> Decoder:
    config = tiny.config("llama-biases")
    return Decoder(config, tiny.weights(config), LocalGroup(ranks), precision=FP32 if exact else BF16)


def windows(count: int = 3) -> Tensor:
    return tiny.ids(tiny.config("llama"), count, TOKENS)


class Watched:
    """A sync that keeps (position, tokens, ends) of every call."""

    def __init__(self, model: Decoder) -> None:
        self.seen: list[tuple[int, int, bool]] = []
        self._exact = ExactSync(model.group)

    def __call__(self, layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool) -> list[Tensor]:
        self.seen.append((position, partials[0].shape[1], ends))
        return self._exact(layer, site, partials, position, ends)


# ---- what is predicted, and what is compressed


@pytest.mark.parametrize("prompt", PROMPTS)
def test_only_the_answer_is_predicted(prompt: int) -> None:
    """Scoring the prompt, too, would give T - 1 predictions. Exact prompts predict what a whole exact run does."""
    model, ids_WT = decoder(exact=True), windows()
    with torch.no_grad():
        found_WNV = baseline_run(model, prompt).log_probs(ids_WT)
        whole_WTV = baseline_run(model).log_probs(ids_WT)
    assert found_WNV.shape[:2] == (3, TOKENS - prompt) and whole_WTV.shape[1] == TOKENS - 1
    torch.testing.assert_close(found_WNV, whole_WTV[:, prompt - 1 :], rtol=1e-4, atol=1e-4)
    accuracy = evaluate_all(baseline_run(model, prompt), {"": baseline_run(model, prompt)}, ids_WT)[""]
    assert accuracy.tokens == 3 * (TOKENS - prompt) and accuracy.perplexity_ratio.value == 1
    wanted = -whole_WTV[:, prompt - 1 :].gather(2, ids_WT[:, prompt:, None]).mean()
    assert accuracy.perplexity.value == pytest.approx(float(wanted.exp()), rel=1e-4)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_whole_prompt_is_compressed_and_nothing_else(prompt: int) -> None:
    """One pass of the scheme's sync over all of the prompt at every point: nothing exact leaks into it, and no token of
    the answer comes by."""
    model = decoder()
    watched = Watched(model)
    with torch.no_grad():
        Run(model, watched, prompt=prompt).log_probs(windows())
    assert watched.seen == [(0, prompt, True)] * 2 * model.config.num_layers


def test_a_prompt_in_halves_ends_once() -> None:
    """ISO's halves and chunks: the rows at a prompt's end are those of the last part alone."""
    model = decoder()
    watched = Watched(model)
    with torch.no_grad():
        Run(model, watched, 0.5, 12).log_probs(windows())
    points = 2 * model.config.num_layers
    assert watched.seen == [(0, 6, False)] * points + [(6, 6, True)] * points


def test_an_answer_costs_less_than_every_position() -> None:
    """INT2 everywhere moves far more than INT2 in the prompt; the first token suffers most, being the pass's own."""
    model, name = decoder(), "flash-int2"
    ids_WT = windows(8)
    alone = evaluate_all(baseline_run(model, 12), {"": scheme_run(model, scheme(name), prompt=12)}, ids_WT)[""]
    every = evaluate_all(baseline_run(model), {"": scheme_run(model, scheme(name))}, ids_WT)[""]
    assert 0 < alone.kl.value < every.kl.value / 2
    by_edge = by_distance(baseline_run(model, 12), {"": scheme_run(model, scheme(name), prompt=12)}, ids_WT, (1, 12))[
        ""
    ]
    assert by_edge[1].kl.value > 2 * by_edge[12].kl.value


@pytest.mark.parametrize("prompt", (0, TOKENS, -1, TOKENS + 5))
def test_prompts_without_an_answer_are_refused(prompt: int) -> None:
    model = decoder()
    with pytest.raises(ValueError, match=f"prompt={prompt}, tokens={TOKENS}"):
        evaluate_all(baseline_run(model, prompt), {"": baseline_run(model, prompt)}, windows())
    check_prompt(None, TOKENS)


def test_runs_predict_the_same_tokens() -> None:
    model = decoder()
    with pytest.raises(ValueError, match="prompts of 12 and None"):
        evaluate_all(baseline_run(model, 12), {"": baseline_run(model)}, windows())
    with pytest.raises(ValueError, match="together=0"):
        evaluate_all(baseline_run(model), {"": baseline_run(model)}, windows(), together=0)


def test_results_of_prompts_are_their_own(tmp_path: Path) -> None:
    """A file of another prompt or batch is another run's."""
    model, found = decoder(), scheme("flash-int4")
    keys = [run_key(found, model, "sum", None, *more) for more in ((), (12,), (13,), (12, 2))]
    assert len({repr(key) for key in keys}) == 4
    Results(tmp_path / "kept", keys[1])
    with pytest.raises(ValueError, match="prompt was 12, is 13"):
        Results(tmp_path / "kept", keys[2])


def test_a_batch_goes_on_where_it_was(tmp_path: Path) -> None:
    model, ids_WT = decoder(), windows(5)
    runs = {name: scheme_run(model, scheme(name), prompt=12) for name in ("flash-int4+exempt-last-1", "flash-int8")}

    def go(folder: Path, count: int, **options: object) -> object:
        kept = {name: Results(folder / name, run_key(scheme(name), model, "sum", None, 12, 2)) for name in runs}
        return evaluate_all(baseline_run(model, 12), runs, ids_WT[:count], kept, together=2, **options)  # type: ignore[arg-type]

    whole = go(tmp_path / "b", 5)
    with pytest.raises(Stop):
        go(tmp_path / "a", 5, progress=stopper(7))
    for kept in (tmp_path / "a").iterdir():  # killed within a batch: one window of two is there
        kept.write_text("".join(line + "\n" for line in kept.read_text().splitlines()[:4]))
    assert go(tmp_path / "a", 5) == whole


# ---- exempt rows


@pytest.mark.parametrize("count", [1, 4, 11])
def test_exempt_last_rows_are_summed_exactly(count: int) -> None:
    """The last rows of a pass that ends the prompt are the sum but for bf16's rounding of it on its way, the others the
    codec's; a pass that does not end it has none."""
    model, width = decoder(), 36
    generator = torch.Generator().manual_seed(1)
    partials = [torch.randn(2, 11, width, generator=generator).bfloat16() for _ in range(3)]
    exact = torch.stack(partials).float().sum(0)
    scale = torch.stack(partials).float().abs().sum(0)

    def summed(name: str, ends: bool = True) -> Tensor:
        sync = SchemeSync(model.group, plan_of(scheme(name), 3))
        found = sync(0, "mlp", partials, 0, ends)
        assert found is not None
        return found[0].float()

    def wrong(found: Tensor) -> Tensor:
        return ((found - exact).abs() / scale).amax((0, 2))  # of each row

    spared = wrong(summed(f"flash-int3+exempt-last-{count}"))
    assert (spared[11 - count :] < 0.01).all() and (spared[: 11 - count] > 0.05).all()
    assert torch.equal(summed(f"flash-int3+exempt-last-{count}", ends=False), summed("flash-int3", ends=False))
    both = wrong(summed(f"flash-int3+exempt-2+exempt-last-{min(count, 8)}"))
    assert (both[:2] < 0.01).all() and (both[-1:] < 0.01).all() and both[2] > 0.05


def test_exempt_rows_win_the_first_token() -> None:
    model, ids_WT = decoder(), windows(8)
    runs = {name: scheme_run(model, scheme(name), prompt=12) for name in ("flash-int2", "flash-int2+exempt-last-1")}
    found = by_distance(baseline_run(model, 12), runs, ids_WT, (1,))
    assert found["flash-int2+exempt-last-1"][1].kl.value < found["flash-int2"][1].kl.value / 2


# ---- by distance


def test_stretches_cover_the_answer_once() -> None:
    assert stretches(512) == {
        1: slice(0, 1), 2: slice(1, 2), 8: slice(2, 8), 32: slice(8, 32), 128: slice(32, 128), 512: slice(128, 512),
    }  # fmt: skip
    assert list(stretches(31)) == [1, 2, 8] and stretches(1, (2,)) == {}


def test_distances_add_up_to_the_whole(tmp_path: Path) -> None:
    """Every token of the answer is in one stretch; kept results are found again."""
    model, ids_WT, edges = decoder(), windows(4), (1, 3, 12)
    run, baseline = scheme_run(model, scheme("flash-int3"), prompt=12), baseline_run(model, 12)
    whole = evaluate_all(baseline, {"": run}, ids_WT)[""]
    kept = {
        ("", edge): Results(
            tmp_path / str(edge), {**run_key(scheme("flash-int3"), model, "sum", None, 12), "edge": edge}
        )
        for edge in edges
    }
    found = by_distance(baseline, {"": run}, ids_WT, edges, results=kept)[""]
    for name in ("nll", "nll_bf16", "kl"):
        parts = sum(getattr(window, name) for accuracy in found.values() for window in accuracy.windows)
        assert parts == pytest.approx(sum(getattr(window, name) for window in whole.windows), rel=1e-9)
    assert sum(accuracy.tokens for accuracy in found.values()) == whole.tokens
    broken = Run(model, None, prompt=12)
    assert by_distance(baseline, {"": broken}, ids_WT, edges, results=kept)[""] == found  # nothing was run


def test_distances_need_one_prompt() -> None:
    model = decoder()
    for baseline, run, edges in (
        (None, 12, (1,)), (12, 13, (1,)), (12, 12, (13,)), (24, 24, (1,)),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"prompt|edge"):
            by_distance(baseline_run(model, baseline), {"": baseline_run(model, run)}, windows(), edges)


# ---- greedy answers


def test_greedy_is_the_decoders_own() -> None:
    """An exact prompt gives what `Decoder.generate` gives; a compressed one differs in the prompt's pass alone."""
    model, ids_WT = decoder(), windows()
    exact = greedy(baseline_run(model), ids_WT, 6)
    assert torch.equal(exact, model.generate(ids_WT, 6, sync=ExactSync(model.group)))
    watched = Watched(model)
    assert torch.equal(greedy(Run(model, watched), ids_WT, 6), exact)
    assert set(watched.seen) == {(0, TOKENS, True)}
    with pytest.raises(ValueError, match="tokens=0"):
        greedy(baseline_run(model), ids_WT, 0)


def test_the_first_difference_counts_from_one() -> None:
    one, other = torch.tensor([[1, 2, 3], [1, 2, 3], [1, 2, 3]]), torch.tensor([[9, 2, 3], [1, 2, 9], [1, 2, 3]])
    assert first_difference(one, other) == [1, 3, 4]
    with pytest.raises(ValueError, match="equally many and long"):
        first_difference(one, other[:, :2])
