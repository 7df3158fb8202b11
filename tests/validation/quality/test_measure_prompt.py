"""The studies of compressed prompts on a tiny random model, the roundings they try, and the shipped file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from thinwire.reference.allreduce import all_reduce_local
from thinwire.reference.catalog import scheme
from thinwire.reference.quality.retrieval import KINDS
from thinwire.validation.quality import measure_prompt
from thinwire.validation.quality import subject as material
from thinwire.validation.quality.variants import Rounding, Variant, variants

pytestmark = pytest.mark.usefixtures("apart")


@pytest.fixture
def small(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`measure_prompt` with small sizes, and its rows."""
    made = material.Material(*files)
    monkeypatch.setattr(measure_prompt, "Material", lambda **where: material.Material(*files, **where))
    for name, value in (("WINDOW", 20), ("PROMPT", 12), ("GREEDY_TOKENS", 3), ("ANSWER", 4), ("LONG_BEHIND", ())):
        monkeypatch.setattr(measure_prompt, name, value)
    assert len(made.ids) > 200

    def go(*more: str) -> list[dict[str, Any]]:
        where = ("--folder", str(tmp_path / "results"), "--write", str(tmp_path / "table.json"))
        measure_prompt.main(["--windows", "3", *where, *more])
        rows: list[dict[str, Any]] = json.loads((tmp_path / "table.json").read_text())["rows"]
        return rows

    return go


def test_reach_is_by_length_and_stretch(small: Any) -> None:
    rows = small("--study", "reach", "--schemes", "flash-int4", "flash-int8", "--tp", "2", "--lengths", "8", "12")
    assert [(row["case"], row["scheme"], row["edge"]) for row in rows] == [
        (f"reach {length} TP 2", name, edge)
        for length in (12, 8)
        for name in ("flash-int4", "flash-int8")
        for edge in (1, 2)
    ]
    assert all(row["windows"] == 3 and row["kl"] >= 0 and row["tp"] == 2 for row in rows)
    again = small("--study", "reach", "--schemes", "flash-int4", "--tp", "2", "--lengths", "8")
    assert sorted(map(repr, again)) == sorted(map(repr, rows))


def test_greedy_and_variants(small: Any) -> None:
    rows = small("--study", "greedy", "--schemes", "bf16", "flash-int2")
    assert [row["scheme"] for row in rows] == ["bf16", "flash-int2"]
    assert rows[0]["median_first_difference"] >= rows[1]["median_first_difference"]
    assert rows[0]["same"].keys() == {"1", "3", "8", "32"} and rows[0]["prompts"] == 3
    plain, carried = "int4-g128-zp nearest", "int4-g128-zp error carried"
    both = small("--study", "variants", "--variants", plain, carried)
    assert [row["scheme"] for row in both if row["case"] == "variants"] == [plain, carried]
    assert len(both) == 4  # the other study's rows stay


