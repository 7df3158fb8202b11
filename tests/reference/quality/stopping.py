"""Progress callbacks that end a run where a user might."""

from __future__ import annotations

from collections.abc import Callable


class Stop(Exception):
    """What a stopped run ends with."""


def stopper(after: int) -> Callable[[int, int], None]:
    """Progress that raises `Stop` once `after` passes are done."""

    def progress(done: int, total: int) -> None:
        if done >= after:
            raise Stop

    return progress
