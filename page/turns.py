"""Who goes first: what a slider waits for, before curves, loads and plans; and nobody for who has gone away."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

MOST_S = 5.0  # that somebody waits for others before he goes on beside them


class AbandonedError(Exception):
    """Nobody waits for the answer any more."""


class Turns:
    """Of threads that answer. Python runs one at a time, so whoever may wait does, between two predictions."""

    def __init__(self) -> None:
        self._ahead = 0
        self._changed = threading.Condition()
        self._mine = threading.local()

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """What is done here, others wait for."""
        with self._changed:
            self._ahead += 1
        try:
            yield
        finally:
            with self._changed:
                self._ahead -= 1
                self._changed.notify_all()

    @contextmanager
    def behind(self, gone: threading.Event) -> Iterator[None]:
        """What is done here waits for others, and ends once `gone` is set."""
        self._mine.gone = gone
        try:
            yield
        finally:
            self._mine.gone = None

    def turn(self) -> None:
        """Wait, where this thread is behind others. AbandonedError where nobody waits for it."""
        gone = getattr(self._mine, "gone", None)
        if gone is None:
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._ahead or gone.is_set(), timeout=MOST_S)
        if gone.is_set():
            raise AbandonedError
