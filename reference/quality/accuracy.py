"""What a scheme costs in accuracy: perplexity, KL divergence and top-1 agreement against the uncompressed run.

`evaluate` runs windows of text through a decoder twice, with the all-reduces of the baseline and with those of a
scheme, a few windows at a time, so few logits are kept. The baseline is what an engine does without compression:
partial sums in the decoder's dtype (bf16 where it matters), added exactly.

A `Run` says what is under the scheme. Engines compress large messages, which are prompts', and leave small ones, which
are decode's: a window's first tokens are then the prompt, under the scheme, and the rest follow one by one as an answer
would, exactly, on the cache that the prompt left. The answer's first token is predicted by the compressed pass itself.

Intervals are two-sided 95 % Student t intervals over windows. Perplexity's own interval says how far the text differs
from window to window; the ratio's is paired, of the difference of a window's two losses, which are of the same text
and so differ by much less. One window gives no interval. The same machine and number of threads give the same bits.

Legend: B windows run at a time, W windows, T tokens of a window, N of them predicted, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
from scipy.special import stdtrit
from torch import Tensor

from thinwire.reference.codecs.backend import for_device
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.core.scheme import OutlierHybrid
from thinwire.reference.decoder.model import LOGIT_CHUNK, Decoder
from thinwire.reference.decoder.sync import Calibrating, ExactSync, Observed, SchemeSync, Sync
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.mixed import AnyScheme, Point, Site, entries, plan_of
from thinwire.reference.quality.results import Results, Window, digest

CONFIDENCE = 0.95

Progress = Callable[[int, int], None]  # passes done, passes in all; the baseline's count too


class Estimate(NamedTuple):
    """A figure and its 95 % interval, None where one window gives none."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What windows say of a scheme. Raises ValueError for none, or windows of different lengths."""

    windows: tuple[Window, ...]

    def __post_init__(self) -> None:
        lengths = {window.tokens for window in self.windows}
        if len(lengths) != 1:
            raise ValueError(f"accuracy needs windows of one length: {len(self.windows)} windows of {sorted(lengths)}")

    @property
    def tokens(self) -> int:
        """Predicted tokens."""
        return sum(window.tokens for window in self.windows)

    @property
    def perplexity(self) -> Estimate:
        """exp of the mean loss under the scheme."""
        return _exp(_mean([window.nll / window.tokens for window in self.windows]))

    @property
    def perplexity_bf16(self) -> Estimate:
        """exp of the mean loss under the baseline."""
        return _exp(_mean([window.nll_bf16 / window.tokens for window in self.windows]))

    @property
    def perplexity_ratio(self) -> Estimate:
        """Scheme over baseline; a paired interval."""
        return _exp(_mean([(window.nll - window.nll_bf16) / window.tokens for window in self.windows]))

    @property
    def kl(self) -> Estimate:
        """Mean KL(baseline || scheme) of a prediction, nats. Near 1e-7 it is rounding."""
        return _within(_mean([window.kl / window.tokens for window in self.windows]), 0.0, math.inf)

    @property
    def top1_agreement(self) -> Estimate:
        """Share of predictions whose likeliest token is the baseline's."""
        return _within(_mean([window.agreed / window.tokens for window in self.windows]), 0.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Figures by name, an interval beside each as [low, high]; None for what is not finite or not known."""
        found: dict[str, Any] = {}
        for name in ("perplexity", "perplexity_bf16", "perplexity_ratio", "kl", "top1_agreement"):
            value, low, high = (_finite(x) for x in getattr(self, name))
            found[name] = value
            found[f"{name}_interval"] = None if low is None or high is None else [low, high]
        return {**found, "tokens": self.tokens, "windows": len(self.windows), "confidence": CONFIDENCE}


def _mean(values: Sequence[float]) -> Estimate:
    """Mean and Student t interval, in doubles; windows are taken to be independent."""
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Estimate(mean, None, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * deviation / math.sqrt(count)
    return Estimate(mean, mean - half, mean + half)


def _exp(estimate: Estimate) -> Estimate:
    def exp(x: float | None) -> float | None:
        return None if x is None else math.inf if x > 700 else math.exp(x)

    return Estimate(
        math.inf if estimate.value > 700 else math.exp(estimate.value), exp(estimate.low), exp(estimate.high)
    )


def _within(estimate: Estimate, least: float, most: float) -> Estimate:
    low, high = estimate.low, estimate.high
    if low is None or high is None:
        return estimate
    return Estimate(estimate.value, max(low, least), min(high, most))


def _finite(x: float | None) -> float | None:
    return x if x is not None and math.isfinite(x) else None


# ---- running it


@dataclass(frozen=True, slots=True)
class Run:
    """A way to run a model: a decoder, what happens at its sync points (None = the decoder's own sync), and the share
    of the tokens in the first part of a split sequence (None = whole).

    prompt: the tokens that run so. Those behind them are an answer: exact, on the cache of the prompt, and only they
    are predicted. None = every token, and all but the first are predicted.
    """

    decoder: Decoder
    sync: Sync | None = None
    split: float | None = None
    prompt: int | None = None

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """Normalised hidden states that the tokens predicted are predicted from, [B, N, D]."""
        if self.prompt is None:
            return self.decoder.prefill(ids_BT, sync=self.sync, split=self.split)[:, :-1]
        cache = self.decoder.new_cache(*ids_BT.shape)
        last_B1D = self.decoder.prefill(ids_BT[:, : self.prompt], cache, self.sync, self.split)[:, -1:]
        if self.prompt == ids_BT.shape[1] - 1:
            return last_B1D
        answer_BTD = self.decoder.forward(ids_BT[:, self.prompt : -1], cache, ExactSync(self.decoder.group))
        return torch.cat((last_B1D, answer_BTD), dim=1)

    def log_probs(self, ids_BT: Tensor) -> Tensor:
        """log p of what may stand at each place predicted, given the tokens before it, [B, N, V]."""
        hidden_BND = self.hidden(ids_BT)
        found = log_probs(self.decoder, hidden_BND.flatten(0, 1))
        return found.view(*hidden_BND.shape[:2], -1)


def log_probs(decoder: Decoder, hidden_ND: Tensor) -> Tensor:
    """log p of the token that follows each of these normalised hidden states, fp32 [N, V]."""
    found_NV = hidden_ND.new_empty(len(hidden_ND), decoder.config.vocab_size)  # a `cat` would hold it twice
    for rows_ND, rows_NV in zip(torch.split(hidden_ND, LOGIT_CHUNK), torch.split(found_NV, LOGIT_CHUNK), strict=True):
        rows_NV.copy_(torch.log_softmax(decoder.logits(rows_ND), -1))
    return found_NV


def baseline_run(decoder: Decoder, prompt: int | None = None) -> Run:
    """What schemes are held against: the decoder's partial sums, added in fp32 and rank order and not rounded.

    prompt: as the schemes' runs have it, so that both round at the same places.
    """
    return Run(decoder, ExactSync(decoder.group), prompt=prompt)


def scheme_run(
    decoder: Decoder,
    scheme: AnyScheme,
    calibrations: Mapping[Point, Calibration] | None = None,
    prompt: int | None = None,
    backend: str = "auto",
) -> Run:
    """A scheme at every sync point, or each point's own, with its dropped points and its split sequence.

    prompt: tokens that it compresses (`Run`); None = all. backend: who runs the codecs, which changes no bit.

    Raises ValueError for a scheme that no model can run under (`none`), or one for another number of layers.
    """
    plan = plan_of(scheme, decoder.config.num_layers)
    sync = SchemeSync(
        decoder.group,
        plan,
        calibrations=calibrations,
        backend=for_device(backend, decoder.device),
        islands=islands(scheme, decoder.group.size),
    )
    return Run(decoder, sync, scheme.sequence_split, prompt)


def islands(scheme: AnyScheme, ranks: int) -> tuple[tuple[int, ...], ...] | None:
    """Two islands of neighbouring ranks for `hierarchical`, None for others and below four ranks, where it is one."""
    if all(entry.collective != "hierarchical" for entry in entries(scheme)) or ranks < 4:
        return None
    return tuple(range(ranks // 2)), tuple(range(ranks // 2, ranks))


def evaluate(
    decoder: Decoder,
    windows_WT: Tensor,
    sync: Sync | None,
    baseline: Run | None = None,
    *,
    split: float | None = None,
    results: Results | None = None,
    progress: Progress | None = None,
) -> Accuracy:
    """The accuracy of a decoder under a sync.

    Args:
        decoder: the model; its precision should be BF16, since fp32 partial sums are no engine's.
        windows_WT: token ids, T > 1; every window starts anew at position 0.
        sync: what happens at its sync points; None = its own.
        baseline: what it is held against; None = `baseline_run(decoder)`. Another decoder may stand here, on the same
            ranks: the model before it was trained to do without sync points, say.
        split: share of the tokens in the first part, `Scheme.sequence_split`.
        results: where windows done are kept and found again; in one process only.
        progress: called after every pass of a window through a model.

    Raises ValueError for windows that are not [W, T > 1], a split that leaves a half of them empty, and for losses that
    are not numbers.
    """
    runs = {"": Run(decoder, sync, split)}
    kept = {} if results is None else {"": results}
    return evaluate_all(baseline or baseline_run(decoder), runs, windows_WT, kept, progress)[""]


def evaluate_all(
    baseline: Run,
    runs: Mapping[str, Run],
    windows_WT: Tensor,
    results: Mapping[str, Results] | None = None,
    progress: Progress | None = None,
    together: int = 1,
) -> dict[str, Accuracy]:
    """`evaluate` for several runs, the baseline run once a window for all of them; errors the same.

    together: windows that go through a model side by side, as a batch. A codec's groups may then reach from one to the
    next, and products sum in another order, so figures depend on it a little. ValueError for runs that do not all
    predict the same tokens.
    """
    kept = {(run, 0): file for run, file in (results or {}).items()}
    found = evaluate_cuts(baseline, runs, windows_WT, {0: slice(None)}, kept, progress, together)
    return {run: by_cut[0] for run, by_cut in found.items()}


def evaluate_cuts(
    baseline: Run,
    runs: Mapping[str, Run],
    windows_WT: Tensor,
    cuts: Mapping[int, slice],
    results: Mapping[tuple[str, int], Results] | None = None,
    progress: Progress | None = None,
    together: int = 1,
) -> dict[str, dict[int, Accuracy]]:
    """`evaluate_all`, apart for each of some cuts of the tokens predicted; results are by run and cut."""
    check_windows(windows_WT)
    for chosen in (baseline, *runs.values()):
        check_prompt(chosen.prompt, windows_WT.shape[1])
        _check_split(chosen.split, chosen.prompt or windows_WT.shape[1])
        if chosen.prompt != baseline.prompt:
            raise ValueError(f"runs must predict the same tokens: prompts of {baseline.prompt} and {chosen.prompt}")
    check_together(together)
    kept = dict(results or {})
    if kept and any(not isinstance(run.decoder.group, LocalGroup) for run in (baseline, *runs.values())):
        raise ValueError("results are kept by one process only: ranks that read a file each could disagree on it")
    names_W = [digest(ids_T) for ids_T in windows_WT]
    found = {key: dict(kept[key].windows) if key in kept else {} for key in product(runs, cuts)}
    # Batches are cut from all windows and run anew where one lacks: figures depend a little on who is beside whom.
    ids = dict(zip(names_W, windows_WT, strict=True))  # a window that comes twice is run once
    work = [
        (names, missing)
        for names in (list(ids)[start : start + together] for start in range(0, len(ids), together))
        if (missing := [run for run in runs if any(name not in found[run, cut] for name in names for cut in cuts)])
    ]
    passes, total = 0, sum((1 + len(missing)) * len(names) for names, missing in work)

    def passed(count: int) -> None:
        nonlocal passes
        passes += count
        if progress is not None:
            progress(passes, total)

    passed(0)
    with torch.no_grad():
        for names, missing in work:
            ids_BT = torch.stack([ids[name] for name in names])
            reference_BNV = baseline.log_probs(ids_BT)
            passed(len(names))
            for run in missing:
                scheme_BNV = runs[run].log_probs(ids_BT)
                lacking = ((row, cut) for row in range(len(names)) for cut in cuts if names[row] not in found[run, cut])
                for row, cut in lacking:
                    name, part, target_N = names[row], cuts[cut], ids_BT[row, -scheme_BNV.shape[1] :]
                    reference_NV, scheme_NV = reference_BNV[row, part], scheme_BNV[row, part]
                    window = compare(name, reference_NV, scheme_NV, target_N[part], run or "this sync")
                    found[run, cut][name] = window
                    if (run, cut) in kept:
                        kept[run, cut].add(window)
                passed(len(names))
    return {run: {cut: Accuracy(tuple(found[run, cut][name] for name in names_W)) for cut in cuts} for run in runs}


def check_together(together: int) -> None:
    """ValueError for a batch of no windows."""
    if together < 1:
        raise ValueError(f"windows that run together must be 1 or more: together={together}")


def check_prompt(prompt: int | None, tokens: int) -> None:
    """ValueError for a prompt that leaves no answer, or is none."""
    if prompt is not None and not 0 < prompt < tokens:
        raise ValueError(f"the prompt must leave a token or more of the window: prompt={prompt}, tokens={tokens}")


def _check_split(split: float | None, tokens: int) -> None:
    """The simulator's refusal (`sim.workload.parts`): what is split at an end would be measured unsplit."""
    if split is not None and not 0 < round(tokens * split) < tokens:
        raise ValueError(f"sequence_split leaves a half empty: sequence_split={split}, input_tokens={tokens}")


def compare(name: str, reference_TV: Tensor, scheme_TV: Tensor, target_T: Tensor, under: str = "this sync") -> Window:
    """The sums of one window from log p under the baseline and under a scheme, and the tokens that came.

    Raises ValueError for sums that are not finite. under: what the model ran under, for the error.
    """
    target_T = target_T.long()
    nll = -scheme_TV.gather(1, target_T[:, None]).double().sum()
    nll_bf16 = -reference_TV.gather(1, target_T[:, None]).double().sum()
    chunks = zip(torch.split(reference_TV, LOGIT_CHUNK), torch.split(scheme_TV, LOGIT_CHUNK), strict=True)
    kl = math.fsum(float((p_TV.exp() * (p_TV - q_TV)).sum(-1).double().sum()) for p_TV, q_TV in chunks)
    agreed = (reference_TV.argmax(-1) == scheme_TV.argmax(-1)).sum()
    try:
        return Window(name, len(target_T), float(nll), float(nll_bf16), kl, int(agreed))
    except ValueError as error:
        raise ValueError(f"the model's output is not finite under {under}: {error}") from None


def check_windows(windows_WT: Tensor) -> None:
    """ValueError for windows that are not [W, T > 1]."""
    if windows_WT.dim() != 2 or windows_WT.shape[0] < 1 or windows_WT.shape[1] < 2:
        raise ValueError(f"windows must be [windows, tokens], two tokens or more: given {list(windows_WT.shape)}")


def calibrate(decoder: Decoder, windows_WT: Tensor, skip: int = 0) -> dict[Point, Calibration]:
    """Calibrations of every sync point for static outlier hybrids, from windows that are not evaluated afterwards.

    skip: first tokens of each window that are left out. The very first carries activations a hundred times the others'
    in some models (docs/decisions/011-accuracy.md), which stretch the scales of all. Raises ValueError where none is
    left.
    """
    if not 0 <= skip < windows_WT.shape[1]:
        raise ValueError(f"skip must leave a token of each window: skip={skip}, tokens={windows_WT.shape[1]}")
    hook = Calibrating()

    def seen(layer: int, site: Site, partials: Sequence[Tensor]) -> None:
        hook(layer, site, [partial_BTD[:, skip:] for partial_BTD in partials])

    with torch.no_grad():
        for ids_T in windows_WT:
            decoder.prefill(ids_T[None], sync=Observed(ExactSync(decoder.group), seen))
    return hook.freeze()


def needs_calibration(scheme: AnyScheme) -> bool:
    """Does a scheme, or any entry of a mixed one, hold a static outlier hybrid?"""
    codecs = [codec for entry in entries(scheme) for codec in (entry.reduce, entry.gather)]
    return any(isinstance(codec, OutlierHybrid) and codec.scale == "static" for codec in codecs)


# ---- windows of a text


@dataclass(frozen=True, slots=True)
class Text:
    """Windows of a text: those evaluated and, of other places, those calibrated on."""

    evaluation_WT: Tensor
    calibration_WT: Tensor


def cut_text(ids: Sequence[int], tokens: int, windows: int, calibration: int = 0) -> Text:
    """Windows of `tokens` ids from all over a text, none overlapping another.

    The text is cut into slots, and a fixed shuffle of them gives evaluation windows from its front and calibration
    windows from its back. So more windows hold the fewer ones, and a longer run goes on where a shorter one ended.
    Raises ValueError where the text is too short.
    """
    slots = len(ids) // tokens if tokens > 1 else 0
    if min(tokens - 1, windows, calibration + 1) < 1 or windows + calibration > slots:
        raise ValueError(
            f"{windows} windows for evaluation and {calibration} for calibration of {tokens} tokens do not fit a text "
            f"of {len(ids)} tokens: each needs 2 tokens or more, evaluation 1 window or more"
        )
    ids_ST = torch.tensor(ids[: slots * tokens]).reshape(slots, tokens)
    order = torch.randperm(slots, generator=torch.Generator().manual_seed(0))
    return Text(ids_ST[order[:windows]], ids_ST[order[slots - calibration :]])
