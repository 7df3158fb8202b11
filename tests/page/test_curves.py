"""Curves pass through the answers, and lines cross where predictions say so."""

from math import log

import pytest

import thinwire
from thinwire.page import answers, report
from thinwire.page.curves import BETWEEN, HALVES, crossovers, curves, narrowed
from thinwire.page.documents import Series
from thinwire.page.state import read
from thinwire.sim.verdict import SAME

from .desks import desk, small


def line(scheme: str, *ttft_ms: float | None) -> Series:
    return {"scheme": scheme, "ttft_ms": list(ttft_ms), "low_ms": list(ttft_ms), "high_ms": list(ttft_ms)}


def test_curves_pass_through_the_answer_and_cross_where_they_say() -> None:
    state = read("model=llama-3-8b&cluster=8xh100-nvlink&tp=4&scheme=flash-int8&batch=1&input_tokens=512")
    rows = {row["scheme"]: row for row in answers.answer(desk(), state)["rows"]}
    found = curves(desk(), state)["curves"]
    assert [one["axis"] for one in found] == ["input_tokens", "link", "tp"]
    for one in found:
        assert one["x"] == sorted(one["x"]) and one["now"] in one["x"]
        at = one["x"].index(one["now"])
        for series in one["series"]:
            row = rows[series["scheme"]]
            assert series["ttft_ms"][at] == pytest.approx(row["ttft_ms"])
            assert [series["low_ms"][at], series["high_ms"][at]] == pytest.approx(row["interval_ms"])
    crossings = [cross for one in found for cross in one["crossovers"]]
    assert crossings, "INT8 is later than bf16 at few tokens and sooner at many"
    for one in found:
        for cross in one["crossovers"]:
            by = {series["scheme"]: series["ttft_ms"] for series in one["series"]}
            i = next(i for i, x in enumerate(one["x"]) if x >= cross["x"])
            sooner, than = by[cross["sooner"]][i], by[cross["than"]][i]
            assert sooner is not None and than is not None and sooner <= than
    with pytest.raises(ValueError, match="axis must be one of"):
        curves(desk(), state, ["sideways"])


@pytest.mark.parametrize("where", ["cluster=2x8xh100-ib&nodes=2&tp=8", "cluster=8xl40s-pcie&gpus=0,4,1,5"])
def test_another_degree_is_of_the_same_gpus_or_of_as_many_nodes(where: str) -> None:
    state = read(f"model=llama-3-8b&{where}&scheme=flash-int8&batch=1&input_tokens=512")
    rows = {row["scheme"]: row["ttft_ms"] for row in answers.answer(desk(), state)["rows"]}
    (found,) = curves(desk(), state, ["tp"])["curves"]
    at = found["x"].index(found["now"])
    for series in found["series"]:
        assert series["ttft_ms"][at] == pytest.approx(rows[series["scheme"]])
    placed = {"nodes": 2} if "nodes" in where else {"gpus": "0,4"}
    assert ("2 nodes" if "nodes" in where else "GPUs 0,4,1,5") in found["label"]
    alone = thinwire.predict("llama-3-8b", state.question.cluster, "bf16", 2, batch=1, input_tokens=512, **placed)  # type: ignore[arg-type]
    assert found["series"][0]["ttft_ms"][found["x"].index(2)] == pytest.approx(alone.ttft_s * 1e3)
    assert all(x % 2 == 0 for x in found["x"]) == ("nodes" in where)


def test_a_place_of_the_link_says_the_rate_there() -> None:
    (found,) = curves(desk(), small(link=0.5), ["link"])["curves"]
    usual = answers.machine_option("8xl40s-pcie", desk().machine("8xl40s-pcie"))["link_gb_per_s"]
    assert [float(mark.removesuffix(" GB/s")) for mark in found["marks"]] == pytest.approx(
        [usual * x for x in found["x"]], rel=5e-3
    )


def test_of_degrees_the_first_at_which_they_have_changed_places() -> None:
    (one,) = crossovers("tp", [1, 2, 4, 8], [line("a", 10, 10, 10, 10), line("b", 12, 11, 9, 8)])
    assert (one["x"], one["after"], one["ttft_ms"]) == (4, 2, 9)
    assert one["text"] == "from TP 4 on b is sooner than a"


def test_no_crossing_over_a_gap_nor_for_what_is_the_same() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    flat = line("a", 10, 10, 10, 10)
    assert not crossovers("link", x, [flat, line("b", 12, None, 9, 8)])
    assert not crossovers("link", x, [line("a", 10, None, 10, 10), line("b", 12, 11, 9, 8)])
    assert not crossovers("link", x, [flat, line("b", 12, 10.005, 9.995, 9.995)])
    (one,) = crossovers("link", x, [flat, line("b", 12, 9.995, 9, 8)])
    assert (one["after"], one["x"]) == (2, 4)
    assert one["text"] == "between 2 and 4 times the links' rate b becomes sooner than a"


@pytest.mark.parametrize("ahead", [((300, 400), (600, 1024)), ((483, 1024),), ((1024, 1025),), ((257, 1024),)])
def test_predictions_say_where_between_two_points(ahead: tuple[tuple[int, int], ...]) -> None:
    asked = list[tuple[str, float]]()

    def ttft_ms(scheme: str, at: float) -> float:
        asked.append((scheme, at))
        return 9.0 if scheme == "b" and any(low <= at <= high for low, high in ahead) else 10.0 + (scheme == "b")

    low, high = narrowed("input_tokens", 256, 1024, ttft_ms, "b", "a")
    assert len(asked) <= 2 * (BETWEEN + HALVES) == 12
    assert low < high and all(at == round(at) for at in (low, high)) and high / low < 1.05
    assert ttft_ms("b", low) > 10 and ttft_ms("b", high) < 10
    assert low < ahead[-1][0] <= high, "the last place, and beyond it no other"


def test_a_kink_between_two_points_is_found() -> None:
    """A line through the points, in logarithms, was at 4.6 tokens, where INT4 takes nearly twice as long."""
    state = read("model=llama-3-8b&cluster=4xrtx3090-pcie&link=0.01&batch=1&input_tokens=1&scheme=flash-int4")
    (found,) = curves(desk(), state, ["input_tokens"])["curves"]
    (one,) = found["crossovers"]
    for tokens, sooner in ((one["after"], False), (one["x"], True), (128, True)):
        bf16, int4 = (
            thinwire.predict(
                "llama-3-8b", "4xrtx3090-pcie", name, input_tokens=round(tokens), scaled_links={"*": 0.01}
            ).ttft_s
            for name in ("bf16", "flash-int4")
        )
        assert (log(bf16 / int4) > SAME) == sooner
    assert one["text"] == f"from {one['x']:g} tokens on flash-int4 is sooner than bf16"


def test_a_reports_curves_have_the_intervals_of_its_answers() -> None:
    axes = {"batch": [2.0], "input_tokens": [128.0, 512.0], "link": [1.0]}
    grid = report.grid(desk(), small(), axes, planned=False)
    found = grid["curves"]["input_tokens:0,0"]
    for place in range(2):
        rows = {row["scheme"]: row["interval_ms"] for row in grid["answers"][f"0,{place},0"]["rows"]}
        for one in found["series"]:
            assert [one["low_ms"][place], one["high_ms"][place]] == rows[one["scheme"]]
    assert all(one["text"].startswith("between 128 and 512 tokens") for one in found["crossovers"])
