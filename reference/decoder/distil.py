"""Block-to-block distillation: a block trained to give, without its attention sync point, what it gave with it.

From SPD (arXiv 2502.20727) comes that blocks are trained one by one against the block they were. Loss, optimiser,
budgets and which stream enters the block are ours; docs/decisions/018-sync-point-drop.md has what decided them.

Legend: W windows, T tokens of a window, D width; B the windows of one step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from thinwire.reference.core.architecture import FeedForward
from thinwire.reference.core.architecture import Layer as Block
from thinwire.reference.core.mixers import Attention
from thinwire.reference.decoder.model import Decoder, Layer, Stream
from thinwire.reference.decoder.shard import LayerPart
from thinwire.reference.decoder.sync import ExactSync, Sync
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.mixed import Site

Progress = Callable[[int, int], None]  # steps of the work done, steps in all


class Dropping:
    """A sync without the attention sync points of some layers; all others go to the sync inside."""

    def __init__(self, sync: Sync, layers: Iterable[int]) -> None:
        self._sync, self._layers = sync, frozenset(layers)

    def __call__(
        self, layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool
    ) -> list[Tensor] | None:
        """None where the point is dropped."""
        if site == "attention" and layer in self._layers:
            return None
        return self._sync(layer, site, partials, position, ends)


@dataclass(frozen=True, slots=True)
class Training:
    """A budget. steps, each of `batch` windows; learning_rate: of Adam, falling to 0 as a cosine does; seed: of the
    order of windows. Raises ValueError for what is not positive (seed: negative)."""

    steps: int = 128
    batch: int = 1
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or not 0 < self.learning_rate < math.inf or self.seed < 0:
            raise ValueError(f"training needs positive steps, batch and learning rate, and a seed >= 0: {self}")


@dataclass(frozen=True, slots=True)
class Distilled:
    """What training did for a block whose sync point is dropped.

    before, after: how far the stream behind it strays (`straying`) from the original model's, over the windows trained
    on, with the blocks before it dropped and trained as they are.
    """

    layer: int
    before: float
    after: float


def distil(
    decoder: Decoder,
    windows_WT: Tensor,
    layers: Collection[int],
    dropped: Collection[int] | None = None,
    training: Training | None = None,
    progress: Progress | None = None,
) -> tuple[Decoder, tuple[Distilled, ...]]:
    """A decoder whose `layers` are trained to do without their attention sync points; the one given stays as it is.

    Args:
        decoder: of pre-norm blocks, all ranks in this process.
        windows_WT: token ids, T > 1, of text that is not evaluated afterwards. Three streams are held for all of them,
            12 W T D bytes.
        layers: those trained. Only their matrices (and biases, where there are any) change, on each rank its own: the
            model keeps its shapes. Norms stay: matrices behind them can learn what their weights could, and training
            them too won nothing.
        dropped: all layers that will do without, those trained among them; None = these alone.
        training: the budget of each block; None = `Training()`.
        progress: called after every step.

    Blocks are trained first to last. What enters one is the stream of the model as it will run, its earlier blocks
    dropped and trained; what it shall give is the stream of the original model. So a block also learns to undo what
    earlier ones left: with 21 of 30 blocks dropped and trained, the loss grew by 0.106 nats a token, and by 0.131 where
    each was trained on the original's stream (SmolLM2-135M, 64 steps). The price is that a block is trained for one
    choice of dropped layers. A block that training does not bring nearer stays as it was.

    Masters are fp32 (fp64 where compute is) and rounded to the decoder's precision in every step, so what is trained is
    what will run. Same machine, threads and seed: same bits. Raises ValueError as `check` does, and for a layer that is
    trained and not dropped.
    """
    dropping = frozenset(layers if dropped is None else dropped)
    check(decoder, windows_WT, dropping | set(layers))
    if not set(layers) <= dropping:
        raise ValueError(f"layers trained must be dropped: layers={sorted(layers)}, dropped={sorted(dropping)}")
    budget, report = training or Training(), list[Distilled]()
    exact, drop = ExactSync(decoder.group), Dropping(ExactSync(decoder.group), dropping)
    student = decoder
    with torch.no_grad():
        inputs_WTD = original_WTD = _embedded(decoder, windows_WT)
        for layer in range(max(layers, default=-1) + 1):
            original_WTD = _block(decoder, layer, original_WTD, exact)
            output_WTD = _block(student, layer, inputs_WTD, drop)
            if layer in layers:
                passed = len(report) * budget.steps

                def tell(step: int, passed: int = passed) -> None:
                    if progress is not None:
                        progress(passed + step, len(set(layers)) * budget.steps)

                trained = student.replaced({layer: _train(student, layer, inputs_WTD, original_WTD, budget, tell)})
                trained_WTD = _block(trained, layer, inputs_WTD, drop)
                before, after = float(straying(output_WTD, original_WTD)), float(straying(trained_WTD, original_WTD))
                if after < before:
                    student, output_WTD = trained, trained_WTD
                report.append(Distilled(layer, before, min(before, after)))
            inputs_WTD = output_WTD
    return student, tuple(report)


def check(decoder: Decoder, windows_WT: Tensor, layers: Collection[int] = ()) -> None:
    """What sync-point drop asks for.

    Raises ValueError for ranks in other processes, blocks with post-norms (the norm of a partial sum is no part of the
    norm of the sum), blocks that are not plain attention followed by a plain MLP, windows that are not [W, T > 1] and a
    layer that is none.
    """
    config = decoder.config
    if not isinstance(decoder.group, LocalGroup):
        raise ValueError(f"sync-point drop needs all ranks in one process: given a {type(decoder.group).__name__}")
    if any(layer.norms != "before" for layer in config.layers):
        raise ValueError(f"{config.name} norms what attention and MLP give: its sync points cannot be dropped")
    if not all(_is_plain(layer) for layer in config.layers):
        raise ValueError(
            f"{config.name} has blocks that are not attention and then an MLP: none is trained to drop sums"
        )
    if windows_WT.dim() != 2 or windows_WT.shape[0] < 1 or windows_WT.shape[1] < 2:
        raise ValueError(f"windows must be [windows, tokens], two tokens or more: given {list(windows_WT.shape)}")
    if not set(layers) <= set(range(config.num_layers)):
        raise ValueError(f"layers must lie in 0..{config.num_layers - 1}: layers={sorted(layers)}")


def _is_plain(block: Block) -> bool:
    mixer = block.mixer
    simple = isinstance(mixer, Attention) and not (mixer.gated or mixer.sinks or mixer.softcap or mixer.keys_are_values)
    return simple and isinstance(block.feed, FeedForward) and not block.parallel


def straying(output_BTD: Tensor, target_BTD: Tensor) -> Tensor:
    """Mean over tokens of the squared error over the target's square.

    Relative, token by token: whatever reads the stream norms each token first, and a sentence's first token, whose
    activations are a hundred times the others' in some models, would otherwise be all that counts.
    """
    error_BT = (output_BTD - target_BTD).square().mean(-1)
    size_BT = target_BTD.square().mean(-1)
    return (error_BT / size_BT.clamp(min=torch.finfo(size_BT.dtype).tiny)).mean()


def streams(decoder: Decoder, windows_WT: Tensor, layers: Collection[int]) -> Iterator[tuple[int, Tensor]]:
    """(layer, stream before it [W, T, D]) of each of `layers` in order; every sum is kept and exact."""
    exact = ExactSync(decoder.group)
    with torch.no_grad():
        stream_WTD = _embedded(decoder, windows_WT)
    for layer in range(max(layers, default=-1) + 1):
        if layer in layers:
            yield layer, stream_WTD
        with torch.no_grad():  # not around the yield, where the caller may want a graph
            stream_WTD = _block(decoder, layer, stream_WTD, exact)


def _embedded(decoder: Decoder, windows_WT: Tensor) -> Tensor:
    return torch.cat([decoder.embed(ids_T[None]).agreed[0] for ids_T in windows_WT])


def _block(decoder: Decoder, layer: int, inputs_WTD: Tensor, sync: Sync) -> Tensor:
    """The streams behind a block, one window at a time."""
    ranks = decoder.group.size
    found = [decoder.block(layer, Stream([x_TD[None]] * ranks), sync=sync).agreed[0] for x_TD in inputs_WTD]
    return torch.cat(found)


def _train(
    decoder: Decoder,
    layer: int,
    inputs_WTD: Tensor,
    targets_WTD: Tensor,
    budget: Training,
    tell: Callable[[int], None],
) -> Layer:
    """The layer, trained."""
    precision, masters = decoder.precision, list[Tensor]()

    def master(tensor: Tensor) -> Tensor:
        masters.append(tensor.detach().to(precision.residual, copy=True).requires_grad_())
        return masters[-1]

    def rounded(tensor: Tensor) -> Tensor:
        return tensor.to(precision.compute)

    wide = _mapped(decoder.layers[layer], master)
    dropping = Dropping(ExactSync(decoder.group), (layer,))
    optimizer = torch.optim.Adam(masters, lr=budget.learning_rate)
    for step, chosen_B in enumerate(_batches(len(inputs_WTD), budget)):
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate * (1 + math.cos(math.pi * step / budget.steps)) / 2
        with torch.enable_grad():
            student = decoder.replaced({layer: _mapped(wide, rounded)})
            stream = Stream([inputs_WTD[chosen_B]] * decoder.group.size)
            loss = straying(student.block(layer, stream, sync=dropping).agreed[0], targets_WTD[chosen_B])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        tell(step + 1)
    return _mapped(wide, lambda tensor: rounded(tensor.detach()))


def _batches(windows: int, budget: Training) -> tuple[Tensor, ...]:
    """Windows of each step: a fresh shuffle each time all have been used."""
    generator = torch.Generator().manual_seed(budget.seed)
    needed = budget.steps * budget.batch
    shuffles = [torch.randperm(windows, generator=generator) for _ in range(math.ceil(needed / windows))]
    return torch.split(torch.cat(shuffles)[:needed], budget.batch)


def _mapped(layer: Layer, change: Callable[[Tensor], Tensor]) -> Layer:
    """A layer with its matrices and biases changed, norms as they are."""

    def maybe(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else change(tensor)

    def mapped(half: Any) -> Any:
        kept = ("query_norm", "key_norm")
        tensors = {field.name: getattr(half, field.name) for field in fields(half)}
        changed = {name: tensor if name in kept else maybe(tensor) for name, tensor in tensors.items()}
        return replace(half, **changed)

    parts = [LayerPart(mapped(part.mixer), mapped(part.feed)) for part in layer.parts]
    return replace(layer, output_bias_D=maybe(layer.output_bias_D), down_bias_D=maybe(layer.down_bias_D), parts=parts)
