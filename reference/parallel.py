"""What people put into their models: a custom op that torch.compile keeps whole, and a tensor-parallel style.

    parallelize_module(model, mesh, {"layers.*.mlp.down_proj": CompressedRowwiseParallel("flash-int4")})

replaces the all-reduce after each named row-parallel linear by a compressed one. Inference only: no gradient is
defined.
"""

from __future__ import annotations

from types import MethodType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import _resolve_process_group  # type: ignore[attr-defined]
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module
from torch.distributed.tensor.parallel import RowwiseParallel
from torch.distributed.tensor.placement_types import Placement

from thinwire.reference.allreduce import all_reduce
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.codecs.backend import AUTO, for_device
from thinwire.reference.codecs.backend import backend as find_backend
from thinwire.reference.core.scheme import OutlierHybrid


@torch.library.custom_op("thinwire::all_reduce", mutates_args=())
def all_reduce_op(x: Tensor, scheme: str, group_name: str, gate_bytes: int = 0, backend: str = AUTO) -> Tensor:
    """`reference.allreduce.all_reduce` as an operator: the scheme by name, the process group by its registered name.

    backend "auto": Triton's kernels on a GPU, torch elsewhere.
    """
    process_group = _resolve_process_group(group_name)  # type: ignore[arg-type]
    return all_reduce(x, scheme, process_group, gate_bytes=gate_bytes, backend=for_device(backend, x.device))


@all_reduce_op.register_fake
def _(x: Tensor, scheme: str, group_name: str, gate_bytes: int = 0, backend: str = AUTO) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


class CompressedRowwiseParallel(RowwiseParallel):
    """Row-parallel linear whose partial sums are all-reduced under a scheme.

    Args:
        scheme: catalog name or spec.
        gate_bytes: messages of fewer bytes go uncompressed.
        backend: who runs the codecs: "torch", "triton", or "auto" for Triton's kernels on a GPU and torch elsewhere.
        input_layouts, use_local_output: as RowwiseParallel's.
    """

    def __init__(
        self,
        scheme: str,
        *,
        gate_bytes: int = 0,
        backend: str = AUTO,
        input_layouts: Placement | None = None,
        use_local_output: bool = True,
    ) -> None:
        super().__init__(input_layouts=input_layouts, use_local_output=use_local_output)
        self.scheme = _applicable(scheme)  # refuse here, not in the first forward
        if backend != AUTO:
            find_backend(backend)
        self.gate_bytes = gate_bytes
        self.backend = backend

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        """Shard the weight, and compute on the shards themselves.

        DTensor may decide to gather a sharded operand instead of giving a partial sum (it does for a linear under
        inference_mode), and then nothing would be compressed; on local tensors there is nothing to decide.
        """
        if not isinstance(module, nn.Linear):
            raise NotImplementedError(f"CompressedRowwiseParallel takes nn.Linear: given {type(module).__name__}")
        distribute_module(module, device_mesh, self._partition_linear_fn)
        name = group_name(device_mesh.get_group())

        def forward(module: nn.Linear, input: Tensor) -> Tensor:
            summed: Tensor = all_reduce_op(
                nn.functional.linear(self._shard(input, device_mesh), _local(module.weight)),
                self.scheme,
                name,
                self.gate_bytes,
                self.backend,
            )
            y = summed if module.bias is None else summed + _local(module.bias)
            return y if self.use_local_output else DTensor.from_local(y, device_mesh, (Replicate(),), run_check=False)

        module.forward = MethodType(forward, module)  # type: ignore[method-assign]
        return module

    def _shard(self, x: Tensor, device_mesh: DeviceMesh) -> Tensor:
        """This rank's share of the input's features."""
        if not isinstance(x, DTensor):
            if self.input_layouts == (Shard(-1),):
                return x
            x = DTensor.from_local(x, device_mesh, self.input_layouts, run_check=False)
        return _local(x.redistribute(placements=(Shard(-1),)))


def _applicable(scheme: str) -> str:
    """The scheme's name; ValueError for one that a layer on its own cannot honour."""
    found = find_scheme(scheme)
    reasons = {
        "none sums nothing": found.collective == "none",
        "a process group has no switch that sums": found.collective == "nvls",
        "islands cannot be told to an operator": found.collective == "hierarchical",
        "a static hybrid needs a calibration": any(
            isinstance(c, OutlierHybrid) and c.scale == "static" for c in (found.reduce, found.gather)
        ),
        "dropped sync points and split sequences are the model's business": bool(found.drop_attention_percent)
        or found.sequence_split is not None,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"CompressedRowwiseParallel cannot apply {found.name}: {reason}")
    return found.name


def _local(x: Tensor) -> Tensor:
    return x.to_local() if isinstance(x, DTensor) else x


def group_name(process_group: dist.ProcessGroup) -> str:
    """The name under which `all_reduce_op` finds a process group."""
    return str(process_group.group_name)
