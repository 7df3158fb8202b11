"""Grouped integers and MX in plain torch operations: codes in bit planes, and metadata for each group.

Values are worked on in chunks that a core's cache holds, each chunk by whole-tensor operations; chunks do not
change a bit of the result. Legend: N values, G groups (or blocks), K values of a group. The layout of the
buffer is `codec.sections` and `codec.offsets`, never computed here; docs/decisions/006-numerics.md says what
every step rounds to and what becomes of groups that are empty, huge or not numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thinwire.reference.codecs.bounds import integer, mx, rotated
from thinwire.reference.codecs.elements import (
    e8m0_inverse,
    e8m0_value,
    exact_div,
    folded_power,
    from_codes,
    hadamard,
    mx_scale,
    to_bf16,
    to_codes,
    to_minimum,
    to_scale,
)
from thinwire.reference.codecs.layout import allocate, chunks, plane_views, views
from thinwire.reference.codecs.packing import pack_into, unpack
from thinwire.reference.core.formats import element
from thinwire.reference.core.scheme import MX, GroupedInt

Parts = dict[str, Tensor]  # a chunk's metadata by section name, as sent


def encode(values_N: Tensor, codec: GroupedInt | MX) -> Tensor:
    """The wire buffer of `values_N`."""
    numel = values_N.numel()
    buffer = allocate(codec, numel, values_N.device)
    parts = views(buffer, codec, numel)
    for first, last in chunks(numel, codec.align, values_N.device):
        part_N = values_N[first:last]
        groups_GK = _load(part_N, codec.align, codec.rotation).view(-1, codec.group)
        # Fresh memory costs a CPU more than arithmetic: what is our own copy already is overwritten.
        out_GK = torch.empty_like(groups_GK) if groups_GK.data_ptr() == part_N.data_ptr() else groups_GK
        if isinstance(codec, GroupedInt):
            codes_GK, sent = _quantise_int(groups_GK, out_GK, codec)
            bits = codec.bits
        else:
            # With a power of two for a scale, bf16 numbers stay bf16 numbers.
            exact = values_N.dtype == torch.bfloat16 and codec.scale == "e8m0" and not codec.rotation
            codes_GK, sent = _quantise_mx(groups_GK, out_GK, codec, exact)
            bits = element(codec.element).bits
        pack_into(codes_GK, bits, plane_views(parts, bits, first, codes_GK.numel()))
        group = first // codec.group
        for name, part_G in sent.items():
            if isinstance(codec, MX) and codec.slot:  # zeros behind each scale are there already
                slots_GS = parts[name].view(-1, codec.slot // part_G.element_size())
                slots_GS[group : group + len(codes_GK), :1].copy_(part_G)
                continue
            each = part_G[0].numel()
            parts[name][group * each : (group + len(codes_GK)) * each].copy_(part_G.view(-1))
    return buffer


def decode(buffer: Tensor, numel: int, codec: GroupedInt | MX, dtype: torch.dtype) -> Tensor:
    """The `numel` values of `buffer` as `dtype`."""
    out_N = torch.empty(numel, dtype=dtype, device=buffer.device)
    parts = views(buffer, codec, numel)
    groups = -(-numel // codec.align) * (codec.align // codec.group)
    metadata = {name: part.view(groups, -1) for name, part in parts.items() if not name.startswith("plane")}
    # Scales are capped so that a bf16 holds whatever they give. What adds to that, or a narrower type, may go
    # beyond; a finite value must not come back as an infinity.
    adds = codec.rotation is not None or (isinstance(codec, GroupedInt) and codec.grid == "minimum")
    saturate = adds or dtype == torch.float16
    limit = torch.finfo(dtype).max
    for first, last in chunks(numel, codec.align, buffer.device):
        padded = -(-(last - first) // codec.align) * codec.align
        bits = codec.bits if isinstance(codec, GroupedInt) else element(codec.element).bits
        codes_GK = unpack(plane_views(parts, bits, first, padded), bits, padded).view(-1, codec.group)
        group = first // codec.group
        sent = {name: part_G[group : group + len(codes_GK)] for name, part_G in metadata.items()}
        if isinstance(codec, GroupedInt):
            values_GK = _restore_int(codes_GK, sent, codec)
        else:
            scale = sent["scales"][:, :1]  # its slot may be wider
            scale_G = e8m0_value(scale) if codec.scale == "e8m0" else scale.float()
            values_GK = from_codes(codes_GK, element(codec.element)).mul_(scale_G)
        found_N = hadamard(values_GK, codec.rotation) if codec.rotation else values_GK.reshape(-1)
        if saturate:
            found_N = found_N.clamp_(-limit, limit)
        out_N[first:last].copy_(found_N[: last - first])
    return out_N


def bound(exact_N: Tensor, codec: GroupedInt | MX) -> Tensor:
    """The largest error of each value."""

    def grouped(exact_GK: Tensor) -> Tensor:
        return integer(exact_GK, codec) if isinstance(codec, GroupedInt) else mx(exact_GK, codec)

    return rotated(exact_N, codec.align, codec.group, codec.rotation, grouped)


def _load(values_N: Tensor, align: int, rotation: int | None) -> Tensor:
    """fp32 values, padded with zeros to whole groups and rotated. May be the input itself: do not write to it."""
    found = values_N.float()
    if found.numel() % align:
        found = torch.nn.functional.pad(found, (0, -found.numel() % align))
    return hadamard(found, rotation) if rotation else found


def _first_index(values_GK: Tensor, extreme_G: Tensor) -> Tensor:
    """Position [G, 1] of the first value of each group that equals `extreme_G` [G, 1]; 0 where none does."""
    size = values_GK.shape[1]
    kind = torch.uint8 if size <= 256 else torch.int32
    other = (values_GK != extreme_G).to(kind).neg_()  # all bits set, but for the extremes
    position_GK = other.bitwise_or_(torch.arange(size, dtype=kind, device=other.device))
    if kind == torch.int32:
        position_GK.bitwise_and_(0x7FFFFFFF)
    found_G = position_GK.amin(1, keepdim=True).long()
    return found_G.masked_fill_(extreme_G.isnan(), 0)


def _quantise_int(groups_GK: Tensor, out_GK: Tensor, codec: GroupedInt) -> tuple[Tensor, Parts]:
    """Codes (uint8 [G, K], offset-binary where signed) and metadata of whole groups.

    `out_GK` is overwritten; it may be `groups_GK` itself.
    """
    sent: Parts = {}
    low_G, high_G = groups_GK.amin(1, keepdim=True), groups_GK.amax(1, keepdim=True)
    good_G = torch.isfinite(low_G) & torch.isfinite(high_G)
    if codec.spikes:
        ends_G2 = torch.cat((_first_index(groups_GK, low_G), _first_index(groups_GK, high_G)), 1)
        # A minimum of zeros has no certain sign: 0.0 makes it positive.
        spikes_G2 = to_bf16(torch.cat((low_G, high_G), 1) + 0.0).masked_fill_(~good_G, math.nan)
        index = torch.uint8 if codec.index_bytes == 1 else torch.uint16
        sent["spike_values"] = spikes_G2
        sent["spike_indices"] = ends_G2.masked_fill(~good_G, 0).to(index)
        rest_GK = groups_GK.scatter(1, ends_G2, math.inf)
        low_G = rest_GK.amin(1, keepdim=True)
        high_G = rest_GK.scatter_(1, ends_G2, -math.inf).amax(1, keepdim=True)
    low_G, high_G = low_G.masked_fill(~good_G, math.nan), high_G.masked_fill(~good_G, math.nan)

    steps = (1 << codec.bits) - 1
    if codec.grid == "symmetric":
        top = (1 << (codec.bits - 1)) - 1
        wanted_G, origin_G = exact_div(torch.maximum(high_G, -low_G), top), None
    else:
        top = steps
        if codec.grid == "minimum":
            sent["minima"], origin_G = to_minimum(low_G, codec.metadata)
            high_G = torch.maximum(high_G, origin_G)
            below_G = origin_G
        else:
            below_G, origin_G, high_G = low_G.clamp_max(0), None, high_G.clamp_min(0)
        wanted_G = exact_div(high_G * 0.5 - below_G * 0.5, steps * 0.5)  # halves: the range itself may overflow
    sent["scales"], scale_G = to_scale(wanted_G, codec.metadata, top)
    divisor_G = scale_G.masked_fill(scale_G == 0, math.inf)  # everything is the zero level, or the minimum

    low_code, offset = (-top, 1 << (codec.bits - 1)) if codec.grid == "symmetric" else (0, 0)
    if origin_G is not None:
        scaled_GK = torch.sub(groups_GK, origin_G, out=out_GK).div_(divisor_G).round_()
    else:
        scaled_GK = torch.div(groups_GK, divisor_G, out=out_GK).round_()
    if codec.grid == "zero_point":
        zero_G = (-below_G / divisor_G).round_().clamp_(0, steps).masked_fill_(~good_G, 0)
        sent["zero_points"] = zero_G.to(torch.uint8)
        scaled_GK.add_(zero_G)
    # float -> int8 is the conversion that CPUs do fast, so 8-bit codes take a detour through -128..127.
    scaled_GK.clamp_(low_code, top)
    if codec.grid == "symmetric":
        codes_GK = scaled_GK.to(torch.int8).add_(offset - 256 if offset == 128 else offset).view(torch.uint8)
    elif codec.bits == 8:
        codes_GK = scaled_GK.sub_(128).to(torch.int8).view(torch.uint8).bitwise_xor_(128)
    else:
        codes_GK = scaled_GK.to(torch.int8).view(torch.uint8)
    return _blank(codes_GK, good_G), sent


def _restore_int(codes_GK: Tensor, sent: Parts, codec: GroupedInt) -> Tensor:
    """fp32 values [G, K] of codes and metadata."""
    scale = sent["scales"]
    scale_G = e8m0_value(scale) if codec.metadata == "e8m0" else scale.float()
    values_GK = codes_GK.float()
    if codec.grid == "symmetric":
        values_GK.sub_(1 << (codec.bits - 1)).mul_(scale_G)
    elif codec.grid == "zero_point":
        values_GK.sub_(sent["zero_points"].float()).mul_(scale_G)
    else:
        values_GK.mul_(scale_G).add_(sent["minima"].float())
    if codec.spikes:
        values_GK.scatter_(1, sent["spike_indices"].long(), sent["spike_values"].float())
    return values_GK


def _quantise_mx(blocks_GK: Tensor, out_GK: Tensor, codec: MX, exact_bf16: bool) -> tuple[Tensor, Parts]:
    """Element codes (uint8 [G, K]) and scales of whole blocks; `out_GK` as in `_quantise_int`.

    exact_bf16: see `elements.to_codes`.
    """
    row = element(codec.element)
    amax_G = torch.maximum(blocks_GK.amax(1, keepdim=True), -blocks_GK.amin(1, keepdim=True))
    power = folded_power(row)
    if codec.scale == "e8m0":
        scale_G = mx_scale(amax_G, row, codec.mode)
        scaled_GK = torch.mul(blocks_GK, e8m0_inverse(scale_G, power), out=out_GK)
    else:
        scale_G, used_G = to_scale(exact_div(amax_G, row.maximum), codec.scale, row.maximum)
        scaled_GK = torch.div(blocks_GK, used_G.masked_fill(used_G == 0, math.inf), out=out_GK)
        if power:
            scaled_GK.mul_(2.0**power)
    codes_GK = to_codes(scaled_GK, row, exact_bf16)
    return _blank(codes_GK, torch.isfinite(amax_G)), {"scales": scale_G}


def _blank(codes_GK: Tensor, good_G: Tensor) -> Tensor:
    """All codes 0 in groups that are not numbers, so that their bytes are the same everywhere."""
    return codes_GK.bitwise_and_(good_G.to(torch.uint8).neg_())
