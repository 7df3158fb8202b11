"""What people read, at every width: nothing is wider than the terminal, and what matters most is never left out."""

import json
import re
import shlex
import sys
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from thinwire.commands.tables.console import LEAST, MOST, PIPED, console, wrapped
from thinwire.commands.tables.fitting import GAP, Column, Fitted, _lines
from thinwire.edge.quantities import time_text
from thinwire.reference.catalog import schemes
from thinwire.sim import api
from thinwire.sim.api import Comparison
from thinwire.sim.question import Question
from thinwire.sim.verdict import standing

from ..command import Capture, run

PLACES = ((60, False), (80, False), (80, True), (100, True), (160, False), (160, True))  # widths, of a terminal or not
ASKED = (
    ("--model", "llama-3-70b", "--cluster", "8xl40s-pcie", "--tp", "4", "--batch", "8"),
    ("--model", "llama-3-8b", "--cluster", "8xh100-nvlink"),
    ("--model", "qwen3-30b-a3b", "--cluster", "2x8xh100-ib", "--attention", "dp"),
)
COMMANDS = (
    ("predict", "--model", "llama-3-70b", "--cluster", "8xl40s-pcie", "--scheme", "flash-int4", "--explain"),
    ("predict", "--model", "deepseek-v3", "--cluster", "8xh200-nvlink", "--scheme", "bf16", "--explain", "-v"),
    ("collective", "--cluster", "8xl40s-pcie", "--schemes", "bf16,flash-int4", "--bytes", "8388608"),
    ("collective", "--cluster", "8xl40s-pcie", "--scheme", "flash-int4", "--bytes", "8388608", "-v"),
    ("compare", "--workload", "cross-attention", "--cluster", "8xl40s-pcie", "--text-tokens", "64",
     "--visual-tokens", "4096"),
    ("schemes",), ("schemes", "-v"), ("models",), ("models", "-v"), ("clusters",), ("clusters", "-v"), ("gpus",),
    ("gpus", "-v"), ("cluster", "show", "8xl40s-pcie"), ("cluster", "show", "2x8xh100-ib"),
)  # fmt: skip
LONG = 40  # of what has no space and is longer nothing is said here: a link, a path


def printed(capsys: Capture, monkeypatch: pytest.MonkeyPatch, terminal: bool, width: int, *words: str) -> list[str]:
    """Lines without their colours; COLUMNS says how wide a terminal is, too."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    with monkeypatch.context() as patch:
        if terminal:
            patch.setattr(type(sys.stdout), "isatty", lambda _: True)
        status, out, _ = run(capsys, *words)
    assert status == 0
    return re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()


def narrow(lines: Sequence[str], width: int) -> None:
    for line in lines:
        assert cell_len(line) <= width or max(map(len, line.split())) > LONG, (width, line)


@cache
def found_of(asked: tuple[str, ...]) -> Comparison:
    options = {key.removeprefix("--"): value for key, value in zip(asked[::2], asked[1::2], strict=True)}
    numbers = {key: int(options.pop(key)) for key in ("tp", "batch") if key in options}
    question = Question(**options, **numbers)  # type: ignore[arg-type]
    return api.compare(api.schemes_for(question), question)


@pytest.mark.parametrize(("width", "terminal"), PLACES)
@pytest.mark.parametrize("asked", ASKED, ids=lambda words: words[1])
def test_compare_keeps_name_time_and_accuracy(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, terminal: bool, width: int, asked: tuple[str, ...]
) -> None:
    """Every scheme by its whole name, beside its time and what it costs, or named as the same as one that is."""
    lines = printed(capsys, monkeypatch, terminal, width, "compare", *asked)
    narrow(lines, width)
    head = next(line for line in lines if line.startswith("  scheme"))
    assert {"TTFT", "perplexity", "look-ups"} <= set(head.split())
    unit = head.split("TTFT ")[1].split()[0]
    seconds = {"s": 1.0, "ms": 1e-3}[unit]
    rows = {line[2:].split()[0]: line[2:].split() for line in lines[lines.index(head) :] if line[:2] in ("  ", "* ")}
    said = " ".join(" ".join(lines).split())
    for row in found_of(asked).rows:
        name = row.scheme.name
        if name not in rows:
            assert re.search(rf"(?:=|,) {re.escape(name)}(?:[;, ]|$)", said), f"{name} is nowhere"
            continue
        assert float(rows[name][1]) * seconds == pytest.approx(row.ttft_s, rel=0.1)
    assert said.startswith(("Best buy: ", "Nothing that is within the limit"))
    if width == PIPED:
        assert "90% interval" in head and "speed-up" in head
    if width == 160:
        assert {"exposed", "compute", "codec", "wire", "bits"} <= set(head.split())
        assert "no room for" not in said
    else:
        assert "no room for" in said


def test_rows_stand_by_who_is_usable(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usable soonest first with the best buy marked, then who costs too much, who is unknown, and the floor."""
    names = ["bf16", "none", "flash-int8", "flash-int4", "mxfp4", "nvfp4-two-shot", "quickreduce-int4"]
    asked = (*ASKED[0], "--schemes", ",".join(names))
    lines = printed(capsys, monkeypatch, False, 80, "compare", *asked)
    order = [line[2:].split()[0] for line in lines if line[:2] in ("  ", "* ") and line[2] != " "][1 : len(names) + 1]
    found = api.compare(names, "llama-3-70b", "8xl40s-pcie", tp=4, batch=8)
    ranks = ["usable", "beyond", "unknown", "cannot", "floor"]
    wanted = sorted(found.rows, key=lambda row: (ranks.index(standing(found, row)), row.ttft_s))
    assert order == [row.scheme.name for row in wanted] and order[-1] == "none"
    assert next(line.split()[1] for line in lines if line.startswith("* ")) == "flash-int8"
    loose = printed(capsys, monkeypatch, False, 80, "compare", *asked, "--max-lookups-lost", "30")
    assert next(i for i, line in enumerate(loose) if line.startswith("* flash-int4")) < next(
        i for i, line in enumerate(loose) if line.startswith("-- ")
    )
    strict = printed(capsys, monkeypatch, False, 80, "compare", *asked, "--max-perplexity", "1.01")
    assert any(line.startswith("* flash-int8") for line in strict)
    assert any("1 % more perplexity" in line and "points" in line for line in strict)


