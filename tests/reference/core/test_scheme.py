"""Bytes on the wire against closed forms written out here by hand, and what a scheme refuses."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.reference.catalog import parse_codec
from thinwire.reference.core.formats import planes
from thinwire.reference.core.nvfp4 import NVFP4
from thinwire.reference.core.scheme import (
    MX,
    Codec,
    Collective,
    Grid,
    GroupedInt,
    OutlierHybrid,
    Raw,
    Scheme,
)

grids = st.sampled_from(["symmetric", "minimum", "zero_point"])
rotations = st.sampled_from([None, 2, 16, 64, 256])
grouped_ints = st.builds(
    GroupedInt,
    st.integers(2, 8),
    st.sampled_from([8, 32, 48, 64, 128, 256, 512]),
    grids,
    st.booleans(),
    rotations,
    st.sampled_from(["bf16", "fp16", "fp32"]),
)
mxs = st.builds(
    MX,
    st.sampled_from(["e2m1", "e2m3", "e3m2", "e4m3", "e5m2", "int8"]),
    st.sampled_from([16, 32, 64]),
    st.sampled_from(["e8m0", "fp16", "bf16", "fp32"]),
    rotations,
    slot=st.sampled_from([None, 8, 16]),
)
static_hybrids = st.builds(
    lambda bits, keep: OutlierHybrid(bits, keep, group=keep), st.integers(2, 8), st.integers(2, 256)
)
dynamic_hybrids = st.builds(
    lambda bits, keep, many: OutlierHybrid(bits, keep, "dynamic", keep * many),
    st.integers(2, 8),
    st.integers(2, 256),
    st.integers(1, 4),
)
codecs = st.one_of(
    st.builds(Raw, st.sampled_from(["bf16", "fp16", "fp32"])),
    grouped_ints,
    mxs,
    st.builds(NVFP4, st.sampled_from([16, 48, 256, 6144])),
    static_hybrids,
    dynamic_hybrids,
)


def names(codec: Codec, numel: int = 1) -> list[str]:
    return [section.name for section in codec.sections(numel)]


# ---- closed forms


@pytest.mark.parametrize(
    ("codec", "numel", "sections"),
    [
        (Raw(), 3, {"values": 6}),
        (Raw("fp32"), 3, {"values": 12}),
        (GroupedInt(4), 128, {"plane4": 64, "scales": 2, "zero_points": 1}),
        (GroupedInt(4), 129, {"plane4": 128, "scales": 4, "zero_points": 2}),
        (GroupedInt(5, 32, "minimum"), 64, {"plane4": 32, "plane1": 8, "scales": 4, "minima": 4}),
        (GroupedInt(7, 32, "symmetric"), 32, {"plane4": 16, "plane2": 8, "plane1": 4, "scales": 2}),
        (GroupedInt(8, 32, "symmetric", metadata="fp32"), 1, {"plane8": 32, "scales": 4}),
        (GroupedInt(4, 32, metadata="e8m0"), 32, {"plane4": 16, "scales": 1, "zero_points": 1}),
        (
            GroupedInt(2, 128, spikes=True),
            200,
            {"plane2": 64, "scales": 4, "zero_points": 2, "spike_values": 8, "spike_indices": 4},
        ),
        (
            GroupedInt(3, 512, "symmetric", spikes=True),
            512,
            {"plane2": 128, "plane1": 64, "scales": 2, "spike_values": 4, "spike_indices": 4},
        ),
        # A rotation block wider than the group: 33 values pad to 64, which is two groups.
        (GroupedInt(4, 32, "symmetric", rotation=64), 33, {"plane4": 32, "scales": 4}),
        (MX("e2m1"), 33, {"plane4": 32, "scales": 2}),
        (MX("e2m3"), 32, {"plane4": 16, "plane2": 8, "scales": 1}),
        (MX("e4m3", scale="fp16"), 32, {"plane8": 32, "scales": 2}),
        (MX("e4m3", 496, "fp32", slot=16), 497, {"plane8": 992, "scales": 32}),
        (MX("e2m1", slot=4), 64, {"plane4": 32, "scales": 8}),
        (NVFP4(), 1, {"plane4": 3072, "scales": 384, "row_scales": 4}),
        (NVFP4(48), 100, {"plane4": 72, "scales": 9, "row_scales": 12}),
        (OutlierHybrid(), 6400, {"plane4": 3150, "kept_values": 200}),
        (OutlierHybrid(), 63, {"plane4": 32, "kept_values": 0}),
        (
            OutlierHybrid(5, 64, "dynamic", 128),
            200,
            {"plane4": 99, "plane1": 25, "scales": 4, "kept_values": 6, "kept_indices": 3},
        ),
    ],
)
def test_sections_by_hand(codec: Codec, numel: int, sections: dict[str, int]) -> None:
    assert [(section.name, section.nbytes) for section in codec.sections(numel)] == [*sections.items()]


@pytest.mark.parametrize(
    ("spec", "bits"),
    # notes/papers.md section 0.1, and accuracy.md's "bits/value counts all metadata".
    [
        ("int8-g128-min", 8.25),
        ("int4-g128-min", 4.25),
        ("int4-g32-min", 5.0),
        ("int4-g32-min-sr", 6.5),
        ("int6-g128-min-sr", 6.625),
        ("int4-g128-zp", 4.1875),
        ("int2-g128-zp-sr", 2.5625),
        ("int8-g32-sym-fp16", 8.5),
        ("int6-g32-sym-fp16", 6.5),
        ("int4-g32-sym-fp16", 4.5),
        ("mx-e4m3-b32-fp16", 8.5),
        ("mx-e4m3-b128-fp32", 8.25),
        ("mx-e4m3-b496-fp32-s16", 8 * 512 / 496),
        ("nvfp4-r6144", 8 * 3460 / 6144),
        ("mx-e2m1-b32", 4.25),
        ("mx-e2m3-b32", 6.25),
        ("hybrid4-k64", 4.1875),
        ("hybrid4-k64-dyn-g128", 4.4375),
        ("bf16", 16.0),
    ],
)
def test_bits_per_value_of_the_papers(spec: str, bits: float) -> None:
    assert parse_codec(spec).bits_per_value == bits


@pytest.mark.parametrize("group", sorted({2**n + d for n in range(4, 17) for d in (-8, 0, 8)} & set(range(8, 65537))))
def test_a_position_takes_the_fewest_bytes_that_tell_all_of_a_group_apart(group: int) -> None:
    """256 positions are 0..255, one byte: the largest group of one-byte indices is exactly that."""
    codec = GroupedInt(4, group, "minimum", spikes=True)
    width = (group - 1).bit_length()
    assert codec.index_bytes == -(-width // 8)
    per_group = {section.name: section.nbytes for section in codec.sections(group)}
    assert (per_group["spike_values"], per_group["spike_indices"]) == (4, 2 * codec.index_bytes)


@pytest.mark.parametrize(("bits", "tile_bytes"), [(3, 896), (4, 1152), (6, 1664), (8, 2176)])
def test_quickreduce_tile(bits: int, tile_bytes: int) -> None:
    """notes/kernels.md section A: bytes of QuickReduce's tile of 2048 values."""
    assert GroupedInt(bits, 32, "symmetric", metadata="fp16").wire_bytes(2048) == tile_bytes


