"""One rank of cross-attention on a real gloo group: writes digests and bytes. Started by test_cross_attention.py, never
collected.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from thinwire.reference.groups.group import TorchGroup


def main(folder: Path, rank: int) -> None:
    """Read `folder/job.json`, write `folder/rank<r>.json`."""
    torch.set_num_threads(1)
    job = json.loads((folder / "job.json").read_text())
    store = dist.FileStore(str(folder / "store"), job["ranks"])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=job["ranks"])
    group, out = TorchGroup(), []
    for case in job["cases"]:
        group.reset_counters()
        (output,) = run(case, group)
        out.append({"hash": digest(output), "sent": sum(group.sent_bytes.values())})
    (folder / f"rank{rank}.json").write_text(json.dumps(out))
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # crossing beside, gloo above
    from crossing import run
    from gloo import digest

    main(Path(sys.argv[1]), int(sys.argv[2]))
