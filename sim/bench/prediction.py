"""How fast the simulator is: `make bench`. Wall times of this machine, and how they grow.

Machines differ and are shared, so every run also times plain SimPy events; the last column gives each time in them.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import simpy
from rich.console import Console
from rich.table import Table

from thinwire.reference.catalog import scheme
from thinwire.reference.families.config import load_model
from thinwire.sim import api
from thinwire.sim.choices import Weights
from thinwire.sim.costs.shipped import load_profile
from thinwire.sim.predict import predict
from thinwire.sim.question import Question
from thinwire.sim.workload import Prompt
from thinwire.topologies.cluster import Cluster
from thinwire.topologies.load import load_cluster

PROMPT = Prompt(batch=1, input_tokens=4096)
SWEEP = tuple(
    product(
        ("llama-3-8b", "llama-3-70b"),
        ("8xl40s-pcie", "8xh100-nvlink"),
        ("bf16", "flash-int8", "flash-int4", "mxfp4", "flash-int4+iso"),
        (128, 256, 512, 1024, 2048),
        (1, 2, 3, 4, 5, 6, 7, 8, 12, 16),
    )
)  # 1,000 predictions, no two alike


MIXTURES: dict[str, dict[str, Any]] = {
    "bf16": {},
    "flash-int4": {},
    "flash-int4+a2a-int4": {"expert_exchange": "all-to-all"},
    "a2a-int4": {"attention": "dp", "expert_exchange": "all-to-all"},
    "deepep-fp8": {"attention": "dp"},
}


@dataclass(frozen=True, slots=True)
class Timing:
    """Median and fastest of some runs, seconds; `bound_s` is what the issue asked for, if anything."""

    name: str
    median_s: float
    fastest_s: float
    bound_s: float | None = None


def timed(name: str, action: Callable[[], object], runs: int, bound_s: float | None = None) -> Timing:
    """Run once unmeasured, then `runs` times."""
    action()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return Timing(name, median(seconds), min(seconds), bound_s)


def simpy_event_s(events: int = 100_000) -> float:
    """One timeout of one process, the simplest thing SimPy does."""
    env = simpy.Environment()

    def ticks() -> Any:
        for _ in range(events):
            yield env.timeout(1.0)

    env.process(ticks())
    start = time.perf_counter()
    env.run()
    return (time.perf_counter() - start) / events


def one(cluster: Cluster, name: str, folded: bool, layers: int = 80) -> Callable[[], object]:
    """A prediction of Llama-3-70B, catalog look-ups done."""
    model = load_model("llama-3-70b").with_layers(layers)
    profile, chosen = load_profile(cluster), scheme(name)
    return lambda: predict(model, cluster, chosen, PROMPT, profile, folded=folded)


def mixture(name: str, **how: Any) -> Callable[[], object]:
    """A prediction of DeepSeek-V3, 61 layers, on two nodes of eight H100, catalog look-ups done."""
    question = Question("deepseek-v3", "2x8xh100-ib", name, batch=16, input_tokens=4096, **how)
    placed, prompt, chosen = api.place(question), api.prompt_of(question), scheme(name)
    return lambda: predict(placed.model, placed.cluster, chosen, prompt, placed.profile, sharing=placed.sharing)


def h100_nodes(nodes: int) -> Cluster:
    """The catalog's two-node machine with more nodes."""
    text = (files("thinwire.topologies") / "machines" / "2x8xh100-ib.toml").read_text()
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{nodes}x8xh100-ib.toml"
        path.write_text(text.replace("\nnodes = 2\n", f"\nnodes = {nodes}\n"))
        return load_cluster(str(path))


def point(row: tuple[str, str, str, int, int]) -> float:
    """One point of the sweep."""
    model, cluster, name, tokens, batch = row
    weights: Weights = "fp8" if model == "llama-3-70b" else "bf16"
    return api.predict(model, cluster, name, 8, batch, tokens, weights=weights).ttft_s


def sweep(workers: int) -> None:
    """1,000 different predictions on local processes."""
    with ProcessPoolExecutor(workers) as pool:
        if sum(1 for _ in pool.map(point, SWEEP, chunksize=25)) != len(SWEEP):
            raise RuntimeError("the sweep lost points")


