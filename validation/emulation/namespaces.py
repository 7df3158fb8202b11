"""Ranks on one machine, each in a network namespace of its own, joined by links of set rate and delay.

A star: every rank has one device, whose other end is our switch (switch.c: rates and delays by a virtual clock, and,
between islands, narrow links). Namespaces have no names: they belong to the rank's process and vanish with it, as do
the switch's devices with the switch, so nothing is left behind however a run ends. No packet leaves them.
"""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

SWITCH_SOURCE = Path(__file__).resolve().parent / "switch.c"
MTU = 9000  # the kernel's work is by the packet: 9000 lets two cores carry Gbit/s
FRAME_BYTES, SEGMENT_BYTES = MTU + 14, MTU - 52  # on a link (rates count these), and of it what gloo sent
START_S = 120.0  # until a rank has imported torch, on a busy machine
REPLY_S = 60.0
LEAD_S = 0.03  # from a command until ranks begin, so that all are waiting by then
LATE_S = 0.002  # a rank that begins later than this was held up by another job: the run does not count
TRIES = 5


class EmulationError(RuntimeError):
    """A rank or the switch failed; what it said."""


def missing() -> str:
    """What this machine lacks for an emulation, in one line; "" where nothing."""
    if not sys.platform.startswith("linux"):
        return f"needs Linux's network namespaces, this is {sys.platform}"
    if os.geteuid():
        return f"needs root to make network namespaces and TAP devices: uid {os.geteuid()}"
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2"), ("cc", "gcc or clang")):
        if shutil.which(program) is None:
            return f"needs the program {program} ({package})"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "needs /dev/net/tun: modprobe tun, or docker run --device /dev/net/tun"
    trials = (
        ("make network namespaces with TAP devices (CAP_SYS_ADMIN, CAP_NET_ADMIN)",
         "ip tuntap add mode tap name probe"),
        ("set a namespace's TCP options (/proc/sys is read-only?)",
         "echo 0 > /proc/sys/net/ipv4/tcp_slow_start_after_idle"),
    )  # fmt: skip
    for what, command in trials:
        tried = subprocess.run(["unshare", "--net", "sh", "-c", command], capture_output=True, text=True)
        if tried.returncode:
            return f"may not {what}: {tried.stderr.strip()}"
    return ""


@dataclass(frozen=True, slots=True)
class Links:
    """What the links between ranks are set to: each rank's link to the switch, both ways, and what joins islands.

    slow: rank -> factor on the rate of its link. core_bytes_per_s: of each directed link between two islands, where
    islands are given.
    """

    name: str
    rate_bytes_per_s: float
    delay_s: float = 0.0  # one way, from rank to rank
    slow: Mapping[int, float] = field(default_factory=dict)
    islands: tuple[tuple[int, ...], ...] | None = None
    core_bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        if (self.islands is None) != (self.core_bytes_per_s is None):
            raise ValueError(f"links {self.name}: islands and the rate between them go together")
        rates = (self.rate_bytes_per_s, self.core_bytes_per_s or 1.0, *self.slow.values())
        if min(rates) <= 0 or self.delay_s < 0:
            raise ValueError(f"links {self.name}: rates must be positive and delays not negative: {self}")

    def port_bytes_per_s(self, rank: int) -> float:
        """Rate of one rank's link, each way."""
        return self.rate_bytes_per_s * self.slow.get(rank, 1.0)

    def commands(self, ranks: int) -> list[str]:
        """What the switch is told."""
        rates = [self.port_bytes_per_s(rank) for rank in range(ranks)]
        told = [f"port {rank} {rate:.17g} {rate:.17g} {self.delay_s:.17g}" for rank, rate in enumerate(rates)]
        of_rank = {rank: number for number, island in enumerate(self.islands or ()) for rank in island}
        places = " ".join(str(of_rank.get(rank, 0)) for rank in range(ranks))
        return [*told, f"core {self.core_bytes_per_s or 0:.17g} {places}"]


