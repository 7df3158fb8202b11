"""Ways to quantise a two-step all-reduce that no scheme of ours has, on values alone: what would they win?

Each is an asymmetric integer codec with a zero point (`int4-g128-zp` and its kin), changed in one thing. Nothing is
packed and nothing sent; what ranks would decode is worked out, so the first variant, `nearest`, gives what the scheme
itself does. Legend: R ranks, M values of a flat tensor, G groups, K values of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from thinwire.reference.core.schedule import Interval, partition
from thinwire.reference.mixed import Site


@dataclass(frozen=True, slots=True)
class Rounding:
    """bits, group: of the codec. up: scales are rounded up to bf16, so that no value is clipped. stochastic: codes are
    rounded up with the probability of their fraction, by the generator given.
    """

    bits: int
    group: int
    up: bool = False
    stochastic: bool = False

    def __call__(self, values_M: Tensor, generator: torch.Generator) -> Tensor:
        """fp32 values as they are decoded, [M]."""
        count = values_M.numel()
        x_GK = functional.pad(values_M.float(), (0, -count % self.group)).view(-1, self.group)
        steps = (1 << self.bits) - 1
        low_G1, high_G1 = x_GK.amin(1, keepdim=True).clamp(max=0.0), x_GK.amax(1, keepdim=True).clamp(min=0.0)
        wanted_G1 = (high_G1 * 0.5 - low_G1 * 0.5) / torch.full_like(low_G1, steps * 0.5)
        scale_G1 = wanted_G1.bfloat16().float()
        if self.up:
            scale_G1 = torch.where(scale_G1 < wanted_G1, _next_bf16(scale_G1), scale_G1)
        divisor_G1 = torch.where(scale_G1 == 0, torch.inf, scale_G1)
        zero_G1 = (-low_G1 / divisor_G1).round().clamp(0, steps)
        quotient_GK = x_GK / divisor_G1
        if self.stochastic:
            noise_GK = torch.rand(x_GK.shape, generator=generator, device=x_GK.device)
            code_GK = (quotient_GK + noise_GK).floor() + zero_G1
        else:
            code_GK = quotient_GK.round() + zero_G1
        return ((code_GK.clamp(0, steps) - zero_G1) * scale_G1).view(-1)[:count]


def _next_bf16(x: Tensor) -> Tensor:
    """The next larger bf16 of numbers >= 0 that are bf16."""
    return (x.bfloat16().view(torch.int16) + 1).view(torch.bfloat16).float()


@dataclass(slots=True)
class Variant:
    """A `Sync` of two steps: partial sums rounded by `reduce`, added in fp32, the sum rounded by `gather`.

    own: a rank adds its own partial sum as it is, not as its peers decode it. carried: what rounding the sum lost is
    kept where the sum was made, and added to it at the next sync point of the same tokens. last: rows at a prompt's
    end that are added exactly. Every pass draws the same random numbers.
    """

    reduce: Rounding
    gather: Rounding
    own: bool = False
    carried: bool = False
    last: int = 0
    seed: int = 0
    _left_M: Tensor | None = field(default=None, init=False)
    _generator: torch.Generator | None = field(default=None, init=False)

    def __call__(self, layer: int, site: Site, partials: Sequence[Tensor], position: int, ends: bool) -> list[Tensor]:
        """The sum, the same on every rank."""
        shape, last = partials[0].shape, self.last if ends else 0
        if (layer, site) == (0, "attention") or self._generator is None:  # a pass begins
            self._left_M, self._generator = None, torch.Generator(partials[0].device).manual_seed(self.seed)
        rows = shape[1] - last
        flat = [partial_BTD[:, :rows].reshape(-1).float() for partial_BTD in partials]
        parts = partition(Interval(0, flat[0].numel()), len(flat), max(self.reduce.group, self.gather.group))
        total_M = torch.zeros_like(flat[0])
        for rank, partial_M in enumerate(flat):
            decoded_M = self.reduce(partial_M, self._generator)
            if self.own:
                mine = slice(parts[rank].start, parts[rank].stop)
                decoded_M[mine] = partial_M[mine]
            total_M += decoded_M
        if self._left_M is not None:
            total_M += self._left_M
        found_M = self.gather(total_M, self._generator)
        self._left_M = total_M - found_M if self.carried else None
        found_BTD = found_M.view(shape[0], rows, shape[2]).to(partials[0].dtype)
        if last:
            exact_BTD = torch.stack([partial_BTD[:, rows:].float() for partial_BTD in partials]).sum(0)
            found_BTD = torch.cat((found_BTD, exact_BTD.to(found_BTD.dtype)), dim=1)
        return [found_BTD] * len(partials)


def variants() -> dict[str, Variant]:
    """What is tried, by name."""
    found: dict[str, Variant] = {}
    for bits, group in ((4, 128), (4, 32), (3, 128), (8, 128)):
        plain = Rounding(bits, group)
        drawn, up = Rounding(bits, group, stochastic=True), Rounding(bits, group, up=True)
        name = f"int{bits}-g{group}-zp"
        found |= {
            f"{name} nearest": Variant(plain, plain),
            f"{name} scales up": Variant(up, up),
            f"{name} stochastic": Variant(drawn, drawn),
            f"{name} own partial exact": Variant(plain, plain, own=True),
            f"{name} error carried": Variant(plain, plain, carried=True),
        }
    return found