IMPORTS = "import numpy, networkx, simpy, pydantic"
ASKED = ("--model", "llama-3-70b", "--cluster", "8xh100-nvlink", "--scheme", "flash-int4", "--tp", "8")


def start_up(runs: int = 10) -> list[Timing]:
    """The command line as a shell starts it, beside imports that it is held against; in turn, so that all of them meet
    the same machine.
    """
    python, program = sys.executable, str(Path(sys.executable).with_name("thinwire"))
    shown = {
        f'python -c "{IMPORTS}"': ([python, "-c", IMPORTS], None),
        "thinwire --help": ([program, "--help"], 0.25),
        "thinwire predict --json": ([program, "predict", *ASKED, "--json"], 0.4),
        "thinwire predict, the table": ([program, "predict", *ASKED], None),
    }
    seconds: dict[str, list[float]] = {name: [] for name in shown}
    for turn in range(runs + 1):  # the first one fills caches
        for name, (command, _) in shown.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return [Timing(name, median(seconds[name]), min(seconds[name]), bound) for name, (_, bound) in shown.items()]


def measure(runs: int) -> list[Timing]:
    """Every row of the table."""
    h100, l40s = load_cluster("8xh100-nvlink"), load_cluster("8xl40s-pcie")
    rows = start_up()
    for cluster, name in product((h100, l40s), ("bf16", "bf16-ring", "flash-int4", "flash-int4+iso", "mxfp4")):
        what = f"Llama-3-70B TP8, {cluster.name}, {name}"
        rows.append(timed(f"{what}, event by event", one(cluster, name, False), runs, 0.5))
        rows.append(timed(f"{what}, folded", one(cluster, name, True), runs, 0.010))
    for name, how in MIXTURES.items():
        what = f"DeepSeek-V3 on 2x8xh100-ib, {name}, {', '.join(how.values()) or 'tp'}, folded"
        rows.append(timed(what, mixture(name, **how), runs, 0.030))
    rows.append(timed(f"sweep of {len(SWEEP)} predictions, one process", lambda: sweep(1), 1))
    rows.append(timed(f"sweep of {len(SWEEP)} predictions, two processes", lambda: sweep(2), 1, 20.0))
    for layers in (20, 40, 80, 160):
        rows.append(
            timed(f"{layers} layers, TP8, flash-int4, event by event", one(h100, "flash-int4", False, layers), runs)
        )
        rows.append(timed(f"{layers} layers, TP8, flash-int4, folded", one(h100, "flash-int4", True, layers), runs))
    for tp in (2, 4, 8):
        rows.append(timed(f"TP{tp}, flash-int4, event by event", one(h100.take(tp), "flash-int4", False), runs))
    for nodes in (2, 4, 8):
        cluster = h100_nodes(nodes)
        bound_s = 5.0 if nodes == 8 else None
        for name in ("bf16", "flash-int4", "flash2-int4-hier"):
            what = f"TP{8 * nodes} over {nodes} nodes, {name}"
            rows.append(timed(f"{what}, event by event", one(cluster, name, False), 1, bound_s))
            rows.append(timed(f"{what}, folded", one(cluster, name, True), 1))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="runs of each row; medians are reported")
    parser.add_argument("--start-up", action="store_true", help="only how the command line starts")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(arguments)
    event_s = simpy_event_s()
    rows = start_up() if options.start_up else measure(options.runs)
    if options.json:
        fields = [
            {"name": r.name, "median_s": r.median_s, "fastest_s": r.fastest_s, "bound_s": r.bound_s} for r in rows
        ]
        print(json.dumps({"simpy_event_s": event_s, "rows": fields}, indent=1))
        return
    table = Table("what", "median ms", "fastest ms", "asked ms", "SimPy events", box=None)
    for r in rows:
        bound = "" if r.bound_s is None else f"{r.bound_s * 1e3:.0f}{'' if r.median_s <= r.bound_s else ' MISSED'}"
        table.add_row(
            r.name, f"{r.median_s * 1e3:.1f}", f"{r.fastest_s * 1e3:.1f}", bound, f"{r.median_s / event_s:.0f}"
        )
    console = Console(width=120)
    console.print(f"one SimPy event on this machine, now: {event_s * 1e6:.2f} us")
    console.print(table)


if __name__ == "__main__":
    main()
