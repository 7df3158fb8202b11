"""Where a schedule's bytes travel: all ranks in one process, or one process a rank over torch.distributed.

Both run the same `RankState`s through the same steps: one wire buffer for each step and peer, receives posted a step
ahead, bytes counted for each peer. A group outlives its collectives; its counters add up until
`reset_counters`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from thinwire.reference.core.schedule import SWITCH, Schedule, Step, Transfer
from thinwire.reference.core.scheme import Codec
from thinwire.reference.core.tokens import Counts, checked, exchange_of_tokens
from thinwire.reference.groups.execute import Coding, Part, RankState, incoming
from thinwire.reference.groups.handshake import (
    TAGS,
    Combination,
    Disagreement,
    Form,
    agreement_of,
    combination,
    counted,
)
from thinwire.reference.groups.tokens import Rows, TokenState, combination_of_tokens

_CPU = torch.device("cpu")
_BROKEN: WeakKeyDictionary[dist.ProcessGroup, str] = WeakKeyDictionary()  # and why


class Group(ABC):
    """Ranks that run collectives together."""

    sent_bytes: Counter[tuple[int, int]]  # (source, destination) -> bytes sent so far

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of ranks."""

    @abstractmethod
    def run(
        self, schedule: Schedule, values: Sequence[Tensor], coding: Coding, form: Form | None = None
    ) -> list[Tensor]:
        """Run a schedule on the flat fp32 values of the ranks held here, in place; gives them back.

        form: what the values stand for, and all that ranks must agree on beside the schedule.
        """

    @abstractmethod
    def exchange(
        self, sent: Sequence[Rows], codec: Codec, backend: str, counts: Counts | None = None, form: Form | None = None
    ) -> tuple[list[Tensor], Counts]:
        """Send the rows of the ranks held here to where their counts say: what each of these receives, in the order of
        the ranks that sent it, and rows from each rank to each. counts: these, where every rank knows them already.
        """

    def reset_counters(self) -> None:
        """Start counting bytes anew."""
        self.sent_bytes.clear()


