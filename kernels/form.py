"""What a kernel knows of a codec: `Form` when it is compiled, a table of byte offsets when it runs.

Both are read off the codec (`reference.core.scheme`, `reference.core.formats`), so no kernel holds a fact of its own. A
`Form` is a compile-time argument: one kernel for each codec, none for each message size. What depends on the size is a
row of the table for each part of the tensor (a wire buffer each), int64, with the columns named below.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from thinwire.reference.core.formats import element, planes, scale_cap
from thinwire.reference.core.nvfp4 import BLOCK, ELEMENT, NVFP4, ROW_SCALE, TOP
from thinwire.reference.core.scheme import ALIGNMENT_BYTES, MX, Codec, GroupedInt, OutlierHybrid

ALIGNMENT = tl.constexpr(ALIGNMENT_BYTES)  # of sections

# A tile holds one group (or rotation block) at least; Triton's tiles end at 2^20 values, registers much earlier.
MOST_VALUES = 1 << 15

# Columns of the table, by the sections that may stand there.
START, NUMEL, GROUPS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
PLANES = tl.constexpr(3)  # and the two after it
SCALES, ORIGINS, SPIKES, INDICES = tl.constexpr(6), tl.constexpr(7), tl.constexpr(8), tl.constexpr(9)
KEPT, PLACES = SPIKES, INDICES  # an outlier hybrid's
COLUMNS = tl.constexpr(10)
_COLUMN = {
    "scales": SCALES,
    "zero_points": ORIGINS,
    "minima": ORIGINS,
    "row_scales": ORIGINS,
    "spike_values": SPIKES,
    "spike_indices": INDICES,
    "kept_values": KEPT,
    "kept_indices": PLACES,
}


@dataclass(frozen=True, slots=True)
class Form:
    """A codec's facts at compile time. Floats are exact in fp32 unless they are limits that are compared with.

    grid: `symmetric`, `minimum`, `zero_point` for integers, `mx` for elements, `nvfp4` for elements with two scales.
    cap: largest scale. The element's numbers are 0 for integers. bits and widths: of a code and of its planes. slot:
    scales that a group's takes the room of, zeros after the first. blocks: of a group, each with a scale in units of
    the group's (nvfp4); else 0.
    """

    grid: str
    bits: int
    widths: tuple[int, ...]
    group: int
    rotation: int
    spikes: bool
    index_bytes: int
    scale: str
    cap: float
    mode: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    maximum: float
    largest_exponent: int
    has_infinity: bool
    has_nan: bool
    slot: int = 1
    blocks: int = 0

    @property
    def padded(self) -> int:
        """The group widened to a power of two, which tiles are made of."""
        return int(triton.next_power_of_2(self.group))

    @property
    def padded_group(self) -> int:
        """The same: a group is one block."""
        return self.padded

    @property
    def least(self) -> int:
        """Values a tile must hold: a group, and a rotation block."""
        return max(self.padded, self.rotation)

    @property
    def scale_bytes(self) -> int:
        """Bytes of the wire from a group's scale, or its minimum, to the next one's."""
        return element(self.scale).bits // 8 * self.slot

    @property
    def steps(self) -> int:
        """Steps of an integer grid, first to last level."""
        return (1 << self.bits) - 1

    @property
    def top(self) -> int:
        """Last level above zero, in steps."""
        return (1 << (self.bits - 1)) - 1 if self.grid == "symmetric" else self.steps

    @property
    def offset(self) -> int:
        """What is added to a signed code."""
        return 1 << (self.bits - 1) if self.grid == "symmetric" else 0


@dataclass(frozen=True, slots=True)
class HybridForm:
    """An outlier hybrid's facts at compile time. bits and widths: of a code and of its planes; keep: values of a block,
    of which one stays bf16; group: whole blocks that share a scale (static: one block, no scale is sent); scale and
    cap: the sent scale's format and its largest number.
    """

    bits: int
    widths: tuple[int, ...]
    keep: int
    group: int
    scale: str
    cap: float

    @property
    def padded(self) -> int:
        """The block widened to a power of two and to 8 values, which tiles are made of."""
        return max(8, int(triton.next_power_of_2(self.keep)))

    @property
    def blocks(self) -> int:
        """Blocks of a group."""
        return self.group // self.keep

    @property
    def padded_blocks(self) -> int:
        """Blocks of a group, widened to a power of two."""
        return int(triton.next_power_of_2(self.blocks))

    @property
    def padded_group(self) -> int:
        """Values of a group, widened as its blocks and their number are."""
        return self.padded * self.padded_blocks

    @property
    def least(self) -> int:
        """Values a tile must hold: groups with a multiple of 8 blocks, whose codes are whole bytes of any plane."""
        return self.padded_group * (8 // math.gcd(8, self.blocks))

    @property
    def start_align(self) -> int:
        """What the start of every part is a multiple of, as far as loads of 8 values care."""
        return math.gcd(8, self.group)

    @property
    def lane(self) -> int:
        """Bits that a code takes in a word of 8."""
        return 4 if self.bits <= 4 else 8

    @property
    def top(self) -> int:
        """Last level of the dynamic grid, in steps."""
        return (1 << (self.bits - 1)) - 1

    @property
    def offset(self) -> int:
        """What is added to a signed code."""
        return 1 << (self.bits - 1)


@triton.constexpr_function
def fact(form: Any, name: str) -> Any:
    """A field of a `Form` or `HybridForm` inside a kernel."""
    return getattr(form, name)


@lru_cache(maxsize=1024)
def form(codec: Codec) -> Form:
    """The form of a grouped integer, MX or NVFP4 codec.

    Raises ValueError for another codec, for a rotation without groups of a power of two, and for groups or rotation
    blocks that no tile can hold.
    """
    if isinstance(codec, NVFP4):
        return _nvfp4_form(codec)
    if not isinstance(codec, GroupedInt | MX):
        raise ValueError(f"grouped integers, MX and NVFP4 codecs have a form: given {codec.spec}")
    rotation = codec.rotation or 0
    if rotation and codec.group & (codec.group - 1):
        raise ValueError(f"triton kernels rotate groups of a power of two only: group={codec.group} in {codec.spec}")
    if max(codec.group, rotation) > MOST_VALUES:
        raise ValueError(f"triton kernels take groups and rotations up to {MOST_VALUES} values: given {codec.spec}")
    if isinstance(codec, GroupedInt):
        top = (1 << (codec.bits - 1)) - 1 if codec.grid == "symmetric" else (1 << codec.bits) - 1
        return Form(
            grid=codec.grid, bits=codec.bits, widths=planes(codec.bits), group=codec.group, rotation=rotation,
            spikes=codec.spikes, index_bytes=codec.index_bytes, scale=codec.metadata,
            cap=scale_cap(codec.metadata, top), mode="", exponent_bits=0, mantissa_bits=0, bias=0, maximum=0.0,
            largest_exponent=0, has_infinity=False, has_nan=False,
        )  # fmt: skip
    row = element(codec.element)
    return Form(
        grid="mx", bits=row.bits, widths=planes(row.bits), group=codec.block, rotation=rotation, spikes=False,
        index_bytes=0, scale=codec.scale, cap=scale_cap(codec.scale, row.maximum), mode=codec.mode,
        exponent_bits=row.exponent_bits, mantissa_bits=row.mantissa_bits, bias=row.bias, maximum=row.maximum,
        largest_exponent=row.largest_exponent, has_infinity=row.has_infinity, has_nan=row.has_nan,
        slot=codec.scale_bytes * 8 // element(codec.scale).bits,
    )  # fmt: skip


def _nvfp4_form(codec: NVFP4) -> Form:
    """A row is the group. Raises ValueError for rows that no tile can hold."""
    if codec.row > MOST_VALUES:
        raise ValueError(f"triton kernels take rows up to {MOST_VALUES} values: given {codec.spec}")
    row = element(ELEMENT)
    return Form(
        grid="nvfp4", bits=row.bits, widths=planes(row.bits), group=codec.row, rotation=0, spikes=False, index_bytes=0,
        scale=ROW_SCALE, cap=scale_cap(ROW_SCALE, TOP), mode="", exponent_bits=row.exponent_bits,
        mantissa_bits=row.mantissa_bits, bias=row.bias, maximum=row.maximum, largest_exponent=row.largest_exponent,
        has_infinity=row.has_infinity, has_nan=row.has_nan, blocks=codec.row // BLOCK,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def hybrid_form(codec: Codec) -> HybridForm:
    """The form of an outlier hybrid. Raises ValueError for another codec, and for groups that no tile can hold."""
    if not isinstance(codec, OutlierHybrid):
        raise ValueError(f"an outlier hybrid is needed: given {codec.spec}")
    found = HybridForm(
        bits=codec.bits, widths=planes(codec.bits), keep=codec.keep_one_in, group=codec.group, scale="bf16",
        cap=scale_cap("bf16", (1 << (codec.bits - 1)) - 1),
    )  # fmt: skip
    if codec.scale == "dynamic" and found.least > MOST_VALUES:
        raise ValueError(f"triton kernels take 8 blocks and a group of up to {MOST_VALUES} values: given {codec.spec}")
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """A flat tensor cut into parts, each a wire buffer of its own: where they start, and where their sections lie.

    table: int64 [parts, COLUMNS] on the device. nbytes: of each part's buffer. most_groups: of the largest part.
    """

    codec: Codec
    numels: tuple[int, ...]
    nbytes: tuple[int, ...]
    most_groups: int
    table: Tensor

    def __len__(self) -> int:
        return len(self.numels)


@lru_cache(maxsize=4096)
def parts(codec: Codec, numels: tuple[int, ...], device: torch.device) -> Parts:
    """`numels` values after one another, each run encoded on its own; runs but the last hold whole groups.

    Raises ValueError where a part that is followed by another would cut a group in two.
    """
    rows: list[list[int]] = []
    start = 0
    for index, numel in enumerate(numels):
        if numel % codec.align and any(numels[index + 1 :]):
            raise ValueError(f"only the last part may be ragged: {numel} values, groups of {codec.align}")
        row = [0] * COLUMNS.value
        row[START], row[NUMEL], row[GROUPS] = start, numel, -(-numel // codec.align) * (codec.align // codec.group)
        plane = PLANES.value
        for section, at in zip(codec.sections(numel), codec.offsets(numel), strict=True):
            if section.name.startswith("plane"):
                row[plane] = at
                plane += 1
            else:
                row[_COLUMN[section.name]] = at
        rows.append(row)
        start += numel
    table = torch.tensor(rows, dtype=torch.int64).to(device)
    most = max(row[GROUPS] for row in rows)
    return Parts(codec, numels, tuple(codec.wire_bytes(n) for n in numels), most, table)


def as_rows(values: Tensor) -> Tensor:
    """A flat tensor [N] as one row [1, N]; [R, N] as it is. Raises ValueError for rows that are not contiguous."""
    found = values[None] if values.dim() == 1 else values
    if found.dim() != 2 or (found.stride(1) != 1 and found.shape[1] > 1):
        raise ValueError(f"values must be [N] or [rows, N] with contiguous rows: shape={list(values.shape)}")
    return found


def row_stride(rows: Tensor) -> int:
    """Values from row to row; 0 for a single row, whose odd length would keep a compiler from wide accesses."""
    return rows.stride(0) if rows.shape[0] > 1 else 0
