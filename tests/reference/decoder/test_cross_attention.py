"""Distributed cross-attention: equal to the undistributed one, the same bits in one process and in many, its bytes by
closed form, schedule, real run and simulated links.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from thinwire.reference.catalog import parse_codec
from thinwire.reference.codecs import error
from thinwire.reference.core.cross_schedule import (
    CrossShape,
    Wire,
    crossover_visual_tokens,
    lv_bytes,
    lv_exchanges,
    ring_bytes,
    ring_exchanges,
)
from thinwire.reference.core.scheme import Codec, GroupedInt, Raw
from thinwire.reference.decoder import cross_attention
from thinwire.reference.decoder.cross_attention import attend, lv_xattn, merge, ring_attention
from thinwire.reference.groups.group import LocalGroup

from ...test_one_scheme import simulated_uplinks
from .. import gloo
from . import crossing

torch.set_num_threads(1)
WORKER = Path(__file__).with_name("cross_worker.py")
U32, U16 = 2.0**-24, 2.0**-9  # unit roundoff of fp32 and bf16
METHODS = ("lv", "ring")
CUTS = (  # (text, visual) tokens of each rank
    ((7,), (12,)),
    ((4, 4), (24, 24)),
    ((3, 5), (40, 1)),
    ((5, 0, 2), (7, 11, 0)),
    ((0, 6, 0), (0, 0, 30)),
    ((1, 2, 3, 4), (9, 9, 0, 30)),
    ((2,) * 8, (16,) * 8),
)


def exact(case: dict[str, Any]) -> Tensor:
    """The undistributed cross-attention in fp64, by a loop over heads, of the very values that the ranks hold."""
    query, key, value = (x.double() for x in crossing.whole(case))
    shape, found = crossing.shape_of(case), torch.zeros_like(query)
    for b in range(shape.batch):
        seen = case["lengths"][b] if "lengths" in case else key.shape[2]
        for h in range(shape.heads):
            g = h // (shape.heads // shape.kv_heads)
            if seen:
                score = query[b, h] @ key[b, g, :seen].T / math.sqrt(shape.head_dim)
                found[b, h] = torch.softmax(score, -1) @ value[b, g, :seen]
    return found


def tolerance(case: dict[str, Any], u: float) -> float:
    """How far an output in arithmetic of unit roundoff u may lie from the exact one.

    A score is off by (K + 2) u times the largest sum of |q||k|/sqrt(K) =: A; so is, relatively, its weight, beside 2u
    for the exponential and 2A u for the difference it is taken of. Sums over S keys add S u. A merge multiplies by
    exp(a - lse), off by (2L + 4) u where L bounds the log-sum-exps, n + S/KEY_CHUNK times. Relative errors e in all
    weights move their mean of values by at most 2 e max|v|; adding up S values costs S u max|v|.
    """
    query, key, value = (x.double() for x in crossing.whole(case))
    shape = crossing.shape_of(case)
    keys = key.shape[2]
    wide_key = key.repeat_interleave(shape.heads // shape.kv_heads, 1)
    a = float((query.abs() @ wide_key.abs().transpose(-1, -2)).max()) / math.sqrt(shape.head_dim)
    merges = shape.ranks + keys / cross_attention.KEY_CHUNK
    weight = (shape.head_dim + 2) * a + 2 + 2 * a + keys + merges * (2 * (a + math.log(keys)) + 4)
    return (2 * weight + keys) * u * float(value.abs().max())


def check(case: dict[str, Any]) -> None:
    """Either algorithm on one case: right, and with the bytes of the closed form."""
    for method in METHODS:
        asked = {**case, "method": method}
        output, sent = crossing.run_local(asked)
        assert float((output.double() - exact(asked)).abs().max()) <= tolerance(asked, U32), asked
        assert sent == crossing.formula(asked), asked


@pytest.mark.parametrize(("text", "visual"), CUTS)
def test_both_equal_full_attention(text: tuple[int, ...], visual: tuple[int, ...]) -> None:
    for heads, kv_heads in ((4, 4), (6, 2), (5, 1)):
        check({"text": text, "visual": visual, "heads": heads, "kv_heads": kv_heads})


@settings(max_examples=60)
@given(data=st.data())
def test_both_equal_full_attention_for_any_cut(data: st.DataObject) -> None:
    ranks = data.draw(st.integers(1, 5))
    tokens = st.lists(st.integers(0, 9), min_size=ranks, max_size=ranks).filter(any)
    kv_heads = data.draw(st.integers(1, 3))
    case: dict[str, Any] = {
        "text": data.draw(tokens),
        "visual": data.draw(tokens),
        "batch": data.draw(st.integers(1, 2)),
        "kv_heads": kv_heads,
        "heads": kv_heads * data.draw(st.integers(1, 3)),
        "head_dim": data.draw(st.sampled_from((1, 8, 24))),
        "seed": data.draw(st.integers(0, 99)),
    }
    if data.draw(st.booleans()):
        longest = st.integers(0, sum(case["visual"]))
        case["lengths"] = data.draw(st.lists(longest, min_size=case["batch"], max_size=case["batch"]))
    check(case)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("text", "visual"), CUTS)
def test_in_fp64_nothing_but_rounding_is_left(method: str, text: tuple[int, ...], visual: tuple[int, ...]) -> None:
    case = {"text": text, "visual": visual, "dtype": "float64", "method": method, "lengths": [sum(visual) - 1, 3]}
    output, sent = crossing.run_local(case)
    assert output.dtype == torch.float64
    assert float((output - exact(case)).abs().max()) < 1e-13
    assert sum(sent) == (
        2 * sum(crossing.formula({**case, "dtype": "float32"}))  # every value is twice as wide
    )


def test_many_keys_are_scored_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = {"text": (3, 2), "visual": (40, 25), "lengths": [61, 0]}
    before = crossing.run_local(case)[0]
    monkeypatch.setattr(cross_attention, "KEY_CHUNK", 7)
    after = crossing.run_local(case)[0]
    assert not torch.equal(before, after), "chunks change the order of sums: seven keys at a time were not taken"
    check(case)


@pytest.mark.parametrize("method", METHODS)
def test_bf16(method: str) -> None:
    """Scores and sums in fp32; bf16 rounds the output once, and partial outputs at each of their hops."""
    case = {"text": (3, 4, 1), "visual": (50, 20, 9), "dtype": "bfloat16", "method": method}
    output, sent = crossing.run_local(case)
    largest = float(crossing.whole(case)[2].double().abs().max())
    roundings = 1 + (2 if method == "lv" else 0)
    assert output.dtype == torch.bfloat16
    assert float((output.double() - exact(case)).abs().max()) <= tolerance(case, U32) + 1.01 * roundings * U16 * largest
    assert sent == crossing.formula(case)


@pytest.mark.parametrize("spec", ["fp32", "fp16", "int8", "int8-g32-sym", "mx-e4m3"])
def test_compressed_partial_outputs(spec: str) -> None:
    """An output is a mean, so a hop's error enters the end with a weight of at most 1: n - 1 of the codec's largest."""
    case = {"text": (6, 5, 7), "visual": (30, 20, 10), "partial": spec, "head_dim": 16}
    output, sent = crossing.run_local(case)
    largest = float(crossing.whole(case)[2].double().abs().max())
    worst = torch.tensor([largest, -largest], dtype=torch.float64).repeat(256)
    hops = 2 * 1.05 * float(error.bound(worst, parse_codec(spec)).max())  # an encoded mean may exceed the values a bit
    off = float((output.double() - exact(case)).abs().max())
    assert off <= tolerance(case, U32) + hops
    assert spec == "fp32" or off > tolerance(case, U32), "nothing was compressed"
    assert sent == crossing.formula(case)


def test_a_query_that_sees_nothing_gets_zeros() -> None:
    """Whole sequences of padding, and single queries under a mask of both tokens."""
    case: dict[str, Any] = {"text": (3, 2), "visual": (6, 5), "lengths": [0, 8]}
    for method in METHODS:
        output, _ = crossing.run_local({**case, "method": method})
        assert not output[0].any() and output[1].any() and output.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_a_mask_of_queries_and_keys(method: str) -> None:
    """Text that sees the images before it alone, asked for in blocks: what torch makes of the whole mask."""
    case = {"text": (4, 1, 3), "visual": (9, 2, 10)}
    shape = crossing.shape_of(case)
    seen_TS = torch.rand(8, 21, generator=torch.Generator().manual_seed(3)) < 0.5
    seen_TS[:, 0] = True
    query, key, value = crossing.whole(case)

    def mask(rows: range, columns: range) -> Tensor:
        return seen_TS[rows.start : rows.stop, columns.start : columns.stop]

    parts = [x.split(sizes, 2) for x, sizes in ((query, shape.text), (key, shape.visual), (value, shape.visual))]
    run = lv_xattn if method == "lv" else ring_attention
    output = torch.cat(run(*parts, shape, LocalGroup(3), mask=mask, scale=0.3), 2)
    wanted = functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), attn_mask=seen_TS, scale=0.3, enable_gqa=True
    )
    assert float((output.double() - wanted).abs().max()) <= tolerance(case, U32)


def test_one_rank_is_plain_attention() -> None:
    for method in METHODS:
        case = {"text": (5,), "visual": (9,), "method": method}
        output, sent = crossing.run_local(case)
        assert torch.equal(output, attend(*crossing.whole(case))[0])
        assert sent == [0]


@given(st.integers(0, 10_000))
def test_merging_is_commutative_and_associative_to_rounding(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b, c = (
        (torch.randn(1, 1, 4, 3, generator=generator), 30 * torch.randn(1, 1, 4, generator=generator)) for _ in "abc"
    )
    nothing = torch.zeros(1, 1, 4, 3), torch.full((1, 1, 4), -math.inf)
    assert all(torch.equal(x, y) for x, y in zip(merge(a, nothing), a, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(merge(nothing, nothing), nothing, strict=True))
    for one, other in ((merge(a, b), merge(b, a)), (merge(merge(a, b), c), merge(a, merge(b, c)))):
        # log-sum-exps up to 150 in fp32 are off by 150 u, weights relatively by as much for each of two merges
        assert float((one[0] - other[0]).abs().max()) <= 1000 * U32 * 5
        assert torch.allclose(one[1], other[1], rtol=4 * U32, atol=4 * U32)


# --- bytes


@settings(max_examples=80)
@given(data=st.data())
def test_the_closed_form_is_what_the_schedules_send(data: st.DataObject) -> None:
    ranks = data.draw(st.integers(1, 9))
    tokens = st.lists(st.integers(0, 300), min_size=ranks, max_size=ranks).filter(any)
    kv_heads = data.draw(st.integers(1, 4))
    shape = CrossShape(
        data.draw(st.integers(1, 3)), kv_heads * data.draw(st.integers(1, 4)), kv_heads,
        data.draw(st.sampled_from((8, 80, 128))), tuple(data.draw(tokens)), tuple(data.draw(tokens)),
    )  # fmt: skip
    partial = data.draw(st.sampled_from(("bf16", "fp32", "int8", "int4-g32-min", "mx-e4m3")))
    wire = Wire(Raw(data.draw(st.sampled_from(("bf16", "fp32")))), parse_codec(partial))
    for exchanges, formula in (
        (lv_exchanges(shape, wire), lv_bytes(shape, wire)),
        (ring_exchanges(shape, wire), ring_bytes(shape, wire)),
    ):
        sent = [e.schedule.sent_bytes() for e in exchanges if e is not None]
        assert tuple(sum(row[rank] for row in sent) for rank in range(ranks)) == formula


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_raw_and_even_it_is_the_papers_volume(ranks: int) -> None:
    """(n-1)/n of B T H (2 K bytes + 4) against (n-1)/n of 2 B S G K bytes."""
    shape = CrossShape.even(2, 32, 8, 128, 16 * ranks, 100 * ranks, ranks)
    lv, ring = (ranks - 1) * 2 * 16 * 32 * (2 * 128 * 2 + 4), (ranks - 1) * 2 * 2 * 100 * 8 * 128 * 2
    assert lv_bytes(shape, Wire()) == (lv,) * ranks
    assert ring_bytes(shape, Wire()) == (ring,) * ranks


def test_each_block_makes_one_hop_less_than_there_are_ranks() -> None:
    """Queries n - 1 hops, outputs n - 1, never two of a kind in one exchange, always to the next rank; home at last."""
    shape = CrossShape.even(1, 2, 1, 8, 50, 60, 5)
    blocks: dict[tuple[str, int], list[int]] = {}
    for number, exchange in enumerate(lv_exchanges(shape, Wire()), 1):
        assert exchange is not None
        names = ["partial", "lse"] if number >= 5 else ["query", "partial", "lse"] if number > 2 else ["query"]
        for name, (_, back) in zip(names, exchange.arriving, strict=True):
            for rank in range(5):
                blocks.setdefault((name, (rank - back) % 5), []).append(rank)
        assert {(t.destination - t.source) % 5 for t in exchange.schedule.lanes[0].steps[0].transfers} == {1}
    for (name, owner), visited in blocks.items():
        assert len(visited) == 4
        assert visited == [(owner + (1 if name == "query" else 2) + i) % 5 for i in range(4)]
    assert lv_exchanges(CrossShape.even(1, 2, 1, 8, 4, 6, 2), Wire())[1] is None  # nothing moves in the second of two
    assert lv_exchanges(CrossShape.even(1, 2, 1, 8, 4, 6, 1), Wire()) == ()


@given(
    st.integers(1, 400), st.integers(2, 9), st.sampled_from(((8, 8), (32, 8), (12, 1))), st.sampled_from((64, 128)),
    st.sampled_from(("bf16", "fp32", "int8")),
)  # fmt: skip
def test_crossover(text: int, ranks: int, heads: tuple[int, int], head_dim: int, partial: str) -> None:
    wire = Wire(partial=parse_codec(partial))
    shape = CrossShape.even(1, *heads, head_dim, text, 1, ranks)
    turn = crossover_visual_tokens(shape, wire)
    for visual, fewer in ((turn, True), (turn - 1, False)):
        if visual:
            there = CrossShape.even(1, *heads, head_dim, text, visual, ranks)
            assert (sum(lv_bytes(there, wire)) < sum(ring_bytes(there, wire))) is fewer


# --- real processes

REAL: tuple[dict[str, Any], ...] = (
    {"seed": 1},
    {"seed": 2, "dtype": "bfloat16", "heads": 6, "kv_heads": 2},
    {"seed": 3, "method": "ring"},
    {"seed": 4, "method": "ring", "dtype": "float16", "lengths": [40, 0]},
    {"seed": 5, "partial": "int8", "lengths": [3, 90]},
    {"seed": 6, "dtype": "bfloat16", "partial": "fp32", "batch": 1, "heads": 3, "kv_heads": 1, "head_dim": 5},
)


@pytest.mark.parametrize("ranks", [2, 4])
def test_real_processes_give_the_bits_and_the_bytes_of_one(tmp_path: Path, ranks: int) -> None:
    """Closed form = counted in a real gloo run = summed over simulated links, with uneven and empty parts."""
    cases = [
        {**case, "text": text[:ranks], "visual": visual[:ranks]}
        for case in REAL
        for text, visual in (((4, 3, 3, 2), (30, 31, 30, 17)), ((5, 0, 9, 1), (64, 1, 0, 33)))
    ]
    (tmp_path / "job.json").write_text(json.dumps({"ranks": ranks, "cases": cases}))
    started = [subprocess.Popen([sys.executable, str(WORKER), str(tmp_path), str(rank)]) for rank in range(ranks)]
    assert [process.wait(timeout=300) for process in started] == [0] * ranks
    real = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(ranks)]
    for number, case in enumerate(cases):
        local = crossing.run(case, LocalGroup(ranks))
        assert [real[rank][number]["hash"] for rank in range(ranks)] == [gloo.digest(x) for x in local], case
        exchanges = ring_exchanges if case.get("method") == "ring" else lv_exchanges
        links = [0.0] * ranks
        for exchange in exchanges(crossing.shape_of(case), crossing.wire_of(case)):
            if exchange is not None:
                for rank, nbytes in enumerate(simulated_uplinks(exchange.schedule)):
                    links[rank] += nbytes
        assert [real[rank][number]["sent"] for rank in range(ranks)] == crossing.formula(case) == links, case


# --- refusals


def tensors(shape: CrossShape, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, ...]]:
    return [
        tuple(torch.zeros(shape.batch, heads, count, shape.head_dim, dtype=dtype) for count in tokens)
        for heads, tokens in (
            (shape.heads, shape.text),
            (shape.kv_heads, shape.visual),
            (shape.kv_heads, shape.visual),
        )
    ]


SHAPE = CrossShape(1, 4, 2, 8, (3, 2), (5, 6))


@pytest.mark.parametrize("run", [lv_xattn, ring_attention])
def test_what_does_not_fit_is_refused_before_anything_is_sent(run: Any) -> None:
    query, key, value = tensors(SHAPE)
    group = LocalGroup(2)
    with pytest.raises(ValueError, match="cut over 2 ranks, the group has 3"):
        run(query, key, value, SHAPE, LocalGroup(3))
    with pytest.raises(ValueError, match=r"queries of ranks \[0, 1\] must be .* given \[\[1, 4, 2, 8\]"):
        run(query[::-1], key, value, SHAPE, group)
    with pytest.raises(ValueError, match="keys of ranks"):
        run(query, query, value, SHAPE, group)
    with pytest.raises(ValueError, match="values of ranks"):
        run(query, key, value[:1], SHAPE, group)
    with pytest.raises(ValueError, match=r"share one dtype of .*: \['torch.bfloat16', 'torch.float32'\]"):
        run(query, key, [x.bfloat16() for x in value], SHAPE, group)
    with pytest.raises(ValueError, match="share one dtype"):
        run(*tensors(SHAPE, torch.int32), SHAPE, group)
    assert not group.sent_bytes


def test_other_refusals() -> None:
    wide = tensors(SHAPE, torch.float64)
    with pytest.raises(ValueError, match=r"a mask gives bool \[3, 5\] or \[1, 3, 5\] for these tokens: torch.float32"):
        ring_attention(*tensors(SHAPE), SHAPE, LocalGroup(2), mask=lambda rows, columns: torch.ones(3, 5))
    with pytest.raises(ValueError, match="fp64 inputs travel as fp64 throughout: partial=fp32"):
        lv_xattn(*wide, SHAPE, LocalGroup(2), partial=Raw("fp32"))
    static: Codec = parse_codec("hybrid4")
    with pytest.raises(ValueError, match="no calibrated scales"):
        lv_xattn(*tensors(SHAPE), SHAPE, LocalGroup(2), partial=static)
    with pytest.raises(ValueError, match="query must travel raw"):
        Wire(query=GroupedInt(8))
    with pytest.raises(ValueError, match="lengths must not be negative"):
        cross_attention.padding([3, -1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, "batch must be a positive whole number: batch=0"),
        ({"head_dim": 2.5}, "head_dim must be a positive whole number: head_dim=2.5"),
        ({"kv_heads": 3}, "kv_heads must divide heads: kv_heads=3, heads=4"),
        ({"text": (3,)}, "must name the same ranks"),
        ({"text": (), "visual": ()}, "one at least"),
        ({"text": (3, -1)}, r"text tokens of a rank must not be negative.*text=\(3, -1\)"),
        ({"visual": (0, 0)}, r"nor all of them 0: visual=\(0, 0\)"),
    ],
)
def test_bad_shapes(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SHAPE, **changes)


def test_even_cuts_differ_by_one_token() -> None:
    shape = CrossShape.even(1, 4, 2, 8, 11, 3, 4)
    assert shape.text == (3, 3, 3, 2) and shape.visual == (1, 1, 1, 0)
    assert all(0 <= a - b <= 1 for a, b in pairwise(shape.text))
    with pytest.raises(ValueError, match="visual_tokens must be a positive whole number: visual_tokens=0"):
        CrossShape.even(1, 4, 2, 8, 11, 0, 4)