class LocalGroup(Group):
    """All ranks in this process: for tests, for accuracy runs, and as the oracle of what TorchGroup gives."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a group has at least one rank: size={size}")
        self._size = size
        self.sent_bytes = Counter()

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self._size

    def run(
        self, schedule: Schedule, values: Sequence[Tensor], coding: Coding, form: Form | None = None
    ) -> list[Tensor]:
        """`values` of all ranks, in rank order."""
        if len(values) != self._size or schedule.ranks != self._size:
            raise ValueError(
                f"a LocalGroup of {self._size} ranks was given {len(values)} tensors for {schedule.ranks} ranks"
            )
        self._run(schedule, [RankState(rank, value, coding) for rank, value in enumerate(values)])
        return list(values)

    def exchange(
        self, sent: Sequence[Rows], codec: Codec, backend: str, counts: Counts | None = None, form: Form | None = None
    ) -> tuple[list[Tensor], Counts]:
        """`sent` of all ranks, in rank order."""
        if len(sent) != self._size:
            raise ValueError(f"a LocalGroup of {self._size} ranks was given rows of {len(sent)}")
        found = checked([rows.counts for rows in sent], self._size)
        states = [TokenState(rank, rows, codec, found, backend) for rank, rows in enumerate(sent)]
        self._run(exchange_of_tokens(codec, found, sent[0].width), states)
        return [state.received() for state in states], found

    def _run(self, schedule: Schedule, states: Sequence[Part]) -> None:
        for lane in schedule.lanes:
            for step in lane.steps:
                for state in states:
                    state.do(step)
                self._move(step, states)

    def _move(self, step: Step, states: Sequence[Part]) -> None:
        sent = {state.rank: state.outgoing(step) for state in states}
        for source, buffers in sent.items():
            for destination, buffer in buffers.items():
                self.sent_bytes[source, destination] += buffer.numel()
        from_switch = _Switch(step, {source: buffers[SWITCH] for source, buffers in sent.items() if SWITCH in buffers})
        for state in states:
            peers = {t.source for t in incoming(step, state.rank)} - {SWITCH}
            state.take(step, {peer: sent[peer][state.rank] for peer in peers})
            for transfer in incoming(step, state.rank):
                if transfer.source == SWITCH:
                    state.file(transfer, from_switch.copy(transfer))
                    self.sent_bytes[SWITCH, state.rank] += transfer.nbytes


class _Switch:
    """A switch that sums what it is sent for an interval, in rank order and fp32, and passes one copy on to many."""

    def __init__(self, step: Step, buffers: dict[int, Tensor]) -> None:
        self._partials: dict[tuple[int, int], list[Tensor]] = {}
        offsets = dict.fromkeys(buffers, 0)
        for t in sorted(incoming(step, SWITCH), key=lambda t: t.source):
            start = offsets[t.source]
            offsets[t.source] += t.nbytes
            copy = buffers[t.source][start : offsets[t.source]]
            self._partials.setdefault((t.interval.start, t.interval.stop), []).append(copy)

    def copy(self, transfer: Transfer) -> Tensor:
        partials = self._partials[transfer.interval.start, transfer.interval.stop]
        if len(partials) == 1:
            return partials[0]
        coding, numel = Coding(), len(transfer.interval)
        total_N = coding.decode(partials[0], numel, transfer.codec, None, transfer.interval.start)
        for partial in partials[1:]:
            total_N = total_N + coding.decode(partial, numel, transfer.codec, None, transfer.interval.start)
        return coding.encode(total_N, transfer.codec, None, transfer.interval.start)


@dataclass(slots=True)
class _Pending:
    """A step under way: its receives and sends."""

    step: Step
    where: str
    tag: int
    buffers: dict[int, Tensor]
    receives: dict[int, dist.Work | None]
    sends: dict[int, dist.Work | None]
    kept: dict[int, Tensor]  # buffers on their way must not be freed


class TorchGroup(Group):
    """One rank of a torch.distributed process group (gloo on CPUs, NCCL on GPUs).

    None takes the default group. All ranks must run the same collectives in the same order, on tensors of one shape and
    dtype, and only one thread of each may. Ranks that do not are told apart (`handshake` says how, and what NCCL leaves
    open): Disagreement on every rank, at the latest after the process group's timeout. A connection that breaks gives a
    RuntimeError saying with which peer and where, as late at most (on gloo; NCCL's watchdog speaks for itself). After
    any error in the middle of a collective the process group is not used again; a Disagreement found before anything
    was sent leaves it as it was. While a CUDA graph is captured, asking is as harmless as at any other time, since it
    is the CPU's business alone; but replays ask nobody, and a capture that waits for peers is held up by them: run each
    combination once, or `agree`, before.
    """

    def __init__(self, process_group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_initialized():
            raise RuntimeError("torch.distributed is not initialised: call init_process_group first")
        found = process_group if process_group is not None else dist.group.WORLD
        if found is None:
            raise RuntimeError("torch.distributed has no default process group")
        self._group: dist.ProcessGroup = found
        self._peers = dist.get_process_group_ranks(self._group)
        self.rank = dist.get_rank(self._group)
        self.sent_bytes = Counter()
        self._early: tuple[Combination, dict[int, list[_Pending]]] | None = None

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self._peers)

    @property
    def handshakes(self) -> int:
        """How often this rank asked its peers whether they run the same; see `handshake`."""
        return counted(self._group)[0]

    @property
    def handshake_bytes(self) -> int:
        """What this rank wrote into the process group's store for that; never part of `sent_bytes`."""
        return counted(self._group)[1]

    def agree(self, schedule: Schedule, form: Form | None = None, device: torch.device | None = None) -> None:
        """Ask ahead, where the moment suits: the first `run` of this combination then asks nobody. Collective.

        Raises as `run` does.
        """
        with self._collective(schedule, form, device or _CPU):
            pass

    def prepare(self, schedule: Schedule, form: Form | None = None) -> None:
        """Post the receives that the next collective, which must be this one, begins with (gloo; CPU tensors only).

        form: as `run` will be given it.

        A rank that arrives early then sends at once to peers that still compute: without, gloo waits to be asked for
        the bytes, and such requests queue behind the bytes of others.
        """
        if self._early is not None:
            raise ValueError("a collective is prepared already and has not been run")
        lanes = range(min(schedule.chunks_in_flight, len(schedule.lanes)))
        wanted = combination(schedule, form, _CPU.type)
        self._early = wanted, {n: self._ahead(schedule, n, 0, [], _CPU, wanted.tag) for n in lanes}

    def run(
        self, schedule: Schedule, values: Sequence[Tensor], coding: Coding, form: Form | None = None
    ) -> list[Tensor]:
        """`values` of this rank alone.

        Raises Disagreement, with the same words on every rank, where ranks were about to run different collectives.
        """
        if len(values) != 1 or schedule.ranks != self.size:
            raise ValueError(
                f"rank {self.rank} of a TorchGroup of {self.size} was given {len(values)} tensors "
                f"for {schedule.ranks} ranks"
            )
        if any(
            SWITCH in (t.source, t.destination)
            for lane in schedule.lanes
            for step in lane.steps
            for t in step.transfers
        ):
            raise ValueError(f"collective {schedule.collective} needs a switch that sums; a TorchGroup has none")
        with self._collective(schedule, form, values[0].device) as tag:
            self._run_lanes(RankState(self.rank, values[0], coding), schedule, tag)
        return list(values)

    def exchange(
        self, sent: Sequence[Rows], codec: Codec, backend: str, counts: Counts | None = None, form: Form | None = None
    ) -> tuple[list[Tensor], Counts]:
        """`sent` of this rank alone. Ranks agree on the codec and the width of rows, once; without `counts` they then
        tell each other how many there are, every time, which is no part of `sent_bytes`.

        Raises Disagreement as `run` does, where ranks were given different `counts`, too.
        """
        if len(sent) != 1:
            raise ValueError(f"rank {self.rank} of a TorchGroup of {self.size} was given rows of {len(sent)} ranks")
        rows = sent[0]
        if counts is not None and checked(counts, self.size)[self.rank] != rows.counts:
            raise ValueError(f"rank {self.rank} sends {list(rows.counts)} rows, by counts {list(counts[self.rank])}")
        wanted = combination_of_tokens(codec, self.size, rows, counts, form)
        with self._agreed(wanted, rows.device) as tag:
            found = counts if counts is not None else self._all_counts(rows)
            state = TokenState(self.rank, rows, codec, found, backend)
            self._run_lanes(state, exchange_of_tokens(codec, found, rows.width), tag)
        return [state.received()], found

    def _all_counts(self, rows: Rows) -> Counts:
        """What every rank sends to each; an all-gather of the process group's own."""
        mine = torch.tensor(rows.counts, dtype=torch.int64, device=rows.device)
        gathered = [torch.empty_like(mine) for _ in range(self.size)]
        try:
            dist.all_gather(gathered, mine, self._group)
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} lost a peer while ranks told each other their counts: {error}"
            ) from error
        return checked([each.tolist() for each in gathered], self.size)

    @contextmanager
    def _collective(self, schedule: Schedule, form: Form | None, device: torch.device) -> Iterator[int]:
        """`_agreed` of a schedule on values of some form."""
        with self._agreed(combination(schedule, form, device.type), device) as tag:
            yield tag

    @contextmanager
    def _agreed(self, wanted: Combination, device: torch.device) -> Iterator[int]:
        """The one way into a collective: gives the first of its tags, once all ranks are known to be here for it.

        What goes wrong inside breaks the process group; what is refused before anything was sent does not.
        """
        if reason := _BROKEN.get(self._group):
            raise RuntimeError(f"this process group broke in an earlier collective, make a new one: {reason}")
        agreement = agreement_of(self._group, device)
        try:
            self._check_prepared(wanted)
            tag = agreement.enter(wanted)
        except BaseException as error:
            if not (isinstance(error, Disagreement) and error.usable and self._early is None):
                self._break(error)
            raise
        try:
            yield tag
        except BaseException as error:
            known = agreement.explain() if isinstance(error, RuntimeError) else None
            self._break(known or error)
            if known is not None:
                raise Disagreement(known) from error
            raise
        finally:
            agreement.leave()

    def _break(self, reason: object) -> None:
        _BROKEN[self._group] = str(reason) or type(reason).__name__

    def _check_prepared(self, wanted: Combination) -> None:
        if self._early is not None and self._early[0] != wanted:
            prepared = self._early[0]
            raise ValueError(
                f"another collective was prepared: {prepared.collective} of shape {list(prepared.form.shape)}, "
                f"{prepared.form.dtype or 'no dtype'}; given {wanted.collective} of shape {list(wanted.form.shape)}, "
                f"{wanted.form.dtype or 'no dtype'}"
            )

    def _run_lanes(self, state: Part, schedule: Schedule, tag: int) -> None:
        """tag: as `_collective` gives it."""
        early = {} if self._early is None else self._early[1]
        self._early = None
        waiting = [
            self._lane(state, schedule, number, early.get(number, []), tag) for number in range(len(schedule.lanes))
        ]
        active = waiting[: schedule.chunks_in_flight]
        waiting = waiting[schedule.chunks_in_flight :]
        while active:  # lanes take turns: one encodes while another's bytes are on their way
            for lane in list(active):
                if next(lane, None) is None:
                    active.remove(lane)
                    active += waiting[:1]
                    waiting = waiting[1:]

    def _lane(self, state: Part, schedule: Schedule, number: int, posted: list[_Pending], tag: int) -> Iterator[bool]:
        for index, step in enumerate(schedule.lanes[number].steps):
            posted = self._ahead(schedule, number, index, posted, state.device, tag)
            pending = posted.pop(0)
            state.do(step)
            self._send(pending, state)
            yield True
            self._finish(pending, state)

    def _ahead(
        self, schedule: Schedule, number: int, index: int, posted: list[_Pending], device: torch.device, tag: int
    ) -> list[_Pending]:
        """The receives of step `index` of a lane and of the one after it, those in `posted` among them.

        They stand a step before their bytes come, so that gloo's request for these need not queue behind this step's.
        """
        steps = schedule.lanes[number].steps
        for later in range(index + len(posted), min(index + 2, len(steps))):
            where = f"step {later} ({steps[later].primitive}) of chunk {number}"
            posted.append(self._post(steps[later], where, device, (tag + number * len(steps) + later) % TAGS))
        return posted

    def _post(self, step: Step, where: str, device: torch.device, tag: int) -> _Pending:
        sizes: Counter[int] = Counter()
        for t in incoming(step, self.rank):
            sizes[t.source] += t.nbytes
        buffers = {peer: torch.empty(size, dtype=torch.uint8, device=device) for peer, size in sorted(sizes.items())}
        pending = _Pending(step, where, tag, buffers, {}, {}, {})
        if device.type == "cpu":  # in stream order, as on GPUs, a receive before its send would wait for ever
            for peer, buffer in buffers.items():
                with self._losing(peer, where):
                    pending.receives[peer] = dist.irecv(buffer, self._peers[peer], self._group, tag)
        return pending

    def _send(self, pending: _Pending, state: Part) -> None:
        pending.kept = state.outgoing(pending.step)
        for peer, buffer in pending.kept.items():
            self.sent_bytes[self.rank, peer] += buffer.numel()
        if state.device.type == "cpu":
            # The next rank first, so that not all send to the same one at once.
            for peer in sorted(pending.kept, key=lambda peer: (peer - self.rank) % self.size):
                buffer = pending.kept[peer]
                with self._losing(peer, pending.where):
                    pending.sends[peer] = dist.isend(buffer, self._peers[peer], self._group, pending.tag)
            return
        peers = [*pending.buffers, *pending.kept]
        ops = [dist.P2POp(dist.irecv, b, self._peers[p], self._group) for p, b in pending.buffers.items()]
        ops += [dist.P2POp(dist.isend, b, self._peers[p], self._group) for p, b in pending.kept.items()]
        works = dist.batch_isend_irecv(ops) if ops else []
        pending.receives = dict(zip(peers, works, strict=False))

    def _finish(self, pending: _Pending, state: Part) -> None:
        for works in (pending.receives, pending.sends):
            for peer, work in works.items():
                with self._losing(peer, pending.where):
                    if work is not None:
                        work.wait()
        state.take(pending.step, pending.buffers)

    @contextmanager
    def _losing(self, peer: int, where: str) -> Iterator[None]:
        """Name the peer and the step in what the backend raises when a connection breaks or the timeout passes."""
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank} lost rank {peer} in {where} of a collective "
                f"(or rank {peer} gave up when it lost another): {error}"
            ) from error
