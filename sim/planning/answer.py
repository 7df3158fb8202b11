"""A plan by the path of its file: the Python face of `thinwire plan`."""

from collections.abc import Callable
from pathlib import Path

from thinwire.sim.planning.file import read
from thinwire.sim.planning.plan import AS_GIVEN, Plan, Planner


def plan(
    file: str | Path,
    what_if: str | None = None,
    *,
    frontier: bool | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Plan:
    """The cheapest deployment that keeps the targets of a TOML file under its load.

    Args:
        what_if: "load x2", "link PATTERN x0.5", "price CLUSTER x0.8" or several with commas between.
        frontier: all that nothing beats in cost, TTFT and accuracy at once, or the cheapest alone; None: the file's.
        progress: called with a line for every candidate that is settled.

    Raises:
        ValueError: a file that breaks a rule, named with its line and key; a what-if of something it has not.
    """
    asked = read(Path(file))
    change = AS_GIVEN if what_if is None else asked.what_if(what_if)
    return Planner(asked.problem, progress).solve(change, frontier)
