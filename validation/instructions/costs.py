"""Codec costs of a GPU's profile, priced from what was compiled for it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from thinwire.sim.costs.profile import CodecCost, CompiledCodec, GpuProfile
from thinwire.sim.costs.spread import Spread
from thinwire.topologies.cluster import Gpu
from thinwire.validation.fits.raw_file import Raw
from thinwire.validation.instructions.campaign import GPU, Campaign, campaign, campaign_of
from thinwire.validation.instructions.checks import other_spread, own_spread
from thinwire.validation.instructions.pipes import CAPABILITIES, MULTIPROCESSORS
from thinwire.validation.instructions.price import Line, Machine, price
from thinwire.validation.instructions.table import counted, newest

DIGITS = 4  # of a price


def is_compiled(gpu: str) -> bool:
    """Are there counted kernels for this GPU?"""
    return gpu in CAPABILITIES


@cache
def spread_of(gpu: str) -> Spread:
    """How far off the prices are on a GPU that kernels are compiled for."""
    return own_spread(campaign()) if gpu == GPU else other_spread()


def with_compiled(cost: CodecCost, gpu: Gpu, copy_share: float) -> CodecCost:
    """`cost` with kernels of their own priced, by the H200's constants. copy_share: of the memory's bandwidth that a
    copy reaches on this GPU.
    """
    here = campaign()
    return _priced(cost, here, here.machine if gpu.name == GPU else Machine.of(gpu, copy_share))


def with_own(profile: GpuProfile, raw: Raw) -> GpuProfile:
    """A profile fitted to a campaign of `make gpu`, its codec kernels priced by constants fitted to the same campaign;
    as it is where nothing is compiled for the GPU, or too little was measured.
    """
    here = campaign_of(raw)
    if here is None:
        return profile
    spread = own_spread(here)
    spreads = tuple(spread if s.part == spread.part else s for s in profile.spreads)
    return replace(profile, codec=_priced(profile.codec, here, here.machine), spreads=spreads)


def _priced(cost: CodecCost, here: Campaign, machine: Machine) -> CodecCost:
    compiled = MULTIPROCESSORS[machine.capability].compiled
    version = newest()
    counts = counted(version, compiled)
    lines = []
    for codec in sorted(counts):
        found = price(codec, counts[codec], machine, here.constants)
        parts = (found.encode, found.copy, found.total, found.again, found.decode)
        lines.append(CompiledCodec(codec, *map(_numbers, parts)))
    basis = f"instructions of Triton {version} for sm_{compiled}, by constants fitted to {len(here.rows)} kernels"
    at = f"at {machine.clock_hz / 1e6:.0f} MHz and {machine.copy_bytes_per_s / 1e9:.0f} GB/s of copy"
    kind, where = ("measured", "") if machine == here.machine else ("assumed", f" of {here.machine.name}")
    return replace(cost, compiled=tuple(lines), compiled_source=f"{kind}: {here.name}, {basis}{where}, {at}")


def _numbers(line: Line) -> tuple[float, float]:
    return float(f"{line.call_s:.{DIGITS}g}"), float(f"{line.value_s:.{DIGITS}g}")
