"""One of some gloo ranks: writes what a function of a module gives for its group. Never collected; started by
`gloo.on_ranks`.
"""

import importlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from thinwire.reference.groups.group import TorchGroup


def main(folder: Path, ranks: int, rank: int, module: Path, function: str) -> None:
    """Write `folder/rank<r>.json`."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    found = getattr(importlib.import_module(module.stem), function)(TorchGroup())
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(sys.argv[4]).parent))
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
