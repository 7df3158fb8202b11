"""Element formats on the wire, and how an odd bit width is cut into planes. Facts live here and nowhere else.

`OCP-MX` is the Open Compute Project's Microscaling Formats (MX) specification v1.0, `OCP-FP8` its 8-bit
floating point specification v1.0, `IEEE-754` the 2019 standard. Every row is swept over all its codes in
tests/reference/core/test_formats.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

PLANE_WIDTHS = (8, 4, 2, 1)
HELD = ("uint8", "uint16", "bf16", "fp16", "fp32")  # what a section of a buffer may hold


@dataclass(frozen=True, slots=True)
class ElementFormat:
    """One number format: `bits` wide, largest finite value `maximum`.

    Floating formats are sign, `exponent_bits`, `mantissa_bits` with `bias`; `int8` is two's complement with
    `mantissa_bits` fraction bits (MXINT8: steps of 2^-6); `e8m0` is an unsigned power of two.
    """

    name: str
    bits: int
    exponent_bits: int
    mantissa_bits: int
    bias: int
    maximum: float
    has_infinity: bool
    has_nan: bool
    source: str

    @property
    def signed(self) -> bool:
        """True where one bit is left for a sign."""
        return self.bits > self.exponent_bits + self.mantissa_bits

    @property
    def largest_exponent(self) -> int:
        """floor(log2(maximum)): what an MX floor scale subtracts from the block's exponent."""
        return math.frexp(self.maximum)[1] - 1

    def value(self, code: int) -> float:
        """The number that `code` (0 .. 2^bits - 1) stands for. Raises ValueError outside that range."""
        if not 0 <= code < 1 << self.bits:
            raise ValueError(f"code must lie in 0..{(1 << self.bits) - 1} for {self.name}: code={code}")
        if self.exponent_bits == 0:
            return (code - (code >> (self.bits - 1) << self.bits)) / (1 << self.mantissa_bits)
        mantissa = code & ((1 << self.mantissa_bits) - 1)
        exponent = (code >> self.mantissa_bits) & ((1 << self.exponent_bits) - 1)
        sign = -1.0 if self.signed and code >> (self.bits - 1) else 1.0
        top = exponent == (1 << self.exponent_bits) - 1
        if top and self.has_infinity:  # IEEE style: the whole top binade is infinity and NaN
            return math.nan if mantissa else sign * math.inf
        # No infinity: the all-ones code alone is NaN, the rest of the top binade are numbers.
        if top and self.has_nan and mantissa == (1 << self.mantissa_bits) - 1:
            return math.nan
        if exponent == 0 and self.signed:
            return sign * math.ldexp(mantissa, 1 - self.bias - self.mantissa_bits)
        mantissa += 1 << self.mantissa_bits
        return sign * math.ldexp(mantissa, exponent - self.bias - self.mantissa_bits)


_ROWS = (
    ElementFormat("e2m1", 4, 2, 1, 1, 6.0, False, False, "OCP-MX v1.0 5.3.3"),
    ElementFormat("e2m3", 6, 2, 3, 1, 7.5, False, False, "OCP-MX v1.0 5.3.2"),
    ElementFormat("e3m2", 6, 3, 2, 3, 28.0, False, False, "OCP-MX v1.0 5.3.2"),
    ElementFormat("e4m3", 8, 4, 3, 7, 448.0, False, True, "OCP-FP8 v1.0; OCP-MX v1.0 5.3.1"),
    ElementFormat("e5m2", 8, 5, 2, 15, 57344.0, True, True, "OCP-FP8 v1.0; OCP-MX v1.0 5.3.1"),
    # -128 exists as a code (-2.0) but encoders keep the range symmetric, hence a maximum of 127/64.
    ElementFormat("int8", 8, 0, 6, 0, 127 / 64, False, False, "OCP-MX v1.0 5.3.4"),
    ElementFormat("e8m0", 8, 8, 0, 127, 2.0**127, False, True, "OCP-MX v1.0 5.4.1"),
    ElementFormat("bf16", 16, 8, 7, 127, (2 - 2**-7) * 2.0**127, True, True, "fp32 cut to its upper 16 bits"),
    ElementFormat("fp16", 16, 5, 10, 15, 65504.0, True, True, "IEEE-754 binary16"),
    ElementFormat("fp32", 32, 8, 23, 127, (2 - 2**-23) * 2.0**127, True, True, "IEEE-754 binary32"),
)

FORMATS: Mapping[str, ElementFormat] = MappingProxyType({row.name: row for row in _ROWS})


def element(name: str) -> ElementFormat:
    """The format called `name`. Raises ValueError naming the formats there are."""
    try:
        return FORMATS[name]
    except KeyError:
        raise ValueError(f"unknown element format {name!r}; known: {', '.join(FORMATS)}") from None


@cache
def scale_cap(name: str, top: float) -> float:
    """The largest scale in format `name` whose product with `top`, a grid's last level, bf16 can still hold.

    A larger scale would turn finite values into infinities when they are decoded.
    """
    limit = element("bf16").maximum / top
    if name == "e8m0":
        return 2.0 ** math.floor(math.log2(limit))
    row = element(name)
    if limit >= row.maximum:
        return row.maximum
    step = 2.0 ** (math.frexp(limit)[1] - 1 - row.mantissa_bits)
    return math.floor(limit / step) * step


def planes(bits: int) -> tuple[int, ...]:
    """Widths of the bit planes of a `bits`-bit code, largest first: 5 -> (4, 1), 7 -> (4, 2, 1).

    The widest plane holds the code's lowest bits, the next plane the bits above, and so on.
    Raises ValueError outside 1..8.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must lie in 1..8: bits={bits}")
    return tuple(width for width in PLANE_WIDTHS if bits & width)
