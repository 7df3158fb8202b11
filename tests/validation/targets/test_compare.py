"""The validation report: its words, its gates, and whether it still is what the code says.

The figures come from `make validate`. If a gate fails after a change of yours, the change made a prediction worse than
the issue allows: look at the section's worst rows in validation/reports/validation.md before anything else.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thinwire.topologies.load import load_cluster
from thinwire.validation.emulation import report as emulate_report
from thinwire.validation.fits import attention as fit_attention
from thinwire.validation.targets import compare, report_parts
from thinwire.validation.targets import hosts as targets_hosts
from thinwire.validation.targets import kernels as targets_kernels
from thinwire.validation.targets.targets import (
    Coverage,
    Entry,
    Limits,
    Point,
    Section,
    Summary,
    broken_down,
    pooled,
    worst,
)

# What the issue asks for: prefix of the keys -> limits, and how the rows are predicted. Written out here a second time
# so that a limit cannot be loosened in one place.
ISSUE: dict[str, tuple[dict[str, float], set[str]]] = {
    "gemm.": ({"median": 0.04}, {"in-sample", "one row of each (n, k) out", "one (n, k) out"}),
    "attention.": ({"median": 0.06}, {"in-sample", "one (heads, kv heads) out", "one length out", "one row out"}),
    "prefill.": ({"median": 0.05, "worst": 0.10}, {"in-sample", "one row out", "held out"}),
    "trtllm.": ({"median": 0.10}, {"in-sample", "one row out"}),
    "links.": ({"worst": 0.03}, {"topology alone"}),
    "sglang.": ({"worst": 0.15}, {"in-sample", "one row out"}),
    "logs.": ({"median": 0.05, "percentile_90": 0.15}, {"every second size out"}),
    "hosts.": ({"inside": 0.85}, {"host left out whole"}),
}
HELD_OUT = ("links.", "logs.", "hosts.")  # nothing of these is in-sample
PACKETS = {".time": {"median": 0.25}, ".gain": {"signs_right": 0.90}}  # our own choice: no issue names figures
FABRIC = {"in-sample", "one row out", "held out"}
SUFFIXES: dict[str, tuple[dict[str, float], set[str]]] = {
    ".large": ({"median": 0.08, "percentile_90": 0.20}, FABRIC),
    ".small": ({"median": 0.15}, FABRIC),
    ".time": ({"median": 0.15}, {"in-sample", "one row out"}),
    ".gain": ({"signs_right": 0.90}, {"in-sample", "one row out"}),
}
# Targets that are missed, and why. A target that is met again must leave this list, one newly missed may not join it
# without a reason that a reader can check.
L40S = "its table is noisy: at m = 2560 to 4353 each shape's own trend leaves 5.2 % (docs/decisions/003-gemm-model.md)"
B200 = "single rows of its fp8 table are off by up to 2x (docs/decisions/003-gemm-model.md)"
CLIFF = (
    "published times jump twofold between 8 and 16 MiB; one rate of encoded buffers cannot follow: 5 of 42 signs wrong"
)
EDGE = "4.01 %, of 4: on another CPU, whose LAPACK rounds otherwise, 3.97 %"
GB200 = "its rows in bf16 are another engine's than those of its relatives (published/README.md, 11)"
SWITCHLESS = "that host has no switch: kernels' stores move about 1 GB/s a rank there (docs/decisions/026-presets.md)"
NEAR_ONE = "one of seven: at 1 MiB both kinds take nearly the same"
ODD_RANKS = "rings of 6 and 7 of 8 B200 take the figures of 8 ranks, 18 % too slow (docs/decisions/025-carriers.md)"
OTHERS = "hosts of a kind differ so: the part between hosts is for that (docs/decisions/028-hosts.md)"
MISSED = {
    "gemm.gb200.bf16.shape": GB200,
    "gemm.b300-sxm.bf16.shape": EDGE,
    "baselines.nccl.2026.large": ODD_RANKS,
    "baselines.nccl.hosts.large": OTHERS,
    "baselines.nccl.hosts.small": OTHERS,
    "packets.rtx-pro-6000.trtllm-fp8.time": SWITCHLESS,
    "packets.rtx-pro-6000.nvfp4-two-shot.time": SWITCHLESS,
    "packets.rtx-pro-6000.nvfp4-one-shot.time": SWITCHLESS,
    "packets.b200.nvfp4-two-shot.gain": NEAR_ONE,
    "gemm.l40s.bf16.row": L40S,
    "gemm.l40s.bf16.shape": L40S,
    "gemm.b200-sxm.fp8.shape": B200,
    "quickreduce.row.gain": CLIFF,
}

CHEAP = ("prefill", "trtllm", "tpot", "links", "sglang", "quickreduce", "codec")


@cache
def report() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((compare.REPORTS / "validation.json").read_text("utf-8"))
    return found


def entries() -> dict[str, dict[str, Any]]:
    return {entry["key"]: entry for entry in report()["entries"]}


@cache
def section(key: str) -> Section:
    return compare.SECTIONS[key](False)


# --- the gates ---


def test_every_target_of_the_issue_is_met() -> None:
    missed = {key for key, entry in entries().items() if entry["verdict"] == "missed"}
    assert missed - set(MISSED) == set(), "missed, and nobody says why"
    assert set(MISSED) - missed == set(), "met: strike it from MISSED"


def test_every_target_of_the_issue_is_in_the_report() -> None:
    every = [entry for entry in entries().values() if entry["gated"] and entry["limits"]]
    packets = [entry for entry in every if entry["key"].startswith("packets.")]
    assert all(e["limits"] == PACKETS[e["key"][-5:]] and e["how"].startswith("held out") for e in packets) and packets
    gated = [entry for entry in every if entry not in packets]
    asked = {**ISSUE, **SUFFIXES}
    for part, (limits, hows) in asked.items():
        mine = [e for e in gated if (e["key"].startswith(part) if part in ISSUE else e["key"].endswith(part))]
        assert mine, part
        assert all(e["limits"] == limits for e in mine), part
        assert {e["how"] for e in mine} <= hows, part
        assert "in-sample" in {e["how"] for e in mine} or part in HELD_OUT
    assert {e["key"] for e in gated} == {
        e["key"] for e in gated if e["key"].startswith(tuple(ISSUE)) or e["key"].endswith(tuple(SUFFIXES))
    }


@pytest.mark.parametrize("kind", ["in-sample", "row", "shape"])
def test_gemm_is_reported_for_every_gpu_and_dtype(kind: str) -> None:
    """Nine GPUs in bf16, and eight of them in fp8: the A100 has none."""
    found = [key for key in entries() if key.startswith("gemm.") and key.endswith(f".{kind}")]
    assert len(found) == 17
    least = {"in-sample": 1378, "row": 150, "shape": 300}[kind]
    assert all(entries()[key]["rows"] >= least for key in found)


def test_the_report_counts_its_rows() -> None:
    """Rows that vanish make errors smaller: the numbers are the tables'."""
    rows = {key: entry["rows"] for key, entry in entries().items()}
    assert sum(n for key, n in rows.items() if key.startswith("gemm.") and key.endswith("in-sample")) == 23426
    assert sum(n for key, n in rows.items() if key.startswith("attention.") and key.endswith("in-sample")) == 9126
    decoding = [n for key, n in rows.items() if key.startswith("decode_attention.") and key.endswith("in-sample")]
    assert len(decoding) == 9 and sum(decoding) == 13769
    assert sum(n for key, n in rows.items() if key.startswith("tpot.") and key.endswith(".between")) == 72
    assert rows["prefill.served.held-out"] == rows["prefill.no_ar.in-sample"] == 6
    assert rows["trtllm.a100-sxm.row"] + rows["trtllm.h100-sxm.row"] == 11
    assert rows["all_reduce.in-sample.large"] + rows["all_reduce.in-sample.small"] == 1089
    assert rows["all_reduce.int8.large"] + rows["all_reduce.int8.small"] == 4 * 3 * 21
    assert rows["all_reduce.other-hosts.large"] + rows["all_reduce.other-hosts.small"] == 77
    assert rows["sglang.in-sample"] == 2 * 3 * 11
    assert rows["quickreduce.in-sample.time"] == rows["quickreduce.row.gain"] == 42


