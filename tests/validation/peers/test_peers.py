"""The head to head: what counts as closer, what decides nothing, and whether the report is what the raw file says.

The figures come from `make peers`. If the committed report differs, a prediction changed: run
`python -m thinwire.validation.peers.peers --report`, which needs no peers, and look at the shares before committing it.
If rows are missing from the raw file, run `make peers`.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from thinwire.validation.fits import engine as fit_engine
from thinwire.validation.peers import aiconfigurator as peer_aiconfigurator
from thinwire.validation.peers import genz as peer_genz
from thinwire.validation.peers import peers
from thinwire.validation.peers import report as peers_report
from thinwire.validation.peers import rows as peer_rows
from thinwire.validation.peers.counting import LIMIT, PEERS, Head, Share, document, grouped, nearest, replaced, sizes
from thinwire.validation.peers.rows import Row

NO = "it has no such model"


def row(left_out: float | None = 0.05, shipped: float = 0.01, **fields: Any) -> Row:
    """A row measured as 0.1 s; thinwire's errors are given, other fields replaced."""
    made = Row(
        id="t:0:bf16",
        kind="prefill",
        source="somebody",
        machine="box",
        label="m bf16 TP2, 8 tokens",
        measured=0.1,
        shipped=0.1 * (1 + shipped),
        left_out=None if left_out is None else 0.1 * (1 + left_out),
        how="one row out",
        question={"exchanges": True},
        table_out=0.13,
    )
    return replace(made, **fields)


def head(aiconfigurator: float | str, genz: float | str, of: Row | None = None) -> Head:
    """A row with peers' errors, or why they have none."""
    given = dict(zip(PEERS, (aiconfigurator, genz), strict=True))
    return Head(of or row(), {p: e if isinstance(e, str) else 0.1 * (1 + e) for p, e in given.items()})


# --- counting ---


@pytest.mark.parametrize(
    ("aiconfigurator", "genz", "closer"),
    [
        (0.06, -0.07, True),
        (-0.06, 0.3, True),
        (0.04, -0.3, False),
        (0.3, -0.04, False),
        (NO, 0.06, True),
        (0.04, NO, False),
        (NO, NO, None),
    ],
)
def test_closer_than_every_peer_that_answers(aiconfigurator: float | str, genz: float | str, closer: bool) -> None:
    """thinwire is off by 5 %; signs do not matter, silence does not count against it nor for it."""
    assert head(aiconfigurator, genz).closer() is closer


def test_a_tie_is_not_closer() -> None:
    exact = replace(row(), measured=1.0, left_out=1.5)
    assert Head(exact, {"aiconfigurator": 0.5, "genz": 4.0}).closer() is False
    assert Head(exact, {"aiconfigurator": 0.25, "genz": 4.0}).closer() is True  # 50 % against 75 %


def test_the_left_out_prediction_decides() -> None:
    """The shipped profile has seen the row: with it the same row would be won."""
    fitted = head(0.03, 0.2, row(left_out=0.05, shipped=0.0))
    assert fitted.closer() is False
    assert fitted.closer("shipped") is True
    assert fitted.closer("table_out") is False  # off by 30 %


def test_rows_that_decide_nothing() -> None:
    assert head(0.5, 0.5, row(counted=False)).closer() is None  # a peer's own data
    assert head(0.5, 0.5, row(left_out=None)).closer() is None  # cannot be left out
    assert head(0.5, 0.5, row(left_out=None)).closer("shipped") is True
    assert head(0.01, 0.5).closer(than=("genz",)) is True
    assert head(0.01, NO).closer(than=("genz",)) is None


def test_shares() -> None:
    heads = [head(0.2, 0.2), head(0.2, 0.2), head(0.01, 0.2), head(NO, NO), head(0.2, 0.2, row(counted=False))]
    share = Share.of(heads)
    assert (share.closer, share.rows, str(share)) == (2, 3, "2 of 3 (67%)")
    assert str(Share.of([])) == "no rows"


@pytest.mark.parametrize(
    ("closer", "rows", "met"), [(20, 25, True), (19, 25, False), (4, 5, True), (0, 0, False), (14, 18, False)]
)
def test_the_limit_is_four_of_five(closer: int, rows: int, met: bool) -> None:
    assert LIMIT == 0.8
    assert Share(closer, rows).met is met


