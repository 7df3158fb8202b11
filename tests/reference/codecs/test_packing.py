"""Bit planes against a bit-by-bit packing written out here, and what the functions refuse."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.codecs.packing import pack, pack_into, plane_bytes, unpack
from thinwire.reference.core.formats import planes

torch.set_num_threads(1)


def by_hand(codes: list[int], bits: int) -> list[bytes]:
    """One bit at a time: value i takes bits i*w .. i*w + w - 1 of its plane, lowest first."""
    found, below = [], 0
    for width in planes(bits):
        row = bytearray(-(-len(codes) * width // 8))
        for i, code in enumerate(codes):
            for bit in range(width):
                at = i * width + bit
                row[at // 8] |= ((code >> (below + bit)) & 1) << (at % 8)
        found.append(bytes(row))
        below += width
    return found


@given(st.integers(1, 8).flatmap(lambda b: st.tuples(st.just(b), st.lists(st.integers(0, 2**b - 1), max_size=70))))
def test_planes_are_those_packed_by_hand_and_come_back(case: tuple[int, list[int]]) -> None:
    bits, codes = case
    codes_N = torch.tensor(codes, dtype=torch.uint8)
    parts = pack(codes_N, bits)
    assert [bytes(part.tolist()) for part in parts] == by_hand(codes, bits)
    assert torch.equal(unpack(parts, bits, len(codes)), codes_N)


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_code_in_every_place_of_a_byte(bits: int) -> None:
    codes_N = torch.cat([torch.arange(2**bits).roll(turn) for turn in range(8)]).to(torch.uint8)
    parts = pack(codes_N, bits)
    assert [bytes(part.tolist()) for part in parts] == by_hand(codes_N.tolist(), bits)
    assert torch.equal(unpack(parts, bits, codes_N.numel()), codes_N)


def test_five_bits_as_decided() -> None:
    # 17 = 1|0001, 2 = 0|0010: low nibbles 1 and 2 in one byte, first value lowest; the fifth bits in the 1-bit plane
    low, high = pack(torch.tensor([17, 2], dtype=torch.uint8), 5)
    assert (low.tolist(), high.tolist()) == ([0x21], [0x01])


@pytest.mark.parametrize("offset", range(9))
def test_codes_that_start_anywhere_and_lie_apart(offset: int) -> None:
    base = torch.randint(0, 8, (200,), dtype=torch.uint8, generator=torch.Generator().manual_seed(offset))
    for codes_N in (base[offset : offset + 64], base[offset : offset + 61], base[offset::3]):
        kept = codes_N.clone()
        parts = pack(codes_N, 3)
        assert [bytes(p.tolist()) for p in parts] == by_hand(kept.tolist(), 3)
        assert torch.equal(codes_N, kept)  # the input is read only
        assert torch.equal(unpack(parts, 3, len(kept)), kept)


def test_wrong_planes_are_refused() -> None:
    codes = torch.zeros(16, dtype=torch.uint8)
    assert plane_bytes(9, 2) == 3
    with pytest.raises(ValueError, match=r"planes of 16 codes of 4 bits take \[8\] bytes: given \[7\]"):
        pack_into(codes, 4, [torch.zeros(7, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="uint8"):
        pack_into(codes.int(), 4, [torch.zeros(8, dtype=torch.uint8)])
    with pytest.raises(ValueError, match="uint8"):
        unpack([torch.zeros(8)], 4, 16)
    with pytest.raises(ValueError, match=r"bits must lie in 1\.\.8"):
        pack(codes, 9)
