"""Compressed all-to-all of experts' tokens: rows where they belong, each as if it were alone, bytes by the formula."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thinwire.reference.alltoall import Received, all_to_all, all_to_all_local, codec_of
from thinwire.reference.catalog import parse_codec, scheme, schemes
from thinwire.reference.core.scheme import Codec, Raw
from thinwire.reference.core.tokens import exchange_of_tokens, row_values
from thinwire.reference.groups.bounds import tokens_bound
from thinwire.reference.groups.group import LocalGroup
from thinwire.reference.parallel import all_to_all_op, group_name
from thinwire.reference.quantize import combine_rows, decode_rows, encode_rows

from . import gloo, tokens

torch.set_num_threads(1)
PRESETS = [name for name, entry in schemes().items() if entry.compresses_experts]
SPECS = (
    "bf16", "int8-g128-zp", "int5-g8-sym", "int4-g32-zp-h64", "int2-g128-zp-sr", "int3-g24-min", "mx-e2m1-b32",
    "mx-e4m3-b128-fp32", "nvfp4-r48", "hybrid4-k64-dyn", "hybrid5-k7-dyn-g21",
)  # fmt: skip
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def dealt(counts: tuple[tuple[int, ...], ...], width: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """Rows of every rank, of many sizes."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [sum(row) for row in counts]
    found = [torch.randn(size, width, generator=generator) for size in sizes]
    return [(x * torch.exp2(torch.randn(len(x), 1, generator=generator) * 3)).to(dtype) for x in found]


