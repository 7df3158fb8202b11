"""A scheme for each sync point: the optimum, what it promises, and how it is asked for."""

import itertools
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.reference.mixed import DROP, SITES, entries, plan_of
from thinwire.sim import api
from thinwire.sim.choices import Compress
from thinwire.sim.quality import auto
from thinwire.sim.quality import losses as sensitivity
from thinwire.sim.quality.auto import GAP, knapsack

from ...command import run
from ...sensitivities import FLOOR, MODEL, table

MACHINE: dict[str, Any] = {"cluster": "4xl4-pcie", "tp": 3, "batch": 8}


@pytest.fixture
def losses(tmp_path: Path) -> Path:
    path = tmp_path / "sensitivity-x.json"
    path.write_text(json.dumps(table()))
    return path


# ---- the optimum


points = st.lists(
    st.lists(st.tuples(st.integers(0, 100), st.floats(0, 1)), min_size=0, max_size=4), min_size=1, max_size=5
)


@settings(max_examples=60)
@given(points, st.integers(0, 100), st.floats(0, 3))
@example([[(0, 1.0)]], 1, 1.0)  # a choice that takes the whole budget made HiGHS give up
def test_the_knapsack_is_the_best_of_all(rows: list[list[tuple[int, float]]], free: int, allowed: float) -> None:
    """Against every combination: within the budget, within GAP of the least cost, its bound below both."""
    costs = [{"free": free, **{f"c{k}": cost for k, (cost, _) in enumerate(row)}} for row in rows]
    losing = [{"free": 0.0, **{f"c{k}": loss for k, (_, loss) in enumerate(row)}} for row in rows]
    names, bound = knapsack(costs, losing, allowed)

    def cost(chosen: Any) -> float:
        return math.fsum(by[name] for by, name in zip(costs, chosen, strict=True))

    def loss(chosen: Any) -> float:
        return math.fsum(by[name] for by, name in zip(losing, chosen, strict=True))

    # The solver keeps a millionth of the budget for its own tolerance.
    best = min(cost(chosen) for chosen in itertools.product(*costs) if loss(chosen) <= allowed * (1 - 2e-6))
    assert loss(names) <= allowed * (1 + 1e-9)
    assert cost(names) <= best * (1 + 2 * GAP) + 1e-9 and bound <= cost(names) * (1 + 1e-9) + 1e-9


def test_a_point_must_have_a_way_out() -> None:
    with pytest.raises(ValueError, match="point 1 has no choice without loss"):
        knapsack([{"a": 1}, {"a": 1}], [{"a": 0.0}, {"a": 0.1}], 1)


