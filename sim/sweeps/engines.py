"""Where the tasks of a sweep run: local processes, an existing Dask or an existing Ray cluster.

Each engine takes a function and tasks and yields results in whatever order they come. All are asked directly, without
joblib: why not stands in docs/decisions/016-sweep.md.
"""

from collections.abc import Callable, Generator, Sequence
from itertools import islice
from typing import Any, Literal, TypeVar

from thinwire.edge.words import shown
from thinwire.sim.sweeps import pool

EngineName = Literal["local", "dask", "ray"]
ENGINES: tuple[EngineName, ...] = ("local", "dask", "ray")
IN_FLIGHT = 256  # tasks a cluster is given at a time: enough for as many cores, little to hold
RETRIES = 3  # of a task whose worker died, within Dask and within Ray
WAIT_S = 30  # for a cluster to answer

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class WorkersDiedError(RuntimeError):
    """Workers died, and tasks with them; results already yielded are good."""


def run(
    engine: EngineName,
    work: Callable[[_Task], _Result],
    tasks: Sequence[_Task],
    address: str | None = None,
    workers: int | None = None,
) -> Generator[_Result]:
    """`work` of every task, unordered.

    Raises:
        WorkersDiedError: what was not yielded must be asked for again.
        ValueError: a package is missing, no cluster answers, or an argument belongs to another engine.
    """
    if engine == "local":
        if address is not None:
            raise ValueError(f"--address belongs to --engine dask and ray: given {shown(address)}")
        return _local(work, tasks, workers)
    if workers is not None:
        raise ValueError(f"--workers belongs to --engine local, a cluster has its own: given {workers}")
    if engine == "dask":
        if address is None:
            raise ValueError("--engine dask needs the --address of a scheduler: tcp://HOST:8786, say")
        return _dask(work, tasks, address)
    return _ray(work, tasks, address or "auto")


def missing(name: str, extra: str) -> ValueError:
    """What to install."""
    return ValueError(f"sweep needs {name}: pip install 'thinwire[{extra}]'")


def _local(work: Callable[[_Task], _Result], tasks: Sequence[_Task], workers: int | None) -> Generator[_Result]:
    try:
        yield from pool.run(work, tasks, workers)
    except pool.DiedError as error:
        raise WorkersDiedError(str(error)) from None


def _dask(work: Callable[[_Task], _Result], tasks: Sequence[_Task], address: str) -> Generator[_Result]:
    try:
        from dask.distributed import Client, KilledWorker, as_completed
    except ImportError:
        raise missing("Dask", "dask") from None
    try:
        client = Client(address, timeout=WAIT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at {address}: {error}") from None
    queue = iter(tasks)
    with client:
        try:
            client.wait_for_workers(1, timeout=WAIT_S)
        except TimeoutError:
            raise ValueError(f"the Dask scheduler at {address} has no workers") from None
        # pure=False: two runs of a sweep never share a result through the scheduler's memory.
        running: Any = as_completed(
            loop=client.loop,
            futures=[client.submit(work, task, pure=False, retries=0) for task in islice(queue, IN_FLIGHT)],
        )
        for future in running:
            try:
                result = future.result()
            except KilledWorker as error:
                raise WorkersDiedError(str(error).partition("\n")[0]) from None
            except ImportError as error:
                raise _not_installed(error) from None
            running.update([client.submit(work, task, pure=False, retries=0) for task in islice(queue, 1)])
            yield result


def _ray(work: Callable[[_Task], _Result], tasks: Sequence[_Task], address: str) -> Generator[_Result]:
    try:
        import ray
    except ImportError:
        raise missing("Ray", "ray") from None
    own = not ray.is_initialized()
    if own:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            token = "; one that asks for a token wants RAY_AUTH_MODE=token and RAY_AUTH_TOKEN set here too"
            raise ValueError(f"no Ray cluster answers at {address}: {error}{token}") from None
    try:
        remote = ray.remote(num_cpus=1, max_retries=RETRIES)(work)
        queue = iter(tasks)
        running = [remote.remote(task) for task in islice(queue, IN_FLIGHT)]
        while running:
            done, running = ray.wait(running, num_returns=1)
            try:
                result = ray.get(done[0])
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
                raise WorkersDiedError(str(error).partition("\n")[0]) from None
            except ImportError as error:  # Ray raises a task's error as one that is of its type as well
                raise _not_installed(error) from None
            running += [remote.remote(task) for task in islice(queue, 1)]
            yield result
    finally:
        if own:
            ray.shutdown()


def _not_installed(error: ImportError) -> ValueError:
    return ValueError(f"the workers cannot import what a sweep needs; install the same thinwire there: {error}")
