"""`make peers`: thinwire and two peers on the same published rows, each peer in an environment of its own.

    python -m thinwire.validation.peers.peers            # install the peers, ask them, write raw/peers.json, report
    python -m thinwire.validation.peers.peers --report   # the report alone, from raw/peers.json: no peers, no network

Peers run at the calibration they ship with. Their answers and all times come from the raw file; thinwire's predictions
are made anew for each report, so that it says what the code says. Environments lie in ~/.cache/thinwire/peers, or under
$XDG_CACHE_HOME, and are used again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy, as in compare.py

from thinwire.reference.quality.downloads import cache_folder
from thinwire.validation.campaign.campaign import processor
from thinwire.validation.peers import rows as peer_rows
from thinwire.validation.peers.counting import PEERS, THINWIRE, Head, document
from thinwire.validation.peers.report import markdown

HERE = Path(__file__).resolve().parent
RAW, REPORTS = HERE.parent / "raw" / "peers.json", HERE.parent / "reports"
REQUIREMENTS = {"aiconfigurator": "aiconfigurator==0.12.0", "genz": "genz-llm==0.0.16"}
KIND = "thinwire peers 1"
TIMED_ROUNDS = 5  # of all prefills, after all rows were asked once
DIGITS = 6  # of a peer's seconds

assert tuple(REQUIREMENTS) == PEERS


# --- environments ---


def environment(peer: str, folder: Path) -> Path:
    """The interpreter of a peer's virtual environment, which is made where there is none.

    Raises ValueError where pip cannot install the package.
    """
    requirement = REQUIREMENTS[peer]
    place = folder / f"{requirement.replace('==', '-')}-py{sys.version_info.major}.{sys.version_info.minor}"
    python, done = place / "bin" / "python", place / "installed"
    if done.exists():
        return python
    print(f"installing {requirement} into {place}", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(place)], f"cannot make the environment {place}")
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", requirement]
    run(install, f"cannot install {requirement} (is a package registry within reach?)")
    done.touch()
    return python


def run(command: Sequence[str], complaint: str) -> None:
    """Run a command; ValueError with its last words where it fails."""
    try:
        ran = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f"{complaint}: {error}") from None
    if ran.returncode:
        said = "\n".join([line for line in ran.stderr.splitlines() if not line.startswith("WARNING")][-5:])
        raise ValueError(f"{complaint}: {' '.join(command)} ended with {ran.returncode}:\n{said}")


def commands(folder: Path) -> dict[str, list[str]]:
    """How each tool's worker is started. Isolated: a peer sees neither thinwire nor the folder of its script."""
    found = {peer: [str(environment(peer, folder)), "-I", str(HERE / f"{peer}.py")] for peer in PEERS}
    return {THINWIRE: [sys.executable, "-m", "thinwire.validation.peers.ours"], **found}


# --- asking ---


@dataclass
class Worker:
    """A tool's process: lines in, lines out. `start_s`: wall time until it has imported what it needs."""

    name: str
    process: subprocess.Popen[str]
    start_s: float
    facts: Mapping[str, Any]

    @classmethod
    def start(cls, name: str, command: Sequence[str], log: Path) -> Worker:
        """Start it and wait until it is ready."""
        begin = time.perf_counter()
        with log.open("a", encoding="utf-8") as noise:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=noise, text=True, bufsize=1
            )
        worker = cls(name, process, 0.0, {})
        worker.facts = worker._line(log)["facts"]
        worker.start_s = time.perf_counter() - begin
        return worker

    def _line(self, log: Path | None = None) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            where = f"; see {log}" if log else ""
            raise ValueError(f"the worker of {self.name} ended with {self.process.wait()}{where}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """One question, one answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        found = self._line()
        if found["id"] != question["id"]:
            raise ValueError(f"the worker of {self.name} answered {found['id']} to {question['id']}")
        return found

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def times(worker: Worker, questions: Sequence[Mapping[str, Any]], first_s: float) -> dict[str, Any]:
    """Start-up, first prediction, and the median of later ones by what was timed, seconds."""
    took: dict[str, list[float]] = {}
    for _ in range(TIMED_ROUNDS):
        for question in questions:
            for name, seconds in worker.ask({**question, "timed": True}).get("took_s", {}).items():
                took.setdefault(name, []).append(seconds)
    warm = {name: short(median(some)) for name, some in took.items()}
    return {"start_s": short(worker.start_s), "first_s": short(first_s), "warm_s": warm}


def short(seconds: float) -> float:
    """A few digits."""
    return float(f"{seconds:.{DIGITS}g}")


def said(found: Mapping[str, Any]) -> float | str:
    """Of an answer what the raw file keeps: seconds, or why there are none."""
    return short(found["seconds"]) if "seconds" in found else str(found["unsupported"])


@dataclass
class Asked:
    """Everything one tool said."""

    facts: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, float | str] = field(default_factory=dict)
    variants: dict[str, dict[str, float | str]] = field(default_factory=dict)


