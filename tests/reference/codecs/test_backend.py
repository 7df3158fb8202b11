"""Backends by name, the choice of one for a device, and what every backend must agree on: sums, NaN and zeros."""

import math

import pytest
import torch

from thinwire.reference.catalog import parse_codec
from thinwire.reference.codecs import numerics
from thinwire.reference.codecs.backend import backend
from thinwire.reference.core.scheme import GroupedInt
from thinwire.reference.quantize import Packed, decode_flat, encode, encode_flat, reduce_flat


def test_backends_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert backend("torch") is numerics
    with pytest.raises(ValueError, match="unknown backend 'cuda'; known: torch, triton"):
        encode(torch.zeros(3), parse_codec("int4"), "cuda")
    from thinwire.reference.codecs import backend as registry

    monkeypatch.setattr(registry, "MODULES", {"gone": "thinwire.reference.gone", "odd": "math"})
    with pytest.raises(ImportError, match=r"backend 'gone' needs thinwire.reference.gone, which cannot be imported"):
        backend("gone")
    with pytest.raises(ImportError, match="math lacks encode_flat, decode_flat"):
        backend("odd")


def test_auto_is_triton_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from thinwire.reference.codecs import backend as registry

    def found(name: str) -> object:
        if name == "gone":
            raise ImportError("no kernels here")
        return numerics

    monkeypatch.setattr(registry, "backend", found)
    cpu, cuda = torch.device("cpu"), torch.device("cuda", 1)
    assert registry.for_device("auto", cpu) == "torch"
    assert registry.for_device("auto", cuda) == "triton"
    assert [registry.for_device(name, cuda) for name in ("torch", "triton")] == ["torch", "triton"]
    monkeypatch.setattr(registry, "backend", lambda name: found("gone"))
    assert registry.for_device("auto", cuda) == "torch"


@pytest.mark.parametrize("groups", [1, 3, 64])
@pytest.mark.parametrize("spec", ["int4-g8-sym", "int4-g8-min-fp16", "int4-g8-zp-sr", "mx-e4m3-b8-fp32"])
def test_a_nan_has_one_set_of_bits_and_zero_one_sign(spec: str, groups: int) -> None:
    """A cast gives other NaNs in its vectorised part than in its tail, and the least of several zeros either sign."""
    codec = parse_codec(spec)
    nan = {"bf16": 0x7FC0, "fp16": 0x7E00, "fp32": 0x7FC00000}
    words = {"bf16": torch.int16, "fp16": torch.int16, "fp32": torch.int32}
    kind = codec.metadata if isinstance(codec, GroupedInt) else "fp32"
    sections = Packed(encode_flat(torch.full((8 * groups,), math.nan), codec), (8 * groups,), torch.float32, codec)
    for name, part in sections.sections().items():
        if name in ("scales", "minima"):
            assert set(part.view(words[kind]).tolist()) == {nan[kind]}
        elif name == "spike_values":
            assert set(part.view(torch.int16).tolist()) == {nan["bf16"]}
    zeros = torch.zeros(8 * groups)
    zeros[::3] = -0.0
    metadata = encode_flat(zeros, codec)[codec.offsets(len(zeros))[1] :]
    assert not (metadata.view(torch.int16) < 0).any()


def test_copies_are_added_in_the_order_given() -> None:
    """fp32 sums depend on their order: 1, then 2^-24 twice, is 1; 2^-24 twice, then 1, is the next number."""
    codec = GroupedInt(8, 8, "symmetric", metadata="fp32")
    small, one = torch.full((8,), 2.0**-24), torch.ones(8)
    wires = [encode_flat(x, codec) for x in (one, small, small)]
    values = [decode_flat(wire, 8, codec) for wire in wires]
    up = reduce_flat(wires, 8, codec, ranks=[0, 1, 2])
    down = reduce_flat(wires[::-1], 8, codec, ranks=[2, 1, 0])
    assert torch.equal(up, (values[0] + values[1]) + values[2])
    assert torch.equal(down, (values[2] + values[1]) + values[0])
    assert not torch.equal(up, down)
    with pytest.raises(ValueError, match="as many copies as ranks, one at least: given 2 and 1"):
        reduce_flat(wires[:2], 8, codec, ranks=[0])
    with pytest.raises(ValueError, match="given 0 and 0"):
        reduce_flat([], 8, codec, ranks=[])
    with pytest.raises(ValueError, match=r"contiguous uint8 \[32\]"):
        reduce_flat([wires[0], wires[1][:-1]], 8, codec, ranks=[0, 1])
    assert reduce_flat([wires[0][:0]], 0, codec, ranks=[0]).shape == (0,)
