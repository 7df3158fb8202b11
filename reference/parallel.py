"""What people put into their models: a custom op that torch.compile keeps whole, and a tensor-parallel style.

    parallelize_module(model, mesh, {"layers.*.mlp.down_proj": CompressedRowwiseParallel("flash-int4")})

replaces the all-reduce after each named row-parallel linear by a compressed one. Inference only: no gradient is defined.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import _resolve_process_group
from torch.distributed.tensor import DTensor, Partial, Replicate
from torch.distributed.tensor.parallel import RowwiseParallel
from torch.distributed.tensor.placement_types import Placement

from .allreduce import all_reduce
from .catalog import scheme as find_scheme


@torch.library.custom_op("thinwire::all_reduce", mutates_args=())
def all_reduce_op(x: Tensor, scheme: str, group_name: str, gate_bytes: int = 0, backend: str = "torch") -> Tensor:
    """`reference.allreduce.all_reduce` as an operator: the scheme by name, the process group by its registered name."""
    return all_reduce(x, scheme, _resolve_process_group(group_name), gate_bytes=gate_bytes, backend=backend)


@all_reduce_op.register_fake
def _(x: Tensor, scheme: str, group_name: str, gate_bytes: int = 0, backend: str = "torch") -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


class CompressedRowwiseParallel(RowwiseParallel):
    """Row-parallel linear whose partial sums are all-reduced under a scheme.

    Args:
        scheme: catalog name or spec.
        gate_bytes: messages of fewer bytes go uncompressed.
        backend: who runs the codecs.
        input_layouts, use_local_output: as RowwiseParallel's.
    """

    def __init__(
        self,
        scheme: str,
        *,
        gate_bytes: int = 0,
        backend: str = "torch",
        input_layouts: Placement | None = None,
        use_local_output: bool = True,
    ) -> None:
        super().__init__(input_layouts=input_layouts, use_local_output=use_local_output)
        self.scheme = find_scheme(scheme).name  # refuse an unknown name here, not in the first forward
        self.gate_bytes = gate_bytes
        self.backend = backend

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        scheme, gate_bytes, backend = self.scheme, self.gate_bytes, self.backend

        def prepare_output(
            output_layouts: tuple[Placement, ...], use_local_output: bool, _module: nn.Module, outputs: Any, mesh: DeviceMesh
        ) -> Any:
            if isinstance(outputs, DTensor) and outputs.placements == (Partial(),):
                name = mesh.get_group().group_name
                summed = all_reduce_op(outputs.to_local(), scheme, name, gate_bytes, backend)
                outputs = DTensor.from_local(summed, mesh, (Replicate(),), run_check=False)
            return outputs.to_local() if use_local_output else outputs

        self._prepare_output_fn = prepare_output  # type: ignore[method-assign]
        return super()._apply(module, device_mesh)


def group_name(process_group: dist.ProcessGroup) -> str:
    """The name under which `all_reduce_op` finds a process group."""
    return str(process_group.group_name)