def test_groups_and_figures() -> None:
    heads = [head(0.2, NO), head(-0.4, NO), head(0.1, 0.3, row(machine="other"))]
    assert [len(some) for some in grouped(heads).values()] == [2, 1]
    assert sizes(heads[:2], "aiconfigurator") == pytest.approx([0.2, 0.4])
    assert sizes(heads[:2], "genz") == []
    assert heads[0].lead("aiconfigurator") == pytest.approx(0.15)
    assert heads[0].lead("genz") is None


def test_other_settings_replace_only_their_rows() -> None:
    one, two = head(0.2, 0.3), head(0.2, 0.3, row(id="t:1:bf16"))
    (changed,) = replaced([one, two], {"t:1:bf16": 0.101})
    assert changed.row.id == "t:1:bf16" and changed.error("aiconfigurator") == pytest.approx(0.01)
    assert changed.error("genz") == pytest.approx(0.3)


def test_nearest_takes_the_best_of_all_settings() -> None:
    heads = [head(0.2, 0.3), head(0.2, 0.3, row(id="t:1:bf16")), head(NO, 0.3, row(id="t:2:bf16"))]
    variants: dict[str, dict[str, float | str]] = {"a": {"t:0:bf16": 0.101, "t:1:bf16": 0.15}, "b": {"t:0:bf16": NO}}
    assert [h.size("aiconfigurator") for h in nearest(heads, variants)] == [
        pytest.approx(0.01), pytest.approx(0.2), None,
    ]  # fmt: skip


# --- words ---


def test_words() -> None:
    assert peers_report.spread([head(0.2, NO), head(-0.4, 0.1)], "aiconfigurator") == "30.0%, 40.0%"
    assert peers_report.spread([head(0.2, NO), head(-0.4, 0.1)], "genz") == "10.0%, 10.0%, 1 rows"
    assert peers_report.spread([head(0.2, NO)], "genz") == "none"
    assert peers_report.lost_to(head(0.03, -0.02)) == "GenZ and AIConfigurator"
    assert peers_report.lost_to(head(0.03, 0.2)) == "AIConfigurator"


def raw_of(heads: list[Head]) -> dict[str, Any]:
    times = {"start_s": 0.1, "first_s": 0.2, "warm_s": {"call": 1.5, "engine": 2e-5}, "version": "1"}
    return {
        "machine": {"processor": "P", "cores": 2},
        "tools": dict.fromkeys(("thinwire", *PEERS), times),
        "variants": {"other": {heads[0].row.id: 0.1001}},
    }


def test_markdown_says_what_is_lost_and_what_is_silent() -> None:
    lost = head(0.01, -0.5, row(id="t:1:bf16", label="lost row"))
    silent = head("it has no such GPU", 0.2, row(id="t:2:bf16", kind="all_reduce", label="nccl x2, 1 KiB"))
    own = head(0.0, NO, row(id="t:3:bf16", kind="all_reduce", source="own table", counted=False))
    heads = [head(0.2, 0.2), lost, silent, own]
    text = peers_report.markdown(heads, raw_of(heads))
    assert "| TTFT rows, all | row left out | 1 of 2 (50%) | 1 of 2 (50%) | 2 of 2 (100%) | missed |" in text
    assert "| all-reduce rows | row left out | 1 of 1 (100%) | no rows | 1 of 1 (100%) |  |" in text
    (told,) = [line for line in text.splitlines() if "lost row" in line and line.endswith("| AIConfigurator |")]
    assert "| +5.0% | +1.0% | -50.0% | +1.0% | +30.0% |" in told
    assert "- AIConfigurator: it has no such GPU (1 rows: box)." in text
    own_part = text[text.index("## Not counted") : text.index("## Without an answer")]
    assert "own table" in own_part and "own table" not in text.replace(own_part, "")
    assert "| thinwire 1 | 100 ms | 200 ms | call | 1.50 s |" in text and "0.02 ms" in text
    twin = document(heads, raw_of(heads))
    assert twin["shares"]["ttft"]["left_out"] == {"closer": 1, "rows": 2}
    assert twin["shares"]["ttft_nearest_setting"]["left_out"] == {"closer": 0, "rows": 2}
    assert [(g["rows"], g["closer"], g["decided"]) for g in twin["groups"]] == [(2, 1, 2), (1, 1, 1), (1, 0, 0)]


