"""What two ranks find when a collective's receives are posted before its values are known. Run by gloo.on_two_ranks."""

from typing import Any

import torch

from thinwire.reference.allreduce import all_reduce
from thinwire.reference.catalog import scheme
from thinwire.reference.core.schedule import build
from thinwire.reference.groups.group import TorchGroup

NAMES = ("bf16-ring", "flash-int4", "two_step:int8-g128-zp@chunk=512x3", "hierarchical:bf16")
NUMEL = 4096


def prepared(group: TorchGroup) -> dict[str, Any]:
    """Sums with and without, the errors of misuse, and bytes sent."""
    x_N = torch.randn(NUMEL, generator=torch.Generator().manual_seed(group.rank))
    same = []
    for name in NAMES:
        found = all_reduce(x_N, name, group)
        group.prepare(build(scheme(name), group.size, NUMEL, None))
        same.append(torch.equal(found, all_reduce(x_N, name, group)))
    sent = sum(group.sent_bytes.values())
    group.prepare(build(scheme("bf16-ring"), group.size, NUMEL, None))
    said = []
    for misuse in (
        lambda: group.prepare(build(scheme("flash-int4"), group.size, NUMEL, None)),
        lambda: all_reduce(x_N, "flash-int4", group),
        lambda: all_reduce(x_N, "bf16-ring", group),
    ):
        try:
            misuse()
        except (ValueError, RuntimeError) as error:
            said.append(f"{type(error).__name__}: {error}")
    return {"same": same, "sent": sent, "said": said}
