"""Traces: what a run did and nothing else, in both formats alike, and the same bytes for the same input."""

import os
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from thinwire.reference.core.schedule import SWITCH
from thinwire.sim import api
from thinwire.sim.predict import record
from thinwire.sim.report import Prediction
from thinwire.sim.traces import drawing
from thinwire.sim.traces.formats import write_trace as write
from thinwire.sim.traces.write import about, write_trace

from ..helpers import machine, small
from .reading import Read, Slice, read_json, read_protobuf

MODEL = small("llama-3-8b", 12)
ARGUMENTS = ("llama-3-8b", "8xl40s-pcie", "flash-int4+spd-50+iso", 4, 2, 600)
KEPT = {"folded": (MODEL, "8xl40s-pcie", "flash-int4", 4, 2, 600), "parts": (MODEL, *ARGUMENTS[1:])}


def predicted(**given: Any) -> Prediction:
    return api.predict(MODEL, *ARGUMENTS[1:], **given)


@cache
def case(name: str) -> Prediction:
    """Runs of every kind there is."""
    match name:
        case "straggler":
            return predicted(slow_ranks={1: 1.5})
        case "unfolded":
            return predicted(folded=False, slow_ranks={1: 1.5})
        case "posted":  # sockets: ranks go on while what they send leaves
            cluster, profile = machine("8xl40s-pcie", 4)
            protocols = tuple(replace(p, posted=p.primitive != "nvls") for p in profile.fabric.protocols)
            sockets = replace(profile, fabric=replace(profile.fabric, protocols=protocols))
            return api.predict(MODEL, cluster, "flash-int4", batch=1, input_tokens=600, profile=sockets,
                               slow_ranks={2: 1.3})  # fmt: skip
        case "switch":  # that reduces
            return api.predict(MODEL, "8xh100-nvlink", "bf16", 8, 1, 64)
        case "some GPUs":
            return api.predict(MODEL, "8xl40s-pcie", "flash-int4", batch=1, input_tokens=600, gpus="0,1,6,7")
        case "one GPU":
            return api.predict(MODEL, "8xl40s-pcie", "bf16", 1, 1, 600)
        case "experts":
            return api.predict(small("mixtral-8x7b", 8), "8xh100-nvlink", "bf16", 4, 1, 600, attention="dp")
        case "lanes":  # many chunks in flight
            return api.predict(MODEL, "8xl40s-pcie", "bf16", 8, 4, 2048)
    return api.predict(*KEPT[name])


CASES = (*KEPT, "straggler", "unfolded", "posted", "switch", "some GPUs", "one GPU", "experts", "lanes")


