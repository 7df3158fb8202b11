"""A report: one file that carries a grid of predictions, all that it runs, and nothing of the machine that made it."""

import base64
import gzip
import hashlib
import json
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vl_convert", reason="a report's charting library is the extra ui")

import thinwire
from thinwire.page import answers, assets, report
from thinwire.page.documents import Grid

from ..command import Capture, run
from .desks import SMALL, desk, small


@cache
def made() -> tuple[str, Grid, dict[str, list[float]]]:
    axes = report.axes_of(small(), points=12)
    html, grid = report.page(desk(), small(), axes, planned=False)
    return html, grid, axes


def start_of(html: str) -> Any:
    return json.loads(html.partition('id="thinwire-data">')[2].partition("</script>")[0])


def unpacked(html: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(start_of(html)["grid"])))


def test_axes_keep_the_states_own_place_and_its_neighbours() -> None:
    for points in (1, 2, 12, 60, 280, 2000):
        for state in (small(), small(batch=3, input_tokens=1000, link=0.7), small(batch=5000, link=0.01)):
            axes = report.axes_of(state, points)
            assert len(axes["batch"]) * len(axes["input_tokens"]) * len(axes["link"]) <= max(points, 1)
            assert state.question.batch in axes["batch"] and state.link in axes["link"]
            assert state.question.input_tokens in axes["input_tokens"]
            assert all(values == sorted(set(values)) for values in axes.values())
    for points, moved in (
        (4, ["input_tokens"]),
        (9, ["input_tokens", "link"]),
        (27, ["batch", "input_tokens", "link"]),
    ):
        axes = report.axes_of(small(), points)  # few points: whoever has some shows both ways
        own = {"batch": 2.0, "input_tokens": 512.0, "link": 1.0}
        assert [name for name in own if len(axes[name]) > 1] == moved
        assert all(axes[name][0] < own[name] < axes[name][-1] for name in moved)
    assert report.axes_of(small(), 1) == {"batch": [2.0], "input_tokens": [512.0], "link": [1.0]}


