"""Percentiles of a load: near those of the command, with what chance leaves open."""

import pytest

from thinwire.page import loads
from thinwire.page.loads import serve
from thinwire.page.state import State, read
from thinwire.sim.serving.serve import Paces
from thinwire.sim.serving.serve import answer as served

from .desks import desk, small


def test_a_load_is_answered_with_what_chance_leaves_open() -> None:
    found = serve(desk(), small(rate=4, output_tokens=32))
    assert [row["scheme"] for row in found["rows"]] == ["bf16", "flash-int4"]
    for row in found["rows"]:
        assert row["why"] is None
        values = [each["value_ms"] for each in row["ttft"]]
        assert values == sorted(values) and values[0] > 0
        assert any(each["plus_minus_ms"] for each in row["ttft"])
    assert found["command"].startswith("thinwire serve --model llama-3-8b")


def test_half_of_the_requests_keep_the_median() -> None:
    median = {
        row["scheme"]: next(each["value_ms"] for each in row["ttft"] if each["name"] == "p50")
        for row in serve(desk(), small(rate=4, output_tokens=32))["rows"]
    }
    for row in serve(desk(), small(rate=4, output_tokens=32, slo_ttft_ms=median["bf16"]))["rows"]:
        assert row["kept"] is not None
        assert row["kept"] == pytest.approx(0.5, abs=0.05) if row["scheme"] == "bf16" else row["kept"] > 0.5


@pytest.mark.parametrize(
    ("state", "rate"),
    [
        (small(rate=4, output_tokens=32), 4.0),
        (read("model=llama-3-70b&cluster=8xl40s-pcie&scheme=flash-int4&rate=1.5"), 1.5),  # 12 % at p99 was seen
    ],
)
def test_coarse_durations_move_percentiles_by_little(state: State, rate: float) -> None:
    asked = loads.service(desk(), state, "flash-int4", rate, loads.REQUESTS / rate)
    coarse, fine = loads.run(desk(), state, asked).run, served(asked, Paces(asked.deployment(), 0.03)).run
    for one, other in ((coarse.ttft, fine.ttft), (coarse.tpot, fine.tpot)):
        for quantile, found in one.percentiles.items():
            most = loads.WITHIN if quantile < 0.99 else loads.LAST_WITHIN
            assert found.value == pytest.approx(other.percentiles[quantile].value, rel=most)
