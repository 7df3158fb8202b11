"""Files and command lines that nobody meant to write: each ends in an answer or in one line, soon, in little memory.

A case is made from a seed and a number alone: a valid file of one of the kinds that thinwire reads, or a valid command
line, and what a slip, a broken disk or an attacker makes of it. It runs in a process of its own, forked from one that
has everything imported. It fails on a traceback or a signal, on more than one line where it is refused, on an answer
that is no JSON, on a quotation of more than 80 characters, on a temporary file left, after 10 s, or beyond 1 GB.

    python tests/fuzz --seconds 300 --seed 7          # `make fuzz ARGS="--seconds 300 --seed 7"`
    python tests/fuzz --seconds 60 --kind smi         # one kind of file alone
    python tests/fuzz --seed 7 --only 1234            # one case again: its command, its files, what it says
"""

import argparse
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kinds import KINDS, ROOT, Case, case, kind_of
from mutations import MARK, QUOTED, SPACED

MOST_S, MOST_BYTES = 10.0, 1 << 30
FAILED_POINTS = 1  # a sweep's answer, where points failed
HANGS_S = 40.0  # by the clock: `MOST_S` are of the processor, which others use as well

# ---- running


@dataclass(slots=True)
class Running:
    """A case in its process."""

    case: Case
    folder: Path
    pid: int
    begun: float
    status: int | None = None
    seconds: float = 0.0
    peak_bytes: int = 0


def start(one: Case, scratch: Path, base_bytes: int) -> Running:
    """Fork a process for a case."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    for name, content in one.files.items():
        (folder / name).write_bytes(content)
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(one, folder, base_bytes)
    return Running(one, folder, pid, begun)


def _child(one: Case, folder: Path, base_bytes: int) -> None:
    status = 70
    try:
        os.setpgid(0, 0)
        os.chdir(folder)
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        resource.setrlimit(resource.RLIMIT_AS, (base_bytes + MOST_BYTES, base_bytes + MOST_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        from thinwire.commands.cli import main

        main(one.words)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 71
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def faults(ran: Running) -> list[str]:
    """What is wrong with how a case ended."""
    out = Path(f"{ran.folder}.stdout").read_text("utf-8", "replace") if Path(f"{ran.folder}.stdout").exists() else ""
    err = Path(f"{ran.folder}.stderr").read_text("utf-8", "replace") if Path(f"{ran.folder}.stderr").exists() else ""
    # A sweep of a valid file may have points that cannot be: all GPUs of a machine of six, and 32 heads.
    answered = ran.status == FAILED_POINTS and tuple(ran.case.words[:1]) == ("sweep",)
    found = []
    if ran.seconds > MOST_S or ran.status == -signal.SIGKILL:
        found.append(f"took {ran.seconds:.1f} s, or did not end")
    if ran.peak_bytes > MOST_BYTES or "not enough memory" in err:
        found.append(f"took {ran.peak_bytes / 1e9:.2f} GB, or asked for more than there is")
    if "Traceback" in err:
        found.append("a traceback: " + err.strip().splitlines()[-1][:300])
    elif ran.status not in (0, 2) and not answered:
        found.append(f"status {ran.status}: {err[-300:]}")
    if ran.case.valid and ran.status != 0 and not answered:
        found.append(f"valid, and yet: {err[:300]!r}")
    if ran.status == 2:
        err = re.sub(r"^thinwire: \w+: .*\d s\n", "", err, flags=re.MULTILINE)  # how far it is, on a busy machine
        if err.count("\n") != 1 or not err.startswith("thinwire: "):
            found.append(f"not one line: {err[:300]!r}")
        if out:
            found.append(f"refused, and yet: {out[:100]!r}")
    asked = "--json" in ran.case.words and (ran.case.kind != "command" or out.startswith("{"))  # else it may be a value
    if ran.status in (0, FAILED_POINTS) and asked:
        try:
            json.loads(out, parse_constant=lambda name: found.append(f"{name} in the answer"))
        except ValueError as error:
            found.append(f"no JSON: {error}: {out[:100]!r}")
    for text in (MARK, SPACED, "a" * 300):
        if any(text[i : i + QUOTED + 1] in err for i in range(len(text) - QUOTED)):
            found.append("more than 80 characters of what was given")
    if "Value error," in err or "pydantic" in err:
        found.append(f"a library's words: {err[:200]!r}")
    if left := [path.name for path in ran.folder.rglob("*.tmp")]:
        found.append(f"left behind: {', '.join(left)}")
    return found


def measured_bytes() -> int:
    """What this process has mapped."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def preload() -> None:
    """What commands import, so that cases do not: of this tree, whatever else is installed."""
    sys.path.insert(0, str(ROOT / "src"))
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):  # a fork does not take threads along
        os.environ.setdefault(name, "1")
    import scipy.optimize

    from thinwire.commands.cli import COMMANDS, PROGRAM
    from thinwire.commands.tables import catalogs, collectives, comparison, crossing, prediction
    from thinwire.sim import api
    from thinwire.sim.planning import file
    from thinwire.sim.quality import auto
    from thinwire.sim.sweeps import spec
    from thinwire.topologies import picture
    from thinwire.topologies.importing import machine
    from thinwire.validation.fits import calibrate_raw
    from thinwire.validation.logs import fitting

    assert (
        COMMANDS
        and PROGRAM
        and machine
        and picture
        and scipy.optimize
        and catalogs
        and collectives
        and comparison
        and crossing
        and prediction
        and file
        and auto
        and spec
        and calibrate_raw
        and fitting
    )
    api.predict("llama-3-8b", "8xl40s-pcie", "flash-int4", 4)


