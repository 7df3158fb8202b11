"""What every codec must keep, thinwire's and yours: `check_codec` tries it and says in one sentence what is broken.

Tried are sizes around a run of `align` values, three input types, magnitudes from the smallest fp32 number to the
largest, zeros, and runs with a NaN in them. Legend: N values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.codecs.error import bound
from thinwire.reference.core.lookup import parse_codec
from thinwire.reference.core.registry import check_layout
from thinwire.reference.core.scheme import Codec
from thinwire.reference.quantize import decode_flat, encode_flat

TYPES = (torch.float32, torch.bfloat16, torch.float16)
ORDINARY = 2.0**15  # values up to here overflow nothing: not fp16, and no sum of a rotation in fp32
_POWERS = (0, -20, 10, -133, -146, 120, 127)  # of normal values


def check_codec(
    codec: Codec | str,
    *,
    calibration: Calibration | None = None,
    rank: int | None = None,
    idempotent: bool = False,
    keeps_nan: bool = True,
    local: bool = True,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Hold a codec, or the one of a spec, against what `encode`, `decode` and `bound` promise.

    Its spec reads back as itself, and its sections add up. Buffers have `wire_bytes` bytes, the same every time, and
    leave what was encoded alone. No decoded value is off by more than its bound, which is a number of 0 or more, in
    fp32, bf16 and fp16, and infinite nowhere where all values are `ORDINARY` ones or smaller. Zeros come back
    as zeros. What is cut at multiples of `align` decodes as it does uncut, and a NaN reaches no run of `align` values
    but its own.

    Args:
        codec: to try; its class is registered.
        calibration, rank: what `encode` wants of one that `needs_calibration`.
        idempotent: it promises that what was decoded, encoded again, decodes to the same values (normal magnitudes).
        keeps_nan: it promises that a NaN comes back as one.
        local: it promises that a run of `align` values decodes as it does alone, whatever follows it.
        seed: of the values.
        device: where they are.

    Raises:
        ValueError: what is broken: what was done, what came out, what had to.
    """
    found = parse_codec(codec) if isinstance(codec, str) else codec
    again = parse_codec(found.spec)
    if again != found:
        raise ValueError(f"codec {found.spec}: its spec reads as {again}, not as {found}")
    check_layout(found)
    trial = _Trial(found, {"calibration": calibration, "rank": rank} if found.needs_calibration else {})
    generator = torch.Generator().manual_seed(seed)
    for numel in sorted({1, 2, 7, 333, *(max(1, found.align * k + d) for k in (1, 3) for d in (-1, 0, 1))}):
        for values_N in _values(numel, generator):
            for dtype in TYPES:
                narrow_N = values_N.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
                trial.bounded(narrow_N.to(device))
        trial.zeros(numel, device)
    ordinary_N = torch.randn(5 * found.align, generator=generator).to(device)
    trial.apart(ordinary_N, keeps_nan, local)
    if idempotent:
        trial.idempotent(ordinary_N)


class _Trial:
    """A codec under trial, and what it is called with."""

    def __init__(self, codec: Codec, given: dict[str, Any]) -> None:
        self.codec, self.given = codec, given

    def bounded(self, values_N: Tensor) -> None:
        """Bytes, determinism and bounds of finite values."""
        kept_N = values_N.clone()
        buffer, other = (encode_flat(values_N, self.codec, **self.given) for _ in range(2))
        self._must(torch.equal(buffer, other), f"encodes {values_N.numel()} values of {values_N.dtype} in two ways")
        self._must(torch.equal(values_N, kept_N), f"changes the {values_N.numel()} values that it encodes")
        for dtype in TYPES:
            found_N = decode_flat(buffer, values_N.numel(), self.codec, dtype=dtype, **self.given)
            limit_N = bound(values_N, self.codec, dtype=dtype, **self.given)
            endless_N = limit_N.isinf() & (values_N.abs().max() <= ORDINARY)
            if bool(endless_N.any()):
                at = int(endless_N.nonzero()[0])
                raise ValueError(
                    f"codec {self.codec.spec}: its bound promises nothing, infinity, for value {at} of "
                    f"{values_N.numel()}, {float(values_N[at]):g} in {values_N.dtype} decoded in {dtype}: it must be "
                    f"finite where no value is larger than {ORDINARY:g}"
                )
            wrong_N = (found_N.double() - values_N.double()).abs()
            beyond_N = ~(wrong_N <= limit_N) & ~limit_N.isinf()
            if dtype == torch.float16:
                beyond_N &= values_N.abs().double() <= torch.finfo(dtype).max  # others saturate
            if bool(beyond_N.any()):
                at = int(beyond_N.nonzero()[0])
                raise ValueError(
                    f"codec {self.codec.spec}: value {at} of {values_N.numel()}, {float(values_N[at]):g} in "
                    f"{values_N.dtype}, decodes to {float(found_N[at]):g} in {dtype}: off by {float(wrong_N[at]):g}, "
                    f"its bound is {float(limit_N[at]):g}"
                )

    def zeros(self, numel: int, device: str) -> None:
        """Exact."""
        found_N = self._there_and_back(torch.zeros(numel, device=device))
        self._must(not bool(found_N.any()), f"makes {found_N[found_N != 0][:1].tolist()} of {numel} zeros")

    def apart(self, values_N: Tensor, keeps_nan: bool, local: bool) -> None:
        """Nothing passes from one run of `align` values to another."""
        align = self.codec.align
        whole_N = self._there_and_back(values_N)
        start_N = self._there_and_back(values_N[: 2 * align])
        same = not local or torch.equal(whole_N[: 2 * align], start_N)
        self._must(same, f"decodes 2 runs of {align} values otherwise in 5 runs")
        spoilt_N = values_N.clone()
        at = align + align // 2
        spoilt_N[at] = math.nan
        found_N = self._there_and_back(spoilt_N)
        others = torch.ones(len(values_N), dtype=torch.bool, device=values_N.device)
        others[align : 2 * align] = False
        self._must(torch.equal(found_N[others], whole_N[others]), f"lets a NaN out of its run of {align} values")
        self._must(not keeps_nan or bool(found_N[at].isnan()), f"makes {float(found_N[at]):g} of a NaN")

    def idempotent(self, values_N: Tensor) -> None:
        """Encoding what was decoded changes nothing."""
        once_N = self._there_and_back(values_N)
        twice_N = self._there_and_back(once_N)
        self._must(torch.equal(once_N, twice_N), "decodes to other values when what it decoded is encoded again")

    def _there_and_back(self, values_N: Tensor) -> Tensor:
        return decode_flat(encode_flat(values_N, self.codec, **self.given), values_N.numel(), self.codec, **self.given)

    def _must(self, holds: bool, broken: str) -> None:
        if not holds:
            raise ValueError(f"codec {self.codec.spec} {broken}")


def _values(numel: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Finite fp32 values: normal ones of many magnitudes, offset, constant, and with one that dwarfs the rest."""
    most = torch.finfo(torch.float32).max
    for power in _POWERS:
        values_N = torch.randn(numel, generator=generator, dtype=torch.float64) * 2.0**power
        yield values_N.clamp(-most, most).float()
    values_N = torch.randn(numel, generator=generator)
    yield values_N + 100
    yield torch.full((numel,), -3.0)
    values_N[numel // 2] = -1e6
    yield values_N
