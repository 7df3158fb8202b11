"""Published figures: a table whole and strict, matched by what schemes do, beside our own and never in them."""

from __future__ import annotations

import json
import random
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.reference.catalog import scheme, schemes
from thinwire.reference.families.config import model_names
from thinwire.reference.mixed import MixedScheme
from thinwire.sim import api
from thinwire.sim.quality import published
from thinwire.sim.quality.figures import figure
from thinwire.sim.quality.published import EVIDENCE, FEW, Found, few, kept, left_out, rows, rows_of

from ...command import Capture, run

INT4 = scheme("quickreduce-int4")


# ---- the shipped table


def test_no_row_goes_missing() -> None:
    """137 rows were collected. One was left out, with the reason; a row more or less is a decision, not a slip."""
    assert (len(rows()), len(left_out())) == (136, 1)
    assert all(out["name"] and out["said"] and out["why"] for out in left_out())
    assert Counter(row.evidence for row in rows()) == {
        "served": 64, "simulated": 36, "measured": 3, "unpaired": 1, "confounded": 2, "no baseline": 6, "abstract": 4,
        "operator": 12, "statement": 1, "summary": 1, "claim": 2, "failure": 4,
    }  # fmt: skip
    assert Counter(row.match for row in rows()) == {"exact": 74, "near": 29, None: 33}
    assert Counter(row.source.by for row in rows()) == {"vendor": 54, "others": 59, "authors": 7, "unknown": 16}
    assert Counter(row.spec for row in rows()) == {
        None: 33, "quickreduce-int4": 32, "quickreduce-int8": 14, "hybrid-4.2": 14, "quickreduce-int6": 12,
        "two_step:mx-e2m1-b32-fp16@fused": 6, "two_step:int3-g32-sym-fp16@fused": 5, "bf16-ring": 3,
        "ring:int8-g128-sym-fp32": 3, "ring:mx-e4m3-b128-fp32": 3, "ring:bf16/mx-e4m3-b128-fp32": 2,
        "ring:bf16/int8-g128-sym-fp32": 2, "bf16": 2, "spd-50": 1, "flash-int2": 1, "quickreduce-fp8": 1,
        "two_step:mx-e2m1-b16-fp16@fused": 1, "all_gather:int8-g128-zp": 1,
    }  # fmt: skip


def test_the_page_counts_them(root: Path) -> None:
    page = " ".join((root / "docs" / "trust.md").read_text("utf-8").split())
    known = sum(row.spec is not None for row in rows())
    vendors = sum(row.source.by == "vendor" for row in rows())
    assert f"{len(rows())} published figures of real models" in page
    assert f"{known} are of a scheme that thinwire knows" in page and f"{vendors} are the vendor's own" in page
    errors = [1.96 * row.se_estimated for row in rows() if row.se_estimated is not None and row.n == 400]
    assert min(errors) > 0.015 and max(errors) < 0.05 and "two to five points by chance" in page


def test_every_spec_is_a_scheme_of_ours_or_says_that_it_is_none() -> None:
    for row in rows():
        if row.spec is None:
            assert row.match is None and row.differs, row
        else:
            assert any(one.row is row for one in rows_of(scheme(row.spec))), row
            assert row.match == "exact" or row.differs, row


def test_figures_agree_with_each_other() -> None:
    """What is kept is one figure over the other; an estimated error is that of so many questions."""
    for row in rows():
        if None not in (row.uncompressed, row.compressed, row.retained) and not row.about:
            assert row.retained == pytest.approx(row.compressed / row.uncompressed, abs=6e-5), row.line  # type: ignore[operator]
        if row.se_estimated is not None and row.uncompressed is not None and row.n is not None:
            share = row.uncompressed if row.uncompressed <= 1 else row.uncompressed / 100
            assert row.se_estimated == pytest.approx((share * (1 - share) / row.n) ** 0.5, abs=1e-4)
        assert row.source.cite and row.source.who and row.line
        assert row.source.by != "vendor" or row.line.endswith(f"vendor's claim ({row.source.who})")
        assert len(row.line) <= 240, "one short line"


def test_names_of_models_are_those_of_the_catalog() -> None:
    assert {row.catalog for row in rows()} - {None} <= set(model_names())


# ---- which rows


