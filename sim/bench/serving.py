"""How fast a serving simulation is, and how it grows: `make bench`, or `python -m thinwire.sim.bench.serving --full`.

The yardstick is an hour of 1,000 requests a second over 512 GPUs, 64 replicas of eight H100 that serve Llama-3-70B:
asked for in under ten minutes on one core. `--full` runs that hour; without it a minute stands in, since time and
memory grow as the table shows.
"""

import argparse
import json
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from thinwire.sim.bench.prediction import simpy_event_s
from thinwire.sim.serving.arrivals import Drawn, LogNormal
from thinwire.sim.serving.question import Deployment
from thinwire.sim.serving.serve import Paces, serve
from thinwire.sim.serving.statistics import Slo

ASKED_S = 600.0  # for the hour
HOUR_S = 3600.0
PROMPT, OUTPUT = LogNormal(512, 1.0, 8192), LogNormal(128, 1.0, 2048)


@dataclass(frozen=True, slots=True)
class Row:
    """One run."""

    rate_per_s: float
    replicas: int
    simulated_s: float
    requests: int
    iterations: int
    events: int
    wall_s: float
    cpu_s: float
    peak_rss_mb: float  # of the process so far: it stays where memory is flat
    utilisation: float
    ttft_p99_ms: float
    tpot_p50_ms: float

    @property
    def us_per_request(self) -> float:
        """CPU time of a request, its share of the iterations included."""
        return self.cpu_s / self.requests * 1e6

    @property
    def hour_s(self) -> float:
        """CPU time of an hour at this pace."""
        return self.cpu_s * HOUR_S / self.simulated_s


def run(rate_per_s: float, replicas: int, seconds: float, scheme: str = "bf16", paces: Paces | None = None) -> Row:
    """One run, set-up of the durations included unless `paces` has done it."""
    deployment = Deployment(model="llama-3-70b", cluster="8xh100-nvlink", tp=8, replicas=replicas, scheme=scheme)
    begin, spent = time.perf_counter(), time.process_time()
    found = serve(deployment, Drawn(rate_per_s, PROMPT, OUTPUT), seconds, Slo(0.5, 0.05), paces=paces).run
    wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - spent
    return Row(
        rate_per_s,
        replicas,
        seconds,
        found.arrived,
        found.iterations,
        found.events,
        wall_s,
        cpu_s,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        found.utilisation,
        found.ttft.percentiles[0.99].value * 1e3,
        found.tpot.percentiles[0.5].value * 1e3,
    )


def measure(seconds: float, full: bool) -> list[Row]:
    """The first row warms the tables of durations; then longer runs, fewer and more replicas, another scheme."""
    deployment = Deployment(model="llama-3-70b", cluster="8xh100-nvlink", tp=8)
    paces = Paces(deployment)
    rows = [run(1000, 64, seconds / 4, paces=paces)]
    rows += [run(1000, 64, seconds * share, paces=paces) for share in (0.5, 1)]
    rows += [run(62.5, 4, seconds, paces=paces), run(250, 16, seconds, paces=paces), run(500, 64, seconds, paces=paces)]
    rows.append(run(1000, 64, seconds / 4, "flash-int4"))
    return [*rows, run(1000, 64, HOUR_S, paces=paces)] if full else rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of traffic in the longest of the short runs")
    parser.add_argument("--full", action="store_true", help="the whole hour too")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(arguments)
    event_s = simpy_event_s()
    rows = measure(options.seconds, options.full)
    if options.json:
        fields = [{**asdict(row), "us_per_request": row.us_per_request, "hour_s": row.hour_s} for row in rows]
        print(json.dumps({"simpy_event_s": event_s, "rows": fields}, indent=1))
        return
    table = Table(
        "requests/s", "replicas", "simulated s", "requests", "iterations", "events", "wall s", "CPU s", "us a request",
        f"an hour, CPU s ({ASKED_S:.0f} asked)", "peak MB", "busy", box=None,
    )  # fmt: skip
    for r in rows:
        asked = "" if r.hour_s <= ASKED_S else " MISSED"
        table.add_row(
            f"{r.rate_per_s:g}", str(r.replicas), f"{r.simulated_s:g}", str(r.requests), str(r.iterations),
            str(r.events), f"{r.wall_s:.2f}", f"{r.cpu_s:.2f}", f"{r.us_per_request:.0f}", f"{r.hour_s:.0f}{asked}",
            f"{r.peak_rss_mb:.0f}", f"{r.utilisation:.0%}",
        )  # fmt: skip
    console = Console(width=140)
    console.print(f"one SimPy event on this machine, now: {event_s * 1e6:.2f} us")
    console.print(table)


if __name__ == "__main__":
    main()
