"""Documents say what is so: figures stand in the reports, snippets run, printed output is what is printed."""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from thinwire.commands.cli import COMMANDS, app
from thinwire.reference.families.config import model_names
from thinwire.sim import api
from thinwire.topologies.load import cluster_names, gpu_names

from .command import Capture, run

PAGES = ("README.md", "docs/commands.md", "docs/models.md", "docs/trust.md", "docs/structure.md")
PARALLEL = "parallelize"  # snippets of that are run by tests/reference/test_parallel.py, on two ranks


@pytest.fixture
def pages(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text("utf-8") for name in PAGES}


def blocks(text: str, kind: str) -> list[str]:
    """Fenced blocks of a kind ("": of none)."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def rows_of(table: str) -> Iterator[list[str]]:
    """The rows of Markdown tables below their heads."""
    for line in re.findall(r"^\|(?!-)(?! *--)(.*)\|$", table, re.MULTILINE):
        yield [cell.strip() for cell in line.split("|")]


# --- figures ---


@pytest.fixture
def targets(root: Path) -> str:
    report = (root / "validation" / "reports" / "validation.md").read_text("utf-8")
    sections = re.split(r"\n## ", report)
    return "\n".join(text for text in sections if text.startswith(("Targets", "Mixtures of experts")))


def test_the_readme_is_short_and_narrow(pages: dict[str, str]) -> None:
    assert len(pages["README.md"].splitlines()) <= 130
    for name, text in pages.items():
        assert max(map(len, text.splitlines())) <= 120, name


def test_every_figure_of_the_readme_stands_in_the_report(pages: dict[str, str], targets: str) -> None:
    """Count, median, 90th percentile and worst stand together in a row of the targets, or of mixtures without any."""
    summary = pages["README.md"].split("<!-- validation summary")[1].split("<!-- end of summary")[0]
    rows = re.findall(r"\| ([\d,]+) \| ([\d.]+%) \| ([\d.]+%) \| ([\d.]+%) \|", summary)
    assert len(rows) == 7
    for row in rows:
        assert f"| {' | '.join(row)} |" in targets, f"the report has no row {row}: run make validate and quote it anew"


def test_every_row_of_trust_stands_in_a_report(root: Path, pages: dict[str, str]) -> None:
    """From the first figure or verdict of a row on, its cells stand together in a row of the report it names."""
    reports = root / "validation" / "reports"
    quoted = re.findall(r"<!-- rows of ([\w. ]+) -->(.*?)<!-- end -->", pages["docs/trust.md"], re.DOTALL)
    found = 0
    for named, table in quoted:
        text = "\n".join((reports / name).read_text("utf-8") for name in named.split(" and "))
        lines = [" | ".join(cells) for cells in rows_of(text)]
        for cells in list(rows_of(table))[1:]:
            at = next(i for i, cell in enumerate(cells) if re.match(r"[\d,.]+%?( of \d+.*)?$|missed by", cell))
            said = " | ".join(cells[at:])
            assert any(said in line for line in lines), f"{named} has no row with {said}: quote it anew"
            found += 1
    assert found >= 25


def test_how_many_of_what(pages: dict[str, str]) -> None:
    words = {18: "eighteen"}
    assert f"{len(model_names())} in the catalog" in pages["README.md"]
    assert f"Machines: {words[len(cluster_names())]} in the catalog" in pages["README.md"]


# What the columns of docs/models.md's table of mixtures are: how the model is shared out, and the scheme.
OWN = {"attention": "dp", "expert_exchange": "all-to-all"}
WAYS: tuple[tuple[dict[str, str], str], ...] = (
    ({}, "bf16"), ({}, "flash-int4"), (OWN, "bf16"), (OWN, "deepep-fp8"), (OWN, "a2a-int4"),
)  # fmt: skip


def test_what_the_page_on_models_says_of_mixtures(pages: dict[str, str]) -> None:
    """Each cell as predicted; and what is said of them below."""
    table = pages["docs/models.md"].split("<!-- mixtures")[1].split("<!-- end of mixtures")[0]
    said = {(row[0].split(", ")[0], row[0].split(", ")[1]): row[1:] for row in rows_of(table) if "tensor" not in row[1]}
    found, shares, seconds, breakdowns = {}, {}, {}, {}
    for model in ("deepseek-v3", "qwen3-235b-a22b"):
        for machine in ("8xh200-nvlink", "8xrtx-pro-6000-pcie"):
            cells = []
            for place, (how, scheme) in enumerate(WAYS):
                p = api.predict(model, machine, scheme, batch=8, input_tokens=4096, **how)
                share = p.breakdown.exposed_communication_s / p.ttft_s
                cells.append(f"{p.ttft_s:.2f} ({share:.0%})")
                shares[machine, model, place], seconds[machine, model, place] = share, p.ttft_s
                breakdowns[machine, model, place] = p.breakdown
            found[model, machine] = cells
    lines = [f"| {', '.join(key)} | {' | '.join(cells)} |" for key, cells in found.items()]
    assert said == found, "\n".join(lines)
    for model in ("deepseek-v3", "qwen3-235b-a22b"):
        pcie = [seconds["8xrtx-pro-6000-pcie", model, place] for place in range(5)]
        assert pcie[2] < 0.52 * pcie[0]  # "halve"
        assert 0.55 < pcie[4] / pcie[2] < 0.7 and 0.85 < pcie[3] / pcie[2] < 0.92  # "a third", "a tenth"
        assert 0.13 < shares["8xh200-nvlink", model, 2] < 0.22  # "a seventh to a fifth"
        plain, coded = breakdowns["8xh200-nvlink", model, 2], breakdowns["8xh200-nvlink", model, 4]
        assert 0.3 < coded.codec_s / (plain.communication_s - coded.communication_s) < 0.42  # "a third"
        for machine in ("8xh200-nvlink", "8xrtx-pro-6000-pcie"):  # "half as long again, or more"
            assert breakdowns[machine, model, 0].compute_s > 1.5 * breakdowns[machine, model, 2].compute_s


def test_what_the_readme_says_of_its_example(root: Path, pages: dict[str, str]) -> None:
    """Waiting for the wire is nearly half of TTFT, and intervals hold so many rows of hosts left out whole."""
    plain = api.predict("llama-3-70b", "8xl40s-pcie", "bf16", 4, 8, 1024)
    assert "nearly half of the time" in pages["README.md"]
    assert 0.4 < plain.breakdown.exposed_communication_s / plain.ttft_s < 0.5
    table = pages["docs/trust.md"].split("<!-- hosts left out -->")[1].split("<!-- end -->")[0]
    inside = [int(row[3].rstrip("%")) for row in rows_of(table) if row[3].endswith("%")]
    assert f"intervals hold {min(inside)} to {max(inside)} % of the rows of hosts left out whole" in pages["README.md"]
    assert f"of {len(gpu_names())} GPUs" in pages["README.md"]


def test_what_the_readme_says_of_the_first_gpu(root: Path, pages: dict[str, str]) -> None:
    """INT4's kernels beside a copy, as the campaign measured them."""
    (raw,) = (root / "validation" / "raw").glob("nvidia-h200-*.json")
    shares = [
        row["share_of_copy"]
        for row in json.loads(raw.read_text())["steps"]["codec"]["rows"]
        if row["codec"] == "int4-g128-zp" and row["kernel"] in ("encode", "decode", "reduce", "reduce_encode")
        and row["bytes_read"] + row["bytes_written"] >= 16 << 20
    ]  # fmt: skip
    assert f"move {min(shares):.0%} to {max(shares):.0%}".replace("%", " %").replace(" % to", " to") in " ".join(
        pages["README.md"].split()
    )


