"""How kernels are launched: block sizes and warps, measured per GPU where somebody has measured, and exact arithmetic.

A `Tuning` is an argument of every launcher; left out, `default_tuning` gives what was measured on the GPU at hand or,
where nothing was, or one size alone (an H200's), what the compiled code suggests: no spills, 128-bit loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import triton
from torch import Tensor

from thinwire.kernels.form import Form, HybridForm, Parts, as_rows, row_stride
from thinwire.kernels.numbers import INTERPRETED
from thinwire.reference.core.scheme import ALIGNMENT_BYTES


@dataclass(frozen=True, slots=True)
class Tuning:
    """values: of a program's tile, a power of two (rounded up to one group); warps: that share it."""

    values: int
    warps: int

    def __post_init__(self) -> None:
        if self.values < 8 or self.values & (self.values - 1) or self.warps not in (1, 2, 4, 8, 16):
            raise ValueError(f"values must be a power of two from 8, warps 1, 2, 4, 8 or 16: given {self}")

    def groups(self, form: Form | HybridForm) -> int:
        """(Padded) groups of a tile."""
        return max(self.values, form.least) // form.padded_group

    def holding(self, least: int) -> Tuning:
        """Itself; where a tile must hold `least` values and that is more, so many, and as many a warp while 16 do."""
        if least <= self.values:
            return self
        return Tuning(least, min(16, self.warps * (least // self.values)))


# By kernel. 32 values a thread: four 128-bit loads of bf16 in flight; see tests/kernels/test_compile.py.
ASSUMED: Mapping[str, Tuning] = MappingProxyType(
    {"encode": Tuning(4096, 4), "reduce": Tuning(2048, 2), "requantise": Tuning(2048, 2), "decode": Tuning(4096, 4)}
)
# By compute capability, then kernel: fill in from `make gpu`, with the file under validation/raw/ it came from.
MEASURED: Mapping[tuple[int, int], Mapping[str, Tuning]] = MappingProxyType({})
# The interpreter's cost follows the number of programs: few large ones.
INTERPRETER = Tuning(1 << 14, 4)


def default_tuning(kernel: str, device: torch.device) -> Tuning:
    """The tuning of `kernel` on `device`."""
    if device.type != "cuda":
        return INTERPRETER
    measured = MEASURED.get(torch.cuda.get_device_capability(device), {})
    return measured.get(kernel, ASSUMED[kernel])


def options(tuning: Tuning) -> dict[str, Any]:
    """Launch options. Fused multiply-adds only where a kernel asks for one, or bits differ from the reference."""
    return {"num_warps": tuning.warps, "enable_fp_fusion": False}


def check_device(*tensors: Tensor) -> None:
    """Raises ValueError unless all tensors lie where kernels can run: one CUDA device, or the CPU when interpreting.

    And for lazily negated views, whose memory holds the other sign.
    """
    if any(tensor.is_neg() for tensor in tensors):
        raise ValueError("kernels read memory as it stands: call resolve_neg() on lazily negated tensors first")
    devices = {tensor.device for tensor in tensors}
    if len(devices) != 1:
        raise ValueError(f"tensors must lie on one device: {sorted(map(str, devices))}")
    kind = devices.pop().type
    if kind != "cuda" and not (INTERPRETED.value and kind == "cpu"):
        raise ValueError(
            f"triton kernels run on CUDA devices, or on the CPU with TRITON_INTERPRET=1 set before the import: {kind}"
        )


def check_wire(wire: Tensor, shape: tuple[int, ...], parts: Parts) -> None:
    """Raises ValueError unless `wire` is uint8 [*shape, >= the largest part's bytes], every buffer aligned."""
    least = max(parts.nbytes)
    fits = wire.shape[:-1] == shape and wire.shape[-1] >= least and (wire.stride(-1) == 1 or wire.shape[-1] == 1)
    aligned = not any(place % ALIGNMENT_BYTES for place in (wire.data_ptr(), *wire.stride()[:-1]))
    if wire.dtype != torch.uint8 or not fits or not aligned:
        raise ValueError(
            f"wire buffers of {parts.codec.spec} must be uint8 {[*shape, f'>= {least}']}, each from a multiple of "
            f"{ALIGNMENT_BYTES} bytes on: given {wire.dtype} {list(wire.shape)}, strides {wire.stride()}"
        )


def checked_rows(values: Tensor, wire_RPB: Tensor, parts: Parts, copies: int | None = None) -> Tensor:
    """`values` as rows, each of all parts; `wire_RPB` holds `copies` of each part (None: as many as there are rows).

    Raises ValueError for shapes that do not fit and tensors that kernels cannot reach.
    """
    rows = as_rows(values)
    check_device(rows, wire_RPB, parts.table)
    check_wire(wire_RPB, (rows.shape[0] if copies is None else copies, len(parts)), parts)
    if rows.shape[1] != sum(parts.numels):
        raise ValueError(f"rows must hold {sum(parts.numels)} values, the sum of their parts: {rows.shape[1]}")
    return rows


def launch_tiles(
    kernel: Any,
    name: str,
    compiled: Form | HybridForm,
    rows: Tensor,
    wire_RPB: Tensor,
    parts: Parts,
    tuning: Tuning | None,
    **others: Any,
) -> None:
    """Run a kernel on every tile of groups, of every part, of every row of `rows`.

    name: by which `default_tuning` knows it. others: its arguments besides those that all such kernels have.
    """
    chosen = (tuning or default_tuning(name, rows.device)).holding(compiled.least)
    groups = chosen.groups(compiled)
    kernel[cdiv(parts.most_groups, groups), len(parts), rows.shape[0]](
        values_ptr=rows, wire_ptr=wire_RPB, table_ptr=parts.table, values_row=row_stride(rows),
        wire_part=wire_RPB.stride(1), FORM=compiled, TILE_GROUPS=groups, **others, **options(chosen),
    )  # fmt: skip


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return int(triton.cdiv(a, b))