def test_the_solver_says_nothing_on_standard_output(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HiGHS prints a line of its own at times, from C: --json would no longer be JSON."""
    real = auto.milp

    def noisy(*given: Any, **named: Any) -> Any:
        os.write(1, b"HiGHS was here\n")
        return real(*given, **named)

    monkeypatch.setattr(auto, "milp", noisy)
    arguments = ("auto", "+1%", "--model", "smollm2-135m", "--cluster", "8xl40s-pcie", "--tp", "3", "--json")
    status, out, err = run(capfd, *arguments, "--input-tokens", "2048")  # where HiGHS 1.12 (scipy 1.17) does
    assert (status, err) == (0, "") and json.loads(out)["scheme"] == "auto:+1%"
    os.write(1, b"still open\n")
    assert capfd.readouterr().out == "still open\n"


# ---- what it promises


@pytest.mark.parametrize(
    ("cluster", "tp", "tolerance"),
    [("4xl4-pcie", 3, 1e-9), ("8xh100-nvlink", 3, 1e-9), ("8xl40s-pcie", 3, 0.01)],  # ranks part a little on L40S
)
def test_time_adds_up_as_the_optimum_assumes(losses: Path, cluster: str, tp: int, tolerance: float) -> None:
    chosen = api.auto(0.02, MODEL, cluster, tp, 8, sensitivities=losses)
    mixed = api.predict(MODEL, cluster, chosen.scheme, tp, 8)
    plain = api.predict(MODEL, cluster, "bf16", tp, 8)
    saved = chosen.uncompressed_s - chosen.exchange_s
    assert saved >= 0
    assert plain.ttft_s - mixed.ttft_s == pytest.approx(saved, abs=tolerance * plain.ttft_s)
    assert chosen.bound_s <= chosen.exchange_s <= chosen.bound_s * (1 + 2 * GAP)


def test_more_budget_never_costs_time(losses: Path) -> None:
    """And the budget is kept, by the sum of what the table says; nothing at all is lost on no budget."""
    known, plain = sensitivity.read(losses), api.predict(MODEL, scheme="bf16", **MACHINE)
    found = [api.auto(budget, MODEL, **MACHINE, sensitivities=losses) for budget in (0, 0.001, 0.01, 0.1, 1.0)]
    assert set(entries(found[0].scheme)) == {scheme("bf16")} and found[0].perplexity_ratio == 1
    for chosen in found:
        plan = plan_of(chosen.scheme, 30)
        names = {point: DROP if entry is None else entry.name for point, entry in plan.items()}
        loss = math.fsum(known.of(point)[name] for point, name in names.items())
        assert chosen.perplexity_ratio == pytest.approx(math.exp(loss)) and loss <= math.log1p(chosen.budget)
        assert chosen.exchange_s <= chosen.uniform_s * (1 + GAP)
        saved = plain.ttft_s - api.predict(MODEL, scheme=chosen.uniform, **MACHINE).ttft_s
        assert chosen.uncompressed_s - chosen.uniform_s == pytest.approx(saved)
    times = [chosen.exchange_s for chosen in found]
    assert all(after <= before * (1 + GAP) for before, after in itertools.pairwise(times))
    assert times[-1] < 0.4 * times[0]


def test_a_steeper_slope_is_a_smaller_budget(tmp_path: Path, losses: Path) -> None:
    """What rises twice as fast as the points' losses add up to leaves room for half of them."""
    path = tmp_path / "steep.json"
    path.write_text(json.dumps(table(additivity={"slope": 2.0})))
    steep = api.auto(1.02**2 - 1, MODEL, **MACHINE, sensitivities=path)
    assert steep.scheme.attention == api.auto(0.02, MODEL, **MACHINE, sensitivities=losses).scheme.attention
    assert steep.perplexity_ratio <= 1.02**2


def test_sensitive_points_get_more_bits(losses: Path) -> None:
    known = sensitivity.read(losses)
    chosen = api.auto(0.01, MODEL, **MACHINE, sensitivities=losses).scheme
    ranked = sorted(plan_of(chosen, 30).items(), key=lambda item: known.of(item[0])["flash-int4"])
    bits = [0.0 if entry is None else entry.reduce.bits_per_value for _, entry in ranked]
    assert sum(bits[:20]) < sum(bits[20:40]) < sum(bits[40:])


def test_choices_may_exempt_last_tokens(tmp_path: Path, losses: Path) -> None:
    """A table that holds such a choice: priced as predicted, taken where it wins, asked for by the name it has there.
    Tables without give what they gave."""
    name, path = "flash-int4+exempt-last-1", tmp_path / "with.json"
    wider = table()
    floor = {site: {"kl": [FLOOR + 1e-6] * 30} for site in ("attention", "mlp")}  # loses next to nothing
    wider["choices"][name] = floor
    path.write_text(json.dumps(wider))
    chosen = api.auto(0.01, MODEL, **MACHINE, sensitivities=path)
    assert scheme(name) in entries(chosen.scheme) and chosen.uniform == name
    saved = (api.predict(MODEL, scheme=other, **MACHINE).ttft_s for other in ("bf16", name))
    assert chosen.uncompressed_s - chosen.uniform_s == pytest.approx(next(saved) - next(saved))
    before = api.auto(0.01, MODEL, **MACHINE, sensitivities=losses)
    assert before.exchange_s > chosen.exchange_s and scheme(name) not in entries(before.scheme)


# ---- how it is asked for


def test_predict_takes_it_by_name(losses: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "TABLES", losses.parent)
    wanted = api.predict(MODEL, scheme=api.auto(0.01, MODEL, **MACHINE).scheme, **MACHINE)
    assert wanted.scheme.name == "auto:+1%"
    for name in ("auto:+1%", "auto:1%", "auto:1.0%"):
        found = api.predict(MODEL, scheme=name, **MACHINE)
        assert (found.scheme, found.ttft_s) == (wanted.scheme, wanted.ttft_s)
    (row,) = api.compare(["auto:+1%"], MODEL, **MACHINE).rows
    assert row.ttft_s == wanted.ttft_s and row.to_dict()["bits_per_value"]["reduce"] < 8
    with pytest.raises(ValueError, match=r"what the sync points of llama-3-8b cost: auto knows smollm2-135m; measure"):
        api.predict("llama-3-8b", "4xl4-pcie", "auto:+1%")


OPTIONS = ("--model", MODEL, "--cluster", "4xl4-pcie", "--tp", "3", "--batch", "8")


def test_the_command_writes_a_file_that_predict_takes(
    losses: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "mine.toml")
    status, said, err = run(
        capsys, "auto", "+2%", *OPTIONS, "--sensitivities", str(losses), "--out", out, "--json"
    )  # fmt: skip
    assert (status, err) == (0, f"scheme written to {out}\n")
    document = json.loads(said)
    assert sum(document["choices"].values()) == 60 and document["perplexity_ratio_expected"] <= 1.02
    status, said, _ = run(capsys, "predict", *OPTIONS, "--scheme", out, "--json", "--verbose")
    found = json.loads(said)
    (row,) = (row for row in document["rows"] if row["scheme"] == "auto:+2%")
    assert found["ttft_ms"] == row["ttft_ms"] < document["baseline"]["ttft_ms"]
    assert any("a scheme for each of 60 sync points" in sentence for sentence in found["assumptions"])
    assert any("chosen for smollm2-135m on 3 x l4" in sentence for sentence in found["assumptions"])
    status, said, _ = run(capsys, "auto", "+2%", *OPTIONS, "--sensitivities", str(losses))
    assert status == 0 and said.startswith("Chosen: first token in ") and "attention" in said
    assert "the best single scheme within the same budget is" in " ".join(said.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("auto", "1", *OPTIONS), "the budget is a percentage, such as +1%: '1'"),
        (("auto", "x%", *OPTIONS), "auto takes a budget of perplexity in percent, 0 or more"),
        (("auto", "+1%", *OPTIONS, "--sensitivities", "none.json"), "cannot read the sensitivities none.json"),
        (("auto", "+1%", *OPTIONS, "--out", "mine.json"), "--out names a file that ends in .toml"),
        (("auto", "+1%", "--model", MODEL, "--cluster", "4xl4-pcie", "--tp", "1"), "two or more: tp=1"),
        (("auto", "+1%", "--model", MODEL, "--cluster", "4xl4-pcie", "--tp", "2"), "tp=2, attention heads=9"),
        (("predict", *OPTIONS, "--scheme", "auto:-1%"), "auto takes a budget of perplexity in percent"),
        (("collective", "--cluster", "4xl4-pcie", "--scheme", "auto:+1%", "--bytes", "8"), "auto:+1% is chosen for"),
    ],
)
def test_bad_input_is_refused(
    arguments: tuple[str, ...], said: str, losses: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(sensitivity, "TABLES", losses.parent)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "") and said in err and err.count("\n") == 1


