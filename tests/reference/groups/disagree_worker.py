"""One of three gloo ranks that call different collectives, scenario by scenario, each on a process group of its own.
Never collected; started by test_handshake.py.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from thinwire.reference.allreduce import all_reduce
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.core.cross_schedule import CrossShape
from thinwire.reference.decoder.cross_attention import ring_attention
from thinwire.reference.groups import handshake
from thinwire.reference.groups.group import TorchGroup

RANKS = 3
WAIT_S = 3.0  # timeout of groups on which somebody must run into it
ANSWERED_S = 4.5  # of the one where who asks is answered before
LONG_S = 30.0  # of those on which nobody may
CALIBRATIONS = [Calibration(torch.full((RANKS, 64), reach), torch.full((64,), 3.0)) for reach in (1.0, 1.0, 2.0)]


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(shape, dtype=dtype)


def new_against_new(rank: int, group: TorchGroup) -> list[Callable[[], object]]:
    """What differs when all ranks ask, a call each; a last one shows that the group is as it was."""
    odd = rank == 1
    sizes = CrossShape.even(1, 2, 2, 8, 6, 12, RANKS)

    def versions() -> Tensor:
        handshake.VERSION = "0.0.9" if odd else handshake.VERSION
        try:
            return all_reduce(ones(7), "flash-int4", group)
        finally:
            handshake.VERSION = VERSION

    def crossed() -> Tensor:
        query, key = ([torch.ones(1, 2, tokens[rank], 8)] for tokens in (sizes.text, sizes.visual))
        return ring_attention(query, key, key, sizes, group, scale=0.5 if odd else 0.25)[0]

    return [
        lambda: all_reduce(ones(4096), "all_gather:mx-e4m3-b128" if odd else "all_gather:int8-g128-sym", group),
        lambda: all_reduce(ones(4096), "flash-int8" if odd else "flash-int4", group),
        lambda: all_reduce(ones(4096, dtype=torch.bfloat16 if odd else torch.float16), "flash-int4", group),
        lambda: all_reduce(ones(32, 2) if odd else ones(2, 32), "bf16", group),
        lambda: all_reduce(ones(4096 if odd else 8192), "bf16-ring", group),
        lambda: all_reduce(ones(0 if odd else 5), "bf16", group),
        lambda: all_reduce(ones(3, 64), "hybrid-4.2", group, calibration=CALIBRATIONS[rank]),
        lambda: all_reduce(ones(4096), "hierarchical:bf16", group, islands=((0, 1), (2,)) if odd else ((0,), (1, 2))),
        lambda: all_reduce(ones(4096), "none" if odd else "bf16", group),
        lambda: all_reduce(ones(100), "flash-int4", group, gate_bytes=1000 if odd else 0),
        lambda: all_reduce(ones(4096), "flash-int4", group, exact=64 if odd else 128),
        versions,
        crossed,
        lambda: all_reduce(ones(4096), "flash-int4", group),
    ]


def agreed(rank: int, group: TorchGroup) -> list[Callable[[], object]]:
    """Two combinations, thrice each, through wrappers and in both ways, and the counts."""
    process_group = group._group
    calls: list[Callable[[], object]] = []
    for _ in range(3):
        calls += [
            lambda: all_reduce(ones(4096), "flash-int4", group),
            lambda: all_reduce(ones(9), "bf16", process_group),
        ]
    counts = lambda: [group.handshakes, group.handshake_bytes, sum(group.sent_bytes.values())]  # noqa: E731
    return [*calls, counts, lambda: all_reduce(ones(4096), "flash-int4", group), counts]


def old_against_new(rank: int, group: TorchGroup) -> list[Callable[[], object]]:
    """Ranks 0 and 2 run what all have agreed on, rank 1 something new."""
    return [
        lambda: all_reduce(ones(4096), "flash-int4", group),
        lambda: all_reduce(ones(4096), "flash-int8" if rank == 1 else "flash-int4", group),
        lambda: all_reduce(ones(4096), "flash-int4", group),
    ]


def old_against_old(rank: int, group: TorchGroup) -> list[Callable[[], object]]:
    """All have agreed on two sizes, and run them in different orders."""
    sizes = (4096, 8192) if rank == 1 else (8192, 4096)
    return [
        lambda: all_reduce(ones(4096), "flash-int4", group),
        lambda: all_reduce(ones(8192), "flash-int4", group),
        lambda: [float(all_reduce(ones(size), "flash-int4", group)[0]) for size in sizes],
    ]


def never_called(rank: int, group: TorchGroup) -> list[Callable[[], object]]:
    """Rank 2 comes when the others have given up."""
    late = WAIT_S + 1 if rank == 2 else 0.0
    return [lambda: (time.sleep(late), all_reduce(ones(4096), "flash-int4", group))]


def slow(rank: int, group: TorchGroup) -> list[Callable[[], object]]:
    """A rank computes for longer than the thread's period, before an old and before a new combination."""

    def after(seconds: float, numel: int) -> Tensor:
        time.sleep(seconds if rank == 1 else 0.0)
        return all_reduce(ones(numel), "flash-int4", group)

    return [lambda: after(0, 4096), lambda: after(2.5, 4096), lambda: after(1.5, 64), lambda: after(0, 4096)]


