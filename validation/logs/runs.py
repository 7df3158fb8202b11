"""What a log says: its runs, each one operation on one set of ranks, with all the text tells of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from thinwire.reference.core.schedule import Op
from thinwire.validation.logs.rows import Row

OPS: Mapping[str, Op] = {
    "all_reduce": "all_reduce", "allreduce": "all_reduce",
    "all_gather": "all_gather", "allgather": "all_gather",
    "reduce_scatter": "reduce_scatter", "reducescatter": "reduce_scatter",
    "alltoall": "all_to_all", "all_to_all": "all_to_all", "all2all": "all_to_all",
}  # fmt: skip
OTHER_OPS = ("sendrecv", "broadcast", "reduce", "gather", "scatter", "hypercube", "alltoallv", "all_to_allv")
BUS_FACTOR: Mapping[Op, int] = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1}
OP_NAMES = "all_reduce, all_gather, reduce_scatter, alltoall"


@dataclass(frozen=True, slots=True)
class RankLine:
    """`# Rank 3 Group 0 Pid 5 on host device 3 [0x45] NVIDIA ...`."""

    rank: int
    pid: str
    host: str
    device: int
    bus: str
    gpu: str


@dataclass(slots=True)
class Run:
    """One table, and what stood around it. dropped: rows that are not used, and why."""

    file: str
    number: int  # of the file's runs, from 1
    rows: list[Row] = field(default_factory=list)
    named: str = ""  # the operation, as text
    rank_lines: dict[int, RankLine] = field(default_factory=dict)
    per_process: int = 0  # nThread x nGpus
    version: str = ""
    visible: tuple[int, ...] = ()  # CUDA_VISIBLE_DEVICES
    place: Literal["out-of-place", "in-place"] = "out-of-place"
    tool: str = "nccl-tests"
    label: str = ""  # of one of a pasted table's groups
    failed: bool = False
    cpu_time: bool = False
    timed: bool = False  # the table has times, rather than bandwidths alone
    dropped: list[str] = field(default_factory=list)
    said: dict[str, None] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """For people."""
        named = f" {self.label}" if self.label else ""
        return f"{self.file}, run {self.number}{named}"

    @property
    def gpu(self) -> str:
        """The GPU's name as the driver prints it; "" where no rank line does."""
        return next((line.gpu for line in self.rank_lines.values() if line.gpu), "")
