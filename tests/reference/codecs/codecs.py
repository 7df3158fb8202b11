"""What the tests of the codecs share: codecs to try, hypothesis strategies, values of all sizes."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from thinwire.reference.catalog import parse_codec, schemes
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.core.nvfp4 import NVFP4
from thinwire.reference.core.scheme import MX, Codec, GroupedInt, OutlierHybrid, Raw
from thinwire.reference.quantize import decode, encode

torch.set_num_threads(1)

FEATURES = 48
CATALOG = sorted({c for s in schemes().values() for c in (s.reduce, s.gather)}, key=lambda codec: codec.spec)
# One of each kind that the catalog leaves out.
_OTHERS = """
    fp16 fp32 int8-g32-min int4-g8-min-fp16 int7-g128-sym-e8m0 int5-g32-min-sr int3-g512-sym-sr int6-g64-zp-fp32
    int4-g32-zp-h64 int2-g128-min-sr-h16-fp32 int8-g16-zp-e8m0 mx-e3m2-b32 mx-e5m2-b32 mx-e2m1-b16-rceil
    mx-e4m3-b32-ceil mx-int8-b32-even mx-e2m3-b32-even mx-e2m1-b32-h64 mx-e5m2-b32-bf16 mx-int8-b8-fp32
    mx-e4m3-b496-fp32-s16 mx-e2m1-b32-s4 mx-int8-b8-bf16-s8 nvfp4-r16 nvfp4-r48 nvfp4-r256
    hybrid4-k64-dyn hybrid8-k7-dyn-g21 hybrid3-k2-dyn-g8 hybrid6-k256-dyn hybrid2-k5 hybrid8-k256
"""
OTHERS = [parse_codec(spec) for spec in _OTHERS.split()]
ALL = CATALOG + OTHERS
specs = [codec.spec for codec in ALL]

CALIBRATION = Calibration(
    torch.rand(3, FEATURES, generator=torch.Generator().manual_seed(0)) * 8,
    torch.rand(FEATURES, generator=torch.Generator().manual_seed(1)) * 20,
)

grouped_ints = st.builds(
    GroupedInt,
    st.integers(2, 8),
    st.sampled_from([8, 32, 48, 128, 264]),
    st.sampled_from(["symmetric", "minimum", "zero_point"]),
    st.booleans(),
    st.sampled_from([None, None, 2, 16, 64]),
    st.sampled_from(["bf16", "fp16", "fp32"]),
)
exponent_scaled = st.builds(
    GroupedInt,
    st.integers(2, 8),
    st.sampled_from([8, 32]),
    st.sampled_from(["symmetric", "zero_point"]),
    st.booleans(),
    st.just(None),
    st.just("e8m0"),
)
mxs = st.builds(
    MX,
    st.sampled_from(["e2m1", "e2m3", "e3m2", "e4m3", "e5m2", "int8"]),
    st.sampled_from([8, 32]),
    st.sampled_from(["e8m0", "fp16", "bf16", "fp32"]),
    st.sampled_from([None, None, 16]),
    slot=st.sampled_from([None, None, 16]),
) | st.builds(
    MX,
    st.sampled_from(["e2m1", "e2m3", "e3m2", "e4m3", "e5m2", "int8"]),
    mode=st.sampled_from(["floor", "rceil", "ceil", "even"]),
)
static_hybrids = st.builds(lambda b, k: OutlierHybrid(b, k, group=k), st.integers(2, 8), st.integers(2, 256))
dynamic_hybrids = st.builds(
    lambda b, k, many: OutlierHybrid(b, k, "dynamic", k * many),
    st.integers(2, 8),
    st.integers(2, 256),
    st.integers(1, 4),
)
nvfp4s = st.builds(NVFP4, st.sampled_from([16, 48, 256]))
raws = st.builds(Raw, st.sampled_from(["bf16", "fp16", "fp32"]))
codecs = st.one_of(
    st.sampled_from(ALL), raws, grouped_ints, exponent_scaled, mxs, nvfp4s, static_hybrids, dynamic_hybrids
)

_floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
_ordinary = st.floats(-50, 50, width=32)


@st.composite
def tensors(draw: st.DrawFn, most: int = 700) -> Tensor:
    """Finite fp32 values: seeded normal ones of some magnitude, offset, with a few drawn freely among them."""
    numel = draw(st.integers(1, most))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(numel, generator=generator, dtype=torch.float64)
    values *= 2.0 ** draw(st.sampled_from([0, 0, 0, -20, 10, -130, -145, 120, 127]))
    values += draw(st.sampled_from([0.0, 0.0, 100.0, -1e4]))
    for value in draw(st.lists(_floats | _ordinary, max_size=6)):
        values[int(torch.randint(0, numel, (1,), generator=generator))] = value
    return values.clamp(-3.4e38, 3.4e38).float()


def needs(codec: Codec, rank: int | None = 1, start: int = 0) -> dict[str, Any]:
    """The keywords that a static hybrid wants; none for others."""
    if isinstance(codec, OutlierHybrid) and codec.scale == "static":
        return {"calibration": CALIBRATION, "rank": rank, "start": start}
    return {}


def there_and_back(values: Tensor, codec: Codec, dtype: torch.dtype | None = torch.float32) -> Tensor:
    return decode(encode(values, codec, **needs(codec)), dtype=dtype, **needs(codec))


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Equal to the bit, signs of zeros and NaN included."""
    return left.dtype == right.dtype and torch.equal(
        left.contiguous().view(-1).view(torch.uint8), right.contiguous().view(-1).view(torch.uint8)
    )


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
