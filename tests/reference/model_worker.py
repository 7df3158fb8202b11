"""One rank of a model on a real gloo group: writes the digests of `tiny.digests`. Started by test_model.py, never
collected.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from thinwire.reference.group import TorchGroup


def main(folder: Path, rank: int) -> None:
    """Write `folder/rank<r>.json`."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    (folder / f"rank{rank}.json").write_text(json.dumps(digests(TorchGroup())))
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from tiny import digests

    main(Path(sys.argv[1]), int(sys.argv[2]))