SCENARIOS = {
    new_against_new: LONG_S,
    agreed: LONG_S,
    slow: LONG_S,
    old_against_new: ANSWERED_S,
    old_against_old: WAIT_S,
    never_called: WAIT_S,
}
VERSION = handshake.VERSION


def outcome(call: Callable[[], object]) -> dict[str, Any]:
    """What a call gave or raised, and how long it took."""
    begin_s = time.monotonic()
    try:
        found = call()
        said: dict[str, Any] = {"gave": found[:1].flatten().tolist()[:1] if isinstance(found, Tensor) else found}
    except (RuntimeError, ValueError) as error:
        said = {"error": str(error), "type": type(error).__name__}
    return {**said, "seconds": time.monotonic() - begin_s}


def main(folder: Path, rank: int) -> None:
    """Write `folder/rank<r>.json`: outcomes by scenario."""
    torch.set_num_threads(1)
    port = folder / "port"
    if rank == 0:
        listening = socket.create_server(("127.0.0.1", 0))  # or the store would listen on every interface
        number = listening.getsockname()[1]
        store = dist.TCPStore(
            "127.0.0.1", number, None, True, wait_for_workers=False, master_listen_fd=listening.detach()
        )
        (folder / "port.part").write_text(str(number))
        (folder / "port.part").rename(port)
    else:
        while not port.exists():
            time.sleep(0.01)
        store = dist.TCPStore("127.0.0.1", int(port.read_text()), None, False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    found: dict[str, Any] = {}
    for scenario, timeout_s in SCENARIOS.items():
        group = TorchGroup(dist.new_group(list(range(RANKS)), timeout=timedelta(seconds=timeout_s)))
        dist.barrier()
        found[scenario.__name__] = [outcome(call) for call in scenario(rank, group)]
        dist.barrier()
    # Last: whoever raises goes, and those who wait for its bytes learn of it long before their timeout.
    group = TorchGroup(dist.new_group(list(range(RANKS)), timeout=timedelta(seconds=60)))
    *calls, _ = old_against_new(rank, group)
    found["gone"] = [outcome(call) for call in calls]
    (folder / f"rank{rank}.part").write_text(json.dumps(found))
    (folder / f"rank{rank}.part").rename(folder / f"rank{rank}.json")
    while rank == 0 and not all((folder / f"rank{r}.json").exists() for r in range(RANKS)):
        time.sleep(0.01)  # the store is here
    os._exit(0)  # connections of groups that broke are not waited for


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
