"""Codecs and schemes: what crosses the wire, to the byte, as frozen values that know nothing of torch or of
time.

Every encoded buffer is a row of sections, each padded to 16 bytes: bit planes of the codes, then scales,
then zero points or minima, then spikes and indices. Values are padded with zeros to whole groups before
they are encoded. The choices where the papers are silent stand in docs/decisions/001-wire-formats.md.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from thinwire.edge.limits import CHUNKS, GROUP, MESSAGE, ROTATION, TOKENS
from thinwire.edge.words import shown
from thinwire.reference.core.formats import element, planes

ALIGNMENT_BYTES = 16

Grid = Literal["symmetric", "minimum", "zero_point"]
Collective = Literal["auto", "ring", "tree", "two_step", "all_gather", "hierarchical", "nvls", "none"]
Carrier = Literal["nccl", "vllm", "sglang", "sglang-ipc", "trtllm"]
Phase = Literal["dispatch", "combine"]  # experts' tokens on their way to experts, and what those gave on its way back

GRID_WORDS: dict[Grid, str] = {"symmetric": "sym", "minimum": "min", "zero_point": "zp"}
RAW_FORMATS = ("bf16", "fp16", "fp32")
MX_ELEMENTS = ("e2m1", "e2m3", "e3m2", "e4m3", "e5m2", "int8")
SCALE_FORMATS = ("bf16", "fp16", "fp32", "e8m0")
ScaleMode = Literal["floor", "rceil", "ceil", "even"]


@dataclass(frozen=True, slots=True)
class Section:
    """One run of an encoded buffer: its name, its exact bytes before padding to 16, and the type of what it holds:
    uint8, uint16, bf16, fp16 or fp32.
    """

    name: str
    nbytes: int
    holds: str = "uint8"


class Codec(ABC):
    """A number format on the wire. Subclasses are frozen dataclasses: equal parameters, equal codec."""

    __slots__ = ()

    @property
    @abstractmethod
    def group(self) -> int:
        """Values that share one scale (Raw: 1)."""

    @property
    def align(self) -> int:
        """Values that must not be parted: the group, widened to whole rotation blocks."""
        return self.group

    @property
    @abstractmethod
    def spec(self) -> str:
        """The canonical spec; `parse_codec(codec.spec) == codec`."""

    @property
    @abstractmethod
    def bits_per_value(self) -> float:
        """Bits a value costs in a long buffer, all metadata counted, padding not."""

    @property
    def is_raw(self) -> bool:
        """True where the wire holds the values themselves."""
        return False

    @property
    def needs_calibration(self) -> bool:
        """True where `encode` and `decode` want a calibration, the rank and the position of what they are given."""
        return False

    @abstractmethod
    def _sections(self, numel: int) -> tuple[Section, ...]:
        """`sections` for numel > 0."""

    def sections(self, numel: int) -> tuple[Section, ...]:
        """The buffer's sections in order for `numel` values, exact bytes; () for none. ValueError below 0."""
        if numel < 0:
            raise ValueError(f"numel must not be negative: numel={numel}")
        return self._sections(numel) if numel else ()

    def offsets(self, numel: int) -> tuple[int, ...]:
        """Byte offset of each section of `sections(numel)` in the buffer."""
        starts, at = [], 0
        for section in self.sections(numel):
            starts.append(at)
            at += _padded(section.nbytes)
        return tuple(starts)

    def wire_bytes(self, numel: int) -> int:
        """Bytes of the encoded buffer of `numel` values, padding included. ValueError below 0."""
        return _wire_bytes(self, numel)


