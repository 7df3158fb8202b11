"""How wrong a decoded tensor is, and how wrong it may be at most.

`measure` compares tensors. `bound` is the analytic worst case of one encode and decode, value by value, in
closed form from the values themselves: it knows the formats and the grids, not the implementation. Each codec registers
its own (`bounds`, `hybrid`, yours); what computing in fp32 and decoding into another type round is added here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.reference.codecs.bounds import SLACK, TINY
from thinwire.reference.codecs.bounds import roundoff as roundoff
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.codecs.numerics import given
from thinwire.reference.core.formats import element
from thinwire.reference.core.lookup import numerics_of
from thinwire.reference.core.scheme import Codec


@dataclass(frozen=True, slots=True)
class Error:
    """snr_db: power of the values over power of the error (inf where exact). maximum: largest magnitude of the
    error. relative: Euclidean norm of the error over that of the values (0 where both are zero)."""

    snr_db: float
    maximum: float
    relative: float


def measure(values: Tensor, decoded: Tensor) -> Error:
    """The error of `decoded` against `values`, same shape, computed in float64. ValueError for other shapes."""
    if values.shape != decoded.shape:
        raise ValueError(f"shapes must be equal: values={list(values.shape)}, decoded={list(decoded.shape)}")
    if not values.numel():
        return Error(math.inf, 0.0, 0.0)
    exact = values.double()
    wrong = decoded.double() - exact
    signal, noise = float(exact.norm()), float(wrong.norm())
    relative = 0.0 if noise == 0 else noise / signal if signal else math.inf
    snr_db = math.inf if relative == 0 else -20 * math.log10(relative)
    return Error(snr_db, float(wrong.abs().max()), relative)


def bound(
    values: Tensor,
    codec: Codec,
    *,
    calibration: Calibration | None = None,
    rank: int | None = None,
    start: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Largest possible |decode(encode(values)) - values|, float64 of the same shape.

    Values must be finite; inf where a codec promises nothing (a raw or rotated value that overflows). `dtype` is
    the type decoded into: bf16 and fp16 add a rounding, and saturate. Raises ValueError for values that are
    not finite.
    """
    if not bool(torch.isfinite(values).all()):
        raise ValueError("bounds exist for finite values only")
    exact_N = values.double().reshape(-1)
    if not exact_N.numel():
        return exact_N.view(values.shape)
    if codec.needs_calibration and calibration is None:
        raise ValueError(f"the bound of {codec.spec} depends on its calibration: calibration=None")
    found_N: Tensor = numerics_of(codec).bound(exact_N, codec, **given(codec, calibration, rank, start))
    if not isinstance(found_N, Tensor) or found_N.shape != exact_N.shape or not bool((found_N >= 0).all()):
        said = f"{found_N.dtype} {list(found_N.shape)}" if isinstance(found_N, Tensor) else type(found_N).__name__
        raise ValueError(
            f"bound of codec {codec.spec} must give {exact_N.numel()} numbers of 0 or more: given {said}, "
            "one of them negative or NaN if the shape is right"
        )
    found_N = found_N.double()
    found_N = found_N + SLACK * (exact_N.abs() + found_N) + TINY
    if dtype != torch.float32:
        name = "bf16" if dtype == torch.bfloat16 else "fp16"
        u, eta = roundoff(name)
        size_N = exact_N.abs() + found_N
        found_N = found_N + u * size_N + eta / 2
        if codec.is_raw:
            found_N = found_N.masked_fill(size_N > element(name).maximum, math.inf)
    return found_N.view(values.shape)