# --- the report is what the code says ---


@pytest.mark.parametrize("key", CHEAP)
def test_the_report_is_up_to_date(key: str) -> None:
    """Computed again, the cheap sections agree with the report (quickreduce's rows left out, 42 fits, once apart:
    tests/validation/fits/test_codec.py). If not: `make validate`, and commit the report."""
    found = targets_hosts.quickreduce(left_out=False) if key == "quickreduce" else section(key)
    for entry in found.entries:
        again, told = entry.to_dict(), entries()[entry.key]
        assert {name: told[name] for name in again if isinstance(again[name], str)} == {
            name: value for name, value in again.items() if isinstance(value, str)
        }
        for name in ("rows", "median", "percentile_90", "worst", "bias", "signs_right"):
            assert again.get(name) == pytest.approx(told.get(name), abs=2e-5), (entry.key, name)


@pytest.mark.parametrize("key", CHEAP)
def test_markdown_and_json_say_the_same(key: str) -> None:
    """Every claim of the twin stands in validation.md with its figures and verdict."""
    text = (compare.REPORTS / "validation.md").read_text("utf-8")
    for entry in section(key).entries:
        assert "| " + " | ".join(compare.claim(entry)) + " |" in text


def test_the_report_has_no_section_too_many_or_few() -> None:
    assert list(dict.fromkeys(entry["section"] for entry in report()["entries"])) == list(compare.SECTIONS)
    assert len(entries()) == len(report()["entries"]), "two claims with one key"