def test_the_document_of_compare_has_the_verdict(capsys: Capture) -> None:
    asked = (*ASKED[0], "--schemes", "bf16,none,flash-int8,flash-int4")
    found = json.loads(run(capsys, "compare", *asked, "--json")[1])
    assert list(found)[:2] == ["version", "command"] and found["best"] == "flash-int8"
    assert {row["scheme"]: row["standing"] for row in found["rows"]} == {
        "bf16": "usable", "none": "floor", "flash-int8": "usable", "flash-int4": "beyond",
    }  # fmt: skip
    assert found["verdict"].startswith("Best buy: flash-int8") and found["limit"]["perplexity_ratio"] == 1.05
    for each in (found, found["baseline"], *found["rows"]):
        assert len(each["assumptions"]) <= 10 and all(count > 0 for count in each["assumptions_left_out"].values())
    assert sum(found["assumptions_left_out"].values()) > 0
    every = json.loads(run(capsys, "compare", *asked, "--json", "-v")[1])
    assert len(every["assumptions"]) == 10 + sum(found["assumptions_left_out"].values())
    assert not every["assumptions_left_out"] and every["assumptions"][:10] == found["assumptions"]


@pytest.mark.parametrize(
    "limit", [("--max-perplexity", "0.5"), ("--max-lookups-lost", "-1"), ("--max-perplexity", "nan")]
)
def test_a_limit_that_is_none(capsys: Capture, limit: tuple[str, str]) -> None:
    status, out, err = run(capsys, "compare", *ASKED[0], "--schemes", "bf16", *limit)
    assert (status, out) == (2, "") and "the limit on" in err and err.count("\n") == 1


@pytest.mark.parametrize(("width", "terminal"), PLACES)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(w for w in words[:1] + words[-1:]))
def test_everything_fits(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, terminal: bool, width: int, command: tuple[str, ...]
) -> None:
    lines = printed(capsys, monkeypatch, terminal, width, *command)
    narrow(lines, width)
    said = " ".join(" ".join(lines).split())
    assert not re.search(r"\d[eE][+-]\d", said.replace("e4m3", "").replace("e2m1", "").replace("e2m3", "")), "no 1e+04"
    if command[0] in ("schemes", "models", "clusters", "gpus"):
        first = {line.split()[0] for line in lines if line.split()}
        assert set(api.names(command[0])) <= first


