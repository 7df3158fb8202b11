"""What two ranks find when a collective's receives are posted before its values are known. Run by gloo.on_two_ranks."""

from typing import Any

import torch

from thinwire.reference.allreduce import all_reduce
from thinwire.reference.catalog import scheme
from thinwire.reference.core.schedule import Schedule, build
from thinwire.reference.groups.group import TorchGroup
from thinwire.reference.groups.handshake import Form

NAMES = ("bf16-ring", "flash-int4", "two_step:int8-g128-zp@chunk=512x3", "hierarchical:bf16")
NUMEL = 4096


def coming(name: str, group: TorchGroup) -> tuple[Schedule, Form]:
    """What is prepared: an all-reduce of NUMEL fp32 values."""
    return build(scheme(name), group.size, NUMEL, None), Form((NUMEL,), "float32")


def prepared(group: TorchGroup) -> dict[str, Any]:
    """Sums with and without, the errors of misuse, and bytes sent."""
    x_N = torch.randn(NUMEL, generator=torch.Generator().manual_seed(group.rank))
    same = []
    for name in NAMES:
        found = all_reduce(x_N, name, group)
        group.prepare(*coming(name, group))
        same.append(torch.equal(found, all_reduce(x_N, name, group)))
    sent = sum(group.sent_bytes.values())
    group.prepare(*coming("bf16-ring", group))
    said = []
    for misuse in (
        lambda: group.prepare(*coming("flash-int4", group)),
        lambda: all_reduce(x_N, "flash-int4", group),
        lambda: all_reduce(x_N, "bf16-ring", group),
    ):
        try:
            misuse()
        except (ValueError, RuntimeError) as error:
            said.append(f"{type(error).__name__}: {error}")
    return {"same": same, "sent": sent, "said": said}