# --- left out means left out ---


def test_left_out_attention_rows_are_left_out() -> None:
    """All rows of one (heads, kv heads) published three times slower: predicted as before, the others are not."""
    rows = fit_attention.read_rows()["h100_sxm"]
    out = (rows.heads == rows.heads[0]) & (rows.kv_heads == rows.kv_heads[0])
    slow = fit_attention.Rows(rows.batch, rows.length, rows.heads, rows.kv_heads, np.where(out, 3, 1) * rows.time_s)
    clean = targets_kernels.attention_left_out("h100_sxm", rows, "pair")
    dirty = targets_kernels.attention_left_out("h100_sxm", slow, "pair")
    np.testing.assert_array_equal(dirty[out], clean[out])
    assert (dirty[~out] != clean[~out]).mean() > 0.9


def test_left_out_attention_is_what_the_fit_reports() -> None:
    """The same sizes of error as fit_attention's own table."""
    rows = fit_attention.read_rows()["a100_sxm"]
    found = np.abs(targets_kernels.attention_left_out("a100_sxm", rows, "pair") / rows.time_s - 1)
    np.testing.assert_allclose(found, fit_attention.left_out(rows, fit_attention.FACTS["a100_sxm"][1:], "pair"))


# --- intervals ---


# Share of rows inside their 90 % interval: entries' keys by prefix -> least, most. 90 % and four binomial standard
# errors, but where the reason says why not.
COVERED: dict[str, tuple[float, float]] = {
    "gemm.": (0.85, 0.95),
    "attention.": (0.88, 0.95),
    "decode_attention.": (0.80, 0.95),  # with a context left out the fit has to say where cutting the keys sets in
    "prefill.": (0.75, 1.0),
    "trtllm.": (0.70, 1.0),
    "all_reduce.row.": (0.86, 0.93),
    "all_reduce.other-ops.": (0.86, 0.93),
    "all_reduce.int8.": (0.70, 0.95),  # sums of int8 take 4 % longer than the half ones that calibrated them
    "sglang.": (0.80, 0.98),
    "quickreduce.row.": (0.80, 1.0),
    "quickreduce.fp8.": (0.50, 1.0),  # another format: conversion by the FP8 unit, 14 rows
}


@pytest.mark.parametrize("prefix", COVERED)
def test_intervals_hold_about_nine_rows_in_ten(prefix: str) -> None:
    least, most = COVERED[prefix]
    found = [e["interval"] for key, e in entries().items() if key.startswith(prefix) and "interval" in e]
    inside = sum(one["inside"] * one["rows"] for one in found) / sum(one["rows"] for one in found)
    assert least <= inside <= most


