"""The outlier hybrid in torch: one value in `keep_one_in` stays bf16, the others are symmetric integer codes.

Legend: N values, B blocks of `keep_one_in` values, J places in a block, R rows, F features. Kept values leave
no hole: the codes of the others follow one another in the order of their positions. See docs/decisions/001
for the layout, 006 for rounding and for values that are not numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from thinwire.reference.codecs.bounds import SLACK, scales
from thinwire.reference.codecs.bounds import kept as kept_error
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.codecs.elements import exact_div, to_bf16, to_scale
from thinwire.reference.codecs.layout import allocate, chunks, plane_views, views
from thinwire.reference.codecs.packing import pack_into, unpack
from thinwire.reference.core.scheme import OutlierHybrid


def encode(
    values_N: Tensor, codec: OutlierHybrid, *, calibration: Calibration | None = None, rank: int | None = None,
    start: int = 0,
) -> Tensor:  # fmt: skip
    """The wire buffer of `values_N`; a static one wants all that `quantize.encode` takes."""
    buffer = allocate(codec, values_N.numel(), values_N.device)
    encode_into(buffer, values_N, codec, calibration, rank, start)
    return buffer


def decode(
    buffer: Tensor, numel: int, codec: OutlierHybrid, dtype: torch.dtype, *, calibration: Calibration | None = None,
    rank: int | None = None, start: int = 0,
) -> Tensor:  # fmt: skip
    """The `numel` values of `buffer` as `dtype`."""
    out_N = torch.empty(numel, dtype=dtype, device=buffer.device)
    decode_into(out_N, views(buffer, codec, numel), codec, calibration, rank, start)
    return out_N


def bound(
    exact_N: Tensor, codec: OutlierHybrid, *, calibration: Calibration | None = None, rank: int | None = None,
    start: int = 0,
) -> Tensor:  # fmt: skip
    """The largest error of each value."""
    if codec.scale == "dynamic":
        return _dynamic_bound(exact_N, codec)
    return _static_bound(exact_N, codec, _needed(calibration), rank, start)


def encode_into(
    buffer: Tensor,
    values_N: Tensor,
    codec: OutlierHybrid,
    calibration: Calibration | None,
    rank: int | None,
    start: int,
) -> None:
    """Write the sections of `values_N` into `buffer`, which `layout.allocate` made."""
    numel = values_N.numel()
    parts = views(buffer, codec, numel)
    if codec.scale == "static":
        codes_M, kept = _encode_static(values_N, codec, _needed(calibration), rank, start)
        pack_into(codes_M, codec.bits, plane_views(parts, codec.bits, 0, len(codes_M)))
        parts["kept_values"].copy_(kept)
        return
    keep = codec.keep_one_in
    for first, last in chunks(numel, math.lcm(codec.group, 8 * keep), values_N.device):
        codes_M, scale_G, kept_B, place_B = _encode_dynamic(values_N[first:last].float(), codec)
        at, block, group = first - first // keep, first // keep, first // codec.group
        pack_into(codes_M, codec.bits, plane_views(parts, codec.bits, at, len(codes_M)))
        parts["scales"][group : group + len(scale_G)].copy_(scale_G)
        parts["kept_values"][block : block + len(kept_B)].copy_(kept_B)
        parts["kept_indices"][block : block + len(kept_B)].copy_(place_B)


def decode_into(
    out_N: Tensor,
    parts: dict[str, Tensor],
    codec: OutlierHybrid,
    calibration: Calibration | None,
    rank: int | None,
    start: int,
) -> None:
    """Fill `out_N`, of any floating type, from the typed sections `parts` of a buffer."""
    numel, keep = out_N.numel(), codec.keep_one_in
    if codec.scale == "static":
        codes_M = unpack(plane_views(parts, codec.bits, 0, numel - numel // keep), codec.bits, numel - numel // keep)
        _decode_static(out_N, codes_M, parts["kept_values"], codec, _needed(calibration), rank, start)
        return
    limit = torch.finfo(out_N.dtype).max
    for first, last in chunks(numel, math.lcm(codec.group, 8 * keep), out_N.device):
        size = last - first
        blocks, at = size // keep, first - first // keep
        codes_M = unpack(plane_views(parts, codec.bits, at, size - blocks), codec.bits, size - blocks)
        block, group = first // keep, first // codec.group
        found_N = _decode_dynamic(
            codes_M,
            parts["scales"][group : group + -(-size // codec.group)],
            parts["kept_values"][block : block + blocks],
            parts["kept_indices"][block : block + blocks],
            codec,
            size,
        )
        out_N[first:last].copy_(found_N.clamp_(-limit, limit) if out_N.dtype == torch.float16 else found_N)


# ---- dynamic: the largest magnitude of each whole block


def _encode_dynamic(values_N: Tensor, codec: OutlierHybrid) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes without holes (uint8), scales (bf16), kept values (bf16) and their places (uint8) of a chunk."""
    size, keep = values_N.numel(), codec.keep_one_in
    blocks = size // keep
    top = (1 << (codec.bits - 1)) - 1
    size_N = torch.nn.functional.pad(values_N.abs(), (0, -size % codec.group))
    size_BJ = size_N[: blocks * keep].view(blocks, keep)
    place_B = size_BJ.new_zeros(blocks, dtype=torch.int64)
    if blocks:
        largest_B = size_BJ.amax(1, keepdim=True)
        # The first place that holds the largest: all bits are set in the others.
        other_BJ = (size_BJ != largest_B).to(torch.uint8).neg_()
        places_J = torch.arange(keep, dtype=torch.uint8, device=values_N.device)
        place_B = other_BJ.bitwise_or_(places_J).amin(1).long()
    # A block with a NaN equals its largest nowhere; its group is blanked below.
    good_G = torch.isfinite(size_N.view(-1, codec.group).amax(1))
    per_group = codec.group // keep
    good_B = good_G.repeat_interleave(per_group)[:blocks]
    place_B = place_B.masked_fill_(~good_B, 0)
    kept_B = values_N[: blocks * keep].view(blocks, keep).gather(1, place_B[:, None])[:, 0]
    kept_B = to_bf16(kept_B).masked_fill_(~good_B, math.nan)

    size_BJ.scatter_(1, place_B[:, None], 0.0)
    wanted_G = exact_div(size_N.view(-1, codec.group).amax(1).masked_fill_(~good_G, math.nan), top)
    scale_G, used_G = to_scale(wanted_G, "bf16", top)
    divisor_G = used_G.masked_fill(used_G == 0, math.inf)[:, None]
    if size == size_N.numel():
        scaled_N = (values_N.view(-1, codec.group) / divisor_G).view(-1)
    else:
        padded_N = torch.nn.functional.pad(values_N, (0, -size % codec.group))
        scaled_N = (padded_N.view(-1, codec.group) / divisor_G).view(-1)
    scaled_N.round_().clamp_(-top, top).add_(1 << (codec.bits - 1))
    codes_N = _to_uint8(scaled_N, codec.bits)
    codes_N.view(-1, codec.group).bitwise_and_(good_G.to(torch.uint8).neg_()[:, None])
    whole_BJ, tail = codes_N[: blocks * keep].view(blocks, keep), codes_N[blocks * keep : size]
    # From the kept place on, each code moves one place down.
    moved_BJ = _choose(whole_BJ[:, 1:], whole_BJ[:, :-1], _from(place_B, keep - 1))
    codes_M = torch.cat((moved_BJ.reshape(-1), tail)) if len(tail) else moved_BJ.reshape(-1)
    return codes_M, scale_G, kept_B, place_B.to(torch.uint8)


