"""Who encodes and decodes: backends by name.

`torch` is built in. Another backend is a module that is imported only when somebody asks for it by its name,
so the reference never depends on what it judges.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor

from thinwire.reference.core.scheme import Codec

if TYPE_CHECKING:
    from thinwire.reference.codecs.calibration import Calibration

MODULES: Mapping[str, str] = MappingProxyType(
    {"torch": "thinwire.reference.codecs.numerics", "triton": "thinwire.kernels.quantize"}
)


AUTO = "auto"


class Backend(Protocol):
    """What a backend module offers: the three functions that `quantize` calls.

    Arguments are checked by the caller: values are fp32, bf16 or fp16, flat and dense (`layout.dense`: of
    stride 1 even where there is one); a buffer is flat, dense uint8 of exactly `codec.wire_bytes(numel)` bytes; a
    static hybrid comes with its calibration.
    """

    def encode_flat(
        self, values_N: Tensor, codec: Codec, *, calibration: Calibration | None, rank: int | None, start: int
    ) -> Tensor:
        """The wire buffer of `values_N`: uint8 [codec.wire_bytes(N)] on its device."""
        ...

    def decode_flat(
        self,
        buffer: Tensor,
        numel: int,
        codec: Codec,
        *,
        calibration: Calibration | None,
        rank: int | None,
        start: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """The `numel` values of a wire buffer as `dtype` [numel] on the buffer's device."""
        ...

    def reduce_flat(
        self,
        buffers: Sequence[Tensor],
        numel: int,
        codec: Codec,
        *,
        calibration: Calibration | None,
        ranks: Sequence[int | None],
        start: int,
    ) -> Tensor:
        """The copies' values, decoded and added in the order given: fp32 [numel]. ranks: whose copy each is."""
        ...


@cache
def backend(name: str) -> Backend:
    """The backend called `name`.

    Raises ValueError for a name nobody knows, and ImportError with the reason where the backend's module
    cannot be imported here (no triton, say, or no kernels).
    """
    if name not in MODULES:
        raise ValueError(f"unknown backend {name!r}; known: {', '.join(MODULES)}")
    try:
        module = import_module(MODULES[name])
    except ImportError as error:
        raise ImportError(
            f"backend {name!r} needs {MODULES[name]}, which cannot be imported: {error}. "
            "The backend 'torch' is always there."
        ) from error
    missing = [function for function in ("encode_flat", "decode_flat", "reduce_flat") if not hasattr(module, function)]
    if missing:
        raise ImportError(f"backend {name!r}: {MODULES[name]} lacks {', '.join(missing)}")
    return cast(Backend, module)


def for_device(name: str, device: torch.device) -> str:
    """`name`, or for `auto` the fast one: "triton" for tensors on a GPU where it can be imported, else "torch"."""
    if name != AUTO:
        return name
    if device.type != "cuda":
        return "torch"
    try:
        backend("triton")
    except ImportError:
        return "torch"
    return "triton"