@dataclass(frozen=True, slots=True)
class Failure:
    """A case that failed, and how it is run again."""

    seed: int
    case: Case
    faults: tuple[str, ...]

    def __str__(self) -> str:
        said = "\n    ".join(self.faults)
        how = f"python tests/fuzz --seed {self.seed} --only {self.case.number}"
        return f"{self.case.kind} ({self.case.what}): {self.case.line}\n    {said}\n    again: {how}"


def hunt(
    seed: int,
    seconds: float,
    lanes: int,
    first: int = 0,
    most: int | None = None,
    keep: bool = False,
    kind: str | None = None,
) -> list[Failure]:
    """Run cases, of a kind or of all, until the time is over; prints how many there were, how they ended, and each
    failure as it comes.
    """
    preload()
    base, until = measured_bytes(), time.monotonic() + seconds
    scratch = Path(tempfile.mkdtemp(prefix="thinwire-fuzz-"))
    running: dict[int, Running] = {}
    ended, found, number = Counter[str](), list[Failure](), first
    slowest: list[tuple[float, int]] = []
    try:
        while running or (time.monotonic() < until and (most is None or number < first + most)):
            while len(running) < lanes and time.monotonic() < until and (most is None or number < first + most):
                while kind is not None and kind_of(number) != kind:
                    number += 1
                begun = start(case(seed, number), scratch, base)
                running[begun.pid] = begun
                number += 1
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                for each in running.values():
                    if time.monotonic() - each.begun > HANGS_S:
                        os.kill(each.pid, signal.SIGKILL)
                time.sleep(0.002)
                continue
            ran = running.pop(pid)
            ran.status, ran.seconds = os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime
            ran.peak_bytes = usage.ru_maxrss * 1024
            ended[f"{ran.case.kind} {ran.status}"] += 1
            slowest = sorted([*slowest, (ran.seconds, ran.case.number)])[-3:]
            if wrong := faults(ran):
                found.append(Failure(seed, ran.case, tuple(wrong)))
                print(found[-1], flush=True)
            if keep:
                print(ran.case.line, ran.folder, ran.status, f"{ran.seconds:.2f} s", f"{ran.peak_bytes / 1e6:.0f} MB")
                print(Path(f"{ran.folder}.stderr").read_text("utf-8", "replace")[:2000])
                continue
            shutil.rmtree(ran.folder)
            for name in ("stdout", "stderr"):
                Path(f"{ran.folder}.{name}").unlink(missing_ok=True)
    finally:
        for each in running.values():
            os.kill(each.pid, signal.SIGKILL)
            os.waitpid(each.pid, 0)
        if not keep:
            shutil.rmtree(scratch, ignore_errors=True)
    slow = ", ".join(f"{number} {took:.1f} s" for took, number in slowest)
    print(f"{sum(ended.values())} cases of seed {seed}, {len(found)} failed; slowest: {slow}")
    print(", ".join(f"{kind}: {times}" for kind, times in sorted(ended.items())))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Status 1 where a case failed."""
    parser = argparse.ArgumentParser(description="Hunt for inputs that thinwire does not answer as it should.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long cases are begun")
    parser.add_argument("--cases", type=int, help="at most so many")
    parser.add_argument("--only", type=int, help="this case alone; its files stay")
    parser.add_argument("--lanes", type=int, default=2, help="cases at a time")
    parser.add_argument("--kind", choices=[*(kind.name for kind in KINDS), "command"], help="cases of this kind alone")
    given = parser.parse_args(arguments)
    if given.only is not None:
        return bool(hunt(given.seed, 1e9, 1, given.only, 1, keep=True))
    return bool(hunt(given.seed, given.seconds, given.lanes, most=given.cases, kind=given.kind))


if __name__ == "__main__":
    sys.exit(main())