def test_sections_are_padded_one_by_one() -> None:
    codec = GroupedInt(5, 32, "minimum")
    assert codec.wire_bytes(32) == 16 + 16 + 16 + 16  # 16, 4, 2 and 2 bytes
    assert codec.offsets(96) == (0, 48, 64, 80)  # 48, 12, 6 and 6 bytes
    assert OutlierHybrid().wire_bytes(10) == 16  # 5 bytes of codes, nothing kept


# ---- properties


@given(codecs, st.integers(0, 20_000))
def test_wire_bytes_are_the_padded_sections(codec: Codec, numel: int) -> None:
    sections, offsets = codec.sections(numel), codec.offsets(numel)
    assert len({section.name for section in sections}) == len(sections) == len(offsets)
    if codec.is_raw:
        assert codec.wire_bytes(numel) == numel * codec.bits_per_value / 8
        return
    at = 0
    for section, offset in zip(sections, offsets, strict=True):
        assert offset == at and offset % 16 == 0
        at += (section.nbytes + 15) // 16 * 16
    assert codec.wire_bytes(numel) == at


@given(codecs)
def test_long_buffers_cost_bits_per_value(codec: Codec) -> None:
    numel = codec.align * 16 * 8
    assert sum(s.nbytes for s in codec.sections(numel)) * 8 == pytest.approx(codec.bits_per_value * numel, rel=1e-12)
    assert codec.wire_bytes(numel) - codec.bits_per_value * numel / 8 < 16 * len(codec.sections(numel))