def test_piped_it_is_80_columns_whatever_there_is_elsewhere(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console.width == PIPED
    for given_width, found in (("200", 200), ("20", LEAST), ("9999", MOST), ("wide", PIPED), ("-5", PIPED)):
        monkeypatch.setenv("COLUMNS", given_width)
        assert console.width == found
    monkeypatch.delenv("COLUMNS")
    _, out, _ = run(capsys, "compare", *ASKED[0], "--schemes", "bf16,flash-int4")
    narrow(out.splitlines(), 80)
    assert "\x1b[" not in out, "no colours in a pipe"


def test_headings_say_no_path(capsys: Capture, tmp_path: Path, root: Path) -> None:
    """A machine and a model of one's own are called by their names."""
    machine, model = tmp_path / "mine.toml", tmp_path / "own" / "config.json"
    machine.write_text((root / "topologies" / "machines" / "8xl40s-pcie.toml").read_text())
    model.parent.mkdir()
    model.write_text((root / "reference" / "models" / "llama-3-8b.json").read_text())
    asked = ("--model", str(model), "--cluster", str(machine), "--tp", "4")
    for command in (("compare", *asked, "--schemes", "bf16"), ("predict", *asked, "--scheme", "bf16", "--explain")):
        status, out, _ = run(capsys, *command)
        assert status == 0 and str(tmp_path) not in out


def test_schemes_and_scheme_are_the_same(capsys: Capture) -> None:
    """Of predict, compare and collective; predict takes one and says who takes several."""
    place = ("--cluster", "8xl40s-pcie", "--tp", "4")
    for command in (("predict", "--model", "llama-3-8b", *place), ("compare", "--model", "llama-3-8b", *place),
                    ("collective", "--bytes", "1048576", *place)):  # fmt: skip
        found = [json.loads(run(capsys, *command, option, "flash-int4", "--json")[1]) for option in
                 ("--scheme", "--schemes")]  # fmt: skip
        assert found[0] == found[1]
    status, out, err = run(capsys, "predict", "--model", "llama-3-8b", *place, "--schemes", "bf16,flash-int4")
    assert (status, out) == (2, "") and "thinwire compare" in err and err.count("\n") == 1
    several = json.loads(run(capsys, "collective", "--bytes", "1048576", *place, "--scheme", "bf16,none", "--json")[1])
    assert [row["scheme"] for row in several["rows"]] == ["bf16", "none"]
    assert all(len(row["assumptions"]) <= 10 for row in several["rows"])


def test_the_command_of_a_document_gives_it_again(capsys: Capture) -> None:
    for words in (
        ("predict", "--model", "llama-3-8b", "--cluster", "8xl40s-pcie", "--scheme", "flash-int4", "--scale-link",
         "gpu0->*=0.5", "--tp", "2"),
        ("compare", *ASKED[0], "--schemes", "bf16,flash-int4", "--baseline", "nccl", "--compress", "all",
         "--max-perplexity", "1.2"),
        ("compare", "--workload", "cross-attention", "--cluster", "8xl40s-pcie", "--text-tokens", "64",
         "--visual-tokens", "4096", "--schemes", "lv-xattn"),
        ("collective", "--cluster", "8xl40s-pcie", "--schemes", "bf16,none", "--bytes", "4096", "--scale-link",
         "*=0.5"),
        ("models",), ("cluster", "show", "8xl40s-pcie"),
    ):  # fmt: skip
        first = json.loads(run(capsys, *words, "--json")[1])
        program, *again = shlex.split(first["command"])
        assert program == "thinwire" and first["version"]
        assert json.loads(run(capsys, *again, "--json")[1]) == first


def test_what_matters_is_said_first(capsys: Capture) -> None:
    """The widest parts of the interval, with their share; the others are counted by class."""
    words = ("predict", "--model", "llama-3-8b", "--cluster", "8xl40s-pcie", "--scheme", "flash-int8")
    _, out, _ = run(capsys, *words)
    rests = out.partition("Rests on\n")[2]
    shares = [int(share) for share in re.findall(r"\[(\d+) %\s+of\s+the\s+interval\]", rests)]
    assert 1 <= len(shares) <= 3 and shares == sorted(shares, reverse=True)
    assert re.search(r"and \d+ more \(.*\): --verbose", " ".join(rests.split()))
    _, whole, _ = run(capsys, *words, "-v")
    assert "--verbose" not in whole and "how it is counted:" in whole
    took = json.loads(run(capsys, *words, "--json")[1])
    low_ms, high_ms = took["ttft_ms_interval"]
    assert out.startswith(f"First token after {time_text(took['ttft_ms'] / 1e3, low_ms / 1e3, high_ms / 1e3)} with ")


@pytest.mark.parametrize("scheme", ["bf16", "flash-int8", "iso-int8"])
def test_parts_of_a_prediction_add_up_as_shown(capsys: Capture, scheme: str) -> None:
    """Compute, exposed and waiting to the TTFT in the first line; wire and codec to what is exposed, unless hidden."""
    words = ("predict", "--model", "qwen2.5-32b", "--cluster", "8xl40s-pcie", "--tp", "4", "--scheme", scheme,
             "--slow-rank", "1=1.1")  # fmt: skip
    out = run(capsys, *words)[1]
    (total,) = re.findall(r"^First token after ([\d.]+) ", out)
    rows = dict(re.findall(r"^ *([a-z][a-z, ]+?)  +([\d.]+) ", out, re.MULTILINE))
    shown = {name.split()[0].rstrip(","): float(value) for name, value in rows.items()}
    assert shown["compute"] + shown["exposed"] + shown["waiting"] == pytest.approx(float(total))
    assert shown["exposed"] <= shown["wire"] + shown["codec"] + 1e-9
    if "iso" not in scheme:
        assert shown["exposed"] == pytest.approx(shown["wire"] + shown["codec"])


# ---- the table itself


CELLS = st.text(st.sampled_from("abc -12.%"), max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(60, 200),
    st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.booleans()), min_size=1, max_size=8),
    st.data(),
)
def test_any_table_fits(width: int, columns: list[tuple[bool, int, bool]], data: st.DataObject) -> None:
    """Columns of rank 0 stay, the others go by rank; what is left over fits unless what stays cannot."""
    table = Fitted([Column(f"c{at}", rank, left, wraps) for at, (left, rank, wraps) in enumerate(columns)])
    for _ in range(data.draw(st.integers(1, 4))):
        table.add(*(data.draw(CELLS) for _ in columns))
    widths, left = table.fit(width)
    filled = [at for at in range(len(columns)) if any(row.cells[at] for row in table.rows)]
    assert all(at in widths for at in filled if columns[at][1] == 0)
    assert len(widths) + len(left) == len(filled)
    gone = [columns[int(name[1:])][1] for name in left]
    assert all(rank for rank in gone)
    if gone:
        stay = [columns[at][1] for at in widths if columns[at][1]]
        assert max(stay, default=0) <= min(gone)
    total = sum(widths.values()) + GAP * (len(widths) - 1)
    least = sum(min(8, wide) for wide in widths.values()) + GAP * (len(widths) - 1)
    assert total <= max(width, least)