def _decode_dynamic(
    codes_M: Tensor, scale_G: Tensor, kept_B: Tensor, place_B: Tensor, codec: OutlierHybrid, size: int
) -> Tensor:
    keep = codec.keep_one_in
    blocks = len(kept_B)
    moved_BJ = codes_M[: blocks * (keep - 1)].view(blocks, keep - 1)
    codes_N = codes_M.new_zeros(-(-size // codec.group) * codec.group)
    whole_BJ = codes_N[: blocks * keep].view(blocks, keep)
    whole_BJ[:, 0] = moved_BJ[:, 0]  # any code will do at the kept place
    whole_BJ[:, 1:] = _choose(moved_BJ, torch.nn.functional.pad(moved_BJ[:, 1:], (0, 1)), _from(place_B, keep - 1))
    codes_N[blocks * keep : size] = codes_M[blocks * (keep - 1) :]
    values_N = codes_N.view(-1, codec.group).float().sub_(1 << (codec.bits - 1)).mul_(scale_G.float()[:, None])
    values_N = values_N.view(-1)
    values_N[: blocks * keep].view(blocks, keep).scatter_(1, place_B.long()[:, None], kept_B.float()[:, None])
    return values_N[:size]


def _from(place_B: Tensor, count: int) -> Tensor:
    """uint8 masks [B, count]: all bits set where the column is `place` or beyond, none before it."""
    kind = torch.int8 if count < 128 else torch.int16
    columns_J = torch.arange(1, count + 1, dtype=kind, device=place_B.device)
    ahead_BJ = place_B.to(kind)[:, None] - columns_J  # negative from the place on: its sign bit, spread
    return (
        ahead_BJ.bitwise_right_shift_(15).to(torch.uint8)
        if kind == torch.int16
        else ahead_BJ.bitwise_right_shift_(7).view(torch.uint8)
    )


def _choose(set_BJ: Tensor, clear_BJ: Tensor, mask_BJ: Tensor) -> Tensor:
    """`set_BJ` where the mask has its bits set, else `clear_BJ` (torch.where on bytes branches: 20 times slower)."""
    return (set_BJ ^ clear_BJ).bitwise_and_(mask_BJ).bitwise_xor_(clear_BJ)


def _to_uint8(codes_N: Tensor, bits: int) -> Tensor:
    """Whole numbers 0..2^bits - 1 in fp32 (overwritten) as uint8, by way of int8, which CPUs convert to fast."""
    if bits < 8:
        return codes_N.to(torch.int8).view(torch.uint8)
    return codes_N.sub_(128).to(torch.int8).view(torch.uint8).bitwise_xor_(128)


# ---- static: the best-ranked features


@dataclass(frozen=True, slots=True)
class _Run:
    """`rows` rows of `width` features from feature `feature` on, the same features kept in each of them."""

    first: int  # position of its first value in the buffer
    rows: int
    feature: int
    width: int
    kept_K: Tensor  # columns within the run, rising, int32
    other_O: Tensor


@lru_cache(maxsize=256)
def runs(calibration: Calibration, numel: int, kept: int, start: int) -> tuple[_Run, ...]:
    """The buffer's values `start` .. `start + numel` cut into runs that keep the same features in every row.

    The `kept` best positions by (rank of the feature, position) are kept: every occurrence of the best
    features, and the first occurrences of the one that the count cuts through. So there are four runs at most:
    a part of a row at either end, rows above and rows below the last occurrence kept.
    """
    features = calibration.features
    phase = start % features
    feature_F = torch.arange(features)
    occurs_F = (numel + phase - feature_F + features - 1).div(features, rounding_mode="floor") - (
        feature_F < phase
    ).long()
    ranking_F = calibration.ranking_F.long()
    total_F = occurs_F[ranking_F].cumsum(0)
    whole = int((total_F <= kept).sum())  # features kept wherever they occur
    left = kept - (int(total_F[whole - 1]) if whole else 0)
    keep_F = torch.zeros(features, dtype=torch.bool)
    keep_F[ranking_F[:whole]] = True
    cut = int(ranking_F[whole]) if left else -1  # kept `left` times, then no more
    limit = -1  # rows, counted from the one that holds position 0, that keep `cut`
    if left:
        limit = left + (1 if cut < phase else 0)

    found: list[_Run] = []
    position, row = 0, 0
    while position < numel:
        feature = (phase + position) % features
        width = min(features - feature, numel - position)
        rows = 1 if width < features else (numel - position) // features
        if row < limit:
            rows = min(rows, limit - row)
        columns_F = keep_F[feature : feature + width].clone()
        if row < limit and feature <= cut < feature + width:
            columns_F[cut - feature] = True
        kept_K, other_O = columns_F.nonzero()[:, 0].int(), (~columns_F).nonzero()[:, 0].int()
        found.append(_Run(position, rows, feature, width, kept_K, other_O))
        position += rows * width
        row += rows
    return tuple(found)


def _needed(calibration: Calibration | None) -> Calibration:
    if calibration is None:
        raise ValueError("a static outlier hybrid needs a calibration: calibration=None")
    return calibration


def _pieces(run: _Run, device: torch.device) -> Iterator[tuple[int, int]]:
    """Rows first to last of chunks of a run."""
    for first, last in chunks(run.rows * run.width, run.width, device):
        yield first // run.width, last // run.width


def _encode_static(
    values_N: Tensor, codec: OutlierHybrid, calibration: Calibration, rank: int | None, start: int
) -> tuple[Tensor, Tensor]:
    """Codes (uint8) and kept values (bf16), both by position."""
    numel, device = values_N.numel(), values_N.device
    kept = codec.kept(numel)
    codes_M = torch.empty(numel - kept, dtype=torch.uint8, device=device)
    kept_M = torch.empty(kept, dtype=torch.bfloat16, device=device)
    scale_F = calibration.scales(codec.bits, rank).to(device)
    divisor_F = scale_F.masked_fill(scale_F == 0, math.inf)
    half = 1 << (codec.bits - 1)
    code_at, kept_at = 0, 0
    for run in runs(calibration, numel, kept, start):
        kept_K, other_O = run.kept_K.to(device), run.other_O.to(device)
        divisor_O = divisor_F[run.feature : run.feature + run.width].index_select(0, other_O)
        values_RF = values_N[run.first : run.first + run.rows * run.width].view(run.rows, run.width)
        for first, last in _pieces(run, device):
            rows_RF = values_RF[first:last]
            scaled_RO = rows_RF.index_select(1, other_O).float().div_(divisor_O).nan_to_num_(0.0, math.inf, -math.inf)
            scaled_RO.round_().clamp_(-half, half - 1).add_(half)
            size = scaled_RO.numel()
            codes_M[code_at : code_at + size].view(last - first, -1).copy_(_to_uint8(scaled_RO, codec.bits))
            chosen_RK = to_bf16(rows_RF.index_select(1, kept_K).float())
            kept_M[kept_at : kept_at + chosen_RK.numel()].copy_(chosen_RK.view(-1))
            code_at, kept_at = code_at + size, kept_at + chosen_RK.numel()
    return codes_M, kept_M


def _decode_static(
    out_N: Tensor,
    codes_M: Tensor,
    kept_M: Tensor,
    codec: OutlierHybrid,
    calibration: Calibration,
    rank: int | None,
    start: int,
) -> None:
    numel, device = out_N.numel(), out_N.device
    scale_F = calibration.scales(codec.bits, rank).to(device)
    half, limit = 1 << (codec.bits - 1), torch.finfo(out_N.dtype).max
    code_at, kept_at = 0, 0
    for run in runs(calibration, numel, codec.kept(numel), start):
        kept_K, other_O = run.kept_K.to(device), run.other_O.to(device)
        scale_O = scale_F[run.feature : run.feature + run.width].index_select(0, other_O)
        out_RF = out_N[run.first : run.first + run.rows * run.width].view(run.rows, run.width)
        for first, last in _pieces(run, device):
            rows, others, chosen = last - first, len(other_O), len(kept_K)
            codes_RO = codes_M[code_at : code_at + rows * others].view(rows, others)
            values_RO = codes_RO.float().sub_(half).mul_(scale_O).clamp_(-limit, limit).to(out_N.dtype)
            out_RF[first:last].index_copy_(1, other_O.long(), values_RO)
            kept_RK = kept_M[kept_at : kept_at + rows * chosen].view(rows, chosen).float().clamp_(-limit, limit)
            out_RF[first:last].index_copy_(1, kept_K.long(), kept_RK.to(out_N.dtype))
            code_at, kept_at = code_at + rows * others, kept_at + rows * chosen


# ---- bounds


def _dynamic_bound(exact_N: Tensor, codec: OutlierHybrid) -> Tensor:
    """Kept: bf16. Others: the symmetric grid over what a group holds beside its kept values."""
    numel, keep = exact_N.numel(), codec.keep_one_in
    blocks, top = numel // keep, (1 << (codec.bits - 1)) - 1
    size_N = torch.nn.functional.pad(exact_N.abs(), (0, -numel % codec.group))
    found_N = torch.zeros(numel, dtype=torch.float64)
    whole_BJ = size_N[: blocks * keep].view(blocks, keep)
    place_B = whole_BJ.argmax(1, keepdim=True)
    kept_B = kept_error(whole_BJ.gather(1, place_B))
    whole_BJ.scatter_(1, place_B, 0.0)
    range_G = size_N.view(-1, codec.group).amax(1, keepdim=True)
    most_G, least_G = scales(range_G / top, "bf16", top)
    error_G = (most_G / 2).maximum(range_G - top * least_G) + SLACK * range_G
    found_N = error_G.repeat(1, codec.group).reshape(-1)[:numel].clone()
    found_N[: blocks * keep].view(blocks, keep).scatter_(1, place_B, kept_B)
    return found_N


def _static_bound(
    exact_N: Tensor, codec: OutlierHybrid, calibration: Calibration, rank: int | None, start: int
) -> Tensor:
    """Kept features: bf16. Others: half a step inside the calibrated range, the excess beyond it."""
    half = 1 << (codec.bits - 1)
    scale_F = calibration.scales(codec.bits, rank).double()
    found_N = torch.empty_like(exact_N)
    for run in runs(calibration, exact_N.numel(), codec.kept(exact_N.numel()), start):
        span = slice(run.first, run.first + run.rows * run.width)
        exact_RF, out_RF = exact_N[span].view(run.rows, run.width), found_N[span].view(run.rows, run.width)
        step_F = scale_F[run.feature : run.feature + run.width]
        beyond_RF = (exact_RF - (half - 1) * step_F).maximum(-half * step_F - exact_RF)
        out_RF.copy_((step_F / 2).expand_as(exact_RF).maximum(beyond_RF))
        kept_K = run.kept_K.long()
        out_RF[:, kept_K] = kept_error(exact_RF[:, kept_K])
    return found_N
