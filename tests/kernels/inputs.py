"""What kernel tests feed to codecs, groups of every awkward kind, exact ties among them, and how they compare bits.

Bits are compared, not values: what differs between two implementations of one format differs at ties, at the ends of a
type's range, in groups of zeros and in groups that are not numbers, seldom in between.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from thinwire.kernels.decode import decode_into
from thinwire.kernels.encode import encode_into
from thinwire.kernels.form import parts
from thinwire.reference.core.formats import element
from thinwire.reference.core.scheme import MX, Codec, GroupedInt
from thinwire.reference.quantize import decode_flat, encode_flat

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
RAW_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
# Exponents of the smallest subnormal and of the largest number.
RANGE = {torch.bfloat16: (-133, 127), torch.float16: (-24, 15), torch.float32: (-149, 127)}
POISON = 0xA5


def sizes(codec: Codec) -> tuple[int, ...]:
    """Tails: one value, one short of a group, one more than one, several groups and a bit."""
    return (1, codec.group - 1, codec.group + 1, 3 * codec.align + 5)


def groups(codec: GroupedInt | MX, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Whole groups (whole rotation blocks, where those are larger) of every kind, flat, in a random order."""
    generator = torch.Generator().manual_seed(seed)
    size = codec.align
    times = max(1, 96 // size)  # small groups: more of each kind

    def normal(rows: int) -> Tensor:
        return torch.randn(rows, size, generator=generator, dtype=torch.float64)

    low, high = RANGE[dtype]
    largest = torch.finfo(dtype).max
    exponents = torch.linspace(low - 1, high, 20, dtype=torch.float64).round().repeat_interleave(times)[:, None]
    inside = torch.randint(max(low, -40), min(high - 4, 40), (2 * times, size), generator=generator)
    finite = [
        normal(3 * times),
        normal(times) + 100,
        normal(times) - 100,
        normal(20 * times) * 2.0**exponents,
        normal(2 * times) * 2.0**inside,
        _constants(size, largest, 2.0**low),
        _zeros_and_spikes(size, largest, normal(3)),
        _binades(size),
    ]
    filled = torch.cat(finite).clamp(-largest, largest).to(dtype)
    spread = torch.tensor([-120, -12, -9, -6, -3, 0, 3, 6, 9, 12, 100, 1], dtype=torch.float64).clamp(low + 6, high - 4)
    near = _ties(codec, dtype, normal(12 * times) * 2.0 ** spread.repeat(times)[:, None])
    found = torch.cat([filled, near, _bad(normal(8), dtype)])
    return found[torch.randperm(len(found), generator=generator)].reshape(-1)


def _constants(size: int, largest: float, smallest: float) -> Tensor:
    values = [1.0, -1.0, 3.25, -math.pi, 1e-3, smallest, -smallest, 3 * smallest, largest, -largest, 0.75 * largest]
    return torch.tensor(values, dtype=torch.float64)[:, None].repeat(1, size)


def _zeros_and_spikes(size: int, largest: float, normal: Tensor) -> Tensor:
    """Zeros of either sign, and one or two large values among zeros and among ordinary ones."""
    rows = torch.zeros(11, size, dtype=torch.float64)
    rows[1] = -0.0
    rows[2, ::2] = -0.0
    rows[3, 3] = 1.0
    rows[4, 5] = -largest
    rows[5, 2] = largest
    rows[6, 1], rows[6, 6] = largest, -largest
    rows[7] = -0.0
    rows[7, 0] = largest
    rows[8:] = normal
    rows[8, 7] = largest
    rows[9, 0], rows[9, size - 1] = -largest, largest
    rows[10, 2::3] = 0.0
    rows[10, 4] = 300.0
    return rows


def _binades(size: int) -> Tensor:
    """All bf16 numbers of three binades, both signs."""
    steps = 1 + torch.arange(128, dtype=torch.float64) / 128
    values = torch.cat([sign * steps * 2.0**power for power in (-1, 0, 6) for sign in (1, -1)])
    values = torch.nn.functional.pad(values, (0, -len(values) % size))
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(5))
    return values[order].view(-1, size)


