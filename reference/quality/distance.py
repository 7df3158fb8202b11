"""How far the loss of a compressed prompt reaches into an exact answer.

Tokens of the answer are counted from 1: the first is predicted by the compressed pass itself, from the prompt's last
position; the others by exact passes on the cache that it left. `by_distance` gives an `Accuracy` for each stretch of
them. Legend: B windows run at a time, W windows, T tokens of a window, N of an answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from thinwire.reference.quality.accuracy import (
    Accuracy,
    Progress,
    Run,
    check_prompt,
    check_together,
    check_windows,
    compare,
)
from thinwire.reference.quality.results import Results, Window, digest

EDGES = (1, 2, 8, 32, 128, 512)  # the last token of each stretch

Kept = Mapping[tuple[str, int], Results]  # by run and edge


def stretches(answer: int, edges: Sequence[int] = EDGES) -> dict[int, slice]:
    """Which tokens of an answer each edge closes; edges that the answer does not reach are left out."""
    return {stop: slice(start, stop) for start, stop in pairwise((0, *edges)) if stop <= answer}


def by_distance(
    baseline: Run,
    runs: Mapping[str, Run],
    windows_WT: Tensor,
    edges: Sequence[int] = EDGES,
    *,
    results: Kept | None = None,
    progress: Progress | None = None,
    together: int = 1,
) -> dict[str, dict[int, Accuracy]]:
    """The accuracy of each run by edge; every run compresses the baseline's prompt.

    results, progress, together: as `accuracy.evaluate_all` takes them. Raises ValueError for a baseline without a
    prompt, runs with another, windows that are not [W, T] beyond the prompt, and losses that are not numbers.
    """
    check_windows(windows_WT)
    prompt, tokens = baseline.prompt, windows_WT.shape[1]
    if prompt is None or any(run.prompt != prompt for run in runs.values()):
        raise ValueError(f"distances are counted from one prompt: {[prompt, *(run.prompt for run in runs.values())]}")
    check_prompt(prompt, tokens)
    check_together(together)
    cuts = stretches(tokens - prompt, edges)
    if not cuts:
        raise ValueError(f"the answer of {tokens - prompt} tokens reaches no edge of {list(edges)}")
    kept = results or {}
    found = {(run, edge): dict(kept[run, edge].windows) if (run, edge) in kept else {} for run in runs for edge in cuts}
    names_W = [digest(ids_T) for ids_T in windows_WT]
    passes, total = 0, (1 + len(runs)) * len(names_W)
    with torch.no_grad():
        for start in range(0, len(names_W), together):
            names, ids_BT = names_W[start : start + together], windows_WT[start : start + together]
            missing = [run for run in runs if any(name not in found[run, edge] for edge in cuts for name in names)]
            reference_BNV = baseline.log_probs(ids_BT) if missing else None
            for run in missing:
                assert reference_BNV is not None
                scheme_BNV = runs[run].log_probs(ids_BT)
                for row, name in enumerate(names):
                    target_N = ids_BT[row, prompt:]
                    for edge, window in _windows(name, reference_BNV[row], scheme_BNV[row], target_N, cuts, run):
                        if name not in found[run, edge]:
                            found[run, edge][name] = window
                            if (run, edge) in kept:
                                kept[run, edge].add(window)
            passes += (1 + len(runs)) * len(names)
            if progress is not None:
                progress(passes, total)
    return {run: {edge: Accuracy(tuple(found[run, edge][name] for name in names_W)) for edge in cuts} for run in runs}


def _windows(
    name: str, reference_NV: Tensor, scheme_NV: Tensor, target_N: Tensor, cuts: Mapping[int, slice], under: str
) -> Iterator[tuple[int, Window]]:
    for edge, cut in cuts.items():
        yield edge, compare(name, reference_NV[cut], scheme_NV[cut], target_N[cut], under)
