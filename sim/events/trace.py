"""Chrome trace-event JSON of a timeline, for Perfetto (https://ui.perfetto.dev) and chrome://tracing."""

import json
from pathlib import Path
from typing import Any

from thinwire.edge.writing import write_text
from thinwire.sim.events.timeline import Timeline

_US = 1e6


def trace_events(timeline: Timeline) -> list[dict[str, Any]]:
    """Complete events ("X"), microseconds: one process a rank, one thread a stream; kernels nest in their op."""
    events: list[dict[str, Any]] = []
    threads = {"compute": 0, "communication": 1}
    for rank in sorted({span.rank for span in timeline.simulated}):
        events.append({"ph": "M", "name": "process_name", "pid": rank, "tid": 0, "args": {"name": f"rank {rank}"}})
        events += [
            {"ph": "M", "name": "thread_name", "pid": rank, "tid": tid, "args": {"name": stream}}
            for stream, tid in threads.items()
        ]
    for span in timeline.spans():
        where = {"ph": "X", "pid": span.rank, "tid": threads[span.stream]}
        args: dict[str, float] = {"layer": span.layer, "part": span.part}
        if span.stream == "communication":
            args |= {"codec_us": span.codec_s * _US, "waited_us": span.waited_s * _US}
        events.append({**where, "name": span.name, "ts": span.start_s * _US, "dur": span.seconds * _US, "args": args})
        at = span.start_s
        for name, seconds in span.kernels:
            events.append({**where, "name": name, "ts": at * _US, "dur": seconds * _US, "args": {"layer": span.layer}})
            at += seconds
    return events


def write_trace(timeline: Timeline, path: str | Path) -> None:
    """Write the trace, whole or not at all; the same timeline gives the same bytes. OSError as `edge.writing`."""
    document = {"traceEvents": trace_events(timeline), "displayTimeUnit": "ms"}
    write_text(path, json.dumps(document, separators=(",", ":"), sort_keys=True))
