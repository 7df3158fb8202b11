"""How far the loss of a compressed prompt reaches into an exact answer.

Tokens of the answer are counted from 1: the first is predicted by the compressed pass itself, from the prompt's last
position; the others by exact passes on the cache that it left. `by_distance` gives an `Accuracy` for each stretch of
them. Legend: W windows, T tokens of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor

from thinwire.reference.quality.accuracy import Accuracy, Progress, Run, check_prompt, check_windows, evaluate_cuts
from thinwire.reference.quality.results import Results

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
    if prompt is None:
        raise ValueError("distances are counted from a prompt: baseline.prompt=None")
    check_prompt(prompt, tokens)
    cuts = stretches(tokens - prompt, edges)
    if not cuts:
        raise ValueError(f"the answer of {tokens - prompt} tokens reaches no edge of {list(edges)}")
    return evaluate_cuts(baseline, runs, windows_WT, cuts, results, progress, together)
