"""The report's pictures: the same rows give the same bytes, and every row is there."""

from pathlib import Path

from thinwire.validation.targets import compare, plots, report_parts
from thinwire.validation.targets.targets import Entry, Limits, Point, Section


def section(key: str, rows: int, how: str = "one row out") -> Section:
    points = tuple(Point("a machine", f"size {i % 3}", f"row {i}", 1e-3 * 2**i, 1.1e-3 * 2**i) for i in range(rows))
    seen = Entry(f"{key}/seen", "seen", "in-sample", points[:1])
    return Section(key, f"Section {key}", "", "", (seen, Entry(f"{key}/x", "x", how, points, Limits(median=0.2))))


def test_pictures_hold_every_row_and_come_out_alike(tmp_path: Path) -> None:
    sections = [section("prefill", 5), section("sglang", 4), section("gemm", 6)]
    campaign = report_parts.campaign()
    assert campaign is not None
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        drawn = plots.draw(sections, campaign, folder)
        assert [path.name for path in drawn] == list(compare.PICTURES)
    for name in compare.PICTURES:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    shown = (first / "predicted-against-measured.svg").read_text()
    assert "Section prefill (5)" in shown and "Section sglang (4)" in shown and "Section gemm" not in shown
    cells = dict.fromkeys(("real", "paced"), 0)
    for case in campaign["cases"].values():
        cells[case["mode"]] += len(case["rows"])
    links = (first / "emulated-links.svg").read_text()
    assert all(f"{mode} ({count})" in links for mode, count in cells.items())
    assert "Section gemm" in (first / "error-by-size.svg").read_text()


def test_rows_that_a_fit_had_seen_are_not_shown_as_predicted() -> None:
    assert len(plots.left_out(section("prefill", 5))) == 5
    assert len(plots.left_out(section("prefill", 5, "in-sample"))) == 5  # all there is
    beside = Entry("x/beside", "beside", "held out", section("x", 3).entries[1].points, gated=False)
    assert len(plots.left_out(Section("x", "X", "", "", (*section("x", 5).entries, beside)))) == 5
