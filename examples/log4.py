"""A codec of one's own: a sign and a power of two in 4 bits, one bf16 scale for each group. Its numbers: log4_torch.py.

A value is 0 or plus or minus the group's largest magnitude, halved 0 to 6 times.
"""

from dataclasses import dataclass

from thinwire.reference.catalog import Codec, Cost, Section, register


@dataclass(frozen=True, slots=True)
class Log4(Codec):
    """`group` values share a scale. No torch here: this half plans, names and counts bytes."""

    group: int = 32

    def __post_init__(self) -> None:
        if not 2 <= self.group <= 4096 or self.group % 2:  # two codes a byte
            raise ValueError(f"group must be even and lie in 2..4096: group={self.group}")

    @property
    def spec(self) -> str:
        """As it is written in a scheme: `two_step:log4-g32`."""
        return f"log4-g{self.group}"

    @property
    def bits_per_value(self) -> float:
        """4, and the scale's 16 over its group."""
        return 4 + 16 / self.group

    def _sections(self, numel: int) -> tuple[Section, ...]:
        groups = -(-numel // self.group)  # the last is filled up with zeros
        return Section("plane4", groups * self.group // 2), Section("scales", 2 * groups, "bf16")


register(
    Log4,
    "log4",
    build=lambda words: Log4(int(words.get("group", 32))),
    options={"group": r"g(\d+)"},
    grammar="log4[-gGROUP]",
    numerics="log4_torch",
    cost=Cost(encode_bytes_per_value=4.0, source="assumed: reads a group twice, for its scale and for its codes"),
    examples=("log4", "log4-g8", "log4-g130"),
)
