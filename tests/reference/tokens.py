"""Experts' tokens on real ranks: cases, and what each rank gives. Never collected as tests; the processes that
`gloo.on_ranks` starts run `everything`.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from thinwire.reference.alltoall import Received, all_to_all
from thinwire.reference.groups.group import TorchGroup
from thinwire.reference.parallel import all_to_all_op, group_name

RANKS, PAIR = 4, (0, 1)
SCHEMES = ("bf16", "a2a-int4", "deepep-fp8+combine:int6", "a2a-int2-sr", "nvfp4-dispatch", "dispatch:hybrid4-k64-dyn")
WIDTHS = (64, 200)
COUNTS = (
    ((2, 0, 3, 1), (0, 0, 0, 0), (1, 1, 1, 1), (5, 0, 0, 2)),
    ((0, 0, 0, 0), (0, 7, 0, 0), (0, 0, 3, 0), (0, 0, 0, 0)),  # all stay
    ((0, 0, 0, 9), (0, 0, 0, 9), (0, 0, 0, 9), (0, 0, 0, 9)),  # all to one
)


def rows_of(rank: int, counts: tuple[int, ...], width: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """What a rank sends."""
    generator = torch.Generator().manual_seed(100 * rank + width)
    return (torch.randn(sum(counts), width, generator=generator) * 3).to(dtype)


def plain(found: Received) -> tuple[list[list[float]], list[int]]:
    """As JSON keeps it: rows, and counts."""
    return found.rows.tolist(), list(found.counts)


def everything(group: TorchGroup) -> dict[str, Any]:
    """On all ranks, and on the first two of them alone: eager, by operator, and compiled."""
    pair = dist.new_group(list(PAIR))
    found = {"all": exchanges(group), "wrong": disagreements(group)}
    if group.rank in PAIR:
        found["pair"] = operator(TorchGroup(pair), group_name(pair))
    dist.barrier()
    return found


def exchanges(group: TorchGroup) -> list[dict[str, Any]]:
    """Dispatch and combine of every scheme, counts told and counts asked for."""
    found = []
    for scheme in SCHEMES:
        for width in WIDTHS:
            for number, counts in enumerate(COUNTS):
                x = rows_of(group.rank, counts[group.rank], width)
                group.reset_counters()
                asked_before = group.handshakes
                there = all_to_all(x, counts if number == 1 else counts[group.rank], scheme, group)
                sent = {str(peer): nbytes for (_, peer), nbytes in group.sent_bytes.items()}
                back = all_to_all(there.rows, there.counts, scheme, group, phase="combine")
                row = {"sent": sent, "there": plain(there), "back": plain(back)}
                found.append(row | {"asked": group.handshakes - asked_before})
    return found


def disagreements(group: TorchGroup) -> list[str]:
    """What is said where rank 3 has other rows, another codec, or other counts for everybody."""
    odd, said = group.rank == 3, []
    other = tuple(tuple(count + 1 for count in row) for row in COUNTS[0])
    for width, scheme, counts in ((65, "bf16", None), (64, "a2a-int5", None), (64, "a2a-int8", other)):
        mine = COUNTS[0] if counts is None or not odd else counts
        x = rows_of(group.rank, mine[group.rank], width if odd else 64)
        try:
            all_to_all(x, mine if counts else mine[group.rank], scheme if odd else "a2a-int8", group)
            said.append("nothing")
        except ValueError as error:
            said.append(str(error))
    return said


def operator(group: TorchGroup, name: str) -> dict[str, Any]:
    """The custom op, alone and whole in a graph: with room for nine rows, and with as many as come."""
    counts = ((2, 3), (0, 4))[group.rank]
    x, sent = rows_of(group.rank, counts, 96, torch.float32), torch.tensor(counts)

    def dispatched(x: Tensor, sent: Tensor, room: int) -> tuple[Tensor, Tensor]:
        index = torch.arange(len(x) - 1, -1, -1)  # twice turned round
        tokens, came = all_to_all_op(x.flip(0) * 2, sent, "a2a-int8", name, "dispatch", room, index=index)
        return torch.relu(tokens) + 1, came

    with torch.no_grad():
        eager, came = dispatched(x, sent, -1)
        roomy, _ = dispatched(x, sent, 9)
        fixed = torch.compile(dispatched, fullgraph=True, backend="aot_eager")(x, sent, 9)
        with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
            open_ended = torch.compile(dispatched, fullgraph=True, backend="aot_eager")(x, sent, -1)
        by_hand = all_to_all(x * 2, counts, "a2a-int8", group)
        try:
            dispatched(x, sent, 2)
            said = "nothing"
        except ValueError as error:
            said = str(error)
    return {
        "came": came.tolist(),
        "by hand": torch.equal(torch.relu(by_hand.rows) + 1, eager),
        "roomy": torch.equal(roomy[: len(eager)], eager) and bool((roomy[len(eager) :] == 1).all()) and len(roomy) == 9,
        "fixed": torch.equal(fixed[0], roomy) and torch.equal(fixed[1], came),
        "open": torch.equal(open_ended[0], eager) and torch.equal(open_ended[1], came),
        "too many": said,
    }
