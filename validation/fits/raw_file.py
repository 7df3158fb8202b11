"""A raw file of `make gpu` as calibration reads it: its rows checked, its GPU known, and what became of each part."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinwire.edge.limits import WIDTH
from thinwire.edge.words import place, shown
from thinwire.sim.costs.profile import FitRecord, GpuProfile, gpu_profile
from thinwire.sim.costs.shipped import PROFILES
from thinwire.topologies.cluster import Gpu
from thinwire.topologies.load import load_gpu
from thinwire.validation.campaign import campaign
from thinwire.validation.campaign.campaign import Row
from thinwire.validation.fits.gpus import DEVICES
from thinwire.validation.fits.records import record

Floats = NDArray[np.float64]

LARGEST = 1e18  # bytes, operations a second: what no GPU reaches
MAY_BE_0 = {"bytes_read", "bytes_written"}
SIZES = {"m", "n", "k", "batch", "length", "heads", "kv_heads", "head_dim", "width", "tp", "tokens"}
TEXT = {"op", "how", "kernel", "codec", "model", "stand_in"}  # columns that hold words, not numbers


def shipped_profile(gpu: str) -> GpuProfile | None:
    """What thinwire ships of a GPU, if it does."""
    file = PROFILES / f"gpu-{gpu}.json"
    return gpu_profile(json.loads(file.read_text("utf-8"))) if file.exists() else None


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the profile against its rows: the fit, the fit without them, the shipped profile's."""

    fitted: FitRecord
    left_out: FitRecord | None = None
    shipped: FitRecord | None = None
    shipped_bias: float | None = None  # signed median

    @property
    def what(self) -> str:
        """Its name."""
        return self.fitted.what


@dataclass
class Raw:
    """A raw file and what belongs to it."""

    path: Path
    document: campaign.Document
    gpu: Gpu
    shipped: GpuProfile | None
    parts: list[Part] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> "Raw":
        """ValueError for a file that is none, of a rehearsal, or of a GPU thinwire does not know."""
        document = campaign.load(path)
        machine = document["machine"]
        if document.get("rehearsal") is not False:
            raise ValueError(
                f"{place(path)} is a rehearsal: its numbers mean nothing. Run `make gpu` on a machine with a GPU"
            )
        if machine["gpu"] not in DEVICES:
            known = ", ".join(DEVICES)
            raise ValueError(
                f"{place(path)} was measured on {shown(machine['gpu'])}, which no machine file describes; "
                f"known: {known}"
            )
        gpu = load_gpu(DEVICES[machine["gpu"]])
        if machine.get("sm_count", gpu.sm_count) != gpu.sm_count:
            raise ValueError(
                f"{place(path)} was measured on {shown(machine['sm_count'])} multiprocessors of {machine['gpu']}, "
                f"{gpu.name} has {gpu.sm_count}: a part of a GPU is another GPU"
            )
        return cls(path, document, gpu, shipped_profile(gpu.name))

    @property
    def date(self) -> str:
        """When it was measured."""
        return str(self.document["machine"].get("utc", "undated"))[:10]

    def source(self, rows: int) -> str:
        """The source of a number fitted to so many rows."""
        return (
            f"measured: {self.path.name}, {rows} rows, {self.document['machine']['gpu']}, {self.date}, "
            f"driver {self.document['machine'].get('driver') or 'unknown'}"
        )

    def rows(self, step: str, *columns: str) -> Iterator[tuple[int, Row]]:
        """A step's good rows, numbered; those that failed or could not be captured in a graph are passed over.

        ValueError for a row without one of the columns or with a number that is none.
        """
        for number, row in enumerate(self.document["steps"].get(step, {}).get("rows", ())):
            if "error" in row or ("seconds_graph" in columns and row.get("seconds_graph", 0) is None):
                continue
            for column in columns:
                value = row.get(column)
                if column in TEXT:
                    sound = isinstance(value, str)
                elif column in SIZES:
                    sound = type(value) is int and WIDTH.holds(value)
                else:
                    sound = is_number(value, column not in MAY_BE_0)
                if not sound:
                    raise ValueError(
                        f"{place(self.path)}: row {number} of {step} has no sound {column}: {shown(value)}"
                    )
            yield number, row

    def add(
        self,
        what: str,
        numbers: Sequence[int],
        fitted: Floats,
        shipped: Floats | None = None,
        left_out: Floats | None = None,
    ) -> None:
        """Keep a part's relative errors, (R,) each."""
        table = self.path.stem
        self.parts.append(
            Part(
                record(what, table, numbers, fitted),
                None if left_out is None else record(f"{what}, left out", table, (), left_out),
                None if shipped is None else record(f"{what}, shipped", table, (), shipped),
                None if shipped is None else round(float(np.median(shipped)), 4),
            )
        )

    def missing(self, what: str, why: str) -> GpuProfile:
        """The shipped profile, for a part that was not measured; ValueError where none is shipped."""
        if self.shipped is None:
            raise ValueError(f"{self.path} does not give {what} ({why}), and no profile of {self.gpu.name} is shipped")
        self.assumptions.append(f"{what} is that of the shipped profile: {self.path.name} {why}")
        return self.shipped


def is_number(value: object, positive: bool) -> bool:
    """A number that a machine may have measured."""
    if isinstance(value, bool) or not isinstance(value, float | int):
        return False
    return value <= LARGEST and (value > 0 if positive else value >= 0)


def document(raw: Raw, profile: GpuProfile) -> dict[str, Any]:
    """The residuals as JSON."""

    def figures(found: FitRecord | None) -> dict[str, float] | None:
        if found is None:
            return None
        return {"median": found.median, "percentile_90": found.percentile_90, "worst": found.worst}

    return {
        "raw": str(raw.path),
        "gpu": raw.gpu.name,
        "machine": raw.document["machine"],
        "parts": [
            {
                "what": part.what,
                "in_sample": figures(part.fitted),
                "left_out": figures(part.left_out),
                "shipped": figures(part.shipped) and {**(figures(part.shipped) or {}), "bias": part.shipped_bias},
            }
            for part in raw.parts
        ],
        "assumptions": list(profile.assumptions),
    }