def test_what_is_said_of_dear_codecs(root: Path) -> None:
    """How much longer spikes and rotations took on the first GPU than INT4 did, encoding and decoding 128 Mi values."""
    (raw,) = (root / "validation" / "raw").glob("nvidia-h200-*.json")
    rows = {
        (row["kernel"], row["codec"]): row["seconds_graph"]
        for row in json.loads(raw.read_text())["steps"]["codec"]["rows"] if row["numel"] == 128 << 20
    }  # fmt: skip
    longer = [
        rows[kernel, codec] / rows[kernel, "int4-g128-zp"]
        for kernel in ("encode", "decode") for codec in ("int2-g128-zp-sr", "int4-g128-zp-h128")
    ]  # fmt: skip
    said = api.predict("llama-3-8b", "8xmi300x-xgmi", "flash2-int4-sr", tp=2, input_tokens=64).assumptions
    words = f"took {min(longer):.1f} to {max(longer):.1f} times as long as INT4's"
    assert any(words in sentence and "reserved spikes" in sentence for sentence in said)
    plain = api.predict("llama-3-8b", "8xmi300x-xgmi", "flash-int4", tp=2, input_tokens=64).assumptions
    priced = api.predict("llama-3-8b", "8xl40s-pcie", "flash2-int4-sr", tp=2, input_tokens=64).assumptions
    assert not any("times as long" in sentence for sentence in (*plain, *priced))


def test_the_picture_is_of_todays_predictions(root: Path, tmp_path: Path) -> None:
    """Run `make picture`. The README says what is shaded."""
    picture: dict[str, Any] = runpy.run_path(str(root / "docs" / "picture.py"))
    picture["draw"](tmp_path / "ttft.svg")
    assert (tmp_path / "ttft.svg").read_bytes() == (root / "docs" / "ttft.svg").read_bytes()
    said = " ".join((root / "README.md").read_text("utf-8").split())
    assert f"more than {picture['USABLE'] * 100:g} % of perplexity" in said
    assert f"loses at most {picture['LOOKUPS'] * 100:g} points of look-ups" in said


# --- snippets ---


def test_the_output_of_the_readme_is_what_is_printed(pages: dict[str, str], capsys: Capture) -> None:
    """The verdict and the table of `thinwire compare`, to the letter."""
    (block,) = (block for block in blocks(pages["README.md"], "") if block.startswith("$ "))
    command, _, lines = block.replace("\\\n", "").removeprefix("$ ").partition("\n")
    status, out, err = run(capsys, *shlex.split(command)[1:])
    assert (status, err) == (0, "")
    shown = lines.splitlines()
    assert shown[0].startswith("Best buy: ") and any(line.startswith("-- more than") for line in shown)
    assert [line.rstrip() for line in out.splitlines()[: len(shown)]] == shown
    assert max(map(len, shown)) <= 80