def wanted(xs: list[Tensor], counts: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    """What every rank should get, exactly."""
    cut = [x.split(list(row)) for x, row in zip(xs, counts, strict=True)]
    return [torch.cat([of_source[rank] for of_source in cut]) for rank in range(len(xs))]


def alone(row_D: Tensor, codec: Codec) -> Tensor:
    """A row there and back, by itself."""
    out = torch.empty_like(row_D)[None]
    decode_rows(encode_rows(row_D[None], codec), out, codec)
    return out[0]


def check(
    xs: list[Tensor], counts: tuple[tuple[int, ...], ...], codec: Codec, found: list[Received], group: LocalGroup
) -> None:
    """Counts, bytes of every pair, bounds of every value."""
    each, ranks = row_values(codec, xs[0].shape[1]), len(xs)
    for i, j in itertools.product(range(ranks), repeat=2):
        formula = codec.wire_bytes(counts[i][j] * each) if i != j and ranks > 1 else 0
        assert group.sent_bytes[i, j] == formula
    assert [r.counts for r in found] == [tuple(row[rank] for row in counts) for rank in range(ranks)]
    for exact, got in zip(wanted(xs, counts), found, strict=True):
        assert got.rows.dtype == exact.dtype and got.rows.shape == exact.shape
        wrong = (got.rows.double() - exact.double()).abs()
        assert (wrong <= (tokens_bound(exact, codec) if ranks > 1 else 0)).all()


@st.composite
def deals(draw: st.DrawFn) -> tuple[tuple[int, ...], ...]:
    ranks = draw(st.integers(1, 5))
    row = st.lists(st.integers(0, 4), min_size=ranks, max_size=ranks).map(tuple)
    return tuple(draw(st.lists(row, min_size=ranks, max_size=ranks)))


@settings(max_examples=60, deadline=None)
@given(deals(), st.integers(1, 300), st.sampled_from(SPECS), st.sampled_from(DTYPES), st.integers(0, 20))
def test_rows_arrive_within_bounds_and_bytes_are_the_formulas(
    counts: tuple[tuple[int, ...], ...], width: int, spec: str, dtype: torch.dtype, seed: int
) -> None:
    xs, group = dealt(counts, width, dtype, seed), LocalGroup(len(counts))
    kept = [x.clone() for x in xs]
    name = f"dispatch:{spec}"
    codec = codec_of(name, "dispatch", dtype)
    found = all_to_all_local(xs, counts, name, group=group)
    check(xs, counts, codec, found, group)
    schedule = exchange_of_tokens(codec, counts, width)
    for rank, nbytes in schedule.sent_bytes().items():
        assert nbytes == sum(sent for (source, _), sent in group.sent_bytes.items() if source == rank)
    assert all(torch.equal(a, b) for a, b in zip(xs, kept, strict=True))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("width", [64, 200])
def test_a_row_depends_on_no_other(spec: str, width: int) -> None:
    """Nor on who sends it to whom: each is what it would be alone, bit for bit, beside rows that are no numbers too."""
    counts = ((1, 2, 0), (3, 0, 1), (0, 2, 2))
    xs = dealt(counts, width, torch.bfloat16)
    xs[1][2] = torch.inf
    xs[2][0, 5] = torch.nan
    codec = codec_of(f"dispatch:{spec}", "dispatch", torch.bfloat16)
    for exact, got in zip(wanted(xs, counts), all_to_all_local(xs, counts, f"dispatch:{spec}"), strict=True):
        by_itself = torch.stack([alone(row, codec) for row in exact])
        assert torch.equal(got.rows.nan_to_num(99.0), by_itself.nan_to_num(99.0))


@pytest.mark.parametrize("spec", ["int4-g8-zp", "bf16"])
def test_every_small_world(spec: str) -> None:
    """All counts up to 2 between two ranks, all of 0 and 1 between three."""
    codec = codec_of(f"dispatch:{spec}", "dispatch", torch.float32)
    for ranks, most in ((2, 2), (3, 1)):
        for flat in itertools.product(range(most + 1), repeat=ranks * ranks):
            counts = tuple(flat[rank * ranks : (rank + 1) * ranks] for rank in range(ranks))
            xs, group = dealt(counts, 12, torch.float32), LocalGroup(ranks)
            check(xs, counts, codec, all_to_all_local(xs, counts, f"dispatch:{spec}", group=group), group)


@pytest.mark.parametrize("name", ["bf16", *PRESETS, "flash-int4+deepep-fp8+combine:int6"])
def test_there_and_back(name: str) -> None:
    """Combine, by the counts received, brings each row to where it was; each phase errs by its own codec alone."""
    counts = ((1, 0, 4), (2, 2, 0), (0, 3, 1))
    xs, entry = dealt(counts, 512, torch.bfloat16), scheme(name)
    there = all_to_all_local(xs, counts, name)
    back = all_to_all_local([r.rows for r in there], [r.counts for r in there], name, phase="combine")
    out, home = entry.dispatch or Raw(), entry.combine or Raw()
    for rank, (x, got) in enumerate(zip(xs, back, strict=True)):
        assert got.counts == counts[rank]
        expected = torch.stack([alone(alone(row, out), home) for row in x])
        assert torch.equal(got.rows, expected)
        assert torch.equal(got.rows, x) == (not entry.compresses_experts)


@pytest.mark.parametrize("spec", SPECS)
def test_rows_picked_by_index_are_those_permuted_before(spec: str) -> None:
    """A token goes to several ranks, another to none."""
    counts = ((3, 2), (0, 4))
    xs = [torch.randn(4, 100, generator=torch.Generator().manual_seed(rank)) for rank in range(2)]
    indices = [torch.tensor([3, 0, 1, 1, 0]), torch.tensor([2, 2, 2, 0])]
    picked = all_to_all_local(xs, counts, f"dispatch:{spec}", indices=indices)
    sorted_before = [x[i] for x, i in zip(xs, indices, strict=True)]
    for a, b in zip(picked, all_to_all_local(sorted_before, counts, f"dispatch:{spec}"), strict=True):
        assert torch.equal(a.rows, b.rows) and a.counts == b.counts


def test_one_rank_needs_no_wire() -> None:
    group, x = LocalGroup(1), torch.randn(3, 40)
    for index, want in ((None, x), (torch.tensor([2, 2, 0]), x[[2, 2, 0]])):
        indices = None if index is None else [index]
        (found,) = all_to_all_local([x], [[3]], "a2a-int2-sr", group=group, indices=indices)
        assert torch.equal(found.rows, want) and found.counts == (3,) and not group.sent_bytes


def test_uncompressed_rows_keep_their_type() -> None:
    """bf16 names the baseline of bf16 models, not a cast; and all-reduces' codecs are none of experts'."""
    xs = [torch.full((2, 8), 1 + 2.0**-20), torch.zeros(2, 8)]
    for name in ("bf16", "flash-int4", "dispatch:int4"):
        found = all_to_all_local(xs, [[1, 1], [1, 1]], name, phase="combine")
        assert torch.equal(found[1].rows[0], xs[0][0])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.integers(1, 4), st.sampled_from(SPECS[:8]), st.integers(0, 9))