@pytest.fixture(scope="module")
def messages() -> ModuleType:
    """Perfetto's schema, as the package `perfetto` generates it."""
    return pytest.importorskip(
        "perfetto.protos.perfetto.trace.perfetto_trace_pb2", reason="the package perfetto is not installed"
    )


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(JSON read back, protobuf as it is) of a case."""
    folder = tmp_path_factory.mktemp("traces")

    @cache
    def of(name: str) -> tuple[Read, bytes]:
        written = [folder / f"{name}{end}" for end in (".json", ".pftrace")]
        for path in written:
            write_trace(case(name), path)
        return read_json(written[0].read_bytes()), written[1].read_bytes()

    return of


@pytest.mark.parametrize("name", CASES)
def test_protobuf_by_perfettos_schema_says_what_json_says(name: str, traces: Any, messages: ModuleType) -> None:
    read, content = traces(name)
    again = read_protobuf(content, messages)
    assert again.processes == read.processes
    assert again.tracks == read.tracks
    assert again.arrows == read.arrows
    assert again.counters == read.counters


@pytest.mark.parametrize("name", CASES)
def test_slices_are_the_spans_of_the_prediction(name: str, traces: Any) -> None:
    """Every op, kernel and exchange of every layer, at its time, to the nanosecond and a rounding."""
    found, (read, _) = case(name), traces(name)
    indices = found.cluster.indices
    names = {r: f"rank {r}" if r == i else f"rank {r} (GPU {i})" for r, i in enumerate(indices)}
    assert [p for p in read.processes if p.startswith("rank")] == list(names.values())
    wanted: dict[tuple[str, str], list[tuple[str, int, float, float]]] = defaultdict(list)
    for span in found.timeline.spans():
        track = "compute" if span.stream == "compute" else "exchanges"
        wanted[names[span.rank], track].append((span.name, span.layer, span.start_s, span.end_s))
    for rank in names.values():
        for track in ("compute", "exchanges"):
            slices = read.tracks.get((rank, track), [])
            ops = [s for s in slices if s.depth == 0]
            spans = sorted(wanted[rank, track], key=lambda each: each[2])
            assert [(s.name, s.args["layer"]) for s in ops] == [each[:2] for each in spans]
            for s, (_, _, start_s, end_s) in zip(ops, spans, strict=True):
                assert abs(s.begin_ns - start_s * 1e9) < 3 and abs(s.end_ns - end_s * 1e9) < 3
            kernels = [s for s in slices if s.depth == 1]
            assert sum(s.end_ns - s.begin_ns for s in kernels) == sum(s.end_ns - s.begin_ns for s in ops if kernels)
            assert all(s.depth < 2 for s in slices)
    (whole,) = read.tracks["the run", "prediction"]
    assert whole.end_ns == pytest.approx(found.ttft_s * 1e9, abs=2)
    assert whole.args == about(found) and {"model", "scheme", "cluster", "thinwire"} <= whole.args.keys()


@pytest.mark.parametrize("name", ["folded", "some GPUs", "one GPU"])
def test_what_it_is_of_is_the_predictions_document(name: str) -> None:
    """Under the same names, and the interval's ends under their own."""
    said, document = about(case(name)), case(name).to_dict()
    for key in ("model", "cluster", "tp", "scheme", "batch", "input_tokens", "ttft_ms"):
        assert said[key] == document[key], key
    assert [said["ttft_ms_low"], said["ttft_ms_high"]] == document["ttft_ms_interval"]


@pytest.mark.parametrize("name", CASES)
def test_exchanges_tell_their_codec_time_and_who_waited(name: str, traces: Any) -> None:
    found, (read, _) = case(name), traces(name)
    totals: dict[str, Counter[int]] = {"codec": Counter(), "waited": Counter()}
    for span in found.timeline.spans():
        if span.stream == "communication":
            totals["codec"][span.rank] += span.codec_s
            totals["waited"][span.rank] += span.waited_s
    for rank, name_of in enumerate(p for p in read.processes if p.startswith("rank")):
        exchanges = read.tracks.get((name_of, "exchanges"), [])
        for what, seconds in totals.items():
            assert sum(s.args[f"{what}_us"] for s in exchanges) == pytest.approx(seconds[rank] * 1e6, abs=1e-6)
        stretches = read.tracks.get((name_of, "codec"), [])
        drawn_ns = sum(s.end_ns - s.begin_ns for s in stretches)
        if name != "posted":  # there codec kernels run before the last rank comes, which exchanges leave out
            assert drawn_ns == pytest.approx(totals["codec"][rank] * 1e9, abs=1 + len(stretches))
        assert {part for s in stretches for part in s.name.split(" + ")} <= {"encode", "reduce", "decode"}
        assert all(a.end_ns <= b.begin_ns for a, b in pairwise(stretches)), "one after the other"


