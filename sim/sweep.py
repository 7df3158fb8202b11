"""A grid of predictions (`thinwire sweep`): computed where there are workers, kept as it comes, sorted at the end.

Points (sim/sweep_spec.py) go out in tasks (sim/sweep_engines.py); each task that comes back is at once a Parquet file
of its own in `OUT.parts`, renamed into place, so that a kill at any time loses the tasks in flight and nothing else.
The next run takes up what is there. At the end the parts become one file whose bytes depend on the sweep and on this
build of thinwire alone. Needs the extra `sweep`: joblib and pyarrow are imported where they are used.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from thinwire.sim.sweep_engines import EngineName, WorkersDiedError, missing, run
from thinwire.sim.sweep_spec import SHIPPED, Point, Sweep, Values, names, profile_key, read_sweep

ROUNDS = 4  # in which workers die and no task comes back, before the sweep gives up
_STRINGS = ("id", "model", "cluster", "weights", "launch", "profile", "scaled_links", "slow_ranks", "scheme")
_COUNTS = ("tp", "batch", "input_tokens", "wire_bytes_per_gpu", "all_reduce_count")
_NUMBERS = (
    "ttft_ms", "ttft_ms_low", "ttft_ms_high", "compute_ms", "codec_ms", "communication_ms",
    "exposed_communication_ms", "reduce_bits_per_value", "gather_bits_per_value",
)  # fmt: skip
# Columns, in order: the point, what was predicted (null where it failed), why it failed (null where it did not).
COLUMNS = (
    "id", "model", "cluster", "tp", "weights", "launch", "profile", "scaled_links", "slow_ranks", "batch",
    "input_tokens", "scheme", *_NUMBERS[:7], "wire_bytes_per_gpu", "all_reduce_count", *_NUMBERS[7:], "profile_name",
    "error_type", "error",
)  # fmt: skip

Row = dict[str, Any]


# ---- what a worker does


@dataclass(frozen=True, slots=True)
class Task:
    """Points to predict, and what the files named in them hold."""

    points: tuple[Point, ...]
    ids: tuple[str, ...]
    values: Values


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of a task, in its order; who computed them, and with which thinwire."""

    rows: tuple[Row, ...]
    pid: int
    build: str


def work(task: Task) -> Batch:
    """Predict every point of a task. What goes wrong with a point is its row's error, and no other point's matter."""
    memo: dict[Any, Any] = {}
    rows = [_row(point, name, task.values, memo) for point, name in zip(task.points, task.ids, strict=True)]
    return Batch(tuple(rows), os.getpid(), build())


def _row(point: Point, name: str, values: Values, memo: dict[Any, Any]) -> Row:
    asked = {
        **asdict(point),
        "id": name,
        "profile": point.profile or SHIPPED,
        "scaled_links": json.dumps(dict(point.scaled_links)),
        "slow_ranks": json.dumps(dict(point.slow_ranks)),
    }
    try:
        predicted = _predicted(point, values, memo)
    except Exception as error:
        predicted = {"error_type": type(error).__name__, "error": str(error)}
    return {**dict.fromkeys(COLUMNS), **asked, **predicted}


def _predicted(point: Point, values: Values, memo: dict[Any, Any]) -> Row:
    from thinwire.reference.config import load_model
    from thinwire.sim import api
    from thinwire.sim.profile import load_profile

    def once(key: Any, make: Callable[[], Any]) -> Any:
        """Points of a task are neighbours: most share their machine."""
        if key not in memo:
            memo[key] = make()
        return memo[key]

    own = values.get(("profile", profile_key(point.profile or SHIPPED, point.cluster)))
    if isinstance(own, Exception):
        raise own
    model = values.get(("model", point.model)) or once(("model", point.model), lambda: load_model(point.model))
    machine = values.get(("cluster", point.cluster), point.cluster)
    place = (point.cluster, point.tp, point.scaled_links)
    gpus = once(place, lambda: api.group(machine, point.tp, dict(point.scaled_links)))
    profile = own or once(("profile", place), lambda: load_profile(gpus))
    scheme = values.get(("scheme", point.scheme), point.scheme)
    found = api.predict(
        model, gpus, scheme, None, point.batch, point.input_tokens, point.weights, profile,
        slow_ranks=dict(point.slow_ranks), launch=point.launch,
    ).to_dict()  # fmt: skip
    return {
        "tp": found["tp"],
        "ttft_ms": found["ttft_ms"],
        "ttft_ms_low": found["ttft_ms_interval"][0],
        "ttft_ms_high": found["ttft_ms_interval"][1],
        **{f"{name}_ms": value for name, value in found["breakdown_ms"].items()},
        "wire_bytes_per_gpu": found["wire_bytes_per_gpu"],
        "all_reduce_count": found["all_reduce_count"],
        **{f"{phase}_bits_per_value": bits for phase, bits in found["bits_per_value"].items()},
        "profile_name": found["profile"],
    }


@cache
def build() -> str:
    """This thinwire: its version and a hash of all that a prediction is made from. Rows of two builds do not mix."""
    from thinwire import __version__

    root, digest = Path(__file__).resolve().parent.parent, sha256()
    for folder in ("reference", "sim", "topologies"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".json", ".toml"):
                digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:16]}"


# ---- what is kept


