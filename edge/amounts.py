"""Amounts of tokens and bytes as people write them: 2k, 128k, 1.5k, 16M.

k, M and G are 1024, 1024 squared and cubed, in upper or lower case. A context of 128k tokens has 131,072 positions, as
models' configs have them, and nccl-tests' `-b 8M` is 8,388,608 bytes; so one rule serves both, and whoever means a
thousand writes the zeros. What was understood stands in the heading of every answer, in full.
"""

import re
from contextlib import suppress
from fractions import Fraction

from thinwire.edge.words import shown

FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
ALLOWED = "2k is 2048, 1.5k 1536, 16M 16777216"
_AMOUNT = re.compile(r"(?P<number>-?[0-9]{1,30}(\.[0-9]{1,12})?)(?P<suffix>[kKmMgG]?)", re.ASCII)


def whole(given: object) -> int:
    """A whole number, with or without k, M or G; an int as it is. ValueError for anything else, 1.3k (1331.2) too."""
    value = _value(given)
    if value is None:
        raise ValueError(f"must be a whole number; given {shown(given)} ({ALLOWED})")
    if value.denominator != 1:
        raise ValueError(f"must be a whole number; given {shown(given)}, which is {float(value):.10g}")
    return int(value)


def amount(given: object) -> float:
    """A number, with or without k, M or G: a mean of tokens may have decimals. ValueError for anything else."""
    value = _value(given)
    if value is not None:
        return float(value)
    if isinstance(given, str | float):
        with suppress(ValueError):
            return float(given)  # 1e3, and what is not finite: its limit refuses that
    raise ValueError(f"must be a number; given {shown(given)} ({ALLOWED})")


def _value(given: object) -> Fraction | None:
    if isinstance(given, int) and not isinstance(given, bool):
        return Fraction(given)
    found = _AMOUNT.fullmatch(given.strip()) if isinstance(given, str) else None
    return None if found is None else Fraction(found["number"]) * FACTORS[found["suffix"].lower()]