@lru_cache(maxsize=65536)
def _wire_bytes(codec: Codec, numel: int) -> int:
    sections = codec.sections(numel)
    if codec.is_raw:
        return sum(section.nbytes for section in sections)
    return sum(_padded(section.nbytes) for section in sections)


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _plane_sections(bits: int, codes: int) -> tuple[Section, ...]:
    return tuple(Section(f"plane{width}", -(-codes * width // 8)) for width in planes(bits))


def _held(scale: str) -> str:
    """What a section of scales holds: an e8m0 is no type of anybody's, but a byte."""
    return "uint8" if scale == "e8m0" else scale


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{what} must be one of {', '.join(allowed)}: {what}={shown(value)}")


def _check_group(what: str, group: int) -> None:
    if group < 8 or group % 8:  # whole bytes in every plane, a 1-bit plane included
        raise ValueError(f"{what} must be a positive multiple of 8: {what}={group}")
    GROUP.check(what, group)


def _check_rotation(rotation: int | None) -> None:
    if rotation is not None and (rotation < 2 or rotation & (rotation - 1)):
        raise ValueError(f"rotation must be None or a power of two above 1: rotation={rotation}")
    if rotation is not None:
        ROTATION.check("rotation", rotation)


@dataclass(frozen=True, slots=True)
class Raw(Codec):
    """The values themselves, unpadded: bf16, fp16 or fp32."""

    format: str = "bf16"

    def __post_init__(self) -> None:
        _one_of("format", self.format, RAW_FORMATS)

    @property
    def group(self) -> int:
        """One: no value shares anything with another."""
        return 1

    @property
    def spec(self) -> str:
        """The format's name."""
        return self.format

    @property
    def bits_per_value(self) -> float:
        """16 or 32."""
        return float(element(self.format).bits)

    @property
    def is_raw(self) -> bool:
        """True."""
        return True

    def _sections(self, numel: int) -> tuple[Section, ...]:
        return (Section("values", numel * element(self.format).bits // 8),)


@dataclass(frozen=True, slots=True)
class GroupedInt(Codec):
    """Integer codes of `bits` bits (2..8) in bit planes, one scale for each `group` values.

    grid: `symmetric` (scale only), `minimum` (scale and the group's minimum, both in `metadata`: a constant
    group is exact) or `zero_point` (scale and an integer zero point, one byte a group: zero is exact).
    spikes: each group's minimum and maximum travel in bf16 with their positions, and the range shrinks to
    the rest. rotation: size of the Hadamard blocks applied before encoding and undone after decoding; None
    = not rotated.
    """

    bits: int
    group: int = 128
    grid: Grid = "zero_point"
    spikes: bool = False
    rotation: int | None = None
    metadata: str = "bf16"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must lie in 2..8: bits={self.bits}")
        _check_group("group", self.group)
        _one_of("grid", self.grid, get_args(Grid))
        _one_of("metadata", self.metadata, SCALE_FORMATS)
        if self.grid == "minimum" and self.metadata == "e8m0":
            raise ValueError("a minimum needs a signed metadata format: grid='minimum', metadata='e8m0'")
        _check_rotation(self.rotation)

    @property
    def align(self) -> int:
        """Values of the smallest run of whole groups and whole rotation blocks."""
        return math.lcm(self.group, self.rotation or 1)

    @property
    def index_bytes(self) -> int:
        """Bytes of one spike's position within its group."""
        return 1 if self.group <= 256 else 2

    @property
    def spec(self) -> str:
        """`int4-g128-zp`, then `-sr`, `-h64` and a metadata format other than bf16 where they apply."""
        parts = [f"int{self.bits}", f"g{self.group}", GRID_WORDS[self.grid]]
        parts += ["sr"] if self.spikes else []
        parts += [f"h{self.rotation}"] if self.rotation else []
        parts += [self.metadata] if self.metadata != "bf16" else []
        return "-".join(parts)

    @property
    def bits_per_value(self) -> float:
        """Code bits and the group's metadata spread over its values."""
        return self.bits + 8 * sum(section.nbytes for section in self._group_sections(1)) / self.group

    def _group_sections(self, groups: int) -> tuple[Section, ...]:
        size, kind = element(self.metadata).bits // 8, _held(self.metadata)
        found = [Section("scales", groups * size, kind)]
        if self.grid == "minimum":
            found.append(Section("minima", groups * size, kind))
        elif self.grid == "zero_point":
            found.append(Section("zero_points", groups))
        if self.spikes:
            found.append(Section("spike_values", groups * 2 * 2, "bf16"))
            found.append(Section("spike_indices", groups * 2 * self.index_bytes, f"uint{8 * self.index_bytes}"))
        return tuple(found)

    def _sections(self, numel: int) -> tuple[Section, ...]:
        padded = -(-numel // self.align) * self.align
        return _plane_sections(self.bits, padded) + self._group_sections(padded // self.group)


@dataclass(frozen=True, slots=True)
class MX(Codec):
    """Elements of a block share one scale: OCP MX where `scale` is `e8m0` and `block` 32; a floating scale
    otherwise.

    element: e2m1 e2m3 e3m2 e4m3 e5m2 int8, stored in bit planes like any other code (6 bits = 4 + 2).
    mode: how an e8m0 scale is chosen; `floor` is the specification's way, what the others do stands in
    docs/decisions/006-numerics.md. No mode changes a byte count. slot: bytes that a block's scale takes on the
    wire, zeros behind it; None = its own. TensorRT-LLM's packets carry theirs in a slot of 16 bytes.
    """

    element: str
    block: int = 32
    scale: str = "e8m0"
    rotation: int | None = None
    mode: ScaleMode = "floor"
    slot: int | None = None

    def __post_init__(self) -> None:
        _one_of("element", self.element, MX_ELEMENTS)
        _one_of("scale", self.scale, SCALE_FORMATS)
        _one_of("mode", self.mode, get_args(ScaleMode))
        if self.mode != "floor" and self.scale != "e8m0":
            raise ValueError(f"only an e8m0 scale has a mode: mode={self.mode!r}, scale={self.scale!r}")
        _check_group("block", self.block)
        _check_rotation(self.rotation)
        size = element(self.scale).bits // 8
        wider = [size << power for power in range(1, 5) if size << power <= ALIGNMENT_BYTES]
        if self.slot is not None and self.slot not in wider:
            raise ValueError(f"slot must be None or one of {', '.join(map(str, wider))} bytes: slot={self.slot}")

    @property
    def group(self) -> int:
        """Values of a block."""
        return self.block

    @property
    def align(self) -> int:
        """Values of the smallest run of whole blocks and whole rotation blocks."""
        return math.lcm(self.block, self.rotation or 1)

    @property
    def spec(self) -> str:
        """`mx-e2m1-b32`, then `-h64`, a scale format other than e8m0, a mode other than floor and a slot."""
        parts = ["mx", self.element, f"b{self.block}"]
        parts += [f"h{self.rotation}"] if self.rotation else []
        parts += [self.scale] if self.scale != "e8m0" else []
        parts += [self.mode] if self.mode != "floor" else []
        parts += [f"s{self.slot}"] if self.slot else []
        return "-".join(parts)

    @property
    def bits_per_value(self) -> float:
        """Element bits and the block's scale, or its slot, spread over its values."""
        return element(self.element).bits + 8 * self.scale_bytes / self.block

    @property
    def scale_bytes(self) -> int:
        """Bytes of the wire from one block's scale to the next one's."""
        return self.slot or element(self.scale).bits // 8

    def _sections(self, numel: int) -> tuple[Section, ...]:
        padded = -(-numel // self.align) * self.align
        scales = Section("scales", padded // self.block * self.scale_bytes, _held(self.scale))
        return (*_plane_sections(element(self.element).bits, padded), scales)


@dataclass(frozen=True, slots=True)
class OutlierHybrid(Codec):
    """`numel // keep_one_in` values of a buffer travel in bf16, the others as symmetric `bits`-bit codes
    (2..8).

    scale `static`: which values are kept and every rank's scale for each feature come from a calibration
    that all ranks hold, so neither is sent. scale `dynamic`: nothing is calibrated; the largest magnitude
    of each whole block of `keep_one_in` values is kept with a one-byte position, and each `group` values
    carry a bf16 scale. Kept values leave no hole in the code planes; the tail is not padded.
    """

    bits: int = 4
    keep_one_in: int = 64
    scale: Literal["static", "dynamic"] = "static"
    group: int = 64

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits must lie in 2..8: bits={self.bits}")
        if not 2 <= self.keep_one_in <= 256:  # a position fits one byte
            raise ValueError(f"keep_one_in must lie in 2..256: keep_one_in={self.keep_one_in}")
        _one_of("scale", self.scale, ("static", "dynamic"))
        if self.scale == "static" and self.group != self.keep_one_in:
            raise ValueError(
                "a static hybrid has no scale groups, so group must equal keep_one_in: "
                f"group={self.group}, keep_one_in={self.keep_one_in}"
            )
        if self.group > GROUP.most or self.group < 1 or self.group % self.keep_one_in:
            raise ValueError(
                f"group, at most {GROUP.most}, must be a multiple of keep_one_in: "
                f"group={self.group}, keep_one_in={self.keep_one_in}"
            )

    @property
    def spec(self) -> str:
        """`hybrid4-k64`, or `hybrid4-k64-dyn-g128` with dynamic scales."""
        base = f"hybrid{self.bits}-k{self.keep_one_in}"
        return base if self.scale == "static" else f"{base}-dyn-g{self.group}"

    @property
    def bits_per_value(self) -> float:
        """Codes, kept values and, where dynamic, their positions and the scales."""
        sent = (16 + (8 if self.scale == "dynamic" else 0)) / self.keep_one_in
        scales = 16 / self.group if self.scale == "dynamic" else 0.0
        return self.bits * (1 - 1 / self.keep_one_in) + sent + scales

    @property
    def needs_calibration(self) -> bool:
        """True where scales are static."""
        return self.scale == "static"

    def kept(self, numel: int) -> int:
        """How many of `numel` values stay in bf16."""
        return numel // self.keep_one_in

    def _sections(self, numel: int) -> tuple[Section, ...]:
        kept = self.kept(numel)
        found = _plane_sections(self.bits, numel - kept)
        if self.scale == "static":
            return (*found, Section("kept_values", 2 * kept, "bf16"))
        scales = Section("scales", 2 * -(-numel // self.group), "bf16")
        return (*found, scales, Section("kept_values", 2 * kept, "bf16"), Section("kept_indices", kept))


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a deployment chooses: codecs, collective, which all-reduces stay, how communication overlaps
    compute.

    drop_attention_percent: sync-point drop, the share of blocks, taken from the last block backwards, whose
    attention all-reduce is left out. sequence_split: share of the tokens in the first half of a split
    sequence (None = whole). chunk_values, chunks_in_flight: pipelined chunks (None = one chunk).
    codec_launch: codec kernels inside the collective's kernel, or launches of their own. exempt_tokens: the
    first tokens of every sequence, which travel uncompressed in an all-reduce of their own: activations of
    the very first are often a hundred times the others'. exempt_last_tokens: the last tokens of every
    prompt, which travel uncompressed in the same messages: from the very last the first token of the answer is
    predicted. carrier: whose choice `auto` is, by size: NCCL's alone or an engine's; None takes the best that the
    fabric has. dispatch, combine: codecs of the tokens that travel to experts on other ranks, and of what comes back;
    None = uncompressed. All-reduces know nothing of them, nor models without experts. kernels_on: architectures that
    its fused kernels were written for, as files of GPUs name them; none where they run anywhere or nobody says. Raises
    ValueError for a combination that means nothing.
    """

    name: str
    reduce: Codec
    gather: Codec
    collective: Collective
    drop_attention_percent: float = 0.0
    sequence_split: float | None = None
    chunk_values: int | None = None
    chunks_in_flight: int = 1
    codec_launch: Literal["fused", "separate"] = "separate"
    exempt_tokens: int = 0
    exempt_last_tokens: int = 0
    source: str = ""
    carrier: Carrier | None = None
    dispatch: Codec | None = None
    combine: Codec | None = None
    kernels_on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("collective", self.collective, get_args(Collective))
        _one_of("codec_launch", self.codec_launch, ("fused", "separate"))
        given = f"reduce={self.reduce.spec}, gather={self.gather.spec}"
        if self.collective in ("auto", "none", "nvls") and not self.is_raw:
            raise ValueError(f"collective {self.collective} carries raw values only: {given}")
        if self.carrier is not None:
            _one_of("carrier", self.carrier, get_args(Carrier))
            if self.collective != "auto":
                raise ValueError(f"a carrier chooses the collective, which must be auto: {self.collective}")
        if self.collective == "all_gather" and self.reduce != self.gather:
            raise ValueError(f"collective all_gather has one phase, its two codecs must be equal: {given}")
        if not 0 <= self.drop_attention_percent <= 100:
            raise ValueError(f"drop_attention_percent must lie in 0..100: {self.drop_attention_percent}")
        if self.sequence_split is not None and not 0 < self.sequence_split < 1:
            raise ValueError(f"sequence_split must lie between 0 and 1, or be None: {self.sequence_split}")
        for name in ("exempt_tokens", "exempt_last_tokens"):
            exempt = getattr(self, name)
            if exempt < 0 or (exempt and self.is_raw):
                raise ValueError(f"{name} must be 0, or more with a codec: {exempt}, {given}")
            if exempt > TOKENS.most:
                raise ValueError(f"{name} must be at most {TOKENS.most}: {exempt}")
        if self.chunk_values is not None and not 1 <= self.chunk_values <= MESSAGE.most:
            raise ValueError(f"chunk_values must lie in 1..{MESSAGE.most}, or be None: {self.chunk_values}")
        CHUNKS.check("chunks_in_flight", max(1, self.chunks_in_flight))
        if self.chunks_in_flight < 1 or (self.chunks_in_flight > 1 and self.chunk_values is None):
            raise ValueError(
                "chunks_in_flight must be 1, or more with chunk_values given: "
                f"chunks_in_flight={self.chunks_in_flight}, chunk_values={self.chunk_values}"
            )
        for phase in get_args(Phase):
            codec = self.of_experts(phase)
            if codec is not None and (codec.is_raw or codec.needs_calibration):
                why = "None says uncompressed" if codec.is_raw else "tokens have no calibrated scales"
                raise ValueError(f"{phase} must be a codec that compresses by itself, {why}: {codec.spec}")

    @property
    def is_raw(self) -> bool:
        """True where neither phase of an all-reduce compresses."""
        return self.reduce.is_raw and self.gather.is_raw

    @property
    def compresses_experts(self) -> bool:
        """True where tokens are compressed on their way to experts, or back."""
        return self.dispatch is not None or self.combine is not None

    def of_experts(self, phase: Phase) -> Codec | None:
        """The codec of one phase of experts' traffic; None = uncompressed."""
        return self.dispatch if phase == "dispatch" else self.combine

    def for_experts(self, phase: Phase) -> Scheme:
        """What the all-to-all of one phase runs as, by itself: a direct exchange under its codec, by kernels of their
        own; uncompressed the carrier's choice. What is dropped, split or exempt is the all-reduces' business.
        """
        codec = self.of_experts(phase)
        if codec is None:
            by = f"auto:bf16@by={self.carrier}" if self.carrier else "bf16"
            return Scheme(by, Raw(), Raw(), "auto", source=self.source, carrier=self.carrier)
        return Scheme(f"two_step:{codec.spec}", codec, codec, "two_step", source=self.source)

    @property
    def align(self) -> int:
        """Values that must not be parted by either codec: cuts of the tensor fall on multiples of it."""
        return math.lcm(self.reduce.align, self.gather.align)

    def kept_attention(self, num_layers: int) -> tuple[bool, ...]:
        """For each block, first to last: does its attention all-reduce stay? Half a block is dropped."""
        dropped = math.floor(num_layers * self.drop_attention_percent / 100 + 0.5)
        return tuple(layer < num_layers - dropped for layer in range(num_layers))
