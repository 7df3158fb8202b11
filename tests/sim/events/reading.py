"""Traces read back, JSON and protobuf alike, by rules written here anew: who is around whom, which arrow binds where.

As Perfetto's importers have them: events in order of time, those of one time in the order of the file; a slice lies in
the one that is open on its track, an arrow binds to the innermost that is open.
"""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

Where = tuple[str, str]  # process, track


@dataclass(eq=True)
class Slice:
    where: Where
    name: str
    begin_ns: int
    end_ns: int
    args: dict[str, Any]
    depth: int


@dataclass
class Read:
    """What a trace shows: slices by track in order, arrows as (slice, slice), changes of counters by name."""

    processes: list[str]
    tracks: dict[Where, list[Slice]]
    arrows: dict[int, tuple[Slice, Slice]]
    counters: dict[str, list[tuple[int, float]]]


@dataclass
class _Builder:
    names: dict[Any, Where]
    tracks: dict[Where, list[Slice]] = field(default_factory=lambda: defaultdict(list))
    open: dict[Where, list[Slice]] = field(default_factory=lambda: defaultdict(list))
    froms: dict[int, Slice] = field(default_factory=dict)
    tos: dict[int, Slice] = field(default_factory=dict)

    def begin(self, where: Where, name: str, ns: int, args: dict[str, Any]) -> Slice:
        found = Slice(where, name, ns, -1, args, len(self.open[where]))
        self.open[where].append(found)
        self.tracks[where].append(found)
        return found

    def bind(self, which: dict[int, Slice], arrow: int, where: Where) -> None:
        assert arrow not in which, f"arrow {arrow} begins or ends twice"
        assert which is self.froms or arrow in self.froms, f"arrow {arrow} ends before it begins"
        which[arrow] = self.open[where][-1]

    def done(self, processes: list[str], counters: dict[str, list[tuple[int, float]]]) -> Read:
        assert all(one.end_ns >= one.begin_ns for found in self.tracks.values() for one in found)
        assert self.froms.keys() == self.tos.keys(), "arrows that do not end"
        arrows = {arrow: (self.froms[arrow], self.tos[arrow]) for arrow in sorted(self.froms)}
        return Read(processes, dict(self.tracks), arrows, counters)


def ns(us: float) -> int:
    found = round(us * 1000)
    assert abs(found - us * 1000) < 1e-4, f"{us} us are no whole nanoseconds"
    return found


def read_json(content: bytes) -> Read:
    events = json.loads(content)["traceEvents"]
    assert {event["ph"] for event in events} <= set("MXsfC")
    said = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    order = {e["pid"]: e["args"]["sort_index"] for e in events if e["name"] == "process_sort_index"}
    assert order.keys() == processes.keys() and len(set(order.values())) == len(order)
    assert len({tid for _, tid in said}) == len(said), "numbers of threads are a machine's"
    names = {key: (processes[key[0]], name) for key, name in said.items()}
    assert len(set(names.values())) == len(names)
    built, counters = _Builder(names), defaultdict[str, list[tuple[int, float]]](list)
    timed = [e for e in events if e["ph"] != "M"]
    assert [e["ts"] for e in timed] == sorted(e["ts"] for e in timed)
    for e in timed:
        at = ns(e["ts"])
        if e["ph"] == "C":
            assert processes[e["pid"]] == "links"
            ((unit, value),) = e["args"].items()
            assert unit == "GB/s"
            counters[e["name"]].append((at, value))
            continue
        where = names[e["pid"], e["tid"]]
        if e["ph"] == "X":
            around = built.open[where]
            while around and around[-1].end_ns <= at:
                around.pop()
            end = at + ns(e["dur"])
            assert not around or end <= around[-1].end_ns, f"{e} reaches out of {around[-1]}"
            built.begin(where, e["name"], at, e["args"]).end_ns = end
        else:
            assert e["cat"] == e["name"] == "transfer" and built.open[where][-1].begin_ns == at
            assert e["ph"] == "s" or e["bp"] == "e"
            built.bind(built.froms if e["ph"] == "s" else built.tos, e["id"], where)
    return built.done([processes[pid] for pid in sorted(order, key=lambda pid: order[pid])], dict(counters))


def read_protobuf(content: bytes, messages: Any) -> Read:
    """messages: the module that the package `perfetto` generates from Perfetto's schema."""
    trace = messages.Trace()
    assert trace.ParseFromString(content) == len(content)
    assert trace.IsInitialized() and trace.SerializeToString(deterministic=True) == content
    assert trace.packet[0].sequence_flags == messages.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
    described = [p.track_descriptor for p in trace.packet if p.HasField("track_descriptor")]
    assert len({d.uuid for d in described}) == len(described)
    processes = {d.uuid: d.process for d in described if d.HasField("process")}
    children = [d for d in described if not d.HasField("process")]
    names = {d.uuid: (processes[d.parent_uuid].process_name, d.name) for d in children}
    assert len(set(names.values())) == len(names)
    units = {d.uuid: d.counter.unit_name for d in children if d.HasField("counter")}
    assert set(units.values()) <= {"GB/s"}
    built, counters = _Builder(names), defaultdict[str, list[tuple[int, float]]](list)
    last, kinds = 0, messages.TrackEvent
    for packet in trace.packet:
        assert packet.trusted_packet_sequence_id == 1
        if not packet.HasField("track_event"):
            continue
        at, event = packet.timestamp, packet.track_event
        assert at >= last
        last, where = at, names[event.track_uuid]
        if event.type == kinds.TYPE_COUNTER:
            assert event.track_uuid in units and where[0] == "links"
            counters[where[1]].append((at, event.double_counter_value))
        elif event.type == kinds.TYPE_SLICE_END:
            built.open[where].pop().end_ns = at
        else:
            assert event.type == kinds.TYPE_SLICE_BEGIN and event.track_uuid not in units
            args = {a.name: getattr(a, a.WhichOneof("value")) for a in event.debug_annotations}
            built.begin(where, event.name, at, args)
            for arrow in event.flow_ids:
                built.bind(built.froms, arrow, where)
            for arrow in event.terminating_flow_ids:
                built.bind(built.tos, arrow, where)
    assert not any(built.open.values()), "slices that do not end"
    order = sorted(processes.values(), key=lambda process: process.legacy_sort_index)
    return built.done([process.process_name for process in order], dict(counters))
