"""Rows picked by index on kernels: the reference's bytes and values, to the bit, and nothing beside them touched."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from thinwire.kernels import quantize as backend
from thinwire.kernels.combine import combine_into
from thinwire.kernels.gather_encode import gather_encode_into
from thinwire.kernels.launch import Tuning
from thinwire.kernels.scatter_decode import scatter_decode_into
from thinwire.reference.alltoall import all_to_all_local
from thinwire.reference.catalog import parse_codec
from thinwire.reference.core.scheme import MX, Codec, GroupedInt, OutlierHybrid, Raw
from thinwire.reference.core.tokens import row_values
from thinwire.reference.quantize import combine_rows, decode_rows, encode_rows

from .inputs import DTYPES, POISON, explain, groups, same

# Planes of one, two and three widths, every grid, spikes, rotation within and beyond groups, odd groups, slots, blocks.
SPECS = (
    "int4-g128-zp", "int8-g32-sym-fp16", "int5-g48-min", "int7-g8-sym-e8m0", "int2-g128-zp-sr", "int4-g32-zp-h64",
    "mx-e2m1-b32", "mx-e4m3-b128-fp32", "mx-e2m3-b24-rceil", "mx-e4m3-b496-fp32-s16", "nvfp4-r512", "nvfp4-r48",
    "hybrid4-k64-dyn", "hybrid5-k7-dyn-g21",
)  # fmt: skip
COUNTS = (5, 0, 1, 3)
ROWS = sum(COUNTS)


def rows_of(codec: Codec, dtype: torch.dtype, width: int, rows: int) -> Tensor:
    """Rows of every awkward kind of group, in a tensor whose rows lie apart; some are no numbers."""
    generator = torch.Generator().manual_seed(width)
    found = torch.randn(rows, width + 8, generator=generator)
    found *= torch.exp2(torch.randn(rows, 1, generator=generator) * 4)
    if isinstance(codec, GroupedInt | MX):
        awkward = groups(codec, dtype)[: rows // 2 * width].float()
        found[: rows // 2, :width] = torch.nn.functional.pad(awkward, (0, rows // 2 * width - len(awkward))).view(
            -1, width
        )
    else:
        found[0, 3], found[1, 0], found[2] = torch.nan, torch.inf, 0.0
    return found.to(dtype)[:, :width]


def buffers_of(x_MD: Tensor, codec: Codec) -> list[Tensor]:
    """The reference's messages of rows in order."""
    return [encode_rows(part, codec) for part in torch.split(x_MD, list(COUNTS))]


def widths(codec: Codec) -> tuple[int, int]:
    """Whole groups, and a row that is filled up."""
    return 2 * codec.align, codec.align + max(1, codec.align // 3)


@pytest.mark.parametrize(("number", "spec"), enumerate(SPECS))
def test_encoding_picked_rows(number: int, spec: str, device: torch.device) -> None:
    codec = parse_codec(spec)
    for turn, width in enumerate(widths(codec)):
        source = ("bf16", "fp32", "bf16", "fp16")[(number + turn) % 4]
        dtype = DTYPES[source]
        x = rows_of(codec, dtype, width, 6)
        index = torch.randint(0, 6, (ROWS,), generator=torch.Generator().manual_seed(1))
        expected = torch.cat(buffers_of(x[index], codec))
        wire = torch.full((len(expected) + 16,), POISON, dtype=torch.uint8, device=device)
        gather_encode_into(x.to(device), index.to(device), COUNTS, wire, codec)
        found = wire.cpu()
        if not torch.equal(found[: len(expected)], expected):
            place = int((found[: len(expected)] != expected).nonzero()[0])
            first = codec.wire_bytes(COUNTS[0] * row_values(codec, width))
            pytest.fail(f"{spec} {source} {width}: byte {place}: {explain(codec, COUNTS[0] * width, place % first)}")
        assert (found[len(expected) :] == POISON).all()


@pytest.mark.parametrize(("number", "spec"), enumerate(SPECS))
def test_decoding_to_places(number: int, spec: str, device: torch.device) -> None:
    codec = parse_codec(spec)
    for turn, width in enumerate(widths(codec)):
        target = ("bf16", "fp16", "bf16", "fp32")[(number + turn) % 4]
        dtype = DTYPES[target]
        wire = torch.cat(buffers_of(rows_of(codec, torch.float32, width, ROWS), codec))
        index = torch.randperm(ROWS + 2, generator=torch.Generator().manual_seed(2))[:ROWS]
        expected = torch.full((ROWS + 2, width), 77.0, dtype=dtype)
        found = torch.full((ROWS + 2, width + 3), 77.0, dtype=dtype, device=device)
        sizes = [codec.wire_bytes(count * row_values(codec, width)) for count in COUNTS]
        for part, places in zip(wire.split(sizes), torch.split(index, list(COUNTS)), strict=True):
            decode_rows(part, expected, codec, index_M=places)
        scatter_decode_into(wire.to(device), found[:, :width], index.to(device), COUNTS, codec)
        assert same(found[:, :width].cpu().contiguous(), expected), f"{spec} {target} {width}"
        assert (found[:, width:] == 77).all()


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.startswith("hybrid")])
def test_combining_weighed_choices(spec: str, device: torch.device) -> None:
    """In their order, those without an answer left out, and in more than one tile a token."""
    codec, generator = parse_codec(spec), torch.Generator().manual_seed(3)
    place, weight = torch.tensor([[8, 0], [-1, 5], [2, 2]]), torch.randn(3, 2, generator=generator)
    for width, dtype, tuning in zip(widths(codec), (torch.bfloat16, torch.float32), (Tuning(8, 4), None), strict=True):
        buffers = buffers_of(rows_of(codec, torch.float32, width, ROWS), codec)
        expected = combine_rows(buffers, COUNTS, place, weight, width, codec, dtype=dtype)
        found = torch.full((3, width), 77.0, dtype=dtype, device=device)
        on = (torch.cat(buffers).to(device), found, place.to(device), weight.to(device))
        combine_into(*on, COUNTS, codec, tuning)
        assert same(found.cpu(), expected), f"{spec} {width}"