def test_schemes_are_known_by_what_they_do() -> None:
    """By codec and collective, whatever the name; of another codec, collective or option there is nothing."""
    found = rows_of(INT4)
    assert len(found) == 32
    for same in ("two_step:int4-g32-sym-fp16", "two_step:int4-g32-sym-fp16@chunk=4096x2", "quickreduce-int4"):
        assert rows_of(scheme(same)) == found
    others = ("flash-int4", "two_step:int4-g128-zp", "all_gather:int4-g32-sym-fp16", "quickreduce-int4+exempt-1")
    for other in (*others, "quickreduce-int4+spd-50", "quickreduce-int4+iso", "two_step:int4-g32-sym"):
        assert rows_of(scheme(other)) == (), other
    layered = scheme("hierarchical:int4-g32-sym-fp16")
    assert rows_of(layered, 4, 1) == rows_of(INT4, 4, 1) and rows_of(layered, 4, 2) == () == rows_of(layered)


def test_nothing_on_one_rank_and_of_a_mixed_scheme() -> None:
    assert rows_of(INT4, 1) == ()
    assert rows_of(MixedScheme("mine", (INT4,), (INT4,), "tiny"), 4) == ()


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ("qwen2.5-72b", 4), ("Qwen2.5-72B-Instruct", 4), ("llama-2-70b", 3), ("Llama-2-70b-hf", 3),
        ("qwen3-32b", 1), ("qwen2.5-7b", 0), ("llama-3-70b", 0), ("llama-2-7b", 0), ("MiniMax-M3", 12), ("", 0),
    ],
)  # fmt: skip
def test_a_model_is_matched_by_its_name_and_not_by_its_family(asked: str, count: int) -> None:
    found = rows_of(INT4, 8, model=asked)
    assert sum(one.same_model for one in found) == count and len(found) == 32
    assert [one.same_model for one in found] == sorted((one.same_model for one in found), reverse=True)


def test_the_best_evidence_comes_first_and_the_nearest_degree() -> None:
    order = tuple(EVIDENCE)
    for name, model in (("quickreduce-int4", "llama-3-70b"), ("hybrid-4.2", "qwen2.5-72b")):
        found = [one.row for one in rows_of(scheme(name), 8, model=model)]
        assert [order.index(row.evidence) for row in found] == sorted(order.index(row.evidence) for row in found)
    for tp in (2, 4, 8):
        assert rows_of(INT4, tp, model="qwen2.5-72b")[0].row.tp == tp


def test_a_few_are_the_best_of_each_scheme() -> None:
    found = [(name, rows_of(spelt, 8, 2, "qwen2.5-72b")) for name, spelt in schemes().items()]
    shown = few(found)
    assert [name for name, _ in shown] == [
        "bf16-ring", "quickreduce-int8", "quickreduce-int6", "quickreduce-int4", "quickreduce-int3",
    ]  # fmt: skip
    assert all(one.row.decides for _, one in shown) and len(shown) == FEW
    assert few([]) == [] and few([("a", ()), ("b", found[0][1][:1])]) == [("b", found[0][1][0])]


# ---- what is kept


def test_the_worst_row_of_the_model_decides_and_else_of_all() -> None:
    own = kept(INT4, 8, 2, "qwen2.5-72b")
    assert own is not None and (own.share, own.by) == (0.9845, "published")
    assert own.said.startswith("the worst of 4 rows of qwen2.5-72b keeps 98.45%: GSM8K 0.965 -> 0.95 (n = 400)")
    assert own.said.endswith("Qwen2.5-72B-Instruct TP 8, ROCm/aiter#801; vendor's claim (AMD)")
    other = kept(INT4, 8, 2, "llama-3-70b")
    assert other is not None and other.share == min(
        one.row.retained for one in rows_of(INT4) if one.row.decides and one.row.retained is not None
    )
    assert "rows of other models, none of llama-3-70b, keeps" in other.said


def test_only_what_was_measured_with_and_without_decides() -> None:
    """A paper's abstract, a warning and an operator's error are shown, and decide nothing."""
    assert {row.evidence for row in rows() if row.decides} == {"served", "simulated", "measured"}
    for name in ("spd-50", "flash-int2", "quickreduce-fp8", "flash-int4", "all_gather:int8-g128-zp", "none"):
        assert kept(scheme(name), 8, 2, "llama-2-70b") is None, name


