"""Who is usable, who is best, and the sentence that says so."""

from dataclasses import replace

import pytest

from thinwire.sim import api
from thinwire.sim.api import Comparison
from thinwire.sim.report import Prediction
from thinwire.sim.verdict import STANDINGS, Limit, best, cost, judged, lossless, obstacle, reason, standing, verdict

SCHEMES = (
    "bf16", "none", "spd-50", "spd-10", "iso", "iso-int8", "flash-int8", "flash-int4", "flash-int2", "nvfp4-two-shot",
    "quickreduce-int4", "flash2-int4-sr",
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
        "nvfp4-two-shot": "cannot", "quickreduce-int4": "cannot", "flash2-int4-sr": "usable",
    }  # fmt: skip
    for row in found.rows:
        assert (reason(found, row) is None) == (standing(found, row) == "usable")


def test_the_limit_decides(found: Comparison) -> None:
    lost = named(found, "flash-int4")
    assert standing(found, lost, Limit(lookups=22)) == "usable" and standing(found, lost, Limit(1.03, 22)) == "beyond"
    assert standing(found, named(found, "flash2-int4-sr"), Limit(lookups=8.9)) == "beyond"
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
    asked = ["bf16", "flash-int8", "trtllm-fp8"]
    staged = api.compare(asked, "llama-3-8b", "8xrtx4090-pcie", tp=4)
    reached = api.compare(asked, "llama-3-8b", "8xrtx4090-p2p", tp=4)
    across = api.compare(asked, "llama-3-8b", "2x8xh100-ib", tp=4, nodes=2)
    fused = [standing(c, named(c, "trtllm-fp8")) for c in (staged, reached, across)]
    assert fused == ["cannot", "unknown", "cannot"]
    assert "host" in str(reason(staged, named(staged, "trtllm-fp8")))
    assert all(standing(c, named(c, "flash-int8")) == "usable" for c in (staged, reached, across))


def test_kernels_of_other_gpus_cannot_run() -> None:
    asked = ["bf16", "quickreduce-int4", "nvfp4-two-shot"]
    machines = ("8xmi300x-xgmi", "8xh100-nvlink", "8xb200-nvlink")
    found = {name: api.compare(asked, "llama-3-8b", name, tp=4) for name in machines}
    stand = {name: [standing(c, named(c, scheme)) for scheme in asked[1:]] for name, c in found.items()}
    assert stand == {
        "8xmi300x-xgmi": ["usable", "cannot"], "8xh100-nvlink": ["cannot", "cannot"],
        "8xb200-nvlink": ["cannot", "unknown"],
    }  # fmt: skip
    other = found["8xh100-nvlink"]
    assert "of CDNA 3 and CDNA 4 GPUs, these are Hopper" in str(reason(other, named(other, "quickreduce-int4")))
    row = named(other, "quickreduce-int4")
    unsaid = replace(row, cluster=replace(row.cluster, gpu=replace(row.cluster.gpu, architecture=None)))
    assert obstacle(unsaid) is None, "a GPU of one's own that does not say what it is"


def test_what_is_no_sooner_is_no_better() -> None:
    """A scheme that does nothing here is not the best buy because of its name, nor one within a thousandth."""
    idle = api.compare(["a2a-int8", "bf16"], "deepseek-v3", "8xb200-nvlink", weights="fp8-block")
    assert best(idle) is named(idle, "bf16") and "sooner than bf16" in verdict(idle)
    little = api.compare(["bf16", "iso"], "llama-3-8b", "8xh100-nvlink")  # two in a hundred
    assert 1.005 < little.speedup(named(little, "iso")) < 1.05
    assert best(little) is named(little, "iso") and verdict(little).startswith("Best buy: iso")
    floor = api.compare(["none", "iso"], "llama-3-8b", "8xl40s-pcie", baseline="none")
    assert best(floor) is named(floor, "iso") and "the soonest that is: iso" in verdict(floor)


def test_the_sentence_says_what_was_measured(found: Comparison) -> None:
    row = named(found, "flash-int8")
    known = found.accuracy(row)
    assert known is not None and known.perplexity_ratio is not None
    said = cost(found, row)
    assert float(said.partition(" %")[0]) == pytest.approx(100 * (known.perplexity_ratio - 1), rel=0.02)


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
