"""The seam between a model and its wire: what happens to the ranks' partial sums at each sync point.

A decoder has two sync points in each layer, after attention and after the MLP. At each it hands a `Sync` the partial
sums of the ranks in this process and gets back what those ranks go on with. `ExactSync` adds in fp32, `SchemeSync`
runs `reference.allreduce` with a scheme for each point, `Observed` looks on. Legend: B sequences, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from thinwire.reference.allreduce import all_reduce, all_reduce_local
from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.codecs.calibration import Calibration, Calibrator
from thinwire.reference.core.schedule import Islands
from thinwire.reference.core.scheme import Scheme
from thinwire.reference.groups.group import Group, LocalGroup, TorchGroup
from thinwire.reference.groups.rows import Order, last_rows
from thinwire.reference.mixed import Plan, Point, Site

Hook = Callable[[int, Site, Sequence[Tensor]], None]

_EXACT = find_scheme("all_gather:fp32")  # every rank adds all partial sums itself, in rank order
_UNCOMPRESSED = find_scheme("bf16")


class Sync(Protocol):
    """What happens at a sync point."""

    def __call__(
        self, layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool
    ) -> list[Tensor] | None:
        """What each rank of this process adds to its residual stream, or None: the sync point is dropped.

        Args:
            layer, site: the sync point; every rank comes by them in the same order.
            partials: [B, T, D] of each rank held here, in rank order, in the dtype asked of the decoder. They may be
                the model's own tensors: neither changed nor kept.
            position: of the first of the T tokens in its sequence, for policies that treat early tokens differently.
            ends: whether the T-th token is a prompt's last, from which the next token is predicted; False in all but
                the last chunk of a prompt that comes in chunks.

        Where ranks get the same bits, give them the same tensor object: the model then computes on it once.
        """
        ...


def ranks_here(group: Group) -> tuple[int, ...]:
    """The ranks of a group whose tensors this process holds. TypeError for a group that does not say."""
    if isinstance(group, LocalGroup):
        return tuple(range(group.size))
    if isinstance(group, TorchGroup):
        return (group.rank,)
    raise TypeError(f"a model runs under a LocalGroup or a TorchGroup: given {type(group).__name__}")


def check_partials(group: Group, partials: Sequence[Tensor]) -> None:
    """ValueError unless there is a partial sum of each rank that a group has here."""
    here = len(ranks_here(group))
    if len(partials) != here:
        raise ValueError(f"the sync's group has {here} ranks here, the decoder gives partial sums of {len(partials)}")


class ExactSync:
    """The sum in fp32 (fp64 for partial sums in fp64, in one process only), in rank order: not rounded, not counted.

    Differentiable where all ranks are in this process.
    """

    def __init__(self, group: Group) -> None:
        ranks_here(group)
        self._group = group

    def __call__(self, layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool) -> list[Tensor]:
        """Never drops. ValueError for partial sums of another number of ranks."""
        check_partials(self._group, partials)
        wide = torch.promote_types(partials[0].dtype, torch.float32)
        if isinstance(self._group, TorchGroup):
            return [all_reduce(partials[0].to(wide), _EXACT, self._group)]
        total = partials[0].to(wide)
        for partial in partials[1:]:
            total = total + partial.to(wide)
        return [total] * len(partials)


class SchemeSync:
    """The real numerics of a scheme at each sync point, in the partial sums' dtype.

    Args:
        group: the decoder's.
        plan: a scheme for every sync point (`plan_of` makes one of any scheme). What a scheme says of dropped points
            and split sequences is not read here: `plan_of` turns the former into None, `Decoder.prefill` takes the
            latter. Of the tokens that a scheme exempts the first go in an all-reduce of their own, uncompressed, the
            last, where a prompt ends, as exact values of the others' all-reduce.
        calibrations: of the points whose scheme is a static outlier hybrid.
        backend, gate_bytes, islands: as `all_reduce` takes them.

    Raises ValueError for collective `none` (it leaves different values on the ranks, a floor for time and no numerics)
    and, when called, for a point that the plan lacks or partial sums of another number of ranks.
    """

    def __init__(
        self,
        group: Group,
        plan: Plan,
        *,
        calibrations: Mapping[Point, Calibration] | None = None,
        backend: str = "torch",
        gate_bytes: int = 0,
        islands: Islands | None = None,
    ) -> None:
        ranks_here(group)
        for point, scheme in plan.items():
            if scheme is not None and scheme.collective == "none":
                raise ValueError(f"scheme {scheme.name!r} sums nothing, so no model can run under it: {point}")
        self._group, self._plan, self._calibrations = group, dict(plan), dict(calibrations or {})
        self._backend, self._gate_bytes, self._islands = backend, gate_bytes, islands
        self.layers = 1 + max((layer for layer, _ in plan), default=-1)  # of the model that the plan is for

    def __call__(
        self, layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool
    ) -> list[Tensor] | None:
        """The all-reduce of this point's scheme; None where the plan drops it."""
        point: Point = (layer, site)
        if point not in self._plan:
            raise ValueError(
                f"the plan has no scheme for the {site} of layer {layer}; it holds {len(self._plan)} points"
            )
        scheme = self._plan[point]
        if scheme is None:
            return None
        check_partials(self._group, partials)
        tokens = partials[0].shape[1]
        first = min(max(scheme.exempt_tokens - position, 0), tokens)
        last = min(scheme.exempt_last_tokens, tokens - first) if ends else 0
        parts = []
        if first:
            opening = [partial_BTD[:, :first].contiguous() for partial_BTD in partials]
            parts.append(self._sum(opening, _UNCOMPRESSED, point))
        if tokens > first:
            parts.append(self._sum_rest([partial_BTD[:, first:] for partial_BTD in partials], scheme, point, last))
        total_BTD = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        # Every rank has the same bits, as tests/reference/test_allreduce.py holds.
        return [total_BTD] * len(partials)

    def _sum_rest(self, partials: Sequence[Tensor], scheme: Scheme, point: Point, last: int) -> Tensor:
        """One all-reduce, in which the last rows of every sequence travel exact."""
        if not last:
            return self._sum([partial_BTD.contiguous() for partial_BTD in partials], scheme, point)
        batch, tokens, width = partials[0].shape
        order = Order(batch * tokens, last_rows([tokens] * batch, [True] * batch, last))
        rows = [order.moved(partial_BTD.reshape(-1, width)) for partial_BTD in partials]
        return order.put_back(self._sum(rows, scheme, point, order.exact * width)).reshape(partials[0].shape)

    def _sum(self, partials: Sequence[Tensor], scheme: Scheme, point: Point, exact: int = 0) -> Tensor:
        """One all-reduce, its result on the first of the ranks here."""
        calibration = self._calibrations.get(point)
        if isinstance(self._group, LocalGroup):
            return all_reduce_local(
                partials,
                scheme,
                group=self._group,
                backend=self._backend,
                calibration=calibration,
                gate_bytes=self._gate_bytes,
                islands=self._islands,
                exact=exact,
            )[0]
        assert isinstance(self._group, TorchGroup)
        return all_reduce(
            partials[0],
            scheme,
            self._group,
            backend=self._backend,
            calibration=calibration,
            gate_bytes=self._gate_bytes,
            islands=self._islands,
            exact=exact,
        )


