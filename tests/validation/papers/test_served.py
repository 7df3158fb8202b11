"""Served rows: which are above the gate, and how signs are counted."""

import pytest

from thinwire.sim.question import options_of
from thinwire.sim.serving.question import Service
from thinwire.validation.fits.published_tables import rows
from thinwire.validation.papers.served import MIB, TABLE, Judged, Row, pairs, score, scores, shipped

ROW = Row("Qwen2.5-72B-Instruct", "MI300X", "SGLang", 8, "INT8", "quickreduce-int8", "TTFT", 100.0, 90.0, "a test")


def test_pairs_are_the_tables() -> None:
    found = pairs()
    assert len(found) == 76 and len(rows(TABLE)) == 83
    published = [float(r["ratio_compressed_over_plain"]) for r in rows(TABLE) if r["uncompressed"]]
    assert [row.ratio for row in found] == pytest.approx(published, abs=5.1e-5)
    assert {row.metric for row in found} == {"TTFT", "ITL", "TPOT"}


def test_only_messages_of_eight_mib_lie_below_sixteen() -> None:
    below = {(row.model, row.tp, row.wire) for row in pairs() if not row.above_gate}
    assert below == {("Qwen3-30B-A3B-Instruct-2507", 4, "INT8")}
    assert {row.message_bytes / MIB for row in pairs()} == {8, 28, 128}
    assert {row.gate_bytes / MIB for row in pairs() if row.wire == "FP4"} == {1, 2}


def test_options_are_those_of_a_service() -> None:
    known = options_of(Service)
    for setup in shipped().setup:
        assert set(setup.options) <= set(known)
        assert setup.service(8, "bf16").source() == "rate"
    with pytest.raises(ValueError, match="no set-up for llama"):
        shipped().of("llama", "MI300X")


@pytest.mark.parametrize(
    ("theirs", "ours", "right"),
    [(90.0, 0.9, True), (90.0, 1.1, False), (101.0, 1.0, True), (101.0, 0.9, False), (90.0, 0.9995, False)],
)
def test_a_sign_is_right_where_both_gain_or_neither(theirs: float, ours: float, right: bool) -> None:
    row = Row("m", "MI300X", "e", 8, "INT8", "s", "TTFT", 100.0, theirs, "a test")
    assert Judged(row, ours).right is right


def test_scores_count_rows_above_and_below_apart() -> None:
    one, two = Judged(ROW, 0.9), Judged(ROW, 1.1)
    assert score("x", [one, two]).share == 0.5 and score("x", [one, two]).gains == 2
    below = next(Judged(row, 0.9) for row in pairs() if not row.above_gate)
    found = {s.what: (s.rows, s.right) for s in scores([one, two, below])}
    assert found["above the gate"] == (2, 1) and found["above the gate, MI300X, first token"] == (2, 1)
    assert found["below the gate"][0] == 1