def test_tables_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    short = table()
    short["choices"]["flash-int8"]["mlp"]["kl"].pop()
    for given_table, said in (
        ([], "Input should be a valid dictionary"),
        (table(kind="another"), "kind: Input should be 'thinwire sensitivity 1'"),
        (table(tp=1), "tp: Input should be greater than or equal to 2"),
        (short, "choice 'flash-int8' must have 30 losses for attention and mlp: {'attention': 30, 'mlp': 29}"),
        (table(choices={}), "lacks the choice 'bf16', which the others are held against"),
        (table(choices={"flash-int8": {"mlp": {"kl": [0.1] * 30}}}), "'flash-int8' must have 30 losses"),
        (table(choices={DROP: {"mlp": {"kl": [0.1] * 30}}}), "'drop' must have 30 losses for attention: "),
        (table(choices={"flash-int8": {"mlp": {"kl": [-0.1] * 30}}}), "greater than or equal to 0"),
        (table(choices={"int8": {site: {"kl": [0.1] * 30} for site in ("mlp", "attention")}}), "unknown scheme 'int8'"),
        (table(additivity={"slope": 0}), "additivity.slope: must be a positive finite number"),
    ):
        path.write_text(json.dumps(given_table))
        with pytest.raises(ValueError) as caught:
            sensitivity.read(path)
        assert said in str(caught.value) and str(path) in str(caught.value)
    path.write_text("{")
    with pytest.raises(ValueError, match="not JSON: Expecting"):
        sensitivity.read(path)


