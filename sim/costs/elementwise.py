"""Element-wise operators on one GPU: bytes from shape, seconds from bytes.

Norms, residual adds, rotary embedding, gated activations, embedding look-ups and copies do a few operations
per byte, so their time is a floor plus bytes over the bandwidth the kernel reaches:

    time = floor + bytes / (bandwidth * efficiency)

The floor is device time (the kernel's own latency), not the launch: what the host adds between kernels
belongs to the profile's launch overhead. How the efficiencies were found:
docs/decisions/004-attention-and-elementwise.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from thinwire.edge.tables import mapping, value_of
from thinwire.edge.words import cut, shown

PASSES: Mapping[str, int] = {
    "rms_norm": 2,  # read x, write y; width = hidden size (first norm, Gemma 2's post-norms)
    "add_rms_norm": 4,  # read x and residual, write both; width = hidden size (fused add and norm)
    "residual_add": 3,  # read both, write the sum; width = hidden size (unfused)
    "rope": 2,  # read and write queries and keys in place; width = (heads + kv_heads) * head_dim of this rank
    "silu_mul": 3,  # read gate and up, write their product; width = intermediate size of this rank
    "gelu_mul": 3,  # the same with GELU
    "embedding": 2,  # read the rows looked up, write them; width = hidden size
    "copy": 2,  # read, write; width = whatever a row is
}
"""Operator -> how often its row of `width` elements crosses the memory bus, reads and writes together."""

OPS = tuple(PASSES)


def elementwise_bytes(op: str, tokens: int, width: int, element_bytes: int = 2) -> int:
    """Bytes `op` must move for `tokens` rows of `width` elements (what `width` is: see PASSES).

    Norm weights are read once and counted; the cosines and sines of the rotary embedding (one row of head_dim
    per token, shared by all heads) are not. ValueError for an unknown operator or negative sizes.
    """
    if op not in PASSES:
        raise ValueError(f"unknown element-wise operator {shown(op)}; known: {', '.join(OPS)}")
    if tokens < 0 or width < 0 or element_bytes < 1:
        raise ValueError(f"sizes cannot be negative: tokens={tokens}, width={width}, element_bytes={element_bytes}")
    weights = width if tokens and op in ("rms_norm", "add_rms_norm") else 0
    return (PASSES[op] * tokens * width + weights) * element_bytes


@dataclass(frozen=True, slots=True)
class OpCost:
    """One operator's kernel: `floor_s`, the share of the datasheet bandwidth it reaches, and where that is
    from."""

    floor_s: float
    efficiency: float
    source: str

    def __post_init__(self) -> None:
        if not self.floor_s >= 0 or not 0 < self.efficiency <= 1:
            raise ValueError(
                f"need floor_s >= 0 and 0 < efficiency <= 1, got floor_s={self.floor_s}, efficiency={self.efficiency}"
            )
        if not self.source:
            raise ValueError("an operator's cost needs a source")


@dataclass(frozen=True, slots=True)
class ElementwiseModel:
    """Seconds of the element-wise operators on one kind of GPU. Build with validation/fits/elementwise.py."""

    gpu: str
    memory_bandwidth_bytes_per_s: float
    costs: Mapping[str, OpCost]

    def __post_init__(self) -> None:
        if not self.memory_bandwidth_bytes_per_s > 0:
            raise ValueError(f"memory bandwidth must be positive, got {self.memory_bandwidth_bytes_per_s}")
        if set(self.costs) != set(OPS):
            raise ValueError(
                f"costs: missing {sorted(set(OPS) - set(self.costs))}, "
                f"unknown {shown(sorted(set(self.costs) - set(OPS)))}"
            )

    def time_s(self, op: str, bytes_moved: float) -> float:
        """Seconds of one call of `op` that moves `bytes_moved` (elementwise_bytes). Nothing to move takes no
        time."""
        cost = self.costs.get(op)
        if cost is None:
            raise ValueError(f"unknown element-wise operator {shown(op)}; known: {', '.join(OPS)}")
        if not bytes_moved >= 0:
            raise ValueError(f"bytes_moved must not be negative, got {bytes_moved}")
        if not bytes_moved:
            return 0.0
        return cost.floor_s + bytes_moved / (self.memory_bandwidth_bytes_per_s * cost.efficiency)

    def moved_to(self, gpu: str, memory_bandwidth_bytes_per_s: float) -> ElementwiseModel:
        """The same kernels' floors and shares of the bandwidth on another GPU, marked as assumed."""
        moved = {
            op: replace(cost, source=f"assumed: as on {self.gpu} ({cost.source})") for op, cost in self.costs.items()
        }
        return ElementwiseModel(gpu, memory_bandwidth_bytes_per_s, moved)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives an equal model back."""
        return {
            "gpu": self.gpu,
            "memory_bandwidth_bytes_per_s": self.memory_bandwidth_bytes_per_s,
            "costs": {op: asdict(self.costs[op]) for op in OPS},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ElementwiseModel:
        """ValueError for a missing or unknown key, or for values the model refuses."""
        given = mapping(data, "element-wise model")
        costs = mapping(given.get("costs"), "element-wise model: costs")
        made = {op: value_of(OpCost, cost, f"element-wise model: {cut(op)}") for op, cost in costs.items()}
        return value_of(cls, data, "element-wise model", costs=made)