# --- the committed report ---


@cache
def committed() -> dict[str, Any]:
    return peers.read(peers.RAW)


@cache
def twin() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((peers.REPORTS / "peers.json").read_text("utf-8"))
    return found


def test_the_report_is_what_the_raw_file_says(tmp_path: Path) -> None:
    """Written again from raw/peers.json and today's predictions: the same bytes."""
    peers.write(committed(), tmp_path)
    for name in ("peers.md", "peers.json"):
        assert (tmp_path / name).read_text("utf-8") == (peers.REPORTS / name).read_text("utf-8"), name


def test_the_raw_file_is_as_written() -> None:
    assert peers.text_of(committed()) == peers.RAW.read_text("utf-8")


def test_every_ttft_row_is_in_the_race() -> None:
    """Seven prompts served, seven without all-reduces, eleven of TensorRT-LLM; both peers answer to all."""
    prefills = [h for h in peers.heads(committed()) if h.row.kind == "prefill"]
    assert len(prefills) == 25 and all(h.closer() is not None for h in prefills)
    assert all(h.size(peer) is not None for h in prefills for peer in PEERS)
    held_out = {h.row.source for h in prefills if h.row.how == "held out"}
    assert held_out == {"TokenWeave, as served"}
    fitted = [h.row for h in prefills if h.row.how == "one row out"]
    assert len(fitted) == 18 and sum(r.left_out != r.shipped for r in fitted) >= 6, "nothing was left out"


def test_closer_than_both_peers_on_four_fifths_of_the_ttft_rows() -> None:
    """The issue's share, with every row left out of its fits. If it fails, the report says where not."""
    share = twin()["shares"]["ttft"]["left_out"]
    assert share["rows"] == 25 and share["closer"] >= LIMIT * share["rows"]


def test_peers_own_data_is_not_counted() -> None:
    assert {g["source"] for g in twin()["groups"] if not g["counted"]} == peer_rows.PEER_TABLES
    assert all(g["decided"] == 0 for g in twin()["groups"] if not g["counted"])


def test_a_raw_file_without_todays_rows_is_refused(tmp_path: Path) -> None:
    raw = {**committed(), "answers": dict(list(committed()["answers"].items())[1:])}
    (tmp_path / "peers.json").write_text(peers.text_of(raw), "utf-8")
    with pytest.raises(ValueError, match=r"lacks answers to 1 rows, tokenweave_prefill_8xh100:0:bf16 first"):
        peers.read(tmp_path / "peers.json")
    (tmp_path / "peers.json").write_text('{"kind": "else"}', "utf-8")
    with pytest.raises(ValueError, match=r"holds no answers of peers: kind='else'"):
        peers.read(tmp_path / "peers.json")
    assert peers.main(["--report", "--raw", str(tmp_path / "none.json"), "--reports", str(tmp_path)]) == 2


def test_without_its_table_a_prefill_is_predicted_from_the_other() -> None:
    """A row published three times slower moves the prediction of neither its own table's rows nor of itself."""
    prefill = fit_engine.trtllm()[0]
    slower = replace(prefill, seconds=3 * prefill.seconds)
    assert peer_rows.without_table(slower) == peer_rows.without_table(prefill)
    served, removed = peer_rows.shares_without(peer_rows.TOKENWEAVE), peer_rows.shares_without(peer_rows.TRTLLM)
    assert served != removed


# --- asking, without peers ---

ECHO = """
import json, sys
print(json.dumps({"ready": True, "facts": {"version": "9"}}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    tokens, took_s = asked["input_tokens"], {"call": 0.5}
    if asked.get("timed"):
        took_s["more"] = 0.25
    answer = {"unsupported": "too long"} if tokens == 4 else {"seconds": tokens / 1e3, "took_s": took_s}
    name = asked["id"] + ("!" if tokens == 7 else "")
    print(json.dumps({"id": name, **answer, "version": "v"}), flush=True)
"""


