"""What each of two gloo ranks gives for the custom op of experts' tokens, eager and compiled. Never collected;
started by `gloo.on_two_ranks`.
"""

from typing import Any

import torch
from torch import Tensor

from thinwire.reference.groups.group import TorchGroup
from thinwire.reference.parallel import all_to_all_op, group_name

COUNTS = ((2, 3), (0, 4))
WIDTH = 96


def rows_of(rank: int) -> Tensor:
    """What a rank sends."""
    return torch.randn(sum(COUNTS[rank]), WIDTH, generator=torch.Generator().manual_seed(rank))


def there_and_back(group: TorchGroup) -> dict[str, Any]:
    """A layer of experts between dispatch and combine: eager, whole in a graph, and with room for more rows."""
    name = group_name(torch.distributed.group.WORLD)  # type: ignore[arg-type]
    x, counts = rows_of(group.rank), torch.tensor(COUNTS[group.rank])

    def layer(x: Tensor, counts: Tensor, room: int) -> tuple[Tensor, Tensor]:
        tokens, came = all_to_all_op(x * 2, counts, "a2a-int8", name, "dispatch", room)
        tokens = torch.relu(tokens) + 1
        back, left = all_to_all_op(tokens[: 8 if room > 0 else None], came, "a2a-int8", name, "combine", room and 5)
        return back, left

    def dispatched(x: Tensor, counts: Tensor, room: int) -> tuple[Tensor, Tensor]:
        tokens, came = all_to_all_op(x * 2, counts, "a2a-int8", name, "dispatch", room)
        return torch.relu(tokens) + 1, came

    with torch.no_grad():
        eager, came = dispatched(x, counts, -1)
        roomy, _ = dispatched(x, counts, 9)
        fixed = torch.compile(dispatched, fullgraph=True, backend="aot_eager")(x, counts, 9)
        with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
            open_ended = torch.compile(dispatched, fullgraph=True, backend="aot_eager")(x, counts, -1)
        back, _ = all_to_all_op(eager, came, "bf16", name, "combine")
    return {
        "came": came.tolist(),
        "eager": eager.tolist(),
        "back": back.shape[0],
        "roomy": torch.equal(roomy[: len(eager)], eager) and bool((roomy[len(eager) :] == 1).all()),
        "fixed": torch.equal(fixed[0], roomy) and torch.equal(fixed[1], came),
        "open": torch.equal(open_ended[0], eager) and torch.equal(open_ended[1], came),
    }
