"""docs/papers.md is what `make papers` writes, and its commands give its figures.

Claims are all computed anew. Serving runs take half a minute together, so a seeded few are; scores are counted again
from the rows that the page shows.
"""

import json
import random
import re
import shlex
from pathlib import Path

import pytest

from thinwire.sim import api
from thinwire.validation.papers import page, served
from thinwire.validation.papers.headlines import shipped
from thinwire.validation.papers.verdicts import Verdict, judge

from ...command import Capture, run

SEED = 15
STALE = "docs/papers.md is stale: run make papers, and look at what changed before committing it"


@pytest.fixture(scope="module")
def text() -> str:
    return page.PAGE.read_text("utf-8")


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    return [judge(headline) for headline in shipped().headlines]


@pytest.fixture(scope="module")
def shown(text: str) -> list[list[str]]:
    """The rows of serving runs."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "`thinwire serve" in line]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def test_claims_are_as_they_would_be_written(text: str, verdicts: list[Verdict]) -> None:
    assert text.startswith(page.papers_part(verdicts)), STALE
    assert text.endswith(page.left_out_part()), STALE


def test_where_nothing_makes_it_true_the_page_says_so(text: str, verdicts: list[Verdict]) -> None:
    never = [v for v in verdicts if v.levers and all(lever.factor is None for lever in v.levers)]
    assert any(v.headline.id == "mx-8xl4" for v in never)
    joined = " ".join(text.split())
    assert all(v.sentence in joined for v in verdicts)
    assert all("none of the parameters makes it true" in v.sentence for v in never if v.relation != "agrees")


def test_a_seeded_few_serving_runs_are_as_shown(shown: list[list[str]]) -> None:
    found = {}
    for row in served.pairs():
        found.setdefault((row.model, str(row.tp), row.wire), []).append(row)
    assert len(shown) == len(found) == 38
    quick = [cells for cells in shown if cells[1] == "MI300X" or cells[2] != "4"]
    for cells in random.Random(SEED).sample(quick, 3):
        both = [served.judge(row) for row in found[cells[0], cells[2], cells[3]]]
        (again,) = page.runs(both)
        assert cells == again, STALE


def test_scores_are_those_of_the_rows_shown(text: str, shown: list[list[str]]) -> None:
    """From three digits, so a change just at the edge of none could differ: none is."""
    signs: list[tuple[bool, bool, bool]] = []
    for cells in shown:
        for theirs, ours, sign in (cells[5:8], cells[8:11]):
            right = (float(theirs) < 1) == (float(ours) < 1 - served.NO_CHANGE)
            assert right == (sign == "right"), cells
            signs.append((cells[4] == "above", right, float(theirs) < 1))
    above = [(right, gained) for gate, right, gained in signs if gate]
    right, gained = sum(r for r, _ in above), sum(g for _, g in above)
    assert f"| above the gate | {len(above)} | {right} | {right / len(above):.0%} | {gained} |" in text
    assert right / len(above) >= served.WANTED
    assert f"{right} of {len(above)} signs above the gate are right" in text


def test_that_no_loss_can_be_predicted_stands_beside_the_score(text: str, shown: list[list[str]]) -> None:
    """Under the gate no run of ours is slower than uncompressed."""
    joined = " ".join(text.split())
    assert f"gets 73.{page.NO_LOSS} Wrong" in joined
    assert all(setup.options["gate"] is True for setup in served.shipped().setup)
    assert all(" --gate" in cells[-1] for cells in shown)
    assert max(float(ours) for cells in shown for ours in (cells[6], cells[9])) <= 1


def test_what_is_said_of_int8_is_the_kernel_tables(text: str) -> None:
    """And the fit's."""
    (eight, rccl_8), (large, rccl_64) = page.int8_us(8), page.int8_us(64)
    assert eight < rccl_8 and large > rccl_64
    said = f"at 8 MiB ({eight:.0f} against {rccl_8:.0f} us) and loses at 64 MiB ({large:.0f} against {rccl_64:.0f} us)"
    assert said in " ".join(text.split())
    fit = {
        (mib, name): api.collective("8xmi300x-xgmi", name, mib * served.MIB, 8)["time_us"]
        for mib in (8, 16, 32, 64)
        for name in ("bf16", "quickreduce-int8")
    }
    assert fit[8, "quickreduce-int8"] == pytest.approx(fit[8, "bf16"], rel=0.02)
    assert all(fit[mib, "quickreduce-int8"] > fit[mib, "bf16"] for mib in (16, 32, 64))


def test_prose_is_narrow_and_links_lead_somewhere(text: str, root: Path) -> None:
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith(("|", "#")))
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert len(links) >= 5 and all((root / "docs" / link).resolve().exists() for link in links)


def commands_of(text: str) -> list[list[str]]:
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    return [shlex.split(line) for line in lines]


def test_every_claim_has_a_command_and_it_gives_our_figure(
    text: str, verdicts: list[Verdict], root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them run: they are quick."""
    monkeypatch.chdir(root)
    assert commands_of(text) == [shlex.split(c) for v in verdicts for c in v.answer.commands]
    for verdict in verdicts:
        seconds = []
        for command in verdict.answer.commands:
            status, out, err = run(capsys, *shlex.split(command)[1:], "--json")
            assert status == 0, (command, err)
            document = json.loads(out)
            if isinstance(document, list) or verdict.headline.kind in ("bits", "compression"):
                continue
            if "time_us" in document:
                seconds.append(document["time_us"] / 1e6)
                continue
            times = {row["scheme"]: row.get("ttft_ms", row.get("time_ms")) / 1e3 for row in document["rows"]}
            assert verdict.headline.baseline is not None
            seconds = [times[verdict.headline.baseline], times[verdict.answer.scheme]]
        expected = [verdict.answer.base_s, verdict.answer.other_s] if seconds else []
        assert seconds == pytest.approx(expected, rel=1e-9), verdict.headline.id


def test_a_served_command_gives_our_figure(
    shown: list[list[str]], root: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    cells = next(cells for cells in shown if cells[0] == "Qwen2.5-72B-Instruct" and cells[2] == "8")
    words = shlex.split(cells[-1].strip("`"))[1:]
    means = []
    for scheme in (words[words.index("--scheme") + 1], "bf16"):
        words[words.index("--scheme") + 1] = scheme
        status, out, err = run(capsys, *words, "--json")
        assert status == 0, err
        document = json.loads(out)
        means.append([document[name]["mean"]["value"] for name in ("ttft_ms", "tpot_ms")])
    ratios = [f"{ours / plain:.3f}" for ours, plain in zip(*means, strict=True)]
    assert ratios == [cells[6], cells[9]]


def test_every_served_command_is_understood(shown: list[list[str]], root: Path) -> None:
    for cells in shown:
        words = shlex.split(cells[-1].strip("`"))
        model = words[words.index("--model") + 1]
        assert words[:2] == ["thinwire", "serve"] and ("/" not in model or (root / model).exists())


def test_a_stale_page_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(page, "page", lambda: "as it is\n")
    out = tmp_path / "papers.md"
    assert page.main(["--out", str(out), "--check"]) == 1
    assert page.main(["--out", str(out)]) == 0 and out.read_text("utf-8") == "as it is\n"
    assert page.main(["--out", str(out), "--check"]) == 0
    assert "stale, run make papers" in capsys.readouterr().out
