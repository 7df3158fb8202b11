"""docs/accuracy.md and its pictures are what `make pages` makes of the two tables, and nothing in them is older."""

from __future__ import annotations

import ast
import copy
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from thinwire.commands.cli import app
from thinwire.reference.catalog import schemes
from thinwire.validation.quality import changes, measure_accuracy, measure_prompt, page
from thinwire.validation.quality.findings import BUDGETS, LENGTHS, USABLE, asked, free, winners
from thinwire.validation.quality.measured import Estimate, Measured, bits, kl, known, sent, shipped, shown_name
from thinwire.validation.quality.sections import FRONTIER, REACH, codecs
from thinwire.validation.quality.words import digits, number

STALE = "stale: run make pages, and look at what changed before committing it"
Document = dict[str, Any]


@pytest.fixture(scope="module")
def measured() -> Measured:
    return shipped()


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "docs" / page.PAGE).read_text("utf-8")


def changed(measured: Measured, change: Callable[[Document, Document], object]) -> Measured:
    """The tables with something else in them."""
    accuracy, prompt = copy.deepcopy(dict(measured.accuracy)), copy.deepcopy(dict(measured.prompt))
    change(accuracy, prompt)
    return Measured(accuracy, prompt)


def row_of(document: Document, **wanted: Any) -> Document:
    """The row of a table in which all of these stand."""
    found = [row for row in document["rows"] if all(row.get(key) == value for key, value in wanted.items())]
    assert found, wanted
    return found[0]


# --- the files ---


def test_the_page_and_its_pictures_are_as_they_would_be_written(tmp_path: Path, root: Path, measured: Measured) -> None:
    made = page.write(measured, tmp_path)
    assert [path.name for path in made] == [page.PAGE, FRONTIER, REACH]
    for path in made:
        assert path.read_bytes() == (root / "docs" / path.name).read_bytes(), f"{path.name} is {STALE}"


def test_what_was_drawn_before_changes_no_picture(tmp_path: Path, root: Path, measured: Measured) -> None:
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "font.size": 20, "lines.linewidth": 9}):
        page.write(measured, tmp_path)
        assert plt.rcParams["font.size"] == 20
    assert (tmp_path / FRONTIER).read_bytes() == (root / "docs" / FRONTIER).read_bytes()


def test_prose_is_narrow_and_links_lead_somewhere(text: str, root: Path) -> None:
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))
    assert len(text.splitlines()) <= 180
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert len(links) >= 6 and all((root / "docs" / link).exists() for link in links)


