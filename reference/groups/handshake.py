"""Whether all ranks of a process group are about to run the same collective, asked before any of its bytes leave.

A *combination* is what all ranks must have in common: the schedule (so the scheme as it runs), shape, dtype, kind of
device, calibration, and the version of thinwire. The first time a rank runs a combination it writes it, under the
number of its collective, into the process group's store (the TCPStore or FileStore that the group was made with),
waits until every rank has written there, and compares. What differs is one `Disagreement` with the same words on every
rank, and nothing was sent. The store is no part of the data path: nothing that a rank already sends or awaits can be
taken for a question, whatever the backend, and no CUDA call is made.

After that a combination costs a look into a dict. A rank that runs one that was agreed on before asks nobody, so a
peer with a new one, or with another old one, has to be caught otherwise:
- On gloo every message carries a tag made of its combination (31 bits). Messages of two combinations do not meet:
  no buffer of the wrong length (gloo would abort the process), no bytes read as something else.
- A thread, one a process, looks once in `PERIOD_S` seconds (on gloo only while this rank is in a collective). Where a
  peer asks about one that this rank has begun, or where it has sat in one for a whole period (gloo), it writes what
  this rank runs, and reads what others wrote. So the rank that asks learns of it and raises; the one that waits for
  bytes raises when its peer's connection closes, or at the process group's timeout, with the same words.

Guaranteed on every backend: a combination's first run begins only where all ranks have it, or a rank that has not has
run past it. On gloo besides: ranks whose combinations differ never take each other's bytes (but for chance: tags of two
combinations that both are old overlap with the odds of a collective's number of messages to 2^31), and every rank
raises by the timeout of the process group, naming who has what where the store can still be reached and the others have
come as far.

Not guaranteed: that ranks which raise in the middle do so at the same moment; where one dies, that its peers hear more
than that it is lost. On NCCL, which has no tags, ranks that run *different old* combinations at the same time are not
told apart, and what a rank has queued before its peer asks is left to NCCL's watchdog, though its next call raises.
Ranks that agree on all this and still mean different tensors are not noticed, nor are replays of a CUDA graph, nor
which tokens a mask hides. What one rank refuses by itself (a dtype that no codec takes) is an error there alone: its
next call is then taken for the others' last. Groups made over MPI have no store, and ask nobody.
"""

from __future__ import annotations

import atexit
import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal
from weakref import WeakKeyDictionary, ref

import torch
import torch.distributed as dist
from torch._compile import _disable_dynamo
from torch.distributed.distributed_c10d import Store

from thinwire import __version__ as VERSION
from thinwire.edge.words import QUOTED
from thinwire.reference.core.schedule import Schedule
from thinwire.reference.core.scheme import Codec

PERIOD_S = 1.0  # between looks of the thread
GRACE_S = 5.0  # for the ranks that have not spoken, once it is known that others differ
TAGS = 2**31 - 1  # of messages: 0..TAGS - 1
_PROBE = TAGS  # of what is never sent
_KEPT = 64  # collectives of the past that this rank can still be asked about
_REMEMBERED = 1 << 14  # combinations that were agreed on
_LISTED = 8  # different answers that an error lists

Words = dict[str, str]  # what one rank says of its collective


class Disagreement(ValueError):
    """Ranks were about to run, or run, different collectives. usable: nothing was sent, and the group may go on."""

    usable = False


@dataclass(frozen=True, slots=True)
class Form:
    """What ranks must agree on beside the schedule.

    also: whatever else it takes, a calibration's fingerprint say. name: of the scheme, for people; it may differ.
    """

    shape: tuple[int, ...]
    dtype: str = ""
    also: str = ""
    name: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Combination:
    """What all ranks must have in common. schedule: its fingerprint, which is everything about who sends what."""

    schedule: str
    collective: str
    form: Form
    device: str

    @property
    def tag(self) -> int:
        """Where this combination's tags begin, in 0..TAGS - 1; the same on every rank, and spread at random."""
        form = self.form
        text = repr((self.schedule, self.device, form.shape, form.dtype, form.also, VERSION))
        return int.from_bytes(sha256(text.encode()).digest()[:4], "big") % TAGS

    def words(self) -> Words:
        """What peers are told: short strings by name, the scheme's name first."""
        found = {
            "scheme": self.form.name or self.collective,
            "collective": self.collective,
            "shape": str(list(self.form.shape)),
            "dtype": self.form.dtype,
            "device": self.device,
            "also": self.form.also,
            "schedule": self.schedule,
            "thinwire": VERSION,
        }
        return {key: _short(value) for key, value in found.items()}


