"""Pictures and tables of exact numbers are what the catalog, the schedules and today's predictions make of them."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from thinwire.reference.catalog import scheme, schemes
from thinwire.reference.core.cross_schedule import Wire, crossover_visual_tokens
from thinwire.reference.core.schedule import build
from thinwire.reference.families.config import load_model
from thinwire.sim.cross.workload import CrossModel, CrossPrompt

from .pages import ROOT, text_of

pytest.importorskip("matplotlib", reason="the README's picture is drawn with it")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that `make pictures` writes, written anew."""
    folder = tmp_path_factory.mktemp("pictures")
    command = [sys.executable, str(ROOT / "docs" / "pictures" / "draw.py"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_pictures_and_tables_are_todays(drawn: Path) -> None:
    """Run `make pictures`, look at what changed, and commit it."""
    made = sorted(path.relative_to(drawn).as_posix() for path in drawn.rglob("*") if path.is_file())
    stale = [name for name in made if (drawn / name).read_bytes() != (ROOT / "docs" / name).read_bytes()]
    assert not stale
    pictures = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / "schemes").glob("*.svg")}
    assert pictures == {name for name in made if name.endswith(".svg")} - {"ttft.svg"}
    for name in pictures:
        page = name.rpartition("-")[0]
        assert f"]({name.removeprefix('schemes/')})" in text_of(f"docs/{page}.md"), f"{name} stands on no page"


def test_every_scheme_of_the_catalog_has_its_page() -> None:
    text = "".join(path.read_text("utf-8") for path in (ROOT / "docs" / "schemes").glob("*.md"))
    families = ("b12x-int8-", "b12x-mxfp8-", "nvfp4-", "vllm-symm-")  # one row stands for three ways, or one for two
    for name in schemes():
        assert f"`{name}`" in text or name.startswith(families) or "+" in name or name in ("sglang-ipc",), name


def test_the_readmes_picture_says_what_is_shaded() -> None:
    picture: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "picture.py"))
    said = " ".join(text_of("README.md").split())
    assert f"more than {picture['USABLE'] * 100:g} % of perplexity" in said
    assert f"loses at most {picture['LOOKUPS'] * 100:g} points of look-ups" in said


def test_what_the_page_on_islands_counts() -> None:
    """12 of 20 messages of the picture stay within an island."""
    (lane,) = build(scheme("flash2-int4-hier"), 4, 1 << 19, ((0, 1), (2, 3))).lanes
    sent = [transfer for step in lane.steps for transfer in step.transfers]
    within = sum(transfer.source // 2 == transfer.destination // 2 for transfer in sent)
    assert f"here {within} of {len(sent)} messages stay within an island" in " ".join(
        text_of("docs/schemes/hierarchical.md").split()
    )


def test_what_the_page_on_dropping_says() -> None:
    """Half of the blocks, as `make spd` measured them: the last ones, chosen, and chosen and trained."""
    rows = json.loads((ROOT / "validation" / "raw" / "spd-smollm2-135m.json").read_text("utf-8"))["rows"]
    half = {row["blocks"]: row["perplexity_ratio"] for row in rows if row["percent"] == 50}
    said = " ".join(text_of("docs/schemes/spd.md").split())
    figures = [f"{half[name]:.2f}" for name in ("last", "progressive", "prepared")]
    assert "by {}; blocks chosen by their sensitivity by {}, and trained by {}".format(*figures) in said


def test_from_how_many_visual_tokens_on() -> None:
    """About four for each text token, by the heads of llama-3-8b."""
    shape = CrossModel(load_model("llama-3-8b"), 1).shape(CrossPrompt(1, 1024, 4096), 16)
    assert round(crossover_visual_tokens(shape, Wire()) / 1024) == 4
    assert "about four visual tokens a text token" in " ".join(text_of("docs/schemes/cross-attention.md").split())
