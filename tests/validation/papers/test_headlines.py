"""The facts: strict, complete, and equal to the tables they quote."""

import re
from pathlib import Path
from typing import Any

import pytest

from thinwire.edge.reading import from_toml
from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.sim.cross.workload import METHODS
from thinwire.topologies.load import load_cluster
from thinwire.validation.fits.published_tables import PUBLISHED, rows
from thinwire.validation.hosts import measured
from thinwire.validation.papers.headlines import FILE, checked_headlines, file_of, read, shipped, shown_file

FACTS = (FILE, PUBLISHED / "served_setups.toml")
MACHINES = {machine for _, machine, *_ in measured.HOSTS}  # of hosts left out whole, no set-ups of claims
SETUPS = [
    path
    for path in PUBLISHED.iterdir()
    if path.suffix in (".toml", ".json")
    and path not in FACTS
    and (path.name not in MACHINES or any(f'"{path.name}"' in facts.read_text("utf-8") for facts in FACTS))
]
ONE: dict[str, Any] = {
    "id": "x", "system": "X", "source": "arXiv 0", "evidence": "abstract", "claim": "twice as fast", "kind": "ttft",
    "bound": "about", "value": [2.0], "stated": "all", "assumed": "nothing", "schemes": ["flash-int4"],
    "baseline": "bf16", "model": "llama-3-8b", "cluster": "8xl40s-pcie", "tp": 4, "batch": 1, "input_tokens": 128,
}  # fmt: skip


def test_one_reads() -> None:
    (found,) = checked_headlines({"headline": [ONE]}).headlines
    assert (found.low, found.high, found.percent, found.scale_link) == (2.0, 2.0, False, 1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"speed": 2}, "speed"),
        ({"value": []}, "value"),
        ({"value": [2.0, 1.0]}, "least and the most"),
        ({"value": [0.0]}, "value"),
        ({"value": [1.0, 2.0, 3.0]}, "value"),
        ({"kind": "faster"}, "kind"),
        ({"evidence": "hearsay"}, "evidence"),
        ({"source": ""}, "source"),
        ({"schemes": []}, "schemes"),
        ({"tp": 0}, "tp"),
        ({"tp": True}, "tp"),
        ({"tp": None}, "tp"),
        ({"bytes": 64}, "bytes"),
        ({"kind": "bits"}, "no set-up"),
        ({"scale_link": 0}, "scale_link"),
        ({"weights": "fp4"}, "weights"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        checked_headlines({"headline": [{**ONE, **change}]})
    assert "headlines.toml: headline.0" in str(refused.value)


def test_no_key_may_be_missing() -> None:
    for key in ONE:
        if key not in ("baseline", "weights"):
            with pytest.raises(ValueError, match=r"headline\.0"):
                checked_headlines({"headline": [{k: v for k, v in ONE.items() if k != key}]})


def test_an_id_is_used_once() -> None:
    with pytest.raises(ValueError, match="once: x"):
        checked_headlines({"headline": [ONE, ONE]})


def test_a_file_is_read_like_its_contents(tmp_path: Path) -> None:
    path = tmp_path / "headlines.toml"
    path.write_bytes(FILE.read_bytes())
    assert read(path) == shipped() == checked_headlines(from_toml(FILE, "headlines"))


def test_every_system_of_the_issue_is_there() -> None:
    systems = {headline.system for headline in shipped().headlines}
    assert systems >= {
        "Flash Communication", "FlashCommunication V2", "MX compression", "Low-bit hybrid", "SPD", "ISO", "LV-XAttn",
        "QuickReduce", "TokenWeave", "SGLang FP8 ring",
    }  # fmt: skip
    assert shipped().left_out


def test_names_are_of_the_catalogs() -> None:
    for headline in shipped().headlines:
        if headline.model is not None:
            load_model(file_of(headline.model))
        if headline.cluster is not None:
            assert len(load_cluster(file_of(headline.cluster)).gpus) >= (headline.tp or 1)
        for name in (*headline.schemes, *([headline.baseline] if headline.baseline else [])):
            assert name in METHODS if headline.kind == "cross" else scheme(name)


def test_files_are_shown_from_the_root(root: Path) -> None:
    for path in SETUPS:
        assert Path(file_of(path.name)) == path and (root / shown_file(path.name)).samefile(path)
    assert file_of("8xl40s-pcie") == shown_file("8xl40s-pcie") == "8xl40s-pcie"


def test_every_shipped_set_up_is_asked() -> None:
    asked = "".join(path.read_text("utf-8") for path in FACTS)
    assert len(SETUPS) == 6
    for path in SETUPS:
        assert f'"{path.name}"' in asked, f"{path.name} is in no set-up: remove it"


def test_figures_of_tables_are_theirs() -> None:
    """What a table or two numbers of a claim give is not typed a second time."""
    claims = {headline.id: headline for headline in shipped().headlines}
    for tokens, name in ((8192, "tokenweave-8k"), (2048, "tokenweave-2k")):
        (row,) = (r for r in rows("tokenweave_prefill_8xh100") if r["prompt_len"] == str(tokens))
        ratio = float(row["baseline_multimem"]) / float(row["overlap_fused"])
        assert claims[name].value == (round(ratio, 2),) and claims[name].input_tokens == tokens
    ring = claims["sglang-fp8-ring"]
    without, with_it = (float(ms.replace(",", "")) for ms in re.findall(r"\d,\d+", ring.claim))
    assert ring.value[0] == pytest.approx(without / with_it, abs=5e-4)
