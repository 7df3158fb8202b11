"""One rank of a real gloo group: runs a list of all-reduces and writes what it got. Started by `gloo.run`, never
collected.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from thinwire.reference.allreduce import all_reduce
from thinwire.reference.group import TorchGroup


def main(folder: Path, rank: int) -> None:
    """Read `folder/job.json`, write `folder/rank<r>.json`."""
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), job["ranks"])
    timeout = timedelta(seconds=job["timeout_s"])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job["ranks"], timeout=timeout)
    group = TorchGroup()
    out = []
    for case in job["cases"]:
        if case.get("dies") == rank:
            sys.exit(3)
        x = partial(case, rank)
        group.reset_counters()
        calibration = calibrated(case, job["ranks"])
        islands = tuple(map(tuple, case["islands"])) if case.get("islands") else None
        try:
            got = all_reduce(x, case["scheme"], group, calibration=calibration, islands=islands)
        except RuntimeError as error:
            out.append({"error": str(error)})
            break
        sent = {str(peer): count for (_, peer), count in group.sent_bytes.items()}
        out.append({"hash": digest(got), "sent": sent})
    (folder / f"rank{rank}.json").write_text(json.dumps(out))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from gloo import calibrated, digest, partial

    main(Path(sys.argv[1]), int(sys.argv[2]))
