"""What the static outlier hybrid knows beforehand: how far each feature reaches, on each rank and summed up.

A `Calibrator` watches partial sums and keeps running minima and maxima; `freeze` makes the `Calibration` that
every rank holds, from which follow the features that stay bf16 and each rank's scale for each of the others.
Method: Towards Low-bit Communication for Tensor Parallel LLM Inference (arXiv 2411.07942), as its public
replication has it: moving averages of minimum and maximum with gamma 0.01, features ranked by the sum over
ranks of 2 max(|min|, |max|). Legend: R ranks, T tokens, F features.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

_KIND = "thinwire calibration 1"
_DENSE = torch.contiguous_format  # a copy keeps the strides of one value, and its bytes could not be viewed


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Frozen ranges of one sync point; the same on every rank, or the ranks decode different values.

    reach_RF: max(|min|, |max|) of each rank's partial sums by feature, fp32. sum_reach_F: that of their sum,
    used where the gather phase of a two-step scheme encodes sums. ranking_F: features by falling total reach,
    int32, ties by lower feature. fingerprint: 16 hex digits that differ where calibrations differ; a process group
    compares them across ranks. Raises ValueError for shapes that do not fit or reaches that are no numbers.
    """

    reach_RF: Tensor
    sum_reach_F: Tensor
    ranking_F: Tensor = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        reach, total = self.reach_RF, self.sum_reach_F
        if reach.dim() != 2 or total.shape != reach.shape[1:] or not reach.numel():
            raise ValueError(
                "reach_RF must be [ranks, features] and sum_reach_F [features], neither empty: "
                f"given {tuple(reach.shape)} and {tuple(total.shape)}"
            )
        for name, tensor in (("reach_RF", reach), ("sum_reach_F", total)):
            if not bool((torch.isfinite(tensor) & (tensor >= 0)).all()):
                raise ValueError(f"{name} must be finite and not negative")
            object.__setattr__(self, name, tensor.detach().to("cpu", torch.float32, copy=True, memory_format=_DENSE))
        order = self.reach_RF.double().sum(0).argsort(descending=True, stable=True)
        object.__setattr__(self, "ranking_F", order.to(torch.int32))
        object.__setattr__(self, "fingerprint", self._fingerprint())

    @property
    def ranks(self) -> int:
        """Ranks it was made for."""
        return self.reach_RF.shape[0]

    @property
    def features(self) -> int:
        """Features of a row."""
        return self.reach_RF.shape[1]

    def scales(self, bits: int, rank: int | None) -> Tensor:
        """fp32 [F]: one code step of `bits`-bit symmetric codes on `rank`; None = of the sum over ranks.

        Raises ValueError for a rank outside the calibration.
        """
        if rank is not None and not 0 <= rank < self.ranks:
            raise ValueError(f"rank must lie in 0..{self.ranks - 1}, or be None for the sum: rank={rank}")
        reach_F = self.sum_reach_F if rank is None else self.reach_RF[rank]
        return reach_F / ((1 << (bits - 1)) - 1)

    def _fingerprint(self) -> str:
        found = hashlib.sha256(str(tuple(self.reach_RF.shape)).encode())
        for tensor in (self.reach_RF, self.sum_reach_F):
            found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write it to a file, whole or not at all."""
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            torch.save({"kind": _KIND, "reach_RF": self.reach_RF, "sum_reach_F": self.sum_reach_F}, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what `save` wrote (tensors only, no code). ValueError for another file, OSError for none."""
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # torch raises several kinds for a file that is not its own
            raise ValueError(f"{path} is no calibration: {error}") from None
        if not isinstance(found, dict) or found.get("kind") != _KIND:
            raise ValueError(f"{path} is no calibration; expected one written by Calibration.save")
        return cls(found["reach_RF"], found["sum_reach_F"])


class Calibrator:
    """Running minima and maxima by rank and feature: new = (1 - gamma) old + gamma seen; the first batch counts whole.

    Raises ValueError unless ranks and features are positive and 0 < gamma <= 1.
    """

    def __init__(self, ranks: int, features: int, gamma: float = 0.01) -> None:
        if ranks < 1 or features < 1 or not 0 < gamma <= 1:
            raise ValueError(
                "ranks and features must be positive and gamma in (0, 1]: "
                f"ranks={ranks}, features={features}, gamma={gamma}"
            )
        self.ranks, self.features, self.gamma = ranks, features, gamma
        self.batches = 0
        # Row R is the sum over ranks.
        self._low = torch.zeros(ranks + 1, features, dtype=torch.float64)
        self._high = torch.zeros(ranks + 1, features, dtype=torch.float64)

    def observe(self, partials_RTF: Tensor) -> None:
        """Take in one batch: every rank's partial sums, [ranks, ..., features], before the all-reduce.

        Raises ValueError for another shape, an empty batch or values that are not finite.
        """
        shape = tuple(partials_RTF.shape)
        if len(shape) < 2 or (shape[0], shape[-1]) != (self.ranks, self.features) or not partials_RTF.numel():
            raise ValueError(f"partials must be [{self.ranks}, ..., {self.features}], not empty: given {list(shape)}")
        seen_RTF = partials_RTF.detach().float().reshape(self.ranks, -1, self.features)
        seen_RTF = torch.cat((seen_RTF, seen_RTF.sum(0, keepdim=True)))
        low, high = seen_RTF.amin(1).double().cpu(), seen_RTF.amax(1).double().cpu()
        if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            raise ValueError("partials must be finite; calibration saw an infinity or a NaN")
        weight = self.gamma if self.batches else 1.0
        self._low += weight * (low - self._low)
        self._high += weight * (high - self._high)
        self.batches += 1

    def freeze(self) -> Calibration:
        """The calibration so far. Raises ValueError where nothing was observed."""
        if not self.batches:
            raise ValueError("nothing observed yet: call observe before freeze")
        reach = torch.maximum(self._low.abs(), self._high.abs()).float()
        return Calibration(reach[:-1], reach[-1])