@given(st.text(st.sampled_from("abcde -x"), max_size=60), st.integers(4, 30))
def test_nothing_is_lost_in_lines(cell: str, width: int) -> None:
    lines = _lines(cell, width)
    assert all(len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(cell.split())


def test_a_name_longer_than_the_line_is_written_on_several(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    spec = "two_step:int4-g32-min/int8-g128-sym@chunk=1048576x2@fused"
    _, out, _ = run(capsys, "compare", *ASKED[0], "--schemes", f"{spec},bf16")
    narrow(out.splitlines(), 60)
    assert "no room for" in out
    head, *table = out[out.index("  scheme") : out.index("no room for")].splitlines()
    assert spec in "".join(line[2 : head.index("TTFT")].strip() for line in table)


def test_every_scheme_of_the_catalog_has_a_line(capsys: Capture) -> None:
    _, out, _ = run(capsys, "schemes")
    assert {line.split()[0] for line in out.splitlines() if line.split()} >= set(schemes())


WORDS = st.sampled_from(["a", "of", "c-d", "模型机器", "é", "x" * 90, "模" * 50, "日本 ", "  "])


@given(st.lists(WORDS, max_size=20).map(" ".join), st.integers(20, 90), st.integers(0, 4))
def test_prose_is_as_wide_as_the_screen_in_cells(text: str, width: int, indent: int) -> None:
    """A Chinese character is two cells. Nothing is lost, and a line ends only where the next word has no room."""
    lines = wrapped(text, width, indent)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
    for line, after in pairwise(lines):
        assert after.startswith(" " * indent)
        assert cell_len(f"{line} {after.split()[0]}") > width or cell_len(after.split()[0]) > width - indent - 2


def test_links_and_paths_are_not_folded() -> None:
    link = "https://example.org/" + "x" * 90
    assert wrapped(f"see {link} there", 60, 2) == ["see", f"  {link}", "  there"]
    assert wrapped("", 60) == [""] and wrapped("- one\ntwo", 60) == ["- one two"]


@pytest.mark.parametrize("name", ["模型机器 " * 6, "模型机器" * 20, "n" * 300], ids=["words", "wide", "long"])
def test_names_of_any_script_and_length_are_within_the_screen(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Of a machine's file: what a user calls his machine is his."""
    text = (Path(__file__).parents[2] / "examples" / "my-machine.toml").read_text(encoding="utf-8")
    machine = tmp_path / "m.toml"
    machine.write_text(text.replace('name = "my-machine"', f'name = "{name}"'), encoding="utf-8")
    asked = ("--model", "llama-3-8b", "--cluster", str(machine), "--tp", "2")
    for words in (("predict", *asked, "--scheme", "flash-int4"), ("compare", *asked, "--schemes", "bf16,flash-int4")):
        lines = printed(capsys, monkeypatch, True, 60, *words)
        assert name[:6] in " ".join(lines)
        assert [line for line in lines if cell_len(line) > 60] == []
