"""Ways to stop a sweep, and what is then on disk."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from thinwire.sim.sweeps.sweep import Batch


def rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    return found


def kept(out: Path) -> set[str]:
    """Ids on disk while a sweep is not done."""
    return {row["id"] for part in Path(f"{out}.parts").glob("*.parquet") for row in rows(part)}


class Stopped(BaseException):
    """What ends a run from within; no handler of errors takes it for one."""


def stop_at(done: int) -> Any:
    def watch(now: int, total: int, batch: Batch | None) -> None:
        if now >= done:
            raise Stopped

    return watch


class Killer:
    """Kills the worker that brings the first task back. Later, it may have done all there is before anybody looks."""

    def __init__(self) -> None:
        self.killed: int | None = None

    def __call__(self, done: int, total: int, batch: Batch | None) -> None:
        if batch is not None and self.killed is None:
            assert batch.pid != os.getpid()
            self.killed = batch.pid
            os.kill(batch.pid, signal.SIGKILL)


def killed_half_way(spec: Path, out: Path) -> None:
    """A run by two workers in a process of its own, killed as by kill -9 while tasks are in flight."""
    code = (
        "import os, signal, sys\nfrom thinwire.sim.sweeps.sweep import sweep\n"
        "def watch(done, total, batch):\n    if 2 * done >= total: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sweep(sys.argv[1], sys.argv[2], workers=2, watch=watch)\n"
    )
    # No pipes: its workers outlive it for the seconds until they notice, and would keep them open.
    with (out.parent / "log").open("w") as log:
        killed = subprocess.run([sys.executable, "-c", code, spec, out], stdout=log, stderr=log, timeout=60)
    assert killed.returncode == -signal.SIGKILL, (out.parent / "log").read_text()[-2000:]
