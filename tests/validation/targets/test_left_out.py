"""Hosts left out whole: the interval of each never saw it, holds what is asked for, and the documents say so."""

from math import exp
from pathlib import Path

import pytest

from thinwire.sim.costs.spread import ANOTHER_HOST, Spread
from thinwire.validation.hosts import ceilings, measured
from thinwire.validation.hosts.between import Off
from thinwire.validation.targets import left_out
from thinwire.validation.targets.left_out import cells, inside, judge, judged, kinds_judged

OWN = Spread("nccl", None, -0.1, 0.0, 0.1, 100, "measured: made up")


def off(host: str, log: float) -> Off:
    return Off(host, "PCIe", "made", "nccl", "row", 2.0**25, exp(log), 1.0, OWN)


def test_a_host_never_sees_its_own_rows() -> None:
    """Three hosts alike and one far off: the far one's interval is that of the three, and misses it."""
    rows = judged([*(off(host, 0.0) for host in "abc"), off("far", 1.0)], "PCIe")
    assert [row.off.seconds < row.interval[1] for row in rows] == [True, True, True, False]
    assert rows[0].interval[1] > 1.5 and rows[3].interval[1] < 1.2


def test_the_share_is_what_the_part_adds_to_the_width() -> None:
    part = Spread(ANOTHER_HOST, None, -0.5, 0.0, 0.5, 4, "measured: made up")
    row = judge(off("a", 0.2), [part])
    assert row.own == pytest.approx((exp(-0.1), exp(0.1)))
    width, own = row.interval[1] - row.interval[0], row.own[1] - row.own[0]
    assert row.share == pytest.approx(1 - own / width) and 0 < row.share < 1
    assert (inside([row], True), inside([row], False)) == (0.0, 1.0)
    assert judge(off("a", 0.2), []).share == 0.0


def test_a_claim_of_coverage_is_met_or_missed() -> None:
    point = left_out.point(judge(off("a", 0.2), []))
    for limits, verdict in ((left_out.LIMITS, "missed"), (left_out.Limits(inside=0.0), "met")):
        assert left_out.Entry("k", "w", "h", (point,), limits).verdict == verdict
    assert str(left_out.LIMITS) == "inside >= 85%"


def test_each_kind_holds_what_is_asked_for() -> None:
    for kind, rows in kinds_judged().items():
        assert inside(rows, False) >= 0.85, kind
        assert inside(rows, True) <= inside(rows, False)
    assert list(kinds_judged()) == [*measured.KINDS, ceilings.KIND]


def test_trust_says_what_the_section_says(root: Path) -> None:
    """If this fails after the tables or fits have changed: these are the rows of docs/trust.md."""
    told = (root / "docs" / "trust.md").read_text("utf-8").split("<!-- hosts left out -->")[1].split("<!-- end -->")[0]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in told.splitlines()[4:] if line]
    assert rows == [cells(kind, some) for kind, some in kinds_judged().items()]


def test_the_section_has_an_entry_a_kind() -> None:
    section = left_out.hosts_left_out()
    assert [entry.what for entry in section.entries] == list(kinds_judged())
    assert all(entry.gated and entry.limits == left_out.LIMITS for entry in section.entries)
    assert len(section.left_out) == len(measured.LEFT_OUT) + len(ceilings.LEFT_OUT)