def _short(value: str) -> str:
    """At most QUOTED characters, and another text for another value."""
    if len(value) <= QUOTED:
        return value
    return f"{value[: QUOTED - 20]}... {sha256(value.encode()).hexdigest()[:16]}"


_FINGERPRINTS: WeakKeyDictionary[Schedule, str] = WeakKeyDictionary()


def combination(schedule: Schedule, form: Form | None, device: str) -> Combination:
    """The combination of a schedule run on tensors of `form` (None: flat, and nothing known of them)."""
    found = _FINGERPRINTS.get(schedule)
    if found is None:
        found = _FINGERPRINTS[schedule] = _fingerprint(schedule)
    return Combination(found, schedule.collective, form or Form((schedule.numel,)), device)


def _fingerprint(schedule: Schedule) -> str:
    """16 hex digits of all that a schedule says."""
    specs: dict[Codec, str] = {}

    def spec(codec: Codec) -> str:
        if codec not in specs:
            specs[codec] = f"{type(codec).__name__} {codec.spec}"
        return specs[codec]

    found = sha256(repr((schedule.collective, schedule.ranks, schedule.numel, schedule.chunks_in_flight)).encode())
    for lane in schedule.lanes:
        for step in lane.steps:
            work = [(w.rank, w.kind, w.interval.start, w.interval.stop, spec(w.codec), w.sources) for w in step.work]
            sent = [(t.source, t.destination, t.interval.start, t.interval.stop, spec(t.codec)) for t in step.transfers]
            found.update(repr((step.primitive, work, sent)).encode())
        found.update(b"|")
    return found.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class _Moment:
    """Where this rank is: the number of its last collective, from 1, and how far it is with that."""

    call: int = 0
    state: Literal["asking", "running", "done"] = "done"