def test_a_stopped_study_goes_on(small: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is done is found again, and nothing runs for it."""
    first = small("--study", "greedy", "--schemes", "flash-int4")
    monkeypatch.setattr(measure_prompt, "greedy", None)
    assert small("--study", "greedy", "--schemes", "flash-int4") == first


@pytest.mark.parametrize(
    "given, said",
    [(("--schemes", "flash-int9"), "unknown scheme 'flash-int9'"), (("--variants", "x"), "unknown variant 'x'")],
)
def test_unknown_names_are_refused(small: Any, given: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small("--study", "greedy", "variants", *given)


# ---- variants


@pytest.mark.parametrize("bits, group", [(4, 128), (4, 32), (3, 128), (8, 128)])
@pytest.mark.parametrize("ranks", [2, 3])
def test_nearest_is_the_scheme(bits: int, group: int, ranks: int) -> None:
    """The plain variant gives the scheme's own bits, so what another one changes is what it says."""
    generator = torch.Generator().manual_seed(bits)
    partials = [(torch.randn(2, 16, 48, generator=generator) * 8**rank).bfloat16() for rank in range(ranks)]
    partials[0][0, 3] = 0.0
    partials[-1][1] = partials[-1][1].abs()  # groups without a negative number
    plain = Rounding(bits, group)
    found = Variant(plain, plain)(3, "mlp", partials, 0, True)
    wanted = all_reduce_local(partials, scheme(f"two_step:int{bits}-g{group}-zp"))
    assert len(found) == ranks and torch.equal(found[0], wanted[0])


def test_scales_up_clip_nothing() -> None:
    """With a rounded-up scale both ends of every group are within half a step; nearest scales miss some."""
    generator = torch.Generator().manual_seed(0)
    values_M = torch.randn(128 * 200, generator=generator)
    ends = values_M.view(-1, 128).aminmax(dim=1)
    for up in (False, True):
        found = Rounding(8, 128, up)(values_M, generator).view(-1, 128)
        step = (ends.max - ends.min) / 255
        miss = ((found - values_M.view(-1, 128)).abs().amax(1) / step).amax()
        assert (float(miss) < 0.51) == up


def test_stochastic_rounding_has_no_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    values_M = torch.linspace(-1, 2, 128)
    drawn = Rounding(3, 128, stochastic=True)
    mean = torch.stack([drawn(values_M, generator) for _ in range(4000)]).mean(0)
    inner = slice(8, -8)  # at the ends a rounded zero point clips
    assert (mean - values_M)[inner].abs().max() < 0.02 < (Rounding(3, 128)(values_M, generator) - values_M).abs().max()


def test_what_is_lost_is_carried_to_the_next_point() -> None:
    """Two sums in a row: their total is nearer to the exact one than without; a new pass starts with nothing."""
    generator = torch.Generator().manual_seed(0)
    partials = [torch.randn(1, 8, 128, generator=generator).bfloat16() for _ in range(2)]
    exact = 2 * (partials[0].float() + partials[1].float())
    totals = []
    for carried in (False, True):
        plain = Rounding(4, 128)
        sync = Variant(Rounding(8, 128), plain, carried=carried)
        first, second = (sync(0, site, partials, 0, True)[0].float() for site in ("attention", "mlp"))
        totals.append(float((first + second - exact).square().mean()))
        assert torch.equal(sync(0, "attention", partials, 0, True)[0].float(), first)
    assert totals[1] < totals[0] / 2


def test_the_variants_say_what_they_change() -> None:
    found = variants()
    assert len(found) == 20 and all(name.startswith("int") for name in found)
    assert found["int4-g32-zp own partial exact"].own and not found["int4-g32-zp nearest"].own


# ---- the shipped file


def test_the_shipped_studies_are_whole() -> None:
    """Every case that the page speaks of, figures within their intervals, machine and sources named."""
    found = json.loads(measure_prompt.TABLE.read_text())
    assert {"how", "weights_sha256", "text_sha256"} <= found["source"].keys()
    assert all(row["machine"] and row["torch"] for row in found["rows"])
    by_case: dict[str, set[str]] = {}
    for row in found["rows"]:
        by_case.setdefault(row["case"], set()).add(row["scheme"])
        for name in ("perplexity_ratio", "kl", "top1_agreement"):
            if name in row:
                low, high = row[f"{name}_interval"]
                assert low <= row[name] <= high
        for name in ("right", "lost"):
            if name in row:
                low, high = row[name]["interval"]
                assert low <= row[name]["value"] <= high
    assert {f"reach {length} TP 4" for length in measure_prompt.LENGTHS} <= by_case.keys()
    tasks = set(measure_prompt.TASK_SCHEMES)
    for kind in KINDS:
        for tokens in (512, 2000):
            assert by_case[f"retrieval {kind} {tokens}"] == tasks | {"exact"}
    assert by_case["greedy"] == tasks and by_case["variants"] == set(variants())
    wide = [
        row for row in found["rows"]
        if row["case"].startswith("retrieval") and row["right"]["interval"][1] - row["right"]["interval"][0] > 0.1
    ]  # fmt: skip
    assert {(row["case"], row["scheme"]) for row in wide if row["prompt_tokens"] < 8000} == {
        ("retrieval key-value 2000", "hybrid-4.2")
    }  # the GPU's time was over before its 400 trials
