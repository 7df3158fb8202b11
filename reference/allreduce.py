"""Compressed all-reduce: `all_reduce(x, scheme, group)` on tensors, every rank ending with the same bits.

The schedule is the one the simulator times (`reference.core.schedule`), run by a `Group`. Partial sums are added in
fp32 and in rank order; what a rank keeps of its own is what its peers decode. The result has the input's dtype and
shape. Values that travel `exact` do so raw, in the tensor's dtype and in the messages of the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.codecs.calibration import Calibration
from thinwire.reference.core.schedule import Islands, build
from thinwire.reference.core.scheme import Raw, Scheme
from thinwire.reference.groups.execute import Coding, check
from thinwire.reference.groups.group import Group, LocalGroup, TorchGroup
from thinwire.reference.groups.handshake import Form

RAW_FORMATS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def uncompressed(dtype: torch.dtype) -> Scheme:
    """What a message below the size gate, and the baseline `bf16`, fall back to: a ring in the tensor's own dtype."""
    return Scheme(f"{RAW_FORMATS[dtype]} ring", Raw(RAW_FORMATS[dtype]), Raw(RAW_FORMATS[dtype]), "ring")


def executable(scheme: Scheme, nbytes: int, gate_bytes: int, dtype: torch.dtype) -> Scheme:
    """The scheme a message really runs: `auto` is a ring here, and messages below the gate are not compressed."""
    if scheme.collective == "auto":
        return uncompressed(dtype)
    if nbytes < gate_bytes and scheme.collective != "none":
        return uncompressed(dtype)
    return scheme


def form_of(x: Tensor, scheme: Scheme, calibration: Calibration | None = None, exact: int = 0) -> Form:
    """What ranks must agree on in an all-reduce of `x` beside the schedule; `TorchGroup.prepare` wants it too."""
    also = [] if calibration is None else [f"calibration {calibration.fingerprint}"]
    also += [f"the last {exact} values exact"] if exact else []
    return Form(tuple(x.shape), str(x.dtype).removeprefix("torch."), ", ".join(also), scheme.name)


def all_reduce(
    x: Tensor,
    scheme: Scheme | str,
    group: TorchGroup | dist.ProcessGroup | None = None,
    *,
    backend: str = "torch",
    calibration: Calibration | None = None,
    gate_bytes: int = 0,
    islands: Islands | None = None,
    exact: int = 0,
) -> Tensor:
    """Sum of every rank's `x`, compressed on the wire; the same bits on every rank.

    Args:
        x: this rank's partial sum, bf16, fp16 or fp32, any shape whose last dimension is the features.
        scheme: name, spec or value. Sync-point drop, exempt tokens and sequence overlap are the model's business
            (`reference.decoder.sync`) and ignored here: an all-reduce does not know which values are whose token's.
            It is told by `exact`.
        group: a TorchGroup, a process group, or None for the default one.
        backend: who runs the codecs, "torch" or "triton".
        calibration: features and scales of a static outlier hybrid.
        gate_bytes: messages of fewer bytes go uncompressed (`thinwire.sim.api.size_gate` reads it off a profile).
        islands: ranks that sit close together, for `hierarchical`.
        exact: so many values at the end of flat `x` travel as they are, in the same messages: as in an all-reduce of
            theirs by the scheme's collective on the raw dtype, bit for bit, and those before them as in one without
            them (`reference.groups.rows` brings a sequence's last rows there). Where all do, it runs uncompressed.

    Every rank must call with the same shape, dtype and arguments, in the same order as its other collectives.

    Raises:
        ValueError: a dtype or scheme that cannot run; as `handshake.Disagreement`, the same on every rank, where ranks
            call with different ones. RuntimeError: a peer is gone, or has not called within the group's timeout.
    """
    found = group if isinstance(group, TorchGroup) else TorchGroup(group)
    return _reduce(found, [x], scheme, backend, calibration, gate_bytes, islands, exact)[0]


def all_reduce_local(
    partials: Sequence[Tensor],
    scheme: Scheme | str,
    *,
    group: LocalGroup | None = None,
    backend: str = "torch",
    calibration: Calibration | None = None,
    gate_bytes: int = 0,
    islands: Islands | None = None,
    exact: int = 0,
) -> list[Tensor]:
    """The same with all ranks in this process: every rank's partial sum in, every rank's result out."""
    if len({(tuple(p.shape), p.dtype) for p in partials}) != 1:
        raise ValueError(f"partial sums must agree in shape and dtype: {[(tuple(p.shape), p.dtype) for p in partials]}")
    found = group if group is not None else LocalGroup(len(partials))
    return _reduce(found, partials, scheme, backend, calibration, gate_bytes, islands, exact)


def _reduce(
    group: Group,
    partials: Sequence[Tensor],
    scheme: Scheme | str,
    backend: str,
    calibration: Calibration | None,
    gate_bytes: int,
    islands: Islands | None,
    exact: int,
) -> list[Tensor]:
    x = partials[0]
    if x.dtype not in RAW_FORMATS:
        raise ValueError(f"all_reduce takes {', '.join(map(str, RAW_FORMATS))}: dtype={x.dtype}")
    asked = find_scheme(scheme) if isinstance(scheme, str) else scheme
    if not 0 <= exact <= x.numel():
        raise ValueError(f"exact must lie in 0..{x.numel()}, the values of x: exact={exact}")
    chosen = executable(asked, x.numel() * x.element_size(), gate_bytes, x.dtype)
    if exact and exact == x.numel() and chosen.collective != "none":
        chosen = uncompressed(x.dtype)
    if chosen == uncompressed(x.dtype):
        exact = 0  # as all of it is
    coding = Coding(backend, calibration)
    check(chosen, coding, group.size, x)
    grouping = None if islands is None else tuple(tuple(island) for island in islands)
    schedule = build(chosen, group.size, x.numel(), grouping, exact=exact, raw=Raw(RAW_FORMATS[x.dtype]))
    values = [p.detach().reshape(-1).to(torch.float32, copy=True) for p in partials]
    results = group.run(schedule, values, coding, form_of(x, chosen, calibration, exact))
    return [value.to(x.dtype).reshape(x.shape) for value in results]
