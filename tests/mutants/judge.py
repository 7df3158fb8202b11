"""Whether the tests of a room notice a mutant: a warm Python that forks for each and runs pytest in the fork.

Started by `mutants.py` in a copy of the tree. Each line of stdin is a question, a JSON object: the module to replace
(`path`), what to replace it with (`code`; null: nothing, the tests as they are, with coverage), and `tests`, those
to run, in order. Each line of stdout is its answer. The module is put back when the fork has ended.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

MEMORY_BYTES = 6 << 30
SECONDS = 15.0  # of the processor, for one test, at least: what takes less than a second takes so long in endless loops
SLOWER = 8.0  # a test may take so many times what it took without a mutant
WAITED_SECONDS = 600.0  # on the clock: a test that waits for ever uses no processor

os.environ["HYPOTHESIS_PROFILE"] = "mutants"


def warm(*names: str) -> None:
    """Import what all tests need and nothing of ours: forks share it, and import our modules anew."""
    for name in names:
        __import__(name)


class Order:
    """A plugin of pytest: the tests given, in their order (none given: all), none for ever, and which one failed."""

    def __init__(self, tests: list[str], took_s: dict[str, float], coverage: Any) -> None:
        self.place = {name: i for i, name in enumerate(tests)}
        self.took_s, self.coverage = took_s, coverage
        self.by = ""
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()

    def pytest_collection_finish(self, session: Any) -> None:
        if self.place:
            items = [item for item in session.items if item.nodeid in self.place]
            session.items[:] = sorted(items, key=lambda item: self.place[item.nodeid])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        signal.setitimer(signal.ITIMER_REAL, WAITED_SECONDS)
        if self.coverage is None:
            signal.setitimer(signal.ITIMER_PROF, max(SECONDS, SLOWER * self.took_s.get(nodeid, 0.0)))
        self.by = nodeid  # if the process ends now
        if self.coverage is not None:
            self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.by = report.nodeid
            self.failed.add(report.nodeid)

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.by = report.nodeid


def run(folder: str, question: dict[str, Any], end: int) -> int:
    """In the fork: pytest's exit status; what else there is to say goes into the pipe `end`."""
    import pytest

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.dont_write_bytecode = question["code"] is not None
    silence = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(silence, stream)
    coverage = None
    if question["code"] is None:
        from coverage import Coverage  # type: ignore[import-not-found,unused-ignore]

        room = Path(folder).relative_to("tests")  # tests mirror the rooms
        places = (Path.cwd() / room, Path.cwd() / "src" / "thinwire" / room)
        coverage = Coverage(data_file=None, include=[f"{place}/*" for place in places], omit=["*/tests/*"])
        coverage.start()
    order = Order(question["tests"], question.get("took_s", {}), coverage)

    def late(*_: Any) -> None:
        os.write(end, json.dumps({"outcome": "timeout", "by": order.by}).encode())
        os._exit(0)

    for kind in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(kind, late)
    options = [*([] if coverage else ["-x"]), "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler"]
    status = int(pytest.main([*options, folder], plugins=[order]))
    for clock in (signal.ITIMER_REAL, signal.ITIMER_PROF):
        signal.setitimer(clock, 0.0)
    found: dict[str, Any] = {"outcome": {0: "survived", 1: "killed", 2: "killed"}.get(status, f"pytest: {status}")}
    found["by"] = "" if status == 0 else order.by
    if coverage is not None:
        coverage.stop()
        data = coverage.get_data()
        lines = {str(Path(name).resolve().relative_to(Path.cwd())): data.contexts_by_lineno(name)
                 for name in data.measured_files()}  # fmt: skip
        found |= {"lines": lines, "seconds": order.seconds, "failed": sorted(order.failed)}
    with os.fdopen(end, "w") as pipe:
        json.dump(found, pipe)
    return 0


def answer(folder: str, question: dict[str, Any]) -> dict[str, Any]:
    """Put the mutant in place, fork, wait, take it away."""
    path, code = Path(question["path"]), question["code"]
    original, stamp = path.read_bytes(), path.stat()
    if code is not None:
        path.write_text(code, "utf-8")
    begin, end = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            os.close(begin)
            status = 1
            try:
                os.setsid()
                status = run(folder, question, end)
            finally:
                os._exit(status)
        os.close(end)
        with os.fdopen(begin) as pipe:
            said = pipe.read()
        _, status = os.waitpid(pid, 0)
    finally:
        path.write_bytes(original)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    found: dict[str, Any] = json.loads(said) if said else {"outcome": "killed", "by": f"the process ended: {status}"}
    return found


def main(folder: str, *names: str) -> None:
    """Answer until stdin ends."""
    warm("pytest", "hypothesis.strategies", *names)
    from hypothesis import Phase, settings

    settings.register_profile(
        "mutants", derandomize=True, deadline=None, database=None, phases=(Phase.explicit, Phase.generate)
    )
    for line in sys.stdin:
        print(json.dumps(answer(folder, json.loads(line))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
