"""Answers show themselves: a line, a table, a frame and a picture, all saying what their documents say."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import thinwire
from thinwire.sim.serving.arrivals import Drawn, lengths_of
from thinwire.sim.showing.display import MOST_ROWS, Displayed, shown
from thinwire.sim.sweeps.results import MOST_SERIES, Results
from thinwire.sim.sweeps.sweep import Report

from ..helpers import small

HOSTILE = chr(0xD800) + '<script>alert("x")</script>\n\r\u202e$\\frac{$ & \'</td>' * 40
MODEL = small("llama-3-8b", 4)
PLAN = """
model = "llama-3-8b"
weights = "fp8"
[load]
rate_per_s = 4.0
prompt = { kind = "fixed", mean = 300 }
output = { kind = "fixed", mean = 8 }
[targets]
ttft = { percentile = 95, seconds = 0.5 }
[prices]
8xl40s-pcie = { per_gpu_hour = 0.9, source = "of this test" }
8xh100-nvlink = { per_gpu_hour = 2.6, source = "of this test" }
[search]
tp = [2, 8]
schemes = ["bf16", "flash-int4"]
seconds = 20.0
"""
SWEEP = """
model = "llama-3-8b"
cluster = "4xl4-pcie"
scheme = ["bf16", "flash-int4"]
tp = [1, 4]
input_tokens = [4096, 128, 512]
batch = [1, 64]
"""


@pytest.fixture(scope="module", autouse=True)
def no_window() -> None:
    """Pictures are drawn and looked at by nobody."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib, the extra plots").use("agg")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    from matplotlib import pyplot

    pyplot.close("all")


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    folder = tmp_path_factory.mktemp("answers")

    @cache
    def of(name: str) -> Any:
        asked = (MODEL, "8xl40s-pcie")
        match name:
            case "Prediction":
                return thinwire.predict(*asked, "flash-int4", tp=4, input_tokens=700, slow_ranks={1: 1.2})
            case "Comparison":
                return thinwire.compare(["bf16", "none", "flash-int4", "mxfp4"], *asked, tp=4, input_tokens=700)
            case "ServingResult":
                load = Drawn(4.0, lengths_of("fixed", 300, None, None), lengths_of("fixed", 8, None, None))
                return thinwire.serve(thinwire.Deployment(*asked, "flash-int4", tp=2), load, 20.0)
            case "Plan":
                (folder / "plan.toml").write_text(PLAN)
                return thinwire.plan(folder / "plan.toml")
            case _:
                pytest.importorskip("pyarrow", reason="sweeps need pyarrow, the extra sweep")
                (folder / "sweep.toml").write_text(SWEEP)
                found = thinwire.sweep(folder / "sweep.toml", folder / "found.parquet", workers=1)
                return found if name == "Report" else thinwire.read_results(folder / "found.parquet")

    return of


CLASSES = ("Prediction", "Comparison", "ServingResult", "Plan", "Report", "Results")


