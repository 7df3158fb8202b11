"""Numbers in files, `{ value = 26.26, unit = "GB/s", source = "measured: where" }`: checked, made SI."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, StrictStr, field_validator, model_validator

from thinwire.edge.limits import BANDWIDTH, COMPUTE, LATENCY, MEMORY, PROCESSORS, Limit
from thinwire.edge.words import shown

SOURCE_KINDS = ("datasheet", "measured", "assumed")

_DECIMAL = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
_BINARY = {f"{prefix}i": 1024.0**power for power, prefix in enumerate("KMGT", start=1)}

UNITS: dict[str, dict[str, float]] = {
    "bandwidth": {
        **{f"{prefix}B/s": factor for prefix, factor in (_DECIMAL | _BINARY).items()},
        **{f"{prefix}{bit}/s": factor / 8 for prefix, factor in _DECIMAL.items() for bit in ("b", "bit")},
    },
    "time": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9},
    "bytes": {f"{prefix}B": factor for prefix, factor in (_DECIMAL | _BINARY).items()},
    "compute": {
        f"{prefix}{unit}": factor for prefix, factor in _DECIMAL.items() for unit in ("FLOP/s", "FLOPS", "OP/s", "OPS")
    },
    "processors": {"SM": 1.0, "CU": 1.0},
}
"""Unit -> factor to SI, by dimension: bytes/s, seconds, bytes, operations/s, a count."""

_COMMON = {
    "bandwidth": "GB/s, MB/s, GiB/s, Gb/s, ...",
    "time": "s, ms, us, ns",
    "bytes": "GB, GiB, MB, MiB, ...",
    "compute": "TFLOP/s, TOP/s, GFLOP/s, ...",
    "processors": "SM, CU",
}


class Table(BaseModel):
    """A TOML table that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Quantity(Table):
    """`{ value = 26.26, unit = "GB/s", source = "measured: where" }`; `si` is the number in SI units."""

    dimension: ClassVar[str] = ""
    limit: ClassVar[Limit]

    value: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
    unit: StrictStr
    source: StrictStr

    @field_validator("unit")
    @classmethod
    def _unit_fits(cls, unit: str) -> str:
        allowed = UNITS[cls.dimension]
        if unit not in allowed:
            others = [dimension for dimension, units in UNITS.items() if unit in units]
            what = f"{unit} is a unit of {others[0]}" if others else f"unknown unit {shown(unit)}"
            raise ValueError(f"{what}; {cls.dimension} wants one of {_COMMON[cls.dimension]}")
        return unit

    @field_validator("source")
    @classmethod
    def _source_has_a_kind(cls, source: str) -> str:
        if not re.match(rf"({'|'.join(SOURCE_KINDS)}): *\S", source):
            raise ValueError(
                f'source must read "kind: where", kind one of {", ".join(SOURCE_KINDS)}; given {shown(source)}'
            )
        return source

    @model_validator(mode="after")
    def _within(self) -> Self:
        if not self.limit.holds(self.si):
            raise ValueError(
                f"{self.limit.what} must lie {self.limit.range} {self.limit.unit}; given {self.value:g} {self.unit}"
            )
        return self

    @property
    def si(self) -> float:
        """The number in SI units: bytes/s, s, bytes, operations/s or a count."""
        return self.value * UNITS[self.dimension][self.unit]


class Bandwidth(Quantity):
    """Bytes a second; bits a second are accepted and divided by eight."""

    dimension = "bandwidth"
    limit = BANDWIDTH


class Time(Quantity):
    """Seconds."""

    dimension = "time"
    limit = LATENCY


class Bytes(Quantity):
    """Bytes, decimal or binary prefix."""

    dimension = "bytes"
    limit = MEMORY


class Compute(Quantity):
    """Floating-point or integer operations a second."""

    dimension = "compute"
    limit = COMPUTE


class Processors(Quantity):
    """A whole number of streaming multiprocessors or compute units."""

    dimension = "processors"
    limit = PROCESSORS

    @field_validator("value")
    @classmethod
    def _whole(cls, value: float) -> float:
        if value != int(value):
            raise ValueError(f"must be a whole number: {value}")
        return value


def si_or_none(quantity: Quantity | None) -> float | None:
    """The number in SI units of a quantity that may be left out."""
    return None if quantity is None else quantity.si
