"""How fast sweeps are, and that engines agree: `python -m thinwire.sim.bench.sweep`. Needs the extras dask and ray.

One sweep in one process, by two local workers, on a Dask scheduler with two worker processes and on a Ray instance with
two CPUs, each started for it. Then each of these again with a worker killed half-way. Every result must have the bytes
of the first. Seconds are those from the first task asked for to the last row on disk; an engine's start counts.
"""

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from thinwire.sim.sweeps.engines import ENGINES, EngineName
from thinwire.sim.sweeps.sweep import Batch, sweep

WORKERS = 2
# 2 models x 2 machines x 5 schemes x 20 lengths x 25 batches: 10,000 points, all of which fit: a point that does not
# fails at once and would flatter the figures.
SPEC = """
scheme = ["bf16", "flash-int8", "flash-int4", "mxfp4", "flash-int4+iso"]
cluster = ["8xl40s-pcie", "8xh100-nvlink"]
input_tokens = {tokens}
batch = {batches}
[[grid]]
model = "llama-3-8b"
[[grid]]
model = "llama-3-70b"
weights = "fp8"
"""
TOKENS = [*range(64, 1344, 64)]
BATCHES = [*range(1, 26)]


def spec(points: int) -> str:
    """A sweep of about so many points: fewer batch sizes of the whole."""
    return SPEC.format(tokens=TOKENS, batches=BATCHES[: max(1, points // 400)])


class Killer:
    """Kills a worker when half of the points are done."""

    def __init__(self) -> None:
        self.pid: int | None = None

    def __call__(self, done: int, total: int, batch: Batch | None) -> None:
        """See `sweep.Watch`."""
        if batch is not None and self.pid is None and 2 * done >= total and batch.pid != os.getpid():
            self.pid = batch.pid
            os.kill(batch.pid, signal.SIGKILL)


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def _processes(folder: Path, *commands: Sequence[str]) -> Iterator[None]:
    """Servers in process groups of their own, which end with the block."""
    started = []
    with (folder / "servers.log").open("a") as log:
        try:
            for command in commands:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", *command], stdout=log, stderr=log, start_new_session=True, cwd=folder
                    )
                )
                time.sleep(2)
            yield
        finally:
            for process in reversed(started):
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@contextmanager
def cluster(engine: EngineName, folder: Path) -> Iterator[str | None]:
    """The address of a cluster of two workers; None for local processes."""
    port = _port()
    if engine == "local":
        yield None
    elif engine == "dask":
        address = f"tcp://127.0.0.1:{port}"
        scheduler = ("dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
        worker = ("dask", "worker", address, "--nworkers", str(WORKERS), "--nthreads", "1", "--no-dashboard")
        with _processes(folder, scheduler, worker):
            yield address
    else:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray reads it once a process
        address = f"127.0.0.1:{port}"
        head = ("ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", str(WORKERS), "--port", str(port))
        options = ("--include-dashboard", "false", "--disable-usage-stats")
        with _processes(folder, (*head, *options)):
            time.sleep(8)
            yield address


def timed(folder: Path, engine: EngineName, workers: int | None, killer: Killer | None) -> dict[str, Any]:
    """One sweep from nothing."""
    name = f"{engine}-{workers}-{'killed' if killer else 'whole'}"
    out = folder / f"{name}.parquet"
    with cluster(engine, folder) as address:
        found = sweep(folder / "spec.toml", out, engine, address, workers, killer)
    same = out.read_bytes() == (folder / "local-1-whole.parquet").read_bytes()
    if killer is not None and killer.pid is None:
        raise RuntimeError(f"{name}: no worker was there to be killed")
    what = f"{engine}, {workers or WORKERS} process{'' if workers == 1 else 'es'}{', one killed' if killer else ''}"
    return {"what": what, **found.to_dict(), "same_bytes": same}


def measure(points: int, engines: Sequence[EngineName]) -> list[dict[str, Any]]:
    """Every row of the table; the first is one process."""
    rows = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "spec.toml").write_text(spec(points))
        rows.append(timed(folder, "local", 1, None))
        print(json.dumps(rows[-1]), file=sys.stderr)
        for killed in (False, True):
            for engine in engines:
                killer = Killer() if killed else None
                rows.append(timed(folder, engine, WORKERS if engine == "local" else None, killer))
                print(json.dumps(rows[-1]), file=sys.stderr)
    return [{**row, "speedup": rows[0]["seconds"] / row["seconds"]} for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or JSON; status 1 where a result differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=ENGINES)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(arguments)
    rows = measure(options.points, options.engines)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print(f"{rows[0]['points']} points, {rows[0]['failed']} of them failed")
        for row in rows:
            same = "same bytes" if row["same_bytes"] else "OTHER BYTES"
            print(
                f"{row['what']:32} {row['seconds']:7.1f} s {row['points_per_s']:7.0f}/s {row['speedup']:5.2f}x  {same}"
            )
    if not all(row["same_bytes"] for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
