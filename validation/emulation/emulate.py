"""`make emulate`: predict tensor-parallel prefills on links of set rate and delay, then really run them there.

Each case calibrates (what a rank computes, what codecs take, what gloo makes of equal links, at other sizes than those
that follow), predicts with the simulator's main path, then measures: runs of all schemes in turn, round after round.
Results go to one JSON file after every case, and a campaign run again goes on where it stopped. Exit status: 0, 1 where
a figure is beyond its tolerance, 2 where this machine cannot do it. docs/decisions/013-emulation.md: what was found.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from thinwire.reference.catalog import scheme as find_scheme
from thinwire.reference.core.architecture import ModelConfig
from thinwire.reference.core.schedule import build
from thinwire.reference.families.config import parse_config
from thinwire.sim.costs.profile import Profile
from thinwire.sim.sweeps.sweep import build as code
from thinwire.topologies.cluster import Cluster
from thinwire.validation.campaign.campaign import processor
from thinwire.validation.emulation import cases as emulate_cases
from thinwire.validation.emulation import report as emulate_report
from thinwire.validation.emulation.cases import Case, Run
from thinwire.validation.emulation.fit import choose, codec_kernels, pass_segments, waits, waits_of, wire
from thinwire.validation.emulation.machine import (
    CONFIG,
    TOKENS,
    Wire,
    calibrated,
    cluster_of,
    predicted_bytes,
    predicted_s,
    programs,
)
from thinwire.validation.emulation.namespaces import EmulationError, Links, Star, missing

RAW = Path(__file__).resolve().parents[1] / "raw"
REST_S = 0.08  # before each run: a core's ordinary tasks need 50 ms of every second, or the kernel takes them
EXCHANGED = (24576, 92160, 184320, 327680)  # values of calibrated exchanges; those predicted have 262144
EXCHANGES, PASSES, CODEC_REPEATS = 7, 7, 7
CODEC_VALUES = (98304, 163840)  # values of calibrated codec kernels; those predicted have 131072

Document = dict[str, Any]


class Bench:
    """A star of ranks for a mode, and what has been calibrated on it."""

    def __init__(self, star: Star, model: ModelConfig, real: bool, folder: Path) -> None:
        self.star, self.model, self.real, self.folder = star, model, real, folder
        self._wires: dict[tuple[float, float], dict[str, Wire]] = {}
        if real:
            star.ask_all({"do": "model", "config": CONFIG, "tokens": TOKENS})

    def case(self, case: Case, rounds: int) -> Document:
        """Calibrate, predict, measure: the document of one case."""
        star, links = self.star, case.links
        self.star.set_links(case.calibrated_on)
        calibration: Document = {"wires": {name: asdict(found) for name, found in self.wires(case).items()}}
        if self.real:
            calibration |= self.compute()
        cluster = cluster_of(links, case.ranks, self.folder)
        profiles = {of: calibrated(calibration, of, case.ranks) for of in ("median", "min")}
        rows: list[Document] = []
        commands = []
        for run in case.runs:
            rows.append({"run": run.name, **prediction(self.model, cluster, run, profiles)})
            if self.real:
                told: list[Document] = [{"do": "prefill", "scheme": run.scheme}] * case.ranks
            else:
                whole = programs(self.model, cluster, run.scheme, profiles["median"], run.slow_ranks)
                told = [{"do": "paced", "program": program} for program in whole]
            commands.append(told)
        star.set_links(links)
        measured = self.measure(commands, rounds)
        for row, (seconds_, sent_) in zip(rows, measured, strict=True):
            row |= {"measured_s": seconds_, "measured_bytes": sent_}
        return {
            "mode": case.mode, "ranks": case.ranks, "links": asdict(links), "gated": case.gated, "fifo": star.fifo,
            "overshoot_s": star.overshoot_s, "calibration": calibration, "rows": rows,
        }  # fmt: skip

    def measure(self, commands: Sequence[Sequence[Document]], rounds: int) -> list[tuple[list[float], list[int]]]:
        """(seconds of each round, bytes each rank sent in one) of each run; rounds go through them back and forth."""
        found: list[tuple[list[float], list[int]]] = [([], []) for _ in commands]
        for number in range(rounds + 1):
            order = range(len(commands)) if number % 2 else reversed(range(len(commands)))
            for run in order:
                seconds, replies = self.star.time(commands[run], REST_S)
                if number:  # the first round is for connections and caches
                    found[run][0].append(seconds)
                else:
                    found[run][1].extend(reply["sent"] for reply in replies)
        return found

    def wires(self, case: Case) -> dict[str, Wire]:
        """What gloo makes of equal links of this rate and delay; exchanged once for all cases that share them."""
        links = case.calibrated_on
        key = links.rate_bytes_per_s, links.delay_s
        if key not in self._wires:
            cluster = cluster_of(links, case.ranks, self.folder)
            self._wires[key] = {
                collective: wire(cluster, f"{collective}:bf16", self.exchanges(f"{collective}:bf16", case.ranks))
                for collective in ("ring", "two_step")
            }
        return self._wires[key]

    def exchanges(self, scheme: str, ranks: int) -> list[tuple[int, float]]:
        """(values, median seconds) of collectives without codecs, the sleeps in their place taken off."""
        rows = []
        for numel in EXCHANGED:
            schedule = build(find_scheme(scheme), ranks, numel)
            program = [["exchange", scheme, numel, "all_reduce", None, waits_of(schedule)]]
            commands: list[Document] = [{"do": "paced", "program": program}] * ranks
            times = [self.star.time(commands)[0] for _ in range(EXCHANGES)]
            rows.append((numel, median(times) - waits(schedule)))
        return rows

    def compute(self) -> Document:
        """Segments of forward passes with the collectives left out, and codec kernels; on all ranks at once."""
        found = []
        for _ in range(PASSES):
            command = {"do": "prefill", "scheme": emulate_cases.BASELINE, "absent": True}
            _, replies = self.star.time([command] * self.star.ranks, REST_S)
            found.append(pass_segments(replies))
        middle, least = choose(found[1:], self.model.num_layers)
        command = {"do": "codecs", "codecs": ["bf16", "int8", "int4"], "values": CODEC_VALUES}
        replies = self.star.ask_all({**command, "repeats": CODEC_REPEATS, "at": time.monotonic() + REST_S})
        rows = [row for reply in replies for row in reply["rows"]]
        codecs = {"median": codec_kernels(rows), "min": codec_kernels(rows, fastest=True)}
        return {
            "segments": {"median": asdict(middle), "min": asdict(least)},
            "codecs": {of: [asdict(kernel) for kernel in kernels] for of, kernels in codecs.items()},
        }


def again(document: Document, folder: Path) -> Document:
    """The same campaign with predictions made anew from its link settings and calibrations."""
    model = parse_config(CONFIG, "emulated")
    cases = {}
    for name, case in document["cases"].items():
        links = links_from(case["links"])
        cluster = cluster_of(links, case["ranks"], folder)
        profiles = {of: calibrated(case["calibration"], of, case["ranks"]) for of in ("median", "min")}
        known = {run.name: run for run in runs_of(name)}
        rows = [{**row, **prediction(model, cluster, known[row["run"]], profiles)} for row in case["rows"]]
        cases[name] = {**case, "rows": rows}
    return {**document, "cases": cases}


def prediction(model: ModelConfig, cluster: Cluster, run: Run, profiles: Mapping[str, Profile]) -> Document:
    """What a run is predicted to take and to send."""
    return {
        "predicted_s": {of: predicted_s(model, cluster, run.scheme, p, run.slow_ranks) for of, p in profiles.items()},
        "predicted_bytes": predicted_bytes(model, cluster, run.scheme, profiles["median"]),
    }


def runs_of(case: str) -> tuple[Run, ...]:
    """The runs of a case of either campaign, by its name."""
    cases = (*emulate_cases.campaign(), *emulate_cases.smoke())
    return tuple(dict.fromkeys(run for found in cases if found.name == case for run in found.runs))


def links_from(found: Mapping[str, Any]) -> Links:
    """Link settings as they stand in a file."""
    islands = found["islands"]
    slow = {int(rank): factor for rank, factor in found["slow"].items()}
    return Links(**{**found, "slow": slow, "islands": islands and tuple(tuple(island) for island in islands)})


# ---- the campaign


def campaign(cases: Sequence[Case], rounds: int, document: Document, path: Path | None) -> None:
    """Run what is not done, a star for each mode and number of ranks, and write the document after every case."""
    model = parse_config(CONFIG, "emulated")
    begin = time.monotonic()
    groups = dict.fromkeys((case.mode, case.ranks) for case in cases)
    with tempfile.TemporaryDirectory(prefix="thinwire-emulate-") as folder:
        for mode, ranks in groups:
            todo = [c for c in cases if (c.mode, c.ranks) == (mode, ranks) and c.name not in document["cases"]]
            if not todo:
                continue
            _say(begin, f"{ranks} ranks, {mode}: {', '.join(case.name for case in todo)}")
            with Star(ranks, Path(folder)) as star:
                bench = Bench(star, model, mode == "real", Path(folder))
                for case in todo:
                    document["cases"][case.name] = bench.case(case, rounds)
                    if path is not None:
                        save(document, path)
                    _say(begin, emulate_report.one_line(case.name, document["cases"][case.name]))


def new_document(smoke: bool, rounds: int = 0) -> Document:
    """An empty campaign on this machine, by this code."""
    machine = {
        "processor": processor(), "cores": os.cpu_count(), "kernel": platform.release(),
        "python": platform.python_version(), "torch": version("torch"),
    }  # fmt: skip
    today = date.today().isoformat()
    return {
        "form": emulate_report.FORM, "smoke": smoke, "date": today, "machine": machine, "code": code(),
        "rounds": rounds, "cases": {},
    }  # fmt: skip


def save(document: Document, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    os.replace(beside, path)


def _say(begin: float, what: str) -> None:
    print(f"[{time.monotonic() - begin:4.0f} s] {what}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives the exit status."""
    parser = argparse.ArgumentParser(prog="make emulate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--smoke", action="store_true", help="a minute of it, as continuous integration does")
    parser.add_argument("--rounds", type=int, default=0, help="times each run is measured")
    parser.add_argument("--only", default="", help="cases whose names begin so")
    parser.add_argument("--fresh", action="store_true", help="measure anew what the file already has")
    parser.add_argument("--show", action="store_true", help="measure nothing, report what the file has")
    parser.add_argument("--out", type=Path, default=None, help="the JSON file; $OUT or validation/raw/ when left out")
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 0:
        parser.error(f"--rounds must be 1 or more, or 0 for as many as suit: {chosen.rounds}")
    cases = emulate_cases.smoke() if chosen.smoke else emulate_cases.campaign()
    wanted = [case for case in cases if case.name.startswith(chosen.only)]
    if not wanted:
        parser.error(f"--only: no case begins with {chosen.only!r}; there are {', '.join(case.name for case in cases)}")
    rounds = chosen.rounds or (4 if chosen.smoke else 6)
    try:
        path: Path = chosen.out or default_path(chosen.smoke, chosen.show)
        if chosen.show and not path.exists():
            raise ValueError(f"there is no campaign to show: {path}")
        new = new_document(chosen.smoke, rounds)
        document = emulate_report.load(path) if path.exists() and not chosen.fresh else new
        if not chosen.show:
            for key in ("machine", "smoke", "code", "rounds"):
                if document.get(key) != new[key]:
                    raise ValueError(
                        f"{path} has {key} {document.get(key)}, here it is {new[key]}; --fresh starts anew"
                    )
            lacks = missing()
            if lacks:
                print(f"make emulate: this machine {lacks}", file=sys.stderr)
                return 2
            for each in (signal.SIGTERM, signal.SIGHUP):  # so that ranks and switch are ended in order
                signal.signal(each, lambda number, _: sys.exit(128 + number))
            save(document, path)  # what cannot be written shows before any work
            campaign(wanted, rounds, document, path)
    except (EmulationError, OSError, ValueError) as error:
        print(f"make emulate: {error}", file=sys.stderr)
        return 2
    figures = emulate_report.figures(document)
    print("\n".join([*emulate_report.table(document), "", *(figure.text() for figure in figures)]))
    return 1 if any(figure.beyond for figure in figures) else 0


def default_path(smoke: bool, show: bool = False) -> Path:
    """In the folder $OUT, or where measurements are kept: the newest file, if it is to be shown or was not finished;
    else today's.
    """
    folder = Path(os.environ["OUT"]) if os.environ.get("OUT") else RAW
    name = f"emulate-{'smoke-' if smoke else ''}"
    there = sorted(folder.glob(f"{name}2*.json"))
    if there and (show or not emulate_report.complete(emulate_report.load(there[-1]))):
        return there[-1]
    return folder / f"{name}{date.today().isoformat()}.json"


if __name__ == "__main__":
    sys.exit(main())