def test_choices_are_weighed_and_added_in_order(count: int, choices: int, spec: str, seed: int) -> None:
    """As by hand; a choice that nobody answered adds nothing."""
    generator, codec, width = torch.Generator().manual_seed(seed), parse_codec(spec), 72
    counts = (count, 0, 3)
    rows = [torch.randn(n, width, generator=generator) for n in counts]
    place = torch.randint(-1, sum(counts), (4, choices), generator=generator)
    weight = torch.rand(4, choices, generator=generator)
    buffers = [encode_rows(x, codec) for x in rows]
    got = combine_rows(buffers, counts, place, weight, width, codec)
    decoded = torch.stack([alone(row, codec) for x in rows for row in x])
    for token in range(4):
        total = torch.zeros(width)
        for choice in range(choices):
            if place[token, choice] >= 0:
                total = total + weight[token, choice] * decoded[place[token, choice]]
        assert torch.equal(got[token], total)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"counts": [[1, 1], [1, 2]]}, "counts must say where each of 2 rows goes"),
        ({"counts": [[1, 1], [3, -1]]}, "whole numbers of 0 or more"),
        ({"counts": [[1, 1], [2]]}, "how many rows go to each of 2 ranks: given 1"),
        ({"counts": [[1, 1]]}, "given 1 counts for"),
        ({"xs": [torch.zeros(2, 4), torch.zeros(2, 5)]}, "of one width and type"),
        ({"xs": [torch.zeros(2, 4), torch.zeros(2, 4).half()]}, "of one width and type"),
        ({"xs": [torch.zeros(2, 4).int()] * 2}, "all_to_all takes"),
        ({"xs": [torch.zeros(2)] * 2}, r"rows must be \[rows, width\]"),
        ({"phase": "return"}, "phase must be one of dispatch, combine: phase='return'"),
        ({"indices": [torch.tensor([0, 1])] * 2, "counts": [[1, 1], [1, 0]]}, "where each of 2 rows goes"),
        ({"indices": [torch.tensor([0, 1]).int()] * 2}, "index must be int64"),
        ({"indices": [torch.tensor([[0, 1]])] * 2}, r"index must be int64 \[rows\]: given torch.int64 \[1, 2\]"),
        ({"indices": [torch.tensor([0, 2])] * 2}, r"index must be places of the 2 rows, 0\.\.1: given 2$"),
        ({"indices": [torch.tensor([0, 1]), torch.tensor([-1, 1])]}, r"of the 2 rows, 0\.\.1: given -1$"),
        (
            {"indices": [torch.tensor([0, 1])] * 2, "xs": [torch.zeros(0, 4)] * 2},
            "empty, there being no rows: given 0$",
        ),
        ({"indices": [torch.tensor([0, 1])]}, "indices must be one for each of 2 ranks: given 1$"),
        ({"indices": []}, "indices must be one for each of 2 ranks: given 0$"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], said: str) -> None:
    asked: dict[str, Any] = {"xs": [torch.zeros(2, 4)] * 2, "counts": [[1, 1], [1, 1]]} | change
    with pytest.raises(ValueError, match=said):
        all_to_all_local(asked.pop("xs"), asked.pop("counts"), "a2a-int4", **asked)


