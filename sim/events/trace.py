"""Traces for Perfetto (https://ui.perfetto.dev): Chrome's JSON, or Perfetto's own protobuf where a file is named so.

Both say the same of one `drawing.Drawing`, and the same run gives the same bytes. JSON: complete events ("X"), flows
("s", "f") that bind to the slice around them, counters ("C"), names and order of processes and threads ("M"), times in
microseconds. Protobuf: the package `perfetto` (extra `trace`) has the messages; it is imported when it is needed.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from thinwire.edge.writing import replacing, write_text
from thinwire.sim.events.drawing import Drawing, Track, draw
from thinwire.sim.events.recording import Recording

PROTOBUF = (".pftrace", ".perfetto-trace")  # ends of names
ARROW = "transfer"
UNIT = "GB/s"


def write_trace(seen: Recording, path: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write the trace of a recorded run, whole or not at all. about: what it is of, by name.

    Raises OSError as `edge.writing`, and ValueError for a name that wants protobuf where `perfetto` is not installed.
    """
    drawing = draw(seen, about or {})
    if str(path).endswith(PROTOBUF):
        content = protobuf(drawing)
        with replacing(path) as rough:
            rough.write_bytes(content)
        return
    document = {"traceEvents": events(drawing), "displayTimeUnit": "ms", "otherData": dict(about or {})}
    write_text(path, json.dumps(document, separators=(",", ":"), sort_keys=True))


# --- JSON


def events(drawing: Drawing) -> list[dict[str, Any]]:
    """All trace events: names first, then in order of time; where an arrow begins comes before where it ends."""
    found: list[tuple[int, dict[str, Any]]] = []
    for track in drawing.tracks:
        found += _slices(track)
    for counting in drawing.counters:
        event = {"ph": "C", "pid": drawing.links, "tid": 0, "name": counting.name}
        found += [(ns, {**event, "ts": ns / 1e3, "args": {UNIT: value}}) for ns, value in counting.points]
    found.sort(key=lambda item: item[0])
    return [*_names(drawing), *(event for _, event in found)]


def _names(drawing: Drawing) -> Iterator[dict[str, Any]]:
    for place, (process, name) in enumerate(drawing.processes):
        about = {"ph": "M", "pid": process, "tid": 0}
        yield {**about, "name": "process_name", "args": {"name": name}}
        yield {**about, "name": "process_sort_index", "args": {"sort_index": place}}
    for track in drawing.tracks:
        about = {"ph": "M", "pid": track.process, "tid": track.number}
        yield {**about, "name": "thread_name", "args": {"name": track.name}}
        yield {**about, "name": "thread_sort_index", "args": {"sort_index": track.number}}


def _slices(track: Track) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each slice, and behind it the arrow that binds to it: the slice around the arrow's time that began last."""
    where = {"pid": track.process, "tid": track.number}
    for one in track.slices:
        at = {**where, "ts": one.begin_ns / 1e3}
        event = {**at, "ph": "X", "name": one.name, "dur": (one.end_ns - one.begin_ns) / 1e3, "args": dict(one.args)}
        yield one.begin_ns, event
        arrow = {**at, "cat": ARROW, "name": ARROW}
        if one.sends is not None:
            yield one.begin_ns, {**arrow, "ph": "s", "id": one.sends}
        if one.receives is not None:
            yield one.begin_ns, {**arrow, "ph": "f", "bp": "e", "id": one.receives}


# --- protobuf


def protobuf(drawing: Drawing) -> bytes:
    """The same as Perfetto's protobuf. ValueError where the package `perfetto` is not installed."""
    try:
        messages = import_module("perfetto.protos.perfetto.trace.perfetto_trace_pb2")
    except ImportError:
        raise ValueError(
            f"a trace named {' or '.join(PROTOBUF)} needs the package perfetto: pip install 'thinwire[trace]'; "
            "any other name is written as JSON, which needs nothing"
        ) from None
    trace = messages.Trace()
    for packet in _descriptors(messages, drawing):
        trace.packet.append(packet)
    timed: list[tuple[int, Any]] = []
    for track in drawing.tracks:
        timed += _begins_and_ends(messages, track)
    for place, counting in enumerate(drawing.counters):
        kind, uuid = messages.TrackEvent.TYPE_COUNTER, _uuid(drawing.links, place + 1)
        timed += [
            (ns, messages.TrackEvent(type=kind, track_uuid=uuid, double_counter_value=value))
            for ns, value in counting.points
        ]
    timed.sort(key=lambda item: item[0])
    for ns, event in timed:
        trace.packet.append(messages.TracePacket(timestamp=ns, trusted_packet_sequence_id=1, track_event=event))
    trace.packet[0].sequence_flags = messages.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    content: bytes = trace.SerializeToString(deterministic=True)
    return content


def _uuid(process: int, track: int = 0) -> int:
    return (process << 32) + track + 1


def _descriptors(messages: Any, drawing: Drawing) -> Iterable[Any]:
    def packet(**described: Any) -> Any:
        return messages.TracePacket(
            trusted_packet_sequence_id=1, track_descriptor=messages.TrackDescriptor(**described)
        )

    for place, (process, name) in enumerate(drawing.processes):
        described = messages.ProcessDescriptor(pid=process, process_name=name, legacy_sort_index=place)
        order = messages.TrackDescriptor.EXPLICIT
        yield packet(uuid=_uuid(process), process=described, child_ordering=order)
    for track in drawing.tracks:
        place = track.number - 100 * track.process
        uuid, parent = _uuid(track.process, place), _uuid(track.process)
        yield packet(uuid=uuid, parent_uuid=parent, name=track.name, sibling_order_rank=place)
    for place, counting in enumerate(drawing.counters):
        uuid, parent = _uuid(drawing.links, place + 1), _uuid(drawing.links)
        unit = messages.CounterDescriptor(unit_name=UNIT)
        yield packet(uuid=uuid, parent_uuid=parent, name=counting.name, counter=unit, sibling_order_rank=place + 1)


def _begins_and_ends(messages: Any, track: Track) -> Iterator[tuple[int, Any]]:
    """In the order in which slices open and close."""
    uuid, kinds = _uuid(track.process, track.number - 100 * track.process), messages.TrackEvent
    around: list[int] = []
    end = kinds(type=kinds.TYPE_SLICE_END, track_uuid=uuid)
    for one in track.slices:
        while around and around[-1] <= one.begin_ns:
            yield around.pop(), end
        begin = kinds(type=kinds.TYPE_SLICE_BEGIN, track_uuid=uuid, name=one.name)
        begin.debug_annotations.extend(_annotation(messages, name, value) for name, value in one.args.items())
        if one.sends is not None:
            begin.flow_ids.append(one.sends)
        if one.receives is not None:
            begin.terminating_flow_ids.append(one.receives)
        yield one.begin_ns, begin
        around.append(one.end_ns)
    while around:
        yield around.pop(), end


def _annotation(messages: Any, name: str, value: Any) -> Any:
    if isinstance(value, float):
        return messages.DebugAnnotation(name=name, double_value=value)
    if isinstance(value, int):
        return messages.DebugAnnotation(name=name, int_value=value)
    return messages.DebugAnnotation(name=name, string_value=str(value))
