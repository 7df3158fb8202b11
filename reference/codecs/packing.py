"""Bit planes: codes of 1..8 bits, one in each byte, into the planes of the wire and back.

Layout (docs/decisions/001-wire-formats.md): `formats.planes(bits)` names the planes, widest first; the widest
holds the code's lowest bits, the next plane the bits above. Within a byte the first value sits in the lowest
bits. A plane of width w packs 8 / w values a byte, so eight values are whole bytes in every plane.

All of it is shifts and masks on words that hold 8 / w codes each: no gather, no loop over values, the same
on every device of a little-endian machine.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from thinwire.reference.core.formats import planes

if sys.byteorder != "little":  # words are viewed as bytes; decision 001 fixes the order
    raise ImportError("thinwire's wire formats are little-endian; this machine is not")

# By width: the word that holds the 8 / w codes of one byte, the right shifts that close the gaps between them, and
# the left shifts, each with its mask, that open them again.
_WORD = {4: torch.int16, 2: torch.int32, 1: torch.int64}
_CLOSE = {4: (4,), 2: (6, 12), 1: (7, 14, 28)}
_OPEN = {
    4: ((4, 0x0F0F),),
    2: ((12, 0x000F000F), (6, 0x03030303)),
    1: ((28, 0x0000000F0000000F), (14, 0x0003000300030003), (7, 0x0101010101010101)),
}


def plane_bytes(numel: int, width: int) -> int:
    """Bytes of one plane of `width` bits holding `numel` codes."""
    return -(-numel * width // 8)


def pack(codes_N: Tensor, bits: int) -> tuple[Tensor, ...]:
    """The planes of `codes_N`, uint8 codes below 2^bits of any count, widest plane first; see `pack_into`."""
    count = codes_N.numel()
    found = tuple(codes_N.new_empty(plane_bytes(count, width)) for width in planes(bits))
    pack_into(codes_N, bits, found)
    return found


def pack_into(codes_N: Tensor, bits: int, out: Sequence[Tensor]) -> None:
    """Write the planes of `codes_N` (uint8 [N], each below 2^bits) into `out`, uint8 [ceil(N w / 8)] each.

    Bits of the last byte that no code fills are zero. Codes of 2^bits and above spoil their neighbours.
    Raises ValueError where a plane has the wrong length or `codes_N` is not uint8.
    """
    _check(codes_N, bits, out, codes_N.numel())
    codes_N = codes_N.reshape(-1)
    if codes_N.numel() % 8:  # whole words only
        codes_N = torch.nn.functional.pad(codes_N, (0, -codes_N.numel() % 8))
    elif codes_N.storage_offset() % 8:  # words are counted from the storage's start
        codes_N = codes_N.clone()
    codes_N = codes_N.contiguous()
    if not codes_N.numel():
        return
    below = 0
    for width, plane in zip(planes(bits), out, strict=True):
        word = codes_N.view(torch.int64)  # eight codes at a time; no bit crosses its byte after the mask
        if below:
            word = word >> below
        if (width < 8 and below + width < bits) or below:
            word = word & (((1 << width) - 1) * 0x0101010101010101)
        if width == 8:
            plane.copy_(word.view(torch.uint8)[: plane.numel()])
        else:
            packed = word.view(_WORD[width])
            for shift in _CLOSE[width]:
                packed = packed | (packed >> shift)
            plane.copy_(packed[: plane.numel()])  # the word's lowest byte: conversion to uint8 is modulo 256
        below += width


def unpack(parts: Sequence[Tensor], bits: int, numel: int) -> Tensor:
    """The `numel` codes whose planes are `parts`, widest first, as uint8 [numel]. Inverse of `pack`.

    With 8 bits the codes are a view of the plane. Raises ValueError where a plane has the wrong length or is not uint8.
    """
    widths = planes(bits)
    _check(parts[0], bits, parts, numel)
    codes: Tensor | None = None
    below = 0
    for width, part in zip(widths, parts, strict=True):
        if width == 8:
            wide = part
        else:
            word = part.to(_WORD[width])
            for shift, mask in _OPEN[width]:
                word = (word | (word << shift)) & mask
            wide = word.view(torch.uint8)
        wide = wide[:numel]
        codes = wide if codes is None else codes | (wide << below)
        below += width
    assert codes is not None
    return codes


def _check(example: Tensor, bits: int, parts: Sequence[Tensor], numel: int) -> None:
    widths = planes(bits)
    if example.dtype != torch.uint8 or any(part.dtype != torch.uint8 for part in parts):
        given = ", ".join(str(part.dtype) for part in (example, *parts))
        raise ValueError(f"codes and planes must be uint8: given {given}")
    expected = [plane_bytes(numel, width) for width in widths]
    if [part.numel() for part in parts] != expected:
        given = ", ".join(str(part.numel()) for part in parts)
        raise ValueError(f"planes of {numel} codes of {bits} bits take {expected} bytes: given [{given}]")