class Observed:
    """A sync that shows each point's partial sums to `hook(layer, site, partials)` before it runs."""

    def __init__(self, sync: Sync, hook: Hook) -> None:
        self._sync, self._hook = sync, hook

    def __call__(
        self, layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool
    ) -> list[Tensor] | None:
        """What the sync inside gives."""
        self._hook(layer, site, partials)
        return self._sync(layer, site, partials, position, ends)


class Calibrating:
    """A hook that keeps a `Calibrator` for each sync point: all ranks must be in one process.

    hook = Calibrating(gamma=0.01)
    for batch in text: model.forward(batch, sync=Observed(exact, hook))
    SchemeSync(group, plan, calibrations=hook.freeze())
    """

    def __init__(self, gamma: float = 0.01) -> None:
        self._gamma = gamma
        self._calibrators: dict[Point, Calibrator] = {}

    def __call__(self, layer: int, site: Site, partials: Sequence[Tensor]) -> None:
        """Take in one batch of a point."""
        ranks_BTD = torch.stack(tuple(partials))
        if (layer, site) not in self._calibrators:
            self._calibrators[layer, site] = Calibrator(len(partials), ranks_BTD.shape[-1], self._gamma)
        self._calibrators[layer, site].observe(ranks_BTD)

    def freeze(self) -> dict[Point, Calibration]:
        """The calibration of every point seen."""
        return {point: calibrator.freeze() for point, calibrator in self._calibrators.items()}
