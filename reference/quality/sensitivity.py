"""What a choice costs a model at one sync point alone, everything else exact.

The residual stream of a window's exact run is kept at every layer's entry, so a choice at a point of layer l runs the
layers from l on and no others. Its loss is what `accuracy.compare` says of the next-token distributions behind it. The
baseline is `accuracy`'s: partial sums in the decoder's dtype, added in fp32 and not rounded.

The head costs more than a layer, so only every `stride`-th position is predicted from. Window number w starts at
position w mod stride: after `stride` windows every position has had its turn, the very first among them, which carries
activations a hundred times the others' in some models (docs/decisions/011-accuracy.md).

With a prompt, a choice is taken at its point in the prompt's pass alone, and what is predicted is the exact answer
behind it (`accuracy.Run`): what a deployment pays whose small messages travel uncompressed.

Legend: B windows run at a time, W windows, T tokens of a window, P positions predicted from, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.codecs.backend import for_device
from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.decoder.model import Decoder, Stream
from thinwire.reference.decoder.sync import ExactSync, SchemeSync, Sync
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.mixed import DROP, MixedScheme, Point, Site, points
from thinwire.reference.quality.accuracy import (
    Progress,
    check_prompt,
    check_together,
    check_windows,
    compare,
    islands,
    log_probs,
    needs_calibration,
)
from thinwire.reference.quality.results import Lines, digest, model_key

KIND = "thinwire sensitivity 1"

Choices = Mapping[str, Scheme | None]  # by name; None = the sync point is dropped, at attention only


@dataclass(frozen=True, slots=True)
class PointLoss:
    """What each choice costs at one sync point, in one window.

    digest: of the window's token ids. first: its first position predicted from (with a prompt, the prompt's tokens);
    predictions: how many. kl, nll: sums
    over the predictions by choice, nats: KL(exact || changed), and the text's loss minus that of the exact run.
    """

    digest: str
    first: int
    layer: int
    site: Site
    predictions: int
    kl: dict[str, float]
    nll: dict[str, float]


def parse_choices(names: Sequence[str], config: ModelConfig) -> dict[str, Scheme | None]:
    """Choices by the names given: `drop`, or what `catalog.scheme` knows.

    Raises ValueError for none, one given twice, and what no sync point of this model can take alone.
    """
    if not names:
        raise ValueError("choices must name a scheme or more, or drop: none given")
    found = dict[str, Scheme | None]()
    for name in names:
        if name in found:
            raise ValueError(f"choice {name!r} is given twice")
        if name == DROP and any(layer.norms != "before" for layer in config.layers):
            raise ValueError(
                f"{config.name} norms what its attention gives, so no point can be dropped: leave out {DROP!r}"
            )
        found[name] = None if name == DROP else _at_one_point(find_scheme(name))
    return found


def _at_one_point(scheme: Scheme) -> Scheme:
    """The scheme, where a sync point can take it."""
    MixedScheme(f"choice {scheme.name}", (scheme,), (scheme,))  # says what no sync point takes
    if needs_calibration(scheme):
        raise ValueError(f"choice {scheme.name!r} has static scales, which need a calibration; give a dynamic one")
    return scheme


class At:
    """A sync at one point, and another at all others."""

    def __init__(self, point: Point, here: Sync, elsewhere: Sync) -> None:
        self._point, self._here, self._elsewhere = point, here, elsewhere

    def __call__(
        self, layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool
    ) -> list[Tensor] | None:
        """What the one that is asked gives."""
        chosen = self._here if (layer, site) == self._point else self._elsewhere
        return chosen(layer, site, partials, position, ends)


def key(decoder: Decoder, weights: str, stride: int, prompt: int | None = None, together: int = 1) -> dict[str, Any]:
    """What a line depends on beside its token ids. weights: checksum of the model.

    Choices are not among it, so that a run with more of them goes on from one with fewer: what their names mean is
    part of the code.
    """
    return {
        **model_key(decoder, weights, "quality.sensitivity"),
        "stride": stride,
        "prompt": prompt,
        "together": together,
    }


def keep(path: Path, key: Mapping[str, Any]) -> Lines[PointLoss]:
    """The file of points done, lines for a window and a point; ValueError as `Lines` says."""
    return Lines(path, KIND, key, PointLoss)


def measure(
    decoder: Decoder,
    windows_WT: Tensor,
    choices: Choices,
    *,
    stride: int = 1,
    kept: Lines[PointLoss] | None = None,
    progress: Progress | None = None,
) -> Iterator[list[PointLoss]]:
    """The losses of each window as it is finished: of every sync point at which something was tried, in order.

    Args:
        decoder: the model, all ranks in this process; its precision should be BF16, since no engine's is another.
        windows_WT: token ids, T > 1; every window starts anew at position 0.
        choices: what is tried at each point; dropped points only at attention.
        stride: every how many positions are predicted from, 1 .. T - 1.
        kept: where points done are kept and found again.
        progress: called after every point: points done, points in all.

    Raises ValueError for windows that are not [W, T > 1], a stride out of range, ranks elsewhere, and losses that are
    not numbers.
    """
    check_windows(windows_WT)
    if not 1 <= stride < windows_WT.shape[1]:
        raise ValueError(f"stride must lie in 1..{windows_WT.shape[1] - 1}, the window's predictions: stride={stride}")
    if not isinstance(decoder.group, LocalGroup):
        raise ValueError(f"all ranks must be in this process: given a {type(decoder.group).__name__}")
    tried = {
        point: [name for name in choices if _allowed(choices[name], point)]
        for point in points(decoder.config.num_layers)
    }
    done = dict[tuple[Any, ...], PointLoss]()
    for loss in kept.found if kept else ():
        _merge(done, loss)
    finished, total = 0, len(tried) * len(windows_WT)
    for number, ids_T in enumerate(windows_WT):
        name, first = digest(ids_T), number % stride
        missing = dict[Point, list[str]]()
        for point, names in tried.items():
            found = done.get((name, first, *point))
            if left := [choice for choice in names if found is None or choice not in found.kl]:
                missing[point] = left
        finished += len(tried) - len(missing)
        if progress is not None:
            progress(finished, total)
        for loss in _losses(decoder, ids_T, first, stride, choices, missing):
            _merge(done, loss)
            finished += 1
            if kept is not None:
                kept.add(loss)
            if progress is not None:
                progress(finished, total)
        yield [done[(name, first, *point)] for point, names in tried.items() if names]


@torch.no_grad()
def measure_prompts(
    decoder: Decoder,
    windows_WT: Tensor,
    choices: Choices,
    prompt: int,
    *,
    together: int = 1,
    kept: Lines[PointLoss] | None = None,
    progress: Progress | None = None,
) -> Iterator[list[PointLoss]]:
    """`measure`, of prompts of so many tokens: the losses of a batch of `together` windows as it is finished.

    Raises ValueError as `measure`, and for a prompt without an answer.
    """
    check_windows(windows_WT)
    check_prompt(prompt, windows_WT.shape[1])
    check_together(together)
    if not isinstance(decoder.group, LocalGroup):
        raise ValueError(f"all ranks must be in this process: given a {type(decoder.group).__name__}")
    done = dict[tuple[Any, ...], PointLoss]()
    for loss in kept.found if kept else ():
        _merge(done, loss)
    every, exact = points(decoder.config.num_layers), ExactSync(decoder.group)
    finished, total = 0, len(every) * len(windows_WT)
    for ids_BT in torch.split(windows_WT, together):
        names = [digest(ids_T) for ids_T in ids_BT]
        passes = reference_BPV = None
        for point in every:
            layer, site = point
            fresh = {name: (dict[str, float](), dict[str, float]()) for name in names}
            for choice, scheme in choices.items():
                before = [done.get((name, prompt, layer, site)) for name in names]
                if not _allowed(scheme, point) or all(loss is not None and choice in loss.kl for loss in before):
                    continue
                if passes is None:
                    passes = _Passes(decoder, ids_BT, prompt)
                    reference_BPV = passes.from_layer(decoder.config.num_layers, exact)
                changed_BPV = passes.from_layer(layer, _at(decoder, point, scheme, exact))
                assert reference_BPV is not None
                for row, name in enumerate(names):
                    under = f"{choice} at the {site} of layer {layer}"
                    found = compare(name, reference_BPV[row], changed_BPV[row], ids_BT[row, prompt:], under)
                    fresh[name][0][choice], fresh[name][1][choice] = found.kl, found.nll - found.nll_bf16
            for name, (kl, nll) in fresh.items():
                if kl:
                    loss = PointLoss(name, prompt, layer, site, ids_BT.shape[1] - prompt, kl, nll)
                    _merge(done, loss)
                    if kept is not None:
                        kept.add(loss)
            finished += len(names)
            if progress is not None:
                progress(finished, total)
        yield [done[at] for name in names for point in every if (at := (name, prompt, *point)) in done]


class _Passes:
    """The exact passes over a prompt and its answer, kept at every layer's entry, so that a change in a layer of the
    prompt's pass runs that layer and those behind it alone: those before it and their caches stay as they are.
    """

    def __init__(self, decoder: Decoder, ids_BT: Tensor, prompt: int) -> None:
        self._decoder, self._prompt = decoder, prompt
        self._cache = decoder.new_cache(*ids_BT.shape)
        exact = ExactSync(decoder.group)
        self._entries: list[list[Stream]] = []
        for start, part_BT in ((0, ids_BT[:, :prompt]), (prompt, ids_BT[:, prompt:-1])):
            self._cache.length = start
            streams = [decoder.embed(part_BT)] if part_BT.numel() else []
            for layer in range(decoder.config.num_layers) if streams else ():
                streams.append(decoder.block(layer, streams[-1], start, self._cache, exact))
            self._entries.append(streams)

    def from_layer(self, first: int, sync: Sync) -> Tensor:
        """log p of the answer, [B, P, V], with the prompt's layers from `first` on under `sync`; the answer exact."""
        decoder, exact, hidden = self._decoder, ExactSync(self._decoder.group), list[Tensor]()
        for start, streams, chosen in ((0, self._entries[0], sync), (self._prompt, self._entries[1], exact)):
            if not streams:
                continue
            stream, self._cache.length = streams[first], start
            for layer in range(first, decoder.config.num_layers):
                stream = decoder.block(layer, stream, start, self._cache, chosen)
            hidden.append(decoder.hidden(stream)[:, slice(-1, None) if start == 0 else slice(None)])
        hidden_BPD = torch.cat(hidden, dim=1)
        return log_probs(decoder, hidden_BPD.flatten(0, 1)).view(*hidden_BPD.shape[:2], -1)


