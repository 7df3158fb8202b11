"""A grid of points (`thinwire sweep`): computed where there are workers, kept as it comes, sorted at the end.

Points (sim/sweeps/spec.py) are of one kind (sim/sweeps/kinds.py): predictions, serving runs or plans. They go out in
tasks (sim/sweeps/engines.py); each task that comes back is at once a Parquet file of its own in `OUT.parts`, renamed
into place, so that a kill at any time loses the tasks in flight and nothing else. The next run takes up what is there.
At the end the parts become one file whose bytes depend on the sweep and on this build of thinwire alone. Needs the
extra `sweep`: pyarrow is imported where it is used.
"""

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from itertools import islice
from pathlib import Path
from threading import local
from typing import Any

from thinwire.edge.words import place
from thinwire.edge.writing import replacing
from thinwire.sim.sweeps.engines import EngineName, WorkersDiedError, missing, run
from thinwire.sim.sweeps.kinds import Kind, Once, Row, Values
from thinwire.sim.sweeps.spec import KINDS, Sweep, read_sweep

KEPT = 8  # machines, tables of durations, plans: neighbours share them, and more are of no use
ROUNDS = 4  # in which workers die and no task comes back, before the sweep gives up


# ---- what a worker does


@dataclass(frozen=True, slots=True)
class Task:
    """Points of a kind to compute, and what the files named in them hold."""

    what: str
    points: tuple[Any, ...]
    ids: tuple[str, ...]
    values: Values


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of a task, in its order; who computed them, and with which thinwire."""

    rows: tuple[Row, ...]
    pid: int
    build: str


def work(task: Task) -> Batch:
    """Compute every point of a task. What goes wrong with a point is its row's error, and no other point's matter."""
    kind = KINDS[task.what]
    rows = [_row(point, name, kind, task.values, _kept.once) for point, name in zip(task.points, task.ids, strict=True)]
    return Batch(tuple(rows), os.getpid(), build())


class _Kept(local):
    """What the points of a worker share, from task to task; each of its threads has its own, for things are not made
    in one step.
    """

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """See `sweeps.kinds.Once`; what was not asked for longest is forgotten first."""
        self._made[key] = found = self._made.pop(key, None) or make()
        if len(self._made) > KEPT:
            del self._made[next(iter(self._made))]
        return found


_kept = _Kept()


def _row(point: Any, name: str, kind: Kind, values: Values, once: Once) -> Row:
    try:
        found = kind.found(point, values, once)
    except Exception as error:
        found = {"error_type": type(error).__name__, "error": str(error)}
    return {**dict.fromkeys(kind.columns), **kind.asked(point), "id": name, **found}


@cache
def build() -> str:
    """This thinwire: its version and a hash of all that a row is made from. Rows of two builds do not mix."""
    from thinwire import __version__

    root, digest = Path(__file__).resolve().parents[2], sha256()
    for folder in ("edge", "reference", "sim", "topologies"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".json", ".toml"):
                digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:16]}"


# ---- what is kept


class Store:
    """Rows of finished tasks: `OUT` of a run that ended, `OUT.parts` of one that did not. All are of one kind."""

    def __init__(self, out: Path, kind: Kind) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise missing("pyarrow", "sweep") from None
        if not out.name or out.is_dir():
            raise ValueError(f"the results need a file, and this is a folder: {place(out)}")
        if not out.parent.is_dir():
            raise ValueError(f"no such folder for the results: {out.parent}")
        self.out, self.parts, self._pa, self._pq = out, out.with_name(out.name + ".parts"), pa, pq
        fields = [pa.field(name, getattr(pa, column)()) for name, column in kind.columns.items()]
        self.kind, self.schema = kind, pa.schema(fields, {"thinwire": build()})

    def done(self, ids: Iterable[str]) -> tuple[set[str], int]:
        """Which of these points need no more work, and how many rows are of no use: of other points, or another build.

        A refusal (ValueError) is a result. Any other error may have been the machine's, and the point is tried again.
        """
        wanted, found, useless = set(ids), set[str](), 0
        for file in self._files():
            rows = _rows(file.read(["id", "error_type"]))
            usable = {name for name, final in rows if final and name in wanted} if self._same_build(file) else set()
            useless += len(rows) - len(usable)
            found |= usable
        return found, useless

    def add(self, rows: Sequence[Row]) -> None:
        """Keep the rows of a task: a file, whole or not there."""
        self.parts.mkdir(exist_ok=True)
        name = sha256("".join(row["id"] for row in rows).encode()).hexdigest()[:24]
        self._write(self._pa.Table.from_pylist(rows, self.schema), self.parts / f"{name}.parquet")

    def finish(self, ids: Sequence[str], baseline: str) -> tuple["Reason", ...]:
        """Write `OUT`, the rows of these points in this order, and drop the parts. Returns why points failed."""
        tables = [file.read() for file in self._files() if self._same_build(file)]
        table = self._pa.concat_tables([self.schema.empty_table(), *tables])
        place: dict[str, int] = {}
        for i, (name, final) in enumerate(_rows(table)):
            if final or name not in place:
                place[name] = i
        table = table.take(self._pa.array([place[name] for name in ids], self._pa.int64())).combine_chunks()
        if self.kind.compared is not None:
            speedups = self._pa.array(self.kind.compared(baseline, table.to_pylist()), self._pa.float64())
            at = table.schema.get_field_index("speedup")
            table = table.set_column(at, table.schema.field(at), speedups)
        self._write(table.replace_schema_metadata(self.schema.metadata), self.out)
        shutil.rmtree(self.parts, ignore_errors=True)
        return reasons(table.column("error_type").to_pylist(), table.column("error").to_pylist())

    def leave(self) -> None:
        """Where nothing could be kept, nothing stays."""
        with suppress(OSError):
            self.parts.rmdir()

    def _files(self) -> Iterator[Any]:
        """Everything there is to read; a part that a crash of the machine left torn is as good as none."""
        if self.out.exists():
            try:
                file = self._pq.ParquetFile(self.out)
                what = self._what(file)
            except (self._pa.ArrowException, OSError):
                what = None
            if what is None:
                raise ValueError(f"{self.out} is there and is no result of this thinwire's sweep: move it, or --out")
            yield self._own(file, what, self.out)
        for path in sorted(self.parts.glob("*.parquet")):
            try:
                file = self._pq.ParquetFile(path)
            except (self._pa.ArrowException, OSError):
                path.unlink(missing_ok=True)
            else:
                if {"id", "error_type"} <= set(file.schema_arrow.names):  # else nobody's of a sweep
                    yield self._own(file, self._what(file), self.parts)

    def _what(self, file: Any) -> str | None:
        """The kind whose columns a file has; None: no sweep's of this thinwire."""
        names = file.schema_arrow.names if b"thinwire" in (file.schema_arrow.metadata or {}) else None
        return next((kind.what for kind in KINDS.values() if [*kind.columns] == names), None)

    def _own(self, file: Any, what: str | None, place: Path) -> Any:
        """The file, unless its rows are of another kind."""
        if what not in (None, self.kind.what):
            raise ValueError(
                f'{place} holds rows of a sweep with what = "{what}", this one has what = "{self.kind.what}": '
                "move it, or --out"
            )
        return file

    def _same_build(self, file: Any) -> bool:
        return bool((file.schema_arrow.metadata or {}).get(b"thinwire") == build().encode())

    def _write(self, table: Any, path: Path) -> None:
        with replacing(path) as rough:
            self._pq.write_table(table, rough, compression="zstd", row_group_size=100_000)