class Agreement:
    """One rank's side of what the ranks of a process group have agreed on.

    store: shared by the ranks; None where there is none (MPI) or nobody else (one rank, the backend `fake`): then
    nothing is asked. probe: raises RuntimeError where the connection to a rank is known to be broken. queues: the
    backend returns before a collective is over (NCCL), so that a rank answers when it looks idle, too. Counted apart
    from payload: `handshakes`, and `sent_bytes` written to the store.
    """

    def __init__(
        self,
        store: Store | None,
        rank: int,
        size: int,
        timeout_s: float,
        probe: Callable[[int], None] = lambda rank: None,
        queues: bool = True,
    ) -> None:
        self.rank, self.size, self.timeout_s, self._queues = rank, size, timeout_s, queues
        self._probe = probe
        self.handshakes = 0
        self.sent_bytes = 0
        self.verdict: str | None = None  # what the thread found
        self._store = store if size > 1 else None
        self._agreed: dict[Combination, int] = {}  # and the first of its tags
        self._recent: list[tuple[int, Combination] | None] = [None] * _KEPT
        self._now = _Moment()
        self._seen = _Moment()  # when the thread looked last
        self._said: deque[int] = deque()  # collectives about which this rank wrote, older ones first
        self._answered = 0  # the last collective that somebody asked about, as far as this rank has seen to it
        self._lock = threading.Lock()  # of what is written

    def enter(self, wanted: Combination) -> int:
        """Begin the next collective: the first of its tags, once all ranks are known to run `wanted`.

        Raises Disagreement where they do not, RuntimeError for a rank that does not come within the timeout or a store
        that is gone. Then this rank is in no collective.
        """
        if self.verdict is not None:
            raise Disagreement(self.verdict)
        call = self._now.call + 1
        self._recent[call % _KEPT] = (call, wanted)
        tag = self._agreed.get(wanted)
        if tag is None:
            self._now = _Moment(call, "asking")
            try:
                if self._store is not None:
                    self._ask(call, wanted)
            except BaseException:
                self._now = _Moment(call)
                raise
            tag = self._agreed[wanted] = wanted.tag
            if len(self._agreed) > _REMEMBERED:  # all ranks forget the same one
                del self._agreed[next(iter(self._agreed))]
        self._now = _Moment(call, "running")
        return tag

    def leave(self) -> None:
        """The collective is over."""
        self._now = _Moment(self._now.call)

    def explain(self) -> str | None:
        """After an error in the middle of a collective: what ranks disagree on, None where nothing is known of that."""
        if self._store is None:
            return None
        call = self._now.call
        try:
            self._say(call, "running")
            deadline_s = time.monotonic() + min(PERIOD_S, self.timeout_s)
            while not self._all_said(call) and time.monotonic() < deadline_s:
                time.sleep(0.02)
            heard = self._heard(call)
        except RuntimeError:  # the store went with the rank that kept it
            return self.verdict
        return _difference(call, heard, self.size) if _differ(heard) else self.verdict

    def look(self) -> None:
        """The thread's part: answer who asks, say where this rank hangs, note a disagreement."""
        now, before = self._now, self._seen
        self._seen = now
        if self._store is None or (now.state != "running" and not self._queues):
            return  # idle, and peers may have ended and taken the store with them: torch would log that
        call = now.call if now == before else self._asked(now)
        if call is None:
            return
        self._say(call, "running")
        heard = self._heard(call)
        if _differ(heard):
            if self.verdict is None:  # who waits for bytes cannot be woken: say it before the timeout does
                logging.getLogger(__name__).error("rank %d: %s", self.rank, _difference(call, heard, self.size))
            self.verdict = _difference(call, heard, self.size)

    # ---- the handshake

    def _ask(self, call: int, wanted: Combination) -> None:
        begin_s = time.monotonic()
        self.handshakes += 1
        self._answered = call
        try:
            self._say(call, "asking")
            self._write("asks", str(call))
            lost = self._await(call, begin_s)
            heard = self._heard(call)
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} could not ask its peers whether they run the same collective "
                f"({wanted.words()['scheme']!r}): the process group's store failed: {str(error)[:QUOTED]}"
            ) from error
        absent = [rank for rank in range(self.size) if rank not in heard]
        gone = [rank for rank, words in heard.items() if words.get("state") == "left" and rank != self.rank]
        if _differ(heard):
            found = Disagreement(_difference(call, heard, self.size))
            found.usable = not absent and all(words.get("state") == "asking" for words in heard.values())
            if not found.usable:
                self._say(call, "left")
            raise found
        if lost is None and not absent and not gone:
            return
        self._say(call, "left")
        what = f"collective {call} of this process group ({wanted.words()['scheme']!r}, {wanted.words()['shape']})"
        if lost is not None:
            raise RuntimeError(f"rank {self.rank} lost {lost[0]} before {what}: {lost[1]}") from lost[1]
        who = f"rank {_ranks(absent)} did not come" if absent else f"rank {_ranks(gone)} had given up"
        raise RuntimeError(f"{who}: for {what} ranks wait {self.timeout_s:g} s, its timeout")

    def _await(self, call: int, begin_s: float) -> tuple[str, RuntimeError] | None:
        """Until all ranks have spoken, or time is up: less of it once it is known that some differ.

        Looks around less and less often; who was found to be lost, and how that was known.
        """
        deadline_s, next_look_s, pause_s = begin_s + self.timeout_s, begin_s + 0.25, 2e-5
        while not self._all_said(call):
            now_s = time.monotonic()
            if now_s >= deadline_s:
                return None
            if now_s >= next_look_s:
                next_look_s = now_s + min(10.0, max(0.25, (now_s - begin_s) / 8))
                heard = self._heard(call)
                if _differ(heard):
                    deadline_s = min(deadline_s, now_s + GRACE_S)
                elif (lost := self._lost(heard)) is not None:
                    return lost
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.02, max(1e-3, (now_s - begin_s) / 8))
        return None

    def _lost(self, heard: Mapping[int, Words]) -> tuple[str, RuntimeError] | None:
        for rank in range(self.size):
            if rank not in heard:
                try:
                    self._probe(rank)
                except RuntimeError as error:
                    return f"rank {rank}", error
        return None

    # ---- the store

    def _write(self, key: str, value: str) -> None:
        assert self._store is not None
        self.sent_bytes += len(key) + len(value)
        self._store.set(f"thinwire/{key}", value)

    def _say(self, call: int, state: str) -> None:
        """Write what this rank's collective of that number is, once for each state; forget about old ones."""
        assert self._store is not None
        known = self._recent[call % _KEPT]
        words = known[1].words() if known is not None and known[0] == call else {"scheme": "another, long before"}
        with self._lock:
            if call in self._said and state == "running":
                return
            self._write(f"said/{call}/{self.rank}", json.dumps({"state": state, **words}))
            if call not in self._said:
                self._said.append(call)
            while len(self._said) > 2 * self.size + 8:  # nobody is that far behind
                self._store.delete_key(f"thinwire/said/{self._said.popleft()}/{self.rank}")

    def _all_said(self, call: int) -> bool:
        assert self._store is not None
        return bool(self._store.check([f"thinwire/said/{call}/{rank}" for rank in range(self.size)]))

    def _heard(self, call: int) -> dict[int, Words]:
        """What ranks have written about a collective, as far as they have."""
        assert self._store is not None
        keys = {rank: f"thinwire/said/{call}/{rank}" for rank in range(self.size)}
        if not self._store.check(list(keys.values())):
            keys = {rank: key for rank, key in keys.items() if self._store.check([key])}
        return {rank: _read(self._store.get(key)) for rank, key in keys.items()}

    def _asked(self, now: _Moment) -> int | None:
        """The collective about which a peer last asked, if this rank has begun it and not said what it runs."""
        assert self._store is not None
        if not self._store.check(["thinwire/asks"]):
            return None
        call = int(self._store.get("thinwire/asks"))
        if call <= self._answered or call > now.call or (call == now.call and now.state == "asking"):
            return None
        self._answered = call
        return call


