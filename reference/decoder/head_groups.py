"""Which query heads share a rank in a block that drops its attention sync point.

A rank of such a block runs its MLP with its own heads' share of the attention and nothing of the others'. So each rank
should hold a sample of what the heads do: heads that do alike belong on different ranks. From SPD (arXiv 2502.20727),
as far as it is known here, come two measures, the deviation of a head's attention scores for what it does and the
norm of the MLP's output for how much that matters, and the aim of scattering similar heads. How they are put together
in `scatter`, and the exchanges of `group_heads` that follow, are ours. The sum over all heads stays what it was, so
under sums that are kept a model computes the same however its heads lie.

Legend: W windows, T tokens of a window (S where they are attended to), D width, H query heads of the model, K values of
a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from thinwire.reference.core.mixers import Attention
from thinwire.reference.decoder.attention import causal_mask
from thinwire.reference.decoder.distil import straying
from thinwire.reference.decoder.model import Decoder, Stream
from thinwire.reference.decoder.shard import AttentionPart, even
from thinwire.reference.decoder.sync import ExactSync
from thinwire.reference.mixed import Site

Groups = tuple[tuple[int, ...], ...]  # query heads of each rank, in rank order


class _AsIf:
    """A sync that gives every rank `parts[rank]` of the attention and, behind the MLP, what it missed of it.

    With the sums of each rank's heads for parts it is a dropped sync point under those heads, on a decoder whose heads
    lie otherwise.
    """

    def __init__(self, decoder: Decoder, parts: Sequence[Tensor]) -> None:
        self._exact, self._parts, self._whole = ExactSync(decoder.group), parts, torch.stack(tuple(parts)).sum(0)

    def __call__(self, layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool) -> list[Tensor]:
        """Never drops."""
        if site == "attention":
            return list(self._parts)
        total = self._exact(layer, site, partials, position, ends)[0]
        return [total + (self._whole - part) for part in self._parts]


def group_heads(decoder: Decoder, layer: int, inputs_WTD: Tensor, exchanges: int = 16) -> Groups:
    """Query heads of each rank, as many to each as `shard.even` gives, for a block without its attention sync point.

    Starts from heads in order or scattered (`scatter`), whichever lets the block's output stray less, and exchanges the
    two heads of different ranks whose exchange lowers it most, until none does.

    Args:
        decoder: all ranks in this process.
        inputs_WTD: residual streams that enter the block, of text for calibration.
        exchanges: at most so many; each looks at every pair of heads that lie on two ranks.

    With grouped queries a rank keeps the key-value heads of all its query heads, so its cache may grow.
    """
    total, ranks = _attention(decoder, layer).heads, decoder.group.size
    with torch.no_grad():
        sigma_H, heads_WHTD = _heads(decoder, layer, inputs_WTD)
        error = _straying(decoder, layer, inputs_WTD, heads_WHTD)
        ordered: Groups = tuple(tuple(part) for part in even(total, ranks))
        scattered = scatter(sigma_H, _mlp_norms(decoder, layer, inputs_WTD, heads_WHTD), ranks)
        least, best = min((error(groups), groups) for groups in (ordered, scattered))
        for _ in range(exchanges):
            owner = {head: rank for rank, heads in enumerate(best) for head in heads}
            pairs = [(a, b) for a, b in combinations(range(total), 2) if owner[a] != owner[b]]
            tried = [_exchanged(best, a, b) for a, b in pairs]
            found = min(((error(groups), groups) for groups in tried), default=(least, best))
            if found[0] >= least:
                break
            least, best = found
    return best


def scatter(sigma_H: Sequence[float], norm_H: Sequence[float], ranks: int) -> Groups:
    """Heads over ranks, similar ones apart.

    sigma_H: what each head does, as one number; norm_H: how much it matters. Heads in the order of sigma are cut into
    runs of as many as there are ranks. Of a run each rank gets one head, the weightiest the rank that holds the least
    weight so far. A last, shorter run goes to the first ranks, so that sizes are those of `shard.even`.
    """
    order = sorted(range(len(sigma_H)), key=lambda head: (sigma_H[head], head))
    groups: list[list[int]] = [[] for _ in range(ranks)]
    for first in range(0, len(order), ranks):
        run = sorted(order[first : first + ranks], key=lambda head: (-norm_H[head], head))
        open_ranks = sorted(range(len(run)), key=lambda rank: (sum(norm_H[head] for head in groups[rank]), rank))
        for head, rank in zip(run, open_ranks, strict=True):
            groups[rank].append(head)
    return tuple(tuple(sorted(group)) for group in groups)


def _attention(decoder: Decoder, layer: int) -> Attention:
    mixer = decoder.config.layers[layer].mixer
    assert isinstance(mixer, Attention)  # `distil.check` refuses others
    return mixer


def _exchanged(groups: Groups, a: int, b: int) -> Groups:
    other = {a: b, b: a}
    return tuple(tuple(sorted(other.get(head, head) for head in group)) for group in groups)


def _heads(decoder: Decoder, layer: int, inputs_WTD: Tensor) -> tuple[list[float], list[list[Tensor]]]:
    """Sigma of each head, and what each adds to the stream: [T, D] by window and head.

    sigma: standard deviation of a query's attention weights over the tokens it sees, 0 where it looks at all alike and
    near 1 / sqrt(tokens) where it looks at one, mean over queries.
    """
    whole, mixer = decoder.layers[layer], _attention(decoder, layer)
    size, tokens = mixer.values_per_head, inputs_WTD.shape[1]
    turn = decoder.turn(layer, 0, tokens)
    seen_TS = causal_mask(0, tokens, mixer.window, inputs_WTD.device, mixer.chunk)
    if seen_TS is None:
        seen_TS = torch.ones(tokens, tokens, dtype=torch.bool, device=inputs_WTD.device)
    count_T = seen_TS.sum(-1)
    sigma_H, found = [0.0] * mixer.heads, []
    for input_TD in inputs_WTD:
        added: dict[int, Tensor] = {}
        x_BTD = decoder.normed(Stream([input_TD[None]]), layer, "input_layernorm")[0]
        ready = decoder.project(layer, [x_BTD] * len(whole.parts), turn)
        for part, shard, found_here in zip(whole.parts, whole.shards, ready, strict=True):
            if found_here is None:
                continue
            assert isinstance(part.mixer, AttentionPart)
            query_HTK, key_GSK, value_GSV = (x[0] for x in (found_here.query, found_here.key, found_here.value))
            for place, (head, kv) in enumerate(zip(shard.query_heads, shard.kv_of_query, strict=True)):
                score_TS = (query_HTK[place] @ key_GSK[kv].T).to(input_TD.dtype) * mixer.scale
                weight_TS = score_TS.masked_fill(~seen_TS, -torch.inf).softmax(-1)
                variance_T = weight_TS.square().sum(-1) / count_T - count_T.to(weight_TS.dtype).pow(-2)
                sigma_H[head] += float(variance_T.clamp(min=0).sqrt().mean()) / len(inputs_WTD)
                out_TK = weight_TS.to(value_GSV.dtype) @ value_GSV[kv]
                columns = part.mixer.output_DxHV[:, place * size : (place + 1) * size]
                added[head] = functional.linear(out_TK, columns).to(input_TD.dtype)
        found.append([added[head] for head in range(mixer.heads)])
    return sigma_H, found


def _mlp_norms(decoder: Decoder, layer: int, inputs_WTD: Tensor, heads_WHTD: list[list[Tensor]]) -> list[float]:
    """Norm of what the MLP's output changes by without a head, over the output's own; mean over windows."""
    found = [0.0] * _attention(decoder, layer).heads
    for input_TD, heads_HTD in zip(inputs_WTD, heads_WHTD, strict=True):
        whole_TD = sum(heads_HTD[1:], heads_HTD[0])
        output = _mlp_output(decoder, layer, input_TD, whole_TD)
        for head, added_TD in enumerate(heads_HTD):
            change = _mlp_output(decoder, layer, input_TD, whole_TD - added_TD) - output
            found[head] += float(change.norm() / output.norm()) / len(inputs_WTD)
    return found


def _mlp_output(decoder: Decoder, layer: int, input_TD: Tensor, attention_TD: Tensor) -> Tensor:
    """What the MLP adds where attention gave this."""
    ranks, found = decoder.group.size, list[Tensor]()
    exact = ExactSync(decoder.group)

    def sync(layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool) -> list[Tensor]:
        if site == "attention":
            return [attention_TD[None]] * ranks
        found.extend(exact(layer, site, partials, position, ends))
        return found

    decoder.block(layer, Stream([input_TD[None]] * ranks), sync=sync)
    return found[0]


def _straying(
    decoder: Decoder, layer: int, inputs_WTD: Tensor, heads_WHTD: list[list[Tensor]]
) -> Callable[[Groups], float]:
    """How far groups let the output of the dropped block stray, mean over windows: what training starts from."""
    ranks = decoder.group.size
    exact, zero_TD = ExactSync(decoder.group), torch.zeros_like(inputs_WTD[0])
    targets = [decoder.block(layer, Stream([x_TD[None]] * ranks), sync=exact).agreed[0] for x_TD in inputs_WTD]

    def error(groups: Groups) -> float:
        total = 0.0
        for input_TD, heads_HTD, target_BTD in zip(inputs_WTD, heads_WHTD, targets, strict=True):
            parts = [sum((heads_HTD[head] for head in group), zero_TD)[None] for group in groups]
            stream = Stream([input_TD[None]] * ranks)
            output_BTD = decoder.block(layer, stream, sync=_AsIf(decoder, parts)).agreed[0]
            total += float(straying(output_BTD, target_BTD))
        return total / len(targets)

    return error