@pytest.mark.parametrize("name", CASES)
def test_arrows_go_from_who_sends_to_who_receives(name: str, traces: Any) -> None:
    """Every byte that a rank sends in an exchange of the pass is one arrow's, and lies in an exchange of its layer."""
    found, (read, _) = case(name), traces(name)
    ranks = {p: str(i) for i, p in enumerate(p for p in read.processes if p.startswith("rank"))} | {
        "the switch": "switch"
    }
    numbers = {process: SWITCH if rank == "switch" else int(rank) for process, rank in ranks.items()}
    ends: Counter[tuple[str, str]] = Counter()
    for sent, received in read.arrows.values():
        assert sent.where[1].startswith("sends") and received.where[1].startswith("receives")
        assert sent.name == f"to {ranks[received.where[0]]}" and received.name == f"from {ranks[sent.where[0]]}"
        assert sent.args == received.args and sent.args["bytes"] > 0
        way = found.cluster.route(*(numbers[one.where[0]] for one in (sent, received)))
        assert received.begin_ns - sent.begin_ns == pytest.approx(sum(link.latency_s for link in way) * 1e9, abs=2)
        assert sent.end_ns - sent.begin_ns == pytest.approx(received.end_ns - received.begin_ns, abs=2)
        ends[sent.where] += 1
        ends[received.where] += 1
    transfers = {w: len(s) for w, s in read.tracks.items() if w[1].startswith(("sends", "receives"))}
    assert ends == transfers, "every transfer has its arrow"
    exchanges: dict[tuple[str, int], list[Slice]] = defaultdict(list)
    for (process, track), slices in read.tracks.items():
        if track == "exchanges":
            for s in slices:
                exchanges[process, s.args["layer"]].append(s)
    if name != "posted":
        for sent, received in read.arrows.values():
            for one in (sent, received):
                if one.where[0] != "the switch":
                    around = exchanges[one.where[0], one.args["layer"]]
                    assert any(s.begin_ns - 3 <= one.begin_ns and one.end_ns <= s.end_ns + 3 for s in around)
    if name == "experts":  # the most that any rank sends, which none need do in both of dispatch and combine
        return
    last = found.model.num_layers
    layered: Counter[str] = Counter()
    for sent, _ in read.arrows.values():
        if sent.args["layer"] < last:
            layered[sent.where[0]] += sent.args["bytes"]
    most = max((n for process, n in layered.items() if process != "the switch"), default=0)
    assert most == found.traffic.layer_bytes_per_gpu


@pytest.mark.parametrize("name", CASES)
def test_counters_times_time_are_the_links_bytes(name: str, traces: Any) -> None:
    found, (read, _) = case(name), traces(name)
    wanted = {link: nbytes for link, nbytes in found.traffic.link_bytes.items() if nbytes}
    rates = {(link.source, link.target): link.bandwidth_bytes_per_s for link in found.cluster.links}
    names = {f"{a} -> {b} (of {rates[a, b] / 1e9:.6g} GB/s)": (a, b) for a, b in wanted}
    assert read.counters.keys() == names.keys(), "links that carry anything, and no others"
    assert ("links" in read.processes) == bool(names)
    for counter, points in read.counters.items():
        assert points[0][0] == 0 and points[-1][1] == 0
        assert all(a[0] < b[0] and a[1] != b[1] for a, b in pairwise(points)), "changes, in order"
        crossed = sum(rate * (b_ns - a_ns) for (a_ns, rate), (b_ns, _) in pairwise(points))
        assert crossed == pytest.approx(wanted[names[counter]], rel=1e-6)
        moments_s = sorted(b - a for (a, rate), (b, _) in pairwise(points) if rate)
        most = max(rate for _, rate in points) * 1e9
        assert most <= rates[names[counter]] * (1 + 4 / moments_s[0]), "but for rounding to nanoseconds"


@pytest.mark.parametrize("name", ["folded", "parts", "unfolded"])
def test_it_says_which_layers_are_copies(name: str, traces: Any) -> None:
    found, (read, _) = case(name), traces(name)
    said = [s.name for s in read.tracks["the run", "how it was simulated"]]
    copies = [s for s in said if s.startswith("copies of layer")]
    assert len(copies) == len(found.timeline.folds)
    if name == "folded":
        (fold,) = found.timeline.folds
        assert copies == [
            f"copies of layer 3, {fold.period_s * 1e3:.6g} ms apart: layer 4 to layer {found.model.num_layers - 1}"
        ]
        assert said[0] == "simulated: what comes before to layer 3"
        assert said[2] == "simulated: what comes after"
    if name == "parts":
        assert [s.split(",")[0] for s in copies] == ["copies of layer 3", "copies of layer 9"]
    if name == "unfolded":
        assert said == ["simulated: what comes before to what comes after"]
    assert ("the run", "what is drawn") not in read.tracks, "all of it"


