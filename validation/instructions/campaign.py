"""The constants of `price.py` out of a campaign of `make gpu`, and how far off they leave kernels they did not see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thinwire.validation.fits.raw_file import Raw
from thinwire.validation.instructions.pipes import CAPABILITIES, MULTIPROCESSORS
from thinwire.validation.instructions.price import Constants, Machine, Timed, fit, left_out, predicted
from thinwire.validation.instructions.table import Rows, counted, newest, versions

Floats = NDArray[np.float64]
NAME = "nvidia-h200-2026-11-29.json"
PATH = Path(__file__).resolve().parents[1] / "raw" / NAME
GPU = "h200-sxm"
KINDS = ("encode", "decode", "reduce", "reduce_encode")
HYBRID = "hybrid "  # before the kernel's name in a campaign's rows
LEAST_ROWS, LEAST_CODECS = 20, 3  # fewer leave more constants than facts, or nothing to leave out


@dataclass(frozen=True, slots=True)
class Campaign:
    """Kernels timed on one machine, the counts of their Triton, and the constants fitted to all of them."""

    name: str
    rows: tuple[Timed, ...]
    triton: str
    counts: Rows
    machine: Machine
    constants: Constants

    def in_sample(self) -> Floats:
        """Predicted over measured less one, (R,)."""
        return predicted(self.rows, self.counts, self.machine, self.constants) / self._seconds() - 1

    def without(self, by: str) -> Floats:
        """The same with each row's `codec` or `kernel` left out of the fit."""
        return left_out(self.rows, self.counts, self.machine, by)

    def of_triton(self, version: str) -> Floats:
        """In-sample errors with the code that another Triton makes."""
        others = counted(version, MULTIPROCESSORS[self.machine.capability].compiled)
        return predicted(self.rows, others, self.machine, self.constants) / self._seconds() - 1

    def _seconds(self) -> Floats:
        return np.array([row.seconds for row in self.rows])


@cache
def campaign() -> Campaign:
    """The H200's, whose constants every other GPU takes."""
    found = campaign_of(Raw.read(PATH))
    assert found is not None, "the H200's campaign has all it takes"
    return found


def campaign_of(raw: Raw) -> Campaign | None:
    """Of a file of `make gpu`; None for a GPU that nothing is compiled for, and for too few rows.

    Counts are those of the Triton that was timed, or where nobody has counted those, of the pinned one.
    """
    if raw.gpu.name not in CAPABILITIES:
        return None
    compiled = MULTIPROCESSORS[CAPABILITIES[raw.gpu.name]].compiled
    timed_with = str(raw.document["machine"].get("triton"))
    triton = timed_with if timed_with in versions(compiled) else newest()
    counts = counted(triton, compiled)
    rows = []
    for number, row in raw.rows("codec", "kernel", "codec", "numel", "ranks", "seconds_graph"):
        kernel = row["kernel"].removeprefix(HYBRID)
        if kernel in KINDS and row["codec"] in counts:
            values, copies = float(row["numel"]), int(row["ranks"])
            rows.append(Timed(number, kernel, row["codec"], values, copies, row["seconds_graph"]))
    copies_s = [row["bytes_per_s"] for _, row in raw.rows("memory", "op", "bytes_per_s") if row["op"] == "copy"]
    if len(rows) < LEAST_ROWS or len({row.codec for row in rows}) < LEAST_CODECS or not copies_s:
        return None
    machine = Machine.of(raw.gpu, max(copies_s) / raw.gpu.memory_bandwidth_bytes_per_s)
    return Campaign(raw.path.name, tuple(rows), triton, counts, machine, fit(rows, counts, machine))
