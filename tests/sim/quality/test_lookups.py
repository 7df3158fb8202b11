"""Look-ups behind compressed prompts: read strictly, known by what a scheme does, beside `compare` and never in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thinwire.reference.catalog import scheme
from thinwire.sim import api
from thinwire.sim.quality import lookups
from thinwire.sim.quality.figures import figure
from thinwire.sim.quality.lookups import TASK, TOKENS, lookup

from ...command import Capture, run

ASKED = ("--model", "llama-3-8b", "--cluster", "8xl40s-pcie", "--tp", "4", "--input-tokens", "256")


def row(name: str, right: float, less: float, **more: Any) -> dict[str, Any]:
    return {
        "case": "x", "scheme": name, "tp": 4, "task": TASK, "prompt_tokens": TOKENS, "trials": 40,
        "exact": 0.8, "right": {"value": right, "interval": [0.1, 0.9]},
        "lost": {"value": less, "interval": [less - 0.1, min(1, less + 0.1)]}, **more,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [
        row("exact", 0.8, 0.0), row("flash-int4", 0.5, -0.3), row("flash-int8", 0.79, -0.01, trials=12),
        row("mxfp4", 0.1, -0.7, prompt_tokens=TOKENS + 1), {"case": "greedy", "scheme": "flash-int3"},
    ]  # fmt: skip
    (tmp_path / "prompt-tiny.json").write_text(json.dumps({"model": "tiny", "rows": rows}))
    monkeypatch.setattr(lookups, "TABLES", tmp_path)
    return tmp_path


def test_schemes_are_known_by_what_they_do(folder: Path) -> None:
    for name in ("flash-int4", "two_step:int4-g128-zp@fused"):
        found = lookup(scheme(name), 4)
        assert found is not None and (found.right, found.exact, found.lost, found.trials) == (0.5, 0.8, -0.3, 40)
    assert lookup(scheme("flash-int4"), 1) is None  # nothing is sent
    assert lookup(scheme("flash2-int4-hier"), 4, 1) == lookup(scheme("flash-int4"), 4)
    assert lookup(scheme("flash2-int4-hier"), 4, 2) is None
    for other in ("mxfp4", "flash-int3", "flash-int4+exempt-1", "flash-int4+exempt-last-1", "bf16"):
        assert lookup(scheme(other), 4) is None


def test_compare_shows_what_is_lost(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a column where prompts alone are compressed, and what was asked below; who loses too much is below a line."""
    asked = ("--schemes", "bf16,flash-int4,flash-int8,mxfp4", "--published", "none")
    monkeypatch.setenv("COLUMNS", "60")  # where look-ups are the last column
    status, out, _ = run(capsys, "compare", *ASKED, *asked)
    cells = {line[2:].split()[0]: line.split()[-1] for line in out.splitlines() if line[:2] in ("  ", "* ")}
    assert status == 0 and {name: cells[name] for name in ("bf16", "flash-int8", "flash-int4", "mxfp4")} == {
        "bf16": "0", "flash-int8": "-1", "flash-int4": "-30", "mxfp4": "?",
    }  # fmt: skip
    said = "uncompressed 80 are, on tiny at TP 4 (40 trials; of flash-int8 12); perplexity does not see them"
    assert said in " ".join(out.split())
    beyond, unknown = (out.index(words) for words in ("-- more than 5 %", "-- what they cost was not measured"))
    assert out.index("  flash-int8 ") < beyond < out.index("  flash-int4 ") < unknown < out.index("  mxfp4 ")
    every = run(capsys, "compare", *ASKED, "--schemes", "flash-int4", "--compress", "all")[1]
    assert "look-ups:" not in every
    rows = api.compare(["flash-int4", "mxfp4"], "llama-3-8b", "8xl40s-pcie", 4, input_tokens=256).to_dict()["rows"]
    found = {entry["scheme"]: entry["lookups"] for entry in rows}
    assert found["mxfp4"] is None and found["flash-int4"]["lost_interval"] == pytest.approx([-0.4, -0.2])


@pytest.mark.parametrize(
    "broken",
    [
        {"rows": [row("flash-int4", 0.5, -0.3)]},
        {"model": "tiny", "rows": [row("flash-int4", 0.5, -0.3, exact=None)]},  # nothing exact to hold it against
        {"model": "tiny", "rows": [row("exact", 1, 0), row("flash-int4", True, 0)]},
        {"model": "tiny", "rows": [row("exact", 1, 0), row("flash-int4", 2, 0)]},
        {"model": "tiny", "rows": [row("exact", 1, 0), row("flash-int4", 1, 0, lost={"value": 0})]},
        {"model": "tiny", "rows": [[]]},
        [],
    ],
)
def test_a_damaged_table_is_refused(folder: Path, broken: Any) -> None:
    (folder / "prompt-tiny.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=r"prompt-tiny\.json is no table of look-ups"):
        lookup(scheme("flash-int4"), 4)


def test_the_shipped_look_ups() -> None:
    """Fewer bits lose more; an interval holds its figure."""
    lost = []
    for name in ("quickreduce-fp8", "flash2-int5", "flash-int4", "flash-int3", "flash2-int2-sr"):
        found = lookup(scheme(name), 4)
        assert found is not None and found.lost_interval[0] <= found.lost <= found.lost_interval[1]
        lost.append(found.lost)
    assert lost == sorted(lost, reverse=True) and lost[0] > -0.02 and lost[-1] < -0.7


def test_overlap_changes_no_bits() -> None:
    """Perplexities of codecs with and without it agree to every digit, so look-ups of the codec alone are theirs."""
    for split, whole in (("iso-int8", "flash-int8"), ("flash-int4+iso", "flash-int4")):
        measured, alone = (figure(scheme(name), 4) for name in (split, whole))
        assert measured is not None and alone is not None
        assert measured.perplexity_ratio == alone.perplexity_ratio
        assert lookup(scheme(split), 4) == lookup(scheme(whole), 4) is not None
