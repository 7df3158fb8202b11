"""The page's plan: what of the state goes into it, what it costs, and that its file asks the same."""

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from thinwire.page import plans
from thinwire.page.answers import EXAMPLE_PRICES
from thinwire.page.documents import Plan
from thinwire.page.plans import plan
from thinwire.page.state import State, read
from thinwire.sim.planning import file
from thinwire.sim.planning.plan import Planner
from thinwire.topologies.importing.written import toml

from .desks import desk, small

PRICES = "8xl40s-pcie:0.9"


@cache
def slow_links() -> Plan:
    """Links a quarter as fast, and a target between what bf16 and INT6 need of one replica."""
    return plan(
        desk(),
        small(rate=2, output_tokens=16, slo_ttft_ms=200, link=0.25, price=PRICES, scheme="flash2-int6"),
    )


def test_a_plan_says_what_each_candidate_costs() -> None:
    state = small(rate=2, output_tokens=16, slo_ttft_ms=2000, price=f"{PRICES},8xh100-nvlink:2.5")
    found = plan(desk(), state)
    assert {each["machine"] for each in found["deployments"]} == {"8xl40s-pcie", "8xh100-nvlink"}
    kept = [each for each in found["deployments"] if each["kept"]]
    best = [each for each in kept if each["best"]]
    assert len(best) == 1 and best[0]["cost_per_hour"] == min(each["cost_per_hour"] or 0 for each in kept)
    assert all(each["ttft_ms"] is not None and each["ttft_ms"] <= 2000 for each in kept)
    assert all(price["source"] == "given on the page" for price in found["prices"])


def test_links_and_the_target_are_the_pages_also_in_its_file(tmp_path: Path) -> None:
    found = slow_links()
    path = tmp_path / "plan.toml"
    path.write_text(found["file"], "utf-8")
    first = found["file"].partition("\n")[0]
    what_if = re.fullmatch(r'# thinwire plan FILE --what-if "(.*)" answers it: .*', first)
    assert what_if is not None
    asked = file.read(path)
    assert asked.problem.targets.ttft_s == 0.2
    slow = {o.candidate.scheme: o for o in Planner(asked.problem).solve(asked.what_if(what_if[1])).outcomes}
    usual = {o.candidate.scheme: o for o in Planner(asked.problem).solve().outcomes}
    for each in found["deployments"]:
        assert each["replicas"] == slow[each["scheme"]].replicas
        if each["kept"]:
            assert each["ttft_ms"] is not None and each["ttft_ms"] <= 200
            ttft = slow[each["scheme"]].ttft
            assert ttft is not None and each["ttft_ms"] == pytest.approx(ttft.value * 1e3)
    by = {each["scheme"]: each for each in found["deployments"]}
    assert usual["bf16"].replicas == 1 and by["bf16"]["replicas"] != 1, "slow links matter to bf16"
    assert by["flash2-int6"]["best"]


def test_it_says_why_decode_costs_what_a_prompt_does_not() -> None:
    found = slow_links()
    (refused,) = [each for each in found["deployments"] if each["scheme"] == "flash2-int4-sr"]
    assert refused["why"].startswith("accuracy: perplexity ratio")
    assert "flash2-int4-sr is within the limit above, where prompts alone are compressed; replicas" in found["note"]
    assert "flash2-int6 is within" not in found["note"]


def search(state: State, *machines: str) -> tuple[dict[str, Any], list[str]]:
    return plans.placed(desk(), state, machines)


def test_the_placement_goes_into_a_plan_or_it_says_that_it_does_not() -> None:
    two = read("model=llama-3-8b&cluster=2x8xh100-ib&nodes=2&tp=8")
    assert search(two, "2x8xh100-ib") == ({"tp": [8], "nodes": [2]}, [])
    found, left = search(two, "8xl40s-pcie")
    assert found == {"tp": [8]}
    assert [one.partition(":")[0] for one in left] == [
        "No machine with a price has 2 nodes", "2x8xh100-ib has no price, so it is not among them",
    ]  # fmt: skip
    listed = read("model=llama-3-8b&cluster=8xl40s-pcie&gpus=0,1,4,5")
    assert search(listed, "8xl40s-pcie", "4xrtx3090-pcie") == ({"gpus": ["0,1,4,5"]}, [])
    assert "has GPUs 0,1,4,5" in search(listed, "4xrtx3090-pcie")[1][0]
    assert search(small(launch="graph"), "8xl40s-pcie") == (
        {"tp": [4]}, ["An engine's own launches are taken, not what was asked for one prompt"],
    )  # fmt: skip


def test_how_a_mixture_is_shared_out_goes_into_a_plan(tmp_path: Path) -> None:
    state = read(
        "model=deepseek-v3&cluster=8xb200-nvlink&attention=dp&expert_exchange=all-to-all&expert_skew=0.5&ep=8"
        "&weights=fp8-block&scheme=a2a-int8&price=8xb200-nvlink:5&slo_ttft_ms=300"
    )
    where, left = search(state, "8xb200-nvlink")
    path = tmp_path / "plan.toml"
    document = plans.table(state, plans.prices(desk(), state), ["bf16"], where)
    path.write_text(toml(document, ()), "utf-8")
    placed = file.read(path).file.placed()
    assert placed == {
        "weights": "fp8-block", "kv": "auto", "ep": 8, "attention": "dp", "expert_exchange": "all-to-all",
        "expert_skew": 0.5,
    }  # fmt: skip
    assert not left and tomllib.loads(path.read_text("utf-8"))["targets"]["ttft"]["seconds"] == 0.3


def test_example_prices_are_those_of_the_example(root: Path) -> None:
    prices = tomllib.loads((root / "examples" / "plan.toml").read_text("utf-8"))["prices"]
    assert {name: prices[name]["per_gpu_hour"] for name in EXAMPLE_PRICES} == EXAMPLE_PRICES
