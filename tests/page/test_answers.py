"""The page's documents say what the Python face says, and add up."""

import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import thinwire
from thinwire.page import answers, defaults
from thinwire.page.desk import Desk, Memory
from thinwire.page.drops import drop
from thinwire.page.loads import serve
from thinwire.page.plans import plan
from thinwire.page.state import read
from thinwire.sim import verdict

from ..command import Capture, run
from .desks import desk, small

WHERE: dict[str, Any] = {"model": "llama-3-8b", "cluster": "8xl40s-pcie", "tp": 4, "batch": 2, "input_tokens": 512}


def test_rows_are_those_of_a_comparison() -> None:
    found = answers.answer(desk(), small(link=0.5, max_perplexity=1.01, max_lookups_lost=1))
    names = [row["scheme"] for row in found["rows"]]
    expected = thinwire.compare(names, **WHERE, scaled_links={"*": 0.5})
    limit = verdict.Limit(1.01, 1.0)
    assert names == [row.scheme.name for row in expected.rows]
    assert found["verdict"].startswith(f"{verdict.verdict(expected, limit)} Compared: {len(names)} of the ")
    best = verdict.best(expected, limit)
    for row, other in zip(found["rows"], expected.rows, strict=True):
        assert row["ttft_ms"] == pytest.approx(other.ttft_s * 1e3, rel=1e-12)
        assert row["interval_ms"] == pytest.approx([other.interval.low_s * 1e3, other.interval.high_s * 1e3])
        assert row["speedup"] == pytest.approx(expected.speedup(other))
        assert row["standing"] == verdict.standing(expected, other, limit)
        assert row["best"] == (best is not None and other.scheme == best.scheme)
        assert row["chosen"] == (row["scheme"] == "flash-int4")
        parts = row["compute_ms"] + row["codec_ms"] + row["wire_ms"] + row["waiting_ms"]
        assert parts == pytest.approx(row["ttft_ms"], rel=1e-9)
        if other.scheme.sequence_split is None and row["scheme"] != "none":  # nothing is hidden
            assert row["codec_ms"] == pytest.approx(other.breakdown.codec_s * 1e3)
            assert row["wire_ms"] == pytest.approx(other.breakdown.communication_s * 1e3)
    assert {"usable", "floor", "beyond"} <= {row["standing"] for row in found["rows"]}
    assert sum(row["best"] for row in found["rows"]) == 1


def test_the_usual_limit_is_everybodys() -> None:
    assert verdict.Limit() == verdict.Limit(defaults.MAX_PERPLEXITY, defaults.MAX_LOOKUPS_LOST)
    assert read("").max_perplexity == verdict.Limit().perplexity
    asked = answers.answer(desk(), small(max_lookups_lost=30))
    assert next(row for row in asked["rows"] if row["scheme"] == "flash-int4")["standing"] == "usable"
    assert "--max-lookups-lost 30" in asked["command"]


def test_everything_is_the_catalog_that_means_something_here() -> None:
    found = answers.answer(desk(), small(), everything=True)
    assert len(found["rows"]) > 40
    assert found["verdict"].endswith(f"Compared: all {len(found['rows'])} schemes that apply here.")
    able = {row["scheme"] for row in found["rows"] if row["ttft_ms"] is not None}
    words = shlex.split(found["command"])
    assert set(words[words.index("--schemes") + 1].split(",")) == able and all(repr(x) in found["python"] for x in able)
    assert {row["standing"] for row in found["rows"]} <= {"usable", "floor", "beyond", "unknown", "cannot"}


def test_a_scheme_that_cannot_run_is_a_row_that_says_why() -> None:
    found = answers.answer(desk(), small(), everything=True)
    assert all(row["why"] for row in found["rows"] if row["standing"] in ("cannot", "unknown", "beyond", "floor"))
    with pytest.raises(ValueError, match="unknown scheme 'flash-int44'"):
        answers.answer(desk(), read("scheme=flash-int44"))
    with pytest.raises(ValueError, match="does not fit 1 x l40s"):
        answers.answer(desk(), read("model=llama-3-70b&tp=1"))


def test_a_layer_is_as_long_as_what_happens_in_it() -> None:
    timeline = answers.detail(desk(), small())["timeline"]
    bars = timeline["bars"]
    assert {bar["rank"] for bar in bars} == {0, 1, 2, 3}
    assert {bar["kind"] for bar in bars} == {"compute", "codec", "wire"}
    for rank in range(4):
        mine = sorted((b["start_us"], b["end_us"]) for b in bars if b["rank"] == rank)
        assert mine[0][0] == 0
        assert mine[-1][1] == pytest.approx(timeline["layer_us"])
        for (_, end), (start, _) in pairwise(mine):  # nothing overlaps where nothing is split
            assert start == pytest.approx(end, abs=1e-3)
    found = thinwire.predict(**WHERE, scheme="flash-int4")
    mine = [b for b in bars if b["rank"] == 0]
    codec_s = sum(b["end_us"] - b["start_us"] for b in mine if b["kind"] == "codec") / 1e6
    assert codec_s * found.model.num_layers == pytest.approx(found.breakdown.codec_s, rel=0.01)
    layers_s = timeline["layer_us"] / 1e6 * found.model.num_layers
    assert layers_s == pytest.approx(found.ttft_s, rel=0.05)  # the head and the embedding are the rest


