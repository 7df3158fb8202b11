"""The all-reduce's end fused with residual and RMSNorm: the sum bit for bit, the norm within what kernels/norm.py says.

Run alone, a file chooses the interpreter as conftest.py does.
"""

import os

import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from thinwire.kernels.encode import encode_into
from thinwire.kernels.form import Parts, parts
from thinwire.kernels.launch import Tuning
from thinwire.kernels.norm import norm_into, reduce_norm_into, tile_of, tolerance
from thinwire.reference import quantize
from thinwire.reference.catalog import parse_codec
from thinwire.reference.core.schedule import Interval, partition

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
EPSILON = 1e-5


def gathered(
    spec: str, numels: tuple[int, ...], ranks: int, device: torch.device, scale: float = 1.0
) -> tuple[Tensor, Parts, Tensor]:
    """(wire copies [ranks, P, B], the parts, the fp32 sum over ranks as the reference decodes and adds it)."""
    codec = parse_codec(spec)
    found = parts(codec, numels, device)
    generator = torch.Generator().manual_seed(len(spec) + sum(numels))
    values = scale * torch.randn(ranks, sum(numels), generator=generator)
    wire = torch.full((ranks, len(numels), max(*found.nbytes, 16)), 0xA5, dtype=torch.uint8, device=device)
    encode_into(values.to(device), wire, found)
    total = torch.zeros(0)
    for rank in range(ranks):
        copies = zip(wire[rank].cpu(), found.nbytes, numels, strict=True)
        decoded = torch.cat([quantize.decode_flat(copy[:size].clone(), n, codec) for copy, size, n in copies])
        total = total + decoded if rank else decoded
    return wire, found, total


def cut(spec: str, tokens: int, hidden: int, pieces: int) -> tuple[int, ...]:
    return tuple(len(p) for p in partition(Interval(0, tokens * hidden), pieces, parse_codec(spec).align))


def check(decoded: Tensor, residual: Tensor, weight: Tensor, sums: Tensor, normed: Tensor) -> None:
    """`sums` to the bit; `normed` between what the two ends of the tolerance round to, most often the same number.

    Roundings and the product with one weight are monotone, so nothing but the tolerance itself needs a bound.
    """
    hidden = residual.shape[1]
    dtype = residual.dtype
    total = (decoded.view_as(residual).to(dtype).float() + residual.float()).to(dtype)
    assert torch.equal(total.view(torch.uint8), sums.cpu().contiguous().view(torch.uint8))
    exact = total.double()
    exact = exact / (exact.pow(2).mean(-1, keepdim=True) + EPSILON).sqrt()
    ends = []
    for sign in (-1, 1):
        normal = (exact * (1 + sign * tolerance(hidden))).to(dtype)
        ends.append((normal.float() * weight.float()).to(normed.dtype))
    low, high = torch.minimum(*ends), torch.maximum(*ends)
    assert bool(((low <= normed.cpu()) & (normed.cpu() <= high)).all())
    if dtype == BF16 and hidden <= 1024:
        assert (low == high).float().mean() > 0.97  # the bound says something


@pytest.mark.parametrize(
    ("spec", "tokens", "hidden", "pieces", "dtype", "weights"),
    [
        ("int4-g128-zp", 3, 5120, 8, BF16, BF16),  # parts end inside rows; 40 groups in a tile of 64
        ("int4-g128-zp", 2, 8192, 3, BF16, FP32),
        ("int5-g128-sym-fp16", 2, 3584, 2, FP16, FP16),
        ("mx-e2m1-b32", 7, 576, 4, BF16, BF16),  # several rows a tile, the last tile half empty
        ("int8-g48-min", 5, 576, 3, FP32, FP32),  # groups that are no power of two
        ("int4-g64-zp-h128", 4, 640, 8, FP32, BF16),  # rotation blocks of two groups
        ("int2-g64-zp-sr", 1, 512, 8, FP16, BF16),  # one row in eight parts
        ("mx-e4m3-b32-fp16", 3, 96, 8, BF16, BF16),  # more parts than groups in a row
        ("int3-g32-sym-e8m0", 1, 32, 4, FP32, FP32),  # three parts are empty
    ],
)
def test_decode_add_and_norm(
    device: torch.device, spec: str, tokens: int, hidden: int, pieces: int, dtype: torch.dtype, weights: torch.dtype
) -> None:
    wire, found, decoded = gathered(spec, cut(spec, tokens, hidden, pieces), 1, device)
    generator = torch.Generator().manual_seed(hidden)
    residual = torch.randn(tokens, hidden, generator=generator).to(dtype)
    weight = (1 + 0.3 * torch.randn(hidden, generator=generator)).to(weights)
    sums = torch.empty(tokens, hidden, dtype=dtype, device=device)
    normed = torch.empty(tokens, hidden, dtype=torch.promote_types(dtype, weights), device=device)
    norm_into(wire[0], found, residual.to(device), weight.to(device), sums, normed, EPSILON, Tuning(2048, 4))
    check(decoded, residual, weight, sums, normed)


@pytest.mark.parametrize(("ranks", "pieces"), [(2, 1), (3, 2), (9, 1)])  # nine: more than are written out
def test_reduce_add_and_norm(device: torch.device, ranks: int, pieces: int) -> None:
    spec, tokens, hidden = "mx-e2m3-b32", 5, 288
    wire, found, total = gathered(spec, cut(spec, tokens, hidden, pieces), ranks, device)
    generator = torch.Generator().manual_seed(ranks)
    residual = torch.randn(tokens, hidden, generator=generator).to(BF16)
    weight = torch.randn(hidden, generator=generator).to(BF16)
    sums, normed = (torch.empty(tokens, hidden, dtype=BF16, device=device) for _ in range(2))
    reduce_norm_into(wire, found, residual.to(device), weight.to(device), sums, normed, EPSILON)
    check(total, residual, weight, sums, normed)


