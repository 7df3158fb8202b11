"""What an emulation campaign runs: link settings, and what runs over each. Names are the keys of its results."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from thinwire.validation.emulation.namespaces import Links

MBIT = 1e6 / 8  # bytes/s
Mode = Literal["real", "paced"]

BASELINE = "bf16-ring"
REAL_SCHEMES = (
    BASELINE,
    "two_step:bf16",
    "flash-int8",
    "flash-int4",
    "two_step:bf16+spd-100",
    "flash-int4+spd-50",
)
PACED_SCHEMES = (BASELINE, "two_step:bf16", "flash-int8", "flash-int4", "flash-int4+spd-50")
FLAT_AND_HIERARCHICAL = (
    ("two_step:bf16", "hierarchical:bf16"),
    ("flash-int4", "flash2-int4-hier"),
)
"""A flat collective and the one that crosses islands once for each value, in the same codec."""
STRAGGLER = 1.3  # factor on the compute and codecs of the last rank


@dataclass(frozen=True, slots=True)
class Run:
    """One thing to time: a scheme, and ranks that are slow at everything but sending."""

    scheme: str
    slow: tuple[tuple[int, float], ...] = ()  # (rank, factor)

    @property
    def slow_ranks(self) -> Mapping[int, float]:
        """As a what-if has them."""
        return dict(self.slow)

    @property
    def name(self) -> str:
        """The scheme, and who is slow."""
        slow = ", ".join(f"rank {rank} x{factor:g}" for rank, factor in self.slow)
        return f"{self.scheme} ({slow})" if slow else self.scheme


@dataclass(frozen=True, slots=True)
class Case:
    """A setting of the links and what runs over it. gated: it counts for the figures that the campaign is held to."""

    name: str
    mode: Mode
    ranks: int
    links: Links
    runs: tuple[Run, ...]
    gated: bool = True

    @property
    def calibrated_on(self) -> Links:
        """Equal links of the same rate and delay: what slow or narrow links do is for the prediction to find out."""
        return replace(self.links, name=f"{self.links.name}-equal", slow={}, islands=None, core_bytes_per_s=None)


def real(rates_mbit: tuple[int, ...], schemes: tuple[str, ...]) -> list[Case]:
    """Two ranks that really compute."""
    runs = tuple(Run(scheme) for scheme in schemes)
    return [Case(f"real-{rate}", "real", 2, Links(f"{rate}mbit", rate * MBIT), runs) for rate in rates_mbit]


def paced(ranks: int, rates_mbit: tuple[int, ...], schemes: tuple[str, ...], gated: bool = True) -> list[Case]:
    """Ranks that sleep for what they would compute, the last of them slow in some runs."""
    runs = tuple(Run(scheme) for scheme in schemes)
    runs += tuple(Run(scheme, ((ranks - 1, STRAGGLER),)) for scheme in (schemes[0], schemes[-1]))
    return [
        Case(f"paced{ranks}-{rate}", "paced", ranks, Links(f"{rate}mbit", rate * MBIT), runs, gated)
        for rate in rates_mbit
    ]


def islands(rate_mbit: int, core_mbit: int, pairs: tuple[tuple[str, str], ...]) -> Case:
    """Two islands of two ranks, and a narrow link between them."""
    links = Links(
        f"{rate_mbit}mbit-core{core_mbit}", rate_mbit * MBIT, 0.0, {}, ((0, 1), (2, 3)), core_mbit * MBIT
    )  # fmt: skip
    return Case(f"islands-{core_mbit}", "paced", 4, links, tuple(Run(scheme) for pair in pairs for scheme in pair))


def slow_link(rate_mbit: int, rank: int, factor: float, schemes: tuple[str, ...]) -> Case:
    """One rank's link slower than the others'."""
    links = Links(f"{rate_mbit}mbit-rank{rank}x{factor:g}", rate_mbit * MBIT, 0.0, {rank: factor})
    return Case(f"slow-link-{rate_mbit}", "paced", 4, links, tuple(Run(scheme) for scheme in schemes))


def delayed(rate_mbit: int, delay_us: int, schemes: tuple[str, ...]) -> Case:
    """Links that take their time."""
    links = Links(f"{rate_mbit}mbit-{delay_us}us", rate_mbit * MBIT, delay_us * 1e-6)
    return Case(f"delay-{rate_mbit}-{delay_us}us", "paced", 4, links, tuple(Run(scheme) for scheme in schemes))


def campaign() -> list[Case]:
    """Everything: about six minutes."""
    return [
        *real((100, 250, 500, 1000, 1500, 2000), REAL_SCHEMES),
        *paced(4, (100, 250, 500), PACED_SCHEMES),
        *paced(4, (1000,), PACED_SCHEMES, gated=False),
        delayed(250, 500, PACED_SCHEMES),
        slow_link(250, 1, 0.5, PACED_SCHEMES),
        islands(200, 100, FLAT_AND_HIERARCHICAL),
        islands(200, 50, FLAT_AND_HIERARCHICAL),
        *paced(8, (100, 250), PACED_SCHEMES, gated=False),
    ]


def smoke() -> list[Case]:
    """What continuous integration runs: a minute."""
    few = (BASELINE, "flash-int8", "flash-int4")
    return [
        *real((100, 500), few),
        *paced(4, (200,), few),
        islands(200, 50, FLAT_AND_HIERARCHICAL[:1]),
    ]
