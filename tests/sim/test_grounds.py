"""What a prediction rests on: sentences of known classes, and how much of the interval each is about."""

from dataclasses import replace
from math import exp

import pytest

from thinwire.sim import api
from thinwire.sim.costs.spread import ANOTHER_HOST
from thinwire.sim.grounds import KINDS, Ground, by_source, counted, grounds, leading, listed, together
from thinwire.sim.interval import ALL_COMPUTE, CODECS
from thinwire.sim.report import OTHER_HOSTS, Prediction, host_grounds

ASKED = (
    ("llama-3-70b", "8xl40s-pcie", "flash-int4", {"tp": 4, "batch": 8}),
    ("llama-3-8b", "8xh100-nvlink", "bf16", {}),
    ("deepseek-v3", "8xh200-nvlink", "quickreduce-int4", {"batch": 4}),
    ("qwen3-30b-a3b", "2x8xh100-ib", "a2a-int4+iso", {"attention": "dp"}),
    ("gemma-3-27b", "4xl4-pcie", "spd-50+exempt-1+flash2-int4-sr", {"weights": "fp8"}),
)


@pytest.fixture(scope="module", params=ASKED, ids=lambda asked: f"{asked[0]} {asked[2]}")
def found(request: pytest.FixtureRequest) -> Prediction:
    model, cluster, scheme, more = request.param
    return api.predict(model, cluster, scheme, **more)


def test_shares_are_those_of_the_interval(found: Prediction) -> None:
    """Squared half-widths of its parts, which sum up to one, each name once."""
    shares = found.interval.shares
    assert sum(shares.values()) == pytest.approx(1)
    squares = {}
    for term in (*found.interval.terms, *found.interval.others):
        if term.spread is not None:
            half = term.seconds * (exp(term.spread.high) - exp(term.spread.low)) / 2
            squares[term.what] = squares.get(term.what, 0) + half**2
    held = found.interval.prefill
    squares[ALL_COMPUTE] = (found.interval.compute_s * (exp(held.high) - exp(held.low)) / 2) ** 2
    total = sum(squares.values())
    for what, square in squares.items():
        assert shares[what] == pytest.approx(square / total)


def test_each_sentence_is_there_once_with_a_class(found: Prediction) -> None:
    basis = grounds(found)
    assert sorted(ground.text for ground in basis) == sorted(found.assumptions)
    assert len(set(found.assumptions)) == len(found.assumptions)
    assert all(ground.kind in KINDS and 0 <= ground.share <= 1 + 1e-9 for ground in basis)
    assert [ground.share for ground in basis] == sorted((ground.share for ground in basis), reverse=True)
    assert all(not ground.share for ground in basis if ground.kind == "rule")
    assert sum(ground.share for ground in basis) <= 1 + 1e-9, "each part of the interval counts for one sentence"
    (other,) = [g.share for g in basis if g.text == OTHER_HOSTS] or [0.0]
    assert other == pytest.approx(found.interval.another_host_share), "one number for one doubt"


def test_classes_follow_the_sources(found: Prediction) -> None:
    """A sentence that quotes a source has its class."""
    for ground in grounds(found):
        for word in ("measured", "assumed", "datasheet"):
            if f"({word}: " in ground.text and ground.about:
                first = min((w for w in ("measured", "assumed", "datasheet") if f"({w}: " in ground.text),
                            key=lambda w: ground.text.index(f"({w}: "))  # fmt: skip
                assert ground.kind == first, ground.text


def test_every_wide_part_has_a_sentence(found: Prediction) -> None:
    """What makes a tenth of the width or more is spoken of, but for kernels, whose spread says where it is from."""
    spoken = [about for ground in found.basis for about in ground.about]
    for part, share in found.interval.shares.items():
        if share > 0.1 and part.startswith(("exchanges", ALL_COMPUTE, CODECS, "compute")):
            assert any(part.startswith(about) for about in spoken), (part, share)


