"""A codec's sections as typed views of one buffer, and the chunks that torch works through.

Offsets and sizes come from `codec.offsets` and `codec.sections` alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from thinwire.reference.codecs.elements import DTYPES
from thinwire.reference.core.formats import planes
from thinwire.reference.core.scheme import Codec

HELD = {"uint8": torch.uint8, "uint16": torch.uint16, **DTYPES}  # by `Section.holds`
CPU_CHUNK_VALUES = 1 << 18  # 1 MiB of fp32: launching fifty small operations costs less than the values' own work
DEVICE_CHUNK_VALUES = 1 << 26  # an accelerator wants few launches; 256 MiB of fp32


def dense(flat_N: Tensor) -> Tensor:
    """A flat tensor whose memory is its values one after the other, as `view(dtype)` and kernels take them: no copy
    where it is so already.

    `is_contiguous` alone does not say so: torch calls one value, or none, contiguous whatever its stride, keeps that
    stride in copies and then refuses to view it as another type; and a lazily negated view holds the other sign.
    """
    found_N = flat_N.detach().resolve_neg().contiguous()
    return found_N if found_N.stride(0) == 1 else found_N.as_strided(found_N.shape, (1,))


def allocate(codec: Codec, numel: int, device: torch.device) -> Tensor:
    """A wire buffer for `numel` values: uint8 zeros, so the padding between sections is zero."""
    return torch.zeros(codec.wire_bytes(numel), dtype=torch.uint8, device=device)


def section_views(buffer: Tensor, codec: Codec, numel: int) -> dict[str, Tensor]:
    """Each section's bytes by name: uint8 views of `buffer`, exact length, in the buffer's order."""
    pairs = zip(codec.sections(numel), codec.offsets(numel), strict=True)
    return {section.name: buffer[at : at + section.nbytes] for section, at in pairs}


def views(buffer: Tensor, codec: Codec, numel: int) -> dict[str, Tensor]:
    """Sections with the types they hold, flat: planes as bytes, metadata as the codec says.

    The views share the buffer's memory, unless it starts off its storage's 4-byte grid: then they are copies,
    good for reading only. Raises ValueError for a type nobody knows.
    """
    if buffer.storage_offset() % 4:
        buffer = buffer.clone()
    found = section_views(buffer, codec, numel)
    for section in codec.sections(numel):
        if section.holds not in HELD:
            raise ValueError(
                f"section {section.name} of codec {codec.spec} must hold one of {', '.join(HELD)}: "
                f"given {section.holds!r}"
            )
        found[section.name] = found[section.name].view(HELD[section.holds])
    return found


def plane_views(parts: dict[str, Tensor], bits: int, first: int, count: int) -> list[Tensor]:
    """The bytes of codes `first` (a multiple of 8) to `first + count` in each plane."""
    return [parts[f"plane{w}"][first * w // 8 : -(-(first + count) * w // 8)] for w in planes(bits)]


def chunks(numel: int, align: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """Runs of values, first and last + 1, each starting at a multiple of `align`."""
    most = CPU_CHUNK_VALUES if device.type == "cpu" else DEVICE_CHUNK_VALUES
    step = max(1, most // align) * align
    return ((first, min(first + step, numel)) for first in range(0, numel, step))
