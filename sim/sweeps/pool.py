"""Worker processes on this machine: this Python again, each with a pipe to it and a pipe from it.

Nothing is shared and nothing has a name: no semaphore, no shared memory, no file that could outlive a run. A worker
ends when its driver does, however that ends: at the end of its pipe, or a second after its parent is another process
(the driver was killed while it computed). It is in a process group of its own, so Ctrl-C reaches the driver alone,
which kills it; results that have come are whole, and what a worker was at is lost with it.
"""

import os
import pickle
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from itertools import islice
from typing import IO, Any, TypeVar

WATCH_S = 1.0  # between two looks of a worker at who its parent is
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")  # one a worker, where nobody says otherwise
_START = "import sys; sys.path[:] = {path!r}; from thinwire.sim.sweeps.pool import serve; serve()"

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class DiedError(RuntimeError):
    """A worker ended before its task did."""


class _Worker:
    """The driver's end. task: it is at one."""

    def __init__(self, work: Callable[..., Any]) -> None:
        path = [place or os.getcwd() for place in sys.path]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START.format(path=path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**dict.fromkeys(THREADS, "1"), **os.environ}, process_group=0 if os.name == "posix" else None,
        )  # fmt: skip
        self.work = work
        self.begun = False

    def give(self, task: Any) -> None:
        """A task to do. DiedError where nobody takes it."""
        try:
            if not self.begun:
                pickle.dump(self.work, self._to)
            self.begun = True
            pickle.dump(task, self._to)
            self._to.flush()
        except BrokenPipeError:
            raise self._died() from None

    def take(self) -> Any:
        """The result of its task. DiedError where it ended instead; what the task raised, as it was raised."""
        try:
            sound, found = pickle.load(self.results)
        except (EOFError, pickle.UnpicklingError):
            raise self._died() from None
        if not sound:
            raise found
        return found

    @property
    def results(self) -> IO[bytes]:
        """Where they come from."""
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def _to(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def end(self) -> None:
        """At once: whatever it is at has no result."""
        self.process.kill()
        self.process.wait()
        for pipe in (self._to, self.results):
            with suppress(OSError):  # what was never taken cannot be flushed
                pipe.close()

    def _died(self) -> DiedError:
        return DiedError(f"a worker ended with status {self.process.wait()}")


def run(work: Callable[[_Task], _Result], tasks: Sequence[_Task], workers: int | None) -> Generator[_Result]:
    """`work` of every task, unordered. workers: None takes a core each; one is this process.

    Raises DiedError: what was not yielded must be asked for again.
    """
    number = _cores() if workers is None else workers
    if number == 1:
        yield from map(work, tasks)
        return
    queue, pool = iter(tasks), list[_Worker]()
    with selectors.DefaultSelector() as ready:
        try:
            for task in islice(queue, number):
                pool.append(_Worker(work))
                ready.register(pool[-1].results, selectors.EVENT_READ, pool[-1])
                pool[-1].give(task)
            while ready.get_map():
                for key, _ in ready.select():
                    worker: _Worker = key.data
                    result = worker.take()
                    left = list(islice(queue, 1))  # the next one first: it computes while the result is kept
                    for task in left:
                        worker.give(task)
                    if not left:
                        ready.unregister(worker.results)
                    yield result
        finally:
            for worker in pool:
                worker.end()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve() -> None:
    """A worker's life: the function, then tasks, until the pipe ends. What it prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    try:
        work = pickle.load(sys.stdin.buffer)
        while True:
            task = pickle.load(sys.stdin.buffer)
            try:
                answer = pickle.dumps((True, work(task)))
            except Exception as error:
                answer = pickle.dumps((False, _as_sent(error)))
            answers.write(answer)
            answers.flush()
    except (EOFError, BrokenPipeError):  # the driver is done, or gone
        os._exit(0)


def _as_sent(error: Exception) -> Exception:
    """An error that arrives as it left; else one that says which it was."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCH_S)
    os._exit(0)