@pytest.mark.parametrize("place", [-1, 3])
def test_places_that_there_are_not_are_refused_wherever_rows_are_picked(place: int) -> None:
    """By a rank of a process group alone, too, which encodes nothing; and where rows are decoded to places."""
    index, codec, x = torch.tensor([0, place]), parse_codec("int4-g32-zp"), torch.zeros(3, 64)
    said = rf"index must be places of the 3 rows, 0\.\.2: given {place}$"
    with pytest.raises(ValueError, match=said):
        encode_rows(x, codec, index_M=index)
    with pytest.raises(ValueError, match=said):
        decode_rows(encode_rows(x[:2], codec), x, codec, index_M=index)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match=said):
            all_to_all(x, [2], "a2a-int4", index=index)
        assert torch.equal(all_to_all(x, [2], "a2a-int4", index=index.clamp(0, 2)).rows, x[:2])
    finally:
        dist.destroy_process_group()


def test_real_ranks(tmp_path: Path) -> None:
    """Four gloo processes, and two of them by themselves: the rows of the local group, bytes of the formula, one
    question for all counts; disagreement said alike; the custom op whole in a graph.
    """
    found = gloo.on_ranks(tokens.RANKS, tmp_path, tokens, "everything")
    cases = itertools.product(tokens.SCHEMES, tokens.WIDTHS, enumerate(tokens.COUNTS))
    for place, (name, width, (number, counts)) in enumerate(cases):
        codec = codec_of(name, "dispatch", torch.bfloat16)
        xs = [tokens.rows_of(rank, counts[rank], width) for rank in range(tokens.RANKS)]
        there = all_to_all_local(xs, counts, name)
        back = all_to_all_local([r.rows for r in there], [r.counts for r in there], name, phase="combine")
        for rank, result in enumerate(each["all"][place] for each in found):
            assert result["there"] == [there[rank].rows.tolist(), list(there[rank].counts)]
            assert result["back"] == [back[rank].rows.tolist(), list(back[rank].counts)]
            others = {str(peer): count for peer, count in enumerate(counts[rank]) if count and peer != rank}
            each_row = row_values(codec, width)
            assert result["sent"] == {peer: codec.wire_bytes(count * each_row) for peer, count in others.items()}
            # Dispatch and combine are asked about once each, as bf16 is before; counts that all were told are new.
            assert result["asked"] == ((2 - ("nvfp4" in name or "hybrid" in name)) if number == 0 else int(number == 1))
    for words in ("shape: '[64]' on rank 0-2, '[65]' on rank 3", "scheme: 'a2a-int8' on rank 0-2, 'a2a-int5' on", ""):
        said = {each["wrong"].pop(0) for each in found}
        assert len(said) == 1 and words in (one := said.pop()) and "ranks disagree on collective" in one, one
    for rank, each in enumerate(found[:2]):
        result = each["pair"]
        assert result.pop("came") == [[2, 0], [3, 4]][rank]
        said = result.pop("too many")
        assert said == ("nothing" if rank == 0 else "room for 2 rows, but 7 came: counts=[3, 4]")
        assert result == dict.fromkeys(("by hand", "roomy", "fixed", "open"), True)


def test_the_custom_op_passes_torch_opcheck() -> None:
    """Schema, fake tensors and dispatch, with as many rows as come and with room for more."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        arguments = (torch.randn(4, 64), torch.tensor([3]), "a2a-int4", group_name(dist.group.WORLD))
        for rows in (-1, 6):
            torch.library.opcheck(
                all_to_all_op,
                arguments,
                {"rows": rows, "index": torch.tensor([0, 3, 3])},
                test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_dynamic"),
            )
    finally:
        dist.destroy_process_group()