def _bad(normal: Tensor, dtype: torch.dtype) -> Tensor:
    """Groups with something in them that is no finite number."""
    rows = normal.clone()
    last = rows.shape[1] - 1
    rows[0, 3] = math.nan
    rows[1, last] = math.inf
    rows[2, 0] = -math.inf
    rows[3, 1], rows[3, 2] = math.inf, -math.inf
    rows[4, :] = math.nan
    rows[5, :] = math.inf
    rows[6, 5], rows[6, 6] = math.nan, math.inf
    found = rows.to(dtype)
    found.view(RAW_BITS[dtype])[7, 4] = -1  # a NaN with its sign and all of its payload set
    return found


def wire_scales(buffer: Tensor, numel: int, codec: GroupedInt | MX) -> Tensor:
    """fp64 [groups, 1]: the scales in a wire buffer."""
    kind = codec.metadata if isinstance(codec, GroupedInt) else codec.scale
    at = dict(zip((s.name for s in codec.sections(numel)), codec.offsets(numel), strict=True))["scales"]
    count = -(-numel // codec.align) * (codec.align // codec.group)
    raw = buffer[at : at + count * element(kind).bits // 8].clone()
    if kind == "e8m0":
        return torch.where(raw == 255, math.nan, 2.0 ** (raw.double() - 127))[:, None]
    return raw.view(DTYPES[kind]).double()[:, None]


def halves(codec: GroupedInt | MX) -> Tensor:
    """fp64: midway between neighbouring levels, in scales from the level that is zero or the minimum."""
    if isinstance(codec, GroupedInt):
        top = 1 << (codec.bits - (codec.grid == "symmetric"))
        return torch.arange(-top, top, dtype=torch.float64) + 0.5
    row = element(codec.element)
    levels = sorted({value for value in map(row.value, range(1 << row.bits)) if math.isfinite(value)})
    level = torch.tensor(levels, dtype=torch.float64)
    return (level[1:] + level[:-1]) / 2


def _with_short_scales(values_GK: Tensor, codec: GroupedInt | MX) -> Tensor:
    """Every other group with a range that makes its scale 1, 3 or 5 times a power of two.

    A scale of eight random bits times a half integer is hardly ever a bf16 number, so it would have no ties.
    """
    count = torch.arange(len(values_GK))[:, None]
    power_G = torch.floor(torch.log2(values_GK.abs().amax(1, keepdim=True)))
    unit_G = torch.tensor([1.0, 3.0, 1.0, 5.0], dtype=torch.float64)[count // 2 % 4] * 2.0**power_G
    if isinstance(codec, MX):
        low, high = -element(codec.element).maximum, element(codec.element).maximum
    elif codec.grid == "symmetric":
        high = float((1 << (codec.bits - 1)) - 1)
        low = -high
    else:
        steps = (1 << codec.bits) - 1
        low = 1.0 if codec.grid == "minimum" else -float(steps // 2)
        high = low + steps
    found_GK = values_GK.clamp(low * unit_G, high * unit_G)
    found_GK[:, 1::7], found_GK[:, 2::7] = low * unit_G, high * unit_G
    found_GK[:, :1], found_GK[:, 4:5] = low * unit_G, high * unit_G  # a second pair, where the first are spikes
    return torch.where(count % 2 == 0, found_GK, values_GK)


def _ties(codec: GroupedInt | MX, dtype: torch.dtype, rows: Tensor) -> Tensor:
    """`rows` whose middling values are moved to ties between two codes and to the numbers next to those.

    A group's extremes stay, and so does its scale. Rotated values are no ties of anything: nothing is moved.
    """
    even_GK = _with_short_scales(rows.view(-1, codec.group), codec).view(rows.shape)
    rows = even_GK.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
    if codec.rotation:
        return rows
    flat = rows.reshape(-1)
    buffer = encode_flat(flat, codec)
    scale_G = wire_scales(buffer, flat.numel(), codec)
    values_GK = rows.view(-1, codec.group)
    origin_G = torch.zeros_like(scale_G)
    if isinstance(codec, GroupedInt) and codec.grid == "minimum":
        origin_G = values_GK.double().amin(1, keepdim=True)  # for bf16 and fp16 scales of their own type: the one sent
    middle = halves(codec)
    generator = torch.Generator().manual_seed(9)
    order_GK = values_GK.double().argsort(1)
    moved = order_GK[:, codec.group // 4 : 3 * codec.group // 4]
    chosen = middle[torch.randint(0, len(middle), moved.shape, generator=generator)]
    exact = (origin_G + chosen * scale_G).to(dtype)
    step = torch.randint(-1, 2, moved.shape, generator=generator).to(RAW_BITS[dtype])
    step *= torch.randint(0, 2, moved.shape, generator=generator).to(RAW_BITS[dtype])  # every other one is a tie
    near = (exact.view(RAW_BITS[dtype]) + step).view(dtype)
    sorted_GK = values_GK.gather(1, order_GK)
    low_G, high_G = sorted_GK[:, 2:3], sorted_GK[:, -3:-2]
    kept = torch.where(near.isfinite() & (near >= low_G) & (near <= high_G), near, values_GK.gather(1, moved))
    return values_GK.clone().scatter_(1, moved, kept).view(rows.shape)


def same(left: Tensor, right: Tensor) -> bool:
    """Equal to the bit, signs of zeros included; NaN where NaN."""
    bad = left.isnan()
    raw = RAW_BITS[left.dtype]
    return (
        left.dtype == right.dtype
        and torch.equal(bad, right.isnan())
        and torch.equal(left.view(raw).masked_fill(bad, 0), right.view(raw).masked_fill(bad, 0))
    )


def copies(codec: Codec, values_RN: Tensor, cuts: tuple[tuple[int, int], ...], stride: int) -> tuple[Tensor, Tensor]:
    """What ranks send, from the reference: wire buffers uint8 [R, parts, stride], and fp32 sums [N] in rank order."""
    ranks, numel = values_RN.shape
    wire = torch.full((ranks, len(cuts), stride), POISON, dtype=torch.uint8)
    total = torch.zeros(numel)
    for part, (start, stop) in enumerate(cuts):
        for rank in range(ranks):
            buffer = encode_flat(values_RN[rank, start:stop], codec)
            wire[rank, part, : len(buffer)] = buffer
            value = decode_flat(buffer, stop - start, codec)
            total[start:stop] = value if rank == 0 else total[start:stop] + value
    return wire, total


# ---- comparing


def wire_of(numel: int, codec: Codec, device: torch.device) -> Tensor:
    """A poisoned wire buffer [1, 1, bytes + 16]."""
    return torch.full((1, 1, codec.wire_bytes(numel) + 16), POISON, dtype=torch.uint8, device=device)


def check_encode(values_N: Tensor, codec: Codec, device: torch.device) -> Tensor:
    """Every byte of the buffer is the reference's, and no other byte was touched; the reference's buffer."""
    numel = values_N.numel()
    expected = encode_flat(values_N, codec)
    wire = wire_of(numel, codec, device)
    encode_into(values_N.to(device), wire, parts(codec, (numel,), device))
    found = wire[0, 0].cpu()
    if not torch.equal(found[: len(expected)], expected):
        place = int((found[: len(expected)] != expected).nonzero()[0])
        pytest.fail(f"{codec.spec} {values_N.dtype} {numel}: byte {place}: {explain(codec, numel, place)}")
    assert (found[len(expected) :] == POISON).all(), f"{codec.spec}: wrote beyond its buffer"
    return expected


def explain(codec: Codec, numel: int, place: int) -> str:
    """Where in a buffer a byte lies."""
    found = max((at, s.name) for s, at in zip(codec.sections(numel), codec.offsets(numel), strict=True) if at <= place)
    return f"{found[1]} + {place - found[0]}"


def check_decode(buffer: Tensor, numel: int, codec: Codec, dtype: torch.dtype, device: torch.device) -> None:
    """The reference's values, and none beyond them."""
    wire = torch.zeros(1, 1, -(-len(buffer) // 16) * 16, dtype=torch.uint8, device=device)
    wire[0, 0, : len(buffer)] = buffer.to(device)
    found = torch.full((1, numel + 8), 77.0, dtype=dtype, device=device)
    decode_into(wire, found[:, :numel], parts(codec, (numel,), device))
    expected = decode_flat(buffer, numel, codec, dtype=dtype)
    if not same(found[0, :numel].cpu(), expected):
        raw = RAW_BITS[dtype]
        wrong = (found[0, :numel].cpu().view(raw) != expected.view(raw)).nonzero().flatten()[:3]
        pytest.fail(f"{codec.spec} {dtype} {numel}: {wrong.tolist()}: {found[0].cpu()[wrong]}, not {expected[wrong]}")
    assert (found[0, numel:] == 77).all(), f"{codec.spec}: wrote beyond its values"