def _read(value: bytes) -> Words:
    """What a rank wrote, also one of another version."""
    try:
        found: Any = json.loads(value)
        return {str(key): str(said)[:QUOTED] for key, said in found.items()}
    except (ValueError, AttributeError):
        return {"thinwire": f"of another kind, which says {value[:QUOTED]!r}"[:QUOTED]}


def _facts(words: Words) -> Words:
    """What must be the same: all but names for people, and how far the rank was."""
    return {key: said for key, said in words.items() if key not in ("scheme", "collective", "state")}


def _differ(heard: Mapping[int, Words]) -> bool:
    said = [_facts(words) for words in heard.values()]
    return any(words != said[0] for words in said[1:])


def _difference(call: int, heard: Mapping[int, Words], size: int) -> str:
    """The sentence that says who has what; the same on every rank that has heard the same."""
    names = list(dict.fromkeys(name for words in heard.values() for name in words if name != "state"))
    parts = []
    for name in names:
        by_value: dict[str, list[int]] = {}
        for rank in sorted(heard):
            by_value.setdefault(heard[rank].get(name, "not said"), []).append(rank)
        if len(by_value) > 1:
            each = [f"{value!r} on rank {_ranks(ranks)}" for value, ranks in list(by_value.items())[:_LISTED]]
            more = [f"{len(by_value) - _LISTED} more"] if len(by_value) > _LISTED else []
            parts.append(f"{name}: {', '.join(each + more)}")
    if absent := [rank for rank in range(size) if rank not in heard]:
        parts.append(f"nothing was said by rank {_ranks(absent)}")
    return (
        f"ranks disagree on collective {call} of this process group: {'; '.join(parts)}. Every rank must call with the "
        "same scheme, shape, dtype and calibration, in the same order, under one version of thinwire"
    )