def test_the_backend_s_all_to_all_is_the_reference_s(device: torch.device) -> None:
    counts, width = ((2, 1), (0, 3)), 200
    xs = [torch.randn(4, width, generator=torch.Generator().manual_seed(rank)).bfloat16() for rank in range(2)]
    indices = [torch.tensor([3, 0, 3]), torch.tensor([1, 1, 2])]
    there, places = [x.to(device) for x in xs], [i.to(device) for i in indices]
    for name in ("a2a-int4", "a2a-int2-sr", "deepep-fp8", "nvfp4-dispatch", "dispatch:hybrid4-k64-dyn", "bf16"):
        expected = all_to_all_local(xs, counts, name, indices=indices)
        found = all_to_all_local(there, counts, name, indices=places, backend="triton")
        for a, b in zip(expected, found, strict=True):
            assert same(b.rows.cpu(), a.rows) and a.counts == b.counts


def test_no_rows_and_single_ones(device: torch.device) -> None:
    codec, x = parse_codec("int4-g128-zp"), torch.randn(2, 128, device=device)
    wire = torch.full((16,), POISON, dtype=torch.uint8, device=device)
    gather_encode_into(x, torch.zeros(0, dtype=torch.int64, device=device), (0, 0), wire, codec)
    scatter_decode_into(wire, x[:0], None, (0,), codec)
    assert (wire == POISON).all()
    assert torch.equal(encode_rows(x.T, codec, "triton").cpu(), encode_rows(x.T.cpu(), codec))  # rows not contiguous
    out = torch.zeros(128, 2, device=device).T
    decode_rows(encode_rows(x, codec, "triton"), out, codec, "triton")
    assert torch.equal(backend.decode_flat(encode_rows(x, codec), 256, codec).view(2, 128).cpu(), out.cpu())


@pytest.mark.parametrize("spec", ["int4-g128-zp", "hybrid4-k64-dyn"])
def test_what_does_not_fit_is_refused(spec: str, device: torch.device) -> None:
    codec, x = parse_codec(spec), torch.randn(3, 128, device=device)
    wire = torch.zeros(4096, dtype=torch.uint8, device=device)
    index = torch.tensor([0, 1, 2], device=device)
    for rows, places, counts, buffer, said in (
        (x, index, (2,), wire, "the messages have 2 rows: given 3"),
        (x, index.int(), (3,), wire, "index must be int64"),
        (x.double(), index, (3,), wire, "rows must be bf16, fp16 or fp32"),
        (x.T, None, (128,), wire, "each contiguous"),
        (x, index, (3,), wire[:16], r"the messages take uint8 \[>="),
        (x, index, (3,), wire[1:], "must begin at a multiple of 16 bytes"),
    ):
        with pytest.raises(ValueError, match=said):
            gather_encode_into(rows, places, counts, buffer, codec)
    for call in (gather_encode_into, lambda x, i, c, w, codec: scatter_decode_into(w, x, i, c, codec)):
        for other in (OutlierHybrid(), Raw()):
            with pytest.raises(ValueError, match=f"take codecs that compress, and without a .*: given {other.spec}"):
                call(x, index, (3,), wire, other)
    with pytest.raises(ValueError, match=r"tokens \[T, D\] want places int64 and weights fp32"):
        combine_into(wire, x, index[:, None], index[:, None], (3,), codec)
