"""NVFP4 on the wire: e2m1 values, an e4m3 scale for each 16 of them, and an fp32 scale for each row above those.

The scale of a tensor becomes one of a row, which is what FlashInfer's all-reduce sends: a record of 6,144 values, 384
block scales and the row's amax / 2688, so a row knows nothing of other rows and nobody passes over the tensor twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from thinwire.edge.limits import GROUP
from thinwire.reference.core.formats import element
from thinwire.reference.core.scheme import Codec, Section

BLOCK = 16
ELEMENT, BLOCK_SCALE, ROW_SCALE = "e2m1", "e4m3", "fp32"
TOP = element(ELEMENT).maximum * element(BLOCK_SCALE).maximum  # 2688: the largest value, in row scales


@dataclass(frozen=True, slots=True)
class NVFP4(Codec):
    """`row` values, whole blocks of 16, share an fp32 scale; each block has an e4m3 scale in units of it."""

    row: int = 6144

    def __post_init__(self) -> None:
        if self.row < BLOCK or self.row % BLOCK:
            raise ValueError(f"row must be a positive multiple of {BLOCK}: row={self.row}")
        GROUP.check("row", self.row)

    @property
    def group(self) -> int:
        """Values of a row: they share a scale, and must not be parted."""
        return self.row

    @property
    def spec(self) -> str:
        """`nvfp4-r6144`."""
        return f"nvfp4-r{self.row}"

    @property
    def bits_per_value(self) -> float:
        """4, and both scales spread over their values."""
        return element(ELEMENT).bits + element(BLOCK_SCALE).bits / BLOCK + element(ROW_SCALE).bits / self.row

    def _sections(self, numel: int) -> tuple[Section, ...]:
        rows = -(-numel // self.row)
        return (
            Section("plane4", rows * self.row // 2),
            Section("scales", rows * (self.row // BLOCK)),
            Section("row_scales", rows * element(ROW_SCALE).bits // 8, ROW_SCALE),
        )