def test_ttft_intervals_hold_nine_rows_in_ten() -> None:
    """Every published TTFT that is left or held out: 7 + 7 + 11."""
    found = [
        e["interval"] for key, e in entries().items() if key.startswith(("prefill.", "trtllm.")) and "interval" in e
    ]
    assert sum(one["rows"] for one in found) == 25
    assert sum(one["inside"] * one["rows"] for one in found) >= 0.9 * 25
    assert max(one["width"] for one in found) < 0.3, "an interval that holds all because it says nothing"


def test_only_rows_left_out_have_an_interval() -> None:
    """But for what stands in for a number of ranks or a machine: stand-ins' own spreads are made of these rows. A time
    between tokens has none yet, logs' spreads are made of the rows counted there, and so are those of GPUs' relatives
    where three of a kind are all there are.
    """
    none = ("in-sample", "topology alone", "one number of ranks out", "one machine out")
    made_of_these = ("tpot.", "logs.", "relatives.elementwise", "relatives.prefill")
    for key, told in entries().items():
        unseen = told["how"] not in none and not key.endswith(".gain") and not key.startswith(made_of_these)
        assert ("interval" in told) == (unseen and "tested on" not in told["how"]), key


def test_spreads_come_from_other_rows_than_those_counted() -> None:
    """Attention: the shipped spread's own (heads, kv heads) have no interval, the others have."""
    rows = fit_attention.read_rows()["l40s"]
    known = targets_kernels.attention_spreads("l40s", rows, "pair")
    behind = np.any(targets_kernels.spreads.attention_folds(rows)[1::2], axis=0)
    assert [s is None for s in known] == behind.tolist()
    assert all(s is None for s in targets_kernels.attention_spreads("l40s", rows, "in-sample"))


def test_a_series_own_rows_do_not_widen_its_interval() -> None:
    from thinwire.validation.fits import spreads_fabric
    from thinwire.validation.targets import fabric as targets_fabric

    own = ("l40s-pcie", "engine-graph", "all_reduce", 4)
    others = [row for row in spreads_fabric.fabric_left_out() if row.series != own]
    assert targets_fabric.spreads_without(own) == tuple(spreads_fabric.libraries("l40s-pcie", others, "engine-graph"))
    assert targets_fabric.spreads_without(own) != tuple(
        spreads_fabric.libraries("l40s-pcie", spreads_fabric.fabric_left_out(), "engine-graph")
    )


def test_coverage_counts_what_lies_inside() -> None:
    def told(measured: float, interval: tuple[float, float] | None) -> Point:
        return Point("m", "r", "x", measured, 1.0, "", interval)

    found = Coverage.of([told(0.9, (0.9, 1.3)), told(1.3, (0.9, 1.3)), told(1.31, (0.9, 1.3)), told(9.0, None)])
    assert found is not None
    assert (found.rows, found.inside, found.width) == pytest.approx((3, 2 / 3, 0.4))
    assert Coverage.of([told(1.0, None)]) is None
    with pytest.raises(ValueError, match="no interval"):
        assert told(1.0, None).inside


def test_the_report_has_a_section_on_intervals() -> None:
    text = (compare.REPORTS / "validation.md").read_text("utf-8")
    assert text.index("## Targets") < text.index("## Intervals") < text.index("## GEMM")
    cheap = [section(key) for key in ("prefill", "trtllm", "sglang", "quickreduce")]
    for row in compare.coverages(cheap):
        assert "| " + " | ".join(row) + " |" in text, row


# --- link rates ---


def test_rates_follow_the_links() -> None:
    """Half the socket link: crossing flows halve, rings inside an island stay."""
    cluster = load_cluster("8xl40s-pcie")
    half = cluster.with_link_scaled("bridge0->bridge1", 0.5).with_link_scaled("bridge1->bridge0", 0.5)
    patterns = targets_hosts.PATTERNS["CX7", "8xl40s-pcie"]
    crossing = patterns["cudaMemcpyAsync cross-boundary all flows"]
    ring = patterns["cudaMemcpyAsync intra-island ring, 4 ranks"]
    whole, halved = (targets_hosts.link_rate(one, crossing) for one in (cluster, half))
    assert halved == pytest.approx(whole / 2, rel=1e-3)
    assert targets_hosts.link_rate(half, ring) == targets_hosts.link_rate(cluster, ring)


