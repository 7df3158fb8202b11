"""Who is usable, who is best, and the sentence that says so."""

from dataclasses import replace

import pytest

from thinwire.sim import api
from thinwire.sim.api import Comparison
from thinwire.sim.report import Prediction
from thinwire.sim.verdict import STANDINGS, Limit, best, judged, lossless, reason, standing, verdict

SCHEMES = (
    "bf16", "none", "spd-50", "spd-10", "iso", "iso-int8", "flash-int8", "flash-int4", "flash-int2", "nvfp4-two-shot",
    "quickreduce-int4", "quickreduce-fp8",
)  # fmt: skip


@pytest.fixture(scope="module")
def found() -> Comparison:
    return api.compare(SCHEMES, "llama-3-8b", "8xl40s-pcie", tp=4, batch=8)


def named(c: Comparison, name: str) -> Prediction:
    return next(row for row in c.rows if row.scheme.name == name)


def test_standings(found: Comparison) -> None:
    """By what was measured of each: perplexity and look-ups, of what sends the same."""
    assert {row.scheme.name: standing(found, row) for row in found.rows} == {
        "bf16": "usable", "none": "floor", "spd-50": "beyond", "spd-10": "unknown", "iso": "usable",
        "iso-int8": "usable", "flash-int8": "usable", "flash-int4": "beyond", "flash-int2": "beyond",
        "nvfp4-two-shot": "unknown", "quickreduce-int4": "usable", "quickreduce-fp8": "usable",
    }  # fmt: skip
    for row in found.rows:
        assert (reason(found, row) is None) == (standing(found, row) == "usable")


def test_the_limit_decides(found: Comparison) -> None:
    lost = named(found, "flash-int4")
    assert standing(found, lost, Limit(lookups=22)) == "usable" and standing(found, lost, Limit(1.03, 22)) == "beyond"
    assert standing(found, named(found, "quickreduce-int4"), Limit(lookups=7.9)) == "beyond"
    assert standing(found, named(found, "bf16"), Limit(1.0, 0.0)) == "usable", "nothing is lost"
    everywhere = replace(found, compress="all")
    assert standing(everywhere, lost, Limit(5.0)) == "usable", "where every position is compressed nobody asks look-ups"


def test_the_best_is_the_soonest_usable(found: Comparison) -> None:
    usable = [row for row in found.rows if standing(found, row) == "usable"]
    assert best(found) is min(usable, key=lambda row: row.ttft_s)
    least = Limit(1.0, 0.0)
    kept = best(found, least)
    assert kept is not None and lossless(kept.scheme), "a limit of nothing leaves what loses nothing"
    assert best(api.compare(["none", "flash-int2"], "llama-3-8b", "8xl40s-pcie", tp=4)) is None


def test_the_verdict_is_one_sentence_with_the_answer_first(found: Comparison) -> None:
    said = verdict(found)
    winner = best(found)
    assert winner is not None and said.startswith(f"Best buy: {winner.scheme.name}, first token in ")
    assert f"{found.speedup(winner):.2f}x sooner than with bf16 (" in said and said.endswith(".")
    assert "e+" not in said and "\n" not in said
    nothing = api.compare(["bf16", "none"], "llama-3-8b", "8xl40s-pcie", tp=4)
    assert verdict(nothing).startswith("Nothing that is within the limit is sooner than bf16")
    assert "none" not in verdict(nothing).split()
    assert verdict(api.compare(["none"], "llama-3-8b", "8xl40s-pcie", tp=4)).startswith("No scheme here is known")
    alone = api.compare(["flash-int4"], "llama-3-8b", "8xl40s-pcie", tp=1)
    assert verdict(alone).startswith("One GPU sends nothing") and standing(alone, alone.rows[0]) == "usable"


def test_kernels_that_write_others_memory_want_machines_that_let_them() -> None:
    asked = ["bf16", "flash-int8", "quickreduce-fp8"]
    staged = api.compare(asked, "llama-3-8b", "8xrtx4090-pcie", tp=4)
    reached = api.compare(asked, "llama-3-8b", "8xrtx4090-p2p", tp=4)
    across = api.compare(asked, "llama-3-8b", "2x8xh100-ib", tp=4, nodes=2)
    fused = [standing(c, named(c, "quickreduce-fp8")) for c in (staged, reached, across)]
    assert fused == ["cannot", "usable", "cannot"]
    assert "host" in str(reason(staged, named(staged, "quickreduce-fp8")))
    assert all(standing(c, named(c, "flash-int8")) == "usable" for c in (staged, reached, across))


def test_a_mixture_whose_tokens_travel_compressed_is_unknown() -> None:
    c = api.compare(["bf16", "a2a-int4", "flash-int4"], "qwen3-30b-a3b", "8xl40s-pcie", tp=4, attention="dp")
    assert {row.scheme.name: standing(c, row) for row in c.rows} == {
        "bf16": "usable", "a2a-int4": "unknown", "flash-int4": "usable",
    }  # fmt: skip


def test_the_document(found: Comparison) -> None:
    document = judged(found, Limit(1.02, 5))
    assert list(document)[:3] == ["verdict", "best", "limit"]
    assert document["limit"] == {"perplexity_ratio": 1.02, "lookup_points": 5}
    assert {row["standing"] for row in document["rows"]} <= set(STANDINGS)
    assert [row["scheme"] for row in document["rows"]] == [row.scheme.name for row in found.rows]


@pytest.mark.parametrize(
    "given", [{"perplexity": 0.9}, {"perplexity": float("nan")}, {"lookups": -1}, {"lookups": 101}]
)
def test_limits_that_are_none(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="the limit on"):
        Limit(**given)