def test_commands_are_real(text: str, root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    (block,) = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    programs = {"accuracy": measure_accuracy, "prompt": measure_prompt}
    group, ran = typer.main.get_command(app), 0
    for words in (shlex.split(line, comments=True) for line in block.splitlines()):
        if words[0] == "make":
            assert words[1] in targets
            options = [word for each in words[2:] for word in shlex.split(each.removeprefix("ARGS="))]
            source = Path(programs[words[1]].__file__ or "").read_text("utf-8") if options else ""
            subject = (root / "validation" / "quality" / "subject.py").read_text("utf-8")
            assert all(f'"{word}"' in source + subject for word in options if word.startswith("--"))
        else:
            with group.make_context("thinwire", words[1:]) as context:
                _, command, rest = group.resolve_command(context, words[1:])  # type: ignore[attr-defined]
                command.make_context(words[1], list(rest), parent=context)
        ran += 1
    assert ran == 4


def test_a_stale_page_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert page.main(["--out", str(tmp_path), "--check"]) == 1
    assert page.main(["--out", str(tmp_path)]) == 0
    assert page.main(["--out", str(tmp_path), "--check"]) == 0
    (tmp_path / REACH).write_text("another")
    capsys.readouterr()
    assert page.main(["--out", str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().out == f"stale, run make pages: {REACH}\n"


# --- every figure is of the tables ---


def figures(measured: Measured) -> Iterator[tuple[str, Callable[[Document, Document], object]]]:
    """One change of a figure that the page is about, for each kind of figure and each scheme of its table."""

    def doubled(row: Document, *keys: str) -> None:
        for key in keys:
            row[key] *= 2

    for name in measured.main:
        wanted = {"scheme": held(measured, name), "tp": 4}
        for compress in ("prompt", "all"):
            where = wanted | {"compress": compress}
            yield f"{where}", lambda a, p, w=where: doubled(row_of(a, **w), "perplexity_ratio")
        yield f"{wanted} KL", lambda a, p, w=wanted: doubled(row_of(a, **w, compress="prompt"), "kl")
    for row in measured.prompt["rows"]:
        where = {"case": row["case"], "scheme": row["scheme"]}
        if row["case"].startswith("reach ") and (row["prompt_tokens"] == 512 or row["edge"] in (1, 128)):
            where |= {"edge": row["edge"]}
            yield f"{where}", lambda a, p, w=where: doubled(row_of(p, **w), "kl")
        elif row["case"] == "greedy" and shown_name(row["scheme"]) in measured.main:
            yield f"{where}", lambda a, p, w=where: row_of(p, **w).update(median_first_difference=11.5)
        elif row["case"] == "variants":
            yield f"{where}", lambda a, p, w=where: doubled(row_of(p, **w), "kl")
        elif row["case"].startswith("retrieval key-value") and row["scheme"] not in ("exact", "bf16"):
            yield f"{where}", lambda a, p, w=where: row_of(p, **w)["lost"].update(value=-0.4321)
        elif row["case"] == "retrieval pass-key 8000" and row["scheme"] != "exact":
            yield f"{where}", lambda a, p, w=where: row_of(p, **w)["lost"].update(value=-0.4321)
            yield f"{where} trials", lambda a, p, w=where: row_of(p, **w).update(trials=33)
    for length in LENGTHS:
        where = {"case": f"retrieval key-value {length}", "scheme": "exact"}
        yield f"{where}", lambda a, p, w=where: row_of(p, **w)["right"].update(value=0.5)
    for tp in (2, 8):
        yield f"TP {tp}", lambda a, p, n=tp: doubled(row_of(a, scheme="mxfp4", tp=n, compress="prompt"), "kl")


def test_a_figure_that_changes_changes_the_page(measured: Measured, text: str) -> None:
    tried = 0
    for what, change in figures(measured):
        assert page.page(changed(measured, change)) != text, what
        tried += 1
    assert tried > 200


def test_a_figure_that_changes_changes_its_picture(tmp_path: Path, root: Path, measured: Measured) -> None:
    def change(accuracy: Document, prompt: Document) -> None:
        for row in (
            row_of(accuracy, scheme="flash-int8", tp=4, compress="all"),
            row_of(prompt, case="reach 256 TP 4", scheme="mxfp4", edge=128),
        ):
            row.update(kl=1.1 * row["kl"], kl_interval=[1.1 * end for end in row["kl_interval"]])

    page.write(changed(measured, change), tmp_path)
    for name in (FRONTIER, REACH):
        assert (tmp_path / name).read_bytes() != (root / "docs" / name).read_bytes(), name


def test_no_figure_of_a_measurement_stands_in_the_program(root: Path) -> None:
    """Decimals in its texts would be such; one is part of a name."""
    for name in ("page", "sections", "changes"):
        source = (root / "validation" / "quality" / f"{name}.py").read_text("utf-8")
        texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
        said = [each.replace("hybrid-4.2", "") for each in texts if isinstance(each, str)]
        assert not [each for each in said if re.search(r"(?<!\w)\d+\.\d", each)], name


def test_usable_is_what_the_readme_says(root: Path) -> None:
    assert f"more than {100 * USABLE:g} % of perplexity" in " ".join((root / "README.md").read_text("utf-8").split())


# --- what is found in them ---


def test_winners_have_the_least_loss_of_their_budget(measured: Measured) -> None:
    for compress in ("prompt", "all"):
        for budget, name in zip(BUDGETS, winners(measured, "prompt" if compress == "prompt" else "all"), strict=True):
            best = row_of(dict(measured.accuracy), tp=4, compress=compress, scheme=held(measured, name))
            for row in measured.accuracy["rows"]:
                plain = not (row["exempt_tokens"] or row["exempt_last_tokens"] or row["drop_attention_percent"])
                two = row["collective"] == "two_step" and row["tp"] == 4 and row["compress"] == compress
                if plain and two and bits(row["scheme"]) <= budget:
                    assert best["kl"] <= row["kl"], (budget, row["scheme"])
            assert bits(name) <= budget


def held(measured: Measured, name: str) -> str:
    return str(known(measured.loss(name))["scheme"])


def test_a_scheme_is_found_by_what_it_does(measured: Measured) -> None:
    """So a name that the catalog gives later finds what was measured before."""
    assert measured.loss("two_step:int4-g128-zp") == measured.loss("flash-int4")
    assert shown_name("two_step:int4-g128-zp") == "flash-int4"
    assert measured.lookups("flash2-int5", "key-value", 512) == measured.lookups("flash-int5", "key-value", 512)
    assert measured.loss("two_step:int7-g64-zp") is None and measured.lookups("iso", "key-value", 512) is None
    assert len(set(measured.main)) == len(measured.main) >= 25
    assert {*measured.main} & {*schemes()} >= {"bf16", "flash-int8", "mxfp4", "hybrid-4.2", "quickreduce-fp8"}


def test_bytes_sent(measured: Measured) -> None:
    """One step sends every partial sum whole: TP / 2 times what two steps send."""
    assert sent("bf16") == 1 and sent("spd-50") == 0.75
    assert sent("flash-int4") == pytest.approx(bits("flash-int4") / 16)
    assert sent("all_gather:int4-g128-zp") == pytest.approx(2 * sent("flash-int4"))
    assert sent("all_gather:int4-g128-zp", 8) == pytest.approx(4 * sent("flash-int4", 8))
    assert sent("flash-int6") == pytest.approx((bits("flash-int4") + bits("flash-int8")) / 32)


def test_points_lost_are_positive_and_keep_their_interval(measured: Measured) -> None:
    found = measured.lookups("flash-int4", "key-value", 512)
    row = row_of(dict(measured.prompt), case="retrieval key-value 512", scheme="flash-int4")
    assert found is not None and found.lost.low < found.lost.value < found.lost.high
    assert found.lost == pytest.approx(
        [-100 * row["lost"]["value"], *(-100 * end for end in row["lost"]["interval"][::-1])]
    )
    assert asked(measured)[: len(free(measured))] == free(measured)


def test_changes_are_judged_by_intervals_that_do_not_meet(measured: Measured) -> None:
    change = next(each for each in changes.CHANGES if "`+exempt-1`" in each.what)
    for pair, one in zip(change.pairs, changes.judge(measured, change), strict=True):
        before, after = (kl(known(measured.loss(name))) for name in (pair.plain, pair.changed))
        assert one.ratio == after.value / before.value
        assert one.verdict == "wins" and after.high < before.low

    def reversed_(accuracy: Document, prompt: Document) -> None:
        for pair in change.pairs:
            row_of(accuracy, scheme=pair.changed, tp=4, compress="prompt").update(kl=9.0, kl_interval=[8.9, 9.1])

    other = changed(measured, reversed_)
    said = changes.sentence(changes.judge(other, change), changes.judge(other, change, "all"), change)
    assert said == "Loses."  # no reason is given for what it does not explain


def test_every_change_was_measured_and_has_one_sentence(measured: Measured) -> None:
    rows = [line for line in codecs(measured) if line.startswith("| ")][2:]
    assert len(rows) == len(changes.CHANGES) >= 20
    for change in changes.CHANGES:
        assert len(changes.judge(measured, change)) == len(change.pairs), change.what


def test_what_was_not_measured_is_a_dash_or_refused(measured: Measured) -> None:
    def without(accuracy: Document, prompt: Document) -> None:
        prompt["rows"] = [row for row in prompt["rows"] if row["case"] != "retrieval pass-key 8000"]
        accuracy["rows"] = [row for row in accuracy["rows"] if (row["scheme"], row["tp"]) != ("mxfp4", 8)]

    assert "At 8,000 tokens" not in page.page(changed(measured, without))

    def bare(accuracy: Document, prompt: Document) -> None:
        accuracy["rows"] = [row for row in accuracy["rows"] if row["scheme"] != "flash-int4"]

    with pytest.raises(ValueError, match="lack a row"):
        page.page(changed(measured, bare))


def test_words() -> None:
    assert [digits(value) for value in (0.00087, 0.0101, 0.2, 2.64, 12.3)] == ["0.00087", "0.010", "0.20", "2.6", "12"]
    assert [number(value) for value in (0.9947, 13.37, 25179.3)] == ["0.995", "13.4", "25,179"]
    assert Estimate(1, 0.1, 2).shows and not Estimate(1, -0.1, 2).shows