@pytest.mark.parametrize("name", ["folded", "posted", "straggler"])
def test_what_is_too_much_is_left_out_and_said(
    name: str, traces: Any, messages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transfers of the first layers, one at least; a link's bytes stay its bytes."""
    found, (all_of_it, _) = case(name), traces(name)
    monkeypatch.setattr(drawing, "MOST_TRANSFERS", 200)
    write_trace(found, tmp_path / "cut.json")
    write_trace(found, tmp_path / "cut.pftrace")
    read = read_json((tmp_path / "cut.json").read_bytes())
    assert read_protobuf((tmp_path / "cut.pftrace").read_bytes(), messages) == read
    assert 100 < len(read.arrows) <= 200 < len(all_of_it.arrows)
    drawn = max(sent.args["layer"] for sent, _ in read.arrows.values())
    said = [s.name for s in read.tracks["the run", "what is drawn"]]
    assert said[0] == f"every transfer: what comes before to layer {drawn}"
    assert said[1].endswith(f"links' mean over each exchange: layer {drawn + 1} to what comes after")
    pieces = {arrow: pair for arrow, pair in all_of_it.arrows.items() if pair[0].args["layer"] <= drawn}
    assert read.arrows.keys() == pieces.keys()
    for where, slices in all_of_it.tracks.items():
        if where[1] in ("compute", "exchanges"):
            assert read.tracks[where] == slices, "every span all the same"
    for counter, points in read.counters.items():
        whole = [sum(rate * (b[0] - a[0]) for a, b in pairwise(p) for rate in a[1:])
                 for p in (points, all_of_it.counters[counter])]  # fmt: skip
        assert whole[0] == pytest.approx(whole[1], rel=1e-6)
        assert len(points) < len(all_of_it.counters[counter])
    monkeypatch.setattr(drawing, "MOST_TRANSFERS", 1)
    write_trace(found, tmp_path / "least.json")
    least = read_json((tmp_path / "least.json").read_bytes())
    assert {sent.args["layer"] for sent, _ in least.arrows.values()} == {0}


def test_eighty_layers_on_sixteen_gpus_stay_below_20_mb(tmp_path: Path) -> None:
    """Of 471,280 transfers, chunk after chunk round two nodes."""
    found = api.predict("llama-3-70b", "2x8xh100-ib", "bf16", 16, 8, 1024)
    seen = record(found)
    assert sum(1 for _ in seen.unrolled(seen.moved)) > 20 * drawing.MOST_TRANSFERS
    path = tmp_path / "large.json"
    write(seen, path)
    assert 1e6 < path.stat().st_size < 20e6
    drawn = drawing.draw(seen, {})
    arrows = sum(one.sends is not None for track in drawn.tracks for one in track.slices)
    assert drawing.MOST_TRANSFERS / 2 < arrows <= drawing.MOST_TRANSFERS


def test_recording_changes_no_time(messages: ModuleType) -> None:
    """Event by event, as nothing is replayed: the same spans to 1e-9."""
    for name in CASES:
        found = case(name)
        seen = record(found).timeline
        assert seen.ttft_s == pytest.approx(found.ttft_s, rel=1e-9)
        assert len(seen.simulated) == len(found.timeline.simulated)
        for a, b in zip(seen.simulated, found.timeline.simulated, strict=True):
            assert (a.rank, a.stream, a.name, a.layer) == (b.rank, b.stream, b.name, b.layer)
            assert a.start_s == pytest.approx(b.start_s, rel=1e-9) and a.end_s == pytest.approx(b.end_s, rel=1e-9)


HALF = chr(0xD800)  # of a character, as JSON may escape one


def test_names_are_taken_as_they_are(tmp_path: Path, messages: ModuleType) -> None:
    """A model's name is somebody else's text."""
    found = case("folded")
    hostile = '</script>"\\\n\u2028💥' + HALF
    renamed = replace(found, model=replace(found.model, name=hostile))
    write_trace(renamed, tmp_path / "a.json")
    write_trace(renamed, tmp_path / "a.pftrace")
    (whole,) = read_json((tmp_path / "a.json").read_bytes()).tracks["the run", "prediction"]
    (again,) = read_protobuf((tmp_path / "a.pftrace").read_bytes(), messages).tracks["the run", "prediction"]
    assert whole.args["model"] == again.args["model"] == hostile.replace(HALF, "?")


def test_protobuf_without_its_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "perfetto.protos.perfetto.trace.perfetto_trace_pb2", None)
    with pytest.raises(ValueError, match=r"needs the package perfetto: pip install 'thinwire\[trace\]'"):
        write_trace(case("folded"), tmp_path / "a.pftrace")
    assert not list(tmp_path.iterdir())
    write_trace(case("folded"), tmp_path / "a.json")


