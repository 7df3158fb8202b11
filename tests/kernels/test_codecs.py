"""Grouped integers and MX on kernels: the reference's bytes and values, to the bit.

On a CPU all of it runs in Triton's interpreter; on a GPU, where every kernel is compiled first, a sixth of the two
large tables does, a third of the sums and bf16 alone for the catalog. `python -m pytest tests/kernels/test_codecs.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from thinwire.kernels import quantize as backend
from thinwire.kernels.decode import decode_into
from thinwire.kernels.encode import encode_into
from thinwire.kernels.form import form, parts
from thinwire.kernels.launch import Tuning
from thinwire.kernels.numbers import INTERPRETED
from thinwire.kernels.reduce import UNROLLED_RANKS, can_requantise, reduce_into, requantise_into
from thinwire.reference.catalog import parse_codec, schemes
from thinwire.reference.core.schedule import Interval, partition
from thinwire.reference.core.scheme import MX, MX_ELEMENTS, GroupedInt, OutlierHybrid, Raw
from thinwire.reference.quantize import decode_flat, encode_flat

from .inputs import (
    DTYPES,
    POISON,
    check_decode,
    check_encode,
    copies,
    groups,
    halves,
    same,
    sizes,
    wire_of,
    wire_scales,
)

Grouped = GroupedInt | MX
CATALOG: list[Grouped] = sorted(
    {c for s in schemes().values() for c in (s.reduce, s.gather) if isinstance(c, GroupedInt | MX)},
    key=lambda codec: codec.spec,
)
TWO_STEPS: list[tuple[Grouped, Grouped]] = sorted(
    {
        (s.reduce, s.gather)
        for s in schemes().values()
        if s.collective in ("two_step", "hierarchical")
        and isinstance(s.reduce, GroupedInt | MX)
        and isinstance(s.gather, GroupedInt | MX)
        and not any(c.group & (c.group - 1) for c in (s.reduce, s.gather))  # others are encoded again on their own
    },
    key=lambda pair: (pair[0].spec, pair[1].spec),
)


# ---- which codecs

GROUPS = (8, 16, 24, 32, 48, 64, 128, 264, 512, 1000, 1024)
OPTIONS: dict[str, tuple[object, ...]] = {
    "group": GROUPS,
    "bits": (2, 3, 4, 5, 6, 7, 8),
    "rotation": (None, 2, 16, 64, 256),
    "metadata": ("bf16", "fp16", "fp32", "e8m0"),
    "grid": ("symmetric", "minimum", "zero_point"),
    "source": tuple(DTYPES),
    "target": tuple(DTYPES),
    "spikes": (False, True),
}
Choice = tuple[str, object]


def allowed(pair: Sequence[Choice]) -> bool:
    """Whether a codec may have these options: no exponent is a minimum, and only powers of two are rotated."""
    chosen = dict(pair)
    group, rotation = chosen.get("group", 8), chosen.get("rotation")
    assert isinstance(group, int)
    return not (chosen.get("grid") == "minimum" and chosen.get("metadata") == "e8m0") and not (
        rotation and group & (group - 1)
    )


def covering() -> list[dict[str, object]]:
    """Combinations of options in which every allowed pair of values occurs: greedy, the same list every time."""
    pairs = itertools.combinations(OPTIONS, 2)
    open_pairs = {
        frozenset(pair)
        for a, b in pairs
        for pair in itertools.product(((a, x) for x in OPTIONS[a]), ((b, y) for y in OPTIONS[b]))
        if allowed(pair)
    }
    everything = [(name, value) for name, values in OPTIONS.items() for value in values]
    rank = {choice: index for index, choice in enumerate(everything)}
    found = []
    while open_pairs:
        chosen: list[Choice] = sorted(
            min(open_pairs, key=lambda pair: sorted(rank[c] for c in pair)), key=lambda choice: rank[choice]
        )
        for name, values in OPTIONS.items():
            if name in dict(chosen):
                continue
            able = [(name, value) for value in values if allowed([*chosen, (name, value)])]
            turn = len(found)  # among equals, each value in its turn
            able = able[turn % len(able) :] + able[: turn % len(able)]
            chosen.append(max(able, key=lambda c: sum(frozenset((c, other)) in open_pairs for other in chosen)))
        open_pairs -= {frozenset(pair) for pair in itertools.combinations(chosen, 2)}
        found.append(dict(chosen))
    return found


@dataclass(frozen=True, slots=True)
class Case:
    codec: Grouped
    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.codec.spec} {self.source} {self.target}"


def as_case(options: dict[str, object]) -> Case:
    rest = dict(options)
    source, target = str(rest.pop("source")), str(rest.pop("target"))
    return Case(GroupedInt(**rest), source, target)  # type: ignore[arg-type]


def mx_cases() -> list[Case]:
    """Every element with every way to scale and every block; types in turn."""
    scales: list[dict[str, str]] = [{"mode": mode} for mode in ("floor", "rceil", "ceil", "even")]
    scales += [{"scale": scale} for scale in ("bf16", "fp16", "fp32")]
    kinds = tuple(DTYPES)
    return [
        Case(MX(name, block, **scale), kinds[(i + j + k) % 3], kinds[(i + 2 * j + k) % 3])  # type: ignore[arg-type]
        for (i, name), (j, scale), (k, block) in itertools.product(
            enumerate(MX_ELEMENTS), enumerate(scales), enumerate((32, 8, 48))
        )
    ]


INTEGERS = [as_case(options) for options in covering()]
# What the tables leave out: MX with rotation and other blocks, integers with more planes and groups, in pairs.
OTHERS = [
    Case(parse_codec(spec), source, target)  # type: ignore[arg-type]
    for spec, source, target in (
        ("mx-e2m1-b32-h64", "bf16", "bf16"), ("mx-e4m3-b64-h16-fp16", "fp32", "fp32"),
        ("mx-e3m2-b1024", "bf16", "fp32"), ("mx-int8-b16-h16", "fp16", "fp16"), ("mx-e5m2-b264-even", "bf16", "bf16"),
        ("int4-g4096-zp-sr", "bf16", "bf16"), ("int7-g2048-min-h4096", "fp32", "fp32"),
    )
]  # fmt: skip


def some(cases: list[Case]) -> list[Case]:
    """All of them in the interpreter; on a GPU each is two compilations, so every sixth."""
    return cases if INTERPRETED.value else cases[::6]


def by_spec(value: object) -> str:
    return value.spec if isinstance(value, GroupedInt | MX) else str(value)


# ---- the tables themselves


def test_every_pair_of_options_occurs() -> None:
    cases = covering()
    for a, b in itertools.combinations(OPTIONS, 2):
        for x, y in itertools.product(OPTIONS[a], OPTIONS[b]):
            if allowed([(a, x), (b, y)]):
                assert any(case[a] == x and case[b] == y for case in cases), (a, x, b, y)
    assert len(cases) < 110


@pytest.mark.parametrize("spec", ["int4-g128-zp", "int8-g32-sym-fp16", "int5-g48-min", "mx-e2m1-b32", "mx-e4m3-b32"])
def test_inputs_hold_ties(spec: str) -> None:
    codec = parse_codec(spec)
    assert isinstance(codec, GroupedInt | MX)
    x = groups(codec, torch.bfloat16)
    scale_G = wire_scales(encode_flat(x, codec), x.numel(), codec)
    x_GK = x.double().view(-1, codec.group)
    if isinstance(codec, GroupedInt) and codec.grid == "minimum":
        x_GK = x_GK - x_GK.amin(1, keepdim=True)
    steps = x_GK[(scale_G > 0).flatten()] / scale_G[scale_G > 0][:, None]
    ties = torch.isin(steps, halves(codec))
    assert int(ties.sum()) > 60


# ---- encode and decode


@pytest.mark.parametrize("source", DTYPES if INTERPRETED.value else ["bf16"])
@pytest.mark.parametrize("codec", CATALOG, ids=by_spec)
def test_catalog(codec: Grouped, source: str, device: torch.device) -> None:
    dtype = DTYPES[source]
    x = groups(codec, dtype)
    for numel in (*sizes(codec), x.numel()):
        buffer = check_encode(x[-numel:], codec, device)
        check_decode(buffer, numel, codec, dtype, device)
    for target in DTYPES.values():
        if target != dtype:
            check_decode(buffer, x.numel(), codec, target, device)


@pytest.mark.parametrize("case", some(INTEGERS) + some(mx_cases()) + OTHERS, ids=str)
def test_options(case: Case, device: torch.device) -> None:
    codec = case.codec
    x = groups(codec, DTYPES[case.source])
    tail = sizes(codec)[len(case.codec.spec) % 3]
    for numel in (tail, x.numel() - codec.align + tail % codec.align):
        check_decode(check_encode(x[:numel], codec, device), numel, codec, DTYPES[case.target], device)


@pytest.mark.parametrize("codec", CATALOG, ids=by_spec)
def test_all_codes_decode_alike(codec: Grouped, device: torch.device) -> None:
    """Bytes nobody wrote: every code, NaN and infinite ones among them, and every kind of scale."""
    numel = 96 * codec.group + 3
    generator = torch.Generator().manual_seed(2)
    buffer = torch.randint(0, 256, (codec.wire_bytes(numel),), generator=generator, dtype=torch.uint8)
    for section, at in zip(codec.sections(numel), codec.offsets(numel), strict=True):
        if section.name == "spike_indices":  # two places, or it is not certain who comes last
            places = buffer[at : at + section.nbytes].view(-1, 2)
            places[:, 0] %= 100
            places[:, 1] = places[:, 0] + 9
    for dtype in (torch.bfloat16, torch.float16):
        check_decode(buffer, numel, codec, dtype, device)


def test_every_bf16_number_in_every_element(device: torch.device) -> None:
    """One number a block and a power of two beside it, so that the scale is that of 1: all 65536 of them."""
    raw = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = torch.stack([raw, torch.ones(65536, dtype=torch.bfloat16)]).t().reshape(-1)
    x = x[torch.isfinite(x)]
    for name in MX_ELEMENTS:
        codec = MX(name, 8)
        check_encode(x[: x.numel() // 8 * 8], codec, device)


def test_a_spike_beyond_zeros_is_no_nan(device: torch.device) -> None:
    """A scale of zero beside a value that overflows when both are lifted: infinity times zero once."""
    for spec in ("int4-g32-sym-sr", "int2-g32-zp-sr", "int3-g32-min-sr", "int8-g32-sym-sr"):
        x = torch.zeros(96, dtype=torch.bfloat16)
        x[3], x[40], x[41], x[70] = 3e38, -3e38, 3e38, 2.0**-130
        codec = parse_codec(spec)
        check_decode(check_encode(x, codec, device), 96, codec, torch.bfloat16, device)


@pytest.mark.parametrize("spec", ["int5-g32-zp", "mx-e2m1-b32", "int3-g24-min-sr", "int4-g16-sym-h64"])
@pytest.mark.parametrize("tuning", [Tuning(64, 1), Tuning(1024, 8)], ids=str)
def test_tiles_change_no_byte(spec: str, tuning: Tuning, device: torch.device) -> None:
    codec = parse_codec(spec)
    assert isinstance(codec, GroupedInt | MX)
    x = groups(codec, torch.bfloat16)[:1100]
    layout = parts(codec, (1100,), device)
    wire = wire_of(1100, codec, device)
    encode_into(x.to(device), wire, layout, tuning)
    assert torch.equal(wire[0, 0, :-16].cpu(), encode_flat(x, codec))
    found = torch.empty(1100, dtype=torch.float32, device=device)
    decode_into(wire, found, layout, tuning)
    assert same(found.cpu(), decode_flat(wire[0, 0, :-16].cpu(), 1100, codec))


@pytest.mark.parametrize("spec", ["int4-g32-zp", "mx-e4m3-b64"])
def test_values_may_start_anywhere(spec: str, device: torch.device) -> None:
    """At odd places, where two bf16 values are no aligned word, and in rows of odd length."""
    codec = parse_codec(spec)
    assert isinstance(codec, GroupedInt | MX)
    x = groups(codec, torch.bfloat16)
    check_encode(x[1:1000], codec, device)
    rows = x[: 2 * 1001].view(2, 1001).to(device)
    layout = parts(codec, (1001,), device)
    wire = torch.full((2, 1, -(-layout.nbytes[0] // 16) * 16), POISON, dtype=torch.uint8, device=device)
    encode_into(rows, wire, layout)
    found = torch.empty_like(rows)
    decode_into(wire, found, layout)
    for row in range(2):
        expected = encode_flat(rows[row].cpu(), codec)
        assert torch.equal(wire[row, 0, : len(expected)].cpu(), expected)
        assert same(found[row].cpu(), decode_flat(expected, 1001, codec, dtype=torch.bfloat16))


@pytest.mark.parametrize("spec", ["int5-g32-zp", "mx-e2m1-b32", "int4-g16-sym-h64"])
def test_rows_and_parts_in_one_launch(spec: str, device: torch.device) -> None:
    """Rows apart from each other, parts of different sizes, an empty one last, buffers wider than they need be."""
    codec = parse_codec(spec)
    assert isinstance(codec, GroupedInt | MX)
    numels = (3 * codec.align, 2 * codec.align, codec.align + 3, 0)
    total = sum(numels)
    x = groups(codec, torch.bfloat16)[: 2 * (total + 8)].view(2, -1).to(device)
    layout = parts(codec, numels, device)
    assert len(layout) == 4 and layout.nbytes == tuple(codec.wire_bytes(n) for n in numels)
    wire = torch.full((2, 4, max(layout.nbytes) + 32), POISON, dtype=torch.uint8, device=device)
    encode_into(x[:, :total], wire, layout)
    found = torch.zeros_like(x)
    decode_into(wire, found[:, :total], layout)
    for row in range(2):
        for part, (start, numel) in enumerate(zip(itertools.accumulate((0, *numels)), numels, strict=False)):
            expected = encode_flat(x[row, start : start + numel].cpu(), codec)
            assert torch.equal(wire[row, part, : len(expected)].cpu(), expected)
            assert (wire[row, part, len(expected) :] == POISON).all()
            values = decode_flat(expected, numel, codec, dtype=torch.bfloat16)
            assert same(found[row, start : start + numel].cpu(), values)
    assert not found[:, total:].any()


# ---- reduce, and requantise


def ranks_of(reduce: Grouped, gather: Grouped, ranks: int, numel: int) -> tuple[Tensor, list[Interval]]:
    """bf16 values [R, N] of every kind, the first groups ordinary in all ranks, and the cuts: a part for each rank, or
    three where those are too many.
    """
    align = math.lcm(reduce.align, gather.align)
    every = [groups(reduce, torch.bfloat16, seed) for seed in range(2)]
    rows = [row.repeat(-(-numel // row.numel())) for row in every]
    x = torch.stack([rows[rank % 2].roll(rank * align * 7)[:numel] for rank in range(ranks)])
    x[:, : 4 * align] = torch.randn(ranks, 4 * align, generator=torch.Generator().manual_seed(ranks)).bfloat16()
    return x, list(partition(Interval(0, numel), ranks if ranks <= UNROLLED_RANKS else 3, align))


SEVERAL = (2, 3, 4, 8, UNROLLED_RANKS + 3)
FIRST = [parse_codec(spec) for spec in ("int4-g128-zp", "int4-g32-sym-fp16", "mx-e2m1-b32")]
PAIRS = [(a, b, ranks) for a, b in TWO_STEPS for ranks in SEVERAL if (a in FIRST and b in FIRST) or ranks == 4]
MORE = [
    (parse_codec(a), parse_codec(b), ranks)
    for a, b, ranks in (
        ("int2-g64-min-sr", "mx-e4m3-b32", 3), ("int5-g128-zp-h128", "int5-g64-zp-h128", 2),
        ("mx-e4m3-b32", "int8-g1024-min-fp32", 8), ("int3-g16-min-h64", "int6-g8-sym-sr-e8m0", 4),
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("reduce", "gather", "ranks"), [*(PAIRS if INTERPRETED.value else PAIRS[::3]), *MORE], ids=by_spec
)
def test_reduce_and_requantise(reduce: Grouped, gather: Grouped, ranks: int, device: torch.device) -> None:
    align = math.lcm(reduce.align, gather.align)
    numel = (min(2 * ranks, 13) + 1) * align + 5
    x, cuts = ranks_of(reduce, gather, ranks, numel)
    numels = tuple(len(cut) for cut in cuts)
    source, target = parts(reduce, numels, device), parts(gather, numels, device)
    stride = -(-max(source.nbytes) // 16) * 16 + 16
    wire, total = copies(reduce, x, tuple((cut.start, cut.stop) for cut in cuts), stride)
    wire = wire.to(device)

    for dtype in (torch.float32, torch.bfloat16):
        found = torch.full((1, numel), 77.0, dtype=dtype, device=device)
        reduce_into(wire, found, source)
        assert same(found[0].cpu(), total.to(dtype))

    sums = torch.full((2, len(cuts), -(-max(target.nbytes) // 16) * 16 + 16), POISON, dtype=torch.uint8, device=device)
    requantise_into(wire, source, sums, target)
    for part, cut in enumerate(cuts):
        expected = encode_flat(total[cut.start : cut.stop], gather)
        for row in range(2):
            assert torch.equal(sums[row, part, : len(expected)].cpu(), expected), (part, cut)
            assert (sums[row, part, len(expected) :] == POISON).all()


def test_reduce_takes_groups_of_any_size(device: torch.device) -> None:
    codec = GroupedInt(5, 48, "minimum")
    x, cuts = ranks_of(codec, codec, 3, 700)
    layout = parts(codec, tuple(len(cut) for cut in cuts), device)
    wire, total = copies(codec, x, tuple((cut.start, cut.stop) for cut in cuts), max(layout.nbytes))
    found = torch.empty(2, 700, dtype=torch.float16, device=device)
    reduce_into(wire.to(device), found, layout)
    assert same(found[0].cpu(), found[1].cpu())
    expected = total.to(torch.float16)
    assert same(found[0].cpu(), expected)


def test_copies_are_added_in_rank_order(device: torch.device) -> None:
    """1, 2^24 and -2^24 in six orders: fp32 sums that differ."""
    codec = GroupedInt(8, 8, "symmetric", metadata="fp32")
    layout = parts(codec, (8,), device)
    for order in itertools.permutations((1.0, 2.0**24, -(2.0**24))):
        x = torch.tensor(order)[:, None].repeat(1, 8)
        wire = torch.stack([encode_flat(row, codec) for row in x])[:, None].to(device)
        decoded = [decode_flat(copy, 8, codec) for copy in wire[:, 0].cpu()]
        found = torch.empty(8, device=device)
        reduce_into(wire, found, layout)
        assert torch.equal(found.cpu(), decoded[0] + decoded[1] + decoded[2])


# ---- what is refused, and the backend


def test_raw_values_are_a_cast(device: torch.device) -> None:
    x = torch.tensor([1.0, math.nan, math.inf, 3.4e38, 1e-42, -0.0], device=device)
    for name in DTYPES:
        buffer = backend.encode_flat(x, Raw(name))
        # A GPU's cast to bf16 makes another NaN than a CPU's: by position is what is promised.
        sent = (b.view(DTYPES[name])[:6] for b in (buffer.cpu(), encode_flat(x.cpu(), Raw(name))))
        assert same(*sent)
        assert same(backend.decode_flat(buffer, 6, Raw(name)).cpu(), decode_flat(buffer.cpu(), 6, Raw(name)))


def test_the_backend_by_name(device: torch.device) -> None:
    codec = parse_codec("int4")
    x = groups(CATALOG[0], torch.bfloat16)[:300].to(device)
    buffer = backend.encode_flat(x, codec)
    assert torch.equal(buffer.cpu(), encode_flat(x.cpu(), codec))
    assert same(backend.decode_flat(buffer, 300, codec).cpu(), decode_flat(buffer.cpu(), 300, codec))


def test_what_is_refused(device: torch.device) -> None:
    codec = parse_codec("int4-g32-zp")
    layout = parts(codec, (64,), device)
    wire = wire_of(64, codec, device)
    x = torch.zeros(64, device=device)
    with pytest.raises(ValueError, match="only the last part may be ragged: 33 values, groups of 32"):
        parts(codec, (33, 32), device)
    with pytest.raises(ValueError, match="rows must hold 64 values, the sum of their parts: 63"):
        encode_into(x[:63], wire, layout)
    with pytest.raises(ValueError, match="rows must hold 64 values, the sum of their parts: 63"):
        decode_into(wire, x[:63], layout)
    with pytest.raises(ValueError, match="rows must hold 64 values, the sum of their parts: 63"):
        reduce_into(wire, x[:63], layout)
    with pytest.raises(ValueError, match=r"wire buffers of int4-g32-zp must be uint8 \[1, 1, '>= 64'\]"):
        encode_into(x, wire[..., :63], layout)
    with pytest.raises(ValueError, match=r"must be uint8 .* given torch.int8"):
        encode_into(x, wire.view(torch.int8), layout)
    with pytest.raises(ValueError, match="each from a multiple of 16 bytes on"):
        encode_into(x, torch.zeros(1, 1, 96, dtype=torch.uint8, device=device)[..., 8:], layout)
    with pytest.raises(ValueError, match=r"values must be .* with contiguous rows"):
        encode_into(torch.zeros(2, 128, device=device)[:, ::2], wire, layout)
    with pytest.raises(ValueError, match="tensors must lie on one device"):
        encode_into(torch.zeros(64, device="meta"), wire, layout)
    with pytest.raises(ValueError, match=r"call resolve_neg\(\)"):
        encode_into(torch._neg_view(x), wire, layout)
    with pytest.raises(ValueError, match="both phases must cut the tensor alike"):
        requantise_into(wire, layout, wire, parts(codec, (32,), device))
    odd = parse_codec("int4-g48-zp")
    assert not can_requantise(form(codec), form(odd))
    with pytest.raises(ValueError, match="groups must be powers of two: int4-g32-zp and int4-g48-zp"):
        requantise_into(wire, layout, wire_of(64, odd, device), parts(odd, (64,), device))
    with pytest.raises(ValueError, match="kernels rotate groups of a power of two only: group=48"):
        form(parse_codec("int4-g48-zp-h16"))
    with pytest.raises(ValueError, match="take groups and rotations up to 32768 values"):
        form(GroupedInt(4, 65536))
    for codec_without in (Raw("bf16"), OutlierHybrid()):
        with pytest.raises(ValueError, match="grouped integers, MX and NVFP4 codecs have a form"):
            form(codec_without)
    with pytest.raises(ValueError, match="values must be a power of two from 8"):
        Tuning(1000, 4)
    with pytest.raises(ValueError, match="warps 1, 2, 4, 8 or 16"):
        Tuning(1024, 3)


def test_views_that_are_no_plain_memory(device: torch.device) -> None:
    """One value of any stride, and lazily negated ones: `reference.quantize` hands kernels what they can read."""
    x = torch.arange(1.0, 200.0, device=device)
    for view in (x.as_strided((1,), (7,), 3), torch._neg_view(x), torch._neg_view(x).as_strided((1,), (7,), 3)):
        for codec in (Raw("bf16"), parse_codec("int4-g32-zp"), parse_codec("mx-e4m3")):
            assert torch.equal(encode_flat(view, codec, "triton"), encode_flat(view, codec))
