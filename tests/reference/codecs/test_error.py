"""The analytic bounds against what encode and decode really do, and that the bounds are not idle."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from thinwire.reference.catalog import parse_codec
from thinwire.reference.codecs.error import Error, bound, measure, roundoff
from thinwire.reference.core.scheme import MX, Codec, GroupedInt, Raw

from .codecs import ALL, CATALOG, codecs, needs, normal, specs, tensors, there_and_back

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def excess(x: Tensor, codec: Codec, dtype: torch.dtype) -> float:
    """The most by which an error exceeds its bound; values beyond fp16 have none there."""
    limit = bound(x, codec, dtype=dtype, **needs(codec))
    wrong = (there_and_back(x, codec, dtype).double() - x.double()).abs()
    if dtype == torch.float16:
        wrong = wrong.masked_fill(x.abs() > 65504, 0.0)
    return float((wrong - limit).nan_to_num(math.inf).masked_fill(limit.isinf(), -math.inf).max())


@settings(max_examples=600)
@given(tensors(), codecs)
def test_no_error_exceeds_its_bound(x: Tensor, codec: Codec) -> None:
    for dtype in DTYPES:
        assert excess(x, codec, dtype) <= 0, dtype


@pytest.mark.parametrize("codec", ALL, ids=specs)
def test_nor_at_the_edges(codec: Codec) -> None:
    tiny, huge = 2.0**-149, float.fromhex("0x1.fffffep127")
    edges = [0.0, -0.0, tiny, -3 * tiny, 2.0**-133, 2.0**-127, -(2.0**-126), 1.0, -1.0, 65504.0, 3.38e38, huge, -huge]
    size = -(-160 // codec.align) * codec.align
    for low in edges:
        x = torch.full((len(edges), size), low)  # groups of two values, every pair of edges once
        x[:, ::3] = torch.tensor(edges)[:, None]
        assert excess(x.view(-1), codec, torch.float32) <= 0, low
        assert excess(x.view(-1), codec, torch.bfloat16) <= 0, low


@pytest.mark.parametrize("codec", [c for c in CATALOG if not needs(c)], ids=lambda c: c.spec)
def test_bounds_are_reached_within_a_factor(codec: Codec) -> None:
    """A bound nobody comes near would let a broken codec pass. Of a rotation's 128 errors that the bound adds up as if
    all had one sign, a draw comes to a fifth.
    """
    least = 0.3 if codec == GroupedInt(8) else 0.15 if getattr(codec, "rotation", None) else 0.6
    nearest = 0.0
    for seed in range(30):
        x = normal(8192, seed=seed)
        limit = bound(x, codec)
        nearest = max(nearest, float(((there_and_back(x, codec).double() - x.double()).abs() / limit).max()))
    assert nearest > least


def test_bounds_by_hand() -> None:
    x = torch.zeros(32)
    x[0] = 127.0  # one step is exactly 1
    assert float(bound(x, GroupedInt(8, 32, "symmetric")).max()) == pytest.approx(0.5 * (1 + 2**-8), rel=1e-3)
    assert float(bound(x, GroupedInt(8, 32, "symmetric", metadata="fp32")).max()) == pytest.approx(0.5, rel=1e-3)
    assert float(bound(x, GroupedInt(2, 32, "symmetric", metadata="e8m0")).max()) == pytest.approx(127, rel=1e-3)
    assert float(bound(x, MX("int8")).max()) == pytest.approx(0.5, rel=1e-3)
    assert float(bound(x, MX("e2m1"))[0]) == pytest.approx(31, rel=1e-3)  # saturates at 6 * 16
    assert float(bound(torch.tensor([3.0]), Raw())) == pytest.approx(3 / 256, rel=1e-3)
    assert bound(torch.tensor([7e4, 1.0]), Raw("fp16")).isinf().tolist() == [True, False]
    assert roundoff("bf16") == (2.0**-8, 2.0**-133)
    assert roundoff("fp16") == (2.0**-11, 2.0**-24)


def test_bounds_refuse_what_has_none() -> None:
    with pytest.raises(ValueError, match="finite values only"):
        bound(torch.tensor([math.inf]), Raw())
    with pytest.raises(ValueError, match="depends on its calibration"):
        bound(torch.ones(3), parse_codec("hybrid4"))
    assert bound(torch.zeros(0, 4), GroupedInt(4)).shape == (0, 4)
    assert bound(torch.ones(2, 4), GroupedInt(4)).shape == (2, 4)


@pytest.mark.parametrize(
    ("values", "decoded", "expected"),
    [
        ([3.0, 4.0], [3.0, 4.5], (20.0, 0.5, 0.1)),
        ([1.0], [1.0], (math.inf, 0.0, 0.0)),
        ([0.0], [1.0], (-math.inf, 1.0, math.inf)),
        ([], [], (math.inf, 0.0, 0.0)),
    ],
)
def test_measures(values: list[float], decoded: list[float], expected: Any) -> None:
    found = measure(torch.tensor(values), torch.tensor(decoded))
    assert (found.snr_db, found.maximum, found.relative) == pytest.approx(expected)


def test_measure_of_a_known_codec() -> None:
    x = normal(1 << 16)
    found = measure(x, there_and_back(x, GroupedInt(8, 32, "symmetric", metadata="fp32")))
    # Uniform rounding: the variance of a group's error is a twelfth of its step squared, but its largest is exact.
    step = float((x.view(-1, 32).abs().amax(1) / 127).square().mean().sqrt())
    expected = -10 * math.log10(step**2 / 12 * 31 / 32 / float(x.square().mean()))
    assert found.snr_db == pytest.approx(expected, abs=0.1)
    with pytest.raises(ValueError, match=r"values=\[2\], decoded=\[3\]"):
        measure(torch.zeros(2), torch.zeros(3))
    assert Error(1.0, 2.0, 3.0) == Error(1.0, 2.0, 3.0)