def commands(pages: dict[str, str]) -> list[list[str]]:
    found = []
    for text in pages.values():
        for block in blocks(text, ""):
            for line in block.replace("\\\n", "").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                found += [words[1:]] if words[:1] == ["thinwire"] else []
    return found


def test_every_command_shown_is_understood(pages: dict[str, str]) -> None:
    """Names and options exist; what is slow, or needs files and models, is run by tests of its own."""
    shown = commands(pages)
    assert {words[0] for words in shown} == {*COMMANDS}
    for words in shown:
        group = typer.main.get_command(app)
        with group.make_context("thinwire", list(words), resilient_parsing=False) as context:
            name, command, rest = group.resolve_command(context, list(words))  # type: ignore[attr-defined]
            if hasattr(command, "list_commands"):
                assert rest[0] in command.list_commands(context), words
                continue
            command.make_context(name, list(rest), parent=context)


QUICK = ("predict", "compare", "collective", "schemes", "models", "clusters", "gpus", "cluster")


def test_quick_commands_shown_run(
    pages: dict[str, str], root: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "examples").symlink_to(root / "examples")
    monkeypatch.chdir(tmp_path)
    ran = 0
    for words in commands(pages):
        if words[0] in QUICK and "mine.toml" not in words:
            status, _, err = run(capsys, *words)
            assert status == 0, (words, err)
            ran += 1
    assert ran >= 12


def test_your_machine_from_dumps_to_an_answer(
    root: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of docs/your-machine.md: files are written, commands run in the order of the page."""
    page = (root / "docs" / "your-machine.md").read_text("utf-8")
    assert max(map(len, page.splitlines())) <= 120
    files = re.findall(r"<!-- file: (\S+) -->\n```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(files) == sum(kind == "text" for kind, _ in fenced) >= 3
    for name, text in files:
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    shown = [shlex.split(line)[1:] for kind, block in fenced for line in block.splitlines() if not kind and line]
    for words in shown:
        status, _, err = run(capsys, *words)
        assert status == 0, (words, err)
    assert [words[0] for words in shown].count("compare") >= 4 and (tmp_path / "machine.svg").read_text()[:4] == "<svg"
    assert (tmp_path / "machine.toml").read_text().count("peers.txt") == 2  # the last import had it
    document = json.loads((tmp_path / "my-fabric.json").read_text("utf-8"))
    assert document["fabric"]["name"] == "l40s-pcie+logs" and document["fabric"]["own"][0] == "nccl"
    asked = ("collective", "--cluster", "machine.toml", "--tp", "4", "--scheme", "nccl", "--bytes", "8388608", "--json")
    shares = [
        json.loads(run(capsys, *asked, *more)[1])["interval_another_host_share"]
        for more in ((), ("--profile", "my-fabric.json"))
    ]
    assert shares[0] > 0.5 and shares[1] == 0.0, "a log of one's own takes away what other hosts differ by"
    for link in re.findall(r"\]\(([^)#:]+)\)", page):
        assert (root / "docs" / link).exists(), link


def test_what_is_said_of_logs(root: Path) -> None:
    """Figures of docs/your-machine.md are those of the section "logs" of make validate."""
    from thinwire.validation.targets.logs import logs

    page = " ".join((root / "docs" / "your-machine.md").read_text("utf-8").split())
    found = {entry.key: entry.summary for entry in logs().entries}
    second, ranks, ops, none = (found[f"logs.{key}"] for key in ("second", "ranks", "ops", "none"))
    assert (
        f"within {second.median * 100:.1f} % in the median (90th percentile {second.percentile_90 * 100:.0f} %)" in page
    )
    assert (
        f"at {ranks.median * 100:.0f} and {ops.median * 100:.0f} % "
        f"({ranks.percentile_90 * 100:.0f} and {ops.percentile_90 * 100:.0f} %)"
    ) in page
    assert f"off by {none.median * 100:.0f} % ({none.percentile_90 * 100:.0f} %)" in page


def test_python_snippets_run(pages: dict[str, str], root: Path, tmp_path: Path) -> None:
    ran = 0
    for name, text in pages.items():
        for snippet in blocks(text, "python"):
            if PARALLEL in snippet:
                continue
            environment = {**os.environ, "PYTHONPATH": str(root / "src")}
            command = [sys.executable, "-c", snippet]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{name}: {done.stderr[-2000:]}"
            ran += 1
    assert ran >= 2


def test_links_lead_somewhere(pages: dict[str, str], root: Path) -> None:
    for name, text in pages.items():
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (root / name).parent.joinpath(link).resolve().exists(), f"{name}: {link}"


def test_make_targets_shown_exist(pages: dict[str, str], root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    for name, text in pages.items():
        shown = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
        assert shown <= targets, name
