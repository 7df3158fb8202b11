"""One rank of a real gloo group: runs a list of all-reduces and writes what it got. Started by `gloo.run`, never
collected.
"""

import json
import os
import signal
import sys
import threading
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from thinwire.reference.allreduce import all_reduce
from thinwire.reference.codecs import error
from thinwire.reference.groups.group import TorchGroup


def main(folder: Path, rank: int) -> None:
    """Read `folder/job.json`, write `folder/rank<r>.json`."""
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), job["ranks"])
    timeout = timedelta(seconds=job["timeout_s"])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job["ranks"], timeout=timeout)
    members = job.get("members")  # a sub-group, in an order of its own; None = all
    process_group = dist.new_group(members) if members else None
    if members and rank not in members:
        (folder / f"rank{rank}.json").write_text("[]")
        return
    group = TorchGroup(process_group)
    rank_in_group, ranks = group.rank, group.size
    out = []
    for case in job["cases"]:
        if case.get("dies") == rank:
            sys.exit(3)
        if case.get("killed") == rank:  # in the middle: a moment after the others have begun
            threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        x = partial(case, rank_in_group)
        group.reset_counters()
        calibration = calibrated(case, ranks)
        islands = tuple(map(tuple, case["islands"])) if case.get("islands") else None
        try:
            exact = case.get("exact", 0)
            got = all_reduce(x, case["scheme"], group, calibration=calibration, islands=islands, exact=exact)
        except (RuntimeError, ValueError) as raised:
            out.append({"error": str(raised)})
            if isinstance(raised, RuntimeError) and not case.get("goes_on"):
                break
            continue
        sent = {str(peer): count for (_, peer), count in group.sent_bytes.items()}
        out.append({"hash": digest(got), "sent": sent})
        if case.get("measured") and rank == 0:
            wanted = sum(partial(case, r).double() for r in range(ranks))
            out[-1]["snr_db"] = error.measure(wanted, got).snr_db
    (folder / f"rank{rank}.json").write_text(json.dumps(out))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from gloo import calibrated, digest, partial

    main(Path(sys.argv[1]), int(sys.argv[2]))
