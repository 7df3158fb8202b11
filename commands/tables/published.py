"""What others published of schemes' accuracy, a line a row: a few, and how many more there are."""

from collections.abc import Sequence

from thinwire.commands.tables.console import say
from thinwire.edge.quantities import percent_text
from thinwire.sim.choices import Shown
from thinwire.sim.quality.published import Found, few


def published(rows: Sequence[tuple[str, Sequence[Found]]], how_many: Shown | None, model: str | None = None) -> None:
    """One line a row; what is not shown is counted, and how little of a score it keeps. how_many: None says only that
    there are some.
    """
    found = [(name, one) for name, ones in rows for one in ones]
    if how_many == "none" or not found:
        return
    of_model = sum(one.same_model for _, one in found)
    are = "are" if of_model > 1 else "is"
    whose = "" if model is None else f" ({of_model or 'none'} of {len(found)} rows {are} of {model})"
    least = min(
        (one.row.retained for _, one in found if one.row.decides and one.row.retained is not None), default=None
    )
    kept = "" if least is None else f"; the worst measured keeps {percent_text(least)} of a score"
    if how_many is None:
        say(f"Published by others{whose or f', {len(found)} rows'}, not in the table{kept}: --published few, or all")
        return
    say(f"Published by others, each of its own model and set-up{whose}; nothing of it is in the table:")
    shown = found if how_many == "all" else few(rows)
    for name, one in shown:
        say(f"  {name}: {one.row.line}", indent=4)
    if left := len(found) - len(shown):
        say(f"  ... and {left} more{kept}: --published all", indent=4)