def asked(tokens: int) -> Row:
    question = {"id": f"q{tokens}", "input_tokens": tokens, "backend": "b", "gpu": "g"}
    return row(id=f"q{tokens}", question=question)


def ask(script: str, rows: list[Row], tmp_path: Path, variants: Mapping[str, Any] | None = None) -> peers.Asked:
    return peers.ask("genz", [sys.executable, "-c", script], rows, variants or {}, tmp_path / "log")


def test_a_worker_is_asked_for_every_row_and_timed(tmp_path: Path) -> None:
    found = ask(ECHO, [asked(2), asked(4)], tmp_path, {"other": [asked(3).question]})
    assert found.answers == {"q2": 0.002, "q4": "too long"}
    assert found.variants == {"other": {"q3": 0.003}}
    assert found.facts["version"] == "9" and found.facts["backends"] == {"b on g": "v"}
    assert found.facts["first_s"] == 0.5 and found.facts["warm_s"] == {"call": 0.5, "more": 0.25}
    assert found.facts["start_s"] > 0


def test_a_worker_that_ends_or_mixes_up_rows_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the worker of genz ended with 3; see .*log"):
        ask("import sys; sys.exit(3)", [asked(2)], tmp_path)
    with pytest.raises(ValueError, match="answered q7! to q7"):
        ask(ECHO, [asked(7)], tmp_path)


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    half = tmp_path / f"genz-llm-0.0.16-py{sys.version_info.major}.{sys.version_info.minor}" / "half"
    half.parent.mkdir()
    half.touch()

    def make(command: list[str], complaint: str) -> None:
        ran.append(" ".join(command))
        if "venv" in command:
            Path(command[-1]).mkdir()

    monkeypatch.setattr(peers, "run", make)
    python = peers.environment("genz", tmp_path)
    assert not half.exists(), "an environment that was never finished is kept"
    assert len(ran) == 2 and ran[1].endswith("install -q genz-llm==0.0.16")
    assert peers.environment("genz", tmp_path) == python and len(ran) == 2


def test_a_registry_out_of_reach_is_told(tmp_path: Path) -> None:
    """pip's last words, and what was tried."""
    script = "import sys; print('ERROR: no matching distribution', file=sys.stderr); sys.exit(1)"
    with pytest.raises(ValueError, match=r"(?s)cannot install x: .*ended with 1:\nERROR: no matching distribution"):
        peers.run([sys.executable, "-c", script], "cannot install x")
    with pytest.raises(ValueError, match="cannot make it"):
        peers.run([str(tmp_path / "none")], "cannot make it")


def test_workers_say_what_they_do_not_have() -> None:
    question = {"id": "q", "kind": "all_reduce", "gpu": "rtx-4090", "nodes": 1}
    assert peer_aiconfigurator.answer(question) == {"id": "q", "unsupported": "it has no data of rtx-4090"}
    assert peer_genz.answer(question) == {"id": "q", "unsupported": "it has no system with rtx-4090"}
    nodes = peer_genz.answer({**question, "gpu": "h100-sxm", "nodes": 2})
    assert nodes["unsupported"].startswith("its closed form")


def test_workers_ask_for_the_model_that_was_meant() -> None:
    """AIConfigurator refuses Mistral's name for a Llama; GenZ has names that stand for another model."""
    config = peer_rows.model_config("mistral-7b")
    path = Path(peer_aiconfigurator.model_path("mistral-7b", json.dumps(config)))
    assert json.loads((path / "config.json").read_text("utf-8"))["architectures"] == ["LlamaForCausalLM"]

    class Other:
        hidden_size, intermediate_size, num_attention_heads, num_key_value_heads = 4096, 14336, 32, 8
        vocab_size, num_decoder_layers = 128256, 32

    assert peer_genz.different({"config": config}, Other()) == "vocab_size 128256 for 32000"


def test_workers_know_nothing_of_thinwire() -> None:
    """They run where thinwire is not installed."""
    for worker in (peer_aiconfigurator, peer_genz):
        source = Path(str(worker.__file__)).read_text("utf-8")
        assert "import thinwire" not in source and "from thinwire" not in source
