"""Chrome traces: valid, complete, and the same bytes for the same input."""

import json
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from thinwire.sim import api
from thinwire.sim.events.trace import trace_events, write_trace
from thinwire.sim.report import Prediction

ARGUMENTS = ("llama-3-8b", "8xl40s-pcie", "flash-int4+spd-50+iso", 4, 2, 600)


def predicted(**given: Any) -> Prediction:
    return api.predict(*ARGUMENTS, **given)


def test_events_are_complete_and_nest() -> None:
    found = predicted()
    events = trace_events(found.timeline)
    assert {event["ph"] for event in events} == {"M", "X"}
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {(r, t): n for r in range(4) for t, n in enumerate(("compute", "communication"))}
    assert {(e["pid"], e["tid"]) for e in events} == names.keys(), "on threads that have a name"
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert processes == {rank: f"rank {rank}" for rank in range(4)}
    timed = [e for e in events if e["ph"] == "X"]
    assert min(e["ts"] for e in timed) == 0
    assert max(e["ts"] + e["dur"] for e in timed) == pytest.approx(found.ttft_s * 1e6)
    assert all(e["dur"] > 0 for e in timed)
    kernels_us: dict[tuple[int, int], float] = defaultdict(float)
    ops_us: dict[tuple[int, int], float] = defaultdict(float)
    for e in timed:
        into = ops_us if "part" in e["args"] else kernels_us
        into[e["pid"], e["tid"]] += e["dur"]
    for rank in range(4):
        assert kernels_us[rank, 0] == pytest.approx(ops_us[rank, 0])
        assert (rank, 1) not in kernels_us
        assert ops_us[rank, 0] == pytest.approx(found.breakdown.compute_s * 1e6)
    for rank in range(4):  # ops of one thread follow each other
        for thread in (0, 1):
            mine = sorted(
                (e for e in timed if (e["pid"], e["tid"]) == (rank, thread) and "part" in e["args"]),
                key=lambda e: e["ts"],
            )
            assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-3 for a, b in pairwise(mine))


def test_kernels_lie_within_their_op_back_to_back() -> None:
    events = [e for e in trace_events(predicted().timeline) if e["ph"] == "X" and e["pid"] == 2 and e["tid"] == 0]
    op: dict[str, Any] = {}
    at = 0.0
    for e in events:
        if "part" in e["args"]:
            assert not op or at == pytest.approx(op["ts"] + op["dur"])
            op, at = e, e["ts"]
        else:
            assert e["ts"] == pytest.approx(at)
            assert e["args"]["layer"] == op["args"]["layer"]
            at = e["ts"] + e["dur"]


def test_exchanges_tell_their_codec_time_and_who_waited() -> None:
    found = predicted(slow_ranks={1: 1.5})
    exchanges = [e for e in trace_events(found.timeline) if e["ph"] == "X" and e["tid"] == 1]
    codec_us = sum(e["args"]["codec_us"] for e in exchanges if e["pid"] == found.timeline.last_rank)
    assert codec_us == pytest.approx(found.breakdown.codec_s * 1e6)
    waited = {rank: sum(e["args"]["waited_us"] for e in exchanges if e["pid"] == rank) for rank in range(4)}
    assert waited[1] == 0 < min(waited[0], waited[2], waited[3])
    spans = [s for s in found.timeline.spans() if s.stream == "communication" and s.rank == 0]
    assert waited[0] == pytest.approx(1e6 * sum(s.waited_s for s in spans))


def test_the_file_is_what_perfetto_reads(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    found = predicted()
    write_trace(found.timeline, path)
    document = json.loads(path.read_text())
    assert set(document) == {"traceEvents", "displayTimeUnit"}
    assert document["traceEvents"] == json.loads(json.dumps(trace_events(found.timeline)))


WRITE = """
import sys
from thinwire.sim import api
from thinwire.sim.events.trace import write_trace
for folded, path in zip((True, False), sys.argv[1:], strict=True):
    write_trace(api.predict(*{arguments!r}, folded=folded, slow_ranks={{3: 1.2}}).timeline, path)
"""


def test_the_same_input_gives_the_same_bytes_in_any_process(tmp_path: Path) -> None:
    """Another hash seed orders sets of strings differently: nothing may depend on it."""
    written = []
    for seed in ("0", "12345"):
        paths = [tmp_path / f"{seed}-{i}.json" for i in range(2)]
        code = WRITE.format(arguments=ARGUMENTS)
        subprocess.run(
            [sys.executable, "-c", code, *map(str, paths)],
            check=True,
            env={"PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(filter(None, sys.path))},
        )
        written.append([path.read_bytes() for path in paths])
    for _ in range(2):
        here = []
        for i, folded in enumerate((True, False)):
            path = tmp_path / f"here-{i}.json"
            write_trace(predicted(folded=folded, slow_ranks={3: 1.2}).timeline, path)
            here.append(path.read_bytes())
        written.append(here)
    assert all(run == written[0] for run in written)