class Store:
    """Rows of finished tasks: `OUT` of a run that ended, `OUT.parts` of one that did not."""

    def __init__(self, out: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise missing("pyarrow", "sweep") from None
        if not out.parent.is_dir():
            raise ValueError(f"no such folder for the results: {out.parent}")
        self.out, self.parts, self._pa, self._pq = out, out.with_name(out.name + ".parts"), pa, pq
        kinds = {**dict.fromkeys(_COUNTS, pa.int64()), **dict.fromkeys(_NUMBERS, pa.float64())}
        fields = [pa.field(name, kinds.get(name, pa.string())) for name in COLUMNS]
        self.schema = pa.schema(fields, {"thinwire": build()})

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

    def finish(self, ids: Sequence[str]) -> int:
        """Write `OUT`, the rows of these points in this order, and drop the parts. Returns how many failed."""
        tables = [file.read() for file in self._files() if self._same_build(file)]
        table = self._pa.concat_tables([self.schema.empty_table(), *tables])
        place: dict[str, int] = {}
        for i, (name, final) in enumerate(_rows(table)):
            if final or name not in place:
                place[name] = i
        table = table.take(self._pa.array([place[name] for name in ids], self._pa.int64())).combine_chunks()
        self._write(table.replace_schema_metadata(self.schema.metadata), self.out)
        shutil.rmtree(self.parts, ignore_errors=True)
        return len(table) - int(table.column("error").null_count)

    def _files(self) -> Iterator[Any]:
        """Everything there is to read; a part that a crash of the machine left torn is as good as none."""
        if self.out.exists():
            try:
                file = self._pq.ParquetFile(self.out)
                known = file.schema_arrow.names == self.schema.names and b"thinwire" in file.schema_arrow.metadata
            except (self._pa.ArrowException, OSError, TypeError):
                known = False
            if not known:
                raise ValueError(f"{self.out} is there and is no result of this thinwire's sweep: move it, or --out")
            yield file
        for path in sorted(self.parts.glob("*.parquet")):
            try:
                yield self._pq.ParquetFile(path)
            except (self._pa.ArrowException, OSError):
                path.unlink(missing_ok=True)

    def _same_build(self, file: Any) -> bool:
        return bool(file.schema_arrow.metadata.get(b"thinwire") == build().encode())

    def _write(self, table: Any, path: Path) -> None:
        rough = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._pq.write_table(table, rough, compression="zstd", row_group_size=100_000)
        os.replace(rough, path)


def _rows(table: Any) -> list[tuple[str, bool]]:
    """Id of each row, and whether it needs no second try: it is a prediction, or refused as it will always be."""
    ids, errors = (table.column(name).to_pylist() for name in ("id", "error_type"))
    return [(name, error in (None, "ValueError")) for name, error in zip(ids, errors, strict=True)]


# ---- the sweep


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
    """Predict every point of a TOML file into one Parquet file; go on where a killed run stopped.

    Args:
        out: None takes the spec's name with .parquet, in the working directory.
        engine, address: local processes, or the Dask or Ray cluster that answers at the address.
        workers: local processes; None takes a core each, 1 stays in this process.
        watch: called at the start and for every task that comes back, when its rows are on disk.

    Raises:
        ValueError: a spec that breaks a rule, a file in the way, no cluster, or workers that die again and again.
    """
    asked = read_sweep(Path(spec))
    store = Store(Path(out) if out is not None else Path(f"{Path(spec).stem}.parquet"))
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be a positive whole number: workers={workers}")
    try:
        found, left_out = store.done(asked.ids)
        start, restarts = time.perf_counter(), 0
        done = set(found)
        if watch is not None:
            watch(len(done), len(asked.ids), None)
        for batch in _batches(asked, done, engine, address, workers):
            if batch is None:
                restarts += 1
                continue
            store.add(batch.rows)
            done.update(row["id"] for row in batch.rows)
            if watch is not None:
                watch(len(done), len(asked.ids), batch)
        seconds = time.perf_counter() - start
        failed = store.finish(asked.ids)
    except OSError as error:
        raise ValueError(f"cannot keep results in {store.out} and {store.parts}: {error.strerror or error}") from None
    total = len(asked.ids)
    return Report(str(store.out), total, failed, total - len(found), len(found), left_out, restarts, seconds)


def _batches(
    asked: Sweep, done: set[str], engine: EngineName, address: str | None, workers: int | None
) -> Iterator[Batch | None]:
    """Tasks as they come back, until none is missing (the caller adds to `done`); None where workers died."""
    fruitless = 0
    while tasks := list(tasks_of(asked, done)):
        try:
            for batch in run(engine, work, tasks, address, workers):
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
    """The points that are not done, cut into tasks: of 25 points, fewer in small sweeps, more in very large ones.

    25 are some 0.1 s of work: a hundred times what a task costs to send, and little to lose.
    """
    total = len(asked.points)
    size = max(1, min(25, total // 40), total // 4000)
    missing_points = iter([pair for pair in zip(asked.points, asked.ids, strict=True) if pair[1] not in done])
    while taken := list(islice(missing_points, size)):
        points, ids = zip(*taken, strict=True)
        keys = {key for point in points for key in names(point)}
        yield Task(points, ids, {key: value for key, value in asked.values.items() if key in keys})
