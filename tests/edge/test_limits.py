"""Limits: each is used, each is in the documentation as it is, and each holds where it ends."""

import re
from pathlib import Path

import pytest

from thinwire.edge import limits
from thinwire.edge.limits import ALL, EFFICIENCY, GROUP, Limit


def written(number: float) -> str:
    """As people write it: powers of two as such, thousands with commas."""
    if not isinstance(number, int):
        return f"{number:,.10g}" if 1e-3 <= abs(number) < 1e9 or not number else f"{number:g}"
    if abs(number) < 1 << 16:
        return f"{number:,}"
    for above, tail in ((0, ""), (1, " - 1")):
        size = abs(number) + above
        if size & (size - 1) == 0:
            return f"{'-' if number < 0 else ''}2^{size.bit_length() - 1}{tail}"
    return f"{number:,}"


def row(limit: Limit) -> str:
    least = f"above {written(limit.least)}" if limit.above else written(limit.least)
    return f"| {limit.what} | {least} | {written(limit.most)} | {limit.unit} | {limit.why} |"


def test_the_documentation_has_this_list(root: Path) -> None:
    """Write the row that is missing into docs/limits.md."""
    said = re.findall(r"^\| (?!what|-).*\|$", (root / "docs" / "limits.md").read_text("utf-8"), re.MULTILINE)
    assert said == [row(limit) for limit in ALL]


def test_each_limit_is_used_and_has_a_reason(root: Path, tracked: list[str]) -> None:
    ours = [name for name in tracked if name.endswith(".py") and not name.startswith(("tests/", "src/"))]
    text = "\n".join((root / name).read_text("utf-8") for name in ours if name != "edge/limits.py")
    for name, value in vars(limits).items():
        if isinstance(value, Limit):
            assert re.search(rf"\b{name}\b", text), f"{name} limits nothing: take it off the list"
            assert value.why and value.least < value.most


@pytest.mark.parametrize("limit", ALL, ids=lambda limit: limit.what)
def test_ends(limit: Limit) -> None:
    beyond = limit.most + 1 if isinstance(limit.most, int) else limit.most * 1.001
    assert limit.holds(limit.most) and not limit.holds(beyond) and not limit.holds(float("nan"))
    assert limit.holds(limit.least) is not limit.above
    with pytest.raises(ValueError, match="what must lie in"):
        limit.check("what", beyond)


def test_what_is_said() -> None:
    assert (GROUP.range, EFFICIENCY.range) == ("in 8..65536", "in (0, 1.2]")
    with pytest.raises(ValueError, match=r"^group must lie in 8\.\.65536: group=4$"):
        GROUP.check("group", 4)
    with pytest.raises(ValueError, match="a whole number of more than 40 digits"):
        GROUP.check("group", 10**5000)
