"""What it costs that ranks ask each other first: `python -m thinwire.reference.bench_groups`.

Gloo ranks on this machine over a TCPStore, all of it in one run and in turns, so ratios mean something: an all-reduce
of a combination that was agreed on, the first one of a combination, and one on a group that asks nobody and tells
nothing apart. Times are rank 0's, from a barrier on, of the round that a tenth of the rounds are faster than: what
other jobs on the machine add is not what is asked. The schedule is built before, and calls come in random order, the
same on all ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from thinwire.reference.allreduce import all_reduce, form_of
from thinwire.reference.catalog import scheme
from thinwire.reference.core.schedule import Schedule, build
from thinwire.reference.groups.group import TorchGroup
from thinwire.reference.groups.handshake import Form, agreement_of, combination

SCHEME = "flash-int4"
SIZES = (4096, 1 << 20)


class Unasked(TorchGroup):
    """A group on which ranks take each other's word."""

    @contextmanager
    def _collective(self, schedule: Schedule, form: Form | None, device: torch.device) -> Iterator[int]:
        yield 0


def seconds(call: Callable[[], object]) -> float:
    """Of one call, all ranks beginning together."""
    dist.barrier()
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(ranks: int, rounds: int) -> dict[str, Any]:
    """One rank's figures: microseconds by size, and what the parts cost alone."""
    asking, plain = TorchGroup(dist.new_group(list(range(ranks)))), Unasked(dist.new_group(list(range(ranks))))
    found: dict[str, Any] = {"ranks": ranks, "scheme": SCHEME, "torch": torch.__version__, "sizes": []}
    for numel in SIZES:
        times: dict[str, list[float]] = {"without": [], "agreed": [], "first": [], "new without": []}
        for number in range(rounds + 2):
            fresh_N, usual_N = torch.ones(numel + 128 * (1 + number)), torch.ones(numel)
            build(scheme(SCHEME), ranks, fresh_N.numel(), None)
            calls = [
                ("agreed", asking, usual_N),
                ("without", plain, usual_N),
                ("first", asking, fresh_N),
                ("new without", plain, fresh_N),
            ]
            random.Random(number).shuffle(calls)
            for name, group, x_N in calls:
                times[name].append(seconds(lambda group=group, x_N=x_N: all_reduce(x_N, SCHEME, group)))  # type: ignore[misc]
        fast = {name: sorted(taken[2:])[rounds // 10] * 1e6 for name, taken in times.items()}
        found["sizes"].append({"numel": numel, **fast})
    found["handshakes"], found["handshake_bytes"] = asking.handshakes, asking.handshake_bytes
    x_N = torch.ones(SIZES[0])
    schedule, cpu = build(scheme(SCHEME), ranks, SIZES[0], None), torch.device("cpu")
    agreement = agreement_of(asking._group, cpu)

    def enter() -> None:
        agreement.enter(combination(schedule, form_of(x_N, scheme(SCHEME)), cpu.type))
        agreement.leave()

    for name, part in (("enter", enter), ("look", agreement.look)):
        begin = time.perf_counter()
        for _ in range(1000):
            part()
        found[f"{name}_us"] = (time.perf_counter() - begin) * 1e3
    dist.barrier()
    return found


def table(found: dict[str, Any]) -> str:
    """The document as text."""
    lines = [
        f"{found['ranks']} gloo ranks, {found['scheme']}, torch {found['torch']}; microseconds (times that without)",
        f"{'values':>9}{'without':>10}{'agreed on':>18}{'first':>19}",
    ]
    for row in found["sizes"]:
        agreed, first = row["agreed"] / row["without"], row["first"] / row["new without"]
        lines.append(
            f"{row['numel']:9}{row['without']:10.0f}{row['agreed']:10.0f} ({agreed:4.2f}x)"
            f"{row['first']:11.0f} ({first:4.2f}x)"
        )
    a_handshake = found["handshake_bytes"] / found["handshakes"]
    lines.append(
        f"alone: a look into what was agreed on {found['enter_us']:.1f} us, the thread's look, once a second, "
        f"{found['look_us']:.0f} us; {a_handshake:.0f} bytes into the store a handshake and rank"
    )
    return "\n".join(lines)


def rank_main(rank: int, ranks: int, rounds: int, folder: Path) -> None:
    """One rank; rank 0 writes the document."""
    torch.set_num_threads(1)
    port = folder / "port"
    if rank == 0:
        listening = socket.create_server(("127.0.0.1", 0))
        number = listening.getsockname()[1]
        store = TCPStore("127.0.0.1", number, None, True, wait_for_workers=False, master_listen_fd=listening.detach())
        port.with_suffix(".part").write_text(str(number))
        port.with_suffix(".part").rename(port)
    else:
        while not port.exists():
            time.sleep(0.01)
        store = TCPStore("127.0.0.1", int(port.read_text()), None, False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    found = measure(ranks, rounds)
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def run(ranks: int, rounds: int) -> dict[str, Any]:
    """Figures of `ranks` processes started here. RuntimeError where one fails."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "thinwire.reference.bench_groups"]
        options = ["--ranks", str(ranks), "--rounds", str(rounds), "--folder", name]
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
        processes = [
            subprocess.Popen([*command, *options, "--rank", str(rank)], env=environment) for rank in range(ranks)
        ]
        try:
            if any(process.wait(timeout=300) for process in processes):
                raise RuntimeError(f"a rank of {ranks} failed; see what it printed")
        finally:
            for process in processes:
                process.kill()
        found: dict[str, Any] = json.loads((Path(name) / "found.json").read_text())
        return found


def main(arguments: list[str] | None = None) -> None:
    """Print the table, or with --json the document."""
    parser = argparse.ArgumentParser(
        prog="python -m thinwire.reference.bench_groups", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--ranks", type=int, default=2, help="ranks on this machine (default 2)")
    parser.add_argument("--rounds", type=int, default=100, help="rounds (default 100)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rank", type=int, default=None, help=argparse.SUPPRESS)  # of a process that is one of them
    parser.add_argument("--folder", type=Path, default=None, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if not 2 <= chosen.ranks <= 64 or chosen.rounds < 1:
        parser.error(f"--ranks must be 2 to 64, --rounds 1 or more: ranks={chosen.ranks}, rounds={chosen.rounds}")
    if chosen.rank is not None:
        rank_main(chosen.rank, chosen.ranks, chosen.rounds, chosen.folder)
        return
    found = run(chosen.ranks, chosen.rounds)
    sys.stdout.write((json.dumps(found, indent=1) if chosen.json else table(found)) + "\n")


if __name__ == "__main__":
    main()