def test_the_grid_is_predictions_computed_anew() -> None:
    html, grid, axes = made()
    carried = unpacked(html)
    assert carried["axes"] == axes and carried["answers"].keys() == grid["answers"].keys()
    assert carried["start"] == [
        axes[name].index(value) for name, value in (("batch", 2), ("input_tokens", 512), ("link", 1))
    ]
    sampled = list(carried["answers"])[:: max(1, len(carried["answers"]) // 4)]
    for key in sampled:
        i, j, k = map(int, key.split(","))
        where = {"batch": int(axes["batch"][i]), "input_tokens": int(axes["input_tokens"][j])}
        for row in carried["answers"][key]["rows"]:
            found = thinwire.predict(
                "llama-3-8b", "8xl40s-pcie", row["scheme"], 4, **where, scaled_links={"*": axes["link"][k]}
            )
            assert row["ttft_ms"] == pytest.approx(found.ttft_s * 1e3, rel=1e-5)
            assert row["interval_ms"][1] == pytest.approx(found.interval.high_s * 1e3, rel=1e-5)
        assert carried["answers"][key]["state"]["batch"] == str(where["batch"])


def test_curves_of_the_grid_pass_through_its_answers() -> None:
    _, grid, axes = made()
    for key, curve in grid["curves"].items():
        axis, _, rest = key.partition(":")
        if axis == "tp":
            assert [int(x) for x in rest.split(",")] == grid["start"]
            continue
        a, b = rest.split(",")
        for series in curve["series"]:
            for place, ttft_ms in enumerate(series["ttft_ms"]):
                point = f"{a},{place},{b}" if axis == "input_tokens" else f"{a},{b},{place}"
                rows = {row["scheme"]: row["ttft_ms"] for row in grid["answers"][point]["rows"]}
                assert ttft_ms == rows[series["scheme"]]
        assert curve["x"] == axes[axis]
    assert {key.partition(":")[0] for key in grid["curves"]} == {"input_tokens", "link", "tp"}


def test_details_are_of_every_scheme_at_the_state_asked_for() -> None:
    _, grid, _ = made()
    first = answers.answer(desk(), report.with_best(desk(), small()))
    assert set(grid["details"]) == {row["scheme"] for row in first["rows"]}
    assert grid["details"]["flash-int4"] == first["detail"]
    assert all(one["at"]["scheme"] == name for name, one in grid["details"].items())


def test_a_point_that_cannot_be_says_why() -> None:

    state = small(tp=1)
    axes = {"batch": [2.0, 64.0], "input_tokens": [512.0, 65536.0], "link": [1.0]}
    grid = report.grid(desk(), state, axes, planned=False)
    assert set(grid["refused"]) == {"1,1,0"} and "does not fit 1 x l40s" in grid["refused"]["1,1,0"]
    assert set(grid["answers"]) == {"0,0,0", "0,1,0", "1,0,0"}
    assert grid["curves"]["input_tokens:1,0"]["series"][0]["ttft_ms"][1] is None


def test_the_file_is_small_and_whole() -> None:
    html, grid, _ = made()
    assert len(html.encode()) < 3_000_000
    assert start_of(html)["mode"] == "report"
    without = assets.whole(start_of(html), with_library=False)
    assert len(without.encode()) < 500_000 and assets.library()[:1000] not in without
    per_point = len(base64.b64decode(start_of(html)["grid"])) / len(grid["answers"])
    assert per_point * 180 * 4 / 3 < 400_000, "a report of the usual 180 points stays below 500 kB without the library"


def test_it_names_nothing_outside_itself_and_runs_only_what_is_in_it() -> None:
    html, _, _ = made()
    ours = html.replace(assets.library(), "")
    assert not re.search(r"""<(script|img|iframe|object|embed)[^>]*\ssrc=["'](?!data:)""", ours)
    assert not re.search(r"<link[^>]*stylesheet", ours) and "@import" not in ours
    policy = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert len(policy) == 1 and "default-src 'none'" in policy[0] and "unsafe-eval" not in policy[0]
    assert "connect-src" not in policy[0], "default-src forbids it"
    scripts = re.findall(r'<script type="module">(.*?)</script>', html, re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[0]
    assert not re.search(r"^(import|export) ", scripts[-1], re.MULTILINE), "modules are one"


def test_modules_together_define_each_name_once() -> None:
    """Their imports are taken away when they are put into one: two that use a name for different things would clash."""
    names = re.findall(
        r"^(?:export )?(?:async )?(?:const|let|function|class)\*? +([\w$]+)", assets.script(), re.MULTILINE
    )
    assert len(names) == len(set(names)) and len(names) > 20


def test_modules_import_what_they_use_of_each_other() -> None:
    """In a report they are one, and a name is there without; on the server each has its own."""
    texts = {name: assets.own(name) for name in assets.names() if name.endswith(".js")}
    exported = {
        name: set(re.findall(r"^export (?:async )?(?:const|let|function|class)\*? +([A-Za-z]\w*)", text, re.MULTILINE))
        for name, text in texts.items()
    }
    assert sum(map(len, exported.values())) > 30
    for name, text in texts.items():
        code = re.sub(r"//.*|/\*.*?\*/", "", text)
        imported = set(
            re.findall(r"\b[A-Za-z]\w*", " ".join(re.findall(r"^import \{(.*?)\}", code, re.MULTILINE | re.DOTALL)))
        )
        for other, names in exported.items():
            for each in names - imported if other != name else ():
                used = rf"(?<![\w$.'\"]){re.escape(each)}" + (r"(?![\w$:'\"])" if each.isupper() else r"\(")
                own = rf"(?:const|let|function) +{re.escape(each)}\b|[({{,] *{re.escape(each)} *[,)}}]"
                assert not re.search(used, code) or re.search(own, code), f"{name} uses {each} of {other}"
        missing = imported - set().union(*exported.values())
        assert not missing, f"{name} imports {missing}, which nobody exports"


def test_no_path_of_this_machine_is_in_it(root: Path) -> None:
    html, _, _ = made()
    texts = [html.replace(assets.library(), ""), json.dumps(unpacked(html))]
    for text in texts:
        for path in (str(root), f"{Path.home()}/", "/tmp/", "site-packages", sys.prefix):
            assert path not in text
    assert str(root) not in assets.library()


def test_the_command_writes_it_whole_or_not_at_all(capsys: Capture, tmp_path: Path, root: Path) -> None:
    machine = tmp_path / "a <script> of mine.toml"
    text = (root / "examples" / "my-machine.toml").read_text("utf-8")
    machine.write_text(
        re.sub(r'^name = ".*"$', 'name = "<script>alert(1)</script>"', text, flags=re.MULTILINE), "utf-8"
    )
    out = tmp_path / "r.html"
    words = ["report", "--model", "llama-3-8b", "--cluster", str(machine), "--tp", "2", "--points", "2", "--no-loads"]
    status, said, err = run(capsys, *words, "--no-library", "--out", str(out), "--json")
    assert status == 0, err
    document = json.loads(said)
    html = out.read_text("utf-8")
    assert start_of(html)["state"]["batch"] == "1" and start_of(html)["state"]["scheme"] == "bf16", "as --help says"
    assert document["command"].split()[:4] == ["thinwire", "report", "--model", "llama-3-8b"]
    assert document["command"].endswith("--no-library --no-loads") and document["version"]
    assert document["bytes"] == len(html.encode()) < 500_000 and document["points"] == 2
    assert "<script>alert" not in html
    carried = unpacked(html)
    assert carried["answers"]["0,0,0"]["machine"] == "<script>alert(1)</script>"
    offered = start_of(html)["options"]["machines"]
    assert [each["name"] for each in offered] == [start_of(html)["state"]["cluster"]]
    assert offered[0]["label"].startswith("<script>alert(1)</script>: ")
    assert str(tmp_path) not in html and str(tmp_path) not in json.dumps(carried)
    before = out.read_bytes()
    status, _, err = run(capsys, *words, "--batch", "0", "--out", str(out))
    assert status == 2 and out.read_bytes() == before
    status, _, err = run(capsys, *words, "--out", str(tmp_path / "no" / "r.html"))
    assert status == 2 and err.count("\n") == 1 and "cannot write the report" in err and "there is no folder" in err
    status, _, err = run(capsys, *words, "--out", str(tmp_path))
    assert status == 2 and err.count("\n") == 1 and "that is a folder" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([machine.name, "r.html"])


def test_where_it_is_written_is_looked_at_before_it_is_computed(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "page", lambda *_, **__: pytest.fail("computed"))
    for out in (tmp_path, tmp_path / "no" / "r.html"):
        status, _, err = run(capsys, "report", "--model", "llama-3-8b", "--cluster", "8xl40s-pcie", "--out", str(out))
        assert status == 2 and "cannot write the report" in err
    report.check_out("/dev/null")
    report.check_out(tmp_path / "r.html")


def test_the_same_report_is_the_same_bytes() -> None:
    _, grid, _ = made()
    assert report.packed(report.rounded(grid)) == report.packed(report.rounded(grid))
    assert report.rounded({"a": [1.23456789, 5, "x", None, True]}) == {"a": [1.23457, 5, "x", None, True]}
    assert SMALL["model"] == "llama-3-8b"