WRITE = """
import sys
from thinwire.reference.families.config import load_model
from thinwire.sim import api
from thinwire.sim.traces.write import write_trace
model = load_model({model!r}).with_layers(12)
for i, path in enumerate(sys.argv[1:]):
    write_trace(api.predict(model, *{rest!r}, folded=i % 2 == 0, slow_ranks={{3: 1.2}}), path)
"""


def test_the_same_input_gives_the_same_bytes_in_any_process(tmp_path: Path, messages: ModuleType) -> None:
    """Another hash seed orders sets of strings differently: nothing may depend on it."""
    ends = (".json", ".json", ".pftrace")
    written = []
    for seed in ("0", "12345"):
        paths = [tmp_path / f"{seed}-{i}{end}" for i, end in enumerate(ends)]
        code = WRITE.format(model=ARGUMENTS[0], rest=ARGUMENTS[1:])
        subprocess.run(
            [sys.executable, "-c", code, *map(str, paths)],
            check=True,
            env={"PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(filter(None, sys.path))},
        )
        written.append([path.read_bytes() for path in paths])
    here = []
    for i, end in enumerate(ends):
        path = tmp_path / f"here-{i}{end}"
        write_trace(predicted(folded=i % 2 == 0, slow_ranks={3: 1.2}), path)
        here.append(path.read_bytes())
    written.append(here)
    assert all(run == written[0] for run in written)
    assert written[0][0] != written[0][1], "folded and not: what was simulated is said"


def trace_processor() -> str:
    """Where Perfetto's trace processor is; skips where it is not, for it is a download."""
    named = os.environ.get("TRACE_PROCESSOR_BIN")
    cached = sorted((Path.home() / ".local/share/perfetto/prebuilts").glob("trace_processor_shell-*"))
    found = [path for path in ([named] if named else map(str, cached)) if os.access(path, os.X_OK)]
    if not found:
        pytest.skip(
            "Perfetto's trace processor is not here: it is a download, which tests do not make; name it in "
            "TRACE_PROCESSOR_BIN, or let the package perfetto fetch it"
        )
    return found[-1]


@pytest.mark.parametrize("end", [".json", ".pftrace"])
def test_perfettos_trace_processor_sees_the_same(end: str, traces: Any, tmp_path: Path) -> None:
    binary = trace_processor()
    from perfetto.trace_processor import TraceProcessor, TraceProcessorConfig

    path = tmp_path / f"trace{end}"
    write_trace(case("straggler"), path)
    read, _ = traces("straggler")
    with TraceProcessor(trace=str(path), config=TraceProcessorConfig(bin_path=binary)) as tp:

        def one(query: str) -> int:
            return int(next(iter(tp.query(query))).n)

        assert one("select count(*) as n from slice") == sum(map(len, read.tracks.values()))
        assert one("select count(*) as n from flow") == len(read.arrows)
        assert one("select count(*) as n from counter") == sum(map(len, read.counters.values()))
        assert one("select coalesce(sum(value), 0) as n from stats where severity = 'error'") == 0