@given(codecs, st.integers(0, 5000), st.integers(0, 5000))
def test_more_values_never_cost_less(codec: Codec, a: int, b: int) -> None:
    few, many = sorted((a, b))
    assert codec.wire_bytes(few) <= codec.wire_bytes(many)


@given(codecs)
def test_specs_round_trip(codec: Codec) -> None:
    assert parse_codec(codec.spec) == codec


@given(st.one_of(grouped_ints, mxs), st.integers(1, 5000))
def test_padding_fills_whole_groups_and_rotation_blocks(codec: Codec, numel: int) -> None:
    align = codec.align
    assert align % codec.group == 0
    assert codec.sections(numel) == codec.sections(-(-numel // align) * align)


@given(grouped_ints)
def test_planes_hold_every_code_bit(codec: GroupedInt) -> None:
    payload = [section for section in codec.sections(codec.align) if section.name.startswith("plane")]
    assert [section.name for section in payload] == [f"plane{width}" for width in planes(codec.bits)]
    assert sum(section.nbytes for section in payload) * 8 == codec.bits * codec.align


@given(codecs)
def test_nothing_costs_nothing_and_less_is_refused(codec: Codec) -> None:
    assert codec.wire_bytes(0) == 0 and codec.sections(0) == () and codec.offsets(0) == ()
    for call in (codec.wire_bytes, codec.sections, codec.offsets):
        with pytest.raises(ValueError, match="numel=-1"):
            call(-1)


def test_grids_and_spikes_add_their_sections() -> None:
    order = ["plane4", "scales"]
    extra: dict[Grid, list[str]] = {"symmetric": [], "minimum": ["minima"], "zero_point": ["zero_points"]}
    for grid, sections in extra.items():
        assert names(GroupedInt(4, grid=grid)) == order + sections
        assert names(GroupedInt(4, grid=grid, spikes=True)) == [
            *order,
            *sections,
            "spike_values",
            "spike_indices",
        ]


# ---- refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Raw("int8"), "format='int8'"),
        (lambda: GroupedInt(1), "bits=1"),
        (lambda: GroupedInt(9), "bits=9"),
        (lambda: GroupedInt(4, 0), "group=0"),
        (lambda: GroupedInt(4, 20), "multiple of 8: group=20"),
        (lambda: GroupedInt(4, grid="affine"), "grid='affine'"),  # type: ignore[arg-type]
        (lambda: GroupedInt(4, rotation=48), "power of two above 1: rotation=48"),
        (lambda: GroupedInt(4, rotation=1), "rotation=1"),
        (lambda: GroupedInt(4, metadata="int8"), "metadata='int8'"),
        (lambda: GroupedInt(4, grid="minimum", metadata="e8m0"), "signed"),
        (lambda: GroupedInt(4, 65544, spikes=True), "group=65544"),
        (lambda: MX("e8m0"), "element='e8m0'"),
        (lambda: MX("e2m1", 12), "block=12"),
        (lambda: MX("e2m1", scale="fp8"), "scale='fp8'"),
        (lambda: MX("e4m3", scale="fp32", slot=4), "one of 8, 16 bytes: slot=4"),
        (lambda: MX("e4m3", slot=32), "one of 2, 4, 8, 16 bytes: slot=32"),
        (lambda: NVFP4(0), "row must be a positive multiple of 16: row=0"),
        (lambda: NVFP4(24), "multiple of 16: row=24"),
        (lambda: NVFP4(1 << 17), "row=131072"),
        (lambda: OutlierHybrid(1), "bits=1"),
        (lambda: OutlierHybrid(4, 1, group=1), "keep_one_in=1"),
        (lambda: OutlierHybrid(4, 512, group=512), "keep_one_in=512"),
        (lambda: OutlierHybrid(4, 64, group=128), "group=128, keep_one_in=64"),
        (lambda: OutlierHybrid(4, 64, "dynamic", 100), "multiple of keep_one_in: group=100"),
    ],
)
def test_codecs_refuse(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("reduce", "gather", "collective", "options", "message"),
    [
        ("int4", "int4", "auto", {}, "auto carries raw"),
        ("bf16", "int4", "nvls", {}, "nvls carries raw values only: reduce=bf16, gather=int4-g128-zp"),
        ("int4", "bf16", "none", {}, "none carries raw"),
        ("int4", "int8", "all_gather", {}, "one phase"),
        ("int4", "int4", "star", {}, "collective='star'"),
        ("int4", "int4", "two_step", {"drop_attention_percent": 101}, "0..100: 101"),
        ("int4", "int4", "two_step", {"drop_attention_percent": float("nan")}, "0..100: nan"),
        ("int4", "int4", "two_step", {"sequence_split": 1.0}, "sequence_split"),
        ("int4", "int4", "two_step", {"chunk_values": 0}, "chunk_values"),
        ("int4", "int4", "two_step", {"exempt_tokens": -1}, "exempt_tokens must be 0, or more with a codec: -1"),
        ("bf16", "bf16", "ring", {"exempt_tokens": 1}, "more with a codec: 1, reduce=bf16"),
        ("int4", "int4", "two_step", {"chunks_in_flight": 2}, "chunk_values=None"),
        ("int4", "int4", "two_step", {"chunks_in_flight": 0, "chunk_values": 8}, "chunks_in_flight=0"),
        ("int4", "int4", "two_step", {"codec_launch": "later"}, "codec_launch='later'"),
    ],
)
def test_schemes_refuse(
    reduce: str, gather: str, collective: Collective, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Scheme("x", parse_codec(reduce), parse_codec(gather), collective, **options)


def test_scheme_keeps_the_codecs_groups_together() -> None:
    assert Scheme("x", GroupedInt(4, 48), MX("e2m1"), "two_step").align == 96
    assert Scheme("x", GroupedInt(4, 32, rotation=64), Raw(), "two_step").align == 64


@pytest.mark.parametrize(
    ("percent", "layers", "dropped"),
    [(0, 80, 0), (50, 80, 40), (100, 80, 80), (91.3, 80, 73), (50, 5, 3), (10, 4, 0), (12.5, 4, 1)],
)
def test_sync_points_drop_from_the_last_block_backwards(percent: float, layers: int, dropped: int) -> None:
    entry = Scheme("x", Raw(), Raw(), "auto", percent)
    assert entry.kept_attention(layers) == (True,) * (layers - dropped) + (False,) * dropped


def test_values_are_frozen_and_hashable() -> None:
    entry = Scheme("x", GroupedInt(4), MX("e2m1"), "two_step")
    assert hash(entry) == hash(dataclasses.replace(entry)) and {GroupedInt(4): 1}[GroupedInt(4)] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.name = "y"  # type: ignore[misc]