def _ranks(ranks: Iterable[int]) -> str:
    """0, 2-5: runs of numbers."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


# ---- one agreement a process group, one thread a process

_AGREEMENTS: WeakKeyDictionary[dist.ProcessGroup, Agreement] = WeakKeyDictionary()
_LOCK = threading.Lock()
_STOP = threading.Event()
_thread: threading.Thread | None = None


def agreement_of(group: dist.ProcessGroup, device: torch.device) -> Agreement:
    """What the ranks of a process group have agreed on; made when it is first asked for. device: of the tensors."""
    found = _AGREEMENTS.get(group)
    if found is None:
        found = _made_untraced(group, device) if torch.compiler.is_compiling() else _made(group, device)
    return found


def _made(group: dist.ProcessGroup, device: torch.device) -> Agreement:
    global _thread
    found = _AGREEMENTS.get(group)
    if found is None:
        size = dist.get_world_size(group)
        store = _store_of(group) if size > 1 and dist.get_backend(group) != "fake" else None
        with _LOCK:
            found = _AGREEMENTS[group] = Agreement(
                store,
                dist.get_rank(group),
                size,
                _timeout_s(group, device),
                _probe_of(group),
                dist.get_backend(group) != "gloo",
            )
            if store is not None and (_thread is None or not _thread.is_alive()):  # not alive: this is a fork's child
                _thread = threading.Thread(target=_watch, name="thinwire-handshake", daemon=True)
                _thread.start()
    return found


# torch.compile cannot trace a process group's members. Unlike `torch.compiler.disable` this loads nothing by itself.
_made_untraced = _disable_dynamo(_made)


def _store_of(group: dist.ProcessGroup) -> Store | None:
    """The group's own corner of the store it was made with."""
    found: Store | None = dist.distributed_c10d._world.pg_map[group][1]
    return found


def counted(group: dist.ProcessGroup) -> tuple[int, int]:
    """Handshakes of this rank in a process group so far, and the bytes it wrote for them into the store."""
    found = _AGREEMENTS.get(group)
    return (0, 0) if found is None else (found.handshakes, found.sent_bytes)


def _probe_of(group: dist.ProcessGroup) -> Callable[[int], None]:
    """On gloo, to ask for a byte that never comes fails at once where the connection is broken; else it is idle."""
    if dist.get_backend(group) != "gloo":
        return lambda rank: None
    found, peers = ref(group), dist.get_process_group_ranks(group)

    def probe(rank: int) -> None:
        alive = found()
        if alive is not None:
            dist.irecv(torch.empty(1, dtype=torch.uint8), peers[rank], alive, _PROBE)

    return probe


def _timeout_s(group: dist.ProcessGroup, device: torch.device) -> float:
    try:
        timeout = group._get_backend(device).options._timeout
    except (AttributeError, RuntimeError):  # a backend that has none
        timeout = dist.default_pg_timeout
    return float(timeout.total_seconds())


def _watch() -> None:
    """Look after every group's agreement until it or the process ends. A store that is gone is not looked at again."""
    given_up: set[int] = set()
    while not _STOP.wait(PERIOD_S):
        with _LOCK:
            groups = [(ref(group), found) for group, found in _AGREEMENTS.items()]
        for group, found in groups:
            alive = group()
            if alive is None or id(found) in given_up or alive not in dist.distributed_c10d._world.pg_map:
                continue
            del alive
            try:
                found.look()
            except (RuntimeError, ValueError):
                given_up.add(id(found))
        del groups


@atexit.register
def _stop() -> None:
    """A thread inside the store while the interpreter goes down would take the process with it."""
    _STOP.set()
    if _thread is not None and _thread.is_alive():
        _thread.join(2.0)