def test_all_is_kept_where_nothing_is_compressed() -> None:
    for name in ("bf16", "bf16-ring", "iso", "tree:bf16"):
        found = kept(scheme(name), 8, 2, "llama-3-70b")
        assert found is not None and (found.share, found.by) == (1.0, "uncompressed")
    for name in ("ring:fp16", "spd-10"):  # fp16 overflows, and a dropped sync point is no sum
        found = kept(scheme(name), 8, 2, "llama-3-70b")
        assert found is None or found.by == "published"
    alone = kept(scheme("flash-int2"), 1, 1, "llama-3-70b")
    assert alone is not None and alone.by == "uncompressed"
    plain, lossy = scheme("bf16"), scheme("flash-int4")
    for entries, by in (((plain,), "uncompressed"), ((lossy,), None), ((None,), None)):
        found = kept(MixedScheme("mine", entries, (plain,), "tiny"), 4, 1, "tiny")
        assert (None if found is None else found.by) == by


# ---- how it is shown


ASK = ("--model", "qwen2.5-72b", "--cluster", "8xmi300x-xgmi", "--input-tokens", "256")
SOME = ("--schemes", "bf16,quickreduce-int4,flash-int4")


def test_compare_shows_them_beside_our_own(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted where nobody asks; a few, all or none where somebody does."""
    monkeypatch.setenv("COLUMNS", "200")
    status, out, _ = run(capsys, "compare", *ASK, *SOME, "--published", "few")
    lines = out.splitlines()
    assert status == 0
    said = (
        "  quickreduce-int4: GSM8K 0.965 -> 0.95 (n = 400), Qwen2.5-72B-Instruct TP 8, ROCm/aiter#801; vendor's claim "
        "(AMD)"
    )
    assert lines.count(said) == 1
    shown = [line for line in lines if line.startswith("  quickreduce-int4: ")]
    assert len(shown) == FEW
    (left,) = (line for line in lines if "more; the worst" in line)
    assert left == "  ... and 29 more; the worst measured keeps 0 % of a score: --published all"
    for every in (("--published", "all"), ("--verbose",)):
        status, out, _ = run(capsys, "compare", *ASK, *SOME, *every)
        assert sum(line.startswith("  quickreduce-int4: ") for line in out.splitlines()) == 32
        assert "--published" not in out
    status, out, _ = run(capsys, "compare", *ASK, *SOME)
    assert out.count("Published") == 1 and "quickreduce-int4: " not in out and "of 34 rows" in out
    status, out, _ = run(capsys, "compare", *ASK, *SOME, "--published", "none")
    assert "Published" not in out and "quickreduce-int4: " not in out
    status, out, _ = run(capsys, "compare", *ASK, "--schemes", "flash-int4")
    assert status == 0 and "Published" not in out


def test_json_has_all_of_them(capsys: Capture) -> None:
    for asked in ((), ("--published", "none")):
        status, out, _ = run(capsys, "compare", *ASK, *SOME, *asked, "--json")
        found = {row["scheme"]: row["published"] for row in json.loads(out)["rows"]}
        assert status == 0 and {name: len(given) for name, given in found.items()} == {
            "bf16": 2, "quickreduce-int4": 32, "flash-int4": 0,
        }  # fmt: skip
        first = found["quickreduce-int4"][0]
        assert (first["uncompressed"], first["compressed"], first["retained"]) == (0.965, 0.95, 0.9845)
        assert first["vendor_claim"] is True and first["same_model"] is True and first["who"] == "AMD"
        assert first["source"].startswith("ROCm/aiter#801") and "bf16 to fp16" in first["note"]
    status, out, _ = run(capsys, "schemes", "--json")
    counts = {row["name"]: len(row["published"]) for row in json.loads(out)["schemes"]}
    assert counts["quickreduce-int8"] == 14 and counts["flash-int8"] == 0 and set(counts) == set(schemes())


def test_schemes_shows_a_few_or_all(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    counts = []
    for asked in ("few", "all", "none"):
        status, out, _ = run(capsys, "schemes", "--published", asked)
        assert status == 0
        counts.append(sum(": " in line and line.startswith("  ") for line in out.splitlines() if "..." not in line))
    assert counts[0] == FEW and counts[1] == sum(len(rows_of(spelt)) for spelt in schemes().values()) and not counts[2]


def test_cross_attention_has_none(capsys: Capture) -> None:
    asked = ("--workload", "cross-attention", "--text-tokens", "64", "--visual-tokens", "64", "--published", "all")
    status, out, err = run(capsys, "compare", "--cluster", "4xl4-pcie", *asked)
    assert (status, out) == (2, "") and "--published is of a decoder's schemes" in err


# ---- never in our own figures


def table_of(out: str) -> list[str]:
    lines = out.partition("perplexity x:")[0].splitlines()
    said = next((i for i, line in enumerate(lines) if "would take away" in line), len(lines))
    return lines[:said]


@cache
def compared() -> api.Comparison:
    return api.compare(["bf16", "quickreduce-int4", "hybrid-4.2"], "qwen2.5-72b", "8xmi300x-xgmi", 8, input_tokens=256)


@cache
def as_shipped() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    return {name: figure(spelt, 8) for name, spelt in schemes().items()}, compared().to_dict()["rows"]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), scale=st.floats(0, 1.9), lost=st.integers(0, 136))
def test_published_figures_never_change_a_measured_one(
    seed: int, scale: float, lost: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever the table says, the accuracy of a row of compare is the measured table's, in Python and in JSON."""
    figures, before = as_shipped()
    chance = random.Random(seed)
    document = json.loads(published.TABLE.read_text("utf-8"))
    for row in chance.sample(document["rows"], lost):
        if "retained" in row:
            row["retained"] = round(scale * chance.random(), 4)
        row["compressed"], row["evidence"] = scale * 100, chance.choice(list(EVIDENCE))
    path = tmp_path_factory.mktemp("published") / "other.json"
    path.write_text(json.dumps(document))
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(published, "TABLE", path)
        assert {name: figure(scheme(name), 8) for name in figures} == figures
        again = compared().to_dict()["rows"]
    for mine, theirs in zip(again, before, strict=True):
        assert {**mine, "published": []} == {**theirs, "published": []}


def test_the_table_is_the_same_with_and_without(capsys: Capture) -> None:
    shown = [table_of(run(capsys, "compare", *ASK, *SOME, "--published", asked)[1]) for asked in ("few", "all", "none")]
    assert shown[0] == shown[1] == shown[2] and len(shown[0]) > 5


# ---- a damaged table


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "KeyError: 'colour'"),
        ({"tp": "8"}, "tp: '8'"), ({"tp": True}, "tp: True"), ({"tp": 1}, "one rank sends nothing"),
        ({"evidence": "rumour"}, "evidence: 'rumour'"), ({"n": 4.5}, "n: 4.5"),
        ({"spec": "quickreduce-int5"}, "unknown scheme"), ({"spec": None}, "a row has a spec and how it matches"),
        ({"match": "near"}, "near, but not in what"), ({"match": "roughly"}, "match: 'roughly'"),
        ({"retained": -0.1}, "retained is a share"), ({"higher_is_better": False}, "retained is a share"),
        ({"source": "hearsay"}, "KeyError: 'hearsay'"), ({"model": "Qwen9"}, "KeyError: 'Qwen9'"),
    ],
)  # fmt: skip
def test_a_damaged_row_is_refused(
    change: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = json.loads(published.TABLE.read_text("utf-8"))
    document["rows"][2].update(change)
    path = tmp_path / "published.json"
    path.write_text(json.dumps(document))
    monkeypatch.setattr(published, "TABLE", path)
    with pytest.raises(ValueError, match=r"published\.json is no table of published figures: row 3: ") as refused:
        rows()
    assert said in str(refused.value)


@pytest.mark.parametrize("lost", ["sources", "models", "rows"])
def test_a_table_that_lacks_a_part_is_refused(lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.loads(published.TABLE.read_text("utf-8"))
    del document[lost]
    path = tmp_path / "published.json"
    path.write_text(json.dumps(document))
    monkeypatch.setattr(published, "TABLE", path)
    with pytest.raises(ValueError, match=f"no table of published figures: .*KeyError: '{lost}'"):
        rows()


def test_a_row_of_the_caller_is_a_plain_value() -> None:
    found = Found(rows()[0], True)
    assert json.loads(json.dumps(found.to_dict()))["line"] == rows()[0].line
