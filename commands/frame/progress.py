"""What a long command says while it works, on standard error: a bar on a terminal, else a line every few seconds.

A thread of its own says it, so that something is said also where the work itself has nothing to report for a minute.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

EVERY_S = 8.0  # between two lines; ten seconds is the promise, and Python's threads wait for each other
SHOWN_AFTER_S = 0.5  # a bar that is gone at once is a flicker


@dataclass
class Work:
    """What is done, and how far. done, total: in units, 0 and None where nobody knows; at: the part that is under way.

    Written by the work, read by the thread that says it: each field is set whole, so no lock is needed.
    """

    what: str
    unit: str = ""
    done: float = 0
    total: float | None = None
    at: str = ""
    _changed: Callable[[], None] = field(default=lambda: None, repr=False)

    def update(self, done: float, total: float | None = None, at: str = "") -> None:
        """So far; total and at stay what they were where they are left out."""
        self.done, self.total, self.at = done, self.total if total is None else total, at or self.at
        self._changed()

    def line(self, elapsed_s: float) -> str:
        """As one line: `plan: 40 of 132 candidates (30%), link x0.9, 16 s`."""
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        of = f" of {self.total:.10g}" if self.total else ""
        far = f"{self.done:.10g}{of} {self.unit}".rstrip() + share if self.total or self.done else ""
        return f"{self.what}: " + ", ".join(part for part in (far, self.at, f"{elapsed_s:.0f} s") if part)


@contextmanager
def working(
    what: str,
    unit: str = "",
    *,
    total: float | None = None,
    every_s: float | None = None,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Work]:
    """Say what is under way until the block ends.

    Args:
        what: the command, or what it does now. unit: of what is counted. total: how many, where that is known.
        every_s: seconds between two lines where `stream` is no terminal; `EVERY_S` when left out.
        stream: standard error when left out. clock: seconds, for the line alone.
    """
    out = sys.stderr if stream is None else stream
    work = Work(what, unit, total=total)
    if out.isatty():
        with _bar(work, out):
            yield work
        return
    ended, begun = threading.Event(), clock()
    wait_s = EVERY_S if every_s is None else every_s

    def beat() -> None:
        while not ended.wait(wait_s):
            try:
                print(f"thinwire: {work.line(clock() - begun)}", file=out, flush=True)
            except (OSError, ValueError):  # nobody reads any more: the work goes on
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield work
    finally:
        ended.set()
        thread.join()


@contextmanager
def _bar(work: Work, out: TextIO) -> Iterator[None]:
    """A bar that goes when the work is done; a pulse where nobody knows how much there is."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(file=out), transient=True)
    task = bar.add_task(work.what, total=work.total)

    def changed() -> None:
        said = work.line(0).rpartition(", ")[0] or work.what
        bar.update(task, description=said, completed=work.done, total=work.total)

    later = threading.Timer(SHOWN_AFTER_S, bar.start)
    later.daemon = True
    work._changed = changed
    changed()
    later.start()
    try:
        yield
    finally:
        later.cancel()
        later.join()
        bar.stop()