def ask(
    name: str,
    command: Sequence[str],
    rows: Iterable[peer_rows.Row],
    variants: Mapping[str, Sequence[Mapping[str, Any]]],
    log: Path,
) -> Asked:
    """Start a tool twice, the second time with everything in the disk's cache, and ask it for every row."""
    Worker.start(name, command, log).close()
    found, first_s, versions = Asked(), 0.0, {}
    wanted = [row for row in rows if name != THINWIRE or row.kind == "prefill"]
    with closing(Worker.start(name, command, log)) as worker:
        for number, row in enumerate(wanted):
            answer = worker.ask(row.question)
            if number == 0:
                first_s = answer.get("took_s", {}).get("call", 0.0)
            if "version" in answer:
                versions[f"{row.question['backend']} on {row.question['gpu']}"] = answer["version"]
            if name != THINWIRE:
                found.answers[row.id] = said(answer)
        for what, questions in variants.items():
            found.variants[what] = {question["id"]: said(worker.ask(question)) for question in questions}
        prefills = [row.question for row in wanted if row.kind == "prefill"]
        found.facts = {**worker.facts, **times(worker, prefills, first_s)}
    if versions:
        found.facts["backends"] = versions
    return found


def measure(folder: Path) -> dict[str, Any]:
    """The raw file."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = peer_rows.every_row()
    started = commands(folder)
    tools = {}
    for name, command in started.items():
        print(f"asking {name}", file=sys.stderr)
        variants = peer_rows.variants() if name == "aiconfigurator" else {}
        tools[name] = ask(name, command, rows, variants, folder / f"{name}.log")
    return {
        "kind": KIND,
        "how": "make peers",
        "machine": {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        "tools": {name: tool.facts for name, tool in tools.items()},
        "answers": {row.id: [tools[peer].answers[row.id] for peer in PEERS] for row in rows},
        "variants": tools["aiconfigurator"].variants,
    }


# --- files ---


def text_of(raw: Mapping[str, Any]) -> str:
    """The raw file's text: an answer a line."""
    parts = []
    for key, value in raw.items():
        if key in ("answers", "variants", "tools"):
            lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in value.items())
            parts.append(f" {json.dumps(key)}: {{\n{lines}\n }}")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def read(path: Path) -> dict[str, Any]:
    """The raw file; ValueError for one that is none, or that lacks rows of today."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the peers' answers in {path}: {error}; run `make peers`") from None
    if raw.get("kind") != KIND:
        raise ValueError(f"{path} holds no answers of peers: kind={raw.get('kind')!r}, expected {KIND!r}")
    missing = [row.id for row in peer_rows.every_row() if row.id not in raw["answers"]]
    if missing:
        raise ValueError(f"{path} lacks answers to {len(missing)} rows, {missing[0]} first; run `make peers`")
    return raw


def heads(raw: Mapping[str, Any]) -> list[Head]:
    """Rows of today with the peers' answers."""
    return [Head(row, dict(zip(PEERS, raw["answers"][row.id], strict=True))) for row in peer_rows.every_row()]


def write(raw: Mapping[str, Any], reports: Path) -> None:
    """The report and its twin."""
    found = heads(raw)
    reports.mkdir(exist_ok=True)
    (reports / "peers.md").write_text(markdown(found, raw), "utf-8")
    (reports / "peers.json").write_text(json.dumps(document(found, raw), indent=1) + "\n", "utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 where peers cannot be installed or started."""

    def report(raw: Path, reports: Path) -> str:
        write(read(raw), reports)
        return f"{reports / 'peers.md'} and its twin peers.json"

    return program(__doc__, RAW, measure, report, arguments)


def program(
    about: str | None,
    raw: Path,
    ask: Callable[[Path], Mapping[str, Any]],
    report: Callable[[Path, Path], str],
    arguments: Sequence[str] | None,
) -> int:
    """A command that asks peers and writes a report. about: its help. raw: where answers lie unless told. ask: answers,
    given the environments' folder. report: writes from the raw file into a folder, and says what. Exit status as
    `main`.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", action="store_true", help="from the raw file, without asking the peers")
    parser.add_argument("--raw", type=Path, default=raw, help="the raw file")
    parser.add_argument("--reports", type=Path, default=REPORTS, help="folder of the report")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "peers", help="of the environments")
    given = parser.parse_args(arguments)
    try:
        if not given.report:
            given.raw.write_text(text_of(ask(given.folder)), "utf-8")
        written = report(given.raw, given.reports)
    except ValueError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    print(f"written: {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