def test_the_leading_ones(found: Prediction) -> None:
    basis = grounds(found)
    first = leading(basis)
    assert 1 <= len(first) <= 3 and first[0] is basis[0]
    for one in first:
        for other in first:
            assert one is other or not set(one.about) & set(other.about)
    ten = listed(basis, 10)
    assert ten[: len(first)] == first and len(ten) == min(10, len(basis)) == len(set(ten))
    left = counted(ground for ground in basis if ground not in ten)
    assert sum(left.values()) == len(basis) - len(ten) and all(left.values())
    assert set(listed(basis, len(basis))) == set(basis)


def test_a_few_per_cent_are_worth_a_word() -> None:
    """A fiftieth of the width, but three at most, and one for each part."""
    shares = {"a": 0.6, "a b": 0.6, "c": 0.3, "d": 0.021, "e": 0.019}
    basis = [Ground(part, "assumed", (part,), share) for part, share in shares.items()]
    assert [ground.text for ground in leading(basis)] == ["a", "c", "d"]
    assert [ground.text for ground in leading(basis, 2)] == ["a", "c"]
    assert [ground.text for ground in leading(basis, 9)] == ["a", "c", "d"] and leading(basis[4:]) == ()


def test_the_class_is_the_first_word_of_the_source() -> None:
    for source, kind in (
        ("measured: on an L40S", "measured"),
        ("datasheet: NVIDIA's", "datasheet"),
        ("assumed: as its sibling's", "assumed"),
        ("measured on an L40S", "assumed"),
        ("", "assumed"),
    ):
        (said,) = by_source(source, "compute", "a sentence")
        assert (said.kind, said.about) == (kind, ("compute",)), source


def test_of_several_that_decide_the_widest_share_counts() -> None:
    rows = [api.predict("llama-3-8b", "8xl40s-pcie", name, tp=4) for name in ("flash-int4", "bf16")]
    shares = [{ground.text: ground.share for ground in grounds(row)} for row in rows]
    decided = {ground.text: ground.share for ground in together(rows)}
    for text, share in decided.items():
        assert share == max(each.get(text, 0.0) for each in shares)
    assert any(len({each.get(text) for each in shares}) == 2 for text in shares[0] if text in shares[1])


def test_several_together() -> None:
    """Each sentence once; the answer's own interval decides what matters."""
    one = api.predict("llama-3-8b", "8xl40s-pcie", "flash-int4", tp=4)
    other = api.predict("llama-3-8b", "8xl40s-pcie", "bf16", tp=4)
    both = together([one, other])
    assert {ground.text for ground in both} == {*one.assumptions, *other.assumptions}
    assert len(both) == len({ground.text for ground in both})
    decided = {ground.text: ground.share for ground in together([one, other], [other])}
    alone = {ground.text: ground.share for ground in grounds(other)}
    assert all(decided[text] == share for text, share in alone.items())
    assert all(share == 0 for text, share in decided.items() if text not in alone)


def test_another_host_is_said_where_it_is_counted() -> None:
    """Not where every figure is the user's own."""
    plain = api.predict("llama-3-8b", "8xh100-nvlink", "bf16")
    (said,) = [ground for ground in grounds(plain) if ground.text == OTHER_HOSTS]
    assert said.share > 0.1 and said.kind == "measured"
    own = replace(plain.cost.fabric, spreads=tuple(s for s in plain.cost.fabric.spreads if s.part != ANOTHER_HOST))
    assert not host_grounds(own.spreads) and host_grounds(plain.cost.fabric.spreads)


def test_nothing_about_what_is_not_there() -> None:
    found = Ground("x", "assumed", ("exchanges by nobody",))
    p = api.predict("llama-3-8b", "8xl40s-pcie", "bf16", tp=4)
    (same,) = (ground for ground in grounds(replace(p, basis=(found,))))
    assert same == found


def test_one_collective_has_its_grounds_too() -> None:
    row = api.collected("8xl40s-pcie", "flash-int4", 1 << 20, 4)
    basis = grounds(row)
    assert [ground.text for ground in row.basis] == row.document["assumptions"]
    assert basis[0].about[0].startswith("exchanges") and basis[0].share > 0.3
    assert api.collective("8xl40s-pcie", "flash-int4", 1 << 20, 4) == row.document