def compile_switch(folder: Path) -> Path:
    """The switch's program, in a folder. EmulationError with what the compiler said."""
    program = folder / "switch"
    done = subprocess.run(
        ["cc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(SWITCH_SOURCE)], capture_output=True, text=True
    )
    if done.returncode:
        raise EmulationError(f"cc does not compile {SWITCH_SOURCE.name}: {done.stderr[-500:]}")
    return program


class Star:
    """`ranks` gloo ranks and the switch between them, for as long as the `with` lasts.

    fifo: SCHED_FIFO for ranks, where the machine allows it; `self.fifo` says whether it did.
    """

    def __init__(self, ranks: int, folder: Path, fifo: bool = True) -> None:
        self.ranks, self._folder, self._wanted_fifo = ranks, folder, fifo
        self.fifo = False
        self.overshoot_s = 0.0
        self._workers: list[subprocess.Popen[str]] = []
        self._switch: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None

    def __enter__(self) -> "Star":
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def _start(self) -> None:
        program = compile_switch(self._folder)
        self._log = (self._folder / f"ranks-{self.ranks}.log").open("w+")
        worker = ["unshare", "--net", sys.executable, "-m", f"{__package__}.worker", str(os.getpid())]
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        environment = {**os.environ, **single}
        for _ in range(self.ranks):
            self._workers.append(self._popen(worker, environment))
        for rank in range(self.ranks):
            self._answer(rank, START_S)
        self._switch = self._popen([str(program), *(str(worker.pid) for worker in self._workers)], environment)
        if self._line(self._switch, REPLY_S, "the switch") != "ready":
            raise EmulationError(f"the switch did not start: {self._said()}")
        for rank, worker_ in enumerate(self._workers):
            hardware = f"02:00:00:00:00:{rank + 1:02x}"
            self._tell(worker_, {"do": "network", "address": _address(rank), "hardware": hardware, "mtu": MTU})
        self._answers(REPLY_S)
        joined = self.ask(
            [
                {"do": "join", "rank": rank, "ranks": self.ranks, "master": _address(0), "fifo": self._wanted_fifo,
                 "timeout_s": REPLY_S}
                for rank in range(self.ranks)
            ]
        )  # fmt: skip
        self.fifo = all(reply["fifo"] for reply in joined)
        self.overshoot_s = max(reply["overshoot_s"] for reply in joined)

    def _popen(self, command: Sequence[str], environment: Mapping[str, str]) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1,
            env=dict(environment),
        )  # fmt: skip

    def _stop(self) -> None:
        processes = [*self._workers, *([self._switch] if self._switch else [])]
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):  # what a process that died was still to be told
                        stream.close()
        if self._log is not None:
            self._log.close()
        self._workers, self._switch, self._log = [], None, None

    # ---- links

    def set_links(self, links: Links) -> None:
        """Give every link its rate and delay, from now on."""
        for line in links.commands(self.ranks):
            self._tell_switch(line)

    def packets(self) -> list[tuple[int, int]]:
        """(packets, bytes) each rank has sent into the switch so far."""
        self._tell_switch("count")
        assert self._switch is not None
        words = self._line(self._switch, REPLY_S, "the switch").split()[1:]
        pairs = [word.partition("=")[2].split("/") for word in words]
        return [(int(count), int(nbytes)) for count, nbytes in pairs]

    def _tell_switch(self, line: str) -> None:
        assert self._switch is not None and self._switch.stdin is not None
        try:
            self._switch.stdin.write(line + "\n")
        except BrokenPipeError:
            raise EmulationError(f"the switch is gone: {self._said()}") from None

    # ---- ranks

    def ask(self, commands: Sequence[Mapping[str, Any]], timeout_s: float = REPLY_S) -> list[dict[str, Any]]:
        """Give each rank its command and wait for all answers, in rank order."""
        for worker, command in zip(self._workers, commands, strict=True):
            self._tell(worker, command)
        return self._answers(timeout_s)

    def ask_all(self, command: Mapping[str, Any], timeout_s: float = REPLY_S) -> list[dict[str, Any]]:
        """The same command to every rank."""
        return self.ask([command] * self.ranks, timeout_s)

    def time(self, commands: Sequence[Mapping[str, Any]], rest_s: float = 0.0) -> tuple[float, list[dict[str, Any]]]:
        """Seconds from the common beginning of a run to the end of its last rank, and what ranks answered.

        rest_s: idle time before it, in which other jobs may run (without any, the kernel takes it in the middle).
        A run that some rank began late is done again, a few times.
        """
        for attempt in range(TRIES):
            time.sleep(rest_s)
            at = time.monotonic() + LEAD_S * (attempt + 1)
            replies = self.ask([{**command, "at": at} for command in commands])
            if max(reply["begin"] for reply in replies) - at < LATE_S:
                break
        return max(reply["end"] for reply in replies) - at, replies

    def _tell(self, worker: "subprocess.Popen[str]", command: Mapping[str, Any]) -> None:
        assert worker.stdin is not None
        try:
            worker.stdin.write(json.dumps(command) + "\n")
        except BrokenPipeError:
            raise EmulationError(f"a rank is gone: {self._said()}") from None

    def _answers(self, timeout_s: float) -> list[dict[str, Any]]:
        end = time.monotonic() + timeout_s
        return [self._answer(rank, max(0.0, end - time.monotonic())) for rank in range(self.ranks)]

    def _answer(self, rank: int, timeout_s: float) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(self._line(self._workers[rank], timeout_s, f"rank {rank}"))
        if "error" in reply:
            raise EmulationError(f"rank {rank}: {reply['error']}")
        return reply

    def _line(self, process: "subprocess.Popen[str]", timeout_s: float, who: str) -> str:
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], timeout_s)[0]:
            raise EmulationError(f"{who} did not answer within {timeout_s:.0f} s: {self._said()}")
        line = process.stdout.readline()
        if not line:
            raise EmulationError(f"{who} ended: {self._said()}")
        return line.strip()

    def _said(self) -> str:
        if self._log is None:
            return ""
        self._log.flush()
        return Path(self._log.name).read_text()[-800:]


def _address(rank: int) -> str:
    return f"10.77.0.{rank + 1}"
