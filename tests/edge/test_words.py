"""Names that were meant."""

from thinwire.edge.words import meant, near
from thinwire.reference.catalog import schemes
from thinwire.topologies.load import gpu_names


def test_whose_parts_are_the_same_come_first() -> None:
    """What a newcomer writes for short: the number of a card, the format of a codec."""
    assert near("int4", schemes())[0] == "flash-int4" and all("int4" in name for name in near("int4", schemes()))
    assert near("4090", gpu_names())[0] == "rtx-4090" and near("L40S", ["8xl40s-pcie", "x-l40s"])[0] == "x-l40s"
    assert near("a100", ["a1000", "a100-sxm", "x-a100"]) == ["x-a100", "a100-sxm", "a1000"]


def test_what_is_like_none_has_no_hint() -> None:
    assert near("", ["a-b"]) == [] and meant("zzz", ["flash-int4"]) == ""
    assert meant("flash-int44", schemes()).startswith("did you mean flash-int4 or")