class Parsed(HTMLParser):
    """Tags in order, checked to close where they are opened, and the text of every cell."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.cells: list[list[str]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        self._open.append(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1] in ("td", "th"):
            self.cells[-1][-1] += data


def hostile(found: Any) -> Any:
    """The same answer about things with names that somebody else chose."""
    match type(found).__name__:
        case "Prediction":
            scheme, cluster = replace(found.scheme, name=HOSTILE), replace(found.cluster, name=HOSTILE)
            return replace(found, model=replace(found.model, name=HOSTILE), scheme=scheme, cluster=cluster)
        case "Comparison":
            return replace(found, baseline=hostile(found.baseline), rows=tuple(map(hostile, found.rows)))
        case "ServingResult":
            return replace(found, model=HOSTILE, cluster=HOSTILE, scheme=HOSTILE, profile=HOSTILE)
        case "Plan":
            outcomes = tuple(
                replace(o, candidate=replace(o.candidate, cluster=HOSTILE, scheme=HOSTILE), reason=HOSTILE)
                for o in found.outcomes
            )
            return replace(found, outcomes=outcomes)
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(found.out)
    for column in ("model", "cluster", "scheme", "error"):
        at = table.schema.get_field_index(column)
        table = table.set_column(at, column, pa.array([HOSTILE[1:]] * len(table)))
    out = str(Path(found.out).with_name("<b>.parquet"))
    pq.write_table(table, out)
    return replace(found, out=out)


@pytest.mark.parametrize("name", CLASSES)
def test_a_repr_is_one_line(name: str, answer: Callable[[str], Any]) -> None:
    for found in (answer(name), hostile(answer(name))):
        assert isinstance(found, Displayed) and type(found).__name__ == name
        said = repr(found)
        assert said.isprintable() and len(said) < 200
        assert said.startswith(f"<{name}: ") and said.endswith(">")


def test_lines_say_what_matters(answer: Callable[[str], Any]) -> None:
    said = {name: repr(answer(name)) for name in CLASSES}
    assert (
        "TTFT" in said["Prediction"]
        and "under flash-int4, llama-3-8b on 4 GPUs of 8xl40s-pcie, 1 x 700" in said["Prediction"]
    )
    assert "4 schemes" in said["Comparison"] and "bf16 takes" in said["Comparison"]
    assert "TTFT p95" in said["ServingResult"] and "1 x TP 2 of 8xl40s-pcie" in said["ServingResult"]
    best = answer("Plan").cheapest
    assert f"{best.cost:.4g} an hour: {best.replicas} x TP {best.candidate.tp} of 8xl40s-pcie" in said["Plan"]
    assert said["Results"].removeprefix("<Results") == said["Report"].removeprefix("<Report")
    assert (
        "24 rows of predict in found.parquet" in said["Report"] and str(Path.cwd().anchor) + "tmp" not in said["Report"]
    )


@pytest.mark.parametrize("name", CLASSES)
def test_tables_parse_and_hold_nothing_but_text(name: str, answer: Callable[[str], Any]) -> None:
    for found in (answer(name), hostile(answer(name))):
        html = found._repr_html_()
        parsed = Parsed(html)
        assert parsed.tags == {"div", "table", "tbody", "tr", "th", "td"}
        assert {name for name, _ in parsed.attributes} == {"style"}
        assert "http" not in html and "url(" not in html and "<script" not in html
        assert len({len(row) for row in parsed.cells}) == 1 and len(html) < 40_000
        for style in (value or "" for key, value in parsed.attributes if key == "style"):
            assert "color:#" not in style and "background:#" not in style, "light and dark: the page's colours"


def test_tables_say_what_rows_say(answer: Callable[[str], Any]) -> None:
    found = answer("Comparison")
    head, *body = Parsed(found._repr_html_()).cells
    rows = found.to_pandas().to_dict("records")
    assert [row[0] for row in body] == [row["scheme"] for row in rows]
    assert [row[head.index("ttft_ms")] for row in body] == [shown(row["ttft_ms"]) for row in rows]
    upright = dict(Parsed(answer("Prediction")._repr_html_()).cells)
    assert upright["ttft_ms"] == shown(answer("Prediction").ttft_s * 1e3)
    assert "and 4 more" in answer("Results")._repr_html_(), "of 24"
    assert len(Parsed(answer("Results")._repr_html_()).cells) == 1 + MOST_ROWS


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (11580.4, "11,580"),
        (2.26419, "2.264"),
        (999.96, "1000"),
        (-1234.5, "-1,234"),
        (1.5e-7, "0.000000"),
        (0.0, "0"),
        (8430551040, "8,430,551,040"),
        (float("nan"), "-"),
        (float("inf"), "-"),
        (None, "-"),
        (True, "True"),
        ("a", "a"),
    ],
)
def test_values_are_never_powers_of_ten(value: object, said: str) -> None:
    assert shown(value) == said


# --- frames


def test_frames_of_predictions_have_the_documents_numbers(answer: Callable[[str], Any]) -> None:
    pytest.importorskip("pandas", reason="frames need pandas, the extra pandas")
    found = answer("Comparison")
    for row, document in zip(found.to_pandas().to_dict("records"), found.to_dict()["rows"], strict=True):
        for name in ("model", "cluster", "scheme", "tp", "batch", "input_tokens", "ttft_ms", "wire_bytes_per_gpu"):
            assert row[name] == document[name]
        assert [row["ttft_ms_low"], row["ttft_ms_high"]] == document["ttft_ms_interval"]
        assert {name: row[f"{name}_ms"] for name in document["breakdown_ms"]} == document["breakdown_ms"]
        assert row["speedup"] == document["speedup"]
        known = document["accuracy"]
        assert (
            row["perplexity_ratio"] == known["perplexity_ratio"]
            if known
            else row["perplexity_ratio"] is None or (row["perplexity_ratio"] != row["perplexity_ratio"])
        )
    (alone,) = answer("Prediction").to_pandas().to_dict("records")
    assert alone["ttft_ms"] == answer("Prediction").to_dict()["ttft_ms"]


def test_frames_of_serving_runs_have_the_documents_numbers(answer: Callable[[str], Any]) -> None:
    found = answer("ServingResult")
    (row,) = found.to_pandas().to_dict("records")
    document = found.to_dict()
    for times in ("ttft_ms", "tpot_ms", "latency_ms"):
        for q in ("mean", "p50", "p95", "p99"):
            assert row[f"{times}_{q}"] == document[times][q]["value"]
            assert row[f"{times}_{q}_half_width"] == document[times][q]["half_width"]
    assert row["goodput_requests_per_s"] == document["goodput_requests_per_s"]["value"]
    assert row["requests_arrived"] == document["requests"]["arrived"]


def test_frames_of_plans_have_a_row_a_candidate(answer: Callable[[str], Any]) -> None:
    found = answer("Plan")
    rows = found.to_pandas().to_dict("records")
    assert len(rows) == len(found.outcomes) == 8
    for row, outcome in zip(rows, found.outcomes, strict=True):
        document = outcome.to_dict()
        assert (row["cluster"], row["scheme"], row["why"]) == (document["cluster"], document["scheme"], document["why"])
        if document["ttft_ms"] is not None:
            assert row["ttft_ms"] == document["ttft_ms"]["value"]
            assert row["ttft_ms_half_width"] == document["ttft_ms"]["half_width"]
            assert row["cost_per_hour"] == document["cost_per_hour"]
    assert [row["cheapest"] for row in rows].count(True) == 1
    assert sum(row["on_frontier"] for row in rows) == len(found.frontier)


def test_frames_of_sweeps_are_the_file(answer: Callable[[str], Any]) -> None:
    pandas = pytest.importorskip("pandas", reason="frames need pandas, the extra pandas")
    found = answer("Report")
    assert isinstance(found, Report) and isinstance(found, Results)
    read = pandas.read_parquet(found.out)
    frame = found.to_pandas()
    assert list(frame.columns) == list(read.columns)
    for name in read.columns:
        ours, theirs = frame[name], read[name]
        assert all((a == b) or (pandas.isna(a) and pandas.isna(b)) for a, b in zip(ours, theirs, strict=True)), name
    assert found.to_dict().keys() == {
        "out", "points", "failed", "computed", "resumed", "left_out", "restarts", "seconds", "points_per_s", "reasons",
    }  # fmt: skip
    assert sum(found.failures().values()) == found.failed > 0
    assert found.varying() == ["tp", "gpus", "batch", "input_tokens", "scheme"]


def test_what_is_no_sweeps_file_is_refused(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet", reason="sweeps need pyarrow, the extra sweep")
    import pyarrow as pa

    with pytest.raises(ValueError, match=r"cannot read .*none\.parquet"):
        thinwire.read_results(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("PAR1 no PAR1")
    with pytest.raises(ValueError, match=r"cannot read .*text\.parquet"):
        thinwire.read_results(tmp_path / "text.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="is no result of this thinwire's sweep"):
        thinwire.read_results(tmp_path / "other.parquet")


# --- pictures


@pytest.mark.parametrize("name", CLASSES)
def test_plot_draws_in_the_axes_given_and_else_in_its_own(name: str, answer: Callable[[str], Any]) -> None:
    from matplotlib import pyplot

    given = pyplot.subplots()[1]
    for found in (answer(name), hostile(answer(name))):
        given.clear()
        assert found.plot(ax=given) is given
        own = found.plot()
        assert own is not given and own.get_xlabel() + own.get_ylabel()
        for ax in (given, own):
            ax.figure.canvas.draw()  # names are laid out: none is taken for a formula


def test_bars_are_the_rows(answer: Callable[[str], Any]) -> None:
    found = answer("Comparison")
    ax = found.plot()
    rows = found.to_pandas().to_dict("records")
    assert [label.get_text() for label in ax.get_yticklabels()] == [row["scheme"] for row in rows]
    drawn = {bars.get_label(): [bar.get_width() for bar in bars] for bars in ax.containers if hasattr(bars, "patches")}
    for part in ("compute", "exposed communication"):
        assert drawn[part] == pytest.approx([row[f"{part.replace(' ', '_')}_ms"] for row in rows])
    ends = [sum(widths) for widths in zip(*drawn.values(), strict=True)]
    assert ends == pytest.approx([row["ttft_ms"] for row in rows])
    (whisker,) = (c for c in ax.containers if c.get_label() == "90 % interval")
    (segments,) = (lines.get_segments() for lines in whisker[2])
    assert [list(s[:, 0]) for s in segments] == [
        pytest.approx([row["ttft_ms_low"], row["ttft_ms_high"]]) for row in rows
    ]
    assert ax.get_xlabel() == "TTFT, ms"


def test_points_of_plans_and_serving_runs_are_the_rows(answer: Callable[[str], Any]) -> None:
    plan = answer("Plan")
    ax = plan.plot()
    *dots, rings = ax.collections
    drawn = {tuple(point) for each in dots for point in each.get_offsets().tolist()}
    assert drawn == {(o.cost, o.ttft.value * 1e3) for o in plan.outcomes if o.why == "fits"}
    assert {tuple(p) for p in rings.get_offsets().tolist()} == {(o.cost, o.ttft.value * 1e3) for o in plan.frontier}
    served = answer("ServingResult")
    ax = served.plot()
    percentiles = [line for line in ax.lines if line.get_marker() == "o"]
    ttft = served.run.ttft
    assert list(percentiles[0].get_ydata()) == [each.value * 1e3 for each in (ttft.mean, *ttft.percentiles.values())]


def test_series_of_sweeps_are_the_rows(answer: Callable[[str], Any]) -> None:
    found = answer("Results")
    ax = found.plot()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("input_tokens", "ttft_ms")
    rows = [row for row in found.rows() if row["error"] is None]
    wanted: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for row in rows:
        key = (row["tp"], row["gpus"], row["batch"], row["scheme"])
        wanted.setdefault(key, []).append((row["input_tokens"], row["ttft_ms"]))
    drawn = [[tuple(point) for point in line.get_xydata()] for line in ax.lines]
    assert drawn == [sorted(points) for points in wanted.values()] and len(drawn) <= MOST_SERIES
    ax = found.plot(x="batch", y="wire_bytes_per_gpu")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("batch", "wire_bytes_per_gpu")
    with pytest.raises(ValueError, match="no such column: 'speed'"):
        found.plot(y="speed")


# --- light


@pytest.mark.parametrize(
    ("module", "call", "extra"),
    [("pandas", "to_pandas", "pandas"), ("matplotlib.pyplot", "plot", "plots")],
)
def test_what_is_missing_is_named(
    module: str, call: str, extra: str, answer: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = answer("Prediction")
    monkeypatch.setitem(sys.modules, module, None)
    package = module.partition(".")[0]
    with pytest.raises(ValueError, match=rf"^{call} needs {package}: pip install 'thinwire\[{extra}\]'$"):
        getattr(found, call)()


def test_an_answer_is_looked_at_without_extras() -> None:
    """import thinwire, a prediction, its line and its table bring neither pandas nor matplotlib nor pyarrow."""
    code = """
import sys, thinwire
assert thinwire.plan and thinwire.sweep and thinwire.serve and thinwire.write_trace and thinwire.read_results
found = thinwire.predict("llama-3-8b", "8xl40s-pcie", "bf16", tp=2)
repr(found), found._repr_html_()
print([name for name in ("pandas", "matplotlib", "pyarrow", "perfetto", "torch") if name in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    assert all(getattr(thinwire, name) is not None for name in thinwire.__all__)
    assert sorted(thinwire.__all__) == list(thinwire.__all__)
