"""What people put into their models: custom ops that torch.compile keeps whole, and a tensor-parallel style.

    plan = {
        "model.layers.*.mlp.gate_proj": ColwiseParallel(),
        "model.layers.*.mlp.up_proj": ColwiseParallel(),
        "model.layers.*.mlp.down_proj": CompressedRowwiseParallel("flash-int4"),
    }
    replaced = parallelize(model, mesh, plan)

replaces the all-reduce after each named row-parallel linear by a compressed one, and says how many; a pattern that
matches nothing is an error. Torch's own `parallelize_module` takes the plan too, skips such a pattern, and the style's
`replaced` tells. Inference only: no gradient is defined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from fnmatch import fnmatch
from types import MethodType

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import _resolve_process_group  # type: ignore[attr-defined]
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module
from torch.distributed.tensor.parallel import ParallelStyle, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import Placement

from thinwire.reference.allreduce import all_reduce
from thinwire.reference.alltoall import all_to_all
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.codecs.backend import AUTO, for_device
from thinwire.reference.codecs.backend import backend as find_backend


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


@torch.library.custom_op("thinwire::all_to_all", mutates_args=())
def all_to_all_op(
    x: Tensor,
    counts: Tensor,
    scheme: str,
    group_name: str,
    phase: str = "dispatch",
    rows: int = -1,
    backend: str = AUTO,
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`reference.alltoall.all_to_all` as an operator: (rows received [S, D], how many came from each rank [ranks]).

    counts: rows to each rank, int64 [ranks], of x or, in their order, of those at `index`. rows: S, with zeros behind
    what came, so that a graph knows every shape; ValueError where more come. -1: as many as came, of which a graph
    knows nothing.
    """
    process_group = _resolve_process_group(group_name)  # type: ignore[arg-type]
    chosen = for_device(backend, x.device)
    sent = counts.tolist()
    found = all_to_all(x, sent, scheme, process_group, phase=phase, backend=chosen, index=index)  # type: ignore[arg-type]
    received = torch.tensor(found.counts, dtype=counts.dtype, device=counts.device)
    if rows < 0:
        return found.rows, received
    more = rows - found.rows.shape[0]
    if more < 0:
        raise ValueError(f"room for {rows} rows, but {found.rows.shape[0]} came: counts={list(found.counts)}")
    return nn.functional.pad(found.rows, (0, 0, 0, more)), received


@all_to_all_op.register_fake
def _(
    x: Tensor,
    counts: Tensor,
    scheme: str,
    group_name: str,
    phase: str = "dispatch",
    rows: int = -1,
    backend: str = AUTO,
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    size = torch.library.get_ctx().new_dynamic_size() if rows < 0 else rows
    return x.new_empty(size, x.shape[1]), torch.empty_like(counts)


class CompressedRowwiseParallel(RowwiseParallel):
    """Row-parallel linear whose partial sums are all-reduced under a scheme.

    Args:
        scheme: catalog name or spec.
        gate_bytes: messages of fewer bytes go uncompressed.
        backend: who runs the codecs: "torch", "triton", or "auto" for Triton's kernels on a GPU and torch elsewhere.
        input_layouts, use_local_output: as RowwiseParallel's.

    Attributes:
        replaced: how many layers this style was put on so far, over all patterns, plans and models that share it.
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
        self.replaced = 0

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
        self.replaced += 1
        return module

    def _shard(self, x: Tensor, device_mesh: DeviceMesh) -> Tensor:
        """This rank's share of the input's features."""
        if not isinstance(x, DTensor):
            if self.input_layouts == (Shard(-1),):
                return x
            x = DTensor.from_local(x, device_mesh, self.input_layouts, run_check=False)
        return _local(x.redistribute(placements=(Shard(-1),)))


def parallelize(model: nn.Module, mesh: DeviceMesh, plan: Mapping[str, ParallelStyle]) -> int:
    """Torch's `parallelize_module`, of a plan whose every pattern must match: says how many layers now sum compressed.

    Args:
        model: changed in place.
        mesh: of one dimension.
        plan: styles by pattern of module names, matched as torch does it: component by component, each with its own
            wildcards. At least one is a CompressedRowwiseParallel; several patterns may share one.

    Returns:
        How many layers were given a CompressedRowwiseParallel. Torch refuses to put two styles on one module.

    Raises:
        ValueError: no style compresses, or a pattern matches no module. The model is as it was.
        RuntimeError: two patterns match the same module, or the model was parallelized before.
        NotImplementedError: a CompressedRowwiseParallel met something else than nn.Linear.
    """
    if not any(isinstance(style, CompressedRowwiseParallel) for style in plan.values()):
        given = ", ".join(sorted({type(style).__name__ for style in plan.values()})) or "nothing"
        raise ValueError(f"plan compresses no layer: given {given}; at least one CompressedRowwiseParallel is needed")
    found: list[tuple[nn.Module, ParallelStyle]] = []
    for pattern, style in plan.items():
        modules = list(_matched(model, pattern))
        if not modules:
            raise ValueError(_matches_nothing(model, pattern, style))
        found += [(module, style) for module in modules]
    for module, style in found:
        parallelize_module(module, mesh, style)
    return sum(isinstance(style, CompressedRowwiseParallel) for _, style in found)


def _matched(module: nn.Module, pattern: str) -> Iterator[nn.Module]:
    """The modules that `parallelize_module` finds for a pattern."""
    if not pattern:
        yield module
        return
    component, _, rest = pattern.partition(".")
    for name, child in module.named_children():
        if fnmatch(name, component):
            yield from _matched(child, rest)


def _matches_nothing(model: nn.Module, pattern: str, style: ParallelStyle) -> str:
    """The sentence that refuses a pattern, with the nearest names of what its style could take."""
    kind = nn.Linear if isinstance(style, CompressedRowwiseParallel) else nn.Module
    names = [name for name, module in model.named_modules() if name and isinstance(module, kind)]
    near = get_close_matches(pattern, names, n=3, cutoff=0.0)
    hint = f"the nearest are {', '.join(near)}" if near else f"it has no {kind.__name__}"
    return f"plan matches no module of {type(model).__name__}: given {pattern[:80]!r}; {hint}"


def _applicable(scheme: str) -> str:
    """The scheme's name; ValueError for one that a layer on its own cannot honour."""
    found = find_scheme(scheme)
    reasons = {
        "none sums nothing": found.collective == "none",
        "a process group has no switch that sums": found.collective == "nvls",
        "islands cannot be told to an operator": found.collective == "hierarchical",
        "a static hybrid needs a calibration": any(c.needs_calibration for c in (found.reduce, found.gather)),
        "dropped sync points and split sequences are the model's business": bool(found.drop_attention_percent)
        or found.sequence_split is not None,
        "a layer does not know which rows are a prompt's last": bool(found.exempt_last_tokens),
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