def test_another_number_of_layers_is_refused(losses: Path) -> None:
    model = load_model(MODEL).with_layers(29)
    with pytest.raises(ValueError, match="sensitivities of smollm2-135m are for 30 layers, smollm2-135m has 29"):
        api.auto(0.01, model, **MACHINE, sensitivities=losses)
    with pytest.raises(ValueError, match=r"budget must be 0 or more: budget=-0.1"):
        api.auto(-0.1, MODEL, **MACHINE, sensitivities=losses)


def test_losses_are_above_those_of_rounding(losses: Path) -> None:
    """The floor that every measurement has is taken off, never below nothing."""
    known = sensitivity.read(losses)
    assert all(known.loss["bf16"][site] == (0.0,) * 30 for site in SITES)
    raw = table()["choices"]["flash-int4"]["mlp"]["kl"]
    assert known.loss["flash-int4"]["mlp"] == pytest.approx([kl - FLOOR for kl in raw])
    lower = table()
    lower["choices"]["flash-int8"]["mlp"]["kl"] = [FLOOR / 2] * 30
    losses.write_text(json.dumps(lower))
    assert sensitivity.read(losses).loss["flash-int8"]["mlp"] == (0.0,) * 30


@pytest.mark.parametrize(
    "name, compress, apart, least, most",
    [("sensitivity-smollm2-135m", "all", 0.15, 0.8, 1.3), ("sensitivity-smollm2-135m-prompt", "prompt", 1.0, 1, 2)],
)
def test_the_shipped_table_is_whole(name: str, compress: Compress, apart: float, least: float, most: float) -> None:
    """Every choice at every point, sources there, and the slope from schemes whose losses span the budgets. Losses of
    prompts are small and do not quite add up: twice as much at the largest budget.
    """
    found = json.loads((sensitivity.TABLES / f"{name}.json").read_text())
    assert {"weights", "weights_sha256", "text", "text_sha256", "how"} <= found["source"].keys()
    known = sensitivity.shipped(MODEL, compress)
    assert known.compress == compress and (found.get("prompt_tokens") is None) == (compress == "all")
    assert known.layers == load_model(MODEL).num_layers and known.tp == 3 and DROP in known.loss
    summed = {name: sum(sum(losses) for losses in by_site.values()) for name, by_site in known.loss.items()}
    assert summed["bf16"] == 0 < summed["flash-int8"] < summed["flash2-int6"] < summed["flash2-int5"]
    assert summed["flash2-int5"] < summed["flash-int4"] < summed["flash2-int3"]
    rows = found["additivity"]["rows"]
    assert all(row["kl"] == pytest.approx(row["sum_of_losses"], rel=apart) for row in rows)
    assert least < known.slope == found["additivity"]["slope"] < most


@pytest.mark.parametrize("compress", get_args(Compress))
@pytest.mark.parametrize("budget", [0.005, 0.02, 0.1])
def test_it_beats_the_best_single_scheme(budget: float, compress: Compress) -> None:
    """By what the shipped tables say: within the same budget less time, fewer bytes."""
    chosen = api.auto(budget, MODEL, compress=compress, **MACHINE)
    mine, single = (api.predict(MODEL, scheme=name, **MACHINE) for name in (chosen.scheme, chosen.uniform))
    assert mine.ttft_s < single.ttft_s
    assert mine.traffic.layer_bytes_per_gpu < single.traffic.layer_bytes_per_gpu


def test_what_is_compressed_decides() -> None:
    """An exact answer forgives more than every position does: the same budget buys more."""
    alone, every = (api.auto(0.02, MODEL, compress=compress, **MACHINE) for compress in ("prompt", "all"))
    assert alone.exchange_s < every.exchange_s
    assert "of a compressed prompt" in alone.scheme.source and "at every position" in every.scheme.source
    assert api.auto(0.02, MODEL, **MACHINE).scheme == alone.scheme


def test_threads_that_solve_leave_standard_output_as_it_was() -> None:
    """The solver is silenced by closing the way out, which belongs to the whole process."""
    rows = [{"free": float(k), "c": 0.0} for k in range(1, 40)]
    before = os.fstat(1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: knapsack(rows, [{"free": 0.0, "c": 0.1}] * len(rows), 1.0), range(40)))
    assert (os.fstat(1).st_dev, os.fstat(1).st_ino) == (before.st_dev, before.st_ino)