def _at(decoder: Decoder, point: Point, scheme: Scheme | None, exact: Sync) -> At:
    """A choice at one point, exact sums at the others."""
    where = None if scheme is None else islands(scheme, decoder.group.size)
    backend = for_device("auto", decoder.device)
    return At(point, SchemeSync(decoder.group, {point: scheme}, backend=backend, islands=where), exact)


def _allowed(scheme: Scheme | None, point: Point) -> bool:
    """May a choice be tried at a point? Dropped ones are, at attention."""
    return scheme is not None or point[1] == "attention"


def _merge(done: dict[tuple[Any, ...], PointLoss], loss: PointLoss) -> None:
    """Add a point's choices to those of the same window and point."""
    at = (loss.digest, loss.first, loss.layer, loss.site)
    before = done.get(at, loss)
    done[at] = replace(loss, kl={**before.kl, **loss.kl}, nll={**before.nll, **loss.nll})


@torch.no_grad()
def _losses(
    decoder: Decoder, ids_T: Tensor, first: int, stride: int, choices: Choices, missing: Mapping[Point, Sequence[str]]
) -> Iterator[PointLoss]:
    """The losses of one window at some points under some choices; nothing runs where none is missing."""
    if not missing:
        return
    name, layers, exact = digest(ids_T), decoder.config.num_layers, ExactSync(decoder.group)
    entries = [decoder.embed(ids_T[None])]  # of each layer, and what leaves the last
    for layer in range(layers):
        entries.append(decoder.block(layer, entries[-1], sync=exact))
    chosen = slice(first, len(ids_T) - 1, stride)
    target_P = ids_T[1:][chosen]

    def predicted(stream: Stream) -> Tensor:
        return log_probs(decoder, decoder.hidden(stream)[0, chosen])

    reference_PV = predicted(entries[-1])
    for point, names in missing.items():
        layer, site = point
        kl, nll = dict[str, float](), dict[str, float]()
        for choice in names:
            sync = _at(decoder, point, choices[choice], exact)
            stream = entries[layer]
            for later in range(layer, layers):
                stream = decoder.block(later, stream, sync=sync)
            under = f"{choice} at the {site} of layer {layer}"
            found = compare(name, reference_PV, predicted(stream), target_P, under)
            kl[choice], nll[choice] = found.kl, found.nll - found.nll_bf16
        yield PointLoss(name, first, layer, site, len(target_P), kl, nll)