def _rows(table: Any) -> list[tuple[str, bool]]:
    """Id of each row, and whether it needs no second try: it is an answer, or refused as it will always be."""
    ids, errors = (table.column(name).to_pylist() for name in ("id", "error_type"))
    return [(name, error in (None, "ValueError")) for name, error in zip(ids, errors, strict=True)]


# ---- the sweep


@dataclass(frozen=True, slots=True)
class Reason:
    """Why points failed. error: the first one's message; those of the others differ in numbers alone."""

    points: int
    error_type: str
    error: str


def reasons(types: Sequence[str | None], errors: Sequence[str | None]) -> tuple[Reason, ...]:
    """The most frequent first, of those alike the first to come."""
    first: dict[tuple[str, str], str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for kind, error in zip(types, errors, strict=True):
        if kind is not None:
            alike = (kind, _NUMBER.sub("0", error or ""))
            first.setdefault(alike, error or "")
            counts[alike] += 1
    return tuple(Reason(number, alike[0], first[alike]) for alike, number in counts.most_common())


_NUMBER = re.compile(r"(?<![\w-])[0-9]+(\.[0-9]+)?")  # not in a name


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did. `computed` and `resumed` add up to `points`; `left_out` rows were there and are of no use."""

    out: str
    points: int
    failed: int
    computed: int
    resumed: int
    left_out: int
    restarts: int
    seconds: float
    reasons: tuple[Reason, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The document of `sweep --json`."""
        return {**asdict(self), "points_per_s": self.computed / self.seconds if self.computed else None}


Watch = Callable[[int, int, Batch | None], None]  # points done, points in all, the task that came back


def sweep(
    spec: str | Path,
    out: str | Path | None = None,
    engine: EngineName = "local",
    address: str | None = None,
    workers: int | None = None,
    watch: Watch | None = None,
) -> Report:
    """Compute every point of a TOML file into one Parquet file; go on where a killed run stopped.

    Args:
        out: None takes the spec's name with .parquet, in the working directory.
        engine, address: local processes, or the Dask or Ray cluster that answers at the address.
        workers: local processes; None takes a core each, 1 stays in this process.
        watch: called at the start and for every task that comes back, when its rows are on disk.

    Raises:
        ValueError: a spec that breaks a rule, a file in the way, no cluster, or workers that die again and again.
    """
    asked = read_sweep(Path(spec))
    store = Store(Path(out) if out is not None else Path(f"{Path(spec).stem}.parquet"), asked.kind)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be a positive whole number: workers={workers}")
    try:
        found, left_out = store.done(asked.ids)
        start, restarts = time.perf_counter(), 0
        done = set(found)
        if watch is not None:
            watch(len(done), len(asked.ids), None)
        with closing(_batches(asked, done, engine, address, workers)) as batches:  # else workers outlive an error here
            for batch in batches:
                if batch is None:
                    restarts += 1
                    continue
                store.add(batch.rows)
                done.update(row["id"] for row in batch.rows)
                if watch is not None:
                    watch(len(done), len(asked.ids), batch)
        seconds = time.perf_counter() - start
        why = store.finish(asked.ids, asked.baseline)
    except OSError as error:
        store.leave()
        raise ValueError(
            f"cannot keep results in {place(store.out)} and {place(store.parts)}: {error.strerror or error}"
        ) from None
    total = len(asked.ids)
    failed = sum(reason.points for reason in why)
    return Report(str(store.out), total, failed, total - len(found), len(found), left_out, restarts, seconds, why)


def _batches(
    asked: Sweep, done: set[str], engine: EngineName, address: str | None, workers: int | None
) -> Generator[Batch | None]:
    """Tasks as they come back, until none is missing (the caller adds to `done`); None where workers died."""
    fruitless = 0
    while tasks := list(tasks_of(asked, done)):
        try:
            with closing(run(engine, work, tasks, address, workers)) as batches:
                for batch in batches:
                    if batch.build != build():
                        raise ValueError(f"a worker runs thinwire {batch.build}, this is {build()}: install the same")
                    fruitless = 0
                    yield batch
        except WorkersDiedError as error:
            fruitless += 1
            if fruitless == ROUNDS:
                raise ValueError(
                    f"workers died {ROUNDS} times in a row with nothing done ({error}); {len(done)} of "
                    f"{len(asked.ids)} points are kept, and the first that is not is {tasks[0].points[0]}"
                ) from None
            yield None


def tasks_of(asked: Sweep, done: set[str]) -> Iterator[Task]:
    """The points that are not done, cut into tasks: of as many points as their kind says, fewer in small sweeps."""
    kind, size = asked.kind, asked.kind.task_size(len(asked.points))
    missing_points = iter([pair for pair in zip(asked.points, asked.ids, strict=True) if pair[1] not in done])
    while taken := list(islice(missing_points, size)):
        points, ids = zip(*taken, strict=True)
        keys = {key for point in points for key in kind.names(point)}
        yield Task(kind.what, points, ids, {key: value for key, value in asked.values.items() if key in keys})