# --- the words ---


NO_LIMITS = Limits()


def point(error: float, group: str = "m", label: str = "", regime: str = "r") -> Point:
    return Point(group, regime, label or f"{group} {error}", 1e-3, 1e-3 * (1 + error), "why")


def entry(*errors: float, limits: Limits = NO_LIMITS, gated: bool = True, how: str = "in-sample") -> Entry:
    return Entry("k", "what", how, tuple(point(e) for e in errors), limits, gated)


def test_a_summary_is_of_absolute_errors_and_signed_bias() -> None:
    found = Summary.of(point(e) for e in (-0.4, -0.1, 0.0, 0.1, 0.2))
    assert (found.rows, found.median, found.worst, found.bias) == pytest.approx((5, 0.1, 0.4, 0.0))
    assert found.percentile_90 == pytest.approx(0.32)
    with pytest.raises(ValueError, match="no points"):
        Summary.of([])


def test_a_figure_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match=r"positive and finite: m, row: measured=0.0"):
        Point("m", "r", "row", 0.0, 1.0)
    with pytest.raises(ValueError, match="positive and finite"):
        Point("m", "r", "row", 1.0, float("inf"))


@pytest.mark.parametrize(
    ("limits", "gated", "verdict"),
    [
        (Limits(), True, "reported"),
        (Limits(median=0.101), True, "met"),
        (Limits(median=0.099), True, "missed"),
        (Limits(percentile_90=0.341), True, "met"),
        (Limits(percentile_90=0.339), True, "missed"),
        (Limits(worst=0.401), True, "met"),
        (Limits(median=0.101, worst=0.399), True, "missed"),
        (Limits(median=0.101), False, "within"),
        (Limits(median=0.099), False, "outside"),
    ],
)
def test_verdicts(limits: Limits, gated: bool, verdict: str) -> None:
    """Errors whose median is 10 %, 90th percentile 34 % and worst 40 %."""
    assert entry(-0.4, -0.05, 0.05, 0.1, 0.25, limits=limits, gated=gated).verdict == verdict


def test_signs_are_counted() -> None:
    """Ratios above one must be predicted above one; exactly one is no gain."""
    ratios = [(1.2, 1.1), (1.2, 0.9), (0.8, 0.7), (0.8, 1.0)]
    made = Entry("k", "gain", "h", tuple(Point("m", "r", "x", *r) for r in ratios), Limits(signs_right=0.75))
    assert made.signs_right == 0.75 and made.verdict == "met"
    assert made.to_dict()["signs_right"] == 0.75
    assert "signs right" in compare.miss(Entry("k", "gain", "h", made.points, Limits(signs_right=0.8)))


def test_worst_rows_come_once_with_their_worst_claim() -> None:
    first = Entry("a", "a", "in-sample", (point(0.1, label="row"), point(-0.3, label="other")))
    second = Entry("b", "b", "one row out", (point(-0.5, label="row"),))
    ratios = Entry("c", "c", "in-sample", (point(9.0, label="ratio"),), Limits(signs_right=0.9))
    assert [(e.key, p.label) for e, p in worst([first, second, ratios], 10)] == [("b", "row"), ("a", "other")]


def test_claims_are_pooled_by_how_and_limits() -> None:
    made = [entry(0.1), entry(0.2), entry(0.3, how="held out"), entry(0.4, limits=Limits(median=1.0))]
    assert [(how, len(same)) for how, same in pooled(made)] == [("in-sample", 2), ("held out", 1), ("in-sample", 1)]


def test_claims_about_one_group_are_broken_down_together() -> None:
    both = Entry("k", "two", "in-sample", (point(0.1), point(0.3, group="n")))
    made = [entry(0.1), Entry("k", "other", "in-sample", (point(0.2),)), both]
    assert [(what, part, s.rows) for what, _, part, s in broken_down(made, lambda p: p.group)] == [
        ("all", "m", 2), ("two", "m", 1), ("two", "n", 1),
    ]  # fmt: skip