def test_layers_of_split_sequences_and_without_exchanges_are_drawn_too() -> None:
    split = answers.detail(desk(), small(scheme="iso-int8"))["timeline"]
    assert {b["kind"] for b in split["bars"]} >= {"compute", "codec", "wire"}
    assert all(b["end_us"] >= b["start_us"] >= 0 for b in split["bars"])
    whole = answers.detail(desk(), small(scheme="none"))["timeline"]
    assert {b["kind"] for b in whole["bars"]} == {"compute"}


@pytest.mark.parametrize("cluster", ["8xl40s-pcie", "8xh100-nvlink", "8xmi300x-xgmi", "2x8xh100-ib"])
def test_a_machine_is_drawn_with_a_place_for_every_end(cluster: str) -> None:
    state = read(f"model=llama-3-8b&cluster={cluster}&scheme=flash-int4&batch=2&input_tokens=512")
    found = answers.detail(desk(), state)["drawing"]
    names = {node["name"] for node in found["nodes"]}
    places = [(round(node["x"], 3), round(node["y"], 3)) for node in found["nodes"]]
    assert len(set(places)) == len(places)
    assert all(0 <= x <= found["width"] and 0 <= y <= found["height"] for x, y in places)
    assert {end for link in found["links"] for end in (link["source"], link["target"])} <= names
    assert sum(node["rank"] is not None for node in found["nodes"]) == len(desk().machine(cluster).gpus)
    assert any(link["utilisation"] > 0 for link in found["links"])
    sent = desk().predicted(state, "flash-int4").traffic.link_bytes
    assert sum(link["mb"] for link in found["links"]) <= sum(sent.values()) / 1e6 * (1 + 1e-9)


def test_the_lines_given_say_the_same(capsys: Capture) -> None:
    found = answers.answer(desk(), small(link=0.5))
    words = shlex.split(found["command"])
    assert words[0] == "thinwire"
    status, out, err = run(capsys, *words[1:], "--json")
    assert status == 0, err
    by_name = {row["scheme"]: row["ttft_ms"] for row in json.loads(out)["rows"]}
    assert by_name == {row["scheme"]: pytest.approx(row["ttft_ms"]) for row in found["rows"]}
    scope: dict[str, Any] = {}
    lines = answers.python("predict", small(link=0.5), desk()).rpartition("; ")
    exec(f"{lines[0]}\nfound = {lines[2]}", scope)
    chosen = next(row for row in found["rows"] if row["chosen"])
    assert scope["found"].ttft_s * 1e3 == pytest.approx(chosen["ttft_ms"])


def test_lines_name_the_files_of_whoever_dropped_them(root: Path) -> None:
    dropped = drop(desk(), "mine.toml", (root / "examples" / "my-machine.toml").read_bytes(), small())
    model = drop(desk(), "config.json", (root / "reference" / "models" / "llama-3-8b.json").read_bytes(), small())
    state = small(
        model=model["value"], cluster=dropped["value"], price=f"{dropped['value']}:0.5", output_tokens=16, rate=1
    )
    found, planned = answers.answer(desk(), state), plan(desk(), state)
    for text in (found["command"], found["python"], found["detail"]["command"], serve(desk(), state)["command"]):
        assert "config.json" in text and "my-machine.toml" in text
    assert planned["deployments"][0]["machine"] == "my-machine" and 'model = "config.json"' in planned["file"]
    everything = json.dumps([found["rows"], found["detail"], planned["file"], planned["deployments"]])
    assert str(desk().folder) not in everything and "drop:" not in everything.replace(
        json.dumps(found["detail"]["at"]), ""
    )


def test_memory_keeps_the_last_and_refusals_too() -> None:
    made = list[int]()

    def make(value: int) -> int:
        made.append(value)
        if value < 0:
            raise ValueError("below nothing")
        return value

    memory = Memory(2)
    for value in (1, 2, 1, 3, 1, 2):
        assert memory.get(value, lambda value=value: make(value)) == value  # type: ignore[misc]
    assert made == [1, 2, 3, 2]
    for _ in range(2):
        with pytest.raises(ValueError, match="below nothing"):
            memory.get("x", lambda: make(-1))
    assert made == [1, 2, 3, 2, -1]


def test_what_was_dropped_goes_when_there_is_too_much() -> None:
    here = Desk()
    first = here.keep(desk().model("llama-3-8b"), here.new_folder() / "model.json")
    folder = here.path(first).parent
    assert folder.is_dir()
    for _ in range(32):
        here.keep(desk().model("llama-3-8b"), here.new_folder() / "model.json")
    assert not folder.exists()
    with pytest.raises(ValueError, match="drop the file again"):
        here.model(first)
    here.close()
    assert not here.folder.exists()
