"""Sync-Point Drop: which attention all-reduces a model can do without, and a model that does without them.

The idea is that of SPD (arXiv 2502.20727). A block whose sum behind the attention is dropped goes on with each rank's
own part of it; the sum behind its MLP brings the ranks together again. Some blocks hardly notice. `sensitivity` finds
them on calibration text; others are trained until they give nearly what they gave (`reference.decoder.distil`), the
worst with their heads dealt out anew before that (`reference.decoder.head_groups`). `prepare` does all of it:

    ready = prepare(decoder, weights, calibration_WT, drop_percent=70)
    evaluate(ready.decoder, evaluation_WT, SchemeSync(decoder.group, ready.plan), baseline_run(decoder))

Everything here needs all ranks in one process and pre-norm blocks. Decoders given stay as they are.

Legend: W windows, T tokens of a window.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.decoder.distil import Distilled, Dropping, Progress, Training, check, distil, streams
from thinwire.reference.decoder.head_groups import Groups, group_heads
from thinwire.reference.decoder.model import Decoder
from thinwire.reference.decoder.sync import ExactSync
from thinwire.reference.mixed import Point, points

Method = Literal["progressive", "alone"]
METHODS: tuple[Method, ...] = ("progressive", "alone")
Kind = Literal["ISB", "SB", "ESB"]  # insensitive, sensitive, extremely sensitive

# Nats a token. SPD has two such thresholds, whose values we have not found. On SmolLM2-135M five of 30 blocks are then
# ISB, whose training would win little, and the first two ESB: regrouping halved what training left of block 0.
# docs/decisions/018-sync-point-drop.md has the measurements.
SLIGHT, SEVERE = 0.005, 0.3
SENSITIVITY_WINDOWS = 8  # of 512 tokens, for which sensitivity takes as long as 250 forward runs of the model
GROUPING_WINDOWS = 2


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What text says of every block's attention sync point.

    method: as `sensitivity` takes it. increases: nats a token by layer. loss: nats a token with every sum kept.
    tokens: predicted.
    """

    method: Method
    increases: tuple[float, ...]
    loss: float
    tokens: int

    def least(self, count: int) -> tuple[int, ...]:
        """The `count` least sensitive layers, least first; of equals the later one. ValueError for other counts."""
        if not 0 <= count <= len(self.increases):
            raise ValueError(f"count must lie in 0..{len(self.increases)}: count={count}")
        order = sorted(range(len(self.increases)), key=lambda layer: (self.increases[layer], -layer))
        return tuple(order[:count])

    def kinds(self, slight: float = SLIGHT, severe: float = SEVERE) -> tuple[Kind, ...]:
        """Each block's class: ISB up to `slight` nats a token, SB up to `severe`, ESB above. ValueError if crossed."""
        if not slight <= severe:
            raise ValueError(f"slight must not exceed severe: slight={slight}, severe={severe}")
        return tuple("ISB" if x <= slight else "SB" if x <= severe else "ESB" for x in self.increases)


def sensitivity(
    decoder: Decoder, windows_WT: Tensor, method: Method = "progressive", progress: Progress | None = None
) -> Sensitivity:
    """How much the loss grows by each block's attention sync point.

    Args:
        decoder: of pre-norm blocks, all ranks in this process; sums that are kept are exact.
        windows_WT: token ids, T > 1, for calibration.
        method: what a block is judged in. `progressive` drops from the last block backwards and gives block i the
            difference that it makes when all behind it are dropped already (SPD's; there of perplexities, here of
            their logarithms, which does not count the same harm more behind a worse model). `alone` drops no other
            block. Measured, `alone` chose no worse where up to half the blocks are dropped, `progressive` beyond.
        progress: called after every run.

    A run starts at the first block it drops, from the stream of the model as it is; so all of them cost half as much
    as whole runs would. Raises ValueError as `check` does, and for another method.
    """
    check(decoder, windows_WT)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}: method={method!r}")
    layers, exact = decoder.config.num_layers, ExactSync(decoder.group)
    losses: list[list[float]] = [[] for _ in range(layers + 1)]  # by the first block dropped; the last drops none
    with torch.no_grad():
        for window, ids_T in enumerate(windows_WT):
            ids_BT = ids_T[None]
            before = [decoder.embed(ids_BT)]
            for layer in range(layers):
                before.append(decoder.block(layer, before[-1], sync=exact))
            for first, stream in enumerate(before):
                dropping = Dropping(exact, range(first, layers) if method == "progressive" else (first,))
                for layer in range(first, layers):
                    stream = decoder.block(layer, stream, sync=dropping)
                losses[first].append(float(decoder.losses(decoder.hidden(stream), ids_BT).double().sum()))
                if progress is not None:
                    progress(window * len(before) + first + 1, len(windows_WT) * len(before))
    tokens = windows_WT.numel() - len(windows_WT)
    means = [math.fsum(of_windows) / tokens for of_windows in losses]
    others = means[1:] if method == "progressive" else [means[-1]] * layers
    increases = tuple(mean - other for mean, other in zip(means[:-1], others, strict=True))
    return Sensitivity(method, increases, means[-1], tokens)


def dropped_count(num_layers: int, percent: float) -> int:
    """Blocks that a percentage means, half a block dropped, as in `Scheme.kept_attention`. ValueError beyond 0..100."""
    if not 0 <= percent <= 100:
        raise ValueError(f"drop_percent must lie in 0..100: drop_percent={percent}")
    return math.floor(num_layers * percent / 100 + 0.5)


def random_layers(num_layers: int, count: int, seed: int) -> tuple[int, ...]:
    """`count` layers drawn alike, for comparison; of one seed, more layers hold the fewer. ValueError for too many."""
    if not 0 <= count <= num_layers:
        raise ValueError(f"count must lie in 0..{num_layers}: count={count}")
    drawn = torch.randperm(num_layers, generator=torch.Generator().manual_seed(seed))
    return tuple(drawn[:count].tolist())


def drop_plan(num_layers: int, layers: Collection[int], scheme: Scheme | str = "bf16") -> dict[Point, Scheme | None]:
    """For `SchemeSync`: `scheme` at every sync point but the attention's of `layers`, which are dropped.

    Raises ValueError for a layer that is none, or a scheme that drops points itself.
    """
    found = find_scheme(scheme) if isinstance(scheme, str) else scheme
    if found.drop_attention_percent:
        raise ValueError(f"scheme {found.name!r} drops sync points itself: give one that keeps all")
    if not set(layers) <= set(range(num_layers)):
        raise ValueError(f"layers must lie in 0..{num_layers - 1}: layers={sorted(layers)}")
    return {
        (layer, site): None if site == "attention" and layer in layers else found for layer, site in points(num_layers)
    }


def regroup(decoder: Decoder, weights: Mapping[str, Tensor], heads: Mapping[int, Sequence[Sequence[int]]]) -> Decoder:
    """The decoder with the query heads of some layers dealt out otherwise: the same function under exact sums.

    weights: those that the decoder was made of; its layers named are read from them again.
    """
    return decoder.replaced({layer: decoder.load(layer, weights, groups) for layer, groups in heads.items()})


# ---- all of it


@dataclass(frozen=True, slots=True)
class Block:
    """What became of a block. increase: its sensitivity, nats a token. heads: of each rank, None where they lie as they
    did. distilled: what training did, None where it was not trained."""

    layer: int
    increase: float
    kind: Kind
    dropped: bool
    heads: Groups | None = None
    distilled: Distilled | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that does without some attention sync points.

    decoder: with trained blocks. plan: for `SchemeSync`. blocks: the report, by layer.
    """

    decoder: Decoder
    plan: dict[Point, Scheme | None]
    blocks: tuple[Block, ...]

    @property
    def dropped(self) -> tuple[int, ...]:
        """Layers without their attention sync point, in order."""
        return tuple(block.layer for block in self.blocks if block.dropped)


def prepare(
    decoder: Decoder,
    weights: Mapping[str, Tensor],
    windows_WT: Tensor,
    drop_percent: float,
    *,
    found: Sensitivity | None = None,
    slight: float = SLIGHT,
    severe: float = SEVERE,
    scheme: Scheme | str = "bf16",
    training: Training | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Drop the least sensitive blocks' attention sync points, and train where that costs.

    Args:
        decoder: of pre-norm blocks, all ranks in this process.
        weights: those it was made of, for blocks whose heads are dealt out anew.
        windows_WT: token ids, T > 1, of text that is not evaluated afterwards.
        drop_percent: of the blocks.
        found: their sensitivity; None = `progressive`, on the first windows (SENSITIVITY_WINDOWS).
        slight, severe: `Sensitivity.kinds`. Dropped ISB stay as they are, SB are trained, ESB have their heads grouped
            first. slight=-inf trains every block dropped; severe=inf regroups none.
        scheme: of the sync points that stay, in the plan.
        training: the budget of each block; None = `Training()`.
        progress: called after every step of training.

    Raises ValueError as `check`, `Sensitivity.kinds`, `dropped_count` and `drop_plan` do, and for a sensitivity of
    another number of layers.
    """
    check(decoder, windows_WT)
    layers = decoder.config.num_layers
    count, _ = dropped_count(layers, drop_percent), drop_plan(layers, (), scheme)  # refuse before the work
    found = found or sensitivity(decoder, windows_WT[:SENSITIVITY_WINDOWS])
    if len(found.increases) != layers:
        raise ValueError(f"found is of {len(found.increases)} layers, {decoder.config.name} has {layers}")
    kinds, dropped = found.kinds(slight, severe), found.least(count)
    worst = [layer for layer in dropped if kinds[layer] == "ESB"]
    heads = {
        layer: group_heads(decoder, layer, inputs_WTD)
        for layer, inputs_WTD in streams(decoder, windows_WT[:GROUPING_WINDOWS], worst)
    }
    grouped = regroup(decoder, weights, heads)
    taught = [layer for layer in dropped if kinds[layer] != "ISB"]
    trained, report = distil(grouped, windows_WT, taught, dropped, training, progress)
    by_layer = {row.layer: row for row in report}
    blocks = tuple(
        Block(layer, found.increases[layer], kinds[layer], layer in dropped, heads.get(layer), by_layer.get(layer))
        for layer in range(layers)
    )
    return Prepared(trained, drop_plan(layers, dropped, scheme), blocks)