def small(error: float) -> Section:
    asked = entry(error, 0.01, limits=Limits(median=0.1))
    claims = (asked, Entry("beside", "what", "in-sample", asked.points, gated=False))
    return Section("s", "Title", "<= 10 %", "One\n  line.\n\nAnother.", claims, ("a | b: why.",))


def test_markdown_says_what_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("emulated", "others")  # what they miss is no matter of these sections
    for part in parts:
        monkeypatch.setattr(report_parts, part, lambda *_: [])
    good, bad = compare.markdown([small(0.1)], False), compare.markdown([small(0.3)], True)
    assert "| met |" in good and "missed" not in good
    assert "missed by 1 of 1: what median 15.50%" in bad and "make validate ARGS=--full" in bad
    assert "One line.\n\nAnother." in good
    assert "a | b: why." in good and "### Rows left out" in good
    assert compare.markdown([small(0.1)], False) == good


def test_the_report_holds_emulated_links_and_other_tools(tmp_path: Path) -> None:
    text = compare.markdown([small(0.1)], False)
    twin = json.loads(report_parts.PEERS_TWIN.read_text())
    closer, counted = (twin["shares"]["ttft"]["left_out"][name] for name in ("closer", "rows"))
    verdict = "met" if closer >= twin["limit"] * counted else "missed"
    assert f"| {closer} of {counted} ({closer / counted:.0%}) | {twin['limit']:.0%}: {verdict} |" in text
    assert sum(line.startswith(("| TTFT |", "| all-reduce |")) for line in text.splitlines()) == sum(
        group["counted"] for group in twin["groups"]
    )
    campaign = report_parts.campaign()
    assert campaign is not None
    said = (compare.REPORTS / "validation.md").read_text()
    assert "\n".join(report_parts.emulated(campaign, compare.table)) in said
    assert "\n".join(report_parts.others(report_parts.PEERS_TWIN, compare.table)) in said
    for figure in emulate_report.figures(campaign):
        assert f"| {figure.what}{figure.note} | {figure.cells} | {figure.value:.1%} |" in text
    assert report_parts.others(tmp_path / "none.json", compare.table) == []
    assert report_parts.emulated(None, compare.table) == []


def test_lost_targets_are_found() -> None:
    then, now = compare.document([small(0.1)], False), compare.document([small(0.3)], False)
    (said,) = compare.lost(now, then)
    assert said.startswith("k: the report says met") and "now missed" in said and "0.155" in said
    assert compare.lost(then, now) == [] == compare.lost(then, then)
    assert compare.lost({"entries": []}, then) == []


@pytest.mark.parametrize(
    ("verdict", "limit", "status"),
    [("met", 0.03, 0), ("met", 1e-9, 1), ("missed", 1e-9, 0)],
    ids=["kept", "lost", "known"],
)
def test_check_exits_with_what_it_finds(
    verdict: str, limit: float, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that says met, and links that now miss a limit of next to nothing: exit 1, and the report untouched."""
    told = [{**e, "verdict": verdict} for e in report()["entries"] if e["key"] == "links.8xl40s-pcie"]
    twin = tmp_path / "validation.json"
    twin.write_text(json.dumps({"full": False, "entries": told}))
    before = twin.read_bytes()
    monkeypatch.setattr(targets_hosts, "RATE_LIMITS", Limits(worst=limit))
    assert compare.main(["--check", "--only", "links", "--reports", str(tmp_path)]) == status
    assert twin.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["validation.json"]


def test_check_without_a_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        compare.main(["--check", "--only", "links", "--reports", str(tmp_path)])
    assert "no report to check against" in capsys.readouterr().err


def test_a_run_writes_report_and_twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every section stubbed by a quick one: same bytes twice, no date, the two files and the one picture
    that this section and the kept campaign give."""
    quick: Callable[[bool], Section] = compare.SECTIONS["links"]
    monkeypatch.setattr(compare, "SECTIONS", {"links": quick})
    compare.main(["--reports", str(tmp_path)])
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    compare.main(["--reports", str(tmp_path)])
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(first) == {"validation.md", "validation.json", "emulated-links.svg"}


def test_only_some_sections_write_nothing(tmp_path: Path) -> None:
    compare.main(["--only", "links", "--reports", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []
