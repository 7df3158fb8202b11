"""One gloo rank of an emulated machine: does what it is told on standard input, a JSON line a command, and answers.

Started by `validation.emulation.namespaces` in a network namespace of its own. One thread computes and sends; it runs
under SCHED_FIFO where that is allowed, since other jobs on the machine would otherwise be most of what is measured.
Runs begin at a moment of the machine's monotonic clock that the command names, the same for all ranks. The process dies
with whoever started it, and its namespace with it.
"""

import ctypes
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.core.schedule import Interval, Schedule, Step, Transfer, Work, build
from thinwire.reference.decoder.model import Decoder
from thinwire.reference.decoder.sync import SchemeSync
from thinwire.reference.decoder.weights import random_weights
from thinwire.reference.families.config import parse_config
from thinwire.reference.groups.execute import Coding, RankState
from thinwire.reference.groups.group import TorchGroup
from thinwire.reference.groups.handshake import Form
from thinwire.reference.mixed import plan_of

PRIORITY = 10  # SCHED_FIFO; the switch has 20
RUNAWAY_S = 20  # CPU seconds without a wait after which the kernel ends a rank that has SCHED_FIFO
TRAVEL_S = 0.003  # that a calibrated codec waits where bytes would travel
DEVICE, PORT = "eth0", 29511
GATHER = "two_step:bf16"  # how logits are put together, in the simulator too

Reply = dict[str, Any]
Kind = Literal["encode", "reduce", "decode"]


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that happens."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the process that started this rank is gone")


def sleep_until(moment_s: float, early_s: float = 0.0) -> None:
    """Wait for a moment of time.monotonic(); `early_s` is how late this machine wakes sleepers."""
    left_s = moment_s - early_s - time.monotonic()
    if left_s > 0:
        time.sleep(left_s)


class PacedState(RankState):
    """A rank's part in a schedule with the codecs' results left out: buffers of the right sizes, and sleeps."""

    waits: Mapping[int, float]  # id of a step -> codec seconds
    early_s: float

    def do(self, step: Step) -> None:
        """Make the buffers that this step sends, then sleep for what its codec kernels are predicted to take."""
        due_s = time.monotonic() + self.waits.get(id(step), 0.0)
        for work in step.work:
            if work.rank == self.rank and work.kind == "encode":
                key = work.interval.start, work.interval.stop
                self._copies[(*key, self.rank)] = self._latest[key] = _zeros(work.codec.wire_bytes(len(work.interval)))
        if self.waits:
            sleep_until(due_s, self.early_s)


@lru_cache(maxsize=256)
def _zeros(nbytes: int) -> Tensor:
    return torch.zeros(nbytes, dtype=torch.uint8)


Expected = tuple[Schedule, Form | None]  # a collective, and what its values stand for


class EmulatedGroup(TorchGroup):
    """A TorchGroup that can also leave its collectives out, and note when each was asked for and done."""

    def __init__(self) -> None:
        super().__init__()
        self.absent = False
        self.moments: list[tuple[float, float]] = []
        self._coming: list[Expected] = []

    def expect(self, collectives: Sequence[Expected]) -> None:
        """The collectives of a run, in order: each is prepared when the one before it is done.

        Ranks agree on them here, before anybody's clock runs: over links this slow asking would show in what is timed.
        """
        self._coming, self.moments = list(collectives), []
        for schedule, form in dict.fromkeys(collectives):
            self.agree(schedule, form)
        self._prepare_next()

    def _prepare_next(self) -> None:
        if self._coming and not self.absent:
            self.prepare(*self._coming.pop(0))

    def run(
        self, schedule: Schedule, values: Sequence[Tensor], coding: Coding, form: Form | None = None
    ) -> list[Tensor]:
        """As a TorchGroup does, or nothing at all."""
        begin_s = time.monotonic()
        found = list(values) if self.absent else super().run(schedule, values, coding, form)
        self._prepare_next()
        self.moments.append((begin_s, time.monotonic()))
        return found

    def pace(self, schedule: Schedule, value: Tensor, waits: Sequence[Sequence[float]], early_s: float) -> None:
        """A schedule's real bytes and the codec seconds of its steps; none given: bytes alone."""
        state = PacedState(self.rank, value, Coding())
        seconds = [(step, s) for lane, row in zip(schedule.lanes, waits, strict=False)
                   for step, s in zip(lane.steps, row, strict=True)]  # fmt: skip
        state.waits, state.early_s = {id(step): s for step, s in seconds}, early_s
        with self._collective(schedule, None, value.device) as tag:
            self._run_lanes(state, schedule, tag)
        self._prepare_next()


class Rank:
    """What this process holds between commands."""

    group: EmulatedGroup
    decoder: Decoder
    head_VD: Tensor
    ids_BT: Tensor
    early_s = 0.0

    def network(self, address: str, hardware: str, mtu: int) -> Reply:
        """Bring up this namespace's device."""
        lines = [
            "link set lo up",
            f"link set {DEVICE} address {hardware} mtu {mtu} txqueuelen 10000 up",
            f"addr add {address}/24 dev {DEVICE}",
        ]
        settings = {
            "tcp_slow_start_after_idle": "0",
            "tcp_no_metrics_save": "1",
            "tcp_congestion_control": "reno",
            # Two-way traffic: acknowledgements wait behind the bytes that go the other way, so a window smaller than a
            # message leaves links idle (49 ms for 42 at 100 Mbit/s).
            "tcp_rmem": "4096 16777216 16777216",
            "tcp_wmem": "4096 16777216 16777216",
        }
        for name, value in settings.items():
            Path("/proc/sys/net/ipv4", name).write_text(value)
        ipv6 = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
        if ipv6.exists():
            ipv6.write_text("1")
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True, capture_output=True)
        return {}

    def join(self, rank: int, ranks: int, master: str, fifo: bool, timeout_s: float) -> Reply:
        """Take a core and a priority, then meet the other ranks."""
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
        allowed = fifo
        if fifo:
            try:
                resource.setrlimit(resource.RLIMIT_RTTIME, (RUNAWAY_S * 10**6, RUNAWAY_S * 10**6))
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
            except OSError:
                allowed = False
        torch.set_num_threads(1)
        os.environ["GLOO_SOCKET_IFNAME"] = DEVICE
        where = f"tcp://{master}:{PORT}"
        timeout = timedelta(seconds=timeout_s)
        dist.init_process_group("gloo", init_method=where, rank=rank, world_size=ranks, timeout=timeout)
        self.group = EmulatedGroup()
        self.early_s = self._overshoot_s()
        return {"fifo": allowed, "overshoot_s": self.early_s}

    @staticmethod
    def _overshoot_s() -> float:
        """How late a sleeper wakes, median."""
        late = []
        for _ in range(50):
            due_s = time.monotonic() + 1e-3
            sleep_until(due_s)
            late.append(time.monotonic() - due_s)
        return statistics.median(late)

    # ---- runs, each from a given moment

    def paced(self, at: float, program: Sequence[Sequence[Any]]) -> Reply:
        """["compute", seconds] sleeps; ["exchange", scheme, numel, op, islands, waits] sends, sleeping for codecs."""
        ready = [
            (float(entry[1]), None, ())
            if entry[0] == "compute"
            else (0.0, build(find_scheme(entry[1]), self.group.size, entry[2], _islands(entry[4]), entry[3]), entry[5])
            for entry in program
        ]
        value_N = torch.zeros(1)
        self.group.expect([(schedule, None) for _, schedule, _ in ready if schedule is not None])

        def go() -> None:
            due_s = at
            for seconds, schedule, waits in ready:
                if schedule is None:
                    due_s += seconds
                    sleep_until(due_s, self.early_s)
                else:
                    self.group.pace(schedule, value_N, waits, self.early_s)
                    due_s = time.monotonic()

        return self._timed(at, go)

    def model(self, config: dict[str, Any], tokens: int) -> Reply:
        """Make the model with random weights, the same on every rank."""
        model = parse_config(config, "emulated")
        weights = random_weights(model, 0, torch.float32)
        self.decoder = Decoder(model, weights, self.group)
        shard = model.vocab_size // self.group.size
        self.head_VD = weights["lm_head.weight"][self.group.rank * shard :][:shard].clone()
        self.ids_BT = torch.randint(model.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))
        return {"parameters": model.parameters}

    def prefill(self, at: float, scheme: str, absent: bool = False) -> Reply:
        """The model's first token under a scheme; `absent`: with its collectives left out."""
        group, config = self.group, self.decoder.config
        sync = SchemeSync(group, plan_of(find_scheme(scheme), config.num_layers))
        gather = build(find_scheme(GATHER), group.size, config.vocab_size, None, "all_gather")
        points = [found for found in plan_of(find_scheme(scheme), config.num_layers).values() if found is not None]
        numel = self.ids_BT.numel() * config.hidden_size
        forms = [Form((*self.ids_BT.shape, config.hidden_size), "float32", name=found.name) for found in points]
        schedules = [build(found, group.size, numel, None) for found in points]
        group.absent = absent
        group.expect([*zip(schedules, forms, strict=True), (gather, None)])

        def go() -> None:
            hidden_BTD = self.decoder.forward(self.ids_BT, sync=sync)
            logits_V = torch.zeros(config.vocab_size)
            part_V = functional.linear(hidden_BTD[0, -1], self.head_VD)
            logits_V[group.rank * len(part_V) :][: len(part_V)] = part_V
            group.run(gather, [logits_V], Coding())

        with torch.no_grad():
            found = self._timed(at, go)
        group.absent = False
        return {**found, "moments": group.moments}

    def codecs(self, at: float, codecs: Sequence[str], values: Sequence[int], repeats: int) -> Reply:
        """Seconds of codec kernels: [codec, values, {kind: mean of its calls} of each repeat].

        A repeat is what a two-step all-reduce of twice `values` on two ranks calls, behind a product of matrices: what
        the codec left in caches is gone, what the collective has just copied is there. Where bytes would travel the
        rank waits, and others have the core.
        """
        large, rows = torch.randn(1024, 2816), torch.randn(256, 1024)
        found = []
        sleep_until(at, self.early_s)
        for name in codecs:
            codec = find_scheme(f"two_step:{name}").reduce
            for numel in values:
                parts = Interval(0, numel), Interval(numel, 2 * numel)
                partial_N = torch.randn(2 * numel)
                rounds = []
                for _ in range(repeats + 1):
                    taken: dict[Kind, list[float]] = {"encode": [], "reduce": [], "decode": []}
                    torch.mm(rows, large)
                    state = RankState(0, partial_N.to(torch.float32, copy=True), Coding())
                    calls: list[tuple[Kind, tuple[int, ...], Interval]] = [
                        ("encode", (), parts[0]), ("encode", (), parts[1]), ("reduce", (0, 1), parts[0]),
                        ("encode", (), parts[0]), ("decode", (0,), parts[0]), ("decode", (1,), parts[1]),
                    ]  # fmt: skip
                    for kind, sources, part in calls:
                        step = Step("none", (Work(0, kind, part, codec, sources),), ())
                        if kind != "encode" and part is parts[0]:
                            time.sleep(TRAVEL_S)
                        if kind != "encode":  # what the peer sent: as long as this rank's own
                            own = state.outgoing(Step("none", (), (Transfer(0, 1, part, codec),)))[1]
                            state.file(Transfer(1, 0, part, codec), own.clone())
                        begin_s = time.monotonic()
                        state.do(step)
                        taken[kind].append(time.monotonic() - begin_s)
                    rounds.append({kind: statistics.mean(seconds) for kind, seconds in taken.items()})
                found.append((codec.spec, numel, rounds[1:]))  # the first is for the allocator
        return {"rows": found}

    def _timed(self, at: float, go: Callable[[], None]) -> Reply:
        self.group.reset_counters()
        sleep_until(at, self.early_s)
        begin_s = time.monotonic()
        go()
        return {"begin": begin_s, "end": time.monotonic(), "sent": sum(self.group.sent_bytes.values())}


def _islands(islands: Sequence[Sequence[int]] | None) -> tuple[tuple[int, ...], ...] | None:
    return None if islands is None else tuple(tuple(island) for island in islands)


def main() -> None:
    """Answer commands until standard input ends."""
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    rank = Rank()
    print(json.dumps({"hello": os.getpid()}), file=answers)
    for line in sys.stdin:
        command = json.loads(line)
        name = command.pop("do")
        try:
            reply = getattr(rank, name)(**command)
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=answers)
    os._exit(0)  # gloo's threads are not waited for: peers may be gone


if __name__ == "__main__":
    main()