def test_in_place_and_in_rows_of_a_wider_tensor(device: torch.device) -> None:
    spec, tokens, hidden = "int4-g32-zp", 6, 96
    wire, found, decoded = gathered(spec, cut(spec, tokens, hidden, 4), 1, device)
    wide = torch.randn(tokens, 2 * hidden, generator=torch.Generator().manual_seed(7)).to(BF16)
    residual, weight = wide[:, :hidden].clone(), torch.full((hidden,), 0.75, dtype=BF16)
    on_device = wide.to(device)
    normed = torch.zeros(tokens, 3 * hidden, dtype=BF16, device=device)
    view = on_device[:, :hidden]
    norm_into(wire[0], found, view, weight.to(device), view, normed[:, hidden : 2 * hidden], EPSILON)
    check(decoded, residual, weight, view, normed[:, hidden : 2 * hidden])
    assert torch.equal(on_device[:, hidden:].cpu(), wide[:, hidden:])  # the neighbours are as they were
    assert not normed[:, :hidden].any() and not normed[:, 2 * hidden :].any()


def test_extremes_round_as_an_all_reduce_does(device: torch.device) -> None:
    """Beyond fp16 is an infinity, not its largest number, and a group that is no number spoils its own row alone."""
    spec, tokens, hidden = "int8-g32-sym-fp32", 3, 64
    wire, found, decoded = gathered(spec, (tokens * hidden,), 1, device, scale=4e4)
    assert (decoded.abs() > 65520).any()
    scales = found.codec.offsets(tokens * hidden)[1]
    wire[0, 0, scales + 8 : scales + 12] = 0xFF  # the scale of row 1's first group is NaN
    residual = torch.zeros(tokens, hidden, dtype=FP16)
    weight = torch.ones(hidden, dtype=FP16)
    sums, normed = (torch.empty(tokens, hidden, dtype=FP16, device=device) for _ in range(2))
    norm_into(wire[0], found, residual.to(device), weight.to(device), sums, normed)
    want = decoded.view(tokens, hidden).to(FP16)
    assert torch.equal(sums[[0, 2]].cpu(), want[[0, 2]]) and want[[0, 2]].isinf().any()
    assert sums[1, :32].isnan().all() and torch.equal(sums[1, 32:].cpu(), want[1, 32:])
    assert normed[1].isnan().all() and not sums[[0, 2]].isnan().any()


def test_no_tokens(device: torch.device) -> None:
    found = parts(parse_codec("int4-g32-zp"), (0,), device)
    empty = torch.empty(0, 64, dtype=BF16, device=device)
    wire = torch.empty(1, 16, dtype=torch.uint8, device=device)
    norm_into(wire, found, empty, torch.ones(64, dtype=BF16, device=device), empty, empty)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spec": "int4-g64-zp"}, "a row must be whole groups: hidden=96, int4-g64-zp has groups of 64"),
        ({"spec": "int4-g32-zp-h64"}, "a row must be whole groups: hidden=96"),
        ({"hidden": 64}, "parts hold 192 values, the residual 2 x 64"),
        ({"sums": FP32}, "sums have the residual's dtype torch.bfloat16: given torch.float32"),
        ({"normed": FP32}, "normed must be torch.bfloat16"),
        ({"weight": FP32}, "normed must be torch.float32"),
        ({"residual": torch.int32}, "residual and weight must be bf16, fp16 or fp32"),
        ({"transposed": True}, "rows must be contiguous"),
        ({"short": True}, "must be uint8"),
    ],
)
def test_what_is_refused(device: torch.device, change: dict[str, object], said: str) -> None:
    hidden = int(str(change.get("hidden", 96)))
    codec = parse_codec(str(change.get("spec", "int4-g32-zp")))
    found = parts(codec, (192,), device)
    kinds = [change.get(name, BF16) for name in ("residual", "weight", "sums", "normed")]
    residual, sums, normed = (torch.zeros(2, hidden, dtype=kinds[i], device=device) for i in (0, 2, 3))
    weight = torch.ones(hidden, dtype=kinds[1], device=device)
    wire = torch.zeros(1, 16 if "short" in change else found.nbytes[0], dtype=torch.uint8, device=device)
    if "transposed" in change:
        residual = torch.zeros(hidden, 2, dtype=BF16, device=device).t()
    with pytest.raises(ValueError, match=said):
        norm_into(wire, found, residual, weight, sums, normed)


def test_a_row_too_long_for_a_tile_is_refused(device: torch.device) -> None:
    found = parts(parse_codec("int4-g128-zp"), (40960,), device)
    row = torch.zeros(1, 40960, dtype=BF16, device=device)
    wire = torch.zeros(1, found.nbytes[0], dtype=torch.uint8, device=device)
    with pytest.raises(ValueError, match="a row must fit one tile of 32768 values: hidden=40960, padded 65536"):
        norm_into(wire, found, row, row[0], row, row)


def test_tiles_grow_with_the_row() -> None:
    assert tile_of(1024, Tuning(4096, 4)) == (4, 8)
    assert tile_of(8192, Tuning(4096, 4)) == (1, 16)
    assert tile_of(32768, Tuning(4096, 4)) == (1, 16)
    assert tile_of(512, Tuning(512, 4)) == (1, 4)
